"""The rows of vector indexes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw
import msgspec

from mastra_nb import conditions
from mastra_nb.stores import _rules as rules
from mastra_nb.stores import _vector_rules as vector_rules
from mastra_nb.stores._engines import Index
from mastra_nb.stores._where import Where, any_array
from mastra_nb.vectors import IndexInfo, VectorRecord

MOST_GONE = 10_000

_INDEX = """SELECT no, name, dimension, metric, dtype, embedder, metadata_indexes, change,
    forgotten, created FROM vector_index"""


def found(db: apsw.Connection, query: str, values: Sequence[Any] = ()) -> list[Any]:
    """All rows, as tuples."""
    return db.execute(query, values).fetchall()


def find(db: apsw.Connection, name: str) -> Index | None:
    row = db.execute(f"{_INDEX} WHERE name = ?", (name,)).fetchone()
    if row is None:
        return None
    no, name, dimension, metric, dtype, embedder, keys, change, forgotten, created = row
    info = IndexInfo(
        name=name, dimension=dimension, metric=metric, dtype=dtype, embedder=embedder,
        metadata_indexes=tuple(msgspec.json.decode(keys)), created=created,
    )  # fmt: skip
    return Index(no, info, change, forgotten)


def need(db: apsw.Connection, name: str) -> Index:
    there = find(db, name)
    if there is None:
        names = [n for (n,) in found(db, "SELECT name FROM vector_index")]
        raise vector_rules.no_index(name, names)
    return there


def changed(db: apsw.Connection, name: str, as_it_was: Index | None) -> Index:
    """The index, its change counted. Raises NotFound if it is another one than it was."""
    now = need(db, name)
    if as_it_was is not None and now.no != as_it_was.no:
        raise vector_rules.no_index(name, [])
    db.execute("UPDATE vector_index SET change = change + 1 WHERE no = ?", (now.no,))
    return msgspec.structs.replace(now, change=now.change + 1)


def where(db: apsw.Connection, condition: conditions.Condition, index: Index) -> Where:
    asked = {".".join(path) for path in conditions.uses(condition)}
    indexed = {
        key: db.execute(any_array(key, index.no)).get is not None
        for key in index.info.metadata_indexes
        if key in asked
    }
    return Where(condition, indexed=indexed, scope=f"v.idx = {index.no}")


def named(
    db: apsw.Connection,
    index: Index,
    ids: Sequence[str] | None,
    condition: conditions.Condition | None,
    columns: str,
) -> list[Any]:
    rules.check_names(*(ids or ()))
    source = "vector v"
    if condition is None:
        sql, values = (
            "v.id IN (SELECT value FROM json_each(?))",
            [msgspec.json.encode(ids).decode()],
        )
    else:
        left = where(db, condition, index)
        sql, values, source = left.sql, left.values, left.source(index.no)
    query = f"SELECT {columns} FROM {source} WHERE v.idx = {index.no} AND {sql}"  # noqa: S608
    return found(db, query, values)


def drop(db: apsw.Connection, index: Index, nos: Sequence[int]) -> None:
    if not nos:
        return
    each = [(no,) for no in nos]
    db.executemany("DELETE FROM vector WHERE no = ?", each)
    db.executemany(f"DELETE FROM {index.words} WHERE rowid = ?", each)  # noqa: S608
    db.executemany(
        "INSERT INTO vector_gone (idx, change, no) VALUES (?, ?, ?)",
        [(index.no, index.change, no) for no in nos],
    )
    gone = db.execute("SELECT count(*) FROM vector_gone WHERE idx = ?", (index.no,)).get
    if gone > MOST_GONE:
        db.execute("DELETE FROM vector_gone WHERE idx = ?", (index.no,))
        db.execute("UPDATE vector_index SET forgotten = ? WHERE no = ?", (index.change, index.no))


def record(row: Any, info: IndexInfo, include_vector: bool) -> VectorRecord:
    id, facts, text, stored = row
    vector = vector_rules.wide(stored, info) if include_vector and stored is not None else None
    return VectorRecord(id=id, text=text, metadata=msgspec.json.decode(facts), vector=vector)
