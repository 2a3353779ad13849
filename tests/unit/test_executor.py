from __future__ import annotations

import asyncio
from concurrent.futures import Future

import pytest

from mastra_nb.errors import ConfigError, Stopped
from mastra_nb.executor import (
    WhenStopped,
    as_completed,
    begin,
    check_portable,
    never_begun,
    spread,
    stop_work,
)
from mastra_nb.executors.local import LocalExecutor, open_executor
from tests import work


def test_a_future_is_begun_or_stopped_never_both() -> None:
    first: Future[int] = Future()
    assert begin(first) and not begin(first) and not never_begun(first)
    second: Future[int] = Future()
    assert never_begun(second) and not begin(second) and not never_begun(second)
    assert isinstance(second.exception(), Stopped)


async def test_futures_come_in_the_order_they_end() -> None:
    futures: list[Future[int]] = [Future() for _ in range(3)]
    for n in (2, 0, 1):
        futures[n].set_result(n)
        if n == 2:
            seen = as_completed(futures)
            assert (await anext(seen)).result() == 2
    assert [f.result() async for f in seen] == [0, 1]
    assert [f async for f in as_completed([])] == []


class OneByOne:
    """Does nothing until it is told to."""

    workers = 2

    def __init__(self) -> None:
        self.given: list[Future[int]] = []
        self.cancelled: list[Future[int]] = []

    def submit(self, fn: object, /, *args: object) -> Future[int]:
        self.given.append(Future())
        return self.given[-1]

    def cancel(self, future: Future[int]) -> None:
        self.cancelled.append(future)

    async def close(self) -> None: ...


async def test_what_is_left_is_cancelled_when_nobody_reads_on() -> None:
    executor = OneByOne()
    seen = spread(executor, work.double, range(100))  # type: ignore[arg-type]
    asyncio.get_running_loop().call_soon(lambda: executor.given[1].set_result(5))
    i, future = await anext(seen)
    assert (i, future.result()) == (1, 5)
    assert len(executor.given) == 5, "two for each worker, and one in the place of what ended"
    await seen.aclose()  # type: ignore[attr-defined]
    assert {*executor.cancelled} == {*executor.given} - {future}


def test_only_functions_of_modules_travel() -> None:
    check_portable(work.double)
    with pytest.raises(ConfigError) as raised:
        check_portable(lambda: 1)
    assert "top of a module" in raised.value.hint

    def inner() -> None: ...

    for fn in (inner, None, test_only_functions_of_modules_travel.__call__):
        with pytest.raises(ConfigError, match="cannot be sent"):
            check_portable(fn)


def test_local_workers_refuse_what_cannot_be_sent() -> None:
    executor = LocalExecutor(1)
    with pytest.raises(ConfigError, match="cannot be sent"):
        executor.submit(lambda: 1)
    with pytest.raises(ConfigError, match="plain data"):
        executor.submit(work.double, work.unsendable())
    assert executor.processes == [], "and none was started"
    asyncio.run(executor.close())


@pytest.mark.parametrize(("workers", "address"), [(0, None), (-1, None), (1, "tcp://x:1")])
def test_local_options_are_checked(workers: int, address: str | None) -> None:
    with pytest.raises(ConfigError):
        open_executor(workers, address)


def test_a_worker_that_is_stopped_does_what_it_was_told() -> None:
    done: list[int] = []
    with WhenStopped(lambda: done.append(1)):
        stop_work()
    stop_work()
    assert done == [1]
