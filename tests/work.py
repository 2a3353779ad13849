"""What workers are told to do; they find it here by its name."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from mastra_nb import step


def double(n: int) -> int:
    return 2 * n


def pid(_: object = None) -> int:
    return os.getpid()


def fail(text: str) -> None:
    raise ValueError(text)


class Odd(Exception):
    """Can be pickled, but not read again."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def fail_oddly() -> None:
    raise Odd(1, 2)


def die(_: object = None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(marker: str) -> str:
    """Dies the first time."""
    path = Path(marker)
    if not path.exists():
        path.write_text("died")
        die()
    return path.read_text()


def note(folder: str, n: int, seconds: float = 0.0) -> int:
    """Leaves a line for each time it is begun."""
    with (Path(folder) / f"{n}").open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(seconds)
    return n


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def printing() -> str:
    print("not a result")
    return "result"


def big(n: int) -> bytes:
    return b"x" * n


def unsendable() -> object:
    return threading.Lock()


@step(retries=1, retry_delay=0.0)
def halve(n: int) -> float:
    return n / 2


async def later(n: int) -> int:
    return n + 1


def die_or_note(item: dict[str, str]) -> str:
    """Notes that it was begun; the first to see the marker dies by it."""
    with (Path(item["folder"]) / item["name"]).open("a") as file:
        file.write("begun\n")
    marker = Path(item["folder"]) / "kill"
    if item["name"] == "5" and marker.exists():
        marker.unlink()
        die()
    return item["name"]
