"""What apsw and the system raise about a database file, as our errors."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import apsw

from mastra_nb.errors import Conflict, MastraError, StorageError, UsageError

# 3.7.0 to 3.51.2 can lose commits when two processes write one WAL file (sqlite.org/wal.html).
OLDEST_SQLITE = (3, 51, 3)


class Busy(Exception):
    """Another writer has the file now; try again."""


class Lost(Exception):
    """The WAL file was deleted while we wrote to it."""


class Abandoned(Exception):
    """The caller was cancelled while it waited for its turn: nothing was written."""


def check_sqlite(version: str) -> None:
    if tuple(int(part) for part in version.split(".")[:3]) < OLDEST_SQLITE:
        raise StorageError(
            f"SQLite {version} can lose data when two processes write one file.",
            hint="Upgrade it: pip install -U apsw",
            code="storage.sqlite_old",
        )


def translate(exc: Exception, path: Path) -> MastraError:
    """Our error for what apsw or the system raised about the file at `path`."""
    match exc:
        case MastraError():
            return exc
        case Busy() | apsw.BusyError() | apsw.LockedError():
            who = _holder(path)
            return StorageError(
                f'The database "{path}" is locked by {who}.',
                hint="Wait for its write to end, or stop it; other programs may hold the file too.",
                code="storage.locked",
            )
        case apsw.NotADBError() | apsw.CorruptError():
            return StorageError(
                f'The file "{path}" is not a database, or it is damaged: {exc}.',
                hint="Nothing was changed: move it away, restore a backup, or use another URL.",
                code="storage.corrupt",
            )
        case apsw.FullError() | OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return StorageError(
                f'There is no room left to write "{path}": nothing of this write was kept.',
                hint="Free disk space, or delete old runs, and try again.",
                code="storage.full",
            )
        case apsw.ReadOnlyError() | PermissionError() | OSError(errno=errno.EROFS):
            return read_only(path)
        case apsw.CantOpenError():
            return StorageError(
                f'The database "{path}" cannot be opened.',
                hint="Check that its folder exists and that you may read and write it.",
                code="storage.open",
            )
        case apsw.ConstraintError():
            return Conflict(f'A write to "{path}" was refused: {exc}.')
        case apsw.TooBigError():
            return StorageError(
                f'A value is too long for "{path}": SQLite stores up to 1 GB.',
                hint="Keep large data in files and store their names.",
                code="storage.too_big",
            )
        case apsw.InterruptError():
            return StorageError(
                f'The work on "{path}" was interrupted.', code="storage.interrupted"
            )
        case UnicodeEncodeError():
            return UsageError(
                "A name is not valid Unicode.",
                hint="Decode the text it came from with the right encoding.",
            )
    return StorageError(
        f'The database "{path}" failed: {exc}.',
        hint="Check the disk; nothing of this write was kept.",
        code="storage.io" if isinstance(exc, (apsw.IOError, OSError)) else "storage",
    )


def read_only(path: Path) -> StorageError:
    return StorageError(
        f'The database "{path}" can only be read: its file or folder is not writable.',
        hint="Copy it to a folder of yours, or change the permissions.",
        code="storage.readonly",
    )


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (apsw.Error, OSError, Busy) as exc:
        raise translate(exc, path) from exc


def _holder(path: Path) -> str:
    """Linux names the holder of the side file; elsewhere nobody can tell."""
    try:
        ino = os.stat(lock_path(path)).st_ino  # noqa: PTH116 - may be gone, as may /proc
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return "another process"
    for line in lines:
        fields = line.split()
        if "FLOCK" in fields and fields[5].rpartition(":")[2] == str(ino):
            return f"process {fields[4]}"
    return "another process, which is not a store of ours"


def lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")
