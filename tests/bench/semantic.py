"""Row P6sem: a message appended and indexed, and the best 5 of 10,000 recalled. Prints JSON.

    python -m tests.bench.semantic ours|floor p6sem

`ours` is Memory with semantic recall over SQLite, its embedder a stub of 384 dimensions: 10,000
messages of one resource in 50 threads, recalled over all of them by vector and by words. The floor
is one table of the standard library's SQLite, a commit a message, beside an array of NumPy: no
words, no threads, nobody to keep apart. Times are in milliseconds a call, of CPU; `_wall` beside
them. `first` is the first recall of a process that has just opened the file.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mastra_nb.embedders import EmbedReply, Kind
from tests.bench.threads import Clock

MESSAGES = 10_000
THREADS = 50
APPENDS = 500
RECALLS = 300
TOP = 5
DIMENSION = 384
WORDS = 20  # of a message, drawn as words of a language are: few often, most seldom
VOCABULARY = 20_000


def texts(count: int, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    drawn = np.minimum(random.zipf(1.3, (count, WORDS)), VOCABULARY)
    return [" ".join(f"w{no}" for no in row) for row in drawn]


class Stub:
    """A vector for each text, at no cost: the next of those made before."""

    name = "stub/random"
    dimensions: int | None = DIMENSION

    def __init__(self) -> None:
        made = np.random.default_rng(7).standard_normal((1024, DIMENSION), np.float32)
        self._rows = [row.tobytes() for row in made]
        self._pool = np.random.default_rng(8).standard_normal((64, DIMENSION), np.float32)
        self._next = 0

    async def embed(self, texts: Sequence[str], *, kind: Kind = "passage") -> EmbedReply:
        self._next += len(texts)
        return EmbedReply(rows=tuple([self.row(self._next + i) for i in range(len(texts))]))

    def row(self, no: int) -> bytes:
        a, b = np.frombuffer(self._rows[no % 1024], np.float32), self._pool[no // 1024 % 64]
        made: bytes = (a + b).astype("<f4").tobytes()
        return made


def size(folder: str) -> float:
    """Megabytes of the files."""
    return sum(os.path.getsize(path) for path in Path(folder).iterdir()) / 1e6


async def ours(folder: str, clock: Clock) -> None:
    from mastra_nb.app import open_store
    from mastra_nb.events import Event, MessageAdded
    from mastra_nb.memory.memory import Memory
    from mastra_nb.messages import user
    from mastra_nb.services import Services
    from mastra_nb.storage import RunRow

    def memory() -> Memory:
        made = Memory(semantic_recall=True, embedder=Stub())
        made.bind(Services(store=open_store(f"sqlite:///{folder}/ours.db")))
        return made

    said = texts(MESSAGES + APPENDS, 1)
    events = []
    for no, text in enumerate(said):
        data = MessageAdded(message=user(text))
        seq = no // THREADS + 1
        event = Event(run=f"r{no % THREADS}", seq=seq, span="root", at=float(no + 1), data=data)
        events.append((no % THREADS, event))
    first = memory()
    store = first.store
    for no in range(THREADS):
        row = RunRow(id=f"r{no}", name="bench", kind="agent", thread=f"t{no}")
        await store.create(row, owner="me")
        await store.claim_thread(f"t{no}", "ada")
    for no in range(THREADS):
        old = [event for thread, event in events[:MESSAGES] if thread == no]
        await store.append(f"r{no}", 1, old, thread=f"t{no}")
    start = time.process_time(), time.perf_counter()
    assert await first.index(resource="ada") == MESSAGES
    clock("fill", MESSAGES, *start)
    clock.figures["disk"] = size(folder)
    await first.recall("w7", resource="ada")
    await store.close()

    again = memory()
    store = again.store
    start = time.process_time(), time.perf_counter()
    await again.recall("w7", resource="ada", top_k=TOP)
    clock("first", 1, *start)
    (index,) = await store.vectors.list_indexes()
    start = time.process_time(), time.perf_counter()
    while "not been measured" in (await store.vectors.stats(index)).why:
        await asyncio.sleep(0.02)
    clock("calibrated", 1, *start)
    start = time.process_time(), time.perf_counter()
    for thread, event in events[MESSAGES:]:
        await store.append(event.run, 1, [event], thread=f"t{thread}")
        await again.index(resource="ada", thread=f"t{thread}")
    clock("append", APPENDS, *start)
    asked = texts(RECALLS, 2)
    start = time.process_time(), time.perf_counter()
    for text in asked:
        found = await again.recall(text, resource="ada", top_k=TOP)
    clock("recall", RECALLS, *start)
    assert len(found) == TOP
    stub, one = Stub(), {"resource": "ada"}
    start = time.process_time(), time.perf_counter()
    for no in range(RECALLS):
        near = await store.vectors.query(index, stub.row(no), top_k=TOP, filter=one)
    clock("near", RECALLS, *start)
    assert len(near) == TOP
    start = time.process_time(), time.perf_counter()
    for no, text in enumerate(asked):
        found = await again.recall(text, resource="ada", thread=f"t{no % THREADS}", top_k=TOP)
    clock("thread", RECALLS, *start)
    assert len(found) == TOP
    await store.close()
    clock.figures["closed"] = size(folder)


async def floor(folder: str, clock: Clock) -> None:
    stub = Stub()
    said = texts(MESSAGES + APPENDS, 1)
    db = sqlite3.connect(f"{folder}/floor.db", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("CREATE TABLE message (pos INTEGER PRIMARY KEY, text, vector)")
    insert = "INSERT INTO message VALUES (?, ?, ?)"
    rows = np.empty((MESSAGES + APPENDS, DIMENSION), np.float32)

    def add(pos: int) -> None:
        blob = stub.row(pos)
        db.execute(insert, (pos, said[pos], blob))
        row = np.frombuffer(blob, np.float32)
        rows[pos] = row / np.linalg.norm(row)

    db.execute("BEGIN")
    for pos in range(MESSAGES):
        add(pos)
    db.execute("COMMIT")
    clock.figures["disk"] = size(folder)
    start = time.process_time(), time.perf_counter()
    for pos in range(MESSAGES, MESSAGES + APPENDS):
        add(pos)
    clock("append", APPENDS, *start)
    query = f"SELECT text FROM message WHERE pos IN ({', '.join('?' * TOP)})"
    start = time.process_time(), time.perf_counter()
    for no in range(RECALLS):
        scores = rows @ np.frombuffer(stub.row(no + 99_999), np.float32)
        best = np.argpartition(scores, -TOP)[-TOP:]
        found = db.execute(query, [int(i) for i in best]).fetchall()
    clock("recall", RECALLS, *start)
    clock.figures["near"] = clock.figures["recall"]
    assert len(found) == TOP
    db.close()
    clock.figures["closed"] = size(folder)


WHO: dict[str, Callable[[str, Clock], Coroutine[Any, Any, None]]] = {"ours": ours, "floor": floor}


def main(who: str) -> None:
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(WHO[who](folder, clock))
    print(json.dumps(clock.figures))


if __name__ == "__main__":
    main(sys.argv[1])
