from __future__ import annotations

import itertools
import json
from typing import Any, get_args

import pytest
from anthropic.types import StopReason
from anthropic.types.beta import BetaRawContentBlockDelta, BetaStopReason
from anthropic.types.beta.beta_content_block import BetaContentBlock
from anthropic.types.shared import ErrorType
from hypothesis import given, settings
from hypothesis import strategies as st

from mastra_nb import plugins
from mastra_nb.config import Secret
from mastra_nb.errors import (
    ConfigError,
    ModelError,
    ModelHTTPError,
    ModelOutputError,
    ModelRefused,
    UsageError,
)  # fmt: skip
from mastra_nb.events import ArgsDelta, Delta, ReasoningDelta, TextDelta
from mastra_nb.http.sse import SSEDecoder
from mastra_nb.messages import (
    Media,
    Message,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    ToolSpec,
    Usage,
    assistant,
    system,
    user,
)
from mastra_nb.models import ModelRequest, ModelSettings, Reply
from mastra_nb.providers._anthropic_answer import FINISH, STATUS
from mastra_nb.providers._anthropic_models import strict_schema, traits
from mastra_nb.providers.anthropic import AnthropicModel, MessagesCodec
from mastra_nb.services import Services
from tests.anthropic_params import check
from tests.http.server import Answer, refused, serve

OPUS = "claude-opus-4-8"
MODELS = (
    "claude-3-haiku-20240307", "claude-3-7-sonnet-latest", "claude-opus-4-1", "claude-sonnet-4-5",
    "claude-opus-4-6", "claude-sonnet-4-6", OPUS, "claude-opus-5", "claude-opus-5-5",
    "claude-sonnet-5-5", "claude-haiku-5-5", "claude-fable-5", "claude-fable-5-2",
    "claude-mythos-preview", "claude-next-9", "kimi-k2",
)  # fmt: skip
PNG = Media(mime="image/png", data=b"\x89PNG")
PDF = Media(mime="application/pdf", data=b"%PDF")
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "size": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}
WEATHER = ToolSpec(name="weather", description="Weather of a city", parameters=CITY)
TIME = ToolSpec(name="time", description="", parameters={"type": "object", "properties": {}})
THOUGHT = Reasoning(text="Look up Oslo.", extra={"anthropic": {"signature": "sig"}})
HIDDEN = Reasoning(text="", extra={"anthropic": {"type": "redacted_thinking", "data": "xx"}})
TURN = (
    system("Be brief."),
    user("What is this, and is it warm in Oslo?", PNG),
    Message(
        role="assistant",
        parts=(
            THOUGHT,
            HIDDEN,
            Text(text="One moment."),
            ToolCall(id="toolu_1", name="weather", args='{"name":  "Oslo"}'),
            ToolCall(id="toolu_2", name="weather", args='{"name"'),
        ),
    ),
    Message(
        role="tool",
        parts=(
            ToolResult(id="toolu_1", name="weather", output={"celsius": -3.5}),
            PNG,
            ToolResult(id="toolu_2", name="weather", output="no such city", is_error=True),
        ),
    ),
)


def encode(request: ModelRequest, model: str = OPUS) -> dict[str, Any]:
    wire = MessagesCodec(model).encode(request, stream=True)
    assert wire.path == "/v1/messages"
    assert wire.headers["anthropic-version"] == "2023-06-01"
    body: dict[str, Any] = json.loads(wire.body)
    check(body)
    return body


def ask(*messages: Message, **fields: Any) -> dict[str, Any]:
    model = fields.pop("model", OPUS)
    return encode(ModelRequest(messages=messages or (user("hi"),), **fields), model)


def said(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


# --- requests ----------------------------------------------------------------------------------


def test_a_plain_request() -> None:
    assert ask() == {
        "model": OPUS,
        "max_tokens": 128_000,
        "messages": [{"role": "user", "content": [said("hi")]}],
        "stream": True,
    }


def test_a_turn_with_thinking_tools_and_images() -> None:
    body = ask(*TURN, tools=(WEATHER,), settings=ModelSettings(cache=False))
    assert body["system"] == [said("Be brief.")]
    image = {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}
    assert body["messages"] == [
        {
            "role": "user",
            "content": [
                said("What is this, and is it warm in Oslo?"),
                {"type": "image", "source": image},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Look up Oslo.", "signature": "sig"},
                {"type": "redacted_thinking", "data": "xx"},
                said("One moment."),
                {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"name": "Oslo"}},
                {
                    "type": "tool_use",
                    "id": "toolu_2",
                    "name": "weather",
                    "input": {"INVALID_JSON": '{"name"'},
                },
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "content": [said('{"celsius":-3.5}'), {"type": "image", "source": image}],
                },
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_2",
                    "content": [said("no such city")],
                    "is_error": True,
                },
            ],
        },
    ]
    assert body["tools"] == [
        {"name": "weather", "description": "Weather of a city", "input_schema": CITY}
    ]


def test_arguments_go_back_as_they_were_written() -> None:
    wire = MessagesCodec(OPUS).encode(ModelRequest(messages=TURN), stream=True)
    assert b'"input":{"name":  "Oslo"}' in wire.body


