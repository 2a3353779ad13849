from __future__ import annotations

import json
from typing import Any

import pytest

from mastra_nb.agents import Agent
from mastra_nb.errors import ModelError, ModelHTTPError, ModelOutputError, ModelRefused, UsageError
from mastra_nb.events import ArgsDelta, Delta, ReasoningDelta, TextDelta
from mastra_nb.http.sse import SSEDecoder
from mastra_nb.messages import (
    Media,
    Message,
    Reasoning,
    Text,
    ToolCall,
    ToolSpec,
    Usage,
    assistant,
    user,
)
from mastra_nb.models import ModelRequest, ModelSettings, Reply
from mastra_nb.providers._responses import ResponsesCodec
from mastra_nb.providers._vendors import VENDORS
from mastra_nb.providers.openai import provider
from tests.http.server import Answer, serve

USAGE = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 5},
    "total_tokens": 17,
}
CALL = {
    "type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f",
    "arguments": '{"x": 1}', "status": "completed",
}  # fmt: skip


def codec(model: str = "gpt-5", *, thinks: bool = True, vendor: str = "openai") -> ResponsesCodec:
    return ResponsesCodec(VENDORS[vendor], model, thinks=thinks)


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", **fields}


def said(text: str, **fields: Any) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "id": "msg_1", "role": "assistant", "content": content, **fields}


def response(*output: dict[str, Any], status: str = "completed", **fields: Any) -> dict[str, Any]:
    return {
        "id": "resp_1", "object": "response", "model": "gpt-5", "status": status,
        "error": None, "output": list(output), "usage": USAGE, **fields,
    }  # fmt: skip


def read(*events: Any) -> tuple[Reply, list[Delta]]:
    lines = [e if isinstance(e, str) else json.dumps(e, ensure_ascii=False) for e in events]
    raw = "".join(f"data: {line}\n\n" for line in lines).encode()
    results = []
    for size in (len(raw), 1, 7):
        sse, decoder = SSEDecoder(), codec().decoder()
        found: list[Delta] = []
        for i in range(0, len(raw), size):
            for piece in sse.feed(raw[i : i + size]):
                found += decoder.feed(piece)
        results.append((decoder.finish(), found))
    assert results[0] == results[1] == results[2]
    return results[0]


def body(value: dict[str, Any]) -> Reply:
    return codec().decode_body(json.dumps(value).encode())


def test_a_stream_of_text() -> None:
    done = response(said("Grüße, 世界", phase="final_answer"))
    reply, found = read(
        event("created", response=response(status="in_progress")),
        event("output_item.added", output_index=0, item=said("")),
        event("output_text.delta", output_index=0, content_index=0, delta="Grüße, "),
        event("output_text.delta", output_index=0, content_index=0, delta="世界"),
        event("output_text.done", output_index=0, content_index=0, text="Grüße, 世界"),
        event("some_event_of_tomorrow", delta="x"),
        event("completed", response=done),
    )
    assert found == [TextDelta(text="Grüße, "), TextDelta(text="世界")]
    assert (reply.message.text, reply.finish, reply.model) == ("Grüße, 世界", "stop", "gpt-5")
    assert reply.usage == Usage(input=10, output=7, cached=4, cache_write=3, reasoning=5, calls=1)
    assert reply.raw == done
    (part,) = reply.message.parts
    assert part.extra == {"openai": {"phase": "final_answer"}}


def test_reasoning_is_shown_as_its_summary_and_kept_whole() -> None:
    item = {
        "type": "reasoning", "id": "rs_1", "encrypted_content": "blob",
        "summary": [
            {"type": "summary_text", "text": "One. "}, {"type": "summary_text", "text": "Two."},
        ],
        "content": [{"type": "reasoning_text", "text": "the long thought"}],
    }  # fmt: skip
    reply, found = read(
        event("reasoning_summary_text.delta", output_index=0, summary_index=0, delta="One. "),
        event("reasoning_summary_text.done", output_index=0, summary_index=0, text="One. "),
        event("reasoning_summary_text.done", output_index=0, summary_index=1, text="Two."),
        event("reasoning_text.delta", output_index=0, content_index=0, delta="the long thought"),
        event("completed", response=response(item, said("42"))),
    )
    assert found == [ReasoningDelta(text="One. "), ReasoningDelta(text="Two.")]
    part = reply.message.parts[0]
    assert isinstance(part, Reasoning)
    assert (part.text, part.extra) == ("One. Two.", {"openai": {"item": item}})


