from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mastra_nb.errors import LimitExceeded
from mastra_nb.limits import Limits, Meter, Need, within
from mastra_nb.messages import Usage


def used(tokens: int, cost: float | None = 0.0) -> Usage:
    return Usage(input=tokens, calls=1, cost=cost)


def need(tokens: int, cost: float | None = 0.0) -> Need:
    return Need(input=tokens, output=0, prices=(None if cost is None else (cost, 0.0),))


async def spend(meter: Meter, tokens: int, log: list[int], cost: float | None = 0.0) -> None:
    reserved = await meter.room(need(tokens, cost))
    meter.admit_model(reserved)
    log.append(1)
    await asyncio.sleep(0.001)
    log.append(-1)
    meter.settle(used(tokens, cost), reserved)


@pytest.mark.parametrize("limit", [1, 7, 10, 35, 100, 200])
async def test_at_most_one_call_crosses_the_line(limit: int) -> None:
    meter, log = Meter(Limits(tokens=limit)), []
    results = await asyncio.gather(
        *(spend(meter, 10, log) for _ in range(20)), return_exceptions=True
    )
    assert meter.usage.total < limit + 10
    assert meter.usage.total >= min(limit, 200)
    refused = [r for r in results if r is not None]
    assert all(isinstance(r, LimitExceeded) for r in refused)
    assert len(refused) == 20 - -(-min(limit, 200) // 10)


async def test_there_is_room_for_many_where_there_is_room() -> None:
    meter, log = Meter(Limits(tokens=10_000)), []
    await asyncio.gather(*(spend(meter, 10, log) for _ in range(20)))
    together = most = 0
    for step in log:
        together += step
        most = max(most, together)
    assert most == 20


async def test_money() -> None:
    meter, log = Meter(Limits(cost=1.0)), []
    results = await asyncio.gather(
        *(spend(meter, 1, log, 0.4) for _ in range(9)), return_exceptions=True
    )
    assert meter.usage.cost == pytest.approx(1.2)
    assert sum(r is None for r in results) == 3
    unknown = Meter(Limits(cost=1.0))
    await spend(unknown, 1, log, None)
    with pytest.raises(LimitExceeded, match="the price of a model used here is unknown"):
        await spend(unknown, 1, log, None)


async def test_a_model_that_says_more_than_it_may_is_asked_one_by_one() -> None:
    meter = Meter(Limits(tokens=1000))

    async def call() -> None:
        reserved = await meter.room(need(1))
        meter.admit_model(reserved)
        await asyncio.sleep(0.001)
        meter.settle(used(300), reserved)

    await call()
    results = await asyncio.gather(*(call() for _ in range(9)), return_exceptions=True)
    assert sum(r is None for r in results) == 3
    assert meter.usage.total == 1200


async def test_who_waits_may_leave() -> None:
    meter, log = Meter(Limits(tokens=10)), []
    first = asyncio.create_task(spend(meter, 10, log))
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(spend(meter, 10, log)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    results = await asyncio.gather(first, *waiting, return_exceptions=True)
    names = [type(r).__name__ for r in results]
    assert names == ["NoneType", "CancelledError", "LimitExceeded", "LimitExceeded"]
    assert meter.usage.total == 10


def test_calls_and_tools_are_counted_to_the_number() -> None:
    meter = Meter(Limits(requests=2, tool_calls=1))
    meter.admit_model()
    meter.count_retry()
    for refused in (meter.admit_model, meter.count_retry):
        with pytest.raises(LimitExceeded, match="2 requests is used up") as caught:
            refused()
        assert caught.value.details == {
            "limit": "requests", "value": 2, "used": 2, "path": "",
        }  # fmt: skip
    meter.admit_tool()
    with pytest.raises(LimitExceeded, match="1 tool calls"):
        meter.admit_tool()
    assert (meter.requests, meter.tool_calls) == (2, 1)


async def test_a_part_counts_into_the_whole() -> None:
    whole = Meter(Limits(requests=3, tokens=100))
    parts = [Meter(Limits(requests=2), above=whole, path=f"a/{i}") for i in range(2)]
    log: list[int] = []
    await spend(parts[0], 10, log)
    await spend(parts[0], 10, log)
    with pytest.raises(LimitExceeded) as caught:
        await spend(parts[0], 10, log)
    assert caught.value.details["path"] == "a/0"
    await spend(parts[1], 10, log)
    with pytest.raises(LimitExceeded) as caught:
        await spend(parts[1], 10, log)
    assert caught.value.details["path"] == ""
    assert (whole.requests, whole.usage.total, parts[1].usage.total) == (3, 30, 10)


def test_a_refused_call_is_counted_nowhere() -> None:
    whole = Meter(Limits())
    part = Meter(Limits(tool_calls=0, requests=0), above=whole, path="p")
    for refused in (part.admit_tool, part.admit_model):
        with pytest.raises(LimitExceeded):
            refused()
    assert (whole.tool_calls, whole.requests) == (0, 0)


def test_what_was_used_before_counts() -> None:
    past: list[Any] = [
        ("a/m", "model", None), ("a/m", "", used(5)), ("a/t", "tool", None),
        ("a/s/m", "model", None), ("a/s/m", "", Usage(input=1, calls=3)), ("a/s2/t", "tool", None),
    ]  # fmt: skip
    whole, part = Meter(Limits()), Meter(Limits(), path="a/s")
    for meter in (whole, part):
        meter.restore(past)
    assert (whole.requests, whole.tool_calls, whole.usage.total) == (4, 2, 6)
    assert (part.requests, part.tool_calls, part.usage.total) == (3, 0, 1)


async def test_within() -> None:
    async def quick() -> int:
        return 1

    async def fails() -> None:
        raise TimeoutError("mine")

    assert await within(None, quick()) == await within(5, quick()) == 1
    with pytest.raises(TimeoutError, match="mine"):
        await within(5, fails())
    with pytest.raises(LimitExceeded, match=r"longer than 0\.01 s"):
        await within(0.01, asyncio.sleep(5), "a/b")


class Call(msgspec.Struct, frozen=True):
    """`most` is what its request allows, `says` what the model would say if it could."""

    input: int
    most: int | None
    says: int
    takes: int


_CALLS = st.lists(
    st.builds(
        Call,
        input=st.integers(0, 300),
        most=st.none() | st.integers(1, 2000),
        says=st.integers(0, 20_000),
        takes=st.integers(0, 3),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(calls=_CALLS, limit=st.integers(1, 20_000), dollars=st.booleans())
async def test_whatever_models_say_one_call_at_most_crosses_the_line(
    calls: list[Call], limit: int, dollars: bool
) -> None:
    price = 1 / 1024
    meter = Meter(Limits(cost=limit * price) if dollars else Limits(tokens=limit))
    spent: list[int] = []

    async def make(call: Call) -> None:
        prices = ((call.input * price, price),)
        reserve = await meter.room(
            Need(input=call.input, output=call.most, enough=500, prices=prices)
        )
        meter.admit_model(reserve)
        for _ in range(call.takes):
            await asyncio.sleep(0)
        bounds = [n for n in (call.says, call.most, reserve.max_tokens) if n is not None]
        tokens = call.input + min(bounds)
        spent.append(tokens)
        meter.settle(used(tokens, tokens * price), reserve)

    results = await asyncio.gather(*map(make, calls), return_exceptions=True)
    assert all(r is None or isinstance(r, LimitExceeded) for r in results)
    assert sum(spent) - max(spent, default=0) < limit
    if sum(spent) < limit:
        assert len(spent) == len(calls)


async def test_calls_of_no_known_length_go_beside_each_other_while_there_is_plenty() -> None:
    meter = Meter(Limits(tokens=200_000))
    reserves = []
    for _ in range(10):
        reserves.append(await meter.room(Need(input=1000, enough=4096)))
        meter.admit_model(reserves[-1])
    shares = [r.max_tokens for r in reserves]
    assert shares[0] is None
    assert all(s is not None and s >= 4096 for s in shares[1:])


def test_steps_are_those_of_turns_and_counted_once() -> None:
    meter = Meter(Limits(steps=2))
    meter.restore([("a/model[0]", "model", None), ("a/model[0]", "model", None)])
    meter.admit_model(path="a/judge[x]")
    meter.admit_model(path="a/model[0]")
    meter.admit_model(path="a/sub/model[0]")
    with pytest.raises(LimitExceeded, match=r"2 steps is used up \(2 used\)") as caught:
        meter.admit_model(path="a/model[1]")
    assert "limits=Limits(steps=...) of the run" in caught.value.hint
    assert (meter.steps, meter.requests) == (2, 5)


async def test_time_that_is_gone_counts() -> None:
    with pytest.raises(LimitExceeded, match="longer than 5 s"):
        await within(5, asyncio.sleep(1), worked=5.0)


async def test_an_estimate_says_nothing_about_a_models_word() -> None:
    meter = Meter(Limits(tokens=1000))
    for estimated in (True, False):
        reserve = await meter.room(Need(output=5))
        meter.admit_model(reserve)
        meter.settle(Usage(output=9, calls=1, estimated=estimated), reserve)
        assert meter._broken is not estimated
