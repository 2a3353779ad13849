"""What waits for a person, of all agents and workflows, in one list; Mastra has no such route."""

from __future__ import annotations

from typing import Any

import msgspec

from mastra_nb.agents import Agent
from mastra_nb.errors import NotFound, NotResumable
from mastra_nb.server._asking import found_run
from mastra_nb.server._routes import BadRequest, Call, Json, Routes
from mastra_nb.server._turns import iso
from mastra_nb.workflows import Workflow

routes = Routes("Inbox")

_MOST = 200


class InboxQuery(msgspec.Struct, rename="camel"):
    name: str | None = None
    limit: int = 50
    offset: int = 0


@routes.get("/inbox", query=InboxQuery, response=dict[str, Any])
async def inbox(call: Call) -> Json:
    """What runs wait for, of the newest runs first"""
    asked = call.query
    if not 0 < asked.limit <= _MOST or not 0 <= asked.offset < 2**31:
        issue = {"field": "limit", "message": f"1 to {_MOST}"}
        raise BadRequest("Invalid query parameters", [issue])
    if call.app.store is None:
        return {"waiting": []}
    found = await call.app.find_waiting(
        name=asked.name, resource=call.resource, limit=asked.limit, offset=asked.offset
    )
    return {
        "waiting": [
            {
                "runId": each.run,
                "name": each.name,
                "kind": each.kind,
                "path": each.path,
                "reason": each.reason,
                "payload": each.payload,
                "schema": each.schema,
                "since": iso(each.since),
                "deadline": None if each.deadline is None else iso(each.deadline),
                "threadId": each.thread,
                "resourceId": each.resource,
            }
            for each in found
        ]
    }


class AnswerBody(msgspec.Struct, rename="camel"):
    answer: Any
    path: str | None = None


@routes.post("/inbox/{runId}", body=AnswerBody, response=dict[str, Any])
async def answer(call: Call) -> Json:
    """Answer what a run waits for; it goes on by itself"""
    id, store = call.path["runId"], call.app.store
    row = None if store is None else await store.get_run(id)
    if row is None or call.resource not in (None, row.resource):
        raise NotFound("Run not found")
    if row.kind == Agent.kind and row.name in call.app.agents:
        run = await found_run(call, row.name, id)
    elif row.kind == Workflow.kind and row.name in call.app.workflows:
        run = await call.live.find(id, name=row.name, kind=row.kind, resource=call.resource)
    else:
        raise NotResumable(f'"{row.name}" is not served here', hint="answer it where it is defined")
    if not run.rests:
        raise NotResumable(f'run "{id}" does not wait', hint="it is on its way")
    gone_on = run.resume(call.body.answer, path=call.body.path)
    if not gone_on.began and not gone_on.rests:
        call.live.start(gone_on)
    return {"runId": id, "status": gone_on.status}
