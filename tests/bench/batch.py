"""Rows P10: 1,000 tiny items in other processes, and 100 tiny notebooks. Prints figures as JSON.

    python -m tests.bench.batch WHO p10|p10foreach|p10nb

`p10`: `spread` over two workers, `ours` or `dask`; `pool` is the floor, the standard library's
ProcessPoolExecutor. `p10foreach`: the same items as a workflow's `foreach`, kept in SQLite. Times
are in microseconds an item, `cpu` of the driver; `rss` is its peak, `grown` how much of it the
second half of the items has added, in MB.

`p10nb`: `ours` is `run_batch` with one worker, `two` with two; `papermill` is the floor, one after
another in one process. Times are in milliseconds a notebook: `wall`, and `cpu` of the driver.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tests.bench import batch  # a worker does not find what is in `__main__`
from tests.bench.memory import peak_rss

ITEMS = 1000
NOTEBOOKS = 100
WORKERS = 2


def double(n: int) -> int:
    return 2 * n


class Clock:
    """Of `many`, without what it takes to start the workers."""

    def __init__(self, many: int, unit: float) -> None:
        self._many, self._unit = many, unit
        self.figures: dict[str, float] = {}

    def begin(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def half(self) -> None:
        self._half = peak_rss()

    def end(self) -> None:
        cpu, wall = time.process_time() - self._cpu, time.perf_counter() - self._wall
        rss = peak_rss()
        self.figures |= {
            "cpu": cpu / self._many * self._unit, "wall": wall / self._many * self._unit,
            "rss": rss, "grown": rss - self._half,
        }  # fmt: skip


async def items(who: str, clock: Clock) -> None:
    from mastra_nb import plugins
    from mastra_nb.executor import spread

    executor = plugins.executors.load("local" if who == "ours" else who)(WORKERS, None)
    for future in [executor.submit(batch.double, n) for n in range(2 * WORKERS)]:
        await asyncio.wrap_future(future)
    clock.begin()
    done = 0
    async for n, future in spread(executor, batch.double, range(ITEMS)):
        assert future.result() == 2 * n
        done += 1
        if done == ITEMS // 2:
            clock.half()
    clock.end()
    await executor.close()


def pool(clock: Clock) -> None:
    with ProcessPoolExecutor(WORKERS) as executor:
        assert list(executor.map(double, range(2 * WORKERS)))
        clock.begin()
        clock.half()
        for n, given in enumerate(executor.map(double, range(ITEMS))):
            assert given == 2 * n
        clock.end()


async def foreach(folder: str, clock: Clock) -> None:
    from mastra_nb import Mastra, Workflow

    flow = Workflow(name="items").foreach(batch.double, concurrency=2 * WORKERS, executor="local")
    async with Mastra(workflows=[flow.commit()], storage=f"sqlite:///{folder}/ours.db") as app:
        assert await flow.run([*range(10)]) == [*range(0, 20, 2)]
        clock.begin()
        clock.half()
        assert len(await app.get_workflow("items").run([*range(ITEMS)])) == ITEMS
        clock.end()


def notebook(folder: str) -> Path:
    cells = [
        {"cell_type": "code", "id": f"c{i}", "source": source, "outputs": [],
         "execution_count": None, "metadata": {"tags": ["parameters"]} if not i else {}}
        for i, source in enumerate(["n = 1", "from mastra_nb import record\nrecord(twice=2 * n)"])
    ]  # fmt: skip
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = Path(folder) / "n.ipynb"
    whole = {"cells": cells, "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(whole))
    return path


def ours(folder: str, workers: int, clock: Clock) -> None:
    from mastra_nb import run_batch

    path, url = notebook(folder), f"sqlite:///{folder}/ours.db"
    run_batch(path, [{"n": -1}], store=url, name="warm")
    done = 0

    def told(_: Any) -> None:
        nonlocal done
        done += 1
        if done == NOTEBOOKS // 2:
            clock.half()

    rows: Iterator[dict[str, int]] = ({"n": n} for n in range(NOTEBOOKS))
    clock.begin()
    report = run_batch(path, rows, workers=workers, store=url, on_row=told)
    clock.end()
    assert report.exit_code == 0 and report[7].values == {"twice": 14}


def papermill(folder: str, clock: Clock) -> None:
    import papermill as pm

    logging.getLogger("papermill").setLevel(logging.ERROR)
    path = notebook(folder)
    for n in range(-1, NOTEBOOKS):
        if not n:
            clock.begin()
        if n == NOTEBOOKS // 2:
            clock.half()
        pm.execute_notebook(path, f"{folder}/o{n}.ipynb", {"n": n}, progress_bar=False)
    clock.end()


def main() -> None:
    who, row = sys.argv[1:3]
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock(NOTEBOOKS, 1e3) if row == "p10nb" else Clock(ITEMS, 1e6)
        if row == "p10nb" and who == "papermill":
            papermill(folder, clock)
        elif row == "p10nb":
            ours(folder, 2 if who == "two" else 1, clock)
        elif who == "pool":
            pool(clock)
        elif row == "p10foreach":
            asyncio.run(foreach(folder, clock))
        else:
            asyncio.run(items(who, clock))
    print(json.dumps(clock.figures))


if __name__ == "__main__":
    main()
