"""LangGraph's conformance suite for checkpointers judges our stores, and what it leaves out."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import ALL_CAPABILITIES
from langgraph.checkpoint.serde.types import ERROR

from mastra_nb.stores import _vec, memory, sqlite
from tests.contract.backends import in_threads
from tests.contract.checkpointer import CHANNEL, StoreSaver
from tests.flows.processes import check, processes


def at(thread, ns="", **more):
    return {"configurable": {"thread_id": thread, "checkpoint_ns": ns, **more}}


async def put(saver, config, step=0, *, versions=None, ts=None, **values):
    """A checkpoint with these values; `versions` are those of channels that did not change."""
    new = {name: saver.get_next_version(None, None) for name in values}
    checkpoint = empty_checkpoint()
    checkpoint["ts"] = ts or checkpoint["ts"]
    checkpoint["channel_values"] = values
    checkpoint["channel_versions"] = {**(versions or {}), **new}
    return await saver.aput(config, checkpoint, {"source": "loop", "step": step}, new)


async def listed(saver, config):
    return [found async for found in saver.alist(config)]


class TestMemoryStore:
    @pytest.fixture
    def fresh(self):
        return lambda: memory.open_store("memory://")

    @pytest.fixture
    async def saver(self, fresh):
        store = fresh()
        yield StoreSaver(store)
        await store.close()

    async def test_full_marks(self, fresh) -> None:
        @checkpointer_test(name=type(self).__name__.removeprefix("Test"))
        async def registered():
            store = fresh()
            yield StoreSaver(store)
            await store.close()

        report = await validate(registered)
        report.print_report()
        for name, result in report.results.items():
            print(f"    {name:16} {result.tests_passed} passed, {result.tests_failed} failed")
        assert {name: result.failures for name, result in report.results.items()} == {
            capability.value: [] for capability in ALL_CAPABILITIES
        }
        assert all(r.passed and r.tests_passed for r in report.results.values())
        assert report.conformance_level() == "FULL"

    async def test_what_is_deleted_leaves_nothing(self, saver) -> None:
        for thread in ("a", "a/", "%61", "b"):
            parent = at(thread)
            for step in range(3):
                parent = await put(saver, parent, step, big="x" * 100_000 + str(step))
                await saver.aput_writes(parent, [("c", step)], "task")
        await saver.acopy_thread("b", "c")
        await saver.aprune(["b"])
        await saver.adelete_thread("a")
        assert [len(await listed(saver, at(t))) for t in ("a", "a/", "%61", "b", "c")] == [
            0, 3, 3, 1, 3,
        ]  # fmt: skip
        # A checkpoint, its writes and its channel.
        assert len(await saver.store.find_runs(limit=100)) == 2 * (3 + 3 + 1 + 3)
        assert len(await saver.store.find(CHANNEL)) == 3 + 3 + 1 + 3
        for thread in ("a/", "%61", "b", "c"):
            await saver.aprune([thread], strategy="delete")
        assert await saver.store.find_runs() == []
        assert await saver.store.find(CHANNEL) == []

    async def test_tasks_write_at_once(self, saver) -> None:
        others = [saver, StoreSaver(saver.store)]
        checkpoint = empty_checkpoint()
        where = at("t", checkpoint_id=checkpoint["id"])
        tasks = [f"task/{n:02}" for n in range(12)]
        # As it happens when the checkpoint is written in the background.
        await asyncio.gather(
            *(
                others[n % 2].aput_writes(
                    where, [("c", n), ("d", n), (ERROR, "e")], task, f"~{n:02}"
                )
                for n, task in [*enumerate(tasks)] * 2
            ),
            saver.aput(at("t"), checkpoint, {"source": "loop", "step": 0}, {}),
        )
        found = await saver.aget_tuple(at("t"))
        assert found is not None
        assert found.pending_writes == [
            write
            for n, task in enumerate(tasks)
            for write in ((task, ERROR, "e"), (task, "c", n), (task, "d", n))
        ]

    async def test_large_and_odd_values_come_back(self, saver) -> None:
        values = {"blob": random.Random(7).randbytes(2_000_000), "nul\0/ü": {("a", 1): {1, 2}}}
        stored = await put(saver, at("t\0", "ü|x:1"), **values)
        found = await saver.aget_tuple(stored)
        assert found is not None and found.checkpoint["channel_values"] == values
        assert found.config == stored

    async def test_checkpoints_of_one_moment_keep_their_order_and_share_channels(self, saver):
        ts = empty_checkpoint()["ts"]
        parent = await put(saver, at("t"), ts=ts, kept="k", own=0)
        first = await saver.aget_tuple(parent)
        shared = {"kept": first.checkpoint["channel_versions"]["kept"]}
        stored = []
        for step in range(1, 6):
            parent = await put(saver, parent, step, versions=shared, ts=ts, own=step)
            stored.append(parent)
        await saver.acopy_thread("t", "copy")
        for thread in ("t", "copy"):
            newest = await listed(saver, at(thread))
            assert [c.metadata["step"] for c in newest] == [5, 4, 3, 2, 1, 0]
            assert [c.checkpoint["channel_values"] for c in newest] == [
                {"kept": "k", "own": step} for step in (5, 4, 3, 2, 1, 0)
            ]
        await saver.aprune(["t"])
        (left,) = await listed(saver, at("t"))
        assert left.config == stored[-1]
        assert left.checkpoint["channel_values"] == {"kept": "k", "own": 5}
        assert len(await saver.store.find(CHANNEL, prefix="t/")) == 2
        assert len(await listed(saver, at("copy"))) == 6

    async def test_pruning_keeps_what_a_delta_channel_is_made_of(self, saver) -> None:
        versions = {"log": saver.get_next_version(None, None)}
        parent, ids = at("t"), []
        for step in range(6):
            checkpoint = empty_checkpoint()
            checkpoint["channel_versions"] = dict(versions)
            new = {}
            if step in (0, 3):
                checkpoint["channel_versions"] = new = {"log": f"{step + 2}.x"}
                checkpoint["channel_values"] = {"log": [f"whole {step}"]}
            facts = {"counters_since_delta_snapshot": {"log": [step, step]}}
            parent = await saver.aput(parent, checkpoint, facts, new)
            ids.append(checkpoint["id"])
            await saver.aput_writes(parent, [("log", step)], f"task{step}")
        before = await saver.aget_delta_channel_history(config=parent, channels=["log"])
        assert before["log"] == {
            "seed": ["whole 3"],
            "writes": [("task3", "log", 3), ("task4", "log", 4)],
        }
        await saver.aprune(["t"])
        kept = [found.checkpoint["id"] for found in await listed(saver, at("t"))]
        assert kept == ids[:2:-1]
        assert await saver.aget_delta_channel_history(config=parent, channels=["log"]) == before


class TestSQLiteStore(TestMemoryStore):
    @pytest.fixture
    def fresh(self, tmp_path):
        files = iter(range(100))
        return lambda: sqlite.open_store(f"sqlite:///{tmp_path}/{next(files)}.db")


class TestSQLiteStoreInThreads(TestSQLiteStore):
    """The path that a busy file takes: every call waits for a thread."""

    @pytest.fixture(autouse=True)
    def threads(self, monkeypatch):
        in_threads(monkeypatch)


class TestSQLiteStoreWithoutSQLiteVec(TestSQLiteStore):
    @pytest.fixture(autouse=True)
    def without(self, monkeypatch):
        monkeypatch.setattr(_vec, "load", lambda db: "it is not installed")


KILLED = """
import json
from tests.contract.checkpointer import StoreSaver
from tests.contract.test_checkpointer import at, put

