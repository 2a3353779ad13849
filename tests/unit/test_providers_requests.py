"""What is sent is what the official SDKs could have sent: their request types, closed."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from groq.types.chat.completion_create_params import CompletionCreateParams as GroqChat
from openai.types.chat.completion_create_params import CompletionCreateParams as Chat
from openai.types.embedding_create_params import EmbeddingCreateParams
from openai.types.responses.response_create_params import ResponseCreateParams
from pydantic import ValidationError

from mastra_nb.messages import (
    Media,
    Message,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    ToolSpec,
    assistant,
    system,
    user,
)
from mastra_nb.models import ModelRequest, ModelSettings
from mastra_nb.providers._chat import ChatCodec
from mastra_nb.providers._embeddings import encode
from mastra_nb.providers._responses import ResponsesCodec
from mastra_nb.providers._vendors import VENDORS
from tests.openai_params import check

CITY: dict[str, Any] = {
    "title": "City",
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
    "additionalProperties": False,
}
TOOLS = (ToolSpec(name="weather", description="The weather of a city.", parameters=CITY),)
ITEM = {
    "id": "rs_1",
    "type": "reasoning",
    "summary": [{"type": "summary_text", "text": "Look up Oslo."}],
    "encrypted_content": "blob",
    "status": None,
}
SEARCH = {
    "id": "ws_1",
    "type": "web_search_call",
    "status": "completed",
    "action": {"type": "search", "query": "Oslo"},
}
LISTED = {
    "id": "mcpl_1",
    "type": "mcp_list_tools",
    "server_label": "s",
    "tools": [{"name": "t", "input_schema": {}, "annotations": None, "description": "d"}],
    "error": None,
}
SHELL = {
    "id": "sh_1",
    "type": "shell_call_output",
    "call_id": "c9",
    "output": [],
    "status": "completed",
    "created_by": "someone",
}
TURN = (
    system("Be brief."),
    user("Weather in Oslo?"),
    Message(
        role="assistant",
        parts=(
            Reasoning(text="Look up Oslo.", extra={"openai": {"item": ITEM}}),
            Reasoning(text="", extra={"openai": {"item": SEARCH}}),
            Reasoning(text="", extra={"openai": {"item": LISTED}}),
            Reasoning(text="", extra={"openai": {"item": SHELL}}),
            Text(text="I look.", extra={"openai": {"phase": "commentary"}}),
            ToolCall(
                id="call_1",
                name="weather",
                args='{"name":"Oslo"}',
                extra={"openai": {"namespace": "sky"}},
            ),
            ToolCall(id="call_2", name="weather", args="{"),
        ),
    ),
    Message(
        role="tool",
        parts=(
            ToolResult(id="call_1", name="weather", output={"celsius": -3}),
            ToolResult(id="call_2", name="weather", output="no such city", is_error=True),
            Media(mime="image/png", data=b"\x89PNG"),
        ),
    ),
)
MESSAGES = [
    (user("Hi"),),
    (system("s"), user("a"), assistant("b"), user("c")),
    (user("See", Media(mime="image/png", data=b"\x89PNG")),),
    (user(Media(mime="image/jpeg", url="https://example.org/a.jpg")),),
    (user("Read", Media(mime="application/pdf", data=b"%PDF")),),
    TURN,
]
SETTINGS = [
    ModelSettings(),
    ModelSettings(
        temperature=0.5, top_p=0.9, top_k=5, max_tokens=9, presence_penalty=0.1,
        frequency_penalty=0.2, seed=1, stop=("END",), parallel_tools=False, cache=False,
    ),
    *(ModelSettings(reasoning=level, max_tokens=9) for level in ("off", "low", "medium", "high")),
    ModelSettings(parallel_tools=True, cache=True, reasoning="high", temperature=1.0),
]  # fmt: skip
TOOL_CHOICES = ["", "auto", "none", "required", "weather"]
REQUESTS = [
    ModelRequest(
        messages=messages,
        tools=TOOLS if choice else (),
        tool_choice=choice or "auto",
        output=output,
        settings=settings,
    )
    for messages, choice, output, settings in itertools.product(
        MESSAGES, TOOL_CHOICES, (None, CITY, {"type": "object"}), SETTINGS
    )
]
# A prime apart, so that every value of every dimension is among them.
SOME = REQUESTS[::13]
MODELS = ["gpt-4o", "gpt-5", "gpt-5.2", "gpt-5.6-sol", "gpt-5-pro", "gpt-5-codex", "o3"]


def bodies(codec: Any, requests: list[ModelRequest] = REQUESTS) -> list[dict[str, Any]]:
    return [
        json.loads(codec.encode(request, stream=stream).body)
        for number, request in enumerate(requests)
        for stream in (number % 2 == 0,)
    ]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("vendor", ["openai", "azure", "openai-compatible"])
def test_chat(vendor: str, model: str) -> None:
    requests = REQUESTS if (vendor, model) == ("openai", "gpt-5.2") else SOME
    for body in bodies(ChatCodec(VENDORS[vendor], model), requests):
        check(Chat, body)


@pytest.mark.parametrize("model", MODELS)
def test_responses(model: str) -> None:
    thinks = model != "gpt-4o"
    requests = REQUESTS if model == "gpt-5.2" else SOME
    for body in bodies(ResponsesCodec(VENDORS["openai"], model, thinks=thinks), requests):
        check(ResponseCreateParams, body)
        kinds = [item.get("type") for item in body["input"]]
        assert ("reasoning" in kinds) == (thinks and "function_call" in kinds)


def test_a_file_by_its_link() -> None:
    part = Media(mime="application/pdf", url="https://example.org/a.pdf")
    request = ModelRequest(messages=(user("Read", part),))
    (body,) = bodies(ResponsesCodec(VENDORS["openai"], "gpt-5"), [request])
    check(ResponseCreateParams, body)
    assert body["input"][0]["content"][1] == {"type": "input_file", "file_url": part.url}


@pytest.mark.parametrize(
    "model", ["openai/gpt-oss-120b", "qwen/qwen3-32b", "llama-3.3-70b-versatile"]
)
def test_groq(model: str) -> None:
    # Files are not among what Groq's models read.
    requests = [r for r in SOME if r.messages is not MESSAGES[4]]
    for body in bodies(ChatCodec(VENDORS["groq"], model), requests):
        # The SDK's types have no stream options, the reference of the API has.
        check(GroqChat, body, beside=("stream_options",))


# What each documents beside OpenAI's own.
BESIDE = {
    "mistral": ("random_seed",),
    "deepseek": ("thinking",),
    "openrouter": ("top_k", "reasoning"),
    "together": ("top_k", "reasoning"),
    "fireworks": ("top_k",),
    "cerebras": ("disable_reasoning",),
    "moonshot": ("thinking",),
    "zai": ("thinking",),
    "perplexity": ("top_k",),
    "lmstudio": ("top_k",),
    "llamacpp": ("top_k", "chat_template_kwargs"),
    "vllm": ("top_k", "chat_template_kwargs"),
}
# Mistral and DeepSeek have their own fields for reasoning in messages.
TALK = [r for r in SOME if r.messages is not TURN]


@pytest.mark.parametrize("vendor", sorted(VENDORS))
def test_other_vendors_differ_where_they_say_so(vendor: str) -> None:
    seen: set[str] = set()
    for model in (
        "m",
        "gpt-oss-20b",
        "glm-4.6",
        "zai-glm-4.7",
        "kimi-k2.5",
        "mistral-small-latest",
    ):
        for body in bodies(ChatCodec(VENDORS[vendor], model), TALK):
            check(Chat, body, beside=BESIDE.get(vendor, ()))
            seen |= set(body)
    assert set(BESIDE.get(vendor, ())) <= seen
    assert not seen & VENDORS[vendor].lacks


@pytest.mark.parametrize(("vendor", "size"), [("openai", None), ("openai", 256), ("azure", 3)])
def test_embeddings(vendor: str, size: int | None) -> None:
    body = json.loads(encode(VENDORS[vendor], "text-embedding-3-small", ["a", "b"], size))
    check(EmbeddingCreateParams, body)
    assert body.get("dimensions") == size


@pytest.mark.parametrize(
    "change",
    [
        {"unknown": 1},
        {"input": [{"role": "user", "content": "x", "unknown": 1}]},
        {"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]},
        {"tools": [{"type": "function", "name": "f", "parameters": {}}]},
        {"text": {"format": {"type": "json_schema", "name": "n"}}},
        {"reasoning": {"effort": "mighty"}},
    ],
)
def test_the_check_itself_fails(change: dict[str, Any]) -> None:
    body = {"model": "m", "input": [{"role": "user", "content": "x"}], "stream": True}
    check(ResponseCreateParams, body)
    with pytest.raises(ValidationError):
        check(ResponseCreateParams, {**body, **change})
