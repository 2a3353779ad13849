from __future__ import annotations

import re

from mastra_nb import Agent, tool
from mastra_nb.events import View
from mastra_nb.testing import ScriptedModel, calls
from mastra_nb.traces import MAX_SPANS, bundle, markdown, plain, spans


@tool
def look(city: str) -> str:
    """Look."""
    if city == "Nowhere":
        raise ValueError("no such <b>city</b>")
    return city


async def view(*script: object) -> View:
    run = Agent(name="weather", model=ScriptedModel(*script), tools=[look]).run("Weather?")  # type: ignore[arg-type]
    await run
    return run.view


async def test_each_span_is_below_its_caller() -> None:
    found = spans(await view(calls("look", city="Oslo"), "Fine."))
    assert [(s["depth"], s["kind"], s["name"], s["status"]) for s in found] == [
        (0, "agent", "weather", "ok"),
        (1, "model", "scripted/model", "ok"),
        (1, "tool", "look", "ok"),
        (1, "model", "scripted/model", "ok"),
    ]
    root, first, look_, _ = found
    assert (root["parent"], first["parent"]) == (None, "weather")
    assert root["start"] == 0.0
    assert all(s["seconds"] is not None and s["start"] >= 0 for s in found)
    assert first["usage"]["input"] == 10
    assert (look_["input"], look_["output"]) == ({"city": "Oslo"}, "Oslo")


async def test_errors_and_hostile_names() -> None:
    made = await view(calls("look", city="Nowhere"), "Sorry.")
    found = spans(made)
    failed = next(s for s in found if s["kind"] == "tool")
    assert failed["status"] == "error"
    text = markdown(found)
    assert "✗" in text
    assert "<b>" not in text
    assert "no such" in plain(found)
    assert set(re.findall(r"<(\w+)", text)) <= {"img", "span", "small"}


async def test_long_texts_are_cut() -> None:
    found = spans(await view("x" * 10_000))
    assert len(found[0]["output"]) < 2100


def test_nothing_yet() -> None:
    assert spans(View()) == []
    assert bundle([]) == {
        "text/markdown": "nothing has happened yet",
        "text/plain": "nothing has happened yet",
    }


async def test_there_is_an_end_to_what_is_listed() -> None:
    model = ScriptedModel(*[calls("look", city="x")] * (MAX_SPANS // 2 + 20), "Done.")
    agent = Agent(name="weather", model=model, tools=[look], max_steps=1000)
    run = agent.run("go")
    await run
    found = spans(run.view)
    assert len(found) == MAX_SPANS
    assert "300 more" in plain(found)
    assert len(markdown(found)) < 100_000
