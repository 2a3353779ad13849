"""Conversations as people handle them: read, search, clone, move, delete, export and import."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from mastra_nb import portal
from mastra_nb.errors import ConfigError, Conflict, MastraError, NotFound, SchemaError
from mastra_nb.events import Event, MessageAdded, SpanEnded, SpanStarted
from mastra_nb.memory._asking import is_time
from mastra_nb.memory._attached import Attached, Place
from mastra_nb.memory._show import (
    MOST_MESSAGES,
    Bundle,
    bundle,
    conversation,
    counted,
    days_ago,
    table,
)
from mastra_nb.memory.forgetting import forget_threads
from mastra_nb.messages import Message, Role, ToolCall, ToolResult
from mastra_nb.schema import parse_json
from mastra_nb.services import Services, ambient
from mastra_nb.storage import RunRow, Store, Thread, ThreadMessage

if TYPE_CHECKING:
    from datetime import datetime

FORMAT = "mastra_nb/thread"
VERSION = 1
OnConflict = Literal["error", "skip", "copy"]
Moment: TypeAlias = "float | datetime"

_PAGE = 200


class Messages(tuple[ThreadMessage, ...]):
    """Messages of a thread that show themselves as a conversation."""

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        half = MOST_MESSAGES // 2
        first, last = (self, ()) if len(self) <= MOST_MESSAGES else (self[:half], self[-half:])
        left = len(self) - len(first) - len(last)
        return bundle(counted(len(self), "message"), conversation(first, last, left))


class ThreadList(tuple[Thread, ...]):
    """Threads that show themselves as a table."""

    now: float = 0.0

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        rows = [
            (
                t.id,
                t.title,
                t.resource,
                days_ago(t.updated, self.now),
                days_ago(t.created, self.now),
            )
            for t in self
        ]
        head = ("thread", "title", "resource", "updated", "created")
        return bundle(counted(len(self), "thread"), table(head, rows))


async def list_threads(
    store: Store,
    *,
    resource: str | None = None,
    meta: Mapping[str, Any] | None = None,
    limit: int = 100,
    offset: int = 0,
    services: Services | None = None,
) -> ThreadList:
    """Last updated first; `meta` is a filter: {"topic": "boats", "year": {"$gte": 2020}}."""
    found = ThreadList(
        await store.find_threads(resource=resource, meta=meta, limit=limit, offset=offset)
    )
    found.now = (services or ambient()).now()
    return found


class Conversation:
    """A thread by its id; nothing is read before it is asked for.

    With a `resource` it is that resource's: one that belongs to another is not found, whatever is
    asked of it. Every method raises NotFound if there is no such thread.
    """

    def __init__(
        self,
        store: Store,
        id: str,
        *,
        resource: str | None = None,
        attached: Sequence[Attached] = (),
        services: Services | None = None,
    ) -> None:
        self.store = store
        self.id = id
        self.resource = resource
        self._attached = tuple(attached)
        self._services = services or ambient()

    def __repr__(self) -> str:
        return f'<Conversation "{self.id}">'

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        try:
            thread, first, last = portal.run(self._ends())
        except MastraError as error:
            return bundle(f"{self.id}: {error.message}", "")
        left = last[0].pos - _end(first) - 1 if last else 0
        about = (thread.title or thread.id, thread.resource, counted(_end(first, last), "message"))
        shown = conversation(first, last, left)
        return bundle(" · ".join(filter(None, about)), shown)

    async def _ends(self) -> tuple[Thread, Sequence[ThreadMessage], Sequence[ThreadMessage]]:
        thread = await self.info()
        last = await self.store.read_messages(self.id, last=MOST_MESSAGES)
        if len(last) < MOST_MESSAGES:
            return thread, last, ()
        half = MOST_MESSAGES // 2
        first = await self.store.read_messages(self.id, ranges=[(1, half)])
        end = first[-1].pos if first else 0
        return thread, first, [m for m in last[-half:] if m.pos > end]

    # What it is

    async def info(self) -> Thread:
        found = await self.store.get_thread(self.id)
        if found is None or (self.resource is not None and found.resource != self.resource):
            raise NotFound(f'there is no thread "{self.id}"', hint="memory.threads() lists them")
        return found

    async def _place(self) -> Place:
        return Place(self.store, self.id, (await self.info()).resource)

    async def exists(self) -> bool:
        try:
            await self.info()
        except NotFound:
            return False
        return True

    async def title(self) -> str:
        return (await self.info()).title

    async def set_title(self, title: str) -> Thread:
        return await self._change(title=title)

    async def meta(self) -> dict[str, Any]:
        return (await self.info()).meta

    async def set_meta(self, **values: Any) -> Thread:
        """Merged into what there is; None takes a key away."""
        both = {**(await self.meta()), **values}
        return await self._change(meta={k: v for k, v in both.items() if v is not None})

    async def _change(self, **changes: Any) -> Thread:
        return await self.store.put_thread(msgspec.structs.replace(await self.info(), **changes))

    # Its messages

    async def messages(
        self,
        *,
        last: int | None = None,
        before: int | None = None,
        role: Role | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
    ) -> Messages:
        """In order; the `last` n of those that fit. `before` is a position (that of the first
        message gives the page before it), `since` and `until` are moments (both included).
        """
        await self.info()
        after, upto = _moment(since), _moment(until)
        end = None if before is None else before - 1
        if role is None and after is None and upto is None:
            return Messages(await self.store.read_messages(self.id, last=last, upto=end))
        out: list[ThreadMessage] = []
        while last is None or len(out) < last:
            page = await self.store.read_messages(self.id, last=_PAGE, upto=end)
            out += [
                m
                for m in reversed(page)
                if role in (None, m.message.role)
                and (after is None or m.at >= after)
                and (upto is None or m.at <= upto)
            ]
            if len(page) < _PAGE:
                break
            end = page[0].pos - 1
        return Messages(reversed(out if last is None else out[:last]))

    async def search(self, text: str, *, top_k: int = 10) -> Messages:
        """The messages that fit best: by meaning where memory recalls, else the newest that hold
        all the words.
        """
        place = await self._place()
        for each in self._attached:
            found = await each.search(place, text, top_k)
            if found is not None:
                read = await self.store.read_messages(self.id, ranges=[(p, p) for p in found])
                by_pos = {m.pos: m for m in read}
                return Messages(by_pos[p] for p in found if p in by_pos)
        words = text.casefold().split()
        out: list[ThreadMessage] = []
        end: int | None = None
        while words and len(out) < top_k:
            page = await self.store.read_messages(self.id, last=_PAGE, upto=end)
            for each_message in reversed(page):
                said = each_message.message.text.casefold()
                if all(w in said for w in words):
                    out.append(each_message)
            if len(page) < _PAGE:
                break
            end = page[0].pos - 1
        return Messages(out[:top_k])

    async def delete_messages(self, positions: Iterable[int]) -> int:
        """Take messages out. A tool call and its results go together, whichever of them is named;
        returns how many went.
        """
        place = await self._place()
        wanted = {*positions}
        if not wanted:
            return 0
        gone = sorted(_exchanges(await self._around(wanted), wanted))
        n = await self.store.delete_messages(self.id, gone)
        for each in self._attached:
            await each.messages_deleted(place, gone)
        return n

    async def _around(self, positions: set[int]) -> list[ThreadMessage]:
        """The turns that they are in: a call and its results are in one turn."""
        first, last, reach = min(positions), max(positions), 50
        while True:
            low, high = max(1, first - reach), last + reach
            found = await self.store.read_messages(self.id, after=low - 1, upto=high)
            begins = low == 1 or any(m.message.role == "user" for m in found if m.pos <= first)
            end = await self.store.read_messages(self.id, last=1)
            ends = not end or end[0].pos <= high
            ends = ends or any(m.message.role == "user" for m in found if m.pos > last)
            if begins and ends:
                return found
            reach *= 4

    # What becomes of it

    async def clone(
        self,
        id: str | None = None,
        *,
        at: int | None = None,
        title: str | None = None,
        resource: str | None = None,
    ) -> Conversation:
        """A new thread with the same messages (up to the position `at`), its notes and what else
        is kept beside it; the two then go their own ways. Raises Conflict if `id` is taken.
        """
        thread, place = await self.info(), await self._place()
        if at is None:
            newest = await self.store.read_messages(self.id, last=1)
            at = newest[0].pos if newest else 0
        made = Thread(
            id=id or f"{self.id}-{os.urandom(3).hex()}",
            resource=thread.resource if resource is None else resource,
            title=thread.title if title is None else title,
            meta={**thread.meta, "cloned_from": self.id, "cloned_at": at},
        )
        await self.store.clone_thread(self.id, made, upto=at)
        for each in self._attached:
            await each.cloned(place, Place(self.store, made.id, made.resource), at)
        return self._other(made)

    async def fork(self, at: int, id: str | None = None) -> Conversation:
        """A clone that ends at the position `at`, to go on from there otherwise."""
        return await self.clone(id, at=at)

    def _other(self, thread: Thread) -> Conversation:
        mine = None if self.resource is None else thread.resource
        return Conversation(
            self.store,
            thread.id,
            resource=mine,
            attached=self._attached,
            services=self._services,
        )

    async def transfer(self, resource: str) -> Conversation:
        """Give it to another resource, with what is kept beside it; facts and notes that belong
        to the old resource stay there.
        """
        place = await self._place()
        thread = await self._change(resource=resource)
        for each in self._attached:
            await each.transferred(place, Place(self.store, self.id, resource))
        return self._other(thread)

    async def delete(self) -> None:
        """With all that memory keeps of it."""
        await forget_threads(self.store, [await self.info()])
        await self.store.delete_thread(self.id)

    # Out and in again

    async def export(self) -> dict[str, Any]:
        """All of it as JSON: {"format", "version", "thread", "messages", "attached"}; media are
        base64. ThreadExport is the schema.
        """
        made: dict[str, Any] = msgspec.to_builtins((await self.exported())[0])
        return made

    async def exported(self) -> tuple[ThreadExport, dict[int, int]]:
        """And the number that each message has in it, by its position."""
        place, thread = await self._place(), await self.info()
        found = await self.store.read_messages(self.id)
        numbers = {m.pos: n for n, m in enumerate(found, 1)}
        attached = {}
        for each in self._attached:
            data = await each.export(place, numbers) if each.name else None
            if data is not None:
                attached[each.name] = data
        whole = ThreadExport(
            thread=ExportedThread(
                id=thread.id,
                resource=thread.resource,
                title=thread.title,
                meta=thread.meta,
                created=thread.created,
            ),
            messages=[ExportedMessage(at=m.at, message=m.message) for m in found],
            attached=attached,
        )
        return whole, numbers


class ExportedThread(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: str
    resource: str = ""
    title: str = ""
    meta: dict[str, Any] = {}
    created: float = 0.0


class ExportedMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    message: Message
    at: float = 0.0


class ThreadExport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Messages number from 1; `attached` holds what is kept beside a thread, by its kind."""

    thread: ExportedThread
    messages: list[ExportedMessage]
    attached: dict[str, Any] = {}
    format: str = FORMAT
    version: int = VERSION


