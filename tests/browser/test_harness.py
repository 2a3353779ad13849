"""The harness itself, on a notebook without our package."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.lab import Lab, Server, becomes

MARKDOWN = """\
from IPython.display import Markdown
Markdown('''# Title

| a | b |
|---|---|
| 1 | 2 |
''')"""


@pytest.fixture
def plain(server: Server) -> Path:
    return server.write("plain.ipynb", ["#md # Plain", "print(6 * 7)", MARKDOWN])


def test_plain_notebook(lab: Lab, plain: Path) -> None:
    assert lab.server.api("GET", "kernels") == []
    notebook = lab.open(plain)
    assert len(lab.server.api("GET", "kernels")) == 1

    assert notebook.run_all()

    becomes(lambda: notebook.text(1), "42")
    becomes(lambda: notebook.output(2).locator("td").all_inner_texts(), ["1", "2"])
    assert notebook.screenshot("harness-light").stat().st_size > 5_000
    lab.theme("dark")
    assert notebook.screenshot("harness-dark", whole=False).stat().st_size > 5_000
    assert notebook.save().cells[1].outputs[0].text == "42\n"
    assert lab.traffic.counts["display_data"] + lab.traffic.counts["execute_result"] == 1
    assert lab.metrics()["TaskDuration"] > 0


def test_watch_sees_what_a_page_should_not_do(lab: Lab, server: Server) -> None:
    path = server.write(
        "leak.ipynb",
        [
            "from IPython.display import HTML\n"
            "HTML('''<img src=x onerror=\"canary('ran')\">"
            "<img src='http://192.0.2.1/pixel.png'><script>alert(1)</script>''')"
        ],
    )
    notebook = lab.open(path)
    assert notebook.run_all()
    lab.page.wait_for_timeout(300)

    watch = lab.watch
    assert watch.canary == ["('ran',)"]
    assert set(watch.foreign) == {"http://192.0.2.1/pixel.png"}
    assert watch.dialogs == ["1"]
    for found in (watch.canary, watch.foreign, watch.dialogs):
        found.clear()
