"""Mastra: the container of named parts, their store and settings."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from mastra_nb import plugins, portal
from mastra_nb.agents import Agent
from mastra_nb.config import Settings, get_logger, load_settings
from mastra_nb.context import Context
from mastra_nb.errors import (
    ConfigError,
    MastraError,
    MissingExtra,
    NotFound,
    NotResumable,
    close_matches,
)
from mastra_nb.events import RunStatus, fold
from mastra_nb.limits import Limits
from mastra_nb.past import Past
from mastra_nb.runs import Run
from mastra_nb.services import Services, is_driven, leave_ambient
from mastra_nb.sources import steps_of
from mastra_nb.storage import Pruned, Retention, RunRow, Store, Thread, read_run
from mastra_nb.tools import Tool, ToolLike, toolset
from mastra_nb.vectors import VectorStore
from mastra_nb.workflows import Workflow

if TYPE_CHECKING:
    from mastra_nb.rag.index import Index
    from mastra_nb.schedules import CatchUp, Overlap, Schedule, Schedules

T = TypeVar("T")
# How often `run_schedules` looks for answers that are overdue.
EXPIRE_SECONDS = 15.0
Part = TypeVar("Part", Agent[Any], Workflow[Any])


def open_store(url: str) -> Store:
    """The store at `url`: "sqlite:///mastra.db", "memory://".

    Raises NotFound for an unknown scheme, StorageError if it cannot be opened.
    """
    store: Store = plugins.open_store(url)
    return store


def dashboard(app: Mastra | None = None) -> Any:
    """A widget that shows what `app`, by default the notebook's, holds, and answers what waits."""
    return plugins.widgets.load("dashboard")(app)


