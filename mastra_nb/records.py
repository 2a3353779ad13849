"""A run as one JSON record.

The record is the cell's only output: stored, rendered natively by the lab extension and as
Markdown elsewhere, listed in panels, compared by `diff`. It holds no ids or times that change
when a notebook is run again, except `seconds`.

Record: `version`, `agent`, `status`, `text` (the answer so far), `output` (a typed answer),
`items`, `pending`, `usage`, `model`, `seconds`, `step` (while running), `thread`, `run` (while it
runs or waits, if given), `error`, `partial`, `code` (of an answer in code: its `language`, and the
`source` and `cell` id of what it is meant for); what is empty is left out. An item is one of::

    {"type": "text" | "reasoning", "text"}
    {"type": "tool", "name", "status", "args", "result" | "error", "seconds", "attempt", "items"}
    {"type": <any other span kind>, … the same, "text" or "output": what a nested agent gave}
    {"type": "display", "mime", "data"}        {"type": "note", "level", "text"}
    {"type": "score", "name", "value", "text"} {"type": "custom", "name", "value"}
    {"type": "more", "count", "name"?}         items past the cap; `name`: all of them of one node

A workflow's record or item also has `graph`, its outline with the `states` of its nodes, and
`timeline` (bars, see timelines). Its items are its steps, named as their nodes are.

`status` of an item is that of its span, "streaming" while a model still writes the call, or "not
run" for a call of a model that was asked by itself. An agent that took a conversation over
("handoff") and the call that gives an answer its type ("structure") have no text of their own:
what they say is the answer of the record they are in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from mastra_nb import graphs
from mastra_nb._escape import valid
from mastra_nb.events import Custom, Displayed, ErrorInfo, Noted, Payload, Scored, Span, View
from mastra_nb.messages import Message
from mastra_nb.timelines import timeline

VERSION = 1

Record = dict[str, Any]

_MAX_TOTAL = 200_000
_MAX_IMAGES = 2_000_000
IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_HIDDEN = ("value", "timer")
# What the engine keeps for itself on a workflow's span.
_KEPT = (graphs.EVENT, "bail")
# Kinds of calls that give a value and nothing else.
_GIVE = ("tool", "step", "map", "ask", "event")
_MAX_INPUT, _MAX_RESULT = 250, 600
# Of the calls of one node so many of the first, of those that run and of those that failed.
_FIRST, _MOVING, _FAILED = 5, 5, 10
_SPEAK_FOR = ("handoff", "structure")
# Kinds of a root whose model was asked by itself: nobody runs the tools that it calls.
_ALONE = ("model", "answer")
_OWN_TYPES = ("text", "reasoning", "display", "note", "score", "custom", "more")


def record(
    view: View, *, thread: str = "", run: str = "", max_chars: int = 4000, max_items: int = 200
) -> Record:
    """The one JSON record of a run. `run` is its id: for stopping it, and for answering it."""
    reader = _Reader(view, max_chars, max_items)
    root = view.spans.get(view.root)
    out: Record = {"version": VERSION, "agent": valid(root.name if root else "")}
    out["status"] = view.status
    if root is not None:
        out |= reader.inside(root)
        if root.error is not None:
            out["error"] = _error(root.error)
        if (seconds := root.seconds) is not None:
            out["seconds"] = round(seconds, 2)
    if reader.models:
        out["model"] = ", ".join(reader.models)
    if view.status == "running":
        out["step"] = reader.calls
    if view.pending:
        out["pending"] = reader.pending()
    if run and (view.pending or view.status == "running"):
        out["run"] = valid(run)
    if view.usage.calls:
        usage = view.usage
        out["usage"] = {
            "input": usage.input,
            "output": usage.output,
            "cached": usage.cached,
            "reasoning": usage.reasoning,
            "cost": usage.cost,
        }
        if usage.estimated:
            out["usage"]["estimated"] = True
    if thread:
        out["thread"] = valid(thread)
    return out


def _error(error: ErrorInfo) -> Record:
    out = {"code": valid(error.code), "message": valid(error.message)[:4000]}
    return out | {"hint": valid(error.hint)[:1000]} if error.hint else out


class _Reader:
    """Walks a view once; what it takes counts against the caps."""

    def __init__(self, view: View, max_chars: int, max_items: int) -> None:
        self.view, self.max_chars = view, max_chars
        self.left_items, self.left_chars, self.left_images = max_items, _MAX_TOTAL, _MAX_IMAGES
        self.models: dict[str, None] = {}
        self.calls = 0
        self.said: dict[str, list[Message]] = {}
        for path, _, message in view.messages:
            if message.role == "assistant":
                self.said.setdefault(path, []).append(message)
        self.outlines = graphs.outlines(view)
        self.waited = graphs.waited(view)
        self.extras: dict[str, list[Payload]] = {}
        for path, payload in view.items:
            self.extras.setdefault(path, []).append(payload)

    def inside(self, span: Span) -> Record:
        """`text`, `output`, `partial` and `items` of a span that calls models and tools."""
        items: list[Record] = []
        answer, partial = "", False
        shown = self._shown(span) if span.kind == "workflow" else None
        left_out: dict[str, Record] = {}
        for path in [span.path] if span.kind == "model" else span.children:
            child = self.view.spans[path]
            if shown is not None and path not in shown:
                if child.kind not in _HIDDEN:
                    _leave_out(items, left_out, graphs.node_of(path, span.path))
            elif child.kind == "model":
                answer, partial = self._model(child, span, items)
            elif child.kind in _SPEAK_FOR:
                told = self._call(child, items)
                answer, partial = told.pop("text", ""), told.pop("partial", False)
                told.pop("output", None)
            elif child.kind not in _HIDDEN or child.error is not None:
                self._call(child, items)
        if span.kind != "model":
            self._extras(span.path, items, shown=span.kind != "tool")
        out: Record = {}
        if span.kind == "workflow":
            out |= self._picture(span)
        gave = span.status == "ok" and span.output is not None
        if gave and span.kind != "model" and span.kind not in _GIVE:
            # What the run gave: a guardrail may have changed what the model wrote.
            if isinstance(span.output, str):
                answer = valid(span.output)
            else:
                answer, out["output"] = "", self._cap(span.output)
        if answer:
            out["text"] = answer
        if partial:
            out["partial"] = True
        if items:
            out["items"] = items
        return out

    def _picture(self, span: Span) -> Record:
        """`graph` and `timeline` of a workflow that no other picture holds."""
        above = self.view.spans.get(span.parent or "")
        if above is not None and above.kind == "workflow" and above.path in self.outlines:
            return {}
        outline = graphs.outline_of(self.view, span.path, self.outlines)
        if outline is None:
            return {}
        states = graphs.states(outline, self.view, span.path)
        seen = {k: s for k, s in states.items() if s.status != "waiting"}
        out: Record = {"graph": outline | {"states": msgspec.to_builtins(seen)}}
        # A picture that is drawn many times a second leaves out what is for afterwards.
        if self.view.status != "running" and (bars := timeline(self.view, span.path)):
            out["timeline"] = bars
        return out

    def _shown(self, span: Span) -> set[str] | None:
        """Which calls of a workflow are shown if there are too many of one node."""
        if len(span.children) <= 2 * _FIRST:
            return None
        out: set[str] = set()
        seen: dict[tuple[str, str], int] = {}
        for path in span.children:
            child = self.view.spans[path]
            key = (graphs.node_of(path, span.path), _TAKEN.get(child.status, "first"))
            n = seen[key] = seen.get(key, 0) + 1
            if n <= _MOST[key[1]]:
                out.add(path)
        return out

    def _model(self, span: Span, parent: Span, items: list[Record]) -> tuple[str, bool]:
        """Adds what one model call said on the way; (its text if it is an answer, cut off)."""
        if self.view.root in (parent.path, span.path) or parent.kind in _SPEAK_FOR:
            self.calls += 1
            self.models[valid(span.name)] = None
        answer, partial = "", False
        for text, reasoning, calls, cut in self._turns(span, alone=parent.kind in _ALONE):
            if reasoning:
                self._add(items, {"type": "reasoning", "text": self._cap(reasoning)})
            answer, partial = "" if calls is not None else valid(text), cut
            if text and calls is not None:
                self._add(items, {"type": "text", "text": self._cap(text)})
            for name, args in calls or ():
                status = "streaming" if span.ended is None else "not run"
                item = {"type": "tool", "name": valid(name), "status": status}
                self._add(items, item | {"args": self._cap(args)})
        if span.error is not None and span.error != parent.error:
            self._note(items, "warning", span.error.message)
        self._extras(span.path, items, shown=True)
        return answer, partial

    def _turns(
        self, span: Span, *, alone: bool
    ) -> Iterator[tuple[str, str, list[tuple[str, Any]] | None, bool]]:
        """(text, reasoning, calls that nothing else shows or None if it calls nothing, cut off)."""
        for message in self.said.get(span.path, ()):
            calls = [(c.name, _read(c.args)) for c in message.tool_calls] if alone else []
            yield (
                message.text,
                message.reasoning,
                calls if message.tool_calls else None,
                message.partial,
            )
        if (draft := self.view.drafts.get(span.path)) is not None:
            writing = [(name, "".join(parts)) for name, parts in draft.calls.values()]
            yield draft.text, draft.reasoning, writing or None, False

    def _call(self, span: Span, items: list[Record]) -> Record:
        kind = f"{span.kind}-span" if span.kind in _OWN_TYPES else valid(span.kind)
        above = self.view.spans.get(span.parent or "")
        step = above is not None and above.kind == "workflow"
        name = _step_name(span) if step else span.name
        item: Record = {"type": kind, "name": valid(name)[:200], "status": span.status}
        if not self._add(items, item):
            return item
        called = step or span.kind == "tool"
        called = called or (span.kind == "agent" and isinstance(span.input, dict))
        if called and (given := self._given(span)) not in (None, "", {}):
            item["args"] = self._cap(given, _MAX_INPUT if step else None)
        gave = span.kind in _GIVE and (span.kind == "tool" or span.output is not None)
        if span.status == "ok" and gave:
            item["result"] = self._cap(span.output, _MAX_RESULT if step else None)
        if span.error is not None:
            item["error"] = _error(span.error)
        if (seconds := span.seconds) is not None:
            item["seconds"] = round(seconds, 2)
        # The second attempt of a call that waited for an answer is no retry.
        if span.attempt > 1 and span.path not in self.waited:
            item["attempt"] = span.attempt
        item |= self.inside(span)
        for payload in self.extras.get(span.path, ()) if span.kind == "tool" else ():
            if isinstance(payload, Displayed):
                self._display(items, payload)
        return item

    def _given(self, span: Span) -> Any:
        """What it was called with: a person may have changed that when it was approved."""
        answer = self.view.answers.get(span.path)
        if span.kind == "tool" and isinstance(answer, dict) and answer.get("approved") is True:
            return answer.get("args", span.input)
        return span.input

    def _extras(self, path: str, items: list[Record], *, shown: bool) -> None:
        span = self.view.spans.get(path)
        kept = span is not None and span.kind == "workflow"
        for payload in self.extras.get(path, ()):
            if isinstance(payload, Displayed):
                if shown:
                    self._display(items, payload)
            elif isinstance(payload, Noted):
                if payload.level != "debug":
                    self._note(items, payload.level, payload.text)
            elif isinstance(payload, Scored):
                item = {"type": "score", "name": valid(payload.scorer), "value": payload.value}
                text = {"text": self._cap(payload.reason)} if payload.reason else {}
                self._add(items, item | text)
            elif isinstance(payload, Custom) and not (kept and payload.name in _KEPT):
                item = {"type": "custom", "name": valid(payload.name)}
                self._add(items, item | {"value": self._cap(payload.value)})

    def _note(self, items: list[Record], level: str, text: str) -> None:
        self._add(items, {"type": "note", "level": level, "text": self._cap(text)})

    def _display(self, items: list[Record], shown: Displayed) -> None:
        """Of a tool's bundle the first form that is inert by itself: never HTML or SVG."""
        bundle = shown.bundle
        for mime in IMAGES:
            data = re.sub(r"\s+", "", _joined(bundle.get(mime)))
            if not re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", data):
                continue
            if len(data) > self.left_images:
                self._note(items, "info", f"{mime} of {len(data) * 3 // 4:,} bytes is too large")
                return
            self.left_images -= len(data)
            self._add(items, {"type": "display", "mime": mime, "data": data})
            return
        for mime in ("text/markdown", "application/json", "text/plain"):
            if mime in bundle:
                data = bundle[mime] if mime == "application/json" else _joined(bundle[mime])
                self._add(items, {"type": "display", "mime": mime, "data": self._cap(data)})
                return
        self._note(items, "info", "not shown: " + (", ".join(map(str, bundle)) or "nothing"))

    def pending(self) -> list[Record]:
        out: list[Record] = []
        for path, asked in self.view.pending.items():
            item: Record = {"path": valid(path), "reason": valid(asked.reason)}
            if isinstance(asked.payload, dict) and asked.reason == "approval":
                item |= {k: self._cap(asked.payload[k]) for k in _APPROVAL if k in asked.payload}
            elif asked.payload is not None:
                item["payload"] = self._cap(asked.payload)
            if asked.schema is not None:
                item["schema"] = self._cap(asked.schema)
            out.append(item)
        return out

    def _add(self, items: list[Record], item: Record) -> bool:
        if self.left_items > 0:
            self.left_items -= 1
            items.append(item)
            return True
        if items and items[-1]["type"] == "more":
            items[-1]["count"] += 1
        else:
            items.append({"type": "more", "count": 1})
        return False

    def _cap(self, value: Any, most: int | None = None) -> Any:
        """`value` as JSON, or the head of its text with a marker."""
        if value is None or isinstance(value, bool | int):
            return value
        text = valid(value) if isinstance(value, str) else json_text(value)
        limit = min(most or self.max_chars, self.max_chars, max(200, self.left_chars))
        self.left_chars -= min(len(text), limit)
        if len(text) > limit:
            return f"{text[:limit]}… ({len(text) - limit:,} more characters)"
        return text if isinstance(value, str) else msgspec.json.decode(text)


