"""The only bridge from blocking code to the async core: one event loop on one daemon thread.

Blocking calls work in a script, beside a running loop (a kernel), in any thread, and in a
worker thread of async code; only on the portal's own thread they would wait for themselves.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import AsyncIterable, Callable, Coroutine, Generator
from contextvars import copy_context
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from mastra_nb._later import later
from mastra_nb.errors import UsageError

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = later("asyncio", globals())

T = TypeVar("T")

UNWIND_SECONDS = 2.0


class _Portal:
    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._main, name="mastra_nb-portal", daemon=True)
        self.thread.start()

    def _main(self) -> None:
        # The runner's end cancels what is left, closes async generators and the loop.
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.get_loop().run_forever()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(UNWIND_SECONDS)


_lock = threading.Lock()
_portal: _Portal | None = None
_abandoned: list[_Portal] = []


def _get() -> _Portal:
    global _portal
    if (portal := _portal) is not None:
        return portal
    with _lock:
        if _portal is None:
            _portal = _Portal()
        return _portal


def _after_fork() -> None:
    """A child has the parent's loop without its thread.

    It is kept, not closed: the epoll set behind it is shared with the parent, and taking our
    descriptors out of it here would deafen the parent's loop.
    """
    global _portal, _lock
    _lock = threading.Lock()
    if _portal is not None:
        _abandoned.append(_portal)
        _portal = None


def _at_exit() -> None:
    if _portal is not None:
        _portal.stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)


class _Job(Generic[T]):
    """A coroutine on its way through the portal loop, in the context of who asked for it."""

    def __init__(
        self, coro: Coroutine[Any, Any, T], then: Callable[[], None] | None = None
    ) -> None:
        self.coro = coro
        self.then = then
        self.portal = _get()
        self.context = copy_context()
        self.started = False
        self.finished = threading.Event()
        self.task: asyncio.Task[None] | None = None
        self.value: T | None = None
        self.error: BaseException | None = None

    def start(self) -> None:
        if not self.started:
            self.started = True
            self.portal.loop.call_soon_threadsafe(self._create)

    def _create(self) -> None:
        self.task = self.portal.loop.create_task(self._run(), context=self.context)
        self.task.add_done_callback(self._done)

    async def _run(self) -> None:
        # All of it is caught: a KeyboardInterrupt or SystemExit would end the loop for everyone.
        try:
            self.value = await self.coro
        except BaseException as error:
            self.error = error

    def _done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self.coro.close()
            self.error = asyncio.CancelledError()
        self.finished.set()
        if self.then is not None:
            self.then()

    def cancel(self) -> None:
        self.portal.loop.call_soon_threadsafe(lambda: self.task and self.task.cancel())
        self.finished.wait(UNWIND_SECONDS)

    def result(self) -> T:
        """Blocks. What interrupts the caller cancels the coroutine and lets it unwind first."""
        try:
            self.start()
            self.finished.wait()
        except BaseException:
            self.cancel()
            raise
        if self.error is not None:
            error, self.error = self.error, None
            try:
                raise error
            finally:
                # The traceback holds this frame: without this the frame holds the traceback.
                del error
        return cast(T, self.value)


def _on_portal_thread() -> bool:
    return _portal is not None and threading.current_thread() is _portal.thread


def _deadlock() -> UsageError:
    return UsageError(
        "a blocking call on the event loop that has to answer it would wait for ever",
        hint="await it, or move the blocking code to a thread with asyncio.to_thread",
        code="usage.portal_deadlock",
    )


def loop() -> asyncio.AbstractEventLoop:
    """The portal's event loop, running on its own thread."""
    return _get().loop


def run(coro: Coroutine[Any, Any, T]) -> T:
    """Run `coro` on the portal loop and wait for what it returns or raises.

    KeyboardInterrupt in the caller cancels it, waits up to `UNWIND_SECONDS` for it to unwind, and
    goes on as KeyboardInterrupt. Raises UsageError on the portal thread itself.
    """
    if _on_portal_thread():
        coro.close()
        raise _deadlock()
    return _Job(coro).result()


def iterate(source: AsyncIterable[T]) -> Generator[T, None, None]:
    """The items of `source`, which lives in one task and advances only when asked to.

    Closing or dropping the iterator closes `source`; interrupts are treated as in `run`.
    """
    if _on_portal_thread():
        raise _deadlock()
    return _iterate(source)


def _iterate(source: AsyncIterable[T]) -> Generator[T, None, None]:
    items: SimpleQueue[tuple[T] | None] = SimpleQueue()
    wanted = asyncio.Event()
    closing = False

    async def pump() -> None:
        iterator = aiter(source)
        try:
            async for item in iterator:
                items.put((item,))
                await wanted.wait()
                wanted.clear()
                if closing:
                    break
        finally:
            aclose = getattr(iterator, "aclose", None)
            if aclose is not None:
                await aclose()

    job = _Job(pump(), then=lambda: items.put(None))
    try:
        job.start()
        while (cell := items.get()) is not None:
            try:
                yield cell[0]
            except GeneratorExit:
                if job.finished.is_set():  # the loop was stopped first: nothing is left to close
                    return
                closing = True
            job.portal.loop.call_soon_threadsafe(wanted.set)
            if closing:
                break
    except BaseException:
        job.cancel()
        raise
    # The garbage collector may close an iterator on any thread, the portal's too.
    if not (closing and _on_portal_thread()):
        job.result()


def patch_loop() -> None:
    """Let code of yours call `asyncio.run` where a loop already runs, such as in a kernel.

    nest-asyncio patches that loop and asyncio itself for the whole process, which breaks
    interrupts and widgets in the middle of a coroutine: nothing of ours needs it. Without a
    running loop there is nothing to patch. Raises UsageError for a loop that is not asyncio's.
    """
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        return
    if not isinstance(running, asyncio.BaseEventLoop):
        raise UsageError(
            f'the running loop is "{type(running).__module__}.{type(running).__qualname__}", '
            "and only asyncio's own loops can be patched",
            hint="use await in place of asyncio.run, or start the kernel without uvloop",
        )
    import nest_asyncio

    nest_asyncio.apply(running)