async def import_thread(
    store: Store,
    data: Any,
    *,
    id: str | None = None,
    resource: str | None = None,
    on_conflict: OnConflict = "error",
    attached: Sequence[Attached] = (),
    services: Services | None = None,
) -> Conversation:
    """What `export` gave (a dict, or its JSON), as a thread of the store.

    If there is one of that id: "error" raises Conflict, "skip" leaves it as it is, "copy" takes
    another id. Raises SchemaError for what is no export, and then has written nothing.
    """
    services = services or ambient()
    whole = checked(data, attached)
    about = whole.thread
    resource = about.resource if resource is None else resource
    wanted = id or about.id

    def handle(id: str) -> Conversation:
        return Conversation(store, id, resource=resource, attached=attached, services=services)

    if on_conflict not in ("error", "skip", "copy"):
        raise ConfigError(f'on_conflict is "{on_conflict}"', hint='"error", "skip" or "copy"')
    # The messages go into a thread of its own first: the clone of that is there at once or not.
    run = services.new_id()
    staged = f"import:{run}"
    if on_conflict == "skip" and await store.get_thread(wanted) is not None:
        return handle(wanted)
    await _stage(store, services, run, staged, whole, resource)
    try:
        for attempt in range(_COPIES):
            made = Thread(
                id=wanted if not attempt else f"{wanted}-{os.urandom(3).hex()}",
                resource=resource,
                title=about.title,
                meta=about.meta,
                created=about.created,
            )
            try:
                await store.clone_thread(staged, made)
                break
            except Conflict:
                if on_conflict == "skip":
                    return handle(wanted)
                if on_conflict == "error" or attempt == _COPIES - 1:
                    raise taken(wanted) from None
    finally:
        await store.delete_thread(staged)
    place = Place(store, made.id, resource)
    for each in attached:
        if (beside := whole.attached.get(each.name)) is not None:
            await each.restore(place, beside)
    return handle(made.id)


