"""The workflow control-flow patterns (Russell, ter Hofstede, van der Aalst, Mulyar 2006): what
docs/patterns.md says of each is shown here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mastra_nb import Context, Run, Workflow, otherwise, step, suspend, workflow
from mastra_nb.errors import NotResumable, RunSuspended, Stopped
from mastra_nb.workflows import sleep

PAGE = (Path(__file__).parents[2] / "docs" / "patterns.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+) \| ([^|]+) \| (direct|composed|not) \| (.+) \|$", PAGE, re.MULTILINE)


class Log:
    """What was done, in order; and the most that was done at once."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.now = self.most = 0

    def step(self, name: str, seconds: float = 0.0, gives: Any = ...) -> Any:
        async def work(value: Any = None) -> Any:
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                await asyncio.sleep(seconds)
            finally:
                self.now -= 1
            self.did.append(name)
            return name if gives is ... else gives

        return step(work, id=name)


@pytest.fixture
def log() -> Log:
    return Log()


async def asked(run: Run[Any]) -> Run[Any]:
    with pytest.raises(RunSuspended):
        await run
    return run


def ask(name: str) -> Any:
    def question(value: Any, ctx: Context) -> str:
        answer: str = ctx.suspend({"for": name}, schema=str)
        return answer

    return step(question, id=name)


# --- the page ----------------------------------------------------------------------------------


def test_all_43_are_on_the_page() -> None:
    assert [int(number) for number, *_ in ROWS] == [*range(1, 44)]


def test_the_page_and_the_tests_agree() -> None:
    """Each direct row has its test; a composed one has it, or says why there is none."""
    tests = {n for n in globals() if n.startswith("test_wcp_")}
    named = {
        f"test_wcp_{int(number):02d}_{re.sub(r'[^a-z]+', '_', name.lower()).strip('_')}": kind
        for number, name, kind, _ in ROWS
    }
    assert tests <= set(named), tests - set(named)
    direct = {test for test, kind in named.items() if kind == "direct"}
    assert direct <= tests, direct - tests
    assert not {test for test in tests if named[test] == "not"}
    untested = {n for n, kind in named.items() if kind == "composed" and n not in tests}
    marked = {n for n, (*_, how) in zip(named, ROWS, strict=True) if "(no test)" in how}
    assert untested == marked


def test_the_page_counts_right() -> None:
    said = re.search(r"(\d+) are direct, (\d+) are composed, (\d+) are not offered", PAGE)
    assert said is not None
    counts = [sum(kind == k for *_, kind, _ in ROWS) for k in ("direct", "composed", "not")]
    assert [int(n) for n in said.groups()] == counts


# --- basic -------------------------------------------------------------------------------------


async def test_wcp_01_sequence(log: Log) -> None:
    """The second begins when the first has ended, slow as it is."""
    wf = Workflow(name="w").then(log.step("a", 0.02)).then(log.step("b"))
    assert await wf.run() == "b"
    assert (log.did, log.most) == (["a", "b"], 1)


async def test_wcp_02_parallel_split(log: Log) -> None:
    wf = Workflow(name="w").parallel([log.step("a", 0.02), log.step("b", 0.02)])
    await wf.run()
    assert log.most == 2


async def test_wcp_03_synchronization(log: Log) -> None:
    """What comes after begins once, when the slowest has ended."""
    wf = Workflow(name="w").parallel([log.step("a", 0.03), log.step("b")]).then(log.step("c"))
    await wf.run()
    assert log.did == ["b", "a", "c"]


@pytest.mark.parametrize(("value", "chosen"), [(5, "big"), (50, "big"), (1, "small")])
async def test_wcp_04_exclusive_choice(log: Log, value: int, chosen: str) -> None:
    """Exactly one, though two conditions hold for 50."""
    arms = [
        (lambda n: n > 3, log.step("big")),
        (lambda n: n > 30, log.step("huge")),
        (otherwise, log.step("small")),
    ]
    assert await Workflow(name="w").branch(arms, exclusive=True).run(value) == chosen
    assert log.did == [chosen]


@pytest.mark.parametrize("value", [1, 5])
async def test_wcp_05_simple_merge(log: Log, value: int) -> None:
    """What comes after runs once whichever arm was chosen, and gets its output as it is."""
    got: list[Any] = []
    arms = [(lambda n: n > 3, log.step("a")), (otherwise, log.step("b"))]
    wf = Workflow(name="w").branch(arms, exclusive=True).then(step(got.append, id="after"))
    await wf.run(value)
    assert got == log.did and len(got) == 1


