"""From a request to a run of an agent: what a client may choose, and runs that wait for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import msgspec

from mastra_nb.agents import Agent
from mastra_nb.context import Context
from mastra_nb.errors import ConfigError, Conflict, NotFound, SchemaError, UsageError
from mastra_nb.events import Resumed
from mastra_nb.loop import step_count_is
from mastra_nb.messages import ToolSpec
from mastra_nb.models import ModelSettings
from mastra_nb.runs import Run
from mastra_nb.server import _turns
from mastra_nb.server._routes import BadRequest, Call, Json, request_context
from mastra_nb.server._streams import gathered
from mastra_nb.server.wire import APPROVAL, CLIENT_TOOL
from mastra_nb.storage import read_run

# Where what a client chose for a run is kept with it, for whoever goes on with it.
_CHOSEN = "mastra__chosen"
# Where what came with a message that was sent to a thread is kept, for those who follow it.
SENT = "mastra__sent"
_SETTINGS = {
    "temperature": "temperature",
    "topP": "top_p",
    "topK": "top_k",
    "maxOutputTokens": "max_tokens",
    "maxTokens": "max_tokens",
    "presencePenalty": "presence_penalty",
    "frequencyPenalty": "frequency_penalty",
    "seed": "seed",
    "stopSequences": "stop",
}


class ThreadRef(msgspec.Struct, rename="camel"):
    id: str
    title: str | None = None
    metadata: dict[str, Any] | None = None


class MemoryRef(msgspec.Struct, rename="camel"):
    thread: str | ThreadRef | None = None
    resource: str | None = None


class Structured(msgspec.Struct, rename="camel"):
    schema: dict[str, Any]


class ClientToolSpec(msgspec.Struct, rename="camel"):
    id: str | None = None
    description: str | None = None
    input_schema: Any = None
    parameters: Any = None


class AgentBody(msgspec.Struct, rename="camel", kw_only=True):
    """`instructions` and `system` count where the application trusts its clients."""

    messages: Any
    memory: MemoryRef | None = None
    thread_id: str | None = None
    resource_id: str | None = None
    run_id: str | None = None
    max_steps: int | None = None
    request_context: dict[str, Any] | None = None
    model_settings: dict[str, Any] | None = None
    structured_output: Structured | None = None
    client_tools: dict[str, ClientToolSpec] | None = None
    tool_choice: Any = None
    active_tools: list[str] | None = None
    require_tool_approval: bool | None = None
    instructions: Any = None
    system: Any = None


class Chosen(msgspec.Struct, omit_defaults=True):
    """What a client chose for its run, as it is kept with the run."""

    max_steps: int | None = None
    settings: dict[str, Any] | None = None
    output: dict[str, Any] | None = None
    tools: dict[str, Json] = {}
    tool_choice: str | None = None
    active_tools: list[str] | None = None
    approve_all: bool = False
    instructions: str | None = None

    def applied(self, agent: Agent[Any]) -> Agent[Any]:
        """Raises UsageError for what cannot be chosen."""
        changes: dict[str, Any] = {}
        if self.max_steps is not None:
            # It ends there, with what it has: for clients of Mastra that is no failure.
            changes["stop_when"] = (*agent.stop_when, step_count_is(self.max_steps))
        if self.settings:
            base = msgspec.to_builtins(agent.settings or ModelSettings())
            changes["settings"] = msgspec.convert(base | self.settings, ModelSettings)
        if self.output is not None:
            changes["output"] = self.output
        if self.tools:
            known = agent.toolset
            if taken := sorted(known.keys() & self.tools.keys()):
                raise UsageError(f'"{taken[0]}" is a tool of the agent', hint="name it otherwise")
            mine = [ClientTool(name, spec) for name, spec in self.tools.items()]
            own_tools = agent.tools
            if callable(own_tools):
                raise UsageError("the tools of this agent are chosen by a function of its own")
            changes["tools"] = (*own_tools, *mine)
        if self.tool_choice is not None:
            changes["tool_choice"] = self.tool_choice
        if self.active_tools is not None:
            changes["active_tools"] = [*self.active_tools, *self.tools]
        if self.approve_all:
            changes["require_tool_approval"] = True
        if self.instructions is not None:
            changes["instructions"] = self.instructions
        if not changes:
            return agent
        try:
            return agent.replace(**changes)
        except ConfigError as error:
            raise UsageError(error.message, hint=error.hint) from None


class ClientTool:
    """A tool that the client has: the run waits until it says what it gave."""

    kind: ClassVar[Literal["tool"]] = "tool"

    def __init__(self, name: str, spec: Mapping[str, Any]) -> None:
        self.name = name
        parameters = spec.get("parameters") or {"type": "object", "properties": {}}
        self.spec = ToolSpec(
            name=name, description=spec.get("description") or name, parameters=parameters
        )

    async def invoke(self, input: Any, ctx: Context, /) -> Any:
        return ctx.suspend({"tool": self.name, "args": input}, reason=CLIENT_TOOL)


def chosen(call: Call, body: AgentBody) -> Chosen:
    """Raises BadRequest."""
    trusted = call.options.trust_instructions
    told = body.instructions if body.instructions is not None else body.system
    choice = body.tool_choice
    if isinstance(choice, Mapping):
        choice = choice.get("toolName") or choice.get("name")
    if not isinstance(choice, str | None):
        raise _invalid("toolChoice", "neither a mode nor a tool")
    if body.max_steps is not None and body.max_steps < 1:
        raise _invalid("maxSteps", "1 or more")
    output = None if body.structured_output is None else body.structured_output.schema
    if output is not None and not output:
        output = None
    return Chosen(
        max_steps=body.max_steps,
        settings=_settings(body.model_settings),
        output=output,
        tools={n: _spec(n, tool) for n, tool in (body.client_tools or {}).items()},
        tool_choice=choice,
        active_tools=body.active_tools,
        approve_all=bool(body.require_tool_approval),
        instructions=told if trusted and isinstance(told, str) else None,
    )


def _settings(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    out = {_SETTINGS[k]: v for k, v in (given or {}).items() if k in _SETTINGS and v is not None}
    try:
        msgspec.convert(out, ModelSettings)
    except msgspec.ValidationError as error:
        raise _invalid("modelSettings", str(error)) from None
    return out or None


def _spec(name: str, tool: ClientToolSpec) -> Json:
    schema = tool.input_schema if tool.input_schema is not None else tool.parameters
    if isinstance(schema, str):
        try:
            schema = msgspec.json.decode(schema)
        except msgspec.DecodeError:
            raise _invalid(f"clientTools.{name}.inputSchema", "no JSON") from None
    if isinstance(schema, dict) and isinstance(schema.get("json"), dict):
        schema = schema["json"]
    if not isinstance(schema, dict | None):
        raise _invalid(f"clientTools.{name}.inputSchema", "no JSON schema")
    return {"description": tool.description, "parameters": schema}


def _invalid(field: str, message: str) -> BadRequest:
    return BadRequest("Invalid request body", [{"field": field, "message": message}])


def agent_of(call: Call, name: str) -> Agent[Any]:
    found = call.app.agents.get(name)
    if found is None:
        raise NotFound(f"Agent with name {name} not found")
    return found


async def begun(
    call: Call, name: str, body: AgentBody, sent: Json | None = None
) -> tuple[Run[Any], int]:
    """The run that a request begins or goes on with, driven, and the event it is new from.

    The same run id again is the same run: clients send again what they had no answer to.
    """
    agent, memory = agent_of(call, name), body.memory or MemoryRef()
    thread = memory.thread.id if isinstance(memory.thread, ThreadRef) else memory.thread
    thread = thread or body.thread_id or ""
    resource = call.owner(memory.resource or body.resource_id)
    await check_thread(call, thread)
    wanted = chosen(call, body)
    variant = wanted.applied(agent)
    if body.run_id and (known := call.live.running(body.run_id)) is not None:
        if known.name != name or known.resource != resource:
            raise NotFound("Run not found")
        return known, 0
    asked = _turns.asked(
        body.messages,
        instructions=call.options.trust_instructions,
        remembered=bool(thread) and agent.memory is not None,
    )
    if asked.results:
        found = await _waiting_for(call, name, asked.results, body.run_id, thread)
        if found is not None:
            return await answered(call, found[0], found[1])
        if not asked.messages:
            raise BadRequest("no run waits for these tool results", status=409)
    if not any(m.role == "user" for m in asked.messages):
        raise _invalid("messages", "nothing of a user is in it")
    given = request_context(body.request_context or {})
    kept = msgspec.to_builtins(wanted)
    if kept:
        given[_CHOSEN] = kept
    if sent:
        given[SENT] = sent
    if body.run_id:
        again = await _same(call, name, body.run_id, resource)
        if again is not None:
            return again, 0
    run = variant.run(
        asked.messages,
        thread=thread,  # without one nothing is remembered: no conversation is everybody's
        resource=resource,
        request_context=given or None,
        id=body.run_id or "",
    )
    if thread and isinstance(memory.thread, ThreadRef):
        await _describe(call, memory.thread, resource)
    return call.live.start(run), 0


async def _same(call: Call, name: str, id: str, resource: str) -> Run[Any] | None:
    if not valid_id(id):
        raise _invalid("runId", "1 to 200 characters without white space")
    if call.app.store is not None and (row := await call.app.store.get_run(id)) is not None:
        if (row.name, row.kind, row.resource) != (name, Agent.kind, resource):
            raise NotFound("Run not found")
        return await found_run(call, name, id)
    return None


def valid_id(id: str) -> bool:
    return 0 < len(id) <= 200 and id.isprintable() and not any(c.isspace() for c in id)


def new_id() -> str:
    return os.urandom(12).hex()


async def check_thread(call: Call, thread: str) -> None:
    """Raises NotFound for a conversation of another."""
    if call.resource is None or not thread or call.app.store is None:
        return
    known = await call.app.store.get_thread(thread)
    if known is not None and known.resource != call.resource:
        raise NotFound("Thread not found")


async def _describe(call: Call, wanted: ThreadRef, resource: str) -> None:
    """The title and the metadata of a thread that a run begins."""
    store = call.app.store
    if store is None or (wanted.title is None and wanted.metadata is None):
        return
    now = await store.claim_thread(wanted.id, resource)
    meta = {**now.meta, **(wanted.metadata or {})}
    title = now.title or wanted.title or ""
    await store.put_thread(msgspec.structs.replace(now, title=title, meta=meta))


async def found_run(call: Call, name: str, id: str) -> Run[Any]:
    """A run by its id, with what its client chose for it. Raises NotFound."""
    agent = agent_of(call, name)
    run = await call.live.find(id, name=name, resource=call.resource)
    kept = run.log.request_context.get(_CHOSEN)
    store = call.app.store
    if not kept or not run.rests or run.target is not agent or store is None:
        return run
    row = await store.get_run(id)
    assert row is not None
    variant = msgspec.convert(kept, Chosen).applied(agent)
    past = await read_run(store, row)
    thread = row.thread or ""
    return variant.load(row.id, row.input, thread=thread, resource=row.resource, past=past)


# Going on


async def _waiting_for(
    call: Call, name: str, results: Mapping[str, Any], id: str | None, thread: str
) -> tuple[Run[Any], dict[str, Any]] | None:
    """The run that waits for these results of the client's tools, and its answers by path."""
    ids = [id] if id else []
    ids += await call.live.waiting(name, resource=call.resource, thread=thread)
    for each in ids:
        try:
            run = await found_run(call, name, each)
        except NotFound:
            continue
        if not run.rests:
            continue
        pending = (await gathered(run)).pending
        answers = {
            path: results[about["toolCallId"]]
            for path, about in pending.items()
            if about["reason"] == CLIENT_TOOL and about.get("toolCallId") in results
        }
        if answers:
            return run, answers
    return None


