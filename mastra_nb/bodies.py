"""The body of an imperative workflow: Python that runs again from the top on each drive, whose
calls of steps, agents, tools and workflows are taken from the journal.
"""

from __future__ import annotations

import datetime as dt
import inspect
import random as _random
import uuid as _uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from mastra_nb._later import later
from mastra_nb.context import Codec, Context, current
from mastra_nb.errors import Bail, ReplayMismatch, StepError, UsageError
from mastra_nb.runs import Run
from mastra_nb.schema import Schema
from mastra_nb.shapes import Shape
from mastra_nb.timers import until, wait_until

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = later("asyncio", globals())


async def run_body(fn: Callable[..., Any], shape: Shape, input: Any, ctx: Context) -> Any:
    """What the body gives. Raises StepError for a call that it never awaited, ReplayMismatch for
    calls in the journal that it does not make any more.
    """
    ctx.begun, ctx.claimed = set(), set()
    arguments = shape.arguments(input)
    if shape.injected:
        arguments[shape.injected] = ctx
    try:
        output = await fn(**arguments)
    except Bail as bail:
        await _settle(ctx)
        return bail.value
    except asyncio.CancelledError:
        raise
    except BaseException:
        # What runs beside it is let to its end: what it gives is kept.
        await _settle(ctx)
        raise
    await _settle(ctx)
    never = [run.name for run in ctx.begun]
    if never:
        raise StepError(
            f'the call of "{never[0]}" in "{ctx.path}" was never awaited',
            code="step.not_awaited",
            hint=f"await {never[0]}(...)",
        )
    unclaimed = [
        path
        for path in ctx.run.past.done
        if path.rpartition("/")[0] == ctx.path and path not in ctx.claimed
    ]
    if unclaimed:
        shown = ", ".join(f'"{p.rpartition("/")[2]}"' for p in unclaimed[:5])
        raise ReplayMismatch(
            f'"{ctx.path}" did not make {len(unclaimed)} of the calls that it had made before: '
            f"{shown}",
            hint="its code or a value in it has changed since; journal what changes with now(), "
            "random() or a step, or run it anew",
            details={"paths": unclaimed},
        )
    return output


async def _settle(ctx: Context) -> None:
    """Wait for the runs that were begun in the body and are still under way."""
    while running := [run for run in ctx.begun or () if run.began]:
        for run in running:
            await run.rested()


class _Question:
    kind: ClassVar[str] = "ask"

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self.name = name
        self._options = options

    async def invoke(self, input: Any, ctx: Context, /) -> Any:
        return ctx.suspend(input, **self._options)


class _Answered(Codec[Any]):
    """An answer comes back as the type that it was asked for."""

    def __init__(self, schema: Any) -> None:
        self._typed = None if schema is None or isinstance(schema, dict) else Schema[Any](schema)

    def load(self, value: Any, ctx: Context) -> Any:
        return value if self._typed is None else self._typed.convert(value)


class _Rest:
    kind: ClassVar[str] = "timer"
    name = "sleep"

    async def invoke(self, input: Any, ctx: Context, /) -> None:
        made = await ctx.value("until", lambda: until(input, ctx.services.now()))
        await wait_until(made, ctx)


class _Journaled:
    """A value that is made once."""

    kind: ClassVar[str] = "value"

    def __init__(self, name: str, make: Callable[[], Any]) -> None:
        self.name = name
        self._make = make

    async def invoke(self, input: Any, ctx: Context, /) -> Any:
        made = self._make()
        return await made if isinstance(made, Awaitable) else made


def _here(name: str) -> Context:
    ctx = current()
    if ctx is None:
        raise UsageError(
            f"{name}() is for the body of a workflow",
            hint="call it in a function with @workflow, or in a %%workflow cell",
        )
    return ctx


def suspend(
    payload: Any = None,
    *,
    schema: Any = None,
    reason: str = "input",
    timeout: float | None = None,
    default: Any = ...,
    key: str | None = None,
    name: str = "suspend",
) -> Run[Any]:
    """Await it: what a person answers to `payload`. See `Context.suspend`."""
    _here("suspend")
    options = {"schema": schema, "reason": reason, "timeout": timeout, "default": default}
    return Run(_Question(name, options), payload, key=key, codec=_Answered(schema))


def sleep(length: float | dt.timedelta | dt.datetime) -> Run[None]:
    """Await it: seconds or until a moment, that a restart does not begin anew."""
    _here("sleep")
    if isinstance(length, dt.timedelta):
        length = length.total_seconds()
    return Run(_Rest(), length if isinstance(length, dt.datetime) else float(length))


async def now() -> dt.datetime:
    """The time (UTC) when the workflow first came here."""
    ctx = _here("now")
    at: float = await Run(_Journaled("now", ctx.services.now), None)
    return dt.datetime.fromtimestamp(at, dt.UTC)


async def random() -> float:
    """A number from 0 up to 1, the same whenever the workflow runs again."""
    _here("random")
    made: float = await Run(_Journaled("random", _random.random), None)
    return made


async def uuid() -> str:
    """A random UUID, the same whenever the workflow runs again."""
    _here("uuid")
    made: str = await Run(_Journaled("uuid", lambda: str(_uuid.uuid4())), None)
    return made


def check_body(fn: Any) -> None:
    """Raises UsageError for what cannot be the body of a workflow."""
    if inspect.isasyncgenfunction(fn):
        raise UsageError(f'"{fn.__name__}" yields', hint="a workflow returns what it has made")
    if not inspect.iscoroutinefunction(fn):
        raise UsageError(
            f'"{getattr(fn, "__name__", fn)}" is no async function',
            hint="write: @workflow above async def",
        )
