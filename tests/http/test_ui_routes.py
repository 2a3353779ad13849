"""The AI SDK's stream of UI messages."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from mastra_nb import Agent, Mastra, tool
from mastra_nb.server.application import create_app
from mastra_nb.server.options import ServerOptions
from mastra_nb.testing import ScriptedModel, calls


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"{city}: 21"


@tool(needs_approval=True)
def pay(amount: int) -> int:
    """Pays."""
    return amount


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    app = Mastra(
        agents=[
            Agent(
                name="weather",
                model=ScriptedModel(calls("weather", city="Oslo"), "It is 21.", repeat=True),
                tools=[weather],
                memory=True,
            ),
            Agent(
                name="payer",
                model=ScriptedModel(calls("pay", amount=3), "Paid."),
                tools=[pay],
                memory=True,
            ),
        ],
        storage="memory://",
    )
    transport = httpx.ASGITransport(create_app(app, options=ServerOptions()))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as made:
        yield made


def message(text: str) -> dict[str, Any]:
    return {"id": "m1", "role": "user", "parts": [{"type": "text", "text": text}]}


async def talk(http: httpx.AsyncClient, agent: str, *messages: Any) -> list[Any]:
    body = {"id": "chat-1", "trigger": "submit-message", "messages": [*messages]}
    answer = await http.post(f"/chat/{agent}", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-vercel-ai-ui-message-stream"] == "v1"
    frames = answer.text.split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    return [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]


async def test_an_answer_with_a_tool(http: httpx.AsyncClient) -> None:
    parts = await talk(http, "weather", message("Oslo?"))
    kinds = [kind for kind, _ in itertools.groupby(p["type"] for p in parts)]
    assert kinds == [
        "start", "start-step", "tool-input-start", "tool-input-delta", "tool-input-available",
        "tool-output-available", "finish-step", "start-step", "text-start", "text-delta",
        "text-end", "finish-step", "finish",
    ]  # fmt: skip
    assert parts[4]["input"] == {"city": "Oslo"}
    assert parts[5]["output"] == "Oslo: 21"
    assert parts[-1]["finishReason"] == "stop"
    listed = (await http.get("/chat/weather/chat-1/messages")).json()
    assert [m["role"] for m in listed] == ["user", "assistant"]
    assert listed[1]["id"] == parts[0]["messageId"]
    assert [p["type"] for p in listed[1]["parts"]] == [
        "step-start", "tool-weather", "step-start", "text",
    ]  # fmt: skip


@pytest.mark.parametrize("approved", [True, False])
async def test_an_approval_is_asked_for_and_answered(
    http: httpx.AsyncClient, approved: bool
) -> None:
    asked = await talk(http, "payer", message("Pay 3"))
    request = asked[-1]
    assert request["type"] == "tool-approval-request"
    part = {
        "type": "tool-pay",
        "toolCallId": request["toolCallId"],
        "state": "approval-responded",
        "input": {"amount": 3},
        "approval": {"id": request["approvalId"], "approved": approved, "reason": "too much"},
    }
    answer = {"id": asked[0]["messageId"], "role": "assistant", "parts": [part]}
    parts = await talk(http, "payer", message("Pay 3"), answer)
    assert parts[0] == {"type": "start", "messageId": asked[0]["messageId"]}
    given = "tool-output-available" if approved else "tool-output-denied"
    assert parts[1]["type"] == given
    assert parts[-1]["type"] == "finish"
    again = await http.post(
        "/chat/payer", json={"id": "chat-1", "messages": [message("Pay 3"), answer]}
    )
    assert again.status_code == 409


async def test_there_is_nothing_to_resume(http: httpx.AsyncClient) -> None:
    assert (await http.get("/chat/weather/chat-1/stream")).status_code == 204
    assert (await http.get("/chat/nobody/chat-1/stream")).status_code == 404
    assert (await http.get("/chat/weather/chat-9/messages")).status_code == 404
