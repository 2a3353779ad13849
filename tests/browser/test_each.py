"""The rest of the magics in a live JupyterLab: rows, the background, comparing, the doctor."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.lab import Lab, Notebook, Server, becomes

AGENTS = '''\
import json
from typing import TypedDict

import pandas as pd

from mastra_nb import Agent, tool
from mastra_nb.testing import ScriptedModel, calls

cities = pd.DataFrame({"city": ["Oslo", "Rome", "<b>Lima</b>", "Paris", "Kyoto"]})


class Forecast(TypedDict):
    sky: str
    max_c: int


def forecast(request):
    city = request.messages[-1].text.split()[-1]
    if city == "Paris":
        raise RuntimeError("the service of Paris is down <img src=x onerror=alert(1)>")
    return json.dumps({"sky": "sunny in " + city, "max_c": len(city)})


@tool
def get_weather(city: str) -> dict:
    """The forecast for a city."""
    return {"city": city, "max_c": 8}


weather = Agent(name="weather", model=ScriptedModel(forecast, repeat=True, delay=0.3))
one = Agent(
    name="reporter", tools=[get_weather], instructions="Be brief.",
    model=ScriptedModel(
        calls("get_weather", city="Oslo"), "Tomorrow it **rains** in Oslo.", delay=0.02,
    ),
)
two = Agent(
    name="reporter", tools=[get_weather], instructions="Be very brief.",
    model=ScriptedModel(
        calls("get_weather", city="Rome"), calls("get_weather", city="Rome"),
        "Tomorrow the sun shines in Rome.", delay=0.02,
    ),
)
slow = Agent(name="slow", model=ScriptedModel("A long story. " * 120, delay=0.08))
'''

CELLS = [
    "%load_ext mastra_nb",
    "from agents import Forecast, cities, one, slow, two, weather",
    "%%ask weather --each cities -o out --schema Forecast --concurrency 2\n"
    "Forecast for {{ row.city }}",
    "%ask one Oslo tomorrow?",
    "%ask two Rome tomorrow?",
    "%mastra diff last~1 last",
    "%mastra trace",
    "%mastra doctor",
    "%%ask slow --bg -o story\nTell me a story.",
    "1 + 1",
    "%mastra jobs",
]
EACH, DIFF, TRACE, DOCTOR, BACK, SUM, JOBS = 2, 5, 6, 7, 8, 9, 10


@pytest.fixture
def notebook(lab: Lab, server: Server) -> Notebook:
    (server.root / "agents.py").write_text(AGENTS)
    notebook = lab.open(server.write("each.ipynb", CELLS))
    notebook.run(0)
    notebook.run(1)
    return notebook


def test_rows_grow_in_one_table(notebook: Notebook) -> None:
    notebook.cell(EACH).evaluate(
        """cell => new MutationObserver(() => {
            if (cell.textContent.includes('█')) window.grew = true;
        }).observe(cell, {childList: true, subtree: true, characterData: true})"""
    )
    notebook.run(EACH)
    assert notebook.page.evaluate("() => window.grew")
    expect(notebook.output(EACH)).to_contain_text("4 of 5 rows")
    text = notebook.text(EACH)
    assert "4 of 5 rows · 1 failed" in text
    assert "█" not in text
    output = notebook.output(EACH)
    expect(output.locator("tbody tr")).to_have_count(5)
    assert "<b>Lima</b>" in text
    expect(output.locator("td b, td img")).to_have_count(0)
    notebook.screenshot("each-light")
    notebook.lab.theme("dark")
    notebook.screenshot("each-dark")


def test_two_runs_beside_each_other(notebook: Notebook) -> None:
    for index in (3, 4, DIFF, TRACE, DOCTOR):
        notebook.run(index)
    output = notebook.output(DIFF)
    assert "Oslo" in output.locator("del").all_inner_texts()
    assert "Rome" in output.locator("ins").all_inner_texts()
    becomes(lambda: notebook.output(TRACE).locator("img").evaluate("i => i.naturalWidth > 0"), True)
    expect(notebook.output(DOCTOR)).to_contain_text("✓", use_inner_text=True)
    assert "connected" in notebook.text(DOCTOR) or "no line" in notebook.text(DOCTOR)
    notebook.screenshot("compare-light")
    notebook.lab.theme("dark")
    notebook.screenshot("compare-dark")


def test_the_next_cell_runs_while_an_answer_streams(notebook: Notebook) -> None:
    notebook.run(BACK)
    notebook.run(SUM)
    assert notebook.text(SUM).split()[-1] == "2"
    notebook.run(JOBS)
    expect(notebook.output(JOBS)).to_contain_text("running", use_inner_text=True)
    assert notebook.is_done(BACK)
    notebook.output(BACK).get_by_text("out tokens").first.wait_for(timeout=120_000)
    assert "A long story. " * 119 in notebook.text(BACK)
    assert "A long story." not in notebook.text(JOBS)
    notebook.screenshot("background-light")
