from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from mastra_nb.errors import ConfigError, Conflict, NotFound, SchemaError
from mastra_nb.events import Event, MessageAdded
from mastra_nb.memory._attached import Attached, Place
from mastra_nb.memory._facts import Facts
from mastra_nb.memory._longterm import FactsPart, ObservationsPart
from mastra_nb.memory._notes import Observation, Observed, Reflected, append
from mastra_nb.memory._observations import ObservationalMemory
from mastra_nb.memory.archive import all_threads, export_memory, import_memory
from mastra_nb.memory.display import overview
from mastra_nb.memory.threads import Conversation, ThreadList, import_thread, list_threads
from mastra_nb.messages import (
    Media,
    Message,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    assistant,
    user,
)
from mastra_nb.services import Services
from mastra_nb.storage import RunRow, Store, Thread
from mastra_nb.stores.memory import MemoryStore
from mastra_nb.testing import FakeEmbedder
from tests.hostile import PAYLOADS, active


@pytest.fixture
def store() -> Store:
    return MemoryStore()


async def say(store: Any, thread: str, *messages: Message, at: float = 1000.0) -> None:
    """Put messages into a thread, as a run would, a second after each other."""
    id = Services().new_id()
    row = await store.create(RunRow(id=id, name="a", kind="agent"), owner="o")
    events = [
        Event(run=id, seq=n, span="a", data=MessageAdded(message=m), at=at + n)
        for n, m in enumerate(messages, 1)
    ]
    await store.append(id, row.fence, events, status="done")
    await store.link(thread, id, range(1, len(messages) + 1))


def call(id: str = "c") -> Message:
    return assistant(ToolCall(id=id, name="f", args='{"x": 1}'))


def result(id: str = "c") -> Message:
    return Message(role="tool", parts=(ToolResult(id=id, name="f", output={"y": [1]}),))


async def texts(handle: Conversation, **options: Any) -> list[str]:
    return [m.message.text for m in await handle.messages(**options)]


