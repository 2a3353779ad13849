"""HTTP to model providers: one client per event loop, retries, rate-limit gates, SSE.

The only file that imports httpx, and only once a request is made. Everything is retried in one
place and only until the response body starts: afterwards a token may have been seen.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import email.utils
import functools
import heapq
import itertools
import math
import os
import random
import ssl
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from mastra_nb.config import Secret, redact
from mastra_nb.errors import ModelError, ModelHTTPError, ModelTimeout

if TYPE_CHECKING:
    import httpx


_RETRIED = frozenset({408, 409, 429})
_FINAL = frozenset({400, 401, 403, 404, 422})
# Quotas that waiting does not refill, although they are reported as 429.
_EXHAUSTED = (b"insufficient_quota", b"billing_hard_limit", b"credit balance")
_MAX_ERROR_BODY = 65_536
_MAX_MESSAGE = 500


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """`retries` beyond the first attempt; delays in seconds double from `base` up to `cap`.

    A server that asks for more than `patience` seconds is not waited for. `sleep`, `clock`
    (seconds since the epoch) and `jitter` (0 to 1) are there to be replaced by tests.
    """

    retries: int = 2
    base: float = 0.5
    cap: float = 8.0
    patience: float = 60.0
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    clock: Callable[[], float] = time.time
    jitter: Callable[[], float] = random.random

    def backoff(self, failures: int) -> float:
        """Seconds before attempt `failures` + 1, a quarter of it random."""
        delay = min(self.cap, self.base * 2.0 ** (failures - 1))
        return delay * (1.0 - 0.25 * self.jitter())


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds: to connect, until the response starts, and between two pieces of its body."""

    connect: float = 5.0
    first: float = 120.0
    idle: float = 60.0


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A request. Header values that are secrets stay wrapped until they are sent.

    `label` names the service in messages, `base_url` is the address a user configured.
    """

    url: str
    label: str
    base_url: str = ""
    method: str = "POST"
    headers: Mapping[str, str | Secret] = {}
    body: bytes = b""


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """A retry that is about to happen, after `delay` seconds."""

    attempt: int
    delay: float
    reason: str


class ServerEvent(msgspec.Struct, frozen=True):
    """One event of a stream; several data lines are joined with a newline."""

    data: bytes
    event: str = ""


class SSEDecoder:
    """Server-sent events from bytes that may be split anywhere."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._data: list[bytes] = []
        self._event = ""
        self._started = False
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk[0] == 10:
                chunk = chunk[1:]
        if b"\n" not in chunk and b"\r" not in chunk:
            if chunk:
                self._pieces.append(chunk)
            return []
        if self._pieces:
            self._pieces.append(chunk)
            chunk = b"".join(self._pieces)
            self._pieces.clear()
        lines = chunk.splitlines()
        last = chunk[-1]
        if last == 13:
            self._after_cr = True
        elif last != 10:
            self._pieces.append(lines.pop())
        return self._take(lines)

    def close(self) -> list[ServerEvent]:
        """What is left when the stream ends without the blank line."""
        lines = [b"".join(self._pieces), b""] if self._pieces else [b""]
        self._pieces.clear()
        return self._take(lines)

    def _take(self, lines: list[bytes]) -> list[ServerEvent]:
        if not self._started and lines:
            self._started = True
            lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
        events: list[ServerEvent] = []
        data = self._data
        for line in lines:
            if line.startswith(b"data:"):
                data.append(line[6:] if line[5:6] == b" " else line[5:])
            elif not line:
                if data:
                    joined = data[0] if len(data) == 1 else b"\n".join(data)
                    events.append(ServerEvent(joined, self._event))
                    data.clear()
                self._event = ""
            elif line.startswith(b"event:"):
                self._event = line[6:].strip().decode("utf-8", "replace")
            elif line == b"data":
                data.append(b"")
        return events


