"""Small parts of our pictures. They are shown as images: no script, no font, no address in them.

A picture stands on white as well as on black, so every text has a fill of its own under it.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

import msgspec

from mastra_nb._escape import valid

Status = Literal["waiting", "running", "ok", "error", "cancelled", "suspended", "skipped"]

FONT = 'font-family="system-ui,-apple-system,Segoe UI,Helvetica,Arial,sans-serif"'
LINE = "#848d97"  # 3.4:1 on white, 5.6:1 on #111
INK, MUTED, PILL = "#1f2328", "#57606a", "#eaeef2"

# Fill, border and mark of a node.
COLOURS: dict[Status, tuple[str, str]] = {
    "waiting": ("#f6f8fa", "#848d97"),
    "running": ("#ddf4ff", "#0969da"),
    "ok": ("#e3f8e7", "#1a7f37"),
    "error": ("#ffebe9", "#cf222e"),
    "cancelled": ("#eaeef2", "#57606a"),
    "suspended": ("#fff3c4", "#9a6700"),
    "skipped": ("#f6f8fa", "#848d97"),
}
# Drawn, not written: which fonts have such signs differs from one machine to the next. 10 x 10.
MARKS: dict[Status, str] = {
    "running": '<path d="M2 1l7 4-7 4z" fill="{0}"/>',
    "ok": '<path d="M1 5.5l3 3 5-7" fill="none" stroke="{0}" stroke-width="1.8"/>',
    "error": '<path d="M1.5 1.5l7 7m0-7l-7 7" fill="none" stroke="{0}" stroke-width="1.8"/>',
    "cancelled": '<path d="M1.5 1.5h7v7h-7z" fill="{0}"/>',
    "suspended": '<path d="M3 1v8M7 1v8" fill="none" stroke="{0}" stroke-width="2.2"/>',
    "skipped": '<path d="M1 5h8" fill="none" stroke="{0}" stroke-width="1.8"/>',
}
SIGNS: dict[Status, str] = {
    "waiting": "○", "running": "▶", "ok": "✓", "error": "✗", "cancelled": "■", "suspended": "⏸",
    "skipped": "–",
}  # fmt: skip


class State(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far a node is. `seconds` is the sum of its calls, of items side by side from the first
    start to the last end. The counts are there for a node that is called more than once; `total`
    is the number of items where it is known, else of calls so far.
    """

    status: Status = "waiting"
    seconds: float | None = None
    attempts: int = 1
    done: int = 0
    running: int = 0
    failed: int = 0
    waiting: int = 0
    total: int = 0
    error: str = ""

    @property
    def many(self) -> bool:
        return self.total > 0

    @property
    def counts(self) -> str:
        """`17 done, 2 running, 1 failed`"""
        parts = [(self.done, "done"), (self.running, "running"), (self.failed, "failed")]
        parts.append((self.waiting, "suspended"))
        said = ", ".join(f"{n:,} {word}" for n, word in parts if n)
        known = self.done + self.running + self.failed + self.waiting < self.total
        return f"{said or '0 done'} of {self.total:,}" if known else said


_NARROW = frozenset("iljtfI.,:;'|!()[]/ ")
_WIDE = frozenset("mwMW@%—…<>=+~#&")


def width(text: str, size: float = 12) -> float:
    """About how wide `text` is in pixels; a little more than most fonts take."""
    units = 0.0
    for c in text:
        if c in _NARROW:
            units += 0.36
        elif c in _WIDE or unicodedata.east_asian_width(c) in "WF":
            units += 0.98
        elif c.isupper():
            units += 0.72
        elif unicodedata.combining(c):
            continue
        else:
            units += 0.62
    return units * size


def clip(text: str, most: float, size: float = 12) -> str:
    """`text` on one line, its end left out where it is wider than `most` pixels."""
    text = re.sub(r"\s+", " ", text[:400]).strip()
    if width(text, size) <= most:
        return text
    while text and width(text + "…", size) > most:
        text = text[:-1]
    return text.rstrip() + "…"


# What XML 1.0 has no place for, and what turns the direction of a text.
_NO_XML = re.compile(
    r"[^\t\n\r\x20-\x7e\x85\xa0-\u2029\u202f-\u2065\u206a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"}
_SPECIAL = re.compile("[&<>\"']")


def esc(text: str) -> str:
    """Any text as text of an XML element or attribute."""
    return _SPECIAL.sub(lambda m: _ENTITIES[m[0]], _NO_XML.sub("\ufffd", valid(text)))


def num(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def at(x: float, y: float, drawn: str) -> str:
    return f'<g transform="translate({num(x)} {num(y)})">{drawn}</g>'


def rect(x: float, y: float, w: float, h: float, r: float, fill: str, more: str = "") -> str:
    radius = f' rx="{num(r)}"' if r else ""
    return (
        f'<rect x="{num(x)}" y="{num(y)}" width="{num(w)}" height="{num(h)}"{radius}'
        f' fill="{fill}"{more}/>'
    )


def words(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{num(x)}" y="{num(y)}"{more}>{esc(text)}</text>'


def mark(status: Status, x: float, y: float) -> str:
    drawn = MARKS.get(status, "")
    if not drawn:
        return ""
    place = f' transform="translate({num(x)} {num(y)})"/>'
    return drawn.format(COLOURS[status][1]).removesuffix("/>") + place


def duration(seconds: float) -> str:
    if seconds < 0.001:
        return "<1 ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min {int(seconds % 60)} s"
    if minutes < 2880:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440:,} d {minutes % 1440 // 60} h"


def sheet(w: float, h: float, title: str, parts: list[str]) -> str:
    box = f"{num(w)} {num(h)}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{num(w)}" height="{num(h)}"'
        f' viewBox="0 0 {box}" role="img" font-size="12" fill="{INK}" {FONT}>'
        f"<title>{esc(title[:200])}</title>{''.join(parts)}</svg>"
    )
