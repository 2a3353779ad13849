"""Whether the server answers: for a container, a supervisor, a balancer."""

from __future__ import annotations

from mastra_nb.server._routes import Call, Routes

routes = Routes("About")


@routes.get("/health", prefixed=False, public=True, response=dict[str, bool])
async def health(call: Call) -> dict[str, bool]:
    """Whether the server answers"""
    return {"success": True}
