"""The tutorial on memory and documents as a reader sees it, on the local model and embedder."""

from __future__ import annotations

import shutil

import pytest

from tests.browser.lab import Lab, Server

NAME = "01_memory_and_documents.ipynb"


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(1200)
def test_what_was_read_and_said_is_there_after_a_restart(
    lab: Lab, server: Server, pytestconfig: pytest.Config
) -> None:
    repo, path = pytestconfig.rootpath, server.root / NAME
    shutil.copy(repo / "notebooks" / NAME, path)
    shutil.copytree(
        repo / "docs", server.root.parent / "docs", ignore=shutil.ignore_patterns("_build")
    )
    notebook = lab.open(path)
    sources = [cell.source for cell in notebook.save().cells]
    restart = next(i for i, source in enumerate(sources) if source.startswith("## Restart"))
    code = [i for i, cell in enumerate(notebook.save().cells) if cell.cell_type == "code"]

    for i in (i for i in code if i < restart):
        notebook.run(i, timeout=600)
    lab.page.evaluate("() => window.notebook.sessionContext.session.kernel.restart()")
    notebook.wait_idle()
    for i in (i for i in code if i > restart):
        notebook.run(i, timeout=120)

    notebook.screenshot("tutorial-light")
    lab.theme("dark")
    notebook.screenshot("tutorial-dark")
    saved = notebook.save().cells
    assert not [o for c in saved for o in c.get("outputs", ()) if o.output_type == "error"]

    def said(start: str) -> str:
        return next(notebook.text(i) for i in code if sources[i].startswith(start))

    assert "491" in said("%%ask guide") and "docs/local-model.md" in said("%%ask guide")
    assert "Solveig" in said("%ask friend What is my boat called?")
    assert "Bergen" in said("%ask friend --thread tuesday")
