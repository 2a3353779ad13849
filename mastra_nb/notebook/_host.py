"""What a notebook's kernel holds: an application, its settings, its agents and its runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from mastra_nb import plugins, portal
from mastra_nb.agents import Agent
from mastra_nb.app import Mastra, open_store
from mastra_nb.config import default_storage, project_root, redact
from mastra_nb.errors import MastraError, StorageError
from mastra_nb.events import Event, SpanEnded, SpanStarted, View
from mastra_nb.messages import Usage
from mastra_nb.models import ReplayMode
from mastra_nb.notebook import _config, _live, _values
from mastra_nb.notebook._attach import CellCalls, notebook_name
from mastra_nb.notebook._cells import Cells
from mastra_nb.notebook._errors import one_line
from mastra_nb.notebook._live import Bundle, Cell, Final, Screen, Terminal
from mastra_nb.notebook._people import People
from mastra_nb.notebook._replay import Replay, remember_model, remembered_model
from mastra_nb.notebook._templates import variables
from mastra_nb.runs import Run
from mastra_nb.services import Services
from mastra_nb.storage import Store, Thread
from mastra_nb.workflows import Workflow

_MOST_RUNS = 500
# Other kernels write for milliseconds; who holds a file for longer than this is stuck.
_LOCK_SECONDS = 3.0


class Waiting(msgspec.Struct, frozen=True):
    """A run that the nth cell left suspended or broken, the variable that wants its output, and
    where it was shown.
    """

    run: Run[Any]
    out: str
    call: str
    cell: int = 0
    screen: Any = None


class Host:
    """One for each kernel. `warning` says what is not as it should be, in one line."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self.token = secrets.token_hex(4)
        self.default = ""
        self.warning = ""
        # Nobody looks: what functions of the notebook ask is not shown.
        self.headless = False
        self.calls = CellCalls()
        self.cells = Cells()
        self.people = People(shell)
        # The one that the cells run on; None where there is none between them.
        self.loop: asyncio.AbstractEventLoop | None = None
        with contextlib.suppress(RuntimeError):
            self.loop = asyncio.get_running_loop()
        self.waiting: list[Waiting] = []
        # What the agents of runs were told, for a comparison: a log does not keep it.
        self.told: dict[str, str] = {}
        # What was begun with --bg (_jobs.Background).
        self.jobs: list[Any] = []
        # What %mastra serve has begun, and where its token is.
        self.server: Any = None
        self.server_token = ""
        # Of the cell whose workflows rested last: those that failed or were stopped.
        self.broken: list[Waiting] = []
        # One for each workflow's run that is being shown.
        self.showing: set[asyncio.Future[None]] = set()
        self.views: dict[str, View] = {}
        self.spent: dict[str, Usage] = {}
        self._models: dict[tuple[str, str], str] = {}
        self._threads: dict[str, str] = {}
        self._known_threads: set[str] = set()
        self._changed = False
        self._assistant: Agent[Any] | None = None
        self.config = _config.Mastra(self._config_changed)
        self.options = _config.check(self.config)
        self.url = ""
        self.store: Store = self._open()
        self.app = Mastra(storage=self.store, settings=self.options.settings)
        self.app.services.on_interrupt = _live.mark_interrupt
        self.app.services.sinks.append(self.see)
        self.replay = Replay(self.services)
        self._apply()

    # Settings and store

    @property
    def services(self) -> Services:
        return self.app.services

    @property
    def notebook(self) -> str:
        return notebook_name(self.shell.user_ns)

    def _config_changed(self) -> None:
        """Takes effect at once where it can; what is wrong is said when it is used."""
        self._changed = True
        with contextlib.suppress(MastraError):
            self.refresh()

    def refresh(self) -> None:
        """Put `%config` into effect. Raises ConfigError."""
        if not self._changed:
            return
        self.options = _config.check(self.config)
        if self._url() != self.url:
            self.store = self._open()
            self.replay.set("off", self.store)
        self._apply()
        self._changed = False

    def key_changed(self) -> None:
        """Another model may be the one that is used where nobody names one."""
        self._config_changed()

    def set_replay(self, mode: ReplayMode) -> None:
        """From the start: the first of equal requests is the first again."""
        self.replay.set("off", self.store)
        self.config.set_trait("replay", mode)
        self._changed = True
        self.refresh()

    def _apply(self) -> None:
        settings = self.options.settings
        services = self.services
        services.session = "replay" if settings.replay == "only" else self.token
        if settings.replay != self.replay.mode or services.store is None:
            self.replay.set(settings.replay, self.store)
        elif settings.replay != "only":
            services.store = self.store
        if settings.replay == "record":
            portal.run(remember_model(self.store, str(settings.model)))
        elif settings.replay != "off" and self._nobody_named_a_model():
            kept = portal.run(remembered_model(self.store))
            settings = msgspec.structs.replace(settings, model=kept or settings.model)
        self.app.settings = services.settings = settings

    def _nobody_named_a_model(self) -> bool:
        return self.config.model is None and self.options.settings.model == _config.default_model()

    def _url(self) -> str:
        return default_storage(self.options.settings, project_root())

    def _open(self) -> Store:
        """The store of the settings; one in memory, and a warning, if it cannot be used."""
        self.url = self._url()
        self.warning = ""
        try:
            store = open_store(self.url)
            portal.run(_check_writable(store, self.token))
        except (MastraError, OSError) as error:
            self.warning = (
                f"{one_line(error).rstrip('.')} · this notebook's runs are kept in memory only"
            )
            return plugins.stores.load("memory")("memory://")  # type: ignore[no-any-return]
        return store

    @property
    def model(self) -> str:
        return str(self.services.settings.model)

    @property
    def store_name(self) -> str:
        """The store as a person knows it: a path from here, or a URL without its password."""
        if self.warning:
            return "memory"
        if not self.url.startswith("sqlite:///"):
            return redact(self.url)
        path = Path(self.url.removeprefix("sqlite:///").partition("?")[0])
        with contextlib.suppress(ValueError):
            return os.path.relpath(path) if path.is_relative_to(project_root()) else str(path)
        return str(path)

    # Names

    def names(self, local: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        user: dict[str, Any] = self.shell.user_ns
        return ChainMap(dict(local), user) if local is not None and local is not user else user

    def agents(self, names: Mapping[str, Any] | None = None) -> dict[str, Agent[Any]]:
        return _values.agents_of(names or self.names(), self.app.agents)

    def find_agent(self, name: str, names: Mapping[str, Any]) -> Agent[Any]:
        """The agent called `name`, or the default one. Raises NotFound."""
        name = name or self.default
        if not name:
            return self.assistant
        return _values.find_agent(name, names, self.app.agents)

    def workflows(self) -> dict[str, Workflow[Any]]:
        """Those of the notebook and of its application, by what a user calls them."""
        user = self.names()
        mine = {n: user[n] for n in variables(user) if isinstance(user[n], Workflow)}
        return {**self.app.workflows, **mine}

    def workflow_named(self, name: str) -> Workflow[Any] | None:
        """As it is defined now."""
        found = [w for w in self.workflows().values() if w.name == name]
        return found[-1] if found else None

    @property
    def assistant(self) -> Agent[Any]:
        """Who is asked while there is no default: the notebook's model, without instructions."""
        if self._assistant is None:
            self._assistant = Agent(name="assistant", services=self.services)
        return self._assistant

    async def load_run(self, id: str, **options: Any) -> Run[Any]:
        """A stored run by the beginning of its id, driven by the agent or workflow of its name as
        it is defined now.

        Raises NotFound for an unknown run.
        """
        self.app.agents.update({agent.name: agent for agent in self.agents().values()})
        self.app.workflows.update({made.name: made for made in self.workflows().values()})
        self.app.agents.setdefault("assistant", self.assistant)
        return await self.app.get_run(id, **options)

    def remember(self, run: Run[Any], agent: Agent[Any]) -> None:
        if isinstance(agent.instructions, str):
            self.told[run.id] = agent.instructions
            if len(self.told) > _MOST_RUNS:
                del self.told[next(iter(self.told))]

    # Threads

    def thread_of(self, agent: Agent[Any], named: str, resource: str = "") -> tuple[str, str]:
        """(thread, what to show of it) for a run of `agent`, or of it for that resource."""
        if named:
            return named, named
        whose = resource or agent.resource
        if agent.thread and whose == agent.resource:
            return agent.thread, "" if self.is_kernel_thread(agent.thread) else agent.thread
        if agent.memory is None:
            return "", ""
        return self.kernel_thread(agent.name, whose), ""

    def kernel_thread(self, agent: str, resource: str = "") -> str:
        """A conversation that lives as long as this kernel."""
        own = f"{agent}:{resource}" if resource else agent
        return self._threads.get(own, f"{own}@{self.services.session}")

    def adopt_thread(self, agent: Agent[Any], thread: str) -> None:
        """An unfinished run was taken up: its conversation goes on, in the thread it began in."""
        self._threads[thread.rpartition("@")[0]] = thread
        if self.is_kernel_thread(agent.thread):
            agent.thread = thread

    def is_kernel_thread(self, thread: str) -> bool:
        name, at, token = thread.rpartition("@")
        return bool(at and name) and (
            token in (self.token, "replay") or thread in self._threads.values()
        )

    def named_thread(self, thread: str) -> str:
        """What to show of a thread: nothing of one that only this kernel knows."""
        return "" if self.is_kernel_thread(thread) else thread

    async def list_thread(self, thread: str) -> None:
        """Give a kernel's conversation a title to be found by."""
        store = self.services.store
        if store is None or thread in self._known_threads or not self.is_kernel_thread(thread):
            return
        self._known_threads.add(thread)
        if await store.get_thread(thread) is None:
            title = Path(self.notebook).name
            await store.put_thread(Thread(id=thread, title=title, meta={"kernel": self.token}))

    @property
    def replay_mode(self) -> ReplayMode:
        return self.options.settings.replay

    # What happens

    def screen(self, bundle: Bundle) -> Screen:
        if self.headless:
            return Terminal(write=lambda text: None)
        if self.capturing:
            return Final(bundle)
        return Cell(bundle) if self.in_kernel else Terminal()

    @property
    def capturing(self) -> bool:
        from IPython.core.displaypub import CapturingDisplayPublisher

        return isinstance(self.shell.display_pub, CapturingDisplayPublisher)

    @property
    def in_kernel(self) -> bool:
        return getattr(self.shell, "kernel", None) is not None

    def see(self, event: Event) -> None:
        """Reads every event of every run of this kernel, but not what is only for eyes."""
        if not event.durable:
            return
        view = self.views.get(event.run)
        if view is None:
            view = self.views[event.run] = View()
            if len(self.views) > _MOST_RUNS:
                del self.views[next(iter(self.views))]
        view.apply(event)
        data = event.data
        if isinstance(data, SpanStarted) and data.kind == "model":
            self._models[event.run, event.span] = data.name
        elif isinstance(data, SpanEnded) and data.usage is not None:
            model = self._models.pop((event.run, event.span), "")
            if model:
                self.spent[model] = self.spent.get(model, Usage()) + data.usage


async def _check_writable(store: Store, token: str) -> None:
    """A file that cannot be written is found now, not in the middle of the first answer."""
    try:
        async with asyncio.timeout(_LOCK_SECONDS):
            await store.put("kernel", token, {})
            await store.delete("kernel", token)
    except TimeoutError:
        raise StorageError(
            f'"{redact(store.url)}" is locked by another process', code="storage.locked"
        ) from None