_TAKEN = {"error": "failed", "cancelled": "failed", "running": "moving", "suspended": "moving"}
_MOST = {"first": _FIRST, "moving": _MOVING, "failed": _FAILED}


def _leave_out(items: list[Record], left_out: dict[str, Record], name: str) -> None:
    if (more := left_out.get(name)) is None:
        more = left_out[name] = {"type": "more", "count": 0, "name": valid(name)[:200]}
        items.append(more)
    more["count"] += 1


def _step_name(span: Span) -> str:
    """`read`, or `read[3]` of a foreach or a loop; what a body's call is known by is for nobody."""
    return span.path[len(span.parent or "") + 1 :].partition("#")[0]


_APPROVAL = ("tool", "args", "digest")


def _read(args: str) -> Any:
    try:
        return msgspec.json.decode(args)
    except msgspec.DecodeError:
        return args


def _joined(data: Any) -> str:
    """A bundle's text may come as lines."""
    return "".join(map(str, data)) if isinstance(data, list | tuple) else str(data or "")


def json_text(value: Any) -> str:
    """Compact JSON; NaN becomes null, so that a browser can read the notebook."""
    try:
        return msgspec.json.encode(value, enc_hook=str).decode()
    except (UnicodeEncodeError, TypeError):
        return msgspec.json.encode(_clean(value)).decode()


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {valid(str(k)): _clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(v) for v in value]
    return value if isinstance(value, int | float | None) else valid(str(value))
