"""Filters and metadata for property tests: what they find in each other, and what is ugly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

# Few of each, so that filters meet metadata that holds them. A key with a dot can be stored, but no
# filter names it: "a.b" is the path a, b.
KEYS = ("a", "b", "0", "a'b", 'a"b', "a b", "ü😀", "a[0]", "%", "\\", "A", "a\\u0062", "null")
UNNAMED = ("a.b", "", "$a", "a\0b", ".", "a\nb")
NUMBERS = (
    0, 1, 2, -1, 1.0, -0.0, 0.5, 2**53, 2**53 + 1, float(2**53), 2**63 - 1, -(2**63), 2**63,
    float(2**63), 2**64, -(2**64), 10**30, 1e30, 5e-324, 1.7976931348623157e308, 0.1, 1e16,
)  # fmt: skip
TEXTS = ("", "a", "A", "ab", "b", "1", "null", "true", "ü", "😀", "\ud7ff", "\ue000", "a'b", 'a"b',
         "a%", "a_", "\\", "\0", "a\0b", "a\nb")  # fmt: skip

keys = st.sampled_from(KEYS)
numbers = (
    st.sampled_from(NUMBERS)
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
)
texts = st.sampled_from(TEXTS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    scalars | st.lists(scalars, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS + UNNAMED), inner, max_size=3)
    ),
    max_leaves=6,
)
metadata = st.dictionaries(st.sampled_from(KEYS + UNNAMED), values, max_size=5)
"""JSON objects, as they are decoded."""

paths = st.lists(keys, min_size=1, max_size=3).map(".".join)


ordered = numbers | texts
operators = st.fixed_dictionaries(
    {},
    optional={
        "$eq": scalars,
        "$ne": scalars,
        "$gt": ordered,
        "$gte": ordered,
        "$lt": ordered,
        "$lte": ordered,
        "$in": st.lists(scalars, max_size=3),
        "$nin": st.lists(scalars, max_size=3),
        "$all": st.lists(scalars, max_size=3),
        "$size": st.integers(0, 3),
        "$contains": scalars,
        "$exists": st.booleans(),
    },
).filter(bool)
conditions = (
    scalars
    | st.lists(scalars, max_size=3)
    | operators
    | st.builds(lambda inner: {"$not": inner}, operators)
    | st.dictionaries(keys, scalars, min_size=1, max_size=1)
)
lists_of = st.sampled_from(["$and", "$or", "$nor"])
filters = st.recursive(
    st.dictionaries(paths, conditions, max_size=2),
    lambda inner: (
        st.dictionaries(lists_of, st.lists(inner, max_size=3), min_size=1, max_size=1)
        | st.dictionaries(st.just("$not"), inner, min_size=1)
    ),
    max_leaves=4,
)
"""Filters that `parse` takes."""

_wrappers: st.SearchStrategy[Callable[[Any], Any]] = st.sampled_from(
    [
        lambda v: v,
        lambda v: {"$ne": v},
        lambda v: {"$in": [v, "x"]},
        lambda v: {"$nin": [v]},
        lambda v: {"$all": [v]},
        lambda v: {"$contains": v},
        lambda v: {"$contains": v[1:]} if isinstance(v, str) else {"$exists": True},
        *[
            lambda v, name=name: v if v is None or isinstance(v, bool) else {name: v}
            for name in ("$gt", "$gte", "$lt", "$lte")
        ],
    ]
)


@st.composite
def filters_and_metadata(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A filter, often one that asks for what some of the metadata holds, and the metadata."""
    items = draw(st.lists(metadata, min_size=1, max_size=4))
    filter: dict[str, Any] = draw(filters)
    if found := [pair for item in items for pair in held_values(item)]:
        asked = draw(st.lists(st.sampled_from(found), max_size=2))
        parts = [{path: draw(_wrappers)(value)} for path, value in asked]
        filter = {draw(lists_of): parts, **({"$not": filter} if draw(st.booleans()) else {})}
    return filter, items


def held_values(item: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(item, dict):
        start = f"{path}." if path else ""
        named = [key for key in item if key in KEYS]
        return [pair for key in named for pair in held_values(item[key], start + key)]
    if isinstance(item, list):
        return [
            pair
            for part in item
            if not isinstance(part, dict | list)
            for pair in held_values(part, path)
        ]
    return [(path, item)]
