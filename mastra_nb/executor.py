"""Where work is done that need not be done here: other processes, other machines.

An executor places work, notices that a worker has died, and stops what is no longer wanted. What
is durable stays with whoever submits: it writes down each result as it comes, and lets it go.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from mastra_nb._later import later
from mastra_nb.errors import ConfigError, Stopped, WorkerDied

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future
else:
    asyncio = later("asyncio", globals())

T = TypeVar("T")
S = TypeVar("S")

# Submitted ahead for each worker, so that none waits while a result is written down.
AHEAD = 2


class Executor(Protocol):
    """`submit` returns at once, from any thread; what is submitted is a function of a module and
    arguments that can be pickled. Its future gives the result, what the function raised, or
    WorkerDied if its process ended.
    """

    @property
    def workers(self) -> int:
        """How many calls are at work at once."""
        ...

    def submit(self, fn: Callable[..., T], /, *args: Any) -> Future[T]: ...

    def cancel(self, future: Future[Any]) -> None:
        """Stop it, also one that is at work; its future then raises Stopped. A worker that somebody
        else has started finishes what it is doing, for nobody.
        """
        ...

    async def close(self) -> None:
        """Stop what is at work, and the workers. More than once does nothing."""
        ...


async def as_completed(futures: Iterable[Future[T]]) -> AsyncIterator[Future[T]]:
    """Each when it is done, the first one first; it is not kept here afterwards."""
    done: asyncio.Queue[Future[T]] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    left = 0
    for future in futures:
        left += 1
        future.add_done_callback(lambda f: loop.call_soon_threadsafe(done.put_nowait, f))
    for _ in range(left):
        yield await done.get()


async def spread(
    executor: Executor, fn: Callable[[S], T], items: Iterable[S]
) -> AsyncIterator[tuple[int, Future[T]]]:
    """`fn` of each item, as (position, its future) in the order in which they end. Items are taken
    when there is room for them, so that as few are held as are at work.
    """
    done: asyncio.Queue[tuple[int, Future[T]]] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    todo = enumerate(items)
    under_way: set[Future[T]] = set()

    def submit() -> bool:
        for i, item in todo:
            future = executor.submit(fn, item)
            under_way.add(future)
            future.add_done_callback(
                lambda f, i=i: loop.call_soon_threadsafe(done.put_nowait, (i, f))  # type: ignore[misc]
            )
            return True
        return False

    try:
        for _ in range(executor.workers * AHEAD):
            if not submit():
                break
        while under_way:
            i, future = await done.get()
            under_way.discard(future)
            submit()
            yield i, future
            del future
    finally:
        for future in under_way:
            executor.cancel(future)


# A worker's death is not its call's fault; a call that ends worker after worker is.
MOST_DEATHS = 3


async def elsewhere(executor: Executor, fn: Callable[..., T], /, *args: Any) -> T:
    """What `fn` gives there; it is stopped if whoever waits is cancelled. A call whose worker died
    is made again. Raises what it raised, WorkerDied where that happened every time.
    """
    deaths = 0
    while True:
        future = executor.submit(fn, *args)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            executor.cancel(future)
            raise
        except WorkerDied:
            deaths += 1
            if deaths >= MOST_DEATHS:
                raise


class Named(msgspec.Struct, frozen=True):
    """A function that stands in its module as something else: as a step."""

    module: str
    name: str

    def found(self) -> Any:
        thing: Any = importlib.import_module(self.module)
        for part in self.name.split("."):
            thing = getattr(thing, part)
        return thing


def portable(fn: Any) -> Any:
    """What is sent in place of `fn`: itself, or where a worker finds it."""
    named = Named(getattr(fn, "__module__", "") or "", getattr(fn, "__qualname__", ""))
    if not named.module or "<" in named.name:
        return fn
    module = sys.modules.get(named.module)
    stands = getattr(module, named.name, None)
    return named if getattr(stands, "fn", None) is fn else fn


def apply(fn: Any, arguments: dict[str, Any]) -> Any:
    """In a worker: call what `portable` gave. A coroutine function has a loop of its own."""
    if isinstance(fn, Named):
        fn = fn.found().fn
    made = fn(**arguments)
    return asyncio.run(made) if inspect.iscoroutine(made) else made


def check_portable(fn: Any) -> None:
    """Raises ConfigError for a function that another process cannot find by its name."""
    if isinstance(fn, Named):
        fn = fn.found().fn
    module, name = getattr(fn, "__module__", None), getattr(fn, "__qualname__", "")
    if not module or module == "__main__" or "<" in name or not name:
        raise ConfigError(
            f'"{name or type(fn).__name__}" cannot be sent to another process',
            hint="define it with def at the top of a module, and import it",
            code="executor.not_portable",
        )


# A future that is cancelled would, awaited, look as if its reader were: ours raise an error.


def stopped() -> Stopped:
    return Stopped("it was stopped", hint="submit it again")


def begin(future: Future[Any]) -> bool:
    """False if it is not wanted any more."""
    with _lock:
        return not (future.running() or future.done()) and future.set_running_or_notify_cancel()


def never_begun(future: Future[Any]) -> bool:
    """Stop it if nobody has begun with it; False if somebody has."""
    with _lock:
        if future.running() or future.done() or not future.set_running_or_notify_cancel():
            return False
    future.set_exception(stopped())
    return True


# What a worker process does before it is stopped in the middle of its work.
_stopping: list[Callable[[], None]] = []
_lock = threading.Lock()


class WhenStopped:
    """While it is entered, `action` is done if this worker is stopped."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action

    def __enter__(self) -> None:
        with _lock:
            _stopping.append(self._action)

    def __exit__(self, *_: object) -> None:
        with _lock:
            _stopping.remove(self._action)


def stop_work() -> None:
    """A worker's last words, on any of its threads."""
    with _lock:
        actions = [*_stopping]
    for action in actions:
        action()
