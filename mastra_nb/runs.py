"""The handle of a run: its log, the readers of it, and the one task that drives it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from typing import Any, Generic, TypeVar

from mastra_nb import portal
from mastra_nb.config import get_logger
from mastra_nb.context import PLAIN, Codec, Context, Runnable, current
from mastra_nb.errors import (
    Conflict,
    LeaseHeld,
    LimitExceeded,
    MastraError,
    NotResumable,
    RunSuspended,
    SchemaError,
    Stopped,
    Suspend,
)
from mastra_nb.events import Event, Resumed, RunStatus, SpanStarted, Suspended, TextDelta, View
from mastra_nb.limits import Limits
from mastra_nb.messages import Message, Usage
from mastra_nb.runlog import Past, RunLog
from mastra_nb.schema import partial_json, validate
from mastra_nb.services import Services, ambient, is_dead
from mastra_nb.storage import LEASE_SECONDS, RunRow, Store

T = TypeVar("T")


class Run(Generic[T]):
    """A lazy run: nothing happens until somebody wants something of it.

    ``await run`` gives the output; ``async for event in run`` and ``for event in run`` give its
    events from the start; ``run.result()`` blocks. All of them work in a script, in a running
    kernel, in a thread and inside a tool. Inside another run it becomes a span of that run.

    Raises what the target raises; RunSuspended if it waits for an answer; Stopped if cancelled.
    """

    def __init__(
        self,
        target: Runnable[Any, T],
        input: Any,
        *,
        codec: Codec[T] = PLAIN,
        services: Services | None = None,
        limits: Limits | None = None,
        deps: Any = None,
        thread: str = "",
        key: str | None = None,
        id: str = "",
        past: Sequence[Event] = (),
        go_on: bool = False,
        answer: tuple[str, Any] | None = None,
    ) -> None:
        self.target = target
        self.input = input
        self._codec = codec
        self._within = current() if not past and not id else None
        self._services = services or (
            self._within.services if self._within is not None else ambient()
        )
        self._key = key
        self._answer = answer
        self._view = View()
        self._folded = 0
        self._task: asyncio.Task[T] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._start_lock = threading.Lock()
        self._done = threading.Event()
        self._output: T | None = None
        self._error: BaseException | None = None
        self._expired: LimitExceeded | None = None
        self._segment = ""
        self._prefix = ""
        self._first = 0
        if self._within is not None:
            self._segment = self._within.segment(target.name, input, key, codec)
            self._prefix = f"{self._within.path}/{self._segment}"
            self.log = self._within.run
            self._first = len(self.log.events)
            return
        self.log = RunLog(
            id=id or self._services.new_id(),
            services=self._services,
            limits=limits or Limits(),
            deps=deps,
            thread=thread,
            past=past,
        )
        self._stored = bool(id)
        if past and not go_on:
            self._take_outcome()

    # What a run is

    @property
    def id(self) -> str:
        return self.log.id

    @property
    def name(self) -> str:
        return self.target.name

    @property
    def thread(self) -> str:
        return self.log.thread

    @property
    def view(self) -> View:
        """The state of the run so far, folded from its events."""
        events = self.log.events
        while self._first + self._folded < len(events):
            event = events[self._first + self._folded]
            if self._mine(event):
                self._view.apply(event)
            self._folded += 1
        return self._view

    def _mine(self, event: Event) -> bool:
        """A run inside another one is a part of that one's log."""
        prefix = self._prefix
        return not prefix or event.span == prefix or event.span.startswith(f"{prefix}/")

    @property
    def status(self) -> RunStatus:
        running = self._task is not None and not self._done.is_set()
        return "running" if running else self.view.status

    @property
    def usage(self) -> Usage:
        return self.view.usage

    @property
    def pending(self) -> dict[str, Suspended]:
        """What the run waits for, by path."""
        return self.view.pending

    @property
    def messages(self) -> list[Message]:
        return [message for _, _, message in self.view.messages]

    @property
    def text(self) -> str:
        """The answer so far: the text of the root's newest assistant message or draft."""
        return self.view.text

    @property
    def output(self) -> T:
        """The output of a finished run. Raises what the run raised, or if it is not finished."""
        if not self._done.is_set():
            raise NotResumable(
                f'run "{self.id}" is not finished', hint="await it, or call .result()"
            )
        return self._outcome()

    def __repr__(self) -> str:
        return f'<Run {self.id} of "{self.name}": {self.status}>'

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        from mastra_nb.views import bundle, record

        return bundle(record(self.view, thread=self.thread))

    # The four spellings of running it

    def __await__(self) -> Generator[Any, None, T]:
        return self._wait().__await__()

    async def __aiter__(self) -> AsyncIterator[Event]:
        async for event in self.events():
            yield event
        self._raise_failure()

    def __iter__(self) -> Iterator[Event]:
        yield from portal.iterate(self.events())
        self._raise_failure()

    def result(self) -> T:
        """Block until the run rests and return its output."""
        if self._within is not None and self._task is None:
            return self._result_within(self._within)
        return portal.run(self._wait())

    async def events(self) -> AsyncIterator[Event]:
        """Events from the start, live; stops at the run's end without raising its error.

        If the reader is cancelled (a kernel's interrupt), so is the run.
        """
        self._start()
        try:
            async for event in self.log.read(self._first, over=self._done.is_set):
                if self._mine(event):
                    yield event
        except asyncio.CancelledError:
            await self._stop_and_settle()
            raise

    async def stream_text(self) -> AsyncIterator[str]:
        """The pieces of the answer's text as they come."""
        root = f"{self._prefix or self.target.name}/"
        async for event in self:
            if isinstance(event.data, TextDelta) and event.span.startswith(root):
                yield event.data.text

    async def partials(self) -> AsyncIterator[Any]:
        """The answer as JSON so far, each time it has grown: for runs with an output type."""
        text, last = "", None
        async for event in self:
            if isinstance(event.data, SpanStarted) and event.data.kind == "model":
                text = ""
            elif isinstance(event.data, TextDelta):
                text += event.data.text
                value = partial_json(text)
                if value is not None and value != last:
                    last = value
                    yield value

    # Stopping and going on

    def cancel(self) -> None:
        """Stop the run: connections are closed, tools cancelled, the partial text is kept."""
        task, loop = self._task, self._loop
        if task is not None and loop is not None and not task.done():
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(task.cancel)

    def resume(self, answer: Any = ..., *, path: str | None = None) -> Run[T]:
        """The same run, going on: finished calls are not made again.

        `answer` goes to the suspension at `path`, or to the only one; without an answer a run
        that was cut off is taken up where it was. Raises NotResumable, SchemaError if the
        answer does not fit, Conflict if another answer was already given.
        """
        if self._task is not None and not self._done.is_set():
            raise NotResumable(f'run "{self.id}" is still running')
        if self.view.status == "cancelled":
            raise NotResumable(f'run "{self.id}" was stopped', hint="ask again")
        given = None if answer is ... else self._check_answer(answer, path)
        log = self.log
        return Run(
            self.target,
            self.input,
            codec=self._codec,
            services=self._services,
            limits=log.meter.limits,
            deps=log.deps,
            thread=log.thread,
            id=self.id,
            past=[e for e in log.events if e.durable],
            go_on=True,
            answer=given,
        )

    def _check_answer(self, answer: Any, path: str | None) -> tuple[str, Any] | None:
        past = Past([e for e in self.log.events if e.durable])
        if path is None:
            if len(past.waiting) > 1:
                raise NotResumable(
                    f'run "{self.id}" waits in {len(past.waiting)} places',
                    hint="name one with path=: " + ", ".join(f'"{p}"' for p in past.waiting),
                )
            path = next(iter(past.waiting or past.answers), None)
        if path is None or path not in past.asked:
            raise NotResumable(
                f'run "{self.id}" does not wait for an answer', hint="see run.pending"
            )
        if path in past.answers:
            if past.answers[path] == answer:
                return None
            raise Conflict(f'"{path}" of run "{self.id}" was already answered otherwise')
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

    # How it runs

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        with self._start_lock:
            if self._task is not None or self._done.is_set():
                return
            self._loop = loop
            if self._within is not None:
                drive = self._drive_within(self._within)
            else:
                self.log.bind(loop)
                drive = self._drive()
            self._task = loop.create_task(drive)
            self._task.add_done_callback(_retrieve)

    async def _wait(self) -> T:
        if self._within is not None and self._task is None and not self._done.is_set():
            if self.log.loop is asyncio.get_running_loop():
                return await self._drive_within(self._within)
        self._start()
        task, loop = self._task, self._loop
        if task is None:
            return self._outcome()
        assert loop is not None
        if loop is asyncio.get_running_loop():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                if not task.done():
                    await self._stop_and_settle()
                    raise
            except BaseException:
                # The outcome is told below, the same for whoever asks and whenever.
                pass
        else:
            try:
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_settle(task), loop))
            except asyncio.CancelledError:
                self.cancel()
                raise
        return self._outcome()

    async def _stop_and_settle(self) -> None:
        self.cancel()
        task, loop = self._task, self._loop
        if task is None or loop is not asyncio.get_running_loop():
            return
        await _settle(task)

    def _result_within(self, ctx: Context) -> T:
        """From a tool's thread: the call runs on the loop of the run that the tool is part of."""
        loop = self.log.loop
        if loop is None or loop.is_closed():
            return portal.run(self._wait())
        with contextlib.suppress(RuntimeError):
            if asyncio.get_running_loop() is loop:
                raise NotResumable(
                    f'"{self.name}" would wait for the loop it runs on',
                    hint="in async code write: await run",
                )
        return asyncio.run_coroutine_threadsafe(self._drive_within(ctx), loop).result()

    def _outcome(self) -> T:
        if self._error is not None:
            raise self._error
        return self._output  # type: ignore[return-value]

    def _raise_failure(self) -> None:
        if self._error is not None and not isinstance(self._error, RunSuspended):
            raise self._error

    async def _drive_within(self, ctx: Context) -> T:
        try:
            self._output = await ctx.call(
                self.target, self.input, segment=self._segment, codec=self._codec
            )
        except BaseException as error:
            self._error = error
            raise
        finally:
            self._done.set()
            self.log.wake()
        return self._output

    async def _drive(self) -> T:
        log = self.log
        heartbeat: asyncio.TimerHandle | None = None
        timer: asyncio.TimerHandle | None = None
        status: RunStatus = "failed"
        try:
            await self._claim()
            heartbeat = self._beat()
            if log.meter.limits.seconds is not None:
                timer = asyncio.get_running_loop().call_later(
                    log.meter.limits.seconds, self._expire, log.meter.limits.seconds
                )
            root = Context(log, "", None, "run")
            if self._answer is not None:
                path, value = self._answer
                log.past.waiting.pop(path, None)
                log.past.answers[path] = value
                root.run.emit(path, None, Resumed(path=path, value=value))
                await log.commit(barrier=True)
            self._output = await root.call(
                self.target, self.input, segment=self.target.name, codec=self._codec
            )
            status = "done"
        except Suspend:
            status = "suspended"
            self._error = self._suspended()
        except asyncio.CancelledError:
            if self._expired is not None:
                self._error = self._expired
            else:
                status = "cancelled"
                self._error = Stopped(
                    f'run "{self.id}" of "{self.name}" was stopped', hint="what it said is kept"
                )
        except Exception as error:
            self._error = error
        finally:
            if heartbeat is not None:
                heartbeat.cancel()
            if timer is not None:
                timer.cancel()
            await self._finish(status)
        if self._error is not None:
            raise self._error
        return self._output  # type: ignore[return-value]

    async def _finish(self, status: RunStatus) -> None:
        try:
            await self.log.commit(barrier=True, status=status)
        except MastraError as error:
            self._error = self._error or error
        finally:
            self._done.set()
            self.log.close()

    async def _claim(self) -> None:
        store, log = self._services.store, self.log
        if store is None:
            return
        row = await store.get_run(self.id) if self._stored else None
        if row is None:
            row = RunRow(
                id=self.id,
                name=self.name,
                kind=self.target.kind,
                input=self._codec.show(self.input),
                status="running",
                key=self._key,
                thread=log.thread or None,
                created=time.time(),
                updated=time.time(),
            )
            row = await store.create(row, owner=self._services.owner)
        else:
            row = await self._take_over(store, row)
            newer = await store.read_events(self.id, after=log.events[-1].seq if log.events else 0)
            if newer:
                raise Conflict(
                    f'run "{self.id}" went on elsewhere since it was loaded',
                    hint="load it again: app.get_run(id)",
                )
        log.fence = row.fence

    async def _take_over(self, store: Store, row: RunRow) -> RunRow:
        try:
            return await store.claim(self.id, owner=self._services.owner)
        except LeaseHeld:
            # A restarted kernel need not wait for the lease of the one it replaces.
            if not is_dead(row.owner):
                raise
            await store.claim(self.id, owner=row.owner, lease=0.0)
            return await store.claim(self.id, owner=self._services.owner)

    def _beat(self) -> asyncio.TimerHandle | None:
        store, log = self._services.store, self.log
        if store is None or not log.fence:
            return None
        loop = asyncio.get_running_loop()

        async def renew() -> None:
            try:
                await store.renew(self.id, log.fence)
            except MastraError as error:
                self._services_note(error)

        def beat() -> None:
            if not log.closed:
                task = loop.create_task(renew())
                _renewals.add(task)
                task.add_done_callback(_renewals.discard)
                loop.call_later(LEASE_SECONDS / 3, beat)

        return loop.call_later(LEASE_SECONDS / 3, beat)

    def _services_note(self, error: MastraError) -> None:
        get_logger().warning("the lease of run %s was not renewed: %s", self.id, error.message)

    def _take_outcome(self) -> None:
        """A run that is loaded stays as it is until somebody resumes it."""
        view = self.view
        root = view.spans.get(view.root)
        if view.status == "done" and root is not None:
            self._output = self._codec.load(
                root.output, Context(self.log, root.path, None, root.kind)
            )
        elif view.status == "suspended":
            self._error = self._suspended()
        elif view.status == "cancelled":
            self._error = Stopped(f'run "{self.id}" was stopped')
        elif view.status == "failed" and root is not None and root.error is not None:
            said = root.error
            self._error = MastraError(said.message, hint=said.hint, code=said.code)
        else:
            self._error = NotResumable(
                f'run "{self.id}" was cut off, or runs elsewhere',
                hint="run.resume() takes it up where it was",
            )
        self._done.set()
        self.log.close()

    def _suspended(self) -> RunSuspended:
        return RunSuspended(
            f'run "{self.id}" of "{self.name}" waits: {_waits_for(self.view)}',
            run=self,
            hint=f"run.resume(answer), or %resume {self.id} approve",
        )

    def _expire(self, seconds: float) -> None:
        self._expired = LimitExceeded(
            f"the run took longer than {seconds:g} s and was stopped",
            hint="raise it with limits=Limits(seconds=...)",
            details={"limit": "seconds", "value": seconds},
        )
        if self._task is not None:
            self._task.cancel()


_renewals: set[asyncio.Task[None]] = set()


async def _settle(task: asyncio.Task[Any]) -> None:
    with contextlib.suppress(BaseException):
        await asyncio.shield(task)


def _retrieve(task: asyncio.Task[Any]) -> None:
    """A run that nobody awaited has its error in the handle: no "never retrieved" noise."""
    if not task.cancelled():
        task.exception()


def _waits_for(view: View) -> str:
    waits = [
        f'approval of "{s.payload.get("tool")}"'
        if s.reason == "approval" and isinstance(s.payload, dict)
        else s.reason
        for s in view.pending.values()
    ]
    return ", ".join(waits)
