"""Budgets of a run, and the meter that holds them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

import msgspec

from mastra_nb.errors import LimitExceeded
from mastra_nb.messages import Usage

T = TypeVar("T")


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Budgets of a run, sub-agents and retries included; None is no limit. `cost` is in dollars."""

    tool_calls: int | None = None
    requests: int | None = None
    tokens: int | None = None
    cost: float | None = None
    seconds: float | None = None


class Meter:
    """Counts what a run uses and refuses the call that would cross a limit.

    What a model call will spend is unknown until it ends. While tokens or money are limited,
    a call is let in beside others only if all of them could be as large as the largest one so
    far and still fit: so calls at the edge go one by one, and at most one crosses the line.

    A part of a run at `path` may have limits of its own: its meter counts into those `above` too.
    """

    def __init__(self, limits: Limits, *, above: Meter | None = None, path: str = "") -> None:
        self.limits = limits
        self.path = path
        self.usage = Usage()
        self.requests = 0
        self.tool_calls = 0
        self.chain: tuple[Meter, ...] = (self, *above.chain) if above is not None else (self,)
        self.scarce = any(
            m.limits.tokens is not None or m.limits.cost is not None for m in self.chain
        )
        self._in_flight = 0
        self._largest: Usage | None = None
        self._waiting: list[asyncio.Future[None]] = []

    def restore(self, used: Iterable[tuple[str, str, Usage | None]]) -> None:
        """Count what earlier drives of the run called, by path and kind, and what it spent."""
        below = f"{self.path}/" if self.path else ""
        for path, kind, usage in used:
            if path.startswith(below):
                self.tool_calls += kind == "tool"
                self.requests += kind == "model"
                if usage is not None:
                    self.requests += max(0, usage.calls - 1)
                    self.usage = self.usage + usage

    async def room(self) -> None:
        """Wait until there is tokens and money for a model call. Raises LimitExceeded."""
        waiting = self.chain[-1]._waiting
        while True:
            for meter in self.chain:
                meter._check_spent()
            if all(m._in_flight == 0 or m._all_fit() for m in self.chain):
                return
            future = asyncio.get_running_loop().create_future()
            waiting.append(future)
            await future

    def admit_model(self) -> None:
        """Raises LimitExceeded; the call it was asked for must then not be made."""
        self.count_retry()
        for meter in self.chain:
            meter._in_flight += 1

    def admit_tool(self) -> None:
        """Raises LimitExceeded; the call it was asked for must then not be made."""
        for meter in self.chain:
            limit = meter.limits.tool_calls
            if limit is not None and meter.tool_calls >= limit:
                raise meter._exceeded("tool calls", limit)
        for meter in self.chain:
            meter.tool_calls += 1

    def count_retry(self) -> None:
        """One more request of a call that was let in; raises LimitExceeded."""
        for meter in self.chain:
            limit = meter.limits.requests
            if limit is not None and meter.requests >= limit:
                raise meter._exceeded("requests", limit)
        for meter in self.chain:
            meter.requests += 1

    def settle(self, usage: Usage | None) -> None:
        """A model call that was let in has ended."""
        for meter in self.chain:
            meter._in_flight -= 1
            if usage is not None:
                meter._add(usage)
        waiting = self.chain[-1]._waiting
        for future in waiting:
            if not future.done():
                future.set_result(None)
        waiting.clear()

    def _add(self, usage: Usage) -> None:
        self.usage = self.usage + usage
        if self.scarce:
            old = self._largest or Usage()
            self._largest = Usage(
                input=max(old.input, usage.input),
                output=max(old.output, usage.output),
                cost=max(old.cost or 0.0, usage.cost or 0.0),
            )

    def _check_spent(self) -> None:
        tokens, cost = self.limits.tokens, self.limits.cost
        if tokens is not None and self.usage.total >= tokens:
            raise self._exceeded("tokens", tokens)
        if cost is not None:
            if self.usage.calls and self.usage.cost is None:
                raise LimitExceeded(
                    "a budget in dollars is set, but the price of a model used here is unknown",
                    hint="mastra_nb.models.set_price(...) sets it; or limit tokens instead",
                    details={"limit": "dollars", "value": cost, "path": self.path},
                )
            if (self.usage.cost or 0.0) >= cost:
                raise self._exceeded("dollars", cost)

    def _all_fit(self) -> bool:
        if self._largest is None:
            return False
        calls = self._in_flight + 1
        tokens, cost = self.limits.tokens, self.limits.cost
        if tokens is not None and self.usage.total + calls * self._largest.total > tokens:
            return False
        spent = (self.usage.cost or 0.0) + calls * (self._largest.cost or 0.0)
        return cost is None or spent <= cost

    def _exceeded(self, what: str, limit: float) -> LimitExceeded:
        return LimitExceeded(
            f"the budget of {limit:g} {what} is used up; the next call was not sent",
            hint="raise it with limits=Limits(...) or ask for less",
            details={"limit": what, "value": limit, "path": self.path},
        )


async def within(seconds: float | None, work: Awaitable[T], path: str = "") -> T:
    """`work`, stopped after `seconds`. Raises LimitExceeded."""
    if seconds is None:
        return await work
    try:
        async with asyncio.timeout(seconds) as clock:
            return await work
    except TimeoutError:
        if not clock.expired():
            raise
        raise LimitExceeded(
            f"it took longer than {seconds:g} s and was stopped",
            hint="raise it with limits=Limits(seconds=...)",
            details={"limit": "seconds", "value": seconds, "path": path},
        ) from None
