"""The interrupt button, in the middle of a stream."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.notebook.conftest import MIME, SCRIPTED, Kernel, Start

# It would speak for forty seconds. Alone it stops in about 0.1 s; a busy machine takes longer.
SOON = 3.0

SLOW = """
slow = ScriptedModel("word " * 2000, "The next answer.", "and one more", delay=0.02, piece=5)
talker = Agent(name="talker", model=slow, memory=True)
"""


@pytest.fixture
def kernel(start: Start) -> Kernel:
    kernel = start()
    kernel.ok("%load_ext mastra_nb")
    kernel.ok(SCRIPTED + SLOW)
    return kernel


def interrupt_while_it_speaks(kernel: Kernel, code: str) -> tuple[float, object]:
    began = 0.0

    def interrupt() -> None:
        nonlocal began
        began = time.monotonic()
        kernel.manager.interrupt_kernel()

    def hear(message: dict[str, Any]) -> None:
        if not began and "word word word" in str(message["content"].get("data")):
            interrupt()

    id = kernel.start(code)
    if "%ask" not in code:  # nothing is shown of it
        time.sleep(2)
        interrupt()
    out = kernel.finish(id, hear=hear)
    return time.monotonic() - began, out


@pytest.mark.parametrize(
    "code",
    [
        "%%ask talker\nTalk.",
        "%%time\n%%ask talker\nTalk.",
        "def f():\n    x = %ask talker Talk\nf()",
    ],
    ids=["awaited", "in %%time", "in a def"],
)
def test_an_interrupt_stops_the_run_and_keeps_what_was_said(kernel: Kernel, code: str) -> None:
    seconds, out = interrupt_while_it_speaks(kernel, code)
    assert seconds < SOON
    assert out.ename == "Stopped"
    assert out.head.startswith("■ stopped after ")
    assert "Traceback" not in out.error
    (shown,) = out.shown
    assert "word word word" in shown["text/markdown"]
    assert shown[MIME]["status"] == "cancelled"
    said = kernel.ok("len(slow.requests)")
    time.sleep(0.2)
    assert kernel.ok("len(slow.requests)").result == said.result, "it went on after the stop"

    after = kernel.ok("%%ask talker\nAnd now?")
    assert after.answer == "The next answer."


def test_the_next_question_sees_the_partial_answer(kernel: Kernel) -> None:
    interrupt_while_it_speaks(kernel, "%%ask talker\nTalk.")
    kernel.ok("%%ask talker\nAnd now?")
    roles = kernel.ok(
        "[m.role for m in slow.requests[-1].messages], slow.requests[-1].messages[1].partial"
    )
    assert roles.result == "(['user', 'assistant', 'user'], True)"


def test_an_interrupt_of_plain_python_frees_the_kernel(kernel: Kernel) -> None:
    for code in ("for event in talker.run('x'):\n    pass", "await talker.run('x')"):
        kernel.ok("slow.requests.clear()")
        seconds, out = interrupt_while_it_speaks(kernel, code)
        assert seconds < SOON
        assert out.ename in ("KeyboardInterrupt", "CancelledError", "Stopped")
    # Code that awaits is told in our one line; a loop of the user's keeps his traceback.
    assert out.head.startswith("■ stopped after ")
    assert "Traceback" not in out.error
    assert kernel.ok("talker.run('y').result()").result == "'The next answer.'"
