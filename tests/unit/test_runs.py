from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from mastra_nb import portal
from mastra_nb.agents import Agent
from mastra_nb.context import Context
from mastra_nb.errors import (
    Conflict,
    LimitExceeded,
    NotResumable,
    RunSuspended,
    SchemaError,
    Stopped,
    ToolFailed,
    UsageError,
)
from mastra_nb.events import TextDelta, fold
from mastra_nb.limits import Limits
from mastra_nb.runs import Run
from mastra_nb.services import Services
from mastra_nb.stores.memory import MemoryStore
from mastra_nb.testing import ScriptedModel, calls
from mastra_nb.tools import Tool, tool

TEXT = "Once upon a time, in a land of few notebooks."


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No thread or task outlives a run, and nothing is collected with a complaint."""
    before = {t for t in threading.enumerate() if t.name != "mastra_nb-portal"}
    yield
    gc.collect()
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        left = [
            t for t in threading.enumerate()
            if t not in before
            # Threads of tools that are done wait for the next one.
            and not t.name.startswith(("mastra_nb-portal", "asyncio_", "mastra-nb-tool"))
        ]  # fmt: skip
        if not left:
            break
        time.sleep(0.01)
    assert not left
    assert not asyncio.all_tasks(portal.loop())


@pytest.fixture(autouse=True)
async def loop_in_debug_mode() -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 5
    yield
    me = asyncio.current_task()
    assert [t for t in asyncio.all_tasks() if t is not me] == []


def teller(**options: Any) -> Agent[str]:
    return Agent(name="teller", model=ScriptedModel(TEXT, **options))


def collected(events: list[Any]) -> str:
    return "".join(e.data.text for e in events if isinstance(e.data, TextDelta))


def unwatched(test: Callable[[], None]) -> Any:
    """In a thread without a loop, as a script runs."""
    out: list[BaseException | None] = []

    def work() -> None:
        try:
            test()
            out.append(None)
        except BaseException as error:
            out.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    assert out, "it hangs"
    if out[0] is not None:
        raise out[0]


# R4: wherever it is used


async def test_the_async_forms() -> None:
    run = teller().run("x")
    assert run.status == "new"
    seen = [e async for e in run]
    assert collected(seen) == run.text == await run == run.output == TEXT
    assert run.status == "done"
    assert [e async for e in run] == seen == run.log.events
    assert await run == TEXT
    assert "".join([t async for t in run.stream_text()]) == TEXT


def test_the_sync_forms_in_a_script() -> None:
    def script() -> None:
        run = teller().run("x")
        seen = [*run]
        assert collected(seen) == run.result() == TEXT
        assert [*run] == seen
        assert asyncio.run(wait(run)) == TEXT
        assert teller()("x").result() == TEXT
        assert asyncio.run(teller().generate("x")) == TEXT

    unwatched(script)


async def wait(run: Run[Any]) -> Any:
    return await run


async def test_the_sync_forms_beside_a_running_loop() -> None:
    run = teller().run("x")
    assert collected([*run]) == TEXT
    assert teller().run("x").result() == TEXT
    assert await run == TEXT
    assert [e async for e in run] == run.log.events


async def test_a_run_of_this_loop_is_not_waited_for_on_it() -> None:
    run = teller(delay=0.01).run("x")
    task = asyncio.create_task(wait(run))
    await asyncio.sleep(0.02)
    for form in (run.result, lambda: next(iter(run))):
        with pytest.raises(UsageError, match="would wait for the loop it runs on"):
            form()
    assert await task == run.result() == TEXT


async def test_threads_of_its_own_loop() -> None:
    run = teller(delay=0.001).run("x")
    results = await asyncio.gather(
        asyncio.to_thread(run.result),
        asyncio.to_thread(lambda: asyncio.run(wait(run))),
        asyncio.to_thread(lambda: [*run] and run.text),
        wait(run),
    )
    assert results == [TEXT] * 4


def test_a_finished_run_on_another_loop() -> None:
    def script() -> None:
        run = teller().run("x")
        assert asyncio.run(wait(run)) == TEXT
        assert asyncio.run(wait(run)) == TEXT
        assert run.result() == TEXT
        assert collected([*run]) == TEXT

    unwatched(script)


def nested(how: str) -> Any:
    def in_thread(ctx: Context) -> Any:
        run = teller().run("x")
        assert run.log is ctx.run
        if how == "result":
            return [run.result(), run.result()]
        if how == "iterate":
            return [collected([*run]), run.result()]
        if how == "loop":
            return [asyncio.run(wait(run)), run.result()]
        return teller().run("x")

    async def on_loop(ctx: Context) -> Any:
        run = teller().run("x")
        if how == "await":
            return [await run, await run]
        if how == "both":
            return await asyncio.gather(run, run)
        if how == "async-for":
            return [collected([e async for e in run]), await run]
        if how == "blocks":
            with pytest.raises(UsageError, match="await run"):
                run.result()
            with pytest.raises(UsageError, match="await run"):
                next(iter(run))
            return [await run, run.text]
        task = asyncio.create_task(wait(run))
        return [await task, run.text]

    return in_thread if how in ("result", "iterate", "loop", "lazy") else on_loop


@pytest.mark.parametrize(
    "how",
    ["result", "iterate", "loop", "lazy", "await", "both", "async-for", "blocks", "task"],
)
@pytest.mark.parametrize("outer", ["await", "result"])
async def test_inside_a_tool_it_is_a_part_of_that_run(how: str, outer: str) -> None:
    run = Run(Tool(nested(how), name="outer"), {})
    got = await run if outer == "await" else run.result()
    assert got == (TEXT if how == "lazy" else [TEXT, TEXT])
    spans = run.view.spans
    assert len(spans) == 3
    assert {s.status for s in spans.values()} == {"ok"}
    assert [s.kind for s in spans.values()] == ["tool", "agent", "model"]


async def test_a_nested_run_shows_its_own_part() -> None:
    async def outer(ctx: Context) -> str:
        ctx.note("before")
        run = teller().run("x")
        seen = [e async for e in run]
        ctx.note("after")
        assert {e.span for e in seen} == {seen[0].span, f"{seen[0].span}/model[0]"}
        assert (run.status, run.text, run.usage.calls) == ("done", TEXT, 1)
        assert "".join([t async for t in run.stream_text()]) == TEXT
        with pytest.raises(NotResumable, match="resume the outer run"):
            run.resume()
        return await run

    assert await Run(Tool(outer), {}) == TEXT


async def test_deps_belong_to_the_outer_run() -> None:
    async def outer() -> str:
        with pytest.raises(UsageError, match="shares its deps"):
            teller().run("x", deps=1)
        return "ok"

    assert await Run(Tool(outer), {}) == "ok"


async def test_two_runs_two_readers_two_loops() -> None:
    runs = [teller(delay=0.001).run("x") for _ in range(2)]

    async def read(run: Run[Any]) -> str:
        return collected([e async for e in run])

    def elsewhere() -> list[str]:
        async def main() -> list[str]:
            return [*await asyncio.gather(*map(read, runs))]

        return asyncio.run(main())

    first = asyncio.create_task(read(runs[0]))
    await asyncio.sleep(0)
    there = await asyncio.to_thread(elsewhere)
    here = [await first, await read(runs[1])]
    assert there == here == [TEXT, TEXT]


async def test_a_late_reader_gets_everything() -> None:
    run = teller(delay=0.005).run("x")
    early = run.events()
    await anext(early)
    await asyncio.sleep(0.01)
    assert run.status == "running"
    assert [e async for e in run.events()] == run.log.events
    assert [run.log.events[0], *[e async for e in early]] == run.log.events


async def test_a_reader_that_leaves_changes_nothing() -> None:
    run = teller(delay=0.001).run("x")
    async with contextlib.aclosing(run.events()) as events:  # type: ignore[type-var]
        async for _ in events:
            break
    assert await run == TEXT


async def test_partials_grow() -> None:
    agent = Agent(
        name="a", output=dict[str, Any], model=ScriptedModel('{"a": [1, 2], "b": "xy"}', piece=4)
    )
    run = agent.run("x")
    grown = [p async for p in run.partials()]
    assert grown[-1] == await run == {"a": [1, 2], "b": "xy"}
    assert len(grown) > 3


async def test_the_text_of_others_is_not_in_the_stream() -> None:
    sub = Agent(name="sub", model=ScriptedModel("hidden"))
    top = Agent(name="top", model=ScriptedModel(calls("sub", prompt="x"), "shown"), tools=[sub])
    assert "".join([t async for t in top.run("x").stream_text()]) == "shown"


# R3: stopping


class Slow:
    def __init__(self) -> None:
        self.began = threading.Event()
        self.stopped = False
        self.free = threading.Event()

    async def native(self) -> str:
        self.began.set()
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            self.stopped = True
            raise
        return "late"

    def threaded(self) -> str:
        self.began.set()
        self.free.wait(5)
        return "late"


async def stop_when(run: Run[Any], ready: Callable[[], bool], stop: Callable[[], Any]) -> float:
    task = asyncio.create_task(wait(run))
    while not ready():
        await asyncio.sleep(0.001)
    began = time.perf_counter()
    stop()
    with pytest.raises(Stopped):
        await task
    return time.perf_counter() - began


async def test_stopped_in_the_middle_of_a_stream() -> None:
    agent = Agent(name="a", model=ScriptedModel(TEXT * 9, "Again.", delay=0.01), memory=True)
    run = agent.run("x", thread="stream")
    assert await stop_when(run, lambda: len(run.text) > 20, run.cancel) < 0.5
    assert run.status == "cancelled"
    assert run.messages[-1].partial
    assert TEXT.startswith(run.text[:20])
    kept = await agent.history("stream")
    assert [m.partial for m in kept] == [False, True]
    assert await agent.run("y", thread="stream") == "Again."
    with pytest.raises(NotResumable, match="was stopped"):
        run.resume()


@pytest.mark.parametrize("kind", ["native", "threaded"])
async def test_stopped_in_the_middle_of_a_tool(kind: str) -> None:
    slow = Slow()
    model = ScriptedModel([calls("fast", id="1"), calls(kind, id="2")], "Again.")
    fast = Tool(lambda: "done", name="fast")
    agent = Agent(name="a", model=model, tools=[getattr(slow, kind), fast], memory=True)
    run = agent.run("x", thread=kind)

    def ready() -> bool:
        return slow.began.is_set() and any(
            s.name == "fast" and s.ended for s in run.view.spans.values()
        )

    assert await stop_when(run, ready, run.cancel) < 0.5
    slow.free.set()
    assert slow.stopped == (kind == "native")
    kept = await agent.history(kind)
    assert [m.role for m in kept] == ["user", "assistant", "tool"]
    assert [p.output for p in kept[-1].parts] == ["done", "stopped before it was finished"]  # type: ignore[union-attr]
    assert await agent.run("y", thread=kind) == "Again."


async def test_a_reader_or_waiter_that_is_cancelled_stops_the_run() -> None:
    for use in (wait, collect):
        run = teller(delay=0.01).run("x")
        task = asyncio.create_task(use(run))
        while not run.text:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert run.status == "cancelled"
        with pytest.raises(Stopped):
            _ = run.output


async def collect(run: Run[Any]) -> list[Any]:
    return [e async for e in run]


async def test_a_timeout_around_a_run() -> None:
    run = teller(delay=0.02).run("x")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.03):
            await run
    assert run.status == "cancelled"


async def test_stopped_from_another_thread() -> None:
    run = teller(delay=0.02).run("x")
    assert (
        await stop_when(
            run, lambda: bool(run.text), lambda: threading.Thread(target=run.cancel).start()
        )
        < 0.5
    )


async def test_stopped_before_it_began() -> None:
    run = teller().run("x")
    run.cancel()
    with pytest.raises(Stopped):
        await run
    assert run.status == "cancelled"
    assert [e async for e in run.events()] == []
    run.cancel()


async def test_stopped_before_its_first_step() -> None:
    run = teller().run("x")
    events = run.events()
    reading = asyncio.create_task(anext(events))
    await asyncio.sleep(0)
    assert run._task is not None
    run._task.cancel()
    with pytest.raises((StopAsyncIteration, Stopped)):
        await reading
    with pytest.raises(Stopped):
        await run


def test_a_loop_that_ends_stops_its_runs() -> None:
    def script() -> None:
        run = teller(delay=0.02).run("x")

        async def main() -> None:
            asyncio.get_running_loop().call_soon(run._start)
            while not run.text:
                await asyncio.sleep(0.001)

        asyncio.run(main())
        with pytest.raises(Stopped):
            run.result()
        assert run.status == "cancelled"

    unwatched(script)


async def test_stopping_reaches_runs_that_a_thread_waits_for() -> None:
    """A sync tool blocks in `.result()`: its thread cannot be stopped, what it waits for can."""
    model = ScriptedModel(TEXT * 9, "never", delay=0.01)
    ended: list[BaseException] = []

    def outer() -> str:
        agent = Agent(name="inner", model=model)
        try:
            return agent.run("x").result() + agent.run("y").result()
        except BaseException as error:
            ended.append(error)
            with pytest.raises(Stopped):
                agent.run("after all").result()
            raise

    run = Run(Tool(outer), {})
    assert (
        await stop_when(
            run, lambda: len(model.requests) == 1 and len(run.log.events) > 6, run.cancel
        )
        < 0.5
    )
    await asyncio.sleep(0.1)
    assert [type(e) for e in ended] == [Stopped]
    assert len(model.requests) == 1
    assert {s.status for s in run.view.spans.values()} == {"cancelled"}


async def test_a_tool_that_timed_out_calls_nothing_any_more() -> None:
    model = ScriptedModel(TEXT * 9, "never", delay=0.01)
    failed: list[type] = []

    def outer() -> str:
        inner = Agent(name="inner", model=model)
        for _ in range(2):
            try:
                inner.run("x").result()
            except Stopped as error:
                failed.append(type(error))
        return ""

    slow = Tool(outer, timeout=0.05)
    agent = Agent(name="a", model=ScriptedModel(calls("outer"), "Too slow."), tools=[slow])
    run = agent.run("x")
    assert await run == "Too slow."
    await asyncio.sleep(0.05)
    assert failed == [Stopped, Stopped]
    assert len(model.requests) == 1
    assert run.view.spans["a/outer[0.0]"].status == "error"


async def test_what_a_tool_started_and_left_is_stopped_with_it() -> None:
    model = ScriptedModel(TEXT * 9, delay=0.01)

    async def outer() -> str:
        events = Agent(name="inner", model=model).run("x").events()
        await anext(events)
        return "left"

    run = Run(Tool(outer), {})
    assert await run == "left"
    assert [s.status for s in run.view.spans.values()] == ["ok", "cancelled", "cancelled"]


async def test_late_words_of_a_thread_are_not_heard() -> None:
    go = threading.Event()
    said: list[Any] = []

    def outer(ctx: Context) -> None:
        go.wait(5)
        ctx.note("late")
        said.append(True)

    run = Run(Tool(outer, timeout=0.02), {})
    with pytest.raises(Exception, match="did not answer"):
        await run
    count = len(run.log.events)
    go.set()
    while not said:
        await asyncio.sleep(0.001)
    assert len(run.log.events) == count


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_that_lands_in_our_code(error: type[BaseException]) -> None:
    def script() -> None:
        run = Run(_Raises(error), None)
        with pytest.raises(error):
            asyncio.run(wait(run))
        assert run.status == "cancelled"
        with pytest.raises(Stopped):
            _ = run.output

    unwatched(script)


class _Raises:
    name = "raises"
    kind = "step"

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    async def invoke(self, input: Any, ctx: Context) -> Any:
        raise self.error


# R11


async def test_a_hundred_runs_share_nothing() -> None:
    @tool
    async def put(n: int, ctx: Context) -> int:
        assert "n" not in ctx.state
        ctx.state["n"] = n
        await asyncio.sleep(0.01)
        return int(ctx.state["n"]) + int(ctx.deps)

    def line(request: Any) -> Any:
        n = int(request.messages[0].text)
        done = [p.output for m in request.messages if m.role == "tool" for p in m.parts]
        return f"{n}: {done[0]}" if done else calls("put", n=n)

    agent = Agent(name="a", model=ScriptedModel(line, repeat=True, delay=0.001), tools=[put])
    runs = [agent.run(str(n), deps=1000) for n in range(100)]

    async def stop() -> None:
        await asyncio.sleep(0.005)
        runs[50].cancel()

    results = await asyncio.gather(*runs, stop(), return_exceptions=True)
    assert isinstance(results.pop(50), Stopped)
    assert results[:-1] == [f"{n}: {n + 1000}" for n in range(100) if n != 50]
    assert len({r.id for r in runs}) == 100
    for n, run in enumerate(runs):
        assert {e.run for e in run.log.events} == {run.id}
        assert run.status == ("cancelled" if n == 50 else "done")


# Going on


def asking() -> tuple[Agent[str], list[int]]:
    ran: list[int] = []

    @tool(needs_approval=True)
    async def act(n: int) -> int:
        ran.append(n)
        await asyncio.sleep(0.01)
        return n

    both = [calls("act", id="1", n=1), calls("act", id="2", n=2)]

    def line(request: Any) -> Any:
        return "Done." if request.messages[-1].role == "tool" else both

    return Agent(name="a", model=ScriptedModel(line, repeat=True), tools=[act]), ran


YES = {"approved": True}


async def suspended(agent: Agent[str]) -> Run[str]:
    run = agent.run("x")
    with pytest.raises(RunSuspended, match='waits: approval of "act", approval of "act"'):
        await run
    return run


async def test_one_answer_at_a_time_from_whichever_handle() -> None:
    agent, ran = asking()
    run = await suspended(agent)
    one, two = run.pending
    with pytest.raises(NotResumable, match="waits in 2 places"):
        run.resume(YES)
    with pytest.raises(NotResumable, match="does not wait"):
        run.resume(YES, path="a/nothing")
    second = run.resume(YES, path=one)
    with pytest.raises(RunSuspended):
        await second
    assert (second.status, [*second.pending], ran) == ("suspended", [two], [1])
    third = run.resume(YES, path=two)
    assert await third == "Done."
    assert ran == [1, 2]
    assert third.resume(YES, path=one) is not None
    assert await run.resume(YES, path=two) == "Done."
    assert ran == [1, 2]


async def test_a_second_click_does_nothing() -> None:
    agent, ran = asking()
    run = await suspended(agent)
    one, two = run.pending
    first, again = run.resume(YES, path=one), run.resume(YES, path=one)
    assert first is again
    await asyncio.gather(first, again, return_exceptions=True)
    assert ran == [1]
    assert run.resume(YES, path=one) is first
    with pytest.raises(Conflict, match="already answered otherwise"):
        run.resume({"approved": False}, path=one)
    final = run.resume(YES, path=two)
    assert run.resume(YES, path=two) is final
    assert await final == "Done."
    assert ran == [1, 2]


async def test_an_answer_must_fit() -> None:
    agent, _ = asking()
    run = await suspended(agent)
    with pytest.raises(SchemaError, match="'approved' is a required property"):
        run.resume({}, path=next(iter(run.pending)))
    assert len(run.pending) == 2


async def test_a_running_run_is_not_resumed() -> None:
    run = teller(delay=0.01).run("x")
    task = asyncio.create_task(wait(run))
    await asyncio.sleep(0.02)
    with pytest.raises(NotResumable, match="still running"):
        run.resume()
    assert await task == TEXT
    assert await run.resume() == TEXT


async def test_a_failed_run_goes_on_where_it_failed() -> None:
    model = ScriptedModel(calls("act"), OSError("gone"), "Done.")
    ran = []
    agent = Agent(name="a", model=model, tools=[Tool(lambda: ran.append(1), name="act")])
    run = agent.run("x")
    with pytest.raises(OSError, match="gone"):
        await run
    assert run.status == "failed"
    again = run.resume()
    assert await again == "Done."
    assert (ran, again.view.spans["a/model[1]"].attempt) == ([1], 2)
    assert [m.role for m in again.messages] == ["user", "assistant", "tool", "assistant"]


async def test_a_loaded_run_stays_as_it_is() -> None:
    agent, ran = asking()
    run = await suspended(agent)
    loaded = agent.load(run.id, "x", past=[e for e in run.log.events if e.durable])
    assert loaded.status == "suspended"
    with pytest.raises(RunSuspended):
        await loaded
    assert [e.seq for e in loaded.log.events] == [e.seq for e in loaded]
    cut = agent.load(run.id, "x", past=run.log.events[:1])
    assert cut.status == "running"
    empty = agent.load("r_1", "x", past=[])
    for handle in (cut, empty):
        with pytest.raises(NotResumable, match="cut off"):
            await handle
    assert ran == []


async def test_a_loaded_run_of_another_type() -> None:
    run = Agent(name="a", model=ScriptedModel("words")).run("x")
    await run
    other = Agent(name="a", model=ScriptedModel(), output=int)
    loaded = other.load(run.id, "x", past=[e for e in run.log.events if e.durable])
    with pytest.raises(SchemaError):
        await loaded


# Limits of the whole run


async def test_seconds_are_a_limit_like_others() -> None:
    slow = Slow()
    agent = Agent(name="a", model=ScriptedModel(calls("native"), "Done."), tools=[slow.native])
    run = agent.run("x", limits=Limits(seconds=0.05))
    began = time.perf_counter()
    with pytest.raises(LimitExceeded, match=r"longer than 0\.05 s"):
        await run
    assert time.perf_counter() - began < 5
    assert run.status == "failed"
    root = run.view.spans["a"]
    assert root.error is not None
    assert (root.status, root.error.code) == ("error", "run.limit")
    assert [p.is_error for p in run.messages[-1].parts] == [True]  # type: ignore[union-attr]
    assert await run.resume() == "Done."


# What else


async def test_sinks_see_everything_in_order_and_may_break() -> None:
    services = Services()
    seen: list[Any] = []

    def broken(event: Any) -> None:
        raise RuntimeError("display")

    services.sinks += [broken, seen.append]
    run = Run(Tool(lambda: 1, name="one"), {}, services=services)
    assert await run == 1
    assert seen == run.log.events
    assert services.sinks == [seen.append]


async def test_an_unfinished_run_has_no_output() -> None:
    with pytest.raises(UsageError, match="is not finished"):
        _ = teller().run("x").output


def test_repr_names_the_run() -> None:
    run = teller().run("x")
    assert repr(run) == f'<Run {run.id} of "teller": new>'
    assert set(run._repr_mimebundle_()) >= {"text/plain"}


async def test_errors_reach_every_form() -> None:
    def fail() -> None:
        raise ValueError("no")

    run = Run(Tool(fail), {})
    with pytest.raises(ToolFailed):
        async for _ in run:
            pass
    for form in (run.result, lambda: [*run]):
        with pytest.raises(ToolFailed):
            form()
    assert [e async for e in run.events()] == run.log.events


# A run that waits


def waiting_agent(**options: Any) -> Agent[Any]:
    act = Tool(lambda: 1, name="act", needs_approval=True)
    return Agent(name="a", model=ScriptedModel(calls("act"), "Ok."), tools=[act], **options)


@pytest.mark.parametrize("stored", [False, True])
async def test_a_run_that_waits_can_be_cancelled(stored: bool) -> None:
    services = Services(store=MemoryStore() if stored else None)
    agent = waiting_agent(services=services)
    run = agent.run("x")
    with pytest.raises(RunSuspended):
        await run
    run.cancel()
    run.cancel()
    with pytest.raises(Stopped):
        await run
    assert run.status == "cancelled"
    with pytest.raises(NotResumable, match="was stopped"):
        run.resume({"approved": True})
    if services.store is not None:
        row = await services.store.get_run(run.id)
        assert row is not None
        assert row.status == "cancelled"
        past = await services.store.read_events(run.id)
        assert fold(past).status == "cancelled"
        assert not fold(past).pending
        loaded = agent.load(run.id, "x", past=past)
        with pytest.raises(NotResumable, match="was stopped"):
            loaded.resume({"approved": True})


def test_a_run_that_waits_can_be_cancelled_from_a_script() -> None:
    def script() -> None:
        run = waiting_agent().run("x")
        with pytest.raises(RunSuspended):
            run.result()
        run.cancel()
        assert run.status == "cancelled"
        with pytest.raises(Stopped):
            run.result()

    unwatched(script)


async def test_what_waits_says_how_to_answer() -> None:
    def ask(q: str, ctx: Context) -> str:
        return str(ctx.suspend(q, schema=str))

    asked = [calls("ask", id=q, q=q) for q in "ab"]
    run = Agent(name="a", model=ScriptedModel(asked, "Done."), tools=[ask]).run("go")
    with pytest.raises(RunSuspended) as error:
        await run
    assert "path=" in error.value.hint
    with pytest.raises(NotResumable, match='does not wait at "nowhere"') as wrong:
        run.resume("x", path="nowhere")
    assert all(path in wrong.value.hint for path in run.pending)
    run = run.resume("x", path=next(iter(run.pending)))
    with pytest.raises(RunSuspended) as error:
        await run
    assert "{…}" in error.value.hint and "approve" not in error.value.hint
