"""Each template of `mastra-nb init` is a project whose test passes and whose notebook runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner, Result
from nbclient import NotebookClient

from mastra_nb.cli import _projects
from mastra_nb.cli.init import TEMPLATES, init_command, scaffold
from mastra_nb.errors import MastraError, UsageError
from mastra_nb.notebook.headless import load_notebook

ROOT = Path(__file__).resolve().parents[2]
_CLEAN = re.compile(r"MASTRA|_API_KEY$|^(DATABASE_URL|OLLAMA_HOST|OPENAI_BASE_URL|LOG_LEVEL)$")
MODEL = "openai/gpt-4o-mini"

# What the model of each template's notebook says.
SAID = {
    "agent": """calls("find_order", number="1001"), "On Thursday.", "As I said: Thursday." """,
    "rag": """calls("search_knowledge", query="send back days postage"), "For 30 days [1]." """,
    "workflow": """ "It is on its way." """,
    "batch": """ '{"days": 2, "why": "The fjord."}' """,
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_process: None) -> Path:
    for name in [n for n in os.environ if _CLEAN.search(n)]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*args: str, **options: object) -> Result:
    # As in the group: click makes a command's help option once.
    options["help_option_names"] = ["-h", "--help"]
    result = CliRunner().invoke(init_command, [*args], catch_exceptions=True, **options)
    if isinstance(result.exception, MastraError):
        raise result.exception
    assert result.exception is None, result.output
    return result


def subprocess_in(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture(params=[*TEMPLATES])
def template(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_its_test_passes_right_after(here: Path, template: str) -> None:
    init("shop", "--template", template, "--model", MODEL)
    done = subprocess_in(here / "shop", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d passed", done.stdout)


def test_its_notebook_runs(here: Path, template: str) -> None:
    init("shop", "-t", template, "-m", MODEL)
    path = here / "shop" / TEMPLATES[template].notebook
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    standin = (
        "from mastra_nb import plugins\nfrom mastra_nb.testing import ScriptedModel, calls\n"
        f"_model = ScriptedModel({SAID[template]})\n"
        "plugins.providers.register('openai', lambda name, id: _model)"
    )
    notebook.cells.insert(0, nbformat.v4.new_code_cell(standin))
    resources = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(notebook, timeout=60, kernel_name="python3", resources=resources)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    client.execute(env=env)
    shown = json.dumps(notebook.cells)
    said = {
        "agent": "Thursday",
        "rag": "For 30 days",
        "workflow": "paid 39.00 for 1001: It is on its way.",
        "batch": "The fjord.",
    }
    assert said[template] in shown
    if template == "workflow":
        assert "RunSuspended" in shown


def test_its_module_and_its_notebook_are_applications(here: Path, template: str) -> None:
    init("shop", "-t", template, "-m", MODEL)
    app = _projects.load_app("shop/app.py")
    parts = {*app.agents, *app.workflows, *app.tools}
    assert parts and app.settings.model == MODEL
    assert app.store is not None and app.store.url == f"sqlite:///{here}/shop/mastra.db"
    assert str(_projects.find_target()) == "app.py"
    if template == "agent":
        played = load_notebook(here / "shop" / TEMPLATES[template].notebook)
        assert {*played.agents} == {*app.agents}


def test_what_the_readme_names_is_there(here: Path, template: str) -> None:
    init("shop", "-t", template, "-m", MODEL)
    text = (here / "shop" / "README.md").read_text("utf-8")
    assert "@@" not in "".join(p.read_text("utf-8") for p in here.rglob("*") if p.is_file())
    for name in re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE):
        assert (here / "shop" / name).exists() or name == ".env", name
    project = tomllib.loads((here / "shop" / "pyproject.toml").read_text("utf-8"))["project"]
    extras = set(re.findall(r"[\w-]+", project["dependencies"][0].partition("[")[2]))
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["name"] == "shop" and extras <= set(ours["optional-dependencies"])
    assert "OPENAI_API_KEY=\n" in (here / "shop" / ".env.example").read_text("utf-8")
    assert ".env\n" in (here / "shop" / ".gitignore").read_text("utf-8")


def test_it_prints_what_to_do_next(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = init("shop", "--model", MODEL).output
    after = out.partition("Next:\n")[2].splitlines()
    assert [line.split("  #")[0].strip() for line in after[:3]] == [
        "cd shop", "cp .env.example .env", "mastra-nb chat support",
    ]  # fmt: skip
    assert "OPENAI_API_KEY" in after[1]
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-that-is-set")
    assert "python -m pytest" in init("other", "--model", MODEL).output
    (here / "here").mkdir()
    monkeypatch.chdir(here / "here")
    out = init(".", "--model", "local").output
    assert "cd " not in out and "mastra-nb dev" in out
    assert 'name = "here"' in (here / "here" / "pyproject.toml").read_text("utf-8")


def test_no_file_is_written_over_without_being_told(here: Path) -> None:
    (here / "shop").mkdir()
    mine = here / "shop" / "app.py"
    mine.write_text("mine = 1\n")
    outside = here / "outside.txt"
    outside.write_text("outside")
    (here / "shop" / "README.md").symlink_to(outside)
    with pytest.raises(UsageError, match=r"README.md, app.py") as caught:
        init("shop", "--model", MODEL)
    assert "--no-force" in caught.value.hint
    assert {p.name for p in (here / "shop").iterdir()} == {"app.py", "README.md"}
    assert "kept as they were: README.md, app.py" in init("shop", "-m", MODEL, "--no-force").output
    assert mine.read_text() == "mine = 1\n" and (here / "shop" / "mastra.toml").exists()
    init("shop", "-m", MODEL, "--force")
    assert "find_order" in mine.read_text() and outside.read_text() == "outside"
    # Nothing differs now, so nothing is in the way.
    init("shop", "-m", MODEL)


def test_nobody_is_asked_without_a_terminal(here: Path) -> None:
    with pytest.raises(UsageError, match="the project has no name"):
        init(input="shop\n")
    assert [*here.iterdir()] == []


def test_at_a_terminal_questions_have_defaults(here: Path) -> None:
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["PYTHONPATH"] = str(ROOT)
        code = "from mastra_nb.cli.init import init_command as c; c(prog_name='init')"
        os.execv(sys.executable, [sys.executable, "-c", code])
    for answer in (b"\n", b"workflow\n", b"local\n"):
        os.write(terminal, answer)
    said = b""
    try:
        while piece := os.read(terminal, 4096):
            said += piece
    except OSError:
        pass  # Linux says so when the other end is closed
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, said.decode()
    assert (here / "my-agent" / "refunds.ipynb").exists()
    assert b"Template" in said and b"[my-agent]" in said


def test_as_json(here: Path) -> None:
    made = json.loads(init("shop", "--json", "-m", MODEL).stdout)
    assert made["template"] == "agent" and "app.py" in made["files"] and made["kept"] == []


def test_an_unknown_model_is_refused_before_anything_is_written(here: Path) -> None:
    with pytest.raises(MastraError):
        init("shop", "--model", "nobody/knows")
    assert [*here.iterdir()] == []


def test_a_folder_may_have_any_name(here: Path) -> None:
    made = scaffold(here / "Größe & Co", "agent", model=MODEL)
    name = tomllib.loads(made["pyproject.toml"])["project"]["name"]
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*[a-z0-9]", name)


def test_the_wheel_has_the_templates() -> None:
    from hatchling.builders.wheel import WheelBuilder

    packed = {f.distribution_path for f in WheelBuilder(str(ROOT)).recurse_included_files()}
    templates = ROOT / "mastra_nb" / "cli" / "templates"
    every = {p.relative_to(ROOT).as_posix() for p in templates.rglob("*") if p.is_file()}
    assert len(every) > 20 and every <= packed
