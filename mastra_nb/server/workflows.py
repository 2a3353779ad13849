"""Workflows and their runs over REST."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from starlette.responses import Response

from mastra_nb.errors import Conflict, NotFound, SchemaError
from mastra_nb.events import Resumed, RunStatus, fold
from mastra_nb.runs import Run
from mastra_nb.server import _results
from mastra_nb.server._asking import new_id, valid_id
from mastra_nb.server._routes import BadRequest, Call, Json, Routes, request_context
from mastra_nb.server._streams import chunks, chunks_from, gathered, records, wire_of
from mastra_nb.server._turns import iso
from mastra_nb.server._words import json_schema, seconds
from mastra_nb.server.workflow_wire import STATUS, step_id
from mastra_nb.storage import RunRow, Store, read_run
from mastra_nb.workflow_runs import WorkflowRun
from mastra_nb.workflows import Workflow

routes = Routes("Workflows")

# How many runs that wait are looked through for what they ask.
_ASKING = 5


class Lists(msgspec.Struct, rename="camel"):
    partial: bool = False
    request_context: Any = None


class RunQuery(msgspec.Struct, rename="camel"):
    run_id: str | None = None


class ObserveQuery(msgspec.Struct, rename="camel"):
    run_id: str
    offset: int = 0


class CreateBody(msgspec.Struct, rename="camel"):
    resource_id: str | None = None
    disable_scorers: bool | None = None


class StartBody(msgspec.Struct, rename="camel"):
    input_data: Any = None
    initial_state: dict[str, Any] | None = None
    request_context: dict[str, Any] | None = None
    resource_id: str | None = None
    close_on_suspend: bool | None = None


class ResumeBody(msgspec.Struct, rename="camel"):
    step: str | list[str] | None = None
    resume_data: Any = None
    for_each_index: int | None = None
    request_context: dict[str, Any] | None = None


class TravelBody(msgspec.Struct, rename="camel"):
    step: str | list[str]
    input_data: Any = msgspec.UNSET
    initial_state: dict[str, Any] | None = None
    resume_data: Any = None
    context: dict[str, Any] | None = None
    request_context: dict[str, Any] | None = None


def workflow_of(call: Call) -> Workflow[Any]:
    found = call.app.workflows.get(call.path["workflowId"])
    if found is None:
        raise NotFound("Workflow not found")
    return found


# What they are


@routes.get("/workflows", query=Lists, response=dict[str, Any])
async def list_workflows(call: Call) -> Json:
    """All workflows, by id"""
    found = call.app.workflows.values()
    return {w.name: _results.workflow_json(w, partial=call.query.partial) for w in found}


@routes.get("/workflows/run-counts", response=dict[str, Any])
async def run_counts(call: Call) -> Json:
    """How many runs of each workflow are on their way, and wait"""
    out: Json = {}
    for name in call.app.workflows:
        counts = {}
        for ours in ("running", "suspended"):
            rows = await _rows(call, name, status=ours) if call.app.store is not None else []
            counts[ours] = len(rows)
        out[name] = counts
    return out


@routes.get("/workflows/{workflowId}", query=Lists, response=dict[str, Any])
async def get_workflow(call: Call) -> Json:
    """One workflow"""
    workflow = workflow_of(call)
    out = _results.workflow_json(workflow, partial=call.query.partial)
    for id, schema in (await _asked(call, workflow.name)).items():
        for steps in (out["steps"], out["allSteps"]):
            if id in steps:
                steps[id] = {**steps[id], "resumeSchema": json_schema(schema)}
    return out


async def _asked(call: Call, name: str) -> dict[str, Json]:
    """What answers must look like, by step: a step says so when it asks, so of the runs that wait
    the newest know.
    """
    found: dict[str, Json] = {}
    store = call.app.store
    rows = await _rows(call, name, status="suspended") if store is not None else []
    for row in rows[:_ASKING]:
        assert store is not None
        view = fold(await read_run(store, row))
        for path, waits in view.pending.items():
            if waits.schema:
                found.setdefault(step_id(path.partition("~")[0], view.root), waits.schema)
    return found


# Beginning


@routes.post(
    "/workflows/{workflowId}/create-run",
    body=CreateBody,
    query=RunQuery,
    response=dict[str, Any],
    optional=True,
)
async def create_run(call: Call) -> Json:
    """The id of a run that is going to begin"""
    workflow = workflow_of(call)
    id = await _wanted_id(call, workflow, call.query.run_id)
    known = call.live.announced(id, workflow.name)
    call.live.announce(id, workflow.name, call.owner(call.body.resource_id or known))
    return {"runId": id}


async def _wanted_id(call: Call, workflow: Workflow[Any], id: str | None) -> str:
    """Raises NotFound for the id of somebody else's run."""
    if id is None:
        return new_id()
    if not valid_id(id):
        issue = {"field": "runId", "message": "1 to 200 characters without white space"}
        raise BadRequest("Invalid query parameters", [issue])
    try:
        await _run(call, workflow, id)
    except NotFound:
        announced = call.live.announced(id, workflow.name)
        taken = announced is not None and call.resource not in (None, announced)
        store = call.app.store
        if taken or (store is not None and await store.get_run(id) is not None):
            raise
    return id


