from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from mastra_nb import Agent
from mastra_nb.errors import RunSuspended, Stopped
from mastra_nb.notebook import _errors
from mastra_nb.notebook._live import Result, Terminal, frames, interval, said, show, show_blocking
from mastra_nb.runs import Run
from mastra_nb.testing import ScriptedModel, calls
from mastra_nb.tools import tool
from mastra_nb.workflows import Workflow, step, suspend, workflow


class Recorder:
    def __init__(self) -> None:
        self.texts: list[tuple[str, bool]] = []

    def show(self, run: Run[Any], *, last: bool) -> None:
        self.texts.append((run.text, last))


def talk(text: str = "word " * 40, delay: float = 0.002) -> Run[Any]:
    return Agent(name="a", model=ScriptedModel(text, delay=delay, piece=5)).run("x")


async def test_a_run_is_shown_from_start_to_end() -> None:
    screen = Recorder()
    assert await show(talk(), screen, 50) == "word " * 40
    assert screen.texts[0] == ("", False)
    assert screen.texts[-1] == ("word " * 40, True)
    assert 3 <= len(screen.texts) <= 12
    assert [last for _, last in screen.texts].count(True) == 1


def test_blocking_callers_see_the_same() -> None:
    screen = Recorder()
    assert show_blocking(talk(), screen, 50) == "word " * 40
    assert screen.texts[-1] == ("word " * 40, True)


async def test_a_failure_is_shown_and_raised() -> None:
    screen = Recorder()
    agent = Agent(name="a", model=ScriptedModel(ValueError("no")))
    with pytest.raises(ValueError, match="no"):
        await show(agent.run("x"), screen, 50)
    assert screen.texts[-1][1]


async def test_cancelling_the_cell_stops_the_run_and_leaves_the_task_alive() -> None:
    screen, run = Recorder(), talk("word " * 4000, 0.005)

    async def cell() -> str:
        with pytest.raises(Stopped, match=r"after \d+ tokens"):
            await show(run, screen, 50)
        await asyncio.sleep(0)
        return "alive"

    task = asyncio.create_task(cell())
    await asyncio.sleep(0.1)
    began = time.monotonic()
    task.cancel()
    assert await task == "alive"
    assert time.monotonic() - began < 5
    assert run.view.status == "cancelled"
    assert screen.texts[-1][0].startswith("word word")
    assert said(run) == len(screen.texts[-1][0]) // 5


async def test_longer_texts_are_drawn_less_often() -> None:
    short, long = talk("x"), talk("x" * 100_000, 0)
    await short
    await long
    assert interval(short, 20) == 0.05
    assert interval(long, 20) == pytest.approx(1.2, 1e-3)


async def test_runs_of_many_calls_are_drawn_less_often() -> None:
    run = talk("x")
    await run
    root = run.view.spans[run.view.root]
    run.view.spans |= {f"{root.path}/{i}": root for i in range(10_000)}
    assert interval(run, 20) == pytest.approx(0.2, 1e-2)


async def test_a_reader_that_leaves_stops_the_run() -> None:
    run = talk("word " * 4000, 0.005)
    watching = frames(run, 50)
    await anext(watching)
    await watching.aclose()
    assert run.view.status == "cancelled"


async def test_a_terminal_gets_text_once_and_obeys_nothing() -> None:
    @tool
    def look(x: str) -> str:
        """Look."""
        raise ValueError("bad\x1b[2J")

    said: list[str] = []
    model = ScriptedModel(calls("look", x="a"), "one \x1b[31mtwo\n three", piece=3)
    await show(Agent(name="a", model=model, tools=[look]).run("x"), Terminal(said.append), 1000)
    text = "".join(said)
    assert text.startswith('· look …\n  ! tool "look" failed: ValueError: bad[2J\n')
    assert text.endswith("one [31mtwo\n three\n")
    assert "\x1b" not in text


async def test_a_terminal_has_a_line_for_each_step_and_does_not_repeat_what_was() -> None:
    @step
    def add(x: int) -> int:
        return x + 1

    @workflow
    async def asks(x: int) -> int:
        x = await add(x)
        return await add(x + 10) if await suspend("Go?", schema=bool) else 0

    said: list[str] = []
    run = asks(1)
    with pytest.raises(RunSuspended):
        await show(run, Terminal(said.append), 1000)
    assert "".join(said) == "· add …\n"
    said.clear()
    resumed = run.resume(True)
    assert await show(resumed, Terminal(said.append), 1000) == 13
    assert "".join(said) == "· add …\n"


def test_a_result_that_was_not_streamed_is_told_in_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Workflow(name="w").map(lambda x: [x], id="m").run(1)
    Result(run, run.result(), None)._ipython_display_()
    assert capsys.readouterr().out == "[1]\n"


def test_a_result_is_silent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr("mastra_nb.notebook._live.publish", shown.append)
    run = talk("hi")
    run.result()
    result = Result(run, "hi", lambda r: {"text/plain": r.text})
    result._ipython_display_()
    assert shown == []
    result._ipython_display_()
    assert shown == [{"text/plain": "hi"}]
    assert (str(result), result.text, result.output) == ("hi", "hi", "hi")
    assert repr(result) == '<Result of "a": done>'


async def test_how_errors_look() -> None:
    assert _errors.lines(_errors.stopped(3)) == ["\x1b[1m■ stopped\x1b[0m after 3 tokens"]

    @tool(needs_approval=True)
    def send() -> str:
        """Send."""
        return "x"

    run = Agent(name="a", model=ScriptedModel(calls("send")), tools=[send]).run("x")
    with pytest.raises(RunSuspended) as caught:
        await run
    (line,) = _errors.lines(caught.value)
    assert line.endswith(f'{run.id} · approval of "send" · %resume {run.id} approve')
