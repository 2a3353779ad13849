"""The reference store: dicts in this process, gone with it.

It keeps JSON bytes, never the caller's objects, so that what comes back is what a file would give.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

import msgspec

from mastra_nb.errors import ConfigError
from mastra_nb.events import Event, MessageAdded, RunStatus, SpanEnded, decode_payload
from mastra_nb.storage import LEASE_SECONDS, RunRow, Thread, ThreadMessage
from mastra_nb.stores import _rules as rules

URL = "memory://"
_json = msgspec.json.decode


class _Line(msgspec.Struct, frozen=True):
    """An event whose payload is kept as JSON."""

    event: Event
    payload: bytes
    finished: str | None

    def read(self) -> Event:
        return msgspec.structs.replace(self.event, data=decode_payload(self.payload))


class MemoryStore:
    url = URL

    def __init__(self) -> None:
        # The kernel's loop and the portal's may both use it.
        self._lock = threading.RLock()
        self._open = True
        self._runs: dict[str, RunRow] = {}
        self._inputs: dict[str, bytes] = {}
        self._lines: dict[str, dict[int, _Line]] = {}
        self._finished: dict[str, set[str]] = {}
        self._threads: dict[str, Thread] = {}
        # By thread: pos -> (run, seq), in order of pos, and the same the other way round.
        self._messages: dict[str, dict[int, tuple[str, int]]] = {}
        self._linked: dict[str, set[tuple[str, int]]] = {}
        self._last: dict[str, int] = {}
        self._docs: dict[tuple[str, str], bytes] = {}

    async def create(self, row: RunRow, *, owner: str, lease: float = LEASE_SECONDS) -> RunRow:
        rules.check_names(row.id, row.name, row.kind, row.key, row.thread, row.parent_run, owner)
        raw, now = rules.to_json(row.input, "The input of the run"), time.time()
        with self._using():
            if row.id in self._runs:
                raise rules.run_taken(row.id)
            if row.key is not None:
                for other in self._runs.values():
                    if other.key == row.key:
                        raise rules.key_taken(row.key, other.id)
            row = msgspec.structs.replace(
                row,
                owner=owner,
                fence=1,
                lease_until=now + lease,
                created=row.created or now,
                updated=now,
                input=None,
            )
            self._runs[row.id], self._inputs[row.id] = row, raw
            self._lines[row.id], self._finished[row.id] = {}, set()
            return self._row(row)

    async def claim(self, run: str, *, owner: str, lease: float = LEASE_SECONDS) -> RunRow:
        rules.check_names(run, owner)
        now = time.time()
        with self._using():
            row = self._known(run)
            if row.owner != owner and row.lease_until > now:
                raise rules.held(run, row.owner, row.lease_until)
            row = self._runs[run] = msgspec.structs.replace(
                row, owner=owner, fence=row.fence + 1, lease_until=now + lease, updated=now
            )
            return self._row(row)

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
        lines = [
            _Line(
                event,
                rules.payload_json(event.data, run, event.seq),
                event.span if _finishes(event) else None,
            )
            for event in events
        ]
        now = time.time()
        with self._using():
            row = self._known(run)
            if fence != row.fence:
                raise rules.fenced(run, fence, row.fence, row.owner)
            log, finished = self._lines[run], self._finished[run]
            new: dict[int, _Line] = {}
            ends: set[str] = set()
            for line in lines:
                if line.event.seq in log or line.event.seq in new:
                    raise rules.seq_taken(run, line.event.seq)
                new[line.event.seq] = line
                if line.finished is not None:
                    if line.finished in finished or line.finished in ends:
                        raise rules.finished_twice(run, line.finished)
                    ends.add(line.finished)
            log.update(new)
            finished.update(ends)
            self._runs[run] = msgspec.structs.replace(
                row,
                status=status or row.status,
                updated=now,
                lease_until=rules.lease_after(status, row.lease_until, lease, now),
            )

    async def renew(self, run: str, fence: int, *, lease: float = LEASE_SECONDS) -> None:
        await self.append(run, fence, (), lease=lease)

    async def get_run(self, run: str) -> RunRow | None:
        rules.check_names(run)
        with self._using():
            row = self._runs.get(run)
            return None if row is None else self._row(row)

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
        rules.check_names(name, key, prefix)
        limit, offset = rules.at_most(limit), rules.at_most(offset)
        with self._using():
            found = [
                row
                for row in self._runs.values()
                if name in (None, row.name)
                and status in (None, row.status)
                and key in (None, row.key)
                and row.id.startswith(prefix or "")
            ]
            # Sorting is stable: of equal times the one that came last is first.
            found.reverse()
            found.sort(key=lambda row: row.created, reverse=True)
            return [self._row(row) for row in found[offset : offset + limit]]

    async def read_events(self, run: str, *, after: int = 0) -> list[Event]:
        rules.check_names(run)
        with self._using():
            log = self._lines.get(run, {})
            return [log[seq].read() for seq in sorted(log) if seq > after]

    async def delete_runs(self, *, before: float, keep_threads: bool = True) -> int:
        now = time.time()
        with self._using():
            linked = {run for places in self._linked.values() for run, _ in places}
            old = {
                row.id
                for row in self._runs.values()
                if row.status in rules.RESTING
                and row.updated < before
                and row.lease_until <= now
                and not (keep_threads and row.id in linked)
            }
            # A fork reads its parent's events: what a kept run is forked from stays, and so on up.
            while needed := old & {
                row.parent_run
                for row in self._runs.values()
                if row.id not in old and row.parent_run and row.fork_seq is not None
            }:
                old -= needed
            for run in old:
                del self._runs[run], self._inputs[run], self._lines[run], self._finished[run]
            for thread, places in self._messages.items():
                kept = {pos: at for pos, at in places.items() if at[0] not in old}
                self._messages[thread], self._linked[thread] = kept, set(kept.values())
            return len(old)

    async def put_thread(self, thread: Thread) -> Thread:
        rules.check_names(thread.id, thread.resource, thread.title)
        meta = _json(rules.to_json(thread.meta, "The meta of the thread"))
        now = time.time()
        with self._using():
            old = self._threads.get(thread.id)
            thread = msgspec.structs.replace(
                thread,
                meta=meta,
                updated=now,
                created=old.created if old is not None else thread.created or now,
            )
            self._put(thread)
            return self._thread(thread)

    async def claim_thread(self, thread: str, resource: str) -> Thread:
        rules.check_names(thread, resource)
        now = time.time()
        with self._using():
            found = self._threads.get(thread) or Thread(id=thread, created=now, updated=now)
            if not found.resource and not self._last.get(thread):
                found = msgspec.structs.replace(found, resource=resource)
                self._put(found)
            return self._thread(found)

    async def get_thread(self, thread: str) -> Thread | None:
        rules.check_names(thread)
        with self._using():
            found = self._threads.get(thread)
            return None if found is None else self._thread(found)

    async def find_threads(
        self, *, resource: str | None = None, limit: int = 100, offset: int = 0
    ) -> list[Thread]:
        rules.check_names(resource)
        limit, offset = rules.at_most(limit), rules.at_most(offset)
        with self._using():
            found = [t for t in self._threads.values() if resource in (None, t.resource)]
            found.reverse()
            found.sort(key=lambda t: t.updated, reverse=True)
            return [self._thread(t) for t in found[offset : offset + limit]]

    async def delete_thread(self, thread: str) -> bool:
        rules.check_names(thread)
        with self._using():
            self._messages.pop(thread, None)
            self._linked.pop(thread, None)
            self._last.pop(thread, None)
            return self._threads.pop(thread, None) is not None

    async def link(self, thread: str, run: str, seqs: Sequence[int]) -> int:
        rules.check_names(thread, run)
        now = time.time()
        with self._using():
            for seq in seqs:
                line = self._lines.get(run, {}).get(seq)
                if line is None or not isinstance(line.event.data, MessageAdded):
                    raise rules.no_message(run, seq)
            known = self._threads.get(thread)
            self._put(known or Thread(id=thread, created=now, updated=now))
            places, linked = self._messages[thread], self._linked[thread]
            for seq in seqs:
                if (run, seq) not in linked:
                    self._last[thread] += 1
                    places[self._last[thread]] = (run, seq)
                    linked.add((run, seq))
                    self._put(msgspec.structs.replace(self._threads[thread], updated=now))
            return self._last[thread]

    async def read_messages(
        self, thread: str, *, last: int | None = None, upto: int | None = None
    ) -> list[ThreadMessage]:
        rules.check_names(thread)
        with self._using():
            places = self._messages.get(thread, {})
            newest = (pos for pos in reversed(places) if upto is None or pos <= upto)
            chosen = list(islice(newest, None if last is None else rules.at_most(last)))
            found = []
            for pos in reversed(chosen):
                run, seq = places[pos]
                data = self._lines[run][seq].read().data
                assert isinstance(data, MessageAdded)
                found.append(ThreadMessage(pos=pos, run=run, seq=seq, message=data.message))
            return found

    async def put(self, kind: str, id: str, data: Any) -> None:
        rules.check_names(kind, id)
        raw = rules.to_json(data, f'"{id}" of kind "{kind}"')
        with self._using():
            self._docs[kind, id] = raw

    async def get(self, kind: str, id: str) -> Any | None:
        rules.check_names(kind, id)
        with self._using():
            raw = self._docs.get((kind, id))
            return None if raw is None else _json(raw)

    async def find(
        self, kind: str, *, prefix: str = "", limit: int = 1000
    ) -> list[tuple[str, Any]]:
        rules.check_names(kind, prefix)
        with self._using():
            ids = sorted(i for k, i in self._docs if k == kind and i.startswith(prefix))
            return [(i, _json(self._docs[kind, i])) for i in ids[: rules.at_most(limit)]]

    async def delete(self, kind: str, id: str) -> bool:
        rules.check_names(kind, id)
        with self._using():
            return self._docs.pop((kind, id), None) is not None

    async def close(self) -> None:
        self._open = False

    def _using(self) -> threading.RLock:
        if not self._open:
            raise rules.closed(self.url)
        return self._lock

    def _known(self, run: str) -> RunRow:
        row = self._runs.get(run)
        if row is None:
            raise rules.no_run(run)
        return row

    def _row(self, row: RunRow) -> RunRow:
        return msgspec.structs.replace(row, input=_json(self._inputs[row.id]))

    def _thread(self, thread: Thread) -> Thread:
        return msgspec.structs.replace(thread, meta=_json(msgspec.json.encode(thread.meta)))

    def _put(self, thread: Thread) -> None:
        self._threads[thread.id] = thread
        self._messages.setdefault(thread.id, {})
        self._linked.setdefault(thread.id, set())
        self._last.setdefault(thread.id, 0)


def _finishes(event: Event) -> bool:
    return isinstance(event.data, SpanEnded) and event.data.status == "ok"


def open_store(url: str) -> MemoryStore:
    """A new, empty store; `url` is "memory://"."""
    if url != URL:
        raise ConfigError(
            f'"{url}" does not name a store in memory.', hint=f'The URL is "{URL}", without a path.'
        )
    return MemoryStore()
