"""Recorded answers of Anthropic against what the official SDK's types made of them, and back.

The recordings are not part of this repository: MASTRA_NB_RECORDINGS names their folder.
"""

from __future__ import annotations

import json
import random
from typing import Any

from mastra_nb.errors import ModelError
from mastra_nb.events import ArgsDelta, Delta, ReasoningDelta, TextDelta
from mastra_nb.http.sse import SSEDecoder
from mastra_nb.messages import Message, ToolResult, user
from mastra_nb.models import ModelRequest, Reply
from mastra_nb.providers.anthropic import AnthropicModel, MessagesCodec
from tests.anthropic_params import check
from tests.http.server import Answer, serve
from tests.wire.test_recordings import FOLDER, Ctx, _split

Row = tuple[dict[str, Any], dict[str, Any]]


def _rows() -> list[Row]:
    lines = [(FOLDER / name).read_text().splitlines() for name in ("index.jsonl", "expected.jsonl")]
    index = {row["id"]: row for row in map(json.loads, lines[0])}
    rows = [(index[e["id"]], e["expected"]) for e in map(json.loads, lines[1])]
    return [r for r in rows if r[0]["endpoint"] == "anthropic.messages"]


ROWS = _rows()
FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool-calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content-filter",
    "pause_turn": "pause",
    "compaction": "pause",
}


def read(row: dict[str, Any], cut: random.Random | None = None) -> tuple[Reply, list[Delta]]:
    body = (FOLDER / row["body"]).read_bytes()
    codec = MessagesCodec((row["request"] or {}).get("model", ""))
    if not row["stream"]:
        return codec.decode_body(body), []
    sse, decoder, deltas = SSEDecoder(), codec.decoder(), []
    for piece in _split(body, cut) if cut else [body]:
        for event in sse.feed(piece):
            deltas += decoder.feed(event)
    for event in sse.close():
        deltas += decoder.feed(event)
    return decoder.finish(), deltas


def differences(row: dict[str, Any], want: dict[str, Any], cut: random.Random | None) -> list[str]:
    try:
        reply, deltas = read(row, cut)
    except ModelError as error:
        return [f"failed: {error!r}"]
    message, usage = reply.message, want["usage"]
    got: dict[str, Any] = {
        "text": message.text,
        "thinking": message.reasoning,
        "model": reply.model,
        "calls": [(c.id, c.name, json.loads(c.args)) for c in message.tool_calls],
        "finish": reply.finish,
        "blocks": [b["type"] for b in reply.raw["content"]],
        "usage": (
            reply.usage.input - reply.usage.cached - reply.usage.cache_write,
            reply.usage.output,
            reply.usage.cached,
            reply.usage.cache_write,
        ),
    }
    expected: dict[str, Any] = {
        "text": want["text"],
        "thinking": want["thinking"],
        "model": want["model"],
        "calls": [(c["id"], c["name"], c["args"]) for c in want["tool_calls"]],
        "finish": FINISH[want["finish_reason"]],
        "blocks": want["block_types"],
        "usage": tuple(usage[k] or 0 for k in ("input", "output", "cache_read", "cache_write")),
    }
    if row["stream"]:
        got["deltas"] = (
            "".join(d.text for d in deltas if isinstance(d, TextDelta)),
            "".join(d.text for d in deltas if isinstance(d, ReasoningDelta)),
            [
                "".join(d.text for d in deltas if isinstance(d, ArgsDelta) and d.id == c.id) or "{}"
                for c in message.tool_calls
            ],
        )
        expected["deltas"] = (message.text, message.reasoning, [c.args for c in message.tool_calls])
    return [
        f"{k}: {str(got[k])[:150]!r} is not {str(v)[:150]!r}"
        for k, v in expected.items()
        if got[k] != v
    ]


def _report(cuts: int) -> None:
    failures = []
    for number, (row, want) in enumerate(ROWS):
        for seed in range(max(cuts, 1)):
            cut = random.Random(number * 10 + seed) if cuts else None
            if found := differences(row, want, cut):
                failures.append(f"{row['id']}: {'; '.join(found)}")
                break
    print(f"\n{len(ROWS) - len(failures)} of {len(ROWS)} recordings")
    assert not failures, "\n".join(failures)


def test_every_recording_gives_what_the_sdk_sees() -> None:
    assert len(ROWS) > 200
    _report(0)


def test_bytes_split_anywhere_give_the_same() -> None:
    _report(3)


async def test_served_over_loopback_they_give_the_same() -> None:
    def script(number: int) -> Answer:
        row, cut = ROWS[number][0], random.Random(number)
        kind = "text/event-stream" if row["stream"] else "application/json"
        kind = row["headers"].get("content-type", kind)
        pieces = [p for p in _split((FOLDER / row["body"]).read_bytes(), cut) if p]
        return Answer(headers={"content-type": kind}, pieces=pieces)

    different = []
    async with serve(script) as server:
        model = AnthropicModel("claude-sonnet-4-5", base_url=server.url, api_key="none")
        for row, _ in ROWS:
            got = await model.invoke(ModelRequest(messages=()), Ctx())  # type: ignore[arg-type]
            if got != read(row)[0]:
                different.append(row["id"])
        assert len(server.requests) == len(ROWS)
    assert different == []


def _echo(message: Message) -> list[dict[str, Any]]:
    results = tuple(ToolResult(id=c.id, name=c.name, output="ok") for c in message.tool_calls)
    after = Message(role="tool", parts=results) if results else user("Go on.")
    request = ModelRequest(messages=(user("Hello"), message, after))
    body = json.loads(MessagesCodec("claude-opus-4-8").encode(request, stream=False).body)
    content: list[dict[str, Any]] = body["messages"][1]["content"]
    check({**body, "messages": _known(body["messages"])})
    return content


def _known(value: Any) -> Any:
    """Without `abort_reason: null`, which the API sends and the SDK has no type for."""
    if isinstance(value, list):
        return [_known(v) for v in value]
    if isinstance(value, dict):
        return {k: _known(v) for k, v in value.items() if k != "abort_reason" or v is not None}
    return value


def test_every_block_goes_back_as_it_came_and_in_its_place() -> None:
    """Signatures, calls, server tools, citations; only empty text stays away, and nulls."""
    for row, _ in ROWS:
        reply, _ = read(row)
        came = [
            {k: v for k, v in block.items() if v is not None}
            for block in reply.raw["content"]
            if block["type"] != "text" or block["text"].strip()
        ]
        went = [{k: v for k, v in b.items() if v not in (None, [])} for b in _echo(reply.message)]
        assert went == [{k: v for k, v in block.items() if v != []} for block in came], row["id"]
