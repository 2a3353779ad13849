"""The transport against a real server on loopback that answers badly."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from email.utils import formatdate
from typing import Any

import pytest

from mastra_nb.config import Secret
from mastra_nb.errors import (
    LimitExceeded,
    ModelError,
    ModelHTTPError,
    ModelOutputError,
    ModelTimeout,
)
from mastra_nb.events import ArgsDelta, Noted, TextDelta
from mastra_nb.http import pool
from mastra_nb.http.client import Retry, Timeouts
from mastra_nb.messages import user
from mastra_nb.models import ModelRequest, Reply
from mastra_nb.providers.openai import OpenAIModel
from mastra_nb.services import Services
from tests.http.server import Answer, Script, Server, chunk, refused, said, serve, sse

ASK = ModelRequest(messages=(user("hi"),))
EVENTS = {"content-type": "text/event-stream"}
KEY = "canary-0123456789"


@pytest.fixture(autouse=True, params=["direct", "httpx"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The fast transport, and httpx as where httptools is not installed."""
    if request.param == "httpx":
        monkeypatch.setitem(sys.modules, "mastra_nb.http.direct", None)
    name: str = request.param
    return name


class Ctx:
    """Of a context a model needs `emit`, the settings, and the meter for retries."""

    def __init__(self, retries: int = 99) -> None:
        self.seen: list[Any] = []
        self.left = retries
        self.meter = self
        self.services = Services()

    def emit(self, data: Any) -> int:
        self.seen.append(data)
        return len(self.seen)

    def count_retry(self) -> None:
        if not self.left:
            raise LimitExceeded("no more requests")
        self.left -= 1

    @property
    def text(self) -> str:
        return "".join(d.text for d in self.seen if isinstance(d, TextDelta))


class Sleep:
    def __init__(self) -> None:
        self.delays: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.delays.append(seconds)
        await asyncio.sleep(0)


def model(server: Server, **options: Any) -> OpenAIModel:
    retry = options.pop("retry", None) or Retry(sleep=Sleep(), jitter=lambda: 0.0)
    options.setdefault("timeouts", Timeouts(first=5, idle=5))
    return OpenAIModel("m", base_url=server.url, api_key=KEY, retry=retry, **options)


async def ask(script: Script, ctx: Ctx | None = None, **options: Any) -> tuple[Reply, Server, Ctx]:
    ctx = ctx or Ctx()
    async with serve(script) as server:
        return await model(server, **options).invoke(ASK, ctx), server, ctx  # type: ignore[arg-type]


async def fail(script: Script, **options: Any) -> tuple[ModelError, Server, Ctx]:
    ctx = Ctx()
    async with serve(script) as server:
        with pytest.raises(ModelError) as caught:
            await model(server, **options).invoke(ASK, ctx)  # type: ignore[arg-type]
        return caught.value, server, ctx


async def test_a_good_answer() -> None:
    reply, server, ctx = await ask([said("Hel", "lo")])
    assert reply.message.text == ctx.text == "Hello"
    assert (reply.finish, reply.usage.input, reply.usage.output) == ("stop", 3, 2)
    headers, body = server.requests[0]
    assert headers["authorization"] == f"Bearer {KEY}"
    assert body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("headers", "delay"),
    [
        ({}, 0.5),
        ({"retry_after": "3"}, 3.0),
        ({"retry_after_ms": "120"}, 0.12),
        ({"retry_after": formatdate(1_000_007, usegmt=True)}, 7.0),
    ],
)
async def test_429_waits_as_told(headers: dict[str, str], delay: float) -> None:
    sleep = Sleep()
    retry = Retry(sleep=sleep, jitter=lambda: 0.0, clock=lambda: 1_000_000.0)
    reply, server, ctx = await ask([refused(429, **headers), said("ok")], retry=retry)
    assert reply.message.text == "ok"
    assert sleep.delays == [delay]
    assert len(server.requests) == 2
    assert [d.level for d in ctx.seen if isinstance(d, Noted)] == ["warning"]


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
async def test_what_passes_is_tried_three_times(status: int) -> None:
    sleep = Sleep()
    error, server, ctx = await fail(
        [refused(status, "busy")], retry=Retry(sleep=sleep, jitter=lambda: 0.0)
    )
    assert isinstance(error, ModelHTTPError)
    assert (error.status, len(server.requests), sleep.delays) == (status, 3, [0.5, 1.0])
    assert f"answered {status}: busy" in error.message
    assert len([d for d in ctx.seen if isinstance(d, Noted)]) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 301, 410, 413])
