"""A memory in a cell: its threads, and what is kept beside them."""

from __future__ import annotations

from collections.abc import Sequence

from mastra_nb.memory._attached import Attached
from mastra_nb.memory._show import Bundle, bundle, counted, days_ago, table
from mastra_nb.storage import Store

_MOST_THREADS = 20


async def overview(
    store: Store, resource: str | None, attached: Sequence[Attached], *, now: float
) -> Bundle:
    """Of one resource, or with None the newest threads of all."""
    found = await store.find_threads(resource=resource, limit=_MOST_THREADS + 1)
    rows = []
    for thread in found[:_MOST_THREADS]:
        last = await store.read_messages(thread.id, last=1)
        rows.append(
            (
                thread.id,
                thread.title,
                thread.resource,
                last[0].pos if last else 0,
                days_ago(thread.updated, now),
                last[0].message.text if last else "",
            )
        )
    head = ("thread", "title", "resource", "messages", "updated", "last said")
    more = "more than " if len(found) > _MOST_THREADS else ""
    lines = [f"{more}{counted(len(rows), 'thread')}"]
    blocks = [table(head, rows)]
    for each in attached:
        shown = await each.show(store, resource, now) if resource is not None else None
        if shown is not None:
            lines.append(shown[0])
            blocks.append(shown[1])
    title = " · ".join(["memory" if resource is None else f"memory of {resource}", *lines])
    return bundle(title, "\n\n".join(b for b in blocks if b))
