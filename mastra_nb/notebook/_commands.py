"""%mastra: what runs here, and how to change it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast, get_args

from mastra_nb import __version__, models
from mastra_nb.catalog import catalog
from mastra_nb.errors import NotFound, UsageError, close_matches
from mastra_nb.events import View
from mastra_nb.messages import Usage
from mastra_nb.notebook import (
    _compare,
    _config,
    _doctor,
    _jobs,
    _kept,
    _keys,
    _live,
    _workflows,
)
from mastra_nb.notebook._errors import plain
from mastra_nb.notebook._host import Host
from mastra_nb.notebook._options import words_of
from mastra_nb.notebook._specs import COMMANDS, MASTRA
from mastra_nb.notebook._tables import show_table
from mastra_nb.rag.stored import local_embedder
from mastra_nb.records import json_text


async def run(host: Host, line: str) -> Any:
    """Raises UsageError for an unknown sub-command."""
    words = words_of(line) or ["status"]
    name, args = words[0], words[1:]
    if name not in COMMANDS:
        raise UsageError(f'%mastra has no "{name}"', hint=close_matches(name, COMMANDS))
    takes, _ = COMMANDS[name]
    most = len(args) if "…" in takes else len(takes.split())
    # What is too much after `key` may be one: it says so itself, and repeats nothing.
    if len(args) > most and name != "key":
        usage = f"%mastra {name} {takes}".rstrip()
        raise UsageError(
            f'%mastra {name} does not know what to do with "{args[most]}"', hint=f"usage: {usage}"
        )
    host.refresh()
    return await _COMMANDS[name](host, *args)


async def _status(host: Host) -> None:
    settings = host.services.settings
    shell = host.shell
    replay = host.replay.mode
    recorder = host.replay.recorder
    if recorder is not None:
        replay_text = (
            f"{replay}: {recorder.replayed} answered from recordings, {recorder.called} asked"
        )
    else:
        replay_text = replay
    rows = [
        ("mastra_nb", __version__),
        ("model", host.model),
        ("store", host.store_name),
        ("embedder", _embedder()),
        ("replay", replay_text),
        ("asked by default", host.default or "assistant"),
        ("agents", ", ".join(host.agents()) or "none"),
        ("waiting", ", ".join(w.run.id for w in host.waiting) or "no run"),
        *([("serving", f"{host.server.url}/api")] if host.server is not None else []),
        ("steps in a run", f"at most {settings.max_steps}"),
        ("Python", sys.version.split()[0]),
        ("IPython", _version("IPython")),
        ("ipykernel", _version("ipykernel") if host.in_kernel else "not in a kernel"),
    ]
    problems = [
        text
        for found, text in (
            (host.warning, host.warning),
            (
                hasattr(asyncio, "_nest_patched"),
                "nest_asyncio has patched this loop: interrupts may be lost",
            ),
            (not getattr(shell, "autoawait", True), "%autoawait is off: %ask blocks the kernel"),
        )
        if found
    ]
    rows += [("problem", text) for text in problems]
    show_table(host, ("", ""), rows, "", widest=400)


def _embedder() -> str:
    """Who makes the vectors where nobody is named."""
    found = local_embedder()
    return found.name if found is not None else 'none: by words → pip install "mastra-nb[local]"'


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


async def _models(host: Host, arg: str = "") -> None:
    if arg:
        await _models_of(host, arg)
        return
    examples = {model.partition("/")[0]: model for _, model in _config.DEFAULT_MODELS}
    default = host.model.partition("/")[0]
    found = await catalog()
    # What can be used first; of the rest what somebody is likely to want.
    found.sort(key=lambda e: (not e.state.ready, e.provider not in examples))
    rows = []
    for entry in found:
        name, state = entry.provider, entry.state
        example = "local" if name == "local" else examples.get(name, f"{name}/…")
        offers = f"; has {_few(state.models)}" if state.models and name != "local" else ""
        if name == default:
            example = host.model
        rows.append((
            "✓" if state.ready else "", example, state.why + offers,
            "default" if name == default else "",
        ))  # fmt: skip
    show_table(host, ("", "model", "why", ""), rows, "no providers", widest=140)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


async def _models_of(host: Host, provider: str) -> None:
    (entry,) = await catalog([provider], ask=True)
    state = entry.state
    if not state.ready or not state.models:
        _live.say(f"{provider}: {state.why}")
        return
    rows = [(f"{provider}/{name}",) for name in state.models]
    show_table(host, (f"{provider}: {state.why}",), rows, "", widest=140)


async def _agents(host: Host) -> None:
    rows = []
    for name, agent in host.agents().items():
        model = agent.model if isinstance(agent.model, str) else getattr(agent.model, "name", None)
        thread, shown = host.thread_of(agent, "")
        memory = shown or ("this kernel" if thread else "none")
        mark = "default" if name == host.default else ""
        rows.append((name, model or host.model, ", ".join(agent.toolset), memory, mark))
    show_table(
        host, ("agent", "model", "tools", "conversation", ""), rows,
        "no agents here; define one with %%agent",
    )  # fmt: skip


async def _runs(host: Host, arg: str = "") -> None:
    if arg:
        await _stored_runs(host, arg)
        return
    rows = [
        (str(n), view.spans[view.root].name, view.status, _question(view), *_used(view.usage))
        for n, view in enumerate(host.views.values(), 1)
        if view.root
    ]
    show_table(
        host, ("run", "of", "status", "input", "tokens", "cost"), rows[-50:],
        "no runs in this kernel yet; %mastra runs all lists the store",
    )  # fmt: skip


async def _stored_runs(host: Host, arg: str) -> None:
    if arg != "all" and not arg.isdecimal():
        raise UsageError(
            f'%mastra runs does not know "{arg}"', hint="%mastra runs, runs all, runs 50"
        )
    found = await host.app.find_runs(limit=20 if arg == "all" else int(arg))
    rows = [
        (
            row.id,
            row.name,
            row.status,
            row.input if isinstance(row.input, str) else _given(row.input),
            row.thread or "",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(row.created)),
        )
        for row in found
    ]
    show_table(
        host, ("run", "of", "status", "input", "thread", "when"), rows,
        "no runs in the store yet",
    )  # fmt: skip


def _question(view: View) -> str:
    root = view.spans[view.root]
    if root.kind != "agent":
        return _given(root.input)
    return next((m.text for _, _, m in view.messages if m.role == "user"), "")


def _given(input: Any) -> str:
    return "" if input is None else json_text(input)


def _used(usage: Usage) -> tuple[str, str]:
    if not usage.calls:
        return "", ""
    return f"{usage.input} / {usage.output}", _money(usage.cost)


def _money(cost: float | None) -> str:
    if cost is None:
        return ""
    return f"${cost:.4f}" if cost else "$0"


async def _run(host: Host, arg: str = "") -> None:
    """`arg` is a number of this kernel's list, an id or its beginning; "last" the newest."""
    arg = "" if arg == "last" else arg
    views = list(host.views.values())
    if not arg or (arg.isdecimal() and 1 <= int(arg) <= len(views)):
        if not views:
            raise NotFound(
                "there is no run in this kernel yet", hint="%mastra runs all lists the store"
            )
        id = views[int(arg or 0) - 1].run
    elif arg.isdecimal():
        raise NotFound(f"there is no run {arg} in this kernel", hint=f"there are {len(views)}")
    else:
        id = arg
    run = await host.load_run(id)
    if host.in_kernel:
        _live.publish(_live.run_bundle(run))
    else:
        _live.say(plain(run.text))


