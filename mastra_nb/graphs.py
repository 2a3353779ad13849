"""A workflow's outline: how far each node is, and the outline as Mermaid and as a tree of text.

The outline is JSON, kept in the run's log as a Custom event named "graph" on the workflow's span::

    {"name", "nodes": [node, ...], "dashed"?: true}
    {"type": "step" | "agent" | "tool" | "map" | "call" | "sleep" | "event" | "ask",
     "id", "label"?, "about"?, "when"?}
    {"type": "workflow" | "loop" | "foreach" | "graph", "id", "nodes": [node, ...]}
    {"type": "parallel", "id", "arms": [[node, ...], ...]}
    {"type": "branch", "id", "arms": [{"when", "nodes": [node, ...]}, ...], "exclusive"?: true}

It may come from a log that others wrote, so nothing in it is taken for granted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from mastra_nb._escape import valid
from mastra_nb._graph_svg import after, condition, depths
from mastra_nb._graph_svg import arms_of as arms
from mastra_nb._graph_svg import nodes_of as _list
from mastra_nb._graph_svg import svg as svg
from mastra_nb._svg import SIGNS, State, Status, duration
from mastra_nb.events import Custom, Span, View

Outline = dict[str, Any]
Node = dict[str, Any]
States = Mapping[str, State]

EVENT = "graph"
MAX_NODES = 150
_DECISIONS = ("branch", "while", "until", "when")


def outlines(view: View) -> dict[str, Outline]:
    """The newest outline of each workflow that has one in the log, by the path of its span."""
    return {
        span: payload.value
        for span, payload in view.items
        if isinstance(payload, Custom) and payload.name == EVENT and isinstance(payload.value, dict)
    }


def outline_of(view: View, path: str, known: Mapping[str, Outline] | None = None) -> Outline | None:
    """The outline of the workflow at `path`, fit to be shown. One that was read from a source gets
    a node for each call that the source did not show, and the nodes of the workflows it called.
    """
    known = outlines(view) if known is None else known
    if path not in known:
        return None
    return tidied(_completed(known[path], view, path, known))


def tidied(found: Outline) -> Outline:
    """`found` with what a picture needs, its texts and the number of its nodes bounded."""
    left = [MAX_NODES]
    out: Outline = {"name": _text(found.get("name", "workflow"))}
    out["nodes"] = _tidied(_list(found.get("nodes")), left)
    if left[0] < 0:
        out["nodes"].append({"type": "step", "id": f"… {-left[0]} more"})
    return out | {"dashed": True} if found.get("dashed") else out


def _completed(outline: Outline, view: View, path: str, known: Mapping[str, Outline]) -> Outline:
    span = view.spans.get(path)
    if not outline.get("dashed") or span is None:
        return outline
    drawn = {str(node.get("id")) for node in _all(outline.get("nodes"))}
    new: dict[str, Node] = {}
    inner: dict[str, list[Node]] = {}
    for child in span.children:
        called = view.spans[child]
        name = node_of(child, path)
        if called.kind == "value":
            continue
        if name not in drawn and name not in new:
            kind = _KINDS.get(called.kind, called.kind)
            new[name] = {"type": kind if kind in _LEAVES else "call", "id": name}
        if child in known and name not in inner:
            inner[name] = _list(_completed(known[child], view, child, known).get("nodes"))
    nodes = [*_list(outline.get("nodes")), *new.values()]
    return outline | {"nodes": _opened(nodes, inner) if inner else nodes}


def _opened(nodes: list[Node], inner: Mapping[str, list[Node]]) -> list[Node]:
    """`nodes` with what is in the workflows that they call."""
    out: list[Node] = []
    for node in nodes:
        if node.get("type") in ("call", "workflow") and str(node.get("id")) in inner:
            out.append(node | {"type": "workflow", "nodes": inner[str(node.get("id"))]})
        elif node.get("type") in ("parallel", "branch"):
            both = zip(node.get("arms") or (), arms(node), strict=True)
            opened = [
                arm | {"nodes": _opened(n, inner)} if isinstance(arm, dict) else _opened(n, inner)
                for arm, (_, n) in both
            ]
            out.append(node | {"arms": opened})
        elif node.get("nodes"):
            out.append(node | {"nodes": _opened(_list(node["nodes"]), inner)})
        else:
            out.append(node)
    return out


def _text(value: Any, most: int = 200) -> str:
    return _line(str(value), most)


def _tidied(nodes: list[Node], left: list[int]) -> list[Node]:
    out: list[Node] = []
    for node in nodes:
        left[0] -= 1
        if left[0] < 0:
            continue
        new: Node = {"type": _text(node.get("type", "step"), 20), "id": _text(node.get("id", ""))}
        for key in ("label", "about", "when", "how"):
            if node.get(key):
                new[key] = _text(node[key])
        if node.get("exclusive"):
            new["exclusive"] = True
        if isinstance(node.get("concurrency"), int):
            new["concurrency"] = node["concurrency"]
        if "arms" in node and node.get("type") == "branch":
            new["arms"] = [
                {"when": _text(when), "nodes": _tidied(inner, left)} for when, inner in arms(node)
            ]
        elif "arms" in node:
            new["arms"] = [_tidied(inner, left) for _, inner in arms(node)]
        if "nodes" in node:
            new["nodes"] = _tidied(_list(node["nodes"]), left)
        if node.get("type") == "graph":
            new["edges"] = [[_text(a), _text(b)] for b, each in after(node).items() for a in each]
        out.append(new)
    return out


_KINDS = {"timer": "sleep", "workflow": "call"}
_LEAVES = ("step", "agent", "tool", "map", "call", "sleep", "event", "ask")


def _inner(node: Node) -> list[Node]:
    """Nodes inside a container whose spans are children of the same workflow's span."""
    if node.get("type") in ("parallel", "branch"):
        return [n for _, nodes in arms(node) for n in nodes]
    return _list(node.get("nodes")) if node.get("type") != "workflow" else []


