"""Asks a served application, and leaves in the middle of an answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx

from mastra_nb import Mastra
from mastra_nb.server.application import create_app

Chunk = dict[str, Any]


class Asking:
    def __init__(self, app: Mastra) -> None:
        self.app = app
        self.asgi = create_app(app)
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.asgi), base_url="http://localhost"
        )

    async def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        answer = await self.http.post(f"/api{path}", json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def get(self, path: str, status: int = 200) -> Any:
        answer = await self.http.get(f"/api{path}")
        assert answer.status_code == status, answer.text
        return answer.json()

    async def chunks(self, path: str, body: Any = None) -> list[Chunk]:
        answer = await self.http.post(f"/api{path}", json=body)
        assert answer.status_code == 200, answer.text
        return parsed(answer.content)

    async def leaving(
        self, path: str, body: Any, enough: Callable[[list[Chunk]], bool]
    ) -> list[Chunk]:
        """What came until it was enough, when the connection is closed."""
        raw, seen, gone = b"", list[Chunk](), asyncio.Event()
        head, _, query = path.partition("?")
        sent = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

        async def receive() -> Any:
            if sent:
                return sent.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            nonlocal raw, seen
            assert message.get("status", 200) == 200, message
            raw += message.get("body", b"")
            seen = parsed(raw)
            if enough(seen):
                gone.set()

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": f"/api{head}",
            "raw_path": f"/api{head}".encode(),
            "query_string": query.encode(),
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("localhost", 80),
        }
        await self.asgi(scope, receive, send)
        return seen


def parsed(raw: bytes) -> list[Chunk]:
    """Of SSE, or of records."""
    if b"\x1e" in raw:
        return [json.loads(piece) for piece in raw.split(b"\x1e")[:-1]]
    frames = [frame for frame in raw.split(b"\n\n")[:-1] if frame.startswith(b"data: ")]
    return [json.loads(f[6:]) for f in frames if f != b"data: [DONE]"]


def types(chunks: list[Chunk]) -> list[str]:
    return [chunk["type"] for chunk in chunks]


def text(chunks: list[Chunk]) -> str:
    return "".join(c["payload"]["text"] for c in chunks if c["type"] == "text-delta")


def joined(chunks: list[Chunk]) -> list[Chunk]:
    """With each text in one piece."""
    out: list[Chunk] = []
    for chunk in chunks:
        if chunk["type"] == "text-delta" and out and out[-1]["type"] == "text-delta":
            one = out[-1]["payload"]
            said = {**one, "text": one["text"] + chunk["payload"]["text"]}
            out[-1] = {**out[-1], "payload": said}
        else:
            out.append(chunk)
    return out
