"""When each call of a workflow ran: bars, and a Gantt chart of them.

Bar: `{"name", "path", "kind", "start", "end", "status", "depth", "attempt"?, "count"?}`, seconds
from the start of the workflow; `end` of what still runs is the newest time in the log. `count`
says that a bar stands for so many calls of one node.
"""

from __future__ import annotations

from typing import Any

from mastra_nb._escape import valid
from mastra_nb._svg import (
    COLOURS,
    INK,
    LINE,
    MUTED,
    PILL,
    Status,
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
from mastra_nb.events import Span, View
from mastra_nb.graphs import node_of, waited

Bar = dict[str, Any]

MAX_BARS = 100
_EACH = 8  # calls of one node that get a bar of their own
_HIDDEN = ("value", "model")
_NAMES, _PLOT, _LINE, _BAR, _PAUSE = 190.0, 560.0, 18.0, 10.0, 60.0


def timeline(view: View, path: str, most: int = MAX_BARS) -> list[Bar]:
    """Bars of what the workflow at `path` called, in order of start, each below its caller."""
    root = view.spans.get(path)
    if root is None:
        return []
    bars: list[Bar] = []
    # A run that was resumed has begun anew, the calls before that have not.
    zero = min([root.started, *(view.spans[c].started for c in root.children)])
    _bars(view, root, zero, 0, most, bars)
    anew = waited(view)
    for bar in bars:
        if bar["path"] in anew:
            bar.pop("attempt", None)
    return bars


def _bars(view: View, parent: Span, zero: float, depth: int, most: int, out: list[Bar]) -> float:
    """Adds the bars of what `parent` called; the newest time seen."""
    groups: dict[str, list[Span]] = {}
    newest = parent.ended or parent.started
    for path in parent.children:
        span = view.spans[path]
        if span.kind not in _HIDDEN:
            groups.setdefault(node_of(path, parent.path), []).append(span)
        newest = max(newest, span.ended or span.started)
    lines: list[tuple[float, str, list[Span]]] = []
    for name, spans in groups.items():
        if len(spans) > _EACH:
            lines.append((min(s.started for s in spans), name, spans))
        else:
            lines += [(s.started, _own_name(s, parent), [s]) for s in spans]
    lines.sort(key=lambda line: line[0])
    for n, (_, name, spans) in enumerate(lines):
        if len(out) >= most:
            rest = [s for _, _, more in lines[n:] for s in more]
            out.append(_bar("… more", rest, zero, depth, newest))
            break
        bar = _bar(name, spans, zero, depth, newest)
        out.append(bar)
        if len(spans) == 1 and spans[0].kind in _OPEN:
            _bars(view, spans[0], zero, depth + 1, most, out)
    return newest


def _own_name(span: Span, parent: Span) -> str:
    return span.path[len(parent.path) + 1 :].partition("#")[0]


_OPEN = ("workflow", "agent", "step")
_LOUDEST: tuple[Status, ...] = ("error", "cancelled", "running", "suspended", "ok")


def _bar(name: str, spans: list[Span], zero: float, depth: int, newest: float) -> Bar:
    first = spans[0]
    start = min(s.started for s in spans)
    end = max(s.ended if s.ended is not None else max(s.started, newest) for s in spans)
    statuses = {s.status for s in spans}
    bar: Bar = {
        "name": valid(name)[:200],
        "path": valid(first.path)[:400],
        "kind": valid(first.kind),
        "start": round(max(0.0, start - zero), 3),
        "end": round(max(0.0, end - zero), 3),
        "status": next(s for s in _LOUDEST if s in statuses),
        "depth": depth,
    }
    if len(spans) > 1:
        bar["count"] = len(spans)
        bar["failed"] = sum(s.status == "error" for s in spans)
    elif first.attempt > 1:
        bar["attempt"] = first.attempt
    return bar


def svg(bars: list[Bar]) -> str:
    """A Gantt chart with an axis of time, in which pauses are cut out and named."""
    scale = _Scale(bars)
    high = len(bars) * _LINE + 26
    ticks = scale.ticks()
    grid = "".join(f"M{num(x)} 2V{num(high - 20)}" for x, _ in ticks)
    drawn = [f'<path d="{grid}" stroke="{LINE}" stroke-opacity=".35" fill="none"/>']
    drawn.append(rect(0, 0, _NAMES - 8, len(bars) * _LINE + 4, 6, PILL))
    for start, end in scale.pauses:
        x = (scale.x(start) + scale.x(end)) / 2
        line = f'stroke="{LINE}" stroke-width="1.5" stroke-dasharray="2 4" fill="none"'
        drawn.append(f'<path d="M{num(x)} 2V{num(high - 20)}" {line}/>')
        drawn.append(_label(x, high - 17, duration(end - start), "suspended"))
    drawn += [at(0, 2 + n * _LINE, _line(bar, scale)) for n, bar in enumerate(bars)]
    pauses = [(scale.x(start) + scale.x(end)) / 2 for start, end in scale.pauses]
    for x, label in ticks:
        if all(abs(x - pause) > 60 for pause in pauses):
            drawn.append(_label(x, high - 17, label))
    return sheet(_NAMES + _PLOT + 80, high, "timeline", drawn)


class _Scale:
    """From seconds to pixels."""

    def __init__(self, bars: list[Bar]) -> None:
        self.pauses: list[tuple[float, float]] = []
        spans = sorted((b["start"], b["end"]) for b in bars)
        worked, newest = 0.0, 0.0
        gaps: list[tuple[float, float]] = []
        for start, end in spans:
            if start > newest:
                gaps.append((newest, start))
                newest = start
            worked += max(0.0, end - newest)
            newest = max(newest, end)
        # So long that what was done would not be seen beside it.
        self.pauses = [(a, b) for a, b in gaps if b - a > max(1.0, worked)][:8]
        self.awake = max(newest - sum(b - a for a, b in self.pauses), 1e-3)
        self.pixels = (_PLOT - _PAUSE * len(self.pauses)) / self.awake

    def x(self, t: float) -> float:
        x = _NAMES + t * self.pixels
        for start, end in self.pauses:
            if t >= end:
                x += _PAUSE - (end - start) * self.pixels
        return x

    def ticks(self) -> list[tuple[float, str]]:
        step = _step(self.awake)
        out = []
        for n in range(int(self.awake / step + 1e-9) + 1):
            t = n * step
            for start, end in self.pauses:
                t += end - start if t > start else 0.0
            out.append((self.x(t), _time(n * step)))
        return out


def _label(x: float, y: float, label: str, status: Status | None = None) -> str:
    wide = width(label, 10) + (22 if status else 10)
    left = min(max(x - wide / 2, _NAMES - 10), _NAMES + _PLOT + 70 - wide)
    out = rect(left, y, wide, 15, 7, PILL)
    if status:
        out += mark(status, left + 4, y + 2.5)
    shift = 17 if status else 5
    return out + words(left + shift, y + 11, label, f' font-size="10" fill="{MUTED}"')


def _line(bar: Bar, scale: _Scale) -> str:
    status: Status = bar["status"] if bar["status"] in COLOURS else "waiting"
    fill, border = COLOURS[status]
    indent = 8 + 10 * min(bar["depth"], 5)
    full = bar["name"] + (f" ×{bar['count']:,}" if "count" in bar else "")
    name = clip(full, _NAMES - 34 - indent, 11)
    x = scale.x(bar["start"])
    w = max(3.0, scale.x(bar["end"]) - x)
    said = duration(bar["end"] - bar["start"])
    if bar.get("failed"):
        said += f" · {bar['failed']:,} failed"
    if bar.get("attempt"):
        said += f" · ×{bar['attempt']}"
    parts = [f"<title>{esc(full)}</title>"] if name != full else []
    parts.append(words(indent, 13, name, ' font-size="11"'))
    parts.append(mark(status, _NAMES - 24, 4))
    parts.append(rect(x, 4, w, _BAR, 3, fill if w > 8 else border, f' stroke="{border}"'))
    wide = width(said, 10) + 8
    left = x + w + 4
    if left + wide > _NAMES + _PLOT + 80:
        left = max(_NAMES, x + w - wide - 4)
    parts.append(rect(left, 2.5, wide, 13, 6, PILL))
    parts.append(words(left + 4, 12.5, said, f' font-size="10" fill="{INK}"'))
    return "".join(parts)


def _step(last: float) -> float:
    """Seconds between two ticks: at most 8 of them, and round."""
    for step in _STEPS:
        if last / step <= 8:
            return step
    return last / 8


_STEPS = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600,
    900, 1800, 3600, 7200, 14400, 43200, 86400, 604800,
)  # fmt: skip


def _time(seconds: float) -> str:
    if seconds == 0:
        return "0"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:g} s"
    if seconds < 3600:
        return f"{seconds / 60:g} min"
    return f"{seconds / 3600:g} h"
