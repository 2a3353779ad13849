"""What every executor does: the same for processes of this machine and for Dask."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mastra_nb import plugins
from mastra_nb.errors import ConfigError, Stopped, WorkerDied
from mastra_nb.executor import Executor, as_completed, spread
from tests import work


@pytest.fixture(params=["local", "dask"])
async def executor(request: pytest.FixtureRequest) -> AsyncIterator[Executor]:
    made: Executor = plugins.executors.load(request.param)(2, None)
    yield made
    await made.close()


async def test_results_and_errors_come_back(executor: Executor) -> None:
    futures = [executor.submit(work.double, n) for n in range(20)]
    assert sorted([f.result() async for f in as_completed(futures)]) == [*range(0, 40, 2)]
    with pytest.raises(ValueError, match="no good"):
        await asyncio.wrap_future(executor.submit(work.fail, "no good"))
    with pytest.raises(Exception, match="1 and 2"):
        await asyncio.wrap_future(executor.submit(work.fail_oddly))
    assert len(await asyncio.wrap_future(executor.submit(work.big, 3_000_000))) == 3_000_000


async def test_work_is_elsewhere_and_at_once(executor: Executor) -> None:
    await asyncio.gather(*(asyncio.wrap_future(executor.submit(work.pid)) for _ in range(2)))
    began = time.monotonic()
    futures = [executor.submit(work.sleep, 2) for _ in range(2)]
    async for future in as_completed(futures):
        future.result()
    assert time.monotonic() - began < 3.8
    pids = {await asyncio.wrap_future(executor.submit(work.pid)) for _ in range(6)}
    assert os.getpid() not in pids and len(pids) <= 2, "a worker does many calls"


async def test_a_worker_that_is_killed_loses_its_call_alone(executor: Executor) -> None:
    first = executor.submit(work.die)
    others = [executor.submit(work.double, n) for n in range(10)]
    with pytest.raises(WorkerDied):
        await asyncio.wrap_future(first)
    assert [await asyncio.wrap_future(f) for f in others] == [*range(0, 20, 2)]


async def test_what_is_at_work_can_be_stopped(executor: Executor, tmp_path: Path) -> None:
    long = executor.submit(work.note, str(tmp_path), 0, 60.0)
    (pid,) = await _begun(tmp_path, 1)
    executor.cancel(long)
    with pytest.raises(Stopped):
        await asyncio.wrap_future(long)
    async with asyncio.timeout(10):
        while _alive(pid):
            await asyncio.sleep(0.05)
    assert await asyncio.wrap_future(executor.submit(work.double, 4)) == 8


async def test_what_waits_is_never_begun_once_cancelled(executor: Executor, tmp_path: Path) -> None:
    busy = [executor.submit(work.sleep, 0.7) for _ in range(2)]
    waiting = executor.submit(work.note, str(tmp_path), 1)
    executor.cancel(waiting)
    for future in busy:
        await asyncio.wrap_future(future)
    await asyncio.wrap_future(executor.submit(work.double, 1))
    assert isinstance(waiting.exception(), Stopped)
    assert not (tmp_path / "1").exists()


async def test_closing_leaves_no_process(executor: Executor, tmp_path: Path) -> None:
    futures = [executor.submit(work.note, str(tmp_path), n, 60.0) for n in range(4)]
    await _begun(tmp_path, 2)
    await executor.close()
    await executor.close()
    assert all(future.done() for future in futures)
    pids = await _begun(tmp_path, 2)
    async with asyncio.timeout(10):
        while any(map(_alive, pids)):
            await asyncio.sleep(0.05)
    with pytest.raises(ConfigError):
        executor.submit(work.double, 1)


async def test_items_are_spread_and_taken_as_there_is_room(executor: Executor) -> None:
    taken = 0

    def items() -> AsyncIterator[int]:
        nonlocal taken
        for n in range(30):
            taken += 1
            yield n

    got = {}
    async for i, future in spread(executor, work.double, items()):  # type: ignore[arg-type]
        got[i] = future.result()
        assert taken - len(got) <= executor.workers * 2
    assert got == {n: 2 * n for n in range(30)}


async def test_a_result_that_cannot_travel_is_an_error(executor: Executor) -> None:
    with pytest.raises(Exception, match="(?i)pickle|serialize"):
        await asyncio.wrap_future(executor.submit(work.unsendable))
    assert await asyncio.wrap_future(executor.submit(work.double, 2)) == 4


async def _begun(folder: Path, least: int) -> list[int]:
    """The processes of the notes, once there are so many. A file is there before its text."""
    async with asyncio.timeout(20):
        while len(told := [text for p in folder.iterdir() if (text := p.read_text())]) < least:
            await asyncio.sleep(0.02)
    return [int(text) for text in told]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
