"""Keeping a SQLite file in order: queries, backup, retention, giving space back."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import apsw

from mastra_nb.errors import Conflict, StorageError
from mastra_nb.storage import Pruned, Retention, Thread
from mastra_nb.stores import _errors, _vec
from mastra_nb.stores._access import Access, in_thread
from mastra_nb.stores._prune import Prune, Step

if TYPE_CHECKING:
    from mastra_nb.stores._vectors import SQLiteVectors

# A transaction of the upkeep takes so many seconds, then others have their turn: a writer of
# another process looks for its own every few milliseconds.
TURN = 0.005
PAUSE = 0.010
VACUUM_PAGES = 100
# Threads that `before` is told of together.
TOLD_THREADS = 100

T = TypeVar("T")


class Upkeep(Access):
    _vectors: SQLiteVectors | None = None

    @property
    def vectors(self) -> SQLiteVectors:
        # NumPy is loaded by who has vectors.
        if self._vectors is None:
            from mastra_nb.stores._vectors import SQLiteVectors

            self._vectors = SQLiteVectors(self)
        return self._vectors

    async def about(self) -> dict[str, Any]:
        """`path`, `bytes` on the disk, versions of `schema` and `sqlite`; `vec` says why sqlite-vec
        is not used, or nothing.
        """

        def read(db: apsw.Connection) -> tuple[int, str]:
            return int(db.execute("PRAGMA user_version").get), _vec.load(db)

        schema, vec = await self._read(read, threaded=True)
        files = [Path(f"{self.path}{end}") for end in ("", "-wal")]
        return {
            "path": str(self.path),
            "bytes": sum(f.stat().st_size for f in files if f.exists()),
            "schema": schema,
            "sqlite": apsw.sqlite_lib_version(),
            "vec": vec,
        }

    async def prune(
        self,
        retention: Retention,
        *,
        dry_run: bool = False,
        before: Callable[[Sequence[Thread]], Awaitable[None]] | None = None,
    ) -> Pruned:
        job = Prune(retention, time.time(), f"prune-{uuid.uuid4().hex[:8]}")
        plan = await self._read(job.plan, threaded=True)
        if dry_run:
            return plan.counted()
        done: Counter[str] = Counter()
        for first in range(0, len(plan.threads), TOLD_THREADS):
            some = plan.threads[first : first + TOLD_THREADS]
            if before is not None:
                going = await self._read(partial(job.still_going, some))
                await before(going)
            done += await self._in_turns(some, job.drop_thread)
        # A run stays as long as a fork of it is there; forks come first, unless made before it.
        while plan.runs and (some_runs := await self._in_turns(plan.runs, job.drop_run)):
            done += some_runs
            if done["runs"] == len(plan.runs):
                break
        if plan.embeddings:
            done += await self._in_turns([None], job.drop_embeddings)
        return Pruned(
            runs=done["runs"],
            threads=done["threads"],
            messages=done["messages"],
            embeddings=done["embeddings"],
            bytes=await self.vacuum() if done else 0,
        )

    async def vacuum(self) -> int:
        def step(db: apsw.Connection, _: None, done: Counter[str]) -> bool:
            before = db.execute("PRAGMA freelist_count").get
            db.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
            left = db.execute("PRAGMA freelist_count").get
            done["pages"] += before - left
            return not left or left == before

        done = await self._in_turns([None], step)
        if done["pages"]:
            await in_thread(self._file.writing, self._file.checkpoint, threading.Event())
        return done["pages"] * await self._read(lambda db: int(db.execute("PRAGMA page_size").get))

    async def _in_turns(self, items: Sequence[T], step: Step[T]) -> Counter[str]:
        """Takes steps on the items, in transactions of `TURN` seconds with pauses between them."""
        total: Counter[str] = Counter()
        at = 0

        def turn(db: apsw.Connection) -> tuple[int, Counter[str]]:
            end, place, done = time.monotonic() + TURN, at, Counter[str]()
            while place < len(items) and time.monotonic() < end:
                place += step(db, items[place], done)
            return place, done

        while at < len(items):
            at, done = await self._write(turn, threaded=True)
            total += done
            if at < len(items):
                await asyncio.sleep(PAUSE)
        return total

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
                    hint="Tables: run, event, blob, thread, thread_message, doc, vector_index, "
                    "vector, embedding.",
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
        return await in_thread(
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

        return await in_thread(file.reading, work, abandoned)


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