# --- branching and synchronization -------------------------------------------------------------


@pytest.mark.parametrize(("value", "chosen"), [(7, {"odd"}), (70, {"big"}), (77, {"odd", "big"})])
async def test_wcp_06_multi_choice(log: Log, value: int, chosen: set[str]) -> None:
    arms = [(lambda n: n % 2, log.step("odd")), (lambda n: n > 30, log.step("big"))]
    assert set(await Workflow(name="w").branch(arms).run(value)) == chosen == set(log.did)


@pytest.mark.parametrize("value", [7, 77])
async def test_wcp_07_structured_synchronizing_merge(log: Log, value: int) -> None:
    """What comes after waits for those that were chosen, and for no other."""
    arms = [(lambda n: n % 2, log.step("odd", 0.03)), (lambda n: n > 30, log.step("big"))]
    await Workflow(name="w").branch(arms).then(log.step("after")).run(value)
    assert log.did == [*(["big"] if value > 30 else []), "odd", "after"]


async def test_wcp_08_multi_merge(log: Log) -> None:
    """What comes after runs once for each branch: it is named in each."""
    after = log.step("after")
    arms = [
        Workflow(name=name).then(log.step(name.upper(), seconds)).then(after)
        for name, seconds in (("a", 0.2), ("b", 0.0))
    ]
    await Workflow(name="w").parallel(arms).run()
    assert log.did == ["B", "after", "A", "after"]


async def first(names: list[str], log: Log, *, of: int = 1, stop: bool = False) -> list[Any]:
    """In the body of a workflow: what the first `of` gave. Who was first is journaled."""
    runs = [asyncio.ensure_future(log.step(n, i * 0.1).run()) for i, n in enumerate(names)]
    done, left = list[Any](), {*runs}
    while len(done) < of:
        ended, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        done += [run.result() for run in ended]
    if stop:
        for run in left:
            run.cancel()
    found: list[Any] = await step(list, id="first").run(done, key="first")
    return found


async def test_wcp_09_structured_discriminator(log: Log) -> None:
    """The first that ends lets it go on; the others run to their end, and change nothing."""

    @workflow
    async def race() -> str:
        given = await first(["a", "b", "c"], log)
        return str(await log.step("after", gives=given[0]).run())

    assert await race.run() == "a"
    assert log.did == ["a", "after", "b", "c"]


async def test_who_was_first_in_a_body_is_kept_over_a_restart(log: Log) -> None:
    """All have ended by then, so the journal alone would not say it."""

    @workflow
    async def race() -> str:
        given = await first(["a", "b", "c"], log)
        return f"{given[0]} {await suspend('Well?', schema=str)}"

    run = await asked(race.run())
    assert sorted(log.did) == ["a", "b", "c"]
    assert await run.resume("yes") == "a yes"
    assert sorted(log.did) == ["a", "b", "c"]


async def test_wcp_29_cancelling_discriminator(log: Log) -> None:
    arms = [log.step("slow", 5), log.step("quick", 0.01), log.step("slower", 6)]
    wf = Workflow(name="w").parallel(arms, wait=1).then(log.step("after", gives="after"))
    run = wf.run()
    assert await run == "after"
    assert log.did == ["quick", "after"]
    assert run.view.spans["w/slow"].status == run.view.spans["w/slower"].status == "cancelled"


async def test_wcp_30_structured_partial_join(log: Log) -> None:
    @workflow
    async def race() -> list[str]:
        given = await first(["a", "b", "c"], log, of=2)
        await log.step("after").run()
        return given

    assert await race.run() == ["a", "b"]
    assert log.did == ["a", "b", "after", "c"]


async def test_wcp_32_cancelling_partial_join(log: Log) -> None:
    arms = [log.step("slow", 5), log.step("b", 0.03), log.step("a", 0.01)]
    assert await Workflow(name="w").parallel(arms, wait=2).run() == {"a": "a", "b": "b"}
    assert log.did == ["a", "b"]


async def test_wcp_37_acyclic_synchronizing_merge(log: Log) -> None:
    """The end of a graph waits for the ways that were taken, and only for them."""

    def only(want: str) -> Callable[[Any], bool]:
        return lambda given: want in given

    parts = [
        log.step("a", 0.02).replace(when=only("a")),
        log.step("b", 5).replace(when=only("b")),
        log.step("c", gives="c"),
        log.step("end").replace(depends_on=["a", "b", "c"]),
    ]
    await Workflow(name="w").graph(parts).run(["a"])
    assert log.did == ["c", "a", "end"]


