"""Models: the protocol, what a request and a reply hold, and wrappers around any model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import msgspec

from mastra_nb import plugins
from mastra_nb._later import later
from mastra_nb.context import Codec, Context, Recorded
from mastra_nb.errors import (
    Blocked,
    ConfigError,
    ModelError,
    ModelOutputError,
    ModelRefused,
    ModelTimeout,
)
from mastra_nb.events import MessageAdded, Noted, ReasoningDelta, TextDelta
from mastra_nb.limits import Need
from mastra_nb.messages import Finish, Media, Message, Part, Reasoning, Text, ToolSpec, Usage
from mastra_nb.prices import Price, cost
from mastra_nb.prices import set_price as set_price
from mastra_nb.services import Services
from mastra_nb.storage import Docs

if TYPE_CHECKING:
    import hashlib
else:
    hashlib = later("hashlib", globals())


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What a model can do, as data. `context` and `max_output` are in tokens, None if unknown.

    `json_schema` says that the answer can be held to a schema, `json_with_tools` that this also
    works while there are tools. `media` are MIME types or patterns ("image/*").
    """

    tools: bool = True
    parallel_tools: bool = True
    json_schema: bool = True
    json_with_tools: bool = True
    reasoning: bool = False
    media: tuple[str, ...] = ()
    context: int | None = None
    max_output: int | None = None


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sampling; None leaves it to the provider, and what a provider does not have is left out.

    `reasoning` is how hard to think. `parallel_tools` False asks for one tool call at a time.
    `cache` True asks for prompt caching where that must be asked for, False forbids it where
    that can be. `extra` is merged into the provider's request body as it is.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    reasoning: Literal["off", "low", "medium", "high"] | None = None
    parallel_tools: bool | None = None
    cache: bool | None = None
    extra: dict[str, Any] = {}


class ModelRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`tool_choice` is a mode or the name of a tool; `output` is a JSON schema for the answer."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: str = "auto"
    output: dict[str, Any] | None = None
    settings: ModelSettings = ModelSettings()


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`model` is the name the provider answered with, `raw` its last JSON body or chunk."""

    message: Message
    finish: Finish = "stop"
    usage: Usage = Usage()
    model: str = ""
    raw: Any = None


class Model(Protocol):
    """Emits TextDelta, ReasoningDelta and ArgsDelta through `ctx.emit` while it speaks, and
    returns the whole message: there is no second, streaming path.

    When `invoke` is cancelled or fails midway, the deltas it emitted are what is kept.
    """

    kind: ClassVar[Literal["model"]]
    name: str
    profile: Profile

    async def invoke(self, request: ModelRequest, ctx: Context) -> Reply: ...


class Availability(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a model's provider can be used right now. `why` says what it rests on or what is
    missing; `models` are the ids that it offers, as far as it was asked.
    """

    ready: bool
    why: str
    models: tuple[str, ...] = ()


