"""The dashboard in a live JupyterLab: by mouse, by keyboard, much of it, and what is hostile."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.lab import THEMES, Lab, Notebook, Server
from tests.hostile import PAYLOADS

SEED = '''\
import asyncio
from typing import Literal

from mastra_nb import Agent, Document, Index, Mastra, Memory, dashboard, tool
from mastra_nb.messages import Message, Text, Usage
from mastra_nb.storage import RunRow, Thread
from mastra_nb.testing import FakeEmbedder, ScriptedModel, calls
from tests.hostile import PAYLOADS


@tool(needs_approval=True)
def book(hotel: str, nights: int, breakfast: bool = True) -> str:
    """Book a hotel."""
    return f"{hotel} is booked for {nights} nights"


@tool
def get_weather(city: str) -> dict:
    """The forecast for a city."""
    return {"city": city, "sky": "rain", "max_c": 8}


def usual():
    weather = Agent(
        name="weather",
        model=ScriptedModel(
            calls("get_weather", city="Oslo"), "It rains in Oslo, 8 degrees at most.",
            repeat=True, delay=0.02, name="openai/gpt-5-mini",
        ),
        tools=[get_weather], memory=Memory(),
    )
    travel = Agent(
        name="travel", tools=[book],
        model=ScriptedModel(
            calls("book", hotel="Hotel Bristol", nights=3), "Your room is booked.",
            name="anthropic/claude-haiku-4-5",
        ),
    )
    return weather, travel


async def fill(app, weather, travel):
    for n, city in enumerate(["Oslo", "Bergen", "Tromso"]):
        await weather.run(f"What is the weather in {city} tomorrow?", thread=f"trip-{n}")
    try:
        await travel.run("Book a hotel in Oslo for three nights")
    except Exception as error:
        assert "waits" in str(error)
    words = ["rain", "boat", "harbour", "hotel", "fjord", "train", "night", "market"]
    notes = Index("notes", store=app.store, embedder=FakeEmbedder())
    texts = [f"{a} and {b} near the {c}" for a in words for b in words for c in words[:3]]
    await notes.ingest(*(Document(text=t, source=f"note-{n}") for n, t in enumerate(texts)))


async def hostile():
    app = Mastra(storage="memory://")
    for n, bad in enumerate(PAYLOADS):
        agent = Agent(name="agent", model=ScriptedModel(bad, name=f"x/{bad[:40]}"), memory=Memory())
        app.add(agent)
        await agent.run(bad, thread=f"t{n}")
        row = RunRow(id=f"r_bad{n}", name=bad, kind="agent", input=bad, status="running")
        try:
            await app.store.create(row, owner="me")
            await app.store.put_thread(Thread(id=f"t{n}", title=bad))
        except Exception as error:
            print(type(error).__name__)  # what no store takes reaches no view
    return app


async def many(count):
    app = Mastra(storage="memory://")
    for n in range(count):
        row = RunRow(id=f"r_{n:05}", name=f"agent{n % 7}", kind="agent", input=f"question {n}")
        await app.store.create(row, owner="me")
    return app
'''


@pytest.fixture
def seeded(server: Server) -> Path:
    """A folder with a store of its own."""
    folder = server.root / "dashboard"
    folder.mkdir(exist_ok=True)
    (folder / "dash_seed.py").write_text(SEED)
    return folder


def opened(lab: Lab, server: Server, *cells: str, name: str) -> tuple[Notebook, Locator]:
    first = "%load_ext mastra_nb\nfrom dash_seed import *"
    notebook = lab.open(server.write(f"dashboard/{name}", [first, *cells]))
    for index in range(1 + len(cells)):
        notebook.run(index)
    dash = notebook.output(len(cells)).locator(".mnb-dash").first
    expect(dash).to_be_visible()
    return notebook, dash


def tab(dash: Locator, name: str) -> Locator:
    dash.get_by_role("tab", name=name).click()
    return dash.get_by_role("tabpanel", name=name)


def both(lab: Lab, notebook: Notebook, name: str) -> None:
    """Looked at in both themes, and judged."""
    for theme in THEMES:
        lab.theme(theme)
        notebook.screenshot(f"dash-{name}-{theme}")
        assert lab.judge(".mnb-dash") == []
    lab.theme("light")


def test_every_tab(lab: Lab, server: Server, seeded: Path) -> None:
    fill = (
        "weather, travel = usual()\napp = get_ipython().mastra.host.app\n"
        "app.add(weather); app.add(travel)\nawait fill(app, weather, travel)"
    )
    notebook, dash = opened(lab, server, fill, "%mastra dash", name="dash.ipynb")
    page = notebook.page
    runs = dash.get_by_role("listbox", name="Runs")
    expect(runs.get_by_role("option")).to_have_count(4)

    # By keyboard: the list, what is chosen, a call of its trace.
    runs.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    side = dash.get_by_role("region", name="Details").first
    expect(side).to_contain_text("It rains in Oslo, 8 degrees at most.")
    expect(side.locator(".mnb-waterfall")).to_contain_text("get_weather")
    page.keyboard.press("Enter")
    expect(side).to_be_focused()
    both(lab, notebook, "runs")
    dash.get_by_label("Status").select_option("suspended")
    expect(runs.get_by_role("option")).to_have_count(1)
    dash.get_by_label("Status").select_option("")

    costs = tab(dash, "Costs")
    expect(costs.get_by_role("table")).to_contain_text("weather")
    expect(costs.locator(".mnb-figure, .mnb-state")).to_have_count(1)
    both(lab, notebook, "costs")
    costs.get_by_label("Measure").select_option("tokens")
    expect(costs.get_by_role("img")).to_be_visible()
    both(lab, notebook, "tokens")

    threads = tab(dash, "Threads")
    threads.get_by_role("option").first.click()
    expect(threads.locator(".mnb-message").first).to_contain_text("What is the weather")
    both(lab, notebook, "threads")

    index = tab(dash, "Index")
    expect(index.locator("circle").first).to_be_attached()
    index.locator(".mnb-map").focus()
    before = index.locator(".mnb-passage").inner_text()
    page.keyboard.press("ArrowRight")
    expect(index.locator(".mnb-passage")).not_to_have_text(before, use_inner_text=True)
    index.get_by_label("Search in it").fill("harbour boat")
    expect(index.locator(".mnb-hits li").first).to_contain_text("boat")
    expect(index.locator("circle.mnb-hit").first).to_be_attached()
    both(lab, notebook, "index")

    inbox = tab(dash, "Approvals")
    inbox.get_by_role("button", name="Edit arguments").click()
    both(lab, notebook, "approvals")
    nights = inbox.get_by_label("nights")
    nights.fill("")
    inbox.get_by_role("button", name="Approve with these").click()
    expect(inbox.get_by_role("alert").filter(has_text="nights")).to_be_visible()
    expect(nights).to_be_focused()
    inbox.get_by_label("hotel").fill("Grand Hotel")
    nights.fill("2")
    inbox.get_by_role("button", name="Approve with these").click()
    expect(inbox.get_by_text("Nothing waits")).to_be_visible(timeout=20_000)
    both(lab, notebook, "nothing")

    # From tab to tab with the arrows; what was answered has gone on.
    dash.get_by_role("tab", name="Approvals").focus()
    page.keyboard.press("ArrowRight")
    expect(dash.get_by_role("tab", name="Runs")).to_be_focused()
    runs.get_by_role("option").first.click()
    expect(side).to_contain_text("Your room is booked.")

    saved = notebook.save()
    assert "Dashboard" in saved.cells[2].outputs[0].data["text/markdown"]
    assert "Oslo" not in str(saved.metadata)
    lab.watch.assert_clean()


def test_ten_thousand_runs_are_paged(lab: Lab, server: Server, seeded: Path) -> None:
    notebook, dash = opened(
        lab, server, "app = await many(10_000)", "dashboard(app)", name="many.ipynb"
    )
    expect(dash.get_by_text("1–50 of 10,000")).to_be_visible()
    expect(dash.locator(".mnb-item")).to_have_count(50)
    began = time.monotonic()
    dash.get_by_role("button", name="Next").first.click()
    expect(dash.get_by_text("51–100 of 10,000")).to_be_visible()
    assert time.monotonic() - began < 5
    expect(dash.locator(".mnb-item")).to_have_count(50)
    dash.get_by_label("Search in inputs").fill("question 77")
    expect(dash.get_by_text("of 111")).to_be_visible()
    notebook.screenshot("dash-many-light")


def test_hostile_data_stays_text(lab: Lab, server: Server, seeded: Path) -> None:
    notebook, dash = opened(
        lab, server, "app = await hostile()", "dashboard(app)", name="bad.ipynb"
    )
    runs = dash.get_by_role("listbox", name="Runs")
    expect(runs.get_by_role("option").first).to_be_visible()
    runs.focus()
    for _ in range(30):
        notebook.page.keyboard.press("ArrowDown")
    tab(dash, "Costs")
    expect(dash.get_by_role("table")).to_be_visible()
    threads = tab(dash, "Threads")
    expect(threads.get_by_role("option").nth(11)).to_be_visible()
    for n in range(12):
        threads.get_by_role("option").nth(n).click()
    expect(threads.locator(".mnb-message").first).to_be_visible()
    expect(dash.locator("script, img, iframe, object, embed, a, form, style")).to_have_count(0)
    assert len(PAYLOADS) > 50
    notebook.screenshot("dash-hostile-light")
    lab.watch.assert_clean()


def test_without_anything(lab: Lab, server: Server, seeded: Path) -> None:
    notebook, dash = opened(
        lab, server, "app = Mastra()", "dashboard(Mastra(storage='memory://'))", "dashboard(app)",
        name="empty.ipynb",
    )  # fmt: skip
    expect(dash.get_by_role("alert").get_by_text("nothing is kept here")).to_be_visible()
    empty = notebook.output(2).locator(".mnb-dash")
    expect(empty.get_by_text("No runs yet")).to_be_visible()
    both(lab, notebook, "empty")
