"""A run's record as a MIME bundle, as Markdown, as a line, or as text for a terminal."""

from __future__ import annotations

import base64
import difflib
import re
import shlex
from collections.abc import Iterator
from typing import Any

import msgspec

from mastra_nb import graphs, timelines
from mastra_nb._escape import code, entities, escape, fence
from mastra_nb._markdown import NO_HOSTS, safe_markdown
from mastra_nb.records import IMAGES, Record, json_text
from mastra_nb.records import record as record

MIME = "application/vnd.mastra.run.v1+json"
WORKFLOW_MIME = "application/vnd.mastra.workflow.v1+json"
_MAX_LINE = 200
_ICONS = {
    "tool": "🔧", "agent": "🤖", "handoff": "🤝", "structure": "🧩", "workflow": "⛓",
    "memory": "🧠", "embedding": "🧮", "event": "📨", "ask": "🙋",
    "step": "⚙", "map": "⇄",
}  # fmt: skip
_WORDS = {"handoff": "handed over to ", "structure": "made a "}
_SIZE = re.compile(r' width="(\d+)[\d.]*" height="(\d+)[\d.]*"')
_CODE = re.compile(
    r"^(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^\n`]*)\n(?P<code>.*?)^(?P=fence)[ \t]*$",
    re.DOTALL | re.MULTILINE,
)
_BRIEF = ("step", "map", "ask", "event")
_LEVELS = {"debug": "·", "info": "ℹ", "warning": "⚠", "error": "✗"}


def code_of(text: str) -> tuple[str, str]:
    """(code, language) of an answer: its first fenced block, else all of it."""
    match = _CODE.search(text)
    if match is None:
        return text.strip("\n"), ""
    return match["code"].rstrip("\n"), (match["info"].split() or [""])[0]