class Mastra:
    """Registers agents, workflows and tools under their names and gives them one store.

    `storage` is a URL, a Store, or None for none. Use it as an (async) context manager, or call
    `close`, to close the store.
    """

    def __init__(
        self,
        *,
        agents: Iterable[Agent[Any]] | Mapping[str, Agent[Any]] = (),
        tools: Iterable[Any] = (),
        workflows: Iterable[Workflow[Any]] | Mapping[str, Workflow[Any]] = (),
        storage: str | Store | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.settings = settings or load_settings()
        store = open_store(storage) if isinstance(storage, str) else storage
        self.services = Services(store=store, settings=self.settings)
        self.agents: dict[str, Agent[Any]] = {}
        self.workflows: dict[str, Workflow[Any]] = {}
        # Of suspended runs: when the row changed last, and the first deadline. A run that waits is
        # read once.
        self._deadlines: dict[str, tuple[float, float | None]] = {}
        self.tools: dict[str, ToolLike] = toolset(tools)
        self._schedules: Schedules | None = None
        for agent in agents.values() if isinstance(agents, Mapping) else agents:
            self.add(agent)
        for each in workflows.values() if isinstance(workflows, Mapping) else workflows:
            self.add(each)

    def __repr__(self) -> str:
        url = self.store.url if self.store is not None else "none"
        workflows = f" workflows={[*self.workflows]}" if self.workflows else ""
        return f"<Mastra agents={[*self.agents]}{workflows} storage={url}>"

    @property
    def store(self) -> Store | None:
        return self.services.store

    @property
    def vectors(self) -> VectorStore:
        """The vector indexes of its store. Raises NotFound without a store."""
        return self._need_store().vectors

    def add(self, part: Part) -> Part:
        """Register an agent or a workflow; one of the same name is replaced."""
        part.services = self.services
        if isinstance(part, Workflow):
            self.workflows[part.name] = part
        elif isinstance(part, Agent):
            self.agents[part.name] = part
        return part

    def get_agent(self, name: str) -> Agent[Any]:
        """Raises NotFound with close matches."""
        return _find("agent", name, self.agents)

    def get_workflow(self, name: str) -> Workflow[Any]:
        """Raises NotFound with close matches."""
        return _find("workflow", name, self.workflows)

    def get_tool(self, name: str) -> ToolLike:
        return _find("tool", name, self.tools)

    def index(self, name: str, **options: Any) -> Index:
        """An index of documents in the app's store; `options` are those of Index.

        Raises NotFound without a store.
        """
        # Most applications have none, and their import would double.
        from mastra_nb.rag.index import Index

        return Index(name, store=self._need_store(), **options)

    @property
    def schedules(self) -> Schedules:
        """Those made with `schedule`, by name."""
        if self._schedules is None:
            # Most applications have none.
            from mastra_nb.schedules import Schedules

            self._schedules = Schedules(self.services)
            self._schedules.every(EXPIRE_SECONDS, self.expire)
        return self._schedules

    def schedule(
        self,
        target: Part,
        *,
        cron: str,
        timezone: str = "UTC",
        input: Any = None,
        name: str = "",
        catch_up: CatchUp = "skip",
        overlap: Overlap = "skip",
        **options: Any,
    ) -> Schedule:
        """Run `target` with `input` at the times of `cron`, while `run_schedules` runs somewhere.

        `name` is by default the target's. `catch_up` says what becomes of fires that no process was
        there for: nothing, the last of them, all one after another. `overlap`: a fire while the run
        before goes on is left out, waits, or starts beside it. `options` are those of
        `target.run`, such as thread and resource. Raises ConfigError for an expression, a time zone
        or a name that will not do, and without a store.
        """
        from mastra_nb.schedules import Schedule

        made = Schedule(
            target,
            self.services,
            cron=cron,
            timezone=timezone,
            input=input,
            name=name,
            catch_up=catch_up,
            overlap=overlap,
            options=options,
        )
        made = self.schedules.add(made)
        self.add(target)
        return made

    async def run_schedules(self) -> None:
        """Keep the schedules, and go on with runs whose time to be answered is over, until it is
        cancelled (a kernel's interrupt) or SIGTERM comes; its runs are stopped then. Any number of
        processes may: each fire is started once. Raises NotFound without a store.
        """
        self._need_store()
        await self.schedules.run()

    def get_logger(self, name: str = "mastra_nb") -> logging.Logger:
        return get_logger(name)

    async def find_runs(
        self, *, name: str | None = None, status: RunStatus | None = None, limit: int = 100
    ) -> list[RunRow]:
        return await self._need_store().find_runs(name=name, status=status, limit=limit)

    async def find_threads(self, *, resource: str | None = None, limit: int = 100) -> list[Thread]:
        return await self._need_store().find_threads(resource=resource, limit=limit)

    async def get_run(
        self,
        id: str,
        *,
        deps: Any = None,
        limits: Limits | None = None,
        resource: str | None = None,
    ) -> Run[Any]:
        """A stored run by its id or the beginning of one; it keeps its limits unless you name
        others. One whose agent or workflow is not here, or that is no such, can be read but not
        resumed.
        With a `resource` it must be that one's. Raises NotFound.
        """
        store = self._need_store()
        row = await store.get_run(id)
        if row is None:
            rows = await store.find_runs(prefix=id, limit=2) if id else []
            if len(rows) != 1:
                why = (
                    f'"{id}" is the beginning of several runs'
                    if rows
                    else f'there is no run "{id}"'
                )
                raise NotFound(why, hint="%mastra runs, or app.find_runs(), lists them")
            row = rows[0]
        if resource is not None and row.resource != resource:
            raise NotFound(f'there is no run "{id}"', hint="app.find_runs() lists them")
        return await self._loaded(row, deps=deps, limits=limits)

    async def _loaded(self, row: RunRow, **options: Any) -> Run[Any]:
        given: dict[str, Any] = {
            "thread": row.thread or "",
            "resource": row.resource,
            "past": await read_run(self._need_store(), row),
            **options,
        }
        makers: dict[str, Mapping[str, Any]] = {
            Agent.kind: self.agents,
            Workflow.kind: self.workflows,
        }
        maker = makers.get(row.kind, {}).get(row.name)
        if maker is not None:
            found: Run[Any] = maker.load(row.id, row.input, **given)
            return found
        target = _Elsewhere(row.name, row.kind)
        return _Record(target, row.input, id=row.id, services=self.services, **given)

    async def find_waiting(
        self,
        *,
        name: str | None = None,
        resource: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[Waiting]:
        """What runs wait for, of the newest runs first; `limit` and `offset` count runs."""
        store, out = self._need_store(), list[Waiting]()
        rows = await store.find_runs(
            name=name, status="suspended", resource=resource, limit=limit, offset=offset
        )
        for row in rows:
            view = fold(await read_run(store, row))
            out += [
                Waiting(
                    run=row.id,
                    name=row.name,
                    kind=row.kind,
                    path=path,
                    reason=asked.reason,
                    payload=asked.payload,
                    schema=asked.schema,
                    since=row.updated,
                    deadline=asked.deadline,
                    thread=row.thread or "",
                    resource=row.resource,
                )
                for path, asked in view.pending.items()
            ]
        return out

    async def expire(self) -> list[Run[Any]]:
        """Go on with every run whose time to be answered is over, and return them when they rest.

        One that cannot (its workflow is not here, another process has it) is logged.
        """
        store, now, out = self._need_store(), self.services.now(), list[Run[Any]]()
        rows = await _all_of(store, "suspended")
        known, self._deadlines = self._deadlines, {}
        for row in rows:
            updated, deadline = known.get(row.id, (-1.0, None))
            if updated == row.updated and (deadline is None or deadline > now):
                self._deadlines[row.id] = updated, deadline
                continue
            found = await self._loaded(row)
            while (first := _deadline(found)) is not None and first <= now:
                try:
                    found = found.expire()
                    async for _ in found.events():
                        pass  # a run begins when somebody reads it
                except MastraError as error:
                    get_logger().warning("run %s cannot expire: %s", row.id, error.message)
                    break
                out = [*[each for each in out if each.id != row.id], found]
            else:
                self._deadlines[row.id] = row.updated, first
        return out

    async def recover(self, *, limit: int = 1000) -> list[Run[Any]]:
        """The runs that were cut off (their process died), taken up where they were: lazy, to be
        awaited. What another process drives, and what is not defined here, is left out.
        """
        store, out = self._need_store(), list[Run[Any]]()
        for row in await store.find_runs(status="running", limit=limit):
            if is_driven(row):
                continue
            found = await self._loaded(row)
            if not isinstance(found, _Record):
                out.append(found.resume())
        return out

    async def prune(self, retention: Retention | None = None, *, dry_run: bool = False) -> Pruned:
        """Delete what is older than `retention` says, by default the setting of that name.

        What memory keeps of a thread goes with it. Raises ConfigError if neither names anything.
        """
        from mastra_nb.memory.forgetting import forget_threads

        store = self._need_store()
        retention = retention or self.settings.retention
        if retention == Retention():
            raise ConfigError(
                "nothing says what is old",
                hint="app.prune(Retention(runs=30)), or in mastra.toml [retention] runs = 30",
            )
        before = partial(forget_threads, store)
        return await store.prune(retention, dry_run=dry_run, before=before)

    async def vacuum(self) -> int:
        """Give what deleted things took back to the disk; returns the bytes."""
        return await self._need_store().vacuum()

    async def backup(self, path: str | os.PathLike[str]) -> Path:
        """A copy of the store's file, made while others go on writing.

        Raises Conflict if something is at `path`, NotFound for a store that is no file.
        """
        copy = getattr(self._need_store(), "backup", None)
        if copy is None:
            raise NotFound(f'"{self._need_store().url}" is no file', hint="use a sqlite:/// store")
        target: Path = await copy(path)
        return target

    def sql(self, query: str, *args: Any) -> Any:
        """The rows of a SELECT over the store's file as a DataFrame; `args` bind its `?`.

        Blocks. Raises StorageError for a query that fails or would write, MissingExtra without
        pandas, NotFound for a store that is no SQLite file.
        """
        read = getattr(self._need_store(), "sql", None)
        if read is None:
            raise NotFound(f'"{self._need_store().url}" has no SQL', hint="use a sqlite:/// store")
        try:
            import pandas as pd
        except ModuleNotFoundError:
            raise MissingExtra(
                "a DataFrame needs pandas", hint='pip install "mastra-nb[data]"'
            ) from None
        return pd.DataFrame(portal.run(read(query, *args)))

    async def close(self) -> None:
        leave_ambient(self.services)
        await self.services.close_executors()
        if self.store is not None:
            await self.store.close()

    async def __aenter__(self) -> Mastra:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _need_store(self) -> Store:
        if self.store is None:
            raise NotFound(
                "this app keeps no runs: it has no store",
                hint='Mastra(storage="sqlite:///mastra.db") keeps them',
            )
        return self.store


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a run waits for. `since` and `deadline` are seconds since the epoch, `schema`
    is the JSON schema of the answer.
    """

    run: str
    name: str
    kind: str
    path: str
    reason: str
    payload: Any = None
    schema: dict[str, Any] | None = None
    since: float = 0.0
    deadline: float | None = None
    thread: str = ""
    resource: str = ""


def _deadline(run: Run[Any]) -> float | None:
    """When the first of the answers that it waits for is too late."""
    times = [asked.deadline for asked in run.pending.values() if asked.deadline is not None]
    return min(times, default=None)


async def _all_of(store: Store, status: RunStatus) -> list[RunRow]:
    out: list[RunRow] = []
    while found := await store.find_runs(status=status, limit=1000, offset=len(out)):
        out += found
    return out


class _Elsewhere:
    """What made a run and is not here to go on with it."""

    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        self.kind = kind

    def error(self, run: str, steps: str = "") -> NotResumable:
        if self.kind in (Agent.kind, Workflow.kind):
            return NotResumable(
                f'run "{run}" belongs to the {self.kind} "{self.name}", which is not here',
                hint=f'define "{self.name}" (run its cell, or app.add it), then go on{steps}',
            )
        return NotResumable(
            f'run "{run}" is no agent\'s: it was made by {self.kind} "{self.name}"',
            hint="it can be read; whatever made it does again what is not done",
        )

    async def invoke(self, input: Any, ctx: Context, /) -> Any:
        raise self.error(ctx.run.id)


class _Record(Run[Any]):
    """A run that can be read, and given up if it waits, but not gone on with."""

    def resume(self, answer: Any = ..., *, path: str | None = None) -> Run[Any]:
        assert isinstance(self.target, _Elsewhere)
        outline = Past([e for e in self.log.events if e.durable]).graphs.get(self.view.root)
        steps = ", ".join(steps_of(outline["nodes"])) if outline is not None else ""
        raise self.target.error(self.id, f"; its steps: {steps}" if steps else "")


def _find(what: str, name: str, known: Mapping[str, T]) -> T:
    if name not in known:
        raise NotFound(f'there is no {what} "{name}"', hint=close_matches(name, known))
    return known[name]


class Parts(msgspec.Struct, frozen=True):
    agents: dict[str, Agent[Any]]
    workflows: dict[str, Workflow[Any]]
    tools: dict[str, ToolLike]


def app_in(names: Mapping[str, Any], where: str) -> Mastra | None:
    """The application among the variables of a module or a notebook: `app`, or the only Mastra.

    Raises ConfigError if there are several and none is called `app`.
    """
    if isinstance(app := names.get("app"), Mastra):
        return app
    apps = {id(value): name for name, value in names.items() if isinstance(value, Mastra)}
    if len(apps) > 1:
        listed = ", ".join(f'"{name}"' for name in apps.values())
        raise ConfigError(
            f'"{where}" makes several applications: {listed}', hint='call the one that counts "app"'
        )
    return names[next(iter(apps.values()))] if apps else None


def parts_in(names: Mapping[str, Any], where: str) -> Parts:
    """The agents, workflows and tools among them, by their own names.

    Raises ConfigError if two of a kind share one.
    """
    return Parts(*(_by_name(names, kind, where) for kind in (Agent, Workflow, Tool)))


def _by_name(names: Mapping[str, Any], kind: type[Any], where: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    variables: dict[str, str] = {}
    for name, part in names.items():
        if not isinstance(part, kind):
            continue
        if out.get(part.name, part) is not part:
            raise ConfigError(
                f'"{variables[part.name]}" and "{name}" of "{where}" are both named "{part.name}"',
                hint="give each a name of its own",
            )
        out[part.name], variables[part.name] = part, name
    return out
