"""The runs that a server drives: they go on when nobody reads them, and are found by their id."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from mastra_nb.agents import Agent
from mastra_nb.config import get_logger
from mastra_nb.errors import Conflict, MastraError, NotFound
from mastra_nb.events import Event
from mastra_nb.runs import Run
from mastra_nb.server._logs import Kept
from mastra_nb.server._routes import BadRequest

if TYPE_CHECKING:
    from mastra_nb.app import Mastra

# How many runs at rest are kept: where there is no store to find them in, and where there is one,
# for readers who come back in the middle of a text, which a store has in one piece.
_KEPT, _KEPT_BESIDE = 256, 64
# How many runs that wait are looked through for a call.
_LOOKED_THROUGH = 100
# How many announced runs may wait for their beginning.
_ANNOUNCED = 10_000


class LiveRuns:
    """A run that rests is dropped: it is in the store, or among the newest that are not."""

    def __init__(self, app: Mastra) -> None:
        self.app = app
        self._running: dict[str, Run[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._rested: OrderedDict[str, Run[Any]] = OrderedDict()
        self._announced: OrderedDict[str, tuple[str, str]] = OrderedDict()
        # By whom it is watched for what begins on a thread: (agent, thread) -> queues.
        self._watched: dict[tuple[str, str], set[asyncio.Queue[tuple[Run[Any], int]]]] = {}
        self.logs = Kept()
        self.draining = False

    def __len__(self) -> int:
        return len(self._running)

    # Runs that are announced: Mastra's clients make one, then start it.

    def announce(self, id: str, name: str, resource: str) -> None:
        self._announced[id] = (name, resource)
        while len(self._announced) > _ANNOUNCED:
            self._announced.popitem(last=False)

    def announced(self, id: str, name: str) -> str | None:
        """The resource of an announced run of that name."""
        found = self._announced.get(id)
        return found[1] if found is not None and found[0] == name else None

    # Driving

    def start(self, run: Run[Any]) -> Run[Any]:
        """Drive it to its rest, whoever reads it. Raises Conflict for a run that runs here."""
        if self.draining:
            raise BadRequest("the server is ending", status=503)
        now = self._running.get(run.id)
        if now is not None and not now.rests:
            raise Conflict(f'run "{run.id}" is running', hint="observe it")
        run.presented = True  # it has no cell to be shown in
        self._announced.pop(run.id, None)
        self._rested.pop(run.id, None)
        self._running[run.id] = run
        task = asyncio.get_running_loop().create_task(self._drive(run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        for queue in self._watched.get((run.name, run.thread), ()):
            queue.put_nowait((run, len(run.log.events)))
        return run

    async def _drive(self, run: Run[Any]) -> None:
        try:
            await run
        except MastraError:
            pass  # it is the run's outcome, which its readers tell
        except Exception:
            get_logger("mastra_nb.server").debug("run %s failed", run.id, exc_info=True)
        finally:
            if self._running.get(run.id) is run:
                del self._running[run.id]
            self._rested[run.id] = run
            while len(self._rested) > (_KEPT if self.app.store is None else _KEPT_BESIDE):
                self._rested.popitem(last=False)

    async def find(
        self, id: str, *, name: str, kind: str = Agent.kind, resource: str | None = None
    ) -> Run[Any]:
        """Raises NotFound for a run that is not there, or not that one's."""
        what = "Workflow run" if kind != Agent.kind else "Run"
        run, store = self._running.get(id), self.app.store
        if run is None and store is None:
            run = self._rested.get(id)
        elif run is None and store is not None:
            row = await store.get_run(id)
            if row is not None and (row.name, row.kind) == (name, kind):
                run = await self.app.get_run(id)
        if run is None or (run.name, run.target.kind) != (name, kind):
            raise NotFound(f"{what} not found")
        if resource is not None and run.resource != resource:
            raise NotFound(f"{what} not found")
        return run

    def as_driven(self, run: Run[Any]) -> Run[Any]:
        """The run as it went on here, with the pieces of its texts, if nobody went on with it."""
        kept = self._rested.get(run.id)
        if kept is None or not (kept.log.events and run.log.events):
            return run
        return kept if kept.log.events[-1].seq == run.log.events[-1].seq else run

    async def waiting(self, name: str, *, resource: str | None, thread: str) -> list[str]:
        """Ids of an agent's runs that wait, the newest first; in that thread, if one is named."""
        if self.app.store is None:
            found = [r for r in reversed(self._rested.values()) if r.name == name and r.pending]
            return [
                r.id for r in found if resource in (None, r.resource) and thread in ("", r.thread)
            ]
        rows = await self.app.store.find_runs(
            name=name,
            status="suspended",
            resource=resource,
            thread=thread or None,
            limit=_LOOKED_THROUGH,
        )
        return [row.id for row in rows]

    def running(self, id: str) -> Run[Any] | None:
        found = self._running.get(id)
        return None if found is None or found.rests else found

    def on_thread(self, name: str, thread: str) -> list[Run[Any]]:
        found = self._running.values()
        return [run for run in found if run.name == name and thread and run.thread == thread]

    @contextlib.contextmanager
    def watch(self, name: str, thread: str) -> Any:
        """A queue of the runs that begin on a thread, with the event from which they are new."""
        queue: asyncio.Queue[tuple[Run[Any], int]] = asyncio.Queue(maxsize=0)
        watchers = self._watched.setdefault((name, thread), set())
        watchers.add(queue)
        try:
            yield queue
        finally:
            watchers.discard(queue)
            if not watchers:
                self._watched.pop((name, thread), None)

    def after(self, before: Iterable[Run[Any]], begin: Callable[[], Awaitable[Any]]) -> None:
        """Begin another run when these rest."""

        async def wait() -> None:
            for run in before:
                await run.rested()
            try:
                await begin()
            except MastraError as error:
                get_logger("mastra_nb.server").warning("a queued run: %s", error.message)

        task = asyncio.get_running_loop().create_task(wait())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def forget(self, run: Run[Any]) -> None:
        """Delete a run that rests. Raises Conflict if something needs it."""
        if self.app.store is not None:
            await self.app.store.delete_run(run.id)
        self._rested.pop(run.id, None)

    # The end

    async def drain(self, seconds: float) -> int:
        """Let runs end for so long; what is not done then is left as it is, to be taken up by the
        next process, or where there is no store is stopped. Returns how many.
        """
        if self.draining:
            return 0
        self.draining = True
        if self._tasks and seconds:
            await asyncio.wait([*self._tasks], timeout=seconds)
        left = [*self._running.values()]
        for run in left:
            if self.app.store is not None:
                run.release()
            else:
                run.cancel()
        if self._tasks:
            await asyncio.wait([*self._tasks], timeout=5)
        return len(left)


async def batches(run: Run[Any], after: int, *, beat: float) -> AsyncIterator[list[Event]]:
    """The events of a run from `after` on, those that are there together; an empty list after
    `beat` seconds of silence. Until it rests; who reads it may leave.
    """
    log, i = run.log, after
    while True:
        over = run.rests
        found = log.events[i:]
        i += len(found)
        if found:
            yield found
        if over:
            return
        try:
            async with asyncio.timeout(beat):
                await log.more(i, lambda: run.rests)
        except TimeoutError:
            yield []
