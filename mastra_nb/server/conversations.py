"""OpenAI's conversations, as Mastra's client has them too: a conversation is a thread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec

from mastra_nb.memory.threads import append_messages
from mastra_nb.messages import Media, Message, Text, ToolCall, ToolResult
from mastra_nb.server import _turns
from mastra_nb.server._asking import agent_of, new_id, valid_id
from mastra_nb.server._routes import BadRequest, Call, Json, Routes
from mastra_nb.server._words import text_of
from mastra_nb.server.memory import (
    claimed,
    conversation,
    memory_of,
    store_of,
    thread_json,
    thread_of,
)
from mastra_nb.server.openai import messages_of
from mastra_nb.storage import Thread

routes = Routes("OpenAI")

_ABSENT = "Conversation not found"


class NewConversation(msgspec.Struct):
    agent_id: str | None = None
    conversation_id: str | None = None
    resource_id: str | None = None
    title: str | None = None
    metadata: dict[str, Any] | None = None
    items: list[dict[str, Any]] | None = None


class ItemsQuery(msgspec.Struct):
    """As OpenAI's client pages; without `limit` all of them."""

    after: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1)] | None = None
    order: Literal["asc", "desc"] = "asc"


def _shown(thread: Thread) -> Json:
    return {
        "id": thread.id,
        "object": "conversation",
        "created_at": int(thread.created),
        "metadata": thread.meta,
        "thread": thread_json(thread),
    }


async def create(call: Call) -> Json:
    """Make a conversation, or give the one of that id"""
    body: NewConversation = call.body
    if body.agent_id:
        agent_of(call, body.agent_id)
    id = body.conversation_id or f"conv_{new_id()}"
    if not valid_id(id):
        issue = {"field": "conversation_id", "message": "no id"}
        raise BadRequest("Invalid request body", [issue])
    said = _turns.asked(messages_of(body.items, "items")).messages if body.items else []
    thread = await claimed(call, id, body.resource_id, body.title, body.metadata)
    if said:
        await append_messages(store_of(call), call.app.services, thread, said)
    return _shown(thread)


async def retrieve(call: Call) -> Json:
    """One conversation"""
    return _shown(await thread_of(call, call.path["conversationId"], _ABSENT))


async def delete(call: Call) -> Json:
    """Delete a conversation, with all that is kept beside it"""
    thread = await thread_of(call, call.path["conversationId"], _ABSENT)
    await conversation(call, memory_of(call, None), thread.id).delete()
    return {"id": thread.id, "object": "conversation.deleted", "deleted": True}


async def items(call: Call) -> Json:
    """What was said in a conversation, and the calls of tools in it, oldest first"""
    thread, asked = await thread_of(call, call.path["conversationId"], _ABSENT), call.query
    groups = await _turns.groups_of(store_of(call), thread)
    found = [item for group in groups for item in _items(group)]
    if asked.order == "desc":
        found.reverse()
    if asked.after is not None:
        place = next((n for n, item in enumerate(found) if item["id"] == asked.after), None)
        if place is None:
            issue = {"field": "after", "message": "the id of an item"}
            raise BadRequest("Invalid query parameters", [issue])
        found = found[place + 1 :]
    shown = found[: asked.limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(shown) < len(found),
    }


def _items(group: _turns.Group) -> Iterator[Json]:
    """The first that is said has the id of the message, what follows numbers after it."""
    said = 0
    for message in group.messages:
        content = [*_content(message)]
        if content:
            id = f"{group.id}.{said}" if said else group.id
            said += 1
            about = {"id": id, "type": "message", "role": message.role, "status": "completed"}
            yield about | {"content": content}
        for part in message.parts:
            match part:
                case ToolCall():
                    yield {
                        "id": f"fc_{part.id}",
                        "type": "function_call",
                        "call_id": part.id,
                        "name": part.name,
                        "arguments": text_of(_turns.arguments(part)),
                        "status": "completed",
                    }
                case ToolResult():
                    output = part.output if isinstance(part.output, str) else text_of(part.output)
                    about = {"id": f"fco_{part.id}", "type": "function_call_output"}
                    yield about | {"call_id": part.id, "output": output}
                case _:
                    pass


def _content(message: Message) -> Iterator[Json]:
    for part in message.parts:
        match part:
            case Text() if message.role == "assistant":
                yield {"type": "output_text", "text": part.text, "annotations": []}
            case Text():
                yield {"type": "input_text", "text": part.text}
            case Media() if part.mime.startswith("image/"):
                image = {"type": "input_image", "image_url": _turns.data_url(part)}
                yield image | {"detail": "auto"}
            case Media():
                yield {"type": "input_file", "file_data": _turns.data_url(part)}
            case _:
                pass


for _prefixed in (True, False):
    _more: Any = {"prefixed": _prefixed, "openai": True, "response": dict[str, Any]}
    _one = "/v1/conversations/{conversationId}"
    routes.post("/v1/conversations", body=NewConversation, optional=True, **_more)(create)
    routes.get(_one, **_more)(retrieve)
    routes.delete(_one, **_more)(delete)
    routes.get(f"{_one}/items", query=ItemsQuery, **_more)(items)
