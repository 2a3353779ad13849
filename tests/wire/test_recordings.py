"""Recorded answers of real services against what the official SDK's types made of them.

The recordings are not part of this repository: MASTRA_NB_RECORDINGS names their folder.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from mastra_nb.errors import ModelError, ModelHTTPError, ModelOutputError, ModelRefused
from mastra_nb.events import ArgsDelta, Delta, ReasoningDelta, TextDelta
from mastra_nb.http.sse import SSEDecoder
from mastra_nb.models import ModelRequest, Reply
from mastra_nb.providers._vendors import VENDORS
from mastra_nb.providers.openai import ChatCodec, OpenAIModel
from mastra_nb.services import Services
from tests.http.server import Answer, serve

_ROOT = Path(__file__).parents[2]
FOLDER = Path(
    os.environ.get("MASTRA_NB_RECORDINGS") or _ROOT.parent / "shared/data/provider_recordings"
)
if not (FOLDER / "index.jsonl").is_file():
    pytest.skip("no recordings: set MASTRA_NB_RECORDINGS", allow_module_level=True)

Row = tuple[dict[str, Any], dict[str, Any]]


def _rows() -> list[Row]:
    lines = [(FOLDER / name).read_text().splitlines() for name in ("index.jsonl", "expected.jsonl")]
    index = {row["id"]: row for row in map(json.loads, lines[0])}
    rows = [(index[e["id"]], e["expected"]) for e in map(json.loads, lines[1])]
    return [r for r in rows if "/chat/completions" in r[0]["uri"]]


ROWS = _rows()


def _codec(row: dict[str, Any]) -> ChatCodec:
    vendor = row["endpoint"].partition(".")[0]
    return ChatCodec(VENDORS[vendor], (row["request"] or {}).get("model", ""))


def read(row: dict[str, Any], cut: random.Random | None = None) -> tuple[Reply, list[Delta]]:
    body = (FOLDER / row["body"]).read_bytes()
    codec = _codec(row)
    if not row["stream"]:
        return codec.decode_body(body), []
    sse, decoder, deltas = SSEDecoder(), codec.decoder(), []
    for piece in _split(body, cut) if cut else [body]:
        for event in sse.feed(piece):
            deltas += decoder.feed(event)
    for event in sse.close():
        deltas += decoder.feed(event)
    return decoder.finish(), deltas


def _split(body: bytes, cut: random.Random) -> list[bytes]:
    at = sorted(
        cut.randrange(len(body) + 1) for _ in range(cut.choice((1, 5, len(body) // 20 + 1)))
    )
    return [body[a:b] for a, b in zip([0, *at], [*at, len(body)], strict=True)]


def _args(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


FINISH = {
    "stop": {"stop"},
    "tool_calls": {"tool-calls"},
    "function_call": {"tool-calls"},
    "length": {"length"},
    "content_filter": {"content-filter"},
    None: {"other", "tool-calls"},
}


def _first_choice(row: dict[str, Any]) -> str:
    lines = (FOLDER / row["body"]).read_text().splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    choices = [c for chunk in chunks for c in chunk["choices"] if c["index"] == 0]
    return "".join(c["delta"].get("content") or "" for c in choices)


def differences(row: dict[str, Any], want: dict[str, Any], cut: random.Random | None) -> list[str]:
    try:
        reply, deltas = read(row, cut)
    except ModelRefused as error:
        if want.get("refusal") and error.details["refusal"] == want["refusal"]:
            return []
        filtered = want.get("finish_reason") == "content_filter" and not want["text"]
        return [] if filtered else [f"refused: {error}"]
    except (ModelHTTPError, ModelOutputError) as error:
        expected = want.get("stream_error")
        return [] if expected and expected["message"] in error.message else [f"failed: {error}"]
    except ModelError as error:
        return [f"failed: {error!r}"]
    if "stream_error" in want:
        return ["an error event was not raised"]
    if row["stream"] and (row["request"] or {}).get("n", 1) > 1:
        # Two recordings ask for two choices: the expectation mixes their texts, we read the first.
        want = {**want, "text": _first_choice(row)}
    message = reply.message
    calls = [(c.id, c.name, _args(c.args)) for c in message.tool_calls]
    expected_calls = [
        (c["id"], c["name"], _args(c["args"]) if isinstance(c["args"], str) else c["args"])
        for c in want["tool_calls"]
    ]
    got: dict[str, Any] = {
        "text": message.text,
        "reasoning": message.reasoning,
        "model": reply.model,
    }
    expected = {k: want[k] or "" for k in got}
    if want.get("finish_reason") != "function_call":
        got["calls"], expected["calls"] = calls, expected_calls
    elif len(calls) != 1:
        got["calls"], expected["calls"] = calls, "one legacy call"
    if reply.finish not in FINISH[want.get("finish_reason")]:
        got["finish"], expected["finish"] = reply.finish, want.get("finish_reason")
    if usage := want.get("usage"):
        for key in ("input", "output", "cached", "reasoning"):
            if usage.get(key) is not None:
                got[key], expected[key] = getattr(reply.usage, key), usage[key]
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


def _report(rounds: int) -> None:
    failures = []
    for row, want in ROWS:
        for seed in range(max(1, rounds)):
            cut = random.Random(f"{row['id']} {seed}") if rounds else None
            if found := differences(row, want, cut):
                failures.append(f"{row['id']}: {'; '.join(found)}")
                break
    print(f"\n{len(ROWS) - len(failures)} of {len(ROWS)} recordings")
    assert not failures, "\n".join(failures)


def test_every_recording_gives_what_the_sdk_sees() -> None:
    assert len(ROWS) > 600
    _report(0)


def test_bytes_split_anywhere_give_the_same() -> None:
    _report(3)


async def test_served_over_loopback_they_give_the_same() -> None:
    def script(number: int) -> Answer:
        row, cut = ROWS[number][0], random.Random(number)
        body = (FOLDER / row["body"]).read_bytes()
        kind = "text/event-stream" if row["stream"] else "application/json"
        kind = row["headers"].get("content-type", kind)
        return Answer(headers={"content-type": kind}, pieces=[p for p in _split(body, cut) if p])

    def outcome(call: Any) -> Any:
        return call if isinstance(call, Reply) else (type(call), str(call))

    different = []
    async with serve(script) as server:
        for row, _ in ROWS:
            vendor = row["endpoint"].partition(".")[0]
            model = OpenAIModel("m", vendor=vendor, base_url=server.url, api_key="none")
            try:
                direct: Any = read(row)[0]
            except ModelError as error:
                direct = error
            try:
                got: Any = await model.invoke(ModelRequest(messages=()), Ctx())  # type: ignore[arg-type]
            except ModelError as error:
                got = error
            if outcome(got) != outcome(direct):
                different.append(row["id"])
        assert len(server.requests) == len(ROWS)
    assert different == []


class Ctx:
    services = Services()

    def emit(self, data: object) -> int:
        return 0
