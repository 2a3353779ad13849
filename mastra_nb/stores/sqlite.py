"""The store in one SQLite file, shared by all notebooks and processes of one machine.

A small write runs inline, on the thread of the event loop; when another writer has the file, when
it is large, or when it must reach the disk before it returns (`barrier`), a writer thread does it.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import urllib.parse
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, TypeVar

import apsw
import msgspec

from mastra_nb.errors import ConfigError, Conflict, StorageError
from mastra_nb.events import (
    Event,
    MessageAdded,
    RunStatus,
    decode_payload,
)
from mastra_nb.storage import LEASE_SECONDS, RunRow, Thread, ThreadMessage
from mastra_nb.stores import _errors, _sql
from mastra_nb.stores import _rows as rows
from mastra_nb.stores import _rules as rules
from mastra_nb.stores._schema import APPLICATION_ID, MIGRATIONS

ForeignConnectionWarning = _sql.ForeignConnectionWarning

# Above these an inline call would keep the event loop for longer than a thread costs.
INLINE_WRITE_BYTES = 256 * 1024
INLINE_READ_EVENTS = 500
VACUUM_PAGES = 2000

T = TypeVar("T")

_MESSAGE = msgspec.json.Decoder(MessageAdded)
_json = msgspec.json.decode


class SQLiteStore:
    """Use `open_store`. Any event loop and thread of the process may call it."""

    def __init__(self, path: Path, url: str) -> None:
        self.url = url
        self.path = path
        self._closed = False
        self._attach()

    def _attach(self) -> None:
        self._attached = _sql.attach(self.path, APPLICATION_ID, MIGRATIONS)
        self._release = weakref.finalize(self, _sql.detach, self._attached)

    @property
    def _file(self) -> _sql.File:
        if self._closed:
            raise rules.closed(self.url)
        if self._attached.pid != os.getpid():
            self._attach()
        return self._attached

    # Journal

    async def create(self, row: RunRow, *, owner: str, lease: float = LEASE_SECONDS) -> RunRow:
        rules.check_names(
            row.id,
            row.name,
            row.kind,
            row.key,
            row.thread,
            row.code_version,
            row.graph_hash,
            row.parent_run,
            owner,
        )
        raw, now = rules.to_json(row.input, "The input of the run"), time.time()
        row = msgspec.structs.replace(
            row,
            owner=owner,
            fence=1,
            lease_until=now + lease,
            created=row.created or now,
            updated=now,
            input=_json(raw),
        )

        def work(db: apsw.Connection) -> None:
            if db.execute("SELECT 1 FROM run WHERE id = ?", (row.id,)).get:
                raise rules.run_taken(row.id)
            if row.key is not None:
                other = db.execute("SELECT id FROM run WHERE key = ?", (row.key,)).get
                if other is not None:
                    raise rules.key_taken(row.key, other)
            values = msgspec.structs.asdict(row)
            values["input"] = raw.decode()
            db.execute(
                """INSERT INTO run (id, name, kind, input, status, owner, fence, lease_until, key,
                    thread, code_version, graph_hash, parent_run, fork_seq, created, updated)
                VALUES (:id, :name, :kind, :input, :status, :owner, :fence, :lease_until, :key,
                    :thread, :code_version, :graph_hash, :parent_run, :fork_seq, :created,
                    :updated)""",
                values,
            )

        await self._write(work, threaded=len(raw) > INLINE_WRITE_BYTES)
        return row

    async def claim(self, run: str, *, owner: str, lease: float = LEASE_SECONDS) -> RunRow:
        rules.check_names(run, owner)

        def work(db: apsw.Connection) -> RunRow:
            row, now = rows.find_run(db, run), time.time()
            if row is None:
                raise rules.no_run(run)
            if row.owner != owner and row.lease_until > now:
                raise rules.held(run, row.owner, row.lease_until)
            row = msgspec.structs.replace(
                row, owner=owner, fence=row.fence + 1, lease_until=now + lease, updated=now
            )
            db.execute(
                "UPDATE run SET owner = ?, fence = ?, lease_until = ?, updated = ? WHERE id = ?",
                (owner, row.fence, row.lease_until, now, run),
            )
            return row

        return await self._write(work)

    async def append(
        self,
        run: str,
        fence: int,
        events: Sequence[Event],
        *,
        status: RunStatus | None = None,
        lease: float = LEASE_SECONDS,
        barrier: bool = False,
    ) -> None:
        rules.check_names(run)
        rules.check_events(run, events)
        lines = [(event, rules.payload_json(event.data, run, event.seq)) for event in events]

        def work(db: apsw.Connection) -> None:
            rows.extend(db, run, fence, lease, status)
            for event, raw in lines:
                rows.insert(db, event, raw, fence)

        size = sum([len(raw) for _, raw in lines])
        await self._write(work, barrier=barrier, threaded=barrier or size > INLINE_WRITE_BYTES)

    async def renew(self, run: str, fence: int, *, lease: float = LEASE_SECONDS) -> None:
        rules.check_names(run)
        await self._write(lambda db: rows.extend(db, run, fence, lease, None))

    async def get_run(self, run: str) -> RunRow | None:
        return await self._read(lambda db: rows.find_run(db, run))

    async def find_runs(
        self,
        *,
        name: str | None = None,
        status: RunStatus | None = None,
        key: str | None = None,
        prefix: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[RunRow]:
        terms: list[tuple[str, Any]] = []
        for term, value in (("name = ?", name), ("status = ?", status), ("key = ?", key)):
            if value is not None:
                terms.append((term, value))
        if prefix:
            terms.append(("id >= ?", prefix))
            if (end := rules.prefix_end(prefix)) is not None:
                terms.append(("id < ?", end))
        where = " AND ".join([term for term, _ in terms]) or "1"
        query = f"{rows.RUN} WHERE {where} ORDER BY created DESC, no DESC LIMIT ? OFFSET ?"
        values = (*[value for _, value in terms], rules.at_most(limit), rules.at_most(offset))
        return await self._read(lambda db: [rows.to_run(row) for row in db.execute(query, values)])

    async def read_events(self, run: str, *, after: int = 0) -> list[Event]:
        after = rules.at_most(after)

        def work(db: apsw.Connection) -> list[Event]:
            return [
                Event(
                    run=run,
                    seq=seq,
                    span=path,
                    parent=parent,
                    at=at,
                    v=v,
                    data=decode_payload(payload),
                )
                for seq, path, parent, at, v, payload in db.execute(rows.EVENTS, (run, after))
            ]

        last = await self._read(
            lambda db: db.execute("SELECT max(seq) FROM event WHERE run = ?", (run,)).get
        )
        if last is None or last <= after:
            return []
        return await self._read(work, threaded=last - after > INLINE_READ_EVENTS)

    async def delete_runs(self, *, before: float, keep_threads: bool = True) -> int:
        def work(db: apsw.Connection) -> int:
            bound = {"before": before, "now": time.time(), "keep": keep_threads}
            ids = db.execute(rows.OLD_RUNS, bound).fetchall()
            db.executemany(
                """DELETE FROM thread_message
                WHERE event IN (SELECT no FROM event WHERE run = ?)""",
                ids,
            )
            db.executemany("DELETE FROM event WHERE run = ?", ids)
            db.executemany("DELETE FROM run WHERE id = ?", ids)
            db.execute(
                """DELETE FROM blob WHERE sha256 NOT IN
                    (SELECT blob FROM event WHERE blob IS NOT NULL)"""
            )
            return len(ids)

        def shrink(db: apsw.Connection) -> int:
            db.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
            return int(db.execute("PRAGMA freelist_count").get)

        count = await self._write(work, threaded=True)
        while count and await self._write(shrink, threaded=True):
            pass
        return count

    # Threads

    async def put_thread(self, thread: Thread) -> Thread:
        rules.check_names(thread.id, thread.resource, thread.title)
        meta = rules.to_json(thread.meta, "The meta of the thread").decode()

        def work(db: apsw.Connection) -> Thread:
            now = time.time()
            row = db.execute(
                """INSERT INTO thread (id, resource, title, meta, created, updated, last)
                VALUES (?, ?, ?, ?, ?, ?, 0)
                ON CONFLICT (id) DO UPDATE SET resource = excluded.resource,
                    title = excluded.title, meta = excluded.meta, updated = excluded.updated
                RETURNING id, resource, title, meta, created, updated""",
                (thread.id, thread.resource, thread.title, meta, thread.created or now, now),
            ).fetchall()[0]
            return rows.to_thread(row)

        return await self._write(work)

    async def claim_thread(self, thread: str, resource: str) -> Thread:
        rules.check_names(thread, resource)

        def work(db: apsw.Connection) -> Thread:
            now = time.time()
            db.execute(
                """INSERT INTO thread (id, resource, title, meta, created, updated, last)
                VALUES (?, ?, '', '{}', ?, ?, 0)
                ON CONFLICT (id) DO UPDATE SET resource = excluded.resource
                WHERE thread.resource = '' AND thread.last = 0""",
                (thread, resource, now, now),
            ).fetchall()
            return rows.to_thread(db.execute(f"{rows.THREAD} WHERE id = ?", (thread,)).fetchone())

        return await self._write(work)

    async def get_thread(self, thread: str) -> Thread | None:
        def work(db: apsw.Connection) -> Thread | None:
            row = db.execute(f"{rows.THREAD} WHERE id = ?", (thread,)).fetchone()
            return None if row is None else rows.to_thread(row)

        return await self._read(work)

    async def find_threads(
        self, *, resource: str | None = None, limit: int = 100, offset: int = 0
    ) -> list[Thread]:
        where, values = ("1", ()) if resource is None else ("resource = ?", (resource,))
        query = f"{rows.THREAD} WHERE {where} ORDER BY updated DESC, no DESC LIMIT ? OFFSET ?"
        bound = (*values, rules.at_most(limit), rules.at_most(offset))
        return await self._read(
            lambda db: [rows.to_thread(row) for row in db.execute(query, bound)]
        )

    async def delete_thread(self, thread: str) -> bool:
        rules.check_names(thread)

        def work(db: apsw.Connection) -> bool:
            db.execute(
                """DELETE FROM thread_message
                WHERE thread = (SELECT no FROM thread WHERE id = ?)""",
                (thread,),
            )
            db.execute("DELETE FROM thread WHERE id = ?", (thread,))
            return db.changes() > 0

        return await self._write(work)

    async def link(self, thread: str, run: str, seqs: Sequence[int]) -> int:
        rules.check_names(thread, run)
        query = "SELECT no, last FROM thread WHERE id = ?"

        def work(db: apsw.Connection) -> int:
            row, now = db.execute(query, (thread,)).fetchone(), time.time()
            if row is None:
                db.execute(
                    """INSERT INTO thread (id, resource, title, meta, created, updated, last)
                    VALUES (?, '', '', '{}', ?, ?, 0)""",
                    (thread, now, now),
                )
                row = (db.last_insert_rowid(), 0)
            no, before = row
            last = before
            for seq in seqs:
                event = db.execute(rows.LINKED, (run, seq)).get
                if event is None:
                    raise rules.no_message(run, seq)
                db.execute(rows.LINK, (no, last + 1, event))
                last += db.changes()
            if last != before:
                db.execute("UPDATE thread SET last = ?, updated = ? WHERE no = ?", (last, now, no))
            return int(last)

        return await self._write(work)

    async def read_messages(
        self, thread: str, *, last: int | None = None, upto: int | None = None
    ) -> list[ThreadMessage]:
        bound = (
            thread,
            rules.MOST if upto is None else rules.at_most(upto),
            -1 if last is None else rules.at_most(last),
        )

        def work(db: apsw.Connection) -> list[ThreadMessage]:
            found = [
                ThreadMessage(
                    pos=pos,
                    run=run,
                    seq=seq,
                    message=_MESSAGE.decode(raw or db.execute(rows.BLOB, (digest,)).get).message,
                )
                for pos, run, seq, raw, digest in db.execute(rows.MESSAGES, bound)
            ]
            found.reverse()
            return found

        return await self._read(work)

    # Docs

    async def put(self, kind: str, id: str, data: Any) -> None:
        rules.check_names(kind, id)
        raw = rules.to_json(data, f'"{id}" of kind "{kind}"')

        def work(db: apsw.Connection) -> None:
            db.execute(
                """INSERT INTO doc (kind, id, data) VALUES (?, ?, ?)
                ON CONFLICT (kind, id) DO UPDATE SET data = excluded.data""",
                (kind, id, raw.decode()),
            )

        await self._write(work, threaded=len(raw) > INLINE_WRITE_BYTES)

    async def get(self, kind: str, id: str) -> Any | None:
        query = "SELECT data FROM doc WHERE kind = ? AND id = ?"
        raw = await self._read(lambda db: db.execute(query, (kind, id)).get)
        return None if raw is None else _json(raw)

    async def find(
        self, kind: str, *, prefix: str = "", limit: int = 1000
    ) -> list[tuple[str, Any]]:
        end = rules.prefix_end(prefix)
        bound: tuple[Any, ...] = (kind, prefix) if end is None else (kind, prefix, end)
        query = "" if end is None else "AND id < ?"
        query = f"SELECT id, data FROM doc WHERE kind = ? AND id >= ? {query} ORDER BY id LIMIT ?"  # noqa: S608
        bound = (*bound, rules.at_most(limit))
        found: list[Any] = await self._read(lambda db: db.execute(query, bound).fetchall())
        return [(id, _json(raw)) for id, raw in found]

    async def delete(self, kind: str, id: str) -> bool:
        rules.check_names(kind, id)

        def work(db: apsw.Connection) -> bool:
            db.execute("DELETE FROM doc WHERE kind = ? AND id = ?", (kind, id))
            return db.changes() > 0

        return await self._write(work)

    # The file

    async def sql(self, query: str, *args: Any) -> list[dict[str, Any]]:
        """The rows of a SELECT; `args` bind its `?`. Columns of one name get `_2`, `_3`.

        Raises StorageError: "storage.sql" for a mistake in the query, "storage.readonly" for one
        that would do anything but read. Cancelling it stops the query.
        """
        file, running = self._file, threading.Event()
        connection: list[apsw.Connection] = []

        def work(db: apsw.Connection) -> list[dict[str, Any]]:
            connection.append(db)
            db.set_authorizer(_only_reading)
            try:
                cursor = db.execute(query, args)
                return list(_dicts(cursor))
            except (apsw.SQLError, apsw.BindingsError, TypeError) as exc:
                raise StorageError(
                    f"The query failed: {exc}.",
                    hint="Tables: run, event, blob, thread, thread_message, doc.",
                    code="storage.sql",
                ) from exc
            except (apsw.AuthError, apsw.ReadOnlyError) as exc:
                raise StorageError(
                    "sql() only reads: this query would do something else.",
                    hint="Use the methods of the store to change data.",
                    code="storage.readonly",
                ) from exc
            finally:
                connection.clear()

        def stop() -> None:
            for db in connection:
                db.interrupt()

        deadline = time.monotonic() + file.timeout
        return await _in_thread(
            file.reading,
            lambda: file.wait_read(work, running, deadline, private=True),
            running,
            stop,
        )

    async def backup(self, path: str | os.PathLike[str]) -> Path:
        """A consistent copy of the file, made while others go on writing.

        Raises Conflict if something is at `path`.
        """
        file = self._file
        abandoned, deadline = threading.Event(), time.monotonic() + file.timeout

        def work() -> Path:
            target = Path(path).expanduser().resolve()
            if target.exists():
                raise Conflict(f'"{target}" exists already.', hint="Give the backup another name.")
            part = target.with_name(target.name + ".part")
            try:
                file.wait_read(lambda db: _copy(db, part), abandoned, deadline, private=True)
                with _errors.translated(target):
                    part.replace(target)
            finally:
                part.unlink(missing_ok=True)
            return target

        return await _in_thread(file.reading, work, abandoned)

    async def close(self) -> None:
        """Gives the file up; may be called again."""
        if self._closed:
            return
        self._closed = True
        pool = self._attached.writing
        if pool is None or self._attached.pid != os.getpid():
            self._release()
            return
        # Not on the loop: the last user of a file moves its log into it and syncs.
        await _in_thread(pool, self._release, threading.Event())

    async def _write(
        self, work: _sql.Work[T], *, barrier: bool = False, threaded: bool = False
    ) -> T:
        file = self._file
        if not threaded:
            try:
                return file.write(work)
            except _errors.Busy:
                pass  # the thread below waits its turn
        abandoned, deadline = threading.Event(), time.monotonic() + file.timeout
        return await _in_thread(
            file.writing,
            lambda: file.wait_write(work, abandoned, deadline, barrier=barrier),
            abandoned,
        )

    async def _read(self, work: _sql.Work[T], *, threaded: bool = False) -> T:
        file = self._file
        if not threaded:
            try:
                return file.read(work)
            except _errors.Busy:
                pass  # the thread below waits its turn
        abandoned, deadline = threading.Event(), time.monotonic() + file.timeout
        return await _in_thread(
            file.reading, lambda: file.wait_read(work, abandoned, deadline), abandoned
        )


async def _in_thread(
    pool: Executor | None,
    work: Callable[[], T],
    abandoned: threading.Event,
    stop: Callable[[], None] | None = None,
) -> T:
    """`work()` in `pool`. A cancelled caller learns of it when the work has ended either way."""
    future = asyncio.get_running_loop().run_in_executor(pool, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        abandoned.set()
        if stop is not None:
            stop()
        await asyncio.wait([future])
        if not future.cancelled():
            future.exception()
        raise


def _copy(db: apsw.Connection, target: Path) -> None:
    target.unlink(missing_ok=True)
    with _errors.translated(target):
        copy = apsw.Connection(str(target))
        try:
            with copy.backup("main", db, "main") as backup:
                backup.step(-1)
            # A single file, without a log beside it.
            copy.execute("PRAGMA journal_mode = DELETE").fetchall()
        finally:
            copy.close()


_READING = frozenset(
    {apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_FUNCTION, apsw.SQLITE_RECURSIVE}
)


def _only_reading(operation: int, *names: str | None) -> int:
    return apsw.SQLITE_OK if operation in _READING else apsw.SQLITE_DENY


def _dicts(cursor: apsw.Cursor) -> Iterator[dict[str, Any]]:
    for row in cursor:
        found: dict[str, Any] = {}
        for (name, *_), value in zip(cursor.get_description(), row, strict=True):
            count, key = 1, name
            while key in found:
                count += 1
                key = f"{name}_{count}"
            found[key] = value
        yield found


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
