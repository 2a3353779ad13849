"""Bytes of a file to a Document, by its kind. Nothing here opens a path or an address."""

from __future__ import annotations

import csv
import io
import re
import sys
import zipfile
from collections.abc import Callable
from typing import Any

import msgspec

from mastra_nb.errors import MastraError, MissingExtra, SchemaError
from mastra_nb.rag.chunking import Place
from mastra_nb.rag.documents import Document

# Unpacked, of a file that is an archive.
MAX_UNPACKED = 200_000_000
_MAX_OUTPUT = 2_000
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

_KINDS = {
    "markdown": "md markdown mdx qmd",
    "html": "html htm xhtml",
    "json": "json",
    "csv": "csv tsv",
    "python": "py pyi",
    "notebook": "ipynb",
    "office": "pdf docx pptx xlsx xls epub",
}
_BY_SUFFIX = {s: kind for kind, suffixes in _KINDS.items() for s in suffixes.split()}
_LANGUAGES = {
    "c": "c", "h": "c", "cc": "c++", "cpp": "c++", "hpp": "c++", "cs": "c#", "go": "go",
    "java": "java", "jl": "julia", "js": "javascript", "jsx": "javascript", "kt": "kotlin",
    "php": "php", "r": "r", "rb": "ruby", "rs": "rust", "scala": "scala", "sh": "shell",
    "sql": "sql", "swift": "swift", "ts": "typescript", "tsx": "typescript",
}  # fmt: skip
_ZIPPED = frozenset({"docx", "pptx", "xlsx", "epub"})
_BY_TYPE = {
    "text/markdown": "md",
    "text/html": "html",
    "application/xhtml+xml": "html",
    "application/json": "json",
    "text/csv": "csv",
    "application/pdf": "pdf",
    "application/x-ipynb+json": "ipynb",
    "application/epub+zip": "epub",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
}
MEDIA_TYPES = ("text/", "application/json", "application/xml", *_BY_TYPE)
# Nobody looks for text in these; a folder may hold many.
BINARY_SUFFIXES = frozenset(
    {"png", "jpg", "jpeg", "gif", "webp", "bmp", "ico", "svg", "tif", "tiff", "mp3", "mp4", "wav",
     "ogg", "flac", "avi", "mov", "mkv", "webm", "zip", "gz", "bz2", "xz", "zst", "7z", "rar",
     "tar", "whl", "jar", "class", "so", "dylib", "dll", "exe", "pyc", "db", "sqlite", "sqlite3",
     "npy", "npz", "parquet", "arrow", "feather", "bin", "gguf", "onnx", "safetensors", "woff",
     "woff2", "ttf", "otf", "eot", "lock"}
)  # fmt: skip


def suffix_of(name: str, media_type: str = "") -> str:
    """ "md" for "docs/A.MD"; a media type that says more counts more."""
    if media_type in _BY_TYPE:
        return _BY_TYPE[media_type]
    tail = name.replace("\\", "/").rpartition("/")[2]
    return tail.rpartition(".")[2].lower() if "." in tail else ""


def read_document(data: bytes, source: str, *, suffix: str = "", charset: str = "") -> Document:
    """Raises MastraError for what cannot be read as text; MissingExtra for office files."""
    kind = _BY_SUFFIX.get(suffix, "text")
    if kind == "office":
        return _office(data, source, suffix)
    text = decoded(data, source, charset)
    if language := _LANGUAGES.get(suffix):
        return Document(text, source, "text", {"language": language})
    if kind == "csv":
        return _csv(text, source, "\t" if suffix == "tsv" else ",")
    made: Callable[[str, str], Document] = _READERS.get(kind, Document.from_text)
    try:
        document = made(text, source)
    except SchemaError:
        # Damaged JSON is still text that somebody may look for.
        return Document(text, source)
    return document


def decoded(data: bytes, source: str = "", charset: str = "") -> str:
    """As what it says it is, as UTF-8, or as Windows' western European. Raises SchemaError."""
    for mark, name in _MARKS:
        if data.startswith(mark):
            charset = name
            break
    else:
        if b"\0" in data[:8192]:
            raise SchemaError(f'"{source}" is no text: it holds zero bytes', code="rag.binary")
        if not charset and (said := _META.search(data[:2048])):
            charset = said[1].decode("ascii")
    for name in (charset, "utf-8", "cp1252"):
        try:
            text = data.decode(name) if name else None
        except (UnicodeDecodeError, LookupError, ValueError):
            continue
        if text is not None:
            return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")
    return data.decode("latin-1").replace("\r\n", "\n").replace("\r", "\n")


# UTF-32's begins as UTF-16's does.
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_META = re.compile(rb"<meta[^>]{0,200}charset=[\"']?([A-Za-z0-9_-]{2,40})", re.IGNORECASE)


