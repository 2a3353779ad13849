"""Asking agents in a live JupyterLab: streaming, the finished answer, stop, errors."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import expect

from tests.browser.lab import Lab, Notebook, Server, becomes

AGENTS = '''\
from mastra_nb import Agent, tool
from mastra_nb.messages import Message, Reasoning, Text
from mastra_nb.testing import ScriptedModel, calls


@tool
def get_weather(city: str) -> dict:
    """The forecast for a city."""
    return {"city": city, "sky": "rain", "max_c": 8}


ANSWER = """Tomorrow it **rains** in Oslo.

| city | sky  | max |
|:-----|:-----|----:|
| Oslo | rain | 8 °C |

- take an umbrella
- leave the sunglasses

```python
def pack(rain: bool) -> str:
    return "umbrella" if rain else "sunglasses"
```
"""

weather = Agent(
    name="weather",
    model=ScriptedModel(
        Message(
            role="assistant",
            parts=(Reasoning(text="A tool knows."), calls("get_weather", city="Oslo")),
        ),
        ANSWER,
        delay=0.03,
    ),
    tools=[get_weather],
)
talker = Agent(
    name="talker",
    model=ScriptedModel(
        "A very long story. " * 400, "The next answer is here.", delay=0.05
    ),
)'''

CELLS = [
    "#md # Weather",
    "%load_ext mastra_nb",
    "from agents import talker, weather",
    "%%ask weather\nWhat is the weather in Oslo tomorrow?",
    "%%ask talker\nTell me a story.",
    "%%ask talker\nAnd now?",
    "%%ask wether\nWhat is the weather in Oslo tomorrow?",
]
ASK, LONG, NEXT, UNKNOWN = 3, 4, 5, 6


@pytest.fixture
def chat(lab: Lab, server: Server) -> Notebook:
    (server.root / "agents.py").write_text(AGENTS)
    notebook = lab.open(server.write("chat.ipynb", CELLS))
    notebook.run(1)
    notebook.run(2)
    assert notebook.text(1).startswith("mastra_nb ")
    becomes(lambda: notebook.text(2), "")
    return notebook


def test_an_answer_streams_and_is_rendered(chat: Notebook) -> None:
    chat.output(ASK).evaluate(
        """area => {
            window.lengths = [];
            const note = () => {
                const length = area.textContent.length;
                if (length !== window.lengths.at(-1)) window.lengths.push(length);
            };
            new MutationObserver(note).observe(
                area, {childList: true, subtree: true, characterData: true});
        }"""
    )
    chat.run(ASK)

    grown = chat.page.evaluate("() => window.lengths")
    assert len([n for n in grown if n > 0]) >= 3
    output = chat.output(ASK)
    becomes(lambda: output.locator("strong").all_inner_texts(), ["rains"])
    becomes(lambda: output.locator("td").all_inner_texts(), ["Oslo", "rain", "8 °C"])
    becomes(
        lambda: output.locator("li").all_inner_texts(), ["take an umbrella", "leave the sunglasses"]
    )
    expect(output.locator("pre code").last).to_contain_text(
        "def pack(rain: bool)", use_inner_text=True
    )
    chat.screenshot("answer-light")
    chat.lab.theme("dark")
    chat.screenshot("answer-dark")

    tool = output.locator("details", has_text="get_weather")
    expect(tool).to_have_count(1)
    becomes(lambda: tool.evaluate("node => node.open"), False)
    expect(tool.get_by_text("max_c")).not_to_be_visible()
    tool.locator("summary").focus()
    chat.page.keyboard.press("Enter")
    becomes(lambda: tool.evaluate("node => node.open"), True)
    expect(tool.get_by_text("max_c").first).to_be_visible()

    footer = output.locator("small").last
    expect(footer).to_be_visible()
    expect(footer).to_contain_text("scripted", use_inner_text=True)
    chat.screenshot("answer-open-dark")
    chat.lab.theme("light")
    chat.screenshot("answer-open-light")


def test_the_interrupt_button_stops_an_answer(chat: Notebook) -> None:
    chat.start(LONG)
    chat.output(LONG).get_by_text("long story").first.wait_for()
    time.sleep(0.5)

    clicked = time.monotonic()
    chat.interrupt()
    chat.output(LONG).get_by_text("■ stopped").first.wait_for()
    took = time.monotonic() - clicked

    assert took < 3
    chat.wait_done(LONG)
    expect(chat.output(LONG)).to_contain_text("long story", use_inner_text=True)
    assert "Traceback" not in chat.text(LONG)
    chat.run(NEXT)
    expect(chat.output(NEXT)).to_contain_text("The next answer is here.", use_inner_text=True)
    chat.screenshot("stopped-light")
    becomes(lambda: chat.text(LONG).count("■ stopped"), 1)


def test_an_error_is_one_line(chat: Notebook) -> None:
    chat.run(UNKNOWN)

    error = chat.text(UNKNOWN)
    assert '"wether"' in error
    assert "weather" in error.replace("wether", "")
    assert len(error.splitlines()) <= 2
    assert "Traceback" not in error
    chat.screenshot("error-light")
    chat.lab.theme("dark")
    chat.screenshot("error-dark")
