from __future__ import annotations

import asyncio
from typing import Any, Literal

import msgspec
import pydantic
import pytest

from mastra_nb.agents import Agent
from mastra_nb.context import Context
from mastra_nb.errors import (
    Blocked,
    LimitExceeded,
    ModelOutputError,
    ModelRefused,
    RunSuspended,
    SchemaError,
    Stopped,
    ToolRetry,
)
from mastra_nb.limits import Limits
from mastra_nb.messages import Message, Reasoning, Text, ToolCall, ToolResult, assistant
from mastra_nb.models import ModelRequest, Profile, Reply
from mastra_nb.processors import Processor, Turn
from mastra_nb.testing import ScriptedModel, calls
from mastra_nb.tools import Tool, tool


class City(msgspec.Struct):
    name: str
    people: int


class Person(pydantic.BaseModel):
    name: str
    age: int = pydantic.Field(ge=0)


@tool
async def echo(n: int) -> int:
    return n


@tool
async def fail(n: int) -> None:
    raise ValueError(f"no {n}")


def results(message: Message) -> list[tuple[str, Any, bool]]:
    return [(p.id, p.output, p.is_error) for p in message.parts if isinstance(p, ToolResult)]


async def test_a_plain_answer() -> None:
    with ScriptedModel("Hi.") as model:
        run = Agent(name="a", model=model, instructions="Be kind.").run("Hello")
        assert await run == "Hi."
    (request,) = model.requests
    assert [(m.role, m.text) for m in request.messages] == [
        ("system", "Be kind."), ("user", "Hello"),
    ]  # fmt: skip
    assert run.usage.calls == 1


async def test_parallel_calls_keep_order_and_ids() -> None:
    order: list[int] = []

    @tool
    async def wait(n: int) -> int:
        await asyncio.sleep(0.01 * n)
        order.append(n)
        return n

    line = [calls("wait", id=f"c{n}", n=n) for n in (3, 1, 2)]
    line += [
        calls("fail", id="f", n=1),
        calls("nothing", id="u"),
        ToolCall(id="b", name="echo", args="{"),
    ]
    model = ScriptedModel(line, "Done.")
    agent = Agent(name="a", model=model, tools=[wait, fail, echo])
    run = agent.run("x")
    assert await run == "Done."
    assert order == [1, 2, 3]
    told = results(model.requests[1].messages[-1])
    assert [t[:2] for t in told[:3]] == [("c3", 3), ("c1", 1), ("c2", 2)]
    assert told[3] == ("f", 'tool "fail" failed: ValueError: no 1', True)
    assert told[4] == ("u", 'there is no tool "nothing"; known: "echo", "fail", "wait"', True)
    assert told[5][2]
    assert told[5][1].startswith('the arguments of "echo" are wrong: not valid JSON')


async def test_not_too_many_at_once() -> None:
    now = most = 0

    @tool
    async def count() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1

    model = ScriptedModel([calls("count", id=str(i)) for i in range(40)], "Done.")
    assert await Agent(name="a", model=model, tools=[count]).run("x") == "Done."
    assert most == 10


async def test_wrong_calls_are_told_and_have_an_end() -> None:
    wrong = calls("echo", n="x")
    agent = Agent(
        name="a", model=ScriptedModel(wrong, wrong, calls("echo", n=1), "Ok."), tools=[echo]
    )
    assert await agent.run("x") == "Ok."
    model = ScriptedModel(wrong, calls("nope"), wrong, "never")
    with pytest.raises(ModelOutputError, match="called tools wrongly 3 times in a row"):
        await Agent(name="a", model=model, tools=[echo]).run("x")
    assert len(model.requests) == 3
    mixed = [calls("echo", id="1", n="x"), calls("echo", id="2", n=1)]
    agent = Agent(name="a", model=ScriptedModel(*[mixed] * 4, "Ok."), tools=[echo])
    assert await agent.run("x") == "Ok."


async def test_odd_names_stay_inside_their_path() -> None:
    line = [ToolCall(id="1", name="../a/model[0]"), ToolCall(id="2", name="x" * 500)]
    run = Agent(name="a", model=ScriptedModel(line, "Ok."), tools=[echo]).run("x")
    assert await run == "Ok."
    paths = [p for p in run.view.spans if p != "a"]
    assert all(p.count("/") == 1 and len(p) < 80 for p in paths)


async def test_steps_have_an_end() -> None:
    model = ScriptedModel(*[calls("echo", n=1)] * 9)
    agent = Agent(name="a", model=model, tools=[echo], max_steps=3)
    run = agent.run("x")
    with pytest.raises(LimitExceeded, match="no answer after 3 steps"):
        await run
    assert len(model.requests) == 3
    assert results(run.messages[-1]) == [("call_echo", "not run: the turn was stopped", True)]