# --- structure and termination -----------------------------------------------------------------


async def test_wcp_10_arbitrary_cycles(log: Log) -> None:
    """Two ways in and two ways out: the place is a variable of a body."""

    @workflow
    async def cycles(at: str) -> None:
        ways = {"a": ["b", "b"], "b": ["c", "end"], "c": ["b", "a"]}
        while at != "end":
            await log.step(at).run()
            at = ways[at].pop(0)

    await cycles.run("a")
    await cycles.run("c")
    assert log.did == [*"abcb", *"cbcab"]


async def test_wcp_11_implicit_termination(log: Log) -> None:
    """Ends that nothing joins: the run is done when the last of them is, and not before."""
    parts = [log.step("a"), log.step("b", 0.03).replace(depends_on=["a"]), log.step("c")]
    run = Workflow(name="w").graph(parts).run()
    await run
    assert run.status == "done" and sorted(log.did) == ["a", "b", "c"] and log.did[-1] == "b"


async def test_wcp_43_explicit_termination(log: Log) -> None:
    """What ends the workflow stops what is under way beside it; the run is done, not failed."""

    async def decide(value: Any, ctx: Context) -> None:
        await asyncio.sleep(0.01)
        ctx.bail("enough")

    arms = [log.step("slow", 5), step(decide, id="decide")]
    run = Workflow(name="w").parallel(arms, wait=2).then(log.step("after")).run(1)
    assert await run == "enough"
    assert (run.status, log.did) == ("done", [])
    assert run.view.spans["w/slow"].status == "cancelled"


# --- multiple instances ------------------------------------------------------------------------


async def test_wcp_12_multiple_instances_without_synchronization(log: Log) -> None:
    """What comes after waits for none of them; the run is not done before they are."""

    @workflow
    async def spawn(n: int) -> str:
        begun = [asyncio.ensure_future(log.step("one", 0.1).run(i)) for i in range(n)]
        await log.step("after").run()
        return f"{len(begun)} begun"

    run = spawn.run(3)
    assert await run == "3 begun"
    assert log.did == ["after", "one", "one", "one"]


async def test_wcp_13_multiple_instances_with_a_priori_design_time_knowledge(log: Log) -> None:
    one = log.step("one", 0.02)
    arms = [one.replace(id=f"one-{i}") for i in range(3)]
    out = await Workflow(name="w").parallel(arms).then(log.step("after")).run()
    assert (out, log.most, log.did) == ("after", 3, ["one", "one", "one", "after"])


@pytest.mark.parametrize("n", [0, 1, 4])
async def test_wcp_14_multiple_instances_with_a_priori_run_time_knowledge(log: Log, n: int) -> None:
    wf = Workflow(name="w").map(lambda n: [*range(n)], id="items")
    wf.foreach(log.step("one", 0.02), concurrency=9).then(log.step("after"))
    await wf.run(n)
    assert log.did == ["one"] * n + ["after"]
    assert log.most == max(n, 1)


async def test_wcp_15_multiple_instances_without_a_priori_run_time_knowledge(log: Log) -> None:
    """An instance that ends may begin others; what comes after waits for the last."""

    @workflow
    async def growing(n: int) -> int:
        begun = 0
        left = {asyncio.ensure_future(log.step("one", 0.01).run(n))}
        while left:
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            begun += len(done)
            if begun < n:
                more = (log.step("one", 0.01).run([begun, i]) for i in range(2))
                left |= {asyncio.ensure_future(each) for each in more}
        await log.step("after").run()
        return begun

    assert await growing.run(4) == len(log.did) - 1 >= 4
    assert log.did[-1] == "after" and log.most > 1


async def test_wcp_34_static_partial_join_for_multiple_instances(log: Log) -> None:
    @workflow
    async def some(n: int) -> list[str]:
        given = await first([f"i{i}" for i in range(n)], log, of=2)
        await log.step("after").run()
        return given

    assert await some.run(4) == ["i0", "i1"]
    assert log.did == ["i0", "i1", "after", "i2", "i3"]


async def test_wcp_35_cancelling_partial_join_for_multiple_instances(log: Log) -> None:
    @workflow
    async def some(n: int) -> list[str]:
        return await first([f"i{i}" for i in range(n)], log, of=2, stop=True)

    assert await some.run(9) == ["i0", "i1"]
    assert log.did == ["i0", "i1"]


