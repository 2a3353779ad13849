"""Every Python block of the README and the docs runs, top to bottom, page by page."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mastra_nb import plugins
from mastra_nb.services import set_ambient
from mastra_nb.testing import FakeEmbedder, ScriptedModel, no_network

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_CELL = re.compile(r"^```ipython\n(.*?)^```", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def scripted_providers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No page may need a key, a network or weights to be shown to work."""

    def provider(name: str, model_id: str) -> ScriptedModel:
        return ScriptedModel('{"name": "Oslo", "people": 700000}', repeat=True)

    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "memory.md").write_text("# Memory\n\nA resource is whom it belongs to.\n")
    fake = {"local": lambda name, id: FakeEmbedder()}
    monkeypatch.setattr(plugins.embedders, "_registered", fake)
    monkeypatch.setattr(plugins.embedders, "_loaded", {})
    before = dict(plugins.providers._registered), dict(plugins.providers._loaded)
    for name in ("openai", "local", "groq", "ollama"):
        plugins.providers.register(name, provider)
    yield
    plugins.providers._registered, plugins.providers._loaded = before
    set_ambient(None)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_the_code_of_a_page_runs(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = {"__name__": page.stem}
    with no_network():
        for code in _BLOCK.findall(page.read_text(encoding="utf-8")):
            exec(compile(code, str(page), "exec", dont_inherit=True), space)


def test_the_cells_of_a_page_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """In an IPython of its own process: the extension changes the shell it is loaded into."""
    cells = _CELL.findall((ROOT / "docs" / "notebook.md").read_text(encoding="utf-8"))
    assert len(cells) > 5
    done = subprocess.run(
        [sys.executable, "-c", _SHELL, json.dumps(cells)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(Path.cwd())},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Oslo" in done.stdout


_SHELL = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
from mastra_nb import plugins
from mastra_nb.testing import ScriptedModel

plugins.providers.register("local", lambda name, id: ScriptedModel("Oslo is fine.", repeat=True))
shell = InteractiveShell.instance()
for cell in json.loads(sys.argv[1]):
    if not shell.run_cell(cell).success:
        sys.exit(1)
"""


def test_the_pip_line_of_the_readme_is_one_that_pip_takes() -> None:
    """A checkout with extras is `.[extra]`; "name[extra] @ ." is no requirement."""
    (line,) = re.findall(r'pip install "([^"]+)"', (ROOT / "README.md").read_text("utf-8"))
    found = re.fullmatch(r"\.\[([a-z,]+)\]", line)
    assert found is not None, line
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert set(found[1].split(",")) <= set(project["optional-dependencies"])


def test_every_provider_is_on_the_page_of_models() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    missing = [name for name in plugins.providers._builtin if f"`{name}" not in page]
    assert not missing


def test_there_is_code_to_run() -> None:
    assert sum(len(_BLOCK.findall(p.read_text(encoding="utf-8"))) for p in PAGES) > 15
