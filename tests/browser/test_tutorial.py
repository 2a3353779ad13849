"""The tutorials as a reader sees them, on the local model and embedder."""

from __future__ import annotations

import shutil

import pytest

from tests.browser.lab import Lab, Notebook, Server

MEMORY = "04_memory.ipynb"
RETRIEVAL = "05_retrieval.ipynb"
WORKFLOWS = "06_workflows.ipynb"


def opened(lab: Lab, server: Server, config: pytest.Config, name: str) -> Notebook:
    """The tutorial, in a folder beside that of the documentation."""
    path = server.root / name
    shutil.copy(config.rootpath / "notebooks" / name, path)
    shutil.copytree(
        config.rootpath / "docs",
        server.root.parent / "docs",
        ignore=shutil.ignore_patterns("_build"),
        dirs_exist_ok=True,
    )
    return lab.open(path)


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(1200)
def test_a_workflow_goes_on_where_its_kernel_was_killed(
    lab: Lab, server: Server, pytestconfig: pytest.Config
) -> None:
    notebook = opened(lab, server, pytestconfig, WORKFLOWS)
    cells = notebook.save().cells
    code = [i for i, cell in enumerate(cells) if cell.cell_type == "code"]
    begun = next(i for i in code if cells[i].source.startswith("run = guide"))
    for i in (i for i in code if i < begun):
        notebook.run(i)
    notebook.start(begun)
    lab.page.wait_for_function(
        "i => /[2-8]\\/8/.test(atob((window.notebook.content.widgets[i].node.innerHTML"
        ".match(/svg[+]xml;base64,([^\"]*)/) || [0, ''])[1]))",
        arg=begun,
        timeout=120_000,
    )
    notebook.screenshot("workflows-running")
    lab.page.evaluate("() => window.notebook.sessionContext.session.kernel.restart()")
    notebook.wait_idle()
    for i in code:
        notebook.run(i, timeout=600)

    notebook.screenshot("workflows-light")
    lab.theme("dark")
    notebook.screenshot("workflows-dark")
    saved = notebook.save().cells
    errors = [
        (o.ename, "raises-exception" in c.metadata.get("tags", ()))
        for c in saved
        for o in c.get("outputs", ())
        if o.output_type == "error"
    ]
    assert all(meant for _, meant in errors)
    assert [name for name, _ in errors].count("RunSuspended") == 3
    guide = (server.root / "guide.md").read_text("utf-8")
    assert guide.startswith("# What is where") and guide.count("- **") == 8


def restarted(notebook: Notebook, lab: Lab, shot: str) -> dict[str, str]:
    """Text of each code cell's output, after a kernel restart where the tutorial has it."""
    cells = notebook.save().cells
    restart = next(i for i, c in enumerate(cells) if c.source.startswith("## Restart"))
    code = [i for i, cell in enumerate(cells) if cell.cell_type == "code"]
    for i in (i for i in code if i < restart):
        notebook.run(i, timeout=600)
    lab.page.evaluate("() => window.notebook.sessionContext.session.kernel.restart()")
    notebook.wait_idle()
    for i in (i for i in code if i > restart):
        notebook.run(i, timeout=120)
    notebook.screenshot(f"{shot}-light")
    lab.theme("dark")
    notebook.screenshot(f"{shot}-dark")
    saved = notebook.save().cells
    assert not [o for c in saved for o in c.get("outputs", ()) if o.output_type == "error"]
    return {cells[i].source: notebook.text(i) for i in code}


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(1200)
def test_what_was_read_is_there_after_a_restart(
    lab: Lab, server: Server, pytestconfig: pytest.Config
) -> None:
    said = restarted(opened(lab, server, pytestconfig, RETRIEVAL), lab, "retrieval")
    (asked,) = (text for source, text in said.items() if source.startswith("%%ask guide"))
    assert "491" in asked and "docs/local-model.md" in asked


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(1200)
def test_what_was_said_is_there_after_a_restart(
    lab: Lab, server: Server, pytestconfig: pytest.Config
) -> None:
    said = restarted(opened(lab, server, pytestconfig, MEMORY), lab, "memory-tutorial")
    assert "Solveig" in said["%ask friend What is my boat called?"]
    (harbour,) = (t for s, t in said.items() if s.startswith("%ask friend --thread tuesday"))
    assert "Bergen" in harbour
