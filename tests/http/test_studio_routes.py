"""What Mastra's Studio asks before and beside: the smallest replies that are true."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from mastra_nb import Agent, Mastra
from mastra_nb.config import Secret
from mastra_nb.server.application import create_app
from mastra_nb.server.options import ServerOptions
from mastra_nb.testing import ScriptedModel

# As in Studio's order; the keys of an answer, or the answer.
ASKED: list[tuple[str, Any]] = [
    ("/agents?requestContext=e30%3D", {"talker"}),
    ("/workflows?requestContext=e30%3D", {}),
    ("/tools?requestContext=e30%3D", {}),
    ("/processors?requestContext=e30%3D", {}),
    ("/scores/scorers?requestContext=e30%3D", {}),
    ("/mcp/v0/servers", {"servers", "total_count", "next"}),
    ("/workspaces", {"workspaces": []}),
    ("/experiments/review-summary", {"counts": []}),
    ("/editor/builder/settings", {"enabled": False, "modelPolicy": {"active": False}}),
    ("/editor/builder/models/available", {"providers": []}),
    ("/channels/platforms", []),
    ("/agents/talker/voice/speakers", []),
    ("/datasets?page=0&perPage=20", {"datasets", "pagination"}),
    ("/stored/prompt-blocks", {"promptBlocks", "total", "page", "perPage", "hasMore"}),
    ("/scores/scorers/none", None),
    ("/memory/status?agentId=talker", {"result": False}),
]


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    agent = Agent(name="talker", model=ScriptedModel("Hello."))
    app = Mastra(agents=[agent], storage="memory://")
    gate = create_app(app, options=ServerOptions(token=Secret("of-all")))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(gate), base_url="http://localhost"
    ) as made:
        yield made


@pytest.mark.parametrize(("path", "answer"), ASKED)
async def test_what_it_asks_for(http: httpx.AsyncClient, path: str, answer: Any) -> None:
    found = await http.get(f"/api{path}", headers={"authorization": "Bearer of-all"})
    assert found.status_code == 200, found.text
    given = found.json()
    assert ({*given} if isinstance(answer, set) else given) == answer
    assert (await http.get(f"/api{path}")).status_code == 401, "not without a token"


async def test_providers_that_can_be_used(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "gsk-canary")
    monkeypatch.delenv("MISTRAL_API_KEY", raising=False)
    http.headers["authorization"] = "Bearer of-all"
    found = await http.get("/api/agents/providers")
    known = {each["id"]: each for each in found.json()["providers"]}
    assert known["groq"]["connected"] is True
    assert known["mistral"]["connected"] is False
    assert "small" in known["local"]["models"]
    assert "canary" not in found.text


async def test_feedback_and_packages(http: httpx.AsyncClient) -> None:
    http.headers["authorization"] = "Bearer of-all"
    path = "/api/observability/feedback?reviewStatus=needs-review&page=0&perPage=1"
    assert (await http.get(path)).json() == {
        "feedback": [],
        "pagination": {"total": 0, "page": 0, "perPage": 1, "hasMore": False},
    }
    found = (await http.get("/api/system/packages")).json()
    assert found["observabilityEnabled"] is True
    assert found["cmsEnabled"] is found["isDev"] is found["liveKitConnectionRouteEnabled"] is False
    assert found["packages"] == [], "none of Mastra's packages is here"
    assert (await http.get("/api/agents/nobody/voice/speakers")).status_code == 404


async def test_what_anybody_may_ask(http: httpx.AsyncClient) -> None:
    home = await http.get("/")
    assert (home.status_code, home.headers["content-type"].split(";")[0]) == (200, "text/html")
    assert (await http.get("/health")).status_code == 200
    capabilities = await http.get("/api/auth/capabilities")
    assert capabilities.json() == {"enabled": False, "login": None}
