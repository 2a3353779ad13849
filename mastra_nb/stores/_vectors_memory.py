"""Vector indexes of the store in memory: the reference, a scan of everything."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from mastra_nb import conditions
from mastra_nb.stores import _rules as rules
from mastra_nb.stores import _vector_rules as vector_rules
from mastra_nb.stores._words import asked, indexed
from mastra_nb.vectors import (
    TOP_K,
    Dtype,
    Explained,
    Filter,
    Fusion,
    Hit,
    IndexInfo,
    IndexStats,
    Metric,
    Vector,
    VectorRecord,
    Vectors,
)

_WHY = "a store in memory looks at every entry"


class _Entry(msgspec.Struct):
    no: int
    id: str
    text: str
    metadata: str
    vector: bytes | None

    def record(self, info: IndexInfo, include_vector: bool) -> VectorRecord:
        vector = self.vector if include_vector else None
        return VectorRecord(
            id=self.id,
            text=self.text,
            metadata=msgspec.json.decode(self.metadata),
            vector=None if vector is None else vector_rules.wide(vector, info),
        )


class _Index:
    def __init__(self, info: IndexInfo) -> None:
        self.info = info
        self.entries: dict[str, _Entry] = {}
        self.last = 0

    def chosen(self, filter: Filter | None) -> list[_Entry]:
        """In order of insertion."""
        condition = conditions.parse(filter)
        found = [
            e
            for e in self.entries.values()
            if not filter or conditions.matches(condition, msgspec.json.decode(e.metadata))
        ]
        return sorted(found, key=lambda e: e.no)


class MemoryVectors:
    def __init__(self, check: Callable[[], object]) -> None:
        """`check` raises if the store is closed."""
        self._check = check
        self._lock = threading.RLock()
        self._indexes: dict[str, _Index] = {}

    def _index(self, name: str) -> _Index:
        self._check()
        found = self._indexes.get(name)
        if found is None:
            raise vector_rules.no_index(name, [*self._indexes])
        return found

    async def create_index(
        self,
        name: str,
        *,
        dimension: int,
        metric: Metric = "cosine",
        dtype: Dtype = "float32",
        embedder: str = "",
        metadata_indexes: Sequence[str] = (),
    ) -> IndexInfo:
        keys = tuple(metadata_indexes)
        vector_rules.check_index(name, dimension, metric, dtype, embedder, keys)
        self._check()
        wanted = IndexInfo(
            name=name, dimension=dimension, metric=metric, dtype=dtype, embedder=embedder,
            metadata_indexes=keys, created=time.time(),
        )  # fmt: skip
        with self._lock:
            there = self._indexes.get(name)
            if there is None:
                self._indexes[name] = _Index(wanted)
            else:
                vector_rules.same_index(there.info, wanted)
                both = tuple(dict.fromkeys((*there.info.metadata_indexes, *keys)))
                there.info = msgspec.structs.replace(there.info, metadata_indexes=both)
            return await self.describe_index(name)

    async def list_indexes(self) -> list[str]:
        self._check()
        return sorted(self._indexes)

    async def describe_index(self, name: str) -> IndexInfo:
        index = self._index(name)
        return msgspec.structs.replace(index.info, count=len(index.entries))

    async def delete_index(self, name: str) -> bool:
        self._check()
        with self._lock:
            return self._indexes.pop(name, None) is not None

    async def upsert(
        self,
        name: str,
        vectors: Vectors | None = None,
        *,
        ids: Sequence[str] | None = None,
        texts: Sequence[str] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        delete_filter: Filter | None = None,
    ) -> list[str]:
        index = self._index(name)
        new = vector_rules.entries(index.info, vectors, ids, texts, metadata)
        rows = None if new.rows is None else vector_rules.blobs(new.rows, index.info.dtype)
        condition = None if delete_filter is None else conditions.parse(delete_filter)
        with self._lock:
            if condition is not None:
                kept = {*new.ids}
                for entry in index.chosen(delete_filter):
                    if entry.id not in kept:
                        del index.entries[entry.id]
            for at, id in enumerate(new.ids):
                old = index.entries.get(id)
                if old is None:
                    index.last += 1
                index.entries[id] = _Entry(
                    no=index.last if old is None else old.no,
                    id=id,
                    text=new.texts[at],
                    metadata=new.metadata[at],
                    vector=None if rows is None else rows[at],
                )
        return new.ids

    async def query(
        self,
        name: str,
        vector: Vector | None = None,
        *,
        text: str | None = None,
        top_k: int = TOP_K,
        filter: Filter | None = None,
        min_score: float | None = None,
        exact: bool = False,
        include_vector: bool = False,
        fusion: Fusion = "score",
    ) -> list[Hit]:
        index = self._index(name)
        info = index.info
        vector_rules.check_query(info, vector, text, top_k, fusion)
        with self._lock:
            entries = {e.no: e for e in index.chosen(filter)}
            near = {} if vector is None else self._near(info, entries, vector)
            words = {} if text is None else self._words(index, entries, text)
        found = vector_rules.ranked(
            near if vector is not None else None,
            words if text is not None else None,
            top_k,
            min_score,
            fusion,
        )
        return [
            vector_rules.hit(entries[no].record(info, include_vector), score, a, b)
            for no, score, a, b in found
        ]

    def _near(
        self, info: IndexInfo, entries: Mapping[int, _Entry], vector: Vector
    ) -> dict[int, float]:
        query = vector_rules.as_row(vector, info).astype(np.float64)
        if not entries:
            return {}
        stored = [e.vector for e in entries.values() if e.vector is not None]
        rows = vector_rules.floats(stored, info).astype(np.float64)
        return dict(
            zip(entries, map(float, vector_rules.scores(rows, query, info.metric)), strict=True)
        )

    def _words(self, index: _Index, entries: Mapping[int, _Entry], text: str) -> dict[int, float]:
        """Okapi BM25 (k1 1.2, b 0.75), words cut to a stem as simply as may be."""
        wanted = {_stem(w) for w in asked(text)}
        said = {e.no: [_stem(w) for w in asked_all(e.text)] for e in index.entries.values()}
        average = sum(map(len, said.values())) / max(1, len(said)) or 1.0
        holding = Counter(w for words in said.values() for w in {*words} & wanted)
        n = len([1 for words in said.values() if words])
        found: dict[int, float] = {}
        for no in entries:
            counts = Counter(w for w in said[no] if w in wanted)
            score = 0.0
            for word, count in counts.items():
                rarity = max(1e-6, math.log((n - holding[word] + 0.5) / (holding[word] + 0.5)))
                length = 1 - 0.75 + 0.75 * len(said[no]) / average
                score += rarity * count * 2.2 / (count + 1.2 * length)
            if counts:
                found[no] = score
        return found

    async def get(
        self, name: str, ids: Sequence[str], *, include_vector: bool = False
    ) -> list[VectorRecord]:
        index = self._index(name)
        with self._lock:
            found = [index.entries[id] for id in ids if id in index.entries]
        return [e.record(index.info, include_vector) for e in found]

    async def find(
        self,
        name: str,
        *,
        filter: Filter | None = None,
        limit: int = 100,
        offset: int = 0,
        include_vector: bool = False,
    ) -> list[VectorRecord]:
        index = self._index(name)
        limit, offset = rules.at_most(limit), rules.at_most(offset)
        with self._lock:
            found = index.chosen(filter)[offset : offset + limit]
        return [e.record(index.info, include_vector) for e in found]

    async def update(
        self,
        name: str,
        *,
        ids: Sequence[str] | None = None,
        filter: Filter | None = None,
        vector: Vector | None = None,
        text: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> int:
        index = self._index(name)
        vector_rules.exactly_one(ids, filter)
        row = vector_rules.changed_row(index.info, vector)
        vector_rules.check_change(text, metadata)
        with self._lock:
            found = self._named(index, ids, filter)
            made = [
                msgspec.structs.replace(
                    e,
                    text=e.text if text is None else text,
                    metadata=(
                        e.metadata if metadata is None
                        else vector_rules.merged(e.metadata, metadata)
                    ),
                    vector=e.vector if row is None else row,
                )
                for e in found
            ]  # fmt: skip
            index.entries |= {e.id: e for e in made}
        return len(found)

    async def delete(
        self, name: str, *, ids: Sequence[str] | None = None, filter: Filter | None = None
    ) -> int:
        index = self._index(name)
        vector_rules.exactly_one(ids, filter)
        with self._lock:
            found = self._named(index, ids, filter)
            for entry in found:
                del index.entries[entry.id]
        return len(found)

    def _named(
        self, index: _Index, ids: Sequence[str] | None, filter: Filter | None
    ) -> list[_Entry]:
        if ids is None:
            return index.chosen(filter)
        return [index.entries[id] for id in dict.fromkeys(ids) if id in index.entries]

    async def count(self, name: str, *, filter: Filter | None = None) -> int:
        index = self._index(name)
        with self._lock:
            return len(index.chosen(filter))

    async def stats(self, name: str) -> IndexStats:
        info = await self.describe_index(name)
        engine = "exact" if info.dimension else "words"
        return IndexStats(info=info, engine=engine, why=_WHY)

    async def explain(
        self,
        name: str,
        vector: Vector | None = None,
        *,
        text: str | None = None,
        top_k: int = TOP_K,
        filter: Filter | None = None,
        exact: bool = False,
    ) -> Explained:
        started = time.perf_counter()
        await self.query(name, vector, text=text, top_k=top_k, filter=filter, exact=exact)
        ms = (time.perf_counter() - started) * 1000
        return Explained(
            engine="exact" if vector is not None else "words",
            why=_WHY,
            candidates=await self.count(name, filter=filter),
            ms={"all": ms},
        )


def asked_all(text: str) -> list[str]:
    """All words of a text, as often as they come."""
    return [w.lower() for w in vector_rules.WORD.findall(indexed(text))]


def _stem(word: str) -> str:
    for end in ("ing", "ed", "es", "s"):
        if word.endswith(end) and len(word) > len(end) + 2:
            return word.removesuffix(end)
    return word
