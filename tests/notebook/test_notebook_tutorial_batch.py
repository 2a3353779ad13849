"""The tutorial on batches, cell by cell; the kernels of its rows have a model of the tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat

from tests.notebook.conftest import ROOT, Output, Start

# Runs in every kernel as it starts.
MODEL = """\
from mastra_nb import plugins
from mastra_nb.testing import ScriptedModel

def answer(request):
    city = request.messages[-1].text.partition(" has")[0]
    with open("asked", "a", encoding="utf-8") as file:
        file.write(city + "\\n")
    return f"A fine place, {city}."

plugins.providers.register("local", lambda name, id: ScriptedModel(answer, repeat=True))
"""


def test_rows_that_wait_or_fail_go_on(start: Start, tmp_path: Path) -> None:
    home = tmp_path / "notebooks"
    home.mkdir()
    (tmp_path / "mastra.toml").write_text("")
    shutil.copy(ROOT / "notebooks" / "08_batch_city.ipynb", home)
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text(MODEL)
    kernel = start(home, MASTRA_NB_MODEL="local", IPYTHONDIR=str(tmp_path / "ipython"))
    tutorial = nbformat.read(ROOT / "notebooks" / "08_batch.ipynb", as_version=4)
    out: dict[str, Output] = {}
    for cell in tutorial.cells:
        assert not cell.get("outputs")
        if cell.cell_type == "code":
            out[cell.source] = kernel.ok(cell.source, timeout=60)

    first, second, third = (o for s, o in out.items() if s.startswith("%mastra batch"))
    assert "1 failed" in first.markdown and "2 suspended" in first.markdown
    assert "nobody has counted Ny-" in first.markdown
    before, after = (o.result for s, o in out.items() if s.startswith("report.to_frame"))
    assert "A fine place, Bergen." in before and "AssertionError" in before
    assert after.count("published") == 3 and "A fine place, Bergen." in after
    (waiting,) = (o.markdown for s, o in out.items() if s == "%mastra waiting")
    assert waiting.count("A fine place") == 2
    (guide,) = (o.text for s, o in out.items() if "guide.txt" in s)
    assert sorted(guide.split("\n")) == [
        "", "", "Bergen: A fine place, Bergen.", "Ny-Ålesund: A fine place, Ny-Ålesund.",
        "Tromsø: A fine place, Tromsø.",
    ]  # fmt: skip
    (files,) = (o.text for s, o in out.items() if "listdir" in s)
    assert "report.html" in files and files.count(".ipynb") == 3
    assert "3 done" in third.markdown and "3 done" in second.markdown
    # A row that goes on has its earlier answers, which are what a person said yes to.
    assert sorted((home / "asked").read_text("utf-8").split()) == ["Bergen", "Ny-Ålesund", "Tromsø"]
