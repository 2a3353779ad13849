"""What is to be read: files, folders, patterns, addresses, tables, documents."""

from __future__ import annotations

import glob
import hashlib
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from mastra_nb._escape import escape
from mastra_nb.errors import ConfigError, MastraError, NotFound, SchemaError
from mastra_nb.http.fetch import fetch
from mastra_nb.rag.documents import Document
from mastra_nb.rag.readers import BINARY_SUFFIXES, MEDIA_TYPES, read_document, suffix_of
from mastra_nb.tools import in_thread

MAX_BYTES = 20_000_000
_IGNORED = frozenset({"node_modules", "__pycache__", "site-packages", "venv", "env"})
# Another number makes an index read its sources again.
_VERSION = 1


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """A source that could not be read, and why."""

    source: str
    why: str

    @classmethod
    def of(cls, source: str, error: MastraError) -> Failed:
        return cls(source=source, why=": ".join(filter(None, (error.message, error.hint))))


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """A source that is there; `digest` is the same while its content is, `document` reads it."""

    source: str
    digest: str
    document: Callable[[], Document]


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """The documents, over which it iterates, and the sources that could not be read."""

    documents: tuple[Document, ...] = ()
    failed: tuple[Failed, ...] = ()

    def __iter__(self) -> Iterator[Document]:
        return iter(self.documents)

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, index: int) -> Document:
        return self.documents[index]

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        rows = [(d.source, d.kind, d.title, f"{len(d.text):,}") for d in self.documents[:50]]
        lines = ["| source | kind | title | characters |", "|---|---|---|--:|"]
        lines += ["| " + " | ".join(map(escape, row)) + " |" for row in rows]
        if len(self.documents) > len(rows):
            lines += ["", f"… {len(self.documents) - len(rows):,} more"]
        lines += failed_lines(self.failed)
        text = f"{len(self.documents):,} documents, {len(self.failed):,} failed"
        return {"text/markdown": "\n".join(lines), "text/plain": text}


def failed_lines(failed: Iterable[Failed], most: int = 20) -> list[str]:
    """As a Markdown list."""
    each = [*failed]
    lines = [f"- ✗ {escape(f.source)}: {escape(f.why)}" for f in each[:most]]
    more = [f"- … {len(each) - most:,} more"] if len(each) > most else []
    return ["", *lines, *more] if lines else []


async def load(
    *sources: Any,
    root: str | Path | None = None,
    max_bytes: int = MAX_BYTES,
    allow_hosts: Iterable[str] = (),
) -> Loaded:
    """Read files, folders, patterns ("docs/**/*.md"), https:// addresses, DataFrames and lists of
    these. What cannot be read is in `failed`, and the rest goes on. With `root` no path may leave
    it. `allow_hosts` are hosts of your own network that may be fetched from.

    Raises NotFound for a path that is not there, ConfigError for what is no source.
    """
    documents: list[Document] = []
    failed: list[Failed] = []
    async for found in items(*sources, root=root, max_bytes=max_bytes, allow_hosts=allow_hosts):
        if isinstance(found, Failed):
            failed.append(found)
            continue
        try:
            documents.append(await in_thread(found.document))
        except MastraError as error:
            failed.append(Failed.of(found.source, error))
    return Loaded(documents=tuple(documents), failed=tuple(failed))


async def items(
    *sources: Any,
    root: str | Path | None = None,
    max_bytes: int = MAX_BYTES,
    allow_hosts: Iterable[str] = (),
) -> AsyncIterator[Item | Failed]:
    """One by one, each read when it is asked for. Raises as `load` does, before the first."""
    plan = await in_thread(partial(_planned, sources, root))
    for step in plan:
        if isinstance(step, Item):
            yield step
        elif isinstance(step, str):
            yield await _page(step, max_bytes, allow_hosts)
        else:
            path, inside, named = step
            walk = _walk(path, inside) if path.is_dir() else iter([(path, named)])
            while True:
                entry = await in_thread(partial(next, walk, None))
                if entry is None:
                    break
                if isinstance(entry, Failed):
                    yield entry
                    continue
                found = await in_thread(partial(_file, entry[0], entry[1], inside, max_bytes))
                if found is not None:
                    yield found


_Step = Item | str | tuple[Path, Path | None, bool]


def _planned(sources: Iterable[Any], root: str | Path | None) -> list[_Step]:
    base = Path(root).resolve() if root is not None else None
    return [step for source in sources for step in _plan(source, base)]


def _plan(source: Any, base: Path | None) -> list[_Step]:
    if isinstance(source, Document):
        if not source.source:
            source = msgspec.structs.replace(source, source=f"text-{source.digest[:12]}")
        return [Item(source=source.source, digest=source.digest, document=partial(_same, source))]
    if type(source).__name__ == "DataFrame" and hasattr(source, "iloc"):
        return [step for d in Document.from_dataframe(source) for step in _plan(d, base)]
    if isinstance(source, str) and source.partition("://")[0].lower() in ("http", "https"):
        return [source]
    if isinstance(source, str | os.PathLike):
        return _paths(os.fspath(source), base)
    if isinstance(source, Iterable) and not isinstance(source, bytes | dict):
        return [step for one in source for step in _plan(one, base)]
    raise ConfigError(
        f'"{type(source).__name__}" is no source of documents',
        hint="give a path, a pattern, an https:// address, a DataFrame or a Document",
    )


def _same(document: Document) -> Document:
    return document


