"""Every journaled feature of the loop: a crash after any event changes nothing that matters."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mastra_nb.agents import Agent
from mastra_nb.context import Context
from mastra_nb.errors import Blocked, RunSuspended
from mastra_nb.messages import Message, ToolCall
from mastra_nb.models import ModelRequest, Profile, Reply
from mastra_nb.processors import Processor, Turn
from mastra_nb.runs import Run
from mastra_nb.testing import ScriptedModel, calls
from mastra_nb.tools import tool
from tests.flows.programs import check_history, check_laws, durable, finished, started


def spoken_by(lines: dict[str, Any], name: str = "scripted/model", **options: Any) -> ScriptedModel:
    """Says what belongs to the last text or result that it was told."""

    def line(request: ModelRequest) -> Any:
        last = request.messages[-1]
        told = last.text or " ".join(str(getattr(p, "output", "")) for p in last.parts)
        return next(said for begins, said in lines.items() if begins in told)

    return ScriptedModel(line, repeat=True, name=name, **options)


class World:
    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()


Scene = Callable[[World], Agent[Any]]


def background(world: World) -> Agent[Any]:
    @tool(background=True)
    async def dig(n: int, ctx: Context) -> int:
        world.ran[ctx.path] += 1
        await asyncio.sleep(0.003 * n)
        if n == 2:
            raise OSError("no shovel")
        return n

    lines = {
        "go": [calls("dig", id="1", n=1), calls("dig", id="2", n=2), calls("dig", id="3", n=3)],
        "started": "Meanwhile.",
        "Task": "All dug.",
    }
    return Agent(name="a", model=spoken_by(lines), tools=[dig])


def asking_background(world: World) -> Agent[Any]:
    @tool(background=True, needs_approval=True)
    async def dig(n: int, ctx: Context) -> int:
        world.ran[ctx.path] += 1
        return n

    lines = {
        "go": [calls("dig", id="1", n=1), calls("dig", id="2", n=2)],
        "started": "Meanwhile.",
        "Task": "All dug.",
    }
    return Agent(name="a", model=spoken_by(lines), tools=[dig])


def handoff(world: World) -> Agent[Any]:
    @tool
    async def look(ctx: Context) -> str:
        world.ran[ctx.path] += 1
        return "seen"

    @tool(needs_approval=True)
    async def act(ctx: Context) -> str:
        world.ran[ctx.path] += 1
        return "acted"

    # What each sees last is what the one before saw.
    third = Agent(
        name="third", model=spoken_by({"seen": calls("act"), "acted": "By third."}), tools=[act]
    )
    second = Agent(
        name="second",
        model=spoken_by({"seen": calls("transfer_to_third")}),
        tools=[look],
        handoffs=[third],
    )
    line = [calls("look", id="1"), calls("transfer_to_second", id="2")]
    return Agent(
        name="a",
        model=spoken_by({"go": line}),
        tools=[look],
        handoffs=[second],
    )


class Twice(Processor):
    async def process_output_step(self, reply: Reply, turn: Turn, ctx: Context) -> Reply:
        if reply.message.text == "bad":
            raise Blocked("bad", retry=True)
        return reply


def blocked(world: World) -> Agent[Any]:
    lines = {"go": "bad", "thrown away": "good"}
    return Agent(name="a", model=spoken_by(lines), processors=[Twice()])


def two_phases(world: World) -> Agent[Any]:
    @tool
    async def look(ctx: Context) -> int:
        world.ran[ctx.path] += 1
        return 41

    lines = {"go": calls("look"), "41": "forty-two", "forty": "no", "not valid": '{"value": 42}'}
    profile = Profile(json_with_tools=False)
    return Agent(name="a", model=spoken_by(lines, profile=profile), tools=[look], output=int)


def dynamic(world: World) -> Agent[Any]:
    @tool
    async def look(ctx: Context) -> str:
        world.ran[ctx.path] += 1
        return str(ctx.request_context["who"])

    def instructions(ctx: Context) -> str:
        world.ran["instructions"] += 1
        return f"You help {ctx.request_context['who']}."

    def before(call: ToolCall, ctx: Context) -> dict[str, Any]:
        return {}

    sub = Agent(
        name="sub", model=spoken_by({"ask": calls("look"), "Ann": "Sub says Ann."}), tools=[look]
    )
    return Agent(
        name="a",
        model=lambda ctx: spoken_by({"go": calls("sub", prompt="ask"), "Sub": "Hello Ann."}),
        tools=lambda ctx: [sub],
        instructions=instructions,
        before_tool_call=lambda call, ctx: None,
    )


SCENES: dict[str, tuple[Scene, Any]] = {
    "background": (background, "All dug."),
    "asking_background": (asking_background, "All dug."),
    "handoff": (handoff, "By third."),
    "blocked": (blocked, "good"),
    "two_phases": (two_phases, 42),
    "dynamic": (dynamic, "Hello Ann."),
}


async def to_the_end(run: Run[Any]) -> Run[Any]:
    for _ in range(10):
        try:
            await run
        except RunSuspended:
            check_laws(run)
            run = run.resume({"approved": True}, path=min(run.pending))
            continue
        check_laws(run)
        return run
    raise AssertionError("it never ends")


@pytest.mark.parametrize("name", SCENES)
async def test_a_crash_at_every_event(name: str) -> None:
    scene, output = SCENES[name]
    world = World()
    agent = scene(world)
    run = await to_the_end(agent.run("go", request_context={"who": "Ann"}, thread="t"))
    assert await run == output
    log = durable(run.log.events)
    for cut in range(len(log) + 1):
        before = finished(log[:cut])
        world.ran.clear()
        given = {} if cut else {"request_context": {"who": "Ann"}}
        again = agent.load(run.id, "go", thread="t", past=log[:cut], **given)
        again = await to_the_end(again.resume())
        assert await again == output
        new = again.log.events[cut:]
        assert not [path for path in started(new) if path in before], cut
        assert not [path for path in world.ran if path in before], cut
        assert again.text == run.text
        assert again.finish_reason == run.finish_reason


async def test_what_a_hand_off_leaves_in_the_thread() -> None:
    agent = handoff(World()).replace(memory=True)
    run = await to_the_end(agent.run("go", thread="h"))
    history = await agent.history("h")
    check_history(history)
    assert history[0].text == "go"
    assert history[-1].text == "By third."
    asked: Any = agent.handoffs[0].handoffs[0].model
    first: tuple[Message, ...] = asked.requests[0].messages
    check_history(first)
    assert "transfer" not in repr(first)
    assert run.view.usage.calls == 4


# Approval and questions, answered in another process

APP = """
import asyncio, os, sys
from mastra_nb.agents import Agent
from mastra_nb.app import Mastra
from mastra_nb.context import Context
from mastra_nb.errors import RunSuspended, SchemaError
from mastra_nb.testing import ScriptedModel, calls
from mastra_nb.tools import tool

