"""What a store of vectors must do, as tests that any can inherit.

::

    class TestMyVectors(VectorContract):
        @pytest.fixture
        async def vectors(self):
            store = open_store("mine://…")
            yield store.vectors
            await store.close()

Every test gets fresh, empty `vectors`. Run them with pytest-asyncio in auto mode.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

from mastra_nb import conditions
from mastra_nb._word_contract import WordContract, raises, row, rows, score_of
from mastra_nb.errors import ConfigError, Conflict, MastraError, NotFound, SchemaError
from mastra_nb.vectors import Filter, Metric, VectorStore

# Filters in Mastra's operators, and metadata for which each of them makes a difference.
FACTS: tuple[dict[str, Any], ...] = (
    {},
    {"n": 1, "tag": "a", "on": True},
    {"n": 2, "tag": "b", "on": False, "list": [1, "x"]},
    {"n": 2.5, "tag": None, "list": []},
    {"n": "2", "tag": "A", "list": ["x", "y", None]},
    {"n": -3, "tag": "100%", "deep": {"er": {"n": 7}}},
    {"n": [2, 3], "tag": "a'b\"c", "deep": {"er": [{"n": 7}]}},
    {"n": 2**53 + 1, "tag": "ünï😀", "on": None},
)
FILTERS: tuple[Filter, ...] = (
    {}, {"n": 2}, {"n": "2"}, {"n": 2**53 + 1}, {"tag": None}, {"on": True}, {"list": "x"},
    {"list": ["x", "y", None]}, {"deep.er.n": 7}, {"deep": {"er": {"n": 7}}},
    {"n": {"$eq": 2.0}}, {"n": {"$ne": 2}}, {"n": {"$gt": 1}}, {"n": {"$gte": 2, "$lt": 3}},
    {"n": {"$lte": 2}}, {"tag": {"$gt": "a"}}, {"tag": {"$in": ["a", "b", None]}},
    {"tag": {"$in": []}}, {"tag": {"$nin": ["a", "b"]}}, {"tag": {"$contains": "'b"}},
    {"list": {"$all": ["x"]}}, {"list": {"$all": []}}, {"list": {"$size": 0}},
    {"list": {"$contains": "y"}}, {"on": {"$exists": True}}, {"on": {"$exists": False}},
    {"n": {"$not": {"$gt": 1}}}, {"$or": [{"n": 1}, {"tag": "A"}]}, {"$or": []},
    {"$and": [{"n": {"$gt": 0}}, {"tag": {"$ne": "b"}}]}, {"$not": {"tag": "a"}},
    {"$nor": [{"n": 1}, {"on": {"$exists": False}}]}, {"tag": "a'b\"c"}, {"tag": "100%"},
)  # fmt: skip


class VectorContract(WordContract):
    # Indexes

    async def test_an_index_is_what_was_asked_for(self, vectors: VectorStore) -> None:
        made = await vectors.create_index(
            "i", dimension=3, metric="euclidean", embedder="my/model", metadata_indexes=["a"]
        )
        assert (made.name, made.dimension, made.metric, made.dtype) == (
            "i", 3, "euclidean", "float32",
        )  # fmt: skip
        assert (made.embedder, made.metadata_indexes, made.count) == ("my/model", ("a",), 0)
        assert made.created > 1e9
        assert await vectors.describe_index("i") == made
        assert await vectors.list_indexes() == ["i"]

    async def test_an_index_that_is_there_stays(self, vectors: VectorStore) -> None:
        first = await vectors.create_index("i", dimension=2, metadata_indexes=["a"])
        await vectors.upsert("i", [[1, 0]], ids=["x"])
        again = await vectors.create_index("i", dimension=2, metadata_indexes=["b"])
        assert (again.created, again.count) == (first.created, 1)
        assert {*again.metadata_indexes} == {"a", "b"}
        for other in (
            vectors.create_index("i", dimension=3),
            vectors.create_index("i", dimension=2, metric="euclidean"),
            vectors.create_index("i", dimension=2, dtype="int8"),
            vectors.create_index("i", dimension=2, embedder="other/model"),
        ):
            await raises(Conflict, other)
        assert (await vectors.describe_index("i")).count == 1

    async def test_a_deleted_index_is_gone_with_all_it_held(self, vectors: VectorStore) -> None:
        for name in ("i", "j"):
            await vectors.create_index(name, dimension=2)
            await vectors.upsert(name, [[1, 0]], ids=["x"], texts=["owl"])
        assert await vectors.delete_index("i") is True
        assert await vectors.delete_index("i") is False
        assert await vectors.list_indexes() == ["j"]
        await vectors.create_index("i", dimension=3)
        assert await vectors.query("i", [1, 0, 0]) == []
        assert await vectors.query("i", text="owl") == []
        assert [h.id for h in await vectors.query("j", text="owl")] == ["x"]

    async def test_what_has_no_index_is_not_found(self, vectors: VectorStore) -> None:
        for call in (
            vectors.describe_index("no"),
            vectors.upsert("no", [[1.0]]),
            vectors.query("no", [1.0]),
            vectors.get("no", ["a"]),
            vectors.find("no"),
            vectors.update("no", ids=["a"], text="x"),
            vectors.delete("no", ids=["a"]),
            vectors.count("no"),
            vectors.stats("no"),
            vectors.explain("no", [1.0]),
        ):
            assert '"no"' in (await raises(NotFound, call)).message

    async def test_an_index_that_cannot_be(self, vectors: VectorStore) -> None:
        wrong: tuple[dict[str, Any], ...] = (
            {"name": ""}, {"name": "\ud800"}, {"dimension": -1}, {"metric": "manhattan"},
            {"dtype": "float64"}, {"dtype": "int8", "metric": "dotproduct"},
            {"metadata_indexes": ["a'b"]}, {"metadata_indexes": ["a"], "embedder": "\ud800"},
        )  # fmt: skip
        for given in wrong:
            await raises(
                MastraError, vectors.create_index(**{"name": "i", "dimension": 2, **given})
            )
        assert await vectors.list_indexes() == []

    async def test_indexes_are_apart(self, vectors: VectorStore) -> None:
        for name in ("j", "i"):
            await vectors.create_index(name, dimension=1)
            await vectors.upsert(name, [[1]], ids=["x"], texts=["owl"], metadata=[{"of": name}])
        assert await vectors.list_indexes() == ["i", "j"]
        await vectors.update("i", filter={}, text="lake")
        await vectors.upsert("i", [[2]], ids=["y"], delete_filter={})
        assert [r.id for r in await vectors.find("i")] == ["y"]
        for hits in (await vectors.query("j", [1]), await vectors.query("j", text="owl")):
            assert [(h.id, h.metadata) for h in hits] == [("x", {"of": "j"})]

    # Entries

    async def test_entries_come_back_as_they_were(self, vectors: VectorStore) -> None:
        await vectors.create_index("i", dimension=2)
        facts = {"n": 1, "deep": {"a": [None, True, "é", 2.5]}, "": "", "a.b": 2**60}
        given = await vectors.upsert(
            "i", [row(1, 2), [3, 4]], ids=["b", "a"], texts=["two\0words", ""], metadata=[facts, {}]
        )
        assert given == ["b", "a"]
        found = await vectors.get("i", ["a", "no", "b"], include_vector=True)
        assert [r.id for r in found] == ["a", "b"]
        assert [r.vector for r in found] == [row(3, 4), row(1, 2)]
        assert (found[1].text, found[1].metadata) == ("two\0words", facts)
        assert [r.vector for r in await vectors.get("i", ["a"])] == [None]
        assert await vectors.count("i") == 2

    async def test_ids_are_made_if_none_are_given(self, vectors: VectorStore) -> None:
        await vectors.create_index("i", dimension=1)
        ids = await vectors.upsert("i", [[1], [2], [3]])
        assert len({*ids}) == 3 and all(ids)
        assert [r.id for r in await vectors.find("i")] == ids

    async def test_an_upsert_replaces_the_whole_entry(self, vectors: VectorStore) -> None:
        await vectors.create_index("i", dimension=2)
        await vectors.upsert("i", [[1, 0]], ids=["x"], texts=["owl"], metadata=[{"a": 1}])
        await vectors.upsert("i", [[0, 1]], ids=["x"], metadata=[{"b": 1}])
        (found,) = await vectors.find("i", include_vector=True)
        assert (found.text, found.metadata, found.vector) == ("", {"b": 1}, row(0, 1))
        assert await vectors.query("i", text="owl") == []
        assert await vectors.query("i", [1, 0], filter={"a": 1}) == []

    async def test_a_filter_deletes_what_was_not_put(self, vectors: VectorStore) -> None:
        await vectors.create_index("i", dimension=1)
        facts = [{"of": "x"}, {"of": "x"}, {"of": "y"}]
        await vectors.upsert("i", [[1], [2], [3]], ids=["a", "b", "c"], metadata=facts)
        await vectors.upsert(
            "i", [[4], [5]], ids=["b", "d"], metadata=[{"of": "x"}] * 2, delete_filter={"of": "x"}
        )
        assert {r.id for r in await vectors.find("i")} == {"b", "c", "d"}

    async def test_all_of_an_upsert_or_nothing(self, vectors: VectorStore) -> None:
        await vectors.create_index("i", dimension=2)
        await vectors.upsert("i", [[1, 0]], ids=["x"], texts=["old"])
        for bad in (
            vectors.upsert("i", [[0, 1], [1, 2, 3]], ids=["x", "y"]),
            vectors.upsert("i", [[0, 1], [math.nan, 0]], ids=["x", "y"]),
            vectors.upsert("i", [[0, 1], [0, math.inf]], ids=["x", "y"]),
            vectors.upsert("i", [[0, 1], b"123"], ids=["x", "y"]),
            vectors.upsert("i", [[0, 1], [1, 1]], ids=["x"]),
            vectors.upsert("i", [[0, 1]], ids=["x"], texts=["a", "b"]),
            vectors.upsert("i", [[0, 1]], ids=["x"], metadata=[{"n": object()}]),
            vectors.upsert("i", [[0, 1]], ids=["x"], metadata=[{"a\0b": 1}]),
            vectors.upsert("i", ids=["x"], texts=["no vector"]),
            vectors.upsert("i", [[0, 1], [1, 1]], ids=["x", "x"]),
            vectors.upsert("i", [[0, 1], [1]], ids=["y", "z"], delete_filter={}),
            vectors.update("i", ids=["x"], vector=[1, 2, 3], text="new"),
            vectors.update("i", filter={}, vector=[math.nan, 1], text="new"),
            vectors.update("i", ids=["x"], text="new", metadata={"n": math.inf, "o": object()}),
        ):
            await raises(SchemaError, bad)
        await raises(MastraError, vectors.upsert("i", [[0, 1]], ids=["\ud800"], delete_filter={}))
        await raises(MastraError, vectors.upsert("i", [[0, 1]], ids=["x"], texts=["\ud800"]))
        assert await vectors.query("i", text="new") == []
        (found,) = await vectors.find("i", include_vector=True)
        assert (found.id, found.text, found.vector) == ("x", "old", row(1, 0))

    async def test_what_is_given_and_what_comes_back_are_copies(self, vectors: VectorStore) -> None:
        await vectors.create_index("i", dimension=2)
        given, facts = [1.0, 0.0], {"list": [1]}
        await vectors.upsert("i", [given], ids=["x"], metadata=[facts])
        given[1] = 5.0
        facts["list"].append(2)
        for found in ((await vectors.find("i"))[0], (await vectors.query("i", [1, 0]))[0]):
            found.metadata["list"].append(3)
            found.metadata["more"] = True
        (found,) = await vectors.query("i", [1, 0], include_vector=True)
        assert (found.metadata, found.vector) == ({"list": [1]}, row(1, 0))

    async def test_none_of_them(self, vectors: VectorStore) -> None:
        await vectors.create_index("i", dimension=1)
        await vectors.upsert("i", [[n] for n in range(150)], texts=["owl"] * 150)
        assert len(await vectors.find("i")) == 100
        for nothing in (
            await vectors.get("i", []),
            await vectors.find("i", limit=0),
            await vectors.find("i", offset=150),
            await vectors.query("i", [1], top_k=0),
            await vectors.query("i", text="owl", top_k=0),
            await vectors.query("i", [1], text="owl", top_k=0),
        ):
            assert nothing == []
        assert await vectors.delete("i", ids=[]) == await vectors.update("i", ids=[], text="x") == 0
        assert await vectors.upsert("i", [], delete_filter={}) == []
        assert await vectors.count("i") == 0

    async def test_entries_are_found_in_order_of_insertion(self, vectors: VectorStore) -> None:
        await vectors.create_index("i", dimension=1)
        ids = [f"{n * 7 % 20}" for n in range(20)]
        await vectors.upsert(
            "i", [[n] for n in range(20)], ids=ids, metadata=[{"n": int(i)} for i in ids]
        )
        await vectors.update("i", ids=ids[3:5], text="changed")
        assert [r.id for r in await vectors.find("i")] == ids
        pages = [await vectors.find("i", limit=6, offset=at) for at in range(0, 24, 6)]
        assert [r.id for page in pages for r in page] == ids
        some = await vectors.find("i", filter={"n": {"$lt": 5}}, limit=3, offset=1)
        assert [r.id for r in some] == [i for i in ids if int(i) < 5][1:4]

    async def test_updates_merge(self, vectors: VectorStore) -> None:
        await vectors.create_index("i", dimension=2)
        facts: list[dict[str, Any]] = [{"a": 1, "b": {"c": 1}}, {"a": 2}]
        await vectors.upsert(
            "i", [[1, 0], [0, 1]], ids=["x", "y"], texts=["owl", "owl"], metadata=facts
        )
        assert await vectors.update("i", ids=["x", "no"], metadata={"a": None, "d": [1]}) == 1
        assert await vectors.update("i", filter={"a": 2}, vector=[1, 1], text="lake") == 1
        found = await vectors.get("i", ["x", "y"], include_vector=True)
        assert [r.metadata for r in found] == [{"b": {"c": 1}, "d": [1]}, {"a": 2}]
        assert [r.vector for r in found] == [row(1, 0), row(1, 1)]
        assert [h.id for h in await vectors.query("i", text="owl")] == ["x"]
        assert [h.id for h in await vectors.query("i", text="lake")] == ["y"]
        assert await vectors.count("i", filter={"d": 1}) == 1

    async def test_deletes(self, vectors: VectorStore) -> None:
        await vectors.create_index("i", dimension=1)
        facts = [{"n": n} for n in range(6)]
        await vectors.upsert(
            "i", [[n] for n in range(6)], ids=[*"abcdef"], texts=["owl"] * 6, metadata=facts
        )
        assert await vectors.delete("i", ids=["a", "no", "a"]) == 1
        assert await vectors.delete("i", filter={"n": {"$gte": 4}}) == 2
        assert [r.id for r in await vectors.find("i")] == ["b", "c", "d"]
        assert {h.id for h in await vectors.query("i", text="owl")} == {"b", "c", "d"}
        assert await vectors.delete("i", filter={}) == 3
        assert await vectors.count("i") == 0 and await vectors.query("i", [1]) == []

    async def test_what_is_changed_must_be_named(self, vectors: VectorStore) -> None:
        await vectors.create_index("i", dimension=1)
        await vectors.upsert("i", [[1]], ids=["a"])
        for call in (
            vectors.delete("i"),
            vectors.delete("i", ids=["a"], filter={}),
            vectors.update("i", text="x"),
            vectors.update("i", ids=["a"], filter={}, text="x"),
        ):
            await raises(MastraError, call)
        assert await vectors.count("i") == 1

    # Queries

    async def _scores(self, vectors: VectorStore, metric: Metric) -> None:
        await vectors.create_index("i", dimension=8, metric=metric)
        given = [*rows(60, 8), [0.0] * 8]
        await vectors.upsert("i", given, ids=[str(n) for n in range(61)])
        for asked in [*rows(5, 8, seed=1), given[7], [1e-3] * 8, [0.0] * 8]:
            want = sorted(
                ((score_of(metric, asked, each), -n) for n, each in enumerate(given)), reverse=True
            )
            for exact in (False, True):
                found = await vectors.query("i", asked, top_k=61, exact=exact)
                assert len(found) == 61
                for hit, (score, _) in zip(found, want, strict=True):
                    assert math.isclose(hit.score, score, rel_tol=1e-4, abs_tol=1e-5)
                assert {hit.id for hit in found} == {str(n) for n in range(61)}
                if found[20].score > found[21].score + 1e-6:
                    least = (found[20].score + found[21].score) / 2
                    good = await vectors.query("i", asked, top_k=61, min_score=least, exact=exact)
                    assert good == found[:21]

    async def test_cosine(self, vectors: VectorStore) -> None:
        await self._scores(vectors, "cosine")

    async def test_euclidean(self, vectors: VectorStore) -> None:
        await self._scores(vectors, "euclidean")

    async def test_dot_product(self, vectors: VectorStore) -> None:
        await self._scores(vectors, "dotproduct")

    async def test_ties_are_in_order_of_insertion(self, vectors: VectorStore) -> None:
        await vectors.create_index("i", dimension=2)
        ids = ["c", "a", "d", "b"]
        await vectors.upsert("i", [[1, 1]] * 4, ids=ids, texts=["owl"] * 4)
        for given in ({"vector": [1, 0]}, {"text": "owl"}, {"vector": [1, 0], "text": "owl"}):
            assert [h.id for h in await vectors.query("i", **given)] == ids
            assert [h.id for h in await vectors.query("i", **given, top_k=2)] == ids[:2]

    async def test_no_more_than_asked_for(self, vectors: VectorStore) -> None:
        await vectors.create_index("i", dimension=4)
        await vectors.upsert("i", rows(30, 4), texts=["owl"] * 30)
        for top_k in (1, 10, 30, 100):
            assert len(await vectors.query("i", [1, 0, 0, 0], top_k=top_k)) == min(top_k, 30)
            assert len(await vectors.query("i", text="owl", top_k=top_k)) == min(top_k, 30)

    async def test_least_similarity(self, vectors: VectorStore) -> None:
        await vectors.create_index("i", dimension=2)
        await vectors.upsert("i", [[1, 0], [1, 1], [0, 1]], ids=[*"abc"], texts=["owl"] * 3)
        hits = await vectors.query("i", [1, 0], min_score=0.5)
        assert [h.id for h in hits] == ["a", "b"]
        both = await vectors.query("i", [1, 0], text="owl", min_score=0.5)
        assert {h.id for h in both} == {"a", "b"}

    async def test_a_filter_never_makes_an_answer_short(self, vectors: VectorStore) -> None:
        """The best of those that match, even if all that do not are nearer."""
        await vectors.create_index("i", dimension=8, metadata_indexes=["even"])
        given = rows(400, 8)
        facts = [{"n": n, "even": n % 2 == 0, "rare": n % 50 == 0} for n in range(400)]
        await vectors.upsert("i", given, ids=[str(n) for n in range(400)], metadata=facts)
        asked = rows(1, 8, seed=2)[0]
        narrow: tuple[Filter, ...]
        narrow = ({"rare": True}, {"even": False}, {"n": {"$gte": 390}}, {"n": -1})
        for filter in narrow:
            left = [n for n in range(400) if conditions.matches(conditions.parse(filter), facts[n])]
            want = sorted(left, key=lambda n: -score_of("cosine", asked, given[n]))[:10]
            hits = await vectors.query("i", asked, filter=filter)
            assert [h.id for h in hits] == [str(n) for n in want]

    async def test_each_operator_holds(self, vectors: VectorStore) -> None:
        await vectors.create_index("i", dimension=2, metadata_indexes=["n", "tag"])
        await vectors.create_index("plain", dimension=2)
        ids = [str(n) for n in range(len(FACTS))]
        for name in ("i", "plain"):
            await vectors.upsert(
                name, [[1, n] for n in range(len(FACTS))], ids=ids, texts=["owl"] * len(ids),
                metadata=FACTS,
            )  # fmt: skip
        for filter in FILTERS:
            want = {
                id
                for id, facts in zip(ids, FACTS, strict=True)
                if conditions.matches(conditions.parse(filter), facts)
            }
            for name in ("i", "plain"):
                found = await vectors.find(name, filter=filter)
                assert {r.id for r in found} == want, filter
                assert await vectors.count(name, filter=filter) == len(want), filter
                for vector, text in (([1, 1], None), (None, "owl"), ([1, 1], "owl")):
                    hits = await vectors.query(name, vector, text=text, filter=filter, top_k=20)
                    assert {h.id for h in hits} == want, (filter, text)

    async def test_a_filter_that_cannot_be_read(self, vectors: VectorStore) -> None:
        await vectors.create_index("i", dimension=1)
        await vectors.upsert("i", [[1]], ids=["a"])
        unreadable: tuple[Filter, ...] = (
            {"a": {"$where": "1"}}, {"$sort": 1}, {"a": {"$in": 3}}, {"$or": {}},
            {"a": {"$size": "x"}}, {"a": object()}, {"": 1}, {"a": math.nan},
        )  # fmt: skip
        for filter in unreadable:
            await raises(ConfigError, vectors.query("i", [1], filter=filter))
            await raises(ConfigError, vectors.delete("i", filter=filter))
        assert await vectors.count("i") == 1

    async def test_a_query_that_does_not_fit(self, vectors: VectorStore) -> None:
        await vectors.create_index("i", dimension=2)
        await vectors.create_index("words", dimension=0)
        for name, given in (
            ("i", {"vector": [1]}), ("i", {"vector": row(1, 2, 3)}), ("i", {}),
            ("i", {"vector": [math.nan, 1]}), ("i", {"text": "x", "top_k": -1}),
            ("words", {"vector": [1]}),
        ):  # fmt: skip
            await raises(MastraError, vectors.query(name, **given))

    # Small numbers

    async def test_int8_is_nearly_the_same(self, vectors: VectorStore) -> None:
        given = rows(200, 32)
        for dtype in ("float32", "int8"):
            await vectors.create_index(dtype, dimension=32, dtype=dtype)
            await vectors.upsert(dtype, given, ids=[str(n) for n in range(200)])
        shared = 0
        for asked in rows(10, 32, seed=3):
            full = await vectors.query("float32", asked)
            small = await vectors.query("int8", asked)
            shared += len({h.id for h in full} & {h.id for h in small})
            assert abs(full[0].score - small[0].score) < 0.02
        assert shared >= 90
        await vectors.upsert("int8", [[0.0] * 32], ids=["zero"])
        (zero,) = await vectors.get("int8", ["zero"], include_vector=True)
        assert zero.vector == row(*[0.0] * 32)
        scores = {h.id: h.score for h in await vectors.query("int8", given[0], top_k=300)}
        assert len(scores) == 201 and scores["zero"] == 0

    # Side by side

    async def test_many_at_once(self, vectors: VectorStore) -> None:
        await vectors.create_index("i", dimension=4)
        given = rows(120, 4)

        async def put(n: int) -> None:
            ids = [str(n * 10 + k) for k in range(10)]
            await vectors.upsert("i", given[n * 10 : n * 10 + 10], ids=ids, texts=["owl"] * 10)

        async def ask(n: int) -> int:
            return len(await vectors.query("i", given[n], text="owl", top_k=200))

        sizes = (await asyncio.gather(*map(put, range(12)), *map(ask, range(12))))[12:]
        assert all(size is not None and size % 10 == 0 for size in sizes)
        assert await vectors.count("i") == 120
        for n in (0, 55, 119):
            assert (await vectors.query("i", given[n], top_k=1))[0].id == str(n)

    async def test_an_entry_is_of_one_writer(self, vectors: VectorStore) -> None:
        await vectors.create_index("i", dimension=1)

        async def put(n: int) -> None:
            facts = [{"n": n}] * 2
            await vectors.upsert("i", [[n], [n]], ids=["x", "y"], texts=[f"w{n}"] * 2,
                                 metadata=facts)  # fmt: skip

        async def look() -> None:
            x, y = await vectors.get("i", ["x", "y"], include_vector=True)
            n = x.metadata["n"]
            for each in (x, y):
                assert (each.metadata["n"], each.text, each.vector) == (n, f"w{n}", row(n))

        await put(0)
        await asyncio.gather(*[call for n in range(1, 16) for call in (put(n), look())])
        last = (await vectors.get("i", ["x"]))[0].metadata["n"]
        for n in range(16):
            found = {h.id for h in await vectors.query("i", text=f"w{n}")}
            assert found == ({"x", "y"} if n == last else set())

    async def test_a_cancelled_upsert_is_whole_or_not_there(self, vectors: VectorStore) -> None:
        await vectors.create_index("i", dimension=4)
        for turns in (0, 1, 2, 4, 8):
            given = vectors.upsert("i", rows(700, 4), texts=["owl"] * 700, delete_filter={})
            task = asyncio.ensure_future(given)
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            count = await vectors.count("i")
            assert count in (0, 700)
            assert len(await vectors.query("i", [1, 0, 0, 0], top_k=2000)) == count
            assert len(await vectors.query("i", text="owl", top_k=2000)) == count

    # What it says of itself

    async def test_stats_and_explain(self, vectors: VectorStore) -> None:
        await vectors.create_index("i", dimension=4, metadata_indexes=["n"])
        await vectors.upsert("i", rows(50, 4), metadata=[{"n": n} for n in range(50)])
        for given in ({"vector": [1, 0, 0, 0]}, {"text": "owl"}):
            told = await vectors.explain("i", **given, filter={"n": {"$lt": 5}})
            assert told.candidates == 5 and told.engine and all(ms >= 0 for ms in told.ms.values())
        await vectors.query("i", [1, 0, 0, 0])
        stats = await vectors.stats("i")
        assert stats.info.count == 50 and stats.engine in ("exact", "sketch", "sqlite-vec")
        assert stats.recall is None or stats.recall > 0.9
