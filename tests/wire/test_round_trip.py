"""What a service has said goes back to it as it came: recorded answers, sent again."""

from __future__ import annotations

import json
from typing import Any

from mastra_nb.messages import Message, ToolResult, user
from mastra_nb.models import ModelRequest, Reply
from mastra_nb.providers.anthropic import MessagesCodec
from mastra_nb.providers.google import GeminiCodec
from tests.anthropic_params import check
from tests.wire.test_recordings import ROWS, _body, read


def _sent_to_anthropic(message: Message) -> list[dict[str, Any]]:
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


def test_anthropic_gets_every_block_back_in_its_place() -> None:
    """Signatures, calls, server tools, citations; only empty text stays away, and nulls."""
    rows = ROWS["anthropic.messages"]
    assert len(rows) > 200
    for row, _ in rows:
        reply = read(row)[0]
        assert isinstance(reply, Reply)
        came = [
            {k: v for k, v in block.items() if v is not None}
            for block in reply.raw["content"]
            if block["type"] != "text" or block["text"].strip()
        ]
        sent = _sent_to_anthropic(reply.message)
        went = [{k: v for k, v in block.items() if v not in (None, [])} for block in sent]
        assert went == [{k: v for k, v in block.items() if v != []} for block in came], row["id"]


def test_google_gets_every_signature_back_on_its_part() -> None:
    """Each signature and each unknown part verbatim."""
    signed = 0
    for row, _ in [*ROWS["google.generate"], *ROWS["vertex.generate"]]:
        reply = None if row["stream"] else read(row)[0]
        if not isinstance(reply, Reply):
            continue
        request = ModelRequest(messages=(user("x"), reply.message))
        sent = json.loads(GeminiCodec("gemini-2.5-pro").encode(request, stream=False).body)
        there = [part for content in sent["contents"][1:] for part in content["parts"]]
        for part in json.loads(_body(row))["candidates"][0].get("content", {}).get("parts", ()):
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
