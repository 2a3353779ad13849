"""How our errors look in a cell: one line, what to do next, no traceback; the cell fails."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mastra_nb import views
from mastra_nb.config import redact
from mastra_nb.errors import MastraError, RunSuspended, Stopped
from mastra_nb.events import Suspended

# No colour: front ends draw this on pink or red, where none is readable in every theme.
_BOLD, _OFF = "\x1b[1m", "\x1b[0m"
_LONGEST = 4000
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain(text: str) -> str:
    """Text of a model, a tool or an error that a terminal shows and does not obey."""
    return _CONTROL.sub("", text.replace("\r\n", "\n"))


def lines(error: MastraError) -> list[str]:
    """The one line, and one more for the hint if there is one."""
    message = plain(redact(error.message))
    hint = plain(redact(error.hint))
    if isinstance(error, Stopped):
        return [f"{_BOLD}■ stopped{_OFF} {message.removeprefix('stopped ')}"]
    if isinstance(error, RunSuspended):
        id = getattr(error.run, "id", error.run)
        head = f"{_BOLD}⏸ suspended{_OFF} {id} · {message.rpartition(' waits: ')[2]}"
        first, *more = resumes(id, getattr(error.run, "pending", {}))
        also = f" · {len(more)} more: %mastra waiting" if more else ""
        return [f"{head} · {first}{also}"]
    out = [f"{_BOLD}{type(error).__name__}{_OFF}: {message}"]
    if hint:
        out.append(f"  → {hint}")
    return out


def resumes(run: str, pending: Mapping[str, Suspended]) -> list[str]:
    """How to answer each of what a run waits for."""
    asked = [
        {"path": path, "reason": each.reason, "schema": each.schema}
        for path, each in pending.items()
    ]
    return views.resumes({"run": run, "pending": asked}) or [f"%resume {run} approve"]


def _render_traceback_(self: MastraError) -> list[str]:
    return lines(self)


def install() -> None:
    """IPython asks an exception how it wants to be shown; core errors do not know of IPython."""
    MastraError._render_traceback_ = _render_traceback_  # type: ignore[attr-defined]


def uninstall() -> None:
    if "_render_traceback_" in MastraError.__dict__:
        del MastraError._render_traceback_  # type: ignore[attr-defined]


def stopped(deltas: int) -> Stopped:
    said = f"after {deltas} tokens" if deltas != 1 else "after 1 token"
    return Stopped(f"stopped {said}", hint="what was said is kept", details={"tokens": deltas})


def one_line(error: Any) -> str:
    """An error for a list or a status line."""
    message = (
        error.message if isinstance(error, MastraError) else f"{type(error).__name__}: {error}"
    )
    return plain(redact(" ".join(message.split())))


def told(error: MastraError) -> dict[str, str]:
    """As a front end is told of it."""
    return {
        "code": error.code,
        "message": plain(redact(error.message))[:_LONGEST],
        "hint": plain(redact(error.hint))[:_LONGEST],
    }
