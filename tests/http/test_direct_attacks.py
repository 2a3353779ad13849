"""Our transport under attack: nothing hangs, nothing leaks, nothing is sent twice unseen."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import resource
import socket
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mastra_nb.errors import ModelHTTPError
from mastra_nb.http.client import Call, Notice, Retry, Timeouts, stream
from mastra_nb.http.direct import Answer, _Connection
from mastra_nb.http.transports import CONNECTIONS, StaleConnection, TransportError
from tests.http.test_direct import BARE_DEFLATE, HEAD, SIZED, direct, get, packed, peer

CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
GZIPPED = gzip.compress(b"hel", mtime=0) + gzip.compress(b"lo", mtime=0)
ANSWERS = [
    SIZED,
    CHUNKED + b"2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nx-trailer: 1\r\n\r\n",
    HEAD + b"\r\nhello",
    b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED,
    packed(b"gzip", GZIPPED),
    packed(b"deflate", BARE_DEFLATE),
    SIZED + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
    CHUNKED + b"5\r\nhello\r\nzz\r\n",
    HEAD + b"content-length: 9\r\n\r\nhello",
    b"HTTP/1.1 101 X\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n\x81\x05hello",
]
Outcome = tuple[int, dict[str, str], bytes, str]


class Line(asyncio.Transport):
    """asyncio's side of a connection, without a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None:
        self.closed = True


