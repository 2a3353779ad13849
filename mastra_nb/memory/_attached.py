"""What is kept beside a thread, and is told what happens to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mastra_nb.storage import Store


class Place(msgspec.Struct, frozen=True):
    """A conversation and whom it belongs to ("" is nobody)."""

    store: Store
    thread: str
    resource: str = ""


class Attached:
    """Override what you need. `name` is the key of what `export` gives in an exported thread."""

    name = ""

    async def messages_deleted(self, place: Place, positions: Sequence[int]) -> None:
        """Messages were taken out."""

    async def cloned(self, place: Place, to: Place, upto: int) -> None:
        """`to` has the messages up to that position now."""

    async def transferred(self, place: Place, to: Place) -> None:
        """The same thread belongs to the resource of `to` now."""

    async def export(self, place: Place, numbers: Mapping[int, int]) -> Any:
        """A JSON value, None for nothing. `numbers` are the numbers from 1, by position, that the
        messages have in what is exported.
        """

    def check(self, data: Any, messages: int) -> None:
        """Raises SchemaError for what `restore` could not take; nothing is written yet."""

    async def restore(self, place: Place, data: Any) -> None:
        """Into a thread whose positions are the numbers of `export`."""

    async def export_resource(
        self, store: Store, resource: str, numbers: Mapping[str, Mapping[int, int]]
    ) -> Any:
        """What belongs to the resource itself, beside its threads; `numbers` by thread."""

    def check_resource(self, data: Any) -> None:
        """As `check`."""

    async def restore_resource(
        self, store: Store, resource: str, data: Any, ids: Mapping[str, str]
    ) -> None:
        """As `restore`; `ids` are the threads as they are called here, by their exported ids."""

    async def search(self, place: Place, text: str, top_k: int) -> list[int] | None:
        """Positions, best first; None if this is nothing to search with."""
        return None

    async def show(self, store: Store, resource: str, now: float) -> tuple[str, str] | None:
        """What belongs to the resource, for a cell: a line of any text, and inert Markdown."""
        return None
