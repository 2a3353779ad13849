"""Row P6: append a message durably, read the last 20. Prints figures as JSON.

    python -m tests.bench.threads WHO p6

`ours` appends to a run and its thread in one call; `linked` in two, with a message that another run
holds; `sqlite3` is the floor: the same bytes into one table of the standard library's SQLite, one
commit each. Times are in milliseconds of CPU a call; `wall` beside them.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from typing import Any

APPENDS = 2000
READS = 1000
LAST = 20
TEXT = "The quick brown fox jumps over the lazy dog. " * 5


class Clock:
    def __init__(self) -> None:
        self.figures: dict[str, float] = {}

    def __call__(self, name: str, count: int, cpu: float, wall: float) -> None:
        self.figures[name] = (time.process_time() - cpu) / count * 1000
        self.figures[f"{name}_wall"] = (time.perf_counter() - wall) / count * 1000


async def ours(folder: str, clock: Clock, linked: bool) -> None:
    from mastra_nb.app import open_store
    from mastra_nb.events import Event, MessageAdded
    from mastra_nb.messages import user
    from mastra_nb.storage import RunRow

    def event(seq: int) -> Event:
        data = MessageAdded(message=user(f"{seq} {TEXT}"))
        return Event(run="r", seq=seq, span="root", at=time.time(), data=data)

    store = open_store(f"sqlite:///{folder}/ours.db")
    await store.create(RunRow(id="r", name="bench", kind="agent", thread="t"), owner="me")
    for seq in range(1, 101):
        await store.append("r", 1, [event(seq)], thread="t")
    events = [event(seq) for seq in range(101, 101 + APPENDS)]
    start = time.process_time(), time.perf_counter()
    if linked:
        for item in events:
            await store.append("r", 1, [item])
            await store.link("t", "r", [item.seq])
    else:
        for item in events:
            await store.append("r", 1, [item], thread="t")
    clock("append", APPENDS, *start)
    start = time.process_time(), time.perf_counter()
    for _ in range(READS):
        found = await store.read_messages("t", last=LAST)
    clock("read", READS, *start)
    assert len(found) == LAST
    assert found[-1].message == events[-1].data.message  # type: ignore[union-attr]
    await store.close()


async def floor(folder: str, clock: Clock) -> None:
    from mastra_nb.events import MessageAdded, encode_payload
    from mastra_nb.messages import user

    db = sqlite3.connect(f"{folder}/floor.db", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("CREATE TABLE message (thread, pos, payload, PRIMARY KEY (thread, pos))")
    insert = "INSERT INTO message VALUES ('t', ?, ?)"
    lines = [
        (seq, encode_payload(MessageAdded(message=user(f"{seq} {TEXT}"))).decode())
        for seq in range(101 + APPENDS)
    ]
    db.executemany(insert, lines[:101])
    start = time.process_time(), time.perf_counter()
    for line in lines[101:]:
        db.execute(insert, line)
    clock("append", APPENDS, *start)
    query = "SELECT pos, payload FROM message WHERE thread = 't' ORDER BY pos DESC LIMIT ?"
    start = time.process_time(), time.perf_counter()
    for _ in range(READS):
        found = [json.loads(raw) for _, raw in db.execute(query, (LAST,))]
    clock("read", READS, *start)
    assert len(found) == LAST
    db.close()


WHO: dict[str, Callable[[str, Clock], Coroutine[Any, Any, None]]] = {
    "ours": lambda folder, clock: ours(folder, clock, linked=False),
    "linked": lambda folder, clock: ours(folder, clock, linked=True),
    "sqlite3": floor,
}


def main(who: str) -> None:
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(WHO[who](folder, clock))
    print(json.dumps(clock.figures))


if __name__ == "__main__":
    main(sys.argv[1])
