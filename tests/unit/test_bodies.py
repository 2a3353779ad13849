from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import pytest

from mastra_nb import Agent, Context, Mastra, tool
from mastra_nb.errors import (
    ReplayMismatch,
    RunSuspended,
    SchemaError,
    StepError,
    Stopped,
    UsageError,
)
from mastra_nb.steps import step
from mastra_nb.testing import ScriptedModel
from mastra_nb.workflows import Workflow, now, random, sleep, suspend, uuid, workflow


@step
def add(n: int) -> int:
    return n + 1


async def waits(run: Any) -> dict[str, Any]:
    with pytest.raises(RunSuspended):
        await run
    return dict(run.pending)


async def test_everything_can_be_called_in_a_body() -> None:
    @tool
    def triple(n: int) -> int:
        return 3 * n

    agent = Agent(name="poet", model=ScriptedModel("a poem"))
    inner = Workflow(name="inner").then(add)

    @workflow
    async def body(n: int, word: str = "w") -> list[Any]:
        return [await add(n), await triple.run(n), await inner(n), await agent(word), triple(n)]

    run = body(2)
    assert await run == [3, 6, 3, "a poem", 6]
    assert [s.kind for s in run.view.spans.values() if s.parent == "body"] == [
        *("step", "tool", "workflow", "agent")
    ]


async def test_what_ended_is_not_called_again() -> None:
    done = []

    @step
    def effect(n: int) -> int:
        done.append(n)
        return n

    @tool
    def also(n: int) -> int:
        done.append(n)
        return n

    @workflow
    async def body() -> list[Any]:
        made = [await effect(1), await effect(1), await also.run(2)]
        return [*made, await suspend("more?", schema=int), await effect(3)]

    run = body()
    await waits(run)
    assert await run.resume(9) == [1, 1, 2, 9, 3]
    assert done == [1, 1, 2, 3]


async def test_time_chance_and_ids_are_the_same_again() -> None:
    seen = []

    @workflow
    async def body() -> Any:
        made = [await now(), await random(), await uuid(), await uuid()]
        seen.append(made)
        return await suspend()

    run = body()
    await waits(run)
    await run.resume("on")
    assert seen[0] == seen[1]
    at, number, one, other = seen[0]
    assert at.tzinfo is dt.UTC and 0 <= number < 1 and one != other and len(one) == 36


async def test_a_gather_with_a_question_and_a_slow_sibling() -> None:
    ended = []

    @step
    async def slow(n: int) -> int:
        await asyncio.sleep(0.02)
        ended.append(n)
        return n

    @workflow
    async def body() -> list[Any]:
        return list(await asyncio.gather(suspend("q", schema=int), slow(1), slow(2)))

    run = body()
    await waits(run)
    assert sorted(ended) == [1, 2]
    assert await run.resume(5) == [5, 1, 2]
    assert sorted(ended) == [1, 2]


async def test_questions_side_by_side_have_keys() -> None:
    @workflow
    async def body() -> list[Any]:
        asked = [suspend("ok?", key=f"k{n}", schema=int) for n in range(2)]
        return list(await asyncio.gather(*asked))

    run = body()
    assert [*await waits(run)] == ["body/suspend[k0]", "body/suspend[k1]"]
    run = run.resume(1, path="suspend[k1]")
    await waits(run)
    assert await run.resume(0) == [0, 1]


async def test_equal_calls_side_by_side_are_told_apart() -> None:
    @workflow
    async def body() -> list[int]:
        return list(await asyncio.gather(add(1), add(1), add.run(1, key="own")))

    run = body()
    assert await run == [2, 2, 2]
    paths = [s.path for s in run.view.spans.values() if s.parent]
    assert paths[0].endswith(".0") and paths[1].endswith(".1") and paths[2] == "body/add[own]"


async def test_a_call_that_was_never_awaited() -> None:
    @workflow
    async def body() -> int:
        add(1)
        return 1

    with pytest.raises(StepError, match='the call of "add" in "body" was never awaited') as caught:
        await body()
    assert (caught.value.code, caught.value.hint) == ("step.not_awaited", "await add(...)")


async def test_a_call_that_goes_on_beside_the_body_is_let_to_its_end() -> None:
    ended = []

    @step
    async def slow(n: int) -> int:
        await asyncio.sleep(0.01)
        ended.append(n)
        return n

    @workflow
    async def body() -> str:
        task = asyncio.ensure_future(slow(1))
        await asyncio.sleep(0)
        del task
        return "done"

    assert await body() == "done"
    assert ended == [1]


