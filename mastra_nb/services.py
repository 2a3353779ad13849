"""What runs of one application share, and the default for runs that belong to none."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from mastra_nb import plugins, unattended
from mastra_nb._later import later
from mastra_nb.config import Settings
from mastra_nb.events import Event
from mastra_nb.storage import RunRow, Store

if TYPE_CHECKING:
    import socket

    from mastra_nb.executor import Executor
else:
    socket = later("socket", globals())


class Services:
    """What runs of one application share: a store, settings, ids, readers of their events.

    `wrap_model` and `wrap_embedder` put record/replay or a cache around them; `now` is the clock of
    events. `sinks` see every event of every run, where it happens (a sync tool's thread too), and
    must not block; one that raises is taken out. `session` names the threads of conversations that
    nobody has named. `on_interrupt` is told when the cancellation of a reader has stopped a run;
    `present` shows a workflow's run to whoever waits for it first, until it rests, and returns the
    run that it has become: somebody may have answered what it asked.
    """

    def __init__(
        self,
        *,
        store: Store | None = None,
        settings: Settings | None = None,
        wrap_model: Callable[[Any], Any] | None = None,
        new_id: Callable[[], str] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.settings = settings or Settings()
        self.wrap_model = wrap_model
        self.wrap_embedder: Callable[[Any], Any] | None = None
        self.new_id = new_id or random_id
        self.now = now
        self.sinks: list[Callable[[Event], None]] = []
        self.session = os.urandom(4).hex()
        self.on_interrupt: Callable[[BaseException, Any], None] | None = None
        self.present: Callable[[Any], Awaitable[Any]] | None = None
        self._executors: dict[str, Executor] = {}
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"

    def executor(self, given: str | Executor) -> Executor:
        """The executor of that name, with a worker for each processor: made when it is first asked
        for, closed by `close_executors`. Raises NotFound, MissingExtra.
        """
        if not isinstance(given, str):
            return given
        if given not in self._executors:
            workers = os.cpu_count() or 1
            self._executors[given] = plugins.executors.load(given)(workers, None)
        return self._executors[given]

    async def close_executors(self) -> None:
        while self._executors:
            await self._executors.popitem()[1].close()


def is_dead(owner: str) -> bool:
    """True if the owner of a lease was a process of this machine that is no more."""
    host, _, rest = owner.rpartition(":")[0].rpartition(":")
    if host != socket.gethostname() or not rest.isdecimal() or os.name != "posix":
        return False
    try:
        os.kill(int(rest), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def is_driven(row: RunRow) -> bool:
    """Whether a process holds its lease; leases run by the store's clock."""
    return row.lease_until > time.time() and not is_dead(row.owner)


def random_id() -> str:
    row = unattended.row()
    return f"{row.run_prefix if row is not None else 'r_'}{os.urandom(6).hex()}"


@functools.cache
def store_in_memory() -> Store:
    """What is remembered where there is no store: one for the process, gone with it."""
    store: Store = plugins.stores.load("memory")("memory://")
    return store


_ambient: Services | None = None


def ambient() -> Services:
    """The services of runs that belong to no application; a notebook sets its own."""
    global _ambient
    if _ambient is None:
        _ambient = Services()
    return _ambient


def set_ambient(services: Services | None) -> None:
    global _ambient
    _ambient = services


def leave_ambient(services: Services) -> None:
    """These close: runs that belong to no application use others from now on."""
    if _ambient is services:
        set_ambient(None)
