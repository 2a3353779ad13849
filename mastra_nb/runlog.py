"""The append-only log of a run, its readers, and what earlier drives left in it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from mastra_nb.errors import NotResumable
from mastra_nb.events import (
    DELTAS,
    Event,
    MessageAdded,
    Payload,
    Resumed,
    RunStatus,
    SpanEnded,
    SpanStarted,
    StateSet,
    Suspended,
)
from mastra_nb.limits import Limits, Meter
from mastra_nb.messages import Usage
from mastra_nb.services import Services


class Past:
    """What earlier drives of the same run left in the journal, by path."""

    def __init__(self, events: Sequence[Event] = ()) -> None:
        self.done: dict[str, Any] = {}
        self.attempts: dict[str, int] = {}
        self.messages: dict[str, list[int]] = {}
        self.waiting: dict[str, Suspended] = {}
        self.answers: dict[str, Any] = {}
        self.state: dict[str, Any] = {}
        self.asked: dict[str, Suspended] = {}
        self.usage: list[tuple[str, Usage | None]] = []
        kinds: dict[str, str] = {}
        for event in events:
            data = event.data
            if isinstance(data, SpanStarted):
                self.attempts[event.span] = data.attempt
                kinds[event.span] = data.kind
            elif isinstance(data, SpanEnded):
                if data.status == "ok":
                    self.done[event.span] = data.output
                self.usage.append((kinds.get(event.span, ""), data.usage))
            elif isinstance(data, MessageAdded):
                self.messages.setdefault(event.span, []).append(event.seq)
            elif isinstance(data, Suspended):
                self.waiting[data.path] = self.asked[data.path] = data
            elif isinstance(data, Resumed):
                self.waiting.pop(data.path, None)
                self.answers[data.path] = data.value
            elif isinstance(data, StateSet):
                self.state[data.key] = data.value


class RunLog:
    """The append-only log of one run, and who waits for more of it. Safe to use from threads."""

    def __init__(
        self,
        *,
        id: str,
        services: Services,
        limits: Limits,
        deps: Any = None,
        thread: str = "",
        past: Sequence[Event] = (),
    ) -> None:
        self.id = id
        self.services = services
        self.deps = deps
        self.thread = thread
        self.past = Past(past)
        self.meter = Meter(limits)
        for kind, usage in self.past.usage:
            if kind == "model":
                self.meter.requests += 1
                self.meter.usage = self.meter.usage + (usage or Usage())
            elif kind == "tool":
                self.meter.tool_calls += 1
        self.events: list[Event] = list(past)
        self.closed = False
        self.fence = 0
        self._seq = past[-1].seq if past else 0
        self._n = 0
        self._unsaved: list[Event] = []
        self._lock = threading.Lock()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self.loop: asyncio.AbstractEventLoop | None = None
        self._saving: asyncio.Lock | None = None

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._saving = asyncio.Lock()

    def emit(self, span: str, parent: str | None, data: Payload) -> int:
        with self._lock:
            durable = not isinstance(data, DELTAS)
            if durable:
                self._seq += 1
                self._n = 0
            else:
                self._n += 1
            event = Event(
                run=self.id,
                seq=self._seq,
                n=self._n,
                span=span,
                parent=parent,
                data=data,
                at=self.services.now(),
            )
            self.events.append(event)
            if durable and self.fence:
                self._unsaved.append(event)
            seq = self._seq
        for sink in self.services.sinks:
            sink(event)
        if self._waiters:
            self.wake()
        return seq

    def deltas(self, span: str) -> list[Payload]:
        """The deltas of the span's current attempt, in order."""
        out: list[Payload] = []
        for event in reversed(self.events):
            if event.span == span:
                if isinstance(event.data, DELTAS):
                    out.append(event.data)
                elif isinstance(event.data, SpanStarted):
                    break
        return out[::-1]

    def message(self, seq: int) -> MessageAdded:
        for event in self.events:
            if event.seq == seq and isinstance(event.data, MessageAdded):
                return event.data
        raise NotResumable(f'message {seq} of run "{self.id}" is not in its log')

    async def commit(self, *, barrier: bool = False, status: RunStatus | None = None) -> None:
        store = self.services.store
        if store is None or not self.fence or self._saving is None:
            return
        if not self._unsaved and status is None:
            return
        async with self._saving:
            with self._lock:
                batch, self._unsaved = self._unsaved, []
            if batch or status is not None:
                await store.append(self.id, self.fence, batch, status=status, barrier=barrier)

    def close(self) -> None:
        self.closed = True
        self.wake()

    def wake(self) -> None:
        with self._lock:
            waiters, self._waiters = self._waiters, []
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

    async def read(
        self, start: int = 0, *, over: Callable[[], bool] | None = None
    ) -> AsyncIterator[Event]:
        """Every event from index `start`, live until the log is closed or `over` says so."""
        over = over or (lambda: self.closed)
        i = start
        while True:
            while i < len(self.events):
                yield self.events[i]
                i += 1
            if over():
                return
            loop = asyncio.get_running_loop()
            future: asyncio.Future[None] = loop.create_future()
            with self._lock:
                if i < len(self.events) or over():
                    continue
                self._waiters.append((loop, future))
            await future


def _arrived(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
