"""A workflow's run that a cell awaits: shown in the cell, and taken up again by the next one."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import Any

import msgspec

from mastra_nb.errors import Stopped
from mastra_nb.notebook import _attach, _live
from mastra_nb.notebook._ask import Asked, show_run, watch
from mastra_nb.notebook._host import Host
from mastra_nb.runs import Run
from mastra_nb.storage import Store, read_run


async def present(host: Host, run: Run[Any]) -> Run[Any]:
    """Show `run` until it rests, in the cell whose code waits for it; returns what it has become.

    One that a call like this left unfinished (a restart came between, or it waits for an answer) is
    taken up instead of a new one, also if `%resume` has brought it to its end since. Raises Stopped
    if the cell is interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        return run  # of code that blocks: what it displayed would land in whatever cell is newest
    call = ""
    store = host.services.store
    if store is not None and not run.log.events:
        asked = msgspec.json.encode(run.asked, order="sorted").decode()
        call = host.calls.identify(host.notebook, run.name, asked, run.target.kind)
        await _take_up(run, store, call)
    shown = Asked(run=run, bundle=partial(show_run, host, "", "md"), call=call)
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    host.showing.add(ended)
    try:
        error = await watch(host, shown)
    finally:
        host.showing.discard(ended)
        ended.set_result(None)
    if isinstance(error, Stopped):
        if host.showing:
            # A cell that ends before those beside it are drawn would keep an older picture of them.
            await asyncio.wait(host.showing, timeout=_live.UNWIND_SECONDS)
        raise error
    return shown.run


async def _take_up(run: Run[Any], store: Store, call: str) -> None:
    row = await _attach.unfinished(store, call, ended=True)
    if row is not None and (row.name, row.kind) == (run.name, run.target.kind):
        run.adopt(row, await read_run(store, row))
    else:
        await _attach.begin(store, call, run.id)
