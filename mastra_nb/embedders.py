"""Embedders: texts to vectors. The protocol, what it answers, and the one named by a string."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import msgspec

from mastra_nb import plugins
from mastra_nb.errors import ConfigError
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


Kind: TypeAlias = Literal["passage", "query"]


class Embedder(Protocol):
    """`dimensions` is the length of its vectors, None if it is the model's own and unknown.

    Some models tell what is searched ("passage") from what is asked ("query"); the others ignore
    `kind`. `embed` raises what a model raises: ModelError and its kinds, ConfigError without a key.
    """

    name: str
    dimensions: int | None

    async def embed(self, texts: Sequence[str], *, kind: Kind = "passage") -> EmbedReply: ...


def resolve(embedder: str | Embedder, *, dimensions: int | None = None) -> Embedder:
    """An embedder by its string "provider/model" ("local" alone is enough), or as it is.
    `dimensions` asks for shorter vectors, where a model can do that.

    Raises NotFound for an unknown provider, ConfigError for a string without one.
    """
    if not isinstance(embedder, str):
        return embedder
    provider, _, model_id = embedder.partition("/")
    if not model_id and provider != "local":
        raise ConfigError(
            f'"{embedder}" names no provider',
            hint='write "provider/model", for example "openai/text-embedding-3-small"',
        )
    options = {} if dimensions is None else {"dimensions": dimensions}
    made: Embedder = plugins.embedders.load(provider)(provider, model_id, **options)
    return made


def batches(texts: Iterable[str], most: int, most_bytes: int) -> Iterator[list[str]]:
    """Runs of at most `most` texts and `most_bytes` bytes: no token is shorter than a byte."""
    batch: list[str] = []
    size = 0
    for text in texts:
        length = len(text.encode(errors="replace"))
        if batch and (size + length > most_bytes or len(batch) == most):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += length
    if batch:
        yield batch
