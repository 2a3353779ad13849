from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from mastra_nb.agents import Agent, prompt_messages
from mastra_nb.config import Settings
from mastra_nb.context import Context
from mastra_nb.errors import ConfigError, LimitExceeded, NotFound, SchemaError, UsageError
from mastra_nb.limits import Limits
from mastra_nb.messages import Media, Text, assistant, user
from mastra_nb.models import ModelSettings
from mastra_nb.runs import Run
from mastra_nb.schema import to_json
from mastra_nb.services import Services
from mastra_nb.testing import ScriptedModel, calls
from mastra_nb.tools import Tool


def agent(*script: Any, **options: Any) -> Agent[Any]:
    return Agent(name="a", model=ScriptedModel(*script), **options)


def test_definitions_that_cannot_work() -> None:
    for name in ("", "a/b"):
        with pytest.raises(ConfigError, match="cannot name an agent"):
            Agent(name=name)
    for tools in ("search", print):
        with pytest.raises(ConfigError, match="must be a list"):
            Agent(name="a", tools=tools)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="int is not a tool"):
        _ = agent(tools=[3]).toolset
    with pytest.raises(ConfigError, match="two tools are named"):
        _ = agent(tools=[Tool(print, name="f"), Tool(input, name="f")]).toolset


async def test_functions_see_the_types_beside_them() -> None:
    @dataclass
    class Local:
        n: int

    def make() -> Agent[Any]:
        def use(thing: Local) -> int:
            return thing.n

        return agent(calls("use", thing={"n": 3}), "Ok.", tools=[use])

    def use(thing: Local) -> int:
        return thing.n

    run = agent(calls("use", thing={"n": 3}), "Ok.", tools=[use]).run("x")
    assert await run == "Ok."
    assert run.messages[2].parts[0].output == 3  # type: ignore[union-attr]
    with pytest.raises(SchemaError, match="cannot be resolved"):
        await make().run("x")
    with pytest.raises(ConfigError, match="cannot name a tool"):
        agent(tools=[lambda: 1])


async def test_a_model_by_default_by_name_or_not_at_all() -> None:
    bare = Agent(name="a", services=Services(settings=Settings()))
    with pytest.raises(ConfigError, match='agent "a" has no model'):
        await bare.run("x")
    for name, error in [("nope/x", NotFound), ("gpt", ConfigError)]:
        with pytest.raises(error):
            await bare.replace(model=name).run("x")
        with pytest.raises(error):
            await bare.replace(services=Services(settings=Settings(model=name))).run("x")


async def test_all_spellings_are_one() -> None:
    for use in ("run", "stream", "__call__"):
        run = getattr(agent("Hi."), use)("x")
        assert isinstance(run, Run)
        assert await run == "Hi."
    assert await agent("Hi.").generate("x") == "Hi."


async def test_options_of_one_run() -> None:
    base = agent('{"value": 3}', "text", settings=ModelSettings(temperature=0.5))
    assert await base.run("x", output=int) == 3
    assert await base.run("x") == "text"
    assert base.output is None
    assert [r.settings.temperature for r in base.model.requests] == [0.5, 0.5]  # type: ignore[union-attr]
    with pytest.raises(LimitExceeded):
        await agent("x", limits=Limits(requests=5)).run("x", limits=Limits(requests=0))


def test_a_copy_with_changes() -> None:
    one = agent("x", memory=True, thread="t", max_steps=3, description="d", tool_choice="none")
    two = one.replace(name="b")
    assert two.name == "b"
    assert {k: v for k, v in vars(two).items() if k != "name"} == {
        k: v for k, v in vars(one).items() if k != "name"
    }


def test_repr() -> None:
    assert repr(agent(tools=[Tool(print, name="f")])) == "<Agent a: scripted/model, tools=['f']>"
    assert repr(Agent(name="a")) == "<Agent a: default model>"
    assert repr(Agent(name="a", model="openai/x")) == "<Agent a: openai/x>"


@dataclass
class Point:
    x: int


async def test_a_typed_answer_of_a_loaded_run() -> None:
    one = agent('{"x": 1}', output=Point)
    run = one.run("x")
    assert await run == Point(1)
    past = [e for e in run.log.events if e.durable]
    assert await one.load(run.id, "x", past=past) == Point(1)
    assert await one.load(run.id, "x", past=past).resume() == Point(1)


