"""What an index gives: passages with the place they are from, and reports. They show themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from mastra_nb._escape import escape
from mastra_nb.messages import Usage
from mastra_nb.rag.chunking import Chunk
from mastra_nb.rag.documents import Document
from mastra_nb.rag.loading import Failed, failed_lines
from mastra_nb.vectors import Hit, IndexStats

_SNIPPET = 160


class Passage(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk that answers a query. `start` and `end` are characters of the document's text, lines
    count from 1. `score` as in `Hit`, or of whoever reranked.
    """

    id: str
    score: float
    text: str
    source: str
    start: int = 0
    end: int = 0
    line: int = 0
    last_line: int = 0
    place: str = ""
    title: str = ""
    headings: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}
    similarity: float | None = None
    bm25: float | None = None

    @property
    def citation(self) -> str:
        """Where it is from: "notes.md:3-9", "report.pdf, page 2", "eda.ipynb, cell 4"."""
        if self.place:
            return f"{self.source}, {self.place}"
        if self.last_line <= 1:
            return self.source
        lines = f"{self.line}" if self.line == self.last_line else f"{self.line}-{self.last_line}"
        return f"{self.source}:{lines}"


class Hits(msgspec.Struct, frozen=True, kw_only=True):
    """The passages, best first; `notes` say what did not go as asked. A sequence of passages."""

    query: str
    passages: tuple[Passage, ...] = ()
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Passage]:
        return iter(self.passages)

    def __len__(self) -> int:
        return len(self.passages)

    def __getitem__(self, index: int) -> Passage:
        return self.passages[index]

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        rows = [
            (f"{p.score:.3g}", snippet(p.text, self.query), p.citation, " › ".join(p.headings))
            for p in self.passages
        ]
        lines = [f"🔎 {escape(self.query[:200])}", ""]
        lines += table(("#score", "passage", "source", "section"), rows) or ["(nothing found)"]
        lines += [f"\nℹ {escape(note)}" for note in self.notes]
        plain = [f"{p.score:.3g}  {p.citation}  {snippet(p.text, self.query)}" for p in self]
        return bundle(lines, plain or ["nothing found"])


class DocumentInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A document of an index; `digest` changes with its content and with how it is indexed."""

    source: str
    digest: str
    chunks: int
    title: str = ""
    kind: str = ""


class Documents(msgspec.Struct, frozen=True):
    """The documents of an index. A sequence."""

    infos: tuple[DocumentInfo, ...] = ()

    def __iter__(self) -> Iterator[DocumentInfo]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)

    def __getitem__(self, index: int) -> DocumentInfo:
        return self.infos[index]

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        rows = [(d.source, d.kind, d.title, f"{d.chunks:,}") for d in self.infos[:200]]
        lines = table(("source", "kind", "title", "#chunks"), rows) or ["(no documents)"]
        if len(self.infos) > len(rows):
            lines += ["", f"… {len(self.infos) - len(rows):,} more"]
        return bundle(lines, [f"{len(self.infos):,} documents"])


class Ingested(msgspec.Struct, frozen=True, kw_only=True):
    """What an ingest did, in documents; `empty` ones hold no text. `chunks` were written,
    `embedded` of them by the embedder and the others from the cache.
    """

    index: str
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    empty: int = 0
    failed: tuple[Failed, ...] = ()
    chunks: int = 0
    embedded: int = 0
    usage: Usage = Usage()
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Ingested {self._line()}>"

    def _line(self) -> str:
        names = ("added", "changed", "unchanged", "removed", "empty")
        said = [f"{getattr(self, n):,} {n}" for n in names if getattr(self, n)]
        said += [f"{len(self.failed):,} failed"] if self.failed else []
        if self.chunks:
            said.append(f"{self.chunks:,} chunks ({self.embedded:,} embedded)")
        if self.usage.input:
            said.append(f"{self.usage.input:,} tokens")
        if self.usage.cost:
            said.append(f"${self.usage.cost:.4f}")
        return " · ".join([*(said or ["nothing to read"]), f"{self.seconds:.1f} s"])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        lines = [f"📚 **{escape(self.index)}** · {escape(self._line())}"]
        lines += [f"\nℹ {escape(note)}" for note in self.notes]
        return bundle(lines + failed_lines(self.failed), [f"{self.index}: {self._line()}"])


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """An index in figures: its documents, how they were cut, and the engine that answers."""

    documents: int
    chunking: str
    vectors: IndexStats

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        info, stats = self.vectors.info, self.vectors
        rows = [
            ("documents", f"{self.documents:,}"),
            ("chunks", f"{info.count:,}"),
            ("chunking", self.chunking),
            ("embedder", info.embedder or "none: words only"),
            ("dimension", f"{info.dimension:,} {info.dtype}, {info.metric}"),
            ("engine", ": ".join(filter(None, (stats.engine, stats.why)))),
            ("in memory", _size(stats.memory)),
            ("on disk", _size(stats.disk)),
        ]
        lines = [f"📚 **{escape(info.name)}**", "", *table(("", ""), rows)]
        return bundle(lines, [f"{name}: {value}" for name, value in rows])


def _size(n: float) -> str:
    if n < 1000:
        return f"{n:.0f} bytes"
    if n < 1e6:
        return f"{n / 1e3:.1f} kB"
    return f"{n / 1e6:,.1f} MB"


def bundle(lines: Sequence[str], plain: Sequence[str]) -> dict[str, Any]:
    text = "\n".join(_UNPRINTABLE.sub("\ufffd", line) for line in plain)
    return {"text/markdown": "\n".join(lines), "text/plain": text}


_HEADING = re.compile(r"^#{1,6} ", re.MULTILINE)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown, all of it escaped; a name that begins with "#" is of figures."""
    if not rows:
        return []
    head = "| " + " | ".join(escape(n.removeprefix("#")) for n in names) + " |"
    rule = "|" + "|".join("--:" if n.startswith("#") else "---" for n in names) + "|"
    return [head, rule, *("| " + " | ".join(map(escape, row)) + " |" for row in rows)]


