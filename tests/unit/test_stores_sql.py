from __future__ import annotations

import asyncio
import gc
import json
import os
import sqlite3
import sys
import textwrap
import threading
import time
from pathlib import Path

import apsw
import pytest

from mastra_nb.errors import MigrationError, StorageError
from mastra_nb.store_contract import messages, new_run, raises
from mastra_nb.stores import _sql, sqlite
from mastra_nb.stores._errors import check_sqlite, lock_path
from mastra_nb.stores._schema import APPLICATION_ID, MIGRATIONS
from mastra_nb.stores.sqlite import ForeignConnectionWarning, open_store


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store.db"


@pytest.fixture
async def store(path):
    store = open_store(f"sqlite:///{path}")
    yield store
    await store.close()


def refused(path: Path, kind: type[StorageError] = StorageError) -> StorageError:
    """The error of opening `path`, which must leave the file and its folder alone."""
    before = path.read_bytes()
    files = sorted(p.name for p in path.parent.iterdir())
    with pytest.raises(kind) as caught:
        open_store(f"sqlite:///{path}")
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == files
    assert caught.value.hint
    return caught.value


def foreign(path: Path, *scripts: str) -> None:
    """Makes a file without leaving a connection behind."""
    db = apsw.Connection(str(path))
    for script in scripts:
        db.execute(script).fetchall()
    db.close()


# Opening


def test_an_old_sqlite_is_refused():
    for version in ("3.51.2", "3.40.1", "3.7.0"):
        with pytest.raises(StorageError, match=version) as caught:
            check_sqlite(version)
        assert caught.value.code == "storage.sqlite_old"
    for version in ("3.51.3", "3.54.1", "4.0.0"):
        check_sqlite(version)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(StorageError, match='"[^"]*nowhere"') as caught:
        open_store(f"sqlite:///{tmp_path}/nowhere/x.db")
    assert caught.value.code == "storage.open"


async def test_the_settings_of_the_file(store):
    def settings(db):
        return [
            db.execute(f"PRAGMA {name}").get
            for name in ("journal_mode", "synchronous", "auto_vacuum", "mmap_size")
        ]

    assert store._file.write(settings) == ["wal", 1, 2, 0]
    assert store._file.write(settings, barrier=True)[1] == 2
    assert store._file.write(settings)[1] == 1
    tables = await store.sql("SELECT sql FROM sqlite_schema WHERE type = 'table'")
    ours = [row["sql"] for row in tables if "vector_text" not in row["sql"]]
    assert len(ours) == 10 + ("sqlite_sequence(name,seq)" in str(ours))
    assert all("STRICT" in sql for sql in ours if "sqlite_sequence" not in sql)


@pytest.mark.parametrize("content", [b"not a database, but long enough to be one" * 40, b"x"])
def test_a_file_that_is_no_database_is_left_alone(path, content):
    path.write_bytes(content)
    assert refused(path).code == "storage.corrupt"


async def test_a_damaged_page_is_found_when_it_is_read(path):
    await open_store(f"sqlite:///{path}").close()
    empty = path.stat().st_size
    store = open_store(f"sqlite:///{path}")
    await new_run(store)
    await store.append("r", 1, messages("r", ["x" * 3000] * 50))
    await store.close()
    data = bytearray(path.read_bytes())
    data[empty:] = os.urandom(len(data) - empty)
    path.write_bytes(data)
    store = open_store(f"sqlite:///{path}")
    error = await raises(StorageError, store.read_events("r"))
    assert error.code == "storage.corrupt"
    assert isinstance(error.__cause__, apsw.Error)
    await store.close()


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_the_file_of_another_program_is_left_alone(path, mode):
    foreign(path, f"PRAGMA journal_mode = {mode}", "CREATE TABLE t (x)", "INSERT INTO t VALUES (1)")
    assert refused(path).code == "storage.foreign"
    foreign(path, "PRAGMA application_id = 77")
    assert refused(path).code == "storage.foreign"


