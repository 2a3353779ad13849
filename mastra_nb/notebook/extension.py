"""`%load_ext mastra_nb`: magics, completion, errors and settings of a kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mastra_nb import __version__, portal
from mastra_nb.errors import UsageError
from mastra_nb.notebook import (
    _ask,
    _background,
    _commands,
    _complete,
    _define,
    _each,
    _errors,
    _resume,
    _rewrite,
)
from mastra_nb.notebook._answers import ACTIONS, Answers
from mastra_nb.notebook._channel import Channel
from mastra_nb.notebook._host import Host
from mastra_nb.notebook._live import say
from mastra_nb.notebook._present import present
from mastra_nb.notebook._progress import progress_of
from mastra_nb.notebook._specs import SPECS
from mastra_nb.progress import set_progress
from mastra_nb.queries import Queries
from mastra_nb.services import set_ambient

_OLDEST = {"IPython": (9, 0), "ipykernel": (6, 29)}


class Magics:
    """What rewritten cells call, as `get_ipython().mastra`."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self.host = Host(shell)
        self.channel = Channel(self.host, self.ask)
        self._answers = Answers(self.host)
        self._queries = Queries(self.host.app)
        self._matcher = _complete.matcher(self.host)
        self._question = _rewrite.question_transformer()
        self._attached = False

    # Entries

    async def arun(
        self,
        name: str,
        line: str,
        cell: str | None = None,
        *,
        ns: Mapping[str, Any] | None = None,
        value: bool = False,
    ) -> Any:
        """A magic that is awaited. `value` asks for the answer itself instead of a Result."""
        host = self.host
        if name == "mastra":
            return await _commands.run(host, line)
        names = host.names(ns)
        if name == "ask" and (batch := _each.prepare(host, line, cell, names)) is not None:
            if batch.background:
                return _background.each(host, batch, value=value)
            return await _each.arun(host, batch, value=value)
        asked = (
            await _resume.prepare(host, line, value=value)
            if name == "resume"
            else await _ask.prepare(host, line, cell, names)
        )
        if asked is not None and asked.background:
            return _background.ask(host, asked, value=value)
        return None if asked is None else await _ask.arun(host, asked, value=value)

    def run(
        self,
        name: str,
        line: str,
        cell: str | None = None,
        *,
        ns: Mapping[str, Any] | None = None,
        value: bool = False,
    ) -> Any:
        """The same for callers that cannot await."""
        host = self.host
        if name == "mastra":
            return portal.run(_commands.run(host, line))
        names = host.names(ns)
        if name == "ask" and (batch := _each.prepare(host, line, cell, names)) is not None:
            if batch.background:
                return _background.each(host, batch, value=value)
            return _each.run(host, batch, value=value)
        asked = portal.run(
            _resume.prepare(host, line, value=value)
            if name == "resume"
            else _ask.prepare(host, line, cell, names)
        )
        if asked is not None and asked.background:
            return _background.ask(host, asked, value=value)
        return None if asked is None else _ask.run(host, asked, value=value)

    def agent(self, line: str, cell: str | None = None, *, ns: Mapping[str, Any]) -> None:
        self.host.refresh()
        say(_define.agent(self.host, line, cell, self.host.names(ns)))

    def tools_begin(self, line: str) -> None:
        _define.tools_begin(line)

    def tools_end(self, line: str, functions: list[str]) -> None:
        say(_define.tools_end(self.host, line, functions))

    def workflow_begin(self, line: str, body: str) -> None:
        _define.workflow_begin(line, body)

    def workflow_end(self, line: str, fn: Callable[..., Any]) -> Any:
        return _define.workflow_end(self.host, fn)

    async def ask(self, name: str, args: Mapping[str, Any]) -> Any:
        """What a front end wants to know, or to be done."""
        if name in ACTIONS:
            return await self._answers.ask(name, args)
        return await self._queries.ask(name, args)

    # What IPython calls

    def transform(self, lines: list[str]) -> list[str]:
        return _rewrite.rewrite(
            lines, nested=_rewrite.running_cell(self.shell.run_code), transform=self._plain
        )

    def _plain(self, body: str) -> str:
        return str(self.shell.input_transformer_manager.transform_cell(body))

    def begin_cell(self, info: Any) -> None:
        self.host.calls.begin(info.raw_cell)

    def fallbacks(self) -> dict[str, Callable[..., Any]]:
        """The magics as IPython knows them: for help, and for calls that no cell's text shows."""

        def of(name: str) -> Callable[..., Any]:
            def magic(line: str, cell: str | None = None, local_ns: Any = None) -> Any:
                if name == "agent":
                    return self.agent(line, cell, ns=local_ns)
                if name in ("tool", "workflow"):
                    return self._run_python_cell(name, line, cell)
                return self.run(name, line, cell, ns=local_ns)

            magic.__name__ = magic.__qualname__ = name
            magic.__doc__ = SPECS[name].help()
            magic.needs_local_scope = True  # type: ignore[attr-defined]
            magic._ipython_magic_no_var_expand = True  # type: ignore[attr-defined]
            return magic

        return {name: of(name) for name in SPECS}

    def _run_python_cell(self, name: str, line: str, cell: str | None) -> None:
        if cell is None:
            raise UsageError(f"%{name} has no cell", hint=f"write %%{name} above the Python of it")
        source = "".join(
            _rewrite.rewrite(
                [f"get_ipython().run_cell_magic({name!r}, {line!r}, {cell!r})\n"],
                nested=True,
                transform=self._plain,
            )
        )
        exec(compile(source, f"<%%{name}>", "exec"), self.shell.user_ns)  # noqa: S102

    # Coming and going

    def attach(self) -> None:
        if self._attached:
            return
        self._attached = True
        shell = self.shell
        set_ambient(self.host.services)
        set_progress(lambda: progress_of(self.host))
        self.host.services.present = partial(present, self.host)
        self.channel.attach()
        _errors.install()
        for name, magic in self.fallbacks().items():
            shell.register_magic_function(magic, magic_kind="line_cell", magic_name=name)
        transform = self.transform
        transform.__func__.has_side_effects = False  # type: ignore[attr-defined]
        shell.input_transformers_post.append(transform)
        shell.input_transformer_manager.token_transformers.insert(0, self._question)
        shell.events.register("pre_run_cell", self.begin_cell)
        shell.events.register("post_run_cell", self.host.cells.ended)
        shell.configurables.append(self.host.config)
        shell.Completer.custom_matchers.append(self._matcher)

    def detach(self) -> None:
        if not self._attached:
            return
        self._attached = False
        shell = self.shell
        set_ambient(None)
        set_progress(None)
        self.host.services.present = None
        self.channel.detach()
        _errors.uninstall()
        for name in SPECS:
            for kind in ("line", "cell"):
                shell.magics_manager.magics[kind].pop(name, None)
        shell.input_transformers_post.remove(self.transform)
        shell.input_transformer_manager.token_transformers.remove(self._question)
        shell.events.unregister("pre_run_cell", self.begin_cell)
        shell.events.unregister("post_run_cell", self.host.cells.ended)
        shell.configurables.remove(self.host.config)
        shell.Completer.custom_matchers.remove(self._matcher)

    def greeting(self) -> str:
        host = self.host
        parts = [f"mastra_nb {__version__}", f"model {host.model}", f"store {host.store_name}"]
        if host.replay.mode != "off":
            parts.append(f"replay {host.replay.mode}")
        return " · ".join([*parts, "%mastra help"])


def check_versions() -> None:
    """Raises UsageError if the front end is older than what this package was made for."""
    for name, oldest in _OLDEST.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        numbers = tuple(int(p) for p in found.split(".")[:2] if p.isdecimal())
        if numbers < oldest:
            wanted = ".".join(map(str, oldest))
            raise UsageError(
                f"{name} {found} is too old for mastra_nb, which needs {wanted}",
                hint=f'pip install -U "{name}>={wanted}" and restart the kernel',
            )


def load_ipython_extension(shell: Any) -> None:
    """Loading again attaches what was there: agents, threads and the store stay as they are."""
    _errors.install()
    check_versions()
    magics = getattr(shell, "mastra", None)
    if not isinstance(magics, Magics):
        magics = shell.mastra = Magics(shell)
    magics.attach()
    if magics.host.warning:
        say(magics.host.warning)
    say(magics.greeting())


def unload_ipython_extension(shell: Any) -> None:
    magics = getattr(shell, "mastra", None)
    if isinstance(magics, Magics):
        magics.detach()
