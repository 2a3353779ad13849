"""Tools over REST."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mastra_nb.context import Context
from mastra_nb.errors import NotFound, SchemaError, ToolArgsError
from mastra_nb.runs import Run
from mastra_nb.server import _results
from mastra_nb.server._routes import Call, Json, Routes, request_context
from mastra_nb.tools import ToolLike

routes = Routes("Tools")


class ExecuteBody(msgspec.Struct, rename="camel"):
    data: Any = None
    request_context: dict[str, Any] | None = None


class ExecuteQuery(msgspec.Struct, rename="camel"):
    run_id: str | None = None


def all_tools(call: Call) -> dict[str, ToolLike]:
    """Those of the application and of its agents."""
    out: dict[str, ToolLike] = {}
    for agent in call.app.agents.values():
        out |= _results.tools_of(agent)
    return out | call.app.tools


def found_tool(tools: Mapping[str, ToolLike], id: str) -> ToolLike:
    if id not in tools:
        raise NotFound("Tool not found")
    return tools[id]


@routes.get("/tools", response=dict[str, Any])
async def list_tools(call: Call) -> Json:
    """All tools, by id"""
    return {name: _results.tool_json(tool) for name, tool in all_tools(call).items()}


@routes.get("/tools/{toolId}", response=dict[str, Any])
async def get_tool(call: Call) -> Json:
    """One tool"""
    return _results.tool_json(found_tool(all_tools(call), call.path["toolId"]))


@routes.post("/tools/{toolId}/execute", body=ExecuteBody, query=ExecuteQuery, response=Any)
async def execute_tool(call: Call) -> Any:
    """Call a tool"""
    return await execute(call, found_tool(all_tools(call), call.path["toolId"]))


async def execute(call: Call, tool: ToolLike) -> Any:
    """What the tool gives; arguments that do not fit are told as Mastra tells them.

    Raises what the tool raises; RunSuspended if it asks somebody: its run can be resumed.
    """
    data = {} if call.body.data is None else call.body.data
    run: Run[Any] = Run(
        _Direct(tool),
        data,
        services=call.app.services,
        resource=call.owner(None),
        request_context=request_context(call.body.request_context or {}) or None,
    )
    try:
        return await call.live.start(run)
    except (ToolArgsError, SchemaError) as error:
        return {
            "error": True,
            "message": f"Tool input validation failed for {tool.name}. {error.message}",
            "validationErrors": {"errors": [error.message], "fields": {}},
        }


class _Direct:
    """A call of a tool that no model made."""

    kind = "tool"

    def __init__(self, tool: ToolLike) -> None:
        self._tool = tool
        self.name = tool.name

    async def invoke(self, input: Any, ctx: Context, /) -> Any:
        return await self._tool.invoke(input, ctx)
