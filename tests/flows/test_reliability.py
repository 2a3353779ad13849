"""Vectors, documents and memory on a file that others write, that is full, damaged or read only."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from mastra_nb.agents import Agent
from mastra_nb.app import Mastra, open_store
from mastra_nb.errors import StorageError
from mastra_nb.memory.memory import Memory
from mastra_nb.rag.index import Index
from mastra_nb.storage import Retention, Store
from mastra_nb.testing import FakeEmbedder, ScriptedModel
from tests.flows.processes import check, processes


@pytest.fixture
def start() -> Iterator[Callable[..., Any]]:
    with processes() as start:
        yield start


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = open_store(f"sqlite:///{tmp_path}/s.db")
    yield store
    await store.close()


MIXED = """
async def main():
    store = open_store(url)
    await store.vectors.create_index("i", dimension=4)
    await new_run(store, name)
    say("ready")
    hear()
    for n in range(1, 126):
        await store.append(name, 1, messages(name, [f"{name}-{n}"], n), thread="t")
        row = [float(n), 1.0, 2.0, float(len(name))]
        given = {"ids": [f"{name}-{n}"], "texts": [f"word{n} of {name}"]}
        await store.vectors.upsert("i", [row], metadata=[{"who": name, "n": n}], **given)
        await store.put("k", f"{name}-{n}", n)
        if n % 2:
            await store.vectors.update("i", ids=[f"{name}-{n}"], metadata={"odd": True})
        else:
            await store.vectors.delete("i", ids=[f"{name}-{n}"])
    await store.close()
    say("done")

asyncio.run(main())
"""


async def test_eight_processes_write_everything_at_once(start: Any, tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    names = [f"w{n}" for n in range(8)]
    writers = [start(MIXED, path, name) for name in names]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        assert writer.communicate(timeout=60)[0] == "done\n"
        assert writer.returncode == 0
    check(path)
    store = open_store(f"sqlite:///{path}")
    assert [m.pos for m in await store.read_messages("t")] == list(range(1, 1001))
    assert len(await store.find("k", limit=10_000)) == 1000
    odd = [f"{name}-{n}" for name in names for n in range(1, 126, 2)]
    found = await store.vectors.find("i", filter={"odd": True}, limit=10_000)
    assert sorted(r.id for r in found) == sorted(odd)
    assert (await store.vectors.describe_index("i")).count == len(odd)
    for name in names:
        assert len(await store.read_events(name)) == 125
        hits = await store.vectors.query(
            "i", [125.0, 1.0, 2.0, 2.0], top_k=200, filter={"who": name}
        )
        assert len(hits) == 63
        (hit,) = await store.vectors.query("i", text="word125", filter={"who": name}, top_k=5)
        assert hit.id == f"{name}-125"
    await store.close()


TALKER = """
from mastra_nb.agents import Agent
from mastra_nb.memory.memory import Memory
from mastra_nb.services import Services
from mastra_nb.testing import FakeEmbedder, ScriptedModel

