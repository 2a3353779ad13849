"""Runs as Mastra's traces: a run is a trace, its spans are spans of that."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mastra_nb.events import Span, View
from mastra_nb.server._results import trace_ids
from mastra_nb.server._routes import Json
from mastra_nb.server._turns import iso
from mastra_nb.server._words import text_of, usage_of
from mastra_nb.storage import RunRow

_TYPES = {
    "agent": ("agent_run", "agent"),
    "workflow": ("workflow_run", "workflow_run"),
    "model": ("model_generation", None),
    "tool": ("tool_call", "tool"),
    "step": ("workflow_step", "workflow_step"),
    "map": ("workflow_step", "workflow_step"),
    "call": ("workflow_step", "workflow_step"),
    "timer": ("workflow_sleep", None),
}
_STATUS = {"ok": "success", "error": "error", "cancelled": "error"}
_PREVIEW = 200


def span_id(run: str, path: str, root: str) -> str:
    """Always the same for a span, in OpenTelemetry's form."""
    if path == root:
        return str(trace_ids(run)["spanId"])
    return hashlib.sha256(f"{run}\0{path}".encode()).hexdigest()[:16]


def spans_of(row: RunRow, view: View) -> Iterator[Json]:
    """In the order in which they began, without what a run journals for itself."""
    for span in view.spans.values():
        if span.kind != "value":
            yield span_json(row, view, span)


def span_json(row: RunRow, view: View, span: Span) -> Json:
    type, entity = _TYPES.get(span.kind, ("generic", None))
    parent = span.parent
    while parent is not None and (above := view.spans.get(parent)) and above.kind == "value":
        parent = above.parent
    known = parent if parent in view.spans else None
    root = span.path == view.root
    attributes: Json = {}
    if span.usage is not None:
        attributes["usage"] = usage_of(span.usage)
        if span.usage.cost is not None:
            attributes["costUsd"] = span.usage.cost
    if span.kind == "model":
        provider, _, model = span.name.partition("/")
        attributes |= {"provider": provider, "model": model or provider}
    if span.attempt > 1:
        attributes["attempt"] = span.attempt
    return {
        "traceId": trace_ids(row.id)["traceId"],
        "spanId": span_id(row.id, span.path, view.root),
        "parentSpanId": None if known is None else span_id(row.id, known, view.root),
        "name": f"{span.kind}: {span.name}",
        "spanType": type,
        "isEvent": False,
        "startedAt": iso(span.started),
        "endedAt": None if span.ended is None else iso(span.ended),
        "status": _STATUS.get(span.status, "running"),
        "input": span.input,
        "output": span.output,
        "error": None if span.error is None else _error(span),
        "attributes": attributes,
        "metadata": {"status": row.status} if root else {},
        "tags": None,
        "entityType": entity,
        "entityId": span.name if entity else None,
        "entityName": span.name if entity else None,
        "runId": row.id,
        "threadId": row.thread,
        "resourceId": row.resource or None,
        "sessionId": None,
        "requestId": None,
        "environment": None,
        "serviceName": "mastra_nb",
        "scope": None,
        "source": "code",
        "createdAt": iso(span.started),
        "updatedAt": iso(span.ended or span.started),
    }


def _error(span: Span) -> Json:
    assert span.error is not None
    return {"message": span.error.message, "id": span.error.code, "name": span.error.code}


_LIGHT = (
    *("traceId", "spanId", "parentSpanId", "name", "spanType", "isEvent", "startedAt", "endedAt"),
    *("status", "error", "entityType", "entityId", "entityName", "metadata", "runId", "threadId"),
    *("createdAt", "updatedAt"),
)


def light(span: Json) -> Json:
    """Without what makes it long."""
    out = {key: span[key] for key in _LIGHT}
    return out | {"inputPreview": _said(span["input"])[:_PREVIEW]}


def _said(given: Any) -> str:
    """What was asked, on one line of a list: of messages the text of the last."""
    if isinstance(given, list) and given and isinstance(given[-1], Mapping):
        parts = given[-1].get("parts")
        if isinstance(parts, list):
            return "".join(str(p.get("text", "")) for p in parts if isinstance(p, Mapping))
    return given if isinstance(given, str) else "" if given is None else text_of(given)


def root_of(spans: Iterable[Json]) -> Json | None:
    return next((s for s in spans if s["parentSpanId"] is None), None)
