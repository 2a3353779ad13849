"""Texts to vectors for an index: in batches, and each text once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from mastra_nb.embedders import Embedder
from mastra_nb.messages import Usage
from mastra_nb.storage import EmbeddingCache

_BATCH = 64


class Embedded(msgspec.Struct, frozen=True, kw_only=True):
    """`rows` in the order of the texts; `asked` of them were made now, the others were there."""

    rows: tuple[bytes, ...]
    usage: Usage = Usage()
    asked: int = 0


async def embed_passages(
    texts: Sequence[str], embedder: Embedder, cache: EmbeddingCache | None = None
) -> Embedded:
    """Raises what the embedder raises; what it gave until then is in the cache."""
    keys = [hashlib.sha256(text.encode()).digest() for text in texts]
    rows = await cache.get(embedder.name, [*dict.fromkeys(keys)]) if cache is not None else {}
    wanted = {key: text for key, text in zip(keys, texts, strict=True) if key not in rows}
    missing = [*wanted]
    usage = Usage()
    for at in range(0, len(missing), _BATCH):
        some = missing[at : at + _BATCH]
        reply = await embedder.embed([wanted[key] for key in some])
        made = dict(zip(some, reply.rows, strict=True))
        rows |= made
        usage += reply.usage
        if cache is not None:
            await cache.put(embedder.name, made)
    return Embedded(rows=tuple(rows[key] for key in keys), usage=usage, asked=len(missing))


async def embed_query(text: str, embedder: Embedder) -> bytes:
    """Raises what the embedder raises."""
    return (await embedder.embed([text])).rows[0]