async def _run(call: Call, workflow: Workflow[Any], id: str) -> WorkflowRun[Any]:
    found = await call.live.find(id, name=workflow.name, kind="workflow", resource=call.resource)
    assert isinstance(found, WorkflowRun)
    return found


async def _begun(call: Call) -> Run[Any]:
    """A run that begins, or the one of that id: clients send again what had no answer."""
    workflow, body = workflow_of(call), call.body
    id = await _wanted_id(call, workflow, call.query.run_id)
    try:
        return await _run(call, workflow, id)
    except NotFound:
        pass
    input = body.input_data
    _check_input(workflow, input)
    announced = call.live.announced(id, workflow.name)
    run = workflow.run(
        input,
        resource=call.owner(body.resource_id or announced),
        state=body.initial_state,
        request_context=request_context(body.request_context or {}) or None,
        id=id,
    )
    return call.live.start(run)


def _check_input(workflow: Workflow[Any], input: Any) -> None:
    """As Mastra refuses it: before the run begins."""
    try:
        workflow.check_input(input)
    except SchemaError as error:
        raise BadRequest(f"Invalid input data: \n- {error.message}") from None


async def _result(run: Run[Any]) -> Json:
    return _results.workflow_result(run, await gathered(run))


@routes.post(
    "/workflows/{workflowId}/start-async",
    body=StartBody,
    query=RunQuery,
    response=dict[str, Any],
    optional=True,
)
async def start_async(call: Call) -> Json:
    """Run a workflow and answer when it rests"""
    return await _result(await _begun(call))


@routes.post(
    "/workflows/{workflowId}/execute",
    body=StartBody,
    query=RunQuery,
    response=dict[str, Any],
    optional=True,
)
async def execute(call: Call) -> Json:
    """Run a workflow and answer when it rests: another name of start-async"""
    return await _result(await _begun(call))


@routes.post(
    "/workflows/{workflowId}/start",
    body=StartBody,
    query=RunQuery,
    response=dict[str, Any],
    optional=True,
)
async def start(call: Call) -> Json:
    """Begin a run and answer at once"""
    run = await _begun(call)
    return {"message": "Workflow run started", "runId": run.id}


@routes.post(
    "/workflows/{workflowId}/stream",
    body=StartBody,
    query=RunQuery,
    produces="records",
    optional=True,
)
async def stream(call: Call) -> Response:
    """Run a workflow and answer with its chunks"""
    return records(chunks(await _begun(call)))


@routes.post("/workflows/{workflowId}/observe", query=ObserveQuery, produces="records")
async def observe(call: Call) -> Response:
    """What a run has said from its beginning, or but for so many chunks, and goes on to say"""
    if call.query.offset < 0:
        raise BadRequest("Invalid query parameters", [{"field": "offset", "message": "0 or more"}])
    run = await _run(call, workflow_of(call), call.query.run_id)
    return records(chunks_from(call.live.as_driven(run), call.query.offset))


# Going on


class KnownRun(msgspec.Struct, rename="camel"):
    run_id: str


async def _resumed(call: Call) -> tuple[Run[Any], int]:
    """A run that goes on with an answer, and the event from which it does. The same answer again
    is the same run.
    """
    workflow, body = workflow_of(call), call.body
    run = await _run(call, workflow, call.query.run_id)
    step = ".".join(body.step) if isinstance(body.step, list) else body.step
    if not run.rests or run.status != "suspended":
        for n, event in enumerate(run.log.events):
            data = event.data
            if isinstance(data, Resumed) and data.value == body.resume_data:
                return run, n
        raise Conflict("This workflow run was not suspended")
    path = _waits_at(run, step, body.for_each_index)
    after = len(run.log.events)
    return call.live.start(run.resume(body.resume_data, path=path)), after