class Gate:
    """What all requests of one provider and model pass on their way out.

    Open while nothing is wrong. Once the provider says 429 nobody passes until those it turned
    away have slept; then requests go out one by one in their first order, twice as many with
    every success, and one by one more from half of what was too much (as TCP does).
    """

    def __init__(self) -> None:
        self.successes = 0
        self._running = 0
        self._sleeping = 0
        self._limit = math.inf
        self._threshold = math.inf
        self._waiting: list[tuple[int, asyncio.Future[bool]]] = []
        self._tickets = itertools.count()

    def ticket(self) -> int:
        """A place in the queue; a request keeps its own through all its attempts."""
        return next(self._tickets)

    async def enter(self, ticket: int) -> bool:
        """Wait for a place; False says that the others have just given up."""
        if not self._sleeping and self._running < self._limit and not self._waiting:
            self._running += 1
            return True
        place: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (ticket, place))
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.result():
                self.leave()
            raise

    def leave(self) -> None:
        self._running -= 1
        self._admit()

    def succeeded(self) -> None:
        self.successes += 1
        if self._limit != math.inf:
            self._limit += 1.0 if self._limit < self._threshold else 1.0 / self._limit
            self._admit()

    async def back_off(self, sleep: Awaitable[object]) -> None:
        """Give the place back and hold everyone until `sleep` is over."""
        if not self._sleeping:
            self._threshold = max(1.0, min(self._running, self._limit) / 2)
        self._sleeping += 1
        self._running -= 1
        try:
            await sleep
        finally:
            self._sleeping -= 1
            if not self._sleeping:
                self._limit = self._running + 1.0
                self._admit()

    def give_up(self) -> None:
        """Wake all who wait: the provider has let nobody through."""
        waiting, self._waiting = self._waiting, []
        for _, place in waiting:
            if not place.done():
                place.set_result(False)

    def _admit(self) -> None:
        while self._waiting and not self._sleeping and self._running < self._limit:
            _, place = heapq.heappop(self._waiting)
            if not place.done():
                self._running += 1
                place.set_result(True)
        if not (self._waiting or self._sleeping or self._running):
            self._limit = math.inf


class Response:
    """A response whose status is fine; iterate it once for the bytes of its body."""

    def __init__(self, raw: httpx.Response, watch: asyncio.Timeout, idle: float) -> None:
        self.status = raw.status_code
        self.headers: Mapping[str, str] = raw.headers
        self._pieces = raw.aiter_bytes()
        self._watch = watch
        self._idle = idle
        self._time = asyncio.get_running_loop().time
        self._armed = 0.0
        self._arm()

    def _arm(self) -> None:
        # Moving a timer for every piece would cost more than reading it.
        now = self._time()
        if now - self._armed > self._idle / 20:
            self._armed = now
            self._watch.reschedule(now + self._idle)

    def hurry(self, seconds: float) -> None:
        """Wait no longer than this for each of the pieces that may still come."""
        self._idle = min(self._idle, seconds)
        self._armed = 0.0
        self._arm()

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def __aiter__(self) -> Response:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._pieces.__anext__()
        self._arm()
        return piece

    async def read(self) -> bytes:
        return b"".join([piece async for piece in self])


Hint = Callable[[int, str], str]


@contextlib.asynccontextmanager
async def stream(
    call: Call,
    *,
    retry: Retry | None = None,
    timeouts: Timeouts | None = None,
    gate: Gate | None = None,
    on_retry: Callable[[Notice], None] | None = None,
    hint: Hint | None = None,
) -> AsyncIterator[Response]:
    """Send `call` and give its response once it starts.

    `on_retry` is told before each retry and may refuse it by raising. `hint` is asked, with the
    status (0: not reached) and the server's message, for the line of an error that says what to
    do. Raises ModelHTTPError and ModelTimeout; leaving the block early or by cancellation closes
    the socket.
    """
    timeouts, gate = timeouts or Timeouts(), gate or Gate()
    raw = await _open(call, retry or Retry(), timeouts, gate, on_retry, hint or _no_hint)
    try:
        async with asyncio.timeout(None) as watch:
            response = Response(raw, watch, timeouts.idle)
            yield response
        await _drain(response)
    except TimeoutError:
        if not watch.expired():
            raise
        raise ModelTimeout(
            f'"{call.label}" sent nothing for {timeouts.idle:g} s',
            hint="what arrived is kept; try again, or allow a longer idle timeout",
            details={"base_url": call.base_url},
        ) from None
    except _transport_errors() as exc:
        raise ModelHTTPError(
            f'"{call.label}" broke off in the middle of its answer ({_reason(exc)})',
            code="model.truncated",
            hint="what arrived is kept; try again",
            details={"base_url": call.base_url},
        ) from None
    finally:
        gate.leave()
        await raw.aclose()


async def _drain(response: Response) -> None:
    """Read to the end, so that the next request can use this connection.

    A server that has said all it had to say but keeps the line open is not waited for, and how
    the connection ends no longer matters.
    """
    with contextlib.suppress(TimeoutError, StopAsyncIteration, *_transport_errors()):
        async with asyncio.timeout(0.1):
            while True:
                await response.__anext__()


