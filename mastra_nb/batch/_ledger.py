"""What a batch has done, in the store: who runs it again goes on from there.

kind "batch"        {"notebook", "name", "created", "rows"}, by batch
kind "batch_row"    a Record, by "<batch>/<row>"
kind "batch_lease"  {"owner", "until"}, by "<batch>/<fence>": the highest fence holds
"""

from __future__ import annotations

import os
import socket
import time
from typing import Any, Literal

import msgspec

from mastra_nb.errors import LeaseHeld
from mastra_nb.services import is_dead
from mastra_nb.storage import LEASE_SECONDS, Store

BATCH, ROW, LEASE = "batch", "batch_row", "batch_lease"
_ALL = 10_000_000

Status = Literal["running", "done", "failed", "suspended", "over_budget", "stopped"]


class Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A row as the store knows it. Times are seconds since the epoch; `cost`, in dollars, is of all
    of its attempts, None where a price is unknown.
    """

    status: Status
    params: dict[str, Any]
    values: dict[str, Any] = {}
    attempts: int = 0
    epoch: int = 0
    error: str = ""
    kind: str = ""
    cost: float | None = 0.0
    tokens: int = 0
    seconds: float = 0.0
    runs: list[str] = []
    waiting: list[str] = []
    output: str = ""
    started: float = 0.0
    ended: float = 0.0


class Ledger:
    def __init__(self, store: Store, batch: str) -> None:
        self.store = store
        self.batch = batch
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"
        self._fence = 0

    async def claim(self, about: dict[str, Any]) -> None:
        """Raises LeaseHeld while another process runs the batch."""
        newest = await self.store.find(LEASE, prefix=f"{self.batch}/", limit=1, reverse=True)
        fence = 1
        if newest:
            id, lease = newest[0]
            fence = int(id.rpartition("/")[2]) + 1
            if lease["owner"] and lease["until"] > time.time() and not is_dead(lease["owner"]):
                raise self._held(lease["owner"])
        # Of two that find the same lease expired, one inserts.
        if not await self.store.insert(LEASE, self._lease(fence), self._terms()):
            raise self._held("another process")
        self._fence = fence
        for id, _ in newest:
            await self.store.delete(LEASE, id)
        await self.store.put(BATCH, self.batch, about)

    def _held(self, owner: str) -> LeaseHeld:
        return LeaseHeld(
            f'the batch "{self.batch}" is being run by "{owner}"',
            hint="wait for it, or give this one a name of its own",
        )

    async def renew(self) -> None:
        """Raises LeaseHeld if another process has taken over, not having heard of this one."""
        newest = await self.store.find(LEASE, prefix=f"{self.batch}/", limit=1, reverse=True)
        if newest and newest[0][0] > self._lease(self._fence):
            raise self._held(newest[0][1]["owner"])
        await self.store.put(LEASE, self._lease(self._fence), self._terms())

    async def release(self) -> None:
        if self._fence:
            await self.store.put(LEASE, self._lease(self._fence), {"owner": "", "until": 0.0})
            self._fence = 0

    def _terms(self) -> dict[str, Any]:
        return {"owner": self._owner, "until": time.time() + LEASE_SECONDS}

    def _lease(self, fence: int) -> str:
        return f"{self.batch}/{fence:08}"

    async def read(self) -> dict[str, Record]:
        """By row."""
        found = await self.store.find(ROW, prefix=f"{self.batch}/", limit=_ALL)
        return {id.rpartition("/")[2]: msgspec.convert(data, Record) for id, data in found}

    async def put(self, row: str, record: Record) -> None:
        await self.store.put(ROW, f"{self.batch}/{row}", msgspec.to_builtins(record))
