"""What all commands say alike: exit codes, errors, tables, JSON."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import click
import msgspec

from mastra_nb.config import redact
from mastra_nb.errors import LimitExceeded, MastraError, RunSuspended, Stopped, UsageError
from mastra_nb.jsonable import to_json

OK, FAILED, USAGE, SUSPENDED, OVER_BUDGET, INTERRUPTED = 0, 1, 2, 3, 4, 130

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
# A terminal obeys what is in these: the text of a model must not reach it with them.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_MAGIC = re.compile(r"%mastra (?P<name>\w+)|%resume\b")
_NARROWEST = 60


def code_of(error: BaseException) -> int:
    """The exit code that tells a script what came of it."""
    if isinstance(error, RunSuspended):
        return SUSPENDED
    if isinstance(error, LimitExceeded):
        return OVER_BUDGET
    if isinstance(error, Stopped | KeyboardInterrupt | asyncio.CancelledError):
        return INTERRUPTED
    return USAGE if isinstance(error, UsageError) else FAILED


def explain(error: BaseException, *, debug: bool = False) -> None:
    """One line on standard error, and one more that says what to do."""
    if isinstance(error, MastraError):
        message, hint = error.message, error.hint
    else:
        message = f"{type(error).__name__}: {error}"
        hint = "" if debug else "mastra-nb --debug … shows where"
    click.secho("error: ", fg="red", nl=False, err=True)
    note(redact(message))
    if hint:
        note(f"  → {_MAGIC.sub(_command, redact(hint))}")


def _command(match: re.Match[str]) -> str:
    """What is a magic in a notebook is a command here, if there is one of that name."""
    from mastra_nb.cli._group import COMMANDS

    name = match["name"] or "resume"
    return f"mastra-nb {name}" if name in COMMANDS else match[0]


def plain(text: object) -> str:
    """Text of a model, a tool or an error that a terminal shows and does not obey."""
    return _CONTROL.sub("", str(text).replace("\r\n", "\n"))


def one_line(text: object) -> str:
    return " ".join(plain(text).split())


def say(text: object = "", *, nl: bool = True) -> None:
    click.echo(plain(text), nl=nl)


def note(text: object) -> None:
    """To standard error: what is about the command and no result of it."""
    click.echo(plain(text), err=True)


def is_terminal() -> bool:
    return sys.stdout.isatty()


def json_text(value: Any, *, indent: bool = False) -> str:
    """Escapes keep from a terminal what it would obey."""
    encoded = msgspec.json.encode(to_json(value))
    return inert((msgspec.json.format(encoded, indent=2) if indent else encoded).decode())


def inert(text: str) -> str:
    """JSON text that means the same."""
    return _CONTROL.sub(lambda m: f"\\u{ord(m[0]):04x}", text)


def say_json(value: Any) -> None:
    """One JSON value, indented where a person reads it."""
    click.echo(json_text(value, indent=is_terminal()))


def say_table(header: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str) -> None:
    """Aligned columns; in a terminal the widest ones are cut to its width, in a pipe nothing is."""
    if not rows:
        note(empty)
        return
    cells = [[*header], *([one_line("" if c is None else c) for c in row] for row in rows)]
    used = [i for i in range(len(header)) if i == 0 or any(row[i] for row in cells[1:])]
    cells = [[row[i] for i in used] for row in cells]
    widths = [max(len(row[i]) for row in cells) for i in range(len(used))]
    if is_terminal():
        room = max(_NARROWEST, shutil.get_terminal_size().columns) - 2 * (len(widths) - 1)
        while sum(widths) > room and max(widths) > 8:
            widths[widths.index(max(widths))] -= 1
    for n, row in enumerate(cells):
        line = "  ".join(_cut(c, w).ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        click.secho(line, bold=n == 0)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def when(seconds: float | None) -> str:
    """A moment as people here write it."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else ""


def dollars(cost: float | None) -> str:
    if cost is None:
        return ""
    return f"${cost:.4f}" if cost else "$0"


def aside() -> contextlib.AbstractContextManager[Any]:
    """Around code that is not ours: what it prints is no result."""
    return contextlib.redirect_stdout(sys.stderr)


def wait(work: Coroutine[Any, Any, T]) -> T:
    """Run it; Ctrl-C cancels it, lets it end in order and then raises KeyboardInterrupt."""
    return asyncio.run(work)


def json_option(what: str) -> Callable[[F], F]:
    return click.option("--json", "as_json", is_flag=True, help=f"Print {what} as JSON.")
