"""Threads over the messages of runs in SQLite.

A message that was taken out of a thread keeps its row, at the negative of its position: linking its
event again then changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import apsw
import msgspec

from mastra_nb import conditions
from mastra_nb.events import MessageAdded
from mastra_nb.storage import Thread, ThreadMessage
from mastra_nb.stores import _rows as rows
from mastra_nb.stores import _rules as rules
from mastra_nb.stores._access import Access
from mastra_nb.stores._where import Where

_MESSAGE = msgspec.json.Decoder(MessageAdded)


class Threads(Access):
    async def put_thread(self, thread: Thread) -> Thread:
        rules.check_names(thread.id, thread.resource, thread.title)
        meta = rules.filtered_json(thread.meta, "The meta of the thread")

        def work(db: apsw.Connection) -> Thread:
            now = time.time()
            values = (thread.resource, thread.title, meta, thread.created or now, now)
            return rows.to_thread(db.execute(rows.PUT_THREAD, (thread.id, *values)).fetchall()[0])

        return await self._write(work)

    async def claim_thread(self, thread: str, resource: str) -> Thread:
        rules.check_names(thread, resource)

        def work(db: apsw.Connection) -> Thread:
            now = time.time()
            db.execute(rows.CLAIM_THREAD, (thread, resource, now, now)).fetchall()
            found = db.execute(f"{rows.THREAD} WHERE id = ?", (thread,)).fetchall()
            return rows.to_thread(found[0])

        return await self._write(work)

    async def get_thread(self, thread: str) -> Thread | None:
        def work(db: apsw.Connection) -> Thread | None:
            row = db.execute(f"{rows.THREAD} WHERE id = ?", (thread,)).fetchone()
            return None if row is None else rows.to_thread(row)

        return await self._read(work)

    async def find_threads(
        self,
        *,
        resource: str | None = None,
        meta: Mapping[str, Any] | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[Thread]:
        condition = conditions.parse(meta)
        terms, values = ([], []) if resource is None else (["resource = ?"], [resource])
        if meta:
            where = Where(condition, column="meta")
            terms.append(where.sql)
            values += where.values
        query = f"{rows.THREAD} WHERE {' AND '.join(terms) or '1'} ORDER BY updated DESC, no DESC"
        bound = (*values, rules.at_most(limit), rules.at_most(offset))

        def work(db: apsw.Connection) -> list[Thread]:
            found = db.execute(f"{query} LIMIT ? OFFSET ?", bound)
            return [rows.to_thread(row) for row in found]

        return await self._read(work, threaded=bool(meta))

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

    async def clone_thread(self, thread: str, to: Thread, *, upto: int | None = None) -> Thread:
        rules.check_names(thread, to.id, to.resource, to.title)
        meta = rules.filtered_json(to.meta, "The meta of the thread")
        bound = rules.MOST if upto is None else rules.at_most(upto)

        def work(db: apsw.Connection) -> Thread:
            source = db.execute("SELECT no FROM thread WHERE id = ?", (thread,)).get
            if source is None:
                raise rules.no_thread(thread)
            if db.execute("SELECT 1 FROM thread WHERE id = ?", (to.id,)).get:
                raise rules.thread_taken(to.id)
            now = time.time()
            values = (to.id, to.resource, to.title, meta, to.created or now, now)
            row = db.execute(rows.PUT_THREAD, values).fetchall()[0]
            clone = db.execute("SELECT no FROM thread WHERE id = ?", (to.id,)).get
            db.execute(rows.CLONE_LINKS, (clone, source, bound))
            db.execute(rows.CLONE_LAST, (bound, source, clone))
            return rows.to_thread(row)

        return await self._write(work)

    async def link(self, thread: str, run: str, seqs: Sequence[int]) -> int:
        rules.check_names(thread, run)

        def work(db: apsw.Connection) -> int:
            events = []
            for seq in seqs:
                event = db.execute(rows.LINKED, (run, seq)).get
                if event is None:
                    raise rules.no_message(run, seq)
                events.append(event)
            return rows.link(db, thread, run, events)

        return await self._write(work)

    async def read_messages(
        self,
        thread: str,
        *,
        last: int | None = None,
        upto: int | None = None,
        after: int = 0,
        ranges: Sequence[tuple[int, int]] | None = None,
    ) -> list[ThreadMessage]:
        spans = rules.spans(after, upto, ranges)
        if not spans:
            return []
        count = -1 if last is None else rules.at_most(last)
        bound: tuple[Any, ...]
        if len(spans) == 1:
            query, bound = rows.MESSAGES, (thread, *spans[0], count)
        else:
            query = rows.MESSAGES_OF_RANGES
            bound = (msgspec.json.encode(spans).decode(), thread, count)

        def work(db: apsw.Connection) -> list[ThreadMessage]:
            decode = _MESSAGE.decode
            found = [
                ThreadMessage(
                    pos=pos,
                    run=run,
                    seq=seq,
                    at=at,
                    message=decode(raw or db.execute(rows.BLOB, (digest,)).get).message,
                )
                for pos, run, seq, at, raw, digest in db.execute(query, bound)
            ]
            found.reverse()
            return found

        return await self._read(work)

    async def delete_messages(self, thread: str, positions: Sequence[int]) -> int:
        rules.check_names(thread)
        chosen = msgspec.json.encode([p for p in positions if 0 < p <= rules.MOST]).decode()

        def work(db: apsw.Connection) -> int:
            db.execute(rows.TAKE_OUT, (thread, chosen))
            return db.changes()

        return await self._write(work)
