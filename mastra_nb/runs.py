"""The handle of a run: its log, the readers of it, and the one task that drives it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mastra_nb import portal
from mastra_nb._later import later
from mastra_nb.context import PLAIN, Codec, Context, Runnable, Timed, current
from mastra_nb.errors import (
    Conflict,
    LeaseHeld,
    MastraError,
    NotResumable,
    RunSuspended,
    SchemaError,
    Suspend,
    UsageError,
)
from mastra_nb.events import Event, Payload, Resumed, RunStatus, View
from mastra_nb.limits import Limits
from mastra_nb.past import Past
from mastra_nb.readings import Reading
from mastra_nb.runlog import (
    RunLog,
    Watchers,
    check_answer,
    ended_with,
    is_here,
    notify,
    stopped,
    unbroken,
    waits,
)
from mastra_nb.services import Services, ambient
from mastra_nb.storage import RunRow, Store, read_run

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = later("asyncio", globals())

T = TypeVar("T")


class Run(Reading, Generic[T]):
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
        resource: str = "",
        key: str | None = None,
        request_context: Mapping[str, Any] | None = None,
        id: str = "",
        past: Sequence[Event] = (),
        go_on: bool = False,
        answer: tuple[str, Any] | None = None,
        expired: bool = False,
        parent: tuple[str, int] | None = None,
        begin: Sequence[tuple[str, Payload]] = (),
        new_id: str = "",
    ) -> None:
        self.target = target
        self.input = input
        self._codec = codec
        self._stored = bool(id)
        self._within = None if self._stored else current()
        self._services = services or (
            self._within.services if self._within is not None else ambient()
        )
        self._key = key
        self._answer = answer
        self._expired = expired
        # Of a fork: the run and the seq up to which it is the other's, and what is otherwise.
        self._parent = parent
        self._begin = begin
        self.presented = False
        self._lock = threading.RLock()
        self._view = View()
        self._folded = 0
        self._started = False
        self._done = False
        self._halted = False
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watchers: Watchers = []
        self._output: T | None = None
        self._error: BaseException | None = None
        self._next: Run[T] | None = None
        self._given_up: Run[T] | None = None
        self._gives_up = self._released = False
        self._prefix = ""
        self._first = 0
        if self._within is not None:
            for what, given in (("deps", deps), ("request_context", request_context)):
                if given is not None:
                    raise UsageError(
                        f'"{target.name}" runs inside another run and shares its {what}',
                        hint=f"leave {what}= out here, give it to the outer run",
                    )
            self._segment = self._within.segment(target.name, codec.show(input), key)
            self._prefix = f"{self._within.path}/{self._segment}"
            self.log = self._within.run
            self._first = len(self.log.events)
            if self._within.begun is not None:
                self._within.begun.add(self)
            return
        if not isinstance(request_context, Mapping | None):
            raise UsageError("request_context is no mapping", hint='request_context={"user": "u1"}')
        if not isinstance(key, str | None):
            raise UsageError(f"the key {key!r} is no text", hint='key="order-42"')
        self._segment = target.name.replace("/", ":")
        self.log = RunLog(
            id=id or new_id or self._services.new_id(),
            services=self._services,
            limits=limits,
            deps=deps,
            thread=thread,
            resource=resource,
            past=past,
            request_context=request_context,
        )
        if self._stored and not go_on:
            self._take_outcome()

    # What a run is

    @property
    def status(self) -> RunStatus:
        if self._given_up is not None:
            return self._given_up.status
        if self._halted:
            return "cancelled"
        return "running" if self._started and not self._done else self.view.status

    @property
    def output(self) -> T:
        """The output of a finished run. Raises what the run raised, or if it is not finished."""
        if self._given_up is not None:
            return self._given_up.output
        if not self._done:
            raise UsageError(f'run "{self.id}" is not finished', hint="await it, or call .result()")
        return self._outcome()

    def __repr__(self) -> str:
        return f'<Run {self.id} of "{self.name}": {self.status}>'

    # The four spellings of running it

    def __await__(self) -> Generator[Any, None, T]:
        return self._wait(inline=True).__await__()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._read(strict=True)

    def __iter__(self) -> Iterator[Event]:
        self._refuse_own_loop()
        return portal.iterate(self._read(strict=True))

    def result(self) -> T:
        """Block until the run rests and return its output."""
        self._refuse_own_loop()
        return portal.run(self._wait(inline=False))

    def _refuse_own_loop(self) -> None:
        loop = self._loop if self._within is None else self.log.loop
        if loop is not None and not self._done and is_here(loop):
            raise UsageError(
                f'"{self.name}" would wait for the loop it runs on',
                hint="in async code write: await run, or async for event in run",
            )

    def events(self) -> AsyncIterator[Event]:
        """Events from the start, live; stops at the run's end without raising its error.

        If the reader is cancelled (a kernel's interrupt), so is the run.
        """
        return self._read(strict=False)

    async def _read(self, *, strict: bool) -> AsyncIterator[Event]:
        self._start()
        try:
            async for event in self.follow():
                yield event
        except asyncio.CancelledError as error:
            await self._stop_and_rest(error)
            raise
        if strict and self._error is not None and not isinstance(self._error, RunSuspended):
            raise self._error

    # Stopping and going on

    def cancel(self) -> None:
        """Stop the run: connections are closed, tools cancelled, the partial text is kept. One that
        waits for an answer, or was cut off, is given up: `await run` says when its store knows."""
        with self._lock:
            if self._done:
                rests = self._halted or self.view.status in ("done", "failed", "cancelled")
                if self._within is None and self._next is None and not rests:
                    self._give_up()
                return
            if not self._started:
                if self._within is None:
                    self._halt()
                return
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._cancel_task)

    def release(self) -> None:
        """Stop driving it, and leave it in its store as it is, for another process to resume."""
        with self._lock:
            self._released = not self._done
        self.log.seal()
        self.cancel()

    def _cancel_task(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _give_up(self) -> None:
        """It waits, here or in another process: take it up and end it."""
        self._next = self._given_up = self._continued(None)
        self._given_up._gives_up = True
        if is_here():
            self._given_up._start()
            return
        with contextlib.suppress(MastraError):
            portal.run(self._given_up._wait(inline=False))

    def _halt(self) -> None:
        """It will never run, or its loop died under it."""
        self._started = True
        self._halted = not self.log.events
        self._error = stopped(self.id, self.name)
        self._rest()

    def resume(self, answer: Any = ..., *, path: str | None = None) -> Run[T]:
        """The same run, going on: finished calls are not made again.

        `answer` goes to the suspension at `path`, or to the only one; without an answer a run
        that was cut off is taken up where it was. The same answer again gives the same run.
        Raises NotResumable, SchemaError if the answer does not fit, Conflict if another answer
        was already given.
        """
        if self._within is not None:
            raise NotResumable(
                f'"{self.name}" ran inside run "{self.id}"', hint="resume the outer run"
            )
        with self._lock:
            if self._given_up is not None:
                raise NotResumable(f'run "{self.id}" was stopped', hint="ask again")
            if self._next is not None and not isinstance(self._next._error, LeaseHeld):
                return self._next._again(answer, path)
            if self._started and not self._done:
                raise NotResumable(f'run "{self.id}" is still running')
            if self.view.status == "cancelled" or self._halted:
                raise NotResumable(f'run "{self.id}" was stopped', hint="ask again")
            past = [e for e in self.log.events if e.durable]
            given = None
            if answer is not ...:
                given = check_answer(self.id, Past(past), answer, path, self._services.now())
            self._next = self._continued(given)
            return self._next

    def expire(self) -> Run[T]:
        """The same run, going on without the first answer whose time is over. Raises
        NotResumable if there is none.
        """
        now = self._services.now()
        late = [p for p, asked in self.pending.items() if (asked.deadline or now + 1) <= now]
        if not late:
            raise NotResumable(
                f'run "{self.id}" waits for nothing whose time is over', hint="see run.pending"
            )
        with self._lock:
            if self._next is None:
                self._next = self._continued((late[0], None), expired=True)
            return self._next

    def _continued(self, answer: tuple[str, Any] | None, *, expired: bool = False) -> Run[T]:
        log = self.log
        return type(self)(
            self.target,
            self.input,
            codec=self._codec,
            services=self._services,
            limits=log.meter.limits,
            deps=log.deps,
            thread=log.thread,
            resource=log.resource,
            key=self._key,
            request_context=log.request_context,
            id=self.id,
            past=[e for e in log.events if e.durable],
            go_on=True,
            answer=answer,
            expired=expired,
        )

    def _again(self, answer: Any, path: str | None) -> Run[T]:
        """`resume` of a run that was resumed before: by somebody else, or a second click."""
        if answer is ... and not self._done:
            return self
        if self._answer is not None and answer == self._answer[1]:
            waits = self._done and self.view.status == "suspended"
            if path == self._answer[0] or (path is None and not waits):
                return self
        return self.resume(answer, path=path)

    # How it runs

    def _start(self) -> None:
        """Nested runs are driven on the loop of the run they are part of, others on this one."""
        here = asyncio.get_running_loop()
        with self._lock:
            if self._started or self._done:
                return
            self._started = True
            self._loop = here if self._within is None else self.log.loop
            assert self._loop is not None
            if self._loop is here:
                self._spawn()
                return
        try:
            self._loop.call_soon_threadsafe(self._spawn)
        except RuntimeError:
            self._halt()

    def _spawn(self) -> None:
        assert self._loop is not None
        if self._within is None:
            self.log.bind(self._loop)
            self._task = self._loop.create_task(self._drive())
        else:
            self._task = self._loop.create_task(self._drive_within(self._within))
            self._within.tasks = self._within.tasks or set()
            self._within.tasks.add(self._task)
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if not self._done:
            # Cancelled before it began: none of its code has run.
            self._error = error or stopped(self.id, self.name)
            self._rest()

    async def _wait(self, *, inline: bool) -> T:
        """`inline` is for the task that the enclosing call runs in: it saves a task of its own."""
        if self._given_up is not None:
            return await self._given_up._wait(inline=False)
        if self._is_shown():
            self.presented = True
            assert self._services.present is not None
            became: Run[T] = await self._services.present(self)
            if became is not self:
                return await became._wait(inline=False)
        if not self._done:
            with self._lock:
                inline = (
                    inline
                    and self._within is not None
                    and not self._started
                    and self.log.loop is asyncio.get_running_loop()
                )
                self._started = self._started or inline
            if inline:
                assert self._within is not None
                await self._drive_within(self._within)
            else:
                self._start()
                try:
                    await self.rested()
                except asyncio.CancelledError as error:
                    await self._stop_and_rest(error)
                    raise
        return self._outcome()

    def _is_shown(self) -> bool:
        """Whether a front end wants to show this run to whoever waits for it first."""
        return (
            self._services.present is not None
            and self._within is None
            and not (self.presented or self._started or self._done)
            and self.target.kind == "workflow"
        )

    @property
    def began(self) -> bool:
        """Whether anybody has wanted something of it yet."""
        return self._started

    async def rested(self) -> None:
        """Wait until it rests, whatever its outcome; on any loop."""
        with self._lock:
            if self._loop is not None and self._loop.is_closed() and not self._done:
                self._halt()
            if self._done:
                return
            loop = asyncio.get_running_loop()
            future: asyncio.Future[None] = loop.create_future()
            self._watchers.append((loop, future))
        await future

    async def _stop_and_rest(self, why: asyncio.CancelledError) -> None:
        self.cancel()
        # A second interrupt ends the wait.
        with contextlib.suppress(asyncio.CancelledError):
            await self.rested()
        if self._services.on_interrupt is not None:
            self._services.on_interrupt(why, self)

    def _rest(self) -> None:
        with self._lock:
            self._done, watchers, self._watchers = True, self._watchers, []
        notify(watchers)
        self.log.wake()

    def _outcome(self) -> T:
        if self._error is not None:
            raise self._error
        return self._output  # type: ignore[return-value]

    async def _drive_within(self, ctx: Context) -> None:
        """The outcome is in the handle; only a cancellation is raised."""
        try:
            self._output = await self._call(ctx, self.target)
        except asyncio.CancelledError:
            self._error = stopped(self.id, self.name)
            raise
        except BaseException as error:
            self._error = error
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
        finally:
            if ctx.begun is not None:
                ctx.begun.discard(self)
            self._rest()

    async def _drive(self) -> None:
        fatal: BaseException | None = None
        status: RunStatus = "failed"
        try:
            if await self._claim():
                return
            if self._gives_up:
                self.log.end_below([self._segment])
                raise asyncio.CancelledError
            self._output = await self._walk()
            status = "done"
        except Suspend:
            status = "suspended"
            self._name_again()
            self._error = waits(self, self.view)
        except asyncio.CancelledError:
            status = "cancelled"
            self._error = stopped(self.id, self.name)
        except (KeyboardInterrupt, SystemExit) as error:
            status, fatal = "cancelled", error
            self._error = stopped(self.id, self.name)
        except Exception as error:
            self._error = error
        await self._finish(status)
        if fatal is not None:
            raise fatal

    def _name_again(self) -> None:
        """What was not called anew waits all the same: one of them is named for all."""
        pending = self.view.pending
        for path in pending if self.log.past.held else ():
            span = path if path in self.log.past.held else path.rpartition("~")[0]
            if span in self.log.past.held:
                self.log.emit(span, span.rpartition("/")[0] or None, pending[path])
                return

    async def _walk(self) -> T:
        log = self.log
        log.begin(self._begin)
        root = Context(log, "", None, "run")
        limits = log.meter.limits
        if self._answer is not None:
            path, value = self._answer
            log.past.answer(path, value, expired=self._expired)
            log.past.answered = True
            log.emit(path, None, Resumed(path=path, value=value, expired=self._expired))
            await log.commit(barrier=True)
        log.past.hold()
        target = self.target
        if limits.seconds is not None:
            target = Timed(target, limits.seconds, log.past.worked if self._answer else 0.0)
        return await self._call(root, target)

    async def _call(self, ctx: Context, target: Runnable[Any, T]) -> T:
        """A step is more than its call: it may be tried again."""
        called = getattr(target, "called", None)
        if called is not None:
            return await called(ctx, self.input, self._segment)  # type: ignore[no-any-return]
        return await ctx.call(target, self.input, segment=self._segment, codec=self._codec)

    async def _finish(self, status: RunStatus) -> None:
        log = self.log
        log.seal()
        try:
            if log.fence:
                await unbroken(log.end(None if self._released else status))
        except MastraError:
            pass  # it is `log.failure`
        finally:
            self._error = log.failure or self._error
            self._rest()

    async def _claim(self) -> bool:
        """True if another run with the same idempotency key has come to rest: it is this one."""
        store = self._services.store
        if store is None:
            return False
        parent, seq = self._parent or (None, None)
        row = RunRow(
            id=self.id,
            name=self.name,
            kind=self.target.kind,
            input=self._codec.show(self.input),
            status="running",
            key=self._key,
            thread=self.thread or None,
            resource=self.resource,
            graph_hash=getattr(self.target, "graph_hash", ""),
            parent_run=parent,
            fork_seq=seq,
        )
        try:
            await self.log.claim(row, stored=self._stored, lost=self._cancel_task)
        except Conflict:
            same = await self._same(store, row)
            if same is None:
                raise
            self.adopt(same, await read_run(store, same))
            if self._done:
                return True
            await self.log.claim(row, stored=True, lost=self._cancel_task)
        return False

    async def _same(self, store: Store, row: RunRow) -> RunRow | None:
        """The run that was made before with the key and the input of this one."""
        if self._key is None or self._stored:
            return None
        found = await store.find_runs(key=self._key, limit=1)
        same = bool(found) and (found[0].name, found[0].kind, found[0].input) == (
            row.name,
            row.kind,
            row.input,
        )
        return found[0] if same else None

    def adopt(self, row: RunRow, past: Sequence[Event]) -> None:
        """Be the handle of this stored run, which is of the same target and input."""
        with self._lock:
            if self.log.events:
                raise UsageError(f'run "{self.id}" has begun', hint="make a new one")
            self.log.become(row.id, past)
            self._stored = True
            if row.status in ("done", "failed", "cancelled", "suspended"):
                self._take_outcome()

    def _take_outcome(self) -> None:
        """A run that is loaded stays as it is until somebody resumes it."""
        view = self.view
        root = view.spans.get(view.root)
        if view.status == "done" and root is not None:
            try:
                self._output = self._codec.load(
                    root.output, Context(self.log, root.path, None, root.kind)
                )
            except SchemaError as error:
                self._error = error  # its output type is another one now
        elif view.status == "suspended":
            self._error = waits(self, self.view)
        else:
            self._error = ended_with(view, self.id, self.name)
        self.log.seal()
        self._rest()
