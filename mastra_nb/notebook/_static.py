"""The front ends of our widgets: plain files of JavaScript, one module each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_FOLDER = Path(__file__).parent / "static"


def module(widget: str, parts: Sequence[str]) -> str:
    """An ES module: the last of the parts exports, the others are what it needs."""
    return "\n".join((_FOLDER / widget / f"{part}.js").read_text("utf-8") for part in parts)


def style(widget: str) -> str:
    return (_FOLDER / widget / "style.css").read_text("utf-8")
