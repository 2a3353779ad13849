"""The reference store: dicts in this process, gone with it.

It keeps JSON bytes, never the caller's objects, so that what comes back is what a file would give.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from mastra_nb import conditions
from mastra_nb.errors import ConfigError
from mastra_nb.events import (
    Event,
    MessageAdded,
    RunStatus,
    SpanEnded,
    SpanStarted,
    decode_payload,
)
from mastra_nb.storage import (
    LEASE_SECONDS,
    Pruned,
    Retention,
    RunRow,
    Spent,
    Thread,
    ThreadMessage,
)
from mastra_nb.stores import _rules as rules
from mastra_nb.stores._embeddings_memory import Embeddings

if TYPE_CHECKING:
    from mastra_nb.stores._vectors_memory import MemoryVectors

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
        # By thread: pos -> (run, seq), in order of pos; and the other way round, with those that
        # were deleted from the thread.
        self._messages: dict[str, dict[int, tuple[str, int]]] = {}
        self._linked: dict[str, dict[tuple[str, int], int]] = {}
        self._last: dict[str, int] = {}
        self._docs: dict[tuple[str, str], bytes] = {}
        self.embeddings = Embeddings(self._using)
        self._vectors: MemoryVectors | None = None

    @property
    def vectors(self) -> MemoryVectors:
        # NumPy is loaded by who has vectors.
        if self._vectors is None:
            from mastra_nb.stores._vectors_memory import MemoryVectors

            self._vectors = MemoryVectors(self._using)
        return self._vectors

    async def create(self, row: RunRow, *, owner: str, lease: float = LEASE_SECONDS) -> RunRow:
        rules.check_names(row.id, row.name, row.kind, row.key, row.thread, row.parent_run, owner)
        rules.check_names(row.resource)
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
        thread: str | None = None,
    ) -> None:
        rules.check_names(run, thread)
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
            if thread is not None:
                found = [e.seq for e in events if isinstance(e.data, MessageAdded)]
                if found:
                    self._link(thread, run, found)

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
        resource: str | None = None,
        thread: str | None = None,
        text: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[RunRow]:
        rules.check_names(name, key, prefix, resource, thread, text)
        limit, offset = rules.at_most(limit), rules.at_most(offset)
        with self._using():
            found = [
                row
                for row in self._runs.values()
                if name in (None, row.name)
                and status in (None, row.status)
                and key in (None, row.key)
                and resource in (None, row.resource)
                and thread in (None, row.thread)
                and row.id.startswith(prefix or "")
                and (not text or self._holds(row, text))
            ]
            # Sorting is stable: of equal times the one that came last is first.
            found.reverse()
            found.sort(key=lambda row: row.created, reverse=True)
            return [self._row(row) for row in found[offset : offset + limit]]

    def _holds(self, row: RunRow, text: str) -> bool:
        wanted = rules.lower(text)
        return wanted in rules.lower(row.name) or wanted in rules.lower(
            self._inputs[row.id].decode()
        )

    async def count_runs(
        self, *, name: str | None = None, status: RunStatus | None = None, text: str | None = None
    ) -> int:
        return len(await self.find_runs(name=name, status=status, text=text, limit=rules.MOST))

    async def read_spent(
        self, *, since: float = 0.0, runs: Sequence[str] | None = None
    ) -> list[Spent]:
        rules.check_names(*(runs or ()))
        out: list[Spent] = []
        with self._using():
            for run in self._lines if runs is None else [r for r in runs if r in self._lines]:
                names: dict[str, str] = {}
                for event in (line.event for line in self._lines[run].values()):
                    if isinstance(event.data, SpanStarted):
                        names[event.span] = event.data.name
                    elif (
                        isinstance(event.data, SpanEnded)
                        and event.data.usage is not None
                        and event.at >= since
                    ):
                        out.append(
                            Spent(
                                run=run,
                                span=event.span,
                                name=names.get(event.span, ""),
                                at=event.at,
                                usage=event.data.usage,
                            )
                        )
        return sorted(out, key=lambda spent: spent.at)

    async def read_events(self, run: str, *, after: int = 0) -> list[Event]:
        rules.check_names(run)
        with self._using():
            log = self._lines.get(run, {})
            return [log[seq].read() for seq in sorted(log) if seq > after]

    async def put_thread(self, thread: Thread) -> Thread:
        rules.check_names(thread.id, thread.resource, thread.title)
        meta = _json(rules.filtered_json(thread.meta, "The meta of the thread"))
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
        self,
        *,
        resource: str | None = None,
        meta: Mapping[str, Any] | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[Thread]:
        rules.check_names(resource)
        condition = conditions.parse(meta)
        limit, offset = rules.at_most(limit), rules.at_most(offset)
        with self._using():
            found = [
                t
                for t in self._threads.values()
                if resource in (None, t.resource) and conditions.matches(condition, t.meta)
            ]
            found.reverse()
            found.sort(key=lambda t: t.updated, reverse=True)
            return [self._thread(t) for t in found[offset : offset + limit]]

    async def delete_thread(self, thread: str) -> bool:
        rules.check_names(thread)
        with self._using():
            return self._drop_thread(thread)

    def _drop_thread(self, thread: str) -> bool:
        self._messages.pop(thread, None)
        self._linked.pop(thread, None)
        self._last.pop(thread, None)
        return self._threads.pop(thread, None) is not None

    async def clone_thread(self, thread: str, to: Thread, *, upto: int | None = None) -> Thread:
        rules.check_names(thread, to.id, to.resource, to.title)
        meta = _json(rules.filtered_json(to.meta, "The meta of the thread"))
        now = time.time()
        with self._using():
            if thread not in self._threads:
                raise rules.no_thread(thread)
            if to.id in self._threads:
                raise rules.thread_taken(to.id)
            to = msgspec.structs.replace(to, meta=meta, created=to.created or now, updated=now)
            bound = self._last[thread] if upto is None else rules.at_most(upto)
            self._put(to)
            self._last[to.id] = min(bound, self._last[thread])
            places, linked = self._messages[thread], self._linked[thread]
            self._messages[to.id] = {pos: at for pos, at in places.items() if pos <= bound}
            self._linked[to.id] = {at: pos for at, pos in linked.items() if pos <= bound}
            return self._thread(to)

    async def link(self, thread: str, run: str, seqs: Sequence[int]) -> int:
        rules.check_names(thread, run)
        with self._using():
            for seq in seqs:
                line = self._lines.get(run, {}).get(seq)
                if line is None or not isinstance(line.event.data, MessageAdded):
                    raise rules.no_message(run, seq)
            return self._link(thread, run, seqs)

    def _link(self, thread: str, run: str, seqs: Sequence[int]) -> int:
        now = time.time()
        if thread not in self._threads:
            resource = self._runs[run].resource if run in self._runs else ""
            self._put(Thread(id=thread, resource=resource, created=now, updated=now))
        places, linked = self._messages[thread], self._linked[thread]
        for seq in seqs:
            if (run, seq) not in linked:
                self._last[thread] += 1
                places[self._last[thread]] = (run, seq)
                linked[run, seq] = self._last[thread]
                self._put(msgspec.structs.replace(self._threads[thread], updated=now))
        return self._last[thread]

    async def read_messages(
        self,
        thread: str,
        *,
        last: int | None = None,
        upto: int | None = None,
        after: int = 0,
        ranges: Sequence[tuple[int, int]] | None = None,
    ) -> list[ThreadMessage]:
        rules.check_names(thread)
        spans = rules.spans(after, upto, ranges)
        with self._using():
            places = self._messages.get(thread, {})
            chosen = [pos for pos in places if any(low <= pos <= high for low, high in spans)]
            if last is not None:
                chosen = chosen[max(0, len(chosen) - rules.at_most(last)) :]
            found = []
            for pos in chosen:
                run, seq = places[pos]
                event = self._lines[run][seq].read()
                assert isinstance(event.data, MessageAdded)
                found.append(
                    ThreadMessage(
                        pos=pos, run=run, seq=seq, message=event.data.message, at=event.at
                    )
                )
            return found

    async def delete_messages(self, thread: str, positions: Sequence[int]) -> int:
        rules.check_names(thread)
        with self._using():
            places = self._messages.get(thread, {})
            # What was linked stays in `_linked`: it does not come back.
            return sum(places.pop(pos, None) is not None for pos in set(positions))

    async def put(self, kind: str, id: str, data: Any) -> None:
        rules.check_names(kind, id)
        raw = rules.to_json(data, f'"{id}" of kind "{kind}"')
        with self._using():
            self._docs[kind, id] = raw

    async def insert(self, kind: str, id: str, data: Any) -> bool:
        rules.check_names(kind, id)
        raw = rules.to_json(data, f'"{id}" of kind "{kind}"')
        with self._using():
            return self._docs.setdefault((kind, id), raw) is raw

    async def get(self, kind: str, id: str) -> Any | None:
        rules.check_names(kind, id)
        with self._using():
            raw = self._docs.get((kind, id))
            return None if raw is None else _json(raw)

    async def find(
        self, kind: str, *, prefix: str = "", limit: int = 1000, reverse: bool = False
    ) -> list[tuple[str, Any]]:
        rules.check_names(kind, prefix)
        with self._using():
            ids = [i for k, i in self._docs if k == kind and i.startswith(prefix)]
            ids.sort(reverse=reverse)
            return [(i, _json(self._docs[kind, i])) for i in ids[: rules.at_most(limit)]]

    async def delete(self, kind: str, id: str) -> bool:
        rules.check_names(kind, id)
        with self._using():
            return self._docs.pop((kind, id), None) is not None

    async def prune(
        self,
        retention: Retention,
        *,
        dry_run: bool = False,
        before: Callable[[Sequence[Thread]], Awaitable[None]] | None = None,
    ) -> Pruned:
        cutoffs = rules.cutoffs(retention, time.time())
        with self._using():
            going = [self._threads[id] for id in self._old_threads(self._resting(cutoffs), cutoffs)]
        if going and before is not None and not dry_run:
            await before(going)
        with self._using():
            # Others may have written while it was told of.
            rests = self._resting(cutoffs)
            threads = self._old_threads(rests, cutoffs) & {t.id for t in going}
            runs = self._old_runs(rests, threads, cutoffs)
            embeddings = self.embeddings.old(cutoffs["embeddings"])
            found = Pruned(
                runs=len(runs),
                threads=len(threads),
                messages=sum(len(self._messages[thread]) for thread in threads),
                embeddings=len(embeddings),
                dry_run=dry_run,
            )
            if dry_run:
                return found
            for thread in threads:
                self._drop_thread(thread)
            self._drop_runs(runs)
            self.embeddings.drop(embeddings)
        return found

    async def delete_run(self, run: str) -> bool:
        rules.check_names(run)
        with self._using():
            row = self._runs.get(run)
            if row is None:
                return False
            forked = any(
                r.parent_run == run and r.fork_seq is not None for r in self._runs.values()
            )
            said = any(at[0] == run for posed in self._messages.values() for at in posed.values())
            rests = row.status in rules.RESTING and row.lease_until <= time.time()
            rules.check_deletable(run, rests=rests, said=said, forked=forked)
            self._drop_runs({run})
            return True

    def _drop_runs(self, runs: set[str]) -> None:
        for run in runs:
            del self._runs[run], self._inputs[run], self._lines[run], self._finished[run]
        for linked in self._linked.values():
            for at in [at for at in linked if at[0] in runs]:
                del linked[at]

    def _resting(self, cutoffs: dict[str, float]) -> set[str]:
        now = time.time()
        return {
            row.id
            for row in self._runs.values()
            if row.lease_until <= now
            and (
                row.status in rules.ENDED
                or (row.status == "suspended" and row.updated <= cutoffs["suspended"])
            )
        }

    def _old_threads(self, rests: set[str], cutoffs: dict[str, float]) -> set[str]:
        """A run that may wake up again keeps its thread."""
        awake = self._runs.keys() - rests
        named = {self._runs[run].thread for run in awake}
        return {
            thread.id
            for thread in self._threads.values()
            if thread.updated <= cutoffs["threads"]
            and thread.id not in named
            and not any(run in awake for run, _ in self._linked[thread.id])
        }

    def _old_runs(self, rests: set[str], threads: set[str], cutoffs: dict[str, float]) -> set[str]:
        kept = self._threads.keys() - threads
        held = {run for thread in threads for run, _ in self._linked[thread]}
        talked = {run for thread in kept for run, _ in self._messages[thread].values()}
        old = {
            id
            for id in rests - talked
            if (row := self._runs[id]).status == "suspended"
            or row.updated <= cutoffs["runs"]
            or (row.updated <= cutoffs["threads"] and row.thread not in (None, *kept))
            or id in held
        }
        # A fork reads its parent's events: what a kept run is forked from stays, and so on up.
        while needed := old & {
            row.parent_run
            for row in self._runs.values()
            if row.id not in old and row.parent_run is not None and row.fork_seq is not None
        }:
            old -= needed
        return old

    async def vacuum(self) -> int:
        with self._using():
            return 0

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
        self._linked.setdefault(thread.id, {})
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