def bundle(run: Record, *, hosts: frozenset[str] = NO_HOSTS, told: bool = False) -> dict[str, Any]:
    """The MIME bundle of a record. `told`: an exception beside it says how the run ended.

    Its JSON leaves out every `text` and image that the Markdown holds: `at` is [start, end] of it
    in `text/markdown`, in UTF-16 units as JavaScript counts. `told` is in it where it is true.
    """
    doc = _Doc(run, hosts, told)
    return {
        MIME: _slim(run, doc.marks) | ({"told": True} if told else {}),
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


def outline_bundle(outline: Record) -> dict[str, Any]:
    """The MIME bundle of a workflow's definition."""
    shown = graphs.tidied(outline)
    return {
        WORKFLOW_MIME: shown,
        "text/markdown": image(graphs.svg(shown), f"workflow {shown['name']}"),
        "text/plain": graphs.text(shown),
    }


def image(svg: str, alt: str) -> str:
    # An element, as some renderers of Markdown take no SVG for ![…](…); with its size, so that
    # what is below does not jump whenever a new picture takes its place.
    data = base64.b64encode(svg.encode()).decode()
    size = _SIZE.search(svg)
    room = f'width="{size[1]}" height="{size[2]}" ' if size else ""
    return f'<img alt="{entities(alt[:200])}" {room}src="data:image/svg+xml;base64,{data}">'


def markdown(run: Record, *, hosts: frozenset[str] = NO_HOSTS) -> str:
    """The record for people: inert Markdown, tools and reasoning folded, links only to `hosts`."""
    return _Doc(run, hosts).markdown()


class _Doc:
    def __init__(self, run: Record, hosts: frozenset[str], told: bool = False) -> None:
        self.run, self.hosts, self.told = run, hosts, told
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
        if run["status"] == "new":
            self._put("○ not started · `await` it, iterate it, or call `.result()`")
        if "graph" in run:
            self._workflow(run)
            return
        if run["status"] == "running":
            self._put(f"⏳ {' · '.join(escape(s) for s in _doing(run))} …")
        self._body(run)
        self._changes(run)
        if run["status"] == "done" and not (run.keys() & {"text", "output"} or _calls(run)):
            self._put("<small>(no answer)</small>")
        self._ending()
        self._foot()

    def _changes(self, run: Record) -> None:
        """What proposed code would change of the cell that it is meant for."""
        before = run.get("code", {}).get("source")
        if not isinstance(before, str):
            return
        after = code_of(run.get("text", ""))[0]
        lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), "", "", "", n=2))
        if lines:
            self._fold("changes", [fence("\n".join(lines[2:]), "diff")])

    def _workflow(self, run: Record) -> None:
        """What a reader looks for comes first: the picture, what is asked or given; then how."""
        if run["status"] == "running":
            self._put(f"⏳ {' · '.join(escape(s) for s in _doing(run))} …")
        self._picture(run)
        if run["status"] == "cancelled" and not self.told:
            self._put(_stopped(run))
        self._pending()
        self._answer(run)
        if "error" in run and run["status"] == "failed" and not self.told:
            self._put(_error_markdown(run["error"]))
        if "items" in run:
            self._put(f"<details><summary>{_steps(run)}</summary>")
            for item in run["items"]:
                self._item(item)
            self._put("</details>")
        self._timeline(run)
        self._foot()

    def _picture(self, node: Record) -> None:
        outline = node["graph"]
        states = graphs.read_states(outline.get("states"))
        self._put(image(graphs.svg(outline, states), f"workflow {outline['name']}"))

    def _timeline(self, node: Record) -> None:
        if len(node.get("timeline", ())) < 2 or self.run["status"] == "running":
            return
        self._put("<details><summary>⏱ timeline</summary>")
        self._put(image(timelines.svg(node["timeline"]), "timeline"))
        self._put("</details>")

    def _foot(self) -> None:
        run = self.run
        if run["status"] != "running" and (footer := " · ".join(map(escape, _footer(run)))):
            self._put(f"<small>{footer}</small>")

    def _ending(self) -> None:
        run = self.run
        if run["status"] == "cancelled" and not self.told:
            self._put(_stopped(run))
        self._pending()
        if "error" in run and run["status"] == "failed" and not self.told:
            self._put(_error_markdown(run["error"]))

    def _pending(self) -> None:
        """What is asked; where an exception beside it says how to go on, the questions alone."""
        for asked, resume in zip(self.run.get("pending", ()), resumes(self.run), strict=True):
            if not self.told:
                self._put(_asked_markdown(asked, resume))
            elif "payload" in asked:
                self._put(_block(asked["payload"]))

    def _body(self, node: Record) -> None:
        if "graph" in node:
            self._picture(node)
        for item in node.get("items", ()):
            self._item(item)
        self._answer(node)
        if "graph" in node:
            self._timeline(node)

    def _answer(self, node: Record) -> None:
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
            self._put(escape(_more(item)))
        elif kind == "custom":
            self._fold(f"◇ {code(item['name'])}", [_block(item["value"])])
        else:
            self._call(item)

    def _call(self, item: Record) -> None:
        args = item.get("args")
        line = [f"{_label(item['type'])}{code(item['name'])}"]
        if item["type"] == "tool" or args is not None:
            line[0] += f"({escape(_args(args))})"
        # What fits into the line of a step needs no fold: there may be many of them.
        brief = item["type"] in _BRIEF
        blocks: list[str] = []
        if args is not None and not (item["type"] != "tool" and _fits(args)):
            blocks += ["<small>arguments</small>", _block(args)]
        if "result" in item and brief and _fits(item["result"]):
            line[0] += f" → {escape(_args(item['result']))}"
        elif "result" in item:
            blocks += ["<small>result</small>", _block(item["result"])]
        line += map(escape, _state(item))
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
        if mime in IMAGES:
            self._put(f"![image](data:{mime};base64,{data})", item)
        elif mime == "text/markdown":
            self._put(safe_markdown(data, hosts=self.hosts), item)
        else:
            self._put(_block(data))


def _fits(value: Any) -> bool:
    return len(json_text(value)) <= 40


def _label(kind: str) -> str:
    return f"{_ICONS.get(kind, '▸')} {_WORDS.get(kind, '')}"


def _block(value: Any) -> str:
    """A JSON value as a code block."""
    if isinstance(value, str):
        return fence(value)
    raw = json_text(value)
    return fence(raw if len(raw) <= 80 else msgspec.json.format(raw, indent=2), "json")


def _error_markdown(error: Record) -> str:
    hint = error.get("hint", "")
    return f"**✗** {escape(error['message'])}" + (f"\\\n→ {escape(hint)}" if hint else "")


def _asked_markdown(asked: Record, resume: str) -> str:
    what = _asked(asked)
    call = f"{code(asked['tool'])}({escape(_args(asked.get('args')))})" if "tool" in asked else ""
    shown = f"{call} {escape(what)}" if call else escape(what)
    if "payload" in asked:
        return f"⏸ suspended: {shown} · {code(resume)}\n\n{_block(asked['payload'])}"
    return f"⏸ suspended: {shown} · {code(resume)}"


