"""Observational memory: old messages become dated notes, behind the conversation."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from mastra_nb.errors import ConfigError, ModelOutputError
from mastra_nb.memory._asking import Question, ask, size, told, when
from mastra_nb.memory._attached import Place
from mastra_nb.memory._background import Background
from mastra_nb.memory._notes import (
    KIND,
    MOST_DOCS,
    Observation,
    ObservationLog,
    Observations,
    ObservationScope,
    Observed,
    Priority,
    Reflected,
    as_of,
    drop,
    forget_shared,
    history_of,
    log_key,
    read,
    version_id,
    weight,
    write,
)
from mastra_nb.messages import Message, ToolCall, ToolResult, user
from mastra_nb.models import Model, ModelLike
from mastra_nb.services import Services
from mastra_nb.storage import Store, ThreadMessage

# What a reflection must save at least to be worth losing details for.
_SAVES = 0.8
_MOST_THREADS = 256
_MOST_SIZES = 5000


# Where a conversation may be cut


def cuts(messages: Sequence[Message]) -> list[int]:
    """The places (an index is before that message) that part no tool call from its result."""
    out, open_calls = [], set[str]()
    for i, message in enumerate(messages):
        if not open_calls and message.role != "tool":
            out.append(i)
        for part in message.parts:
            if isinstance(part, ToolCall):
                open_calls.add(part.id)
            elif isinstance(part, ToolResult):
                open_calls.discard(part.id)
        if message.role == "user":
            # A call without a result will get none any more.
            open_calls.clear()
    if not open_calls:
        out.append(len(messages))
    return out


def tail(messages: Sequence[Message], sizes: Sequence[int], keep: int, tokens: int) -> int:
    """Where the newest messages begin that stay as they are: at most `keep` of them and at most
    `tokens`, from a user's message on if one is among them; at least what the last cut leaves.
    """
    places = [i for i in cuts(messages) if i < len(messages)]
    total, least = 0, len(messages)
    for i in range(len(messages) - 1, max(-1, len(messages) - keep - 1), -1):
        total += sizes[i]
        if total > tokens:
            break
        least = i
    fit = [i for i in places if i >= least]
    said = [i for i in fit if messages[i].role == "user"]
    return (said or fit or places[-1:] or [0])[0]


def chunk(messages: Sequence[Message], sizes: Sequence[int], tokens: int) -> int:
    """How many of the first messages make a piece of at most `tokens`, whole turns if possible;
    the first that may be cut off, however long it is, if there is none; 0 for nothing to cut.
    """
    totals = [0, *itertools.accumulate(sizes)]
    places = [i for i in cuts(messages) if i]
    fit = [i for i in places if totals[i] <= tokens]
    turns = [i for i in fit if i == len(messages) or messages[i].role == "user"]
    return (turns[-1:] or fit[-1:] or places[:1] or [0])[0]


# Asking for notes


class _Note(msgspec.Struct, frozen=True, kw_only=True):
    n: int
    text: str
    priority: Priority = "medium"


class Notes(msgspec.Struct, frozen=True, kw_only=True):
    notes: list[_Note]


_OBSERVER = """\
You keep the notes of an assistant. Messages of a conversation are about to leave its sight: your \
notes are all that it will know of them. Write down what it may need, each as one short sentence \
of its own, with the number "n" of the message it is taken from.
- What a user states about themselves or their work is a fact; what a user asks is a question: \
keep them apart ("User stated …", "User asked …"). If something changes, say what it replaces.
- Keep names, numbers, dates, paths, identifiers, decisions, results of tools and unusual words \
exactly. Turn "tomorrow" or "last week" into a date, reckoned from when the message was written.
- What was recommended, tried, found or finished, and what is still open.
- "priority": "high" for facts about the user, preferences, decisions, open tasks; "medium" for \
details and results; "low" for what may turn out to matter.
- Nothing that "known" says already, no praise, no repetition."""
_REFLECTOR = """\
You tidy the notes of an assistant: they have become too long, and what you leave out is \
forgotten. Merge what belongs together, drop what is outdated, settled or said twice, condense \
what is old more than what is new. Keep names, numbers, dates and identifiers exactly, and what a \
user stated about themselves. "n" is the number of the newest note that yours is made of."""


class ObservationalMemory:
    """What a conversation is turned into when it grows long.

    Once the messages that are not noted yet have more than `message_tokens`, a model ("observer",
    default the agent's own) turns all but the last `keep_last` of them into notes, in a run of its
    own that no turn waits for; the store keeps the messages. When the notes have more than
    `observation_tokens` they are condensed; earlier versions stay. With scope "resource" all
    conversations of a resource share their notes. `instructions` are added to the observer's.

    What a model gives that is no use (nothing, or more than it was told) is thrown away: the
    messages then stay as they are until more have come.
    """

    def __init__(
        self,
        model: ModelLike | None = None,
        *,
        message_tokens: int = 30_000,
        observation_tokens: int = 40_000,
        keep_last: int = 10,
        instructions: str = "",
        scope: ObservationScope = "thread",
    ) -> None:
        for name, value in (
            ("message_tokens", message_tokens),
            ("observation_tokens", observation_tokens),
            ("keep_last", keep_last),
        ):
            if value < 1:
                raise ConfigError(f"{name} is {value}", hint="it must be 1 or more")
        if scope not in ("thread", "resource"):
            raise ConfigError(f'scope is "{scope}"', hint='it is "thread" or "resource"')
        self.model = model
        self.message_tokens = message_tokens
        self.observation_tokens = observation_tokens
        self.keep_last = keep_last
        self.instructions = instructions
        self.scope: ObservationScope = scope
        self._behind = Background()
        self._sizes: dict[str, dict[int, int]] = {}
        # By log: its newest document, and what it comes to.
        self._states: dict[str, tuple[tuple[Any, ...], Observations]] = {}
        self._blocks: dict[str, tuple[Observations, Message]] = {}
        # By thread: what there must be at least before the next try, after one that failed.
        self._patience: dict[str, int] = {}

    def __repr__(self) -> str:
        return (
            f"ObservationalMemory(message_tokens={self.message_tokens}, "
            f'observation_tokens={self.observation_tokens}, scope="{self.scope}")'
        )

    def key(self, place: Place) -> str:
        return log_key(self.scope, place.thread, place.resource)

    async def read(self, place: Place, version: int | None = None) -> Observations:
        """As of `version` (None: now); what is known already is not read again."""
        key = self.key(place)
        newest = await place.store.find(KIND, prefix=key, limit=1, reverse=True)
        known, state = self._states.get(key, ((), Observations()))
        if not newest or newest[0] != known:
            state = await read(place.store, key)
            self._states.pop(key, None)
            if len(self._states) >= _MOST_THREADS:
                del self._states[next(iter(self._states))]
            if newest and newest[0][0] == version_id(key, state.version):
                self._states[key] = (newest[0], state)
        if version is None or version == state.version:
            return state
        return await read(place.store, key, version)

    async def log(self, place: Place) -> ObservationLog | None:
        """None where nothing was noted so far."""
        key, state = self.key(place), await self.read(place)
        docs = [doc for _, doc in await history_of(place.store, key)]
        if not state.version or not docs:
            return None
        after = state.upto.get(place.thread, 0)
        waiting = await place.store.read_messages(place.thread, after=after) if place.thread else []
        observed = [doc for doc in docs if isinstance(doc, Observed)]
        return ObservationLog(
            key=key,
            notes=state,
            reflections=len(docs) - len(observed),
            noted_tokens=sum(doc.tokens for doc in observed),
            pending_tokens=self.total(place.thread, waiting),
            is_observing=self._behind.is_busy(key),
            created=docs[0].at,
            updated=max(doc.at for doc in docs),
            observed=max((doc.at for doc in observed), default=0.0),
        )

    async def begin(self, place: Place) -> int:
        """The version that a turn sees, from its first to its last drive."""
        return (await self.read(place)).version

    async def before(
        self, place: Place, version: int, end: int
    ) -> tuple[list[Message], list[ThreadMessage]]:
        """What stands before a turn that saw that version and the thread up to `end`: the block
        of notes (none, or one message), and the messages they do not cover.
        """
        state = await self.read(place, version) if version else Observations()
        if state.upto.get(place.thread, 0) > end:
            # Another turn was faster; or they are of a thread of that name that was deleted.
            state = await as_of(place.store, self.key(place), place.thread, end)
        upto = state.upto.get(place.thread, 0)
        found = await place.store.read_messages(place.thread, after=upto, upto=end) if end else []
        # The first may be the results of calls that are gone.
        first = next((i for i in cuts([m.message for m in found])), len(found))
        return self._block(self.key(place), state), found[first:]

    async def shorter(self, place: Place, version: int, tokens: int) -> list[Message]:
        """The block of that version, with the notes that so many tokens hold."""
        state = await self.read(place, version)
        return [user(state.text(tokens))] if state.items else []

    def _block(self, key: str, state: Observations) -> list[Message]:
        if not state.items:
            return []
        known = self._blocks.get(key)
        if known is None or known[0] is not state:
            if len(self._blocks) >= _MOST_THREADS:
                self._blocks.clear()
            made = user(state.text(2 * self.observation_tokens))
            known = self._blocks[key] = (state, made)
        return [known[1]]

    def total(self, thread: str, messages: Iterable[ThreadMessage]) -> int:
        return sum(self._measured(thread, messages))

    def _measured(self, thread: str, messages: Iterable[ThreadMessage]) -> list[int]:
        """Counted once for each position: a message does not change."""
        known = self._sizes.pop(thread, {})
        out = {m.pos: known.get(m.pos) or size(m.message) for m in messages}
        if len(self._sizes) >= _MOST_THREADS:
            del self._sizes[next(iter(self._sizes))]
        self._sizes[thread] = {**known, **out} if len(known) < _MOST_SIZES else dict(out)
        return [*out.values()]

    def limit(self, room: int | None) -> int:
        """`message_tokens`, or what a model with so small a context has room for."""
        return self.message_tokens if room is None else min(self.message_tokens, room // 3)

    def most_notes(self, room: int | None) -> int:
        """`observation_tokens`, or what a model with so small a context has room for."""
        return self.observation_tokens if room is None else min(self.observation_tokens, room // 4)

    def is_due(self, thread: str, tokens: int, room: int | None) -> bool:
        return tokens > max(self.limit(room), self._patience.get(thread, 0))

    def start(self, place: Place, model: Model, services: Services, room: int | None) -> None:
        """Begin to observe in the background, if nobody here does so already."""
        key = self.key(place)

        async def work() -> None:
            await self.observe(place, model, services, room=room)

        if not self._behind.is_busy(key):
            self._behind.start(key, f"thread {place.thread} was not observed", work)

    async def settled(self, place: Place | None = None) -> None:
        """Wait until nothing is observed any more (of that conversation)."""
        await self._behind.settle(None if place is None else self.key(place))

    async def observe(
        self,
        place: Place,
        model: Model,
        services: Services,
        *,
        inside: bool = False,
        room: int | None = None,
        end: int | None = None,
    ) -> Observations:
        """Turn what is old into notes now, up to the position `end`. Raises what the model raises;
        what was noted before that is kept. `room` is the context of the model that is to read
        them, in tokens; `inside` makes the calls a part of the run that waits for them.
        """
        docs, thread, key = place.store, place.thread, self.key(place)
        room = smaller(room, model.profile.context)
        limit = self.limit(room)
        state = await read(docs, key)
        found = await docs.read_messages(thread, after=state.upto.get(thread, 0), upto=end)
        born = await _born(docs, thread)
        sizes = self._measured(thread, found)
        begun = 0
        try:
            stays = tail([m.message for m in found], sizes, self.keep_last, limit // 2)
            while begun < stays:
                rest = [m.message for m in found[begun:stays]]
                n = chunk(rest, sizes[begun:stays], limit)
                if not n:
                    break
                part = found[begun : begun + n]
                tokens = sum(sizes[begun : begun + n])
                doc = await self._observed(part, tokens, state, place, model, services, inside)
                if not await write(docs, key, state, doc):
                    return await read(docs, key)
                state, begun = state.with_(doc), begun + n
            most = self.most_notes(room)
            if state.tokens > most or state.docs > MOST_DOCS:
                # Fewer notes are worth it, or fewer documents.
                most = int(state.tokens * _SAVES) if state.tokens > most else state.tokens
                reflected = await self._reflected(state, most, place, model, services, inside)
                if await write(docs, key, state, reflected):
                    state = state.with_(reflected)
        except Exception:
            left = sum(sizes[begun:])
            if len(self._patience) >= _MOST_THREADS:
                self._patience.clear()
            self._patience[thread] = left + limit // 4
            raise
        finally:
            if await _born(docs, thread) != born:
                # It was deleted meanwhile: another one may take its name.
                await drop(docs, log_key("thread", thread, ""))
                await forget_shared(docs, place.resource, {thread})
        self._patience.pop(thread, None)
        return state

    async def _observed(
        self,
        part: Sequence[ThreadMessage],
        tokens: int,
        state: Observations,
        place: Place,
        model: Model,
        services: Services,
        inside: bool,
    ) -> Observed:
        about = {"thread": place.thread, "after": part[0].pos - 1, "upto": part[-1].pos}
        question = Question(
            instructions="\n".join(filter(None, (_OBSERVER, self.instructions))),
            data={"known": [o.text for o in state.items[-50:]], "messages": told(part)},
            about=about,
        )
        got = await ask("observer", model, question, Notes, services, place=place, inside=inside)
        # What was deleted meanwhile is not noted.
        there = await place.store.read_messages(
            place.thread, after=part[0].pos - 1, upto=part[-1].pos
        )
        positions = {m.pos for m in there}
        items = []
        for note in _useful(got, len(part), "observer", tokens):
            source = part[note.n - 1]
            if source.pos not in positions:
                continue
            items.append(
                Observation(
                    thread=place.thread,
                    pos=source.pos,
                    at=source.at,
                    priority=note.priority,
                    text=note.text.strip(),
                )
            )
        return Observed(
            observations=tuple(items),
            upto={place.thread: part[-1].pos},
            tokens=tokens,
            at=services.now(),
        )

    async def _reflected(
        self,
        state: Observations,
        most: int,
        place: Place,
        model: Model,
        services: Services,
        inside: bool,
    ) -> Reflected:
        data = [
            {"n": n, "at": when(o.at), "priority": o.priority, "text": o.text}
            for n, o in enumerate(state.items, 1)
        ]
        about = {"key": self.key(place), "version": state.version, "notes": len(data)}
        question = Question(
            instructions="\n".join(filter(None, (_REFLECTOR, self.instructions))),
            data={"notes": data},
            about=about,
        )
        got = await ask("reflector", model, question, Notes, services, place=place, inside=inside)
        items = []
        for note in _useful(got, len(data), "reflector", most):
            source = state.items[note.n - 1]
            items.append(
                msgspec.structs.replace(source, priority=note.priority, text=note.text.strip())
            )
        return Reflected(observations=tuple(items), upto=state.upto, at=services.now())


def _useful(got: Notes, count: int, who: str, most: int) -> list[_Note]:
    """The notes that can be used. Raises ModelOutputError if they are no use."""
    seen: set[str] = set()
    kept = []
    for note in got.notes:
        text = note.text.strip()
        if text and text not in seen:
            seen.add(text)
            n = note.n if 1 <= note.n <= count else count
            kept.append(msgspec.structs.replace(note, n=n))
    if not kept:
        raise ModelOutputError(f"the {who} noted nothing; the messages stay as they are")
    tokens = sum(weight(n.text) for n in kept)
    if tokens > max(most, 50):
        raise ModelOutputError(
            f"the {who} wrote about {tokens} tokens of {most}: that saves nothing",
            hint="ObservationalMemory(model=…) takes another model",
        )
    return kept


def smaller(*rooms: int | None) -> int | None:
    """Of contexts, None is one that nobody knows."""
    return min((r for r in rooms if r is not None), default=None)


async def _born(store: Store, thread: str) -> float | None:
    found = await store.get_thread(thread)
    return None if found is None else found.created
