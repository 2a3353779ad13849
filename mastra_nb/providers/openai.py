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

from mastra_nb.config import Secret
from mastra_nb.errors import NotFound, UsageError, close_matches
from mastra_nb.http.client import Retry, Timeouts
from mastra_nb.messages import Media, Message, Part, Reasoning, Text, ToolResult
from mastra_nb.models import ModelRequest, Profile, Reply
from mastra_nb.providers._base import HTTPModel, Wire
from mastra_nb.providers._chat import ChatDecoder
from mastra_nb.providers._vendors import VENDORS, Vendor, limit_key
from mastra_nb.providers._vendors import profile as known_profile

_json = msgspec.json.Encoder()


class OpenAIModel(HTTPModel):
    """A model behind any address that speaks chat completions.

    `OpenAIModel("name", base_url="http://host/v1")` needs no more, and is sent no key of the
    environment; without `base_url` the vendor's own address and variables count.
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
            profile=profile or known_profile(row, model_id),
            base_url=base_url,
            api_key=api_key,
            timeouts=timeouts,
            retry=retry,
        )


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


_SOUNDS = {
    "audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3",
}  # fmt: skip


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
