"""Real kernels: what a cell sends is what is looked at."""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

ROOT = Path(__file__).resolve().parents[2]
MIME = "application/vnd.mastra.run.v1+json"
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
# Nobody's key or settings reach a test.
_CLEAN = re.compile(r"MASTRA|_API_KEY$|^(DATABASE_URL|OLLAMA_HOST|OPENAI_BASE_URL|LOG_LEVEL)$")

SCRIPTED = """\
from mastra_nb import Agent, tool
from mastra_nb.testing import ScriptedModel, calls
"""


@dataclass
class Output:
    """What one cell has sent. `updates` are the times of its display updates."""

    displays: dict[str, dict[str, Any]] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)
    text: str = ""
    ename: str = ""
    error: str = ""
    updates: list[float] = field(default_factory=list)
    payload: list[dict[str, Any]] = field(default_factory=list)

    @property
    def shown(self) -> list[dict[str, Any]]:
        return list(self.displays.values())

    @property
    def markdown(self) -> str:
        return "\n".join(d.get("text/markdown", "") for d in self.shown)

    @property
    def result(self) -> str:
        return self.results[-1]["text/plain"] if self.results else ""

    @property
    def answer(self) -> str:
        """The Markdown of the one run that is shown, without its footer."""
        (shown,) = self.shown
        return str(shown["text/markdown"]).rpartition("\n\n<small>")[0]

    @property
    def head(self) -> str:
        return self.error.splitlines()[0] if self.error else ""


class Kernel:
    def __init__(self, cwd: Path, env: dict[str, str]) -> None:
        clean = {k: v for k, v in os.environ.items() if not _CLEAN.search(k)}
        self._env = {**clean, "PYTHONPATH": str(ROOT), "PYDEVD_DISABLE_FILE_VALIDATION": "1", **env}
        self.cwd = cwd
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(cwd), env=self._env)
        self._connect()

    def _connect(self) -> None:
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def start(self, code: str, *, stdin: bool = False) -> str:
        """With `stdin` somebody can be asked, as in a notebook that is open."""
        return str(self.client.execute(code, allow_stdin=stdin))

    def finish(
        self, id: str, *, timeout: float = 30.0, hear: Callable[[dict[str, Any]], object] = bool
    ) -> Output:
        """`hear` is given every message that the kernel sends meanwhile."""
        out = Output()
        nth = 0
        deadline = time.monotonic() + timeout
        while True:
            message = self.client.get_iopub_msg(timeout=max(0.01, deadline - time.monotonic()))
            hear(message)
            if message["parent_header"].get("msg_id") != id:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                break
            if kind == "stream":
                out.text += content["text"]
            elif kind in ("display_data", "update_display_data"):
                nth += 1
                known = content.get("transient", {}).get("display_id") or f"#{nth}"
                out.displays[known] = content["data"]
                if kind == "update_display_data":
                    out.updates.append(time.monotonic())
            elif kind == "execute_result":
                out.results.append(content["data"])
            elif kind == "error":
                out.ename = content["ename"]
                out.error = _COLOR.sub("", "\n".join(content["traceback"]))
        reply = self.client.get_shell_msg(timeout=10)
        while reply["parent_header"].get("msg_id") != id:
            reply = self.client.get_shell_msg(timeout=10)
        out.payload = reply["content"].get("payload", [])
        return out

    def run(self, code: str, *, timeout: float = 30.0) -> Output:
        return self.finish(self.start(code), timeout=timeout)

    def ok(self, code: str, *, timeout: float = 30.0) -> Output:
        out = self.run(code, timeout=timeout)
        assert not out.error, out.error
        return out

    def complete(self, code: str) -> list[str]:
        id = self.client.complete(code, len(code))
        while True:
            reply = self.client.get_shell_msg(timeout=20)
            if reply["parent_header"].get("msg_id") == id:
                return list(reply["content"]["matches"])

    def restart(self) -> None:
        self.client.stop_channels()
        self.manager.restart_kernel(now=True)
        self._connect()

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


class FrontEnd:
    """What the lab extension is to a kernel: a line to it, opened when it is made.

    `react` is given what the kernel tells by itself.
    """

    def __init__(self, kernel: Kernel, react: Callable[[dict[str, Any]], object] = bool) -> None:
        self.kernel = kernel
        self.react = react
        self.told: list[dict[str, Any]] = []
        self.answers: list[dict[str, Any]] = []
        # Records of runs as they are drawn, by anybody.
        self.drawn: list[dict[str, Any]] = []
        self.drawn_in: set[str] = set()
        self.id = uuid.uuid4().hex
        self._send("comm_open", {"comm_id": self.id, "target_name": "mastra_nb", "data": {}})

    def _send(self, kind: str, content: dict[str, Any]) -> None:
        client = self.kernel.client
        client.shell_channel.send(client.session.msg(kind, content))

    def say(self, name: str, **args: Any) -> None:
        """The answer comes while somebody listens."""
        data = {"id": len(self.answers) + 1, "ask": name, "args": args}
        self._send("comm_msg", {"comm_id": self.id, "data": data})

    def ask(self, name: str, **args: Any) -> dict[str, Any]:
        """{"ok": …} or {"error": …}; the kernel must be idle."""
        before = len(self.answers)
        self.say(name, **args)
        (answer,) = self.listen(lambda: self.answers[before:])
        return dict(answer)

    def close(self) -> None:
        self._send("comm_close", {"comm_id": self.id, "data": {}})

    def listen(self, until: Callable[[], Any], timeout: float = 10.0) -> Any:
        deadline = time.monotonic() + timeout
        while not (found := until()):
            left = max(0.01, deadline - time.monotonic())
            self.hear(self.kernel.client.get_iopub_msg(timeout=left))
        return found

    def hear(self, message: dict[str, Any]) -> None:
        content = message["content"]
        if message["msg_type"] == "comm_msg" and content["comm_id"] == self.id:
            data = content["data"]
            if "event" in data:
                self.told.append(data)
                self.react(data)
            else:
                self.answers.append(data)
        elif "display" in message["msg_type"] and MIME in content["data"]:
            self.drawn.append(content["data"][MIME])
            self.drawn_in = {content["transient"]["display_id"]}

    def run(self, code: str) -> Output:
        return self.kernel.finish(self.kernel.start(code, stdin=True), hear=self.hear, timeout=10)


Start = Callable[..., Kernel]


def _starter(made: list[Kernel], folder: Path) -> Start:
    def start(cwd: Path | None = None, **env: str) -> Kernel:
        kernel = Kernel(cwd or folder, env)
        made.append(kernel)
        return kernel

    return start


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[Kernel] = []
    yield _starter(made, tmp_path)
    for kernel in made:
        kernel.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """One kernel for a module, with the extension loaded."""
    kernel = Kernel(tmp_path_factory.mktemp("shared"), {})
    kernel.ok("%load_ext mastra_nb")
    kernel.ok(SCRIPTED)
    yield kernel
    kernel.close()
