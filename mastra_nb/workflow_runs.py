"""Runs of workflows: tried again, gone back in, looked at once more."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from mastra_nb.errors import NotFound, NotResumable, UsageError, close_matches
from mastra_nb.events import Custom, Payload, SpanEnded, SpanStarted, StateSet
from mastra_nb.past import FORK, Past
from mastra_nb.runs import Run
from mastra_nb.schema import exact
from mastra_nb.storage import unpaid

T = TypeVar("T")
Changed = Literal["keep", "rerun", "refuse"]
_ENDED_BADLY = ("failed", "cancelled")


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A step that is not what it was when the run came by; `finished`: its result is kept."""

    step: str
    what: Literal["changed", "added", "removed"]
    finished: bool


class WorkflowRun(Run[T]):
    """A run of a workflow. What has ended is never done again."""

    def resume(
        self, answer: Any = ..., *, path: str | None = None, changed: Changed = "keep"
    ) -> Run[T]:
        """The same run, going on; a `path` may be the last part of one, such as a step's id.

        Finished steps whose code has changed since are kept as they are, or `changed` is "refuse"
        (NotResumable) or "rerun": a fork from the first of them. See `Run.resume`.
        """
        if changed != "keep":
            stale = [c.step for c in self.changes if c.what == "changed" and c.finished]
            if stale and changed == "refuse":
                raise NotResumable(
                    f'of run "{self.id}" steps have changed since they ended: {", ".join(stale)}',
                    hint='resume(changed="keep") keeps what they gave, "rerun" runs them anew',
                )
            if stale:
                if answer is not ...:
                    raise UsageError(
                        "a run that goes back cannot take an answer as well",
                        hint="answer what the fork asks: run.fork(step)",
                    )
                first = min(stale, key=lambda step: self._begun(self._place(step)))
                return self.fork(first)
        return super().resume(answer, path=None if path is None else self._waiting(path))

    def retry(self) -> Run[T]:
        """The same run, going on where it failed or was stopped. Raises NotResumable."""
        if self.status not in _ENDED_BADLY:
            raise NotResumable(
                f'run "{self.id}" has not failed: it is {self.status}',
                hint="run.resume() goes on with one that waits or was cut off",
            )
        with self._lock:
            following = self._next
            if following is None:
                following = self._next = self._continued(None)
            elif following._done and following.status in _ENDED_BADLY:
                # The cell that says so was run once more.
                assert isinstance(following, WorkflowRun)
                return following.retry()
            return following

    def send_event(self, name: str, value: Any = None) -> Run[T]:
        """Go on with what a `wait_for_event` of this name waits for."""
        known = []
        for path, asked in self.pending.items():
            if asked.reason == "event" and asked.payload == {"event": name}:
                return self.resume(value, path=path)
            if asked.reason == "event" and isinstance(asked.payload, Mapping):
                known.append(str(asked.payload.get("event")))
        raise NotResumable(
            f'run "{self.id}" does not wait for "{name}"',
            hint=close_matches(name, known) if known else "it waits for no event; see run.pending",
        )

    def fork(
        self,
        step: str,
        *,
        input: Any = ...,
        outputs: Mapping[str, Any] | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> WorkflowRun[T]:
        """A new run that goes on from where `step` (an id, or a path) began; this one stays.

        `input` is what the step is given instead, `outputs` what others gave instead (by id or
        path), `state` what is set before. Raises NotFound for a step that did not begin.
        """
        path = self._place(step)
        seq = self._begun(path) - 1
        durable = [e for e in self.log.events if e.durable]
        what: dict[str, Any] = {"step": path}
        if input is not ...:
            what["inputs"] = {path: exact(input)}
        if outputs:
            what["outputs"] = {self._place(name): exact(v) for name, v in outputs.items()}
        begin: list[tuple[str, Payload]] = [("", Custom(name=FORK, value=what))]
        begin += [("", StateSet(key=key, value=exact(v))) for key, v in (state or {}).items()]
        return self._like(
            past=[unpaid(e) for e in durable if e.seq <= seq],
            id=self._services.new_id(),
            parent=(self.id, seq),
            begin=begin,
        )

    def replay(self) -> WorkflowRun[T]:
        """The run once more from its journal alone: nothing is called, sent or stored.

        Its events come anew, and its output is made by the code that is here now. Raises
        ReplayMismatch where that comes to a call that is not in the journal.
        """
        root = self._prefix or self._segment
        services = copy.copy(self._services)
        services.store, services.sinks, services.present = None, [], None
        past = [
            e
            for e in self.log.events
            if e.durable and not (e.span == root and isinstance(e.data, SpanEnded))
        ]
        made = self._like(past=past, id=self.id, services=services)
        made.log.frozen = True
        return made

    def _like(self, **options: Any) -> WorkflowRun[T]:
        log = self.log
        given: dict[str, Any] = {
            "codec": self._codec, "services": self._services, "limits": log.meter.limits,
            "deps": log.deps, "thread": log.thread, "resource": log.resource,
            "request_context": log.request_context, "go_on": True,
        }  # fmt: skip
        return WorkflowRun(self.target, self.input, **{**given, **options})

    @property
    def changes(self) -> list[Change]:
        """How the workflow differs from what it was when this run last went on."""
        past = Past([e for e in self.log.events if e.durable])
        path = self._prefix or self._segment
        return changes(past, path, getattr(self.target, "outline", None))

    # Where things are

    def _place(self, step: str) -> str:
        """The path of the span that `step` names. Raises NotFound."""
        spans = self.view.spans
        if step in spans:
            return step
        root = self._prefix or self._segment
        if f"{root}/{step}" in spans:
            return f"{root}/{step}"
        found = [p for p in spans if p.rpartition("/")[2] == step or _id(p) == step]
        if len(found) == 1:
            return found[0]
        if not found:
            known = {_id(p) for p, s in spans.items() if s.kind not in ("value", "model")}
            raise NotFound(f'run "{self.id}" has no step "{step}"', hint=close_matches(step, known))
        shown = ", ".join(f'"{p.removeprefix(f"{root}/")}"' for p in found[:6])
        more = f" and {len(found) - 6} more" if len(found) > 6 else ""
        raise NotFound(f'"{step}" is in {len(found)} places', hint=f"say which: {shown}{more}")

    def _begun(self, path: str) -> int:
        for event in self.log.events:
            if event.span == path and isinstance(event.data, SpanStarted):
                return event.seq
        raise NotFound(f'"{path}" of run "{self.id}" did not begin', hint="see run.view.spans")

    def _waiting(self, path: str) -> str:
        pending = self.pending
        if path in pending:
            return path
        found = [p for p in pending if path in (p.rpartition("/")[2], _id(p))]
        return found[0] if len(found) == 1 else path


def _id(path: str) -> str:
    last = path.rpartition("/")[2]
    return last.partition("[")[0].partition("#")[0]


def changes(past: Past, path: str, outline: Mapping[str, Any] | None) -> list[Change]:
    """Between the outline that the journal has for the workflow at `path` and this one."""
    known = past.graphs.get(path)
    if known is None or outline is None or known == outline:
        return []
    old, new = dict(_codes(known["nodes"], "")), dict(_codes(outline["nodes"], ""))
    below = f"{path}/"
    done = {_plain(p.removeprefix(below)) for p in past.done if p.startswith(below)}
    out = [
        Change(step=step, what="changed", finished=step in done)
        for step in old
        if step in new and old[step] and new[step] and old[step] != new[step]
    ]
    out += [Change(step=s, what="removed", finished=s in done) for s in old if s not in new]
    out += [Change(step=s, what="added", finished=s in done) for s in new if s not in old]
    return out


def _plain(path: str) -> str:
    """A path without the numbers of rounds and items."""
    return "/".join(_id(part) for part in path.split("/"))


def _codes(nodes: Sequence[Mapping[str, Any]], above: str) -> Iterator[tuple[str, str]]:
    for node in nodes:
        inner = [*node.get("nodes", ())]
        for arm in node.get("arms", ()):
            inner += arm["nodes"] if isinstance(arm, Mapping) else arm
        if node["type"] in ("parallel", "branch", "loop", "foreach", "graph"):
            yield from _codes(inner, above)
        else:
            yield f"{above}{node['id']}", node.get("code", "")
            yield from _codes(inner, f"{above}{node['id']}/")
