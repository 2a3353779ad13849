"""Google's Gemini, at the Gemini API and at Vertex AI.

Sources: the reference of generateContent (v1beta, v1beta1), the guides on thinking, thought
signatures and structured output, the types of the official SDK.
"""

from __future__ import annotations

import asyncio
import base64
import fnmatch
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from mastra_nb.config import Secret, secret, variable
from mastra_nb.errors import ConfigError, UsageError
from mastra_nb.http.client import Retry, Timeouts
from mastra_nb.messages import Media, Message, Reasoning, Text, ToolCall, ToolResult
from mastra_nb.models import ModelRequest, ModelSettings, Profile, Reply
from mastra_nb.providers._base import HTTPModel, Wire, args_object, merged
from mastra_nb.providers._google_answer import EXTRA, GeminiDecoder
from mastra_nb.providers._google_embed import GeminiEmbedder, VertexEmbedder
from mastra_nb.providers._vendors import Vendor

_json = msgspec.json.Encoder()
_KEYS = ("GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_GENERATIVE_AI_API_KEY")
_GOOGLE = Vendor(
    name="google",
    base_url="https://generativelanguage.googleapis.com/v1beta",
    key_env=_KEYS,
    url_env=("GOOGLE_GEMINI_BASE_URL",),
    url_path="/v1beta",
    auth_header="x-goog-api-key",
)
_VERTEX = Vendor(
    name="vertex",
    key_env=("GOOGLE_ACCESS_TOKEN", *_KEYS),
    url_env=("GOOGLE_VERTEX_BASE_URL",),
    url_path="/v1beta1",
    auth_header="x-goog-api-key",
)
# Stands in, by Google's documentation, for the signature of a call that another model made.
_NO_SIGNATURE = base64.b64encode(b"skip_thought_signature_validator").decode()


class GoogleModel(HTTPModel):
    """A Gemini model at the Gemini API, which takes an API key."""

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
        super().__init__(
            model_id,
            vendor=_GOOGLE,
            codec=GeminiCodec(model_id),
            profile=profile or known_profile(model_id),
            base_url=base_url,
            api_key=api_key,
            timeouts=timeouts,
            retry=retry,
        )


class VertexModel(HTTPModel):
    """A Gemini model at Vertex AI: with a project and a token, or with an API key alone.

    `token` gives an access token each time it is asked, in a thread of its own; without it
    GOOGLE_ACCESS_TOKEN counts. Project and location are GOOGLE_CLOUD_PROJECT and
    GOOGLE_CLOUD_LOCATION unless they are given.
    """

    def __init__(
        self,
        model_id: str,
        *,
        project: str | None = None,
        location: str | None = None,
        token: Callable[[], str] | None = None,
        base_url: str | None = None,
        api_key: str | Secret | None = None,
        profile: Profile | None = None,
        timeouts: Timeouts | None = None,
        retry: Retry | None = None,
    ) -> None:
        super().__init__(
            model_id,
            vendor=_VERTEX,
            codec=GeminiCodec(model_id, "vertex"),
            profile=profile or known_profile(model_id),
            base_url=base_url,
            api_key=api_key,
            timeouts=timeouts,
            retry=retry,
        )
        self._project = project
        self._location = location
        self._token = token

    def _find_url(self) -> str:
        project = self._project or variable("GOOGLE_CLOUD_PROJECT")
        place = self._location or variable("GOOGLE_CLOUD_LOCATION") or "global"
        express = self._find_express() is not None
        if self._base_url or variable(*self._vendor.url_env):
            base = super()._find_url()
        elif express or place == "global":
            base = "https://aiplatform.googleapis.com/v1beta1"
        elif place in ("us", "eu"):
            base = f"https://aiplatform.{place}.rep.googleapis.com/v1beta1"
        else:
            base = f"https://{place}-aiplatform.googleapis.com/v1beta1"
        if express or "/projects/" in base:
            return base
        if not project:
            raise ConfigError(
                'no project for "vertex": set GOOGLE_CLOUD_PROJECT',
                hint="pass project=, or use an API key (GOOGLE_API_KEY) instead of a token",
            )
        return f"{base}/projects/{project}/locations/{place}"

    def _find_express(self) -> tuple[Secret, str] | None:
        """The API key, if there is no token to use."""
        if self._api_key is not None:
            return self._api_key, "api_key"
        if self._token is not None or secret("GOOGLE_ACCESS_TOKEN"):
            return None
        return next(((key, name) for name in _KEYS if (key := secret(name))), None)

    async def _find_auth(self) -> tuple[dict[str, str | Secret], str]:
        if (express := self._find_express()) is not None:
            return {"x-goog-api-key": express[0]}, express[1]
        if self._token is not None:
            token, name = await asyncio.to_thread(self._token), "token"
        else:
            key, name = self._find_key()
            token = key.reveal() if key is not None else ""
        return {"authorization": Secret(f"Bearer {token}")}, name


