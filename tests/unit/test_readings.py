from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mastra_nb import Agent, Context, Mastra
from mastra_nb.errors import RunSuspended
from mastra_nb.steps import step
from mastra_nb.testing import ScriptedModel
from mastra_nb.workflows import Workflow, workflow


async def test_a_run_in_a_run_reads_its_part_of_the_log() -> None:
    seen: list[Any] = []
    agent = Agent(name="poet", model=ScriptedModel("first words", "second words"))

    @workflow
    async def body() -> str:
        one, two = agent.run("a"), agent.run("b")
        await one
        await two
        seen.extend([one, two])
        return "done"

    run = body()
    await run
    one, two = seen
    assert (one.text, two.text) == ("first words", "second words")
    assert one.id == two.id == run.id
    assert [m.text for m in two.messages] == ["b", "second words"]
    assert one.finish_reason == "stop"
    assert run.usage.calls == 2 and one.usage.calls == 1
    spans = {e.span for e in [e async for e in two.events()]}
    assert spans and all(s.startswith(two._prefix) for s in spans)


async def test_what_a_run_says_of_itself() -> None:
    @step
    def ask(n: int, ctx: Context) -> int:
        return int(ctx.suspend("how many?", schema=int))

    made = Workflow(name="w").then(ask)
    Mastra(workflows=[made], storage="memory://")
    run = made.run(1, thread="t", resource="ann")
    assert (run.name, run.thread, run.resource, run.status) == ("w", "t", "ann", "new")
    with pytest.raises(RunSuspended):
        await run
    assert run.status == "suspended" and run.pending["w/ask"].payload == "how many?"
    assert "how many?" in str(run._repr_mimebundle_())
    run = run.resume(2)
    await run
    assert run.status == "done" and run.pending == {}


@step
async def later(n: int) -> int:
    await asyncio.sleep(0.001)
    return n + 1


@workflow
async def grouped(n: int) -> list[int]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(later(i)) for i in range(n)]
    return [*(task.result() for task in tasks), await asyncio.create_task(later(100))]


async def test_a_run_is_a_coroutine_to_asyncio() -> None:
    run = grouped(2)
    assert await asyncio.create_task(run) == [1, 2, 101] == await run
    again = later(5)
    assert await asyncio.gather(*(asyncio.create_task(again) for _ in range(2))) == [6, 6]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(slow := later(7)), 0.0)
    assert await asyncio.shield(slow) == 8


async def test_a_task_that_is_cancelled_stops_the_run_it_drives() -> None:
    run = later(1)
    task = asyncio.create_task(run)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert run.status == "cancelled"


def test_asyncio_runs_it() -> None:
    agent = Agent(name="a", model=ScriptedModel("hi"))
    assert asyncio.run(agent.run("x")) == "hi"  # type: ignore[arg-type]
