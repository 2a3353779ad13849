from __future__ import annotations

import ast
import json
from typing import Any

from mastra_nb import Agent, sources, step, tool
from mastra_nb.workflows import now


@step
async def a(x: int) -> int:
    return x


@step
async def b(x: int) -> int:
    return x


@tool
async def look(x: int) -> int:
    """Look."""
    return x


bot = Agent(name="bot", model="openai/gpt-4o-mini")
NAMES = {"a": a, "b": b, "look": look, "bot": bot, "now": now}


def nodes(body: str) -> list[dict[str, Any]]:
    return sources.nodes(ast.parse(body).body, NAMES)


def ids(found: list[dict[str, Any]]) -> list[str]:
    return [node["id"] for node in found]


def test_calls_stand_in_the_order_of_their_evaluation() -> None:
    assert ids(nodes("await now()\nawait a(await b(x))\nlook(x)\nawait look.run(x)")) == [
        "b",
        "a",
        "look",
    ]


def test_elif_is_one_exclusive_branch() -> None:
    [branch] = nodes("if x > 1:\n    await a(x)\nelif x:\n    await b(x)")
    assert branch["type"] == "branch" and branch["exclusive"] is True
    assert [ids(arm["nodes"]) for arm in branch["arms"]][:2] == [["a"], ["b"]]


def test_gather_is_parallel() -> None:
    [both] = nodes("await asyncio.gather(a(1), bot.run(2))")
    assert both["type"] == "parallel"
    assert [ids(arm) for arm in both["arms"]] == [["a"], ["bot"]]


def test_a_loop_holds_its_calls() -> None:
    [loop] = nodes("for i in x:\n    await a(i)")
    assert (loop["type"], loop["how"], ids(loop["nodes"])) == ("loop", "for", ["a"])


def test_the_second_place_is_marked() -> None:
    first, second = nodes("try:\n    await a(1)\nfinally:\n    await a(2)")
    assert "again" not in first and second["again"] is True


def test_without_source_there_are_no_nodes_and_the_outline_is_json() -> None:
    found = sources.outline(len)
    assert found["nodes"] == [] and found["dashed"] is True
    json.dumps(found)
