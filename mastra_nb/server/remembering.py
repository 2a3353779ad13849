"""How agents remember, and the notes they keep in place of old messages, over REST."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import msgspec

from mastra_nb.errors import NotFound
from mastra_nb.memory._attached import Place
from mastra_nb.memory._notes import ObservationLog
from mastra_nb.memory.memory import Memory
from mastra_nb.memory.options import ObservationalMemory
from mastra_nb.server._routes import BadRequest, Call, Json, Routes
from mastra_nb.server._turns import iso
from mastra_nb.server.memory import AgentQuery, memory_of, store_of

routes = Routes("Memory")

# How long a client that waits for the notes is kept waiting.
_SECONDS = 30.0


@routes.get("/memory/status", query=AgentQuery, response=dict[str, Any])
async def status(call: Call) -> Json:
    """Whether an agent remembers"""
    memory, asked = memory_of(call, call.query.agent_id), call.query
    if memory is None:
        return {"result": False}
    out: Json = {"result": True, "memoryType": "local"}
    if memory.observation_options is not None:
        place = await _place(call, memory.observation_options, asked.thread_id, asked.resource_id)
        log = None if place is None else await memory.observation_options.log(place)
        out["observationalMemory"] = {"enabled": True, "hasRecord": log is not None}
        if log is not None:
            out["observationalMemory"] |= {
                "originType": _origin(log),
                "lastObservedAt": iso(log.observed),
                "tokenCount": log.noted_tokens,
                "observationTokenCount": log.notes.tokens,
                "isObserving": log.is_observing,
                "isReflecting": False,
            }
    return out


@routes.get("/memory/config", query=AgentQuery, response=dict[str, Any])
async def config(call: Call) -> Json:
    """How an agent remembers"""
    memory = memory_of(call, call.query.agent_id)
    if memory is None:
        raise NotFound("this agent has no memory")
    working, notes = memory.working_options, memory.observation_options
    return {
        "config": {
            "lastMessages": memory.last_messages,
            "semanticRecall": memory.recalls,
            "generateTitle": memory.titles is not None,
            "workingMemory": {
                "enabled": working is not None,
                **({} if working is None else {"template": working.template}),
            },
            "observationalMemory": {
                "enabled": notes is not None,
                **({} if notes is None else _options(notes)),
            },
        }
    }


@routes.get("/memory/observational-memory", query=AgentQuery, response=dict[str, Any])
async def observational(call: Call) -> Json:
    """The notes of a thread, or those that the threads of a resource share"""
    asked = call.query
    notes = _notes(memory_of(call, asked.agent_id))
    return await _record(call, notes, asked.thread_id, asked.resource_id)


class NotesBody(msgspec.Struct, rename="camel"):
    agent_id: str
    resource_id: str | None = None
    thread_id: str | None = None


@routes.post("/memory/observational-memory/buffer-status", body=NotesBody, response=dict[str, Any])
async def settled(call: Call) -> Json:
    """The notes once nothing is noted any more, after 30 seconds at the latest"""
    asked: NotesBody = call.body
    notes = _notes(memory_of(call, asked.agent_id))
    place = await _place(call, notes, asked.thread_id, asked.resource_id)
    if place is not None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_SECONDS):
                await notes.settled(place)
    return await _record(call, notes, asked.thread_id, asked.resource_id)


def _notes(memory: Memory | None) -> ObservationalMemory:
    """Raises BadRequest."""
    if memory is None or memory.observation_options is None:
        raise BadRequest("Observational memory is not enabled for this agent")
    return memory.observation_options


async def _place(
    call: Call, notes: ObservationalMemory, thread: str | None, resource: str | None
) -> Place | None:
    """Whose notes are meant; None for a thread that is not there, or where nobody is named."""
    store = store_of(call)
    if thread:
        known = await store.get_thread(thread)
        if known is None:
            return None
        call.check_owner(known.resource, "Thread not found")
        return Place(store, thread, known.resource)
    owner = call.owner(resource)
    return Place(store, "", owner) if owner and notes.scope == "resource" else None


async def _record(
    call: Call, notes: ObservationalMemory, thread: str | None, resource: str | None
) -> Json:
    place = await _place(call, notes, thread, resource)
    log = None if place is None else await notes.log(place)
    if place is None or log is None:
        return {"record": None}
    shared = notes.scope == "resource" and place.resource
    return {
        "record": {
            "id": f"{log.key}{log.notes.version}",
            "scope": "resource" if shared else "thread",
            "resourceId": place.resource,
            "threadId": None if shared else place.thread,
            "activeObservations": log.notes.text() if log.notes.items else "",
            "originType": _origin(log),
            "generationCount": log.reflections,
            "lastObservedAt": iso(log.observed),
            "totalTokensObserved": log.noted_tokens,
            "observationTokenCount": log.notes.tokens,
            "pendingMessageTokens": log.pending_tokens,
            "isObserving": log.is_observing,
            "isReflecting": False,
            "config": _options(notes),
            "createdAt": iso(log.created),
            "updatedAt": iso(log.updated),
        }
    }


def _origin(log: ObservationLog) -> str:
    return "reflection" if log.is_condensed else "observation"


def _options(notes: ObservationalMemory) -> Json:
    return {
        "scope": notes.scope,
        "messageTokens": notes.message_tokens,
        "observationTokens": notes.observation_tokens,
    }