def snippet(text: str, query: str, most: int = _SNIPPET) -> str:
    """One line of the text, from where the longest word of the query is that it has."""
    line = " ".join(_HEADING.sub("", text[:20_000]).split())
    low = line.lower()
    words = sorted(re.findall(r"\w{3,}", query[:500].lower())[:20], key=len, reverse=True)
    found = (low.find(word) for word in words)
    at = max(0, next((f for f in found if f >= 0), 0) - 40)
    cut = line[at : at + most]
    return ("…" if at else "") + cut + ("…" if at + most < len(line) else "")


# --- how a chunk is kept in a vector index ------------------------------------------------------

SOURCE, DIGEST, PART, FACTS = "_source", "_digest", "_part", "_chunk"


class _Facts(msgspec.Struct, kw_only=True, omit_defaults=True, array_like=True):
    start: int = 0
    end: int = 0
    line: int = 0
    last_line: int = 0
    place: str = ""
    title: str = ""
    kind: str = ""
    parts: int = 1
    headings: tuple[str, ...] = ()


def stored(
    document: Document, chunk: Chunk, part: int, parts: int, digest: str, more: Mapping[str, Any]
) -> dict[str, Any]:
    """The metadata of a chunk: the document's, and ours under keys that begin with "_"."""
    facts = _Facts(
        start=chunk.start,
        end=chunk.end,
        line=chunk.line,
        last_line=chunk.last_line,
        place=chunk.place,
        title=document.title,
        kind=document.kind,
        parts=parts,
        headings=chunk.headings,
    )
    return {
        "source": document.source,
        "kind": document.kind,
        **document.metadata,
        **more,
        SOURCE: document.source,
        DIGEST: digest,
        PART: part,
        FACTS: msgspec.to_builtins(facts),
    }


def _facts(metadata: Mapping[str, Any]) -> _Facts:
    return msgspec.convert(metadata.get(FACTS, []), _Facts)


def passage(hit: Hit) -> Passage:
    facts = _facts(hit.metadata)
    return Passage(
        id=hit.id,
        score=hit.score,
        text=hit.text,
        source=str(hit.metadata.get(SOURCE, hit.id)),
        start=facts.start,
        end=facts.end,
        line=facts.line,
        last_line=facts.last_line,
        place=facts.place,
        title=facts.title,
        headings=facts.headings,
        metadata={k: v for k, v in hit.metadata.items() if not k.startswith("_")},
        similarity=hit.similarity,
        bm25=hit.bm25,
    )


def document_info(metadata: Mapping[str, Any]) -> DocumentInfo:
    """Of a document, by the metadata of its first chunk."""
    facts = _facts(metadata)
    return DocumentInfo(
        source=str(metadata[SOURCE]),
        digest=str(metadata.get(DIGEST, "")),
        chunks=facts.parts,
        title=facts.title,
        kind=facts.kind,
    )
