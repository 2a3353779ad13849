from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from mastra_nb import Agent, Context, Mastra, tool
from mastra_nb.errors import ModelError, NotFound, RunSuspended, StepError, Stopped
from mastra_nb.steps import Failure, step
from mastra_nb.testing import ScriptedModel, calls
from mastra_nb.workflows import Workflow, otherwise


def w(**options: Any) -> Workflow[Any]:
    return Workflow(name="w", **options)


@step
def add(n: int) -> int:
    return n + 1


@step
def double(n: int) -> int:
    return 2 * n


@step
def fails(n: int) -> int:
    raise ValueError(f"no {n}")


@step
def ask(n: int, ctx: Context) -> int:
    return n + int(ctx.suspend(f"and {n}?", schema=int))


def is_odd(n: int) -> bool:
    return n % 2 == 1


@pytest.mark.parametrize(
    ("build", "input", "output"),
    [
        (lambda: w().then(add).then(double), 1, 4),
        (lambda: w().then(add, when=is_odd).then(double), 2, 4),
        (lambda: w().parallel([add, double]), 3, {"add": 4, "double": 6}),
        (lambda: w().parallel([step(add, when=is_odd), double]), 2, {"double": 4}),
        (lambda: w().branch([(is_odd, add), (bool, double)]), 3, {"add": 4, "double": 6}),
        (lambda: w().branch([(is_odd, add), (bool, double)]), 2, {"double": 4}),
        (lambda: w().branch([(is_odd, add), (otherwise, double)]), 3, {"add": 4}),
        (lambda: w().branch([(is_odd, add)]), 2, {}),
        (lambda: w().branch([(is_odd, add), (bool, double)], exclusive=True), 3, 4),
        (lambda: w().branch([(is_odd, add), (otherwise, double)], exclusive=True), 2, 4),
        (lambda: w().do_while(add, lambda n: n < 5), 1, 5),
        (lambda: w().do_until(add, lambda n: n >= 5), 9, 10),
        (lambda: w().do_until(add, lambda n, times: times == 3), 0, 3),
        (lambda: w().foreach(add), [1, 2, 3], [2, 3, 4]),
        (lambda: w().foreach(add, concurrency=2), [1, 2, 3], [2, 3, 4]),
        (lambda: w().foreach(step(add, when=is_odd)), [1, 2], [2, 2]),
        (lambda: w().foreach(add), [], []),
        (lambda: w().foreach(add), (1,), [2]),
        (lambda: w().map(lambda n: {"n": n}), 1, {"n": 1}),
        (lambda: w().sleep(0).then(add), 1, 2),
        (lambda: w().sleep(lambda n: n / 1000).then(add), 1, 2),
        (lambda: w().graph([add, double]), 1, {"add": 2, "double": 2}),
        (lambda: w().graph([add, step(double, depends_on=[add])]), 1, 4),
        (lambda: w().graph([add, double, step(lambda add, double: add + double, id="sum",
                                              depends_on=["add", double])]), 3, 10),
        (lambda: w().graph([step(add, when=is_odd), step(lambda n: n, id="n",
                                                         depends_on=["add"])]), 2, None),
    ],
)  # fmt: skip
async def test_what_the_verbs_give(build: Callable[[], Any], input: Any, output: Any) -> None:
    assert await build().run(input) == output


async def test_no_arm_of_an_exclusive_branch() -> None:
    with pytest.raises(StepError, match="no arm of the branch") as caught:
        await w().branch([(is_odd, add)], exclusive=True).run(2)
    assert (caught.value.code, "otherwise" in caught.value.hint) == ("step.branch", True)


async def test_foreach_of_what_is_no_list() -> None:
    with pytest.raises(StepError, match='foreach of "add" was given a int, no list') as caught:
        await w().foreach(add).run(3)
    assert "map" in caught.value.hint


async def test_the_paths_are_those_of_the_contract() -> None:
    inner = Workflow(name="inner").foreach(add)
    made = (
        w()
        .then(step(lambda n: [n], id="list", when=bool))
        .then(inner)
        .map(lambda found: found[0])
        .branch([(is_odd, add), (otherwise, double)], exclusive=True)
        .do_until(step(add.fn, id="up"), lambda n: n > 6)
        .sleep(0)
    )
    run = made.run(1)
    assert await run == 7
    assert [(s.kind, s.path) for s in run.view.spans.values()] == [
        ("workflow", "w"),
        ("value", "w/when:list"),
        ("step", "w/list"),
        ("workflow", "w/inner"),
        ("step", "w/inner/add[0]"),
        ("map", "w/map-1"),
        ("value", "w/branch:add"),
        ("step", "w/double"),
        *(("step", "w/up[0]"), ("value", "w/until:up[0]")),
        *(("step", "w/up[1]"), ("value", "w/until:up[1]")),
        *(("step", "w/up[2]"), ("value", "w/until:up[2]")),
        ("timer", "w/sleep-1"),
        ("value", "w/sleep-1/until"),
    ]


