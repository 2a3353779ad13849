"""What memory keeps of a thread goes with it, whichever memory has kept it."""

from __future__ import annotations

from collections.abc import Sequence

from mastra_nb.memory import _facts, _notes, _recall, _working
from mastra_nb.memory._attached import Place
from mastra_nb.storage import Store, Thread


async def forget_threads(store: Store, threads: Sequence[Thread]) -> None:
    """What is kept for these threads alone, and the notes about them that their resource shares
    with its others; what is known of the resource itself stays.

    It comes before the threads are deleted: cut off here, both can be done again.
    """
    ids = [t.id for t in threads]
    indexes = await store.vectors.list_indexes()
    for name in filter(_recall.is_index, indexes):
        await store.vectors.delete(name, filter={"thread": {"$in": ids}})
    owners = [_facts.owner_of(Place(store, id)) for id in ids]
    for name in filter(_facts.is_index, indexes):
        await store.vectors.delete(name, filter={"owner": {"$in": owners}})
    for id, owner in zip(ids, owners, strict=True):
        own = _notes.log_key("thread", id, "")
        for kind in (_recall.CURSOR, _notes.KIND, _working.KIND):
            await _notes.drop(store, own, kind)
        await store.delete(_facts.CLEANED, owner)
    shared: dict[str, set[str]] = {}
    for thread in threads:
        shared.setdefault(thread.resource, set()).add(thread.id)
    for resource, some in shared.items():
        await _notes.forget_shared(store, resource, some)
