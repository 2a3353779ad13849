"""Recorded answers of Ollama's own API.

Their expectations were made with the types of another API and say the model's name only, so that
the rest is compared with the body itself, field by field as the official client names them.
"""

from __future__ import annotations

import json
import random
from typing import Any

from mastra_nb.events import ArgsDelta, Delta, ReasoningDelta, TextDelta
from mastra_nb.http.ndjson import LineDecoder
from mastra_nb.models import ModelRequest, Reply
from mastra_nb.providers.ollama import OllamaCodec, OllamaModel
from tests.http.server import Answer, serve
from tests.wire.test_recordings import FOLDER, Ctx, _split

ROWS = [
    row
    for row in map(json.loads, (FOLDER / "index.jsonl").read_text().splitlines())
    if row["endpoint"] == "ollama.chat" and "/api/" in row["uri"]
]


def _body(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / row["body"]).read_bytes())
    return found


def _streamed(row: dict[str, Any]) -> bytes:
    """The recorded answer as the server would have streamed it, a few words a line."""
    body = _body(row)
    if "message" not in body:
        return json.dumps(body).encode()
    said, lines = body.pop("message"), []
    for key in ("thinking", "content"):
        text = said.get(key) or ""
        lines += [
            {"model": body["model"], "message": {"role": "assistant", key: text[i : i + 7]}}
            for i in range(0, len(text), 7)
        ]
    lines.append({**body, "message": {"role": "assistant", "content": "", **_calls(said)}})
    return "\n".join(json.dumps(x, ensure_ascii=False) for x in lines).encode() + b"\n"


def _calls(said: dict[str, Any]) -> dict[str, Any]:
    return {"tool_calls": said["tool_calls"]} if said.get("tool_calls") else {}


def _check(reply: Reply, row: dict[str, Any]) -> None:
    body = _body(row)
    said = body.get("message", {"content": body.get("response")})
    assert reply.message.text == said["content"]
    assert reply.message.reasoning == said.get("thinking", "")
    calls = [c["function"] for c in said.get("tool_calls", ())]
    assert [(c.name, json.loads(c.args)) for c in reply.message.tool_calls] == [
        (c["name"], c["arguments"]) for c in calls
    ]
    assert reply.finish == ("tool-calls" if calls else body["done_reason"])
    assert reply.model == body["model"]
    assert reply.usage.input == body.get("prompt_eval_count", 0)
    assert reply.usage.output == body["eval_count"]


def test_every_recording_whole() -> None:
    assert len(ROWS) >= 12
    for row in ROWS:
        _check(OllamaCodec("m").decode_body((FOLDER / row["body"]).read_bytes()), row)


def test_bytes_split_anywhere_give_the_same() -> None:
    for row in ROWS:
        for seed in range(5):
            lines, decoder = LineDecoder(), OllamaCodec("m").decoder()
            deltas: list[Delta] = []
            for piece in _split(_streamed(row), random.Random(f"{row['id']} {seed}")):
                for event in lines.feed(piece):
                    deltas += decoder.feed(event)
            for event in lines.close():
                deltas += decoder.feed(event)
            reply = decoder.finish()
            _check(reply, row)
            for kind, text in (
                (TextDelta, reply.message.text),
                (ReasoningDelta, reply.message.reasoning),
                (ArgsDelta, "".join(c.args for c in reply.message.tool_calls)),
            ):
                assert "".join(d.text for d in deltas if isinstance(d, kind)) == text


async def test_served_over_loopback_they_give_the_same() -> None:
    def script(number: int) -> Answer:
        row = ROWS[number // 2]
        whole = (FOLDER / row["body"]).read_bytes()
        body = _streamed(row) if number % 2 else whole
        pieces = [p for p in _split(body, random.Random(number)) if p]
        return Answer(headers={"content-type": "application/x-ndjson"}, pieces=pieces)

    async with serve(script) as server:
        model = OllamaModel("m", base_url=server.url)
        for row in ROWS:
            for _ in range(2):
                _check(await model.invoke(ModelRequest(messages=()), Ctx()), row)  # type: ignore[arg-type]
