from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import pytest

from mastra_nb.context import Context
from mastra_nb.errors import StepError
from mastra_nb.runs import Run
from mastra_nb.services import Services
from mastra_nb.timers import until, wait_until


def test_when_a_sleep_ends() -> None:
    moment = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
    assert until(2, 10.0) == 12.0
    assert until(dt.timedelta(minutes=1), 10.0) == 70.0
    assert until(moment, 10.0) == moment.timestamp()
    local = dt.datetime(2030, 1, 1)  # noqa: DTZ001
    assert until(local, 10.0) == local.astimezone().timestamp()


@pytest.mark.parametrize("length", ["2", None, [1]])
def test_what_is_no_time(length: Any) -> None:
    with pytest.raises(StepError, match="is no time to sleep"):
        until(length, 0.0)


class Sleeper:
    kind = "step"
    name = "sleeper"

    async def invoke(self, input: float, ctx: Context) -> None:
        await wait_until(input, ctx)


async def test_a_machine_that_slept_does_not_sleep_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an hour a minute at most is slept before the clock is looked at again."""
    clock, slept = [1000.0], list[float]()
    plain = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += 3000 if len(slept) == 1 else seconds
        await plain(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    await Run(Sleeper(), 1000.0 + 3030, services=Services(now=lambda: clock[0]))
    assert slept == [60.0, 30.0]
    await Run(Sleeper(), 5.0, services=Services(now=lambda: clock[0]))
    assert len(slept) == 2
