"""What `neighbors` is made of: one bit per random direction, and a lock for readers and writers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

BLOCK = 32_768
SEED = 20_090


class Shared:
    """Many readers or one writer; a writer who waits is let in before new readers. Nobody holds it
    for long: a measurement takes it anew for every block.
    """

    def __init__(self) -> None:
        self._free = threading.Condition(threading.Lock())
        self._readers = 0
        self._waiting = 0

    @contextmanager
    def read(self) -> Iterator[None]:
        with self._free:
            self._free.wait_for(lambda: not self._waiting)
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
            self._waiting += 1
            try:
                self._free.wait_for(lambda: not self._readers)
            finally:
                self._waiting -= 1
                self._free.notify_all()
            yield


class Sketch:
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
        self.reach = 0.0  # see Neighbors._reach

    def encode(self, rows: Floats) -> NDArray[np.uint64]:
        """Shape (words, rows)."""
        signs = (rows @ self.turn) > self.shift
        return np.packbits(signs, axis=1).view(np.uint64).T

    def grow(self, capacity: int) -> None:
        wider = np.zeros((len(self.codes), capacity), np.uint64)
        wider[:, : self.codes.shape[1]] = self.codes
        self.codes = wider

    def distances(self, code: NDArray[np.uint64], codes: NDArray[np.uint64]) -> NDArray[np.uint16]:
        """Hamming distances; `codes` has shape (words, n)."""
        n = codes.shape[1]
        found = np.empty(n, np.uint16)
        words = np.empty(BLOCK, np.uint64)
        counts = np.empty(BLOCK, np.uint8)
        three = np.empty(BLOCK, np.uint8)
        for low in range(0, n, BLOCK):
            high = min(low + BLOCK, n)
            m = high - low
            total = found[low:high]
            for i in range(0, len(code), 3):  # three counts of at most 64 fit a byte
                np.bitwise_xor(codes[i, low:high], code[i], out=words[:m])
                np.bitwise_count(words[:m], out=three[:m])
                for j in (i + 1, i + 2):
                    np.bitwise_xor(codes[j, low:high], code[j], out=words[:m])
                    np.bitwise_count(words[:m], out=counts[:m])
                    np.add(three[:m], counts[:m], out=three[:m])
                if i:
                    np.add(total, three[:m], out=total)
                else:
                    total[:] = three[:m]
        return found


def on_a_plane(vectors: Sequence[bytes]) -> tuple[list[tuple[float, float]], list[float]]:
    """Places of float32 vectors along the two directions in which they differ most, from -1 to 1,
    and the shares of the variance along these (principal components, Pearson 1901).
    """
    known = [v for v in vectors if v]
    size = len(known[0]) // 4 if known else 0
    rows = np.zeros((len(vectors), max(2, size)), dtype=np.float32)
    for row, vector in zip(rows, vectors, strict=True):
        if vector:
            row[:size] = np.frombuffer(vector, dtype="<f4")
    rows -= rows.mean(axis=0) if len(rows) else 0
    # Of the covariance, as there are far more vectors than coordinates.
    values, directions = np.linalg.eigh(rows.T @ rows)
    two = directions[:, ::-1][:, :2]
    # Either sign is right: with the larger coordinate positive a map stays as it is.
    two = two * np.sign(two[np.abs(two).argmax(axis=0), range(2)])
    places = rows @ two
    largest = float(np.abs(places).max()) if places.size else 0.0
    if largest:
        places /= largest
    total = float(values.sum())
    shares = [round(max(0.0, float(v)) / total, 4) for v in values[::-1][:2]] if total > 0 else []
    return [(round(float(x), 4), round(float(y), 4)) for x, y in places], shares