_COPIES = 5


def taken(id: str) -> Conflict:
    return Conflict(
        f'there is a thread "{id}" already',
        hint='on_conflict="copy" takes another id, "skip" leaves it as it is',
    )


async def append_messages(
    store: Store, services: Services, thread: Thread, messages: Sequence[Message]
) -> str:
    """Put messages that no run of an agent has said into a thread; returns the run they are in."""
    run, now = services.new_id(), services.now()
    said = [ExportedMessage(message=m, at=now) for m in messages]
    await _put(store, services, run, thread.id, thread.id, said, thread.resource)
    return run


async def _stage(
    store: Store, services: Services, run: str, staged: str, whole: ThreadExport, resource: str
) -> None:
    await store.put_thread(Thread(id=staged, resource=resource))
    await _put(store, services, run, staged, whole.thread.id, whole.messages, resource)


async def _put(
    store: Store,
    services: Services,
    run: str,
    thread: str,
    source: str,
    messages: Sequence[ExportedMessage],
    resource: str,
) -> None:
    """A run that holds the messages, and links of the thread to them."""
    row = RunRow(id=run, name="import", kind="import", status="running", resource=resource)
    row = await store.create(row, owner=services.owner)
    now = services.now()
    data: list[tuple[float, Any]] = [
        (now, SpanStarted(kind="import", name="import", input={"thread": source})),
        *((m.at, MessageAdded(message=m.message)) for m in messages),
        (now, SpanEnded(status="ok", output=len(messages))),
    ]
    events = [
        Event(run=run, seq=n, span="import", data=payload, at=at)
        for n, (at, payload) in enumerate(data, 1)
    ]
    await store.append(run, row.fence, events, status="done", barrier=True)
    if messages:
        await store.link(thread, run, range(2, len(messages) + 2))