async def test_wcp_36_dynamic_partial_join_for_multiple_instances(log: Log) -> None:
    """After each that ends a condition says whether it is enough, or others are to begin."""

    @workflow
    async def enough(goal: int) -> int:
        total, i, left = 0, 0, set[Any]()
        while total < goal:
            left |= {asyncio.ensure_future(log.step("one", 0.01, gives=i).run(i))}
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            total, i = total + sum(task.result() for task in done), i + 1
        return total

    assert await enough.run(5) == 6
    assert len(log.did) == 4


# --- states ------------------------------------------------------------------------------------


async def test_wcp_16_deferred_choice(log: Log) -> None:
    """Whoever answers first decides; the other question is withdrawn."""
    arms = [
        (lambda given: "bob" in given, log.step("for-bob")),
        (otherwise, log.step("for-ada")),
    ]
    wf = Workflow(name="w").parallel([ask("ada"), ask("bob")], wait=1).branch(arms, exclusive=True)
    run = await asked(wf.run(1))
    assert sorted(run.pending) == ["w/ada", "w/bob"] and not log.did
    run = run.resume("I do", path="bob")
    assert await run == "for-bob" and log.did == ["for-bob"] and not run.pending
    with pytest.raises(NotResumable):
        run.resume("me too", path="ada")


async def test_wcp_17_interleaved_parallel_routing(log: Log) -> None:
    """Two orders that are kept each, woven into one another; never two at once."""

    @workflow
    async def woven() -> None:
        turn = asyncio.Lock()

        async def way(*names: str) -> None:
            for name in names:
                async with turn:
                    await log.step(name, 0.01).run()

        await asyncio.gather(way("a", "b"), way("c", "d"))

    await woven.run()
    assert log.most == 1
    assert log.did == ["a", "c", "b", "d"]


async def test_wcp_18_milestone(log: Log) -> None:
    """The order can be changed, and changed again, until it is packed, and not after."""
    still = Workflow(name="open").parallel([ask("change"), ask("packed")], wait=1)
    run = await asked(Workflow(name="w").do_until(still, lambda out: "packed" in out).run(1))
    for i, colour in enumerate(("blue", "red")):
        assert f"w/open[{i}]/change" in run.pending
        run = await asked(run.resume(colour, path="change"))
    run = run.resume("yes", path="packed")
    assert await run == {"packed": "yes"}
    with pytest.raises(NotResumable):
        run.resume("green", path="change")


async def test_wcp_39_critical_section(log: Log) -> None:
    """Two parts of one run that are never both under way; others are."""

    @workflow
    async def guarded() -> None:
        alone, inside = asyncio.Lock(), Log()

        async def way(name: str) -> None:
            async with alone:
                await inside.step(f"{name}1", 0.01).run()
                await inside.step(f"{name}2", 0.01).run()
            await log.step(name, 0.2).run()

        await asyncio.gather(way("a"), way("b"))
        assert (inside.most, inside.did) == (1, ["a1", "a2", "b1", "b2"])

    await guarded.run()
    assert log.most == 2


async def test_wcp_40_interleaved_routing(log: Log) -> None:
    """Each once, one at a time, in the order in which they become ready."""

    @workflow
    async def any_order(ready: dict[str, float]) -> None:
        turn = asyncio.Lock()

        async def one(name: str, after: float) -> None:
            await sleep(after)
            async with turn:
                await log.step(name, 0.01).run()

        await asyncio.gather(*(one(name, after) for name, after in ready.items()))

    await any_order.run({"a": 0.16, "b": 0.0, "c": 0.08})
    assert (log.did, log.most) == (["b", "c", "a"], 1)


# --- cancellation ------------------------------------------------------------------------------


async def test_wcp_19_cancel_activity(log: Log) -> None:
    """One activity is stopped because another says so; the run goes on."""
    arms = [log.step("work", 5), log.step("stop", 0.01)]
    run = Workflow(name="w").parallel(arms, wait=1).then(log.step("after")).run()
    assert await run == "after"
    assert log.did == ["stop", "after"] and run.view.spans["w/work"].status == "cancelled"


async def test_wcp_20_cancel_case(log: Log) -> None:
    run = Workflow(name="w").parallel([log.step("a", 5), log.step("b", 5)]).run()
    waiting = asyncio.ensure_future(run)
    while log.now < 2:
        await asyncio.sleep(0)
    run.cancel()
    with pytest.raises(Stopped):
        await waiting
    assert run.status == "cancelled" and not log.did
    assert {s.status for s in run.view.spans.values()} == {"cancelled"}


