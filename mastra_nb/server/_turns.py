"""Messages as clients send them and as Mastra's and the AI SDK's clients read them.

A thread keeps one message for each thing that was said; clients of Mastra show one answer a turn,
with its tool calls and their results as parts. `grouped` is between the two, and gives the ids.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from mastra_nb.errors import SchemaError
from mastra_nb.events import MessageAdded
from mastra_nb.messages import (
    Media,
    Message,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    system,
)
from mastra_nb.schema import clean, parse_json
from mastra_nb.server._words import ms
from mastra_nb.storage import Store, Thread, ThreadMessage

Json = dict[str, Any]
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w-]+=[\w.-]+)*(;base64)?,", re.ASCII)
_WEB = ("https://", "http://")


# What clients send


class Asked(msgspec.Struct):
    """What a client sent: what is new to the run, and the answers of its own tools by call id."""

    messages: list[Message]
    results: dict[str, Any]


def asked(given: Any, *, instructions: bool = False, remembered: bool = False) -> Asked:
    """Of a text or a list of messages (those of Mastra, of the AI SDK, of OpenAI).

    Tool calls that come from a client are forged as far as the server knows, and left out; so are
    system messages, unless `instructions` says otherwise. Of a conversation that is `remembered`
    only what comes after its last answer is new. Raises SchemaError.
    """
    if isinstance(given, str):
        return Asked([_user([Text(text=clean(given))])], {})
    if isinstance(given, Mapping):
        given = [given]
    if not isinstance(given, list) or not given:
        raise SchemaError("messages is no text and no list of messages", hint='"messages": "Hi"')
    out, results = list[Message](), dict[str, Any]()
    for n, each in enumerate(given):
        if isinstance(each, str):
            out.append(_user([Text(text=clean(each))]))
            continue
        if not isinstance(each, Mapping):
            raise SchemaError(f"message {n} is no object", hint='{"role": "user", "content": "Hi"}')
        role, parts = each.get("role"), _content(each, n)
        if role == "tool":
            results |= _results(each)
        elif role in ("system", "developer"):
            if instructions:
                out.append(system("".join(p.text for p in parts if isinstance(p, Text))))
        elif role == "user":
            out.append(_user(parts))
        elif role == "assistant":
            results |= _results(each)
            kept = tuple(p for p in parts if isinstance(p, Text | Reasoning | Media))
            if kept:
                out.append(Message(role="assistant", parts=kept))
        else:
            raise SchemaError(
                f"message {n} has the role {role!r}", hint='"user", "assistant" or "tool"'
            )
    if remembered:
        last = max((n for n, m in enumerate(out) if m.role == "assistant"), default=-1)
        out = out[last + 1 :]
    return Asked(out, results)


def _user(parts: Sequence[Part]) -> Message:
    return Message(role="user", parts=tuple(parts))


def _content(message: Mapping[str, Any], n: int) -> list[Part]:
    content = message.get("content")
    if isinstance(content, Mapping):  # Mastra's format 2
        content = content.get("parts") or content.get("content")
    if content is None or (isinstance(content, str) and not content and message.get("parts")):
        content = message.get("parts")
    if content is None:
        return []
    if isinstance(content, str):
        return [Text(text=clean(content))]
    if not isinstance(content, list):
        raise SchemaError(f"the content of message {n} is no text and no list of parts")
    out: list[Part] = []
    for part in content:
        made = Text(text=clean(part)) if isinstance(part, str) else _part(part, n)
        if made is not None:
            out.append(made)
    return out


def _part(part: Any, n: int) -> Part | None:
    if not isinstance(part, Mapping):
        raise SchemaError(f"a part of message {n} is no object")
    kind = part.get("type")
    if kind in ("text", "input_text", "output_text"):
        text = part.get("text")
        if not isinstance(text, str):
            raise SchemaError(f"a text of message {n} is no text")
        return Text(text=clean(text))
    if kind in ("image", "file", "image_url", "input_image", "input_file"):
        return _media(part, n)
    return None


def _media(part: Mapping[str, Any], n: int) -> Media:
    source: Any = next(
        (part[k] for k in ("image", "data", "url", "image_url", "file_data") if part.get(k)), None
    )
    if isinstance(source, Mapping):
        source = source.get("url")
    mime = part.get("mediaType") or part.get("mimeType") or part.get("mime_type") or ""
    default = "image/png" if "image" in str(part.get("type")) else "application/octet-stream"
    if not isinstance(source, str) or not isinstance(mime, str):
        raise SchemaError(f"a file of message {n} has no data", hint="a data: URL, or base64")
    if found := _DATA_URL.match(source):
        mime = mime or found.group(1) or default
        if not found.group(2):
            raise SchemaError(f"a file of message {n} is no base64", hint="data:image/png;base64,…")
        source = source[found.end() :]
    elif source.startswith(_WEB):
        return Media(mime=mime or default, url=source)
    try:
        data = base64.b64decode(source, validate=True)
    except (binascii.Error, ValueError):
        raise SchemaError(f"a file of message {n} is no base64") from None
    return Media(mime=mime or default, data=data)


def _results(message: Mapping[str, Any]) -> dict[str, Any]:
    """What tools of the client gave, by the id of the call."""
    content = message.get("content")
    if message.get("role") == "tool" and isinstance(message.get("tool_call_id"), str):
        return {message["tool_call_id"]: _value(content)}
    if isinstance(content, Mapping):
        content = content.get("parts")
    found = content if isinstance(content, list) else message.get("parts")
    out: dict[str, Any] = {}
    for part in found if isinstance(found, list) else ():
        if not isinstance(part, Mapping):
            continue
        invoked = part.get("toolInvocation")
        if isinstance(invoked, Mapping) and invoked.get("state") == "result":
            part = {**invoked, "type": "tool-result"}
        id, kind = part.get("toolCallId"), str(part.get("type", ""))
        if not isinstance(id, str):
            continue
        if kind == "tool-result":
            out[id] = _value(part.get("result", part.get("output")))
        elif kind.startswith("tool-") and part.get("state") == "output-available":
            out[id] = part.get("output")
    return out


def _value(value: Any) -> Any:
    """The AI SDK wraps what a tool gave: {"type": "json", "value": …}."""
    if isinstance(value, Mapping) and value.get("type") in ("json", "text") and "value" in value:
        return value["value"]
    if isinstance(value, str):
        try:
            return parse_json(value)
        except SchemaError:
            return value
    return value


# What clients read


def data_url(part: Media) -> str:
    if part.url:
        return part.url
    return f"data:{part.mime};base64,{base64.b64encode(part.data or b'').decode()}"


def core_messages(messages: Iterable[Message]) -> list[Json]:
    """The AI SDK's model messages."""
    out: list[Json] = []
    for message in messages:
        parts: list[Json] = []
        for part in message.parts:
            match part:
                case Text():
                    parts.append({"type": "text", "text": part.text})
                case Reasoning():
                    parts.append({"type": "reasoning", "text": part.text})
                case ToolCall():
                    call = {"toolCallId": part.id, "toolName": part.name}
                    parts.append({"type": "tool-call", **call, "input": arguments(part)})
                case ToolResult():
                    call = {"toolCallId": part.id, "toolName": part.name}
                    kind = "error-text" if part.is_error else "json"
                    output = {"type": kind, "value": part.output}
                    parts.append({"type": "tool-result", **call, "output": output})
                case Media():
                    parts.append({"type": "file", "data": data_url(part), "mediaType": part.mime})
        out.append({"role": message.role, "content": parts})
    return out


