"""JSON a line: a decoder that does no I/O, beside that of server-sent events."""

from __future__ import annotations

from typing import ClassVar

from mastra_nb.http.sse import ServerEvent


class LineDecoder:
    """Lines from bytes that may be split anywhere; each is an event without a name."""

    media_type: ClassVar[str] = "application/x-ndjson"
    foreign: ClassVar[bytes] = b"[<"

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        *lines, rest = chunk.split(b"\n")
        if lines:
            lines[0] = b"".join((*self._pieces, lines[0]))
            self._pieces.clear()
        if rest:
            self._pieces.append(rest)
        return [ServerEvent(line) for line in lines if line.strip()]

    def close(self) -> list[ServerEvent]:
        """What is left when the stream ends without a line break."""
        line = b"".join(self._pieces)
        self._pieces.clear()
        return [ServerEvent(line)] if line.strip() else []
