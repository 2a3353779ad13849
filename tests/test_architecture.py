"""The laws of docs/architecture.md that a machine can hold."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mastra_nb"
SOURCES = sorted(PACKAGE.rglob("*.py"))
HOSTS = {"server", "notebook", "cli"}
FAMILIES = {"providers", "stores", "executors"}
FRONT_ENDS = ["IPython", "ipykernel", "ipywidgets", "anywidget", "traitlets", "comm", "tornado"]
MOST_LINES = 600


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def row_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True
    )


per_source = pytest.mark.parametrize("path", SOURCES, ids=dotted)


def test_the_layer_contract_holds() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_siblings_of_a_family_do_not_import_each_other() -> None:
    """A `base` or a private module is the family's lower row, and what siblings may share."""
    graph = grimp.build_graph("mastra_nb", cache_dir=None)
    crossing = [
        f"{module} imports {imported}"
        for family in sorted(FAMILIES)
        if (home := f"mastra_nb.{family}") in graph.modules
        for module in sorted(graph.find_children(home))
        for imported in sorted(graph.find_modules_directly_imported_by(module))
        if imported.startswith(home + ".")
        and not (leaf := imported.removeprefix(home + ".")).startswith("_")
        and leaf != "base"
    ]
    assert crossing == []


def test_the_core_runs_without_a_front_end() -> None:
    core = [dotted(p) for p in SOURCES if row_of(p) not in HOSTS | {"testing"}]
    done = python(
        f"""
        import importlib, sys

        class Blocked:
            def find_spec(self, name, path=None, target=None):
                top = name.partition(".")[0]
                if top in {FRONT_ENDS!r} or top.startswith("jupyter"):
                    raise ImportError(name + " is blocked: the core is headless")

        sys.meta_path.insert(0, Blocked())
        for name in {core!r}:
            importlib.import_module(name)
        """
    )
    assert done.returncode == 0, done.stderr


def test_an_import_and_an_agent_with_a_tool_are_cheap() -> None:
    heavy = ["httpx", "httptools", "numpy", "pydantic", "apsw", "jinja2", "IPython", "starlette"]
    done = python(
        f"""
        import sys

        def loaded():
            return sorted(set({heavy!r}) & set(sys.modules))

        import mastra_nb
        assert not loaded(), ("import", loaded())

        from mastra_nb import Agent, tool

        @tool
        def weather(city: str) -> str:
            "The weather in a city."
            return "sunny in " + city

        Agent(name="weather", instructions="Be brief.", model="openai/gpt-5-mini", tools=[weather])
        assert not loaded(), ("agent", loaded())
        """
    )
    assert done.returncode == 0, done.stderr


@per_source
def test_no_file_outgrows_its_noun(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES, "which second noun is hiding in it?"


@pytest.mark.parametrize(
    "path", sorted(p for p in PACKAGE.rglob("__init__.py") if p.parent != PACKAGE), ids=dotted
)
def test_the_init_of_a_sub_package_is_empty(path: Path) -> None:
    """That of a host may hold one function, which imports what it needs when called."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    code = [n for n in body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    code = [n for n in code if not (isinstance(n, ast.ImportFrom) and n.module == "__future__")]
    allowed = 1 if path.parent.name in ("notebook", "cli") else 0
    assert len(code) <= allowed
    assert all(isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) for n in code)


UNSAFE_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
UNSAFE_CALLS = {"eval", "exec", "__import__", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}


@per_source
def test_nothing_stored_can_become_code(path: Path) -> None:
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.partition(".")[0] in UNSAFE_MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module] * (node.module.partition(".")[0] in UNSAFE_MODULES)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in UNSAFE_CALLS:
            found.append(ast.unparse(node.func))
    # A cell's own code is the user's: the notebook host compiles and runs it in his kernel.
    if row_of(path) == "notebook":
        found = [name for name in found if name not in {"eval", "exec"}]
    assert found == []


def test_the_table_of_the_docs_is_the_contract() -> None:
    """Each row of docs/architecture.md names the modules of the same layer of the contract."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d+ \| (.+?) \|$", page, re.MULTILINE)
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = contract["tool"]["importlinter"]["contracts"][0]["layers"]
    assert [set(re.findall(r"\w+", row)) for row in rows] == [
        set(re.findall(r"\w+", layer)) for layer in layers
    ]
