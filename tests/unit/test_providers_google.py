from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from mastra_nb.config import Secret
from mastra_nb.errors import ConfigError, ModelHTTPError, ModelOutputError, ModelRefused, UsageError
from mastra_nb.events import ArgsDelta
from mastra_nb.http.sse import ServerEvent
from mastra_nb.messages import (
    Media,
    Message,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    ToolSpec,
    system,
    user,
)
from mastra_nb.models import ModelRequest, ModelSettings, Reply
from mastra_nb.providers._google_answer import _FINISH, GeminiDecoder
from mastra_nb.providers.google import (
    GeminiCodec,
    GoogleModel,
    VertexModel,
    adapt,
    known_profile,
    provider,
    thinking,
)

CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
}
TOOLS = (ToolSpec(name="weather", description="Weather", parameters=CITY),)
SIGNED = {"google": {"thoughtSignature": "c2ln"}}
TURN = (
    system("Be brief."),
    user(
        "hi",
        Media(mime="image/png", data=b"\x89PNG"),
        Media(mime="video/mp4", url="https://v/x.mp4"),
    ),
    Message(
        role="assistant",
        parts=(
            Reasoning(text="hm", extra=SIGNED),
            Reasoning(
                text="",
                extra={"google": {"part": {"executableCode": {"code": "1", "language": "PYTHON"}}}},
            ),
            Reasoning(text="of another model"),
            Text(text="One moment."),
            ToolCall(id="a", name="weather", args='{"name": "Oslo"}', extra=SIGNED),
            ToolCall(id="b", name="weather", args='{"name": '),
        ),
    ),
    Message(role="tool", parts=(ToolResult(id="a", name="weather", output={"c": -3}),)),
    Message(
        role="tool",
        parts=(ToolResult(id="b", name="weather", output="no such city", is_error=True),),
    ),
    user("And now?"),
)


def encode(request: ModelRequest, model: str = "gemini-3-flash-preview") -> dict[str, Any]:
    body: dict[str, Any] = json.loads(GeminiCodec(model).encode(request, stream=True).body)
    return body


def read(*chunks: Any) -> Reply:
    decoder = GeminiDecoder("google")
    for chunk in chunks:
        decoder.feed(ServerEvent(json.dumps(chunk).encode()))
    return decoder.finish()


def said(*parts: dict[str, Any], finish: str = "STOP", **more: Any) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": list(parts)}, "finishReason": finish}
    return {"responseId": "r1", "candidates": [{k: v for k, v in candidate.items() if v}], **more}


def test_a_turn_with_tools() -> None:
    body = encode(ModelRequest(messages=TURN, tools=TOOLS))
    assert body["systemInstruction"] == {"parts": [{"text": "Be brief."}]}
    assert [c["role"] for c in body["contents"]] == ["user", "model", "user", "user"]
    model, results = body["contents"][1]["parts"], body["contents"][2]["parts"]
    assert model == [
        {"text": "hm", "thought": True, "thoughtSignature": "c2ln"},
        {"executableCode": {"code": "1", "language": "PYTHON"}},
        {"text": "One moment."},
        {
            "functionCall": {"id": "a", "name": "weather", "args": {"name": "Oslo"}},
            "thoughtSignature": "c2ln",
        },
        {"functionCall": {"id": "b", "name": "weather", "args": {"invalid_json": '{"name": '}}},
    ]
    assert [r["functionResponse"] for r in results] == [
        {"id": "a", "name": "weather", "response": {"output": {"c": -3}}},
        {"id": "b", "name": "weather", "response": {"error": "no such city"}},
    ]


def test_a_call_of_another_model_gets_the_documented_stand_in() -> None:
    calls = Message(
        role="assistant", parts=(ToolCall(id="a", name="f"), ToolCall(id="b", name="f"))
    )
    new = encode(ModelRequest(messages=(user("x"), calls)))["contents"][1]["parts"]
    assert ["thoughtSignature" in p for p in new] == [True, False]
    old = encode(ModelRequest(messages=(user("x"), calls)), "gemini-2.5-flash")["contents"][1]
    assert not any("thoughtSignature" in p for p in old["parts"])


def test_requests_are_what_the_official_sdk_would_send() -> None:
    types = pytest.importorskip("google.genai.types")
    settings = ModelSettings(
        temperature=0.5, top_p=0.9, top_k=4, max_tokens=9, presence_penalty=0.1, seed=3,
        frequency_penalty=0.2, stop=("END",), extra={"safetySettings": [], "labels": {"a": "b"}},
    )  # fmt: skip
    choices = ("auto", "none", "required", "weather")
    levels = (None, "off", "low", "medium", "high")
    models = ("gemini-2.0-flash", "gemini-2.5-pro", "gemini-3-flash-preview")
    for model, choice, level, output in itertools.product(models, choices, levels, (None, CITY)):
        request = ModelRequest(
            messages=TURN,
            tools=TOOLS,
            tool_choice=choice,
            output=output,
            settings=ModelSettings(
                **{f: getattr(settings, f) for f in settings.__struct_fields__ if f != "reasoning"},
                reasoning=level,
            ),
        )
        body = encode(request, model)
        for content in body.pop("contents"):
            types.Content.model_validate(content)
        config = types.GenerationConfig.model_validate(body.pop("generationConfig"))
        assert config.temperature == 0.5
        assert (config.response_json_schema is not None) is (output is not None)
        types.GenerateContentConfig.model_validate(body)


