from __future__ import annotations

import ast
import asyncio
from typing import Any

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from mastra_nb.notebook._rewrite import question_transformer, rewrite, running_cell, signature

manager = TransformerManager()
manager.token_transformers.insert(0, question_transformer())


def cell(source: str, *, nested: bool = False) -> str:
    lines = manager.transform_cell(source).splitlines(keepends=True)
    return "".join(rewrite(lines, nested=nested, transform=manager.transform_cell))


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


# %%workflow


def body_of(source: str) -> str:
    """What a %%workflow of `name(x)` becomes, with the source as its body."""
    return cell(f"%%workflow name(x)\n{source}")


@pytest.mark.parametrize(
    ("line", "name", "text"),
    [
        ("f", "f", "f()"),
        ("f(a, b: int = 3) -> dict[str, int]", "f", "f(a, b: int = 3) -> dict[str, int]"),
        ("  f ( a ) ", "f", "f( a )"),
        ("f -> str", "f", "f()-> str"),
        ("été(x)", "été", "été(x)"),
        ('f(a: Literal[")"] = ")")', "f", 'f(a: Literal[")"] = ")")'),
        ("f(*, a, **more)", "f", "f(*, a, **more)"),
        ("", None, ""),
        ("3x", None, ""),
        ("f(a", None, ""),
        ("f(a) b", None, ""),
        ("f()): pass\nx = (1", None, ""),
        ("class", None, ""),
        ("-m x", None, ""),
        ("a.b()", None, ""),
        ("f() -> str:", None, ""),
        ("f(): return (lambda: 1)()", None, ""),
        ("f() -> int: return 1 #", None, ""),
    ],
)
def test_the_signature_of_a_workflow(line: str, name: str | None, text: str) -> None:
    assert signature(line) == (None if name is None else (name, text))


def test_a_workflow_cell_is_a_function_with_its_own_line_numbers() -> None:
    source = cell(
        "%%workflow digest(topic: str) -> str\n"
        "a = await fetch(topic)\n\n"
        "if a:\n    b = %ask writer Sum {{ a }} up?\n"
        "!ls\n"
        "return b"
    )
    lines = source.splitlines()
    assert lines[0] == "async def digest(topic: str) -> str:"
    assert lines[1] == "    a = await fetch(topic)"
    assert lines[4] == (
        f"        b = {A}('ask', 'writer Sum {{{{ a }}}} up?', ns=locals(), value=True)"
    )
    assert lines[5] == "    get_ipython().system('ls')"
    assert lines[6] == "    return b"
    assert lines[7] == (
        "digest = get_ipython().mastra.workflow_end('digest(topic: str) -> str', digest)"
    )
    compile(source, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize(
    "source",
    [
        'return """one\n  two\nthree"""',
        "return '''\n\n  x\n'''",
        'a = 1\nreturn f"""{a}\n  {a +\n   1}\nend"""',
        "return 'one\\\n  two'",
        'return ("a"\n"b")',
        "return [\n1,\n  2,\n]",
        'x = {\n"a": """\nq\n""",\n}\nreturn x',
        'if x:\n\treturn """\n\tz"""',
        "return 1 + \\\n2",
        '"""What it\ndoes.\n"""\nreturn 3',
        "# a comment\n\n  # another\nreturn 1  # end",
        "return r'''\\n\n'''",
        "return '''a''' + '''\nb''' + '''\nc'''",
        "\n\nreturn 1\n\n",
        'def f():\n    return """\nx\n"""\nreturn f()',
    ],
)
def test_texts_of_a_body_stay_what_they_are(source: str) -> None:
    """What a body gives is what the same lines give as a function that was written by hand."""
    space: dict[str, Any] = {"get_ipython": lambda: Shell}
    exec(compile(body_of(source), "<cell>", "exec"), space)
    assert asyncio.run(space["name"](1)) == by_hand(source)


class Shell:
    class mastra:
        @staticmethod
        def workflow_end(line: str, fn: Any) -> Any:
            return fn


def by_hand(source: str) -> Any:
    """The value of the body's `return`, without any indentation of ours."""
    tree = ast.parse("def name(x): pass")
    (made,) = tree.body
    assert isinstance(made, ast.FunctionDef)
    made.body = ast.parse(source).body
    space: dict[str, Any] = {}
    exec(compile(ast.fix_missing_locations(tree), "<hand>", "exec"), space)
    return space["name"](1)


@pytest.mark.parametrize("source", ["", "\n", "# only this\n", "   \n# and\n"])
def test_a_workflow_without_a_body_is_answered(source: str) -> None:
    assert body_of(source).startswith("get_ipython().mastra.workflow_begin('name(x)', ")


def test_what_is_no_python_is_left_to_python() -> None:
    made = body_of("a = 1\nreturn (")
    with pytest.raises(SyntaxError) as raised:
        compile(made, "<cell>", "exec")
    assert raised.value.lineno == 3
