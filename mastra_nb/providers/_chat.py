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

from mastra_nb.errors import UsageError
from mastra_nb.messages import Media, Message, Part, Reasoning, Text, ToolResult
from mastra_nb.models import ModelRequest, ModelSettings, Reply
from mastra_nb.providers._base import Wire
from mastra_nb.providers._chat_decode import ChatDecoder
from mastra_nb.providers._shared import named_schema, result_text, to_json
from mastra_nb.providers._vendors import (
    Vendor,
    caching,
    holds_schema,
    lacks,
    limit_key,
    thinking,
)


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
        self._settings(settings, body, tools=bool(request.tools))
        if stream:
            body["stream"] = True
            if vendor.stream_usage:
                body["stream_options"] = {"include_usage": True}
        body.update(settings.extra)
        return Wire(path="/chat/completions", body=to_json.encode(body))

    def _settings(self, settings: ModelSettings, body: dict[str, Any], *, tools: bool) -> None:
        vendor, model = self._vendor, self._model_id
        values = {
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "top_k": settings.top_k,
            "presence_penalty": settings.presence_penalty,
            "frequency_penalty": settings.frequency_penalty,
            "seed": settings.seed,
            "stop": list(settings.stop) or None,
            "parallel_tool_calls": settings.parallel_tools if tools else None,
        }
        lacking = lacks(vendor, model, settings.reasoning)
        for key, value in values.items():
            if value is not None and key not in lacking:
                body[vendor.seed_key if key == "seed" else key] = value
        if settings.max_tokens is not None:
            body[limit_key(vendor, model)] = settings.max_tokens
        body.update(thinking(vendor, model, settings.reasoning))
        body.update(caching(vendor, model, settings.cache))

    def _format(self, schema: dict[str, Any], messages: list[dict[str, Any]]) -> dict[str, Any]:
        if not holds_schema(self._vendor, self._model_id):
            # Only "some JSON" can be asked for, so that the model has to be told which.
            text = "Answer with one JSON value that fits this JSON schema:\n"
            messages.insert(
                0, {"role": "system", "content": text + to_json.encode(schema).decode()}
            )
            return {"type": "json_object"}
        return {"type": "json_schema", "json_schema": named_schema(schema)}

    def _messages(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        wire: list[dict[str, Any]] = []
        turn = max((i for i, m in enumerate(messages) if m.role == "user"), default=-1)
        for index, message in enumerate(messages):
            if message.role == "assistant":
                # One that was cut off while it thought has said nothing, and is refused.
                if message.text or message.tool_calls:
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
            if isinstance(part, Reasoning):
                wire.update(_kept(part, name, "reasoning_details"))
        current = current or self._vendor.echo_all
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
                    **_kept(call, name, "extra_content"),
                }
                for call in message.tool_calls
            ]
        return wire

    def _results(self, message: Message) -> list[dict[str, Any]]:
        wire: list[dict[str, Any]] = [
            {
                "role": "tool",
                "tool_call_id": self._call_id(part.id),
                "content": result_text(part),
            }
            for part in message.parts
            if isinstance(part, ToolResult)
        ]
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


def _kept(part: Part, name: str, key: str) -> dict[str, Any]:
    """What this API wants back of what the vendor sent; its other APIs keep other things."""
    kept = ((part.extra or {}).get(name) or {}).get(key)
    return {} if kept is None else {key: kept}


_SOUNDS = {
    "audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3",
}  # fmt: skip
