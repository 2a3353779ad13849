"""Runs that belong to a cell: after a restart, Run All takes up what was left unfinished.

A document names the run that a call of a cell is busy with: notebook, cell code, agent, prompt
and the ordinal among equal calls identify the call. It is written before the run starts and
deleted when the run has ended, so a finished run never stands in the way of a new one, and the
run's own `key` (unique for ever) is not needed.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from typing import Any

from mastra_nb.services import is_dead
from mastra_nb.storage import RunRow, Store

_KIND = "cell"


class CellCalls:
    """Counts equal calls of the cell that is being run."""

    def __init__(self) -> None:
        self.code = ""
        self.nth = 0
        self._seen: Counter[str] = Counter()

    def begin(self, code: str) -> None:
        self.code = code
        self.nth += 1
        self._seen.clear()

    def identify(self, notebook: str, agent: str, prompt: str, options: str) -> str:
        base = hashlib.sha256("\0".join([notebook, self.code, agent, prompt, options]).encode())
        key = base.hexdigest()
        n = self._seen[key]
        self._seen[key] += 1
        return f"{key}.{n}"


def notebook_name(user_ns: dict[str, Any]) -> str:
    """The notebook's path as the front end tells it; else the folder it runs in."""
    for name in (user_ns.get("__vsc_ipynb_file__"), os.environ.get("JPY_SESSION_NAME")):
        if isinstance(name, str) and name:
            return name
    return os.getcwd()  # noqa: PTH109 (a text for a digest)


async def unfinished(store: Store, call: str, *, ended: bool = False) -> RunRow | None:
    """The run that waits, or that a dead process left behind; None if a new one is to be made.
    With `ended` also one that has ended elsewhere, whose output the cell never got.

    A run that is alive elsewhere is another execution of the same notebook: not ours to take.
    """
    kept = await store.get(_KIND, call)
    id = kept.get("run") if isinstance(kept, dict) else None
    row = await store.get_run(id) if isinstance(id, str) else None
    if ended and row is not None and row.status == "done":
        return row
    if row is None or row.status not in ("suspended", "running", "new"):
        return None
    if row.status == "suspended" or row.lease_until <= time.time() or is_dead(row.owner):
        return row
    return None


async def begin(store: Store, call: str, run: str) -> None:
    await store.put(_KIND, call, {"run": run})


async def end(store: Store, call: str) -> None:
    await store.delete(_KIND, call)
