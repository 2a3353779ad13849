"""Runs as streams of bytes: SSE for agents, records for workflows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import StreamingResponse

from mastra_nb.runs import Run
from mastra_nb.server._live import batches
from mastra_nb.server._routes import Json, dumps
from mastra_nb.server.wire import RunWire
from mastra_nb.server.workflow_wire import WorkflowWire

SSE_HEADERS = {"cache-control": "no-cache", "connection": "keep-alive", "x-accel-buffering": "no"}
DONE = b"data: [DONE]\n\n"
RECORD = b"\x1e"
# A comment after so much silence, so that nothing on the way takes the connection for dead.
_BEAT, _BEAT_SECONDS = b": ping\n\n", 15.0

Chunks = AsyncIterator[list[Json]]


def wire_of(run: Run[Any]) -> RunWire:
    return RunWire(run.id, WorkflowWire)


async def chunks(run: Run[Any], *, after: int = 0) -> Chunks:
    """What a run says from its event `after` on; those that are there together, none after a
    silence.
    """
    wire = wire_of(run).skip(run.log.events[:after])
    if said := wire.again():
        yield said
    async for events in batches(run, after, beat=_BEAT_SECONDS):
        said = [chunk for event in events for chunk in wire.feed(event)]
        if said or not events:
            yield said
    if said := wire.rest(run.failure, run.target.kind, run.name) + _released(run):
        yield said


async def chunks_from(run: Run[Any], offset: int) -> Chunks:
    """What a run says but for the first `offset` chunks. Where these were pieces of texts that are
    here in one, nobody knows how far a reader came: then from the first of those texts on.
    """
    wire = wire_of(run)

    def left(said: list[Json]) -> list[Json]:
        first = wire.said - len(said)
        known = offset if wire.joined is None else min(offset, wire.joined)
        return said[max(0, known - first) :]

    async for events in batches(run, 0, beat=_BEAT_SECONDS):
        said = left([chunk for event in events for chunk in wire.feed(event)])
        if said or not events:
            yield said
    if said := left(wire.rest(run.failure, run.target.kind, run.name)) + _released(run):
        yield said


def _released(run: Run[Any]) -> list[Json]:
    if run.status != "running":
        return []
    why = "the server has ended; the run goes on when it is back"
    error = {"name": "server.ended", "message": why}
    source = "AGENT" if run.target.kind == "agent" else "WORKFLOW"
    return [{"type": "error", "runId": run.id, "from": source, "payload": {"error": error}}]


async def gathered(run: Run[Any]) -> Any:
    """The speaker of a run at rest, which knows all that it has said."""
    await run.rested()
    wire = wire_of(run)
    for event in run.log.events:
        if event.durable:
            wire.feed(event)
    wire.rest(run.failure, run.target.kind, run.name)
    return wire.root


def sse(source: Chunks, *, first: bytes = b"", done: bytes = DONE) -> StreamingResponse:
    def frame(chunk: Json) -> bytes:
        return b"data: " + dumps(chunk) + b"\n\n"

    framed = _framed(source, frame, first, done, _BEAT)
    return StreamingResponse(framed, media_type="text/event-stream", headers=SSE_HEADERS)


def records(source: Chunks) -> StreamingResponse:
    """Mastra's workflow streams: JSON, each ended by the byte 0x1E."""
    framed = _framed(source, lambda c: dumps(c) + RECORD, b"", b"", b"")
    return StreamingResponse(framed, media_type="text/plain", headers=SSE_HEADERS)


async def _framed(
    source: Chunks, frame: Callable[[Json], bytes], first: bytes, done: bytes, beat: bytes
) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for said in source:
        if said:
            yield b"".join(map(frame, said))
        elif beat:
            yield beat
    if done:
        yield done
