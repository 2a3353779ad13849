"""What a model reads and writes: frozen values without ids (identity belongs to storage)."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Role = Literal["system", "user", "assistant", "tool"]
Finish = Literal["stop", "length", "tool-calls", "content-filter", "pause", "error", "other"]


class _Part(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    repr_omit_defaults=True,
    gc=False,
    tag_field="type",
):
    # What a provider wants echoed back verbatim (signatures, ids), by provider name.
    extra: dict[str, Any] | None = None


class Text(_Part, frozen=True, kw_only=True, omit_defaults=True, tag="text"):
    text: str


class Reasoning(_Part, frozen=True, kw_only=True, omit_defaults=True, tag="reasoning"):
    text: str


class ToolCall(_Part, frozen=True, kw_only=True, omit_defaults=True, tag="tool-call"):
    """`args` is the JSON text exactly as the model wrote it, valid or not."""

    id: str
    name: str
    args: str = "{}"


class ToolResult(_Part, frozen=True, kw_only=True, omit_defaults=True, tag="tool-result"):
    """The answer to the call `id`. `output` is a JSON value; an error is its text."""

    id: str
    name: str
    output: Any = None
    is_error: bool = False


class Media(_Part, frozen=True, kw_only=True, omit_defaults=True, tag="media"):
    """An image, sound or document: `data` (bytes) or `url`."""

    mime: str
    data: bytes | None = None
    url: str | None = None


Part = Text | Reasoning | ToolCall | ToolResult | Media


class Message(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, repr_omit_defaults=True, gc=False
):
    """One turn. `partial` marks an assistant turn that was cut off before its end."""

    role: Role
    parts: tuple[Part, ...]
    partial: bool = False

    @property
    def text(self) -> str:
        return "".join(p.text for p in self.parts if isinstance(p, Text))

    @property
    def reasoning(self) -> str:
        return "".join(p.text for p in self.parts if isinstance(p, Reasoning))

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple(p for p in self.parts if isinstance(p, ToolCall))


class ToolSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A tool as a model is told of it; `parameters` is a JSON schema of type object."""

    name: str
    description: str
    parameters: dict[str, Any]


class Usage(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, repr_omit_defaults=True, gc=False
):
    """Tokens of one or more calls; adds with `+`.

    `cached` is the part of `input` read from a prompt cache, `cache_write` the part written to
    one, `reasoning` the part of `output` spent thinking. `cost` is in US dollars, None if a price
    is unknown; a sum with an unknown part is unknown. `calls` counts requests, so that the empty
    sum (0 calls) costs 0. `estimated` says that a part of it is: of a call that broke off.
    """

    input: int = 0
    output: int = 0
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0
    cost: float | None = None
    calls: int = 0
    estimated: bool = False

    def __add__(self, other: Usage) -> Usage:
        if not self.calls:
            return other
        if not other.calls:
            return self
        known = self.cost is not None and other.cost is not None
        return Usage(
            input=self.input + other.input,
            output=self.output + other.output,
            cached=self.cached + other.cached,
            cache_write=self.cache_write + other.cache_write,
            reasoning=self.reasoning + other.reasoning,
            cost=(self.cost or 0.0) + (other.cost or 0.0) if known else None,
            calls=self.calls + other.calls,
            estimated=self.estimated or other.estimated,
        )

    @property
    def total(self) -> int:
        return self.input + self.output


def system(text: str) -> Message:
    return Message(role="system", parts=(Text(text=text),))


def user(*parts: str | Part) -> Message:
    return Message(
        role="user", parts=tuple(Text(text=p) if isinstance(p, str) else p for p in parts)
    )


def assistant(*parts: str | Part) -> Message:
    return Message(
        role="assistant", parts=tuple(Text(text=p) if isinstance(p, str) else p for p in parts)
    )
