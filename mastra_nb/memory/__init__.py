"""Memory and the options of its parts, imported when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mastra_nb.memory._facts import Facts as Facts
    from mastra_nb.memory._observations import ObservationalMemory as ObservationalMemory
    from mastra_nb.memory._recall import SemanticRecall as SemanticRecall
    from mastra_nb.memory._titles import Titles as Titles
    from mastra_nb.memory._working import WorkingMemory as WorkingMemory
    from mastra_nb.memory.memory import Memory as Memory

_WHERE = {
    "Facts": "_facts",
    "Memory": "memory",
    "ObservationalMemory": "_observations",
    "SemanticRecall": "_recall",
    "Titles": "_titles",
    "WorkingMemory": "_working",
}

__all__ = [*sorted(_WHERE)]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{where}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