async def test_calls_that_are_not_made_any_more() -> None:
    value = [1]

    @workflow
    async def body() -> Any:
        await add(value[0])
        return await suspend()

    run = body()
    await waits(run)
    value[0] = 2
    again = run.resume("go")
    with pytest.raises(ReplayMismatch, match='"body" did not make 1 of the calls') as caught:
        await again
    (path,) = caught.value.details["paths"]
    assert path.startswith("body/add#") and path.rpartition("/")[2] in caught.value.message
    assert "now()" in caught.value.hint


async def test_an_answer_has_the_type_that_was_asked_for() -> None:
    @workflow
    async def body() -> str:
        when = await suspend("when?", schema=dt.date)
        assert isinstance(when, dt.date)
        return when.isoformat()

    run = body()
    (asked,) = (await waits(run)).values()
    assert asked.schema["format"] == "date"
    with pytest.raises(SchemaError):
        run.resume(3)
    assert await run.resume("2030-01-02") == "2030-01-02"


async def test_bail_in_a_body_ends_it() -> None:
    @step
    def stop(n: int, ctx: Context) -> int:
        ctx.bail("early")

    @workflow
    async def body(ctx: Context) -> str:
        if await suspend(schema=bool):
            ctx.bail("by itself")
        await stop(1)
        return "late"

    for answer, output in ((True, "by itself"), (False, "early")):
        run = body()
        await waits(run)
        assert await run.resume(answer) == output


async def test_a_sleep_does_not_begin_anew() -> None:
    clock = [100.0]
    app = Mastra(storage="memory://")
    app.services.now = lambda: clock[0]

    @workflow
    async def body() -> str:
        await asyncio.gather(sleep(0.01), suspend())
        return "done"

    app.add(body)
    run = body()
    task = asyncio.ensure_future(waits(run))
    await asyncio.sleep(0.03)
    clock[0] += 1
    await task
    began = [e for e in run.log.events if e.span.endswith("/until")]
    assert await run.resume("on") == "done"
    assert [e for e in run.log.events if e.span.endswith("/until")] == began


@pytest.mark.parametrize("fn", [suspend, sleep, now, random, uuid])
async def test_outside_of_a_body(fn: Any) -> None:
    async def called() -> Any:
        return await (fn(1) if fn is sleep else fn())

    with pytest.raises(UsageError, match="is for the body of a workflow") as caught:
        await called()
    assert "@workflow" in caught.value.hint


def test_what_can_be_a_body() -> None:
    def plain() -> None: ...

    async def yields() -> Any:
        yield 1

    with pytest.raises(UsageError, match='"plain" is no async function') as caught:
        workflow(plain)
    assert caught.value.hint == "write: @workflow above async def"
    with pytest.raises(UsageError, match='"yields" yields'):
        workflow(yields)


async def test_runs_in_a_step_are_parts_of_it() -> None:
    inner = Workflow(name="inner").then(add)

    @step
    async def outer(n: int) -> int:
        return await inner(await add(n))

    run = Workflow(name="w").then(outer).run(1)
    assert await run == 3
    parents = {s.name: s.parent for s in run.view.spans.values()}
    assert parents["outer"] == "w" and parents["inner"] == "w/outer"


async def test_a_question_in_a_workflow_in_a_step() -> None:
    begun = []

    @step
    async def ask(n: int, ctx: Context) -> int:
        return n + int(ctx.suspend(schema=int))

    inner = Workflow(name="inner").then(add).then(ask)

    @step
    async def outer(n: int) -> int:
        begun.append(n)
        return await inner(n)

    run = Workflow(name="w").then(outer).run(1)
    (path,) = await waits(run)
    assert path.startswith("w/outer/inner#") and path.endswith("/ask")
    assert await run.resume(5, path="ask") == 7
    assert begun == [1, 1]


async def test_a_body_is_stopped() -> None:
    @workflow
    async def body() -> None:
        await asyncio.gather(sleep(1000), add(1))

    run = body()
    async for event in run.events():
        if "sleep" in event.span:
            run.cancel()
    with pytest.raises(Stopped):
        await run
    assert run.status == "cancelled"


async def test_an_error_is_the_bodys_to_handle() -> None:
    @step
    def fails(n: int) -> int:
        raise ValueError("no")

    @workflow
    async def body() -> str:
        try:
            await fails(1)
        except ValueError:
            return "handled"
        return "not"

    assert await body() == "handled"
