from __future__ import annotations

import time
from typing import Any

import pytest

from tests.notebook.conftest import Kernel, Start

WIDGET = "application/vnd.jupyter.widget-view+json"


class Front:
    """The front end of the dashboard that a cell has shown, by hand."""

    def __init__(self, kernel: Kernel, code: str = "%mastra dash") -> None:
        self.kernel = kernel
        self.opened: list[dict[str, Any]] = []
        out = kernel.finish(kernel.start(code), hear=self._hear)
        assert not out.error, out.error
        (self.shown,) = out.shown
        self.comm = self.shown[WIDGET]["model_id"]

    def _hear(self, message: dict[str, Any]) -> None:
        if message["msg_type"] == "comm_open":
            self.opened.append(message["content"])

    def send(self, content: Any) -> None:
        data = {"method": "custom", "content": content}
        made = self.kernel.client.session.msg("comm_msg", {"comm_id": self.comm, "data": data})
        self.kernel.client.shell_channel.send(made)

    def heard(self) -> dict[str, Any]:
        deadline = time.monotonic() + 20
        while True:
            left = max(0.01, deadline - time.monotonic())
            message = self.kernel.client.get_iopub_msg(timeout=left)
            content = message["content"]
            if message["msg_type"] == "comm_msg" and content["comm_id"] == self.comm:
                return dict(content["data"]["content"])

    def ask(self, name: Any, args: Any) -> dict[str, Any]:
        self.send({"id": "v-1", "ask": name, "args": args})
        while (said := self.heard()).get("id") != "v-1":
            pass
        return said


@pytest.fixture
def loaded(start: Start) -> Kernel:
    kernel = start()
    kernel.ok("%load_ext mastra_nb")
    return kernel


def test_questions_and_errors(loaded: Kernel) -> None:
    front = Front(loaded)
    assert "runs" in front.shown["text/markdown"]
    assert front.shown["text/plain"].startswith("Dashboard: runs 0 running")
    assert front.ask("runs", {})["ok"]["runs"] == []
    error = front.ask("rums", {})["error"]
    assert error["message"] == 'there is no question "rums"' and "runs" in error["hint"]
    assert "no status" in front.ask("runs", {"status": "x"})["error"]["message"]
    assert "message is" in front.ask(1, [])["error"]["message"]
    assert "no run" in front.ask("answer", {"run": "r_0", "path": "x"})["error"]["message"]


def test_what_happens_is_told_and_kept_out_of_the_state(loaded: Kernel) -> None:
    front = Front(loaded)
    loaded.ok(
        "from mastra_nb import Agent\nfrom mastra_nb.testing import ScriptedModel\n"
        "a = Agent(name='a', model=ScriptedModel('a secret answer'))"
    )
    loaded.start("%ask a hello")
    assert front.heard() == {"event": "changed"}
    (state,) = (c["data"]["state"] for c in front.opened if c["comm_id"] == front.comm)
    ours = {k for k in state if not k.startswith("_")} - {"layout", "tabbable", "tooltip"}
    assert ours == {"protocol"}


def test_it_answers_while_a_cell_awaits(loaded: Kernel) -> None:
    front = Front(loaded)
    began = time.monotonic()
    loaded.start("import asyncio; await asyncio.sleep(8)")
    time.sleep(0.3)
    assert "ok" in front.ask("runs", {})
    assert time.monotonic() - began < 7
