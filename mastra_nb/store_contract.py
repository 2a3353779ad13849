"""What a store must do, as tests that any store can inherit.

::

    class TestMyStore(StoreContract):
        @pytest.fixture
        async def store(self):
            store = open_store("mine://…")
            yield store
            await store.close()

Every test gets a fresh, empty `store`. Run them with pytest-asyncio in auto mode.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec

from mastra_nb._thread_contract import ThreadContract
from mastra_nb._thread_contract import event as event
from mastra_nb._thread_contract import messages as messages
from mastra_nb._thread_contract import new_run as new_run
from mastra_nb._thread_contract import raises as raises
from mastra_nb.errors import Conflict, LeaseHeld, MastraError, NotFound, SchemaError, UsageError
from mastra_nb.events import (
    Custom,
    Displayed,
    Event,
    MessageAdded,
    Noted,
    Payload,
    Resumed,
    RunStatus,
    SpanEnded,
    SpanStarted,
    StateSet,
    Suspended,
    TextDelta,
    fold,
)
from mastra_nb.messages import Media, Text, ToolCall, ToolResult, Usage, assistant, user
from mastra_nb.storage import RunRow, Store, Thread

HOSTILE = (
    "",
    "' OR 1=1 --",
    '"; DROP TABLE run; --',
    "%",
    "_",
    "a%b_c\\",
    "[a-z]*?",
    "nul\0nul",
    "ünï/😀\ud7ff\ue000\U0010ffff",
    "../../etc/passwd",
    "{{ 7*7 }}",
    "NULL",
)


class StoreContract(ThreadContract):
    # The journal's runs

    async def test_create_returns_the_claimed_row(self, store: Store) -> None:
        value = {"type": "span-ended", "n": [1, 2.5, None, True, "é"], "__class__": "x"}
        before = time.time()
        row = await new_run(
            store,
            input=value,
            key="k",
            thread="t",
            code_version="c",
            graph_hash="g",
            parent_run="p",
            fork_seq=3,
        )
        assert (row.owner, row.fence, row.status) == ("me", 1, "new")
        assert before <= row.created <= time.time()
        assert before + 29 < row.lease_until
        assert row.input == value
        assert await store.get_run("r") == row
        assert await store.get_run("x") is None

    async def test_create_keeps_a_given_time(self, store: Store) -> None:
        assert (await new_run(store, created=12.5)).created == 12.5

    async def test_an_id_and_a_key_belong_to_one_run(self, store: Store) -> None:
        await new_run(store, "a", key="k")
        await raises(Conflict, new_run(store, "a"))
        error = await raises(Conflict, new_run(store, "b", key="k"))
        assert error.details["run"] == "a"
        assert await store.get_run("b") is None
        await new_run(store, "c")
        await new_run(store, "d")

    async def test_what_is_no_json_is_refused(self, store: Store) -> None:
        await raises(SchemaError, new_run(store, input=object()))
        await raises(SchemaError, store.put("kind", "id", {"x": {1, 2}, "y": object()}))
        assert await store.get_run("r") is None
        assert await store.get("kind", "id") is None

    async def test_claim_waits_for_the_lease(self, store: Store) -> None:
        await store.create(RunRow(id="r", name="n", kind="k"), owner="a", lease=0.15)
        error = await raises(LeaseHeld, store.claim("r", owner="b"))
        assert error.details["owner"] == "a"
        await asyncio.sleep(0.2)
        row = await store.claim("r", owner="b")
        assert (row.owner, row.fence) == ("b", 2)
        assert await store.get_run("r") == row
        await raises(LeaseHeld, store.claim("r", owner="a"))

    async def test_an_owner_claims_again(self, store: Store) -> None:
        await new_run(store)
        assert (await store.claim("r", owner="me")).fence == 2
        await raises(LeaseHeld, store.append("r", 1, messages("r", ["x"])))
        await store.append("r", 2, messages("r", ["x"]))

    async def test_an_unknown_run_is_not_found(self, store: Store) -> None:
        await raises(NotFound, store.claim("x", owner="me"))
        await raises(NotFound, store.append("x", 1, []))
        await raises(NotFound, store.renew("x", 1))
        assert await store.read_events("x") == []

    # The journal's events

    async def test_events_come_back_as_they_were(self, store: Store) -> None:
        await new_run(store)
        data: list[Payload] = [
            SpanStarted(kind="agent", name="a", input={"x": [1, None]}, attempt=2),
            MessageAdded(
                message=user("hi", Media(mime="image/png", data=b"\0\xff")), finish="stop"
            ),
            MessageAdded(
                message=assistant(
                    Text(text="t", extra={"p": {"sig": "s"}}), ToolCall(id="1", name="f", args="{")
                )
            ),
            MessageAdded(message=user(ToolResult(id="1", name="f", output={"type": "text"}))),
            StateSet(key="k", value={"type": "tool-call"}),
            Displayed(bundle={"text/html": "<b>"}),
            Noted(level="info", text="\0 \u2028 😀"),
            Custom(name="n", value=[]),
            Suspended(path="root/a", reason="r", schema={"type": "object"}),
            Resumed(path="root/a", value=False),
            SpanEnded(status="ok", output="o", usage=Usage(input=1, calls=1, cost=0.5)),
        ]
        events = [event("r", seq, item, f"root/s[{seq}]") for seq, item in enumerate(data, 1)]
        await store.append("r", 1, events[:4])
        await store.append("r", 1, events[4:], barrier=True)
        assert await store.read_events("r") == events
        assert await store.read_events("r", after=9) == events[9:]
        assert await store.read_events("r", after=len(events)) == []
        assert fold(await store.read_events("r")) == fold(events)

    async def test_events_are_read_in_order_of_seq(self, store: Store) -> None:
        await new_run(store)
        a, b, c = messages("r", ["a", "b", "c"], first=11)
        await store.append("r", 1, [b])
        await store.append("r", 1, [c, a])
        assert [e.seq for e in await store.read_events("r")] == [11, 12, 13]

    async def test_append_is_all_or_none(self, store: Store) -> None:
        await new_run(store)
        await store.append("r", 1, messages("r", ["one"]))
        await raises(
            Conflict, store.append("r", 1, [*messages("r", ["2", "3"], 2), *messages("r", ["1"])])
        )
        await raises(Conflict, store.append("r", 1, messages("r", ["again"]), status="done"))
        await raises(Conflict, store.append("r", 1, messages("r", ["x"], 5) * 2))
        await raises(
            SchemaError, store.append("r", 1, [event("r", 2, Custom(name="n", value=open))])
        )
        assert await store.read_events("r") == messages("r", ["one"])
        row = await store.get_run("r")
        assert row is not None
        assert row.status == "new"

    async def test_only_durable_events_of_the_run_are_written(self, store: Store) -> None:
        await new_run(store)
        await raises(UsageError, store.append("r", 1, messages("other", ["x"])))
        delta = Event(run="r", seq=0, n=1, span="root", at=1.0, data=TextDelta(text="x"))
        await raises(UsageError, store.append("r", 1, [delta]))
        assert await store.read_events("r") == []

    async def test_a_path_finishes_once(self, store: Store) -> None:
        await new_run(store)
        ok, failed = SpanEnded(status="ok"), SpanEnded(status="error")
        path = "root/s"
        tries: list[Payload] = [
            SpanStarted(kind="k", name="n"),
            failed,
            SpanEnded(status="cancelled"),
            failed,
            ok,
        ]
        for seq, data in enumerate(tries, 1):
            await store.append("r", 1, [event("r", seq, data, path)])
        await raises(Conflict, store.append("r", 1, [event("r", 6, ok, path)]))
        await store.append("r", 1, [event("r", 6, ok, "root/other")])
        await new_run(store, "r2")
        twice = [event("r2", 1, ok, path), event("r2", 2, ok, path)]
        await raises(Conflict, store.append("r2", 1, twice))
        await store.append("r2", 1, twice[:1])

    async def test_an_old_fence_writes_nothing(self, store: Store) -> None:
        await store.create(RunRow(id="r", name="n", kind="k"), owner="a", lease=0.01)
        await store.append("r", 1, messages("r", ["a"]), lease=0.01)
        await asyncio.sleep(0.03)
        await store.claim("r", owner="b")
        error = await raises(LeaseHeld, store.append("r", 1, messages("r", ["b"], 2)))
        assert error.details == {"run": "r", "owner": "b", "fence": 2}
        await raises(LeaseHeld, store.append("r", 1, [], status="done"))
        await raises(LeaseHeld, store.append("r", 3, []))
        await raises(LeaseHeld, store.renew("r", 1))
        assert len(await store.read_events("r")) == 1

    async def test_append_and_renew_extend_the_lease(self, store: Store) -> None:
        await store.create(RunRow(id="r", name="n", kind="k"), owner="a", lease=0.01)
        await store.append("r", 1, [], lease=5)
        await asyncio.sleep(0.03)
        await raises(LeaseHeld, store.claim("r", owner="b"))
        await store.renew("r", 1, lease=0.01)
        await asyncio.sleep(0.03)
        assert (await store.claim("r", owner="b", lease=0.01)).fence == 2
        await store.renew("r", 2, lease=5)
        await asyncio.sleep(0.03)
        await raises(LeaseHeld, store.claim("r", owner="c"))

    async def test_a_status_that_rests_gives_the_lease_up(self, store: Store) -> None:
        resting: tuple[RunStatus, ...] = ("suspended", "done", "failed", "cancelled")
        for status in resting:
            await new_run(store, status)
            await store.append(status, 1, messages(status, ["x"]), status="running")
            await raises(LeaseHeld, store.claim(status, owner="b"))
            await store.append(status, 1, [], status=status)
            # What comes late (a score, the last heartbeat) does not take it again.
            await store.append(status, 1, messages(status, ["late"], 2))
            await store.renew(status, 1)
            row = await store.claim(status, owner="b")
            assert (row.status, row.fence) == (status, 2)
            await raises(LeaseHeld, store.claim(status, owner="c"))
            await store.append(status, 2, [], status="running")
            await raises(LeaseHeld, store.claim(status, owner="c"))

    async def test_of_many_claims_one_wins(self, store: Store) -> None:
        await store.create(RunRow(id="r", name="n", kind="k"), owner="a", lease=0)
        await asyncio.sleep(0.01)
        results = await asyncio.gather(
            *(store.claim("r", owner=f"o{n}") for n in range(8)), return_exceptions=True
        )
        assert sum(isinstance(r, RunRow) for r in results) == 1
        assert sum(isinstance(r, LeaseHeld) for r in results) == 7

    async def test_large_payloads_come_back(self, store: Store) -> None:
        await new_run(store)
        big = messages("r", ["x" * 70_000, "é" * 70_000, "x" * 70_000])
        await store.append("r", 1, big)
        await store.link("t", "r", [1, 2, 3])
        assert await store.read_events("r") == big
        assert [len(m.message.text) for m in await store.read_messages("t")] == [70_000] * 3

    async def test_many_events_come_back(self, store: Store) -> None:
        await new_run(store)
        many = messages("r", [str(n) for n in range(1200)])
        await store.append("r", 1, many)
        assert await store.read_events("r") == many

    # Runs, found and deleted

    async def test_find_runs(self, store: Store) -> None:
        for n, (id, name) in enumerate((("a1", "x"), ("a_", "y"), ("b%", "x"), ("a%2", "x"))):
            row = RunRow(id=id, name=name, kind="k", created=10.0 + n, key=f"k{n}")
            await store.create(row, owner="me")
        await store.append("a1", 1, [], status="done")

        async def ids(**terms: Any) -> list[str]:
            return [row.id for row in await store.find_runs(**terms)]

        assert await ids() == ["a%2", "b%", "a_", "a1"]
        assert await ids(name="x") == ["a%2", "b%", "a1"]
        assert await ids(status="done") == ["a1"]
        assert await ids(key="k2") == ["b%"]
        assert await ids(prefix="a") == ["a%2", "a_", "a1"]
        assert await ids(prefix="a%") == ["a%2"]
        assert await ids(prefix="a_") == ["a_"]
        assert await ids(prefix="A") == []
        assert await ids(name="x", prefix="a", limit=1, offset=1) == ["a1"]
        assert await ids(limit=0) == []
        assert await ids(limit=10**30, offset=3) == ["a1"]
        assert await ids(limit=-1) == []

    async def test_runs_are_found_by_what_they_were_given_and_counted(self, store: Store) -> None:
        for id, name, asked in (("a", "Weather", "in OSLO"), ("b", "clerk", {"city": "oslo, 5%"})):
            await store.create(RunRow(id=id, name=name, kind="agent", input=asked), owner="me")
        await store.append("a", 1, [], status="done")

        async def ids(text: str) -> list[str]:
            found = sorted(row.id for row in await store.find_runs(text=text))
            assert await store.count_runs(text=text) == len(found)
            return found

        assert await ids("oslo") == await ids("Oslo") == await ids("") == ["a", "b"]
        assert await ids("weath") == ["a"]
        assert await ids("5%") == ["b"]
        assert await ids("%") == ["b"]
        assert await ids("' OR 1=1 --") == []
        assert await store.count_runs() == 2
        assert await store.count_runs(status="done", name="Weather") == 1
        assert await store.count_runs(status="done", text="5%") == 0

    async def test_what_was_spent_is_read_by_time_and_by_run(self, store: Store) -> None:
        for n, run in enumerate("ab"):
            await new_run(store, run)
            begun = SpanStarted(kind="model", name=f"p/{run}", input={"new": "x" * 70_000 * n})
            used = Usage(input=n + 1, output=2, cost=0.5, calls=1)
            first, path = 1 + 10 * n, f"{run}/m[0]"
            await store.append(
                run,
                1,
                [
                    event(run, first, SpanStarted(kind="agent", name=run), run),
                    event(run, first + 1, begun, path),
                    event(run, first + 2, SpanEnded(status="ok", usage=used), path),
                    event(run, first + 3, SpanEnded(status="ok", output={"usage": {}}), run),
                ],
            )
        spent = await store.read_spent()
        assert [(s.run, s.span, s.name, s.at) for s in spent] == [
            ("a", "a/m[0]", "p/a", 1003.5),
            ("b", "b/m[0]", "p/b", 1013.5),
        ]
        assert spent[1].usage == Usage(input=2, output=2, cost=0.5, calls=1)
        assert [s.run for s in await store.read_spent(since=1013.5)] == ["b"]
        assert [s.run for s in await store.read_spent(runs=["b", "nobody"])] == ["b"]
        assert await store.read_spent(runs=[]) == []

    async def test_a_run_is_deleted_unless_something_needs_it(self, store: Store) -> None:
        assert await store.delete_run("r") is False
        await new_run(store, "r")
        await raises(Conflict, store.delete_run("r"))
        await store.append("r", 1, [event("r", 1, Noted(level="info", text="x" * 100_000))])
        await store.append("r", 1, [event("r", 2, MessageAdded(message=user("hi")))], status="done")
        fork = RunRow(id="f", name="a", kind="agent", parent_run="r", fork_seq=1)
        row = await store.create(fork, owner="me")
        await raises(Conflict, store.delete_run("r"))
        await store.append("f", row.fence, [], status="cancelled")
        assert await store.delete_run("f")
        await store.link("t", "r", [2])
        await raises(Conflict, store.delete_run("r"))
        await store.delete_thread("t")
        assert await store.delete_run("r")
        assert await store.get_run("r") is None
        assert await store.read_events("r") == []
        assert await store.find_runs() == []

    async def test_runs_of_the_same_time_are_newest_first(self, store: Store) -> None:
        for id in "bca":
            await new_run(store, id, created=5.0)
        assert [row.id for row in await store.find_runs()] == ["a", "c", "b"]

    # Names

    async def test_hostile_names_are_only_names(self, store: Store) -> None:
        for name in HOSTILE:
            await store.create(
                RunRow(id=name, name=name, kind=name, key=name, thread=name), owner=name
            )
            await store.append(name, 1, [event(name, 1, MessageAdded(message=user(name)), name)])
            await store.put_thread(Thread(id=name, resource=name, title=name))
            await store.link(name, name, [1])
            await store.put(name, name, {name: name})
        for name in HOSTILE:
            row = await store.get_run(name)
            assert row is not None
            assert (row.id, row.name, row.kind, row.key, row.owner) == (name,) * 5
            assert [r.id for r in await store.find_runs(name=name)] == [name]
            assert [r.id for r in await store.find_runs(key=name)] == [name]
            found = [r.id for r in await store.find_runs(prefix=name)]
            assert set(found) == {n for n in HOSTILE if n.startswith(name)}
            assert [t.id for t in await store.find_threads(resource=name)] == [name]
            assert [m.message.text for m in await store.read_messages(name)] == [name]
            assert await store.find(name) == [(name, {name: name})]
        assert len(await store.find_runs()) == len(HOSTILE)

    async def test_text_that_is_no_unicode_is_refused(self, store: Store) -> None:
        bad = "\ud800"
        for call in (
            new_run(store, bad), store.get_run(bad), store.claim(bad, owner="me"),
            store.append(bad, 1, []), store.find_runs(prefix=bad), store.read_events(bad),
            store.put_thread(Thread(id=bad)), store.get_thread(bad), store.link(bad, "r", []),
            store.find_threads(resource=bad), store.read_messages(bad), store.delete_thread(bad),
            store.put("k", bad, 1), store.put("k", "a", bad), store.get("k", bad),
            store.find("k", prefix=bad), store.delete("k", bad),
        ):  # fmt: skip
            await raises(UsageError, call)

    # The store

    async def test_close_twice_and_then_nothing(self, store: Store) -> None:
        await new_run(store)
        await store.close()
        await store.close()
        for call in (
            store.get_run("r"), store.append("r", 1, []), store.read_messages("t"),
            store.put("k", "a", 1), store.find("k"),
        ):  # fmt: skip
            assert (await raises(MastraError, call)).code == "storage.closed"

    async def test_writers_at_once_lose_nothing(self, store: Store) -> None:
        async def work(n: int) -> None:
            await new_run(store, f"r{n}")
            for seq in range(1, 21):
                barrier = seq % 10 == 0
                await store.append(f"r{n}", 1, messages(f"r{n}", ["x"], seq), barrier=barrier)
                await store.link("t", f"r{n}", [seq])

        await asyncio.gather(*(work(n) for n in range(5)))
        found = await store.read_messages("t")
        assert [m.pos for m in found] == list(range(1, 101))
        assert len({(m.run, m.seq) for m in found}) == 100

    async def test_rows_are_json(self, store: Store) -> None:
        row = await new_run(store, input=(1, 2))
        assert row.input == [1, 2]
        assert msgspec.json.decode(msgspec.json.encode(row), type=RunRow) == row
