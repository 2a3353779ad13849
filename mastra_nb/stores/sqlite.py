"""The store in one SQLite file, shared by all notebooks and processes of one machine."""

from __future__ import annotations

import sys
import urllib.parse
from pathlib import Path
from typing import Literal

import apsw

from mastra_nb.errors import ConfigError, NotFound
from mastra_nb.stores import _errors, _sql
from mastra_nb.stores._docs import Docs, Embeddings
from mastra_nb.stores._journal import Journal
from mastra_nb.stores._schema import APPLICATION_ID, MIGRATIONS
from mastra_nb.stores._threads import Threads
from mastra_nb.stores._upkeep import Upkeep

ForeignConnectionWarning = _sql.ForeignConnectionWarning


class SQLiteStore(Journal, Threads, Docs, Upkeep):
    """Use `open_store`. Any event loop and thread of the process may call it."""

    def __init__(
        self, path: Path, url: str, synchronous: Literal["full", "normal"] = "full"
    ) -> None:
        super().__init__(path, url, APPLICATION_ID, MIGRATIONS)
        self.synchronous = synchronous
        self.embeddings = Embeddings(self)


def open_store(url: str) -> SQLiteStore:
    """The store at `url`: "sqlite:///relative.db" or "sqlite:////absolute/path.db".

    With "?synchronous=normal" nothing waits for the disk: what a run did survives the death of the
    process, but the last of it may be lost with the power. "full" waits where a run comes to rest.

    Makes the file if it is new, and upgrades one of an older version. Raises ConfigError for
    another URL; StorageError if the file is damaged, not ours or cannot be opened; MigrationError
    if it is of a newer version.
    """
    path, options = _place(url)
    synchronous: Literal["full", "normal"] = "full"
    if options == "synchronous=normal":
        synchronous = "normal"
    elif options != "synchronous=full":
        raise ConfigError(
            f'"?{options}" is no option of a SQLite file.',
            hint="Write sqlite:///relative.db or sqlite:///relative.db?synchronous=normal",
        )
    return SQLiteStore(path, url, synchronous)


def versions(url: str) -> tuple[int, int]:
    """(the version of the file's tables, that of this package); nothing is made or changed.

    Raises NotFound if there is no file, ConfigError, StorageError as `open_store`.
    """
    path, _ = _place(url)
    if not path.is_file():
        raise NotFound(f'there is no store at "{path}"', hint="it is made when something is kept")
    with _errors.translated(path):
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            found = _sql.inspect(db, path, APPLICATION_ID, sys.maxsize)
        finally:
            db.close()
    return found, len(MIGRATIONS)


def _place(url: str) -> tuple[Path, str]:
    """(the file, the options). Raises ConfigError."""
    place, has_options, options = url.partition("?")
    name = urllib.parse.unquote(place.removeprefix("sqlite:///"))
    if name in ("", ":memory:") or url.removesuffix(":memory:") == "sqlite://":
        raise ConfigError(
            f'"{url}" does not name a file.', hint='A store in memory is "memory://".'
        )
    if not url.startswith("sqlite:///") or "\0" in name:
        raise ConfigError(
            f'"{url}" does not name a SQLite file.',
            hint="Write sqlite:///relative.db or sqlite:////absolute/path.db",
        )
    return Path(name).expanduser().resolve(), options if has_options else "synchronous=full"