def _all(nodes: Any) -> Iterator[Node]:
    for node in _list(nodes):
        yield node
        yield from _all(_inner(node))


def node_of(path: str, parent: str) -> str:
    """Id of the node that the span at `path` belongs to."""
    name = path[len(parent) + 1 :]
    if (at := name.find("[")) >= 0:
        name = name[:at]
    return name if (at := name.find("#")) < 0 else name[:at]


def waited(view: View) -> set[str]:
    """Calls that waited for an answer, and what they are in: that they began anew is no retry."""
    out: set[str] = set()
    for path in view.answers:
        while path and path not in out:
            out.add(path)
            path = path[: max(path.rfind("/"), path.rfind("~"), 0)]
    return out


# --- states -------------------------------------------------------------------------------------


def states(outline: Outline, view: View, path: str) -> dict[str, State]:
    """State of every node of the outline, by its id, inside nested workflows `"C/X"`.

    Costs one look at each child of the workflow's span.
    """
    span = view.spans.get(path)
    out: dict[str, State] = {}
    _states(_list(outline.get("nodes")), view, [span] if span is not None else [], "", out)
    return out


class _Calls:
    """What the spans of one node add up to."""

    __slots__ = ("attempts", "counts", "end", "error", "first", "seconds", "spans")

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.counts: dict[str, int] = {}
        self.attempts, self.seconds, self.error = 1, 0.0, ""
        self.first: float | None = None
        self.end: float | None = None

    def add(self, span: Span, waited: bool) -> None:
        self.spans.append(span)
        self.counts[span.status] = self.counts.get(span.status, 0) + 1
        if span.attempt > self.attempts and not waited:
            self.attempts = span.attempt
        if self.first is None or span.started < self.first:
            self.first = span.started
        if span.ended is not None:
            self.seconds += max(0.0, span.ended - span.started)
            if self.end is None or span.ended > self.end:
                self.end = span.ended
        if span.error is not None and not self.error:
            self.error = span.error.message

    @property
    def status(self) -> Status:
        for status in _LOUDEST:
            if self.counts.get(status):
                return status
        return "waiting"


_LOUDEST: tuple[Status, ...] = ("running", "suspended", "error", "cancelled", "ok")


def _states(
    nodes: list[Node], view: View, parents: list[Span], prefix: str, out: dict[str, State]
) -> None:
    calls: dict[str, _Calls] = {}
    anew = waited(view)
    decided: dict[str, list[Any]] = {}
    for parent in parents:
        for path in parent.children:
            span = view.spans[path]
            name = node_of(path, parent.path)
            if span.kind == "value":
                decided.setdefault(name, []).append(span.output)
                continue
            if (found := calls.get(name)) is None:
                found = calls[name] = _Calls()
            found.add(span, path in anew)
    over = bool(parents) and all(p.status == "ok" for p in parents)
    reader = _Reader(view, parents, calls, decided, over, prefix, out)
    reader.walk(nodes, skipped=False, many="")