def _csv(text: str, source: str, delimiter: str) -> Document:
    """Each row with the names of its columns: a chunk of it can be understood by itself."""
    try:
        rows = csv.reader(io.StringIO(text), delimiter=delimiter)
        names = next(rows, [])
        out: list[str] = []
        places: list[Place] = []
        at = 0
        for row in rows:
            if not any(row):
                continue
            cells = [*names, *([""] * (len(row) - len(names)))]
            said = "\n".join(
                f"{name}: {value}" if name else value
                for name, value in zip(cells, row, strict=False)
                if value
            )
            places.append(Place(at, "row", len(places) + 1))
            out.append(said)
            at += len(said) + 2
    except csv.Error:
        return Document(text, source)
    if not out:
        return Document(text, source)
    return Document("\n\n".join(out), source, "csv", {"columns": names}, tuple(places))


class _Cell(msgspec.Struct):
    cell_type: str = ""
    source: str | list[str] = ""
    outputs: list[Any] = []


class _Notebook(msgspec.Struct):
    cells: list[_Cell]
    metadata: dict[str, Any] = {}


def _notebook(text: str, source: str) -> Document:
    try:
        found = msgspec.json.decode(text, type=_Notebook)
    except (msgspec.DecodeError, RecursionError) as error:
        raise SchemaError(f'"{source}" is no notebook: {error}') from None
    info = found.metadata.get("language_info")
    language = str(info.get("name", "")) if isinstance(info, dict) else ""
    out: list[str] = []
    places: list[Place] = []
    at = 0
    for no, cell in enumerate(found.cells, 1):
        said = _joined(cell.source).strip()
        if cell.cell_type == "code":
            shown = "\n".join(filter(None, map(_output, cell.outputs)))[:_MAX_OUTPUT].strip()
            said = _fenced(said, language or "python") if said else ""
            said += f"\n\n{_fenced(shown, 'text')}" if shown else ""
        if not said:
            continue
        places.append(Place(at, "cell", no))
        out.append(said)
        at += len(said) + 2
    facts = {"language": language} if language else {}
    return Document("\n\n".join(out), source, "notebook", facts, tuple(places))


def _joined(value: Any) -> str:
    return "".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _output(output: Any) -> str:
    if not isinstance(output, dict):
        return ""
    data = output.get("data")
    found = output.get("text") or (data.get("text/plain") if isinstance(data, dict) else "")
    return _ANSI.sub("", _joined(found))


def _fenced(text: str, language: str) -> str:
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    mark = "`" * (longest + 1)
    return f"{mark}{language}\n{text}\n{mark}"


def _office(data: bytes, source: str, suffix: str) -> Document:
    try:
        from markitdown import MarkItDown, StreamInfo
    except ModuleNotFoundError:
        raise MissingExtra(
            f'reading "{source}" needs "markitdown"', hint='pip install "mastra-nb[rag]"'
        ) from None
    if suffix in _ZIPPED:
        _check_archive(data, source)
    # Only bytes go in, and no address of where they are from: its converters could fetch.
    try:
        result = MarkItDown(enable_plugins=False).convert_stream(
            io.BytesIO(data), stream_info=StreamInfo(extension=f".{suffix}")
        )
    except MastraError:
        raise
    except Exception as error:
        if "MissingDependency" in type(error).__name__ + str(error):
            raise MissingExtra(
                f'reading "{source}" needs what markitdown reads .{suffix} with',
                hint='pip install "mastra-nb[rag]"',
            ) from None
        raise SchemaError(
            f'"{source}" cannot be read as .{suffix}: {type(error).__name__}',
            hint="is it damaged, or protected by a password?",
        ) from error
    text = result.markdown.replace("\0", "\ufffd")
    if suffix == "pdf" and text.startswith("%PDF-"):
        # What its reader cannot read, markitdown takes for plain text.
        raise SchemaError(f'"{source}" is damaged: no page of it can be read')
    facts = {"title": result.title} if result.title else {}
    kind = "text" if suffix == "pdf" else "markdown"
    if (parted := _PARTS.get(suffix)) is None or not parted[1].search(text):
        return Document(text, source, kind, facts)
    unit, mark = parted
    pieces = [piece.strip() for piece in mark.split(text)]
    # Slides are announced, pages are ended: what is empty is before the first or after the last.
    pieces = pieces[1:] if unit == "slide" else pieces
    places: list[Place] = []
    at = 0
    for no, piece in enumerate(pieces, 1):
        if piece:
            places.append(Place(at, unit, no))
        at += len(piece) + 2
    return Document("\n\n".join(pieces), source, kind, facts, tuple(places))


_PARTS = {
    "pdf": ("page", re.compile("\f")),
    "pptx": ("slide", re.compile(r"<!-- Slide number: \d+ -->")),
}


def _check_archive(data: bytes, source: str) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise SchemaError(f'"{source}" is damaged: {error}') from None
    if size > MAX_UNPACKED:
        raise SchemaError(
            f'"{source}" unpacks to {size:,} bytes', hint=f"at most {MAX_UNPACKED:,} are read"
        )


_READERS: dict[str, Callable[[str, str], Document]] = {
    "markdown": Document.from_markdown,
    "html": Document.from_html,
    "json": Document.from_json,
    "notebook": _notebook,
    "python": lambda text, source: Document(text, source, "python", {"language": "python"}),
}

csv.field_size_limit(min(sys.maxsize, 2**31 - 1, 50_000_000))
