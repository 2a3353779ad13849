"""%mastra waiting, workflows and graph: what waits for a person, and what a workflow looks like."""

from __future__ import annotations

import time
from typing import Any

from mastra_nb import views
from mastra_nb.app import Waiting
from mastra_nb.errors import NotFound, close_matches
from mastra_nb.graphs import text as tree
from mastra_nb.notebook import _live
from mastra_nb.notebook._errors import plain
from mastra_nb.notebook._host import Host
from mastra_nb.notebook._tables import show_table
from mastra_nb.records import json_text


async def waiting(host: Host) -> None:
    found = await host.app.find_waiting()
    now = host.services.now()
    rows = [
        (
            each.run,
            each.name,
            each.path.rpartition("/")[2],
            _asked(each),
            _ago(now - each.since),
            _answer(each),
        )
        for each in found
    ]
    show_table(
        host, ("run", "of", "where", "what is asked", "since", "answer with"), rows,
        "nothing waits for a person", widest=120,
    )  # fmt: skip


def _asked(each: Waiting) -> str:
    said = "" if each.payload is None else json_text(each.payload)
    if isinstance(each.payload, dict) and each.reason == "approval":
        said = f"{each.payload.get('tool')}({json_text(each.payload.get('args'))})"
    left = ""
    if each.deadline is not None:
        until = time.strftime("%Y-%m-%d %H:%M", time.localtime(each.deadline))
        left = f" · until {until}"
    return f"{each.reason}: {said}{left}" if said else f"{each.reason}{left}"


def _answer(each: Waiting) -> str:
    at = f" --at {each.path.rpartition('/')[2]}"
    answer = "approve" if each.reason == "approval" else _form(each.schema)
    return f"%resume {each.run}{at} {answer}"


def _form(schema: dict[str, Any] | None) -> str:
    """The shape of the answer, for somebody to fill in."""
    kind = (schema or {}).get("type")
    if kind == "object":
        fields = (schema or {}).get("properties", {})
        return "{" + ", ".join(f'"{name}": …' for name in fields) + "}"
    return {"boolean": "true", "string": '"…"', "integer": "1", "number": "1"}.get(str(kind), "{…}")


def _ago(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


async def workflows(host: Host) -> None:
    rows = []
    for name, workflow in host.workflows().items():
        steps = ", ".join(steps_of(workflow.outline["nodes"])) or "a body"
        rows.append((name, steps, workflow.description.split("\n", 1)[0]))
    show_table(
        host, ("workflow", "steps", ""), rows,
        "no workflows here; define one with Workflow(name=...) or %%workflow", widest=100,
    )  # fmt: skip


def steps_of(nodes: list[dict[str, Any]]) -> list[str]:
    """The ids of the steps of an outline, each once."""
    out: list[str] = []
    for node in nodes:
        if node["type"] in ("parallel", "branch", "loop", "foreach", "graph"):
            inner = list(node.get("nodes", ()))
            for arm in node.get("arms", ()):
                inner += arm["nodes"] if isinstance(arm, dict) else arm
            out += steps_of(inner)
        else:
            out.append(node["id"])
    return list(dict.fromkeys(out))


async def graph(host: Host, arg: str = "") -> None:
    """Of a workflow, or of a run as it has come to be; without a name of the newest run."""
    known = host.workflows()
    if arg in known:
        outline = known[arg].outline
        if host.in_kernel:
            _live.publish(views.outline_bundle(outline))
        else:
            _live.say(plain(tree(outline)))
        return
    id = arg or _newest(host)
    if not id:
        raise NotFound(
            "no workflow has run in this kernel", hint=close_matches("", known) or "%mastra help"
        )
    try:
        run = await host.load_run(id)
    except NotFound:
        raise NotFound(
            f'there is no workflow "{arg}", and no run', hint=close_matches(arg, known)
        ) from None
    if host.in_kernel:
        _live.publish(_live.run_bundle(run))
    else:
        _live.say(plain(views.text(views.record(run.view))))


def _newest(host: Host) -> str:
    """The id of this kernel's newest run of a workflow."""
    for view in reversed(host.views.values()):
        root = view.spans.get(view.root)
        if root is not None and root.kind == "workflow":
            return view.run
    return ""
