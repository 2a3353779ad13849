"""Test doubles and suites for your own tests; ours use the same."""

from __future__ import annotations

import asyncio
import math
import re
import socket
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, ClassVar, Literal

import msgspec

from mastra_nb.context import Context
from mastra_nb.embedders import EmbedReply, Kind
from mastra_nb.errors import ModelError
from mastra_nb.events import ArgsDelta, ReasoningDelta, TextDelta
from mastra_nb.messages import Message, Reasoning, Text, ToolCall, Usage
from mastra_nb.models import ModelRequest, Profile, Reply
from mastra_nb.store_contract import StoreContract as StoreContract
from mastra_nb.vector_contract import VectorContract as VectorContract

Line = (
    str
    | ToolCall
    | Sequence[ToolCall]
    | Message
    | Reply
    | BaseException
    | Callable[[ModelRequest], Any]
)


def calls(name: str, /, id: str = "", **args: Any) -> ToolCall:
    """A tool call for a script: `calls("get_weather", city="Oslo")`."""
    return ToolCall(id=id or f"call_{name}", name=name, args=msgspec.json.encode(args).decode())


class ScriptedModel:
    """A model that says its lines in order, streamed in pieces.

    A line is text, tool calls, a Message, a Reply, an exception to raise, or a function of the
    request that gives one of these. One call more than there are lines is an error; used as a
    context manager, so are lines left over. `delay` is seconds between pieces of `piece`
    characters; `requests` keeps what was asked. `repeat` starts over at the end.
    """

    kind: ClassVar[Literal["model"]] = "model"

    def __init__(
        self,
        *script: Line,
        name: str = "scripted/model",
        delay: float = 0.0,
        piece: int = 8,
        profile: Profile | None = None,
        repeat: bool = False,
    ) -> None:
        self.script = list(script)
        self.name = name
        self.delay = delay
        self.piece = piece
        self.profile = profile or Profile()
        self.repeat = repeat
        self.requests: list[ModelRequest] = []

    def __enter__(self) -> ScriptedModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.assert_done()

    def assert_done(self) -> None:
        """Raises AssertionError if lines were not asked for."""
        left = self.script[len(self.requests) :]
        if left:
            raise AssertionError(
                f"{len(left)} of {len(self.script)} scripted lines left over: {left!r}"
            )

    async def invoke(self, request: ModelRequest, ctx: Context) -> Reply:
        i = len(self.requests)
        if self.repeat and self.script:
            i %= len(self.script)
        self.requests.append(request)
        if i >= len(self.script):
            raise ModelError(
                f"the script of {len(self.script)} lines is used up",
                code="model.script",
                hint="add a line to ScriptedModel(...)",
            )
        line = self.script[i]
        if callable(line) and not isinstance(line, BaseException):
            line = line(request)
        if isinstance(line, BaseException):
            raise line
        reply = _reply(line)
        for part in reply.message.parts:
            if isinstance(part, (Text, Reasoning)):
                await self._say(part, ctx)
            elif isinstance(part, ToolCall):
                ctx.emit(ArgsDelta(id=part.id, name=part.name, text=part.args))
        return reply

    async def _say(self, part: Text | Reasoning, ctx: Context) -> None:
        delta = TextDelta if isinstance(part, Text) else ReasoningDelta
        for at in range(0, len(part.text), self.piece):
            ctx.emit(delta(text=part.text[at : at + self.piece]))
            await asyncio.sleep(self.delay)


def _reply(line: Any) -> Reply:
    if isinstance(line, Reply):
        return line
    if isinstance(line, Message):
        message = line
    elif isinstance(line, str):
        message = Message(role="assistant", parts=(Text(text=line),))
    else:
        parts = (line,) if isinstance(line, ToolCall) else tuple(line)
        message = Message(role="assistant", parts=parts)
    usage = Usage(input=10, output=max(1, len(message.text) // 4), cost=0.0, calls=1)
    finish: Literal["tool-calls", "stop"] = "tool-calls" if message.tool_calls else "stop"
    return Reply(message=message, finish=finish, usage=usage, model="scripted")


@contextmanager
def no_network(*, allow_loopback: bool = False) -> Iterator[None]:
    """Any attempt to connect inside fails with AssertionError."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else address
        if self.family == getattr(socket, "AF_UNIX", None):
            return connect(self, address)
        if allow_loopback and str(host) in ("127.0.0.1", "::1", "localhost"):
            return connect(self, address)
        raise AssertionError(f"a test without network tried to connect to {address!r}")

    # A plain setattr: mypy and typeshed see the method as final.
    setattr(socket.socket, "connect", refuse)  # noqa: B010
    try:
        yield
    finally:
        setattr(socket.socket, "connect", connect)  # noqa: B010


class FakeEmbedder:
    """Vectors of unit length that are near where texts share words: each word, in lower case, adds
    one to a coordinate that its hash chooses. The same on every machine. `calls` keeps the texts of
    every call; `fail` makes the call of that number (from 1) raise.
    """

    def __init__(self, dimensions: int = 64, *, name: str = "fake/words") -> None:
        self.name = name
        self.dimensions: int | None = dimensions
        self.calls: list[tuple[str, ...]] = []
        self.fail: dict[int, Exception] = {}

    async def embed(self, texts: Sequence[str], *, kind: Kind = "passage") -> EmbedReply:
        self.calls.append(tuple(texts))
        if (error := self.fail.get(len(self.calls))) is not None:
            raise error
        usage = Usage(input=sum(len(t.split()) for t in texts), calls=1)
        return EmbedReply(rows=tuple(map(self._row, texts)), usage=usage, model=self.name)

    def _row(self, text: str) -> bytes:
        assert self.dimensions
        row = [0.0] * self.dimensions
        for word in re.findall(r"\w+", text.lower()) or [""]:
            row[zlib.crc32(word.encode()) % self.dimensions] += 1.0
        length = math.hypot(*row)
        return struct.pack(f"<{self.dimensions}f", *(x / length for x in row))
