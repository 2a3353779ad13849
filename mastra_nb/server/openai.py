"""OpenAI's chat completions and responses: `model` is the name of an agent.

The agent's own tools stay inside. Tools of the client make the run wait; the message of role "tool"
(or the function_call_output) that answers goes to that run.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.responses import Response, StreamingResponse

from mastra_nb.errors import Conflict, MastraError, NotFound, RunSuspended
from mastra_nb.runs import Run
from mastra_nb.server._asking import (
    AgentBody,
    ClientToolSpec,
    MemoryRef,
    Structured,
    agent_of,
    begun,
    new_id,
)
from mastra_nb.server._openai_wire import ChatStream, ResponseStream, completion, response
from mastra_nb.server._routes import BadRequest, Call, Json, Routes, dumps
from mastra_nb.server._streams import SSE_HEADERS, chunks, gathered
from mastra_nb.server.memory import conversation, memory_of, store_of
from mastra_nb.server.wire import CLIENT_TOOL, AgentWire
from mastra_nb.storage import RunRow

routes = Routes("OpenAI")


class Function(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ToolOf(msgspec.Struct):
    """Of chat completions {"type", "function"}, of responses {"type", "name", "parameters"}."""

    type: str = "function"
    function: Function | None = None
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ChatBody(msgspec.Struct):
    model: str
    messages: list[dict[str, Any]]
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    tools: list[ToolOf] | None = None
    tool_choice: Any = None
    response_format: dict[str, Any] | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None


class ResponseBody(msgspec.Struct):
    input: Any
    model: str | None = None
    agent_id: str | None = None
    instructions: str | None = None
    stream: bool | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    conversation_id: str | None = None
    conversation: Any = None
    text: dict[str, Any] | None = None
    tools: list[ToolOf] | None = None
    tool_choice: Any = None
    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None


def _tools(given: list[ToolOf] | None) -> dict[str, ClientToolSpec] | None:
    """Raises BadRequest for a tool that only OpenAI has."""
    out: dict[str, ClientToolSpec] = {}
    for each in given or ():
        name = each.function.name if each.function is not None else each.name
        if each.type != "function" or not name:
            raise _bad("tools", f'a tool of type "{each.type}" is not offered here')
        source = each.function or each
        out[name] = ClientToolSpec(
            description=source.description, input_schema=source.parameters or {"type": "object"}
        )
    return out or None


def _schema(format: Any) -> Structured | None:
    if not isinstance(format, dict) or format.get("type") in (None, "text"):
        return None
    if format["type"] == "json_object":
        return Structured(schema={"type": "object"})
    inner = format.get("json_schema", format)
    schema = inner.get("schema") if isinstance(inner, dict) else None
    if format["type"] != "json_schema" or not isinstance(schema, dict):
        raise _bad("response_format", "json_schema with a schema, json_object or text")
    return Structured(schema=schema)


def _choice(given: Any) -> Any:
    if isinstance(given, dict):
        function = given.get("function")
        return function.get("name") if isinstance(function, dict) else given.get("name")
    return given


def _bad(field: str, message: str) -> BadRequest:
    return BadRequest("Invalid request body", [{"field": field, "message": message}])


def _settings(**given: Any) -> dict[str, Any]:
    return {key: value for key, value in given.items() if value is not None}


async def _rested(run: Run[Any]) -> AgentWire:
    """What a run has said. Raises what it failed with, and for a question to a person."""
    said = await gathered(run)
    error = _failure(run, said)
    if error is not None:
        raise error
    assert isinstance(said, AgentWire)
    return said


def _failure(run: Run[Any], said: Any) -> BaseException | None:
    if isinstance(run.failure, RunSuspended):
        asks = [p for p in said.pending.values() if p["reason"] != CLIENT_TOOL]
        return run.failure if asks else None
    return run.failure


def _framed(source: AsyncIterator[Json], *, named: bool) -> Response:
    async def frames() -> AsyncIterator[bytes]:
        async for each in source:
            event = f"event: {each['type']}\n".encode() if named else b""
            yield event + b"data: " + dumps(each) + b"\n\n"
        if not named:
            yield b"data: [DONE]\n\n"

    return StreamingResponse(frames(), media_type="text/event-stream", headers=SSE_HEADERS)


# Models


async def models(call: Call) -> Json:
    """The agents, as models"""
    found = [
        {"id": name, "object": "model", "created": 0, "owned_by": "mastra_nb"}
        for name in call.app.agents
    ]
    return {"object": "list", "data": found}


# Chat completions


async def chat_completions(call: Call) -> Any:
    """Run an agent as a chat completion"""
    body: ChatBody = call.body
    stop = [body.stop] if isinstance(body.stop, str) else body.stop
    thread = (body.metadata or {}).get("thread")
    if not isinstance(thread, str | None):
        raise _bad("metadata.thread", "the id of a thread")
    asked = AgentBody(
        messages=body.messages,
        memory=MemoryRef(thread=thread, resource=body.user),
        client_tools=_tools(body.tools),
        tool_choice=_choice(body.tool_choice) if body.tools else None,
        structured_output=_schema(body.response_format),
        model_settings=_settings(
            temperature=body.temperature,
            topP=body.top_p,
            maxOutputTokens=body.max_completion_tokens or body.max_tokens,
            seed=body.seed,
            stopSequences=stop,
        ),
    )
    run, after = await begun(call, body.model, asked)
    created = int(time.time())
    if not body.stream:
        return completion(run.id, body.model, created, await _rested(run))
    usage = bool((body.stream_options or {}).get("include_usage"))
    stream = ChatStream(run.id, body.model, created, usage=usage)

    async def said() -> AsyncIterator[Json]:
        yield stream.first()
        async for batch in chunks(run, after=after):
            for chunk in batch:
                for each in stream.of(chunk):
                    yield each
        whole = await gathered(run)
        error = _failure(run, whole)
        if error is not None:
            yield {"error": error_body(error)}
            return
        for each in stream.last(whole):
            yield each

    return _framed(said(), named=False)


def error_body(error: BaseException) -> Json:
    """In OpenAI's form."""
    code, message = "error", "the run failed"
    if isinstance(error, MastraError):
        code, message = error.code, error.message
    kind = (
        "invalid_request_error" if code.startswith(("http", "not_found", "usage")) else "api_error"
    )
    return {"message": message, "type": kind, "param": None, "code": code}


