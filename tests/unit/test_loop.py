from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import pydantic
import pytest

from mastra_nb.agents import Agent
from mastra_nb.context import Context
from mastra_nb.errors import (
    Blocked,
    ConfigError,
    LimitExceeded,
    ModelOutputError,
    ModelRefused,
    RunSuspended,
    SchemaError,
    Stopped,
    ToolRetry,
)
from mastra_nb.events import SpanEnded
from mastra_nb.limits import Limits
from mastra_nb.loop import StepResult, has_tool_call, step_count_is
from mastra_nb.messages import (
    Message,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    Usage,
    assistant,
)
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
    with pytest.raises(ModelOutputError, match="wrongly 3 times in a row: the arguments of"):
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


# How tools are called


async def test_tools_one_after_the_other() -> None:
    order: list[str] = []

    @tool
    async def wait(n: int) -> None:
        order.append(f"begin {n}")
        await asyncio.sleep(0.002 * n)
        order.append(f"end {n}")

    line = [calls("wait", id=str(n), n=n) for n in (3, 1, 2)]
    agent = Agent(name="a", model=ScriptedModel(line, "Ok."), tools=[wait], tool_call_concurrency=1)
    assert await agent.run("x") == "Ok."
    assert order == [f"{what} {n}" for n in (3, 1, 2) for what in ("begin", "end")]
    with pytest.raises(ConfigError, match="tool_call_concurrency is 0"):
        agent.replace(tool_call_concurrency=0)


async def test_a_choice_of_a_tool_that_is_none() -> None:
    model = ScriptedModel("never")
    agent = Agent(name="a", model=model, tools=[echo], tool_choice="ecko")
    with pytest.raises(ConfigError, match='"ecko", which is none of its tools') as caught:
        await agent.run("x")
    assert caught.value.hint == 'did you mean "echo"?'
    assert model.requests == []


async def test_active_tools_are_all_that_can_be_called() -> None:
    model = ScriptedModel([calls("fail", id="1", n=1), calls("echo", id="2", n=2)], "Ok.")
    run = Agent(name="a", model=model, tools=[echo, fail], active_tools=["echo"]).run("x")
    assert await run == "Ok."
    assert [t.name for t in model.requests[0].tools] == ["echo"]
    told = results(run.messages[2])
    assert told[0][1] == 'there is no tool "fail"; known: "echo"'
    assert told[1] == ("2", 2, False)


# Where a turn ends


async def test_predicates_over_the_finished_steps_end_a_turn() -> None:
    def line(n: int) -> Message:
        return Message(role="assistant", parts=(Text(text=f"Step {n}."), calls("echo", n=n)))

    async def big(steps: Sequence[StepResult]) -> bool:
        return any(r.output == 3 for r in steps[-1].results)

    for stop, steps in [
        (step_count_is(2), 2),
        ([step_count_is(9), has_tool_call("echo")], 1),
        (big, 3),
        (has_tool_call("nothing"), 5),
    ]:
        model = ScriptedModel(*map(line, range(1, 5)), "Done.")
        run = Agent(name="a", model=model, tools=[echo], stop_when=stop).run("x")
        assert await run == ("Done." if steps == 5 else f"Step {steps}.")
        assert len(model.requests) == steps


async def test_a_turn_that_is_stopped_still_gives_its_type() -> None:
    model = ScriptedModel(calls("echo", n=3), '{"value": 3}')
    agent = Agent(name="a", model=model, tools=[echo], output=int, stop_when=has_tool_call("echo"))
    assert await agent.run("x") == 3
    assert [m.text for m in model.requests[1].messages][1:] == ["echo: 3"]
    silent = agent.replace(output=None, model=ScriptedModel(calls("echo", n=3)))
    assert await silent.run("x") == ""


# Typed answers beside tools


async def test_two_phases_where_a_model_cannot_do_both() -> None:
    for profile in (Profile(json_with_tools=False), Profile(json_schema=False)):
        model = ScriptedModel(
            calls("echo", n=1), "Oslo has 1.", "?", '{"name": "Oslo", "people": 1}', profile=profile
        )
        run = Agent(name="a", model=model, tools=[echo], output=City).run("x")
        seen = [p async for p in run.partials()]
        assert await run == City("Oslo", 1) == seen[-1]
        assert run.text == "Oslo has 1."
        assert [r.output is None for r in model.requests] == (
            [True] * 2 + [not profile.json_schema] * 2
        )
        assert model.requests[2].tools == ()
        assert model.requests[2].messages[1].text == "Oslo has 1."
        assert ("fits this schema" in model.requests[2].messages[0].text) != profile.json_schema
        assert [m.role for m in model.requests[2].messages] == ["system", "user"]
    one = ScriptedModel(calls("echo", n=1), '{"name": "Oslo", "people": 1}')
    assert await Agent(name="a", model=one, tools=[echo], output=City).run("x") == City("Oslo", 1)
    assert len(one.requests) == 2


