"""What Mastra's Studio asks besides: who is there, and what this server does not have."""

from __future__ import annotations

from html import escape
from typing import Any

import msgspec
from starlette.responses import Response

from mastra_nb import __version__
from mastra_nb.errors import NotFound
from mastra_nb.server._asking import agent_of
from mastra_nb.server._mcp_mount import NAME as MCP_NAME
from mastra_nb.server._mcp_mount import is_there as has_mcp
from mastra_nb.server._routes import Call, Handler, Json, Routes
from mastra_nb.server._turns import iso
from mastra_nb.server._words import json_schema
from mastra_nb.server.tools import ExecuteBody, all_tools, execute, found_tool

routes = Routes("Studio")


class Anything(msgspec.Struct, rename="camel"):
    """Paging and filters of lists that are empty."""

    page: int | None = None
    per_page: Any = None
    request_context: Any = None


_PAGED: Json = {"total": 0, "page": 0, "perPage": 0, "hasMore": False}
# Lists of things that there are none of here: Studio asks for them on its pages.
_EMPTY: dict[str, tuple[str, Any]] = {
    "/processors": ("Processors by id", {}),
    "/workspaces": ("Workspaces", {"workspaces": []}),
    "/channels/platforms": ("Platforms of channels", []),
    "/editor/builder/settings": (
        "Settings of the builder",
        {"enabled": False, "modelPolicy": {"active": False}},
    ),
    "/editor/builder/models/available": ("Models of the builder", {"providers": []}),
    "/datasets": ("Datasets", {"datasets": [], "pagination": _PAGED}),
    "/experiments": ("Experiments", {"experiments": [], "pagination": _PAGED}),
    "/experiments/review-summary": ("Experiments to look at", {"counts": []}),
    "/stored/prompt-blocks": ("Stored prompts", {**_PAGED, "promptBlocks": []}),
    "/stored/agents": ("Stored agents", {**_PAGED, "agents": []}),
    "/stored/scorers": ("Stored scorers", {**_PAGED, "scorerDefinitions": []}),
    "/agent-controller": ("Controllers of agents", {"agentControllers": []}),
    "/background-tasks": ("Tasks in the background", {"tasks": [], "total": 0}),
}


def _nothing(path: str, about: str, answer: Any) -> Handler:
    async def nothing(call: Call) -> Any:
        return answer

    nothing.__doc__ = about
    nothing.__name__ = path.strip("/").replace("/", "_").replace("-", "_")
    return nothing


for _path, (_about, _answer) in _EMPTY.items():
    routes.get(_path, query=Anything, response=Any)(_nothing(_path, _about, _answer))


@routes.get("/", prefixed=False, public=True, produces="html")
async def home(call: Call) -> Response:
    """That there is a server"""
    text = f"<!doctype html><title>mastra_nb</title>mastra_nb {escape(__version__)}"
    return Response(text, media_type="text/html")


@routes.get("/auth/capabilities", public=True, response=dict[str, Any])
async def capabilities(call: Call) -> Json:
    """How one logs in: by no means, a token is sent with each request"""
    return {"enabled": False, "login": None}


@routes.get("/auth/me", public=True, response=Any)
async def me(call: Call) -> Any:
    """Who asks"""
    return None if not call.resource else {"id": call.resource, "name": call.resource}


@routes.get("/system/packages", response=dict[str, Any])
async def packages(call: Call) -> Json:
    """What this server is"""
    store = call.app.store
    kind = "none" if store is None else store.url.partition(":")[0]
    return {
        "packages": [],  # those of npm: Studio asks its registry about each
        "isDev": False,
        "cmsEnabled": False,
        "liveKitConnectionRouteEnabled": False,
        "observabilityEnabled": store is not None,
        "storageType": kind,
        "observabilityStorageType": kind,
    }


@routes.get("/agents/{agentId}/voice/speakers", response=list[Any])
async def speakers(call: Call) -> list[Any]:
    """Voices of an agent: none"""
    agent_of(call, call.path["agentId"])
    return []


@routes.get("/agents/{agentId}/voice/listener", response=dict[str, Any])
async def listener(call: Call) -> Json:
    """Whether an agent listens: no"""
    agent_of(call, call.path["agentId"])
    return {"enabled": False}


# The application as an MCP server


def _mcp(call: Call) -> Json:
    if not (call.options.mcp and has_mcp() and call.resource is None):
        raise NotFound("MCP server not found")
    version = {"version": __version__, "release_date": iso(0), "is_latest": True}
    about = {"id": MCP_NAME, "name": MCP_NAME, "version_detail": version}
    return about | {"transports": ["streamable-http"]}


@routes.get("/mcp/v0/servers", query=Anything, response=dict[str, Any])
async def mcp_servers(call: Call) -> Json:
    """The MCP servers here: this application"""
    try:
        found = [_mcp(call)]
    except NotFound:
        found = []
    return {"servers": found, "total_count": len(found), "next": None}


class McpServer(msgspec.Struct):
    version: str | None = None


@routes.get("/mcp/v0/servers/{serverId}", query=McpServer, response=dict[str, Any])
async def mcp_server(call: Call) -> Json:
    """One MCP server"""
    found = _mcp(call)
    if call.path["serverId"] != MCP_NAME:
        raise NotFound("MCP server not found")
    return found


@routes.get("/mcp/{serverId}/tools", response=dict[str, Any])
async def mcp_tools(call: Call) -> Json:
    """The tools of an MCP server"""
    await mcp_server(call)
    tools = [
        {
            "name": name,
            "id": name,
            "description": tool.spec.description,
            "inputSchema": json_schema(tool.spec.parameters),
        }
        for name, tool in all_tools(call).items()
    ]
    return {"tools": tools}


@routes.post("/mcp/{serverId}/tools/{toolId}/execute", body=ExecuteBody, response=Any)
async def mcp_execute(call: Call) -> Any:
    """Call a tool of an MCP server"""
    await mcp_server(call)
    return {"result": await execute(call, found_tool(all_tools(call), call.path["toolId"]))}
