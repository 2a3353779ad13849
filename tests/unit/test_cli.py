from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from mastra_nb.cli import _group
from mastra_nb.cli._group import COMMANDS, SECTIONS, cli
from mastra_nb.errors import LimitExceeded, MastraError, NotFound, RunSuspended, Stopped
from tests import cli_docs

HEAVY = ("httpx", "numpy", "apsw", "IPython", "starlette", "uvicorn", "pydantic", "rich")
HEAVY += ("prompt_toolkit",)


def invoke(*args: str, **options: Any) -> Any:
    return CliRunner().invoke(cli, [*args], prog_name="mastra-nb", **options)


@pytest.fixture
def plugin() -> Iterator[Any]:
    """Registers a command as if a distribution had; taken away after the test."""
    before = _group.plugins
    names: list[str] = []

    def add(name: str, target: Any) -> None:
        before.register(name, target)
        names.append(name)

    yield add
    for name in names:
        del before._registered[name]
        before._loaded.pop(name, None)


def test_help_lists_every_command_with_what_it_does() -> None:
    text = invoke("--help").stdout
    for name, row in COMMANDS.items():
        assert row.section in SECTIONS
        assert f"  {name}" in text
        assert row.help in " ".join(text.split())


def test_help_imports_little() -> None:
    code = (
        "import sys\nsys.argv = ['mastra-nb', '--help']\nfrom mastra_nb.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    "path", [path for path, _ in cli_docs.commands([*COMMANDS])], ids=lambda p: p.replace(" ", "-")
)
def test_every_command_has_an_example(path: str) -> None:
    done = invoke(*path.split()[1:], "--help")
    assert done.exit_code == 0
    assert path in done.stdout.partition("Example")[2]


def test_the_page_in_the_docs_is_what_the_commands_say() -> None:
    written = cli_docs.PAGE.read_text(encoding="utf-8")
    assert written == cli_docs.page(), "python -m tests.cli_docs writes it anew"


def test_an_unknown_command_names_the_nearest() -> None:
    done = invoke("versio")
    assert done.exit_code == 2
    assert 'did you mean "version"?' in done.stderr


def test_version_as_json_is_nothing_but_json() -> None:
    done = invoke("version", "--json")
    found = json.loads(done.stdout)
    assert found["mastra-nb"] == invoke("--version").stdout.strip()
    assert found["python"] == sys.version.split()[0]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MastraError("it broke", hint="mend it"), 1),
        (ValueError("it broke"), 1),
        (NotFound("no such thing"), 2),
        (RunSuspended("it waits"), 3),
        (LimitExceeded("too dear"), 4),
        (Stopped("stopped"), 130),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes_tell_what_came_of_it(plugin: Any, error: BaseException, code: int) -> None:
    @click.command()
    def fails() -> None:
        raise error

    plugin("fails", fails)
    done = invoke("fails")
    assert done.exit_code == code
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_an_error_is_a_line_and_a_hint_and_debug_shows_the_traceback(plugin: Any) -> None:
    @click.command()
    def fails() -> None:
        raise MastraError("it broke \x1b[2J", hint="mend it")

    plugin("fails", fails)
    assert invoke("fails").stderr == "error: it broke [2J\n  → mend it\n"
    debug = invoke("--debug", "fails").stderr
    assert "Traceback" in debug
    assert "mend it" in debug


def test_a_plugin_adds_a_command(plugin: Any) -> None:
    @click.command()
    def hello() -> None:
        """Say hello."""
        click.echo("hello")

    plugin("hello", hello)
    assert invoke("hello").stdout == "hello\n"
    assert "Say hello." in invoke("--help").stdout


def test_a_broken_plugin_breaks_only_itself(plugin: Any) -> None:
    plugin("broken", "no_such_module:command")
    plugin("wrong", "json:dumps")
    assert invoke("version").exit_code == 0
    listed = invoke("--help")
    assert listed.exit_code == 0
    assert "could not be loaded" in listed.stdout
    done = invoke("broken")
    assert done.exit_code == 1
    assert "no_such_module" in done.stderr
    assert "is no command" in invoke("wrong").stderr


def test_completion_knows_commands_without_importing_them() -> None:
    code = (
        "import sys\nfrom mastra_nb.cli._group import cli\nimport click\n"
        "found = cli.shell_complete(click.Context(cli), 'r')\n"
        "print(sorted(f.value for f in found if f.value.startswith('r')))\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["['resume', 'run', 'runs']", "[]"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(shell: str) -> None:
    done = invoke("completion", shell)
    assert done.exit_code == 0
    assert "_MASTRA_NB_COMPLETE" in done.stdout
    assert invoke("completion", "tcsh").exit_code == 2


class TestDoctor:
    @pytest.fixture(autouse=True)
    def project(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        (tmp_path / "mastra.toml").write_text("")
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("DATABASE_URL", raising=False)
        sys.modules.pop("app", None)
        return tmp_path

    def found(self, code: int = 0) -> dict[str, Any]:
        done = invoke("doctor", "--offline", "--json")
        assert done.exit_code == code, done.output
        return {each["name"]: each for each in json.loads(done.stdout)}

    def test_a_folder_without_an_application(self) -> None:
        found = self.found()
        assert found["Python"]["state"] == "ok"
        assert found["application"]["state"] == "note"
        assert "none yet" in found["store"]["found"]

    def test_an_application(self, project: Path) -> None:
        (project / "app.py").write_text(
            "from mastra_nb import Agent, Mastra\n"
            "app = Mastra(agents=[Agent(name='a', model='openai/gpt-5-mini')],"
            " storage='sqlite:///mastra.db')\n"
        )
        found = self.found()
        assert "1 agents" in found["application"]["found"]
        assert found["model openai/gpt-5-mini"]["found"] == "openai/gpt-5-mini: not asked"
        assert found["price openai/gpt-5-mini"]["state"] == "ok"
        assert "schema" in found["store"]["found"]
        assert "✓ application" in invoke("doctor", "--offline").stdout

    def test_one_that_is_broken(self, project: Path) -> None:
        (project / "app.py").write_text("import no_such_module\n")
        found = self.found(code=1)
        assert found["application"]["state"] == "wrong"
        assert "no_such_module" in found["application"]["found"]
