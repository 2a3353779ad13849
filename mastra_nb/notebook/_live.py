"""A run in a cell: one output that grows, in the cell's own task, at a bounded rate."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from mastra_nb import portal, views
from mastra_nb.events import ReasoningDelta, SpanEnded, SpanStarted, TextDelta
from mastra_nb.messages import Usage
from mastra_nb.notebook._errors import lines, plain, stopped
from mastra_nb.runs import Run

T = TypeVar("T")
Bundle = Callable[[Any], dict[str, Any]]

# What a terminal has a line for.
_CALLS = ("tool", "step", "agent", "workflow")
# What a front end needs to draw one character of Markdown again, in seconds.
SECONDS_PER_CHARACTER = 12e-6
# And what the kernel needs for one call in the picture of a workflow.
SECONDS_PER_CALL = 20e-6
# A run that is stopped has this long to close its connections before the cell is given back.
UNWIND_SECONDS = 0.9


def publish(bundle: dict[str, Any], **options: Any) -> Any:
    """Put a MIME bundle into the cell's output."""
    from IPython import display

    show: Any = display.display
    return show(bundle, raw=True, **options)


def say(text: str) -> None:
    """A line in one piece: the two that `print` writes may become two outputs of a notebook."""
    sys.stdout.write(f"{text}\n")


class Screen(Protocol):
    """Where a run is shown."""

    def show(self, run: Run[Any], *, last: bool) -> None: ...


class Cell:
    """One display, updated in place: never a second output, never a print for a token."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._handle: Any = None

    def show(self, run: Any, *, last: bool) -> None:
        bundle = self._bundle(run)
        if self._handle is None:
            self._handle = publish(bundle, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


class Final:
    """Only the end is shown: where every update would be kept, as under %%capture."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def show(self, run: Any, *, last: bool) -> None:
        if last:
            publish(self._bundle(run))


class Terminal:
    """Text as it comes, a line for each tool call, a line at the end."""

    def __init__(self, write: Callable[[str], Any] | None = None) -> None:
        self._write = write or sys.stdout.write
        self._at: int | None = None
        self._fresh = True

    def show(self, run: Run[Any], *, last: bool) -> None:
        out: list[str] = []
        events = run.log.events
        root = run.view.root
        if self._at is None:
            # What a run that goes on has behind it was shown when it happened.
            self._at = 0 if last else len(events)
        while self._at < len(events):
            event = events[self._at]
            self._at += 1
            data = event.data
            if isinstance(data, TextDelta) and event.parent == root:
                out.append(plain(data.text))
            elif isinstance(data, SpanStarted) and data.kind in _CALLS and event.span != root:
                out.append(f"{'' if self._ends_line(out) else chr(10)}· {plain(data.name)} …\n")
            elif isinstance(data, SpanEnded) and data.error is not None:
                span = run.view.spans.get(event.span)
                if span is not None and span.kind in _CALLS and event.span != root:
                    out.append(f"  ! {plain(data.error.message)}\n")
        if last and not self._ends_line(out):
            out.append("\n")
        if out:
            self._fresh = self._ends_line(out)
            self._write("".join(out))
            sys.stdout.flush()

    def _ends_line(self, out: list[str]) -> bool:
        return next((piece.endswith("\n") for piece in reversed(out) if piece), self._fresh)


def interval(run: Run[Any], frame_rate: float) -> float:
    """Seconds between two frames: longer for longer texts and for more calls, so that drawing
    stays affordable.
    """
    cost = len(run.text) * SECONDS_PER_CHARACTER + len(run.view.spans) * SECONDS_PER_CALL
    return max(1.0 / frame_rate, cost)


async def frames(run: Run[Any], frame_rate: float) -> AsyncIterator[None]:
    """Drives `run` and yields whenever there is something new to show, at a bounded rate.

    Ends when the run rests, whatever its outcome. If the reader is cancelled, so is the run.
    """
    run.presented = True
    task = asyncio.ensure_future(_rest(run))
    seen = -1
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=interval(run, frame_rate))
            if len(run.log.events) != seen and not task.done():
                seen = len(run.log.events)
                yield
    finally:
        if not task.done():
            run.cancel()
            await asyncio.wait({task}, timeout=UNWIND_SECONDS)


