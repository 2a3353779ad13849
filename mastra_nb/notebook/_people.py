"""Who answers a call that waits for approval: a button of a front end, the keyboard, or nobody yet.

A cell whose run waits goes on running while somebody may be there. Buttons need a kernel that
hears its front ends while a cell runs (ipykernel 7); older ones ask on the keyboard. Where nobody
is there (papermill, nbconvert) the run is left suspended, which is safe: it is never approved by
itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import msgspec

from mastra_nb import portal, unattended
from mastra_nb.errors import NotFound, NotResumable, SchemaError
from mastra_nb.events import Suspended
from mastra_nb.notebook._errors import plain
from mastra_nb.past import Past
from mastra_nb.runlog import Watchers, check_answer, notify
from mastra_nb.runs import Run
from mastra_nb.schema import parse_json

# A front end opens its line to the kernel when it draws the run: that takes a moment.
FRONT_END_SECONDS = 3.0
_AWAKE_SECONDS = 0.2
_SHORT = 300

Shown = Run[Any]


class _Desk:
    """A cell that waits for somebody's answer."""

    def __init__(self, run: Shown) -> None:
        self.run = run
        self.is_taken = False
        self._loop = asyncio.get_running_loop()
        self.decided: asyncio.Future[Shown | None] = self._loop.create_future()

    def settle(self, run: Shown | None) -> None:
        """On any thread."""
        self.is_taken = True
        self._loop.call_soon_threadsafe(self._settle, run)

    def _settle(self, run: Shown | None) -> None:
        if not self.decided.done():
            self.decided.set_result(run)


