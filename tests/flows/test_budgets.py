"""R7: the crossing call is not sent, whoever makes it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mastra_nb.agents import Agent
from mastra_nb.errors import LimitExceeded, ModelError
from mastra_nb.limits import Limits
from mastra_nb.messages import Usage, assistant
from mastra_nb.models import ModelSettings, Reply
from mastra_nb.prices import set_price
from mastra_nb.providers.openai import OpenAIModel
from mastra_nb.testing import ScriptedModel, calls
from mastra_nb.tools import Tool
from tests.http.server import Answer, chunk, serve, sse

echo = Tool(lambda n=0: n, name="echo")


def reply(tokens: int) -> Reply:
    return Reply(message=assistant("Done."), usage=Usage(input=tokens, calls=1))


class Busy(ScriptedModel):
    """Counts how many of its calls are under way at once."""

    now = most = 0

    async def invoke(self, request: Any, ctx: Any) -> Reply:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0.001)
            return await super().invoke(request, ctx)
        finally:
            self.now -= 1


def team(model: ScriptedModel, size: int = 20) -> Agent[Any]:
    sub = Agent(name="sub", model=model, settings=ModelSettings(max_tokens=60))
    line = [calls("sub", id=str(i), prompt="x" * 100) for i in range(size)]
    return Agent(name="boss", model=ScriptedModel(line, "All done."), tools=[sub])


@pytest.mark.parametrize("budget", [100, 205, 555, 1999])
async def test_twenty_sub_agents_overshoot_by_one_call_at_most(budget: int) -> None:
    model = Busy(reply(100), repeat=True)
    run = team(model).run("x", limits=Limits(tokens=budget))
    with pytest.raises(LimitExceeded, match=f"{budget} tokens is used up"):
        await run
    assert budget <= run.usage.total < budget + 100
    assert run.log.meter.usage == run.usage
    if budget > 1000:
        assert model.most > 4


async def test_money_too() -> None:
    set_price("p/dear", input=1000.0, output=0.0)
    model = Busy(reply(100), repeat=True, name="p/dear")
    run = team(model).run("x", limits=Limits(cost=0.35))
    with pytest.raises(LimitExceeded, match=r"0\.35 dollars"):
        await run
    assert run.usage.cost == pytest.approx(0.4)


async def test_enough_is_enough_for_all() -> None:
    model = Busy(reply(100), repeat=True)
    run = team(model).run("x", limits=Limits(tokens=9000, requests=22, tool_calls=0))
    assert await run == "All done."
    assert model.most > 5


@pytest.mark.parametrize("most", [0, 1, 2, 3])
async def test_requests_of_every_kind_count(most: int) -> None:
    """A fallback, a sub-agent, an answer asked for again: four requests in all."""
    sent = 0

    def counted(line: Any) -> Any:
        def say(_: Any) -> Any:
            nonlocal sent
            sent += 1
            return line

        return say

    sub = Agent(name="sub", model=ScriptedModel(counted("no"), counted('{"value": 1}')), output=int)
    top = [
        ScriptedModel(counted(ModelError("down"))),
        ScriptedModel(counted(calls("sub", prompt="x"))),
    ]
    run = Agent(name="top", model=top, tools=[sub]).run("x", limits=Limits(requests=most))
    with pytest.raises(LimitExceeded, match=f"{most} requests is used up"):
        await run
    assert sent == most


@pytest.mark.parametrize("most", [0, 1, 3])
async def test_tool_calls_of_sub_agents_count(most: int) -> None:
    ran = []
    act = Tool(lambda: ran.append(1), name="act")
    sub = Agent(
        name="sub",
        model=ScriptedModel([calls("act", id="1"), calls("act", id="2")], "ok"),
        tools=[act],
    )
    line = [calls("act", id="1"), calls("sub", id="2", prompt="x"), calls("act", id="3")]
    run = Agent(name="top", model=ScriptedModel(line, "never"), tools=[act, sub]).run(
        "x", limits=Limits(tool_calls=most)
    )
    with pytest.raises(LimitExceeded):
        await run
    assert len(ran) == most


async def test_a_budget_outlives_a_stop() -> None:
    act = Tool(lambda: 1, name="act", needs_approval=True)
    model = ScriptedModel(calls("act"), calls("act"), "never")
    run: Any = Agent(name="a", model=model, tools=[act]).run(
        "x", limits=Limits(requests=2, tokens=1000)
    )
    for _ in range(2):
        with pytest.raises(Exception, match="waits"):
            await run
        run = run.resume({"approved": True})
    with pytest.raises(LimitExceeded, match="2 requests"):
        await run
    assert len(model.requests) == 2
    assert run.log.meter.usage.total == run.usage.total


@pytest.mark.parametrize("budget", [3000, 9000, 30_000])
async def test_answers_of_no_known_length_overshoot_by_one_call_at_most(budget: int) -> None:
    """Over a wire: a model that says as much as its request lets it, or far more than foreseen."""
    spent: list[int] = []

    def script(n: int) -> Answer:
        asked = server.requests[n][1]
        most = asked.get("max_completion_tokens") or asked.get("max_tokens") or 20_000
        spent.append(5 + most)
        usage = {"prompt_tokens": 5, "completion_tokens": most}
        last = {"id": "c1", "model": "m", "choices": [], "usage": usage}
        pieces = sse(chunk("Done."), chunk(finish="stop"), last)
        return Answer(headers={"content-type": "text/event-stream"}, pieces=pieces, before=0.01)

    async with serve(script) as server:
        model = OpenAIModel("m", base_url=server.url, api_key="k")
        sub = Agent(name="sub", model=model)
        line = [calls("sub", id=str(i), prompt="x" * 50) for i in range(12)]
        boss = Agent(name="boss", model=ScriptedModel(line, "All done."), tools=[sub])
        run = boss.run("x", limits=Limits(tokens=budget))
        with pytest.raises(LimitExceeded, match="tokens is used up"):
            await run
        assert sum(spent) - max(spent) < budget <= sum(spent)
        assert len(server.requests) == len(spent)
        if budget == 30_000:
            assert server.most > 2


async def test_requests_that_were_sent_again_are_known_after_a_stop() -> None:
    act = Tool(lambda: 1, name="act", needs_approval=True)
    top = [ScriptedModel(ModelError("down"), "never"), ScriptedModel(calls("act"), "never")]
    run: Any = Agent(name="a", model=top, tools=[act]).run("x", limits=Limits(requests=2))
    with pytest.raises(Exception, match="waits"):
        await run
    assert run.usage.calls == 2
    run = run.resume({"approved": True})
    with pytest.raises(LimitExceeded, match=r"2 requests is used up \(2 used\)"):
        await run


@pytest.mark.parametrize("most", [0, 1, 2])
async def test_steps_of_sub_agents_count(most: int) -> None:
    sub = Agent(name="sub", model=ScriptedModel("ok"))
    top = ScriptedModel(calls("sub", prompt="x"), "done")
    run = Agent(name="top", model=top, tools=[sub]).run("x", limits=Limits(steps=most))
    with pytest.raises(LimitExceeded, match=f"{most} steps is used up"):
        await run
    assert len(top.requests) + len(sub.model.requests) == most
