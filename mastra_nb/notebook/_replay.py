"""Record and replay of the calls that a notebook makes of models and embedders."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

from mastra_nb import plugins
from mastra_nb.embedders import RecordedEmbedder
from mastra_nb.models import Model, Recorder, ReplayMode
from mastra_nb.services import Services, random_id
from mastra_nb.storage import Store

# Where the model that the notebook used by default is kept: a replay may have no key to tell.
_KIND, _ID = "replay", "default-model"


class Replay:
    """Puts a mode into effect on the services of a notebook, whose own store is `store`.

    While it is `only`, runs and threads live in memory and ids are numbers, so that nothing is
    written and two replays are equal.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self.mode: ReplayMode = "off"
        self.recorder: Recorder | None = None

    def set(self, mode: ReplayMode, store: Store) -> None:
        services = self._services
        self.mode = mode
        self.recorder = None if mode == "off" else Recorder(store, mode)
        services.wrap_model = None if self.recorder is None else self.recorder.wrap
        services.wrap_embedder = (
            None if mode == "off" else lambda inner: RecordedEmbedder(inner, store, mode)
        )
        services.now = time.time if self.recorder is None else self.recorder.now
        services.new_id = random_id
        services.store = store
        if mode == "only":
            count = itertools.count(1)
            services.new_id = lambda: f"r_{next(count):04d}"
            services.store = plugins.stores.load("memory")("memory://")

    def anew(self) -> Callable[[Model], Model] | None:
        """`wrap_model` for a run that asks its model whatever was recorded. `only` still holds."""
        if self.mode == "auto" and self.recorder is not None:
            return Recorder(self.recorder.docs, "record").wrap
        return self._services.wrap_model


async def remember_model(store: Store, model: str) -> None:
    await store.put(_KIND, _ID, {"model": model})


async def remembered_model(store: Store) -> str | None:
    kept = await store.get(_KIND, _ID)
    model = kept.get("model") if isinstance(kept, dict) else None
    return model if isinstance(model, str) else None