class ModelCodec(Codec[Reply]):
    """Histories are not copied: a model span's input is a digest, its output names the message."""

    def show(self, input: ModelRequest) -> Any:
        shown: dict[str, Any] = {
            "digest": digest(input),
            "messages": len(input.messages),
            "tools": [t.name for t in input.tools],
        }
        # Anything may be in `extra`, which goes to one provider as it is.
        settings = msgspec.to_builtins(input.settings)
        if chosen := {k: v for k, v in settings.items() if k != "extra"}:
            shown["settings"] = chosen
        return shown

    def dump(self, output: Reply, ctx: Context) -> Recorded:
        seq = ctx.emit(MessageAdded(message=output.message, finish=output.finish))
        if output.raw is not None:
            ctx.run.raw[ctx.parent or ctx.path] = output.raw
        return Recorded(
            {"message": seq, "finish": output.finish, "model": output.model}, output.usage
        )

    def load(self, value: Any, ctx: Context) -> Reply:
        added = ctx.run.message(value["message"])
        return Reply(message=added.message, finish=value["finish"], model=value["model"])

    def foresee(self, target: Model, input: ModelRequest) -> Need:
        """No token is shorter than a byte."""
        size = len(msgspec.json.encode((input.messages, input.tools, input.output)))
        models = list(_innermost(target))
        limits = [input.settings.max_tokens or m.profile.max_output for m, _ in models]
        known = [n for n in limits if n is not None]
        return Need(
            input=size,
            output=max(known) if len(known) == len(models) else None,
            enough=_LONG_ANSWER * (4 if any(m.profile.reasoning for m, _ in models) else 1),
            prices=tuple(_dearest(m.name, own, size) for m, own in models),
        )

    def salvage(self, ctx: Context, error: BaseException, input: ModelRequest) -> Usage | None:
        """What was said is kept, half tool calls are dropped: no provider accepts them back.
        Of an answer that was not let through nothing is kept.
        """
        deltas = ctx.run.deltas(ctx.path)
        spent = spent_by(error, input, ctx)
        if isinstance(error, Blocked) or ctx.withheld:
            return spent
        text = "".join(d.text for d in deltas if isinstance(d, TextDelta))
        reasoning = "".join(d.text for d in deltas if isinstance(d, ReasoningDelta))
        parts: list[Part] = [Reasoning(text=reasoning)] if reasoning else []
        if text:
            parts.append(Text(text=text))
        if parts:
            message = Message(role="assistant", parts=tuple(parts), partial=True)
            ctx.emit(MessageAdded(message=message))
        return spent


MODEL = ModelCodec()
# Tokens that an answer gets room for, if nobody limits its length; four times as many to think.
_LONG_ANSWER = 4096


def _innermost(model: Model) -> Iterator[tuple[Model, Mapping[str, Price]]]:
    """The models that may answer a call, and a project's prices for each."""
    own: Mapping[str, Price] = {}
    inner: Any = model
    while isinstance(inner, Wrapper):
        own = inner.own if isinstance(inner, Priced) else own
        inner = inner.inner
    if isinstance(inner, Fallback):
        for each in inner.models:
            yield from _innermost(each)
    else:
        yield inner, own


def _dearest(name: str, own: Mapping[str, Price], input: int) -> tuple[float, float] | None:
    """What `input` tokens cost at most, and what one of the answer does."""
    asked = cost(name, Usage(input=input, cache_write=input), own)
    plain = cost(name, Usage(input=input), own)
    both = cost(name, Usage(input=input, output=1_000_000), own)
    if asked is None or plain is None or both is None:
        return None
    return max(asked, plain), (both - plain) / 1e6


def digest(request: ModelRequest) -> str:
    """Identifies a request by its content: SHA-256 of its JSON with sorted keys, hex."""
    return hashlib.sha256(msgspec.json.encode(request, order="sorted")).hexdigest()


ModelLike = str | Model | Sequence[str | Model]


def resolve(model: ModelLike) -> Model:
    """A model by its string "provider/model", as it is, or the fallback chain of a sequence.

    Raises NotFound for an unknown provider, ConfigError for a string without one.
    """
    if isinstance(model, str):
        provider, _, model_id = model.partition("/")
        if not model_id and provider != "local":
            raise ConfigError(
                f'"{model}" names no provider',
                hint='write "provider/model", for example "openai/gpt-4o-mini", or "local"',
            )
        made: Model = plugins.providers.load(provider)(provider, model_id)
        return made
    if isinstance(model, Sequence):
        return Fallback([resolve(m) for m in model])
    model = getattr(model, "resolved", model)
    if not hasattr(model, "invoke"):
        raise ConfigError(
            f"{type(model).__name__} is not a model",
            hint='pass a string like "openai/gpt-4o-mini" or an object with invoke(request, ctx)',
        )
    return model


def ready(model: Model, services: Services) -> Model:
    """`model` as a run uses it: priced, and recorded or replayed if the services say so."""
    own = services.settings.prices
    priced: Model = (
        Fallback([Priced(m, own) for m in model.models])
        if isinstance(model, Fallback)
        else Priced(model, own)
    )
    return services.wrap_model(priced) if services.wrap_model is not None else priced


