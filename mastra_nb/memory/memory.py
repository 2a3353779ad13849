"""An agent's memory: what of earlier conversations stands before a turn, and what of it is kept."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from mastra_nb import portal
from mastra_nb.context import Context
from mastra_nb.embedders import Embedder
from mastra_nb.embedders import resolve as resolve_embedder
from mastra_nb.errors import ConfigError, MastraError
from mastra_nb.memory._asking import size
from mastra_nb.memory._attached import Attached, Place
from mastra_nb.memory._background import Background
from mastra_nb.memory._facts import Facts
from mastra_nb.memory._longterm import FactsPart, ObservationsPart
from mastra_nb.memory._notes import log_key
from mastra_nb.memory._observations import ObservationalMemory
from mastra_nb.memory._owner import claimed, owned, unknown
from mastra_nb.memory._recall import Recall, SemanticRecall
from mastra_nb.memory._remembering import Remembering
from mastra_nb.memory._show import Bundle, bundle
from mastra_nb.memory._titles import Titles, entitle
from mastra_nb.memory._working import Version, Working, WorkingMemory
from mastra_nb.memory.archive import export_memory, import_memory
from mastra_nb.memory.display import Recollections, Versions, overview
from mastra_nb.memory.threads import Conversation, OnConflict, ThreadList, list_threads
from mastra_nb.models import ready, resolve
from mastra_nb.processors import Processor, Turn, with_stage
from mastra_nb.services import Services, ambient, store_in_memory
from mastra_nb.storage import Store, ThreadMessage
from mastra_nb.tools import ToolLike

O = TypeVar("O")  # noqa: E741

# How long a turn waits for what is still done behind the last one, in seconds.
_PATIENCE = 5.0


class Memory(Remembering, Processor):
    """Puts the last messages of the run's thread before the turn and the turn into the thread.

    `last_messages` counts messages, `max_tokens` their tokens (about 4 bytes each); the cut is
    before a user's message, so that no tool call is parted from its result, and the newest
    exchange always stays. `semantic_recall` adds what was said earlier and fits, found by the
    `embedder` ("provider/model"; without one by words), `working_memory` a page that the model
    keeps, `observational_memory` notes in place of old messages, `facts` single statements.
    Each is True, or its options. `generate_title` is True, a model, or Titles(...). With
    `read_only` nothing is written.

    A thread belongs to the resource (owner) of the run that used it first; to runs of any other,
    or of none, it is not there. What is kept for a resource is kept for the thread alone if the
    run has none.
    """

    def __init__(
        self,
        *,
        last_messages: int = 40,
        max_tokens: int | None = None,
        semantic_recall: bool | SemanticRecall = False,
        working_memory: bool | WorkingMemory = False,
        observational_memory: bool | ObservationalMemory = False,
        facts: bool | Facts = False,
        generate_title: bool | str | Titles = False,
        read_only: bool = False,
        embedder: str | Embedder | None = None,
    ) -> None:
        for name, number in (("last_messages", last_messages), ("max_tokens", max_tokens)):
            if number is not None and number < 1:
                raise ConfigError(f"{name} is {number}", hint="it must be 1 or more")
        self.last_messages = last_messages
        self.max_tokens = max_tokens
        self.read_only = read_only
        self.embedder = resolve_embedder(embedder) if embedder is not None else None
        titles = Titles(model=generate_title) if isinstance(generate_title, str) else generate_title
        recall = _chosen("semantic_recall", semantic_recall, SemanticRecall)
        working = _chosen("working_memory", working_memory, WorkingMemory)
        notes = _chosen("observational_memory", observational_memory, ObservationalMemory)
        long = _chosen("facts", facts, Facts)
        self.titles = _chosen("generate_title", titles, Titles)
        self._recall = Recall(recall, self.embedder) if recall is not None else None
        self._working = Working(working) if working is not None else None
        self._observations = ObservationsPart(notes) if notes is not None else None
        self._facts = FactsPart(long, self.embedder) if long is not None else None
        parts = (self._recall, self._working, self._observations, self._facts)
        self.parts: tuple[Processor, ...] = tuple(p for p in parts if p is not None)
        # Those that see each model call. They come before this, so that they end after it.
        self.stages = with_stage(self.parts, "process_input_step")
        self.attached = tuple(p for p in self.parts if isinstance(p, Attached))
        self._behind = Background()
        self._places: WeakKeyDictionary[Turn, tuple[Place, int]] = WeakKeyDictionary()
        self._caught_up: WeakKeyDictionary[Store, set[str]] = WeakKeyDictionary()
        self._bound: Services | None = None

    def __repr__(self) -> str:
        words = [f"last_messages={self.last_messages}"]
        if self.max_tokens is not None:
            words.append(f"max_tokens={self.max_tokens}")
        words += [type(p).__name__.removesuffix("Part").lower() for p in self.parts]
        if self.read_only:
            words.append("read_only")
        return f"Memory({', '.join(words)})"

    # In a turn

    @property
    def working_options(self) -> WorkingMemory | None:
        return None if self._working is None else self._working.options

    @property
    def recalls(self) -> bool:
        """Whether it finds what was said earlier."""
        return self._recall is not None

    @property
    def observation_options(self) -> ObservationalMemory | None:
        """How it keeps notes in place of old messages."""
        return None if self._observations is None else self._observations.options

    async def process_input(self, turn: Turn, ctx: Context) -> None:
        store = ctx.services.store
        if store is None or not turn.thread:
            return
        place = await claimed(store, turn.thread, turn.resource)
        if self.parts:
            await self._begin(place)
        # The thread may have grown when this run is resumed: its own start stays where it was.
        end = await ctx.value("memory", lambda: _end(place))
        self._places[turn] = place, end
        if self._observations is not None:
            writes = not self.read_only
            first = await self._observations.prepare(turn, ctx, place, end, writes=writes)
        else:
            history = await self._window(place, end) if end else []
            first = history[0].pos if history else end + 1
            turn.history = [*(m.message for m in history), *turn.history]
        if self._recall is not None:
            await self._recall.prepare(turn, ctx, place, first)
        if self._facts is not None:
            await self._facts.prepare(turn, ctx, place, end)
        if self._working is not None:
            await self._working.prepare(turn, ctx, place, writes=not self.read_only)

    async def _begin(self, place: Place) -> None:
        """What the last turn left to do is done first, if it takes no longer than we wait."""
        key = _key(place)
        if self._recall is not None and not self.read_only:
            known = self._caught_up.setdefault(place.store, set())
            if key not in known:
                known.add(key)
                recall, what = self._recall, f"conversations of {key} were not all indexed"

                async def catch_up() -> None:
                    try:
                        await _caught_up(recall, place)
                    except BaseException:
                        # The next turn tries again.
                        known.discard(key)
                        raise

                self._behind.start(key, what, catch_up)
        await self._behind.settle(key, seconds=_PATIENCE)

    async def _window(self, place: Place, end: int) -> list[ThreadMessage]:
        """The last messages that fit, whole exchanges; of one that is too long, all of it."""
        n = self.last_messages
        found = await place.store.read_messages(place.thread, last=n, upto=end)
        kept = whole(found, self.max_tokens)
        while not kept and len(found) == n:
            n *= 4
            found = await place.store.read_messages(place.thread, last=n, upto=end)
            starts = [i for i, m in enumerate(found) if m.message.role == "user"]
            kept = found[starts[-1] :] if starts else []
        return kept

    async def after(self, turn: Turn, ctx: Context) -> None:
        place, end = self._places.pop(turn, (None, 0))
        kept = turn.kept
        if place is None or self.read_only or not any(m.role == "assistant" for _, m in kept):
            return
        await ctx.run.commit()
        # It may have been given to somebody else since the turn began.
        thread = await owned(place.store, place.thread, place.resource)
        last = await place.store.link(place.thread, ctx.run.id, [seq for seq, _ in kept])
        if self._recall is not None:
            recall = self._recall
            what = f'thread "{place.thread}" was not indexed'
            self._behind.start(_key(place), what, lambda: _indexed(recall, place, last))
        if self._facts is not None:
            facts = self._facts
            self._behind.start(_key(place), "facts", lambda: facts.behind(turn, ctx))
        if self.titles is not None and not end and (thread is None or not thread.title):
            await self._entitle(self.titles, place, turn, ctx)

    async def _entitle(self, titles: Titles, place: Place, turn: Turn, ctx: Context) -> None:
        thread = await place.store.get_thread(place.thread)
        if thread is not None:
            born, services, model = thread.created, ctx.services, turn.model
            what = f'thread "{place.thread}" got no title'
            key = f"title {_key(place)}"
            self._behind.start(
                key, what, lambda: entitle(titles, place, model, services, born=born)
            )

    def tools(self, services: Services, thread: str, resource: str) -> list[ToolLike]:
        """What the model may do to it."""
        if services.store is None or not thread or self.read_only:
            return []
        place = Place(services.store, thread, resource)
        made: list[ToolLike] = []
        if self._working is not None:
            made.append(self._working.tool(place))
        if self._facts is not None:
            made += self._facts.tools(place, services)
        return made

    # For people

    def bind(self, services: Services) -> None:
        """Use the store of these services; an agent's memory uses the agent's."""
        self._bound = services

    @property
    def services(self) -> Services:
        services = self._bound or ambient()
        if services.store is None:
            services = copy.copy(services)
            services.store = store_in_memory()
        return services

    @property
    def store(self) -> Store:
        store = self.services.store
        assert store is not None
        return store

    async def _place(self, thread: str | None, resource: str) -> Place:
        """Raises NotFound for a thread of somebody else, ConfigError if nobody is named."""
        if thread is None and not resource:
            raise ConfigError("whose memory?", hint='name it: resource="ada", or thread="trip"')
        if thread is not None and await owned(self.store, thread, resource) is None:
            raise unknown(thread)
        return Place(self.store, thread or "", resource)

    async def recall(
        self,
        query: str,
        *,
        resource: str = "",
        thread: str | None = None,
        top_k: int | None = None,
        filter: Mapping[str, Any] | None = None,
    ) -> Recollections:
        """What was said that fits, best first: of the resource, or of one thread."""
        place = await self._place(thread, resource)
        recall = _need(self._recall, "semantic_recall")
        await self._behind.settle(_key(place), seconds=_PATIENCE)
        scope: Any = "resource" if thread is None else "thread"
        hits, _ = await recall.find(place, query, top_k=top_k, scope=scope, filter=filter)
        return Recollections(await recall.recollections(place, hits))

    async def index(self, *, resource: str = "", thread: str | None = None) -> int:
        """Index what was said and is not yet in; how many messages that were."""
        place = await self._place(thread, resource)
        recall = _need(self._recall, "semantic_recall")
        if thread is None:
            return await recall.catch_up(place.store, resource)
        return await recall.index(place)

    async def working(
        self, *, resource: str = "", thread: str | None = None, version: int | None = None
    ) -> Any:
        """The text, or the value as the type of the schema; None while there is none."""
        working, place = await self._kept(resource, thread)
        return working.loaded(await working.read(place, version))

    async def set_working(
        self, value: Any, *, resource: str = "", thread: str | None = None, base: int | None = None
    ) -> Version:
        """Replace it. Raises SchemaError for what does not fit, Conflict if it is newer than the
        version `base`.
        """
        working, place = await self._kept(resource, thread)
        now = self.services.now()
        return await working.write(place, value, at=now, base=base)

    async def working_history(self, *, resource: str = "", thread: str | None = None) -> Versions:
        """Its versions, the newest first."""
        working, place = await self._kept(resource, thread)
        return Versions(await working.history(place))

    async def revert_working(
        self, version: int, *, resource: str = "", thread: str | None = None
    ) -> Version:
        """An earlier version again, as the newest one."""
        working, place = await self._kept(resource, thread)
        old = await working.read(place, version)
        return await working.write(place, old.value, at=self.services.now())

    async def _kept(self, resource: str, thread: str | None) -> tuple[Working, Place]:
        working = _need(self._working, "working_memory")
        if thread is None and working.options.scope == "thread":
            raise ConfigError("each thread has its own", hint='name one: thread="trip"')
        return working, await self._place(thread, resource)

    async def threads(
        self,
        *,
        resource: str | None = None,
        meta: Mapping[str, Any] | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> ThreadList:
        """The conversations of a resource (None: of all), the newest first; `meta` is a filter."""
        return await list_threads(
            self.store,
            resource=resource,
            meta=meta,
            limit=limit,
            offset=offset,
            services=self.services,
        )

    def thread(self, id: str, *, resource: str | None = None) -> Conversation:
        """A conversation by its id; with a `resource` it must be that one's."""
        given: dict[str, Any] = {"attached": self.attached, "services": self.services}
        return Conversation(self.store, id, resource=resource, **given)

    async def export(self, resource: str) -> dict[str, Any]:
        """Everything of a resource, as JSON."""
        return await export_memory(
            self.store, resource, attached=self.attached, services=self.services
        )

    async def load(
        self, data: Any, *, resource: str | None = None, on_conflict: OnConflict = "error"
    ) -> list[Conversation]:
        """What `export` gave, into this store."""
        return await import_memory(
            self.store,
            data,
            resource=resource,
            on_conflict=on_conflict,
            attached=self.attached,
            services=self.services,
        )

    async def observe(self, thread: str, *, model: Any, resource: str = "") -> None:
        """Turn the old messages of a thread into notes now."""
        place = await self._place(thread, resource)
        part = _need(self._observations, "observational_memory")
        services = self.services
        await part.options.observe(place, ready(resolve(model), services), services)

    async def settle(self) -> None:
        """Wait until nothing is done behind the conversations any more."""
        await self._behind.settle()
        if self._observations is not None:
            await self._observations.options.settled()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        try:
            now = self.services.now()
            return portal.run(overview(self.store, None, self.attached, now=now))
        except MastraError as error:
            return bundle(error.message, "")


