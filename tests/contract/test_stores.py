"""Both stores keep the contract, and do the same on any sequence of calls."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mastra_nb.errors import MastraError
from mastra_nb.events import Event, MessageAdded, Noted, SpanEnded, SpanStarted
from mastra_nb.messages import user
from mastra_nb.storage import Pruned, Retention, RunRow, Store, Thread
from mastra_nb.store_contract import StoreContract
from mastra_nb.stores import memory, sqlite
from tests.contract.backends import in_threads
from tests.filters_strategies import filters, metadata


class TestMemoryStore(StoreContract):
    @pytest.fixture
    async def store(self):
        store = memory.open_store("memory://")
        yield store
        await store.close()


class TestSQLiteStore(StoreContract):
    @pytest.fixture
    async def store(self, tmp_path):
        store = sqlite.open_store(f"sqlite:///{tmp_path}/store.db")
        yield store
        await store.close()


class TestSQLiteStoreInThreads(TestSQLiteStore):
    """The path that a busy file takes: every call waits for a thread."""

    @pytest.fixture(autouse=True)
    def threads(self, monkeypatch):
        in_threads(monkeypatch)


ids = st.sampled_from(["a", "ab", "a%", "b", "B", "ü"])
names = st.sampled_from(["x", "y"])
owners = st.sampled_from(["me", "you"])
statuses = st.sampled_from([None, "running", "suspended", "done", "failed"])
fences = st.integers(0, 3)
seqs = st.integers(1, 6)
json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=4,
)
payloads = st.one_of(
    st.builds(SpanStarted, kind=names, name=names, input=json, attempt=st.integers(1, 3)),
    st.builds(SpanEnded, status=st.sampled_from(["ok", "ok", "error", "cancelled"]), output=json),
    st.builds(lambda text: MessageAdded(message=user(text)), st.text(max_size=5)),
    st.builds(Noted, level=st.just("info"), text=st.text(max_size=5)),
)
events = st.lists(
    st.tuples(seqs, st.sampled_from(["root", "root/a", "root/b"]), payloads), max_size=3
)
limits = st.sampled_from([0, 1, 2, 100])
# A lease of 0 is over at once, one of 1000 s never: no answer depends on the clock.
leases = st.sampled_from([0.0, 1000.0])

calls = st.one_of(
    st.tuples(st.just("create"), ids, names, st.none() | names, owners, leases, ids, json),
    st.tuples(st.just("claim"), ids, owners, leases),
    st.tuples(st.just("append"), ids, fences, events, statuses, leases),
    st.tuples(st.just("append"), ids, st.just(1), events, statuses, leases),
    st.tuples(st.just("renew"), ids, fences, leases),
    st.tuples(st.just("find_runs"), st.none() | names, statuses, st.none() | ids, limits, limits),
    st.tuples(st.just("read_events"), ids, st.integers(0, 4)),
    st.tuples(st.just("prune"), *[st.sampled_from([None, 0])] * 3, st.booleans()),
    st.tuples(st.just("delete_messages"), ids, st.lists(st.integers(-1, 5), max_size=3)),
    st.tuples(st.just("clone_thread"), ids, ids, st.none() | seqs),
    st.tuples(st.just("append_to"), ids, ids, events),
    st.tuples(st.just("insert"), names, ids, json),
    st.tuples(
        st.just("ranges"), ids, st.lists(st.tuples(seqs, seqs), max_size=3), st.none() | seqs
    ),
    st.tuples(st.just("put_thread"), ids, names, json),
    st.tuples(st.just("find_threads"), st.none() | names, limits, limits),
    st.tuples(st.just("delete_thread"), ids),
    st.tuples(st.just("link"), ids, ids, st.lists(seqs, max_size=3)),
    st.tuples(st.just("read_messages"), ids, st.none() | limits, st.none() | seqs),
    st.tuples(st.just("put"), names, ids, json),
    st.tuples(st.just("get"), names, ids),
    st.tuples(st.just("find"), names, ids, limits),
    st.tuples(st.just("delete"), names, ids),
)


async def do(store: Store, call: tuple[Any, ...]) -> Any:
    match call:
        case ("create", id, name, key, owner, lease, parent, value):
            fork = 1 if parent < id else None
            row = RunRow(
                id=id, name=name, kind="k", key=key, input=value, parent_run=parent, fork_seq=fork
            )
            return await store.create(row, owner=owner, lease=lease)
        case ("claim", id, owner, lease):
            return await store.claim(id, owner=owner, lease=lease)
        case ("append", id, fence, items, status, lease):
            log = [Event(run=id, seq=s, span=p, at=1.0, data=d) for s, p, d in items]
            return await store.append(id, fence, log, status=status, lease=lease)
        case ("renew", id, fence, lease):
            return await store.renew(id, fence, lease=lease)
        case ("find_runs", name, status, prefix, limit, offset):
            return await store.find_runs(
                name=name, status=status, prefix=prefix, limit=limit, offset=offset
            )
        case ("read_events", id, after):
            return await store.read_events(id, after=after)
        case ("prune", runs, threads, suspended, dry):
            retention = Retention(runs=runs, threads=threads, suspended=suspended)
            return await store.prune(retention, dry_run=dry)
        case ("clone_thread", id, to, upto):
            return await store.clone_thread(id, Thread(id=to, resource="x"), upto=upto)
        case ("append_to", id, thread, items):
            log = [Event(run=id, seq=s, span=p, at=1.0, data=d) for s, p, d in items]
            return await store.append(id, 1, log, thread=thread)
        case ("ranges", id, ranges, last):
            return await store.read_messages(id, last=last, ranges=ranges)
        case ("put_thread", id, name, value):
            return await store.put_thread(Thread(id=id, resource=name, meta={"v": value}))
        case ("find_threads", name, limit, offset):
            return await store.find_threads(resource=name, limit=limit, offset=offset)
        case ("read_messages", id, last, upto):
            return await store.read_messages(id, last=last, upto=upto)
        case ("find", kind, prefix, limit):
            return await store.find(kind, prefix=prefix, limit=limit)
        case (name, *args):
            return await getattr(store, name)(*args)


def timeless(answer: Any) -> Any:
    if isinstance(answer, list):
        return [timeless(item) for item in answer]
    if isinstance(answer, RunRow):
        held = answer.lease_until > 2e9 or answer.lease_until > answer.created + 500
        return msgspec.structs.replace(answer, created=0, updated=0, lease_until=held)
    if isinstance(answer, Pruned):
        return msgspec.structs.replace(answer, bytes=0)
    if isinstance(answer, Thread):
        return msgspec.structs.replace(answer, created=0, updated=0)
    return answer


async def outcome(store: Store, call: tuple[Any, ...]) -> Any:
    try:
        return timeless(await do(store, call))
    except MastraError as exc:
        return type(exc), exc.code


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(calls, min_size=10, max_size=40))
def test_both_stores_answer_alike(script):
    async def compare() -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = sqlite.open_store(f"sqlite:///{folder}/s.db")
            twin = memory.open_store("memory://")
            try:
                for call in script:
                    assert await outcome(file, call) == await outcome(twin, call), call
                for id in ("a", "ab", "a%", "b", "B", "ü"):
                    for check in (("read_events", id, 0), ("read_messages", id, None, None)):
                        assert await outcome(file, check) == await outcome(twin, check)
                everything = ("find_runs", None, None, None, 100, 0)
                assert await outcome(file, everything) == await outcome(twin, everything)
            finally:
                await file.close()
            assert [p.name for p in Path(folder).iterdir() if p.name != "s.db.lock"] == ["s.db"]

    asyncio.run(compare())


FACTS = metadata.filter(lambda m: b"\\u0000" not in msgspec.json.encode(m))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(FACTS, min_size=1, max_size=8), st.lists(filters, min_size=1, max_size=6))
async def test_threads_are_found_alike(facts: list[Any], asked: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stores: list[Store] = [
            memory.open_store("memory://"),
            sqlite.open_store(f"sqlite:///{folder}/s.db"),
        ]
        for store in stores:
            for n, meta in enumerate(facts):
                await store.put_thread(Thread(id=f"t{n}", resource=f"r{n % 2}", meta=meta))
        for filter in asked:
            for given_terms in ({}, {"resource": "r1"}, {"limit": 2, "offset": 1}):
                found = [
                    [t.id for t in await store.find_threads(meta=filter, **given_terms)]
                    for store in stores
                ]
                assert found[0] == found[1]
        for store in stores:
            await store.close()
