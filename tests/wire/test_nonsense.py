"""Whatever JSON a service sends: a reply or a ModelError, never anything else."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mastra_nb.errors import ModelError
from mastra_nb.http.sse import ServerEvent
from mastra_nb.models import Reply
from mastra_nb.providers._chat import ChatCodec
from mastra_nb.providers._embeddings import read
from mastra_nb.providers._responses import ResponsesCodec
from mastra_nb.providers._vendors import VENDORS

MESSAGE = {
    "type": "message", "id": "m", "role": "assistant", "phase": "final_answer",
    "content": [{"type": "output_text", "text": "hi"}, {"type": "refusal", "refusal": "no"}],
}  # fmt: skip
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "namespace": "n"}
THOUGHT = {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "hm"}]}
RESPONSE = {
    "model": "m", "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"},
    "output": [THOUGHT, MESSAGE, CALL],
    "usage": {
        "input_tokens": 1, "input_tokens_details": {"cached_tokens": 1}, "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 1},
    },
}  # fmt: skip
RESPONSES = [
    {"type": "response.output_item.added", "output_index": 0, "item": CALL},
    {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "{}"},
    {"type": "response.output_item.done", "output_index": 0, "item": CALL},
    {
        "type": "response.output_text.delta",
        "output_index": 1,
        "content_index": 0,
        "delta": "x",
    },
    {"type": "response.reasoning_summary_text.done", "output_index": 2, "text": "hm"},
    {"type": "response.completed", "response": RESPONSE},
]
TOOL = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}, "extra_content": {}}
CHOICE = {
    "index": 0,
    "finish_reason": "stop",
    "delta": {
        "content": [{"type": "thinking", "thinking": [{"text": "hm"}]}, {"text": "x"}],
        "reasoning": "a", "refusal": "b", "tool_calls": [TOOL],
        "reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "t"}],
    },
}  # fmt: skip
CHAT = [
    {"id": "i", "model": "m", "choices": [CHOICE]},
    {"choices": [{"index": 0, "delta": {"function_call": {"name": "f", "arguments": "{}"}}}]},
    {
        "choices": [],
        "x_groq": {"usage": {"prompt_tokens": 1}},
        "usage": {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": 1}, "cost": 1},
    },
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "error": None},
]
BODY = {"model": "m", "choices": [{**CHOICE, "message": CHOICE["delta"]}], "usage": {"cost": 1}}
EMBEDDINGS = {"data": [{"index": 0, "embedding": [1.0, 2.0]}], "usage": {"prompt_tokens": 1}}

junk = st.sampled_from([None, True, 0, -1, 2.5, "", "x", [], [None], ["x"], [[]], {}, {"x": {}}])


def places(value: Any) -> list[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value))
    found = [(value, key) for key in keys]
    return found + [p for k in keys if isinstance(value[k], dict | list) for p in places(value[k])]


@st.composite
def spoilt(draw: st.DrawFn, value: Any) -> Any:
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(places(value) or [({}, 0)]))
        holder[key] = copy.deepcopy(draw(junk))
    return value


def stream(codec: Any, events: list[Any]) -> None:
    decoder = codec.decoder()
    try:
        for event in events:
            decoder.feed(ServerEvent(json.dumps(event).encode()))
        assert isinstance(decoder.finish(), Reply)
    except ModelError:
        pass


def whole(codec: Any, body: Any) -> None:
    try:
        assert isinstance(codec.decode_body(json.dumps(body).encode()), Reply)
    except ModelError:
        pass


@given(spoilt(RESPONSES), spoilt(RESPONSE))
def test_responses(events: list[Any], body: Any) -> None:
    codec = ResponsesCodec(VENDORS["openai"], "m")
    stream(codec, events)
    whole(codec, body)


@pytest.mark.parametrize("vendor", ["openai", "openrouter", "groq", "mistral"])
@given(spoilt(CHAT), spoilt(BODY))
def test_chat(vendor: str, events: list[Any], body: Any) -> None:
    codec = ChatCodec(VENDORS[vendor], "m")
    stream(codec, events)
    whole(codec, body)


@given(spoilt(EMBEDDINGS))
def test_embeddings(body: Any) -> None:
    try:
        assert len(read(VENDORS["openai"], json.dumps(body).encode(), 1).rows) == 1
    except ModelError:
        pass


def test_unspoilt_they_are_read() -> None:
    chat, responses = ChatCodec(VENDORS["openai"], "m"), ResponsesCodec(VENDORS["openai"], "m")
    assert responses.decode_body(json.dumps(RESPONSE).encode()).message.text == "hino"
    assert chat.decode_body(json.dumps(BODY).encode()).message.reasoning == "ahm"
