"""How a store gets at its file: small calls inline, the others in a thread.

A small write runs inline, on the thread of the event loop; when another writer has the file, when
it is large, or when it must reach the disk before it returns (`barrier`), a writer thread does it.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Literal, TypeVar

from mastra_nb.stores import _errors, _sql
from mastra_nb.stores import _rules as rules

# Above these an inline call would keep the event loop for longer than a thread costs.
INLINE_WRITE_BYTES = 256 * 1024
INLINE_READ_EVENTS = 500

T = TypeVar("T")


class Access:
    """A file as this process has it open; any event loop and thread may call it."""

    # "full": what is written behind a barrier is on the disk, else it is a write like any other.
    synchronous: Literal["full", "normal"] = "full"

    def __init__(self, path: Path, url: str, app_id: int, migrations: Sequence[str]) -> None:
        self.url = url
        self.path = path
        self._schema = (app_id, migrations)
        self._closed = False
        self._attach()

    def _attach(self) -> None:
        self._attached = _sql.attach(self.path, *self._schema)
        self._release = weakref.finalize(self, _sql.detach, self._attached)

    @property
    def _file(self) -> _sql.File:
        if self._closed:
            raise rules.closed(self.url)
        if self._attached.pid != os.getpid():
            self._attach()
        return self._attached

    async def close(self) -> None:
        """Gives the file up; may be called again."""
        if self._closed:
            return
        self._closed = True
        pool = self._attached.writing
        if pool is None or self._attached.pid != os.getpid():
            self._release()
            return
        # Not on the loop: the last user of a file moves its log into it and syncs.
        await in_thread(pool, self._release, threading.Event())

    async def _write(
        self, work: _sql.Work[T], *, barrier: bool = False, threaded: bool = False
    ) -> T:
        file = self._file
        if not threaded:
            try:
                return file.write(work)
            except _errors.Busy:
                pass  # the thread below waits its turn
        abandoned, deadline = threading.Event(), time.monotonic() + file.timeout
        return await in_thread(
            file.writing,
            lambda: file.wait_write(work, abandoned, deadline, barrier=barrier),
            abandoned,
        )

    async def _read(self, work: _sql.Work[T], *, threaded: bool = False) -> T:
        file = self._file
        if not threaded:
            try:
                return file.read(work)
            except _errors.Busy:
                pass  # the thread below waits its turn
        abandoned, deadline = threading.Event(), time.monotonic() + file.timeout
        return await in_thread(
            file.reading, lambda: file.wait_read(work, abandoned, deadline), abandoned
        )


async def in_thread(
    pool: Executor | None,
    work: Callable[[], T],
    abandoned: threading.Event,
    stop: Callable[[], None] | None = None,
) -> T:
    """`work()` in `pool`. A cancelled caller learns of it when the work has ended either way."""
    future = asyncio.get_running_loop().run_in_executor(pool, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        abandoned.set()
        if stop is not None:
            stop()
        # Also if this waits no longer, being cancelled once more.
        future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        await asyncio.wait([future])
        raise
