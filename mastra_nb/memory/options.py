"""The options of what a memory keeps: `Memory(facts=Facts(half_life=7))`."""

from __future__ import annotations

from mastra_nb.memory._facts import Facts
from mastra_nb.memory._observations import ObservationalMemory
from mastra_nb.memory._recall import SemanticRecall
from mastra_nb.memory._titles import Titles
from mastra_nb.memory._working import WorkingMemory

__all__ = ["Facts", "ObservationalMemory", "SemanticRecall", "Titles", "WorkingMemory"]