@pytest.mark.parametrize(
    "prompt",
    [
        "hi",
        user("hi"),
        [user("hi"), assistant("yes"), user("and?")],
        user("look", Media(mime="image/png", data=b"\x89PNG")),
        [],
    ],
)
def test_prompts_survive_the_store(prompt: Any) -> None:
    messages = prompt_messages(prompt)
    assert prompt_messages(to_json(prompt)) == messages


def test_prompts_that_are_none() -> None:
    for wrong in (3, ["x"], {"text": "x"}, None):
        with pytest.raises(SchemaError, match="a prompt is text or a list of messages"):
            prompt_messages(wrong)
    assert prompt_messages("\ud800")[0].parts == (Text(text="?"),)
    with pytest.raises(SchemaError, match="a prompt is text or a list of messages"):
        prompt_messages([user("x"), user("\ud800")])


async def test_deps_reach_tools() -> None:
    def look(ctx: Context) -> str:
        return f"{ctx.deps} in {ctx.thread}"

    run = agent(calls("look"), "Ok.", tools=[look]).run("x", deps="db", thread="t")
    assert await run == "Ok."
    assert run.messages[2].parts[0].output == "db in t"  # type: ignore[union-attr]


async def test_a_sub_agent_keeps_its_own_limits() -> None:
    def sub(limits: Limits) -> Agent[Any]:
        return Agent(
            name="sub",
            model=ScriptedModel(*[calls("f")] * 9),
            tools=[Tool(lambda: 1, name="f")],
            limits=limits,
        )

    for limits, reason in [
        (Limits(requests=2), "the budget of 2 requests is used up"),
        (Limits(tool_calls=1), "the budget of 1 tool calls is used up"),
        (Limits(tokens=30), "the budget of 30 tokens is used up"),
        (Limits(seconds=0), "longer than 0 s"),
    ]:
        run = agent(calls("sub", prompt="x"), "Ok.", tools=[sub(limits)]).run("x")
        assert await run == "Ok."
        told = run.view.messages[-2][2].parts[0]
        assert reason in told.output  # type: ignore[union-attr]
    for limits in (Limits(requests=3), Limits(tool_calls=1), Limits(tokens=60)):
        run = agent(calls("sub", prompt="x"), "Ok.", tools=[sub(Limits(requests=9))]).run(
            "x", limits=limits
        )
        with pytest.raises(LimitExceeded) as caught:
            await run
        assert caught.value.details["path"] == ""


async def test_a_run_inside_a_tool_may_narrow_its_limits() -> None:
    inner = agent(calls("f"), "done", tools=[Tool(lambda: 1, name="f")])

    async def outer() -> str:
        return str(await inner.run("x", limits=Limits(requests=1)))

    run = Agent(name="top", model=ScriptedModel(calls("outer"), "Ok."), tools=[outer]).run("x")
    assert await run == "Ok."
    assert "1 requests is used up" in run.view.messages[-2][2].parts[0].output  # type: ignore[union-attr]


# What depends on the request


async def test_options_that_are_functions_of_the_context() -> None:
    cheap, dear = ScriptedModel("cheap"), ScriptedModel(calls("vip"), "dear")
    seen: list[Any] = []

    def vip(ctx: Context) -> str:
        seen.append(dict(ctx.request_context))
        return "welcome"

    def plain() -> None: ...

    async def tools(ctx: Context) -> list[Any]:
        return [vip, plain] if ctx.request_context.get("tier") == "pro" else [plain]

    async def instructions(ctx: Context) -> str:
        return f"Be {ctx.request_context.get('tier', 'brief')}."

    one = Agent(
        name="a",
        model=lambda ctx: dear if ctx.request_context.get("tier") else cheap,
        tools=tools,
        instructions=instructions,
        active_tools=lambda ctx: ["vip"] if ctx.request_context else ["plain"],
    )
    assert (one.toolset, repr(one)) == ({}, "<Agent a: a function>")
    run = one.run("x", request_context={"tier": "pro"})
    assert await run == "dear"
    assert seen == [{"tier": "pro"}]
    assert [t.name for t in dear.requests[0].tools] == ["vip"]
    assert dear.requests[0].messages[0].text == "Be pro."
    assert await one.run("x") == "cheap"
    assert [t.name for t in cheap.requests[0].tools] == ["plain"]
    assert cheap.requests[0].messages[0].text == "Be brief."
    with pytest.raises(ConfigError, match="must be a list"):
        await one.replace(tools=lambda ctx: print).run("x")


