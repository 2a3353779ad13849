from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mastra_nb import Agent, tool
from mastra_nb.cli._follow import arguments, follow
from mastra_nb.cli._screen import Screen, Writer, blocks, markdown
from mastra_nb.services import Services
from mastra_nb.testing import ScriptedModel, calls

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
PIECES = ["# One\n", "\n", "two *and* ", "more\n", "- a\n", "- b\n", "```py\n", "x = 1\n", "```\n"]


def console(*, width: int = 60, height: int = 12, terminal: bool = False) -> Console:
    return Console(
        file=io.StringIO(), width=width, height=height, force_terminal=terminal, highlight=False
    )


def printed(on: Console) -> str:
    assert isinstance(on.file, io.StringIO)
    return on.file.getvalue()


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_blocks_are_all_of_the_text(text: str) -> None:
    made = blocks(text)
    assert "\n".join(made) == (text if text.strip() else "")


@given(
    st.lists(st.sampled_from(PIECES), max_size=20).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=8).map("".join),
)
def test_what_comes_changes_no_block_but_the_last(text: str, more: str) -> None:
    done = blocks(text)[:-1]
    assert blocks(text + more)[: len(done)] == done


@given(st.lists(st.sampled_from(PIECES), max_size=20))
def test_pieces_are_printed_as_the_whole_is(pieces: list[str]) -> None:
    bit_by_bit, whole = console(), console()
    for on, parts in ((bit_by_bit, pieces), (whole, ["".join(pieces)])):
        writer = Writer(on)
        for part in parts:
            writer.write(part)
            writer._draw()
        writer.close()
    assert printed(bit_by_bit) == printed(whole)


def test_only_the_end_of_what_does_not_fit_is_drawn_over() -> None:
    on = console(height=6)
    on.print(markdown("\n".join(f"- {n}" for n in range(50)), crop=True))
    assert [line.split()[-1] for line in printed(on).split("\n") if line] == [
        "46",
        "47",
        "48",
        "49",
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("# Title", "Title\n"),
        ("a [link](https://x.example/y)", "a link (https://x.example/y)\n"),
        ("a\x1b[2J\x1b]8;;https://x\x07b", "a[2J]8;;https://xb\n"),
        ("<script>alert(1)</script>", ""),
        ("", ""),
    ],
)
def test_markdown_in_a_terminal(text: str, shown: str) -> None:
    on = console(terminal=True)
    on.print(markdown(text), end="")
    assert ANSI.sub("", printed(on)) == shown
    assert "\x1b]" not in printed(on)


def test_arguments_are_short() -> None:
    assert arguments({"city": "Oslo", "n": [1, 2]}) == 'city="Oslo", n=[1,2]'
    assert arguments(None) == ""
    assert len(arguments({f"k{n}": "x" * 100 for n in range(20)})) <= 120


async def test_a_run_is_its_text_and_a_line_for_each_call() -> None:
    @tool
    def look(place: str) -> str:
        return "a cat"

    @tool
    def breaks() -> str:
        raise ValueError("no way")

    inner = Agent(name="inner", model=ScriptedModel("hidden"), services=Services())
    agent = Agent(
        name="a",
        model=ScriptedModel(
            [calls("look", place="box"), calls("breaks"), calls("inner", prompt="x")], "A **cat**."
        ),
        tools=[look, breaks, inner],
        services=Services(),
    )
    run = agent.run("x")
    on = console(width=100)
    screen = Screen(run, on)
    assert await follow(run, screen) is None
    screen.close()
    assert screen.spoke
    text = printed(on)
    assert '✓ look(place="box") → a cat' in text
    assert "✗ breaks() ✗" in text
    assert "no way" in text
    assert text.rstrip().endswith("A cat.")
