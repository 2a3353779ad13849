from __future__ import annotations

import pytest

from mastra_nb.app import open_store
from mastra_nb.stores import _vector_search


@pytest.mark.parametrize("few", [0, 2_000])
@pytest.mark.parametrize("share", [2, 30, 299])
@pytest.mark.parametrize("with_vector", [False, True])
async def test_what_a_filter_leaves_of_the_words_is_what_they_find(
    tmp_path, monkeypatch, few, share, with_vector
):
    """`share`: of 300 entries, the worst so many fit the filter."""
    monkeypatch.setattr(_vector_search, "FEW", few)
    store = open_store(f"sqlite:///{tmp_path}/words.db")
    vectors, dimension = store.vectors, 2 if with_vector else 0
    await vectors.create_index("i", dimension=dimension)
    await vectors.upsert(
        "i",
        [[1.0, no / 300] for no in range(300)] if with_vector else None,
        ids=[str(no) for no in range(300)],
        texts=["fjord " + "rain " * no for no in range(300)],
        metadata=[{"no": no} for no in range(300)],
    )
    given = {"text": "fjord", "filter": {"no": {"$gte": 300 - share}}}
    words = await vectors.query("i", top_k=5, **given)
    assert [hit.id for hit in words] == [str(300 - share + i) for i in range(min(5, share))]
    best = words[0].bm25
    assert len(await vectors.query("i", top_k=5, min_score=best, **given)) == 1
    if with_vector:
        both = await vectors.query("i", [1.0, 1.0], top_k=share, **given)
        ranked = sorted((h.bm25 for h in both if h.bm25 is not None), reverse=True)
        assert len(both) == share
        assert ranked[:5] == [hit.bm25 for hit in words]
    await store.close()