async def test_a_model_for_the_structure() -> None:
    model, maker = ScriptedModel("In words."), ScriptedModel("7", "no", '{"value": 8}')
    run = Agent(name="a", model=model, output=int, structuring_model=maker).run("x")
    assert await run == 7
    assert (run.text, model.requests[0].output) == ("In words.", None)
    again = Agent(name="a", model=ScriptedModel("Eight."), output=int, structuring_model=maker)
    assert await again.run("x") == 8
    bad = Agent(
        name="a", model=ScriptedModel("?"), output=int, structuring_model=ScriptedModel(*["no"] * 3)
    ).run("x")
    with pytest.raises(ModelOutputError, match="no valid int in 3 tries"):
        await bad
    assert bad.text == "?"


# Handing over


def chain(*models: ScriptedModel, **options: Any) -> Agent[Any]:
    agent: Agent[Any] | None = None
    for i, model in reversed([*enumerate(models)]):
        following = [agent] if agent is not None else []
        agent = Agent(
            name=f"agent {i}",
            instructions=f"You are {i}.",
            model=model,
            handoffs=following,
            **options,
        )
    assert agent is not None
    return agent


async def test_a_conversation_is_handed_over() -> None:
    words = Message(
        role="assistant", parts=(Text(text="One moment."), calls("transfer_to_agent_1"))
    )
    models = [
        ScriptedModel(words),
        ScriptedModel(calls("transfer_to_agent_2")),
        ScriptedModel("I am the last."),
    ]
    run = chain(*models).run("Help!")
    assert "".join([t async for t in run.stream_text()]) == "One moment.I am the last."
    assert await run == run.text == "I am the last."
    assert run.usage.calls == 3
    (tool_spec,) = models[0].requests[0].tools
    assert tool_spec.name == "transfer_to_agent_1"
    assert tool_spec.description == "Hand the conversation over to agent 1. You are 1."
    told = models[2].requests[0].messages
    assert [(m.role, m.text) for m in told] == [
        ("system", "You are 2."), ("user", "Help!"), ("assistant", "One moment."),
    ]  # fmt: skip
    assert "transfer" not in repr(told)
    kinds = [s.kind for s in run.view.spans.values()]
    assert kinds == ["agent", "model", "handoff", "model", "handoff", "model"]


async def test_agents_that_hand_over_for_ever_run_out_of_steps() -> None:
    one = Agent(name="one", model=ScriptedModel(calls("transfer_to_two"), repeat=True))
    two = Agent(name="two", model=ScriptedModel(calls("transfer_to_one"), repeat=True))
    one.handoffs, two.handoffs = [two], [one]
    run = one.replace(max_steps=5).run("x")
    with pytest.raises(LimitExceeded, match="no answer after 1 steps"):
        await run
    assert run.usage.calls == 5


async def test_who_takes_over_answers_with_the_type_that_was_asked_for() -> None:
    models = [ScriptedModel(calls("transfer_to_agent_1")), ScriptedModel('{"value": 3}')]
    agent = chain(*models).replace(output=int)
    assert await agent.run("x") == 3
    run = chain(ScriptedModel(calls("transfer_to_agent_1")), ScriptedModel(OSError("gone"))).run(
        "x"
    )
    with pytest.raises(OSError, match="gone"):
        await run


async def test_who_takes_over_remembers_in_its_own_thread() -> None:
    models = [ScriptedModel(calls("transfer_to_agent_1")), ScriptedModel("By 1.", repeat=True)]
    one = chain(*models, memory=True)
    one.handoffs[0].thread = "own-of-1"
    await one.run("x", thread="outer")
    assert [m.text for m in await one.history("outer")] == ["x", "By 1."]
    assert [m.text for m in await one.history("own-of-1")] == ["x", "By 1."]
    await one.replace(model=ScriptedModel(calls("transfer_to_agent_1"))).run("y", thread="outer")
    told = [m.text for m in models[1].requests[1].messages][1:]
    assert told == ["x", "By 1.", "x", "By 1.", "y"]


# Tools in the background


async def test_a_tool_in_the_background() -> None:
    done = asyncio.Event()

    @tool(background=True)
    async def dig() -> str:
        await done.wait()
        return "gold"

    def second(request: ModelRequest) -> Any:
        done.set()
        return calls("echo", id="e", n=1)

    model = ScriptedModel(calls("dig"), second, "Wait.", "Gold!")
    run = Agent(name="a", model=model, tools=[dig, echo]).run("x")
    assert await run == "Gold!"
    told = results(model.requests[1].messages[-1])
    assert told == [("call_dig", 'started as task "dig[0.0]"; its result will follow', False)]
    texts = [m.text for m in model.requests[-1].messages]
    assert 'Task "dig[0.0]" has finished: gold' in texts
    assert run.messages[-1].text == "Gold!"


