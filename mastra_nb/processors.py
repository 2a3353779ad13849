"""What sees a turn on its way in and out: memory, guardrails, transforms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from mastra_nb.context import Context
from mastra_nb.messages import Message, ToolResult
from mastra_nb.models import Model, ModelSettings, Reply
from mastra_nb.tools import ToolLike


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
    this call only. `tools` are those the model is told of, `output` is the JSON schema of the
    answer.
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
        self.model = model
        self.messages = messages
        self.tools = tools
        self.tool_choice = tool_choice
        self.settings = settings
        self.output = output


class TextFilter(Protocol):
    """Changes one text while it streams. The sum of what `feed` and `close` return must not
    depend on how the text was cut into pieces; to hold text back, return less than was fed.
    """

    def feed(self, text: str) -> str: ...

    def close(self) -> str: ...


class Processor:
    """Override what you need; the names are Mastra's.

    Every stage may change what it is given, or raise `Blocked(reason)`, which ends the turn with
    that error, or in `process_output_step` `Blocked(reason, retry=True)`, which asks the model
    again and tells it the reason. Any other exception ends the turn too: a guardrail that is
    broken lets nothing through.
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

    async def after(self, turn: Turn, ctx: Context) -> None:
        """Once the turn is over, also if it failed or was stopped."""
