"""Laws of workflows over generated plans: a crash anywhere, a fork, a replay change nothing."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mastra_nb.events import encode
from mastra_nb.runs import Run
from mastra_nb.workflow_runs import WorkflowRun
from mastra_nb.workflows import Workflow, step
from tests.flows.plans_strategies import (
    Plan,
    World,
    answer_to,
    outcome,
    plans,
    place,
    started,
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
