from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import pytest

from mastra_nb import Agent, Context, Limits, Mastra, tool
from mastra_nb._functions import digest
from mastra_nb.errors import (
    ConfigError,
    Conflict,
    LeaseHeld,
    LimitExceeded,
    RunSuspended,
    SchemaError,
    StepError,
    UsageError,
)
from mastra_nb.events import Custom
from mastra_nb.past import GRAPH
from mastra_nb.steps import step
from mastra_nb.testing import ScriptedModel
from mastra_nb.workflows import Workflow, otherwise, workflow


@dataclass
class Order:
    item: str
    amount: int = 1


class Totals(TypedDict):
    total: int


@step
def add(n: int) -> int:
    """One more."""
    return n + 1


@step
def double(n: int) -> int:
    return 2 * n


def is_odd(n: int) -> bool:
    return n % 2 == 1


# Types of a whole workflow


async def test_the_input_is_converted_and_checked() -> None:
    made = Workflow(name="w", input=Order).then(step(lambda o: o, id="same"))
    assert await made.run({"item": "pen"}) == {"item": "pen", "amount": 1}
    with pytest.raises(StepError, match='the input of workflow "w" does not fit') as caught:
        await made.run({"amount": 1})
    assert caught.value.code == "step.input"


async def test_the_output_is_what_is_promised() -> None:
    made = Workflow(name="w", output=Order).then(step(lambda n: {"item": n}, id="make"))
    assert await made.run("pen") == Order("pen")
    with pytest.raises(StepError, match='"w" does not give what it promises') as caught:
        await made.run(3)
    assert caught.value.code == "step.output"


def test_the_state_is_checked_when_it_is_given() -> None:
    made = Workflow(name="w", state=Totals).then(add)
    with pytest.raises(SchemaError, match='the state of "w" does not fit'):
        made.run(1, state={"total": "many"})


async def test_schemas_of_the_input() -> None:
    several = step(lambda a, b=1: a, id="several")
    assert Workflow(name="w").then(several).input_schema["required"] == ["a"]
    assert Workflow(name="w").then(add).input_schema == {"type": "integer"}
    whole = step(lambda order: order, id="whole")
    assert Workflow(name="w", input=Order).then(whole).input_schema["required"] == ["item"]
    assert Workflow(name="w").parallel([add]).input_schema == {}

    @workflow
    async def body(item: str, amount: int = 1) -> str:
        return item * amount

    assert body.input_schema["required"] == ["item"]
    assert await body("a", amount=2) == "aa"
    with pytest.raises(UsageError, match='"body" does not take "price"'):
        body("a", price=1)


async def test_keywords_are_the_input() -> None:
    made = Workflow(name="w").then(step(lambda a, b: [a, b], id="both"))
    assert await made(a=1, b=2) == [1, 2]
    assert await made.start({"a": 1, "b": 2}) == [1, 2]


@pytest.mark.parametrize("concurrency", [0, -1])
def test_options_that_cannot_be_used(concurrency: int) -> None:
    with pytest.raises(ConfigError, match="concurrency"):
        Workflow(name="w", concurrency=concurrency)


# The outline


