r"""A model's Markdown made inert before anything renders it.

Front ends disagree about Markdown: nbconvert (mistune plus math) does not sanitise, JupyterLab,
GitHub and VS Code parse it in three more ways. So the text is parsed once (CommonMark, tables,
strikethrough, TeX) and written again in a small canonical form that every one of them reads
alike: outside code no `<`, `[`, backtick or `$` of the model's is left, code that another parser
might not see as code is written with entities, math stands on one line.

Inert means: no HTML of the model's; no URL but http(s) of an allow-listed host, mailto, `#…`
and relative paths (links only); no TeX macro that makes links, styles or HTML in MathJax.
"""

from __future__ import annotations

import functools
import html
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from mastra_nb._escape import CONTROLS, SPACES, code, entities, fence_lines, valid

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token

NO_HOSTS: frozenset[str] = frozenset()

_MAX_DEPTH = 6
_MAX_URL = 300
_MAX_MATH_LINES = 60

# MathJax turns these into links, CSS, HTML or new macros (nbconvert's page has no Safe extension).
_TEX_MACROS = (
    r"(?:href|url|style|class|cssId|require|mmlToken|bbox|html[A-Za-z]*|data|includegraphics"
    r"|tooltip|texttip|unicode|let|g?def|edef|xdef|(?:re|provide)?newcommand|providecommand"
    r"|(?:re)?newenvironment|DeclareMathOperator|csname)(?![A-Za-z])"
)
_TEX_UNSAFE = re.compile(
    r"\\" + _TEX_MACROS + r"|[`$]|~~~|://|www\.|\\(?:begin|end)(?!\{[a-z]*\*?\})", re.IGNORECASE
)
_TEX_ENV = re.compile(r"\\(begin|end)\{([a-z]*\*?)\}")
_TEX_INLINE = re.compile(
    r"(?P<dd>\$\$(?P<display>(?:\\.|[^\\$`])+)\$\$(?!\$))"
    r"|(?P<d>\$(?:(?P<tight>(?![\s$])(?:\\.|[^\\$`])*(?<=\S))|(?P<wide>\s(?:\\.|[^\\$`])+(?<=\s)))"
    r"\$(?![\d$]))"
    r"|\\\\\((?P<p2>[^`$]{1,2000}?)\\\\\)|\\\\\[(?P<b2>[^`$]{1,2000}?)\\\\\]"
    r"|\\\((?P<p1>[^`$]{1,2000}?)\\\)|\\\[(?P<b1>[^`$]{1,2000}?)\\\]"
    r"|(?P<env>\\begin\{(?P<name>[a-z]+\*?)\}[^`]{0,4000}?\\end\{(?P=name)\})",
    re.DOTALL,
)
# `\[x\]` is also how CommonMark escapes a bracket: only what looks like TeX is taken for math.
_TEX_LIKE = re.compile(r"[\\^_=]|\A\s*[A-Za-z]{1,2}\s*\Z")
_DISPLAY = ("$$", "\\begin")
_TEX_BLOCKS = (("$$", "$$"), ("\\\\[", "\\\\]"), ("\\[", "\\]"))

# What a code span may hold only if every parser sees the same span.
_CODE_HAZARD = re.compile(r"[<|`\n]|\]\s*[(\[]|\$\$|\\\\|\\begin|\\end")

_BLANKS = " \t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029"
_URL = r"(?:(?:https?|ftps?)://|(?<![\w.])www\.)[^\s<>`]*"
_TEXT = re.compile(
    rf"(?P<url>{_URL})"
    rf"|(?P<tex>\\(?={_TEX_MACROS}|(?:begin|end)\b|[()\[\]]))"
    r"|(?P<dollar>\$)"
    r"|(?P<plain>\\(?=[A-Za-z0-9])(?!https?:|ftps?:|www\.)"
    r"|(?<=[^\W_])_(?=[^\W_])|&(?=\s)|\](?=[^(\[:]))"
    rf"|(?P<space>[{SPACES}])|(?P<control>[{CONTROLS}])"
    r"|(?P<mark>[`<&\\*_\[\]|~])",
    re.IGNORECASE,
)
# Never `\]` (with `\[` it would be display math); a `]` that could end a link is an entity.
_ENTITIES = {"]": "&#93;", "`": "&#96;", "<": "&lt;", "&": "&amp;", "\\": "<span>&#92;</span>"}
_LINE_START = re.compile(r"[#>=:+-]|(?P<number>\d{1,9})(?P<dot>[.)])(?=\s|$)")


