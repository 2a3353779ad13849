"""Texts to vectors for an index: in batches, and each text once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from mastra_nb.embedders import Embedder, embedded
from mastra_nb.errors import SchemaError
from mastra_nb.messages import Usage
from mastra_nb.storage import EmbeddingCache

_BATCH = 64


class Embedded(msgspec.Struct, frozen=True, kw_only=True):
    """`rows` in the order of the texts; `asked` of them were made now, the others were there."""

    rows: tuple[bytes, ...]
    usage: Usage = Usage()
    asked: int = 0


async def embed_passages(
    texts: Sequence[str],
    embedder: Embedder,
    cache: EmbeddingCache | None = None,
    *,
    dimension: int | None = None,
) -> Embedded:
    """Raises what the embedder raises; what it gave until then is in the cache. SchemaError for
    vectors that have not the `dimension`, if one is given.
    """
    keys = [hashlib.sha256(text.encode()).digest() for text in texts]
    rows = await cache.get(embedder.name, [*dict.fromkeys(keys)]) if cache is not None else {}
    if dimension:
        rows = {key: row for key, row in rows.items() if len(row) == 4 * dimension}
    wanted = {key: text for key, text in zip(keys, texts, strict=True) if key not in rows}
    missing = [*wanted]
    usage = Usage()
    for at in range(0, len(missing), _BATCH):
        some = missing[at : at + _BATCH]
        reply = await embedded(embedder, [wanted[key] for key in some])
        if dimension and reply.dimensions != dimension:
            raise SchemaError(
                f'"{embedder.name}" gave {reply.dimensions} numbers a text and {dimension} before',
                hint="one that has changed needs an index of its own: index.clear()",
                code="vectors.dimension",
            )
        made = dict(zip(some, reply.rows, strict=True))
        rows |= made
        usage += reply.usage
        if cache is not None:
            await cache.put(embedder.name, made)
    return Embedded(rows=tuple(rows[key] for key in keys), usage=usage, asked=len(missing))


async def embed_query(text: str, embedder: Embedder) -> bytes:
    """Raises what the embedder raises."""
    return (await embedded(embedder, [text])).rows[0]
