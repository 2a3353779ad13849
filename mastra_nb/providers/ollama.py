"""Ollama's own API: /api/chat, one JSON object a line.

Sources: the API types of the server and of its official Python client.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from mastra_nb.config import Secret, redact
from mastra_nb.embedders import EmbedReply, Kind
from mastra_nb.errors import ModelHTTPError, ModelOutputError, UsageError
from mastra_nb.events import ArgsDelta, Delta, ReasoningDelta, TextDelta
from mastra_nb.http.client import Retry, Timeouts, error_message
from mastra_nb.http.ndjson import LineDecoder
from mastra_nb.http.sse import ServerEvent
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
from mastra_nb.models import ModelRequest, ModelSettings, Profile, Reply
from mastra_nb.providers._base import HTTPModel, Wire, args_object, merged, truncated
from mastra_nb.providers._embeddings import HTTPEmbedder, entries, vector
from mastra_nb.providers._shared import count, decode
from mastra_nb.providers._vendors import VENDORS
from mastra_nb.providers._vendors import profile as vendor_profile

_json = msgspec.json.Encoder()
_OLLAMA = msgspec.structs.replace(VENDORS["ollama"], base_url="http://127.0.0.1:11434", url_path="")
# Fields of a request; what else a user adds is an option of the model ("num_ctx").
_FIELDS = frozenset(
    {
        "format", "keep_alive", "logprobs", "messages", "model", "options", "shift", "stream",
        "think", "tools", "top_logprobs", "truncate",
    }
)  # fmt: skip
_FINISH: dict[str, Finish] = {"stop": "stop", "length": "length"}


class OllamaModel(HTTPModel):
    """A model of an Ollama server; its address may end in /v1 or /api."""

    models_path = "/api/tags"

    def __init__(
        self,
        model_id: str,
        *,
        base_url: str | None = None,
        api_key: str | Secret | None = None,
        profile: Profile | None = None,
        timeouts: Timeouts | None = None,
        retry: Retry | None = None,
    ) -> None:
        known = profile or msgspec.structs.replace(
            # A schema holds the whole answer to it, so that no tool could be called.
            vendor_profile(_OLLAMA, model_id),
            json_with_tools=False,
        )
        super().__init__(
            model_id,
            vendor=_OLLAMA,
            codec=OllamaCodec(model_id, thinks=known.reasoning),
            profile=known,
            base_url=base_url,
            api_key=api_key,
            timeouts=timeouts,
            retry=retry,
        )

    def _find_url(self) -> str:
        return super()._find_url().removesuffix("/v1").removesuffix("/api").rstrip("/")


def provider(provider_name: str, model_id: str) -> OllamaModel:
    return OllamaModel(model_id)


class OllamaEmbedder(HTTPEmbedder):
    """At /api/embed; a text that is too long is an error and not cut. `kind` is ignored."""

    async def _ask(self, texts: list[str], kind: Kind) -> EmbedReply:
        service = self._service
        body: dict[str, Any] = {"model": service.model_id, "input": texts, "truncate": False}
        if self.dimensions is not None:
            body["dimensions"] = self.dimensions
        data = await service.post("/api/embed", _json.encode(body))
        return read_vectors(service.vendor.name, data, len(texts))


def read_vectors(label: str, data: bytes, expected: int) -> EmbedReply:
    body = decode(data, label)
    found = body.get("embeddings")
    wrapped = [{"v": row} for row in found] if isinstance(found, list) else None
    return EmbedReply(
        rows=tuple(vector(label, e["v"], data) for e in entries(label, wrapped, data, expected)),
        usage=Usage(input=count(body, "prompt_eval_count"), calls=1, cost=0.0),
        model=str(body.get("model") or ""),
    )


def embedder(provider_name: str, model_id: str, *, dimensions: int | None = None) -> OllamaEmbedder:
    return OllamaEmbedder(OllamaModel(model_id), dimensions=dimensions)


class OllamaCodec:
    def __init__(self, model_id: str, *, thinks: bool = False) -> None:
        self._model_id = model_id
        self._thinks = thinks

    # --- request ---------------------------------------------------------------------------

    def encode(self, request: ModelRequest, *, stream: bool) -> Wire:
        settings, choice = request.settings, request.tool_choice
        body: dict[str, Any] = {
            "model": self._model_id,
            "messages": self._messages(request.messages),
            "stream": stream,
        }
        # No tool can be forced here: a choice can only take the others away.
        tools = [t for t in request.tools if choice in ("auto", "required", t.name)]
        if tools:
            body["tools"] = [
                {"type": "function", "function": msgspec.to_builtins(t)} for t in tools
            ]
        if request.output is not None:
            body["format"] = request.output
        if options := _options(settings):
            body["options"] = options
        if settings.reasoning == "off":
            body["think"] = False
        elif settings.reasoning is not None and self._thinks:
            levels = self._model_id.rpartition("/")[2].startswith("gpt-oss")
            body["think"] = settings.reasoning if levels else True
        fields = {k: v for k, v in settings.extra.items() if k in _FIELDS}
        others = {k: v for k, v in settings.extra.items() if k not in _FIELDS}
        body = merged(body, fields)
        if others:
            body["options"] = merged(body.get("options") or {}, others)
        return Wire(path="/api/chat", body=_json.encode(body), framing=LineDecoder)

    def _messages(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        wire: list[dict[str, Any]] = []
        turn = max((i for i, m in enumerate(messages) if m.role == "user"), default=-1)
        for index, message in enumerate(messages):
            if message.role == "tool":
                wire += [_result(p) for p in message.parts if isinstance(p, ToolResult)]
                if any(isinstance(p, Text | Media) for p in message.parts):
                    wire.append(_spoken("user", message))
                continue
            sent = _spoken(message.role, message)
            if message.role == "assistant" and message.reasoning and index > turn:
                sent["thinking"] = message.reasoning
            if message.tool_calls:
                sent["tool_calls"] = [
                    {
                        "id": call.id,
                        "function": {"name": call.name, "arguments": args_object(call.args)},
                    }
                    for call in message.tool_calls
                ]
            if message.role != "assistant" or message.text or message.tool_calls:
                # One that was cut off while it thought has said nothing.
                wire.append(sent)
        return wire

    # --- answer ----------------------------------------------------------------------------

    def decoder(self) -> OllamaDecoder:
        return OllamaDecoder()

    def decode_body(self, body: bytes) -> Reply:
        decoder = OllamaDecoder()
        decoder.feed(ServerEvent(body))
        return decoder.finish()


def _options(settings: ModelSettings) -> dict[str, Any]:
    found = {
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        "num_predict": settings.max_tokens,
        "presence_penalty": settings.presence_penalty,
        "frequency_penalty": settings.frequency_penalty,
        "seed": settings.seed,
        "stop": list(settings.stop) or None,
    }
    return {key: value for key, value in found.items() if value is not None}


def _spoken(role: str, message: Message) -> dict[str, Any]:
    sent: dict[str, Any] = {"role": role, "content": message.text}
    images = [_image(part) for part in message.parts if isinstance(part, Media)]
    return {**sent, "images": images} if images else sent


def _image(part: Media) -> str:
    if part.data is None or not part.mime.startswith("image/"):
        how = "a link to" if part.data is None else "data of type"
        raise UsageError(
            f'"ollama" takes no {how} "{part.mime}" in a message',
            hint="send images as data, anything else as text",
            code="usage.media",
        )
    return base64.b64encode(part.data).decode()


def _result(part: ToolResult) -> dict[str, Any]:
    text = part.output if isinstance(part.output, str) else _json.encode(part.output).decode()
    if part.is_error and not text.lower().startswith("error"):
        text = f"Error: {text}"
    return {"role": "tool", "content": text, "tool_name": part.name, "tool_call_id": part.id}


class OllamaDecoder:
    """Folds the lines of one answer; the last says "done"."""

    def __init__(self) -> None:
        self.complete = False
        self.done = False
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[ToolCall] = []
        self._last: dict[str, Any] = {}

    def feed(self, event: ServerEvent) -> Sequence[Delta]:
        line = self._decode(event.data)
        found: list[Delta] = []
        # /api/generate, which some proxies answer with, has its text beside "done".
        message = line.get("message")
        said = message if isinstance(message, dict) else line
        if isinstance(thought := said.get("thinking"), str) and thought:
            self._reasoning.append(thought)
            found.append(ReasoningDelta(text=thought))
        text = said.get("content") if said is message else said.get("response")
        if isinstance(text, str) and text:
            self._text.append(text)
            found.append(TextDelta(text=text))
        calls = said.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            self._call(call, str(line.get("created_at") or ""), found)
        self._last = line
        if line.get("done") is True:
            self.complete = self.done = True
        return found

    def finish(self) -> Reply:
        if not self.complete:
            raise truncated("ollama")
        finish = _FINISH.get(str(self._last.get("done_reason") or "stop"), "other")
        if self._calls and finish in ("stop", "other"):
            finish = "tool-calls"
        parts: list[Part] = []
        if self._reasoning:
            parts.append(Reasoning(text="".join(self._reasoning)))
        if self._text:
            parts.append(Text(text="".join(self._text)))
        return Reply(
            message=Message(role="assistant", parts=(*parts, *self._calls)),
            finish=finish,
            usage=Usage(
                input=_count(self._last, "prompt_eval_count"),
                output=_count(self._last, "eval_count"),
                calls=1,
            ),
            model=str(self._last.get("model") or ""),
            raw=self._last,
        )

    def _decode(self, data: bytes) -> dict[str, Any]:
        excerpt = redact(data[:120].decode("utf-8", "replace"))
        try:
            line = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ModelOutputError(
                f'"ollama" sent what is not JSON: {excerpt}',
                hint="check that the base URL is the address of an Ollama server",
            ) from None
        if isinstance(line, dict) and line.get("error"):
            raise ModelHTTPError(
                f'"ollama" sent an error in its answer: {redact(error_message(data)) or excerpt}',
                hint="what arrived is kept; try again, or look into the server's log",
                code="model.stream_error",
            )
        if not isinstance(line, dict) or not line.keys() & {"message", "response", "done"}:
            raise ModelOutputError(
                f'"ollama" sent JSON that is not an answer: {excerpt}',
                hint="check that the base URL is the address of an Ollama server",
            )
        return line

    def _call(self, call: Any, at: str, found: list[Delta]) -> None:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            return
        args = function.get("arguments")
        text = args if isinstance(args, str) else _json.encode(args or {}).decode()
        id = str(call.get("id") or f"call-{re.sub(r'[^0-9]', '', at)}-{len(self._calls)}")
        made = ToolCall(id=id, name=str(function.get("name") or ""), args=text)
        self._calls.append(made)
        found.append(ArgsDelta(id=id, name=made.name, text=text))


def _count(line: dict[str, Any], key: str) -> int:
    value = line.get(key)
    return int(value) if isinstance(value, int | float) else 0
