"""Outlines of bodies, read from their source."""

from __future__ import annotations

import asyncio
import json
import types
from typing import Any

import pytest

from mastra_nb import Agent, sources, tool
from mastra_nb.testing import ScriptedModel
from mastra_nb.workflows import Workflow, now, sleep, step, suspend, workflow


@step
async def fetch(x: int) -> int:
    """Fetch it.

    More about it.
    """
    return x


@step
def double(x: int) -> int:
    return 2 * x


@tool
def mail(to: str) -> str:
    return to


writer = Agent(name="writer", model=ScriptedModel("hi"))
inner = Workflow(name="inner").then(double)
module = types.ModuleType("module")
module.fetch = fetch  # type: ignore[attr-defined]


class Holder:
    def __init__(self) -> None:
        self.fetch = fetch

    @property
    def dear(self) -> Any:
        raise AssertionError("what an object computes is not asked for")


holder = Holder()


def short(nodes: list[dict[str, Any]]) -> list[Any]:
    """ids; of what holds others [id, text of an arm or a loop, nodes, …]."""
    out: list[Any] = []
    for node in nodes:
        if "arms" in node:
            arms = [
                [a["when"], *short(a["nodes"])] if isinstance(a, dict) else short(a)
                for a in node["arms"]
            ]
            out.append([node["id"], *arms])
        elif node["type"] == "loop":
            out.append([node["id"], f"{node['how']} {node['when']}", *short(node["nodes"])])
        else:
            out.append(node["id"] + ("!" if node.get("again") else ""))
    return out


def read(fn: Any) -> list[Any]:
    made = sources.outline(fn)
    assert made["dashed"] is True
    return short(made["nodes"])


async def in_a_row(x):
    a = await fetch(x)
    b = await double(await writer(f"{a}"))
    return await inner(b), await fetch(2)


async def chooses(x):
    if await fetch(x) > 1:
        return await double(x)
    elif x:
        pass
    else:
        await writer("a")
    return (await inner(1)) if x else 3


async def repeats(xs):
    for x in xs:
        await fetch(x)
    while await double(1):
        x = [await writer(str(y)) for y in xs]
        break
    else:
        await inner(1)
    for _ in xs:
        print(_)


async def beside(xs):
    a, b = await asyncio.gather(fetch(1), double(2))
    c = await asyncio.gather(*[inner(x) for x in xs])
    async with asyncio.TaskGroup() as group:
        group.create_task(writer("a"))
        group.create_task(asyncio.wait_for(unknown(), 3))  # noqa: F821
    return a, b, c


async def tries(x):
    try:
        await fetch(x)
    except ValueError:
        await double(x)
    else:
        await writer("a")
    finally:
        await inner(x)
    match x:
        case 1:
            await fetch(x)
        case _:
            await double(x)
    with open(await somewhere(x)):  # noqa: F821
        pass


async def talks(x):
    await suspend("a?", name="approve")
    await suspend("b?")
    await sleep(60 * x)
    await now()
    await mail.run(to="a")
    mail("plainly")
    print(len([1]), x.strip())
    await writer.generate("b")
    await module.fetch(x)
    await holder.fetch(x)
    await holder.dear(x)
    f = lambda: fetch(x)  # noqa: E731

    def later():
        return double(x)

    return f, later


@pytest.mark.parametrize(
    ("fn", "nodes"),
    [
        (in_a_row, ["fetch", "writer", "double", "inner", "fetch!"]),
        (
            chooses,
            [
                "fetch",
                ["branch:double", ["await fetch(x) > 1", "double"], ["x"], ["otherwise", "writer"]],
                ["branch:inner", ["x", "inner"], ["otherwise"]],
            ],
        ),
        (
            repeats,
            [
                ["loop:fetch", "for x in xs", "fetch"],
                [
                    "loop:double",
                    "while await double(1)",
                    "double",
                    ["loop:writer", "for y in xs", "writer"],
                ],
                "inner",
            ],
        ),
        (
            beside,
            [
                ["parallel:fetch", ["fetch"], ["double"]],
                ["loop:inner", "for x in xs", "inner"],
                ["parallel:writer", ["writer"], ["unknown"]],
            ],
        ),
        (
            tries,
            [
                "fetch", "double", "writer", "inner",
                ["branch:fetch", ["x is 1", "fetch!"], ["x is _", "double!"]],
                "somewhere",
            ],
        ),
        (talks, ["approve", "suspend", "sleep", "mail", "writer", "fetch"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_the_calls_of_a_body(fn: Any, nodes: list[Any]) -> None:
    assert read(fn) == nodes


def test_what_a_node_says() -> None:
    found = {n["id"]: n for n in sources.outline(in_a_row)["nodes"]}
    assert found["fetch"] == {"type": "step", "id": "fetch", "about": "Fetch it.", "again": True}
    assert found["inner"]["type"] == "workflow"
    assert [n["id"] for n in found["inner"]["nodes"]] == ["double"]
    assert found["writer"]["type"] == "agent"
    asked = {n["id"]: n for n in sources.outline(talks)["nodes"]}
    assert asked["approve"]["type"] == asked["suspend"]["type"] == "ask"
    assert asked["sleep"]["label"] == "60 * x"
    assert asked["mail"]["type"] == "tool"


async def asks_as_a_notebook(x):
    a = await get_ipython().mastra.arun("ask", "writer Write {{ x }}", ns=locals())  # noqa: F821
    get_ipython().mastra.run("ask", "nobody Write.", ns=locals())  # noqa: F821
    await get_ipython().mastra.arun("mastra", "writer", ns=locals())  # noqa: F821
    return a


def test_a_question_of_a_notebook_is_a_call_of_its_agent() -> None:
    assert read(asks_as_a_notebook) == ["writer"]


def test_names_that_a_body_closes_over_are_known() -> None:
    own = double

    async def body(x):
        return await own(x)

    assert read(body) == ["double"]


def test_without_a_source_there_are_no_nodes() -> None:
    space: dict[str, Any] = {"fetch": fetch}
    exec("async def body(x):\n    return await fetch(x)", space)
    assert sources.outline(space["body"]) == {"name": "body", "nodes": [], "dashed": True}


def test_a_long_condition_is_cut() -> None:
    nodes = sources.nodes(_body(f"while {'x' * 80}:\n    await fetch(1)"), globals())
    assert nodes[0]["when"] == "x" * 59 + "…"


def _body(source: str) -> list[Any]:
    import ast

    return ast.parse(source).body


def test_steps_of_names_each_step_once() -> None:
    made = sources.outline(chooses)["nodes"]
    assert sources.steps_of(made) == ["fetch", "double", "writer", "inner"]
    assert sources.steps_of(sources.outline(beside)["nodes"]) == [
        "fetch", "double", "inner", "writer", "unknown",
    ]  # fmt: skip


async def test_the_outline_names_the_steps_of_the_run() -> None:
    @workflow
    async def body(x: int) -> int:
        a, b = await asyncio.gather(fetch(x), double(x))
        return int(await inner(a + b))

    run = body(2)
    assert await run == 12
    begun = {
        p.partition("/")[2].partition("#")[0]
        for p, s in run.view.spans.items()
        if s.parent == run.view.root
    }
    assert begun == set(sources.steps_of(body.outline["nodes"]))


def test_what_has_no_source_at_all_has_an_outline_in_json() -> None:
    assert json.loads(json.dumps(sources.outline(len))) == {
        "name": "len", "nodes": [], "dashed": True,
    }  # fmt: skip
