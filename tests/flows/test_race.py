"""`parallel(steps, wait=n)`: which are first is kept, whatever happens to the process."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mastra_nb import Context, Mastra, Run, RunSuspended, Workflow, step
from mastra_nb.errors import ConfigError, Stopped
from mastra_nb.events import fold


class Work:
    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []

    def arm(self, name: str, seconds: float, fails: int = 0) -> Any:
        async def work(value: Any = None) -> str:
            self.begun.append(name)
            await asyncio.sleep(seconds)
            if self.begun.count(name) <= fails:
                raise OSError(name)
            self.ended.append(name)
            return name

        return step(work, id=name)


@pytest.fixture
def work() -> Work:
    return Work()


@step
def ask(value: Any, ctx: Context) -> str:
    answer: str = ctx.suspend("well?", schema=str)
    return answer


async def waits(run: Run[Any]) -> Run[Any]:
    with pytest.raises(RunSuspended):
        await run
    return run


def open_spans(run: Run[Any]) -> list[str]:
    return [s.path for s in fold(run.log.events).spans.values() if s.ended is None]


async def test_what_was_first_comes_first_and_is_a_decision_in_the_journal(work: Work) -> None:
    arms = [work.arm("c", 5), work.arm("b", 0.03), work.arm("a", 0.01)]
    run = Workflow(name="w").parallel(arms, wait=2).run()
    assert [*(await run).items()] == [("a", "a"), ("b", "b")]
    assert run.view.spans["w/parallel:c"].output == ["a", "b"]
    assert run.view.spans["w/c"].status == "cancelled"
    assert await run.replay() == {"a": "a", "b": "b"} and work.ended == ["a", "b"]


async def test_at_whatever_event_it_is_cut_off_it_comes_to_the_same(work: Work) -> None:
    """Without running again what had ended, and without waiting for who had lost."""
    arms = [work.arm("slow", 5), work.arm("quick", 0.0), ask]
    wf = Workflow(name="w").parallel(arms, wait=1).then(work.arm("after", 0.0))
    run = wf.run(1)
    assert await run == "after"
    events = [e for e in run.log.events if e.durable]
    for cut in range(1, len(events)):
        work.begun.clear()
        past = events[:cut]
        known = {p for p, s in fold(past).spans.items() if s.status == "ok"}
        again = wf.load(run.id, 1, past=past).resume()
        assert await asyncio.wait_for(again, 2) == "after", cut
        assert not known & {f"w/{name}" for name in work.begun}, cut
        if "w/quick" in known:
            assert "slow" not in work.begun, cut
        assert not open_spans(again) and not again.pending, cut


async def test_who_had_ended_before_the_crash_has_won_though_another_is_quicker_now() -> None:
    seconds = {"a": 0.0, "b": 5.0}

    async def work(name: str) -> str:
        await asyncio.sleep(seconds[name])
        return name

    async def one(value: Any) -> str:
        return await work("a")

    async def other(value: Any) -> str:
        return await work("b")

    wf = Workflow(name="w").parallel([other, one], wait=1)
    run = wf.run(1)
    assert await run == {"one": "a"}
    events = [e for e in run.log.events if e.durable]
    ended = max(i for i, e in enumerate(events) if e.span == "w/one")
    seconds.update(a=5.0, b=0.0)
    again = wf.load(run.id, 1, past=events[: ended + 1]).resume()
    assert await asyncio.wait_for(again, 2) == {"one": "a"}


async def test_a_question_beside_work_that_is_stopped_is_withdrawn(work: Work) -> None:
    inner = Workflow(name="inner").parallel([ask, work.arm("slow", 5)])
    run = Workflow(name="w").parallel([inner, work.arm("a", 0.05)], wait=1).run(1)
    assert await run == {"a": "a"}
    assert "w/inner/ask" in run.view.spans and not run.pending and not open_spans(run)


async def test_a_question_that_came_second_is_withdrawn_with_all_around_it(work: Work) -> None:
    inner = Workflow(name="inner").parallel([ask, ask.replace(id="ask-2")])
    run = Workflow(name="w").parallel([inner, work.arm("a", 0.01)], wait=1).run(1)
    assert await run == {"a": "a"}
    assert not run.pending and not open_spans(run)
    assert {s.status for p, s in run.view.spans.items() if p.startswith("w/inner")} == {"cancelled"}


async def test_answers_count_as_they_come_in_and_the_last_is_not_asked_any_more() -> None:
    app = Mastra(storage="memory://")
    arms = [ask.replace(id=name) for name in ("a", "b", "c")]
    wf = app.add(Workflow(name="w").parallel(arms, wait=2))
    run = await waits(wf.run(1))
    run = await waits((await app.get_run(run.id)).resume("three", path="c"))
    assert sorted(run.pending) == ["w/a", "w/b"]
    done = (await app.get_run(run.id)).resume("one", path="a")
    assert await done == {"c": "three", "a": "one"}
    assert not await app.find_waiting() and not open_spans(done)
    assert (await app.get_run(run.id)).output == {"c": "three", "a": "one"}


async def test_one_that_fails_is_no_winner_and_only_counts_if_too_few_are_left(work: Work) -> None:
    arms = [work.arm("bad", 0.0, fails=1), work.arm("good", 0.02), work.arm("late", 5)]
    run = Workflow(name="w").parallel(arms, wait=1).run()
    assert await run == {"good": "good"}
    run = Workflow(name="w").parallel([work.arm("bad-2", 0.0, fails=9), ask], wait=1).run(1)
    assert await (await waits(run)).resume("yes") == {"ask": "yes"}


async def test_too_many_that_fail_fail_the_run_and_retry_begins_only_them(work: Work) -> None:
    arms = [work.arm("bad", 0.0, fails=1), work.arm("good", 0.01)]
    run = Workflow(name="w").parallel(arms, wait=2).run()
    with pytest.raises(OSError, match="bad"):
        await run
    assert await run.retry() == {"good": "good", "bad": "bad"}
    assert work.begun == ["bad", "good", "bad"]


async def test_what_when_leaves_out_does_not_take_part(work: Work) -> None:
    out = work.arm("out", 0.0).replace(when=lambda value: False)
    run = Workflow(name="w").parallel([out, work.arm("a", 0.01)], wait=1).run()
    assert await run == {"a": "a"}
    run = Workflow(name="w").parallel([out, work.arm("a", 0.01)], wait=2).run()
    assert await run == {"a": "a"}


async def test_a_run_that_is_stopped_stops_all_arms(work: Work) -> None:
    run = Workflow(name="w").parallel([work.arm("a", 5), work.arm("b", 5)], wait=1).run()
    waiting = asyncio.ensure_future(run)
    while len(work.begun) < 2:
        await asyncio.sleep(0)
    run.cancel()
    with pytest.raises(Stopped):
        await waiting
    assert not work.ended and not open_spans(run)


@pytest.mark.parametrize("wait", [0, 3, -1])
def test_more_than_there_are_is_refused(work: Work, wait: int) -> None:
    with pytest.raises(ConfigError, match=f"waits for {wait} of 2 steps"):
        Workflow(name="w").parallel([work.arm("a", 0), work.arm("b", 0)], wait=wait)


def test_arms_of_a_branch_that_are_none_and_times_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no \(condition, step\)"):
        Workflow(name="w").branch([ask])
    with pytest.raises(ConfigError, match=r"sleep\('1'\) is no time"):
        Workflow(name="w").sleep("1")  # type: ignore[arg-type]