def arguments(call: ToolCall) -> Any:
    try:
        return parse_json(call.args or "{}")
    except SchemaError:
        return {"input": call.args}


class Group(msgspec.Struct, kw_only=True):
    """A message as clients have it; `positions` are those of the thread that it is made of."""

    id: str
    role: str
    run: str
    at: float
    messages: list[Message]
    positions: list[int]


def answer_id(run: str, asked: int) -> str:
    """Of what was answered after so many messages of users in a run."""
    return f"{run}-a{max(1, asked)}"


def question_id(run: str, n: int) -> str:
    return f"{run}-u{n}"


async def groups_of(store: Store, thread: Thread) -> list[Group]:
    """The messages of a thread as clients have them, oldest first. An id stays that of the same
    message when others are deleted, and what a clone began with has ids of its own.
    """
    messages = await store.read_messages(thread.id)
    last, gapped = 0, set[str]()
    for each in messages:
        if each.pos != last + 1:
            gapped.add(each.run)
        last = each.pos
    asked = {}
    for run in gapped:
        events = await store.read_events(run)
        root = events[0].span if events else ""
        asked[run] = [
            e.seq
            for e in events
            if isinstance(e.data, MessageAdded) and e.data.message.role == "user"
            and e.span in (root, "import")
        ]  # fmt: skip
    found = [*grouped(messages, asked)]
    cloned = thread.meta.get("cloned_at") if "cloned_from" in thread.meta else None
    for group in found:
        if isinstance(cloned, int) and group.positions[0] <= cloned:
            group.id = f"{group.id}@{thread.id}"
    return found