# --- the words that Markdown, line and terminal share -------------------------------------------


def _doing(run: Record) -> list[str]:
    """What a running run is at: agent, step, and the tools that run or "writing" or "thinking"."""
    if "graph" in run:
        states = graphs.read_states(run["graph"].get("states"))
        moving = graphs.running(states)
        shown = moving[:5] + ([f"{len(moving) - 5} more"] if len(moving) > 5 else [])
        return [run["agent"] or "run", ", ".join(shown) or "starting"]
    names = list(_running(run.get("items", [])))
    what = ", ".join(names) or ("writing" if run.get("text") else "thinking")
    step = [f"step {run['step']}"] if run.get("step") else []
    return [run["agent"] or "run", *step, what]


def _calls(run: Record) -> list[str]:
    """The calls of a model that nobody ran."""
    items = [i for i in run.get("items", ()) if i.get("status") == "not run"]
    return [f"{i['name']}({_args(i.get('args'))})" for i in items]


def _running(items: list[Record]) -> Iterator[str]:
    for item in items:
        if item.get("status") in ("running", "streaming"):
            inner = list(_running(item.get("items", [])))
            yield from inner or [item["name"]]


def _stopped(run: Record) -> str:
    tokens = run.get("usage", {}).get("output", 0)
    return f"■ stopped after {tokens:,} tokens" if tokens else "■ stopped"


def _asked(asked: Record) -> str:
    return "waits for approval" if "tool" in asked else f"waits for {asked['reason']}"


def resumes(run: Record, command: str = "%resume") -> list[str]:
    """How to answer each of what is pending; where there are several, by its place. Of another
    command than ours the line is for a shell.
    """
    asked = run.get("pending", [])
    id = f" {run['run']}" if run.get("run") else ""
    lasts = [a["path"].rpartition("/")[2] for a in asked]
    names = [last.partition("[")[0].partition("#")[0] for last in lasts]
    out = []
    for a, last, name in zip(asked, lasts, names, strict=True):
        place = name if names.count(name) == 1 else last if lasts.count(last) == 1 else a["path"]
        place = shlex.quote(place) if re.search(r"[\s'\"\\]", place) else place
        at = f" --at {place}" if len(asked) > 1 else ""
        answer = form(a) if command == "%resume" else shlex.quote(form(a))
        out.append(f"{command}{id}{at} {answer}")
    return out


def form(asked: Record) -> str:
    """The shape of the answer, for somebody to fill in."""
    schema = asked.get("schema") or {}
    if asked["reason"] == "approval" or not isinstance(schema, dict):
        return "approve" if asked["reason"] == "approval" else "{…}"
    if "enum" in schema:
        return "|".join(str(value) for value in schema["enum"][:4])
    if fields := schema.get("properties"):
        return "{" + ", ".join(f'"{name}": …' for name in fields) + "}"
    known = {"boolean": "true|false", "string": "TEXT", "integer": "NUMBER", "number": "NUMBER"}
    return known.get(str(schema.get("type")), "{…}")


def _more(item: Record) -> str:
    return f"… {item['count']:,} more" + (f" of {item['name']}" if "name" in item else "")


def _steps(run: Record) -> str:
    """`12 steps`, and how many of them failed."""
    items = run["items"]
    n = sum(i["count"] if i["type"] == "more" else "status" in i for i in items)
    states = graphs.read_states(run["graph"].get("states"))
    own = [s for name, s in states.items() if "/" not in name]
    failed = sum(s.failed or s.status == "error" for s in own)
    said = f"{n:,} step" + ("s" if n != 1 else "")
    return said + (f" · ✗ {failed:,} failed" if failed else "")


def _state(item: Record) -> list[str]:
    status, out = item["status"], []
    if status in ("running", "streaming"):
        out.append("…")
    elif status == "error":
        denied = item.get("error", {}).get("code") == "tool.denied"
        out.append("✗ denied" if denied else "✗ failed")
    elif status == "cancelled":
        out.append("■ cancelled")
    elif status == "suspended":
        out.append("⏸ waits")
    elif status == "not run":
        out.append(status)
    if "attempt" in item:
        out.append(f"attempt {item['attempt']}")
    if "seconds" in item:
        out.append(duration(item["seconds"]))
    return out