async def _open(
    call: Call,
    retry: Retry,
    timeouts: Timeouts,
    gate: Gate,
    on_retry: Callable[[Notice], None] | None,
    hint: Hint,
) -> httpx.Response:
    """The response of the first attempt that is let in, holding a place at the gate."""
    ticket, failures, spared = gate.ticket(), 0, 0
    before = gate.successes
    last: ModelError | None = None
    for attempt in itertools.count(2):
        if not await gate.enter(ticket):
            if last is not None:
                raise last
            continue
        delay: float | None = None
        status = 0
        try:
            raw = await _send(call, timeouts)
        except BaseException as exc:
            if not isinstance(exc, _transport_errors()):
                gate.leave()
                raise
            last, delay = _unreached(call, exc, timeouts, hint), retry.backoff(failures + 1)
        else:
            if (status := raw.status_code) < 300:
                gate.succeeded()
                return raw
            try:
                last, delay = await _refused(call, raw, retry, failures + 1, hint)
            except BaseException:
                gate.leave()
                raise
        crowded = status == 429 or (status in (503, 529) and last.retry_after is not None)
        if crowded and gate.successes > before and spared < 20:
            # Others got through since the last time: there were too many at once, no more.
            spared += 1
        else:
            failures += 1
        before = gate.successes
        if delay is None or failures > retry.retries:
            gate.leave()
            if crowded and not gate.successes:
                gate.give_up()
            raise last
        if on_retry is not None:
            try:
                on_retry(Notice(attempt=attempt, delay=delay, reason=last.message))
            except BaseException:
                gate.leave()
                raise
        if crowded:
            await gate.back_off(retry.sleep(delay))
        else:
            gate.leave()
            await retry.sleep(delay)
    raise AssertionError("unreachable")


async def _send(call: Call, timeouts: Timeouts) -> httpx.Response:
    client = _client(call.url.startswith("https:"))
    request = client.build_request(
        call.method,
        call.url,
        headers={k: v.reveal() if isinstance(v, Secret) else v for k, v in call.headers.items()},
        content=call.body,
        timeout=_httpx_timeout(timeouts.connect),
    )
    try:
        async with asyncio.timeout(timeouts.first) as watch:
            return await client.send(request, stream=True)
    except TimeoutError:
        if not watch.expired():
            raise
        raise ModelTimeout(
            f'"{call.label}" did not start to answer within {timeouts.first:g} s',
            hint="try again, or allow a longer timeout for the first byte",
            details={"base_url": call.base_url},
        ) from None


async def _refused(
    call: Call, raw: httpx.Response, retry: Retry, failures: int, hint: Hint
) -> tuple[ModelHTTPError, float | None]:
    """The error of a response that is not a success, and the delay before the next attempt."""
    status, headers, body = raw.status_code, raw.headers, b""
    # The status alone is worth more than a failure to read its explanation.
    with contextlib.suppress(TimeoutError, *_transport_errors()):
        async with asyncio.timeout(5.0):
            async for piece in raw.aiter_bytes():
                body += piece
                if len(body) > _MAX_ERROR_BODY:
                    break
    await raw.aclose()
    said = redact(error_message(body))
    after = retry_after(headers, retry.clock)
    error = ModelHTTPError(
        f'"{call.label}" answered {status}' + (f": {said}" if said else f" {raw.reason_phrase}"),
        status=status,
        retry_after=after,
        hint=hint(status, said),
        details={"base_url": call.base_url},
    )
    asked = headers.get("x-should-retry", "").lower()
    again = asked == "true" or (asked != "false" and (status in _RETRIED or status >= 500))
    if not again or status in _FINAL or any(word in body for word in _EXHAUSTED):
        return error, None
    if after is None:
        return error, retry.backoff(failures)
    return error, after if after <= retry.patience else None


def _unreached(call: Call, exc: BaseException, timeouts: Timeouts, hint: Hint) -> ModelHTTPError:
    where = call.base_url or call.url
    return ModelHTTPError(
        f'cannot reach "{call.label}" at {where}: {_reason(exc, timeouts)}',
        code="model.unreachable",
        hint=hint(0, ""),
        details={"base_url": call.base_url},
    )


def _reason(exc: BaseException, timeouts: Timeouts | None = None) -> str:
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, TimeoutError) and timeouts:
            return f"no connection within {timeouts.connect:g} s"
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused"
        cause = cause.__cause__ or getattr(cause, "os_error", None)
    return redact(str(exc) or type(exc).__name__)[:_MAX_MESSAGE]


def _no_hint(status: int, said: str) -> str:
    return ""


def retry_after(headers: Mapping[str, str], clock: Callable[[], float] = time.time) -> float | None:
    """Seconds a server asks to wait: `retry-after-ms`, or `Retry-After` as a number or a date."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        try:
            seconds = float(value) * scale
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        when = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, when.timestamp() - clock())
    except (ValueError, OverflowError):
        return None


def error_message(body: bytes) -> str:
    """What an error body says, in any of the shapes in use, at most 500 characters."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = body.decode("utf-8", "replace").strip()
        if text[:200].lstrip().lower().startswith(("<!doctype", "<html", "<?xml", "<head")):
            return "a web page instead of JSON"
        return text[:_MAX_MESSAGE]
    return _said(value)[:_MAX_MESSAGE]


