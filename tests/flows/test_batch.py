"""Batches of real notebooks: what they give, what they leave, how they go on."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from mastra_nb import Agent, Mastra, plugins, portal, run_batch, tool
from mastra_nb.batch._rows import BatchRow
from mastra_nb.batch.batches import Batch
from mastra_nb.batch.report import BatchReport
from mastra_nb.errors import LeaseHeld
from mastra_nb.testing import ScriptedModel
from tests.flows.batches import SCRIPTED, alive, clean, driver, kill, notebook, parent, pids, until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are looked at by /proc")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clean(monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mastra.toml").write_text("")


def statuses(report: BatchReport) -> list[str]:
    return [row.status for row in report]


ROWS = [{"city": c, "n": i} for i, c in enumerate(["oslo", "rome", "bonn"])]


def tries(tmp_path: Path) -> Path:
    return notebook(
        tmp_path / "n.ipynb",
        "city = ''\nn = 0",
        """
        from mastra_nb import record
        import os, pathlib, time
        with open("tries", "a") as file:
            file.write(f"{n}\\n")
        record(upper=city.upper(), here=os.getcwd())
        if n == 1:
            raise ValueError("no <b>ones</b>")
        if n == 2 and pathlib.Path("tries").read_text().count("2") == 1:
            raise OSError("not the first time")
        record(upper=city.title(), pair=[n, None])
        """,
    )


def test_rows_become_values_and_failures(tmp_path: Path) -> None:
    path = tries(tmp_path)
    seen: list[tuple[int, str]] = []
    report = run_batch(
        path, ROWS, workers=2, retries=1, on_row=lambda row: seen.append((row.index, row.status))
    )
    assert statuses(report) == ["done", "failed", "done"]
    assert sorted(seen) == [(0, "done"), (1, "failed"), (2, "done")]
    assert [row.attempts for row in report] == [1, 2, 2]
    assert report[0].values == {"upper": "Oslo", "here": str(tmp_path), "pair": [0, None]}
    assert report[1].values == {"upper": "ROME", "here": str(tmp_path)}, "what it had until then"
    assert report[1].error == "ValueError: no <b>ones</b>"
    assert report.exit_code == 1 and report.cost == 0.0
    frame = report.to_frame()
    assert list(frame["city"]) == ["oslo", "rome", "bonn"]
    assert list(frame["upper"]) == ["Oslo", "ROME", "Bonn"]
    assert list(frame["status"]) == ["done", "failed", "done"]

    page = (Path(report.folder) / "report.html").read_text("utf-8")
    assert page.index("rome") < page.index("oslo"), "failures first"
    assert "no &lt;b&gt;ones" in page and "<b>ones" not in page
    assert 'href="0001-' in page and (Path(report.folder) / "results.csv").exists()
    failed = json.loads(Path(report[1].output).read_text())
    assert "ValueError" in json.dumps(failed["cells"])


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    path = tries(tmp_path)
    assert statuses(run_batch(path, ROWS[:2])) == ["done", "failed"]
    again = run_batch(path, [{"city": "kiel", "n": 3}, *ROWS[:2]])
    assert statuses(again) == ["done", "done", "failed"]
    assert [row.reused for row in again] == [False, True, False]
    assert again[1].values["upper"] == "Oslo"
    assert (tmp_path / "tries").read_text().split() == ["0", "1", "3", "1"]
    forced = run_batch(path, ROWS[:1], again=True)
    assert (tmp_path / "tries").read_text().split()[4:] == ["0"]
    assert not forced[0].reused


MAILER = SCRIPTED + (
    "def said(request):\n"
    "    sent = any(m.role == 'tool' for m in request.messages)\n"
    "    return 'sent to ' + to if sent else calls('send', to=to)\n"
    "model = ScriptedModel(said, repeat=True)\n"
    '@tool(needs_approval=True)\ndef send(to: str) -> str:\n    "Send."\n'
    '    open("sent", "a").write(to + "\\n")\n    return "ok"\n'
    "mailer = Agent(name='mailer', model=model, tools=[send])"
)
ASKED = "answer = %ask mailer Write to {{ to }}\nrecord(answer=answer)"


def test_an_answered_row_goes_on_where_it_waited(tmp_path: Path) -> None:
    path = notebook(tmp_path / "n.ipynb", "to = ''", MAILER, ASKED)
    rows = [{"to": "ada"}]
    began = time.monotonic()
    first = run_batch(path, rows)
    took = time.monotonic() - began
    assert statuses(first) == ["suspended"] and first.exit_code == 3
    (run,) = first[0].runs
    assert f"mastra-nb resume {run}" in first[0].hint
    assert not (tmp_path / "sent").exists()
    began = time.monotonic()
    still = run_batch(path, rows)
    assert statuses(still) == ["suspended"] and still[0].reused
    assert time.monotonic() - began < took / 2, "no kernel for what still waits"

    @tool(needs_approval=True)
    def send(to: str) -> str:
        "Send."
        (tmp_path / "sent").write_text(to)
        return "ok"

    with_it = Agent(name="mailer", model=ScriptedModel("sent, said a person"), tools=[send])
    app = Mastra(agents=[with_it], storage=f"sqlite:///{tmp_path}/mastra.db")

    async def answered() -> None:
        await (await app.get_run(run)).resume({"approved": True})
        await app.close()

    portal.run(answered())
    assert (tmp_path / "sent").read_text() == "ada"
    last = run_batch(path, rows)
    assert statuses(last) == ["done"] and last[0].runs == (run,)
    assert last[0].values == {"answer": "sent, said a person"}
    assert (tmp_path / "sent").read_text() == "ada", "once"


def test_approvals_are_decided_by_name_only(tmp_path: Path) -> None:
    path = notebook(tmp_path / "n.ipynb", "to = ''", MAILER, ASKED)
    denied = run_batch(path, [{"to": "ada"}], approvals="deny")
    assert statuses(denied) == ["done"] and not (tmp_path / "sent").exists()
    left = run_batch(path, [{"to": "bob"}], approve=["send_all"])
    assert statuses(left) == ["suspended"] and not (tmp_path / "sent").exists()
    both = run_batch(path, [{"to": "eve"}, {"to": "bob"}], approve=["send"])
    assert statuses(both) == ["done", "done"]
    assert (tmp_path / "sent").read_text() == "eve\nbob\n"
    assert both[1].runs == left[0].runs, "what waited went on"
    assert both[1].values == {"answer": "sent to bob"}


SPENDS = (
    SCRIPTED
    + "model = ScriptedModel(*[paid(f'{i}', 0.01) for i in range(40)], delay=0.02)\n"
    + "spender = Agent(name='spender', model=model)"
)


def test_budgets_of_rows_and_of_the_batch(tmp_path: Path) -> None:
    path = notebook(
        tmp_path / "n.ipynb",
        "n = 1",
        SPENDS,
        """
        import asyncio
        for i in range(n):
            await spender.run('go')
            await asyncio.sleep(0.2)
        """,
    )
    url = f"sqlite:///{tmp_path}/mastra.db"
    rows: list[dict[str, Any]] = [{"n": 1}, {"n": 30}, {"n": 2}]
    over = run_batch(path, rows, row_budget=0.05, store=url)
    assert statuses(over) == ["done", "over_budget", "done"] and over.exit_code == 4
    cost = over[1].cost
    assert cost is not None and 0.05 <= cost <= 0.12, "stopped soon after the line"
    assert over[0].cost == pytest.approx(0.01) and over[2].cost == pytest.approx(0.02)

    whole = run_batch(path, [*rows, {"n": 3}], budget=0.05, store=url)
    assert statuses(whole) == ["done", "over_budget", "done", "over_budget"]
    assert whole.exit_code == 4 and "budget of $0.05" in whole[3].error
    assert whole[3].attempts == 0 and whole.cost == pytest.approx(over.cost), "nothing was begun"


def test_a_price_that_is_unknown_ends_a_batch_with_a_budget(tmp_path: Path) -> None:
    path = notebook(
        tmp_path / "n.ipynb",
        "n = 1",
        SPENDS,
        "import time\nawait spender.run('go')\ntime.sleep(30)",
    )
    made = json.loads(path.read_text())
    made["cells"][1]["source"] = made["cells"][1]["source"].replace("0.01", "None")
    path.write_text(json.dumps(made))
    report = run_batch(path, [{"n": 1}, {"n": 2}], budget=1.0)
    assert statuses(report) == ["over_budget", "over_budget"]
    assert "price of a model used here is unknown" in report[0].error


def test_a_row_that_takes_too_long_and_a_kernel_that_dies(tmp_path: Path) -> None:
    path = notebook(
        tmp_path / "n.ipynb",
        "n = 0",
        """
        import os, signal, time
        open("pids", "a").write(f"{os.getpid()}\\n")
        if n == 1:
            time.sleep(60)
        if n == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    report = run_batch(path, [{"n": 1}, {"n": 2}, {"n": 0}], timeout=6.0)
    assert statuses(report) == ["failed", "failed", "done"]
    assert "longer than 6 s" in report[0].error and report[0].seconds < 12
    assert "the kernel died" in report[1].error
    assert not any(map(alive, pids(tmp_path)))


