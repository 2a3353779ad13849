"""The AI SDK's stream of a UI message: what `useChat` talks to.

    useChat({ transport: new DefaultChatTransport({ api: 'http://localhost:4111/chat/support' }) })

The chat's id is the thread. The parts are those of version 5 of the AI SDK, with the approvals of
version 6.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import msgspec
from starlette.responses import Response, StreamingResponse

from mastra_nb.errors import NotFound
from mastra_nb.runs import Run
from mastra_nb.server._asking import AgentBody, MemoryRef, agent_of, answered, begun, found_run
from mastra_nb.server._routes import BadRequest, Call, Json, Routes, dumps
from mastra_nb.server._streams import SSE_HEADERS, chunks, gathered
from mastra_nb.server._turns import answer_id, groups_of, ui_message
from mastra_nb.server.wire import APPROVAL

routes = Routes("Chat")

_HEADERS = {**SSE_HEADERS, "x-vercel-ai-ui-message-stream": "v1"}
_REASONS = {"stop", "length", "content-filter", "tool-calls", "error"}


class ChatBody(msgspec.Struct, rename="camel"):
    """What `DefaultChatTransport` sends; `resourceId` may be added to its body."""

    messages: list[dict[str, Any]]
    id: str | None = None
    trigger: str | None = None
    message_id: str | None = None
    resource_id: str | None = None
    request_context: dict[str, Any] | None = None


def parts(chunk: Mapping[str, Any]) -> Iterator[Json]:
    """A chunk of Mastra's as parts of the AI SDK's stream."""
    kind, payload = chunk["type"], chunk.get("payload", {})
    match kind:
        case "step-start":
            yield {"type": "start-step"}
        case "text-start" | "text-end" | "reasoning-start" | "reasoning-end":
            yield {"type": kind, "id": payload["id"]}
        case "text-delta" | "reasoning-delta":
            yield {"type": kind, "id": payload["id"], "delta": payload["text"]}
        case "tool-call-input-streaming-start":
            yield {"type": "tool-input-start", **_call(payload)}
        case "tool-call-delta":
            text = {"inputTextDelta": payload["argsTextDelta"]}
            yield {"type": "tool-input-delta", "toolCallId": payload["toolCallId"], **text}
        case "tool-call":
            yield {"type": "tool-input-available", **_call(payload), "input": payload["args"]}
        case "tool-result":
            call = {"toolCallId": payload["toolCallId"]}
            if payload.get("isError"):
                yield {"type": "tool-output-error", **call, "errorText": str(payload["result"])}
            else:
                yield {"type": "tool-output-available", **call, "output": payload["result"]}
        case "tool-error":
            text = {"errorText": payload["error"]["message"]}
            yield {"type": "tool-output-error", "toolCallId": payload["toolCallId"], **text}
        case "tool-output-denied":
            yield {"type": kind, "toolCallId": payload["toolCallId"]}
        case "tool-call-approval":
            id = payload["toolCallId"]
            yield {"type": "tool-approval-request", "approvalId": id, "toolCallId": id}
        case "tool-call-suspended":
            yield {"type": "data-tool-call-suspended", "data": payload}
        case "file":
            yield {"type": "file", "url": payload["data"], "mediaType": payload["mimeType"]}
        case "step-finish":
            yield {"type": "finish-step"}
        case "error":
            yield {"type": "error", "errorText": payload["error"]["message"]}
        case "tripwire":
            yield {"type": "data-tripwire", "data": payload}
        case "abort":
            yield {"type": "abort"}
        case "object-result":
            yield {"type": "data-object", "data": chunk["object"]}
        case "finish":
            reason = payload["stepResult"]["reason"]
            yield {"type": "finish", "finishReason": reason if reason in _REASONS else "other"}
        case _ if kind.startswith("data-"):
            yield {"type": kind, "data": chunk["data"]}


def _call(payload: Mapping[str, Any]) -> Json:
    return {"toolCallId": payload["toolCallId"], "toolName": payload["toolName"]}


def _streamed(run: Run[Any], after: int) -> Response:
    async def frames() -> AsyncIterator[bytes]:
        asked = sum(getattr(m, "role", "") == "user" for m in _messages(run))
        # Where a run goes on its message does too, and begins again for the reader.
        yield _frame({"type": "start", "messageId": answer_id(run.id, asked)})
        async for said in chunks(run, after=after):
            if not said:
                yield b": ping\n\n"
            yield b"".join(_frame(part) for chunk in said for part in parts(chunk))
        yield b"data: [DONE]\n\n"

    return StreamingResponse(frames(), media_type="text/event-stream", headers=_HEADERS)


def _messages(run: Run[Any]) -> list[Any]:
    given = run.input
    return given if isinstance(given, list) else []


def _frame(part: Json) -> bytes:
    return b"data: " + dumps(part) + b"\n\n"


def _decisions(messages: list[dict[str, Any]]) -> dict[str, Json]:
    """What somebody has said to the approvals in the last message, by tool call."""
    last = messages[-1] if messages else {}
    found = last.get("parts") if last.get("role") == "assistant" else None
    out: dict[str, Json] = {}
    for part in found if isinstance(found, list) else ():
        if not isinstance(part, Mapping) or part.get("state") != "approval-responded":
            continue
        said = part.get("approval")
        id = part.get("toolCallId")
        if isinstance(said, Mapping) and isinstance(id, str):
            value: Json = {"approved": said.get("approved") is True}
            if isinstance(said.get("reason"), str) and not value["approved"]:
                value["reason"] = said["reason"]
            out[id] = value
    return out


async def chat(call: Call) -> Response:
    """Talk to an agent: a message of the AI SDK as it is made"""
    name, body = call.path["agentId"], call.body
    agent_of(call, name)
    thread = body.id or ""
    decided = _decisions(body.messages)
    if decided:
        run, after = await _answered(call, name, thread, decided)
        return _streamed(run, after)
    asked = AgentBody(
        messages=body.messages,
        memory=MemoryRef(thread=thread, resource=body.resource_id),
        request_context=body.request_context,
    )
    run, after = await begun(call, name, asked)
    return _streamed(run, after)


async def _answered(
    call: Call, name: str, thread: str, decided: Mapping[str, Json]
) -> tuple[Run[Any], int]:
    """Raises BadRequest if no run waits for what was decided."""
    for id in await call.live.waiting(name, resource=call.resource, thread=thread):
        run = await found_run(call, name, id)
        pending = (await gathered(run)).pending
        answers = {
            path: decided[about["toolCallId"]]
            for path, about in pending.items()
            if about["reason"] == APPROVAL and about.get("toolCallId") in decided
        }
        if answers:
            return await answered(call, run, answers)
    raise BadRequest("no run waits for this decision", status=409)


async def resume_chat(call: Call) -> Response:
    """The answer that is on its way in a chat; 204 if there is none"""
    name, thread = call.path["agentId"], call.path["chatId"]
    agent_of(call, name)
    found = call.live.on_thread(name, thread)
    mine = [run for run in found if call.resource in (None, run.resource)]
    if not mine:
        return Response(status_code=204)
    return _streamed(mine[-1], 0)


async def chat_messages(call: Call) -> list[Json]:
    """The messages of a chat, to begin with: `useChat({ messages })`"""
    store = call.app.store
    thread = None if store is None else await store.get_thread(call.path["chatId"])
    if store is None or thread is None:
        raise NotFound("Chat not found")
    call.check_owner(thread.resource, "Chat not found")
    return [ui_message(g) for g in await groups_of(store, thread)]


for _prefixed in (True, False):
    _more: Any = {"prefixed": _prefixed}
    routes.post("/chat/{agentId}", body=ChatBody, produces="sse", **_more)(chat)
    routes.get("/chat/{agentId}/{chatId}/stream", produces="sse", **_more)(resume_chat)
    routes.get("/chat/{agentId}/{chatId}/messages", response=list[Any], **_more)(chat_messages)
