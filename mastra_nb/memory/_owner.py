"""Whom a conversation belongs to: the one place that says who may see it."""

from __future__ import annotations

from mastra_nb.errors import NotFound
from mastra_nb.memory._attached import Place
from mastra_nb.storage import Store, Thread


def unknown(thread: str) -> NotFound:
    """The same for a thread of somebody else as for none: an id tells nobody anything."""
    return NotFound(
        f'there is no thread "{thread}"',
        hint="memory.threads() lists them; resource=… names whose it is",
    )


async def owned(store: Store, thread: str, resource: str) -> Thread | None:
    """None if it is not there yet. Raises NotFound if it belongs to another resource; nobody ("")
    counts as one.
    """
    found = await store.get_thread(thread)
    if found is not None and found.resource != resource:
        raise unknown(thread)
    return found


async def claimed(store: Store, thread: str, resource: str) -> Place:
    """The place of a turn: a new or empty thread of nobody's is the resource's from now on."""
    found = await store.get_thread(thread)
    if resource and (found is None or not found.resource):
        found = await store.claim_thread(thread, resource)
    if found is not None and found.resource != resource:
        raise unknown(thread)
    return Place(store, thread, resource)