def test_the_outline() -> None:
    @tool
    def pay(amount: int) -> int:
        """Pay it."""
        return amount

    agent = Agent(name="poet", model=ScriptedModel(), description="Writes.")
    inner = Workflow(name="inner", description="Inside.").then(step(add.fn, id="deep"))
    made = (
        Workflow(name="w")
        .then(add, when=is_odd)
        .parallel([step(add.fn, id="a"), step(double.fn, id="b")])
        .map(lambda both: both["a"])
        .branch([(is_odd, step(add.fn, id="c")), (otherwise, inner)], exclusive=True)
        .do_while(step(add.fn, id="d"), lambda n: n < 9)
        .map(lambda n: [n])
        .foreach(step(add.fn, id="e"), concurrency=4)
        .map(lambda found: {"amount": found[0]})
        .then(pay)
        .then(agent)
        .graph([step(len, id="f"), step(str, id="g", depends_on=["f"])])
        .sleep(2)
        .sleep_until(dt.datetime(2030, 1, 2, 3, 4, tzinfo=dt.UTC))
        .wait_for_event("paid")
        .commit()
    )
    one, two, out = digest(add.fn), digest(double.fn), made.outline
    about = {"about": "One more."}
    codes = [n.pop("code") for n in out["nodes"] if n["type"] == "map"]
    assert all(codes) and len(set(codes)) == 3
    assert out["nodes"][8].pop("code") == digest(pay.fn)
    assert out["nodes"][3]["arms"][1]["nodes"][0].pop("code") == inner.code
    assert out == {
        "name": "w",
        "nodes": [
            {"type": "step", "id": "add", **about, "when": "is_odd", "code": one},
            {"type": "parallel", "id": "parallel:a", "arms": [
                [{"type": "step", "id": "a", **about, "code": one}],
                [{"type": "step", "id": "b", "code": two}]]},
            {"type": "map", "id": "map-1"},
            {"type": "branch", "id": "branch:c", "exclusive": True, "arms": [
                {"when": "is_odd", "nodes": [{"type": "step", "id": "c", **about, "code": one}]},
                {"when": "otherwise", "nodes": [
                    {"type": "workflow", "id": "inner", "about": "Inside.", "nodes": [
                        {"type": "step", "id": "deep", **about, "code": one}]}]}]},
            {"type": "loop", "id": "loop:d", "how": "while", "when": "n < 9", "nodes": [
                {"type": "step", "id": "d", **about, "code": one}]},
            {"type": "map", "id": "map-2"},
            {"type": "foreach", "id": "foreach:e", "concurrency": 4, "nodes": [
                {"type": "step", "id": "e", **about, "code": one}]},
            {"type": "map", "id": "map-3"},
            {"type": "tool", "id": "pay", "about": "Pay it."},
            {"type": "agent", "id": "poet", "about": "Writes."},
            {"type": "graph", "id": "graph:f", "edges": [["f", "g"]], "nodes": [
                {"type": "step", "id": "f"}, {"type": "step", "id": "g"}]},
            {"type": "sleep", "id": "sleep-1", "label": "2 s"},
            {"type": "sleep", "id": "sleep-2", "label": "until 2030-01-02 03:04"},
            {"type": "event", "id": "paid"},
        ],
    }  # fmt: skip


async def test_the_outline_is_in_the_log_once() -> None:
    @step
    def ask(n: int, ctx: Context) -> Any:
        return ctx.suspend()

    inner = Workflow(name="inner").then(add)
    made = Workflow(name="w").then(inner).then(ask)
    run = made.run(1)
    with pytest.raises(RunSuspended):
        await run
    run = run.resume("on")
    await run
    kept = [e for e in run.log.events if isinstance(e.data, Custom) and e.data.name == GRAPH]
    assert [(e.span, e.data.value) for e in kept] == [("w", made.outline)]


def test_the_hash_is_that_of_the_outline() -> None:
    one, same = Workflow(name="w").then(add), Workflow(name="w").then(add)
    assert one.graph_hash == same.graph_hash != Workflow(name="w").then(double).graph_hash


def test_what_a_workflow_shows() -> None:
    made = Workflow(name="w").then(add)
    assert repr(made) == "<Workflow w: add>"
    assert made._repr_mimebundle_()


# State


async def test_state_is_one_for_all_steps() -> None:
    @step
    def count(n: int, ctx: Context) -> int:
        ctx.state["total"] = ctx.state.get("total", 0) + n
        return n

    @step
    def total(n: Any, ctx: Context) -> Any:
        return dict(ctx.state)

    inner = Workflow(name="inner").then(count)
    made = Workflow(name="w", state=Totals).foreach(inner).then(total)
    assert await made.run([1, 2, 3]) == {"total": 6}
    assert await made.run([1, 2, 3], state={"total": 10}) == {"total": 16}


