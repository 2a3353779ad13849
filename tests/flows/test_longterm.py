"""Memory over time in the turns of an agent: notes, facts, resumed runs, crashes, small models."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mastra_nb.agents import Agent
from mastra_nb.app import open_store
from mastra_nb.embedders import EmbedReply
from mastra_nb.errors import ConfigError, ModelError, NotFound, RunSuspended
from mastra_nb.events import Noted, SpanStarted
from mastra_nb.memory._facts import Facts
from mastra_nb.memory._notes import KIND, history_of
from mastra_nb.memory._observations import ObservationalMemory
from mastra_nb.memory.memory import Memory
from mastra_nb.models import ModelRequest, Profile
from mastra_nb.services import Services
from mastra_nb.stores.memory import MemoryStore
from mastra_nb.testing import FakeEmbedder, ScriptedModel, calls
from mastra_nb.tools import Tool

LONG = "word " * 40


def noted(request: ModelRequest) -> str:
    """An observer that notes the first words of each message."""
    told = msgspec.json.decode(request.messages[-1].text)
    said = [(m["n"], m["said"][0]) for m in told.get("messages", []) if m["said"]]
    notes = [{"n": n, "text": f"noted {text[:8]}"} for n, text in said]
    notes += [{"n": n["n"], "text": n["text"][6:]} for n in told.get("notes", [])]
    return msgspec.json.encode({"notes": notes}).decode()


def observing(model: Any = None, **options: Any) -> ObservationalMemory:
    given = {"message_tokens": 300, "keep_last": 2, **options}
    return ObservationalMemory(model or ScriptedModel(noted, repeat=True), **given)


def talker(memory: Memory, services: Services, *script: Any, **options: Any) -> Agent[Any]:
    profile = options.pop("profile", None)
    model = ScriptedModel(*script, profile=profile)
    return Agent(
        name="a",
        model=model,
        thread="t",
        memory=memory,
        services=services,
        resource="ann",
        **options,
    )


@pytest.fixture
def services() -> Services:
    return Services(store=MemoryStore())


def sent(agent: Agent[Any], i: int = -1) -> list[str]:
    return [m.text for m in agent.model.requests[i].messages]  # type: ignore[union-attr]


async def test_a_long_conversation_is_noted_behind_it(services: Services) -> None:
    memory = Memory(observational_memory=observing())
    agent = talker(memory, services, *[f"a{i} {LONG}" for i in range(12)])
    for i in range(12):
        await agent.run(f"q{i} {LONG}")
        await memory.settle()
    last = sent(agent)
    assert last[0].startswith("<observations>") and "noted q0 word" in last[0]
    assert len(last) < 8 and last[-1].startswith("q11")
    covered = {n for n in range(11) if f"noted q{n}" in last[0]}
    raw = {n for n in range(11) if any(t.startswith(f"q{n} ") for t in last[1:])}
    assert covered | raw == {*range(11)} and not covered & raw
    # The whole conversation is still in the store.
    assert len(await agent.history()) == 24


async def test_no_turn_waits_for_an_observer(services: Services) -> None:
    slow = ScriptedModel(noted, delay=0.05, piece=10_000, repeat=True)
    memory = Memory(observational_memory=observing(slow))
    agent = talker(memory, services, *[f"a {LONG}"] * 6)
    for i in range(6):
        await agent.run(f"q{i} {LONG}")
    assert len(slow.requests) == 1
    assert len(sent(agent)) == 11 and not sent(agent)[0].startswith("<obs")
    await memory.settle()
    found = await services.store.find_runs(name="observer")  # type: ignore[union-attr]
    assert found and {r.status for r in found} == {"done"}


async def test_a_broken_observer_never_makes_a_hole(services: Services) -> None:
    memory = Memory(
        observational_memory=observing(ScriptedModel(OSError("gone"), "nonsense", repeat=True))
    )
    agent = talker(memory, services, *["a" + LONG] * 8)
    for i in range(8):
        await agent.run(f"q{i} {LONG}")
        await memory.settle()
    assert [t[:2] for t in sent(agent)[::2]] == [f"q{i}" for i in range(8)]


async def test_a_resumed_run_goes_on_with_what_it_began_with(services: Services) -> None:
    act = Tool(lambda: "acted", name="act", needs_approval=True)
    memory = Memory(observational_memory=observing())
    script = [*[f"a {LONG}"] * 3, calls("act"), *[f"b {LONG}"] * 3, "Done."]
    agent = talker(memory, services, *script, tools=[act])
    for i in range(3):
        await agent.run(f"q{i} {LONG}")
        await memory.settle()
    waits = agent.run("act now")
    with pytest.raises(RunSuspended):
        await waits
    before = sent(agent)
    for i in range(3):
        await agent.run(f"later{i} {LONG}")
        await memory.settle()
    assert "noted later" in str(await memory.observations("t", resource="ann"))
    assert await waits.resume({"approved": True}) == "Done."
    assert sent(agent)[: len(before)] == before


async def test_what_would_not_fit_is_noted_first(services: Services) -> None:
    notes = observing(message_tokens=100_000)
    memory = Memory(observational_memory=notes)
    own: list[str] = []
    agent = talker(memory, services, *[f"a {LONG}"] * 12, profile=Profile(context=1000))
    for i in range(12):
        run = agent.run(f"q{i} {LONG}")
        await run
        # The background has no chance here.
        notes._behind.stop()
        await memory.settle()
        used = sum(len(t) // 4 + 4 for t in sent(agent))
        assert used <= 1000
        spans = [e.data for e in run.log.events if isinstance(e.data, SpanStarted)]
        inside = [s.name for s in spans if s.kind == "memory"]
        # The price of what a turn had to wait for is its own.
        assert run.usage.calls == 1 + len(inside)
        own += inside
    assert "noted q0" in sent(agent)[0]
    assert own and {*own} == {"observer"}


async def test_what_cannot_be_noted_and_does_not_fit_is_left_out_and_said(
    services: Services,
) -> None:
    broken = ScriptedModel(OSError("gone"), repeat=True)
    memory = Memory(observational_memory=observing(broken))
    agent = talker(memory, services, *[f"a {LONG}"] * 12, profile=Profile(context=1000))
    told = []
    for i in range(12):
        run = agent.run(f"q{i} {LONG}")
        await run
        await memory.settle()
        assert sum(len(t) // 4 + 4 for t in sent(agent)) <= 1000
        told += [e.data.text for e in run.log.events if isinstance(e.data, Noted)]
    assert any("do not fit" in t for t in told)
    assert sent(agent)[-1].startswith("q11") and sent(agent)[-2].startswith("a ")


@pytest.mark.parametrize("context", [600, 1000, 3000])
@pytest.mark.parametrize("long_notes", [False, True])
async def test_what_is_sent_always_fits(services: Services, context: int, long_notes: bool) -> None:
    def many(request: ModelRequest) -> str:
        told = msgspec.json.decode(request.messages[-1].text).get("messages", [])
        notes = [{"n": m["n"], "text": f"{m['n']} {LONG[:150]}"} for m in told]
        return msgspec.json.encode({"notes": notes}).decode()

    observer = ScriptedModel(many if long_notes else noted, repeat=True)
    memory = Memory(observational_memory=observing(observer, message_tokens=10_000, keep_last=50))
    agent = talker(memory, services, *[f"a {LONG}"] * 30, profile=Profile(context=context))
    for i in range(30):
        await agent.run(f"q{i} {LONG}")
        if i % 3:
            await memory.settle()
        assert sum(len(t) // 4 + 4 for t in sent(agent)) <= context, i
        assert sent(agent)[-1].startswith(f"q{i} ")
    await memory.settle()


async def test_facts_are_told_and_used(services: Services) -> None:
    memory = Memory(facts=True, embedder=FakeEmbedder())
    agent = talker(memory, services, "Tea?", "Yes.")
    await memory.remember("likes green tea", resource="ann")
    await agent.run("what tea do I like")
    await memory.settle()
    assert "likes green tea" in sent(agent)[0] and sent(agent)[1] == "what tea do I like"
    assert [f.uses for f in await memory.facts(resource="ann")] == [1]
    # What was told is no part of the conversation.
    assert [m.text for m in await agent.history()] == ["what tea do I like", "Tea?"]


async def test_a_model_remembers_and_forgets_with_tools(services: Services) -> None:
    memory = Memory(facts=True)
    script = [calls("remember", fact="likes green tea", importance=0.9), "Ok."]
    agent = talker(memory, services, *script)
    await agent.run("I like green tea")
    fact = (await memory.facts(resource="ann"))[0]
    assert (fact.text, fact.importance, fact.resource) == ("likes green tea", 0.9, "ann")
    agent.model.script += [calls("forget", fact_id=fact.id), "Gone."]  # type: ignore[union-attr]
    await agent.run("forget the tea", thread="another")
    assert f"[{fact.id}] likes green tea" in sent(agent, 2)[0]
    assert await memory.facts(resource="ann") == ()
    await memory.settle()


async def test_facts_are_found_in_the_background(services: Services) -> None:
    found = '{"facts": [{"text": "The user is called Ann", "importance": 0.9}]}'
    facts = Facts(extract=ScriptedModel(found, '{"facts": []}'))  # type: ignore[arg-type]
    memory = Memory(facts=facts, embedder=FakeEmbedder())
    agent = talker(memory, services, "Hi.", "You are Ann.")
    await agent.run("I am Ann")
    await memory.settle()
    await agent.run("who is the user?", thread="other")
    assert "The user is called Ann" in sent(agent)[0]
    await memory.settle()


async def test_a_turn_does_not_fail_because_an_embedder_does(services: Services) -> None:
    embedder = FakeEmbedder()
    memory = Memory(facts=True, embedder=embedder)
    agent = talker(memory, services, "Yes.")
    await memory.remember("likes tea", resource="ann")
    embedder.fail = {len(embedder.calls) + 1: ModelError("the embedder is gone")}
    run = agent.run("do I like tea?")
    assert await run == "Yes." and "likes tea" in sent(agent)[0]
    told = [e.data.text for e in run.log.events if isinstance(e.data, Noted)]
    assert told == ["facts by words only: the embedder is gone"]
    await memory.settle()


async def test_people_ask_what_is_remembered(services: Services) -> None:
    memory = Memory(facts=True, observational_memory=observing())
    memory.bind(services)
    weak = await memory.remember("a film", importance=0.01, resource="ann")
    await memory.remember("allergic to nuts", pinned=True, resource="ann")
    assert [r.fact.text for r in await memory.recall_facts("nuts", resource="ann")] == [
        "allergic to nuts"
    ]
    assert [i.fact.id for i in (await memory.forget(resource="ann")).items] == [weak.id]
    assert len(await memory.facts(resource="ann")) == 2
    await memory.forget(dry_run=False, resource="ann")
    assert [f.id for f in await memory.facts(resource="ann", gone=True)] == [weak.id]
    assert await memory.restore([weak.id], resource="ann") == 1
    assert await memory.facts(resource="bob") == ()
    for asked in (memory.facts(), memory.remember("x"), memory.forget(), memory.observations()):
        with pytest.raises(ConfigError, match=r"whose memory|its own notes"):
            await asked
    with pytest.raises(ConfigError, match="keeps no facts"):
        await Memory().facts(resource="ann")
    with pytest.raises(NotFound):
        await memory.observations("t", resource="bob")


async def test_what_only_reads_notes_nothing(services: Services) -> None:
    memory = Memory(observational_memory=observing())
    agent = talker(memory, services, *[f"a {LONG}"] * 4)
    for i in range(4):
        await agent.run(f"q{i} {LONG}")
        memory._observations.options._behind.stop()  # type: ignore[union-attr]
        await memory.settle()
    reader = Memory(observational_memory=observing(), read_only=True)
    silent = talker(reader, services, "Ok.", profile=Profile(context=600))
    await silent.run("and now?")
    await reader.settle()
    assert await services.store.find(KIND) == []  # type: ignore[union-attr]
    assert sum(len(t) // 4 + 4 for t in sent(silent)) <= 600


OBSERVER = """
import asyncio, sys
from mastra_nb.app import open_store
from mastra_nb.embedders import EmbedReply
from mastra_nb.memory._attached import Place
from mastra_nb.services import Services
from tests.flows.test_longterm import noted, observing
from mastra_nb.testing import ScriptedModel

