"""What goes wrong when a process has two SQLite libraries, and what the store makes of it.

Each hazard is shown twice: without our guard, so that it is known to be real on the machine that
runs the tests, and with it.
"""

from __future__ import annotations

import json
import platform
import sys

import apsw
import pytest

from mastra_nb.stores.sqlite import open_store
from tests.flows.processes import check, processes

# Elsewhere locks belong to handles, or there is no wheel with a second SQLite library.
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="seen on Linux")
SECOND_SQLITE = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64",
    reason="pysqlite3-binary has wheels for Linux on x86-64",
)


@pytest.fixture
def start():
    with processes() as start:
        yield start


# Two libraries on one file

UNGUARDED = """
import sqlite3
path = url.removeprefix("sqlite:///")
db = apsw.Connection(path)
db.execute("PRAGMA journal_mode = WAL").fetchall()
db.execute("CREATE TABLE t (who)")
db.execute("BEGIN IMMEDIATE")
db.execute("INSERT INTO t VALUES ('holder')")
say("held")
hear()
other = sqlite3.connect(path)
other.execute("SELECT count(*) FROM t").fetchall()
other.close()
say("closed")
hear()
db.execute("COMMIT")
say("committed")
db.close()
"""
WRITER = """
db = apsw.Connection(url.removeprefix("sqlite:///"))
try:
    db.execute("INSERT INTO t VALUES (?)", (name,))
except apsw.BusyError:
    say("busy")
else:
    say("committed")
os._exit(0)
"""