async def main():
    store = open_store(url)
    memory = Memory(semantic_recall=True, working_memory=True, embedder=FakeEmbedder(16))
    agent = Agent(name="a", model=ScriptedModel("Noted.", repeat=True), memory=memory,
                  services=Services(store=store), resource="ada")
    say("0")
    for n in range(1, 10_000):
        await agent.run(f"{name} says number{n}", thread=name)
        await memory.set_working(f"{name} at {n}", resource="ada", thread=name)
        say(str(n))

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
async def test_two_kernels_that_are_killed_lose_no_turn(start: Any, tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    talkers = {name: start(TALKER, path, name) for name in ("k1", "k2")}
    done: dict[str, int] = {}
    for talker in talkers.values():
        while int(talker.stdout.readline()) < 10:
            pass
    for talker in talkers.values():
        talker.send_signal(signal.SIGKILL)
    for name, talker in talkers.items():
        lines = talker.stdout.read().split("\n")
        talker.wait()
        done[name] = max([10, *(int(line) for line in lines[:-1])])
    check(path)
    store = open_store(f"sqlite:///{path}")
    memory = Memory(semantic_recall=True, working_memory=True, embedder=FakeEmbedder(16))
    app = Mastra(storage=store)
    memory.bind(app.services)
    # What was said is there; what was not indexed any more is indexed now.
    await memory.index(resource="ada")
    entries = await store.vectors.find("memory:said:fake/words@16", limit=10_000)
    kept = {(e.metadata["thread"], e.metadata["pos"]) for e in entries}
    for name, n in done.items():
        found = await store.read_messages(name)
        asked = [m.message.text for m in found if m.message.role == "user"]
        assert asked[:n] == [f"{name} says number{i}" for i in range(1, n + 1)]
        assert len(asked) <= n + 1
        assert {(name, m.pos) for m in found} <= kept
        hits = await memory.recall(f"{name} says number{n}", thread=name, resource="ada", top_k=3)
        assert f"{name} says number{n}" in [h.message.text for h in hits]
    assert len(entries) == len(kept)
    versions = [v.value for v in await memory.working_history(resource="ada")]
    assert {f"{name} at {n}" for name, n in done.items()} <= {*versions}
    await store.close()


# No room


def limit(store: Any, spare: int | None) -> None:
    """So many pages more may be written; None: as many as there are disks."""
    pages = store._file.read(lambda db: db.execute("PRAGMA page_count").get)
    most = 1_000_000 if spare is None else pages + spare
    store._file._writer.execute(f"PRAGMA max_page_count = {most}").fetchall()


def long(n: int) -> str:
    return f"number{n} " + " ".join(f"w{n}x{i}" for i in range(300))


async def test_a_full_disk_keeps_nothing_of_an_upsert(store: Store) -> None:
    vectors = store.vectors
    await vectors.create_index("i", dimension=64)
    await vectors.upsert("i", [[1.0] * 64], ids=["kept"], texts=["kept word"])
    limit(store, 2)
    rows, ids = [[float(n)] * 64 for n in range(400)], [f"e{n}" for n in range(400)]
    for _ in range(2):
        with pytest.raises(StorageError, match="no room left") as caught:
            await vectors.upsert("i", rows, ids=ids, texts=[long(n) for n in range(400)])
        assert caught.value.code == "storage.full" and "Free disk space" in (
            caught.value.hint or ""
        )
        assert [h.id for h in await vectors.query("i", [1.0] * 64)] == ["kept"]
        assert [h.id for h in await vectors.query("i", text="kept")] == ["kept"]
        assert await vectors.query("i", text="number7") == []
        assert (await vectors.describe_index("i")).count == 1
    limit(store, None)
    await vectors.upsert("i", rows, ids=ids, texts=[long(n) for n in range(400)])
    assert [h.id for h in await vectors.query("i", text="number7")] == ["e7"]
    assert (await vectors.describe_index("i")).count == 401


async def test_an_ingest_on_a_full_disk_goes_on_when_there_is_room(
    store: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for n in range(60):
        (folder / f"{n:02}.md").write_text(f"# Number {n}\n\n{long(n)}\n" * 3)
    embedder = FakeEmbedder()
    index = Index("i", store=store, embedder=embedder)
    await index.ingest(folder / "00.md")
    limit(store, 40)
    with pytest.raises(StorageError) as caught:
        await index.ingest(folder)
    assert caught.value.code == "storage.full" and caught.value.hint
    # Whatever is in is whole and is found.
    assert await index.query("number0")
    limit(store, None)
    await index.ingest(folder)
    for n in (0, 30, 59):
        found = await index.query(f"number{n}")
        assert f"{n:02}.md" in str(found)
    report = await index.ingest(folder)
    assert report.unchanged == 60


async def test_a_turn_on_a_full_disk_fails_and_the_next_is_remembered(store: Store) -> None:
    app = Mastra(storage=store)
    memory = Memory(semantic_recall=True, working_memory=True, embedder=FakeEmbedder())
    agent = app.add(Agent(name="a", model=ScriptedModel("ok", repeat=True), memory=memory))
    await agent.run("the first word", thread="t", resource="ada")
    await memory.settle()
    limit(store, 0)
    for _ in range(2):
        with pytest.raises(StorageError) as caught:
            await agent.run(long(1) * 20, thread="t", resource="ada")
        assert caught.value.code == "storage.full" and caught.value.hint
        await memory.settle()
    with pytest.raises(StorageError, match="no room left"):
        await memory.set_working("x" * 7999, resource="ada")
    assert await memory.working(resource="ada") is None
    texts = [m.message.text for m in await memory.thread("t").messages()]
    assert texts[:2] == ["the first word", "ok"] and len(texts) % 2 == 0
    limit(store, None)
    await agent.run("the last word", thread="t", resource="ada")
    await memory.settle()
    said = await memory.thread("t").messages()
    entries = await store.vectors.find("memory:said:fake/words@64", limit=1000)
    assert {e.metadata["pos"] for e in entries} == {m.pos for m in said}
    found = [h.message.text for h in await memory.recall("word", resource="ada", top_k=10)]
    assert {"the first word", "the last word"} <= {*found}


# A file that is damaged, or may only be read


async def filled(path: Path, folder: Path) -> None:
    app = Mastra(storage=f"sqlite:///{path}")
    memory = Memory(semantic_recall=True, working_memory=True, embedder=FakeEmbedder())
    agent = app.add(Agent(name="a", model=ScriptedModel("ok", repeat=True), memory=memory))
    for n in range(20):
        await agent.run(long(n), thread="t", resource="ada")
    await memory.set_working("page", resource="ada")
    await memory.settle()
    folder.mkdir(exist_ok=True)
    (folder / "a.md").write_text(f"# Number\n\n{long(7)}\n")
    await app.index("docs", embedder=FakeEmbedder()).ingest(folder)
    await app.close()


async def test_a_damaged_file_says_so_whatever_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    await filled(path, tmp_path / "docs")
    damage = ("vector", "vector_words_1_data", "vector_words_2_data", "thread_message", "doc")
    db = apsw.Connection(str(path))
    roots = db.execute("SELECT name, rootpage FROM sqlite_schema").fetchall()
    db.close()
    data = bytearray(path.read_bytes())
    for name, page in roots:
        if name in damage:
            data[(page - 1) * 4096 : page * 4096] = b"\xaa" * 4096
    path.write_bytes(data)
    app = Mastra(storage=f"sqlite:///{path}")
    memory = Memory(semantic_recall=True, working_memory=True, embedder=FakeEmbedder())
    memory.bind(app.services)
    index = app.index("docs", embedder=FakeEmbedder())
    asked: dict[str, Callable[[], Any]] = {
        "query": lambda: app.vectors.query("docs", [1.0] * 64),
        "words": lambda: app.vectors.query("docs", text="number7"),
        "recall": lambda: memory.recall("number3", resource="ada"),
        "index": lambda: index.query("number7"),
        "ingest": lambda: index.ingest(tmp_path / "docs"),
        "messages": lambda: memory.thread("t").messages(),
        "working": lambda: memory.working(resource="ada"),
        "delete": lambda: memory.thread("t").delete(),
    }
    for what, ask in asked.items():
        with pytest.raises(StorageError, match="it is damaged") as caught:
            await ask()
        assert caught.value.code == "storage.corrupt", what
        assert "restore a backup" in (caught.value.hint or "")
    await app.close()


async def test_a_read_only_file_is_asked_and_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.db"
    await filled(path, tmp_path / "docs")
    real = os.access
    monkeypatch.setattr(os, "access", lambda p, mode: mode != os.W_OK and real(p, mode))
    before = path.read_bytes()
    app = Mastra(storage=f"sqlite:///{path}")
    memory = Memory(semantic_recall=True, working_memory=True, embedder=FakeEmbedder())
    memory.bind(app.services)
    index = app.index("docs", embedder=FakeEmbedder())
    assert [h.id for h in await app.vectors.query("docs", [1.0] * 64, text="number7")]
    assert "number7" in (await index.query("number7"))[0].text
    assert "number3" in (await memory.recall("number3", resource="ada"))[0].message.text
    assert await memory.working(resource="ada") == "page"
    assert len(await memory.thread("t").messages()) == 40
    (tmp_path / "docs" / "b.md").write_text("# More\n\nsomething else\n")
    refused: list[Callable[[], Any]] = [
        lambda: app.vectors.upsert("docs", [[1.0] * 64], ids=["x"]),
        lambda: app.vectors.create_index("new", dimension=3),
        lambda: index.ingest(tmp_path / "docs"),
        lambda: memory.set_working("x", resource="ada"),
        lambda: memory.thread("t").delete(),
        lambda: app.prune(Retention(threads=0, runs=0)),
        lambda: memory.thread("t").set_title("x"),
    ]
    for write in refused:
        with pytest.raises(StorageError, match="can only be read") as caught:
            await write()
        assert caught.value.code == "storage.readonly" and "Copy it" in (caught.value.hint or "")
    await app.close()
    assert path.read_bytes() == before
