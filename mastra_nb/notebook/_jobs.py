"""What `--bg` has begun in this kernel, and %mastra jobs and join."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mastra_nb import portal
from mastra_nb.errors import NotFound, RunSuspended, Stopped, close_matches
from mastra_nb.notebook import _live
from mastra_nb.notebook._errors import plain
from mastra_nb.notebook._host import Host
from mastra_nb.notebook._tables import show, show_table

if TYPE_CHECKING:
    from mastra_nb.runs import Run

T = TypeVar("T")

# Of the jobs that have ended so many are listed.
_KEPT = 50
_HEAR_SECONDS = 0.1


class Background(Generic[T]):
    """What goes on while other cells run: `await` it, or `%mastra join`.

    `run` is the handle of its run, None for one of many (`--each`). If `quiet` it is silent on its
    first display: the cell that began it shows it.
    """

    def __init__(
        self,
        host: Host,
        name: str,
        work: Callable[[], Coroutine[Any, Any, T]],
        bundle: Callable[[], dict[str, Any]],
        *,
        run: Run[T] | None = None,
        out: str = "",
        quiet: bool = True,
    ) -> None:
        self.name, self.run, self.out, self.joined = name, run, out, False
        self._host, self._bundle, self._quiet = host, bundle, quiet
        # The portal's thread goes on while a cell computes; the context is that of the cell, so
        # that what is drawn belongs to it.
        self._task: asyncio.Task[Any] | None = None
        self._future: Future[T] = asyncio.run_coroutine_threadsafe(self._go(work), portal.loop())
        ended = [job for job in host.jobs if job.is_over]
        for old in ended[: max(0, len(ended) - _KEPT)]:
            host.jobs.remove(old)
        host.jobs.append(self)

    async def _go(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        self._task = asyncio.current_task()
        return await work()

    @property
    def is_over(self) -> bool:
        return self._future.done()

    @property
    def status(self) -> str:
        """running, suspended (it waits for a person), done, failed or cancelled."""
        if not self._future.done():
            return "running"
        if self._future.cancelled():
            return "cancelled"
        error = self._future.exception()
        if isinstance(error, RunSuspended):
            return "suspended"
        if isinstance(error, Stopped):
            return "cancelled"
        return "done" if error is None else "failed"

    def __await__(self) -> Generator[Any, None, T]:
        return self._wait().__await__()

    async def _wait(self) -> T:
        # Who stops waiting does not stop the job. A loop that sleeps may not hear of an interrupt.
        ended = asyncio.wrap_future(self._future)
        while not ended.done():
            await asyncio.wait({ended}, timeout=_HEAR_SECONDS)
        if ended.cancelled():
            raise Stopped(f'"{self.name}" was stopped before it began')
        try:
            return ended.result()
        except RunSuspended as error:
            return await self._answered(error)

    async def _answered(self, error: RunSuspended) -> T:
        """It may have gone on with an answer since, in another cell."""
        if self.run is not None:
            now = await self._host.load_run(self.run.id)
            if now.status == "done":
                return now.output  # type: ignore[no-any-return]
        raise error

    def result(self) -> T:
        """Block until it has ended."""
        return portal.run(self._wait())

    def cancel(self) -> None:
        """Stop it; what it has is kept."""
        if self._task is None:
            self._future.cancel()
        elif not self.is_over:
            portal.loop().call_soon_threadsafe(self._task.cancel)

    def __repr__(self) -> str:
        id = f" {self.run.id}" if self.run is not None else ""
        return f'<Background{id} of "{self.name}": {self.status}>'

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return self._bundle()

    def _ipython_display_(self) -> None:
        quiet, self._quiet = self._quiet, False
        if not self._host.in_kernel:
            _live.say(plain(repr(self)))
        elif not quiet:
            _live.publish(self._bundle())

    def show(self) -> None:
        """Its state, as an output of the cell that is running."""
        show(self._host, self._bundle())


async def jobs(host: Host) -> None:
    rows = [
        (
            job.out,
            job.run.id if job.run is not None else "",
            job.name,
            job.status,
            f"{job.run.usage.input} / {job.run.usage.output}" if job.run is not None else "",
        )
        for job in host.jobs
    ]
    show_table(
        host, ("name", "run", "of", "status", "tokens"), rows,
        "nothing was begun with --bg in this kernel",
    )  # fmt: skip


async def join(host: Host, name: str = "all") -> None:
    """Wait for them, show what has become of each, and raise the first error.

    Raises Stopped if the cell is interrupted: the jobs go on.
    """
    wanted = find(host, name)
    if not wanted:
        _live.say("nothing is under way")
        return
    try:
        await asyncio.gather(*wanted, return_exceptions=True)
    except asyncio.CancelledError:
        _live.uncancel()
        left = sum(not job.is_over for job in wanted)
        raise Stopped(f"stopped waiting · {left} still under way", hint="%mastra jobs") from None
    for job in wanted:
        job.show()
        job.joined = True
    for job in wanted:
        await job


def find(host: Host, name: str) -> list[Background[Any]]:
    """Those of a variable, an agent or a run; `all` that nobody has joined yet.

    Raises NotFound.
    """
    known: list[Background[Any]] = host.jobs
    if name == "all":
        return [job for job in known if not job.joined]
    found = [
        job
        for job in known
        if name in (job.out, job.name) or (job.run is not None and job.run.id.startswith(name))
    ]
    if not found:
        ids = [job.run.id for job in known if job.run is not None]
        names = [*(job.out for job in known if job.out), *(job.name for job in known), *ids]
        raise NotFound(
            f'nothing called "{name}" was begun with --bg',
            hint=close_matches(name, names) if names else "%%ask … --bg -o NAME begins one",
        )
    # A name that was used again means the newest.
    return found[-1:]