def safe_markdown(text: str, *, hosts: frozenset[str] = NO_HOSTS) -> str:
    """`text` in canonical, inert Markdown; links and images load only from `hosts`.

    Open constructs (a fence while streaming) are closed, so anything may be appended after a
    blank line. Finished parts are cached: a stream pays for its last paragraphs only.
    """
    source = valid(text).replace("\r\n", "\n").replace("\r", "\n")
    parts = [_safe_part(part, hosts) for part in _split(source)]
    return "\n\n".join(part for part in parts if part)


_FENCE_LINE = re.compile(r"(?P<indent> {0,3})(?P<mark>`{3,}|~{3,})(?P<info>.*)", re.DOTALL)


def _split(text: str) -> Iterator[str]:
    """Cut where CommonMark must start anew: a blank line, then a letter or `#` in column 0,
    outside a fence. Reference definitions act at a distance, so with one there is no cut.
    """
    if len(text) < 400 or "]:" in text:
        yield text
        return
    lines = text.split("\n")
    begin, mark, blank = 0, "", False
    for at, line in enumerate(lines):
        if mark:
            shut = _FENCE_LINE.fullmatch(line)
            if shut and shut["mark"].startswith(mark) and not shut["info"].strip():
                mark = ""
        elif found := _FENCE_LINE.fullmatch(line):
            if found["indent"]:
                break  # top level or inside a list: only a parser knows
            if found["mark"][0] == "~" or "`" not in found["info"]:
                mark = found["mark"]
        elif blank and line and (line[0].isalpha() or line[0] == "#"):
            yield "\n".join(lines[begin:at])
            begin = at
        blank = not line.strip(" \t")
    yield "\n".join(lines[begin:])


@functools.lru_cache(maxsize=512)
def _safe_part(text: str, hosts: frozenset[str]) -> str:
    return "\n".join(_Writer(_parser().parse(text), hosts).document())


@functools.cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    md = MarkdownIt("commonmark", {"html": False, "maxNesting": 40})
    md.enable(["table", "strikethrough"])
    md.inline.ruler.before("escape", "math", _math_rule)
    md.inline.ruler.before("autolink", "markup", _markup_rule)
    stops = ["paragraph", "reference", "blockquote", "list"]
    md.block.ruler.before("fence", "math", _math_block_rule, {"alt": stops})
    return md


def _tex(body: str, *, inline: bool) -> str | None:
    """`body` on one line and without what another parser takes for HTML or a link, or None."""
    if "\n" in body:
        body = re.sub(r"(?<!\\)%[^\n]*", "", body)
        body = re.sub(r"\s*\n\s*", " ", body)
    if _TEX_UNSAFE.search(body) or not body.strip() or re.search(rf"[{CONTROLS}]", body):
        return None
    if inline and re.search(r"\\\\[(\[\])]", body):
        return None
    if (len(body) - len(body.rstrip("\\"))) % 2:
        return None
    depth: Counter[str] = Counter()
    for edge, name in _TEX_ENV.findall(body):
        depth[name] += 1 if edge == "begin" else -1
        if depth[name] not in (0, 1):
            return None
    if any(depth.values()):
        return None
    body = re.sub(rf"[{SPACES}]", " ", body)
    return re.sub(r"<(?=[A-Za-z/!?])", "< ", re.sub(r"\](?=[(\[:])", "] ", body))


