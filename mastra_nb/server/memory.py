"""Conversations, their messages and working memory over REST."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from math import inf
from typing import Annotated, Any

import msgspec

from mastra_nb.errors import ConfigError, NotFound, SchemaError
from mastra_nb.events import SpanStarted
from mastra_nb.memory._working import working_text
from mastra_nb.memory.memory import Memory
from mastra_nb.memory.threads import Conversation, append_messages
from mastra_nb.server import _turns
from mastra_nb.server._asking import agent_of, new_id, valid_id
from mastra_nb.server._results import page, sliced
from mastra_nb.server._routes import BadRequest, Call, Json, Routes
from mastra_nb.server._turns import iso
from mastra_nb.server._words import ms, seconds
from mastra_nb.storage import Store, Thread

routes = Routes("Memory")

_MOST = 10_000
_FIELDS = {"createdAt": "created", "updatedAt": "updated"}
PerPage = int | bool | None


class OrderBy(msgspec.Struct):
    field: str = "updatedAt"
    direction: str = "DESC"


class ThreadsQuery(msgspec.Struct, rename="camel"):
    agent_id: str | None = None
    resource_id: str | None = None
    page: int = 0
    per_page: PerPage = 100
    order_by: OrderBy | None = None
    metadata: dict[str, Any] | None = None
    request_context: Any = None


class AgentQuery(msgspec.Struct, rename="camel"):
    agent_id: str | None = None
    resource_id: str | None = None
    thread_id: str | None = None
    request_context: Any = None


class DateRange(msgspec.Struct, frozen=True, rename="camel"):
    """Its ends belong to it unless it says otherwise. Clients know times in milliseconds."""

    start: datetime | None = None
    end: datetime | None = None
    start_exclusive: bool = False
    end_exclusive: bool = False

    def holds(self, at: float) -> bool:
        first = -inf if self.start is None else ms(seconds(self.start)) + self.start_exclusive
        last = inf if self.end is None else ms(seconds(self.end)) - self.end_exclusive
        return first <= ms(at) <= last


# Whose memory, whose threads


def store_of(call: Call) -> Store:
    if call.app.store is None:
        raise NotFound("this application keeps no memory: it has no store")
    return call.app.store


def memory_of(call: Call, agent: str | None) -> Memory | None:
    """That of the agent that is named, else of the first that has one."""
    if agent:
        return agent_of(call, agent).memory
    return next((a.memory for a in call.app.agents.values() if a.memory is not None), None)


def conversation(call: Call, memory: Memory | None, id: str) -> Conversation:
    if memory is not None and memory.services.store is call.app.store:
        return memory.thread(id, resource=call.resource)
    return Conversation(store_of(call), id, resource=call.resource, services=call.app.services)


async def thread_of(call: Call, id: str, what: str = "Thread not found") -> Thread:
    found = await store_of(call).get_thread(id)
    if found is None:
        raise NotFound(what)
    call.check_owner(found.resource, what)
    return found


async def claimed(
    call: Call, id: str, resource: str | None, title: str | None, meta: Json | None
) -> Thread:
    """The thread of that id, which is made unless it is there. Raises NotFound for another's."""
    store = store_of(call)
    known = await store.claim_thread(id, call.owner(resource))
    call.check_owner(known.resource, "Thread not found")
    made = msgspec.structs.replace(
        known, title=title or known.title, meta={**known.meta, **(meta or {})}
    )
    return await store.put_thread(made)


def thread_json(thread: Thread) -> Json:
    return {
        "id": thread.id,
        "resourceId": thread.resource,
        "title": thread.title,
        "createdAt": iso(thread.created),
        "updatedAt": iso(thread.updated),
        "metadata": thread.meta,
    }


def paged(number: int, size: PerPage) -> tuple[int, int | None]:
    """Raises BadRequest."""
    limit = None if size is None or isinstance(size, bool) else size
    if number < 0 or (limit is not None and limit < 1):
        raise BadRequest("Invalid query parameters", [{"field": "page", "message": "a page"}])
    return number, limit


def ordered(order: OrderBy | None, default: OrderBy) -> tuple[str, bool]:
    """(field, newest first). Raises BadRequest for a field that there is none of."""
    order = order or default
    if order.field not in _FIELDS or order.direction.upper() not in ("ASC", "DESC"):
        raise BadRequest(
            "Invalid query parameters", [{"field": "orderBy", "message": "createdAt, updatedAt"}]
        )
    return _FIELDS[order.field], order.direction.upper() == "DESC"


# Threads


