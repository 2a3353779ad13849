"""A loopback model server that misbehaves on command.

A script is a list of `Answer`s; request n gets the n-th, later ones the last. A scenario may be
a function of the number of the request instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    """`pieces` are sent one by one with `pause` seconds between; `end` "cut" resets the line,
    "stall" sends nothing more and keeps it open, "close" ends cleanly. `raw` stands for all of
    the response; it is sent byte by byte if there is a `pause`, and "close" closes the line."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)
    pause: float = 0.0
    before: float = 0.0
    end: str = "close"
    raw: bytes | None = None


def sse(*chunks: Any, done: bool = True) -> list[bytes]:
    pieces = [b"data: " + json.dumps(c).encode() + b"\n\n" for c in chunks]
    return [*pieces, b"data: [DONE]\n\n"] if done else pieces


def chunk(text: str | None = None, finish: str | None = None, **extra: Any) -> dict[str, Any]:
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c1", "model": "m", "choices": [choice], **extra}


def said(*texts: str) -> Answer:
    usage = {"prompt_tokens": 3, "completion_tokens": len(texts)}
    last = {"id": "c1", "model": "m", "choices": [], "usage": usage}
    chunks = [chunk(t) for t in texts]
    return Answer(
        headers={"content-type": "text/event-stream"},
        pieces=sse(*chunks, chunk(finish="stop"), last),
    )


def refused(status: int, message: str = "no", **headers: str) -> Answer:
    body = json.dumps({"error": {"message": message}}).encode()
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    return Answer(status, {"content-type": "application/json", **named}, [body])


Script = list[Answer] | Callable[[int], Answer]


class Server:
    def __init__(self, script: Script) -> None:
        self.script = script
        self.url = ""
        self.requests: list[tuple[dict[str, str], Any]] = []
        self.paths: list[str] = []
        self.connections = 0
        self.running = 0
        self.most = 0
        self.gone = asyncio.Event()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self.one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self.gone.set()

    async def one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:]) if k}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        number = len(self.requests)
        self.paths.append(head[0].split(" ")[1])
        self.requests.append((headers, json.loads(body) if body else None))
        script = self.script
        answer = script(number) if callable(script) else script[min(number, len(script) - 1)]
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            return await self.answer(answer, reader, writer)
        finally:
            self.running -= 1

    async def answer(
        self, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        if answer.before:
            await self.wait(answer.before, reader)
        if answer.raw is not None:
            for piece in map(int.to_bytes, answer.raw) if answer.pause else (answer.raw,):
                writer.write(piece)
                await writer.drain()
                await self.wait(answer.pause, reader)
            return await self.finish(answer, reader, writer)
        lines = [f"HTTP/1.1 {answer.status} X", "transfer-encoding: chunked"]
        lines += [f"{k}: {v}" for k, v in answer.headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        for piece in answer.pieces:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            if answer.pause:
                await writer.drain()
                await self.wait(answer.pause, reader)
        if answer.end == "close":
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        await self.finish(answer, reader, writer)
        return answer.end != "cut"

    async def finish(
        self, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """What becomes of the line; False: this was its last answer."""
        if answer.end == "stall":
            await self.wait(3600, reader)
        elif answer.end == "cut":
            # A reset takes with it what the other side has not read yet.
            await asyncio.sleep(0.02)
            writer.transport.abort()
        return False

    async def wait(self, seconds: float, reader: asyncio.StreamReader) -> None:
        """Sleep, and notice at once when the other side goes away."""
        if not seconds:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                if await reader.read(1) == b"":
                    raise ConnectionResetError


@contextlib.asynccontextmanager
async def serve(script: Script) -> AsyncIterator[Server]:
    server = Server(script)
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await server.handle(reader, writer)
        except asyncio.CancelledError:
            # asyncio's streams log a handler that ends cancelled.
            pass
        finally:
            tasks.discard(task)

    listener = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=1000)
    host, port = listener.sockets[0].getsockname()[:2]
    server.url = f"http://{host}:{port}/v1"
    try:
        yield server
    finally:
        listener.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
