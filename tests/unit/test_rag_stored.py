from __future__ import annotations

import pytest

from mastra_nb import open_store
from mastra_nb.errors import NotFound
from mastra_nb.rag.documents import Document
from mastra_nb.rag.index import Index
from mastra_nb.rag.stored import stored_index
from mastra_nb.testing import FakeEmbedder


async def test_an_index_is_opened_with_the_embedder_that_made_it() -> None:
    store = open_store("memory://")
    await Index("words", store=store, embedder=None).ingest(Document(text="a cat", source="a"))
    found, why = await stored_index(store, "words", hint="make it")
    assert (found.embedder, why) == (None, "")
    assert [p.text for p in await found.query("cat", mode="words")] == ["a cat"]


async def test_without_its_embedder_it_is_searched_by_words() -> None:
    store = open_store("memory://")
    index = Index("both", store=store, embedder=FakeEmbedder())
    await index.ingest(Document(text="a cat", source="a"))
    found, why = await stored_index(store, "both", hint="make it")
    assert found.embedder is None
    assert why
    assert len(await found.query("cat", mode="words")) == 1


async def test_one_that_is_not_there() -> None:
    store = open_store("memory://")
    with pytest.raises(NotFound) as error:
        await stored_index(store, "none", hint="make it")
    assert error.value.hint == "make it"
    await Index("notes", store=store, embedder=None).ingest(Document(text="a", source="a"))
    with pytest.raises(NotFound) as error:
        await stored_index(store, "note", hint="make it")
    assert error.value.hint == 'did you mean "notes"?'
