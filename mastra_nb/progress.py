"""How a long job says how far it is. A front end fills the seam; a terminal gets one line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """`total` is None where nobody knows it; `advance` adds to what is done. `close` may come
    without the end having been reached, and more than once.
    """

    def start(self, total: int | None, what: str) -> None: ...

    def advance(self, n: int = 1) -> None: ...

    def note(self, text: str) -> None: ...

    def failed(self, error: BaseException) -> None:
        """It ends by this; a front end may say what that means. `close` comes after it."""
        ...

    def close(self) -> None: ...


class Silent:
    def start(self, total: int | None, what: str) -> None: ...

    def advance(self, n: int = 1) -> None: ...

    def note(self, text: str) -> None: ...

    def failed(self, error: BaseException) -> None: ...

    def close(self) -> None: ...


def seconds_left(done: float, total: float | None, gone: float) -> str:
    """What is to come, if it goes on as it went; nothing while that says little."""
    if not total or not 0 < done < total or gone < 2:
        return ""
    left = gone * (total - done) / done
    return f"{left:.0f} s left" if left < 90 else f"{left / 60:.0f} min left"


class Line:
    """One line of standard error, written over."""

    def __init__(self) -> None:
        self._total: int | None = None
        self._what, self._said, self._done, self._width = "", "", 0, 0
        self._began = time.monotonic()

    def start(self, total: int | None, what: str) -> None:
        self._total, self._what, self._said, self._done = total, what, "", 0
        self._began = time.monotonic()
        self._show()

    def advance(self, n: int = 1) -> None:
        self._done += n
        self._show()

    def note(self, text: str) -> None:
        self._said = text
        self._show()

    def failed(self, error: BaseException) -> None:
        self._what += ", stopped:"
        self._show()

    def close(self) -> None:
        if self._width:
            self._write("\n")
        self._width = 0

    def _show(self) -> None:
        of = "" if self._total is None else f"/{self._total}"
        left = seconds_left(self._done, self._total, time.monotonic() - self._began)
        line = f"{self._what} {self._done}{of} {self._said}".rstrip()
        line = f"{line} · {left}" if left else line
        self._write(f"\r{line:<{self._width}}")
        self._width = len(line)

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def _by_terminal() -> Progress:
    return Line() if sys.stderr is not None and sys.stderr.isatty() else Silent()


_factory: Callable[[], Progress] = _by_terminal


def set_progress(factory: Callable[[], Progress] | None) -> None:
    """What makes the progress of every job from now on; None is the default again."""
    global _factory
    _factory = factory or _by_terminal


def new_progress() -> Progress:
    return _factory()