async def test_what_stays_is_tried_once(status: int) -> None:
    error, server, _ = await fail([refused(status, x_should_retry="no")])
    assert isinstance(error, ModelHTTPError)
    assert (error.status, len(server.requests)) == (status, 1)


async def test_the_server_may_say_whether_to_retry() -> None:
    _, server, _ = await fail([refused(500, x_should_retry="false")])
    assert len(server.requests) == 1
    _, server, _ = await fail([refused(418, x_should_retry="true")])
    assert len(server.requests) == 3
    _, server, _ = await fail([refused(400, x_should_retry="true")])
    assert len(server.requests) == 1


async def test_a_wait_that_is_too_long_is_the_callers() -> None:
    error, server, _ = await fail([refused(429, retry_after="3600")])
    assert isinstance(error, ModelHTTPError)
    assert (error.retry_after, len(server.requests)) == (3600.0, 1)


async def test_an_empty_account_is_not_asked_again() -> None:
    body = b'{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}'
    error, server, _ = await fail([Answer(429, {}, [body])])
    assert len(server.requests) == 1
    assert "no credit left" in error.hint


async def test_a_retry_counts_against_the_limit_of_requests() -> None:
    async with serve([refused(500)]) as server:
        with pytest.raises(LimitExceeded):
            await model(server).invoke(ASK, Ctx(retries=1))  # type: ignore[arg-type]
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("status", "said_", "hint"),
    [
        (401, "bad key", "check the key in api_key"),
        (404, "no", 'check the model name "m"'),
        (400, "maximum context length is 8", "shorten the conversation"),
        (413, "no", "shorten the conversation"),
        (429, "slow down", "run fewer at once"),
        (500, "no", "another model"),
    ],
)
async def test_hints(status: int, said_: str, hint: str) -> None:
    error, _, _ = await fail([refused(status, said_)])
    assert hint in error.hint
    assert (error.code == "model.context_length") == ("conversation" in error.hint)


async def test_keys_do_not_come_back_in_errors() -> None:
    error, _, _ = await fail([refused(401, f"the key {KEY} and sk-proj-abcdefghijkl are wrong")])
    assert KEY not in f"{error!r} {error} {error.details}"
    assert "sk-proj" not in str(error)
    frames, tb = [], error.__traceback__
    while tb is not None:
        frames.append(
            repr(tb.tb_frame.f_locals) if "mastra_nb" in tb.tb_frame.f_code.co_filename else ""
        )
        tb = tb.tb_next
    assert KEY not in "".join(frames)


async def test_nobody_listens() -> None:
    async with serve([]) as server:
        url = server.url
    sleep = Sleep()
    lonely = OpenAIModel("m", base_url=url, retry=Retry(sleep=sleep, jitter=lambda: 0.0))
    with pytest.raises(ModelHTTPError, match="connection refused") as caught:
        await lonely.invoke(ASK, Ctx())  # type: ignore[arg-type]
    assert (caught.value.status, caught.value.code) == (0, "model.unreachable")
    assert url in caught.value.message
    assert sleep.delays == [0.5, 1.0]


async def test_an_unreachable_ollama_says_how_to_start_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    lonely = OpenAIModel("m", vendor="ollama", retry=Retry(retries=0))
    with pytest.raises(ModelHTTPError) as caught:
        await lonely.invoke(ASK, Ctx())  # type: ignore[arg-type]
    assert "ollama serve" in caught.value.hint


async def test_a_line_that_drops_before_the_answer_is_tried_again() -> None:
    reply, server, _ = await ask([Answer(raw=b""), said("ok")])
    assert (reply.message.text, len(server.requests)) == ("ok", 2)


@pytest.mark.parametrize("raw", [b"not http at all\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\0\0\0"])
async def test_garbage_for_http(raw: bytes) -> None:
    error, server, _ = await fail([Answer(raw=raw)])
    assert isinstance(error, ModelHTTPError)
    assert (error.status, len(server.requests)) == (0, 3)


async def test_a_cut_stream_is_an_error_that_keeps_what_came() -> None:
    for end in ("cut", "close"):
        error, server, ctx = await fail(
            [
                Answer(
                    headers=EVENTS,
                    pieces=sse(chunk("par"), chunk("tial"), done=False),
                    pause=0.01,
                    end=end,
                )
            ]
        )
        assert error.code == "model.truncated"
        assert (ctx.text, len(server.requests)) == ("partial", 1)


