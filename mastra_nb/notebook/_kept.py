"""%mastra threads, memory and index: what the store has kept, and what is found in it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from mastra_nb import portal
from mastra_nb.errors import NotFound, UsageError, close_matches
from mastra_nb.memory.display import overview
from mastra_nb.memory.memory import Memory
from mastra_nb.memory.threads import Conversation
from mastra_nb.notebook import _live
from mastra_nb.notebook._errors import plain
from mastra_nb.notebook._host import Host
from mastra_nb.notebook._progress import ingest
from mastra_nb.notebook._tables import show_table
from mastra_nb.notebook._templates import variables
from mastra_nb.rag.index import Index
from mastra_nb.rag.stored import local_embedder, stored_index
from mastra_nb.storage import Store
from mastra_nb.tools import ToolLike

_INGEST = "ingest"


async def threads(host: Host) -> None:
    found = await host.app.find_threads()
    rows = []
    for thread in found:
        last = await _store(host).read_messages(thread.id, last=1)
        kernel = thread.meta.get("kernel")
        where = "this kernel" if kernel == host.token else "an earlier kernel" if kernel else ""
        rows.append((
            thread.id, thread.resource, str(last[0].pos if last else 0), thread.title, where,
            time.strftime("%Y-%m-%d %H:%M", time.localtime(thread.updated)),
        ))  # fmt: skip
    show_table(
        host, ("thread", "resource", "messages", "title", "lives in", "last used"), rows,
        "no conversations in the store yet",
    )  # fmt: skip


async def memory(host: Host, name: str = "") -> None:
    """Of an agent, a conversation or a resource; without a name of the agent that is asked."""
    agents, store = host.agents(), _store(host)
    name = name or host.default
    now = host.services.now()
    if not name:
        _publish(host, await overview(store, None, (), now=now))
        return
    agent = agents.get(name)
    if agent is not None:
        kept = agent.memory
        if not isinstance(kept, Memory):
            raise NotFound(
                f'the agent "{name}" has no memory', hint="%%agent … --memory on, or recall,working"
            )
        thread, _ = host.thread_of(agent, "")
        _live.say(
            " · ".join(filter(None, (repr(kept), f"thread {thread}", _whose(agent.resource))))
        )
        _publish(host, await overview(store, agent.resource or None, kept.attached, now=now))
        return
    attached = next(
        (a.memory.attached for a in agents.values() if isinstance(a.memory, Memory)), ()
    )
    thread_of_name = await store.get_thread(name)
    if thread_of_name is not None:
        shown = Conversation(store, name, attached=attached, services=host.services)
        _publish(host, shown._repr_mimebundle_())
        return
    if await store.find_threads(resource=name, limit=1):
        _publish(host, await overview(store, name, attached, now=now))
        return
    known = [*agents, *(t.id for t in await store.find_threads(limit=1000))]
    raise NotFound(
        f'there is no agent, thread or resource "{name}"',
        hint=close_matches(name, known) or "%mastra threads lists the conversations",
    )


def _whose(resource: str) -> str:
    return f"resource {resource}" if resource else ""


async def index(host: Host, *words: str) -> None:
    if not words:
        await _indexes(host)
    elif words[0] == _INGEST:
        if len(words) < 3:
            raise UsageError("what goes into which index?", hint="%mastra index ingest NAME PATH…")
        await _ingest(host, words[1], words[2:])
    elif len(words) == 1:
        found = await _index(host, words[0])
        _publish(host, (await found.stats())._repr_mimebundle_())
        documents = await found.documents()
        if documents:
            _publish(host, documents._repr_mimebundle_())
    else:
        found = await _index(host, words[0])
        mode: Any = "words" if found.embedder is None else "hybrid"
        _publish(host, (await found.query(" ".join(words[1:]), mode=mode))._repr_mimebundle_())


async def _indexes(host: Host) -> None:
    vectors = _store(host).vectors
    rows = []
    for name in await vectors.list_indexes():
        stats = await vectors.stats(name)
        rows.append((
            name, f"{stats.info.count:,}", str(stats.info.dimension or "words"),
            stats.info.embedder, stats.engine, f"{stats.disk / 1e6:,.1f} MB",
        ))  # fmt: skip
    show_table(
        host, ("index", "entries", "dimension", "embedder", "engine", "on disk"), rows,
        "no indexes in the store yet; %mastra index ingest NAME PATH… makes one",
    )  # fmt: skip


async def names(host: Host) -> list[str]:
    return await _store(host).vectors.list_indexes()


async def _index(host: Host, name: str) -> Index:
    """The notebook's object of that name or variable, or one made from what the store says of it.

    Raises NotFound.
    """
    if (mine := _variable(host, name)) is not None:
        return mine
    found, why = await stored_index(_store(host), name, hint=f"%mastra index ingest {name} PATH…")
    if why:
        _live.say(f"by words only: {why}")
    return found


def tools(host: Host, wanted: Sequence[str]) -> dict[str, ToolLike]:
    """Indexes of the store among the names that nothing else has."""
    missing = {*wanted} - host.names().keys() - host.app.tools.keys()
    there = missing & {*portal.run(names(host))} if missing else ()
    return {name: portal.run(_index(host, name)).as_tool() for name in there}


def _variable(host: Host, name: str) -> Index | None:
    found = host.names()
    mine = {n: found[n] for n in variables(found) if isinstance(found[n], Index)}
    return next((each for each in mine.values() if each.name == name), mine.get(name))


async def _ingest(host: Host, name: str, paths: Sequence[str]) -> None:
    """Into an index that is there, or a new one of the notebook's embedder."""
    try:
        found = await _index(host, name)
    except NotFound:
        embedder = local_embedder()
        if embedder is None:
            _live.say('by words only → pip install "mastra-nb[local]" for an embedder')
        found = Index(name, store=_store(host), embedder=embedder)
    bundle = await ingest(host, found, paths)
    if bundle is not None:
        _publish(host, bundle)


def _store(host: Host) -> Store:
    return host.services.store or host.store


def _publish(host: Host, bundle: dict[str, Any]) -> None:
    if host.in_kernel:
        _live.publish(bundle)
    else:
        _live.say(plain(bundle.get("text/markdown", bundle["text/plain"])))
