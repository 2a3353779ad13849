from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mastra_nb import Agent, Mastra, tool
from mastra_nb.errors import NotFound, UsageError
from mastra_nb.memory.memory import Memory
from mastra_nb.queries import Queries
from mastra_nb.rag.index import Index
from mastra_nb.sketches import on_a_plane
from mastra_nb.storage import Thread
from mastra_nb.testing import FakeEmbedder, ScriptedModel, calls


@tool(needs_approval=True)
def send(to: str) -> str:
    """Send."""
    return f"sent to {to}"


@tool
def look(what: str) -> dict[str, str]:
    """Look."""
    return {"seen": what}


@pytest.fixture
def app() -> Mastra:
    clerk = Agent(
        name="clerk",
        model=ScriptedModel(calls("look", what="x"), "all is well", repeat=True),
        tools=[look],
        memory=Memory(),
    )
    sender = Agent(name="sender", model=ScriptedModel(calls("send", to="bob")), tools=[send])
    return Mastra(agents=[clerk, sender], storage="memory://")


@pytest.fixture
def queries(app: Mastra) -> Queries:
    return Queries(app)


async def ask(app: Mastra, text: str = "How is it?", **options: Any) -> str:
    run = app.agents["clerk"].run(text, **options)
    await run
    return run.id


async def waits(app: Mastra) -> str:
    run = app.agents["sender"].run("Write to bob")
    await run.rested() if run.began else None
    with pytest.raises(Exception, match="waits"):
        await run
    return run.id


async def test_runs_are_paged_and_say_what_they_took(app: Mastra, queries: Queries) -> None:
    ids = [await ask(app, f"question {n}") for n in range(5)]
    first = await queries.ask("runs", {"limit": 2})
    assert first["total"] == 5
    assert [row["id"] for row in first["runs"]] == ids[:2:-1]
    row = first["runs"][0]
    assert (row["name"], row["kind"], row["status"]) == ("clerk", "agent", "done")
    assert "question 4" in row["input"]
    assert row["model"] == "scripted/model"
    assert (row["input_tokens"], row["output_tokens"], row["cost"]) == (20, 3, 0.0)
    rest, cursor = [], first["next"]
    while cursor:
        page = await queries.ask("runs", {"limit": 2, "cursor": cursor})
        rest += [row["id"] for row in page["runs"]]
        cursor = page["next"]
    assert rest == ids[2::-1]


async def test_runs_are_filtered(app: Mastra, queries: Queries) -> None:
    await ask(app, "about Oslo")
    await waits(app)
    for args, names in (
        ({"status": "suspended"}, ["sender"]),
        ({"name": "clerk"}, ["clerk"]),
        ({"text": "oslo"}, ["clerk"]),
        ({"text": "nowhere"}, []),
    ):
        found = await queries.ask("runs", args)
        assert [row["name"] for row in found["runs"]] == names
        assert found["total"] == len(names)
        assert found["next"] is None


async def test_a_run_is_a_bundle_with_its_id(app: Mastra, queries: Queries) -> None:
    id = await ask(app)
    bundle = await queries.ask("run", {"id": id})
    record = bundle["application/vnd.mastra.run.v1+json"]
    assert record["run"] == id
    assert "all is well" in bundle["text/markdown"]


async def test_a_trace_is_a_tree_in_order(app: Mastra, queries: Queries) -> None:
    trace = await queries.ask("trace", {"id": await ask(app)})
    spans = trace["spans"]
    assert (spans[0]["name"], spans[0]["depth"], spans[0]["start"]) == ("clerk", 0, 0.0)
    assert {s["parent"] for s in spans if s["depth"] == 1} == {spans[0]["path"]}
    (called,) = (s for s in spans if s["kind"] == "tool")
    assert "x" in str(called["input"]) and "seen" in str(called["output"])
    assert sum("usage" in s for s in spans) == 2
    short = await queries.ask("trace", {"id": trace["run"], "limit": 1})
    assert short["spans"] == spans[:1]


async def test_costs_are_by_time_agent_and_model(app: Mastra, queries: Queries) -> None:
    for _ in range(3):
        await ask(app)
    costs = await queries.ask("costs", {"days": 1, "buckets": 10})
    buckets = costs["buckets"]
    assert {(b["name"], b["model"]) for b in buckets} == {("clerk", "scripted/model")}
    assert sum(b["calls"] for b in buckets) == 6
    assert sum(b["input"] for b in buckets) == 60
    assert costs["width"] == pytest.approx(8640)
    assert all(costs["since"] <= b["at"] <= costs["until"] for b in buckets)


async def test_what_waits_has_its_form(app: Mastra, queries: Queries) -> None:
    id = await waits(app)
    (asked,) = (await queries.ask("waiting", {}))["waiting"]
    assert (asked["run"], asked["name"], asked["tool"]) == (id, "sender", "send")
    assert asked["args"] == {"to": "bob"}
    assert "approved" in asked["schema"]["properties"]


