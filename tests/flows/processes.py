"""Python processes that work on one database file."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw

PRELUDE = """
import asyncio, os, sys, time
import apsw
from mastra_nb.errors import LeaseHeld, StorageError
from mastra_nb.store_contract import messages, new_run
from mastra_nb.storage import RunRow
from mastra_nb.stores.sqlite import open_store

url, name = sys.argv[1], sys.argv[2]

def say(text):
    os.write(1, (text + "\\n").encode())

def hear():
    return sys.stdin.readline()
"""


@contextlib.contextmanager
def processes() -> Iterator[Callable[[str, Path, str], subprocess.Popen[str]]]:
    """Starts Python on PRELUDE and the given code; what is still alive at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, path: Path, name: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(code),
             f"sqlite:///{path}", name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )  # fmt: skip
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            process.communicate()


def check(path: Path) -> None:
    db = apsw.Connection(str(path))
    # Who lost a race may still be about to leave.
    db.set_busy_timeout(10_000)
    assert db.execute("PRAGMA integrity_check").get == "ok"
    db.close()
