"""Between runs and MCP: what a suspended run asks of a client, what a client is told."""

from __future__ import annotations

import collections
import hmac
import json
from collections.abc import Mapping
from typing import Any, cast

import mcp_types as types
import pydantic
from mcp.server.connection import allowed_log_levels
from mcp.server.streamable_http import EventMessage, EventStore
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata

from mastra_nb.config import Secret, get_logger, redact
from mastra_nb.errors import MastraError, SchemaError, ToolError
from mastra_nb.events import Custom, Event, Noted, SpanStarted, Suspended, TextDelta
from mastra_nb.messages import Media, Text
from mastra_nb.schema import to_json
from mastra_nb.tools import Tool

Asked = Any  # mcp.server.context.ServerRequestContext: what came with a request

_EVENTS = 2000
_ANSWER_TYPES: dict[str, Any] = {
    "elicitation/create": types.ElicitResult,
    "sampling/createMessage": types.CreateMessageResult,
    "roots/list": types.ListRootsResult,
}
_CONTENT: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(types.ContentBlock)


def by_key(pending: Mapping[str, Suspended]) -> dict[str, Suspended]:
    out: dict[str, Suspended] = {}
    for n, one in enumerate(pending.values()):
        named = one.payload.get("key") if isinstance(one.payload, dict) else None
        key = named if isinstance(named, str) else one.reason
        out[key if key not in out else f"{key}_{n}"] = one
    return out


def request(waits: Suspended, name: str) -> Any:
    payload = waits.payload
    if waits.reason == "sampling":
        return types.CreateMessageRequest.model_validate(
            {"method": "sampling/createMessage", "params": payload["params"]}
        )
    if waits.reason == "roots":
        return types.ListRootsRequest()
    if waits.reason == "approval":
        message = f'Allow "{payload["tool"]}" with {json_text(payload["args"])}?'
        schema = {
            "type": "object",
            "properties": {"approved": {"type": "boolean", "title": "Allow it"}},
            "required": ["approved"],
        }
    else:
        said = payload.get("message") if isinstance(payload, dict) else payload
        message = said if isinstance(said, str) else f'"{name}" asks: {json_text(payload)}'
        schema = form(waits.schema)
    return types.ElicitRequest.model_validate(
        {
            "method": "elicitation/create",
            "params": {"mode": "form", "message": redact(message), "requestedSchema": schema},
        }
    )


def form(schema: dict[str, Any] | None) -> dict[str, Any]:
    """Forms are flat objects; anything else travels in the one field "value"."""
    if schema is None:
        schema = {"type": "string"}
    if schema.get("type") == "object":
        return {k: v for k, v in schema.items() if k in ("type", "properties", "required")}
    return {"type": "object", "properties": {"value": schema}, "required": ["value"]}


def value(waits: Suspended, response: Any, name: str) -> Any:
    """What goes to the suspension. Raises ToolError if the user does not want to answer."""
    if waits.reason in ("sampling", "roots"):
        return dumped(response)
    content = dict(response.content or {}) if hasattr(response, "action") else {}
    accepted = getattr(response, "action", "") == "accept"
    if waits.reason == "approval":
        yes = accepted and content.get("approved") is True
        return {"approved": True} if yes else {"approved": False, "reason": "the user said no"}
    if not hasattr(response, "action"):
        raise SchemaError("the answer is not one of a person")
    if not accepted:
        raise ToolError(f'"{name}" needed an answer, and the user gave none', code="tool.denied")
    if waits.schema is not None and waits.schema.get("type") == "object":
        return content
    return content.get("value")


_CAPABILITIES = {
    "elicitation/create": ("elicitation", "its user"),
    "sampling/createMessage": ("sampling", "its model"),
    "roots/list": ("roots", "for its roots"),
}


def need(requests: Mapping[str, Any], asked: Asked, modern: bool) -> None:
    """Raises ToolError, or the protocol's own error, for what the client cannot be asked."""
    has = asked.session.client_capabilities
    for request in requests.values():
        capability, whom = _CAPABILITIES[request.method]
        if getattr(has, capability, None) is not None:
            continue
        text = f'this needs to ask {whom}, and the client has no "{capability}"'
        if not modern:
            raise ToolError(text, code="mcp.capability")
        needed = types.ClientCapabilities.model_validate({capability: {}})
        data = types.MissingRequiredClientCapabilityErrorData(required_capabilities=needed)
        raise MCPError(types.MISSING_REQUIRED_CLIENT_CAPABILITY, text, dumped(data))


async def sent(request: Any, asked: Asked) -> Any:
    return await asked.session.send_request(
        request,
        _ANSWER_TYPES[request.method],
        metadata=ServerMessageMetadata(related_request_id=asked.request_id),
    )


_STEPS = ("step", "agent", "tool", "workflow", "map")


async def forward(event: Event, asked: Asked, target: Any) -> None:
    data, session = event.data, asked.session
    if isinstance(data, Noted):
        await log(data, asked)
    elif isinstance(data, TextDelta):
        await session.report_progress(_further(asked, len(data.text)), None, data.text)
    elif isinstance(data, SpanStarted):
        # Of a workflow the steps, and not what is called in them.
        if target.kind == "workflow" and data.kind in _STEPS and event.parent == target.name:
            await session.report_progress(_further(asked, 1), None, data.name)
    elif isinstance(data, Custom) and data.name in ("progress", "mcp.progress"):
        value = data.value if isinstance(data.value, dict) else {"progress": data.value}
        done = value.get("progress")
        if isinstance(done, (int, float)):
            await session.report_progress(done, value.get("total"), value.get("message"))
    elif isinstance(data, Custom) and data.name == "poll" and asked.close_sse_stream is not None:
        await asked.close_sse_stream()


