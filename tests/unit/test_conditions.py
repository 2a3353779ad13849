from __future__ import annotations

import enum
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

import msgspec
import pytest
from hypothesis import given

from mastra_nb.conditions import AllOf, AnyOf, Not, matches, parse, uses
from mastra_nb.conditions import Test as Leaf
from mastra_nb.errors import ConfigError
from tests import filters_strategies as make

DOC = {
    "lang": "en",
    "year": 2020,
    "score": 0.5,
    "draft": False,
    "none": None,
    "tags": ["a", "b", 1],
    "empty": [],
    "author": {"name": "Ada", "born": {"year": 1815}, "0": "zero"},
    "items": [{"name": "x"}],
    "a.b": 1,
    "big": 2**63 + 1,
}


def holds(filter, doc=None) -> bool:
    return matches(parse(filter), DOC if doc is None else doc)


@pytest.mark.parametrize(
    "filter",
    [
        None, {}, {"lang": "en"}, {"lang": {"$eq": "en"}}, {"year": 2020.0}, {"draft": False},
        {"year": {"$gte": 2020, "$lt": 2021}}, {"lang": {"$gt": "e", "$lte": "en"}},
        {"none": None}, {"missing": None}, {"none": {"$exists": True}},
        {"missing": {"$exists": False}}, {"missing": {"$ne": 1}}, {"missing": {"$nin": [1]}},
        {"missing": {"$not": {"$gt": 1}}}, {"$nor": [{"missing": 1}]}, {"$not": {"lang": "de"}},
        {"tags": "a"}, {"tags": {"$in": ["x", "b"]}}, {"tags": {"$gte": 1}},
        {"tags": {"$all": ["a", "b"]}}, {"lang": {"$all": ["en"]}}, {"tags": {"$size": 3}},
        {"empty": {"$size": 0}}, {"tags": {"$contains": "a"}}, {"lang": {"$contains": "n"}},
        {"lang": {"$contains": ""}}, {"author.name": "Ada"}, {"author": {"name": "Ada"}},
        {"author": {"born.year": 1815}}, {"author.0": "zero"}, {"lang": ["de", "en"]},
        {"author": {"born": {"year": {"$lt": 1900}}}}, {"tags": {"$nin": []}},
        {"$and": []}, {"$nor": []}, {"$or": [{"year": 1}, {"lang": "en"}]}, {"big": 2**63},
        {"lang": {"$not": {"$not": {"$eq": "en"}}}}, {"author": {"$exists": True}},
        {"tags": {"$ne": None}}, {"author": {"$ne": None}},
    ],
)  # fmt: skip
def test_what_matches(filter):
    assert holds(filter)
    assert not holds({"$not": filter or {}})


@pytest.mark.parametrize(
    "filter",
    [
        {"lang": "EN"}, {"draft": 0}, {"year": "2020"}, {"year": True}, {"year": {"$gt": "1"}},
        {"lang": {"$gt": 1}}, {"draft": {"$gte": 0}}, {"tags": {"$nin": ["a"]}},
        {"tags": {"$ne": "a"}}, {"tags": {"$all": []}}, {"tags": {"$all": ["a", "x"]}},
        {"tags": {"$size": 2}}, {"lang": {"$size": 2}}, {"lang": {"$contains": "N"}},
        {"year": {"$contains": 2}}, {"lang": {"$in": []}}, {"$or": []}, {"items.name": "x"},
        {"items.0": {"$exists": True}}, {"a.b": 1}, {"tags": {"$contains": True}},
        {"none": {"$exists": False}}, {"none": {"$ne": None}}, {"empty": None},
        {"author": None}, {"tags.0": "a"}, {"none": {"$gte": 0}}, {"missing": {"$contains": None}},
    ],
)  # fmt: skip
def test_what_does_not_match(filter):
    assert not holds(filter)
    assert holds({"$nor": [filter]})


def test_values_are_compared_as_json_has_them():
    class Color(enum.Enum):
        RED = "red"

    doc = {
        "at": datetime(2024, 5, 1, tzinfo=UTC),
        "day": date(2024, 5, 1),
        "id": UUID(int=1),
        "price": Decimal("1.50"),
        "color": Color.RED,
        "raw": b"\0",
    }
    stored = msgspec.json.decode(msgspec.json.encode(doc))
    assert holds(doc, stored)
    assert holds({"day": {"$gt": date(2024, 4, 30)}}, stored)
    assert holds({"$not": {"day": {"$gt": date(2024, 5, 1)}}}, stored)