def received(pieces: list[bytes]) -> Outcome:
    """What a client sees that reads as the pieces come, and then the line is closed."""
    connection, line = _Connection([]), Line()
    connection.connection_made(line)
    answer = Answer(connection, lambda _: None)
    connection.begin(answer, b"")
    body, error = b"", ""

    def read() -> None:
        nonlocal body, error
        try:
            if answer.status_code and (data := connection.take()):
                body += data if answer._decoder is None else answer._decoder.feed(data)
        except TransportError as raised:
            error = error or str(raised)

    for piece in pieces:
        if not line.closed:
            connection.data_received(piece)
            assert line.reading
            read()
    connection.connection_lost(None)
    read()
    assert answer.ended or answer.error is not None
    error = error or ("" if answer.error is None else "error")
    return answer.status_code, dict(answer.headers), body, error


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({c % (len(data) + 1) for c in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(at)]


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_same_answer_byte_by_byte(answer: bytes) -> None:
    whole = received([answer])
    assert received([bytes([b]) for b in answer]) == whole
    assert whole[2] in (b"hello", b"")


@given(st.sampled_from(ANSWERS), st.lists(st.integers(0, 999), max_size=6))
def test_the_same_answer_wherever_it_is_split(answer: bytes, cuts: list[int]) -> None:
    assert received(split(answer, cuts)) == received([answer])


@given(
    st.sampled_from(ANSWERS),
    st.lists(st.tuples(st.integers(0, 999), st.binary(max_size=9)), min_size=1, max_size=4),
    st.lists(st.integers(0, 999), max_size=4),
)
@example(b"", [(0, b"\0\0\0")], [])
@settings(max_examples=400)
def test_garbage_ends_in_an_answer_or_an_error(
    answer: bytes, blows: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    for place, blow in blows:
        at = place % (len(answer) + 1)
        answer = answer[:at] + blow + answer[at + len(blow) // 2 :]
    received(split(answer, cuts))


@pytest.mark.parametrize(
    "flood",
    [
        CHUNKED + b"0\r\n" + b"x-trailer: y\r\n" * 200_000,
        CHUNKED + b"1;" + b"x" * 2_000_000,
        HEAD + b"x: y\r\n" * 20_000,
        b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" * 20_000,
    ],
)
async def test_framing_without_end(flood: bytes) -> None:
    async with peer(flood) as server, direct() as carrier:
        with pytest.raises(TransportError, match="framing|headers|not HTTP"):
            await get(carrier, server.url)
        assert carrier._slots._value == CONNECTIONS
        assert not carrier._all


# Nothing is sent twice unseen


async def ask(url: str, retries: int = 2) -> tuple[bytes, list[Notice]]:
    notices: list[Notice] = []
    call = Call(url=url, label="x", body=b"{}")
    async with stream(call, retry=Retry(retries=retries), on_retry=notices.append) as response:
        return await response.read(), notices


async def test_a_request_that_may_have_been_read_is_repeated_by_the_one_who_counts() -> None:
    async with peer(SIZED, b"", SIZED) as server:
        await ask(server.url)
        body, notices = await ask(server.url)
        assert body == b"hello"
        assert [(n.attempt, n.delay) for n in notices] == [(2, 0.0)]
        assert (server.connections, len(server.heads)) == (2, 3)


async def test_a_request_that_may_have_been_read_is_not_repeated_by_the_transport() -> None:
    async with peer(SIZED, b"", SIZED) as server, direct() as carrier:
        await get(carrier, server.url)
        with pytest.raises(StaleConnection):
            await get(carrier, server.url)
        assert (server.connections, len(server.heads)) == (1, 2)
    async with peer(SIZED, b"", SIZED) as server:
        await ask(server.url, retries=0)
        with pytest.raises(ModelHTTPError, match="closed without an answer"):
            await ask(server.url, retries=0)
        assert len(server.heads) == 2


async def test_a_new_connection_that_is_closed_is_no_stale_one() -> None:
    async with peer(b"") as server, direct() as carrier:
        with pytest.raises(TransportError) as caught:
            await get(carrier, server.url)
        assert not isinstance(caught.value, StaleConnection)


async def test_an_end_the_loop_has_not_seen_yet_costs_no_request() -> None:
    """A cell that computes for minutes keeps the loop from noticing that a server hung up."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    requests: list[bytes] = []
    hang_up, hung_up = threading.Event(), threading.Event()

    def serve() -> None:
        for _ in range(2):
            line, _ = listener.accept()
            with line:
                requests.append(line.recv(65_536))
                line.sendall(SIZED)
                hang_up.wait(5)
            hung_up.set()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        async with direct() as carrier:
            assert await get(carrier, url) == b"hello"
            (idle,) = carrier._idle.values()
            idle[0].idle_since -= 1
            hang_up.set()
            assert hung_up.wait(5)
            # The first step of a request, before the loop looks at its sockets again.
            assert await carrier_body(carrier, url) == b"hello"
            assert len(requests) == 2
    finally:
        thread.join(5)
        listener.close()


async def carrier_body(carrier: Any, url: str) -> bytes:
    answer = await carrier.send("POST", url, {}, b"{}", connect=10)
    body: bytes = await answer.read()
    await answer.aclose()
    return body


async def test_connections_that_were_idle_for_too_long_are_not_trusted() -> None:
    async with peer(SIZED) as server, direct() as carrier:
        await get(carrier, server.url)
        for idle in carrier._idle.values():
            idle[0].idle_since -= 60
        await get(carrier, server.url)
        assert server.connections == 2


async def test_a_server_that_hangs_up_while_it_is_told() -> None:
    """It has read the head only: the answer arrives, or an error."""
    refusal = b"HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno"

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(refusal)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with direct() as carrier:
        for _ in range(10):
            with contextlib.suppress(TransportError):
                assert await get(carrier, url, b"x" * 20_000_000) == b"no"
            assert not any(carrier._idle.values())
        assert carrier._slots._value == CONNECTIONS
    server.close()


# Reaching


@contextlib.asynccontextmanager
async def busy() -> AsyncIterator[str]:
    """An address at which nobody ever answers: a listener whose queue is full."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    queued = []
    try:
        for _ in range(8):
            waiting = socket.socket()
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
            queued.append(waiting)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        for each in [*queued, listener]:
            each.close()


async def test_connecting_has_its_own_limit() -> None:
    async with busy() as url, direct() as carrier:
        started = time.perf_counter()
        with pytest.raises(TransportError, match=r"no connection within 0\.2 s"):
            await carrier.send("POST", url, {}, b"", connect=0.2)
        assert 0.15 < time.perf_counter() - started < 5
        assert carrier._slots._value == CONNECTIONS


@pytest.mark.parametrize("transport", ["direct", "httpx"])
async def test_a_server_that_lets_nobody_in(
    transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if transport == "httpx":
        monkeypatch.setitem(sys.modules, "mastra_nb.http.direct", None)
    async with busy() as url:
        timeouts, notices = Timeouts(connect=0.2, first=60), list[Notice]()
        retry = Retry(base=0.0)
        with pytest.raises(ModelHTTPError, match=r"no connection within 0\.2 s") as caught:
            async with stream(
                Call(url=url, label="x"), timeouts=timeouts, retry=retry, on_retry=notices.append
            ):
                pass
        assert (caught.value.code, len(notices)) == ("model.unreachable", 2)


# Stopping


@pytest.mark.parametrize("steps", range(0, 40, 3))
async def test_cancelled_at_any_step(steps: int) -> None:
    slow = CHUNKED + b"5\r\nhello\r\n"
    async with peer(slow) as server, direct() as carrier:
        task = asyncio.create_task(get(carrier, server.url))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert carrier._slots._value == CONNECTIONS
        assert not [c for c in carrier._all if c.open]
        if server.connections:
            await asyncio.wait_for(server.lost.wait(), 1)


@pytest.mark.parametrize("status", [b"429", b"500"])
async def test_cancelled_while_a_refusal_is_read(status: bytes) -> None:
    async with peer(b"HTTP/1.1 " + status + b" X\r\ncontent-length: 9\r\n\r\n{") as server:
        task = asyncio.create_task(ask(server.url))
        while not server.heads:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.lost.wait(), 1)


# Many


async def test_a_thousand_at_once() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 3000:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    async with peer(SIZED) as server, direct() as carrier:
        async with asyncio.timeout(30):
            got = await asyncio.gather(
                *(carrier_body(carrier, server.url) for _ in range(CONNECTIONS + 200))
            )
        assert got == [b"hello"] * (CONNECTIONS + 200)
        assert server.connections <= CONNECTIONS
        assert carrier._slots._value == CONNECTIONS


async def test_many_loops_in_many_threads() -> None:
    failures: list[BaseException] = []

    async def several(url: str) -> None:
        for _ in range(5):
            results = await asyncio.gather(*(ask(url) for _ in range(4)))
            assert [body for body, _ in results] == [b"hello"] * 4

    def thread(url: str) -> None:
        try:
            asyncio.run(several(url))
        except BaseException as error:
            failures.append(error)

    async with peer(SIZED) as server:
        threads = [threading.Thread(target=thread, args=(server.url,)) for _ in range(8)]
        for each in threads:
            each.start()
        await asyncio.to_thread(lambda: [each.join(30) for each in threads])
        assert not failures
        assert len(server.heads) == 8 * 5 * 4


async def test_a_fork_does_not_share_connections() -> None:
    code = """
        import asyncio, os, sys
        from mastra_nb.http.client import Call, stream

        async def ask():
            async with stream(Call(url=sys.argv[1], label="x", body=b"{}")) as response:
                return await response.read()

        async def main():
            assert await ask() == b"hello"
            child = os.fork()
            if not child:
                asyncio.set_event_loop(None)
                try:
                    os._exit(0 if asyncio.run(ask()) == b"hello" else 1)
                except BaseException as error:
                    print(repr(error), file=sys.stderr)
                    os._exit(2)
            while (done := os.waitpid(child, os.WNOHANG))[0] == 0:
                await asyncio.sleep(0.01)
            assert done[1] == 0, done
            assert await ask() == b"hello"

        asyncio.run(main())
    """
    async with peer(SIZED) as server:
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", textwrap.dedent(code), server.url],
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        # The parent's own connection was still good.
        assert (server.connections, len(server.heads)) == (2, 3)


async def test_memory_stays_flat() -> None:
    total, piece = 100_000_000, b"x" * 65_536

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"content-length: %d\r\n\r\n" % total)
        left = total
        while left:
            writer.write(piece[:left])
            left -= min(left, len(piece))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with direct() as carrier:
        answer = await carrier.send("GET", url, {}, b"", connect=2)
        tracemalloc.start()
        got = 0
        while data := await answer.read():
            got += len(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        await answer.aclose()
    server.close()
    assert got == total
    assert peak < 8_000_000
