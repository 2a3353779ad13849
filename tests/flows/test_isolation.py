"""Nothing of another resource is seen, changed or deleted, whatever is asked of memory."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from typing import Any
from urllib.parse import unquote

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mastra_nb.agents import Agent
from mastra_nb.app import open_store
from mastra_nb.errors import ConfigError, Conflict, NotFound
from mastra_nb.memory._facts import CLEANED, Facts
from mastra_nb.memory._observations import ObservationalMemory
from mastra_nb.memory._working import TOOL
from mastra_nb.memory.memory import Memory
from mastra_nb.models import ModelRequest
from mastra_nb.services import Services
from mastra_nb.storage import Store
from mastra_nb.testing import FakeEmbedder, ScriptedModel, calls

RESOURCES = ("ada", "ad", "a%", "")
THREADS = ("t", "t/", "ada", "T")
KINDS = ("memory:working", "memory:observations", "memory:indexed", CLEANED)
ASKED = "remember the colour word"
Owners = dict[str, list[str]]


def owner_of(resource: str, thread: str) -> str:
    """What belongs to nobody is shared by no two conversations."""
    return f"r:{resource}" if resource else f"t:{thread}"


def secret(owner: str) -> str:
    return f"zq{owner.encode().hex()}qz"


def noted(request: ModelRequest) -> str:
    told = msgspec.json.decode(request.messages[-1].text)
    said = [(m["n"], m["said"][0]) for m in told.get("messages", []) if m["said"]]
    return msgspec.json.encode({"notes": [{"n": n, "text": t[:60]} for n, t in said]}).decode()


class World:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.services = Services(store=store)
        self.memory = Memory(
            semantic_recall=True,
            working_memory=True,
            facts=Facts(),
            observational_memory=ObservationalMemory(
                ScriptedModel(noted, repeat=True), scope="resource", message_tokens=200, keep_last=2
            ),
            embedder=FakeEmbedder(),
        )
        self.memory.bind(self.services)
        # Secrets an owner may see: its own, and those that it was given.
        self.known: dict[str, set[str]] = defaultdict(set)
        self.facts: list[str] = []
        self.copies = 0

    async def whose(self, thread: str) -> str | None:
        found = await self.store.get_thread(thread)
        return None if found is None else owner_of(found.resource, thread)

    async def everything(self) -> Owners:
        """All that the store keeps, by whose it is."""
        out: Owners = defaultdict(list)
        threads = {t.id: t for t in await self.store.find_threads(limit=1000)}
        for thread in threads.values():
            read = await self.store.read_messages(thread.id)
            out[owner_of(thread.resource, thread.id)] += [repr(thread), repr(read)]
        for kind in KINDS:
            for id, data in await self.store.find(kind):
                key = id if kind == CLEANED else id.partition("/")[0]
                out[self._named(key, kind == CLEANED, threads)].append(f"{kind} {id} {data}")
        for name in await self.store.vectors.list_indexes():
            for entry in await self.store.vectors.find(name, limit=1000):
                facts = entry.metadata
                whose = facts.get("owner") or owner_of(facts["resource"], facts["thread"])
                out[whose].append(f"{name} {entry.id} {entry.text} {facts}")
        return out

    def _named(self, key: str, raw: bool, threads: dict[str, Any]) -> str:
        kind, _, name = key.partition(":")
        name = name if raw else unquote(name)
        if kind == "t" and name in threads:
            return owner_of(threads[name].resource, name)
        return f"{kind}:{name}"

    def allowed(self, seen: Any, owner: str) -> None:
        text = seen if isinstance(seen, str) else repr(seen)
        for other in ALL_OWNERS:
            if other != owner and other not in self.known[owner]:
                assert secret(other) not in text, (other, owner)

    def gave(self, owner: str, to: str) -> None:
        self.known[to] |= {owner, *self.known[owner]}

    # What can be asked. Each gives who may have changed; NotFound if it is not theirs.

    async def run(self, resource: str, thread: str, owner: str, to: str) -> set[str]:
        word = f"{ASKED} {secret(owner)} " + "word " * 30
        script = (calls(TOOL, memory=f"knows {secret(owner)}"), "Ok " * 30)
        model = ScriptedModel(*script)
        agent: Agent[Any] = Agent(name="a", model=model, memory=self.memory, services=self.services)
        await agent.run(word, thread=thread, resource=resource)
        self.allowed([r.messages for r in model.requests], owner)
        return {owner}

    async def read(self, resource: str, thread: str, owner: str, to: str) -> set[str]:
        memory, handle = self.memory, self.memory.thread(thread, resource=resource)
        given: dict[str, Any] = {"resource": resource, "thread": thread}
        self.allowed(await handle.messages(), owner)
        self.allowed(await handle.search(ASKED), owner)
        self.allowed(await handle.export(), owner)
        self.allowed(handle._repr_mimebundle_(), owner)
        self.allowed(await memory.recall(ASKED, **given), owner)
        self.allowed(await memory.working(**given), owner)
        self.allowed(await memory.working_history(**given), owner)
        self.allowed(await memory.facts(**given), owner)
        self.allowed(await memory.recall_facts(ASKED, **given), owner)
        self.allowed(await memory.observations(thread, resource=resource), owner)
        return set()

    async def read_all(self, resource: str, thread: str, owner: str, to: str) -> set[str]:
        memory = self.memory
        if not resource:
            return set()
        listed = await memory.threads(resource=resource)
        assert {t.resource for t in listed} <= {resource}
        self.allowed(listed, owner)
        anything: Any = {"$or": [{"resource": {"$exists": True}}, {"thread": thread}]}
        for filter in (None, {"resource": to}, {"thread": thread}, anything):
            self.allowed(await memory.recall(ASKED, resource=resource, filter=filter), owner)
        self.allowed(await memory.recall_facts(ASKED, resource=resource), owner)
        self.allowed(await memory.export(resource), owner)
        self.allowed(await memory.working(resource=resource), owner)
        self.allowed(await memory.observations(resource=resource), owner)
        return set()

    async def write(self, resource: str, thread: str, owner: str, to: str) -> set[str]:
        memory, handle = self.memory, self.memory.thread(thread, resource=resource)
        given: dict[str, Any] = {"resource": resource, "thread": thread}
        await handle.set_title(f"title {secret(owner)}")
        await handle.set_meta(word=secret(owner))
        await memory.set_working(f"page {secret(owner)}", **given)
        self.facts.append((await memory.remember(f"{ASKED} {secret(owner)}", **given)).id)
        await memory.observe(thread, model=ScriptedModel(noted, repeat=True), resource=resource)
        return {owner}

    async def forget(self, resource: str, thread: str, owner: str, to: str) -> set[str]:
        memory, given = self.memory, {"resource": resource, "thread": thread}
        # The ids of everybody's facts, as somebody might guess them.
        gone = await memory.forget(ids=self.facts, dry_run=False, **given)  # type: ignore[arg-type]
        self.allowed(gone, owner)
        await memory.restore(self.facts[::2], **given)  # type: ignore[arg-type]
        await memory.thread(thread, resource=resource).delete_messages([1, 2])
        return {owner}

    async def clone(self, resource: str, thread: str, owner: str, to: str) -> set[str]:
        self.copies += 1
        id = f"c{self.copies}"
        handle = self.memory.thread(thread, resource=resource)
        await handle.clone(id, resource=to)
        self.gave(owner, owner_of(to, id))
        return {owner_of(to, id)}

    async def transfer(self, resource: str, thread: str, owner: str, to: str) -> set[str]:
        await self.memory.thread(thread, resource=resource).transfer(to)
        self.gave(owner, owner_of(to, thread))
        return {owner, owner_of(to, thread)}

    async def delete(self, resource: str, thread: str, owner: str, to: str) -> set[str]:
        await self.memory.thread(thread, resource=resource).delete()
        return {owner}

    async def load(self, resource: str, thread: str, owner: str, to: str) -> set[str]:
        if not resource or not to:
            return set()
        data = await self.memory.export(resource)
        made = await self.memory.load(data, resource=to, on_conflict="copy")
        assert {(await h.info()).resource for h in made} <= {to}
        self.gave(owner, owner_of(to, ""))
        return {owner_of(to, "")}


ALL_OWNERS = [*(f"r:{r}" for r in RESOURCES if r), *(f"t:{t}" for t in THREADS)]
OPERATIONS = ("run", "read", "read_all", "write", "forget", "clone", "transfer", "delete", "load")
STEP = st.tuples(
    st.sampled_from(OPERATIONS),
    st.sampled_from(RESOURCES),
    st.sampled_from(THREADS),
    st.sampled_from(RESOURCES),
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.lists(STEP, min_size=4, max_size=8), st.booleans())
async def test_nobody_sees_or_touches_what_is_anothers(
    steps: list[tuple[str, str, str, str]], in_file: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"sqlite:///{folder}/m.db" if in_file else "memory://")
        world = World(store)
        began = zip(RESOURCES, THREADS, strict=True)
        first = [(what, r, t, r) for r, t in began for what in ("run", "write")]
        for what, resource, thread, to in [*first, *steps]:
            owner, whose = owner_of(resource, thread), await world.whose(thread)
            before = await world.everything()
            changed: set[str] = set()
            try:
                changed = await getattr(world, what)(resource, thread, owner, to)
                named = what not in ("read_all", "load")
                assert not named or whose in (None, owner), (what, resource, thread)
            except NotFound:
                assert whose != owner
            except (ConfigError, Conflict) as error:
                raise AssertionError(error) from error
            await world.memory.settle()
            after = await world.everything()
            for one in {*before, *after} - changed:
                assert sorted(before[one]) == sorted(after[one]), (what, owner, one)
        await store.close()
