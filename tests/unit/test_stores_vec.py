from __future__ import annotations

import struct
import sys
import threading
import weakref

import apsw
import pytest

from mastra_nb.errors import StorageError
from mastra_nb.stores import _vec


@pytest.fixture
def db():
    db = apsw.Connection(":memory:")
    yield db
    db.close()


@pytest.fixture
def fresh(monkeypatch):
    """A process that has loaded nothing."""
    monkeypatch.setattr(_vec, "_refusal", "")
    monkeypatch.setattr(_vec, "_library", None)
    monkeypatch.setattr(_vec, "_loaded", weakref.WeakSet())
    monkeypatch.delitem(sys.modules, "sqlite_vec", raising=False)


def test_the_functions_are_there(db):
    assert _vec.load(db) == ""
    assert db.execute("SELECT vec_distance_L2('[3,0]', '[0,4]')").get == 5
    assert db.execute("SELECT vec_f32('[1,2]')").get == struct.pack("2f", 1, 2)
    assert _vec.load(db) == ""


def test_each_connection_has_its_own(db):
    assert _vec.load(db) == ""
    other = apsw.Connection(":memory:")
    with pytest.raises(apsw.SQLError, match="no such function"):
        other.execute("SELECT vec_version()")
    assert _vec.load(other) == ""
    assert other.execute("SELECT vec_version()").get.startswith("v0.")
    other.close()


def test_a_reader_can_have_it(tmp_path):
    path = tmp_path / "s.db"
    apsw.Connection(str(path)).execute("PRAGMA user_version = 1").fetchall()
    db = apsw.Connection(f"{path.as_uri()}?immutable=1",
                         flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)  # fmt: skip
    db.execute("PRAGMA query_only = ON").fetchall()
    db.execute("BEGIN")
    assert _vec.load(db) == ""
    assert db.execute("SELECT vec_length('[1,2,3]')").get == 3
    db.close()


def test_nothing_else_can_be_loaded_afterwards(db):
    assert _vec.load(db) == ""
    with pytest.raises(apsw.ExtensionLoadingError, match="not authorized"):
        db.load_extension("vec0")
    with pytest.raises(apsw.SQLError, match="not authorized"):
        db.execute("SELECT load_extension('vec0')").fetchall()


def test_a_closed_connection_is_no_reason_to_do_without(db):
    db.close()
    with pytest.raises(apsw.ConnectionClosedError):
        _vec.load(db)
    other = apsw.Connection(":memory:")
    assert _vec.load(other) == ""
    other.close()


def test_threads_load_at_once():
    connections = [apsw.Connection(":memory:") for _ in range(8)]
    barrier, answers = threading.Barrier(8), []

    def work(db):
        barrier.wait()
        answers.append((_vec.load(db), db.execute("SELECT vec_length('[1]')").get))
        db.close()

    threads = [threading.Thread(target=work, args=(db,)) for db in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [("", 1)] * 8


def test_a_missing_package_is_named(db, fresh, monkeypatch):
    monkeypatch.setitem(sys.modules, "sqlite_vec", None)
    assert _vec.load(db) == 'the package "sqlite-vec" is not installed'


def test_a_broken_package_is_a_reason(db, fresh, monkeypatch, tmp_path):
    package = tmp_path / "sqlite_vec"
    package.mkdir()
    (package / "__init__.py").touch()
    for suffix in ("so", "dylib", "dll"):
        (package / f"vec0.{suffix}").write_bytes(b"not a library")
    monkeypatch.syspath_prepend(tmp_path)
    assert _vec.load(db).startswith("sqlite-vec cannot be loaded here: ")
    with pytest.raises(apsw.SQLError, match="not authorized"):
        db.execute("SELECT load_extension('vec0')").fetchall()


def test_only_sqlite_vec_is_refused_to_others(db):
    assert _vec.load(db) == ""
    for path in ("/x/vec0", "/x/vec0.so", b"/x/libsqlite_vec.so", "vec0.dll", "sqlite-vec.dylib"):
        with pytest.raises(StorageError, match="sqlite-vec is in use") as caught:
            sys.audit("sqlite3.load_extension", object(), path)
        assert caught.value.hint
    for path in ("/sqlite_vec/stats.so", "mod_spatialite", "fts5"):
        sys.audit("sqlite3.load_extension", object(), path)


def test_no_event_of_another_kind_is_looked_at():
    _vec._watch("open", ())
    _vec._watch("import", ())
