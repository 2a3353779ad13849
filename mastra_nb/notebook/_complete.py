"""Completion in any front end: agents, options and their values, variables inside {{ }}."""

from __future__ import annotations

import os
import re
from typing import Any

from mastra_nb import plugins, portal
from mastra_nb.memory.memory import Memory
from mastra_nb.notebook import _kept
from mastra_nb.notebook._config import DEFAULT_MODELS
from mastra_nb.notebook._context import SPECIALS
from mastra_nb.notebook._host import Host
from mastra_nb.notebook._options import Option, Spec
from mastra_nb.notebook._specs import COMMANDS, MEMORY_PARTS, SPECS
from mastra_nb.notebook._templates import variables
from mastra_nb.notebook._values import _may_be_tool

_HEAD = re.compile(r"(?:^|=\s*)\s*(%{1,2})(\w+)(?:\s+(.*))?$", re.DOTALL)
_EXPRESSION = re.compile(r"\{\{((?:(?!\}\}).)*)$", re.DOTALL)
_AT = re.compile(r"(?<![\w@.`/\\])@([^\W\d]\w*|)$")
_NAME = re.compile(r"[A-Za-z_]\w*$")
_REPLAY = ("record", "auto", "only", "off")


def complete(host: Host, text: str, line: str) -> tuple[str, list[str]] | None:
    """(fragment, names that may replace it) for `text` before the cursor, whose last line is
    `line`; None where we have nothing to say.
    """
    first = text.split("\n", 1)[0]
    cell = first.lstrip().startswith(("%%ask", "%%agent"))
    inline = _HEAD.search(line) if "%" in line else None
    if (cell or inline) and (inside := _EXPRESSION.search(text)) is not None:
        found = _NAME.search(inside[1])
        if found is None and inside[1].strip():
            return None
        if found is not None and inside[1][: found.start()].rstrip().endswith((".", "|")):
            return None
        fragment = found[0] if found else ""
        return fragment, _starting(fragment, variables(host.names()))
    asks = first.lstrip().startswith("%%ask") or (inline is not None and inline[2] == "ask")
    if asks and (at := _AT.search(text)) is not None:
        return at[1], _starting(at[1], [*variables(host.names()), *SPECIALS])
    if inline is None or (inline[1] == "%%" and "\n" in text):
        return None
    spec = SPECS.get(inline[2])
    if spec is None or inline[3] is None:
        return None
    before, _, fragment = inline[3].rpartition(" ")
    return _in_line(host, spec, before.split(), fragment)


def _in_line(
    host: Host, spec: Spec, before: list[str], fragment: str
) -> tuple[str, list[str]] | None:
    if spec.name == "mastra":
        return _in_mastra(host, before, fragment)
    if "--" in before:
        return None
    if fragment.startswith("-"):
        return fragment, _starting(fragment, [o.long for o in spec.options])
    last = before[-1] if before else ""
    valued = (o for o in spec.options if o.metavar)
    option = next((o for o in valued if last and last in (o.long, o.short)), None)
    if option is not None:
        head, comma, tail = fragment.rpartition(",")
        known = _places(host, before) if option.complete == "place" else _values_of(host, option)
        values = _starting(tail, known)
        return fragment, [f"{head}{comma}{v}" for v in values]
    if spec.name == "ask" and not [w for w in before if not w.startswith("-")]:
        return fragment, _starting(fragment, sorted(host.agents()))
    if spec.name == "resume":
        given = [word for word in before if word.startswith("r_")]
        ids = [] if given else _resumable(host)
        return fragment, _starting(fragment, [*ids, "approve", "deny"])
    return None


