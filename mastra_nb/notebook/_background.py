"""`%%ask … --bg`: begun in a cell that ends at once, drawn in it as it goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from mastra_nb.context import current
from mastra_nb.errors import UsageError
from mastra_nb.notebook import _ask, _each, _live
from mastra_nb.notebook._errors import stopped
from mastra_nb.notebook._host import Host
from mastra_nb.notebook._jobs import Background

# The cell waits so long for the run to begin: what it shows first is a run that is under way.
_BEGIN_SECONDS = 0.25


class _Silent:
    """Where nobody looks later: a cell under %%capture, a terminal at its prompt."""

    def show(self, run: Any, *, last: bool) -> None: ...


def ask(host: Host, asked: _ask.Asked, *, value: bool) -> Background[Any]:
    """The prompt comes back at once; the variable of `-o` is the job."""
    _check()
    # Here no error of the cell says how it ended.
    bundle = partial(asked.bundle, alone=True)
    asked.screen = screen = _screen(host, bundle)
    out, asked.out = asked.out, ""
    run, ready = asked.run, Future[None]()

    async def work() -> Any:
        error: BaseException | None = None
        try:
            frames = _live.frames(run, host.options.frame_rate)
            with host.people.shown(run):
                await _drawn(frames, ready, lambda last: screen.show(run, last=last))
            return _ask.value_of(asked.form, run.output)
        except asyncio.CancelledError:
            error = stopped(_live.said(run))
            raise error from None
        except BaseException as raised:
            error = raised
            raise
        finally:
            await _ask.settle(host, asked, error)

    job = Background(host, run.name, work, lambda: bundle(run), run=run, out=out, quiet=not value)
    until = time.monotonic() + _BEGIN_SECONDS
    while not run.log.events and not job.is_over and time.monotonic() < until:
        time.sleep(0.002)
    screen.show(run, last=False)
    return _bound(host, job, ready)


def each(host: Host, batch: _each.Batch, *, value: bool) -> Background[Any]:
    _check()
    out, batch.out = batch.out, ""
    screen, ready = _screen(host, _each.Batch.bundle), Future[None]()

    async def work() -> Any:
        frames = batch.frames(host.options.frame_rate)
        try:
            await _drawn(frames, ready, lambda last: screen.show(batch, last=last))
        except asyncio.CancelledError:
            raise _each.stopped(batch) from None
        return _each.outcome(batch)

    job = Background(host, batch.agent.name, work, batch.bundle, out=out, quiet=not value)
    screen.show(batch, last=False)
    return _bound(host, job, ready)


async def _drawn(
    frames: AsyncIterator[None], ready: Future[None], show: Callable[[bool], None]
) -> None:
    """Not before the cell itself has drawn it: a display is where it was drawn first."""
    try:
        async for _ in frames:
            if ready.done():
                show(False)
    finally:
        await asyncio.shield(asyncio.wrap_future(ready))
        show(True)


def _screen(host: Host, bundle: _live.Bundle) -> Any:
    return _live.Cell(bundle) if host.in_kernel and not host.capturing else _Silent()


def _bound(host: Host, job: Background[Any], ready: Future[None]) -> Background[Any]:
    ready.set_result(None)
    if job.out:
        host.shell.user_ns[job.out] = job
    return job


def _check() -> None:
    if current() is not None:
        raise UsageError(
            "--bg does not run inside a workflow or a tool",
            hint="there: asyncio.gather(agent(a), agent(b))",
        )