def _further(asked: Asked, by: int) -> int:
    """How far the call has come: a number that only grows."""
    state = asked.session._connection.state
    told: int = state.get(("told", asked.request_id), 0) + by
    state["told", asked.request_id] = told
    return told


_SEVERITY = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]


async def log(note: Noted, asked: Asked) -> None:
    least = asked.session._connection.state.get("level", "debug")
    if note.level not in allowed_log_levels(asked.protocol_version, asked.meta):
        return
    if _SEVERITY.index(note.level) < _SEVERITY.index(least):
        return
    params = types.LoggingMessageNotificationParams(level=note.level, data=redact(note.text))
    await asked.session.send_notification(
        types.LoggingMessageNotification(params=params), related_request_id=asked.request_id
    )


def told(error: Exception, name: str) -> str:
    """An error as a client may see it: never a stack trace, a hint for us or a secret."""
    if isinstance(error, MastraError):
        return redact(error.message)
    get_logger("mastra_nb.mcp").error('"%s" failed', name, exc_info=error)
    return f'"{name}" failed: {type(error).__name__}'


def blocks(output: Any) -> list[Any]:
    """A tool's JSON output as content: parts that are media, or content already, stay so."""
    if isinstance(output, list) and output and all(is_part(o) for o in output):
        return [block(o) for o in output]
    return [block(output)]


def is_part(value: Any) -> bool:
    kinds = ("text", "media", "image", "audio", "resource", "resource_link")
    return isinstance(value, dict) and value.get("type") in kinds


def is_plain_dict(value: Any) -> bool:
    return isinstance(value, dict) and not is_part(value)


def block(value: Any) -> Any:
    if isinstance(value, (Text, Media)):
        value = to_json(value)
    if not is_part(value):
        text = value if isinstance(value, str) else json_text(value)
        return types.TextContent(type="text", text=text)
    if value["type"] != "media":
        return _CONTENT.validate_python(value, by_alias=True)
    mime, data = value["mime"], value.get("data")
    if data is None:
        return types.TextContent(type="text", text=value.get("url") or "")
    kind = mime.partition("/")[0]
    if kind == "image":
        return types.ImageContent(type="image", data=data, mime_type=mime)
    if kind == "audio":
        return types.AudioContent(type="audio", data=data, mime_type=mime)
    blob = types.BlobResourceContents(uri="data:,", mime_type=mime, blob=data)
    return types.EmbeddedResource(type="resource", resource=blob)


def prompt(tool: Tool[Any, Any]) -> types.Prompt:
    schema = tool.spec.parameters
    needed = schema.get("required") or []
    return types.Prompt(
        name=tool.name,
        description=tool.spec.description or None,
        arguments=[
            types.PromptArgument(
                name=name, description=about.get("description"), required=name in needed
            )
            for name, about in (schema.get("properties") or {}).items()
        ],
    )


def prompt_messages(made: Any) -> list[types.PromptMessage]:
    if isinstance(made, dict) and "parts" in made:
        role = "assistant" if made.get("role") == "assistant" else "user"
        return [
            types.PromptMessage(role=cast(Any, role), content=block(part)) for part in made["parts"]
        ]
    return [types.PromptMessage(role="user", content=block(made))]


def dumped(model: Any) -> Any:
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class Events(EventStore):
    """What was sent on the streams of sessions, for clients that come back; the newest only."""

    def __init__(self) -> None:
        self._events: collections.OrderedDict[str, tuple[str, Any]] = collections.OrderedDict()
        self._last = 0

    async def store_event(self, stream_id: str, message: Any) -> str:
        self._last += 1
        self._events[str(self._last)] = stream_id, message
        while len(self._events) > _EVENTS:
            self._events.popitem(last=False)
        return str(self._last)

    async def replay_events_after(self, last_event_id: str, send_callback: Any) -> str | None:
        if last_event_id not in self._events:
            return None
        stream = self._events[last_event_id][0]
        for id, (of, message) in [*self._events.items()]:
            if of == stream and int(id) > int(last_event_id) and message is not None:
                await send_callback(EventMessage(message, id))
        return stream


class Gate:
    """Before the SDK: the token, and header values without the blanks around them, which not
    every HTTP server takes away.
    """

    def __init__(self, app: Any, token: str | Secret | None) -> None:
        self.app = app
        self.token = Secret(token) if isinstance(token, str) else token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = [(name, value.strip(b" \t")) for name, value in scope["headers"]]
            scope = {**scope, "headers": headers}
            if self.token is not None and not self._knows(dict(headers)):
                start = {"type": "http.response.start", "status": 401}
                await send({**start, "headers": [(b"www-authenticate", b"Bearer")]})
                await send({"type": "http.response.body", "body": b"unauthorized"})
                return
        await self.app(scope, receive, send)

    def _knows(self, headers: dict[bytes, bytes]) -> bool:
        assert self.token is not None
        wanted = f"Bearer {self.token.reveal()}".encode()
        return hmac.compare_digest(headers.get(b"authorization", b""), wanted)
