"""Two processes and one run of a workflow: one goes on with it, the other is told."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mastra_nb.app import Mastra
from mastra_nb.context import Context
from mastra_nb.errors import RunSuspended
from mastra_nb.workflows import Workflow, step
from tests.flows.processes import check, processes
from tests.flows.programs import check_laws

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGSTOP")

Start = Callable[[str, Path, str], "subprocess.Popen[str]"]


@step
async def fetch(value: int) -> int:
    return value + 1


@step
async def slow(value: int) -> int:
    if os.environ.get("STAYS"):
        os.write(1, b"in slow\n")
        await asyncio.sleep(float(os.environ["STAYS"]))
    return value * 2


@step
async def left(value: int, ctx: Context) -> Any:
    return ctx.suspend("left?", schema={"type": "integer"})


@step
async def right(value: int, ctx: Context) -> Any:
    return ctx.suspend("right?", schema={"type": "integer"})


def app_on(path: Path | str) -> Mastra:
    url = path if isinstance(path, str) else f"sqlite:///{path}"
    asks = Workflow[Any](name="asks").then(fetch).parallel([left, right])
    works = Workflow[Any](name="works").then(fetch).then(slow)
    late = Workflow[Any](name="late").then(left).then(slow)
    return Mastra(workflows=[asks, works, late], storage=url)


@pytest.fixture
def start() -> Iterator[Start]:
    with processes() as start:
        yield start


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


RESUMER = """
import json
from mastra_nb.errors import MastraError, RunSuspended
from tests.flows.test_workflow_races import app_on

async def main():
    app = app_on(url)
    id, answer, path = json.loads(name)
    run = await app.get_run(id)
    say("ready")
    hear()
    try:
        run = run.resume(answer, path=path) if path else run.resume()
        await run
    except RunSuspended:
        say("waits")
    except MastraError as error:
        say(type(error).__name__)
    else:
        say("done")
    await app.close()

asyncio.run(main())
"""

WORKER = """
from mastra_nb.errors import MastraError
from tests.flows.test_workflow_races import app_on

async def main():
    app = app_on(url)
    run = app.get_workflow("works").run(1)
    try:
        await run
    except MastraError as error:
        say(type(error).__name__ + " " + run.status)
    else:
        say("done")

asyncio.run(main())
"""


async def waiting_run(path: Path) -> str:
    app = app_on(path)
    run = app.get_workflow("asks").run(1)
    with pytest.raises(RunSuspended):
        await run
    await app.close()
    return run.id


async def raced(start: Start, path: Path, jobs: list[Any]) -> list[str]:
    racers = [start(RESUMER, path, json.dumps(job)) for job in jobs]
    for racer in racers:
        assert said(racer) == "ready"
    for racer in racers:
        tell(racer)
    return [said(racer) for racer in racers]


async def test_one_of_two_answers_to_one_question_counts(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    id = await waiting_run(path)
    found = await raced(start, path, [[id, 1, "left"], [id, 2, "left"]])
    assert max(found) == "waits"
    assert min(found) in ("Conflict", "LeaseHeld")
    app = app_on(path)
    run = await app.get_run(id)
    assert run.view.answers == {"asks/left": found.index("waits") + 1}
    assert [*run.pending] == ["asks/right"]
    check_laws(run)
    await app.close()
    check(path)


async def test_answers_of_two_processes_to_two_questions_both_count(
    start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "s.db"
    id = await waiting_run(path)
    assert await raced(start, path, [[id, 1, "left"]]) == ["waits"]
    assert await raced(start, path, [[id, 2, "right"]]) == ["done"]
    app = app_on(path)
    run = await app.get_run(id)
    assert run.output == {"left": 1, "right": 2}
    await app.close()


async def test_one_of_two_takes_up_a_run_that_was_cut_off(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.db"
    monkeypatch.setenv("STAYS", "60")
    worker = start(WORKER, path, "w")
    assert said(worker) == "in slow"
    worker.kill()
    worker.wait()
    monkeypatch.setenv("STAYS", "")
    app = app_on(path)
    (row,) = await app.find_runs(status="running")
    found = await raced(start, path, [[row.id, None, ""]] * 2)
    assert max(found) == "done"
    assert min(found) in ("Conflict", "LeaseHeld")
    run = await app.get_run(row.id)
    assert run.output == 4
    check_laws(run)
    await app.close()


async def test_a_process_that_lost_its_lease_writes_nothing_more(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.db"
    monkeypatch.setenv("STAYS", "1")
    worker = start(WORKER, path, "w")
    assert said(worker) == "in slow"
    worker.send_signal(signal.SIGSTOP)
    monkeypatch.setenv("STAYS", "")
    app = app_on(path)
    (row,) = await app.find_runs(status="running")
    assert await app.recover() == []
    assert app.store is not None
    await app.store.renew(row.id, row.fence, lease=0.05)
    await asyncio.sleep(0.1)
    (run,) = await app.recover()
    assert await run == 4
    kept = await app.store.read_events(row.id)
    worker.send_signal(signal.SIGCONT)
    assert said(worker) == "LeaseHeld failed"
    worker.wait()
    assert await app.store.read_events(row.id) == kept
    await app.close()
    check(path)


async def test_a_run_that_goes_on_and_is_killed_can_be_recovered(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.db"
    app = app_on(path)
    run = app.get_workflow("late").run(1)
    with pytest.raises(RunSuspended):
        await run
    monkeypatch.setenv("STAYS", "60")
    resumer = start(RESUMER, path, json.dumps([run.id, 5, "left"]))
    assert said(resumer) == "ready"
    tell(resumer)
    assert said(resumer) == "in slow"
    resumer.kill()
    resumer.wait()
    monkeypatch.setenv("STAYS", "")
    (again,) = await app.recover()
    assert await again == 10
    await app.close()
