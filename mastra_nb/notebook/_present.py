"""A workflow's run that a cell awaits: shown in the cell, and taken up again by the next one."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from mastra_nb.errors import MastraError, Stopped
from mastra_nb.notebook import _attach, _live
from mastra_nb.notebook._ask import Asked, settle, show_run
from mastra_nb.notebook._host import Host
from mastra_nb.runs import Run
from mastra_nb.storage import Store, read_run

_PACKAGE = str(Path(__file__).parents[1])


async def present(host: Host, run: Run[Any]) -> None:
    """Show `run` until it rests, in the cell whose code waits for it.

    One that a call like this left unfinished (a restart came between, or it waits for an answer) is
    taken up instead of a new one. Raises Stopped if the cell is interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # of code that blocks: what it displayed would land in whatever cell is newest
    call = ""
    store = host.services.store
    if store is not None and not run.log.events:
        asked = msgspec.json.encode(run.asked, order="sorted").decode()
        call = host.calls.identify(host.notebook, run.name, asked, run.target.kind)
        await _take_up(run, store, call)
    shown = Asked(run=run, bundle=partial(show_run, host, "", "md"), call=call)
    error: BaseException | None = None
    try:
        await _live.show(run, host.screen(shown.bundle), host.options.frame_rate)
    except Stopped as stopped:
        error = stopped
        raise Stopped(f"stopped · %resume {run.id} goes on where it was") from None
    except Exception as raised:
        # Whoever waits for the run raises it.
        error = raised
        _for_people(raised, run)
    finally:
        await settle(host, shown, error)


def _for_people(error: Exception, run: Run[Any]) -> None:
    """An error of a step: where it happened in the user's code, and how to go on."""
    if isinstance(error, MastraError):
        return
    error.add_note(f"%resume {run.id} tries again from here; what has ended is not done again")
    frame, own = error.__traceback__, list[TracebackType]()
    while frame is not None:
        if not frame.tb_frame.f_code.co_filename.startswith(_PACKAGE):
            own.append(frame)
        frame = frame.tb_next
    made: TracebackType | None = None
    for each in reversed(own):
        made = TracebackType(made, each.tb_frame, each.tb_lasti, each.tb_lineno)
    error.__traceback__ = made or error.__traceback__


async def _take_up(run: Run[Any], store: Store, call: str) -> None:
    row = await _attach.unfinished(store, call)
    if row is not None and (row.name, row.kind) == (run.name, run.target.kind):
        run.adopt(row, await read_run(store, row))
    else:
        await _attach.begin(store, call, run.id)
