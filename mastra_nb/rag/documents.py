"""Documents: text with a source and metadata."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from mastra_nb.errors import ConfigError, SchemaError
from mastra_nb.rag._html import html_text
from mastra_nb.rag.chunking import Chunk, Chunking, Place, Strategy, digest, outline, split
from mastra_nb.schema import clean, to_json

if TYPE_CHECKING:
    import pandas as pd


class Document(msgspec.Struct, frozen=True):
    """`source` says where it is from and is what an index knows it by; `kind` how it is written:
    "text", "markdown", "html" (held as Markdown), "json", "csv", "python", "notebook".
    """

    text: str
    source: str = ""
    kind: str = "text"
    metadata: dict[str, Any] = {}
    places: tuple[Place, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise SchemaError(
                f"the text of a document is a {type(self.text).__name__}", hint="give a str"
            )
        facts = to_json(self.metadata)
        if not isinstance(facts, dict):
            raise SchemaError("the metadata of a document is no dict", hint='{"year": 2026}')
        for name, value in (
            ("text", clean(self.text)),
            ("source", clean(str(self.source))),
            ("metadata", facts),
        ):
            msgspec.structs.force_setattr(self, name, value)
        own = [k for k in facts if k.startswith("_")]
        if own:
            raise SchemaError(
                f'the metadata key "{own[0]}" begins with "_"', hint="such keys are the index's own"
            )

    @classmethod
    def from_text(cls, text: str, source: str = "", **metadata: Any) -> Document:
        return cls(text, source, "text", metadata)

    @classmethod
    def from_markdown(cls, text: str, source: str = "", **metadata: Any) -> Document:
        return cls(text, source, "markdown", {**front_matter(text), **metadata})

    @classmethod
    def from_html(cls, html: str, source: str = "", **metadata: Any) -> Document:
        """Its text as Markdown; scripts, styles and hidden parts are left out."""
        text, title = html_text(html)
        return cls(text, source, "html", {**({"title": title} if title else {}), **metadata})

    @classmethod
    def from_json(cls, raw: str | bytes, source: str = "", **metadata: Any) -> Document:
        """JSON, indented. Raises SchemaError for what is no JSON."""
        try:
            text = msgspec.json.format(raw, indent=2)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise SchemaError(f'"{source or "the text"}" is no JSON: {error}') from None
        shown = text if isinstance(text, str) else text.decode()
        return cls(shown, source, "json", metadata)

    @classmethod
    def from_dataframe(
        cls,
        frame: pd.DataFrame,
        *,
        text: str | Sequence[str] | None = None,
        metadata: Sequence[str] | None = None,
        id: str | None = None,
        source: str = "table",
    ) -> list[Document]:
        """A document a row. `text` names the columns that are read (None: all that hold strings),
        `metadata` those that are kept beside (None: the others); `id` the one that tells rows
        apart (None: the frame's index).
        """
        columns = {str(c): frame[c] for c in frame.columns}
        read = [text] if isinstance(text, str) else [*text] if text is not None else None
        if read is None:
            read = [n for n, c in columns.items() if n != id and _is_text(c)]
        kept = [*metadata] if metadata is not None else [n for n in columns if n not in read]
        missing = [n for n in [*read, *kept, *([id] if id else [])] if n not in columns]
        if missing or not read:
            raise ConfigError(
                f'the table has no column "{missing[0]}"' if missing else "no column holds text",
                hint="it has: " + ", ".join(map(str, columns)),
            )
        names = columns[id].tolist() if id else frame.index.tolist()
        out = []
        for row, name in enumerate(names):
            said = {n: columns[n].iloc[row] for n in read}
            parts = {n: str(v) for n, v in said.items() if not _is_missing(v)}
            body = next(iter(parts.values()), "") if len(read) == 1 else _labelled(parts)
            facts = {n: _plain(columns[n].iloc[row]) for n in kept}
            out.append(cls(body, f"{source}#{name}", "text", facts))
        return out

    @property
    def title(self) -> str:
        if title := self.metadata.get("title"):
            return str(title)
        if self.kind in ("markdown", "html", "notebook"):
            return next((t for _, level, t in outline(self.text[:20_000], "markdown")), "")
        return ""

    @property
    def digest(self) -> str:
        """The same for the same text and metadata."""
        facts = msgspec.json.encode([self.kind, self.metadata, self.places], order="sorted")
        return digest(f"{facts.decode()}\n{self.text}")

    def chunk(
        self,
        strategy: Strategy = "auto",
        *,
        max_size: int = 1200,
        overlap: int = 0,
        chunking: Chunking | None = None,
    ) -> list[Chunk]:
        """In order; all but white space is in one of them.

        Raises ConfigError, MissingExtra without semantic-text-splitter.
        """
        how = chunking or Chunking(strategy=strategy, max_size=max_size, overlap=overlap)
        return split(self.text, kind=self.kind, places=self.places, chunking=how)


def front_matter(text: str) -> dict[str, Any]:
    """Plain values of the YAML between "---" lines at the start of a Markdown text."""
    if not text.startswith("---\n") or (end := text.find("\n---", 4, 4096)) < 0:
        return {}
    import yaml

    try:
        found = yaml.safe_load(text[4:end])
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    # Nested values are left out: a few aliases can stand for billions of them.
    plain = (str, int, float, bool)
    out: dict[str, Any] = {}
    for key, value in found.items():
        if not isinstance(key, str) or key.startswith("_"):
            continue
        if hasattr(value, "isoformat"):
            value = value.isoformat()
        if isinstance(value, plain) or (
            isinstance(value, list) and all(isinstance(v, plain) for v in value)
        ):
            out[key] = to_json(value)
    return out


def _is_text(column: Any) -> bool:
    return any(isinstance(v, str) for v in column.head(20))


def _is_missing(value: Any) -> bool:
    # NaN and NaT are the values that differ from themselves; pandas' NA has no truth.
    return value is None or type(value).__name__ == "NAType" or bool(value != value)


def _plain(value: Any) -> Any:
    if _is_missing(value):
        return None
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value.item() if hasattr(value, "item") else value


def _labelled(parts: dict[str, str]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in parts.items())
