"""A run as one JSON record, and the record as Markdown, a line, or text for a terminal.

The record is the cell's only output: stored, rendered natively by the lab extension and as
Markdown elsewhere, listed in panels, compared by `diff`. It holds no ids or times that change
when a notebook is run again, except `seconds`.

Record: `version`, `agent`, `status`, `text` (the answer so far), `output` (a typed answer),
`items`, `pending`, `usage`, `model`, `seconds`, `step` (while running), `thread`, `run` (while
suspended, if given), `error`, `partial`; what is empty is left out. An item is one of::

    {"type": "text" | "reasoning", "text"}
    {"type": "tool", "name", "status", "args", "result" | "error", "seconds", "attempt", "items"}
    {"type": <any other span kind>, … the same, "text" or "output": what a nested agent gave}
    {"type": "display", "mime", "data"}        {"type": "note", "level", "text"}
    {"type": "score", "name", "value", "text"} {"type": "custom", "name", "value"}
    {"type": "more", "count"}                  items past the cap

`status` of an item is that of its span, or "streaming" while a model still writes the call.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from mastra_nb._escape import code, escape, fence, valid
from mastra_nb._markdown import NO_HOSTS, safe_markdown
from mastra_nb.events import Custom, Displayed, ErrorInfo, Noted, Payload, Scored, Span, View
from mastra_nb.messages import Message

MIME = "application/vnd.mastra.run.v1+json"
VERSION = 1

Record = dict[str, Any]

_MAX_TOTAL = 200_000
_MAX_IMAGES = 2_000_000
_MAX_LINE = 200
_IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_HIDDEN = ("value", "timer")
_OWN_TYPES = ("text", "reasoning", "display", "note", "score", "custom", "more")
_ICONS = {"tool": "🔧", "agent": "🤖", "workflow": "⛓"}
_LEVELS = {"debug": "·", "info": "ℹ", "warning": "⚠", "error": "✗"}


def record(
    view: View, *, thread: str = "", run: str = "", max_chars: int = 4000, max_items: int = 200
) -> Record:
    """The one JSON record of a run. `run` names it in the line that says how to resume."""
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
        if run:
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
        self.extras: dict[str, list[Payload]] = {}
        for path, payload in view.items:
            self.extras.setdefault(path, []).append(payload)

    def inside(self, span: Span) -> Record:
        """`text`, `output`, `partial` and `items` of a span that calls models and tools."""
        items: list[Record] = []
        answer, partial = "", False
        for path in [span.path] if span.kind == "model" else span.children:
            child = self.view.spans[path]
            if child.kind == "model":
                answer, partial = self._model(child, span, items)
            elif child.kind not in _HIDDEN or child.error is not None:
                self._call(child, items)
        if span.kind != "model":
            self._extras(span.path, items, shown=span.kind != "tool")
        out: Record = {}
        if span.status == "ok" and span.kind not in ("model", "tool") and span.output is not None:
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

    def _model(self, span: Span, parent: Span, items: list[Record]) -> tuple[str, bool]:
        """Adds what one model call said on the way; (its text if it is an answer, cut off)."""
        if self.view.root in (parent.path, span.path):
            self.calls += 1
            self.models[valid(span.name)] = None
        answer, partial = "", False
        for text, reasoning, calls, cut in self._turns(span):
            if reasoning:
                self._add(items, {"type": "reasoning", "text": self._cap(reasoning)})
            answer, partial = "" if calls is not None else valid(text), cut
            if text and calls is not None:
                self._add(items, {"type": "text", "text": self._cap(text)})
            for name, args in calls or ():
                item = {"type": "tool", "name": valid(name), "status": "streaming"}
                self._add(items, item | {"args": self._cap(args)})
        if span.error is not None and span.error != parent.error:
            self._note(items, "warning", span.error.message)
        self._extras(span.path, items, shown=True)
        return answer, partial

    def _turns(self, span: Span) -> Iterator[tuple[str, str, list[tuple[str, str]] | None, bool]]:
        """(text, reasoning, calls still being written or None if it calls nothing, cut off)."""
        for message in self.said.get(span.path, ()):
            yield (
                message.text,
                message.reasoning,
                [] if message.tool_calls else None,
                message.partial,
            )
        if (draft := self.view.drafts.get(span.path)) is not None:
            writing = [(name, "".join(parts)) for name, parts in draft.calls.values()]
            yield draft.text, draft.reasoning, writing or None, False

    def _call(self, span: Span, items: list[Record]) -> None:
        kind = f"{span.kind}-span" if span.kind in _OWN_TYPES else valid(span.kind)
        item: Record = {"type": kind, "name": valid(span.name), "status": span.status}
        if not self._add(items, item):
            return
        if span.kind == "tool" and span.input not in (None, "", {}):
            item["args"] = self._cap(span.input)
        if span.kind == "tool" and span.status == "ok":
            item["result"] = self._cap(span.output)
        if span.error is not None:
            item["error"] = _error(span.error)
        if (seconds := span.seconds) is not None:
            item["seconds"] = round(seconds, 2)
        if span.attempt > 1:
            item["attempt"] = span.attempt
        item |= self.inside(span)
        for payload in self.extras.get(span.path, ()) if span.kind == "tool" else ():
            if isinstance(payload, Displayed):
                self._display(items, payload)

    def _extras(self, path: str, items: list[Record], *, shown: bool) -> None:
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
            elif isinstance(payload, Custom):
                item = {"type": "custom", "name": valid(payload.name)}
                self._add(items, item | {"value": self._cap(payload.value)})

    def _note(self, items: list[Record], level: str, text: str) -> None:
        self._add(items, {"type": "note", "level": level, "text": self._cap(text)})

    def _display(self, items: list[Record], shown: Displayed) -> None:
        """Of a tool's bundle the first form that is inert by itself: never HTML or SVG."""
        bundle = shown.bundle
        for mime in _IMAGES:
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

    def _cap(self, value: Any) -> Any:
        """`value` as JSON, or the head of its text with a marker."""
        if value is None or isinstance(value, bool | int):
            return value
        text = valid(value) if isinstance(value, str) else _json(value)
        limit = min(self.max_chars, max(200, self.left_chars))
        self.left_chars -= min(len(text), limit)
        if len(text) > limit:
            return f"{text[:limit]}… ({len(text) - limit:,} more characters)"
        return text if isinstance(value, str) else msgspec.json.decode(text)


