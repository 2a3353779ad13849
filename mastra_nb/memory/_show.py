"""How memory shows itself: tables and conversations, as Markdown and as plain text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from mastra_nb._escape import code, escape, fence
from mastra_nb._markdown import NO_HOSTS, safe_markdown
from mastra_nb.messages import Media, Message, Reasoning, Text, ToolCall, ToolResult
from mastra_nb.records import json_text
from mastra_nb.storage import ThreadMessage

Bundle = dict[str, Any]

# What a cell shows at most; the rest is one line that says how much it is.
MOST_MESSAGES = 40
MOST_ROWS = 100
_LONGEST_CELL = 200
_LONGEST_TEXT = 8000
_BAR = 8
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_ICONS = {"user": "🧑", "assistant": "🤖", "system": "⚙", "tool": "🔧"}


def bundle(title: str, markdown: str) -> Bundle:
    """`title` is any text, `markdown` is inert already."""
    line = " ".join(_UNPRINTABLE.sub(" ", title).split())
    parts = [f"**{escape(title)}**", markdown] if markdown else [f"**{escape(title)}**"]
    return {"text/markdown": "\n\n".join(parts), "text/plain": _short(line, 200)}


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows of any text; all but the first and last of very many are left out and counted."""
    made = [*rows]
    if not made:
        return ""
    left = len(made) - MOST_ROWS
    lines = ["| " + " | ".join(map(escape, head)) + " |", "|" + " --- |" * len(head)]
    if left > 0:
        half = MOST_ROWS // 2
        lines += [_row(r) for r in made[:half]]
        lines.append(_row([f"… {left:,} more …", *[""] * (len(head) - 1)]))
        made = made[-half:]
    return "\n".join([*lines, *(_row(r) for r in made)])


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(escape(_short(str(c), _LONGEST_CELL)) for c in cells) + " |"


def bar(part: float) -> str:
    """0 to 1 as blocks and a number."""
    full = round(max(0.0, min(1.0, part)) * _BAR)
    return f"{'█' * full}{'░' * (_BAR - full)} {part:.2f}"


def conversation(
    first: Sequence[ThreadMessage],
    last: Sequence[ThreadMessage] = (),
    left: int = 0,
    *,
    hosts: frozenset[str] = NO_HOSTS,
) -> str:
    """The first and last messages with a line for the `left` ones between them; tool calls are
    folded with their results.
    """
    blocks: list[str] = []
    for part in (first, last):
        if part is last and last and left > 0:
            blocks.append(f"… {left:,} more messages …")
        results = _results(part)
        for n, each in enumerate(part):
            blocks += _said(n, each.message, results, hosts)
    return "\n\n".join(blocks)


def _results(
    messages: Sequence[ThreadMessage],
) -> dict[tuple[int, str], ToolResult]:
    """The result of each call, by its message and id; one without its call is under its own."""
    out: dict[tuple[int, str], ToolResult] = {}
    calls: dict[str, int] = {}
    for n, each in enumerate(messages):
        for part in each.message.parts:
            if isinstance(part, ToolCall):
                calls[part.id] = n
            elif isinstance(part, ToolResult):
                out[calls.pop(part.id, n), part.id] = part
    return out


def _said(
    n: int,
    message: Message,
    results: dict[tuple[int, str], ToolResult],
    hosts: frozenset[str],
) -> list[str]:
    blocks: list[str] = []
    for part in message.parts:
        match part:
            case Text(text=text) if text:
                blocks.append(safe_markdown(_middle(text), hosts=hosts))
            case Reasoning(text=text) if text:
                blocks += _fold("💭 reasoning", [safe_markdown(_middle(text), hosts=hosts)])
            case ToolCall():
                blocks += _called(part, results.get((n, part.id)))
            case ToolResult() if (n, part.id) in results:
                blocks += _fold(f"🔧 {code(part.name)} result", [_json(part.output)])
            case Media():
                where = part.url or f"{len(part.data or b''):,} bytes"
                blocks.append(f"📎 {escape(part.mime)} · {escape(_short(where, 100))}")
    blocks = [b for b in blocks if b]
    if not blocks:
        return []
    cut = " · cut off" if message.partial else ""
    who = [] if message.role == "tool" else [f"**{_ICONS[message.role]} {message.role}**{cut}"]
    return [*who, *blocks]


def _called(call: ToolCall, result: ToolResult | None) -> list[str]:
    blocks = ["<small>arguments</small>", _json(call.args)]
    state = ""
    if result is not None:
        state = " · ✗ failed" if result.is_error else ""
        blocks += ["<small>result</small>", _json(result.output)]
    else:
        state = " · no result"
    return _fold(f"🔧 {code(call.name)}({escape(_short(call.args, 100))}){state}", blocks)


def _fold(line: str, blocks: list[str]) -> list[str]:
    return [f"<details><summary>{line}</summary>", *blocks, "</details>"]


def _json(value: Any) -> str:
    if not isinstance(value, str):
        value = msgspec.json.format(json_text(value), indent=2)
        return fence(_middle(value), "json")
    return fence(_middle(value))


def _middle(text: str) -> str:
    if len(text) <= _LONGEST_TEXT:
        return text
    half = _LONGEST_TEXT // 2
    return f"{text[:half]}\n… {len(text) - 2 * half:,} more characters …\n{text[-half:]}"


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def counted(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def days_ago(at: float, now: float) -> str:
    """When something was, for people."""
    if not at:
        return ""
    seconds = max(0.0, now - at)
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return "now"