@pytest.mark.parametrize(
    ("choice", "config"),
    [
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        ("weather", {"mode": "ANY", "allowedFunctionNames": ["weather"]}),
    ],
)
def test_tool_choice(choice: str, config: object) -> None:
    body = encode(ModelRequest(messages=TURN, tools=TOOLS, tool_choice=choice))
    assert body["toolConfig"] == {"functionCallingConfig": config}
    assert "toolConfig" not in encode(ModelRequest(messages=TURN, tool_choice=choice))


def test_tools_of_the_server_join_ours() -> None:
    settings = ModelSettings(extra={"tools": [{"googleSearch": {}}]})
    body = encode(ModelRequest(messages=TURN, tools=TOOLS, settings=settings))
    assert [next(iter(t)) for t in body["tools"]] == ["functionDeclarations", "googleSearch"]


@pytest.mark.parametrize(
    ("model", "level", "config"),
    [
        ("gemini-2.0-flash", "high", None),
        ("gemini-2.5-flash", "off", {"thinkingBudget": 0}),
        ("gemini-2.5-pro", "off", {"thinkingBudget": 128}),
        ("gemini-2.5-pro", "low", {"thinkingBudget": 1024, "includeThoughts": True}),
        ("gemini-3-flash-preview", "off", {"thinkingLevel": "MINIMAL"}),
        ("gemini-3.8-flash", "off", {"thinkingLevel": "LOW"}),
        ("gemini-3-pro-preview", "medium", {"thinkingLevel": "HIGH", "includeThoughts": True}),
        ("gemini-3.1-pro-preview", "medium", {"thinkingLevel": "MEDIUM", "includeThoughts": True}),
    ],
)
def test_thinking(model: str, level: str, config: object) -> None:
    assert thinking(model, level) == config


def test_schemas_in_the_words_gemini_knows() -> None:
    assert adapt(
        {
            "$schema": "x",
            "properties": {
                "const": {"const": 1},
                "n": {"exclusiveMinimum": 0, "oneOf": [{"type": "integer"}]},
                "r": {"$ref": "#/definitions/T", "description": "gone"},
            },
            "definitions": {"T": {"type": "string", "default": {"const": 1}}},
        }
    ) == {
        "properties": {
            "const": {"enum": [1]},
            "n": {"minimum": 0, "anyOf": [{"type": "integer"}]},
            "r": {"$ref": "#/$defs/T"},
        },
        "$defs": {"T": {"type": "string", "default": {"const": 1}}},
    }


def test_media_needs_data_or_a_link() -> None:
    with pytest.raises(UsageError, match="without data"):
        encode(ModelRequest(messages=(user(Media(mime="image/png")),)))


def test_signed_text_is_not_joined_and_unknown_parts_are_kept() -> None:
    code = {"executableCode": {"code": "1"}, "thoughtSignature": "s1"}
    end = {"text": "", "thoughtSignature": "s3"}
    reply = read(
        said({"text": "a"}, finish=""),
        said({"text": "b"}, code, finish=""),
        said({"text": "c", "thoughtSignature": "s2"}, {"text": "d"}, end),
    )
    texts = [p.text for p in reply.message.parts if isinstance(p, Text)]
    assert (texts, reply.message.text, reply.message.reasoning) == (["ab", "c", "d"], "abcd", "")
    again = encode(ModelRequest(messages=(user("x"), reply.message)))["contents"][1]["parts"]
    assert again == [
        {"text": "ab"}, code, {"text": "c", "thoughtSignature": "s2"}, {"text": "d"}, end,
    ]  # fmt: skip


def test_arguments_in_pieces() -> None:
    def piece(**call: Any) -> dict[str, Any]:
        return said({"functionCall": call}, finish="")

    decoder = GeminiDecoder("vertex")
    found: list[Any] = []
    for chunk in (
        piece(name="f", willContinue=True),
        piece(
            partialArgs=[{"jsonPath": "$.a.b[1]", "stringValue": "x", "willContinue": True}],
            willContinue=True,
        ),
        piece(partialArgs=[{"jsonPath": "$.a.b[1]", "stringValue": "y"}], willContinue=True),
        piece(partialArgs=[{"jsonPath": "$['n']", "numberValue": 2}], willContinue=True),
        piece(),
        said({"functionCall": {"name": "g"}}),
    ):
        found += decoder.feed(ServerEvent(json.dumps(chunk).encode()))
    args = '{"a":{"b":[null,"xy"]},"n":2}'
    assert found == [
        ArgsDelta(id="r1-0", name="f", text=args), ArgsDelta(id="r1-1", name="g", text="{}"),
    ]  # fmt: skip
    assert [c.args for c in decoder.finish().message.tool_calls] == [args, "{}"]


