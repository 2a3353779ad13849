"""A chat in a real kernel, through the messages that a front end sends."""

from __future__ import annotations

import json
import os
import time
from queue import Empty
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from tests.notebook.conftest import ROOT, SCRIPTED, Kernel, Start

AGENT = (
    "%load_ext mastra_nb\n"
    + SCRIPTED
    + """
@tool(needs_approval=True)
def pay(amount: int) -> str:
    "Pay."
    return f"paid {amount}"

model = ScriptedModel("Sunny. " * 30, calls("pay", amount=3), "Done.", "Thursday.", delay=0.01)
weather = Agent(name="weather", model=model, tools=[pay])
chat = weather.chat()
"""
)


class Line:
    """The comm of the chat: what it says, until something."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.comm = kernel.ok("chat.model_id").result.strip("'")
        self.turns: dict[str, dict[str, Any]] = {}

    def say(self, **content: Any) -> None:
        client = self.kernel.client
        data = {"comm_id": self.comm, "data": {"method": "custom", "content": content}}
        client.shell_channel.send(client.session.msg("comm_msg", data))

    def hear(self, kind: str, **fields: Any) -> dict[str, Any]:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                message = self.kernel.client.get_iopub_msg(timeout=1)
            except Empty:
                continue
            content = message["content"]
            if message["msg_type"] != "comm_msg" or content["comm_id"] != self.comm:
                continue
            said: dict[str, Any] = content["data"]["content"]
            head = said.get("head", said)
            if said["kind"] == kind and all(head.get(k) == v for k, v in fields.items()):
                return said
        raise AssertionError(f"nothing of kind {kind}: {fields}")


def test_a_chat_over_its_comm(start: Start) -> None:
    kernel = start()
    kernel.ok(AGENT)
    shown = kernel.ok("chat").results[-1]
    assert "application/vnd.jupyter.widget-view+json" in shown
    assert "run the cell to talk" in shown["text/markdown"]
    line = Line(kernel)
    line.say(do="hello")
    assert line.hear("state")["turns"] == []
    # It is heard and goes on while a cell awaits.
    busy = kernel.start("import asyncio\nawait asyncio.sleep(1.5)")
    line.say(do="ask", text="How is it?", files=[])
    assert line.hear("delta", status="done")["head"]["markdown"] == "Sunny. " * 30
    kernel.finish(busy)

    line.say(do="ask", text="Pay.", files=[])
    turn = line.hear("turn")["turn"]["id"]
    asked = line.hear("delta", status="suspended")["head"]["pending"][0]
    line.say(do="answer", turn=turn, path=asked["path"], answer={"approved": True})
    assert line.hear("delta", status="done")["head"]["markdown"] == "Done."
    line.hear("busy", busy=False)

    # The conversation is the agent's: a cell goes on with it.
    thread = kernel.ok("chat.thread").result.strip("'")
    assert kernel.ok(f"%ask weather --thread {thread} When again?").answer == "Thursday."
    assert kernel.ok("[m.text for m in chat.messages][-2:]").result == str(
        ["When again?", "Thursday."]
    )
    state = kernel.ok("{k: v for k, v in chat.get_state().items() if k not in ('_esm', '_css')}")
    assert "Sunny" not in state.result
    assert "Thursday." in kernel.ok("chat").results[-1]["text/markdown"]
    line.say(do="hello")
    assert line.hear("state")["turns"][-1]["text"] == "When again?"


def test_a_cell_asks_and_is_interrupted(start: Start) -> None:
    kernel = start()
    kernel.ok(AGENT)
    assert kernel.ok("await chat.ask('How is it?')").result == repr("Sunny. " * 30)
    kernel.ok("weather.model.script[1:] = ['word ' * 2000, 'next']")
    id = kernel.start("await chat.ask('go on')")
    time.sleep(0.7)
    kernel.manager.interrupt_kernel()
    out = kernel.finish(id)
    assert out.ename
    assert kernel.ok("await chat.ask('and?')").result == "'next'"


@pytest.mark.slow
def test_the_saved_notebook_has_no_more_than_its_fallback(tmp_path: Any) -> None:
    code = [AGENT, "await chat.ask('How is it?')", "chat"]
    notebook = new_notebook(cells=[new_code_cell(c) for c in code])
    client = NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env={**os.environ, "PYTHONPATH": str(ROOT)})
    nbformat.validate(notebook)
    data = notebook.cells[-1].outputs[0].data
    assert "Sunny." in data["text/markdown"]
    state = json.dumps(notebook.metadata.get("widgets", {}))
    assert "Sunny" not in state
    assert "How is it" not in state
