"""What sees a turn on its way in and out: memory, guardrails, transforms."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from mastra_nb.context import Context
from mastra_nb.errors import ConfigError, close_matches
from mastra_nb.events import DELTAS, Payload, ReasoningDelta, TextDelta
from mastra_nb.messages import Message, Part, Reasoning, Text, ToolCall, ToolResult
from mastra_nb.models import Model, ModelRequest, ModelSettings, Reply, Wrapper
from mastra_nb.schema import to_json
from mastra_nb.tools import ToolLike, toolset


class Turn:
    """One exchange: what came before it, and what it adds, each with its seq in the run's log.
    `thread` is the conversation it belongs to, if any.

    `results` are those of the tool calls that are being made, as far as they are known.

    A processor may change `instructions` and `history` before the first model call. `drafts`
    are messages of the turn that no later turn needs to know (answers that were asked for again).
    """

    def __init__(self, instructions: str, thread: str = "") -> None:
        self.instructions = instructions
        self.thread = thread
        self.history: list[Message] = []
        self.new: list[tuple[int, Message]] = []
        self.results: list[ToolResult] = []
        self.drafts: set[int] = set()

    def add(self, recorded: tuple[int, Message], *, draft: bool = False) -> None:
        self.new.append(recorded)
        if draft:
            self.drafts.add(recorded[0])

    @property
    def kept(self) -> list[tuple[int, Message]]:
        return [(seq, m) for seq, m in self.new if seq not in self.drafts]

    def messages(self) -> tuple[Message, ...]:
        return (*self.history, *(m for _, m in self.new))


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
            if name == "tools" and not isinstance(value, Mapping):
                value = toolset(value)
            setattr(self, name, value)
        if active is not None:
            self.tools = chosen(self.tools, active)


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

    A run that is resumed runs the stages of its turns again, except those after a model call that
    has finished: what must not happen twice belongs into `ctx.call` or `ctx.value`.
    """

    async def process_input(self, turn: Turn, ctx: Context) -> None:
        """Once, before the first model call."""

    async def process_input_step(self, step: Step, turn: Turn, ctx: Context) -> None:
        """Before each model call."""

    def process_output_stream(self) -> TextFilter | None:
        """A new filter for one text of an answer (what it says, or what it thinks)."""
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
            step.change(**(await made(self._prepare(step, turn, ctx)) or {}))

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
    streamed, recorded, kept and returned is what they let through. What a filter still holds
    back when an answer breaks off is dropped.
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
        if self._stream:
            flow = _Flow(self._stream)
            with ctx.through(flow):
                reply = await self.inner.invoke(request, ctx)
            ctx.spent(reply.usage)
            reply = msgspec.structs.replace(reply, message=self._filter(reply.message))
            flow.rest(reply.message, ctx)
        else:
            reply = await self.inner.invoke(request, ctx)
            ctx.spent(reply.usage)
        for processor in self._output:
            reply = await processor.process_output_step(reply, self._turn, ctx)
        return reply

    def _filter(self, message: Message) -> Message:
        """From the message and not from the deltas: a model need not have sent any."""
        parts: list[Part] = [*message.parts]
        for kind in (Text, Reasoning):
            chain = _Chain(self._stream)
            places = [i for i, p in enumerate(parts) if isinstance(p, kind)]
            for i in places:
                part = parts[i]
                assert isinstance(part, Text | Reasoning)
                text = chain.feed(part.text) + (chain.close() if i == places[-1] else "")
                if text != part.text:
                    # A signature does not fit another text.
                    parts[i] = msgspec.structs.replace(part, text=text, extra=None)
        kept = tuple(p for p in parts if not (isinstance(p, Text | Reasoning) and not p.text))
        return msgspec.structs.replace(message, parts=kept)


class _Chain:
    """The filters of one text, one after the other."""

    def __init__(self, processors: Sequence[Processor]) -> None:
        made = [p.process_output_stream() for p in processors]
        self._filters = [f for f in made if f is not None]

    def feed(self, text: str) -> str:
        for each in self._filters:
            text = each.feed(text)
        return text

    def close(self) -> str:
        text = ""
        for each in self._filters:
            text = each.feed(text) + each.close()
        return text


class _Flow:
    def __init__(self, processors: Sequence[Processor]) -> None:
        self.fed = False
        self._text, self._reasoning = _Chain(processors), _Chain(processors)
        self._said: list[str] = []
        self._thought: list[str] = []

    def __call__(self, ctx: Context, data: Payload, /) -> int:
        if isinstance(data, DELTAS):
            self.fed = True
        if isinstance(data, TextDelta | ReasoningDelta):
            said = isinstance(data, TextDelta)
            text = (self._text if said else self._reasoning).feed(data.text)
            if not text:
                return ctx.run.seq
            (self._said if said else self._thought).append(text)
            data = msgspec.structs.replace(data, text=text)
        return ctx.run.emit(ctx.path, ctx.parent, data)

    def rest(self, message: Message, ctx: Context) -> None:
        """What was held back, for whoever reads along."""
        said, thought = "".join(self._said), "".join(self._thought)
        if thought and (rest := _after(message.reasoning, thought)):
            ctx.emit(ReasoningDelta(text=rest))
        if (said or self.fed) and (rest := _after(message.text, said)):
            ctx.emit(TextDelta(text=rest))


def _after(text: str, start: str) -> str:
    return text[len(start) :] if text.startswith(start) else ""
