"""Filters over metadata: Mongo's operators, as Mastra's vector stores take them, parsed once.

`{"lang": "en", "year": {"$gte": 2020}, "$or": [{"tags": {"$contains": "a"}}, {"n": None}]}`.
Operators: `$eq $ne $gt $gte $lt $lte $in $nin $all $size $contains $exists $and $or $nor $not`.

- A plain value is `$eq`, a plain list `$in`; `{"author": {"name": "x"}}` is `{"author.name": "x"}`.
  Several operators on a key, and several keys, must all hold.
- A key is a path through objects, "author.name": "a.0" is the key "0" of an object, never a place
  in an array, and a key with a dot in it cannot be named.
- `$eq $in $gt $gte $lt $lte $all` hold for an array if they hold for one of its elements; `$all`
  if `$eq` holds for every value, and for no value never.
- Only equal types compare: numbers (2 is 2.0, but True is no number; integers beyond 64 bits count
  as floats), texts by code point. `None` equals null and a missing key.
- `$contains`: an array has such an element, a text (case-sensitively) such a part.
- `$ne $nin $not $nor` are the plain opposites: they hold for missing keys.
- An empty `$in` matches nothing, an empty `$and` all, an empty `$or` nothing.

Dates, UUIDs, enums, bytes and Decimals are compared as the text or value that our JSON has for
them. What a store makes of a condition must agree with `matches` for every JSON value.
"""

from __future__ import annotations

import math
import operator
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal

import msgspec

from mastra_nb.errors import ConfigError, close_matches

Op = Literal["eq", "gt", "gte", "lt", "lte", "in", "contains", "size", "exists"]
Scalar = str | int | float | bool | None

MAX_DEPTH = 16
MAX_TESTS = 256
MAX_VALUES = 10_000


class Test(msgspec.Struct, frozen=True, tag="test"):
    """One operator on the value at `path` (its keys, outermost first).

    `value`: a scalar of eq and contains; a number (no bool) or text of gt, gte, lt, lte; a tuple of
    scalars of in; an int >= 0 of size; a bool of exists. Integers fit 64 bits, floats are finite.
    """

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

_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le,
}  # fmt: skip
_ON_KEYS = ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$all", "$size",
            "$contains", "$exists", "$not")  # fmt: skip
_BESIDE_KEYS = ("$and", "$or", "$nor", "$not")


# --- parse -----------------------------------------------------------------------------------


def parse(filter: Mapping[str, Any] | None) -> Condition:
    """Raises ConfigError (code "filter.…") that names the key or the operator."""
    return _Parser().read(filter if filter is not None else {})


