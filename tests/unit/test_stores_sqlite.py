from __future__ import annotations

import asyncio
import json

import pytest

from mastra_nb import Mastra, Workflow, step
from mastra_nb.errors import ConfigError, Conflict, StorageError
from mastra_nb.events import Custom, Event
from mastra_nb.storage import Retention, RunRow
from mastra_nb.store_contract import event, messages, new_run, raises
from mastra_nb.stores import _sql
from mastra_nb.stores.sqlite import open_store


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store.db"


@pytest.fixture
async def store(path):
    store = open_store(f"sqlite:///{path}")
    yield store
    await store.close()


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://:memory:"]
)
def test_a_store_in_memory_has_its_own_url(url):
    with pytest.raises(ConfigError, match="memory://"):
        open_store(url)


@pytest.mark.parametrize("url", ["sqlite:x.db", "postgresql://x", "sqlite:///x.db?mode=ro", "x.db"])
def test_another_url_is_refused(url):
    with pytest.raises(ConfigError, match="sqlite:///relative.db"):
        open_store(url)


async def test_urls_are_relative_or_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for url, name in (("sqlite:///a.db", "a.db"), (f"sqlite:///{tmp_path}/b%20c.db", "b c.db")):
        store = open_store(url)
        assert store.path == (tmp_path / name).resolve()
        assert store.url == url
        await store.close()
        assert (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("url", "synced"), [("", 1), ("?synchronous=full", 1), ("?synchronous=normal", 0)]
)
async def test_a_barrier_waits_for_the_disk_unless_the_url_says_otherwise(path, url, synced):
    store = open_store(f"sqlite:///{path}{url}")
    await new_run(store, "r")
    done: list[str] = []

    def seen(db, statement, values):
        done.append(statement)
        return True

    store._file._writer.exec_trace = seen
    await store.append("r", 1, [event("r", 1, Custom(name="n"))], status="done", barrier=True)
    assert done.count("PRAGMA synchronous = FULL") == synced
    assert (await store.get_run("r")).status == "done"
    await store.close()


async def test_a_step_is_one_commit_and_the_end_of_a_run_another(path):
    async def inc(n: int) -> int:
        return n + 1

    app = Mastra(storage=f"sqlite:///{path}?synchronous=normal")
    flow = app.add(Workflow(name="w", input=int).then(step(inc, id="a")).then(step(inc, id="b")))
    await flow.run(0)
    commits = 0

    def seen(db, statement, values):
        nonlocal commits
        commits += statement == "COMMIT"
        return True

    flow.services.store._file._writer.exec_trace = seen
    run = flow.run(0)
    assert await run == 2
    assert commits == 4  # of its making, of two steps, of its end
    again = await app.get_run(run.id)
    assert (again.status, again.output) == ("done", 2)
    await app.close()


async def test_what_a_step_writes_is_checked_like_anything_else(store):
    await new_run(store, "r")
    await store.append("r", 1, [event("r", 1, Custom(name="n")), event("r", 2, Custom(name="n"))])
    with pytest.raises(Conflict):
        await store.append(
            "r", 1, [event("r", 3, Custom(name="n")), event("r", 2, Custom(name="n"))]
        )
    assert [e.seq for e in await store.read_events("r")] == [1, 2]
    before = (await store.get_run("r")).lease_until
    await store.append("r", 1, [event("r", 3, Custom(name="n"))], lease=1000)
    assert (await store.get_run("r")).lease_until > before + 900


async def test_equal_large_payloads_are_stored_once_and_pruned(store):
    data = Custom(name="n", value="x" * 100_000)
    for id in ("a", "b"):
        await new_run(store, id)
        await store.append(id, 1, [event(id, seq, data) for seq in (1, 2)], status="done")
    count = "SELECT count(*) AS n, sum(length(data)) AS size FROM blob"
    (row,) = await store.sql(count)
    assert row["n"] == 1
    assert await store.sql("SELECT payload FROM event WHERE payload IS NOT NULL") == []
    await store.claim("b", owner="me")
    await store.prune(Retention(runs=0))
    assert (await store.sql(count))[0]["n"] == 1
    assert (await store.read_events("b"))[0].data == data
    await store.append("b", 2, [], status="done")
    await store.prune(Retention(runs=0))
    assert (await store.sql(count))[0]["n"] == 0


@pytest.mark.parametrize("size", [150, 600, 1100, 2100, 5000])
async def test_the_journal_is_linear_in_new_data(path, size):
    store = open_store(f"sqlite:///{path}")
    await store.close()
    empty = path.stat().st_size
    store = open_store(f"sqlite:///{path}")
    await new_run(store)
    payload = 0
    for first in range(1, 1001, 10):
        batch = messages("r", [f"{n} " + "x" * size for n in range(first, first + 10)], first)
        payload += sum(len(json.dumps({"text": e.data.message.text})) for e in batch)
        await store.append("r", 1, batch)
        await store.link("t", "r", range(first, first + 10))
    await store.append("r", 1, [], status="done")
    await store.close()
    assert path.stat().st_size < 3 * payload + empty
    store = open_store(f"sqlite:///{path}")
    done = await store.prune(Retention(runs=0, threads=0))
    assert (done.runs, done.threads, done.messages) == (1, 1, 1000)
    assert done.bytes > payload
    await store.close()
    assert path.stat().st_size < empty + 20_000


