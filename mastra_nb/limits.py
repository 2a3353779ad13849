"""Budgets of a run, and the meter that holds them."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from mastra_nb._later import later
from mastra_nb.errors import LimitExceeded
from mastra_nb.messages import Usage

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = later("asyncio", globals())

T = TypeVar("T")


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Budgets of a run, sub-agents and retries included; None is no limit.

    `steps` are model calls of agents' turns (a retry of one is no step), `requests` are those
    sent to providers, `cost` is in dollars, `seconds` is the time that the run is at work (one
    that waits for an answer does not spend it, one that is taken up after it failed has it anew).
    """

    steps: int | None = None
    tool_calls: int | None = None
    requests: int | None = None
    tokens: int | None = None
    cost: float | None = None
    seconds: float | None = None


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What a model call may spend: `input` tokens, and `output` at most (None if nobody limits
    it). An answer of `enough` tokens is not worth being cut shorter for. `prices` are dollars for
    the input and for one token of output, for each model that may answer (None is unknown).
    """

    input: int = 0
    output: int | None = None
    enough: int = 0
    prices: tuple[tuple[float, float] | None, ...] = ()

    def tokens(self, output: float) -> float:
        return self.input + output

    def cost(self, output: float) -> float:
        """Dollars for an answer of `output` tokens, infinite if that is unknown."""
        most = 0.0
        for price in self.prices:
            if price is None:
                return math.inf
            most = max(most, price[0] + (price[1] * output if price[1] else 0.0))
        return most


class Reserve(msgspec.Struct, frozen=True):
    """What is held back for a call under way; with `max_tokens` its answer is held to that."""

    tokens: float
    cost: float
    max_tokens: int | None = None


class Meter:
    """Counts what a run uses and refuses the call that would cross a limit.

    What a model call will spend is unknown until it ends. While tokens or money are limited,
    calls are let in beside each other only as long as all of them but one fit into what is left,
    however much they say: so whatever they spend, at most one of them crosses the line. A call
    that could say too much for that is let in with its answer held to a share of what is left
    (a quarter, or enough for a long answer); if not even that fits, it waits. A model that says
    more than it was let is not believed again: its run's calls go one by one.

    A part of a run at `path` may have limits of its own: its meter counts into those `above` too.
    """

    def __init__(self, limits: Limits, *, above: Meter | None = None, path: str = "") -> None:
        self.limits = limits
        self.path = path
        self.usage = Usage()
        self.requests = 0
        self.tool_calls = 0
        self.chain: tuple[Meter, ...] = (self, *above.chain) if above is not None else (self,)
        self.scarce: bool = (
            limits.tokens is not None
            or limits.cost is not None
            or (above is not None and above.scarce)
        )
        self._steps: set[str] = set()
        self._in_flight = 0
        self._reserved: list[Reserve] = []
        self._broken = False
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def steps(self) -> int:
        return len(self._steps)

    def restore(self, used: Iterable[tuple[str, str, Usage | None]]) -> None:
        """Count what earlier drives of the run called, by path and kind, and what it spent."""
        below = f"{self.path}/" if self.path else ""
        for path, kind, usage in used:
            if path.startswith(below):
                self.tool_calls += kind == "tool"
                if kind == "model":
                    self.requests += 1
                    if _is_step(path):
                        self._steps.add(path)
                if usage is not None:
                    self.requests += max(0, usage.calls - 1)
                    self.usage = self.usage + usage

    def add(self, usage: Usage) -> None:
        """Something that is no model call has spent this."""
        for meter in self.chain:
            meter.usage = meter.usage + usage

    async def room(self, need: Need) -> Reserve:
        """Wait until there are tokens and money for a model call, and say how much of them.

        Raises LimitExceeded.
        """
        waiting = self.chain[-1]._waiting
        while True:
            for meter in self.chain:
                meter._check_spent()
            output = math.inf if need.output is None else float(need.output)
            enough = max(1, need.enough)
            room = min(meter._room(need, output) for meter in self.chain)
            if room >= output:
                return Reserve(need.tokens(output), need.cost(output))
            if room >= enough:
                share = max(enough, int(room / 4))
                return Reserve(need.tokens(share), need.cost(share), share)
            future = asyncio.get_running_loop().create_future()
            waiting.append(future)
            await future

    def admit_model(self, reserve: Reserve | None = None, path: str = "") -> None:
        """Raises LimitExceeded; the call it was asked for must then not be made."""
        step = _is_step(path)
        if step:
            for meter in self.chain:
                limit = meter.limits.steps
                if limit is not None and path not in meter._steps and meter.steps >= limit:
                    raise meter._exceeded("steps", limit, meter.steps)
        self.count_retry()
        for meter in self.chain:
            meter._in_flight += 1
            if step:
                meter._steps.add(path)
            if reserve is not None:
                meter._reserved.append(reserve)

    def admit_tool(self) -> None:
        """Raises LimitExceeded; the call it was asked for must then not be made."""
        for meter in self.chain:
            limit = meter.limits.tool_calls
            if limit is not None and meter.tool_calls >= limit:
                raise meter._exceeded("tool calls", limit, meter.tool_calls)
        for meter in self.chain:
            meter.tool_calls += 1

    def count_retry(self) -> None:
        """One more request of a call that was let in; raises LimitExceeded."""
        for meter in self.chain:
            limit = meter.limits.requests
            if limit is not None and meter.requests >= limit:
                raise meter._exceeded("requests", limit, meter.requests)
        for meter in self.chain:
            meter.requests += 1

    def settle(self, usage: Usage | None, reserved: Reserve | None = None) -> None:
        """A model call that was let in has ended."""
        for meter in self.chain:
            meter._in_flight -= 1
            if reserved is not None:
                meter._reserved.remove(reserved)
            if usage is not None:
                meter.usage = meter.usage + usage
                if (
                    reserved is not None
                    and not usage.estimated
                    and (
                        usage.total > reserved.tokens
                        or (usage.cost or 0.0) > reserved.cost * (1 + 1e-9)
                    )
                ):
                    meter._broken = True
        waiting = self.chain[-1]._waiting
        for future in waiting:
            if not future.done():
                future.set_result(None)
        waiting.clear()

    def _check_spent(self) -> None:
        tokens, cost = self.limits.tokens, self.limits.cost
        if tokens is not None and self.usage.total >= tokens:
            raise self._exceeded("tokens", tokens, self.usage.total)
        if cost is not None:
            if self.usage.calls and self.usage.cost is None:
                raise LimitExceeded(
                    "a budget in dollars is set, but the price of a model used here is unknown",
                    hint="mastra_nb.prices.set_price(...) sets it; or limit tokens instead",
                    details={"limit": "dollars", "value": cost, "path": self.path},
                )
            if (self.usage.cost or 0.0) >= cost:
                raise self._exceeded("dollars", cost, self.usage.cost or 0.0)

    def _room(self, need: Need, output: float) -> float:
        """How many tokens an answer may have here; negative if the call has to wait."""
        if not self._in_flight:
            return math.inf
        room = math.inf
        if self.limits.tokens is not None:
            held = [r.tokens for r in self._reserved]
            left = self._left(self.limits.tokens, self.usage.total, held, need.tokens(output))
            room = min(room, left - need.input)
        if self.limits.cost is not None:
            held = [r.cost for r in self._reserved]
            spent = self.usage.cost or 0.0
            left = self._left(self.limits.cost, spent, held, need.cost(output))
            room = min(room, _affordable(need, left))
        return room

    def _left(self, limit: float, spent: float, held: Sequence[float], wanted: float) -> float:
        """What a call that wants so much may have beside those that hold so much, so that all
        but one of them fit. The one that need not fit is the largest.
        """
        if self._broken:
            return -math.inf
        *rest, largest = sorted(held) or [0.0]
        spent += sum(rest)
        if wanted >= largest and spent + largest < limit:
            return math.inf
        return math.nextafter(limit - spent, -math.inf)

    def _exceeded(self, what: str, limit: float, used: float) -> LimitExceeded:
        option = {"dollars": "cost", "tool calls": "tool_calls"}.get(what, what)
        return LimitExceeded(
            f"the budget of {limit:.10g} {what} is used up ({used:.10g} used); "
            "the next call was not sent",
            hint=f"raise limits=Limits({option}=...) {_of(self.path)}, or ask for less",
            details={"limit": what, "value": limit, "used": used, "path": self.path},
        )


def _of(path: str) -> str:
    return f'of "{path}"' if path else "of the run"


def _affordable(need: Need, dollars: float) -> float:
    """How many tokens of an answer so much money pays for; negative if not even the question."""
    if dollars == math.inf:
        return math.inf
    tokens = math.inf
    for price in need.prices:
        if price is None or price[0] > dollars:
            return -math.inf
        if price[1]:
            tokens = min(tokens, (dollars - price[0]) / price[1])
    return tokens


def _is_step(path: str) -> bool:
    """The model calls of an agent's turn are called model[0], model[1], ..."""
    return path.rpartition("/")[2].startswith("model[")


async def within(
    seconds: float | None, work: Awaitable[T], path: str = "", *, worked: float = 0.0
) -> T:
    """`work`, stopped after `seconds`, of which `worked` are gone. Raises LimitExceeded."""
    if seconds is None:
        return await work
    try:
        async with asyncio.timeout(max(0.0, seconds - worked)) as clock:
            return await work
    except TimeoutError:
        if not clock.expired():
            raise
        raise LimitExceeded(
            f"it took longer than {seconds:g} s and was stopped",
            hint=f"raise limits=Limits(seconds=...) {_of(path)}",
            details={"limit": "seconds", "value": seconds, "path": path},
        ) from None
