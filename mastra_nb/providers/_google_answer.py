"""The answers of Gemini, folded chunk by chunk.

Kept: text, thoughts, calls, media; any other part (executed code, server-side tools) goes back
verbatim with the next request. Grounding, citations, log probabilities and safety ratings stay in
`Reply.raw`. Ignored: interim images of thoughts, candidates beyond the first.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from mastra_nb.config import redact
from mastra_nb.errors import ModelError, ModelHTTPError, ModelOutputError, ModelRefused
from mastra_nb.events import ArgsDelta, Delta, ReasoningDelta, TextDelta
from mastra_nb.http.client import error_message
from mastra_nb.http.sse import ServerEvent
from mastra_nb.messages import Finish, Media, Message, Part, Reasoning, Text, ToolCall, Usage
from mastra_nb.models import Reply
from mastra_nb.providers._base import truncated

# The key of `extra`, for Vertex too: the two speak of the same parts.
EXTRA = "google"
_json = msgspec.json.Encoder()
_FINISH: dict[str, Finish] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content-filter",
    "RECITATION": "content-filter",
    "BLOCKLIST": "content-filter",
    "PROHIBITED_CONTENT": "content-filter",
    "SPII": "content-filter",
    "MODEL_ARMOR": "content-filter",
    "IMAGE_SAFETY": "content-filter",
    "IMAGE_PROHIBITED_CONTENT": "content-filter",
    "IMAGE_RECITATION": "content-filter",
    "MALFORMED_FUNCTION_CALL": "error",
    "UNEXPECTED_TOOL_CALL": "error",
    "TOO_MANY_TOOL_CALLS": "error",
    "MISSING_THOUGHT_SIGNATURE": "error",
    "MALFORMED_RESPONSE": "error",
    "NO_IMAGE": "error",
    "IMAGE_OTHER": "error",
}
_STEP = re.compile(r"""\.([^.\[\]]+)|\[(\d+)\]|\[['"](.+?)['"]\]""")


class _Words:
    """Text or a thought that may go on; one that has a signature is never joined to another."""

    __slots__ = ("pieces", "signature", "thought")

    def __init__(self, thought: bool, text: str, signature: str) -> None:
        self.thought = thought
        self.pieces = [text]
        self.signature = signature

    def part(self) -> Part:
        text = "".join(self.pieces)
        if self.thought:
            return Reasoning(text=text, extra=_signed(self.signature))
        return Text(text=text, extra=_signed(self.signature))


class GeminiDecoder:
    def __init__(self, label: str) -> None:
        self.complete = False
        self.done = False
        self._label = label
        self._parts: list[_Words | Part] = []
        self._calls = 0
        self._open: dict[str, Any] | None = None
        self._finish = ""
        self._why = ""
        self._blocked: dict[str, Any] | None = None
        self._usage: dict[str, Any] = {}
        self._id = ""
        self._model = ""
        self._notes: dict[str, Any] = {}
        self._last: dict[str, Any] = {}

    def feed(self, event: ServerEvent) -> Sequence[Delta]:
        found: list[Delta] = []
        if event.data[:6] == b"[DONE]":
            self.done = True
            return found
        self._chunk(self._decode(event.data), event.data, found)
        return found

    def body(self, data: bytes) -> None:
        """A whole answer, or the array of its chunks."""
        value = self._decode(data)
        for chunk in value if isinstance(value, list) else [value]:
            self._chunk(chunk, data, [])
        if not self.complete and not self._parts and not self._last.get("candidates"):
            raise ModelOutputError(
                f'"{self._label}" answered without a candidate: {_excerpt(data)}',
                hint="check that the base URL is the address of a Gemini API",
            )
        self.complete = self.done = True

    def finish(self) -> Reply:
        if not (self.complete or self.done):
            raise truncated(self._label)
        self._end_call([])
        usage = self._usage_of()
        parts = tuple(p.part() if isinstance(p, _Words) else p for p in self._parts)
        finish = _FINISH.get(self._finish, "other")
        spoken = any(not isinstance(p, Reasoning) for p in parts)
        if self._blocked is not None or (finish == "content-filter" and not spoken):
            why = self._blocked or {}
            reason = str(why.get("blockReason") or self._finish)
            said = str(why.get("blockReasonMessage") or self._why)
            what = "blocked the request" if self._blocked is not None else "filtered the answer"
            raise ModelRefused(
                f'"{self._label}" {what} ({reason})' + (f": {said}" if said else ""),
                hint="rephrase the request, or use another model",
                details={"refusal": said or reason, "usage": msgspec.to_builtins(usage)},
            )
        if self._calls and finish in ("stop", "other", "error"):
            # Also a call of a tool that was not declared: whoever runs it answers that.
            finish = "tool-calls"
        return Reply(
            message=Message(role="assistant", parts=parts),
            finish=finish,
            usage=usage,
            model=self._model,
            raw=self._raw(),
        )

    def _decode(self, data: bytes) -> Any:
        try:
            return msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ModelOutputError(
                f'"{self._label}" sent what is not JSON: {_excerpt(data)}',
                hint="check that the base URL is the address of a Gemini API",
            ) from None

    def _chunk(self, chunk: Any, data: bytes, found: list[Delta]) -> None:
        if not isinstance(chunk, dict):
            raise ModelOutputError(
                f'"{self._label}" sent JSON that is not an answer: {_excerpt(data)}'
            )
        if chunk.get("error"):
            raise self._error(chunk["error"], data)
        self._last = chunk
        if not self._id:
            self._id = str(chunk.get("responseId") or "")
        self._model = self._model or str(chunk.get("modelVersion") or "")
        usage = chunk.get("usageMetadata")
        if isinstance(usage, dict) and ("totalTokenCount" in usage or not self._usage):
            self._usage = usage
        feedback = chunk.get("promptFeedback")
        if isinstance(feedback, dict) and feedback.get("blockReason"):
            self._blocked, self.complete = feedback, True
        candidates = chunk.get("candidates")
        for candidate in candidates if isinstance(candidates, list) else ():
            if isinstance(candidate, dict) and not candidate.get("index"):
                self._candidate(candidate, found)

    def _error(self, error: Any, data: bytes) -> ModelError:
        status = error.get("code") if isinstance(error, dict) else 0
        said = redact(error_message(data)) or _excerpt(data)
        name = error.get("status") if isinstance(error, dict) else None
        return ModelHTTPError(
            f'"{self._label}" sent an error in its answer: {said}',
            status=status if isinstance(status, int) else 0,
            hint="what arrived is kept; try again",
            code="model.stream_error",
            details={"code": name} if isinstance(name, str) else {},
        )

    def _candidate(self, candidate: dict[str, Any], found: list[Delta]) -> None:
        content = candidate.get("content")
        parts = content.get("parts") if isinstance(content, dict) else None
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, dict):
                self._part(part, found)
        if len(candidate) > 1:
            for key, value in candidate.items():
                if key != "content":
                    self._notes[key] = value
        if isinstance(reason := candidate.get("finishReason"), str) and reason:
            self._finish, self.complete = reason, True
            self._why = str(candidate.get("finishMessage") or "")

    def _part(self, part: dict[str, Any], found: list[Delta]) -> None:
        signature = str(part.get("thoughtSignature") or "")
        if isinstance(call := part.get("functionCall"), dict):
            self._call(call, signature, found)
            return
        text, thought = part.get("text"), bool(part.get("thought"))
        if isinstance(text, str):
            if text:
                self._say(thought, text, signature, found)
            elif signature:
                self._keep(part)
            return
        media = part.get("inlineData") or part.get("fileData")
        if isinstance(media, dict):
            if not thought:
                self._media(media, signature)
            return
        if part.keys() - {"thought"}:
            self._keep(part)

    def _say(self, thought: bool, text: str, signature: str, found: list[Delta]) -> None:
        last = self._parts[-1] if self._parts else None
        joins = isinstance(last, _Words) and last.thought is thought
        if isinstance(last, _Words) and joins and not signature and not last.signature:
            last.pieces.append(text)
        else:
            self._parts.append(_Words(thought, text, signature))
        found.append(ReasoningDelta(text=text) if thought else TextDelta(text=text))

    def _keep(self, part: dict[str, Any]) -> None:
        self._parts.append(Reasoning(text="", extra={EXTRA: {"part": part}}))

    def _media(self, media: dict[str, Any], signature: str) -> None:
        mime, url = str(media.get("mimeType") or ""), media.get("fileUri")
        if isinstance(url, str):
            self._parts.append(Media(mime=mime, url=url, extra=_signed(signature)))
            return
        try:
            data = base64.b64decode(str(media.get("data") or ""))
        except (binascii.Error, ValueError):
            raise ModelOutputError(
                f'"{self._label}" sent media that is not base64', hint="try again"
            ) from None
        self._parts.append(Media(mime=mime, data=data, extra=_signed(signature)))

    def _call(self, call: dict[str, Any], signature: str, found: list[Delta]) -> None:
        going_on, partial = bool(call.get("willContinue")), call.get("partialArgs")
        if self._open is not None and call.get("name") and call["name"] != self._open["name"]:
            self._end_call(found)
        if self._open is None:
            if not (name := str(call.get("name") or "")):
                return
            id = str(call.get("id") or f"{self._id or 'call'}-{self._calls}")
            self._open = {"id": id, "name": name, "args": {}, "signature": signature}
        opened = self._open
        opened["signature"] = opened["signature"] or signature
        if isinstance(args := call.get("args"), dict):
            opened["args"].update(args)
        for piece in partial if isinstance(partial, list) else ():
            if isinstance(piece, dict):
                _put(opened["args"], piece)
        if not going_on:
            self._end_call(found)

    def _end_call(self, found: list[Delta]) -> None:
        if (call := self._open) is None:
            return
        self._open = None
        self._calls += 1
        args = _json.encode(call["args"]).decode()
        extra = _signed(call["signature"])
        self._parts.append(ToolCall(id=call["id"], name=call["name"], args=args, extra=extra))
        found.append(ArgsDelta(id=call["id"], name=call["name"], text=args))

    def _raw(self) -> dict[str, Any]:
        candidates = self._last.get("candidates")
        if not isinstance(candidates, list) or not candidates:
            return {**self._last, "candidates": [self._notes]} if self._notes else self._last
        return {**self._last, "candidates": [{**candidates[0], **self._notes}, *candidates[1:]]}

    def _usage_of(self) -> Usage:
        """Tokens that server-side tools fed to the model are in `raw`, not in `input`."""
        thoughts = _count(self._usage, "thoughtsTokenCount")
        return Usage(
            input=_count(self._usage, "promptTokenCount"),
            output=_count(self._usage, "candidatesTokenCount") + thoughts,
            cached=_count(self._usage, "cachedContentTokenCount"),
            reasoning=thoughts,
            calls=1,
        )


