"""Recorded answers of Gemini and Vertex against what the official SDK's types made of them."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from mastra_nb.errors import ModelError, ModelRefused
from mastra_nb.events import ArgsDelta, Delta, ReasoningDelta, TextDelta
from mastra_nb.http.sse import SSEDecoder
from mastra_nb.models import ModelRequest, Reply
from mastra_nb.providers.google import GeminiCodec, GoogleModel
from tests.http.server import Answer, serve
from tests.wire.test_recordings import FOLDER, Ctx, Row, _split


def _rows() -> list[Row]:
    lines = [(FOLDER / name).read_text().splitlines() for name in ("index.jsonl", "expected.jsonl")]
    index = {row["id"]: row for row in map(json.loads, lines[0])}
    rows = [(index[e["id"]], e["expected"]) for e in map(json.loads, lines[1])]
    return [r for r in rows if r[0]["endpoint"] in ("google.generate", "vertex.generate")]


ROWS = _rows()
FINISH = {"STOP": "stop", "MAX_TOKENS": "length", "UNEXPECTED_TOOL_CALL": "tool-calls"}


def read(row: dict[str, Any], cut: random.Random | None = None) -> tuple[Reply, list[Delta]]:
    body = (FOLDER / row["body"]).read_bytes()
    codec = GeminiCodec("m")
    if not row["stream"]:
        return codec.decode_body(body), []
    sse, decoder = SSEDecoder(), codec.decoder()
    deltas: list[Delta] = []
    for piece in _split(body, cut) if cut else [body]:
        for event in sse.feed(piece):
            deltas += decoder.feed(event)
    for event in sse.close():
        deltas += decoder.feed(event)
    return decoder.finish(), deltas


def differences(row: dict[str, Any], want: dict[str, Any], cut: random.Random | None) -> list[str]:
    try:
        reply, deltas = read(row, cut)
    except ModelRefused as error:
        blocked = want["finish_reason"] in (None, "SAFETY", "MODEL_ARMOR") and not want["text"]
        return [] if blocked else [f"refused: {error}"]
    except ModelError as error:
        return [f"failed: {error!r}"]
    message, usage = reply.message, want["usage"]
    thoughts = usage["thoughts"] or 0
    got: dict[str, Any] = {
        "text": message.text,
        "thinking": message.reasoning,
        "calls": [(c.name, json.loads(c.args)) for c in message.tool_calls],
        "finish": reply.finish,
        "model": reply.model,
        "input": reply.usage.input,
        "output": reply.usage.output,
        "thoughts": reply.usage.reasoning,
    }
    expected: dict[str, Any] = {
        "text": want["text"],
        "thinking": want["thinking"],
        "calls": [(c["name"], c["args"]) for c in want["tool_calls"]],
        "finish": "tool-calls" if want["tool_calls"] else FINISH[want["finish_reason"]],
        "model": want["model"] or "",
        "input": usage["input"] or 0,
        "output": (usage["output"] or 0) + thoughts,
        "thoughts": thoughts,
    }
    for call, wanted in zip(message.tool_calls, want["tool_calls"], strict=False):
        if wanted["id"] and call.id != wanted["id"]:
            return [f"the call {wanted['id']} is {call.id}"]
    if len({call.id for call in message.tool_calls}) != len(message.tool_calls):
        return ["two calls have the same id"]
    if row["stream"]:
        kinds = (TextDelta, ReasoningDelta, ArgsDelta)
        got["deltas"] = ["".join(d.text for d in deltas if isinstance(d, k)) for k in kinds]
        args = "".join(c.args for c in message.tool_calls)
        expected["deltas"] = [message.text, message.reasoning, args]
    return [
        f"{k}: {str(got[k])[:150]!r} is not {str(v)[:150]!r}"
        for k, v in expected.items()
        if got[k] != v
    ]


@pytest.mark.parametrize("rounds", [0, 3], ids=["whole", "split"])
def test_every_recording_gives_what_the_sdk_sees(rounds: int) -> None:
    assert len(ROWS) > 300
    failures = []
    for row, want in ROWS:
        for seed in range(max(1, rounds)):
            cut = random.Random(f"{row['id']} {seed}") if rounds else None
            if found := differences(row, want, cut):
                failures.append(f"{row['id']}: {'; '.join(found)}")
                break
    print(f"\n{len(ROWS) - len(failures)} of {len(ROWS)} recordings")
    assert not failures, "\n".join(failures)


async def test_served_over_loopback_they_give_the_same() -> None:
    def script(number: int) -> Answer:
        row = ROWS[number][0]
        body = (FOLDER / row["body"]).read_bytes()
        kind = "text/event-stream" if row["stream"] else "application/json"
        pieces = [p for p in _split(body, random.Random(number)) if p]
        return Answer(headers={"content-type": kind}, pieces=pieces)

    def outcome(got: Reply | ModelError) -> object:
        return got if isinstance(got, Reply) else (type(got), str(got))

    different = []
    async with serve(script) as server:
        model = GoogleModel("m", base_url=server.url, api_key="none")
        for row, _ in ROWS:
            try:
                direct: Reply | ModelError = read(row)[0]
            except ModelError as error:
                direct = error
            try:
                got: Reply | ModelError = await model.invoke(ModelRequest(messages=()), Ctx())  # type: ignore[arg-type]
            except ModelError as error:
                got = error
            if outcome(got) != outcome(direct):
                different.append(row["id"])
        assert len(server.requests) == len(ROWS)
    assert different == []


def test_every_signature_goes_back_on_its_part() -> None:
    """What was answered, sent again, has each signature and each unknown part verbatim."""
    from mastra_nb.messages import user

    signed = 0
    for row, _ in ROWS:
        if row["stream"]:
            continue
        body = json.loads((FOLDER / row["body"]).read_bytes())
        try:
            reply, _ = read(row)
        except ModelRefused:
            continue
        request = ModelRequest(messages=(user("x"), reply.message))
        sent = json.loads(GeminiCodec("gemini-2.5-pro").encode(request, stream=False).body)
        there = [p for c in sent["contents"][1:] for p in c["parts"]]
        for part in body["candidates"][0].get("content", {}).get("parts", ()):
            if "functionCall" in part:
                call = {"id": "", **part["functionCall"]}
                back = [p for p in there if "functionCall" in p]
                assert any(
                    {**p["functionCall"], "id": call["id"] or ""} == call or call["id"] == ""
                    for p in back
                )
                signature = part.get("thoughtSignature")
                assert any(p.get("thoughtSignature") == signature for p in back)
            elif "thoughtSignature" in part:
                assert part in there
            signed += "thoughtSignature" in part
    assert signed > 200
