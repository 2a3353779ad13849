"""Processes of this machine: each does many calls, one at a time.

They are started as programs of their own, so that nothing of the caller's `__main__` runs again in
them, and each has a connection alone: the death of one is nobody else's.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing import Pipe
from queue import SimpleQueue
from typing import Any, TypeVar

from mastra_nb.errors import ConfigError, WorkerDied
from mastra_nb.executor import Named, begin, check_portable, never_begun, stopped
from mastra_nb.executors._worker import STOP, packed, unpacked

T = TypeVar("T")

_STOP_SECONDS = 2.0
_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from mastra_nb.executors._worker import main; main(int(sys.argv[2]))"
)


class _Call:
    def __init__(self, told: bytes) -> None:
        self.told = told
        self.future: Future[Any] = Future()
        self.is_unwanted = False


class LocalExecutor:
    """`workers` processes, started when there is work for them."""

    def __init__(self, workers: int = 1, address: str | None = None) -> None:
        if workers < 1:
            raise ConfigError(f"workers is {workers}", hint="a whole number from 1")
        if address is not None:
            raise ConfigError(
                f'the local executor connects to no "{address}"', hint='executor="dask"'
            )
        self._workers = workers
        self._todo: SimpleQueue[_Call | None] = SimpleQueue()
        self._slots: list[_Slot] = []
        self._lock = threading.Lock()
        self._waiting = 0
        self._is_closed = False

    @property
    def workers(self) -> int:
        return self._workers

    def submit(self, fn: Callable[..., T], /, *args: Any) -> Future[T]:
        for each in (fn, *args):
            if each is fn or inspect.isfunction(each) or isinstance(each, Named):
                check_portable(each)
        try:
            call = _Call(packed(fn, args))
        except Exception as error:
            raise ConfigError(
                f'what "{fn.__qualname__}" is given cannot be sent to another process: {error}',
                hint="give it plain data",
                code="executor.not_portable",
            ) from error
        with self._lock:
            if self._is_closed:
                raise ConfigError("the executor is closed", hint="make another one")
            self._waiting += 1
            if len(self._slots) < self._workers and self._waiting > self._idle():
                self._slots.append(_Slot(self._next))
        self._todo.put(call)
        return call.future

    def _idle(self) -> int:
        return sum(slot.call is None for slot in self._slots)

    def _next(self, slot: _Slot) -> _Call | None:
        with self._lock:
            slot.call = None
        call = self._todo.get()
        with self._lock:
            if call is not None:
                self._waiting -= 1
                slot.call = call
        return call

    def cancel(self, future: Future[Any]) -> None:
        if never_begun(future) or future.done():
            return
        with self._lock:
            for slot in self._slots:
                if slot.call is not None and slot.call.future is future:
                    slot.call.is_unwanted = True
                    slot.stop()

    @property
    def processes(self) -> list[int]:
        """Their ids."""
        return [slot.process.pid for slot in self._slots if slot.process is not None]

    async def close(self) -> None:
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            while not self._todo.empty():
                if (call := self._todo.get()) is not None:
                    never_begun(call.future)
            for slot in self._slots:
                if slot.call is not None:
                    slot.call.is_unwanted = True
                self._todo.put(None)
                slot.stop()
        # Also when whoever closes it is cancelled: nothing may be left behind.
        await asyncio.shield(asyncio.to_thread(self._join))

    def _join(self) -> None:
        for slot in self._slots:
            slot.thread.join(2 * _STOP_SECONDS)


class _Slot:
    """A thread that hands calls to a process, and starts another when that has died."""

    def __init__(self, next: Callable[[_Slot], _Call | None]) -> None:
        self.call: _Call | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._next = next
        self._conn: Any = None
        self.thread = threading.Thread(target=self._main, name="mastra_nb-worker", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """The process; what waits for it hears of it."""
        process, conn = self.process, self._conn
        if process is None or conn is None:
            return
        try:
            conn.send_bytes(STOP)
        except OSError:
            pass  # it has ended by itself
        timer = threading.Timer(_STOP_SECONDS, process.kill)
        timer.daemon = True
        timer.start()

    def _main(self) -> None:
        while (call := self._next(self)) is not None:
            if begin(call.future):
                self._do(call)
            del call
        self._end()

    def _do(self, call: _Call) -> None:
        try:
            if self.process is None or self.process.poll() is not None:
                self._begin()
            if call.is_unwanted:
                raise EOFError
            self._conn.send_bytes(call.told)
            fine, value = unpacked(self._conn.recv_bytes())
        except (EOFError, OSError) as error:
            code = self._end()
            call.future.set_exception(_died(call, code, error))
        except Exception as error:
            # A result that this process cannot read is the call's failure.
            call.future.set_exception(error)
        else:
            if fine:
                call.future.set_result(value)
            else:
                call.future.set_exception(value)

    def _begin(self) -> None:
        self._end()
        here, there = Pipe()
        handle = there.fileno()
        path = [os.path.abspath(p) for p in sys.path]  # noqa: PTH100 (text for a program)
        command = [sys.executable, "-c", _CHILD, json.dumps(path), str(handle)]
        # Ctrl-C in a terminal is for whoever started it, who then stops its workers.
        how: dict[str, Any] = {"pass_fds": (handle,), "start_new_session": True}
        if sys.platform == "win32":
            os.set_handle_inheritable(handle, True)
            how = {"close_fds": False, "creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        try:
            # What is printed is no result: it goes where errors go.
            self.process = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.DEVNULL, stdout=2, **how
            )
        finally:
            there.close()
        self._conn = here

    def _end(self) -> int | None:
        process, conn = self.process, self._conn
        self.process = self._conn = None
        if conn is not None:
            conn.close()
        if process is None:
            return None
        try:
            return process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def _died(call: _Call, code: int | None, error: Exception) -> Exception:
    if call.is_unwanted:
        return stopped()
    how = "" if code is None else f" (exit code {code})"
    died = WorkerDied(f"the process of a worker ended{how}", hint="its call may be made again")
    died.__cause__ = error
    return died


def open_executor(workers: int = 1, address: str | None = None) -> LocalExecutor:
    return LocalExecutor(workers, address)