def _waits_at(run: Run[Any], step: str | None, index: int | None) -> str | None:
    """The path of the question that a step's id names. Raises BadRequest."""
    if step is None and index is None:
        return None
    found = []
    for path in run.pending:
        place = path.partition("~")[0]
        id = step_id(place, run.view.root)
        item = f"[{index}]" if index is not None else ""
        if step in (None, id, id.rpartition(".")[2], place) and place.endswith(item):
            found.append(path)
    if not found:
        known = ", ".join(
            sorted({step_id(p.partition("~")[0], run.view.root) for p in run.pending})
        )
        raise BadRequest(f'step "{step}" of this run does not wait; it waits at: {known}')
    return found[0]


@routes.post(
    "/workflows/{workflowId}/resume-async",
    body=ResumeBody,
    query=KnownRun,
    response=dict[str, Any],
)
async def resume_async(call: Call) -> Json:
    """Answer what a run waits for, and get its result"""
    run, _ = await _resumed(call)
    return await _result(run)


@routes.post(
    "/workflows/{workflowId}/resume", body=ResumeBody, query=KnownRun, response=dict[str, Any]
)
async def resume(call: Call) -> Json:
    """Answer what a run waits for"""
    await _resumed(call)
    return {"message": "Workflow run resumed"}


@routes.post(
    "/workflows/{workflowId}/resume-no-wait",
    body=ResumeBody,
    query=KnownRun,
    response=dict[str, Any],
)
async def resume_no_wait(call: Call) -> Json:
    """Answer what a run waits for, and get its id"""
    run, _ = await _resumed(call)
    return {"runId": run.id}


@routes.post(
    "/workflows/{workflowId}/resume-stream", body=ResumeBody, query=KnownRun, produces="records"
)
async def resume_stream(call: Call) -> Response:
    """Answer what a run waits for, and get what follows"""
    run, after = await _resumed(call)
    return records(chunks(run, after=after))


async def _travelled(call: Call) -> tuple[Run[Any], int]:
    """A new run that goes on before a step of the old one, which stays as it is."""
    workflow, body = workflow_of(call), call.body
    run = await _run(call, workflow, call.query.run_id)
    step = "/".join(body.step) if isinstance(body.step, list) else body.step.replace(".", "/")
    options: Json = {}
    if body.input_data is not msgspec.UNSET:
        options["input"] = body.input_data
    if body.initial_state:
        options["state"] = body.initial_state
    outputs = {
        id: found["output"]
        for id, found in (body.context or {}).items()
        if isinstance(found, Mapping) and "output" in found
    }
    if outputs:
        options["outputs"] = outputs
    made = run.fork(step, **options)
    return call.live.start(made), len(made.log.events)


@routes.post(
    "/workflows/{workflowId}/time-travel",
    body=TravelBody,
    query=KnownRun,
    response=dict[str, Any],
)
async def time_travel(call: Call) -> Json:
    """Go on from a step of a run, in a run of its own"""
    run, _ = await _travelled(call)
    return {"message": "Workflow run time travel started", "runId": run.id}


@routes.post(
    "/workflows/{workflowId}/time-travel-async",
    body=TravelBody,
    query=KnownRun,
    response=dict[str, Any],
)
async def time_travel_async(call: Call) -> Json:
    """Go on from a step of a run, and get the result"""
    run, _ = await _travelled(call)
    return await _result(run)


@routes.post(
    "/workflows/{workflowId}/time-travel-stream",
    body=TravelBody,
    query=KnownRun,
    produces="records",
)
async def time_travel_stream(call: Call) -> Response:
    """Go on from a step of a run, and get its chunks"""
    run, after = await _travelled(call)
    return records(chunks(run, after=after))


async def _restarted(call: Call) -> Run[Any]:
    """A run that was cut off, taken up. Raises Conflict for one that was not."""
    run = await _run(call, workflow_of(call), call.query.run_id)
    if not run.rests or run.status != "running":
        raise Conflict("This workflow run was not active")
    return call.live.start(run.resume())


@routes.post("/workflows/{workflowId}/restart", query=KnownRun, response=dict[str, Any])
async def restart(call: Call) -> Json:
    """Take up a run that was cut off"""
    await _restarted(call)
    return {"message": "Workflow run restarted"}


@routes.post("/workflows/{workflowId}/restart-async", query=KnownRun, response=dict[str, Any])
async def restart_async(call: Call) -> Json:
    """Take up a run that was cut off, and get its result"""
    return await _result(await _restarted(call))


# Runs as they are kept


