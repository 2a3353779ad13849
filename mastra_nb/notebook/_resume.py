"""%resume: a run that waits, failed or was stopped goes on."""

from __future__ import annotations

import re
from functools import partial

import msgspec

from mastra_nb.answers import go_on
from mastra_nb.errors import NotResumable
from mastra_nb.notebook._ask import Asked, show_run
from mastra_nb.notebook._host import Host, Waiting
from mastra_nb.notebook._options import parse_line
from mastra_nb.notebook._specs import RESUME
from mastra_nb.workflow_runs import WorkflowRun

_RUN_ID = re.compile(r"r_[0-9a-zA-Z]*")


async def prepare(host: Host, line: str, *, value: bool) -> Asked:
    host.refresh()
    parsed = parse_line(RESUME, line, is_name=lambda word: _RUN_ID.fullmatch(word) is not None)
    id = parsed.words[0] if parsed.words else ""
    waiting = await find_waiting(host, id, answered=bool(parsed.rest.strip()))
    run = waiting.run
    resumed = go_on(run, parsed.rest, at=parsed.get("at", ""), now=host.services.now())
    return Asked(
        run=resumed,
        bundle=partial(show_run, host, host.named_thread(resumed.thread), "md"),
        out=parsed.get("out", "") or waiting.out,
        call=waiting.call,
        given=value or bool(parsed.get("out", "") or waiting.out),
    )


async def find_waiting(host: Host, id: str, *, answered: bool) -> Waiting:
    """The run that is meant; without an id and an answer also one that failed or was stopped."""
    for broken in reversed(host.broken):
        if broken.run.id.startswith(id) and (id or not answered):
            return await _current(host, broken)
    for waiting in reversed(host.waiting):
        if waiting.run.id.startswith(id) and (id or waiting.run.status == "suspended"):
            return await _current(host, waiting)
    if not id:
        store = host.services.store
        rows = await store.find_runs(status="suspended", limit=1) if store is not None else []
        if not rows:
            hint = "%mastra runs lists the runs"
            if host.broken:
                hint = f'%resume without an answer tries "{host.broken[-1].run.name}" again'
            raise NotResumable("no run waits for an answer", hint=hint)
        id = rows[0].id
    return Waiting(run=await host.load_run(id), out="", call="")


async def _current(host: Host, waiting: Waiting) -> Waiting:
    """With the workflow as it is defined now: its cell may have run again since."""
    run = waiting.run
    now = host.workflow_named(run.name) if isinstance(run, WorkflowRun) else None
    if now is None or now is run.target or host.services.store is None:
        return waiting
    log = run.log
    loaded = await host.load_run(run.id, deps=log.deps, limits=log.meter.limits)
    return msgspec.structs.replace(waiting, run=loaded)
