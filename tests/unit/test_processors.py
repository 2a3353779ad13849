from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mastra_nb.agents import Agent
from mastra_nb.context import Context
from mastra_nb.errors import Blocked, ConfigError, ModelError, ModelRefused
from mastra_nb.events import ReasoningDelta, SpanEnded, fold
from mastra_nb.limits import Limits
from mastra_nb.messages import (
    Message,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    Usage,
    assistant,
    user,
)
from mastra_nb.models import MODEL, ModelRequest, ModelSettings, Reply, set_price
from mastra_nb.processors import Processor, Step, Turn, with_stage
from mastra_nb.runs import Run
from mastra_nb.testing import ScriptedModel, calls
from mastra_nb.tools import Tool, tool


def test_a_turn_knows_what_is_kept() -> None:
    turn = Turn("Be kind.", "t")
    turn.history = [user("before")]
    turn.add((1, user("x")))
    turn.add((2, assistant("no")), draft=True)
    turn.add((3, assistant("yes")))
    assert [m.text for m in turn.messages()] == ["before", "x", "no", "yes"]
    assert turn.kept == [(1, user("x")), (3, assistant("yes"))]


async def test_a_processor_need_not_do_anything() -> None:
    async def go(ctx: Context) -> None:
        turn = Turn("")
        await Processor().process_input(turn, ctx)
        await Processor().after(turn, ctx)
        assert turn.messages() == ()

    await Run(Tool(go), {})


# Stages around a model


class Mask:
    """Holds a word back until it is whole; "secret" becomes "***"."""

    def __init__(self) -> None:
        self.held = ""

    def feed(self, text: str) -> str:
        whole, space, self.held = (self.held + text).rpartition(" ")
        return (whole + space).replace("secret", "***")

    def close(self) -> str:
        return self.held.replace("secret", "***")


class Masking(Processor):
    def process_output_stream(self, turn: Turn) -> Mask:
        return Mask()


class Judge(Processor):
    """Blocks what has a bad word in it; asks a model of its own if it has one."""

    def __init__(self, word: str, *, retry: bool = False, model: Any = None) -> None:
        self.word, self.retry, self.model = word, retry, model

    async def process_output_step(self, reply: Reply, turn: Turn, ctx: Context) -> Reply:
        if self.model is not None:
            request = ModelRequest(messages=(user(reply.message.text),))
            await ctx.call(self.model, request, codec=MODEL)
        if self.word in reply.message.text:
            raise Blocked(f'it says "{self.word}"', retry=self.retry)
        return reply


def agent(*script: Any, **options: Any) -> Agent[Any]:
    return Agent(name="a", model=ScriptedModel(*script, piece=3), **options)


def thinking(text: str, thought: str = "my secret thought") -> Message:
    parts = (
        Reasoning(text=thought, extra={"p": {"signature": "s"}}),
        Text(text=text),
        Text(text=" And the secret end"),
    )
    return Message(role="assistant", parts=parts)


async def test_what_is_filtered_is_all_that_there_is() -> None:
    run = agent(thinking("A secret is here."), processors=[Masking()]).run("x")
    said = "".join([t async for t in run.stream_text()])
    assert said == await run == run.text == "A *** is here. And the *** end"
    message = run.messages[-1]
    assert message.reasoning == "my *** thought"
    assert message.parts[0].extra is None
    thought = [e.data.text for e in run.log.events if isinstance(e.data, ReasoningDelta)]
    assert "".join(thought) == "my *** thought"
    assert "secret" not in "".join(map(repr, run.log.events))
    assert fold(run.log.events) == fold([e for e in run.log.events if e.durable])


@given(st.text(alphabet="secrt ", max_size=60), st.integers(1, 9))
def test_filters_do_not_see_where_a_stream_is_cut(text: str, piece: int) -> None:
    async def main() -> str:
        model = ScriptedModel(text or "x", piece=piece)
        run = Agent(name="a", model=model, processors=[Masking(), Masking()]).run("x")
        said = "".join([t async for t in run.stream_text()])
        assert said == await run
        return said

    assert asyncio.run(main()) == (text or "x").replace("secret", "***")


async def test_what_was_said_before_a_break_is_kept_as_it_was_filtered() -> None:
    class Cut(ScriptedModel):
        async def invoke(self, request: Any, ctx: Any) -> Reply:
            await super().invoke(request, ctx)
            raise ModelError("cut")

    run = Agent(name="a", model=Cut("one secret two", piece=3), processors=[Masking()]).run("x")
    with pytest.raises(ModelError, match="cut"):
        await run
    assert (run.messages[-1].text, run.messages[-1].partial) == ("one *** ", True)


