"""The embedded model itself. Needs its weights: `python -m mastra_nb.providers.local pull`."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from typing import Any

import pytest

from mastra_nb import Agent, tool
from mastra_nb.errors import ModelError
from mastra_nb.events import ArgsDelta, Payload, TextDelta
from mastra_nb.messages import Message, ToolResult, ToolSpec, assistant, system, user
from mastra_nb.models import ModelRequest, ModelSettings, Reply
from mastra_nb.providers._llama import context_size, shared_engine
from mastra_nb.providers._weights import locate
from mastra_nb.providers.local import LocalModel

pytestmark = pytest.mark.slow

WEATHER = ToolSpec(
    name="get_weather",
    description="Get the current weather for a city.",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
)
CALCULATE = ToolSpec(
    name="calculate",
    description="Evaluate an arithmetic expression.",
    parameters={
        "type": "object",
        "properties": {"expression": {"type": "string"}},
        "required": ["expression"],
    },
)
TOOLS = (WEATHER, CALCULATE)


class Ctx:
    def __init__(self) -> None:
        self.out: list[Payload] = []
        self.spoke = asyncio.Event()

    def emit(self, data: Payload) -> int:
        self.out.append(data)
        self.spoke.set()
        return len(self.out)

    @property
    def text(self) -> str:
        return "".join(d.text for d in self.out if isinstance(d, TextDelta))


async def say(*messages: Message, **options: Any) -> tuple[Reply, Ctx]:
    ctx: Any = Ctx()
    return await LocalModel().invoke(ModelRequest(messages=messages, **options), ctx), ctx


def result(reply: Reply, output: Any) -> tuple[Message, Message]:
    call = reply.message.tool_calls[0]
    part = ToolResult(id=call.id, name=call.name, output=output)
    return reply.message, Message(role="tool", parts=(part,))


async def test_chat_streams_what_it_returns_and_follows_its_instructions() -> None:
    reply, ctx = await say(
        system("You answer every question in French."), user("What is the colour of the sky?")
    )
    assert reply.message.text == ctx.text and len(ctx.out) > 3
    assert {"le", "la", "est"} & set(ctx.text.lower().split()) and reply.finish == "stop"
    assert reply.usage.input > 10 and reply.usage.output > 3 and reply.usage.cost == 0.0


async def test_one_tool_and_then_an_answer_that_uses_it() -> None:
    talk = (system("Answer in one sentence."), user("What's the weather in Oslo right now?"))
    first, ctx = await say(*talk, tools=TOOLS)
    call = first.message.tool_calls[0]
    assert (call.name, json.loads(call.args)) == ("get_weather", {"city": "Oslo"})
    assert first.finish == "tool-calls" and isinstance(ctx.out[0], ArgsDelta)
    done = result(first, {"city": "Oslo", "temp_c": 4, "sky": "rain"})
    second, ctx = await say(*talk, *done, tools=TOOLS)
    assert second.finish == "stop" and "rain" in second.message.text.lower()
    assert second.message.text == ctx.text


async def test_two_tools_one_after_the_other() -> None:
    talk: tuple[Message, ...] = (
        user("What's the weather in Bergen? Then multiply the temperature by 3."),
    )
    first, _ = await say(*talk, tools=TOOLS)
    assert first.message.tool_calls[0].name == "get_weather"
    talk += result(first, {"city": "Bergen", "temp_c": 7, "sky": "cloudy"})
    second, _ = await say(*talk, tools=TOOLS)
    assert second.message.tool_calls[0].name == "calculate"
    talk += result(second, 21)
    third, _ = await say(*talk, tools=TOOLS)
    assert "21" in third.message.text


@pytest.mark.parametrize("text", ["Hello! Who are you?", "What is the capital of France?"])
async def test_no_tool_where_none_is_needed(text: str) -> None:
    reply, _ = await say(user(text), tools=TOOLS)
    assert reply.message.tool_calls == () and reply.message.text


async def test_an_output_schema_holds() -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    reply, _ = await say(user("Anna Berg is a 41 year old engineer from Malmö."), output=schema)
    assert json.loads(reply.message.text)["age"] == 41


async def test_equal_requests_get_equal_answers_whatever_came_before() -> None:
    talk = (system("Be brief."), user("Explain recursion in two sentences."))
    tools = (user("How much is 23 * 17?"),)
    first = [(await say(*talk))[0], (await say(*tools, tools=TOOLS))[0]]
    for other in ("Explain recursion in two words.", "Describe a horse."):
        await say(system("Be brief."), user(other), assistant("Well."), user("Go on."))
        await say(user(other), tools=TOOLS[:1])
        again = [(await say(*talk))[0], (await say(*tools, tools=TOOLS))[0]]
        assert [r.message for r in again] == [r.message for r in first]


def test_a_new_process_gives_the_same_answer() -> None:
    code = (
        "from mastra_nb import Agent\n"
        "agent = Agent(name='a', instructions='Be brief.', model='local')\n"
        "print(agent.run('Name three rivers and one fact about each.').result())"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(answers) == 1 and answers.pop().strip()


@pytest.mark.parametrize("moment", ["while it speaks", "while it reads"])
async def test_a_cancelled_call_stops_soon_and_the_next_one_works(moment: str) -> None:
    long = "Count from one to five hundred in words. " * (60 if moment == "while it reads" else 1)
    ctx: Any = Ctx()
    request = ModelRequest(messages=(user(long),), settings=ModelSettings(max_tokens=800))
    task = asyncio.create_task(LocalModel().invoke(request, ctx))
    if moment == "while it speaks":
        await asyncio.wait_for(ctx.spoke.wait(), 60)
    else:
        await asyncio.sleep(0.5)
    task.cancel()
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    # One batch of 16 tokens on a machine that may be busy with other things.
    assert time.monotonic() - began < 5
    assert bool(ctx.out) == (moment == "while it speaks")
    reply, _ = await say(user("Say hello."), settings=ModelSettings(max_tokens=10))
    assert reply.message.text


async def test_a_prompt_that_is_too_long_says_so() -> None:
    with pytest.raises(ModelError, match="tokens") as caught:
        await say(user("word " * 6000))
    assert caught.value.code == "model.context_length"


async def test_nobody_else_can_use_the_engine() -> None:
    await say(user("Hi"), settings=ModelSettings(max_tokens=2))
    path = locate("small")
    assert path is not None
    engine: Any = shared_engine(path, context_size())
    url = engine._start().listening_address
    assert url.startswith("http://127.0.0.1:")
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}]}).encode()
    request = urllib.request.Request(url + "/v1/chat/completions", body)
    with pytest.raises(urllib.error.HTTPError) as caught:
        await asyncio.to_thread(urllib.request.urlopen, request)
    caught.value.close()
    assert caught.value.code == 401


def test_an_agent_in_a_script_and_in_a_thread() -> None:
    @tool
    def get_weather(city: str) -> dict[str, object]:
        """The weather forecast for a city tomorrow."""
        return {"city": city, "max_c": 21, "sky": "sunny"}

    agent = Agent(
        name="weather", instructions="Answer in one sentence.", model="local", tools=[get_weather]
    )
    answers: list[str] = []

    def work() -> None:
        answers.append(agent.run("What will the weather be in Bergen tomorrow?").result())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 2 and answers[0] == answers[1]
    assert "21" in answers[0] and "sunny" in answers[0]
