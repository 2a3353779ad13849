"""Chat completions: the wire format of OpenAI, and of everyone who speaks it.

Sources: the OpenAI API reference (chat completions), those of Mistral, OpenRouter, Groq and
DeepSeek for where they differ.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from mastra_nb.config import Secret, redact
from mastra_nb.errors import (
    ModelError,
    ModelHTTPError,
    ModelOutputError,
    ModelRefused,
    NotFound,
    UsageError,
    close_matches,
)
from mastra_nb.events import ArgsDelta, Delta, ReasoningDelta, TextDelta
from mastra_nb.http import Retry, ServerEvent, Timeouts, error_message
from mastra_nb.messages import (
    Finish,
    Media,
    Message,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    Usage,
)
from mastra_nb.models import ModelRequest, Profile, Reply
from mastra_nb.providers._base import HTTPModel, Wire, truncated
from mastra_nb.providers._vendors import VENDORS, Vendor, limit_key, profile

_json = msgspec.json.Encoder()
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


class OpenAIModel(HTTPModel):
    """A model behind any address that speaks chat completions.

    `OpenAIModel("name", base_url="http://host/v1")` needs no more; without `base_url` the
    vendor's own address and variables count.
    """

    def __init__(
        self,
        model_id: str,
        *,
        base_url: str | None = None,
        api_key: str | Secret | None = None,
        vendor: str = "",
        profile: Profile | None = None,
        timeouts: Timeouts | None = None,
        retry: Retry | None = None,
    ) -> None:
        row = _vendor(vendor or ("openai-compatible" if base_url else "openai"))
        super().__init__(
            model_id,
            vendor=row,
            codec=ChatCodec(row, model_id),
            profile=profile or _profile(row, model_id),
            base_url=base_url,
            api_key=api_key,
            timeouts=timeouts,
            retry=retry,
        )


_profile = profile


def provider(provider_name: str, model_id: str) -> OpenAIModel:
    """The model `model_id` of a vendor in the table; NotFound names the close ones."""
    return OpenAIModel(model_id, vendor=provider_name)


def _vendor(name: str) -> Vendor:
    row = VENDORS.get(name)
    if row is None:
        raise NotFound(f'no vendor "{name}"', hint=close_matches(name, VENDORS))
    return row


class ChatCodec:
    def __init__(self, vendor: Vendor, model_id: str) -> None:
        self._vendor = vendor
        self._model_id = model_id

    # --- request ---------------------------------------------------------------------------

    def encode(self, request: ModelRequest, *, stream: bool) -> Wire:
        vendor, settings = self._vendor, request.settings
        body: dict[str, Any] = {
            "model": self._model_id,
            "messages": self._messages(request.messages),
        }
        if request.tools:
            body["tools"] = [
                {
                    "type": "function",
                    "function": {
                        "name": tool.name,
                        "description": tool.description,
                        "parameters": tool.parameters,
                    },
                }
                for tool in request.tools
            ]
            choice = request.tool_choice
            if choice in ("none", "required"):
                body["tool_choice"] = choice
            elif choice != "auto":
                body["tool_choice"] = {"type": "function", "function": {"name": choice}}
        if request.output is not None:
            body["response_format"] = self._format(request.output, body["messages"])
        if settings.temperature is not None:
            body["temperature"] = settings.temperature
        if settings.top_p is not None:
            body["top_p"] = settings.top_p
        if settings.max_tokens is not None:
            body[limit_key(vendor, self._model_id)] = settings.max_tokens
        if settings.seed is not None:
            body[vendor.seed_key] = settings.seed
        if settings.stop:
            body["stop"] = list(settings.stop)
        if stream:
            body["stream"] = True
            if vendor.stream_usage:
                body["stream_options"] = {"include_usage": True}
        body.update(settings.extra)
        return Wire(path="/chat/completions", body=_json.encode(body))

    def _format(self, schema: dict[str, Any], messages: list[dict[str, Any]]) -> dict[str, Any]:
        if not self._vendor.json_schema:
            # Only "some JSON" can be asked for, so that the model has to be told which.
            text = "Answer with one JSON value that fits this JSON schema:\n"
            messages.insert(0, {"role": "system", "content": text + _json.encode(schema).decode()})
            return {"type": "json_object"}
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", str(schema.get("title") or "answer"))[:64]
        return {
            "type": "json_schema",
            "json_schema": {"name": name, "schema": schema, "strict": fits_strict(schema)},
        }

    def _messages(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        wire: list[dict[str, Any]] = []
        turn = max((i for i, m in enumerate(messages) if m.role == "user"), default=-1)
        for index, message in enumerate(messages):
            if message.role == "assistant":
                wire.append(self._assistant(message, current=index > turn))
            elif message.role == "tool":
                wire += self._results(message)
            elif message.role == "system":
                wire.append({"role": "system", "content": message.text})
            else:
                wire.append({"role": "user", "content": self._content(message.parts)})
        return wire

    def _content(self, parts: Sequence[Part]) -> str | list[dict[str, Any]]:
        if all(isinstance(part, Text) for part in parts):
            return "".join(part.text for part in parts if isinstance(part, Text))
        content: list[dict[str, Any]] = []
        for part in parts:
            if isinstance(part, Text):
                content.append({"type": "text", "text": part.text})
            elif isinstance(part, Media):
                content.append(self._media(part))
        return content

    def _media(self, part: Media) -> dict[str, Any]:
        data = base64.b64encode(part.data).decode() if part.data is not None else None
        if part.mime.startswith("image/") and (data or part.url):
            url = part.url if data is None else f"data:{part.mime};base64,{data}"
            return {"type": "image_url", "image_url": {"url": url}}
        if data is not None and part.mime in _SOUNDS:
            return {
                "type": "input_audio",
                "input_audio": {"data": data, "format": _SOUNDS[part.mime]},
            }
        if data is not None and part.mime == "application/pdf":
            file = {"filename": "document.pdf", "file_data": f"data:{part.mime};base64,{data}"}
            return {"type": "file", "file": file}
        how = "a link to" if data is None else "data of type"
        raise UsageError(
            f'"{self._vendor.name}" takes no {how} "{part.mime}" in a message',
            hint="send images as data or link; WAV, MP3 and PDF as data; anything else as text",
            code="usage.media",
        )

    def _assistant(self, message: Message, *, current: bool) -> dict[str, Any]:
        name, echo = self._vendor.name, self._vendor.echo
        wire: dict[str, Any] = {"role": "assistant", "content": message.text}
        for part in message.parts:
            if isinstance(part, Reasoning) and part.extra:
                wire.update(part.extra.get(name) or {})
        if current and message.reasoning and echo in ("reasoning", "reasoning_content"):
            wire[echo] = message.reasoning
        elif current and message.reasoning and echo == "thinking":
            thinking = [{"type": "text", "text": message.reasoning}]
            wire["content"] = [
                {"type": "thinking", "thinking": thinking},
                {"type": "text", "text": message.text},
            ]
        if message.tool_calls:
            wire["content"] = wire["content"] or None
            wire["tool_calls"] = [
                {
                    "id": self._call_id(call.id),
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.args},
                    **((call.extra or {}).get(name) or {}),
                }
                for call in message.tool_calls
            ]
        return wire

    def _results(self, message: Message) -> list[dict[str, Any]]:
        wire: list[dict[str, Any]] = []
        for part in message.parts:
            if isinstance(part, ToolResult):
                value = part.output
                text = value if isinstance(value, str) else _json.encode(value).decode()
                if part.is_error and not text.lower().startswith("error"):
                    text = f"Error: {text}"
                wire.append(
                    {"role": "tool", "tool_call_id": self._call_id(part.id), "content": text}
                )
        seen = [part for part in message.parts if isinstance(part, Text | Media)]
        if seen:
            # A tool's answer holds text only: what it shows follows as the user's.
            wire.append({"role": "user", "content": self._content(seen)})
        return wire

    def _call_id(self, id: str) -> str:
        """The id, or for Mistral nine letters and digits that stand for another vendor's."""
        if not self._vendor.short_ids or re.fullmatch(r"[A-Za-z0-9]{9}", id):
            return id
        return hashlib.sha256(id.encode()).hexdigest()[:9]

    # --- answer ----------------------------------------------------------------------------

    def decoder(self) -> ChatDecoder:
        return ChatDecoder(self._vendor)

    def decode_body(self, body: bytes) -> Reply:
        decoder = ChatDecoder(self._vendor)
        decoder.body(body)
        return decoder.finish()


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
        chunk = self._decode(data)
        if event.event == "error" or chunk.get("error"):
            raise self._error(chunk, data)
        self._last = chunk
        self._note(chunk)
        choices = chunk.get("choices")
        if not choices or not isinstance(choices, list):
            return ()
        choice = next((c for c in choices if isinstance(c, dict) and not c.get("index")), None)
        return self._choice(choice, "delta", data) if choice is not None else ()

    def body(self, data: bytes) -> None:
        """A whole answer that was not streamed."""
        body = self._decode(data)
        if body.get("error"):
            raise self._error(body, data)
        self._last = body
        self._note(body)
        choices = body.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise ModelOutputError(
                f'"{self._vendor.name}" answered without a choice: {_excerpt(data)}',
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
                said = f"refused to answer: {refusal}" if refusal else "filtered the answer"
                raise ModelRefused(
                    f'"{self._vendor.name}" {said}',
                    hint="rephrase the request, or use another model",
                    details={"refusal": refusal, "usage": msgspec.to_builtins(usage)},
                )
        return Reply(
            message=Message(role="assistant", parts=tuple(parts)),
            finish=finish,
            usage=usage,
            model=self._model,
            raw=self._last,
        )

    def _decode(self, data: bytes) -> dict[str, Any]:
        try:
            value = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ModelOutputError(
                f'"{self._vendor.name}" sent what is not JSON: {_excerpt(data)}',
                hint="check that the base URL is the address of a chat completions API",
            ) from None
        if not isinstance(value, dict):
            raise ModelOutputError(
                f'"{self._vendor.name}" sent JSON that is not an answer: {_excerpt(data)}'
            )
        return value

    def _error(self, chunk: dict[str, Any], data: bytes) -> ModelError:
        error = chunk.get("error", chunk)
        code = error.get("code") if isinstance(error, dict) else None
        said = redact(error_message(data)) or _excerpt(data)
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
            args = _json.encode(args).decode()
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
        cached = _count(inputs, "cached_tokens") or _count(usage, "prompt_cache_hit_tokens")
        cost = usage.get("cost") if self._vendor.reports_cost else None
        return Usage(
            input=_count(usage, "prompt_tokens"),
            output=_count(usage, "completion_tokens"),
            cached=cached or _count(usage, "cached_tokens"),
            reasoning=_count(outputs, "reasoning_tokens"),
            cost=float(cost) if isinstance(cost, int | float) else None,
            calls=1,
        )


_SOUNDS = {
    "audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3",
}  # fmt: skip


def _count(usage: Any, key: str) -> int:
    value = usage.get(key) if isinstance(usage, dict) else None
    return int(value) if isinstance(value, int | float) else 0


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(str(p.get("text") or "") for p in value if isinstance(p, dict))
    return ""


def _excerpt(data: bytes) -> str:
    text = data[:120].decode("utf-8", "replace")
    return redact(text + "…" if len(data) > 120 else text)


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


_STRICT_KEYS = frozenset(
    {
        "$defs", "$ref", "additionalProperties", "anyOf", "const", "definitions", "description",
        "enum", "exclusiveMaximum", "exclusiveMinimum", "format", "items", "maxItems", "maximum",
        "minItems", "minimum", "multipleOf", "pattern", "properties", "required", "title", "type",
    }
)  # fmt: skip


def fits_strict(schema: dict[str, Any]) -> bool:
    """Whether OpenAI accepts the schema in strict mode: closed objects, everything required."""
    return schema.get("type") == "object" and _strict(schema)


def _strict(schema: Any) -> bool:
    if not isinstance(schema, dict) or not schema or not schema.keys() <= _STRICT_KEYS:
        return False
    properties = schema.get("properties", {})
    if schema.get("type") == "object" or "properties" in schema:
        if schema.get("additionalProperties") is not False:
            return False
        if set(schema.get("required", ())) != set(properties):
            return False
    below = [*properties.values(), *schema.get("anyOf", ())]
    below += [*schema.get("$defs", {}).values(), *schema.get("definitions", {}).values()]
    if "items" in schema:
        below.append(schema["items"])
    return all(map(_strict, below))
