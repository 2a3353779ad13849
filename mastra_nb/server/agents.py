"""Agents over REST: what they are, runs of theirs, and what goes on in their threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.responses import Response

from mastra_nb.catalog import catalog
from mastra_nb.errors import Conflict, MastraError, NotFound, RunSuspended
from mastra_nb.events import fold
from mastra_nb.runs import Run
from mastra_nb.server import _results
from mastra_nb.server._asking import (
    SENT,
    AgentBody,
    MemoryRef,
    agent_of,
    answer,
    begun,
    check_thread,
    found_run,
    new_id,
)
from mastra_nb.server._live import batches
from mastra_nb.server._routes import BadRequest, Call, Json, Routes
from mastra_nb.server._streams import chunks, chunks_from, gathered, sse, wire_of
from mastra_nb.server._turns import iso, question_id
from mastra_nb.server._words import error_info
from mastra_nb.server.tools import ExecuteBody, execute, found_tool
from mastra_nb.server.wire import APPROVAL, AgentWire
from mastra_nb.services import is_driven
from mastra_nb.storage import read_run

routes = Routes("Agents")

_CONNECTED = b": connected\n\n"


class Lists(msgspec.Struct, rename="camel"):
    partial: bool = False
    request_context: Any = None


class Detail(msgspec.Struct, rename="camel"):
    status: str | None = None
    version_id: str | None = None
    request_context: Any = None


@routes.get("/agents", query=Lists, response=dict[str, Any])
async def list_agents(call: Call) -> Json:
    """All agents, by id"""
    found = call.app.agents.values()
    return {a.name: _results.agent_json(a, partial=call.query.partial) for a in found}


@routes.get("/agents/providers", response=dict[str, Any])
async def list_providers(call: Call) -> Json:
    """The providers of models, and whether the server can use them as it is set up"""
    return {
        "providers": [
            {
                **dict.fromkeys(("id", "name", "label"), entry.provider),
                **dict.fromkeys(("description", "envVar", "docUrl"), ""),
                "connected": entry.state.ready,
                "models": [*entry.state.models],
            }
            for entry in await catalog()
        ]
    }


@routes.get("/agents/{agentId}", query=Detail, response=dict[str, Any])
async def get_agent(call: Call) -> Json:
    """One agent"""
    return _results.agent_json(agent_of(call, call.path["agentId"]))


# Runs


async def result_of(call: Call, run: Run[Any]) -> Json:
    """What a run at rest answers. Raises what it failed with."""
    said = await gathered(run)
    failure = run.failure
    blocked = getattr(failure, "code", "") == "run.blocked"
    if failure is not None and not isinstance(failure, RunSuspended) and not blocked:
        if isinstance(failure, MastraError):
            raise failure
        # Not a failure of the server, which clients of Mastra would ask again.
        raise MastraError(error_info(failure).message, code="run.failed") from failure
    if not isinstance(said, AgentWire):
        raise NotFound("the run says nothing")
    return _results.agent_result(run, said)


@routes.post("/agents/{agentId}/generate", body=AgentBody, response=dict[str, Any])
async def generate(call: Call) -> Json:
    """Run an agent and answer when it rests"""
    run, _ = await begun(call, call.path["agentId"], call.body)
    return await result_of(call, run)


# A run rests when all is done that it began in the background, too.
@routes.post("/agents/{agentId}/stream-until-idle", body=AgentBody, produces="sse")
@routes.post("/agents/{agentId}/stream", body=AgentBody, produces="sse")
async def stream(call: Call) -> Response:
    """Run an agent and answer with its chunks"""
    run, after = await begun(call, call.path["agentId"], call.body)
    return sse(chunks(run, after=after))


class ToolCallBody(msgspec.Struct, rename="camel"):
    run_id: str
    tool_call_id: str | None = None
    reason: str | None = None
    request_context: dict[str, Any] | None = None


async def _decided(call: Call, approved: bool) -> tuple[Run[Any], int]:
    body = call.body
    run = await found_run(call, call.path["agentId"], body.run_id)
    value: Json = {"approved": approved}
    if body.reason and not approved:
        value["reason"] = body.reason
    return await answer(call, run, body.tool_call_id, value, reason=APPROVAL)


@routes.post("/agents/{agentId}/approve-tool-call", body=ToolCallBody, produces="sse")
async def approve(call: Call) -> Response:
    """Approve a tool call and answer with what follows"""
    run, after = await _decided(call, True)
    return sse(chunks(run, after=after))


@routes.post("/agents/{agentId}/decline-tool-call", body=ToolCallBody, produces="sse")
async def decline(call: Call) -> Response:
    """Decline a tool call and answer with what follows"""
    run, after = await _decided(call, False)
    return sse(chunks(run, after=after))


@routes.post(
    "/agents/{agentId}/approve-tool-call-generate", body=ToolCallBody, response=dict[str, Any]
)
async def approve_generate(call: Call) -> Json:
    """Approve a tool call and answer when the run rests"""
    run, _ = await _decided(call, True)
    return await result_of(call, run)


@routes.post(
    "/agents/{agentId}/decline-tool-call-generate", body=ToolCallBody, response=dict[str, Any]
)
async def decline_generate(call: Call) -> Json:
    """Decline a tool call and answer when the run rests"""
    run, _ = await _decided(call, False)
    return await result_of(call, run)


class ResumeBody(msgspec.Struct, rename="camel"):
    run_id: str
    resume_data: Any = None
    tool_call_id: str | None = None
    request_context: dict[str, Any] | None = None


async def _resumed(call: Call) -> tuple[Run[Any], int]:
    body = call.body
    run = await found_run(call, call.path["agentId"], body.run_id)
    return await answer(call, run, body.tool_call_id, body.resume_data)


@routes.post("/agents/{agentId}/resume-stream-until-idle", body=ResumeBody, produces="sse")
@routes.post("/agents/{agentId}/resume-stream", body=ResumeBody, produces="sse")
async def resume_stream(call: Call) -> Response:
    """Answer what a run waits for, and get what follows"""
    run, after = await _resumed(call)
    return sse(chunks(run, after=after))


@routes.post("/agents/{agentId}/resume-generate", body=ResumeBody, response=dict[str, Any])
async def resume_generate(call: Call) -> Json:
    """Answer what a run waits for, and get its result"""
    run, _ = await _resumed(call)
    return await result_of(call, run)


class ObserveBody(msgspec.Struct, rename="camel"):
    run_id: str
    offset: int = 0


@routes.post("/agents/{agentId}/observe", body=ObserveBody, produces="sse")
async def observe(call: Call) -> Response:
    """What a run has said from its beginning, or but for so many chunks, and goes on to say"""
    if call.body.offset < 0:
        raise BadRequest("Invalid request body", [{"field": "offset", "message": "0 or more"}])
    run = await found_run(call, call.path["agentId"], call.body.run_id)
    return sse(chunks_from(call.live.as_driven(run), call.body.offset))


class RecoverBody(msgspec.Struct, rename="camel"):
    run_id: str
    request_context: dict[str, Any] | None = None


@routes.post("/agents/{agentId}/recover", body=RecoverBody, produces="sse")
async def recover(call: Call) -> Response:
    """Take up a run that was cut off, and get what follows"""
    run, store = await found_run(call, call.path["agentId"], call.body.run_id), call.app.store
    row = None if store is None else await store.get_run(run.id)
    if not run.rests or run.status != "running" or row is None or is_driven(row):
        raise Conflict("this run was not cut off", hint="observe it, or ask again")
    after = len(run.log.events)
    return sse(chunks(call.live.start(run.resume()), after=after))


class Suspended(msgspec.Struct, rename="camel"):
    thread_id: str | None = None
    resource_id: str | None = None
    from_date: str | None = None
    to_date: str | None = None
    page: int = 0
    per_page: int = 100


@routes.get("/agents/{agentId}/suspended-runs", query=Suspended, response=dict[str, Any])
async def suspended_runs(call: Call) -> Json:
    """Runs of an agent that wait for somebody"""
    agent, asked, store = agent_of(call, call.path["agentId"]), call.query, call.app.store
    if asked.page < 0 or not 0 < asked.per_page <= 1000:
        raise BadRequest("Invalid query parameters", [{"field": "page", "message": "a page"}])
    if store is None:
        return {"runs": [], "total": 0}
    rows = await store.find_runs(
        name=agent.name,
        status="suspended",
        resource=call.resource if call.resource is not None else asked.resource_id,
        thread=asked.thread_id,
        limit=1000,
    )
    rows = [r for r in rows if _within(iso(r.updated), asked.from_date, asked.to_date)]
    first = asked.page * asked.per_page
    out = []
    for row in rows[first : first + asked.per_page]:
        view = fold(await read_run(store, row))
        calls = [
            {
                "toolCallId": path,
                "toolName": waits.payload.get("tool", ""),
                "args": waits.payload.get("args"),
                "requiresApproval": waits.reason == APPROVAL,
            }
            for path, waits in view.pending.items()
            if isinstance(waits.payload, dict)
        ]
        run = await call.app.get_run(row.id)
        said = await gathered(run)
        for each in calls:
            each["toolCallId"] = said.pending.get(each["toolCallId"], {}).get("toolCallId")
        about = {"runId": row.id, "status": "suspended", "threadId": row.thread or ""}
        about |= {"resourceId": row.resource, "suspendedAt": iso(row.updated)}
        out.append({**about, "toolCalls": calls})
    return {"runs": out, "total": len(rows)}


def _within(at: str, first: str | None, last: str | None) -> bool:
    return (not first or at >= first) and (not last or at <= last)


# Threads as places where runs happen


class MessageBody(msgspec.Struct, rename="camel"):
    message: Any = None
    signal: dict[str, Any] | None = None
    run_id: str | None = None
    resource_id: str | None = None
    thread_id: str | None = None
    if_idle: dict[str, Any] | None = None


def _said(given: Any) -> tuple[Any, Json]:
    """What is sent to an agent, and what comes with it: clients know their messages by that."""
    sent: Json = {}
    if isinstance(given, dict):
        about = {k: given.get(k) for k in ("metadata", "attributes")}
        sent = {k: v for k, v in about.items() if isinstance(v, dict) and v}
        given = given.get("contents", given.get("content"))
    if isinstance(given, str | list):
        return given, sent
    raise BadRequest("Invalid request body", [{"field": "message", "message": "a text or parts"}])


async def _send(call: Call, given: Any) -> Json:
    """A message to an agent; while a run is on its way in the thread, it comes after that."""
    name, body = call.path["agentId"], call.body
    agent_of(call, name)
    content, sent = _said(given)
    options = (body.if_idle or {}).get("streamOptions") or {}
    try:
        asked = msgspec.convert({**options, "messages": "-"}, AgentBody)
    except msgspec.ValidationError as error:
        raise BadRequest(
            "Invalid request body", [{"field": "ifIdle", "message": str(error)}]
        ) from None
    asked.messages = [{"role": "user", "content": content}]
    asked.memory = MemoryRef(thread=body.thread_id, resource=body.resource_id)
    await check_thread(call, body.thread_id or "")
    id = asked.run_id or new_id()
    asked.run_id = id
    before = call.live.on_thread(name, body.thread_id or "")
    if before:
        call.live.after(before, lambda: begun(call, name, asked, sent))
    else:
        await begun(call, name, asked, sent)
    at = iso(call.app.services.now())
    signal = {"id": question_id(id, 0), "type": "user", "tagName": "user"}
    signal |= {"contents": content, **sent}
    return {"accepted": True, "runId": id, "signal": {**signal, "createdAt": at, "acceptedAt": at}}


@routes.post("/agents/{agentId}/send-message", body=MessageBody, response=dict[str, Any])
async def send_message(call: Call) -> Json:
    """Send a message to an agent's thread"""
    return await _send(call, call.body.message)


