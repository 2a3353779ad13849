"""Several processes on one file: nothing acknowledged is lost, and one claim wins."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys

import pytest

from mastra_nb.errors import LeaseHeld
from mastra_nb.storage import RunRow
from mastra_nb.store_contract import messages, raises
from mastra_nb.stores.sqlite import open_store
from tests.flows.processes import check, processes


@pytest.fixture
def start():
    with processes() as start:
        yield start


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
