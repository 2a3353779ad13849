"""Mastra's metrics over REST: durations, tokens and costs, measured on the spans of runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec

from mastra_nb.events import Span, View
from mastra_nb.server._results import trace_ids
from mastra_nb.server._routes import BadRequest, Call, Json, Routes
from mastra_nb.server._turns import iso
from mastra_nb.server._words import seconds
from mastra_nb.server.observability import rows_of, view_of
from mastra_nb.storage import RunRow

routes = Routes("Observability")

Aggregation = Literal["sum", "avg", "min", "max", "count", "count_distinct", "last"]
Interval = Literal["1m", "5m", "15m", "1h", "1d"]
_SECONDS = {"1m": 60, "5m": 300, "15m": 900, "1h": 3600, "1d": 86_400}
_DURATIONS = {kind: f"mastra_{kind}_duration_ms" for kind in ("agent", "tool", "workflow", "model")}
_TOKENS = {
    "mastra_model_total_input_tokens": "input",
    "mastra_model_total_output_tokens": "output",
    "mastra_model_input_cache_read_tokens": "cached",
    "mastra_model_input_cache_write_tokens": "cache_write",
    "mastra_model_output_reasoning_tokens": "reasoning",
}
NAMES = (*_DURATIONS.values(), *_TOKENS)
_ENTITIES = {"agent": "agent", "workflow": "workflow_run", "tool": "tool", "step": "workflow_step"}
_EARLIER = {"previous_day": 86_400.0, "previous_week": 604_800.0}


class Measured(msgspec.Struct, frozen=True):
    """One value of a metric; `cost` is that of the `call` of a model, and the same on each of its
    values.
    """

    name: str
    at: float
    value: float
    labels: dict[str, str | None]
    call: str = ""
    cost: float | None = None


class Window(msgspec.Struct, frozen=True):
    """From `start` up to `end`, seconds since the epoch; an end may be left out of it."""

    start: float = -math.inf
    end: float = math.inf
    open_start: bool = False
    open_end: bool = False

    def __contains__(self, at: float) -> bool:
        after = at > self.start if self.open_start else at >= self.start
        return after and (at < self.end if self.open_end else at <= self.end)

    def before(self, how: str) -> Window | None:
        """What it is compared with."""
        by = _EARLIER.get(how, self.end - self.start)
        if not math.isfinite(by) or not math.isfinite(self.start):
            return None
        touching = how not in _EARLIER
        return Window(self.start - by, self.end - by, self.open_start, touching or self.open_end)


def window_of(filters: Mapping[str, Any]) -> Window:
    """Raises BadRequest."""
    given = filters.get("timestamp")
    if given is None:
        return Window()
    if not isinstance(given, Mapping):
        raise _bad("filters.timestamp", "an object with start and end")
    start, end = _time(given.get("start"), "start"), _time(given.get("end"), "end")
    return Window(
        -math.inf if start is None else start,
        math.inf if end is None else end,
        given.get("startExclusive") is True,
        given.get("endExclusive") is True,
    )


def _time(given: Any, field: str) -> float | None:
    if given is None:
        return None
    try:
        return seconds(datetime.fromisoformat(given))
    except (TypeError, ValueError, OverflowError):
        raise _bad(f"filters.timestamp.{field}", "a time, as 2026-01-31T00:00:00Z") from None


def _bad(field: str, message: str) -> BadRequest:
    return BadRequest("Invalid request body", [{"field": field, "message": message}])


# What was measured


async def measured(
    call: Call, names: Iterable[str], filters: Mapping[str, Any] | None, window: Window
) -> list[Measured]:
    """In order of time. A filter on what no run has lets nothing through."""
    wanted, out = frozenset(names), list[Measured]()
    asked = {k: v for k, v in (filters or {}).items() if k != "timestamp" and v is not None}
    for row in await rows_of(call):
        if row.updated < window.start or row.created > window.end:
            continue
        for each in _of_run(row, await view_of(call, row)):
            if each.name in wanted and each.at in window and _fits(each.labels, asked):
                out.append(each)
    return sorted(out, key=lambda m: m.at)


def _of_run(row: RunRow, view: View) -> Iterator[Measured]:
    for span in view.spans.values():
        if span.ended is None:
            continue
        labels = _labels(row, view, span)
        id = f"{row.id}\0{span.path}"
        if (name := _DURATIONS.get(span.kind)) is not None:
            yield Measured(name, span.ended, (span.ended - span.started) * 1000, labels)
        if span.kind == "model" and (used := span.usage) is not None:
            for name, field in _TOKENS.items():
                value = getattr(used, field)
                if value or field in ("input", "output"):
                    yield Measured(name, span.ended, value, labels, id, used.cost)


def _labels(row: RunRow, view: View, span: Span) -> dict[str, str | None]:
    """Of a model's call the entity is who made it."""
    entity: Span | None = span
    while entity is not None and entity.kind not in _ENTITIES:
        entity = view.spans.get(entity.parent or "")
    provider = model = None
    if span.kind == "model":
        provider, _, model = span.name.partition("/")
    return {
        "entityType": None if entity is None else _ENTITIES[entity.kind],
        "entityName": row.name if entity is None else entity.name,
        "entityId": row.name if entity is None else entity.name,
        "rootEntityType": _ENTITIES.get(row.kind),
        "rootEntityName": row.name,
        "provider": provider,
        "model": model or provider,
        "status": "ok" if span.status == "ok" else "error",
        "threadId": row.thread,
        "resourceId": row.resource or None,
        "runId": row.id,
        "traceId": trace_ids(row.id)["traceId"],
        "serviceName": "mastra_nb",
    }


