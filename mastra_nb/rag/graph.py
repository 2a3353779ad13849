"""Graph RAG: passages linked where they are alike, and found by a random walk from the query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from mastra_nb.embedders import embed_many
from mastra_nb.errors import ConfigError
from mastra_nb.rag.index import TOP_K, Index
from mastra_nb.rag.results import Hits, Passage, passage
from mastra_nb.rag.tool import Narrow, search_tool
from mastra_nb.schema import clean
from mastra_nb.tools import Tool, in_thread
from mastra_nb.vectors import Filter, Hit

if TYPE_CHECKING:
    import numpy as np

# The similarities of 5,000 passages are 100 MB.
MAX_PASSAGES = 5_000
_STEPS = 100
_ENOUGH = 1e-6


class GraphRAG:
    """Searches an index by what passages are near to, so that a query reaches what shares no word
    with it but is alike to what does. Passages are linked where their cosine similarity is at least
    `threshold`; `restart` is the chance that the walk goes back to what is near to the query.

    The graph is of the index as it was when it was first asked; `reset` forgets it.
    """

    def __init__(self, index: Index, *, threshold: float = 0.7, restart: float = 0.4) -> None:
        if not (-1 <= threshold <= 1 and 0 < restart <= 1):
            raise ConfigError(
                f"threshold={threshold}, restart={restart} cannot be used",
                hint="threshold is a cosine from -1 to 1, restart more than 0 up to 1",
            )
        self.index = index
        self.threshold = threshold
        self.restart = restart
        self._graphs: dict[str, _Graph] = {}

    @property
    def name(self) -> str:
        return self.index.name

    def __repr__(self) -> str:
        return f"<GraphRAG {self.name} threshold={self.threshold}>"

    def reset(self) -> None:
        self._graphs.clear()

    async def query(
        self, text: str, *, top_k: int = TOP_K, filter: Filter | None = None, **options: Any
    ) -> Hits:
        """The passages the walk comes by most often. Raises ConfigError for an index without an
        embedder or with more than MAX_PASSAGES passages.
        """
        embedder = self.index.embedder
        if embedder is None:
            raise ConfigError(
                f'the index "{self.name}" has no embedder', hint="query the index itself"
            )
        graph = await self._graph(filter)
        row = (await embed_many(embedder, [clean(text)], kind="query")).rows[0]
        found = await in_thread(lambda: graph.walk(row, self.restart, top_k))
        return Hits(query=text, passages=tuple(found))

    def as_tool(self, *, filter: Narrow = None, **options: Any) -> Tool[..., Any]:
        """As `Index.as_tool`."""
        return search_tool(self, filter=filter, **options)

    async def _graph(self, filter: Filter | None) -> _Graph:
        key = msgspec.json.encode(filter, order="sorted").decode()
        if key not in self._graphs:
            vectors, name = self.index.store.vectors, self.name
            rows = await vectors.find(
                name, filter=filter, limit=MAX_PASSAGES + 1, include_vector=True
            )
            if len(rows) > MAX_PASSAGES:
                raise ConfigError(
                    f'"{name}" has more than {MAX_PASSAGES:,} passages for a graph',
                    hint="narrow it down: query(…, filter={…})",
                )
            hits = [Hit(id=r.id, score=0.0, text=r.text, metadata=r.metadata) for r in rows]
            raw = [r.vector or b"" for r in rows]
            self._graphs[key] = await in_thread(lambda: _Graph(hits, raw, self.threshold))
        return self._graphs[key]


class _Graph:
    def __init__(self, hits: list[Hit], rows: list[bytes], threshold: float) -> None:
        import numpy as np

        self.passages: list[Passage] = [passage(h) for h in hits]
        flat = np.frombuffer(b"".join(rows), "<f4")
        self.vectors = _unit(flat.reshape(len(rows), flat.size // max(1, len(rows))))
        links = self.vectors @ self.vectors.T
        np.fill_diagonal(links, 0.0)
        links[links < max(threshold, 0.0)] = 0.0
        total = links.sum(axis=1, keepdims=True)
        self.steps = np.divide(links, total, out=links, where=total > 0)

    def walk(self, query: bytes, restart: float, top_k: int) -> list[Passage]:
        import numpy as np

        if not self.passages:
            return []
        near = np.maximum(self.vectors @ _unit(np.frombuffer(query, "<f4")[None, :])[0], 0.0)
        # The walk begins where a plain search would look.
        cut = np.partition(near, -min(top_k, len(near)))[-min(top_k, len(near))]
        start = np.where(near >= cut, near, 0.0)
        start = start / start.sum() if start.sum() > 0 else np.full(len(near), 1 / len(near))
        at = start
        for _ in range(_STEPS):
            moved = self.steps.T @ at
            # From where no link leads on, the walk starts again.
            after = restart * start + (1 - restart) * (moved + (1 - moved.sum()) * start)
            if float(np.abs(after - at).sum()) < _ENOUGH:
                break
            at = after
        best = np.argsort(-at, kind="stable")[:top_k]
        return [
            msgspec.structs.replace(self.passages[i], score=float(at[i]), similarity=float(near[i]))
            for i in best
            if at[i] > 0
        ]


def _unit(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import numpy as np

    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)
