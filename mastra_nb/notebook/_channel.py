"""The line to the front ends of a kernel: questions with answers, and what happens told by itself.

A front end opens a comm of target `mastra_nb` and sends {id, ask, args}; the answer is {id, ok} or
{id, error: {code, message, hint}}. {event: "changed", run, name, status} says that a run began,
waits, or has ended. labextension/src/link.ts is the other end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from mastra_nb import portal
from mastra_nb.events import Event, Resumed, SpanEnded, SpanStarted, Suspended
from mastra_nb.notebook._host import Host
from mastra_nb.notebook._questions import Ask, answered

TARGET = "mastra_nb"


class Channel:
    """`ask` answers what is asked, on the portal's loop; it raises MastraErrors."""

    def __init__(self, host: Host, ask: Ask) -> None:
        self._host = host
        self._ask = ask
        self._comms: dict[str, Any] = {}
        self._jobs: set[Future[None]] = set()
        self._mark: Any = None

    @property
    def connected(self) -> bool:
        return bool(self._comms)

    def attach(self) -> None:
        manager = self._manager()
        if manager is None:
            return
        manager.register_target(TARGET, self._opened)
        # Never opened: `comm_info` tells a front end by it that we are here.
        self._mark = _Mark()
        manager.register_comm(self._mark)
        self._host.services.sinks.append(self._see)

    def detach(self) -> None:
        manager = self._manager()
        if manager is None or self._mark is None:
            return
        manager.unregister_target(TARGET, self._opened)
        manager.unregister_comm(self._mark)
        self._mark = None
        for comm in list(self._comms.values()):
            comm.close()
        self._comms.clear()
        self._count()
        if self._see in self._host.services.sinks:
            self._host.services.sinks.remove(self._see)

    def _manager(self) -> Any:
        return getattr(getattr(self._host.shell, "kernel", None), "comm_manager", None)

    def _count(self) -> None:
        self._host.people.count(len(self._comms))

    def _opened(self, comm: Any, _message: Mapping[str, Any]) -> None:
        self._comms[comm.comm_id] = comm
        self._count()
        comm.on_msg(lambda message: self._heard(comm, message["content"]["data"]))
        comm.on_close(lambda _message: self._closed(comm))

    def _closed(self, comm: Any) -> None:
        self._comms.pop(comm.comm_id, None)
        self._count()

    def _heard(self, comm: Any, data: Any) -> None:
        """On the thread of the front end's subshell or of the cells: neither may wait for us."""
        job = asyncio.run_coroutine_threadsafe(self._answer(comm, data), portal.loop())
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _answer(self, comm: Any, data: Any) -> None:
        self._send(comm, await answered(self._ask, data))

    def _send(self, comm: Any, data: dict[str, Any]) -> None:
        if comm.comm_id in self._comms:
            comm.send(data)

    def _see(self, event: Event) -> None:
        """A sink: it must not block."""
        if not self._comms or not (status := _status(event)):
            return
        name = event.span.partition("/")[0]
        told = {"event": "changed", "run": event.run, "name": name, "status": status}
        portal.loop().call_soon_threadsafe(self._tell, told)

    def _tell(self, data: dict[str, Any]) -> None:
        for comm in list(self._comms.values()):
            self._send(comm, data)


class _Mark:
    """What the comm manager knows of a comm, without one."""

    comm_id = "mastra_nb-is-here"
    target_name = TARGET

    def close(self, **_: Any) -> None:
        """Nothing is open."""


def _status(event: Event) -> str:
    """What has become of the run, if the event says so."""
    data = event.data
    if isinstance(data, Suspended):
        return "suspended"
    if isinstance(data, Resumed):
        return "running"
    if "/" in event.span:
        return ""
    if isinstance(data, SpanStarted):
        return "running"
    if isinstance(data, SpanEnded):
        return {"ok": "done", "error": "failed"}.get(data.status, data.status)
    return ""