@routes.get("/memory/threads", query=ThreadsQuery, response=dict[str, Any])
async def list_threads(call: Call) -> Json:
    """Threads, the last updated first"""
    asked = call.query
    number, size = paged(asked.page, asked.per_page)
    field, down = ordered(asked.order_by, OrderBy())
    whose = call.resource if call.resource is not None else asked.resource_id
    found = await store_of(call).find_threads(resource=whose, meta=asked.metadata, limit=_MOST)
    found.sort(key=lambda t: (getattr(t, field), t.id), reverse=down)
    shown = [thread_json(t) for t in sliced(found, number, size)]
    return page(shown, page=number, per_page=size, total=len(found), key="threads")


class NewThread(msgspec.Struct, rename="camel"):
    resource_id: str | None = None
    thread_id: str | None = None
    title: str | None = None
    metadata: dict[str, Any] | None = None


@routes.post("/memory/threads", body=NewThread, query=AgentQuery, response=dict[str, Any])
async def create_thread(call: Call) -> Json:
    """Make a thread, or give the one of that id"""
    body = call.body
    id = body.thread_id or new_id()
    if not valid_id(id):
        raise BadRequest("Invalid request body", [{"field": "threadId", "message": "no id"}])
    return thread_json(await claimed(call, id, body.resource_id, body.title, body.metadata))


@routes.get("/memory/threads/{threadId}", query=AgentQuery, response=dict[str, Any])
async def get_thread(call: Call) -> Json:
    """One thread"""
    return thread_json(await thread_of(call, call.path["threadId"]))


class ThreadPatch(msgspec.Struct, rename="camel"):
    title: str | None = None
    metadata: dict[str, Any] | None = None
    resource_id: str | None = None


@routes.patch(
    "/memory/threads/{threadId}", body=ThreadPatch, query=AgentQuery, response=dict[str, Any]
)
async def update_thread(call: Call) -> Json:
    """Change the title or the metadata of a thread"""
    known, body = await thread_of(call, call.path["threadId"]), call.body
    made = msgspec.structs.replace(
        known,
        title=known.title if body.title is None else body.title,
        meta={**known.meta, **(body.metadata or {})},
    )
    return thread_json(await store_of(call).put_thread(made))


@routes.delete("/memory/threads/{threadId}", query=AgentQuery, response=dict[str, Any])
async def delete_thread(call: Call) -> Json:
    """Delete a thread, with all that is kept beside it"""
    known = await thread_of(call, call.path["threadId"])
    memory = memory_of(call, call.query.agent_id)
    await conversation(call, memory, known.id).delete()
    return {"result": "Thread deleted"}


class TransferBody(msgspec.Struct, rename="camel"):
    resource_id: Annotated[str, msgspec.Meta(min_length=1)]


@routes.post(
    "/memory/threads/{threadId}/transfer",
    body=TransferBody,
    query=AgentQuery,
    response=dict[str, Any],
)
async def transfer_thread(call: Call) -> Json:
    """Give a thread to another resource, which only who may see all can"""
    known, to = await thread_of(call, call.path["threadId"]), call.body.resource_id
    if call.resource not in (None, to):
        raise BadRequest("a thread is not given to others", status=403)
    memory = memory_of(call, call.query.agent_id)
    await conversation(call, memory, known.id).transfer(to)
    return thread_json(await thread_of(call, known.id))


class CloneFilter(msgspec.Struct, rename="camel"):
    start_date: datetime | None = None
    end_date: datetime | None = None
    message_ids: list[str] | None = None

    def keeps(self, group: _turns.Group) -> bool:
        ids, span = self.message_ids, DateRange(start=self.start_date, end=self.end_date)
        return span.holds(group.at) and (ids is None or group.id in ids)


class CloneOptions(msgspec.Struct, rename="camel"):
    """The newest `message_limit` of the messages that the filter keeps."""

    message_limit: Annotated[int, msgspec.Meta(ge=0)] | None = None
    message_filter: CloneFilter | None = None


class CloneBody(msgspec.Struct, rename="camel"):
    new_thread_id: str | None = None
    title: str | None = None
    resource_id: str | None = None
    metadata: dict[str, Any] | None = None
    options: CloneOptions | None = None


