"""Vector indexes over REST. They belong to nobody: who is bound to a resource finds none."""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from mastra_nb.errors import NotFound
from mastra_nb.server._routes import BadRequest, Call, Json, Routes
from mastra_nb.vectors import Metric, VectorStore

routes = Routes("Vectors")

NAME = "default"
_MOST = 1000


def vectors_of(call: Call) -> VectorStore:
    """Raises NotFound."""
    if call.resource is not None or call.app.store is None or call.path.get("name", NAME) != NAME:
        raise NotFound("Vector not found")
    return call.app.vectors


@routes.get("/vectors", response=dict[str, Any])
async def list_vectors(call: Call) -> Json:
    """The vector stores: that of the application"""
    there = call.resource is None and call.app.store is not None
    found = [{"id": NAME, "name": NAME, "type": "sqlite-vec"}] if there else []
    return {"vectors": found}


@routes.get("/embedders", response=dict[str, Any])
async def list_embedders(call: Call) -> Json:
    """Embedders: those of memory, by name"""
    found: dict[str, Json] = {}
    for agent in call.app.agents.values():
        embedder = agent.memory.embedder if agent.memory is not None else None
        if embedder is not None:
            provider = embedder.name.partition("/")[0]
            found[embedder.name] = {
                "id": embedder.name,
                "provider": provider,
                "name": embedder.name,
                "description": "",
                "dimensions": embedder.dimensions or 0,
                "maxInputTokens": 0,
            }
    return {"embedders": [*found.values()]}


class CreateBody(msgspec.Struct, rename="camel"):
    index_name: str
    dimension: int
    metric: Metric = "cosine"


@routes.post("/vector/{name}/create-index", body=CreateBody, response=dict[str, Any])
async def create_index(call: Call) -> Json:
    """Make an index"""
    body = call.body
    if not 0 < body.dimension <= 65_536:
        raise BadRequest("Invalid request body", [{"field": "dimension", "message": "1 or more"}])
    await vectors_of(call).create_index(
        body.index_name, dimension=body.dimension, metric=body.metric
    )
    return {"success": True}


@routes.get("/vector/{name}/indexes", response=list[str])
async def list_indexes(call: Call) -> list[str]:
    """Names of the indexes"""
    return await vectors_of(call).list_indexes()


@routes.get("/vector/{name}/indexes/{indexName}", response=dict[str, Any])
async def describe_index(call: Call) -> Json:
    """An index: its dimension, metric and size"""
    store, name = vectors_of(call), call.path["indexName"]
    info = await store.describe_index(name)
    count = await store.count(name)
    return {"dimension": info.dimension, "count": count, "metric": info.metric}


@routes.delete("/vector/{name}/indexes/{indexName}", response=dict[str, Any])
async def delete_index(call: Call) -> Json:
    """Delete an index"""
    if not await vectors_of(call).delete_index(call.path["indexName"]):
        raise NotFound("Index not found")
    return {"success": True}


class UpsertBody(msgspec.Struct, rename="camel"):
    index_name: str
    vectors: list[list[float]]
    metadata: list[dict[str, Any]] | None = None
    ids: list[str] | None = None


@routes.post("/vector/{name}/upsert", body=UpsertBody, response=dict[str, Any])
async def upsert(call: Call) -> Json:
    """Insert or replace entries"""
    body = call.body
    for field, given in (("metadata", body.metadata), ("ids", body.ids)):
        if given is not None and len(given) != len(body.vectors):
            raise BadRequest(
                "Invalid request body", [{"field": field, "message": "one for each vector"}]
            )
    ids = await vectors_of(call).upsert(
        body.index_name, _checked(body.vectors, "vectors"), metadata=body.metadata, ids=body.ids
    )
    return {"ids": ids}


class QueryBody(msgspec.Struct, rename="camel"):
    index_name: str
    query_vector: list[float]
    top_k: int = 10
    filter: dict[str, Any] | None = None
    include_vector: bool = False


@routes.post("/vector/{name}/query", body=QueryBody, response=list[Any])
async def query(call: Call) -> list[Json]:
    """The entries that are nearest to a vector"""
    body = call.body
    if not 0 < body.top_k <= _MOST:
        raise BadRequest("Invalid request body", [{"field": "topK", "message": f"1 to {_MOST}"}])
    store = vectors_of(call)
    hits = await store.query(
        body.index_name,
        vector=_checked([body.query_vector], "queryVector")[0],
        top_k=body.top_k,
        filter=body.filter,
        include_vector=body.include_vector,
    )
    return [
        {
            "id": hit.id,
            "score": hit.score,
            "metadata": hit.metadata,
            **({} if hit.vector is None else {"vector": _floats(hit.vector)}),
        }
        for hit in hits
    ]


def _checked(rows: list[list[float]], field: str) -> Any:
    if len({len(row) for row in rows}) > 1:
        raise BadRequest(
            "Invalid request body", [{"field": field, "message": "vectors of one length"}]
        )
    return rows


def _floats(data: bytes) -> list[float]:
    return [*struct.unpack(f"<{len(data) // 4}f", data)]