@routes.post("/agents/{agentId}/queue-message", body=MessageBody, response=dict[str, Any])
async def queue_message(call: Call) -> Json:
    """Send a message that comes after the run that is on its way"""
    return await _send(call, call.body.message)


@routes.post("/agents/{agentId}/signals", body=MessageBody, response=dict[str, Any])
async def send_signal(call: Call) -> Json:
    """Send a signal to an agent's thread"""
    return await _send(call, call.body.signal)


class ApprovalBody(msgspec.Struct, rename="camel"):
    thread_id: str
    tool_call_id: str
    approved: bool
    resource_id: str | None = None
    reason: str | None = None


@routes.post("/agents/{agentId}/send-tool-approval", body=ApprovalBody, response=dict[str, Any])
async def send_tool_approval(call: Call) -> Json:
    """Answer a tool call that waits in a thread"""
    name, body = call.path["agentId"], call.body
    agent_of(call, name)
    value: Json = {"approved": body.approved}
    if body.reason and not body.approved:
        value["reason"] = body.reason
    for id in await call.live.waiting(name, resource=call.resource, thread=body.thread_id):
        run = await found_run(call, name, id)
        said = await gathered(run)
        if any(p.get("toolCallId") == body.tool_call_id for p in said.pending.values()):
            run, _ = await answer(call, run, body.tool_call_id, value, reason=APPROVAL)
            return {"accepted": True, "runId": run.id, "toolCallId": body.tool_call_id}
    raise NotFound(f'no call "{body.tool_call_id}" waits in this thread')


