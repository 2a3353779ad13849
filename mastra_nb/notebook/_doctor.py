"""%mastra doctor: whether everything is as it should be, and what to do where it is not."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from pathlib import Path
from typing import Any

from mastra_nb import __version__
from mastra_nb import checks as checked
from mastra_nb._escape import escape
from mastra_nb.checks import MARKS, Check, Made, made, ok, summary, version_of
from mastra_nb.errors import UsageError
from mastra_nb.notebook._errors import plain
from mastra_nb.notebook._host import Host
from mastra_nb.notebook._tables import show

EXTENSION = "@mastra-nb/labextension"


async def doctor(host: Host, *words: str) -> None:
    if words not in ((), ("--offline",)):
        raise UsageError(
            f'%mastra doctor does not know "{words[0]}"',
            hint="%mastra doctor, or %mastra doctor --offline to ask no model's server",
        )
    found = await checks(host, offline=bool(words))
    show(host, bundle(found))


async def checks(host: Host, *, offline: bool = False) -> list[Check]:
    """What was found, in the order in which it is shown; a check that breaks says so itself."""
    every: list[tuple[str, Made]] = [
        ("Python", checked.python),
        ("mastra_nb", lambda: ok("mastra_nb", __version__)),
        ("IPython", lambda: ok("IPython", version_of("IPython"))),
        ("approvals", lambda: _approvals(host)),
        ("model", lambda: _model(host, offline)),
        ("network", lambda: _network(host)),
        ("price", lambda: checked.price(host.model, host.services.settings.prices)),
        ("store", lambda: _store(host)),
        ("vectors", lambda: checked.vectors(host.services.store or host.store)),
        ("embedder", checked.embedder),
        ("lab extension", extension),
        ("front end", lambda: _front_end(host)),
        ("widgets", _widgets),
        ("event loop", lambda: _loop(host)),
        ("disk", lambda: checked.disk(host.url)),
    ]
    return await made(every)


def _approvals(host: Host) -> Check:
    """Which way a call that waits for approval is answered here."""
    kernel = version_of("ipykernel")
    if not host.in_kernel:
        where = "on the keyboard" if host.people.is_somebody_there else "later, with %resume"
        return ok("approvals", f"no kernel: answered {where}")
    if not host.people.is_somebody_there:
        return ok("approvals", f"ipykernel {kernel}, nobody is there: runs wait for %resume")
    if int(kernel.partition(".")[0]) >= 7:
        return ok("approvals", f"ipykernel {kernel}: by a button in the running cell")
    return Check(
        name="approvals",
        state="note",
        found=f"ipykernel {kernel}: on the keyboard, it hears no click while a cell runs",
        do='pip install -U "ipykernel>=7" and restart the kernel, for buttons',
    )


async def _model(host: Host, offline: bool) -> Check:
    if host.replay.mode == "only":
        return ok("model", f"{host.model}: answered from recordings, nobody is asked")
    provider = host.model.partition("/")[0]
    return await checked.model(
        host.model,
        offline=offline,
        do=f"%mastra key {provider}, or %config Mastra.model = …; %mastra models lists them",
        listed=f"%mastra models {provider} lists what it has",
    )


def _network(host: Host) -> Check:
    provider = host.model.partition("/")[0]
    if host.replay.mode == "only":
        return ok("network", "none: replay only")
    if provider == "local":
        return ok("network", "none: the model runs in this process")
    return ok("network", f"only the address of {provider}; there is no telemetry")


async def _store(host: Host) -> Check:
    if host.warning:
        return Check(
            name="store", state="wrong", found=host.warning,
            do='%config Mastra.storage = "sqlite:///a/path/that/can/be/written.db"',
        )  # fmt: skip
    return await checked.store(host.services.store or host.store, host.store_name)


def extension() -> Check:
    """As JupyterLab of this environment finds it: the first of its folders that has it."""
    from jupyter_core.paths import jupyter_path

    name = "lab extension"
    for folder in jupyter_path("labextensions"):
        about = _json(Path(folder, EXTENSION, "package.json"))
        if about is None:
            continue
        found = str(about.get("version", "?"))
        if EXTENSION in _disabled():
            return Check(
                name=name, state="note", found=f"{found}, disabled",
                do=f"jupyter labextension enable {EXTENSION}",
            )  # fmt: skip
        if found != __version__:
            return Check(
                name=name, state="wrong", found=f"{found}, but mastra_nb is {__version__}",
                do="pip install --force-reinstall mastra-nb, and reload the page",
            )  # fmt: skip
        return ok(name, f"{found} in {folder}")
    return Check(
        name=name, state="note", found="not installed where this kernel's Jupyter looks",
        do="pip install mastra-nb where JupyterLab is installed, and reload the page",
    )  # fmt: skip


def _disabled() -> set[str]:
    from jupyter_core.paths import jupyter_config_path, jupyter_path

    places = [Path(folder, "labconfig") for folder in jupyter_config_path()]
    out: set[str] = set()
    for folder in [*places, *map(Path, jupyter_path("lab", "settings"))]:
        listed = (_json(folder / "page_config.json") or {}).get("disabledExtensions", {})
        out.update(n for n in listed if not isinstance(listed, dict) or listed[n])
    return out


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _front_end(host: Host) -> Check:
    if not host.in_kernel:
        return ok("front end", "a terminal")
    if host.people.front_ends:
        return ok("front end", f"{host.people.front_ends} connected")
    if not host.people.is_somebody_there:
        return ok("front end", "none: the notebook runs by itself")
    return Check(
        name="front end", state="note", found="no line to one: outputs are Markdown",
        do="in JupyterLab or Notebook 7: reload the page after the extension is installed",
    )  # fmt: skip


def _widgets() -> Check:
    if importlib.util.find_spec("anywidget") is None:
        return Check(
            name="widgets", state="note", found="anywidget is not installed",
            do='pip install "mastra-nb[notebook]", for %mastra dash and agent.chat()',
        )  # fmt: skip
    return ok("widgets", f"anywidget {version_of('anywidget')}")


def _loop(host: Host) -> Check:
    if hasattr(asyncio, "_nest_patched"):
        return Check(
            name="event loop", state="wrong", found="nest_asyncio has patched it",
            do="restart without nest_asyncio.apply(): interrupts and clicks may be lost",
        )  # fmt: skip
    if not getattr(host.shell, "autoawait", True):
        return Check(
            name="event loop", state="wrong", found="%autoawait is off: %ask blocks the kernel",
            do="%autoawait on",
        )  # fmt: skip
    return ok("event loop", "cells await their runs")


# How it is shown


def bundle(found: list[Check]) -> dict[str, Any]:
    rows = [[MARKS[c.state], c.name, plain(c.found), plain(c.do)] for c in found]
    many = 4 if any(c.do for c in found) else 3
    header = ("", "", "found", "what to do")[:many]
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * many}"]
    lines += [f"| {' | '.join(map(escape, row[:many]))} |" for row in rows]
    width = max(len(c.name) for c in found)
    text = [
        f"{mark} {name:<{width}}  {said}" + (f"\n  {'':<{width}}  → {do}" if do else "")
        for mark, name, said, do in rows
    ]
    end = summary(found)
    return {
        "text/markdown": "\n".join([*lines, "", f"**{escape(end)}**"]),
        "text/plain": "\n".join([*text, end]),
    }
