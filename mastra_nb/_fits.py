"""Whether what one step gives can be what the next one takes: by their types, before they run."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import (
    Any,
    Literal,
    NotRequired,
    Required,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import msgspec


class Fields:
    """A JSON object whose keys are known: what steps side by side give together."""

    def __init__(self, types: Mapping[str, Any]) -> None:
        self.types = dict(types)


def misfit(given: Any, wanted: Any) -> str:
    """Why a value of type `given` cannot be a `wanted`; "" if it can, or if nobody knows.

    What could fit is left to the run: a union with one member that fits does.
    """
    given, wanted = _plain(given), _plain(wanted)
    if _unknown(given) or _unknown(wanted) or given is wanted:
        return ""
    if (options := _options(wanted)) is not None:
        return "" if any(not misfit(given, o) for o in options) else _no(given, wanted)
    if (options := _options(given)) is not None:
        return "" if any(not misfit(o, wanted) for o in options) else _no(given, wanted)
    fields = _fields(given)
    if isinstance(wanted, Fields) or (fields is not None and _fields(wanted) is not None):
        return _misfit_fields(given, fields, wanted)
    if isinstance(given, Fields) or fields is not None:
        # As JSON it is an object.
        base = get_origin(wanted) or wanted
        fits = base in (dict, Mapping, object) or _is_subclass(base, Mapping)
        return "" if fits or _is_subclass(given, base) else _no(given, wanted)
    return _misfit_plain(given, wanted)


def _misfit_fields(given: Any, fields: Mapping[str, Any] | None, wanted: Any) -> str:
    needed = wanted.types if isinstance(wanted, Fields) else _fields(wanted) or {}
    if fields is None:
        base = get_origin(given) or given
        return "" if base is dict or _is_subclass(base, Mapping) else _no(given, wanted)
    for name, type_ in needed.items():
        if name not in fields:
            if _needs(wanted, name):
                return f'there is no "{name}" in {shown(given)}'
        elif why := misfit(fields[name], type_):
            return f'"{name}": {why}'
    return ""


def _misfit_plain(given: Any, wanted: Any) -> str:
    if get_origin(given) is Literal or get_origin(wanted) is Literal:
        values = get_args(given) if get_origin(given) is Literal else ()
        if get_origin(wanted) is not Literal:
            return _no(given, wanted) if all(misfit(type(v), wanted) for v in values) else ""
        allowed = get_args(wanted)
        fits = any(v in allowed for v in values) if values else given in map(type, allowed)
        return "" if fits else _no(given, wanted)
    base, target = get_origin(given) or given, get_origin(wanted) or wanted
    if not isinstance(base, type) or not isinstance(target, type):
        return ""
    sequences = (list, tuple, set, frozenset)
    alike = (base in sequences and _is_subclass(target, sequences)) or _is_subclass(base, target)
    if base is bool:
        # To Python it is a number, to JSON it is none.
        alike = target is bool
    if not alike and not (base is int and target is float):
        # Of other types JSON may hold the one as what the other is read from: a date as a text.
        json = (bool, int, float, str, list, tuple, set, frozenset, dict, type(None))
        known = target in json or (base is not dict and _fields(wanted) is not None)
        return _no(given, wanted) if base in json and known else ""
    inner, needed = get_args(given), get_args(wanted)
    if inner and needed and len(inner) == len(needed) and base is not tuple:
        return next((why for a, b in zip(inner, needed, strict=True) if (why := misfit(a, b))), "")
    return ""


def shown(type_: Any) -> str:
    """A type as a person writes it."""
    if isinstance(type_, Fields):
        return "{" + ", ".join(f"{k}: {shown(v)}" for k, v in type_.types.items()) + "}"
    if isinstance(type_, type) and not get_args(type_):
        return type_.__name__ if type_ is not type(None) else "None"
    return str(type_).replace("typing.", "")


def _no(given: Any, wanted: Any) -> str:
    return f"{shown(given)} is no {shown(wanted)}"


def _plain(type_: Any) -> Any:
    while hasattr(type_, "__metadata__"):
        type_ = get_args(type_)[0]
    return type(None) if type_ is None else type_


def _unknown(type_: Any) -> bool:
    return type_ is Any or type_ is object or isinstance(type_, TypeVar | str)


def _options(type_: Any) -> tuple[Any, ...] | None:
    return get_args(type_) if get_origin(type_) in (Union, types.UnionType) else None


def _fields(type_: Any) -> dict[str, Any] | None:
    if isinstance(type_, Fields):
        return type_.types
    known = isinstance(type_, type) and (
        is_typeddict(type_)
        or dataclasses.is_dataclass(type_)
        or _is_subclass(type_, msgspec.Struct)
        or hasattr(type_, "model_fields")
    )
    if not known:
        return None
    try:
        hints = get_type_hints(type_)
    except (NameError, TypeError):
        return None
    if hasattr(type_, "model_fields"):
        return {name: hints.get(name, Any) for name in type_.model_fields}
    return hints


def _needs(wanted: Any, name: str) -> bool:
    """Whether `wanted` cannot do without the field."""
    if isinstance(wanted, Fields):
        return True
    if is_typeddict(wanted):
        # __required_keys__ knows nothing of annotations that are texts.
        hint = get_type_hints(wanted, include_extras=True)[name]
        if get_origin(hint) in (Required, NotRequired):
            return get_origin(hint) is Required
        return name in wanted.__required_keys__
    if hasattr(wanted, "model_fields"):
        return bool(wanted.model_fields[name].is_required())
    if dataclasses.is_dataclass(wanted):
        field = next(f for f in dataclasses.fields(wanted) if f.name == name)
        return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    return any(f.name == name and f.required for f in msgspec.structs.fields(wanted))


def _is_subclass(type_: Any, base: Any) -> bool:
    try:
        return isinstance(type_, type) and issubclass(type_, base)
    except TypeError:
        return False