class ThreadBody(msgspec.Struct, rename="camel"):
    thread_id: str
    resource_id: str | None = None
    expected_run_id: str | None = None


@routes.post("/agents/{agentId}/threads/abort", body=ThreadBody, response=dict[str, Any])
async def abort_thread(call: Call) -> Json:
    """Stop the run that is on its way in a thread"""
    name, body = call.path["agentId"], call.body
    agent_of(call, name)
    found = [
        run
        for run in call.live.on_thread(name, body.thread_id)
        if body.expected_run_id in (None, run.id) and call.resource in (None, run.resource)
    ]
    for run in found:
        run.cancel()
    return {"aborted": bool(found)}


@routes.post("/agents/{agentId}/threads/subscribe", body=ThreadBody, produces="sse")
async def subscribe(call: Call) -> Response:
    """The chunks of every run of a thread, while one listens"""
    name = call.path["agentId"]
    agent_of(call, name)
    await check_thread(call, call.body.thread_id)
    return sse(_thread_chunks(call, name), first=_CONNECTED)


async def _thread_chunks(call: Call, name: str) -> AsyncIterator[list[Json]]:
    thread = call.body.thread_id
    with call.live.watch(name, thread) as queue:
        for run in call.live.on_thread(name, thread):
            queue.put_nowait((run, 0))
        while True:
            try:
                async with asyncio.timeout(15):
                    run, after = await queue.get()
            except TimeoutError:
                yield []
                continue
            if call.resource not in (None, run.resource):
                continue
            async for said in _with_question(run, after):
                yield said