class _Parser:
    """Counts what a filter holds: a model may have written it."""

    def __init__(self) -> None:
        self._tests = self._values = self._depth = 0

    def read(self, filter: object) -> Condition:
        if not isinstance(filter, Mapping):
            raise _error(
                "value", f"A filter is an object, not {_shown(filter)}.", '{"lang": "en"} is one.'
            )
        return _all([self._entry(key, value, ()) for key, value in self._items(filter)])

    def _items(self, mapping: Mapping[Any, Any]) -> Iterator[tuple[Any, Any]]:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _error("limit", f"The filter is nested deeper than {MAX_DEPTH} levels.")
        yield from mapping.items()
        self._depth -= 1

    def _entry(self, key: object, value: Any, path: tuple[str, ...]) -> Condition:
        if not isinstance(key, str):
            raise _error("key", f"{_shown(key)} is no key: keys are texts.")
        if not key.startswith("$"):
            return self._key((*path, *_segments(key)), value)
        if key not in _BESIDE_KEYS:
            if key in _ON_KEYS:
                raise _error(
                    "operator", f'"{key}" needs a key.', f'{{"year": {{"{key}": …}}}} names it.'
                )
            raise _unknown(key, _BESIDE_KEYS)
        if key == "$not":
            return Not(self.read(value))
        parts = tuple([self.read(item) for item in _list(key, value, "filters")])
        if key == "$and":
            return _all(parts)
        return AnyOf(parts) if key == "$or" else Not(AnyOf(parts))

    def _key(self, path: tuple[str, ...], value: Any) -> Condition:
        if isinstance(value, list | tuple | set | frozenset):
            return self._operator(path, "$in", value)
        if not isinstance(value, Mapping):
            return self._operator(path, "$eq", value)
        operators = [key for key in value if isinstance(key, str) and key.startswith("$")]
        if operators and len(operators) < len(value):
            raise _error(
                "operator", f'"{_name(path)}" holds keys beside the operator "{operators[0]}".'
            )
        if not value:
            raise _error(
                "value", f'"{_name(path)}" holds an empty object.', '{"$exists": true} asks for any'
            )
        read = self._operator if operators else self._nested
        return _all([read(path, key, item) for key, item in self._items(value)])

    def _nested(self, path: tuple[str, ...], key: object, value: Any) -> Condition:
        return self._entry(key, value, path)

    def _operator(self, path: tuple[str, ...], name: str, value: Any) -> Condition:
        match name:
            case "$ne":
                return Not(self._operator(path, "$eq", value))
            case "$nin":
                return Not(self._operator(path, "$in", value))
            case "$not":
                if not isinstance(value, Mapping):
                    raise _error(
                        "value",
                        f'"$not" of "{_name(path)}" takes operators.',
                        '"$ne" takes a value.',
                    )
                return Not(self._key(path, value))
            case "$all":
                values = _list(name, value, "values")
                parts = [self._operator(path, "$eq", item) for item in values]
                return _all(parts) if parts else AnyOf(())
            case "$eq" | "$contains":
                return self._test(
                    path, "eq" if name == "$eq" else "contains", self._scalar(path, value)
                )
            case "$in":
                found = [self._scalar(path, item) for item in _list(name, value, "values")]
                return self._test(path, "in", tuple(found))
            case "$gt" | "$gte" | "$lt" | "$lte":
                return self._test(path, name[1:], self._ordered(path, name, value))  # type: ignore[arg-type]
            case "$size":
                if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                    raise _error(
                        "value", f'"$size" of "{_name(path)}" is no count: {_shown(value)}.'
                    )
                return self._test(path, "size", min(value, 2**31))
            case "$exists":
                if not isinstance(value, bool):
                    raise _error("value", f'"$exists" of "{_name(path)}" is true or false.')
                return self._test(path, "exists", value)
            case "$and" | "$or" | "$nor":
                raise _error(
                    "operator",
                    f'"{name}" stands under the key "{_name(path)}".',
                    f'Write it beside keys: {{"{name}": [{{"{_name(path)}": …}}, …]}}.',
                )
        raise _unknown(name, _ON_KEYS)

    def _test(self, path: tuple[str, ...], op: Op, value: Any) -> Test:
        self._tests += 1
        if self._tests > MAX_TESTS:
            raise _error("limit", f"The filter has more than {MAX_TESTS} conditions.")
        return Test(path, op, value)

    def _ordered(self, path: tuple[str, ...], name: str, value: Any) -> Scalar:
        found = self._scalar(path, value)
        if found is None or isinstance(found, bool) or isinstance(value, Decimal):
            raise _error(
                "value",
                f'"{name}" of "{_name(path)}" cannot order {_shown(value)}.',
                "Numbers and texts have an order; a Decimal is stored as text: use float(…).",
            )
        return found

    def _scalar(self, path: tuple[str, ...], value: Any) -> Scalar:
        self._values += 1
        if self._values > MAX_VALUES:
            raise _error("limit", f"The filter has more than {MAX_VALUES} values.")
        where = f'The filter on "{_name(path)}"'
        if isinstance(value, Mapping | list | tuple | set | frozenset):
            raise _error(
                "value",
                f"{where} compares with {_shown(value)}.",
                '"$in" takes several values, "$all" asks for all; "a.b" names a key in an object.',
            )
        try:
            found: Scalar = msgspec.to_builtins(value)
        except (TypeError, ValueError) as exc:
            raise _error(
                "value",
                f"{where} compares with {_shown(value)}: {exc}.",
                "Compare with a JSON value.",
            ) from exc
        if isinstance(found, str):
            _check_text(found, where)
        elif isinstance(found, int | float) and not isinstance(found, bool):
            found = _number(found)
            if isinstance(found, float) and not math.isfinite(found):
                raise _error(
                    "value", f"{where} compares with {_shown(value)}, which no JSON holds."
                )
        elif found is not None and not isinstance(found, bool):
            raise _error("value", f"{where} compares with {_shown(value)}.")
        return found


