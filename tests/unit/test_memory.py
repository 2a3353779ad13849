from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mastra_nb.agents import Agent
from mastra_nb.app import Mastra
from mastra_nb.errors import ConfigError, RunSuspended
from mastra_nb.memory._asking import size
from mastra_nb.memory.memory import Memory, whole
from mastra_nb.messages import Message, ToolCall, ToolResult, assistant, user
from mastra_nb.services import Services
from mastra_nb.storage import ThreadMessage
from mastra_nb.stores.memory import MemoryStore
from mastra_nb.testing import ScriptedModel, calls
from mastra_nb.tools import Tool, tool


@pytest.fixture
def services() -> Services:
    return Services(store=MemoryStore())


def talker(services: Services | None, *script: Any, **options: Any) -> Agent[Any]:
    options.setdefault("memory", True)
    return Agent(name="a", model=ScriptedModel(*script), thread="t", services=services, **options)


def numbered(*messages: Message) -> list[ThreadMessage]:
    return [ThreadMessage(pos=n, run="r", seq=n, message=m) for n, m in enumerate(messages, 1)]


def texts(messages: Any) -> list[str]:
    return [f"{m.role}: {m.text}" for m in messages]


async def test_a_conversation_is_remembered(services: Services) -> None:
    agent = talker(services, "Hello, Ann.", "You are Ann.", instructions="Be kind.")
    await agent.run("I am Ann.")
    await agent.run("Who am I?")
    assert texts(agent.model.requests[1].messages) == [  # type: ignore[union-attr]
        "system: Be kind.", "user: I am Ann.", "assistant: Hello, Ann.", "user: Who am I?",
    ]  # fmt: skip
    assert texts(await agent.history()) == [
        "user: I am Ann.", "assistant: Hello, Ann.", "user: Who am I?", "assistant: You are Ann.",
    ]  # fmt: skip
    assert texts(await agent.history(last=1)) == ["assistant: You are Ann."]
    assert await agent.history("other") == []


async def test_without_a_store_agents_share_one_in_memory() -> None:
    one, two = talker(None, "1"), talker(None, "2")
    await one.run("x", thread="shared")
    await two.run("y", thread="shared")
    assert texts(await two.history("shared")) == [
        "user: x",
        "assistant: 1",
        "user: y",
        "assistant: 2",
    ]


async def test_an_application_without_a_store_keeps_its_settings_and_readers() -> None:
    app = Mastra(agents=[agent := talker(None, "Hi.")])
    seen: list[Any] = []
    app.services.sinks.append(seen.append)
    run = agent.run("x")
    assert await run == "Hi."
    assert seen == run.log.events
    assert run.log.services.settings is app.settings
    assert app.store is None


async def test_the_window_never_parts_a_call_from_its_result(services: Services) -> None:
    echo = Tool(lambda n: n, name="echo")
    one = ["Ok.", calls("echo", n=1), calls("echo", n=2), "Done."]
    agent = talker(services, *one, "Fine.", tools=[echo], memory=Memory(last_messages=3))
    await agent.run("first")
    await agent.run("second")
    await agent.run("third")
    last = agent.model.requests[-1].messages  # type: ignore[union-attr]
    assert [m.role for m in last] == [
        "user",
        "assistant",
        "tool",
        "assistant",
        "tool",
        "assistant",
        "user",
    ]
    assert last[0].text == "second"


def test_whole_starts_with_a_person() -> None:
    result = Message(role="tool", parts=(ToolResult(id="1", name="t"),))
    said = numbered(result, assistant("x"), user("y"), assistant("z"))
    assert whole(said) == said[2:]
    assert whole(said[:2]) == []


@given(st.lists(st.integers(0, 4), max_size=8), st.integers(1, 400))
def test_a_budget_of_tokens_takes_whole_exchanges(tools: list[int], tokens: int) -> None:
    messages: list[Message] = []
    for i, n in enumerate(tools):
        messages.append(user(f"question {i} " + "x" * 7 * i))
        for k in range(n):
            id = f"{i}.{k}"
            messages.append(assistant(ToolCall(id=id, name="f")))
            messages.append(Message(role="tool", parts=(ToolResult(id=id, name="f", output=k),)))
        messages.append(assistant(f"answer {i}"))
    said = numbered(*messages)
    kept = whole(said, tokens)
    assert kept == said[len(said) - len(kept) :]
    if not said:
        return
    # The newest exchange is always there, and nothing begins in the middle of one.
    assert kept[0].message.role == "user"
    newest = max(m.pos for m in said if m.message.role == "user")
    assert kept[0].pos <= newest
    total = sum(size(m.message) for m in kept)
    assert total <= tokens or kept[0].pos == newest
    # It is the longest that fits.
    before = [m.pos for m in said if m.message.role == "user" and m.pos < kept[0].pos]
    if before:
        longer = said[before[-1] - 1 :]
        assert sum(size(m.message) for m in longer) > tokens


