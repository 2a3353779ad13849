"""Answers of Anthropic's Messages API, folded event by event.

A part holds what the block says in our terms; its `extra["anthropic"]` holds the other fields
of the block: the signature of Reasoning, the citations of Text, who called a tool. Where that
has a "type", the part stands for the block as it is and says nothing itself: redacted thinking
is a Reasoning without text, and every block that is neither text, thinking nor a call of one of
our tools (server tools and their results, MCP, compaction, kinds that do not exist yet) is a
Text without text, in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mastra_nb.config import redact
from mastra_nb.errors import ModelError, ModelHTTPError, ModelOutputError, ModelRefused
from mastra_nb.events import ArgsDelta, Delta, ReasoningDelta, TextDelta
from mastra_nb.http.client import error_message
from mastra_nb.http.sse import ServerEvent
from mastra_nb.messages import Finish, Message, Part, Reasoning, Text, ToolCall, Usage
from mastra_nb.models import Reply
from mastra_nb.providers._base import truncated

NAME = "anthropic"

_json = msgspec.json.Encoder()
FINISH: dict[str, Finish] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool-calls",
    "refusal": "content-filter",
    # The answer is not over: sent back as it is, it goes on.
    "pause_turn": "pause",
    "compaction": "pause",
}
STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


class _Block:
    """One block; what is streamed into it is joined at the end."""

    __slots__ = ("args", "fields", "kind", "text")

    def __init__(self, fields: dict[str, Any]) -> None:
        self.kind = fields.get("type")
        self.fields = fields
        self.text: list[str] = []
        self.args: list[str] = []

    def whole(self) -> dict[str, Any]:
        """The block as an answer that was not streamed has it."""
        fields = self.fields
        if self.text:
            key = "thinking" if self.kind == "thinking" else "text"
            said = "".join(self.text)
            fields[key] = _text(fields.get(key)) + said
            self.text.clear()
        if self.args and self.kind != "tool_use":
            written = "".join(self.args)
            try:
                fields["input"] = msgspec.json.decode(written)
            except msgspec.DecodeError:
                fields["input"] = {"INVALID_JSON": written}
            self.args.clear()
        return fields

    def arguments(self) -> str:
        """The JSON text of a call, as it was written where that is known."""
        if written := "".join(self.args):
            return written
        given = self.fields.get("input")
        return _json.encode(given).decode() if given else "{}"

    def part(self) -> Part | None:
        fields = self.whole()
        if self.kind == "text":
            extra = _others(fields, "text")
            text = _text(fields.get("text"))
            return Text(text=text, extra=extra) if text or extra else None
        if self.kind == "thinking":
            text, extra = _text(fields.get("thinking")), _others(fields, "thinking")
            return Reasoning(text=text, extra=extra) if text or extra else None
        if self.kind == "redacted_thinking":
            return Reasoning(text="", extra={NAME: fields})
        if self.kind == "tool_use":
            return ToolCall(
                id=_text(fields.get("id")),
                name=_text(fields.get("name")),
                args=self.arguments(),
                extra=_others(fields, "id", "name", "input"),
            )
        return Text(text="", extra={NAME: fields})


class MessagesDecoder:
    """Folds the events of one answer."""

    def __init__(self) -> None:
        self.complete = False
        self.done = False
        self._message: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._blocks: list[_Block] = []
        self._open: dict[str, _Block] = {}
        self._started = False

    def feed(self, event: ServerEvent) -> Sequence[Delta]:
        name, data = event.event, event.data
        if name == "ping" or not data:
            return ()
        if data[:6] == b"[DONE]":
            self.done = True
            return ()
        try:
            value = _decode(data)
        except ModelOutputError:
            if name == "error":
                raise _error({}, data) from None
            raise
        kind = value.get("type") or name
        if kind == "content_block_delta":
            delta = value.get("delta")
            return self._delta(str(value.get("index")), delta) if isinstance(delta, dict) else ()
        if kind == "content_block_start":
            block = value.get("content_block")
            return self._start(str(value.get("index")), block) if isinstance(block, dict) else ()
        if kind == "message_start":
            return self._begin(value.get("message"))
        if kind == "message_delta":
            self._end(value)
        elif kind == "message_stop":
            self.complete = self.done = True
        elif kind == "error" or name == "error" or value.get("error"):
            raise _error(value, data)
        return ()

    def body(self, data: bytes) -> None:
        """A whole answer that was not streamed."""
        value = _decode(data)
        if value.get("type") == "error" or value.get("error"):
            raise _error(value, data)
        if not isinstance(value.get("content"), list):
            raise ModelOutputError(
                f'"{NAME}" answered without content: {_excerpt(data)}', hint=_CHECK
            )
        self._begin(value)
        self.complete = self.done = True

    def finish(self) -> Reply:
        if not (self.complete or self.done):
            raise truncated(NAME)
        if not self._started:
            raise ModelOutputError(f'"{NAME}" ended its answer without a message', hint="try again")
        usage = _usage(self._usage)
        parts = tuple(part for b in self._blocks if (part := b.part()) is not None)
        message = self._message
        reason = message.get("stop_reason")
        finish: Finish = FINISH.get(reason, "other") if isinstance(reason, str) else "other"
        if finish in ("stop", "pause", "other") and any(isinstance(p, ToolCall) for p in parts):
            finish = "tool-calls"
        if finish == "content-filter" and not any(
            isinstance(p, ToolCall) or (isinstance(p, Text) and p.text) for p in parts
        ):
            raise _refused(message.get("stop_details"), usage)
        return Reply(
            message=Message(role="assistant", parts=parts),
            finish=finish,
            usage=usage,
            model=_text(message.get("model")),
            raw={**message, "content": [_whole(b) for b in self._blocks],
                 "usage": self._usage},
        )  # fmt: skip

    def _begin(self, message: Any) -> list[Delta]:
        self._started = True
        if not isinstance(message, dict):
            return []
        self._message = {k: v for k, v in message.items() if k not in ("content", "usage")}
        self._count(message.get("usage"))
        content = message.get("content")
        blocks = [b for b in content if isinstance(b, dict)] if isinstance(content, list) else []
        return [delta for i, block in enumerate(blocks) for delta in self._start(str(i), block)]

    def _count(self, usage: Any) -> None:
        """Counts are totals; what an event leaves out stays as it was."""
        if isinstance(usage, dict):
            self._usage.update({k: v for k, v in usage.items() if v is not None})

    def _end(self, value: dict[str, Any]) -> None:
        self._started = True
        delta = value.get("delta")
        if isinstance(delta, dict):
            self._message.update({k: v for k, v in delta.items() if v is not None})
        rest = {k: v for k, v in value.items() if k not in ("type", "delta", "usage")}
        self._message.update(rest)
        self._count(value.get("usage"))
        if self._message.get("stop_reason"):
            self.complete = True

    def _add(self, index: str, fields: dict[str, Any]) -> _Block:
        block = self._open[index] = _Block(fields)
        self._blocks.append(block)
        return block

    def _start(self, index: str, fields: dict[str, Any]) -> Sequence[Delta]:
        self._started = True
        if not isinstance(fields.get("type"), str):
            return ()
        kind = self._add(index, fields).kind
        if kind == "tool_use":
            return (ArgsDelta(id=_text(fields.get("id")), text="", name=_text(fields.get("name"))),)
        if kind == "text" and (text := _text(fields.get("text"))):
            return (TextDelta(text=text),)
        if kind == "thinking" and (text := _text(fields.get("thinking"))):
            return (ReasoningDelta(text=text),)
        if kind == "fallback" and isinstance(to := fields.get("to"), dict) and to.get("model"):
            # Another model goes on with the answer.
            self._message["model"] = to["model"]
        return ()

    def _delta(self, index: str, delta: dict[str, Any]) -> Sequence[Delta]:
        block = self._open.get(index)
        if block is None:
            # Some servers forget to open the block.
            kind = delta.get("type")
            opened = {"text_delta": "text", "thinking_delta": "thinking"}.get(str(kind))
            if opened is None:
                return ()
            block = self._add(index, {"type": opened, opened: ""})
        kind = delta.get("type")
        if kind == "text_delta" and block.kind == "text":
            if text := _text(delta.get("text")):
                block.text.append(text)
                return (TextDelta(text=text),)
        elif kind == "input_json_delta":
            if text := _text(delta.get("partial_json")):
                block.args.append(text)
                if block.kind == "tool_use":
                    return (ArgsDelta(id=_text(block.fields.get("id")), text=text),)
        elif kind == "thinking_delta" and block.kind == "thinking":
            if text := _text(delta.get("thinking")):
                block.text.append(text)
                return (ReasoningDelta(text=text),)
        elif kind == "signature_delta":
            block.fields["signature"] = delta.get("signature")
        elif kind == "citations_delta":
            _merge(block.fields, {"citations": [delta.get("citation")]})
        else:
            _merge(block.fields, delta)
        return ()


def _merge(fields: dict[str, Any], delta: dict[str, Any]) -> None:
    """A delta of a kind we do not know, or of compaction: text is appended, the rest replaced."""
    for key, value in delta.items():
        if key == "type" or value is None:
            continue
        held = fields.get(key)
        both = next((t for t in (str, list) if isinstance(held, t) and isinstance(value, t)), None)
        fields[key] = held + value if both else value


def _whole(block: _Block) -> dict[str, Any]:
    fields = block.whole()
    if block.kind != "tool_use" or not block.args:
        return fields
    written = block.arguments()
    try:
        return {**fields, "input": msgspec.json.decode(written)}
    except msgspec.DecodeError:
        return {**fields, "input": written}


def _others(fields: dict[str, Any], *held: str) -> dict[str, Any] | None:
    found = {
        k: v for k, v in fields.items() if v not in (None, "", []) and k != "type" and k not in held
    }
    return {NAME: found} if found else None


_CHECK = "check that the base URL is the address of an Anthropic Messages API"


def _decode(data: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ModelOutputError(
            f'"{NAME}" sent what is not JSON: {_excerpt(data)}', hint=_CHECK
        ) from None
    if not isinstance(value, dict):
        raise ModelOutputError(
            f'"{NAME}" sent JSON that is not an answer: {_excerpt(data)}', hint=_CHECK
        )
    return value


def _error(value: dict[str, Any], data: bytes) -> ModelError:
    error = value.get("error", value)
    fields = error if isinstance(error, dict) else {}
    kind, more = _text(fields.get("type")), fields.get("details")
    details = {
        "type": kind,
        "request_id": _text(value.get("request_id")),
        "error_code": _text(more.get("error_code")) if isinstance(more, dict) else "",
    }
    status = STATUS.get(kind, 0)
    said = redact(error_message(data)) or _excerpt(data)
    return ModelHTTPError(
        f'"{NAME}" sent an error in its answer: {said}' + (f" ({kind})" if kind else ""),
        status=status,
        hint="change the request: it is refused as it is"
        if status in (400, 413)
        else "what arrived is kept; try again",
        code="model.stream_error",
        details={k: v for k, v in details.items() if v},
    )


def _refused(details: Any, usage: Usage) -> ModelRefused:
    told = details if isinstance(details, dict) else {}
    why = _text(told.get("explanation"))
    return ModelRefused(
        f'"{NAME}" refused to answer' + (f": {why}" if why else ""),
        hint="rephrase the request, or use another model",
        details={
            "refusal": why,
            "category": _text(told.get("category")),
            "usage": msgspec.to_builtins(usage),
        },
    )


def _usage(usage: dict[str, Any]) -> Usage:
    """Anthropic counts what it read from and wrote to a cache beside its `input_tokens`."""
    cached = _count(usage, "cache_read_input_tokens")
    written = _count(usage, "cache_creation_input_tokens")
    return Usage(
        input=_count(usage, "input_tokens") + cached + written,
        output=_count(usage, "output_tokens"),
        cached=cached,
        cache_write=written,
        reasoning=_count(usage.get("output_tokens_details"), "thinking_tokens"),
        calls=1,
    )


def _count(usage: Any, key: str) -> int:
    value = usage.get(key) if isinstance(usage, dict) else None
    return int(value) if isinstance(value, int | float) else 0


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _excerpt(data: bytes) -> str:
    text = data[:120].decode("utf-8", "replace")
    return redact(text + "…" if len(data) > 120 else text)
