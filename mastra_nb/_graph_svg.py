"""The outline of a workflow as a flow chart in SVG.

It flows as text does: from left to right, and on in the next row where a row is full; arms are
stacked. So a chain of any length stays as wide as a cell, and a node stays readable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mastra_nb._svg import (
    COLOURS,
    INK,
    LINE,
    MUTED,
    PILL,
    State,
    at,
    clip,
    duration,
    esc,
    mark,
    num,
    rect,
    sheet,
    width,
    words,
)

Node = dict[str, Any]

_WIDTH = 880.0
_GAP = 26.0  # between two nodes of a row
_FAN = 30.0  # between a fork and its arms
_ROW = 22.0  # between two rows
_ARM = 10.0  # between two arms
_HIGH, _LEAST, _MOST = 40.0, 84.0, 190.0
_PAD = 12.0

# 12 x 12, drawn with a line.
_ICONS = {
    "step": "M6 1l4.6 2.5v5L6 11 1.4 8.5v-5zM1.6 3.6 6 6l4.4-2.4M6 6v5",
    "agent": "M2 4.5h8v6H2zM6 4.5V2M4.5 7v1M7.5 7v1M6 1.2v.6",
    "tool": "M7.8 1.4a3 3 0 0 0-2.9 4L1.4 9l1.6 1.6 3.5-3.5a3 3 0 0 0 4-2.9L8.7 6 6 5.9 6 3.3z",
    "map": "M1.5 4h8.5L7.5 1.5M10.5 8H2l2.5 2.5",
    "sleep": "M6 1a5 5 0 1 0 .01 0zM6 3.2V6l2 1.4",
    "event": "M2 9h8L9 7.5V5a3 3 0 0 0-6 0v2.5zM5 10.8h2",
    "ask": "M1.5 1.8h9v6.4H6.2L3.5 10.8V8.2h-2zM4 4h4M4 6h2.5",
    "call": "M1.5 6h8M6.5 3l3 3-3 3",
    "workflow": "M1 4.5h3v3H1zM8 1.2h3v3H8zM8 7.8h3v3H8zM4 6h2V2.7h2M6 6v3.3h2",
    "loop": "M10 6.5a4 4 0 1 1-1.3-3.4M9.2.6v2.7H6.5",
    "foreach": "M1.5 4.5h6v6h-6zM4.5 4.5v-3h6v6h-3",
}
_ROUND = {"agent": 14.0, "tool": 3.0, "map": 3.0, "sleep": 20.0, "event": 20.0, "ask": 20.0}


class _Box:
    """A part: its size, the heights where the flow comes in and goes out, how it is drawn.

    `open`: the flow goes on to several nodes in it, each of which gets the head of an arrow.
    """

    __slots__ = ("draw", "h", "inp", "open", "out", "w")

    def __init__(
        self,
        w: float,
        h: float,
        inp: float,
        out: float,
        draw: Callable[[float, float], None],
        *,
        open: bool = False,
    ) -> None:
        self.w, self.h, self.inp, self.out, self.draw, self.open = w, h, inp, out, draw, open


def svg(outline: Node, states: Mapping[str, State] | None = None) -> str:
    """The outline as a picture, with the state of each node if given; at most 8 kB for 10 nodes.

    No script, no style sheet, no address, no id: inert as an image and inside a page.
    """
    return _Chart(states, bool(outline.get("dashed"))).draw(outline)


class _Chart:
    def __init__(self, states: Mapping[str, State] | None, dashed: bool) -> None:
        self.states, self.dashed = states, dashed
        self.lines: list[str] = []
        self.heads: list[str] = []
        self.back: list[str] = []
        self.parts: list[str] = []
        self.over: list[str] = []

    def draw(self, outline: Node) -> str:
        name = str(outline.get("name", "workflow"))
        nodes = nodes_of(outline.get("nodes"))
        flow = self._seq(nodes, _WIDTH, "", ends=True)
        flow.draw(4, 4)
        drawn = []
        if self.lines:
            path = "".join(self.lines)
            drawn.append(f'<path d="{path}" fill="none" stroke="{LINE}" stroke-width="1.5"/>')
        if self.heads:
            drawn.append(f'<path d="{"".join(self.heads)}" fill="{LINE}"/>')
        return sheet(flow.w + 8, flow.h + 8, name, [*self.back, *drawn, *self.parts, *self.over])

    # --- lines ----------------------------------------------------------------------------------

    def _curve(self, x: float, y: float, to_x: float, to_y: float, *, head: bool = True) -> None:
        end = to_x - 5 if head else to_x
        if abs(y - to_y) < 0.5:
            self.lines.append(f"M{num(x)} {num(y)}H{num(end)}")
        else:
            bend = num((x + end) / 2)
            self.lines.append(
                f"M{num(x)} {num(y)}C{bend} {num(y)} {bend} {num(to_y)} {num(end)} {num(to_y)}"
            )
        if head:
            self._head(to_x, to_y)

    def _head(self, x: float, y: float) -> None:
        self.heads.append(f"M{num(x)} {num(y)}l-7-3.5v7z")

    def _wrap(
        self, x: float, y: float, between: float, left: float, to_x: float, to_y: float
    ) -> None:
        """From the end of one row around to the start of the next."""
        right = x + 14
        self.lines.append(
            f"M{num(x)} {num(y)}H{num(right - 6)}q6 0 6 6V{num(between - 6)}q0 6-6 6"
            f"H{num(left + 6)}q-6 0-6 6V{num(to_y - 6)}q0 6 6 6H{num(to_x - 5)}"
        )
        self._head(to_x, to_y)

    # --- layout ---------------------------------------------------------------------------------

    def _seq(self, nodes: list[Node], most: float, prefix: str, *, ends: bool = False) -> _Box:
        boxes = [self._node(n, most - 32, prefix) for n in nodes]
        if ends:
            boxes = [self._dot(full=True), *boxes, self._dot(full=False)]
        if not boxes:
            return _Box(20, 12, 6, 6, lambda x, y: self.lines.append(f"M{num(x)} {num(y + 6)}h20"))
        rows: list[list[_Box]] = [[]]
        used = 0.0
        for box in boxes:
            # The dots stay with what they open and close.
            stays = ends and (box is boxes[-1] or rows == [[boxes[0]]])
            if rows[-1] and used + _GAP + box.w > most - 32 and not stays:
                rows.append([])
                used = 0.0
            used += (_GAP if rows[-1] else 0.0) + box.w
            rows[-1].append(box)
        several = len(rows) > 1
        left, right = (16.0, 16.0) if several else (0.0, 0.0)
        tops: list[tuple[float, float]] = []  # the line of the flow, and the bottom, of each row
        y = 0.0
        for n, row in enumerate(rows):
            above = max(b.inp for b in row)
            y += above + (_ROW if n else 0)
            below = max(b.h - b.inp for b in row)
            tops.append((y, y + below))
            y += below
        wide = max(sum(b.w for b in row) + _GAP * (len(row) - 1) for row in rows)
        total = left + wide + right

        def draw(x: float, top: float) -> None:
            end: tuple[float, float] | None = None
            for n, row in enumerate(rows):
                line, at_x = top + tops[n][0], x + left
                for k, box in enumerate(row):
                    if end is not None and k == 0:
                        between = top + tops[n - 1][1] + _ROW / 2
                        self._wrap(*end, between, x + 2, at_x, line)
                    elif end is not None:
                        self._curve(*end, at_x, line, head=not box.open)
                    elif several and not ends:
                        self._curve(x, line, at_x, line, head=False)
                    box.draw(at_x, line - box.inp)
                    end = (at_x + box.w, line - box.inp + box.out)
                    at_x += box.w + _GAP
            assert end is not None
            if end[0] < x + total - 0.5 and not ends:
                self._curve(*end, x + total, end[1], head=False)

        last = rows[-1][-1]
        return _Box(total, y, tops[0][0], tops[-1][0] - last.inp + last.out, draw)

    def _dot(self, *, full: bool) -> _Box:
        def draw(x: float, y: float) -> None:
            fill, more = (LINE, "") if full else ("none", f' stroke="{LINE}" stroke-width="2"')
            self.parts.append(
                f'<circle cx="{num(x + 6)}" cy="{num(y + 6)}" r="5" fill="{fill}"{more}/>'
            )

        return _Box(12, 12, 6, 6, draw)

    def _node(self, node: Node, most: float, prefix: str) -> _Box:
        kind = node.get("type")
        if kind in ("parallel", "branch"):
            return self._fork(node, most, prefix)
        if kind == "graph":
            return self._layers(node, most, prefix)
        inner = nodes_of(node.get("nodes"))
        if kind == "loop":
            return self._loop(node, inner, most, prefix)
        if kind == "foreach":
            if len(inner) == 1 and inner[0].get("type") != "workflow":
                return self._card(inner[0], prefix, every=node)
            return self._foreach(node, inner, most, prefix)
        if kind == "workflow":
            return self._workflow(node, inner, most, prefix)
        return self._card(node, prefix)

    def _fork(self, node: Node, most: float, prefix: str) -> _Box:
        arms = arms_of(node)
        branch = node.get("type") == "branch"
        flows = [self._seq(nodes, max(220.0, most - 2 * _FAN - 24), prefix) for _, nodes in arms]
        if not flows:
            return self._seq([], most, prefix)
        wide = max(f.w for f in flows)
        labels = [clip(condition(w), max(wide, 170), 11) for w, _ in arms]
        wide = max([wide, *(width(s, 11) + 12 for s in labels if s)])
        sign = 18.0 if branch else 0.0
        tops: list[float] = []
        y = 0.0
        for n, flow in enumerate(flows):
            y += (_ARM if n else 0) + (20.0 if labels[n] else 0.0)
            tops.append(y)
            y += flow.h
        high = y
        ins = [top + f.inp for top, f in zip(tops, flows, strict=True)]
        mid = (ins[0] + ins[-1]) / 2

        def draw(x: float, top: float) -> None:
            if branch:
                self._diamond(x, top + mid, exclusive=bool(node.get("exclusive")))
            start = x + sign + _FAN
            for n, flow in enumerate(flows):
                self._curve(x + sign, top + mid, start, top + ins[n])
                flow.draw(start, top + tops[n])
                if labels[n]:
                    full = arms[n][0]
                    self._pill(start, top + tops[n] - 18, labels[n], full)
                out = top + tops[n] + flow.out
                self._curve(start + flow.w, out, start + wide, out, head=False)
                self._curve(start + wide, out, start + wide + _FAN - 6, top + mid, head=False)

        return _Box(sign + 2 * _FAN - 6 + wide, high, mid, mid, draw, open=not branch)

    def _diamond(self, x: float, y: float, *, exclusive: bool) -> None:
        inside = "M6.5 6.5l5 5m0-5l-5 5" if exclusive else "M9 6a3 3 0 1 0 .01 0z"
        drawn = (
            f'<path d="M9 0l9 9-9 9-9-9z" fill="{PILL}" stroke="{LINE}"/>'
            f'<path d="{inside}" fill="none" stroke="{INK}" stroke-width="1.4"/>'
        )
        self.parts.append(at(x, y - 9, drawn))

    def _pill(self, x: float, y: float, label: str, full: str = "") -> float:
        w = width(label, 11) + 12
        tip = _tip([full]) if full and label.endswith("…") else ""
        drawn = rect(0, 0, w, 16, 8, PILL) + words(6, 12, label, f' font-size="11" fill="{INK}"')
        self.over.append(at(x, y, tip + drawn))
        return w

    def _frame(
        self, icon: str, title: str, full: str, state: State | None, inner: _Box, foot: float = 0.0
    ) -> _Box:
        """A rounded group with a title over what is in it."""
        label = clip(title, max(inner.w - 10, 150), 11)
        said = _said(state) if state is not None else ""
        head = 22.0 + width(label, 11) + (width(said, 11) + 22 if said else 0)
        w = max(inner.w + 2 * _PAD, head + 20)
        h = inner.h + 22 + _PAD + foot
        _, border = COLOURS[state.status] if state is not None else ("", LINE)

        def draw(x: float, y: float) -> None:
            dash = (
                ' stroke-dasharray="4 3"' if state is not None and state.status == "skipped" else ""
            )
            self.back.append(
                rect(
                    x, y + 8, w, h - 8, 10, "#808080",
                    f' fill-opacity=".09" stroke="{border}" stroke-opacity=".8"{dash}',
                )
            )  # fmt: skip
            parts = (
                [_tip([full, state.error if state is not None else ""])]
                if label != full or (state is not None and state.error)
                else []
            )
            parts += [rect(0, 0, head, 17, 8, PILL), _icon(icon, 5, 2.5)]
            parts.append(words(20, 12.5, label, ' font-size="11"'))
            if state is not None and said:
                beside = 24 + width(label, 11)
                parts.append(mark(state.status, beside, 3.5))
                parts.append(words(beside + 14, 12.5, said, f' font-size="11" fill="{MUTED}"'))
            self.over.append(at(x + 10, y, "".join(parts)))
            inner.draw(x + _PAD, y + 22)
            self._curve(x, y + 22 + inner.inp, x + _PAD, y + 22 + inner.inp, head=False)
            out = y + 22 + inner.out
            self._curve(x + _PAD + inner.w, out, x + w, out, head=False)

        return _Box(w, h, 22 + inner.inp, 22 + inner.out, draw)

    def _workflow(self, node: Node, inner: list[Node], most: float, prefix: str) -> _Box:
        name = str(node.get("id", ""))
        state = self._state(prefix + name)
        flow = self._seq(inner, most - 2 * _PAD, f"{prefix}{name}/")
        return self._frame("workflow", name, name, state, flow)

    def _foreach(self, node: Node, inner: list[Node], most: float, prefix: str) -> _Box:
        flow = self._seq(inner, most - 2 * _PAD - 8, prefix)
        label = f"for each, {node.get('concurrency', 1)} at a time"
        box = self._frame("foreach", label, label, None, flow)

        def draw(x: float, y: float) -> None:
            for shift in (6, 3):
                self.back.append(
                    rect(x + shift, y + 8 + shift, box.w, box.h - 8, 10, "none",
                         f' stroke="{LINE}" stroke-opacity=".6"')
                )  # fmt: skip
            box.draw(x, y)
            self._curve(x + box.w, y + box.out, x + box.w + 6, y + box.out, head=False)

        return _Box(box.w + 6, box.h + 6, box.inp, box.out, draw)

    def _loop(self, node: Node, inner: list[Node], most: float, prefix: str) -> _Box:
        how = str(node.get("how") or "loop")
        full = f"{how} {node.get('when', '')}".strip()
        flow = self._seq(inner, most - 2 * _PAD - 24, prefix)
        w, low = flow.w + 24, flow.h + 14

        def draw(x: float, y: float) -> None:
            flow.draw(x + 12, y)
            i, o = y + flow.inp, y + flow.out
            self._curve(x, i, x + 12, i)
            self._curve(x + 12 + flow.w, o, x + w, o, head=False)
            # Back to the start, below.
            self.lines.append(
                f"M{num(x + flow.w + 14)} {num(o)}q6 0 6 6V{num(y + low - 12)}q0 6-6 6"
                f"H{num(x + 10)}q-6 0-6-6V{num(i + 6)}q0-6 4-6"
            )
            self.heads.append(f"M{num(x + 8 + flow.w / 2)} {num(y + low - 6)}l7-3.5v7z")

        return self._frame("loop", full, full, None, _Box(w, low, flow.inp, flow.out, draw))

    def _layers(self, node: Node, most: float, prefix: str) -> _Box:
        """Nodes with edges: in layers from left to right, each node next to what it comes after."""
        nodes = {str(n.get("id", "")): n for n in nodes_of(node.get("nodes"))}
        depth = depths(after(node))
        before = {
            name: [a for a in known if depth[a] < depth[name]]
            for name, known in after(node).items()
        }
        boxes = {name: self._node(n, most, prefix) for name, n in nodes.items()}
        columns: list[list[str]] = [[] for _ in range(max(depth.values(), default=0) + 1)]
        hops: dict[tuple[str, str], list[str]] = {}
        sources: dict[str, list[str]] = {}
        for name in nodes:
            columns[depth[name]].append(name)
            sources[name] = []
            for a in before[name]:
                # An edge over several layers has a place of its own in each of them.
                chain = [f"{a}\0{name}\0{n}" for n in range(depth[a] + 1, depth[name])]
                previous = a
                for n, hop in enumerate(chain, depth[a] + 1):
                    columns[n].append(hop)
                    sources[hop] = [previous]
                    boxes[hop] = _Box(0, 10, 5, 5, lambda x, y: None)
                    previous = hop
                sources[name].append(previous)
                hops[a, name] = chain
        place: dict[str, float] = {}
        for column in columns:
            column.sort(key=lambda n: _mean([place[a] for a in sources[n]], len(place)))
            place.update((n, float(k)) for k, n in enumerate(column))
        heights = [sum(boxes[n].h for n in c) + 14 * (len(c) - 1) for c in columns]
        high = max(heights, default=0.0)
        lefts: list[float] = []
        x0 = _FAN - 8
        for column in columns:
            lefts.append(x0)
            x0 += max((boxes[n].w for n in column), default=0.0) + _FAN + 6
        wide = x0 - 14
        where: dict[str, tuple[float, float]] = {}
        for k, column in enumerate(columns):
            y = (high - heights[k]) / 2
            for name in column:
                where[name] = (lefts[k], y)
                y += boxes[name].h + 14
        ends = nodes.keys() - {a for known in before.values() for a in known}
        mid = high / 2

        def draw(x: float, top: float) -> None:
            def enter(name: str) -> tuple[float, float]:
                return x + where[name][0], top + where[name][1] + boxes[name].inp

            def leave(name: str) -> tuple[float, float]:
                box = boxes[name]
                return x + where[name][0] + box.w, top + where[name][1] + box.out

            for name in nodes:
                boxes[name].draw(x + where[name][0], top + where[name][1])
                if not before[name]:
                    self._curve(x, top + mid, *enter(name))
                for a in before[name]:
                    chain = [*hops[a, name], name]
                    at_x, at_y = leave(a)
                    for n, hop in enumerate(chain):
                        self._curve(at_x, at_y, *enter(hop), head=n == len(chain) - 1)
                        if n < len(chain) - 1:
                            across = max(boxes[o].w for o in columns[depth[a] + 1 + n])
                            hx, hy = enter(hop)
                            self._curve(hx, hy, hx + across, hy, head=False)
                            at_x, at_y = hx + across, hy
                if name in ends:
                    out = leave(name)
                    edge = x + lefts[-1] + max(boxes[n].w for n in columns[-1])
                    self._curve(*out, edge, out[1], head=False)
                    self._curve(edge, out[1], x + wide, top + mid, head=False)

        return _Box(wide, high, mid, mid, draw, open=True)

    # --- a node ---------------------------------------------------------------------------------

    def _state(self, key: str) -> State | None:
        return None if self.states is None else self.states.get(key, State())

    def _card(self, node: Node, prefix: str, every: Node | None = None) -> _Box:
        kind, full = str(node.get("type", "step")), str(node.get("id", ""))
        state = self._state(prefix + full)
        name = clip(full, _MOST - 34) or "?"
        under = self._under(node, state, every)
        second = clip(under, _MOST - 34, 11)
        w = max(_LEAST, width(name) + 34, width(second, 11) + (34 if state is not None else 28))
        stack = 6.0 if every is not None else 0.0
        seen = state is not None and state.status != "waiting"
        dashed = (self.dashed and not seen) or (state is not None and state.status == "skipped")
        fill, border = COLOURS[state.status if state is not None else "waiting"]
        radius = _ROUND.get(kind, 8.0)
        tips = [full, str(node.get("label") or ""), str(node.get("about") or "")]
        tips += [under if second != under else "", state.error if state is not None else ""]
        tips = [t for t in tips if t]

        def draw(x: float, y: float) -> None:
            parts = [_tip(tips)] if len(tips) > 1 or name != full else []
            if every is not None:
                behind = f' stroke="{border}"'
                parts += [rect(n, n, w, _HIGH, radius, fill, behind) for n in (6, 3)]
            dash = ' stroke-dasharray="4 3"' if dashed else ""
            thick = ' stroke-width="1.8"' if seen and not dashed else ""
            parts.append(rect(0, 0, w, _HIGH, radius, fill, f' stroke="{border}"{dash}{thick}'))
            line = 17.0 if second else 24.5
            parts.append(_icon(kind, 9, line - 10))
            faint = state is not None and state.status == "skipped"
            parts.append(words(26, line, name, f' fill="{MUTED}"' if faint else ""))
            if second:
                shown = mark(state.status, 10, 24) if state is not None else ""
                parts.append(shown)
                left = 26 if shown else 10 if width(second, 11) > w - 36 else 26
                parts.append(words(left, 32.5, second, f' font-size="11" fill="{MUTED}"'))
            if state is not None and state.many and every is not None:
                parts.append(_bar(state, w, radius))
            self.parts.append(at(x, y, "".join(parts)))

        return _Box(w + stack, _HIGH + stack, _HIGH / 2, _HIGH / 2, draw)

    def _under(self, node: Node, state: State | None, every: Node | None) -> str:
        """The second line of a node."""
        if state is not None and (state.status != "waiting"):
            return _said(state) or state.status
        if every is not None:
            return f"for each, {every.get('concurrency', 1)} at a time"
        if node.get("when"):
            return f"when {node['when']}"
        return str(node.get("label") or "")


def _said(state: State) -> str:
    parts = []
    if state.many:
        ended = state.done + state.failed
        parts.append(f"{ended:,}/{state.total:,}")
        if state.failed:
            parts.append(f"{state.failed:,} failed")
    if state.seconds is not None and state.status != "skipped":
        parts.append(duration(state.seconds))
    if state.attempts > 1:
        parts.append(f"×{state.attempts}")
    if not parts:
        return {"suspended": "waits", "waiting": ""}.get(state.status, state.status)
    return " · ".join(parts)


def _bar(state: State, w: float, radius: float) -> str:
    left, y = max(8.0, radius), _HIGH - 4.5
    whole = w - 2 * left
    done, failed = (whole * n / max(1, state.total) for n in (state.done, state.failed))
    out = rect(left, y, whole, 2.5, 1.2, "#c4cbd3")
    if done:
        out += rect(left, y, done, 2.5, 1.2, COLOURS["ok"][1])
    if failed:
        out += rect(left + done, y, max(1.5, failed), 2.5, 1.2, COLOURS["error"][1])
    return out


def _icon(kind: str, x: float, y: float) -> str:
    path = _ICONS.get(kind, _ICONS["step"])
    return (
        f'<path d="{path}" transform="translate({num(x)} {num(y)})" fill="none" stroke="{MUTED}"'
        f' stroke-width="1.2"/>'
    )


def _tip(lines: Iterable[str]) -> str:
    return f"<title>{esc(chr(10).join(s[:300] for s in lines if s))}</title>"


def condition(when: str) -> str:
    return f"if {when}" if when not in ("otherwise", "else", "") else when


def _mean(places: list[float], default: float) -> float:
    return sum(places) / len(places) if places else default


def nodes_of(value: Any) -> list[Node]:
    return [n for n in value if isinstance(n, dict)] if isinstance(value, list) else []


def arms_of(node: Node) -> list[tuple[str, list[Node]]]:
    out: list[tuple[str, list[Node]]] = []
    for arm in node.get("arms") or ():
        if isinstance(arm, dict):
            out.append((str(arm.get("when") or ""), nodes_of(arm.get("nodes"))))
        else:
            out.append(("", nodes_of(arm)))
    return out


def after(node: Node) -> dict[str, list[str]]:
    """Of every node of a dependency graph what it comes after."""
    out: dict[str, list[str]] = {str(n.get("id", "")): [] for n in nodes_of(node.get("nodes"))}
    for edge in node.get("edges") or ():
        if isinstance(edge, list | tuple) and len(edge) == 2:
            first, then = str(edge[0]), str(edge[1])
            if first in out and then in out and first not in out[then]:
                out[then].append(first)
    return out


def depths(before: Mapping[str, list[str]]) -> dict[str, int]:
    """The layer of each node: one more than the deepest of what it comes after."""
    out: dict[str, int] = {}
    left = dict(before)
    while left:
        ready = [n for n, known in left.items() if all(a not in left for a in known)]
        for name in ready or [next(iter(left))]:  # a circle is cut somewhere
            out[name] = max((out.get(a, -1) + 1 for a in left[name]), default=0)
        for name in ready or [next(iter(left))]:
            del left[name]
    return out
