"""A conversation as a chat shows it: a turn is what was said and all that was answered.

A turn, as JSON: `id`, `status` (of its run), `text` and `files` of who asked, `items` of the
answer, `pos` and `end` (its positions in the thread, once it has any), `run`, `pending`, `error`,
`usage`, `model`, `seconds`, `markdown` (the whole answer, once it has ended). An item is one of::

    {"t": "text" | "thought", "blocks": [html, …]}
    {"t": "tool", "name", "kind", "status", "args"?, "result"?, "error"?, "seconds"?, "items"?}
    {"t": "note", "level", "text"}          {"t": "image", "mime", "data"}

A text that grows is sent as what is new of it: see `changes`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from mastra_nb import records
from mastra_nb._escape import fence, valid
from mastra_nb.config import redact
from mastra_nb.errors import MastraError
from mastra_nb.events import fold
from mastra_nb.language import prompt_messages
from mastra_nb.messages import Media, Message, Part, Text, ToolCall, ToolResult, user
from mastra_nb.notebook import _html
from mastra_nb.notebook._errors import plain
from mastra_nb.records import IMAGES, Record
from mastra_nb.runs import Run
from mastra_nb.storage import RunRow, Store, ThreadMessage, read_run

Shape = dict[str, Any]

# Whose `extra` of a part the name of a file is in.
_OURS = "mastra_nb"
# A picture that was sent is shown again if it is not larger than this, in bytes.
_SHOWN = 400_000


class Turn(msgspec.Struct, kw_only=True, eq=False):
    """`record` is that of its run, as it was stored; a turn of this kernel has the `run` itself.
    `error` is what stopped it before there was a run to tell; `raised` is what its end has raised.
    """

    id: str
    prompt: Message
    pos: int = 0
    end: int = 0
    run: Run[Any] | None = None
    row: RunRow | None = None
    record: Record = {}
    error: Record = {}
    raised: BaseException | None = None
    given_up: bool = False
    sent: Shape = {}


# What is said to a model


def text_file(name: str, text: str) -> Text:
    body = f"File: {name}\n\n{fence(text)}"
    return Text(text=body, extra={_OURS: {"file": name, "size": len(text.encode())}})


def media(name: str, mime: str, data: bytes) -> Media:
    return Media(mime=mime, data=data, extra={_OURS: {"file": name}})


def _file(part: Part) -> Shape | None:
    """What is shown of a file that was sent; None for words."""
    named = (part.extra or {}).get(_OURS)
    named = named if isinstance(named, dict) else {}
    if isinstance(part, Text):
        size = named.get("size", 0)
        return {"name": str(named["file"]), "size": size} if "file" in named else None
    if not isinstance(part, Media):
        return None
    out: Shape = {"name": str(named.get("file", part.mime)), "mime": part.mime}
    if part.data is not None:
        out["size"] = len(part.data)
        if part.mime in IMAGES and len(part.data) <= _SHOWN:
            out["data"] = base64.b64encode(part.data).decode()
    return out


def words(message: Message) -> str:
    return "".join(p.text for p in message.parts if isinstance(p, Text) and _file(p) is None)


def anew(message: Message, text: str) -> Message:
    """The same with other words: its files stay."""
    files = [p for p in message.parts if _file(p) is not None]
    return Message(role="user", parts=(*files, *((Text(text=text),) if text.strip() else ())))


# What is shown


def shape(turn: Turn, hosts: frozenset[str]) -> Shape:
    record = turn.record
    if turn.run is not None and turn.run.began:
        record = records.record(turn.run.view, run=turn.run.id)
    status = "cancelled" if turn.given_up else record.get("status", "running")
    out: Shape = {"id": turn.id, "text": valid(words(turn.prompt))}
    files = [f for f in map(_file, turn.prompt.parts) if f is not None]
    out |= {"files": files} if files else {}
    out["status"] = "failed" if turn.error else status
    out |= {k: record[k] for k in ("usage", "model", "seconds", "partial") if k in record}
    if turn.pos:
        out |= {"pos": turn.pos, "end": turn.end}
    if error := turn.error or record.get("error"):
        out["error"] = told(error)
    if status == "suspended":
        out["pending"] = record.get("pending", [])
    out["items"] = [*_items(record.get("items", ()), hosts), *_answer(record, hosts)]
    if out["status"] not in ("running", "suspended"):
        out["markdown"] = valid(record.get("text", "")) or _joined(record.get("items", ()))
    return out


def error_of(error: Exception) -> Record:
    """An error as a record holds it, whoever made it."""
    if isinstance(error, MastraError):
        return {"message": error.message, "hint": error.hint}
    return {"message": f"{type(error).__name__}: {error}"}


def told(error: Record) -> Record:
    """What may be shown of it."""
    return {k: plain(redact(str(v))) for k, v in error.items()}


def _joined(items: Iterable[Record]) -> str:
    return "\n\n".join(item["text"] for item in items if item["type"] == "text")


def _answer(record: Record, hosts: frozenset[str]) -> list[Shape]:
    if text := record.get("text"):
        return [{"t": "text", "blocks": _html.blocks(text, hosts=hosts)}]
    if "output" in record:
        return [{"t": "text", "blocks": _html.blocks(_json(record["output"]))}]
    return []


def _json(value: Any) -> str:
    if isinstance(value, str):
        return fence(value)
    pretty = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    return fence(pretty, "json")


def _items(items: Iterable[Record], hosts: frozenset[str]) -> list[Shape]:
    return [made for item in items if (made := _item(item, hosts)) is not None]


def _item(item: Record, hosts: frozenset[str]) -> Shape | None:
    kind = item["type"]
    if kind in ("text", "reasoning"):
        given = _html.blocks(item["text"], hosts=hosts)
        return {"t": "text" if kind == "text" else "thought", "blocks": given}
    if kind == "display":
        if item["mime"] in IMAGES:
            return {"t": "image", "mime": item["mime"], "data": item["data"]}
        md = item["data"] if item["mime"] == "text/markdown" else _json(item["data"])
        return {"t": "text", "blocks": _html.blocks(md, hosts=hosts)}
    if kind == "note":
        return {"t": "note", "level": item["level"], "text": item["text"]}
    if kind == "more":
        return {"t": "note", "level": "info", "text": f"… {item['count']:,} more"}
    if kind == "score":
        text = f"{item['name']}: {item['value']:g} {item.get('text', '')}".strip()
        return {"t": "note", "level": "info", "text": text}
    if kind == "custom":
        return None
    out: Shape = {"t": "tool", "kind": kind, "name": item["name"], "status": item["status"]}
    out |= {k: item[k] for k in ("args", "result", "seconds", "attempt") if k in item}
    if "error" in item:
        out["error"] = told(item["error"])
    if "items" in item:
        out["items"] = _items(item["items"], hosts)
    if "result" not in item and item["status"] != "running":
        gave = item.get("output", item.get("text"))
        out |= {} if gave is None else {"result": gave}
    return out


# What has changed


def changes(old: Shape, new: Shape) -> Shape | None:
    """`head`: the fields that are others now (None: gone); `count` items, and of each that has
    changed either the whole `item` or what its text has become: from block `from` on, which keeps
    its first `at` UTF-16 units, `text` is added, then the blocks `more` come.
    """
    keys = ({*old, *new}) - {"items", "id"}
    head = {k: new.get(k) for k in sorted(keys) if old.get(k) != new.get(k)}
    before, after = old.get("items", []), new["items"]
    items: list[Shape] = []
    for i, item in enumerate(after):
        was = before[i] if i < len(before) else None
        if item == was:
            continue
        if was is not None and "blocks" in item and was["t"] == item["t"]:
            items.append({"i": i, **_grown(was["blocks"], item["blocks"])})
        else:
            items.append({"i": i, "item": item})
    if not head and not items and len(before) == len(after):
        return None
    return {"id": new["id"], "head": head, "items": items, "count": len(after)}


def _grown(old: Sequence[str], new: Sequence[str]) -> Shape:
    k = 0
    while k < len(old) and k < len(new) and old[k] == new[k]:
        k += 1
    first = new[k] if k < len(new) else ""
    kept = _shared(old[k] if k < len(old) else "", first)
    units = len(kept.encode("utf-16-le")) // 2
    out = {"from": k, "at": units, "text": first[len(kept) :], "more": list(new[k + 1 :])}
    return out if k < len(new) else {"from": k, "at": 0, "text": "", "more": []}


def _shared(old: str, new: str) -> str:
    """How both begin."""
    if new.startswith(old):
        return old
    low, high = 0, min(len(old), len(new))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if old[:middle] == new[:middle] else (low, middle - 1)
    return new[:low]


# What was said before


async def stored(store: Store, thread: str, messages: Sequence[ThreadMessage]) -> list[Turn]:
    """The turns of the messages, which begin with one of a user's."""
    groups: list[list[ThreadMessage]] = []
    for message in messages:
        if message.message.role == "user" and _speaks(message.message):
            last = groups[-1][-1] if groups else None
            if last is not None and last.message.role == "user" and last.run == message.run:
                groups[-1].append(message)
            else:
                groups.append([message])
        elif groups:
            groups[-1].append(message)
    owners = [{m.run for m in group} for group in groups]
    alone = [len(o) == 1 and sum(o <= p for p in owners) == 1 for o in owners]
    return [
        await _turn(store, thread, group, whole) for group, whole in zip(groups, alone, strict=True)
    ]


