"""Processes that drive generated workflows on one SQLite file and are killed, again and again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase

from mastra_nb.app import Mastra
from mastra_nb.events import Event
from tests.flows.plans_strategies import Plan, World, answer_to, outcome, plans, to_the_end
from tests.flows.processes import check
from tests.flows.programs import check_laws

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")

Job = dict[str, Any]


# In the other process


def serve() -> None:
    """For each job on stdin a child of its own, which finds everything imported; what has become
    of it is said on stdout.
    """
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if not child:
            try:
                asyncio.run(drive(job))
            except BaseException:
                Path(job["failure"]).write_text(traceback.format_exc())
                os._exit(1)
            os._exit(0)
        if job["after"] is not None:
            time.sleep(job["after"])
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


async def drive(job: Job) -> None:
    """Takes the run of a plan up wherever it is, and answers what it waits for, to its end; dies
    with the event of the number `at`.
    """
    trace = os.open(job["trace"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    seen = 0

    def note(path: str, what: str) -> None:
        os.write(trace, f"{what} {path}\n".encode())

    def sink(event: Event) -> None:
        nonlocal seen
        world.see(event)
        seen += 1
        if seen == job["at"]:
            os.kill(os.getpid(), signal.SIGKILL)

    world = World(job["plan"], note)
    app = Mastra(workflows=[world.workflow], storage=job["store"])
    app.services.sinks.append(sink)
    order = random.Random(job["seed"])
    rows = await app.find_runs()
    if not rows:
        run = world.workflow.run(job["plan"]["input"])
    elif rows[0].status == "running":
        (run,) = await app.recover()
    else:
        run = await app.get_run(rows[0].id)
    world.know(run.log.events)
    answered = set(run.view.answers)
    if rows and rows[0].status == "suspended":
        path = order.choice(sorted(run.pending))
        answered.add(path)
        run = run.resume(answer_to(path), path=path)
    run = await to_the_end(run, order, answered)
    assert not world.again, world.again
    check_laws(run)
    Path(job["outcome"]).write_text(json.dumps(outcome(run)))
    await app.close()


# In this one


class Driver:
    """Has plans driven by processes that die; counts how many did."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kills = 0
        code = "from tests.flows.test_workflow_crash import serve; serve()"
        self._server = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )  # fmt: skip

    def close(self) -> None:
        self._server.communicate()

    def drive(self, plan: Plan, seed: int, most: int) -> None:
        """One run to its end, with up to so many kills on the way; it is what it would have been
        without.
        """
        order = random.Random(seed)
        store = self.path / f"{seed}.db"
        job = {
            "plan": plan,
            "store": f"sqlite:///{store}",
            "trace": str(self.path / f"{seed}.trace"),
            "outcome": str(self.path / f"{seed}.outcome"),
            "failure": str(self.path / f"{seed}.failure"),
        }
        killed = 0
        while True:
            at = after = None
            if killed < most:
                if order.random() < 0.7:
                    at = order.randint(1, 25)
                else:
                    after = order.uniform(0.005, 0.06)
            code = self._run({**job, "seed": order.random(), "at": at, "after": after})
            if code == 0:
                break
            assert code == -signal.SIGKILL, Path(job["failure"]).read_text()
            killed += 1
        self.kills += killed
        trace = Path(job["trace"])
        assert not trace.exists() or "again " not in trace.read_text()
        if store.exists():
            check(store)
        expected = asyncio.run(uninterrupted(plan, seed))
        assert json.loads(Path(job["outcome"]).read_text()) == expected

    def _run(self, job: Job) -> int:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())


async def uninterrupted(plan: Plan, seed: int) -> dict[str, Any]:
    run = await to_the_end(World(plan).workflow.run(plan["input"]), random.Random(seed))
    found: dict[str, Any] = json.loads(json.dumps(outcome(run)))
    return found


def plan_of(seed: int) -> Plan:
    """The largest of some."""
    found: list[Plan] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=8, database=None, phases=[Phase.generate], deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @hypothesis.given(plans())
    def collect(plan: Plan) -> None:
        found.append(plan)

    collect()
    return max(found, key=lambda plan: len(json.dumps(plan)))


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    with contextlib.closing(Driver(tmp_path)) as driver:
        yield driver


def test_a_workflow_survives_twenty_kills(driver: Driver) -> None:
    kill(driver, seed=1, kills=20)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 120))
def test_workflows_survive_many_kills(driver: Driver, seed: int) -> None:
    kill(driver, seed=seed * 1000, kills=25)
    print(f"{driver.kills} kills with seed {seed}")


def kill(driver: Driver, *, seed: int, kills: int) -> None:
    while driver.kills < kills:
        driver.drive(plan_of(seed), seed, most=min(5, kills - driver.kills))
        seed += 1