async def test_a_tool_may_ask_for_another_try() -> None:
    @tool
    async def pick(n: int) -> int:
        if n > 3:
            raise ToolRetry("n must be at most 3")
        return n

    model = ScriptedModel(calls("pick", n=9), calls("pick", n=2), "Two.")
    run = Agent(name="a", model=model, tools=[pick]).run("x")
    assert await run == "Two."
    assert results(run.messages[2]) == [("call_pick", "n must be at most 3", True)]


# Typed answers


@pytest.mark.parametrize(
    ("output", "says", "value"),
    [
        (City, '{"name": "Oslo", "people": "700000"}', City("Oslo", 700_000)),
        (Person, 'Sure:\n```json\n{"name": "Ann", "age": 3}\n```', Person(name="Ann", age=3)),
        (int, '{"value": 3}', 3),
        (list[City], '{"value": [{"name": "Oslo", "people": 1}]}', [City("Oslo", 1)]),
        (City | None, '{"value": null}', None),
        (Literal["yes", "no"], '{"value": "yes"}', "yes"),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (str, "plain", "plain"),
    ],
)
async def test_answers_have_types(output: Any, says: str, value: Any) -> None:
    model = ScriptedModel(says)
    assert await Agent(name="a", model=model, output=output).run("x") == value
    asked = model.requests[0].output
    assert (asked is None) == (output is str)
    assert asked is None or asked["type"] == "object"


async def test_a_model_without_schemas_is_told_in_words() -> None:
    model = ScriptedModel("42", profile=Profile(json_schema=False))
    assert await Agent(name="a", model=model, output=int, instructions="Count.").run("x") == 42
    (request,) = model.requests
    assert request.output is None
    assert request.messages[0].text.startswith(
        "Count.\n\nAnswer with JSON that fits this schema: {"
    )


async def test_a_wrong_answer_is_asked_for_again() -> None:
    model = ScriptedModel("Oslo!", '{"name": "Oslo"}', '{"name": "Oslo", "people": 1}')
    run = Agent(name="a", model=model, output=City).run("x")
    assert await run == City("Oslo", 1)
    last = model.requests[2].messages
    assert [m.role for m in last] == ["user", *["assistant", "user"] * 2]
    assert "missing required field `people`" in last[-1].text
    assert run.usage.calls == 3


async def test_three_wrong_answers_are_enough() -> None:
    run = Agent(name="a", model=ScriptedModel(*["no"] * 9), output=City).run("x")
    with pytest.raises(ModelOutputError, match="gave no valid City in 3 tries") as caught:
        await run
    assert caught.value.details == {"text": "no"}


async def test_a_type_without_a_schema_is_said_before_anything_is_sent() -> None:
    model = ScriptedModel("x")
    with pytest.raises(SchemaError, match="has no JSON schema"):
        await Agent(name="a", model=model, output=Context).run("x")
    bad = Tool(lambda x: x, name="f")
    bad.fn.__annotations__["x"] = Context | int
    bad.fn.__annotations__["x"] = asyncio.Queue
    with pytest.raises(SchemaError, match="has no JSON schema"):
        await Agent(name="a", model=model, tools=[bad]).run("x")
    assert model.requests == []


async def test_a_refusal() -> None:
    refused = Reply(message=Message(role="assistant", parts=()), finish="content-filter")
    with pytest.raises(ModelRefused, match="refused to answer"):
        await Agent(name="a", model=ScriptedModel(refused)).run("x")


async def test_a_choice_of_tool_is_for_the_first_step() -> None:
    model = ScriptedModel(calls("echo", n=1), "Ok.")
    await Agent(name="a", model=model, tools=[echo], tool_choice="echo").run("x")
    assert [r.tool_choice for r in model.requests] == ["echo", "auto"]


# Processors


class Watch(Processor):
    def __init__(self) -> None:
        self.turns: list[tuple[str, list[str]]] = []

    async def process_input(self, turn: Turn, ctx: Context) -> None:
        turn.instructions += " And be brief."
        turn.history = [assistant("Earlier.")]

    async def after(self, turn: Turn, ctx: Context) -> None:
        self.turns.append((ctx.path, [m.role for _, m in turn.kept]))


class Guard(Processor):
    async def process_input(self, turn: Turn, ctx: Context) -> None:
        raise Blocked("not here")


async def test_processors_see_a_turn_before_and_after() -> None:
    watch = Watch()
    model = ScriptedModel("no", '{"value": 1}')
    agent = Agent(name="a", model=model, instructions="Count.", output=int, processors=[watch])
    assert await agent.run("x") == 1
    assert [m.text for m in model.requests[0].messages] == ["Count. And be brief.", "Earlier.", "x"]
    assert watch.turns == [("a", ["user", "assistant"])]