@pytest.mark.parametrize("model", MODELS)
def test_every_setting_makes_a_request_that_the_sdk_could_send(model: str) -> None:
    """Each pair of values, with and without tools and a history."""
    values: dict[str, tuple[Any, ...]] = {
        "temperature": (None, 0.3, 1.7),
        "top_p": (None, 0.5, 0.97),
        "top_k": (None, 5),
        "max_tokens": (None, 50, 3000),
        "stop": ((), ("END", " ")),
        "reasoning": (None, "off", "low", "medium", "high"),
        "parallel_tools": (None, True, False),
        "cache": (None, True, False),
        "seed": (None, 3),
        "presence_penalty": (None, 0.5),
    }
    choices = ("auto", "none", "required", "weather")
    for one, two in itertools.combinations(values, 2):
        for a, b in itertools.product(values[one], values[two]):
            chosen = ModelSettings(**{one: a, two: b})
            body = ask(settings=chosen, model=model)
            assert body["max_tokens"] > body.get("thinking", {}).get("budget_tokens", 0)
    for choice, reasoning, parallel, cache, output in itertools.product(
        choices, values["reasoning"], (None, False), (None, False), (None, CITY)
    ):
        chosen = ModelSettings(reasoning=reasoning, parallel_tools=parallel, cache=cache)
        request = ModelRequest(
            messages=TURN, tools=(WEATHER, TIME), tool_choice=choice, output=output, settings=chosen
        )
        body = encode(request, model)
        if body.get("thinking", {}).get("type") == "enabled":
            assert body.get("tool_choice", {}).get("type") not in ("any", "tool")


@pytest.mark.parametrize(
    ("choice", "parallel", "wire"),
    [
        ("auto", None, None),
        ("auto", True, None),
        ("auto", False, {"type": "auto", "disable_parallel_tool_use": True}),
        ("none", False, {"type": "none"}),
        ("required", None, {"type": "any"}),
        ("required", False, {"type": "any", "disable_parallel_tool_use": True}),
        ("weather", None, {"type": "tool", "name": "weather"}),
    ],
)
def test_tool_choice(choice: str, parallel: bool | None, wire: Any) -> None:
    chosen = ModelSettings(parallel_tools=parallel)
    body = ask(tools=(WEATHER,), tool_choice=choice, settings=chosen)
    assert body.get("tool_choice") == wire
    assert "tool_choice" not in ask(tool_choice=choice, settings=chosen)


def test_a_model_that_cannot_be_made_to_call_is_asked_to() -> None:
    body = ask(tools=(WEATHER,), tool_choice="weather", model="claude-opus-5-5")
    assert "tool_choice" not in body
    assert body["system"][-1]["text"] == 'Answer with a call of the tool "weather".'


@pytest.mark.parametrize(
    ("model", "level", "thinking", "effort"),
    [
        ("claude-sonnet-4-5", None, None, None),
        ("claude-sonnet-4-5", "low", {"type": "enabled", "budget_tokens": 2048}, None),
        ("claude-sonnet-4-5", "off", None, None),
        ("claude-3-haiku-20240307", "high", None, None),
        ("claude-opus-4-6", "high", {"type": "adaptive"}, "high"),
        (OPUS, "medium", {"type": "adaptive", "display": "summarized"}, "medium"),
        (OPUS, "off", None, None),
        ("claude-opus-5", "off", {"type": "disabled"}, None),
        ("claude-opus-5", None, None, None),
        ("claude-sonnet-5-5", "off", {"type": "between_tools"}, None),
        ("claude-opus-5-5", "off", None, "low"),
        ("kimi-k2", "off", {"type": "disabled"}, None),
    ],
)
def test_thinking_is_asked_for_as_each_model_wants_it(
    model: str, level: Any, thinking: Any, effort: str | None
) -> None:
    body = ask(settings=ModelSettings(reasoning=level), model=model)
    assert body.get("thinking") == thinking
    assert body.get("output_config", {}).get("effort") == effort


def test_a_budget_leaves_room_for_an_answer_and_wants_a_turn_that_began_with_thinking() -> None:
    def budget(*messages: Message, limit: int | None = None, **fields: Any) -> Any:
        chosen = ModelSettings(reasoning="high", max_tokens=limit, temperature=0.1, top_k=3)
        body = ask(*messages, settings=chosen, model="claude-sonnet-4-5", **fields)
        assert ("temperature" in body) == ("top_k" in body) == ("thinking" not in body)
        return body.get("thinking", {}).get("budget_tokens")

    assert [budget(limit=n) for n in (None, 1000, 1500, 8000)] == [16_384, None, 1024, 4000]
    assert budget(tools=(WEATHER,), tool_choice="required") is None
    assert budget(*TURN) == 16_384
    foreign = Message(role="assistant", parts=TURN[2].parts[2:])
    assert budget(*TURN[:2], foreign, *TURN[3:]) is None


def test_thinking_that_no_longer_fits_is_left_out_by_the_service() -> None:
    wire = MessagesCodec("claude-opus-5-5", betas=("a-1",)).encode(
        ModelRequest(messages=TURN), stream=True
    )
    body = json.loads(wire.body)
    check(body)
    assert body["thinking"]["block_binding"] == {"prefix_mismatch_behavior": "drop_block"}
    assert wire.headers["anthropic-beta"] == "a-1,thinking-binding-controls-2026-08-01"
    plain = MessagesCodec(OPUS).encode(ModelRequest(messages=TURN), stream=True)
    assert "anthropic-beta" not in plain.headers


