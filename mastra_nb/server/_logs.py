"""The newest lines of the log, for who looks at it over REST. They are redacted when they come."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

import msgspec

from mastra_nb.config import get_logger, redact

MOST = 2000


class Line(msgspec.Struct, frozen=True):
    number: int
    at: float
    level: str
    logger: str
    message: str


class Kept(logging.Handler):
    """A handler of the package's logger while a server runs."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[Line] = deque(maxlen=MOST)
        self._count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self._count += 1
        text = redact(record.getMessage())
        level = {"WARNING": "warn", "CRITICAL": "fatal"}.get(
            record.levelname, record.levelname.lower()
        )
        self.lines.append(Line(self._count, record.created, level, record.name, text))

    def __enter__(self) -> Kept:
        get_logger().addHandler(self)
        return self

    def __exit__(self, *_: Any) -> None:
        get_logger().removeHandler(self)