def _fits(labels: Mapping[str, str | None], filters: Mapping[str, Any]) -> bool:
    for key, wanted in filters.items():
        if key == "labels" and isinstance(wanted, Mapping):
            if not _fits(labels, wanted):
                return False
        elif key == "traceIds" and isinstance(wanted, list):
            if labels["traceId"] not in wanted:
                return False
        elif wanted != [] and labels.get(key) != wanted:
            return False
    return True


# What is made of it


def aggregated(how: Aggregation, found: list[Measured], column: str | None = None) -> float | None:
    """None of nothing, but for counts."""
    values = [m.value for m in found]
    match how:
        case "count":
            return len(values)
        case "count_distinct":
            named = {m.name if column in (None, "name") else m.labels.get(column or "")
                     for m in found}  # fmt: skip
            return len(named - {None})
        case _ if not values:
            return None
        case "sum":
            return math.fsum(values)
        case "avg":
            return math.fsum(values) / len(values)
        case "min":
            return min(values)
        case "max":
            return max(values)
        case "last":
            return values[-1]


def cost_of(found: Iterable[Measured]) -> float | None:
    """Each call counts once; None if of none it is known."""
    known = {m.call: m.cost for m in found if m.cost is not None}
    return math.fsum(known.values()) if known else None


def _costs(found: Iterable[Measured]) -> Json:
    cost = cost_of(found)
    return {"estimatedCost": cost, "costUnit": None if cost is None else "usd"}


def _change(now: float | None, before: float | None) -> float | None:
    return None if now is None or not before else (now - before) / abs(before) * 100


def _groups(found: Iterable[Measured], key: Callable[[Measured], Any]) -> dict[Any, list[Measured]]:
    out: dict[Any, list[Measured]] = {}
    for each in found:
        out.setdefault(key(each), []).append(each)
    return out


def _by(columns: list[str]) -> Callable[[Measured], tuple[str | None, ...]]:
    return lambda m: tuple(m.name if c == "name" else m.labels.get(c) for c in columns)


def _bucket(interval: Interval) -> Callable[[Measured], float]:
    width = _SECONDS[interval]
    return lambda m: m.at // width * width


# Routes


class AggregateBody(msgspec.Struct, rename="camel"):
    name: list[str]
    aggregation: Aggregation
    distinct_column: str | None = None
    filters: dict[str, Any] | None = None
    compare_period: Literal["previous_period", "previous_day", "previous_week"] | None = None


@routes.post("/observability/metrics/aggregate", body=AggregateBody, response=dict[str, Any])
async def metric_aggregate(call: Call) -> Json:
    """One number of metrics, and how it was before"""
    body: AggregateBody = call.body
    window = window_of(body.filters or {})
    found = await measured(call, body.name, body.filters, window)
    value = aggregated(body.aggregation, found, body.distinct_column)
    out: Json = {"value": value, **_costs(found)}
    earlier = None if body.compare_period is None else window.before(body.compare_period)
    if earlier is not None:
        old = await measured(call, body.name, body.filters, earlier)
        before, cost = aggregated(body.aggregation, old, body.distinct_column), cost_of(old)
        out |= {
            "previousValue": before,
            "changePercent": _change(value, before),
            "previousEstimatedCost": cost,
            "costChangePercent": _change(out["estimatedCost"], cost),
        }
    return out


