from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mastra_nb import Agent, tool
from mastra_nb.diffs import bundle, diff, markdown, plain, words
from mastra_nb.events import View
from mastra_nb.models import ModelSettings
from mastra_nb.testing import ScriptedModel, calls


@tool
def look(city: str) -> dict[str, int]:
    """The weather in a city."""
    return {"max_c": len(city)}


async def view(*script: Any, prompt: str = "Weather?", name: str = "one", **options: Any) -> View:
    model = ScriptedModel(*script, name=f"scripted/{name}")
    options = {"instructions": "Be brief.", "tools": [look], **options}
    run = Agent(name="weather", model=model, **options).run(prompt)
    await run
    return run.view


@given(st.text(max_size=60), st.text(max_size=60))
def test_both_texts_are_in_the_words(a: str, b: str) -> None:
    found = words(a, b)
    assert "".join(text for op, text in found if op != "+") == a
    assert "".join(text for op, text in found if op != "-") == b
    assert all(text for _, text in found)
    assert all(x[0] != y[0] for x, y in pairwise(found))


def test_words_and_not_letters() -> None:
    assert words("It is sunny in Oslo.", "It is very rainy in Oslo.") == [
        ["=", "It is "], ["-", "sunny"], ["+", "very rainy"], ["=", " in Oslo."],
    ]  # fmt: skip
    assert words("x", "x") == [["=", "x"]]
    assert words("", "") == []
    many = "word " * 5000
    assert words(f"{many}\nx", f"{many}\ny") == [["=", f"{many}\n"], ["-", "x"], ["+", "y"]]


async def test_what_was_given_done_said_and_used() -> None:
    a = await view(calls("look", city="Oslo"), "It is **sunny**.")
    b = await view(
        calls("look", city="Rome"), calls("look", city="Rome"), "It is **rainy**.",
        prompt="Weather in Rome?", name="two", instructions="Be very brief.",
        settings=ModelSettings(temperature=0.5, extra={"api_key": "sk-canary"}),
    )  # fmt: skip
    found = diff(a, b, instructions=("Be brief.", "Be very brief."))
    changed = {c["what"]: (c["a"], c["b"]) for c in found["changed"]}
    assert changed == {
        "prompt": ("Weather?", "Weather in Rome?"),
        "instructions": ("Be brief.", "Be very brief."),
        "model": ("scripted/one", "scripted/two"),
        "settings": ("", "temperature 0.5"),
    }
    assert found["same"] == ["agent", "status", "tools"]
    assert [(c["op"], c["name"]) for c in found["calls"]] == [("~", "look"), ("+", "look")]
    assert found["calls"][0]["a"] == {
        "args": {"city": "Oslo"}, "result": {"max_c": 4}, "status": "ok",
    }  # fmt: skip
    assert found["answer"]["words"] == [
        ["=", "It is **"], ["-", "sunny"], ["+", "rainy"], ["=", "**."],
    ]  # fmt: skip
    numbers = {n["what"]: (n["a"], n["b"]) for n in found["numbers"]}
    assert numbers["input"] == (20, 30)
    assert "canary" not in str(found)


async def test_a_run_and_itself() -> None:
    a = await view(calls("look", city="Oslo"), "ok")
    found = diff(a, a)
    assert (found["changed"], found["answer"]) == ([], None)
    assert [c["op"] for c in found["calls"]] == ["="]
    assert "the same: agent, prompt, model, tools, answer" in plain(found, "1", "1")


async def test_a_run_that_failed() -> None:
    a = await view("ok")
    run = Agent(name="weather", model=ScriptedModel(RuntimeError("no line"))).run("Weather?")
    with pytest.raises(RuntimeError):
        await run
    found = diff(a, run.view)
    changed = {c["what"]: (c["a"], c["b"]) for c in found["changed"]}
    assert changed["status"] == ("done", "failed")
    assert changed["error"] == ("", "RuntimeError: no line")
    assert "no line" in plain(found, "1", "2")


async def test_what_a_model_says_is_text_in_every_view() -> None:
    evil = "<script>alert(1)</script> ![x](https://evil.test/x.png) [a](javascript:x) | ``` \n# h"
    a = await view(calls("look", city=evil), evil, prompt=evil)
    b = await view(
        calls("look", city="x"), evil + "more\x1b[31m", prompt="x",
        instructions=evil, name="<b>|x",
    )  # fmt: skip
    text = markdown(diff(a, b, instructions=("x", evil)), "<i>", "last|1")
    assert set(re.findall(r"<[^>]*>", text)) <= {
        "<del>", "</del>", "<ins>", "</ins>", "<br>", "<small>", "</small>", "<span>", "</span>",
    }  # fmt: skip
    assert "](" not in text
    assert "```" not in text
    assert not re.search(r"^#", text, re.MULTILINE)
    cells = [re.findall(r"(?<!\\)\|", line) for line in text.splitlines() if line.startswith("|")]
    assert {len(c) for c in cells} <= {4, 5}
    assert "\x1b" not in plain(diff(a, b), "1", "2")


async def test_the_bundle_is_markdown_and_text() -> None:
    a, b = await view("one two"), await view("one three")
    made = bundle(diff(a, b), "last~1", "last")
    assert "> one <del>two</del><ins>three</ins>" in made["text/markdown"]
    assert "one [-two-]{+three+}" in made["text/plain"]
    assert made["text/plain"].startswith("            last~1  last\n")


async def test_long_stretches_of_the_same_are_cut() -> None:
    long = "word " * 400
    a, b = await view(f"{long}a"), await view(f"{long}b")
    shown = plain(diff(a, b), "1", "2")
    assert "… " in shown
    assert len(shown) < 600
