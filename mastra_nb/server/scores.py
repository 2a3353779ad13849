"""Scores over REST: those that runs were given in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from mastra_nb.errors import NotFound
from mastra_nb.events import Scored
from mastra_nb.server._results import sliced, trace_ids
from mastra_nb.server._routes import Call, Json, Routes
from mastra_nb.server._spans import span_id
from mastra_nb.server._turns import iso
from mastra_nb.server.memory import PerPage, paged
from mastra_nb.server.observability import ENTITIES, nested, rows_of, trace_of, view_of, within
from mastra_nb.storage import RunRow

routes = Routes("Scores")


class ScoresQuery(msgspec.Struct, rename="camel"):
    page: int = 0
    per_page: PerPage = 25
    entity_type: str | None = None
    entity_id: str | None = None
    source: str | None = None


async def _given(call: Call, row: RunRow) -> list[Json]:
    """The scores that a run was given in it."""
    view, out = await view_of(call, row), list[Json]()
    for n, (path, item) in enumerate(view.items):
        if isinstance(item, Scored):
            span = view.spans.get(path)
            ids = trace_ids(row.id) | {"spanId": span_id(row.id, path, view.root)}
            at = iso(span.ended or span.started if span is not None else row.updated)
            out.append(
                {
                    "id": f"{row.id}-s{n}",
                    "scorerId": item.scorer,
                    "runId": row.id,
                    **ids,
                    "score": item.value,
                    "reason": item.reason,
                    "input": row.input,
                    "output": None if span is None else span.output,
                    "entityType": row.kind.upper(),
                    "entityId": row.name,
                    "entity": {"id": row.name, "name": row.name},
                    "source": "LIVE",
                    "scorer": {"id": item.scorer, "name": item.scorer},
                    "metadata": {},
                    "createdAt": at,
                    "updatedAt": at,
                }
            )
    return out


def _any(_: object) -> bool:
    return True


async def _scored(
    call: Call,
    runs: Callable[[RunRow], bool] = _any,
    keep: Callable[[Json], bool] = _any,
    show: Callable[[Json], Json] = dict,
) -> Json:
    """A page of those scores of those runs, of the newest run first."""
    number, size = paged(call.query.page, call.query.per_page)
    found = [
        score
        for row in await rows_of(call)
        if runs(row)
        for score in await _given(call, row)
        if keep(score)
    ]
    shown = [show(score) for score in sliced(found, number, size)]
    return nested(shown, page=number, per_page=size, total=len(found), key="scores")


@routes.get("/scores/scorers", response=dict[str, Any])
async def scorers(call: Call) -> Json:
    """Scorers by id: those that have scored"""
    found: dict[str, Json] = {}
    for row in await rows_of(call):
        for score in await _given(call, row):
            id = score["scorerId"]
            about = found.setdefault(
                id,
                {
                    "scorer": {"config": {"id": id, "name": id, "description": ""}, "steps": []},
                    "sampling": None,
                    "agentIds": [],
                    "agentNames": [],
                    "workflowIds": [],
                    "isRegistered": False,
                    "source": "code",
                },
            )
            key = "workflowIds" if row.kind == "workflow" else "agentIds"
            if row.name not in about[key]:
                about[key].append(row.name)
    return found


@routes.get("/scores/scorers/{scorerId}", response=Any)
async def scorer(call: Call) -> Any:
    """One scorer; null if it has never scored"""
    return (await scorers(call)).get(call.path["scorerId"])


@routes.get("/scores/scorer/{scorerId}", query=ScoresQuery, response=dict[str, Any])
async def scores_of_scorer(call: Call) -> Json:
    """What a scorer has given"""
    id = call.path["scorerId"]
    return await _scored(call, keep=lambda score: score["scorerId"] == id)


@routes.get("/scores/run/{runId}", query=ScoresQuery, response=dict[str, Any])
async def scores_of_run(call: Call) -> Json:
    """The scores of a run"""
    return await _scored(call, lambda row: row.id == call.path["runId"])


@routes.get("/scores/entity/{entityType}/{entityId}", query=ScoresQuery, response=dict[str, Any])
async def scores_of_entity(call: Call) -> Json:
    """The scores of the runs of an agent or a workflow"""
    kind, name = call.path["entityType"].lower(), call.path["entityId"]
    return await _scored(call, lambda row: (row.kind, row.name) == (kind, name))


@routes.get(
    "/observability/traces/{traceId}/{spanId}/scores", query=ScoresQuery, response=dict[str, Any]
)
async def scores_of_span(call: Call) -> Json:
    """The scores of a span"""
    (run, _), span = await trace_of(call), call.path["spanId"]
    return await _scored(call, lambda row: row.id == run.id, lambda score: score["spanId"] == span)


class ScoreFilters(msgspec.Struct, rename="camel"):
    page: int = 0
    per_page: PerPage = 25
    timestamp: dict[str, Any] | None = None
    scorer_id: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    run_id: str | None = None
    entity_type: str | None = None
    entity_name: str | None = None


@routes.get("/observability/scores", query=ScoreFilters, response=dict[str, Any])
async def list_scores(call: Call) -> Json:
    """All scores, of the newest run first"""
    asked: ScoreFilters = call.query

    def runs(row: RunRow) -> bool:
        return (
            asked.run_id in (None, row.id)
            and asked.trace_id in (None, trace_ids(row.id)["traceId"])
            and asked.entity_name in (None, row.name)
            and asked.entity_type in (None, ENTITIES.get(row.kind))
        )

    def keep(score: Json) -> bool:
        return (
            asked.scorer_id in (None, score["scorerId"])
            and asked.span_id in (None, score["spanId"])
            and within(score["createdAt"], asked.timestamp or {})
        )

    return await _scored(call, runs, keep, _record)


@routes.get("/observability/scores/{scoreId}", response=dict[str, Any])
async def get_score(call: Call) -> Json:
    """One score"""
    id = call.path["scoreId"]
    run = id.rpartition("-s")[0]
    for row in await rows_of(call):
        if row.id == run:
            for score in await _given(call, row):
                if score["id"] == id:
                    return {"score": _record(score)}
    raise NotFound("Score not found")


def _record(score: Json) -> Json:
    """As the page of scores has it."""
    same = ("scorerId", "traceId", "spanId", "runId", "score", "reason", "entityId", "metadata")
    return {
        "scoreId": score["id"],
        "timestamp": score["createdAt"],
        "scorerName": score["scorerId"],
        "scoreSource": "live",
        "entityType": ENTITIES.get(score["entityType"].lower()),
        "entityName": score["entityId"],
        **{key: score[key] for key in same},
    }
