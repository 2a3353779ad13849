"""Runs and their events in SQLite."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import apsw
import msgspec

from mastra_nb.events import Event, RunStatus, decode_payload
from mastra_nb.storage import LEASE_SECONDS, RunRow
from mastra_nb.stores import _rows as rows
from mastra_nb.stores import _rules as rules
from mastra_nb.stores._access import INLINE_READ_EVENTS, INLINE_WRITE_BYTES, Access

_json = msgspec.json.decode


class Journal(Access):
    async def create(self, row: RunRow, *, owner: str, lease: float = LEASE_SECONDS) -> RunRow:
        rules.check_names(
            row.id,
            row.name,
            row.kind,
            row.key,
            row.thread,
            row.resource,
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

        values = [raw.decode() if f == "input" else getattr(row, f) for f in rows.RUN_FIELDS]

        def work(db: apsw.Connection) -> None:
            try:
                db.execute(rows.INSERT_RUN, values)
            except apsw.ConstraintError:
                if db.execute("SELECT 1 FROM run WHERE id = ?", (row.id,)).get:
                    raise rules.run_taken(row.id) from None
                other = db.execute("SELECT id FROM run WHERE key = ?", (row.key,)).get
                if row.key is None or other is None:
                    raise
                raise rules.key_taken(row.key, other) from None

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
        thread: str | None = None,
    ) -> None:
        rules.check_names(run, thread)
        lines, blobs, size = rows.to_lines(run, fence, events)
        few = status is None and thread is None and not blobs and 0 < len(lines) <= rows.FEW

        def work(db: apsw.Connection) -> None:
            if few and rows.insert_few(db, run, fence, lease, lines):
                return
            rows.extend(db, run, fence, lease, status)
            db.executemany(rows.INSERT_BLOB, blobs)
            messages = []
            for line in lines:
                rows.insert(db, line)
                if thread is not None and line[rows.KIND] == "message-added":
                    messages.append(db.last_insert_rowid())
            if thread is not None and messages:
                rows.link_new(db, thread, run, messages)

        barrier = barrier and self.synchronous == "full"
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
        resource: str | None = None,
        thread: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[RunRow]:
        terms: list[tuple[str, Any]] = []
        for term, value in (
            ("name = ?", name),
            ("status = ?", status),
            ("key = ?", key),
            ("resource = ?", resource),
            ("thread = ?", thread),
        ):
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
