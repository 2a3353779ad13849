"""LangGraph's checkpoints on our store, so that their conformance suite can judge it.

A checkpoint is a run ("checkpoint/<thread>/<namespace>/<id>", each part quoted) that rests,
suspended, until the graph goes on from it: what langgraph knows of it is its last "checkpoint"
event. The writes of its tasks are events of a second run ("writes/…"), for they may come first.
Values of channels are documents, shared by the checkpoints that name their version.

Nothing is sorted here but the writes: newest first is the order of `find_runs`. What is deleted is
cancelled, which hides it at once, and then pruned. As that prunes every run that has ended, the
store should be langgraph's own.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    PendingWrite,
    get_checkpoint_id,
    get_serializable_checkpoint_metadata,
    writes_sort_key,
)

from mastra_nb.errors import Conflict, LeaseHeld, NotFound
from mastra_nb.events import Custom, Event, Payload, SpanEnded, StateSet
from mastra_nb.storage import Retention, RunRow, Store

ALL = 10**9
LEASE = 5.0
CHANNEL = "channel"


class StoreSaver(BaseCheckpointSaver[str]):
    def __init__(self, store: Store, *, barrier: bool = False) -> None:
        super().__init__()
        self.store = store
        self.barrier = barrier

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        thread, ns, parent = _where(config)
        values = checkpoint["channel_values"]
        for channel, version in new_versions.items():
            if channel in values:
                at = _channel(thread, ns, channel, version)
                await self.store.insert(CHANNEL, at, self._dump(values[channel]))
        facts = get_serializable_checkpoint_metadata(config, metadata)
        row = RunRow(
            id=_id("checkpoint", thread, ns, checkpoint["id"]),
            name="checkpoint",
            kind="checkpoint",
            thread=thread,
            resource=str(facts.get("run_id", "")),
            created=datetime.fromisoformat(checkpoint["ts"]).timestamp(),
        )
        bare = {k: v for k, v in checkpoint.items() if k != "channel_values"}
        value = {
            "thread": thread,
            "ns": ns,
            "id": checkpoint["id"],
            "parent": parent,
            "checkpoint": self._dump(bare),
            "metadata": self._dump(facts),
        }
        await self._append(row, lambda _: [("checkpoint", Custom(name="checkpoint", value=value))])
        return _config(thread, ns, checkpoint["id"])

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        thread, ns, checkpoint_id = _where(config)
        assert checkpoint_id is not None
        items: list[tuple[str, Payload]] = []
        for n, (channel, value) in enumerate(writes):
            index = WRITES_IDX_MAP.get(channel, n)
            path = f"{_quoted(task_id)}[{index}]"
            said = {
                "task": task_id,
                "path": task_path,
                "index": index,
                "channel": channel,
                "value": self._dump(value),
            }
            # A write counts once, the first time, as a span ends once; an error or an answer of a
            # person replaces the one before.
            data = (
                SpanEnded(status="ok", output=said)
                if index >= 0
                else StateSet(key=path, value=said)
            )
            items.append((path, data))

        def fresh(log: list[Event]) -> list[tuple[str, Payload]]:
            ended = {event.span for event in log if isinstance(event.data, SpanEnded)}
            return [item for item in items if item[0] not in ended]

        id = _id("writes", thread, ns, checkpoint_id)
        await self._append(RunRow(id=id, name="writes", kind="writes", thread=thread), fresh)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        thread, ns, checkpoint_id = _where(config)
        if checkpoint_id is None:
            newest = [found async for found in self.alist(_config(thread, ns), limit=1)]
            return newest[0] if newest else None
        row = await self.store.get_run(_id("checkpoint", thread, ns, checkpoint_id))
        return await self._tuple(row) if row is not None else None

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        given = config["configurable"] if config else {}
        only = get_checkpoint_id(config) if config else None
        bound = get_checkpoint_id(before) if before else None
        parts = [given[key] for key in ("thread_id", "checkpoint_ns") if key in given]
        left = ALL if limit is None else limit
        for row in await self.store.find_runs(prefix=_id("checkpoint", *parts, ""), limit=ALL):
            if left <= 0:
                return
            found = await self._tuple(row)
            if found is None:
                continue
            id = found.checkpoint["id"]
            if (only and id != only) or (bound and id >= bound):
                continue
            if all(found.metadata.get(key) == value for key, value in (filter or {}).items()):
                left -= 1
                yield found

    async def adelete_thread(self, thread_id: str) -> None:
        await self._delete(await self.store.find_runs(thread=thread_id, limit=ALL))
        prefix = _id(thread_id, "")
        while found := await self.store.find(CHANNEL, prefix=prefix):
            for id, _ in found:
                await self.store.delete(CHANNEL, id)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        for run in run_ids:
            rows = await self.store.find_runs(resource=run, name="checkpoint", limit=ALL)
            await self._delete_checkpoints(rows)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        source, target = _quoted(source_thread_id), _quoted(target_thread_id)
        rows = await self.store.find_runs(thread=source_thread_id, limit=ALL)
        for id, value in await self.store.find(CHANNEL, prefix=f"{source}/", limit=ALL):
            await self.store.insert(CHANNEL, target + id.removeprefix(source), value)
        # The oldest first, so that those of one moment are found in the same order again.
        for row in reversed(rows):
            if row.status == "cancelled":
                continue
            events = await self.store.read_events(row.id)
            copy = RunRow(
                id=row.id.replace(f"/{source}/", f"/{target}/", 1),
                name=row.name,
                kind=row.kind,
                thread=target_thread_id,
                resource=row.resource,
                created=row.created,
            )
            items = [(event.span, _moved(event.data, target_thread_id)) for event in events]
            await self._append(copy, functools.partial(_unless_there, items))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        for thread in thread_ids:
            if strategy == "delete":
                await self.adelete_thread(thread)
                continue
            assert strategy == "keep_latest", strategy
            found = [c async for c in self.alist({"configurable": {"thread_id": thread}})]
            by_id = {_row_id(c.config): c for c in found}
            newest: dict[str, CheckpointTuple] = {}
            for c in found:
                newest.setdefault(c.config["configurable"]["checkpoint_ns"], c)
            kept: set[str] = set()
            for last in newest.values():
                kept.update(_needed(last, by_id))
            rows = await self.store.find_runs(thread=thread, name="checkpoint", limit=ALL)
            await self._delete_checkpoints([row for row in rows if row.id not in kept])

    async def _append(
        self, row: RunRow, items: Callable[[list[Event]], Iterable[tuple[str, Payload]]]
    ) -> None:
        """Add to the run what `items` makes of its events; it rests again afterwards."""
        owner = uuid.uuid4().hex
        while True:
            try:
                held = await self.store.create(row, owner=owner, lease=LEASE)
            except Conflict:
                try:
                    held = await self.store.claim(row.id, owner=owner, lease=LEASE)
                except LeaseHeld:
                    await asyncio.sleep(0.001)
                    continue
                except NotFound:
                    continue
            log = await self.store.read_events(row.id)
            first = log[-1].seq + 1 if log else 1
            events = [
                Event(run=row.id, seq=seq, span=span, data=data, at=time.time())
                for seq, (span, data) in enumerate(items(log), first)
            ]
            try:
                await self.store.append(
                    row.id,
                    held.fence,
                    events,
                    status="suspended",
                    lease=LEASE,
                    barrier=self.barrier,
                )
            except (LeaseHeld, NotFound):
                continue
            return

    async def _delete(self, rows: Sequence[RunRow]) -> None:
        for row in rows:
            while True:
                try:
                    held = await self.store.claim(row.id, owner=uuid.uuid4().hex, lease=LEASE)
                    await self.store.append(row.id, held.fence, [], status="cancelled")
                except LeaseHeld:
                    await asyncio.sleep(0.001)
                    continue
                except NotFound:
                    pass
                break
        await self.store.prune(Retention(runs=0))

    async def _delete_checkpoints(self, rows: Sequence[RunRow]) -> None:
        """These, their writes and what no other checkpoint of their threads names."""
        threads = {row.thread for row in rows if row.thread is not None}
        gone = [ref for row in rows for ref in await self._channels(row)]
        writes = [
            found
            for row in rows
            if (found := await self.store.get_run(row.id.replace("checkpoint/", "writes/", 1)))
        ]
        await self._delete([*rows, *writes])
        held = [
            ref
            for thread in threads
            for row in await self.store.find_runs(thread=thread, name="checkpoint", limit=ALL)
            for ref in await self._channels(row)
        ]
        for ref in set(gone) - set(held):
            await self.store.delete(CHANNEL, ref)

    async def _channels(self, row: RunRow) -> list[str]:
        kept = await self._read(row)
        if kept is None:
            return []
        versions = self._load(kept["checkpoint"])["channel_versions"]
        return [_channel(kept["thread"], kept["ns"], *item) for item in versions.items()]

    async def _read(self, row: RunRow) -> dict[str, Any] | None:
        """The last checkpoint of the run; none if it was deleted or its put did not end."""
        if row.status == "cancelled":
            return None
        for event in reversed(await self.store.read_events(row.id)):
            if isinstance(event.data, Custom):
                value: dict[str, Any] = event.data.value
                return value
        return None

    async def _tuple(self, row: RunRow) -> CheckpointTuple | None:
        kept = await self._read(row)
        if kept is None:
            return None
        thread, ns, parent = kept["thread"], kept["ns"], kept["parent"]
        checkpoint: Checkpoint = self._load(kept["checkpoint"])
        values: dict[str, Any] = {}
        for channel, version in checkpoint["channel_versions"].items():
            raw = await self.store.get(CHANNEL, _channel(thread, ns, channel, version))
            if raw is not None:
                values[channel] = self._load(raw)
        checkpoint["channel_values"] = values
        return CheckpointTuple(
            config=_config(thread, ns, kept["id"]),
            checkpoint=checkpoint,
            metadata=self._load(kept["metadata"]),
            parent_config=_config(thread, ns, parent) if parent else None,
            pending_writes=await self._writes(_id("writes", thread, ns, kept["id"])),
        )

    async def _writes(self, run: str) -> list[PendingWrite]:
        last: dict[str, dict[str, Any]] = {}
        for event in await self.store.read_events(run):
            if isinstance(event.data, SpanEnded):
                last[event.span] = event.data.output
            elif isinstance(event.data, StateSet):
                last[event.span] = event.data.value
        said = sorted(
            last.values(), key=lambda w: writes_sort_key(w["path"], w["task"], w["index"])
        )
        return [(w["task"], w["channel"], self._load(w["value"])) for w in said]

    def get_next_version(self, current: str | None, channel: None) -> str:
        """The random part keeps the versions of two branches of a thread apart."""
        number = int(current.split(".")[0]) if current else 0
        return f"{number + 1:016}.{uuid.uuid4().hex[:16]}"

    def _dump(self, value: Any) -> list[str]:
        kind, raw = self.serde.dumps_typed(value)
        return [kind, base64.b64encode(raw).decode()]

    def _load(self, kept: list[str]) -> Any:
        return self.serde.loads_typed((kept[0], base64.b64decode(kept[1])))


def _quoted(text: str) -> str:
    return quote(text, safe="")


def _id(*parts: str) -> str:
    return "/".join(map(_quoted, parts))


def _channel(thread: str, ns: str, channel: str, version: str | int | float) -> str:
    return _id(thread, ns, channel, json.dumps(version))


def _where(config: RunnableConfig) -> tuple[str, str, str | None]:
    given = config["configurable"]
    return given["thread_id"], given.get("checkpoint_ns", ""), given.get("checkpoint_id")


def _config(thread: str, ns: str, id: str | None = None) -> RunnableConfig:
    given = {"thread_id": thread, "checkpoint_ns": ns}
    return {"configurable": given if id is None else {**given, "checkpoint_id": id}}


def _row_id(config: RunnableConfig) -> str:
    thread, ns, id = _where(config)
    return _id("checkpoint", thread, ns, id or "")


def _unless_there(items: list[tuple[str, Payload]], log: list[Event]) -> list[tuple[str, Payload]]:
    """A copy that was broken off goes on: what a run has came as a whole."""
    return [] if log else items


def _moved(data: Payload, thread: str) -> Payload:
    if isinstance(data, Custom):
        return Custom(name=data.name, value={**data.value, "thread": thread})
    return data


def _needed(last: CheckpointTuple, by_id: dict[str, CheckpointTuple]) -> list[str]:
    """It, and those before it down to where each of its delta channels has a value of its own."""
    deltas = set(last.metadata.get("counters_since_delta_snapshot", ()))
    needed: list[str] = []
    current: CheckpointTuple | None = last
    while current is not None:
        needed.append(_row_id(current.config))
        deltas -= current.checkpoint["channel_values"].keys()
        parent = current.parent_config if deltas else None
        current = by_id.get(_row_id(parent)) if parent else None
    return needed
