from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from mastra_nb.context import Context
from mastra_nb.embedders import Embedded, EmbedReply, embed_many
from mastra_nb.errors import ModelError, ModelHTTPError, ModelOutputError, UsageError
from mastra_nb.messages import Usage
from mastra_nb.progress import set_progress
from mastra_nb.runs import Run
from mastra_nb.testing import FakeEmbedder


class Cache:
    def __init__(self) -> None:
        self.rows: dict[tuple[str, bytes], bytes] = {}
        self.asked = 0

    async def get(self, model: str, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        self.asked += 1
        return {d: self.rows[model, d] for d in digests if (model, d) in self.rows}

    async def put(self, model: str, rows: Mapping[bytes, bytes]) -> None:
        self.rows.update({(model, d): row for d, row in rows.items()})


class Seen:
    def __init__(self) -> None:
        self.said: list[Any] = []

    def start(self, total: int | None, what: str) -> None:
        self.said.append((total, what))

    def advance(self, n: int = 1) -> None:
        self.said.append(n)

    def note(self, text: str) -> None:
        self.said.append(text)

    def close(self) -> None:
        self.said.append("end")


class Raw:
    """Gives what it is told to; `longest` is in characters."""

    name = "openai/text-embedding-3-small"

    def __init__(self, *replies: tuple[bytes, ...], longest: int = 0) -> None:
        self.dimensions: int | None = None
        self.replies = list(replies)
        self.longest = longest
        self.calls: list[list[str]] = []
        self.kinds: list[str] = []
        self.now = self.most = 0

    async def embed(self, texts: Sequence[str], *, kind: str = "passage") -> EmbedReply:
        self.calls.append([*texts])
        self.kinds.append(kind)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        if self.longest and any(len(t) > self.longest for t in texts):
            raise ModelHTTPError("too many tokens", status=400, code="model.context_length")
        rows = self.replies.pop(0) if self.replies else (b"\0" * 8,) * len(texts)
        return EmbedReply(rows=rows, usage=Usage(input=len(texts), calls=1), model="m")


async def test_order_is_kept_and_equal_texts_are_sent_once() -> None:
    embedder = FakeEmbedder()
    texts = ["b", "a", "b", "c"]
    reply = await embed_many(embedder, texts, batch_size=2)
    assert embedder.calls == [("b", "a"), ("c",)]
    assert reply.rows == (await FakeEmbedder().embed(texts)).rows
    assert (reply.usage.calls, reply.usage.input, reply.model) == (2, 3, "fake/words")
    assert await embed_many(embedder, []) == Embedded(rows=())


async def test_a_job_that_failed_goes_on_where_it_was() -> None:
    embedder, cache = FakeEmbedder(), Cache()
    texts = [f"text {i}" for i in range(10)]
    embedder.fail[4] = ModelError("down")
    with pytest.raises(ModelError, match="down"):
        await embed_many(embedder, texts, cache=cache, batch_size=2, concurrency=1)
    assert len(cache.rows) == 6
    reply = await embed_many(embedder, texts, cache=cache, batch_size=2)
    assert embedder.calls[4:] == [("text 6", "text 7"), ("text 8", "text 9")]
    assert reply.rows == (await FakeEmbedder().embed(texts)).rows
    again = await embed_many(embedder, texts, cache=cache)
    assert (again.rows, again.usage, len(embedder.calls)) == (reply.rows, Usage(), 6)
    assert cache.asked == 3


async def test_an_interrupt_keeps_what_was_done() -> None:
    cache = Cache()

    class Slow(FakeEmbedder):
        async def embed(self, texts: Sequence[str], *, kind: Any = "passage") -> EmbedReply:
            if "d" in texts:
                await asyncio.sleep(60)
            return await super().embed(texts, kind=kind)

    task = asyncio.create_task(
        embed_many(Slow(), ["a", "b", "c", "d"], cache=cache, batch_size=1, concurrency=2)
    )
    while len(cache.rows) < 3:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(cache.rows) == 3


async def test_the_cache_tells_kinds_and_dimensions_apart() -> None:
    cache = Cache()
    for embedder in (FakeEmbedder(8), FakeEmbedder(16)):
        await embed_many(embedder, ["a"], cache=cache)
        await embed_many(embedder, ["a"], cache=cache, kind="query")
        assert len(embedder.calls) == 2
    assert {model for model, _ in cache.rows} == {"fake/words@8", "fake/words@16"}


async def test_batches_by_bytes_and_no_more_than_some_at_once() -> None:
    embedder: Any = Raw()
    embedder.batch_bytes = 4
    texts = [str(i) * 2 for i in range(10, 30)]
    await embed_many(embedder, texts, concurrency=3, kind="query")
    assert (len(embedder.calls), embedder.most, {*embedder.kinds}) == (20, 3, {"query"})


async def test_what_it_costs() -> None:
    reply = await embed_many(Raw(), ["a", "b"])
    assert reply.usage.input == 2
    assert reply.usage.cost is None or reply.usage.cost > 0


async def test_a_text_that_is_too_long_is_named() -> None:
    embedder, cache = Raw(longest=10), Cache()
    texts = ["a", "b", "x" * 11, "c"]
    with pytest.raises(ModelHTTPError, match="text 2 is too long") as caught:
        await embed_many(embedder, texts, cache=cache)
    assert "chunks" in caught.value.hint and caught.value.code == "model.context_length"
    assert embedder.calls == [texts, ["a", "b"], ["x" * 11, "c"], ["x" * 11]]
    assert len(cache.rows) == 2


@pytest.mark.parametrize("text", ["", " \n"])
async def test_an_empty_text_is_named_before_anything_is_sent(text: str) -> None:
    embedder = FakeEmbedder()
    with pytest.raises(UsageError, match="text 1 is empty"):
        await embed_many(embedder, ["a", text])
    assert embedder.calls == []


@pytest.mark.parametrize("option", [{"batch_size": 0}, {"concurrency": 0}])
async def test_bad_options(option: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="1 or more"):
        await embed_many(FakeEmbedder(), ["a"], **option)


@pytest.mark.parametrize(
    ("replies", "said"),
    [
        ([(b"\0" * 8,)], "1 vectors for 2 texts"),
        ([(b"\0" * 8, b"\0" * 12)], "2 and 3 dimensions"),
        ([(b"", b"")], "0 bytes"),
        ([(b"\0" * 8,) * 2, (b"\0" * 12,) * 2], "2 and 3 dimensions"),
    ],
)
async def test_vectors_that_do_not_fit(replies: list[tuple[bytes, ...]], said: str) -> None:
    texts = [str(i) for i in range(2 * len(replies))]
    with pytest.raises(ModelOutputError, match=said):
        await embed_many(Raw(*replies), texts, batch_size=2, concurrency=1)


async def test_dimensions_that_were_not_asked_for() -> None:
    embedder = Raw()
    embedder.dimensions = 3
    with pytest.raises(ModelOutputError, match="2 and 3 dimensions"):
        await embed_many(embedder, ["a"])


async def test_progress() -> None:
    cache, seen = Cache(), Seen()
    await embed_many(FakeEmbedder(), ["a"], cache=cache)
    set_progress(lambda: seen)
    try:
        await embed_many(FakeEmbedder(), ["a", "b", "b", "c"], cache=cache, batch_size=1)
        await embed_many(FakeEmbedder(), ["one batch"])
    finally:
        set_progress(None)
    assert seen.said == [(4, "embedding with fake/words"), 1, 2, 1, "end"]
    own = Seen()
    await embed_many(FakeEmbedder(), ["a"], progress=own)
    assert own.said == [0, 1]


class Target:
    name, kind = "indexing", "step"

    def __init__(self, embedder: FakeEmbedder) -> None:
        self.embedder = embedder

    async def invoke(self, input: Any, ctx: Context) -> int:
        reply = await embed_many(self.embedder, ["secret words", "b"], batch_size=1, concurrency=1)
        return len(reply.rows)


def embedding_spans(run: Run[Any]) -> list[Any]:
    return [span for span in run.view.spans.values() if span.kind == "embedding"]


async def test_in_a_run_it_is_a_span_that_counts_and_keeps_no_texts() -> None:
    embedder = FakeEmbedder()
    run = Run(Target(embedder), None)
    assert await run == 2
    (span,) = embedding_spans(run)
    assert (span.name, span.input["texts"], span.usage.input, span.usage.calls) == (
        "fake/words", 2, 3, 2,
    )  # fmt: skip
    assert (run.usage.input, run.log.meter.usage.input) == (3, 3)
    assert "secret" not in str(run.log.events)
    again = Run(run.target, None, id=run.id, past=run.log.events[:-1], go_on=True)
    assert await again == 2
    assert len(embedder.calls) == 4 and len(embedding_spans(again)) == 1


async def test_what_a_failed_job_spent_counts() -> None:
    embedder = FakeEmbedder()
    embedder.fail[2] = ModelError("down")
    run = Run(Target(embedder), None)
    with pytest.raises(ModelError, match="down"):
        await run
    assert (embedding_spans(run)[0].status, run.usage.input) == ("error", 2)
