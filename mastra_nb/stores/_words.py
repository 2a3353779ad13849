"""Words of a text, for an index of words.

Scripts that are written without spaces (Han, Kana, Hangul) are cut into overlapping pairs of
characters, in the index and in the question: a tokenizer that splits at spaces would take a whole
sentence for one word.
"""

from __future__ import annotations

import re

_MOST = 64
_UNSPACED = re.compile(r"[぀-ヿ㐀-䶿一-鿿가-힯豈-﫿ｦ-ﾟ\U00020000-\U0003ffff]+")
_WORD = re.compile(r"\w+")
# Of a question with other words in it: they are in every text and cost the most.
_COMMON = frozenset(
    _WORD.findall(
        "a an and are as at be but by do does for from had has have how i if in into is it its me "
        "my not of on or our she he so that the their them then there they this to was we were "
        "what when where which who why will with you your"
    )
)


def indexed(text: str) -> str:
    """What is put into the index of words for `text`."""
    return _UNSPACED.sub(_pairs, text)


def _pairs(found: re.Match[str]) -> str:
    run = found[0]
    if len(run) == 1:
        return f" {run} "
    # The first characters alone too: a question may be one character.
    pairs = [run[i : i + 2] for i in range(len(run) - 1)]
    return f" {' '.join([*pairs, *run])} "


def asked(text: str) -> list[str]:
    """The words of a question, each once."""
    spaced = _UNSPACED.sub(_asked_pairs, text)
    words = [*dict.fromkeys(w.lower() for w in _WORD.findall(spaced))]
    rare = [w for w in words if w not in _COMMON]
    return (rare or words)[:_MOST]


def _asked_pairs(found: re.Match[str]) -> str:
    run = found[0]
    pairs = [run[i : i + 2] for i in range(len(run) - 1)] or [run]
    return f" {' '.join(pairs)} "
