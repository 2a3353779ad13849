"""The engine against a naive scan in float64."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mastra_nb import neighbors
from mastra_nb.errors import SchemaError
from mastra_nb.neighbors import Neighbors

METRICS = ("cosine", "euclidean", "dotproduct")
DIMENSION = 3

coordinate = st.integers(-3, 3).map(float)
row = st.lists(coordinate, min_size=DIMENSION, max_size=DIMENSION)
numbers = st.integers(0, 30)
step = st.one_of(
    st.tuples(st.just("put"), st.lists(st.tuples(numbers, row), max_size=8)),
    st.tuples(st.just("remove"), st.lists(numbers, max_size=5)),
    st.tuples(
        st.just("search"),
        st.tuples(
            row,
            st.integers(0, 12),
            st.none() | st.lists(numbers, max_size=10),
            st.none() | st.sampled_from([-1.0, 0.0, 0.3, 0.9]),
        ),
    ),
)


def unit(x: Any) -> Any:
    wide = np.asarray(x, np.float64)
    length = np.sqrt((wide * wide).sum())
    return (wide / (length or 1)).astype(np.float32)


def score(metric: str, a: Any, b: Any) -> np.float32:
    if metric == "cosine":
        a, b = unit(a), unit(b)
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if metric == "euclidean":
        return np.float32(1 / (1 + np.sqrt(((a - b) ** 2).sum())))
    return np.float32((a * b).sum())


def naive(
    metric: str, held: dict[int, Any], query: Any, k: int, within: Any, least: float | None
) -> list[tuple[int, float]]:
    found = [(no, score(metric, x, query)) for no, x in held.items()]
    if metric == "cosine":
        found = [(no, np.float32(min(1, max(-1, s)))) for no, s in found]
    if within is not None:
        found = [hit for hit in found if hit[0] in within]
    if least is not None:
        found = [hit for hit in found if hit[1] >= least]
    return [(no, float(s)) for no, s in sorted(found, key=lambda hit: (-hit[1], hit[0]))[:k]]


def answer(engine: Neighbors, query: Any, k: int, **options: Any) -> list[tuple[int, float]]:
    nos, scores = engine.search(np.array(query, np.float32), k, **options)
    assert nos.dtype == np.int64 and scores.dtype == np.float32
    return list(zip(nos.tolist(), scores.tolist(), strict=True))


def test_a_filter_whose_entries_came_in_another_order_finds_them() -> None:
    engine = Neighbors(DIMENSION, "dotproduct", memory_limit=2**30, fetch=lambda nos: nos)
    for nos in ([0, 2, 3], [1]):
        rows = np.array([[0.0, 0.0, float(no == 2)] for no in nos], np.float32)
        engine.put(np.array(nos, np.int64), rows)
    found = answer(engine, [0.0, 0.0, -1.0], 2, within=np.array([0, 1, 3]))
    assert [no for no, _ in found] == [0, 1]


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("metric", METRICS)
@settings(deadline=None, max_examples=60)
@given(steps=st.lists(step, max_size=12), chosen=st.lists(numbers, max_size=10))
def test_any_history_answers_as_a_naive_scan(
    metric: Any, kept: bool, steps: list[Any], chosen: list[int]
) -> None:
    held: dict[int, list[float]] = {}

    def fetch(nos: Any) -> Any:
        return np.array([held[no] for no in nos.tolist()], np.float32).reshape(-1, DIMENSION)

    engine = Neighbors(DIMENSION, metric, memory_limit=2**30 if kept else 0, fetch=fetch)
    selection = engine.select(np.array(chosen, np.int64))
    for what, value in steps:
        if what == "put":
            engine.put(
                np.array([no for no, _ in value], np.int64),
                np.array([x for _, x in value], np.float32).reshape(-1, DIMENSION),
            )
            held.update(value)
        elif what == "remove":
            engine.remove(np.array(value, np.int64))
            for no in value:
                held.pop(no, None)
        else:
            query, k, within, least = value
            some = None if within is None else np.unique(np.array(within, np.int64))
            expected = naive(metric, held, query, k, within, least)
            assert answer(engine, query, k, within=some, min_score=least) == expected
            expected = naive(metric, held, query, k, chosen, least)
            assert answer(engine, query, k, within=selection, min_score=least) == expected
    assert len(engine) == len(held)


def clustered(n: int, d: int = 64, seed: int = 0) -> Any:
    random = np.random.default_rng(seed)
    centers = random.standard_normal((40, d))
    noise = 0.5 * random.standard_normal((n, d))
    return (centers[random.integers(0, 40, n)] + noise).astype(np.float32)


def overlap(engine: Neighbors, queries: Any, **options: Any) -> float:
    shares = []
    for query in queries:
        exact = engine.search(query, 10, exact=True, **options)[1]
        shares.append(np.isin(engine.search(query, 10, **options)[1], exact).mean())
    return float(np.mean(shares))


@pytest.mark.parametrize("metric", METRICS)
def test_a_sketch_that_is_kept_finds_what_it_promises(metric: Any) -> None:
    rows = clustered(12_000)
    engine = Neighbors(64, metric)
    engine.put(np.arange(len(rows)), rows)
    stats = engine.calibrate()
    if metric == "cosine":
        assert stats.engine == "sketch" and stats.recall is not None and stats.bits in (768, 1536)
    if stats.engine == "sketch":
        assert stats.recall is not None and stats.recall >= neighbors.RECALL
    fresh = clustered(40, seed=0) + np.float32(0.2)
    assert overlap(engine, fresh) >= 0.98
    engine.remove(np.arange(0, 1000))
    engine.put(np.arange(20_000, 20_500), clustered(500, seed=3))
    assert overlap(engine, fresh) >= 0.98
    some = np.arange(2_000, 12_000)
    assert overlap(engine, fresh, within=engine.select(some)) >= 0.98


def test_what_has_no_structure_is_scanned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "OVERSAMPLES", (20,))
    random = np.random.default_rng(0)
    engine = Neighbors(384, "cosine")
    engine.put(np.arange(15_000), random.standard_normal((15_000, 384)).astype(np.float32))
    stats = engine.calibrate()
    assert stats.engine == "exact" and stats.recall is None and "only" in stats.why


def test_lengths_that_decide_the_dot_product_are_not_left_to_angles() -> None:
    random = np.random.default_rng(0)
    rows = clustered(8_000) * (10 ** random.uniform(-3, 3, (8_000, 1))).astype(np.float32)
    engine = Neighbors(64, "dotproduct")
    engine.put(np.arange(8_000), rows)
    assert engine.calibrate().engine == "exact"


def test_copies_prove_nothing() -> None:
    """Every vector is there twenty times: a sketch that finds its copies has found nothing."""
    random = np.random.default_rng(0)
    rows = random.standard_normal((1_000, 384)).astype(np.float32)
    engine = Neighbors(384, "cosine")
    engine.put(np.arange(20_000), np.repeat(rows, 20, axis=0))
    stats = engine.calibrate()
    fresh = random.standard_normal((30, 384)).astype(np.float32)
    assert stats.engine == "exact" or overlap(engine, fresh) >= 0.98


def test_copies_of_one_vector_alone() -> None:
    engine = Neighbors(8, "cosine")
    engine.put(np.arange(5_000), np.ones((5_000, 8), np.float32))
    assert engine.calibrate().engine == "exact"
    assert engine.search(np.ones(8, np.float32), 3)[0].tolist() == [0, 1, 2]


def test_it_measures_again_when_much_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "OVERSAMPLES", (20,))
    engine = Neighbors(384, "cosine")
    engine.put(np.arange(6_000), clustered(6_000, 384))
    assert engine.calibrate().engine == "sketch"
    random = np.random.default_rng(0)
    noise = random.standard_normal((12_000, 384)).astype(np.float32)
    engine.put(np.arange(6_000, 18_000), noise)
    assert engine.calibrate().engine == "exact"


def test_a_search_does_not_wait_for_the_measurement() -> None:
    engine = Neighbors(64, "cosine")
    rows = clustered(6_000)
    engine.put(np.arange(6_000), rows)
    assert engine.search(rows[7], 1)[0].tolist() == [7]
    for thread in threading.enumerate():
        if thread.name == "mastra_nb-calibrate":
            thread.join()
    assert engine.stats().engine == "sketch"


def test_rows_that_are_not_kept_are_fetched() -> None:
    rows = clustered(6_000)
    engine = Neighbors(64, "euclidean", memory_limit=1_000_000, fetch=lambda nos: rows[nos])
    engine.put(np.arange(3_000), rows[:3_000])
    engine.put(np.arange(3_000, 6_000), rows[3_000:])
    kept = Neighbors(64, "euclidean")
    kept.put(np.arange(6_000), rows)
    assert engine.stats().memory < rows.nbytes / 4
    for query in clustered(10, seed=5):
        assert answer(engine, query, 10, exact=True) == answer(kept, query, 10, exact=True)
    engine.calibrate()
    assert overlap(engine, clustered(10, seed=5)) >= 0.98


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("size", [1e-30, 1e25])
def test_very_short_and_very_long_vectors(metric: Any, size: float) -> None:
    rows = np.array([[1, 0], [0, 1], [0, 0], [2, 2]], np.float32) * np.float32(size)
    engine = Neighbors(2, metric)
    engine.put(np.arange(4), rows)
    with np.errstate(over="ignore"):
        found, scores = engine.search(rows[1], 4)
    assert not np.isnan(scores).any()
    assert set(found.tolist()) == {0, 1, 2, 3}


def test_searches_beside_a_writer_see_whole_rows() -> None:
    engine = Neighbors(16, "dotproduct")
    nos = np.arange(2_000)
    engine.put(nos, np.ones((2_000, 16), np.float32))
    stop = threading.Event()
    wrong: list[float] = []

    def search() -> None:
        query = np.ones(16, np.float32)
        while not stop.is_set():
            wrong.extend(s for s in engine.search(query, 5)[1].tolist() if s not in (16.0, 32.0))

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(60):
        engine.put(nos, np.full((2_000, 16), 1.0 + i % 2, np.float32))
        engine.remove(nos[: 500 * (i % 3)])
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_query_unlike_all_entries_is_answered_by_a_scan() -> None:
    engine = Neighbors(64, "cosine")
    engine.put(np.arange(12_000), clustered(12_000))
    assert engine.calibrate().engine == "sketch"
    assert overlap(engine, clustered(20, seed=5)) == 1


def test_entries_come_and_go_while_it_is_measured() -> None:
    rows = clustered(20_000)
    engine = Neighbors(64, "cosine")
    engine.put(np.arange(12_000), rows[:12_000])
    measuring = threading.Thread(target=engine.calibrate)
    measuring.start()
    i = 0
    while measuring.is_alive() or i < 20:
        engine.remove(np.arange(200 * (i % 20), 200 * (i % 20) + 150))
        engine.put(
            np.arange(20_000 + 10 * i, 20_010 + 10 * i), rows[12_000 + 10 * (i % 800) :][:10]
        )
        i += 1
    measuring.join()
    assert engine.stats().engine == "sketch"
    assert overlap(engine, clustered(40) + np.float32(0.2)) >= 0.98
    newest = rows[12_000 + 10 * ((i - 1) % 800)]
    assert 20_000 + 10 * (i - 1) in engine.search(newest, 1 + i // 800)[0]


def test_numbers_far_apart_and_in_no_order() -> None:
    random = np.random.default_rng(0)
    nos = random.permutation(np.concatenate([np.arange(-40, 40), 2**40 * np.arange(1, 60)]))
    rows = random.standard_normal((len(nos), 8)).astype(np.float32)
    engine = Neighbors(8, "cosine")
    for low in range(0, len(nos), 20):
        engine.put(nos[low : low + 20], rows[low : low + 20])
    engine.put(nos[:5], rows[5:10])
    engine.remove(nos[5:10])
    assert len(engine) == len(nos) - 5
    for no, row in zip(nos[10:], rows[10:], strict=True):
        assert engine.search(row, 1)[0].tolist() == [no]
        within = engine.select(nos[10:])
        assert engine.search(row, 1, within=within)[0].tolist() == [no]


def test_a_wrong_shape_is_named() -> None:
    engine = Neighbors(3, "cosine")
    with pytest.raises(SchemaError, match="shape"):
        engine.put(np.array([1]), np.ones((1, 4), np.float32))
    with pytest.raises(SchemaError, match="dimension 3"):
        engine.search(np.ones(2, np.float32), 1)
