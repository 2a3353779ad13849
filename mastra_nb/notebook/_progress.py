"""A long job in a cell: one line that is updated in place, at a bounded rate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from mastra_nb._escape import escape
from mastra_nb.errors import Stopped
from mastra_nb.notebook import _live
from mastra_nb.notebook._errors import lines, plain
from mastra_nb.notebook._host import Host
from mastra_nb.progress import Line, Progress, Silent, seconds_left
from mastra_nb.rag.index import Index
from mastra_nb.services import ambient

_SECONDS = 0.1
_BAR = 20


class CellProgress:
    """Shown when there is something to tell: what fails before it began has only its error."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._what, self._note, self._done = "", "", 0
        self._total: int | None = None
        self._began = self._shown = self._at = 0.0
        self._is_over = False

    def start(self, total: int | None, what: str) -> None:
        self._total, self._what, self._note, self._done = total, what, "", 0
        self._began, self._is_over = time.monotonic(), False
        # A replay looks like its recording: its clock is the runs'.
        self._at = ambient().now()

    def advance(self, n: int = 1) -> None:
        self._done += n
        self._show_soon()

    def note(self, text: str) -> None:
        self._note = text
        self._show_soon()

    def failed(self, error: BaseException) -> None:
        self._what += " · stopped"
        if isinstance(error, asyncio.CancelledError):
            told = lines(Stopped(f"stopped {self._left()}"))
            error._render_traceback_ = lambda: told  # type: ignore[attr-defined]

    def close(self) -> None:
        if not self._is_over and self._handle is not None:
            self._is_over = True
            self._show()

    def replace(self, bundle: dict[str, Any]) -> None:
        """What came of it, in its place."""
        self._is_over = True
        if self._handle is None:
            _live.publish(bundle)
        else:
            self._handle.update(bundle, raw=True)

    def _left(self) -> str:
        of = "" if self._total is None else f" of {self._total:,}"
        return f"after {self._done:,}{of} · run it again, and it goes on from there"

    def _show_soon(self) -> None:
        if time.monotonic() - self._shown >= _SECONDS:
            self._show()

    def _show(self) -> None:
        self._shown = time.monotonic()
        bundle = self._bundle()
        if self._handle is None:
            self._handle = _live.publish(bundle, display_id=True)
        else:
            self._handle.update(bundle, raw=True)

    def _bundle(self) -> dict[str, Any]:
        parts = [plain(self._what), f"{self._done:,}"]
        if self._total:
            share = min(1.0, self._done / self._total)
            full = round(share * _BAR)
            parts = [parts[0], "█" * full + "░" * (_BAR - full), f"{parts[1]} / {self._total:,}"]
            gone = time.monotonic() - self._began
            if not self._is_over and (left := seconds_left(self._done, self._total, gone)):
                parts.append(left)
        if self._note and not self._is_over:
            parts.append(plain(self._note))
        elif self._is_over:
            parts.append(f"{ambient().now() - self._at:.1f} s")
        return {
            "text/markdown": " · ".join(map(escape, parts)),
            "text/plain": " · ".join(parts),
        }


def progress_of(host: Host) -> Progress:
    """For a job that begins now."""
    if not host.in_kernel:
        return Line()
    return Silent() if host.capturing else CellProgress()


async def ingest(host: Host, index: Index, paths: Sequence[str]) -> dict[str, Any] | None:
    """The report to show, None if it is shown where the progress was.

    Raises Stopped if the cell is interrupted, what `Index.ingest` raises.
    """
    progress = progress_of(host)
    try:
        bundle = (await index.ingest(*paths, progress=progress))._repr_mimebundle_()
        if not isinstance(progress, CellProgress):
            return bundle
        progress.replace(bundle)
    except asyncio.CancelledError:
        _live.uncancel()
        kept = len(await index.documents())
        raise Stopped(f"stopped, {kept:,} documents are in; run it again to go on") from None
    finally:
        progress.close()
    return None