def test_the_tree():
    assert parse({}) == AllOf(())
    assert parse({"a.b": 1}) == Leaf(("a", "b"), "eq", 1)
    assert parse({"a": {"$ne": 1}}) == Not(Leaf(("a",), "eq", 1))
    assert parse({"a": {"$all": [1, 2]}}) == AllOf((Leaf(("a",), "eq", 1), Leaf(("a",), "eq", 2)))
    assert parse({"$or": [{"a": [1]}, {}]}) == AnyOf((Leaf(("a",), "in", (1,)), AllOf(())))
    both = parse({"a": 1, "$nor": [{"b.c": {"$exists": True}}, {"a": 2}]})
    assert uses(both) == {("a",), ("b", "c")}
    assert uses(parse(None)) == frozenset()


@pytest.mark.parametrize(
    ("filter", "code", "words"),
    [
        ({"a": {"$gtt": 1}}, "operator", ["$gtt", 'did you mean "$gt']),
        ({"$ro": []}, "operator", ["$ro", "$or"]),
        ({"$gt": 1}, "operator", ["needs a key"]),
        ({"a": {"$or": [1]}}, "operator", ["beside keys"]),
        ({"a": {"$eq": 1, "b": 2}}, "operator", ["beside the operator"]),
        ({"a": {"$regex": "x"}}, "operator", ["$regex"]),
        ({"": 1}, "key", []),
        ({"a..b": 1}, "key", ["a..b"]),
        ({"a.$b": 1}, "key", []),
        ({"a\0": 1}, "key", ["\\x00"]),
        ({"a\x85": 1}, "key", []),
        ({"\ud800": 1}, "value", []),
        ({1: 1}, "key", []),
        ({"a": "\ud800"}, "value", []),
        ({"a": {}}, "value", ["empty object"]),
        ({"a": {"$eq": [1]}}, "value", ["$in"]),
        ({"a": {"$eq": {"b": 1}}}, "value", []),
        ({"a": {"$in": 1}}, "value", ["list"]),
        ({"a": {"$in": [[1]]}}, "value", []),
        ({"a": {"$gt": None}}, "value", ["order"]),
        ({"a": {"$gt": True}}, "value", ["order"]),
        ({"a": {"$gt": Decimal(1)}}, "value", ["float"]),
        ({"a": {"$size": -1}}, "value", []),
        ({"a": {"$size": True}}, "value", []),
        ({"a": {"$exists": 1}}, "value", []),
        ({"a": {"$not": 1}}, "value", ["$ne"]),
        ({"a": float("nan")}, "value", []),
        ({"a": 10**400}, "value", []),
        ({"a": object()}, "value", ["object"]),
        ({"$and": {"a": 1}}, "value", ["list"]),
        ({"$or": [1]}, "value", []),
        ({"$not": [1]}, "value", []),
        ([], "value", []),
        ({"$or": [{"a": n} for n in range(300)]}, "limit", ["256"]),
        ({"a": {"$in": list(range(10_001))}}, "limit", ["10000"]),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(filter, code, words):
    with pytest.raises(ConfigError) as caught:
        parse(filter)
    assert caught.value.code == f"filter.{code}"
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "wrap", [lambda f: {"$not": f}, lambda f: {"a": f}, lambda f: {"$or": [f]}]
)
def test_depth_is_limited(wrap):
    filter = {"a": 1}
    for _ in range(100_000):
        filter = wrap(filter)
    with pytest.raises(ConfigError, match="deeper") as caught:
        parse(filter)
    assert caught.value.code == "filter.limit"
    while filter != {"a": 1}:  # a nest this deep cannot be freed by recursion
        ((_, filter),) = filter.items()
        filter = filter[0] if isinstance(filter, list) else filter


@given(make.filters_and_metadata())
def test_opposites(pair):
    filter, items = pair
    for item in items:
        found = holds(filter, item)
        assert holds({"$nor": [filter]}, item) is not found
        assert holds({"$or": [filter, {"$or": []}]}, item) is found
        again = msgspec.json.decode(msgspec.json.encode(item))
        assert holds(filter, again) is found


@given(make.paths, make.scalars, make.metadata)
def test_laws_of_operators(path, value, item):
    assert holds({path: {"$in": [value]}}, item) == holds({path: value}, item)
    assert holds({path: {"$all": [value]}}, item) == holds({path: value}, item)
    assert holds({path: {"$nin": [value]}}, item) != holds({path: value}, item)
    if value is not None and not isinstance(value, bool):
        for strict, loose in (("$gt", "$gte"), ("$lt", "$lte")):
            either = holds({path: {strict: value}}, item) or holds({path: value}, item)
            assert holds({path: {loose: value}}, item) == either


@given(make.metadata)
def test_a_filter_finds_its_own_metadata(item):
    for path, value in make.held_values(item):
        assert holds({path: value}, item)
        assert holds({path: {"$exists": True}}, item)
