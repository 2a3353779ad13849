"""Filters over metadata: Mongo's operators, as Mastra's vector stores take them, parsed once.

`{"lang": "en", "year": {"$gte": 2020}, "$or": [{"tags": {"$contains": "a"}}, {"n": None}]}`.
Operators: `$eq $ne $gt $gte $lt $lte $in $nin $all $size $contains $exists $and $or $nor $not`. A
key may be a path: "author.name".

What a store makes of a condition must agree with `matches` for every JSON value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

Op = Literal["eq", "gt", "gte", "lt", "lte", "in", "contains", "all", "size", "exists"]


class Test(msgspec.Struct, frozen=True, tag="test"):
    """One operator on the value at `path` (its keys, outermost first)."""

    path: tuple[str, ...]
    op: Op
    value: Any


class AllOf(msgspec.Struct, frozen=True, tag="all"):
    """Every one of them; none: true."""

    of: tuple[Condition, ...]


class AnyOf(msgspec.Struct, frozen=True, tag="any"):
    """At least one of them; none: false."""

    of: tuple[Condition, ...]


class Not(msgspec.Struct, frozen=True, tag="not"):
    of: Condition


Condition = Test | AllOf | AnyOf | Not


def parse(filter: Mapping[str, Any] | None) -> Condition:
    """Raises ConfigError (code "filter.…") that names the key or the operator."""
    raise NotImplementedError


def matches(condition: Condition, metadata: Mapping[str, Any]) -> bool:
    raise NotImplementedError
