"""The text of a web page as Markdown. What a browser would run or hide is left out."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_SKIP = frozenset(
    {"script", "style", "noscript", "template", "svg", "math", "head", "iframe", "object", "canvas",
     "audio", "video", "select", "textarea", "nav"}
)  # fmt: skip
_BLOCKS = frozenset(
    {"p", "div", "section", "article", "main", "header", "footer", "aside", "ul", "ol", "dl",
     "table", "tr", "blockquote", "figure", "form", "h1", "h2", "h3", "h4", "h5", "h6", "li", "dt",
     "dd", "pre", "br", "hr"}
)  # fmt: skip
# Elements that never have an end tag.
_VOID = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track",
     "wbr"}
)  # fmt: skip


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.out: list[str] = []
        self.title = ""
        self._hidden: list[str] = []
        self._pre = 0
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "title" and not self.title:
            self._in_title = True
        if tag == "body":
            # A page may forget to end its head.
            self._hidden.clear()
        if self._hidden:
            if tag == self._hidden[-1]:
                self._hidden.append(tag)
            return
        facts = dict(attrs)
        if tag in _SKIP or (
            ("hidden" in facts or facts.get("aria-hidden") == "true") and tag not in _VOID
        ):
            self._hidden.append(tag)
            return
        if tag in _BLOCKS:
            self.out.append("\n" if tag in ("br", "tr", "li") else "\n\n")
        if tag[0] == "h" and tag[1:].isdigit():
            self.out.append("#" * int(tag[1:]) + " ")
        elif tag == "li":
            self.out.append("- ")
        elif tag in ("td", "th"):
            self.out.append(" | ")
        elif tag == "pre":
            self._pre += 1
            self.out.append("```\n")

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        if self._hidden:
            if tag == self._hidden[-1]:
                self._hidden.pop()
            return
        if tag == "pre" and self._pre:
            self._pre -= 1
            self.out.append("\n```")
        if tag in _BLOCKS and tag not in ("li", "tr"):
            self.out.append("\n\n")

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data
        elif not self._hidden:
            self.out.append(data if self._pre else re.sub(r"\s+", " ", data))


def html_text(html: str) -> tuple[str, str]:
    """(text, title)"""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    text = re.sub(r"[ \t]+\n", "\n", "".join(reader.out))
    text = re.sub(r"\n[ \t]+(?=[^\s`])", "\n", text) if "```" not in text else text
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    return text, re.sub(r"\s+", " ", reader.title).strip()[:500]