class Wrapper:
    kind: ClassVar[Literal["model"]] = "model"

    def __init__(self, inner: Model) -> None:
        self.inner = inner
        self.name = inner.name
        self.profile = inner.profile

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.inner!r})"


class Fallback:
    """The first model that answers. One that failed after it had begun to speak is not replaced."""

    kind: ClassVar[Literal["model"]] = "model"

    def __init__(self, models: Sequence[Model]) -> None:
        if not models:
            raise ConfigError(
                "a fallback chain needs at least one model",
                hint='model=["openai/gpt-4o-mini", "ollama/qwen3"]',
            )
        self.models = tuple(models)
        self.name = models[0].name
        self.profile = models[0].profile

    async def invoke(self, request: ModelRequest, ctx: Context) -> Reply:
        lost: Usage | None = None
        for tried, model in enumerate(self.models, 1):
            try:
                reply = await model.invoke(request, ctx)
            except (ModelError, ConfigError) as error:
                said = spent_by(error, request, ctx)
                if said is not None:
                    lost = said if lost is None else lost + said
                if tried == len(self.models) or ctx.has_spoken:
                    if lost is not None:
                        ctx.price = None
                        ctx.spent(msgspec.structs.replace(lost, calls=1))
                    raise
                ctx.count_retry()
                following = self.models[tried].name
                text = f'"{model.name}" failed ({error.message}); going on with "{following}"'
                ctx.emit(Noted(level="warning", text=text))
            else:
                if lost is None:
                    return reply
                usage = msgspec.structs.replace(lost + reply.usage, calls=reply.usage.calls)
                return msgspec.structs.replace(reply, usage=usage)
        raise AssertionError("unreachable")


def spent_by(error: BaseException, request: ModelRequest, ctx: Context) -> Usage | None:
    """What a call has spent that failed with `error`: what the provider has told, or an estimate
    if it broke off while it was answered; None if nothing was answered.
    """
    told = error.details.get("usage") if isinstance(error, ModelError) else None
    if isinstance(told, dict):
        usage = msgspec.convert(told, Usage)
    elif (heard := ctx.heard) or _was_under_way(error):
        usage = _estimated(request, heard, ctx)
    else:
        return None
    return usage if ctx.price is None else ctx.price(usage)


def _was_under_way(error: BaseException) -> bool:
    """Whether a service may have worked on a call before its first word."""
    if isinstance(error, ModelError):
        answered = isinstance(error, ModelTimeout | ModelOutputError | ModelRefused)
        return answered or error.code == "model.truncated"
    return not isinstance(error, Exception)


