"""The two stores of vectors answer alike, whatever is done to them; the one in memory looks at
every entry with `conditions.matches`, so it says what is right.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mastra_nb import open_store
from mastra_nb.errors import SchemaError
from mastra_nb.vectors import Hit, VectorStore
from tests.filters_strategies import filters, metadata

IDS = [f"e{n}" for n in range(12)]
NUMBERS = st.integers(-3, 3).map(float)
ROW = st.lists(NUMBERS, min_size=3, max_size=3)
WORDS = st.lists(st.sampled_from(["red", "blue", "fish", "house", "東京都"]), max_size=3).map(
    " ".join
)
FACTS = metadata.filter(lambda m: b"\\u0000" not in msgspec.json.encode(m))
ENTRY = st.tuples(st.sampled_from(IDS), ROW, WORDS, FACTS)
STEP = st.one_of(
    st.tuples(st.just("upsert"), st.lists(ENTRY, min_size=1, max_size=6, unique_by=lambda e: e[0])),
    st.tuples(st.just("replace"), st.tuples(ENTRY, filters)),
    st.tuples(st.just("update"), st.tuples(filters, st.none() | ROW, st.none() | WORDS)),
    st.tuples(st.just("delete"), filters | st.lists(st.sampled_from(IDS), max_size=3)),
    st.tuples(st.just("query"), st.tuples(ROW, filters | st.none(), st.integers(0, 14))),
    st.tuples(st.just("words"), st.tuples(WORDS, filters | st.none())),
)


async def write(store: VectorStore, what: str, with_: Any) -> Any:
    if what == "upsert":
        ids, rows, texts, facts = zip(*with_, strict=True)
        return await store.upsert("i", rows, ids=ids, texts=texts, metadata=facts)
    if what == "replace":
        (id, row, text, facts), filter = with_
        return await store.upsert(
            "i", [row], ids=[id], texts=[text], metadata=[facts], delete_filter=filter
        )
    if what == "update":
        filter, row, text = with_
        return await store.update("i", filter=filter, vector=row, text=text, metadata={"n": 1})
    if isinstance(with_, list):
        return await store.delete("i", ids=with_)
    return await store.delete("i", filter=with_)


def shown(hits: Sequence[Hit]) -> list[tuple[str, float]]:
    return [(h.id, round(h.score, 5)) for h in hits]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(STEP, min_size=3, max_size=14), st.sampled_from(["cosine", "euclidean", "dotproduct"])
)
def test_whatever_is_done_they_answer_alike(steps: list[Any], metric: Any) -> None:
    async def both(folder: str) -> None:
        file = open_store(f"sqlite:///{folder}/v.db")
        stores = [file.vectors, open_store("memory://").vectors]
        for store in stores:
            await store.create_index("i", dimension=3, metric=metric, metadata_indexes=["a"])
        for what, with_ in steps:
            if what == "query":
                row, filter, k = with_
                a, b = [await s.query("i", row, filter=filter, top_k=k) for s in stores]
                assert shown(a) == shown(b)
                assert [h.metadata for h in a] == [h.metadata for h in b]
            elif what == "words":
                text, filter = with_
                a, b = [await s.query("i", text=text, filter=filter, top_k=50) for s in stores]
                assert {h.id for h in a} == {h.id for h in b}
            else:
                a, b = [await write(s, what, with_) for s in stores]
                assert a == b
            found = [await s.find("i", include_vector=True) for s in stores]
            assert found[0] == found[1]
        await file.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(both(folder))


async def test_a_key_that_sqlite_cannot_tell_is_refused() -> None:
    for url in ("memory://", "sqlite:///v.db"):
        with tempfile.TemporaryDirectory() as folder:
            store = open_store(url.replace("v.db", f"{folder}/v.db"))
            await store.vectors.create_index("i", dimension=0)
            for facts in ({"a\0b": 1}, {"a": [{"\0": 1}]}):
                with pytest.raises(SchemaError, match="NUL"):
                    await store.vectors.upsert("i", texts=["x"], metadata=[facts])
            await store.vectors.upsert("i", texts=["x"], metadata=[{"a": "a\0b"}])
            assert await store.vectors.count("i", filter={"a": "a\0b"}) == 1
            await store.close()
