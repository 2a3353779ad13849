from __future__ import annotations

import pytest

from mastra_nb.app import open_store
from mastra_nb.errors import ConfigError
from mastra_nb.rag import graph as module
from mastra_nb.rag.documents import Document
from mastra_nb.rag.graph import GraphRAG
from mastra_nb.rag.index import Index
from mastra_nb.testing import FakeEmbedder


@pytest.fixture
async def index() -> Index:
    made = Index("g", store=open_store("memory://"), embedder=FakeEmbedder(512))
    texts = ("owls hunt mice", "mice eat grain", "grain makes bread", "rockets fly far")
    await made.ingest([Document(t, source=t) for t in texts])
    return made


async def test_a_walk_reaches_what_the_query_does_not_name(index: Index) -> None:
    graph = GraphRAG(index, threshold=0.2)
    hits = await graph.query("owls hunt", top_k=3)
    assert [h.source for h in hits] == ["owls hunt mice", "mice eat grain", "grain makes bread"]
    assert hits[2].similarity == 0
    assert sum(h.score for h in await graph.query("owls hunt", top_k=9)) == pytest.approx(1)


async def test_without_links_it_is_a_plain_search(index: Index) -> None:
    hits = await GraphRAG(index, threshold=1.0).query("rockets", top_k=2)
    assert [h.source for h in hits][:1] == ["rockets fly far"]


async def test_a_filter_makes_a_graph_of_its_own_and_reset_forgets(index: Index) -> None:
    graph = GraphRAG(index, threshold=0.2)
    only = {"source": "rockets fly far"}
    assert [h.source for h in await graph.query("owls", filter=only)] == ["rockets fly far"]
    assert len(await graph.query("owls", filter={"source": "none"})) == 0
    await graph.query("owls")
    await index.ingest(Document("owls nest", source="new"))
    assert "new" not in {h.source for h in await graph.query("owls", top_k=9)}
    graph.reset()
    assert "new" in {h.source for h in await graph.query("owls", top_k=9)}


async def test_what_cannot_be_a_graph_says_so(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        GraphRAG(index, restart=0.0)
    with pytest.raises(ConfigError, match="no embedder"):
        await GraphRAG(Index("w", store=index.store, embedder=None)).query("x")
    monkeypatch.setattr(module, "MAX_PASSAGES", 3)
    with pytest.raises(ConfigError, match="more than 3 passages"):
        await GraphRAG(index).query("x")
    assert GraphRAG(index).as_tool().name == "search_g"
