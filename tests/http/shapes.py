"""The wire shapes that the bad days are tried on: one more is one more row of SHAPES.

What a shape gives is what its vendor's server would send: pieces of a body, one event each.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mastra_nb.http.client import Retry, Timeouts
from mastra_nb.models import Model
from mastra_nb.providers.anthropic import AnthropicModel
from mastra_nb.providers.openai import OpenAIModel
from tests.http.server import chunk, sse

Pieces = list[bytes]
KEY = "canary-0123456789"


@dataclass(frozen=True)
class Shape:
    """`begin(text)` is an answer up to its text, `end()` what is missing of it, `marker` the
    last pieces of that after which nothing has to follow; `half_call()` begins a call of the
    tool "look" whose arguments are not whole, `call()` is an answer that makes it.
    `orphans` are the ids of calls in a request that have no result there.
    """

    name: str
    media: str
    make: Callable[[str, Retry, Timeouts | None], Model]
    begin: Callable[[str], Pieces]
    end: Callable[[], Pieces]
    half_call: Callable[[], Pieces]
    call: Callable[[], Pieces]
    error: Callable[[], bytes]
    orphans: Callable[[Any], set[str]]

    def whole(self, text: str) -> Pieces:
        return [*self.begin(text), *self.end()]


def _chat_model(url: str, retry: Retry, timeouts: Timeouts | None) -> Model:
    return OpenAIModel("m", base_url=url, api_key=KEY, retry=retry, timeouts=timeouts)


def _chat_call(args: str, id: str = "c1") -> dict[str, Any]:
    call = {"index": 0, "id": id, "function": {"name": "look", "arguments": args}}
    return {"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}


def _chat_orphans(body: Any) -> set[str]:
    messages = body["messages"]
    made = {call["id"] for m in messages for call in m.get("tool_calls") or ()}
    return made - {m["tool_call_id"] for m in messages if m["role"] == "tool"}


CHAT = Shape(
    name="chat",
    media="text/event-stream",
    make=_chat_model,
    begin=lambda text: sse(chunk(text), done=False),
    end=lambda: sse(chunk(finish="stop")),
    half_call=lambda: sse(_chat_call('{"at": "Os'), done=False),
    call=lambda: sse(_chat_call('{"at": "Oslo"}'), chunk(finish="tool_calls")),
    error=lambda: b'data: {"error": {"message": "overloaded", "code": 503}}\n\n',
    orphans=_chat_orphans,
)


def _messages_model(url: str, retry: Retry, timeouts: Timeouts | None) -> Model:
    return AnthropicModel("m", base_url=url, api_key=KEY, retry=retry, timeouts=timeouts)


def _named(*events: dict[str, Any]) -> Pieces:
    return [f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events]


def _messages_start() -> dict[str, Any]:
    usage = {"input_tokens": 3, "output_tokens": 1}
    message = {"id": "m1", "type": "message", "role": "assistant", "model": "m", "content": []}
    return {"type": "message_start", "message": {**message, "usage": usage}}


def _block(index: int, block: dict[str, Any], delta: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": block},
        {"type": "content_block_delta", "index": index, "delta": delta},
    ]


def _messages_call(index: int, args: str) -> list[dict[str, Any]]:
    block = {"type": "tool_use", "id": "c1", "name": "look", "input": {}}
    return _block(index, block, {"type": "input_json_delta", "partial_json": args})


def _messages_end(index: int, reason: str) -> list[dict[str, Any]]:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return [
        {"type": "content_block_stop", "index": index},
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ]


def _messages_orphans(body: Any) -> set[str]:
    blocks = [b for m in body["messages"] if isinstance(m["content"], list) for b in m["content"]]
    made = {b["id"] for b in blocks if b["type"] == "tool_use"}
    return made - {b["tool_use_id"] for b in blocks if b["type"] == "tool_result"}


def _messages_begin(text: str) -> Pieces:
    delta = {"type": "text_delta", "text": text}
    return _named(_messages_start(), *_block(0, {"type": "text", "text": ""}, delta))


MESSAGES = Shape(
    name="messages",
    media="text/event-stream",
    make=_messages_model,
    begin=_messages_begin,
    end=lambda: _named(*_messages_end(0, "end_turn")),
    half_call=lambda: _named(
        {"type": "content_block_stop", "index": 0}, *_messages_call(1, '{"at": "Os')
    ),
    call=lambda: _named(
        _messages_start(), *_messages_call(0, '{"at": "Oslo"}'), *_messages_end(0, "tool_use")
    ),
    error=lambda: _named(
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    )[0],
    orphans=_messages_orphans,
)

SHAPES = [CHAT, MESSAGES]
