"""Questions to people in workflows of every composition: asked, found, answered elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mastra_nb import Agent, Context, Mastra, tool
from mastra_nb.errors import (
    Conflict,
    NotFound,
    NotResumable,
    RunSuspended,
    SchemaError,
    StepError,
)
from mastra_nb.testing import ScriptedModel, calls
from mastra_nb.workflows import Workflow, step, suspend, workflow

YES_NO = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}


@dataclass
class Verdict:
    ok: bool
    why: str = ""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'people.db'}"


async def waits(run: Any) -> dict[str, Any]:
    with pytest.raises(RunSuspended):
        await run
    return dict(run.pending)


def app_of(make: Callable[[], Any], url: str) -> tuple[Mastra, Any]:
    """An application and its workflow, made anew: what another process has."""
    made = make()
    app = Mastra(workflows=[made], storage=url)
    return app, made


@step
async def ask(text: str, ctx: Context) -> str:
    verdict = ctx.suspend({"message": f"send {text}?"}, schema=Verdict, reason="review")
    return f"{text}: {verdict.ok}"


def nested() -> Workflow[Any]:
    """workflow -> nested workflow -> foreach -> nested workflow with parallel -> question."""
    pair = Workflow(name="pair").parallel([ask, step(str.upper, id="upper")])
    inner = Workflow(name="inner").foreach(pair, concurrency=2)
    return Workflow(name="outer").then(step(str.split, id="split")).then(inner)


NESTED = ["outer/inner/pair[0]/ask", "outer/inner/pair[1]/ask"]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_deep_questions_are_answered_elsewhere_in_any_order(
    url: str, order: tuple[int, int]
) -> None:
    app, made = app_of(nested, url)
    first = made.run("a b")
    assert sorted(await waits(first)) == NESTED
    for n, i in enumerate(order):
        other, _ = app_of(nested, url)
        found = await other.find_waiting()
        assert sorted(w.path for w in found) == sorted(set(NESTED) - {NESTED[j] for j in order[:n]})
        assert {w.run for w in found} == {first.id}
        assert {w.reason for w in found} == {"review"}
        assert all(w.schema["properties"].keys() == {"ok", "why"} for w in found)
        loaded = await other.get_run(first.id)
        run = loaded.resume({"ok": i == 0}, path=NESTED[i])
        if n == 0:
            assert [*await waits(run)] == [NESTED[order[1]]]
        else:
            assert await run == [
                {"ask": "a: True", "upper": "A"},
                {"ask": "b: False", "upper": "B"},
            ]
    assert await app.find_waiting() == []
    counted = [e for e in run.log.events if e.span.endswith("/upper") and "Started" in repr(e.data)]
    assert len(counted) == 2


async def test_an_answer_that_does_not_fit_leaves_the_run_waiting(url: str) -> None:
    _, made = app_of(nested, url)
    run = made.run("a")
    await waits(run)
    loaded = await app_of(nested, url)[0].get_run(run.id)
    with pytest.raises(SchemaError, match="does not fit"):
        loaded.resume({"ok": "perhaps"})
    with pytest.raises(NotResumable, match="does not wait at"):
        loaded.resume({"ok": True}, path="elsewhere")
    assert loaded.status == "suspended"
    assert await loaded.resume({"ok": True}) == [{"ask": "a: True", "upper": "A"}]


async def test_the_first_answer_counts(url: str) -> None:
    _, made = app_of(nested, url)
    run = made.run("a b")
    await waits(run)
    one = await app_of(nested, url)[0].get_run(run.id)
    two = await app_of(nested, url)[0].get_run(run.id)
    await waits(one.resume({"ok": True}, path=NESTED[0]))
    with pytest.raises(Conflict):
        await two.resume({"ok": False}, path=NESTED[0])
    three = await app_of(nested, url)[0].get_run(run.id)
    with pytest.raises(Conflict, match="already answered otherwise"):
        three.resume({"ok": False}, path=NESTED[0])
    again = three.resume({"ok": True}, path=NESTED[0])
    assert [*await waits(again)] == [NESTED[1]]


async def test_several_places_have_to_be_named(url: str) -> None:
    _, made = app_of(nested, url)
    run = made.run("a b")
    await waits(run)
    with pytest.raises(NotResumable, match="waits in 2 places"):
        run.resume({"ok": True})


async def test_a_step_is_named_by_the_last_part_of_its_path() -> None:
    made = Workflow(name="w").parallel([ask, ask.replace(id="ask-2")])
    run = made.run("x")
    await waits(run)
    run = run.resume({"ok": True}, path="ask-2")
    await waits(run)
    assert await run.resume({"ok": False}, path="ask") == {"ask": "x: False", "ask-2": "x: True"}


# Agents and tools


def purchase(model: ScriptedModel, *, through_boss: bool = False) -> Workflow[Any]:
    @tool(needs_approval=True)
    def pay(amount: int) -> str:
        return f"paid {amount}"

    clerk = Agent(name="clerk", model=model, tools=[pay])
    boss = Agent(name="boss", model=model, tools=[clerk])
    return Workflow(name="buy").then(boss if through_boss else clerk)


async def test_a_tool_of_an_agent_in_a_workflow_waits_for_approval(url: str) -> None:
    model = ScriptedModel(calls("pay", amount=3), "done")
    make = partial(purchase, model)
    _, made = app_of(make, url)
    run = made.run("buy it")
    (path,) = await waits(run)
    assert path.startswith("buy/clerk/") and "pay" in path
    other, _ = app_of(make, url)
    (waiting,) = await other.find_waiting(name="buy")
    assert waiting.reason == "approval" and waiting.payload["args"] == {"amount": 3}
    assert waiting.kind == "workflow"
    loaded = await other.get_run(run.id)
    assert await loaded.resume({"approved": True}) == "done"
    model.assert_done()


async def test_a_tool_of_a_sub_agent_in_a_workflow_waits_for_approval(url: str) -> None:
    model = ScriptedModel(
        calls("clerk", prompt="pay 3"), calls("pay", amount=3), "paid it", "all done"
    )
    make = partial(purchase, model, through_boss=True)
    _, made = app_of(make, url)
    run = made.run("buy it")
    (path,) = await waits(run)
    assert path.startswith("buy/boss/") and path.count("/") >= 3
    loaded = await app_of(make, url)[0].get_run(run.id)
    assert await loaded.resume({"approved": False, "reason": "too dear"}) == "all done"
    model.assert_done()
    assert "too dear" in repr(model.requests[2].messages)


async def test_a_workflow_that_an_agent_calls_as_a_tool_waits(url: str) -> None:
    model = ScriptedModel(calls("review", input="the letter"), "it was reviewed")

    def make() -> Agent[Any]:
        return Agent(name="writer", model=model, tools=[Workflow(name="review").then(ask)])

    writer = make()
    Mastra(agents=[writer], storage=url)
    run = writer.run("have it reviewed")
    (path,) = await waits(run)
    assert path.endswith("/ask") and path.startswith("writer/review")
    other = Mastra(agents=[make()], storage=url)
    (waiting,) = await other.find_waiting(name="writer")
    assert (waiting.kind, waiting.payload) == ("agent", {"message": "send the letter?"})
    loaded = await other.get_run(run.id)
    assert await loaded.resume({"ok": True}) == "it was reviewed"
    assert "the letter: True" in repr(model.requests[1].messages)


async def test_a_tool_as_a_step_waits_for_approval(url: str) -> None:
    paid = []

    @tool(needs_approval=True)
    def pay(amount: int, note: str = "") -> int:
        """Pay it."""
        paid.append(amount)
        return amount

    def make() -> Workflow[Any]:
        return Workflow(name="w").map(lambda n: {"amount": n}).then(pay)

    _, made = app_of(make, url)
    run = made.run(5)
    assert [*await waits(run)] == ["w/pay"]
    loaded = await app_of(make, url)[0].get_run(run.id)
    assert await loaded.resume({"approved": True, "args": {"amount": 4}}) == 4
    assert paid == [4]


async def test_several_kinds_of_questions_at_once(url: str) -> None:
    model = ScriptedModel(calls("pay", amount=1), "bought")

    @tool(needs_approval=True)
    def pay(amount: int) -> str:
        return "ok"

    def make() -> Workflow[Any]:
        clerk = Agent(name="clerk", model=model, tools=[pay])
        review = Workflow(name="review").then(ask)
        return Workflow(name="all").parallel([clerk, review, ask.replace(id="direct")])

    _, made = app_of(make, url)
    run = made.run("x")
    pending = await waits(run)
    assert {"all/review/ask", "all/direct"} < pending.keys() and len(pending) == 3
    for path in reversed([*pending]):
        loaded = await app_of(make, url)[0].get_run(run.id)
        answer = {"approved": True} if "pay" in path else {"ok": True}
        run = loaded.resume(answer, path=path)
        if len(loaded.pending) > 1:
            await waits(run)
    assert await run == {"clerk": "bought", "review": "x: True", "direct": "x: True"}
    model.assert_done()


# Bodies


async def test_a_body_asks_twice_in_different_processes(url: str) -> None:
    done = []

    def make() -> Any:
        @step
        def effect(n: int) -> int:
            done.append(n)
            return n

        @workflow
        async def form(name: str) -> str:
            await effect(1)
            first = await suspend({"message": "age?"}, schema=int)
            await effect(2)
            second = await suspend({"message": "sure?"}, schema=Verdict)
            assert isinstance(second, Verdict)
            return f"{name} {first} {second.ok}"

        return form

    _, made = app_of(make, url)
    run = made("Ann")
    await waits(run)
    run = (await app_of(make, url)[0].get_run(run.id)).resume(30)
    await waits(run)
    run = (await app_of(make, url)[0].get_run(run.id)).resume({"ok": True})
    assert await run == "Ann 30 True"
    assert done == [1, 2]


# Time


class Clock:
    def __init__(self) -> None:
        self.at = 1_000_000.0

    def __call__(self) -> float:
        return self.at


def timed(default: Any) -> Callable[[], Workflow[Any]]:
    def make() -> Workflow[Any]:
        @step
        def decide(value: str, ctx: Context) -> str:
            options = {} if default is ... else {"default": default}
            return str(ctx.suspend("now?", schema={"type": "string"}, timeout=60, **options))

        return Workflow(name="timed").then(decide)

    return make


@pytest.mark.parametrize("default", [..., "nobody"])
async def test_nobody_answers_in_time(url: str, default: Any) -> None:
    clock = Clock()
    make = timed(default)
    app, made = app_of(make, url)
    app.services.now = clock
    run = made.run("x")
    await waits(run)
    other, _ = app_of(make, url)
    other.services.now = clock
    (waiting,) = await other.find_waiting()
    assert waiting.deadline == clock.at + 60
    assert await other.expire() == []
    clock.at += 61
    late = await other.get_run(run.id)
    with pytest.raises(NotResumable, match="is over"):
        late.resume("yes")
    (ended,) = await other.expire()
    assert ended.id == run.id
    if default is ...:
        assert ended.status == "failed"
        with pytest.raises(StepError, match="in time") as caught:
            await ended
        assert caught.value.code == "step.expired"
    else:
        assert await ended == "nobody"
    assert await other.find_waiting() == []
    assert await other.expire() == []


# The query


async def test_what_waits_is_found_by_name_and_resource_page_by_page(url: str) -> None:
    made = Workflow(name="one").then(ask)
    other = Workflow(name="two").parallel([ask, ask.replace(id="ask-2")])
    app = Mastra(workflows=[made, other], storage=url)
    for resource in ("ann", "bob"):
        await waits(made.run(resource, resource=resource))
        await waits(other.run(resource, resource=resource))
    assert len(await app.find_waiting()) == 6
    assert {w.name for w in await app.find_waiting(name="two")} == {"two"}
    anns = await app.find_waiting(resource="ann")
    assert len(anns) == 3 and {w.resource for w in anns} == {"ann"}
    assert {w.payload["message"] for w in anns} == {"send ann?"}
    pages = [await app.find_waiting(limit=1, offset=n) for n in range(5)]
    assert sorted(len(p) for p in pages) == [0, 1, 1, 2, 2]
    assert len({w.run for p in pages for w in p}) == 4
    with pytest.raises(NotFound):
        await app.get_run(anns[0].run, resource="bob")
    assert (await app.get_run(anns[0].run, resource="ann")).id == anns[0].run


async def test_an_event_is_sent_from_another_process(url: str) -> None:
    def make() -> Workflow[Any]:
        return (
            Workflow(name="shop")
            .then(step(lambda n: n, id="order"))
            .wait_for_event("paid", schema=int)
            .then(step(lambda n: n + 1, id="ship"))
        )

    _, made = app_of(make, url)
    run = made.run(1)
    await waits(run)
    loaded = await app_of(make, url)[0].get_run(run.id)
    with pytest.raises(NotResumable, match="does not wait for"):
        loaded.send_event("refunded", 1)
    with pytest.raises(SchemaError):
        loaded.send_event("paid", "much")
    assert await loaded.send_event("paid", 41) == 42


async def test_a_question_of_a_cancelled_run_waits_no_more(url: str) -> None:
    app, made = app_of(nested, url)
    run = made.run("a b")
    await waits(run)
    run.cancel()
    with pytest.raises(Exception, match="stopped"):
        await run
    assert await app.find_waiting() == []
    loaded = await app_of(nested, url)[0].get_run(run.id)
    with pytest.raises(NotResumable, match="stopped"):
        loaded.resume({"ok": True}, path=NESTED[0])


# What an agent gave is there again after the question


async def test_a_typed_answer_of_an_agent_survives_the_restart(url: str) -> None:
    model = ScriptedModel('{"ok": true, "why": "short"}')
    seen = []

    def make() -> Workflow[Any]:
        judge = Agent(name="judge", model=model, output=Verdict)

        @step
        def release(verdict: Verdict, ctx: Context) -> str:
            seen.append(verdict)
            return f"{ctx.suspend('name?', schema=str)}: {verdict.why}"

        return Workflow(name="w").then(judge).then(release)

    _, made = app_of(make, url)
    run = made.run({"text": "a letter"})
    await waits(run)
    loaded = await app_of(make, url)[0].get_run(run.id)
    assert await loaded.resume("Ann") == "Ann: short"
    assert seen == [Verdict(ok=True, why="short")] * 2
    assert '"text": "a letter"' in model.requests[0].messages[-1].text
    model.assert_done()