def _paths(given: Any, base: Path | None) -> list[_Step]:
    name = str(given)
    if "\0" in name or not name:
        raise ConfigError(f"{name!r} is no path", hint="it is empty or holds a zero byte")
    path = Path(name).expanduser() if base is None else base / name
    if base is not None and not path.resolve().is_relative_to(base):
        raise ConfigError(
            f'"{name}" leads out of "{base.name}"', hint="name a path inside it", code="rag.outside"
        )
    if path.exists() or path.is_symlink():
        # What a user names is meant; what a folder holds must be inside it.
        inside = base or (path.resolve() if path.is_dir() else None)
        return [(path, inside, True)]
    if glob.has_magic(name):
        fixed = [*_fixed(path.parts)]
        start, rest = Path(*fixed), path.parts[len(fixed) :]
        inside = base or start.resolve()
        # Unlike glob's, its "**" does not follow links, which may lead in circles.
        found = sorted(start.glob(str(Path(*rest, "*") if rest[-1] == "**" else Path(*rest))))
        files: list[_Step] = [
            (p, inside, False)
            for p in found
            if p.is_file() and not _is_ignored(p.parts[len(fixed) :])
        ]
        if files:
            return files
    raise NotFound(
        f'there is no "{name}"', hint='for text use Document("…"); a pattern is "docs/**/*.md"'
    )


def _fixed(parts: tuple[str, ...]) -> Iterator[str]:
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


def _is_ignored(parts: Iterable[str]) -> bool:
    return any(p.startswith(".") or p in _IGNORED for p in parts)


def _walk(folder: Path, inside: Path | None) -> Iterator[tuple[Path, bool] | Failed]:
    """Files under `folder` in order of name, (path, False); each folder once, however linked."""
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            state = here.stat()
            if (state.st_dev, state.st_ino) in seen:
                continue
            seen.add((state.st_dev, state.st_ino))
            entries = sorted(os.scandir(here), key=lambda e: e.name)
        except OSError as error:
            yield Failed(source=here.as_posix(), why=error.strerror or type(error).__name__)
            continue
        folders = []
        for entry in entries:
            if _is_ignored([entry.name]):
                continue
            path = here / entry.name
            try:
                is_folder = entry.is_dir()
            except OSError:
                is_folder = False
            if not is_folder:
                yield path, False
            elif (not entry.is_symlink() or _is_inside(path, inside)) and not (
                path / "pyvenv.cfg"
            ).exists():
                folders.append(path)
        waiting += reversed(folders)


def _is_inside(path: Path, inside: Path | None) -> bool:
    try:
        return inside is None or path.resolve().is_relative_to(inside)
    except (OSError, RuntimeError):
        # A link to itself.
        return False


def _file(path: Path, named: bool, inside: Path | None, most: int) -> Item | Failed | None:
    """None for what a folder holds and nobody would look for: links out of it, pictures, …"""
    source = path.as_posix().encode("utf-8", "replace").decode()
    suffix = suffix_of(path.name)
    if not named and suffix in BINARY_SUFFIXES:
        return None
    try:
        real = path.resolve()
        if inside is not None and not real.is_relative_to(inside):
            return Failed(source=source, why="it leads out of the folder") if named else None
        if not named and not real.is_file():
            return None
        # The file that was checked, even if a link takes its place meanwhile; a pipe never opens.
        fd = os.open(real, os.O_RDONLY | _NO_WAIT | _NO_LINK)
        with os.fdopen(fd, "rb") as file:
            state = os.fstat(fd)
            if not stat.S_ISREG(state.st_mode):
                return Failed(source=source, why="it is no ordinary file") if named else None
            if state.st_size > most:
                return _too_large(source, state.st_size, most)
            data = file.read(most + 1)
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Failed(source=source, why=why)
    if len(data) > most:
        return _too_large(source, len(data), most)
    office = suffix in ("pdf", "docx", "pptx", "xlsx", "xls", "epub")
    if not named and not office and b"\0" in data[:8192] and data[:2] not in _UTF16:
        return None
    return _item(data, source, suffix, "")


_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_UTF16 = (b"\xff\xfe", b"\xfe\xff", b"\0\0")


def _too_large(source: str, size: int, most: int) -> Failed:
    return Failed(source=source, why=f"{size:,} bytes are more than max_bytes={most:,}")


def _item(data: bytes, source: str, suffix: str, charset: str) -> Item:
    seal = hashlib.sha256(data)
    seal.update(f"\0{suffix}\0{charset}\0{_VERSION}".encode())
    return Item(
        source=source,
        digest=seal.hexdigest(),
        document=partial(_read, data, source, suffix, charset),
    )


def _read(data: bytes, source: str, suffix: str, charset: str) -> Document:
    try:
        return read_document(data, source, suffix=suffix, charset=charset)
    except (RecursionError, MemoryError, AssertionError, ValueError) as error:
        # What parsers of the standard library raise on what nobody meant them to read.
        raise SchemaError(f'"{source}" cannot be read: {type(error).__name__}') from error


async def _page(url: str, most: int, allow_hosts: Iterable[str]) -> Item | Failed:
    try:
        page = await fetch(url, max_bytes=most, allow_hosts=allow_hosts, media_types=MEDIA_TYPES)
    except MastraError as error:
        return Failed.of(url, error)
    suffix = suffix_of(page.url.partition("?")[0].partition("#")[0], page.media_type)
    if page.media_type == "text/plain" and suffix in ("html", "htm"):
        suffix = ""
    return _item(page.body, url, suffix, page.charset)