async def test_threads_and_their_messages(app: Mastra, queries: Queries) -> None:
    for n in range(3):
        await ask(app, f"hello {n}", thread="talk", resource="ada")
    store = app.services.store
    assert store is not None
    await store.put_thread(Thread(id="other", title="Something else"))
    found = await queries.ask("threads", {})
    assert {t["id"]: t["messages"] for t in found["threads"]} == {"talk": 12, "other": 0}
    named = await queries.ask("threads", {"text": "ELSE"})
    assert [t["id"] for t in named["threads"]] == ["other"]
    page = await queries.ask("threads", {"limit": 1})
    rest = await queries.ask("threads", {"limit": 1, "cursor": page["next"]})
    assert {page["threads"][0]["id"], rest["threads"][0]["id"]} == {"talk", "other"}

    talk = await queries.ask("thread", {"id": "talk", "limit": 5})
    assert [m["pos"] for m in talk["messages"]] == [8, 9, 10, 11, 12]
    assert talk["messages"][-1]["text"] == "all is well"
    assert talk["messages"][-3]["tools"] == [{"name": "look", "args": '{"what":"x"}'}] or any(
        "tools" in m for m in talk["messages"]
    )
    before = await queries.ask("thread", {"id": "talk", "limit": 50, "before": talk["before"]})
    assert [m["pos"] for m in before["messages"]] == list(range(1, 8))
    assert before["before"] is None


async def test_working_memory_is_beside_its_conversation() -> None:
    memory = Memory(working_memory=True)
    agent = Agent(name="a", model=ScriptedModel("ok"), memory=memory)
    app = Mastra(agents=[agent], storage="memory://")
    await agent.run("hi", thread="t", resource="ada")
    await memory.set_working("# User\n- Ada", resource="ada")
    talk = await Queries(app).ask("thread", {"id": "t"})
    assert talk["working"] == "# User\n- Ada"


async def test_an_index_is_mapped_and_searched(
    app: Mastra, queries: Queries, tmp_path: Path
) -> None:
    store = app.services.store
    assert store is not None
    for n in range(30):
        (tmp_path / f"{n}.txt").write_text(f"Of boats, number {n}.")
    index = Index("docs", store=store, embedder=FakeEmbedder(16))
    await index.ingest(str(tmp_path))
    (found,) = (await queries.ask("indexes", {}))["indexes"]
    assert (found["name"], found["count"], found["dimension"]) == ("docs", 30, 16)
    mapped = await queries.ask("map", {"index": "docs"})
    assert len(mapped["points"]) == 30 == mapped["count"]
    assert all(-1 <= p["x"] <= 1 and -1 <= p["y"] <= 1 for p in mapped["points"])
    assert mapped["points"][0]["text"].endswith(".")
    few = await queries.ask("map", {"index": "docs", "limit": 7})
    assert len(few["points"]) == 7
    hits = await queries.ask("search", {"index": "docs", "text": "boats", "limit": 3})
    assert len(hits["hits"]) == 3
    assert {h["id"] for h in hits["hits"]} <= {p["id"] for p in mapped["points"]}


@pytest.mark.parametrize(
    ("name", "args", "error"),
    [
        ("ruins", {}, UsageError),
        ("runs", {"status": "happy"}, UsageError),
        ("runs", {"limit": "many"}, UsageError),
        ("runs", {"cursor": -1}, UsageError),
        ("runs", {"text": 5}, UsageError),
        ("runs", {"limit": True}, UsageError),
        ("run", {"id": "nobody"}, NotFound),
        ("trace", {}, NotFound),
        ("thread", {"id": "x"}, NotFound),
        ("map", {"index": "x"}, NotFound),
        ("search", {"index": "x", "text": " "}, UsageError),
        ("costs", {"days": "nan"}, UsageError),
    ],
)
async def test_what_cannot_be_asked(
    queries: Queries, name: str, args: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        await queries.ask(name, args)
    assert getattr(caught.value, "hint", "")


async def test_without_a_store_it_says_so() -> None:
    with pytest.raises(NotFound, match="nothing is kept"):
        await Queries(Mastra()).ask("runs", {})


def test_a_plane_has_the_largest_differences() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    wide = rng.normal(size=(50, 8)).astype("<f4") * np.array([9, 4, 1, 1, 1, 1, 1, 1], "<f4")
    places, shares = on_a_plane([row.tobytes() for row in wide])
    assert shares[0] > shares[1] > 0.1
    assert abs(np.corrcoef([x for x, _ in places], wide[:, 0])[0, 1]) > 0.95
    assert places == on_a_plane([row.tobytes() for row in wide])[0]
    assert on_a_plane([]) == ([], [])
    assert on_a_plane([b"", wide[0].tobytes()])[0]
