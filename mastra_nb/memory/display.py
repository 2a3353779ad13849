"""A memory in a cell: its threads, what is kept beside them, and what was found in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mastra_nb.memory._asking import when
from mastra_nb.memory._attached import Attached
from mastra_nb.memory._recall import Recollection
from mastra_nb.memory._show import Bundle, bundle, counted, days_ago, table
from mastra_nb.memory._working import Version
from mastra_nb.records import json_text
from mastra_nb.storage import Store

_MOST_THREADS = 20


class Recollections(tuple[Recollection, ...]):
    """What was said and fits, the best first, as a table."""

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        rows = [
            (f"{r.score:.3g}", r.message.role, r.message.text, f"{r.thread}#{r.pos}", when(r.at))
            for r in self
        ]
        head = ("score", "who", "said", "thread", "when")
        return bundle(counted(len(self), "message"), table(head, rows))


class Versions(tuple[Version, ...]):
    """Working memory as it was, the newest first, as a table."""

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        rows = [
            (
                str(v.version),
                v.value if isinstance(v.value, str) else json_text(v.value),
                when(v.at) if v.at else "",
                v.by,
            )
            for v in self
        ]
        return bundle(
            counted(len(self), "version"), table(("version", "value", "when", "by"), rows)
        )


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