async def test_the_log_is_moved_into_the_file(store, path):
    await new_run(store)
    for seq in range(1, 4001):
        await store.append("r", 1, messages("r", ["x" * 900], seq))
        if not seq % 50:
            # What moves it is a thread, which a busy machine does not run at once.
            await asyncio.sleep(0.01)
    assert path.stat().st_size > 1_000_000
    wal = path.with_name(path.name + "-wal").stat().st_size
    assert wal < 4096 * _sql.CHECKPOINT_PAGES * 2


async def test_sql_gives_dicts(store):
    await new_run(store, input={"x": [1]})
    assert await store.sql("SELECT id, fence FROM run WHERE id = ?", "r") == [
        {"id": "r", "fence": 1}
    ]
    assert await store.sql("SELECT a.id, b.id, 1 AS id_2 FROM run a, run b") == [
        {"id": "r", "id_2": "r", "id_2_2": 1}
    ]
    assert await store.sql("SELECT input ->> '$.x[0]' AS x FROM run") == [{"x": 1}]
    assert await store.sql("SELECT * FROM doc") == []
    assert await store.sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
                           "LIMIT 3) SELECT sum(i) AS s FROM n") == [{"s": 6}]  # fmt: skip


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM run",
        "INSERT INTO doc VALUES ('k', 'a', '1')",
        "UPDATE run SET fence = 9",
        "DROP TABLE run",
        "CREATE TEMP TABLE t (x)",
        "ATTACH '/tmp/other.db' AS other",
        "VACUUM INTO '/tmp/copy.db'",
        "PRAGMA query_only = OFF",
        "PRAGMA journal_mode = DELETE",
        "BEGIN IMMEDIATE",
        "SELECT 1; DELETE FROM run",
        "WITH x AS (SELECT 1) DELETE FROM run",
    ],
)
async def test_sql_only_reads(store, query):
    await new_run(store)
    error = await raises(StorageError, store.sql(query))
    assert error.code == "storage.readonly"
    row = await store.get_run("r")
    assert row is not None
    assert row.fence == 1
    await store.put("k", "a", 1)


@pytest.mark.parametrize(
    ("query", "args"),
    [
        ("SELEC 1", ()),
        ("SELECT * FROM nothing", ()),
        ("SELECT ?", ()),
        ("SELECT ?", (1, 2)),
        ("SELECT ?", (object(),)),
        ("SELECT load_extension('x')", ()),
    ],
)
async def test_a_mistake_in_a_query_is_told(store, query, args):
    error = await raises(StorageError, store.sql(query, *args))
    assert error.code == "storage.sql"
    assert error.hint


async def test_a_cancelled_query_stops(store):
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(store.sql(endless), 0.05)
    assert await store.sql("SELECT 1 AS x") == [{"x": 1}]


async def test_a_query_that_runs_does_not_stop_close(store, path):
    await store.put("k", "a", 1)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    query = asyncio.create_task(store.sql(endless))
    await asyncio.sleep(0.05)
    await asyncio.wait_for(store.close(), 5)
    error = await raises(StorageError, query)
    assert error.code == "storage.interrupted"


async def test_backup_while_in_use(store, tmp_path):
    await new_run(store)
    target = tmp_path / "copy.db"

    async def write() -> None:
        for seq in range(1, 201):
            await store.append("r", 1, messages("r", ["x" * 500], seq))
            await asyncio.sleep(0)

    writing = asyncio.create_task(write())
    await asyncio.sleep(0.005)
    assert await store.backup(target) == target
    await writing
    assert not list(tmp_path.glob("copy.db?*"))
    copy = open_store(f"sqlite:///{target}")
    kept = await copy.read_events("r")
    assert [e.seq for e in kept] == list(range(1, len(kept) + 1))
    assert await copy.sql("SELECT * FROM run") == [
        {**row, "updated": row["updated"]} for row in await copy.sql("SELECT * FROM run")
    ]
    await copy.close()
    await raises(Conflict, store.backup(target))
    await raises(Conflict, store.backup(store.path))
    error = await raises(StorageError, store.backup(tmp_path / "nowhere" / "copy.db"))
    assert error.code == "storage.open"


async def test_an_unknown_payload_of_a_newer_version_is_kept(store):
    await new_run(store)
    await store.append("r", 1, messages("r", ["x"]))
    store._file.write(
        lambda db: db.execute("""UPDATE event SET payload = '{"type":"hologram","x":1}'""")
    )
    (found,) = await store.read_events("r")
    assert isinstance(found, Event)
    assert found.data == Custom(name="hologram", value={"x": 1})


async def test_a_run_row_of_every_field(store):
    row = await store.create(
        RunRow(id="r", name="n", kind="k", thread="t", parent_run="p", fork_seq=0, key=""),
        owner="o",
    )
    assert await store.get_run("r") == row
