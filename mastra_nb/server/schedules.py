"""The application's schedules over REST. They belong to nobody: who is bound to a resource finds
none, and they are made in the application, not by a client.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mastra_nb.agents import Agent
from mastra_nb.errors import NotFound
from mastra_nb.schedules import Schedule
from mastra_nb.server._routes import BadRequest, Call, Json, Routes
from mastra_nb.server._words import ms

routes = Routes("Schedules")


class SchedulesQuery(msgspec.Struct, rename="camel"):
    agent_id: str | None = None
    workflow_id: str | None = None
    status: str | None = None
    name: str | None = None


def _all(call: Call) -> list[Schedule]:
    if call.resource is not None or call.app.store is None:
        return []
    return [call.app.schedules[name] for name in call.app.schedules]


def _one(call: Call) -> Schedule:
    for each in _all(call):
        if each.name == call.path["scheduleId"]:
            return each
    raise NotFound("Schedule not found")


async def _shown(schedule: Schedule) -> Json:
    runs = await schedule.history(1)
    target = schedule.target
    paused = await schedule.paused()
    out: Json = {
        "id": schedule.name,
        "name": schedule.name,
        "cron": schedule.cron.expression,
        "timezone": str(schedule.cron.timezone),
        "status": "paused" if paused else "active",
        "nextFireAt": ms(schedule.next().timestamp()),
        "createdAt": 0,
        "updatedAt": 0,
    }
    if isinstance(target, Agent):
        out |= {"agentId": target.name, "prompt": str(schedule.input or "")}
    else:
        out |= {"workflowId": target.name, "inputData": schedule.input}
    if runs:
        out |= {"lastFireAt": ms(runs[0].created), "lastRunId": runs[0].id}
    return out


@routes.get("/schedules", query=SchedulesQuery, response=dict[str, Any])
async def list_schedules(call: Call) -> Json:
    """The schedules of the application"""
    asked, found = call.query, list[Json]()
    for each in _all(call):
        shown = await _shown(each)
        if (
            asked.agent_id in (None, shown.get("agentId"))
            and asked.workflow_id in (None, shown.get("workflowId"))
            and asked.status in (None, shown["status"])
            and asked.name in (None, each.name)
        ):
            found.append(shown)
    return {"schedules": found}


@routes.get("/schedules/{scheduleId}", response=dict[str, Any])
async def get_schedule(call: Call) -> Json:
    """One schedule"""
    return await _shown(_one(call))


def _no_change() -> BadRequest:
    return BadRequest("schedules are made in the application: app.schedule(...)", status=501)


@routes.post("/schedules", response=dict[str, Any])
async def create_schedule(call: Call) -> Json:
    """Schedules are made in the application"""
    raise _no_change()


@routes.patch("/schedules/{scheduleId}", body=dict[str, Any], response=dict[str, Any])
async def update_schedule(call: Call) -> Json:
    """Pause a schedule or let it go on; the rest of it is changed in the application"""
    schedule, body = _one(call), call.body
    if {*body} != {"status"}:
        raise _no_change()
    if body["status"] not in ("active", "paused"):
        issue = {"field": "status", "message": "active or paused"}
        raise BadRequest("Invalid request body", [issue])
    await schedule.set_paused(body["status"] == "paused")
    return await _shown(schedule)


@routes.delete("/schedules/{scheduleId}", response=dict[str, Any])
async def delete_schedule(call: Call) -> Json:
    """Schedules are taken out of the application"""
    _one(call)
    raise _no_change()


@routes.post("/schedules/{scheduleId}/pause", response=dict[str, Any])
async def pause(call: Call) -> Json:
    """Pause a schedule, in every process"""
    schedule = _one(call)
    await schedule.set_paused(True)
    return await _shown(schedule)


@routes.post("/schedules/{scheduleId}/resume", response=dict[str, Any])
async def resume(call: Call) -> Json:
    """Let a schedule go on"""
    schedule = _one(call)
    await schedule.set_paused(False)
    return await _shown(schedule)


@routes.post("/schedules/{scheduleId}/run", response=dict[str, Any])
async def run_now(call: Call) -> Json:
    """Run what is scheduled now"""
    schedule = _one(call)
    run = call.live.start(schedule.run_now())
    at = ms(call.app.services.now())
    return {"scheduleId": schedule.name, "claimId": run.id, "scheduledFireAt": at}


class TriggersQuery(msgspec.Struct, rename="camel"):
    limit: int = 20


@routes.get("/schedules/{scheduleId}/triggers", query=TriggersQuery, response=dict[str, Any])
async def triggers(call: Call) -> Json:
    """The runs that a schedule has begun, newest first"""
    schedule = _one(call)
    if not 0 < call.query.limit <= 1000:
        raise BadRequest("Invalid query parameters", [{"field": "limit", "message": "1 to 1000"}])
    words = {"done": "succeeded", "failed": "failed", "cancelled": "failed"}
    return {
        "triggers": [
            {
                "id": row.id,
                "scheduleId": schedule.name,
                "runId": row.id,
                "scheduledFireAt": ms(row.created),
                "actualFireAt": ms(row.created),
                "outcome": words.get(row.status, "published"),
                "triggerKind": "schedule-fire",
            }
            for row in await schedule.history(call.query.limit)
        ]
    }