def _footer(run: Record) -> list[str]:
    out = [run["model"]] if "model" in run else []
    usage = run.get("usage")
    # A call that was cut off never says what it used.
    if usage and (usage["input"] or usage["output"]):
        cached = f" ({usage['cached']:,} cached)" if usage["cached"] else ""
        about = "~" if usage.get("estimated") else ""
        out.append(f"{about}{usage['input']:,} in{cached} / {about}{usage['output']:,} out tokens")
        if usage["cost"] is not None:
            out.append(about + dollars(usage["cost"]))
        else:
            out.append("cost unknown")
    if "seconds" in run:
        out.append(duration(run["seconds"]))
    if "thread" in run:
        out.append(f"thread {run['thread']}")
    return out


def dollars(cost: float) -> str:
    if 0 < cost < 0.0001:
        return "<$0.0001"
    return f"${cost:.2f}" if cost >= 1 or not cost else f"${cost:.4f}"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _args(args: Any) -> str:
    """Arguments as in a call, short: `city="Oslo", days=3`."""
    if isinstance(args, dict):
        return _short(", ".join(f"{k}={_short(json_text(v), 60)}" for k, v in args.items()), 100)
    return "" if args is None else _short(args if isinstance(args, str) else json_text(args), 100)


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


# Escape sequences of a model's would reach the terminal.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def plain(run: Record) -> str:
    """The record in one line of at most 200 characters."""
    name = run["agent"] or "run"
    if run["status"] == "new":
        line = "○ not started"
    elif run["status"] == "running":
        line = f"⏳ {' · '.join(_doing(run))} …"
    elif run.get("pending"):
        asked, what = run["pending"][0], _asked(run["pending"][0])
        call = f"{asked['tool']}({_args(asked.get('args'))}) " if "tool" in asked else ""
        line = f"⏸ suspended: {name} · {call}{what} · {resumes(run)[0]}"
        if len(run["pending"]) > 1:
            line += f" · {len(run['pending']) - 1} more"
    elif run["status"] == "failed":
        line = f"✗ {name}: {run.get('error', {}).get('message', 'failed')}"
    elif run["status"] == "cancelled":
        line = f"{_stopped(run)}: {name}"
    else:
        said = run.get("text", "")[:1000] or (json_text(run["output"]) if "output" in run else "")
        said = said or "; ".join(_calls(run))
        line = f"{name}: {said}"
    return _short(re.sub(r"\s+", " ", _UNPRINTABLE.sub(" ", line)).strip(), _MAX_LINE)


def text(run: Record) -> str:
    """The record for a terminal: every step a line, the answer in full, the footer."""
    lines = list(_text_items(run, ""))
    if "graph" in run:
        graph = run["graph"]
        lines = [graphs.text(graph, graphs.read_states(graph.get("states")))]
    said = run.get("text", "") or (_pretty(run["output"]) if "output" in run else "")
    tail: list[str] = []
    if run["status"] == "running":
        tail.append(f"⏳ {' · '.join(_doing(run))} …")
    if run["status"] == "cancelled":
        tail.append(_stopped(run))
    for asked, resume in zip(run.get("pending", ()), resumes(run), strict=True):
        call = f"{asked['tool']}({_args(asked.get('args'))}) " if "tool" in asked else ""
        tail.append(f"⏸ suspended: {call}{_asked(asked)} · {resume}")
        if "payload" in asked:
            tail.append(_pretty(asked["payload"]))
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
            yield f"{pad}◇ {item['name']} {_short(json_text(item['value']), 200)}"
        elif kind == "more":
            yield pad + _more(item)
        elif kind == "display":
            shown = item["mime"] in ("text/plain", "text/markdown")
            lines = _pretty(item["data"]).split("\n") if shown else [f"[{item['mime']}]"]
            yield from (pad + line for line in lines)
        else:
            args = f"({_args(item.get('args'))})" if kind == "tool" or "args" in item else ""
            got = f" → {_short(json_text(item['result']), 200)}" if "result" in item else ""
            state = "".join(f" · {s}" for s in _state(item))
            yield f"{pad}{_label(kind)}{item['name']}{args}{got}{state}"
            if "error" in item:
                yield from (f"{pad}  {s}" for s in _error_text(item["error"]).split("\n"))
            yield from _text_items(item, pad + "  ")


def _error_text(error: Record) -> str:
    hint = error.get("hint", "")
    return f"✗ {error['message']}" + (f"\n  → {hint}" if hint else "")


def _pretty(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.format(json_text(value), indent=2)