_APPROVAL = ("tool", "args", "digest")


def _joined(data: Any) -> str:
    """A bundle's text may come as lines."""
    return "".join(map(str, data)) if isinstance(data, list | tuple) else str(data or "")


def _json(value: Any) -> str:
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


# --- the bundle and its Markdown ------------------------------------------------------------------


def bundle(run: Record, *, hosts: frozenset[str] = NO_HOSTS) -> dict[str, Any]:
    """The MIME bundle of a record.

    Its JSON leaves out every `text` and image that the Markdown holds: `at` is [start, end] of it
    in `text/markdown`, in UTF-16 units as JavaScript counts.
    """
    doc = _Doc(run, hosts)
    return {
        MIME: _slim(run, doc.marks),
        "text/markdown": doc.markdown(),
        "text/plain": plain(run),
    }


def _slim(node: Record, marks: dict[int, list[int]]) -> Record:
    out = {k: v for k, v in node.items() if k != "items"}
    if id(node) in marks:
        out.pop("text", None)
        out.pop("data", None)
        out["at"] = marks[id(node)]
    if "items" in node:
        out["items"] = [_slim(item, marks) for item in node["items"]]
    return out


def markdown(run: Record, *, hosts: frozenset[str] = NO_HOSTS) -> str:
    """The record for people: inert Markdown, tools and reasoning folded, links only to `hosts`."""
    return _Doc(run, hosts).markdown()


