"""Traces and logs over REST."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec

from mastra_nb.errors import NotFound
from mastra_nb.events import RunStatus, View, fold
from mastra_nb.server._results import page as flat_page
from mastra_nb.server._results import sliced, trace_ids
from mastra_nb.server._routes import BadRequest, Call, Json, Routes
from mastra_nb.server._spans import light, root_of, spans_of
from mastra_nb.server._turns import iso
from mastra_nb.server.memory import PerPage, paged
from mastra_nb.storage import RunRow, read_run

routes = Routes("Observability")

# How many runs, the newest, are looked through.
_LOOKED_THROUGH = 1000
_OURS: dict[str, tuple[RunStatus, ...]] = {
    "success": ("done",),
    "error": ("failed", "cancelled"),
    "running": ("running", "suspended", "new"),
}
_KINDS = {"agent": "agent", "workflow_run": "workflow", "tool": "tool"}
ENTITIES = {kind: entity for entity, kind in _KINDS.items()}


class Filters(msgspec.Struct, rename="camel"):
    page: int = 0
    per_page: PerPage = 25
    field: str = "startedAt"
    direction: str = "DESC"
    entity_type: str | None = None
    entity_id: str | None = None
    entity_name: str | None = None
    run_id: str | None = None
    thread_id: str | None = None
    resource_id: str | None = None
    trace_id: str | None = None
    status: str | None = None
    started_at: dict[str, Any] | None = None
    request_context: Any = None


async def rows_of(
    call: Call, resource: str | None = None, thread: str | None = None
) -> list[RunRow]:
    store = call.app.store
    if store is None:
        return []
    whose = call.resource if call.resource is not None else resource
    return await store.find_runs(resource=whose, thread=thread, limit=_LOOKED_THROUGH)


async def view_of(call: Call, row: RunRow) -> View:
    assert call.app.store is not None
    return fold(await read_run(call.app.store, row))


async def _matching(call: Call, asked: Filters) -> list[RunRow]:
    if asked.field not in ("startedAt", "endedAt") or asked.direction not in ("ASC", "DESC"):
        issue = {"field": "field", "message": "startedAt or endedAt, ASC or DESC"}
        raise BadRequest("Invalid query parameters", [issue])
    span = asked.started_at or {}
    names = {asked.entity_id, asked.entity_name} - {None}
    found = [
        row
        for row in await rows_of(call, asked.resource_id, asked.thread_id)
        if asked.run_id in (None, row.id)
        and asked.trace_id in (None, trace_ids(row.id)["traceId"])
        and (not names or names == {row.name})
        and (asked.entity_type is None or _KINDS.get(asked.entity_type) == row.kind)
        and (asked.status is None or row.status in _OURS.get(asked.status, ()))
        and within(iso(row.created), span)
    ]
    at = "created" if asked.field == "startedAt" else "updated"
    found.sort(key=lambda r: getattr(r, at), reverse=asked.direction == "DESC")
    return found


def within(at: str, span: Mapping[str, Any]) -> bool:
    first, last = span.get("start", span.get("from")), span.get("end", span.get("to"))
    after = not isinstance(first, str) or at >= first
    return after and (not isinstance(last, str) or at <= last)


def nested(items: list[Json], *, page: int, per_page: int | None, total: int, key: str) -> Json:
    """Mastra's nested form of a page."""
    made = flat_page([], page=page, per_page=per_page, total=total, key="items")
    del made["items"]
    return {"pagination": made, key: items}


async def _roots(call: Call, rows: list[RunRow]) -> list[Json]:
    out = []
    for row in rows:
        root = root_of(spans_of(row, await view_of(call, row)))
        if root is not None:
            out.append(root)
    return out