def _all(parts: Sequence[Condition]) -> Condition:
    return parts[0] if len(parts) == 1 else AllOf(tuple(parts))


def _list(name: str, value: Any, of: str) -> list[Any]:
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    raise _error("value", f'"{name}" takes a list of {of}, not {_shown(value)}.')


def _segments(key: str) -> tuple[str, ...]:
    _check_text(key, f"The key {_shown(key)}")
    segments = tuple(key.split("."))
    for segment in segments:
        if not segment or segment.startswith("$") or any(map(_is_control, segment)):
            raise _error(
                "key",
                f"{_shown(key)} is no key of a filter.",
                'Write a path like "author.name": no empty part, none with "$" first, no control '
                "character.",
            )
    return segments


def _is_control(char: str) -> bool:
    return unicodedata.category(char) == "Cc"


def _check_text(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise _error("value", f"{what} is not valid Unicode.") from exc


def _name(path: tuple[str, ...]) -> str:
    return ".".join(path)


def _shown(value: object) -> str:
    text = ascii(value) if isinstance(value, str | int | float | bool | None) else ""
    return text if 0 < len(text) <= 80 else f"a value of type {type(value).__name__}"


def _error(kind: str, message: str, hint: str = "") -> ConfigError:
    return ConfigError(message, hint=hint, code=f"filter.{kind}")


def _unknown(name: str, known: Sequence[str]) -> ConfigError:
    return _error(
        "operator", f"There is no operator {_shown(name)}.", close_matches(name[:40], known)
    )


# --- matches ---------------------------------------------------------------------------------

_MISSING: Any = object()


def matches(condition: Condition, metadata: Mapping[str, Any]) -> bool:
    """Whether `metadata`, as JSON is decoded, is what `condition` asks for."""
    match condition:
        case Test():
            return _holds(condition.op, _at(metadata, condition.path), condition.value)
        case AllOf():
            return all(matches(part, metadata) for part in condition.of)
        case AnyOf():
            return any(matches(part, metadata) for part in condition.of)
        case Not():
            return not matches(condition.of, metadata)


def uses(condition: Condition) -> frozenset[tuple[str, ...]]:
    """The paths it looks at."""
    match condition:
        case Test():
            return frozenset([condition.path])
        case Not():
            return uses(condition.of)
        case AllOf() | AnyOf():
            return frozenset[tuple[str, ...]]().union(*[uses(part) for part in condition.of])


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return _MISSING
        value = value[key]
    return value


def _holds(op: Op, found: Any, value: Any) -> bool:
    if op == "exists":
        return bool(value == (found is not _MISSING))
    if op == "size":
        return isinstance(found, list) and len(found) == value
    if op == "contains" and not isinstance(found, list):
        return isinstance(found, str) and isinstance(value, str) and value in found
    candidates = found if isinstance(found, list) else [None if found is _MISSING else found]
    if op == "in":
        return any(_equal(item, wanted) for item in candidates for wanted in value)
    if op in _ORDER:
        return any(
            _kind(item) == _kind(value) and _ORDER[op](_number(item), value) for item in candidates
        )
    return any(_equal(item, value) for item in candidates)


def _equal(found: Any, value: Scalar) -> bool:
    return _kind(found) == _kind(value) and bool(_number(found) == value)


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "text"
    return "other"


def _number(value: Any) -> Any:
    """An integer that 64 bits cannot hold as a float, as SQLite reads it; other values as is."""
    if not isinstance(value, int) or -(2**63) <= value < 2**63:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
