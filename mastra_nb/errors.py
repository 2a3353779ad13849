"""Every error this package raises, one tree.

::

    MastraError(Exception)   code "tool.timeout" · hint · details · picklable
    ├── UsageError           ConfigError · SchemaError · NotFound · MissingExtra
    ├── ModelError           ModelHTTPError(status, retry_after) · ModelTimeout · ModelRefused
    │                        · ModelOutputError
    ├── ToolError            ToolArgsError · ToolTimeout · ToolFailed · ToolRetry
    ├── StepError            of a workflow: "step.timeout", "step.output", "step.expired", …
    ├── RunError             LimitExceeded · Blocked · Stopped · RunSuspended(run) · NotResumable
    │                        · ReplayMismatch · LeaseHeld · WorkerDied
    ├── StorageError         Conflict · MigrationError
    └── PluginError
    Signal(BaseException)    Suspend · Bail: control flow that no `except Exception` may swallow

A message says what happened, with names in quotes; `hint` says what to do next, in one line.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar


class MastraError(Exception):
    """Base of the tree. `details` holds JSON values only and never a secret."""

    default_code: ClassVar[str] = "error"

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        code: str = "",
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or self.default_code
        self.details = details or {}

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception.__reduce__ replays positional args only and would lose the keywords.
        return (_rebuild, (type(self), self.message, self.__dict__))


def _rebuild(cls: type[MastraError], message: str, state: dict[str, Any]) -> MastraError:
    error = cls.__new__(cls)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class UsageError(MastraError):
    """A mistake in how the package was used: shown in a cell without a traceback."""

    default_code = "usage"


class ConfigError(UsageError):
    default_code = "config"


class SchemaError(UsageError):
    """A value does not fit its type, or a type has no JSON schema."""

    default_code = "schema"


class NotFound(UsageError):
    default_code = "not_found"


class MissingExtra(UsageError):
    default_code = "missing_extra"


class ModelError(MastraError):
    default_code = "model"


class ModelHTTPError(ModelError):
    """The provider answered with an error status, or could not be reached (`status` 0).

    `retry_after` is in seconds, when the provider said so.
    """

    default_code = "model.http"

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        retry_after: float | None = None,
        hint: str = "",
        code: str = "",
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message, hint=hint, code=code, details=details)
        self.status = status
        self.retry_after = retry_after


class ModelTimeout(ModelError):
    default_code = "model.timeout"


class ModelRefused(ModelError):
    default_code = "model.refused"


class ModelOutputError(ModelError):
    """The provider's bytes or the model's answer could not be understood."""

    default_code = "model.output"


class ToolError(MastraError):
    default_code = "tool"


class ToolArgsError(ToolError):
    default_code = "tool.args"


class ToolTimeout(ToolError):
    default_code = "tool.timeout"


class ToolFailed(ToolError):
    default_code = "tool.failed"


class ToolRetry(ToolError):
    """Raised by a tool: the model sees the message and may call again."""

    default_code = "tool.retry"


class StepError(MastraError):
    """A step of a workflow; what the step itself raises is raised as it is."""

    default_code = "step.failed"


class RunError(MastraError):
    default_code = "run"


class LimitExceeded(RunError):
    """A budget is used up; the call that would cross it was not sent."""

    default_code = "run.limit"


class Blocked(RunError):
    """A guardrail stopped the run; with `retry` it asks the model for another answer."""

    default_code = "run.blocked"

    def __init__(
        self,
        message: str,
        *,
        retry: bool = False,
        hint: str = "",
        code: str = "",
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message, hint=hint, code=code, details=details)
        self.retry = retry


class Stopped(RunError):
    """The run was cancelled: by the kernel's interrupt, a Stop button or `run.cancel()`."""

    default_code = "run.stopped"


class RunSuspended(RunError):
    """The run waits for an answer; `run` is the run, `run.pending` says what it waits for."""

    default_code = "run.suspended"

    def __init__(self, message: str, *, run: Any = None, hint: str = "", code: str = "") -> None:
        super().__init__(message, hint=hint, code=code)
        self.run = run

    def __reduce__(self) -> tuple[Any, ...]:
        # A live run holds tasks and connections: only its id crosses a process border.
        state = {**self.__dict__, "run": getattr(self.run, "id", self.run)}
        return (_rebuild, (type(self), self.message, state))


class NotResumable(RunError):
    default_code = "run.not_resumable"


class ReplayMismatch(RunError):
    """The journal and the code that is run again do not describe the same calls."""

    default_code = "run.replay_mismatch"


class LeaseHeld(RunError):
    """Another process drives this run."""

    default_code = "run.lease_held"


class WorkerDied(RunError):
    """The process that did the work of an executor ended in the middle of it."""

    default_code = "executor.worker_died"


class StorageError(MastraError):
    default_code = "storage"


class Conflict(StorageError):
    """A write lost against another writer, or repeats an id with other content."""

    default_code = "storage.conflict"


class MigrationError(StorageError):
    default_code = "storage.migration"


class PluginError(MastraError):
    default_code = "plugin"


class Signal(BaseException):
    """Control flow, not an error: outside Exception so that user code cannot swallow it."""


class Suspend(Signal):
    """Unwinds a run up to its handle once a Suspended event is in the log."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


class Bail(Signal):
    """Ends the workflow that the step is in, successfully, with `value`."""

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.value = value


def _likeness(one: str, two: str) -> float:
    from difflib import SequenceMatcher

    return SequenceMatcher(None, two, one).ratio()


def close_matches(name: str, known: Iterable[str]) -> str:
    """The tail of a NotFound message: close matches, or what there is, or nothing."""
    from difflib import get_close_matches  # most programs never mistype

    names = sorted(set(known))
    if not names:
        return ""
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        # Beside a very close one the far ones are noise.
        best = _likeness(name, near[0])
        near = [n for n in near if _likeness(name, n) > best - 0.15]
        return "did you mean " + " or ".join(f'"{n}"' for n in near) + "?"
    shown = ", ".join(f'"{n}"' for n in names[:8])
    return f"known: {shown}" + (", …" if len(names) > 8 else "")
