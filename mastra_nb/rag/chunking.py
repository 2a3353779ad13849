"""A text in pieces that fit an embedder, each of which knows where it is from.

Pieces follow the structure of the text: headings, blank lines, lines, sentences, words. The cuts
are those of semantic-text-splitter, except of sentences, characters and JSON.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import msgspec

from mastra_nb.errors import ConfigError, MissingExtra

Strategy = Literal[
    "auto", "recursive", "markdown", "html", "json", "sentence", "character", "token"
]
STRATEGIES: tuple[str, ...] = Strategy.__args__  # type: ignore[attr-defined]

# Part of what a chunk is made by: another number makes an index chunk its documents again.
_VERSION = 1
# The splitter's time grows with the square of what it is given: 32 s for a word of 2 MB.
_AT_ONCE = 16
_MAX_DEPTH = 64
_MAX_HEADING = 200

Span = tuple[int, int]


class Place(msgspec.Struct, frozen=True):
    """Where page, cell or row `no` begins in a document's text."""

    start: int
    unit: str
    no: int


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """`text` is what the document's text has from `start` to `end`. Lines count from 1; `place`
    says "page 3" or "cell 4" where a document has such; `headings` lead to it, outermost first.
    """

    text: str
    start: int
    end: int
    line: int
    last_line: int
    headings: tuple[str, ...] = ()
    place: str = ""

    @property
    def in_context(self) -> str:
        """What is embedded: a passage is found by what it stands under, too."""
        path = " > ".join(h for h in self.headings if h not in self.text)
        return f"{path}\n\n{self.text}" if path else self.text


class Chunking(msgspec.Struct, frozen=True, kw_only=True):
    """How texts are cut. `max_size` and `overlap` are characters, of the strategy "token" tokens,
    which `count` counts (without it they are estimated).
    """

    strategy: Strategy = "auto"
    max_size: int = 1200
    overlap: int = 0
    count: Callable[[str], int] | None = None

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ConfigError(
                f'there is no strategy "{self.strategy}"', hint=f"one of {', '.join(STRATEGIES)}"
            )
        if self.max_size < 1 or not 0 <= self.overlap < self.max_size:
            raise ConfigError(
                f"chunks of {self.max_size} cannot overlap by {self.overlap}",
                hint="max_size is 1 or more, overlap from 0 to less than max_size",
            )

    @property
    def about(self) -> str:
        """The same for two that cut alike."""
        named = f" by {getattr(self.count, '__qualname__', 'count')}" if self.count else ""
        return f"{self.strategy} {self.max_size}/{self.overlap}{named} v{_VERSION}"


def estimated_tokens(text: str) -> int:
    return len(_TOKENS.findall(text))


_TOKENS = re.compile(r"\w{1,5}|[^\w\s]")


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def split(
    text: str, *, kind: str = "text", places: Sequence[Place] = (), chunking: Chunking | None = None
) -> list[Chunk]:
    """Raises MissingExtra without semantic-text-splitter."""
    how = chunking or Chunking()
    strategy: str = how.strategy
    if strategy == "auto":
        strategy = _AUTO.get(kind, "recursive")
    spans = [s for s in _cut(text, strategy, how) if text[s[0] : s[1]].strip()]
    lines = [i for i, c in enumerate(text) if c == "\n"] if len(text) < 256 else _newlines(text)
    paths = _paths(text, outline(text, kind), spans)
    starts = [p.start for p in places]
    out = []
    for (start, end), path in zip(spans, paths, strict=True):
        at = bisect.bisect_right(starts, start) - 1
        place = f"{places[at].unit} {places[at].no}" if at >= 0 else ""
        out.append(
            Chunk(
                text=text[start:end],
                start=start,
                end=end,
                line=bisect.bisect_left(lines, start) + 1,
                last_line=bisect.bisect_left(lines, max(start, end - 1)) + 1,
                headings=path,
                place=place,
            )
        )
    return out


_AUTO = {"markdown": "markdown", "html": "markdown", "notebook": "markdown", "json": "json"}


def _newlines(text: str) -> list[int]:
    return [m.start() for m in re.finditer("\n", text)]


def _cut(text: str, strategy: str, how: Chunking) -> Iterator[Span]:
    size, overlap = how.max_size, how.overlap
    if not text:
        return
    if strategy == "character":
        for start in range(0, max(1, len(text) - overlap), size - overlap):
            yield start, min(len(text), start + size)
    elif strategy in ("sentence", "json"):
        find = _sentences if strategy == "sentence" else _json_pieces
        fine: list[int] = [0]
        for start, end in find(text, size):
            if end - start <= size:
                fine.append(end)
                continue
            # What one splitter call leaves out between chunks is white space: it goes with them.
            fine += [at for at, _ in _by_structure(text[start:end], start, "text", how, 0)][1:]
            fine.append(end)
        yield from _trimmed(text, _packed(text, fine, size, overlap))
    else:
        kind = "markdown" if strategy in ("markdown", "html") else "text"
        yield from _by_structure(text, 0, kind, how, overlap)


