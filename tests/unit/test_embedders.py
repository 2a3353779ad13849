from __future__ import annotations

import base64
import json
import struct
import subprocess
import sys
from typing import Any

import pytest

from mastra_nb.embedders import EmbedReply, RecordedEmbedder, batches, embedded, resolve
from mastra_nb.errors import ConfigError, ModelError, ModelHTTPError, ModelOutputError, NotFound
from mastra_nb.messages import Usage
from mastra_nb.providers._embeddings import OpenAIEmbedder, encode, read
from mastra_nb.providers._vendors import VENDORS
from mastra_nb.providers.openai import OpenAIModel
from mastra_nb.testing import FakeEmbedder
from tests.http.server import Answer, serve

OPENAI = VENDORS["openai"]


def packed(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def answer(*vectors: Any, order: list[int] | None = None, **fields: Any) -> bytes:
    rows = [
        {"object": "embedding", "index": i, "embedding": v}
        for i, v in zip(order or range(len(vectors)), vectors, strict=True)
    ]
    return json.dumps(
        {"object": "list", "data": rows, "model": "m-1", "usage": {"prompt_tokens": 5}, **fields}
    ).encode()


def test_numbers_and_base64_are_the_same_rows() -> None:
    coded = base64.b64encode(packed(1.0, 0.5)).decode()
    numbers, text = read(OPENAI, answer([1, 0.5]), 1), read(OPENAI, answer(coded), 1)
    assert numbers == text
    assert numbers.rows == (packed(1.0, 0.5),)
    assert (numbers.dimensions, numbers.model) == (2, "m-1")
    assert numbers.usage == Usage(input=5, calls=1)


def test_rows_are_in_the_order_of_their_index() -> None:
    assert read(OPENAI, answer([2.0], [1.0], order=[1, 0]), 2).rows == (packed(1.0), packed(2.0))


def test_vectors_are_one_array() -> None:
    found = EmbedReply(rows=(packed(1, 2, 3), packed(4, 5, 6))).vectors
    assert (found.shape, found.dtype.name) == ((2, 3), "float32")
    assert found[1].tolist() == [4.0, 5.0, 6.0]
    assert EmbedReply(rows=()).vectors.shape == (0, 0)


@pytest.mark.parametrize(
    "bad",
    [b"{}", b"<html>", answer(), answer([1.0], [1.0]), answer("???"), answer("AAA="), answer([]),
     answer(["x"]), answer(None), b'{"data": 3}'],
)  # fmt: skip
def test_what_is_no_vector(bad: bytes) -> None:
    with pytest.raises(ModelOutputError):
        read(OPENAI, bad, 1)


def test_batches_hold_no_more_than_a_request_may() -> None:
    texts = ["äää", "bb", "c" * 50, "d"]
    assert list(batches(texts, 512, 8)) == [["äää", "bb"], ["c" * 50], ["d"]]
    assert [len(b) for b in batches(["x"] * 1_100, 512, 10**9)] == [512, 512, 76]
    assert list(batches([], 512, 8)) == []


def test_requests() -> None:
    assert json.loads(encode(OPENAI, "m", ["a"], 3)) == {
        "model": "m", "input": ["a"], "encoding_format": "base64", "dimensions": 3,
    }  # fmt: skip
    assert json.loads(encode(VENDORS["mistral"], "m", ["a"], 3)) == {
        "model": "m", "input": ["a"], "output_dimension": 3,
    }  # fmt: skip


async def test_many_texts_over_http() -> None:
    def script(number: int) -> Answer:
        vectors = [[float(i)] for i in range((2, 1)[number])]
        return Answer(headers={"content-type": "application/json"}, pieces=[answer(*vectors)])

    async with serve(script) as server:
        service = OpenAIModel("m", vendor="mistral", base_url=server.url, api_key="canary")
        reply = await OpenAIEmbedder(service).embed(["a" * 20_000, "b" * 20_000, "c" * 20_000])
        assert len(server.requests) == 2
    assert reply.rows == (packed(0), packed(1), packed(0))
    assert reply.usage == Usage(input=10, calls=2)


async def test_errors_of_the_service_are_those_of_a_model() -> None:
    def script(number: int) -> Answer:
        body = b'{"error": {"message": "bad key"}}'
        return Answer(status=401, headers={"content-type": "application/json"}, pieces=[body])

    async with serve(script) as server:
        service = OpenAIModel("m", vendor="openai", base_url=server.url, api_key="canary")
        with pytest.raises(ModelHTTPError, match="bad key") as caught:
            await OpenAIEmbedder(service).embed(["a"])
    assert (caught.value.status, caught.value.hint) == (401, "check the key in api_key")
    assert "canary" not in repr(caught.value.__dict__)


async def test_no_texts_are_no_request() -> None:
    assert await resolve("openai/text-embedding-3-small").embed([]) == EmbedReply(rows=())


def test_by_name() -> None:
    found = resolve("openai/text-embedding-3-small")
    assert (found.name, found.dimensions) == ("openai/text-embedding-3-small", None)
    assert repr(found) == 'OpenAIEmbedder("openai/text-embedding-3-small")'
    assert resolve(found) is found
    with pytest.raises(ConfigError, match="names no provider"):
        resolve("text-embedding-3-small")
    with pytest.raises(NotFound, match="openia"):
        resolve("openia/x")


def test_importing_loads_neither_numpy_nor_a_provider() -> None:
    code = (
        "import sys, mastra_nb.embedders\n"
        "assert not {'numpy', 'httpx', 'mastra_nb.providers._base'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "reply",
    [
        None,
        [[1.0]],
        EmbedReply(rows=()),
        EmbedReply(rows=(packed(1), packed(1))),
        EmbedReply(rows=(b"12345",)),
        EmbedReply(rows=(b"",)),
        EmbedReply(rows=(packed(float("nan")),)),
        EmbedReply(rows=(packed(float("inf"), float("-inf")),)),
    ],
)
async def test_what_is_no_reply_is_told(reply: Any) -> None:
    class Bad:
        name = "my/own"
        dimensions = None

        async def embed(self, texts: Any, **kind: Any) -> Any:
            return reply

    with pytest.raises(ModelOutputError, match="my/own"):
        await embedded(Bad(), ["a"])


def test_an_object_that_cannot_embed_is_no_embedder() -> None:
    with pytest.raises(ConfigError, match="int is no embedder"):
        resolve(5)  # type: ignore[arg-type]


class Kept(dict[str, Any]):
    async def get(self, kind: str, id: str) -> Any:  # type: ignore[override]
        return super().get(id)

    async def put(self, kind: str, id: str, value: Any) -> None:
        self[id] = value


async def test_what_was_recorded_is_not_asked_again() -> None:
    docs: Any = Kept()
    fake = FakeEmbedder()
    first = await RecordedEmbedder(fake, docs, "record").embed(["a", "b b"])
    again = await RecordedEmbedder(fake, docs, "only").embed(["b b", "a", "a"])
    assert (again.rows, again.usage.input) == (
        (*first.rows[::-1], first.rows[0]),
        first.usage.input,
    )
    assert fake.calls == [("a", "b b")]
    auto = await RecordedEmbedder(fake, docs, "auto").embed(["a", "c"])
    assert auto.rows[0] == first.rows[0] and fake.calls[1:] == [("c",)]
    for texts, kind in ((["d"], "passage"), (["a"], "query")):
        with pytest.raises(ModelError, match="no recording") as caught:
            await RecordedEmbedder(fake, docs, "only").embed(texts, kind=kind)  # type: ignore[arg-type]
        assert "replay record" in caught.value.hint
