"""The text of a web page as Markdown. What a browser would run or hide is left out.

The tokens are those of the HTML standard. html.parser is not used: 60 kB of "<a " take it 42 s.
"""

from __future__ import annotations

import html as _entities
import re
from collections.abc import Iterator

# Text that is no markup up to the end tag; of all but the title it is not shown.
_RAW = frozenset({"script", "style", "textarea", "title", "iframe", "noscript", "noembed", "xmp"})
_SKIP = frozenset(
    {"template", "svg", "math", "object", "canvas", "audio", "video", "select", "nav", "head"}
)
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
_NAME = re.compile(r"/?[A-Za-z][^\s/>]{0,50}")
_STOP = re.compile(r"=[ \t\n]*([\"'])|>")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
_HIDDEN = re.compile(r"(?:^|\s)hidden(?=[\s=/]|$)|aria-hidden\s*=\s*true", re.IGNORECASE)
_ENDS = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in _RAW}


def _tokens(page: str) -> Iterator[tuple[str, str]]:
    """("", text), (name, attributes) of a start tag, ("/name", "") of an end tag; in one pass: what
    has no end ends the page.
    """
    at = 0
    while at < len(page):
        mark = page.find("<", at)
        if mark != at:
            yield "", page[at : mark if mark > 0 else None]
        if mark < 0:
            return
        if page.startswith(("<!", "<?"), mark):
            close = "-->" if page.startswith("<!--", mark) else ">"
            end = page.find(close, mark + 2)
            if end < 0:
                return
            at = end + len(close)
            continue
        if (named := _NAME.match(page, mark + 1)) is None:
            yield "", "<"
            at = mark + 1
            continue
        end = named.end()
        while (stop := _STOP.search(page, end)) is not None and stop[1]:
            end = page.find(stop[1], stop.end()) + 1
            if not end:
                return
        if stop is None:
            return
        name, at = named[0].lower(), stop.end()
        yield name, page[named.end() : stop.start()]
        if name in _RAW:
            closed = _ENDS[name].search(page, at)
            if closed is None:
                return
            yield name + "#", page[at : closed.start()]
            at = closed.start()


class _Writer:
    def __init__(self) -> None:
        self.out: list[str] = []
        self.title = ""
        self._hidden: list[str] = []
        self._pre = 0

    def token(self, name: str, value: str) -> None:
        if name == "title#":
            self.title = self.title or " ".join(_entities.unescape(value).split())[:500]
        elif name.endswith("#"):
            return
        elif not name:
            if not self._hidden:
                text = _entities.unescape(value)
                self.out.append(text if self._pre else re.sub(r"\s+", " ", text))
        elif name.startswith("/"):
            self._end(name[1:])
        else:
            self._start(name, value)

    def _start(self, tag: str, attributes: str) -> None:
        if tag == "body":
            # A page may forget to end its head.
            self._hidden.clear()
        if self._hidden:
            if tag == self._hidden[-1]:
                self._hidden.append(tag)
            return
        bare = _QUOTED.sub(lambda m: "true" if m[0][1:-1] == "true" else "", attributes)
        if tag in _SKIP or (tag not in _VOID and _HIDDEN.search(bare)):
            self._hidden.append(tag)
            return
        if tag in _BLOCKS:
            self.out.append("\n" if tag in ("br", "tr", "li") else "\n\n")
        if tag[0] == "h" and tag[1:] in ("1", "2", "3", "4", "5", "6"):
            self.out.append("#" * int(tag[1:]) + " ")
        elif tag == "li":
            self.out.append("- ")
        elif tag in ("td", "th"):
            self.out.append(" | ")
        elif tag == "pre":
            self._pre += 1
            self.out.append("```\n")

    def _end(self, tag: str) -> None:
        if self._hidden:
            if tag == self._hidden[-1]:
                self._hidden.pop()
            return
        if tag == "pre" and self._pre:
            self._pre -= 1
            self.out.append("\n```")
        if tag in _BLOCKS and tag not in ("li", "tr"):
            self.out.append("\n\n")


def html_text(page: str) -> tuple[str, str]:
    """(text, title)"""
    writer = _Writer()
    for name, value in _tokens(page):
        writer.token(name, value)
    lines = (line.rstrip(" \t") for line in "".join(writer.out).split("\n"))
    text = "\n".join(lines)
    # A text that began with the space between two tags.
    text = re.sub(r"\n (?=\S)", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip(), writer.title