class _Doc:
    def __init__(self, run: Record, hosts: frozenset[str]) -> None:
        self.run, self.hosts = run, hosts
        self.blocks: list[str] = []
        self.size = 0
        self.marks: dict[int, list[int]] = {}
        self._write()

    def markdown(self) -> str:
        return "\n\n".join(self.blocks)

    def _put(self, block: str, node: Record | None = None) -> None:
        if not block:
            return
        start = self.size + (2 if self.blocks else 0)
        self.size = start + len(block.encode("utf-16-le")) // 2
        self.blocks.append(block)
        if node is not None:
            self.marks[id(node)] = [start, self.size]

    def _write(self) -> None:
        run = self.run
        if run["status"] == "running":
            self._put(f"⏳ {' · '.join(escape(s) for s in _doing(run))} …")
        self._body(run)
        if run["status"] == "cancelled":
            self._put(_stopped(run))
        for asked in run.get("pending", ()):
            self._put(_asked_markdown(asked, run.get("run", "")))
        if "error" in run and run["status"] == "failed":
            self._put(_error_markdown(run["error"]))
        if run["status"] != "running" and (footer := " · ".join(map(escape, _footer(run)))):
            self._put(f"<small>{footer}</small>")

    def _body(self, node: Record) -> None:
        for item in node.get("items", ()):
            self._item(item)
        if "output" in node:
            self._put(_block(node["output"]))
        if "text" in node and node.get("type") not in ("reasoning", "score", "note"):
            self._put(safe_markdown(node["text"], hosts=self.hosts), node)

    def _item(self, item: Record) -> None:
        kind = item["type"]
        if kind == "text":
            self._body(item)
        elif kind == "reasoning":
            self._put("<details><summary>💭 reasoning</summary>")
            self._put(safe_markdown(item["text"], hosts=self.hosts), item)
            self._put("</details>")
        elif kind == "display":
            self._display(item)
        elif kind == "note":
            self._put(f"{_LEVELS.get(item['level'], '·')} {escape(item['text'])}")
        elif kind == "score":
            why = f" — {escape(item['text'])}" if item.get("text") else ""
            self._put(f"★ {escape(item['name'])} {escape(_number(item['value']))}{why}")
        elif kind == "more":
            self._put(f"… {item['count']} more")
        elif kind == "custom":
            self._fold(f"◇ {code(item['name'])}", [_block(item["value"])])
        else:
            self._call(item)

    def _call(self, item: Record) -> None:
        args = item.get("args")
        line = [f"{_ICONS.get(item['type'], '▸')} {code(item['name'])}"]
        if item["type"] == "tool":
            line[0] += f"({escape(_args(args))})"
        line += map(escape, _state(item))
        blocks = [_block(args)] if args is not None else []
        if "result" in item:
            blocks.append(_block(item["result"]))
        if "error" in item:
            blocks.append(_error_markdown(item["error"]))
        self._fold(" · ".join(line), blocks, item)

    def _fold(self, line: str, blocks: list[str], node: Record | None = None) -> None:
        if not blocks and not (node and (node.keys() & {"items", "text", "output"})):
            self._put(line)
            return
        self._put(f"<details><summary>{line}</summary>")
        for block in blocks:
            self._put(block)
        if node is not None:
            self._body(node)
        self._put("</details>")

    def _display(self, item: Record) -> None:
        mime, data = item["mime"], item["data"]
        if mime in _IMAGES:
            self._put(f"![image](data:{mime};base64,{data})", item)
        elif mime == "text/markdown":
            self._put(safe_markdown(data, hosts=self.hosts), item)
        else:
            self._put(_block(data))


def _block(value: Any) -> str:
    """A JSON value as a code block."""
    if isinstance(value, str):
        return fence(value)
    raw = _json(value)
    return fence(raw if len(raw) <= 80 else msgspec.json.format(raw, indent=2), "json")


def _error_markdown(error: Record) -> str:
    hint = error.get("hint", "")
    return f"**✗** {escape(error['message'])}" + (f"\\\n→ {escape(hint)}" if hint else "")


def _asked_markdown(asked: Record, run: str) -> str:
    what, answer = _asked(asked)
    call = f"{code(asked['tool'])}({escape(_args(asked.get('args')))})" if "tool" in asked else ""
    shown = f"{call} {escape(what)}" if call else escape(what)
    if "payload" in asked:
        return f"⏸ suspended: {shown} · {code(_resume(run, answer))}\n\n{_block(asked['payload'])}"
    return f"⏸ suspended: {shown} · {code(_resume(run, answer))}"


# --- the words that Markdown, line and terminal share -------------------------------------------


def _doing(run: Record) -> list[str]:
    """What a running run is at: agent, step, and the tools that run or "writing" or "thinking"."""
    names = list(_running(run.get("items", [])))
    what = ", ".join(names) or ("writing" if run.get("text") else "thinking")
    step = [f"step {run['step']}"] if run.get("step") else []
    return [run["agent"] or "run", *step, what]


def _running(items: list[Record]) -> Iterator[str]:
    for item in items:
        if item.get("status") in ("running", "streaming"):
            inner = list(_running(item.get("items", [])))
            yield from inner or [item["name"]]


def _stopped(run: Record) -> str:
    tokens = run.get("usage", {}).get("output", 0)
    return f"■ stopped after {tokens:,} tokens" if tokens else "■ stopped"


def _asked(asked: Record) -> tuple[str, str]:
    if "tool" in asked:
        return "waits for approval", "approve"
    return f"waits for {asked['reason']}", "{…}"


def _resume(run: str, answer: str) -> str:
    return f"%resume {run} {answer}" if run else f"%resume {answer}"


def _state(item: Record) -> list[str]:
    status, out = item["status"], []
    if status in ("running", "streaming"):
        out.append("…")
    elif status == "error":
        out.append("✗ failed")
    elif status == "cancelled":
        out.append("■ cancelled")
    elif status == "suspended":
        out.append("⏸ waits")
    if "attempt" in item:
        out.append(f"attempt {item['attempt']}")
    if "seconds" in item:
        out.append(_seconds(item["seconds"]))
    return out


