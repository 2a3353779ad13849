"""Several processes on one file: nothing acknowledged is lost, and one claim wins."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import apsw
import pytest

from mastra_nb.errors import LeaseHeld
from mastra_nb.storage import RunRow
from mastra_nb.store_contract import messages, raises
from mastra_nb.stores.sqlite import open_store

PRELUDE = """
import asyncio, os, sys, time
import apsw
from mastra_nb.errors import LeaseHeld, StorageError
from mastra_nb.store_contract import messages, new_run
from mastra_nb.storage import RunRow
from mastra_nb.stores.sqlite import open_store

url, name = sys.argv[1], sys.argv[2]

def say(text):
    os.write(1, (text + "\\n").encode())

def hear():
    return sys.stdin.readline()
"""


@pytest.fixture
def start():
    """Starts Python on PRELUDE and the given code; what is still alive at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, path: Path, name: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(code),
             f"sqlite:///{path}", name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def check(path: Path) -> None:
    db = apsw.Connection(str(path))
    assert db.execute("PRAGMA integrity_check").get == "ok"
    db.close()


WRITER = """
async def main():
    store = open_store(url)
    await new_run(store, name)
    say("ready")
    hear()
    for seq in range(1, 201):
        await store.append(name, 1, messages(name, [f"{name}-{seq}"], seq), barrier=seq % 50 == 0)
        if seq % 10 == 0:
            await store.link("t", name, range(seq - 9, seq + 1))
    await store.close()
    say("done")

asyncio.run(main())
"""


async def test_four_processes_write_one_file(start, tmp_path):
    path = tmp_path / "s.db"
    writers = [start(WRITER, path, f"w{n}") for n in range(4)]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        assert writer.communicate(timeout=30)[0] == "done\n"
        assert writer.returncode == 0
    check(path)
    store = open_store(f"sqlite:///{path}")
    for n in range(4):
        assert [e.seq for e in await store.read_events(f"w{n}")] == list(range(1, 201))
    found = await store.read_messages("t")
    assert [m.pos for m in found] == list(range(1, 801))
    assert all(m.message.text == f"{m.run}-{m.seq}" for m in found)
    await store.close()


KILLED = """
async def main():
    store = open_store(url)
    row = await store.create(RunRow(id=name, name="n", kind="k"), owner=name)
    say("0")
    for seq in range(1, 100_000):
        await store.append(name, 1, messages(name, ["x" * (seq % 3000)], seq),
                           barrier=seq % 40 == 0)
        say(str(seq))

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
async def test_what_was_acknowledged_survives_sigkill(start, tmp_path):
    path = tmp_path / "s.db"
    seen = 0
    for pair in range(4):
        names = [f"k{pair}a", f"k{pair}b"]
        writers = [start(KILLED, path, name) for name in names]
        for writer in writers:
            assert writer.stdout.readline() == "0\n"
        for writer in writers:
            await asyncio.sleep(random.random() * 0.15)
            writer.send_signal(signal.SIGKILL)
        store = open_store(f"sqlite:///{path}")
        for name, writer in zip(names, writers, strict=True):
            # Not communicate(): it reads the pipe and forgets what readline() has buffered.
            lines = writer.stdout.read().split("\n")
            writer.wait()
            # The last line may be half a number.
            acknowledged = int(lines[-2]) if len(lines) > 1 else 0
            kept = [e.seq for e in await store.read_events(name)]
            assert kept == list(range(1, len(kept) + 1))
            assert acknowledged <= len(kept) <= acknowledged + 1
            seen += acknowledged
        await store.close()
        check(path)
    assert seen > 0


CLAIMER = """
async def main():
    store = open_store(url)
    say("ready")
    hear()
    try:
        row = await store.claim("r", owner=name)
    except LeaseHeld as exc:
        say("held by " + exc.details["owner"])
    else:
        say(f"won {row.fence}")
    await store.close()

asyncio.run(main())
"""


async def test_two_processes_race_for_a_run(start, tmp_path):
    path = tmp_path / "s.db"
    store = open_store(f"sqlite:///{path}")
    await store.create(RunRow(id="r", name="n", kind="k"), owner="me", lease=0)
    racers = {name: start(CLAIMER, path, name) for name in ("a", "b")}
    for racer in racers.values():
        assert racer.stdout.readline() == "ready\n"
    for racer in racers.values():
        racer.stdin.write("go\n")
        racer.stdin.flush()
    answers = {name: racer.communicate(timeout=20)[0].strip() for name, racer in racers.items()}
    (winner,) = [name for name, answer in answers.items() if answer == "won 2"]
    (loser,) = [name for name in answers if name != winner]
    assert answers[loser] == f"held by {winner}"
    # The one that had the run before cannot write any more.
    await raises(LeaseHeld, store.append("r", 1, messages("r", ["stale"])))
    assert await store.read_events("r") == []
    await store.close()


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


async def test_processes_that_open_a_new_file_at_once(start, tmp_path):
    path = tmp_path / "s.db"
    code = """
    async def main():
        store = open_store(url)
        await store.put("k", name, name)
        await store.close()
        say("done")

    asyncio.run(main())
    """
    openers = [start(code, path, f"p{n}") for n in range(4)]
    assert [opener.communicate(timeout=30)[0] for opener in openers] == ["done\n"] * 4
    check(path)
    store = open_store(f"sqlite:///{path}")
    assert json.dumps([value for _, value in await store.find("k")]) == json.dumps(
        ["p0", "p1", "p2", "p3"]
    )
    await store.close()
