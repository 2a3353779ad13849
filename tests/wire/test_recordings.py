"""Recorded answers of real services against what the official SDKs' types made of them.

One harness for every provider: a row's address says which model reads it (ROUTES), and what each
SDK calls things is brought to our names once (`wanted`). Each row is read whole, cut at random
bytes, and served over loopback to the real model; each time it must give what is expected.

The recordings are not part of this repository: MASTRA_NB_RECORDINGS names their folder.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import random
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mastra_nb.errors import ModelError, ModelRefused
from mastra_nb.events import ArgsDelta, Delta, ReasoningDelta, TextDelta
from mastra_nb.http.sse import SSEDecoder
from mastra_nb.messages import user
from mastra_nb.models import ModelRequest, Reply
from mastra_nb.providers import _embeddings
from mastra_nb.providers._vendors import VENDORS
from mastra_nb.providers.openai import OpenAIModel
from mastra_nb.services import Services
from tests.http.server import Answer, serve

_ROOT = Path(__file__).parents[2]
FOLDER = Path(
    os.environ.get("MASTRA_NB_RECORDINGS") or _ROOT.parent / "shared/data/provider_recordings"
)
if not (FOLDER / "index.jsonl").is_file():
    pytest.skip("no recordings: set MASTRA_NB_RECORDINGS", allow_module_level=True)

Row = tuple[dict[str, Any], dict[str, Any]]

# Where a request went -> the model class that reads the answer, and what it is made with.
ROUTES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (r"/(chat/)?completions$", "openai:OpenAIModel", {"api": "chat"}),
    (r"/responses(/resp_\w+)?$", "openai:OpenAIModel", {"api": "responses"}),
    (r"/v1/messages$", "anthropic:AnthropicModel", {}),
    (r":(g|streamG)enerateContent$", "google:GoogleModel", {}),
    (r"/api/(chat|generate)$", "ollama:OllamaModel", {}),
)


def _rows() -> dict[str, list[Row]]:
    lines = [(FOLDER / name).read_text().splitlines() for name in ("index.jsonl", "expected.jsonl")]
    index = {row["id"]: row for row in map(json.loads, lines[0])}
    found: dict[str, list[Row]] = {}
    for e in map(json.loads, lines[1]):
        found.setdefault(e["endpoint"], []).append((index[e["id"]], e["expected"]))
    return found


ROWS = _rows()
EMBEDDINGS = sorted(name for name in ROWS if name.endswith(".embeddings"))
CHATS = sorted(name for name in ROWS if name not in EMBEDDINGS)


def _body(row: dict[str, Any]) -> bytes:
    return (FOLDER / row["body"]).read_bytes()


def _model(row: dict[str, Any], url: str) -> Any:
    """Raises LookupError or ImportError for a row that nothing reads: a failure, not a skip."""
    path = urlsplit(row["uri"]).path
    for pattern, target, options in ROUTES:
        if re.search(pattern, path):
            module, _, name = target.partition(":")
            if module == "openai":
                options = {**options, "vendor": row["endpoint"].partition(".")[0]}
            made = getattr(importlib.import_module(f"mastra_nb.providers.{module}"), name)
            asked = (row["request"] or {}).get("model") or "m"
            return made(asked, base_url=url, api_key="none", **options)
    raise LookupError(f"no codec for {path}")


def _split(body: bytes, cut: random.Random) -> list[bytes]:
    at = sorted(
        cut.randrange(len(body) + 1) for _ in range(cut.choice((1, 5, len(body) // 20 + 1)))
    )
    return [body[a:b] for a, b in zip([0, *at], [*at, len(body)], strict=True)]


class Ctx:
    services = Services()

    def __init__(self) -> None:
        self.deltas: list[Delta] = []

    def emit(self, data: Any) -> int:
        self.deltas.append(data)
        return 0


Outcome = tuple[Reply | ModelError, list[Delta]]


def read(row: dict[str, Any], cut: random.Random | None = None) -> Outcome:
    body, found = _body(row), list[Delta]()
    codec = _model(row, "http://127.0.0.1:9")._codec_at("http://127.0.0.1:9")
    try:
        if not row["stream"]:
            return codec.decode_body(body), []
        wire = codec.encode(ModelRequest(messages=(user("x"),)), stream=True)
        frames, decoder = getattr(wire, "framing", SSEDecoder)(), codec.decoder()
        for piece in _split(body, cut) if cut else [body]:
            for event in frames.feed(piece):
                found += decoder.feed(event)
        for event in frames.close():
            found += decoder.feed(event)
        return decoder.finish(), found
    except ModelError as error:
        return error, found


# --- expectations ----------------------------------------------------------------------------

FINISH = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool-calls",
    "function_call": "tool-calls",
    "content_filter": "content-filter",
    "completed": "stop",
    "complete": "stop",
    "queued": "other",
    "in_progress": "other",
    "max_output_tokens": "length",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool-calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content-filter",
    "pause_turn": "pause",
    "compaction": "pause",
    "STOP": "stop",
    "MAX_TOKENS": "length",
    **dict.fromkeys(
        ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR",
         "IMAGE_SAFETY", "LANGUAGE"),
        "content-filter",
    ),
    **dict.fromkeys(("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL"), "error"),
}  # fmt: skip


def wanted(row: dict[str, Any], want: dict[str, Any]) -> dict[str, Any]:
    """An expectation in our names; `calls` are (id or None if any will do, name, arguments)."""
    if "/api/" in urlsplit(row["uri"]).path and want.get("n_choices") == 0:
        want = _of_ollama(row)
    reason = want.get("finish_reason") or want.get("incomplete") or want.get("status")
    text = want["text"]
    if row["stream"] and (row["request"] or {}).get("n", 1) > 1:
        # Two recordings ask for two choices: the expectation mixes their texts, we read the first.
        text = _first_choice(row)
    calls = [(c["id"], c["name"], _args(c["args"])) for c in want["tool_calls"]]
    found: dict[str, Any] = {
        "text": text or "",
        "reasoning": (want["thinking"] if "thinking" in want else want["reasoning"]) or "",
        "model": want["model"] or "",
        "finish": FINISH.get(str(reason), "other") if reason else "other",
    }
    if reason == "function_call":
        # The SDK has no tool call for a call of before there were tools: we do.
        found["call count"] = 1
    else:
        found["calls"] = calls
        if calls and found["finish"] in ("stop", "other", "error"):
            found["finish"] = "tool-calls"
    return found | _usage(want.get("usage") or {})


def _usage(usage: dict[str, Any]) -> dict[str, Any]:
    """Our input holds what came from a cache, our output what was thought."""
    if "thoughts" in usage:
        thoughts = usage["thoughts"] or 0
        return {
            "input": usage["input"] or 0,
            "output": (usage["output"] or 0) + thoughts,
            "reasoning tokens": thoughts,
        }
    if "cache_read" in usage:
        cached, written = usage["cache_read"] or 0, usage["cache_write"] or 0
        return {
            "input": usage["input"] + cached + written,
            "output": usage["output"],
            "cached": cached,
            "cache_write": written,
        }
    names = {"input": "input", "output": "output", "cached": "cached"}
    names["reasoning"] = "reasoning tokens"
    return {ours: usage[k] for k, ours in names.items() if usage.get(k) is not None}


def _of_ollama(row: dict[str, Any]) -> dict[str, Any]:
    """These were read with OpenAI's types, which see nothing in them: the body says it itself."""
    body = json.loads(_body(row))
    said = body.get("message") or {
        "content": body.get("response"),
        "thinking": body.get("thinking"),
    }
    calls = [call["function"] for call in said.get("tool_calls") or ()]
    return {
        "text": said.get("content"),
        "reasoning": said.get("thinking"),
        "tool_calls": [{"id": None, "name": c["name"], "args": c["arguments"]} for c in calls],
        "finish_reason": body.get("done_reason"),
        "model": body["model"],
        "usage": {"input": body.get("prompt_eval_count"), "output": body.get("eval_count")},
    }