class _Reader:
    def __init__(
        self,
        view: View,
        parents: list[Span],
        calls: dict[str, _Calls],
        decided: dict[str, list[Any]],
        over: bool,
        prefix: str,
        out: dict[str, State],
    ) -> None:
        self.view, self.parents, self.calls, self.decided = view, parents, calls, decided
        self.over, self.prefix, self.out = over, prefix, out

    def walk(self, nodes: list[Node], *, skipped: bool, many: str) -> None:
        before: Node | None = None
        for node in nodes:
            kind, name = node.get("type"), str(node.get("id", ""))
            if kind in ("parallel", "branch"):
                taken = self._taken(name) if kind == "branch" else None
                for index, (_, inner) in enumerate(arms(node)):
                    missed = taken is not None and index not in taken
                    self.walk(inner, skipped=skipped or missed, many=many)
            elif kind in ("loop", "foreach"):
                total = self._items(before, first=node is nodes[0]) if kind == "foreach" else 0
                self.walk(_list(node.get("nodes")), skipped=skipped, many=str(kind))
                self._total(_list(node.get("nodes")), total)
            elif kind == "graph":
                self.walk(_list(node.get("nodes")), skipped=skipped, many=many)
            else:
                self._leaf(node, name, skipped, many)
            before = node

    def _taken(self, name: str) -> set[int] | None:
        """Indices of the arms that ran; None while nothing is decided."""
        lists = [given for given in self.decided.get(name, ()) if isinstance(given, list)]
        return {i for given in lists for i in given if isinstance(i, int)} if lists else None

    def _leaf(self, node: Node, name: str, skipped: bool, many: str) -> None:
        found = self.calls.get(name)
        if found is None:
            when = self.decided.get(f"when:{name}", ())
            missed = bool(when) and all(given is False for given in when)
            status: Status = "skipped" if skipped or missed or self.over else "waiting"
            self.out[self.prefix + name] = State(status=status)
        else:
            self.out[self.prefix + name] = _state(found, many)
        if node.get("type") == "workflow":
            inner = found.spans if found is not None else []
            _states(_list(node.get("nodes")), self.view, inner, f"{self.prefix}{name}/", self.out)
            if not inner and self.out[self.prefix + name].status == "skipped":
                for key in [k for k in self.out if k.startswith(f"{self.prefix}{name}/")]:
                    self.out[key] = State(status="skipped")

    def _items(self, before: Node | None, *, first: bool) -> int:
        """How many items a foreach has, where the value before it is in the log."""
        if len(self.parents) != 1:
            return 0
        value: Any = None
        if first and before is None:
            value = self.parents[0].input
        elif before is not None and (found := self.calls.get(str(before.get("id", "")))):
            value = found.spans[-1].output if len(found.spans) == 1 else None
        return len(value) if isinstance(value, list) else 0

    def _total(self, nodes: list[Node], total: int) -> None:
        key = self.prefix + str(nodes[0].get("id", "")) if nodes else ""
        state = self.out.get(key)
        if state is None or total <= state.total:
            return
        so_far = state.done + state.running + state.failed + state.waiting
        if so_far < total and any(p.status == "running" for p in self.parents):
            state = msgspec.structs.replace(state, status="running", seconds=None)
        self.out[key] = msgspec.structs.replace(state, total=total)


def _state(calls: _Calls, many: str) -> State:
    counts, status = calls.counts, calls.status
    side_by_side = many == "foreach" and calls.first is not None and calls.end is not None
    ended = calls.end is not None and status not in ("running", "suspended")
    seconds: float | None = None
    if ended:
        wall = (calls.end or 0.0) - (calls.first or 0.0)
        seconds = round(max(0.0, wall) if side_by_side else calls.seconds, 3)
    several = bool(many) or len(calls.spans) > 1
    return State(
        status=status,
        seconds=seconds,
        attempts=calls.attempts,
        done=counts.get("ok", 0) if several else 0,
        running=counts.get("running", 0) if several else 0,
        failed=counts.get("error", 0) + counts.get("cancelled", 0) if several else 0,
        waiting=counts.get("suspended", 0) if several else 0,
        total=len(calls.spans) if several else 0,
        error=valid(calls.error)[:500],
    )


def read_states(raw: Any) -> dict[str, State]:
    """States of a record, which may have been written by another version."""
    out: dict[str, State] = {}
    for key, value in raw.items() if isinstance(raw, dict) else ():
        try:
            out[str(key)] = msgspec.convert(value, State)
        except msgspec.ValidationError:
            out[str(key)] = State()
    return out


def running(states: States) -> list[str]:
    """Ids of the nodes that run now; of a nested workflow the ones in it."""
    names = [name for name, state in states.items() if state.status == "running"]
    return [n for n in names if not any(other.startswith(n + "/") for other in names)]


# --- words --------------------------------------------------------------------------------------