async def _cost(host: Host) -> None:
    rows = [
        (model, str(u.calls), str(u.input), str(u.output), _money(u.cost) or "unknown price")
        for model, u in host.spent.items()
    ]
    if len(rows) > 1:
        total = sum(host.spent.values(), Usage())
        rows.append(("all", str(total.calls), str(total.input), str(total.output),
                     _money(total.cost) or "unknown price"))  # fmt: skip
    show_table(
        host, ("model", "calls", "tokens in", "tokens out", "cost"), rows,
        "no model was called in this kernel yet",
    )  # fmt: skip


async def _replay(host: Host, arg: str = "") -> None:
    modes = get_args(models.ReplayMode)
    if arg and arg not in modes:
        raise UsageError(f'%mastra replay does not know "{arg}"', hint=close_matches(arg, modes))
    if arg:
        host.set_replay(cast(models.ReplayMode, arg))
    about = {
        "off": "models are called, nothing is recorded",
        "record": "models are called, and what they say is kept",
        "auto": "what was recorded is replayed, the rest is called and kept",
        "only": "what was recorded is replayed, no model is called",
    }
    mode = host.replay.mode
    _live.say(f"replay {mode} · {about[mode]}")


async def _default(host: Host, arg: str = "") -> None:
    if arg:
        host.find_agent(arg, host.names())
        host.default = arg
    _live.say(f"%ask without a name asks {host.default or 'assistant'}")


async def _batch(host: Host, *words: str) -> None:
    # Most notebooks run no other.
    from mastra_nb.notebook._batch import batch

    await batch(host, *words)


async def _serve(host: Host, *words: str) -> None:
    from mastra_nb.notebook._serve import serve

    await serve(host, *words)


async def _dash(host: Host) -> None:
    from IPython.display import display

    # Widgets take a while to import.
    from mastra_nb.notebook.dashboard import dashboard

    display(dashboard(host.app))  # type: ignore[no-untyped-call]


async def _help(host: Host) -> None:
    from mastra_nb.notebook._specs import SPECS

    lines = [f"{s.usage[0].split()[0]:<10}{s.summary}" for s in SPECS.values()]
    _live.say("\n".join([*lines, "", MASTRA.body, "", "%%ask? explains one of them"]))


_COMMANDS: dict[str, Callable[..., Awaitable[None]]] = {
    "status": _status,
    "models": _models,
    "agents": _agents,
    "runs": _runs,
    "run": _run,
    "trace": _compare.trace,
    "diff": _compare.diff,
    "waiting": _workflows.waiting,
    "workflows": _workflows.workflows,
    "graph": _workflows.graph,
    "batch": _batch,
    "threads": _kept.threads,
    "memory": _kept.memory,
    "index": _kept.index,
    "cost": _cost,
    "replay": _replay,
    "jobs": _jobs.jobs,
    "join": _jobs.join,
    "default": _default,
    "key": _keys.key,
    "doctor": _doctor.doctor,
    "dash": _dash,
    "serve": _serve,
    "help": _help,
}