# Errors and what stands beside them


async def test_siblings_of_what_fails_run_to_their_end() -> None:
    ended = []

    @step
    async def slow(n: int) -> int:
        await asyncio.sleep(0.01)
        ended.append(n)
        return n

    run = w().parallel([fails, slow]).run(1)
    with pytest.raises(ValueError, match="no 1"):
        await run
    assert ended == [1] and run.view.spans["w/slow"].status == "ok"


async def test_after_an_item_that_failed_no_other_begins() -> None:
    begun = []

    @step
    def item(n: int) -> int:
        begun.append(n)
        return 1 // n

    with pytest.raises(ZeroDivisionError):
        await w().foreach(item).run([1, 0, 2, 3])
    assert begun == [1, 0]


async def test_items_that_failed_are_collected() -> None:
    made = w().foreach(step(fails.fn, id="f", on_error="collect"), concurrency=3)
    assert await made.run([1, 2]) == [
        Failure(step="f", code="ValueError", message=f"ValueError: no {n}") for n in (1, 2)
    ]


async def test_an_error_counts_more_than_a_question() -> None:
    run = w().parallel([ask, fails]).run(1)
    with pytest.raises(ValueError, match="no"):
        await run
    assert run.status == "failed"


async def test_what_depends_on_a_failure_does_not_begin() -> None:
    run = w().graph([fails, add, step(double, depends_on=[fails])]).run(1)
    with pytest.raises(ValueError, match="no"):
        await run
    assert run.view.spans.keys() == {"w", "w/fails", "w/add"}


async def test_what_does_not_depend_on_a_question_goes_on() -> None:
    made = w().graph([ask, step(double, depends_on=[ask]), add])
    run = made.run(1)
    with pytest.raises(RunSuspended):
        await run
    assert run.view.spans["w/add"].status == "ok" and "w/double" not in run.view.spans
    assert await run.resume(4) == {"double": 10, "add": 2}


async def test_items_after_one_that_asks_are_done_meanwhile() -> None:
    @step
    def item(n: int, ctx: Context) -> int:
        return n if n != 1 else int(ctx.suspend(schema=int))

    run = w().foreach(item).run([0, 1, 2])
    with pytest.raises(RunSuspended):
        await run
    assert run.view.spans["w/item[2]"].status == "ok"
    assert await run.resume(7) == [0, 7, 2]


# Bail


@step
def bail(n: int, ctx: Context) -> int:
    ctx.bail({"early": n})


async def test_bail_ends_the_workflow() -> None:
    run = w().then(add).then(bail).then(double).run(1)
    assert await run == {"early": 2}
    assert run.status == "done" and "w/double" not in run.view.spans


async def test_bail_in_a_nested_one_ends_that_one() -> None:
    inner = Workflow(name="inner").then(bail).then(add)
    run = w().then(inner).then(step(lambda found: found["early"], id="after")).run(1)
    assert await run == 1


async def test_bail_beside_others_lets_them_end() -> None:
    ended = []

    @step
    async def slow(n: int) -> int:
        await asyncio.sleep(0.01)
        ended.append(n)
        return n

    run = w().parallel([bail, slow, step(ask)]).then(step(str, id="after")).run(1)
    assert await run == {"early": 1}
    assert ended == [1] and run.status == "done"


async def test_bail_in_an_item() -> None:
    @step
    def item(n: int, ctx: Context) -> int:
        if n == 2:
            ctx.bail("found it")
        return n

    assert await w().foreach(item, concurrency=2).then(step(len)).run([1, 2, 3]) == "found it"


async def test_bail_after_a_question() -> None:
    @step
    def maybe(n: int, ctx: Context) -> int:
        if ctx.suspend(schema=bool):
            ctx.bail("stopped")
        return n

    made = w().then(maybe).then(add)
    for answer, output in ((True, "stopped"), (False, 2)):
        run = made.run(1)
        with pytest.raises(RunSuspended):
            await run
        assert await run.resume(answer) == output


