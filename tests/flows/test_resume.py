"""Runs that outlive their process: killed anywhere, taken up by another one, by one only."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mastra_nb.app import Mastra
from mastra_nb.errors import Conflict, LeaseHeld, NotResumable, RunSuspended
from mastra_nb.events import SpanEnded, SpanStarted
from mastra_nb.store_contract import raises
from tests.flows.programs import check_history, check_laws, finished, started

# What every process knows: an agent whose calls of the model and of tools each leave a line.
APP = """
import asyncio, os, sys, time
from mastra_nb.agents import Agent
from mastra_nb.app import Mastra
from mastra_nb.errors import LeaseHeld, Conflict, RunSuspended
from mastra_nb.testing import ScriptedModel, calls
from mastra_nb.tools import tool

folder = sys.argv[1]

def trace(line):
    with open(os.path.join(folder, "trace"), "a") as file:
        file.write(line + "\\n")

def say(text):
    os.write(1, (text + "\\n").encode())

@tool
async def look(n: int) -> int:
    trace(f"look {n}")
    await asyncio.sleep(0.002)
    trace(f"looked {n}")
    return n

@tool(needs_approval=True)
async def act(n: int) -> int:
    trace(f"act {n}")
    say("acting")
    await asyncio.sleep(float(os.environ.get("ACT", "0.002")))
    trace(f"acted {n}")
    return n

def line(request):
    step = sum(m.role == "assistant" for m in request.messages)
    trace(f"model {step}")
    script = [
        [calls("look", id="1", n=1), calls("look", id="2", n=2)],
        calls("look", n=3),
        calls("act", n=4),
        calls("look", n=5),
        "All done.",
    ]
    return script[step]

def app():
    agent = Agent(
        name="a", model=ScriptedModel(line, repeat=True), tools=[look, act], memory=True, thread="t"
    )
    return Mastra(agents=[agent], storage=f"sqlite:///{folder}/app.db")
"""

BEGIN = """
async def main():
    run = app().get_agent("a").run("go")
    say(run.id)
    try:
        await run
    except RunSuspended:
        say("waits")
    sys.stdin.read()

asyncio.run(main())
"""

RESUME = """
async def main():
    run = await app().get_run(sys.argv[2])
    say("ready")
    sys.stdin.readline()
    answer = {"approved": True}
    try:
        say("output " + await (run.resume(answer) if run.pending else run.resume()))
    except RunSuspended as error:
        say("output " + await error.run.resume(answer))
    except (LeaseHeld, Conflict) as error:
        say(type(error).__name__)

asyncio.run(main())
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    processes: list[subprocess.Popen[str]] = []

    def start(code: str, *args: str, **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [
                sys.executable,
                "-W",
                "error",
                "-c",
                APP + textwrap.dedent(code),
                str(tmp_path),
                *args,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **env, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str], text: str = "go\n") -> None:
    assert process.stdin is not None
    process.stdin.write(text)
    process.stdin.flush()


