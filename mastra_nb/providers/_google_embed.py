"""Embeddings of Gemini: batchEmbedContents at the Gemini API, predict at Vertex AI.

Sources: the references of both methods, the types of the official SDK.
"""

from __future__ import annotations

from typing import Any

from mastra_nb.embedders import EmbedReply, Kind
from mastra_nb.messages import Usage
from mastra_nb.providers._base import HTTPModel
from mastra_nb.providers._embeddings import HTTPEmbedder, entries, vector
from mastra_nb.providers._shared import count, decode, to_json

_TASKS: dict[Kind, str] = {"query": "RETRIEVAL_QUERY", "passage": "RETRIEVAL_DOCUMENT"}


class GeminiEmbedder(HTTPEmbedder):
    """At most 100 texts a request. The service cuts what is too long without saying so."""

    most_texts = 100

    async def _ask(self, texts: list[str], kind: Kind) -> EmbedReply:
        service = self._service
        body = encode(service.model_id, texts, kind, self.dimensions)
        path = f"/{_model(service.model_id)}:batchEmbedContents"
        data = await service.post(path, body)
        return read(service.vendor.name, data, len(texts), service.model_id)


class VertexEmbedder(HTTPEmbedder):
    """Gemini's own embedding models take one text a request here."""

    def __init__(self, service: HTTPModel, *, dimensions: int | None = None) -> None:
        super().__init__(service, dimensions=dimensions)
        if service.model_id.rpartition("/")[2].startswith("gemini"):
            self.batch_bytes = 1

    async def _ask(self, texts: list[str], kind: Kind) -> EmbedReply:
        service = self._service
        body = encode_predict(texts, kind, self.dimensions)
        name = service.model_id
        resource = name if "/" in name else f"publishers/google/models/{name}"
        data = await service.post(f"/{resource}:predict", body)
        return read_predict(service.vendor.name, data, len(texts), name)


def _model(model_id: str) -> str:
    return model_id if "/" in model_id else f"models/{model_id}"


def encode(model_id: str, texts: list[str], kind: Kind, dimensions: int | None) -> bytes:
    shared: dict[str, Any] = {"model": _model(model_id), "taskType": _TASKS[kind]}
    if dimensions is not None:
        shared["outputDimensionality"] = dimensions
    return to_json.encode(
        {"requests": [{**shared, "content": {"parts": [{"text": text}]}} for text in texts]}
    )


def read(label: str, data: bytes, expected: int, model_id: str) -> EmbedReply:
    body = decode(data, label)
    rows = entries(label, body.get("embeddings"), data, expected)
    used = count(body.get("usageMetadata"), "promptTokenCount")
    return EmbedReply(
        rows=tuple(vector(label, row.get("values"), data) for row in rows),
        usage=Usage(input=used, calls=1),
        model=model_id,
    )


def encode_predict(texts: list[str], kind: Kind, dimensions: int | None) -> bytes:
    parameters: dict[str, Any] = {"autoTruncate": False}
    if dimensions is not None:
        parameters["outputDimensionality"] = dimensions
    instances = [{"content": text, "task_type": _TASKS[kind]} for text in texts]
    return to_json.encode({"instances": instances, "parameters": parameters})


def read_predict(label: str, data: bytes, expected: int, model_id: str) -> EmbedReply:
    rows = entries(label, decode(data, label).get("predictions"), data, expected)
    found = [e if isinstance(e := row.get("embeddings"), dict) else {} for row in rows]
    return EmbedReply(
        rows=tuple(vector(label, one.get("values"), data) for one in found),
        usage=Usage(
            input=sum(count(one.get("statistics"), "token_count") for one in found), calls=1
        ),
        model=model_id,
    )
