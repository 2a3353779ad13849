"""The half of the contract of vectors that is about words, and about both together."""

from __future__ import annotations

import contextlib
import math
import random
import struct
from collections.abc import Sequence

from mastra_nb._thread_contract import raises as raises
from mastra_nb.errors import ConfigError, MastraError
from mastra_nb.vectors import Metric, VectorStore

HOSTILE = (
    "' OR 1=1 --",
    '"; DROP TABLE vector; --',
    "%",
    "a%b_c\\",
    'x" NEAR y AND (z OR *)',
    "-minus +plus col:umn ^caret {brace}",
    "nul\0nul",
    "ünï/😀\ue000\U0010ffff",
    "../../etc/passwd",
    "NULL",
)
WORDS = (
    "owls hunt mice at night",
    "owls sleep by day in barns",
    "the mice of the barn fear owls, owls and owls",
    "a lake is deep and cold",
    "東京都の天気は晴れ",
    "",
)


def row(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def rows(n: int, dimension: int, seed: int = 0) -> list[list[float]]:
    made = random.Random(seed)
    return [[made.gauss(0, 1) for _ in range(dimension)] for _ in range(n)]


def score_of(metric: Metric, one: Sequence[float], other: Sequence[float]) -> float:
    """As `vectors.Hit` says, in float64."""
    dot = math.fsum(a * b for a, b in zip(one, other, strict=True))
    if metric == "dotproduct":
        return dot
    if metric == "euclidean":
        return 1 / (1 + math.dist(one, other))
    length = math.hypot(*one) * math.hypot(*other)
    return dot / length if length else 0.0


class WordContract:
    async def test_words(self, vectors: VectorStore) -> None:
        await vectors.create_index("i", dimension=0)
        ids = [str(n) for n in range(len(WORDS))]
        await vectors.upsert("i", ids=ids, texts=WORDS)
        found = await vectors.query("i", text="OWL hunting")
        assert found[0].id == "0" and {h.id for h in found} == {"0", "1", "2"}
        assert all(h.score > 0 and h.bm25 == h.score for h in found)
        assert [h.id for h in await vectors.query("i", text="天気")] == ["4"]
        assert await vectors.query("i", text="zebra") == []
        assert await vectors.query("i", text=" ?! ") == []

    async def test_words_and_vectors_are_fused_by_score(self, vectors: VectorStore) -> None:
        await vectors.create_index("i", dimension=2)
        await vectors.upsert(
            "i",
            [[1, 0], [1, 0.1], [0, 1]],
            ids=["far", "near", "said"],
            texts=["a lake", "a barn", "owls hunt"],
        )
        hits = await vectors.query("i", [0.1, 1], text="owls")
        assert hits[0].id == "said" and {h.id for h in hits} == {"far", "near", "said"}
        said, near, far = [score_of("cosine", [0.1, 1], v) for v in ([0, 1], [1, 0.1], [1, 0])]
        scores = [hit.score for hit in hits]
        assert [h.id for h in hits] == ["said", "near", "far"]
        assert math.isclose(scores[0], 1.0)
        assert math.isclose(scores[1], 0.4 * (near - far) / (said - far), rel_tol=1e-5)
        assert scores[2] == 0
        assert hits[0].bm25 is not None and hits[0].similarity is not None
        assert math.isclose(hits[0].similarity, said, rel_tol=1e-5)
        assert [h.bm25 for h in hits[1:]] == [None, None]

    async def test_each_hit_has_the_sum_of_its_ranks(self, vectors: VectorStore) -> None:
        await vectors.create_index("i", dimension=4)
        some = ("owl", "owl owl barn", "barn", "lake", "mice of the barn", "owl and mice")
        texts = [some[n % 6] + f" {n}" * (n % 4) for n in range(30)]
        facts = [{"n": n} for n in range(30)]
        await vectors.upsert("i", rows(30, 4), texts=texts, metadata=facts)
        for filter in (None, {"n": {"$gte": 11}}):
            for k, asked in enumerate(rows(3, 4, seed=5)):
                text = ("owl", "barn owl", "mice")[k]
                near = await vectors.query("i", asked, top_k=30, filter=filter)
                said = await vectors.query("i", text=text, top_k=30, filter=filter)
                sums = {h.id: 1 / (61 + rank) for rank, h in enumerate(near)}
                for rank, hit in enumerate(said):
                    sums[hit.id] += 1 / (61 + rank)
                hits = await vectors.query(
                    "i", asked, text=text, top_k=30, filter=filter, fusion="rank"
                )
                assert len(hits) == len(near) == (30 if filter is None else 19)
                assert all(math.isclose(h.score, sums[h.id]) for h in hits)
                assert [h.score for h in hits] == sorted([h.score for h in hits], reverse=True)

    async def test_least_score_of_words(self, vectors: VectorStore) -> None:
        await vectors.create_index("i", dimension=0)
        await vectors.upsert("i", ids=[*"012345"], texts=WORDS)
        found = await vectors.query("i", text="owls hunt")
        assert len(found) == 3 and found[0].score > found[1].score
        least = (found[0].score + found[1].score) / 2
        assert await vectors.query("i", text="owls hunt", min_score=least) == found[:1]

    async def test_hostile_text_is_text(self, vectors: VectorStore) -> None:
        for name in HOSTILE:
            try:
                await vectors.create_index(name, dimension=1)
            except MastraError:
                # A name may be refused, but not half of it taken.
                assert name not in await vectors.list_indexes()
        await vectors.create_index("i", dimension=1, metadata_indexes=["plain"])
        facts = [{"plain": text, "a'b": text} for text in HOSTILE]
        given = [[1]] * len(HOSTILE)
        await vectors.upsert("i", given, ids=HOSTILE, texts=HOSTILE, metadata=facts)
        assert await vectors.count("i") == len(HOSTILE)
        for text in HOSTILE:
            for filter in ({"plain": text}, {"a'b": {"$in": [text]}}):
                assert [r.id for r in await vectors.find("i", filter=filter)] == [text]
            assert [r.id for r in await vectors.get("i", [text])] == [text]
            for hit in await vectors.query("i", text=text, top_k=20):
                assert hit.id in HOSTILE
            # A name that nothing has, or no name at all.
            with contextlib.suppress(ConfigError):
                assert await vectors.count("i", filter={text: 1}) == 0
        assert await vectors.delete("i", ids=HOSTILE[:2]) == 2
        assert await vectors.count("i") == len(HOSTILE) - 2
