from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mastra_nb.filters import (
    PII,
    PII_LONGEST,
    Held,
    Limited,
    Replacer,
    iban,
    luhn,
    normalized,
    patterns,
)

SECRETS = {
    "email": "ann.lee+x@mail.example.org",
    "credit-card": "4111 1111 1111 1111",
    "iban": "DE89 3704 0044 0532 0130 00",
    "ssn": "536-22-8726",
    "phone": "+47 22 12 34 56",
    "ip-address": "192.168.17.4",
    "api-key": "sk-proj-abcdefghijklmnop1234",
}


def replacer(longest: int = PII_LONGEST) -> Replacer:
    return Replacer(patterns(PII), lambda kind, _: f"[{kind}]", longest=longest)


def through(made: Replacer | Held | Limited, pieces: list[str]) -> str:
    return "".join([*map(made.feed, pieces), made.close()])


def cut(text: str, at: list[int]) -> list[str]:
    marks = [0, *sorted(min(a, len(text)) for a in at), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(marks)]


@pytest.mark.parametrize(("kind", "secret"), SECRETS.items())
def test_what_is_found(kind: str, secret: str) -> None:
    text = f"It is {secret}, you know."
    assert through(replacer(), [text]) == f"It is [{kind}], you know."


@pytest.mark.parametrize(
    "text",
    ["4111 1111 1111 1112", "DE88 3704 0044 0532 0130 00", "000-12-3456", "999.1.2.300", "v1.2.3",
     "at 10:20:30", "3.14159265358979", "a@b", "risk-free", "2024-05-13", "1,234,567"],
)  # fmt: skip
def test_what_is_not(text: str) -> None:
    assert through(replacer(), [text]) == text


_PIECE = st.sampled_from([*SECRETS.values(), " ", "\n", "word ", "x" * 40, ".", "sk-" + "a" * 400])


@settings(max_examples=120, deadline=None)
@given(st.lists(_PIECE, max_size=14).map("".join), st.lists(st.integers(0, 900), max_size=25))
def test_how_a_text_is_cut_changes_nothing(text: str, at: list[int]) -> None:
    for longest in (8, PII_LONGEST):
        assert through(replacer(longest), cut(text, at)) == through(replacer(longest), [text])
        assert through(replacer(longest), list(text)) == through(replacer(longest), [text])
    for made in (Held, lambda: Limited(37)):
        assert through(made(), cut(text, at)) == through(made(), [text])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 700), st.sampled_from(sorted(SECRETS)), st.integers(1, 9))
def test_no_secret_gets_through_letter_by_letter(before: int, kind: str, size: int) -> None:
    text = "la " * before + SECRETS[kind] + " la" * 300
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    out = through(replacer(), pieces)
    assert out == text.replace(SECRETS[kind], f"[{kind}]")


def test_what_is_longer_than_foreseen_is_swallowed_whole() -> None:
    text = "la " * 70 + "sk-" + "a1" * 900 + " and on"
    out = through(replacer(), list(text))
    assert "a1" not in out and out.endswith(" and on") and "[api-key]" in out


def test_what_is_held_back_is_bounded() -> None:
    made, text = replacer(), "word " * 1000
    assert len(text) - len(made.feed(text)) <= 2 * PII_LONGEST


def test_patterns_that_look_around() -> None:
    find = patterns({"x": re.compile(r"(?<=a)b(?=c)")})
    made = Replacer(find, lambda k, t: "-", longest=2)
    assert through(made, list("abcabcxbcabc")) == "a-ca-cxbca-c"


def test_check_digits() -> None:
    assert luhn("5500-0000-0000-0004") and not luhn("0000 0000 0000 0000") and not luhn("4111")
    assert iban("GB82WEST12345698765432") and not iban("GB82WEST12345698765433")


def test_normal_form() -> None:
    assert normalized("ｆｉｎｅ\u200b \u202eok\u0000\ufeff") == "fine ok"
    assert normalized("e\u0301", "NFC") == "é"
    assert normalized("👩\u200d🚀 می\u200cخواهم") == "👩\u200d🚀 می\u200cخواهم"
    assert normalized(" a  b\t c \n\n\n\n d ", collapse=True) == "a b c\n\nd"
    assert normalized("a\U000e0041\r\nb") == "a\nb"