async def test_wcp_25_cancel_region(log: Log) -> None:
    """Two steps under way in a part of it are stopped, a third beside them is not."""
    region = Workflow(name="region").parallel([log.step("a", 5), log.step("b", 5)])
    guarded = Workflow(name="guarded").parallel([region, log.step("stop", 0.01)], wait=1)
    run = Workflow(name="w").parallel([guarded, log.step("beside", 0.1)]).run()
    await run
    assert log.did == ["stop", "beside"]
    spans = run.view.spans
    assert {spans[f"w/guarded/region{p}"].status for p in ("", "/a", "/b")} == {"cancelled"}


async def test_wcp_26_cancel_multiple_instance_activity(log: Log) -> None:
    """What has ended stays, what is under way is stopped, what had not begun never does."""
    begun: list[int] = []

    async def one(n: int) -> None:
        begun.append(n)
        await asyncio.sleep(0 if n < 2 else 5)
        log.did.append("one")

    async def stop(value: Any) -> None:
        while len(begun) < 4:
            await asyncio.sleep(0)
        log.did.append("stop")

    many = Workflow(name="many").foreach(one, concurrency=2)
    run = Workflow(name="w").parallel([many, stop], wait=1).run([0, 1, 2, 3, 4])
    await run
    assert log.did == ["one", "one", "stop"]
    spans = run.view.spans
    found = [spans[f"w/many/one[{i}]"].status for i in range(4)]
    assert found == ["ok", "ok", "cancelled", "cancelled"] and "w/many/one[4]" not in spans


async def test_wcp_27_complete_multiple_instance_activity(log: Log) -> None:
    """What has ended counts, the rest is given up, and it goes on with what there is."""

    @workflow
    async def so_far(seconds: list[float]) -> int:
        runs = [asyncio.ensure_future(log.step("one", s).run(s)) for s in seconds]
        done, left = await asyncio.wait(runs, timeout=0.3)
        for run in left:
            run.cancel()
        return len([await run for run in done])

    assert await so_far.run([0.0, 5.0, 0.01, 6.0]) == 2
    assert log.did == ["one", "one"]


# --- iteration, recursion, triggers, threads ---------------------------------------------------


async def test_wcp_21_structured_loop(log: Log) -> None:
    """Tested after each round, or before the first with `when`."""
    more = step(lambda n: n + 1, id="more")
    assert await Workflow(name="w").do_while(more, lambda n: n < 5).run(1) == 5
    assert await Workflow(name="w").do_until(more, lambda n: n >= 5).run(7) == 8
    before = more.replace(when=lambda n: n < 5)
    assert await Workflow(name="w").do_while(before, lambda n: n < 5).run(7) == 7


async def test_wcp_22_recursion() -> None:
    @workflow
    async def factorial(n: int) -> int:
        return 1 if n < 2 else n * await factorial(n - 1)

    run = factorial(5)
    assert await run == 120
    assert len([s for s in run.view.spans.values() if s.kind == "workflow"]) == 5


async def test_wcp_23_transient_trigger(log: Log) -> None:
    """One that comes while nobody waits for it is lost, and its sender is told."""
    wf = Workflow(name="w").then(ask("before")).wait_for_event("go").then(log.step("after"))
    run = await asked(wf.run(1))
    with pytest.raises(NotResumable, match='does not wait for "go"'):
        run.send_event("go", 1)
    run = await asked(run.resume("yes"))
    assert not log.did
    assert await run.send_event("go", 2) == "after"


async def test_wcp_41_thread_merge(log: Log) -> None:
    """Three ways through the same part become one again."""
    part = Workflow(name="part").then(log.step("a", 0.01)).then(log.step("b"))
    await Workflow(name="w").foreach(part, concurrency=3).then(log.step("after")).run([1, 2, 3])
    assert log.did.count("after") == 1 and log.did[-1] == "after" and log.did.count("b") == 3


async def test_wcp_42_thread_split(log: Log) -> None:
    """One way becomes three through the same part, at once."""
    part = Workflow(name="part").then(log.step("a", 0.01)).then(log.step("b", 0.01))
    wf = Workflow(name="w").map(lambda n: [n] * 3, id="three").foreach(part, concurrency=3)
    await wf.run(1)
    assert (log.did, log.most) == (["a"] * 3 + ["b"] * 3, 3)
