from __future__ import annotations

from mastra_nb.messages import Usage
from mastra_nb.rag.loading import Failed
from mastra_nb.rag.results import Hits, Ingested, Passage, snippet


def at(**fields: object) -> str:
    return Passage(id="1", score=1, text="t", source="a.md", **fields).citation  # type: ignore[arg-type]


def test_a_citation_says_where() -> None:
    assert at() == "a.md"
    assert at(line=1, last_line=1) == "a.md"
    assert at(line=4, last_line=4) == "a.md:4"
    assert at(line=1, last_line=4) == "a.md:1-4"
    assert at(line=1, last_line=4, place="page 2") == "a.md, page 2"


def test_a_snippet_is_where_the_words_are() -> None:
    text = "start " * 50 + "the owl\nhunts mice " + "end " * 50
    found = snippet(text, "which owls or hunts?", 60)
    assert "owl hunts mice" in found and found[0] == found[-1] == "…"
    assert snippet("short", "x") == "short"


def test_a_report_and_hits_show_themselves() -> None:
    report = Ingested(
        index="n", added=2, failed=(Failed(source="x", why="broken"),), chunks=5, embedded=3,
        usage=Usage(input=1200, cost=0.01), seconds=1.26, notes=("changed",),
    )  # fmt: skip
    shown = report._repr_mimebundle_()
    assert shown["text/plain"] == (
        "n: 2 added · 1 failed · 5 chunks (3 embedded) · 1,200 tokens · $0.0100 · 1.3 s"
    )
    assert "✗ x&#58; broken" in shown["text/markdown"] or "✗ x: broken" in shown["text/markdown"]
    assert "nothing found" in Hits(query="q")._repr_mimebundle_()["text/plain"]
    one = Hits(query="q", passages=(Passage(id="1", score=0.5, text="a\x1b[31mb", source="s"),))
    assert "\x1b" not in "".join(one._repr_mimebundle_().values())
    assert "| 0&#46;5 | " in one._repr_mimebundle_()["text/markdown"].replace("0.5", "0&#46;5")
