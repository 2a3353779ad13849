"""Workflows in the cells of real kernels: defined, shown, answered, cut off and taken up again."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.notebook.conftest import MIME, SCRIPTED, Kernel, Output, Start

GRAPH = "application/vnd.mastra.workflow.v1+json"

LOAD = "%load_ext mastra_nb"
STEPS = (
    SCRIPTED
    + """
import asyncio
from mastra_nb.workflows import Workflow, now, random, sleep, step, suspend, uuid, workflow

def note(text):
    with open("trace.txt", "a") as file:
        file.write(f"{text}\\n")

@step
async def fetch(x: int) -> int:
    "Fetch it."
    note(f"fetch {x}")
    await asyncio.sleep(0.1)
    return x + 1

@step
async def slow(x: int) -> int:
    note(f"slow {x}")
    await asyncio.sleep(seconds)
    note(f"done {x}")
    return x * 2

@step
def broken(x: int) -> int:
    note(f"broken {x}")
    return x / (x - works)

seconds, works = 0.1, 5
"""
)
TWICE = "%%workflow twice(n: int) -> int\nfor i in range(2):\n    n = await slow(n)\nreturn n"
PUBLISH = """%%workflow publish(n: int) -> dict
"Fetch, ask, double."
a = await fetch(n)
ok = await suspend({"pages": a}, schema=bool)
return {"ok": ok, "twice": await slow(a)}"""
PAIR = """%%workflow pair(n: int) -> list
a = await fetch(n)
return await asyncio.gather(
    suspend("Publish?", name="first", schema=bool),
    suspend("Why?", name="second", schema=str),
)"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    kernel = Kernel(tmp_path_factory.mktemp("workflow"), {})
    for cell in (LOAD, STEPS, TWICE, PUBLISH, PAIR):
        kernel.ok(cell)
    yield kernel
    kernel.close()


@pytest.fixture(autouse=True)
def _fresh_trace(request: pytest.FixtureRequest) -> None:
    if "kernel" in request.fixturenames:
        trace(request.getfixturevalue("kernel"))


def trace(kernel: Kernel) -> list[str]:
    """What the steps have done since this was asked last."""
    path = kernel.cwd / "trace.txt"
    done = path.read_text().split("\n")[:-1] if path.exists() else []
    path.unlink(missing_ok=True)
    return done


def only(out: Output) -> dict[str, object]:
    (shown,) = out.shown
    return shown


def run_id(out: Output) -> str:
    found = re.search(r"r_[0-9a-f]+", out.error)
    assert found is not None, out.error
    return found[0]


def table(out: Output) -> list[list[str]]:
    """The rows of a table without its header."""
    text = str(only(out)["text/plain"])
    return [re.split(r"\s{2,}", line) for line in text.splitlines()[1:]]


# Defined and run


def test_a_cell_defines_it_and_shows_its_outline(kernel: Kernel) -> None:
    out = kernel.ok(
        "%%workflow sorted_out(n: int) -> int\n"
        "a = await fetch(n)\n"
        "if a > 1:\n    b = await slow(a)\nelse:\n    b = 0\n"
        "return b"
    )
    assert out.text == "sorted_out(n: int) -> int · fetch, slow\n"
    shown = only(out)
    assert str(shown["text/plain"]).splitlines() == [
        "sorted_out",
        "├─ fetch",
        "└─ first that is true",
        "   ├─ if a > 1",
        "   │  └─ slow",
        "   └─ otherwise",
    ]
    assert shown[GRAPH]["nodes"][0]["about"] == "Fetch it."
    assert "data:image/svg+xml;base64," in str(shown["text/markdown"])
    assert kernel.ok("sorted_out.__class__.__name__").result == "'Workflow'"


def test_a_run_shows_itself_while_it_runs_in_one_display(kernel: Kernel) -> None:
    out = kernel.ok("await twice(3)")
    assert out.result == "12"
    assert only(out)["text/plain"] == "twice: 12"
    assert len(out.updates) >= 2
    assert trace(kernel) == ["slow 3", "done 3", "slow 6", "done 6"]


def test_two_runs_beside_each_other_have_a_display_each(kernel: Kernel) -> None:
    out = kernel.ok("await asyncio.gather(twice(1), twice(2))")
    assert out.result == "[4, 8]"
    assert [d["text/plain"] for d in out.shown] == ["twice: 4", "twice: 8"]


def test_what_blocks_shows_nothing(kernel: Kernel) -> None:
    kernel.ok("%autoawait off")
    out = kernel.ok("twice(4).result()")
    kernel.ok("%autoawait on")
    assert (out.result, out.shown) == ("16", [])


def test_a_captured_cell_keeps_one_picture(kernel: Kernel) -> None:
    kernel.run("await publish(70)")
    out = kernel.ok("%%capture kept\n%resume true")
    assert out.shown == []
    (shown,) = kernel.ok("kept.outputs[0].display()\nlen(kept.outputs)").shown
    assert "publish: " in shown["text/plain"]


# Questions


def test_a_question_fails_the_cell_with_one_line_and_is_answered(kernel: Kernel) -> None:
    out = kernel.run("await publish(1)")
    id = run_id(out)
    assert out.error == f"⏸ suspended {id} · input · %resume {id} true|false"
    again = kernel.run("await publish(1)")
    assert run_id(again) == id, "the cell takes up what it left"
    wrong = kernel.run("%resume 17")
    assert wrong.head == "SchemaError: the answer does not fit: 17 is not of type 'boolean'"
    assert kernel.run("%resume deny not today").ename == "UsageError"
    done = kernel.ok("%resume approve")
    assert str(only(done)["text/plain"]) == 'publish: {"ok":true,"twice":4}'
    assert trace(kernel) == ["fetch 1", "slow 2", "done 2"], "nothing was done twice"
    assert run_id(kernel.run("await publish(1)")) != id, "one that is done is not in the way"
    assert '"ok":false' in str(only(kernel.ok("%resume deny"))["text/plain"])


def test_several_questions_are_answered_one_by_one(kernel: Kernel) -> None:
    out = kernel.run("await pair(1)")
    id = run_id(out)
    assert out.error.endswith(f"%resume {id} --at first true|false · 1 more: %mastra waiting")
    rows = table(kernel.ok("%mastra waiting"))
    assert [row[0] for row in rows] == ["pair", "pair"]
    assert [row[1] for row in rows] == ['input: "Publish?"', 'input: "Why?"']
    assert [row[3] for row in rows] == [
        f"%resume {id} --at first true|false",
        f"%resume {id} --at second TEXT",
    ]
    assert "waits in 2 places" in kernel.run("%resume true").head
    assert kernel.complete("%resume --at ") == ["first", "second"]
    assert kernel.complete("%resume r_")[0] == id
    assert run_id(kernel.run("%resume --at second It is good.")) == id
    done = kernel.ok("%resume true")
    assert only(done)["text/plain"] == 'pair: [true,"It is good."]'
    assert kernel.ok("%mastra waiting").text == "nothing waits for a person\n"


def test_a_question_without_a_form_takes_yes_and_no_as_such(kernel: Kernel) -> None:
    kernel.ok('%%workflow careful()\nreturn "sent" if await suspend("Send?") else "kept"')
    kernel.run("await careful()")
    assert only(kernel.ok("%resume deny"))["text/plain"] == "careful: kept"
    kernel.run("await careful()")
    assert kernel.run("%resume perhaps").ename == "UsageError"
    assert only(kernel.ok('%resume {"approved": true}'))["text/plain"] == "careful: sent"
