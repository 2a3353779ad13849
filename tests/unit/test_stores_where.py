"""A filter in SQL finds what `conditions.matches` finds, by an index or without one."""

from __future__ import annotations

import apsw
import msgspec
import pytest
from hypothesis import given, settings

from mastra_nb import conditions
from mastra_nb.stores._where import Where, index_terms
from tests.filters_strategies import filters_and_metadata


@pytest.fixture(scope="module")
def db():
    db = apsw.Connection(":memory:")
    db.execute("CREATE TABLE vector (no INTEGER PRIMARY KEY, idx INTEGER, metadata TEXT)")
    for name, term in zip("vw", index_terms("a", 1), strict=True):
        db.execute(f"CREATE INDEX {name} ON {term}")
    yield db
    db.close()


def found(db, where: Where) -> set[int]:
    sql = f"SELECT no FROM vector AS v WHERE idx = 1 AND {where.sql}"
    return {no for (no,) in db.execute(sql, where.values)}


@settings(max_examples=300, deadline=None)
@given(filters_and_metadata())
def test_sql_finds_what_matches(db, both) -> None:
    filter, given_metadata = both
    facts = [m for m in given_metadata if b"\\u0000" not in msgspec.json.encode(m)]
    condition = conditions.parse(filter)
    want = {no for no, m in enumerate(facts) if conditions.matches(condition, m)}
    with db:
        db.execute("DELETE FROM vector")
        rows = [(no, msgspec.json.encode(m).decode()) for no, m in enumerate(facts)]
        db.executemany("INSERT INTO vector VALUES (?, 1, ?)", rows)
    arrays = any(isinstance(m.get("a"), list) for m in facts)
    assert found(db, Where(condition)) == want
    assert found(db, Where(condition, indexed={"a": arrays}, scope="v.idx = 1")) == want


@pytest.mark.parametrize("arrays", [False, True])
@pytest.mark.parametrize(
    "filter",
    [{"a": 1}, {"a": {"$gt": 1}}, {"a": {"$in": ["x", "y"]}}, {"$and": [{"a": "x"}, {"b": 2}]}],
    ids=str,
)
def test_an_indexed_key_is_searched_by_its_index(db, filter, arrays: bool) -> None:
    condition = conditions.parse(filter)
    asked = Where(condition, indexed={"a": arrays}, scope="v.idx = 1")
    assert searched(db, asked) is not arrays
    assert not searched(db, Where(condition))


def searched(db, where: Where) -> bool:
    """Whether SQLite goes to entries by the index, instead of looking at all of them."""
    sql = f"EXPLAIN QUERY PLAN SELECT no FROM vector AS v WHERE v.idx = 1 AND {where.sql}"
    return any("SEARCH v USING INDEX v " in row[3] for row in db.execute(sql, where.values))


def test_values_are_bound() -> None:
    where = Where(conditions.parse({"a'b": "x'; DROP TABLE vector; --"}))
    assert "DROP" not in where.sql and any("DROP" in str(v) for v in where.values)
