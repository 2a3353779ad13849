"""Our transport against servers that answer in every way HTTP/1.1 knows."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import ssl
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path

import httpx
import pytest

from mastra_nb.errors import ConfigError
from mastra_nb.http import pool
from mastra_nb.http.client import Call, Retry, stream
from mastra_nb.http.direct import Direct, _place
from mastra_nb.http.transports import TransportError

Handler = Callable[[bytes, asyncio.StreamWriter], Awaitable[bool]]


class Peer:
    def __init__(self) -> None:
        self.url = ""
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.lost = asyncio.Event()


@contextlib.asynccontextmanager
async def peer(
    *answers: bytes,
    host: str = "127.0.0.1",
    close: bool = False,
    tls: ssl.SSLContext | None = None,
    name: str = "",
) -> AsyncIterator[Peer]:
    """Gives the n-th request the n-th answer, later ones the last; b"" hangs up."""
    found, tasks = Peer(), set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
                found.bodies.append(await reader.readexactly(size))
                found.heads.append(head)
                answer = answers[min(len(found.heads), len(answers)) - 1]
                if not answer:
                    return
                writer.write(answer)
                await writer.drain()
                if close:
                    return
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            found.lost.set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(handle(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, host, 0, ssl=tls, backlog=2000)
    port = server.sockets[0].getsockname()[1]
    shown = name or (f"[{host}]" if ":" in host else host)
    found.url = f"{'https' if tls else 'http'}://{shown}:{port}/v1"
    try:
        yield found
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def direct() -> AsyncIterator[Direct]:
    carrier = Direct(pool.tls_context)
    try:
        yield carrier
    finally:
        await carrier.aclose()
        await asyncio.sleep(0)


async def get(carrier: Direct, url: str, body: bytes = b"{}") -> bytes:
    return await asyncio.wait_for(_get(carrier, url, body), 5)


async def _get(carrier: Direct, url: str, body: bytes) -> bytes:
    answer = await carrier.send("POST", url, {"x-a": "b"}, body, connect=2)
    out = b""
    try:
        while piece := await answer.read():
            out += piece
    finally:
        await answer.aclose()
    return out


async def fetch(*answers: bytes, **options: bool) -> bytes:
    async with asyncio.timeout(5), peer(*answers, **options) as server, direct() as carrier:  # type: ignore[arg-type]
        return await get(carrier, server.url)


HEAD = b"HTTP/1.1 200 OK\r\n"
SIZED = HEAD + b"content-length: 5\r\n\r\nhello"
RAW = zlib.compressobj(wbits=-15)
BARE_DEFLATE = RAW.compress(b"hello") + RAW.flush()


def packed(coding: bytes, body: bytes) -> bytes:
    return HEAD + b"content-encoding: %b\r\ncontent-length: %d\r\n\r\n" % (coding, len(body)) + body


@pytest.mark.parametrize(
    "answer",
    [
        SIZED,
        HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\ntrailer: 1\r\n\r\n",
        b"HTTP/1.1 200\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\ncontent-length: 5\n\nhello",
        b"HTTP/1.1 100 Continue\r\nx: 1\r\n\r\n" + SIZED,
        packed(b"gzip", gzip.compress(b"hello", mtime=0)),
        packed(b"deflate", zlib.compress(b"hello")),
        packed(b"deflate", BARE_DEFLATE),
        packed(b"gzip", gzip.compress(b"hel", mtime=0) + gzip.compress(b"lo", mtime=0)),
        packed(b"identity", b"hello"),
    ],
)
async def test_bodies(answer: bytes) -> None:
    assert await fetch(answer) == b"hello"


@pytest.mark.parametrize(
    "answer",
    [HEAD + b"\r\nhello", b"HTTP/1.0 200 OK\r\n\r\nhello", b"HTTP/1.0 200 OK\n\nhello"],
)
async def test_bodies_that_end_with_the_connection(answer: bytes) -> None:
    assert await fetch(answer, close=True) == b"hello"


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"content-length: 9\r\n\r\nhello",
        HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        HEAD + b"content-encoding: gzip\r\n\r\n" + gzip.compress(b"hello" * 99, mtime=0)[:-9],
        packed(b"gzip", b"no gzip at all"),
        packed(b"br", b"hello"),
        HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"HTTP/9.9 200 OK\r\n\r\nhello",
        HEAD + b"x" * 70_000,
        b"",
    ],
)
async def test_what_is_broken_is_an_error(answer: bytes) -> None:
    with pytest.raises(TransportError):
        await fetch(answer, close=True)


async def test_a_small_answer_that_unpacks_to_a_giant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mastra_nb.http.direct.MAX_ANSWER", 10_000)
    with pytest.raises(TransportError, match="longer than"):
        await fetch(packed(b"gzip", gzip.compress(b"x" * 1_000_000)))


async def test_headers_have_lower_case_names_and_are_joined() -> None:
    head = b"HTTP/1.1 418 I'm a Teapot\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 0\r\n\r\n"
    async with peer(head) as server, direct() as carrier:
        answer = await carrier.send("POST", server.url, {}, b"", connect=2)
        assert (answer.status_code, answer.reason_phrase) == (418, "I'm a Teapot")
        assert answer.headers["x-a"] == "1, 2"
        assert answer.ended
        await answer.aclose()


async def test_a_request_is_what_a_server_expects() -> None:
    async with peer(SIZED) as server, direct() as carrier:
        await get(carrier, server.url.replace("//", "//me:p%40ss@") + "/a b/ü?x=1&y=ä", b"abc")
        head = server.heads[0].decode()
        assert head.startswith("POST /v1/a%20b/%C3%BC?x=1&y=%C3%A4 HTTP/1.1\r\n")
        assert f"\r\nhost: {server.url.split('/')[2]}\r\n" in head
        assert "\r\nauthorization: Basic bWU6cEBzcw==\r\n" in head
        assert server.bodies == [b"abc"]


@pytest.mark.parametrize("url", ["ftp://x/", "x", "http://", "http://h:99999/", "http://[::1/"])
async def test_what_is_no_address(url: str) -> None:
    async with direct() as carrier:
        with pytest.raises(ConfigError, match="address"):
            await get(carrier, url)


def test_hosts() -> None:
    assert _place("https://api.test/v1").origin == ("api.test", 443, True)
    assert "host: [::1]:11434" in _place("http://[::1]:11434/v1").line
    assert _place("http://bücher.test").origin[0] == "xn--bcher-kva.test"


@pytest.mark.parametrize("value", ["canary\n", "canary\r\nx-evil: 1", "canary\0", "canäry"])
async def test_a_header_that_cannot_be_sent_is_not_shown(value: str) -> None:
    async with peer(SIZED) as server, direct() as carrier:
        with pytest.raises(ConfigError, match='"authorization"') as caught:
            await carrier.send("POST", server.url, {"authorization": value}, b"", connect=2)
        assert value.strip()[:3] not in f"{caught.value!r} {caught.value.hint}"
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
        assert server.heads == []


async def test_ipv6() -> None:
    try:
        async with peer(SIZED, host="::1") as server, direct() as carrier:
            assert await get(carrier, server.url) == b"hello"
    except OSError as error:
        assert "assign" in str(error) or "family" in str(error)  # noqa: PT017 a machine without


async def test_a_name_with_a_dead_first_address_is_reached_by_its_second() -> None:
    async with peer(SIZED, name="localhost") as server, direct() as carrier:
        assert await get(carrier, server.url) == b"hello"


async def test_a_connection_is_used_again_whatever_its_framing() -> None:
    chunked = HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    answers = (SIZED, chunked, packed(b"gzip", gzip.compress(b"hello", mtime=0)))
    async with peer(*answers) as server, direct() as carrier:
        for _ in range(6):
            assert await get(carrier, server.url) == b"hello"
        assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"connection: close\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        SIZED + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        SIZED + b"surplus",
    ],
)
async def test_a_connection_that_cannot_be_trusted_is_not_used_again(answer: bytes) -> None:
    async with peer(answer) as server, direct() as carrier:
        for n in range(1, 4):
            assert await get(carrier, server.url) == b"hello"
            assert server.connections == n


async def test_an_answer_nobody_asked_for_is_not_taken_for_the_next() -> None:
    async with peer(SIZED) as server, direct() as carrier:
        await get(carrier, server.url)
        (connection,) = carrier._idle[_place(server.url).origin]
        connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
        assert await get(carrier, server.url) == b"hello"
        assert server.connections == 2


async def test_leaving_early_closes_the_connection() -> None:
    async with peer(HEAD + b"content-length: 9\r\n\r\nhello") as server, direct() as carrier:
        answer = await carrier.send("POST", server.url, {}, b"", connect=2)
        assert await answer.read() == b"hello"
        await answer.aclose()
        await asyncio.wait_for(server.lost.wait(), 1)
        assert not any(carrier._idle.values())
        assert carrier._slots._value == 1000


async def test_a_slow_reader_holds_the_server_back() -> None:
    size = 50_000_000
    big = HEAD + b"content-length: %d\r\n\r\n" % size + b"x" * size
    async with peer(big) as server, direct() as carrier:
        answer = await carrier.send("POST", server.url, {}, b"", connect=2)
        await asyncio.sleep(0.3)
        assert answer.connection._size < 3_000_000
        got = 0
        while piece := await answer.read():
            got += len(piece)
        assert got == size
        await answer.aclose()


async def test_idle_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mastra_nb.http.direct.KEEPALIVE", 0.2)
    async with peer(SIZED) as server, direct() as carrier:
        await get(carrier, server.url)
        await asyncio.wait_for(server.lost.wait(), 2)
        assert not any(carrier._idle.values())
        assert await get(carrier, server.url) == b"hello"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for "localhost", its own authority, with its key."""
    out = tmp_path / "cert.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
            "-keyout", str(tmp_path / "key.pem"), "-out", str(out),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    out.write_text(out.read_text() + (tmp_path / "key.pem").read_text())
    return out


