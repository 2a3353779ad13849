"""Nearest neighbours in arrays: an exact scan, and a sketch that has to prove itself against it.

The sketch is one bit per random direction (sign of the rotated vector, Charikar 2002); its nearest
by Hamming distance are scored again from the float32 rows, so a score is always exact and only
what was overlooked can be wrong. How much that is, is measured on the data itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from mastra_nb.errors import SchemaError
from mastra_nb.sketches import SEED, Floats, Shared, Sketch
from mastra_nb.vectors import Metric

Scalar = TypeVar("Scalar", bound=np.generic)
Nos = NDArray[np.int64]
Places = NDArray[np.intp]
Keys = NDArray[np.float32] | NDArray[np.float64]
Fetch = Callable[[Nos], Floats]
"""The rows of these numbers, in their order: shape (n, dimension)."""

MEMORY_LIMIT = 2 * 1024**3
SKETCH_FROM = 4_096  # below, a scan of everything costs less than what the sketch adds to it
RECALL = 0.995
QUERIES = 96  # of each kind that a measurement asks
DEEP = 512
STRANGE = 0.01  # of the queries of a measurement lie farther from the entries than is relied on
CERTAIN = 1.64  # standard errors: what is promised holds with 95 %
AT = 10
BITS = (768, 1536)
OVERSAMPLES = (20, 50, 100, 200)
FETCHED = 1_024
HUGE = 1e30
SPARSE = 16  # numbers for each place, from which on a table of places is too large
LONG = "vectors are too long for float32 sums"
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
        capacity: int = 0,
    ) -> None:
        self.dimension = dimension
        self.metric = metric
        self._limit = memory_limit
        self._fetch = fetch
        self._lock = Shared()
        self._measuring = threading.Lock()
        self._nos: Nos = np.empty(0, np.int64)
        self._rows: Floats | None = np.empty((0, dimension), np.float32)
        self._half: Floats = np.empty(0, np.float32)  # euclidean: half the squared norm
        self._alive = np.empty(0, np.bool_)
        self._n = 0  # places in use, dead ones too
        self._dead = 0
        self._base = 0
        self._table: NDArray[np.int32] | None = np.empty(0, np.int32)  # of number - base: place
        self._order: Places = np.empty(0, np.intp)  # without a table; made when it is asked for
        self._version = 0
        self._written: list[Nos] | None = None  # while a measurement runs
        self._longest = 0.0
        self._sketch: Sketch | None = None
        self._measured = 0  # entries at the last measurement
        self._changed = 0
        self._why = ""
        self._reserve(capacity)

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
                self._nos[self._n : self._n + len(new)] = fresh
                self._tabulate(fresh, places[new])
                self._n += len(new)
                self._dead += len(new)
            self._dead -= int(np.count_nonzero(~self._alive[places]))
            self._alive[places] = True
            self._store(places, rows)
            if self._written is not None:
                self._written.append(nos)
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
        norms: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", wide, wide))
        norms[norms == 0] = 1
        return (wide / norms[:, None]).astype(np.float32)

    def _store(self, places: Places, rows: Floats) -> None:
        if self._rows is not None:
            self._rows[places] = rows
        squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
        self._longest = max(self._longest, float(np.sqrt(squares.max())))
        if self.metric == "euclidean":
            self._half[places] = np.minimum(squares / 2, np.finfo(np.float32).max)
        if self._longest**2 > HUGE:
            self._sketch, self._why = None, LONG
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
        self._order = np.empty(0, np.intp)
        if self._table is not None:
            self._table.fill(-1)
            self._table[self._nos - self._base] = np.arange(self._n)

    # Places of numbers

    def _tabulate(self, nos: Nos, places: Places) -> None:
        """`nos` ascend."""
        table = self._table
        if table is None:
            return
        base = self._base if len(table) else int(nos[0])
        low, high = min(base, int(nos[0])), max(base + len(table), int(nos[-1]) + 1)
        if high - low > len(table):
            if high - low > SPARSE * max(len(self._nos), SKETCH_FROM):
                self._table = None
                return
            wider = np.full((high - low) * 3 // 2, -1, np.int32)
            wider[base - low : base - low + len(table)] = table
            self._table, self._base = wider, low
        assert self._table is not None
        self._table[nos - self._base] = places

    def _places(self, nos: Nos) -> Places:
        """Where ascending numbers are, dead or alive; -1 for what is nowhere."""
        if not self._n or not len(nos):
            return np.full(len(nos), -1, np.intp)
        table = self._table
        if table is not None:
            low, high = np.searchsorted(nos, (self._base, self._base + len(table)))
            places = np.full(len(nos), -1, np.intp)
            places[low:high] = table[nos[low:high] - self._base]
            return places
        known = self._nos[: self._n]
        order = self._order
        if len(order) != self._n:
            order = self._order = np.argsort(known, kind="stable")
        at = order[np.minimum(np.searchsorted(known, nos, sorter=order), self._n - 1)]
        return np.where(known[at] == nos, at, -1)

    def select(self, nos: Nos) -> Selection:
        """A restriction for many searches; `nos` in any order, those that are not there count for
        nothing until they are put.
        """
        return Selection(np.unique(np.asarray(nos, np.int64)))

    def _resolve(self, within: Nos | Selection) -> Places | None:  # None: all there are
        chosen = within if isinstance(within, Selection) else Selection(np.unique(within))
        found = chosen._found
        if found is None or found[0] != self._version:
            places = self._places(chosen.nos)
            places = np.sort(places[places >= 0])
            found = chosen._found = (self._version, places[self._alive[places]])
        return found[1] if len(found[1]) < len(self) else None

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
                scores = self._scores(chosen, query)
            else:
                chosen = self._sketched(sketch, query, k, places)
                scores = self._scores(chosen, query)
                if places is None and self._reach(scores, query) < sketch.reach:
                    chosen = self._scan(query, k, None)
                    scores = self._scores(chosen, query)
            if min_score is not None:
                good = scores >= min_score
                chosen, scores = chosen[good], scores[good]
            nos = self._nos[chosen]
        best = np.lexsort((nos, -scores))[:k]
        return nos[best], scores[best]

    def _reach(self, scores: Floats, query: Floats) -> float:
        """How near the nearest are, whatever the length of the query."""
        last = min(AT, len(scores))
        reach = float(np.partition(scores, -last)[-last])
        return reach / _length(query) if self.metric == "dotproduct" else reach

    def _worth(self, sketch: Sketch, k: int, places: Places | None) -> int:
        """Entries from which on the sketch costs less than a scan of them."""
        least = sketch.oversample * max(k, AT) * 4
        return least if places is None else max(least, SKETCH_FROM)

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
        piece = slice(0, self._n) if places is None else _piece(places)
        if piece is not None and self._rows is not None:
            keys: Floats = self._rows[piece] @ query
            return keys - self._half[piece] if euclidean else keys
        assert places is not None
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
        size = self._longest * _length(query)
        if self.metric == "euclidean":
            size += self._longest**2
        kind = np.finfo(np.float32)
        return size * float(kind.eps) * (16 + self.dimension / 8) + self.dimension * float(
            kind.tiny
        )

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
            with np.errstate(over="ignore"):
                found[low : low + FETCHED] = scores
        return found

    def _sketched(self, sketch: Sketch, query: Floats, k: int, places: Places | None) -> Places:
        code = sketch.encode(query[None])[:, 0]
        if places is None:
            distances = sketch.distances(code, sketch.codes[:, : self._n])
        elif places[-1] - places[0] < 4 * len(places):
            low, high = int(places[0]), int(places[-1]) + 1
            distances = sketch.distances(code, sketch.codes[:, low:high])[places - low]
        else:
            distances = sketch.distances(code, sketch.codes.take(places, axis=1))
        if places is None and self._dead:
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
        """Measure the sketch and keep it if it is good enough. A search of a large index that was
        not measured starts this in a thread and scans meanwhile.

        The queries are entries, which do not count themselves or copies of them, and points
        beside entries. A query farther from all entries than those were is answered by a scan.
        """
        with self._measuring:
            if self._stale():
                with self._lock.read():
                    nos = np.sort(self._nos[: self._n][self._alive[: self._n]])
                    self._written, self._changed = [], 0
                sketch, why, codes = self._measure(nos)
                self._install(sketch, why, nos, codes)
        return self.stats()

    def _install(
        self, sketch: Sketch | None, why: str, nos: Nos, codes: NDArray[np.uint64]
    ) -> None:
        with self._lock.write():
            written = np.concatenate([*(self._written or ()), np.empty(0, np.int64)])
            self._written, self._measured = None, len(nos)
            if self._longest**2 > HUGE:
                sketch, why = None, LONG
            if sketch is not None:
                sketch.codes = np.zeros((len(codes), len(self._nos)), np.uint64)
                places = self._places(nos)
                there = places >= 0
                sketch.codes[:, places[there]] = codes[:, there]
                places = self._places(np.unique(written))
                places = places[places >= 0]
                places = places[self._alive[places]]
                for low in range(0, len(places), FETCHED):
                    part = places[low : low + FETCHED]
                    sketch.codes[:, part] = sketch.encode(self._gather(part))
            self._sketch, self._why = sketch, why

    def _blocks(self, nos: Nos) -> Iterator[tuple[Places, Floats]]:
        """Where in `nos`, and the rows there; those that are gone meanwhile are left out."""
        for low in range(0, len(nos), FETCHED):
            with self._lock.read():
                places = self._places(nos[low : low + FETCHED])
                there = np.flatnonzero(places >= 0)
                there = there[self._alive[places[there]]]
                rows = self._gather(places[there])
            if len(there):
                yield low + there, rows

    def _measure(self, nos: Nos) -> tuple[Sketch | None, str, NDArray[np.uint64]]:
        none = np.empty((0, 0), np.uint64)
        if self._longest**2 > HUGE:
            return None, LONG, none
        random = np.random.default_rng(SEED)
        some = np.sort(random.choice(nos, min(SKETCH_FROM, len(nos)), replace=False))
        sample = np.concatenate([rows for _, rows in self._blocks(some)])
        a, b, c = random.integers(0, len(sample), (3, QUERIES))
        beside = sample[a] + (sample[b] - sample[c]) / 2
        asked = random.permutation(sample)[:QUERIES]
        queries = np.concatenate([asked, self._unit(beside)])
        nearest, reaches = self._nearest(queries, len(asked), nos)
        if not any(len(at) for at in nearest[: len(asked)]):
            return None, "entries are copies of few, so nothing could be measured", none
        least = 0.0
        for bits in BITS:
            sketch = Sketch(self.dimension, bits, sample.mean(axis=0), 0)
            codes = np.zeros((bits // 64, len(nos)), np.uint64)
            there = np.zeros(len(nos), np.bool_)
            for at, rows in self._blocks(nos):
                codes[:, at], there[at] = sketch.encode(rows), True
            asking = sketch.encode(queries)
            ahead = []
            for i, at in enumerate(nearest):
                at = at[there[at]]
                distances = sketch.distances(asking[:, i], codes)
                below = np.concatenate(([0], np.cumsum(np.bincount(distances))))
                ahead.append(below[distances[at]])
            for oversample in OVERSAMPLES:
                kinds = (ahead[: len(asked)], ahead[len(asked) :])
                measured = [_recall(kind, oversample * AT) for kind in kinds]
                least = min(mean - CERTAIN * error for mean, error in measured)
                if least >= RECALL:
                    sketch.oversample = oversample
                    sketch.reach = float(np.quantile(reaches, STRANGE))
                    sketch.recall = recall = min(mean for mean, _ in measured)
                    why = f"{bits} bits find {recall:.1%} of the nearest {AT} in {len(nos):,}"
                    return sketch, why, codes
        why = f"the sketch finds for certain only {least:.1%} of the nearest {AT} in these vectors"
        return None, why, none

    def _nearest(self, queries: Floats, entries: int, nos: Nos) -> tuple[list[Places], list[float]]:
        """Where in `nos` the nearest of each query are, one of every set of copies. The first
        `entries` are entries: neither they nor their copies count. And the reaches.
        """
        keys = np.empty((len(queries), 0), np.float32)
        places = np.empty((len(queries), 0), np.intp)
        for at, rows in self._blocks(nos):
            new = queries @ rows.T
            if self.metric == "euclidean":
                new -= np.einsum("ij,ij->i", rows, rows) / 2
            keys = np.concatenate([keys, new], axis=1)
            places = np.concatenate([places, np.broadcast_to(at, new.shape)], axis=1)
            if keys.shape[1] > DEEP:
                best = np.argpartition(keys, -DEEP, axis=1)[:, -DEEP:]
                keys = np.take_along_axis(keys, best, 1)
                places = np.take_along_axis(places, best, 1)
        found: list[Places] = []
        reaches: list[float] = []
        for i, query in enumerate(queries):
            order = np.argsort(-keys[i], kind="stable")
            mine, slack = keys[i][order], self._slack(query)
            first = np.ones(len(order), np.bool_)
            first[1:] = -np.diff(mine) > slack
            if i < entries:
                own = float(query @ query)
                own -= own / 2 if self.metric == "euclidean" else 0
                first &= np.abs(mine - own) > slack
            near = order[first][:AT]
            found.append(places[i][near])
            if len(near):
                reaches.append(self._reach(self._of_keys(keys[i][near], query), query))
        return found, reaches

    def _of_keys(self, keys: Floats, query: Floats) -> Floats:
        """Scores, as exact as the keys are."""
        if self.metric != "euclidean":
            return keys
        scores: Floats = 1 / (1 + np.sqrt(np.maximum(float(query @ query) - 2 * keys, 0)))
        return scores

    def stats(self) -> EngineStats:
        sketch = self._sketch
        arrays = (self._nos, self._half, self._alive, self._order, self._rows, self._table)
        memory = sum(array.nbytes for array in arrays if array is not None)
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


def _length(query: Floats) -> float:
    return float(np.linalg.norm(query.astype(np.float64))) or 1.0


def _piece(places: Places) -> slice | None:
    """Ascending places that lie side by side."""
    low, high = int(places[0]), int(places[-1]) + 1
    return slice(low, high) if high - low == len(places) else None


def _recall(ahead: list[NDArray[np.int64]], within: int) -> tuple[float, float]:
    """Mean and standard error over the queries; `ahead` is how many lie before each neighbour."""
    shares = np.array([np.mean(each < within) for each in ahead if len(each)])
    if len(shares) < 2:
        return 1.0, 0.0
    return float(shares.mean()), float(shares.std(ddof=1) / np.sqrt(len(shares)))


def _best(keys: Keys, k: int, slack: float) -> Places:
    if k >= len(keys):
        return np.arange(len(keys))
    bound = np.partition(keys, len(keys) - k)[len(keys) - k]
    return np.flatnonzero(keys >= bound - slack)