def test_a_call_in_pieces_whole_at_once_or_only_at_its_end() -> None:
    empty = {**CALL, "arguments": ""}
    second = {**CALL, "call_id": "call_2", "name": "g", "arguments": "{}", "namespace": "ns"}
    third = {**CALL, "call_id": "call_3", "name": "h", "arguments": ""}
    reply, found = read(
        event("output_item.added", output_index=0, item=empty),
        event("function_call_arguments.delta", output_index=0, item_id="fc_1", delta='{"x"'),
        event("function_call_arguments.delta", output_index=0, item_id="fc_1", delta=": 1}"),
        event("function_call_arguments.done", output_index=0, arguments='{"x": 1}'),
        event("output_item.done", output_index=0, item=CALL),
        event("output_item.done", output_index=1, item=second),
        event("output_item.added", output_index=2, item=third),
        event("output_item.done", output_index=2, item=third),
        event("completed", response=response(CALL, second, third)),
    )
    assert found == [
        ArgsDelta(id="call_1", name="f", text=""),
        ArgsDelta(id="call_1", text='{"x"'),
        ArgsDelta(id="call_1", text=": 1}"),
        ArgsDelta(id="call_2", name="g", text="{}"),
        ArgsDelta(id="call_3", name="h", text=""),
    ]
    assert reply.message.tool_calls == (
        ToolCall(id="call_1", name="f", args='{"x": 1}'),
        ToolCall(id="call_2", name="g", args="{}", extra={"openai": {"namespace": "ns"}}),
        ToolCall(id="call_3", name="h", args="{}"),
    )
    assert reply.finish == "tool-calls"


def test_items_that_the_last_event_leaves_out() -> None:
    reply, found = read(
        event("output_text.done", output_index=1, content_index=0, text="hi"),
        event("output_item.done", output_index=1, item=said("hi")),
        event("output_item.done", output_index=0, item=CALL),
        event("completed", response=response()),
    )
    assert (reply.message.text, len(reply.message.tool_calls)) == ("hi", 1)
    assert found[0] == TextDelta(text="hi")


@pytest.mark.parametrize(
    "kind",
    ["web_search_call", "mcp_call", "mcp_list_tools", "code_interpreter_call", "custom_tool_call",
     "image_generation_call", "compaction", "an_item_of_tomorrow"],
)  # fmt: skip
def test_items_of_built_in_tools_are_not_our_calls_and_go_back(kind: str) -> None:
    item = {"type": kind, "id": "x_1", "status": "completed", "error": None}
    reply = body(response(item, said("done")))
    assert (reply.message.tool_calls, reply.finish, reply.message.reasoning) == ((), "stop", "")
    request = ModelRequest(messages=(user("q"), reply.message, user("and?")))
    wire = json.loads(codec().encode(request, stream=False).body)["input"]
    assert wire[1:3] == [
        {"type": kind, "id": "x_1", "status": "completed"},
        {"role": "assistant", "content": "done"},
    ]


@pytest.mark.parametrize(
    ("status", "reason", "finish"),
    [
        ("completed", None, "stop"),
        ("incomplete", "max_output_tokens", "length"),
        ("incomplete", "content_filter", "content-filter"),
        ("incomplete", "steered", "other"),
        ("queued", None, "other"),
        ("cancelled", None, "other"),
    ],
)
def test_how_it_ended(status: str, reason: str | None, finish: str) -> None:
    details = {"reason": reason} if reason else None
    value = response(said("so far"), status=status, incomplete_details=details)
    assert body(value).finish == finish
    if status in ("completed", "incomplete", "cancelled"):
        assert read(event(status, response=value))[0] == body(value)


def test_a_refusal() -> None:
    refusal = [{"type": "refusal", "refusal": "No."}]
    with pytest.raises(ModelRefused) as caught:
        read(
            event("refusal.delta", output_index=0, content_index=0, delta="No."),
            event("completed", response=response(said("", content=refusal))),
        )
    assert caught.value.details["refusal"] == "No."
    assert caught.value.details["usage"]["output"] == 7
    both = said("", content=[{"type": "output_text", "text": "Well. "}, *refusal])
    reply = body(response(both))
    assert (reply.message.text, reply.finish) == ("Well. No.", "content-filter")
    filtered = {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}
    with pytest.raises(ModelRefused):
        body(response(**filtered))


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ({"type": "error", "code": "server_error", "message": "boom", "param": None}, 500),
        ({"type": "error", "error": {"code": "rate_limit_exceeded", "message": "boom"}}, 429),
        ({"error": {"message": "boom"}}, 0),
        (
            event(
                "failed",
                response=response(
                    status="failed", error={"code": "server_error", "message": "boom"}
                ),
            ),
            500,
        ),
    ],
)
def test_an_error_in_the_stream(value: dict[str, Any], status: int) -> None:
    with pytest.raises(ModelHTTPError, match="boom") as caught:
        read(event("output_text.delta", output_index=0, content_index=0, delta="so"), value)
    assert (caught.value.code, caught.value.status) == ("model.stream_error", status)
    if "response" in value:
        assert caught.value.details["usage"]["input"] == 10