def test_a_retry_begins_anew_and_a_row_that_waits_does_not(tmp_path: Path) -> None:
    path = notebook(
        tmp_path / "n.ipynb",
        "n = 1",
        SCRIPTED
        + "import os\nlines = len(open('asked').readlines()) if os.path.exists('asked') else 0\n"
        "open('asked', 'a').write('kernel\\n')\n"
        "model = ScriptedModel(f'answer {lines}', repeat=True)\n"
        "a = Agent(name='a', model=model)\n"
        '@tool(needs_approval=True)\ndef send(text: str) -> str:\n    "Send."\n    return text',
        "answer = %ask a go\nassert answer != 'answer 0'\nrecord(answer=answer)",
        "from mastra_nb import Workflow\nflow = Workflow(name='flow').then(send).commit()\n"
        "record(sent=await flow({'text': answer}))",
    )
    first = run_batch(path, [{"n": 1}], retries=1)
    assert statuses(first) == ["suspended"] and first[0].attempts == 2
    assert first[0].values == {"answer": "answer 1"}, "the retry asked again"
    last = run_batch(path, [{"n": 1}], approve=["send"])
    assert statuses(last) == ["done"]
    assert last[0].values == {"answer": "answer 1", "sent": "answer 1"}, "what was seen is sent"
    forced = run_batch(path, [{"n": 1}], again=True)
    assert statuses(forced) == ["suspended"] and forced[0].values == {"answer": "answer 3"}
    anew = run_batch(path, [{"n": 1}], approve=["send"], again=True)
    assert statuses(anew) == ["done"], "what an earlier attempt has asked is asked no more"
    assert anew[0].values["sent"] == "answer 4"