def _math(m: re.Match[str]) -> str | None:
    """Canonical TeX with delimiters, or None if it is no math, or "" if it must not be typeset."""
    groups = m.groupdict()
    for name in ("display", "b1", "b2"):
        if (body := groups[name]) is not None:
            if name == "b1" and not _TEX_LIKE.search(body):
                return None
            tex = _tex(body, inline=False)
            return "" if tex is None else f"$${tex}$$"
    for name in ("tight", "wide", "p1", "p2"):
        if (body := groups[name]) is not None:
            if name == "p1" and not _TEX_LIKE.search(body):
                return None
            tex = _tex(body, inline=True)
            if tex is None:
                return ""
            return f"${tex if name in ('tight', 'wide') else tex.strip()}$"
    tex = _tex(m[0], inline=False)
    return "" if tex is None else tex


def _math_rule(state: StateInline, silent: bool) -> bool:
    if state.src[state.pos] not in "$\\":
        return False
    m = _TEX_INLINE.match(state.src, state.pos, state.posMax)
    tex = _math(m) if m else None
    if m is None or tex is None:
        return False
    if not silent:
        token = state.push("math" if tex else "code_inline", "", 0)
        token.content = tex or m[0]
    state.pos = m.end()
    return True


def _math_block_rule(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Display math that fills its lines, so that no line of it becomes a list or a heading."""
    if state.is_code_block(start):
        return False
    first = state.src[state.bMarks[start] + state.tShift[start] : state.eMarks[start]].strip()
    closer = next((shut for open_, shut in _TEX_BLOCKS if first.startswith(open_)), "")
    if not closer and (m := re.match(r"\\begin(\{[a-z]+\*?\})", first)):
        closer = "\\end" + m[1]
    if not closer:
        return False
    if state.src.find(closer, state.bMarks[start] + state.tShift[start] + 2) < 0:
        return False
    body = ""
    for line in range(start, min(end, start + _MAX_MATH_LINES)):
        if state.isEmpty(line) or state.sCount[line] < state.blkIndent:
            return False
        text = state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]].strip()
        body += ("\n" if body else "") + text
        if "`" in text or "~~~" in text:
            return False
        if text.endswith(closer) and len(body) > len(closer) + 1:
            break
    else:
        return False
    whole = _TEX_INLINE.match(body)
    tex = _math(whole) if whole and whole.end() == len(body) else None
    if tex is None:
        return False
    if not silent:
        token = state.push("math_block" if tex else "fence", "", 0)
        token.content, token.info = tex or body, "" if tex else "latex"
        token.map = [start, line + 1]
    state.line = line + 1
    return True


_MARKUP = re.compile(
    r"(?P<br><br[ \t]*/?>)|<code>(?P<code>[^<>`\n]+)</code>|<span>&#(?P<char>36|92);</span>"
)


def _markup_rule(state: StateInline, silent: bool) -> bool:
    """The three pieces of HTML that are ours or harmless: `<br>`, plain `<code>`, a literal."""
    if state.src[state.pos] != "<":
        return False
    m = _MARKUP.match(state.src, state.pos, state.posMax)
    if m is None:
        return False
    if not silent:
        if m["br"]:
            state.push("hardbreak", "br", 0)
        elif m["code"] is not None:
            state.push("code_inline", "", 0).content = html.unescape(m["code"])
        else:
            state.push("text_special", "", 0).content = chr(int(m["char"]))
    state.pos = m.end()
    return True


_HTTP = re.compile(r"https?://(?P<host>[A-Za-z0-9.-]+)(?::\d{1,5})?(?:[/?#]|$)", re.IGNORECASE)
_MAILTO = re.compile(r"mailto:[A-Za-z0-9.!#$%&'*+/=?^_{|}~-]+@[A-Za-z0-9.-]+(\?.*)?", re.IGNORECASE)


def _allowed(url: str, hosts: frozenset[str], *, image: bool) -> str | None:
    """`url` spelt so that it can stand in `(…)`, or None if it must not be clickable."""
    bare = url
    for _ in range(4):
        bare = html.unescape(unquote(bare))
    # What browsers drop or read as a slash when they look for a scheme or a host.
    bare = re.sub(r"[\x00-\x20\x7f-\xa0\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff]", "", bare)
    bare = bare.lower().replace("\\", "/")
    if m := _HTTP.match(url):
        if "\\" in url or "@" in url.split("/", 3)[2] or m["host"].lower() not in hosts:
            return None
    elif image or not url:
        return None
    elif bare.startswith("mailto:"):
        if not _MAILTO.fullmatch(url):
            return None
    elif ":" in bare or bare.startswith("//"):
        return None
    spelt = quote(url, safe="/:?#@&+,;=%!~-._")
    return spelt.replace("&", "&amp;")


class _Writer:
    """Tokens to canonical Markdown."""

    def __init__(self, tokens: Sequence[Token], hosts: frozenset[str]) -> None:
        self.tokens, self.hosts = tokens, hosts
        self.at = self.depth = 0

    def document(self) -> list[str]:
        return _join(self._blocks(""), tight=False)

    def _next(self) -> Token:
        self.at += 1
        return self.tokens[self.at - 1]

    def _blocks(self, stop: str) -> list[list[str]]:
        blocks: list[list[str]] = []
        while self.at < len(self.tokens):
            token = self._next()
            if token.type == stop:
                break
            lines = self._block(token)
            if any(lines):
                blocks.append(lines)
        return blocks

    def _block(self, token: Token) -> list[str]:
        kind = token.type
        if kind == "paragraph_open":
            inline = self._next()
            self.at += 1
            return self._inline(inline, "").split("\n")
        if kind == "heading_open":
            inline = self._next()
            self.at += 1
            return [f"{'#' * int(token.tag[1])} {self._inline(inline, 'heading')}".rstrip(" ")]
        if kind in ("fence", "code_block"):
            return fence_lines(token.content, token.info)
        if kind == "math_block":
            return [token.content]
        if kind == "hr":
            return ["___"]
        if kind == "table_open":
            return self._table()
        return self._container(token)

    def _container(self, token: Token) -> list[str]:
        kind = token.type
        self.depth += 1
        if kind == "blockquote_open":
            lines = _join(self._blocks("blockquote_close"), tight=False)
            if self.depth <= _MAX_DEPTH:
                lines = [f"> {line}" if line else ">" for line in lines] or [">"]
        else:
            lines = self._list(token)
        self.depth -= 1
        return lines

    def _list(self, token: Token) -> list[str]:
        stop = token.type.replace("open", "close")
        ordered = token.type == "ordered_list_open"
        number = int(token.attrs.get("start", 1)) if ordered else 0
        tight = self._tight(stop)
        items: list[list[str]] = []
        while (item := self._next()).type != stop:
            blocks = self._blocks("list_item_close")
            lines = _join(blocks, tight=tight)
            if self.depth > _MAX_DEPTH:
                items.append(lines)
                continue
            mark = f"{number}{item.markup}" if ordered else item.markup
            number += 1
            pad = " " * (len(mark) + 1)
            first, *rest = lines or [""]
            items.append([f"{mark} {first}".rstrip(" "), *(pad + s if s else s for s in rest)])
        return _join(items, tight=tight and self.depth <= _MAX_DEPTH)

    def _tight(self, stop: str) -> bool:
        level = self.tokens[self.at - 1].level
        for token in self.tokens[self.at :]:
            if token.type == stop and token.level == level:
                return True
            if token.type == "paragraph_open" and token.level == level + 2:
                return token.hidden
        return True

    def _table(self) -> list[str]:
        rows: list[list[str]] = []
        rules: list[str] = []
        while (token := self._next()).type != "table_close":
            if token.type == "tr_open":
                rows.append([])
            elif token.type in ("th_open", "td_open"):
                rows[-1].append(self._inline(self._next(), "table"))
                if token.type == "th_open":
                    align = str(token.attrs.get("style", "")).removeprefix("text-align:")
                    rules.append(_ALIGN.get(align, "---"))
        rows.insert(1, rules)
        return [f"| {' | '.join(row)} |" for row in rows]

    def _inline(self, token: Token, where: str) -> str:
        return _Inline(token.children or [], self.hosts, where).write()


_ALIGN = {"left": ":---", "right": "---:", "center": ":---:"}


def _join(blocks: list[list[str]], *, tight: bool) -> list[str]:
    lines: list[str] = []
    for block in blocks:
        if lines and not tight:
            lines.append("")
        lines += block
    return lines


class _Inline:
    """One paragraph, heading or table cell. `where` is "", "heading" or "table"."""

    def __init__(self, tokens: Sequence[Token], hosts: frozenset[str], where: str) -> None:
        self.tokens, self.hosts, self.where = tokens, hosts, where
        self.out: list[str] = []
        self.fresh = True
        # (position in out, destination as written or None, destination as found)
        self.links: list[tuple[int, str | None, str]] = []

    def write(self) -> str:
        for index, token in enumerate(self.tokens):
            handle = _HANDLERS.get(token.type)
            if handle is not None:
                handle(self, token, index)
        while self.out and self.out[-1] in _BREAKS:
            self.out.pop()
        text = "".join(self.out).rstrip(" ")
        if self.where == "heading":
            text = re.sub(r"#+$", lambda m: "\\#" * len(m[0]), text)
        return text

    def _add(self, piece: str) -> None:
        if not piece:
            return
        last = self.out[-1][-1:] if self.out else ""
        if last == "$" and piece[0] == "$":
            self.out.append(" ")
        self.out.append(piece)
        self.fresh = False

    def _text(self, token: Token, index: int) -> None:
        text = token.content
        if self.fresh:
            text = text.lstrip(_BLANKS)
            if not text:
                return
            if index == 0 and self.where == "" and (m := _TASK.match(text)):
                # A check box, if this is a list item; else three literal characters.
                self._add(m[0])
                text = text[m.end() :]
        if self.out and text[:1].isdigit() and self.out[-1].endswith("$"):
            self._add(f"&#{ord(text[0])};")
            text = text[1:]
        spelt = _TEXT.sub(self._text_one, text)
        if self.fresh and (m := _LINE_START.match(spelt)):
            spelt = f"{m['number']}\\{spelt[len(m['number']) :]}" if m["number"] else f"\\{spelt}"
        after = self.tokens[index + 1].type if index + 1 < len(self.tokens) else ""
        if spelt.endswith("!") and after in ("link_open", "image"):
            spelt = spelt[:-1] + "\\!"
        if after in ("softbreak", "hardbreak"):
            spelt = spelt.rstrip(" ")
        self._add(spelt)

    def _text_one(self, m: re.Match[str]) -> str:
        kind, s = m.lastgroup, m[0]
        if kind == "plain":
            return "&#93;" if s == "]" and self.links else s
        if kind == "url":
            return self._url(s)
        if kind == "tex":
            return "<span>&#92;</span>"
        if kind == "dollar":
            return "<span>&#36;</span>"
        if kind == "space":
            return " "
        if kind == "control":
            return "\ufffd"
        return _ENTITIES.get(s) or f"\\{s}"

    def _url(self, found: str) -> str:
        url = found.rstrip(".,:;!?'\"*_~")
        while url.endswith(")") and url.count(")") > url.count("("):
            url = url[:-1].rstrip(".,:;!?'\"*_~")
        rest = _TEXT.sub(self._text_one, found[len(url) :])
        if self.links:
            if self.links[-1][1] is None:
                return _code_span(url) + rest
            return entities(url) + rest
        target = _allowed(url, self.hosts, image=False) if "://" in url else None
        if target is None:
            return _code_span(url) + rest
        return f"[{entities(url)}]({target}){rest}"

    def _code(self, token: Token, index: int) -> None:
        self._add_code(token.content)

    def _add_code(self, text: str) -> None:
        span = _code_span(text)
        if self.out and self.out[-1].endswith("`") and span.startswith("`"):
            span = code(text)
        self._add(span)

    def _math(self, token: Token, index: int) -> None:
        tex = token.content
        if self.fresh and self.out and tex.startswith(_DISPLAY):
            # On a line of its own it would end the paragraph; it is displayed on its own anyway.
            while self.out[-1] in _BREAKS:
                self.out.pop()
            self._add(" ")
        self._add(tex.replace("|", "\\|") if self.where == "table" else tex)

    def _mark(self, token: Token, index: int) -> None:
        self._add(token.markup)

    def _break(self, token: Token, index: int) -> None:
        hard = token.type == "hardbreak"
        if self.where:
            self._add("<br>" if hard and self.where == "table" else " ")
            self.fresh = False
        elif len(self.out) == 1 and self.out[0].startswith(_DISPLAY):
            self._add(" ")
        elif self.out:
            self.out.append("\\\n" if hard else "\n")
            self.fresh = True

    def _link_open(self, token: Token, index: int) -> None:
        url = str(token.attrs.get("href", ""))
        target = _allowed(url, self.hosts, image=False)
        if target is not None:
            self._add("[")
        self.links.append((len(self.out), target, url))

    def _link_close(self, token: Token, index: int) -> None:
        start, target, url = self.links.pop()
        opened = next(t for t in reversed(self.tokens[:index]) if t.type == "link_open")
        if target is not None:
            title = str(opened.attrs.get("title", ""))
            plain = re.fullmatch(r"[\w ,.;!?'()/+-]+", title) and "www." not in title
            self._add(f']({target} "{title}")' if plain else f"]({target})")
            return
        shown = "".join(self.out[start:])
        found = url if len(url) <= _MAX_URL else url[:_MAX_URL] + "…"
        if not found or _code_span(found) == shown:
            return
        if shown:
            self._add("(" if self.fresh else " (")
            self._add_code(found)
            self._add(")")
        else:
            self._add_code(found)

    def _image(self, token: Token, index: int) -> None:
        url = str(token.attrs.get("src", ""))
        target = _allowed(url, self.hosts, image=True)
        alt = _plain(token.children or [])
        if target is not None:
            self._add(f"![{entities(alt)}]({target})")
            return
        found = url if len(url) <= _MAX_URL else url[:_MAX_URL] + "…"
        self._add("\\[image: " + (f"{_TEXT.sub(self._text_one, alt)} — " if alt else ""))
        self._add_code(found or "no address")
        self._add(" not loaded&#93;")


def _plain(tokens: Sequence[Token]) -> str:
    parts = (
        _plain(t.children or []) if t.type == "image" else " " if "break" in t.type else t.content
        for t in tokens
    )
    return re.sub(f"[{SPACES}{CONTROLS}]", " ", "".join(parts)).strip()


_BREAKS = (" ", "\n", "\\\n", "<br>")
_TASK = re.compile(r"\[[ xX]\] (?=\S)")
_Handler = Callable[[_Inline, "Token", int], None]
_HANDLERS: dict[str, _Handler] = {
    "text": _Inline._text,
    "code_inline": _Inline._code,
    "math": _Inline._math,
    "em_open": _Inline._mark,
    "em_close": _Inline._mark,
    "strong_open": _Inline._mark,
    "strong_close": _Inline._mark,
    "s_open": _Inline._mark,
    "s_close": _Inline._mark,
    "softbreak": _Inline._break,
    "hardbreak": _Inline._break,
    "link_open": _Inline._link_open,
    "link_close": _Inline._link_close,
    "image": _Inline._image,
}


def _code_span(text: str) -> str:
    if _CODE_HAZARD.search(text) or not text.strip() or re.search(rf"[{SPACES}{CONTROLS}]", text):
        return code(text)
    return f"` {text} `" if text[0] == " " == text[-1] else f"`{text}`"
