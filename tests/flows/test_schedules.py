"""Schedules in real processes on one file: each fire once, ends by signals, what a crash leaves."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mastra_nb.storage import RunRow
from mastra_nb.stores.sqlite import open_store
from tests.flows.processes import check, processes

# Fires every second; each run says its key and works as long as it is told.
KEEPER = """
from mastra_nb.agents import Agent
from mastra_nb.app import Mastra
from mastra_nb.testing import ScriptedModel

seconds, overlap = name.split()

def answer(request):
    say("fired")
    return "done"

app = Mastra(storage=url)
model = ScriptedModel(answer, repeat=True, delay=float(seconds))
agent = Agent(name="tick", model=model)
app.schedule(agent, cron="* * * * * *", input="go", catch_up="all", overlap=overlap)

async def main():
    say("ready")
    await app.run_schedules()
    await app.close()
    say("closed")

asyncio.run(main())
"""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals")


@pytest.fixture
def start(tmp_path: Path) -> Any:
    with processes() as begin:

        def keeper(how: str) -> Any:
            process = begin(KEEPER, tmp_path / "s.db", how)
            assert process.stdout.readline() == "ready\n"
            return process

        yield keeper


async def rows(path: Path) -> list[RunRow]:
    store = open_store(f"sqlite:///{path}/s.db")
    found = await store.find_runs(name="tick")
    await store.close()
    return found[::-1]


async def until(path: Path, enough: Callable[[list[RunRow]], bool]) -> list[RunRow]:
    end = time.monotonic() + 30
    while not enough(found := await rows(path)):
        assert time.monotonic() < end, found
        time.sleep(0.1)
    return found


def follow(found: list[RunRow]) -> bool:
    """Each second has one."""
    keys = sorted((row.key or "").removeprefix("schedule:tick:") for row in found)
    times = [datetime.fromisoformat(key) for key in keys]
    return times == [times[0] + timedelta(seconds=n) for n in range(len(times))]


async def test_two_processes_start_each_fire_once(start: Any, tmp_path: Path) -> None:
    """And when one is killed the other goes on."""
    one, two = start("0 allow"), start("0 allow")
    await until(tmp_path, lambda found: len(found) >= 3)
    one.kill()
    one.wait()
    before = len(await rows(tmp_path))
    found = await until(tmp_path, lambda found: len(found) >= before + 3)
    two.terminate()
    said = two.communicate()[0].splitlines()
    assert said[-1] == "closed" and two.returncode == 0
    fired = said.count("fired") + one.communicate()[0].splitlines().count("fired")
    found = await rows(tmp_path)
    # One that was killed before it asked its model has said nothing.
    assert len(found) - 1 <= fired <= len(found)
    assert follow(found)
    check(tmp_path / "s.db")


async def test_what_was_missed_while_nobody_was_there_is_caught_up(
    start: Any, tmp_path: Path
) -> None:
    one = start("0 skip")
    await until(tmp_path, lambda found: len(found) >= 1)
    one.kill()
    one.wait()
    time.sleep(2.2)
    two = start("0 skip")
    found = await until(tmp_path, lambda found: len(found) >= 5)
    two.kill()
    assert follow(found)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 1)])
async def test_a_signal_stops_the_loop_and_its_runs(
    start: Any, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    one = start("60 skip")
    assert one.stdout.readline() == "fired\n"
    await until(tmp_path, bool)
    one.send_signal(sent)
    began = time.monotonic()
    rest = one.communicate()[0]
    assert time.monotonic() - began < 10
    assert [row.status for row in await rows(tmp_path)] == ["cancelled"]
    assert ("closed" in rest) is (code == 0)
    assert one.returncode in ((0,) if code == 0 else (1, 130, -signal.SIGINT))
