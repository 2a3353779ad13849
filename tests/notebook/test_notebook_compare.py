"""%mastra diff and %mastra trace, in the cells of one kernel."""

from __future__ import annotations

import pytest

from tests.notebook.conftest import Kernel


@pytest.fixture(scope="module")
def kernel(shared: Kernel) -> Kernel:
    shared.ok(
        "@tool\ndef look(city: str) -> str:\n    'Look.'\n    return city\n"
        "model = ScriptedModel('It is sunny.', calls('look', city='Oslo'), 'It is rainy.')"
    )
    shared.ok("%%agent weather -m model -t look\nBe brief.")
    shared.ok("%ask weather Oslo?")
    shared.ok("%%agent weather -m model -t look\nBe very brief.")
    shared.ok("%ask weather Rome?")
    return shared


def test_the_last_two_runs(kernel: Kernel) -> None:
    text = kernel.ok("%mastra diff").markdown
    assert "<del>Oslo</del><ins>Rome</ins>" in text
    assert "Be<ins> very</ins> brief." in text
    assert "It is <del>sunny</del><ins>rainy</ins>." in text
    assert "| + | look |" in text
    assert kernel.ok("%mastra diff last~1 last").markdown == text
    by_number = kernel.ok("%mastra diff 2 1").markdown
    assert "It is <del>rainy</del><ins>sunny</ins>." in by_number


def test_runs_of_the_store_by_their_ids(kernel: Kernel) -> None:
    ids = kernel.ok("list(get_ipython().mastra.host.views)").result
    a, b = (id.strip("'[] ") for id in ids.split(","))
    text = kernel.ok(f"%mastra diff {a} {b}").markdown
    assert "It is <del>sunny</del><ins>rainy</ins>." in text
    assert "look" in kernel.ok(f"%mastra trace {b}").markdown


def test_a_trace_is_a_tree_with_a_waterfall(kernel: Kernel) -> None:
    (shown,) = kernel.ok("%mastra trace").shown
    assert "data:image/svg+xml;base64," in shown["text/markdown"]
    assert [line.split()[1] for line in shown["text/plain"].splitlines()] == [
        "weather", "scripted/model", "look[0.0]", "scripted/model",
    ]  # fmt: skip


def test_mistakes(kernel: Kernel) -> None:
    assert kernel.run("%mastra diff 1").head == "UsageError: a diff needs two runs"
    assert kernel.run("%mastra diff 7 8").head == (
        'NotFound: there is no run "7" in this kernel: there are 2 runs'
    )
    assert kernel.run("%mastra diff r_nothing last").ename == "NotFound"
    assert kernel.run("%mastra diff 1 2 3").ename == "UsageError"
    assert {"last", "last~1"} <= {*kernel.complete("%mastra diff last")}
