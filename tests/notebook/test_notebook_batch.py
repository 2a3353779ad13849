"""Notebooks in batch: papermill, the size of what is saved, replay, the demo runner."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest

from mastra_nb.notebook.demo import execute, main
from tests.notebook.conftest import _CLEAN, MIME, ROOT, SCRIPTED, Kernel, Start

WEATHER = [
    'city = "Oslo"',
    "%load_ext mastra_nb",
    SCRIPTED + 'model = ScriptedModel(calls("get_weather", city="x"), lambda r: "It is sunny in "'
    ' + r.messages[-3].text.split()[-1], "And **warm**.", delay=0.01)',
    '%%tool\ndef get_weather(city: str) -> dict:\n    "The weather."\n    return {"max_c": 21}',
    "%%agent weather -m model -t get_weather --memory\nBe brief.",
    "%%ask weather\nWeather in {{ city }}",
    "x = %ask weather Is it warm there?\nx",
]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if _CLEAN.search(name):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")


def write(path: Path, cells: list[str]) -> Path:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    notebook.cells[0].metadata["tags"] = ["parameters"]
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(notebook, path)
    return path


def run(path: Path, out: Path, **parameters: Any) -> Any:
    # Papermill leaves the event loop it made to the garbage collector.
    papermill.execute_notebook(
        str(path), str(out), parameters, cwd=str(path.parent), progress_bar=False
    )
    asyncio.set_event_loop(None)
    made = nbformat.read(out, as_version=4)
    nbformat.validate(made)
    return made


def outputs(notebook: Any) -> list[Any]:
    """Final outputs of the cells, without durations."""
    found = [[strip(dict(o)) for o in c.get("outputs", [])] for c in notebook.cells]
    return [cell for cell in found if cell]


def strip(output: dict[str, Any]) -> Any:
    output.pop("execution_count", None)
    text = re.sub(r"\d+(\.|&#46;)\d+ s\b", "- s", json.dumps(output, ensure_ascii=False))
    return re.sub(r'"(seconds|at)": (\[[^]]*\]|[\d.]+)', r'"\1": -', text)


def test_papermill_gives_the_outputs_of_a_live_kernel(start: Start, tmp_path: Path) -> None:
    path = write(tmp_path / "n.ipynb", WEATHER)
    plain = run(path, tmp_path / "plain.ipynb")
    rome = run(path, tmp_path / "rome.ipynb", city="Rome")
    assert "It is sunny in Oslo" in json.dumps(outputs(plain))
    assert "It is sunny in Rome" in json.dumps(outputs(rome))
    assert [o.replace("Rome", "Oslo") for o in map(json.dumps, outputs(rome))] == [
        json.dumps(o) for o in outputs(plain)
    ]
    kernel = start(tmp_path)
    live = [kernel.ok(cell) for cell in WEATHER]
    saved = [
        o for c in plain.cells for o in c.get("outputs", []) if o.output_type == "display_data"
    ]
    shown = [d for out in live for d in out.shown]
    assert [strip({"d": o.data["text/markdown"]}) for o in saved] == [
        strip({"d": d["text/markdown"]}) for d in shown
    ]
    asks = [c for c in plain.cells if c.source.startswith("%%ask")]
    assert [len(c.outputs) for c in asks] == [1], "one output for a run"


def test_a_stream_of_2000_chunks_is_small_and_calm(start: Start) -> None:
    kernel = start()
    kernel.ok("%load_ext mastra_nb")
    kernel.ok(SCRIPTED)
    kernel.ok("text = ' '.join(f'w{i:05}' for i in range(2000))")
    kernel.ok("model = ScriptedModel(text, piece=7, delay=0.001)\na = Agent(name='a', model=model)")
    out = kernel.ok("%ask a go", timeout=60)
    (shown,) = out.shown
    size = len(json.dumps(shown, ensure_ascii=False))
    text = kernel.ok("text").result.strip("'")
    assert text in shown["text/markdown"]
    assert size - len(text) <= 2048
    assert len(out.updates) >= 5
    busiest = max(sum(at <= other < at + 1.0 for other in out.updates) for at in out.updates)
    assert busiest <= 20 + 1, "twenty a second, and the last one"


def test_an_approval_fails_the_batch_with_the_way_on(tmp_path: Path) -> None:
    cells = [
        "x = 1",
        "%load_ext mastra_nb",
        SCRIPTED + 'model = ScriptedModel(calls("send"))',
        '%%tool --approve\ndef send() -> str:\n    "Send."\n    return "x"',
        "%%agent mailer -m model -t send\nSend.",
        "%ask mailer go",
        "x = 2",
    ]
    path = write(tmp_path / "n.ipynb", cells)
    with pytest.raises(papermill.PapermillExecutionError, match="suspended.*%resume r_"):
        run(path, tmp_path / "out.ipynb")
    asyncio.set_event_loop(None)
    made = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert "Traceback" not in json.dumps([o for c in made.cells[1:] for o in c.get("outputs", [])])


BLOCKED = (
    "import socket\n"
    "def _refuse(self, address):\n"
    "    raise AssertionError(f'connected to {address}')\n"
    "socket.socket.connect = _refuse"
)


def test_a_replay_asks_nobody_and_is_byte_equal(start: Start, tmp_path: Path) -> None:
    def all_of(mode: str) -> tuple[list[str], Kernel]:
        kernel = start(tmp_path, MASTRA_NB_REPLAY=mode)
        cells = [*WEATHER, "%mastra runs", "%mastra cost", "%%time\n%ask weather --no-cache again"]
        lines = 'ScriptedModel(calls("get_weather", city="x"), "Sunny.", "**Warm**.", "Again.")'
        made = []
        for cell in cells:
            if "ScriptedModel" in cell:
                spoken = lines if mode == "record" else "ScriptedModel()"
                cell = f"{SCRIPTED}model = {spoken}\n{BLOCKED if mode == 'only' else ''}"
            out = kernel.ok(cell)
            made.append(repr((out.shown, out.results, re.sub(r"CPU.*|Wall.*", "", out.text))))
        return made, kernel

    recorded, kernel = all_of("record")
    kernel.close()
    before = _runs(tmp_path)
    first, kernel = all_of("only")
    assert "(replay)" in repr(first)
    assert kernel.ok("model.requests").result == "[]"
    second, _ = all_of("only")
    assert first == second
    assert _runs(tmp_path) == before, "a replay writes nothing"
    assert "replay only" in first[1]
    assert [s.replace("replay", "record") for s in first[4:7]] == recorded[4:7]
    missing = kernel.run("%ask weather something new")
    assert "no recording of this request" in missing.head
    assert "%mastra replay record" in missing.error


def _runs(folder: Path) -> list[tuple[Any, ...]]:
    import apsw

    db = apsw.Connection(str(folder / "mastra.db"), flags=apsw.SQLITE_OPEN_READONLY)
    rows = list(db.execute("SELECT (SELECT count(*) FROM run), (SELECT count(*) FROM thread)"))
    db.close()
    return rows


def test_auto_asks_only_what_was_not_recorded(start: Start) -> None:
    kernel = start()
    kernel.ok("%load_ext mastra_nb")
    kernel.ok(
        SCRIPTED + 'model = ScriptedModel("one", "two", "three")\na = Agent(name="a", model=model)'
    )
    assert kernel.ok("%mastra replay auto").text.startswith("replay auto")
    assert kernel.ok("%ask a x").answer == "one"
    kernel.ok("%mastra replay auto")
    assert kernel.ok("%ask a x").answer == "one"
    assert kernel.ok("%ask a y").answer == "two"
    assert kernel.ok("%ask a --no-cache x").answer == "three"
    kernel.ok("%mastra replay only")
    assert kernel.ok("%ask a x").answer == "three"
    kernel.ok("%mastra replay off")
    assert kernel.ok("len(model.requests)").result == "3"


def test_the_demo_tells_what_happens(tmp_path: Path) -> None:
    path = write(tmp_path / "n.ipynb", WEATHER)
    said: list[str] = []
    with redirect_stderr(io.StringIO()):
        assert execute(path, tmp_path / "out" / "n.ipynb", {"city": "Rome"}, said.append)
    asyncio.set_event_loop(None)
    text = "".join(said)
    assert "] %%ask weather\n  · get_weather" in text
    assert "\nIt is sunny in Rome\n" in text
    assert "And **warm**.\n" in text
    assert len([s for s in said if "sunny" in s or "in Rome" in s]) >= 1
    assert "x1b" not in text
    nbformat.validate(nbformat.read(tmp_path / "out" / "n.ipynb", as_version=4))


def test_the_demo_fails_with_its_notebook(tmp_path: Path) -> None:
    path = write(tmp_path / "n.ipynb", ["x = 1", "1 / 0", "print('not reached')"])
    command = [
        sys.executable,
        "-m",
        "mastra_nb.notebook.demo",
        str(path),
        str(tmp_path / "o.ipynb"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stdout
    assert "not reached" not in done.stdout
    assert done.stdout.rstrip().endswith('o.ipynb".')
    assert main(["no.ipynb", "o.ipynb"]) == 1


def test_nothing_of_a_model_is_active_in_html(start: Start, tmp_path: Path) -> None:
    nbconvert = pytest.importorskip("nbconvert")
    evil = "<script>alert(1)</script> <img src=x onerror=alert(2)> [a](javascript:alert(3))"
    cells = [
        "x = 1",
        "%load_ext mastra_nb",
        SCRIPTED + f"evil = {evil!r}\nmodel = ScriptedModel(calls('f', x=evil), evil, evil)",
        f'%%tool\ndef f(x: str) -> str:\n    "F."\n    return {evil!r}',
        "%%agent a -m model -t f\nx",
        "%%ask a\n{{ evil }}",
        "%ask a --thread <b>x</b> and {{ evil }}",
        "%mastra runs",
        "%mastra threads",
    ]
    run(write(tmp_path / "n.ipynb", cells), tmp_path / "o.ipynb")
    html, _ = nbconvert.HTMLExporter().from_filename(str(tmp_path / "o.ipynb"))
    body = html[html.index("<main") :]
    shown = re.sub(r'<div class="highlight.*?</div>', "", body, flags=re.DOTALL)
    assert "<script>alert" not in shown
    assert not re.search(r"<[^>]*\son\w+\s*=", shown)
    assert not re.search(r'href="\s*javascript', shown)
    assert "<b>x</b>" not in shown
    assert MIME not in shown