def provider(provider_name: str, model_id: str) -> GoogleModel | VertexModel:
    """ "vertex" is Vertex AI, any other name the Gemini API."""
    return VertexModel(model_id) if provider_name == "vertex" else GoogleModel(model_id)


def embedder(
    provider_name: str, model_id: str, *, dimensions: int | None = None
) -> GeminiEmbedder | VertexEmbedder:
    if provider_name == "vertex":
        return VertexEmbedder(VertexModel(model_id), dimensions=dimensions)
    return GeminiEmbedder(GoogleModel(model_id), dimensions=dimensions)


_MEDIA = ("image/*", "audio/*", "video/*", "application/pdf")
_OLD = ("gemini-1*", "gemini-2.0*", "gemini-pro*", "gemini-exp*")
_NEW = ("gemini-[3-9]*", "gemini-*-latest")


def known_profile(model_id: str) -> Profile:
    """What is known of a model from its name, and nothing that is not."""
    name = model_id.rpartition("/")[2].lower()
    if not name.startswith("gemini"):
        able = _matches(name, ("gemma-[4-9]*",)) or not name.startswith("gemma")
        return Profile(tools=able, json_schema=able, json_with_tools=False, media=("image/*",))
    drawing = "-image" in name
    return Profile(
        tools=not drawing or _matches(name, _NEW),
        json_schema=not drawing or _matches(name, _NEW),
        # Before Gemini 3 calls and a schema for the answer are refused together.
        json_with_tools=_matches(name, _NEW),
        reasoning=not _matches(name, _OLD) and name != "gemini-2.5-flash-image",
        media=_MEDIA,
        context=1_048_576,
        max_output=8_192 if _matches(name, _OLD) else 65_536,
    )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


_BUDGETS = {"off": 0, "low": 1_024, "medium": 8_192, "high": 24_576}
_MINIMAL = ("gemini-3-flash*", "gemini-3.1-flash-lite*", "gemini-3.5-flash*")


def thinking(model_id: str, level: str) -> dict[str, Any] | None:
    """The thinkingConfig of `ModelSettings.reasoning`: tokens up to Gemini 2.5, then levels.

    Where thinking cannot be switched off, "off" is as little as the model allows.
    """
    name = model_id.rpartition("/")[2].lower()
    if not known_profile(model_id).reasoning:
        return None
    shown = {} if level == "off" else {"includeThoughts": True}
    if _matches(name, ("gemini-2.5*",)):
        least = 128 if _matches(name, ("gemini-2.5-pro*",)) else 0
        return {**shown, "thinkingBudget": max(least, _BUDGETS[level])}
    if level == "off":
        level = "minimal" if _matches(name, _MINIMAL) else "low"
    elif level == "medium" and _matches(name, ("gemini-3-pro*",)):
        level = "high"
    return {**shown, "thinkingLevel": level.upper()}