def test_a_window_of_nothing() -> None:
    with pytest.raises(ConfigError, match="last_messages is 0"):
        Memory(last_messages=0)
    assert repr(Memory()) == "Memory(last_messages=40)"


async def test_drafts_and_failures_leave_no_trace(services: Services) -> None:
    agent = talker(services, "no", '{"value": 1}', OSError("gone"), '{"value": 2}', output=int)
    assert await agent.run("one") == 1
    with pytest.raises(OSError, match="gone"):
        await agent.run("lost")
    assert await agent.run("two") == 2
    assert texts(await agent.history()) == [
        "user: one", 'assistant: {"value": 1}', "user: two", 'assistant: {"value": 2}',
    ]  # fmt: skip


async def test_a_resumed_run_sees_the_thread_as_it_was(services: Services) -> None:
    act = Tool(lambda: "acted", name="act", needs_approval=True)
    agent = talker(services, "Hi.", calls("act"), "Between.", "Done.", tools=[act])
    await agent.run("first")
    waits = agent.run("second")
    with pytest.raises(RunSuspended):
        await waits
    await agent.run("third")
    assert await waits.resume({"approved": True}) == "Done."
    asked = agent.model.requests[-1].messages  # type: ignore[union-attr]
    assert [m.text for m in asked if m.role == "user"] == ["first", "second"]
    roles = [m.role for m in await agent.history()]
    assert roles == ["user", "assistant"] * 2 + ["user", "assistant", "tool", "assistant"]


async def test_turns_that_run_at_once_stay_whole(services: Services) -> None:
    @tool
    async def nap(n: int) -> int:
        await asyncio.sleep(0.001 * n)
        return n

    def line(request: Any) -> Any:
        n = int([m for m in request.messages if m.role == "user"][-1].text)
        return str(n) if request.messages[-1].role == "tool" else calls("nap", n=n % 5)

    agent = Agent(
        name="a",
        model=ScriptedModel(line, repeat=True),
        tools=[nap],
        memory=True,
        services=services,
    )
    await asyncio.gather(*(agent.run(str(n), thread="t") for n in range(10)))
    kept = await agent.history("t")
    assert [m.role for m in kept] == ["user", "assistant", "tool", "assistant"] * 10
    for i in range(0, 40, 4):
        assert kept[i].text == kept[i + 3].text


async def test_a_sub_agent_has_a_thread_of_its_own_or_none(services: Services) -> None:
    quiet = Agent(name="quiet", model=ScriptedModel("Q1", "Q2"), memory=True)
    named = Agent(name="named", model=ScriptedModel("N1", "N2"), memory=True, thread="sub")
    both = [calls("quiet", id="1", prompt="q"), calls("named", id="2", prompt="n")]
    agent = talker(services, both, "One.", both, "Two.", tools=[quiet, named])
    await agent.run("first")
    await agent.run("second")
    assert [m.role for m in await agent.history()] == ["user", "assistant", "tool", "assistant"] * 2
    assert len(quiet.model.requests[1].messages) == 1  # type: ignore[union-attr]
    assert texts(named.model.requests[1].messages) == ["user: n", "assistant: N1", "user: n"]  # type: ignore[union-attr]


async def test_a_run_inside_a_tool_may_name_a_thread(services: Services) -> None:
    inner = Agent(name="inner", model=ScriptedModel("Hi."), memory=True)

    async def outer() -> str:
        return await inner.run("x", thread="mine")

    agent = talker(services, calls("outer"), "Ok.", tools=[outer])
    await agent.run("go")
    assert texts(await agent.history("mine")) == ["user: x", "assistant: Hi."]


async def test_an_agent_that_remembers_needs_no_named_thread() -> None:
    model = ScriptedModel("One.", "Two.")
    one = Agent(name="one", model=model, memory=True)
    await one.run("first")
    await one.run("second")
    assert [m.text for m in model.requests[-1].messages] == ["first", "One.", "second"]
    assert [m.text for m in await one.history()] == ["first", "One.", "second", "Two."]
    two = Agent(name="two", model=ScriptedModel("Hi."), memory=True)
    await two.run("other")
    assert len(await two.history()) == 2
