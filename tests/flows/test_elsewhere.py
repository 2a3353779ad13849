"""Items of workflows and documents of an index, worked on by other processes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mastra_nb import Context, Document, Index, Mastra, Workflow, plugins, step
from mastra_nb.errors import ConfigError, StepError, WorkerDied
from mastra_nb.executor import Executor
from mastra_nb.testing import FakeEmbedder
from tests import work


@pytest.fixture
async def executor() -> AsyncIterator[Executor]:
    made: Executor = plugins.executors.load("local")(2, None)
    yield made
    await made.close()


async def test_foreach_runs_its_items_in_other_processes(executor: Executor) -> None:
    flow = Workflow(name="squares").foreach(work.pid, concurrency=4, executor=executor).commit()
    pids = await flow.run([1, 2, 3, 4])
    assert os.getpid() not in pids and 1 <= len({*pids}) <= 2


@pytest.mark.parametrize(
    ("fn", "given", "out"),
    [(work.halve, [1, 2], [0.5, 1.0]), (work.later, [1, 2], [2, 3])],
    ids=["step", "coroutine"],
)
async def test_steps_and_coroutines_travel(
    executor: Executor, fn: object, given: list[int], out: list[float]
) -> None:
    flow = Workflow(name="flow").foreach(fn, concurrency=2, executor=executor).commit()
    assert await flow.run(given) == out


async def test_a_named_executor_belongs_to_the_app() -> None:
    flow = Workflow(name="flow").foreach(work.double, executor="local").commit()
    async with Mastra(workflows=[flow], storage="memory://") as app:
        assert await flow.run([1, 2]) == [2, 4]
        (made,) = app.services._executors.values()
    with pytest.raises(ConfigError, match="closed"):
        made.submit(work.double, 1)


async def test_a_killed_worker_repeats_its_item_alone(executor: Executor, tmp_path: Path) -> None:
    (tmp_path / "kill").touch()
    flow = (
        Workflow(name="flow").foreach(work.die_or_note, concurrency=2, executor=executor).commit()
    )
    async with Mastra(workflows=[flow], storage=f"sqlite:///{tmp_path}/m.db"):
        names = [str(n) for n in range(12)]
        assert await flow.run([{"folder": str(tmp_path), "name": n} for n in names]) == names
    begun = {n: (tmp_path / n).read_text().count("begun") for n in names}
    assert begun == {n: 2 if n == "5" else 1 for n in names}


async def test_what_kills_every_worker_fails(executor: Executor) -> None:
    flow = Workflow(name="flow").foreach(work.die, executor=executor).commit()
    with pytest.raises(WorkerDied):
        await flow.run([1])


async def test_a_step_that_takes_too_long_is_stopped(executor: Executor, tmp_path: Path) -> None:
    slow = step(work.sleep, timeout=0.5)
    flow = Workflow(name="flow").foreach(slow, executor=executor).commit()
    await asyncio.wrap_future(executor.submit(work.pid))
    with pytest.raises(StepError, match="did not end within"):
        await flow.run([60.0])
    assert await asyncio.wrap_future(executor.submit(work.double, 3)) == 6


async def test_errors_of_items_are_those_of_steps(executor: Executor) -> None:
    flow = Workflow(name="flow").foreach(work.fail, concurrency=2, executor=executor).commit()
    with pytest.raises(ValueError, match="this one"):
        await flow.run(["this one"])


def test_what_needs_its_context_stays_here() -> None:
    def with_context(n: int, ctx: Context) -> int:
        return n

    with pytest.raises(ConfigError) as raised:
        Workflow(name="flow").foreach(with_context, executor="local")
    assert "no Context" in raised.value.hint
    inner = Workflow(name="inner").then(work.double).commit()
    with pytest.raises(ConfigError):
        Workflow(name="flow").foreach(inner, executor="local")


async def test_documents_are_read_and_cut_elsewhere(executor: Executor, tmp_path: Path) -> None:
    for n in range(8):
        (tmp_path / f"{n}.md").write_text(f"# Page {n}\n\n" + f"Words of page {n}. " * 100)
    (tmp_path / "bad.json").write_text("{")
    both = []
    for where in (None, executor):
        index = Index("docs", embedder=FakeEmbedder(16), store="memory://")
        report = await index.ingest(tmp_path, Document("one more", source="own"), executor=where)
        assert report.added >= 9
        found = await index.documents()
        both.append((report.added, report.chunks, report.failed, [d.source for d in found]))
        again = await index.ingest(tmp_path, executor=where)
        assert again.added == 0 and again.unchanged >= 8
    assert both[0] == both[1], "the same, in the same order"