async def test_an_empty_file_becomes_a_store(path):
    path.touch()
    store = open_store(f"sqlite:///{path}")
    await store.put("k", "a", 1)
    await store.close()
    store = open_store(f"sqlite:///{path}")
    assert await store.get("k", "a") == 1
    await store.close()


async def test_a_newer_file_is_refused(path):
    await open_store(f"sqlite:///{path}").close()
    newer = len(MIGRATIONS) + 1
    foreign(path, f"PRAGMA user_version = {newer}")
    error = refused(path, MigrationError)
    assert f"version {newer}" in error.message
    assert "pip install -U mastra-nb" in error.hint


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS) + 1))
async def test_a_file_of_every_version_is_upgraded(path, version, monkeypatch):
    monkeypatch.setattr(sqlite, "MIGRATIONS", MIGRATIONS[:version])
    store = open_store(f"sqlite:///{path}")
    store._file.write(
        lambda db: db.execute("INSERT INTO doc (kind, id, data) VALUES ('k', 'a', '[1]')")
    )
    await store.close()
    more = (*MIGRATIONS, "ALTER TABLE doc ADD COLUMN extra TEXT; CREATE TABLE later (x) ;")
    monkeypatch.setattr(sqlite, "MIGRATIONS", more)
    for _ in range(2):
        store = open_store(f"sqlite:///{path}")
        assert await store.get("k", "a") == [1]
        assert await store.sql("SELECT extra FROM doc") == [{"extra": None}]
        await store.close()


async def test_a_failing_migration_changes_nothing(path, monkeypatch):
    await open_store(f"sqlite:///{path}").close()
    monkeypatch.setattr(
        sqlite, "MIGRATIONS", (*MIGRATIONS, "CREATE TABLE half (x); CREATE TABLE doc (x)")
    )
    with pytest.raises(StorageError):
        open_store(f"sqlite:///{path}")
    monkeypatch.undo()
    store = open_store(f"sqlite:///{path}")
    assert await store.sql("SELECT * FROM sqlite_schema WHERE name = 'half'") == []
    await store.close()


# Trouble while it runs


async def test_a_full_disk_keeps_nothing_of_a_write(store):
    await new_run(store)
    await store.append("r", 1, messages("r", ["kept"]))

    def limit(pages: int) -> None:
        writer = store._file._writer
        writer.execute(f"PRAGMA max_page_count = {pages}").fetchall()

    limit(store._file.read(lambda db: db.execute("PRAGMA page_count").get) + 2)
    for size in (20_000, 300_000):
        error = await raises(StorageError, store.append("r", 1, messages("r", ["x" * size], 2)))
        assert error.code == "storage.full"
        assert error.hint
    assert await store.read_events("r") == messages("r", ["kept"])
    limit(1_000_000)
    await store.append("r", 1, messages("r", ["x" * 20_000], 2))


async def test_a_lock_of_another_process_is_waited_for_and_named(store, path):
    store._file.timeout = 0.1
    other = _sql.Guard(lock_path(path))
    other.acquire()
    try:
        error = await raises(StorageError, store.put("k", "a", 1))
        assert error.code == "storage.locked"
        if sys.platform == "linux":
            assert f"process {os.getpid()}" in error.message
        store._file.timeout = 5
        waiting = asyncio.create_task(store.put("k", "a", 2))
        await asyncio.sleep(0.03)
        assert not waiting.done()
    finally:
        other.close()
    await waiting
    assert await store.get("k", "a") == 2


async def test_a_lock_of_another_program_is_waited_for(store, path):
    store._file.timeout = 0.1
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    error = await raises(StorageError, store.put("k", "a", 1))
    assert error.code == "storage.locked"
    assert "not a store of ours" in error.message or sys.platform != "linux"
    assert await store.get("k", "a") is None
    store._file.timeout = 5
    waiting = asyncio.create_task(store.put("k", "a", 2))
    await asyncio.sleep(0.03)
    other.execute("ROLLBACK")
    await waiting
    other.close()


