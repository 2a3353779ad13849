from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import apsw
import pytest

from mastra_nb.errors import MigrationError
from mastra_nb.events import MessageAdded, Noted, SpanEnded, SpanStarted, encode_payload
from mastra_nb.messages import Usage, user
from mastra_nb.storage import Retention, Thread
from mastra_nb.store_contract import messages, new_run
from mastra_nb.stores._errors import lock_path
from mastra_nb.stores._schema import APPLICATION_ID, MIGRATIONS
from mastra_nb.stores.sqlite import open_store

# Of the scripts that were released: a change is a new script.
FROZEN = (
    "42ae4adb892d1644d14948a09921479b68f692419e346e0c4bb18f2ab7362ab9",
    "f921594f1eed50de890eecb3e02ebc16095c149eb9e3a9ebcc139523ba9d835c",
)
BIG = encode_payload(Noted(level="info", text="x" * 70_000))


@pytest.mark.parametrize("number", range(len(FROZEN)))
def test_a_released_script_has_not_changed(number):
    assert hashlib.sha256(MIGRATIONS[number].encode()).hexdigest() == FROZEN[number]


@pytest.fixture
def path(tmp_path):
    """A file as version 1 wrote it, with rows in all tables."""
    path = tmp_path / "store.db"
    digest = hashlib.sha256(BIG).digest()
    db = apsw.Connection(str(path))
    for pragma in ("auto_vacuum = INCREMENTAL", "journal_mode = WAL"):
        db.execute(f"PRAGMA {pragma}").fetchall()
    db.execute(MIGRATIONS[0]).fetchall()
    db.execute(f"PRAGMA user_version = 1; PRAGMA application_id = {APPLICATION_ID}").fetchall()
    db.execute(
        """INSERT INTO run VALUES (7, 'r', 'n', 'agent', '{"x":1}', 'done', 'me', 3, 0.0, 'k', 't',
            'c', 'g', NULL, NULL, 10.0, 20.0)"""
    )
    event = "INSERT INTO event VALUES (?, 'r', ?, 'root', NULL, NULL, ?, NULL, 3, ?, ?, 15.0, 1)"
    text = encode_payload(MessageAdded(message=user("hi"))).decode()
    db.execute(event, (11, 1, "message-added", text, None))
    db.execute(event, (12, 2, "noted", None, digest))
    db.execute("INSERT INTO blob VALUES (?, ?)", (digest, BIG))
    db.execute("INSERT INTO thread VALUES (5, 't', 'ada', 'T', '{}', 10.0, 20.0, 4)")
    db.execute("INSERT INTO thread_message VALUES (5, 4, 11)")
    db.execute("INSERT INTO doc VALUES ('k', 'a', '[1]')")
    db.close()
    return path


async def test_a_file_of_version_1_has_everything_still(path):
    store = open_store(f"sqlite:///{path}")
    assert store._file.read(lambda db: db.execute("PRAGMA user_version").get) == 3
    row = await store.get_run("r")
    assert row is not None
    assert (row.input, row.status, row.fence, row.key, row.thread, row.resource) == (
        {"x": 1}, "done", 3, "k", "t", "",
    )  # fmt: skip
    assert [e.data.text[:1] for e in await store.read_events("r", after=1)] == ["x"]
    (message,) = await store.read_messages("t")
    assert (message.pos, message.message.text, message.at) == (4, "hi", 15.0)
    assert await store.get("k", "a") == [1]
    await new_run(store, "new", resource="ada", thread="t")
    await store.append("new", 1, messages("new", ["more"]), thread="t", status="done")
    assert [m.pos for m in await store.read_messages("t")] == [4, 5]
    await store.vectors.create_index("i", dimension=2)
    await store.vectors.upsert("i", [[1.0, 0.0]], ids=["a"], texts=["a word"])
    assert [h.id for h in await store.vectors.query("i", [1.0, 0.0], text="word")] == ["a"]
    await store.embeddings.put("m", {b"d": b"v"})
    await store.clone_thread("t", Thread(id="c"))
    done = await store.prune(Retention(threads=0, embeddings=0))
    assert (done.runs, done.threads, done.messages, done.embeddings) == (2, 2, 4, 1)
    assert await store.sql("SELECT * FROM blob") == []
    await store.close()


async def test_what_was_spent_before_version_3_is_known(path):
    db = apsw.Connection(str(path))
    db.execute(MIGRATIONS[1]).fetchall()
    db.execute("PRAGMA user_version = 2")
    event = "INSERT INTO event VALUES (?, 'r', ?, 'n/m[0]', 'n', ?, ?, ?, 3, ?, NULL, ?, 1)"
    begun = encode_payload(SpanStarted(kind="model", name="p/m")).decode()
    ended = encode_payload(SpanEnded(status="ok", usage=Usage(input=7, calls=1))).decode()
    db.execute(event, (13, 3, 1, "span-started", None, begun, 16.0))
    db.execute(event, (14, 4, None, "span-ended", "ok", ended, 17.0))
    db.close()
    store = open_store(f"sqlite:///{path}")
    (spent,) = await store.read_spent()
    assert (spent.run, spent.span, spent.name, spent.at) == ("r", "n/m[0]", "p/m", 17.0)
    assert spent.usage == Usage(input=7, calls=1)
    assert await store.read_spent(since=18.0) == []
    await store.close()


OPEN = """
import asyncio, sys
from mastra_nb.stores.sqlite import open_store
store = open_store(sys.argv[1])
asyncio.run(store.put("k", sys.argv[2], 1))
print(len(asyncio.run(store.read_messages("t"))))
asyncio.run(store.close())
"""


def test_two_processes_upgrade_one_file(path):
    args = [sys.executable, "-c", OPEN, f"sqlite:///{path}"]
    running = [subprocess.Popen([*args, name], stdout=subprocess.PIPE, text=True) for name in "xyz"]
    assert [process.communicate(timeout=30)[0] for process in running] == ["1\n"] * 3
    assert [process.returncode for process in running] == [0] * 3
    db = apsw.Connection(str(path))
    assert db.execute("PRAGMA integrity_check").get == "ok"
    assert db.execute("SELECT group_concat(id) FROM (SELECT id FROM doc ORDER BY id)").get == (
        "a,x,y,z"
    )
    db.close()


def test_a_read_only_file_of_version_1_is_named(path, monkeypatch):
    real = os.access
    monkeypatch.setattr(os, "access", lambda p, mode: mode != os.W_OK and real(p, mode))
    before = path.read_bytes()
    with pytest.raises(MigrationError, match="has version 1, this package needs 3") as caught:
        open_store(f"sqlite:///{path}")
    assert "Make the file writable" in caught.value.hint
    assert path.read_bytes() == before
    assert not lock_path(path).exists()
