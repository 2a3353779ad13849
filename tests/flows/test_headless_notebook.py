"""A notebook as an application: what runs, what does not, and what is left behind."""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mastra_nb import plugins
from mastra_nb.cli._projects import load_app
from mastra_nb.errors import StorageError, UsageError
from mastra_nb.notebook.headless import load_notebook
from mastra_nb.services import ambient
from mastra_nb.testing import ScriptedModel, calls

ROOT = Path(__file__).resolve().parents[2]
TOOL = '%%tool\ndef add(a: int, b: int) -> int:\n    "Adds."\n    return a + b'
AGENT = "%%agent helper --tools add --memory on\nBe brief."
Cell = str | tuple[str, str] | tuple[str, str, str]


def notebook(path: Path, *cells: Cell) -> Path:
    """A cell is code, or (kind, source), or (kind, source, tag)."""
    out: list[dict[str, Any]] = []
    for cell in cells:
        kind, source, *tags = ("code", cell) if isinstance(cell, str) else cell
        made = {"cell_type": kind, "source": source.splitlines(True), "metadata": {"tags": tags}}
        out.append(made | ({"outputs": [], "execution_count": None} if kind == "code" else {}))
    book = {"cells": out, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(book), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_process: None) -> Path:
    for name in ("MASTRA_NB_STORAGE", "DATABASE_URL", "MASTRA_NB_MODEL", "MASTRA_NB_REPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> ScriptedModel:
    model = ScriptedModel(calls("add", a=2, b=2), "It is 4.", repeat=True)
    monkeypatch.setenv("MASTRA_NB_MODEL", "scripted/model")
    before = dict(plugins.providers._registered)
    plugins.providers.register("scripted", lambda name, id: model)
    yield model
    plugins.providers._registered = before


def test_everything_that_defines_is_found(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = notebook(
        here / "analyst.ipynb",
        ("markdown", "# Analyst"),
        "%load_ext mastra_nb",
        TOOL,
        AGENT,
        "%%workflow hello(name: str) -> str\nreturn f'hi {name}'",
        "from mastra_nb import Agent, tool, workflow\n"
        "plain = Agent(name='plain', tools=[add])\n"
        "@tool\ndef sub(a: int, b: int) -> int:\n    'Subtracts.'\n    return a - b\n"
        "@workflow\nasync def bye(name: str) -> str:\n    return f'bye {name}'",
        "import asyncio\nawait asyncio.sleep(0)\nprint('noise')\n42",
    )
    app = load_notebook(path)
    assert {*app.agents} == {"helper", "plain"}
    assert {*app.workflows} == {"hello", "bye"}
    assert {*app.tools} == {"add", "sub"}
    assert app.store is not None and app.store.url == f"sqlite:///{here}/mastra.db"
    assert all(agent.services is app.services for agent in app.agents.values())
    assert ambient() is app.services
    assert app.workflows["hello"].run("bo").result() == "hi bo"
    assert app.workflows["bye"].run("bo").result() == "bye bo"
    assert capsys.readouterr() == ("", "")


def test_its_agents_answer_and_are_kept_in_the_projects_store(
    here: Path, scripted: ScriptedModel
) -> None:
    (here / "mastra.toml").write_text('storage = "sqlite:///kept.db"\n')
    (here / "books").mkdir()
    app = load_app(str(notebook(here / "books" / "analyst.ipynb", TOOL, AGENT)))
    run = app.agents["helper"].run("2 + 2?")
    assert run.result() == "It is 4."
    assert (here / "kept.db").exists() and Path.cwd() == here
    rows = load_app("books/analyst.ipynb").store
    assert rows is not None and rows.url == f"sqlite:///{here}/kept.db"


def test_a_conversation_of_a_kernel_is_nobodys(here: Path) -> None:
    app = load_notebook(
        notebook(
            here / "a.ipynb", TOOL, AGENT, "%%agent named --thread monday --tools add\nBe brief."
        )
    )
    assert app.agents["helper"].thread == "" and app.agents["named"].thread == "monday"


@pytest.mark.parametrize(
    "asks",
    [
        "%ask helper what is this?",
        "%%ask helper\nwhat?",
        "x = %ask helper what is this?",
        "%resume",
        "%mastra status",
        "for i in range(2):\n    %ask helper again",
        "%%time\n%ask helper again",
    ],
)
def test_a_cell_that_asks_is_not_run(here: Path, asks: str) -> None:
    app = load_notebook(notebook(here / "a.ipynb", TOOL, AGENT, asks))
    assert {*app.agents} == {"helper"}


def test_a_function_that_asks_is_defined(
    here: Path, scripted: ScriptedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    body = "%%workflow sums(text: str) -> str\nanswer = %ask helper {{ text }}\nreturn str(answer)"
    asks = (
        "async def f():\n    return await helper('x')\n"
        "def g(x):\n    answer = %ask helper {{ x }}\n    return str(answer)\n"
        "from mastra_nb import tool\n@tool\ndef total(x: str) -> str:\n    'Sums.'\n    return g(x)"
    )
    app = load_notebook(notebook(here / "a.ipynb", TOOL, AGENT, asks, body))
    assert app.workflows["sums"].run("2 + 2?").result() == "It is 4."
    assert app.tools["total"].run(x="2 + 2?").result() == "It is 4."
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "marker",
    [
        ("markdown", "# Try it\n# mastra: stop"),
        ("markdown", "<!-- mastra: stop -->"),
        ("raw", "mastra: stop"),
        ("code", "y = 1\nassert y == 1\n# mastra: stop\n1 / 0"),
    ],
)
def test_nothing_runs_below_the_marker_or_under_skip(here: Path, marker: Cell) -> None:
    more = ("code", "1 / 0", "skip")
    path = notebook(here / "a.ipynb", TOOL, more, AGENT, marker, "%%agent late\nNo.", "1 / 0")
    assert {*load_notebook(path).agents} == {"helper"}


def test_a_cell_that_may_fail_may(here: Path) -> None:
    path = notebook(here / "a.ipynb", TOOL, ("code", "1 / 0", "raises-exception"), AGENT)
    assert {*load_notebook(path).agents} == {"helper"}


@pytest.mark.parametrize(
    ("source", "message", "kind"),
    [
        ("a = 1\n1 / 0", r"\(a = 1\), line 2: ZeroDivisionError: division", ZeroDivisionError),
        ("\n\ndef f(:", r"\(def f\(:\), line 3: SyntaxError: invalid", SyntaxError),
        ("import nopenope", "No module named 'nopenope'", ModuleNotFoundError),
        ("%%agent x --tools gone\nHi.", 'there is no tool "gone"', UsageError),
        ("%nomagic", "`%nomagic` not found", Exception),
        ("raise SystemExit(3)", "SystemExit: 3", SystemExit),
        ("input('Your name?')", "EOFError", EOFError),
    ],
)
def test_an_error_names_the_cell(
    here: Path, source: str, message: str, kind: type[BaseException]
) -> None:
    path = notebook(here / "bad.ipynb", ("markdown", "# Bad"), "b = 1", source)
    with pytest.raises(UsageError, match=rf'code cell 2 of "bad.ipynb" .*{message}') as caught:
        load_notebook(path)
    assert isinstance(caught.value.__cause__, kind)
    assert caught.value.hint and caught.value.details["cell"] == 2


def test_a_name_that_a_question_would_have_made_is_explained(here: Path) -> None:
    path = notebook(here / "a.ipynb", TOOL, AGENT, "answer = %ask helper hi", "print(answer)")
    with pytest.raises(UsageError) as caught:
        load_notebook(path)
    assert caught.value.hint == '"answer" is made in code cell 3, which asks and was not run'


@pytest.mark.parametrize("text", ["{", "[]", '{"worksheets": []}', '{"cells": [1]}'])
def test_what_is_no_notebook_is_said(here: Path, text: str) -> None:
    (here / "a.ipynb").write_text(text)
    with pytest.raises(UsageError, match=r'"a.ipynb" is not a notebook of format 4'):
        load_notebook(here / "a.ipynb")


def test_an_empty_one_and_one_that_is_not_there(here: Path) -> None:
    with pytest.raises(UsageError, match="defines no agent, workflow or tool"):
        load_notebook(notebook(here / "a.ipynb", "x = 1"))
    with pytest.raises(UsageError, match="cannot be read"):
        load_notebook(here / "gone.ipynb")


def test_a_mastra_of_its_own_is_the_application(here: Path) -> None:
    own = (
        "from mastra_nb import Agent, Mastra\nhelp2 = Agent(name='help2')\nloose = Agent(name='l')"
        "\nmine = Mastra(agents=[help2], storage='memory://')"
    )
    app = load_notebook(notebook(here / "a.ipynb", TOOL, AGENT, own))
    assert {*app.agents} == {"help2", "helper"} and {*app.tools} == {"add"}
    assert app.store is not None and app.store.url == "memory://"
    assert app.agents["helper"].services is app.services


def test_a_store_that_cannot_be_used_is_an_error(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTRA_NB_STORAGE", f"sqlite:///{here}/no/such/mastra.db")
    with pytest.raises(StorageError, match="the store cannot be used") as caught:
        load_notebook(notebook(here / "a.ipynb", TOOL))
    assert "kept in memory" not in str(caught.value)


async def test_it_leaves_nothing_behind_also_where_a_loop_runs(here: Path) -> None:
    from IPython import get_ipython
    from IPython.core.interactiveshell import InteractiveShell

    before = {name: builtins.__dict__.get(name) for name in ("__IPYTHON__", "display")}
    state = (
        sys.stdout,
        sys.excepthook,
        sys.displayhook,
        hasattr(sys, "ps1"),
        sys.modules["__main__"],
    )
    inside = "from IPython import get_ipython as g\nassert g() is get_ipython() is not None"
    path = notebook(here / "a.ipynb", TOOL, AGENT, inside, "await __import__('asyncio').sleep(0)")
    first, second = load_notebook(path), load_notebook(path)
    assert first.agents["helper"] is not second.agents["helper"]
    assert get_ipython() is None and not InteractiveShell.initialized()
    assert {name: builtins.__dict__.get(name) for name in before} == before
    assert state == (
        sys.stdout, sys.excepthook, sys.displayhook, hasattr(sys, "ps1"), sys.modules["__main__"],
    )  # fmt: skip
    assert not (here / "ipython").exists()
    assert {p.name for p in here.iterdir()} <= {
        "a.ipynb", "mastra.db", "mastra.db.lock", "mastra.db-wal", "mastra.db-shm",
    }  # fmt: skip


@pytest.mark.parametrize(
    "cell",
    [
        "%matplotlib inline",
        "!echo said",
        "said = !echo said\nassert said == ['said']",
        "%%bash\necho said",
        "%%capture out\nprint(1)",
        "%%time\ny = 1\nassert y == 1",
        "from IPython.display import HTML, display\ndisplay(HTML('<b>x</b>'))",
        "import ipywidgets\ndisplay(ipywidgets.IntSlider())",
        "%config Mastra.max_steps = 3",
        "import asyncio\ntask = asyncio.create_task(asyncio.sleep(0))",
        "helper.chat()",
        "%load_ext mastra_nb",
    ],
)
def test_cells_do_what_they_do_in_a_kernel(
    here: Path, cell: str, capfd: pytest.CaptureFixture[str]
) -> None:
    app = load_notebook(notebook(here / "a.ipynb", TOOL, AGENT, cell))
    assert {*app.agents} == {"helper"}
    assert capfd.readouterr().out == ""


def test_types_and_modules_of_the_notebook_are_found_where_it_is(here: Path) -> None:
    (here / "sub").mkdir()
    (here / "sub" / "near.py").write_text("WORD = 'near'\n")
    (here / "sub" / "data.txt").write_text("data")
    source = (
        "from __future__ import annotations\nimport msgspec, near\n"
        "from pathlib import Path\nfrom mastra_nb import tool\n"
        "class Pair(msgspec.Struct):\n    a: int\n    b: list[Pair] = []\n"
        "@tool\ndef make(pair: Pair) -> Pair:\n    'Makes.'\n    return pair\n"
        "assert near.WORD == 'near' and Path('data.txt').read_text() == 'data'"
    )
    app = load_notebook(notebook(here / "sub" / "a.ipynb", source))
    assert "a" in json.dumps(app.tools["make"].spec.parameters)
    assert Path.cwd() == here


def test_the_process_ends_in_order(here: Path) -> None:
    """What IPython does at exit must not empty the functions of a server that drains."""
    path = notebook(here / "a.ipynb", "%%workflow hello(name: str) -> str\nreturn f'hi {name}'")
    code = (
        "import atexit, sys\n"
        "from mastra_nb.notebook.headless import load_notebook\n"
        "@atexit.register\ndef last(): print(sys.modules['notebook_a'].hello.name)\n"
        f"app = load_notebook({str(path)!r})\n"
        "print(app.workflows['hello'].run('bo').result())\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=here, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["hi bo", "hello"] and done.stderr == ""
