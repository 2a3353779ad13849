"""Agents whose model follows a program that is written in its prompt, and what must hold for
every run of one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from hypothesis import strategies as st

from mastra_nb.agents import Agent
from mastra_nb.context import Context
from mastra_nb.errors import ToolRetry
from mastra_nb.events import (
    Event,
    MessageAdded,
    SpanEnded,
    SpanStarted,
    Suspended,
    decode,
    encode,
    fold,
)
from mastra_nb.filters import changed
from mastra_nb.limits import Limits
from mastra_nb.messages import Message, Reasoning, Text, ToolCall, ToolResult
from mastra_nb.models import ModelRequest, ModelSettings, Reply
from mastra_nb.processors import Processor, Step, Turn
from mastra_nb.runs import Run
from mastra_nb.testing import ScriptedModel
from mastra_nb.tools import Tool

# A program is a list of steps; a step is {"say", "think", "calls": [[tool, arguments], ...]}.
Program = list[dict[str, Any]]

TOOLS = ("good", "slow", "threaded", "bad", "again", "ask", "form", "count", "nothing")
ARGS = ('{"n": 1}', '{"n": 2}', '{"n": "x"}', "{", "[]", '{"n": 1, "m": 2}', "")


def programs(depth: int = 2) -> st.SearchStrategy[Program]:
    simple = st.tuples(st.sampled_from(TOOLS), st.sampled_from(ARGS))
    call = simple
    if depth:
        nested = programs(depth - 1).map(lambda p: ("sub", json.dumps({"prompt": json.dumps(p)})))
        call = st.one_of(simple, simple, simple, nested)
    words = st.sampled_from(["", "Hm.", "Let me see what there is", "ähm ☕"])
    step = st.fixed_dictionaries(
        {"say": words, "think": words, "calls": st.lists(call, min_size=1, max_size=3)}
    )
    last = st.fixed_dictionaries({"say": words.filter(bool), "think": words, "calls": st.just([])})
    return st.tuples(st.lists(step, max_size=3), last).map(lambda p: [*p[0], p[1]])


def follow(request: ModelRequest) -> Message:
    """The next step of the program in the last prompt."""
    messages = request.messages
    start = max(i for i, m in enumerate(messages) if m.role == "user")
    program = json.loads(messages[start].text)
    n = sum(m.role == "assistant" for m in messages[start:])
    step = program[n]
    parts: list[Any] = [Reasoning(text=step["think"])] if step["think"] else []
    if step["say"]:
        parts.append(Text(text=step["say"]))
    parts += [
        ToolCall(id=f"c{n}.{i}", name=name, args=args)
        for i, (name, args) in enumerate(step["calls"])
    ]
    return Message(role="assistant", parts=tuple(parts))


class Shout:
    """Holds the last letter back."""

    held = ""

    def feed(self, text: str) -> str:
        text = self.held + text.upper()
        self.held = text[-1:]
        return text[:-1]

    def close(self) -> str:
        return self.held


class Guard(Processor):
    """Every stage, changing what it sees in a way that can be seen."""

    async def process_input_step(self, step: Step, turn: Turn, ctx: Context) -> None:
        step.settings = ModelSettings(seed=step.index)

    async def process_input(self, turn: Turn, ctx: Context) -> None:
        turn.reword(lambda m: changed(m, lambda text: f"{text} "))

    def process_output_stream(self, turn: Turn) -> Shout:
        return Shout()

    async def process_output_step(self, reply: Reply, turn: Turn, ctx: Context) -> Reply:
        assert reply.message.text == reply.message.text.upper()
        return reply

    async def after_tool_call(
        self, call: ToolCall, result: ToolResult, turn: Turn, ctx: Context
    ) -> ToolResult:
        return msgspec.structs.replace(result, output=[result.output])


class World:
    """The tools' side of it: which calls were really made."""

    def __init__(
        self, *, memory: bool = False, limits: Limits | None = None, guarded: bool = False
    ) -> None:
        guards = [Guard()] if guarded else []
        self.ran: list[str] = []
        self.limits = limits
        self.model = ScriptedModel(follow, repeat=True, piece=3)
        tools = [Tool(getattr(self, name), needs_approval=name == "ask") for name in TOOLS[:-1]]
        self.sub = Agent(name="sub", model=self.model, tools=[*tools], processors=guards)
        self.sub = self.sub.replace(tools=[*tools, self.sub])
        self.agent = Agent(
            name="top",
            model=self.model,
            tools=[*tools, self.sub],
            memory=memory,
            limits=limits,
            processors=guards,
        )

    async def good(self, n: int, ctx: Context) -> int:
        self.ran.append(ctx.path)
        return n

    async def slow(self, n: int, ctx: Context) -> list[int]:
        self.ran.append(ctx.path)
        await asyncio.sleep(0.001 * n)
        ctx.note("progress", n)
        return [n]

    def threaded(self, n: int, ctx: Context) -> dict[str, int]:
        self.ran.append(ctx.path)
        return {"type": n}

    async def bad(self, n: int, ctx: Context) -> None:
        self.ran.append(ctx.path)
        raise ValueError(n)

    async def again(self, n: int, ctx: Context) -> None:
        self.ran.append(ctx.path)
        raise ToolRetry("not so")

    async def ask(self, n: int, ctx: Context) -> int:
        self.ran.append(ctx.path)
        return n

    async def form(self, n: int, ctx: Context) -> Any:
        first = ctx.suspend("first", schema={"type": "integer"})
        second = ctx.suspend("second", schema={"type": "integer"}) if n == 2 else 0
        self.ran.append(ctx.path)
        return first + second

    async def count(self, n: int, ctx: Context) -> int:
        self.ran.append(ctx.path)
        ctx.state["count"] = ctx.state.get("count", 0) + n
        return n


