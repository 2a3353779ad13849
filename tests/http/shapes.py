"""The wire shapes that the bad days are tried on: one more is one more row of SHAPES.

What a shape gives is what its vendor's server would send: pieces of a body, one event each.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from mastra_nb.http.client import Retry, Timeouts
from mastra_nb.models import Model
from mastra_nb.providers.anthropic import AnthropicModel
from mastra_nb.providers.google import GoogleModel
from mastra_nb.providers.ollama import OllamaModel
from mastra_nb.providers.openai import OpenAIModel
from tests.http.server import chunk, sse

Pieces = list[bytes]
KEY = "canary-0123456789"
# Of a whole thought, and what must come back; of half a one nothing must.
SIGNATURE = "c2lnbmF0dXJl"
HALF = "half a thought"


@dataclass(frozen=True)
class Shape:
    """`begin(text)` is an answer up to its text, `end()` what is missing of it; `half_call()`
    begins a call of the tool "look" whose arguments are not whole, `call()` is an answer that
    makes it, where the vendor can with a signed thought before it; `half_thought()` begins an
    answer with a thought that is not whole. `check` refuses a request that the vendor would.
    """

    name: str
    media: str
    make: Callable[[str, Retry, Timeouts | None], Model]
    begin: Callable[[str], Pieces]
    end: Callable[[], Pieces]
    half_call: Callable[[], Pieces]
    call: Callable[[], Pieces]
    half_thought: Callable[[], Pieces]
    error: Callable[[], bytes]
    check: Callable[[Any], None]
    signed: bool = False
    httpx: bool = False

    def whole(self, text: str) -> Pieces:
        return [*self.begin(text), *self.end()]


def _chat_model(url: str, retry: Retry, timeouts: Timeouts | None) -> Model:
    return OpenAIModel("m", base_url=url, api_key=KEY, retry=retry, timeouts=timeouts)


def _chat_delta(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta}]}


def _chat_call(args: str, id: str = "c1") -> dict[str, Any]:
    call = {"index": 0, "id": id, "function": {"name": "look", "arguments": args}}
    return {"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}


def _chat_check(body: Any) -> None:
    """Every call is answered at once, every answer belongs to a call, nothing is empty."""
    waiting: list[str] = []
    for message in body["messages"]:
        role = message["role"]
        if role == "tool":
            waiting.remove(message["tool_call_id"])
            continue
        assert not waiting, f"no answer to {waiting}"
        assert role in ("system", "user", "assistant")
        calls = message.get("tool_calls") or []
        assert message["content"] or calls, message
        assert all(isinstance(json.loads(c["function"]["arguments"]), dict) for c in calls)
        waiting = [call["id"] for call in calls]
    assert body["messages"][-1]["role"] == "user"
    assert HALF not in json.dumps(body)


CHAT = Shape(
    name="chat",
    media="text/event-stream",
    make=_chat_model,
    begin=lambda text: sse(chunk(text), done=False),
    end=lambda: sse(chunk(finish="stop")),
    half_call=lambda: sse(_chat_call('{"at": "Os'), done=False),
    call=lambda: sse(_chat_call('{"at": "Oslo"}'), chunk(finish="tool_calls")),
    half_thought=lambda: sse(_chat_delta(reasoning_content=HALF), done=False),
    error=lambda: b'data: {"error": {"message": "overloaded", "code": 503}}\n\n',
    check=_chat_check,
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


def _thinking(delta: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": delta}


def _thought(text: str) -> list[dict[str, Any]]:
    block = {"type": "thinking", "thinking": "", "signature": ""}
    return _block(0, block, {"type": "thinking_delta", "thinking": text})


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


def _messages_check(body: Any) -> None:
    """Roles take turns, every call is answered in the next turn and first, thoughts are signed
    and not the last of their turn.
    """
    waiting: set[str] = set()
    roles = [message["role"] for message in body["messages"]]
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
    for message in body["messages"]:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        assert blocks
        answered = [b["tool_use_id"] for b in blocks if b["type"] == "tool_result"]
        assert [b["type"] for b in blocks[: len(answered)]] == ["tool_result"] * len(answered)
        assert sorted(answered) == sorted(waiting)
        waiting = {b["id"] for b in blocks if b["type"] == "tool_use"}
        assert all(isinstance(b["input"], dict) for b in blocks if b["type"] == "tool_use")
        assert all(b["text"].strip() for b in blocks if b["type"] == "text")
        thoughts = [b for b in blocks if b["type"] == "thinking"]
        assert all((b["thinking"], b["signature"]) == ("hm", SIGNATURE) for b in thoughts)
        assert blocks[-1]["type"] != "thinking"
    assert not waiting


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
        _messages_start(),
        *_thought("hm"),
        _thinking({"type": "signature_delta", "signature": SIGNATURE}),
        {"type": "content_block_stop", "index": 0},
        *_messages_call(1, '{"at": "Oslo"}'),
        *_messages_end(1, "tool_use"),
    ),
    half_thought=lambda: _named(_messages_start(), *_thought(HALF)),
    error=lambda: _named(
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    )[0],
    check=_messages_check,
    signed=True,
)

# OpenAI's Responses


def _responses_model(url: str, retry: Retry, timeouts: Timeouts | None) -> Model:
    return OpenAIModel(
        "gpt-5", api="responses", base_url=url, api_key=KEY, retry=retry, timeouts=timeouts
    )


_THOUGHT = {
    "type": "reasoning",
    "id": "rs1",
    "summary": [{"type": "summary_text", "text": "hm"}],
    "encrypted_content": SIGNATURE,
}
_CALL = {"type": "function_call", "id": "fc1", "call_id": "c1", "name": "look"}


def _said(text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "id": "msg1", "role": "assistant", "content": content}


def _added(index: int, item: dict[str, Any], state: str = "added") -> dict[str, Any]:
    return {"type": f"response.output_item.{state}", "output_index": index, "item": item}


def _responses_begin(text: str) -> Pieces:
    delta = {"output_index": 0, "content_index": 0, "delta": text}
    return _named(
        {"type": "response.created", "response": {"id": "r1", "status": "in_progress"}},
        _added(0, {"type": "message", "id": "msg1", "role": "assistant", "content": []}),
        {"type": "response.output_text.delta", **delta},
        # The item says what was said: an answer is read from its items if the last event is bare.
        _added(0, _said(text), "done"),
    )


def _responses_end(*items: dict[str, Any]) -> dict[str, Any]:
    usage = {"input_tokens": 3, "output_tokens": 2}
    response = {"id": "r1", "model": "m", "status": "completed", "output": list(items)}
    return {"type": "response.completed", "response": {**response, "usage": usage}}


def _half_arguments(index: int) -> list[dict[str, Any]]:
    delta = {"output_index": index, "delta": '{"at": "Os'}
    return [
        _added(index, {**_CALL, "arguments": ""}),
        {"type": "response.function_call_arguments.delta", **delta},
    ]


def _responses_check(body: Any) -> None:
    """Every call has its output after it, a thought is whole and followed by what came of it."""
    waiting: list[str] = []
    thought = False
    for item in body["input"]:
        kind = item.get("type", "message")
        if thought:
            assert kind == "function_call" or item.get("role") == "assistant", item
        thought = kind == "reasoning"
        if kind == "function_call":
            assert isinstance(json.loads(item["arguments"]), dict)
            waiting.append(item["call_id"])
        elif kind == "function_call_output":
            waiting.remove(item["call_id"])
        elif kind == "reasoning":
            assert item["encrypted_content"] == SIGNATURE
        else:
            assert not waiting
            assert item["content"]
    assert not (waiting or thought)
    assert HALF not in json.dumps(body)


RESPONSES = Shape(
    name="responses",
    media="text/event-stream",
    make=_responses_model,
    begin=_responses_begin,
    end=lambda: _named(_responses_end()),
    half_call=lambda: _named(*_half_arguments(1)),
    call=lambda: _named(
        _added(0, _THOUGHT, "done"),
        *_half_arguments(1),
        _responses_end(_THOUGHT, {**_CALL, "arguments": '{"at": "Oslo"}'}),
    ),
    half_thought=lambda: _named(
        _added(0, {"type": "reasoning", "id": "rs2", "summary": []}),
        {
            "type": "response.reasoning_summary_text.delta",
            "output_index": 0,
            "summary_index": 0,
            "delta": HALF,
        },
    ),
    error=lambda: _named({"type": "error", "code": "server_error", "message": "overloaded"})[0],
    check=_responses_check,
    signed=True,
)


# Google


def _google_model(url: str, retry: Retry, timeouts: Timeouts | None) -> Model:
    base = url.replace("/v1", "/v1beta")
    return GoogleModel(
        "gemini-3-pro-preview", base_url=base, api_key=KEY, retry=retry, timeouts=timeouts
    )


def _google(*parts: dict[str, Any], finish: str = "") -> bytes:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    usage = {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5}
    chunk = {"candidates": [candidate], "usageMetadata": usage, "responseId": "r1"}
    return b"data: " + json.dumps(chunk).encode() + b"\r\n\r\n"


def _google_check(body: Any) -> None:
    """Calls follow the user and are answered at once, all of them; the first of a turn is signed,
    a thought is whole.
    """
    waiting: list[str] = []
    for content in body["contents"]:
        parts = content["parts"]
        assert parts
        assert content["role"] in ("user", "model")
        answers = [p["functionResponse"]["id"] for p in parts if "functionResponse" in p]
        assert answers == waiting
        waiting = [p["functionCall"]["id"] for p in parts if "functionCall" in p]
        calls = [p for p in parts if "functionCall" in p]
        assert not calls or calls[0]["thoughtSignature"] == SIGNATURE
        assert all(p["thoughtSignature"] == SIGNATURE for p in parts if p.get("thought"))
        assert all(p["text"] for p in parts if "text" in p)
    assert not waiting
    assert body["contents"][-1]["role"] == "user"
    assert HALF not in json.dumps(body)


def _google_call(**fields: Any) -> dict[str, Any]:
    return {"functionCall": {"id": "c1", "name": "look", **fields}, "thoughtSignature": SIGNATURE}


GOOGLE = Shape(
    name="google",
    media="text/event-stream",
    make=_google_model,
    begin=lambda text: [_google({"text": text})],
    end=lambda: [_google({"text": ""}, finish="STOP")],
    half_call=lambda: [
        _google(
            _google_call(partialArgs=[{"jsonPath": "$.at", "stringValue": "Os"}], willContinue=True)
        )
    ],
    call=lambda: [
        _google({"text": "hm", "thought": True}),
        _google(_google_call(args={"at": "Oslo"}), finish="STOP"),
    ],
    half_thought=lambda: [_google({"text": HALF, "thought": True})],
    error=lambda: (
        b'data: {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}\r\n\r\n'
    ),
    check=_google_check,
    signed=True,
)


# Ollama's own


def _ollama_model(url: str, retry: Retry, timeouts: Timeouts | None) -> Model:
    return OllamaModel("qwen3", base_url=url, api_key=KEY, retry=retry, timeouts=timeouts)


def _line(done: bool = False, **message: Any) -> bytes:
    line: dict[str, Any] = {"model": "m", "created_at": "2026-01-01T00:00:00Z", "done": done}
    line["message"] = {"role": "assistant", "content": "", **message}
    if done:
        line |= {"done_reason": "stop", "prompt_eval_count": 3, "eval_count": 2}
    return json.dumps(line).encode() + b"\n"


def _ollama_check(body: Any) -> None:
    waiting: list[str] = []
    for message in body["messages"]:
        if message["role"] == "tool":
            waiting.remove(message["tool_call_id"])
            continue
        assert not waiting
        calls = message.get("tool_calls") or []
        assert message["content"] or calls
        assert all(isinstance(call["function"]["arguments"], dict) for call in calls)
        waiting = [call["id"] for call in calls]
    assert body["messages"][-1]["role"] == "user"
    assert HALF not in json.dumps(body)


OLLAMA = Shape(
    name="ollama",
    media="application/x-ndjson",
    make=_ollama_model,
    begin=lambda text: [_line(content=text)],
    end=lambda: [_line(done=True)],
    # Calls come whole here: half of one is half of a line.
    half_call=lambda: [_line(tool_calls=[_OLLAMA_CALL])[:-40]],
    call=lambda: [_line(tool_calls=[_OLLAMA_CALL]), _line(done=True)],
    half_thought=lambda: [_line(thinking=HALF)],
    error=lambda: b'{"error": "an error was encountered while running the model"}\n',
    check=_ollama_check,
)
_OLLAMA_CALL = {"id": "c1", "function": {"name": "look", "arguments": {"at": "Oslo"}}}


# Chat completions with differences


def _azure_model(url: str, retry: Retry, timeouts: Timeouts | None) -> Model:
    base = url.replace("/v1", "/openai/deployments/mine?api-version=2024-10-21")
    return OpenAIModel(
        "gpt-4o", vendor="azure", base_url=base, api_key=KEY, retry=retry, timeouts=timeouts
    )


def _azure_begin(text: str) -> Pieces:
    """First what it thinks of the prompt, in a chunk without a choice."""
    judged = {"hate": {"filtered": False, "severity": "safe"}}
    first = {"id": "", "choices": [], "model": "", "prompt_filter_results": [
        {"prompt_index": 0, "content_filter_results": judged}
    ]}  # fmt: skip
    return sse(first, chunk(text), done=False)


AZURE = replace(CHAT, name="azure", make=_azure_model, begin=_azure_begin)


def _openrouter_model(url: str, retry: Retry, timeouts: Timeouts | None) -> Model:
    return OpenAIModel(
        "anthropic/claude-sonnet-4.5", vendor="openrouter", base_url=url, api_key=KEY,
        retry=retry, timeouts=timeouts,
    )  # fmt: skip


_WAIT = b": OPENROUTER PROCESSING\n\n"


def _detail(**fields: Any) -> dict[str, Any]:
    detail = {"type": "reasoning.text", "index": 0, "format": "anthropic-claude-v1", **fields}
    return _chat_delta(content="", reasoning_details=[detail])


def _openrouter_check(body: Any) -> None:
    _chat_check(body)
    kept = [d for m in body["messages"] for d in m.get("reasoning_details", ())]
    assert all((d["text"], d["signature"]) == ("hm", SIGNATURE) for d in kept)


OPENROUTER = replace(
    CHAT,
    name="openrouter",
    make=_openrouter_model,
    begin=lambda text: [_WAIT, _WAIT, *sse(chunk(text), done=False)],
    call=lambda: sse(
        _detail(text="hm"),
        _detail(signature=SIGNATURE),
        _chat_call('{"at": "Oslo"}'),
        chunk(finish="tool_calls"),
    ),
    half_thought=lambda: sse(_detail(text=HALF), done=False),
    # A whole chunk, whose choice ends.
    error=lambda: sse(
        chunk("", finish="error", error={"code": "server_error", "message": "disconnected"}),
        done=False,
    )[0],
    check=_openrouter_check,
    signed=True,
)


def _groq_model(url: str, retry: Retry, timeouts: Timeouts | None) -> Model:
    return OpenAIModel(
        "qwen/qwen3-32b", vendor="groq", base_url=url, api_key=KEY, retry=retry, timeouts=timeouts
    )


GROQ = replace(
    CHAT,
    name="groq",
    make=_groq_model,
    half_thought=lambda: sse(_chat_delta(reasoning=HALF), done=False),
    error=lambda: (
        b'event: error\ndata: {"error": {"message": "over capacity", "status_code": 498,'
        b' "type": "internal_server_error"}}\n\n'
    ),
)

SHAPES = [
    CHAT,
    replace(CHAT, name="chat-httpx", httpx=True),
    MESSAGES,
    RESPONSES,
    GOOGLE,
    OLLAMA,
    AZURE,
    OPENROUTER,
    GROQ,
]
