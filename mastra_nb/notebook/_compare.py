"""%mastra diff and %mastra trace: what two runs differ in, and what happened in one."""

from __future__ import annotations

import re

from mastra_nb import diffs, traces
from mastra_nb.errors import NotFound, UsageError
from mastra_nb.events import View
from mastra_nb.notebook._host import Host
from mastra_nb.notebook._tables import show

_LAST = re.compile(r"last(?:~(\d{1,4}))?")


async def diff(host: Host, *words: str) -> None:
    if len(words) == 1:
        raise UsageError("a diff needs two runs", hint="%mastra diff A B; alone: last~1 and last")
    a, b = words or ("last~1", "last")
    one, two = await find(host, a), await find(host, b)
    told = [host.told[view.run] for view in (one, two) if view.run in host.told]
    both = (told[0], told[1]) if len(told) == 2 else ("", "")
    found = diffs.diff(one, two, instructions=both)
    show(host, diffs.bundle(found, a, b))


async def trace(host: Host, word: str = "last") -> None:
    show(host, traces.bundle(traces.spans(await find(host, word))))


async def find(host: Host, word: str) -> View:
    """A run by `last`, `last~1`, its number in this kernel or the beginning of its id.

    Raises NotFound.
    """
    views = list(host.views.values())
    match = _LAST.fullmatch(word)
    if match is None and not word.isdecimal():
        return (await host.load_run(word)).view
    at = len(views) - 1 - int(match[1] or 0) if match is not None else int(word) - 1
    if not 0 <= at < len(views):
        many = "is 1 run" if len(views) == 1 else f"are {len(views)} runs"
        raise NotFound(
            f'there is no run "{word}" in this kernel: there {many if views else "is none yet"}',
            hint="%mastra runs lists them; %mastra runs all those of the store, by their ids",
        )
    return views[at]
