"""Runs and their events in SQLite."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apsw
import msgspec

from mastra_nb.events import Event, RunStatus, decode_payload
from mastra_nb.messages import Usage
from mastra_nb.storage import LEASE_SECONDS, RunRow, Spent
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

    async def delete_run(self, run: str) -> bool:
        rules.check_names(run)

        def work(db: apsw.Connection) -> bool:
            row = rows.find_run(db, run)
            if row is None:
                return False
            forked = "SELECT 1 FROM run WHERE parent_run = ? AND fork_seq IS NOT NULL"
            said = """SELECT 1 FROM event e JOIN thread_message m ON m.event = e.no
                WHERE e.run = ? AND m.pos > 0"""
            rules.check_deletable(
                run,
                rests=row.status in rules.RESTING and row.lease_until <= time.time(),
                said=bool(db.execute(said, (run,)).get),
                forked=bool(db.execute(forked, (run,)).get),
            )
            rows.drop_run(db, run)
            return True

        return await self._write(work)

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
        text: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[RunRow]:
        known = {"name": name, "status": status, "key": key, "resource": resource, "thread": thread}
        where, values = _where(known, prefix, text)
        query = f"{rows.RUN} WHERE {where} ORDER BY created DESC, no DESC LIMIT ? OFFSET ?"
        values += [rules.at_most(limit), rules.at_most(offset)]
        return await self._read(lambda db: [rows.to_run(row) for row in db.execute(query, values)])

    async def count_runs(
        self, *, name: str | None = None, status: RunStatus | None = None, text: str | None = None
    ) -> int:
        where, values = _where({"name": name, "status": status}, None, text)
        query = f"SELECT count(*) FROM run WHERE {where}"  # noqa: S608 - terms of ours
        return int(await self._read(lambda db: db.execute(query, values).get))

    async def read_spent(
        self, *, since: float = 0.0, runs: Sequence[str] | None = None
    ) -> list[Spent]:
        rules.check_names(*(runs or ()))

        def work(db: apsw.Connection) -> list[Spent]:
            if runs is None:
                return list(_spent(db.execute(rows.SPENT, (since,))))
            found = (row for run in runs for row in db.execute(rows.SPENT_BY, (run, since)))
            return sorted(_spent(found), key=lambda spent: spent.at)

        return await self._read(work, threaded=runs is None)

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


def _where(
    known: dict[str, str | None], prefix: str | None, text: str | None
) -> tuple[str, list[Any]]:
    """Names of columns are ours, values are bound."""
    terms = [f"{column} = ?" for column, value in known.items() if value is not None]
    values: list[Any] = [value for value in known.values() if value is not None]
    if prefix:
        terms.append("id >= ?")
        values.append(prefix)
        if (end := rules.prefix_end(prefix)) is not None:
            terms.append("id < ?")
            values.append(end)
    if text:
        terms.append("(instr(lower(name), lower(?)) > 0 OR instr(lower(input), lower(?)) > 0)")
        values += [text, text]
    return " AND ".join(terms) or "1", values


class _Begin(msgspec.Struct):
    name: str


class _End(msgspec.Struct):
    usage: Usage | None = None


_begin = msgspec.json.Decoder(_Begin).decode
_end = msgspec.json.Decoder(_End).decode


def _spent(found: Iterable[Sequence[Any]]) -> Iterator[Spent]:
    for run, path, at, ended, started in found:
        # An output may hold the word too.
        if (usage := _end(ended).usage) is not None and started is not None:
            yield Spent(run=run, span=path, name=_begin(started).name, at=at, usage=usage)
