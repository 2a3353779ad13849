"""Schedules: runs that a clock starts, each fire once between all processes of one store.

A fire's run has the key "schedule:<name>:<time in UTC>", and a store holds one run with a key: who
comes second finds it taken. The store also keeps, by the schedule's name,

    kind "schedule"        {"paused": bool}
    kind "schedule_fired"  {"cron", "timezone", "at": seconds since the epoch, "run": id or ""}

where `at` is the newest fire that was decided: started, skipped, or left out.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol, cast, get_args

import msgspec

from mastra_nb import portal
from mastra_nb.config import get_logger
from mastra_nb.context import current
from mastra_nb.cron import Cron
from mastra_nb.errors import (
    ConfigError,
    Conflict,
    LeaseHeld,
    MastraError,
    NotFound,
    RunSuspended,
    UsageError,
    close_matches,
)
from mastra_nb.events import Event
from mastra_nb.memory._show import Bundle, bundle, counted, table
from mastra_nb.runs import Run
from mastra_nb.services import Services, is_dead
from mastra_nb.storage import RunRow, Store

CatchUp = Literal["skip", "last", "all"]
Overlap = Literal["skip", "queue", "allow"]
Sleep = Callable[[float], Awaitable[object]]

# A fire that is seen later than this was missed, and `catch_up` says what becomes of it.
GRACE_SECONDS = 60.0
# The clock on the wall may jump, and a sleeping machine's timers stand still: it is looked at anew.
MOST_SECONDS = 30.0
# A clock that goes back by more was wrong before. By less, no fire comes twice: what was decided is
# not decided again, and the keys of what was started are taken in any case.
CORRECTED = timedelta(days=1)
# How often a run that another process drives is looked at by a fire that waits for its end.
BUSY_SECONDS = 5.0

_PAGE = 200
_PAUSED, _FIRED = "schedule", "schedule_fired"


class Schedulable(Protocol):
    """An agent, a workflow, or what has their `run(input, *, key=..., **options)`."""

    @property
    def name(self) -> str: ...

    @property
    def run(self) -> Callable[..., Run[Any]]: ...


class Schedule:
    """When something runs. Made by `app.schedule`; `app.run_schedules` keeps it."""

    def __init__(
        self,
        target: Schedulable,
        services: Services,
        *,
        cron: str,
        timezone: str = "UTC",
        input: Any = None,
        name: str = "",
        catch_up: CatchUp = "skip",
        overlap: Overlap = "skip",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.target = target
        self.name = name or target.name
        if ":" in self.name:
            raise ConfigError(f'a schedule cannot be called "{self.name}"', hint='leave out ":"')
        _one_of("catch_up", catch_up, CatchUp)
        _one_of("overlap", overlap, Overlap)
        self.cron = Cron(cron, timezone)
        self.input = input
        self.catch_up = catch_up
        self.overlap = overlap
        self.options = dict(options or {})
        self._services = services
        self._log = get_logger("schedules")
        self.on_change: Callable[[], None] = _nothing
        self._forget()

    def _forget(self) -> None:
        """What a loop knows of it; the next one begins with what the store knows."""
        self._seen: datetime | None = None
        self._due = datetime.max.replace(tzinfo=UTC)
        self._saved: datetime | None = None
        self._latest = ""
        self._line: deque[datetime] = deque()
        self._works: set[asyncio.Task[None]] = set()

    @property
    def definition(self) -> tuple[object, ...]:
        """Two with the same are the same."""
        cron = self.cron
        how = (cron.expression, cron.timezone, self.catch_up, self.overlap)
        return self.name, self.target.name, how, self.input, self.options

    def next(self, after: datetime | None = None) -> datetime:
        """The first fire later than `after` (default: now), in the schedule's time zone, paused or
        not. Raises ConfigError for a datetime that has no time zone.
        """
        after = after or self._now()
        if after.tzinfo is None:
            raise ConfigError(
                f"{after} has no time zone",
                hint='datetime.now(UTC), or datetime(..., tzinfo=ZoneInfo("Europe/Berlin"))',
            )
        return self.cron.after(after).astimezone(self.cron.zone)

    def pause(self) -> None:
        """No fire from now on, in no process, also after a restart; what runs goes on. Blocks;
        in async code `await schedule.set_paused(True)` does not.
        """
        portal.run(self.set_paused(True))

    def resume(self) -> None:
        """Fire again. What the pause left out is not caught up. Blocks."""
        portal.run(self.set_paused(False))

    async def set_paused(self, paused: bool) -> None:
        if paused == await self.paused():
            return
        if not paused:
            await self._begin()
            await self._save(self._now())
        await self._store.put(_PAUSED, self.name, {"paused": paused})

    async def paused(self) -> bool:
        return bool((await self._store.get(_PAUSED, self.name) or {}).get("paused"))

    def run_now(self) -> Run[Any]:
        """A run of it beside the clock, also while it is paused: await it, or read its events."""
        at = self._now().isoformat(timespec="seconds")
        return self._run(f"{self._prefix}now:{at}:{os.urandom(4).hex()}")

    async def history(self, limit: int = 20) -> list[RunRow]:
        """Its runs, the newest first, those of `run_now` among them."""
        found: list[RunRow] = []
        offset = 0
        while len(found) < limit:
            rows = await self._store.find_runs(name=self.target.name, limit=_PAGE, offset=offset)
            found += [row for row in rows if (row.key or "").startswith(self._prefix)]
            if len(rows) < _PAGE:
                break
            offset += _PAGE
        return found[:limit]

    def __repr__(self) -> str:
        cron = self.cron
        return (
            f'<Schedule "{self.name}": "{cron.expression}" {cron.timezone}, '
            f"next {_when(self.next())}>"
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        try:
            return bundle(f"schedule {self.name}", table(_HEAD, [portal.run(self.row())]))
        except MastraError as error:
            return bundle(error.message, "")

    async def row(self) -> tuple[str, ...]:
        """Name, what runs, cron, time zone, next fire, status of the last run."""
        last = await self.history(1)
        fires = "paused" if await self.paused() else _when(self.next())
        cron = self.cron
        status = f"{last[0].status} · {last[0].id}" if last else ""
        return self.name, self.target.name, cron.expression, cron.timezone, fires, status

    # What a loop does with it

    async def look(self) -> float:
        """Start what is due; returns after how many seconds to look again."""
        if self._seen is None:
            self._decided(await self._begin())
        now = self._now()
        assert self._seen is not None
        if now < self._seen - CORRECTED:
            self._saved = now
            self._decided(now)
        if self._due <= now:
            await self._fires(self._seen, now)
        while self._line and not await self._busy():
            if await self.paused():
                self._line.clear()
                await self._save(self._seen)
                break
            self._start(self._line.popleft())
        wait = (self._due - self._now()).total_seconds()
        return min(wait, BUSY_SECONDS) if self._line else wait

    async def stop(self) -> None:
        """Stop its runs and wait until they rest."""
        works = [*self._works]
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)
        self._forget()

    def _decided(self, fire: datetime) -> None:
        self._seen, self._due = fire, self.cron.after(fire)

    async def _begin(self) -> datetime:
        """The newest fire that was decided, by whomever. One whose times are others now is new."""
        known = await self._store.get(_FIRED, self.name)
        same = (self.cron.expression, self.cron.timezone)
        if known is None or (known["cron"], known["timezone"]) != same:
            now = self._now()
            await self._save(now)
            return now
        self._latest = known["run"]
        self._saved = datetime.fromtimestamp(known["at"], UTC)
        return self._saved

    async def _fires(self, seen: datetime, now: datetime) -> None:
        """Decide on those after `seen` that are due."""
        newest = self.cron.newest(now)
        paused = await self.paused()
        fires = [newest]
        if self.catch_up == "all":
            fires = []
            for n, fire in enumerate(self.cron.times(seen)):
                if fire > newest:
                    break
                fires.append(fire)
                if not n % 500:
                    await asyncio.sleep(0)
        elif self.catch_up == "skip" and now - newest > timedelta(seconds=GRACE_SECONDS):
            fires = []
        busy = self.overlap == "skip" and await self._busy()
        self._decided(newest)
        if paused or not fires:
            self._say("left out", newest, "it is paused" if paused else "it was missed")
            await self._save(newest)
        elif self._line or self.overlap == "queue" or len(fires) > 1:
            # While it catches up, what is due joins the line: else the line could not be found
            # again after a crash.
            self._line.extend(fires)
        elif busy:
            self._say("left out", newest, "the one before still runs")
            await self._save(newest)
        else:
            self._start(newest)

    async def _busy(self) -> bool:
        """True while its newest run goes on, here or in another process."""
        if self._works:
            return True
        row = await self._store.get_run(self._latest) if self._latest else None
        # Leases run by the store's clock.
        return (
            row is not None
            and row.status == "running"
            and row.lease_until > time.time()
            and not is_dead(row.owner)
        )

    def _start(self, fire: datetime) -> None:
        work = asyncio.get_running_loop().create_task(self._drive(fire))
        self._works.add(work)
        work.add_done_callback(self._ended)

    def _ended(self, work: asyncio.Task[None]) -> None:
        self._works.discard(work)
        self.on_change()

    async def _drive(self, fire: datetime) -> None:
        """The run of one fire, whatever becomes of it."""
        key = f"{self._prefix}{_utc(fire)}"
        try:
            if await self._taken(key, fire):
                return
            run = self._run(key)
            own = run.id
            try:
                # Its first event says that it is in the store; a crash before it is saved here
                # leaves the key, which is found taken.
                async with aclosing(cast("AsyncGenerator[Event, None]", run.events())) as events:
                    async for _ in events:
                        break
                await self._save(fire, run.id)
                await run
            except (Conflict, LeaseHeld):
                if await self._taken(key, fire, own):
                    return
                raise
            except asyncio.CancelledError:
                # One that waits for an answer goes on waiting.
                if run.status in ("new", "running"):
                    run.cancel()
                    await asyncio.gather(run, return_exceptions=True)
                raise
        except RunSuspended as error:
            self._say("suspended", fire, run=getattr(error.run, "id", ""))
        except Exception as error:
            # One that fails must stop neither the others nor the next fire of its own.
            code = getattr(error, "code", type(error).__name__)
            self._log.error(
                'schedule "%s": the run of %s failed: %s',
                self.name,
                _utc(fire),
                getattr(error, "message", error),
                extra={"schedule": self.name, "fire": _utc(fire), "code": code},
            )
            with suppress(MastraError):
                await self._save(fire)
        else:
            self._say("done", fire, run=run.id)

    async def _taken(self, key: str, fire: datetime, own: str = "") -> bool:
        """True if another process, or this one before a restart, has started it."""
        rows = await self._store.find_runs(key=key, limit=1)
        if not rows or rows[0].id == own:
            return False
        await self._save(fire, rows[0].id)
        return True

    def _run(self, key: str) -> Run[Any]:
        return self.target.run(self.input, key=key, **self.options)

    async def _save(self, fire: datetime, run: str = "") -> None:
        if self._saved is not None and fire < self._saved:
            return
        self._saved, self._latest = fire, run or self._latest
        await self._store.put(
            _FIRED,
            self.name,
            {
                "cron": self.cron.expression,
                "timezone": self.cron.timezone,
                "at": fire.timestamp(),
                "run": self._latest,
            },
        )

    def _say(self, what: str, fire: datetime, why: str = "", run: str = "") -> None:
        self._log.info(
            'schedule "%s": the fire of %s: %s%s',
            self.name,
            _utc(fire),
            what,
            f": {why}" if why else "",
            extra={"schedule": self.name, "fire": _utc(fire), "run": run},
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._services.now(), UTC)

    @property
    def _prefix(self) -> str:
        return f"schedule:{self.name}:"

    @property
    def _store(self) -> Store:
        assert self._services.store is not None
        return self._services.store


class _Chore(msgspec.Struct):
    work: Callable[[], Awaitable[object]]
    seconds: float
    due: float = 0.0
    task: asyncio.Task[None] | None = None


class Schedules(Mapping[str, Schedule]):
    """Those of one application by name, and the loop that keeps them.

    `sleep` waits for seconds, by the same clock as `services.now`.
    """

    def __init__(self, services: Services, *, sleep: Sleep = asyncio.sleep) -> None:
        self._services = services
        self._sleep = sleep
        self._known: dict[str, Schedule] = {}
        self._chores: list[_Chore] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.Future[object] | None = None
        self._changed = False
        self._stopped = False

    def __getitem__(self, name: str) -> Schedule:
        if name not in self._known:
            raise NotFound(f'there is no schedule "{name}"', hint=close_matches(name, self._known))
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def __repr__(self) -> str:
        return f"<Schedules {[*self._known]}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        async def rows() -> list[tuple[str, ...]]:
            return [await schedule.row() for schedule in self._known.values()]

        try:
            return bundle(counted(len(self), "schedule"), table(_HEAD, portal.run(rows())))
        except MastraError as error:
            return bundle(error.message, "")

    def add(self, schedule: Schedule) -> Schedule:
        """The same one again, as a cell that is run twice makes it, takes the place of the first.
        Raises ConfigError for another one of its name, and without a store.
        """
        if self._services.store is None:
            raise ConfigError(
                "schedules need a store: it is what says which fires were started",
                hint='Mastra(storage="sqlite:///mastra.db")',
            )
        known = self._known.get(schedule.name)
        if known is not None:
            if known.definition != schedule.definition:
                raise ConfigError(
                    f'there is a schedule "{schedule.name}" already, and it is another one',
                    hint=f'name="..." for a second one, or app.schedules.remove("{known.name}")',
                )
            # A loop may keep the first, and know which of its runs go on.
            known.target, known.input, known.options = (
                schedule.target,
                schedule.input,
                schedule.options,
            )
            return known
        schedule.on_change = self._wake
        self._known[schedule.name] = schedule
        self._wake()
        return schedule

    def remove(self, name: str) -> None:
        """It fires no more here; what runs goes on. Raises NotFound."""
        del self._known[self[name].name]

    def every(self, seconds: float, work: Callable[[], Awaitable[object]]) -> None:
        """Do `work` beside the loop every so often, from its start on, but not while it goes on
        from before. What it raises is logged.
        """
        self._chores.append(_Chore(work, seconds))
        self._wake()

    async def run(self, *, signals: bool = True) -> None:
        """Start what is due until it is cancelled, or SIGTERM comes (unless that is another's to
        hear): it stops its runs and returns.

        Raises UsageError if it is called twice, or inside a run.
        """
        if self._loop is not None:
            raise UsageError("the schedules of this app run already", hint="cancel that task first")
        if current() is not None:
            raise UsageError("schedules cannot run inside a run", hint="call it from a script")
        self._loop = asyncio.get_running_loop()
        self._stopped = False
        keeping: dict[str, Schedule] = {}
        try:
            heard = _on_sigterm(self._loop, self._stop) if signals else nullcontext()
            with heard:
                while not self._stopped:
                    self._changed = False
                    keeping |= self._known
                    await self._rest(min(await self._look(), MOST_SECONDS))
        finally:
            self._loop = None
            works = [chore.task for chore in self._chores if chore.task is not None]
            for work in works:
                work.cancel()
            stops = [schedule.stop() for schedule in keeping.values()]
            await asyncio.gather(*works, *stops, return_exceptions=True)

    async def _look(self) -> float:
        waits = [MOST_SECONDS]
        for schedule in [*self._known.values()]:
            try:
                waits.append(await schedule.look())
            except MastraError as error:
                self._log("schedule", schedule.name, error)
        for chore in self._chores:
            now = self._services.now()
            # A clock that went back must not keep it waiting.
            if not now < chore.due <= now + chore.seconds:
                chore.due = now + chore.seconds
                if chore.task is None or chore.task.done():
                    chore.task = asyncio.create_task(self._do(chore.work))
            waits.append(chore.due - now)
        return max(0.0, min(waits))

    async def _do(self, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except Exception as error:
            self._log("work", getattr(work, "__name__", "?"), error)

    def _log(self, what: str, name: str, error: Exception) -> None:
        get_logger("schedules").error(
            '%s "%s" failed: %s', what, name, getattr(error, "message", error)
        )

    async def _rest(self, seconds: float) -> None:
        if self._changed:
            return
        self._timer = asyncio.ensure_future(self._sleep(seconds))
        try:
            await asyncio.wait([self._timer])
        finally:
            self._timer.cancel()
            self._timer = None

    def _stop(self) -> None:
        self._stopped = True
        self._wake_here()

    def _wake(self) -> None:
        """From any thread."""
        if (loop := self._loop) is not None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._wake_here)

    def _wake_here(self) -> None:
        self._changed = True
        if self._timer is not None:
            self._timer.cancel()


_HEAD = ("schedule", "runs", "cron", "time zone", "next", "last")


@contextmanager
def _on_sigterm(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> Iterator[None]:
    """A handler of somebody else's stays; off the main thread and on Windows there is none."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    try:
        loop.add_signal_handler(signal.SIGTERM, stop)
    except NotImplementedError:
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


def _one_of(what: str, given: str, allowed: Any) -> None:
    if given not in get_args(allowed):
        known = ", ".join(f'"{name}"' for name in get_args(allowed))
        raise ConfigError(f'there is no {what} "{given}"', hint=f"known: {known}")


def _utc(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds")


def _when(at: datetime) -> str:
    return at.strftime("%a %Y-%m-%d %H:%M %Z")


def _nothing() -> None:
    pass
