"""A notebook as an application: its definition cells run without a kernel or a front end.

What it defines is the application. Code cells run from the top, in an IPython of their own, until
a line `# mastra: stop` (in a code, Markdown or raw cell). Left out are cells tagged `skip` and
those that ask: with %ask, %%ask, %resume or %mastra outside a function.
"""

from __future__ import annotations

import ast
import asyncio
import atexit
import builtins
import contextlib
import io
import json
import os
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.profiledir import ProfileDir
from traitlets.config import Config

from mastra_nb.app import Mastra, app_in, parts_in
from mastra_nb.errors import MastraError, StorageError, UsageError
from mastra_nb.notebook import _rewrite
from mastra_nb.notebook._host import Host
from mastra_nb.notebook._templates import variables
from mastra_nb.notebook.extension import Magics, load_ipython_extension
from mastra_nb.services import set_ambient

_STOP = re.compile(r"\s*#\s*mastra:\s*stop\s*", re.IGNORECASE)
_STOP_IN_TEXT = re.compile(r"\s*(?:<!--|#+)?\s*mastra:\s*stop\s*(?:-->)?\s*", re.IGNORECASE)
_MAY_FAIL = "raises-exception"


class CodeCell(msgspec.Struct, frozen=True):
    """`number` counts code cells from 1, as a front end does that runs all of them."""

    number: int
    source: str
    tags: frozenset[str] = frozenset()

    @property
    def first_line(self) -> str:
        line = next((each.strip() for each in self.source.splitlines() if each.strip()), "")
        return line if len(line) <= 60 else f"{line[:59]}…"


def load_notebook(path: str | os.PathLike[str]) -> Mastra:
    """The agents, workflows and tools that the notebook defines, with its project's store.

    A Mastra that it makes itself is the application, with what its magics define added. Cells run
    in the notebook's folder, and nothing is written but what they write. Raises UsageError for a
    file that is no notebook, for one that defines nothing, and for a cell that fails: it names the
    cell, and its `__cause__` is the cell's error.
    """
    path = Path(path).absolute()
    cells = definitions(path)
    magics, user = _in_its_folder(path, cells)
    app = _application(path.name, magics.host, user)
    set_ambient(app.services)
    return app


def definitions(path: Path) -> list[CodeCell]:
    """The cells above the marker, without those tagged `skip`. Raises UsageError."""
    out: list[CodeCell] = []
    number = 0
    for cell in _read(path):
        kind, lines = cell.get("cell_type"), _source(cell).splitlines(keepends=True)
        stop = _STOP if kind == "code" else _STOP_IN_TEXT
        end = next((n for n, line in enumerate(lines) if stop.fullmatch(line)), None)
        if kind != "code":
            if end is not None:
                break
            continue
        number += 1
        tags = frozenset(map(str, cell.get("metadata", {}).get("tags", ())))
        source = "".join(lines[:end])
        if source.strip() and "skip" not in tags:
            out.append(CodeCell(number, source, tags))
        if end is not None:
            break
    return out


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        notebook = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f'"{path}" cannot be read: {error.strerror}') from None
    except ValueError:
        notebook = None
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise UsageError(
            f'"{path.name}" is not a notebook of format 4',
            hint="open and save it in JupyterLab, or: jupyter nbconvert --to notebook",
        )
    return cells


def _source(cell: Mapping[str, Any]) -> str:
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(source)


# Running


class _Shell(InteractiveShell):
    """Shows nothing, and reaches for no window."""

    def enable_gui(self, gui: Any = None) -> None:
        """There is no event loop of a window to run."""

    def should_run_async(self, raw_cell: str, **options: Any) -> bool:
        """A loop runs whatever the cell is, as in a kernel: tasks can be made. What a magic such
        as %%time runs is in that loop already.
        """
        return not _in_a_loop() or bool(super().should_run_async(raw_cell, **options))

    def showtraceback(self, *args: Any, **options: Any) -> None:
        """The error is raised to whoever loads the notebook."""

    def showsyntaxerror(self, *args: Any, **options: Any) -> None:
        """The same."""


def _in_its_folder(path: Path, cells: list[CodeCell]) -> tuple[Magics, dict[str, Any]]:
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    with contextlib.chdir(path.parent), _shell(path) as shell:
        load_ipython_extension(shell)
        magics: Magics = shell.mastra  # type: ignore[attr-defined]
        try:
            _outside_loops(lambda: _run(path.name, shell, cells))
        finally:
            magics.detach()
    host = magics.host
    if host.warning:
        raise StorageError(
            f"the store cannot be used: {host.warning.partition(' · ')[0]}",
            hint="set storage in mastra.toml, or DATABASE_URL, to one that can be written",
        )
    # Nobody looks at a cell: who waits for a run reads it.
    host.headless = True
    host.app.services.on_interrupt = None
    host.app.services.sinks.remove(host.see)
    return magics, shell.user_ns


@contextlib.contextmanager
def _shell(path: Path) -> Iterator[_Shell]:
    """An IPython without history, configuration and profile, that is `get_ipython()` inside."""
    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryManager.hist_file = ":memory:"
    owners = (_Shell, InteractiveShell)
    before = [vars(owner).get("_instance") for owner in owners]
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        _interpreter_state(),
        contextlib.redirect_stdout(io.StringIO()),
        _nobody_at_the_keyboard(),
    ):
        profile = ProfileDir.create_profile_dir(folder)  # type: ignore[no-untyped-call]
        module = _module(path)
        shell = _Shell(  # type: ignore[no-untyped-call]
            config=config,
            ipython_dir=folder,
            profile_dir=profile,
            user_module=module,
            user_ns=module.__dict__,
        )
        # At exit it would empty the namespace that the notebook's functions live in.
        atexit.unregister(shell.atexit_operations)
        for owner in owners:
            setattr(owner, "_instance", shell)  # noqa: B010
        try:
            yield shell
        finally:
            for owner, instance in zip(owners, before, strict=True):
                setattr(owner, "_instance", instance)  # noqa: B010
            if shell.history_manager is not None:
                shell.history_manager.end_session()
                if hasattr(shell.history_manager, "close"):  # later than IPython 9.0
                    shell.history_manager.close()


