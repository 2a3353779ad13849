from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mastra_nb.context import Codec, Context, Recorded, current
from mastra_nb.errors import Conflict, RunSuspended, StorageError, Suspend
from mastra_nb.events import Event, MessageAdded, SpanEnded, SpanStarted, Suspended
from mastra_nb.messages import user
from mastra_nb.runs import Run
from mastra_nb.services import Services, ambient, is_dead, set_ambient
from mastra_nb.stores.memory import MemoryStore


class Step:
    """A target made of a function of the input and the context."""

    kind = "step"

    def __init__(self, fn: Any, name: str = "step") -> None:
        self.fn = fn
        self.name = name
        self.calls = 0

    async def invoke(self, input: Any, ctx: Context) -> Any:
        self.calls += 1
        return await self.fn(input, ctx)


async def same(input: Any, ctx: Context) -> Any:
    return input


def events_of(run: Run[Any]) -> list[Event]:
    return [e for e in run.log.events if e.durable]


def again(run: Run[Any], cut: int | None = None) -> Run[Any]:
    return Run(run.target, run.input, id=run.id, past=events_of(run)[:cut], go_on=True)


async def test_calls_are_told_apart_by_path() -> None:
    inner = Step(same, "in/ner")

    async def body(_: Any, ctx: Context) -> list[Any]:
        assert current() is ctx
        out = [
            await ctx.call(inner, {"b": 1, "a": 2}),
            await ctx.call(inner, {"a": 2, "b": 1}),
            await ctx.call(inner, 3),
            await ctx.call(inner, 3, key="k"),
            await ctx.call(inner, 3, segment="s"),
        ]
        assert current() is ctx
        return out

    run = Run(Step(body), None)
    await run
    assert current() is None
    paths = [*run.view.spans][1:]
    assert paths[0].startswith("step/in:ner#")
    assert paths[0][:-1] == paths[1][:-1]
    assert [p[-1] for p in paths[:3]] == ["0", "1", "0"]
    assert paths[3:] == ["step/in:ner[k]", "step/s"]
    assert run.view.spans["step"].children == paths


async def test_finished_calls_are_taken_from_the_journal() -> None:
    inner = Step(same)

    async def body(_: Any, ctx: Context) -> Any:
        one = await ctx.call(inner, {"type": "x", "$ref": "y"}, segment="a")
        two = await ctx.value("now", lambda: 42)
        return [one, two]

    run = Run(Step(body, "body"), None)
    first = await run
    cut = next(i for i, e in enumerate(events_of(run)) if e.span == "body/now")
    for k in range(cut, len(run.log.events)):
        assert await again(run, k) == first
    assert inner.calls == 1
    assert await again(run, cut - 1) == first
    assert inner.calls == 2


async def test_a_span_of_code_runs_again_without_a_second_end() -> None:
    runs = []

    async def body(_: Any, ctx: Context) -> Any:
        with ctx.span("phase", "prepare", {"n": 1}) as inner:
            runs.append(current() is inner)
        return ctx.suspend("go on?")

    services = Services(store=MemoryStore())
    run = Run(Step(body), None, services=services)
    with pytest.raises(RunSuspended):
        await run
    resumed = run.resume("yes")
    assert await resumed == "yes"
    assert runs == [True, False] or len(runs) == 2
    kinds = [e.data.kind for e in resumed.log.events if isinstance(e.data, SpanStarted)]
    assert kinds.count("phase") == 1


async def test_spans_end_as_their_code_does() -> None:
    async def body(how: Any, ctx: Context) -> None:
        with ctx.span("phase", "p"):
            raise how("x")

    for how, status in [(ValueError, "error"), (asyncio.CancelledError, "cancelled")]:
        run = Run(Step(body), how)
        with pytest.raises(Exception, match="x|stopped"):
            await run
        assert {s.status for s in run.view.spans.values()} == {status}


async def test_several_questions_of_one_call() -> None:
    async def body(_: Any, ctx: Context) -> list[Any]:
        return [ctx.suspend({"q": i}, schema={"type": "integer"}) for i in range(3)]

    run: Run[Any] = Run(Step(body), None)
    for i in range(3):
        with pytest.raises(RunSuspended):
            await run
        (waits,) = run.pending.values()
        assert waits.payload == {"q": i}
        assert run.view.spans["step"].status == "suspended"
        run = run.resume(i * 10)
    assert await run == [0, 10, 20]
    asked = [e.data.path for e in run.log.events if isinstance(e.data, Suspended)]
    assert asked == ["step", "step~2", "step~3"]


