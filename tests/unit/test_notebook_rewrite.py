from __future__ import annotations

import ast

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from mastra_nb.notebook._rewrite import question_transformer, rewrite, running_cell

manager = TransformerManager()
manager.token_transformers.insert(0, question_transformer())


def cell(source: str, *, nested: bool = False) -> str:
    def transform(body: str) -> str:
        return "".join(
            rewrite(
                manager.transform_cell(body).splitlines(keepends=True),
                nested=nested,
                transform=transform,
            )
        )

    return transform(source)


A = "await get_ipython().mastra.arun"
S = "get_ipython().mastra.run"


@pytest.mark.parametrize(
    ("source", "rewritten"),
    [
        ("%ask weather hi", f"{A}('ask', 'weather hi')"),
        ("%ask weather is it?", f"{A}('ask', 'weather is it?')"),
        ("%ask it's (not \"closed", f"{A}('ask', 'it\\'s (not \"closed')"),
        ("x = %ask weather is it?", f"x = {A}('ask', 'weather is it?', value=True)"),
        ("%%ask weather\nhi\nyou?", f"{A}('ask', 'weather', 'hi\\nyou?\\n')"),
        ("%resume approve", f"{A}('resume', 'approve')"),
        ("%mastra", f"{A}('mastra', '')"),
        ("é = 'ß'\nü = %ask ö\ny = 2", f"é = 'ß'\nü = {A}('ask', 'ö', value=True)\ny = 2"),
        ("for c in cs:\n    %ask {{c}}", f"for c in cs:\n    {A}('ask', '{{{{c}}}}')"),
        (
            "def f(c):\n    r = %ask {{c}}\n    %ask x\nasync def g():\n    r = %ask y",
            f"def f(c):\n    r = {S}('ask', '{{{{c}}}}', ns=locals(), value=True)\n"
            f"    {S}('ask', 'x', ns=locals())\nasync def g():\n"
            f"    r = {A}('ask', 'y', ns=locals(), value=True)",
        ),
        ("class C:\n    x = %ask y", f"class C:\n    x = {S}('ask', 'y', ns=locals(), value=True)"),
        ("%time x", "get_ipython().run_line_magic('time', 'x')"),
        ("%%time\n%ask x", "get_ipython().run_cell_magic('time', '', '%ask x\\n')"),
        ('s = """\n%ask is text?\n"""', 's = """\n%ask is text?\n"""'),
        ("# %ask x?\ny = 'run_line_magic(\\'ask\\''", "# %ask x?\ny = 'run_line_magic(\\'ask\\''"),
        ("%ask?", "get_ipython().run_line_magic('pinfo', '%ask')"),
        (
            "this is no python\n%ask x",
            "this is no python\nget_ipython().run_line_magic('ask', 'x')",
        ),
    ],
)
def test_a_cell_becomes(source: str, rewritten: str) -> None:
    assert cell(source).rstrip("\n") == rewritten


def test_a_cell_that_another_magic_runs_blocks() -> None:
    assert cell("%%ask weather\nhi", nested=True) == f"{S}('ask', 'weather', 'hi\\n')\n"
    assert cell("x = %ask hi", nested=True) == f"x = {S}('ask', 'hi', value=True)\n"


def test_a_tool_cell_is_python_with_its_own_line_numbers() -> None:
    source = cell(
        '%%tool --approve\ndef f(x):\n    "F."\n\n@deco\nasync def g(): ...\n'
        "def _h(): ...\nx = %ask y"
    )
    lines = source.splitlines()
    assert lines[0] == "get_ipython().mastra.tools_begin('--approve')"
    assert lines[1] == "def f(x):"
    assert lines[7] == f"x = {A}('ask', 'y', value=True)"
    assert lines[8] == "get_ipython().mastra.tools_end('--approve', ['f', 'g'])"
    compile(source, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert "def f(:" in cell("%%tool\ndef f(:\n    pass"), "Python says what is wrong with it"


def test_a_running_cell_is_on_the_stack() -> None:
    def run_code() -> bool:
        return (lambda: running_cell(run_code))()

    assert run_code()
    assert not running_cell(run_code)
