"""The append-only log of a run, its readers, and what earlier drives left in it."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgspec

from mastra_nb._later import later
from mastra_nb.config import get_logger
from mastra_nb.errors import (
    Conflict,
    LeaseHeld,
    MastraError,
    NotResumable,
    RunSuspended,
    SchemaError,
    Stopped,
)
from mastra_nb.events import (
    DELTAS,
    SPEAKERS,
    Custom,
    Delta,
    Event,
    MessageAdded,
    Payload,
    RunStatus,
    SpanEnded,
    SpanStarted,
    TextDelta,
    View,
)
from mastra_nb.limits import Limits, Meter
from mastra_nb.messages import Message
from mastra_nb.past import LIMITS, REQUEST_CONTEXT, Past
from mastra_nb.schema import partial_json, to_json, validate
from mastra_nb.services import Services, is_dead
from mastra_nb.storage import LEASE_SECONDS, RunRow, Store

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = later("asyncio", globals())

_DELTAS = frozenset(DELTAS)
# How long the end of one of many calls side by side may wait for others to be stored with.
_SOON = 0.004

T = TypeVar("T")
Watchers: TypeAlias = "list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]]"


class RunLog:
    """The append-only log of one run, and who waits for more of it. Safe to use from threads."""

    def __init__(
        self,
        *,
        id: str,
        services: Services,
        limits: Limits | None,
        deps: Any = None,
        thread: str = "",
        resource: str = "",
        past: Sequence[Event] = (),
        request_context: Mapping[str, Any] | None = None,
    ) -> None:
        self.id = id
        self.services = services
        self.deps = deps
        self.thread = thread
        self.resource = resource
        self._given = request_context
        self._limits = limits
        # The provider's own last responses, by the call they belong to; never stored.
        self.raw: dict[str, Any] = {}
        self.events: list[Event] = []
        self.refusal: MastraError | None = None
        self.failure: MastraError | None = None
        self.sealed = False
        # In a replay nothing is called that the journal does not know.
        self.frozen = False
        # Workflows under way, by path.
        self.walks: dict[str, Any] = {}
        self.fence = 0
        self.loop: asyncio.AbstractEventLoop | None = None
        self._seq = 0
        self._n = 0
        self._unsaved: list[Event] = []
        self._messages: dict[int, MessageAdded] = {}
        self._said: dict[str, int] = {}
        self.become(id, past)
        # Reentrant: a sink may emit.
        self._lock = threading.RLock()
        self._waiters: Watchers = []
        self._saving: asyncio.Lock | None = None
        self._heartbeat: asyncio.TimerHandle | None = None
        # True while the store does not know yet that the run goes on.
        self._rested = False
        self._soon: asyncio.TimerHandle | None = None

    def become(self, id: str, past: Sequence[Event]) -> None:
        """The log of the run with this id, of which so much is known. Only before it has begun."""
        self.id = id
        self.past = Past(past)
        given = self._given
        self.request_context: Mapping[str, Any] = MappingProxyType(
            self.past.request_context or (to_json(dict(given)) if given else {})
        )
        limits = self._limits
        self.meter = Meter(self.past.limits or Limits() if limits is None else limits)
        if past:
            self.meter.restore(self.past.used)
            self._seq = past[-1].seq
        self.events.extend(past)
        for event in past:
            if isinstance(event.data, MessageAdded):
                self._messages[event.seq] = event.data
                self._said[event.span] = event.seq

    def begin(self, first: Sequence[tuple[str, Payload]]) -> None:
        """Log what the run was given, so that whoever takes it up knows it."""
        for span, data in first:
            self.emit(span, None, data)
            self.past.apply(self.events[-1])
        self.past.set_state()
        limits = self.meter.limits
        if limits != Limits() and limits != self.past.limits:
            self.emit("", None, Custom(name=LIMITS, value=msgspec.to_builtins(limits)))
        if self.request_context and self.past.request_context is None:
            self.emit("", None, Custom(name=REQUEST_CONTEXT, value=dict(self.request_context)))

    @property
    def seq(self) -> int:
        """Of the last durable event."""
        return self._seq

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._saving = asyncio.Lock()

    async def claim(self, row: RunRow, *, stored: bool, lost: Callable[[], None]) -> None:
        """Take the run's lease, or store the run with it, and keep it until the log is sealed.

        `lost` is called if another process takes it over. Raises LeaseHeld while one holds it,
        Conflict if one has gone on since the log was loaded.
        """
        store = self.services.store
        assert store is not None
        owner = f"{self.services.owner}-{next(_drives)}"
        known = await store.get_run(self.id) if stored else None
        if known is None:
            row = await store.create(row, owner=owner)
        else:
            row = await _take(store, known, owner)
            if await store.read_events(self.id, after=self._seq):
                await store.renew(self.id, row.fence, lease=0)
                raise Conflict(
                    f'run "{self.id}" went on elsewhere since it was loaded',
                    hint="load it again: app.get_run(id)",
                )
        self.fence = row.fence
        self._rested = row.status != "running"
        self._keep_lease(store, lost)

    def _keep_lease(self, store: Store, lost: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()

        async def renew() -> None:
            try:
                await store.renew(self.id, self.fence)
            except LeaseHeld as error:
                if not self.sealed:
                    self.failure = self.refusal = error
                    lost()
            except MastraError as error:
                get_logger().warning(
                    "the lease of run %s was not renewed: %s", self.id, error.message
                )

        def beat() -> None:
            task = loop.create_task(renew())
            _renewals.add(task)
            task.add_done_callback(_renewals.discard)
            self._heartbeat = loop.call_later(LEASE_SECONDS / 3, beat)

        self._heartbeat = loop.call_later(LEASE_SECONDS / 3, beat)

    def emit(self, span: str, parent: str | None, data: Payload) -> int:
        """Once the run rests, what a thread of it still has to say is not heard."""
        services, kind = self.services, type(data)
        with self._lock:
            if self.sealed:
                return self._seq
            if kind in _DELTAS:
                self._n = n = self._n + 1
                seq = self._seq
            else:
                self._seq = seq = self._seq + 1
                self._n = n = 0
                if kind is MessageAdded:
                    self._messages[seq] = data  # type: ignore[assignment]
                    self._said[span] = seq
            event = Event(
                run=self.id, seq=seq, n=n, span=span, parent=parent, data=data, at=services.now()
            )
            self.events.append(event)
            if self.fence and not n:
                self._unsaved.append(event)
            if services.sinks:
                self._tell(event)
        if self._waiters:
            self.wake()
        return seq

    def _tell(self, event: Event) -> None:
        for sink in [*self.services.sinks]:
            try:
                sink(event)
            except Exception:
                # A broken display must not break the run.
                self.services.sinks.remove(sink)
                get_logger().exception("a reader of run %s failed and is taken out", self.id)

    def end_below(self, paths: Iterable[str]) -> None:
        """The calls at `paths`, and what they called, are not wanted any more."""
        above = tuple(f"{path}/" for path in paths)
        open_: dict[str, str | None] = {}
        for event in self.events:
            if isinstance(event.data, SpanStarted) and f"{event.span}/".startswith(above):
                open_[event.span] = event.parent
            elif isinstance(event.data, SpanEnded):
                open_.pop(event.span, None)
        for span, parent in reversed(open_.items()):
            self.emit(span, parent, SpanEnded(status="cancelled"))

    def deltas(self, span: str) -> list[Delta]:
        """The deltas of the span's current attempt, in order."""
        out: list[Delta] = []
        for event in reversed(self.events):
            if event.span == span:
                if isinstance(event.data, DELTAS):
                    out.append(event.data)
                elif isinstance(event.data, SpanStarted):
                    break
        return out[::-1]

    def message(self, seq: int) -> MessageAdded:
        if (found := self._messages.get(seq)) is not None:
            return found
        raise NotResumable(f'message {seq} of run "{self.id}" is not in its log')

    def said(self, span: str) -> tuple[int, Message] | None:
        """The newest message of the call at `span`, if the call is finished or of this drive."""
        seq = self._said.get(span, 0)
        if not seq or (seq <= self.past.seq and span not in self.past.done):
            return None
        return seq, self._messages[seq].message

    async def commit(self, *, barrier: bool = False, status: RunStatus | None = None) -> None:
        """Raises StorageError or LeaseHeld; nothing more may be called in the run then."""
        store = self.services.store
        if store is None or not self.fence or self._saving is None:
            return
        if not self._unsaved and status is None:
            return
        async with self._saving:
            with self._lock:
                batch, self._unsaved = self._unsaved, []
            if not batch and status is None:
                return
            if self._rested and status is None:
                status = "running"
            try:
                await store.append(self.id, self.fence, batch, status=status, barrier=barrier)
                self._rested = False
            except asyncio.CancelledError:
                if batch and not await unbroken(self._landed(store, batch[0].seq)):
                    with self._lock:
                        self._unsaved[:0] = batch
                raise
            except MastraError as error:
                self.failure = self.refusal = error
                raise

    async def end(self, status: RunStatus | None) -> None:
        """Commit what is left and let go of the lease, at rest or (None) for whoever goes on."""
        await self.commit(barrier=True, status=status)
        if status is None and self.services.store is not None:
            await self.services.store.renew(self.id, self.fence, lease=0)

    def commit_soon(self) -> None:
        """What is unsaved is committed within milliseconds, with what comes until then."""
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(_SOON, self._begin_commit)

    def _begin_commit(self) -> None:
        async def commit() -> None:
            # A failure is kept as `failure`, and met by whoever calls next.
            with contextlib.suppress(MastraError):
                await self.commit()

        self._soon = None
        if not self.sealed:
            task = asyncio.ensure_future(commit())
            _renewals.add(task)
            task.add_done_callback(_renewals.discard)

    async def _landed(self, store: Store, seq: int) -> bool:
        return bool(await store.read_events(self.id, after=seq - 1))

    def seal(self) -> None:
        """Nothing is added any more."""
        with self._lock:
            self.sealed = True
        for handle in (self._heartbeat, self._soon):
            if handle is not None:
                handle.cancel()
        self.refusal = self.refusal or Stopped(
            f'run "{self.id}" is over; nothing can be called in it any more',
            hint="await what you start before your function returns",
        )

    def wake(self) -> None:
        with self._lock:
            waiters, self._waiters = self._waiters, []
        notify(waiters)

    async def more(self, after: int, over: Callable[[], bool]) -> None:
        """Wait until there are more than `after` events, or `over` says that none will come."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if after < len(self.events) or over():
                return
            future: asyncio.Future[None] = loop.create_future()
            self._waiters.append((loop, future))
        await future


def check_answer(
    run: str, past: Past, answer: Any, path: str | None, now: float
) -> tuple[str, Any] | None:
    """The place that `answer` is for, and the answer; None if it was given before.

    Raises NotResumable, SchemaError if it does not fit, Conflict if another one was given.
    """
    if path is None:
        if len(past.waiting) > 1:
            raise NotResumable(
                f'run "{run}" waits in {len(past.waiting)} places',
                hint="name one with path=: " + ", ".join(f'"{p}"' for p in past.waiting),
            )
        path = next(iter(past.waiting or past.answers), None)
    if path is not None and path not in past.asked and past.waiting:
        raise NotResumable(
            f'run "{run}" does not wait at "{path}"',
            hint="it waits at " + ", ".join(f'"{p}"' for p in past.waiting),
        )
    if path is None or path not in past.asked:
        raise NotResumable(f'run "{run}" does not wait for an answer', hint="see run.pending")
    deadline = past.asked[path].deadline
    if path in past.expired or (path not in past.answers and deadline and deadline <= now):
        raise NotResumable(
            f'the time to answer "{path}" of run "{run}" is over',
            hint="run.expire() goes on without the answer",
        )
    if path in past.answers:
        if past.answers[path] == answer:
            return None
        raise Conflict(
            f'"{path}" of run "{run}" was already answered otherwise',
            hint="the first answer counts",
        )
    schema = past.asked[path].schema
    if schema is not None:
        try:
            validate(answer, schema)
        except SchemaError as error:
            raise SchemaError(
                f"the answer does not fit: {error.message}",
                hint="the run still waits; see run.pending for the schema",
            ) from None
    return path, answer


def stopped(run: str, name: str) -> Stopped:
    return Stopped(f'run "{run}" of "{name}" was stopped', hint="what it said is kept")


def waits(run: Any, view: View) -> RunSuspended:
    hint = f"run.resume(answer), or %resume {run.id} approve"
    if len(view.pending) > 1:
        hint = "answer one by one: run.resume(answer, path=...), with a path of run.pending"
    elif all(p.reason != "approval" for p in view.pending.values()):
        hint = f"run.resume(answer), or %resume {run.id} {{…}}; run.pending says what is asked"
    return RunSuspended(
        f'run "{run.id}" of "{run.name}" waits: {view.waits_for}', run=run, hint=hint
    )


def ended_with(view: View, run: str, name: str) -> MastraError:
    """Why a run that was loaded has no output, and does not wait either."""
    root = view.spans.get(view.root)
    if view.status == "cancelled":
        return stopped(run, name)
    if view.status == "failed" and root is not None and root.error is not None:
        said = root.error
        return MastraError(said.message, hint=said.hint, code=said.code)
    return NotResumable(
        f'run "{run}" was cut off, or runs elsewhere',
        hint="run.resume() takes it up where it was",
    )


async def spoken(
    events: AsyncIterable[Event], root: str, kinds: Sequence[str]
) -> AsyncIterator[Event]:
    """Starts and deltas of the model calls that speak for the span `root`: its own, and those in
    spans of these kinds.
    """
    inside, models = {root}, set[str]()
    async for event in events:
        data = event.data
        if isinstance(data, SpanStarted):
            if event.span != root and (event.parent not in inside or data.kind not in kinds):
                continue
            if data.kind != "model":
                inside.add(event.span)
                continue
            models.add(event.span)
        if event.span in models:
            yield event


async def grown(
    events: AsyncIterable[Event], root: str, partial: Callable[[Any], Any]
) -> AsyncIterator[Any]:
    """What `partial` makes of the answer's unfinished JSON, each time it says more."""
    text, last = "", None
    async for event in spoken(events, root, (*SPEAKERS, "structure")):
        if isinstance(event.data, SpanStarted):
            text = ""
        elif isinstance(event.data, TextDelta):
            text += event.data.text
            value = partial_json(text)
            if value is not None and value != last:
                last = value
                if (made := partial(value)) is not None:
                    yield made


def is_here(loop: asyncio.AbstractEventLoop | None = None) -> bool:
    """True on this loop, or on any."""
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        return False
    return loop is None or running is loop


_drives = itertools.count(1)
_renewals: set[asyncio.Task[None]] = set()


async def _take(store: Store, row: RunRow, owner: str) -> RunRow:
    try:
        return await store.claim(row.id, owner=owner)
    except LeaseHeld:
        # A restarted kernel need not wait for the lease of the one it replaces.
        if not is_dead(row.owner):
            raise
        await store.claim(row.id, owner=row.owner, lease=0.0)
        return await store.claim(row.id, owner=owner)


def notify(waiters: Watchers) -> None:
    if not waiters:
        return
    try:
        here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
    except RuntimeError:
        here = None
    for loop, future in waiters:
        if loop is here:
            _arrived(future)
        else:
            # The reader's loop may be gone: nobody is left to tell.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_arrived, future)


def _arrived(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def unbroken(work: Coroutine[Any, Any, T]) -> T:
    """`work` to its end, though the caller is cancelled: for what must not be left half done."""
    task = asyncio.ensure_future(work)
    while True:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.done():
                return task.result()
