from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from mastra_nb import plugins
from mastra_nb.config import Secret
from mastra_nb.errors import ConfigError, NotFound, UsageError
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
from mastra_nb.providers._shared import fits_strict
from mastra_nb.providers._vendors import VENDORS, full_url
from mastra_nb.providers.openai import OpenAIModel, provider

PNG = Media(mime="image/png", data=b"\x89PNG")
CITY = {
    "type": "object",
    "title": "A city!",
    "properties": {"name": {"type": "string"}, "size": {"type": "integer"}},
    "required": ["name", "size"],
    "additionalProperties": False,
}
WEATHER = ToolSpec(name="weather", description="Weather of a city", parameters=CITY)
TURN = (
    system("Be brief."),
    user("What is this, and is it warm in Oslo?", PNG),
    Message(
        role="assistant",
        parts=(
            Reasoning(text="Look up Oslo."),
            Text(text="One moment."),
            ToolCall(id="call_1", name="weather", args='{"name": "Oslo"'),
            ToolCall(id="call_2", name="weather"),
        ),
    ),
    Message(
        role="tool",
        parts=(
            ToolResult(id="call_1", name="weather", output={"celsius": -3.5, "at": None}),
            ToolResult(id="call_2", name="weather", output="no such city", is_error=True),
        ),
    ),
)


def encode(request: ModelRequest, vendor: str = "openai", model: str = "gpt-4o") -> dict[str, Any]:
    wire = ChatCodec(VENDORS[vendor], model).encode(request, stream=True)
    assert wire.path == "/chat/completions"
    body: dict[str, Any] = json.loads(wire.body)
    return body


def test_a_plain_request() -> None:
    assert encode(ModelRequest(messages=(user("hi"),))) == {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_turn_with_tools_and_an_image() -> None:
    body = encode(ModelRequest(messages=TURN, tools=(WEATHER,)))
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this, and is it warm in Oslo?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
            ],
        },
        {
            "role": "assistant",
            "content": "One moment.",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"name": "Oslo"'},
                },
                {
                    "id": "call_2",
                    "type": "function",
                    "function": {"name": "weather", "arguments": "{}"},
                },
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": '{"celsius":-3.5,"at":null}'},
        {"role": "tool", "tool_call_id": "call_2", "content": "Error: no such city"},
    ]
    assert body["tools"][0]["function"]["parameters"] == CITY
    assert "tool_choice" not in body


@pytest.mark.parametrize(
    ("choice", "wire"),
    [
        ("none", "none"),
        ("required", "required"),
        ("weather", {"type": "function", "function": {"name": "weather"}}),
    ],
)
def test_tool_choice(choice: str, wire: object) -> None:
    request = ModelRequest(messages=TURN, tools=(WEATHER,), tool_choice=choice)
    assert encode(request)["tool_choice"] == wire
    assert "tool_choice" not in encode(ModelRequest(messages=TURN, tool_choice=choice))


def test_settings() -> None:
    settings = ModelSettings(
        temperature=0.0, top_p=0.5, max_tokens=9, seed=1, stop=("END",), extra={"user": "u", "n": 1}
    )
    request = ModelRequest(messages=(user("hi"),), settings=settings)
    body = encode(request)
    for key, value in {
        "temperature": 0.0, "top_p": 0.5, "max_tokens": 9, "seed": 1, "stop": ["END"], "user": "u",
    }.items():  # fmt: skip
        assert body[key] == value
    for model in ("o3-mini", "gpt-5-nano", "openai/o1"):
        body = encode(request, model=model)
        assert (body["max_completion_tokens"], "max_tokens" in body) == (9, False)
    body = encode(request, "mistral")
    assert (body["random_seed"], "seed" in body, "stream_options" in body) == (1, False, False)


def test_structured_output() -> None:
    body = encode(ModelRequest(messages=(user("hi"),), output=CITY))
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "A_city_", "schema": CITY, "strict": True},
    }
    body = encode(ModelRequest(messages=(user("hi"),), output={"type": "object"}))
    assert body["response_format"]["json_schema"]["strict"] is False