async def _rest(run: Run[Any]) -> None:
    with contextlib.suppress(Exception):
        await run


async def show(run: Run[T], screen: Screen, frame_rate: float, *, goes_on: bool = False) -> T:
    """Show `run` in the cell that this is awaited in, and return its output. One that `goes_on`
    is on the screen already, waiting: that is drawn again when it moves.

    Raises what the run raises; Stopped if the cell is interrupted.
    """
    with terminal_interrupt():
        try:
            if not goes_on:
                screen.show(run, last=False)
            async for _ in frames(run, frame_rate):
                screen.show(run, last=False)
        except asyncio.CancelledError:
            uncancel()
            raise stopped(said(run)) from None
        finally:
            screen.show(run, last=True)
    return run.output


def show_blocking(run: Run[T], screen: Screen, frame_rate: float, *, goes_on: bool = False) -> T:
    """The same for callers that cannot await: the run is on the portal, the display is not."""
    try:
        if not goes_on:
            screen.show(run, last=False)
        for _ in portal.iterate(frames(run, frame_rate)):
            screen.show(run, last=False)
    except KeyboardInterrupt:
        raise stopped(said(run)) from None
    finally:
        screen.show(run, last=True)
    return run.output


def said(run: Run[Any]) -> int:
    """Pieces of text the model has sent: about one for each token."""
    kinds = (TextDelta, ReasoningDelta)
    return sum(isinstance(event.data, kinds) for event in list(run.log.events))


def mark_interrupt(error: BaseException, run: Run[Any]) -> None:
    """A plain `await run` in a cell: the cancellation goes on, as asyncio wants it, and IPython
    shows it as our one line.
    """
    shown = lines(stopped(said(run)))
    error._render_traceback_ = lambda: shown  # type: ignore[attr-defined]


def uncancel() -> None:
    """The interrupt is answered: the task goes on to raise our error instead."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


@contextlib.contextmanager
def terminal_interrupt() -> Iterator[None]:
    """In a terminal Ctrl-C would hit the loop and not the task, and the run would go on."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    hooked = False
    if (
        task is not None
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(signal.SIGINT, task.cancel)
            hooked = True
    try:
        yield
    finally:
        if hooked:
            loop.remove_signal_handler(signal.SIGINT)


class Result(Generic[T]):
    """What a bare %ask leaves in `_` and `Out[n]`: silent once, for its answer was streamed.

    Without a `bundle` it is shown as text.
    """

    def __init__(self, run: Run[T], output: T, bundle: Bundle | None) -> None:
        self.run = run
        self.output = output
        self._bundle = bundle
        self._quiet = True

    @property
    def text(self) -> str:
        return self.run.text

    @property
    def usage(self) -> Usage:
        return self.run.usage

    def __repr__(self) -> str:
        return f'<Result of "{self.run.name}": {self.run.status}>'

    def __str__(self) -> str:
        return self.text

    def _prompt_text_(self) -> str:
        return self.text

    def _ipython_display_(self) -> None:
        quiet, self._quiet = self._quiet, False
        if self._bundle is None:
            # A terminal has printed "Out[n]: " by now.
            say(repr(self) if quiet and self.text else plain(self.text or repr(self.output)))
        elif not quiet:
            publish(self._bundle(self.run))


def run_bundle(
    run: Run[Any],
    *,
    thread: str = "",
    change: Callable[[Any], Any] | None = None,
    told: bool = False,
) -> dict[str, Any]:
    """What a cell's output holds. The id is there only while somebody needs it to go on.

    `told`: the cell's own error says how the run ended.
    """
    record = views.record(run.view, thread=thread, run=run.id)
    hosts = frozenset(run.log.services.settings.image_hosts)
    shown = change(record) if change is not None else record
    return views.bundle(shown, hosts=hosts, told=told)