def _by_structure(text: str, at: int, kind: str, how: Chunking, overlap: int) -> Iterator[Span]:
    """Spans of `text`, whose first character is number `at`."""
    try:
        from semantic_text_splitter import MarkdownSplitter, TextSplitter
    except ModuleNotFoundError:
        raise MissingExtra(
            'chunks that follow the structure of a text need "semantic-text-splitter"',
            hint='pip install "mastra-nb[rag]"',
        ) from None
    cls: Any = MarkdownSplitter if kind == "markdown" else TextSplitter
    if how.strategy == "token":
        splitter = cls.from_callback(how.count or estimated_tokens, how.max_size, overlap)
    else:
        splitter = cls(how.max_size, overlap)
    for start, end in _parts(text, _AT_ONCE * max(how.max_size, 500)):
        for offset, piece in splitter.chunk_indices(text[start:end]):
            yield at + start + offset, at + start + offset + len(piece)


def _parts(text: str, most: int) -> Iterator[Span]:
    """Parts of at most `most` characters, each ending where the structure does if it can."""
    start = 0
    while len(text) - start > most:
        low, high = start + most // 2, start + most
        found = (text.rfind(mark, low, high) for mark in ("\n# ", "\n## ", "\n\n", "\n", ". ", " "))
        cut = next((at + 1 for at in found if at >= 0), high)
        yield start, cut
        start = cut
    yield start, len(text)


_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*(?=\s)|[。！？]|\n\s*\n")


def _sentences(text: str, size: int) -> Iterator[Span]:
    start = 0
    for m in _SENTENCE_END.finditer(text):
        yield start, m.end()
        start = m.end()
    if start < len(text):
        yield start, len(text)


def _json_pieces(text: str, size: int) -> Iterator[Span]:
    """The values of indented JSON, as far out as they are small enough."""
    starts = [0, *(at + 1 for at in _newlines(text) if at + 1 < len(text))]
    depth = [len(text[s : s + 2 * _MAX_DEPTH]) - len(text[s : s + 2 * _MAX_DEPTH].lstrip(" "))
             for s in starts]  # fmt: skip

    def inside(low: int, high: int, level: int) -> Iterator[Span]:
        end = starts[high] if high < len(starts) else len(text)
        if end - starts[low] <= size or high - low == 1 or level > _MAX_DEPTH:
            yield starts[low], end
            return
        heads = [low, *(i for i in range(low + 1, high) if depth[i] <= 2 * level), high]
        for one, two in itertools.pairwise(heads):
            yield from inside(one, two, level + 1)

    yield from inside(0, len(starts), 0)


def _packed(text: str, cuts: list[int], size: int, overlap: int) -> Iterator[Span]:
    """Neighbours together as long as they fit; a chunk repeats whole pieces of the one before."""
    first, last = 0, len(cuts) - 1
    while first < last:
        end = first + 1
        while end < last and cuts[end + 1] - cuts[first] <= size:
            end += 1
        yield cuts[first], cuts[end]
        back = end
        while back - 1 > first and cuts[end] - cuts[back - 1] <= overlap:
            back -= 1
        fits = end < last and cuts[end + 1] - cuts[back] <= size
        first = back if fits else end


def _trimmed(text: str, spans: Iterator[Span]) -> Iterator[Span]:
    for start, end in spans:
        piece = text[start:end]
        left = len(piece) - len(piece.lstrip())
        yield min(end, start + left), max(start + left, end - (len(piece) - len(piece.rstrip())))


_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(.+?)[ \t#]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_DEF = re.compile(r"([ \t]*)(?:async[ \t]+)?((?:def|class)[ \t]+\w+)")
_KEY = re.compile(r'( *)"((?:[^"\\]|\\.){1,200})": [\[{]$')


def outline(text: str, kind: str) -> list[tuple[int, int, str]]:
    """(offset, level, title) of what begins a section: headings, functions, keys of JSON."""
    found: list[tuple[int, int, str]] = []
    at, fence = 0, ""
    for line in text.split("\n"):
        start, at = at, at + len(line) + 1
        head = line[:400]
        if kind == "json":
            if m := _KEY.match(head):
                found.append((start, len(m[1]) // 2, m[2]))
        elif kind == "python":
            if m := _DEF.match(head):
                found.append((start, len(m[1].expandtabs(4)) // 4 + 1, m[2]))
        elif kind != "text":
            if m := _FENCE.match(head):
                if not fence:
                    fence = m[1]
                elif m[1].startswith(fence):
                    fence = ""
            elif not fence and (m := _HEADING.match(head)):
                found.append((start, len(m[1]), m[2][:_MAX_HEADING]))
    return found


def _paths(
    text: str, found: list[tuple[int, int, str]], spans: list[Span]
) -> list[tuple[str, ...]]:
    """What each chunk stands under: the headings before it, and those that it begins with."""
    out: list[tuple[str, ...]] = []
    stack: list[tuple[int, str]] = []
    at = 0
    for start, end in spans:
        reach = start
        while at < len(found) and found[at][0] <= reach:
            offset, level, title = found[at]
            while stack and stack[-1][0] >= level:
                stack.pop()
            stack.append((level, title))
            at += 1
            if offset >= start and (more := _NEXT_LINE.match(text, offset)):
                reach = min(more.end(), end - 1)
        out.append(tuple(title for _, title in stack))
    return out


_NEXT_LINE = re.compile(r"[^\n]*\n[ \t\n]{0,100}")