@contextlib.contextmanager
def _nobody_at_the_keyboard() -> Iterator[None]:
    """`input()` fails; with the output of cells hidden it would wait unseen."""
    before, sys.stdin = sys.stdin, io.StringIO()
    try:
        yield
    finally:
        sys.stdin = before


def _module(path: Path) -> ModuleType:
    """The notebook as a module: types that it defines are looked up by the name of theirs."""
    stem = base = "notebook_" + re.sub(r"\W", "_", path.stem)
    nth = 1
    while stem in sys.modules:
        nth += 1
        stem = f"{base}_{nth}"
    module = ModuleType(stem)
    module.__file__ = str(path)
    sys.modules[stem] = module
    return module


@contextlib.contextmanager
def _interpreter_state() -> Iterator[None]:
    """An IPython tells the whole process that it is interactive; it is not."""
    places: list[tuple[Any, str]] = [
        (builtins, "__IPYTHON__"),
        (builtins, "display"),
        (sys, "ps1"),
        (sys, "ps2"),
        (sys, "ps3"),
        (sys, "excepthook"),
        (sys, "displayhook"),
    ]
    before = [(place, name, place.__dict__.get(name)) for place, name in places]
    try:
        yield
    finally:
        for place, name, value in before:
            if value is not None:
                setattr(place, name, value)
            elif name in place.__dict__:
                delattr(place, name)


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _outside_loops(work: Any) -> None:
    """Cells have a loop of their own, so where one runs already it is in a thread."""
    if not _in_a_loop():
        work()
        return
    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=guarded, name="mastra_nb notebook")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def _run(name: str, shell: _Shell, cells: list[CodeCell]) -> None:
    left_out: dict[str, CodeCell] = {}
    transform = shell.input_transformer_manager.transform_cell
    with asyncio.Runner() as runner, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "To exit: use 'exit'", UserWarning)
        shell.loop_runner = runner.run
        for cell in cells:
            plain = transform(cell.source)
            if _rewrite.asks(plain, transform=transform):
                left_out.update(dict.fromkeys(_bound(plain), cell))
                continue
            result = shell.run_cell(cell.source, silent=True)  # type: ignore[no-untyped-call]
            error = result.error_before_exec or result.error_in_exec
            if error is not None and _MAY_FAIL not in cell.tags:
                raise _failed(name, cell, error, left_out)


def _bound(source: str) -> list[str]:
    """The names that a cell would have bound."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    names = [
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    ]
    makers = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names += [node.name for node in ast.walk(tree) if isinstance(node, makers)]
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return names + [a.asname or a.name.partition(".")[0] for i in imported for a in i.names]


def _failed(
    name: str, cell: CodeCell, error: BaseException, left_out: Mapping[str, CodeCell]
) -> UsageError:
    if isinstance(error, KeyboardInterrupt):
        raise error
    what = error.message if isinstance(error, MastraError) else _python_error(error)
    hint = "a cell that only tries things out: tag it skip, or write # mastra: stop above it"
    if isinstance(error, MastraError) and error.hint:
        hint = error.hint
    missing = error.name or "" if isinstance(error, NameError) else ""
    if missing in left_out:
        asked = left_out[missing]
        hint = f'"{missing}" is made in code cell {asked.number}, which asks and was not run'
    elif isinstance(error, ModuleNotFoundError) and error.name:
        hint = f'install "{error.name.partition(".")[0]}" where this runs'
    line = _line(error)
    if line is not None:
        # IPython counts without the empty lines at the top.
        line += len(cell.source) - len(cell.source.lstrip("\n"))
    where = f", line {line}" if line else ""
    made = UsageError(
        f'code cell {cell.number} of "{name}" ({cell.first_line}){where}: {what}',
        hint=hint,
        code="notebook.cell",
        details={"notebook": name, "cell": cell.number, "line": line},
    )
    made.__cause__ = error
    return made


def _python_error(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _line(error: BaseException) -> int | None:
    """The last line of the cell itself that the error went through."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return error.lineno
    found = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.startswith("<ipython-input-"):
            found = trace.tb_lineno
        trace = trace.tb_next
    return found


# What it defines


def _application(name: str, host: Host, user: dict[str, Any]) -> Mastra:
    mine = {n: user[n] for n in variables(user)}
    own = app_in(mine, name)
    # What the magics have registered, and what plain Python made where no Mastra says what counts.
    parts = parts_in(mine if own is None else {}, name)
    made = own or host.app
    for agent in {**host.app.agents, **parts.agents}.values():
        # A conversation of this process: everybody who asks would share it.
        if host.is_kernel_thread(agent.thread):
            agent.thread = ""
        made.add(agent)
    for workflow in {**host.app.workflows, **parts.workflows}.values():
        made.add(workflow)
    made.tools.update({**host.app.tools, **parts.tools})
    if not (made.agents or made.workflows or made.tools):
        raise UsageError(
            f'"{name}" defines no agent, workflow or tool',
            hint="in cells above the marker and not tagged skip: %%agent, %%tool, %%workflow",
        )
    return made
