"""One SQLite file in one process: who may write when, on which connection, and what errors mean.

Laws of this file: a write transaction is `BEGIN IMMEDIATE` under `flock` on `<db>.lock`; there is
one writer connection per file and process; readers are pooled and read in one statement or one
short transaction; nothing of a parent process is used after a fork.

The side file is needed because POSIX locks belong to the process: when another SQLite library
opens and closes the same file in this process, all locks of ours are gone. That library also
believes to be the last user, so it deletes the WAL file; what we wrote after that would go to a
deleted file. `File.lost` sees it and the connections are opened anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import sys
import threading
import time
import urllib.parse
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import apsw

from mastra_nb.errors import MigrationError, StorageError
from mastra_nb.stores._errors import (
    Abandoned,
    Busy,
    Lost,
    check_sqlite,
    lock_path,
    read_only,
    translate,
    translated,
)

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

# SQLite takes a shorter file for an empty one and would write over it.
SMALLEST_FILE = 512
BUSY_SECONDS = 15.0
CHECKPOINT_PAGES = 2000
POOLED_READERS = 4

T = TypeVar("T")
Work = Callable[[apsw.Connection], T]


class ForeignConnectionWarning(RuntimeWarning):
    """Another SQLite library of this process opens a file that a store has open."""


class Guard:
    """An advisory lock on a side file: at most one write transaction among our processes."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def acquire(self) -> None:
        """Raises Busy; never waits."""
        try:
            if sys.platform == "win32":
                os.lseek(self._fd, 0, os.SEEK_SET)
                msvcrt.locking(self._fd, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            if exc.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
                raise Busy from exc
            raise

    def release(self) -> None:
        if sys.platform == "win32":
            os.lseek(self._fd, 0, os.SEEK_SET)
            msvcrt.locking(self._fd, msvcrt.LK_UNLCK, 1)
        else:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._fd)


