from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mastra_nb.errors import MastraError, NotFound, UsageError
from mastra_nb.notebook._templates import MAX_ROWS, render, text_of


def test_expressions_are_python_like() -> None:
    values = {"city": "Oslo", "d": {"k": [1, 2]}, "_x": 1}
    assert (
        render("{{ city }}/{{ d.k[1] }}/{{ city | upper }}/{{ len(d) }}", values) == "Oslo/2/OSLO/1"
    )
    assert render("{{ '{{' }} {{ 1 if city else 2 }}\n", values) == "{{ 1\n"


@given(st.text().filter(lambda t: "{{" not in t and "\r" not in t))
def test_every_other_brace_is_text(text: str) -> None:
    assert render(text, {}) == text
    if "}}" not in text and "\x00" not in text and not text.startswith("{") and text[-1:] != "{":
        assert render(text + "{{ 1 }}" + text, {}) == text + "1" + text


def test_what_is_inserted_is_never_a_template() -> None:
    assert render("{{ a }}", {"a": "{{ b }} {% x %}"}) == "{{ b }} {% x %}"


def test_a_table_is_markdown() -> None:
    frame = pd.DataFrame({"city": ["Oslo", "a|b\nc"], "max_c": [8, 1.5]})
    assert text_of(frame) == "| city | max_c |\n| --- | --- |\n| Oslo | 8.0 |\n| a\\|b c | 1.5 |"
    assert text_of(frame.set_index("city")["max_c"]).splitlines()[0] == "| city | max_c |"
    assert text_of(frame.groupby("city").mean()).splitlines()[0] == "| city | max_c |"


def test_a_large_table_says_what_was_cut() -> None:
    frame = pd.DataFrame({f"c{i}": range(1000) for i in range(30)})
    text = text_of(frame)
    assert "the first 50 of 1,000 rows and the first 20 of 30 columns are shown" in text
    assert len(text.splitlines()) == MAX_ROWS + 4
    assert "x" * 200 + "…" in text_of(pd.DataFrame({"a": ["x" * 900]}))


def test_long_representations_are_cut_and_text_is_not() -> None:
    assert "cut: 128,890 characters" in text_of(list(range(20_000)))
    assert text_of("x" * 50_000) == "x" * 50_000


@pytest.mark.parametrize(
    ("template", "kind", "said", "hint"),
    [
        ("{{ citty }}", NotFound, '"citty"', '"city"'),
        ("{{ nothing }}", NotFound, '"nothing"', "city"),
        ("{{ city.uper() }}", UsageError, "uper", "upper"),
        ("{{ d.citty }}", UsageError, "citty", "city"),
        ("{{ d.city.x.y }}", UsageError, "x", "cell"),
        ("a\n{{ city", UsageError, "line 2", "{{ expression }}"),
        ("{{ city.__class__.__mro__ }}", UsageError, "refused", "variable"),
        ("{{ rows.append(1) }}", UsageError, "refused", "variable"),
        ("{{ 1 / 0 }}", UsageError, "ZeroDivisionError", "cell"),
        ("{{ city | nofilter }}", UsageError, "nofilter", "{{ expression }}"),
    ],
)
def test_a_failure_is_one_line_with_a_hint(
    template: str, kind: type[MastraError], said: str, hint: str
) -> None:
    with pytest.raises(kind) as caught:
        render(template, {"city": "Oslo", "d": {"city": "Oslo"}, "rows": [1]})
    assert said in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.code == "usage.template"
