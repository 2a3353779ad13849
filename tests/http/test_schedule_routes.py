"""Schedules over REST: for who may see all, and only what can be done with them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from mastra_nb import Agent, Mastra, Workflow
from mastra_nb.config import Secret
from mastra_nb.server.application import create_app
from mastra_nb.server.options import ServerOptions
from mastra_nb.testing import ScriptedModel

ADMIN, ANN = {"authorization": "Bearer of-all"}, {"authorization": "Bearer of-ann"}


async def double(n: int) -> int:
    return n * 2


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    agent = Agent(name="talker", model=ScriptedModel("Hello.", repeat=True))
    flow = Workflow(name="flow", input=int).then(double)
    app = Mastra(agents=[agent], workflows=[flow], storage="memory://")
    app.schedule(flow, cron="0 6 * * *", input=3, name="nightly")
    app.schedule(agent, cron="0 7 * * 1", input="News?", name="weekly")
    options = ServerOptions(token=Secret("of-all"), tokens={"of-ann": "ann"})
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(app, options=options)),
        base_url="http://localhost/api",
        headers=ADMIN,
    ) as made:
        yield made


async def names(http: httpx.AsyncClient, **query: Any) -> list[str]:
    answer = await http.get("/schedules", params=query)
    assert answer.status_code == 200, answer.text
    return [each["id"] for each in answer.json()["schedules"]]


async def test_schedules_of_agents_and_workflows_have_their_shapes(http: httpx.AsyncClient) -> None:
    flow = (await http.get("/schedules/nightly")).json()
    assert (flow["workflowId"], flow["inputData"], flow["cron"]) == ("flow", 3, "0 6 * * *")
    assert "agentId" not in flow
    agent = (await http.get("/schedules/weekly")).json()
    assert (agent["agentId"], agent["prompt"], agent["name"]) == ("talker", "News?", "weekly")
    assert "workflowId" not in agent
    for each in (flow, agent):
        assert each["status"] == "active"
        assert all(isinstance(each[k], int) for k in ("nextFireAt", "createdAt", "updatedAt"))
        assert each["nextFireAt"] > 10**12, "milliseconds"


async def test_schedules_are_found_by_what_they_run(http: httpx.AsyncClient) -> None:
    assert await names(http) == ["nightly", "weekly"]
    assert await names(http, workflowId="flow") == ["nightly"]
    assert await names(http, agentId="talker") == ["weekly"]
    assert await names(http, agentId="nobody") == []
    await http.post("/schedules/weekly/pause")
    assert await names(http, status="paused") == ["weekly"]
    assert await names(http, status="active", name="nightly") == ["nightly"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""), ("GET", "/triggers"), ("POST", "/pause"), ("POST", "/resume"),
        ("POST", "/run"), ("PATCH", ""), ("DELETE", ""),
    ],
)  # fmt: skip
async def test_schedules_are_for_who_may_see_all(
    http: httpx.AsyncClient, method: str, path: str
) -> None:
    answer = await http.request(
        method, f"/schedules/nightly{path}", headers=ANN, json={"status": "paused"}
    )
    assert answer.status_code == 404, answer.text
    assert (await http.get("/schedules", headers=ANN)).json() == {"schedules": []}
    shown = (await http.get("/schedules/nightly")).json()
    assert shown["status"] == "active"
    assert "lastRunId" not in shown


async def test_what_is_run_now_is_a_trigger(http: httpx.AsyncClient) -> None:
    fired = (await http.post("/schedules/nightly/run")).json()
    assert {*fired} == {"scheduleId", "claimId", "scheduledFireAt"}
    await http.post(f"/workflows/flow/observe?runId={fired['claimId']}")
    (trigger,) = (await http.get("/schedules/nightly/triggers")).json()["triggers"]
    assert trigger["runId"] == fired["claimId"]
    assert (trigger["scheduleId"], trigger["outcome"]) == ("nightly", "succeeded")
    assert (await http.get("/schedules/nightly")).json()["lastRunId"] == fired["claimId"]
    for limit in (0, -1, 10**9, "x"):
        answer = await http.get("/schedules/nightly/triggers", params={"limit": limit})
        assert answer.status_code == 400, limit


async def test_they_are_made_in_the_application(http: httpx.AsyncClient) -> None:
    for method, path in (
        ("POST", "/schedules"), ("PATCH", "/schedules/nightly"), ("DELETE", "/schedules/nightly"),
    ):  # fmt: skip
        answer = await http.request(method, path, json={"cron": "* * * * *"})
        assert answer.status_code == 501, (method, answer.text)
        assert "app.schedule" in answer.json()["error"]
    assert await names(http) == ["nightly", "weekly"]
    for method in ("PATCH", "DELETE"):
        answer = await http.request(method, "/schedules/none", json={})
        assert answer.status_code == 404, method


async def test_only_whether_it_is_paused_is_changed(http: httpx.AsyncClient) -> None:
    for status in ("paused", "active"):
        answer = await http.patch("/schedules/nightly", json={"status": status})
        assert (answer.status_code, answer.json()["status"]) == (200, status)
        assert await names(http, status=status, name="nightly") == ["nightly"]
    for bad, code in (({"status": "gone"}, 400), ({"status": ["paused"]}, 400), ([], 400),
                      ({"status": "paused", "cron": "* * * * *"}, 501), ({}, 501)):  # fmt: skip
        answer = await http.patch("/schedules/nightly", json=bad)
        assert answer.status_code == code, bad
    assert await names(http, status="active") == ["nightly", "weekly"]