def test_a_row_that_goes_on_has_the_answers_of_a_whole_table(tmp_path: Path) -> None:
    path = notebook(
        tmp_path / "n.ipynb",
        "n = 1",
        SCRIPTED + "import os\n"
        "def said(request):\n"
        "    open('asked', 'a').write(request.messages[-1].text + '\\n')\n"
        "    return f'answer {os.getpid()}'\n"
        "a = Agent(name='a', model=ScriptedModel(said, repeat=True))\n"
        '@tool(needs_approval=True)\ndef send(text: str) -> str:\n    "Send."\n    return text',
        "cities = [{'name': 'Oslo'}, {'name': 'Bergen'}]",
        "%%ask a --each cities -o answers\n{{ row.name }}",
        "from mastra_nb import Workflow\nflow = Workflow(name='flow').then(send).commit()\n"
        "record(sent=await flow({'text': str(list(answers.answer))}))",
    )
    first = run_batch(path, [{"n": 1}])
    assert statuses(first) == ["suspended"], first[0].error
    last = run_batch(path, [{"n": 1}], approve=["send"])
    assert statuses(last) == ["done"], last[0].error
    assert sorted((tmp_path / "asked").read_text().split()) == ["Bergen", "Oslo"]
    assert len(last[0].runs) == 3 and last[0].runs == first[0].runs


