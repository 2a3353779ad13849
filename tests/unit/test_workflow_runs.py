from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mastra_nb import Context, Mastra
from mastra_nb.errors import (
    MastraError,
    NotFound,
    NotResumable,
    ReplayMismatch,
    RunSuspended,
    Stopped,
    UsageError,
)
from mastra_nb.events import Noted
from mastra_nb.steps import step
from mastra_nb.workflow_runs import Change
from mastra_nb.workflows import Workflow, suspend, workflow

Make = Callable[..., Workflow[Any]]


class World:
    """What steps have done, and whether `shaky` fails."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.broken = True

    def workflow(self, factor: int = 2, *, more: bool = False) -> Workflow[Any]:
        @step
        def add(n: int) -> int:
            self.done.append("add")
            return n + 1

        @step
        def times2(n: int) -> int:
            self.done.append("times")
            return n * 2

        @step
        def times3(n: int) -> int:
            self.done.append("times")
            return n * 3

        @step
        async def shaky(n: int) -> int:
            self.done.append("shaky")
            if self.broken:
                raise ValueError("broken")
            return n

        @step
        def ask(n: int, ctx: Context) -> int:
            return n + int(ctx.suspend("more?", schema=int))

        made = Workflow(name="w").then(add)
        made.then(step(times2 if factor == 2 else times3, id="times"))
        if more:
            made.then(step(add.fn, id="more"))
        return made.then(ask).then(shaky)


@pytest.fixture
def world() -> World:
    return World()


async def waiting(made: Workflow[Any], input: Any = 1) -> Any:
    run = made.run(input)
    with pytest.raises(RunSuspended):
        await run
    return run


# Retry


async def test_a_run_that_failed_is_tried_again_from_there(world: World) -> None:
    run = (await waiting(world.workflow())).resume(3)
    with pytest.raises(ValueError, match="broken"):
        await run
    with pytest.raises(ValueError, match="broken"):
        await run.retry()
    world.broken = False
    again = run.retry()
    assert again is run.retry() and again.id == run.id
    assert await again == 7
    assert await run.retry() == 7
    assert world.done == ["add", "times", "shaky", "shaky", "shaky"]


async def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    done, block = [], [True]

    def make() -> Workflow[Any]:
        @step
        def first(n: int) -> int:
            done.append("first")
            return n

        @step
        async def second(n: int) -> int:
            if block[0]:
                await asyncio.Event().wait()
            return n

        made = Workflow(name="w").then(first).then(second)
        Mastra(workflows=[made], storage=f"sqlite:///{tmp_path / 'stop.db'}")
        return made

    run = make().run(1)
    async for event in run.events():
        if event.span == "w/second":
            run.cancel()
    with pytest.raises(Stopped):
        await run
    with pytest.raises(NotResumable, match="stopped"):
        run.resume()
    block[0] = False
    other = Mastra(workflows=[make()], storage=f"sqlite:///{tmp_path / 'stop.db'}")
    loaded = await other.get_run(run.id)
    assert loaded.status == "cancelled"
    assert await loaded.retry() == 1  # type: ignore[attr-defined]
    assert done == ["first"]


async def test_what_has_not_failed_is_not_tried_again(world: World) -> None:
    world.broken = False
    run = await waiting(world.workflow())
    with pytest.raises(NotResumable, match="has not failed: it is suspended") as caught:
        run.retry()
    assert "resume" in caught.value.hint
    run = run.resume(1)
    await run
    with pytest.raises(NotResumable, match="it is done"):
        run.retry()


# Fork


async def test_a_fork_goes_back_and_the_run_stays(world: World) -> None:
    world.broken = False
    run = (await waiting(world.workflow())).resume(3)
    assert await run == 7
    fork = run.fork("times", input=10)
    assert fork.id != run.id
    with pytest.raises(RunSuspended):
        await fork
    assert await fork.resume(1) == 21
    assert run.output == 7 and world.done.count("add") == 1
    other = run.fork("ask", outputs={"times": 100})
    with pytest.raises(RunSuspended):
        await other
    assert await other.resume(1) == 101
    assert world.done.count("times") == 2


async def test_a_fork_has_another_state() -> None:
    @step
    def look(n: int, ctx: Context) -> Any:
        return [n, ctx.state.get("mode", "plain")]

    made = Workflow(name="w").then(step(lambda n: n, id="first")).then(look)
    run = made.run(1)
    assert await run == [1, "plain"]
    assert await run.fork("look", state={"mode": "other"}) == [1, "other"]


async def test_a_fork_of_an_item_and_of_a_nested_step() -> None:
    inner = Workflow(name="inner").then(step(lambda n: n * 10, id="deep"))
    made = Workflow(name="w").foreach(inner)
    run = made.run([1, 2])
    assert await run == [10, 20]
    with pytest.raises(NotFound, match='"deep" is in 2 places') as caught:
        run.fork("deep")
    assert caught.value.hint == 'say which: "inner[0]/deep", "inner[1]/deep"'
    assert await run.fork("inner[1]/deep", input=5) == [10, 50]
    assert await run.fork("inner[1]", input=7) == [10, 70]


async def test_a_fork_of_nothing(world: World) -> None:
    run = await waiting(world.workflow())
    with pytest.raises(NotFound, match='has no step "tmies"') as caught:
        run.fork("tmies")
    assert caught.value.hint == 'did you mean "times"?'


async def test_a_fork_is_stored_with_whose_it_is(world: World, tmp_path: Path) -> None:
    world.broken = False
    made = world.workflow()
    app = Mastra(workflows=[made], storage=f"sqlite:///{tmp_path / 'fork.db'}")
    run = (await waiting(made)).resume(3)
    await run
    fork = run.fork("shaky", input=50)
    assert await fork == 50
    row = await app.store.get_run(fork.id)  # type: ignore[union-attr]
    assert row is not None and row.parent_run == run.id
    loaded = await app.get_run(fork.id)
    assert loaded.output == 50
    assert (await app.get_run(run.id)).output == 7


# Replay


async def test_a_replay_calls_nothing(world: World) -> None:
    world.broken = False
    run = (await waiting(world.workflow())).resume(3)
    await run
    done = [*world.done]
    replay = run.replay()
    assert await replay == 7
    assert world.done == done and replay.id == run.id


async def test_a_replay_of_a_failure_fails_alike(world: World) -> None:
    run = (await waiting(world.workflow())).resume(3)
    with pytest.raises(ValueError, match="broken"):
        await run
    done = [*world.done]
    with pytest.raises(MastraError, match="ValueError: broken"):
        await run.replay()
    assert world.done == done


async def test_a_replay_of_other_code_says_where_it_differs() -> None:
    @step
    def add(n: int) -> int:
        return n + 1

    by = [1]

    @workflow
    async def body() -> int:
        return await add(by[0])

    run = body()
    assert await run == 2
    by[0] = 5
    with pytest.raises(ReplayMismatch, match="is not in its journal") as caught:
        await run.replay()
    assert "fork" in caught.value.hint


# Code that has changed


async def loaded(world: World, tmp_path: Path, **options: Any) -> Any:
    """A run that waits, and its handle in a process where the code is another."""
    url = f"sqlite:///{tmp_path / 'changed.db'}"
    world.broken = False
    made = world.workflow()
    Mastra(workflows=[made], storage=url)
    run = await waiting(made)
    other = Mastra(workflows=[world.workflow(**options)], storage=url)
    return await other.get_run(run.id)


async def test_nothing_has_changed(world: World, tmp_path: Path) -> None:
    assert (await loaded(world, tmp_path)).changes == []


async def test_what_has_changed_is_kept_and_said(world: World, tmp_path: Path) -> None:
    run = await loaded(world, tmp_path, factor=3)
    assert run.changes == [Change(step="times", what="changed", finished=True)]
    run = run.resume(0)
    assert await run == 4
    notes = [e.data.text for e in run.log.events if isinstance(e.data, Noted)]
    assert notes == [
        'step "times" has changed since it ended: its result is kept; '
        'run.fork("times") runs it anew'
    ]


async def test_what_has_changed_is_run_anew(world: World, tmp_path: Path) -> None:
    run = await loaded(world, tmp_path, factor=3)
    with pytest.raises(UsageError, match="cannot take an answer as well"):
        run.resume(0, changed="rerun")
    fork = run.resume(changed="rerun")
    with pytest.raises(RunSuspended):
        await fork
    assert await fork.resume(0) == 6
    assert fork.id != run.id


async def test_what_has_changed_is_refused(world: World, tmp_path: Path) -> None:
    run = await loaded(world, tmp_path, factor=3)
    with pytest.raises(NotResumable, match="have changed since they ended: times") as caught:
        run.resume(0, changed="refuse")
    assert "keep" in caught.value.hint and "rerun" in caught.value.hint
    assert (await loaded(world, tmp_path)).resume(0, changed="refuse")


async def test_a_step_that_was_added_runs(world: World, tmp_path: Path) -> None:
    run = await loaded(world, tmp_path, more=True)
    assert run.changes == [Change(step="more", what="added", finished=False)]
    assert await run.resume(0) == 5
    assert world.done == ["add", "times", "add", "shaky"]


# Answers


async def test_an_event_nobody_waits_for(world: World) -> None:
    run = await waiting(world.workflow())
    with pytest.raises(NotResumable, match='does not wait for "paid"'):
        run.send_event("paid", 1)


async def test_the_same_answer_twice_is_one(world: World) -> None:
    world.broken = False
    run = await waiting(world.workflow())
    one, two = run.resume(3), run.resume(3)
    assert await one == await two == 7
    assert world.done.count("shaky") == 1


async def test_a_body_goes_back(tmp_path: Path) -> None:
    done = []

    @step
    def effect(n: int) -> int:
        done.append(n)
        return n

    @workflow
    async def body() -> Any:
        made = await effect(1)
        return [made, await suspend(schema=int)]

    run = body()
    with pytest.raises(RunSuspended):
        await run
    fork = run.fork("effect", input=5)
    with pytest.raises(RunSuspended):
        await fork
    assert await fork.resume(2) == [5, 2]
    assert done == [1, 5]


@pytest.mark.parametrize("bails", [False, True])
async def test_a_loaded_run_gives_what_the_run_gave(bails: bool) -> None:
    def even(n: int, ctx: Context) -> Any:
        if n == 4:
            ctx.bail("enough")
        if n % 2:
            raise ValueError("odd")
        return {"n": n}

    wf = Workflow(name="w").foreach(step(even, on_error="collect"))
    run = wf.run([1, 2, 4] if bails else [1, 2])
    output = await run
    assert (output == "enough") is bails
    assert wf.load(run.id, run.input, past=run.log.events).output == output
