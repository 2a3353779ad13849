"""Everything that happens in a run, as one closed union of payloads in one envelope.

Cells, widgets, traces, REST streams and the journal are readers of the same log. Deltas are
for eyes: `fold(all) == fold(durable)` once a run rests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec

from mastra_nb.messages import Finish, Message, Usage

VERSION = 1

SpanStatus = Literal["running", "ok", "error", "cancelled", "suspended"]
RunStatus = Literal["new", "running", "suspended", "done", "failed", "cancelled"]


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`retry` says that a guardrail asked for another answer."""

    code: str
    message: str
    hint: str = ""
    retry: bool = False


# What holds JSON only is in no cycle: the collector, which a stream would keep busy, passes it by.
class _Payload(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", gc=False
):
    pass


class SpanStarted(_Payload, frozen=True, kw_only=True, omit_defaults=True, tag="span-started"):
    """`input` is a JSON value; of a model call it holds a digest and the new messages only."""

    kind: str
    name: str
    input: Any = None
    attempt: int = 1


class SpanEnded(_Payload, frozen=True, kw_only=True, omit_defaults=True, tag="span-ended"):
    """`output` is a JSON value; of a model call it names the seq of its MessageAdded."""

    status: Literal["ok", "error", "cancelled"]
    output: Any = None
    usage: Usage | None = None
    error: ErrorInfo | None = None


class TextDelta(_Payload, frozen=True, kw_only=True, omit_defaults=True, tag="text-delta"):
    text: str


class ReasoningDelta(
    _Payload, frozen=True, kw_only=True, omit_defaults=True, tag="reasoning-delta"
):
    text: str


class ArgsDelta(_Payload, frozen=True, kw_only=True, omit_defaults=True, tag="args-delta"):
    """A piece of a tool call's JSON text; the first of a call carries its name."""

    id: str
    text: str
    name: str = ""


class MessageAdded(_Payload, frozen=True, kw_only=True, omit_defaults=True, tag="message-added"):
    message: Message
    finish: Finish | None = None


class Suspended(_Payload, frozen=True, kw_only=True, omit_defaults=True, tag="suspended"):
    """The run waits at `path` for a value that fits the JSON schema `schema`, until `deadline` (in
    seconds since the epoch) if there is one.
    """

    path: str
    reason: str
    payload: Any = None
    schema: dict[str, Any] | None = None
    deadline: float | None = None


class Resumed(_Payload, frozen=True, kw_only=True, omit_defaults=True, tag="resumed"):
    """`expired`: nobody had answered when the deadline came."""

    path: str
    value: Any = None
    expired: bool = False


class StateSet(_Payload, frozen=True, kw_only=True, omit_defaults=True, tag="state-set"):
    key: str
    value: Any = None


class Displayed(_Payload, frozen=True, kw_only=True, omit_defaults=True, tag="displayed"):
    """A MIME bundle (type -> data) that a tool wants seen."""

    bundle: dict[str, Any]


class Scored(_Payload, frozen=True, kw_only=True, omit_defaults=True, tag="scored"):
    scorer: str
    value: float
    reason: str = ""


class Noted(_Payload, frozen=True, kw_only=True, omit_defaults=True, tag="noted"):
    level: Literal["debug", "info", "warning", "error"]
    text: str


class Custom(_Payload, frozen=True, kw_only=True, omit_defaults=True, tag="custom"):
    name: str
    value: Any = None