class File:
    """Use `attach` and `detach`: they share one File among the stores of a process."""

    def __init__(self, path: Path, app_id: int, migrations: Sequence[str]) -> None:
        self.path = path
        self.pid = os.getpid()
        self.users = 0
        self.key = (0, 0)
        self.timeout = BUSY_SECONDS
        # Reentrant: a store may be collected, and so closed, while this thread holds it.
        self.lock = threading.RLock()
        self._generation = 0
        self._all: list[apsw.Connection] = []
        self._readers: list[apsw.Connection] = []
        self._writer: apsw.Connection | None = None
        self._guard: Guard | None = None
        self._wal_fd = -1
        self._frozen: tuple[int, ...] | None = None
        self._checkpoint_due = False
        self.writing: ThreadPoolExecutor | None = None
        self.reading: ThreadPoolExecutor | None = None
        with translated(path):
            check_sqlite(apsw.sqlite_lib_version())
            self.readonly = path.exists() and not (
                os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
            )
            try:
                self._open(app_id, migrations)
            except BaseException:
                self.close()
                raise
            stat = path.stat()
            self.key = (stat.st_dev, stat.st_ino)
            self.writing = ThreadPoolExecutor(1, "mastra-nb-write")
            self.reading = ThreadPoolExecutor(2, "mastra-nb-read")

    def _open(self, app_id: int, migrations: Sequence[str]) -> None:
        path, newest = self.path, len(migrations)
        if 0 < _size(str(path)) < SMALLEST_FILE:
            raise apsw.NotADBError("file is not a database")
        if self.readonly:
            version = self._patiently(
                lambda: self.read(lambda db: inspect(db, path, app_id, newest))
            )
            if version < newest:
                raise MigrationError(
                    f'The database "{path}" has version {version}, this package needs {newest}.',
                    hint="Make the file writable and open it once: it is upgraded then.",
                )
            return
        if path.exists():
            self._patiently(lambda: self._look(app_id, newest))
        elif not path.parent.is_dir():
            raise StorageError(
                f'The folder "{path.parent}" does not exist.',
                hint="Make the folder, or change the URL of the store.",
                code="storage.open",
            )
        elif not os.access(path.parent, os.W_OK):
            raise read_only(path)
        self._guard = Guard(lock_path(path))
        self._patiently(lambda: self._prepare(app_id, migrations))

    def _look(self, app_id: int, newest: int) -> None:
        """A file that turns out not to be ours is left exactly as it is, and alone."""
        if not _size(f"{self.path}-wal"):
            db = self._connect(*self._immutable())
            try:
                inspect(db, self.path, app_id, newest)
                return
            except apsw.Error:
                pass  # damaged, or another process has begun to write: see below
            finally:
                self._drop(db)
        db = self._connect(apsw.SQLITE_OPEN_READWRITE)
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        try:
            inspect(db, self.path, app_id, newest)
        finally:
            self._drop(db)

    def _immutable(self) -> tuple[int, str]:
        """How to open the file without a lock and without files beside it."""
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        return flags, f"{self.path.as_uri()}?immutable=1"

    def _patiently(self, work: Callable[[], T]) -> T:
        """For the start, which may block: repeat until nobody else has the file."""
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                return work()
            except (Busy, apsw.BusyError) as exc:
                if time.monotonic() > deadline:
                    raise translate(exc, self.path) from exc
            time.sleep(0.002 + random.random() * 0.01)

    def _prepare(self, app_id: int, migrations: Sequence[str]) -> None:
        assert self._guard is not None
        self._guard.acquire()
        try:
            db = self._connect(apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
            try:
                # Before the first page is written; later it would need a VACUUM.
                db.execute("PRAGMA auto_vacuum = INCREMENTAL").fetchall()
                mode = db.execute("PRAGMA journal_mode = WAL").get
                if mode != "wal":
                    raise StorageError(
                        f'The database "{self.path}" cannot use a write-ahead log here.',
                        hint="Keep it on a local disk: network folders are not supported.",
                        code="storage.open",
                    )
                _migrate(db, self.path, app_id, migrations)
                self._use_writer(db)
            except BaseException:
                self._drop(db)
                raise
        finally:
            self._guard.release()

    def _connect(self, flags: int, name: str | None = None) -> apsw.Connection:
        db = apsw.Connection(name or str(self.path), flags=flags)
        self._all.append(db)
        db.set_busy_timeout(0)
        # Else a statement is planned anew whenever the value of a range or a LIMIT changes hands.
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        db.execute("PRAGMA mmap_size = 0").fetchall()
        return db

    def _use_writer(self, db: apsw.Connection) -> apsw.Connection:
        db.execute("PRAGMA synchronous = NORMAL").fetchall()
        db.execute("PRAGMA journal_size_limit = 33554432").fetchall()
        # Replaces SQLite's own checkpoint in the commit: its fsync would block the event loop.
        db.set_wal_hook(self._after_commit)
        self._writer = db
        if sys.platform != "win32":
            db.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # makes the WAL file
            self._wal_fd = os.open(f"{self.path}-wal", os.O_RDONLY)
        return db

    def _after_commit(self, db: apsw.Connection, name: str, pages: int) -> int:
        self._checkpoint_due = pages >= CHECKPOINT_PAGES
        return apsw.SQLITE_OK

    def _drop(self, db: apsw.Connection) -> None:
        with contextlib.suppress(ValueError):
            self._all.remove(db)
        db.close()

    @property
    def lost(self) -> bool:
        """The files that our connections hold are no longer those at the path."""
        if self._wal_fd >= 0:
            return not os.fstat(self._wal_fd).st_nlink
        return self._frozen is not None and self._frozen != self._signature()

    def _signature(self) -> tuple[int, ...]:
        stat = self.path.stat()
        return (stat.st_ino, stat.st_size, stat.st_mtime_ns, _size(f"{self.path}-wal"))

    def _reopen(self) -> None:
        """Needs the lock. Nothing is lost: who deleted the WAL had moved its content first."""
        self._generation += 1
        old, self._readers = [db for db in self._readers if db in self._all], []
        if self._writer is not None:
            old.append(self._writer)
            self._writer = None
        for db in old:
            self._bury(db)
        if self._wal_fd >= 0:
            os.close(self._wal_fd)
            self._wal_fd = -1
        self._frozen = None
        if not self.readonly:
            self._open_writer()

    def _open_writer(self) -> apsw.Connection:
        return self._use_writer(self._connect(apsw.SQLITE_OPEN_READWRITE))

    def _bury(self, db: apsw.Connection) -> None:
        # Its close must not touch the WAL file that has taken the place of its own.
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self._drop(db)

    def write(self, work: Work[T], *, barrier: bool = False) -> T:
        """`work` in one transaction. Raises Busy at once; `work` may then be called again.

        With `barrier` the commit is made with `synchronous = FULL`: SQLite itself syncs the WAL,
        and the folder of a new one, before it answers.
        """
        if self.readonly:
            raise read_only(self.path)
        if not self.lock.acquire(blocking=False):
            raise Busy
        try:
            return self._write(work, barrier)
        except apsw.BusyError as exc:
            raise Busy from exc
        except (apsw.Error, OSError, UnicodeEncodeError) as exc:
            raise translate(exc, self.path) from exc
        finally:
            self.lock.release()

    def _write(self, work: Work[T], barrier: bool) -> T:
        guard = self._guard
        if guard is None:
            raise _gone(self.path)
        guard.acquire()
        try:
            while True:
                db = self._writer or self._open_writer()
                try:
                    result = self._commit(db, work, barrier)
                    break
                except Exception:
                    # On files that are gone nothing was true, and nothing was committed.
                    if not self.lost:
                        raise
                    self._reopen()
            if self.lost:
                raise StorageError(
                    f'Another SQLite library took "{self.path}" away while it was written: the '
                    "write may not have been kept.",
                    hint='Read with `app.sql("select …")` instead, then resume the run.',
                    code="storage.foreign",
                )
        finally:
            guard.release()
        if self._checkpoint_due and self.writing is not None:
            self._checkpoint_due = False
            # An interpreter that is ending takes no more work: closing the file will do it.
            with contextlib.suppress(RuntimeError):
                self.writing.submit(self.checkpoint)
        return result

    def _commit(self, db: apsw.Connection, work: Work[T], barrier: bool) -> T:
        if barrier:
            db.execute("PRAGMA synchronous = FULL").fetchall()
        try:
            db.execute("BEGIN IMMEDIATE")
            result = work(db)
            if self.lost:
                raise Lost
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        finally:
            if barrier:
                db.execute("PRAGMA synchronous = NORMAL").fetchall()
        return result

    def wait_write(
        self, work: Work[T], abandoned: threading.Event, deadline: float, *, barrier: bool = False
    ) -> T:
        """`write`, tried until `deadline` (time.monotonic). For a thread: it sleeps."""
        return self._wait(lambda: self.write(work, barrier=barrier), abandoned, deadline)

    def wait_read(
        self, work: Work[T], abandoned: threading.Event, deadline: float, *, private: bool = False
    ) -> T:
        return self._wait(lambda: self.read(work, private=private), abandoned, deadline)

    def _wait(self, work: Callable[[], T], abandoned: threading.Event, deadline: float) -> T:
        pause = 0.0005
        while True:
            if abandoned.is_set():
                raise Abandoned
            try:
                return work()
            except Busy as exc:
                if time.monotonic() > deadline:
                    raise translate(exc, self.path) from exc
            time.sleep(pause * (0.5 + random.random()))
            pause = min(pause * 1.5, 0.01)

    def read(self, work: Work[T], *, private: bool = False) -> T:
        """`work` on a reader. Raises Busy at once. A `private` one is not pooled afterwards."""
        try:
            if self.lost:
                with self.lock:
                    if self.lost:
                        self._reopen()
            generation = self._generation
            try:
                db = self._reader() if private else self._readers.pop()
            except IndexError:
                db = self._reader()
            try:
                return work(db)
            finally:
                if generation != self._generation:
                    self._bury(db)
                elif private or len(self._readers) >= POOLED_READERS:
                    self._drop(db)
                else:
                    self._readers.append(db)
        except apsw.BusyError as exc:
            raise Busy from exc
        except (apsw.Error, OSError, UnicodeEncodeError) as exc:
            raise translate(exc, self.path) from exc

    def _reader(self) -> apsw.Connection:
        if self.pid != os.getpid() or (self._guard is None and not self.readonly):
            raise _gone(self.path)
        if self.readonly and not _size(f"{self.path}-wal"):
            # Without a WAL SQLite would want to make one, in a folder where it may not.
            self._frozen = self._signature()
            db = self._connect(*self._immutable())
        else:
            db = self._connect(apsw.SQLITE_OPEN_READONLY)
        db.execute("PRAGMA query_only = ON").fetchall()
        return db

    def checkpoint(self) -> None:
        """Moves the WAL into the file, in the writer thread."""
        with self.lock:
            guard, db = self._guard, self._writer
            if guard is None or db is None:
                return
            try:
                guard.acquire()
            except Busy:
                return
            try:
                if not self.lost:
                    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            except apsw.Error:
                # Nobody waits for this one. The next commit asks again, or fails for itself.
                self._checkpoint_due = True
            finally:
                guard.release()

    def close(self) -> None:
        """Closes every connection; the last one of all processes moves the WAL into the file."""
        with self.lock:
            guard, self._guard = self._guard, None
            owned = False
            if guard is not None:
                with contextlib.suppress(Busy):
                    guard.acquire()
                    owned = True
            lost = self._wal_fd >= 0 and self.lost
            # The writer last: a reader may not move the WAL. A reader at work in another thread
            # is told to stop, and closed by that thread.
            self._generation += 1
            idle = [*self._readers, *([self._writer] if self._writer is not None else [])]
            for db in tuple(self._all):
                if db not in idle:
                    with contextlib.suppress(apsw.ConnectionClosedError):
                        db.interrupt()
            for db in idle:
                if lost:
                    self._bury(db)
                else:
                    self._drop(db)
            self._readers, self._writer = [], None
            if self._wal_fd >= 0:
                os.close(self._wal_fd)
                self._wal_fd = -1
            if guard is not None:
                if owned:
                    guard.release()
                guard.close()
        for pool in (self.writing, self.reading):
            if pool is not None:
                pool.shutdown(wait=False)

    def forget(self) -> None:
        """In a forked child: let go of the parent's things without touching its file."""
        for db in self._all:
            # Closing it, now or at exit, would act on locks that are the parent's.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(db))
        self._all, self._readers, self._writer = [], [], None
        # A child that kept it open would hold the parent's lock after the parent's death.
        if self._guard is not None:
            self._guard.close()
        if self._wal_fd >= 0:
            os.close(self._wal_fd)
        self._guard, self._wal_fd = None, -1
        self.writing = self.reading = None


def _gone(path: Path) -> StorageError:
    return StorageError(
        f'The database "{path}" is closed.', hint="Open the store again.", code="storage.closed"
    )


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - on the path of every read
    except FileNotFoundError:
        return 0


def inspect(db: apsw.Connection, path: Path, app_id: int, newest: int) -> int:
    """The version of the file; 0 if it is empty. Raises if it is not ours or too new."""
    tables, version = (
        db.execute("SELECT count(*) FROM sqlite_schema").get,
        db.execute("PRAGMA user_version").get,
    )
    if tables and db.execute("PRAGMA application_id").get != app_id:
        raise StorageError(
            f'The database "{path}" belongs to another program.',
            hint="Nothing was changed: give the store a file of its own.",
            code="storage.foreign",
        )
    if not tables:
        return 0
    if version > newest:
        raise MigrationError(
            f'The database "{path}" has version {version}, this package knows up to {newest}.',
            hint="Upgrade the package: pip install -U mastra-nb",
        )
    return int(version)


def _migrate(db: apsw.Connection, path: Path, app_id: int, migrations: Sequence[str]) -> None:
    if inspect(db, path, app_id, len(migrations)) == len(migrations):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        version = inspect(db, path, app_id, len(migrations))
        for number, script in enumerate(migrations[version:], version + 1):
            db.execute(script).fetchall()
            db.execute(f"PRAGMA user_version = {number}").fetchall()
        db.execute(f"PRAGMA application_id = {app_id}").fetchall()
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


_files: dict[tuple[int, int], File] = {}
_registry = threading.RLock()
_hooked = False


def attach(path: Path, app_id: int, migrations: Sequence[str]) -> File:
    """The File of `path` in this process. Raises StorageError, MigrationError."""
    global _hooked
    with _registry:
        if not _hooked:
            _hooked = True
            sys.addaudithook(_watch)
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=_forget_all)
        file = None
        with contextlib.suppress(OSError):
            stat = path.stat()
            file = _files.get((stat.st_dev, stat.st_ino))
        if file is None:
            file = File(path, app_id, migrations)
            _files[file.key] = file
        file.users += 1
        return file


def detach(file: File) -> None:
    """The last one closes the file."""
    if file.pid != os.getpid():
        return
    with _registry:
        file.users -= 1
        if file.users:
            return
        if _files.get(file.key) is file:
            del _files[file.key]
    file.close()


def _forget_all() -> None:
    global _registry
    _registry = threading.RLock()
    for file in _files.values():
        file.forget()
    _files.clear()


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if event != "sqlite3.connect" or not _files:
        return
    try:
        name = os.fsdecode(args[0])
        if name.startswith("file:"):
            path = name.removeprefix("file:").partition("?")[0]
            name = urllib.parse.unquote(path.removeprefix("//"))
        stat = os.stat(name)  # noqa: PTH116
    except (OSError, TypeError, ValueError):
        return
    file = _files.get((stat.st_dev, stat.st_ino))
    if file is not None and file.pid == os.getpid():
        warnings.warn(
            f'sqlite3 opens "{file.path}", which a store of this process has open: two SQLite '
            'libraries on one file can lose writes. Use `app.sql("select …")` instead.',
            ForeignConnectionWarning,
            stacklevel=2,
        )