async def test_a_request_context_is_shared_and_cannot_be_changed() -> None:
    def look(ctx: Context) -> str:
        with pytest.raises(TypeError):
            ctx.request_context["who"] = "Bo"  # type: ignore[index]
        return str(ctx.request_context["who"])

    sub = Agent(name="sub", model=ScriptedModel(calls("look"), "Sub."), tools=[look])

    async def inside() -> str:
        with pytest.raises(UsageError, match="shares its request_context"):
            sub.run("x", request_context={})
        return "ok"

    line = [calls("sub", id="1", prompt="x"), calls("inside", id="2")]
    run = agent(line, "Ok.", tools=[sub, inside]).run("x", request_context={"who": "Ann"})
    assert await run == "Ok."
    assert run.view.spans["a/sub[0.0]/look[0.0]"].output == "Ann"
    assert run.view.spans["a/inside[0.1]"].output == "ok"


async def test_a_sub_agent_remembers_in_a_thread_that_it_names() -> None:
    sub = Agent(name="sub", model=ScriptedModel("One.", "Two."), memory=True, thread="of-sub")
    top = agent(calls("sub", prompt="1"), calls("sub", prompt="2"), "Ok.", tools=[sub], memory=True)
    assert await top.run("x", thread="of-top") == "Ok."
    assert [m.text for m in await top.history("of-sub")] == ["1", "One.", "2", "Two."]
    assert [m.text for m in sub.model.requests[1].messages] == ["1", "One.", "2"]  # type: ignore[union-attr]
    assert [m.text for m in await top.history("of-top")][::5] == ["x", "Ok."]


@pytest.mark.parametrize(
    ("option", "value", "hint"),
    [
        ("instructions", ["Be", "brief"], "a text"),
        ("tools", None, "a list"),
        ("active_tools", "search", "a list"),
        ("memory", "yes", "True"),
        ("processors", [print], "Processors"),
        ("limits", {"cost": 1}, "Limits"),
        ("settings", {"temperature": 0}, "ModelSettings"),
        ("stop_when", 5, "a function"),
        ("handoffs", ["sales"], "Agents"),
    ],
)
def test_an_option_of_the_wrong_kind_is_named(option: str, value: Any, hint: str) -> None:
    with pytest.raises(ConfigError, match=f'the {option} of "a" cannot be used') as error:
        agent(**{option: value})
    assert hint in error.value.hint


def test_a_number_of_steps_is_one_or_more() -> None:
    for option in ("max_steps", "tool_call_concurrency"):
        with pytest.raises(ConfigError, match=f"{option} is 0"):
            agent(**{option: 0})


async def test_instructions_that_are_no_text_are_not_made_one() -> None:
    run = agent("Hi.", instructions=lambda ctx: ctx.request_context.get("who")).run("x")
    with pytest.raises(ConfigError, match="are no text but NoneType"):
        await run


async def test_a_hand_off_and_a_tool_cannot_share_a_name() -> None:
    def transfer_to_b() -> None: ...

    b = Agent(name="b", model=ScriptedModel())
    with pytest.raises(ConfigError, match="have one name"):
        await agent(tools=[transfer_to_b], handoffs=[b]).run("x")
    with pytest.raises(ConfigError, match="have one name"):
        await agent(handoffs=[b, b]).run("x")


def test_a_request_context_is_a_mapping() -> None:
    with pytest.raises(UsageError, match="request_context"):
        agent().run("x", request_context=["u1"])  # type: ignore[arg-type]


async def test_who_is_asked_remembers_beside_one_who_does_not() -> None:
    """No store, and the first agent has no memory: the other one's thread is kept anyway."""
    for way in ("tools", "handoffs"):
        thread = f"beside-{way}"
        other = Agent(name="other", model=ScriptedModel("Yes."), memory=True, thread=thread)
        asks = calls("other", prompt="p") if way == "tools" else calls("transfer_to_other")
        middle = agent(asks, "Done.", **{way: [other]})
        first = Agent(
            name="first", model=ScriptedModel(calls("a", prompt="p"), "Ok."), tools=[middle]
        )
        await first.run("go")
        assert [m.text for m in await other.history()][-1:] == ["Yes."]
