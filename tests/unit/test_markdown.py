from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from nbconvert.filters import markdown2html

from mastra_nb import _markdown
from mastra_nb._escape import code, escape, fence, valid
from mastra_nb._markdown import safe_markdown
from tests.hostile import PAYLOADS, active

HOSTS = frozenset({"docs.example"})
_html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def commonmark(text: str) -> str:
    return str(_html.render(text))


def nbconvert(text: str) -> str:
    return str(markdown2html(text))


RENDERERS: tuple[Callable[[str], str], ...] = (commonmark, nbconvert)

SAMPLES = (
    "# One\n\nTwo **bold** *it* ***both*** ~~gone~~ `code` end\\\nhard  \nbreak",
    "Setext\n===\n\nAgain\n---\n\n***\n\n- - -\n",
    "- a\n- b\n  - c\n    1. d\n    2. e\n- f",
    "- a\n\n- b\n\n  para\n\n  ```py\n  x = 1\n\n  y\n  ```\n- c",
    "3. three\n4. four\n\n* star\n+ plus",
    "1) a\n2) b\n\n   - deep\n\n     > quote in list\n",
    "- [ ] open\n- [x] done\n",
    "> quote\n> - list\n>\n> ```\n> code\n> ```\n\nlazy\n> one\ntwo",
    "| a | b | c |\n|---|:-:|--:|\n| 1 | `x` | **y** |\n| \\| | | z |\n\nafter",
    "```python\nprint('<b>', \"`\" * 3)\n```\n\n~~~\ntilde\n~~~\n\n    indented <i>\n",
    "````md\n```\ninner\n```\n````",
    "[docs](https://docs.example/a_b?x=1&y=2#z) ![logo](https://docs.example/l.png) <me@x.org>",
    '[title](https://docs.example/ "A title") [ref][1] [rel](a/b.ipynb) [anchor](#top)\n\n'
    "[1]: https://docs.example/r",
    "snake_case_name, 2 * 3 * 4, a < b, c > d, R&D, AT&T, 50 %, #tag, a|b, x~y, [1], {x}",
    "1\\. not a list\n\n\\# not a heading\n\n\\- not an item\n\n+1 and -1, =, : colon",
    "C:\\Users\\me \\* \\_ \\` \\\\ &lt;tag&gt; &copy; &amp;lt;",
    "`a|b` ``x`y`` ` ``  `` ` `<div>` `[x](y)` `$HOME` `\\begin{x}`",
    "A line\nand **another\nline**\n\n\n\nEnd",
    "Überschrift – „Zitat“ … 日本語 🎉 עברית",
    "- \n- a\n-\n\n## \n\n### closed ###",
    "a*b*c _d_ __e__ f_g_h **i**j *k **l** m*",
)
MATH = (
    "$a_1 + b^2$ and $$\\int_0^1 x\\,dx$$ inline",
    "$$\\begin{pmatrix} a & b \\\\ c & d \\end{pmatrix}$$",
    "$\\alpha < \\beta$, $ x $, $x^*$ and $y^*$",
    "$$\nE = mc^2\n$$",
    "\\begin{align}\na &= b \\\\\nc &= d\n\\end{align}",
)


def visible(page: str) -> str:
    """What a reader sees: white space and the span around a literal `$` do not count."""
    page = re.sub(r"<span>([$\\])</span>", r"\1", page)
    return re.sub(r"\s+", " ", page).strip()


@pytest.mark.parametrize("text", SAMPLES)
def test_ordinary_markdown_renders_as_it_did(text: str) -> None:
    assert visible(commonmark(safe_markdown(text, hosts=HOSTS))) == visible(commonmark(text))


@pytest.mark.parametrize("text", [s for s in SAMPLES if "<div>" not in s and "lazy" not in s])
def test_ordinary_markdown_renders_as_it_did_in_nbconvert(text: str) -> None:
    after = visible(nbconvert(safe_markdown(text, hosts=HOSTS)))
    assert re.sub(r"\s*(<[^>]*>)\s*", r"\1", after) == re.sub(
        r"\s*(<[^>]*>)\s*", r"\1", visible(nbconvert(text))
    )


@pytest.mark.parametrize("text", MATH)
def test_math_survives(text: str) -> None:
    assert visible(nbconvert(safe_markdown(text))) == visible(nbconvert(text))


def test_math_as_models_write_it() -> None:
    assert safe_markdown(r"\(x^2\) then \[ y = 1 \] then \\(z_1\\)") == (
        "$x^2$ then $$ y = 1 $$ then $z_1$"
    )
    assert safe_markdown(r"\[not math\]") == r"\[not math&#93;"


def test_money_is_not_math() -> None:
    out = safe_markdown("from $5 to $10, $HOME")
    assert "$" not in out
    assert visible(commonmark(out)) == "<p>from $5 to $10, $HOME</p>"


def test_links_and_images_of_strangers_stay_readable() -> None:
    out = safe_markdown("[site](https://evil.example/a) ![pic](https://evil.example/p.png) www.x.y")
    assert out == (
        "site (`https://evil.example/a`) "
        "\\[image: pic — `https://evil.example/p.png` not loaded&#93; `www.x.y`"
    )


def test_bare_address_of_a_known_host_is_a_link() -> None:
    page = commonmark(safe_markdown("see https://docs.example/a.", hosts=HOSTS))
    assert page == '<p>see <a href="https://docs.example/a">https://docs.example/a</a>.</p>\n'


