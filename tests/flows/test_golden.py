"""Whole event logs of typical runs, as they must stay. Look at the difference, then write anew:

MASTRA_NB_GOLDEN=write python -m pytest tests/flows/test_golden.py
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mastra_nb.agents import Agent
from mastra_nb.context import Context
from mastra_nb.errors import RunSuspended, Stopped
from mastra_nb.events import decode, encode, fold
from mastra_nb.runs import Run
from mastra_nb.testing import ScriptedModel, calls
from mastra_nb.tools import tool
from tests.flows.programs import check_laws

GOLDEN = Path(__file__).parent / "golden"


@tool
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
async def broken(ctx: Context) -> None:
    """Never works."""
    ctx.note("trying")
    raise OSError("no such device")


@tool(needs_approval=True)
async def send(to: str) -> str:
    """Send a message."""
    return f"sent to {to}"


@tool
async def slow(ctx: Context) -> None:
    """Takes for ever."""
    await asyncio.sleep(60)


async def plain() -> Run[Any]:
    run = Agent(name="greeter", model=ScriptedModel("Hello there."), instructions="Greet.").run(
        "Hi"
    )
    await run
    return run


async def tool_call() -> Run[Any]:
    model = ScriptedModel(calls("add", a=1, b=2), "It is 3.")
    run = Agent(name="adder", model=model, tools=[add]).run("1 + 2?")
    await run
    return run


async def parallel() -> Run[Any]:
    line = [calls("add", id="c1", a=1, b=2), calls("broken", id="c2"), calls("nope", id="c3")]
    model = ScriptedModel(line, "One of them worked.")
    run = Agent(name="adder", model=model, tools=[add, broken]).run("Try all")
    await run
    return run


async def approval() -> Run[Any]:
    line = [calls("send", id="c1", to="Ann"), calls("add", id="c2", a=1, b=1)]
    run = Agent(name="sender", model=ScriptedModel(line, "Done."), tools=[send, add]).run("Send")
    with pytest.raises(RunSuspended):
        await run
    resumed = run.resume({"approved": True})
    await resumed
    return resumed


async def structured() -> Run[Any]:
    model = ScriptedModel("Three.", '{"value": 3}')
    run = Agent(name="counter", model=model, output=int).run("How many?")
    assert await run == 3
    return run


async def interrupt() -> Run[Any]:
    model = ScriptedModel([calls("add", id="c1", a=1, b=1), calls("slow", id="c2")])
    run = Agent(name="worker", model=model, tools=[add, slow]).run("Work")
    async for _ in run.events():
        if any(s.name == "add" and s.ended for s in run.view.spans.values()):
            run.cancel()
    with pytest.raises(Stopped):
        await run
    return run


async def sub_agent() -> Run[Any]:
    sub = Agent(
        name="researcher", model=ScriptedModel(calls("add", a=2, b=2), "Four."), tools=[add]
    )
    model = ScriptedModel(calls("researcher", prompt="2 + 2?"), "It says four.")
    run = Agent(name="boss", model=model, tools=[sub]).run("Ask")
    await run
    return run


@pytest.mark.parametrize(
    "scene",
    [plain, tool_call, parallel, approval, structured, interrupt, sub_agent],
    ids=lambda scene: scene.__name__,
)
async def test_logs_stay_as_they_are(scene: Callable[[], Awaitable[Run[Any]]]) -> None:
    run = await scene()
    check_laws(run)
    lines = [
        encode(msgspec.structs.replace(event, run="r", at=float(i))).decode()
        for i, event in enumerate(run.log.events)
    ]
    path = GOLDEN / f"{scene.__name__}.jsonl"
    if os.environ.get("MASTRA_NB_GOLDEN") == "write":
        path.write_text("\n".join(lines) + "\n")
    golden = path.read_text().splitlines()
    assert lines == golden
    assert fold(map(decode, golden)).status == run.status


def test_every_log_has_its_scene() -> None:
    assert len([*GOLDEN.glob("*.jsonl")]) == 7