async def test_who_spoke_behind_a_filter_is_not_replaced() -> None:
    class Cut(ScriptedModel):
        async def invoke(self, request: Any, ctx: Any) -> Reply:
            await super().invoke(request, ctx)
            raise ModelError("cut")

    other = ScriptedModel("never")
    run = Agent(name="a", model=[Cut("held"), other], processors=[Masking()]).run("x")
    with pytest.raises(ModelError):
        await run
    assert other.requests == []


async def test_a_blocked_answer_leaves_nothing_but_its_price() -> None:
    ran: list[int] = []
    line = Message(role="assistant", parts=(Text(text="so bad"), calls("act")))
    act = Tool(lambda: ran.append(1), name="act")
    one = agent(line, tools=[act], processors=[Judge("bad")], memory=True)
    run = one.run("x", thread="blocked")
    with pytest.raises(Blocked, match='it says "bad"'):
        await run
    assert ran == []
    assert [m.role for m in run.messages] == ["user"]
    assert run.text == ""
    assert run.usage.total == run.log.meter.usage.total > 0
    assert await one.history("blocked") == []
    span = run.view.spans["a/model[0]"]
    assert span.error is not None
    assert span.error.code == "run.blocked"


async def test_a_blocked_stream_says_nothing_more() -> None:
    class Strict(Mask):
        def feed(self, text: str) -> str:
            if "c" in text:
                raise Blocked("no c")
            return text

    class Strictly(Processor):
        def process_output_stream(self, turn: Turn) -> Strict:
            return Strict()

    run = agent("aaabbbccc", processors=[Strictly()]).run("x")
    with pytest.raises(Blocked):
        await run
    assert [m.role for m in run.messages] == ["user"]
    assert fold(run.log.events) == fold([e for e in run.log.events if e.durable])


async def test_a_processor_may_ask_for_another_answer() -> None:
    one = agent("bad", "bad again", "good", processors=[Judge("bad", retry=True)], memory=True)
    run = one.run("x", thread="retried")
    assert await run == "good"
    asked = one.model.requests[2].messages  # type: ignore[union-attr]
    assert [m.role for m in asked] == ["user"] * 3
    assert asked[1].text == 'Your last answer was thrown away: it says "bad". Answer again.'
    assert [m.text for m in await one.history("retried")] == ["x", "good"]
    assert run.usage.calls == 3
    none = one.replace(model=ScriptedModel("bad", "never"), max_processor_retries=0)
    with pytest.raises(Blocked):
        await none.run("x")


async def test_another_answer_is_asked_for_so_often_and_no_more() -> None:
    one = agent(*["bad"] * 3, "good", processors=[Judge("bad", retry=True)])
    run = one.run("x")
    with pytest.raises(Blocked):
        await run
    # Taken up again, it asks once more and not from the start.
    assert await run.resume() == "good"
    assert len(one.model.requests) == 4  # type: ignore[union-attr]


async def test_a_crash_between_a_blocked_answer_and_the_next() -> None:
    one = agent("bad", "bad", "good", processors=[Judge("bad", retry=True)])
    run = one.run("x")
    await run
    log = [e for e in run.log.events if e.durable]
    blocked = [i for i, e in enumerate(log) if isinstance(e.data, SpanEnded) and e.data.error]
    for cut in range(blocked[0] + 1, len(log)):
        left = sum(i >= cut for i in blocked)
        ended = any(e.span == "a/model[2]" and isinstance(e.data, SpanEnded) for e in log[:cut])
        model = ScriptedModel(*["bad"] * left, "good")
        again = one.replace(model=model).load(run.id, "x", past=log[:cut])
        assert await again.resume() == "good"
        assert len(model.requests) == (0 if ended else left + 1)


@pytest.mark.parametrize("limits", [None, Limits(tokens=10_000)])
async def test_a_judge_that_asks_a_model_does_not_wait_for_itself(limits: Limits | None) -> None:
    judge = Judge("bad", model=ScriptedModel("fine", repeat=True, name="judge"))
    run = agent("good", processors=[judge]).run("x", limits=limits)
    assert await asyncio.wait_for(run, 5) == "good"
    assert run.usage.calls == 2
    assert run.log.meter.usage == run.usage
    assert run.text == "good"


async def test_a_model_may_say_what_it_spent_before_it_fails() -> None:
    class Refuses(ScriptedModel):
        async def invoke(self, request: Any, ctx: Context) -> Reply:
            ctx.spent(Usage(input=1_000_000, calls=1))
            ctx.spent(Usage(input=9, calls=1))
            raise ModelRefused("no")

    set_price("p/refuses", input=2.0, output=0.0)
    run = Agent(name="a", model=Refuses(name="p/refuses")).run("x")
    with pytest.raises(ModelRefused):
        await run
    assert run.usage.input == 1_000_000
    assert run.usage.cost == pytest.approx(2.0)
    assert run.log.meter.usage == run.usage


