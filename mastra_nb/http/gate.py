"""What keeps many requests at once from storming a provider that has had enough."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import Awaitable


class Gate:
    """What all requests of one provider and model pass on their way out.

    Open while nothing is wrong. Once the provider says 429 nobody passes until those it turned
    away have slept; then requests go out one by one in their first order, twice as many with
    every success, and one by one more from half of what was too much (as TCP does).
    """

    def __init__(self) -> None:
        self.successes = 0
        self._running = 0
        self._sleeping = 0
        self._limit = math.inf
        self._threshold = math.inf
        self._waiting: list[tuple[int, asyncio.Future[bool]]] = []
        self._tickets = itertools.count()

    def ticket(self) -> int:
        """A place in the queue; a request keeps its own through all its attempts."""
        return next(self._tickets)

    async def enter(self, ticket: int) -> bool:
        """Wait for a place; False says that the others have just given up."""
        if not self._sleeping and self._running < self._limit and not self._waiting:
            self._running += 1
            return True
        return await self._wait(self._queue(ticket))

    def _queue(self, ticket: int) -> asyncio.Future[bool]:
        place: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (ticket, place))
        return place

    async def _wait(self, place: asyncio.Future[bool]) -> bool:
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.result():
                self.leave()
            raise

    def leave(self) -> None:
        self._running -= 1
        self._admit()

    def succeeded(self) -> None:
        self.successes += 1
        if self._limit != math.inf:
            self._limit += 1.0 if self._limit < self._threshold else 1.0 / self._limit
            self._admit()

    async def back_off(self, ticket: int, sleep: Awaitable[object]) -> bool:
        """Give the place back, hold everyone until `sleep` is over, and enter again."""
        if not self._sleeping:
            self._threshold = max(1.0, min(self._running, self._limit) / 2)
        self._sleeping += 1
        self._running -= 1
        place: asyncio.Future[bool] | None = None
        try:
            await sleep
            place = self._queue(ticket)
        finally:
            self._sleeping -= 1
            if not self._sleeping:
                self._limit = self._running + 1.0
                self._admit()
        return await self._wait(place)

    def give_up(self) -> None:
        """Wake all who wait: the provider has let nobody through."""
        waiting, self._waiting = self._waiting, []
        for _, place in waiting:
            if not place.done():
                place.set_result(False)

    def _admit(self) -> None:
        while self._waiting and not self._sleeping and self._running < self._limit:
            _, place = heapq.heappop(self._waiting)
            if not place.done():
                self._running += 1
                place.set_result(True)
        if not (self._waiting or self._sleeping or self._running):
            self._limit = math.inf
