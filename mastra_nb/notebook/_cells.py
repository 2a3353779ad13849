"""The cells that this kernel has run: what they said, what they gave, how they failed."""

from __future__ import annotations

import asyncio
import linecache
import re
import sys
import traceback
from collections import deque
from typing import Any

import msgspec

from mastra_nb._escape import valid
from mastra_nb.errors import MastraError
from mastra_nb.notebook._errors import plain

_MOST_CELLS, _MOST_RESULT, _MOST_ERROR = 200, 2_000, 6_000
_OURS = (MastraError, KeyboardInterrupt, asyncio.CancelledError)
_COLOR = re.compile(r"\x1b\[[0-9;]*m")


class Executed(msgspec.Struct, frozen=True, kw_only=True):
    """`id` is that of the notebook's cell where the front end says it, `count` its number."""

    count: int
    source: str
    id: str = ""
    result: str = ""
    error: str = ""
    # A run that was stopped or waits says itself what to do: nobody asks why.
    is_ours: bool = False


class Cells:
    """The newest, the running one not among them."""

    def __init__(self) -> None:
        self._cells: deque[Executed] = deque(maxlen=_MOST_CELLS)

    def ended(self, result: Any) -> None:
        """IPython's ExecutionResult."""
        info = result.info
        if info is None or info.silent or not str(info.raw_cell).strip():
            return
        error = result.error_before_exec or result.error_in_exec
        self._cells.append(
            Executed(
                count=result.execution_count or 0,
                source=valid(info.raw_cell),
                id=valid(getattr(info, "cell_id", None) or ""),
                result="" if result.result is None else _text(result.result),
                error="" if error is None else _told(error, info.raw_cell)[:_MOST_ERROR],
                is_ours=isinstance(error, _OURS),
            )
        )

    def all(self) -> list[Executed]:
        return list(self._cells)

    def last(self) -> Executed | None:
        return self._cells[-1] if self._cells else None

    def failed(self) -> Executed | None:
        """The newest that failed; it may have been run before we were loaded."""
        found = (cell for cell in reversed(self._cells) if cell.error and not cell.is_ours)
        return next(found, None) or _before_us()

    def nth(self, number: int) -> Executed | None:
        """By its number, or from the last one: -1."""
        if number < 0:
            return self._cells[number] if -number <= len(self._cells) else None
        return next((cell for cell in reversed(self._cells) if cell.count == number), None)


def _text(value: Any) -> str:
    answer = getattr(type(value), "_prompt_text_", None)
    try:
        text = str(answer(value)) if answer is not None else repr(value)
    except Exception as error:
        text = f"<{type(value).__name__}, whose repr failed: {type(error).__name__}>"
    return plain(text)[:_MOST_RESULT]


def _before_us() -> Executed | None:
    error = getattr(sys, "last_value", None)
    if not isinstance(error, Exception) or isinstance(error, _OURS):
        return None
    frames = traceback.extract_tb(error.__traceback__)
    source = next(
        ("".join(linecache.getlines(f.filename)) for f in frames if _is_own(f.filename)), ""
    )
    return Executed(count=0, source=valid(source), error=_told(error, source)[:_MOST_ERROR])


def _told(error: BaseException, source: str) -> str:
    """The user's own lines, the last place, and the message."""
    render = getattr(error, "_render_traceback_", None)
    if render is not None:
        return plain(_COLOR.sub("", "\n".join(render() or [])))
    if isinstance(error, SyntaxError):
        return plain("".join(traceback.format_exception_only(error)))
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if _is_own(f.filename)]
    lines = source.splitlines()
    out = []
    for frame in [*own, *(f for f in frames[-1:] if f not in own)]:
        number = frame.lineno or 0
        line = frame.line or (lines[number - 1] if 0 < number <= len(lines) else "")
        where = "" if _is_own(frame.filename) else f" of {frame.filename.rpartition('/')[2]}"
        out.append(f"line {number}{where}, in {frame.name}: {line.strip()}")
    return plain("\n".join([*out, "".join(traceback.format_exception_only(error)).strip()]))


def _is_own(filename: str) -> bool:
    return "ipykernel_" in filename or filename.startswith(("<ipython-input", "<%%"))
