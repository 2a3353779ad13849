"""%mastra waiting, workflows and graph: what waits for a person, and what a workflow looks like."""

from __future__ import annotations

import time

from mastra_nb import views
from mastra_nb.app import Waiting
from mastra_nb.errors import NotFound, close_matches
from mastra_nb.events import Suspended
from mastra_nb.graphs import text as tree
from mastra_nb.notebook import _live
from mastra_nb.notebook._errors import plain, resumes
from mastra_nb.notebook._host import Host
from mastra_nb.notebook._tables import show_table
from mastra_nb.records import json_text
from mastra_nb.sources import steps_of


async def waiting(host: Host) -> None:
    found = await host.app.find_waiting()
    now = host.services.now()
    asked: dict[str, dict[str, Suspended]] = {}
    for each in found:
        asked.setdefault(each.run, {})[each.path] = Suspended(
            path=each.path, reason=each.reason, schema=each.schema
        )
    answers = {
        (run, path): answer
        for run, pending in asked.items()
        for path, answer in zip(pending, resumes(run, pending), strict=True)
    }
    rows = [
        (
            each.name,
            _where(each.path),
            _asked(each, now),
            _ago(now - each.since),
            answers[each.run, each.path],
        )
        for each in found
    ]
    show_table(
        host, ("of", "where", "what is asked", "since", "answer with"), rows,
        "nothing waits for a person", widest=120,
    )  # fmt: skip


def _where(path: str) -> str:
    """The name of the call that asks, without what tells it from others of that name."""
    return path.rpartition("/")[2].partition("#")[0]


def _asked(each: Waiting, now: float) -> str:
    said = "" if each.payload is None else json_text(each.payload)
    if isinstance(each.payload, dict) and each.reason == "approval":
        said = f"{each.payload.get('tool')}({json_text(each.payload.get('args'))})"
    left = ""
    if each.deadline is not None:
        until = time.strftime("%Y-%m-%d %H:%M", time.localtime(each.deadline))
        left = f" · until {until}" if each.deadline > now else " · its time is over"
    return f"{each.reason}: {said}{left}" if said else f"{each.reason}{left}"


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
            "no workflow has run in this kernel",
            hint=f"%mastra graph {next(iter(known), 'RUN')}; %mastra runs all lists the runs",
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
