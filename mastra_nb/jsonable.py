"""Values as JSON types: for eyes, or so that they come back as they were."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import math
import os
import uuid
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import msgspec

from mastra_nb import tables
from mastra_nb.errors import SchemaError

_INT64 = (-(2**63), 2**64)


def to_json(value: Any) -> Any:
    """`value` as JSON types: what goes into an event.

    Never fails, and calls nothing of a value but the usual conversions of its type; what has
    no JSON form becomes its text.
    """
    kind = type(value)
    if value is None or kind is bool or (kind is int and _INT64[0] <= value < _INT64[1]):
        return value
    try:
        return _json(value)
    except Exception:
        return _text(value)


def _json(value: Any) -> Any:
    kind = type(value)
    if kind is str:
        return clean(value)
    if kind is dict:
        return {_key(k): _json(v) for k, v in value.items()}
    if kind is list or kind is tuple:
        return [_json(v) for v in value]
    if value is None or kind is bool:
        return value
    if kind is int or kind is float:
        return _number(value)
    return _converted(value)


def _converted(value: Any) -> Any:
    kind = type(value)
    if isinstance(value, enum.Enum):
        return _json(value.value)
    if isinstance(value, str):
        return clean("".join(value))
    if isinstance(value, (int, float)):
        return _number(value)
    if isinstance(value, Mapping):
        return {_key(k): _json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(v) for v in value]
    if isinstance(value, (set, frozenset)):
        # In the order of their JSON: hashes of text differ from process to process.
        return sorted((_json(v) for v in value), key=msgspec.json.encode)
    if isinstance(value, os.PathLike):
        return _json(os.fspath(value))
    if isinstance(value, _BUILTIN) or dataclasses.is_dataclass(value):
        return _json(msgspec.to_builtins(value, str_keys=True, enc_hook=_json))
    # Of the class, never of the object: one that answers to every name is not asked.
    if hasattr(kind, "model_dump"):
        return _json(value.model_dump(mode="json"))
    if hasattr(kind, "to_dict") and hasattr(kind, "columns"):
        head = value.head(20).to_dict("records")
        return {"columns": [str(c) for c in value.columns], "rows": len(value), "head": _json(head)}
    if hasattr(kind, "tolist"):
        return _json(value.tolist())
    return _text(value)


_BUILTIN = (
    msgspec.Struct,
    bytes,
    bytearray,
    dt.date,
    dt.time,
    dt.timedelta,
    uuid.UUID,
    decimal.Decimal,
)


def _key(key: Any) -> str:
    if isinstance(key, enum.Enum):
        key = key.value
    return clean(key if type(key) is str else str(key))


def exact(value: Any) -> Any:
    """`value` as JSON types, like `to_json`, but for what has to come back as it was.

    Keys become text, tuples and sets lists. Raises SchemaError for what JSON cannot hold.
    """
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is int or kind is float:
        if kind is int and _INT64[0] <= value < _INT64[1]:
            return value
        if _number(value) != value:
            raise SchemaError(
                f"JSON has no {value!r:.60}", hint="give None, or a text, in its place"
            )
        return value
    if kind is dict:
        return {_key(k): exact(v) for k, v in value.items()}
    if kind is list or kind is tuple:
        return [exact(v) for v in value]
    if isinstance(value, (enum.Enum, str, int, float, PurePath)):
        return exact(_json(value))
    if isinstance(value, Mapping):
        return {_key(k): exact(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return exact(_json(value)) if isinstance(value, (set, frozenset)) else [*map(exact, value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # msgspec leaves out defaults that only the class holds: those of what it has made itself.
        return {f.name: exact(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, _BUILTIN):
        return exact(msgspec.to_builtins(value, str_keys=True, enc_hook=exact))
    if hasattr(kind, "model_dump"):
        return exact(value.model_dump(mode="json"))
    if hasattr(kind, "tolist") and not hasattr(kind, "to_dict"):
        return exact(value.tolist())
    if tables.is_table(value):
        return tables.dump(value, exact)
    raise SchemaError(
        f'"{kind.__name__}" has no JSON form',
        hint="give what JSON can hold, or the path of a file that holds it",
    )


def _number(value: float) -> Any:
    if isinstance(value, int):
        return int(value) if _INT64[0] <= value < _INT64[1] else str(int(value))
    return float(value) if math.isfinite(value) else None


def _text(value: Any) -> str:
    try:
        return clean(repr(value))
    except Exception:
        return f"<{type(value).__name__}>"


def clean(text: str) -> str:
    """`text` without halves of surrogate pairs, which have no UTF-8."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text
