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

Bar = dict[str, Any]

MAX_BARS = 100
_EACH = 8  # calls of one node that get a bar of their own
_HIDDEN = ("value", "model")
_NAMES, _PLOT, _LINE, _BAR = 190.0, 560.0, 18.0, 10.0


def timeline(view: View, path: str, most: int = MAX_BARS) -> list[Bar]:
    """Bars of what the workflow at `path` called, in order of start, each below its caller."""
    root = view.spans.get(path)
    if root is None:
        return []
    bars: list[Bar] = []
    _bars(view, root, root.started, 0, most, bars)
    return bars


def _bars(view: View, parent: Span, zero: float, depth: int, most: int, out: list[Bar]) -> float:
    """Adds the bars of what `parent` called; the newest time seen."""
    groups: dict[str, list[Span]] = {}
    newest = parent.ended or parent.started
    for path in parent.children:
        span = view.spans[path]
        if span.kind not in _HIDDEN:
            name = path[len(parent.path) + 1 :].partition("[")[0].partition("#")[0]
            groups.setdefault(name, []).append(span)
        newest = max(newest, span.ended or span.started)
    lines: list[tuple[float, str, list[Span]]] = []
    for name, spans in groups.items():
        if len(spans) > _EACH:
            lines.append((min(s.started for s in spans), name, spans))
        else:
            lines += [(s.started, name, [s]) for s in spans]
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
    """A Gantt chart with an axis of time."""
    last = max((b["end"] for b in bars), default=0.0)
    step = _step(last)
    whole = max(last, step / 10)
    scale = _PLOT / whole
    high = len(bars) * _LINE + 26
    back: list[str] = []
    drawn: list[str] = []
    ticks = int(whole / step + 1e-9)
    grid = "".join(
        f"M{num(_NAMES + n * step * scale)} 2V{num(high - 20)}" for n in range(ticks + 1)
    )
    back.append(f'<path d="{grid}" stroke="{LINE}" stroke-opacity=".35" fill="none"/>')
    back.append(rect(0, 0, _NAMES - 8, len(bars) * _LINE + 4, 6, PILL))
    for n, bar in enumerate(bars):
        drawn.append(at(0, 2 + n * _LINE, _line(bar, scale)))
    for n in range(ticks + 1):
        label = _time(n * step)
        wide = width(label, 10) + 10
        x = min(max(_NAMES + n * step * scale - wide / 2, _NAMES - 10), _NAMES + _PLOT + 70 - wide)
        drawn.append(rect(x, high - 17, wide, 15, 7, PILL))
        drawn.append(words(x + 5, high - 6, label, f' font-size="10" fill="{MUTED}"'))
    return sheet(_NAMES + _PLOT + 80, high, "timeline", [*back, *drawn])


def _line(bar: Bar, scale: float) -> str:
    status: Status = bar["status"] if bar["status"] in COLOURS else "waiting"
    fill, border = COLOURS[status]
    indent = 8 + 10 * min(bar["depth"], 5)
    full = bar["name"] + (f" ×{bar['count']:,}" if "count" in bar else "")
    name = clip(full, _NAMES - 34 - indent, 11)
    x = _NAMES + bar["start"] * scale
    w = max(3.0, (bar["end"] - bar["start"]) * scale)
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
