"""`mastra-nb batch` as a shell sees it: exit codes, what is printed where, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.flows.batches import alive, clean, notebook, pids, until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of a shell")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clean(monkeypatch)
    (tmp_path / "mastra.toml").write_text("")


def begin(folder: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mastra_nb", "batch", *args], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def command(folder: Path, *args: str) -> tuple[int, str, str]:
    process = begin(folder, *args)
    out, said = process.communicate(timeout=55)
    return process.returncode, out, said


def test_a_shell_is_told_what_became_of_it(tmp_path: Path) -> None:
    notebook(
        tmp_path / "n.ipynb",
        "city = ''\nn = 0\nunit = ''",
        "from mastra_nb import record\nprint('noise')\nrecord(label=f'{city} {n} {unit}')\n"
        "assert n < 2, 'too \\x1b[31mlarge'",
    )
    (tmp_path / "rows.csv").write_text("city,n\nOslo,1\nRome,2\n")
    code, out, said = command(
        tmp_path, "n.ipynb", "--params", "rows.csv", "-p", "unit=km", "-w", "2", "--json",
        "--results", "r.parquet", "--report", "page.html", "-o", "done",
    )  # fmt: skip
    assert code == 1, said
    found = json.loads(out)
    assert found["counts"] == {"failed": 1, "done": 1}
    assert [row["values"]["label"] for row in found["rows"]] == ["Oslo 1 km", "Rome 2 km"]
    assert "✓ 1 city=Oslo" in said or "✓ 1 unit=km" in said
    assert "AssertionError: too large" in said and "\x1b" not in said + out
    assert list(pd.read_parquet(tmp_path / "r.parquet").status) == ["done", "failed"]
    assert "too large" in (tmp_path / "page.html").read_text()
    assert {p.suffix for p in (tmp_path / "done").iterdir()} == {".ipynb", ".html", ".csv"}

    code, out, _ = command(tmp_path, "n.ipynb", "-p", "n=1", "-p", "city=Bonn")
    assert code == 0 and "1 done" in out
    assert out.splitlines()[-1].endswith("report.html")


@pytest.mark.parametrize(
    ("args", "wrong"),
    [
        (["no.ipynb"], "no.ipynb"),
        (["n.ipynb", "--params", "no.csv"], "no.csv"),
        (["n.ipynb", "--params", "n.ipynb"], "of no kind"),
        (["n.ipynb", "--workers", "0"], "workers"),
        (["n.ipynb", "--approvals", "approve"], "approve"),
        (["n.ipynb", "--executor", "dusk"], 'did you mean "dask"'),
        (["n.ipynb", "-p", "a b=1"], "cannot be a parameter"),
    ],
)
def test_wrong_usage_is_code_2(args: list[str], wrong: str, tmp_path: Path) -> None:
    notebook(tmp_path / "n.ipynb", "n = 1")
    code, out, said = command(tmp_path, *args)
    assert (code, out) == (2, "") and wrong in said and "Traceback" not in said


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_in_order(sent: signal.Signals, tmp_path: Path) -> None:
    notebook(
        tmp_path / "n.ipynb",
        "n = 0",
        "import os, time\nopen('pids', 'a').write(f'{os.getpid()}\\n')\ntime.sleep(60 * (n > 0))",
    )
    (tmp_path / "rows.json").write_text('[{"n": 0}, {"n": 1}, {"n": 2}, {"n": 3}]')
    process = begin(tmp_path, "n.ipynb", "--params", "rows.json", "-w", "2")
    until(lambda: len(pids(tmp_path)) == 3)
    process.send_signal(sent)
    out, said = process.communicate(timeout=10)
    assert process.returncode == 130, said
    assert out == "" and "stopped: 1 of 4 done" in said and "Traceback" not in said
    until(lambda: not any(map(alive, pids(tmp_path))), 5)
    (page,) = tmp_path.glob("out/*/report.html")
    shown = page.read_text("utf-8")
    assert shown.count("■ stopped") == 2 and "· pending" in shown