SLOW = (
    SCRIPTED
    + "import os\n"
    + "class Counting(ScriptedModel):\n"
    + "    async def invoke(self, request, ctx):\n"
    + "        open('asked', 'a').write(f'{n}\\n')\n"
    + "        return await super().invoke(request, ctx)\n"
    + "@tool\nasync def wait() -> str:\n    'Wait.'\n    import asyncio\n"
    + "    open('pids', 'a').write(f'{os.getpid()}\\n')\n"
    + "    await asyncio.sleep(60 if os.path.exists('hold') else 0)\n    return 'ok'\n"
    + "model = Counting(*([calls('wait'), f'answer {n}'] if not os.path.exists('cut') else "
    + "[f'answer {n}']))\n"
    + "slow = Agent(name='slow', model=model, tools=[wait])"
)
CALL = "run_batch('n.ipynb', [{'n': 1}, {'n': 2}], workers=1)"


def held(tmp_path: Path) -> Path:
    """The second row hangs in a tool, after its model was asked once."""
    path = notebook(
        tmp_path / "n.ipynb",
        "n = 0",
        "import os\nif n == 1 and os.path.exists('hold'): os.rename('hold', 'later')\n"
        "if n == 2 and os.path.exists('later'): os.rename('later', 'hold')",
        SLOW,
        "answer = %ask slow Go {{ n }}\nrecord(answer=answer)",
    )
    (tmp_path / "hold").touch()
    return path


def go_on(tmp_path: Path, path: Path) -> BatchReport:
    for name in ("hold", "later"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "cut").touch()
    report = run_batch(path, [{"n": 1}, {"n": 2}])
    assert statuses(report) == ["done", "done"]
    assert [row.reused for row in report] == [True, False]
    assert [row.values["answer"] for row in report] == ["answer 1", "answer 2"]
    # The run that was cut off was taken up: its first question was not asked again.
    assert [len(row.runs) for row in report] == [1, 1]
    assert (tmp_path / "asked").read_text().split() == ["1", "1", "2", "2"]
    return report


def test_a_driver_that_is_killed_is_taken_up(tmp_path: Path) -> None:
    path = held(tmp_path)
    with driver(tmp_path, CALL) as process:
        until(lambda: len(pids(tmp_path)) == 2)
        kernel = pids(tmp_path)[1]
        worker = parent(kernel)
        process.kill()
        process.wait()
        until(lambda: not alive(worker) and not alive(kernel), 10)
    go_on(tmp_path, path)


def test_ctrl_c_stops_all_of_it_and_a_rerun_goes_on(tmp_path: Path) -> None:
    path = held(tmp_path)
    with driver(tmp_path, CALL) as process:
        until(lambda: len(pids(tmp_path)) == 2)
        kernel = pids(tmp_path)[1]
        worker = parent(kernel)
        with pytest.raises(LeaseHeld, match="is being run by"):
            run_batch(path, [{"n": 1}, {"n": 2}])
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=15)
        assert process.returncode == 130 or process.returncode == -signal.SIGINT
        assert "KeyboardInterrupt" in said
        until(lambda: not alive(worker) and not alive(kernel), 5)
    go_on(tmp_path, path)


