"""Nearest neighbours in arrays: an exact scan, and a sketch that has to prove itself against it.

The sketch is one bit per random direction (sign of the rotated vector, Charikar 2002); its nearest
by Hamming distance are scored again from the float32 rows, so a score is always exact and only
what was overlooked can be wrong. How much that is, is measured on the data itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from mastra_nb.errors import SchemaError
from mastra_nb.vectors import Metric

Scalar = TypeVar("Scalar", bound=np.generic)
Floats = NDArray[np.float32]
Nos = NDArray[np.int64]
Places = NDArray[np.intp]
Keys = NDArray[np.float32] | NDArray[np.float64]
Fetch = Callable[[Nos], Floats]
"""The rows of these numbers, in their order: shape (n, dimension)."""

MEMORY_LIMIT = 2 * 1024**3
SKETCH_FROM = 4_096  # below, a scan of everything costs less than what the sketch adds to it
RECALL = 0.995
QUERIES = 64
AT = 10
BITS = (768, 1536)
OVERSAMPLES = (20, 50, 100, 200)
BLOCK = 8_192
FETCHED = 1_024
HUGE = 1e30
SEED = 20_090
REDO = 0.5  # of the entries changed since: measure again


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """As in `vectors.IndexStats`; `memory` is bytes of arrays."""

    engine: str
    why: str
    recall: float | None = None
    bits: int = 0
    oversample: int = 0
    memory: int = 0
    count: int = 0


class Selection:
    """Some of the entries, made by `Neighbors.select`: it stays right when entries come and go."""

    __slots__ = ("_found", "nos")

    def __init__(self, nos: Nos) -> None:
        self.nos = nos
        self._found: tuple[int, Places] | None = None

    def __len__(self) -> int:
        return len(self.nos)


class _Shared:
    """Many readers or one writer. A waiting writer lets readers pass: a measurement reads for a
    second, and no query should wait behind a writer who waits for it.
    """

    def __init__(self) -> None:
        self._free = threading.Condition(threading.Lock())
        self._readers = 0

    @contextmanager
    def read(self) -> Iterator[None]:
        with self._free:
            self._readers += 1
        try:
            yield
        finally:
            with self._free:
                self._readers -= 1
                if not self._readers:
                    self._free.notify_all()

    @contextmanager
    def write(self) -> Iterator[None]:
        with self._free:
            self._free.wait_for(lambda: not self._readers)
            yield


class _Sketch:
    """`codes` has shape (words, capacity): one word of all entries lies in one piece."""

    def __init__(self, dimension: int, bits: int, center: Floats, capacity: int) -> None:
        random = np.random.default_rng(SEED)
        parts: list[Floats] = []
        while sum(part.shape[1] for part in parts) < bits:
            width = min(dimension, bits)
            square = random.standard_normal((dimension, width))
            parts.append(np.linalg.qr(square)[0].astype(np.float32))
        self.bits = bits
        self.turn = np.ascontiguousarray(np.concatenate(parts, axis=1)[:, :bits])
        self.shift = center @ self.turn
        self.codes = np.zeros((bits // 64, capacity), np.uint64)
        self.oversample = 0
        self.recall = 0.0

    def encode(self, rows: Floats) -> NDArray[np.uint64]:
        """Shape (words, rows)."""
        signs = (rows @ self.turn) > self.shift
        return np.packbits(signs, axis=1).view(np.uint64).T

    def grow(self, capacity: int) -> None:
        wider = np.zeros((len(self.codes), capacity), np.uint64)
        wider[:, : self.codes.shape[1]] = self.codes
        self.codes = wider

    def distances(self, code: NDArray[np.uint64], n: int) -> NDArray[np.uint16]:
        """Hamming distances of the first `n` entries."""
        found = np.empty(n, np.uint16)
        words = np.empty(BLOCK, np.uint64)
        counts = np.empty(BLOCK, np.uint8)
        three = np.empty(BLOCK, np.uint8)
        for low in range(0, n, BLOCK):
            high = min(low + BLOCK, n)
            m = high - low
            total = found[low:high]
            for i in range(0, len(code), 3):  # three counts of at most 64 fit a byte
                np.bitwise_xor(self.codes[i, low:high], code[i], out=words[:m])
                np.bitwise_count(words[:m], out=three[:m])
                for j in (i + 1, i + 2):
                    np.bitwise_xor(self.codes[j, low:high], code[j], out=words[:m])
                    np.bitwise_count(words[:m], out=counts[:m])
                    np.add(three[:m], counts[:m], out=three[:m])
                if i:
                    np.add(total, three[:m], out=total)
                else:
                    total[:] = three[:m]
        return found


class Neighbors:
    """The nearest of many vectors. Numbers (`nos`) are the caller's, unique, in any order.

    Searches run side by side in any threads; `put` and `remove` wait for those that run and hold
    off new ones. Above `memory_limit` bytes the float32 rows are not kept if `fetch` can bring
    them; it is called while entries cannot change, from any thread, and must not call back.
    Scores are those of `vectors.Hit`, of unit vectors rounded to float32 under cosine.
    """

    def __init__(
        self,
        dimension: int,
        metric: Metric,
        *,
        memory_limit: int = MEMORY_LIMIT,
        fetch: Fetch | None = None,
    ) -> None:
        self.dimension = dimension
        self.metric = metric
        self._limit = memory_limit
        self._fetch = fetch
        self._lock = _Shared()
        self._measuring = threading.Lock()
        self._nos: Nos = np.empty(0, np.int64)
        self._rows: Floats | None = np.empty((0, dimension), np.float32)
        self._half: Floats = np.empty(0, np.float32)  # euclidean: half the squared norm
        self._alive = np.empty(0, np.bool_)
        self._n = 0  # places in use, dead ones too
        self._dead = 0
        self._order: Places | None = None  # None: the numbers ascend
        self._version = 0
        self._longest = 0.0
        self._sketch: _Sketch | None = None
        self._measured = 0  # entries at the last measurement
        self._changed = 0
        self._why = ""

    def __len__(self) -> int:
        return self._n - self._dead

    # Writing

    def put(self, nos: Nos, rows: Floats) -> None:
        """Add or replace; of a number given twice the last row counts. Raises SchemaError for
        another shape.
        """
        nos = np.asarray(nos, np.int64)
        rows = np.asarray(rows, np.float32)
        if rows.shape != (len(nos), self.dimension):
            raise SchemaError(
                f"rows have shape {rows.shape}, not {(len(nos), self.dimension)}",
                hint="give one row of the index's dimension for each number",
            )
        if not len(nos):
            return
        last = len(nos) - 1 - np.unique(nos[::-1], return_index=True)[1]
        nos, rows = nos[last], self._unit(rows[last])
        with self._lock.write():
            places = self._places(nos)
            new = np.flatnonzero(places < 0)
            self._reserve(self._n + len(new))
            if len(new):
                places[new] = np.arange(self._n, self._n + len(new))
                fresh = nos[new]
                if self._order is not None or (self._n and fresh[0] < self._nos[self._n - 1]):
                    self._order = np.empty(0, np.intp)  # to be made when it is asked for
                self._nos[self._n : self._n + len(new)] = fresh
                self._n += len(new)
                self._dead += len(new)
            self._dead -= int(np.count_nonzero(~self._alive[places]))
            self._alive[places] = True
            self._store(places, rows)
            self._touched(len(nos))

    def remove(self, nos: Nos) -> None:
        """Numbers that are not there are no error."""
        with self._lock.write():
            places = self._places(np.unique(np.asarray(nos, np.int64)))
            places = places[places >= 0]
            places = places[self._alive[places]]
            if not len(places):
                return
            self._alive[places] = False
            self._dead += len(places)
            self._touched(len(places))
            if self._dead > max(1024, self._n // 4):
                self._compact()

    def _unit(self, rows: Floats) -> Floats:
        if self.metric != "cosine":
            return rows
        wide = rows.astype(np.float64)
        norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))
        norms[norms == 0] = 1
        unit: Floats = (wide / norms[:, None]).astype(np.float32)
        return unit

    def _store(self, places: Places, rows: Floats) -> None:
        if self._rows is not None:
            self._rows[places] = rows
        squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
        self._longest = max(self._longest, float(np.sqrt(squares.max())))
        self._half[places] = squares / 2
        if self._sketch is not None:
            self._sketch.codes[:, places] = self._sketch.encode(rows)

    def _touched(self, n: int) -> None:
        self._version += 1
        self._changed += n

    def _reserve(self, n: int) -> None:
        if n <= len(self._nos):
            return
        capacity = max(n, len(self._nos) * 3 // 2, 256)
        keep = self._n
        if self._fetch is not None and n * self.dimension * 4 > self._limit:
            self._rows = None
        self._nos = _wider(self._nos, keep, capacity)
        self._half = _wider(self._half, keep, capacity)
        self._alive = _wider(self._alive, keep, capacity)
        if self._rows is not None:
            self._rows = _wider(self._rows, keep, capacity)
        if self._sketch is not None:
            self._sketch.grow(capacity)

    def _compact(self) -> None:
        live = np.flatnonzero(self._alive[: self._n])
        self._nos = self._nos[live]
        self._half = self._half[live]
        self._alive = self._alive[live]
        if self._rows is not None:
            self._rows = self._rows[live]
        if self._sketch is not None:
            self._sketch.codes = self._sketch.codes[:, live]
        self._n, self._dead = len(live), 0
        if self._order is not None:
            self._order = np.empty(0, np.intp)

    # Places of numbers

    def _places(self, nos: Nos) -> Places:
        """Where ascending numbers are, dead or alive; -1 for what is nowhere."""
        known = self._nos[: self._n]
        if not len(known):
            return np.full(len(nos), -1, np.intp)
        order = self._order
        if order is not None and len(order) != self._n:
            order = self._order = np.argsort(known, kind="stable")
        at = np.minimum(np.searchsorted(known, nos, sorter=order), self._n - 1)
        if order is not None:
            at = order[at]
        return np.where(known[at] == nos, at, -1)

    def select(self, nos: Nos) -> Selection:
        """A restriction for many searches; `nos` in any order, those that are not there count for
        nothing until they are put.
        """
        return Selection(np.unique(np.asarray(nos, np.int64)))

    def _resolve(self, within: Nos | Selection) -> Places:
        chosen = within if isinstance(within, Selection) else Selection(np.unique(within))
        found = chosen._found
        if found is None or found[0] != self._version:
            places = self._places(chosen.nos)
            places = places[places >= 0]
            found = chosen._found = (self._version, places[self._alive[places]])
        return found[1]

    # Searching

    def search(
        self,
        vector: Floats,
        top_k: int,
        *,
        within: Nos | Selection | None = None,
        min_score: float | None = None,
        exact: bool = False,
    ) -> tuple[Nos, Floats]:
        """Numbers and scores, the best first, ties by the smaller number."""
        query = np.asarray(vector, np.float32)
        if query.shape != (self.dimension,):
            raise SchemaError(
                f"a query of shape {query.shape} for dimension {self.dimension}",
                hint="embed the query with the embedder of the index",
            )
        query = self._unit(query[None])[0]
        if not exact and self._stale():
            self._measure_later()
        with self._lock.read():
            places = None if within is None else self._resolve(within)
            count = len(self) if places is None else len(places)
            if top_k <= 0 or not count:
                return np.empty(0, np.int64), np.empty(0, np.float32)
            k = min(top_k, count)
            sketch = self._sketch
            if exact or sketch is None or count < self._worth(sketch, k, places):
                chosen = self._scan(query, k, places)
            else:
                chosen = self._sketched(sketch, query, k, places)
            scores = self._scores(chosen, query)
            if min_score is not None:
                good = scores >= min_score
                chosen, scores = chosen[good], scores[good]
            nos = self._nos[chosen]
        best = np.lexsort((nos, -scores))[:k]
        return nos[best], scores[best]

    def _worth(self, sketch: _Sketch, k: int, places: Places | None) -> int:
        """Entries from which on the sketch costs less than a scan of them."""
        least = sketch.oversample * max(k, AT) * 4
        return least if places is None else max(least, self._n // 10, SKETCH_FROM)

    def _scan(self, query: Floats, k: int, places: Places | None) -> Places:
        """Places of the best k, and of all that may be as good but for rounding."""
        if places is None and (self._dead or self._rows is None):
            places = np.flatnonzero(self._alive[: self._n])
        best = _best(self._keys(query, places), k, self._slack(query))
        return best if places is None else places[best]

    def _keys(self, query: Floats, places: Places | None) -> Keys:
        """What orders entries as their scores do."""
        euclidean = self.metric == "euclidean"
        if self._longest * max(self._longest, float(np.abs(query).max()), 1.0) > HUGE:
            return self._wide_keys(query, np.arange(self._n) if places is None else places)
        if places is None:
            assert self._rows is not None
            keys: Floats = self._rows[: self._n] @ query
            return keys - self._half[: self._n] if euclidean else keys
        found = np.empty(len(places), np.float32)
        for low in range(0, len(places), FETCHED):
            part = places[low : low + FETCHED]
            np.matmul(self._gather(part), query, out=found[low : low + FETCHED])
        return found - self._half[places] if euclidean else found

    def _wide_keys(self, query: Floats, places: Places) -> Keys:
        """For vectors so long that float32 sums of their products overflow."""
        found = np.empty(len(places), np.float64)
        target = query.astype(np.float64)
        for low in range(0, len(places), FETCHED):
            rows = self._gather(places[low : low + FETCHED]).astype(np.float64)
            keys = rows @ target
            if self.metric == "euclidean":
                keys -= np.einsum("ij,ij->i", rows, rows) / 2
            found[low : low + FETCHED] = keys
        return found

    def _slack(self, query: Floats) -> float:
        """Twice what float32 sums of this dimension may be off (blocked sums, Higham 2002)."""
        length = float(np.linalg.norm(query.astype(np.float64)))
        size = self._longest * length
        if self.metric == "euclidean":
            size += self._longest**2
        return size * float(np.finfo(np.float32).eps) * (16 + self.dimension / 8)

    def _gather(self, places: Places) -> Floats:
        if self._rows is not None:
            return self._rows[places]
        assert self._fetch is not None
        rows = np.asarray(self._fetch(self._nos[places]), np.float32)
        return self._unit(rows)

    def _scores(self, places: Places, query: Floats) -> Floats:
        """In float64 and row by row, so that equal rows have equal scores wherever they lie."""
        found = np.empty(len(places), np.float32)
        target = query.astype(np.float64)
        for low in range(0, len(places), FETCHED):
            rows = self._gather(places[low : low + FETCHED]).astype(np.float64)
            if self.metric == "euclidean":
                rows -= target
                scores = 1 / (1 + np.sqrt((rows * rows).sum(axis=1)))
            else:
                scores = (rows * target).sum(axis=1)
                if self.metric == "cosine":
                    scores = np.clip(scores, -1, 1)
            found[low : low + FETCHED] = scores
        return found

    def _sketched(self, sketch: _Sketch, query: Floats, k: int, places: Places | None) -> Places:
        distances = sketch.distances(sketch.encode(query[None])[:, 0], self._n)
        if places is not None:
            distances = distances[places]
        elif self._dead:
            distances[~self._alive[: self._n]] = sketch.bits + 1
        wanted = sketch.oversample * max(k, AT)
        bound = np.partition(distances, wanted - 1)[wanted - 1]
        near = np.flatnonzero(distances <= bound)
        if places is not None:
            near = places[near]
        elif self._dead:
            near = near[self._alive[near]]
        return near[_best(self._keys(query, near), k, self._slack(query))]

    # Measuring

    def _stale(self) -> bool:
        if len(self) < SKETCH_FROM:
            return False
        return not self._measured or self._changed > REDO * self._measured

    def _measure_later(self) -> None:
        if not self._measuring.locked():
            threading.Thread(target=self.calibrate, name="mastra_nb-calibrate", daemon=True).start()

    def calibrate(self) -> EngineStats:
        """Measure the sketch on entries that are there and keep it if it is good enough. A search
        of a large index that was not measured starts this in a thread and scans meanwhile.
        """
        with self._measuring, self._lock.read():
            if self._stale():
                sketch, why = self._measure()
                self._sketch, self._why = sketch, why
                self._measured, self._changed = len(self), 0
        return self.stats()

    def _measure(self) -> tuple[_Sketch | None, str]:
        live = np.flatnonzero(self._alive[: self._n])
        random = np.random.default_rng(SEED)
        asked = np.sort(random.choice(live, min(QUERIES, len(live)), replace=False))
        queries = self._gather(asked)
        nearest = self._nearest(queries, np.searchsorted(live, asked), live)
        if not nearest:
            return None, "entries are copies of few, so nothing could be measured"
        some = np.sort(random.choice(live, min(4096, len(live)), replace=False))
        center = self._gather(some).mean(axis=0)
        recall = 0.0
        for bits in BITS:
            sketch = _Sketch(self.dimension, bits, center, len(self._nos))
            for low in range(0, len(live), FETCHED):
                part = live[low : low + FETCHED]
                sketch.codes[:, part] = sketch.encode(self._gather(part))
            codes = sketch.encode(queries)
            ranks = []
            for i, places in nearest:
                distances = sketch.distances(codes[:, i], self._n)
                others = np.sort(distances[live])
                ranks.append(np.searchsorted(others, distances[places]))
            ahead = np.concatenate(ranks)
            for oversample in OVERSAMPLES:
                recall = float(np.mean(ahead < oversample * AT))
                if recall >= RECALL:
                    sketch.oversample, sketch.recall = oversample, recall
                    why = f"{bits} bits find {recall:.1%} of the nearest {AT} in {len(live):,}"
                    return sketch, why
        return None, f"the sketch finds only {recall:.1%} of the nearest {AT} in these vectors"

    def _nearest(self, queries: Floats, asked: Places, live: Places) -> list[tuple[int, Places]]:
        """The nearest of each query, one of every set of copies, and none as near as the query
        itself: a sketch that finds copies has shown nothing.
        """
        keys = np.empty((len(live), len(queries)), np.float32)
        half = self._half if self.metric == "euclidean" else np.zeros_like(self._half)
        for low in range(0, len(live), FETCHED):
            part = live[low : low + FETCHED]
            rows = self._gather(part)
            keys[low : low + FETCHED] = rows @ queries.T - half[part, None]
        found = []
        for i, query in enumerate(queries):
            best = np.argsort(-keys[:, i], kind="stable")
            first = np.ones(len(best), np.bool_)
            gaps = -np.diff(keys[best, i])
            first[1:] = gaps > self._slack(query)
            copies = int(np.searchsorted(-keys[best, i], -keys[asked[i], i] + self._slack(query)))
            first[:copies] = False
            if first.any():
                found.append((i, live[best[first][:AT]]))
        return found

    def stats(self) -> EngineStats:
        sketch = self._sketch
        memory = self._nos.nbytes + self._half.nbytes + self._alive.nbytes
        memory += 0 if self._rows is None else self._rows.nbytes
        memory += 0 if self._order is None else self._order.nbytes
        if sketch is None:
            why = self._why or (
                f"fewer than {SKETCH_FROM:,} entries"
                if len(self) < SKETCH_FROM
                else "the sketch has not been measured yet"
            )
            return EngineStats(engine="exact", why=why, memory=memory, count=len(self))
        return EngineStats(
            engine="sketch", why=self._why, recall=sketch.recall, bits=sketch.bits,
            oversample=sketch.oversample, count=len(self),
            memory=memory + sketch.codes.nbytes + sketch.turn.nbytes,
        )  # fmt: skip


def _wider(array: NDArray[Scalar], keep: int, capacity: int) -> NDArray[Scalar]:
    wider = np.zeros((capacity, *array.shape[1:]), array.dtype)
    wider[:keep] = array[:keep]
    return wider


def _best(keys: Keys, k: int, slack: float) -> Places:
    if k >= len(keys):
        return np.arange(len(keys))
    bound = np.partition(keys, len(keys) - k)[len(keys) - k]
    return np.flatnonzero(keys >= bound - slack)