async def test_tls(certificate: Path) -> None:
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(certificate)
    async with peer(SIZED, tls=theirs, name="localhost") as server:
        async with direct() as carrier:
            with pytest.raises(TransportError, match="CERTIFICATE_VERIFY_FAILED"):
                await get(carrier, server.url)
        ours = ssl.create_default_context(cafile=str(certificate))
        carrier = Direct(lambda: ours)
        for _ in range(3):
            assert await get(carrier, server.url) == b"hello"
        assert len(server.heads) == 3
        assert server.connections == 1
        with pytest.raises(TransportError, match="CERTIFICATE_VERIFY_FAILED"):
            await get(carrier, server.url.replace("localhost", "127.0.0.1"))
        await carrier.aclose()
        await asyncio.sleep(0.05)


async def body_of(url: str) -> bytes:
    async with stream(Call(url=url, label="x"), retry=Retry(retries=0)) as response:
        return await response.read()


async def test_a_transport_of_the_users_own_carries_everything() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text=f"{request.method} {request.url.host}")

    pool.use_transport(httpx.MockTransport(handler))
    try:
        assert await body_of("https://nowhere.test/v1") == b"POST nowhere.test"
    finally:
        pool.use_transport(None)
    async with peer(SIZED) as server:
        assert await body_of(server.url) == b"hello"