class People:
    """One for each kernel; `front_ends` is how many have a line to it."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self.front_ends = 0
        self._hoping: Watchers = []
        self._desks: dict[str, _Desk] = {}
        self._running: dict[str, Shown] = {}
        # Answers that came before the run rested: it had just asked, or was answered elsewhere.
        self._early: dict[tuple[str, str], Any] = {}
        # Runs whose cell blocks in `input`: a click cannot end that.
        self._typing: set[str] = set()
        # A front end is heard on another thread than the cell's.
        self._lock = threading.Lock()

    # What a cell asks

    @contextlib.contextmanager
    def shown(self, run: Shown) -> Iterator[None]:
        """While a cell shows `run` it can be stopped."""
        self.now(run)
        try:
            yield
        finally:
            self._running.pop(run.id, None)

    def now(self, run: Shown) -> None:
        """The handle of a run that is shown: another one since it was answered."""
        self._running[run.id] = run

    def are_asked(self, run: str) -> bool:
        """Whether a cell waits for a click: then its output has to say what is asked."""
        return run in self._desks

    async def wait(self, run: Shown, *, seen: bool, told: Callable[[], None]) -> Shown | None:
        """The run that goes on with somebody's answer; None if nobody answers now.

        `seen` is whether what the cell shows can be seen yet; `told` is called when it waits.
        """
        path = _approval(run)
        if path is not None and (decided := _decided(run, path)) is not None:
            return decided
        if path is None or not self.is_somebody_there:
            return None
        if seen and self._hears_clicks and await self._front_end():
            return await self._clicked(run, told)
        return self._typed(run, path)

    def wait_blocking(self, run: Shown, *, seen: bool, told: Callable[[], None]) -> Shown | None:
        """The same for callers that cannot await."""
        path = _approval(run)
        if path is not None and (decided := _decided(run, path)) is not None:
            return decided
        if path is None or not self.is_somebody_there:
            return None
        if seen and self._hears_clicks and portal.run(self._front_end()):
            try:
                return portal.run(self._clicked(run, told))
            except KeyboardInterrupt:
                return None
        return self._typed(run, path)

    @property
    def is_somebody_there(self) -> bool:
        kernel = getattr(self._shell, "kernel", None)
        if kernel is None:
            return sys.stdin is not None and sys.stdin.isatty()
        return bool(getattr(kernel, "_allow_stdin", False))

    @property
    def _hears_clicks(self) -> bool:
        kernel = getattr(self._shell, "kernel", None)
        return kernel is not None and int(version("ipykernel").partition(".")[0]) >= 7

    async def _front_end(self) -> bool:
        if not self.front_ends:
            loop = asyncio.get_running_loop()
            came: asyncio.Future[None] = loop.create_future()
            self._hoping.append((loop, came))
            await asyncio.wait({came}, timeout=FRONT_END_SECONDS)
        return self.front_ends > 0

    def count(self, front_ends: int) -> None:
        """On any thread: so many have a line to the kernel now."""
        self.front_ends = front_ends
        if front_ends:
            hoping, self._hoping = self._hoping, []
            notify(hoping)

    async def _clicked(self, run: Shown, told: Callable[[], None]) -> Shown | None:
        with self._lock:
            for path in run.pending:
                if (run.id, path) in self._early:
                    return run.resume(self._early.pop((run.id, path)), path=path)
            desk = self._desks[run.id] = _Desk(run)
        try:
            told()
            # The kernel's interrupt cancels us without waking a loop that has nothing to do.
            while not desk.decided.done():
                await asyncio.wait({desk.decided}, timeout=_AWAKE_SECONDS)
            return desk.decided.result()
        finally:
            del self._desks[run.id]

    def _typed(self, run: Shown, path: str) -> Shown | None:
        asked = run.pending[path]
        while True:
            try:
                with interruptible():
                    answer = _read(asked)
            except (EOFError, KeyboardInterrupt, NotImplementedError):
                return None  # nobody is there, or whoever is does not want to say
            if answer is None:
                return None
            try:
                return run.resume(answer, path=path)
            except SchemaError as error:
                print(plain(error.message))

    # What a front end says

    def answer(self, run: str, path: str | None, answer: Any) -> bool:
        """False if no cell waits for it.

        Raises SchemaError if it does not fit, NotResumable, Conflict.
        """
        with self._lock:
            desk = self._desks.get(run)
            if desk is not None and not desk.is_taken:
                desk.settle(desk.run.resume(answer, path=path))
                return True
            if run in self._typing:
                raise NotResumable(
                    f'the cell of run "{run}" asks on the keyboard', hint="answer below the cell"
                )
            live = self._running.get(run)
            if live is None or not live.pending:
                return False
            past = Past([e for e in live.log.events if e.durable])
            given = check_answer(run, past, answer, path, live.log.services.now())
            if given is not None:
                place, checked = given
                self._early[run, place] = checked
            return True

    def later(self, run: str) -> None:
        """The cell ends, the run waits on. Raises NotFound."""
        desk = self._desks.get(run)
        if desk is None or desk.is_taken:
            raise NotFound(
                f'no cell waits for run "{run}"', hint="%mastra waiting lists what waits"
            )
        desk.settle(None)

    def stop(self, run: str) -> bool:
        """False if no cell shows it."""
        desk = self._desks.get(run)
        live = desk.run if desk is not None else self._running.get(run)
        if live is None:
            return False
        live.cancel()
        if desk is not None:
            desk.settle(live)
        return True


def _approval(run: Shown) -> str | None:
    return next((p for p, asked in run.pending.items() if asked.reason == "approval"), None)


def _decided(run: Shown, path: str) -> Shown | None:
    """The run that goes on: what an earlier call of a batch left waiting, this one decides."""
    row = unattended.row()
    payload = run.pending[path].payload
    if row is None or not isinstance(payload, dict):
        return None
    decides = row.decides(str(payload.get("tool")))
    return None if decides is None else run.resume({"approved": decides}, path=path)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """While an awaited cell runs, the kernel's handler would cancel a task that reads the keyboard
    and therefore cannot hear of it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _read(asked: Suspended) -> dict[str, Any] | None:
    """An answer from the keyboard; None for later."""
    payload = asked.payload if isinstance(asked.payload, dict) else {}
    args = msgspec.json.encode(payload.get("args")).decode()
    shown = plain(f"{payload.get('tool')} {args}")
    shown = shown if len(shown) <= _SHORT else shown[: _SHORT - 1] + "…"
    while True:
        said = input(f"approve {shown}? [y]es, [n]o, [e]dit, [l]ater: ").strip()
        word, _, rest = said.partition(" ")
        match word.lower():
            case "y" | "yes" | "approve":
                return {"approved": True}
            case "n" | "no" | "deny":
                return {"approved": False} | ({"reason": rest.strip()} if rest.strip() else {})
            case "" | "l" | "later":
                return None
            case "e" | "edit":
                try:
                    return {"approved": True, "args": parse_json(rest or input("arguments: "))}
                except SchemaError as error:
                    print(plain(error.message))