def _first_choice(row: dict[str, Any]) -> str:
    lines = _body(row).decode().splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    choices = [c for chunk in chunks for c in chunk["choices"] if c["index"] == 0]
    return "".join(c["delta"].get("content") or "" for c in choices)


def _args(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def differences(row: dict[str, Any], want: dict[str, Any], outcome: Outcome) -> list[str]:
    reply, deltas = outcome
    if "stream_error" in want:
        said = want["stream_error"]["message"]
        raised = isinstance(reply, ModelError) and said in reply.message
        return [] if raised else [f'"{said}" was not raised: {reply!r:.200}']
    expected = wanted(row, want)
    if isinstance(reply, ModelRefused):
        # Who refuses either says so, or is filtered and says nothing at all.
        refusal = want.get("refusal")
        silent = not expected["text"] and not expected.get("calls")
        filtered = silent and expected["finish"] in ("content-filter", "other")
        if not filtered and (not refusal or reply.details["refusal"] != refusal):
            return [f"refused: {reply}"]
        expected = {k: v for k, v in expected.items() if k in ("input", "output", "cached")}
        spent = reply.details["usage"]
        return [f"{k}: {spent.get(k, 0)}" for k, v in expected.items() if spent.get(k, 0) != v]
    if isinstance(reply, ModelError):
        return [f"failed: {reply!r}"]
    message, usage = reply.message, reply.usage
    got: dict[str, Any] = {
        "text": message.text,
        "reasoning": message.reasoning,
        "model": reply.model,
        "finish": reply.finish,
        "calls": [(c.id, c.name, _args(c.args)) for c in message.tool_calls],
        "call count": len(message.tool_calls),
        "input": usage.input,
        "output": usage.output,
        "cached": usage.cached,
        "cache_write": usage.cache_write,
        "reasoning tokens": usage.reasoning,
        "ids": len({c.id for c in message.tool_calls if c.id}),
    }
    expected["ids"] = len(message.tool_calls)
    if len(expected.get("calls", ())) == len(got["calls"]):
        ids = [call[0] for call in expected.get("calls", ())]
        got["calls"] = [
            call if id is not None else (None, *call[1:])
            for id, call in zip(ids, got["calls"], strict=False)
        ]
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


# --- the three ways --------------------------------------------------------------------------


def _report(endpoint: str, how: str, failures: list[str], total: int | None = None) -> None:
    total = len(ROWS[endpoint]) if total is None else total
    print(f"\n{endpoint}, {how}: {total - len(failures)} of {total}")
    assert not failures, "\n".join(failures)


def _try(row: dict[str, Any], want: dict[str, Any], cut: random.Random | None) -> list[str]:
    try:
        return differences(row, want, read(row, cut))
    except (ImportError, AttributeError, LookupError) as error:
        return [f"{type(error).__name__}: {error}"]


@pytest.mark.parametrize("endpoint", CHATS)
def test_every_recording_gives_what_the_sdk_sees(endpoint: str) -> None:
    failures = [
        f"{row['id']}: {'; '.join(found)}"
        for row, want in ROWS[endpoint]
        if (found := _try(row, want, None))
    ]
    _report(endpoint, "whole", failures)


@pytest.mark.parametrize("endpoint", CHATS)
def test_bytes_split_anywhere_give_the_same(endpoint: str) -> None:
    """Streams only: a whole body is joined before it is read, as the loopback shows."""
    streams = [(row, want) for row, want in ROWS[endpoint] if row["stream"]]
    failures = []
    for row, want in streams:
        for seed in range(3):
            if found := _try(row, want, random.Random(f"{row['id']} {seed}")):
                failures.append(f"{row['id']}: {'; '.join(found)}")
                break
    _report(endpoint, "split", failures, len(streams))


@pytest.mark.parametrize("endpoint", CHATS)
async def test_served_over_loopback_they_give_the_same(endpoint: str) -> None:
    rows: list[Row] = []

    def script(number: int) -> Answer:
        row, cut = rows[number][0], random.Random(number)
        kind = "text/event-stream" if row["stream"] else "application/json"
        kind = row["headers"].get("content-type", kind)
        pieces = [p for p in _split(_body(row), cut) if p]
        return Answer(headers={"content-type": kind}, pieces=pieces)

    failures = []
    async with serve(script) as server:
        for row, want in ROWS[endpoint]:
            ctx = Ctx()
            try:
                model = _model(row, server.url)
                rows.append((row, want))
                outcome: Any = await model.invoke(ModelRequest(messages=()), ctx)
            except ModelError as error:
                outcome = error
            except (ImportError, AttributeError, LookupError) as error:
                failures.append(f"{row['id']}: {type(error).__name__}: {error}")
                continue
            if found := differences(row, want, (outcome, ctx.deltas)):
                failures.append(f"{row['id']}: {'; '.join(found)}")
        assert len(server.requests) == len(rows)
    _report(endpoint, "loopback", failures)


@pytest.mark.parametrize("endpoint", EMBEDDINGS)
async def test_embeddings(endpoint: str) -> None:
    vendor = endpoint.partition(".")[0]
    rows = [row for row, _ in ROWS[endpoint]]

    def script(number: int) -> Answer:
        pieces = [p for p in _split(_body(rows[number]), random.Random(number)) if p]
        return Answer(headers={"content-type": "application/json"}, pieces=pieces)

    failures = []
    async with serve(script) as server:
        for row, want in ROWS[endpoint]:
            asked = row["request"]["input"]
            texts = [asked] if isinstance(asked, str) else asked
            service = OpenAIModel("m", vendor=vendor, base_url=server.url, api_key="none")
            served = await _embeddings.OpenAIEmbedder(service).embed(texts)
            assert served == _embeddings.read(VENDORS[vendor], _body(row), len(texts))
            shape = (want["n"], want["usage"]["input"], _dimensions(row, want["dim"]))
            sizes = [len(vector) for vector in served.vectors]
            got = (len(served.rows), served.usage.input, sizes)
            if got != shape:
                failures.append(f"{row['id']}: {got} is not {shape}")
    _report(endpoint, "loopback", failures)


def _dimensions(row: dict[str, Any], known: list[Any]) -> list[int]:
    """The SDK leaves base64 as it is; four bytes are a number."""
    vectors = [item["embedding"] for item in json.loads(_body(row))["data"]]
    return [
        len(base64.b64decode(vector)) // 4 if size == "b64" else size
        for size, vector in zip(known, vectors, strict=True)
    ]
