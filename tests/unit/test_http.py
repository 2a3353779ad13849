from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mastra_nb.config import RateLimit
from mastra_nb.http import pool
from mastra_nb.http.client import Retry, error_message, quota_pause, retry_after
from mastra_nb.http.gate import Gate, Rate
from mastra_nb.http.sse import ServerEvent, SSEDecoder


def decode(*pieces: bytes) -> list[ServerEvent]:
    decoder = SSEDecoder()
    return [e for piece in pieces for e in decoder.feed(piece)] + decoder.close()


@pytest.mark.parametrize(
    ("raw", "data"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data:a\r\n\r\ndata:b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b": hello\n\n:\ndata: a\n\n", [b"a"]),
        (b"data: a", [b"a"]),
        (b"data: a\n", [b"a"]),
        (b"data:  a \n\n", [b" a "]),
        (b"data\n\n", [b""]),
        (b"id: 7\nretry: 10\nnonsense\ndata: a\n\n", [b"a"]),
        (b"event: ping\n\ndata: a\n\n", [b"a"]),
        ("data: ü\u2028x\n\n".encode(), ["ü\u2028x".encode()]),
        (b"\n\n\n", []),
        (b"", []),
    ],
)
def test_sse_forms(raw: bytes, data: list[bytes]) -> None:
    assert [e.data for e in decode(raw)] == data


def test_sse_event_names_belong_to_one_event() -> None:
    events = decode(b"event: error\ndata: a\n\ndata: b\n\n")
    assert events == [ServerEvent(b"a", "error"), ServerEvent(b"b")]


def test_sse_gives_an_event_as_soon_as_its_blank_line_is_there() -> None:
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a\r\n") == []
    assert decoder.feed(b"\r") == [ServerEvent(b"a")]
    assert decoder.feed(b"\ndata: b\n\n") == [ServerEvent(b"b")]


_lines = st.lists(
    st.sampled_from(
        ["data: ä€😀", "data:", "data: x: y", "event: e", ":c", "", "", "id: 1", "data"]
    )
)


@given(_lines, st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(0, 200)), st.booleans())
def test_sse_split_anywhere(lines: list[str], end: str, cuts: list[int], bom: bool) -> None:
    raw = (b"\xef\xbb\xbf" if bom else b"") + end.join(lines).encode()
    at = sorted(min(c, len(raw)) for c in cuts)
    pieces = [raw[a:b] for a, b in zip([0, *at], [*at, len(raw)], strict=True)]
    assert decode(*pieces) == decode(raw)
    assert decode(*(raw[i : i + 1] for i in range(len(raw)))) == decode(raw)


def test_sse_time_is_linear_in_a_long_line() -> None:
    decoder = SSEDecoder()
    for _ in range(20_000):
        decoder.feed(b"data" if not decoder._pieces else b"x" * 100)
    assert decoder.feed(b"\n\n") == []


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": formatdate(1_000_030, usegmt=True)}, 30.0),
        ({"retry-after": formatdate(999_000, usegmt=True)}, 0.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "tomorrow"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, lambda: 1_000_000.0) == seconds


def test_backoff_doubles_up_to_its_cap() -> None:
    plain = Retry(jitter=lambda: 0.0)
    assert [plain.backoff(n) for n in range(1, 8)] == [0.5, 1, 2, 4, 8, 8, 8]
    assert Retry(jitter=lambda: 1.0).backoff(2) == 0.75


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "no such model", "type": "x"}}, "no such model"),
        ({"error": "no such model"}, "no such model"),
        ({"object": "error", "message": "bad", "code": 400}, "bad"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"detail": [{"loc": ["body"], "msg": "field required"}]}, "field required"),
        ([{"error": {"code": 400, "message": "API key not valid"}}], "API key not valid"),
        ({"errors": [{"message": "a"}, {"message": "b"}]}, "a; b"),
        ({"code": 7}, ""),
        (3, ""),
    ],
)
def test_error_bodies(body: object, message: str) -> None:
    assert error_message(json.dumps(body).encode()) == message


def test_error_bodies_that_are_not_json() -> None:
    assert error_message(b"upstream is down\n") == "upstream is down"
    assert error_message(b"<!DOCTYPE html><html>login") == "a web page instead of JSON"
    assert error_message(b"") == ""
    assert len(error_message(b"x" * 9999)) == 500
    assert len(error_message(json.dumps({"message": "x" * 9999}).encode())) == 500


async def test_an_open_gate_lets_everyone_in() -> None:
    gate = Gate()
    for _ in range(500):
        assert await gate.enter(gate.ticket())


async def test_a_gate_holds_everyone_while_one_sleeps_and_then_lets_them_in_by_and_by() -> None:
    gate, order = Gate(), []
    asleep = asyncio.Event()

    async def turned_away(ticket: int) -> None:
        await gate.enter(ticket)
        await gate.back_off(ticket, asleep.wait())
        order.append(-1)

    async def one(n: int) -> None:
        await gate.enter(gate.ticket())
        order.append(n)

    async def settle() -> list[int]:
        for _ in range(3):
            await asyncio.sleep(0)
        return order

    early = asyncio.create_task(turned_away(gate.ticket()))
    await asyncio.sleep(0)
    tasks = [asyncio.create_task(one(n)) for n in range(5)]
    assert await settle() == []
    asleep.set()
    # Who was turned away goes first, although it asked again last.
    assert await settle() == [-1]
    gate.succeeded()
    gate.leave()
    assert await settle() == [-1, 0, 1]
    for _ in range(2):
        gate.succeeded()
        gate.leave()
    await asyncio.gather(early, *tasks)
    assert order == [-1, 0, 1, 2, 3, 4]


