"""What sees a turn before the model does and after it is over: memory, guardrails, transforms."""

from __future__ import annotations

from mastra_nb.context import Context
from mastra_nb.messages import Message, ToolResult


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


class Processor:
    """Override what you need. `after` is also called for a turn that failed or was stopped."""

    async def before(self, turn: Turn, ctx: Context) -> None:
        return None

    async def after(self, turn: Turn, ctx: Context) -> None:
        return None