def test_a_failed_body_and_nonsense() -> None:
    with pytest.raises(ModelHTTPError, match="boom"):
        body(response(status="failed", error={"code": "server_error", "message": "boom"}))
    for bad in (b"[1]", b"{}", b"\xff{", b"null", b'{"output": null}', b'{"output": {}}'):
        with pytest.raises(ModelOutputError):
            codec().decode_body(bad)


@pytest.mark.parametrize("end", [[], ["[DONE]"], [event("in_progress", response=response())]])
def test_a_stream_that_breaks_off(end: list[Any]) -> None:
    with pytest.raises(ModelError) as caught:
        read(event("output_text.delta", output_index=0, content_index=0, delta="so"), *end)
    assert caught.value.code == "model.truncated"


def encode(request: ModelRequest, **options: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(codec(**options).encode(request, stream=True).body)
    return made


def test_nothing_is_stored_and_thoughts_come_and_go_encrypted() -> None:
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "blob"}
    lost = {"type": "reasoning", "id": "rs_2", "summary": []}
    turn = Message(
        role="assistant",
        parts=(
            Reasoning(text="", extra={"openai": {"item": item}}),
            Reasoning(text="", extra={"openai": {"item": lost}}),
            Reasoning(text="hm", extra={"anthropic": {"signature": "s"}}),
            Text(text="42"),
        ),
    )
    wire = encode(ModelRequest(messages=(user("x"), turn)))
    assert (wire["store"], wire["include"]) == (False, ["reasoning.encrypted_content"])
    assert wire["input"][1:] == [item, {"role": "assistant", "content": "42"}]
    wire = encode(ModelRequest(messages=(user("x"), turn)), model="gpt-4o", thinks=False)
    assert "include" not in wire
    assert wire["input"][1:] == [{"role": "assistant", "content": "42"}]


def test_settings() -> None:
    settings = ModelSettings(temperature=0.1, max_tokens=9, seed=3, stop=("x",), reasoning="high")
    request = ModelRequest(messages=(user("x"),), settings=settings)
    wire = encode(request)
    assert wire["reasoning"] == {"effort": "high", "summary": "auto"}
    assert wire["max_output_tokens"] == 9
    assert not {"temperature", "seed", "stop", "max_tokens"} & set(wire)
    assert encode(request, model="gpt-4o", thinks=False)["temperature"] == 0.1
    assert encode(request, model="m", vendor="deepseek")["reasoning"]["effort"] == "high"
    assert encode(request, model="m", vendor="openrouter")["reasoning"]["effort"] == "high"
    off = ModelRequest(messages=(user("x"),), settings=ModelSettings(reasoning="off"))
    assert encode(off, model="gpt-5.2")["reasoning"] == {"effort": "none"}
    assert encode(off, model="m", vendor="deepseek")["reasoning"] == {"effort": "none"}
    extra = ModelSettings(extra={"reasoning": {"effort": "low"}, "store": True})
    wire = encode(ModelRequest(messages=(user("x"),), settings=extra))
    assert (wire["reasoning"], wire["store"]) == ({"effort": "low"}, True)


def test_built_in_tools_stand_beside_ours() -> None:
    tool = ToolSpec(name="f", description="", parameters={"type": "object"})
    extra = {"tools": [{"type": "web_search"}], "include": ["web_search_call.action.sources"]}
    request = ModelRequest(
        messages=(user("x"),), tools=(tool,), settings=ModelSettings(extra=extra)
    )
    wire = encode(request)
    assert [t["type"] for t in wire["tools"]] == ["function", "web_search"]
    assert wire["include"] == ["reasoning.encrypted_content", "web_search_call.action.sources"]


def test_media_it_does_not_take() -> None:
    with pytest.raises(UsageError, match="audio/wav"):
        encode(ModelRequest(messages=(user(Media(mime="audio/wav", data=b"x")),)))


def test_an_empty_answer_of_before_is_left_out() -> None:
    wire = encode(ModelRequest(messages=(user("a"), assistant(""), user("b"))))
    assert [m["role"] for m in wire["input"]] == ["user", "user"]


async def test_azure_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key in a header of its own; the rest is the same API."""
    data = f"data: {json.dumps(event('completed', response=response(said('hi'))))}\n\n".encode()

    def script(number: int) -> Answer:
        return Answer(headers={"content-type": "text/event-stream"}, pieces=[data])

    monkeypatch.setenv("OPENAI_API_VERSION", "2025-04-01-preview")
    async with serve(script) as server:
        monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", server.url.removesuffix("/v1"))
        monkeypatch.setenv("AZURE_OPENAI_API_KEY", "canary-key")
        model = provider("azure-responses", "mine")
        run = Agent(name="a", model=model).run("hello")
        assert await run == "hi"
        ((headers, sent),) = server.requests
    assert headers["api-key"] == "canary-key"
    assert "authorization" not in headers
    assert (sent["model"], sent["input"]) == ("mine", [{"role": "user", "content": "hello"}])
