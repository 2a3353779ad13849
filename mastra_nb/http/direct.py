"""HTTP/1.1 on asyncio's own transports; llhttp (httptools), which is C, does the parsing.

A request costs a fifth of what httpx takes for it, and half of aiohttp: nothing is built that the
client above does not look at. Nothing is sent twice here: a request that may have been read is
for the caller to repeat, who counts it.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import ipaddress
import select
import ssl
import urllib.parse
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, cast

import httptools

from mastra_nb.errors import ConfigError
from mastra_nb.http.transports import (
    CONNECTIONS,
    KEEPALIVE,
    MAX_ANSWER,
    StaleConnection,
    TransportError,
)

_MAX_HEAD = 65_536
_HIGH_WATER = 1 << 20
_JUST_NOW = 0.25  # seconds
_PATH_SAFE = "/%:@!$&'()*+,;=~-._"


class _Place(NamedTuple):
    """Where a URL leads: connections to the same `origin` are interchangeable."""

    origin: tuple[str, int, bool]
    line: str
    authorization: str


@functools.lru_cache(maxsize=256)
def _place(url: str) -> _Place:
    """Raises ConfigError."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname or "", parts.port
        host = host if host.isascii() else host.encode("idna").decode()
    except ValueError as error:
        raise ConfigError(f'"{url}" is not an address: {error}') from None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(
            f'"{url}" is not an address of a server', hint="it starts with https:// or http://"
        )
    tls = parts.scheme == "https"
    usual = 443 if tls else 80
    shown = f"[{host}]" if ":" in host else host
    named = shown if port in (None, usual) else f"{shown}:{port}"
    path = urllib.parse.quote(parts.path or "/", safe=_PATH_SAFE)
    query = f"?{urllib.parse.quote(parts.query, safe=_PATH_SAFE + '?')}" if parts.query else ""
    login = ""
    if parts.username is not None:
        pair = urllib.parse.unquote(f"{parts.username}:{parts.password or ''}")
        login = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return _Place((host, port or usual, tls), f"{path}{query} HTTP/1.1\r\nhost: {named}", login)


def _encode(method: str, place: _Place, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"{method} {place.line}"]
    for name, value in headers.items():
        if "\n" in value or "\r" in value or not value.isprintable():
            # Never the value: it may be a key.
            raise ConfigError(
                f'the header "{name}" holds a line break or another control character',
                hint="remove it, often from the end of a key that was read from a file",
            )
        lines.append(f"{name}: {value}")
    if place.authorization and "authorization" not in headers:
        lines.append(f"authorization: {place.authorization}")
    lines.append(f"content-length: {len(body)}\r\n\r\n")
    head = "\r\n".join(lines)
    if not head.isascii():
        name = next((n for n, v in headers.items() if not v.isascii()), "host")
        raise ConfigError(
            f'the header "{name}" holds letters that are not ASCII', hint="is it the right key?"
        )
    return head.encode("ascii") + body


