"""Work behind the turns: nobody waits for it but the next turn, and that one not for long."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Awaitable, Callable
from weakref import WeakSet

from mastra_nb import portal
from mastra_nb.config import get_logger
from mastra_nb.errors import MastraError

Work = Callable[[], Awaitable[None]]

# How long the end of the process waits for work that has begun, in seconds.
AT_EXIT = 10.0
_UNWIND = 2.0
_POLL = 0.02
_BLOCKED = 0.2


class _Doing:
    """A piece of work: on the loop of the turn that began it, and on the portal's if that one ends
    before.
    """

    def __init__(self, what: str, work: Work, before: _Doing | None) -> None:
        self.what = what
        self.is_done = False
        self.is_stopped = False
        self.loop = asyncio.get_running_loop()
        self.task = self._start(work, before)

    def _start(self, work: Work, before: _Doing | None) -> asyncio.Task[None]:
        # Not a part of the run that starts it: a context of its own.
        made = self._do(work, before)
        return self.loop.create_task(made, context=contextvars.Context())

    @property
    def goes_on(self) -> bool:
        return not self.is_done and self.loop.is_running()

    def stop(self) -> None:
        self.is_stopped = True
        if self.goes_on:
            self.loop.call_soon_threadsafe(self.task.cancel)

    async def _do(self, work: Work, before: _Doing | None) -> None:
        try:
            if before is not None:
                await waited([before])
            await work()
        except asyncio.CancelledError:
            if not self._moved(work, before):
                self.is_done = True
            raise
        except MastraError as error:
            get_logger().warning("%s: %s", self.what, error.message)
        except Exception:
            # Nobody waits for this: what it left undone the next one does.
            get_logger().exception("%s", self.what)
        self.is_done = True

    def _moved(self, work: Work, before: _Doing | None) -> bool:
        """What is cancelled without `stop` was cut off by a loop that ends, as asyncio.run does."""
        if self.is_stopped or self.loop is (there := portal.loop()):
            return False
        self.loop = there

        def start() -> None:
            self.task = self._start(work, before)

        there.call_soon_threadsafe(start)
        return True


async def waited(works: list[_Doing], seconds: float | None = None) -> bool:
    """Until all are done, on whichever loops; False if they take longer, or for a loop that is
    blocked: by somebody who waits for us, it may be.
    """
    here = asyncio.get_running_loop()
    end = None if seconds is None else here.time() + seconds
    answered: dict[asyncio.AbstractEventLoop, float] = {}

    def answers(loop: asyncio.AbstractEventLoop) -> bool:
        now = time.monotonic()
        last = answered.setdefault(loop, now)
        loop.call_soon_threadsafe(lambda: answered.__setitem__(loop, time.monotonic()))
        return now - last < _BLOCKED

    while going := [w for w in works if w.goes_on]:
        left = None if end is None else end - here.time()
        if left is not None and left <= 0:
            return False
        if all(w.loop is here for w in going):
            await asyncio.wait([w.task for w in going], timeout=left)
        elif any(not answers(w.loop) for w in going if w.loop is not here):
            return False
        else:
            await asyncio.sleep(_POLL)
    return True


class Background:
    """Works of one key are done one after another; what fails is told to the log.

    The end of the process waits for them: a script's last turn is remembered like any other.
    """

    def __init__(self) -> None:
        self._works: dict[str, _Doing] = {}
        _all.add(self)

    def start(self, key: str, what: str, work: Work) -> None:
        _wait_at_exit()
        self._works = {k: w for k, w in self._works.items() if not w.is_done}
        self._works[key] = _Doing(what, work, self._works.get(key))

    def is_busy(self, key: str) -> bool:
        return key in self._works and self._works[key].goes_on

    def stop(self) -> None:
        """Give up what is not done."""
        for work in self._works.values():
            work.stop()

    async def settle(self, key: str | None = None, *, seconds: float | None = None) -> bool:
        """Wait for the works of that key (None: of all); False if they take longer."""
        return await waited([w for k, w in self._works.items() if key in (None, k)], seconds)


_all: WeakSet[Background] = WeakSet()
_is_registered = False


def _wait_at_exit() -> None:
    # Before the executors end, which is before atexit: without them no store can be written.
    global _is_registered
    if not _is_registered:
        _is_registered = True
        threading._register_atexit(_at_exit)  # type: ignore[attr-defined]


def _at_exit() -> None:
    works = [w for b in _all for w in b._works.values() if w.goes_on]
    try:
        if works and not portal.run(waited(works, AT_EXIT)):
            get_logger().warning("%s: the process ended before", works[0].what)
    finally:
        for w in works:
            w.stop()
        if any(w.goes_on for w in works):
            portal.run(waited(works, _UNWIND))
