"""The application as an MCP server under its own path, made when the first client asks for it."""

from __future__ import annotations

import asyncio
import importlib.util
from typing import Any

from mastra_nb.app import Mastra
from mastra_nb.errors import MissingExtra
from mastra_nb.server._gate import Receive, Scope, Send
from mastra_nb.server._routes import JsonResponse, error_response
from mastra_nb.server.options import Identity

NAME = "mastra"


def is_there() -> bool:
    return importlib.util.find_spec("mcp") is not None


class Mounted:
    """ASGI. The SDK is half a second and thirty megabytes that most servers have no use for.

    Who is bound to a resource finds nothing here: a call of MCP belongs to nobody.
    """

    def __init__(self, app: Mastra) -> None:
        self._app = app
        self._inner: Any = None
        self._lock = asyncio.Lock()
        self._end = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        who: Identity = scope.get("mastra_nb.identity", Identity())
        if who.resource is not None:
            await JsonResponse({"error": "Not Found"}, status_code=404)(scope, receive, send)
            return
        if not is_there():
            missing = MissingExtra("MCP needs its SDK", hint='pip install "mastra-nb[mcp]"')
            await error_response(missing)(scope, receive, send)
            return
        async with self._lock:
            if self._inner is None:
                await self._begin()
        # The transport serves one path, whatever it is mounted under, and knows this machine only:
        # by which name it is reached, and from which page, was looked at before.
        passed = [(k, v) for k, v in scope["headers"] if k not in (b"host", b"origin")]
        inner = {**scope, "path": "/mcp", "raw_path": b"/mcp", "root_path": ""}
        inner["headers"] = [*passed, (b"host", b"localhost")]
        await self._inner(inner, receive, send)

    async def _begin(self) -> None:
        from mastra_nb.server.mcp import MCPServer

        inner = MCPServer(self._app, name=NAME).http_app()
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def live() -> None:
            async with inner.router.lifespan_context(inner):
                begun.set_result(None)
                await self._end.wait()

        self._task = asyncio.create_task(live())
        await begun
        self._inner = inner

    async def close(self) -> None:
        self._end.set()
        if self._task is not None:
            await self._task