class _Connection(asyncio.Protocol):
    """One connection and the exchange it is in, if any."""

    def __init__(self, idle: list[_Connection]) -> None:
        self.idle_since = 0.0
        self.used = False
        self.answer: Answer | None = None
        self._idle = idle
        self._transport: asyncio.Transport | None = None
        self._pieces: list[bytes] = []
        # The parser calls this for each HTTP chunk: without a frame of Python.
        self.on_body: Callable[[bytes], None] = self._pieces.append
        self._size = 0
        self._head: list[tuple[bytes, bytes]] = []
        self._reason = b""
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._lost = False
        self._parser = httptools.HttpResponseParser(self)
        # What servers of small projects get wrong, and every browser takes.
        self._parser.set_dangerous_leniencies(
            lenient_optional_cr_before_lf=True,
            lenient_optional_lf_after_cr=True,
            lenient_spaces_after_chunk_size=True,
        )

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Of no class of asyncio's on uvloop.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        answer, transport = self.answer, self._transport
        assert transport is not None
        if answer is None or answer.ended:
            # Nobody asked: what follows on this line belongs to no request.
            self.close()
            return
        answer.touched = True
        self._size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            # Whatever follows a whole answer is no part of it.
            answer.reusable = False
            if not answer.ended:
                about = str(error) if isinstance(error, httptools.HttpParserError) else "upgrade"
                self._fail(TransportError(f"the answer is not HTTP: {about}"))
        if answer.error is None and not answer.status_code and self._size > _MAX_HEAD:
            self._fail(TransportError(f"its headers are longer than {_MAX_HEAD:,} bytes"))
        elif self._size > _HIGH_WATER and not (self._paused or answer.ended):
            if self._pieces:
                self._paused = True
                transport.pause_reading()
            elif answer.error is None:
                self._fail(TransportError("the answer is framing without a body"))
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        answer = self.answer
        if answer is None:
            if self in self._idle:
                self._idle.remove(self)
            return
        if answer.ended:
            return
        answer.reusable = False
        if answer.until_close and exc is None:
            answer.ended = True
        elif not answer.touched:
            kind = StaleConnection if self.used else TransportError
            answer.error = answer.error or kind("the connection was closed without an answer")
        else:
            said = f": {exc}" if exc is not None and str(exc) else ""
            answer.error = answer.error or TransportError(f"the connection was closed{said}")
        self._wake()

    # The parser's side

    def on_status(self, status: bytes) -> None:
        self._reason = status

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head.append((name, value))

    def on_headers_complete(self) -> None:
        answer = self.answer
        assert answer is not None
        status = self._parser.get_status_code()
        if status >= 200:
            headers: dict[str, str] = {}
            for raw_name, raw_value in self._head:
                name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
                headers[name] = f"{headers[name]}, {value}" if name in headers else value
            answer.start(status, self._reason.decode("latin-1"), headers)
        # Later ones are trailers, or belong to the answer after a "100 Continue".
        self._head = []

    def on_message_complete(self) -> None:
        answer = self.answer
        if answer is not None and answer.status_code:
            answer.ended = True
            answer.reusable = answer.reusable and self._parser.should_keep_alive()

    def on_message_begin(self) -> None:
        if self.answer is not None and self.answer.ended:
            raise TransportError("a second answer")

    # The client's side

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._lost and not self._transport.is_closing()

    def usable(self, now: float) -> bool:
        """Open, not idle for too long, and nothing arrived, which could only be its end.

        The loop knows of an end once it looks: not yet, in the first step after a cell that
        computed for minutes.
        """
        idle = now - self.idle_since
        if idle > KEEPALIVE or not self.open:
            return False
        return idle < _JUST_NOW or not _readable(self._transport)

    @property
    def quiet(self) -> bool:
        """All of the request is sent."""
        return self._transport is not None and not self._transport.get_write_buffer_size()

    def begin(self, answer: Answer, request: bytes) -> None:
        assert self._transport is not None
        self.answer = answer
        self.used = bool(self.idle_since)
        self._size = 0
        self._head.clear()
        self._pieces.clear()
        self._transport.write(request)

    def take(self) -> bytes:
        pieces = self._pieces
        if not pieces:
            return b""
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._size = 0
        if self._paused:
            self._paused = False
            if self.open and self._transport is not None:
                self._transport.resume_reading()
        return data

    async def wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail(self, error: TransportError) -> None:
        if self.answer is not None:
            self.answer.error = error
        self.close()
        self._wake()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Answer:
    """A response that has started."""

    def __init__(self, connection: _Connection, release: Callable[[Answer], None]) -> None:
        self.status_code = 0
        self.reason_phrase = ""
        self.headers: Mapping[str, str] = {}
        self.ended = False
        self.reusable = True
        self.touched = False
        self.until_close = False
        self.error: TransportError | None = None
        self.connection = connection
        self._release = release
        self._decoder: _Inflate | None = None
        self._closed = False

    def start(self, status: int, reason: str, headers: dict[str, str]) -> None:
        self.status_code, self.reason_phrase, self.headers = status, reason, headers
        if "content-length" not in headers and "transfer-encoding" not in headers:
            self.until_close = True
        coding = headers.get("content-encoding", "identity").strip().lower()
        if coding in ("gzip", "x-gzip", "deflate"):
            self._decoder = _Inflate()
        elif coding not in ("identity", ""):
            self.error = TransportError(f'the answer is packed as "{coding}", which was not asked')

    async def started(self) -> None:
        while not self.status_code:
            if self.error is not None:
                raise self.error
            await self.connection.wait()

    async def read(self) -> bytes:
        """The next bytes of the body, b"" after the last. Raises TransportError."""
        while True:
            data = self.connection.take()
            if data and self._decoder is not None:
                data = self._decoder.feed(data)
            if data:
                return data
            if self.error is not None:
                raise self.error
            if self.ended:
                if self._decoder is not None:
                    self._decoder.finish()
                return b""
            await self.connection.wait()

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._release(self)


class _Inflate:
    """gzip, of any number of members, and deflate with its header or, as some servers send it,
    without.
    """

    def __init__(self) -> None:
        self._how = zlib.decompressobj(zlib.MAX_WBITS | 32)
        # What came before a byte of the body: a missing header is noticed at its second byte.
        self._start: bytes | None = b""

    def feed(self, data: bytes) -> bytes:
        out = self._unpack(data)
        while self._how.eof and self._how.unused_data[:2] == b"\x1f\x8b":
            data = self._how.unused_data
            self._how = zlib.decompressobj(zlib.MAX_WBITS | 16)
            out += self._unpack(data)
            if len(out) > MAX_ANSWER:
                raise _too_long()
        return out

    def _unpack(self, data: bytes) -> bytes:
        try:
            out = self._how.decompress(data, MAX_ANSWER)
        except zlib.error as error:
            if self._start is None:
                raise TransportError(f"the answer is packed wrongly: {error}") from None
            self._how = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                out = self._how.decompress(self._start + data, MAX_ANSWER)
            except zlib.error:
                raise TransportError(f"the answer is packed wrongly: {error}") from None
            self._start = None
        if self._start is not None:
            self._start = None if out or len(self._start) > 2 else self._start + data
        if self._how.unconsumed_tail:
            raise _too_long()
        return out

    def finish(self) -> None:
        if self._start != b"" and not self._how.eof:
            raise TransportError("the connection was closed")


