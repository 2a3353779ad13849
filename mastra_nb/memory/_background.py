"""Work behind the turns: nobody waits for it but the next turn, and that one not for long."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable

from mastra_nb.config import get_logger
from mastra_nb.errors import MastraError

Work = Callable[[], Awaitable[None]]


class Background:
    """Tasks of one key run one after another; what fails is told to the log."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, key: str, what: str, work: Work) -> None:
        before = self._tasks.get(key)
        loop = asyncio.get_running_loop()

        async def behind() -> None:
            if before is not None and not before.done() and before.get_loop() is loop:
                await asyncio.wait([before])
            try:
                await work()
            except MastraError as error:
                get_logger().warning("%s: %s", what, error.message)
            except Exception:
                # Nobody waits for this task: what it left undone the next one does.
                get_logger().exception("%s", what)

        # Not a part of the run that starts it: a context of its own.
        task = loop.create_task(behind(), context=contextvars.Context())
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._forget(key, done))

    def _forget(self, key: str, done: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is done:
            del self._tasks[key]

    async def settle(self, key: str | None = None, *, seconds: float | None = None) -> bool:
        """Wait for the tasks of that key (None: of all) on this loop; False if they take longer."""
        loop = asyncio.get_running_loop()
        chosen = [t for k, t in self._tasks.items() if key in (None, k)]
        mine = [t for t in chosen if t.get_loop() is loop and not t.done()]
        if not mine:
            return True
        _, late = await asyncio.wait(mine, timeout=seconds)
        return not late
