"""What the retention lets go of in a SQLite file, and its deletion in steps of some rows.

Between two steps others write, so that every first step of a thread or run looks again. A long run
is marked before its events go, the newest first: nobody claims what is half gone, and after a crash
the next `prune` goes on with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import apsw
import msgspec

from mastra_nb.storage import LEASE_SECONDS, Pruned, Retention, Thread
from mastra_nb.stores import _rows as rows
from mastra_nb.stores import _rules as rules

STEP_ROWS = 50

T = TypeVar("T")
Step = Callable[[apsw.Connection, T, Counter[str]], bool]
"""One step on an item, counted; True when the item is done with."""
GoneThread = tuple[int, str, float]
GoneRun = tuple[str, str, float]

_RESTS = """(r.lease_until <= :now AND (r.status IN ('done', 'failed', 'cancelled')
    OR r.status = 'suspended' AND r.updated <= :suspended))"""
# A run that may wake up again keeps its thread.
_GONE = f"""SELECT no, id, updated FROM thread t WHERE t.updated <= :threads
    AND NOT EXISTS (SELECT 1 FROM run r WHERE r.thread = t.id AND NOT {_RESTS})
    AND NOT EXISTS (
        SELECT 1 FROM thread_message m JOIN event e ON e.no = m.event JOIN run r ON r.id = e.run
        WHERE m.thread = t.no AND NOT {_RESTS})"""  # noqa: S608
# A fork reads its parent's events: what a kept run is forked from stays, all the way up.
_RUNS = f"""WITH RECURSIVE
    gone AS MATERIALIZED ({_GONE}),
    held (id) AS MATERIALIZED (
        SELECT DISTINCT e.run FROM gone g JOIN thread_message m ON m.thread = g.no
        JOIN event e ON e.no = m.event
    ),
    old (id) AS MATERIALIZED (
        SELECT r.id FROM run r
        WHERE {_RESTS} AND (
                r.status <> 'suspended' AND r.updated <= :runs
                OR r.status = 'suspended'
                OR r.updated <= :threads AND r.thread IS NOT NULL
                    AND NOT EXISTS (SELECT 1 FROM thread t WHERE t.id = r.thread
                        AND t.no NOT IN (SELECT no FROM gone))
                OR r.id IN (SELECT id FROM held))
            AND NOT EXISTS (
                SELECT 1 FROM event e JOIN thread_message m ON m.event = e.no
                WHERE e.run = r.id AND m.pos > 0 AND m.thread NOT IN (SELECT no FROM gone))
    ),
    needed (id) AS (
        SELECT parent_run FROM run
        WHERE fork_seq IS NOT NULL AND parent_run IS NOT NULL AND id NOT IN (SELECT id FROM old)
        UNION
        SELECT r.parent_run FROM run r JOIN needed n ON r.id = n.id
        WHERE r.fork_seq IS NOT NULL AND r.parent_run IS NOT NULL
    )
    SELECT id, status, updated FROM run
    WHERE id IN (SELECT id FROM old) AND id NOT IN (SELECT id FROM needed)
    ORDER BY no DESC"""  # noqa: S608
_STILL = f"""SELECT 1 FROM run r WHERE id = :id AND status = :status AND updated = :updated
    AND {_RESTS} AND NOT EXISTS (
        SELECT 1 FROM event e JOIN thread_message m ON m.event = e.no
        WHERE e.run = r.id AND m.pos > 0)
    AND NOT EXISTS (SELECT 1 FROM run WHERE parent_run = :id AND fork_seq IS NOT NULL)"""  # noqa: S608


class Plan(msgspec.Struct, frozen=True):
    threads: list[GoneThread]
    runs: list[GoneRun]
    messages: int
    embeddings: int

    def counted(self) -> Pruned:
        return Pruned(
            runs=len(self.runs),
            threads=len(self.threads),
            messages=self.messages,
            embeddings=self.embeddings,
            dry_run=True,
        )


class Prune:
    """One prune: what is too old for it, and the steps that delete it."""

    def __init__(self, retention: Retention, now: float, owner: str) -> None:
        self.bound: dict[str, Any] = {"now": now, **rules.cutoffs(retention, now)}
        self.owner = owner

    def plan(self, db: apsw.Connection) -> Plan:
        threads: list[Any] = db.execute(_GONE, self.bound).fetchall()
        runs: list[Any] = db.execute(_RUNS, self.bound).fetchall()
        nos = msgspec.json.encode([no for no, _, _ in threads]).decode()
        return Plan(
            threads,
            runs,
            db.execute(
                """SELECT count(*) FROM thread_message
                WHERE pos > 0 AND thread IN (SELECT value FROM json_each(?))""",
                (nos,),
            ).get,
            db.execute("SELECT count(*) FROM embedding WHERE used <= :embeddings", self.bound).get,
        )

    def still_going(self, threads: Sequence[GoneThread], db: apsw.Connection) -> list[Thread]:
        """What of them nobody has touched since the plan."""
        rows_of = f"{rows.THREAD} WHERE no = ? AND id = ? AND updated = ?"
        found = (db.execute(rows_of, thread).fetchone() for thread in threads)
        return [rows.to_thread(row) for row in found if row is not None]

    def drop_thread(self, db: apsw.Connection, thread: GoneThread, done: Counter[str]) -> bool:
        no, id, updated = thread
        query = f"""SELECT 1 FROM thread t WHERE no = :no AND id = :id AND updated = :updated
            AND NOT EXISTS (SELECT 1 FROM run r WHERE r.thread = t.id AND NOT {_RESTS})"""  # noqa: S608
        if not db.execute(query, {**self.bound, "no": no, "id": id, "updated": updated}).get:
            return True
        gone: list[Any] = db.execute(
            """DELETE FROM thread_message WHERE thread = ?1 AND pos IN
                (SELECT pos FROM thread_message WHERE thread = ?1 LIMIT ?2) RETURNING pos""",
            (no, STEP_ROWS),
        ).fetchall()
        done["messages"] += sum([pos > 0 for (pos,) in gone])
        if len(gone) == STEP_ROWS:
            return False
        db.execute("DELETE FROM thread WHERE no = ?", (no,))
        done["threads"] += 1
        return True

    def drop_run(self, db: apsw.Connection, run: GoneRun, done: Counter[str]) -> bool:
        id, status, updated = run
        ours = "SELECT 1 FROM run WHERE id = ? AND owner = ?"
        values = {**self.bound, "id": id, "status": status, "updated": updated}
        if not db.execute(ours, (id, self.owner)).get and not db.execute(_STILL, values).get:
            return True
        events = db.execute(
            "SELECT no, blob FROM event WHERE run = ? ORDER BY seq DESC LIMIT ?", (id, STEP_ROWS)
        ).fetchall()
        nos = [(no,) for no, _ in events]
        db.executemany("DELETE FROM thread_message WHERE event = ?", nos)
        db.executemany("DELETE FROM event WHERE no = ?", nos)
        db.executemany(
            """DELETE FROM blob WHERE sha256 = ?1
            AND NOT EXISTS (SELECT 1 FROM event WHERE blob = ?1)""",
            [(blob,) for blob in {blob for _, blob in events if blob is not None}],
        )
        if len(events) == STEP_ROWS:
            db.execute(
                """UPDATE run SET status = 'cancelled', owner = ?, fence = fence + 1,
                    lease_until = unixepoch('subsec') + ? WHERE id = ?""",
                (self.owner, LEASE_SECONDS, id),
            )
            return False
        db.execute("DELETE FROM run WHERE id = ?", (id,))
        done["runs"] += 1
        return True

    def drop_embeddings(self, db: apsw.Connection, _: None, done: Counter[str]) -> bool:
        db.execute(
            """DELETE FROM embedding WHERE no IN
                (SELECT no FROM embedding WHERE used <= ? LIMIT ?)""",
            (self.bound["embeddings"], STEP_ROWS),
        )
        count = db.changes()
        done["embeddings"] += count
        return count < STEP_ROWS
