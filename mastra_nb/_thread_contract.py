"""The part of `store_contract` for threads, documents, embeddings and retention."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, cast

from mastra_nb.errors import ConfigError, Conflict, MastraError, NotFound, SchemaError
from mastra_nb.events import Event, MessageAdded, Noted, Payload, RunStatus
from mastra_nb.messages import user
from mastra_nb.storage import Pruned, Retention, RunRow, Store, Thread


async def raises(kind: type[MastraError], awaitable: Awaitable[Any]) -> MastraError:
    """The error of `kind` that `awaitable` raises. Raises AssertionError if there is none."""
    try:
        value = await awaitable
    except kind as exc:
        return exc
    raise AssertionError(f"{kind.__name__} expected, but the call returned {value!r}")


def event(run: str, seq: int, data: Payload, span: str = "root") -> Event:
    parent = span.rpartition("/")[0] or None
    return Event(run=run, seq=seq, span=span, parent=parent, at=1000.5 + seq, data=data)


def messages(run: str, texts: Sequence[str], first: int = 1) -> list[Event]:
    return [
        event(run, seq, MessageAdded(message=user(text))) for seq, text in enumerate(texts, first)
    ]


async def new_run(store: Store, id: str = "r", **fields: Any) -> RunRow:
    return await store.create(RunRow(id=id, name="job", kind="agent", **fields), owner="me")


class ThreadContract:
    # Threads

    async def test_threads_are_put_found_and_deleted(self, store: Store) -> None:
        first = await store.put_thread(Thread(id="a", resource="u1", meta={"x": [1]}))
        assert first.created > 0
        await store.put_thread(Thread(id="b", resource="u2", created=5.0))
        await store.put_thread(Thread(id="c", resource="u1"))
        again = await store.put_thread(Thread(id="a", resource="u1", title="T", created=99.0))
        assert (again.created, again.title, again.meta) == (first.created, "T", {})
        assert again.updated >= first.updated
        assert await store.get_thread("a") == again
        assert await store.get_thread("x") is None
        assert [t.id for t in await store.find_threads()] == ["a", "c", "b"]
        assert [t.id for t in await store.find_threads(resource="u1")] == ["a", "c"]
        assert [t.id for t in await store.find_threads(limit=1, offset=1)] == ["c"]
        assert await store.find_threads(resource="u3") == []
        assert await store.delete_thread("a")
        assert not await store.delete_thread("a")
        assert await store.get_thread("a") is None

    async def test_a_thread_is_claimed_once(self, store: Store) -> None:
        claimed = await store.claim_thread("t", "ada")
        assert claimed == await store.get_thread("t") and claimed.resource == "ada"
        assert (await store.claim_thread("t", "bob")).resource == "ada"
        await store.put_thread(Thread(id="empty", title="T", meta={"k": 1}))
        taken = await store.claim_thread("empty", "ada")
        assert (taken.resource, taken.title, taken.meta) == ("ada", "T", {"k": 1})
        row = await new_run(store)
        await store.append(row.id, row.fence, messages("r", ["x"]))
        await store.link("used", "r", [1])
        assert (await store.claim_thread("used", "ada")).resource == ""
        both = await asyncio.gather(*(store.claim_thread("new", r) for r in ("ada", "bob")))
        assert both[0].resource == both[1].resource

    async def test_link_and_read_messages(self, store: Store) -> None:
        await new_run(store)
        await store.append("r", 1, messages("r", [str(n) for n in range(1, 6)]))
        await new_run(store, "r2")
        await store.append("r2", 1, messages("r2", ["six"]))
        assert await store.link("t", "r", [1, 2]) == 2
        assert await store.link("t", "r", [2, 3, 1, 3]) == 3
        assert await store.link("t", "r2", [1]) == 4
        assert await store.link("other", "r", [2]) == 1
        found = await store.read_messages("t")
        assert [(m.pos, m.run, m.seq, m.message.text) for m in found] == [
            (1, "r", 1, "1"), (2, "r", 2, "2"), (3, "r", 3, "3"), (4, "r2", 1, "six"),
        ]  # fmt: skip

        async def places(**terms: Any) -> list[int]:
            return [m.pos for m in await store.read_messages("t", **terms)]

        assert await places(last=2) == [3, 4]
        assert await places(last=2, upto=3) == [2, 3]
        assert await places(upto=2) == [1, 2]
        assert await places(upto=0) == []
        assert await places(last=0) == []
        assert await places(last=-1) == []
        assert await places(last=10**30, upto=10**30) == [1, 2, 3, 4]
        assert await store.read_messages("x") == []
        thread = await store.get_thread("t")
        assert thread is not None
        assert thread.created > 0

    async def test_link_takes_messages_only_and_all_or_none(self, store: Store) -> None:
        await new_run(store)
        note = event("r", 2, Noted(level="info", text="x"))
        await store.append("r", 1, [*messages("r", ["x"]), note])
        await raises(NotFound, store.link("t", "r", [1, 2]))
        await raises(NotFound, store.link("t", "r", [1, 3]))
        await raises(NotFound, store.link("t", "nobody", [1]))
        assert await store.get_thread("t") is None
        assert await store.read_messages("t") == []

    async def test_link_moves_a_thread_up(self, store: Store) -> None:
        await new_run(store)
        await store.append("r", 1, messages("r", ["x"]))
        for id in ("a", "b"):
            await store.put_thread(Thread(id=id, title=id, meta={"k": 1}))
        assert await store.link("a", "r", []) == 0
        await store.link("a", "r", [1])
        threads = await store.find_threads()
        assert [(t.id, t.title, t.meta) for t in threads] == [
            ("a", "a", {"k": 1}),
            ("b", "b", {"k": 1}),
        ]

    async def test_a_deleted_thread_keeps_the_journal(self, store: Store) -> None:
        await new_run(store)
        await store.append("r", 1, messages("r", ["x", "y"]))
        await store.link("t", "r", [1, 2])
        await store.delete_thread("t")
        assert await store.read_messages("t") == []
        assert len(await store.read_events("r")) == 2
        assert await store.link("t", "r", [2]) == 1

    async def test_messages_of_ranges(self, store: Store) -> None:
        await new_run(store)
        await store.append("r", 1, messages("r", "abcdefgh"), thread="t")

        async def places(**terms: Any) -> list[int]:
            return [m.pos for m in await store.read_messages("t", **terms)]

        assert await places(after=5) == [6, 7, 8]
        assert await places(after=5, upto=7, last=1) == [7]
        assert await places(after=-3, upto=1) == [1]
        assert await places(after=10**30) == []
        assert await places(ranges=[(7, 9), (1, 2), (2, 3), (5, 4)]) == [1, 2, 3, 7, 8]
        assert await places(ranges=[(1, 2), (7, 8)], last=3) == [2, 7, 8]
        assert await places(ranges=[(-5, 2), (5, 10**30)], after=1, upto=6) == [2, 5, 6]
        assert await places(ranges=[]) == []
        assert await places(ranges=[(4, 4)]) == [4]
        found = await store.read_messages("t", ranges=[(1, 1), (8, 8)])
        assert [(m.at, m.message.text) for m in found] == [(1001.5, "a"), (1008.5, "h")]

    async def test_append_links_in_the_same_step(self, store: Store) -> None:
        await new_run(store, resource="ada")
        note = event("r", 2, Noted(level="info", text="x"))
        await store.append("r", 1, [*messages("r", ["1"]), note, *messages("r", ["3"], 3)],
                           thread="t")  # fmt: skip
        assert [(m.pos, m.seq) for m in await store.read_messages("t")] == [(1, 1), (2, 3)]
        thread = await store.get_thread("t")
        assert thread is not None
        assert thread.resource == "ada"
        await raises(Conflict, store.append("r", 1, messages("r", ["4", "1"], 1), thread="t"))
        await raises(Conflict, store.append("r", 1, messages("r", ["x"]), thread="new"))
        assert await store.get_thread("new") is None
        await store.append("r", 1, [event("r", 4, Noted(level="info", text="x"))], thread="none")
        assert await store.get_thread("none") is None
        assert await store.link("t", "r", [1, 3]) == 2
        await store.append("r", 1, messages("r", ["5"], 5), thread="t", barrier=True)
        assert [m.message.text for m in await store.read_messages("t")] == ["1", "3", "5"]

    async def test_deleted_messages_do_not_come_back(self, store: Store) -> None:
        await new_run(store)
        await store.append("r", 1, messages("r", "abcd"), thread="t")
        assert await store.delete_messages("t", [2, 4, 4, 9, -2, 0, 10**30]) == 2
        assert await store.delete_messages("t", [2, 4]) == 0
        assert await store.delete_messages("nothing", [1]) == 0
        assert await store.link("t", "r", [4, 2, 1]) == 4
        assert [m.pos for m in await store.read_messages("t")] == [1, 3]
        assert [m.pos for m in await store.read_messages("t", ranges=[(-9, 9)])] == [1, 3]
        assert len(await store.read_events("r")) == 4
        await store.append("r", 1, messages("r", ["e"], 5), thread="t")
        assert [m.pos for m in await store.read_messages("t", last=2)] == [3, 5]
        await store.clone_thread("t", Thread(id="c"))
        assert await store.link("c", "r", [2, 4]) == 5
        assert [m.pos for m in await store.read_messages("c")] == [1, 3, 5]

    async def test_a_clone_keeps_positions(self, store: Store) -> None:
        await new_run(store)
        await store.append("r", 1, messages("r", "abcd"), thread="t")
        await store.delete_messages("t", [4])
        to = Thread(id="c", resource="ada", title="T", meta={"x": [1]}, created=5.0)
        clone = await store.clone_thread("t", to, upto=2)
        assert clone == await store.get_thread("c")
        assert (clone.resource, clone.title, clone.meta, clone.created) == (
            "ada", "T", {"x": [1]}, 5.0,
        )  # fmt: skip
        whole = await store.clone_thread("t", Thread(id="w"))
        assert whole.created > 5
        assert [m.pos for m in await store.read_messages("c")] == [1, 2]
        assert [m.pos for m in await store.read_messages("w")] == [1, 2, 3]
        await store.append("r", 1, messages("r", ["e"], 5), thread="c")
        await store.append("r", 1, messages("r", ["f"], 6), thread="w")
        assert [(m.pos, m.seq) for m in await store.read_messages("c", last=1)] == [(3, 5)]
        assert [(m.pos, m.seq) for m in await store.read_messages("w", last=1)] == [(5, 6)]
        assert [m.pos for m in await store.read_messages("t")] == [1, 2, 3]
        await raises(NotFound, store.clone_thread("none", Thread(id="new")))
        await raises(Conflict, store.clone_thread("t", Thread(id="c")))
        await raises(Conflict, store.clone_thread("t", Thread(id="t")))
        assert await store.get_thread("new") is None

    async def test_threads_are_found_by_meta(self, store: Store) -> None:
        for n in range(6):
            meta = {"n": n, "tags": ["even" if n % 2 == 0 else "odd"], "in": {"er": n > 3}}
            await store.put_thread(Thread(id=f"t{n}", resource="ada" if n < 4 else "", meta=meta))

        async def ids(meta: Any, **terms: Any) -> list[str]:
            return [t.id for t in await store.find_threads(meta=meta, **terms)]

        assert await ids({"tags": "even"}) == ["t4", "t2", "t0"]
        assert await ids({"n": {"$gte": 2}}, resource="ada") == ["t3", "t2"]
        assert await ids({"in.er": True}, limit=1, offset=1) == ["t4"]
        assert await ids({}, limit=2) == ["t5", "t4"]
        assert (await raises(ConfigError, ids({"n": {"$x": 1}}))).code == "filter.operator"
        odd = {"a'b": "x\0y", "ü": [None, 2**63], "$": "%"}
        await store.put_thread(Thread(id="odd", meta=odd))
        for filter in ({"a'b": "x\0y"}, {"ü": None}, {"ü": 2**63}, {"a'b": {"$contains": "\0y"}}):
            assert await ids(filter, resource="") == [
                t for t in ("odd", "t5", "t4") if t == "odd" or filter == {"ü": None}
            ]
        for hostile in ("' OR 1=1 --", "%", '"', "x"):
            assert await ids({"a'b": hostile}) == await ids({"n": hostile}) == []
        await raises(SchemaError, store.put_thread(Thread(id="nul", meta={"x": {"a\0b": 1}})))

    async def test_pages_of_threads_by_meta_are_whole_and_in_order(self, store: Store) -> None:
        for n in range(25):
            meta = {"even": n % 2 == 0}
            await store.put_thread(Thread(id=f"t{n}", resource=f"r{n % 3}", meta=meta))
        given: dict[str, Any] = {"resource": "r0", "meta": {"even": True}}
        whole = [f"t{n}" for n in range(24, -1, -6)]
        for size in (1, 2, 3, 5, 100):
            got: list[str] = []
            while page := await store.find_threads(**given, limit=size, offset=len(got)):
                got += [t.id for t in page]
            assert got == whole

    async def test_runs_are_found_by_resource_and_thread(self, store: Store) -> None:
        for n, (resource, thread) in enumerate((("", None), ("a", "t"), ("a", "u"), ("b", "t"))):
            await new_run(store, f"r{n}", resource=resource, thread=thread)

        async def ids(**terms: Any) -> list[str]:
            return [row.id for row in await store.find_runs(**terms)]

        assert await ids(resource="a") == ["r2", "r1"]
        assert await ids(thread="t") == ["r3", "r1"]
        assert await ids(resource="a", thread="t", name="job") == ["r1"]
        assert await ids(resource="") == ["r0"]
        row = await store.get_run("r1")
        assert row is not None
        assert row.resource == "a"

    # Docs

    async def test_docs(self, store: Store) -> None:
        for id in ("b", "a", "aa", "a%", "B"):
            await store.put("k", id, {"id": id})
        await store.put("other", "a", None)
        await store.put("k", "b", [1, {"type": "text"}])
        assert await store.get("k", "b") == [1, {"type": "text"}]
        assert await store.get("k", "x") is None
        assert await store.get("other", "a") is None
        assert [id for id, _ in await store.find("k")] == ["B", "a", "a%", "aa", "b"]
        assert [id for id, _ in await store.find("k", prefix="a")] == ["a", "a%", "aa"]
        assert await store.find("k", prefix="a%") == [("a%", {"id": "a%"})]
        assert await store.find("k", prefix="a", limit=1) == [("a", {"id": "a"})]
        assert await store.find("none") == []
        assert await store.delete("k", "b")
        assert not await store.delete("k", "b")
        assert await store.get("k", "b") is None

    async def test_what_comes_back_is_a_copy(self, store: Store) -> None:
        value = {"x": [1]}
        await store.put("k", "a", value)
        row = await new_run(store, input=value)
        thread = await store.put_thread(Thread(id="t", meta=value))
        value["x"].append(2)
        row.input["x"].append(2)
        thread.meta["x"].append(2)
        assert await store.get("k", "a") == {"x": [1]}
        again, found = await store.get_run("r"), await store.get_thread("t")
        assert again is not None
        assert found is not None
        assert again.input == found.meta == {"x": [1]}

    async def test_docs_are_inserted_once_and_read_backwards(self, store: Store) -> None:
        assert await store.insert("k", "a", {"x": 1})
        assert not await store.insert("k", "a", {"x": 2})
        assert await store.insert("other", "a", None)
        assert not await store.insert("other", "a", 1)
        assert await store.get("k", "a") == {"x": 1}
        for id in ("b", "ab"):
            await store.put("k", id, id)
        assert [id for id, _ in await store.find("k", reverse=True)] == ["b", "ab", "a"]
        assert await store.find("k", prefix="a", reverse=True, limit=1) == [("ab", "ab")]
        wins = await asyncio.gather(*(store.insert("k", "race", n) for n in range(5)))
        assert sum(wins) == 1

    async def test_embeddings(self, store: Store) -> None:
        cache = store.embeddings
        rows = {bytes([n]) * 32: bytes([n]) * 1536 for n in range(300) if n < 256}
        await cache.put("m", rows)
        await cache.put("other", {b"x": b"1"})
        await cache.put("m", {})
        assert await cache.get("m", [*rows, b"x", b"", b"'"]) == rows
        assert await cache.get("other", [b"x", b"x"]) == {b"x": b"1"}
        assert await cache.get("none", list(rows)) == {}
        assert await cache.get("m", []) == {}
        await cache.put("other", {b"x": b"2", b"\0": b""})
        assert await cache.get("other", [b"x", b"\0"]) == {b"x": b"2", b"\0": b""}

    # Retention

    async def test_prune_takes_what_is_old_and_at_rest(self, store: Store) -> None:
        for id in ("done", "live", "suspended", "talked", "claimed"):
            await new_run(store, id)
            await store.append(id, 1, messages(id, ["x"]))
        for id in ("done", "talked", "claimed"):
            await store.append(id, 1, [], status="done")
        await store.append("suspended", 1, [], status="suspended")
        await store.claim("claimed", owner="b")
        await store.link("t", "talked", [1])
        await store.embeddings.put("m", {b"x": b"1"})
        assert await store.prune(Retention()) == Pruned()
        far = Retention(runs=1, threads=1, suspended=1, embeddings=1)
        assert await store.prune(far) == Pruned()
        dry = await store.prune(Retention(runs=0), dry_run=True)
        assert dry == Pruned(runs=1, dry_run=True)
        assert await store.get_run("done") is not None
        assert (await store.prune(Retention(runs=0))).runs == 1
        kept = {row.id for row in await store.find_runs()}
        assert kept == {"live", "suspended", "talked", "claimed"}
        assert await store.read_events("done") == []
        assert (await store.prune(Retention(suspended=0))).runs == 1
        assert await store.get_run("suspended") is None
        assert len(await store.read_messages("t")) == 1
        everything = Retention(runs=0, threads=0, suspended=0, embeddings=0)
        dry = await store.prune(everything, dry_run=True)
        assert dry == Pruned(runs=1, threads=1, messages=1, embeddings=1, dry_run=True)
        assert await store.embeddings.get("m", [b"x"]) == {b"x": b"1"}
        done = await store.prune(everything)
        assert (done.runs, done.threads, done.messages, done.embeddings) == (1, 1, 1, 1)
        assert await store.get_thread("t") is None
        assert await store.embeddings.get("m", [b"x"]) == {}
        assert {row.id for row in await store.find_runs()} == {"live", "claimed"}
        assert await store.prune(everything) == Pruned()
        assert await store.vacuum() >= 0

    async def test_a_thread_waits_for_its_runs(self, store: Store) -> None:
        for id, status in (("a", "suspended"), ("b", "running"), ("c", "done"), ("d", "done")):
            await new_run(store, id, thread=f"t{id}" if id != "d" else None)
            await store.append(id, 1, messages(id, ["x", "y"]), thread=f"t{id}")
            await store.append(id, 1, [], status=cast(RunStatus, status))
        await store.put_thread(Thread(id="named"))
        await new_run(store, "e", thread="named")
        await store.link("other", "c", [2])
        done = await store.prune(Retention(threads=0))
        assert (done.threads, done.messages, done.runs) == (3, 5, 2)
        assert {t.id for t in await store.find_threads()} == {"ta", "tb", "named"}
        assert {row.id for row in await store.find_runs()} == {"a", "b", "e"}
        done = await store.prune(Retention(threads=0, suspended=0))
        assert (done.threads, done.messages, done.runs) == (1, 2, 1)
        assert {t.id for t in await store.find_threads()} == {"tb", "named"}

    async def test_a_run_stays_for_the_thread_that_is_kept(self, store: Store) -> None:
        await new_run(store, thread="t")
        await store.append("r", 1, messages("r", "ab"), status="done", thread="t")
        await store.clone_thread("t", Thread(id="c"), upto=1)
        await store.delete_thread("t")
        assert await store.prune(Retention(runs=0)) == Pruned()
        assert [m.message.text for m in await store.read_messages("c")] == ["a"]
        await store.delete_messages("c", [1])
        assert (await store.prune(Retention(runs=0))).runs == 1
        assert await store.link("c", "r", []) == 1

    async def test_runs_of_deleted_threads_go_with_threads(self, store: Store) -> None:
        await new_run(store, thread="t")
        await store.append("r", 1, messages("r", "ab"), status="done", thread="t")
        await store.delete_thread("t")
        await new_run(store, "alone")
        await store.append("alone", 1, [], status="done")
        assert (await store.prune(Retention(threads=0))).runs == 1
        assert [row.id for row in await store.find_runs()] == ["alone"]

    async def test_a_pruned_id_and_key_are_free(self, store: Store) -> None:
        await new_run(store, key="k")
        many = messages("r", [str(n) for n in range(220)])
        await store.append("r", 1, many, status="done")
        assert (await store.prune(Retention(runs=0))).runs == 1
        await new_run(store, key="k")
        assert await store.read_events("r") == []

    async def test_what_a_kept_run_is_forked_from_stays(self, store: Store) -> None:
        await new_run(store, "a")
        await new_run(store, "b", parent_run="a", fork_seq=1)
        await new_run(store, "c", parent_run="b", fork_seq=1)
        await new_run(store, "alone")
        for id in ("a", "b", "alone"):
            await store.append(id, 1, [], status="done")
        assert (await store.prune(Retention(runs=0))).runs == 1
        assert {row.id for row in await store.find_runs()} == {"a", "b", "c"}
        await store.append("c", 1, [], status="done")
        assert (await store.prune(Retention(runs=0), dry_run=True)).runs == 3
        assert (await store.prune(Retention(runs=0))).runs == 3

    async def test_forks_made_before_their_parent_go_too(self, store: Store) -> None:
        await new_run(store, "child", parent_run="parent", fork_seq=1)
        await new_run(store, "parent")
        for id in ("child", "parent"):
            await store.append(id, 1, [], status="done")
        assert (await store.prune(Retention(runs=0))).runs == 2

    async def test_what_goes_is_told_before_it_goes(self, store: Store) -> None:
        for id in ("old", "revived"):
            await store.put_thread(Thread(id=id, resource="ada"))
        told: list[tuple[str, str]] = []

        async def before(threads: Sequence[Thread]) -> None:
            for thread in threads:
                assert await store.get_thread(thread.id) == thread
                told.append((thread.id, thread.resource))
            await new_run(store)
            await store.append("r", 1, messages("r", "a"), thread="revived")

        assert (await store.prune(Retention(threads=0), dry_run=True, before=before)).threads == 2
        assert told == []
        done = await store.prune(Retention(threads=0), before=before)
        assert sorted(told) == [("old", "ada"), ("revived", "ada")]
        # Somebody wrote to it meanwhile.
        assert [t.id for t in await store.find_threads()] == ["revived"]
        assert done.threads == 1
