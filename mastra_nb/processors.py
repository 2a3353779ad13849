"""What sees a turn on its way in and out: memory, guardrails, transforms."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from mastra_nb.context import Context
from mastra_nb.errors import ConfigError, close_matches
from mastra_nb.events import DELTAS, ArgsDelta, Payload, ReasoningDelta, TextDelta
from mastra_nb.messages import Message, Part, Reasoning, Text, ToolCall, ToolResult
from mastra_nb.models import Model, ModelRequest, ModelSettings, Reply, Wrapper, spent_by
from mastra_nb.schema import to_json
from mastra_nb.tools import ToolLike, toolset


class Turn:
    """One exchange: what came before it, and what it adds, each with its seq in the run's log.
    `thread` is the conversation it belongs to, if any, and `resource` whom that belongs to.

    `results` are those of the tool calls that are being made, as far as they are known.

    A processor may change `instructions`, `history` and `prompt` in `process_input`; the prompt is
    recorded, remembered and sent as it then is. An agent that takes a conversation over has no
    prompt: it finds what was said in `new`. `drafts` are messages of the turn that no later turn
    needs to know (answers that were asked for again).
    """

    def __init__(
        self,
        instructions: str,
        thread: str = "",
        prompt: Iterable[Message] = (),
        *,
        resource: str = "",
        model: Model | None = None,
    ) -> None:
        self.instructions = instructions
        self.thread = thread
        self.resource = resource
        self.model = model
        self.prompt = [*prompt]
        # What the input stages have seen.
        self.screened: list[Message] = []
        self.history: list[Message] = []
        self.new: list[tuple[int, Message]] = []
        self.results: list[ToolResult] = []
        self.drafts: set[int] = set()

    def add(self, recorded: tuple[int, Message], *, draft: bool = False) -> None:
        self.new.append(recorded)
        if draft:
            self.drafts.add(recorded[0])

    def said(self) -> list[Message]:
        """What users and tools say in the prompt, or in the conversation that is taken over."""
        return [m for m in (*(m for _, m in self.new), *self.prompt) if m.role in _SPOKEN]

    def reword(self, change: Callable[[Message], Message]) -> None:
        """Change each message of `said`; a conversation that is taken over keeps its record."""
        self.new = [(seq, change(m) if m.role in _SPOKEN else m) for seq, m in self.new]
        self.prompt = [change(m) if m.role in _SPOKEN else m for m in self.prompt]

    @property
    def kept(self) -> list[tuple[int, Message]]:
        return [(seq, m) for seq, m in self.new if seq not in self.drafts]

    def messages(self) -> tuple[Message, ...]:
        return (*self.history, *(m for _, m in self.new))


_SPOKEN = ("user", "tool")


class Step:
    """One model call of a turn before it is sent; a processor may change every field but `index`.

    `messages` start with the instructions, if there are any; what is changed in them counts for
    this call only. `tools` are those the model is told of and may call, `output` is the JSON
    schema of the answer. `model` may be set to a name.
    """

    __slots__ = ("index", "messages", "model", "output", "settings", "tool_choice", "tools")

    def __init__(
        self,
        *,
        index: int,
        model: Model,
        messages: list[Message],
        tools: Mapping[str, ToolLike],
        tool_choice: str,
        settings: ModelSettings,
        output: dict[str, Any] | None,
    ) -> None:
        self.index = index
        self.model: Model | str = model
        self.messages = messages
        self.tools = tools
        self.tool_choice = tool_choice
        self.settings = settings
        self.output = output

    def change(self, **changes: Any) -> None:
        """Raises ConfigError for a field that a step does not have. `active_tools` names those of
        the tools that are left.
        """
        active = changes.pop("active_tools", None)
        for name, value in changes.items():
            if name == "index" or name not in self.__slots__:
                raise ConfigError(
                    f'a step has no "{name}" to change',
                    hint="there are: active_tools, " + ", ".join(self.__slots__[1:]),
                )
            setattr(self, name, self._checked(name, value))
        if active is not None:
            self.tools = chosen(self.tools, active)

    def _checked(self, name: str, value: Any) -> Any:
        if name == "tools" and not isinstance(value, Mapping):
            return toolset(value)
        try:
            if name == "messages":
                return [msgspec.convert(m, Message) for m in value]
            if name == "settings" and isinstance(value, Mapping):
                both = {**msgspec.to_builtins(self.settings), **value}
                return msgspec.convert(both, ModelSettings)
        except (msgspec.ValidationError, TypeError) as error:
            raise ConfigError(
                f'"{name}" of a step: {error}', hint="messages=[user(…)], settings={…}"
            ) from None
        return value


def chosen(tools: Mapping[str, ToolLike], names: Iterable[str]) -> dict[str, ToolLike]:
    """Those of the tools that are named. Raises ConfigError for a name that is none."""
    wanted = [*names]
    for name in wanted:
        if name not in tools:
            raise ConfigError(f'there is no tool "{name}"', hint=close_matches(name, tools))
    return {name: tool for name, tool in tools.items() if name in wanted}


class TextFilter(Protocol):
    """Changes one text while it streams. The sum of what `feed` and `close` return must not
    depend on how the text was cut into pieces; to hold text back, return less than was fed.
    """

    def feed(self, text: str) -> str: ...

    def close(self) -> str: ...


class Processor:
    """Override what you need; the names are Mastra's.

    Every stage may change what it is given, or raise `Blocked(reason)`, which ends the turn with
    that error, or in `process_output_stream` and `process_output_step`
    `Blocked(reason, retry=True)`, which asks the model again and tells it the reason. Any other
    exception ends the turn too: a guardrail that is broken lets nothing through.

    An answer that the output stage did not let through leaves nothing but what a stream filter
    has shown of it before, and its price: also if it was interrupted meanwhile.

    A run that is resumed runs the stages of its turns again, except those after a model call that
    has finished: what must not happen twice belongs into `ctx.call` or `ctx.value`.
    """

    def at_rest(self, text: str) -> str:
        """What is kept of a prompt in the run's own input, which is stored before anything runs
        and is what the run is taken up with in another process. Called without a run, often.
        """
        return text

    async def process_input(self, turn: Turn, ctx: Context) -> None:
        """Once, before the prompt is recorded and the model called."""

    async def process_input_step(self, step: Step, turn: Turn, ctx: Context) -> None:
        """Before each model call."""

    def process_output_stream(self, turn: Turn) -> TextFilter | None:
        """A new filter for one text of an answer (what it says, or what it thinks). Where there
        is one, arguments of tool calls are not shown before the whole answer was let through.
        """
        return None

    async def process_output_step(self, reply: Reply, turn: Turn, ctx: Context) -> Reply:
        """After each model call, before anything of it is kept and before its tools run."""
        return reply

    async def before_tool_call(
        self, call: ToolCall, turn: Turn, ctx: Context
    ) -> ToolCall | ToolResult | None:
        """The call with other arguments, or a result: then the tool is not called."""

    async def after_tool_call(
        self, call: ToolCall, result: ToolResult, turn: Turn, ctx: Context
    ) -> ToolResult | None:
        """Another result, for the conversation; the tool's own stays in its span."""

    async def after(self, turn: Turn, ctx: Context) -> None:
        """Once the turn is over, also if it failed or was stopped."""


