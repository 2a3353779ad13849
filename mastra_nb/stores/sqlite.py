"""The store in one SQLite file, shared by all notebooks and processes of one machine."""

from __future__ import annotations

import urllib.parse
from pathlib import Path

from mastra_nb.errors import ConfigError
from mastra_nb.stores import _sql
from mastra_nb.stores._docs import Docs, Embeddings
from mastra_nb.stores._journal import Journal
from mastra_nb.stores._schema import APPLICATION_ID, MIGRATIONS
from mastra_nb.stores._threads import Threads
from mastra_nb.stores._upkeep import Upkeep

ForeignConnectionWarning = _sql.ForeignConnectionWarning


class SQLiteStore(Journal, Threads, Docs, Upkeep):
    """Use `open_store`. Any event loop and thread of the process may call it."""

    def __init__(self, path: Path, url: str) -> None:
        super().__init__(path, url, APPLICATION_ID, MIGRATIONS)
        self.embeddings = Embeddings(self)


def open_store(url: str) -> SQLiteStore:
    """The store at `url`: "sqlite:///relative.db" or "sqlite:////absolute/path.db".

    Makes the file if it is new, and upgrades one of an older version. Raises ConfigError for
    another URL; StorageError if the file is damaged, not ours or cannot be opened; MigrationError
    if it is of a newer version.
    """
    name = urllib.parse.unquote(url.removeprefix("sqlite:///"))
    if name in ("", ":memory:") or url.removesuffix(":memory:") == "sqlite://":
        raise ConfigError(
            f'"{url}" does not name a file.', hint='A store in memory is "memory://".'
        )
    if not url.startswith("sqlite:///") or "?" in url or "\0" in name:
        raise ConfigError(
            f'"{url}" does not name a SQLite file.',
            hint="Write sqlite:///relative.db or sqlite:////absolute/path.db",
        )
    return SQLiteStore(Path(name).expanduser().resolve(), url)