class BreakdownBody(msgspec.Struct, rename="camel"):
    name: list[str]
    group_by: list[str]
    aggregation: Aggregation
    distinct_column: str | None = None
    filters: dict[str, Any] | None = None
    order_direction: Literal["ASC", "DESC"] = "DESC"
    limit: int | None = None


@routes.post("/observability/metrics/breakdown", body=BreakdownBody, response=dict[str, Any])
async def metric_breakdown(call: Call) -> Json:
    """Metrics by what they belong to, the largest first"""
    body: BreakdownBody = call.body
    if not body.group_by:
        raise _bad("groupBy", "Required")
    if body.limit is not None and body.limit < 1:
        raise _bad("limit", "1 or more")
    found = await measured(call, body.name, body.filters, window_of(body.filters or {}))
    groups = [
        {
            "dimensions": dict(zip(body.group_by, key, strict=True)),
            "value": aggregated(body.aggregation, within, body.distinct_column) or 0,
            **_costs(within),
        }
        for key, within in _groups(found, _by(body.group_by)).items()
    ]
    groups.sort(key=lambda g: g["value"], reverse=body.order_direction == "DESC")
    return {"groups": groups[: body.limit]}


class TimeseriesBody(msgspec.Struct, rename="camel"):
    name: list[str]
    interval: Interval
    aggregation: Aggregation = "sum"
    distinct_column: str | None = None
    group_by: list[str] = []
    filters: dict[str, Any] | None = None


@routes.post("/observability/metrics/timeseries", body=TimeseriesBody, response=dict[str, Any])
async def metric_timeseries(call: Call) -> Json:
    """Metrics over time; what nothing was measured in is left out"""
    body: TimeseriesBody = call.body
    found = await measured(call, body.name, body.filters, window_of(body.filters or {}))
    series = []
    for key, within in _groups(found, _by(body.group_by)).items():
        points = [
            {
                "timestamp": iso(at),
                "value": aggregated(body.aggregation, each, body.distinct_column),
                "estimatedCost": cost_of(each),
            }
            for at, each in _groups(within, _bucket(body.interval)).items()
        ]
        name = "|".join(part or "" for part in key) if body.group_by else ",".join(body.name)
        series.append({"name": name, "costUnit": _costs(within)["costUnit"], "points": points})
    return {"series": series}


class PercentilesBody(msgspec.Struct, rename="camel"):
    name: str
    percentiles: list[float]
    interval: Interval
    filters: dict[str, Any] | None = None


@routes.post("/observability/metrics/percentiles", body=PercentilesBody, response=dict[str, Any])
async def metric_percentiles(call: Call) -> Json:
    """Percentiles (0 to 1) of a metric over time"""
    body: PercentilesBody = call.body
    if not all(0 <= p <= 1 for p in body.percentiles):
        raise _bad("percentiles", "0 to 1")
    found = await measured(call, [body.name], body.filters, window_of(body.filters or {}))
    buckets = {
        at: sorted(m.value for m in within)
        for at, within in _groups(found, _bucket(body.interval)).items()
    }
    return {
        "series": [
            {
                "percentile": p,
                "points": [
                    {"timestamp": iso(at), "value": percentile(values, p)}
                    for at, values in buckets.items()
                ],
            }
            for p in body.percentiles
        ]
    }


def percentile(values: list[float], p: float) -> float:
    """Of sorted values, by linear interpolation."""
    place = (len(values) - 1) * p
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


class NamesQuery(msgspec.Struct, rename="camel"):
    prefix: str = ""
    limit: int | None = None


@routes.get("/observability/discovery/metric-names", query=NamesQuery, response=dict[str, Any])
async def metric_names(call: Call) -> Json:
    """Names of the metrics that are measured"""
    limit = call.query.limit
    if limit is not None and limit < 1:
        raise BadRequest("Invalid query parameters", [{"field": "limit", "message": "1 or more"}])
    return {"names": [name for name in NAMES if name.startswith(call.query.prefix)][:limit]}
