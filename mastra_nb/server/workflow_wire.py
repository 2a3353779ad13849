"""What a workflow says, in Mastra's words: the chunks of its stream, and its steps for results."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mastra_nb.events import (
    Custom,
    Displayed,
    ErrorInfo,
    Event,
    Resumed,
    RunStatus,
    SpanEnded,
    SpanStarted,
    StateSet,
    Suspended,
)
from mastra_nb.messages import Usage
from mastra_nb.past import BAIL, FORK, GRAPH, LIMITS, REQUEST_CONTEXT
from mastra_nb.server._words import Json, ms, usage_of
from mastra_nb.server.wire import AgentWire, Emit, RunWire, Speaker

# Spans of a workflow that are no steps: what it asks itself, and journals.
_HIDDEN = ("value", "model", "handoff")
_OURS = {BAIL, FORK, GRAPH, LIMITS, REQUEST_CONTEXT}
_NUMBER = re.compile(r"\[(\d+)\]$")
_MARKS = re.compile(r"(\[[\d.]+\]|#.*|~\d+)$")

# Mastra's words for what becomes of a run.
STATUS: dict[RunStatus, str] = {
    "new": "pending",
    "running": "running",
    "suspended": "suspended",
    "done": "success",
    "failed": "failed",
    "cancelled": "canceled",
}


def step_id(path: str, root: str) -> str:
    """The name of the step at `path`: those of nested workflows are joined with a dot."""
    below = path[len(root) + 1 :] if path.startswith(f"{root}/") else path
    return ".".join(_MARKS.sub("", part) for part in below.split("/"))


class WorkflowWire:
    """`steps` are the records of its steps by id, in the order in which they began."""

    def __init__(
        self, wire: RunWire, name: str, path: str, emit: Emit, *, above: WorkflowWire | None = None
    ) -> None:
        self.name = name
        self.path = path
        self.top: WorkflowWire = self if above is None else above.top
        self.steps: dict[str, Json] = {} if above is None else above.steps
        self.order: list[str] = [] if above is None else above.order
        self.usage = Usage()
        self.input: Any = None
        self.output: Any = None
        self.error: ErrorInfo | None = None
        self.state: dict[str, Any] = {}
        self.waiting: dict[str, Suspended] = {}
        self.bailed = False
        self.began = 0.0
        self._wire = wire
        self._emit = emit
        self._foreach: set[str] = set()
        self._items: dict[str, _Items] = {}
        # What the last step gave: what a foreach that follows goes over.
        self._last: Any = None

    def say(self, type: str, payload: Json, *, source: str = "WORKFLOW") -> None:
        self._emit({"type": type, "runId": self._wire.run, "from": source, "payload": payload})

    def id_of(self, path: str) -> str:
        return step_id(path, self.top.path)

    def child(self, event: Event, data: SpanStarted) -> Speaker | None:
        if event.parent != self.path or data.kind in _HIDDEN:
            return None
        if data.kind == "workflow":
            inner = WorkflowWire(self._wire, data.name, event.span, self._emit, above=self)
            return _Step(self, event.span, inner)
        if data.kind == "agent":
            id = self.id_of(event.span)

            def inside(chunk: Json) -> None:
                payload = {"stepName": id, "output": chunk, "runId": self._wire.run}
                self.say("workflow-step-output", payload, source="USER")

            return _Step(self, event.span, AgentWire(self._wire, data.name, event.span, inside))
        return _Step(self, event.span, None)

    def feed(self, event: Event) -> None:
        if event.span not in (self.path, ""):
            return
        match event.data:
            case SpanStarted() as data:
                self.input = data.input if not self.began else self.input
                self.began = self.began or event.at
                self._last = data.input
                if self.top is self:
                    self.say("workflow-start", {"workflowId": self.name})
            case Custom() as data if data.name == GRAPH and isinstance(data.value, dict):
                self._foreach = {*_each(data.value.get("nodes"))}
            case Custom() as data if data.name not in _OURS:
                self.wrote("", {"type": f"data-{data.name}", "data": data.value})
            case StateSet() as data:
                self.state[data.key] = data.value
            case SpanEnded() as data if event.span == self.path:
                self._over(event, data)
            case _:
                pass

    def wrote(self, step: str, output: Any) -> None:
        payload = {"stepName": step, "output": output, "runId": self._wire.run}
        self.say("workflow-step-output", payload, source="USER")

    def spend(self, usage: Usage | None) -> None:
        if usage is not None:
            self.top.usage += usage

    # Its steps

    def started(self, event: Event, data: SpanStarted) -> None:
        id, local = self.id_of(event.span), _MARKS.sub("", event.span.rpartition("/")[2])
        at = ms(event.at)
        if local in self._foreach and _NUMBER.search(event.span):
            self._item_started(id, event, data)
            return
        self._end_items()
        old = self.steps.get(id, {})
        again = bool(old) and old.get("_path") == event.span
        record: Json = {"_path": event.span, "status": "running", "payload": data.input}
        if again:
            record = {**old, "status": "running"}
        record.setdefault("startedAt", at)
        self._put(id, record)
        if data.kind == "timer":
            record["status"] = "waiting"
            about = {"stepName": id, "id": id, "payload": data.input or {}, "startedAt": at}
            self.say("workflow-step-waiting", {**about, "status": "waiting"})
            return
        about = {
            "stepName": id,
            "id": id,
            "stepCallId": event.span,
            "payload": data.input,
            "startedAt": at,
            "status": "running",
        }
        if (round := _NUMBER.search(event.span)) is not None:
            record["metadata"] = {"iterationCount": int(round.group(1)) + 1}
            about["metadata"] = record["metadata"]
        for key in ("resumePayload", "resumedAt"):
            if key in record:
                about[key] = record[key]
        self.say("workflow-step-start", about)

    def _put(self, id: str, record: Json) -> None:
        if id not in self.steps:
            self.order.append(id)
        self.steps[id] = record

    def _about(self, id: str) -> Json:
        record = self.steps[id]
        shown = {k: v for k, v in record.items() if not k.startswith("_")}
        return {"stepName": id, "id": id, "stepCallId": record.get("_path", id), **shown}

    def ended(self, event: Event, data: SpanEnded) -> None:
        id = self.id_of(event.span)
        self.spend(data.usage)
        if self._item_ended(id, event, data):
            return
        record = self.steps.get(id)
        if record is None:
            return
        for place in [*self.top.waiting]:
            if place == event.span or place.startswith((f"{event.span}/", f"{event.span}~")):
                del self.top.waiting[place]
        record["endedAt"] = ms(event.at)
        if data.status == "ok":
            record |= {"status": "success", "output": data.output}
            self._last = data.output
        elif data.status == "cancelled":
            record["status"] = "canceled"
        else:
            record |= {"status": "failed", "error": error_of(data.error)}
        self.say("workflow-step-result", self._about(id))

    def waits(self, event: Event, data: Suspended) -> None:
        id = self.id_of(event.span)
        again = data.path in self.top.waiting
        self.top.waiting[data.path] = data
        record = self.steps.get(id)
        if record is None:
            return
        items = self._items.get(id)
        record |= {"status": "suspended", "suspendPayload": data.payload}
        record["suspendedAt"] = ms(event.at)
        if items is not None:
            items.waits = True
        above, _, _ = id.rpartition(".")
        while above:  # the workflows it is in wait too
            if above in self.steps:
                self.steps[above]["status"] = "suspended"
            above, _, _ = above.rpartition(".")
        if not again:
            self.say("workflow-step-suspended", self._about(id))

    def resumed(self, event: Event, data: Resumed) -> None:
        self.top.waiting.pop(data.path, None)
        record = self.steps.get(self.id_of(data.path.partition("~")[0]))
        if record is not None:
            record |= {"resumePayload": data.value, "resumedAt": ms(event.at)}

    # The items of a foreach

    def _item_started(self, id: str, event: Event, data: SpanStarted) -> None:
        items = self._items.get(id)
        if items is None or items.over:
            self._end_items()
            given = self._last if isinstance(self._last, list) else None
            items = self._items[id] = _Items(id, given)
            at = ms(event.at)
            record: Json = {"status": "running", "payload": given, "startedAt": at}
            self._put(id, record | {"_path": id})
            about = {"stepName": id, "id": id, "payload": given}
            self.say("workflow-step-start", {**about, "startedAt": at, "status": "running"})
        items.begun(event.span, data.input)

    def _item_ended(self, id: str, event: Event, data: SpanEnded) -> bool:
        items, found = self._items.get(id), _NUMBER.search(event.span)
        if items is None or items.over or found is None or event.span not in items.paths:
            return False
        n = int(found.group(1))
        self.top.waiting.pop(event.span, None)
        items.ended(n, data, event)
        status = "success" if data.status == "ok" else "failed"
        self.say(
            "workflow-step-progress",
            {
                "stepName": id,
                "id": id,
                "completedCount": items.done,
                "totalCount": items.total,
                "currentIndex": n,
                "iterationStatus": status,
                "iterationOutput": data.output,
            },
        )
        if items.done >= items.total and items.given is not None:
            self._close(items)
        return True

    def _end_items(self) -> None:
        for items in self._items.values():
            if not items.over and not items.waits:
                self._close(items)

    def _close(self, items: _Items) -> None:
        items.over = True
        record = self.steps[items.id]
        record["endedAt"] = items.at
        if items.error is not None:
            record |= {"status": "failed", "error": error_of(items.error)}
        else:
            self._last = [items.outputs.get(n) for n in range(items.total)]
            record |= {"status": "success", "output": self._last}
        about = self._about(items.id)
        about.pop("stepCallId")
        self.say("workflow-step-result", about)

    # Its end

    def _over(self, event: Event, data: SpanEnded) -> None:
        for items in self._items.values():
            items.waits = False
        self._end_items()
        self.output, self.error = data.output, data.error
        if self.top is not self:
            return
        self.waiting.clear()
        status = {"ok": "success", "cancelled": "canceled"}.get(data.status, "failed")
        if status == "canceled":
            self.say("workflow-canceled", {})
        self._finish(status)

    def _finish(self, status: str) -> None:
        payload: Json = {"workflowStatus": status, "metadata": {}}
        payload["output"] = {"usage": usage_of(self.usage)}
        if status == "success":
            payload["finalWorkflowResult"] = self.output
        if self.error is not None:
            payload["error"] = error_of(self.error)
        self.say("workflow-finish", payload)

    def rest(self) -> None:
        """It waits for somebody."""
        if self.waiting:
            self._finish("suspended")

    def fail(self, error: ErrorInfo) -> None:
        self.error = error
        self._finish("failed")


class _Step:
    """A step of a workflow; what is called in it is told by `inner`, if that has a voice."""

    def __init__(self, flow: WorkflowWire, path: str, inner: Any) -> None:
        self._flow = flow
        self._path = path
        self._inner = inner

    def child(self, event: Event, data: SpanStarted) -> Speaker | None:
        found: Speaker | None = None
        if self._inner is not None:
            found = self._inner.child(event, data) or self._inner
        return found

    def feed(self, event: Event) -> None:
        data, own = event.data, event.span == self._path
        if own and isinstance(data, SpanStarted):
            self._flow.started(event, data)
        elif isinstance(data, Resumed):
            self._flow.resumed(event, data)
        elif isinstance(data, Suspended):
            self._flow.waits(event, data)
        if self._inner is not None and (own or isinstance(self._inner, AgentWire)):
            self._inner.feed(event)
        elif isinstance(data, Custom) and data.name not in _OURS:
            shown = {"type": f"data-{data.name}", "data": data.value}
            self._flow.wrote(self._flow.id_of(self._path), shown)
        elif isinstance(data, Displayed):
            shown = {"type": "data-display", "data": data.bundle}
            self._flow.wrote(self._flow.id_of(self._path), shown)
        elif isinstance(data, SpanEnded) and not own:
            self._flow.spend(data.usage)
        elif isinstance(data, StateSet):
            self._flow.top.state[data.key] = data.value
        if own and isinstance(data, SpanEnded):
            if isinstance(self._inner, AgentWire):
                self._flow.spend(self._inner.usage)
            self._flow.ended(event, data)


class _Items:
    def __init__(self, id: str, given: list[Any] | None) -> None:
        self.id = id
        self.given = given
        self.paths: set[str] = set()
        self.outputs: dict[int, Any] = {}
        self.done = 0
        self.at = 0
        self.over = False
        self.waits = False
        self.error: ErrorInfo | None = None

    @property
    def total(self) -> int:
        return len(self.paths) if self.given is None else len(self.given)

    def begun(self, path: str, input: Any) -> None:
        self.paths.add(path)

    def ended(self, n: int, data: SpanEnded, event: Event) -> None:
        self.done, self.at = self.done + 1, ms(event.at)
        if data.status == "ok":
            self.outputs[n] = data.output
        elif data.error is not None:
            self.error = data.error


def _each(nodes: Any) -> Iterator[str]:
    """Ids of the steps that a foreach of this workflow runs for each item."""
    for node in nodes if isinstance(nodes, list) else ():
        if not isinstance(node, Mapping):
            continue
        inner = node.get("nodes")
        if node.get("type") == "foreach" and isinstance(inner, list):
            yield from (str(n.get("id")) for n in inner if isinstance(n, Mapping))
        for arm in node.get("arms") or ():
            yield from _each(arm.get("nodes") if isinstance(arm, Mapping) else arm)


def error_of(error: ErrorInfo | None) -> Json:
    if error is None:
        return {"name": "Error", "message": "it was stopped"}
    return {"name": error.code, "message": error.message}
