"""Notebooks to be run in batch, and drivers of batches to be killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

SCRIPTED = """\
%load_ext mastra_nb
from mastra_nb import Agent, record, tool
from mastra_nb.messages import Usage, assistant
from mastra_nb.models import Reply
from mastra_nb.testing import ScriptedModel, calls

def paid(text, dollars):
    return Reply(message=assistant(text), usage=Usage(input=8, output=2, cost=dollars, calls=1))
"""


def notebook(path: Path, *cells: str) -> Path:
    """The first cell holds the parameters."""
    made = [
        {
            "cell_type": "code", "id": f"c{i}", "source": textwrap.dedent(source), "outputs": [],
            "execution_count": None, "metadata": {"tags": ["parameters"]} if not i else {},
        }
        for i, source in enumerate(cells)
    ]  # fmt: skip
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    whole = {
        "cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5
    }  # fmt: skip
    path.write_text(json.dumps(whole))
    return path


def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's key or settings reach a kernel, and it finds this tree."""
    for name in list(os.environ):
        if "MASTRA" in name or name.endswith("_API_KEY") or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")


@contextlib.contextmanager
def driver(folder: Path, call: str) -> Iterator[subprocess.Popen[str]]:
    """A script, without a guard of its `__main__`, that makes the call, `run_batch(...)`, and
    prints the exit code of the report.
    """
    code = f"from mastra_nb import run_batch\nreport = {call}\nprint(report.exit_code)"
    (folder / "script.py").write_text(code)
    process = subprocess.Popen(
        [sys.executable, "script.py"], cwd=folder, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def until(there: Callable[[], Any], seconds: float = 40.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := there()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
    return found


def pids(folder: Path, name: str = "pids") -> list[int]:
    path = folder / name
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
