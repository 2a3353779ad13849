"""What memory keeps of a thread goes when the thread does, whoever deletes it; the rest stays."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mastra_nb.agents import Agent
from mastra_nb.app import Mastra, open_store
from mastra_nb.errors import NotFound, NotResumable, RunSuspended
from mastra_nb.memory._attached import Place
from mastra_nb.memory._facts import Facts
from mastra_nb.memory._notes import Observation, Observed, append
from mastra_nb.memory._observations import ObservationalMemory
from mastra_nb.memory._titles import Titles
from mastra_nb.memory._working import WorkingMemory
from mastra_nb.memory.memory import Memory
from mastra_nb.storage import Retention, Store
from mastra_nb.testing import FakeEmbedder, ScriptedModel, calls
from mastra_nb.tools import Tool

KINDS = ("memory:working", "memory:observations", "memory:indexed", "memory:facts:cleaned")


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: Any, tmp_path: Path) -> AsyncIterator[Store]:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/m.db"
    store = open_store(url)
    yield store
    await store.close()


def remembering(scope: Any, embedder: FakeEmbedder | None) -> Memory:
    return Memory(
        semantic_recall=True,
        working_memory=WorkingMemory(scope=scope),
        facts=Facts(),
        observational_memory=ObservationalMemory(scope=scope),
        embedder=embedder,
    )


async def filled(app: Mastra, memory: Memory, thread: str, resource: str) -> None:
    """A thread with all that memory can keep of one."""
    agent = app.add(Agent(name="a", model=ScriptedModel("ok", repeat=True), memory=memory))
    await agent.run(f"I am in {thread}", thread=thread, resource=resource)
    await memory.settle()
    await memory.set_working(f"page of {thread}", thread=thread, resource=resource)
    place = Place(memory.store, thread, resource)
    assert memory._facts is not None
    await memory._facts.options.remember(
        place, f"fact of {thread}", services=memory.services, embedder=memory.embedder
    )
    note = Observation(thread=thread, pos=1, at=1.0, priority="low", text=f"note of {thread}")
    for key in (f"t:{thread}/", f"r:{resource}/")[: 1 + bool(resource)]:
        await append(memory.store, key, Observed(observations=(note,), upto={thread: 1}))


async def kept(store: Store) -> str:
    """All that any document or vector entry says."""
    docs = [str(await store.find(kind)) for kind in KINDS]
    entries = [str(await store.vectors.find(n)) for n in await store.vectors.list_indexes()]
    return "\n".join([*docs, *entries])


@pytest.mark.parametrize("how", ["prune", "delete", "delete by another memory"])
async def test_what_is_kept_of_a_thread_goes_with_it(store: Store, how: str) -> None:
    app = Mastra(storage=store)
    for embedder in (FakeEmbedder(), None):
        for scope in ("thread", "resource"):
            memory = remembering(scope, embedder)
            await filled(app, memory, "nobodys", "")
            await filled(app, memory, "adas", "ada")
            await filled(app, memory, "other", "ada")
    began = time.time()
    if how == "prune":
        # What is old is counted back from when it is asked: so long may that be in coming.
        await asyncio.sleep(1.5)
    await memory.thread("other").set_title("still in use")
    before = await kept(store)
    assert before.count("nobodys") > 8 and before.count("adas") > 8

    if how == "prune":
        other = await store.get_thread("other")
        assert other is not None and other.updated > began
        old = Retention(threads=(time.time() - began) / 86_400)
        assert (await app.prune(old, dry_run=True)).threads == 2
        assert await kept(store) == before
        old = Retention(threads=(time.time() - began) / 86_400)
        assert (await app.prune(old)).threads == 2
    else:
        memory = remembering("thread", FakeEmbedder()) if how == "delete" else Memory()
        memory.bind(app.services)
        await memory.thread("nobodys").delete()
        await memory.thread("adas").delete()

    left = await kept(store)
    assert "nobodys" not in left
    # The resource still knows what it knew, also of the page and the fact that came from there.
    told = left.replace("page of adas", "").replace("fact of adas", "")
    told = told.replace("'thread': 'adas', 'pos': 0", "")
    assert "I am in adas" not in told and "note of adas" not in told
    assert [d for d in await store.find("memory:working") if d[0].startswith("t:adas")] == []
    assert not await store.find("memory:observations", prefix="t:adas")
    mine = remembering("resource", FakeEmbedder())
    mine.bind(app.services)
    assert {f.text for f in await mine.facts(resource="ada")} == {"fact of adas", "fact of other"}
    assert await mine.working(resource="ada") == "page of other"
    assert {h.thread for h in await mine.recall("I am in", resource="ada")} == {"other"}
    notes = await mine.observations(resource="ada")
    assert {n.thread for n in notes.items} == {"other"} and [*notes.upto] == ["other"]
    # A thread of the same name begins with nothing.
    await filled(app, mine, "nobodys", "eve")
    assert await mine.working(resource="eve") == "page of nobodys"
    assert await mine.thread("nobodys").messages() != []


async def test_what_memory_asked_is_read_like_any_run_and_goes_with_its_thread(
    store: Store,
) -> None:
    app = Mastra(storage=store)
    memory = Memory(generate_title=Titles(model=ScriptedModel('{"title": "Boats"}')))
    # One of that name is none of its business.
    app.add(Agent(name="title", model=ScriptedModel("no")))
    agent = Agent(name="a", model=ScriptedModel("ok", repeat=True), memory=memory)
    run = app.add(agent).run("hello", thread="t", resource="ada")
    await run
    await memory.settle()
    (row,) = await app.find_runs(name="title")
    assert (row.kind, row.thread, row.resource) == ("memory", "t", "ada")
    found = await app.get_run(row.id, resource="ada")
    assert found.status == "done" and found.output == {"title": "Boats"}
    assert found.usage.calls == 1 and found.view.spans
    assert "Boats" in str(found._repr_mimebundle_())
    with pytest.raises(NotFound):
        await app.get_run(row.id, resource="bob")
    with pytest.raises(NotResumable, match='made by memory "title"'):
        found.resume()
    exported = await memory.thread("t").export()
    await memory.thread("t").delete()
    assert (await app.prune(Retention(threads=0))).runs == 2
    assert await app.find_runs() == []
    await memory.load({"format": "mastra_nb/memory", "version": 1, "resource": "ada",
                       "threads": [exported]})  # fmt: skip
    (row,) = await app.find_runs(name="import")
    assert (await app.get_run(row.id)).status == "done"


async def test_a_run_of_an_agent_that_is_not_here_is_read_and_not_resumed(store: Store) -> None:
    act = Tool(lambda: "acted", name="act", needs_approval=True)
    there = Mastra(storage=store)
    model = ScriptedModel(calls("act"), "Done.")
    run = there.add(Agent(name="cook", model=model, tools=[act])).run("x")
    with pytest.raises(RunSuspended):
        await run
    here = Mastra(storage=store)
    found = await here.get_run(run.id)
    assert found.status == "suspended" and [m.text for m in found.messages][:1] == ["x"]
    with pytest.raises(RunSuspended):
        await found
    with pytest.raises(NotResumable, match='"cook", which is not here') as caught:
        found.resume({"approved": True})
    assert caught.value.hint and "app.add" in caught.value.hint
    row = await store.get_run(run.id)
    assert row is not None and row.status == "suspended"
    here.add(Agent(name="cook", model=model, tools=[act]))
    assert await (await here.get_run(run.id)).resume({"approved": True}) == "Done."
