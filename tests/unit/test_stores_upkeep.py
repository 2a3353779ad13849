from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter

import apsw
import pytest

from mastra_nb.errors import StorageError
from mastra_nb.storage import Pruned, Retention, Thread
from mastra_nb.store_contract import messages, new_run, raises
from mastra_nb.stores import _prune, _sql
from mastra_nb.stores._errors import lock_path
from mastra_nb.stores.sqlite import open_store

ALL = Retention(runs=0, threads=0, suspended=0, embeddings=0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store.db"


@pytest.fixture
async def store(path):
    store = open_store(f"sqlite:///{path}")
    yield store
    await store.close()


async def ended(store, id, count, **fields):
    await new_run(store, id, **fields)
    await store.append(id, 1, messages(id, ["x" * 200] * count), status="done")


async def test_a_prune_that_was_cut_off_is_finished_by_the_next(store):
    await ended(store, "r", 5 * _prune.STEP_ROWS)
    job = _prune.Prune(ALL, time.time(), "prune-1")
    plan = store._file.read(job.plan)
    for _ in range(2):
        store._file.write(lambda db: job.drop_run(db, plan.runs[0], Counter()))
    left = await store.read_events("r")
    assert 0 < len(left) < 5 * _prune.STEP_ROWS
    assert [e.seq for e in left] == list(range(1, len(left) + 1))
    row = await store.get_run("r")
    assert (row.status, row.owner) == ("cancelled", "prune-1")
    # Nobody else takes it, not even another prune, before the lease has run out.
    assert await store.prune(ALL) == Pruned()
    store._file.write(lambda db: db.execute("UPDATE run SET lease_until = 1"))
    assert (await store.prune(ALL)).runs == 1
    assert await store.sql("SELECT * FROM event") == []


async def test_what_changed_since_the_plan_stays(store):
    for id in ("talked", "forked", "claimed", "old"):
        await ended(store, id, 1)
    await store.put_thread(Thread(id="t"))
    job = _prune.Prune(ALL, time.time(), "p")
    plan = store._file.read(job.plan)
    assert (len(plan.runs), len(plan.threads)) == (4, 1)
    await store.link("t", "talked", [1])
    await new_run(store, "fork", parent_run="forked", fork_seq=1)
    await store.claim("claimed", owner="x")
    done = Counter()

    def work(db):
        assert all(job.drop_thread(db, thread, done) for thread in plan.threads)
        assert all(job.drop_run(db, run, done) for run in plan.runs)

    store._file.write(work)
    assert done == {"runs": 1}
    assert await store.get_run("old") is None
    assert len(await store.read_messages("t")) == 1


async def test_others_write_while_it_prunes(store):
    for n in range(20):
        await ended(store, f"r{n}", 100)
    slowest = 0.0
    pruning = asyncio.create_task(store.prune(ALL))
    writes = 0
    while not pruning.done():
        start = time.perf_counter()
        await store.put("k", "a", writes)
        slowest = max(slowest, time.perf_counter() - start)
        writes += 1
        await asyncio.sleep(0)
    assert (await pruning).runs == 20
    assert writes > 3
    assert await store.get("k", "a") == writes - 1


async def test_embeddings_that_are_used_stay(store):
    rows = {bytes([n]): b"v" for n in range(120)}
    await store.embeddings.put("m", rows)
    store._file.write(lambda db: db.execute("UPDATE embedding SET used = used - 10 * 86400"))
    used = dict.fromkeys(list(rows)[:20], b"v")
    assert await store.embeddings.get("m", list(used)) == used
    before = await store.sql("SELECT total(used) AS t FROM embedding")
    await store.embeddings.get("m", list(used))
    assert await store.sql("SELECT total(used) AS t FROM embedding") == before
    assert (await store.prune(Retention(embeddings=5))).embeddings == 100
    assert await store.embeddings.get("m", list(rows)) == used


async def test_vacuum_waits_for_a_lock_and_says_so(store, path):
    await ended(store, "r", 2000)
    await store.prune(Retention(runs=0))
    store._file.timeout = 0.1
    guard = _sql.Guard(lock_path(path))
    guard.acquire()
    try:
        error = await raises(StorageError, store.vacuum())
    finally:
        guard.release()
        guard.close()
    assert error.code == "storage.locked"
    assert error.hint
    assert await store.vacuum() == 0


WRITER = """
import asyncio, sys
from mastra_nb.stores.sqlite import open_store
from mastra_nb.store_contract import messages, new_run

async def main(url, id):
    store = open_store(url)
    await new_run(store, id, thread=id)
    print("ready", flush=True)
    for seq in range(1, 401):
        await store.append(id, 1, messages(id, ["x" * 500], seq), thread=id)
        await store.embeddings.put(id, {bytes([seq % 256]): b"v" * 100})
    await store.close()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_backup_while_two_processes_write(store, path, tmp_path):
    args = [sys.executable, "-c", WRITER, store.url]
    writers = [subprocess.Popen([*args, id], stdout=subprocess.PIPE, text=True) for id in "ab"]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    copies = [await store.backup(tmp_path / f"copy{n}.db") for n in range(3)]
    for writer in writers:
        writer.communicate(timeout=60)
    assert [writer.returncode for writer in writers] == [0, 0]
    for copy in copies:
        db = apsw.Connection(str(copy))
        assert db.execute("PRAGMA integrity_check").get == "ok"
        db.close()
        kept = open_store(f"sqlite:///{copy}")
        for id in "ab":
            found = await kept.read_messages(id)
            events = await kept.read_events(id)
            assert [m.pos for m in found] == [e.seq for e in events]
            assert [m.pos for m in found] == list(range(1, len(found) + 1))
        await kept.close()
    assert len(await store.read_messages("a")) == 400
