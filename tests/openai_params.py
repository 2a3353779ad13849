"""Requests held against an official SDK's own request types, with nothing extra allowed."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from pydantic import ConfigDict, TypeAdapter


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    # In a list, because pydantic takes a config for a type that could have none of its own only.
    return TypeAdapter(list[kind], config=ConfigDict(extra="forbid"))


def check(kind: Any, body: dict[str, Any], *, beside: Iterable[str] = ()) -> None:
    """Raises pydantic's ValidationError for what the SDK could not have sent.

    `beside` are keys that the vendor documents and its compatible SDK's types do not have.
    """
    _exhaust(_adapter(kind).validate_python([{k: v for k, v in body.items() if k not in beside}]))


def _exhaust(value: Any) -> None:
    """Pydantic checks an Iterable's items when they are taken."""
    if isinstance(value, dict):
        value = value.values()
    if not isinstance(value, str | bytes) and isinstance(value, Iterable):
        for item in value:
            _exhaust(item)