class Hooks(Processor):
    """A processor made of functions; each may be plain or a coroutine function.

    `prepare_step(step, turn, ctx)` may change the step, or give a dict of changes;
    `before_tool_call(call, ctx)` may give other arguments (a dict), a ToolCall or a ToolResult;
    `after_tool_call(call, result, ctx)` may give a ToolResult, or another output.
    """

    def __init__(
        self,
        *,
        prepare_step: Callable[..., Any] | None = None,
        before_tool_call: Callable[..., Any] | None = None,
        after_tool_call: Callable[..., Any] | None = None,
    ) -> None:
        self._prepare = prepare_step
        self._before = before_tool_call
        self._after = after_tool_call

    async def process_input_step(self, step: Step, turn: Turn, ctx: Context) -> None:
        if self._prepare is not None:
            changes = await made(self._prepare(step, turn, ctx))
            if changes is not None and not isinstance(changes, Mapping):
                raise ConfigError(
                    f"prepare_step gave {type(changes).__name__}",
                    hint='give None, or a dict of changes: {"active_tools": []}',
                )
            step.change(**(changes or {}))

    async def before_tool_call(
        self, call: ToolCall, turn: Turn, ctx: Context
    ) -> ToolCall | ToolResult | None:
        if self._before is None:
            return None
        found = await made(self._before(call, ctx))
        if isinstance(found, dict):
            return msgspec.structs.replace(call, args=msgspec.json.encode(found).decode())
        if found is None or isinstance(found, ToolCall | ToolResult):
            return found
        raise ConfigError(
            f"before_tool_call gave {type(found).__name__}",
            hint="give None, other arguments as a dict, or a ToolResult",
        )

    async def after_tool_call(
        self, call: ToolCall, result: ToolResult, turn: Turn, ctx: Context
    ) -> ToolResult | None:
        if self._after is None:
            return None
        found = await made(self._after(call, result, ctx))
        if found is None or isinstance(found, ToolResult):
            return found
        return msgspec.structs.replace(result, output=to_json(found))


async def made(value: Any) -> Any:
    return await value if isinstance(value, Awaitable) else value


def with_stage(processors: Sequence[Processor], stage: str) -> tuple[Processor, ...]:
    """Those that have a stage of their own."""
    default = getattr(Processor, stage)
    return tuple(p for p in processors if getattr(type(p), stage, default) is not default)


