"""`mastra-nb run report.ipynb`, in a process of its own as papermill wants it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).parents[2]
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
AGENT = """
from mastra_nb import Agent, tool
from mastra_nb.testing import ScriptedModel, calls
%load_ext mastra_nb

@tool(needs_approval=True)
def pay(amount: int) -> str:
    return f"paid {amount}"

def pays(request):
    last = request.messages[-1]
    return calls("pay", amount=3) if last.role == "user" else f"Well, {last.parts[0].output}."

payer = Agent(name="payer", model=ScriptedModel(pays, repeat=True), tools=[pay])
"""


def notebook(path: Path, *cells: str) -> None:
    first = new_code_cell(cells[0], metadata={"tags": ["parameters"]})
    made = new_notebook(
        cells=[first, *map(new_code_cell, cells[1:])],
        metadata={"kernelspec": KERNEL},
    )
    nbformat.write(made, path)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "mastra.toml").write_text("")
    return tmp_path


def command(project: Path, *args: str) -> Any:
    env = {k: v for k, v in os.environ.items() if k != "DATABASE_URL"}
    return subprocess.run(
        [sys.executable, "-m", "mastra_nb", *args],
        cwd=project,
        env={**env, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_parameters_go_in_and_what_was_recorded_comes_out(project: Path) -> None:
    notebook(
        project / "report.ipynb",
        "city = 'Rome'\ndays = 1",
        "from mastra_nb.recording import record\nrecord(place=city.upper(), twice=days * 2)",
        "assert city != 'Nowhere', 'no such place'",
    )
    run = ("run", "report.ipynb")
    done = command(project, *run, "-p", "city=Oslo", "-p", "days=3", "-o", "o.ipynb")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"place": "OSLO", "twice": 6}
    assert "OSLO" in (project / "o.ipynb").read_text()
    failed = command(project, *run, "-p", "city=Nowhere", "--json")
    assert failed.returncode == 1, failed.stderr
    found = json.loads(failed.stdout)
    assert found["status"] == "failed"
    assert "no such place" in found["error"]["message"]
    assert (project / found["notebook"]).is_file()
    missing = command(project, "run", "repor.ipynb")
    assert missing.returncode == 2
    assert 'did you mean "report.ipynb"?' in missing.stderr


def test_what_is_done_is_done_again_and_what_waited_goes_on(project: Path) -> None:
    asks = "# mastra: stop\n%ask payer pay {{amount}}"
    notebook(project / "pays.ipynb", "amount = 3", AGENT, asks)
    waits = command(project, "run", "pays.ipynb")
    assert waits.returncode == 3, waits.stderr
    (row,) = json.loads(command(project, "runs", "--json").stdout)
    assert f"mastra-nb resume {row['run']}" in waits.stderr
    assert command(project, "run", "pays.ipynb").returncode == 3
    # What waits is answered by the notebook that knows the agent.
    answered = command(project, "resume", row["run"], "approve", "--app", "pays.ipynb")
    assert answered.returncode == 0, answered.stderr
    assert command(project, "run", "pays.ipynb").returncode == 0
    assert len(json.loads(command(project, "runs", "--json").stdout)) == 1
