"""Laws of workflows over generated plans: a crash anywhere, a fork, a replay change nothing."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mastra_nb.context import Context
from mastra_nb.events import encode
from mastra_nb.runs import Run
from mastra_nb.workflow_runs import WorkflowRun
from mastra_nb.workflows import Workflow, step, workflow
from tests.flows.plans_strategies import (
    Plan,
    World,
    answer_to,
    outcome,
    plans,
    to_the_end,
)
from tests.flows.programs import check_laws, durable

lawful = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=False
)


async def reference(plan: Plan, seed: int) -> tuple[World, Run[Any]]:
    world = World(plan)
    run = await to_the_end(world.workflow.run(plan["input"]), random.Random(seed))
    check_laws(run)
    return world, run


async def cut_at(cut: int, plan: Plan, run: Run[Any], seed: int) -> None:
    """The process died after so many durable events: somebody else goes on."""
    before = durable(run.log.events)[:cut]
    world = World(plan)
    world.know(before)
    loaded = world.workflow.load(run.id, plan["input"], past=before)
    answered = set(loaded.view.answers)
    if loaded.status == "suspended":
        path = random.Random(seed).choice(sorted(loaded.pending))
        resumed = loaded.resume(answer_to(path), path=path)
        answered.add(path)
    elif loaded.status in ("done", "failed"):
        resumed = loaded
    else:
        resumed = loaded.resume()
    again = await to_the_end(resumed, random.Random(seed), answered)
    check_laws(again)
    assert not world.again, f"after {cut} events: {world.again}"
    assert outcome(again) == outcome(run), f"after {cut} events"


@settings(lawful, max_examples=100)
@given(plans(), st.integers(0, 2**16))
def test_a_crash_anywhere_changes_nothing(plan: Plan, seed: int) -> None:
    async def main() -> None:
        _, run = await reference(plan, seed)
        events = len(durable(run.log.events))
        order = random.Random(seed)
        cuts = sorted(order.sample(range(events + 1), min(events + 1, 6)))
        for cut in cuts:
            await cut_at(cut, plan, run, seed)

    asyncio.run(main())


@settings(lawful, max_examples=60)
@given(plans(), st.integers(0, 2**16))
def test_a_replay_gives_the_same_and_calls_nothing(plan: Plan, seed: int) -> None:
    async def main() -> None:
        world, run = await reference(plan, seed)
        world.ran.clear()
        before = [encode(e) for e in run.log.events]
        assert isinstance(run, WorkflowRun)
        again = run.replay()
        try:
            await again
        except Exception:
            assert run.status == "failed"
        assert world.ran == []
        assert [encode(e) for e in run.log.events] == before
        assert again.status == run.status
        if run.status == "done":
            assert again.output == run.output

    asyncio.run(main())


@settings(lawful, max_examples=60)
@given(plans(), st.integers(0, 2**16))
def test_a_fork_that_changes_nothing_gives_the_same(plan: Plan, seed: int) -> None:
    async def main() -> None:
        world, run = await reference(plan, seed)
        before = [encode(e) for e in run.log.events]
        steps = sorted(p for p, s in run.view.spans.items() if s.kind in ("step", "map", "agent"))
        if not steps:
            return
        assert isinstance(run, WorkflowRun)
        forked = run.fork(random.Random(seed).choice(steps))
        past = durable(forked.log.events)
        world.know(past)
        again = await to_the_end(forked, random.Random(seed), set(forked.view.answers))
        check_laws(again)
        assert not world.again
        assert outcome(again) == outcome(run)
        assert [encode(e) for e in run.log.events] == before

    asyncio.run(main())


def test_twice_the_items_are_twice_the_journal() -> None:
    def size(items: int) -> int:
        plan = {
            "nodes": [
                {"t": "foreach", "id": "list", "items": items, "concurrency": 4,
                 "step": {"t": "step", "id": "s", "async": True, "state": True}},
            ],
            "input": 1,
        }  # fmt: skip
        run = asyncio.run(to_the_end(World(plan).workflow.run(1), random.Random(0)))
        return sum(len(encode(e)) for e in durable(run.log.events))

    small, large = size(200), size(400)
    assert 1.9 < large / small < 2.1


@step
async def leave(value: int, ctx: Context) -> int:
    ctx.bail(value + 1)


@step
async def leave_too(value: int, ctx: Context) -> int:
    ctx.bail(value + 2)


@step(when=lambda value: value > 5)
async def large(value: int) -> int:
    return -value


async def test_of_two_that_bail_the_first_counts_after_a_crash_too() -> None:
    made = Workflow[Any](name="W").parallel([leave, leave_too])
    run = made.run(1)
    assert await run == 2
    log = durable(run.log.events)
    for cut in range(1, len(log)):
        again = made.load(run.id, 1, past=log[:cut]).resume()
        assert await again == 2
        check_laws(again)
        assert again.view.spans["W/leave_too"].status == "ok"


async def test_a_step_bails_out_of_the_body_that_called_it() -> None:
    @workflow
    async def body(value: int) -> int:
        value = await large(value)
        value = await leave(value)
        return value * 100

    run = body(1)
    assert await run == 2
    log = durable(run.log.events)
    assert await body.load(run.id, run.input, past=log[:-1]).resume() == 2


async def test_a_step_alone_gives_what_it_bails_with() -> None:
    assert await leave(1) == 2
    assert await large(1) == 1


SOAK = """
import asyncio, gc, os, sys
from mastra_nb.app import Mastra
from mastra_nb.context import Context
from mastra_nb.errors import RunSuspended
from mastra_nb.workflows import Workflow, step

@step
async def work(value: int, ctx: Context) -> int:
    if value % 3 == 0:
        raise ValueError("it is broken")
    if value % 3 == 1:
        return ctx.suspend("how many?", schema={"type": "integer"})
    return value

def rss():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

async def main():
    made = Workflow(name="short").then(work)
    app = Mastra(workflows=[made], storage=sys.argv[1])
    for n in range(2500):
        if n == 500:
            print(rss())
        run = made.run(n)
        try:
            await run
        except RunSuspended:
            await run.resume(n)
        except ValueError:
            pass
    print(rss())
    await app.close()

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_two_thousand_runs_leave_nothing_behind(tmp_path: Any) -> None:
    found = subprocess.run(
        [sys.executable, "-c", SOAK, f"sqlite:///{tmp_path}/s.db"],
        stdout=subprocess.PIPE, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )  # fmt: skip
    early, late = (int(line) for line in found.stdout.split())
    print(f"{early / 2**20:.1f} MB after 500 runs, {late / 2**20:.1f} MB after 2,500")
    assert late - early < 4 * 2**20
