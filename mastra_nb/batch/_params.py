"""The rows of a batch: a table, a list, or a file of either."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import keyword
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from mastra_nb.errors import ConfigError, MissingExtra, NotFound, SchemaError
from mastra_nb.jsonable import exact

Params = dict[str, Any]

_INT = re.compile(r"-?(?:0|[1-9]\d{0,17})")
_FLOAT = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


def load_params(given: Any) -> list[Params]:
    """`given` is a path (CSV, JSON, JSON lines, Parquet), a DataFrame, or an iterable of mappings.

    Raises ConfigError for what is no such, or has no rows; SchemaError for a value that JSON
    cannot hold; NotFound; MissingExtra for Parquet without pandas.
    """
    if isinstance(given, str | os.PathLike):
        where = f'"{os.fspath(given)}"'
        rows = _file(Path(given))
    else:
        where = "params"
        rows = _rows(given)
    out = [_checked(row, i, where) for i, row in enumerate(rows)]
    if not out:
        raise ConfigError(f"{where} has no rows", hint="one row is one run of the notebook")
    return out


def _file(path: Path) -> Iterable[Any]:
    if not path.is_file():
        raise NotFound(f'there is no file "{path}"', hint="params is a CSV, JSON or Parquet file")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _rows(_pandas(path.name).read_parquet(path))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f'"{path}" is not UTF-8 text') from error
    if suffix in (".csv", ".tsv"):
        return _csv(text, path, "\t" if suffix == ".tsv" else ",")
    try:
        if suffix in (".jsonl", ".ndjson"):
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        if suffix == ".json":
            found = json.loads(text)
            if isinstance(found, list):
                return found
            raise ConfigError(f'"{path}" holds no list', hint='[{"city": "Oslo"}, …]')
    except ValueError as error:
        raise ConfigError(f'"{path}" is no JSON: {error}') from error
    raise ConfigError(
        f'"{path.name}" is of no kind that is known', hint=".csv, .tsv, .json, .jsonl, .parquet"
    )


def _pandas(name: str) -> Any:
    try:
        import pandas as pd

        import_module("pyarrow")
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f'"{name}" needs "{error.name}"', hint='pip install "mastra-nb[data]" pyarrow'
        ) from None
    return pd


def _csv(text: str, path: Path, delimiter: str) -> list[Params]:
    """A column whose values are all numbers, or all true or false, is read as such; what begins
    with a zero, such as a postal code, is text. An empty value is None.
    """
    try:
        head, *lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    except ValueError:
        return []
    except csv.Error as error:
        raise ConfigError(f'"{path}" is no CSV: {error}') from error
    lines = [line for line in lines if line]
    for number, line in enumerate(lines, 2):
        if len(line) != len(head):
            raise ConfigError(
                f'row {number} of "{path}" has {len(line)} values for {len(head)} columns'
            )
    if len(set(head)) < len(head):
        raise ConfigError(f'"{path}" names a column twice', hint="give each its own name")
    columns = [_typed([line[i] for line in lines]) for i in range(len(head))]
    return [dict(zip(head, values, strict=True)) for values in zip(*columns, strict=True)]


def _typed(column: Sequence[str]) -> list[Any]:
    kinds: tuple[tuple[Callable[[str], Any], Callable[[str], Any]], ...] = (
        (_INT.fullmatch, int),
        (_FLOAT.fullmatch, float),
        (_BOOL.__contains__, _BOOL.__getitem__),
    )
    present = [value for value in column if value]
    for fits, convert in kinds:
        if present and all(map(fits, present)):
            return [convert(value) if value else None for value in column]
    return [value or None for value in column]


def _rows(given: Any) -> Iterable[Any]:
    if hasattr(given, "to_dicts") and hasattr(given, "columns"):  # polars
        return list(given.to_dicts())
    if hasattr(given, "to_dict") and hasattr(given, "columns"):
        return list(given.to_dict("records"))
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise ConfigError(
            f'params is a "{type(given).__name__}"',
            hint='a DataFrame, a list such as [{"city": "Oslo"}], or the path of a file',
        )
    return given


def _checked(row: Any, index: int, where: str) -> Params:
    if not isinstance(row, Mapping):
        raise ConfigError(f'row {index + 1} of {where} is a "{type(row).__name__}", no mapping')
    out: Params = {}
    for name, value in row.items():
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
            raise ConfigError(
                f'"{name}" in {where} cannot be a parameter',
                hint="a parameter is a name as Python writes them: letters, digits and _",
            )
        try:
            out[name] = exact(_present(value))
        except SchemaError as error:
            raise SchemaError(
                f'"{name}" in row {index + 1} of {where}: {error.message}', hint=error.hint
            ) from None
    return out


def _present(value: Any) -> Any:
    """What a table has no value for is None."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if type(value).__name__ in ("NaTType", "NAType"):
        return None
    return value.isoformat() if type(value).__name__ == "Timestamp" else value


def row_ids(batch: str, rows: Sequence[Params]) -> list[str]:
    """A row is the same wherever it stands in the table; equal ones are counted."""
    seen: dict[bytes, int] = {}
    out = []
    for row in rows:
        text = msgspec.json.encode(row, order="sorted")
        nth = seen[text] = seen.get(text, 0) + 1
        out.append(hashlib.sha256(b"%s\0%d\0%s" % (batch.encode(), nth, text)).hexdigest()[:12])
    return out