@routes.post(
    "/memory/threads/{threadId}/clone",
    body=CloneBody,
    query=AgentQuery,
    response=dict[str, Any],
    optional=True,
)
async def clone_thread(call: Call) -> Json:
    """A new thread with the same messages, or with some of them"""
    known, body, store = await thread_of(call, call.path["threadId"]), call.body, store_of(call)
    if body.new_thread_id is not None and not valid_id(body.new_thread_id):
        raise BadRequest("Invalid request body", [{"field": "newThreadId", "message": "no id"}])
    options = body.options or CloneOptions()
    memory = memory_of(call, call.query.agent_id)
    owner = call.owner(body.resource_id or known.resource)
    made = await conversation(call, memory, known.id).clone(
        body.new_thread_id or new_id(), title=body.title, resource=owner
    )
    source = await _turns.groups_of(store, known)
    chosen = options.message_filter or CloneFilter()
    kept = [group for group in source if chosen.keeps(group)]
    if options.message_limit is not None:
        kept = kept[max(0, len(kept) - options.message_limit) :]
    before = {group.positions[0]: group.id for group in kept}
    await made.delete_messages(
        pos for group in source if group.positions[0] not in before for pos in group.positions
    )
    info = await store.get_thread(made.id)
    assert info is not None
    groups = await _turns.groups_of(store, info)
    clone = {"sourceThreadId": known.id, "clonedAt": iso(call.app.services.now())}
    if groups:
        clone["lastMessageId"] = groups[-1].id
    meta = {**info.meta, **(body.metadata or {}), "clone": clone}
    info = await store.put_thread(msgspec.structs.replace(info, meta=meta))
    messages = [_turns.db_message(group, info) for group in groups]
    ids = {before[g.positions[0]]: g.id for g in groups if g.positions[0] in before}
    return {"thread": thread_json(info), "clonedMessages": messages, "messageIdMap": ids}


# Messages


class MessageFilter(msgspec.Struct, rename="camel"):
    date_range: DateRange = DateRange()


class MessagesQuery(msgspec.Struct, rename="camel"):
    agent_id: str | None = None
    resource_id: str | None = None
    page: int = 0
    per_page: PerPage = None
    order_by: OrderBy | None = None
    filter: MessageFilter | None = None
    include: Any = None
    include_system_reminders: bool | None = None
    request_context: Any = None


@routes.get("/memory/threads/{threadId}/messages", query=MessagesQuery, response=dict[str, Any])
async def list_messages(call: Call) -> Json:
    """The messages of a thread; an answer with its tool calls is one of them"""
    thread, asked = await thread_of(call, call.path["threadId"]), call.query
    number, size = paged(asked.page, asked.per_page)
    _, down = ordered(asked.order_by, OrderBy(field="createdAt", direction="ASC"))
    groups = await _turns.groups_of(store_of(call), thread)
    if asked.filter is not None:
        groups = [g for g in groups if asked.filter.date_range.holds(g.at)]
    if down:
        groups.reverse()
    shown = [_turns.db_message(g, thread) for g in sliced(groups, number, size)]
    out = page(shown, page=number, per_page=size, total=len(groups), key="messages")
    return out | {"uiMessages": None}


class SaveBody(msgspec.Struct, rename="camel"):
    messages: list[dict[str, Any]]


@routes.post("/memory/save-messages", body=SaveBody, query=AgentQuery, response=dict[str, Any])
async def save_messages(call: Call) -> Json:
    """Append messages to threads: what users and agents said, no calls of tools"""
    store, saved = store_of(call), list[Json]()
    threads: dict[str, list[Mapping[str, Any]]] = {}
    for n, each in enumerate(call.body.messages):
        id = each.get("threadId")
        if not isinstance(id, str) or not valid_id(id):
            issue = {"field": f"messages[{n}].threadId", "message": "Required"}
            raise BadRequest("Invalid request body", [issue])
        threads.setdefault(id, []).append(each)
    checked = {id: _turns.asked([*given]).messages for id, given in threads.items()}
    for id, given in threads.items():
        resource = given[0].get("resourceId")
        owner = call.owner(resource if isinstance(resource, str) else None)
        known = await store.claim_thread(id, owner)
        call.check_owner(known.resource, "Thread not found")
    for id, messages in checked.items():
        thread = await thread_of(call, id)
        run = await append_messages(store, call.app.services, thread, messages)
        groups = await _turns.groups_of(store, thread)
        saved += [_turns.db_message(g, thread) for g in groups if g.run == run]
    return {"messages": saved}


class DeleteBody(msgspec.Struct, rename="camel"):
    message_ids: Any


_ID = re.compile(r"(?P<run>.+?)-[au]\d+(@(?P<thread>.+))?")


@routes.post("/memory/messages/delete", body=DeleteBody, query=AgentQuery, response=dict[str, Any])
async def delete_messages(call: Call) -> Json:
    """Delete messages by their ids; a tool call and its result go together"""
    given, store = call.body.message_ids, store_of(call)
    given = given if isinstance(given, list) else [given]
    named = [each.get("id") if isinstance(each, Mapping) else each for each in given]
    ids = {id for id in named if isinstance(id, str) and id}
    if not ids or len(named) != len([id for id in named if isinstance(id, str) and id]):
        raise BadRequest("Invalid request body", [{"field": "messageIds", "message": "ids"}])
    known = [found for id in ids if (found := _ID.fullmatch(id))]
    places = {found["thread"] for found in known if found["thread"]}
    runs = {found["run"] for found in known if not found["thread"]}
    places |= {place for run in runs if (place := await _thread_of_run(store, run))}
    memory, gone = memory_of(call, call.query.agent_id), 0
    if call.query.thread_id:
        places.add(call.query.thread_id)
    for id in places:
        thread = await store.get_thread(id)
        if thread is None or call.resource not in (None, thread.resource):
            continue
        groups = [g for g in await _turns.groups_of(store, thread) if g.id in ids]
        if groups:
            positions = [pos for group in groups for pos in group.positions]
            await conversation(call, memory, id).delete_messages(positions)
            gone += len(groups)
    if not gone:
        raise NotFound("Message not found")
    what = "message" if gone == 1 else "messages"
    return {"success": True, "message": f"{gone} {what} deleted successfully"}


