from __future__ import annotations

import time

import pandas as pd
import pytest

from mastra_nb.errors import ConfigError, SchemaError
from mastra_nb.rag.documents import Document
from tests.hostile import PAYLOADS, active


def test_front_matter_is_metadata_and_no_bomb() -> None:
    text = "---\ntitle: On owls\ndate: 2026-01-02\ntags: [a, b]\n_x: 1\nnested: {a: 1}\n---\nText."
    found = Document.from_markdown(text, "a.md")
    assert found.metadata == {"title": "On owls", "date": "2026-01-02", "tags": ["a", "b"]}
    bomb = "---\na: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n---\n"
    assert Document.from_markdown(bomb).metadata == {"a": ["x", "x"]}
    for broken in (
        "---\n: : :\n---\n",
        "---\n- a\n---\n",
        "---\nno end",
        "---\n!!python/name:os\n---\n",
    ):
        assert Document.from_markdown(broken).metadata == {}


def test_html_becomes_markdown_without_what_runs() -> None:
    page = (
        "<html><head><title>On &amp; off</title><style>a{}</style><script>x()</script></head><body>"
        "<nav>menu</nav><h2>Owls</h2><p>They <b>hunt</b>\n mice.<p hidden>not this"
        "</p><ul><li>one<li>two</ul><pre>a\n  b</pre><script>evil()</script></body>"
    )
    found = Document.from_html(page)
    assert found.metadata == {"title": "On & off"}
    assert "## Owls\n\nThey hunt mice." in found.text
    assert "- one\n- two" in found.text and "```\na\n  b\n```" in found.text
    assert not any(word in found.text for word in ("evil", "x()", "menu", "a{}", "not this"))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_page_breaks_the_reader(payload: str) -> None:
    Document.from_html(payload)
    Document.from_html(f"<p>before</p>{payload}<body><p>after</p>")


def test_json_is_indented_and_says_when_it_is_none() -> None:
    assert Document.from_json('{"a":[1,2]}').text == '{\n  "a": [\n    1,\n    2\n  ]\n}'
    for broken in ("{", "[" * 100_000, b"\xff"):
        with pytest.raises(SchemaError):
            Document.from_json(broken)


def test_a_table_gives_a_document_a_row() -> None:
    frame = pd.DataFrame({
        "body": ["owls", None], "more": ["hunt", "x"], "year": [2020, 2021],
        "at": pd.to_datetime(["2026-01-02", None]), "score": [float("nan"), 1.5],
    })  # fmt: skip
    one, two = Document.from_dataframe(frame, source="t")
    assert one.text == "body: owls\nmore: hunt" and two.text == "more: x"
    assert one.metadata == {"year": 2020, "at": "2026-01-02T00:00:00", "score": None}
    assert (one.source, two.metadata["score"], two.metadata["at"]) == ("t#0", 1.5, None)
    (named, _) = Document.from_dataframe(frame, text="body", metadata=["year"], id="more")
    assert (named.text, named.metadata, named.source) == ("owls", {"year": 2020}, "table#hunt")
    with pytest.raises(ConfigError, match='no column "nope"'):
        Document.from_dataframe(frame, text="nope")
    with pytest.raises(ConfigError, match="no column holds text"):
        Document.from_dataframe(frame[["year"]])


def test_a_document_is_checked_and_can_be_stored() -> None:
    with pytest.raises(SchemaError, match="begins with"):
        Document("x", metadata={"_source": 1})
    with pytest.raises(SchemaError, match="is a bytes"):
        Document(b"x")  # type: ignore[arg-type]
    odd = Document("a\ud800b", source="\udcff", metadata={"k": "\ud800", "n": float("nan")})
    assert odd.text == "a?b" and odd.digest == odd.digest
    assert Document("a").digest != Document("a", metadata={"x": 1}).digest


def test_titles_are_found_without_a_model() -> None:
    assert Document("intro\n\n# Owls\n", kind="markdown").title == "Owls"
    assert Document("x", metadata={"title": "T"}).title == "T"
    assert Document("# no markdown").title == ""


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_was_loaded_shows_nothing_active(payload: str) -> None:
    from markdown_it import MarkdownIt

    from mastra_nb.rag.loading import Failed, Loaded

    shown = Loaded(
        documents=(Document("x", source=payload, metadata={"title": payload}),),
        failed=(Failed(source=payload, why=payload),),
    )._repr_mimebundle_()["text/markdown"]
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(shown)
    assert active(str(page)) == []


@pytest.mark.parametrize(
    "piece",
    ["<a ", "<a b='", '<a b="', "<!--", "<![", "<![CDATA[", "</", "<", "</a b", "<script", "<div>",
     "<script>", "</script", "<p hidden>", "<svg>", "<title>", "&#", "&amp", "<pre>   "],
)  # fmt: skip
def test_no_page_takes_long(piece: str) -> None:
    """Each of them, a few times over, takes the standard library's parser minutes or is nothing."""
    began = time.process_time()
    Document.from_html(piece * 100_000)
    assert time.process_time() - began < 5


def test_html_as_browsers_read_it() -> None:
    for page, text in (
        ("a < b &lt;c&gt;", "a < b <c>"),
        ('<p title="a > b">x</p>', "x"),
        ("<p class='not hidden at all'>x</p>", "x"),
        ('<p aria-hidden="true">x</p>y', "y"),
        ("<p>a<!-- <p>b --> c", "a c"),
        ("<script>if (a</b) '<p>x</p>'</script>y", "y"),
        ("<SCRIPT>x</SCRIPT >y<svg><p>z</svg>", "y"),
        ("<table><tr><td>a<td>b<tr><td>c</table>", "| a | b\n| c"),
        ("x<!doctype html><?php y ?>", "x"),
        ("x<p", "x"),
    ):
        assert Document.from_html(page).text == text