class RunsQuery(msgspec.Struct, rename="camel"):
    page: int | None = None
    per_page: int | bool | None = None
    limit: int | None = None
    offset: int | None = None
    from_date: datetime | None = None
    to_date: datetime | None = None
    resource_id: str | None = None
    status: str | None = None


_OURS: dict[str, RunStatus] = {theirs: ours for ours, theirs in STATUS.items()}
_MOST = 1000


async def _rows(
    call: Call, name: str, *, status: Any = None, resource: str | None = None
) -> list[RunRow]:
    store = call.app.store
    assert store is not None
    whose = call.resource if call.resource is not None else resource
    rows = await store.find_runs(name=name, status=status, resource=whose, limit=_MOST)
    return [row for row in rows if row.kind == "workflow"]


@routes.get("/workflows/{workflowId}/runs", query=RunsQuery, response=dict[str, Any])
async def list_runs(call: Call) -> Json:
    """The runs of a workflow, newest first"""
    workflow, asked, store = workflow_of(call), call.query, call.app.store
    offset, limit = _page(asked)
    if store is None:
        return {"runs": [], "total": 0}
    status = None
    if asked.status is not None:
        status = _OURS.get(asked.status)
        if status is None:
            return {"runs": [], "total": 0}
    rows = await _rows(call, workflow.name, status=status, resource=asked.resource_id)
    first = None if asked.from_date is None else seconds(asked.from_date)
    last = None if asked.to_date is None else seconds(asked.to_date)
    rows = [r for r in rows if (first or 0) <= r.created <= (last or float("inf"))]
    shown = rows[offset:] if limit is None else rows[offset : offset + limit]
    return {
        "runs": [await _listed(store, row) for row in shown],
        "total": len(rows),
    }


def _page(asked: RunsQuery) -> tuple[int, int | None]:
    size = asked.limit if asked.limit is not None else asked.per_page
    limit = None if size is None or isinstance(size, bool) else size
    offset = asked.offset if asked.offset is not None else (asked.page or 0) * (limit or 0)
    if offset < 0 or (limit is not None and limit < 0):
        raise BadRequest("Invalid query parameters", [{"field": "page", "message": "0 or more"}])
    return offset, limit


async def _listed(store: Store, row: RunRow) -> Json:
    view = fold(await read_run(store, row))
    root = view.spans.get(view.root)
    snapshot: Json = {"status": STATUS[row.status], "runId": row.id, "value": {}, "context": {}}
    snapshot |= {"input": row.input, "result": None if root is None else root.output}
    return {
        "workflowName": row.name,
        "runId": row.id,
        "snapshot": snapshot,
        "resourceId": row.resource,
        "createdAt": iso(row.created),
        "updatedAt": iso(row.updated),
    }


class OneRun(msgspec.Struct, rename="camel"):
    fields: str | None = None
    with_nested_workflows: bool | None = None


@routes.get("/workflows/{workflowId}/runs/{runId}", query=OneRun, response=dict[str, Any])
async def get_run(call: Call) -> Json:
    """One run"""
    workflow = workflow_of(call)
    run = await _run(call, workflow, call.path["runId"])
    said = await _so_far(run)
    store = call.app.store
    row = await store.get_run(run.id) if store is not None else None
    out = _results.run_json(row, run, said, workflow.outline)
    if call.query.with_nested_workflows is False:
        out["steps"] = {id: step for id, step in out["steps"].items() if "." not in id}
    if call.query.fields:
        kept = {f.strip() for f in call.query.fields.split(",")}
        always = {"runId", "workflowName", "resourceId", "createdAt", "updatedAt", "status"}
        out = {k: v for k, v in out.items() if k in kept | always}
    return out


async def _so_far(run: Run[Any]) -> Any:
    if run.rests:
        return await gathered(run)
    return wire_of(run).skip(run.log.events).root


@routes.post("/workflows/{workflowId}/runs/{runId}/cancel", response=dict[str, Any])
async def cancel_run(call: Call) -> Json:
    """Stop a run"""
    workflow, id = workflow_of(call), call.path["runId"]
    run = await _run(call, workflow, id)
    run.cancel()
    with contextlib.suppress(Exception):
        await run  # its outcome, whatever that is, is in the store then
    return {"message": "Workflow run cancelled"}


@routes.delete("/workflows/{workflowId}/runs/{runId}", response=dict[str, Any])
async def delete_run(call: Call) -> Json:
    """Delete a run that rests"""
    run = await _run(call, workflow_of(call), call.path["runId"])
    if not run.rests or run.status == "running":
        raise Conflict("the run is on its way", hint="cancel it first")
    await call.live.forget(run)
    return {"message": "Workflow run deleted"}