async def answered(call: Call, run: Run[Any], answers: Mapping[str, Any]) -> tuple[Run[Any], int]:
    """The run going on with these answers by path, and the event from which it does."""
    after = len(run.log.events)
    for path, value in answers.items():
        if not run.rests:
            await run.rested()
        run = call.live.start(run.resume(value, path=path))
    return run, after


async def answer(
    call: Call, run: Run[Any], tool_call: str | None, value: Any, *, reason: str | None = None
) -> tuple[Run[Any], int]:
    """The run going on with the answer to a call of a tool; the same answer again is the same
    run. Raises NotFound, Conflict, SchemaError.
    """
    if not run.rests:
        return run, _since(run, value)
    speaker = await gathered(run)
    pending = {
        path: about
        for path, about in speaker.pending.items()
        if tool_call in (None, about.get("toolCallId")) and reason in (None, about["reason"])
    }
    if not pending:
        if run.status != "suspended" and tool_call is not None:
            return run, _since(run, value)
        raise NotFound(f'no call "{tool_call or ""}" waits in this run')
    if len(pending) > 1:
        raise Conflict("it waits for several calls", hint="name one with toolCallId")
    path, about = next(iter(pending.items()))
    if about["reason"] == APPROVAL and not isinstance(value, Mapping):
        raise SchemaError("the answer does not fit: an approval is an object with approved")
    return await answered(call, run, {path: value})


def _since(run: Run[Any], value: Any) -> int:
    """Where a run went on with this answer. Raises Conflict if it never did."""
    for n, event in enumerate(run.log.events):
        if isinstance(event.data, Resumed) and event.data.value == value:
            return n
    raise Conflict(f'run "{run.id}" does not wait for this', hint="the first answer counts")
