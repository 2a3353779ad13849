"""The same requests with no framework at all: raw sockets, aiohttp, httpx.

python -m tests.bench.floors raw|aiohttp|httpx ROW ORIGIN
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from tests.bench.workload import main

if TYPE_CHECKING:
    import aiohttp
    import httpx

QUESTION = {"role": "user", "content": "What is the weather in Oslo?"}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def get_weather(city: str) -> str:
    return f"{city}: 21 degrees, sunny"


class Floor:
    """What is left of an agent: encode, send, split, decode, call the function, send again."""

    def __init__(self, base_url: str) -> None:
        self.url = f"{base_url}/chat/completions"

    def post(self, body: bytes) -> AsyncIterator[bytes]:
        raise NotImplementedError

    async def ask(self, messages: list[Any]) -> AsyncIterator[dict[str, Any]]:
        body = {"model": "gpt-4o-mini", "messages": messages, "tools": [TOOL], "stream": True}
        rest = b""
        async for piece in self.post(msgspec.json.encode(body)):
            *events, rest = (rest + piece).split(b"\n\n")
            for event in events:
                data = event.removeprefix(b"data: ")
                if data != b"[DONE]":
                    for choice in msgspec.json.decode(data)["choices"]:
                        yield choice["delta"]

    async def run(self) -> str:
        messages: list[Any] = [QUESTION]
        while True:
            text, id, args = "", "", ""
            async for delta in self.ask(messages):
                text += delta.get("content") or ""
                for call in delta.get("tool_calls", ()):
                    id = call.get("id", id)
                    args += call["function"]["arguments"]
            if not args:
                return text
            function = {"name": "get_weather", "arguments": args}
            messages += [
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": id, "type": "function", "function": function}],
                },
                {
                    "role": "tool",
                    "tool_call_id": id,
                    "content": get_weather(**msgspec.json.decode(args)),
                },
            ]

    async def stream(self) -> tuple[float, int]:
        start, first, parts = time.perf_counter(), 0.0, []
        async for delta in self.ask([QUESTION]):
            if text := delta.get("content"):
                first = first or time.perf_counter() - start
                parts.append(text)
        return first, len("".join(parts))

    async def close(self) -> None:
        pass


class Raw(Floor):
    """Streams of asyncio, chunked transfer coding undone by hand, connections kept."""

    def __init__(self, base_url: str) -> None:
        super().__init__(base_url)
        self._parts = urlsplit(self.url)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, body: bytes) -> AsyncIterator[bytes]:
        parts = self._parts
        if self._idle:
            reader, writer = self._idle.pop()
        else:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        head = (
            f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await reader.readuntil(b"\r\n\r\n")
        data, start = b"", 0
        while True:
            found = data.find(b"\r\n", start)
            size = int(data[start:found], 16) if found >= 0 else -1
            if size == 0 and len(data) >= found + 4:
                break
            if size <= 0 or len(data) < found + 2 + size + 2:
                data, start = data[start:] + await reader.read(65_536), 0
                continue
            yield data[found + 2 : found + 2 + size]
            start = found + 2 + size + 2
        self._idle.append((reader, writer))

    async def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


class Aiohttp(Floor):
    session: aiohttp.ClientSession

    async def post(self, body: bytes) -> AsyncIterator[bytes]:
        headers = {"content-type": "application/json"}
        async with self.session.post(self.url, data=body, headers=headers) as response:
            async for piece in response.content.iter_any():
                yield piece

    async def close(self) -> None:
        await self.session.close()


class Httpx(Floor):
    client: httpx.AsyncClient

    async def post(self, body: bytes) -> AsyncIterator[bytes]:
        headers = {"content-type": "application/json"}
        async with self.client.stream("POST", self.url, content=body, headers=headers) as response:
            async for piece in response.aiter_raw():
                yield piece

    async def close(self) -> None:
        await self.client.aclose()


async def raw(base_url: str) -> Floor:
    return Raw(base_url)


async def with_aiohttp(base_url: str) -> Floor:
    import aiohttp

    floor = Aiohttp(base_url)
    floor.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1000))
    return floor


async def with_httpx(base_url: str) -> Floor:
    import httpx

    floor = Httpx(base_url)
    limits = httpx.Limits(max_connections=1000, max_keepalive_connections=1000)
    floor.client = httpx.AsyncClient(limits=limits, timeout=60)
    return floor


if __name__ == "__main__":
    which = {"raw": raw, "aiohttp": with_aiohttp, "httpx": with_httpx}
    main(which[sys.argv[1]], sys.argv[2], sys.argv[3])