async def test_steps_can_be_changed_before_they_are_sent() -> None:
    seen: list[tuple[int, list[str], str]] = []
    other = ScriptedModel("Other.", name="p/other")

    class Change(Processor):
        async def process_input_step(self, step: Step, turn: Turn, ctx: Context) -> None:
            seen.append((step.index, [*step.tools], step.tool_choice))
            step.messages.append(user("Now."))

    def prepare(step: Step, turn: Turn, ctx: Context) -> dict[str, Any] | None:
        if step.index == 0:
            return {"active_tools": ["f"], "tool_choice": "f"}
        return {"model": other, "tools": [], "settings": ModelSettings(seed=step.index)}

    tools = [Tool(lambda: 1, name="f"), Tool(lambda: 2, name="g")]
    line = [calls("f", id="1"), calls("g", id="2")]
    one = agent(line, tools=tools, processors=[Change()], prepare_step=prepare)
    run = one.run("x")
    assert await run == "Other."
    assert seen == [(0, ["f", "g"], "auto"), (1, ["f", "g"], "auto")]
    first = one.model.requests[0]  # type: ignore[union-attr]
    assert ([t.name for t in first.tools], first.tool_choice) == (["f"], "f")
    assert [m.text for m in first.messages] == ["x", "Now."]
    told = run.messages[2].parts
    assert (told[0].output, told[1].is_error) == (1, True)  # type: ignore[union-attr]
    assert "there is no tool" in told[1].output  # type: ignore[union-attr]
    assert (other.requests[0].tools, other.requests[0].settings.seed) == ((), 1)
    for wrong in ({"temperature": 1}, {"index": 3}, {"active_tools": ["h"]}):
        with pytest.raises(ConfigError):
            await one.replace(prepare_step=lambda s, t, c, w=wrong: w).run("x")


async def test_hooks_see_calls_before_and_after() -> None:
    ran: list[int] = []

    @tool
    async def act(n: int) -> int:
        ran.append(n)
        return n

    def before(call: ToolCall, ctx: Context) -> Any:
        n = msgspec.json.decode(call.args)["n"]
        if n == 1:
            return {"n": 10}
        return ToolResult(id="", name="", output="no need") if n == 2 else None

    async def after(call: ToolCall, result: ToolResult, ctx: Context) -> Any:
        return None if result.output == 3 else {"was": result.output}

    line = [calls("act", id=str(n), n=n) for n in (1, 2, 3)]
    one = agent(line, "Ok.", tools=[act], before_tool_call=before, after_tool_call=after)
    run = one.run("x")
    assert await run == "Ok."
    assert ran == [10, 3]
    told = [(p.id, p.name, p.output) for p in run.messages[2].parts]  # type: ignore[union-attr]
    assert told == [("1", "act", {"was": 10}), ("2", "act", "no need"), ("3", "act", 3)]
    assert run.view.spans["a/act[0.0]"].output == 10
    with pytest.raises(ConfigError, match="before_tool_call gave int"):
        await agent(line, tools=[act], before_tool_call=lambda call, ctx: 3).run("x")


async def test_a_hook_that_blocks_ends_the_turn() -> None:
    def before(call: ToolCall, ctx: Context) -> None:
        raise Blocked("not this tool")

    run = agent(calls("f"), tools=[Tool(lambda: 1, name="f")], before_tool_call=before).run("x")
    with pytest.raises(Blocked, match="not this tool"):
        await run
    assert run.messages[-1].parts[0].output == "not run: the turn was stopped"  # type: ignore[union-attr]


async def test_without_stages_there_is_nothing_around_the_model() -> None:
    model = ScriptedModel("Hi.")
    kinds: list[str] = []

    class See(ScriptedModel):
        async def invoke(self, request: Any, ctx: Context) -> Reply:
            kinds.append(type(ctx._flow).__name__)
            return await model.invoke(request, ctx)

    assert await Agent(name="a", model=See(), memory=True).run("x") == "Hi."
    assert kinds == ["NoneType"]
    assert with_stage([Masking(), Judge("x")], "process_output_step")[0].word == "x"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"messages": "text"}, "messages"),
        ({"messages": [5]}, "messages"),
        ({"settings": {"temperature": "hot"}}, "settings"),
        (5, "gave int"),
    ],
)
async def test_a_prepared_step_is_looked_at(change: object, said: str) -> None:
    agent = Agent(name="a", model=ScriptedModel("x"), prepare_step=lambda step, turn, ctx: change)
    with pytest.raises(ConfigError, match=said):
        await agent.run("Hi")


async def test_settings_of_a_prepared_step_are_added_to_the_others() -> None:
    model = ScriptedModel("x")
    settings = ModelSettings(temperature=0.5)
    more = {"settings": {"max_tokens": 7}}
    agent = Agent(
        name="a", model=model, settings=settings, prepare_step=lambda step, turn, ctx: more
    )
    await agent.run("Hi")
    assert model.requests[0].settings == ModelSettings(temperature=0.5, max_tokens=7)