async def made(store: Store, id: str = "t", resource: str = "ann", n: int = 6) -> Conversation:
    await store.put_thread(Thread(id=id, resource=resource, title="Trip", meta={"k": 1}))
    await say(store, id, *[m for i in range(n // 2) for m in (user(f"q{i}"), assistant(f"a{i}"))])
    return Conversation(store, id, resource=resource)


# Reading


async def test_pages_roles_and_times(store: Store) -> None:
    t = await made(store)
    assert await texts(t) == ["q0", "a0", "q1", "a1", "q2", "a2"]
    page = await t.messages(last=2)
    assert [m.message.text for m in page] == ["q2", "a2"]
    assert await texts(t, last=2, before=page[0].pos) == ["q1", "a1"]
    assert await texts(t, role="user") == ["q0", "q1", "q2"]
    assert await texts(t, role="assistant", last=1, before=6) == ["a1"]
    assert await texts(t, since=1003.0, until=datetime.fromtimestamp(1004, UTC)) == ["q1", "a1"]
    assert await texts(t, since=1003.0, last=1) == ["a2"]


async def test_many_pages(store: Store) -> None:
    t = await made(store, n=900)
    assert await texts(t, role="user") == [f"q{i}" for i in range(450)]
    assert await texts(t, role="user", last=3) == ["q447", "q448", "q449"]
    assert [m.message.text for m in await t.search("Q17")] == [
        *[f"q{i}" for i in range(179, 169, -1)]
    ]


async def test_words_are_searched_where_nothing_recalls(store: Store) -> None:
    t = await made(store)
    await say(store, "t", user("The red boat"), assistant("A red bus"))
    assert [m.message.text for m in await t.search("RED boat")] == ["The red boat"]
    assert [m.message.text for m in await t.search("red", top_k=1)] == ["A red bus"]
    assert await t.search("") == ()

    class Recall(Attached):
        async def search(self, place: Place, text: str, top_k: int) -> list[int]:
            return [3, 1, 99]

    t = Conversation(store, "t", attached=[Attached(), Recall()])
    assert [m.message.text for m in await t.search("x")] == ["q1", "q0"]


async def test_title_and_meta(store: Store) -> None:
    t = await made(store)
    created = (await t.info()).created
    assert await t.title() == "Trip" and await t.meta() == {"k": 1}
    await t.set_title("Home")
    await t.set_meta(color="red", k=None)
    info = await t.info()
    assert (info.title, info.meta, info.created) == ("Home", {"color": "red"}, created)


async def test_another_resource_finds_no_thread(store: Store) -> None:
    await made(store)
    before = await Conversation(store, "t").export()
    mine = Conversation(store, "t", resource="bob")
    for act in (
        mine.info(), mine.messages(), mine.messages(role="user"), mine.search("q"), mine.title(),
        mine.set_title("x"), mine.meta(), mine.set_meta(x=1), mine.delete_messages([1]),
        mine.clone("x"), mine.fork(1), mine.transfer("bob"), mine.delete(), mine.export(),
    ):  # fmt: skip
        with pytest.raises(NotFound, match='no thread "t"'):
            await act
    assert not await mine.exists() and await Conversation(store, "t").exists()
    assert await Conversation(store, "t").export() == before
    assert await store.get_thread("x") is None


# Changing


async def test_a_call_goes_with_its_result(store: Store) -> None:
    t = await made(store, n=2)
    await say(store, "t", user("q"), call(), result(), call(), result(), assistant("a"))
    # pos: 1 q0, 2 a0, 3 q, 4 call, 5 result, 6 call, 7 result, 8 a
    assert await t.delete_messages([5]) == 2
    assert [m.pos for m in await t.messages()] == [1, 2, 3, 6, 7, 8]
    assert await t.delete_messages([6]) == 2
    assert [m.pos for m in await t.messages()] == [1, 2, 3, 8]
    assert await t.delete_messages([]) == 0 == await t.delete_messages([77])


async def test_calls_of_one_message_go_together(store: Store) -> None:
    t = await made(store, n=0)
    both = assistant(ToolCall(id="1", name="f"), ToolCall(id="2", name="f"))
    await say(store, "t", user("q"), both, result("1"), result("2"), assistant("a"))
    assert await t.delete_messages([4]) == 3
    assert [m.pos for m in await t.messages()] == [1, 5]


exchanges = st.lists(
    st.sampled_from(
        [
            [user("u"), assistant("a")],
            [user("u"), call(), result(), assistant("a")],
            [user("u"), call("1"), result("1"), call("2"), result("2"), assistant("a")],
        ]
    ),
    max_size=5,
)


@given(exchanges, st.sets(st.integers(1, 30), max_size=6))
async def test_no_result_is_left_alone(turns: list[list[Message]], positions: set[int]) -> None:
    store = MemoryStore()
    await store.put_thread(Thread(id="t"))
    await say(store, "t", *[m for turn in turns for m in turn])
    t = Conversation(store, "t")
    before = {m.pos for m in await t.messages()}
    await t.delete_messages(positions)
    left = await t.messages()
    assert not {m.pos for m in left} & positions and before >= {m.pos for m in left}
    calls = [c.id for m in left for c in m.message.tool_calls]
    results = [p.id for m in left for p in m.message.parts if isinstance(p, ToolResult)]
    assert calls == results


async def test_a_fork_goes_its_own_way(store: Store) -> None:
    t = await made(store)
    fork = await t.fork(4, "f")
    await say(store, "f", user("other"))
    await say(store, "t", user("same"))
    assert await texts(fork) == ["q0", "a0", "q1", "a1", "other"]
    assert await texts(t) == ["q0", "a0", "q1", "a1", "q2", "a2", "same"]
    info = await fork.info()
    assert info.resource == "ann" and info.meta == {"k": 1, "cloned_from": "t", "cloned_at": 4}
    with pytest.raises(Conflict):
        await t.clone("f")
    other = await t.clone(resource="bob", title="Mine")
    assert (await other.info()).resource == "bob" and (await other.title()) == "Mine"


async def test_a_clone_beside_writers_is_a_beginning(store: Store) -> None:
    t = await made(store, n=2)

    async def write(i: int) -> None:
        await say(store, "t", user(f"u{i}"), assistant(f"v{i}"))

    async def copy(i: int) -> list[str]:
        return await texts(await t.clone(f"c{i}"))

    found = await asyncio.gather(*(f(i) for i in range(10) for f in (write, copy)))
    whole = await texts(t)
    assert len(whole) == 22
    for copied in found[1::2]:
        assert copied == whole[: len(copied)]


async def test_a_transfer_changes_the_owner(store: Store) -> None:
    t = await made(store)
    theirs = await t.transfer("bob")
    assert await texts(theirs) == await texts(Conversation(store, "t", resource="bob"))
    assert not await t.exists()


class World:
    """A store with all kinds of things beside its threads."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.services = Services(store=self.store)
        self.facts = FactsPart(Facts(), FakeEmbedder())
        self.own = ObservationsPart(ObservationalMemory())
        self.shared = ObservationsPart(ObservationalMemory(scope="resource"))

    def handle(self, id: str = "t", shared: bool = False) -> Conversation:
        return Conversation(
            self.store, id, attached=self.parts(shared=shared), services=self.services
        )

    def parts(self, *, shared: bool = False) -> list[Attached]:
        return [self.facts, self.shared if shared else self.own]

    async def remember(self, text: str, place: Place) -> None:
        await self.facts.options.remember(
            place, text, services=self.services, embedder=self.facts.embedder
        )

    async def known(self, place: Place) -> list[str]:
        found = await self.facts.options.all(
            place, services=self.services, embedder=self.facts.embedder
        )
        return [f.text for f in found]


def noted(pos: int, upto: int, thread: str = "t") -> Observed:
    note = Observation(thread=thread, pos=pos, at=1.0, priority="low", text=f"note {pos}")
    return Observed(observations=(note,), upto={thread: upto}, tokens=9, at=2.0)


async def test_a_deleted_thread_takes_everything_along() -> None:
    my = World()
    await made(my.store, resource="")
    await append(my.store, "t:t/", noted(1, 2))
    nobody, ann = Place(my.store, "t"), Place(my.store, "t", "ann")
    await my.remember("nobody's", nobody)
    await my.remember("ann's", ann)
    await my.handle().delete()
    assert await my.store.get_thread("t") is None
    assert await my.store.find("memory:observations") == []
    assert await my.known(nobody) == [] and await my.known(ann) == ["ann's"]


async def test_what_nobody_knew_goes_with_a_transfer() -> None:
    my = World()
    await made(my.store, resource="")
    await my.remember("nobody's", Place(my.store, "t"))
    clone = await my.handle().clone("c")
    await my.handle().transfer("ann")
    assert await my.known(Place(my.store, "x", "ann")) == ["nobody's"]
    assert await my.known(Place(my.store, "t")) == []
    assert await my.known(Place(my.store, clone.id)) == ["nobody's"]


# Out and in


async def test_an_export_is_json_and_comes_back(store: Store) -> None:
    t = await made(store)
    image = Media(mime="image/png", data=b"\x89PNG\x00\xff")
    odd = Message(role="assistant", parts=(Reasoning(text="h", extra={"sig": "x"}),), partial=True)
    await say(store, "t", user("see", image), call(), result(), odd)
    await t.delete_messages([1])
    out = await t.export()
    raw = msgspec.json.encode(out)
    assert {"format", "version", "thread", "messages", "attached"} == {*out}
    there = MemoryStore()
    for data in (out, raw, raw.decode()):
        back = await import_thread(there, data)
        assert await back.export() == out
        await back.delete()
    assert [t.id for t in await there.find_threads()] == []


async def test_observations_and_facts_come_along() -> None:
    my, there = World(), World()
    await made(my.store, resource="", n=10)
    for doc in (noted(2, 4), noted(5, 6)):
        await append(my.store, "t:t/", doc)
    await append(my.store, "t:t/", Reflected(observations=noted(2, 4).observations, upto={"t": 6}))
    await my.remember("likes tea", Place(my.store, "t"))
    await my.handle().delete_messages([1, 3])
    out = await my.handle().export()
    assert [d["upto"] for d in out["attached"]["observations"]] == [{"t": 2}, {"t": 4}, {"t": 4}]
    back = await import_thread(there.store, out, attached=there.parts(), services=there.services)
    assert await back.export() == out
    renamed = await import_thread(there.store, out, id="u", attached=there.parts())
    state = await there.own.options.read(Place(there.store, "u"))
    assert state.upto == {"u": 4} and state.items[0].thread == "u"
    assert await there.known(Place(there.store, renamed.id)) == ["likes tea"]


parts = st.one_of(
    st.builds(Text, text=st.text(max_size=20)),
    st.builds(Reasoning, text=st.text(max_size=5), extra=st.none() | st.just({"type": "text"})),
    st.builds(Media, mime=st.just("image/png"), data=st.binary(max_size=8)),
    st.builds(Media, mime=st.just("image/png"), url=st.just("https://a.example/x")),
)
plain = st.builds(
    Message,
    role=st.sampled_from(["user", "assistant", "system"]),
    parts=st.lists(parts, max_size=3).map(tuple),
    partial=st.booleans(),
)
talks = st.lists(plain.map(lambda m: [m]) | st.just([call(), result()]), max_size=6)


# A key with a NUL is refused.
keys = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)


@given(talks, st.text(max_size=10), st.dictionaries(keys, st.integers(0, 9)))
async def test_export_of_import_is_the_same(
    talk: list[list[Message]], title: str, meta: dict[str, int]
) -> None:
    store, there = MemoryStore(), MemoryStore()
    await store.put_thread(Thread(id="t", resource="r", title=title, meta=meta))
    await say(store, "t", *[m for turn in talk for m in turn])
    out = await Conversation(store, "t").export()
    back = await import_thread(there, msgspec.json.encode(out))
    assert await back.export() == out


def good(**changes: Any) -> dict[str, Any]:
    message = {"at": 1.0, "message": {"role": "user", "parts": [{"type": "text", "text": "x"}]}}
    whole = {
        "format": "mastra_nb/thread", "version": 1, "thread": {"id": "t"}, "messages": [message],
    }  # fmt: skip
    return {**whole, **changes}


def saying(**message: Any) -> dict[str, Any]:
    return good(messages=[{"at": 1.0, "message": {"role": "user", "parts": [], **message}}])


HOSTILE: list[Any] = [
    None, 1, [], "", "{", "null", b"\xff", {}, {"format": "x"}, good(format="other"),
    good(version=2), good(version="1"), good(version=None), good(thread=None), good(thread={}),
    good(thread={"id": ""}), good(thread={"id": 3}), good(thread={"id": "t", "meta": []}),
    good(thread={"id": "t", "created": float("nan")}), good(thread={"id": "\ud800"}),
    good(thread={"id": "t", "sql": "; drop"}), good(messages={}), good(messages=[1]),
    good(extra=1), good(attached=[]), saying(role="root"), saying(parts=None),
    saying(parts=[{"type": "os.system", "text": "x"}]), saying(parts=[{"type": "text"}]),
    saying(parts=[{"type": "media", "mime": "x", "data": "no base64!"}]),
    saying(parts=[{"type": "text", "text": "\ud800"}]),
    saying(role="tool", parts=[{"type": "tool-result", "id": "x", "name": "f"}]),
    good(messages=[{"at": float("inf"), "message": {"role": "user", "parts": []}}]),
    good(messages=[{"at": 1e300, "message": {"role": "user", "parts": []}}]),
    good(attached={"observations": [{"kind": "observed", "observations": [], "upto": {},
                                     "at": float("nan")}]}),
    good(messages=[{"at": -1.0, "message": {"role": "user", "parts": []}}]),
    good(attached={"observations": [{"kind": "observed"}]}),
    good(attached={"observations": [{"kind": "observed", "observations": [], "upto": {"t": 7}}]}),
    good(attached={"observations": [{"kind": "x", "observations": [], "upto": {}}]}),
    good(attached={"facts": [{"id": "1"}]}),
    good(attached={"facts": [{"id": "1", "text": "x", "importance": 9}]}),
    good(attached={"facts": [{"id": "1", "text": "x", "used": float("nan")}]}),
]  # fmt: skip


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"a": value}
    return good(thread={"id": "t", "meta": value})


@pytest.mark.parametrize("data", [*HOSTILE, nested(100_000)], ids=lambda data: "data")
async def test_hostile_data_writes_nothing(data: Any) -> None:
    my = World()
    with pytest.raises(SchemaError):
        await import_thread(my.store, data, attached=my.parts(), services=my.services)
    assert await my.store.find_threads() == [] and await my.store.find_runs() == []
    assert await my.store.find("memory:observations") == []


async def test_a_type_marker_stays_a_dict(store: Store) -> None:
    marked = {"type": "text", "__class__": "os.system", "$ref": "#"}
    data = saying(parts=[{"type": "tool-call", "id": "1", "name": "f", "extra": {"p": marked}}])
    back = await import_thread(store, data)
    assert (await back.messages())[0].message.parts[0].extra == {"p": marked}


async def test_what_an_import_does_if_there_is_one(store: Store) -> None:
    t = await made(store)
    out = await t.export()
    with pytest.raises(Conflict, match='a thread "t" already'):
        await import_thread(store, out)
    await t.set_title("Changed")
    same = await import_thread(store, out, on_conflict="skip")
    assert same.id == "t" and await same.title() == "Changed"
    copy = await import_thread(store, out, on_conflict="copy", resource="bob")
    assert copy.id != "t" and await texts(copy) == await texts(t)
    assert (await copy.info()).resource == "bob"
    with pytest.raises(ConfigError):
        await import_thread(store, out, on_conflict="replace")  # type: ignore[arg-type]
    assert sorted(x.id for x in await store.find_threads()) == sorted(["t", copy.id])


async def test_imports_at_once_make_one_thread(store: Store) -> None:
    out = await (await made(store)).export()
    there = MemoryStore()
    made_now = await asyncio.gather(
        *(import_thread(there, out) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(x, Conversation) for x in made_now) == 1
    assert len(await Conversation(there, "t").messages()) == 6
    assert [t.id for t in await there.find_threads()] == ["t"]


async def test_all_of_a_resource_comes_back() -> None:
    my, there = World(), World()
    for id in ("one", "two"):
        await made(my.store, id, "ann")
    await made(my.store, "secret", "bob")
    await my.remember("likes tea", Place(my.store, "one", "ann"))
    await my.remember("bob's", Place(my.store, "secret", "bob"))
    await append(my.store, "r:ann/", noted(1, 2, "one"))
    await append(my.store, "r:ann/", noted(3, 4, "two"))
    parts, theirs = my.parts(shared=True), there.parts(shared=True)
    out = await export_memory(my.store, "ann", attached=parts, services=my.services)
    assert "secret" not in str(out) and "bob" not in str(out)
    data = msgspec.json.encode(out)
    await import_memory(there.store, data, attached=theirs, services=there.services)
    assert await export_memory(there.store, "ann", attached=theirs) == out
    # Again: nothing twice, and nothing lost.
    with pytest.raises(Conflict):
        await import_memory(there.store, data, attached=theirs)
    await import_memory(there.store, data, attached=theirs, on_conflict="skip")
    assert await export_memory(there.store, "ann", attached=theirs) == out
    await Conversation(there.store, "one").delete()
    with pytest.raises(Conflict, match="two"):
        await import_memory(there.store, data, attached=theirs)
    assert [t.id for t in await there.store.find_threads()] == ["two"]
    copies = await import_memory(
        there.store, data, attached=theirs, on_conflict="copy", resource="carl"
    )
    state = await there.shared.options.read(Place(there.store, "", "carl"))
    assert state.upto == dict(zip([c.id for c in copies], (2, 4), strict=True))
    assert await there.known(Place(there.store, "", "carl")) == ["likes tea"]


async def test_a_memory_with_one_bad_thread_writes_nothing() -> None:
    my = World()
    whole = {"format": "mastra_nb/memory", "version": 1, "resource": "ann"}
    bad = saying(role="tool", parts=[{"type": "tool-result", "id": "x", "name": "f"}])
    for threads, attached in (
        ([good(), {**bad, "thread": {"id": "u"}}], {}), ([good(), good()], {}),
        ([good()], {"facts": [{}]}), ([good()], {"observations": 3}), (3, {}),
    ):  # fmt: skip
        with pytest.raises(SchemaError):
            await import_memory(
                my.store, {**whole, "threads": threads, "attached": attached}, attached=my.parts()
            )
    assert await my.store.find_threads() == [] and await my.store.find_runs() == []


async def test_threads_are_listed_whole(store: Store) -> None:
    for i in range(450):
        await store.put_thread(Thread(id=f"t{i:03}", resource="ann", created=float(i + 1)))
    await store.put_thread(Thread(id="x", resource="bob"))
    assert [t.id for t in await all_threads(store, "ann")] == [f"t{i:03}" for i in range(450)]


async def test_threads_are_listed_by_page_and_meta(store: Store) -> None:
    for i in range(5):
        meta = {"topic": "boats" if i % 2 else "tea"}
        await store.put_thread(Thread(id=f"t{i}", resource="ann", meta=meta))
    await store.put_thread(Thread(id="x", resource="bob", meta={"topic": "tea"}))
    tea = await list_threads(store, resource="ann", meta={"topic": "tea"})
    assert [t.id for t in tea] == ["t4", "t2", "t0"]
    page = await list_threads(store, resource="ann", limit=2, offset=1)
    assert [t.id for t in page] == ["t3", "t2"]
    assert page._repr_mimebundle_()["text/plain"] == "2 threads" and page.now > 0


# Showing


def html(markdown: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)


async def test_a_conversation_shows_itself(store: Store) -> None:
    t = await made(store, n=2)
    failed = ToolResult(id="c", name="f", output="no", is_error=True)
    await say(store, "t", call(), Message(role="tool", parts=(failed,)), call(), assistant("End."))
    await say(store, "t", user("look", Media(mime="image/png", data=b"123")))
    shown = t._repr_mimebundle_()
    text = shown["text/markdown"]
    assert shown["text/plain"] == "Trip · ann · 7 messages"
    assert text.startswith("**Trip · ann · 7 messages**\n\n**🧑 user**\n\nq0\n\n**🤖 assistant**")
    assert "<details><summary>🔧 <code>f</code>(" in text and " · ✗ failed</summary>" in text
    assert " · no result</summary>" in text and "📎 image/png · 3 bytes" in text
    assert (await t.messages(last=1))._repr_mimebundle_()["text/plain"] == "1 message"
    assert "no thread" in Conversation(store, "none")._repr_mimebundle_()["text/plain"]
    assert repr(t) == '<Conversation "t">'


async def test_a_long_conversation_is_cut_in_its_middle(store: Store) -> None:
    t = await made(store, n=300)
    for shown in (t._repr_mimebundle_(), (await t.messages())._repr_mimebundle_()):
        text = shown["text/markdown"]
        assert text.count("🧑 user") == 20 and "… 260 more messages …" in text
        assert "q0" in text and "a149" in text and "q75" not in text
    await say(store, "t", user("z" * 100_000))
    assert len(t._repr_mimebundle_()["text/markdown"]) < 20_000


@pytest.mark.parametrize("payload", PAYLOADS)
async def test_hostile_content_stays_inert(payload: str) -> None:
    store = MemoryStore()
    name = payload.encode(errors="replace").decode()
    await store.put_thread(Thread(id="t", title=name, resource=name))
    said = ToolCall(id="c", name=name, args=name)
    got = ToolResult(id="c", name=name, output={name: [name]})
    media = Media(mime=name, url=name)
    await say(
        store, "t", user(name, media), assistant(Reasoning(text=name), name, said),
        Message(role="tool", parts=(got,)), assistant(name), user("End."),
    )  # fmt: skip
    t = Conversation(store, "t")
    listed = ThreadList(await store.find_threads())
    for shown in (t._repr_mimebundle_(), listed._repr_mimebundle_()):
        assert not active(html(shown["text/markdown"]))
        assert all(c.isprintable() for c in shown["text/plain"] if ord(c) < 0xA0)
    assert "End." in html(t._repr_mimebundle_()["text/markdown"])


async def test_a_memory_shows_itself() -> None:
    my = World()
    for i in range(25):
        await my.store.put_thread(Thread(id=f"t{i}", resource="ann", title="<b>Trip</b>"))
    await made(my.store, "last", "ann")
    await made(my.store, "bob's", "bob")
    await my.remember("likes <script>tea", Place(my.store, "t", "ann"))
    await append(my.store, "r:ann/", noted(1, 2, "last"))
    shown = await overview(my.store, "ann", my.parts(shared=True), now=my.services.now())
    line, text = shown["text/plain"], shown["text/markdown"]
    assert line.startswith("memory of ann · more than 20 threads · 1 fact · 1 observation · vers")
    assert "bob" not in text and "| last | Trip | ann | 6 | now |" in text
    assert "████░░░░ 0.50" in text and "note 1" in text
    assert not active(html(text)) and "<b>" not in text
    everything = await overview(my.store, None, my.parts(), now=my.services.now())
    assert "bob" in everything["text/markdown"] and "fact" not in everything["text/plain"]
