"""What a store must do: keep runs and their events, threads over their messages, and documents.

Every method is a coroutine; a store may answer without ever yielding to the loop. The contract
suite in `mastra_nb.testing` is the other half of this file.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from mastra_nb.config import Retention as Retention
from mastra_nb.errors import NotFound
from mastra_nb.events import Event, RunStatus, SpanEnded
from mastra_nb.messages import Message, Usage
from mastra_nb.vectors import VectorStore

LEASE_SECONDS = 30.0


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    """A run as storage knows it. Times are seconds since the epoch; `input` is a JSON value.

    `fence` counts claims: a write that carries an older one is refused. `key` is unique among
    runs if set. `owner` names the process that holds the lease until `lease_until`.
    """

    id: str
    name: str
    kind: str
    input: Any = None
    status: RunStatus = "new"
    owner: str = ""
    fence: int = 0
    lease_until: float = 0.0
    key: str | None = None
    thread: str | None = None
    resource: str = ""
    code_version: str = ""
    graph_hash: str = ""
    parent_run: str | None = None
    fork_seq: int | None = None
    created: float = 0.0
    updated: float = 0.0


class Thread(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation; `resource` is whom it belongs to."""

    id: str
    resource: str = ""
    title: str = ""
    meta: dict[str, Any] = {}
    created: float = 0.0
    updated: float = 0.0


class ThreadMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message of a thread: `pos` grows from 1 and is never used again, `run` and `seq` name its
    event, `at` (seconds since the epoch) is when that happened.
    """

    pos: int
    run: str
    seq: int
    message: Message
    at: float = 0.0


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """What one call of a model or embedder has used; `span` is its path, `name` the model's, `at`
    (seconds since the epoch) when it ended.
    """

    run: str
    span: str
    name: str
    at: float
    usage: Usage


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """How many were, or with a dry run would be, deleted, and by how much the file shrank."""

    runs: int = 0
    threads: int = 0
    messages: int = 0
    embeddings: int = 0
    bytes: int = 0
    dry_run: bool = False


class Journal(Protocol):
    async def create(self, row: RunRow, *, owner: str, lease: float = LEASE_SECONDS) -> RunRow:
        """Insert and claim (fence 1). Raises Conflict if the id or the key is taken."""
        ...

    async def claim(self, run: str, *, owner: str, lease: float = LEASE_SECONDS) -> RunRow:
        """Take the lease (fence + 1).

        Raises NotFound; LeaseHeld while another owner's lease runs.
        """
        ...

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
        """Write durable events in order, all or none, and extend the lease.

        A caller that is cancelled learns of it when it is decided whether they are written.

        With `barrier` the write is on the disk when this returns, else it survives the death of
        the process. With `thread` the messages among the events are linked to it, as `link` does,
        in the same transaction. A status that rests (suspended, done, failed, cancelled) gives the
        lease up. Raises LeaseHeld if `fence` is not the newest, Conflict on a seq that exists.
        """
        ...

    async def renew(self, run: str, fence: int, *, lease: float = LEASE_SECONDS) -> None:
        """Extend the lease. Raises LeaseHeld if `fence` is not the newest."""
        ...

    async def delete_run(self, run: str) -> bool:
        """With its events; False if there is none. Raises Conflict for one that does not rest, or
        that a thread or a fork needs.
        """
        ...

    async def get_run(self, run: str) -> RunRow | None: ...

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
        """Newest first; `prefix` matches the beginning of an id, `text` what the name or the JSON
        of the input holds (ASCII letters in either case).
        """
        ...

    async def count_runs(
        self, *, name: str | None = None, status: RunStatus | None = None, text: str | None = None
    ) -> int: ...

    async def read_spent(
        self, *, since: float = 0.0, runs: Sequence[str] | None = None
    ) -> list[Spent]:
        """In order of time; with `runs` of these only."""
        ...

    async def read_events(self, run: str, *, after: int = 0) -> list[Event]:
        """Durable events with seq > `after`, in order."""
        ...


class Threads(Protocol):
    async def put_thread(self, thread: Thread) -> Thread:
        """Insert or update; `created` of an existing thread is kept."""
        ...

    async def claim_thread(self, thread: str, resource: str) -> Thread:
        """The thread as it is then, whoever it belongs to. One that is new, or is empty and
        belongs to nobody, belongs to `resource` from now on.
        """
        ...

    async def get_thread(self, thread: str) -> Thread | None: ...

    async def find_threads(
        self,
        *,
        resource: str | None = None,
        meta: Mapping[str, Any] | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[Thread]:
        """Last updated first; `meta` is a filter of `mastra_nb.conditions`."""
        ...

    async def delete_thread(self, thread: str) -> bool: ...

    async def clone_thread(self, thread: str, to: Thread, *, upto: int | None = None) -> Thread:
        """A new thread with the same messages, at the same positions, up to `upto`, after which
        it goes on counting; nothing is copied but the links. Raises NotFound, and Conflict if `to`
        is there.
        """
        ...

    async def link(self, thread: str, run: str, seqs: Sequence[int]) -> int:
        """Append the messages that the MessageAdded events (run, seq) hold; returns the last pos.

        Linking the same event again changes nothing, even when the message was deleted from the
        thread meanwhile. A new thread is created with the resource of the run.
        Raises NotFound for an event that is not there or holds no message.
        """
        ...

    async def read_messages(
        self,
        thread: str,
        *,
        last: int | None = None,
        upto: int | None = None,
        after: int = 0,
        ranges: Sequence[tuple[int, int]] | None = None,
    ) -> list[ThreadMessage]:
        """In order; the `last` n of those with `after` < pos <= `upto`; with `ranges` only those
        whose pos is in one of them (both ends included).
        """
        ...

    async def delete_messages(self, thread: str, positions: Sequence[int]) -> int:
        """Take messages out of the thread; the events of their runs stay. Returns how many.

        Their positions are never used again, and linking them again does not bring them back.
        """
        ...


class Docs(Protocol):
    """Small JSON documents by (kind, id): recordings, caches, settings."""

    async def put(self, kind: str, id: str, data: Any) -> None: ...

    async def insert(self, kind: str, id: str, data: Any) -> bool:
        """False, and nothing changes, if there is one already."""
        ...

    async def get(self, kind: str, id: str) -> Any | None: ...

    async def find(
        self, kind: str, *, prefix: str = "", limit: int = 1000, reverse: bool = False
    ) -> list[tuple[str, Any]]:
        """(id, data) in order of id; `reverse`: the last first."""
        ...

    async def delete(self, kind: str, id: str) -> bool: ...


class EmbeddingCache(Protocol):
    """Vectors by the model that made them and the digest of what they were made from."""

    async def get(self, model: str, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        """Those that are there. Their last use is now, to the day."""
        ...

    async def put(self, model: str, rows: Mapping[bytes, bytes]) -> None: ...


class Store(Journal, Threads, Docs, Protocol):
    """One file, or its twin in memory."""

    url: str

    @property
    def vectors(self) -> VectorStore: ...

    @property
    def embeddings(self) -> EmbeddingCache: ...

    async def prune(
        self,
        retention: Retention,
        *,
        dry_run: bool = False,
        before: Callable[[Sequence[Thread]], Awaitable[None]] | None = None,
    ) -> Pruned:
        """Delete what is older than the retention says, a part at a time: others go on writing.

        A run that is not at rest stays, and its threads with it; so does what a kept run was forked
        from. `before` is told which threads go, some at a time, before they do.
        """
        ...

    async def vacuum(self) -> int:
        """Give what deleted things took back to the disk; returns the bytes."""
        ...

    async def close(self) -> None: ...


async def read_run(store: Store, row: RunRow) -> list[Event]:
    """The durable events of a run, in order; of a fork also those of the runs it goes on from, up
    to where it does. What those have spent is not the fork's.
    """
    events = await store.read_events(row.id)
    while row.parent_run is not None and (upto := row.fork_seq) is not None:
        parent = await store.get_run(row.parent_run)
        if parent is None:
            raise NotFound(
                f'run "{row.id}" goes on from "{row.parent_run}", which is not in the store',
                hint="a run that others were forked from must be kept",
            )
        before = [e for e in await store.read_events(parent.id) if e.seq <= upto]
        events = [*map(unpaid, before), *events]
        row = parent
    return events


def unpaid(event: Event) -> Event:
    """The event without what was spent in it."""
    if isinstance(event.data, SpanEnded) and event.data.usage is not None:
        data = msgspec.structs.replace(event.data, usage=None)
        return msgspec.structs.replace(event, data=data)
    return event