async def test_user_code_cannot_swallow_a_suspension() -> None:
    async def body(_: Any, ctx: Context) -> Any:
        try:
            return ctx.suspend()
        except Exception:
            return "swallowed"

    run = Run(Step(body), None)
    with pytest.raises(RunSuspended):
        await run
    assert not isinstance(Suspend("x"), Exception)


async def test_a_resume_without_an_answer_waits_again() -> None:
    async def body(_: Any, ctx: Context) -> Any:
        return ctx.suspend()

    run = Run(Step(body), None)
    with pytest.raises(RunSuspended):
        await run
    second = run.resume()
    with pytest.raises(RunSuspended):
        await second
    assert (second.status, [*second.pending]) == ("suspended", ["step"])


async def test_messages_are_recorded_once() -> None:
    async def body(_: Any, ctx: Context) -> list[str]:
        texts = [ctx.record(user(t))[1].text for t in ("one", "two")]
        return [*texts, *([] if ctx.state.get("done") else [ctx.suspend()])]

    run = Run(Step(body), None)
    with pytest.raises(RunSuspended):
        await run
    resumed = run.resume("x")
    assert await resumed == ["one", "two", "x"]
    assert sum(isinstance(e.data, MessageAdded) for e in resumed.log.events) == 2


async def test_state() -> None:
    async def body(_: Any, ctx: Context) -> Any:
        state = ctx.state
        state["a"] = {1: {2}}
        state["b"] = 2
        del state["b"]
        state["c"] = None
        with pytest.raises(KeyError):
            state["c"]
        with pytest.raises(KeyError):
            del state["b"]
        assert (dict(state), len(state), "c" in state) == ({"a": {"1": [2]}}, 1, False)
        return ctx.suspend() or dict(state)

    run = Run(Step(body), None)
    with pytest.raises(RunSuspended):
        await run
    resumed = run.resume(0)
    assert await resumed == {"a": {"1": [2]}} == resumed.view.state


async def test_the_idempotency_key_is_of_the_call() -> None:
    keys = []

    async def body(_: Any, ctx: Context) -> Any:
        keys.append(ctx.idempotency_key)
        return ctx.suspend()

    run = Run(Step(body), None)
    with pytest.raises(RunSuspended):
        await run
    await run.resume(1)
    assert keys[0] == keys[1]
    with pytest.raises(RunSuspended):
        await Run(Step(body), None)
    assert keys[2] != keys[0]


class Doubling(Codec[int]):
    def show(self, input: Any) -> Any:
        return "shown"

    def dump(self, output: int, ctx: Context) -> Recorded:
        return Recorded(output * 2)

    def load(self, value: Any, ctx: Context) -> int:
        return int(value) // 2


async def test_a_codec_decides_what_is_kept() -> None:
    async def body(_: Any, ctx: Context) -> int:
        return await ctx.call(Step(same, "in"), 4, segment="in", codec=Doubling())

    run = Run(Step(body), None)
    assert await run == 4
    span = run.view.spans["step/in"]
    assert (span.input, span.output) == ("shown", 8)
    assert await again(run, -1) == 4


async def test_a_codec_that_fails_fails_the_call() -> None:
    class Broken(Codec[Any]):
        def dump(self, output: Any, ctx: Context) -> Recorded:
            raise ValueError("no")

    run = Run(Step(same), 1, codec=Broken())
    with pytest.raises(ValueError, match="no"):
        await run
    assert run.status == "failed"


class Failing(MemoryStore):
    """Takes so many appends, then the disk is full."""

    def __init__(self, good: int) -> None:
        super().__init__()
        self.good = good

    async def append(self, *args: Any, **options: Any) -> None:
        self.good -= 1
        if self.good < 0:
            raise StorageError("the disk is full")
        await super().append(*args, **options)


async def test_a_store_that_fails_stops_the_run_at_once() -> None:
    inner = Step(same, "inner")

    async def body(_: Any, ctx: Context) -> int:
        done = 0
        for i in range(5):
            try:
                await ctx.call(inner, i)
            except Exception:  # noqa: S112
                continue
            done += 1
        return done

    for good in range(3):
        inner.calls = 0
        run = Run(Step(body), None, services=Services(store=Failing(good)))
        with pytest.raises(StorageError, match="the disk is full"):
            await run
        assert inner.calls == good + 1


