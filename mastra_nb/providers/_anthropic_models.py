"""What Anthropic's models accept, as data by name.

Source: Anthropic's model pages, migration guides and the page on preserved thinking, as of
November 2026.
"""

from __future__ import annotations

import fnmatch
from typing import Any, Literal

import msgspec

from mastra_nb.models import Profile

_MEDIA = ("image/*", "application/pdf", "text/plain")
_SUBTYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is talked to.

    `thinking` is how it is asked to think: not at all, with a budget of tokens, or as it sees
    fit. `off` is what is sent so that it does not: nothing (it does not unless asked), a type
    of thinking, or "never" if it always thinks. `sampling`: it takes temperature, top_p and
    top_k. `force`: it can be made to call a tool. `binds`: it refuses its thinking back once
    what came before has changed. `quiet`: it hides its thinking unless asked to show it.
    """

    thinking: Literal["", "budget", "adaptive"] = "adaptive"
    off: Literal["", "disabled", "between_tools", "never"] = ""
    sampling: bool = False
    force: bool = True
    binds: bool = False
    quiet: bool = True
    json_schema: bool = True
    media: tuple[str, ...] = _MEDIA
    context: int | None = 1_000_000
    max_output: int | None = 128_000

    def profile(self) -> Profile:
        return Profile(
            json_schema=self.json_schema,
            json_with_tools=self.json_schema,
            reasoning=self.thinking != "",
            media=self.media,
            context=self.context,
            max_output=self.max_output,
        )


def _older(max_output: int | None, **fields: Any) -> Traits:
    return Traits(
        **{
            "thinking": "budget",
            "sampling": True,
            "quiet": False,
            "json_schema": False,
            "context": 200_000,
            "max_output": max_output,
            **fields,
        }
    )


_ALWAYS = Traits(off="never", force=False)
_BOUND = Traits(off="never", force=False, binds=True)
# The first pattern that fits counts.
_ROWS: tuple[tuple[str, Traits], ...] = (
    ("*claude-fable-5-[1-9]*", _BOUND),
    ("*claude-mythos-5-[1-9]*", _BOUND),
    ("*claude-fable-*", _ALWAYS),
    ("*claude-mythos-*", _ALWAYS),
    ("*claude-opus-5-[5-9]*", _BOUND),
    ("*claude-sonnet-5-[5-9]*", Traits(off="between_tools", force=False, binds=True)),
    ("*claude-haiku-5-[5-9]*", Traits(off="disabled", binds=True)),
    ("*claude-opus-5*", Traits(off="disabled")),
    ("*claude-sonnet-5*", Traits(off="disabled")),
    ("*claude-opus-4-[78]*", Traits()),
    ("*claude-opus-4-6*", Traits(sampling=True, quiet=False)),
    ("*claude-sonnet-4-6*", Traits(sampling=True, quiet=False, max_output=64_000)),
    ("*claude-opus-4-5*", _older(64_000, json_schema=True)),
    ("*claude-sonnet-4-5*", _older(64_000, json_schema=True)),
    ("*claude-haiku-4-5*", _older(64_000, json_schema=True)),
    ("*claude-opus-4-1*", _older(32_000, json_schema=True)),
    ("*claude-opus-4*", _older(32_000)),
    ("*claude-sonnet-4*", _older(64_000)),
    ("*claude-3-7*", _older(64_000)),
    ("*claude-3-5*", _older(8_192, thinking="")),
    ("*claude-3*", _older(4_096, thinking="")),
    ("*claude-2*", _older(4_096, thinking="", media=("text/plain",))),
    ("*claude-instant*", _older(4_096, thinking="", media=("text/plain",), context=100_000)),
    # One that is newer than this table: what every recent one takes.
    ("*claude*", Traits(force=False)),
    # Somebody else's model behind the same API.
    ("*", _older(None, off="disabled", context=None)),
)


def traits(model_id: str) -> Traits:
    name = model_id.lower().replace(".", "-")
    return next(row for pattern, row in _ROWS if fnmatch.fnmatchcase(name, pattern))


def is_image(mime: str) -> bool:
    return mime in _SUBTYPES


# --- schemas -----------------------------------------------------------------------------------

_FORMATS = (
    "date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid",
)  # fmt: skip
_VALUES = [("minItems", 0), ("minItems", 1), *(("format", name) for name in _FORMATS)]
_KEPT = frozenset(
    {"$defs", "$ref", "type", "description", "title", "enum", "const", "default", "anyOf",
     "allOf", "oneOf", "properties", "required", "items", "additionalProperties", "definitions"}
)  # fmt: skip


def strict_schema(schema: dict[str, Any]) -> dict[str, Any] | None:
    """The schema as constrained answers take it, or None if it cannot be said so.

    What cannot be enforced (bounds, lengths, patterns) goes into the description, where the
    model reads it. Open objects and recursive schemas cannot be said.
    """
    if schema.get("type") != "object" and "$ref" not in schema and "anyOf" not in schema:
        return None
    if _recursive(schema):
        return None
    try:
        return _strict(schema)
    except _Unsayable:
        return None


class _Unsayable(Exception):
    """No such thing in a constrained answer."""


def _strict(schema: Any) -> dict[str, Any]:
    if not isinstance(schema, dict) or not schema:
        raise _Unsayable
    made: dict[str, Any] = {}
    told: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("properties", "$defs", "definitions"):
            made[key] = {name: _strict(below) for name, below in value.items()}
        elif key == "items":
            made[key] = _strict(value)
        elif key in ("anyOf", "allOf", "oneOf"):
            made["anyOf" if key == "oneOf" else key] = [_strict(below) for below in value]
        elif key in _KEPT or (key, value) in _VALUES:
            made[key] = value
        elif key not in ("discriminator", "$schema", "$id"):
            told[key] = value
    if schema.get("type") == "object" or "properties" in schema:
        if schema.get("additionalProperties", False) is not False or "properties" not in schema:
            raise _Unsayable
        made["additionalProperties"] = False
    if isinstance(schema.get("type"), str | list) or made.keys() & {
        "$ref", "anyOf", "allOf", "enum", "const",
    }:  # fmt: skip
        if told:
            note = msgspec.json.encode(told).decode()
            made["description"] = (
                f"{made['description']}\n{note}" if "description" in made else note
            )
        return made
    raise _Unsayable


def _recursive(schema: dict[str, Any]) -> bool:
    defs = {**schema.get("$defs", {}), **schema.get("definitions", {})}

    def refs(value: Any) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(refs, value))
        if not isinstance(value, dict):
            return set()
        found = set().union(*(refs(v) for k, v in value.items() if k != "$defs"))
        target = value.get("$ref")
        return found | {target.rpartition("/")[2]} if isinstance(target, str) else found

    def reaches(name: str, seen: frozenset[str]) -> bool:
        if name in seen or name not in defs:
            return name in seen or not name
        return any(reaches(below, seen | {name}) for below in refs(defs[name]))

    return any(name in ("", "#") or reaches(name, frozenset()) for name in refs(schema))