async def waiting(store: Store, agent: str, thread: str) -> list[Turn]:
    """Those whose runs wait: their messages are in the thread when they have ended."""
    rows = await store.find_runs(name=agent, thread=thread, status="suspended", limit=5)
    return [
        Turn(
            id=row.id,
            prompt=user(*(p for m in prompt_messages(row.input) for p in m.parts)),
            row=row,
            record=records.record(fold(await read_run(store, row)), run=row.id),
        )
        for row in reversed(rows)
        if row.kind == "agent"
    ]


def _speaks(message: Message) -> bool:
    return any(isinstance(part, Text | Media) for part in message.parts)


async def _turn(store: Store, thread: str, group: list[ThreadMessage], whole: bool) -> Turn:
    asked = [m.message for m in group if m.message.role == "user" and _speaks(m.message)]
    prompt = Message(role="user", parts=tuple(part for m in asked for part in m.parts))
    turn = Turn(id=f"{thread}:{group[0].pos}", prompt=prompt, pos=group[0].pos, end=group[-1].pos)
    row = await store.get_run(group[0].run) if whole else None
    if row is not None and row.kind == "agent":
        turn.row = row
        turn.record = records.record(fold(await read_run(store, row)), run=row.id)
    else:
        turn.record = _from_messages([m.message for m in group])
    return turn


def _from_messages(messages: Sequence[Message]) -> Record:
    """Of a conversation that came from elsewhere, and of one message of a run with many."""
    results = {p.id: p for m in messages for p in m.parts if isinstance(p, ToolResult)}
    items: list[Record] = []
    for message in messages:
        if message.role != "assistant":
            continue
        if message.reasoning:
            items.append({"type": "reasoning", "text": valid(message.reasoning)})
        if message.text:
            items.append({"type": "text", "text": valid(message.text)})
        items += [_called(call, results.get(call.id)) for call in message.tool_calls]
    return {"status": "done", "items": items}


def _called(call: ToolCall, result: ToolResult | None) -> Record:
    item: Record = {"type": "tool", "name": valid(call.name), "args": records._read(call.args)}
    if result is None:
        return item | {"status": "not run"}
    if result.is_error:
        return item | {"status": "error", "error": {"message": str(result.output)}}
    return item | {"status": "ok", "result": result.output}
