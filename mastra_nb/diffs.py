"""Two runs side by side: what they were given, what they did, what they said and used.

Diff: `{"a", "b": {"agent", "status"}, "changed": [Change], "same": [name], "calls": [Call],
"answer": Change | null, "numbers": [{"what", "a", "b"}]}`; numbers are null where unknown.

Change: `{"what", "a", "b", "words"?}`, `words` being `[["=" | "-" | "+", text], …]` in order.
Call: `{"op": "=" | "~" | "-" | "+", "name", "depth", "a"?, "b"?}`; `a` and `b` hold its `args`,
`result` or `error`, and `status`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any

from mastra_nb._escape import escape, valid
from mastra_nb.events import View
from mastra_nb.records import Record, json_text, record
from mastra_nb.views import dollars, duration

Diff = dict[str, Any]
Words = list[list[str]]

_TOKEN = re.compile(r"\s+|\w+|[^\w\s]")
# Comparing words takes time with the square of them; longer texts are compared by lines.
_MOST_TOKENS = 3000
_MOST_CALLS = 200
_TEXTS = ("prompt", "instructions")
# Of what is the same so much is shown before and after what is not.
_AROUND = 160
_NO_CALLS = ("text", "reasoning", "display", "note", "score", "custom", "more")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def diff(a: View, b: View, *, instructions: tuple[str, str] = ("", "")) -> Diff:
    """`instructions` of both, where they are known: no log holds them."""
    one, two = _given(a), _given(b)
    one["instructions"], two["instructions"] = map(valid, instructions)
    left, right = record(a), record(b)
    for given, made in ((one, left), (two, right)):
        given["agent"], given["status"] = made["agent"], made["status"]
        given["model"] = made.get("model", "")
        given["error"] = made.get("error", {}).get("message", "")
    names = ("agent", "status", "error", *_TEXTS, "model", "settings", "tools")
    differ = [name for name in names if one[name] != two[name]]
    answers = _answer(left), _answer(right)
    return {
        "a": {"agent": left["agent"], "status": left["status"]},
        "b": {"agent": right["agent"], "status": right["status"]},
        "changed": [_change(name, one[name], two[name]) for name in differ],
        "same": [name for name in names if name not in differ and one[name]],
        "calls": _calls(left, right),
        "answer": None if answers[0] == answers[1] else _change("answer", *answers),
        "numbers": [
            {"what": what, "a": _number(left, what), "b": _number(right, what)}
            for what in ("input", "output", "cached", "cost", "seconds")
        ],
    }


def _given(view: View) -> dict[str, str]:
    """What a run was asked with: of an agent the first request of its model."""
    root = view.spans.get(view.root)
    prompt = root.input if root is not None else None
    asked: dict[str, Any] = {}
    for span in view.spans.values():
        if span.kind == "model" and isinstance(span.input, dict):
            asked = span.input
            break
    return {
        "prompt": valid(_text("" if prompt is None else prompt)),
        "settings": ", ".join(f"{k} {json_text(v)}" for k, v in asked.get("settings", {}).items()),
        "tools": ", ".join(asked.get("tools", ())),
    }


def _answer(made: Record) -> str:
    if "output" in made:
        return _text(made["output"])
    return str(made.get("text", ""))


def _number(made: Record, what: str) -> float | None:
    if what == "seconds":
        return made.get("seconds")
    used = made.get("usage")
    return used.get(what) if used else None


def _change(what: str, a: str, b: str) -> Record:
    change: Record = {"what": what, "a": a, "b": b}
    return change | {"words": words(a, b)} if what in (*_TEXTS, "answer") else change


def words(a: str, b: str) -> Words:
    """What is the same, what is gone and what is new, in order."""
    one, two = _TOKEN.findall(a), _TOKEN.findall(b)
    if max(len(one), len(two)) > _MOST_TOKENS:
        one, two = a.splitlines(keepends=True), b.splitlines(keepends=True)
    out: Words = []
    for op, i, j, k, m in SequenceMatcher(None, one, two, autojunk=False).get_opcodes():
        if op == "equal":
            out.append(["=", "".join(one[i:j])])
            continue
        if i < j:
            out.append(["-", "".join(one[i:j])])
        if k < m:
            out.append(["+", "".join(two[k:m])])
    return _joined(out)


def _joined(parts: Words) -> Words:
    """A space between two changed words is no island of its own."""
    out: Words = []
    for n, (op, text) in enumerate(parts):
        before, after = parts[n - 1 : n], parts[n + 1 : n + 2]
        if op == "=" and text.isspace() and before and after and "\n" not in text:
            out += [["-", text], ["+", text]]
        else:
            out.append([op, text])
    merged: Words = []
    gone, new = "", ""
    for op, text in [*out, ["=", ""]]:
        if op == "-":
            gone += text
        elif op == "+":
            new += text
        else:
            merged += [[o, t] for o, t in (("-", gone), ("+", new), ("=", text)) if t]
            gone = new = ""
    return merged


def _calls(a: Record, b: Record) -> list[Record]:
    one, two = list(_flat(a, 0))[:_MOST_CALLS], list(_flat(b, 0))[:_MOST_CALLS]
    left_keys, right_keys = (
        [(depth, call["type"], call["name"]) for depth, call in side] for side in (one, two)
    )
    matcher = SequenceMatcher(None, left_keys, right_keys, autojunk=False)
    out: list[Record] = []
    for op, i, j, k, m in matcher.get_opcodes():
        if op == "equal":
            for (depth, x), (_, y) in zip(one[i:j], two[k:m], strict=True):
                left, right = _did(x), _did(y)
                same = "=" if left == right else "~"
                sides = {"a": left, "b": right}
                out.append({"op": same, "name": x["name"], "depth": depth} | sides)
            continue
        out += [{"op": "-", "name": x["name"], "depth": d, "a": _did(x)} for d, x in one[i:j]]
        out += [{"op": "+", "name": y["name"], "depth": d, "b": _did(y)} for d, y in two[k:m]]
    return out


def _flat(node: Record, depth: int) -> Iterator[tuple[int, Record]]:
    for item in node.get("items", ()):
        if item["type"] not in _NO_CALLS:
            yield depth, item
            yield from _flat(item, depth + 1)


def _did(call: Record) -> Record:
    out = {k: call[k] for k in ("args", "result", "status") if k in call}
    return out | ({"error": call["error"]["message"]} if "error" in call else {})


# For people


def bundle(found: Diff, a: str, b: str) -> dict[str, Any]:
    """As a MIME bundle; `a` and `b` are what the runs are called."""
    return {"text/markdown": markdown(found, a, b), "text/plain": plain(found, a, b)}


def markdown(found: Diff, a: str, b: str) -> str:
    """Tables and quotes, all of it literal text but the marks of what is gone and new."""
    blocks = []
    rows = _rows(found)
    if rows:
        lines = [f"|  | {escape(a)} | {escape(b)} |", "| --- | --- | --- |"]
        lines += [f"| {' | '.join(map(escape, row))} |" for row in rows]
        blocks.append("\n".join(lines))
    blocks += [f"**{c['what']}**\n\n> {_marked(c['words'])}" for c in _texts(found)]
    if calls := found["calls"]:
        lines = [f"|  | call | {escape(a)} | {escape(b)} |", "| --- | --- | --- | --- |"]
        for call in calls:
            pad = "&nbsp;" * 4 * call["depth"]
            name, sides = escape(call["name"]), [escape(s) for s in _sides(call)]
            lines.append(f"| {_MARKS[call['op']]} | {pad}{name} | {' | '.join(sides)} |")
        blocks.append("\n".join(lines))
    blocks.append(f"<small>{escape(_same(found))}</small>")
    return "\n\n".join(blocks)


def plain(found: Diff, a: str, b: str) -> str:
    """For a terminal: what is gone in [-…-], what is new in {+…+}."""
    table = [["", a, b], *_rows(found)]
    widths = [max(len(row[i]) for row in table) for i in range(3)]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table
    ]
    for change in _texts(found):
        marked = "".join(_PLAIN[op].format(text) for op, text in _around(change["words"]))
        lines += ["", f"{change['what']}:", marked]
    if found["calls"]:
        lines.append("")
    for call in found["calls"]:
        left, right = _sides(call)
        did = left if call["op"] in "=-" else right if call["op"] == "+" else f"{left} → {right}"
        lines.append(f"{_MARKS[call['op']]} {'  ' * call['depth']}{call['name']} {did}".rstrip())
    return _UNPRINTABLE.sub("\ufffd", "\n".join([*lines, "", _same(found)]))


_MARKS = {"=": "=", "~": "≠", "-": "−", "+": "+"}
_PLAIN = {"=": "{}", "-": "[-{}-]", "+": "{{+{}+}}"}


def _texts(found: Diff) -> list[Record]:
    answer = [found["answer"]] if found["answer"] else []
    return [c for c in [*found["changed"], *answer] if "words" in c]


def _rows(found: Diff) -> list[list[str]]:
    rows = [
        [c["what"], _short(c["a"], 200), _short(c["b"], 200)]
        for c in found["changed"]
        if "words" not in c
    ]
    for number in found["numbers"]:
        a, b = number["a"], number["b"]
        if (a or b) and (number["what"] != "cached" or a != b):
            show, name = _SHOWN[number["what"]]
            rows.append([name, show(a), show(b) + _delta(a, b)])
    return rows


def _delta(a: float | None, b: float | None) -> str:
    if not a or b is None or a == b:
        return ""
    share = (b - a) / a
    return f" ({share:+.0%})" if abs(share) < 10 else f" (×{b / a:.0f})"


def _count(n: float | None) -> str:
    return "" if n is None else f"{n:,.0f}"


_SHOWN: dict[str, Any] = {
    "input": (_count, "tokens in"),
    "output": (_count, "tokens out"),
    "cached": (_count, "from the cache"),
    "cost": (lambda n: "unknown" if n is None else dollars(n), "cost"),
    "seconds": (lambda n: "" if n is None else duration(n), "time"),
}


def _same(found: Diff) -> str:
    same = [name for name in found["same"] if name != "status"]
    if found["answer"] is None:
        same.append("answer")
    return f"the same: {', '.join(same)}" if same else "nothing is the same"


def _sides(call: Record) -> list[str]:
    out = []
    for side in ("a", "b"):
        did = call.get(side)
        if did is None:
            out.append("")
            continue
        args = _short(json_text(did["args"]), 80) if "args" in did else ""
        gave = f" → {_short(_text(did['result']), 80)}" if "result" in did else ""
        failed = f" ✗ {_short(did['error'], 80)}" if "error" in did else ""
        state = f" {did['status']}" if did["status"] not in ("ok", "error") else ""
        out.append(f"{args}{gave}{failed}{state}".strip())
    return ["", out[1]] if call["op"] == "+" else out


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json_text(value)


def _short(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _around(parts: Words) -> Words:
    """Long stretches of what is the same are cut."""
    out: Words = []
    for n, (op, text) in enumerate(parts):
        if op == "=" and len(text) > 2 * _AROUND + 40:
            head = "" if n == 0 else text[:_AROUND]
            tail = "" if n == len(parts) - 1 else text[-_AROUND:]
            text = f"{head} … {tail}".strip(" ") if n else f"… {tail}"
        out.append([op, text])
    return out


def _marked(parts: Words) -> str:
    out = []
    for op, text in _around(parts):
        tag = {"-": "del", "+": "ins"}.get(op)
        lines = "<br>".join(escape(line) for line in text.split("\n"))
        out.append(f"<{tag}>{lines}</{tag}>" if tag else lines)
    # Four spaces at the beginning would make a block of code.
    return "".join(out).lstrip()