def title(node: Node) -> str:
    """A node in a few words: what it is called, and what is special about it."""
    kind, name = node.get("type"), str(node.get("id", ""))
    label = str(node.get("label") or "")
    if kind == "sleep":
        return f"sleep {label}".rstrip() if label else name
    if kind == "loop":
        return f"{node.get('how', 'loop')} {node.get('when', '')}".strip()
    if kind == "foreach":
        return f"foreach, {node.get('concurrency', 1)} at a time"
    if kind == "parallel":
        return f"parallel, the first {node['wait']}" if node.get("wait") else "parallel"
    if kind == "branch":
        return "first that is true" if node.get("exclusive") else "branch"
    return f"{name}: {label}" if label and label != name else name


def _said(state: State | None) -> str:
    if state is None:
        return ""
    parts = [SIGNS[state.status]]
    if state.many:
        parts.append(state.counts)
    if state.seconds is not None:
        parts.append(duration(state.seconds))
    if state.attempts > 1:
        parts.append(f"{state.attempts} attempts")
    return " ".join(parts)


def text(outline: Outline, states: States | None = None) -> str:
    """The outline as a tree of text, a line a node."""
    lines = [_line(str(outline.get("name", "workflow")))]
    lines += _tree(_list(outline.get("nodes")), "", "", states or {})
    return "\n".join(lines)


_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def _line(text: str, most: int = 160) -> str:
    line = _CONTROLS.sub(" ", valid(text))
    return line if len(line) <= most else line[: most - 1] + "…"


def _tree(nodes: list[Node], pad: str, prefix: str, states: States) -> Iterator[str]:
    for n, node in enumerate(nodes):
        last = n == len(nodes) - 1
        yield from _branch_of_tree(node, pad, last, prefix, states)


def _branch_of_tree(node: Node, pad: str, last: bool, prefix: str, states: States) -> Iterator[str]:
    kind, name = node.get("type"), str(node.get("id", ""))
    corner, below = ("└─ ", "   ") if last else ("├─ ", "│  ")
    when = f" (when {node['when']})" if node.get("when") and kind != "loop" else ""
    said = _said(states.get(prefix + name)) if kind in (*_LEAVES, "workflow") else ""
    mark = f"{said}  " if said else ""
    state = states.get(prefix + name) if kind in _LEAVES else None
    why = f": {state.error}" if state is not None and state.error else ""
    yield pad + corner + _line(f"{mark}{title(node)}{when}{why}")
    pad += below
    if kind in ("parallel", "branch"):
        parts = arms(node)
        for n, (cond, nodes) in enumerate(parts):
            end = n == len(parts) - 1
            if kind == "parallel" and len(nodes) == 1:
                yield from _branch_of_tree(nodes[0], pad, end, prefix, states)
            else:
                yield (pad + ("└─ " if end else "├─ ") + _line(condition(cond) or f"arm {n + 1}"))
                yield from _tree(nodes, pad + ("   " if end else "│  "), prefix, states)
    elif kind == "graph":
        before = after(node)
        inside = _list(node.get("nodes"))
        for n, inner in enumerate(inside):
            first, *rest = _branch_of_tree(inner, pad, n == len(inside) - 1, prefix, states)
            needs = ", ".join(before[str(inner.get("id", ""))])
            yield first + (_line(f" ← {needs}") if needs else "")
            yield from rest
    else:
        within = f"{prefix}{name}/" if kind == "workflow" else prefix
        yield from _tree(_list(node.get("nodes")), pad, within, states)


# --- Mermaid ------------------------------------------------------------------------------------

_SHAPES = {
    "agent": ("([", "])"), "tool": ("[[", "]]"), "map": ("[/", "/]"), "sleep": ("((", "))"),
    "event": ("{{", "}}"), "ask": ("{{", "}}"),
}  # fmt: skip
# Letters, digits and a few signs stay; the rest is an entity code, which Mermaid reads back.
_PLAIN = re.compile(r"[^\w .,+*/=-]|//|\b(?:end|click|href|img|icon|link|style|class)\b")


def mermaid(outline: Outline, states: States | None = None) -> str:
    """The outline as a Mermaid flowchart."""
    return _Mermaid(states or {}).draw(outline)