def _estimated(request: ModelRequest, heard: Sequence[str], ctx: Context) -> Usage:
    """More than a tokenizer would say of nearly every text; hidden thinking is not in it."""
    said = -(-sum(len(text.encode(errors="replace")) for text in heard) // _BYTES)
    most = [n for n in (request.settings.max_tokens, ctx.max_tokens) if n is not None]
    size = len(msgspec.json.encode((request.messages, request.tools, request.output)))
    media = [
        len(part.data)
        for message in request.messages
        for part in message.parts
        if isinstance(part, Media) and part.data is not None
    ]
    text = size - sum(4 * -(-n // 3) for n in media)
    asked = -(-text // _BYTES) + sum(-(-n // _MEDIA_BYTES) for n in media)
    return Usage(input=asked, output=min([said, *most]), calls=1, estimated=True)


# Bytes that surely hold a token: texts have 2 to 5 for each, pictures and documents far more.
_BYTES = 2
_MEDIA_BYTES = 16


class Priced(Wrapper):
    """Says what a call cost, and holds it to what its budget has room for. `own` are the prices
    of a project's settings.
    """

    def __init__(self, inner: Model, own: Mapping[str, Price] | None = None) -> None:
        super().__init__(inner)
        self.own = own or {}

    async def invoke(self, request: ModelRequest, ctx: Context) -> Reply:
        asked = request.settings.max_tokens
        if ctx.max_tokens is not None and (asked is None or asked > ctx.max_tokens):
            settings = msgspec.structs.replace(request.settings, max_tokens=ctx.max_tokens)
            request = msgspec.structs.replace(request, settings=settings)
        ctx.price = self.price
        reply = await self.inner.invoke(request, ctx)
        usage = reply.usage
        if not usage.total and usage.cost is None and ctx.meter.scarce:
            # Some servers do not count, and a budget must.
            said = [getattr(p, "text", "") or getattr(p, "args", "") for p in reply.message.parts]
            calls = max(1, usage.calls)
            usage = msgspec.structs.replace(_estimated(request, said, ctx), calls=calls)
        usage = self.price(usage)
        return reply if usage is reply.usage else msgspec.structs.replace(reply, usage=usage)

    def price(self, usage: Usage) -> Usage:
        if usage.calls and usage.cost is not None:
            return usage
        dollars = cost(self.name, usage, self.own)
        return msgspec.structs.replace(usage, cost=dollars, calls=max(1, usage.calls))


ReplayMode = Literal["off", "record", "auto", "only"]


class _Recording(msgspec.Struct, frozen=True, kw_only=True):
    reply: Reply
    seconds: float


class Recorder:
    """Keeps replies by the content of their request, in a store, and gives them back.

    `record` calls the model and keeps the reply; `only` never calls it; `auto` calls it for what
    was not kept. The n-th equal request of a session gets the n-th recording. While one is in
    use, time is the sum of recorded durations (`now`), so that a replay looks like its recording.
    """

    def __init__(self, docs: Docs, mode: ReplayMode) -> None:
        self.docs = docs
        self.mode = mode
        self.replayed = 0
        self.called = 0
        self._seen: dict[str, int] = {}
        self._clock = 0.0

    def now(self) -> float:
        return self._clock

    def wrap(self, model: Model) -> Model:
        return _Recorded(model, self)

    async def find(self, key: str) -> tuple[_Recording | None, str]:
        n = self._seen.get(key, 0)
        self._seen[key] = n + 1
        if self.mode == "record":
            return None, f"{key}.{n}"
        for i in (n, *range(n - 1, -1, -1)):
            data = await self.docs.get("recording", f"{key}.{i}")
            if data is not None:
                return msgspec.convert(data, _Recording), f"{key}.{n}"
        return None, f"{key}.{n}"

    async def keep(self, id: str, reply: Reply, seconds: float) -> None:
        recording = _Recording(reply=msgspec.structs.replace(reply, raw=None), seconds=seconds)
        await self.docs.put("recording", id, msgspec.to_builtins(recording))

    def advance(self, seconds: float) -> None:
        self._clock += seconds


class _Recorded(Wrapper):
    def __init__(self, inner: Model, recorder: Recorder) -> None:
        super().__init__(inner)
        self._recorder = recorder

    async def invoke(self, request: ModelRequest, ctx: Context) -> Reply:
        recorder = self._recorder
        key = hashlib.sha256(f"{self.name}\0{digest(request)}".encode()).hexdigest()
        recording, id = await recorder.find(key)
        if recording is not None:
            recorder.replayed += 1
            recorder.advance(recording.seconds)
            reply = recording.reply
            if reply.message.reasoning:
                ctx.emit(ReasoningDelta(text=reply.message.reasoning))
            if reply.message.text:
                ctx.emit(TextDelta(text=reply.message.text))
            return reply
        if recorder.mode == "only":
            raise ModelError(
                f'no recording of this request to "{self.name}"',
                code="model.not_recorded",
                hint="record it with %mastra replay record, or use %mastra replay auto",
            )
        started = time.perf_counter()
        reply = await self.inner.invoke(request, ctx)
        seconds = round(time.perf_counter() - started, 3)
        recorder.called += 1
        recorder.advance(seconds)
        await recorder.keep(id, reply, seconds)
        return reply