def _footer(run: Record) -> list[str]:
    out = [run["model"]] if "model" in run else []
    if usage := run.get("usage"):
        cached = f" ({usage['cached']:,} cached)" if usage["cached"] else ""
        out.append(f"{usage['input']:,} in{cached} / {usage['output']:,} out tokens")
        if usage["cost"] is not None:
            out.append(_dollars(usage["cost"]))
    if "seconds" in run:
        out.append(_seconds(run["seconds"]))
    if "thread" in run:
        out.append(f"thread {run['thread']}")
    return out


def _dollars(cost: float) -> str:
    if 0 < cost < 0.0001:
        return "<$0.0001"
    return f"${cost:.2f}" if cost >= 1 or not cost else f"${cost:.4f}"


def _seconds(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _args(args: Any) -> str:
    """Arguments as in a call, short: `city="Oslo", days=3`."""
    if isinstance(args, dict):
        return _short(", ".join(f"{k}={_short(_json(v), 60)}" for k, v in args.items()), 100)
    return "" if args is None else _short(args if isinstance(args, str) else _json(args), 100)


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


# Escape sequences of a model's would reach the terminal.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def plain(run: Record) -> str:
    """The record in one line of at most 200 characters."""
    name = run["agent"] or "run"
    if run["status"] == "running":
        line = f"⏳ {' · '.join(_doing(run))} …"
    elif run.get("pending"):
        asked = run["pending"][0]
        what, answer = _asked(asked)
        call = f"{asked['tool']}({_args(asked.get('args'))}) " if "tool" in asked else ""
        line = f"⏸ suspended: {name} · {call}{what} · {_resume(run.get('run', ''), answer)}"
    elif run["status"] == "failed":
        line = f"✗ {name}: {run.get('error', {}).get('message', 'failed')}"
    elif run["status"] == "cancelled":
        line = f"{_stopped(run)}: {name}"
    else:
        said = run.get("text", "")[:1000] or (_json(run["output"]) if "output" in run else "")
        line = f"{name}: {said}"
    return _short(re.sub(r"\s+", " ", _UNPRINTABLE.sub(" ", line)).strip(), _MAX_LINE)


def text(run: Record) -> str:
    """The record for a terminal: every step a line, the answer in full, the footer."""
    lines = list(_text_items(run, ""))
    said = run.get("text", "") or (_pretty(run["output"]) if "output" in run else "")
    tail: list[str] = []
    if run["status"] == "running":
        tail.append(f"⏳ {' · '.join(_doing(run))} …")
    if run["status"] == "cancelled":
        tail.append(_stopped(run))
    for asked in run.get("pending", ()):
        what, answer = _asked(asked)
        call = f"{asked['tool']}({_args(asked.get('args'))}) " if "tool" in asked else ""
        tail.append(f"⏸ suspended: {call}{what} · {_resume(run.get('run', ''), answer)}")
    if "error" in run and run["status"] == "failed":
        tail.append(_error_text(run["error"]))
    if run["status"] != "running" and (footer := _footer(run)):
        tail.append(" · ".join(footer))
    parts = ["\n".join(lines), said, "\n".join(tail)]
    return _UNPRINTABLE.sub("\ufffd", "\n\n".join(p for p in parts if p))


def _text_items(node: Record, pad: str) -> Iterator[str]:
    for item in node.get("items", ()):
        kind = item["type"]
        if kind in ("text", "reasoning"):
            mark = "💭 " if kind == "reasoning" else ""
            yield from (pad + mark + line for line in item["text"].split("\n"))
        elif kind == "note":
            yield f"{pad}{_LEVELS.get(item['level'], '·')} {item['text']}"
        elif kind == "score":
            yield f"{pad}★ {item['name']} {_number(item['value'])} {item.get('text', '')}".rstrip()
        elif kind == "custom":
            yield f"{pad}◇ {item['name']} {_short(_json(item['value']), 200)}"
        elif kind == "more":
            yield f"{pad}… {item['count']} more"
        elif kind == "display":
            shown = item["mime"] in ("text/plain", "text/markdown")
            lines = _pretty(item["data"]).split("\n") if shown else [f"[{item['mime']}]"]
            yield from (pad + line for line in lines)
        else:
            args = f"({_args(item.get('args'))})" if kind == "tool" else ""
            got = f" → {_short(_json(item['result']), 200)}" if "result" in item else ""
            state = "".join(f" · {s}" for s in _state(item))
            yield f"{pad}{_ICONS.get(kind, '▸')} {item['name']}{args}{got}{state}"
            if "error" in item:
                yield from (f"{pad}  {s}" for s in _error_text(item["error"]).split("\n"))
            yield from _text_items(item, pad + "  ")


def _error_text(error: Record) -> str:
    hint = error.get("hint", "")
    return f"✗ {error['message']}" + (f"\n  → {hint}" if hint else "")


def _pretty(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.format(_json(value), indent=2)
