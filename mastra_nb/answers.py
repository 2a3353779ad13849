"""What somebody types to go on with a run: `approve`, `deny` and why, text, a JSON value."""

from __future__ import annotations

from typing import Any

from mastra_nb import views
from mastra_nb.errors import NotFound, NotResumable, SchemaError, UsageError
from mastra_nb.events import Suspended
from mastra_nb.runs import Run
from mastra_nb.schema import parse_json, validate
from mastra_nb.workflow_runs import WorkflowRun


def go_on(
    run: Run[Any], text: str, *, at: str = "", now: float, command: str = "%resume"
) -> Run[Any]:
    """The run, going on with the answer `text` to what it asks at `at` (a path, its last part or
    the name of the call; "" for the only one). Without an answer it goes on where it failed, was
    stopped or cut off, or with the first question whose time is over.

    Raises NotFound, UsageError, NotResumable, SchemaError if the answer does not fit; `command` is
    what their hints tell to type.
    """
    again = isinstance(run, WorkflowRun) and run.status in ("failed", "cancelled")
    if text.strip() and not run.pending:
        raise NotResumable(
            f'run "{run.id}" asks nothing: it is {run.status}',
            hint=f"{command} {run.id} without an answer tries again from there" if again else "",
        )
    path = _place(run, at)
    asked = run.pending.get(path) if path else next(iter(run.pending.values()), None)
    given = read_answer(text, asked, command=command)
    late = [p for p, a in run.pending.items() if (a.deadline or now + 1) <= now]
    if again and isinstance(run, WorkflowRun):
        return run.retry()
    if late and given is ...:
        return run.expire()
    if (path or next(iter(run.pending), "")) in late:
        raise NotResumable(
            f'the time to answer run "{run.id}" is over',
            hint=f"{command} {run.id} without an answer goes on without one",
        )
    return run.resume(given, path=path)


def read_answer(text: str, asked: Suspended | None = None, *, command: str = "%resume") -> Any:
    """The answer to `asked`: a JSON value, text where a text is asked for, `approve`, or `deny`
    with an optional reason; ... for none. Raises UsageError.
    """
    text = text.strip()
    if not text:
        return ...
    schema = (asked.schema if asked is not None else None) or {}
    try:
        value = parse_json(text)
    except SchemaError:
        value = ...
    if value is not ... and _fits(value, schema):
        return value
    if schema and _fits(text, schema):
        return text
    if value is not ...:
        return value  # that it does not fit is said by the run
    word, _, rest = text.partition(" ")
    if word == "deny" or text == "approve":
        if (
            asked is None
            or asked.reason == "approval"
            or "approved" in schema.get("properties", {})
        ):
            why = {"reason": rest.strip()} if rest.strip() else {}
            return {"approved": word == "approve"} | why
        # A mapping that says no would be true in the body's `if`.
        if not rest:
            return word == "approve"
    raise UsageError(f'"{text}" is no answer', hint=f"{command} [RUN] {form(asked)}")


def form(asked: Suspended | None) -> str:
    """The shape of the answer, for somebody to fill in."""
    if asked is None:
        return "approve, deny, or a JSON value"
    return views.form({"reason": asked.reason, "schema": asked.schema})


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    try:
        validate(value, schema)
    except SchemaError:
        return False
    return True


def _place(run: Run[Any], at: str) -> str | None:
    """The path of the call that is answered; None for the only one."""
    pending = run.pending
    if not at:
        if len(pending) > 1:
            places = ", ".join(f'"{_short(path)}"' for path in pending)
            raise NotResumable(
                f'run "{run.id}" waits in {len(pending)} places',
                hint=f"say which one with --at: {places}",
            )
        return None
    found = [path for path in pending if at in (path, _short(path), _named(path))]
    if len(found) != 1:
        places = ", ".join(f'"{_short(path)}"' for path in pending) or "nowhere"
        raise NotFound(
            f'run "{run.id}" does not wait at "{at}" alone', hint=f"it waits at: {places}"
        )
    return found[0]


def _short(path: str) -> str:
    return path.rpartition("/")[2]


def _named(path: str) -> str:
    """The name of the call, without what tells it from others of that name."""
    return _short(path).partition("[")[0].partition("#")[0]
