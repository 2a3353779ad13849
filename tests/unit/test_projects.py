"""Which file is a project's application, and what a module's is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mastra_nb.cli._projects import find_target, load_app
from mastra_nb.errors import ConfigError, MastraError, NotFound, UsageError
from mastra_nb.services import ambient

PARTS = """
from mastra_nb import Agent, tool

@tool
def add(a: int, b: int) -> int:
    "Adds."
    return a + b

_hidden = Agent(name="hidden")
helper = alias = Agent(name="helper", tools=[add])
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_process: None) -> Path:
    for name in ("MASTRA_NB_STORAGE", "DATABASE_URL", "MASTRA_NB_APP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_what_a_module_defines_is_the_application_in_the_projects_store(project: Path) -> None:
    write(project / "mastra.toml", 'model = "openai/gpt-4o-mini"\n')
    write(project / "app.py", PARTS)
    app = load_app("app.py")
    assert [*app.agents] == ["helper"] and [*app.tools] == ["add"]
    assert app.store is not None and app.store.url == f"sqlite:///{project}/mastra.db"
    assert app.settings.model == "openai/gpt-4o-mini"
    assert app.agents["helper"].services is app.services and ambient() is app.services
    assert load_app("app.py").agents["helper"] is app.agents["helper"]


def test_a_mastra_of_the_module_is_the_application(project: Path) -> None:
    made = "from mastra_nb import Agent, Mastra\nother = Agent(name='other')\n"
    write(project / "one.py", made + "only = Mastra(agents=[Agent(name='a')])\n")
    write(project / "two.py", made + "app = Mastra()\nsecond = Mastra(agents=[other])\n")
    write(project / "three.py", made + "first = Mastra()\nsecond = Mastra(agents=[other])\n")
    assert [*load_app("one.py").agents] == ["a"]
    assert not load_app("two.py").agents
    assert [*load_app("two.py:second").agents] == ["other"]
    assert [*load_app("three:second").agents] == ["other"]
    with pytest.raises(ConfigError, match='"three.py" makes several applications'):
        load_app("three.py")
    with pytest.raises(NotFound, match='there is no "secnd"') as caught:
        load_app("three.py:secnd")
    assert "second" in caught.value.hint
    with pytest.raises(UsageError, match='"three.py:other" is a Agent, not a Mastra'):
        load_app("three.py:other")


def test_a_module_in_a_package_is_imported_by_its_name(project: Path) -> None:
    write(project / "shop" / "__init__.py", "")
    write(project / "shop" / "parts.py", PARTS)
    write(project / "shop" / "main.py", "from shop.parts import helper\n")
    assert [*load_app("shop/main.py").agents] == ["helper"]
    assert sys.modules["shop.main"].__name__ == "shop.main"
    assert load_app("shop.main").agents["helper"] is load_app("shop.parts").agents["helper"]


def test_a_file_named_like_an_installed_module_is_itself(project: Path) -> None:
    write(project / "click.py", PARTS)
    write(project / "my-app.py", PARTS)
    import click

    assert [*load_app("click.py").agents] == ["helper"]
    assert sys.modules["click"] is click
    assert [*load_app("my-app.py").agents] == ["helper"]


def test_each_project_has_its_own_app_and_store(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        write(project / name / "mastra.toml", "")
        write(project / name / "app.py", PARTS.replace("helper", name))
    assert [*load_app("one/app.py").agents] == ["one"] and Path.cwd() == project / "one"
    monkeypatch.chdir(project)
    app = load_app("two/app.py")
    assert [*app.agents] == ["two"] and app.store is not None
    assert app.store.url == f"sqlite:///{project}/two/mastra.db"


def test_the_project_says_which_is_its_application(project: Path) -> None:
    with pytest.raises(NotFound, match="there is no application in"):
        find_target()
    write(project / "analyst.ipynb", "{}")
    write(project / "sub" / "other.ipynb", "{}")
    assert str(find_target()) == "analyst.ipynb"
    write(project / "app.py", PARTS)
    with pytest.raises(ConfigError, match='"app.py", "analyst.ipynb"') as caught:
        find_target()
    assert 'app = "app.py"' in caught.value.hint
    write(project / "mastra.toml", 'app = "app.py:app"\n')
    assert str(find_target()) == "app.py:app"
    write(project / "mastra.toml", 'app = "gone.py"\n')
    with pytest.raises(NotFound, match='the setting "app" of .* is "gone.py", which is no file'):
        find_target()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("ap.py", 'there is no file "ap.py"'),
        ("app.txt", '"app.txt" is not an application'),
        ("analyst.ipynb:app", "a notebook is one application"),
        ("nowhere.module", 'there is no module "nowhere"'),
    ],
)
def test_what_is_no_application_is_said(project: Path, target: str, message: str) -> None:
    write(project / "app.py", PARTS)
    write(project / "app.txt", "")
    write(project / "analyst.ipynb", "{}")
    with pytest.raises(MastraError, match=message) as caught:
        load_app(target)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a = 1\n1 / 0\n", '"app.py" cannot be loaded, line 2: ZeroDivisionError: division'),
        ("\ndef f(:\n", '"app.py" cannot be loaded, line 2: SyntaxError: invalid syntax'),
        ("import nopenope\n", "No module named 'nopenope'"),
        ("from mastra_nb import Agent\nAgent(name='')", 'line 2: "" cannot name an agent'),
        ("a = 1\n", '"app.py" defines no agent, workflow or tool'),
        (
            "from mastra_nb import Agent\na = Agent(name='x')\nb = Agent(name='x')",
            '"a" and "b" of "app.py" are both named "x"',
        ),
    ],
)
def test_an_error_of_the_module_is_kept(project: Path, source: str, message: str) -> None:
    write(project / "app.py", source)
    with pytest.raises(UsageError, match=message) as caught:
        load_app("app.py")
    assert caught.value.hint
    if "cannot be loaded" in caught.value.message:
        assert caught.value.__cause__ is not None