def test_structured_output_of_a_vendor_that_only_knows_json() -> None:
    body = encode(ModelRequest(messages=(user("hi"),), output=CITY), "deepseek")
    assert body["response_format"] == {"type": "json_object"}
    assert '"additionalProperties":false' in body["messages"][0]["content"]


@pytest.mark.parametrize(
    ("change", "strict"),
    [
        ({}, True),
        ({"additionalProperties": True}, False),
        ({"required": ["name"]}, False),
        ({"oneOf": []}, False),
        ({"properties": {"name": {}, "size": {"type": "integer"}}}, False),
        ({"properties": {"name": {"type": "object"}, "size": {"type": "integer"}}}, False),
        ({"properties": {"name": {"type": "array", "items": CITY}, "size": CITY}}, True),
        ({"properties": {"name": {"anyOf": [CITY, {"type": "null"}]}, "size": CITY}}, True),
        ({"properties": {"name": {"$ref": "#/$defs/C"}, "size": CITY}, "$defs": {"C": CITY}}, True),
        ({"$defs": {"C": {"type": "object"}}}, False),
        ({"type": "array"}, False),
    ],
)
def test_strict_only_where_the_schema_allows_it(change: dict[str, Any], strict: bool) -> None:
    assert fits_strict({**CITY, **change}) is strict


def test_media() -> None:
    parts = (
        Media(mime="image/jpeg", url="https://example.org/a.jpg"),
        Media(mime="audio/wav", data=b"RIFF"),
        Media(mime="application/pdf", data=b"%PDF"),
    )
    content = encode(ModelRequest(messages=(user(*parts),)))["messages"][0]["content"]
    assert [c["type"] for c in content] == ["image_url", "input_audio", "file"]
    assert content[0]["image_url"]["url"] == "https://example.org/a.jpg"
    for bad in (Media(mime="video/mp4", data=b"x"), Media(mime="application/pdf", url="https://x")):
        with pytest.raises(UsageError, match=bad.mime):
            encode(ModelRequest(messages=(user(bad),)))


def test_what_a_tool_shows_follows_as_the_users() -> None:
    result = Message(role="tool", parts=(ToolResult(id="a", name="f", output=1), PNG))
    wire = encode(ModelRequest(messages=(user("x"), result)))["messages"]
    assert [m["role"] for m in wire] == ["user", "tool", "user"]


@pytest.mark.parametrize(
    ("vendor", "key", "turns"),
    [
        ("deepseek", "reasoning_content", ["Look up Oslo.", None, "Look up Oslo."]),
        ("moonshot", "reasoning_content", ["Look up Oslo.", None, "Look up Oslo."]),
        ("zai", "reasoning_content", [None, None, "Look up Oslo."]),
        ("openai", None, []),
    ],
)
def test_reasoning_goes_back_within_its_turn_or_always(
    vendor: str, key: str | None, turns: list[str | None]
) -> None:
    request = ModelRequest(messages=(*TURN, assistant("Cold."), user("Why?"), *TURN[2:]))
    wire = [m for m in encode(request, vendor)["messages"] if m["role"] == "assistant"]
    assert [m.get(key) for m in wire if key] == turns
    assert ("Look up" in json.dumps(wire[0])) == (vendor in ("deepseek", "moonshot"))


def test_mistral_gets_its_thoughts_as_parts_and_ids_it_accepts() -> None:
    wire = encode(ModelRequest(messages=TURN), "mistral")["messages"]
    assert [c["type"] for c in wire[2]["content"]] == ["thinking", "text"]
    ids = [c["id"] for c in wire[2]["tool_calls"]]
    assert ids == [m["tool_call_id"] for m in wire[3:]]
    assert all(len(id) == 9 and id.isalnum() for id in ids)


