"""Schedules, on a clock that a test moves."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import pytest

from mastra_nb.agents import Agent
from mastra_nb.app import Mastra, open_store
from mastra_nb.context import Context
from mastra_nb.errors import ConfigError, NotFound, UsageError
from mastra_nb.runs import Run
from mastra_nb.schedules import Schedule, Schedules
from mastra_nb.services import Services
from mastra_nb.storage import Store
from mastra_nb.testing import ScriptedModel
from mastra_nb.workflows import suspend, workflow

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class Clock:
    """Stands still until it is moved."""

    def __init__(self, text: str) -> None:
        self.time = at(text).timestamp()
        self.waiting: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (self.time + seconds, future)
        self.waiting.append(entry)
        try:
            await future
        finally:
            self.waiting.remove(entry)

    async def to(self, text: str) -> None:
        """On to that time, through all timers on the way."""
        end = at(text).timestamp()
        await settle()
        while due := [w for w in self.waiting if w[0] <= end]:
            first, future = min(due, key=lambda w: w[0])
            self.time = max(self.time, first)
            future.set_result(None)
            await settle()
        self.time = end
        await settle()

    async def jump(self, text: str) -> None:
        """Another time on the wall. Timers do not move with it; the longest ends in 30 seconds."""
        self.time = at(text).timestamp()
        for _, future in [*self.waiting]:
            future.set_result(None)
        await settle()


async def settle() -> None:
    for _ in range(60):
        await asyncio.sleep(0)


class Job:
    """Something with a name and a run; it waits where the test says so."""

    kind: ClassVar[str] = "job"

    def __init__(self, services: Services, name: str = "job") -> None:
        self.name = name
        self.services = services
        self.fired: list[str] = []
        self.work: Callable[[], Any] | None = None

    async def invoke(self, input: Any, ctx: Context) -> Any:
        self.fired.append(datetime.fromtimestamp(self.services.now(), UTC).strftime("%d %H:%M"))
        return await self.work() if self.work is not None else input

    def run(self, input: Any, *, key: str | None = None, **options: Any) -> Run[Any]:
        return Run(self, input, key=key, services=self.services, **options)


class Desk:
    """One process: a clock, a store, its schedules and their loop."""

    def __init__(self, clock: Clock, store: Store) -> None:
        self.clock = clock
        self.services = Services(store=store, now=clock.now)
        self.schedules = Schedules(self.services, sleep=clock.sleep)
        self.job = Job(self.services)

    def add(self, cron: str, job: Job | None = None, **options: Any) -> Schedule:
        schedule = Schedule(job or self.job, self.services, cron=cron, **options)
        return self.schedules.add(schedule)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.schedules.run())
        await settle()
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def keys(desk: Desk) -> list[str]:
    assert desk.services.store is not None
    return sorted(str(row.key) for row in await desk.services.store.find_runs())


@pytest.fixture
def clock() -> Clock:
    return Clock("2026-03-02 08:00")  # a Monday


@pytest.fixture
def desk(clock: Clock) -> Desk:
    return Desk(clock, open_store("memory://"))


# What a newcomer gets wrong


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"cron": "0 9 * *"}, '"0 9 * *" is no cron expression: wrong number of fields', "five"),
        ({"cron": "61 * * * *"}, "bad minute", "minute hour day month weekday"),
        ({"cron": "@daily"}, '"@daily" is no cron', "0 9 * * MON-FRI"),
        ({"cron": "0 0 31 2 *"}, "bad day-of-month", "five"),
        ({"cron": "* * */20 * 1L"}, "never fires", "no such day"),
        ({"timezone": "Europe/Berln"}, 'no time zone "Europe/Berln"', '"Europe/Berlin"'),
        ({"timezone": "Europe"}, 'no time zone "Europe"', "did you mean"),
        ({"timezone": "../etc"}, 'no time zone "../etc"', ""),
        ({"catch_up": "some"}, 'no catch_up "some"', '"skip", "last", "all"'),
        ({"overlap": "no"}, 'no overlap "no"', '"skip", "queue", "allow"'),
        ({"name": "a:b"}, 'cannot be called "a:b"', "leave out"),
    ],
)
def test_what_is_said_to_a_mistake(
    desk: Desk, options: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        desk.add(**{"cron": "0 9 * * *", **options})
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert not desk.schedules


def test_without_a_store_there_is_no_schedule() -> None:
    agent = Agent(name="greeter", model=ScriptedModel())
    with pytest.raises(ConfigError, match="need a store"):
        Mastra().schedule(agent, cron="0 9 * * *", input="Good morning")


def test_a_name_is_taken_by_another_schedule_only(desk: Desk) -> None:
    first = desk.add("0 9 * * *", input={"a": 1})
    again = desk.add("0 9 * * *", Job(desk.services), input={"a": 1})
    assert again is first and again.target is not desk.job
    with pytest.raises(ConfigError, match='a schedule "job" already') as caught:
        desk.add("0 10 * * *")
    assert "name=" in caught.value.hint
    desk.add("0 10 * * *", name="later")
    assert [*desk.schedules] == ["job", "later"]
    desk.schedules.remove("job")
    with pytest.raises(NotFound, match='no schedule "latr"') as missing:
        desk.schedules["latr"]
    assert '"later"' in missing.value.hint
    assert "job" not in desk.schedules


def test_a_time_needs_its_zone(desk: Desk) -> None:
    schedule = desk.add("0 9 * * *", timezone="Europe/Berlin")
    assert schedule.next() == datetime(2026, 3, 3, 9, tzinfo=BERLIN)
    assert schedule.next(at("2026-03-28 12:00")).isoformat() == "2026-03-29T09:00:00+02:00"
    with pytest.raises(ConfigError, match="has no time zone"):
        schedule.next(datetime(2026, 3, 2))  # noqa: DTZ001


# Fires


async def test_each_fire_is_a_run_with_its_own_key(clock: Clock, desk: Desk) -> None:
    schedule = desk.add("0 9 * * *", timezone="Europe/Berlin", input={"city": "Oslo"})
    async with desk.running():
        await clock.jump("2026-03-03 07:59")
        await clock.to("2026-03-03 08:01")
        await clock.jump("2026-03-04 07:59")
        await clock.to("2026-03-04 08:01")
    assert desk.job.fired == ["03 08:00", "04 08:00"]
    rows = await schedule.history()
    assert [row.key for row in rows] == [
        "schedule:job:2026-03-04T08:00:00+00:00",
        "schedule:job:2026-03-03T08:00:00+00:00",
    ]
    assert [(row.status, row.input) for row in rows] == [("done", {"city": "Oslo"})] * 2
    assert await schedule.history(1) == rows[:1]


async def test_options_are_those_of_the_run(clock: Clock, desk: Desk) -> None:
    schedule = desk.add("0 * * * *", options={"thread": "t1", "resource": "ann"})
    async with desk.running():
        await clock.to("2026-03-02 09:30")
    [row] = await schedule.history()
    assert (row.thread, row.resource) == ("t1", "ann")


async def test_two_processes_start_a_fire_once(
    clock: Clock, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the second finds the run still going on; neither takes it for a failure."""
    desk.job.work = lambda: asyncio.sleep(0.001)
    caplog.set_level(logging.WARNING, "mastra_nb")
    assert desk.services.store is not None
    other = Desk(clock, desk.services.store)
    desk.add("*/10 * * * *")
    other.add("*/10 * * * *")
    async with desk.running(), other.running():
        await clock.to("2026-03-02 10:00")
    every = [f"02 {h:02}:{m:02}" for h in (8, 9, 10) for m in range(0, 60, 10)][1:13]
    assert sorted(desk.job.fired + other.job.fired) == every
    assert len(await keys(desk)) == 12
    assert not caplog.records


