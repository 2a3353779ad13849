"""Tools, resources and prompts of MCP servers."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import re
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec

from mastra_nb import portal
from mastra_nb.config import get_logger
from mastra_nb.context import Context
from mastra_nb.errors import (
    NotFound,
    SchemaError,
    Suspend,
    ToolArgsError,
    ToolError,
    ToolFailed,
    close_matches,
)
from mastra_nb.events import Noted
from mastra_nb.mcp import content
from mastra_nb.mcp.connection import Call, Connection, Handlers, need_sdk, pages
from mastra_nb.mcp.servers import Http, Server, Stdio, needs_approval, parse
from mastra_nb.messages import Message, Part, ToolSpec
from mastra_nb.models import ModelRequest
from mastra_nb.schema import parse_json, to_json
from mastra_nb.services import ambient
from mastra_nb.storage import Store
from mastra_nb.tools import call as call_function

__all__ = ["Elicitation", "Http", "MCPClient", "MCPTool", "Stdio"]

DOCS = "mcp.tool"


class Elicitation(msgspec.Struct, frozen=True, kw_only=True):
    """What a server wants to know of a person: fields (`schema`), or a visit to `url`."""

    server: str
    tool: str
    message: str
    schema: dict[str, Any] = {}
    url: str = ""


class MCPClient:
    """MCP servers by name; `Agent(tools=[client])` has all their tools.

    A server is a Stdio, an Http or a dict as in mcp.json, whose whole content is taken too.
    Nothing is started before it is needed. `elicit` answers what a server asks of a person: a
    dict accepts, None declines; without it the run of an agent suspends and `run.resume({
    "action": "accept", "content": {…}})` answers. `sample` answers what a server asks of a
    model: it gets a ModelRequest and gives text, a Message or a Reply; without it servers are
    told that there is none. Either may be async. `roots` are folders or URIs they are told of.

    Raises ConfigError for a server that cannot be, MissingExtra without the MCP SDK.
    """

    def __init__(
        self,
        servers: Mapping[str, Any],
        *,
        elicit: Callable[[Elicitation], Any] | None = None,
        sample: Callable[[ModelRequest], Any] | None = None,
        roots: Sequence[str | Path] = (),
    ) -> None:
        need_sdk()
        self.servers: dict[str, Server] = parse(servers)
        self._seen: dict[str, str] = {}
        handlers = Handlers()
        # Not of `self`: a client that nobody holds any more is collected and closed.
        handlers.elicit = functools.partial(_elicited, elicit)
        handlers.sample = functools.partial(_sampled, sample) if sample is not None else None
        handlers.roots = functools.partial(_roots, tuple(roots)) if roots else None
        self._connections = {n: Connection(n, s, handlers) for n, s in self.servers.items()}
        weakref.finalize(self, _drop, tuple(self._connections.values())).atexit = False

    def __repr__(self) -> str:
        return f"<MCPClient {', '.join(f'{n}: {s.shown}' for n, s in self.servers.items())}>"

    async def tools(self, server: str | None = None) -> list[MCPTool]:
        """The tools that are offered, of one server or of all; connects where that is needed.

        Raises ConfigError, ToolTimeout or ToolError for a server that cannot be reached.
        """
        names = [server] if server is not None else [*self.servers]
        found = await asyncio.gather(*(self._of(name) for name in names))
        return [tool for tools in found for tool in tools]

    list_tools = tools

    def toolset(self, server: str | None = None) -> dict[str, MCPTool]:
        """`tools`, by name. Blocks."""
        return {tool.name: tool for tool in portal.run(self.tools(server))}

    async def call(
        self, server: str, tool: str, args: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        """The output of a tool, without an agent and without approval. Raises as MCPTool does."""
        return await self._call(server, tool, args or {}, Call(None, tool), **options)

    async def resources(self, server: str) -> list[dict[str, Any]]:
        """Each with "uri", "name" and, where given, "description", "mimeType", …"""
        found = await self._ask(
            server, "resources/list", lambda c: pages(c.list_resources, "resources")
        )
        return [_plain(r) for r in found]

    async def resource_templates(self, server: str) -> list[dict[str, Any]]:
        found = await self._ask(
            server,
            "resources/templates/list",
            lambda c: pages(c.list_resource_templates, "resource_templates"),
        )
        return [_plain(r) for r in found]

    async def read_resource(self, server: str, uri: str) -> list[Part]:
        found = await self._ask(server, f"read {uri}", lambda c: c.read_resource(uri))
        return [content.resource(c) for c in found.contents]

    async def prompts(self, server: str) -> list[dict[str, Any]]:
        found = await self._ask(server, "prompts/list", lambda c: pages(c.list_prompts, "prompts"))
        return [_plain(p) for p in found]

    async def prompt(
        self, server: str, name: str, args: Mapping[str, str] | None = None
    ) -> list[Message]:
        """The messages of a prompt, ready for `agent.run`."""
        given = dict(args or {})
        found = await self._ask(server, f"prompt {name}", lambda c: c.get_prompt(name, given))
        return [content.message(m.role, [m.content]) for m in found.messages]

    async def complete(
        self, server: str, *, prompt: str = "", uri: str = "", argument: str, value: str
    ) -> list[str]:
        """How the value of an argument of a prompt, or of a template's URI, may go on."""
        from mcp_types import PromptReference, ResourceTemplateReference

        ref: PromptReference | ResourceTemplateReference = (
            PromptReference(name=prompt) if prompt else ResourceTemplateReference(uri=uri)
        )
        given = {"name": argument, "value": value}
        found = await self._ask(server, "complete", lambda c: c.complete(ref, given))
        return [*found.completion.values]

    async def info(self, server: str) -> dict[str, Any]:
        """Its "name", "version", "protocol", "instructions" and "capabilities"."""

        async def told(client: Any) -> dict[str, Any]:
            about = client.server_info
            return {
                "name": about.name if about is not None else server,
                "version": about.version if about is not None else "",
                "protocol": client.protocol_version,
                "instructions": client.instructions or "",
                "capabilities": _plain(client.server_capabilities),
            }

        found: dict[str, Any] = await self._ask(server, "info", told)
        return found

    async def accept(self, tool: str) -> None:
        """Take the description that a tool has now as the one that is known.

        Raises NotFound.
        """
        known = {t.name: t for t in await self.tools()}
        if tool not in known:
            raise NotFound(f'there is no tool "{tool}"', hint=close_matches(tool, known))
        found = known[tool]
        self._seen[found.key] = found.digest
        if (store := ambient().store) is not None:
            await store.put(DOCS, found.key, found.digest)

    async def close(self) -> None:
        """End all connections and processes; the next use starts them again."""
        await asyncio.gather(*(c.close() for c in self._connections.values()))

    def close_sync(self) -> None:
        """`close`. Blocks."""
        portal.run(self.close())

    async def __aenter__(self) -> MCPClient:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def _connection(self, server: str) -> Connection:
        if server not in self._connections:
            raise NotFound(
                f'there is no MCP server "{server}"', hint=close_matches(server, self.servers)
            )
        return self._connections[server]

    async def _ask(self, server: str, what: str, send: Callable[[Any], Awaitable[Any]]) -> Any:
        options = self._connection(server)
        return await options.request(what, send, timeout=options.server.timeout)

    async def _of(self, server: str) -> list[MCPTool]:
        connection = self._connection(server)
        found = await connection.tools()
        return [
            MCPTool(self, server, tool) for tool in found if connection.server.offers(tool.name)
        ]

    async def _call(
        self, server: str, tool: str, args: dict[str, Any], call: Call, timeout: float | None = None
    ) -> Any:
        connection = self._connection(server)

        async def report(
            progress: float, total: float | None = None, message: str | None = None
        ) -> None:
            if call.ctx is not None and not call.ctx.over:
                value = {"server": server, "tool": tool, "progress": progress}
                call.ctx.note("mcp.progress", {**value, "total": total, "message": message})

        result = await connection.request(
            tool,
            lambda client: client.call_tool(tool, args, progress_callback=report),
            call=call,
            timeout=timeout or connection.server.timeout,
        )
        if result.is_error:
            said = content.text(result.content) or "no reason given"
            raise ToolFailed(f'tool "{tool}" of MCP server "{server}" failed: {said}')
        return content.output(result)

    async def _has_changed(self, tool: MCPTool, store: Store | None) -> bool:
        known = self._seen.get(tool.key)
        if known is None and store is not None:
            known = await store.get(DOCS, tool.key)
            if known is None:
                await store.put(DOCS, tool.key, tool.digest)
        self._seen[tool.key] = known = known or tool.digest
        return known != tool.digest


