"""Hand-written streams in the ways servers differ; they need no recordings."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mastra_nb.errors import ModelError, ModelHTTPError, ModelOutputError, ModelRefused
from mastra_nb.events import ArgsDelta, Delta, ReasoningDelta, TextDelta
from mastra_nb.http.sse import SSEDecoder
from mastra_nb.messages import Reasoning, ToolCall, Usage
from mastra_nb.models import Reply
from mastra_nb.providers._chat import ChatCodec
from mastra_nb.providers._vendors import VENDORS

DONE = "[DONE]"


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": fields, "finish_reason": finish}
    return {"id": "x1", "model": "m", "choices": [choice]}


def call(index: int | None = None, id: str | None = None, **function: Any) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "function", "function": function}
    if index is not None:
        value["index"] = index
    if id is not None:
        value["id"] = id
    return delta(tool_calls=[value])


def read(*chunks: Any, vendor: str = "openai") -> tuple[Reply, list[Delta]]:
    lines = [c if isinstance(c, str) else json.dumps(c, ensure_ascii=False) for c in chunks]
    raw = "".join(f"data: {line}\n\n" for line in lines).encode()
    results = []
    for size in (len(raw), 1, 7):
        sse, decoder = SSEDecoder(), ChatCodec(VENDORS[vendor], "m").decoder()
        found: list[Delta] = []
        for i in range(0, len(raw), max(1, size)):
            for event in sse.feed(raw[i : i + size]):
                found += decoder.feed(event)
        for event in sse.close():
            found += decoder.feed(event)
        results.append((decoder.finish(), found))
    assert results[0] == results[1] == results[2]
    return results[0]


def calls(*chunks: Any, finish: str | None = "tool_calls") -> list[tuple[str, str, str]]:
    reply, found = read(*chunks, delta(finish), DONE)
    for made in reply.message.tool_calls:
        pieces = [d for d in found if isinstance(d, ArgsDelta) and d.id == made.id]
        assert "".join(p.text for p in pieces) in (made.args, "")
        assert [p.name for p in pieces if p.name] == [made.name]
    assert reply.finish == "tool-calls"
    return [(c.id, c.name, c.args) for c in reply.message.tool_calls]


def test_text_in_many_scripts() -> None:
    reply, found = read(delta(content="Grüße, "), delta(content="世界 😀"), delta("stop"), DONE)
    assert reply.message.text == "Grüße, 世界 😀"
    assert found == [TextDelta(text="Grüße, "), TextDelta(text="世界 😀")]
    assert (reply.finish, reply.model, reply.usage) == ("stop", "m", Usage(calls=1))


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
def test_reasoning_as_a_field(key: str) -> None:
    reply, found = read(delta(**{key: "hm"}), delta(content="42"), delta("stop"))
    assert (reply.message.reasoning, reply.message.text) == ("hm", "42")
    assert found == [ReasoningDelta(text="hm"), TextDelta(text="42")]


def test_mistral_says_thoughts_and_text_in_lists() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    reply, _ = read(
        delta(content=[thinking]),
        delta(
            content=[{"type": "text", "text": "42"}, {"type": "reference", "reference_ids": [1]}]
        ),
        delta("stop"),
        vendor="mistral",
    )
    assert (reply.message.reasoning, reply.message.text) == ("hm", "42")


def test_openrouter_details_are_joined_and_kept_for_the_way_back() -> None:
    def piece(**fields: Any) -> dict[str, Any]:
        return delta(reasoning_details=[{"index": 0, **fields}])

    reply, _ = read(
        piece(type="reasoning.text", text="Let "),
        piece(type="reasoning.text", text="me see", signature=None),
        piece(type="reasoning.text", signature="s3"),
        piece(type="reasoning.encrypted", data="blob"),
        delta(content="42"),
        delta("stop"),
        vendor="openrouter",
    )
    (part,) = (p for p in reply.message.parts if isinstance(p, Reasoning))
    assert part.text == "Let me see"
    assert part.extra is not None
    assert part.extra["openrouter"]["reasoning_details"] == [
        {"index": 0, "type": "reasoning.text", "text": "Let me see", "signature": "s3"},
        {"index": 0, "type": "reasoning.encrypted", "data": "blob"},
    ]


def test_arguments_in_pieces() -> None:
    found = calls(
        call(0, "a", name="f", arguments=""),
        call(0, arguments='{"x": '),
        call(1, "b", name="g", arguments="{}"),
        call(0, arguments="1}"),
    )
    assert found == [("a", "f", '{"x": 1}'), ("b", "g", "{}")]


def test_arguments_are_kept_as_they_were_written() -> None:
    odd = '{"x":1.0 ,\n "y": "\\u00fc"'
    assert calls(call(0, "a", name="f", arguments=odd)) == [("a", "f", odd)]


def test_no_arguments_are_an_empty_object() -> None:
    assert calls(call(0, "a", name="f")) == [("a", "f", "{}")]
    assert calls(call(0, "a", name="f", arguments="")) == [("a", "f", "{}")]


def test_a_name_and_id_repeated_in_every_delta() -> None:
    found = calls(
        call(0, "a", name="f", arguments=""),
        call(0, "a", name="f", arguments='{"x"'),
        call(0, "a", name="f", arguments=": 1}"),
    )
    assert found == [("a", "f", '{"x": 1}')]


def test_calls_without_an_index() -> None:
    found = calls(
        call(None, "a", name="f", arguments='{"x"'),
        call(None, None, arguments=": 1}"),
        call(None, "b", name="f", arguments="{}"),
        call(None, "b", arguments=""),
    )
    assert found == [("a", "f", '{"x": 1}'), ("b", "f", "{}")]


def test_two_calls_with_the_same_index_are_told_apart_by_their_ids() -> None:
    found = calls(
        call(0, "a", name="f", arguments="{}"), call(0, "b", name="f", arguments='{"x": 2}')
    )
    assert found == [("a", "f", "{}"), ("b", "f", '{"x": 2}')]


def test_calls_without_an_id_get_one() -> None:
    found = calls(call(0, name="f", arguments="{}"), call(1, "", name="g", arguments="{}"))
    assert [f[1:] for f in found] == [("f", "{}"), ("g", "{}")]
    assert len({f[0] for f in found}) == 2
    assert all(f[0] for f in found)


def test_arguments_as_an_object() -> None:
    assert calls(call(0, "a", name="f", arguments={"x": 1})) == [("a", "f", '{"x":1}')]


def test_a_call_before_there_were_tools() -> None:
    reply, _ = read(
        delta(function_call={"name": "f", "arguments": '{"x"'}),
        delta(function_call={"arguments": ": 1}"}),
        delta("function_call"),
    )
    (made,) = reply.message.tool_calls
    assert (made.name, made.args, reply.finish) == ("f", '{"x": 1}', "tool-calls")


@pytest.mark.parametrize("finish", ["stop", None, "mystery"])
def test_calls_that_finish_oddly(finish: str | None) -> None:
    assert calls(call(0, "a", name="f", arguments="{}"), finish=finish) == [("a", "f", "{}")]


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("stop", "stop"),
        ("eos", "stop"),
        ("length", "length"),
        ("model_length", "length"),
        ("content_filter", "content-filter"),
        ("error", "error"),
        ("mystery", "other"),
    ],
)
def test_finish_reasons(reason: str, finish: str) -> None:
    reply, _ = read(delta(content="a"), delta(reason))
    assert reply.finish == finish


USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


@pytest.mark.parametrize(
    ("chunk", "usage"),
    [
        (
            {
                "choices": [],
                "usage": {
                    **USAGE,
                    "prompt_tokens_details": {"cached_tokens": 4},
                    "completion_tokens_details": {"reasoning_tokens": 2},
                },
            },
            Usage(input=10, output=5, cached=4, reasoning=2, calls=1),
        ),
        ({"choices": [], "x_groq": {"usage": USAGE}}, Usage(input=10, output=5, calls=1)),
        (
            {"choices": [], "usage": {**USAGE, "prompt_cache_hit_tokens": 3}},
            Usage(input=10, output=5, cached=3, calls=1),
        ),
        (
            {"choices": [], "usage": {**USAGE, "cached_tokens": 3, "prompt_tokens_details": None}},
            Usage(input=10, output=5, cached=3, calls=1),
        ),
        (
            {"choices": [{"index": 0, "delta": {}, "finish_reason": None, "usage": USAGE}]},
            Usage(input=10, output=5, calls=1),
        ),
        ({"choices": [], "usage": None}, Usage(calls=1)),
        ({"usage": {"prompt_tokens": None}}, Usage(calls=1)),
    ],
)
def test_usage(chunk: dict[str, Any], usage: Usage) -> None:
    reply, _ = read(delta(content="a"), delta("stop"), chunk, DONE)
    assert reply.usage == usage


def test_only_openrouter_is_believed_about_money() -> None:
    chunk = {"choices": [], "usage": {**USAGE, "cost": 0.25}}
    for vendor, cost in (("openrouter", 0.25), ("together", None)):
        reply, _ = read(delta(content="a"), delta("stop"), chunk, vendor=vendor)
        assert reply.usage.cost == cost


def test_only_the_first_choice_counts() -> None:
    second = {"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": None}]}
    reply, found = read(delta(content="yes"), second, delta("stop"))
    assert (reply.message.text, len(found)) == ("yes", 1)


def test_azure_begins_with_a_chunk_without_choices() -> None:
    reply, _ = read({"choices": [], "prompt_filter_results": []}, delta(content="a"), delta("stop"))
    assert reply.message.text == "a"


def test_a_refusal_and_nothing_else() -> None:
    with pytest.raises(ModelRefused, match="can't help") as caught:
        read(delta(refusal="I can't "), delta(refusal="help"), delta("stop"), DONE)
    assert caught.value.details["refusal"] == "I can't help"


def test_a_refusal_after_some_text() -> None:
    reply, _ = read(delta(content="Well. "), delta(refusal="No."), delta("stop"), DONE)
    assert (reply.message.text, reply.finish) == ("Well. No.", "content-filter")


def test_filtered_before_it_began() -> None:
    with pytest.raises(ModelRefused, match="filtered"):
        read(delta("content_filter"), DONE)


def test_an_answer_of_nothing_is_an_answer() -> None:
    reply, _ = read(delta(content=""), delta("stop"), DONE)
    assert reply.message.parts == ()


@pytest.mark.parametrize(
    ("chunk", "kind", "status"),
    [
        ({"error": {"message": "boom", "code": 502}}, ModelHTTPError, 502),
        ({"error": "boom"}, ModelHTTPError, 0),
        ({"error": {"message": "boom", "status_code": 500, "code": "x"}}, ModelHTTPError, 500),
        ({"error": {"message": "boom", "code": "tool_use_failed"}}, ModelOutputError, None),
        ({**delta(content=""), "error": {"message": "boom", "code": 400}}, ModelHTTPError, 400),
        ({"choices": [{"error": {"message": "boom", "code": 504}}]}, ModelHTTPError, 504),
    ],
)
def test_an_error_instead_of_a_chunk(
    chunk: dict[str, Any], kind: type[ModelError], status: int | None
) -> None:
    with pytest.raises(kind, match="boom") as caught:
        read(delta(content="a"), chunk, DONE)
    assert getattr(caught.value, "status", None) == status


@pytest.mark.parametrize(
    "chunk",
    [
        delta(tool_calls="f"),
        delta(tool_calls=[None, 1, {"function": None}]),
        delta(content=7),
        delta(content=[1, {"type": "image"}]),
        delta(reasoning_details="x", reasoning=3),
        {"choices": "no"},
        {"choices": [None, 3]},
        {"choices": [{"index": 0}]},
        {"choices": [{"index": 0, "delta": None, "finish_reason": 3}]},
        {"object": "ping"},
    ],
)
def test_odd_types_are_passed_over(chunk: dict[str, Any]) -> None:
    reply, _ = read(delta(content="a"), chunk, delta("stop"), DONE)
    assert reply.message.text == "a"


@pytest.mark.parametrize("bad", ["{", "null", "[]", '"x"', "\\xff", "<html>"])
def test_what_is_not_a_chunk(bad: str) -> None:
    with pytest.raises(ModelOutputError):
        read(delta(content="a"), bad)


def test_a_stream_that_stops() -> None:
    for chunks in ([delta(content="a")], [], [call(0, "a", name="f", arguments='{"x')]):
        with pytest.raises(ModelHTTPError) as caught:
            read(*chunks)
        assert caught.value.code == "model.truncated"


def test_a_whole_body() -> None:
    body = {
        "id": "x",
        "model": "m-1",
        "choices": [
            {
                "message": {
                    "role": "assistant",
                    "content": None,
                    "reasoning_content": "hm",
                    "tool_calls": [
                        {"id": "a", "function": {"name": "f", "arguments": '{"x": 1}'}},
                        {"id": "b", "function": {"name": "f", "arguments": "{}"}},
                    ],
                },
                "finish_reason": "tool_calls",
            }
        ],
        "usage": USAGE,
    }
    reply = ChatCodec(VENDORS["openai"], "m").decode_body(json.dumps(body).encode())
    assert reply.message.reasoning == "hm"
    assert reply.message.tool_calls == (
        ToolCall(id="a", name="f", args='{"x": 1}'),
        ToolCall(id="b", name="f", args="{}"),
    )
    assert (reply.finish, reply.model, reply.raw) == ("tool-calls", "m-1", body)