async def test_processors_see_the_end_of_what_failed() -> None:
    watch = Watch()
    agent = Agent(name="a", model=ScriptedModel(OSError("gone")), processors=[watch])
    with pytest.raises(OSError, match="gone"):
        await agent.run("x")
    assert watch.turns == [("a", ["user"])]
    guarded = Agent(name="a", model=ScriptedModel("never"), processors=[watch, Guard()])
    with pytest.raises(Blocked):
        await guarded.run("x")


# Sub-agents


async def test_a_sub_agent_is_a_tool_of_the_same_run() -> None:
    sub = Agent(
        name="Deep thought", description="Thinks.", output=int, model=ScriptedModel('{"value": 42}')
    )
    model = ScriptedModel(calls("Deep_thought", prompt="why?"), "42, they say.")
    run = Agent(name="top", model=model, tools=[sub]).run("x")
    assert await run == "42, they say."
    assert [s.kind for s in run.view.spans.values()] == [
        "agent",
        "model",
        "agent",
        "model",
        "model",
    ]
    assert results(run.messages[-2])[0][1] == 42
    assert model.requests[0].tools[0].name == "Deep_thought"
    assert run.usage.calls == 3


async def test_a_sub_agent_without_a_task() -> None:
    sub = Agent(name="sub", model=ScriptedModel())
    model = ScriptedModel(calls("sub", question="why?"), "Ok.")
    run = Agent(name="top", model=model, tools=[sub]).run("x")
    assert await run == "Ok."
    assert 'needs an argument "prompt"' in results(run.messages[2])[0][1]


async def test_a_sub_agent_that_uses_up_its_own_steps_is_told() -> None:
    sub = Agent(
        name="sub", model=ScriptedModel(*[calls("echo", n=1)] * 9), tools=[echo], max_steps=2
    )
    run = Agent(name="top", model=ScriptedModel(calls("sub", prompt="x"), "Ok."), tools=[sub]).run(
        "x"
    )
    assert await run == "Ok."
    assert results(run.view.messages[-2][2])[0][1] == "no answer after 2 steps"


async def test_an_approval_deep_inside() -> None:
    act = Tool(lambda: "acted", name="act", needs_approval=True)
    sub = Agent(name="sub", model=ScriptedModel(calls("act"), "Sub done."), tools=[act])
    top = Agent(name="top", model=ScriptedModel(calls("sub", prompt="x"), "Done."), tools=[sub])
    run = top.run("x")
    with pytest.raises(RunSuspended):
        await run
    assert [*run.pending] == ["top/sub[0.0]/act[0.0]"]
    assert await run.resume({"approved": True}) == "Done."


# What is kept when a turn ends early


async def test_the_results_of_finished_calls_are_kept() -> None:
    model = ScriptedModel([calls("echo", id=str(n), n=n) for n in range(4)])
    run = Agent(name="a", model=model, tools=[echo]).run("x", limits=Limits(tool_calls=2))
    with pytest.raises(LimitExceeded):
        await run
    told = results(run.messages[-1])
    assert [t[0] for t in told] == ["0", "1", "2", "3"]
    assert [t[1] for t in told] == [0, 1, *["not run: the turn was stopped"] * 2]


async def test_a_failed_run_that_goes_on_believes_its_log() -> None:
    ran: list[int] = []

    @tool
    async def act(n: int) -> int:
        ran.append(n)
        return n

    model = ScriptedModel([calls("act", id="1", n=1), calls("act", id="2", n=2)], "I see.")
    run = Agent(name="a", model=model, tools=[act]).run("x", limits=Limits(tool_calls=1))
    with pytest.raises(LimitExceeded):
        await run
    resumed = run.resume()
    assert await resumed == "I see."
    assert ran == [1]
    assert model.requests[1].messages[-1] == run.messages[-1]


async def test_what_was_thought_but_not_said_is_no_message_of_the_turn() -> None:
    class Thinker(ScriptedModel):
        async def _say(self, part: Text | Reasoning, ctx: Context) -> None:
            await super()._say(part, ctx)
            if isinstance(part, Reasoning):
                await asyncio.sleep(5)

    line = Message(role="assistant", parts=(Reasoning(text="Hm"), Text(text="Hi")))
    watch = Watch()
    run = Agent(name="a", model=Thinker(line), processors=[watch]).run("x")
    async for event in run.events():
        if event.n:
            run.cancel()
    with pytest.raises(Stopped):
        await run
    assert watch.turns == [("a", ["user"])]


async def test_history_is_not_copied_into_the_log() -> None:
    def line(request: ModelRequest) -> Any:
        return calls("echo", n=1) if len(request.messages) < 40 else "Done."

    model = ScriptedModel(line, repeat=True)
    run = Agent(name="a", model=model, tools=[echo], max_steps=99).run("x" * 1000)
    assert await run == "Done."
    size = sum(len(msgspec.json.encode(e)) for e in run.log.events if e.durable)
    assert size < 60_000
