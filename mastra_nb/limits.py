"""Budgets of a run, and the meter that holds them."""

from __future__ import annotations

import asyncio

import msgspec

from mastra_nb.errors import LimitExceeded
from mastra_nb.messages import Usage


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
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.usage = Usage()
        self.requests = 0
        self.tool_calls = 0
        self._in_flight = 0
        self._largest: Usage | None = None
        self._waiting: list[asyncio.Future[None]] = []

    async def admit(self, kind: str) -> None:
        """Raises LimitExceeded; the call it was asked for must then not be made."""
        limits = self.limits
        if kind == "tool":
            if limits.tool_calls is not None and self.tool_calls >= limits.tool_calls:
                raise _exceeded("tool calls", limits.tool_calls)
            self.tool_calls += 1
        elif kind == "model":
            if limits.tokens is not None or limits.cost is not None:
                await self._admit_spend()
            if limits.requests is not None and self.requests >= limits.requests:
                raise _exceeded("requests", limits.requests)
            self.requests += 1
            self._in_flight += 1

    def count_retry(self) -> None:
        """One more request of a call that was let in; raises LimitExceeded."""
        if self.limits.requests is not None and self.requests >= self.limits.requests:
            raise _exceeded("requests", self.limits.requests)
        self.requests += 1

    def settle(self, usage: Usage | None) -> None:
        """A model call that was let in has ended."""
        self._in_flight -= 1
        if usage is not None:
            self.usage = self.usage + usage
            old = self._largest or Usage()
            self._largest = Usage(
                input=max(old.input, usage.input),
                output=max(old.output, usage.output),
                cost=max(old.cost or 0.0, usage.cost or 0.0),
            )
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def _admit_spend(self) -> None:
        while True:
            self._check_spent()
            if self._in_flight == 0 or self._all_fit():
                return
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future

    def _check_spent(self) -> None:
        tokens, cost = self.limits.tokens, self.limits.cost
        if tokens is not None and self.usage.total >= tokens:
            raise _exceeded("tokens", tokens)
        if cost is not None:
            if self.usage.calls and self.usage.cost is None:
                raise LimitExceeded(
                    "a budget in dollars is set, but the price of a model used here is unknown",
                    hint="set its price with mastra_nb.models.set_price(...) or limit tokens instead",
                )
            if (self.usage.cost or 0.0) >= cost:
                raise _exceeded("dollars", cost)

    def _all_fit(self) -> bool:
        if self._largest is None:
            return False
        calls = self._in_flight + 1
        tokens, cost = self.limits.tokens, self.limits.cost
        if tokens is not None and self.usage.total + calls * self._largest.total > tokens:
            return False
        spent = (self.usage.cost or 0.0) + calls * (self._largest.cost or 0.0)
        return cost is None or spent <= cost


def _exceeded(what: str, limit: float) -> LimitExceeded:
    return LimitExceeded(
        f"the budget of {limit:g} {what} is used up; the next call was not sent",
        hint="raise it with limits=Limits(...) or ask for less",
        details={"limit": what, "value": limit},
    )
