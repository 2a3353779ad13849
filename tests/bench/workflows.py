"""Rows P5: ten steps in a row, and a foreach of 100 items. Prints figures as JSON.

    python -m tests.bench.workflows WHO p5|p5db|p5each|p5each.db|p5many

`ours` runs a workflow of async steps, its run set up and ended included; `sync` one of plain
functions, which run in threads; `four` works on four items at once. What is durable is in SQLite
with `synchronous=normal`, as the peers run; `full` waits for the disk where a run comes to rest.
`floor` is a bare loop of awaits; of what is durable it inserts a row for each and commits it. Times
are in microseconds a step or an item; of `p5many` memory is the peak of 10,000 items above that
of 100, in bytes an item.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Any

from tests.bench.memory import peak_rss

STEPS = 10
ITEMS = 100
MANY = 10_000


async def inc(n: int) -> int:
    return n + 1


def inc_sync(n: int) -> int:
    return n + 1


async def timed(once: Callable[[], Awaitable[Any]], rounds: int, each: int) -> dict[str, float]:
    for _ in range(max(3, rounds // 10)):
        await once()
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(rounds):
        await once()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu": cpu / rounds / each * 1e6, "wall": wall / rounds / each * 1e6}


def application(row: str, who: str, folder: str) -> Any:
    from mastra_nb import Mastra

    if who in ("durable", "full") or row.endswith("db"):
        mode = "full" if who == "full" else "normal"
        return Mastra(storage=f"sqlite:///{folder}/ours.db?synchronous={mode}")
    return Mastra()


async def ours(row: str, who: str, folder: str) -> dict[str, float]:
    from mastra_nb import Workflow, step

    app, fn = application(row, who, folder), inc_sync if who == "sync" else inc
    if row in ("p5", "p5db"):
        chain: Any = Workflow(name="chain", input=int)
        for i in range(STEPS):
            chain.then(step(fn, id=f"s{i}"))
        app.add(chain)
        assert await chain.run(0) == STEPS
        figures = await timed(lambda: chain.run(0), 300 if row == "p5" else 100, STEPS)
    else:
        width = 4 if who == "four" else 1
        each = app.add(Workflow(name="each").foreach(step(fn, id="x"), concurrency=width))
        items = list(range(ITEMS))
        assert await each.run(items) == [n + 1 for n in items]
        if row == "p5many":
            return {"bytes": await grown(each.run)}
        figures = await timed(lambda: each.run(items), 50 if row == "p5each" else 20, ITEMS)
    await app.close()
    return figures


async def grown(run: Callable[[list[int]], Awaitable[Any]]) -> float:
    """Peak memory of many items above that of a few, in bytes an item."""
    before = peak_rss()
    await run(list(range(MANY)))
    return (peak_rss() - before) * 1e6 / (MANY - ITEMS)


async def floor(row: str, who: str, folder: str) -> dict[str, float]:
    import apsw

    many = ITEMS if "each" in row else STEPS
    db = apsw.Connection(f"{folder}/floor.db")
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL"):
        db.execute(f"PRAGMA {pragma}").fetchall()
    db.execute("CREATE TABLE event (no INTEGER PRIMARY KEY, path TEXT, payload TEXT)")
    insert = "INSERT INTO event (path, payload) VALUES (?, ?)"

    async def bare() -> list[int]:
        out, value = [], 0
        for _ in range(many):
            value = await inc(value)
            out.append(value)
        return out

    async def stored() -> None:
        value = 0
        for i in range(many):
            value = await inc(value)
            db.execute(insert, (f"chain/s{i}", f'{{"status":"ok","output":{value}}}'))

    if row.endswith("db"):
        return await timed(stored, 10_000 // many, many)
    return await timed(bare, 200_000 // many, many)


def main(who: str, row: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = (floor if who == "floor" else ours)(row, who, folder)
        print(json.dumps(asyncio.run(found)))


if __name__ == "__main__":
    main(*sys.argv[1:3])
