"""OpenAI's Responses API, which others speak too.

Nothing is stored at the service: every request holds the whole conversation, and a model that
thinks gets its thoughts back as it gave them, encrypted. Sources: the OpenAI API reference
(responses) and the types of its official SDK.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from mastra_nb.errors import UsageError
from mastra_nb.messages import Media, Message, Part, Reasoning, Text, ToolCall, ToolResult
from mastra_nb.models import ModelRequest, ModelSettings, Reply
from mastra_nb.providers._base import Wire
from mastra_nb.providers._responses_decode import ResponsesDecoder
from mastra_nb.providers._shared import named_schema, result_text, to_json
from mastra_nb.providers._vendors import Vendor, caching, lacks, thinking


class ResponsesCodec:
    """`thinks`: the model reasons, so that its reasoning can be asked for and sent back."""

    def __init__(self, vendor: Vendor, model_id: str, *, thinks: bool = False) -> None:
        self._vendor = vendor
        self._model_id = model_id
        self._thinks = thinks

    # --- request ---------------------------------------------------------------------------

    def encode(self, request: ModelRequest, *, stream: bool) -> Wire:
        body: dict[str, Any] = {
            "model": self._model_id,
            "input": self._input(request.messages),
            "store": False,
        }
        if self._thinks:
            body["include"] = ["reasoning.encrypted_content"]
        if request.tools:
            body["tools"] = [
                {
                    "type": "function",
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.parameters,
                    "strict": False,
                }
                for tool in request.tools
            ]
            choice = request.tool_choice
            if choice in ("none", "required"):
                body["tool_choice"] = choice
            elif choice != "auto":
                body["tool_choice"] = {"type": "function", "name": choice}
        if request.output is not None:
            body["text"] = {"format": {"type": "json_schema", **named_schema(request.output)}}
        self._settings(request.settings, body, tools=bool(request.tools))
        if stream:
            body["stream"] = True
        for key, value in request.settings.extra.items():
            # Built-in tools, and what to include of them, stand beside ours.
            joined = key in ("tools", "include") and isinstance(value, list)
            body[key] = [*body.get(key, ()), *value] if joined else value
        return Wire(path="/responses", body=to_json.encode(body))

    def _settings(self, settings: ModelSettings, body: dict[str, Any], *, tools: bool) -> None:
        """Seed, stop, top_k and the penalties do not exist here."""
        vendor, model = self._vendor, self._model_id
        values = {
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "parallel_tool_calls": settings.parallel_tools if tools else None,
        }
        lacking = lacks(vendor, model, settings.reasoning)
        body.update({k: v for k, v in values.items() if v is not None and k not in lacking})
        if settings.max_tokens is not None:
            body["max_output_tokens"] = settings.max_tokens
        if asked := thinking(vendor, model, settings.reasoning):
            level = "none" if settings.reasoning == "off" else settings.reasoning
            body["reasoning"] = {"effort": asked.get("reasoning_effort", level)}
            if settings.reasoning != "off":
                body["reasoning"]["summary"] = "auto"
        body.update(caching(vendor, model, settings.cache))

    def _input(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        wire: list[dict[str, Any]] = []
        for message in messages:
            if message.role == "assistant":
                self._assistant(message, wire)
            elif message.role == "tool":
                self._results(message, wire)
            elif message.role == "system":
                wire.append({"role": "system", "content": message.text})
            else:
                wire.append({"role": "user", "content": self._content(message.parts)})
        return wire

    def _assistant(self, message: Message, wire: list[dict[str, Any]]) -> None:
        """Calls and texts go back without the ids they came with: one whose reasoning a memory
        has dropped would be refused.
        """
        name = self._vendor.name
        for part in message.parts:
            kept = (part.extra or {}).get(name) or {}
            if isinstance(part, Text) and part.text:
                phase = {"phase": kept["phase"]} if "phase" in kept else {}
                wire.append({"role": "assistant", "content": part.text, **phase})
            elif isinstance(part, ToolCall):
                wire.append(
                    {
                        "type": "function_call",
                        "call_id": part.id,
                        "name": part.name,
                        "arguments": part.args,
                        **{key: kept[key] for key in ("namespace", "caller") if key in kept},
                    }
                )
            elif isinstance(part, Reasoning) and (item := kept.get("item")) and self._echoes(item):
                wire.append({k: v for k, v in item.items() if v is not None and k not in _NOT_BACK})

    def _echoes(self, item: dict[str, Any]) -> bool:
        if item.get("type") != "reasoning":
            return True
        # A thought of which only the id is left is nowhere to be found: nothing is stored.
        return self._thinks and bool(item.get("encrypted_content") or item.get("content"))

    def _results(self, message: Message, wire: list[dict[str, Any]]) -> None:
        seen: list[Part] = []
        for part in message.parts:
            if isinstance(part, ToolResult):
                wire.append(
                    {
                        "type": "function_call_output",
                        "call_id": part.id,
                        "output": result_text(part),
                    }
                )
            elif isinstance(part, Text | Media):
                seen.append(part)
        if seen:
            wire.append({"role": "user", "content": self._content(seen)})

    def _content(self, parts: Sequence[Part]) -> str | list[dict[str, Any]]:
        if all(isinstance(part, Text) for part in parts):
            return "".join(part.text for part in parts if isinstance(part, Text))
        content: list[dict[str, Any]] = []
        for part in parts:
            if isinstance(part, Text):
                content.append({"type": "input_text", "text": part.text})
            elif isinstance(part, Media):
                content.append(self._media(part))
        return content

    def _media(self, part: Media) -> dict[str, Any]:
        url = part.url
        if part.data is not None:
            url = f"data:{part.mime};base64,{base64.b64encode(part.data).decode()}"
        if part.mime.startswith("image/") and url:
            return {"type": "input_image", "image_url": url, "detail": "auto"}
        if part.mime == "application/pdf" and part.data is not None:
            return {"type": "input_file", "filename": "document.pdf", "file_data": url}
        if part.mime == "application/pdf" and url:
            return {"type": "input_file", "file_url": url}
        raise UsageError(
            f'"{self._vendor.name}" takes no media of type "{part.mime}" in a message',
            hint='send images and PDF; sound with OpenAIModel(…, api="chat"); the rest as text',
            code="usage.media",
        )

    # --- answer ----------------------------------------------------------------------------

    def decoder(self) -> ResponsesDecoder:
        return ResponsesDecoder(self._vendor)

    def decode_body(self, body: bytes) -> Reply:
        decoder = ResponsesDecoder(self._vendor)
        decoder.body(body)
        return decoder.finish()


# Who made an item is told, and not accepted back.
_NOT_BACK = frozenset({"created_by"})
