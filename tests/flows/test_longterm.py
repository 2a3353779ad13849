"""Memory over time in the turns of an agent: notes, facts, resumed runs, crashes, small models."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mastra_nb.agents import Agent
from mastra_nb.app import open_store
from mastra_nb.context import Context
from mastra_nb.errors import ModelError, RunSuspended
from mastra_nb.events import Noted, SpanStarted
from mastra_nb.memory._attached import Place
from mastra_nb.memory._facts import Facts
from mastra_nb.memory._longterm import FactsPart, ObservationsPart
from mastra_nb.memory._notes import history_of
from mastra_nb.memory._observations import ObservationalMemory
from mastra_nb.memory.memory import Memory
from mastra_nb.models import ModelRequest, Profile
from mastra_nb.processors import Step, Turn
from mastra_nb.services import Services
from mastra_nb.stores.memory import MemoryStore
from mastra_nb.testing import FakeEmbedder, ScriptedModel, calls
from mastra_nb.tools import Tool

LONG = "word " * 40


class LongMemory(Memory):
    """The parts, as an agent's memory calls them."""

    def __init__(self, notes: ObservationalMemory | None, facts: Facts | None = None) -> None:
        super().__init__()
        self.notes = ObservationsPart(notes) if notes is not None else None
        self.facts = FactsPart(facts, FakeEmbedder()) if facts is not None else None
        self.parts: Sequence[Any] = [p for p in (self.notes, self.facts) if p is not None]
        self.behind: list[asyncio.Task[None]] = []

    async def process_input(self, turn: Turn, ctx: Context) -> None:
        store = ctx.services.store
        assert store is not None

        async def last() -> int:
            found = await store.read_messages(turn.thread, last=1)
            return found[0].pos if found else 0

        end = await ctx.value("memory", last)
        for part in self.parts:
            await part.prepare(turn, ctx, Place(store, turn.thread, "ann"), end)

    async def process_input_step(self, step: Step, turn: Turn, ctx: Context) -> None:
        for part in self.parts:
            await part.process_input_step(step, turn, ctx)

    async def after(self, turn: Turn, ctx: Context) -> None:
        await super().after(turn, ctx)
        if self.notes is not None:
            await self.notes.after(turn, ctx)
        if self.facts is not None:
            self.behind.append(asyncio.create_task(self.facts.behind(turn, ctx)))

    async def settled(self) -> None:
        if self.notes is not None:
            await self.notes.options.settled()
        await asyncio.gather(*self.behind)


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
    return Agent(name="a", model=model, thread="t", memory=memory, services=services, **options)


@pytest.fixture
def services() -> Services:
    return Services(store=MemoryStore())


def sent(agent: Agent[Any], i: int = -1) -> list[str]:
    return [m.text for m in agent.model.requests[i].messages]  # type: ignore[union-attr]


async def test_a_long_conversation_is_noted_behind_it(services: Services) -> None:
    memory = LongMemory(observing())
    agent = talker(memory, services, *[f"a{i} {LONG}" for i in range(12)])
    for i in range(12):
        await agent.run(f"q{i} {LONG}")
        await memory.settled()
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
    memory = LongMemory(observing(slow))
    agent = talker(memory, services, *[f"a {LONG}"] * 6)
    for i in range(6):
        await agent.run(f"q{i} {LONG}")
    assert len(slow.requests) == 1
    assert len(sent(agent)) == 11 and not sent(agent)[0].startswith("<obs")
    await memory.settled()
    found = await services.store.find_runs(name="observer")  # type: ignore[union-attr]
    assert found and {r.status for r in found} == {"done"}


async def test_a_broken_observer_never_makes_a_hole(services: Services) -> None:
    memory = LongMemory(observing(ScriptedModel(OSError("gone"), "nonsense", repeat=True)))
    agent = talker(memory, services, *["a" + LONG] * 8)
    for i in range(8):
        await agent.run(f"q{i} {LONG}")
        await memory.settled()
    assert [t[:2] for t in sent(agent)[::2]] == [f"q{i}" for i in range(8)]


