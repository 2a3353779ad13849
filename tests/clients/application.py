"""What the public clients talk to: agents and workflows of each kind; their models play a part."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable
from typing import Any

from mastra_nb import Agent, Context, Mastra, Memory, Tool, Workflow, tool
from mastra_nb.memory.options import ObservationalMemory
from mastra_nb.messages import Message, Reasoning, Text, ToolCall
from mastra_nb.models import ModelRequest
from mastra_nb.testing import ScriptedModel, calls

_ids = itertools.count(1)
Line = str | Message | tuple[str, dict[str, Any]] | Callable[[ModelRequest], Any]


def plays(*lines: Line, delay: float = 0.0) -> ScriptedModel:
    """A model whose n-th line answers its n-th call in a turn, in every turn again."""

    def line(request: ModelRequest) -> Any:
        last = max(n for n, m in enumerate(request.messages) if m.role == "user")
        said = sum(m.role == "assistant" for m in request.messages[last + 1 :])
        found = lines[min(said, len(lines) - 1)]
        if callable(found):
            found = found(request)
        if isinstance(found, tuple):
            name, args = found
            return calls(name, id=f"call_{next(_ids)}", **args)
        return found

    return ScriptedModel(line, repeat=True, piece=4, delay=delay)


def recalls(request: ModelRequest) -> str:
    asked = [m.text for m in request.messages if m.role == "user"]
    return f"You said {len(asked)} things, the first was: {asked[0]}"


def two_calls(request: ModelRequest) -> list[ToolCall]:
    return [calls(n, id=f"call_{next(_ids)}") for n in ("browserTime", "browserPlace")]


def told(request: ModelRequest) -> str:
    return "Told: " + "; ".join(
        str(p.output)
        for m in request.messages
        for p in m.parts
        if m.role == "tool" and hasattr(p, "output")
    )


@tool(name="weatherTool")
def weather(city: str) -> dict[str, Any]:
    """The weather in a city."""
    return {"city": city, "degrees": 21}


@tool(needs_approval=True)
def pay(amount: int) -> dict[str, int]:
    """Pay an amount."""
    return {"paid": amount}


@tool
def book(table: int, ctx: Context) -> str:
    """Book a table, once somebody has said for when."""
    schema = {
        "type": "object",
        "properties": {"time": {"type": "string"}},
        "required": ["time"],
    }
    answer = ctx.suspend({"ask": f"When is table {table} needed?"}, schema=schema)
    return f"table {table} at {answer['time']}"


@tool
def broken() -> str:
    """Always fails."""
    raise ValueError("the pipe is cold")


def noting() -> Memory:
    """Every turn but the last is notes."""
    said = '{"notes": [{"n": 1, "text": "User likes tea.", "priority": "high"}]}'
    model = ScriptedModel(said, repeat=True)
    options = ObservationalMemory(model, message_tokens=1, keep_last=1)
    return Memory(observational_memory=options)


def agents() -> list[Agent[Any]]:
    thought = Message(
        role="assistant", parts=(Reasoning(text="Twice two is"), Text(text="It is four."))
    )
    plain = Agent(name="plain", model=plays("Hello there, how are you?"), description="Greets.")
    memory = Memory(working_memory=True)
    return [
        Agent(
            name="weather-agent",
            description="Knows the weather.",
            instructions="You are helpful.",
            model=plays(("weatherTool", {"city": "Oslo"}), "It is 21 degrees in Oslo."),
            tools=[weather],
            memory=memory,
        ),
        plain,
        Agent(
            name="boss", model=plays(("plain", {"prompt": "hi"}), "He said hello."), tools=[plain]
        ),
        Agent(
            name="approver",
            model=plays(("pay", {"amount": 3}), told),
            tools=[pay],
            memory=True,
        ),
        Agent(name="asker", model=plays(("book", {"table": 7}), told), tools=[book], memory=True),
        Agent(name="caller", model=plays(("browserTime", {"zone": "UTC"}), told), memory=True),
        Agent(name="caller-of-two", model=plays(two_calls, told)),
        Agent(
            name="caller-in-a-row",
            model=plays(("browserTime", {}), ("browserPlace", {}), told),
        ),
        Agent(name="structured", model=plays('{"city": "Oslo", "degrees": 21}')),
        Agent(name="thinker", model=plays(thought)),
        Agent(name="rememberer", model=plays(recalls), memory=memory),
        Agent(name="noting", model=plays("Noted."), memory=noting()),
        Agent(name="unlucky", model=plays(("broken", {}), "It did not work."), tools=[broken]),
        Agent(name="slow", model=plays("one two three four five six", delay=0.1), memory=True),
        Agent(name="failing", model=ScriptedModel()),
    ]


async def double(n: int) -> int:
    """Twice as much."""
    return n * 2


async def inc(n: int) -> int:
    return n + 1


async def human(n: int, ctx: Context) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    answer = ctx.suspend({"question": f"Is {n} good?"}, schema=schema)
    return {"n": n, "ok": answer["ok"]}


async def boom(n: int) -> int:
    raise ValueError("the boiler is cold")


async def halve(n: int) -> int:
    return n // 2


async def long(n: int) -> int:
    await asyncio.sleep(30)
    return n


async def approve_item(n: int, ctx: Context) -> int:
    answer = ctx.suspend({"item": n})
    return n * int(answer["times"])


def workflows() -> list[Workflow[Any]]:
    math = Workflow(name="math-wf", input=int, description="math").then(double).then(inc)
    talk = plays("Nice to meet you.")
    return [
        math,
        Workflow(name="hitl-wf", input=int).then(double).then(human),
        Workflow(name="fail-wf", input=int).then(double).then(boom),
        Workflow(name="loop-wf", input=list[int]).foreach(double, concurrency=2),
        Workflow(name="nest-wf", input=int).then(math).then(halve),
        Workflow(name="agent-wf", input=str).then(Agent(name="talker", model=talk)),
        Workflow(name="branch-wf", input=int).branch(
            [(lambda n: n > 9, halve), (lambda n: n <= 9, double)]
        ),
        Workflow(name="parallel-wf", input=int).parallel([double, inc]),
        Workflow(name="sleep-wf", input=int).then(double).sleep(0.05).then(inc),
        Workflow(name="until-wf", input=int).do_until(double, lambda n: n > 20),
        Workflow(name="long-wf", input=int).then(double).then(long),
        Workflow(name="items-wf", input=list[int]).foreach(approve_item),
    ]


def make(storage: str = "memory://") -> Mastra:
    tools: list[Tool] = [weather, pay, book, broken]
    return Mastra(agents=agents(), tools=tools, workflows=workflows(), storage=storage)


app = make(os.environ.get("MASTRA_CLIENTS_STORAGE", "memory://"))