async def test_a_cancelled_waiter_frees_its_place() -> None:
    gate, asleep = Gate(), asyncio.Event()
    first = gate.ticket()
    await gate.enter(first)
    sleeper = asyncio.create_task(gate.back_off(first, asleep.wait()))
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(gate.enter(gate.ticket())) for _ in range(2)]
    await asyncio.sleep(0)
    asleep.set()
    assert await sleeper
    gate.leave()
    waiting[0].cancel()  # admitted in the same step
    assert await asyncio.wait_for(waiting[1], 1)
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]


def test_importing_loads_no_http_library() -> None:
    code = (
        "import sys, mastra_nb.http.client\n"
        "assert not {'httpx', 'aiohttp', 'httptools'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tls_context_is_made_once() -> None:
    async def one() -> object:
        return await asyncio.to_thread(pool.tls_context)

    async def many() -> list[object]:
        return await asyncio.gather(*(one() for _ in range(8)))

    assert len(set(map(id, asyncio.run(many())))) == 1


class Clock:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 6))
        self.now += seconds


def rate(**limit: float) -> tuple[Rate, Clock]:
    clock = Clock()
    return Rate(RateLimit(**limit), clock=clock, sleep=clock.sleep), clock


async def test_a_minutes_requests_go_at_once_and_the_rest_evenly() -> None:
    made, clock = rate(requests_per_minute=60)
    for _ in range(60):
        await made.wait(1_000_000)
    assert clock.slept == []
    for _ in range(3):
        await made.wait(0)
    assert clock.slept == [1.0, 1.0, 1.0]
    clock.now += 3600
    for _ in range(61):
        await made.wait(0)
    assert clock.slept == [1.0] * 4


async def test_tokens_are_counted_as_they_turn_out() -> None:
    made, clock = rate(tokens_per_minute=600)
    await made.wait(300)
    made.spent(300)  # the answer
    await made.wait(100)
    assert clock.slept == [10.0]
    made.spent(-100)
    await made.wait(100)
    assert clock.slept == [10.0]


async def test_a_request_that_is_larger_than_a_minute_waits_for_a_full_bucket() -> None:
    made, clock = rate(tokens_per_minute=600)
    await made.wait(6_000)
    assert clock.slept == []
    await made.wait(60)
    assert clock.slept == [546.0]


async def test_both_limits_hold() -> None:
    made, clock = rate(requests_per_minute=6, tokens_per_minute=600)
    await made.wait(600)
    await made.wait(60)
    assert clock.slept == [6.0]
    for _ in range(5):
        await made.wait(0)
    assert sum(clock.slept) == pytest.approx(10.0, abs=0.01)


async def test_who_is_cancelled_gives_back_what_it_took() -> None:
    clock = Clock()
    made = Rate(RateLimit(requests_per_minute=60), clock=clock, sleep=asyncio.sleep)
    made._take(60, 0)
    tasks = [asyncio.create_task(made.wait(0)) for _ in range(10)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert made._take(1, 0) == pytest.approx(1.0)


def test_runs_of_all_loops_share_what_is_configured() -> None:
    limits = {"openai": RateLimit(requests_per_minute=1), "openai/b": RateLimit()}
    one = pool.rate("openai/a", "u", limits)
    assert one is not None
    assert one is pool.rate("openai/c", "u", limits) is not pool.rate("openai/b", "u", limits)
    assert one is not pool.rate("openai/a", "other", limits)
    assert pool.rate("groq/a", "u", limits) is None
    changed = {"openai": RateLimit(requests_per_minute=2)}
    assert pool.rate("openai/a", "u", changed) is not one


@given(st.lists(st.floats(0, 100), max_size=50), st.integers(1, 600))
def test_no_more_than_two_buckets_in_any_minute(gaps: list[float], limit: int) -> None:
    clock = Clock()
    made = Rate(RateLimit(requests_per_minute=limit), clock=clock)
    sent = []
    for gap in gaps:
        clock.now += gap
        sent.append(clock.now + made._take(1, 0))
    for at in sent:
        assert sum(at <= other < at + 60 for other in sent) <= 2 * limit


async def test_a_pause_of_the_gate_ends() -> None:
    gate = Gate()
    gate.pause(0.02)
    assert await asyncio.wait_for(gate.enter(gate.ticket()), 2)


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [
        ("1s", 1.0),
        ("120ms", 0.12),
        ("6m0s", 360.0),
        ("2m59.5s", 179.5),
        ("1h2m", 3720.0),
        ("1970-01-12T13:46:50+00:00", 10.0),
        ("1970-01-12T13:46:50Z", 10.0),
        ("1970-01-01T00:00:00Z", 0.0),
        ("", None),
        ("soon", None),
    ],
)
def test_quota_headers(reset: str, seconds: float | None) -> None:
    for left, name in (
        ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
        ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
    ):
        assert quota_pause({left: "0", name: reset}, lambda: 1_000_000.0) == seconds
        assert quota_pause({left: "1", name: reset}, lambda: 1_000_000.0) is None
