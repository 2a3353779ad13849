from __future__ import annotations

import socket
from typing import Any

import pytest

from mastra_nb.agents import Agent
from mastra_nb.errors import ModelError
from mastra_nb.messages import Message, Reasoning, Text, Usage, assistant
from mastra_nb.models import ModelRequest, Reply
from mastra_nb.testing import FakeEmbedder, ScriptedModel, calls, no_network


async def said(line: Any) -> Any:
    return await Agent(name="a", model=ScriptedModel(line)).run("x")


async def test_lines_of_every_kind() -> None:
    assert await said("text") == "text"
    assert await said(assistant("message")) == "message"
    assert await said(Reply(message=assistant("reply"), usage=Usage(calls=1))) == "reply"
    assert await said(lambda request: request.messages[0].text + "!") == "x!"
    with pytest.raises(OSError, match="gone"):
        await said(OSError("gone"))
    with pytest.raises(KeyError):
        await said(lambda request: KeyError("x"))


def test_calls_are_json() -> None:
    call = calls("f", "id", city="Oslo", n=1)
    assert (call.id, call.name, call.args) == ("id", "f", '{"city":"Oslo","n":1}')
    assert calls("f").id == "call_f"


async def test_too_many_and_too_few_calls() -> None:
    agent = Agent(name="a", model=ScriptedModel("one"))
    await agent.run("x")
    with pytest.raises(ModelError, match="the script of 1 lines is used up"):
        await agent.run("x")
    with pytest.raises(AssertionError, match="1 of 1 scripted lines left over"):
        ScriptedModel("never").assert_done()
    with pytest.raises(ValueError, match="first"), ScriptedModel("never"):
        raise ValueError("first")
    again = Agent(name="a", model=ScriptedModel("one", "two", repeat=True))
    assert [await again.run("x") for _ in range(3)] == ["one", "two", "one"]


async def test_it_speaks_in_pieces() -> None:
    line = Message(
        role="assistant", parts=(Reasoning(text="thinking it over"), Text(text="said it"))
    )
    run = Agent(name="a", model=ScriptedModel(line, piece=3)).run("x")
    await run
    deltas = [e.data for e in run.log.events if not e.durable]
    assert max(len(d.text) for d in deltas) == 3  # type: ignore[union-attr]
    assert "".join(d.text for d in deltas) == "thinking it oversaid it"  # type: ignore[union-attr]


async def test_requests_are_kept() -> None:
    model = ScriptedModel("Hi.")
    await Agent(name="a", model=model, instructions="Be kind.").run("x")
    assert isinstance(model.requests[0], ModelRequest)
    assert model.requests[0].messages[0].text == "Be kind."


def test_no_network() -> None:
    refused = pytest.raises(AssertionError, match="tried to connect")
    with no_network(), socket.socket() as client, refused:
        client.connect(("127.0.0.1", 9))
    with no_network(allow_loopback=True), socket.socket() as client:
        with pytest.raises(OSError, match="refused"):
            client.connect(("127.0.0.1", 9))
        with pytest.raises(AssertionError):
            client.connect(("192.0.2.1", 9))
    with socket.socket() as client, pytest.raises(OSError, match="refused"):
        client.connect(("127.0.0.1", 9))


async def test_a_fake_embedder_puts_shared_words_near() -> None:
    fake = FakeEmbedder(32)
    reply = await fake.embed(["The cat sat", "the CAT slept", "quarterly tax report", ""])
    a, b, c, empty = reply.vectors
    assert reply.dimensions == 32
    assert a @ b > a @ c
    assert [round(float(v @ v), 5) for v in (a, b, c, empty)] == [1.0] * 4
    fake.fail[2] = OSError("down")
    with pytest.raises(OSError, match="down"):
        await fake.embed(["x"])
    assert fake.calls[1] == ("x",)
