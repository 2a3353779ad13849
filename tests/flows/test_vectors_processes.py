"""Vector indexes shared by processes: what one has acknowledged, every other finds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import struct
import sys
from typing import Any

import apsw
import pytest

from mastra_nb.stores.sqlite import open_store
from mastra_nb.vectors import VectorStore
from tests.flows.processes import check, processes

# Does what it is told, line by line: the name of a method and its arguments.
TOLD = """
import json
import msgspec

async def main():
    store = open_store(url)
    say("null")
    for line in iter(hear, ""):
        method, args, given = json.loads(line)
        answer = await getattr(store.vectors, method)(*args, **given)
        say(msgspec.json.encode(answer).decode())
    await store.close()

asyncio.run(main())
"""


@pytest.fixture
def start():
    with processes() as start:
        yield start


@pytest.fixture
async def store(tmp_path):
    store = open_store(f"sqlite:///{tmp_path}/s.db")
    yield store
    await store.close()


class Other:
    """The vectors of a store in another process."""

    def __init__(self, process: Any) -> None:
        self._process = process
        assert process.stdout.readline() == "null\n"

    def tell(self, method: str, *args: Any, **given: Any) -> Any:
        self._process.stdin.write(json.dumps([method, args, given]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def query(self, *args: Any, **given: Any) -> list[str]:
        return [hit["id"] for hit in self.tell("query", *args, **given)]


@pytest.fixture
def other(start, store, tmp_path):
    return Other(start(TOLD, tmp_path / "s.db", "other"))


async def query(vectors: VectorStore, *args: Any, **given: Any) -> list[str]:
    return [hit.id for hit in await vectors.query(*args, **given)]


async def test_a_warm_engine_follows_another_process(store, other):
    vectors = store.vectors
    await vectors.create_index("i", dimension=2, metadata_indexes=["n"])
    facts = [{"n": n} for n in range(4)]
    await vectors.upsert(
        "i", [[1, 0], [1, 1], [0, 1], [-1, 0]], ids=[*"abcd"], texts=["owl"] * 4, metadata=facts
    )
    asked: list[dict[str, Any]] = [
        {"vector": [1, 0]},
        {"vector": [0, 1], "filter": {"n": {"$gte": 2}}},
        {"text": "owl"},
        {"text": "owl", "filter": {"n": 3}},
        {"vector": [1, 0.1], "text": "owl"},
    ]

    async def both() -> list[list[str]]:
        here = [await query(vectors, "i", **each) for each in asked]
        assert [other.query("i", **each) for each in asked] == here
        return here

    all_hits = ["a", "b", "c", "d"]
    assert await both() == [all_hits, ["c", "d"], all_hits, ["d"], all_hits]
    assert (await vectors.stats("i")).engine == "exact"
    assert other.tell("stats", "i")["engine"] == "exact"

    # New, changed, moved by its metadata, deleted: first there, then here.
    other.tell("upsert", "i", [[1, -0.1]], ids=["e"], texts=["owl"], metadata=[{"n": 3}])
    after = await both()
    assert after[0] == ["a", "e", "b", "c", "d"]
    assert after[1] == ["c", "d", "e"]
    assert after[3] == ["d", "e"]
    other.tell("update", "i", ids=["d"], vector=[1, 0], metadata={"n": 0}, text="lake")
    after = await both()
    assert after[0] == ["a", "d", "e", "b", "c"]
    assert after[1:4] == [["c", "e"], ["a", "b", "c", "e"], ["e"]]
    other.tell("delete", "i", filter={"n": 0})
    after = await both()
    assert after[0] == ["e", "b", "c"]
    assert after[2] == ["b", "c", "e"]
    await vectors.delete("i", ids=["e"])
    assert (await both())[:4] == [["b", "c"], ["c"], ["b", "c"], []]


async def test_more_is_deleted_than_is_remembered(store, other, tmp_path):
    """The other process forgets what is gone: an engine that has missed it reads all anew."""
    vectors, n = store.vectors, 11_000
    await vectors.create_index("i", dimension=2)
    await vectors.upsert(
        "i", [[1, k] for k in range(n)], ids=[f"{k}" for k in range(n)],
        metadata=[{"n": k} for k in range(n)],
    )  # fmt: skip
    kept = {"n": {"$lt": 10_900}}
    assert await query(vectors, "i", [1, 0], top_k=1) == ["0"]
    assert await query(vectors, "i", [1, 0], top_k=1, filter=kept) == ["0"]
    assert other.tell("delete", "i", filter={"n": {"$lt": 10_500}}) == 10_500
    with contextlib.closing(apsw.Connection(str(tmp_path / "s.db"))) as db:
        assert db.execute("SELECT forgotten FROM vector_index").get > 0
    hits = await query(vectors, "i", [1, 0], top_k=n)
    assert hits == [f"{k}" for k in range(10_500, n)]
    hits = await query(vectors, "i", [1, 0], top_k=n, filter=kept)
    assert hits == [f"{k}" for k in range(10_500, 10_900)]


async def test_an_index_that_another_process_has_made_anew(store, other):
    vectors = store.vectors
    await vectors.create_index("i", dimension=2)
    await vectors.upsert("i", [[1, 0]], ids=["old"], texts=["owl"])
    assert await query(vectors, "i", [1, 0]) == ["old"]
    assert other.tell("delete_index", "i") is True
    other.tell("create_index", "i", dimension=3, metric="euclidean")
    other.tell("upsert", "i", [[1, 0, 0]], ids=["new"], texts=["lake"])
    (hit,) = await vectors.query("i", [1, 0, 0])
    assert (hit.id, hit.score) == ("new", 1.0)
    assert await query(vectors, "i", text="owl") == []
    assert await query(vectors, "i", text="lake") == ["new"]


async def test_what_is_deleted_gives_its_room_back(store, other, tmp_path):
    vectors, n, path = store.vectors, 6_000, tmp_path / "s.db"
    numbers = random.Random(1)
    given = [struct.pack("<64f", *[numbers.gauss(0, 1) for _ in range(64)]) for _ in range(n)]
    await vectors.create_index("i", dimension=64, metadata_indexes=["n"])
    await vectors.upsert(
        "i", given, ids=[f"{k}" for k in range(n)],
        texts=[f"the owl of barn {k} hunts mice" for k in range(n)],
        metadata=[{"n": k % 10} for k in range(n)],
    )  # fmt: skip
    assert await query(vectors, "i", given[10], top_k=1) == ["10"]
    with contextlib.closing(apsw.Connection(str(path))) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    full = path.stat().st_size
    assert await vectors.delete("i", filter={"n": {"$ne": 0}}) == n * 9 // 10
    freed = await store.vacuum()
    assert freed > full // 2
    assert path.stat().st_size < full // 4
    # Pages have moved; the one that was warm and the one that reads it first find the same.
    for k in (0, 10, n - 10):
        vector = [*struct.unpack("<64f", given[k])]
        assert await query(vectors, "i", vector, top_k=1) == [f"{k}"]
        assert other.query("i", vector, top_k=1) == [f"{k}"]
        assert await query(vectors, "i", text=f"{k}") == [f"{k}"]
    assert await vectors.count("i") == n // 10
    check(path)


# Batches of three, and every fifth replaces the one before it.
KILLED = """
async def main():
    store = open_store(url)
    vectors = store.vectors
    await vectors.create_index("i", dimension=2)
    place = 1000 * (name == "b")
    say("-1")
    for n in range(100_000):
        gone = {"of": name, "n": n - 1} if n % 5 == 4 else None
        await vectors.upsert(
            "i", [[place + n, k] for k in range(3)], ids=[f"{name}-{n}-{k}" for k in range(3)],
            texts=[f"owl {name}{n}"] * 3, metadata=[{"of": name, "n": n}] * 3,
            delete_filter=gone,
        )
        say(str(n))

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
async def test_what_was_acknowledged_is_found_after_sigkill(start, store, tmp_path):
    vectors, path, told = store.vectors, tmp_path / "s.db", 0
    await vectors.create_index("i", dimension=2)
    for most in (1, 40):
        await vectors.delete("i", filter={})
        await query(vectors, "i", [1, 0])
        writers = {name: start(KILLED, path, name) for name in "ab"}
        acknowledged = {}
        for writer in writers.values():
            while int(writer.stdout.readline()) < most:
                pass
        for name, writer in writers.items():
            await asyncio.sleep(random.random() * 0.02)
            writer.send_signal(signal.SIGKILL)
            # The last line may be half a number; at least `most` was read before.
            lines = writer.stdout.read().split("\n")
            writer.wait()
            acknowledged[name] = int(lines[-2]) if len(lines) > 1 else most
        told += sum(acknowledged.values())
        await survived(vectors, acknowledged)
        check(path)
    await store.close()
    check(path)
    again = open_store(f"sqlite:///{path}")
    await survived(again.vectors, acknowledged)
    await again.close()
    assert told >= 80


async def survived(vectors: VectorStore, acknowledged: dict[str, int]) -> None:
    found = {r.id: r for r in await vectors.find("i", limit=1_000_000, include_vector=True)}
    count = 0
    for name, last in acknowledged.items():
        place = 1000 * (name == "b")
        # One more may have been written that could not be told.
        one_more = f"{name}-{last + 1}-0" in found
        for n in range(last + 2):
            replaced = n % 5 == 3 and n + 1 <= last + one_more
            there = n <= last + one_more and not replaced
            for k in range(3):
                assert (f"{name}-{n}-{k}" in found) is there, (name, n, k, last)
            if not there:
                continue
            count += 3
            assert found[f"{name}-{n}-2"].vector == struct.pack("<2f", place + n, 2)
            of = {"of": name, "n": n}
            hits = await query(vectors, "i", [1, 0], filter=of)
            assert hits == [f"{name}-{n}-{k}" for k in range(3)]
            hits = await query(vectors, "i", text=f"{name}{n}")
            assert hits == [f"{name}-{n}-{k}" for k in range(3)]
    assert await vectors.count("i") == count == len(found)
    assert {*await query(vectors, "i", [1, 0], top_k=count + 1)} == {*found}