def _in_mastra(host: Host, before: list[str], fragment: str) -> tuple[str, list[str]] | None:
    if not before:
        return fragment, _starting(fragment, list(COMMANDS))
    if before == ["index"]:
        return fragment, _starting(fragment, ["ingest", *portal.run(_kept.names(host))])
    if before == ["index", "ingest"]:
        return fragment, _starting(fragment, portal.run(_kept.names(host)))
    if before[:2] == ["index", "ingest"]:
        return fragment, _paths(fragment)
    if before == ["memory"]:
        found = portal.run(host.app.find_threads())
        known = [*sorted(host.agents()), *(t.id for t in found), *(t.resource for t in found)]
        return fragment, _starting(fragment, [name for name in known if name])
    if before[0] == "diff" and len(before) < 3:
        return fragment, _starting(fragment, ["last", "last~1", *host.views])
    if len(before) > 1:
        return None
    known = {
        "replay": list(_REPLAY),
        "default": sorted(host.agents()),
        "runs": ["all"],
        "run": list(host.views),
        "key": list(plugins.providers.names()),
        "doctor": ["--offline"],
        "join": ["all", *(n for j in host.jobs for n in (j.out, j.run and j.run.id) if n)],
        "trace": ["last", *host.views],
        "graph": [*host.workflows(), *host.views],
    }.get(before[0], [])
    return fragment, _starting(fragment, known)


def _resumable(host: Host) -> list[str]:
    """Ids of the runs that wait, in any kernel, and of the one that broke in this one."""
    store = host.services.store
    waiting = portal.run(store.find_runs(status="suspended", limit=20)) if store is not None else []
    own = [w.run.id for w in reversed([*host.waiting, *host.broken])]
    return [*own, *(row.id for row in waiting)]


def _places(host: Host, before: list[str]) -> list[str]:
    """Where the run waits that the line names, or the one that would be meant."""
    named = next((word for word in before if word.startswith("r_")), "")
    found = portal.run(host.app.find_waiting(limit=20))
    run = named or (host.waiting[-1].run.id if host.waiting else found[0].run if found else "")
    paths = [each.path.rpartition("/")[2] for each in found if each.run.startswith(run)]
    names = [path.partition("[")[0].partition("#")[0] for path in paths]
    return [n if names.count(n) == 1 else p for n, p in zip(names, paths, strict=True)]


def _paths(fragment: str) -> list[str]:
    folder, name = os.path.split(fragment)
    try:
        found = sorted(os.scandir(folder or "."), key=lambda entry: entry.name)
    except OSError:
        return []
    start = f"{folder.rstrip('/')}/" if folder else ""
    return [
        f"{start}{entry.name}{'/' if entry.is_dir() else ''}"
        for entry in found
        if entry.name.startswith(name) and not entry.name.startswith(".")
    ]


def _values_of(host: Host, option: Option) -> list[str]:
    names = host.names()
    mine = variables(names)
    if option.choices:
        return list(option.choices)
    if option.complete == "model":
        listed = {"local", *(m for _, m in DEFAULT_MODELS)}
        providers = {f"{p}/" for p in plugins.providers.names() if p != "local"}
        return sorted(listed | providers) + [n for n in mine if hasattr(names[n], "invoke")]
    if option.complete == "tool":
        stored = portal.run(_kept.names(host))
        return sorted({*host.app.tools, *stored, *(n for n in mine if _may_be_tool(names[n]))})
    if option.complete == "type":
        return [n for n in mine if isinstance(names[n], type)]
    if option.complete == "variable":
        return mine
    if option.complete == "memory":
        return ["on", "off", *MEMORY_PARTS, *(n for n in mine if isinstance(names[n], Memory))]
    if option.complete == "embedder":
        return ["local", *(n for n in mine if hasattr(names[n], "embed"))]
    if option.complete == "thread":
        return [t.id for t in portal.run(host.app.find_threads())]
    return []


def _starting(fragment: str, names: list[str]) -> list[str]:
    return [n for n in dict.fromkeys(names) if n.startswith(fragment)]


def matcher(host: Host) -> Any:
    """What IPython's completer calls; it answers alone where a magic of ours is typed."""
    from IPython.core import completer

    decorate: Any = completer.context_matcher

    def mastra_nb_matcher(context: Any) -> Any:
        lines = context.full_text.split("\n")
        line = lines[context.cursor_line][: context.cursor_position]
        text = "\n".join([*lines[: context.cursor_line], line])
        found = complete(host, text, line)
        if found is None:
            return {"completions": [], "suppress": False}
        fragment, names = found
        return {
            "completions": [completer.SimpleCompletion(text=name, type="magic") for name in names],
            "matched_fragment": fragment,
            "suppress": bool(names),
            "ordered": True,
        }

    return decorate(identifier="mastra_nb", priority=100)(mastra_nb_matcher)