class GeminiCodec:
    def __init__(self, model_id: str, label: str = "google") -> None:
        home = "publishers/google/models/" if label == "vertex" else "models/"
        self._label = label
        self._model_id = model_id
        self._resource = model_id if "/" in model_id else home + model_id
        self._strict = _matches(model_id.rpartition("/")[2].lower(), _NEW)

    # --- request ---------------------------------------------------------------------------

    def encode(self, request: ModelRequest, *, stream: bool) -> Wire:
        body: dict[str, Any] = {"contents": self._contents(request.messages)}
        told = [m.text for m in request.messages if m.role == "system" and m.text]
        if told:
            body["systemInstruction"] = {"parts": [{"text": text} for text in told]}
        if request.tools:
            functions = [
                {
                    "name": tool.name,
                    "description": tool.description,
                    "parametersJsonSchema": adapt(tool.parameters),
                }
                for tool in request.tools
            ]
            body["tools"] = [{"functionDeclarations": functions}]
            if request.tool_choice != "auto":
                body["toolConfig"] = {"functionCallingConfig": _calling(request.tool_choice)}
        config = self._config(request.settings)
        if request.output is not None:
            config["responseMimeType"] = "application/json"
            config["responseJsonSchema"] = adapt(request.output)
        if config:
            body["generationConfig"] = config
        method = "streamGenerateContent?alt=sse" if stream else "generateContent"
        body = merged(body, request.settings.extra)
        return Wire(path=f"/{self._resource}:{method}", body=_json.encode(body))

    def _config(self, settings: ModelSettings) -> dict[str, Any]:
        found = {
            "temperature": settings.temperature,
            "topP": settings.top_p,
            "topK": settings.top_k,
            "maxOutputTokens": settings.max_tokens,
            "presencePenalty": settings.presence_penalty,
            "frequencyPenalty": settings.frequency_penalty,
            "seed": settings.seed,
            "stopSequences": list(settings.stop) or None,
            "thinkingConfig": settings.reasoning and thinking(self._model_id, settings.reasoning),
        }
        return {key: value for key, value in found.items() if value is not None}

    def _contents(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        wire: list[dict[str, Any]] = []
        results: list[dict[str, Any]] = []
        for message in messages:
            if message.role == "tool":
                answers = [_result(p) for p in message.parts if isinstance(p, ToolResult)]
                if not results and answers:
                    wire.append({"role": "user", "parts": results})
                # The answers to the calls of one turn stand in one content.
                results += answers
                seen = [p for p in message.parts if isinstance(p, Text | Media)]
                if seen:
                    wire.append({"role": "user", "parts": [self._part(p) for p in seen]})
                continue
            results = []
            if message.role == "system":
                continue
            parts = self._parts(message)
            if parts:
                role = "model" if message.role == "assistant" else "user"
                wire.append({"role": role, "parts": parts})
        return wire

    def _parts(self, message: Message) -> list[dict[str, Any]]:
        wire: list[dict[str, Any]] = []
        unsigned = self._strict
        for part in message.parts:
            kept = (part.extra or {}).get(EXTRA) or {}
            signature = kept.get("thoughtSignature")
            if isinstance(part, Reasoning):
                if "part" in kept:
                    wire.append(kept["part"])
                elif signature:
                    wire.append({"text": part.text, "thought": True, "thoughtSignature": signature})
                continue
            if isinstance(part, Text) and not part.text and not signature:
                continue
            if isinstance(part, ToolCall) and unsigned:
                # Only the first call of a turn is signed, and must be.
                unsigned = False
                signature = signature or _NO_SIGNATURE
            sent = self._part(part)
            wire.append({**sent, "thoughtSignature": signature} if signature else sent)
        return wire

    def _part(self, part: Any) -> dict[str, Any]:
        if isinstance(part, Text):
            return {"text": part.text}
        if isinstance(part, ToolCall):
            call = {"id": part.id, "name": part.name, "args": args_object(part.args)}
            return {"functionCall": call}
        if isinstance(part, ToolResult):
            return _result(part)
        if isinstance(part, Media) and part.data is not None:
            data = base64.b64encode(part.data).decode()
            return {"inlineData": {"mimeType": part.mime, "data": data}}
        if isinstance(part, Media) and part.url:
            return {"fileData": {"mimeType": part.mime, "fileUri": part.url}}
        raise UsageError(
            f'"{self._label}" takes no media without data and without a link',
            hint="give Media data= or url=",
            code="usage.media",
        )

    # --- answer ----------------------------------------------------------------------------

    def decoder(self) -> GeminiDecoder:
        return GeminiDecoder(self._label)

    def decode_body(self, body: bytes) -> Reply:
        decoder = self.decoder()
        decoder.body(body)
        return decoder.finish()


def _calling(choice: str) -> dict[str, Any]:
    if choice == "none":
        return {"mode": "NONE"}
    if choice == "required":
        return {"mode": "ANY"}
    return {"mode": "ANY", "allowedFunctionNames": [choice]}


def _result(part: ToolResult) -> dict[str, Any]:
    # "output" and "error" are the keys the API knows; a result's own keys are left alone below.
    key = "error" if part.is_error else "output"
    answer = {"id": part.id, "name": part.name, "response": {key: part.output}}
    return {"functionResponse": answer}


_MAPS = ("properties", "$defs", "definitions")
_DROPPED = ("$schema", "$comment", "discriminator", "examples")


def adapt(schema: Any) -> Any:
    """A JSON schema in the words that Gemini knows: it has no const, no open bounds, and no
    neighbours of $ref. An open bound becomes a closed one: who validates the arguments is stricter.
    """
    if isinstance(schema, list):
        return [adapt(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(ref := schema.get("$ref"), str):
        schema = {k: v for k, v in schema.items() if k in ("$defs", "definitions")}
        schema["$ref"] = ref.replace("#/definitions/", "#/$defs/")
    found: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _MAPS and isinstance(value, dict):
            name = "$defs" if key == "definitions" else key
            found[name] = {k: adapt(v) for k, v in value.items()}
        elif key == "const":
            found["enum"] = [value]
        elif key == "oneOf":
            found["anyOf"] = adapt(value)
        elif key in ("exclusiveMinimum", "exclusiveMaximum"):
            found.setdefault("minimum" if key == "exclusiveMinimum" else "maximum", value)
        elif key in ("enum", "default", "required"):
            found[key] = value
        elif key not in _DROPPED:
            found[key] = adapt(value)
    return found