async def test_a_stream_cut_in_the_middle_of_a_chunk() -> None:
    error, _, ctx = await fail(
        [Answer(headers=EVENTS, pieces=[*sse(chunk("a"), done=False), b'data: {"cho'])]
    )
    assert (error.code, ctx.text) == ("model.truncated", "a")


async def test_a_stream_cut_after_its_finish_reason_is_whole() -> None:
    for end in ("cut", "close"):
        pieces = sse(chunk("a"), chunk(finish="stop"), done=False)
        reply, _, _ = await ask([Answer(headers=EVENTS, pieces=pieces, pause=0.01, end=end)])
        assert reply.message.text == "a"


async def test_a_line_kept_open_after_done_is_not_waited_for() -> None:
    started = time.perf_counter()
    answer = said("a")
    answer.end = "stall"
    reply, _, _ = await ask([answer])
    assert reply.message.text == "a"
    assert time.perf_counter() - started < 5


async def test_an_idle_stream_times_out() -> None:
    answer = Answer(headers=EVENTS, pieces=sse(chunk("a"), done=False), end="stall")
    started = time.perf_counter()
    error, server, ctx = await fail([answer], timeouts=Timeouts(first=5, idle=0.2))
    assert isinstance(error, ModelTimeout)
    assert 0.1 < time.perf_counter() - started < 4
    assert (ctx.text, len(server.requests)) == ("a", 1)


async def test_slow_is_not_idle() -> None:
    answer = said(*"abcdefgh")
    answer.pause = 0.15
    reply, _, ctx = await ask([answer], timeouts=Timeouts(first=5, idle=0.8))
    assert reply.message.text == "abcdefgh"
    assert len([d for d in ctx.seen if isinstance(d, TextDelta)]) == 8


async def test_a_server_that_never_starts_to_answer() -> None:
    slow = said("late")
    slow.before = 10
    error, server, _ = await fail([slow], timeouts=Timeouts(first=0.2, idle=5))
    assert isinstance(error, ModelTimeout)
    assert len(server.requests) == 1


async def test_an_error_event_in_the_stream() -> None:
    event = b'event: error\ndata: {"error": {"message": "overloaded", "code": 503}}\n\n'
    error, server, ctx = await fail(
        [Answer(headers=EVENTS, pieces=[*sse(chunk("a"), done=False), event])]
    )
    assert isinstance(error, ModelHTTPError)
    assert (error.status, error.code, ctx.text) == (503, "model.stream_error", "a")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"data: {nonsense\n\n",
        b"data: [1, 2]\n\n",
        b'data: {"choices": [{"delta": {"content": "\xff\xfe"}}]}\n\n',
        b"<!doctype html><title>Sign in</title>",
        b'{"hello": "world"}',
        b'{"choices": []}',
        b'data: {"choices": []}\n\ndata: [DONE]\n\n',
        b"[]",
    ],
)
async def test_nonsense(body: bytes) -> None:
    error, server, _ = await fail([Answer(headers=EVENTS, pieces=[body])])
    assert isinstance(error, ModelOutputError)
    assert len(server.requests) == 1


@pytest.mark.parametrize("body", [b"", b"\n\n", b": ping\n\n", b"Internal error", b"\x00\x01\x02"])
async def test_nothing_to_read(body: bytes) -> None:
    error, _, _ = await fail([Answer(headers=EVENTS, pieces=[body] if body else [])])
    assert error.code == "model.truncated"


async def test_a_server_that_does_not_stream() -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": "{}"}}
    message = {"content": "hi", "tool_calls": [call]}
    body = json.dumps({"choices": [{"message": message, "finish_reason": "tool_calls"}]}).encode()
    reply, _, ctx = await ask([Answer(headers={"content-type": "application/json"}, pieces=[body])])
    assert (reply.message.text, reply.finish) == ("hi", "tool-calls")
    assert ctx.seen == [TextDelta(text="hi"), ArgsDelta(id="1", name="f", text="{}")]


async def test_cancelling_closes_the_socket() -> None:
    for before in (0.0, 60.0):
        answer = Answer(
            headers=EVENTS, pieces=sse(chunk("a"), done=False), before=before, end="stall"
        )
        async with serve([answer]) as server:
            ctx = Ctx()
            task = asyncio.create_task(model(server, timeouts=Timeouts()).invoke(ASK, ctx))  # type: ignore[arg-type]
            while not (ctx.seen or (before and server.requests)):
                await asyncio.sleep(0.01)
            started = time.perf_counter()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(server.gone.wait(), 10)
            assert time.perf_counter() - started < 10


