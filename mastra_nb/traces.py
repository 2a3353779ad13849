"""The spans of a run as a tree, with times, tokens and errors.

Span: `{"path", "parent": path | null, "name", "kind", "status", "start", "seconds": number | null,
"depth", "attempt"?, "usage"?, "input"?, "output"?, "error"?}`; `start` is seconds from the first
one, `usage` is that of the span itself, texts are cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from mastra_nb import timelines
from mastra_nb._escape import escape, valid
from mastra_nb._svg import duration
from mastra_nb.events import Span, View
from mastra_nb.jsonable import to_json
from mastra_nb.messages import Usage
from mastra_nb.records import json_text
from mastra_nb.views import dollars, image

MAX_SPANS = 500
_MOST_BARS, _MOST_LINES, _MOST_TEXT = 60, 200, 2000
_HIDDEN = ("value",)
_HEADER = ("", "span", "kind", "start", "time", "tokens", "cost", "")
_MARKS = {"ok": "✓", "error": "✗", "running": "…", "suspended": "⏸", "cancelled": "■"}


def spans(view: View, most: int = MAX_SPANS) -> list[dict[str, Any]]:
    """Each below its caller, in order of their start; at most so many."""
    root = view.spans.get(view.root)
    if root is None:
        return []
    zero = min(s.started for s in view.spans.values())
    out: list[dict[str, Any]] = []
    for depth, span in _walk(view, root, 0):
        if len(out) == most:
            break
        out.append(_span(span, depth, zero))
    return out


def _walk(view: View, span: Span, depth: int) -> Iterator[tuple[int, Span]]:
    yield depth, span
    children = [view.spans[path] for path in span.children]
    for child in sorted(children, key=lambda s: s.started):
        if child.kind not in _HIDDEN:
            yield from _walk(view, child, depth + 1)


def _span(span: Span, depth: int, zero: float) -> dict[str, Any]:
    out: dict[str, Any] = {
        "path": valid(span.path),
        "parent": span.parent or None,
        "name": valid(span.name),
        "kind": valid(span.kind),
        "status": span.status,
        "start": round(max(0.0, span.started - zero), 4),
        "seconds": None if span.seconds is None else round(span.seconds, 4),
        "depth": depth,
    }
    if span.attempt > 1:
        out["attempt"] = span.attempt
    if span.usage is not None:
        out["usage"] = msgspec.to_builtins(span.usage)
    for name, value in (("input", span.input), ("output", span.output)):
        if value is not None:
            out[name] = _cut(value)
    if span.error is not None:
        out["error"] = {"code": span.error.code, "message": valid(span.error.message)[:_MOST_TEXT]}
    return out


def _cut(value: Any) -> Any:
    plain = to_json(value)
    text = plain if isinstance(plain, str) else json_text(plain)
    return plain if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}…"


# For people


def bundle(found: list[dict[str, Any]]) -> dict[str, Any]:
    return {"text/markdown": markdown(found), "text/plain": plain(found)}


def markdown(found: list[dict[str, Any]]) -> str:
    """A waterfall, and a table with the numbers and the errors."""
    if not found:
        return "nothing has happened yet"
    table = [_cells(span) for span in found[:_MOST_LINES]]
    used = [n for n in range(len(_HEADER)) if n < 2 or any(row[n] for row in table)]
    lines = [f"| {' | '.join(_HEADER[n] for n in used)} |", f"|{' --- |' * len(used)}"]
    for span, row in zip(found, table, strict=False):
        cells = [escape(row[n]) for n in used]
        cells[1] = "&nbsp;" * 4 * min(span["depth"], 12) + cells[1]
        lines.append(f"| {' | '.join(cells)} |")
    picture = image(timelines.svg(_bars(found)), "trace")
    more = [f"<small>{len(found) - _MOST_LINES:,} more</small>"] if len(found) > _MOST_LINES else []
    return "\n\n".join([picture, "\n".join(lines), *more])


def plain(found: list[dict[str, Any]]) -> str:
    if not found:
        return "nothing has happened yet"
    rows = []
    for span in found[:_MOST_LINES]:
        mark, name, kind, *rest = _cells(span)
        rows.append([f"{mark} {'  ' * span['depth']}{name}", kind, *rest])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    if len(found) > _MOST_LINES:
        lines.append(f"{len(found) - _MOST_LINES:,} more")
    return "\n".join(lines)


def _cells(span: dict[str, Any]) -> list[str]:
    used = msgspec.convert(span["usage"], Usage) if "usage" in span else None
    tried = f" ×{span['attempt']}" if "attempt" in span else ""
    seconds = span["seconds"]
    return [
        _MARKS.get(span["status"], "?"),
        _own_name(span) + tried,
        span["kind"],
        duration(span["start"]) if span["start"] else "0",
        "" if seconds is None else duration(seconds),
        f"{used.input:,} / {used.output:,}" if used is not None and used.total else "",
        dollars(used.cost) if used is not None and used.cost else "",
        " ".join(span["error"]["message"].split())[:160] if "error" in span else "",
    ]


def _own_name(span: dict[str, Any]) -> str:
    """As its caller knows it: of many calls of one name the number tells which."""
    if span["kind"] == "model" or span["parent"] is None:
        return str(span["name"])
    return str(span["path"])[len(span["parent"]) + 1 :].partition("#")[0] or str(span["name"])


def _bars(found: list[dict[str, Any]]) -> list[timelines.Bar]:
    newest = max(s["start"] + (s["seconds"] or 0.0) for s in found)
    return [
        {
            "name": _own_name(span)[:200],
            "path": span["path"],
            "kind": span["kind"],
            "start": span["start"],
            "end": newest if span["seconds"] is None else span["start"] + span["seconds"],
            "status": span["status"],
            "depth": span["depth"],
        }
        for span in found[:_MOST_BARS]
    ]
