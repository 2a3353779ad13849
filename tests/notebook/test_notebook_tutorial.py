"""The tutorials, cell by cell, some with their kernel restarted on the way.

What the local model has said is replayed (`python -m tests.notebook.recordings` records it anew);
where the questions hold pages of the documentation the models are scripted.
`tests/browser/test_tutorial.py` runs these on the real ones.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import nbformat
import pytest

from tests.notebook import recordings
from tests.notebook.conftest import MIME, ROOT, Kernel, Output, Start
from tests.notebook.recordings import RECORDED

MEMORY = "04_memory.ipynb"
RETRIEVAL = "05_retrieval.ipynb"
WORKFLOWS = "06_workflows.ipynb"
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


def read(name: str) -> nbformat.NotebookNode:
    notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    nbformat.validate(notebook)
    assert not any(c.get("outputs") for c in notebook.cells)
    return notebook


def cells(name: str) -> tuple[list[str], list[str]]:
    """The code before and after the restart."""
    notebook = read(name)
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


def test_a_folder_answers_also_in_a_fresh_kernel(kernel: Kernel) -> None:
    first, second = cells(RETRIEVAL)
    kernel.ok(first[0])
    new, again = (kernel.ok(cell, timeout=120) for cell in first[1:3])
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
    kernel.restart()
    kernel.ok(STANDINS)
    out = by_source(kernel, second)
    assert "../docs" in out[second[-1]].markdown.replace("&#46;", ".").replace("\\", "")


def test_a_fresh_kernel_knows_what_the_first_was_told(kernel: Kernel) -> None:
    first, second = cells(MEMORY)
    out = by_source(kernel, first)
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
    first, second = cells(MEMORY)
    said = []
    for _ in range(2):
        out = [kernel.ok(source, timeout=120) for source in (*first, *second)]
        said.append(next(o.text + o.markdown for o in out if "6 messages" in o.markdown))
    assert said[0] == said[1]


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_a_replay_runs_from_top_to_bottom(start: Start, home: Path, name: str) -> None:
    """Nobody is asked anything: no model, and no person."""
    shutil.copy(ROOT / "notebooks" / "README.md", home)
    recordings.load(name, f"sqlite:///{home / 'mastra.db'}")
    kernel = start(home, MASTRA_NB_REPLAY="only", MASTRA_NB_STORAGE=f"sqlite:///{home}/mastra.db")
    said: list[Output] = []
    for cell in (c for c in read(f"{name}.ipynb").cells if c.cell_type == "code"):
        out = kernel.run(cell.source, timeout=60)
        assert not out.error or "raises-exception" in cell.metadata.get("tags", ()), out.error
        said.append(out)
    answers = [s[MIME] for out in said for s in out.shown if MIME in s]
    assert {a["status"] for a in answers} <= {"done", "suspended"}
    status = kernel.ok("%mastra status").markdown
    assert " 0 asked" in status and " 0 answered" not in status


# One sentence for each page, as long as the page's text is; half a second of work.
SUMS_UP = """\
import asyncio
from mastra_nb import plugins
from mastra_nb.testing import ScriptedModel

class Slow(ScriptedModel):
    async def invoke(self, request, ctx):
        with open("asked", "a") as file:
            file.write(request.messages[-1].text.split()[0] + "\\n")
        await asyncio.sleep(0.3)
        return await super().invoke(request, ctx)

def answer(request):
    return "About " + request.messages[-1].text.partition("\\n\\n")[2][:200]

plugins.providers.register("local", lambda name, id: Slow(answer, repeat=True))
"""


def test_a_workflow_goes_on_where_its_kernel_was_killed(start: Start, home: Path) -> None:
    kernel = start(home, MASTRA_NB_MODEL="local")
    kernel.ok(SUMS_UP)
    code = [c for c in read(WORKFLOWS).cells if c.cell_type == "code"]
    begun = next(i for i, c in enumerate(code) if c.source.startswith("run = guide"))
    for cell in code[:begun]:
        kernel.ok(cell.source)
    kernel.start(code[begun].source)
    asked = home / "asked"
    deadline = time.monotonic() + 20
    while not asked.exists() or len(asked.read_text("utf-8").splitlines()) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    kernel.restart()
    kernel.ok(SUMS_UP)
    told = []
    for cell in code:
        out = kernel.run(cell.source, timeout=60)
        assert not out.error or "raises-exception" in cell.metadata.get("tags", ()), out.error
        told.append(out)

    pages = asked.read_text("utf-8").splitlines()
    first = sorted(p.name for p in (home.parent / "docs").glob("*.md"))[:8]
    # Two were under way when the kernel died; two are asked about once more at the end.
    assert set(pages) == set(first) and 8 + 2 <= len(pages) <= 8 + 2 + 2
    waits, refused = told[begun], told[begun + 2]
    assert "suspended" in waits.head and "data:image/svg+xml" in waits.markdown
    assert "review" in told[begun + 1].markdown and "does not fit" in refused.error
    guide = (home / "guide.md").read_text("utf-8")
    assert guide.startswith("# What is where") and guide.count("- **") == 8
    assert "not published" in told[-5].markdown
    assert "The first is the better one" in told[-1].markdown
