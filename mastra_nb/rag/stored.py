"""An index made from what its store says of it."""

from __future__ import annotations

from mastra_nb import embedders
from mastra_nb.embedders import Embedder
from mastra_nb.errors import MastraError, MissingExtra, NotFound, close_matches
from mastra_nb.rag.index import Index
from mastra_nb.storage import Store


async def stored_index(store: Store, name: str, *, hint: str) -> tuple[Index, str]:
    """(the index, why it is searched by words only, or nothing). Raises NotFound; `hint` says how
    one is made.
    """
    try:
        info = await store.vectors.describe_index(name)
    except NotFound:
        near = close_matches(name, await store.vectors.list_indexes())
        raise NotFound(f'there is no index "{name}"', hint=near or hint) from None
    if not info.embedder:
        return Index(name, store=store, embedder=None), ""
    try:
        return Index(name, store=store, embedder=embedders.resolve(info.embedder)), ""
    except MastraError as error:
        return Index(name, store=store, embedder=None), error.message


def local_embedder() -> Embedder | None:
    """The one that needs no key, if it is installed."""
    try:
        return embedders.resolve("local")
    except MissingExtra:
        return None