def _too_long() -> TransportError:
    return TransportError(f"the answer is longer than {MAX_ANSWER:,} bytes")


class Direct:
    """Connections to any number of servers, kept for the next request. For one event loop.

    `resolve` (host, port) gives the address to connect to in place of the name; the name is still
    what the certificate must be for.
    """

    def __init__(
        self,
        tls: Callable[[], ssl.SSLContext],
        *,
        resolve: Callable[[str, int], Awaitable[str]] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._tls = tls
        self._resolve = resolve
        self._all: set[_Connection] = set()
        self._idle: dict[tuple[str, int, bool], list[_Connection]] = {}
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._sweeper: asyncio.TimerHandle | None = None

    async def send(
        self, method: str, url: str, headers: dict[str, str], body: bytes, *, connect: float
    ) -> Answer:
        place = _place(url)
        request = _encode(method, place, headers, body)
        await self._slots.acquire()
        try:
            idle = self._idle.get(place.origin)
            if idle is None:
                idle = self._idle[place.origin] = []
            now = self._loop.time()
            while idle:
                connection = idle.pop()
                if connection.usable(now):
                    return await self._exchange(connection, request)
                connection.close()
                self._all.discard(connection)
            connection = await self._connect(place.origin, idle, connect)
            return await self._exchange(connection, request)
        except BaseException:
            self._slots.release()
            raise

    async def _exchange(self, connection: _Connection, request: bytes) -> Answer:
        answer = Answer(connection, self._released)
        connection.begin(answer, request)
        try:
            await answer.started()
        except BaseException:
            connection.close()
            self._all.discard(connection)
            raise
        return answer

    async def _connect(
        self, origin: tuple[str, int, bool], idle: list[_Connection], seconds: float
    ) -> _Connection:
        host, port, tls = origin
        if len(self._all) >= CONNECTIONS:
            self._sweep(all_of_them=True)
        try:
            async with asyncio.timeout(seconds) as watch:
                address = host if self._resolve is None else await self._resolve(host, port)
                more: dict[str, Any] = {}
                if isinstance(self._loop, asyncio.BaseEventLoop) and not _is_address(address):
                    # A host with a broken IPv6 address is reached by its other one. uvloop's
                    # connections know nothing of it.
                    more["happy_eyeballs_delay"] = 0.25
                _, connection = await self._loop.create_connection(
                    lambda: _Connection(idle),
                    address,
                    port,
                    ssl=self._tls() if tls else None,
                    server_hostname=host if tls else None,
                    **more,
                )
        except TimeoutError as error:
            if watch.expired():
                raise TransportError(f"no connection within {seconds:g} s") from error
            raise TransportError(str(error) or "no connection") from error
        except (OSError, UnicodeError) as error:
            raise TransportError(str(error) or type(error).__name__) from error
        self._all.add(connection)
        return connection

    def _released(self, answer: Answer) -> None:
        self._slots.release()
        connection = answer.connection
        connection.answer = None
        if (
            answer.ended
            and answer.reusable
            and answer.error is None
            and connection.open
            and connection.quiet
        ):
            connection.idle_since = self._loop.time()
            connection._idle.append(connection)
            if self._sweeper is None:
                self._sweeper = self._loop.call_later(KEEPALIVE, self._sweep)
        else:
            connection.close()
            self._all.discard(connection)

    def _sweep(self, *, all_of_them: bool = False) -> None:
        """Close what was not used for a while, and forget what is closed."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        oldest = self._loop.time() - (0.0 if all_of_them else KEEPALIVE - 0.1)
        for idle in self._idle.values():
            for connection in [c for c in idle if c.idle_since <= oldest or not c.open]:
                connection.close()
                idle.remove(connection)
        self._all = {c for c in self._all if c.open}
        if any(self._idle.values()):
            self._sweeper = self._loop.call_later(KEEPALIVE, self._sweep)

    async def aclose(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in self._all:
            connection.close()
        self._all.clear()
        self._idle.clear()


def _readable(transport: asyncio.Transport | None) -> bool:
    found = transport.get_extra_info("socket") if transport is not None else None
    if found is None:
        return False
    if not hasattr(select, "poll"):
        return bool(select.select([found], [], [], 0)[0])
    watch = select.poll()
    watch.register(found, select.POLLIN)
    return bool(watch.poll(0))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
