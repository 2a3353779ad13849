"""What a front end asks of an application: its runs, conversations, indexes and costs, as JSON.

A question is a name and a mapping of arguments; docs/dashboard.md lists them. Nothing is changed by
a question. Answers are cut to what a person looks at: a page, a text, a few thousand points.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, get_args

from mastra_nb import embedders, traces, views
from mastra_nb.app import Mastra, Waiting
from mastra_nb.errors import MastraError, NotFound, UsageError, close_matches
from mastra_nb.events import RunStatus, View, fold
from mastra_nb.memory._working import working_text
from mastra_nb.messages import Message, ToolResult, Usage
from mastra_nb.rag.index import Index
from mastra_nb.records import json_text
from mastra_nb.storage import RunRow, Spent, Store, Thread, ThreadMessage, read_run
from mastra_nb.vectors import VectorRecord

MOST = 200
MOST_POINTS = 5_000
_SHORT, _LONG, _LONGEST = 160, 2_000, 20_000
_DAY = 86_400.0
_BLOCK = 100

Args = Mapping[str, Any]
Json = dict[str, Any]


class Queries:
    """Over the store of `app`, as it is at each question."""

    def __init__(self, app: Mastra) -> None:
        self.app = app

    async def ask(self, name: str, args: Args) -> Json:
        """Raises UsageError for an unknown question or an argument that cannot be, NotFound."""
        asked = _QUESTIONS.get(name)
        if asked is None:
            raise UsageError(f'there is no question "{name}"', hint=close_matches(name, _QUESTIONS))
        return await asked(self, args)

    @property
    def _store(self) -> Store:
        store = self.app.services.store
        if store is None:
            raise NotFound("nothing is kept here", hint='Mastra(storage="sqlite:///mastra.db")')
        return store

    # Runs

    async def runs(self, args: Args) -> Json:
        limit, offset = _limit(args), _number(args, "cursor", 0, 10**9)
        status: Any = _text(args, "status") or None
        if status not in (None, *get_args(RunStatus)):
            raise UsageError(f'"{status}" is no status', hint=", ".join(get_args(RunStatus)))
        wanted = {"name": _text(args, "name") or None, "text": _text(args, "text") or None}
        store = self._store
        rows = await store.find_runs(status=status, limit=limit + 1, offset=offset, **wanted)
        shown = rows[:limit]
        spent: dict[str, list[Spent]] = {}
        for each in await store.read_spent(runs=[row.id for row in shown]):
            spent.setdefault(each.run, []).append(each)
        return {
            "runs": [_run(row, spent.get(row.id, ())) for row in shown],
            "next": str(offset + limit) if len(rows) > limit else None,
            "total": await store.count_runs(status=status, **wanted),
        }

    async def run(self, args: Args) -> Json:
        """The MIME bundle of one run; its record has the `run` id."""
        row, view = await self._view(args)
        record = views.record(view, thread=row.thread or "", run=row.id) | {"run": row.id}
        hosts = frozenset(self.app.services.settings.image_hosts)
        return views.bundle(record, hosts=hosts)

    async def trace(self, args: Args) -> Json:
        row, view = await self._view(args)
        began = min((span.started for span in view.spans.values()), default=row.created)
        shown = traces.spans(view, _number(args, "limit", traces.MAX_SPANS, 10_000))
        return {"run": row.id, "began": began, "spans": shown}

    async def _view(self, args: Args) -> tuple[RunRow, View]:
        id = _text(args, "id")
        row = await self._store.get_run(id)
        if row is None:
            raise NotFound(f'there is no run "{id}"', hint="it may have been pruned")
        return row, fold(await read_run(self._store, row))

    async def waiting(self, args: Args) -> Json:
        found = await self.app.find_waiting(limit=_limit(args))
        return {"waiting": [_waiting(each) for each in found]}

    async def costs(self, args: Args) -> Json:
        """Of the last `days` in about `buckets` equal parts, by agent and model."""
        days = _amount(args, "days", 30.0, 3_650.0)
        parts = _number(args, "buckets", 60, 500) or 1
        until = time.time()
        width = max(60.0, days * _DAY / parts)
        since = until - days * _DAY
        sums: dict[tuple[int, str, str], Usage] = {}
        for spent in await self._store.read_spent(since=since):
            key = (int((spent.at - since) // width), _agent(spent.span), spent.name)
            sums[key] = sums.get(key, Usage()) + spent.usage
        buckets = [
            {"at": since + n * width, "name": agent, "model": model} | _used(usage)
            for (n, agent, model), usage in sorted(sums.items())
        ]
        return {"since": since, "until": until, "width": width, "buckets": buckets}

    # Conversations

    async def threads(self, args: Args) -> Json:
        limit, offset = _limit(args), _number(args, "cursor", 0, 10**9)
        resource, text = _text(args, "resource") or None, _text(args, "text").lower()
        store, found = self._store, list[Thread]()
        at, more = offset, True
        while more and len(found) < limit:
            page = await store.find_threads(resource=resource, limit=limit, offset=at)
            more = len(page) == limit
            for thread in page:
                at += 1
                if text in f"{thread.id}\n{thread.title}\n{thread.resource}".lower():
                    found.append(thread)
                    if len(found) == limit:
                        break
        out = [_thread(thread) | await self._size(thread.id) for thread in found]
        return {"threads": out, "next": str(at) if more else None}

    async def _size(self, thread: str) -> Json:
        last = await self._store.read_messages(thread, last=1)
        return {"messages": last[0].pos if last else 0}

    async def thread(self, args: Args) -> Json:
        """The last messages before `before` (all), oldest first, and the working memory."""
        id, limit = _text(args, "id"), _limit(args)
        thread = await self._store.get_thread(id)
        if thread is None:
            raise NotFound(f'there is no thread "{id}"', hint="it may have been deleted")
        before = _number(args, "before", 0, 10**9)
        upto = before - 1 if before else None
        found = [] if upto == 0 else await self._store.read_messages(id, last=limit, upto=upto)
        return {
            "thread": _thread(thread),
            "messages": [_message(each) for each in found],
            "before": found[0].pos if len(found) == limit and found[0].pos > 1 else None,
            "working": (await working_text(self._store, id, thread.resource))[:_LONGEST],
        }

    # Indexes

    async def indexes(self, args: Args) -> Json:
        vectors, out = self._store.vectors, list[Json]()
        for name in await vectors.list_indexes():
            stats = await vectors.stats(name)
            out.append(
                {
                    "name": name,
                    "count": stats.info.count,
                    "dimension": stats.info.dimension,
                    "embedder": stats.info.embedder,
                    "engine": stats.engine,
                    "disk": stats.disk,
                }
            )
        return {"indexes": out}

    async def map(self, args: Args) -> Json:
        """The entries of an index on a plane: the two directions in which they differ most.

        `explained` are the shares of their variance (principal components, Pearson 1901). Of many
        entries about `limit`, in blocks that are spread evenly.
        """
        name, limit = _text(args, "index"), _number(args, "limit", 2_000, MOST_POINTS) or 1
        vectors = self._store.vectors
        info = await vectors.describe_index(name)
        if not info.dimension:
            return {"index": name, "points": [], "explained": [], "count": info.count}
        found = list[VectorRecord]()
        size = limit if info.count <= limit else min(limit, _BLOCK)
        blocks = 1 if info.count <= limit else -(-limit // size)
        for n in range(blocks):
            at = n * info.count // blocks
            found += await vectors.find(name, limit=size, offset=at, include_vector=True)
        from mastra_nb.sketches import on_a_plane

        places, explained = on_a_plane([each.vector or b"" for each in found])
        points = [
            {"id": each.id, "x": x, "y": y, "text": _cut(each.text, _SHORT)}
            | _source(each.metadata)
            for each, (x, y) in zip(found, places, strict=True)
        ]
        return {"index": name, "points": points, "explained": explained, "count": info.count}

    async def search(self, args: Args) -> Json:
        """By words and by meaning where the embedder of the index is here, else by words."""
        name, text = _text(args, "index"), _text(args, "text")
        if not text.strip():
            raise UsageError("the search has no words", hint="write what to look for")
        info = await self._store.vectors.describe_index(name)
        by, embedder, why = "words", None, ""
        if info.embedder:
            try:
                embedder, by = embedders.resolve(info.embedder), "hybrid"
            except MastraError as error:
                why = error.message
        index = Index(name, store=self._store, embedder=embedder)
        mode: Any = by
        limit = min(_limit(args, 10), 50)
        hits = await index.query(text, top_k=limit, mode=mode)
        return {
            "by": by,
            "why": why,
            "hits": [
                {"id": hit.id, "score": hit.score, "text": _cut(hit.text, _LONG)}
                | _source(hit.metadata)
                for hit in hits
            ],
        }


_QUESTIONS: dict[str, Callable[[Queries, Args], Awaitable[Json]]] = {
    "runs": Queries.runs,
    "run": Queries.run,
    "trace": Queries.trace,
    "waiting": Queries.waiting,
    "costs": Queries.costs,
    "threads": Queries.threads,
    "thread": Queries.thread,
    "indexes": Queries.indexes,
    "map": Queries.map,
    "search": Queries.search,
}


# What is asked


def _text(args: Args, name: str) -> str:
    value = args.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > _LONG:
        raise UsageError(f'"{name}" is no text', hint=f"at most {_LONG:,} characters")
    return value


def _amount(args: Args, name: str, default: float, most: float) -> float:
    value = args.get(name)
    if value is None or value == "":
        return default
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if isinstance(value, bool) or not 0 <= number <= most:
        raise UsageError(f'"{name}" is {value!r}', hint=f"a number from 0 to {most:,.0f}")
    return number


def _number(args: Args, name: str, default: int, most: int) -> int:
    return int(_amount(args, name, default, most))


def _limit(args: Args, default: int = 50) -> int:
    return min(MOST, max(1, _number(args, "limit", default, 10**6)))


# What is answered


def _run(row: RunRow, spent: Sequence[Spent]) -> Json:
    usage = Usage()
    for each in spent:
        usage += each.usage
    given = row.input if isinstance(row.input, str) else _given(row.input)
    ended = row.status in ("done", "failed", "cancelled")
    return {
        "id": row.id,
        "name": row.name,
        "kind": row.kind,
        "status": row.status,
        "input": _cut(given, _SHORT),
        "thread": row.thread or "",
        "resource": row.resource,
        "created": row.created,
        "seconds": max(0.0, row.updated - row.created) if ended else None,
        "model": ", ".join(Counter(each.name for each in spent)),
        "input_tokens": usage.input,
        "output_tokens": usage.output,
        "cost": usage.cost if usage.calls else 0.0,
    }


def _given(value: Any) -> str:
    if value is None:
        return ""
    return json_text(value)


def _used(usage: Usage) -> Json:
    return {
        "calls": usage.calls,
        "input": usage.input,
        "output": usage.output,
        "cost": usage.cost,
    }


_CALL = re.compile(r"[\[#~].*", re.DOTALL)


def _agent(path: str) -> str:
    """Who called a model: what is above it in its path."""
    above = path.rpartition("/")[0] or path
    return _CALL.sub("", above.rpartition("/")[2])


def _waiting(asked: Waiting) -> Json:
    out: Json = {
        "run": asked.run,
        "name": asked.name,
        "kind": asked.kind,
        "path": asked.path,
        "reason": asked.reason,
        "since": asked.since,
        "deadline": asked.deadline,
        "schema": asked.schema,
    }
    payload = asked.payload
    if asked.reason == "approval" and isinstance(payload, dict):
        return out | {"tool": payload.get("tool"), "args": payload.get("args")}
    return out | {"payload": payload}


def _thread(thread: Thread) -> Json:
    return {
        "id": thread.id,
        "title": thread.title,
        "resource": thread.resource,
        "updated": thread.updated,
    }


def _message(each: ThreadMessage) -> Json:
    message = each.message
    out: Json = {
        "pos": each.pos,
        "role": message.role,
        "text": _cut(message.text, _LONGEST),
        "at": each.at,
        "run": each.run,
    }
    if tools := _calls(message):
        out["tools"] = tools
    return out


def _calls(message: Message) -> list[Json]:
    calls = [{"name": c.name, "args": _cut(c.args, _SHORT)} for c in message.tool_calls]
    results = [
        {"name": part.name, "result": _cut(json_text(part.output), _LONG)}
        for part in message.parts
        if isinstance(part, ToolResult)
    ]
    return calls + results


def _source(metadata: Mapping[str, Any]) -> Json:
    source = metadata.get("source")
    return {"source": _cut(source, _SHORT)} if isinstance(source, str) else {}


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
