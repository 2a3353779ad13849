"""Workflows in the cells of real kernels: defined, shown, answered, cut off and taken up again."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.notebook.conftest import MIME, ROOT, SCRIPTED, Kernel, Output

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


def wait_for_step(kernel: Kernel, line: str) -> None:
    path = kernel.cwd / "trace.txt"
    deadline = time.monotonic() + 20
    while not path.exists() or line not in path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)


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
    mine = kernel.ok("await publish(1)")
    assert mine.result == "{'ok': True, 'twice': 4}", "the cell gets what came of its run"
    assert str(only(mine)["text/plain"]).startswith("publish: ")
    assert trace(kernel) == []
    assert run_id(kernel.run("await publish(1)")) != id, "one that is done is not in the way"
    assert kernel.ok("given = %resume true\ngiven['ok']").result == "True"
    assert run_id(kernel.run("await publish(1)")) != id, "given once"
    assert '"ok":false' in str(only(kernel.ok("%resume deny"))["text/plain"])


def test_several_questions_are_answered_one_by_one(kernel: Kernel) -> None:
    out = kernel.run("await pair(1)")
    id = run_id(out)
    assert out.error.endswith(f"%resume {id} --at first true|false · 1 more: %mastra waiting")
    rows = table(kernel.ok("%mastra waiting"))
    assert [row[:3] for row in rows] == [
        ["pair", "first", 'input: "Publish?"'],
        ["pair", "second", 'input: "Why?"'],
    ]
    assert [row[4] for row in rows] == [
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
    assert kernel.ok("said = %resume deny\nsaid").result == "'kept'"
    kernel.run("await careful()")
    assert kernel.run("%resume perhaps").ename == "UsageError"
    assert only(kernel.ok('%resume {"approved": true}'))["text/plain"] == "careful: sent"


def test_a_question_whose_time_is_over_goes_on_without_an_answer(kernel: Kernel) -> None:
    kernel.ok(
        "%%workflow hasty()\n"
        "return await suspend('Now?', schema=bool, timeout=0.2, default='nobody')"
    )
    id = run_id(kernel.run("await hasty()"))
    time.sleep(0.3)
    assert "its time is over" in str(only(kernel.ok("%mastra waiting"))["text/plain"])
    assert kernel.run("%resume true").error.splitlines() == [
        f'NotResumable: the time to answer run "{id}" is over',
        f"  → %resume {id} without an answer goes on without one",
    ]
    assert kernel.ok("x = %resume\nx").result == "'nobody'"


# What breaks


def test_the_traceback_of_a_step_is_the_users(kernel: Kernel) -> None:
    kernel.ok("%%workflow breaks(n: int) -> float\na = await fetch(n)\n\nreturn await broken(a)")
    out = kernel.run("await breaks(4)")
    assert out.ename == "ZeroDivisionError"
    files = re.findall(r"^(File \S+?/(\w+)\.py|Cell In\[\d+\]):?\d*,", out.error, re.MULTILINE)
    assert len([name for _, name in files if name]) <= 2
    assert "----> 4     return await broken(a)" in out.error, "line n of the body is line n of it"
    assert "return x / (x - works)" in out.error
    assert out.error.splitlines()[-1].startswith("%resume r_")
    assert only(out)["text/plain"] == "✗ breaks: ZeroDivisionError: division by zero"


def test_resume_alone_goes_on_with_the_run_that_broke(kernel: Kernel) -> None:
    kernel.ok("%%workflow mended(n: int) -> float\na = await fetch(n)\nreturn await broken(a)")
    id = run_id(kernel.run("await mended(4)"))
    refused = kernel.run("%resume approve")
    assert '%resume without an answer tries "mended" again' in refused.error
    refused = kernel.run(f"%resume {id} approve")
    assert refused.head == f'NotResumable: run "{id}" asks nothing: it is failed'
    again = kernel.run("%resume")
    assert len(re.findall(r"^File ", again.error, re.MULTILINE)) <= 2
    assert "return x / (x - works)" in again.error
    kernel.ok("works = 4")
    assert only(kernel.ok("%resume"))["text/plain"] == "mended: 5"
    kernel.ok("works = 5")
    assert trace(kernel) == ["fetch 4", "broken 5", "broken 5", "broken 5"]
    assert "no run waits" in kernel.run("%resume").head


def test_what_is_defined_anew_is_what_goes_on(kernel: Kernel) -> None:
    """A cell is mended and run again, then the run goes on: with the code that is there now."""
    source = "%%workflow {}(n: int) -> str\na = await fetch(n)\n{}return f'{}'"
    kernel.ok(source.format("edited", "raise KeyError('no')\n", "old"))
    kernel.run("await edited(1)")
    kernel.ok(source.format("edited", "ok = await suspend('Go?', schema=bool)\n", "not yet {ok}"))
    kernel.run("%resume")
    kernel.ok(source.format("edited", "ok = await suspend('Go?', schema=bool)\n", "new {ok}"))
    assert only(kernel.ok("%resume true"))["text/plain"] == "edited: new True"
    assert trace(kernel) == ["fetch 1"]

    built = "built = Workflow(name='built').then(fetch).map(lambda x: {}, id='made')"
    kernel.ok(built.format("1 / 0"))
    id = run_id(kernel.run("await built.run(1)"))
    kernel.ok(built.format("x * 100"))
    assert only(kernel.ok(f"%resume {id}"))["text/plain"] == "built: 200"


def test_an_interrupt_stops_it_and_resume_does_what_is_left(kernel: Kernel) -> None:
    kernel.ok("seconds = 0.7")
    trace(kernel)
    id = kernel.start("await twice(3)")
    wait_for_step(kernel, "slow 6")
    kernel.manager.interrupt_kernel()
    out = kernel.finish(id)
    run = run_id(out)
    assert out.error == f"■ stopped · %resume {run} goes on where it was"
    assert only(out)["text/plain"] == "■ stopped: twice"
    kernel.ok("seconds = 0.1")
    assert kernel.complete("%resume r_")[0] == run
    assert only(kernel.ok("%resume"))["text/plain"] == "twice: 12"
    assert trace(kernel) == ["slow 3", "done 3", "slow 6", "slow 6", "done 6"]
    assert kernel.ok("await twice(3)").result == "12"
    assert trace(kernel) == [], "the cell gets what came of its run"
    assert kernel.ok("await twice(3)").result == "12"
    assert trace(kernel) == ["slow 3", "done 3", "slow 6", "done 6"], "a new run of its cell"


def test_two_that_were_stopped_go_on_one_after_the_other(kernel: Kernel) -> None:
    kernel.ok("seconds = 1")
    trace(kernel)
    id = kernel.start("await asyncio.gather(twice(5), twice(6))")
    wait_for_step(kernel, "slow 5")
    wait_for_step(kernel, "slow 6")
    kernel.manager.interrupt_kernel()
    assert [d["text/plain"] for d in kernel.finish(id).shown] == ["■ stopped: twice"] * 2
    kernel.ok("seconds = 0.1")
    assert {only(kernel.ok("%resume"))["text/plain"] for _ in range(2)} == {
        "twice: 20",
        "twice: 24",
    }
    assert "no run waits" in kernel.run("%resume").head


NEWCOMER = {
    "no name": ("%%workflow\nreturn 1", "%%workflow needs a name", "usage: %%workflow NAME"),
    "no identifier": ("%%workflow 3x\nreturn 1", '"3x" is no signature', "usage: %%workflow"),
    "open bracket": ("%%workflow x(a\nreturn 1", '"x(a" is no signature', "usage: %%workflow"),
    "no body": ("%%workflow x(a)\n# later\n", "the workflow has no body", "write what it does"),
    "yields": ("%%workflow x(a)\nyield a", '"x" yields', "returns"),
    "no Python": ("%%workflow x(a)\nreturn (", "'(' was never closed", "Cell In"),
    "one line": ("%workflow x(a)", "%workflow has no cell", "%%workflow"),
    "an option": ("%%workflow -m x\nreturn 1", '"-m x" is no signature', "usage: %%workflow"),
}


@pytest.mark.parametrize(("source", "said", "hint"), NEWCOMER.values(), ids=NEWCOMER)
def test_what_a_newcomer_writes_is_answered_in_a_line(
    kernel: Kernel, source: str, said: str, hint: str
) -> None:
    out = kernel.run(source)
    assert said in out.error
    assert hint in out.error
    assert "Traceback" not in out.error


CALLS = {
    "too many": ("await twice(1, 2)", '"twice" does not take 2 arguments'),
    "too few": ("await twice()", '"twice" needs "n"'),
    "wrong type": ("await twice('x')", 'the input of workflow "twice" does not fit'),
    "a name it has not": ("await twice(m=1)", '"twice" does not take "m"'),
    "not awaited": ("await forgets(1)", 'the call of "fetch" in "forgets" was never awaited'),
}


@pytest.mark.parametrize(("source", "said"), CALLS.values(), ids=CALLS)
def test_a_wrong_call_is_answered_in_a_line(kernel: Kernel, source: str, said: str) -> None:
    kernel.ok("%%workflow forgets(n)\nfetch(n)\nreturn 1")
    out = kernel.run(source)
    assert said in out.head
    assert len(out.error.splitlines()) <= 2


# What a body may hold


BODY = '''%%workflow letter(name: str) -> dict
"Asks and keeps."
city = name.upper()
text = """one
  two {braces}
