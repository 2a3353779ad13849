"""The store as it is when others are at its file."""

from __future__ import annotations

import pytest

from mastra_nb.stores import sqlite


def in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path that a busy file takes: every call waits for a thread."""
    write, read = sqlite.SQLiteStore._write, sqlite.SQLiteStore._read
    monkeypatch.setattr(
        sqlite.SQLiteStore, "_write", lambda s, w, **k: write(s, w, **{**k, "threaded": True})
    )
    monkeypatch.setattr(
        sqlite.SQLiteStore, "_read", lambda s, w, **k: read(s, w, **{**k, "threaded": True})
    )
