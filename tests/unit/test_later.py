"""What stands for a module until it is looked into."""

from __future__ import annotations

import colorsys
import subprocess
import sys
from typing import Any

import pytest

from mastra_nb._later import later

COLD = """
import sys
from mastra_nb import Agent, tool

@tool
def look(at: str) -> str:
    "Look."
    return at

Agent(name="a", model="openai/gpt-4o-mini", tools=[look])
print(*sorted({"asyncio", "hashlib", "socket", "ssl", "subprocess"} & set(sys.modules)))
"""


def test_the_first_look_puts_the_module_in_its_place() -> None:
    names: dict[str, Any] = {}
    names["colorsys"] = later("colorsys", names)
    assert names["colorsys"] is not colorsys
    assert names["colorsys"].rgb_to_hsv is colorsys.rgb_to_hsv
    assert names["colorsys"] is colorsys


def test_what_is_not_there_is_said_as_by_the_module() -> None:
    names: dict[str, Any] = {}
    with pytest.raises(AttributeError, match="module 'colorsys' has no attribute 'nothing'"):
        _ = later("colorsys", names).nothing


def test_an_agent_is_made_without_what_only_a_run_needs() -> None:
    done = subprocess.run([sys.executable, "-c", COLD], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
