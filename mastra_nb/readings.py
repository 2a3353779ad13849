"""What can be read of a run, whoever drives it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import AsyncIterator, Coroutine, Generator
from typing import TYPE_CHECKING, Any

from mastra_nb._later import later
from mastra_nb.context import Codec, Runnable
from mastra_nb.events import SPEAKERS, Event, Suspended, TextDelta, View
from mastra_nb.messages import Finish, Message, Usage
from mastra_nb.runlog import RunLog, grown, spoken

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = later("asyncio", globals())


class Reading:
    """The part of a log that belongs to one run: all of it, or what is below its path."""

    target: Runnable[Any, Any]
    input: Any
    log: RunLog
    _codec: Codec[Any]
    _lock: threading.RLock
    _view: View
    _folded: int
    _first: int
    _prefix: str
    _segment: str
    _done: bool
    _error: BaseException | None

    _drivers: weakref.WeakKeyDictionary[Any, Generator[Any, Any, Any]] | None = None

    def __aiter__(self) -> AsyncIterator[Event]:
        raise NotImplementedError

    def __await__(self) -> Generator[Any, Any, Any]:
        raise NotImplementedError

    # To asyncio a coroutine: `create_task(run)`, `TaskGroup`, `asyncio.run(run)`. Each task that
    # drives it waits by itself.

    def send(self, value: Any) -> Any:
        return self._driving().send(value)

    def throw(self, *error: Any) -> Any:
        return self._driving().throw(*error)

    def close(self) -> None:
        self._drivers = None

    def _driving(self) -> Generator[Any, Any, Any]:
        if self._drivers is None:
            self._drivers = weakref.WeakKeyDictionary()
        task = asyncio.current_task()
        assert task is not None
        found = self._drivers.get(task)
        if found is None:
            found = self._drivers[task] = self.__await__()
        return found

    @property
    def id(self) -> str:
        return self.log.id

    @property
    def name(self) -> str:
        return self.target.name

    @property
    def asked(self) -> Any:
        """What it was given, as it is journaled."""
        return self._codec.show(self.input)

    @property
    def thread(self) -> str:
        return self.log.thread

    @property
    def resource(self) -> str:
        return self.log.resource

    @property
    def view(self) -> View:
        """The state of the run so far, folded from its events."""
        events = self.log.events
        with self._lock:
            while self._first + self._folded < len(events):
                event = events[self._first + self._folded]
                if self._mine(event):
                    self._view.apply(event)
                self._folded += 1
        return self._view

    def _mine(self, event: Event) -> bool:
        """A run inside another one is a part of that one's log."""
        prefix = self._prefix
        return not prefix or event.span == prefix or event.span.startswith(f"{prefix}/")

    @property
    def rests(self) -> bool:
        """Whether nothing is added to it any more by this handle."""
        return self._done

    @property
    def failure(self) -> BaseException | None:
        """What awaiting it raises, once it rests: a suspension too."""
        return self._error

    async def follow(self, after: int = 0) -> AsyncIterator[Event]:
        """Its events, but for the first `after` of its log, live, and without driving it: a reader
        who leaves, or is cancelled, leaves the run as it is.
        """
        log, events, i = self.log, self.log.events, max(self._first, after)
        while True:
            done = self._done
            while i < len(events):
                event = events[i]
                i += 1
                if not self._prefix or self._mine(event):
                    yield event
            if done:
                break
            await log.more(i, lambda: self._done)

    @property
    def usage(self) -> Usage:
        return self.view.usage

    @property
    def finish_reason(self) -> Finish | None:
        """Why the newest answer ended: "stop", "length", "tool-calls", "content-filter", …; None
        while there is none.
        """
        return self.view.finish

    @property
    def raw(self) -> Any:
        """The provider's newest response as it came (its last chunk, if it was streamed); None
        for a run that was loaded: it is not stored.
        """
        return self.log.raw.get(self._prefix or self._segment)

    @property
    def pending(self) -> dict[str, Suspended]:
        """What the run waits for, by path."""
        return self.view.pending

    @property
    def messages(self) -> list[Message]:
        return [message for _, _, message in self.view.messages]

    @property
    def text(self) -> str:
        """The answer so far: the text of the root's newest assistant message or draft."""
        return self.view.text

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        from mastra_nb.views import bundle, record

        shown: dict[str, Any] = bundle(record(self.view, thread=self.thread))
        return shown

    async def stream_text(self) -> AsyncIterator[str]:
        """The pieces of the answer's text as they come."""
        root = self._prefix or self._segment
        async for event in spoken(self, root, SPEAKERS):
            if isinstance(event.data, TextDelta):
                yield event.data.text

    async def partials(self) -> AsyncIterator[Any]:
        """The answer so far, each time it has grown: for runs with an output type.

        An object of that type, in which what has not come yet is None (it was made without the
        type's own checks); a TypedDict has the keys that have come.
        """
        root = self._prefix or self._segment
        async for value in grown(self, root, self._codec.partial):
            yield value


Coroutine.register(Reading)
