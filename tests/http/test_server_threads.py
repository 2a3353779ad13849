"""Conversations of a server: nobody who names none is in somebody else's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from mastra_nb import Agent, Mastra
from mastra_nb.models import ModelRequest
from mastra_nb.server.application import create_app
from mastra_nb.testing import ScriptedModel


def seen(request: ModelRequest) -> str:
    return " | ".join(m.text for m in request.messages if m.role == "user")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    model = ScriptedModel(seen, repeat=True)
    agents = [Agent(name="loose", model=model, memory=True)]
    app = create_app(Mastra(agents=agents, storage="memory://"))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as made:
        yield made


async def ask(client: httpx.AsyncClient, agent: str, text: str, **body: object) -> str:
    answer = await client.post(
        f"/api/agents/{agent}/generate", json={"messages": text, **body}, timeout=10
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["text"])


async def test_two_who_name_no_thread_share_nothing(client: httpx.AsyncClient) -> None:
    assert await ask(client, "loose", "my code is 1234") == "my code is 1234"
    assert await ask(client, "loose", "what is my code?") == "what is my code?"


async def test_a_named_thread_goes_on(client: httpx.AsyncClient) -> None:
    thread = {"memory": {"thread": "monday", "resource": "ada"}}
    await ask(client, "loose", "one", **thread)
    assert await ask(client, "loose", "two", **thread) == "one | two"
