"""%%ask --each: one question for each row, in the cells of one kernel."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest

from tests.notebook.conftest import SCRIPTED, Kernel, Output, Start

SETUP = (
    SCRIPTED
    + """
import asyncio, dataclasses
import pandas as pd
from mastra_nb.messages import Message, Text, Usage
from mastra_nb.models import Reply
from mastra_nb.prices import set_price

@dataclasses.dataclass
class Forecast:
    city: str
    rain: bool

cities = pd.DataFrame({"city": ["Oslo", "Rome", "Paris", "Lima"]}, index=list("abcd"))

def forecast(request):
    return '{"city": "%s", "rain": true}' % request.messages[-1].text.split()[-1]

def priced(request, cost=0.03):
    said = Message(role="assistant", parts=(Text(text="ok"),))
    return Reply(message=said, finish="stop", model="scripted",
                 usage=Usage(input=1000, output=100, cost=cost, calls=1))
"""
)


@pytest.fixture(scope="module")
def kernel(shared: Kernel) -> Kernel:
    shared.ok(SETUP)
    return shared


def script(kernel: Kernel, line: str, *, options: str = "", delay: float = 0.0) -> None:
    kernel.ok(f"model = ScriptedModel({line}, repeat=True, delay={delay})")
    kernel.ok(f"%%agent weather -m model {options}\nBe brief.")


def asked(kernel: Kernel) -> int:
    return int(kernel.ok("len(model.requests)").result)


def test_typed_answers_become_columns(kernel: Kernel) -> None:
    script(kernel, "forecast", delay=0.02)
    out = kernel.ok("%%ask weather --each cities -o out --schema Forecast\nIn {{ row.city }}")
    assert len(out.shown) == 1, "one display"
    assert "4 of 4 rows" in out.markdown
    assert "40 in / 28 out" in out.markdown
    assert "| b | Rome | Rome | True |" in out.markdown
    assert kernel.ok("list(out.columns), list(out.index)").result == (
        "(['city', 'city_2', 'rain', 'error', 'cost'], ['a', 'b', 'c', 'd'])"
    )
    assert kernel.ok("out.rain.all(), list(out.city_2), out.error.isna().all()").result == (
        "(np.True_, ['Oslo', 'Rome', 'Paris', 'Lima'], np.True_)"
    )
    assert kernel.ok("list(cities.columns)").result == "['city']"
    assert kernel.ok("_").result, "the answers are in _ too"


def test_a_plain_answer_and_the_forms_of_a_question(kernel: Kernel) -> None:
    script(kernel, "lambda r: 'to: ' + r.messages[-1].text")
    kernel.ok("%%ask weather --each cities[:2] -o out\n{{ index }} is {{ row['city'] }}")
    assert kernel.ok("list(out.answer)").result == "['to: a is Oslo', 'to: b is Rome']"
    kernel.ok("names = ['x', 'y']\nd = %ask weather --each names say {{ row }}")
    assert kernel.ok("d.to_dict('list')['answer']").result == "['to: say x', 'to: say y']"
    kernel.ok("%ask weather --each names say {{ row }}\nkept = _")
    kernel.ok("%ask weather --each cities {{ row.city }}")
    assert kernel.ok("_.output.shape, len(_.runs), _.usage.calls").result == "((4, 4), 4, 4)"
    timed = kernel.ok("%%time\n%ask weather --each names -o d {{ row }}")
    assert "2 of 2 rows" in timed.markdown
    captured = kernel.ok("%%capture cap\n%ask weather --each names {{ row }}")
    assert not captured.shown
    assert kernel.ok("len(cap.outputs)").result == "1"


def test_a_row_that_fails_does_not_fail_the_cell(kernel: Kernel) -> None:
    kernel.ok(
        "def some(r):\n"
        "    if 'Paris' in r.messages[-1].text:\n"
        "        raise RuntimeError('<img src=x onerror=1> **b**')\n"
        "    return 'ok'"
    )
    script(kernel, "some")
    out = kernel.ok("%%ask weather --each cities -o out\nIn {{ row.city }}?")
    assert "3 of 4 rows · 1 failed" in out.markdown
    assert "<img" not in out.markdown
    assert "**b**" not in out.markdown
    assert kernel.ok("out.error['c']").result == "'RuntimeError: <img src=x onerror=1> **b**'"
    assert kernel.ok("out.answer.notna().tolist()").result == "[True, True, False, True]"
    again = kernel.ok("%%ask weather --each cities -o out\nIn {{ row.city }}?")
    assert asked(kernel) == 5, "what had an answer is not asked again"
    assert "3 from before" in again.markdown
    kernel.ok("%%ask weather --each cities -o out --no-cache\nIn {{ row.city }}?")
    assert asked(kernel) == 9


def test_all_of_them_failed(kernel: Kernel) -> None:
    script(kernel, "RuntimeError('broken')")
    out = kernel.run("%%ask weather --each cities -o out\nWhat of {{ row.city }}")
    assert out.head == (
        "RunError: none of the 4 rows has an answer; the first: RuntimeError: broken"
    )
    assert kernel.ok("out.error.tolist()").result.count("broken") == 4


def test_what_every_row_would_fail_by_is_tried_once(kernel: Kernel) -> None:
    kernel.ok("from mastra_nb.errors import ModelHTTPError")
    script(kernel, "ModelHTTPError('the key is wrong', status=401)")
    kernel.ok("many = [{'n': n} for n in range(50)]")
    out = kernel.run("%%ask weather --each many -o out --concurrency 2\n{{ row.n }}")
    assert out.head == "ModelHTTPError: the key is wrong"
    assert asked(kernel) <= 4
    assert "not asked" in kernel.ok("out.error.iloc[-1]").result


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("--each cities\nIn {{ row.citty }}", 'NotFound: the rows have no column "citty"'),
        ("--each citys\nIn {{ row.city }}", 'NotFound: there is no variable "citys"'),
        ("--each cities\nIn Oslo", "UsageError: the question is the same for each row"),
        ("--each cities --thread t\n{{ row }}", "UsageError: --thread does not go with --each"),
        ("--each cities --concurrency 0\n{{ row }}", 'UsageError: "--concurrency" is "0"'),
        ("--each cities[:0]\n{{ row }}", 'UsageError: "cities[:0]" has no rows'),
        ("--each 5\n{{ row }}", 'UsageError: "5" is a int: it has no rows'),
    ],
)
def test_mistakes_cost_nothing(kernel: Kernel, line: str, error: str) -> None:
    script(kernel, "'ok'")
    assert kernel.run(f"%%ask weather {line}").head == error
    assert asked(kernel) == 0


def test_only_so_many_at_a_time(kernel: Kernel) -> None:
    kernel.ok(
        "now, most = 0, 0\n"
        "class Slow(ScriptedModel):\n"
        "    async def invoke(self, request, ctx):\n"
        "        global now, most\n"
        "        now += 1; most = max(most, now)\n"
        "        try:\n"
        "            await asyncio.sleep(0.02)\n"
        "            return await super().invoke(request, ctx)\n"
        "        finally:\n"
        "            now -= 1\n"
        "many = list(range(20))\n"
        "model = Slow('ok', repeat=True)"
    )
    kernel.ok("%%agent weather -m model\nBe brief.")
    kernel.ok("%ask weather --each many -o out n {{ row }}")
    assert kernel.ok("most").result == "4"
    kernel.ok("%config Mastra.concurrency = 2\nmost = 0")
    kernel.ok("%ask weather --each many -o out m {{ row }}")
    assert kernel.ok("most").result == "2"
    kernel.ok("most = 0")
    kernel.ok("%ask weather --each many -o out --concurrency 7 k {{ row }}")
    assert kernel.ok("most").result == "7"
    kernel.ok("%config Mastra.concurrency = 4")


def test_the_budget_is_of_all_rows(kernel: Kernel) -> None:
    kernel.ok("set_price('scripted/model', input=10, output=200)")
    script(kernel, "priced", delay=0.01)
    kernel.ok("many = [{'n': n} for n in range(20)]")
    out = kernel.ok("%%ask weather --each many -o out --budget 0.20\nOf {{ row.n }}")
    n = asked(kernel)
    assert 6 <= n <= 7, "0.03 each: at most one call crosses the line"
    assert "not asked: budget" in out.markdown
    assert f"${n * 0.03:.4f} of $0.2000" in out.shown[0]["text/plain"]
    assert kernel.ok("(out.error == 'not asked: budget').sum()").result == f"np.int64({20 - n})"
    assert kernel.ok("round(out.cost.sum(), 4)").result == f"np.float64({n * 0.03:.4g})"
    more = kernel.ok("%%ask weather --each many -o out --budget 5\nOf {{ row.n }}")
    assert asked(kernel) == 20, "with more money only the rest is asked"
    assert f"20 of 20 rows · {n} from before" in more.markdown
    kernel.ok("%%ask weather --each many -o out --budget 5\nOf {{ row.n }}")
    assert asked(kernel) == 40, "what got through is asked anew"


def test_a_budget_needs_a_price(kernel: Kernel) -> None:
    script(kernel, "lambda r: priced(r, None)")
    kernel.ok("model.name = 'scripted/unknown'")
    out = kernel.run("%%ask weather --each cities -o out --budget 0.20\nOn {{ row.city }}")
    assert out.head.startswith("LimitExceeded: a budget in dollars is set, but the price")
    assert asked(kernel) == 1
    assert kernel.ok("out.answer.notna().sum()").result == "np.int64(1)"


def interrupted(kernel: Kernel, cell: str) -> Output:
    """A cell that is interrupted once five rows have ended; the next ones take a minute."""
    stopped = False

    def hear(message: dict[str, Any]) -> None:
        nonlocal stopped
        if not stopped and "5 / 12" in str(message["content"].get("data")):
            stopped = True
            kernel.manager.interrupt_kernel()

    out = kernel.finish(kernel.start(cell), hear=hear)
    assert stopped
    return out


def test_an_interrupt_keeps_what_is_there(kernel: Kernel) -> None:
    kernel.ok(
        "class Slow(ScriptedModel):\n"
        "    async def invoke(self, request, ctx):\n"
        "        await asyncio.sleep(0.0 if int(request.messages[-1].text[1:]) < 5 else hold)\n"
        "        return await super().invoke(request, ctx)\n"
        "hold, many = 60, list(range(12))\n"
        "model = Slow('ok', repeat=True)"
    )
    kernel.ok("%%agent weather -m model\nBe brief.")
    cell = "%%ask weather --each many -o out\nn{{ row }}"
    out = interrupted(kernel, cell)
    assert out.error == "■ stopped after 5 of 12"
    assert "5 of 12 rows · 4 stopped · 3 not asked" in out.markdown
    assert kernel.ok("out.answer.notna().sum(), len(out)").result == "(np.int64(5), 12)"
    kernel.ok("hold = 0")
    again = kernel.ok(cell)
    assert "12 of 12 rows · 5 from before" in again.markdown
    assert asked(kernel) == 12


def test_an_interrupt_where_nothing_is_awaited(kernel: Kernel) -> None:
    kernel.ok("hold = 60\nmodel = Slow('ok', repeat=True)")
    kernel.ok("%%agent weather -m model\nBe brief.")
    out = interrupted(kernel, "%%time\n%ask weather --each many -o out m{{ row }}")
    assert "■ stopped after 5 of 12" in out.error
    assert kernel.ok("out.answer.notna().sum(), len(out)").result == "(np.int64(5), 12)"


def test_rows_that_wait_for_approval_do_not_hold_the_cell(kernel: Kernel) -> None:
    kernel.ok('%%tool --approve\ndef send(to: str) -> str:\n    "Send."\n    return "sent"')
    kernel.ok(
        "def ask(r):\n"
        "    if r.messages[-1].role == 'tool': return 'Done.'\n"
        "    return calls('send', to='Rome') if 'Rome' in r.messages[-1].text else 'no need'"
    )
    script(kernel, "ask", options="-t send")
    cell = "%%ask weather --each cities -o out\nWrite to {{ row.city }}"
    out = kernel.ok(cell)
    assert "3 of 4 rows · 1 waits" in out.markdown
    waits = kernel.ok("out.error['b']").result.strip("'")
    assert waits.startswith("waits: %resume r_")
    kernel.ok(f"%resume {waits.split()[-1]} approve")
    again = kernel.ok(cell)
    assert "4 of 4 rows · 4 from before" in again.markdown
    assert kernel.ok("out.answer['b']").result == "'Done.'"


def test_a_restart_in_the_middle(start: Start) -> None:
    kernel = start()
    load = ["%load_ext mastra_nb", SETUP, "many = list(range(8))"]
    for cell in [*load, "model = ScriptedModel(*['ok'] * 4, lambda r: __import__('os')._exit(1))"]:
        kernel.ok(cell)
    kernel.ok("%%agent weather -m model\nBe brief.")
    cell = "%%ask weather --each many -o out --concurrency 1\nn{{ row }}"
    kernel.start(cell)
    last = time.monotonic() + 20
    while kernel.manager.is_alive() and time.monotonic() < last:
        time.sleep(0.05)
    kernel.restart()
    for again in [*load, "model = ScriptedModel('ok', repeat=True)"]:
        kernel.ok(again)
    kernel.ok("%%agent weather -m model\nBe brief.")
    out = kernel.ok(cell)
    assert "8 of 8 rows" in out.markdown
    assert asked(kernel) == 4


def test_context_goes_with_every_row(kernel: Kernel) -> None:
    kernel.ok("rules = {'tone': 'dry'}")
    script(kernel, "'ok'")
    kernel.ok("%%ask weather --each cities[:2] -o out\nOf {{ row.city }}, by @rules")
    texts = kernel.ok("[r.messages[-1].text for r in model.requests]").result
    assert texts.count("dry") == 2
    assert "Oslo" in texts


def test_an_agent_that_remembers_is_asked_without_its_conversation(kernel: Kernel) -> None:
    script(kernel, "'ok'", options="--memory on")
    kernel.ok("%ask weather hello")
    kernel.ok("%%ask weather --each cities[:2] -o out\nOf {{ row.city }}")
    assert kernel.ok("[len(r.messages) for r in model.requests]").result == "[2, 2, 2]"


def test_a_replay_looks_like_its_recording(start: Start, tmp_path: Path) -> None:
    def shown(mode: str) -> str:
        kernel = start(tmp_path, MASTRA_NB_REPLAY=mode)
        kernel.ok("%load_ext mastra_nb")
        kernel.ok(SETUP + "model = ScriptedModel(forecast, repeat=True, delay=0.02)")
        kernel.ok("%%agent weather -m model\nBe brief.")
        out = kernel.ok("%%ask weather --each cities --schema Forecast\nIn {{ row.city }}")
        assert asked(kernel) == (4 if mode == "record" else 0)
        kernel.close()
        return out.markdown.partition(" in / ")[2] if mode == "record" else out.markdown

    recorded = shown("record")
    first, second = shown("only"), shown("only")
    assert first == second
    assert " · replay · " in first
    assert (
        first.partition("out tokens")[2].partition("\n")[2]
        == (recorded.partition("out tokens")[2].partition("\n")[2])
    )


def test_completion(kernel: Kernel) -> None:
    assert "cities" in kernel.complete("%%ask weather --each cit")
    assert kernel.complete("%%ask weather --conc") == ["--concurrency"]
    assert "--each DATA" in kernel.ok("%%ask?").payload[0]["data"]["text/plain"]


def test_papermill_keeps_one_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [
        "%load_ext mastra_nb", SETUP,
        "model = ScriptedModel(forecast, repeat=True, delay=0.02)",
        "%%agent weather -m model\nBe brief.",
        "%%ask weather --each cities -o out --schema Forecast\nIn {{ row.city }}", "out.shape",
    ]  # fmt: skip
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(notebook, tmp_path / "n.ipynb")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    made = papermill.execute_notebook(
        str(tmp_path / "n.ipynb"), str(tmp_path / "out.ipynb"), cwd=str(tmp_path),
        progress_bar=False,
    )  # fmt: skip
    asyncio.set_event_loop(None)
    (output,) = made.cells[-2].outputs
    data: dict[str, Any] = output.data
    assert "4 of 4 rows" in data["text/markdown"]
    assert "█" not in json.dumps(data, ensure_ascii=False), "the final state"
    assert made.cells[-1].outputs[0].data["text/plain"] == "(4, 5)"
