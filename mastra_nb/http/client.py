"""HTTP to model providers: one request, its retries and what can go wrong.

This package alone imports HTTP libraries, and only once a request is made. Everything is retried
in one place and only until the response body starts: afterwards a token may have been seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import email.utils
import itertools
import math
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import msgspec

from mastra_nb.config import Secret, redact
from mastra_nb.errors import ModelError, ModelHTTPError, ModelOutputError, ModelTimeout
from mastra_nb.http.gate import Gate, Rate
from mastra_nb.http.pool import transport
from mastra_nb.http.transports import MAX_ANSWER, Raw, StaleConnection, transport_errors

_RETRIED = frozenset({408, 409, 429})
_FINAL = frozenset({400, 401, 403, 404, 422})
# Quotas that waiting does not refill, although they are reported as 429.
_EXHAUSTED = (b"insufficient_quota", b"billing_hard_limit", b"credit balance")
# How Google says it, in the body.
_RETRY_DELAY = re.compile(rb'"retryDelay":\s*"(\d+(?:\.\d+)?)s"')
BYTES_A_TOKEN = 4
_MAX_ERROR_BODY = 65_536
_MAX_MESSAGE = 500
_PATIENCE = 10.0
_LONGEST = 1800.0
# How services name a request to their support, the most telling first.
_REQUEST_IDS = (
    "request-id", "x-request-id", "apim-request-id", "x-ms-request-id", "x-amzn-requestid",
    "x-goog-request-id", "x-cloud-trace-context", "cf-ray",
)  # fmt: skip
_ID = re.compile(r"[\w.:;/=+@-]{1,200}", re.ASCII)


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
    """Seconds: to connect, until the response starts, and between two pieces of its body.

    A service that shows it is alive but says nothing (pings, comments, a queue) is given ten
    times `idle`, half an hour at most.
    """

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


class Response:
    """A response whose status is fine; iterate it once for the bytes of its body."""

    def __init__(self, raw: Raw, watch: asyncio.Timeout, idle: float) -> None:
        self.status = raw.status_code
        self.headers: Mapping[str, str] = raw.headers
        self._next = raw.read
        self._size = 0
        self._watch = watch
        self._idle = idle
        self._patience = max(idle, min(_PATIENCE * idle, _LONGEST))
        self._time = asyncio.get_running_loop().time
        self._heard = self._time()
        self._armed = 0.0
        self._arm()

    def _arm(self) -> None:
        # Moving a timer for every piece would cost more than reading it.
        now = self._now = self._time()
        if now - self._armed > self._idle / 20:
            self._armed = now
            self._watch.reschedule(min(now + self._idle, self._heard + self._patience))

    def heard(self) -> None:
        """The last piece said something."""
        self._heard = self._now

    def hurry(self, seconds: float) -> None:
        """Wait no longer than this for what may still come."""
        self._idle, self._patience = min(self._idle, seconds), min(self._patience, seconds)
        self._heard = self._time()
        self._armed = 0.0
        self._arm()

    @property
    def silence(self) -> str:
        """What there was none of for too long."""
        if self._time() - self._heard >= self._patience > self._idle:
            return f"only signs of life for {self._patience:g} s"
        return f"nothing for {self._idle:g} s"

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def __aiter__(self) -> Response:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._next()
        if not piece:
            raise StopAsyncIteration
        self._arm()
        self._size += len(piece)
        if self._size > MAX_ANSWER:
            raise ModelOutputError(
                f"an answer is longer than {MAX_ANSWER:,} bytes",
                hint="check that the base URL is the address of a model",
            )
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
    rate: Rate | None = None,
    on_retry: Callable[[Notice], None] | None = None,
    hint: Hint | None = None,
) -> AsyncIterator[Response]:
    """Send `call` and give its response once it starts.

    `on_retry` is told before each retry and may refuse it by raising. `hint` is asked for the
    line of an error that says what to do, with the status (0: not reached) and what the server
    said or why it was not reached. Raises ModelHTTPError and ModelTimeout; leaving the block
    early or by cancellation closes the socket.
    """
    timeouts, gate = timeouts or Timeouts(), gate or Gate()
    raw = await _open(call, retry or Retry(), timeouts, gate, rate, on_retry, hint or _no_hint)
    try:
        async with asyncio.timeout(None) as watch:
            response = Response(raw, watch, timeouts.idle)
            yield response
        if not raw.ended:
            await _drain(raw)
    except ModelError as error:
        error.details = {**_named(raw.headers), **error.details}
        raise
    except TimeoutError:
        if not watch.expired():
            raise
        raise ModelTimeout(
            f'"{call.label}" sent {response.silence}',
            hint="what arrived is kept; try again, or allow a longer idle timeout",
            details={"base_url": call.base_url, **_named(raw.headers)},
        ) from None
    except transport_errors() as exc:
        raise ModelHTTPError(
            f'"{call.label}" broke off in the middle of its answer ({_reason(exc)})',
            code="model.truncated",
            hint="what arrived is kept; try again",
            details={"base_url": call.base_url, **_named(raw.headers)},
        ) from None
    finally:
        gate.leave()
        await raw.aclose()


async def _drain(raw: Raw) -> None:
    """Read to the end, so that the next request can use this connection.

    A server that has said all it had to say but keeps the line open is not waited for, and how
    the connection ends no longer matters.
    """
    with contextlib.suppress(TimeoutError, *transport_errors()):
        async with asyncio.timeout(0.1):
            while await raw.read():
                pass


async def _open(
    call: Call,
    retry: Retry,
    timeouts: Timeouts,
    gate: Gate,
    rate: Rate | None,
    on_retry: Callable[[Notice], None] | None,
    hint: Hint,
) -> Raw:
    """The response of the first attempt that is let in, holding a place at the gate."""
    ticket, failures, spared = gate.ticket(), 0, 0
    before = gate.successes
    last: ModelError | None = None
    entered = await gate.enter(ticket)
    for attempt in itertools.count(2):
        if not entered:
            if last is not None:
                raise last
            entered = await gate.enter(ticket)
            continue
        delay: float | None = None
        status = 0
        try:
            if rate is not None:
                await rate.wait(len(call.body) // BYTES_A_TOKEN)
            raw = await _send(call, timeouts)
        except BaseException as exc:
            if not isinstance(exc, transport_errors()):
                gate.leave()
                raise
            last = _unreached(call, exc, timeouts, hint)
            # A new connection is no burden to a server that closed an old one.
            stale = isinstance(exc, StaleConnection) and not failures
            delay = 0.0 if stale else retry.backoff(failures + 1)
        else:
            if (status := raw.status_code) < 300:
                gate.succeeded()
                if (pause := quota_pause(raw.headers, retry.clock)) is not None:
                    gate.pause(min(pause, retry.patience))
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
            entered = await gate.back_off(ticket, retry.sleep(delay))
        else:
            gate.leave()
            await retry.sleep(delay)
            entered = await gate.enter(ticket)
    raise AssertionError("unreachable")


async def _send(call: Call, timeouts: Timeouts) -> Raw:
    headers = {"user-agent": "mastra-nb", "accept-encoding": "gzip, deflate"}
    headers |= {k: v.reveal() if isinstance(v, Secret) else v for k, v in call.headers.items()}
    carrier = transport(call.url)
    try:
        async with asyncio.timeout(timeouts.first) as watch:
            # Reading is watched by us: the time to the first byte and between bytes differ.
            return await carrier.send(
                call.method, call.url, headers, call.body, connect=timeouts.connect
            )
    except TimeoutError:
        if not watch.expired():
            raise
        raise ModelTimeout(
            f'"{call.label}" did not start to answer within {timeouts.first:g} s',
            hint="try again, or allow a longer timeout for the first byte",
            details={"base_url": call.base_url},
        ) from None


async def _refused(
    call: Call, raw: Raw, retry: Retry, failures: int, hint: Hint
) -> tuple[ModelHTTPError, float | None]:
    """The error of a response that is not a success, and the delay before the next attempt."""
    status, headers, body = raw.status_code, raw.headers, b""
    # The status alone is worth more than a failure to read its explanation.
    try:
        with contextlib.suppress(TimeoutError, *transport_errors()):
            async with asyncio.timeout(5.0):
                while len(body) <= _MAX_ERROR_BODY and (piece := await raw.read()):
                    body += piece
    finally:
        await raw.aclose()
    said = redact(error_message(body))
    after = retry_after(headers, retry.clock)
    if after is None and status == 429:
        after = quota_pause(headers, retry.clock)
        if after is None and (told := _RETRY_DELAY.search(body)):
            after = float(told[1])
    error = ModelHTTPError(
        f'"{call.label}" answered {status}' + (f": {said}" if said else f" {raw.reason_phrase}"),
        status=status,
        retry_after=after,
        hint=hint(status, said),
        details={"base_url": call.base_url, **_named(headers, body)},
    )
    asked = headers.get("x-should-retry", "").lower()
    again = asked == "true" or (asked != "false" and (status in _RETRIED or status >= 500))
    if not again or status in _FINAL or any(word in body for word in _EXHAUSTED):
        return error, None
    if after is None:
        return error, retry.backoff(failures)
    return error, after if after <= retry.patience else None


def _unreached(call: Call, exc: BaseException, timeouts: Timeouts, hint: Hint) -> ModelHTTPError:
    reason = _reason(exc, timeouts)
    return ModelHTTPError(
        f'cannot reach "{call.label}" at {call.base_url or call.url}: {reason}',
        code="model.unreachable",
        hint=hint(0, reason),
        details={"base_url": call.base_url},
    )


def _reason(exc: BaseException, timeouts: Timeouts | None = None) -> str:
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, TimeoutError) and timeouts:
            return f"no connection within {timeouts.connect:g} s"
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused"
        cause = cause.__cause__ or cause.__context__
    return redact(str(exc) or type(exc).__name__)[:_MAX_MESSAGE]


def _named(headers: Mapping[str, str], body: bytes = b"") -> dict[str, str]:
    """The service's own name for the request, if it gave one."""
    found = [headers.get(name, "") for name in _REQUEST_IDS]
    if b'"request_id"' in body:
        try:
            value = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            value = None
        found.append(str(value.get("request_id") or "") if isinstance(value, dict) else "")
    # Whoever answers here is not to be trusted with what is shown.
    id = next((redact(id) for id in found if _ID.fullmatch(id)), "")
    return {"request_id": id} if id else {}


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


