from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mastra_nb.errors import UsageError
from mastra_nb.notebook._options import Parsed, from_mapping, parse_cell, parse_line
from mastra_nb.notebook._specs import AGENT, ASK, COMMANDS, MASTRA, SPECS


def ask(line: str) -> Parsed:
    return parse_line(ASK, line, is_name=lambda word: word == "weather")


def test_the_text_begins_where_options_end() -> None:
    parsed = ask('weather --schema Forecast -o x  What\'s it -o like "there"?  ')
    assert parsed.words == ["weather"]
    assert parsed.values == {"schema": "Forecast", "out": "x"}
    assert parsed.rest == 'What\'s it -o like "there"?'


def test_options_may_come_before_the_name() -> None:
    parsed = ask("--thread 'my trip' --as=json weather hi")
    assert (parsed.words, parsed.rest) == (["weather"], "hi")
    assert parsed.values == {"thread": "my trip", "as": "json"}


def test_two_dashes_end_the_options() -> None:
    assert ask("-- --schema is text").rest == "--schema is text"
    assert ask("weather -- -o x").rest == "-o x"


def test_what_only_looks_like_an_option_is_text() -> None:
    assert ask("-5 degrees").rest == "-5 degrees"
    assert ask("weather - or so").rest == "- or so"
    assert ask("weather it's").rest == "it's"


@given(st.text(alphabet=st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp"))))
def test_text_is_kept_as_it_was_typed(text: str) -> None:
    assert ask(f"weather -- {text}").rest == text.strip()


@given(st.text(max_size=60))
def test_any_line_parses_or_is_a_usage_error(line: str) -> None:
    for parse in (ask, lambda x: parse_cell(AGENT, x, words=1)):
        with contextlib.suppress(UsageError):
            parse(line)


def test_a_cell_takes_options_anywhere() -> None:
    parsed = parse_cell(AGENT, "-m openai/gpt weather -t a,b, c --memory", words=2)
    assert parsed.words == ["weather", "c"]
    assert parsed.values == {"model": "openai/gpt", "tools": ["a", "b"], "memory": "on"}


@pytest.mark.parametrize(
    ("line", "memory"),
    [("a --memory", "on"), ("--memory off a", "off"), ("a --memory 6", "6"), ("--memory a", "on")],
)
def test_the_memory_mode_may_be_left_out(line: str, memory: str) -> None:
    parsed = parse_cell(AGENT, line, words=1)
    assert parsed.values["memory"] == memory
    assert parsed.words == ["a"]


@pytest.mark.parametrize(
    ("line", "said", "hint"),
    [
        ("--shema F", '"--shema"', '"--schema"'),
        ("--as pdf", '"--as" is "pdf"', "md, code, json"),
        ("--budget 0", '"--budget" is "0"', "above 0"),
        ("--budget inf", '"--budget" is "inf"', "above 0"),
        ("--thread", '"--thread" needs a value', "--thread T"),
        ("--thread --as md", '"--thread" needs a value', "--thread T"),
        ("--no-cache=1", "takes no value", "--no-cache"),
        ("a b", '"b"', "below the line"),
    ],
)
def test_mistakes_say_what_to_write(line: str, said: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_cell(ASK, line, words=1)
    assert said in caught.value.message
    assert hint in caught.value.hint


def test_front_matter_holds_the_same_options() -> None:
    table = {"model": "local", "tools": ["a", "b"], "memory": True, "approve": "a, b"}
    assert from_mapping(AGENT, table, where="x") == {
        "model": "local",
        "tools": ["a", "b"],
        "memory": "on",
        "approve": ["a", "b"],
    }
    assert from_mapping(AGENT, {"memory": 5}, where="x") == {"memory": "5"}


@pytest.mark.parametrize(
    "table", [{"modle": "x"}, {"save": "x"}, {"model": ["x"]}, {"model": None}]
)
def test_wrong_front_matter_names_the_option(table: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(table))):
        from_mapping(AGENT, table, where="the front matter")


def test_help_is_made_from_the_table() -> None:
    for spec in SPECS.values():
        text = spec.help()
        assert all(option.long in text and option.help in text for option in spec.options)
    assert all(f"%mastra {name}" in MASTRA.body for name in COMMANDS)