@routes.get("/observability/traces", query=Filters, response=dict[str, Any])
async def list_traces(call: Call) -> Json:
    """Traces by their first spans, newest first"""
    number, size = paged(call.query.page, call.query.per_page)
    rows = await _matching(call, call.query)
    spans = await _roots(call, sliced(rows, number, size))
    return nested(spans, page=number, per_page=size, total=len(rows), key="spans")


@routes.get("/observability/traces/light", query=Filters, response=dict[str, Any])
async def list_light(call: Call) -> Json:
    """Traces without their long parts"""
    found: Json = await list_traces(call)
    return found | {"spans": [light(span) for span in found["spans"]]}


async def trace_of(call: Call) -> tuple[RunRow, View]:
    """Raises NotFound."""
    id = call.path["traceId"]
    for row in await rows_of(call):
        if trace_ids(row.id)["traceId"] == id:
            return row, await view_of(call, row)
    raise NotFound("Trace not found")


@routes.get("/observability/traces/{traceId}", response=dict[str, Any])
async def get_trace(call: Call) -> Json:
    """All spans of a trace"""
    row, view = await trace_of(call)
    return {"traceId": call.path["traceId"], "spans": [*spans_of(row, view)]}


@routes.get("/observability/traces/{traceId}/light", response=dict[str, Any])
async def get_light(call: Call) -> Json:
    """All spans of a trace without their long parts"""
    found: Json = await get_trace(call)
    return found | {"spans": [light(span) for span in found["spans"]]}


@routes.get("/observability/traces/{traceId}/spans/{spanId}", response=dict[str, Any])
async def get_span(call: Call) -> Json:
    """One span"""
    for span in (await get_trace(call))["spans"]:
        if span["spanId"] == call.path["spanId"]:
            return {"span": span}
    raise NotFound("Span not found")


class BranchQuery(msgspec.Struct):
    depth: Annotated[int, msgspec.Meta(ge=0)] | None = None


@routes.get(
    "/observability/traces/{traceId}/branches/{spanId}", query=BranchQuery, response=dict[str, Any]
)
async def get_branch(call: Call) -> Json:
    """A span with those below it, so many levels deep"""
    row, view = await trace_of(call)
    levels: dict[str, int] = {}
    found = []
    for span in spans_of(row, view):
        id, parent = span["spanId"], span["parentSpanId"]
        if id == call.path["spanId"]:
            levels[id] = 0
        elif parent in levels:
            levels[id] = levels[parent] + 1
        if id in levels and (call.query.depth is None or levels[id] <= call.query.depth):
            found.append(span)
    if not found:
        raise NotFound("Span not found")
    return {"traceId": call.path["traceId"], "spans": found}


# Questions of Studio's page of traces


class TraceQuery(msgspec.Struct, rename="camel"):
    time_range: dict[str, Any] | None = None
    order_by: list[dict[str, Any]] | None = None
    page: dict[str, Any] | None = None
    where: dict[str, Any] | None = None


@routes.post("/observability/traces/query", body=TraceQuery, response=dict[str, Any])
async def query_traces(call: Call) -> Json:
    """Traces that a condition holds for"""
    body = call.body
    about = body.page or {}
    limit, after = about.get("limit", 25), about.get("after")
    first = int(after) if isinstance(after, str) and _CURSOR.fullmatch(after) else 0
    limit = limit if isinstance(limit, int) and 0 < limit <= 200 else 25
    found = [
        row
        for row in await rows_of(call)
        if within(iso(row.created), body.time_range or {}) and _holds(body.where, row)
    ]
    order = (body.order_by or [{}])[0]
    rising = str(order.get("direction", "desc")).lower() == "asc"
    found.sort(key=lambda r: r.created, reverse=not rising)
    shown = []
    for root in await _roots(call, found[first : first + limit]):
        trimmed = light(root)
        item = {key: trimmed[key] for key in _ASKED}
        item |= {"rootSpanId": root["spanId"], "resourceId": root["resourceId"]}
        shown.append(item | {"environment": None, "metadata": root["metadata"]})
    more = str(first + limit) if first + limit < len(found) else None
    return {"traces": shown, "page": {"next": more}}


