"""A condition on metadata as SQL that agrees with `conditions.matches` for every JSON value.

Values are bound. A path is bound too, unless it is that of a metadata index: SQLite finds an index
on an expression by its text, and such keys are letters, digits, "_" and "." only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2s
from typing import Any

import msgspec

from mastra_nb.conditions import AllOf, AnyOf, Condition, Not, Test

_SEEKING = ("eq", "in", "gt", "gte", "lt", "lte")  # what leaves the fewest first
_SOUGHT = {"= 'text'", "IN ('integer', 'real')"}
_OPERATORS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def json_path(path: Sequence[str]) -> str:
    """`$."author"."name"`; a label in quotes is compared as JSON text."""
    return "$" + "".join(f".{json.dumps(key, ensure_ascii=False)}" for key in path)


class Where:
    """`sql` over the JSON of `column`, `values` for its `?`. `indexed` are the keys that have an
    index, True for those at which some entry has an array: SQLite cannot use an index for one half
    of "this value, or an array that holds it". `scope` (a term without values) stands beside each
    term that an index may answer, as a partial index asks for it. `sought` is a key whose index
    finds all that may match, or "": SQLite, which has no statistics, takes a list of values or a
    range for more than there are entries, and would look at all of them.
    """

    def __init__(
        self,
        condition: Condition,
        *,
        column: str = "v.metadata",
        indexed: Mapping[str, bool] | None = None,
        scope: str = "",
    ) -> None:
        self._column = column
        self.values: list[Any] = []
        self._indexed = indexed or {}
        self.sought = _sought(condition, self._indexed)
        self._scope = f"{scope} AND " if scope else ""
        self.sql = self._read(condition)

    def source(self, index: int) -> str:
        """What to select from: `vector v`, by the index of `sought`."""
        by = f" INDEXED BY {index_names(self.sought, index)[0]}" if self.sought else ""
        return f"vector v{by}"

    def _read(self, condition: Condition) -> str:
        match condition:
            case AllOf():
                return self._joined(condition.of, " AND ", "1")
            case AnyOf():
                return self._joined(condition.of, " OR ", "0")
            case Not():
                # A missing key makes a NULL, which is no truth either.
                return f"({self._read(condition.of)} IS NOT 1)"
            case Test():
                return self._test(condition)

    def _joined(self, parts: Sequence[Condition], word: str, empty: str) -> str:
        return f"({word.join([self._read(part) for part in parts])})" if parts else empty

    def _test(self, test: Test) -> str:
        if test.op == "exists":
            return f"({self._type(test)} IS {'NOT ' if test.value else ''}NULL)"
        if test.op == "size":
            term = f"{self._type(test)} = 'array' AND {self._call('json_array_length', test)} = ?"
            self.values.append(test.value)
            return f"({term})"
        if test.op == "in":
            kinds: list[Any] = [
                [v for v in test.value if isinstance(v, str)],
                [v for v in test.value if isinstance(v, int | float) and not isinstance(v, bool)],
            ]
            kinds = [values for values in kinds if values]
            kinds += [v for v in (None, True, False) if any(v is one for one in test.value)]
            terms = [term for values in kinds for term in self._either(test, "in", values)]
        elif test.op == "contains":
            terms = []
            if isinstance(test.value, str):
                text = f"{self._type(test)} = 'text' AND instr({self._found(test)}, ?) > 0"
                terms.append(f"({text})")
                self.values.append(test.value)
            terms.append(self._element(test, "eq", test.value))
        else:
            terms = self._either(test, test.op, test.value)
        return f"({' OR '.join(terms)})" if terms else "0"

    def _either(self, test: Test, op: str, value: Any) -> list[str]:
        """The value itself, or one of an array."""
        if not self._indexed.get(".".join(test.path), True):
            return [self._scalar(test, op, value)]
        return [self._scalar(test, op, value), self._element(test, op, value)]

    def _scalar(self, test: Test, op: str, value: Any) -> str:
        if value is None:
            return f"(coalesce({self._type(test)}, 'null') = 'null')"
        if isinstance(value, bool):
            return f"({self._type(test)} {_kind(value)})"
        term = f"{self._scope}{self._found(test)} {self._compared(op, value)}"
        return f"({term} AND {self._type(test)} {_kind(value)})"

    def _element(self, test: Test, op: str, value: Any) -> str:
        of = f"{self._scope}{self._type(test)} = 'array'"
        each = f"json_each({self._column}, {self._path(test)}) e"
        term = f"e.type {_kind(value)}"
        if value is not None and not isinstance(value, bool):
            term += f" AND e.atom {self._compared(op, value)}"
        return f"({of} AND EXISTS (SELECT 1 FROM {each} WHERE {term}))"  # noqa: S608 - bound

    def _compared(self, op: str, value: Any) -> str:
        if isinstance(value, list):
            self.values.append(msgspec.json.encode(value).decode())
            return "IN (SELECT value FROM json_each(?))"
        self.values.append(value)
        return f"{_OPERATORS.get(op, '=')} ?"

    # Calls

    def _is_indexed(self, test: Test) -> bool:
        return ".".join(test.path) in self._indexed

    def _path(self, test: Test) -> str:
        if self._is_indexed(test):
            return f"'{json_path(test.path)}'"
        self.values.append(json_path(test.path))
        return "?"

    def _call(self, function: str, test: Test) -> str:
        return f"{function}({self._column}, {self._path(test)})"

    def _found(self, test: Test) -> str:
        return self._call("json_extract", test)

    def _type(self, test: Test) -> str:
        return self._call("json_type", test)


def _sought(condition: Condition, indexed: Mapping[str, bool]) -> str:
    parts = condition.of if isinstance(condition, AllOf) else (condition,)
    tests = [part for part in parts if isinstance(part, Test) and part.op in _SEEKING]
    for test in sorted(tests, key=lambda test: _SEEKING.index(test.op)):
        key, values = ".".join(test.path), test.value if test.op == "in" else (test.value,)
        kinds = {_kind(value) for value in values}
        if indexed.get(key) is False and len(kinds) == 1 and kinds <= _SOUGHT:
            return key
    return ""


def _kind(value: Any) -> str:
    first = value[0] if isinstance(value, list) else value
    if first is None:
        return "= 'null'"
    if isinstance(first, bool):
        return f"= '{'true' if first else 'false'}'"
    return "= 'text'" if isinstance(first, str) else "IN ('integer', 'real')"


def index_names(key: str, index: int) -> tuple[str, str]:
    """Of the SQLite indexes of a metadata key: that of its values, and that of its arrays."""
    hashed = blake2s(key.encode(), digest_size=6).hexdigest()
    return f"vector_of_{index}_{hashed}", f"vector_in_{index}_{hashed}"


def index_terms(key: str, index: int) -> tuple[str, str]:
    """What they are made on."""
    path = json_path(key.split("."))
    return (
        f"vector (json_extract(metadata, '{path}')) WHERE idx = {index}",
        f"vector (no) WHERE idx = {index} AND json_type(metadata, '{path}') = 'array'",
    )


def any_array(key: str, index: int) -> str:
    """A query that finds one entry with an array at the key, at once."""
    name, path = index_names(key, index)[1], json_path(key.split("."))
    return (
        f"SELECT 1 FROM vector INDEXED BY {name} "  # noqa: S608 - names of ours
        f"WHERE idx = {index} AND json_type(metadata, '{path}') = 'array' LIMIT 1"
    )
