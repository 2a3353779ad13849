"""Vector indexes: what a store of them must do, and the values it takes and gives.

The contract suite in `mastra_nb.testing` is the other half of this file. Filters are those of
`mastra_nb.conditions`; they hold before the search, so an answer is never short of a hit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import msgspec

if TYPE_CHECKING:
    import numpy as np

Metric = Literal["cosine", "euclidean", "dotproduct"]
Dtype = Literal["float32", "int8"]
Fusion = Literal["score", "rank"]
Filter: TypeAlias = Mapping[str, Any]
Vector: TypeAlias = "bytes | Sequence[float] | np.ndarray[Any, Any]"
"""One vector; bytes are little-endian float32, as in `EmbedReply.rows`."""
Vectors: TypeAlias = "Sequence[Vector] | np.ndarray[Any, Any]"
"""Several: shape (n, dimension)."""

TOP_K = 10


class IndexInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An index. `dimension` 0 keeps texts only and answers by words. `embedder` names who makes
    its vectors ("provider/model"), "" if nobody has said. `metadata_indexes` are the keys of the
    metadata that a filter finds without a scan. `created` is in seconds since the epoch.
    """

    name: str
    dimension: int
    metric: Metric = "cosine"
    dtype: Dtype = "float32"
    embedder: str = ""
    metadata_indexes: tuple[str, ...] = ()
    count: int = 0
    created: float = 0.0


class VectorRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored under an id; `vector` is little-endian float32, None if not asked for."""

    id: str
    text: str = ""
    metadata: dict[str, Any] = {}
    vector: bytes | None = None


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """An answer to a query. `score`, the higher the better, is the cosine similarity, the dot
    product or 1 / (1 + euclidean distance); of a query by words alone its BM25 (positive); of both
    0.4 of the similarity and 0.6 of the BM25, each brought to 0 to 1 within its list (Bruch et al.
    2023), or with fusion "rank" the sum of 1 / (60 + rank) (reciprocal rank fusion, Cormack et al.
    2009). `similarity` and `bm25` are what was fused, None for a list that does not hold it.
    """

    id: str
    score: float
    text: str = ""
    metadata: dict[str, Any] = {}
    similarity: float | None = None
    bm25: float | None = None
    vector: bytes | None = None


class IndexStats(msgspec.Struct, frozen=True, kw_only=True):
    """`engine` answers queries without a filter now: "none" (nothing was asked yet), "exact" (a
    scan of all vectors), "sketch" (one bit a coordinate, then exact), "sqlite-vec" or "words".
    `recall` is what the sketch was measured at against the exact scan (None: it is exact), `bits`
    and `oversample` what it uses. `memory` and `disk` are bytes, of the engine and of the table.
    `why` says in words why it is this engine.
    """

    info: IndexInfo
    engine: str
    why: str = ""
    recall: float | None = None
    bits: int = 0
    oversample: int = 0
    memory: int = 0
    disk: int = 0


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """How a query is answered: the engine, how many entries the filter leaves, the SQL of the
    filter (values bound, never written into it), whether an index of metadata is used, and the
    milliseconds of each stage.
    """

    engine: str
    why: str = ""
    candidates: int = 0
    filter_sql: str = ""
    uses_index: bool = False
    ms: dict[str, float] = {}


class VectorStore(Protocol):
    """Every method raises NotFound for an index that is not there, SchemaError for what does not
    fit it (dimension, NaN in a vector, metadata that is no JSON; a NaN there becomes null, as it is
    a missing value of a table), ConfigError for a filter that cannot be read.
    """

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
        """The index; one that is there already with the same dimension, metric, dtype and embedder
        stays as it is (metadata indexes are added). Raises Conflict if they differ.
        """
        ...

    async def list_indexes(self) -> list[str]: ...

    async def describe_index(self, name: str) -> IndexInfo: ...

    async def delete_index(self, name: str) -> bool: ...

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
        """Insert or replace, all or none; returns the ids (random ones if none are given).

        What `delete_filter` matches and is not among the ids is deleted in the same transaction.
        `vectors` None needs an index of dimension 0.
        """
        ...

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
        """The best `top_k` entries, best first: nearest to `vector`, matching the words of `text`
        (any of them; best match first), or both fused, as `fusion` says (see `Hit`). Ties are in
        order of insertion. `min_score` is a bound on the similarity of a query with a vector, on
        the BM25 else.
        """
        ...

    async def get(
        self, name: str, ids: Sequence[str], *, include_vector: bool = False
    ) -> list[VectorRecord]:
        """Those that are there, in the order of `ids`."""
        ...

    async def find(
        self,
        name: str,
        *,
        filter: Filter | None = None,
        limit: int = 100,
        offset: int = 0,
        include_vector: bool = False,
    ) -> list[VectorRecord]:
        """In order of insertion."""
        ...

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
        """Change the entries of the ids or of the filter (exactly one of them); keys of `metadata`
        are merged, None deletes a key. Returns how many there were.
        """
        ...

    async def delete(
        self, name: str, *, ids: Sequence[str] | None = None, filter: Filter | None = None
    ) -> int:
        """Exactly one of `ids` and `filter`; an empty filter matches all. Returns how many."""
        ...

    async def count(self, name: str, *, filter: Filter | None = None) -> int: ...

    async def stats(self, name: str) -> IndexStats: ...

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
        """Runs the query and says how."""
        ...
