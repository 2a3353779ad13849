"""Rows of text as a table, in a cell and in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mastra_nb._escape import escape
from mastra_nb.notebook import _live
from mastra_nb.notebook._errors import plain
from mastra_nb.notebook._host import Host


def show(host: Host, bundle: dict[str, Any]) -> None:
    """A bundle of Markdown and plain text: the one in a cell, the other in a terminal."""
    if host.in_kernel:
        _live.publish(bundle)
    else:
        _live.say(plain(bundle["text/plain"]))


def show_table(
    host: Host, header: Sequence[str], rows: Sequence[Sequence[str]], empty: str, widest: int = 60
) -> None:
    """Rows of text as a table, in Markdown and as plain text; names and titles stay text."""
    if not rows:
        _live.say(empty)
        return
    cells = [[_short(cell, widest) for cell in row] for row in rows]
    widths = [max(len(r[i]) for r in (list(header), *cells)) for i in range(len(header))]
    text = "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in (header, *cells)
    )
    if not host.in_kernel:
        _live.say(text)
        return
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    lines += [f"| {' | '.join(escape(c) for c in row)} |" for row in cells]
    _live.publish({"text/markdown": "\n".join(lines), "text/plain": text})


def _short(text: str, widest: int) -> str:
    text = " ".join(plain(text).split())
    return text if len(text) <= widest else f"{text[: widest - 1]}…"
