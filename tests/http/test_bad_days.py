"""Every bad day on every wire shape, by an agent with a tool, under a hard time limit.

After each of them the conversation goes on: what the model is then sent has no call without a
result.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import pytest

from mastra_nb import Agent, MastraError, tool
from mastra_nb.config import RateLimit, Settings
from mastra_nb.errors import ModelError, ModelHTTPError, ModelOutputError, ModelTimeout
from mastra_nb.events import MessageAdded, ReasoningDelta
from mastra_nb.http import pool
from mastra_nb.http.client import Retry, Timeouts
from mastra_nb.messages import user
from mastra_nb.runs import Run
from mastra_nb.services import Services
from tests.http.server import Answer, Script, Server, refused, serve
from tests.http.shapes import HALF, KEY, SHAPES, SIGNATURE, Shape

HARD = 10.0  # seconds; every day ends long before
QUICK = Timeouts(connect=2, first=1, idle=0.3)
OK = "HTTP/1.1 200 OK\r\ncontent-type: {}\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture(params=SHAPES, ids=lambda shape: shape.name)
def shape(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Shape:
    found: Shape = request.param
    if found.httpx:
        # As where httptools is not installed.
        monkeypatch.setitem(sys.modules, "mastra_nb.http.direct", None)
    return found


class Day:
    """One bad day: the server's `script`, then an agent's run, then the next turn."""

    def __init__(self, shape: Shape, script: Script, *, timeouts: Timeouts | None = QUICK) -> None:
        self.shape = shape
        self.script = script
        self.timeouts = timeouts
        self.delays: list[float] = []
        self.looked: list[str] = []

    async def sleep(self, seconds: float) -> None:
        self.delays.append(seconds)
        await asyncio.sleep(0)

    def agent(self, server: Server) -> Agent[str]:
        @tool
        def look(at: str) -> str:
            """Look."""
            self.looked.append(at)
            return "nothing"

        retry = Retry(sleep=self.sleep, jitter=lambda: 0.0, clock=lambda: 1_000_000.0)
        model = self.shape.make(server.url, retry, self.timeouts)
        return Agent(name="a", model=model, tools=[look])

    async def live(self, *, next_turn: bool = True) -> Day:
        async with asyncio.timeout(HARD), serve(self.script) as server:
            agent = self.agent(server)
            self.run: Run[str] = agent.run("hi")
            self.error: BaseException | None = None
            started = time.perf_counter()
            try:
                self.text = await self.run
            except MastraError as error:
                self.error = error
            self.seconds = time.perf_counter() - started
            self.requests = len(server.requests)
            if next_turn:
                await self.go_on(agent, server)
        assert KEY not in f"{self.error!r} {self.run.messages}"
        return self

    async def go_on(self, agent: Agent[str], server: Server) -> None:
        server.script = [answer(self.shape, *self.shape.whole("well"))]
        assert await agent.run([*self.run.messages, user("go on")]) == "well"
        self.asked = server.requests[-1][1]
        self.shape.check(self.asked)

    @property
    def partial(self) -> str:
        """The text that was kept, and marked as not whole."""
        added = [e.data.message for e in self.run.log.events if isinstance(e.data, MessageAdded)]
        return "".join(m.text for m in added if m.partial)


def answer(shape: Shape, *pieces: bytes, **options: Any) -> Answer:
    return Answer(headers={"content-type": shape.media}, pieces=list(pieces), **options)


async def lived(shape: Shape, *script: Answer, **options: Any) -> Day:
    return await Day(shape, list(script), **options).live()


# Refusals


@pytest.mark.parametrize(
    ("headers", "delay"),
    [
        ({}, 0.5),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "120"}, 0.12),
        ({"retry-after-ms": "120", "retry-after": "9"}, 0.12),
        ({"retry-after": formatdate(1_000_007, usegmt=True)}, 7.0),
        ({"retry-after": formatdate(999_000, usegmt=True)}, 0.0),
        ({"retry-after": "-5"}, 0.0),
        ({"retry-after": "soon"}, 0.5),
        ({"retry-after": "nan"}, 0.5),
        ({"retry-after": ""}, 0.5),
        ({"x-should-retry": "true"}, 0.5),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m2.5s"}, None),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "120ms"}, 0.12),
        (
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "1970-01-12T13:46:44Z",
            },
            4.0,
        ),
        ({"retry-after": "3600"}, None),
        ({"retry-after": "1e400"}, 0.5),
        ({"retry-after": "9" * 400}, 0.5),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, None),
        ({"x-should-retry": "false"}, None),
    ],
)
async def test_429(shape: Shape, headers: dict[str, str], delay: float | None) -> None:
    day = await lived(shape, refused(429, **headers), answer(shape, *shape.whole("ok")))
    if delay is None:
        assert isinstance(day.error, ModelHTTPError)
        assert (day.error.status, day.requests, day.delays) == (429, 1, [])
    else:
        assert (day.text, day.requests) == ("ok", 2)
        assert day.delays == pytest.approx([delay])


async def test_google_says_the_delay_in_the_body(shape: Shape) -> None:
    body = b'{"error": {"code": 429, "details": [{"retryDelay": "7.5s"}]}}'
    day = await lived(shape, Answer(429, {}, [body]), answer(shape, *shape.whole("ok")))
    assert (day.text, day.delays) == ("ok", [7.5])


async def test_a_quota_that_waiting_does_not_fill(shape: Shape) -> None:
    body = b'{"error": {"message": "over", "code": "insufficient_quota"}}'
    day = await lived(shape, Answer(429, {}, [body]))
    assert (day.requests, day.delays) == (1, [])


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
async def test_storms_are_tried_three_times(shape: Shape, status: int) -> None:
    day = await lived(shape, refused(status, "busy"))
    assert isinstance(day.error, ModelHTTPError)
    assert (day.error.status, day.requests, day.delays) == (status, 3, [0.5, 1.0])


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 403, 404, 405, 413, 422])
async def test_what_stays_is_tried_once(shape: Shape, status: int) -> None:
    day = await lived(shape, refused(status, location="/elsewhere", x_should_retry="true"))
    finals = (301, 302, 307, 405, 413)
    assert isinstance(day.error, ModelHTTPError)
    # The server may ask for a retry of what is not known to be final.
    assert (day.error.status, day.requests) == (status, 3 if status in finals else 1)
    day = await lived(shape, refused(status, location="/elsewhere"))
    assert day.requests == 1


# No answer


@pytest.mark.parametrize(
    "raw", [b"", b"\0\0\0", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\n"]
)
@pytest.mark.parametrize("end", ["close", "cut"])
async def test_no_http(shape: Shape, raw: bytes, end: str) -> None:
    day = await lived(shape, Answer(raw=raw, end=end))
    assert isinstance(day.error, ModelHTTPError)
    assert (day.error.code, day.requests) == ("model.unreachable", 3)
    day = await lived(shape, Answer(raw=raw, end=end), answer(shape, *shape.whole("ok")))
    assert (day.text, day.requests) == ("ok", 2)


async def test_endless_headers(shape: Shape) -> None:
    day = await lived(shape, Answer(raw=b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000, end="stall"))
    assert isinstance(day.error, ModelHTTPError)
    # httpx names no header where it gives up.
    assert ("too long" if shape.httpx else "headers") in day.error.message


async def test_nobody_listens(shape: Shape) -> None:
    day = Day(shape, [])
    async with serve([]) as server:
        agent = day.agent(server)
    with pytest.raises(ModelHTTPError, match="connection refused"):
        await asyncio.wait_for(agent.run("hi"), HARD)
    assert day.delays == [0.5, 1.0]


# Stalls


def noise(shape: Shape) -> bytes:
    """What a line that is alive carries, and what says nothing."""
    return b": ping\n\n" if "event" in shape.media else b"\n"


async def test_stalls(shape: Shape) -> None:
    headers = OK.format(shape.media).encode()
    stalls = (
        (Answer(before=60.0), ""),
        (Answer(raw=b"HTTP/1.1 200", end="stall"), ""),
        (Answer(raw=b"HTTP/1.1 100 Continue\r\n\r\n", end="stall"), ""),
        (Answer(raw=b"HTTP/1.1 100 Continue\r\n\r\n" * 200, pause=0.01, end="stall"), ""),
        (Answer(raw=headers + b"x" * 200, pause=0.05), ""),
        (Answer(raw=headers, end="stall"), ""),
        (answer(shape, noise(shape), end="stall"), ""),
        (answer(shape, *shape.begin("par"), end="stall"), "par"),
        (answer(shape, *shape.begin("par"), *shape.half_call(), end="stall"), "par"),
    )
    days = await asyncio.gather(*(lived(shape, stall) for stall, _ in stalls))
    for day, (stall, kept) in zip(days, stalls, strict=True):
        assert isinstance(day.error, ModelTimeout), stall
        assert (day.requests, day.looked) == (1, [])
        assert day.seconds < 3
        assert day.partial == kept


async def test_signs_of_life_are_no_answer(shape: Shape) -> None:
    """Ten times as patient as with a line that is dead, but not for ever."""
    quick = Timeouts(connect=2, first=2, idle=0.15)
    drops = [noise(shape)] * 300
    whole = [answer(shape, *b, *drops, pause=0.01) for b in ([], shape.begin("par"))]
    for day, kept in zip(
        await asyncio.gather(*(lived(shape, each, timeouts=quick) for each in whole)),
        ("", "par"),
        strict=True,
    ):
        assert isinstance(day.error, ModelTimeout)
        assert "only signs of life for 1.5 s" in day.error.message
        assert 1.4 < day.seconds < 4
        assert (day.partial, day.requests) == (kept, 1)


async def test_an_event_that_does_not_end_is_no_answer(shape: Shape) -> None:
    quick = Timeouts(connect=2, first=2, idle=0.1)
    start = shape.begin("par")[-1][:9]
    day = await lived(shape, answer(shape, start, *[b"x"] * 400, pause=0.01), timeouts=quick)
    assert isinstance(day.error, ModelTimeout)
    assert day.seconds < 3


async def test_a_service_that_is_alive_is_waited_for(shape: Shape) -> None:
    quick = Timeouts(connect=2, first=2, idle=0.25)
    pieces = [*[noise(shape)] * 30, *shape.begin("o"), *[noise(shape)] * 30, *shape.end()]
    day = await lived(shape, answer(shape, *pieces, pause=0.01), timeouts=quick)
    assert day.text == "o"
    assert day.seconds > 0.5


async def test_a_line_that_stays_open_after_the_end_is_not_waited_for(
    shape: Shape, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Google never says that nothing follows.
    monkeypatch.setattr("mastra_nb.providers._base._SETTLED", 0.3)
    patient = Timeouts(first=5, idle=5)
    for more in ([], [noise(shape)] * 500):
        slow = answer(shape, *shape.whole("ok"), *more, pause=0.005, end="stall")
        day = await lived(shape, slow, timeouts=patient)
        assert day.text == "ok"
        assert day.seconds < 1


async def test_drop_by_drop_is_not_idle(shape: Shape) -> None:
    body = b"".join(shape.whole("ok"))
    raw = OK.format(shape.media).encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    patient = Timeouts(first=5, idle=2)
    day = await lived(shape, Answer(raw=raw, pause=0.001), timeouts=patient)
    assert day.text == "ok"


def test_idle_streams_end_by_default() -> None:
    assert Timeouts().idle == Settings().idle_timeout == 60


# Cuts


def _cuts(shape: Shape) -> Iterator[tuple[bytes, str]]:
    head = OK.format(shape.media).encode()
    begun = b"".join(shape.begin("par"))
    more = shape.begin("ti\u00e4l")[-1]
    framed = b"%x\r\n%b\r\n" % (len(begun), begun)
    yield head + framed, "par"
    yield head + framed + b"40", "par"
    yield head + framed + b"40\r\ndata: {", "par"
    yield head + framed + b"5\r\n" + more[:5] + b"\r\n0\r\n\r\n", "par"
    yield head + framed + b"zz\r\n", "par"
    # In the middle of a letter.
    wide = more.replace(b"\\u00e4", "\u00e4".encode())
    at = wide.index("\u00e4".encode()) + 1
    yield head + framed + b"%x\r\n%b\r\n" % (at, wide[:at]), "par"
    yield head, ""


@pytest.mark.parametrize("end", ["close", "cut"])
async def test_cut_streams(shape: Shape, end: str) -> None:
    for raw, kept in _cuts(shape):
        day = await lived(shape, Answer(raw=raw, end=end), answer(shape, *shape.whole("ok")))
        assert isinstance(day.error, ModelError), raw
        assert day.error.code in ("model.truncated", "model.output"), raw
        assert day.requests == 1, "nothing is sent again once an answer has begun"
        assert day.partial == kept


@pytest.mark.parametrize("end", ["close", "cut", "stall"])
async def test_half_a_call_is_not_made(shape: Shape, end: str) -> None:
    day = await lived(shape, answer(shape, *shape.begin("par"), *shape.half_call(), end=end))
    assert isinstance(day.error, ModelError)
    assert (day.partial, day.looked, day.requests) == ("par", [], 1)
    assert not any(m.tool_calls for m in day.run.messages)


@pytest.mark.parametrize("end", ["close", "cut", "stall"])
async def test_half_a_thought_does_not_go_back(shape: Shape, end: str) -> None:
    for before in ([], [answer(shape, *shape.call())]):
        day = await lived(shape, *before, answer(shape, *shape.half_thought(), end=end))
        assert isinstance(day.error, ModelError)
        assert (day.partial, day.requests) == ("", 1 + len(before))
        thoughts = [e.data.text for e in day.run.log.events if isinstance(e.data, ReasoningDelta)]
        assert thoughts[-1] == HALF, "it was shown"


async def test_a_signed_thought_goes_back_as_it_was(shape: Shape) -> None:
    bad = answer(shape, *shape.begin("par"), end="cut")
    day = await lived(shape, answer(shape, *shape.call()), bad)
    assert (day.looked, day.partial) == (["Oslo"], "par")
    assert (SIGNATURE in json.dumps(day.asked)) is shape.signed


async def test_a_bad_day_after_a_tool_has_run(shape: Shape) -> None:
    for bad in (refused(500), answer(shape, *shape.begin("par"), end="stall")):
        day = await lived(shape, answer(shape, *shape.call()), bad)
        assert isinstance(day.error, ModelError)
        assert day.looked == ["Oslo"]


async def test_error_events(shape: Shape) -> None:
    for before in ([], shape.begin("par")):
        day = await lived(shape, answer(shape, *before, shape.error()))
        assert isinstance(day.error, ModelHTTPError)
        assert (day.error.code, day.requests) == ("model.stream_error", 1)
        assert day.partial == ("par" if before else "")


IDS = [
    ({"request-id": "req_1", "cf-ray": "8a1-OSL"}, {}, "req_1"),
    ({"x-request-id": "req_1"}, {"request_id": "req_2"}, "req_1"),
    ({"apim-request-id": "3a-4"}, {}, "3a-4"),
    ({"x-goog-request-id": "goog-1"}, {}, "goog-1"),
    ({"cf-ray": "8a1-OSL"}, {}, "8a1-OSL"),
    ({"request-id": "<b>x</b>", "cf-ray": "y" * 999}, {}, None),
    ({"x-request-id": KEY}, {}, None),
    ({}, {"request_id": 123}, "123"),
    ({}, {"request_id": "req_3"}, "req_3"),
    ({}, {}, None),
]


@pytest.mark.parametrize(("headers", "body", "id"), IDS)
async def test_a_refused_request_can_be_named_to_support(
    shape: Shape, headers: dict[str, str], body: dict[str, Any], id: str | None
) -> None:
    said = json.dumps({"error": {"message": "no"}, **body}).encode()
    day = await lived(shape, Answer(400, headers, [said]))
    assert isinstance(day.error, ModelHTTPError)
    if headers.get("x-request-id") != KEY:
        assert day.error.details.get("request_id") == id
    assert id is None or id not in str(day.error)


async def test_an_answer_that_went_wrong_can_be_named_to_support(shape: Shape) -> None:
    for bad in (
        answer(shape, *shape.begin("par"), shape.error()),
        answer(shape, *shape.begin("par"), end="stall"),
        answer(shape, *shape.begin("par"), end="cut", pause=0.02),
        answer(shape, *shape.begin("par")),
        answer(shape, b"<html>"),
    ):
        bad.headers["x-request-id"] = "req_77"
        day = await lived(shape, bad)
        assert isinstance(day.error, ModelError)
        assert day.error.details["request_id"] == "req_77"
        assert "req_77" not in f"{day.error} {day.run.messages}"


# Nonsense


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n\n",
        b"<!doctype html><title>Sign in</title>",
        b"Internal error",
        b"[]",
        b"{}",
        b"null",
        b'{"hello": "world"}',
        b'{"choices": []}',
        b"data: {nonsense\n\n",
        b"data: [1, 2]\n\n",
        b"data: 7\n\n",
        b'data: {"choices": [{"delta": {"content": "\xff\xfe"}}]}\n\n',
        b"\xff\xfe\x00\x01" * 100,
        b"data: " + b"[" * 100_000 + b"\n\n",
        b"x" * 1_000_000,
        b"[" * 100_000,
    ],
)
async def test_nonsense(shape: Shape, body: bytes) -> None:
    for media in (shape.media, "text/html", "application/octet-stream", ""):
        day = await lived(shape, Answer(headers={"content-type": media}, pieces=[body]))
        assert isinstance(day.error, ModelError)
        assert day.requests == 1


@pytest.mark.parametrize("status", [204, 205, 206])
async def test_a_success_without_an_answer(shape: Shape, status: int) -> None:
    raw = f"HTTP/1.1 {status} X\r\n\r\n".encode()
    day = await lived(shape, Answer(raw=raw))
    assert isinstance(day.error, ModelError)
    assert day.requests == 1


async def test_continue_is_not_the_answer(shape: Shape) -> None:
    body = b"".join(shape.whole("ok"))
    first = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    last = f"HTTP/1.1 200 OK\r\ncontent-type: {shape.media}\r\n\r\n".encode()
    day = await lived(shape, Answer(raw=first + last + body))
    assert day.text == "ok"


async def test_another_protocol(shape: Shape) -> None:
    raw = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
    day = await lived(shape, Answer(raw=raw + b"\x81\x05hello"))
    assert isinstance(day.error, ModelHTTPError)


async def test_an_answer_without_an_end(shape: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mastra_nb.http.client.MAX_ANSWER", 300_000)
    line = b"data: " + b"x" * 100_000
    for pieces in ([line, line, line, line], [noise(shape) * 50_000] * 7):
        day = await lived(shape, answer(shape, *pieces, end="stall"))
        assert isinstance(day.error, ModelOutputError)
        assert "longer than" in day.error.message


async def test_a_refusal_that_is_nested_deeply(shape: Shape) -> None:
    day = await lived(shape, Answer(400, {}, [b"[" * 50_000]))
    assert isinstance(day.error, ModelHTTPError)


async def test_an_endless_refusal(shape: Shape) -> None:
    day = await lived(shape, Answer(500, {}, [b"x" * 500_000] * 4, end="stall"))
    assert isinstance(day.error, ModelHTTPError)
    assert len(day.error.message) < 1000


# Stopping


@pytest.mark.parametrize("when", ["before", "headers", "middle", "call"])
async def test_cancelling_closes_the_socket(shape: Shape, when: str) -> None:
    script = {
        "before": Answer(before=60.0),
        "headers": Answer(raw=OK.format(shape.media).encode(), end="stall"),
        "middle": answer(shape, *shape.begin("par"), end="stall"),
        "call": answer(shape, *shape.begin("par"), *shape.half_call(), end="stall"),
    }[when]
    day = Day(shape, [script], timeouts=None)
    async with asyncio.timeout(HARD), serve(day.script) as server:
        agent = day.agent(server)
        day.run = agent.run("hi")
        task = asyncio.create_task(_wait(day.run))
        while not server.requests or (when in ("middle", "call") and not day.run.text):
            await asyncio.sleep(0.01)
        started = time.perf_counter()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await server.gone.wait()
        assert time.perf_counter() - started < 5
        assert day.partial == ("par" if when in ("middle", "call") else "")
        await day.go_on(agent, server)


async def _wait(run: Run[str]) -> str:
    return await run


# Limits


async def test_a_storm_of_50_runs_passes(shape: Shape) -> None:
    """A server that lets 10 requests through in each fifth of a second."""
    start, used = 0.0, 0

    def quota(number: int) -> Answer:
        nonlocal start, used
        if (now := time.monotonic()) - start >= 0.2:
            start, used = now, 0
        used += 1
        if used <= 10:
            return answer(shape, *shape.whole("ok"))
        return refused(429, "slow", retry_after_ms=f"{(start + 0.2 - now) * 1000 + 1:.0f}")

    async with asyncio.timeout(20), serve(quota) as server:
        agent = Agent(name="a", model=shape.make(server.url, Retry(), Timeouts(first=5, idle=5)))
        assert await asyncio.gather(*(agent.run("hi") for _ in range(50))) == ["ok"] * 50
        assert len(server.requests) < 150


async def test_configured_limits_keep_a_storm_from_being_refused(shape: Shape) -> None:
    async with asyncio.timeout(20), serve([answer(shape, *shape.whole("ok"))]) as server:
        model = shape.make(server.url, Retry(), Timeouts(first=5, idle=5))
        limit = RateLimit(requests_per_minute=1200)
        services = Services(settings=Settings(rate_limits={model.name: limit}))
        agent = Agent(name="a", model=model)
        await Run(agent, "hi", services=services)
        (allowed,) = (r for r in pool._rates.values() if r.limit is limit)
        allowed._take(1199, 0)
        started = time.perf_counter()
        await asyncio.gather(*(Run(agent, "hi", services=services) for _ in range(20)))
        # The bucket was empty and fills with 20 a second.
        assert 0.8 < time.perf_counter() - started < 5
        assert len(server.requests) == 21


async def test_a_used_up_quota_is_waited_for(shape: Shape) -> None:
    times: list[float] = []

    def script(number: int) -> Answer:
        times.append(time.monotonic())
        last = answer(shape, *shape.whole("ok"))
        last.headers |= {
            "x-ratelimit-remaining-requests": "0" if number == 0 else "9",
            "x-ratelimit-reset-requests": "300ms",
        }
        return last

    async with asyncio.timeout(HARD), serve(script) as server:
        model = shape.make(server.url, Retry(), Timeouts(first=5, idle=5))
        for _ in range(3):
            await Agent(name="a", model=model).run("hi")
    assert times[1] - times[0] > 0.25
    assert times[2] - times[1] < 0.25
