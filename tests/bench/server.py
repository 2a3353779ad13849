"""A model server that speaks chat completions and costs next to nothing.

    python -m tests.bench.server        prints its port, serves until its stdin closes

What it answers is written in the path: `/<script>/v1/chat/completions` with a script such as
`agent`, `agent,delay=50` or `text,chunks=2000,gap=2.5`. `agent` calls `get_weather` until a tool
has answered, then says a sentence; `text` says `chunks` words. `delay` is milliseconds before the
answer, `gap` milliseconds between two pieces of it. One event is one HTTP chunk and one write.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
import sys
from collections.abc import Callable

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_TOOL_ROLE = re.compile(rb'"role": ?"tool"')
_STREAM = re.compile(rb'"stream": ?true')
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
_USAGE = {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60}
_ARGS = '{"city":"Oslo"}'
SENTENCE = "It is 21 degrees and sunny in Oslo."


class Answer:
    """One answer in both shapes: the pieces of a stream, and a whole body."""

    def __init__(self, message: dict[str, object], deltas: list[dict[str, object]]) -> None:
        finish = "tool_calls" if message.get("tool_calls") else "stop"
        choices = [{"index": 0, "message": message, "finish_reason": finish}]
        body = _chunk("chat.completion", choices=choices, usage=_USAGE)
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        self.whole = [f"{head}\r\n\r\n".encode() + body]
        kind = "chat.completion.chunk"
        events = [
            _chunk(kind, choices=[{"index": 0, "delta": delta, "finish_reason": None}])
            for delta in deltas
        ]
        last = [{"index": 0, "delta": {}, "finish_reason": finish}]
        events += [_chunk(kind, choices=last), _chunk(kind, choices=[], usage=_USAGE), b"[DONE]"]
        pieces = [b"data: " + event + b"\n\n" for event in events]
        framed = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces]
        framed[0] = _STREAM_HEAD + framed[0]
        framed[-1] += b"0\r\n\r\n"
        self.pieces = framed


def _chunk(kind: str, **fields: object) -> bytes:
    head = {"id": "chatcmpl-1", "object": kind, "created": 1, "model": "gpt-4o-mini"}
    return json.dumps({**head, **fields}, separators=(",", ":")).encode()


def say(pieces: list[str]) -> Answer:
    start: dict[str, object] = {"role": "assistant", "content": ""}
    message: dict[str, object] = {"role": "assistant", "content": "".join(pieces)}
    deltas: list[dict[str, object]] = [{"content": piece} for piece in pieces]
    return Answer(message, [start, *deltas])


def call_tool() -> Answer:
    call = {"id": "call_1", "type": "function"}
    whole = {**call, "function": {"name": "get_weather", "arguments": _ARGS}}
    first = {"index": 0, **call, "function": {"name": "get_weather", "arguments": ""}}
    rest = {"index": 0, "function": {"arguments": _ARGS}}
    return Answer(
        {"role": "assistant", "content": None, "tool_calls": [whole]},
        [{"role": "assistant", "content": None, "tool_calls": [first]}, {"tool_calls": [rest]}],
    )


class Script:
    def __init__(self, text: str) -> None:
        kind, *options = text.split(",")
        values = dict(option.split("=") for option in options)
        self.delay = float(values.pop("delay", 0)) / 1000
        self.gap = float(values.pop("gap", 0)) / 1000
        self.first = call_tool() if kind == "agent" else None
        said = [f"{word} " for word in SENTENCE.split()]
        self.last = say(words(int(values.pop("chunks"))) if "chunks" in values else said)
        if values or kind not in ("agent", "text"):
            raise ValueError(f'no such script: "{text}"')


def words(count: int) -> list[str]:
    """A long answer in pieces, with the Markdown that a renderer has to work for."""
    marks = {0: "\n\n## A heading\n\n", 50: "\n\n- **bold** and `code`\n\n"}
    return [marks.get(i % 100, f"word{i} ") for i in range(count)]


class Connection(asyncio.Protocol):
    def __init__(self, script: Callable[[str], Script]) -> None:
        self._script = script
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = _LENGTH.search(head)
        size = int(length[1]) if length else 0
        if len(rest) < size:
            return
        self._received = rest[size:]
        self._answer(head, rest[:size])

    def _answer(self, head: bytes, body: bytes) -> None:
        script = self._script(head.split(b" ", 2)[1].split(b"/")[1].decode())
        asked = script.first is not None and not _TOOL_ROLE.search(body)
        answer = script.first if asked and script.first is not None else script.last
        pieces = answer.pieces if _STREAM.search(body) else answer.whole
        loop = asyncio.get_running_loop()
        if script.gap:
            self._task = loop.create_task(self._write_slowly(pieces, script.delay, script.gap))
        elif script.delay:
            loop.call_later(script.delay, self._write, pieces)
        else:
            self._write(pieces)

    def _write(self, pieces: list[bytes]) -> None:
        assert self._transport is not None
        if len(pieces) < 20:
            self._transport.write(b"".join(pieces))
            return
        for piece in pieces:
            self._transport.write(piece)

    async def _write_slowly(self, pieces: list[bytes], delay: float, gap: float) -> None:
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        start = loop.time() + delay
        for i, piece in enumerate(pieces):
            await asyncio.sleep(max(0.0, start + i * gap - loop.time()))
            if self._transport.is_closing():
                return
            self._transport.write(piece)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()


async def serve() -> None:
    loop = asyncio.get_running_loop()
    script = functools.cache(Script)
    server = await loop.create_server(lambda: Connection(script), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    over = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), over.set)
    await over.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(serve())
