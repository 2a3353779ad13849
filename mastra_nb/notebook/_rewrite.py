"""Source of a cell, after IPython's own transformation: our magics become calls of the host.

IPython does not await coroutine magics. At the top level of a cell (and in an `async def`)
`%ask …` becomes `await get_ipython().mastra.arun('ask', …)`; inside a `def`, a class, a
generator expression, or a cell that another magic runs, it becomes the blocking
`get_ipython().mastra.run('ask', …)`. A cell that is not Python is left to IPython.
"""

from __future__ import annotations

import ast
import io
import itertools
import re
import sys
import tokenize
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

ASYNC = frozenset({"ask", "resume", "mastra"})
_MARK = ("run_cell_magic('", "run_line_magic('")
_SYNC_SCOPES = (ast.FunctionDef, ast.Lambda, ast.ClassDef)
_PYTHON_CELLS = ("capture", "prun", "time", "timeit")
_COMPREHENSIONS = (ast.GeneratorExp, ast.ListComp, ast.SetComp, ast.DictComp)


def rewrite(lines: list[str], *, nested: bool, transform: Callable[[str], str]) -> list[str]:
    """`nested` is whether a cell is being run already; `transform` is IPython's transformation,
    for the Python body of `%%tool` and `%%workflow`.
    """
    if not any(mark in line for line in lines for mark in _MARK):
        return lines
    source = "".join(lines)
    try:
        tree = compile(
            source, "<cell>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, True
        )
    except SyntaxError:
        return lines
    if (body := _cell(tree, "tool")) is not None:
        made = _tool_source(*body, transform=transform).splitlines(keepends=True)
        return rewrite(made, nested=nested, transform=transform)
    if (body := _cell(tree, "workflow")) is not None:
        made = _workflow_source(*body, transform=transform).splitlines(keepends=True)
        return rewrite(made, nested=nested, transform=transform)
    edits = [_edit(call, where, nested) for call, where in _calls(tree, _Place())]
    if not edits:
        return lines
    data = source.encode()
    starts = [0, *itertools.accumulate(map(len, data.splitlines(keepends=True)))]
    for (line, column), (end_line, end_column), text in sorted(edits, reverse=True):
        a, b = starts[line - 1] + column, starts[end_line - 1] + end_column
        data = data[:a] + text.encode() + data[b:]
    return data.decode().splitlines(keepends=True)


class _Place:
    """Where in the tree a call stands."""

    def __init__(self, *, sync: bool = False, local: bool = False, bare: bool = False) -> None:
        self.sync = sync
        self.local = local
        self.bare = bare


def _calls(node: ast.AST, place: _Place) -> Iterator[tuple[ast.Call, _Place]]:
    for child in ast.iter_child_nodes(node):
        inner = _Place(sync=place.sync, local=place.local)
        if isinstance(child, _SYNC_SCOPES):
            inner.sync = inner.local = True
        elif isinstance(child, ast.AsyncFunctionDef):
            inner.sync, inner.local = False, True
        elif isinstance(child, _COMPREHENSIONS):
            inner.sync = True
        elif isinstance(child, ast.Expr):
            inner.bare = True
        if isinstance(child, ast.Call) and _our_magic(child) is not None:
            yield child, place
        else:
            yield from _calls(child, inner)


def asks(source: str, *, transform: Callable[[str], str]) -> bool:
    """Whether plain Python made of a cell holds one of our magics that are awaited, outside the
    functions that it defines; also in a cell of `%%time` and the like, which holds Python.
    """
    if not any(name in source for name in ASYNC):
        return False
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return False
    if any(not place.local for _, place in _calls(tree, _Place())):
        return True
    bodies = (_cell(tree, name) for name in _PYTHON_CELLS)
    return any(asks(transform(body[1]), transform=transform) for body in bodies if body is not None)


def _our_magic(call: ast.Call) -> str | None:
    """The name of the magic if this is `get_ipython().run_…_magic('name', …)` and it is ours."""
    func = call.func
    if (
        isinstance(func, ast.Attribute)
        and func.attr in ("run_cell_magic", "run_line_magic")
        and isinstance(func.value, ast.Call)
        and isinstance(func.value.func, ast.Name)
        and func.value.func.id == "get_ipython"
        and len(call.args) >= 2
        and not call.keywords
        and all(isinstance(a, ast.Constant) for a in call.args)
    ):
        name = call.args[0]
        assert isinstance(name, ast.Constant)
        return str(name.value) if name.value in ASYNC else None
    return None


_Edit = tuple[tuple[int, int], tuple[int, int], str]


def _edit(call: ast.Call, place: _Place, nested: bool) -> _Edit:
    texts = [repr(a.value) for a in call.args if isinstance(a, ast.Constant)]
    if place.local:
        texts.append("ns=locals()")
    if not place.bare:
        texts.append("value=True")
    sync = place.sync or nested
    method = "get_ipython().mastra.run" if sync else "await get_ipython().mastra.arun"
    assert call.end_lineno is not None
    assert call.end_col_offset is not None
    return (
        (call.lineno, call.col_offset),
        (call.end_lineno, call.end_col_offset),
        f"{method}({', '.join(texts)})",
    )