# The remainder of an account's quota, and when it is full again.
_QUOTAS = tuple(
    names
    for what in ("requests", "tokens")
    for names in (
        (f"x-ratelimit-remaining-{what}", f"x-ratelimit-reset-{what}"),
        (f"anthropic-ratelimit-{what}-remaining", f"anthropic-ratelimit-{what}-reset"),
    )
)
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")


def quota_pause(headers: Mapping[str, str], clock: Callable[[], float] = time.time) -> float | None:
    """Seconds until the next request has a chance, if this response used up the quota."""
    waits = [
        _until(headers.get(reset, ""), clock) for left, reset in _QUOTAS if headers.get(left) == "0"
    ]
    return max((wait for wait in waits if wait is not None), default=None)


def _until(text: str, clock: Callable[[], float]) -> float | None:
    """Seconds in "6m0s" or "120ms", or up to a date such as "2026-01-01T00:00:00Z"."""
    if text and (found := _DURATION.fullmatch(text)):
        hours, minutes, seconds, thousandths = (float(g or 0) for g in found.groups())
        return hours * 3600 + minutes * 60 + seconds + thousandths / 1000
    try:
        when = dt.datetime.fromisoformat(text)
        return max(0.0, when.timestamp() - clock())
    except (ValueError, OverflowError):
        return None


def error_message(body: bytes) -> str:
    """What an error body says, in any of the shapes in use, at most 500 characters."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
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
