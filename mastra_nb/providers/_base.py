"""A model behind HTTP: a codec that knows one wire format, and the driver that does the I/O."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

import msgspec

from mastra_nb.config import Secret, secret, variable
from mastra_nb.context import Context
from mastra_nb.errors import (
    ConfigError,
    ModelError,
    ModelHTTPError,
    ModelOutputError,
    ModelTimeout,
)
from mastra_nb.events import ArgsDelta, Delta, Noted, ReasoningDelta, TextDelta
from mastra_nb.http.client import BYTES_A_TOKEN, Call, Notice, Response, Retry, Timeouts, stream
from mastra_nb.http.pool import gate, rate
from mastra_nb.http.sse import Framing, ServerEvent, SSEDecoder
from mastra_nb.messages import Message, Reasoning, Text, ToolCall
from mastra_nb.models import Availability, ModelRequest, Profile, Reply
from mastra_nb.providers._vendors import Vendor, full_url

_TOO_LONG = (
    "context length", "context_length", "context window", "maximum context", "too many tokens",
    "prompt is too long", "input is too long",
)  # fmt: skip
_SETTLED = 5.0  # seconds that a finished answer may still take to say its usage
_PATIENT = Timeouts(first=600.0, idle=300.0)


class Wire(msgspec.Struct, frozen=True, kw_only=True):
    """An encoded request; `path` is appended to the base URL, `framing` says how it streams."""

    path: str
    body: bytes
    framing: type[Framing] = SSEDecoder
    headers: Mapping[str, str] = {}


class Decoder(Protocol):
    """Folds one streamed answer. `feed` raises ModelError for an error event and for nonsense.

    `complete` once the answer is whole, `done` once nothing can follow. `finish` gives the reply,
    or raises ModelHTTPError "model.truncated", ModelRefused or ModelOutputError.
    """

    complete: bool
    done: bool

    def feed(self, event: ServerEvent) -> Sequence[Delta]: ...

    def finish(self) -> Reply: ...


class Codec(Protocol):
    def encode(self, request: ModelRequest, *, stream: bool) -> Wire: ...

    def decoder(self) -> Decoder: ...

    def decode_body(self, body: bytes) -> Reply: ...


class HTTPModel:
    """One model of one vendor. Address and key are looked up at each call, never kept."""

    kind: ClassVar[Literal["model"]] = "model"
    # Where a service lists its models, and what it wants to be sent with the question.
    models_path: ClassVar[str] = "/models"
    list_headers: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self,
        model_id: str,
        *,
        vendor: Vendor,
        codec: Codec,
        profile: Profile,
        base_url: str | None = None,
        api_key: str | Secret | None = None,
        timeouts: Timeouts | None = None,
        retry: Retry | None = None,
    ) -> None:
        self.name = f"{vendor.name}/{model_id}"
        self.model_id = model_id
        self.profile = profile
        self._vendor = vendor
        self._codec = codec
        self._base_url = base_url
        self._api_key = Secret(api_key) if isinstance(api_key, str) else api_key
        # A model that thinks or is being loaded says nothing for minutes.
        patient = profile.reasoning or vendor.slow_start
        self._patient = patient
        self._timeouts = timeouts
        self._retry = retry or Retry()

    def __repr__(self) -> str:
        return f'{type(self).__name__}("{self.name}")'

    @property
    def vendor(self) -> Vendor:
        return self._vendor

    async def invoke(self, request: ModelRequest, ctx: Context) -> Reply:
        base_url, (auth, key_name) = self._find_url(), await self._find_auth()
        vendor, label = self._vendor, self._vendor.name
        codec = self._codec_at(base_url)
        wire = codec.encode(request, stream=vendor.stream)
        headers: dict[str, str | Secret] = {
            "content-type": "application/json",
            "accept": wire.framing.media_type if vendor.stream else "application/json",
            **wire.headers,
            **auth,
        }
        call = Call(
            url=self._address(base_url, wire.path), label=label, base_url=base_url, headers=headers,
            body=wire.body,
        )  # fmt: skip

        def note(notice: Notice) -> None:
            ctx.count_retry()
            text = f"{notice.reason}; attempt {notice.attempt} in {notice.delay:.1f} s"
            ctx.emit(Noted(level="warning", text=text))

        def hint(status: int, said: str) -> str:
            return self._hint(status, said, base_url, key_name)

        decoder = codec.decoder()
        allowed = rate(self.name, base_url, ctx.services.settings.rate_limits)
        try:
            async with stream(
                call,
                retry=self._retry,
                timeouts=self._timeouts
                or self._default_timeouts(ctx.services.settings.idle_timeout),
                gate=gate(label, base_url, self.model_id),
                rate=allowed,
                on_retry=note,
                hint=hint,
            ) as response:
                reply = await self._read(response, wire.framing(), decoder, ctx)
            if allowed is not None:
                allowed.spent(reply.usage.total - len(call.body) // BYTES_A_TOKEN)
            return reply
        except RecursionError:
            raise ModelOutputError(
                f'"{label}" sent JSON that is nested too deeply', hint="try again"
            ) from None
        except ModelError as error:
            if decoder.complete and error.code in ("model.truncated", "model.timeout"):
                return decoder.finish()
            if isinstance(error, ModelHTTPError) and _too_long(error.status, error.message):
                error.code = "model.context_length"
            raise

    async def _read(
        self, response: Response, framing: Framing, decoder: Decoder, ctx: Context
    ) -> Reply:
        started = settled = False
        async for piece in response:
            if not started:
                piece = piece.lstrip(b"\xef\xbb\xbf \t\r\n")
                if not piece:
                    continue
                if piece[:1] in framing.foreign:
                    return await self._read_body(piece, response, ctx)
                started = True
            if _emit(decoder, framing.feed(piece), ctx):
                response.heard()
            if decoder.done:
                return decoder.finish()
            if decoder.complete and not settled:
                settled = True
                response.hurry(_SETTLED)
        try:
            _emit(decoder, framing.close(), ctx)
        except ModelOutputError as error:
            if not decoder.complete:
                raise truncated(self._vendor.name) from error
        return decoder.finish()

    async def _read_body(self, start: bytes, response: Response, ctx: Context) -> Reply:
        """A whole body: from a server that cannot stream, or that answers with a web page."""
        body = start + await response.read()
        if body[:1] == b"<":
            raise ModelOutputError(
                f'"{self._vendor.name}" answered with a web page instead of JSON',
                hint="check that the base URL is the address of the API",
                details={"media_type": response.media_type},
            )
        reply = self._codec_at(self._find_url()).decode_body(body)
        for delta in deltas(reply.message):
            ctx.emit(delta)
        return reply

    async def available(self, *, ask: bool = False) -> Availability:
        """Whether it could be called; `ask` also asks a service that has a key which models it
        has, as is always done with a server that needs none.
        """
        try:
            base_url, (auth, key_name) = self._find_url(), await self._find_auth()
        except ConfigError as error:
            return Availability(ready=False, why=error.message.partition(": ")[2] or error.hint)
        if not ask and self._vendor.needs_key:
            return Availability(ready=True, why=f"key in {key_name}")
        call = Call(
            method="GET", url=self._address(base_url, self.models_path), label=self._vendor.name,
            base_url=base_url, headers={**self.list_headers, **auth},
        )  # fmt: skip
        try:
            async with stream(
                call,
                retry=Retry(retries=0),
                timeouts=Timeouts(connect=1.0, first=5.0, idle=5.0),
                hint=lambda status, said: self._hint(status, said, base_url, key_name),
            ) as response:
                names = _model_ids(await response.read())
        except ModelError as error:
            if isinstance(error, ModelHTTPError) and error.status == 404:
                return Availability(ready=True, why=f"answers at {base_url}")
            lost = error.code == "model.unreachable" or isinstance(error, ModelTimeout)
            what = f"nothing answers at {base_url}" if lost else error.message
            return Availability(ready=False, why=f"{what}: {error.hint}")
        return Availability(ready=True, why=f"answers at {base_url}", models=names)

    async def _find_auth(self) -> tuple[dict[str, str | Secret], str]:
        """The headers that carry the key, and the name of where it is from."""
        key, name = self._find_key()
        return self._auth(key), name

    def _auth(self, key: Secret | None) -> dict[str, str | Secret]:
        if key is None:
            return {}
        bearer = self._vendor.auth_header == "authorization"
        return {self._vendor.auth_header: Secret(f"Bearer {key.reveal()}") if bearer else key}

    def _default_timeouts(self, idle: float) -> Timeouts:
        if self._patient:
            return Timeouts(first=_PATIENT.first, idle=max(idle, _PATIENT.idle))
        return Timeouts(idle=idle)

    async def post(self, path: str, body: bytes) -> bytes:
        """One request to the same service that is neither a chat nor streamed."""
        base_url, (auth, key_name) = self._find_url(), await self._find_auth()
        call = Call(
            url=self._address(base_url, path), label=self._vendor.name, base_url=base_url,
            body=body, headers={"content-type": "application/json", **auth},
        )  # fmt: skip
        try:
            async with stream(
                call,
                retry=self._retry,
                timeouts=self._timeouts or Timeouts(),
                gate=gate(self._vendor.name, base_url, self.model_id),
                hint=lambda status, said: self._hint(status, said, base_url, key_name),
            ) as response:
                return await response.read()
        except ModelHTTPError as error:
            if _too_long(error.status, error.message):
                error.code = "model.context_length"
            raise

    def _codec_at(self, base_url: str) -> Codec:
        return self._codec

    def _address(self, base_url: str, path: str) -> str:
        return base_url + path

    def _find_url(self) -> str:
        vendor = self._vendor
        found = self._base_url or variable(*vendor.url_env) or vendor.base_url
        if not found:
            names = " or ".join(vendor.url_env)
            raise ConfigError(
                f'no address for "{vendor.name}"', hint=f"set {names}, or pass base_url="
            )
        return full_url(found, vendor)

    @property
    def key_names(self) -> tuple[str, ...]:
        """The variables that its key is looked for in."""
        return self._vendor.key_env

    def _find_key(self) -> tuple[Secret | None, str]:
        """The key, and the name of where it is from."""
        if self._api_key is not None:
            return self._api_key, "api_key"
        vendor = self._vendor
        if self._base_url is not None and not vendor.needs_key:
            # OpenAI's key is not for whoever is at some other address.
            return None, ""
        for name in vendor.key_env:
            if found := secret(name):
                return found, name
        if not vendor.needs_key:
            return None, ""
        raise ConfigError(
            f'no key for "{vendor.name}": set {" or ".join(vendor.key_env)}',
            hint='put it in the environment or in .env; model="local" needs no key',
            code="config.no_key",
        )

    def _hint(self, status: int, said: str, base_url: str, key_name: str) -> str:
        vendor = self._vendor
        keys = f"set {vendor.key_env[0]}" if self._base_url is None else "pass api_key="
        if _too_long(status, said):
            return "shorten the conversation, or choose a model with a longer context"
        if status == 0:
            if "CERTIFICATE" in said:
                return "set SSL_CERT_FILE to the certificates of your network or server"
            if not vendor.needs_key:
                return vendor.start or "start the server, or check the base URL"
            return "check the network, the proxy and the base URL"
        if status in (401, 403):
            return f"check the key in {key_name}" if key_name else f"no key was sent: {keys}"
        if status == 404:
            if vendor.fetch:
                return f"fetch the model with `{vendor.fetch} {self.model_id}`"
            return f'check the model name "{self.model_id}" and the base URL {base_url}'
        if status == 402 or (status == 429 and ("quota" in said or "billing" in said)):
            return f'the account at "{vendor.name}" has no credit left'
        if status == 429:
            return "wait, run fewer at once, or raise the limits of the account"
        if status >= 500:
            return "the service has a problem: try again later, or use another model"
        return ""


def _model_ids(body: bytes) -> tuple[str, ...]:
    """The ids in a list of models, in any of the shapes in use; none if it is no such list."""
    try:
        listed = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return ()
    if isinstance(listed, dict):
        listed = listed.get("data") or listed.get("models")
    rows = [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
    names = (str(row.get("id") or row.get("name") or "") for row in rows)
    return tuple(sorted(name.removeprefix("models/") for name in names if name))


def _too_long(status: int, said: str) -> bool:
    if status == 413:
        return True
    low = said.lower()
    return status in (400, 422) and any(words in low for words in _TOO_LONG)


def merged(body: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`body` with a user's own fields: objects are merged, lists are joined, the rest replaced."""
    found = dict(body)
    for key, value in extra.items():
        old = found.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            value = merged(old, value)
        elif isinstance(old, list) and isinstance(value, list):
            value = [*old, *value]
        found[key] = value
    return found


