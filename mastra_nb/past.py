"""What earlier drives of a run left in its journal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mastra_nb.events import (
    Custom,
    ErrorInfo,
    Event,
    MessageAdded,
    Payload,
    Resumed,
    SpanEnded,
    SpanStarted,
    StateSet,
    Suspended,
    drop_below,
)
from mastra_nb.limits import Limits
from mastra_nb.messages import Usage

# Names of the events in which what a run was given is kept, for whoever takes it up.
LIMITS = "limits"
REQUEST_CONTEXT = "request_context"
# Names of the events in which a workflow keeps its outline, and that a step has ended it.
GRAPH = "graph"
BAIL = "bail"
# And in which a fork keeps what is otherwise in it.
FORK = "fork"
# Calls of these kinds begin anew when they are cut off: what they had set is set again.
_LEAVES = frozenset({"step", "tool", "map", "value"})


class Past:
    """What earlier drives of the same run left in the journal, by path.

    `failed` holds the newest attempts that ended with an error, `failures` how many did since
    what they are in began; `used` what was called and what it spent; `seq` is the last event's;
    `worked` is in seconds. `held` are calls that wait, and that nobody answers now.
    """

    def __init__(self, events: Sequence[Event] = ()) -> None:
        self.seq = 0
        self.done: dict[str, Any] = {}
        self.failed: dict[str, ErrorInfo] = {}
        self.failures: dict[str, int] = {}
        self.attempts: dict[str, int] = {}
        self.messages: dict[str, list[int]] = {}
        self.waiting: dict[str, Suspended] = {}
        self.asked: dict[str, Suspended] = {}
        self.answers: dict[str, Any] = {}
        self.expired: set[str] = set()
        self.held: frozenset[str] = frozenset()
        self.graphs: dict[str, Any] = {}
        self.inputs: dict[str, Any] = {}
        self.bails: set[str] = set()
        self.state: dict[str, Any] = {}
        self.used: list[tuple[str, str, Usage | None]] = []
        self.limits: Limits | None = None
        self.request_context: dict[str, Any] | None = None
        self.worked = 0.0
        # True if the run goes on because somebody answered.
        self.answered = False
        self._events = events
        self._at = events[0].at if events else 0.0
        self._kinds: dict[str, str] = {}
        self._writes: list[tuple[str, int, StateSet]] = []
        self._ended: set[tuple[str, int]] = set()
        self._taken: set[int] = set()
        for event in events:
            self.apply(event)
        self.set_state()

    def set_state(self) -> None:
        for path, attempt, write in self._writes:
            if (path, attempt) in self._ended or self._kinds.get(path) not in _LEAVES:
                self.state[write.key] = write.value

    def apply(self, event: Event) -> None:
        data, path = event.data, event.span
        self.seq = event.seq
        if not _resumes(data):
            self.worked += max(0.0, event.at - self._at)
        self._at = event.at
        if isinstance(data, SpanStarted):
            self.attempts[path] = data.attempt
            self._kinds[path] = data.kind
            self.failed.pop(path, None)
            self.used.append((path, data.kind, None))
        elif isinstance(data, SpanEnded):
            self._ended.add((path, self.attempts.get(path, 0)))
            if data.status == "ok":
                self.done[path] = data.output
            elif data.error is not None:
                self.failed[path] = data.error
                self.failures[path] = self.failures.get(path, 0) + 1
                self.forget_failures(path)
            if data.usage is not None:
                self.used.append((path, "", data.usage))
            if self.waiting:
                drop_below(path, self.waiting)
        elif isinstance(data, MessageAdded):
            self.messages.setdefault(path, []).append(event.seq)
        elif isinstance(data, Suspended):
            self.waiting[data.path] = self.asked[data.path] = data
        elif isinstance(data, Resumed):
            self.answer(data.path, data.value, expired=data.expired)
        elif isinstance(data, StateSet):
            self._writes.append((path, self.attempts.get(path, 0), data))
        elif isinstance(data, Custom) and not path and data.name == LIMITS:
            self.limits = msgspec.convert(data.value, Limits)
        elif isinstance(data, Custom) and not path and data.name == REQUEST_CONTEXT:
            self.request_context = data.value
        elif isinstance(data, Custom) and path and data.name == GRAPH:
            self.graphs[path] = data.value
        elif isinstance(data, Custom) and path and data.name == BAIL:
            self.bails.add(data.value)
        elif isinstance(data, Custom) and not path and data.name == FORK:
            self.inputs |= data.value.get("inputs", {})
            self.done |= data.value.get("outputs", {})

    def take_in(self, path: str, events: Sequence[Event]) -> None:
        """What this drive has finished in the call at `path`, which is about to begin anew: as if
        another process had.
        """
        below = f"{path}/"
        for event in events:
            data, span = event.data, event.span
            if not (span == path or span.startswith(below)) or event.seq in self._taken:
                continue
            if isinstance(data, MessageAdded):
                self.messages.setdefault(span, []).append(event.seq)
            elif isinstance(data, SpanStarted):
                self.attempts[span] = data.attempt
                self.used.append((span, data.kind, None))
            elif isinstance(data, SpanEnded):
                if data.status == "ok":
                    self.done[span] = data.output
                if data.usage is not None:
                    self.used.append((span, "", data.usage))
            else:
                continue
            self._taken.add(event.seq)

    def answer(self, path: str, value: Any, *, expired: bool) -> None:
        self.waiting.pop(path, None)
        self.answers[path] = value
        if expired:
            self.expired.add(path)

    def hold(self) -> None:
        """What waits now goes on waiting in this drive."""
        self.held = frozenset(
            path if path in self.attempts else path.rpartition("~")[0] for path in self.waiting
        )

    def forget_failures(self, path: str) -> None:
        """What is in the call at `path` begins anew with it."""
        if self._kinds.get(path) not in _LEAVES:
            for place in [p for p in self.failures if p.startswith(f"{path}/")]:
                del self.failures[place]

    def worked_in(self, path: str) -> float:
        """Seconds that the call at `path` was at work, if the run only waited for an answer."""
        worked, at = 0.0, None
        for event in self._events if self.answered else ():
            if _resumes(event.data):
                at = None
            if event.span == path or event.span.startswith(f"{path}/"):
                worked += 0.0 if at is None else max(0.0, event.at - at)
                at = event.at
        return worked


def _resumes(data: Payload) -> bool:
    """True for what begins a drive: before it the run waited or was dead."""
    return isinstance(data, Resumed) or (isinstance(data, SpanStarted) and data.attempt > 1)
