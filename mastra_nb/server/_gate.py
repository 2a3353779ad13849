"""What stands before every request: who may ask, from where, how slowly, and how much.

A server on this machine is reached by every page a browser shows: names that were made to point
here (DNS rebinding) fail at the Host, pages of others at the Origin.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from mastra_nb.server._live import LiveRuns
from mastra_nb.server._routes import JsonResponse
from mastra_nb.server.options import Identity, ServerOptions

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEALTH = "/health"
_LOCAL = {"localhost", "127.0.0.1", "[::1]", "::1"}
_METHODS = "GET, POST, PUT, PATCH, DELETE, OPTIONS"
_HEADERS = (
    "Content-Type, Authorization, A2A-Version, Last-Event-ID, x-mastra-client-type,"
    " x-mastra-dev-playground"
)
_BEARER = re.compile(r"bearer +(\S+) *$", re.IGNORECASE)


class Gate:
    """Around the application; who asks is `scope["mastra_nb.identity"]` behind it."""

    def __init__(
        self,
        app: App,
        options: ServerOptions,
        live: LiveRuns,
        *,
        public: Callable[[str], bool],
        hosts: Iterable[str] = (),
    ) -> None:
        self.live = live
        self._app = app
        self._options = options
        self._public = public
        self._hosts = {*_LOCAL, *options.hosts, *hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        origin = request.headers.get("origin", "")
        shared = self._shared(origin, request.headers.get("host", ""))
        answer = await self._refused(request, origin, shared is not None)
        headers = [] if not shared else [(k.encode(), v.encode()) for k, v in shared.items()]
        send = _Paced(send, self._options.slow, headers).send
        receive = _paced_receive(receive, self._options.slow)
        try:
            await (answer or self._app)(scope, receive, send)
        except TimeoutError:
            return  # the client took too long; the connection is given up

    async def _refused(self, request: Request, origin: str, allowed: bool) -> Response | None:
        """The answer to a request that goes no further."""
        # Who asks whether it lives (a cluster does, by address) learns nothing else.
        if request.url.path != HEALTH and not self._is_ours(request.headers.get("host", "")):
            return JsonResponse({"error": "this host is not served here"}, status_code=421)
        if origin and not allowed:
            return JsonResponse({"error": "this origin may not ask here"}, status_code=403)
        if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
            return Response(status_code=204)
        length = request.headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._options.max_body:
            return JsonResponse({"error": "Request body too large"}, status_code=413)
        who = await self._identity(request)
        if who is None:
            if not self._public(request.url.path):
                return JsonResponse(
                    {"error": "a token is needed: Authorization: Bearer …"},
                    status_code=401,
                    headers={"WWW-Authenticate": "Bearer"},
                )
            who = Identity(resource="")
        request.scope["mastra_nb.identity"] = who
        return None

    async def _identity(self, request: Request) -> Identity | None:
        options = self._options
        if "mastra_nb.identity" in request.scope:
            return request.scope["mastra_nb.identity"]  # type: ignore[no-any-return]
        if not options.protected:
            return Identity()
        given = _BEARER.match(request.headers.get("authorization", ""))
        found = options.known(given.group(1)) if given is not None else None
        if found is None and options.authenticate is not None:
            said = options.authenticate(request)
            found = await said if inspect.isawaitable(said) else said
        return found

    def _is_ours(self, host: str) -> bool:
        return "*" in self._hosts or _name(host) in self._hosts

    def _shared(self, origin: str, host: str) -> dict[str, str] | None:
        """The headers for a page that may ask; None if it may not."""
        if not origin:
            return {}
        allowed = {*self._options.origins}
        try:
            name = urlsplit(origin).hostname or ""
        except ValueError:
            return None
        if not (
            origin in allowed or "*" in allowed or name in _LOCAL or origin.endswith(f"//{host}")
        ):
            return None
        return {
            "access-control-allow-origin": origin,
            "access-control-allow-methods": _METHODS,
            "access-control-allow-headers": _HEADERS,
            "access-control-allow-credentials": "true",
            "access-control-expose-headers": "*",
            "access-control-max-age": "600",
            "vary": "Origin",
        }


def _name(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()


class _Paced:
    """A client that does not read is not waited for forever."""

    def __init__(self, send: Send, seconds: float, headers: list[tuple[bytes, bytes]]) -> None:
        self._send = send
        self._seconds = seconds
        self._headers = headers

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
        async with asyncio.timeout(self._seconds):
            await self._send(message)


def _paced_receive(receive: Receive, seconds: float) -> Receive:
    """Nor is one that does not send: the rest of a body must come, the end of a stream need not."""
    done = False

    async def paced() -> Message:
        nonlocal done
        if done:
            return await receive()
        async with asyncio.timeout(seconds):
            message = await receive()
        done = not message.get("more_body", False)
        return message

    return paced