@tool
async def ask(ctx: Context) -> str:
    return "async " + str(ctx.suspend({"question": "how many?"}, schema=int) + 1)

@tool
def ask_in_thread(ctx: Context) -> str:
    name = ctx.suspend("who?", schema={"type": "string"})
    return f"thread {name} for {ctx.request_context['who']}"

@tool
async def pay(amount: int) -> str:
    print("paid", amount, flush=True)
    return f"paid {amount}"

def line(request):
    if request.messages[-1].role == "user":
        return [calls("ask", id="1"), calls("ask_in_thread", id="2"),
                calls("pay", id="3", amount=5),
                calls("pay", id="4", amount=500), calls("pay", id="5", amount=700)]
    return "; ".join(p.output for p in request.messages[-1].parts)

agent = Agent(name="a", model=ScriptedModel(line, repeat=True), tools=[ask, ask_in_thread, pay],
              require_tool_approval=lambda name, args: args.get("amount", 0) > 100)
app = Mastra(agents=[agent], storage=f"sqlite:///{sys.argv[1]}/app.db")
"""

FIRST = """
async def main():
    run = agent.run("go", request_context={"who": "Ann"})
    try:
        await run
    except RunSuspended:
        print(run.id, *run.pending, flush=True)

asyncio.run(main())
os._exit(0)
"""

THEN = """
async def main():
    run = await app.get_run(sys.argv[2])
    for path, answer in eval(sys.argv[3]):
        try:
            print(await run.resume(answer, path=path))
        except RunSuspended as error:
            run = error.run
        except SchemaError as error:
            print("SchemaError", error.message)

asyncio.run(main())
"""


def process(code: str, *args: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", APP + textwrap.dedent(code), *args],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_several_answers_from_other_processes(tmp_path: Path) -> None:
    folder = str(tmp_path)
    paid, waits = process(FIRST, folder)
    run, *paths = waits.split()
    paths.sort()
    assert paid == "paid 5"
    asked = ["ask[0.0]", "ask_in_thread[0.1]", "pay[0.3]", "pay[0.4]"]
    assert paths == [f"a/{p}" for p in asked]
    one, two, three, four = paths
    said = process(THEN, folder, run, repr([(one, "many"), (three, {"approved": True})]))
    assert said[0].startswith("SchemaError the answer does not fit")
    assert said[1:] == ["paid 500"]
    denied = {"approved": False, "reason": "too much"}
    assert process(THEN, folder, run, repr([(two, "Bo"), (four, denied)])) == []
    (answer,) = process(THEN, folder, run, repr([(one, 41)]))
    assert answer == (
        'async 42; thread Bo for Ann; paid 5; paid 500; the user denied the call of "pay": too much'
    )
