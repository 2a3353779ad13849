from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mastra_nb.errors import ConfigError
from mastra_nb.rag.chunking import STRATEGIES, Chunking, Place, estimated_tokens, outline, split
from mastra_nb.rag.documents import Document

_PIECES = st.sampled_from(
    ["# One\n", "## Two\n", "\n\n", "\n", " ", "word", "A sentence. ", "```\n", "- item\n", "é😀",
     '{"a": [1, 2]}', "x" * 30, "def f():\n    pass\n", "\t", "\x0b", "。"]
)  # fmt: skip
TEXTS = st.lists(_PIECES, max_size=60).map("".join) | st.text(max_size=300)


@given(
    text=TEXTS,
    strategy=st.sampled_from(STRATEGIES),
    kind=st.sampled_from(["text", "markdown", "json", "python", "notebook"]),
    size=st.integers(1, 80),
    overlap=st.integers(0, 20),
)
def test_chunks_are_of_the_text_cover_it_and_keep_their_size(
    text: str, strategy: str, kind: str, size: int, overlap: int
) -> None:
    how = Chunking(strategy=strategy, max_size=size, overlap=min(overlap, size - 1))  # type: ignore[arg-type]
    chunks = split(text, kind=kind, chunking=how)
    covered = set[int]()
    for chunk in chunks:
        assert text[chunk.start : chunk.end] == chunk.text
        assert chunk.text.strip()
        measure = estimated_tokens if strategy == "token" else len
        assert measure(chunk.text) <= max(size, 1) or len(chunk.text) == 1
        covered.update(range(chunk.start, chunk.end))
        assert chunk.line == text.count("\n", 0, chunk.start) + 1
        assert chunk.last_line == text.count("\n", 0, chunk.end - 1) + 1
    assert all(text[i].isspace() for i in range(len(text)) if i not in covered)
    assert [c.start for c in chunks] == sorted(c.start for c in chunks)


@given(st.recursive(st.integers() | st.text(max_size=20), lambda x: st.lists(x) | st.dictionaries(
    st.text(max_size=5), x), max_leaves=30))  # fmt: skip
def test_json_is_cut_between_values(value: object) -> None:
    document = Document.from_json(json.dumps(value))
    chunks = document.chunk(max_size=40)
    assert all(len(c.text) <= 40 for c in chunks)
    assert "".join("".join(c.text.split()) for c in chunks) == "".join(document.text.split())


def test_headings_lead_to_a_chunk() -> None:
    text = "# A\n\n## B\n\nb b b.\n\n```\n# no heading\n```\n\n## C\n\nc c c.\n\n# D\n\nd."
    chunks = split(text, kind="markdown", chunking=Chunking(max_size=30))
    assert [c.headings for c in chunks] == [("A",), ("A", "B"), ("A", "B"), ("A", "C")]
    assert chunks[2].in_context.startswith("A > B\n\n```")


def test_keys_and_functions_are_headings_too() -> None:
    code = "class A:\n    def one(self):\n        pass\n\n\nasync def two():\n    pass\n"
    assert outline(code, "python") == [
        (0, 1, "class A"), (9, 2, "def one"), (43, 1, "def two")
    ]  # fmt: skip
    text = Document.from_json('{"a": {"b": [1, 2]}, "c": 3}').text
    assert [(level, title) for _, level, title in outline(text, "json")] == [(1, "a"), (2, "b")]


def test_a_place_is_that_of_the_chunks_start() -> None:
    places = (Place(0, "page", 1), Place(12, "page", 2))
    chunks = split("first page.\nsecond page.", places=places, chunking=Chunking(max_size=12))
    assert [c.place for c in chunks] == ["page 1", "page 2"]


def test_overlap_repeats_whole_sentences() -> None:
    text = "One is here. Two is here. Three is here. Four is here."
    how = Chunking(strategy="sentence", max_size=30, overlap=14)
    said = [c.text for c in split(text, chunking=how)]
    assert said[0] == "One is here. Two is here." and said[1].startswith("Two is here.")


@pytest.mark.parametrize("bad", [{"max_size": 0}, {"max_size": 5, "overlap": 5}, {"strategy": "x"}])
def test_what_cannot_be_cut_by_says_so(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Chunking(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "text",
    ["a" * 100_000, "(" * 100_000, "# " * 50_000, "```\n" * 25_000, "[" * 100_000, "> " * 50_000,
     "lorem ipsum dolor. " * 5_000, "\n" * 100_000],
    ids=lambda t: t[:4],
)  # fmt: skip
def test_a_giant_line_takes_no_time(strategy: str, text: str) -> None:
    began = time.process_time()
    how = Chunking(strategy=strategy)  # type: ignore[arg-type]
    for kind in ("markdown", "json"):
        assert sum(len(c.text) for c in split(text, kind=kind, chunking=how)) <= len(text)
    assert time.process_time() - began < 8
