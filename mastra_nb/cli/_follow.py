"""A run from its first event to its rest, and what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import sys
from typing import Any, Protocol

import click
import msgspec

from mastra_nb import events, views
from mastra_nb.cli._output import (
    FAILED,
    OK,
    USAGE,
    aside,
    code_of,
    explain,
    inert,
    is_terminal,
    json_text,
    note,
    one_line,
    plain,
    say,
    say_json,
)
from mastra_nb.config import redact
from mastra_nb.errors import MastraError, RunSuspended, Stopped
from mastra_nb.events import SPEAKERS, Event, SpanStarted, TextDelta
from mastra_nb.jsonable import to_json
from mastra_nb.records import record
from mastra_nb.runs import Run

COMMAND = "mastra-nb resume"


class Reader(Protocol):
    """Shows a run; `spoke` is whether it has shown any of the answer's text."""

    spoke: bool

    def __call__(self, event: Event, *, past: bool = False) -> None: ...

    def close(self) -> None: ...


async def follow(run: Run[Any], reader: Reader | None = None) -> BaseException | None:
    """Drive the run until it rests, and return why it has no output. If this is cancelled (Ctrl-C)
    the run is stopped, what it has said is kept, and the error is Stopped.
    """
    known = len(run.log.events)
    try:
        n = 0
        async for event in run.events():
            n += 1
            if reader is not None:
                reader(event, past=n <= known)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None
        while task.cancelling():
            task.uncancel()
    try:
        _ = run.output
    except Exception as error:
        return error
    return None


def outcome_code(error: BaseException | None) -> int:
    """Whatever a run raises, it is not the command that was used wrongly."""
    if error is None:
        return OK
    code = code_of(error)
    return FAILED if code == USAGE else code


def summary(
    run: Run[Any], error: BaseException | None, target: str | None = None
) -> dict[str, Any]:
    """{"run", "status", "output", "usage"}, and where there are some "text" (of an answer that was
    cut off), "pending" and "error".
    """
    out: dict[str, Any] = {
        "run": run.id,
        "name": run.name,
        "status": run.status,
        "output": to_json(run.output) if error is None else None,
        "usage": {**_USAGE, **msgspec.to_builtins(run.usage)},
    }
    if run.thread:
        out["thread"] = run.thread
    if error is not None and run.text:
        out["text"] = run.text
    if run.pending:
        out["pending"] = pending(run, target)
    if error is not None and not isinstance(error, RunSuspended):
        out["error"] = told(error)
    return out


_USAGE = {"input": 0, "output": 0, "cost": None}


def told(error: BaseException) -> dict[str, str]:
    if isinstance(error, MastraError):
        return {
            "code": error.code, "message": redact(error.message), "hint": redact(error.hint),
        }  # fmt: skip
    return {"code": "error", "message": redact(f"{type(error).__name__}: {error}"), "hint": ""}


def pending(run: Run[Any], target: str | None = None) -> list[dict[str, Any]]:
    """What it waits for, each with the line that answers it."""
    return [
        {**_bare(asked), "resume": line}
        for asked, line in zip(run.pending.values(), resumes(run, target), strict=True)
    ]


def _bare(asked: events.Suspended) -> dict[str, Any]:
    made: dict[str, Any] = msgspec.to_builtins(asked)
    del made["type"]
    return made


def resumes(run: Run[Any], target: str | None = None) -> list[str]:
    """What to type, with the application where it was named."""
    asked = [
        {"path": path, "reason": each.reason, "schema": each.schema}
        for path, each in run.pending.items()
    ]
    app = f" --app {shlex.quote(target)}" if target else ""
    return [f"{line}{app}" for line in views.resumes({"run": run.id, "pending": asked}, COMMAND)]


def text_of(output: Any) -> str:
    return output if isinstance(output, str) else json_text(output, indent=True)


async def present(
    run: Run[Any], *, target: str | None, as_json: bool, stream: bool | None, debug: bool
) -> int:
    """Follow the run, show it and what came of it; the exit code. Text streams to a terminal by
    itself; with `as_json` a stream is one event a line, and what came of it in the last.
    """
    shown = _reader(run, as_json, stream)
    # A terminal shows what tools print between the lines of the answer.
    with contextlib.nullcontext() if is_terminal() and not as_json else aside():
        try:
            error = await follow(run, shown)
        finally:
            shown.close()
    if as_json and stream:
        click.echo(json_text({"type": "result", **summary(run, error, target)}))
    elif as_json:
        say_json(summary(run, error, target))
    elif error is None:
        if run.output is not None and not (shown.spoke and isinstance(run.output, str)):
            say_output(run.output)
    elif run.text and not shown.spoke:
        say(run.text)
    complain(run, error, target, debug=debug)
    if is_terminal() and not as_json:
        _foot(run)
    return outcome_code(error)