@LINUX
def test_without_the_guard_a_committed_row_is_lost(start, tmp_path):
    path = tmp_path / "s.db"
    holder = start(UNGUARDED, path, "holder")
    assert holder.stdout.readline() == "held\n"
    assert start(WRITER, path, "early").communicate(timeout=20)[0] == "busy\n"
    holder.stdin.write("go\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "closed\n"
    assert start(WRITER, path, "late").communicate(timeout=20)[0] == "committed\n"
    assert holder.communicate("go\n", timeout=20)[0] == "committed\n"
    assert holder.returncode == 0
    db = apsw.Connection(str(path))
    kept = [who for (who,) in db.execute("SELECT who FROM t")]
    db.close()
    assert len(kept) == 1, kept  # of two that were told "committed"


HOLDER = """
import sqlite3, warnings
warnings.simplefilter("ignore")

async def main():
    store = open_store(url)
    await new_run(store, name)

    tries = []

    def work(db):
        db.execute("INSERT INTO doc (kind, id, data) VALUES ('k', 'held', '1')")
        tries.append(1)
        if len(tries) > 1:
            return
        # As pandas.read_sql does. Closing drops every POSIX lock of this process on the file, and
        # deletes the WAL file that the transaction is in.
        other = sqlite3.connect(store.path)
        other.execute("SELECT count(*) FROM run").fetchall()
        other.close()
        say("held")
        hear()

    store._file.write(work)
    say(f"committed {len(tries)}")
    hear()
    await store.close()

asyncio.run(main())
"""
INTRUDER = """
from mastra_nb.stores import _sql

async def main():
    _sql.BUSY_SECONDS = 0.3
    try:
        open_store(url)
    except StorageError as exc:
        say(exc.code + " " + exc.message)
    _sql.BUSY_SECONDS = 15
    store = open_store(url)
    await store.put("k", "intruder", 1)
    say("written")
    await store.close()

asyncio.run(main())
"""
BARE = """
db = apsw.Connection(url.removeprefix("sqlite:///"))
db.execute("BEGIN IMMEDIATE")
say("entered")
db.execute("ROLLBACK")
os._exit(0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="locks belong to handles there")
async def test_a_foreign_close_lets_no_other_process_in(start, tmp_path):
    path = tmp_path / "s.db"
    holder = start(HOLDER, path, "holder")
    assert holder.stdout.readline() == "held\n"
    if sys.platform == "linux":
        # The hazard itself: without the side file another process could write now.
        bare = start(BARE, path, "bare")
        assert bare.communicate(timeout=20)[0] == "entered\n"
    intruder = start(INTRUDER, path, "intruder")
    line = intruder.stdout.readline()
    assert line.startswith("storage.locked")
    if sys.platform == "linux":
        assert f"process {holder.pid}" in line
    holder.stdin.write("go\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "committed 2\n"
    assert intruder.communicate(timeout=20)[0] == "written\n"
    assert holder.communicate("go\n", timeout=20)[0] == ""
    check(path)
    store = open_store(f"sqlite:///{path}")
    assert await store.find("k") == [("held", 1), ("intruder", 1)]
    await store.close()


# Two libraries with sqlite-vec

VEC = """
import sqlite_vec
import pysqlite3.dbapi2 as second
from mastra_nb.stores import _vec

tables = iter(range(100))

def theirs():
    db = second.connect(":memory:")
    db.enable_load_extension(True)
    sqlite_vec.load(db)
    return db

def unguarded():
    db = apsw.Connection(":memory:")
    db.enable_load_extension(True)
    db.load_extension(sqlite_vec.loadable_path())
    return db

def nearest(db):
    name = f"t{next(tables)}"
    db.execute(f"CREATE VIRTUAL TABLE {name} USING vec0 (v float[2])").fetchall()
    db.execute(f"INSERT INTO {name} (rowid, v) VALUES (1, '[1,2]'), (2, '[3,4]')").fetchall()
    found = db.execute(
        f"SELECT rowid FROM {name} WHERE v MATCH '[1,2]' AND k = 2 ORDER BY distance"
    ).fetchall()
    assert [n for (n,) in found] == [1, 2], found

def distance(db):
    return db.execute("SELECT vec_distance_L2('[3,0]', '[0,4]')").fetchall()[0][0]
"""
DIES = """
first, then = {order}
one = first()
nearest(one)
two = then()
for db in (two, one):
    try:
        nearest(db)
    except Exception as exc:
        say(str(exc))
        raise SystemExit(3)
say("alive")
"""


@SECOND_SQLITE
@pytest.mark.parametrize("order", ["theirs, unguarded", "unguarded, theirs"])
def test_without_the_guard_two_copies_of_sqlite_vec_crash_or_fail(start, tmp_path, order):
    process = start(VEC + DIES.format(order=order), tmp_path / "s.db", "p")
    said = process.communicate(timeout=20)[0]
    assert process.returncode < 0 or (process.returncode == 3 and "API misuse" in said), said


FOREIGN_FIRST = """
other = theirs()
nearest(other)
ours = apsw.Connection(":memory:")
reason = _vec.load(ours)
assert reason == _vec.load(apsw.Connection(":memory:"))
try:
    distance(ours)
except apsw.SQLError as exc:
    assert "no such function" in str(exc)
else:
    raise AssertionError("it was loaded")
nearest(other)
say(reason)
"""


@SECOND_SQLITE
def test_after_a_foreign_copy_ours_is_not_loaded(start, tmp_path):
    process = start(VEC + FOREIGN_FIRST, tmp_path / "s.db", "p")
    said = process.communicate(timeout=20)[0]
    assert process.returncode == 0
    assert said.startswith("another SQLite library") and "pysqlite3" in said


SAME_LIBRARY = """
other = unguarded()
ours = apsw.Connection(":memory:")
assert _vec.load(ours) == ""
assert distance(ours) == 5
nearest(other)
other = unguarded()
nearest(other)
assert _vec.load(ours) == ""
say("both")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="who loaded it cannot be told there")
def test_a_copy_in_the_same_library_does_no_harm(start, tmp_path):
    process = start(VEC.replace("pysqlite3.dbapi2", "sqlite3") + SAME_LIBRARY, tmp_path / "s", "p")
    assert process.communicate(timeout=20)[0] == "both\n"
    assert process.returncode == 0


GONE = """
db = theirs()
db.close()
del db
ours = apsw.Connection(":memory:")
assert _vec.load(ours) == ""
assert distance(ours) == 5
say("ours")
"""


