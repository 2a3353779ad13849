"""An application as a web server: Mastra's REST and streams, for its clients and Studio."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

from mastra_nb.app import Mastra
from mastra_nb.errors import MissingExtra
from mastra_nb.server.options import Identity, ServerOptions

try:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route as StarletteRoute
except ModuleNotFoundError as error:
    raise MissingExtra(
        "a server needs Starlette", hint='pip install "mastra-nb[server]"'
    ) from error

from mastra_nb.server import (
    agents,
    conversations,
    health,
    inbox,
    memory,
    metrics,
    observability,
    openai,
    remembering,
    schedules,
    scores,
    studio,
    tools,
    ui,
    vectors,
    workflows,
)
from mastra_nb.server._gate import Gate
from mastra_nb.server._live import LiveRuns
from mastra_nb.server._mcp_mount import NAME, Mounted
from mastra_nb.server._routes import (
    BadRequest,
    Call,
    JsonResponse,
    Route,
    error_response,
    openai_error,
    read_body,
    read_query,
)
from mastra_nb.server.openapi import described


def all_routes() -> list[Route]:
    """What the server answers, in the order in which it is looked at."""
    return [
        *agents.routes,
        *tools.routes,
        *workflows.routes,
        *memory.routes,
        *remembering.routes,
        *vectors.routes,
        *observability.routes,
        *scores.routes,
        *metrics.routes,
        *schedules.routes,
        *inbox.routes,
        *openai.routes,
        *conversations.routes,
        *ui.routes,
        *studio.routes,
        *health.routes,
    ]


def create_app(
    app: Mastra, *, options: ServerOptions | None = None, hosts: Sequence[str] = ()
) -> Gate:
    """An ASGI application. `hosts` are names under which it is reached, as in `options`.

    Its lifespan takes up runs that were cut off, and lets those on their way end.
    """
    options = options or ServerOptions()
    live = LiveRuns(app)
    routes = all_routes()
    if options.docs:
        routes += described(all_routes(), options.prefix)

    mcp = Mounted(app)

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        keeping = None
        if app.store is not None:
            for run in await app.recover():
                live.start(run)
            if options.schedules:
                keeping = asyncio.create_task(app.schedules.run(signals=False))
        try:
            with live.logs:
                yield
        finally:
            if keeping is not None:
                keeping.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await keeping
            await live.drain(options.drain)
            await mcp.close()

    mounts = [_mounted(route, app, live, options) for route in routes]
    if options.mcp:
        path = f"{options.prefix}/mcp/{NAME}/mcp"
        mounts.append(StarletteRoute(path, mcp, methods=["GET", "POST", "DELETE"]))
    inner = Starlette(
        routes=mounts,
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_error},
    )
    inner.router.redirect_slashes = False
    public = {_path(r, options) for r in routes if r.public}
    patterns = [re.compile(re.sub(r"\{\w+\}", "[^/]+", path) + "$") for path in public]

    def is_public(path: str) -> bool:
        return any(p.match(path) for p in patterns)

    return Gate(inner, options, live, public=is_public, hosts=hosts)


def _path(route: Route, options: ServerOptions) -> str:
    return f"{options.prefix if route.prefixed else ''}{route.path}"


def _mounted(route: Route, app: Mastra, live: LiveRuns, options: ServerOptions) -> StarletteRoute:
    async def endpoint(request: Request) -> Response:
        try:
            body = None
            if route.method != "GET":
                most = options.max_body
                body = await read_body(request, route.body, most, optional=route.optional)
            call = Call(
                app=app,
                live=live,
                options=options,
                identity=request.scope.get("mastra_nb.identity", Identity()),
                request=request,
                path=dict(request.path_params),
                body=body,
                query=read_query(request, route.query),
            )
            answer = await route.handler(call)
        except Exception as error:
            answer = error_response(error)
            if route.openai:
                return openai_error(answer, json.loads(bytes(answer.body)))
            return answer
        return answer if isinstance(answer, Response) else JsonResponse(answer)

    return StarletteRoute(_path(route, options), endpoint, methods=[route.method])


async def _http_error(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    what = {404: "Not Found", 405: "Method Not Allowed"}.get(status, "the request failed")
    headers = getattr(error, "headers", None)
    return JsonResponse({"error": what}, status_code=status, headers=headers)


__all__ = ["BadRequest", "create_app"]