async def test_cancelling_during_a_backoff() -> None:
    async with serve([refused(429, retry_after="30")]) as server:
        task = asyncio.create_task(model(server, retry=Retry()).invoke(ASK, Ctx()))  # type: ignore[arg-type]
        while not server.requests:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.script = [said("ok")]
        reply = await asyncio.wait_for(model(server).invoke(ASK, Ctx()), 2)  # type: ignore[arg-type]
        assert reply.message.text == "ok"


async def test_a_proxy_set_in_a_later_cell_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    async with serve([said("direct")]) as server, serve([said("by proxy")]) as proxy:
        texts = []
        for value in ("", proxy.url.removesuffix("/v1"), ""):
            monkeypatch.setenv("HTTP_PROXY", value)
            monkeypatch.setenv("http_proxy", value)
            reply = await model(server).invoke(ASK, Ctx())  # type: ignore[arg-type]
            texts.append(reply.message.text)
        assert texts == ["direct", "by proxy", "direct"]


async def test_connections_are_used_again() -> None:
    async with serve([said("ok")]) as server:
        for _ in range(5):
            await model(server).invoke(ASK, Ctx())  # type: ignore[arg-type]
        assert (len(server.requests), server.connections) == (5, 1)


async def test_two_hundred_calls_share_one_pool() -> None:
    answer = said("ok")
    answer.before = 0.05
    async with serve(lambda _: answer) as server:
        m = model(server)
        await asyncio.gather(*(m.invoke(ASK, Ctx()) for _ in range(200)))  # type: ignore[arg-type]
        assert server.most == 200
        assert len(pool._state().transports) == 1


def test_every_loop_has_its_own_pool_and_leaves_none() -> None:
    # The portal's may have one, of another test.
    before = {*pool._loops}
    assert [len(asyncio.run(asked()) - before) for _ in range(3)] == [1, 1, 1]
    assert {*pool._loops} == before


def test_a_loop_closed_without_a_farewell(transport: str) -> None:
    if transport == "httpx":
        return  # leaves its sockets to the garbage collector, which warns as it should
    before = {*pool._loops}
    loop = asyncio.new_event_loop()
    loop.run_until_complete(ask([said("ok")]))
    loop.close()
    assert len(asyncio.run(asked()) - before) == 1


async def asked() -> set[asyncio.AbstractEventLoop]:
    await ask([said("ok")])
    return {*pool._loops}


class Quota:
    """A server that lets `rate` requests through in each window of `window` seconds."""

    def __init__(self, rate: int, window: float) -> None:
        self.rate, self.window = rate, window
        self.start, self.used = 0.0, 0

    def __call__(self, number: int) -> Answer:
        now = time.monotonic()
        if now - self.start >= self.window:
            self.start, self.used = now, 0
        self.used += 1
        if self.used <= self.rate:
            answer = said("ok")
            answer.before = 0.01
            return answer
        left = self.window - (now - self.start)
        return refused(429, "rate limit", retry_after_ms=str(int(left * 1000) + 1))


async def test_a_storm_of_429_passes() -> None:
    async with serve(Quota(10, 0.2)) as server:
        m = model(server, retry=Retry())
        replies = await asyncio.wait_for(
            asyncio.gather(*(m.invoke(ASK, Ctx()) for _ in range(50))),
            20,  # type: ignore[arg-type]
        )
        assert [r.message.text for r in replies] == ["ok"] * 50
        assert len(server.requests) < 150


async def test_a_provider_that_lets_nobody_in_fails_everyone_soon() -> None:
    async with serve([refused(429, "rate limit", retry_after_ms="10")]) as server:
        m = model(server, retry=Retry())
        results = await asyncio.wait_for(
            asyncio.gather(*(m.invoke(ASK, Ctx()) for _ in range(50)), return_exceptions=True),
            5,  # type: ignore[arg-type]
        )
        assert {type(r) for r in results} == {ModelHTTPError}
        assert len(server.requests) <= 150


def test_an_explicit_key_is_kept_as_a_secret() -> None:
    m = OpenAIModel("m", base_url="http://x", api_key=KEY)
    assert KEY not in repr(m)
    assert KEY not in repr(vars(m))
    assert OpenAIModel("m", base_url="http://x", api_key=Secret(KEY))
