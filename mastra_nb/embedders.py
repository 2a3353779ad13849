"""Embedders: texts to vectors. The protocol, what it answers, and the one named by a string."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from mastra_nb import plugins
from mastra_nb.errors import ConfigError, ModelOutputError
from mastra_nb.messages import Usage

if TYPE_CHECKING:
    import numpy as np


class EmbedReply(msgspec.Struct, frozen=True, kw_only=True):
    """`rows` are the vectors in the order of the texts, each little-endian float32 in bytes:
    what a store keeps, and what becomes an array without a copy.
    """

    rows: tuple[bytes, ...]
    usage: Usage = Usage()
    model: str = ""

    @property
    def dimensions(self) -> int:
        return len(self.rows[0]) // 4 if self.rows else 0

    @property
    def vectors(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The rows as one array of shape (texts, dimensions)."""
        import numpy as np

        flat = np.frombuffer(b"".join(self.rows), dtype="<f4")
        return flat.reshape(len(self.rows), self.dimensions)


class Embedder(Protocol):
    """`dimensions` is the length of its vectors, None if it is the model's own and unknown.

    `embed` raises what a model raises: ModelError and its kinds, ConfigError without a key.
    """

    name: str
    dimensions: int | None

    async def embed(self, texts: Sequence[str]) -> EmbedReply: ...


def _is_finite(row: bytes) -> bool:
    return math.isfinite(sum(struct.unpack(f"<{len(row) // 4}f", row)))


async def embedded(embedder: Embedder, texts: Sequence[str]) -> EmbedReply:
    """What the embedder gives, which has a row of finite numbers for each text, all of one length.

    Raises what the embedder raises, ModelOutputError for another answer.
    """
    # It may be anybody's.
    reply: Any = await embedder.embed(texts)
    if not isinstance(reply, EmbedReply):
        found = f"a {type(reply).__name__}"
    elif len(reply.rows) != len(texts):
        found = f"{len(reply.rows)} vectors for {len(texts)} texts"
    elif len({*map(len, reply.rows)}) > 1:
        found = "vectors of several lengths"
    elif reply.rows and (not reply.rows[0] or len(reply.rows[0]) % 4):
        found = f"vectors of {len(reply.rows[0])} bytes"
    elif not all(map(_is_finite, reply.rows)):
        found = "a number that is not finite"
    else:
        return reply
    raise ModelOutputError(
        f'the embedder "{embedder.name}" gave {found}',
        hint="embed(texts) gives an EmbedReply with a row for each text: float32 as bytes",
    )


def resolve(embedder: str | Embedder) -> Embedder:
    """An embedder by its string "provider/model", or as it is.

    Raises NotFound for an unknown provider, ConfigError for a string without one.
    """
    if not isinstance(embedder, str):
        if not hasattr(embedder, "embed") or not hasattr(embedder, "name"):
            raise ConfigError(
                f"a {type(embedder).__name__} is no embedder",
                hint='name one, "provider/model", or give an object with name and embed(texts)',
            )
        return embedder
    provider, _, model_id = embedder.partition("/")
    if not model_id:
        raise ConfigError(
            f'"{embedder}" names no provider',
            hint='write "provider/model", for example "openai/text-embedding-3-small"',
        )
    made: Embedder = plugins.embedders.load(provider)(provider, model_id)
    return made