async def main():
    saver = StoreSaver(open_store(url), barrier=name.endswith("b"))
    parent = at(name)
    for step in range(100_000):
        parent = await put(saver, parent, step, big=[step] * (step % 700), small=step)
        await saver.aput_writes(parent, [("c", step)], "task")
        say(json.dumps(parent))

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
async def test_acknowledged_checkpoints_survive_sigkill(tmp_path) -> None:
    path = tmp_path / "s.db"
    with processes() as start:
        names = ["ka", "kb"]
        writers = [start(KILLED, path, name) for name in names]
        heard = [[writer.stdout.readline() for _ in range(10)] for writer in writers]
        for writer in writers:
            await asyncio.sleep(random.random() * 0.2)
            writer.send_signal(signal.SIGKILL)
        said = [
            # The last line may be half a one.
            [json.loads(line) for line in [*lines, *writer.stdout.read().split("\n")[:-1]]]
            for lines, writer in zip(heard, writers, strict=True)
        ]
    check(path)
    store = sqlite.open_store(f"sqlite:///{path}")
    saver = StoreSaver(store)
    for name, acknowledged in zip(names, said, strict=True):
        assert len(acknowledged) >= 10
        found = (await listed(saver, at(name)))[::-1]
        # One more may be there: written, and the process killed before it could say so.
        assert [c.config for c in found][: len(acknowledged)] == acknowledged
        assert len(found) <= len(acknowledged) + 1
        for step, c in enumerate(found):
            values = c.checkpoint["channel_values"]
            assert values == {"big": [step] * (step % 700), "small": step}
            assert c.metadata["step"] == step
            assert c.parent_config == (found[step - 1].config if step else None)
            if step < len(acknowledged):
                assert c.pending_writes == [("task", "c", step)]
        last = await put(saver, found[-1].config, 1)
        assert (await saver.aget_tuple(at(name))).config == last
    await store.close()
