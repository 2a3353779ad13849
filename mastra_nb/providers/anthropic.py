"""Anthropic's Messages API, and whoever else speaks it.

Sources: the API reference, the types of the official SDK, the pages on thinking, preserved
thinking, prompt caching, structured outputs and tool use.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from mastra_nb.config import Secret
from mastra_nb.errors import UsageError
from mastra_nb.http.client import Retry, Timeouts
from mastra_nb.messages import Media, Message, Part, Reasoning, Text, ToolCall, ToolResult
from mastra_nb.models import ModelRequest, ModelSettings, Profile, Reply
from mastra_nb.providers._anthropic_answer import NAME, MessagesDecoder
from mastra_nb.providers._anthropic_models import Traits, is_image, strict_schema, traits
from mastra_nb.providers._base import HTTPModel, Wire
from mastra_nb.providers._vendors import Vendor

# Later versions of the API only take away: temperature, top_p and top_k, which the models up
# to 4.6 have, and many a compatible server knows no other.
API_VERSION = "2023-06-01"
_BINDING_BETA = "thinking-binding-controls-2026-08-01"
# Tokens to think with, by how hard; a budget below 1,024 is refused.
_BUDGETS = {"low": 2_048, "medium": 8_192, "high": 16_384}
_LEAST_BUDGET = 1_024
# Where nothing is known of the model's limit.
_MAX_TOKENS = 8_192
_MARK = {"type": "ephemeral"}
_THINKING = frozenset({"thinking", "redacted_thinking"})
# Where what a user adds does not replace ours: server tools beside our tools.
_JOINED = ("tools", "output_config")
_ID = re.compile(r"[a-zA-Z0-9_-]+")

_json = msgspec.json.Encoder()
Block = dict[str, Any]

_ANTHROPIC = Vendor(
    name=NAME,
    base_url="https://api.anthropic.com",
    key_env=("ANTHROPIC_API_KEY",),
    url_env=("ANTHROPIC_BASE_URL",),
    url_path="",
    auth_header="x-api-key",
)


class AnthropicModel(HTTPModel):
    """A model of Anthropic, or at any address that speaks its Messages API.

    `base_url` is the part before "/v1/messages"; with it, no key of the environment is sent.
    `betas` are names for the anthropic-beta header.

    Prompt caching (ModelSettings.cache): True marks the end of the tools, of the system prompt
    and of the last user turn; False marks nothing; None does what True does as soon as a request
    has tools or an answer in its history, so that what it sends will be sent again, and nothing
    for a single question, where writing to the cache only costs.
    """

    models_path = "/v1/models?limit=1000"
    list_headers: ClassVar[Mapping[str, str]] = {"anthropic-version": API_VERSION}

    def __init__(
        self,
        model_id: str,
        *,
        base_url: str | None = None,
        api_key: str | Secret | None = None,
        profile: Profile | None = None,
        betas: Sequence[str] = (),
        timeouts: Timeouts | None = None,
        retry: Retry | None = None,
    ) -> None:
        known = profile or traits(model_id).profile()
        super().__init__(
            model_id,
            vendor=msgspec.structs.replace(_ANTHROPIC, needs_key=base_url is None),
            codec=MessagesCodec(model_id, known, betas),
            profile=known,
            base_url=base_url,
            api_key=api_key,
            timeouts=timeouts,
            retry=retry,
        )

    def _find_url(self) -> str:
        return super()._find_url().removesuffix("/v1")


def provider(provider_name: str, model_id: str) -> AnthropicModel:
    return AnthropicModel(model_id)


class MessagesCodec:
    def __init__(
        self, model_id: str, profile: Profile | None = None, betas: Sequence[str] = ()
    ) -> None:
        self._model_id = model_id
        self._traits: Traits = traits(model_id)
        self._profile = profile or self._traits.profile()
        self._betas = tuple(betas)

    # --- request ---------------------------------------------------------------------------

    def encode(self, request: ModelRequest, *, stream: bool) -> Wire:
        settings = request.settings
        system = [_text(p) for m in request.messages if m.role == "system" for p in m.parts]
        system = [block for block in system if block is not None]
        messages = _messages(request.messages)
        limit = settings.max_tokens or self._profile.max_output or _MAX_TOKENS
        body: dict[str, Any] = {
            "model": self._model_id,
            "max_tokens": limit,
            "system": system,
            "messages": messages,
            "tools": [
                {
                    "name": t.name,
                    "description": t.description,
                    "input_schema": _object(t.parameters),
                }
                for t in request.tools
            ],
        }
        forced = self._choose(request, body)
        self._think(settings, limit, forced, body)
        if request.output is not None:
            self._shape(request.output, body)
        self._sample(settings, body)
        if _cached(request):
            _mark(body)
        body = {key: value for key, value in body.items() if value != []}
        if stream:
            body["stream"] = True
        for key, value in settings.extra.items():
            body[key] = _join(body[key], value) if key in _JOINED and key in body else value
        return Wire(path="/v1/messages", body=_json.encode(body), headers=self._headers(body))

    def _headers(self, body: dict[str, Any]) -> dict[str, str]:
        headers = {"anthropic-version": API_VERSION}
        betas = list(self._betas)
        thinking = body.get("thinking")
        if isinstance(thinking, dict) and "block_binding" in thinking:
            betas.append(_BINDING_BETA)
        if betas:
            headers["anthropic-beta"] = ",".join(dict.fromkeys(betas))
        return headers

    def _choose(self, request: ModelRequest, body: dict[str, Any]) -> bool:
        """Set `tool_choice`; whether the model is made to call a tool."""
        if not request.tools:
            return False
        choice, forced = request.tool_choice, request.tool_choice not in ("auto", "none")
        if forced and not self._traits.force:
            one = "a tool" if choice == "required" else f'the tool "{choice}"'
            body["system"].append({"type": "text", "text": f"Answer with a call of {one}."})
            choice, forced = "auto", False
        wire: dict[str, Any] = (
            {"type": {"required": "any"}.get(choice, choice)}
            if choice in ("auto", "none", "required")
            else {"type": "tool", "name": choice}
        )
        if request.settings.parallel_tools is False and choice != "none":
            wire["disable_parallel_tool_use"] = True
        if wire != {"type": "auto"}:
            body["tool_choice"] = wire
        return forced

    def _think(
        self, settings: ModelSettings, limit: int, forced: bool, body: dict[str, Any]
    ) -> None:
        level, known = settings.reasoning, self._traits
        if not self._profile.reasoning:
            return
        if level == "off":
            if known.off == "never":
                body["output_config"] = {"effort": "low"}
            elif known.off:
                body["thinking"] = {"type": known.off}
            if known.off == "disabled":
                _forget_thinking(body["messages"])
        elif known.thinking == "adaptive":
            thinking: dict[str, Any] = {"type": "adaptive"}
            if known.binds:
                # Instructions and tools may change from step to step: then what was thought
                # before is left out instead of the request refused.
                thinking["block_binding"] = {"prefix_mismatch_behavior": "drop_block"}
            if level is not None:
                body["output_config"] = {"effort": level}
                if known.quiet:
                    thinking["display"] = "summarized"
            if level is not None or known.binds:
                body["thinking"] = thinking
        elif known.thinking == "budget" and level is not None:
            # A budget excludes a forced call, and wants the turn to have begun with thinking.
            if forced or limit <= _LEAST_BUDGET or _began_without_thinking(body["messages"]):
                return
            budget = min(_BUDGETS[level], max(_LEAST_BUDGET, limit // 2))
            body["thinking"] = {"type": "enabled", "budget_tokens": budget}

    def _shape(self, schema: dict[str, Any], body: dict[str, Any]) -> None:
        strict = strict_schema(schema) if self._profile.json_schema else None
        if strict is not None:
            config = {"format": {"type": "json_schema", "schema": strict}}
            body["output_config"] = {**body.get("output_config", {}), **config}
            return
        text = "Answer with nothing but one JSON value that fits this JSON schema:\n"
        body["system"].append({"type": "text", "text": text + _json.encode(schema).decode()})

    def _sample(self, settings: ModelSettings, body: dict[str, Any]) -> None:
        if stop := [s for s in settings.stop if s.strip()]:
            body["stop_sequences"] = stop
        if not self._traits.sampling:
            return
        thinks = body.get("thinking", {}).get("type") in ("enabled", "adaptive")
        if settings.temperature is not None and not thinks:
            body["temperature"] = min(settings.temperature, 1.0)
        elif settings.top_p is not None and (not thinks or settings.top_p >= 0.95):
            # Models since 4.1 refuse both in one request.
            body["top_p"] = settings.top_p
        if settings.top_k is not None and not thinks:
            body["top_k"] = settings.top_k

    # --- answer ----------------------------------------------------------------------------

    def decoder(self) -> MessagesDecoder:
        return MessagesDecoder()

    def decode_body(self, body: bytes) -> Reply:
        decoder = MessagesDecoder()
        decoder.body(body)
        return decoder.finish()


def _cached(request: ModelRequest) -> bool:
    wanted = request.settings.cache
    if wanted is None:
        return bool(request.tools) or any(m.role == "assistant" for m in request.messages)
    return wanted


def _mark(body: dict[str, Any]) -> None:
    """End what is the same in the next request: a mark covers all that comes before it."""
    for blocks in (body["tools"], body["system"]):
        if blocks:
            blocks[-1]["cache_control"] = _MARK
    turns = [m for m in body["messages"] if m["role"] == "user"]
    if turns:
        turns[-1]["content"][-1]["cache_control"] = _MARK


def _join(ours: Any, theirs: Any) -> Any:
    return [*ours, *theirs] if isinstance(ours, list) else {**ours, **theirs}


def _object(schema: dict[str, Any]) -> dict[str, Any]:
    return schema if schema.get("type") == "object" else {**schema, "type": "object"}


# --- messages ----------------------------------------------------------------------------------


def _messages(messages: Sequence[Message]) -> list[Block]:
    """Turns that alternate; what Anthropic would refuse is not among them."""
    wire: list[Block] = []
    rest = [m for m in messages if m.role != "system"]
    open_calls: set[str] = set()
    for index, message in enumerate(rest):
        if message.role == "assistant":
            answered = _answered(rest[index + 1 :])
            blocks = _assistant(message.parts, answered)
            open_calls = {b["id"] for b in blocks if b["type"] == "tool_use"}
            _add(wire, "assistant", blocks)
        else:
            _add(wire, "user", _user(message.parts, open_calls))
    if wire and wire[-1]["role"] == "assistant":
        last = wire[-1]["content"][-1]
        if last["type"] == "text":
            last["text"] = last["text"].rstrip()
    return wire


def _add(wire: list[Block], role: str, blocks: list[Block]) -> None:
    if not blocks:
        return
    if wire and wire[-1]["role"] == role:
        wire[-1]["content"] += blocks
    else:
        wire.append({"role": role, "content": blocks})


def _answered(following: Iterable[Message]) -> set[str]:
    """Ids of the calls whose results come next: a call without one is refused."""
    found: set[str] = set()
    for message in following:
        results = {p.id for p in message.parts if isinstance(p, ToolResult)}
        if message.role == "assistant" or not results:
            break
        found |= results
    return found


def _assistant(parts: Sequence[Part], answered: set[str]) -> list[Block]:
    blocks: list[Block] = []
    for part in parts:
        extra = _extra(part)
        if "type" in extra:
            blocks.append(extra)
        elif isinstance(part, Text):
            if (block := _text(part)) is not None:
                blocks.append({**block, **extra})
        elif isinstance(part, Reasoning):
            # Thinking without a signature is another provider's, or was cut off.
            if "signature" in extra:
                blocks.append({"type": "thinking", "thinking": part.text, **extra})
        elif isinstance(part, ToolCall) and part.id in answered:
            call = {"type": "tool_use", "id": _id(part.id), "name": part.name}
            blocks.append({**call, "input": _input(part.args), **extra})
    while blocks and blocks[-1]["type"] in _THINKING:
        blocks.pop()  # an answer that ends with thinking is refused
    return blocks


def _user(parts: Sequence[Part], open_calls: set[str]) -> list[Block]:
    """Results come first; what a tool shows (Media and Text after its result) is part of it."""
    results: list[Block] = []
    others: list[Block] = []
    for part in parts:
        if isinstance(part, ToolResult):
            if (id := _id(part.id)) in open_calls:
                open_calls.discard(id)
                results.append(_result(part, id))
            continue
        block = _text(part) if isinstance(part, Text) else None
        if isinstance(part, Media):
            block = _media(part)
        if block is None:
            continue
        if results:
            results[-1].setdefault("content", []).append(block)
        else:
            others.append(block)
    return [*results, *others]


def _result(part: ToolResult, id: str) -> Block:
    value = part.output
    text = value if isinstance(value, str) else _json.encode(value).decode()
    block: Block = {"type": "tool_result", "tool_use_id": id}
    if text.strip():
        block["content"] = [{"type": "text", "text": text}]
    if part.is_error:
        block["is_error"] = True
    return block


def _extra(part: Part) -> dict[str, Any]:
    found = (part.extra or {}).get(NAME)
    return dict(found) if isinstance(found, dict) else {}


def _text(part: Part) -> Block | None:
    """A text block, or None for what would be an empty one."""
    if isinstance(part, Text) and part.text.strip():
        return {"type": "text", "text": part.text}
    return None


def _media(part: Media) -> Block:
    mime = part.mime.partition(";")[0].strip().lower()
    mime = "image/jpeg" if mime == "image/jpg" else mime
    kind = "image" if mime.startswith("image/") else "document"
    source: Block | None = None
    if part.data is not None:
        if is_image(mime) or mime == "application/pdf":
            data = base64.b64encode(part.data).decode()
            source = {"type": "base64", "media_type": mime, "data": data}
        elif mime.startswith("text/") or mime == "application/json":
            text = part.data.decode("utf-8", "replace")
            source = {"type": "text", "media_type": "text/plain", "data": text}
    elif part.url is not None and (kind == "image" or mime == "application/pdf"):
        source = {"type": "url", "url": part.url}
    if source is None:
        how = "a link to" if part.data is None else "data of type"
        raise UsageError(
            f'"{NAME}" takes no {how} "{part.mime}" in a message',
            hint="send JPEG, PNG, GIF, WebP or PDF as data or link, text as data",
            code="usage.media",
        )
    return {"type": kind, "source": source, **_extra(part)}


def _input(args: str) -> Any:
    """The arguments as they were written, which keeps a cached prefix the same."""
    try:
        if isinstance(msgspec.json.decode(args), dict):
            return msgspec.Raw(args.encode())
    except msgspec.DecodeError:
        pass
    return {"INVALID_JSON": args}


def _id(id: str) -> str:
    """The id, or one that stands for what Anthropic refuses as an id."""
    if _ID.fullmatch(id):
        return id
    return "call_" + hashlib.sha256(id.encode()).hexdigest()[:24]


def _began_without_thinking(messages: list[Block]) -> bool:
    """Whether the tool calls of the current turn were made without thinking of Anthropic's."""
    if not messages or messages[-1]["role"] != "user":
        return False
    if not any(block["type"] == "tool_result" for block in messages[-1]["content"]):
        return False
    return messages[-2]["content"][0]["type"] not in _THINKING


def _forget_thinking(messages: list[Block]) -> None:
    """Without thinking it would not be read, and may be refused."""
    for message in messages:
        message["content"] = [b for b in message["content"] if b["type"] not in _THINKING]