class Filtered(Wrapper):
    """A model with the stream and output stages of processors behind it, inside its call: what is
    streamed, recorded, kept and returned is what they let through. What a filter holds back comes
    with the verdict of the output stages; if the answer breaks off it is dropped.
    """

    def __init__(
        self,
        inner: Model,
        turn: Turn,
        *,
        stream: Sequence[Processor] = (),
        output: Sequence[Processor] = (),
    ) -> None:
        super().__init__(inner)
        self._turn = turn
        self._stream = stream
        self._output = output

    async def invoke(self, request: ModelRequest, ctx: Context) -> Reply:
        flow = _Flow(self._chain) if self._chain() else None
        if flow is None:
            reply = await self.inner.invoke(request, ctx)
        else:
            reply = await self._through(flow, request, ctx)
        ctx.spent(reply.usage)
        ctx.withheld = True
        message = reply.message
        if flow is not None:
            reply = msgspec.structs.replace(reply, message=self._filter(message))
        for processor in self._output:
            reply = await processor.process_output_step(reply, self._turn, ctx)
        ctx.withheld = False
        if reply.message != message:
            # The provider's own words are not those that were let through.
            reply = msgspec.structs.replace(reply, raw=None)
        if flow is not None:
            flow.rest(reply.message, ctx)
        return reply

    async def _through(self, flow: _Flow, request: ModelRequest, ctx: Context) -> Reply:
        with ctx.through(flow):
            return await counted(self.inner, request, ctx)

    def _chain(self) -> _Chain:
        return _Chain([p.process_output_stream(self._turn) for p in self._stream])

    def _filter(self, message: Message) -> Message:
        """From the message and not from the deltas: a model need not have sent any."""
        parts: list[Part | None] = [*message.parts]
        for kind in (Text, Reasoning):
            chain = self._chain()
            # One without text stands for something that a provider wants back.
            places = [i for i, p in enumerate(parts) if isinstance(p, kind) and p.text]
            for i in places:
                part = parts[i]
                assert isinstance(part, Text | Reasoning)
                text = chain.feed(part.text) + (chain.close() if i == places[-1] else "")
                if text != part.text:
                    # A signature does not fit another text.
                    parts[i] = (
                        msgspec.structs.replace(part, text=text, extra=None) if text else None
                    )
        return msgspec.structs.replace(message, parts=tuple(p for p in parts if p is not None))


async def counted(model: Model, request: ModelRequest, ctx: Context) -> Reply:
    """The model's reply behind a flow: nobody else knows how much was said if it breaks off."""
    try:
        return await model.invoke(request, ctx)
    except BaseException as error:
        if (usage := spent_by(error, request, ctx)) is not None:
            ctx.spent(usage)
        raise


class _Chain:
    """The filters of one text, one after the other; false if there are none."""

    def __init__(self, filters: Iterable[TextFilter | None]) -> None:
        self._filters = [f for f in filters if f is not None]

    def __bool__(self) -> bool:
        return bool(self._filters)

    def feed(self, text: str) -> str:
        for each in self._filters:
            text = each.feed(text)
        return text

    def close(self) -> str:
        text = ""
        for each in self._filters:
            text = each.feed(text) + each.close()
        return text


class Silence:
    """A flow that shows nothing of an answer; `heard` is what the model said."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def __call__(self, ctx: Context, data: Payload, /) -> int:
        if not isinstance(data, DELTAS):
            return ctx.run.emit(ctx.path, ctx.parent, data)
        self.heard.append(data.text)
        return ctx.run.seq


class _Flow(Silence):
    def __init__(self, chain: Callable[[], _Chain]) -> None:
        super().__init__()
        self._text, self._reasoning = chain(), chain()
        self._said: list[str] = []
        self._thought: list[str] = []

    def __call__(self, ctx: Context, data: Payload, /) -> int:
        seq = super().__call__(ctx, data)
        if not isinstance(data, TextDelta | ReasoningDelta):
            return seq
        said = isinstance(data, TextDelta)
        text = (self._text if said else self._reasoning).feed(data.text)
        if not text:
            return seq
        (self._said if said else self._thought).append(text)
        return ctx.run.emit(ctx.path, ctx.parent, msgspec.structs.replace(data, text=text))

    def rest(self, message: Message, ctx: Context) -> None:
        """What was held back, for whoever reads along."""
        if not self.heard:
            return
        if rest := _after(message.reasoning, "".join(self._thought)):
            ctx.emit(ReasoningDelta(text=rest))
        if rest := _after(message.text, "".join(self._said)):
            ctx.emit(TextDelta(text=rest))
        for call in message.tool_calls:
            ctx.emit(ArgsDelta(id=call.id, name=call.name, text=call.args))


def _after(text: str, start: str) -> str:
    return text[len(start) :] if text.startswith(start) else ""