async def test_a_resumed_run_goes_on_with_what_it_began_with(services: Services) -> None:
    act = Tool(lambda: "acted", name="act", needs_approval=True)
    memory = LongMemory(observing())
    script = [*[f"a {LONG}"] * 3, calls("act"), *[f"b {LONG}"] * 3, "Done."]
    agent = talker(memory, services, *script, tools=[act])
    for i in range(3):
        await agent.run(f"q{i} {LONG}")
        await memory.settled()
    waits = agent.run("act now")
    with pytest.raises(RunSuspended):
        await waits
    before = sent(agent)
    for i in range(3):
        await agent.run(f"later{i} {LONG}")
        await memory.settled()
    assert "noted later" in str(await memory.notes.options.read(_place(services)))  # type: ignore[union-attr]
    assert await waits.resume({"approved": True}) == "Done."
    assert sent(agent)[: len(before)] == before


def _place(services: Services) -> Place:
    assert services.store is not None
    return Place(services.store, "t", "ann")


async def test_what_would_not_fit_is_noted_first(services: Services) -> None:
    memory = LongMemory(observing(message_tokens=100_000))
    own: list[str] = []
    agent = talker(memory, services, *[f"a {LONG}"] * 12, profile=Profile(context=1000))
    for i in range(12):
        run = agent.run(f"q{i} {LONG}")
        await run
        # The background has no chance here.
        for task in memory.notes.options._tasks.values():  # type: ignore[union-attr]
            task.cancel()
        await memory.settled()
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
    memory = LongMemory(observing(broken))
    agent = talker(memory, services, *[f"a {LONG}"] * 12, profile=Profile(context=1000))
    told = []
    for i in range(12):
        run = agent.run(f"q{i} {LONG}")
        await run
        await memory.settled()
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
    memory = LongMemory(observing(observer, message_tokens=10_000, keep_last=50))
    agent = talker(memory, services, *[f"a {LONG}"] * 30, profile=Profile(context=context))
    for i in range(30):
        await agent.run(f"q{i} {LONG}")
        if i % 3:
            await memory.settled()
        assert sum(len(t) // 4 + 4 for t in sent(agent)) <= context, i
        assert sent(agent)[-1].startswith(f"q{i} ")
    await memory.settled()


async def test_facts_are_told_and_used(services: Services) -> None:
    memory = LongMemory(None, Facts())
    assert memory.facts is not None
    facts, embedder = memory.facts.options, memory.facts.embedder
    await facts.remember(_place(services), "likes green tea", services=services, embedder=embedder)
    agent = talker(memory, services, "Tea?", "Yes.")
    await agent.run("what tea do I like")
    await memory.settled()
    assert "likes green tea" in sent(agent)[0] and sent(agent)[1] == "what tea do I like"
    known = await facts.all(_place(services), services=services, embedder=embedder)
    assert known[0].uses == 1
    # What was told is no part of the conversation.
    assert [m.text for m in await agent.history()] == ["what tea do I like", "Tea?"]


async def test_facts_are_found_in_the_background(services: Services) -> None:
    found = '{"facts": [{"text": "The user is called Ann", "importance": 0.9}]}'
    memory = LongMemory(None, Facts(extract=ScriptedModel(found)))  # type: ignore[arg-type]
    agent = talker(memory, services, "Hi.", "You are Ann.")
    await agent.run("I am Ann")
    await memory.settled()
    await agent.run("who is the user?", thread="other")
    assert "The user is called Ann" in sent(agent)[0]


async def test_a_turn_does_not_fail_because_an_embedder_does(services: Services) -> None:
    memory = LongMemory(None, Facts())
    assert memory.facts is not None
    embedder = memory.facts.embedder
    assert isinstance(embedder, FakeEmbedder)
    place = _place(services)
    await memory.facts.options.remember(place, "likes tea", services=services, embedder=embedder)
    embedder.fail = {len(embedder.calls) + 1: ModelError("the embedder is gone")}
    agent = talker(memory, services, "Yes.")
    run = agent.run("do I like tea?")
    assert await run == "Yes." and "likes tea" in sent(agent)[0]
    told = [e.data.text for e in run.log.events if isinstance(e.data, Noted)]
    assert told == ["facts by words only: the embedder is gone"]
    await memory.settled()


OBSERVER = """
import asyncio, sys
from mastra_nb.app import open_store
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