async def test_hosts_outside_the_proxy_go_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in pool._PROXY_NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,.intern.test")
    monkeypatch.setenv("no_proxy", "127.0.0.1,.intern.test")
    assert isinstance(pool.transport("http://127.0.0.1:1/v1"), Direct)
    assert isinstance(pool.transport("http://a.intern.test/v1"), Direct)
    assert not isinstance(pool.transport("http://elsewhere.test/v1"), Direct)


def test_the_first_request_loads_neither_httpx_nor_aiohttp() -> None:
    code = (
        "import sys, mastra_nb.http.direct\n"
        "assert not {'httpx', 'aiohttp', 'anyio'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(os.name == "nt", reason="uvloop is not there")
@pytest.mark.parametrize(
    "works",
    [
        test_a_request_is_what_a_server_expects,
        test_a_name_with_a_dead_first_address_is_reached_by_its_second,
        test_a_connection_is_used_again_whatever_its_framing,
        test_an_answer_nobody_asked_for_is_not_taken_for_the_next,
        test_leaving_early_closes_the_connection,
        test_a_slow_reader_holds_the_server_back,
    ],
)
def test_on_uvloop(works: Callable[[], Coroutine[None, None, None]]) -> None:
    """Which many servers bring, and uvicorn takes where it is."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(works())
