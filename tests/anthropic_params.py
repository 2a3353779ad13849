"""Requests held against the official SDK's own request types, with nothing extra allowed."""

from __future__ import annotations

import collections.abc
import functools
import os
import types
import typing
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typing_extensions
from anthropic.types.beta.message_create_params import (
    MessageCreateParamsNonStreaming,
    MessageCreateParamsStreaming,
)
from pydantic import BaseModel, Field, TypeAdapter

# The SDK's types are of a later version of the API, which has no sampling.
SAMPLING = ("temperature", "top_p", "top_k")


@functools.cache
def _closed(kind: Any) -> Any:
    """`kind` without room for unknown keys, with lists for what pydantic reads lazily, and
    without the types of answers that the SDK also takes in requests."""
    origin, args = get_origin(kind), get_args(kind)
    if typing_extensions.is_typeddict(kind):
        # `__required_keys__` knows nothing of annotations that are strings.
        marked = typing_extensions.get_type_hints(kind, include_extras=True)
        hints = typing_extensions.get_type_hints(kind, include_extras=False)
        open_keys = (getattr(kind, "__pydantic_config__", None) or {}).get("extra") == "allow"
        fields = {
            key: typing_extensions.Required[_closed(hint)]
            if get_origin(marked[key]) is typing_extensions.Required
            else typing_extensions.NotRequired[_closed(hint)]
            for key, hint in hints.items()
        }
        made: Any = typing_extensions.TypedDict(kind.__name__, fields)  # type: ignore[operator]
        made.__pydantic_config__ = {"extra": "allow" if open_keys else "forbid"}
        return made
    if origin in (Union, types.UnionType):
        kept = [a for a in args if not (isinstance(a, type) and issubclass(a, BaseModel))]
        kept = [a for a in kept if (get_origin(a) or a) not in (typing.IO, os.PathLike)]
        kept = [a for a in map(_closed, kept) if a is not None]
        return _told_apart(kept) if kept else None
    if origin is Annotated:
        return _closed(args[0])
    if origin is Literal or not args:
        return kind
    if origin in (collections.abc.Iterable, list, collections.abc.Sequence):
        return list[_closed(args[0])]  # type: ignore[misc]
    return kind


def _told_apart(kinds: list[Any]) -> Any:
    """A union; those told apart by a field become one, so that an error names what is wrong."""
    for key in ("type", "role"):
        named = [k for k in kinds if key in getattr(k, "__required_keys__", ())]
        tags = [tag for k in named for tag in get_args(_bare(k.__annotations__[key]))]
        if len(named) > 1 and len(set(tags)) == len(tags) and all(isinstance(t, str) for t in tags):
            one: Any = Annotated[Union[tuple(named)], Field(discriminator=key)]  # noqa: UP007
            rest = [k for k in kinds if k not in named]
            return Union[(one, *rest)] if rest else one
    return Union[tuple(kinds)]  # noqa: UP007


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is typing_extensions.Required else hint


@functools.cache
def _adapter(stream: bool) -> TypeAdapter[Any]:
    return TypeAdapter(
        _closed(MessageCreateParamsStreaming if stream else MessageCreateParamsNonStreaming)
    )


def check(body: dict[str, Any]) -> None:
    """Raises pydantic's ValidationError for what the SDK could not have sent."""
    held = {key: value for key, value in body.items() if key not in SAMPLING}
    _adapter(bool(held.get("stream"))).validate_python(held, strict=True)