def test_without_thinking_what_was_thought_stays_away() -> None:
    body = ask(*TURN, settings=ModelSettings(reasoning="off"), model="claude-haiku-5-5")
    kinds = [b["type"] for b in body["messages"][1]["content"]]
    assert kinds == ["text", "tool_use", "tool_use"]


@pytest.mark.parametrize(
    ("model", "sent"),
    [
        ("claude-haiku-4-5", {"temperature": 1.0, "top_k": 4}),
        ("claude-opus-4-7", {}),
        ("claude-sonnet-5", {}),
    ],
)
def test_sampling_goes_to_the_models_that_have_it(model: str, sent: dict[str, Any]) -> None:
    chosen = ModelSettings(temperature=1.5, top_p=0.9, top_k=4, stop=("END", "\n"), seed=1)
    body = ask(settings=chosen, model=model)
    assert {k: body[k] for k in ("temperature", "top_p", "top_k") if k in body} == sent
    assert body["stop_sequences"] == ["END"]
    only = ask(settings=ModelSettings(top_p=0.9), model=model)
    assert only.get("top_p") == (0.9 if sent else None)


def _marks(body: dict[str, Any]) -> list[str]:
    found = [f"tool {t['name']}" for t in body.get("tools", ()) if "cache_control" in t]
    found += [f"system {b['text']}" for b in body.get("system", ()) if "cache_control" in b]
    for i, message in enumerate(body["messages"]):
        found += [f"{i} {b['type']}" for b in message["content"] if "cache_control" in b]
    return found


def test_prompt_caching() -> None:
    def marks(*messages: Message, cache: bool | None, **fields: Any) -> list[str]:
        return _marks(ask(*messages, settings=ModelSettings(cache=cache), **fields))

    tools = (WEATHER, TIME)
    every = ["tool time", "system Be brief.", "2 tool_result"]
    assert marks(*TURN, tools=tools, cache=True) == every
    assert marks(*TURN, tools=tools, cache=None) == every
    assert marks(*TURN, tools=tools, cache=False) == []
    assert marks(system("Be brief."), user("hi"), cache=None) == []
    assert marks(system("Be brief."), user("hi"), cache=True) == ["system Be brief.", "0 text"]
    assert marks(user("hi"), tools=tools, cache=None) == ["tool time", "0 text"]
    assert marks(user("a"), assistant("b"), user("c"), cache=None) == ["2 text"]


def test_what_a_user_adds() -> None:
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 2}
    extra = {"tools": [search], "output_config": {"effort": "max"}, "service_tier": "auto"}
    body = ask(tools=(WEATHER,), output=CITY, settings=ModelSettings(extra=extra))
    assert [t["name"] for t in body["tools"]] == ["weather", "web_search"]
    assert body["output_config"]["effort"] == "max"
    assert body["output_config"]["format"]["type"] == "json_schema"
    assert body["service_tier"] == "auto"
    replaced = ask(settings=ModelSettings(extra={"max_tokens": 7}))
    assert replaced["max_tokens"] == 7


# --- structured output -------------------------------------------------------------------------


def test_a_schema_is_enforced_or_told() -> None:
    shape = ask(output=CITY)["output_config"]["format"]
    assert shape["schema"]["properties"]["size"] == {
        "type": "integer",
        "description": '{"minimum":0}',
    }
    for model, schema in (("claude-sonnet-4-0", CITY), (OPUS, {"type": "object"})):
        body = ask(output=schema, model=model)
        assert "output_config" not in body
        assert json.dumps(schema, separators=(",", ":")) in body["system"][-1]["text"]


@pytest.mark.parametrize(
    ("schema", "fits"),
    [
        (CITY, True),
        ({"$ref": "#/$defs/A", "$defs": {"A": CITY}}, True),
        ({"type": "object", "properties": {}}, True),
        ({"type": "object", "properties": {"a": {"enum": ["x", 1]}}}, True),
        ({"type": "object", "properties": {"a": {"oneOf": [CITY, {"type": "null"}]}}}, True),
        ({"type": "object", "additionalProperties": {"type": "string"}}, False),
        ({**CITY, "additionalProperties": True}, False),
        ({"type": "object", "properties": {"a": {}}}, False),
        ({"type": "object", "properties": {"a": True}}, False),
        ({"type": "array", "items": CITY}, False),
        (
            {
                "$ref": "#/$defs/A",
                "$defs": {"A": {**CITY, "properties": {"a": {"$ref": "#/$defs/A"}}}},
            },
            False,
        ),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}}, False),
    ],
)
def test_which_schemas_can_be_enforced(schema: dict[str, Any], fits: bool) -> None:
    assert (strict_schema(schema) is not None) == fits


def test_what_cannot_be_enforced_is_told() -> None:
    made = strict_schema(
        {
            "type": "object",
            "properties": {
                "a": {"type": "string", "format": "date", "maxLength": 3, "description": "A."},
                "b": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2},
            },
        }
    )
    assert made is not None
    assert made["additionalProperties"] is False
    assert made["properties"]["a"] == {
        "type": "string",
        "format": "date",
        "description": 'A.\n{"maxLength":3}',
    }
    assert made["properties"]["b"]["minItems"] == 1
    assert made["properties"]["b"]["description"] == '{"maxItems":2}'


