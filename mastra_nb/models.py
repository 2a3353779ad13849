"""Models: the protocol, what a request and a reply hold, and wrappers around any model."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Protocol

import msgspec

from mastra_nb.context import Context
from mastra_nb.messages import Finish, Message, ToolSpec, Usage


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What a model can do, as data. `context` is in tokens, None if unknown."""

    tools: bool = True
    parallel_tools: bool = True
    json_schema: bool = True
    reasoning: bool = False
    media: tuple[str, ...] = ()
    context: int | None = None


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sampling. `extra` is merged into the provider's request body as it is."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    extra: dict[str, Any] = {}


class ModelRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`tool_choice` is a mode or the name of a tool; `output` is a JSON schema for the answer."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: str = "auto"
    output: dict[str, Any] | None = None
    settings: ModelSettings = ModelSettings()


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`model` is the name the provider answered with, `raw` its last JSON body or chunk."""

    message: Message
    finish: Finish = "stop"
    usage: Usage = Usage()
    model: str = ""
    raw: Any = None


class Model(Protocol):
    """Emits TextDelta, ReasoningDelta and ArgsDelta through `ctx.emit` while it speaks, and
    returns the whole message: there is no second, streaming path.

    When `invoke` is cancelled or fails midway, the deltas it emitted are what is kept.
    """

    kind: ClassVar[Literal["model"]]
    name: str
    profile: Profile

    async def invoke(self, request: ModelRequest, ctx: Context) -> Reply: ...