# Responses


async def _conversation(call: Call, name: str, id: str) -> MemoryRef:
    """What a response is in: a named conversation, that of the response before, a new one. One
    that is there already says whose it is.

    Raises NotFound for a conversation or a response of another.
    """
    body: ResponseBody = call.body
    thread: Any = body.conversation_id or body.conversation
    if isinstance(thread, dict):
        thread = thread.get("id")
    if not isinstance(thread, str) or not thread:
        thread = id
        if body.previous_response_id is not None:
            run = await call.live.find(body.previous_response_id, name=name, resource=call.resource)
            if not run.thread:
                raise NotFound("Response not found")
            thread = run.thread
    store = call.app.store
    known = await store.get_thread(thread) if store is not None and thread != id else None
    if known is None:
        return MemoryRef(thread=thread, resource=body.user)
    call.check_owner(known.resource, "Conversation not found")
    return MemoryRef(thread=thread, resource=body.user or known.resource)


async def create_response(call: Call) -> Any:
    """Run an agent as a response"""
    body: ResponseBody = call.body
    name = body.agent_id or body.model or ""
    agent_of(call, name)
    id = f"resp_{new_id()}"
    memory = await _conversation(call, name, id)
    settings = _settings(
        temperature=body.temperature, topP=body.top_p, maxOutputTokens=body.max_output_tokens
    )
    asked = AgentBody(
        messages=messages_of(body.input),
        memory=memory,
        client_tools=_tools(body.tools),
        tool_choice=_choice(body.tool_choice) if body.tools else None,
        structured_output=_schema((body.text or {}).get("format")),
        model_settings=settings,
        instructions=body.instructions,
        run_id=id,
    )
    run, after = await begun(call, name, asked)
    about: Json = {
        "id": run.id,
        "created_at": int(time.time()),
        "model": name,
        "previous_response_id": body.previous_response_id,
        "conversation_id": memory.thread,
        "metadata": body.metadata or {},
        "store": call.app.store is not None,
    }
    if not body.stream:
        return response(about, await _rested(run), at=int(time.time()))
    stream = ResponseStream(about)

    async def said() -> AsyncIterator[Json]:
        for each in stream.first():
            yield each
        async for batch in chunks(run, after=after):
            for chunk in batch:
                for each in stream.of(chunk):
                    yield each
        whole = await gathered(run)
        error = _failure(run, whole)
        if error is not None:
            told = error_body(error)
            yield stream.failed(told["message"], told["code"])
            return
        for each in stream.last(whole, int(time.time())):
            yield each

    return _framed(said(), named=True)


def messages_of(given: Any, field: str = "input") -> Any:
    """The items of a response as messages. Raises BadRequest."""
    if not isinstance(given, list):
        return given
    out: list[Json] = []
    for n, item in enumerate(given):
        if not isinstance(item, dict):
            raise _bad(f"{field}[{n}]", "an object")
        kind = item.get("type", "message")
        if kind == "message":
            out.append({"role": item.get("role"), "content": item.get("content")})
        elif kind == "function_call_output":
            about = {"role": "tool", "tool_call_id": item.get("call_id")}
            out.append({**about, "content": item.get("output")})
    return out


async def _made(call: Call, id: str) -> RunRow:
    """Raises NotFound."""
    store = call.app.store
    row = await store.get_run(id) if store is not None else None
    if row is None or row.kind != "agent" or call.resource not in (None, row.resource):
        raise NotFound("Response not found")
    return row


async def get_response(call: Call) -> Json:
    """A response that was made"""
    id = call.path["responseId"]
    row = await _made(call, id)
    run = await call.live.find(id, name=row.name, resource=call.resource)
    about = {"id": id, "created_at": int(row.created), "model": row.name}
    return response(about, await _rested(run), at=int(row.updated))


async def delete_response(call: Call) -> Json:
    """Delete a response that was made, with what it said in its conversation"""
    row = await _made(call, call.path["responseId"])
    run = await call.live.find(row.id, name=row.name, resource=call.resource)
    if not run.rests or run.status == "running":
        raise Conflict("the response is on its way")
    if row.thread:
        messages = await store_of(call).read_messages(row.thread)
        said = [each.pos for each in messages if each.run == row.id]
        await conversation(call, memory_of(call, row.name), row.thread).delete_messages(said)
    await call.live.forget(run)
    return {"id": row.id, "object": "response", "deleted": True}


for _prefixed in (True, False):
    _more: Any = {"prefixed": _prefixed, "openai": True}
    routes.get("/v1/models", response=dict[str, Any], **_more)(models)
    routes.post("/v1/chat/completions", body=ChatBody, response=dict[str, Any], **_more)(
        chat_completions
    )
    routes.post("/v1/responses", body=ResponseBody, response=dict[str, Any], **_more)(
        create_response
    )
    routes.get("/v1/responses/{responseId}", response=dict[str, Any], **_more)(get_response)
    routes.delete("/v1/responses/{responseId}", response=dict[str, Any], **_more)(delete_response)