three"""
many = f"""{city}:
{text}"""
first = %ask writer Write about {{ city }}.
at, by, id = await now(), await random(), await uuid()
await look.run("x")
ok = await suspend("More?", schema=bool)
kept = [at.isoformat(), by, id]
return {"first": first, "many": many, "kept": kept}'''


def test_magics_texts_and_journaled_values_in_a_body(kernel: Kernel) -> None:
    kernel.ok('@tool\ndef look(what: str) -> str:\n    "Look."\n    note("look")\n    return what')
    kernel.ok(
        'model = ScriptedModel("Dear OSLO.", "Never asked.")\n'
        'writer = Agent(name="writer", model=model)'
    )
    out = kernel.ok(BODY)
    assert "· writer, look, suspend" in out.text
    out = kernel.run("await letter('Oslo')")
    assert out.ename == "RunSuspended"
    assert "Dear OSLO." not in str(only(out)["text/plain"])
    done = kernel.ok("%resume approve")
    assert len(done.shown) == 1
    assert kernel.ok("[m.text for r in model.requests for m in r.messages]").result == (
        "['Write about OSLO.']"
    ), "asked once, with the value of the body"
    assert trace(kernel) == ["look"]
    value = str(only(done)["text/plain"])
    assert value.startswith('letter: {"first":"Dear OSLO.",')
    assert r'"many":"OSLO:\none\n two {braces}\nthree"' in value


def test_defaults_of_a_signature_hold(kernel: Kernel) -> None:
    kernel.ok("%%workflow polite(name: str = 'Ada', *, often: int = 2)\nreturn name * often")
    assert kernel.ok("await polite()").result == "'AdaAda'"
    assert kernel.ok("await polite(often=1)").result == "'Ada'"


def test_a_workflow_of_a_module_is_shown_and_found(kernel: Kernel) -> None:
    (kernel.cwd / "plans.py").write_text(
        "from mastra_nb.workflows import Workflow, step\n\n"
        "@step\ndef add(x: int) -> int:\n    return x + 1\n\n"
        'plan = Workflow(name="plan", description="Adds.").then(add)\n'
    )
    kernel.ok("from plans import plan")
    assert only(kernel.ok("plan.outline\n%mastra graph plan"))["text/plain"] == "plan\n└─ add"
    assert kernel.ok("await plan.run(1)").result == "2"
    rows = {row[0]: row[1:] for row in table(kernel.ok("%mastra workflows"))}
    assert rows["plan"] == ["add", "Adds."]
    assert rows["publish"] == ["fetch, suspend, slow", "Fetch, ask, double."]


# Looking


def test_runs_and_graphs_are_listed(kernel: Kernel) -> None:
    kernel.ok("await twice(20)")
    row = table(kernel.ok("%mastra runs"))[-1]
    assert row[1:] == ["twice", "done", "20"]
    stored = table(kernel.ok("%mastra runs 1"))[0]
    assert stored[1:4] == ["twice", "done", "20"]
    assert only(kernel.ok("%mastra graph"))["text/plain"] == "twice: 80"
    assert only(kernel.ok(f"%mastra graph {stored[0]}"))["text/plain"] == "twice: 80"
    assert str(only(kernel.ok("%mastra graph twice"))["text/plain"]).startswith("twice\n└─ for")
    unknown = kernel.run("%mastra graph twise")
    assert '"twise"' in unknown.head
    assert "twice" in unknown.error.splitlines()[1]
    assert {"twice", "publish"} <= set(kernel.complete("%mastra graph "))
    assert kernel.complete("%mastra w") == ["waiting", "workflows"]
    assert kernel.complete("%%workf") == ["%%workflow"]


def test_the_extension_goes_and_comes_back(kernel: Kernel) -> None:
    kernel.ok("%unload_ext mastra_nb")
    out = kernel.ok("await twice(1)")
    assert (out.result, out.shown) == ("4", [])
    kernel.ok(LOAD)
    assert len(kernel.ok("await twice(1)").shown) == 1
    assert kernel.run("await publish(30)").ename == "RunSuspended"
    kernel.ok("%resume deny")


# Saved


SAVED = [LOAD, STEPS, TWICE, "await twice(3)", "await asyncio.gather(twice(1), twice(2))"]


def executed(path: Path) -> Any:
    cells = [nbformat.v4.new_code_cell(source, id=f"c{n}") for n, source in enumerate(SAVED)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    NotebookClient(notebook, resources={"metadata": {"path": str(path)}}, timeout=60).execute()
    nbformat.validate(notebook)
    return notebook


def saved(notebook: Any) -> list[str]:
    """The outputs of its cells apart from durations, which are also in their pictures."""

    def picture(found: re.Match[str]) -> str:
        return re.sub(r"\d[\d.]*", "-", base64.b64decode(found[1]).decode())

    texts = [json.dumps(cell.outputs, sort_keys=True) for cell in notebook.cells]
    texts = [re.sub(r'<img alt=\\"timeline\\"[^>]*>', "", text) for text in texts]
    texts = [re.sub(r"data:image/svg\+xml;base64,([\w+/=]+)", picture, text) for text in texts]
    texts = [re.sub(r"\d[\d.]*(&#46;\d+)? ?m?s\b", "- s", text) for text in texts]
    return [re.sub(r'"(seconds|start|end)": [\d.]+', r'"\1": -', text) for text in texts]


def test_a_saved_notebook_shows_the_runs_and_does_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    first, second = executed(tmp_path), executed(tmp_path)
    assert saved(first) == saved(second)
    outline, run, both = (cell.outputs for cell in first.cells[2:])
    assert [o.output_type for o in outline] == ["stream", "display_data"]
    assert [o.output_type for o in run] == ["display_data", "execute_result"]
    assert [o.output_type for o in both] == ["display_data"] * 2 + ["execute_result"]
    for shown in (outline[1], run[0], *both[:2]):
        assert "data:image/svg+xml;base64," in shown.data["text/markdown"]
    assert run[0].data[MIME]["status"] == "done"
    assert not re.search(r"r_[0-9a-f]{6}", json.dumps(first.cells[2:]))


# A kernel that dies


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    kernel = Kernel(tmp_path_factory.mktemp("mortal"), {})
    kernel.ok(LOAD)
    yield kernel
    kernel.close()


def define(kernel: Kernel, *cells: str) -> None:
    for cell in (STEPS, *cells):
        kernel.ok(cell)


def die(kernel: Kernel) -> None:
    """SIGKILL, and a new kernel of the same notebook."""
    kernel.restart()
    kernel.ok(LOAD)


def test_a_killed_kernel_loses_nothing_that_had_ended(mortal: Kernel) -> None:
    define(mortal, TWICE)
    mortal.ok("seconds = 0.6")
    mortal.start("await twice(3)")
    wait_for_step(mortal, "slow 6")
    die(mortal)
    define(mortal, TWICE)
    out = mortal.ok("await twice(3)")
    assert out.result == "12"
    assert len(out.shown) == 1
    assert trace(mortal) == ["slow 3", "done 3", "slow 6", "slow 6", "done 6"]
    rows = table(mortal.ok("%mastra runs all"))
    assert [row[1:3] for row in rows] == [["twice", "done"]], "it was one run"


def test_a_suspended_run_waits_for_a_fresh_kernel(mortal: Kernel) -> None:
    define(mortal, PAIR)
    id = run_id(mortal.run("await pair(1)"))
    die(mortal)
    refused = mortal.run("%resume --at first true").error.splitlines()
    assert refused == [
        f'NotResumable: run "{id}" belongs to the workflow "pair", which is not here',
        '  → define "pair" (run its cell, or app.add it), then go on; '
        "its steps: fetch, first, second",
    ]
    assert mortal.complete("%resume r_") == [id]
    for look in (f"%mastra run {id[:6]}", f"%mastra graph {id}"):
        shown = only(mortal.ok(look))
        assert "data:image/svg+xml;base64," in str(shown["text/markdown"]), "from the journal"
        assert str(shown["text/plain"]).startswith("⏸ suspended: pair")
    define(mortal, PAIR)
    assert run_id(mortal.run("await pair(1)")) == id, "its cell takes it up"
    mortal.run("%resume --at first true")
    assert only(mortal.ok(f"%resume {id} Because."))["text/plain"] == 'pair: [true,"Because."]'
    assert trace(mortal) == ["fetch 1"]


def test_a_failed_run_is_tried_again_by_a_fresh_kernel(mortal: Kernel) -> None:
    fails = "%%workflow fails(n: int) -> float\na = await fetch(n)\nreturn await broken(a)"
    define(mortal, fails)
    id = run_id(mortal.run("await fails(4)"))
    die(mortal)
    define(mortal, fails, "works = 0")
    assert only(mortal.ok(f"%resume {id}"))["text/plain"] == "fails: 1"
    assert trace(mortal) == ["fetch 4", "broken 5", "broken 5"]


def test_a_body_that_makes_other_calls_is_refused(mortal: Kernel) -> None:
    source = "%%workflow other(n: int) -> bool\na = await {}(n)\nreturn await suspend('Go?')"
    define(mortal, source.format("fetch"))
    mortal.run("await other(1)")
    die(mortal)
    define(mortal, source.format("slow"))
    out = mortal.run("%resume approve")
    assert out.ename == "ReplayMismatch"
    assert '"fetch' in out.head
    assert len(out.error.splitlines()) == 2
