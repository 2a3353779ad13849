"""Conversations that are remembered: threads over the messages of runs."""

from __future__ import annotations

from collections.abc import Sequence

from mastra_nb.context import Context
from mastra_nb.errors import ConfigError
from mastra_nb.messages import Message
from mastra_nb.processors import Processor, Turn
from mastra_nb.storage import Store


class Memory(Processor):
    """Puts the last messages of the run's thread before the turn and the turn into the thread.

    `last_messages` counts messages; the cut never separates a tool call from its result.
    """

    def __init__(self, *, last_messages: int = 40) -> None:
        if last_messages < 1:
            raise ConfigError(f"last_messages is {last_messages}", hint="it must be 1 or more")
        self.last_messages = last_messages

    def __repr__(self) -> str:
        return f"Memory(last_messages={self.last_messages})"

    async def process_input(self, turn: Turn, ctx: Context) -> None:
        store = ctx.services.store
        if store is None or not turn.thread:
            return
        # The thread may have grown when this run is resumed: its own start stays where it was.
        upto = await ctx.value("memory", lambda: _end(store, turn.thread))
        if upto:
            found = await store.read_messages(turn.thread, last=self.last_messages, upto=upto)
            history = whole([m.message for m in found])
            if not history:
                # One long turn fills the window: all of it is better than nothing.
                found = await store.read_messages(turn.thread, upto=upto)
                starts = [i for i, m in enumerate(found) if m.message.role == "user"]
                history = [m.message for m in found[starts[-1] :]] if starts else []
            turn.history = [*history, *turn.history]

    async def after(self, turn: Turn, ctx: Context) -> None:
        store = ctx.services.store
        kept = turn.kept
        if store is None or not turn.thread or not any(m.role == "assistant" for _, m in kept):
            return
        await ctx.run.commit()
        await store.link(turn.thread, ctx.run.id, [seq for seq, _ in kept])


async def _end(store: Store, thread: str) -> int:
    found = await store.read_messages(thread, last=1)
    return found[0].pos if found else 0


def whole(messages: Sequence[Message]) -> list[Message]:
    """The tail of a conversation that starts with a user's message, so that no tool result
    comes without its call.
    """
    for i, message in enumerate(messages):
        if message.role == "user":
            return list(messages[i:])
    return []