async def test_one_that_fails_stops_neither_others_nor_itself(
    clock: Clock, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise ValueError("no such page")

    desk.job.work = fail
    well = Job(desk.services, "well")
    desk.add("0 * * * *")
    desk.add("0 * * * *", well)
    with caplog.at_level(logging.ERROR, "mastra_nb"):
        async with desk.running():
            await clock.to("2026-03-02 10:30")
    assert desk.job.fired == well.fired == ["02 09:00", "02 10:00"]
    [first, _] = caplog.records
    assert "no such page" in first.getMessage()
    assert (first.__dict__["schedule"], first.__dict__["fire"]) == (
        "job",
        "2026-03-02T09:00:00+00:00",
    )


async def test_a_run_that_cannot_begin_is_said_too(
    clock: Clock, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.add("0 * * * *", options={"colour": "red"})
    with caplog.at_level(logging.ERROR, "mastra_nb"):
        async with desk.running():
            await clock.to("2026-03-02 10:30")
    assert len(caplog.records) == 2 and "colour" in caplog.records[0].getMessage()


async def test_a_run_that_waits_for_an_answer_rests(clock: Clock, desk: Desk) -> None:
    class Asking(Job):
        async def invoke(self, input: Any, ctx: Context) -> Any:
            self.fired.append("")
            return await ctx.suspend({"ask": "go on?"})

    job = Asking(desk.services, "asking")
    schedule = desk.add("0 * * * *", job)
    async with desk.running():
        await clock.to("2026-03-02 10:30")
    assert [row.status for row in await schedule.history()] == ["suspended", "suspended"]


# What was missed


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [
        ("skip", ["02 09:00", "02 14:00"]),
        ("last", ["02 09:00", "02 13:30", "02 14:00"]),
        ("all", ["02 09:00", *["02 13:30"] * 4, "02 14:00"]),
    ],
)
@pytest.mark.parametrize("down", [True, False])
async def test_missed_fires(
    clock: Clock, desk: Desk, catch_up: str, expected: list[str], down: bool
) -> None:
    """The process was not there, or its machine slept."""
    desk.add("0 * * * *", catch_up=catch_up)
    if down:
        async with desk.running():
            await clock.to("2026-03-02 09:20")
        await clock.jump("2026-03-02 13:30")
        async with desk.running():
            await clock.to("2026-03-02 14:20")
    else:
        async with desk.running():
            await clock.to("2026-03-02 09:20")
            await clock.jump("2026-03-02 13:30")
            await clock.to("2026-03-02 14:20")
    assert desk.job.fired == expected
    if catch_up == "all":
        assert [key[-14:-9] for key in await keys(desk)] == [f"{h:02}:00" for h in range(9, 15)]


async def test_a_fire_that_is_seen_a_little_late_was_not_missed(clock: Clock, desk: Desk) -> None:
    desk.add("0 * * * *")
    async with desk.running():
        await clock.to("2026-03-02 08:30")
    await clock.jump("2026-03-02 09:00:50")
    async with desk.running():
        pass
    assert desk.job.fired == ["02 09:00"]


async def test_a_new_schedule_has_missed_nothing(clock: Clock, desk: Desk) -> None:
    desk.add("0 8 * * *", catch_up="all")
    async with desk.running():
        await clock.to("2026-03-02 08:10")
    assert desk.job.fired == []
    desk.schedules.remove("job")
    desk.add("0 10 * * *", catch_up="all")
    await clock.jump("2026-03-02 21:00")
    async with desk.running():
        pass
    assert desk.job.fired == [], "its times are others now"


async def test_a_clock_that_goes_back_fires_nothing_twice(clock: Clock, desk: Desk) -> None:
    desk.add("0 * * * *", catch_up="all")
    async with desk.running():
        await clock.to("2026-03-02 10:30")
        await clock.jump("2026-03-02 08:30")
        await clock.to("2026-03-02 11:30")
    await clock.jump("2026-03-02 08:30")
    async with desk.running():
        await clock.to("2026-03-02 12:30")
    assert desk.job.fired == [f"02 {h:02}:00" for h in (9, 10, 11, 12)]


async def test_a_clock_that_was_years_ahead_does_not_silence_it(clock: Clock, desk: Desk) -> None:
    desk.add("0 * * * *")
    await clock.jump("2099-01-01 00:30")
    async with desk.running():
        await clock.to("2099-01-01 01:30")
        await clock.jump("2026-03-02 08:30")
        await clock.to("2026-03-02 09:30")
    async with desk.running():
        await clock.to("2026-03-02 10:30")
    assert desk.job.fired == ["01 01:00", "02 09:00", "02 10:00"]


# One that is still running


@pytest.mark.parametrize(
    ("overlap", "at_ten", "after"),
    [
        ("skip", ["02 09:00"], ["02 09:00", "02 12:00"]),
        ("queue", ["02 09:00"], ["02 09:00", "02 11:30", "02 11:30", "02 12:00"]),
        ("allow", ["02 09:00", "02 10:00", "02 11:00"], None),
    ],
)
async def test_a_fire_while_the_one_before_goes_on(
    clock: Clock, desk: Desk, overlap: str, at_ten: list[str], after: list[str] | None
) -> None:
    end = asyncio.Event()
    desk.job.work = end.wait
    desk.add("0 * * * *", overlap=overlap)
    async with desk.running():
        await clock.to("2026-03-02 11:30")
        assert desk.job.fired == at_ten
        end.set()
        await clock.to("2026-03-02 12:30")
    assert desk.job.fired == (after or [*at_ten, "02 12:00"])


async def test_what_another_process_runs_counts(clock: Clock, desk: Desk) -> None:
    assert desk.services.store is not None
    other = Desk(clock, desk.services.store)
    end = asyncio.Event()
    desk.job.work = end.wait
    desk.add("0 * * * *", overlap="queue")
    async with desk.running():
        await clock.to("2026-03-02 09:00")
        other.add("0 * * * *", overlap="queue")
        async with other.running():
            await clock.to("2026-03-02 10:30")
            assert desk.job.fired + other.job.fired == ["02 09:00"]
            end.set()
            await clock.to("2026-03-02 10:31")
    assert sorted(desk.job.fired + other.job.fired) == ["02 09:00", "02 10:30"]


# Pausing, running now, looking


async def test_a_pause_holds_after_a_restart_and_is_not_caught_up(clock: Clock, desk: Desk) -> None:
    assert desk.services.store is not None
    schedule = desk.add("0 * * * *", catch_up="all")
    async with desk.running():
        await clock.to("2026-03-02 09:30")
        schedule.pause()
        await clock.to("2026-03-02 11:30")
    other = Desk(clock, desk.services.store)
    same = other.add("0 * * * *", catch_up="all")
    assert await same.paused()
    async with other.running():
        await clock.to("2026-03-02 12:30")
        same.resume()
        await clock.to("2026-03-02 13:30")
    assert desk.job.fired == ["02 09:00"]
    assert other.job.fired == ["02 13:00"]


async def test_what_was_resumed_elsewhere_while_nobody_kept_it_is_not_caught_up(
    clock: Clock, desk: Desk
) -> None:
    schedule = desk.add("0 * * * *", catch_up="all")
    async with desk.running():
        await schedule.set_paused(True)
    await clock.jump("2026-03-02 11:30")
    await schedule.set_paused(False)
    async with desk.running():
        await clock.to("2026-03-02 12:30")
    assert desk.job.fired == ["02 12:00"]


async def test_a_pause_is_the_end_of_the_line_too(clock: Clock, desk: Desk) -> None:
    end = asyncio.Event()
    desk.job.work = end.wait
    schedule = desk.add("0 * * * *", overlap="queue")
    async with desk.running():
        await clock.to("2026-03-02 11:30")
        await schedule.set_paused(True)
        end.set()
        await settle()
        await schedule.set_paused(False)
        await clock.to("2026-03-02 12:30")
    assert desk.job.fired == ["02 09:00", "02 12:00"]


async def test_what_was_missed_in_an_hour_that_comes_twice(clock: Clock, desk: Desk) -> None:
    desk.add("*/30 * * * *", timezone="Europe/Berlin", catch_up="all")
    await clock.jump("2026-10-25 00:10")
    async with desk.running():
        await clock.to("2026-10-25 00:20")
        await clock.jump("2026-10-25 01:40")
    assert [key[-14:-9] for key in await keys(desk)] == ["00:30", "01:00", "01:30"]


async def test_run_now_is_a_run_and_in_the_history(clock: Clock, desk: Desk) -> None:
    schedule = desk.add("0 * * * *", input=42)
    schedule.pause()
    assert await schedule.run_now() == 42
    assert await schedule.run_now() == 42
    await Job(desk.services).run(1, key="schedule:jobs:2026")
    assert [row.input for row in await schedule.history()] == [42, 42]


async def test_a_schedule_shows_itself(clock: Clock, desk: Desk) -> None:
    schedule = desk.add("0 9 * * MON-FRI", timezone="Europe/Berlin", name="a|b")
    desk.add("30 10 * * *")
    assert repr(schedule) == (
        '<Schedule "a|b": "0 9 * * MON-FRI" Europe/Berlin, next Tue 2026-03-03 09:00 CET>'
    )
    await schedule.run_now()
    desk.schedules["job"].pause()
    shown = desk.schedules._repr_mimebundle_()
    assert shown["text/plain"] == "2 schedules"
    head, _, first, second = shown["text/markdown"].split("\n\n")[1].split("\n")
    assert head == "| schedule | runs | cron | time zone | next | last |"
    assert "a&#124;b" in first and "Tue 2026-03-03 09:00 CET" in first and "done · r" in first
    assert "paused" in second
    assert "Europe/Berlin" in schedule._repr_mimebundle_()["text/markdown"]
    assert repr(desk.schedules) == "<Schedules ['a|b', 'job']>"


# The loop


async def test_what_is_added_while_it_runs_is_kept_too(clock: Clock, desk: Desk) -> None:
    async with desk.running():
        await clock.to("2026-03-02 08:10")
        await asyncio.to_thread(desk.add, "15 * * * *")
        await clock.to("2026-03-02 08:20")
        desk.schedules.remove("job")
        await clock.to("2026-03-02 09:20")
    assert desk.job.fired == ["02 08:15"]


async def test_the_loop_has_one_timer(clock: Clock, desk: Desk) -> None:
    for n in range(50):
        desk.add("0 * * * *", name=f"n{n}")
    async with desk.running():
        await clock.to("2026-03-02 08:10")
        assert len(clock.waiting) == 1


async def test_work_that_comes_every_so_often(
    clock: Clock, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[float] = []

    async def expire() -> None:
        done.append(clock.now())
        if len(done) == 2:
            raise ValueError("once")

    start = clock.now()
    desk.schedules.every(20, expire)
    with caplog.at_level(logging.ERROR, "mastra_nb"):
        async with desk.running():
            await clock.to("2026-03-02 08:01")
            assert [t - start for t in done] == [0, 20, 40, 60]
            await clock.jump("2026-03-02 07:00")
            await clock.to("2026-03-02 07:00:30")
    assert len(done) >= 6
    assert 'work "expire" failed: once' in caplog.text


async def test_it_runs_once(desk: Desk) -> None:
    async with desk.running():
        with pytest.raises(UsageError, match="run already"):
            await desk.schedules.run()
    async with desk.running():
        pass


async def test_not_inside_a_run(desk: Desk) -> None:
    desk.job.work = desk.schedules.run
    with pytest.raises(UsageError, match="inside a run"):
        await desk.job.run(None)


async def test_its_end_stops_its_runs(clock: Clock, desk: Desk) -> None:
    desk.job.work = asyncio.Event().wait
    schedule = desk.add("0 * * * *")
    async with desk.running():
        await clock.to("2026-03-02 09:30")
    [row] = await schedule.history()
    assert row.status == "cancelled"


@pytest.mark.skipif(os.name != "posix", reason="no signals")
async def test_sigterm_ends_it(clock: Clock, desk: Desk) -> None:
    desk.job.work = asyncio.Event().wait
    schedule = desk.add("0 * * * *")
    before = signal.getsignal(signal.SIGTERM)
    task = asyncio.create_task(desk.schedules.run())
    await clock.to("2026-03-02 09:30")
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(task, 5)
    assert [row.status for row in await schedule.history()] == ["cancelled"]
    assert signal.getsignal(signal.SIGTERM) is before


async def test_an_app_schedules_an_agent(clock: Clock) -> None:
    app = Mastra(storage="memory://")
    app.services.now = clock.now
    app.schedules._sleep = clock.sleep
    agent = Agent(name="greeter", model=ScriptedModel("Good morning!"))
    schedule = app.schedule(agent, cron="0 9 * * *", input="Greet", thread="t", resource="ann")
    assert app.get_agent("greeter") is agent
    task = asyncio.create_task(app.run_schedules())
    await clock.to("2026-03-02 09:30")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    [row] = await schedule.history()
    assert (row.status, row.thread, row.resource) == ("done", "t", "ann")
    assert (await app.get_run(row.id)).output == "Good morning!"


async def test_an_app_schedules_a_workflow_and_ends_waits_that_are_overdue(clock: Clock) -> None:
    @workflow
    async def ask(city: str) -> str:
        answer = await suspend({"ask": f"on to {city}?"}, schema=bool, timeout=600, default=False)
        return f"{city}: {answer}"

    app = Mastra(storage="memory://")
    app.services.now = clock.now
    app.schedules._sleep = clock.sleep
    schedule = app.schedule(ask, cron="0 9 * * *", input="Oslo")
    assert app.get_workflow("ask") is ask
    task = asyncio.create_task(app.run_schedules())
    await clock.to("2026-03-02 09:05")
    [row] = await schedule.history()
    assert row.status == "suspended"
    await clock.to("2026-03-02 09:11")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    [row] = await schedule.history()
    assert row.status == "done"
    assert (await app.get_run(row.id)).output == "Oslo: False"
    assert (await app.get_run(row.id)).status == "done"


async def test_the_end_leaves_what_waits_for_an_answer(clock: Clock, desk: Desk) -> None:
    class Asking(Job):
        async def invoke(self, input: Any, ctx: Context) -> Any:
            return await ctx.suspend({"ask": "go on?"})

    schedule = desk.add("0 * * * *", Asking(desk.services, "asking"))
    for minute in range(2):
        async with desk.running():
            await clock.to(f"2026-03-02 09:0{minute}")
    assert [row.status for row in await schedule.history()] == ["suspended"]