def test_every_finish_reason_of_the_sdk_is_known() -> None:
    types = pytest.importorskip("google.genai.types")
    vague = {
        "FINISH_REASON_UNSPECIFIED", "LANGUAGE", "OTHER", "ESCALATION", "CONTINUATION",
        "PUP_LIMITED_DISABLED",
    }  # fmt: skip
    assert {r.value for r in types.FinishReason} - set(_FINISH) == vague
    assert read(said({"text": "x"}, finish="OTHER")).finish == "other"
    assert read(said(finish="MALFORMED_FUNCTION_CALL")).finish == "error"
    assert read(said({"text": "x"}, finish="SAFETY")).finish == "content-filter"
    with pytest.raises(ModelRefused, match="RECITATION"):
        read(said(finish="RECITATION"))


def test_a_blocked_prompt_is_a_refusal() -> None:
    with pytest.raises(ModelRefused, match="SAFETY") as caught:
        read({"promptFeedback": {"blockReason": "SAFETY", "blockReasonMessage": "no"}})
    assert caught.value.details["refusal"] == "no"


def test_bad_answers_are_typed_errors() -> None:
    with pytest.raises(ModelHTTPError, match="overloaded") as caught:
        read(said({"text": "a"}, finish=""), {"error": {"code": 503, "message": "overloaded"}})
    assert (caught.value.code, caught.value.status) == ("model.stream_error", 503)
    with pytest.raises(ModelHTTPError, match="middle"):
        read(said({"text": "a"}, finish=""))
    codec = GeminiCodec("m")
    for body in (b"{", b"[1]", b"{}", b"[]"):
        with pytest.raises(ModelOutputError):
            codec.decode_body(body)


def test_an_array_body_and_media() -> None:
    media = {"inlineData": {"mimeType": "image/png", "data": "iVBORw=="}}
    chunks = [said({"text": "a"}, finish=""), said({"text": "b"}, media)]
    reply = GeminiCodec("m").decode_body(json.dumps(chunks).encode())
    assert reply.message.parts == (Text(text="ab"), Media(mime="image/png", data=b"\x89PNG"))


def test_what_lies_beside_the_text_stays_in_raw() -> None:
    first = said({"text": "a"}, finish="")
    first["candidates"][0]["groundingMetadata"] = {"webSearchQueries": ["q"]}
    reply = read(first, said({"text": "b"}))
    assert reply.raw["candidates"][0]["groundingMetadata"] == {"webSearchQueries": ["q"]}
    assert reply.message.text == "ab"


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> pytest.MonkeyPatch:
    for name in (
        "GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_GENERATIVE_AI_API_KEY", "GOOGLE_ACCESS_TOKEN",
        "GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION", "GOOGLE_GEMINI_BASE_URL",
        "GOOGLE_VERTEX_BASE_URL",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


async def test_key_and_address(bare: pytest.MonkeyPatch) -> None:
    model = provider("gemini", "gemini-2.5-flash")
    assert model.name == "google/gemini-2.5-flash"
    with pytest.raises(ConfigError, match="GOOGLE_API_KEY"):
        await model._find_auth()
    bare.setenv("GEMINI_API_KEY", "canary")
    auth, name = await model._find_auth()
    assert (name, repr(auth)) == ("GEMINI_API_KEY", repr({"x-goog-api-key": Secret("canary")}))
    bare.setenv("GOOGLE_GEMINI_BASE_URL", "http://127.0.0.1:9")
    assert model._find_url() == "http://127.0.0.1:9/v1beta"


async def test_vertex_with_a_token_or_a_key(bare: pytest.MonkeyPatch) -> None:
    model = VertexModel("gemini-2.5-flash", location="europe-west4", token=lambda: "canary")
    with pytest.raises(ConfigError, match="GOOGLE_CLOUD_PROJECT"):
        model._find_url()
    bare.setenv("GOOGLE_CLOUD_PROJECT", "p")
    home = "/v1beta1/projects/p/locations/"
    assert model._find_url() == f"https://europe-west4-aiplatform.googleapis.com{home}europe-west4"
    auth, _ = await model._find_auth()
    token = auth["authorization"]
    assert isinstance(token, Secret)
    assert token.reveal() == "Bearer canary"
    assert VertexModel("m", token=lambda: "t")._find_url() == (
        f"https://aiplatform.googleapis.com{home}global"
    )
    express = VertexModel("m", api_key="k")
    assert express._find_url() == "https://aiplatform.googleapis.com/v1beta1"
    assert list((await express._find_auth())[0]) == ["x-goog-api-key"]
    path = GeminiCodec("m", "vertex").encode(ModelRequest(messages=()), stream=False).path
    assert path == "/publishers/google/models/m:generateContent"


def test_profiles() -> None:
    assert not known_profile("gemini-2.5-pro").json_with_tools
    assert known_profile("gemini-3-flash-preview").json_with_tools
    assert not known_profile("gemma-3-27b-it").tools
    assert GoogleModel("gemini-2.0-flash").profile.reasoning is False
