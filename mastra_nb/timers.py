"""Waiting for a moment, by the clock of the run."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from mastra_nb._later import later
from mastra_nb.context import Context
from mastra_nb.errors import StepError

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = later("asyncio", globals())


def until(length: Any, now: float) -> float:
    """In seconds since the epoch. A datetime without a time zone is meant in local time."""
    if isinstance(length, dt.datetime):
        return length.timestamp()
    if isinstance(length, dt.timedelta):
        length = length.total_seconds()
    if isinstance(length, int | float):
        return now + float(length)
    raise StepError(
        f"{type(length).__name__} is no time to sleep",
        code="step.input",
        hint="give seconds, a timedelta or a datetime",
    )


async def wait_until(moment: float, ctx: Context) -> None:
    """By the clock on the wall: a machine that was asleep does not sleep on."""
    while (left := moment - ctx.services.now()) > 0:
        await asyncio.sleep(min(left, 60.0))
