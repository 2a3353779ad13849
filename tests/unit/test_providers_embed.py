from __future__ import annotations

import json
from typing import Any

import pytest
from google.genai import types

from mastra_nb.embedders import embed_many, resolve
from mastra_nb.errors import ModelHTTPError, ModelOutputError
from mastra_nb.messages import Usage
from mastra_nb.providers._google_embed import (
    GeminiEmbedder,
    VertexEmbedder,
    encode,
    read,
    read_predict,
)
from mastra_nb.providers.google import GoogleModel, VertexModel
from mastra_nb.providers.ollama import OllamaEmbedder, OllamaModel, read_vectors
from tests.http.server import Answer, serve


def answering(body: Any, status: int = 200) -> Any:
    def script(number: int) -> Answer:
        pieces = [json.dumps(body).encode()]
        return Answer(status=status, headers={"content-type": "application/json"}, pieces=pieces)

    return script


def test_requests_are_of_the_types_of_the_sdk() -> None:
    body = json.loads(encode("gemini-embedding-001", ["a", "b"], "query", 512))
    for one in body["requests"]:
        assert one.pop("model") == "models/gemini-embedding-001"
        types.Content.model_validate(one.pop("content"))
        config = types.EmbedContentConfig.model_validate(one)
        assert (config.task_type, config.output_dimensionality) == ("RETRIEVAL_QUERY", 512)
    (plain,) = json.loads(encode("m", ["a"], "passage", None))["requests"]
    assert plain["taskType"] == "RETRIEVAL_DOCUMENT" and "outputDimensionality" not in plain


async def test_gemini() -> None:
    answer = {"embeddings": [{"values": [1, 0.5]}], "usageMetadata": {"promptTokenCount": 3}}
    async with serve(answering(answer)) as server:
        service = GoogleModel("gemini-embedding-001", base_url=server.url, api_key="canary")
        reply = await GeminiEmbedder(service).embed(["a"], kind="query")
        ((headers, _),) = server.requests
    assert server.paths[0].endswith("/models/gemini-embedding-001:batchEmbedContents")
    assert headers["x-goog-api-key"] == "canary"
    assert reply.vectors.tolist() == [[1.0, 0.5]]
    assert reply.usage == Usage(input=3, calls=1)


async def test_vertex_asks_for_its_token_and_sends_one_text_at_a_time() -> None:
    one = {"embeddings": {"values": [1.0], "statistics": {"token_count": 2}}}
    async with serve(answering({"predictions": [one]})) as server:
        service = VertexModel(
            "gemini-embedding-001", base_url=server.url, project="p", token=lambda: "t"
        )
        reply = await VertexEmbedder(service, dimensions=1).embed(["a", "b"])
        (headers, _), (_, second) = server.requests
    assert server.paths[0].endswith("/publishers/google/models/gemini-embedding-001:predict")
    assert headers["authorization"] == "Bearer t"
    assert second == {
        "instances": [{"content": "b", "task_type": "RETRIEVAL_DOCUMENT"}],
        "parameters": {"autoTruncate": False, "outputDimensionality": 1},
    }
    assert (len(reply.rows), reply.usage) == (2, Usage(input=4, calls=2))


async def test_ollama() -> None:
    answer = {"model": "m", "embeddings": [[1, 2], [3, 4]], "prompt_eval_count": 7}
    async with serve(answering(answer)) as server:
        service = OllamaModel("m", base_url=server.url)
        reply = await OllamaEmbedder(service, dimensions=2).embed(["a", "b"])
        ((_, body),) = server.requests
    assert server.paths == ["/api/embed"]
    assert body == {
        "model": "m", "input": ["a", "b"], "truncate": False, "dimensions": 2,
    }  # fmt: skip
    assert reply.vectors.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert reply.usage == Usage(input=7, calls=1, cost=0.0)


async def test_ollama_says_that_a_text_is_too_long() -> None:
    answer = {"error": "the input length exceeds the context length"}
    async with serve(answering(answer, 400)) as server:
        service = OllamaModel("m", base_url=server.url)
        with pytest.raises(ModelHTTPError, match="text 0 is too long") as caught:
            await embed_many(OllamaEmbedder(service), ["a"])
    assert caught.value.code == "model.context_length"


@pytest.mark.parametrize(
    "bad",
    [{}, {"embeddings": 3}, {"embeddings": [[]]}, {"embeddings": ["?"]},
     {"embeddings": [{"values": ["x"]}]}, {"embeddings": [{}, {}]}, {"predictions": [{}]},
     {"predictions": [{"embeddings": 1}]}],
)  # fmt: skip
def test_what_is_no_vector(bad: Any) -> None:
    data = json.dumps(bad).encode()
    for reader in (
        lambda: read("google", data, 1, "m"),
        lambda: read_predict("vertex", data, 1, "m"),
        lambda: read_vectors("ollama", data, 1),
    ):
        with pytest.raises(ModelOutputError):
            reader()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("google/m", "GeminiEmbedder"), ("gemini/m", "GeminiEmbedder"), ("vertex/m", "VertexEmbedder"),
     ("ollama/m", "OllamaEmbedder"), ("openai/m", "OpenAIEmbedder")],
)  # fmt: skip
def test_by_name(name: str, kind: str) -> None:
    found = resolve(name, dimensions=512)
    assert (type(found).__name__, found.dimensions) == (kind, 512)