def test_html_becomes_visible_text() -> None:
    page = commonmark(safe_markdown("<b>bold</b> <!-- note -->"))
    assert page == "<p>&lt;b&gt;bold&lt;/b&gt; &lt;!-- note --&gt;</p>\n"


def test_a_line_break_in_a_table_is_kept() -> None:
    assert "<td>a<br>b</td>" in commonmark(safe_markdown("| x |\n|---|\n| a<br/>b |"))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_payload_is_inert(payload: str) -> None:
    texts = (payload, f"Hi {payload}", f"- a\n  {payload}", f"| a |\n|---|\n| {payload} |")
    page = "\n\n".join(safe_markdown(t, hosts=h) for t in texts for h in (frozenset(), HOSTS))
    for render in RENDERERS:
        assert active(render(page), HOSTS) == []


PIECES = (
    *PAYLOADS,
    *SAMPLES,
    *MATH,
    *(
        "`",
        "``",
        "```",
        "~~~",
        "$",
        "$$",
        "\\",
        "\\\\",
        "\\(",
        "\\)",
        "\\[",
        "\\]",
        "[",
        "]",
        "(",
        ")",
    ),
    *("!", "<", ">", "&", ";", ":", "-", "+", "*", "**", "_", "#", "|", "=", "1. "),
    "\n",
    "\n\n",
    "\n    ",
    "\n  ",
    "\n> ",
    "\n- ",
    "\n1. ",
    "\n\t",
    " ",
    "  \n",
    "<b>",
    "<img src=x onerror=alert(1)>",
    "](https://evil.example)",
    "](javascript:x)",
    "![",
    "\\begin{a}",
    "\\end{a}",
    "\\href{javascript:x}{y}",
    "<code>",
    "</code>",
    "<span>&#36;</span>",
    "<br>",
    "&#36;",
    "&#10;",
    "&#96;",
    "&#60;",
    "|---|---|\n",
    "\n| a | b |\n|---|---|\n| ",
    "a",
    "é",
)
hostile_text = st.lists(
    st.sampled_from(PIECES)
    | st.text(st.sampled_from("ab1 \n`$\\[]()<>*_~|#-+&;:!'\""), max_size=8),
    max_size=9,
).map("".join)


@settings(max_examples=100, deadline=None)
@given(hostile_text)
def test_any_text_is_inert_in_every_renderer(text: str) -> None:
    safe = safe_markdown(text, hosts=HOSTS)
    for render in RENDERERS:
        assert active(render(safe), HOSTS) == []


@settings(max_examples=100, deadline=None, derandomize=True)
@given(hostile_text)
def test_twice_is_once(text: str) -> None:
    once = safe_markdown(text, hosts=HOSTS)
    assert visible(commonmark(safe_markdown(once, hosts=HOSTS))) == visible(commonmark(once))


@settings(max_examples=100, deadline=None)
@given(hostile_text)
def test_nothing_is_left_open(text: str) -> None:
    for render in RENDERERS:
        page = render(safe_markdown(text) + "\n\nfooter of ours\n")
        assert page.endswith("<p>footer of ours</p>\n")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_cutting_into_cached_parts_changes_nothing(pieces: list[str]) -> None:
    text = "\n\nWord " * 60 + "\n\n".join(f"Par {p}" if len(p) % 2 else p for p in pieces)
    whole = _markdown._safe_part(valid(text), frozenset())
    assert safe_markdown(text) == whole


def test_a_stream_pays_for_its_tail_only() -> None:
    parts = list(_markdown._split("\n\n".join(f"Paragraph {n} of some length." for n in range(50))))
    assert len(parts) == 50
    fenced = "Word " * 100 + "\n\n```\ncode\n\nWord\n```\n\nEnd"
    assert list(_markdown._split(fenced))[-1] == "End"


@pytest.mark.parametrize("payload", PAYLOADS)
def test_values_are_literal(payload: str) -> None:
    wraps = (
        "<details><summary>{0} {1}</summary>\n\n{2}\n\n</details>\n\nend",
        "para {0} and {1}\n\n{2}",
        "{0}\n\n- {1}",
    )
    values = escape(payload), code(payload), fence(payload, payload)
    for render in RENDERERS:
        assert active(render("\n\n".join(wrap.format(*values) for wrap in wraps))) == []


def test_values_are_shown_as_they_are() -> None:
    odd = "a*b*c [x](y) `q` <b> & $5 \\n _z_ ~ | # 100 % \"k\"='v'"
    page = commonmark(f"x {escape(odd)}")
    assert re.sub(r"<[^>]+>", "", page).strip() == "x " + odd.replace("&", "&amp;").replace(
        "<", "&lt;"
    ).replace(">", "&gt;").replace('"', "&quot;")
    page = commonmark(f"x {code('a<b>`$x$ *k*')}")
    assert page == "<p>x <code>a&lt;b&gt;`$x$ *k*</code></p>\n"


def test_fences_outgrow_their_content() -> None:
    assert fence("a\n````\nb").startswith("`````\n")
    assert fence("x", "python").startswith("```python\n")
    assert fence("", "json") == "```json\n```"


def test_mermaid_is_a_diagram_only_if_it_loads_nothing() -> None:
    assert fence("graph TD; A-->B", "mermaid").startswith("```mermaid")
    assert fence("graph TD; A[<b>x</b>]", "mermaid").startswith("```text")


def test_direction_marks_are_visible_in_values() -> None:
    assert escape("a\u202eb") == "aU+202Eb"
    assert "\u2066" not in code("a\u2066b")