class _Mermaid:
    def __init__(self, states: States) -> None:
        self.states = states
        self.lines = ["flowchart TD"]
        self.count = 0
        self.drawn: list[str] = []  # nodes that are no group: an edge into one's own group fails
        self.classes: dict[str, list[str]] = {}

    def draw(self, outline: Outline) -> str:
        self._chain(_list(outline.get("nodes")), [], "", "  ")
        for status, ids in self.classes.items():
            fill, border = _CLASSES[status]
            self.lines.append(f"  classDef {status} fill:{fill},stroke:{border},color:#1f2328")
            self.lines.append(f"  class {','.join(ids)} {status}")
        return "\n".join(self.lines)

    def _new(self) -> str:
        self.count += 1
        return f"n{self.count}"

    def _chain(
        self, nodes: list[Node], tails: list[tuple[str, str]], prefix: str, pad: str
    ) -> list[tuple[str, str]]:
        for node in nodes:
            tails = self._node(node, tails, prefix, pad)
        return tails

    def _link(self, tails: Iterable[tuple[str, str]], to: str, pad: str) -> None:
        for source, label in tails:
            said = f'|"{_label(label)}"|' if label else ""
            self.lines.append(f"{pad}{source} -->{said} {to}")

    def _node(
        self, node: Node, tails: list[tuple[str, str]], prefix: str, pad: str
    ) -> list[tuple[str, str]]:
        kind, name = node.get("type"), str(node.get("id", ""))
        if kind == "parallel":
            fork = self._new()
            self.drawn.append(fork)
            self.lines.append(f"{pad}{fork}((+))")
            self._link(tails, fork, pad)
            return [t for _, arm in arms(node) for t in self._chain(arm, [(fork, "")], prefix, pad)]
        if kind == "branch":
            fork = self._new()
            self.drawn.append(fork)
            self.lines.append(f"{pad}{fork}{{{'x' if node.get('exclusive') else '?'}}}")
            self._link(tails, fork, pad)
            return [t for w, arm in arms(node) for t in self._chain(arm, [(fork, w)], prefix, pad)]
        if kind == "graph":
            return self._graph(node, tails, prefix, pad)
        if kind in ("workflow", "loop", "foreach"):
            return self._group(node, tails, prefix, pad)
        own = self._new()
        self.drawn.append(own)
        left, right = _SHAPES.get(str(kind), ("[", "]"))
        state = self.states.get(prefix + name)
        when = f" when {node['when']}" if node.get("when") else ""
        said = f" {_said(state)}" if state is not None else ""
        self.lines.append(f'{pad}{own}{left}"{_label(title(node) + when + said)}"{right}')
        if state is not None and state.status in _CLASSES:
            self.classes.setdefault(state.status, []).append(own)
        self._link(tails, own, pad)
        return [(own, "")]

    def _group(
        self, node: Node, tails: list[tuple[str, str]], prefix: str, pad: str
    ) -> list[tuple[str, str]]:
        kind, name = node.get("type"), str(node.get("id", ""))
        own = self._new()
        state = self.states.get(prefix + name) if kind == "workflow" else None
        said = f" {_said(state)}" if state is not None else ""
        head = f'{pad}subgraph {own}["{_label(title(node) + said)}"]'
        self.lines.append(head)
        before = len(self.drawn)
        inside = f"{prefix}{name}/" if kind == "workflow" else prefix
        ends = self._chain(_list(node.get("nodes")), [], inside, pad + "  ")
        self.lines.append(f"{pad}end")
        first = self.drawn[before] if len(self.drawn) > before else own
        ends = ends or [(first, "")]
        self._link(tails, first, pad)
        if kind == "loop":
            self._link([(end, "again") for end, _ in ends], first, pad)
        return ends

    def _graph(
        self, node: Node, tails: list[tuple[str, str]], prefix: str, pad: str
    ) -> list[tuple[str, str]]:
        before = after(node)
        depth = depths(before)
        ends: dict[str, list[tuple[str, str]]] = {}
        inside = {str(n.get("id", "")): n for n in _list(node.get("nodes"))}
        for name, inner in sorted(inside.items(), key=lambda item: depth[item[0]]):
            known = [b for b in before[name] if b in ends]
            from_ = [t for b in known for t in ends[b]] if known else tails
            ends[name] = self._node(inner, from_, prefix, pad)
        used = {b for names in before.values() for b in names}
        return [t for name, tail in ends.items() if name not in used for t in tail]


_CLASSES: dict[str, tuple[str, str]] = {
    "running": ("#ddf4ff", "#0969da"), "ok": ("#e3f8e7", "#1a7f37"),
    "error": ("#ffebe9", "#cf222e"), "suspended": ("#fff3c4", "#9a6700"),
    "cancelled": ("#eaeef2", "#57606a"), "skipped": ("#f6f8fa", "#848d97"),
}  # fmt: skip


def _label(text: str) -> str:
    return _PLAIN.sub(lambda m: "".join(f"#{ord(c)};" for c in m[0]), _line(text, 120))