async def _thread_of_run(store: Store, id: str) -> str | None:
    """Messages that were saved are in a run of their own, which only its first event places."""
    row = await store.get_run(id)
    if row is None or row.kind != "import":
        return None if row is None else row.thread
    events = await store.read_events(id)
    first = events[0].data if events else None
    given = first.input if isinstance(first, SpanStarted) else None
    thread = given.get("thread") if isinstance(given, Mapping) else None
    return thread if isinstance(thread, str) else None


# Working memory


@routes.get("/memory/threads/{threadId}/working-memory", query=AgentQuery, response=dict[str, Any])
async def get_working(call: Call) -> Json:
    """The working memory of a thread, or of whom it belongs to"""
    id, store = call.path["threadId"], store_of(call)
    thread = await store.get_thread(id)
    if thread is not None:
        call.check_owner(thread.resource, "Thread not found")
    resource = thread.resource if thread is not None else call.owner(call.query.resource_id)
    memory = memory_of(call, call.query.agent_id)
    options = None if memory is None else memory.working_options
    template = None
    if options is not None:
        template = {"format": "markdown", "content": options.template}
        if options.schema is not None:
            template["format"] = "json"
    source = "resource" if options is None or options.scope == "resource" else "thread"
    return {
        "workingMemory": await working_text(store, id, resource) or None,
        "source": source,
        "workingMemoryTemplate": template,
        "threadExists": thread is not None,
    }


class WorkingBody(msgspec.Struct, rename="camel"):
    working_memory: str
    resource_id: str | None = None


@routes.post(
    "/memory/threads/{threadId}/working-memory",
    body=WorkingBody,
    query=AgentQuery,
    response=dict[str, Any],
)
async def set_working(call: Call) -> Json:
    """Replace the working memory"""
    thread = await thread_of(call, call.path["threadId"])
    memory = memory_of(call, call.query.agent_id)
    if memory is None or memory.working_options is None:
        raise BadRequest("Working memory is not enabled for this agent")
    value: Any = call.body.working_memory
    if memory.working_options.schema is not None:
        try:
            value = msgspec.json.decode(value)
        except msgspec.DecodeError:
            raise SchemaError("the working memory of this agent is JSON") from None
    await memory.set_working(value, resource=thread.resource, thread=thread.id)
    return {"success": True}


# Search


class SearchQuery(msgspec.Struct, rename="camel"):
    search_query: str
    resource_id: str | None = None
    agent_id: str | None = None
    thread_id: str | None = None
    limit: int = 20
    memory_config: Any = None
    request_context: Any = None


@routes.get("/memory/search", query=SearchQuery, response=dict[str, Any])
async def search(call: Call) -> Json:
    """What was said that fits: by meaning where the agent recalls, else by words"""
    asked, store = call.query, store_of(call)
    if not 0 < asked.limit <= 200:
        raise BadRequest("Invalid query parameters", [{"field": "limit", "message": "1 to 200"}])
    memory = memory_of(call, asked.agent_id)
    whose = call.resource if call.resource is not None else asked.resource_id
    if asked.thread_id:
        threads = [await thread_of(call, asked.thread_id)]
    else:
        threads = await store.find_threads(resource=whose, limit=100)
    out: list[Json] = []
    for thread in threads:
        if len(out) >= asked.limit or not asked.search_query.strip():
            break
        try:
            found = await conversation(call, memory, thread.id).search(
                asked.search_query, top_k=asked.limit - len(out)
            )
        except ConfigError as error:
            raise BadRequest(error.message) from None
        at = {pos: g for g in await _turns.groups_of(store, thread)
              for pos in g.positions}  # fmt: skip
        for each in found:
            group = at.get(each.pos)
            out.append(
                {
                    "id": f"{each.run}-{each.pos}" if group is None else group.id,
                    "role": each.message.role,
                    "content": each.message.text,
                    "createdAt": iso(each.at),
                    "threadId": thread.id,
                    "threadTitle": thread.title,
                    "context": {"before": [], "after": []},
                }
            )
    return {
        "results": out,
        "count": len(out),
        "query": asked.search_query,
        "searchScope": "thread" if asked.thread_id else "resource",
        "searchType": "semantic" if memory is not None and memory.recalls else "text",
    }
