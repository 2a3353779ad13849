"""The wire shapes that the bad days are tried on: one more is one more row of SHAPES.

What a shape gives is what its vendor's server would send: pieces of a body, one event each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mastra_nb.http.client import Retry, Timeouts
from mastra_nb.models import Model
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

SHAPES = [CHAT]