def _cell(tree: Any, name: str) -> tuple[str, str] | None:
    """(line, body) of a cell that is nothing but this magic."""
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.Expr):
        return None
    call = tree.body[0].value
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return None
    texts = [a.value for a in call.args if isinstance(a, ast.Constant)]
    if call.func.attr != "run_cell_magic" or len(texts) != 3 or texts[0] != name:
        return None
    return str(texts[1]), str(texts[2])


def _tool_source(line: str, body: str, *, transform: Callable[[str], str]) -> str:
    """The body as plain Python, so that its errors, its awaits and its line numbers are its own."""
    source = transform(body)
    if source and not source.endswith("\n"):
        source += "\n"
    return (
        f"get_ipython().mastra.tools_begin({line!r})\n"
        f"{source}"
        f"get_ipython().mastra.tools_end({line!r}, {_functions(source)!r})\n"
    )


def signature(line: str) -> tuple[str, str] | None:
    """(name, the whole signature) of the line of a `%%workflow`; None if it is none."""
    match = _SIGNATURE.fullmatch(line.strip())
    if match is None:
        return None
    text = f"{match['name']}{match['args'] or '()'}{match['type'] or ''}"
    try:
        (made,) = ast.parse(f"async def {text}: pass").body
    except (SyntaxError, ValueError):
        return None
    alone = isinstance(made, ast.AsyncFunctionDef) and isinstance(made.body[0], ast.Pass)
    return (match["name"], text) if alone else None


_SIGNATURE = re.compile(
    r"(?P<name>[^\W\d]\w*)[ \t]*(?P<args>\(.*\))?(?P<type>[ \t]*->.+)?", re.DOTALL
)


def _workflow_source(line: str, body: str, *, transform: Callable[[str], str]) -> str:
    """The body as an async function whose line n is line n of the cell."""
    found, source = signature(line), transform(body)
    if found is None or not _has_code(source):
        return f"get_ipython().mastra.workflow_begin({line!r}, {body!r})\n"
    name, text = found
    inside = _inside_texts(source)
    lines = [
        each if n in inside or not each.strip() else f"    {each}"
        for n, each in enumerate(source.splitlines(keepends=True), 1)
    ]
    end = "" if source.endswith("\n") else "\n"
    return (
        f"async def {text}:\n{''.join(lines)}{end}"
        f"{name} = get_ipython().mastra.workflow_end({line!r}, {name})\n"
    )


def _has_code(source: str) -> bool:
    return any(s.strip() and not s.lstrip().startswith("#") for s in source.splitlines())


def _inside_texts(source: str) -> set[int]:
    """Numbers of the lines that begin inside a text of several lines: indented it were another."""
    inside: set[int] = set()
    start = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            kind = tokenize.tok_name[token.type]
            if kind == "STRING":
                inside.update(range(token.start[0] + 1, token.end[0] + 1))
            elif kind == "FSTRING_START":
                start = start or token.start[0]
            elif kind == "FSTRING_END":
                inside.update(range(start + 1, token.end[0] + 1))
                start = 0
    except (tokenize.TokenError, SyntaxError):
        pass  # Python will say what is wrong, and where
    return inside


def _functions(source: str) -> list[str]:
    """Public functions at the top level; none if it is not Python, which IPython will say."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    defs = (n for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return list(dict.fromkeys(n.name for n in defs if not n.name.startswith("_")))


def running_cell(run_code: Callable[..., Any]) -> bool:
    """Whether the caller was called by code of a cell: `run_code` is on the stack."""
    code = getattr(run_code, "__func__", run_code).__code__
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back
    return False


_QUESTION = re.compile(r"%(ask|agent|resume|mastra)[ \t]+[^\s?]")


def question_transformer() -> type[Any]:
    """A token transformer that sees our line magics before IPython's own `name?` help does:
    a question may end in a question mark. `%ask?` is still help.
    """
    from IPython.core import inputtransformer2

    it: Any = inputtransformer2

    class Question(it.TokenTransformBase):  # type: ignore[misc]
        priority = 0

        def __init__(self, start: tuple[int, int], column: int) -> None:
            super().__init__(start)
            self.column = column

        @classmethod
        def find(cls, tokens_by_line: Any) -> Any:
            for line in tokens_by_line:
                first = next((t for t in line if t.type not in _INDENTS), None)
                if first is None:
                    continue
                percent = first if first.string == "%" else _assigned(line)
                if percent is None or percent.start[0] != first.start[0]:
                    continue
                if _QUESTION.match(percent.line, percent.start[1]):
                    return cls(first.start, percent.start[1])
            return None

        def transform(self, lines: list[str]) -> list[str]:
            end = it.find_end_of_continued_line(lines, self.start_line)
            text = it.assemble_continued_line(lines, (self.start_line, self.column), end)
            name, _, args = text[1:].partition(" ")
            call = f"get_ipython().run_line_magic({name!r}, {args!r})\n"
            head = lines[self.start_line][: self.column]
            return [*lines[: self.start_line], head + call, *lines[end + 1 :]]

    return Question


_INDENTS = {tokenize.INDENT, tokenize.DEDENT}


def _assigned(line: Any) -> Any:
    """The `%` of `name = %magic …`."""
    depth = 0
    for token, following in itertools.pairwise(line):
        if token.string in ("(", "[", "{"):
            depth += 1
        elif token.string in (")", "]", "}"):
            depth -= 1
        elif token.string == "=" and depth == 0:
            return following if following.string == "%" else None
    return None