async def _with_question(run: Run[Any], after: int) -> AsyncIterator[list[Json]]:
    """Its chunks, with what was asked after its start."""
    wire = wire_of(run).skip(run.log.events[:after])
    async for events in batches(run, after, beat=15.0):
        out: list[Json] = []
        for event in events:
            for chunk in wire.feed(event):
                out.append(chunk)
                if chunk["type"] == "start":
                    out += _questions(run, event.at)
        yield out
    yield wire.rest(run.failure, run.target.kind, run.name)


def _questions(run: Run[Any], at: float) -> list[Json]:
    asked = run.input if isinstance(run.input, list) else []
    out = []
    for n, message in enumerate(asked):
        if getattr(message, "role", "") == "user":
            when = iso(at)
            data = {"id": question_id(run.id, n), "type": "user", "tagName": "user"}
            data |= {"contents": message.text, "createdAt": when, "acceptedAt": when}
            data |= run.log.request_context.get(SENT) or {}
            out.append(
                {"type": "data-user-message", "runId": run.id, "data": data, "transient": True}
            )
    return out


# Tools of one agent


@routes.get("/agents/{agentId}/tools/{toolId}", response=dict[str, Any])
async def agent_tool(call: Call) -> Json:
    """One tool of an agent"""
    tools = _results.tools_of(agent_of(call, call.path["agentId"]))
    return _results.tool_json(found_tool(tools, call.path["toolId"]))


@routes.post("/agents/{agentId}/tools/{toolId}/execute", body=ExecuteBody, response=Any)
async def execute_agent_tool(call: Call) -> Any:
    """Call a tool of an agent"""
    tools = _results.tools_of(agent_of(call, call.path["agentId"]))
    return await execute(call, found_tool(tools, call.path["toolId"]))
