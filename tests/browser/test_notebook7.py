"""The extension in Notebook 7, which has other shells and lacks the status bar and the launcher."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext

from tests.browser.lab import Server, Watch
from tests.browser.test_lab_panel import DONE, saved

# Notebook 7.6 says this by itself while it loads its settings, also without the extension.
OWN = "Cannot read properties of undefined (reading 'schema')"


class Notebook7(Server):
    """The same server with Notebook 7 as its application."""

    application = "notebook"


@pytest.fixture(scope="module")
def notebook7(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Notebook7]:
    with Notebook7(tmp_path_factory.mktemp("notebook7"), pytestconfig.rootpath) as server:
        yield server


def test_loads_and_draws_a_run(context: BrowserContext, notebook7: Notebook7, shots: Path) -> None:
    page = context.new_page()
    watch = Watch(page, notebook7.url)
    said: list[str] = []
    page.on("console", lambda told: said.append(told.text) if told.type == "error" else None)
    path = saved(notebook7, "seven", [("%%ask weather\nWill it rain?", [DONE])])
    content = json.loads(path.read_text())
    content["metadata"]["kernelspec"] = {
        "name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python",
    }  # fmt: skip
    path.write_text(json.dumps(content))
    page.goto(f"{notebook7.url}/notebooks/{path.name}?token={notebook7.token}")
    page.locator(".mnb-Run").get_by_text("Take an umbrella").wait_for(timeout=60_000)
    page.wait_for_function("() => window.jupyterapp")
    page.evaluate("() => window.jupyterapp.commands.execute('mastra:open-panel')")
    panel = page.locator("#mastra-panel")
    panel.locator(".mnb-Listed").click()
    panel.locator(".mnb-Detail").get_by_text("Take an umbrella").wait_for()
    page.screenshot(path=shots / "notebook7.png")
    watch.assert_clean()
    assert not [error for error in watch.errors if error != OWN]
    assert not [text for text in said if "mnb" in text or "mastra" in text.lower()], said
    page.close()
    notebook7.shutdown_kernels()
