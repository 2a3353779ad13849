"""Names, values, errors: text that is no Markdown, spelt so that no renderer takes it for some."""

from __future__ import annotations

import re

# White space that must not start a new line, and what a terminal or a parser may act on.
SPACES = "\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029"
CONTROLS = "\x00-\x08\x0e-\x1b\x7f"
_BIDI = "\u202a-\u202e\u2066-\u2069"
_ESCAPE = re.compile(
    rf"(?P<tex>[$\\])|(?P<space>[{SPACES}])|(?P<bidi>[{_BIDI}])"
    rf"|(?P<control>[{CONTROLS}])|(?P<mark>[&<>\[\]`*_~|#^@]|:(?=/)|(?<=www)\.|^[-+=:]|^\d+[.)](?=\s|$))",
    re.IGNORECASE,
)
_NOT_WORD = re.compile(r"[^A-Za-z0-9 ,\x80-\U0010ffff]")
_FENCED_INFO = re.compile(r"[A-Za-z0-9_+#.-]{1,30}")
# nbconvert writes a mermaid block into the page unescaped, and a diagram can load images and CSS.
_MERMAID_UNSAFE = re.compile(
    r"<(?=[A-Za-z/!?])|&|//|\\\\|url\s*\(|themeCSS|%%\{|\b(?:img|icon|click|href|link)\b",
    re.IGNORECASE,
)


def escape(text: object) -> str:
    """Any value as text that is literal in HTML and in Markdown alike, on one line."""
    return _ESCAPE.sub(_escape_one, valid(str(text)))


def _escape_one(m: re.Match[str]) -> str:
    kind, s = m.lastgroup, m[0]
    if kind == "tex":
        # An element of its own: MathJax pairs delimiters and macros inside one text node only.
        return f"<span>&#{ord(s)};</span>"
    if kind == "space":
        return " "
    if kind == "bidi":
        return f"U+{ord(s):04X}"
    if kind == "control":
        return "\ufffd"
    return "".join(c if c.isalnum() else f"&#{ord(c)};" for c in s)


def code(text: object) -> str:
    """Any value as inline code, literal in HTML and in Markdown alike."""
    one_line = re.sub(f"[{SPACES}]", " ", valid(str(text)))
    visible = re.sub(rf"[{CONTROLS}]|[{_BIDI}]", lambda m: f"U+{ord(m[0]):04X}", one_line)
    return f"<code>{entities(visible)}</code>" if visible else "<code> </code>"


def entities(text: str) -> str:
    """`text` with all but letters, digits, space and comma as entities."""
    return _NOT_WORD.sub(lambda m: f"&#{ord(m[0])};", text)


def fence(text: str, info: str = "") -> str:
    """A code block, its fence longer than any run of backticks in it. `info` is a language."""
    return "\n".join(fence_lines(valid(text), info))


def fence_lines(text: str, info: str) -> list[str]:
    """As `fence`, one string a line, for whoever puts them into a quote or a list."""
    name = _FENCED_INFO.match(info.strip())
    language = name[0] if name else ""
    if language.lower().startswith("mermaid") and _MERMAID_UNSAFE.search(text):
        language = "text"
    body = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = body.removesuffix("\n").split("\n") if body else []
    longest = max((len(run) for run in re.findall(r"`{3,}", body)), default=2)
    mark = "`" * (longest + 1)
    return [mark + language, *lines, mark]


def valid(text: str) -> str:
    """Lone surrogates cannot be saved in a notebook."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text
