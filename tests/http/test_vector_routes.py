"""Vectors asked for oddly, or by somebody they are not for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from mastra_nb import Mastra
from mastra_nb.config import Secret
from mastra_nb.server.application import create_app
from mastra_nb.server.options import ServerOptions

ADMIN, ANN = {"authorization": "Bearer of-all"}, {"authorization": "Bearer of-ann"}
HIT = {"indexName": "docs", "queryVector": [1, 0]}


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    options = ServerOptions(token=Secret("of-all"), tokens={"of-ann": "ann"})
    gate = create_app(Mastra(storage="memory://"), options=options)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(gate),
        base_url="http://localhost/api/vector/default",
        headers=ADMIN,
    ) as made:
        await made.post("/create-index", json={"indexName": "docs", "dimension": 2})
        entries = {"vectors": [[1, 0], [0, 1]], "ids": ["a", "b"], "metadata": [{"n": 1}, {}]}
        await made.post("/upsert", json={"indexName": "docs", **entries})
        yield made


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/indexes", None),
        ("GET", "/indexes/docs", None),
        ("DELETE", "/indexes/docs", None),
        ("POST", "/create-index", {"indexName": "mine", "dimension": 2}),
        ("POST", "/upsert", {"indexName": "docs", "vectors": [[1, 1]], "ids": ["a"]}),
        ("POST", "/query", HIT),
    ],
)
async def test_vectors_are_for_who_may_see_all(
    http: httpx.AsyncClient, method: str, path: str, body: Any
) -> None:
    answer = await http.request(method, path, json=body, headers=ANN)
    assert answer.status_code == 404, answer.text
    stores = await http.get("http://localhost/api/vectors", headers=ANN)
    assert stores.json() == {"vectors": []}
    assert (await http.get("/indexes/docs")).json()["count"] == 2
    assert (await http.get("/indexes")).json() == ["docs"]
    (hit, _) = (await http.post("/query", json=HIT)).json()
    assert (hit["id"], hit["metadata"]) == ("a", {"n": 1})
    assert "vector" not in hit


@pytest.mark.parametrize(
    "name", ["", "a" * 5000, "x; DROP TABLE runs", "'", '"', "a\x00b", "../docs", "\ud800", " "]
)
async def test_names_of_indexes_are_only_names(http: httpx.AsyncClient, name: str) -> None:
    for path, body in (
        ("/create-index", {"indexName": name, "dimension": 2}),
        ("/upsert", {"indexName": name, "vectors": [[1, 0]]}),
        ("/query", {**HIT, "indexName": name}),
    ):
        answer = await http.post(
            path, content=json.dumps(body), headers={"content-type": "application/json"}
        )
        assert answer.status_code < 500, (path, answer.text)
    assert "docs" in (await http.get("/indexes")).json()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/create-index", {"indexName": "x", "dimension": 0}),
        ("/create-index", {"indexName": "x", "dimension": 10**9}),
        ("/create-index", {"indexName": "x", "dimension": 2, "metric": "hamming"}),
        ("/upsert", {"indexName": "docs", "vectors": [[1, 0], [1]]}),
        ("/upsert", {"indexName": "docs", "vectors": [[1]]}),
        ("/upsert", {"indexName": "docs", "vectors": [["x", 0]]}),
        ("/upsert", {"indexName": "docs", "vectors": [[1, 0]], "ids": []}),
        ("/upsert", {"indexName": "docs", "vectors": [[1, 0]], "metadata": [{}, {}]}),
        ("/upsert", {"indexName": "docs", "vectors": [[1e308, 1e308]]}),
        ("/query", {**HIT, "queryVector": []}),
        ("/query", {**HIT, "queryVector": [1, 0, 0]}),
        ("/query", {**HIT, "topK": 0}),
        ("/query", {**HIT, "topK": 10**9}),
        ("/query", {**HIT, "filter": {"$where": "1"}}),
        ("/query", {**HIT, "filter": {"n": {"$regex": "(a+)+$"}}}),
        ("/query", {**HIT, "filter": {"$and": 5}}),
        ("/query", {**HIT, "indexName": "none"}),
    ],
)
async def test_what_fits_no_index_is_refused(
    http: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    answer = await http.post(path, json=body)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["error"]
    assert (await http.get("/indexes/docs")).json()["count"] == 2


async def test_another_store_is_not_there(http: httpx.AsyncClient) -> None:
    for path in ("other/indexes", "other/indexes/docs", "default/indexes/none"):
        answer = await http.get(f"http://localhost/api/vector/{path}")
        assert answer.status_code == 404, path
    assert (await http.delete("/indexes/none")).status_code == 404