def test_what_a_vendor_wants_back_goes_back_to_it_alone() -> None:
    details = [{"type": "reasoning.encrypted", "data": "blob"}]
    parts = (
        Reasoning(text="", extra={"openrouter": {"reasoning_details": details}}),
        Text(text="a"),
    )
    request = ModelRequest(messages=(user("x"), Message(role="assistant", parts=parts)))
    assert encode(request, "openrouter")["messages"][1]["reasoning_details"] == details
    assert encode(request, "groq")["messages"][1] == {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("name", "base_url", "path"),
    [
        ("openai/gpt-4o", None, "/chat/completions"),
        ("openai/gpt-5-mini", None, "/responses"),
        ("openai/o3", None, "/responses"),
        ("openai/codex-mini-latest", None, "/responses"),
        ("openai/o1-pro", None, "/responses"),
        ("openai/gpt-5", "https://eu.api.openai.com/v1", "/responses"),
        ("openai/gpt-5", "http://127.0.0.1:9/v1", "/chat/completions"),
        ("openai-responses/gpt-4o", "http://127.0.0.1:9/v1", "/responses"),
        ("openai-chat/gpt-5", None, "/chat/completions"),
        ("azure/gpt-5", "https://x.openai.azure.com", "/chat/completions"),
        ("azure-responses/gpt-5", "https://x.openai.azure.com", "/responses"),
        ("groq/openai/gpt-oss-20b", None, "/chat/completions"),
    ],
)
def test_which_api_a_model_is_asked_through(
    bare: pytest.MonkeyPatch, name: str, base_url: str | None, path: str
) -> None:
    vendor, _, model = name.partition("/")
    if base_url:
        bare.setenv("AZURE_OPENAI_ENDPOINT" if "azure" in name else "OPENAI_BASE_URL", base_url)
    made = plugins.providers.load(vendor)(vendor, model)
    request = ModelRequest(messages=(user("x"),))
    assert made._codec_at(made._find_url()).encode(request, stream=True).path == path
    assert made.name == f"{vendor.partition('-')[0]}/{model}"


@pytest.mark.parametrize(
    ("endpoint", "version", "path", "url"),
    [
        ("https://x.openai.azure.com", "", "/responses", "/openai/v1/responses"),
        ("https://x.openai.azure.com", "preview", "/chat/completions",
         "/openai/v1/chat/completions?api-version=preview"),
        ("https://x.openai.azure.com", "2024-10-21", "/chat/completions",
         "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"),
        ("https://x.openai.azure.com", "2025-04-01-preview", "/responses",
         "/openai/responses?api-version=2025-04-01-preview"),
        ("https://x.openai.azure.com", "2024-10-21", "/embeddings",
         "/openai/deployments/gpt-4o/embeddings?api-version=2024-10-21"),
        ("https://x.openai.azure.com/openai/deployments/mine?api-version=2024-10-21", "",
         "/chat/completions",
         "/openai/deployments/mine/chat/completions?api-version=2024-10-21"),
        ("https://x.openai.azure.com/openai/deployments/mine?api-version=2024-10-21", "",
         "/responses", "/openai/responses?api-version=2024-10-21"),
    ],
)  # fmt: skip
def test_addresses_of_azure(
    bare: pytest.MonkeyPatch, endpoint: str, version: str, path: str, url: str
) -> None:
    bare.setenv("AZURE_OPENAI_ENDPOINT", endpoint)
    if version:
        bare.setenv("OPENAI_API_VERSION", version)
    made = provider("azure", "gpt-4o")
    assert made._address(made._find_url(), path) == f"https://x.openai.azure.com{url}"