def kill(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def traced(folder: Path) -> Counter[str]:
    path = folder / "trace"
    return Counter(path.read_text().splitlines() if path.exists() else [])


def own_app(folder: Path) -> Any:
    space: dict[str, Any] = {"__name__": "app"}
    argv, sys.argv = sys.argv, ["app", str(folder)]
    try:
        exec(APP, space)
        return space["app"]()
    finally:
        sys.argv = argv


ONCE = {
    *(f"model {i}" for i in range(5)),
    *(f"look{ed} {n}" for ed in ("", "ed") for n in (1, 2, 3, 5)),
    *(f"act{ed} 4" for ed in ("", "ed")),
}


def test_killed_while_it_waits_for_an_approval(start: Start, tmp_path: Path) -> None:
    first = start(BEGIN)
    run, said = hear(first), hear(first)
    assert said == "waits"
    kill(first)
    before = traced(tmp_path)
    second = start(RESUME, run)
    assert hear(second) == "ready"
    tell(second)
    assert [hear(second), hear(second)] == ["acting", "output All done."]
    assert before == Counter(
        {k: 1 for k in ONCE if k[-1] in "123" and "model 3" not in k} | {"model 0": 1}
    )
    assert traced(tmp_path) == dict.fromkeys(ONCE, 1)


def test_killed_in_the_middle_of_a_tool(start: Start, tmp_path: Path) -> None:
    first = start(BEGIN)
    run = hear(first)
    assert hear(first) == "waits"
    kill(first)
    second = start(RESUME, run, ACT="60")
    assert hear(second) == "ready"
    tell(second)
    assert hear(second) == "acting"
    kill(second)
    third = start(RESUME, run)
    assert hear(third) == "ready"
    tell(third)
    assert hear(third) == "acting"
    assert hear(third) == "output All done."
    # What was in flight runs again, the approval holds for it; nothing else does.
    assert traced(tmp_path) == {**dict.fromkeys(ONCE, 1), "act 4": 2}


def test_of_two_that_resume_one_wins(start: Start, tmp_path: Path) -> None:
    first = start(BEGIN)
    run = hear(first)
    assert hear(first) == "waits"
    kill(first)
    rivals = [start(RESUME, run, ACT="1") for _ in range(3)]
    for rival in rivals:
        assert hear(rival) == "ready"
    for rival in rivals:
        tell(rival)
    said = sorted(hear(rival) for rival in rivals)
    assert said == ["LeaseHeld", "LeaseHeld", "acting"]
    winner = [r for r in rivals if r.poll() is None and hear(r) == "output All done."]
    assert len(winner) == 1
    assert traced(tmp_path) == dict.fromkeys(ONCE, 1)


def test_a_killed_winner_is_replaced_by_one(start: Start, tmp_path: Path) -> None:
    """The lease of a dead process is taken at once, but not twice."""
    first = start(BEGIN)
    run = hear(first)
    assert hear(first) == "waits"
    second = start(RESUME, run, ACT="60")
    assert hear(second) == "ready"
    tell(second)
    assert hear(second) == "acting"
    kill(second)
    rivals = [start(RESUME, run, ACT="1") for _ in range(3)]
    for rival in rivals:
        assert hear(rival) == "ready"
    for rival in rivals:
        tell(rival)
    said = sorted(hear(rival) for rival in rivals)
    assert said == ["LeaseHeld", "LeaseHeld", "acting"]
    assert traced(tmp_path)["act 4"] == 2


@pytest.mark.parametrize("seed", range(8))
def test_killed_anywhere(start: Start, tmp_path: Path, seed: int) -> None:
    """Process after process is killed at a random moment, until one finishes."""
    rng = random.Random(seed)
    first = start(BEGIN)
    run = hear(first)
    kill_later(first, rng)
    second = start(RESUME, run)
    if hear(second) == "ready":
        tell(second)
        kill_later(second, rng)

    async def rest() -> None:
        app = own_app(tmp_path)
        try:
            handle = await app.get_run(run)
        except Exception:
            # It was killed before anything of it was stored.
            assert not traced(tmp_path)
            return
        for _ in range(4):
            past = len(handle.log.events)
            before = finished(handle.log.events)
            resumed = handle.resume({"approved": True}) if handle.pending else handle.resume()
            try:
                assert await resumed == "All done."
                check_laws(resumed)
                assert not [p for p in started(resumed.log.events[past:]) if p in before]
                break
            except RunSuspended:
                handle = await app.get_run(run)
        assert (await app.get_run(run)).status == "done"
        history = await app.get_agent("a").history("t")
        check_history(history)
        assert [m.role for m in history] == ["user", *["assistant", "tool"] * 4, "assistant"]
        counts = traced(tmp_path)
        assert set(counts) == ONCE
        # What was in flight at a kill runs again, that is two calls of two lines at most.
        assert sum(counts.values()) <= len(ONCE) + 2 * 4
        await app.close()

    asyncio.run(rest())


def kill_later(process: subprocess.Popen[str], rng: random.Random) -> None:
    try:
        process.wait(rng.random() * 0.05)
    except subprocess.TimeoutExpired:
        kill(process)


async def test_a_run_that_lives_elsewhere_can_be_read_but_not_driven(
    start: Start, tmp_path: Path
) -> None:
    first = start(BEGIN)
    run = await asyncio.to_thread(hear, first)
    assert await asyncio.to_thread(hear, first) == "waits"
    second = start(RESUME, run, ACT="60")
    assert await asyncio.to_thread(hear, second) == "ready"
    tell(second)
    assert await asyncio.to_thread(hear, second) == "acting"
    app = own_app(tmp_path)
    handle = await app.get_run(run)
    with pytest.raises(NotResumable, match="cut off, or runs elsewhere"):
        await handle
    error = await raises(LeaseHeld, asyncio.ensure_future(_resume(handle)))
    assert "is held by" in error.message
    kill(second)
    handle = await app.get_run(run)
    assert await handle.resume() == "All done."
    kinds = {type(e.data) for e in handle.log.events}
    assert {SpanStarted, SpanEnded} <= kinds
    await app.close()


async def _resume(run: Any) -> Any:
    return await run.resume()


async def test_a_handle_that_is_out_of_date_says_so(tmp_path: Path) -> None:
    app: Mastra = own_app(tmp_path)
    run = app.get_agent("a").run("go")
    with pytest.raises(RunSuspended):
        await run
    stale, fresh = await app.get_run(run.id), await app.get_run(run.id)
    assert await fresh.resume({"approved": True}) == "All done."
    with pytest.raises(Conflict, match="went on elsewhere since it was loaded"):
        await stale.resume({"approved": True})
    assert await (await app.get_run(run.id)) == "All done."
    with pytest.raises(Conflict, match="already answered otherwise"):
        (await app.get_run(run.id)).resume({"approved": False})
    rows = json.dumps([r.status for r in await app.find_runs()])
    assert rows == '["done"]'
    await app.close()
