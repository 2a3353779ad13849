"""What `--each` goes over, and the table that comes back: the columns it had, and the answers'."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from mastra_nb.errors import NotFound, UsageError, close_matches
from mastra_nb.notebook._templates import text_of, variables

_PLAIN = "value"
_NODES = (
    ast.Expression, ast.Name, ast.Attribute, ast.Subscript, ast.Constant, ast.Slice, ast.Load,
    ast.Tuple, ast.List, ast.UnaryOp, ast.USub,
)  # fmt: skip


class Row:
    """A row as a prompt reads it: `row.city` is the column, whatever its name."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[Any, Any]) -> None:
        self._values = values

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: Any) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise NotFound(
                f'the rows have no column "{name}"',
                hint=close_matches(str(name), map(str, self._values)),
                code="usage.template",
            ) from None

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __len__(self) -> int:
        return len(self._values)

    def _prompt_text_(self) -> str:
        return "\n".join(f"{name}: {text_of(value)}" for name, value in self._values.items())

    __str__ = _prompt_text_


class Rows:
    """`labels` and `values` of the rows. Raises UsageError for what has none."""

    def __init__(self, data: Any, name: str) -> None:
        self._data = data
        self.labels: Sequence[Any]
        kind = _kind(data)
        if kind == "pandas.Series":
            self._data = data = data.to_frame(_PLAIN if data.name is None else data.name)
            kind = "pandas.DataFrame"
        elif kind == "polars.Series":
            self._data = data = data.to_frame()
            kind = "polars.DataFrame"
        self.kind = kind
        if kind == "pandas.DataFrame":
            self.columns = [str(c) for c in data.columns]
            self.labels = list(data.index)
            found: list[Any] = [
                dict(zip(data.columns, each, strict=True))
                for each in data.itertuples(index=False, name=None)
            ]
        elif kind == "polars.DataFrame":
            self.columns = list(data.columns)
            found = list(data.iter_rows(named=True))
            self.labels = range(len(found))
        elif isinstance(data, Mapping):
            self.labels, found = list(data.keys()), list(data.values())
            self.columns = _columns(found)
        elif isinstance(data, Sequence) and not isinstance(data, str | bytes | bytearray):
            found = list(data)
            self.labels = range(len(found))
            self.columns = _columns(found)
        else:
            raise UsageError(
                f'"{name}" is a {type(data).__name__}: it has no rows',
                hint="--each takes a DataFrame, a list, or a dict",
            )
        self.values = [Row(each) if isinstance(each, Mapping) else each for each in found]
        self._found = found

    def __len__(self) -> int:
        return len(self.values)

    def cells(self, i: int) -> dict[str, Any]:
        """The row by its columns."""
        each = self._found[i]
        return {str(k): v for k, v in (fields(each) or {_PLAIN: each}).items()}

    def names(self, wanted: Sequence[str]) -> list[str]:
        """`wanted` as names of new columns: a number is put after one that is taken."""
        taken, out = set(self.columns), list[str]()
        for name in wanted:
            free, n = name, 2
            while free in taken:
                free, n = f"{name}_{n}", n + 1
            taken.add(free)
            out.append(free)
        return out

    def table(self, added: Mapping[str, Sequence[Any]]) -> Any:
        """The rows with these columns after theirs: polars if they were, a list of dicts if there
        is no pandas.
        """
        if self.kind == "polars.DataFrame":
            import polars as pl  # type: ignore[import-not-found,unused-ignore]

            new = [pl.Series(name, list(v), strict=False) for name, v in added.items()]
            return self._data.with_columns(new)
        pandas = _pandas()
        if pandas is None:
            keyed = isinstance(self._data, Mapping)
            return [
                ({"index": self.labels[i]} if keyed else {})
                | self.cells(i)
                | {name: values[i] for name, values in added.items()}
                for i in range(len(self))
            ]
        if self.kind == "pandas.DataFrame":
            made = self._data.copy()
        else:
            index = list(self.labels) if isinstance(self._data, Mapping) else None
            rows = [self.cells(i) for i in range(len(self))]
            made = pandas.DataFrame(rows, index=index, columns=self.columns)
        for name, values in added.items():
            # By position: an index may say the same label twice.
            made[name] = pandas.Series(list(values)).array
        return made


def fields(value: Any) -> dict[str, Any] | None:
    """What has names for its parts, by these; None for any other value."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, type):
        return None
    if dataclasses.is_dataclass(value):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    for known in ("__struct_fields__", "model_fields", "_fields"):
        if (names := getattr(type(value), known, None)) is not None:
            return {name: getattr(value, name) for name in names}
    return None


def find_data(text: str, names: Mapping[str, Any]) -> Any:
    """What a variable holds, or an attribute, an item or a slice of it.

    Raises NotFound for an unknown name, UsageError for what is not just a name.
    """
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError:
        tree = None
    if tree is None or not all(isinstance(node, _NODES) for node in ast.walk(tree)):
        raise UsageError(
            f'"{text}" is not the name of data',
            hint="compute it in a cell before, and name the variable: cities, or cities[:3]",
        )
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id not in names:
            raise NotFound(
                f'there is no variable "{node.id}"',
                hint=close_matches(node.id, variables(names)) or "define it in a cell before",
            )
    scope = {node.id: names[node.id] for node in ast.walk(tree) if isinstance(node, ast.Name)}
    try:
        # The user's own expression, held to names, attributes and brackets above.
        return eval(compile(tree, "<each>", "eval"), {"__builtins__": {}}, scope)  # noqa: S307
    except Exception as error:
        raise UsageError(f'"{text}" cannot be read: {type(error).__name__}: {error}') from None


def _kind(data: Any) -> str:
    module, kind = type(data).__module__.partition(".")[0], type(data).__name__
    known = module in ("pandas", "polars") and kind in ("DataFrame", "Series")
    return f"{module}.{kind}" if known else ""


def _columns(rows: Sequence[Any]) -> list[str]:
    found: dict[str, None] = {}
    for each in rows:
        found |= dict.fromkeys(map(str, fields(each) or (_PLAIN,)))
    return list(found)


def _pandas() -> ModuleType | None:
    try:
        import pandas as pd
    except ImportError:
        return None
    return pd