async def test_a_cancelled_wait_writes_nothing(store, path):
    other = _sql.Guard(lock_path(path))
    other.acquire()
    waiting = asyncio.create_task(store.put("k", "a", 1))
    await asyncio.sleep(0.02)
    waiting.cancel()
    started = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert time.monotonic() - started < 3
    other.close()
    assert await store.get("k", "a") is None


READ_ONLY = """
    import asyncio, os, sys, json
    from mastra_nb.errors import StorageError
    from mastra_nb.stores.sqlite import open_store
    if os.geteuid() == 0:
        os.setuid(65534)

    async def main(url):
        try:
            store = open_store(url)
        except StorageError as exc:
            return ["open", exc.code]
        found = await store.get("k", "a"), (await store.sql("SELECT count(*) AS n FROM doc"))
        try:
            await store.put("k", "a", 2)
        except StorageError as exc:
            found += (exc.code, bool(exc.hint))
        await store.close()
        return found

    print(json.dumps(asyncio.run(main(sys.argv[1]))))
"""


async def run_python(code: str, *args: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", textwrap.dedent(code), *args,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert not err, err.decode()
    return out.decode().strip()


@pytest.fixture
def open_folder():
    """A folder that another user can reach; pytest's own are private."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no mode there")
async def test_a_read_only_file_is_read(open_folder):
    path = open_folder / "s.db"
    store = open_store(f"sqlite:///{path}")
    await store.put("k", "a", 1)
    await store.close()
    path.chmod(0o444)
    (open_folder / "s.db.lock").unlink()
    for mode in (0o755, 0o555):
        open_folder.chmod(mode)
        answer = json.loads(await run_python(READ_ONLY, f"sqlite:///{path}"))
        assert answer == [1, [{"n": 1}], "storage.readonly", True]
    new = json.loads(await run_python(READ_ONLY, f"sqlite:///{open_folder}/new.db"))
    assert new == ["open", "storage.readonly"]
    assert [p.name for p in open_folder.iterdir()] == ["s.db"]


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no mode there")
async def test_a_read_only_file_is_followed_while_another_writes(path):
    writer = open_store(f"sqlite:///{path}")
    await writer.put("k", "a", 1)
    await writer.close()
    file = _sql.File.__new__(_sql.File)
    os_access = os.access
    try:
        os.access = lambda p, mode: mode != os.W_OK and os_access(p, mode)
        file.__init__(path, APPLICATION_ID, MIGRATIONS)
    finally:
        os.access = os_access
    read = lambda: file.read(lambda db: db.execute("SELECT data FROM doc").get)  # noqa: E731
    assert file.readonly
    assert read() == "1"
    for value in (2, 3):
        writer = open_store(f"sqlite:///{path}")
        await writer.put("k", "a", value)
        assert read() == str(value)
        await writer.close()
        assert read() == str(value)
    file.close()


# Sharing


async def test_stores_of_one_file_share_it(store, path):
    twin = open_store(f"sqlite:///{path}")
    assert twin._file is store._file
    await twin.put("k", "a", 1)
    await twin.close()
    assert await store.get("k", "a") == 1
    await raises(StorageError, twin.get("k", "a"))


async def test_a_store_that_is_dropped_gives_its_file_up(path):
    store = open_store(f"sqlite:///{path}")
    await store.put("k", "a", 1)
    file = store._file
    del store
    gc.collect()
    assert file.users == 0
    assert file._all == []
    assert sorted(p.name for p in path.parent.iterdir()) == ["store.db", "store.db.lock"]


async def test_a_new_file_at_the_same_path_is_another_one(store, path):
    await store.put("k", "a", 1)
    for part in path.parent.iterdir():
        part.unlink()
    fresh = open_store(f"sqlite:///{path}")
    assert await fresh.get("k", "a") is None
    await fresh.close()


def test_threads_with_their_own_loops(path):
    store = open_store(f"sqlite:///{path}")
    errors = []

    async def work(n: int) -> None:
        await new_run(store, f"r{n}")
        for seq in range(1, 101):
            await store.append(f"r{n}", 1, messages(f"r{n}", ["x"], seq), barrier=seq == 50)
            assert len(await store.read_events(f"r{n}", after=seq - 1)) == 1

    def thread(n: int) -> None:
        try:
            asyncio.run(work(n))
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=thread, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert errors == []
    assert asyncio.run(store.sql("SELECT count(*) AS n FROM event")) == [{"n": 400}]
    asyncio.run(store.close())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
async def test_a_forked_child_opens_its_own(store, path):
    await store.put("k", "parent", 1)
    await store.put("k", "large", "x" * 300_000)
    file, guard = store._file, _sql.Guard(lock_path(path))
    out, child_end = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            guard.close()
            assert file._all == []
            loop = asyncio.new_event_loop()
            asyncio.events._set_running_loop(None)
            assert loop.run_until_complete(store.get("k", "parent")) == 1
            assert store._file is not file
            loop.run_until_complete(store.put("k", "child", 2))
            loop.run_until_complete(store.put("k", "large", "y" * 300_000))
            loop.run_until_complete(store.close())
            status = 0
        except BaseException as exc:
            os.write(child_end, repr(exc).encode())
        os._exit(status)
    os.close(child_end)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, os.read(out, 999)
    os.close(out)
    guard.close()
    assert store._file is file
    assert await store.get("k", "child") == 2
    await store.put("k", "after", 3)
    assert [id for id, _ in await store.find("k")] == ["after", "child", "large", "parent"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
async def test_a_fork_in_a_write_keeps_no_lock(store, path):
    """The parent forks while it holds the lock; the child lives on and must not hold it too."""
    ready, go = os.pipe(), os.pipe()

    def fork(db: apsw.Connection) -> int:
        child = os.fork()
        if child == 0:
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            os._exit(0)
        return child

    child = store._file.write(fork)
    os.read(ready[0], 1)
    guard = _sql.Guard(lock_path(path))
    guard.acquire()
    guard.close()
    os.write(go[1], b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for end in (*ready, *go):
        os.close(end)


# Another SQLite library in this process


@pytest.mark.parametrize("spell", [str, os.fsencode, Path, lambda p: f"file:{p}?mode=rw"])
async def test_a_foreign_connection_is_warned_of(store, path, spell):
    name = spell(path)
    with pytest.warns(ForeignConnectionWarning, match=r"app\.sql"):
        db = sqlite3.connect(name, uri=isinstance(name, str))
    db.close()


async def test_other_files_are_not_warned_of(store, tmp_path):
    sqlite3.connect(tmp_path / "other.db").close()
    sqlite3.connect(":memory:").close()


@pytest.mark.filterwarnings("ignore::mastra_nb.stores.sqlite.ForeignConnectionWarning")
async def test_what_is_written_after_a_foreign_close_is_kept(path):
    """That library deletes the WAL file when it closes, believing to be the last user."""
    store = open_store(f"sqlite:///{path}")
    await new_run(store)
    for seq in range(1, 6):
        await store.append("r", 1, messages("r", [str(seq)], seq))
        assert len(await store.read_events("r")) == seq
        db = sqlite3.connect(path)
        assert db.execute("SELECT count(*) FROM event").fetchone() == (seq,)
        db.close()
        assert len(await store.read_events("r")) == seq
    await store.append("r", 1, messages("r", ["last"], 6))
    code = "import apsw, sys; print(apsw.Connection(sys.argv[1]).execute(sys.argv[2]).get)"
    assert await run_python(code, str(path), "SELECT count(*) FROM event") == "6"
    await store.close()
    assert await run_python(code, str(path), "PRAGMA integrity_check") == "ok"
    assert await run_python(code, str(path), "SELECT count(*) FROM event") == "6"


async def test_importing_the_package_loads_no_apsw():
    code = "import sys, mastra_nb, mastra_nb.storage; print('apsw' in sys.modules)"
    assert await run_python(code) == "False"
