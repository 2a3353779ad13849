"""Embeddings as OpenAI has them, and whoever speaks the same."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Sequence
from typing import Any, ClassVar

from mastra_nb.embedders import EmbedReply, Kind, batches
from mastra_nb.errors import ModelOutputError
from mastra_nb.messages import Usage
from mastra_nb.providers._base import HTTPModel
from mastra_nb.providers._shared import count, decode, excerpt, to_json
from mastra_nb.providers._vendors import Vendor


class HTTPEmbedder:
    """`service` knows the address and the key. `dimensions` shortens the vectors, where a model
    can do that. A subclass says what one request is.
    """

    most_texts: ClassVar[int] = 512

    def __init__(self, service: HTTPModel, *, dimensions: int | None = None) -> None:
        self.name = service.name
        self.dimensions = dimensions
        self.batch_bytes = service.vendor.embed_bytes
        self._service = service

    def __repr__(self) -> str:
        return f'{type(self).__name__}("{self.name}")'

    async def embed(self, texts: Sequence[str], *, kind: Kind = "passage") -> EmbedReply:
        """In as many requests as the service wants, one after the other."""
        rows: list[bytes] = []
        usage, model = Usage(), ""
        for batch in batches(texts, self.most_texts, self.batch_bytes):
            reply = await self._ask(batch, kind)
            rows += reply.rows
            usage, model = usage + reply.usage, reply.model
        return EmbedReply(rows=tuple(rows), usage=usage, model=model)

    async def _ask(self, texts: list[str], kind: Kind) -> EmbedReply:
        raise NotImplementedError


class OpenAIEmbedder(HTTPEmbedder):
    """`kind` is ignored."""

    async def _ask(self, texts: list[str], kind: Kind) -> EmbedReply:
        service = self._service
        body = encode(service.vendor, service.model_id, texts, self.dimensions)
        return read(service.vendor, await service.post("/embeddings", body), len(texts))


def encode(vendor: Vendor, model_id: str, texts: list[str], dimensions: int | None) -> bytes:
    body: dict[str, Any] = {"model": model_id, "input": texts}
    if vendor.embed_base64:
        body["encoding_format"] = "base64"
    if dimensions is not None:
        body[vendor.dimensions_key] = dimensions
    return to_json.encode(body)


def read(vendor: Vendor, data: bytes, expected: int) -> EmbedReply:
    body = decode(data, vendor.name)
    rows = entries(vendor.name, body.get("data"), data, expected)
    if all(isinstance(row.get("index"), int) for row in rows):
        rows.sort(key=lambda row: row["index"])
    usage = body.get("usage")
    return EmbedReply(
        rows=tuple(vector(vendor.name, row.get("embedding"), data) for row in rows),
        usage=Usage(input=count(usage, "prompt_tokens") or count(usage, "total_tokens"), calls=1),
        model=str(body.get("model") or ""),
    )


def entries(label: str, found: Any, data: bytes, expected: int) -> list[dict[str, Any]]:
    """The objects of an answer, one per text; raises ModelOutputError."""
    rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
    if len(rows) != expected:
        raise ModelOutputError(
            f'"{label}" answered {expected} texts with {len(rows)} vectors: {excerpt(data)}',
            hint="check the base URL, and that the model is one for embeddings",
        )
    return rows


def vector(label: str, value: Any, data: bytes) -> bytes:
    """Vectors come as numbers or as base64 of the bytes that we want."""
    try:
        if isinstance(value, str):
            row = base64.b64decode(value, validate=True)
            if row and len(row) % 4 == 0:
                return row
        elif isinstance(value, list) and value:
            return struct.pack(f"<{len(value)}f", *value)
    except (binascii.Error, struct.error):
        pass
    raise ModelOutputError(f'"{label}" sent what is not a vector: {excerpt(data)}')