def test_a_version_of_azure_is_nothing_to_others(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("OPENAI_API_VERSION", "2024-10-21")
    made = provider("openai", "gpt-4o")
    url = made._address(made._find_url(), "/chat/completions")
    assert url == "https://api.openai.com/v1/chat/completions"


@pytest.mark.parametrize(
    ("name", "level", "wire"),
    [
        ("openai/gpt-4o", "high", {}),
        ("openai/gpt-5", "off", {"reasoning_effort": "minimal"}),
        ("openai/gpt-5.2", "off", {"reasoning_effort": "none"}),
        ("openai/o3", "off", {}),
        ("openai/o3", "low", {"reasoning_effort": "low"}),
        ("groq/openai/gpt-oss-20b", "high", {"reasoning_effort": "high"}),
        ("groq/llama-3.3-70b-versatile", "high", {}),
        ("groq/qwen/qwen3-32b", "medium", {"reasoning_effort": "default"}),
        ("openrouter/x/y", "off", {"reasoning": {"effort": "none"}}),
        ("xai/grok-4.3", "off", {"reasoning_effort": "none"}),
        ("moonshot/kimi-k3", "medium", {"reasoning_effort": "high"}),
        ("moonshot/kimi-k2.7-code", "off", {}),
        ("mistral/mistral-small-latest", "low", {"reasoning_effort": "high"}),
        ("mistral/magistral-medium-latest", "low", {}),
        ("zai/glm-4.6", "off", {"thinking": {"type": "disabled"}}),
        ("vllm/Qwen/Qwen3-8B", "off", {"chat_template_kwargs": {"enable_thinking": False}}),
        ("ollama/qwen3", "low", {"reasoning_effort": "low"}),
    ],
)
def test_how_each_is_asked_to_think(name: str, level: Any, wire: dict[str, Any]) -> None:
    vendor, _, model = name.partition("/")
    request = ModelRequest(messages=(user("x"),), settings=ModelSettings(reasoning=level))
    plain = encode(ModelRequest(messages=(user("x"),)), vendor, model)
    body = encode(request, vendor, model)
    assert {k: v for k, v in body.items() if k not in plain} == wire


def test_settings_go_only_where_they_exist() -> None:
    settings = ModelSettings(
        temperature=0.5, top_k=3, presence_penalty=0.1, seed=1, stop=("x",), parallel_tools=False
    )
    request = ModelRequest(messages=(user("x"),), tools=(WEATHER,), settings=settings)

    def sent(vendor: str, model: str) -> set[str]:
        names = {"temperature", "top_k", "presence_penalty", "seed", "stop", "parallel_tool_calls"}
        return names & set(encode(request, vendor, model))

    everything = {"temperature", "presence_penalty", "seed", "stop", "parallel_tool_calls"}
    assert sent("openai", "gpt-4o") == everything
    assert sent("openai", "gpt-5") == {"seed", "parallel_tool_calls"}
    assert sent("openai", "gpt-5.2") == everything - {"stop"}
    assert sent("openrouter", "x/y") == everything | {"top_k"}
    assert sent("deepseek", "deepseek-chat") == {"temperature", "presence_penalty", "stop"}
    assert sent("groq", "llama-3.1-8b-instant") == everything - {"presence_penalty"}
    assert sent("moonshot", "kimi-k2.6") == {"stop"}
    assert "parallel_tool_calls" not in encode(ModelRequest(messages=(), settings=settings))


def test_prompt_caching_can_be_forbidden_where_openai_lets_it() -> None:
    def body(model: str, cache: bool | None) -> dict[str, Any]:
        return encode(ModelRequest(messages=(), settings=ModelSettings(cache=cache)), model=model)

    assert body("gpt-5.6", False)["prompt_cache_options"] == {"mode": "explicit"}
    assert "prompt_cache_options" not in body("gpt-5.6", True) | body("gpt-5.2", False)


def test_groq_holds_a_schema_only_with_some_models_and_never_with_tools() -> None:
    for model, schema in (("openai/gpt-oss-20b", True), ("llama-3.3-70b-versatile", False)):
        profile = provider("groq", model).profile
        assert (profile.json_schema, profile.json_with_tools) == (schema, False)
        body = encode(ModelRequest(messages=(user("x"),), output=CITY), "groq", model)
        assert (body["response_format"]["type"] == "json_schema") is schema


def test_an_unknown_vendor() -> None:
    with pytest.raises(NotFound, match="did you mean .*mistral"):
        provider("mistrall", "x")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> pytest.MonkeyPatch:
    for row in VENDORS.values():
        for name in (*row.key_env, *row.url_env, *row.version_env):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


async def test_no_key(bare: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError) as caught:
        await provider("openai", "gpt-4o").invoke(ModelRequest(messages=()), None)  # type: ignore[arg-type]
    assert caught.value.message == 'no key for "openai": set OPENAI_API_KEY'
    assert ".env" in caught.value.hint
    assert 'model="local"' in caught.value.hint


async def test_no_address(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("AZURE_OPENAI_API_KEY", "k")
    with pytest.raises(ConfigError, match="AZURE_OPENAI_ENDPOINT"):
        await provider("azure", "gpt-4o").invoke(ModelRequest(messages=()), None)  # type: ignore[arg-type]


def test_keys_and_addresses_are_read_at_the_call(bare: pytest.MonkeyPatch) -> None:
    m = provider("openai", "gpt-4o")
    assert m._find_url() == "https://api.openai.com/v1"
    bare.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1/")
    bare.setenv("OPENAI_API_KEY", "canary-key")
    key, name = m._find_key()
    assert isinstance(key, Secret)
    assert (m._find_url(), name, key.reveal()) == (
        "http://127.0.0.1:9/v1", "OPENAI_API_KEY", "canary-key",
    )  # fmt: skip
    assert provider("ollama", "x")._find_key() == (None, "")


def test_a_key_of_the_environment_is_not_sent_to_just_any_address(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("OPENAI_API_KEY", "canary-key")
    m = OpenAIModel("m", base_url="http://elsewhere:8000")
    assert m._find_key() == (None, "")
    assert "pass api_key=" in m._hint(401, "", "http://elsewhere:8000/v1", "")
    bare.setenv("OPENAI_BASE_URL", "http://elsewhere:8000")
    assert provider("openai-compatible", "m")._find_key()[1] == "OPENAI_API_KEY"


@pytest.mark.parametrize(
    ("vendor", "value", "url"),
    [
        ("ollama", "gpu-box", "http://gpu-box:11434/v1"),
        ("ollama", "0.0.0.0:11500", "http://127.0.0.1:11500/v1"),
        ("ollama", "https://ollama.example.org", "https://ollama.example.org/v1"),
        ("ollama", "http://[::1]:11434", "http://[::1]:11434/v1"),
        ("azure", "https://x.openai.azure.com/", "https://x.openai.azure.com/openai/v1"),
        ("openai", "https://proxy.example.org/llm/v2/", "https://proxy.example.org/llm/v2"),
        ("perplexity", "https://api.perplexity.ai", "https://api.perplexity.ai"),
    ],
)
def test_addresses(vendor: str, value: str, url: str) -> None:
    assert full_url(value, VENDORS[vendor]) == url


def test_every_row_can_be_called() -> None:
    for name, row in VENDORS.items():
        assert row.name == name
        assert row.base_url or row.url_env
        assert row.key_env or not row.needs_key
        assert not row.base_url.endswith("/")
        assert repr(provider(name, "m")) == f'OpenAIModel("{name}/m")'


@pytest.mark.parametrize(
    ("name", "media", "reasoning"),
    [
        ("openai/gpt-4o-mini", True, False),
        ("openai/o3-mini", True, True),
        ("openai/gpt-5.1", True, True),
        ("openai/gpt-3.5-turbo", False, False),
        ("openrouter/anthropic/claude-sonnet-4", True, False),
        ("ollama/llava:7b", True, False),
        ("ollama/qwen3:8b", False, True),
        ("deepseek/deepseek-reasoner", False, True),
    ],
)
def test_profiles(name: str, media: bool, reasoning: bool) -> None:
    vendor, _, model = name.partition("/")
    found = provider(vendor, model).profile
    assert (bool(found.media), found.reasoning) == (media, reasoning)


def test_importing_loads_no_http_library() -> None:
    code = (
        "import sys; from mastra_nb.providers.openai import provider; provider('openai', 'x')\n"
        "assert not {'httpx', 'aiohttp', 'openai', 'numpy', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