def test_a_worker_that_is_killed_costs_an_attempt(tmp_path: Path) -> None:
    path = held(tmp_path)
    with driver(tmp_path, CALL) as process:
        until(lambda: len(pids(tmp_path)) == 2)
        kernel = pids(tmp_path)[1]
        for name in ("hold", "later"):
            (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / "cut").touch()
        kill(parent(kernel))
        out, _ = process.communicate(timeout=40)
        assert out.split() == ["0"]
    report = run_batch(path, [{"n": 1}, {"n": 2}])
    assert [row.attempts for row in report] == [1, 2] and all(row.reused for row in report)
    assert (tmp_path / "asked").read_text().split() == ["1", "1", "2", "2"]


def test_dask_loses_nothing_when_a_worker_is_killed(tmp_path: Path) -> None:
    path = notebook(
        tmp_path / "n.ipynb",
        "n = 0",
        """
        import os, time
        from mastra_nb import record
        open("pids", "a").write(f"{os.getpid()}\\n")
        open("begun", "a").write(f"{n}\\n")
        if n == 1 and open("begun").read().split().count("1") == 1:
            time.sleep(60)
        record(twice=2 * n)
        """,
    )
    rows = "[{'n': n} for n in range(4)]"
    with driver(tmp_path, f"run_batch('n.ipynb', {rows}, workers=2, executor='dask')") as process:
        begun = tmp_path / "begun"
        until(lambda: begun.exists() and "3" in begun.read_text().split())
        place = begun.read_text().split().index("1")
        kill(parent(pids(tmp_path)[place]))
        out, said = process.communicate(timeout=50)
        assert out.split() == ["0"], said
    assert sorted(begun.read_text().split()) == ["0", "1", "1", "2", "3"]
    report = run_batch(path, [{"n": n} for n in range(4)])
    assert all(row.reused for row in report)
    assert [row.values["twice"] for row in report] == [0, 2, 4, 6]
    assert [row.attempts for row in report] == [1, 2, 1, 1]


def test_a_cluster_ends_with_the_driver_that_began_it(tmp_path: Path) -> None:
    notebook(
        tmp_path / "n.ipynb",
        "n = 0",
        "import os, time\nopen('pids', 'a').write(f'{os.getpid()}\\n')\n"
        "time.sleep(60 * os.path.exists('hold'))",
    )
    (tmp_path / "hold").touch()
    call = "run_batch('n.ipynb', [{'n': 1}], executor='dask')"
    with driver(tmp_path, call) as process:
        (kernel,) = until(lambda: pids(tmp_path))
        worker = parent(kernel)
        nanny = parent(worker)
        process.kill()
        until(lambda: not any(map(alive, (kernel, worker, nanny))), 20)
    (tmp_path / "hold").unlink()
    report = run_batch("n.ipynb", [{"n": 1}])
    assert statuses(report) == ["done"] and report[0].attempts == 2


async def test_an_executor_of_ones_own_stays_open(tmp_path: Path) -> None:
    path = notebook(
        tmp_path / "n.ipynb",
        "n = 0",
        "import os\nfrom mastra_nb import record\nrecord(by=os.getppid())",
    )
    executor = plugins.executors.load("local")(1, None)
    told: list[int] = []

    async def tell(row: BatchRow) -> None:
        told.append(row.index)

    try:
        twice = Batch(path, [{"n": 1}, {"n": 1}], executor=executor, on_row=tell)
        report = await twice.run()
        assert statuses(report) == ["done", "done"] and told == [0, 1], "equal rows are two"
        assert [row.values["by"] for row in report] == executor.processes * 2

        def fail(row: BatchRow) -> None:
            raise RuntimeError("no more")

        with pytest.raises(RuntimeError, match="no more"):
            await Batch(path, [{"n": 2}, {"n": 3}], executor=executor, on_row=fail).run()
        rest = await Batch(path, [{"n": 2}, {"n": 3}], executor=executor).run()
        assert [row.reused for row in rest] == [True, False]
    finally:
        await executor.close()