_CURSOR = re.compile(r"[0-9]{1,9}")
_ASKED = (
    *("traceId", "parentSpanId", "name", "entityId", "entityName", "entityType", "threadId"),
    *("startedAt", "endedAt", "createdAt", "status", "inputPreview"),
)
_FIELDS: dict[str, Callable[[RunRow], str | None]] = {
    "entityType": lambda row: ENTITIES.get(row.kind),
    "entityName": lambda row: row.name,
    "entityId": lambda row: row.name,
    "status": lambda row: next((s for s, ours in _OURS.items() if row.status in ours), None),
    "runId": lambda row: row.id,
    "threadId": lambda row: row.thread,
    "resourceId": lambda row: row.resource,
    "traceId": lambda row: trace_ids(row.id)["traceId"],
}


def _holds(where: Any, row: RunRow, depth: int = 0) -> bool:
    """Raises BadRequest for a condition that is not known here."""
    if where is None or where == {}:
        return True
    if not isinstance(where, Mapping) or depth > 20:
        raise BadRequest("Invalid request body", [{"field": "where", "message": "a condition"}])
    op = where.get("op")
    if op in ("and", "or") and isinstance(where.get("args"), list):
        held = [_holds(each, row, depth + 1) for each in where["args"]]
        return all(held) if op == "and" else any(held)
    if op == "not" and "arg" in where:
        return not _holds(where["arg"], row, depth + 1)
    left, right = where.get("left"), where.get("right")
    path = left.get("path") if isinstance(left, Mapping) else None
    get = _FIELDS.get(path) if isinstance(path, str) else None
    if op in ("eq", "ne", "in") and get is not None and isinstance(right, Mapping):
        value, wanted = get(row), right.get("literal", right.get("literals"))
        if op == "in":
            return isinstance(wanted, list) and value in wanted
        return bool(value == wanted) is (op == "eq")
    raise BadRequest("this condition on traces is not supported", status=501)


_SUGGESTED = ("entityType", "entityName", "entityId", "status")


class FieldsQuery(msgspec.Struct, rename="camel"):
    time_range: dict[str, Any] | None = None
    predicate_scope: Any = None
    limit: int | None = None


@routes.post("/observability/traces/query/fields", body=FieldsQuery, response=dict[str, Any])
async def query_fields(call: Call) -> Json:
    """What traces can be asked for"""
    about = {"valueKind": "string", "operators": ["eq", "ne", "in"]}
    found = [{"path": p, **about, "valueSuggestions": p in _SUGGESTED} for p in _FIELDS]
    return {"canonicalFields": found, "observedFields": [], "observedFieldsTruncated": False}


class ValuesQuery(msgspec.Struct, rename="camel"):
    path: str
    time_range: dict[str, Any] | None = None
    predicate_scope: Any = None
    search: str = ""
    limit: int = 20


@routes.post("/observability/traces/query/values", body=ValuesQuery, response=dict[str, Any])
async def query_values(call: Call) -> Json:
    """The values that a field of traces has, the most frequent first"""
    body: ValuesQuery = call.body
    get = _FIELDS.get(body.path)
    if get is None:
        raise BadRequest("Invalid request body", [{"field": "path", "message": "a field"}])
    if not 0 < body.limit <= 200:
        raise BadRequest("Invalid request body", [{"field": "limit", "message": "1 to 200"}])
    rows = [r for r in await rows_of(call) if within(iso(r.created), body.time_range or {})]
    counted = Counter(value for row in rows if (value := get(row)))
    held = [v for v in counted.most_common() if body.search.lower() in v[0].lower()]
    shown = [{"value": value, "count": count} for value, count in held[: body.limit]]
    return {"values": shown, "valuesTruncated": len(held) > len(shown)}