@SECOND_SQLITE
def test_a_foreign_copy_that_is_gone_does_not_count(start, tmp_path):
    process = start(VEC + GONE, tmp_path / "s.db", "p")
    assert process.communicate(timeout=20)[0] == "ours\n"
    assert process.returncode == 0


OURS_FIRST = """
ours = [apsw.Connection(":memory:") for _ in range(2)]
assert [_vec.load(db) for db in ours] == ["", ""]
assert distance(ours[0]) == 5
other = theirs()  # it raises no audit event
reasons = {_vec.load(db) for db in (*ours, apsw.Connection(":memory:"))}
nearest(other)
ours.pop().close()
nearest(other)
(reason,) = reasons
say(reason)
"""


@SECOND_SQLITE
def test_after_ours_a_foreign_copy_makes_us_yield(start, tmp_path):
    process = start(VEC + OURS_FIRST, tmp_path / "s.db", "p")
    said = process.communicate(timeout=20)[0]
    assert process.returncode == 0
    assert said.startswith("another SQLite library") and "pysqlite3" in said


STANDARD = """
import functools, json, sqlite3, sqlite_vec
from mastra_nb.stores import _vec

def load(path):
    # Many Pythons are built without the method; what it does first is to raise this event.
    method = functools.partial(sys.audit, "sqlite3.load_extension", other)
    if hasattr(other, "enable_load_extension"):
        other.enable_load_extension(True)
        method = other.load_extension
    method(path)

other = sqlite3.connect(":memory:")
ours = apsw.Connection(":memory:")
assert _vec.load(ours) == ""
try:
    load(sqlite_vec.loadable_path())
except StorageError as exc:
    said = [exc.code, exc.message, exc.hint]
assert _vec.load(ours) == ""
assert ours.execute("SELECT vec_distance_L2('[3,0]', '[0,4]')").get == 5
# Nothing depends on ours any more.
ours.close()
del ours
load(sqlite_vec.loadable_path())
other.close()
say(json.dumps(said))
"""


def test_the_standard_library_is_refused_a_second_copy(start, tmp_path):
    process = start(STANDARD, tmp_path / "s.db", "p")
    code, message, hint = json.loads(process.communicate(timeout=20)[0])
    assert process.returncode == 0
    assert code == "storage.foreign"
    assert "sqlite-vec is in use" in message
    assert "app.vectors" in hint and "app.sql" in hint


ASKED = """
async def main():
    store = open_store(url)
    vectors, late = store.vectors, {"n": {"$gte": 97}}
    await vectors.create_index("i", dimension=2)
    await vectors.upsert(
        "i", [[1, n] for n in range(100)], ids=[str(n) for n in range(100)],
        metadata=[{"n": n} for n in range(100)],
    )
    other = theirs() if name == "foreign first" else None
    why = (await vectors.stats("i")).why
    before = await vectors.query("i", [1, 40], top_k=2, filter=late)
    engines = [(await vectors.explain("i", [1, 40], top_k=2, filter=late)).engine]
    other = other or theirs()
    assert [hit.id for hit in before] == ["97", "98"]
    assert [hit.id for hit in await vectors.query("i", [1, 40], top_k=2, filter=late)] == [
        "97", "98"]
    engines.append((await vectors.explain("i", [1, 40], top_k=2, filter=late)).engine)
    nearest(other)
    await store.close()
    nearest(other)
    say(" ".join(engines) + ": " + why)

asyncio.run(main())
"""


@SECOND_SQLITE
@pytest.mark.parametrize("name", ["foreign first", "ours first"])
def test_a_store_answers_without_sqlite_vec(start, tmp_path, name):
    process = start(VEC + ASKED, tmp_path / "s.db", name)
    said = process.communicate(timeout=20)[0]
    assert process.returncode == 0
    engines, _, why = said.partition(": ")
    if name == "ours first":
        assert engines == "sqlite-vec exact"
    else:
        assert engines == "exact exact"
        assert "another SQLite library" in why and "pysqlite3" in why
