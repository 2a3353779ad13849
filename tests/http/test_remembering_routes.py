"""The notes that an agent keeps in place of old messages, as a client sees them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from mastra_nb import Agent, Mastra, Memory
from mastra_nb.memory.options import ObservationalMemory
from mastra_nb.models import ModelRequest
from mastra_nb.server.application import create_app
from mastra_nb.server.options import ServerOptions
from mastra_nb.testing import ScriptedModel

ANN, BOB = {"authorization": "Bearer of-ann"}, {"authorization": "Bearer of-bob"}
LONG = "word " * 40
NOTES, STATUS = "/memory/observational-memory", "/memory/status"


def noted(request: ModelRequest) -> str:
    told = msgspec.json.decode(request.messages[-1].text)
    if "notes" in told:
        return '{"notes": [{"n": 1, "text": "All of it is about words."}]}'
    found = [{"n": m["n"], "text": f"noted {m['said'][0][:2]}"} for m in told["messages"]]
    return msgspec.json.encode({"notes": found}).decode()


def observing(**options: Any) -> Memory:
    model = ScriptedModel(noted, delay=0.01, piece=10_000, repeat=True)
    given = {"message_tokens": 300, "keep_last": 2, **options}
    return Memory(observational_memory=ObservationalMemory(model, **given))


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    model = ScriptedModel(f"a {LONG}", repeat=True)
    app = Mastra(
        agents=[
            Agent(name="alone", model=model, memory=observing()),
            Agent(name="shared", model=model, memory=observing(scope="resource")),
            Agent(name="brief", model=model, memory=observing(observation_tokens=30)),
            Agent(name="plain", model=model, memory=Memory()),
        ],
        storage="memory://",
    )
    gate = create_app(app, options=ServerOptions(tokens={"of-ann": "ann", "of-bob": "bob"}))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(gate), base_url="http://localhost/api", headers=ANN
    ) as made:
        yield made


async def talk(http: httpx.AsyncClient, agent: str, thread: str, turns: int = 6) -> None:
    for n in range(turns):
        body = {"messages": f"q{n} {LONG}", "memory": {"thread": thread}}
        assert (await http.post(f"/agents/{agent}/generate", json=body)).status_code == 200
        # A turn that ends while notes are made begins none.
        await settled(http, agent, threadId=thread)


async def settled(http: httpx.AsyncClient, agent: str, **named: str) -> Any:
    body = {"agentId": agent, **named}
    answer = await http.post(f"{NOTES}/buffer-status", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["record"]


async def test_the_notes_of_a_thread(http: httpx.AsyncClient) -> None:
    query = {"agentId": "alone", "threadId": "t", "resourceId": "ann"}
    assert (await http.get(NOTES, params=query)).json() == {"record": None}
    status = (await http.get(STATUS, params=query)).json()
    assert status["observationalMemory"] == {"enabled": True, "hasRecord": False}
    await talk(http, "alone", "t")
    record = await settled(http, "alone", threadId="t")
    assert (record["scope"], record["resourceId"], record["threadId"]) == ("thread", "ann", "t")
    assert "noted q0" in record["activeObservations"]
    assert (record["originType"], record["generationCount"]) == ("observation", 0)
    assert record["isObserving"] is False
    assert min(record["totalTokensObserved"], record["pendingMessageTokens"]) > 100
    assert record["createdAt"] <= record["lastObservedAt"] <= record["updatedAt"]
    assert record["config"] == {
        "scope": "thread", "messageTokens": 300, "observationTokens": 40_000,
    }  # fmt: skip
    assert (await http.get(NOTES, params=query)).json()["record"] == record
    told = (await http.get(STATUS, params=query)).json()["observationalMemory"]
    assert told["hasRecord"] is True
    assert told["observationTokenCount"] == record["observationTokenCount"] > 0
    config = (await http.get("/memory/config?agentId=alone")).json()["config"]
    assert config["observationalMemory"] == {"enabled": True, **record["config"]}


async def test_notes_that_are_condensed(http: httpx.AsyncClient) -> None:
    await talk(http, "brief", "t", turns=9)
    record = await settled(http, "brief", threadId="t")
    assert record["generationCount"] > 0
    assert "All of it is about words." in record["activeObservations"]


async def test_notes_that_threads_share(http: httpx.AsyncClient) -> None:
    await talk(http, "shared", "one")
    record = await settled(http, "shared", resourceId="ann")
    assert (record["scope"], record["threadId"]) == ("resource", None)
    await talk(http, "shared", "two")
    again = await settled(http, "shared", threadId="two")
    assert again["totalTokensObserved"] > record["totalTokensObserved"]


async def test_notes_of_another(http: httpx.AsyncClient) -> None:
    await talk(http, "alone", "t")
    await talk(http, "shared", "s")
    assert await settled(http, "alone", threadId="t") and await settled(http, "shared")
    for thread, agent in (("t", "alone"), ("s", "shared")):
        query = {"agentId": agent, "threadId": thread, "resourceId": "ann"}
        for path in (NOTES, STATUS):
            assert (await http.get(path, params=query, headers=BOB)).status_code == 404
        body = {"agentId": agent, "threadId": thread}
        answer = await http.post(f"{NOTES}/buffer-status", json=body, headers=BOB)
        assert answer.status_code == 404
    whose = {"agentId": "shared", "resourceId": "ann"}
    assert (await http.get(NOTES, params=whose, headers=BOB)).json() == {"record": None}


async def test_an_agent_that_keeps_none(http: httpx.AsyncClient) -> None:
    for agent in ("plain", "nobody"):
        told = [
            await http.get(f"{NOTES}?agentId={agent}&threadId=t"),
            await http.post(f"{NOTES}/buffer-status", json={"agentId": agent}),
        ]
        assert {each.status_code for each in told} == {400 if agent == "plain" else 404}
    assert (await http.get(f"{NOTES}?agentId=alone")).json() == {"record": None}
    assert (await http.get(f"{STATUS}?agentId=plain")).json() == {
        "result": True, "memoryType": "local",
    }  # fmt: skip
