"""Which models can be used right now, and why the others cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec

from mastra_nb import plugins
from mastra_nb.errors import MastraError, NotFound, close_matches
from mastra_nb.models import Availability


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    provider: str
    state: Availability


async def catalog(names: Iterable[str] | None = None, *, ask: bool = False) -> list[Entry]:
    """What is known of the providers `names` (None: all), in their order.

    Servers on this machine are asked what they have, services with a key only if `ask`. Raises
    NotFound for a name that is no provider; what else goes wrong with one is its entry's `why`.
    """
    known = plugins.providers.names()
    wanted = known if names is None else tuple(names)
    for name in wanted:
        if name not in known:
            raise NotFound(f'there is no provider "{name}"', hint=close_matches(name, known))
    return list(await asyncio.gather(*(_entry(name, ask) for name in wanted)))


async def _entry(name: str, ask: bool) -> Entry:
    try:
        model: Any = plugins.providers.load(name)(name, "")
        if hasattr(model, "available"):
            return Entry(provider=name, state=await model.available(ask=ask))
    except MastraError as error:
        why = f"{error.message} → {error.hint}" if error.hint else error.message
        return Entry(provider=name, state=Availability(ready=False, why=why))
    return Entry(provider=name, state=Availability(ready=True, why="does not say what it needs"))