Delta = TextDelta | ReasoningDelta | ArgsDelta
Durable = (
    SpanStarted
    | SpanEnded
    | MessageAdded
    | Suspended
    | Resumed
    | StateSet
    | Displayed
    | Scored
    | Noted
    | Custom
)
Payload = Delta | Durable
DELTAS = (TextDelta, ReasoningDelta, ArgsDelta)
# Kinds of spans that speak for the one they are in: its model, and whom it handed over to.
SPEAKERS = ("model", "handoff")


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A payload, stamped by the run.

    Durable events number densely from 1 (`seq`, with `n` 0); a delta carries the cursor
    (last `seq`, `n` from 1). `span` is the path of the span it belongs to, `at` is seconds
    since the epoch.
    """

    run: str
    seq: int
    span: str
    data: Payload
    at: float
    parent: str | None = None
    n: int = 0
    v: int = VERSION

    @property
    def durable(self) -> bool:
        return not isinstance(self.data, DELTAS)

    @property
    def cursor(self) -> tuple[int, int]:
        return (self.seq, self.n)


class _Envelope(msgspec.Struct, frozen=True, kw_only=True):
    run: str
    seq: int
    span: str
    data: msgspec.Raw
    at: float
    parent: str | None = None
    n: int = 0
    v: int = VERSION


_encoder = msgspec.json.Encoder()
_payloads = msgspec.json.Decoder(Payload)
_envelopes = msgspec.json.Decoder(_Envelope)
_TAGS = frozenset(str(t.__struct_config__.tag) for t in (*DELTAS, *Durable.__args__))


def _encode(value: Payload | Event) -> bytes:
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        # Half a surrogate pair has no UTF-8: it is read back as "?".
        return _encoder.encode(_scrubbed(msgspec.to_builtins(value)))


def _scrubbed(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {_scrubbed(k): _scrubbed(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_scrubbed(v) for v in value]
    return value


def encode_payload(data: Payload) -> bytes:
    return _encode(data)


def decode_payload(raw: bytes | str) -> Payload:
    """The payload in `raw`; a type from a newer version decodes to Custom, so nothing is lost."""
    try:
        payload: Payload = _payloads.decode(raw)
        return payload
    except msgspec.ValidationError:
        value = msgspec.json.decode(raw)
        kind = value.get("type") if isinstance(value, dict) else None
        if not isinstance(kind, str) or kind in _TAGS:
            raise
        return Custom(name=kind, value={k: v for k, v in value.items() if k != "type"})


def encode(event: Event) -> bytes:
    return _encode(event)


def decode(raw: bytes | str) -> Event:
    e = _envelopes.decode(raw)
    return Event(
        run=e.run,
        seq=e.seq,
        span=e.span,
        data=decode_payload(bytes(e.data)),
        at=e.at,
        parent=e.parent,
        n=e.n,
        v=e.v,
    )


class Draft(msgspec.Struct):
    """What a model call has said so far; gone once its message is in the log.

    Pieces stay apart until somebody looks, so that a delta costs the same at any length.
    """

    text_parts: list[str] = []
    reasoning_parts: list[str] = []
    calls: dict[str, tuple[str, list[str]]] = {}

    @property
    def text(self) -> str:
        return "".join(self.text_parts)

    @property
    def reasoning(self) -> str:
        return "".join(self.reasoning_parts)


class Span(msgspec.Struct, kw_only=True):
    path: str
    kind: str
    name: str
    parent: str | None
    started: float
    status: SpanStatus = "running"
    attempt: int = 1
    ended: float | None = None
    input: Any = None
    output: Any = None
    usage: Usage | None = None
    error: ErrorInfo | None = None
    children: list[str] = []

    @property
    def seconds(self) -> float | None:
        return None if self.ended is None else max(0.0, self.ended - self.started)


class View(msgspec.Struct, kw_only=True):
    """State of a run: a fold over its events, kept up to date with `apply`.

    `messages` and `items` are in log order; an item is (span path, payload) of everything a
    reader shows that is not a span or a message. The first span is the `root`; a key of `state`
    whose value is None is not there.
    """

    run: str = ""
    status: RunStatus = "new"
    spans: dict[str, Span] = {}
    messages: list[tuple[str, int, Message]] = []
    drafts: dict[str, Draft] = {}
    pending: dict[str, Suspended] = {}
    answers: dict[str, Any] = {}
    state: dict[str, Any] = {}
    items: list[tuple[str, Payload]] = []
    usage: Usage = Usage()
    seq: int = 0
    root: str = ""

    @property
    def text(self) -> str:
        """The newest answer of the root span itself: a draft while it is spoken, else a message."""
        for path in self._answers(self.root):
            if draft := self.drafts.get(path):
                return draft.text
            for span, _, message in reversed(self.messages):
                if span == path:
                    return message.text
        return ""

    @property
    def finish(self) -> Finish | None:
        """Why the newest answer of the root span ended; None if there is none, or it was cut."""
        for path in self._answers(self.root):
            output = self.spans[path].output
            return output.get("finish") if isinstance(output, dict) else None
        return None

    def _answers(self, path: str) -> Iterator[str]:
        """The model calls that speak for the span at `path`, the newest first."""
        span = self.spans.get(path)
        if span is None:
            return
        if span.kind == "model":
            yield path
            return
        for child in reversed(span.children):
            if self.spans[child].kind in SPEAKERS:
                yield from self._answers(child)

    @property
    def waits_for(self) -> str:
        """What is pending, in words."""
        return ", ".join(
            f'approval of "{s.payload.get("tool")}"'
            if s.reason == "approval" and isinstance(s.payload, dict)
            else s.reason
            for s in self.pending.values()
        )

    def apply(self, event: Event) -> None:
        data, path = event.data, event.span
        if isinstance(data, DELTAS):
            self._apply_delta(path, data)
            return
        self.run, self.seq = event.run, event.seq
        if isinstance(data, SpanStarted):
            self._start(event, data)
        elif isinstance(data, SpanEnded):
            self._end(event, data)
        elif isinstance(data, MessageAdded):
            self.messages.append((path, event.seq, data.message))
            self.drafts.pop(path, None)
        elif isinstance(data, Suspended):
            again = data.path in self.pending
            self.pending[data.path] = data
            # One that waited before is named again, for all that were not called anew.
            for place in [*self.pending] if again else (path,):
                self._mark_suspended(place if place in self.spans else place.rpartition("~")[0])
        elif isinstance(data, Resumed):
            self.pending.pop(data.path, None)
            self.answers[data.path] = data.value
            self.status = "running"
        elif isinstance(data, StateSet):
            if data.value is None:
                self.state.pop(data.key, None)
            else:
                self.state[data.key] = data.value
        else:
            self.items.append((path, data))

    def _apply_delta(self, path: str, data: Delta) -> None:
        span = self.spans.get(path)
        if span is None or span.status != "running":
            return  # of a thread that was given up: its call has ended
        draft = self.drafts.get(path)
        if draft is None:
            draft = self.drafts[path] = Draft()
        if isinstance(data, TextDelta):
            draft.text_parts.append(data.text)
        elif isinstance(data, ReasoningDelta):
            draft.reasoning_parts.append(data.text)
        else:
            name, pieces = draft.calls.get(data.id, ("", []))
            pieces.append(data.text)
            draft.calls[data.id] = (data.name or name, pieces)

    def _start(self, event: Event, data: SpanStarted) -> None:
        path, old = event.span, self.spans.get(event.span)
        if old is None:
            if not self.root:
                self.root = path
            elif event.parent in self.spans:
                self.spans[event.parent].children.append(path)
        elif data.kind == "model":
            # What a call had said that was cut off is said anew.
            self.messages = [m for m in self.messages if m[0] != path]
        self.spans[path] = Span(
            path=path,
            kind=data.kind,
            name=data.name,
            parent=event.parent,
            started=event.at,
            attempt=data.attempt,
            input=data.input,
            children=old.children if old else [],
        )
        if path == self.root:
            self.status = "running"

    def _end(self, event: Event, data: SpanEnded) -> None:
        span = self.spans.get(event.span)
        self.drafts.pop(event.span, None)
        if self.pending:
            drop_below(event.span, self.pending)
        if data.usage is not None:
            self.usage = self.usage + data.usage
        if span is None:
            return
        span.status, span.ended, span.output = data.status, event.at, data.output
        span.usage, span.error = data.usage, data.error
        if event.span == self.root:
            self.status = _RUN_STATUS[data.status]

    def _mark_suspended(self, path: str | None) -> None:
        """The span at `path` and all that wait for it; the run rests once nothing else runs."""
        while path is not None and (span := self.spans.get(path)) is not None:
            if span.status == "running":
                span.status = "suspended"
            self.drafts.pop(path, None)
            path = span.parent
        self.status = "suspended"


def drop_below(path: str, waiting: dict[str, Suspended]) -> None:
    """A call that has ended waits for nothing any more, nor does what it had called."""
    for place in [*waiting]:
        if place.startswith(path) and place[len(path) :][:1] in ("", "/", "~"):
            del waiting[place]


_RUN_STATUS: dict[str, RunStatus] = {"ok": "done", "error": "failed", "cancelled": "cancelled"}


def fold(events: Iterable[Event]) -> View:
    view = View()
    for event in events:
        view.apply(event)
    return view
