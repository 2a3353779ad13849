"""What the source of a function says: a short text for people, and a digest that tells whether it
has changed.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

_LONGEST = 60


def label(fn: Callable[..., Any]) -> str:
    """The name of a function, or the text of a lambda, in at most 60 characters."""
    name = str(getattr(fn, "__name__", type(fn).__name__))
    if name == "<lambda>":
        found = _lambda(fn)
        name = "a function" if found is None else ast.unparse(found.body)
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def digest(fn: Callable[..., Any]) -> str:
    """Of what the function's code does: not of its comments, its layout or where it stands.

    Of the source if there is one, so that another Python finds it unchanged; else of its bytecode.
    "" for what has neither.
    """
    fn = inspect.unwrap(fn)
    code = getattr(fn, "__code__", None)
    if not isinstance(code, CodeType):
        return ""
    tree: ast.AST | None
    if code.co_name == "<lambda>":
        tree = _lambda(fn)
    else:
        tree = next((n for n in _trees(fn) if isinstance(n, _DEFS)), None)
        if isinstance(tree, _DEFS):
            tree.decorator_list = []
            tree = _without_docstring(tree)
    raw = ast.dump(tree).encode() if tree is not None else repr(_bytecode(code)).encode()
    return hashlib.sha256(raw).hexdigest()[:12]


def body(fn: Callable[..., Any]) -> list[ast.stmt]:
    """The statements of a function; none without a source."""
    tree = next((n for n in _trees(inspect.unwrap(fn)) if isinstance(n, _DEFS)), None)
    return tree.body if isinstance(tree, _DEFS) else []


_DEFS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _without_docstring(tree: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
    if ast.get_docstring(tree, clean=False) is not None:
        tree.body = tree.body[1:]
    return tree


def _trees(fn: Callable[..., Any]) -> Iterator[ast.AST]:
    """The statement that defines the function, and what is in it; nothing without a source."""
    try:
        source = textwrap.dedent(inspect.getsource(fn))
    except (OSError, TypeError, SyntaxError, IndentationError):
        return
    # What is cut out of a chain of calls is an expression only in brackets.
    for text in (source, f"({source.strip()}\n)", f"({source.strip().lstrip('.').rstrip(',')}\n)"):
        try:
            yield from ast.walk(ast.parse(text))
        except (SyntaxError, ValueError):
            continue
        return


def _lambda(fn: Callable[..., Any]) -> ast.Lambda | None:
    """The lambda expression of a function: the one in its source that has its bytecode."""
    wanted = _bytecode(fn.__code__)
    found = [n for n in _trees(fn) if isinstance(n, ast.Lambda)]
    if len(found) == 1:
        return found[0]
    for tree in found:
        code = compile(ast.fix_missing_locations(ast.Expression(tree)), "<lambda>", "eval")
        inner = next((c for c in code.co_consts if isinstance(c, CodeType)), None)
        if inner is not None and _bytecode(inner) == wanted:
            return tree
    return None


def _bytecode(code: CodeType) -> tuple[Any, ...]:
    consts = tuple(_bytecode(c) if isinstance(c, CodeType) else c for c in code.co_consts)
    names = (code.co_names, code.co_varnames, code.co_freevars)
    return (code.co_code.hex(), consts, *names)
