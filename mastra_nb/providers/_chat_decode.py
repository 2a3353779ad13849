"""The answers of chat completions, folded chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mastra_nb.config import redact
from mastra_nb.errors import ModelError, ModelHTTPError, ModelOutputError
from mastra_nb.events import ArgsDelta, Delta, ReasoningDelta, TextDelta
from mastra_nb.http.client import error_message
from mastra_nb.http.sse import ServerEvent
from mastra_nb.messages import Finish, Message, Part, Reasoning, Text, ToolCall, Usage
from mastra_nb.models import Reply
from mastra_nb.providers._base import truncated
from mastra_nb.providers._shared import count, decode, excerpt, refused, to_json
from mastra_nb.providers._vendors import Vendor

_FINISH: dict[str, Finish] = {
    "stop": "stop",
    "eos": "stop",
    "end_turn": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool-calls",
    "function_call": "tool-calls",
    "content_filter": "content-filter",
    "sensitive": "content-filter",
    "error": "error",
}


class _Call:
    __slots__ = ("args", "extra", "id", "name")

    def __init__(self, id: str) -> None:
        self.id = id
        self.name = ""
        self.args: list[str] = []
        self.extra: dict[str, Any] | None = None


class ChatDecoder:
    """Folds the chunks of one answer; only the first choice counts."""

    def __init__(self, vendor: Vendor) -> None:
        self.complete = False
        self.done = False
        self._vendor = vendor
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._details: list[dict[str, Any]] = []
        self._refusal: list[str] = []
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._finish: str | None = None
        self._usage: dict[str, Any] | None = None
        self._id = ""
        self._model = ""
        self._last: dict[str, Any] | None = None
        self._spoken = False

    def feed(self, event: ServerEvent) -> Sequence[Delta]:
        data = event.data
        if data[:6] == b"[DONE]":
            self.done = True
            return ()
        chunk = decode(data, self._vendor.name)
        groq = chunk.get("x_groq")
        if event.event == "error" or chunk.get("error"):
            raise self._error(chunk, data)
        if isinstance(groq, dict) and groq.get("error"):
            raise self._error(groq, data)
        self._last = chunk
        self._note(chunk)
        choices = chunk.get("choices")
        if not choices or not isinstance(choices, list):
            return ()
        for choice in choices:
            if isinstance(choice, dict) and not choice.get("index"):
                return self._choice(choice, "delta", data)
        return ()

    def body(self, data: bytes) -> None:
        """A whole answer that was not streamed."""
        body = decode(data, self._vendor.name)
        if body.get("error"):
            raise self._error(body, data)
        self._last = body
        self._note(body)
        choices = body.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise ModelOutputError(
                f'"{self._vendor.name}" answered without a choice: {excerpt(data)}',
                hint="check that the base URL is the address of a chat completions API",
            )
        self._choice(choices[0], "message", data)
        self.complete = self.done = True

    def finish(self) -> Reply:
        if not (self.complete or self.done):
            raise truncated(self._vendor.name)
        if not self._spoken:
            raise ModelOutputError(
                f'"{self._vendor.name}" ended its answer without a choice', hint="try again"
            )
        usage = self._usage_of(self._usage)
        finish: Finish = _FINISH.get(self._finish or "", "other")
        if self._calls and finish in ("stop", "other"):
            finish = "tool-calls"
        refusal = "".join(self._refusal)
        parts = self._parts(refusal)
        if refusal or finish == "content-filter":
            finish = "content-filter"
            if not any(isinstance(part, Text | ToolCall) for part in parts) or (
                refusal and not self._text and not self._calls
            ):
                raise refused(self._vendor.name, refusal, usage)
        return Reply(
            message=Message(role="assistant", parts=tuple(parts)),
            finish=finish,
            usage=usage,
            model=self._model,
            raw=self._last,
        )

    def _error(self, chunk: dict[str, Any], data: bytes) -> ModelError:
        error = chunk.get("error", chunk)
        code = error.get("code") if isinstance(error, dict) else None
        said = redact(error_message(data)) or excerpt(data)
        message = f'"{self._vendor.name}" sent an error in its answer: {said}'
        details: dict[str, Any] = {"code": code} if isinstance(code, str | int) else {}
        if code == "tool_use_failed":
            return ModelOutputError(
                message, hint="the model called a tool wrongly: try again", details=details
            )
        status = (
            code
            if isinstance(code, int)
            else error.get("status_code", 0)
            if isinstance(error, dict)
            else 0
        )
        return ModelHTTPError(
            message,
            status=status if isinstance(status, int) else 0,
            hint="what arrived is kept; try again",
            code="model.stream_error",
            details=details,
        )

    def _note(self, chunk: dict[str, Any]) -> None:
        usage = chunk.get("usage")
        if usage is None and (groq := chunk.get("x_groq")) is not None and isinstance(groq, dict):
            usage = groq.get("usage")
        if isinstance(usage, dict):
            self._usage = usage
        if not self._model:
            self._model = str(chunk.get("model") or "")
            self._id = str(chunk.get("id") or "")

    def _choice(self, choice: dict[str, Any], key: str, data: bytes) -> list[Delta]:
        self._spoken = True
        if choice.get("error"):
            raise self._error(choice, data)
        found: list[Delta] = []
        delta = choice.get(key)
        if isinstance(delta, dict):
            if len(delta) > 1 or "content" not in delta:
                self._reason(delta, found)
            content = delta.get("content")
            if content:
                self._say(content, found)
            if refusal := delta.get("refusal"):
                self._refusal.append(str(refusal))
                found.append(TextDelta(text=str(refusal)))
            if calls := delta.get("tool_calls"):
                for call in calls if isinstance(calls, list) else ():
                    self._call(call, found)
            elif isinstance(legacy := delta.get("function_call"), dict):
                self._call({"index": 0, "function": legacy}, found)
        if isinstance(reason := choice.get("finish_reason"), str) and reason:
            self._finish = reason
            self.complete = True
        if isinstance(usage := choice.get("usage"), dict):
            self._usage = usage
        return found

    def _say(self, content: Any, found: list[Delta]) -> None:
        if isinstance(content, str):
            self._text.append(content)
            found.append(TextDelta(text=content))
        elif isinstance(content, list):
            for piece in content:
                if not isinstance(piece, dict):
                    continue
                if piece.get("type") == "thinking":
                    self._think(_plain(piece.get("thinking")), found)
                elif isinstance(text := piece.get("text"), str) and text:
                    self._text.append(text)
                    found.append(TextDelta(text=text))

    def _think(self, text: str, found: list[Delta]) -> None:
        if text:
            self._reasoning.append(text)
            found.append(ReasoningDelta(text=text))

    def _reason(self, delta: dict[str, Any], found: list[Delta]) -> None:
        text = delta.get("reasoning_content") or delta.get("reasoning")
        details = delta.get("reasoning_details")
        if isinstance(details, list):
            for detail in details:
                if isinstance(detail, dict):
                    _join_detail(self._details, detail)
                    if not text:
                        self._think(str(detail.get("text") or detail.get("summary") or ""), found)
        if isinstance(text, str):
            self._think(text, found)

    def _call(self, delta: Any, found: list[Delta]) -> None:
        function = delta.get("function") if isinstance(delta, dict) else None
        if not isinstance(function, dict):
            return
        id, index = delta.get("id") or "", delta.get("index")
        call = self._find(str(id), index if isinstance(index, int) else None)
        name = function.get("name") or ""
        first = not call.name and bool(name)
        if first:
            call.name = str(name)
        if isinstance(extra := delta.get("extra_content"), dict):
            call.extra = {"extra_content": extra}
        args = function.get("arguments")
        if args is None:
            args = ""
        elif not isinstance(args, str):
            args = to_json.encode(args).decode()
        if args:
            call.args.append(args)
        if args or first:
            found.append(ArgsDelta(id=call.id, text=args, name=call.name if first else ""))

    def _find(self, id: str, index: int | None) -> _Call:
        """The call a delta belongs to: some give no index, some index 0 to all, some repeat ids."""
        known = self._by_index.get(index) if index is not None else None
        if known is None and index is None:
            if not id and self._calls:
                return self._calls[-1]
            known = next((call for call in self._calls if id and call.id == id), None)
        if known is not None and (not id or known.id == id):
            return known
        call = _Call(id or f"{self._id or 'call'}-{len(self._calls)}")
        self._calls.append(call)
        if index is not None:
            self._by_index[index] = call
        return call

    def _parts(self, refusal: str) -> list[Part]:
        parts: list[Part] = []
        name = self._vendor.name
        reasoning = "".join(self._reasoning)
        if reasoning or self._details:
            extra = {name: {"reasoning_details": self._details}} if self._details else None
            parts.append(Reasoning(text=reasoning, extra=extra))
        if text := "".join((*self._text, refusal)):
            parts.append(Text(text=text))
        parts.extend(
            ToolCall(
                id=call.id,
                name=call.name,
                args="".join(call.args) or "{}",
                extra={name: call.extra} if call.extra else None,
            )
            for call in self._calls
        )
        return parts

    def _usage_of(self, usage: dict[str, Any] | None) -> Usage:
        if usage is None:
            return Usage(calls=1)
        inputs, outputs = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
        cached = count(inputs, "cached_tokens") or count(usage, "prompt_cache_hit_tokens")
        cost = usage.get("cost") if self._vendor.reports_cost else None
        return Usage(
            input=count(usage, "prompt_tokens"),
            output=count(usage, "completion_tokens"),
            cached=cached or count(usage, "cached_tokens"),
            cache_write=count(inputs, "cache_write_tokens"),
            reasoning=count(outputs, "reasoning_tokens"),
            cost=float(cost) if isinstance(cost, int | float) else None,
            calls=1,
        )


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(str(p.get("text") or "") for p in value if isinstance(p, dict))
    return ""


def _join_detail(details: list[dict[str, Any]], piece: dict[str, Any]) -> None:
    """OpenRouter streams its reasoning details in pieces and wants them back whole."""
    last = details[-1] if details else None
    if last is None or any(last.get(k) != piece.get(k) for k in ("type", "index")):
        details.append(dict(piece))
        return
    for key, value in piece.items():
        if key in ("text", "summary") and isinstance(value, str):
            last[key] = (last.get(key) or "") + value
        elif value is not None:
            last[key] = value
