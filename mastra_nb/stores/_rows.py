"""The statements of the SQLite store, and how a row becomes a value."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from itertools import chain
from typing import Any

import apsw
import msgspec

from mastra_nb.events import Durable, Event, RunStatus, SpanEnded, SpanStarted
from mastra_nb.storage import RunRow, Thread
from mastra_nb.stores import _rules as rules
from mastra_nb.stores._schema import BLOB_BYTES

_encode = msgspec.json.Encoder().encode
_TAGS = {kind: str(kind.__struct_config__.tag) for kind in Durable.__args__}
RUN = """SELECT id, name, kind, input, status, owner, fence, lease_until, key, thread,
    resource, code_version, graph_hash, parent_run, fork_seq, created, updated FROM run"""
RUN_FIELDS = (
    "id", "name", "kind", "input", "status", "owner", "fence", "lease_until", "key", "thread",
    "resource", "code_version", "graph_hash", "parent_run", "fork_seq", "created", "updated",
)  # fmt: skip
INSERT_RUN = f"""INSERT INTO run ({", ".join(RUN_FIELDS)})
    VALUES ({", ".join("?" * len(RUN_FIELDS))})"""  # noqa: S608 - columns of ours
THREAD = "SELECT id, resource, title, meta, created, updated FROM thread"
PAYLOAD = "coalesce(e.payload, (SELECT data FROM blob WHERE sha256 = e.blob))"
_INTO_EVENT = """INSERT INTO event
    (run, seq, path, parent, attempt, kind, status, fence, payload, blob, at, v)"""
_EVENT = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
INSERT_EVENT = f"{_INTO_EVENT} VALUES {_EVENT}"
# So many events, as a step begins and ends with, are written by one statement.
FEW = 4
_INSERT_FEW = [
    f"""{_INTO_EVENT} SELECT * FROM (VALUES {", ".join([_EVENT] * n)}) WHERE EXISTS
        (SELECT 1 FROM run WHERE id = ? AND fence = ? AND lease_until BETWEEN ? AND ?)"""  # noqa: S608
    for n in range(FEW + 1)
]
INSERT_BLOB = "INSERT INTO blob (sha256, data) VALUES (?, ?) ON CONFLICT DO NOTHING"
EVENTS = f"""SELECT e.seq, e.path, e.parent, e.at, e.v, {PAYLOAD}
    FROM event e WHERE e.run = ? AND e.seq > ? ORDER BY e.seq"""  # noqa: S608
# A span's begin is found backwards from its end: it is near.
_SPENT = f"""SELECT e.run, e.path, e.at, {PAYLOAD}, (
        SELECT {PAYLOAD.replace("e.", "s.")} FROM event s
        WHERE s.run = e.run AND s.seq < e.seq AND s.path = e.path AND s.kind = 'span-started'
        ORDER BY s.seq DESC LIMIT 1)
    FROM event e {{}} WHERE {{}} e.kind = 'span-ended' AND instr(e.payload, '"usage":') > 0
    AND e.at >= ? ORDER BY e.at"""  # noqa: S608
SPENT = _SPENT.format("INDEXED BY event_spent", "")
SPENT_BY = _SPENT.format("", "e.run = ? AND")
_MESSAGE = """SELECT m.pos, e.run, e.seq, e.at, e.payload, e.blob
    FROM {}thread_message m CROSS JOIN event e ON e.no = m.event
    WHERE m.thread = (SELECT no FROM thread WHERE id = ?) AND m.pos BETWEEN {}
    ORDER BY m.pos DESC LIMIT ?"""
MESSAGES = _MESSAGE.format("", "? AND ?")
MESSAGES_OF_RANGES = _MESSAGE.format(
    "json_each(?) r CROSS JOIN ", "(r.value ->> 0) AND (r.value ->> 1)"
)
BLOB = "SELECT data FROM blob WHERE sha256 = ?"

LINKED = "SELECT no FROM event WHERE run = ? AND seq = ? AND kind = 'message-added'"
IS_LINKED = """SELECT 1 FROM thread_message
    WHERE thread = (SELECT no FROM thread WHERE id = ?) AND event = ?"""
LINK = "INSERT INTO thread_message (thread, pos, event) VALUES (?, ?, ?)"
NEXT = "UPDATE thread SET last = last + ?, updated = ? WHERE id = ? RETURNING no, last"

PUT_THREAD = """INSERT INTO thread (id, resource, title, meta, created, updated, last)
    VALUES (?, ?, ?, ?, ?, ?, 0)
    ON CONFLICT (id) DO UPDATE SET resource = excluded.resource, title = excluded.title,
        meta = excluded.meta, updated = excluded.updated
    RETURNING id, resource, title, meta, created, updated"""
CLAIM_THREAD = """INSERT INTO thread (id, resource, title, meta, created, updated, last)
    VALUES (?, ?, '', '{}', ?, ?, 0)
    ON CONFLICT (id) DO UPDATE SET resource = excluded.resource
    WHERE thread.resource = '' AND thread.last = 0"""
NEW_THREAD = """INSERT INTO thread (id, resource, title, meta, created, updated, last)
    VALUES (?, coalesce((SELECT resource FROM run WHERE id = ?), ''), '', '{}', ?, ?, 0)"""
CLONE_LINKS = """INSERT INTO thread_message (thread, pos, event)
    SELECT ?, pos, event FROM thread_message WHERE thread = ? AND abs(pos) <= ?"""
CLONE_LAST = """UPDATE thread SET last = min(?, (SELECT last FROM thread WHERE no = ?))
    WHERE no = ?"""
TAKE_OUT = """UPDATE thread_message SET pos = -pos
    WHERE thread = (SELECT no FROM thread WHERE id = ?)
        AND pos IN (SELECT value FROM json_each(?))"""


def to_run(row: Sequence[Any]) -> RunRow:
    values = dict(zip(RUN_FIELDS, row, strict=True))
    values["input"] = msgspec.json.decode(values["input"])
    return RunRow(**values)


def find_run(db: apsw.Connection, run: str) -> RunRow | None:
    row = db.execute(f"{RUN} WHERE id = ?", (run,)).fetchone()
    return None if row is None else to_run(row)


def to_thread(row: Sequence[Any]) -> Thread:
    id, resource, title, meta, created, updated = row
    return Thread(
        id=id,
        resource=resource,
        title=title,
        meta=msgspec.json.decode(meta),
        created=created,
        updated=updated,
    )


def lease_left(lease: float, now: float) -> tuple[float, float]:
    """The row is a page more to write: a lease that ends between these times is left as it is."""
    return now + 0.8 * lease, now + lease


def extend(
    db: apsw.Connection, run: str, fence: int, lease: float, status: RunStatus | None
) -> None:
    """Checks the fence, extends or gives up the lease, sets the status."""
    row = db.execute(
        "SELECT fence, status, lease_until, owner FROM run WHERE id = ?", (run,)
    ).fetchone()
    if row is None:
        raise rules.no_run(run)
    newest, old, until, owner = row
    if fence != newest:
        raise rules.fenced(run, fence, newest, owner)
    now = time.time()
    target = rules.lease_after(status, until, lease, now)
    low, high = lease_left(lease, now)
    if target and status in (None, old) and low <= until <= high:
        return
    db.execute(
        "UPDATE run SET status = ?, lease_until = ?, updated = ? WHERE id = ?",
        (status or old, target, now, run),
    )


def link(db: apsw.Connection, thread: str, run: str, events: Sequence[int]) -> int:
    """Append the messages of `events` (`event.no`) to the thread; returns the last position."""
    known = {event for event in events if db.execute(IS_LINKED, (thread, event)).get}
    new = [event for event in dict.fromkeys(events) if event not in known]
    if new:
        return link_new(db, thread, run, new)
    row = db.execute("SELECT last FROM thread WHERE id = ?", (thread,)).fetchone()
    if row is None:
        now = time.time()
        db.execute(NEW_THREAD, (thread, run, now, now))
    return 0 if row is None else int(row[0])


def link_new(db: apsw.Connection, thread: str, run: str, events: Sequence[int]) -> int:
    """`link` of events that the thread does not hold."""
    count, now = len(events), time.time()
    found: Any = db.execute(NEXT, (count, now, thread)).fetchall()
    if not found:
        db.execute(NEW_THREAD, (thread, run, now, now))
        found = db.execute(NEXT, (count, now, thread)).fetchall()
    ((no, last),) = found
    for pos, event in enumerate(events, last - count + 1):
        db.execute(LINK, (no, pos, event))
    return int(last)


Line = tuple[Any, ...]  # of the columns of `event`
KIND = 5


def to_lines(
    run: str, fence: int, events: Sequence[Event]
) -> tuple[list[Line], list[tuple[bytes, bytes]], int]:
    """Of events of `run` the rows, what of them is kept as blobs, and how many bytes all have.

    Raises UsageError, SchemaError.
    """
    lines: list[Line] = []
    blobs: list[tuple[bytes, bytes]] = []
    size = 0
    for event in events:
        data, seq, span = event.data, event.seq, event.span
        kind, attempt, status = type(data), None, None
        if event.run != run or kind not in _TAGS or not span.isascii():
            rules.check_events(run, (event,))
        try:
            raw = _encode(data)
        except Exception:
            raw = rules.payload_json(data, run, seq)  # or says what is wrong with it
        if kind is SpanStarted:
            attempt = data.attempt  # type: ignore[union-attr]
        elif kind is SpanEnded:
            status = data.status  # type: ignore[union-attr]
        size += len(raw)
        text, digest = None, None
        if len(raw) > BLOB_BYTES:
            digest = hashlib.sha256(raw).digest()
            blobs.append((digest, raw))
        else:
            text = raw.decode()
        lines.append((
            run, seq, span, event.parent, attempt, _TAGS[kind], status, fence, text, digest,
            event.at, event.v,
        ))  # fmt: skip
    return lines, blobs, size


def insert_few(
    db: apsw.Connection, run: str, fence: int, lease: float, lines: Sequence[Line]
) -> bool:
    """One statement that writes all of the lines, or nothing: it gives False where the fence is
    another, the lease has to be extended, or a line is there already. `extend` and `insert` are
    for those cases, and say what is wrong.
    """
    low, high = lease_left(lease, time.time())
    values = (*chain.from_iterable(lines), run, fence, low, high)
    try:
        db.execute(_INSERT_FEW[len(lines)], values)
    except apsw.ConstraintError:
        return False
    return db.changes() > 0


def insert(db: apsw.Connection, line: Line) -> None:
    try:
        db.execute(INSERT_EVENT, line)
    except apsw.ConstraintError as exc:
        run, seq, path = line[:3]
        if "event.seq" in str(exc):
            raise rules.seq_taken(run, seq) from exc
        raise rules.finished_twice(run, path) from exc


def drop_run(db: apsw.Connection, run: str) -> None:
    """With its events, and what only they refer to."""
    blobs = [b for (b,) in db.execute("SELECT DISTINCT blob FROM event WHERE run = ?", (run,))]
    db.execute(
        "DELETE FROM thread_message WHERE event IN (SELECT no FROM event WHERE run = ?)", (run,)
    )
    db.execute("DELETE FROM event WHERE run = ?", (run,))
    db.executemany(
        """DELETE FROM blob WHERE sha256 = ?1
        AND NOT EXISTS (SELECT 1 FROM event WHERE blob = ?1)""",
        [(blob,) for blob in blobs if blob is not None],
    )
    db.execute("DELETE FROM run WHERE id = ?", (run,))
