"""What every client under test is asked to do, and how a process measures itself.

A client is `async (base_url) -> Client`; the same driver runs ours, the raw sockets, aiohttp and
httpx, each in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from tests.bench.memory import peak_rss

CHUNKS = 2_000
PARALLEL = 200
PATIENCE = 4.0  # seconds
Result = dict[str, float | list[float]]


class Client(Protocol):
    async def run(self) -> str:
        """Two model calls around one tool call; returns the answer."""

    async def stream(self) -> tuple[float, int]:
        """Read one streamed answer; returns seconds to its first piece and characters in all."""

    async def close(self) -> None: ...


Connect = Callable[[str], Awaitable[Client]]


class Stopwatch:
    """Collects CPU and wall time per unit, in milliseconds."""

    def __init__(self) -> None:
        self.cpu: list[float] = []
        self.wall: list[float] = []

    def start(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def stop(self, units: int = 1) -> None:
        self.cpu.append((time.process_time() - self._cpu) * 1000 / units)
        self.wall.append((time.perf_counter() - self._wall) * 1000 / units)

    def result(self) -> Result:
        return {"cpu": self.cpu, "wall": self.wall, "rss": peak_rss()}


async def _repeat(watch: Stopwatch, batches: int, work: Callable[[], Awaitable[int]]) -> None:
    """Time `work`, which returns its units; what is very slow is repeated less often."""
    end = time.perf_counter() + PATIENCE
    for done in range(batches):
        if done >= 2 and time.perf_counter() > end:
            return
        watch.start()
        watch.stop(await work())


async def sequential(client: Client) -> Result:
    """P2: runs one after the other, after a warm-up."""

    async def batch() -> int:
        for _ in range(20):
            answer = await client.run()
            assert answer.startswith("It is 21"), answer
        return 20

    watch = Stopwatch()
    await batch()
    await _repeat(watch, 20, batch)
    return watch.result()


async def parallel(client: Client) -> Result:
    """P3: all runs at once. The first batch, which connects, is told apart."""

    async def batch() -> int:
        answers = await asyncio.gather(*(client.run() for _ in range(PARALLEL)))
        assert all(answer.startswith("It is 21") for answer in answers)
        return 1

    watch, cold = Stopwatch(), Stopwatch()
    await client.run()
    await _repeat(cold, 1, batch)
    await _repeat(watch, 6, batch)
    return {**watch.result(), "first_cpu": cold.cpu, "first_wall": cold.wall}


async def streaming(client: Client) -> Result:
    """P4: one long stream, and the time to its first piece."""
    first: list[float] = []

    async def one() -> int:
        seconds, size = await client.stream()
        first.append(seconds * 1000)
        assert size > CHUNKS * 4, size
        return 1

    watch = Stopwatch()
    await one()
    await _repeat(watch, 12, one)
    return {**watch.result(), "first": first[1:]}


ROWS: dict[str, tuple[str, Callable[[Client], Awaitable[Result]]]] = {
    "p2": ("agent", sequential),
    "p3": ("agent,delay=50", parallel),
    "p4": (f"text,chunks={CHUNKS}", streaming),
    # A real model's pace: no two pieces arrive together.
    "p4paced": (f"text,chunks={CHUNKS},gap=1", streaming),
}


def main(connect: Connect, row: str, origin: str) -> None:
    script, measure = ROWS[row]

    async def go() -> Result:
        client = await connect(f"{origin}/{script}/v1")
        try:
            return await measure(client)
        finally:
            await client.close()

    print(json.dumps(asyncio.run(go())))