def answer(waits: Suspended) -> Any:
    if waits.reason != "approval":
        return 7
    return {"approved": waits.payload["args"]["n"] == 1, "reason": "two is too much"}


def durable(events: Iterable[Event]) -> list[Event]:
    return [e for e in events if e.durable]


def check_laws(run: Run[Any]) -> None:
    """What holds for every run that rests."""
    events = run.log.events
    seq = n = 0
    for event in events:
        if event.durable:
            seq, n = seq + 1, 0
        else:
            n += 1
        assert event.cursor == (seq, n)
        assert decode(encode(event)) == event
    assert fold(events) == fold(durable(events))
    assert run.status in ("suspended", "done", "failed", "cancelled")
    assert run.status == fold(events).status
    if run.status != "suspended":
        assert not run.pending
    still_open: dict[str, int] = {}
    waits: dict[str, tuple[str, int]] = {}
    for event in events:
        if isinstance(event.data, SpanStarted):
            still_open[event.span] = event.seq
        elif isinstance(event.data, SpanEnded):
            assert still_open.pop(event.span, None), f"{event.span} ended twice or never began"
        elif isinstance(event.data, Suspended):
            waits[event.data.path] = event.span, event.seq
    # What waited before this drive may wait still, and is not called anew.
    pending = fold(events).pending
    for path, started in still_open.items():
        assert any(
            f"{span}/".startswith(f"{path}/") and (seq > started or place in pending)
            for place, (span, seq) in waits.items()
        ), path
    check_history(messages_of(events, "top"))


def messages_of(events: Sequence[Event], agent: str) -> list[Message]:
    """What the agent at this path would tell a model of its turn."""
    view = fold(events)
    own = {agent, *(p for p, s in view.spans.items() if s.parent == agent and s.kind == "model")}
    return [m for path, _, m in view.messages if path in own]


def check_history(messages: Sequence[Message]) -> None:
    """No provider refuses it: calls are answered at once, in order, and only calls are."""
    waits: tuple[str, ...] = ()
    for message in messages:
        results = tuple(p.id for p in message.parts if p.__class__.__name__ == "ToolResult")
        assert results == waits, messages
        waits = tuple(c.id for c in message.tool_calls)
        assert not (message.partial and waits)
    assert not waits or messages[-1].role == "assistant"


def finished(events: Iterable[Event]) -> dict[str, SpanEnded]:
    """Model and tool calls that ended, not those that were stopped."""
    kinds: dict[str, str] = {}
    out: dict[str, SpanEnded] = {}
    for event in events:
        if isinstance(event.data, SpanStarted):
            kinds[event.span] = event.data.kind
            out.pop(event.span, None)
        elif (
            isinstance(event.data, SpanEnded)
            and event.data.status != "cancelled"
            and kinds[event.span] in ("model", "tool")
        ):
            out[event.span] = event.data
    return out


def started(events: Iterable[Event]) -> list[str]:
    return [e.span for e in events if isinstance(e.data, SpanStarted)]


def spoken(events: Iterable[Event]) -> int:
    return sum(isinstance(e.data, MessageAdded) for e in events)