def _signed(signature: str) -> dict[str, Any] | None:
    return {EXTRA: {"thoughtSignature": signature}} if signature else None


def _put(args: dict[str, Any], piece: dict[str, Any]) -> None:
    """Set what one partial argument says, at its JSON path; strings arrive in pieces."""
    steps = [
        int(index) if index else name or quoted
        for name, index, quoted in _STEP.findall(str(piece.get("jsonPath") or ""))
    ]
    keys = ("stringValue", "numberValue", "boolValue")
    value = next((piece[key] for key in keys if key in piece), None)
    if not steps:
        return
    where: Any = args
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        if isinstance(where, list) and isinstance(step, int):
            where.extend([None] * (min(step, 10_000) + 1 - len(where)))
            if step >= len(where):
                return
            old = where[step]
        elif isinstance(where, dict) and isinstance(step, str):
            old = where.get(step)
        else:
            return
        if following is None:
            joins = isinstance(old, str) and isinstance(value, str)
            where[step] = old + value if joins else value
        else:
            if not isinstance(old, dict | list):
                where[step] = old = [] if isinstance(following, int) else {}
            where = old


def _count(usage: dict[str, Any], key: str) -> int:
    value = usage.get(key)
    return int(value) if isinstance(value, int | float) else 0


def _excerpt(data: bytes) -> str:
    text = data[:120].decode("utf-8", "replace")
    return redact(text + "…" if len(data) > 120 else text)
