from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from mastra_nb import Agent, tool
from mastra_nb.answers import read_answer
from mastra_nb.errors import MastraError
from mastra_nb.notebook import _values
from mastra_nb.notebook._define import split_front_matter
from mastra_nb.testing import ScriptedModel
from mastra_nb.views import code_of


@dataclass
class Forecast:
    city: str


@tool
def get_weather(city: str) -> str:
    """The weather."""
    return city


NAMES: dict[str, Any] = {
    "Forecast": Forecast,
    "get_weather": get_weather,
    "model": ScriptedModel(),
    "weather": Agent(name="w", model="local"),
    "n": 3,
}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Forecast", Forecast),
        ("list[Forecast]", list[Forecast]),
        ("dict[str, int]", dict[str, int]),
        ("Forecast | None", Forecast | None),
        ("int", int),
    ],
)
def test_types_by_expression(text: str, found: Any) -> None:
    assert _values.find_type(text, NAMES) == found


@pytest.mark.parametrize(
    "text", ["print()", "Forcast", "n", "weather", "list[", "(lambda: int)()", "1"]
)
def test_what_is_no_type(text: str) -> None:
    with pytest.raises(MastraError) as caught:
        _values.find_type(text, NAMES)
    assert caught.value.hint


def test_models_are_strings_variables_or_chains() -> None:
    assert _values.find_model("vllm/a", NAMES) == "vllm/a"
    assert _values.find_model("model", NAMES) is NAMES["model"]
    assert _values.find_model("vllm/a, local", NAMES) == ["vllm/a", "local"]
    with pytest.raises(MastraError) as caught:
        _values.find_model("modle", NAMES)
    assert '"model"' in caught.value.hint


def test_agents_by_variable_or_registered_name() -> None:
    other = Agent(name="other", model="local")
    assert _values.find_agent("weather", NAMES, {}) is NAMES["weather"]
    assert _values.find_agent("other", NAMES, {"other": other}) is other
    with pytest.raises(MastraError) as caught:
        _values.find_agent("n", NAMES, {"other": other})
    assert '"n" is a int' in caught.value.hint


def test_approval_is_a_copy() -> None:
    (made,) = _values.with_approval([get_weather], ["get_weather"])
    assert made.needs_approval is True
    assert get_weather.needs_approval is False
    assert made("Oslo") == "Oslo"


def test_front_matter_is_only_what_stands_between_two_lines() -> None:
    assert split_front_matter("---\nmodel: x\n---\nBe brief.\n---\nno") == (
        {"model": "x"},
        "Be brief.\n---\nno",
    )
    assert split_front_matter("Be brief.\n---\nx\n---") == ({}, "Be brief.\n---\nx\n---")
    assert split_front_matter("---\nno end") == ({}, "---\nno end")
    assert split_front_matter("---\n---\nx") == ({}, "x")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", ...),
        ("approve", {"approved": True}),
        ("deny", {"approved": False}),
        ("deny not to Eve", {"approved": False, "reason": "not to Eve"}),
        ('{"approved": true}', {"approved": True}),
        ("3", 3),
    ],
)
def test_answers(text: str, answer: Any) -> None:
    assert read_answer(text) == answer


def test_the_code_of_an_answer() -> None:
    assert code_of("Here:\n~~~py x\na = '```'\n~~~\nand\n```\nb\n```") == ("a = '```'", "py")
    assert code_of("no fence\n") == ("no fence", "")
