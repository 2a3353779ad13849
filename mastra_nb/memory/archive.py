"""All that is remembered of a resource, as one JSON value: out of a store and into another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mastra_nb.errors import SchemaError
from mastra_nb.memory._attached import Attached
from mastra_nb.memory.threads import (
    VERSION,
    Conversation,
    OnConflict,
    ThreadExport,
    checked,
    import_thread,
    read_export,
    taken,
)
from mastra_nb.services import Services
from mastra_nb.storage import Store, Thread

FORMAT = "mastra_nb/memory"
_PAGE = 200


class MemoryExport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`threads` are exported threads, `attached` holds what belongs to the resource itself."""

    resource: str
    threads: list[ThreadExport]
    attached: dict[str, Any] = {}
    format: str = FORMAT
    version: int = VERSION


async def all_threads(store: Store, resource: str | None) -> list[Thread]:
    """In order of creation."""
    out: dict[str, Thread] = {}
    offset = 0
    # What is written to meanwhile moves to the front: nothing is left out, doubles are dropped.
    while page := await store.find_threads(resource=resource, limit=_PAGE, offset=offset):
        out.update((t.id, t) for t in page)
        offset += len(page)
    return sorted(out.values(), key=lambda t: (t.created, t.id))


async def export_memory(
    store: Store,
    resource: str,
    *,
    attached: Sequence[Attached] = (),
    services: Services | None = None,
) -> dict[str, Any]:
    """{"format", "version", "resource", "threads", "attached"}; MemoryExport is the schema."""
    threads: list[Any] = []
    numbers: dict[str, dict[int, int]] = {}
    for thread in await all_threads(store, resource):
        handle = Conversation(
            store, thread.id, resource=resource, attached=attached, services=services
        )
        exported, numbers[thread.id] = await handle.exported()
        threads.append(exported)
    beside = {}
    for each in attached:
        data = await each.export_resource(store, resource, numbers) if each.name else None
        if data is not None:
            beside[each.name] = data
    made: dict[str, Any] = msgspec.to_builtins(
        MemoryExport(resource=resource, threads=threads, attached=beside)
    )
    return made


async def import_memory(
    store: Store,
    data: Any,
    *,
    resource: str | None = None,
    on_conflict: OnConflict = "error",
    attached: Sequence[Attached] = (),
    services: Services | None = None,
) -> list[Conversation]:
    """Everything into `resource` (default: that of the export). Raises SchemaError, and has then
    written nothing; Conflict if one of the threads is there already.
    """
    whole: MemoryExport = read_export(data, MemoryExport, FORMAT)
    owner = whole.resource if resource is None else resource
    ids = [t.thread.id for t in whole.threads]
    if len({*ids}) < len(ids):
        raise SchemaError("two threads of the export have one id")
    for each in whole.threads:
        checked(msgspec.to_builtins(each), attached)
    for kind in attached:
        if (beside := whole.attached.get(kind.name)) is not None:
            kind.check_resource(beside)
    if on_conflict == "error":
        for id in ids:
            if await store.get_thread(id) is not None:
                raise taken(id)
    handles = []
    names: dict[str, str] = {}
    for each in whole.threads:
        handle = await import_thread(
            store,
            msgspec.to_builtins(each),
            resource=owner,
            on_conflict=on_conflict,
            attached=attached,
            services=services,
        )
        names[each.thread.id] = handle.id
        handles.append(handle)
    for kind in attached:
        if (beside := whole.attached.get(kind.name)) is not None:
            await kind.restore_resource(store, owner, beside, names)
    return handles
