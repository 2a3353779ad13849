"""The outline of an imperative workflow, read from the source of its body before it runs."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from mastra_nb import _functions

Node = dict[str, Any]

_LONGEST = 60
_KINDS = ("agent", "step", "tool", "workflow", "map")
# What these do to what they belong to is its call.
_CALLS = ("run", "generate", "stream", "start")
_BESIDE = ("gather", "TaskGroup", "create_task", "ensure_future", "wait_for", "shield", "wait")
_ONE_TASK = ("create_task", "ensure_future", "wait_for", "shield")


def outline(fn: Callable[..., Any]) -> dict[str, Any]:
    """The calls in the body of `fn` that will be steps, as they stand in its source; without a
    source no nodes. A step that stands there twice is marked "again".
    """
    names: dict[str, Any] = dict(getattr(fn, "__globals__", {}))
    try:
        names |= inspect.getclosurevars(fn).nonlocals
    except (TypeError, ValueError):
        pass
    body = _functions.body(fn)
    return {"name": getattr(fn, "__name__", ""), "nodes": nodes(body, names), "dashed": True}


def nodes(body: Iterable[ast.stmt], names: Mapping[str, Any]) -> list[Node]:
    reader = _Reader(names)
    return reader.block(body)


class _Reader:
    def __init__(self, names: Mapping[str, Any]) -> None:
        self._names = names
        self._seen: set[str] = set()

    def block(self, body: Iterable[ast.stmt]) -> list[Node]:
        return [node for stmt in body for node in self._statement(stmt)]

    def _statement(self, stmt: ast.stmt) -> Iterator[Node]:
        if isinstance(stmt, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            return
        if isinstance(stmt, ast.If):
            yield from self._branch(stmt)
        elif isinstance(stmt, ast.For | ast.AsyncFor):
            yield from self._expression(stmt.iter)
            text = f"{ast.unparse(stmt.target)} in {ast.unparse(stmt.iter)}"
            yield from self._loop("for", text, self.block(stmt.body))
            yield from self.block(stmt.orelse)
        elif isinstance(stmt, ast.While):
            inner = [*self._expression(stmt.test), *self.block(stmt.body)]
            yield from self._loop("while", ast.unparse(stmt.test), inner)
            yield from self.block(stmt.orelse)
        elif isinstance(stmt, ast.Try | ast.TryStar):
            for part in (stmt.body, *(h.body for h in stmt.handlers), stmt.orelse, stmt.finalbody):
                yield from self.block(part)
        elif isinstance(stmt, ast.With | ast.AsyncWith):
            for item in stmt.items:
                yield from self._expression(item.context_expr)
            inner = self.block(stmt.body)
            beside = any(self._beside(i.context_expr) == "TaskGroup" for i in stmt.items)
            yield from _parallel([[n] for n in inner]) if beside else inner
        elif isinstance(stmt, ast.Match):
            yield from self._expression(stmt.subject)
            subject = ast.unparse(stmt.subject)
            arms = [
                (f"{subject} is {ast.unparse(case.pattern)}", self.block(case.body))
                for case in stmt.cases
            ]
            yield from _branch(arms)
        else:
            for child in ast.iter_child_nodes(stmt):
                if isinstance(child, ast.expr):
                    yield from self._expression(child)

    def _branch(self, stmt: ast.If) -> Iterator[Node]:
        yield from self._expression(stmt.test)
        arms = [(ast.unparse(stmt.test), self.block(stmt.body))]
        rest = stmt.orelse
        while len(rest) == 1 and isinstance(rest[0], ast.If):
            arms.append((ast.unparse(rest[0].test), self.block(rest[0].body)))
            rest = rest[0].orelse
        if rest:
            arms.append(("otherwise", self.block(rest)))
        yield from _branch(arms)

    def _loop(self, how: str, text: str, inner: list[Node]) -> Iterator[Node]:
        if inner:
            id = f"loop:{_first(inner)}"
            yield {"type": "loop", "id": id, "how": how, "when": _short(text), "nodes": inner}

    def _expression(self, expr: ast.expr, *, awaited: bool = False) -> Iterator[Node]:
        """The calls in it, in the order in which they are made."""
        if isinstance(expr, ast.Await):
            yield from self._expression(expr.value, awaited=True)
        elif isinstance(expr, ast.Call):
            yield from self._call(expr, awaited)
        elif isinstance(expr, ast.Lambda):
            return
        elif isinstance(expr, ast.IfExp):
            yield from self._expression(expr.test)
            arms = [
                (ast.unparse(expr.test), [*self._expression(expr.body)]),
                ("otherwise", [*self._expression(expr.orelse)]),
            ]
            yield from _branch(arms)
        elif isinstance(expr, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
            first = expr.generators[0]
            yield from self._expression(first.iter)
            made = [expr.key, expr.value] if isinstance(expr, ast.DictComp) else [expr.elt]
            inner = [node for part in made for node in self._expression(part, awaited=awaited)]
            text = f"{ast.unparse(first.target)} in {ast.unparse(first.iter)}"
            yield from self._loop("for", text, inner)
        else:
            for child in ast.iter_child_nodes(expr):
                if isinstance(child, ast.expr):
                    yield from self._expression(child)

    def _call(self, call: ast.Call, awaited: bool) -> Iterator[Node]:
        beside = self._beside(call)
        if beside is not None:
            given = [a.value if isinstance(a, ast.Starred) else a for a in call.args]
            arms = [[*self._expression(arg, awaited=True)] for arg in given]
            arms = [arm for arm in arms if arm]
            if beside in _ONE_TASK or len(arms) == 1:
                yield from (node for arm in arms for node in arm)
            else:
                yield from _parallel(arms)
            return
        for arg in (*call.args, *(k.value for k in call.keywords)):
            yield from self._expression(arg.value if isinstance(arg, ast.Starred) else arg)
        yield from self._node(call, awaited)

    def _beside(self, expr: ast.expr) -> str | None:
        """The name in asyncio of what lets its arguments run beside each other."""
        func = expr.func if isinstance(expr, ast.Call) else None
        name = func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
        return name if name in _BESIDE else None

    def _node(self, call: ast.Call, awaited: bool) -> Iterator[Node]:
        func = call.func
        target = self._found(func)
        if target is None and isinstance(func, ast.Attribute) and func.attr in _CALLS:
            target = self._found(func.value)
        elif getattr(target, "kind", None) == "tool":
            return  # called plainly it is the function that it was
        kind = getattr(target, "kind", None)
        name = getattr(target, "__name__", "")
        if getattr(target, "__module__", "") == "mastra_nb.bodies":
            if name == "suspend":
                yield self._once({"type": "ask", "id": _named(call) or "suspend"})
            elif name == "sleep":
                length = ast.unparse(call.args[0]) if call.args else ""
                yield self._once({"type": "sleep", "id": "sleep", "label": _short(length)})
        elif isinstance(kind, str) and kind in _KINDS and hasattr(target, "invoke"):
            yield self._once(self._known(target, kind))
        elif kind in _KINDS and hasattr(target, "called"):
            yield self._once(self._known(target, str(kind)))
        elif target is None and awaited and isinstance(func, ast.Name):
            yield self._once({"type": "call", "id": func.id})

    def _known(self, target: Any, kind: str) -> Node:
        node: Node = {"type": kind, "id": str(target.name)}
        if about := str(getattr(target, "description", "") or "").split("\n", 1)[0]:
            node["about"] = about[:200]
        inner = getattr(target, "outline", None)
        if kind == "workflow" and isinstance(inner, Mapping):
            node["nodes"] = inner["nodes"]
        return node

    def _once(self, node: Node) -> Node:
        if node["id"] in self._seen:
            return {**node, "again": True}
        self._seen.add(node["id"])
        return node

    def _found(self, expr: ast.expr) -> Any:
        if isinstance(expr, ast.Name):
            return self._names.get(expr.id)
        if isinstance(expr, ast.Attribute) and isinstance(expr.value, ast.Name):
            owner = self._names.get(expr.value.id)
            # Of modules only: what an object computes is not asked for.
            return getattr(owner, expr.attr, None) if inspect.ismodule(owner) else None
        return None


def _parallel(arms: list[list[Node]]) -> Iterator[Node]:
    if len(arms) == 1:
        yield from arms[0]
    elif arms:
        yield {"type": "parallel", "id": f"parallel:{_first(arms[0])}", "arms": arms}


def _branch(arms: list[tuple[str, list[Node]]]) -> Iterator[Node]:
    if any(inner for _, inner in arms):
        first = next(_first(inner) for _, inner in arms if inner)
        shown = [{"when": _short(text), "nodes": inner} for text, inner in arms]
        yield {"type": "branch", "id": f"branch:{first}", "arms": shown, "exclusive": True}


def _first(inner: list[Node]) -> str:
    return str(inner[0]["id"])


def _named(call: ast.Call) -> str:
    for keyword in call.keywords:
        if keyword.arg == "name" and isinstance(keyword.value, ast.Constant):
            return str(keyword.value.value)
    return ""


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