def grouped(
    messages: Iterable[ThreadMessage], asked: Mapping[str, Sequence[int]] | None = None
) -> Iterator[Group]:
    """Oldest first, each a millisecond or more after the one before: clients sort by the times.
    What was answered in one turn is one. `asked` are the seqs of all that users said in a run,
    where not all of it is among the messages.
    """
    now: Group | None = None
    free = 0
    counts: dict[str, int] = {}
    for each in messages:
        role = "assistant" if each.message.role == "tool" else each.message.role
        if now is None or now.run != each.run or role != now.role or role in ("user", "system"):
            if now is not None:
                yield now
            known = (asked or {}).get(each.run)
            before = counts.get(each.run, 0)
            if known is not None:
                before = sum(seq < each.seq for seq in known)
            if role == "assistant":
                id = answer_id(each.run, before)
            else:
                id, counts[each.run] = question_id(each.run, before), before + 1
            at = each.at if ms(each.at) >= free else free / 1000
            free = ms(at) + 1
            now = Group(id=id, role=role, run=each.run, at=at, messages=[], positions=[])
        now.messages.append(each.message)
        now.positions.append(each.pos)
    if now is not None:
        yield now


def db_message(group: Group, thread: Thread) -> Json:
    """Mastra's stored message, in its format 2."""
    parts, invocations = _db_parts(group)
    content: Json = {"format": 2, "parts": parts, "metadata": {"runId": group.run}}
    text = "".join(p["text"] for p in parts if p["type"] == "text")
    if text:
        content["content"] = text
    if invocations:
        content["toolInvocations"] = invocations
    return {
        "id": group.id,
        "role": group.role,
        "createdAt": iso(group.at),
        "threadId": thread.id,
        "resourceId": thread.resource,
        "type": "v2",
        "content": content,
    }


def _db_parts(group: Group) -> tuple[list[Json], list[Json]]:
    results = {p.id: p for m in group.messages for p in m.parts if isinstance(p, ToolResult)}
    parts, invocations, at = list[Json](), list[Json](), round(group.at * 1000)
    for message in group.messages:
        if message.role == "assistant":
            parts.append({"type": "step-start"})
        for part in message.parts:
            match part:
                case Text():
                    parts.append({"type": "text", "text": part.text, "createdAt": at})
                case Reasoning():
                    thought = [{"type": "text", "text": part.text}]
                    parts.append({"type": "reasoning", "reasoning": part.text, "details": thought})
                case Media():
                    file = {"data": data_url(part), "mimeType": part.mime}
                    parts.append({"type": "file", **file})
                case ToolCall():
                    made: Json = {"state": "call", "toolCallId": part.id, "toolName": part.name}
                    made |= {"args": arguments(part), "step": len(invocations)}
                    if part.id in results:
                        made |= {"state": "result", "result": results[part.id].output}
                    invocations.append(made)
                    parts.append({"type": "tool-invocation", "toolInvocation": made})
                case ToolResult():
                    pass
    return parts, invocations


def ui_message(group: Group) -> Json:
    """The AI SDK's UI message (version 5)."""
    parts: list[Json] = []
    results = {p.id: p for m in group.messages for p in m.parts if isinstance(p, ToolResult)}
    for message in group.messages:
        if message.role == "assistant":
            parts.append({"type": "step-start"})
        for part in message.parts:
            match part:
                case Text():
                    parts.append({"type": "text", "text": part.text, "state": "done"})
                case Reasoning():
                    parts.append({"type": "reasoning", "text": part.text, "state": "done"})
                case Media():
                    file = {"url": data_url(part), "mediaType": part.mime}
                    parts.append({"type": "file", **file})
                case ToolCall():
                    made: Json = {"type": f"tool-{part.name}", "toolCallId": part.id}
                    made |= {"state": "input-available", "input": arguments(part)}
                    if (found := results.get(part.id)) is not None and found.is_error:
                        made |= {"state": "output-error", "errorText": str(found.output)}
                    elif found is not None:
                        made |= {"state": "output-available", "output": found.output}
                    parts.append(made)
                case ToolResult():
                    pass
    return {"id": group.id, "role": group.role, "parts": parts}


def iso(at: float) -> str:
    moment = datetime.fromtimestamp(ms(at) / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
