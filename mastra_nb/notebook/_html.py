"""A model's Markdown as HTML, for a widget: nothing renders Markdown there.

The Markdown is made inert first, then rendered without HTML; the front end copies what it knows
of the result and nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mastra_nb import _markdown

if TYPE_CHECKING:
    from markdown_it.renderer import RendererHTML
    from markdown_it.token import Token


def blocks(text: str, *, hosts: frozenset[str] = _markdown.NO_HOSTS) -> list[str]:
    """The HTML of each paragraph, list, table … of `text`. Of a text that grows all but the last
    few stay as they were.
    """
    safe = _markdown.safe_markdown(text, hosts=hosts)
    return [block for part in _markdown._split(safe) for block in _rendered(part)]


@functools.lru_cache(maxsize=512)
def _rendered(part: str) -> tuple[str, ...]:
    out: list[str] = []
    begin = depth = 0
    parser = _markdown._parser()
    tokens = parser.parse(part)
    for at, token in enumerate(tokens):
        depth += token.nesting
        if depth == 0:
            out.append(_renderer().render(tokens[begin : at + 1], parser.options, {}))
            begin = at + 1
    return tuple(out)


@functools.cache
def _renderer() -> RendererHTML:
    from markdown_it.renderer import RendererHTML

    renderer = RendererHTML()
    rules: dict[str, Any] = renderer.rules
    rules["math"] = rules["math_block"] = _math
    rules["image"] = _image
    rules["text"] = _text
    return renderer


def _math(tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    """A widget has no typesetter: TeX is shown as it is written."""
    tag = "p" if tokens[at].type == "math_block" else "span"
    return f'<{tag} class="mnb-math">{_escaped(tokens[at].content)}</{tag}>'


def _text(tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    """No TeX for a front end that typesets whatever it finds in a page."""
    return _escaped(tokens[at].content).replace("\\", "<span>&#92;</span>")


def _image(tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    return f"[image: {_escaped(tokens[at].content)}]"


def _escaped(text: str) -> str:
    from markdown_it.common.utils import escapeHtml

    return escapeHtml(text)
