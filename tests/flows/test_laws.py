"""The five laws of events, over generated runs of real agents."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mastra_nb.errors import LimitExceeded, RunSuspended, Stopped
from mastra_nb.limits import Limits
from mastra_nb.messages import Message
from mastra_nb.runs import Run
from tests.flows.programs import (
    Program,
    World,
    answer,
    check_history,
    check_laws,
    durable,
    finished,
    messages_of,
    programs,
    started,
)

lawful = settings(max_examples=60, deadline=None)


async def to_the_end(run: Run[Any], world: World, draw: Any = None) -> Run[Any]:
    """Answers whatever it waits for; checks the laws at every rest."""
    for _ in range(100):
        try:
            await run
        except RunSuspended:
            check_laws(run)
            paths = sorted(run.pending)
            path = draw(st.sampled_from(paths)) if draw else paths[0]
            run = run.resume(answer(run.pending[path]), path=path)
            continue
        except Exception:
            assert run.status in ("failed", "cancelled")
        check_laws(run)
        return run
    raise AssertionError("it never ends")


@lawful
@given(programs(), st.data())
def test_runs_keep_the_laws_and_a_crash_anywhere_changes_nothing(
    program: Program, data: st.DataObject
) -> None:
    async def main() -> None:
        world = World(guarded=data.draw(st.booleans()))
        run = await to_the_end(world.agent.run(json.dumps(program)), world, data.draw)
        log = durable(run.log.events)
        cut = data.draw(st.integers(0, len(log)))
        await crash_at(cut, log, run, world)

    asyncio.run(main())


async def crash_at(cut: int, log: list[Any], run: Run[Any], world: World) -> None:
    before, ended = log[:cut], finished(log[:cut])
    world.ran.clear()
    again = world.agent.load(run.id, run.input, past=before)
    again = await to_the_end(again.resume(), world)
    new = again.log.events[cut:]
    assert not [path for path in started(new) if path in ended]
    assert not [path for path in world.ran if path in ended]
    assert again.status == run.status
    if run.status == "done":
        assert await again == await run
        assert messages_of(again.log.events, "top") == messages_of(run.log.events, "top")


@settings(max_examples=6, deadline=None)
@given(programs(1))
def test_a_crash_at_every_event(program: Program) -> None:
    async def main() -> None:
        world = World()
        run = await to_the_end(world.agent.run(json.dumps(program)), world)
        log = durable(run.log.events)
        for cut in range(len(log) + 1):
            await crash_at(cut, log, run, world)

    asyncio.run(main())


@lawful
@given(programs(), st.integers(1, 80), st.booleans())
def test_a_run_that_is_stopped_anywhere_leaves_a_thread_that_goes_on(
    program: Program, moment: int, guarded: bool
) -> None:
    async def main() -> None:
        world = World(memory=True, guarded=guarded)
        run = world.agent.run(json.dumps(program), thread=f"t{id(world)}")
        seen = 0
        async for _ in run.events():
            seen += 1
            if seen == moment:
                run.cancel()
        (error,) = await asyncio.gather(run, return_exceptions=True)
        if isinstance(error, Stopped):
            assert run.status == "cancelled"
        elif isinstance(error, Exception):
            assert run.status in ("suspended", "failed")
        check_laws(run)
        store = run.log.services.store
        assert store is not None
        assert await store.read_events(run.id) == durable(run.log.events)
        row = await store.get_run(run.id)
        assert row is not None
        assert (row.status, row.lease_until) == (run.status, 0.0)
        history = await world.agent.history(run.thread)
        check_history(history)
        assert not history or history[-1].role in ("assistant", "tool")
        last = json.dumps([{"say": "Yes.", "think": "", "calls": []}])
        following = world.agent.run(last, thread=run.thread)
        assert (await following).lower() == "yes."
        asked = world.model.requests[-1].messages
        check_history(asked)
        assert list(asked[:-1]) == history
        check_laws(following)
        check_history(await world.agent.history(run.thread))

    asyncio.run(main())


@lawful
@given(
    programs(),
    st.builds(
        Limits,
        tool_calls=st.none() | st.integers(0, 4),
        requests=st.none() | st.integers(0, 4),
        tokens=st.none() | st.integers(0, 60),
    ),
)
def test_limits_are_kept_whatever_a_run_does(program: Program, limits: Limits) -> None:
    async def main() -> None:
        world = World(limits=limits)
        run = await to_the_end(world.agent.run(json.dumps(program)), world)
        view = run.view
        kinds = [s.kind for s in view.spans.values() for _ in range(s.attempt)]
        if limits.tool_calls is not None:
            assert kinds.count("tool") <= limits.tool_calls
        if limits.requests is not None:
            assert kinds.count("model") <= limits.requests
        if limits.tokens is not None and view.usage.calls:
            largest = max(s.usage.total for s in view.spans.values() if s.usage)
            assert view.usage.total < limits.tokens + largest
        if run.status == "failed":
            (error,) = await asyncio.gather(run, return_exceptions=True)
            if isinstance(error, LimitExceeded):
                assert error.details["path"] in ("", "top")
            else:
                assert "wrongly" in str(error)

    asyncio.run(main())


def test_history_check_sees_orphans() -> None:
    from mastra_nb.messages import ToolCall, ToolResult, assistant, user

    call = assistant(ToolCall(id="1", name="t"))
    result = Message(role="tool", parts=(ToolResult(id="1", name="t"),))
    check_history([user("x"), call, result])
    for wrong in ([user("x"), result], [call, user("y")], [call, result, result]):
        try:
            check_history(wrong)
        except AssertionError:
            continue
        raise RuntimeError("not seen")
