"""A process that does what it is told, one call after another.

It ends with whoever started it: the connection between them closes then, also after a SIGKILL.
"""

from __future__ import annotations

import os
import threading
import traceback
from multiprocessing import connection
from multiprocessing.reduction import ForkingPickler
from queue import SimpleQueue
from typing import Any

from mastra_nb.errors import RunError
from mastra_nb.executor import stop_work

Connection: Any = getattr(connection, "PipeConnection" if os.name == "nt" else "Connection")
STOP = b""


def main(handle: int) -> None:
    conn = Connection(handle)
    todo: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_hear, args=(conn, todo), daemon=True).start()
    while True:
        conn.send_bytes(_answer(todo.get()))


def _hear(conn: Any, todo: SimpleQueue[bytes]) -> None:
    """The call under way must not outlive its being wanted, whatever it does."""
    try:
        while (told := conn.recv_bytes()) != STOP:
            todo.put(told)
    except (EOFError, OSError):
        pass
    try:
        stop_work()
    finally:
        os._exit(0)


def packed(fn: Any, args: tuple[Any, ...]) -> bytes:
    return bytes(ForkingPickler.dumps((fn, args)))


def unpacked(told: bytes) -> Any:
    return ForkingPickler.loads(told)


def _answer(told: bytes) -> bytes:
    """(True, result) or (False, error)."""
    try:
        fn, args = unpacked(told)
        return bytes(ForkingPickler.dumps((True, fn(*args))))
    except BaseException as error:
        return _failed(error)


def _failed(error: BaseException) -> bytes:
    where = "".join(traceback.format_exception(error))
    try:
        answer = bytes(ForkingPickler.dumps((False, error)))
        # Many errors can be written but not read; one that ends a process would end ours.
        unpacked(answer)
        if not isinstance(error, Exception):
            raise TypeError
    except Exception:
        other = RunError(f"{type(error).__name__}: {error}", code="executor.failed")
        other.add_note(where)
        return bytes(ForkingPickler.dumps((False, other)))
    return answer
