"""Server-sent events: a decoder that does no I/O."""

from __future__ import annotations

from typing import ClassVar, Protocol

import msgspec


class ServerEvent(msgspec.Struct, frozen=True):
    """One event of a stream; several data lines are joined with a newline."""

    data: bytes
    event: str = ""


class Framing(Protocol):
    """How events lie in a stream of bytes. `foreign` are first bytes that no such stream has."""

    media_type: ClassVar[str]
    foreign: ClassVar[bytes]

    def feed(self, chunk: bytes) -> list[ServerEvent]: ...

    def close(self) -> list[ServerEvent]: ...


class SSEDecoder:
    """Server-sent events from bytes that may be split anywhere."""

    media_type: ClassVar[str] = "text/event-stream"
    foreign: ClassVar[bytes] = b"{[<"

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._data: list[bytes] = []
        self._event = ""
        self._started = False
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk[0] == 10:
                chunk = chunk[1:]
        if b"\n" not in chunk and b"\r" not in chunk:
            if chunk:
                self._pieces.append(chunk)
            return []
        if self._pieces:
            self._pieces.append(chunk)
            chunk = b"".join(self._pieces)
            self._pieces.clear()
        lines = chunk.splitlines()
        last = chunk[-1]
        if last == 13:
            self._after_cr = True
        elif last != 10:
            self._pieces.append(lines.pop())
        return self._take(lines)

    def close(self) -> list[ServerEvent]:
        """What is left when the stream ends without the blank line."""
        lines = [b"".join(self._pieces), b""] if self._pieces else [b""]
        self._pieces.clear()
        return self._take(lines)

    def _take(self, lines: list[bytes]) -> list[ServerEvent]:
        if not self._started and lines:
            self._started = True
            lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
        events: list[ServerEvent] = []
        data = self._data
        for line in lines:
            if line.startswith(b"data:"):
                data.append(line[6:] if line[5:6] == b" " else line[5:])
            elif not line:
                if data:
                    joined = data[0] if len(data) == 1 else b"\n".join(data)
                    events.append(ServerEvent(joined, self._event))
                    data.clear()
                self._event = ""
            elif line.startswith(b"event:"):
                self._event = line[6:].strip().decode("utf-8", "replace")
            elif line == b"data":
                data.append(b"")
        return events
