"""What every vector store of this family decides alike: what goes in, and how lists are fused."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mastra_nb.errors import ConfigError, Conflict, NotFound, SchemaError, close_matches
from mastra_nb.stores import _rules as rules
from mastra_nb.vectors import Dtype, Fusion, Hit, IndexInfo, Metric, Vector, VectorRecord, Vectors

Floats = NDArray[np.float32]

MOST_DIMENSIONS = 16_384
WORD = re.compile(r"\w+")
RANKS = 60  # of reciprocal rank fusion, Cormack et al. 2009
# Of a fused score, what the vector gives; chosen on half of the queries of tests/bench/quality.py
VECTOR_SHARE = 0.4
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*){0,7}")


class Entries(msgspec.Struct, frozen=True):
    """What an upsert writes: columns of one length; `rows` None for an index of texts."""

    ids: list[str]
    texts: list[str]
    metadata: list[str]
    rows: Floats | None


def check_index(
    name: str,
    dimension: int,
    metric: Metric,
    dtype: Dtype,
    embedder: str,
    metadata_indexes: Sequence[str],
) -> None:
    rules.check_names(name, embedder)
    if not name:
        raise ConfigError("an index needs a name")
    if not 0 <= dimension <= MOST_DIMENSIONS:
        raise ConfigError(
            f'the dimension of "{name}" is {dimension}', hint=f"it is 0 to {MOST_DIMENSIONS}"
        )
    for what, value, known in (
        ("metric", metric, ("cosine", "euclidean", "dotproduct")),
        ("dtype", dtype, ("float32", "int8")),
    ):
        if value not in known:
            raise ConfigError(f'there is no {what} "{value}"', hint=", ".join(known))
    if dtype == "int8" and metric != "cosine":
        raise ConfigError(
            f'"{name}" cannot be int8 and {metric}',
            hint='int8 keeps directions, not lengths: metric="cosine", or dtype="float32"',
        )
    for key in metadata_indexes:
        if not _KEY.fullmatch(key):
            raise ConfigError(
                f"{key!a} cannot be a metadata index", hint='letters, digits and "_": "author.name"'
            )


def same_index(there: IndexInfo, wanted: IndexInfo) -> None:
    """Raises Conflict for one that is there already and is another."""
    for field in ("dimension", "metric", "dtype", "embedder"):
        old, new = getattr(there, field), getattr(wanted, field)
        if old != new:
            raise Conflict(
                f'the index "{there.name}" has {field} "{old}", not "{new}"',
                hint="use another name, or delete_index() and fill it again",
                details={"index": there.name, field: old},
            )


def no_index(name: str, known: Sequence[str]) -> NotFound:
    hint = close_matches(name, known) if known else "create_index() makes one"
    return NotFound(f'there is no index "{name}"', hint=hint)


def as_rows(vectors: Vectors, info: IndexInfo) -> Floats:
    """Shape (n, dimension), finite."""
    if isinstance(vectors, np.ndarray):
        if vectors.ndim != 2:
            raise SchemaError(
                f"the vectors have shape {vectors.shape}", hint=f"give (n, {info.dimension})"
            )
        if vectors.shape[1] != info.dimension:
            raise _other_dimension(info, vectors.shape[1], 0)
        rows = _floats(vectors)
    elif vectors and all(isinstance(v, bytes) for v in vectors):
        for at, vector in enumerate(vectors):
            assert isinstance(vector, bytes)
            if len(vector) != 4 * info.dimension:
                raise _other_dimension(info, len(vector) / 4, at)
        flat = np.frombuffer(b"".join(vectors), dtype="<f4")  # type: ignore[arg-type]
        rows = flat.astype(np.float32).reshape(len(vectors), info.dimension)
    else:
        rows = np.empty((len(vectors), info.dimension), np.float32)
        for at, vector in enumerate(vectors):
            one = _one(vector)
            if one.shape != (info.dimension,):
                raise _other_dimension(info, one.size, at)
            rows[at] = one
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise SchemaError(
            f"vector {int(np.argmin(finite))} has a number that is not finite",
            hint="NaN and infinity have no distance: look at where it comes from",
        )
    return rows


def as_row(vector: Vector, info: IndexInfo) -> Floats:
    one = _one(vector)
    if one.shape != (info.dimension,):
        raise _other_dimension(info, one.size, None)
    row: Floats = as_rows(one[None], info)[0]
    return row


def _one(vector: Vector) -> Floats:
    if isinstance(vector, bytes):
        if len(vector) % 4:
            raise SchemaError(f"a vector of {len(vector)} bytes", hint="4 bytes a number: float32")
        one: Floats = np.frombuffer(vector, dtype="<f4").astype(np.float32)
        return one
    return _floats(vector)


def _floats(values: Any) -> Floats:
    try:
        with np.errstate(over="ignore"):
            if isinstance(values, np.ndarray) and values.dtype.kind == "c":
                raise TypeError("complex numbers have no order")
            found: Floats = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise SchemaError(f"no vector: {error}", hint="a vector is a list of numbers") from None
    return found


def _other_dimension(info: IndexInfo, found: float, at: int | None) -> SchemaError:
    which = "the vector" if at is None else f"vector {at}"
    made = f'"{info.embedder}", which' if info.embedder else "the embedder that"
    return SchemaError(
        f'{which} has {found:g} numbers, the index "{info.name}" takes {info.dimension}',
        hint=f"use {made} filled it, or an index of another name",
        code="vectors.dimension",
        details={"index": info.name, "dimension": info.dimension, "found": found},
    )


def entries(
    info: IndexInfo,
    vectors: Vectors | None,
    ids: Sequence[str] | None,
    texts: Sequence[str] | None,
    metadata: Sequence[Mapping[str, Any]] | None,
) -> Entries:
    if isinstance(ids, str) or isinstance(texts, str):
        raise SchemaError("ids and texts are lists", hint='ids=["a", "b"]')
    rows = None
    if vectors is not None and info.dimension:
        rows = as_rows(vectors, info)
    elif vectors is None and info.dimension:
        raise SchemaError(
            f'the index "{info.name}" needs vectors of {info.dimension} numbers',
            hint="embed the texts first; an index of dimension 0 keeps texts only",
        )
    elif vectors is not None and len(vectors):
        raise SchemaError(f'the index "{info.name}" keeps texts only', hint="leave the vectors out")
    columns: dict[str, Sequence[Any] | Floats | None] = {
        "vectors": rows, "ids": ids, "texts": texts, "metadata": metadata,
    }  # fmt: skip
    counts = {name: len(column) for name, column in columns.items() if column is not None}
    if len({*counts.values()}) != 1:
        shown = ", ".join(f"{n} {name}" for name, n in counts.items()) or "nothing"
        raise SchemaError(f"an upsert of {shown}", hint="give as many of each")
    n = next(iter(counts.values()))
    made = [os.urandom(12).hex() for _ in range(n)] if ids is None else [*ids]
    said = [""] * n if texts is None else [*texts]
    for what, values in (("id", made), ("text", said)):
        for at, value in enumerate(values):
            if not isinstance(value, str):
                raise SchemaError(f"{what} {at} is a {type(value).__name__}", hint="give a str")
        rules.check_names(*values)
    if len({*made}) < n:
        twice = next(id for id in made if made.count(id) > 1)
        raise SchemaError(f"the id {twice!a} is given twice", hint="ids tell entries apart")
    facts = ["{}"] * n if metadata is None else [facts_json(m, at) for at, m in enumerate(metadata)]
    return Entries(made, said, facts, rows)


def facts_json(metadata: Mapping[str, Any], at: int | None = None) -> str:
    which = "The metadata" if at is None else f"Metadata {at}"
    if not isinstance(metadata, Mapping):
        raise SchemaError(f"{which} is a {type(metadata).__name__}", hint="give a dict")
    return rules.filtered_json(dict(metadata), which)


def merged(old: str, changes: Mapping[str, Any]) -> str:
    both = {**msgspec.json.decode(old), **changes}
    return facts_json({k: v for k, v in both.items() if v is not None})


def exactly_one(ids: object, filter: object) -> None:
    if (ids is None) == (filter is None):
        raise ConfigError("name the entries by ids or by a filter, one of them")


def unit(rows: Floats) -> Floats:
    norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    norms[norms == 0] = 1
    made: Floats = (rows / norms).astype(np.float32)
    return made


def blobs(rows: Floats, dtype: Dtype) -> list[bytes]:
    """As sqlite-vec reads them: little-endian float32, or int8 of the unit vector times 127."""
    if dtype == "int8":
        small = np.rint(unit(rows) * 127).astype(np.int8)
        data, width = small.tobytes(), small.shape[1]
    else:
        data, width = rows.astype("<f4").tobytes(), 4 * rows.shape[1]
    return [data[i : i + width] for i in range(0, len(data), width)]


def floats(stored: Sequence[bytes], info: IndexInfo) -> Floats:
    """The rows that were stored; int8 come back as what they stand for."""
    flat = np.frombuffer(b"".join(stored), dtype="i1" if info.dtype == "int8" else "<f4")
    rows: Floats = flat.astype(np.float32).reshape(len(stored), info.dimension)
    if info.dtype == "int8":
        rows /= np.float32(127)
    return rows


def wide(stored: bytes, info: IndexInfo) -> bytes:
    """One as little-endian float32."""
    return stored if info.dtype == "float32" else floats([stored], info).astype("<f4").tobytes()


def pool(top_k: int) -> int:
    """How many of each list are fused."""
    return max(50, 4 * top_k)


def fused(
    near: Mapping[int, float], words: Mapping[int, float], fusion: Fusion = "score"
) -> list[tuple[int, float]]:
    """Numbers and scores, the best first, ties by the smaller number; both are best first. By
    "score" they are brought to 0 (their last) to 1 (their first) and added, weighted: how much
    better the first is than the others counts, which a rank does not tell.
    """
    scores: dict[int, float] = {}
    for share, each in ((VECTOR_SHARE, near), (1 - VECTOR_SHARE, words)):
        if fusion == "rank":
            for rank, no in enumerate(each, 1):
                scores[no] = scores.get(no, 0.0) + 1 / (RANKS + rank)
        elif each:
            low, high = min(each.values()), max(each.values())
            span = high - low
            for no, score in each.items():
                part = (score - low) / span if 0 < span < math.inf else 1.0
                scores[no] = scores.get(no, 0.0) + share * part
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def scores(rows: NDArray[np.float64], query: NDArray[np.float64], metric: Metric) -> Any:
    """Of each row, as of `vectors.Hit`."""
    if metric == "euclidean":
        return 1 / (1 + np.linalg.norm(rows - query, axis=1))
    found = rows @ query
    if metric == "cosine":
        norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
        found = np.divide(found, norms, out=np.zeros_like(found), where=norms > 0)
    return found


def check_query(
    info: IndexInfo, vector: Vector | None, text: str | None, top_k: int, fusion: Fusion
) -> None:
    if vector is None and text is None:
        raise ConfigError("a query needs a vector or a text", hint='query(name, text="…")')
    if vector is not None and not info.dimension:
        raise SchemaError(f'the index "{info.name}" keeps texts only', hint="query it by text=")
    if not isinstance(top_k, int | np.integer):
        raise ConfigError(f"top_k is a {type(top_k).__name__}", hint="it is an int")
    if text is not None and not isinstance(text, str):
        raise ConfigError(f"the text is a {type(text).__name__}", hint="it is a str")
    if top_k < 0:
        raise ConfigError(f"top_k is {top_k}", hint="it is 0 or more")
    if fusion not in ("score", "rank"):
        raise ConfigError(f'there is no fusion "{fusion}"', hint='"score" or "rank"')
    rules.check_names(text)


def changed_row(info: IndexInfo, vector: Vector | None) -> bytes | None:
    if vector is None:
        return None
    if not info.dimension:
        raise SchemaError(f'the index "{info.name}" keeps texts only', hint="leave the vector out")
    return blobs(as_row(vector, info)[None], info.dtype)[0]


def check_change(text: str | None, metadata: Mapping[str, Any] | None) -> None:
    rules.check_names(text)
    if metadata is not None:
        facts_json(metadata)


def ranked(
    near: Mapping[int, float] | None,
    words: Mapping[int, float] | None,
    top_k: int,
    min_score: float | None,
    fusion: Fusion,
) -> list[tuple[int, float, float | None, float | None]]:
    """(no, score, similarity, bm25), the best first, ties by the smaller number. `near` holds at
    least those that are in `words`, if it is not None.
    """
    if near is not None and min_score is not None:
        near = {no: s for no, s in near.items() if s >= min_score}
        words = None if words is None else {no: s for no, s in words.items() if no in near}
    elif near is None and words is not None and min_score is not None:
        words = {no: s for no, s in words.items() if s >= min_score}
    if near is None or words is None:
        found = [*(near if near is not None else words or {}).items()]
        found.sort(key=lambda item: (-item[1], item[0]))
        return [
            (no, s, s, None) if near is not None else (no, s, None, s) for no, s in found[:top_k]
        ]
    most = pool(top_k)
    lists = [
        dict(sorted(each.items(), key=lambda item: (-item[1], item[0]))[:most])
        for each in (near, words)
    ]
    both = fused(lists[0], lists[1], fusion)[:top_k]
    return [(no, score, lists[0].get(no), lists[1].get(no)) for no, score in both]


def hit(record: VectorRecord, score: float, similarity: float | None, bm25: float | None) -> Hit:
    return Hit(
        id=record.id,
        score=score,
        text=record.text,
        metadata=record.metadata,
        similarity=similarity,
        bm25=bm25,
        vector=record.vector,
    )
