"""%mastra batch in a real kernel, and what `record` leaves in a notebook."""

from __future__ import annotations

from mastra_nb.recording import MIME
from tests.flows.batches import alive, notebook, pids, until
from tests.notebook.conftest import Start


def test_a_table_of_this_notebook_is_run_through_another(start: Start) -> None:
    kernel = start()
    notebook(
        kernel.cwd / "square.ipynb",
        "n = 1",
        "from mastra_nb import record\nrecord(square=n * n)\nassert n != 3, 'not three'",
    )
    kernel.ok("%load_ext mastra_nb")
    kernel.ok("rows = [{'n': 2}, {'n': 3}]")
    out = kernel.ok("%mastra batch square.ipynb --params rows -o report", timeout=60)
    assert "1 failed" in out.markdown and "not three" in out.markdown
    assert kernel.ok("[row.values for row in report]").result == "[{'square': 4}, {'square': 9}]"
    assert kernel.ok("report.failed[0].error").result == "'AssertionError: not three'"
    # The store of this notebook is that of the rows.
    assert kernel.ok("report.to_frame().square.tolist()").result == "[4, 9]"
    for line, wrong in (
        ("", "which notebook"),
        ("square.ipynb", "which rows"),
        ("square.ipynb --params nothing", "no variable"),
        ("no.ipynb --params rows", "no notebook"),
        ("square.ipynb --params rows --workers 0", "workers"),
        ("square.ipynb --params rows --retrys 1", "retrys"),
    ):
        assert wrong in kernel.run(f"%mastra batch {line}").error


def test_what_is_recorded_is_an_output_of_any_kernel(start: Start) -> None:
    kernel = start()
    kernel.ok("from mastra_nb import record")
    out = kernel.ok(
        "import datetime\nrecord(a=1, when=datetime.date(2026, 1, 2), s={'x': [1.5, None]})"
    )
    assert [d[MIME] for d in out.shown] == [
        {"name": "a", "value": 1},
        {"name": "when", "value": "2026-01-02"},
        {"name": "s", "value": {"x": [1.5, None]}},
    ]
    assert out.shown[0]["text/plain"] == "a = 1"
    assert "SchemaError" in kernel.run("record(f=lambda: 1)").error
    assert "1 MB" not in kernel.run("record(f='x' * 2_000_000)").error


def test_an_interrupt_stops_the_batch_and_it_goes_on(start: Start) -> None:
    kernel = start()
    notebook(
        kernel.cwd / "slow.ipynb",
        "n = 1",
        "import os, time\nopen('pids', 'a').write(f'{os.getpid()}\\n')\n"
        "time.sleep(60 * os.path.exists('hold'))",
    )
    (kernel.cwd / "hold").touch()
    kernel.ok("%load_ext mastra_nb")
    (kernel.cwd / "rows.json").write_text('[{"n": 1}, {"n": 2}]')
    line = kernel.start("%mastra batch slow.ipynb --params rows.json")
    until(lambda: pids(kernel.cwd))
    kernel.manager.interrupt_kernel()
    out = kernel.finish(line, timeout=20)
    assert "■ stopped" in out.error and "0 of 2 done" in out.error
    until(lambda: not any(map(alive, pids(kernel.cwd))), 10)
    (kernel.cwd / "hold").unlink()
    again = kernel.ok("%mastra batch slow.ipynb --params rows.json", timeout=60)
    assert "2 done" in again.markdown