class Slow(MemoryStore):
    """Yields in the middle of an append, before or after it is written."""

    def __init__(self, *, before: bool) -> None:
        super().__init__()
        self.before = before
        self.appending = asyncio.Event()
        self.slow = True

    async def append(self, *args: Any, **options: Any) -> None:
        if self.slow and not self.before:
            await super().append(*args, **options)
        self.appending.set()
        if self.slow:
            await asyncio.sleep(0.02)
        if not self.slow or self.before:
            await super().append(*args, **options)


@pytest.mark.parametrize("before", [True, False])
async def test_a_commit_that_is_cut_off_leaves_no_gap(before: bool) -> None:
    store = Slow(before=before)
    inner = Step(same, "inner")

    async def body(_: Any, ctx: Context) -> None:
        await ctx.call(inner, 1)

    run = Run(Step(body), None, services=Services(store=store))
    task = asyncio.ensure_future(_await(run))
    await store.appending.wait()
    store.slow = False
    run.cancel()
    await asyncio.wait([task])
    assert run.status == "cancelled"
    stored = await store.read_events(run.id)
    assert [e.seq for e in stored] == [*range(1, len(stored) + 1)]
    assert stored == events_of(run)
    row = await store.get_run(run.id)
    assert row is not None
    assert (row.status, row.lease_until) == ("cancelled", 0.0)


async def _await(run: Run[Any]) -> Any:
    return await run


async def test_a_run_that_is_stopped_twice_is_still_stored() -> None:
    store = Slow(before=True)

    async def body(_: Any, ctx: Context) -> None:
        await asyncio.sleep(5)

    run = Run(Step(body), None, services=Services(store=store))
    task = asyncio.ensure_future(_await(run))
    await asyncio.sleep(0.005)
    run.cancel()
    await store.appending.wait()
    run.cancel()
    await asyncio.wait([task])
    row = await store.get_run(run.id)
    assert row is not None
    assert row.status == "cancelled"
    assert await store.read_events(run.id) == events_of(run)


async def test_one_of_two_drives_wins() -> None:
    store = MemoryStore()
    services = Services(store=store)
    ran = []

    async def body(_: Any, ctx: Context) -> Any:
        answer = ctx.suspend()
        ran.append(answer)
        await asyncio.sleep(0.01)
        return answer

    target = Step(body)
    run = Run(target, None, services=services)
    with pytest.raises(RunSuspended):
        await run
    past = await store.read_events(run.id)
    handles = [
        Run(target, None, id=run.id, past=past, services=services).resume(n) for n in range(5)
    ]
    results = await asyncio.gather(*handles, return_exceptions=True)
    assert sum(isinstance(r, int) for r in results) == 1
    assert {type(r).__name__ for r in results} == {"int", "LeaseHeld"}
    assert len(ran) == 1
    late = Run(target, None, id=run.id, past=past, services=services).resume(9)
    with pytest.raises(Conflict, match="went on elsewhere"):
        await late
    row = await store.get_run(run.id)
    assert row is not None
    assert row.status == "done"


async def test_a_run_is_stored_as_it_goes() -> None:
    store = MemoryStore()

    async def body(_: Any, ctx: Context) -> Any:
        await ctx.call(Step(same, "inner"), 1, segment="i")
        stored = await store.read_events(ctx.run.id)
        assert any(e.span == "step/i" and isinstance(e.data, SpanEnded) for e in stored)
        return len(stored)

    run = Run(Step(body), {"in": 1}, services=Services(store=store), key="k")
    assert await run == 3
    row = await store.get_run(run.id)
    assert row is not None
    assert (row.name, row.kind, row.input, row.status, row.key) == (
        "step", "step", {"in": 1}, "done", "k",
    )  # fmt: skip
    assert await store.read_events(run.id) == events_of(run)
    with pytest.raises(Conflict, match='"k" belongs to run'):
        await Run(Step(body), None, services=Services(store=store), key="k")


def test_owners_that_are_dead_are_known() -> None:
    owner = Services().owner
    assert not is_dead(owner)
    host, _, rest = owner.partition(":")
    token = rest.partition(":")[2]
    assert is_dead(f"{host}:4194999:{token}-3")
    assert not is_dead(f"else.where:4194999:{token}")
    assert not is_dead("x")


def test_the_ambient_services_can_be_set() -> None:
    mine = Services()
    before = ambient()
    set_ambient(mine)
    try:
        assert Run(Step(same), 1).log.services is mine
    finally:
        set_ambient(before)
