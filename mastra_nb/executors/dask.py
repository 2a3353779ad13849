"""Dask distributed: a cluster of this machine, or one that is reached by its address.

What it is given may be defined anywhere, also in a notebook. Dask places the work and notices a
death; it retries nothing, and keeps no result: what is durable is written down by whoever submits.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from mastra_nb.errors import ConfigError, MissingExtra, WorkerDied
from mastra_nb.executor import begin, never_begun, stopped

T = TypeVar("T")

_CONNECT_SECONDS = 30.0
_STOP_SECONDS = 2.0
_CLUSTER = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from mastra_nb.executors._cluster import main; main(int(sys.argv[2]))"
)


class DaskExecutor:
    """`workers` processes with a thread each; with an `address` so many calls at once there."""

    def __init__(self, workers: int = 1, address: str | None = None) -> None:
        if workers < 1:
            raise ConfigError(f"workers is {workers}", hint="a whole number from 1")
        self._workers = workers
        self._address = address
        self._client: Any = None
        self._cluster: Any = None
        self._lock = threading.Lock()
        # No more is placed than can be at work: what waits behind a call would die with its worker.
        self._todo: deque[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = deque()
        self._placed: dict[Future[Any], Any] = {}
        self._unwanted: set[Future[Any]] = set()
        self._is_closed = False
        # Connecting and submitting block, and a client is not for several threads.
        self._hand = ThreadPoolExecutor(1, thread_name_prefix="mastra_nb-dask")
        # Where nobody can connect, it is said before anything is submitted.
        _distributed()

    @property
    def workers(self) -> int:
        return self._workers

    def submit(self, fn: Callable[..., T], /, *args: Any) -> Future[T]:
        future: Future[T] = Future()
        with self._lock:
            if self._is_closed:
                raise ConfigError("the executor is closed", hint="make another one")
            self._todo.append((future, fn, args))
            self._hand.submit(self._place)
        return future

    def _place(self) -> None:
        while True:
            with self._lock:
                if not self._todo or len(self._placed) >= self._workers or self._is_closed:
                    return
                future, fn, args = self._todo.popleft()
            if future.done():
                continue
            try:
                task = self._connected().submit(fn, *args, pure=False, retries=0)
            except Exception as error:
                if begin(future):
                    future.set_exception(error)
                continue
            with self._lock:
                self._placed[future] = task
            task.add_done_callback(partial(self._done, future))

    def _done(self, future: Future[Any], task: Any) -> None:
        """On a thread of the client's: the result is taken here and let go of there."""
        with self._lock:
            self._placed.pop(future, None)
            is_unwanted = future in self._unwanted
            self._unwanted.discard(future)
            if self._todo and not self._is_closed:
                self._hand.submit(self._place)
        if not begin(future):
            task.release()
            return
        if is_unwanted or task.status == "cancelled":
            future.set_exception(stopped())
            return
        try:
            value = task.result(timeout=_CONNECT_SECONDS)
        except BaseException as error:
            future.set_exception(_translated(error))
        else:
            future.set_result(value)
        finally:
            task.release()

    def cancel(self, future: Future[Any]) -> None:
        with self._lock:
            task = self._placed.get(future)
            if task is not None:
                self._unwanted.add(future)
        if task is None:
            never_begun(future)
        else:
            self._hand.submit(self._stop, task)

    def _stop(self, task: Any) -> None:
        """A thread cannot be stopped: its process is, if it is ours and does nothing else."""
        at = [where for where, keys in self._client.processing().items() if task.key in keys]
        task.cancel(force=True)
        if self._cluster is not None and at:
            self._client.restart_workers(at, timeout=_CONNECT_SECONDS, raise_for_error=False)

    @property
    def processes(self) -> list[int]:
        """The ids of its workers'."""
        found = self._client.scheduler_info(n_workers=-1)["workers"] if self._client else {}
        return [self._client.run(_pid, workers=[where])[where] for where in found]

    async def close(self) -> None:
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        await asyncio.shield(asyncio.to_thread(self._close))

    def _close(self) -> None:
        with self._lock:
            placed = dict(self._placed)
            self._unwanted |= placed.keys()
            waiting = [future for future, _, _ in self._todo]
            self._todo.clear()
        self._hand.shutdown(wait=True, cancel_futures=True)
        for task in placed.values():
            task.cancel(force=True)
        if self._client is not None:
            self._client.close(timeout=_STOP_SECONDS)
        if self._cluster is not None:
            self._cluster.communicate()
        for future in (*waiting, *placed):
            never_begun(future)

    def _connected(self) -> Any:
        """Raises ConfigError if nobody answers."""
        if self._client is None:
            distributed = _distributed()
            address = self._address or self._start()
            try:
                self._client = distributed.Client(address, timeout=_CONNECT_SECONDS)
            except (OSError, TimeoutError, ValueError) as error:
                raise ConfigError(
                    f'no Dask scheduler answers at "{address}"',
                    hint="dask scheduler prints its address when it starts",
                ) from error
        return self._client

    def _start(self) -> str:
        path = [os.path.abspath(p) for p in sys.path]  # noqa: PTH100 (text for a program)
        command = [sys.executable, "-c", _CLUSTER, json.dumps(path), str(self._workers)]
        # Ctrl-C in a terminal is for whoever started it.
        apart: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        self._cluster = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **apart
        )
        address = str(self._cluster.stdout.readline()).strip()
        if not address:
            raise WorkerDied(
                f"the Dask cluster ended as it began (exit code {self._cluster.wait()})",
                hint="what it has said is above",
            )
        return address


def _pid() -> int:
    return os.getpid()


def _distributed() -> Any:
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f'"dask" needs the module "{error.name}", which is not installed',
            hint='pip install "mastra-nb[dask]"',
        ) from None
    return distributed


def _translated(error: BaseException) -> BaseException:
    names = {each.__name__ for each in type(error).__mro__}
    if "KilledWorker" in names or "CommClosedError" in names:
        died = WorkerDied("a worker's process ended", hint="its call may be made again")
        died.__cause__ = error
        return died
    return stopped() if "CancelledError" in names else error


def open_executor(workers: int = 1, address: str | None = None) -> DaskExecutor:
    return DaskExecutor(workers, address)
