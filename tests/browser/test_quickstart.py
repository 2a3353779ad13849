"""The quickstart as a newcomer sees it: Run All on the local model."""

from __future__ import annotations

import shutil

import pytest

from tests.browser.lab import Lab, Server


@pytest.mark.slow
@pytest.mark.weights
def test_quickstart(lab: Lab, server: Server, pytestconfig: pytest.Config) -> None:
    path = server.root / "00_quickstart.ipynb"
    shutil.copy(pytestconfig.rootpath / "notebooks" / path.name, path)
    notebook = lab.open(path)

    done = notebook.run_all(timeout=400)
    notebook.screenshot("quickstart-light")
    lab.theme("dark")
    notebook.screenshot("quickstart-dark")

    assert done
    outputs = [output for cell in notebook.save().cells for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output.output_type == "error"]
    assert lab.page.locator("details", has_text="get_weather").count() >= 1