class MCPTool:
    """A tool of a server, as agents have them."""

    kind: ClassVar[Literal["tool"]] = "tool"

    def __init__(self, client: MCPClient, server: str, tool: Any) -> None:
        self._client = client
        self.server = server
        self.remote = tool.name
        self.key = f"{server}/{tool.name}"
        options = client.servers[server]
        prefix = f"{server}_" if options.prefix is None else options.prefix
        parameters = {"type": "object", **tool.input_schema}
        self.spec = ToolSpec(
            name=tool_name(prefix + tool.name),
            description=tool.description or tool.title or tool.name,
            parameters=parameters,
        )
        self.name = self.spec.name
        self.annotations: dict[str, Any] = _plain(tool.annotations) if tool.annotations else {}
        told = [tool.name, tool.title, tool.description, tool.input_schema]
        self.digest = hashlib.sha256(msgspec.json.encode(told, order="sorted")).hexdigest()

    def __repr__(self) -> str:
        return f"<MCPTool {self.name}>"

    async def invoke(self, input: Any, ctx: Context, /) -> Any:
        """`input` is a JSON object, or the JSON text of one. Returns a JSON value: structured
        content, text, or a list of parts where there are images and the like.

        Raises ToolArgsError, ToolTimeout, ToolFailed; ToolError if it was denied.
        """
        args = self._arguments(input)
        if await self._client._has_changed(self, ctx.services.store):
            text = (
                f'the description of MCP tool "{self.key}" is not what it was when it was first '
                f'seen; look at it, then: await client.accept("{self.name}")'
            )
            ctx.emit(Noted(level="warning", text=text))
        approval = self._client.servers[self.server].require_approval
        if await needs_approval(approval, self.remote, args):
            args = self._approved(args, ctx)
        return await self._client._call(self.server, self.remote, args, Call(ctx, self.remote))

    def _arguments(self, input: Any) -> dict[str, Any]:
        try:
            value = parse_json(input or "{}") if isinstance(input, str) else input
        except SchemaError as error:
            raise ToolArgsError(
                f'the arguments of "{self.name}" are wrong: {error.message}'
            ) from None
        if not isinstance(value, dict):
            raise ToolArgsError(f'the arguments of "{self.name}" must be a JSON object')
        return value

    def _approved(self, args: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """Waits for a person. An approval counts for this call, these arguments and the tool as
        it was described: if that changed since, it is asked for again.
        """
        shown = to_json(args)
        raw = msgspec.json.encode([self.name, self.digest, shown], order="sorted")
        digest = hashlib.sha256(raw).hexdigest()
        payload = {"tool": self.name, "args": shown, "digest": digest}
        about = self.spec.description
        n = 0
        while True:
            n += 1
            asked = ctx.run.past.asked.get(ctx.path if n == 1 else f"{ctx.path}~{n}")
            answer = ctx.suspend(
                {**payload, "description": about},
                schema=_approval_schema(self.spec.parameters),
                reason="approval",
            )
            if asked is not None and asked.payload.get("digest") == digest:
                break
        if not answer["approved"]:
            why = answer.get("reason") or "no reason given"
            raise ToolError(f'the user denied the call of "{self.name}": {why}', code="tool.denied")
        return self._arguments(answer["args"]) if "args" in answer else args


def tool_name(name: str) -> str:
    """One that every provider takes: 1 to 64 letters, digits, "_" or "-"."""
    short = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    if len(short) <= 64 and short == name:
        return name
    mark = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{short[:57]}_{mark}"


def _approval_schema(parameters: dict[str, Any]) -> dict[str, Any]:
    """Of the answer; `args` there are used instead."""
    return {
        "type": "object",
        "properties": {
            "approved": {"type": "boolean"},
            "reason": {"type": "string", "description": "told to the model when denied"},
            "args": {k: v for k, v in parameters.items() if k not in ("$defs", "$schema", "$id")},
        },
        "required": ["approved"],
        "additionalProperties": False,
        **({"$defs": parameters["$defs"]} if "$defs" in parameters else {}),
    }


async def _elicited(
    callback: Callable[[Elicitation], Any] | None,
    connection: Connection,
    call: Call | None,
    params: Any,
) -> Any:
    """Through the callback, or by suspending the run that the call belongs to."""
    from mcp_types import ElicitResult

    schema = _plain(getattr(params, "requested_schema", None) or {})
    question = Elicitation(
        server=connection.name,
        tool=call.tool if call is not None else "",
        message=params.message,
        schema=schema,
        url=str(getattr(params, "url", "") or ""),
    )
    if callback is not None:
        asked = _given(callback, question)
        given = await (call.wait(asked) if call is not None else asked)
        if given is None or given is False:
            return ElicitResult(action="decline")
        fields = _with_defaults(given, schema) if isinstance(given, dict) else None
        return ElicitResult(action="accept", content=fields if not question.url else None)
    if call is None or call.ctx is None:
        get_logger("mastra_nb.mcp").warning(
            'MCP server "%s" asks "%s", and there is nobody to answer: MCPClient(elicit=…)',
            connection.name,
            params.message,
        )
        return ElicitResult(action="cancel")
    try:
        answer = call.ctx.suspend(
            msgspec.structs.asdict(question),
            schema=_answer_schema(schema, question.url),
            reason="elicitation",
        )
    except Suspend as suspended:
        call.suspend = suspended
        assert call.task is not None
        call.task.cancel()
        return ElicitResult(action="cancel")
    fields = answer.get("content")
    if answer["action"] == "accept" and not question.url:
        fields = _with_defaults(fields or {}, schema)
    return ElicitResult(action=answer["action"], content=fields)


def _answer_schema(schema: dict[str, Any], url: str) -> dict[str, Any]:
    wanted = {} if url else {"content": {k: v for k, v in schema.items() if k != "$schema"}}
    return {
        "type": "object",
        "properties": {"action": {"enum": ["accept", "decline", "cancel"]}, **wanted},
        "required": ["action"],
        "additionalProperties": False,
    }


def _with_defaults(given: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = schema.get("properties") or {}
    defaults = {k: p["default"] for k, p in properties.items() if "default" in p}
    return {**defaults, **given}


async def _sampled(callback: Callable[[ModelRequest], Any], params: Any) -> Any:
    from mcp_types import CreateMessageResult, TextContent

    text, model = content.answer_text(await _given(callback, content.model_request(params)))
    said = TextContent(type="text", text=text)
    return CreateMessageResult(role="assistant", content=said, model=model, stop_reason="endTurn")


async def _given(callback: Callable[[Any], Any], question: Any) -> Any:
    given = await call_function(functools.partial(callback, question), {})
    return await given if inspect.isawaitable(given) else given


def _roots(roots: Sequence[str | Path]) -> Any:
    from mcp_types import ListRootsResult, Root

    uris = [str(r) if "://" in str(r) else Path(r).resolve().as_uri() for r in roots]
    return ListRootsResult(roots=[Root.model_validate({"uri": uri}) for uri in uris])


def _drop(connections: Sequence[Connection]) -> None:
    for connection in connections:
        connection.close_soon()


def _plain(model: Any) -> dict[str, Any]:
    if isinstance(model, dict):
        return model
    found: dict[str, Any] = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    return found