async def test_what_was_bailed_out_of_stays_so() -> None:
    tried = []

    def inner(n: int, ctx: Context) -> int:
        tried.append(n)
        ctx.bail(n)

    nested = Workflow(name="nested").then(step(inner, id="inner")).then(add)
    run = w().then(nested).then(ask).run(5)
    with pytest.raises(RunSuspended):
        await run
    assert await run.resume(1) == 6
    assert tried == [5]


# What steps see of the others


async def test_results_and_input_of_the_workflow() -> None:
    @step
    def look(n: int, ctx: Context) -> list[Any]:
        with pytest.raises(NotFound, match='no step "doubel" has ended here') as caught:
            ctx.get_step_result("doubel")
        assert "double" in caught.value.hint
        return [ctx.get_init_data(), ctx.get_step_result("add"), ctx.get_step_result("double")]

    assert await w().then(add).then(double).then(look).run(1) == [1, 2, 4]


async def test_results_after_a_question() -> None:
    @step
    def look(n: int, ctx: Context) -> list[Any]:
        return [ctx.get_step_result("add"), ctx.get_step_result("ask")]

    run = w().then(add).then(ask).then(look).run(1)
    with pytest.raises(RunSuspended):
        await run
    assert await run.resume(5) == [2, 7]


async def test_a_step_alone_is_in_no_workflow() -> None:
    @step
    def look(n: int, ctx: Context) -> Any:
        return ctx.get_init_data()

    with pytest.raises(NotFound, match="is no step of a workflow"):
        await look(1)


# Cancel in each composition


@step
async def forever(n: Any) -> int:
    await asyncio.Event().wait()
    return 1


@pytest.mark.parametrize(
    "build",
    [
        lambda: w().then(forever),
        lambda: w().parallel([forever, add]),
        lambda: w().branch([(bool, forever)]),
        lambda: w().do_while(forever, bool),
        lambda: w().map(lambda n: [n, n]).foreach(forever, concurrency=2),
        lambda: w().map(lambda n: [n, n]).foreach(forever),
        lambda: w().graph([forever, step(add, depends_on=[forever])]),
        lambda: w().then(Workflow(name="inner").parallel([forever])),
        lambda: w().then(step(forever, retries=3, on_error="collect")),
        lambda: w().sleep(1000),
    ],
)
async def test_every_composition_can_be_stopped(build: Callable[[], Any]) -> None:
    run = build().run(1)
    async for event in run.events():
        if "forever" in event.span or "sleep" in event.span:
            run.cancel()
    assert run.status == "cancelled"
    with pytest.raises(Stopped):
        await run
    assert all(s.status != "running" for s in run.view.spans.values())


# What has ended is not done again when what it is in is tried again


async def test_a_nested_workflow_is_tried_again_from_where_it_failed() -> None:
    done: list[str] = []

    @step
    def first(n: int, ctx: Context) -> int:
        done.append("first")
        ctx.state["first"] = n
        return n

    @step
    def second(n: int) -> int:
        done.append("second")
        if done.count("second") < 3:
            raise ValueError("no")
        return n

    inner = Workflow(name="inner").then(first).then(second)
    made = w().then(step(inner, retries=2, retry_delay=0))
    Mastra(workflows=[made], storage="memory://")
    run = made.run(5)
    assert await run == 5
    assert done == ["first", "second", "second", "second"]
    assert run.view.spans["w/inner"].attempt == run.view.spans["w/inner/second"].attempt == 3


async def test_what_a_step_has_called_is_not_called_again() -> None:
    done: list[str] = []

    @step
    def inner(n: int) -> int:
        done.append("inner")
        return n

    @step(retries=1, retry_delay=0)
    async def outer(n: int) -> int:
        done.append("outer")
        made = await inner(n)
        if done.count("outer") < 2:
            raise ValueError("no")
        return made

    made = w().then(outer)
    Mastra(workflows=[made], storage="memory://")
    assert await made.run(1) == 1
    assert done == ["outer", "inner", "outer"]


async def test_an_agent_is_tried_again_from_its_last_answer() -> None:
    paid: list[int] = []

    @tool
    def pay(amount: int) -> str:
        paid.append(amount)
        return "paid"

    model = ScriptedModel(calls("pay", amount=1), ModelError("gone"), "done")
    agent = Agent(name="clerk", model=model, tools=[pay])
    made = w().then(step(agent, retries=1, retry_delay=0))
    Mastra(workflows=[made], storage="memory://")
    run = made.run("pay")
    assert await run == "done"
    assert paid == [1]
    assert [m.role for m in run.messages] == ["user", "assistant", "tool", "assistant"]