async def test_what_a_step_that_was_cut_off_has_set_is_undone() -> None:
    """Its code runs again: a counter must not count twice."""

    @step
    def ask(n: int, ctx: Context) -> Any:
        ctx.state["times"] = ctx.state.get("times", 0) + 1
        ctx.suspend(schema=int)
        return ctx.state["times"]

    run = Workflow(name="w").then(ask).run(1)
    with pytest.raises(RunSuspended):
        await run
    assert await run.resume(1) == 1


# Keys, budgets, places


async def test_a_key_names_one_run(tmp_path: Path) -> None:
    done = []

    @step
    def effect(n: int) -> int:
        done.append(n)
        return n

    def make() -> Workflow[Any]:
        made = Workflow(name="w").then(effect)
        Mastra(workflows=[made], storage=f"sqlite:///{tmp_path / 'keys.db'}")
        return made

    first = make().run(1, key="order-1")
    assert await first == 1
    again = make().run(1, key="order-1")
    assert await again == 1
    assert again.id == first.id and done == [1]
    with pytest.raises(Conflict):
        await make().run(2, key="order-1")
    assert await make().run(2, key="order-2") == 2


async def test_a_key_of_a_run_that_is_under_way(tmp_path: Path) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    @step
    async def slow(n: int) -> int:
        begun.set()
        await may_end.wait()
        return n

    def make() -> Workflow[Any]:
        made = Workflow(name="w").then(slow)
        Mastra(workflows=[made], storage=f"sqlite:///{tmp_path / 'keys.db'}")
        return made

    task = asyncio.ensure_future(make().start(1, key="k"))
    await begun.wait()
    with pytest.raises(LeaseHeld):
        await make().run(1, key="k")
    may_end.set()
    assert await task == 1


async def test_a_key_of_a_run_that_waits(tmp_path: Path) -> None:
    @step
    def ask(n: int, ctx: Context) -> Any:
        return ctx.suspend(schema=int)

    made = Workflow(name="w").then(ask)
    Mastra(workflows=[made], storage=f"sqlite:///{tmp_path / 'keys.db'}")
    with pytest.raises(RunSuspended):
        await made.run(1, key="k")
    again = made.run(1, key="k")
    with pytest.raises(RunSuspended):
        await again
    assert await again.resume(3) == 3
    assert await made.run(1, key="k") == 3


async def test_only_so_many_runs_at_once() -> None:
    now, most = [0], [0]

    @step
    async def busy(n: int) -> int:
        now[0] += 1
        most[0] = max(most[0], now[0])
        await asyncio.sleep(0.002)
        now[0] -= 1
        return n

    made = Workflow(name="w", concurrency=2).then(busy)
    assert await asyncio.gather(*(made.run(n) for n in range(6))) == [*range(6)]
    assert most == [2]


async def test_budgets_of_a_run() -> None:
    model = ScriptedModel("a", "b")
    agent = Agent(name="poet", model=model)
    made = Workflow(name="w", limits=Limits(requests=1)).then(agent).then(step(agent, id="p2"))
    with pytest.raises(LimitExceeded):
        await made.run("x")
    assert len(model.requests) == 1


async def test_a_run_of_another_loop_has_slots_of_its_own() -> None:
    made = Workflow(name="w", concurrency=1).then(add)
    assert await made.run(1) == 2
    assert await asyncio.to_thread(lambda: asyncio.run(made.start(1))) == 2


# As a tool


async def test_a_workflow_as_a_tool() -> None:
    made = Workflow(name="add one", description="Adds.").then(add)
    spec = made.as_tool().spec
    assert (spec.name, spec.description) == ("add_one", "Adds.")
    assert spec.parameters == {
        "type": "object",
        "properties": {"input": {"type": "integer"}},
        "required": ["input"],
    }
    whole = Workflow(name="w", input=Order).then(step(lambda o: o, id="same")).as_tool()
    assert whole.spec.parameters["required"] == ["item"]
    assert whole.input_of({"item": "pen"}) == {"item": "pen"}
