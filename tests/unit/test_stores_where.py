"""A filter in SQL finds what `conditions.matches` finds, by an index or without one."""

from __future__ import annotations

import apsw
import msgspec
import pytest
from hypothesis import given, settings

from mastra_nb import conditions
from mastra_nb.stores._rules import _has_nul_key
from mastra_nb.stores._where import Where, index_names, index_terms
from mastra_nb.stores.sqlite import open_store
from tests.filters_strategies import filters_and_metadata


@pytest.fixture(scope="module")
def db():
    db = apsw.Connection(":memory:")
    db.execute("CREATE TABLE vector (no INTEGER PRIMARY KEY, idx INTEGER, metadata TEXT)")
    db.execute("CREATE INDEX vector_change ON vector (idx)")
    for name, term in zip(index_names("a", 1), index_terms("a", 1), strict=True):
        db.execute(f"CREATE INDEX {name} ON {term}")
    yield db
    db.close()


def found(db, where: Where) -> set[int]:
    sql = f"SELECT no FROM {where.source(1)} WHERE idx = 1 AND {where.sql}"
    return {no for (no,) in db.execute(sql, where.values)}


@settings(max_examples=250, deadline=None)
@given(filters_and_metadata())
def test_sql_finds_what_matches(db, both) -> None:
    filter, given_metadata = both
    # Keys with a NUL are refused when they are written; values with one are not.
    facts = [m for m in given_metadata if not _has_nul_key(m)]
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
    sql = f"EXPLAIN QUERY PLAN SELECT no FROM {where.source(1)} WHERE v.idx = 1 AND {where.sql}"
    return any("SEARCH v USING INDEX vector_of_" in row[3] for row in db.execute(sql, where.values))


def test_values_are_bound() -> None:
    where = Where(conditions.parse({"a'b": "x'; DROP TABLE vector; --"}))
    assert "DROP" not in where.sql and any("DROP" in str(v) for v in where.values)


async def test_a_store_says_whether_it_used_the_index(tmp_path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/s.db")
    vectors = store.vectors
    await vectors.create_index("i", dimension=2, metadata_indexes=["author.name"])
    facts = [{"author": {"name": f"n{n}"}, "n": n} for n in range(200)]
    await vectors.upsert("i", [[1, n] for n in range(200)], metadata=facts)
    for filter, uses in (
        ({"author.name": "n7"}, True),
        ({"author": {"name": {"$in": ["n7"]}}}, True),
        ({"author.name": "n7", "n": {"$lt": 9}}, True),
        ({"author.name": {"$in": ["n7", *map(str, range(500))]}}, True),
        ({"$and": [{"n": {"$lt": 9}}, {"author.name": {"$all": ["n7"]}}]}, True),
        ({"author.name": {"$in": ["n7", 7]}}, False),
        ({"author.name": {"$gt": "n69", "$lt": "n70"}}, True),
        ({"n": 7}, False),
        ({"author.name": {"$ne": "n7"}}, False),
    ):
        told = await vectors.explain("i", [1, 0], filter=filter)
        assert (told.uses_index, told.candidates) == (uses, 199 if "$ne" in str(filter) else 1)
        assert "n7" not in told.filter_sql
        # What reads and what writes take the same way.
        assert await vectors.count("i", filter=filter) == told.candidates
        assert len(await vectors.find("i", filter=filter, limit=300)) == told.candidates
        assert await vectors.update("i", filter=filter, text="x") == told.candidates
        facts = {"author": {"name": "n7"}, "n": 7}
        await vectors.upsert(
            "i", [[1, 7]], ids=["again"], metadata=[facts], delete_filter={"$and": [filter, facts]}
        )
        assert await vectors.count("i", filter=filter) == told.candidates
    # An entry with an array at the key: the answer is still all of it.
    await vectors.upsert("i", [[1, 1]], metadata=[{"author": {"name": ["n7", "n8"]}}])
    assert await vectors.count("i", filter={"author.name": "n7"}) == 2
    await store.close()