def _reader(run: Run[Any], as_json: bool, stream: bool | None) -> Reader:
    if as_json:
        return _Events() if stream else _Quiet()
    if stream is False or (stream is None and not is_terminal()):
        return _Quiet()
    if is_terminal():
        from mastra_nb.cli._screen import Screen

        return Screen(run)
    return _Pieces()


def say_output(output: Any) -> None:
    text = text_of(output)
    if isinstance(output, str) and is_terminal():
        from mastra_nb.cli._screen import print_markdown

        print_markdown(text)
    else:
        say(text)


def complain(
    run: Run[Any], error: BaseException | None, target: str | None = None, *, debug: bool
) -> None:
    """On standard error: why there is no output, and what to do."""
    if isinstance(error, RunSuspended):
        for asked, line in zip(run.pending.values(), resumes(run, target), strict=True):
            note(f"⏸ waits: {question(asked)}")
            note(f"  → {line}")
        if run.log.services.store is None:
            note('  nothing keeps this run: Mastra(storage="sqlite:///mastra.db") would')
    elif isinstance(error, Stopped):
        note(f"■ stopped; what it said is kept in {run.id}")
    elif error is not None:
        explain(error, debug=debug)


def question(asked: events.Suspended) -> str:
    payload = asked.payload
    if isinstance(payload, dict) and asked.reason == "approval":
        return f"{payload.get('tool')}({arguments(payload.get('args'))}) needs approval"
    return asked.reason if payload is None else f"{asked.reason} {json_text(payload)}"


def _foot(run: Run[Any]) -> None:
    made = record(run.view, thread=run.thread)
    usage, parts = made.get("usage"), [run.id]
    if usage:
        parts.append(f"{usage['input']:,} in / {usage['output']:,} out tokens")
        parts.append("cost unknown" if usage["cost"] is None else views.dollars(usage["cost"]))
    if "seconds" in made:
        parts.append(views.duration(made["seconds"]))
    click.secho(plain(" · ".join(parts)), dim=True, err=True)


def arguments(given: Any) -> str:
    """Arguments as in a call, short: `city="Oslo", days=3`."""
    if not isinstance(given, dict):
        return "" if given is None else short(given, 100)
    return short(
        ", ".join(f"{name}={short(json_text(value), 60)}" for name, value in given.items()), 120
    )


def short(value: Any, most: int) -> str:
    text = one_line(value if isinstance(value, str) else json_text(value))
    return text if len(text) <= most else f"{text[: most - 1]}…"


class Speakers:
    """As `runlog.spoken`: which model calls are the run's own voice."""

    def __init__(self) -> None:
        self._inside: set[str] = set()
        self._models: set[str] = set()

    def note(self, event: Event) -> bool:
        """Whether the event starts one."""
        data = event.data
        if not isinstance(data, SpanStarted):
            return False
        if self._inside and (event.parent not in self._inside or data.kind not in SPEAKERS):
            return False
        speaks = data.kind == "model"
        (self._models if speaks else self._inside).add(event.span)
        return speaks

    def __contains__(self, event: Event) -> bool:
        return event.span in self._models


class _Quiet:
    spoke = False

    def __call__(self, event: Event, *, past: bool = False) -> None: ...

    def close(self) -> None: ...


class _Events(_Quiet):
    def __init__(self) -> None:
        self._out = sys.stdout

    def __call__(self, event: Event, *, past: bool = False) -> None:
        if not past:
            click.echo(inert(events.encode(event).decode()), file=self._out)


class _Pieces:
    """The text of the answer as it comes, for a pipe."""

    def __init__(self) -> None:
        self._out = sys.stdout
        self._speakers = Speakers()
        self.spoke = False
        self._open = False

    def __call__(self, event: Event, *, past: bool = False) -> None:
        if self._speakers.note(event):
            self.close()
        elif isinstance(event.data, TextDelta) and event in self._speakers and not past:
            self.spoke = self._open = True
            self._out.write(plain(event.data.text))
            self._out.flush()

    def close(self) -> None:
        if self._open:
            self._out.write("\n")
            self._out.flush()
            self._open = False
