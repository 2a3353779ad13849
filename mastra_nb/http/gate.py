"""What keeps many requests at once from storming a provider that has had enough."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import threading
import time
from collections.abc import Awaitable, Callable

from mastra_nb.config import RateLimit


class Bucket:
    """Fills with `per_minute` evenly and holds no more than that; taking may leave a debt, which
    those who come later wait for.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level = per_minute
        self._at = clock()

    def take(self, amount: float) -> float:
        """Seconds to wait before what was taken may be used."""
        now = self._clock()
        rate = self.per_minute / 60.0
        self._level = min(self.per_minute, self._level + (now - self._at) * rate)
        self._at = now
        # What is more than a full bucket is sent with a full one.
        missing = min(amount, self.per_minute) - self._level
        self._level -= amount
        return max(0.0, missing / rate)


class Rate:
    """The configured limits of one model or provider, for all threads and loops of the process."""

    def __init__(
        self,
        limit: RateLimit,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.limit = limit
        self._sleep = sleep
        self._lock = threading.Lock()
        per_minute = (limit.requests_per_minute, limit.tokens_per_minute)
        self._requests, self._tokens = (Bucket(n, clock) if n else None for n in per_minute)

    async def wait(self, tokens: int) -> None:
        """Until a request of about `tokens` may be sent. In the order of arrival."""
        delay = self._take(1, tokens)
        if delay > 0:
            try:
                await self._sleep(delay)
            except BaseException:
                self._take(-1, -tokens)
                raise

    def spent(self, tokens: int) -> None:
        """`tokens` more than was thought were used; negative: fewer."""
        self._take(0, tokens)

    def _take(self, requests: int, tokens: int) -> float:
        with self._lock:
            asked = self._requests.take(requests) if self._requests is not None else 0.0
            said = self._tokens.take(tokens) if self._tokens is not None else 0.0
        return max(asked, said)


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

    def pause(self, seconds: float) -> None:
        """Let nobody in for that long: the provider says that this was the last for now."""
        self._sleeping += 1
        asyncio.get_running_loop().call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._sleeping -= 1
        self._admit()

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
