"""%%ask --bg: the prompt comes back, the answer goes on."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest

from tests.notebook.conftest import MIME, SCRIPTED, Kernel, Output


@pytest.fixture(scope="module")
def kernel(shared: Kernel) -> Kernel:
    shared.ok("import asyncio, time\ntext = ' '.join(f'w{i}' for i in range(60))")
    return shared


def script(kernel: Kernel, *lines: str, delay: float = 0.0, options: str = "") -> None:
    kernel.ok(f"model = ScriptedModel({', '.join(lines)}, delay={delay})")
    kernel.ok(f"%%agent writer -m model {options}\nBe brief.")


def updates(kernel: Kernel, display: str, seconds: float = 10.0) -> list[dict[str, Any]]:
    """What a display becomes after its cell has ended, up to its final state."""
    out: list[dict[str, Any]] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        message = kernel.client.get_iopub_msg(timeout=seconds)
        if message["msg_type"] != "update_display_data":
            continue
        content = message["content"]
        if content["transient"]["display_id"] == display:
            out.append({**content["data"], "parent": message["parent_header"]["msg_id"]})
            if content["data"][MIME]["status"] != "running":
                return out
    raise AssertionError(f"{len(out)} updates, none of them the last")


def only(out: Output) -> tuple[str, dict[str, Any]]:
    ((id, shown),) = out.displays.items()
    return id, shown


def test_the_cell_ends_at_once_and_its_display_goes_on(kernel: Kernel) -> None:
    script(kernel, "text", delay=0.02)
    id = kernel.start("%%ask writer --bg -o job\ngo")
    out = kernel.finish(id)
    display, shown = only(out)
    assert shown[MIME]["status"] == "running"
    assert not out.results, "it is shown already"
    seen = updates(kernel, display)
    assert len(seen) > 2
    assert {each["parent"] for each in seen} == {id}, "they belong to the cell that began it"
    assert "w59" in seen[-1]["text/markdown"]
    assert kernel.ok("await job == text, job.status, job.run.status").result == (
        "(True, 'done', 'done')"
    )
    assert kernel.ok("job.result() == text").result == "True"
    assert "Background" in kernel.ok("repr(job)").result


def test_it_goes_on_while_a_cell_computes(kernel: Kernel) -> None:
    script(kernel, "text", delay=0.01)
    kernel.ok("%%ask writer --bg -o job\ngo")
    assert kernel.ok("time.sleep(6)\njob.status").result == "'done'"


def test_a_job_is_what_the_question_gives(kernel: Kernel) -> None:
    script(kernel, "'one'", "'[1, 2]'", "'three'")
    kernel.ok("x = %ask writer --bg go")
    assert kernel.ok("await x").result == "'one'"
    assert kernel.ok("y = %ask writer --bg --schema list[int] go\nawait y").result == "[1, 2]"
    kernel.ok("%ask writer --bg go")
    assert kernel.ok("await _").result == "'three'"
    again = kernel.ok("x")
    assert only(again)[1]["text/markdown"].startswith("one")


def test_join_waits_and_shows_the_final_state_here(kernel: Kernel) -> None:
    kernel.ok("%mastra join")
    script(kernel, "text", "'two'", delay=0.01)
    kernel.ok("%%ask writer --bg -o a\ngo")
    kernel.ok("%%ask writer --bg -o b\ngo")
    assert {"a", "b", "all"} <= {*kernel.complete("%mastra join ")}
    one = kernel.ok("%mastra join b")
    assert one.markdown.startswith("two")
    out = kernel.ok("%mastra join")
    assert [d[MIME]["status"] for d in out.shown] == ["done"]
    assert "w59" in out.markdown
    assert kernel.ok("%mastra join").text == "nothing is under way\n"
    listed = kernel.ok("%mastra jobs").shown[0]["text/plain"]
    assert [line.split()[0] for line in listed.splitlines()[-2:]] == ["a", "b"]
    assert kernel.run("%mastra join nobody").ename == "NotFound"


def test_an_error_is_raised_by_who_joins(kernel: Kernel) -> None:
    script(kernel, "RuntimeError('no line')", "'fine'")
    kernel.ok("%%ask writer --bg -o bad\ngo")
    kernel.ok("%%ask writer --bg -o good\ngo")
    out = kernel.run("%mastra join")
    assert out.ename == "RuntimeError"
    assert [d[MIME]["status"] for d in out.shown] == ["failed", "done"]
    assert kernel.ok("bad.status, good.status").result == "('failed', 'done')"


def test_an_interrupt_stops_waiting_and_not_the_job(kernel: Kernel) -> None:
    script(kernel, "text", delay=0.1)
    kernel.ok("%%ask writer --bg -o slow\ngo")
    id = kernel.start("%mastra join slow")
    time.sleep(0.5)
    kernel.manager.interrupt_kernel()
    out = kernel.finish(id)
    assert out.error == "■ stopped waiting · 1 still under way"
    assert kernel.ok("slow.status").result == "'running'"
    assert "w59" in kernel.ok("%mastra join slow").markdown


def test_a_job_can_be_stopped(kernel: Kernel) -> None:
    script(kernel, "text", delay=0.05)
    kernel.ok("%%ask writer --bg -o slow\ngo")
    time.sleep(0.3)
    out = kernel.run("slow.cancel()\nawait slow")
    assert out.error.startswith("■ stopped after ")
    assert kernel.ok("slow.status, slow.run.status").result == "('cancelled', 'cancelled')"
    kernel.run("%mastra join")


def test_one_that_waits_for_approval(kernel: Kernel) -> None:
    kernel.ok('%%tool --approve\ndef send() -> str:\n    "Send."\n    return "sent"')
    script(kernel, "calls('send')", "'Done.'", options="-t send")
    kernel.ok("%%ask writer --bg -o job\ngo")
    out = kernel.run("%mastra join job")
    assert "⏸ suspended" in out.error
    assert kernel.ok("job.status").result == "'suspended'"
    kernel.ok("%resume approve")
    assert kernel.ok("await job").result == "'Done.'"


def test_each_row_in_the_background(kernel: Kernel) -> None:
    kernel.ok("names = ['a', 'b', 'c']")
    script(kernel, *["'ok'"] * 3, delay=0.05)
    out = kernel.ok("%%ask writer --each names --bg -o job\nSay {{ row }}")
    assert "0 / 3" in only(out)[1]["text/plain"]
    joined = kernel.ok("%mastra join job")
    assert "3 of 3 rows" in joined.markdown
    assert kernel.ok("t = await job\nlist(t.answer)").result == "['ok', 'ok', 'ok']"
    script(kernel, *["text"] * 3, delay=0.05)
    kernel.ok("%%ask writer --each names --bg -o job\nTell {{ row }}")
    time.sleep(0.2)
    assert kernel.run("job.cancel()\nawait job").error == "■ stopped after 0 of 3"
    kernel.run("%mastra join")


def test_papermill_keeps_what_is_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [
        "%load_ext mastra_nb", SCRIPTED + "model = ScriptedModel('said it', delay=0.3, piece=2)",
        "%%agent writer -m model\nBe brief.", "%%ask writer --bg -o job\ngo", "%mastra join",
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
    assert "said it" in json.dumps(made.cells[-1].outputs)
