"""The tutorial on memory and documents, cell by cell, with its kernel restarted on the way.

The models are scripted: `tests/browser/test_tutorial.py` runs it on the real ones.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest

from tests.notebook.conftest import ROOT, Kernel, Output, Start

NAME = "01_memory_and_documents.ipynb"
# A model that knows nothing: what it says was in the request.
STANDINS = """\
from mastra_nb import plugins
from mastra_nb.messages import ToolResult
from mastra_nb.testing import FakeEmbedder, ScriptedModel, calls

def answer(request):
    asked = request.messages[-1]
    for part in asked.parts:
        if isinstance(part, ToolResult):
            return part.output["passages"][0]["text"][-300:] + " [1]"
    if asked.text.startswith("Search"):
        return calls("search_docs", query=asked.text)
    known = " ".join(m.text for m in request.messages[:-1])
    return "I know of " + ", ".join(w for w in ("Solveig", "Bergen") if w in known) + "."

plugins.providers.register("local", lambda name, id: ScriptedModel(answer, repeat=True))
for name in ("local", "fake"):
    plugins.embedders.register(name, lambda name, id: FakeEmbedder(256))
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """As in a clone: the folder that is read is beside that of the notebook."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("_build"))
    (tmp_path / "notebooks").mkdir()
    return tmp_path / "notebooks"


def cells() -> tuple[list[str], list[str]]:
    """The code before and after the restart."""
    notebook = nbformat.read(ROOT / "notebooks" / NAME, as_version=4)
    nbformat.validate(notebook)
    assert not any(c.get("outputs") for c in notebook.cells)
    restart = next(i for i, c in enumerate(notebook.cells) if "## Restart" in c.source)
    before, after = notebook.cells[:restart], notebook.cells[restart:]
    first, second = ([c.source for c in half if c.cell_type == "code"] for half in (before, after))
    return first, second


@pytest.fixture
def kernel(start: Start, home: Path) -> Kernel:
    kernel = start(home, MASTRA_NB_MODEL="local")
    kernel.ok(STANDINS)
    return kernel


def by_source(kernel: Kernel, sources: list[str]) -> dict[str, Output]:
    return {source: kernel.ok(source, timeout=120) for source in sources}


def test_a_fresh_kernel_knows_what_the_first_was_told(kernel: Kernel) -> None:
    first, second = cells()
    kernel.ok(first[0])
    new, again = (kernel.ok(cell) for cell in first[1:3])
    assert first[1] == first[2] and "added" in new.markdown and "unchanged" in again.markdown

    out = by_source(kernel, first[3:])
    (hits,) = (o.markdown for s, o in out.items() if s.startswith("%mastra index docs"))
    assert "../docs/local-model.md" in hits.replace("&#46;", ".").replace("\\", "")
    (asked,) = (o.shown[-1] for s, o in out.items() if s.startswith("%%ask guide"))
    assert "../docs/" in str(asked) and "search_docs" in str(asked)
    (cited,) = (o.text for s, o in out.items() if "citations" in s)
    (span,) = (o.text for s, o in out.items() if "read_text" in s)
    assert "[1] ../docs/" in cited and "characters" in cited
    assert span.strip() and span.strip()[:40] in "".join(
        path.read_text("utf-8") for path in (kernel.cwd.parent / "docs").glob("*.md")
    )
    (threads,) = (o.markdown for s, o in out.items() if s == "%mastra threads")
    assert "| monday | ada |" in threads

    kernel.restart()
    kernel.ok(STANDINS)
    out = by_source(kernel, second)
    (boat,) = (o for s, o in out.items() if "What is my boat called" in s)
    assert "I know of Solveig, Bergen." in boat.answer
    (harbour,) = (o for s, o in out.items() if "--thread tuesday" in s)
    assert "Bergen" in harbour.answer
    (talk,) = (o.markdown for s, o in out.items() if s == "%mastra memory monday")
    assert "Solveig" in talk
    assert out[second[-1]].result.startswith("()") or "0 threads" in out[second[-1]].result


def test_run_all_works_without_a_restart_and_starts_over(kernel: Kernel) -> None:
    first, second = cells()
    said = []
    for _ in range(2):
        out = [kernel.ok(source, timeout=120) for source in (*first, *second)]
        said.append(next(o.text + o.markdown for o in out if "6 messages" in o.markdown))
    assert said[0] == said[1]