def _said(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "; ".join(filter(None, map(_said, value[:3])))
    if isinstance(value, dict):
        for key in ("error", "message", "detail", "msg", "errors", "error_description", "title"):
            if said := _said(value.get(key)):
                return said
    return ""


# --- clients -----------------------------------------------------------------------------------

_PROXY_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


class _Loop:
    """What the requests of one event loop share."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.clients: dict[tuple[bool, tuple[str, ...]], httpx.AsyncClient] = {}
        self.gates: dict[tuple[str, ...], Gate] = {}
        self._guard = self._watch(loop)
        with contextlib.suppress(StopIteration):
            # Its first step waits for nothing and registers it with the loop, which closes all
            # asynchronous generators before it ends: the one moment to close sockets in peace.
            self._guard.__anext__().send(None)

    async def _watch(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            _loops.pop(loop, None)
            await self.close()

    async def close(self) -> None:
        while self.clients:
            _, client = self.clients.popitem()
            await client.aclose()


_loops: dict[asyncio.AbstractEventLoop, _Loop] = {}
_inherited: list[_Loop] = []


def _after_fork() -> None:
    """Keep the parent's clients: to close their sockets would say goodbye in the parent's name."""
    global _lock
    _lock = threading.Lock()
    _inherited.extend(_loops.values())
    _loops.clear()


def _bury(loop: asyncio.AbstractEventLoop) -> None:
    """Close the clients of a loop that does not run any more."""
    closing = _loops.pop(loop).close()
    if not loop.is_closed():
        loop.run_until_complete(closing)
        return
    with contextlib.suppress(StopIteration):
        # On a closed loop there is no socket left to wait for: one step does it.
        closing.send(None)


def _at_exit() -> None:
    for loop in [loop for loop in _loops if not loop.is_running()]:
        _bury(loop)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)


def _state() -> _Loop:
    loop = asyncio.get_running_loop()
    state = _loops.get(loop)
    if state is None:
        for old in [old for old in _loops if old.is_closed()]:
            _bury(old)
        state = _loops[loop] = _Loop(loop)
    return state


def gate(*key: str) -> Gate:
    """The gate that requests of this loop with the same key share."""
    gates = _state().gates
    found = gates.get(key)
    if found is None:
        found = gates[key] = Gate()
    return found


def _client(tls: bool) -> httpx.AsyncClient:
    clients, environ = _state().clients, os.environ
    # A proxy set in a later cell counts from then on.
    proxies = tuple(environ.get(n) or environ.get(n.lower()) or "" for n in _PROXY_NAMES)
    found = clients.get((tls, proxies))
    if found is None:
        found = clients[(tls, proxies)] = _make_client(tls, proxies)
    return found


def _make_client(tls: bool, proxies: tuple[str, ...]) -> httpx.AsyncClient:
    import httpx

    direct = not any(proxies[:3])
    context = _tls_context() if tls or not direct else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    limits = httpx.Limits(
        max_connections=1000, max_keepalive_connections=1000, keepalive_expiry=30.0
    )
    # aiohttp speaks to HTTP proxies only.
    fast = not proxies[2] and all(not p or p.startswith("http://") for p in proxies[:2])
    if fast:
        try:
            import aiohttp
            from httpx_aiohttp import AiohttpTransport
        except ImportError:
            fast = False
    if not fast:
        return httpx.AsyncClient(verify=context, limits=limits, trust_env=not direct)
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=1000, ssl=context, keepalive_timeout=30.0),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=not direct,
    )
    transport = AiohttpTransport(verify=context, client=session)
    return httpx.AsyncClient(transport=transport, trust_env=False)


_lock = threading.Lock()
_context: ssl.SSLContext | None = None


def _tls_context() -> ssl.SSLContext:
    """Reading the certificates takes 20 ms: once for a process, by whichever thread is first."""
    global _context
    with _lock:
        if _context is None:
            import httpx

            _context = httpx.create_ssl_context()
        return _context


@functools.cache
def _transport_errors() -> tuple[type[BaseException], ...]:
    import httpx

    try:
        import aiohttp
    except ImportError:
        return (httpx.TransportError,)
    # Some of aiohttp's own escape the transport's translation.
    return (httpx.TransportError, aiohttp.ClientError)


@functools.cache
def _httpx_timeout(connect: float) -> httpx.Timeout:
    # Reading is watched by us: the time to the first byte and between bytes differ.
    import httpx

    return httpx.Timeout(None, connect=connect)
