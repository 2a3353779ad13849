"""Embeddings as OpenAI has them, and whoever speaks the same."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Sequence
from typing import Any

from mastra_nb.embedders import EmbedReply, Kind, batches
from mastra_nb.errors import ModelOutputError
from mastra_nb.messages import Usage
from mastra_nb.providers._base import HTTPModel
from mastra_nb.providers._shared import count, decode, excerpt, to_json
from mastra_nb.providers._vendors import Vendor

_MOST_TEXTS = 512


class OpenAIEmbedder:
    """`service` knows the address and the key. `dimensions` shortens the vectors, where a model
    can do that.
    """

    def __init__(self, service: HTTPModel, *, dimensions: int | None = None) -> None:
        self.name = service.name
        self.dimensions = dimensions
        self.batch_bytes = service.vendor.embed_bytes
        self._service = service

    def __repr__(self) -> str:
        return f'{type(self).__name__}("{self.name}")'

    async def embed(self, texts: Sequence[str], *, kind: Kind = "passage") -> EmbedReply:
        """In as many requests as the service wants, one after the other; `kind` is ignored."""
        service = self._service
        rows: list[bytes] = []
        usage, model = Usage(), ""
        for batch in batches(texts, _MOST_TEXTS, self.batch_bytes):
            body = encode(service.vendor, service.model_id, batch, self.dimensions)
            reply = read(service.vendor, await service.post("/embeddings", body), len(batch))
            rows += reply.rows
            usage, model = usage + reply.usage, reply.model
        return EmbedReply(rows=tuple(rows), usage=usage, model=model)


def encode(vendor: Vendor, model_id: str, texts: list[str], dimensions: int | None) -> bytes:
    body: dict[str, Any] = {"model": model_id, "input": texts}
    if vendor.embed_base64:
        body["encoding_format"] = "base64"
    if dimensions is not None:
        body[vendor.dimensions_key] = dimensions
    return to_json.encode(body)


def read(vendor: Vendor, data: bytes, expected: int) -> EmbedReply:
    body = decode(data, vendor.name)
    found = body.get("data")
    rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
    if len(rows) != expected:
        raise ModelOutputError(
            f'"{vendor.name}" answered {expected} texts with {len(rows)} vectors: {excerpt(data)}',
            hint="check the base URL, and that the model is one for embeddings",
        )
    if all(isinstance(row.get("index"), int) for row in rows):
        rows.sort(key=lambda row: row["index"])
    usage = body.get("usage")
    return EmbedReply(
        rows=tuple(_row(vendor, row.get("embedding"), data) for row in rows),
        usage=Usage(input=count(usage, "prompt_tokens") or count(usage, "total_tokens"), calls=1),
        model=str(body.get("model") or ""),
    )


def _row(vendor: Vendor, value: Any, data: bytes) -> bytes:
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
    raise ModelOutputError(f'"{vendor.name}" sent what is not a vector: {excerpt(data)}')
