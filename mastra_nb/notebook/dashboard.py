"""A dashboard in a cell: runs, costs, conversations, indexes and what waits for a person.

Nothing that is shown is in the widget's state, which a notebook saves: a view asks
`{"id", "ask", "args"}` (see queries.py, and the actions of `Dashboard._act`) and is answered
`{"id", "ok"}` or `{"id", "error": {code, message, hint}}`. `{"event": "changed"}` comes by itself,
at most four times a second.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import anywidget
import traitlets
from IPython.core.getipython import get_ipython

from mastra_nb import portal
from mastra_nb._escape import escape
from mastra_nb.app import Mastra
from mastra_nb.errors import MastraError, NotResumable, UsageError
from mastra_nb.events import Event, Resumed, SpanEnded, SpanStarted, Suspended
from mastra_nb.notebook import _static
from mastra_nb.notebook._errors import plain
from mastra_nb.notebook._questions import Ask, answered
from mastra_nb.queries import Queries
from mastra_nb.runs import Run

_PARTS = (
    "parts", "wire", "browser", "runs", "costs", "threads", "index", "approvals", "main",
)  # fmt: skip
_PAUSE = 0.25
_STATUSES = ("running", "suspended", "done", "failed", "cancelled")

_log = logging.getLogger(__name__)


class Dashboard(anywidget.AnyWidget):
    """Of `app`; `dashboard()` and `%mastra dash` make one. `ask` answers questions and acts on
    runs, on the portal's loop; without it the store is asked, and runs go on in this process.
    """

    _esm = _static.module("dashboard", _PARTS)
    _css = _static.style("dashboard")
    protocol = traitlets.Int(1).tag(sync=True)

    def __init__(self, app: Mastra, *, ask: Ask | None = None) -> None:
        super().__init__()
        self._app = app
        self._queries = Queries(app)
        self._ask = ask or self._act
        self._jobs: set[Future[None]] = set()
        self._going: set[asyncio.Task[None]] = set()
        # Set while a "changed" is on its way. Events come on any thread.
        self._is_due = threading.Event()
        self.on_msg(self._heard)
        app.services.sinks.append(self._see)

    def close(self) -> None:
        if self._see in self._app.services.sinks:
            self._app.services.sinks.remove(self._see)
        super().close()

    def __repr__(self) -> str:
        return f"<Dashboard of {self._app!r}>"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """With the widget what is shown of it where nothing is alive."""
        made: Any = super()._repr_mimebundle_(**kwargs)
        data, meta = made if isinstance(made, tuple) else (made, {})
        markdown, text = portal.run(self._summary())
        return {**data, "text/markdown": markdown, "text/plain": text}, meta

    async def _summary(self) -> tuple[str, str]:
        """(Markdown, plain text)"""
        rows: list[tuple[str, int]] = []
        try:
            for status in _STATUSES:
                found = await self._queries.ask("runs", {"limit": 1, "status": status})
                rows.append((status, found["total"]))
        except MastraError as error:
            said = f"Dashboard: {plain(error.message)}"
            return escape(said), said
        table = "\n".join(f"| {status} | {count:,} |" for status, count in rows)
        about = "Dashboard: run the cell to look around."
        text = " · ".join(f"{count:,} {status}" for status, count in rows)
        return f"*{about}*\n\n| runs | |\n|:--|--:|\n{table}", f"Dashboard: runs {text}"

    # The front ends

    def _heard(self, _widget: Any, content: Any, _buffers: Any) -> None:
        """On the thread of the cells, or of a front end's subshell: neither waits for us."""
        job = asyncio.run_coroutine_threadsafe(self._answer(content), portal.loop())
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _answer(self, content: Any) -> None:
        self.send(await answered(self._ask, content))

    def _see(self, event: Event) -> None:
        """A sink: it must not block."""
        if self._is_due.is_set() or not isinstance(
            event.data, SpanStarted | SpanEnded | Suspended | Resumed
        ):
            return
        self._is_due.set()
        loop = portal.loop()
        loop.call_soon_threadsafe(loop.call_later, _PAUSE, self._tell)

    def _tell(self) -> None:
        self._is_due.clear()
        self.send({"event": "changed"})

    # Without a notebook's host

    async def _act(self, name: str, args: Mapping[str, Any]) -> Any:
        if name not in ("answer", "stop"):
            return await self._queries.ask(name, args)
        run = await self._app.get_run(str(args.get("run") or ""))
        if run.status != "suspended":
            raise NotResumable(f'run "{run.id}" does not wait: it is {run.status}')
        if name == "stop":
            run.cancel()
            return {"run": run.id, "status": "cancelled"}
        path = args.get("path")
        resumed = run.resume(args.get("answer"), path=path if isinstance(path, str) else None)
        task = asyncio.create_task(_drive(resumed))
        self._going.add(task)
        task.add_done_callback(self._going.discard)
        return {"run": run.id, "status": "running"}


async def _drive(run: Run[Any]) -> None:
    """What becomes of it is in its record."""
    async for _ in run.events():
        pass


def dashboard(app: Mastra | None = None) -> Dashboard:
    """A widget that shows the runs, costs, conversations and indexes of `app`, by default the
    notebook's, and answers what waits. Raises UsageError without an app outside of a notebook.
    """
    magics = getattr(get_ipython(), "mastra", None)
    if magics is not None and app in (None, magics.host.app):
        return Dashboard(magics.host.app, ask=magics.ask)
    if app is None:
        raise UsageError("whose dashboard?", hint="%load_ext mastra_nb, or dashboard(app)")
    return Dashboard(app)
