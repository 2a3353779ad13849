"""Observations and facts as parts of an agent's memory: what they do in a turn and to a thread."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import msgspec

from mastra_nb.context import Context
from mastra_nb.embedders import Embedder
from mastra_nb.errors import SchemaError
from mastra_nb.events import Noted
from mastra_nb.memory import _notes as log
from mastra_nb.memory._asking import is_time, size
from mastra_nb.memory._attached import Attached, Place
from mastra_nb.memory._fact import Fact, Recalled
from mastra_nb.memory._facts import Facts, block
from mastra_nb.memory._notes import Observed, Reflected
from mastra_nb.memory._observations import ObservationalMemory, cuts
from mastra_nb.memory._show import counted
from mastra_nb.messages import Message, user
from mastra_nb.models import Model, ready, resolve
from mastra_nb.processors import Processor, Step, Turn
from mastra_nb.services import Services
from mastra_nb.storage import Store
from mastra_nb.tools import Tool, ToolLike

# How long a turn waits for the vector of what was asked.
_SECONDS = 3.0
# Of a context an answer gets at least this part.
_ANSWER = 0.25
# Sizes are estimates.
_SURE = 0.9
# What stands around the notes.
_HEAD = 80


class _Seen:
    """What one turn was given."""

    def __init__(self, place: Place, end: int, writes: bool) -> None:
        self.place = place
        self.end = end
        self.writes = writes
        self.version = 0
        self.first = end + 1
        self.notes: list[Message] = []
        self.raw: list[Message] = []
        self.given: list[Message] = []
        self.tokens = 0
        self.model: Model | None = None


class ObservationsPart(Processor, Attached):
    """Puts notes and the messages they do not cover before a turn; begins to observe after it."""

    name = "observations"

    def __init__(self, options: ObservationalMemory) -> None:
        self.options = options
        self._seen: WeakKeyDictionary[Turn, _Seen] = WeakKeyDictionary()

    async def prepare(
        self, turn: Turn, ctx: Context, place: Place, end: int, *, writes: bool = True
    ) -> int:
        """`end` is the last position of the thread when the turn began; returns the first one
        whose message the turn was given as it is. Without `writes` nothing is noted.
        """
        # A resumed run goes on with the notes it began with, whatever was noted since.
        version = await ctx.value("observations", lambda: self.options.begin(place))
        seen = self._seen[turn] = _Seen(place, end, writes)
        await self._give(turn, seen, version)
        return seen.first

    async def _give(self, turn: Turn, seen: _Seen, version: int) -> None:
        notes, raw = await self.options.before(seen.place, version, seen.end)
        seen.version, seen.notes, seen.raw = version, notes, [m.message for m in raw]
        seen.tokens = self.options.total(seen.place.thread, raw)
        seen.first = raw[0].pos if raw else seen.end + 1
        self._put(turn, seen)

    def _put(self, turn: Turn, seen: _Seen) -> None:
        """What the turn was given before makes room for what it is given now."""
        old = {id(m) for m in seen.given}
        seen.given = [*seen.notes, *seen.raw]
        turn.history = [*seen.given, *(m for m in turn.history if id(m) not in old)]

    async def process_input_step(self, step: Step, turn: Turn, ctx: Context) -> None:
        seen = self._seen.get(turn)
        if seen is None:
            return
        if seen.model is None:
            model = resolve(step.model)
            # Of the plan it is ready already; one that was set by a name is not.
            seen.model = model if model is step.model else ready(model, ctx.services)
        room = _room(seen.model, step)
        if step.index or room is None or sum(map(size, step.messages)) <= room:
            return
        before = seen.given
        if seen.writes:
            version = await ctx.value("observations:now", lambda: self._now(seen, ctx))
            await self._give(turn, seen, version)
        rest = sum(map(size, step.messages)) - sum(map(size, before))
        left = await self._fit(seen, room - rest)
        self._put(turn, seen)
        if left:
            text = f"{left} old messages do not fit into {seen.model.name} and were not noted"
            ctx.emit(Noted(level="warning", text=text))
        step.messages = _replaced(step.messages, before, seen.given)

    async def _now(self, seen: _Seen, ctx: Context) -> int:
        """The turn cannot begin without: a part of its run."""
        await self.options.settled(seen.place)
        assert seen.model is not None
        try:
            await self.options.observe(
                seen.place,
                self._model(seen.model, ctx.services),
                ctx.services,
                inside=True,
                end=seen.end,
                room=seen.model.profile.context,
            )
        except Exception as error:
            # Without notes the turn may do: `_fit` leaves old messages out.
            ctx.emit(Noted(level="warning", text=f"old messages were not noted: {error}"))
        return await self.options.begin(seen.place)

    async def _fit(self, seen: _Seen, room: int) -> int:
        """Shorten the notes, and take the oldest messages away, until the rest fits; returns how
        many messages.
        """
        notes, sizes = sum(map(size, seen.notes)), [size(m) for m in seen.raw]
        if notes + sum(sizes) <= room:
            return 0
        if notes > room // 2:
            seen.notes = await self.options.shorter(seen.place, seen.version, room // 2 - _HEAD)
            notes = sum(map(size, seen.notes))
        places = [i for i in cuts(seen.raw) if notes + sum(sizes[i:]) <= room]
        gone = places[0] if places else len(seen.raw)
        seen.raw = seen.raw[gone:]
        return gone

    def _model(self, own: Model, services: Services) -> Model:
        if self.options.model is None:
            return own
        return ready(resolve(self.options.model), services)

    async def after(self, turn: Turn, ctx: Context) -> None:
        """To be called when the turn is in its thread."""
        seen = self._seen.pop(turn, None)
        if seen is None or seen.model is None or not seen.writes or not turn.kept:
            return
        tokens = seen.tokens + sum(size(m) for _, m in turn.kept)
        room = seen.model.profile.context
        if self.options.is_due(seen.place.thread, tokens, room):
            model = self._model(seen.model, ctx.services)
            self.options.start(seen.place, model, ctx.services, room)

    # What happens to a thread

    def _key(self, place: Place) -> str:
        return self.options.key(place)

    def _is_own(self, place: Place) -> bool:
        return self._key(place).startswith("t:")

    async def messages_deleted(self, place: Place, positions: Sequence[int]) -> None:
        """What was noted about them goes with them, also from earlier versions."""
        gone = {*positions}
        await log.forget_notes(
            place.store, self._key(place), lambda o: o.thread == place.thread and o.pos in gone
        )

    async def cloned(self, place: Place, to: Place, upto: int) -> None:
        state = await log.as_of(place.store, self._key(place), place.thread, upto)
        covered = state.upto.get(place.thread, 0)
        if not covered:
            return
        if self._is_own(to) or self._key(to) != self._key(place):
            items = [
                msgspec.structs.replace(o, thread=to.thread)
                for o in state.items
                if o.thread == place.thread
            ]
        else:
            # They share the notes: what is noted about the one is noted about the other.
            items = []
        made = Observed(observations=tuple(items), upto={to.thread: covered})
        await log.append(place.store, self._key(to), made)

    async def export(self, place: Place, numbers: Mapping[int, int]) -> Any:
        if not self._is_own(place):
            return None
        found = await log.history_of(place.store, self._key(place))
        made = [_renumbered(doc, {place.thread: numbers}) for _, doc in found]
        return [msgspec.to_builtins(doc) for doc in made] or None

    def check(self, data: Any, messages: int) -> None:
        for doc in _docs(data):
            ends = [*doc.upto.values(), *(o.pos for o in doc.observations)]
            if any(not 0 <= pos <= messages for pos in ends) or len(doc.upto) > 1:
                raise SchemaError("observations are about messages that are not there")

    async def restore(self, place: Place, data: Any) -> None:
        if self._is_own(place):
            for doc in _docs(data):
                old = set(doc.upto) | {o.thread for o in doc.observations}
                moved = _moved(doc, dict.fromkeys(old, place.thread))
                await log.append(place.store, self._key(place), moved)

    async def export_resource(
        self, store: Store, resource: str, numbers: Mapping[str, Mapping[int, int]]
    ) -> Any:
        place = Place(store, "", resource)
        if self.options.scope != "resource" or not resource:
            return None
        found = await log.history_of(store, self._key(place))
        return [msgspec.to_builtins(_renumbered(doc, numbers)) for _, doc in found] or None

    def check_resource(self, data: Any) -> None:
        _docs(data)

    async def restore_resource(
        self, store: Store, resource: str, data: Any, ids: Mapping[str, str]
    ) -> None:
        place = Place(store, "", resource)
        if self.options.scope != "resource" or not resource:
            return
        key, docs = self._key(place), [_moved(doc, ids) for doc in _docs(data)]
        there = await log.read(store, key)
        if not there.version:
            for doc in docs:
                await log.append(store, key, doc)
            return
        # A reflection would replace what others have noted: only what is new is added.
        state, known = log.Observations(), {(o.thread, o.pos, o.text) for o in there.items}
        for doc in docs:
            state = state.with_(doc)
        items = [o for o in state.items if (o.thread, o.pos, o.text) not in known]
        upto = {t: pos for t, pos in state.upto.items() if pos > there.upto.get(t, 0)}
        if items or upto:
            await log.append(store, key, Observed(observations=tuple(items), upto=upto))

    async def show(self, store: Store, resource: str, now: float) -> tuple[str, str] | None:
        place = Place(store, "", resource)
        if self.options.scope != "resource" or not resource:
            return None
        state = await self.options.read(place)
        shown = state._repr_mimebundle_()
        return shown["text/plain"], state.markdown()


def _docs(data: Any) -> list[Observed | Reflected]:
    try:
        docs = msgspec.convert(data, list[Observed | Reflected])
    except msgspec.ValidationError as error:
        raise SchemaError(f"observations do not fit: {error}") from None
    if not all(is_time(at) for doc in docs for at in (doc.at, *(o.at for o in doc.observations))):
        raise SchemaError("an observation has no date")
    return docs


def _renumbered(
    doc: Observed | Reflected, numbers: Mapping[str, Mapping[int, int]]
) -> Observed | Reflected:
    """Positions as the numbers that messages have in an export: that of the last one before."""
    sorted_positions = {t: sorted(n) for t, n in numbers.items()}

    def number(thread: str, pos: int) -> int:
        return bisect.bisect_right(sorted_positions.get(thread, []), pos)

    notes = tuple(msgspec.structs.replace(o, pos=number(o.thread, o.pos)) for o in doc.observations)
    upto = {t: number(t, pos) for t, pos in doc.upto.items()}
    return msgspec.structs.replace(doc, observations=notes, upto=upto)


def _moved(doc: Observed | Reflected, ids: Mapping[str, str]) -> Observed | Reflected:
    """With other names of threads; notes about a thread that is not there keep no position."""
    notes = tuple(
        msgspec.structs.replace(o, thread=ids.get(o.thread, o.thread)) for o in doc.observations
    )
    upto = {ids[t]: pos for t, pos in doc.upto.items() if t in ids}
    return msgspec.structs.replace(doc, observations=notes, upto=upto)


def _room(model: Model, step: Step) -> int | None:
    context = model.profile.context
    if context is None:
        return None
    asked = step.settings.max_tokens or model.profile.max_output or int(context * _ANSWER)
    return int((context - min(asked, context // 2)) * _SURE)


def _replaced(
    messages: Sequence[Message], old: Sequence[Message], new: Sequence[Message]
) -> list[Message]:
    gone = {id(m) for m in old}
    at = next((i for i, m in enumerate(messages) if id(m) in gone), None)
    if at is None:
        at = 1 if messages and messages[0].role == "system" else 0
    rest = [m for m in messages[at:] if id(m) not in gone]
    return [*messages[:at], *new, *rest]


class FactsPart(Processor, Attached):
    """Tells a turn what is remembered; looks for new facts and cleans up after it."""

    name = "facts"

    def __init__(self, options: Facts, embedder: Embedder | None = None) -> None:
        self.options = options
        self.embedder = embedder
        self._told: WeakKeyDictionary[Turn, tuple[Place, list[Fact], int]] = WeakKeyDictionary()
        self._models: WeakKeyDictionary[Turn, Model] = WeakKeyDictionary()

    async def prepare(self, turn: Turn, ctx: Context, place: Place, end: int) -> None:
        asked = "\n".join(m.text for m in turn.said() if m.role == "user")

        async def find() -> Any:
            given: dict[str, Any] = {"services": ctx.services, "embedder": self.embedder}
            try:
                async with asyncio.timeout(_SECONDS):
                    found = await self.options.recall(place, asked, **given)
            except Exception as error:
                # A turn does not fail because an embedder does.
                why = getattr(error, "message", "") or f"{type(error).__name__}: {error}"
                if isinstance(error, TimeoutError):
                    why = f"it took longer than {_SECONDS:g} s"
                ctx.emit(Noted(level="warning", text=f"facts by words only: {why}"))
                found = await self.options.recall(place, asked, **given, words_only=True)
            return msgspec.to_builtins(found)

        found = msgspec.convert(await ctx.value("facts", find), list[Recalled])
        self._told[turn] = (place, [r.fact for r in found], end)
        if found:
            turn.history = [*turn.history, user(block(found))]

    async def process_input_step(self, step: Step, turn: Turn, ctx: Context) -> None:
        if turn not in self._models and not isinstance(step.model, str):
            self._models[turn] = step.model

    async def behind(self, turn: Turn, ctx: Context) -> None:
        """In the background, when the turn is in its thread."""
        told, model = self._told.pop(turn, None), self._models.pop(turn, None)
        if told is None:
            return
        place, facts, end = told
        services, options = ctx.services, self.options
        await options.used(place, facts, services=services, embedder=self.embedder)
        if (
            options.extract
            and turn.kept
            and (model is not None or not isinstance(options.extract, bool))
        ):
            wanted = model
            if not isinstance(options.extract, bool):
                wanted = ready(resolve(options.extract), services)
            assert wanted is not None
            said = await place.store.read_messages(place.thread, after=end)
            mine = [m for m in said if m.run == ctx.run.id]
            if mine:
                await options.extracted(
                    place, mine, model=wanted, services=services, embedder=self.embedder
                )
        await options.clean(place, services=services, embedder=self.embedder)

    # What the model can do itself

    def tools(self, place: Place, services: Services) -> list[ToolLike]:
        """For the model: `remember` and `forget`, for this owner only."""
        if not self.options.tools:
            return []

        async def remember(ctx: Context, fact: str, importance: float = 0.5) -> str:
            """Remember a fact for later conversations.

            Args:
                fact: one short statement that is understood on its own
                importance: 0 (trivial) to 1 (must never be forgotten)
            """
            kept = await self.options.remember(
                place,
                fact,
                services=services,
                embedder=self.embedder,
                importance=min(1.0, max(0.0, importance)),
                # A tool that runs again after a crash remembers the same fact.
                id=ctx.idempotency_key[:16],
            )
            return f"remembered as {kept.id}"

        async def forget(fact_id: str) -> str:
            """Forget a fact that is wrong, outdated or that the user wants forgotten.

            Args:
                fact_id: as it stands before the fact
            """
            report = await self.options.forget(
                place, services=services, embedder=self.embedder, ids=[fact_id], dry_run=False
            )
            return "forgotten" if report.items else f'there is no fact "{fact_id}"'

        return [Tool(remember), Tool(forget)]

    # What happens to a thread

    async def _copy(self, place: Place, to: Place) -> None:
        facts = await self.options.all(place, services=_CLOCK, embedder=self.embedder, gone=None)
        new = [msgspec.structs.replace(f, thread=to.thread) for f in facts]
        await self.options.put(to, new, embedder=self.embedder)

    async def cloned(self, place: Place, to: Place, upto: int) -> None:
        if not place.resource and not to.resource:
            await self._copy(place, to)

    async def transferred(self, place: Place, to: Place) -> None:
        """What nobody's conversation knew goes along with it."""
        if not place.resource and to.resource:
            await self._copy(place, to)
            await self.options.drop(place)

    async def export(self, place: Place, numbers: Mapping[int, int]) -> Any:
        if place.resource:
            return None
        return await self._exported(place)

    async def _exported(self, place: Place) -> Any:
        facts = await self.options.all(place, services=_CLOCK, embedder=self.embedder, gone=None)
        ordered = sorted(facts, key=lambda f: (f.created, f.id))
        return [msgspec.to_builtins(f) for f in ordered] or None

    def check(self, data: Any, messages: int) -> None:
        _facts(data)

    async def restore(self, place: Place, data: Any) -> None:
        if not place.resource:
            await self.options.put(place, _facts(data), embedder=self.embedder)

    async def export_resource(
        self, store: Store, resource: str, numbers: Mapping[str, Mapping[int, int]]
    ) -> Any:
        return await self._exported(Place(store, "", resource)) if resource else None

    def check_resource(self, data: Any) -> None:
        _facts(data)

    async def restore_resource(
        self, store: Store, resource: str, data: Any, ids: Mapping[str, str]
    ) -> None:
        if resource:
            place = Place(store, "", resource)
            moved = [
                msgspec.structs.replace(f, thread=ids.get(f.thread, f.thread)) for f in _facts(data)
            ]
            await self.options.put(place, moved, embedder=self.embedder)

    async def show(self, store: Store, resource: str, now: float) -> tuple[str, str] | None:
        if not resource:
            return None
        clock = Services(now=lambda: now)
        found = await self.options.all(
            Place(store, "", resource), services=clock, embedder=self.embedder
        )
        return counted(len(found), "fact"), found.markdown()


_CLOCK = Services()


def _facts(data: Any) -> list[Fact]:
    try:
        facts = msgspec.convert(data, list[Fact])
    except msgspec.ValidationError as error:
        raise SchemaError(f"facts do not fit: {error}") from None
    for fact in facts:
        if not fact.text.strip() or not 0 <= fact.importance <= 1:
            raise SchemaError(f'fact "{fact.id}" is empty, or its importance is not 0 to 1')
        if not all(map(is_time, (fact.created, fact.used, fact.gone))):
            raise SchemaError(f'fact "{fact.id}" has no date')
    return facts
