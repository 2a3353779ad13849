"""What people ask of an agent's memory that lasts: facts and observations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from mastra_nb.errors import ConfigError
from mastra_nb.memory._attached import Place
from mastra_nb.memory._fact import Fact, FactList, Forgotten, Recalled
from mastra_nb.memory._longterm import FactsPart, ObservationsPart
from mastra_nb.memory._notes import ObservationLog, Observations
from mastra_nb.memory._observations import ObservationalMemory
from mastra_nb.services import Services

P = TypeVar("P")


class _Remembers(Protocol):
    _facts: FactsPart | None
    _observations: ObservationsPart | None

    @property
    def services(self) -> Services: ...

    async def _place(self, thread: str | None, resource: str) -> Place: ...


class Remembering:
    """Everything belongs to a `resource`, or to a `thread` that belongs to nobody. Raises
    ConfigError if neither is named, or if the memory keeps no such thing.
    """

    async def remember(
        self: _Remembers,
        text: str,
        *,
        importance: float = 0.5,
        pinned: bool = False,
        resource: str = "",
        thread: str | None = None,
    ) -> Fact:
        """Remember a fact: one statement that is understood by itself. `importance` is 0 to 1;
        a pinned one never fades. Raises SchemaError.
        """
        part, place = _facts(self), await self._place(thread, resource)
        return await part.options.remember(
            place,
            text,
            services=self.services,
            embedder=part.embedder,
            importance=importance,
            pinned=pinned,
        )

    async def facts(
        self: _Remembers, *, resource: str = "", thread: str | None = None, gone: bool = False
    ) -> FactList:
        """What is remembered, the strongest first; with `gone` what was forgotten instead."""
        part, place = _facts(self), await self._place(thread, resource)
        return await part.options.all(
            place, services=self.services, embedder=part.embedder, gone=gone
        )

    async def recall_facts(
        self: _Remembers,
        text: str,
        *,
        top_k: int | None = None,
        resource: str = "",
        thread: str | None = None,
    ) -> list[Recalled]:
        """The facts that fit a text, as a turn that says it would be told them."""
        part, place = _facts(self), await self._place(thread, resource)
        return await part.options.recall(
            place, text, services=self.services, embedder=part.embedder, top_k=top_k
        )

    async def forget(
        self: _Remembers,
        *,
        dry_run: bool = True,
        ids: Sequence[str] | None = None,
        minimum: float | None = None,
        resource: str = "",
        thread: str | None = None,
    ) -> Forgotten:
        """What has faded below `minimum`, or what `ids` name, is forgotten; unless it is told so
        with `dry_run=False` it only says what would be.
        """
        part, place = _facts(self), await self._place(thread, resource)
        return await part.options.forget(
            place,
            services=self.services,
            embedder=part.embedder,
            ids=ids,
            minimum=minimum,
            dry_run=dry_run,
        )

    async def restore(
        self: _Remembers, ids: Sequence[str], *, resource: str = "", thread: str | None = None
    ) -> int:
        """Take back that facts were forgotten; returns how many."""
        part, place = _facts(self), await self._place(thread, resource)
        return await part.options.restore(place, ids, services=self.services)

    async def observations(
        self: _Remembers,
        thread: str | None = None,
        *,
        resource: str = "",
        version: int | None = None,
    ) -> Observations:
        """The notes of a thread, or those that the threads of a resource share."""
        options = _observations(self, thread)
        return await options.read(await self._place(thread, resource), version)

    async def observation_log(
        self: _Remembers, thread: str | None = None, *, resource: str = ""
    ) -> ObservationLog | None:
        """How these notes came about, and what is not noted yet; None before the first."""
        options = _observations(self, thread)
        return await options.log(await self._place(thread, resource))


def _observations(memory: _Remembers, thread: str | None) -> ObservationalMemory:
    options = _need(memory._observations, "observational_memory").options
    if thread is None and options.scope == "thread":
        raise ConfigError("each thread has its own notes", hint='name one: thread="trip"')
    return options


def _facts(memory: _Remembers) -> FactsPart:
    return _need(memory._facts, "facts")


def _need(part: P | None, option: str) -> P:
    if part is None:
        raise ConfigError(f"this memory keeps no {option}", hint=f"Memory({option}=True)")
    return part
