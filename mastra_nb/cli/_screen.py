"""A run in a terminal: its text as Markdown while it comes, what it calls a line each.

Blocks of Markdown that are complete are printed and never touched again, so that they scroll; only
the newest one is drawn over, and of that no more than fits the screen. rich renders them: it needs
nothing but markdown-it-py and pygments, which are here with IPython.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any, ClassVar

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.markdown import Heading, Markdown, MarkdownElement
from rich.segment import Segment
from rich.text import Text

from mastra_nb.cli._follow import Speakers, arguments, short
from mastra_nb.cli._output import one_line, plain
from mastra_nb.events import Event, Span, SpanEnded, SpanStarted, TextDelta
from mastra_nb.runs import Run
from mastra_nb.views import duration

_FASTEST = 0.06
# Of the time no more than such a part goes into drawing.
_SHARE = 0.2
_SHOWN = ("tool", "step", "agent", "workflow", "handoff")
_MARKS = {"ok": "✓", "error": "✗", "cancelled": "■", "suspended": "⏸"}


def console() -> Console:
    return Console(highlight=False, soft_wrap=False)


class _Heading(Heading):
    def __rich_console__(self, on: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        yield self.text


class _Markdown(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements, "heading_open": _Heading,
    }  # fmt: skip


class _Lines:
    """Rendered, without the empty lines around it; with `crop` only the end, if it is too long."""

    def __init__(self, inner: RenderableType, *, gap: bool = False, crop: bool = False) -> None:
        self._inner = inner
        self._gap = gap
        self._crop = crop

    def __rich_console__(self, on: Console, options: ConsoleOptions) -> RenderResult:
        lines = on.render_lines(self._inner, options, pad=False)
        while lines and not _said(lines[0]):
            del lines[0]
        while lines and not _said(lines[-1]):
            del lines[-1]
        if self._gap:
            lines.insert(0, [])
        for line in lines[-max(3, on.height - 2) :] if self._crop else lines:
            yield from _bare(line)
            yield Segment.line()


def _bare(line: list[Segment]) -> list[Segment]:
    """Without the spaces at its end: they are no part of what is copied out of a terminal."""
    line = [*line]
    while line and not (line[-1].style and line[-1].style.bgcolor):
        last = line.pop()
        if text := last.text.rstrip():
            return [*line, Segment(text, last.style, last.control)]
    return line


class _Blocks:
    def __init__(self, texts: list[str]) -> None:
        self._texts = texts

    def __rich_console__(self, on: Console, options: ConsoleOptions) -> RenderResult:
        for n, text in enumerate(self._texts):
            yield markdown(text, gap=n > 0)


def _said(line: list[Segment]) -> bool:
    return any(segment.text.strip() for segment in line)


def markdown(text: str, **options: bool) -> RenderableType:
    # A link would hide where it leads to.
    return _Lines(_Markdown(plain(text), hyperlinks=False, code_theme="ansi_dark"), **options)


class Writer:
    """Text that comes in pieces, and a line below it that says what goes on."""

    def __init__(self, on: Console) -> None:
        self.console = on
        self._pieces: list[str] = []
        self._live: Live | None = None
        self._status = ""
        self._drawn = 0.0
        self._pause = _FASTEST
        self._written = False

    def write(self, text: str) -> None:
        self._pieces.append(plain(text))
        if time.monotonic() - self._drawn >= self._pause:
            self._draw()

    def status(self, text: str) -> None:
        self._status = text
        self._draw()

    def line(self, text: Text) -> None:
        """What is not a part of the text: on a line of its own."""
        self.flush()
        self.console.print(text)

    def flush(self) -> None:
        """Print what is there for good."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        rest, self._pieces = "".join(self._pieces), []
        self._print(blocks(rest))
        self._written = False

    close = flush

    def _draw(self) -> None:
        began = time.monotonic()
        *done, rest = blocks("".join(self._pieces)) or [""]
        self._pieces = [rest]
        self._print(done)
        shown: RenderableType = Text(self._status)
        if rest.strip():
            shown = markdown(rest, gap=self._written, crop=True)
        if self._live is None:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(shown, refresh=True)
        self._drawn = time.monotonic()
        self._pause = max(_FASTEST, (self._drawn - began) / _SHARE)

    def _print(self, done: list[str]) -> None:
        for block in done:
            self.console.print(markdown(block, gap=self._written), end="")
            self._written = True


def _hide_control_keys() -> Callable[[], None]:
    """The ^C that a terminal writes would be drawn over as if it were ours. Returns what puts it
    back.
    """
    if os.name != "posix" or not sys.stdin.isatty():
        return lambda: None
    import termios

    key = sys.stdin.fileno()
    before = termios.tcgetattr(key)
    quiet = [*before]
    quiet[3] &= ~termios.ECHOCTL
    termios.tcsetattr(key, termios.TCSADRAIN, quiet)
    return lambda: termios.tcsetattr(key, termios.TCSADRAIN, before)


_parser = MarkdownIt("commonmark").enable("table")


def blocks(text: str) -> list[str]:
    """Of Markdown; nothing that comes can change any but the last."""
    starts = [t.map[0] for t in _parser.parse(text) if t.level == 0 and t.map and t.nesting >= 0]
    if len(starts) < 2:
        return [text] if text.strip() else []
    lines, ends = text.split("\n"), [*starts[1:], None]
    return ["\n".join(lines[a:b]) for a, b in zip([0, *starts[1:]], ends, strict=True)]


def print_markdown(text: str) -> None:
    console().print(_Blocks(blocks(plain(text))), end="")


class Screen:
    """Shows the events of a run as they come; those of the past only tell who speaks."""

    def __init__(self, run: Run[Any], on: Console | None = None) -> None:
        self._echo = _hide_control_keys()
        self._run = run
        self._writer = Writer(on or console())
        self._speakers = Speakers()
        self._writer.status("…")
        # What was said, whether or not anything of it was kept.
        self.spoke = False

    def __call__(self, event: Event, *, past: bool = False) -> None:
        data, speaks = event.data, self._speakers.note(event)
        if past:
            return
        if isinstance(data, TextDelta):
            if event in self._speakers:
                self.spoke = True
                self._writer.write(data.text)
        elif speaks:
            self._writer.flush()
            self._writer.status("…")
        elif isinstance(data, SpanStarted):
            if data.kind in _SHOWN and event.parent is not None:
                self._writer.status(f"… {one_line(data.name)}")
        elif isinstance(data, SpanEnded):
            span = self._run.view.spans.get(event.span)
            if span is not None and span.kind in _SHOWN and span.parent is not None:
                self._writer.line(self._called(span))

    def close(self) -> None:
        self._writer.close()
        self._echo()

    def _called(self, span: Span) -> Text:
        spans, depth, above = self._run.view.spans, 0, span.parent
        while above is not None and (found := spans.get(above)) is not None:
            depth += found.kind in _SHOWN and found.parent is not None
            above = found.parent
        got = ""
        if span.error is not None:
            got = f" ✗ {one_line(span.error.message)}"
        elif span.kind == "tool" and span.output is not None:
            got = f" → {short(span.output, 80)}"
        args = f"({arguments(span.input)})" if span.kind == "tool" else ""
        seconds = f" · {duration(span.seconds)}" if span.seconds and span.seconds >= 0.05 else ""
        mark = _MARKS.get(span.status, "·")
        return Text(
            plain(f"{'  ' * depth}{mark} {one_line(span.name)}{args}{got}{seconds}"), style="dim"
        )