def args_object(text: str) -> dict[str, Any]:
    """Arguments for an API that takes nothing but an object, also when the text is none."""
    try:
        value = msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, UnicodeEncodeError):
        value = None
    return value if isinstance(value, dict) else {"invalid_json": text}


def truncated(label: str) -> ModelHTTPError:
    return ModelHTTPError(
        f'"{label}" stopped in the middle of its answer',
        code="model.truncated",
        hint="what arrived is kept; try again",
    )


def deltas(message: Message) -> list[Delta]:
    """A whole message as the deltas that would have brought it."""
    found: list[Delta] = []
    for part in message.parts:
        if isinstance(part, Text):
            found.append(TextDelta(text=part.text))
        elif isinstance(part, Reasoning) and part.text:
            found.append(ReasoningDelta(text=part.text))
        elif isinstance(part, ToolCall):
            found.append(ArgsDelta(id=part.id, name=part.name, text=part.args))
    return found


def _emit(decoder: Decoder, events: list[ServerEvent], ctx: Context) -> bool:
    """Emit what `events` bring, also when one of them turns out to be an error; False if nothing.

    Pieces that arrived in one read are joined: nobody could have seen them apart.
    """
    found: list[Delta] = []
    try:
        for event in events:
            found += decoder.feed(event)
    finally:
        for (kind, call), group in itertools.groupby(found, _sort):
            pieces = list(group)
            if len(pieces) == 1:
                ctx.emit(pieces[0])
                continue
            text = "".join(piece.text for piece in pieces)
            if kind is TextDelta:
                ctx.emit(TextDelta(text=text))
            elif kind is ReasoningDelta:
                ctx.emit(ReasoningDelta(text=text))
            else:
                name = next((p.name for p in pieces if isinstance(p, ArgsDelta) and p.name), "")
                ctx.emit(ArgsDelta(id=call, text=text, name=name))
    return bool(found)


def _sort(delta: Delta) -> tuple[type[Delta], str]:
    return type(delta), delta.id if isinstance(delta, ArgsDelta) else ""
