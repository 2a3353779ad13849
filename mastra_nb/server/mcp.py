"""An application as an MCP server: agents, workflows and tools, with resources and prompts.

Run one over stdio with `python -m mastra_nb.server.mcp module:app`.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import contextlib
import copy
import importlib
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import msgspec

from mastra_nb import __version__
from mastra_nb.agents import Agent
from mastra_nb.app import Mastra
from mastra_nb.config import Secret
from mastra_nb.context import Context
from mastra_nb.errors import (
    ConfigError,
    MastraError,
    MissingExtra,
    NotFound,
    RunSuspended,
    SchemaError,
    ToolError,
    close_matches,
)
from mastra_nb.messages import Message, Text
from mastra_nb.models import ModelRequest, Profile, Reply
from mastra_nb.runs import Run
from mastra_nb.schema import to_json
from mastra_nb.tools import Tool, ToolLike, call
from mastra_nb.workflows import Workflow

try:
    import mcp_types as types
    from mcp.server.lowlevel.server import NotificationOptions, Server
    from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
    from mcp.server.stdio import stdio_server
    from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
    from mcp.server.transport_security import TransportSecuritySettings
    from mcp.shared.exceptions import MCPError
    from mcp.shared.subscriptions import PromptsListChanged, ResourceUpdated, ToolsListChanged
    from mcp.shared.uri_template import UriTemplate
    from mcp_types.version import MODERN_PROTOCOL_VERSIONS

    from mastra_nb.server import _mcp_wire as _wire
    from mastra_nb.server._mcp_wire import Asked
except ModuleNotFoundError as error:
    raise MissingExtra("MCP needs its SDK", hint='pip install "mastra-nb[mcp]"') from error

Complete = Sequence[str] | Callable[[str], Any]

_WAITING = 1000
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class ClientModel:
    """The model of the client that called: what an agent or a tool asks of it goes there.

    Raises ToolError if the client has none.
    """

    kind: ClassVar[Literal["model"]] = "model"

    def __init__(self, *, max_tokens: int = 1000, key: str = "model") -> None:
        self.name = "mcp/client"
        self.profile = Profile()
        self.max_tokens = max_tokens
        self.key = key

    async def invoke(self, request: ModelRequest, ctx: Context, /) -> Reply:
        said = [m for m in request.messages if m.role in ("user", "assistant")]
        wanted = {
            "messages": [
                {"role": m.role, "content": _wire.dumped(_wire.block(part))}
                for m in said
                for part in m.parts
            ],
            "maxTokens": request.settings.max_tokens or self.max_tokens,
        }
        system = "\n".join(m.text for m in request.messages if m.role == "system")
        if system:
            wanted["systemPrompt"] = system
        if request.settings.temperature is not None:
            wanted["temperature"] = request.settings.temperature
        answer = ctx.suspend({"key": self.key, "params": wanted}, reason="sampling")
        blocks = answer["content"]
        blocks = blocks if isinstance(blocks, list) else [blocks]
        text = "".join(b.get("text", "") for b in blocks)
        message = Message(role="assistant", parts=(Text(text=text),))
        return Reply(message=message, finish="stop", model=answer.get("model", ""))


def client_roots(ctx: Context, *, key: str = "roots") -> list[str]:
    """The URIs of the folders that the client lets its servers work in."""
    answer = ctx.suspend({"key": key}, reason="roots")
    return [root["uri"] for root in answer["roots"]]


class _Resource(msgspec.Struct, frozen=True, kw_only=True):
    uri: str
    name: str
    description: str
    mime: str
    content: str | bytes | Callable[..., Any]
    complete: Mapping[str, Complete]
    template: Any = None


class _Prompt(msgspec.Struct, frozen=True, kw_only=True):
    tool: Tool[Any, Any]
    complete: Mapping[str, Complete]


class MCPServer:
    """The agents of `app` as tools "ask_<name>", its workflows as tools "run_<name>", its tools as
    they are; or those of them that are named. A workflow's steps are told as progress.

    A tool's `ctx.suspend(payload, schema=…)` asks the client's user: `payload["message"]` is what
    is shown. So does the approval of a tool. `ctx.emit(Noted(…))` is a log line at the client,
    `ctx.note("progress", {"progress": 1, "total": 2, "message": …})` is progress,
    `ctx.note("poll")` ends the response stream so that the client polls for the rest of a long
    call.
    """

    def __init__(
        self,
        app: Mastra,
        *,
        name: str = "mastra_nb",
        version: str = __version__,
        instructions: str | None = None,
        agents: Sequence[str] | None = None,
        tools: Sequence[str] | None = None,
        workflows: Sequence[str] | None = None,
    ) -> None:
        self.app = app
        self._workflows = workflows
        self._agents = agents
        self._tool_names = tools
        self._resources: dict[str, _Resource] = {}
        self._prompts: dict[str, _Prompt] = {}
        self._waiting: collections.OrderedDict[str, Run[Any]] = collections.OrderedDict()
        self._bus = InMemorySubscriptionBus()
        self._sdk: Server[Any] = Server(
            name,
            version=version,
            instructions=instructions,
            get_tool_input_schema=self._schema_of,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_list_resources=self._list_resources,
            on_list_resource_templates=self._list_templates,
            on_read_resource=self._read_resource,
            on_subscribe_resource=self._subscribe,
            on_unsubscribe_resource=self._unsubscribe,
            on_subscriptions_listen=ListenHandler(self._bus),
            on_list_prompts=self._list_prompts,
            on_get_prompt=self._get_prompt,
            on_completion=self._complete,
        )
        self._sdk.add_request_handler(
            "logging/setLevel", types.SetLevelRequestParams, self._set_level
        )
        self._sdk.middleware.append(
            RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience=name)
        )

    # --- what it offers ---------------------------------------------------------------------

    def add_resource(
        self,
        uri: str,
        content: str | bytes | Callable[..., Any],
        *,
        name: str = "",
        description: str = "",
        mime: str = "",
        complete: Mapping[str, Complete] | None = None,
    ) -> None:
        """Text, bytes, or a function that gives either; a URI with {names} is a template, whose
        function gets the names. `complete` gives values of a name: a list, or a function of the
        beginning of one. Raises ConfigError.
        """
        template = UriTemplate.parse(uri) if UriTemplate.is_template(uri) else None
        if template is not None and not callable(content):
            raise ConfigError(f'the resource "{uri}" has names to fill in', hint="give a function")
        if not mime:
            mime = "application/octet-stream" if isinstance(content, bytes) else "text/plain"
        self._resources[uri] = _Resource(
            uri=uri,
            name=name or getattr(content, "__name__", "") or uri,
            description=description or (getattr(content, "__doc__", "") or "" if template else ""),
            mime=mime,
            content=content,
            complete=complete or {},
            template=template,
        )

    def add_prompt(
        self,
        fn: Callable[..., Any],
        *,
        name: str = "",
        description: str = "",
        complete: Mapping[str, Complete] | None = None,
    ) -> None:
        """A function of its arguments that gives text, a Message or a list of Messages."""
        tool = Tool(fn, name=name, description=description)
        self._prompts[tool.name] = _Prompt(tool=tool, complete=complete or {})

    def tools(self) -> dict[str, ToolLike]:
        """What can be called, by name. Raises NotFound for a name that is not there."""
        app = self.app
        agents = [*app.agents] if self._agents is None else self._agents
        names = [*app.tools] if self._tool_names is None else self._tool_names
        found = {name: app.get_tool(name) for name in names}
        for agent in map(app.get_agent, agents):
            asked = _AskAgent(agent)
            found[asked.name] = asked
        workflows = [*app.workflows] if self._workflows is None else self._workflows
        for workflow in map(app.get_workflow, workflows):
            run = _RunWorkflow(workflow)
            found[run.name] = run
        return found

    async def tools_changed(self) -> None:
        await self._bus.publish(ToolsListChanged())

    async def prompts_changed(self) -> None:
        await self._bus.publish(PromptsListChanged())

    async def resource_changed(self, uri: str) -> None:
        await self._bus.publish(ResourceUpdated(uri=uri))

    # --- how it is reached ------------------------------------------------------------------

    async def serve_stdio(self) -> None:
        """Until the client closes our stdin. What code prints goes to stderr meanwhile."""
        options = self._sdk.create_initialization_options(NotificationOptions())
        async with stdio_server() as (read, write):
            await self._sdk.run(read, write, options)

    def http_app(
        self,
        path: str = "/mcp",
        *,
        token: str | Secret | None = None,
        hosts: Sequence[str] = (),
        json_response: bool = False,
    ) -> Any:
        """An ASGI application; mount it, or give it to uvicorn.

        Requests must name a loopback host or one of `hosts` as their Host and Origin (against
        DNS rebinding), and bring `token`, if there is one, as "Authorization: Bearer …".
        """
        names = [*_LOOPBACK, *hosts]
        app = self._sdk.streamable_http_app(
            streamable_http_path=path,
            json_response=json_response,
            event_store=_wire.Events(),
            retry_interval=500,
            transport_security=TransportSecuritySettings(
                allowed_hosts=[*names, *(f"{n}:*" for n in names)],
                allowed_origins=[
                    f"{scheme}://{n}{port}"
                    for n in names
                    for scheme in ("http", "https")
                    for port in ("", ":*")
                ],
            ),
        )
        app.add_middleware(_wire.Gate, token=token)
        return app

    # --- tools ------------------------------------------------------------------------------

    def _schema_of(self, name: str) -> Mapping[str, Any] | None:
        tool = self.tools().get(name)
        return tool.spec.parameters if tool is not None else None

    async def _list_tools(self, asked: Asked, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=name, description=t.spec.description, input_schema=t.spec.parameters
                )
                for name, t in self.tools().items()
            ],
            ttl_ms=0,
            cache_scope="private",
        )

    async def _call_tool(
        self, asked: Asked, params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        tools = self.tools()
        if params.name not in tools:
            about = close_matches(params.name, tools)
            raise MCPError(types.INVALID_PARAMS, f'there is no tool "{params.name}"; {about}')
        tool = tools[params.name]
        try:
            output = await self._perform(tool, params.arguments or {}, asked, params)
        except MCPError:
            raise
        except Exception as error:
            text = types.TextContent(type="text", text=_wire.told(error, params.name))
            return types.CallToolResult(content=[text], is_error=True)
        if isinstance(output, types.InputRequiredResult):
            return output
        return types.CallToolResult(
            content=_wire.blocks(output),
            structured_content=output if _wire.is_plain_dict(output) else None,
        )

    async def _perform(self, target: Any, args: Any, asked: Asked, params: Any) -> Any:
        """The output of a run, or what has to be asked before it can go on."""
        run = self._run_of(target, args, params)
        modern = asked.protocol_version in MODERN_PROTOCOL_VERSIONS
        answers: dict[str, Any] = dict(params.input_responses or {})
        # What a call that goes on was told before is not told again.
        told = run.log.events[-1:] if params.request_state is not None else []
        last = max(((e.seq, e.n) for e in told), default=(0, 0))
        while True:
            try:
                async for event in run.events():
                    if (event.seq, event.n) > last:
                        last = event.seq, event.n
                        await _wire.forward(event, asked, run.target)
                return to_json(await run)
            except RunSuspended:
                waits = _wire.by_key(run.pending)
                requests = {k: _wire.request(s, target.name) for k, s in waits.items()}
                _wire.need(requests, asked, modern)
            key = next((k for k in waits if k in answers), "") if modern else next(iter(waits))
            if not key:
                return self._ask(run, requests)
            response = answers.pop(key) if modern else await _wire.sent(requests[key], asked)
            try:
                run = run.resume(
                    _wire.value(waits[key], response, target.name), path=waits[key].path
                )
            except SchemaError:
                # It still waits: it is asked for again, where that can be done.
                if not modern:
                    raise

    def _run_of(self, target: Any, args: Any, params: Any) -> Run[Any]:
        state = params.request_state
        if state is None:
            if isinstance(target, _AskAgent | _RunWorkflow):
                return target.run(args)
            # A tool's run belongs to no agent that could load it from the store again.
            services = copy.copy(self.app.services)
            services.store = None
            return Run(target, args, services=services)
        run = self._waiting.get(state)
        if run is None:
            raise MCPError(types.INVALID_PARAMS, "this call has ended, or was forgotten: ask anew")
        return run

    def _ask(self, run: Run[Any], requests: dict[str, Any]) -> types.InputRequiredResult:
        self._waiting[run.id] = run
        self._waiting.move_to_end(run.id)
        while len(self._waiting) > _WAITING:
            self._waiting.popitem(last=False)
        return types.InputRequiredResult(input_requests=requests, request_state=run.id)

    # --- resources and prompts --------------------------------------------------------------

    async def _list_resources(self, asked: Asked, params: Any) -> types.ListResourcesResult:
        return types.ListResourcesResult(
            resources=[
                types.Resource(
                    uri=r.uri, name=r.name, description=r.description or None, mime_type=r.mime
                )
                for r in self._resources.values()
                if r.template is None
            ],
            ttl_ms=0,
            cache_scope="private",
        )

    async def _list_templates(self, asked: Asked, params: Any) -> types.ListResourceTemplatesResult:
        return types.ListResourceTemplatesResult(
            resource_templates=[
                types.ResourceTemplate(
                    uri_template=r.uri,
                    name=r.name,
                    description=r.description or None,
                    mime_type=r.mime,
                )
                for r in self._resources.values()
                if r.template is not None
            ],
            ttl_ms=0,
            cache_scope="private",
        )

    async def _read_resource(
        self, asked: Asked, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        uri = str(params.uri)
        found, names = self._find_resource(uri)
        try:
            made = await call(found.content, names) if callable(found.content) else found.content
        except Exception as error:
            raise MCPError(types.INTERNAL_ERROR, _wire.told(error, uri), {"uri": uri}) from None
        contents: types.TextResourceContents | types.BlobResourceContents
        if isinstance(made, bytes):
            blob = base64.b64encode(made).decode()
            contents = types.BlobResourceContents(uri=uri, mime_type=found.mime, blob=blob)
        else:
            text = made if isinstance(made, str) else _wire.json_text(to_json(made))
            contents = types.TextResourceContents(uri=uri, mime_type=found.mime, text=text)
        return types.ReadResourceResult(contents=[contents], ttl_ms=0, cache_scope="private")

    def _find_resource(self, uri: str) -> tuple[_Resource, dict[str, Any]]:
        fixed = self._resources.get(uri)
        if fixed is not None and fixed.template is None:
            return fixed, {}
        for found in self._resources.values():
            names = found.template.match(uri) if found.template is not None else None
            if names is not None:
                return found, names
        raise MCPError(types.INVALID_PARAMS, f'there is no resource "{uri}"', {"uri": uri})

    async def _subscribe(self, asked: Asked, params: Any) -> types.EmptyResult:
        """Before 2026: changes are told over `resource_changed` to newer clients only."""
        self._find_resource(str(params.uri))
        return types.EmptyResult()

    async def _unsubscribe(self, asked: Asked, params: Any) -> types.EmptyResult:
        return types.EmptyResult()

    async def _list_prompts(self, asked: Asked, params: Any) -> types.ListPromptsResult:
        return types.ListPromptsResult(
            prompts=[_wire.prompt(p.tool) for p in self._prompts.values()],
            ttl_ms=0,
            cache_scope="private",
        )

    async def _get_prompt(
        self, asked: Asked, params: types.GetPromptRequestParams
    ) -> types.GetPromptResult | types.InputRequiredResult:
        prompt = self._prompts.get(params.name)
        if prompt is None:
            about = close_matches(params.name, self._prompts)
            raise MCPError(types.INVALID_PARAMS, f'there is no prompt "{params.name}"; {about}')
        try:
            made = await self._perform(prompt.tool, params.arguments or {}, asked, params)
        except MastraError as error:
            raise MCPError(types.INVALID_PARAMS, _wire.told(error, params.name)) from None
        if isinstance(made, types.InputRequiredResult):
            return made
        said = made if isinstance(made, list) else [made]
        messages = [m for one in said for m in _wire.prompt_messages(one)]
        return types.GetPromptResult(description=prompt.tool.spec.description, messages=messages)

    async def _complete(
        self, asked: Asked, params: types.CompleteRequestParams
    ) -> types.CompleteResult:
        ref, begun = params.ref, params.argument.value
        known: Mapping[str, Complete] = {}
        if isinstance(ref, types.PromptReference) and ref.name in self._prompts:
            known = self._prompts[ref.name].complete
        elif isinstance(ref, types.ResourceTemplateReference) and ref.uri in self._resources:
            known = self._resources[ref.uri].complete
        source = known.get(params.argument.name, ())
        if callable(source):
            found = source(begun)
            values = [*(await found if isinstance(found, Awaitable) else found)]
        else:
            values = [v for v in source if v.startswith(begun)]
        more = len(values) > 100
        done = types.Completion(values=values[:100], total=len(values), has_more=more)
        return types.CompleteResult(completion=done)

    async def _set_level(self, asked: Asked, params: Any) -> types.EmptyResult:
        asked.session._connection.state["level"] = params.level
        return types.EmptyResult()


class _AskAgent:
    kind: ClassVar[Literal["agent"]] = "agent"

    def __init__(self, agent: Agent[Any]) -> None:
        self.agent = agent
        inner = agent.as_tool().spec
        self.spec = msgspec.structs.replace(inner, name=f"ask_{inner.name}"[:64])
        self.name = self.spec.name

    async def invoke(self, input: Any, ctx: Context, /) -> Any:
        return await self.agent.as_tool().invoke(input, ctx)

    def run(self, args: Any) -> Run[Any]:
        prompt = args.get("prompt")
        if not isinstance(prompt, str):
            raise ToolError(f'"{self.name}" needs an argument "prompt": the task, as text')
        return self.agent.run(prompt)


class _RunWorkflow:
    kind: ClassVar[Literal["workflow"]] = "workflow"

    def __init__(self, workflow: Workflow[Any]) -> None:
        self._tool = workflow.as_tool()
        self.spec = msgspec.structs.replace(
            self._tool.spec, name=f"run_{self._tool.spec.name}"[:64]
        )
        self.name = self.spec.name

    async def invoke(self, input: Any, ctx: Context, /) -> Any:
        return await self._tool.invoke(input, ctx)

    def run(self, args: Any) -> Run[Any]:
        return self._tool.workflow.run(self._tool.input_of(args))


def load(where: str) -> MCPServer:
    """The server of "module:name": an MCPServer, or a Mastra that is made one.

    Raises ConfigError, NotFound.
    """
    module, _, name = where.partition(":")
    sys.path.insert(0, os.getcwd())  # noqa: PTH109
    # What the module prints while it is imported must not be taken for messages.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            space = vars(importlib.import_module(module))
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise
            raise NotFound(
                f'there is no module "{module}" here', hint="python -m mastra_nb.server.mcp m:app"
            ) from None
    found = space.get(name or "app")
    if isinstance(found, Mastra):
        found = MCPServer(found)
    if not isinstance(found, MCPServer):
        apps = [n for n, v in space.items() if isinstance(v, (Mastra, MCPServer))]
        raise NotFound(
            f'"{module}" has no application "{name or "app"}"',
            hint=close_matches(name or "app", apps) or f"app = Mastra(agents=[…]) in {module}.py",
        )
    return found


def main(args: Sequence[str] = ()) -> None:
    given = [*args] or sys.argv[1:]
    logging.basicConfig(stream=sys.stderr)
    try:
        if len(given) != 1:
            raise ConfigError(
                "no application is named", hint="python -m mastra_nb.server.mcp m:app"
            )
        asyncio.run(load(given[0]).serve_stdio())
    except MastraError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    # By its own name: the applications that are loaded import this module, not "__main__".
    importlib.import_module("mastra_nb.server.mcp").main()