# --- messages ----------------------------------------------------------------------------------


def turns(*messages: Message) -> list[tuple[str, list[str]]]:
    body = ask(*messages, settings=ModelSettings(cache=False))
    return [(m["role"], [b.get("text", b["type"]) for b in m["content"]]) for m in body["messages"]]


def test_turns_alternate_and_empty_text_is_not_sent() -> None:
    assert turns(user("a"), user("b", " "), assistant(""), user("c"), assistant("d \n")) == [
        ("user", ["a", "b", "c"]),
        ("assistant", ["d"]),
    ]
    body = ask(system("x"), user("a"), system(" "), system("y"))
    assert body["system"] == [said("x"), said("y")]


def test_calls_without_a_result_and_results_without_a_call_are_not_sent() -> None:
    call = Message(role="assistant", parts=(Text(text="t"), ToolCall(id="a", name="f")))
    alone = Message(role="assistant", parts=(THOUGHT, ToolCall(id="a", name="f")))
    result = Message(role="tool", parts=(ToolResult(id="a", name="f", output=1),))
    assert turns(user("x"), call) == [("user", ["x"]), ("assistant", ["t"])]
    assert turns(user("x"), call, user("y")) == [
        ("user", ["x"]), ("assistant", ["t"]), ("user", ["y"]),
    ]  # fmt: skip
    assert turns(user("x"), alone, user("y")) == [("user", ["x", "y"])]
    assert turns(user("x"), result) == [("user", ["x"])]
    assert turns(user("x"), call, user("y"), result)[2:] == [("user", ["y"])]
    assert turns(user("x"), call, result, user("y")) == [
        ("user", ["x"]), ("assistant", ["t", "tool_use"]), ("user", ["tool_result", "y"]),
    ]  # fmt: skip
    two = tuple(
        Message(role="tool", parts=(ToolResult(id=i, name="f", output="ok"),)) for i in ("a", "b")
    )
    calls = tuple(ToolCall(id=i, name="f") for i in ("a", "b", "c"))
    made = turns(user("x"), Message(role="assistant", parts=calls), *two)
    assert made[1:] == [("assistant", ["tool_use"] * 2), ("user", ["tool_result"] * 2)]


def test_thinking_of_other_providers_is_not_sent() -> None:
    foreign = Reasoning(text="hm", extra={"openrouter": {"reasoning_details": []}})
    message = Message(role="assistant", parts=(Reasoning(text="hm"), foreign, Text(text="a")))
    assert turns(user("x"), message, user("y"))[1] == ("assistant", ["a"])


def test_ids_that_are_refused_are_replaced_by_equal_ones() -> None:
    def ids(id: str) -> tuple[str, str]:
        call = Message(role="assistant", parts=(ToolCall(id=id, name="f"),))
        result = Message(role="tool", parts=(ToolResult(id=id, name="f", output=""),))
        body = ask(user("x"), call, result)
        first, second = body["messages"][1]["content"][0], body["messages"][2]["content"][0]
        assert "content" not in second
        return first["id"], second["tool_use_id"]

    assert ids("toolu_01-x") == ("toolu_01-x", "toolu_01-x")
    one, two = ids("call:1|fc.2"), ids("call:1|fc.3")
    assert one[0] == one[1] != two[0] == two[1]
    assert one[0].replace("_", "").isalnum()