async def test_background_tools_end_with_the_turn() -> None:
    stopped: list[bool] = []

    @tool(background=True)
    async def dig() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.append(True)

    run = Agent(name="a", model=ScriptedModel(calls("dig"), OSError("gone")), tools=[dig]).run("x")
    with pytest.raises(OSError, match="gone"):
        await run
    assert stopped == [True]
    assert run.view.spans["a/dig[0.0]"].status == "cancelled"
    slow = Tool(dig.fn, background=True, timeout=0.01)
    model = ScriptedModel(calls("dig"), "Meanwhile.", "It takes too long.")
    assert await Agent(name="a", model=model, tools=[slow]).run("x") == "It takes too long."
    assert (
        'Task "dig[0.0]" failed: tool "dig" did not answer' in model.requests[2].messages[-1].text
    )


async def test_the_budget_holds_in_the_background() -> None:
    @tool(background=True)
    async def dig() -> int:
        return 1

    line = [calls("dig", id=str(n)) for n in range(3)]
    run = Agent(name="a", model=ScriptedModel(line, "Hm.", "never"), tools=[dig]).run(
        "x", limits=Limits(tool_calls=2)
    )
    with pytest.raises(LimitExceeded, match="2 tool calls"):
        await run


def broken(*parts: Any) -> Reply:
    message = Message(role="assistant", parts=parts)
    return Reply(message=message, finish="error", usage=Usage(input=1, calls=1, cost=0.0))


async def test_an_answer_that_broke_off_is_asked_for_again() -> None:
    thought = Reasoning(text="hm")
    model = ScriptedModel(broken(thought), "Ok.", broken(), broken(), broken(Text(text="Half")))
    agent = Agent(name="a", model=model, memory=True)
    assert await agent.run("x", thread="broken") == "Ok."
    asked = model.requests[1].messages
    assert [m.role for m in asked] == ["user", "user"]
    assert asked[1].text == "Your last answer broke off: it could not be read. Answer again."
    assert [m.text for m in await agent.history("broken")] == ["x", "Ok."]
    with pytest.raises(ModelOutputError, match="broke off without an answer 2 times"):
        await agent.run("y")
    assert await agent.run("z") == "Half"


async def test_a_broken_answer_is_taken_up_where_it_was() -> None:
    agent = Agent(name="a", model=ScriptedModel(broken(), "Ok."))
    run = agent.run("x")
    await run
    log = [e for e in run.log.events if e.durable]
    for cut in range(1, len(log)):
        done = [e.span for e in log[:cut] if isinstance(e.data, SpanEnded)]
        model = ScriptedModel(*[broken(), "Ok."][len(done) :])
        resumed = agent.replace(model=model).load(run.id, "x", past=log[:cut]).resume()
        assert await resumed == "Ok."
        assert [m.text for m in resumed.messages if m.role == "user"] == [
            m.text for m in run.messages if m.role == "user"
        ]


def paused(*parts: Any) -> Reply:
    message = Message(role="assistant", parts=parts)
    return Reply(message=message, finish="pause", usage=Usage(input=1, calls=1, cost=0.0))


async def test_a_paused_answer_goes_on() -> None:
    search = Text(text="", extra={"anthropic": {"type": "server_tool_use", "id": "s"}})
    first = paused(Text(text="I search. "), search)
    model = ScriptedModel(first, paused(search), "Found.")
    agent = Agent(name="a", model=model, memory=True)
    run = agent.run("x", thread="paused")
    assert "".join([t async for t in run.stream_text()]) == await run == "I search. Found."
    assert model.requests[1].messages[-1] == first.message
    assert [m.role for m in model.requests[2].messages] == ["user", "assistant", "assistant"]
    assert [m.text for m in await agent.history("paused")] == ["x", "I search. ", "", "Found."]
    model = ScriptedModel(first, calls("echo", n=1), "Found.")
    assert await agent.replace(model=model, tools=[echo]).run("x") == "Found."
    endless = ScriptedModel(first, repeat=True)
    with pytest.raises(LimitExceeded, match="no answer after 4 steps"):
        await agent.replace(model=endless, max_steps=4).run("x")
    assert len(endless.requests) == 4


async def test_a_paused_answer_of_a_type() -> None:
    model = ScriptedModel(paused(Text(text='{"name": "Oslo", ')), '"people": 7}')
    assert await Agent(name="a", model=model, output=City).run("x") == City("Oslo", 7)
