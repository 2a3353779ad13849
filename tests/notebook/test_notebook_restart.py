"""What is there after the kernel was restarted."""

from __future__ import annotations

import re
import time

from tests.notebook.conftest import MIME, SCRIPTED, Kernel, Output, Start

NOTEBOOK = [
    "%load_ext mastra_nb",
    SCRIPTED + 'model = ScriptedModel("Hello Ada.", "You are Ada.", repeat=True)',
    "%%agent friend -m model --memory\nBe brief.",
    "%ask friend My name is Ada.",
    "%ask friend What is my name?",
    "%mastra runs",
    "%mastra cost",
]


def outputs(kernel: Kernel, cells: list[str]) -> list[str]:
    return [normal(kernel.ok(cell)) for cell in cells]


def normal(out: Output) -> str:
    """Without durations, which differ from run to run."""
    text = re.sub(r"\d+(\.|&#46;)\d+ s", "- s", repr((out.shown, out.results, out.text)))
    return re.sub(r"'seconds': [\d.]+", "'seconds': -", text)


def test_a_named_thread_goes_on_and_an_unnamed_one_starts_afresh(start: Start) -> None:
    kernel = start()
    script = SCRIPTED + 'model = ScriptedModel("one", "two")'
    for cell in ("%load_ext mastra_nb", script, "%%agent friend -m model\nBe brief."):
        kernel.ok(cell)
    kernel.ok("%ask friend --thread trip My name is Ada.")
    kernel.restart()
    for cell in ("%load_ext mastra_nb", script, "%%agent friend -m model --thread trip\nBe brief."):
        kernel.ok(cell)
    out = kernel.ok("%ask friend What is my name?")
    assert out.shown[0][MIME]["thread"] == "trip"
    assert kernel.ok("[m.text for m in model.requests[0].messages][1:]").result == (
        "['My name is Ada.', 'one', 'What is my name?']"
    )


def test_restart_and_run_all_gives_equal_outputs(start: Start) -> None:
    kernel = start()
    first = outputs(kernel, NOTEBOOK)
    kernel.restart()
    assert outputs(kernel, NOTEBOOK) == first


APPROVAL = [
    "%load_ext mastra_nb",
    SCRIPTED,
    'model = ScriptedModel(calls("send", to="Ada"), "Done.")',
    '%%tool --approve\ndef send(to: str) -> str:\n    "Send."\n    return "sent"',
    "%%agent mailer -m model -t send --memory\nSend mails.",
]
QUESTION = "%%ask mailer -o said\nWrite to Ada."


def test_a_suspended_run_is_taken_up_by_its_cell(start: Start) -> None:
    kernel = start()
    for cell in APPROVAL:
        kernel.ok(cell)
    waiting = kernel.run(QUESTION).error
    kernel.restart()
    for cell in APPROVAL:
        kernel.ok(cell)
    assert kernel.run(QUESTION).error == waiting, "the same run waits"
    assert kernel.ok("len(model.requests)").result == "0", "nothing was asked again"
    kernel.ok("model.script.pop(0)")
    assert kernel.ok("%resume approve").answer.endswith("Done.")
    assert kernel.ok("said").result == "'Done.'"
    kernel.ok("model.script.append('Another.')")
    assert kernel.ok(QUESTION).answer == "Another.", "a finished run is not in the way"


def test_a_fresh_kernel_resumes_by_id(start: Start) -> None:
    kernel = start()
    for cell in APPROVAL:
        kernel.ok(cell)
    kernel.run(QUESTION)
    kernel.restart()
    kernel.ok(APPROVAL[0])
    out = kernel.run("%resume approve")
    assert "run its cell" in out.error
    for cell in APPROVAL[1:]:
        kernel.ok(cell)
    kernel.ok("model.script.pop(0)")
    assert kernel.ok("%resume approve").answer.endswith("Done.")


def test_a_run_that_died_with_its_kernel_is_taken_up(start: Start) -> None:
    kernel = start()
    cells = [
        "%load_ext mastra_nb",
        SCRIPTED,
        'calls_made = []\n@tool\nasync def look(x: str) -> str:\n    "Look."\n'
        '    calls_made.append(x)\n    return "seen"',
    ]
    for cell in cells:
        kernel.ok(cell)
    kernel.ok('model = ScriptedModel(calls("look", x="a"), "word " * 500, delay=0.05)')
    kernel.ok("a = Agent(name='a', model=model, tools=[look])")
    kernel.start("%ask a go")
    time.sleep(1.5)
    kernel.restart()
    for cell in cells:
        kernel.ok(cell)
    kernel.ok('model = ScriptedModel("Finished.")\na = Agent(name="a", model=model, tools=[look])')
    out = kernel.ok("%ask a go")
    assert out.answer.endswith("Finished.")
    assert kernel.ok("calls_made").result == "[]", "the finished tool call came from the journal"
    assert kernel.ok("[m.role for m in model.requests[0].messages]").result == (
        "['user', 'assistant', 'tool']"
    )
