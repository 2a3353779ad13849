"""The cache of embeddings of a store in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from mastra_nb.stores import _rules as rules


class Embeddings:
    """`using` is the lock of the store, which raises if that is closed."""

    def __init__(self, using: Callable[[], AbstractContextManager[Any]]) -> None:
        self._using = using
        self._rows: dict[tuple[str, bytes], tuple[float, bytes]] = {}

    async def get(self, model: str, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        rules.check_names(model)
        now, found = time.time(), {}
        with self._using():
            for digest in digests:
                row = self._rows.get((model, digest))
                if row is None:
                    continue
                found[digest] = row[1]
                if row[0] < now - rules.USED_SECONDS:
                    self._rows[model, digest] = (now, row[1])
        return found

    async def put(self, model: str, rows: Mapping[bytes, bytes]) -> None:
        rules.check_names(model)
        now = time.time()
        with self._using():
            for digest, vector in rows.items():
                self._rows[model, digest] = (now, bytes(vector))

    def old(self, cutoff: float) -> list[tuple[str, bytes]]:
        return [key for key, (used, _) in self._rows.items() if used <= cutoff]

    def drop(self, keys: Sequence[tuple[str, bytes]]) -> None:
        for key in keys:
            self._rows.pop(key, None)