async def main():
    store = open_store(sys.argv[1])
    model = ScriptedModel(noted, repeat=True, delay=0.02, piece=10_000)
    print("ready", flush=True)
    sys.stdin.readline()
    memory = observing(model)
    await memory.observe(Place(store, "t", "ann"), model, Services(store=store))
    await store.close()

asyncio.run(main())
"""


async def test_processes_that_observe_the_same_lose_and_double_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/m.db"
    store = open_store(url)
    services = Services(store=store)
    agent = talker(Memory(), services, *[f"a{i} {LONG}" for i in range(20)])
    for i in range(20):
        await agent.run(f"q{i} {LONG}")
    here = [sys.executable, "-c", OBSERVER, url]
    pipe = asyncio.subprocess.PIPE
    root = Path(__file__).parent.parent.parent
    others = [
        await asyncio.create_subprocess_exec(*here, stdin=pipe, stdout=pipe, cwd=root)
        for _ in range(3)
    ]
    for other in others:
        assert other.stdout is not None and await other.stdout.readline() == b"ready\n"
    # All of them at once.
    await asyncio.gather(*(other.communicate(b"go\n") for other in others))
    assert [other.returncode for other in others] == [0, 0, 0]
    docs = [d for _, d in await history_of(store, "t:t/")]
    ends = [0, *(d.upto["t"] for d in docs)]
    assert ends == sorted({*ends}) and ends[-1] == 38
    for begin, doc in zip(ends, docs, strict=False):
        assert [o.pos for o in doc.observations] == [*range(begin + 1, doc.upto["t"] + 1)]
    await store.close()


class Misbehaving(FakeEmbedder):
    def __init__(self, how: Any) -> None:
        super().__init__()
        self.how = how

    async def embed(self, texts: Any, **kind: Any) -> Any:
        if isinstance(self.how, Exception):
            raise self.how
        if self.how == "hang":
            await asyncio.sleep(60)
        return self.how


@pytest.mark.parametrize(
    "how", [ValueError("no"), ConnectionError("down"), "hang", None, EmbedReply(rows=()), [[1.0]]]
)
async def test_a_turn_answers_whatever_its_embedder_does(
    services: Services, how: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mastra_nb.memory._longterm._SECONDS", 0.01)
    memory = Memory(facts=Facts(), embedder=Misbehaving(how))
    agent = talker(memory, services, "Ok.")
    run = agent.run("hello")
    assert await run == "Ok."
    said = [e.data.text for e in run.log.events if isinstance(e.data, Noted)]
    assert [s.partition(":")[0] for s in said] == ["facts by words only"]
    memory._behind.stop()


async def test_what_is_erased_for_one_owner_stays_for_another(services: Services) -> None:
    """An export that came back for somebody else has the same ids in another embedder's index."""
    ann = Memory(facts=Facts(keep_days=0))
    ann.bind(services)
    fact = await ann.remember("boats are red", resource="ann")
    bob = Memory(facts=Facts(), embedder=FakeEmbedder())
    bob.bind(services)
    await bob.load({**await ann.export("ann"), "resource": "bob"})
    assert [f.text for f in await bob.facts(resource="bob")] == ["boats are red"]
    await ann.forget(ids=[fact.id], dry_run=False, resource="ann")
    await ann.forget(dry_run=False, resource="ann")
    assert [f.text for f in await bob.facts(resource="bob")] == ["boats are red"]