@routes.get("/observability/discovery/entity-names", response=dict[str, Any])
async def entity_names(call: Call) -> Json:
    """Names of what has run"""
    return {"names": sorted({row.name for row in await rows_of(call)})}


@routes.get("/observability/discovery/entity-types", response=dict[str, Any])
async def entity_types(call: Call) -> Json:
    """Kinds of what has run"""
    found = {ENTITIES[row.kind] for row in await rows_of(call) if row.kind in ENTITIES}
    return {"entityTypes": sorted(found)}


def _no_values(key: str, about: str) -> Any:
    async def none(call: Call) -> Json:
        return {key: []}

    none.__doc__, none.__name__ = about, f"no_{key}"
    return none


for _path, _key, _about in (
    ("environments", "environments", "Environments: they are not told apart"),
    ("tags", "tags", "Tags: there are none"),
):
    routes.get(f"/observability/discovery/{_path}", response=dict[str, Any])(
        _no_values(_key, _about)
    )


@routes.get("/observability/discovery/service-names", response=dict[str, Any])
async def service_names(call: Call) -> Json:
    """Names of services"""
    return {"serviceNames": ["mastra_nb"]}


# Feedback


class FeedbackQuery(msgspec.Struct, rename="camel"):
    page: int = 0
    per_page: PerPage = 25


@routes.get("/observability/feedback", query=FeedbackQuery, response=dict[str, Any])
async def feedback(call: Call) -> Json:
    """Feedback of people: none is kept here"""
    number, size = paged(call.query.page, call.query.per_page)
    return nested([], page=number, per_page=size, total=0, key="feedback")


# Logs


class LogsQuery(msgspec.Struct, rename="camel"):
    transport_id: str | None = None
    log_level: str | None = None
    level: str | None = None
    page: int = 0
    per_page: PerPage = 100


@routes.get("/logs/transports", response=dict[str, Any])
async def log_transports(call: Call) -> Json:
    """Where lines of the log are kept"""
    return {"transports": [] if call.resource is not None else ["memory"]}


def _lines(call: Call) -> list[Any]:
    """The newest first. They belong to nobody: who is bound to a resource sees none."""
    if call.resource is not None:
        return []
    level = call.query.log_level or call.query.level
    return [line for line in reversed(call.live.logs.lines) if level in (None, line.level)]


@routes.get("/logs", query=LogsQuery, response=dict[str, Any])
async def list_logs(call: Call) -> Json:
    """The newest lines of the server's log"""
    number, size = paged(call.query.page, call.query.per_page)
    found = _lines(call)
    shown = [
        {"time": iso(e.at), "level": e.level, "msg": e.message, "name": e.logger}
        for e in sliced(found, number, size)
    ]
    return flat_page(shown, page=number, per_page=size, total=len(found), key="logs")


@routes.get("/logs/{runId}", query=LogsQuery, response=dict[str, Any])
async def logs_of_run(call: Call) -> Json:
    """The lines that name a run"""
    number, size = paged(call.query.page, call.query.per_page)
    found = [line for line in _lines(call) if call.path["runId"] in line.message]
    shown = [
        {"time": iso(e.at), "level": e.level, "msg": e.message, "name": e.logger}
        for e in sliced(found, number, size)
    ]
    return flat_page(shown, page=number, per_page=size, total=len(found), key="logs")


@routes.get("/observability/logs", query=LogsQuery, response=dict[str, Any])
async def observed_logs(call: Call) -> Json:
    """The newest lines of the log, for Studio's page"""
    number, size = paged(call.query.page, call.query.per_page)
    found = _lines(call)
    shown = [
        {
            "logId": str(e.number),
            "timestamp": iso(e.at),
            "level": e.level,
            "message": e.message,
            "data": {"logger": e.logger},
            "traceId": None,
            "spanId": None,
        }
        for e in sliced(found, number, size)
    ]
    return nested(shown, page=number, per_page=size, total=len(found), key="logs")
