from __future__ import annotations

import json
from typing import Any

import pytest

from mastra_nb.errors import ModelHTTPError, ModelOutputError, UsageError
from mastra_nb.http.ndjson import LineDecoder
from mastra_nb.http.sse import ServerEvent
from mastra_nb.messages import Media, Message, Reasoning, ToolCall, ToolResult, ToolSpec, user
from mastra_nb.models import ModelRequest, ModelSettings
from mastra_nb.plugins import providers
from mastra_nb.providers.ollama import OllamaCodec, OllamaModel

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"x": {"type": "integer"}}}
TOOLS = tuple(ToolSpec(name=n, description=n, parameters=SCHEMA) for n in ("f", "g"))


def encode(request: ModelRequest, model: str = "m", *, thinks: bool = False) -> dict[str, Any]:
    wire = OllamaCodec(model, thinks=thinks).encode(request, stream=True)
    assert (wire.path, wire.framing) == ("/api/chat", LineDecoder)
    body: dict[str, Any] = json.loads(wire.body)
    return body


def test_a_turn() -> None:
    call = ToolCall(id="a", name="f", args='{"x": 1}')
    messages = (
        user("look", Media(mime="image/png", data=b"\x89PNG")),
        Message(role="assistant", parts=(Reasoning(text="hm"), call)),
        Message(role="tool", parts=(ToolResult(id="a", name="f", output="no", is_error=True),)),
    )
    body = encode(ModelRequest(messages=messages, tools=TOOLS, output=SCHEMA))
    function = {"name": "f", "arguments": {"x": 1}}
    assert body["messages"] == [
        {"role": "user", "content": "look", "images": ["iVBORw=="]},
        {
            "role": "assistant",
            "content": "",
            "thinking": "hm",
            "tool_calls": [{"id": "a", "function": function}],
        },
        {"role": "tool", "content": "Error: no", "tool_name": "f", "tool_call_id": "a"},
    ]
    assert body["format"] == SCHEMA
    assert [t["function"]["name"] for t in body["tools"]] == ["f", "g"]


def test_a_tool_choice_takes_the_others_away() -> None:
    def names(choice: str) -> list[str]:
        body = encode(ModelRequest(messages=(user("x"),), tools=TOOLS, tool_choice=choice))
        return [t["function"]["name"] for t in body.get("tools", ())]

    assert (names("none"), names("g"), names("required")) == ([], ["g"], ["f", "g"])


def test_settings() -> None:
    settings = ModelSettings(
        temperature=0, top_p=0.5, top_k=3, max_tokens=9, seed=1, stop=("END",), reasoning="low",
        extra={"num_ctx": 8192, "keep_alive": "5m", "options": {"mirostat": 1}},
    )  # fmt: skip
    request = ModelRequest(messages=(user("x"),), settings=settings)
    body = encode(request)
    assert body["options"] == {
        "temperature": 0, "top_p": 0.5, "top_k": 3, "num_predict": 9, "seed": 1, "stop": ["END"],
        "mirostat": 1, "num_ctx": 8192,
    }  # fmt: skip
    assert (body["keep_alive"], "think" in body) == ("5m", False)
    assert encode(request, thinks=True)["think"] is True
    assert encode(request, "gpt-oss:20b", thinks=True)["think"] == "low"


def test_only_images_as_data() -> None:
    for bad in (Media(mime="image/png", url="https://x"), Media(mime="audio/wav", data=b"x")):
        with pytest.raises(UsageError, match=bad.mime):
            encode(ModelRequest(messages=(user(bad),)))


def test_lines_end_anywhere() -> None:
    raw = '{"a":"é"}\r\n\n{"b":2}\n{"c"'.encode()
    whole = LineDecoder()
    expected = [*whole.feed(raw), *whole.close()]
    assert len(expected) == 3
    for size in range(1, len(raw)):
        lines = LineDecoder()
        found = [e for i in range(0, len(raw), size) for e in lines.feed(raw[i : i + size])]
        assert [*found, *lines.close()] == expected


def test_bad_lines_are_typed_errors() -> None:
    def feed(*lines: bytes) -> None:
        decoder = OllamaCodec("m").decoder()
        for line in lines:
            decoder.feed(ServerEvent(line))
        decoder.finish()

    good = b'{"message": {"content": "a"}, "done": false}'
    with pytest.raises(ModelHTTPError, match="out of memory") as caught:
        feed(good, b'{"error": "out of memory"}')
    assert caught.value.code == "model.stream_error"
    with pytest.raises(ModelHTTPError, match="middle"):
        feed(good)
    for bad in (b"{", b"[]", b'{"choices": []}'):
        with pytest.raises(ModelOutputError):
            feed(bad)


def test_two_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    monkeypatch.delenv("OLLAMA_BASE_URL", raising=False)
    native, compatible = (providers.load(n)(n, "m") for n in ("ollama", "ollama-v1"))
    assert isinstance(native, OllamaModel)
    assert (native.name, compatible.name) == ("ollama/m", "ollama-v1/m")
    assert compatible._find_url() == "http://127.0.0.1:11434/v1"
    assert "`ollama pull m`" in native._hint(404, "", "", "")
    assert "`ollama pull m`" in compatible._hint(404, "", "", "")
    assert "ollama serve" in native._hint(0, "refused", "", "")


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("gpu-box", "http://gpu-box:11434"),
        ("0.0.0.0:11500", "http://127.0.0.1:11500"),
        ("https://ollama.example.org/", "https://ollama.example.org"),
        ("http://localhost:11434/v1", "http://localhost:11434"),
        ("http://localhost:11434/api/", "http://localhost:11434"),
        ("http://proxy/ollama", "http://proxy:11434/ollama"),
        ("[::1]:11434", "http://[::1]:11434"),
    ],
)
def test_addresses(monkeypatch: pytest.MonkeyPatch, value: str, url: str) -> None:
    monkeypatch.delenv("OLLAMA_BASE_URL", raising=False)
    monkeypatch.setenv("OLLAMA_HOST", value)
    assert OllamaModel("m")._find_url() == url