@pytest.mark.parametrize(
    ("media", "kind", "source"),
    [
        (PDF, "document", {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="}),
        (Media(mime="image/jpg", data=b""), "image",
         {"type": "base64", "media_type": "image/jpeg", "data": ""}),
        (Media(mime="image/*", url="https://x.y/z"), "image", {"type": "url", "url": "https://x.y/z"}),
        (Media(mime="application/pdf", url="https://x.y/z"), "document",
         {"type": "url", "url": "https://x.y/z"}),
        (Media(mime="text/markdown; charset=utf-8", data="ü".encode()), "document",
         {"type": "text", "media_type": "text/plain", "data": "ü"}),
    ],
)  # fmt: skip
def test_media(media: Media, kind: str, source: dict[str, str]) -> None:
    block = ask(user(media))["messages"][0]["content"][0]
    assert (block["type"], block["source"]) == (kind, source)


def test_media_keeps_a_title_and_asks_for_citations() -> None:
    extra = {"anthropic": {"title": "T", "citations": {"enabled": True}}}
    block = ask(user(Media(mime="text/plain", data=b"x", extra=extra)))["messages"][0]["content"][0]
    assert (block["title"], block["citations"]) == ("T", {"enabled": True})


@pytest.mark.parametrize(
    "media",
    [
        Media(mime="audio/wav", data=b"x"),
        Media(mime="image/tiff", data=b"x"),
        Media(mime="text/plain", url="https://x.y"),
        Media(mime="image/png"),
    ],
)
def test_media_that_it_does_not_take(media: Media) -> None:
    with pytest.raises(UsageError) as caught:
        ask(user(media))
    assert caught.value.code == "usage.media"


# --- answers -----------------------------------------------------------------------------------


def start(**fields: Any) -> dict[str, Any]:
    usage = {"input_tokens": 10, "output_tokens": 1, "cache_read_input_tokens": 4}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x",
               "content": [], "stop_reason": None, "usage": usage, **fields}  # fmt: skip
    return {"type": "message_start", "message": message}


def begin(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {
        "type": "content_block_start",
        "index": index,
        "content_block": {"type": kind, **fields},
    }


def delta(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def end(reason: str | None = "end_turn", usage: Any = None, **fields: Any) -> list[dict[str, Any]]:
    usage = {"output_tokens": 5} if usage is None else usage
    stop = {"stop_reason": reason, "stop_sequence": None, **fields}
    return [{"type": "message_delta", "delta": stop, "usage": usage}, {"type": "message_stop"}]


def sse(*events: Any) -> bytes:
    def lines(event: Any) -> str:
        if isinstance(event, str):
            return f"data: {event}\n\n"
        name = event.get("type", "x") if isinstance(event, dict) else "x"
        return f"event: {name}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"

    return "".join(map(lines, events)).encode()


def read(*events: Any) -> tuple[Reply, list[Delta]]:
    raw = sse(*events)
    results = []
    for size in (len(raw), 1, 7):
        decoder, parser = MessagesCodec(OPUS).decoder(), SSEDecoder()
        found: list[Delta] = []
        for i in range(0, len(raw), max(1, size)):
            for event in parser.feed(raw[i : i + size]):
                found += decoder.feed(event)
        for event in parser.close():
            found += decoder.feed(event)
        results.append((decoder.finish(), found))
    assert results[0] == results[1] == results[2]
    return results[0]


def test_a_streamed_answer() -> None:
    reply, found = read(
        start(),
        begin(0, "thinking", thinking="", signature=""),
        {"type": "ping"},
        delta(0, "thinking_delta", thinking="h", estimated_tokens=None),
        delta(0, "thinking_delta", thinking="m"),
        delta(0, "signature_delta", signature="sig"),
        {"type": "content_block_stop", "index": 0},
        begin(1, "text", text=""),
        delta(1, "text_delta", text="Grüße 😀"),
        begin(2, "tool_use", id="t1", name="f", input={}, caller={"type": "direct"}),
        delta(2, "input_json_delta", partial_json=""),
        delta(2, "input_json_delta", partial_json='{"x": '),
        delta(2, "input_json_delta", partial_json="1}"),
        begin(3, "tool_use", id="t2", name="g", input={}),
        *end("tool_use", {"output_tokens": 9, "output_tokens_details": {"thinking_tokens": 2}}),
    )
    assert reply.message.parts == (
        Reasoning(text="hm", extra={"anthropic": {"signature": "sig"}}),
        Text(text="Grüße 😀"),
        ToolCall(
            id="t1", name="f", args='{"x": 1}', extra={"anthropic": {"caller": {"type": "direct"}}}
        ),
        ToolCall(id="t2", name="g", args="{}"),
    )
    assert found == [
        ReasoningDelta(text="h"),
        ReasoningDelta(text="m"),
        TextDelta(text="Grüße 😀"),
        ArgsDelta(id="t1", text="", name="f"),
        ArgsDelta(id="t1", text='{"x": '),
        ArgsDelta(id="t1", text="1}"),
        ArgsDelta(id="t2", text="", name="g"),
    ]
    assert (reply.finish, reply.model) == ("tool-calls", "claude-x")
    assert reply.usage == Usage(input=14, output=9, cached=4, reasoning=2, calls=1)
    assert reply.raw["content"][2]["input"] == {"x": 1}
    assert (reply.raw["id"], reply.raw["stop_reason"]) == ("msg_1", "tool_use")


def test_counts_are_totals_and_the_last_ones_count() -> None:
    usage = {"output_tokens": 7, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 3,
             "input_tokens": None}  # fmt: skip
    reply, _ = read(start(), *end(usage=usage))
    assert reply.usage == Usage(input=13, output=7, cache_write=3, calls=1)


CITED = {"type": "char_location", "cited_text": "x", "document_index": 0, "document_title": None,
         "start_char_index": 0, "end_char_index": 1}  # fmt: skip
RESULT = {"type": "web_search_result", "url": "u", "title": "t", "encrypted_content": "e",
          "page_age": None}  # fmt: skip


def test_citations_and_server_tools_go_back_in_their_place() -> None:
    use = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search"}
    result = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [RESULT]}
    reply, found = read(
        start(),
        {"type": "content_block_start", "index": 0, "content_block": {**use, "input": {}}},
        delta(0, "input_json_delta", partial_json='{"query"'),
        delta(0, "input_json_delta", partial_json=': "x"}'),
        {"type": "content_block_start", "index": 1, "content_block": result},
        begin(2, "text", text="", citations=[]),
        delta(2, "citations_delta", citation=CITED),
        delta(2, "text_delta", text="It is so."),
        delta(2, "citations_delta", citation=CITED),
        *end(),
    )
    assert reply.message.text == "It is so."
    assert reply.message.tool_calls == ()
    assert reply.finish == "stop"
    assert found == [TextDelta(text="It is so.")]
    body = ask(user("q"), reply.message, user("more"))
    assert body["messages"][1]["content"] == [
        {**use, "input": {"query": "x"}},
        result,
        {"type": "text", "text": "It is so.", "citations": [CITED, CITED]},
    ]


def _kinds(union: Any) -> set[str]:
    members = get_args(get_args(union)[0])
    return {get_args(m.model_fields["type"].annotation)[0] for m in members}


@pytest.mark.parametrize("kind", sorted(_kinds(BetaContentBlock) | {"of_the_future"}))
def test_every_kind_of_block_keeps_its_place(kind: str) -> None:
    """Those of the SDK and one that does not exist yet, streamed and whole."""
    own = {
        "text": {"text": "a"},
        "thinking": {"thinking": "a", "signature": "s"},
        "tool_use": {"id": "t1", "name": "f", "input": {"x": 1}},
    }
    block = {
        "type": kind,
        **own.get(kind, {"data": "d", "tool_use_id": "x", "content": [{"k": 1}]}),
    }
    codec = MessagesCodec(OPUS)
    whole = {**start()["message"], "content": [block, said("z")], "stop_reason": "end_turn"}
    streamed, _ = read(
        start(), {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_start", "index": 1, "content_block": said("z")}, *end(),
    )  # fmt: skip
    direct = codec.decode_body(json.dumps(whole).encode())
    assert direct.message == streamed.message
    results = tuple(ToolResult(id=c.id, name=c.name) for c in direct.message.tool_calls)
    after = Message(role="tool", parts=results) if results else user("more")
    wire = codec.encode(ModelRequest(messages=(user("q"), direct.message, after)), stream=False)
    assert json.loads(wire.body)["messages"][1]["content"] == [block, said("z")]


def test_every_kind_of_delta_is_known_and_others_are_not_lost() -> None:
    assert _kinds(BetaRawContentBlockDelta) == {
        "text_delta", "input_json_delta", "citations_delta", "thinking_delta", "signature_delta",
        "compaction_delta",
    }  # fmt: skip
    reply, found = read(
        start(),
        begin(0, "compaction", content=None),
        delta(0, "compaction_delta", content="What was.", encrypted_content="e"),
        begin(1, "novel", words="", list=[1]),
        delta(1, "novel_delta", words="a", list=[2]),
        delta(1, "novel_delta", words="b", other={"k": 1}),
        *end(),
    )
    assert found == []
    assert [part.extra for part in reply.message.parts] == [
        {"anthropic": {"type": "compaction", "content": "What was.", "encrypted_content": "e"}},
        {"anthropic": {"type": "novel", "words": "ab", "list": [1, 2], "other": {"k": 1}}},
    ]


def test_events_of_the_future_and_odd_ones_are_passed_over() -> None:
    reply, _ = read(
        start(), {"type": "novel"}, {"type": "content_block_start", "index": 0},
        {"type": "content_block_delta", "index": 9, "delta": {"type": "input_json_delta"}},
        {"type": "content_block_delta", "index": 9, "delta": None},
        delta(0, "text_delta", text="a"), delta(0, "text_delta", text=None), *end(),
    )  # fmt: skip
    assert reply.message.parts == (Text(text="a"),)


def test_blocks_that_share_an_index_are_all_kept() -> None:
    reply, found = read(
        start(content=[said("a")]), begin(0, "text", text=""), delta(0, "text_delta", text="b"),
        begin(0, "tool_use", id="t", name="f", input={}), *end("tool_use"),
    )  # fmt: skip
    assert reply.message.parts == (Text(text="a"), Text(text="b"), ToolCall(id="t", name="f"))
    assert found[:2] == [TextDelta(text="a"), TextDelta(text="b")]


def test_another_model_that_goes_on_is_named() -> None:
    block = begin(1, "fallback", to={"model": "claude-y"}, trigger=None)
    reply, _ = read(start(), begin(0, "text", text="a"), block, begin(2, "text", text="b"), *end())
    assert (reply.model, reply.message.text) == ("claude-y", "ab")


@pytest.mark.parametrize("reason", sorted({*get_args(StopReason), *get_args(BetaStopReason)}))
def test_every_stop_reason_is_mapped(reason: str) -> None:
    assert reason in FINISH
    reply, _ = read(start(), begin(0, "text", text="a"), *end(reason))
    assert reply.finish == FINISH[reason]


@pytest.mark.parametrize("reason", ["end_turn", None, "mystery", "pause_turn"])
def test_calls_that_finish_oddly(reason: str | None) -> None:
    reply, _ = read(start(), begin(0, "tool_use", id="t", name="f", input={"x": 1}), *end(reason))
    assert reply.finish == "tool-calls"
    assert reply.message.tool_calls[0].args == '{"x":1}'


def test_a_refusal() -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "Not this."}
    with pytest.raises(ModelRefused, match="Not this") as caught:
        read(start(), *end("refusal", stop_details=details))
    assert caught.value.details["category"] == "bio"
    assert caught.value.details["usage"]["input"] == 14
    reply, _ = read(start(), begin(0, "text", text="Well."), *end("refusal", stop_details=details))
    assert (reply.finish, reply.message.text) == ("content-filter", "Well.")


@pytest.mark.parametrize("kind", sorted({*get_args(ErrorType), "of_the_future"}))
def test_an_error_in_the_middle(kind: str) -> None:
    error = {
        "type": "error",
        "error": {"type": kind, "message": "Boom", "details": {"error_code": "c1"}},
        "request_id": "req_1",
    }
    with pytest.raises(ModelHTTPError, match="Boom") as caught:
        read(start(), begin(0, "text", text="a"), error)
    assert caught.value.status == STATUS.get(kind, 0)
    assert caught.value.code == "model.stream_error"
    assert caught.value.details == {"type": kind, "request_id": "req_1", "error_code": "c1"}
    with pytest.raises(ModelHTTPError, match="Boom"):
        MessagesCodec(OPUS).decode_body(json.dumps(error).encode())


def test_an_error_that_is_not_json_is_an_error_of_the_service() -> None:
    decoder, parser = MessagesCodec(OPUS).decoder(), SSEDecoder()
    (event,) = parser.feed(b"event: error\ndata: upstream died\n\n")
    with pytest.raises(ModelHTTPError, match="upstream died"):
        decoder.feed(event)


@pytest.mark.parametrize("bad", ["{", "null", "[]", '"x"', "<html>"])
def test_what_is_not_an_event(bad: str) -> None:
    with pytest.raises(ModelOutputError):
        read(start(), bad)
    with pytest.raises(ModelOutputError):
        MessagesCodec(OPUS).decode_body(bad.encode())


def test_a_body_without_content() -> None:
    with pytest.raises(ModelOutputError, match="without content"):
        MessagesCodec(OPUS).decode_body(b'{"choices": []}')


def test_a_stream_that_stops() -> None:
    cut = begin(0, "tool_use", id="t", name="f", input={})
    for events in ([], [start()], [start(), cut, delta(0, "input_json_delta", partial_json="{")]):
        with pytest.raises(ModelHTTPError) as caught:
            read(*events)
        assert caught.value.code == "model.truncated"
    with pytest.raises(ModelOutputError, match="without a message"):
        read("[DONE]")


def test_an_answer_is_whole_before_its_last_event() -> None:
    decoder, parser = MessagesCodec(OPUS).decoder(), SSEDecoder()
    for event in parser.feed(sse(start(), begin(0, "text", text="a"), end()[0])):
        decoder.feed(event)
    assert (decoder.complete, decoder.done) == (True, False)
    assert decoder.finish().message.text == "a"


# --- round trip --------------------------------------------------------------------------------

words = st.text(alphabet='ab {"ü😀\\', min_size=1, max_size=8)
_BLOCKS = st.one_of(
    st.builds(lambda t: {"type": "text", "text": t + "."}, words),
    st.builds(lambda t, s: {"type": "thinking", "thinking": t, "signature": s}, words, words),
    st.builds(lambda d: {"type": "redacted_thinking", "data": d}, words),
    st.builds(
        lambda k, v: {"type": "tool_use", "id": "", "name": "f", "input": {k: v}}, words, words
    ),
    st.builds(
        lambda k: {"type": "server_tool_use", "id": "srv", "name": "web_search", "input": {k: 1}},
        words,
    ),
    st.builds(
        lambda t: {
            "type": "mcp_tool_result", "tool_use_id": "m", "is_error": False, "content": [said(t)],
        },
        words,
    ),
)  # fmt: skip


def _streamed(index: int, block: dict[str, Any], cuts: st.DataObject) -> list[dict[str, Any]]:
    kind = block["type"]
    key, name, field = {
        "text": ("text", "text_delta", "text"),
        "thinking": ("thinking", "thinking_delta", "thinking"),
        "tool_use": ("input", "input_json_delta", "partial_json"),
        "server_tool_use": ("input", "input_json_delta", "partial_json"),
    }.get(kind, ("", "", ""))
    if not key:
        return [{"type": "content_block_start", "index": index, "content_block": block}]
    text = block[key] if isinstance(block[key], str) else json.dumps(block[key])
    at = cuts.draw(st.integers(0, len(text)))
    opened = {**block, key: "" if isinstance(block[key], str) else {}}
    found = [{"type": "content_block_start", "index": index, "content_block": opened}]
    if kind == "thinking":
        opened["signature"] = ""
    found += [delta(index, name, **{field: piece}) for piece in (text[:at], text[at:])]
    if kind == "thinking":
        found.append(delta(index, "signature_delta", signature=block["signature"]))
    return [*found, {"type": "content_block_stop", "index": index}]


@settings(max_examples=60, deadline=None)
@given(st.lists(_BLOCKS, min_size=1, max_size=6), st.data())
def test_what_came_goes_back(blocks: list[dict[str, Any]], cuts: st.DataObject) -> None:
    blocks = [{**b, "id": f"t{i}"} if b["type"] == "tool_use" else b for i, b in enumerate(blocks)]
    blocks.append(said("z"))
    events = [e for i, b in enumerate(blocks) for e in _streamed(i, b, cuts)]
    raw = sse(start(), *events, *end())
    decoder, parser = MessagesCodec(OPUS).decoder(), SSEDecoder()
    at = cuts.draw(st.integers(0, len(raw)))
    for event in (*parser.feed(raw[:at]), *parser.feed(raw[at:]), *parser.close()):
        decoder.feed(event)
    message = decoder.finish().message
    results = tuple(ToolResult(id=c.id, name=c.name, output=1) for c in message.tool_calls)
    after = Message(role="tool", parts=results) if results else user("more")
    body = encode(ModelRequest(messages=(user("q"), message, after)))
    assert body["messages"][1]["content"] == blocks


_ODD = st.sampled_from([None, 0, 1.5, True, "", "x", [], [1], {}, {"type": "text"}, {"type": 3}])


def _spoil(value: Any, pick: st.DataObject) -> Any:
    if pick.draw(st.integers(0, 12)) == 0:
        return pick.draw(_ODD)
    if isinstance(value, dict):
        return {k: _spoil(v, pick) for k, v in value.items()}
    return [_spoil(v, pick) for v in value] if isinstance(value, list) else value


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_garbage_gives_an_answer_or_a_typed_error(pick: st.DataObject) -> None:
    events = [
        start(), begin(0, "text", text="", citations=[]), delta(0, "text_delta", text="a"),
        delta(0, "citations_delta", citation=CITED), begin(1, "thinking", thinking=""),
        delta(1, "thinking_delta", thinking="b"), delta(1, "signature_delta", signature="s"),
        begin(2, "tool_use", id="t", name="f", input={}),
        delta(2, "input_json_delta", partial_json="{}"),
        *end("refusal", stop_details={"explanation": "x"}),
    ]  # fmt: skip
    decoder, parser = MessagesCodec(OPUS).decoder(), SSEDecoder()
    try:
        for event in parser.feed(sse(*(_spoil(e, pick) or {} for e in events))):
            decoder.feed(event)
        message = decoder.finish().message
    except ModelError:
        return
    MessagesCodec(OPUS).encode(ModelRequest(messages=(user("q"), message)), stream=True)


# --- the model ---------------------------------------------------------------------------------


class Meter:
    def count_retry(self) -> None:
        return


class Ctx:
    services = Services()
    meter = Meter()

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def emit(self, data: Any) -> int:
        self.seen.append(data)
        return 0


HELLO = Answer(
    headers={"content-type": "text/event-stream"},
    pieces=[sse(start(), begin(0, "text", text=""), delta(0, "text_delta", text="Hi"), *end())],
)


async def test_it_is_called_as_the_api_wants() -> None:
    async with serve([HELLO]) as server:
        root = server.url.removesuffix("/v1")
        for url in (root, f"{root}/", f"{root}/v1", f"{root}/v1/"):
            model = AnthropicModel(OPUS, base_url=url, api_key="sk-ant-1", betas=("b-1", "b-2"))
            assert model._find_url() == root
            ctx = Ctx()
            reply = await model.invoke(ModelRequest(messages=(user("x"),)), ctx)  # type: ignore[arg-type]
            assert reply.message.text == "Hi"
            assert ctx.seen == [TextDelta(text="Hi")]
        for headers, _ in server.requests:
            assert headers["x-api-key"] == "sk-ant-1"
            assert headers["anthropic-version"] == "2023-06-01"
            assert headers["anthropic-beta"] == "b-1,b-2"
            assert "authorization" not in headers
    assert "sk-ant-1" not in repr(model) + repr(vars(model))


async def test_it_lists_its_models() -> None:
    body = json.dumps({"data": [{"id": "claude-b"}, {"id": "claude-a"}]}).encode()
    async with serve([Answer(headers={"content-type": "application/json"}, pieces=[body])]) as at:
        model = AnthropicModel(OPUS, base_url=at.url, api_key="sk-ant-1")
        assert (await model.available(ask=True)).models == ("claude-a", "claude-b")
        assert at.requests[0][0]["anthropic-version"] == "2023-06-01"


async def test_keys_and_addresses_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    request = ModelRequest(messages=(user("x"),))
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    made = plugins.providers.load("anthropic")("anthropic", OPUS)
    assert (made.name, made.profile.context) == ("anthropic/claude-opus-4-8", 1_000_000)
    with pytest.raises(ConfigError, match="ANTHROPIC_API_KEY"):
        await made.invoke(request, Ctx())
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-env")
    async with serve([HELLO]) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        await made.invoke(request, Ctx())
        await AnthropicModel(OPUS, base_url=server.url).invoke(request, Ctx())  # type: ignore[arg-type]
        sent = [headers.get("x-api-key") for headers, _ in server.requests]
    assert sent == ["sk-ant-env", None]


async def test_errors_of_the_service_say_what_to_do() -> None:
    async with serve([refused(401, "invalid x-api-key")]) as server:
        model = AnthropicModel(OPUS, base_url=server.url, api_key=Secret("sk-ant-1"))
        with pytest.raises(ModelError, match="invalid x-api-key") as caught:
            await model.invoke(ModelRequest(messages=(user("x"),)), Ctx())  # type: ignore[arg-type]
    assert caught.value.hint == "check the key in api_key"
    assert "sk-ant-1" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "context", "limit", "schema", "thinks"),
    [
        ("claude-opus-5-5", 1_000_000, 128_000, True, True),
        ("claude-sonnet-4-5-20250929", 200_000, 64_000, True, True),
        ("claude-sonnet-4-20250514", 200_000, 64_000, False, True),
        ("claude-3-5-haiku-latest", 200_000, 8_192, False, False),
        ("anthropic.claude-opus-4-6-v1", 1_000_000, 128_000, True, True),
        ("claude-sonnet-4.6", 1_000_000, 64_000, True, True),
        ("glm-5", None, None, False, True),
    ],
)
def test_profiles(
    model: str, context: int | None, limit: int | None, schema: bool, thinks: bool
) -> None:
    profile = traits(model).profile()
    assert (profile.context, profile.max_output) == (context, limit)
    assert (profile.json_schema, profile.reasoning) == (schema, thinks)
    assert profile.json_with_tools == schema