def _chosen(name: str, given: Any, kind: type[O]) -> O | None:
    if isinstance(given, bool | None):
        return kind() if given else None
    if not isinstance(given, kind):
        raise ConfigError(
            f"{name} cannot be {type(given).__name__}", hint=f"give True, or {kind.__name__}(...)"
        )
    return given


def _need(part: O | None, option: str) -> O:
    if part is None:
        raise ConfigError(f"this memory has no {option}", hint=f"Memory({option}=True)")
    return part


def _key(place: Place) -> str:
    return log_key("resource", place.thread, place.resource)


async def _indexed(recall: Recall, place: Place, last: int) -> None:
    await recall.index(place, last)


async def _caught_up(recall: Recall, place: Place) -> None:
    if place.resource:
        await recall.catch_up(place.store, place.resource)
    else:
        await recall.index(place)


async def _end(place: Place) -> int:
    found = await place.store.read_messages(place.thread, last=1)
    return found[0].pos if found else 0


def whole(messages: Sequence[ThreadMessage], tokens: int | None = None) -> list[ThreadMessage]:
    """The tail of a conversation that starts with a user's message, so that no tool result comes
    without its call, and has at most so many tokens; the newest exchange always stays.
    """
    starts = [i for i, m in enumerate(messages) if m.message.role == "user"]
    if tokens is None or not starts:
        return [*messages[starts[0] :]] if starts else []
    begin, total = len(messages), 0
    for start in reversed(starts):
        total += sum(size(m.message) for m in messages[start:begin])
        if total > tokens and begin < len(messages):
            break
        begin = start
    return [*messages[begin:]]