def checked(data: Any, attached: Sequence[Attached] = ()) -> ThreadExport:
    """Raises SchemaError that says where it is no exported thread."""
    whole: ThreadExport = read_export(data, ThreadExport, FORMAT)
    calls: set[str] = set()
    for n, each in enumerate(whole.messages, 1):
        if not is_time(each.at):
            raise SchemaError(f"message {n} was said at {each.at}", hint="seconds since the epoch")
        for part in each.message.parts:
            if isinstance(part, ToolCall):
                calls.add(part.id)
            elif isinstance(part, ToolResult) and part.id not in calls:
                raise SchemaError(f'message {n} is the result of a call "{part.id}" there is not')
    if not whole.thread.id or not is_time(whole.thread.created):
        raise SchemaError("the exported thread has no id or no date")
    for kind in attached:
        if (beside := whole.attached.get(kind.name)) is not None:
            kind.check(beside, len(whole.messages))
    return whole


def read_export(data: Any, kind: Any, format: str) -> Any:
    if isinstance(data, str | bytes):
        data = parse_json(data)
    if not isinstance(data, Mapping) or data.get("format") != format:
        raise SchemaError(f'this is no export: it has no "format": "{format}"')
    if data.get("version") != VERSION:
        raise SchemaError(
            f"the export has version {data.get('version')!r}, this release reads {VERSION}",
            hint="a newer release of mastra-nb wrote it: upgrade",
        )
    try:
        made = msgspec.convert(data, kind)
        # Halves of surrogate pairs, and what else has no JSON.
        msgspec.json.encode(made)
    except (msgspec.ValidationError, UnicodeEncodeError, RecursionError, TypeError) as error:
        raise SchemaError(f"the export does not fit: {error}") from None
    return made


def _exchanges(messages: Sequence[ThreadMessage], wanted: set[int]) -> set[int]:
    """`wanted` with the calls and results that belong to what goes, until none is left alone."""
    # Some models give each call the same id: a call begins an exchange of its own.
    exchanges: list[set[int]] = []
    latest: dict[str, set[int]] = {}
    for each in messages:
        for part in each.message.parts:
            if isinstance(part, ToolCall):
                latest[part.id] = {each.pos}
                exchanges.append(latest[part.id])
            elif isinstance(part, ToolResult) and part.id in latest:
                latest[part.id].add(each.pos)
    gone = {m.pos for m in messages} & wanted
    while more := {p for places in exchanges if places & gone for p in places} - gone:
        gone |= more
    return gone


def _moment(at: Moment | None) -> float | None:
    return at if at is None or isinstance(at, int | float) else at.timestamp()


def _end(*parts: Sequence[ThreadMessage]) -> int:
    return max((m.pos for part in parts for m in part), default=0)
