"""Agents: a model with instructions, tools and memory."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, cast

import msgspec

from mastra_nb import plugins
from mastra_nb.context import Context, current
from mastra_nb.errors import ConfigError, ToolArgsError, close_matches
from mastra_nb.filters import changed
from mastra_nb.language import Output, Prompt, TypedCodec
from mastra_nb.language import prompt_messages as prompt_messages
from mastra_nb.limits import Limits, Meter, within
from mastra_nb.loop import PROCESSOR_RETRIES, Plan, StopWhen, run_turn
from mastra_nb.memory._owner import owned
from mastra_nb.messages import Message, ToolSpec
from mastra_nb.models import Model, ModelLike, ModelSettings, ready, resolve
from mastra_nb.processors import Hooks, Processor, Turn, chosen, made, with_stage
from mastra_nb.runs import Run
from mastra_nb.schema import Schema, clean, to_json
from mastra_nb.services import Services, ambient, store_in_memory
from mastra_nb.tools import Tool, ToolApproval, ToolLike, gathered, toolset, with_approval

if TYPE_CHECKING:
    from mastra_nb.memory.memory import Memory

T = TypeVar("T")

_PROMPT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"prompt": {"type": "string", "description": "the task, in full"}},
    "required": ["prompt"],
}


class Agent(Generic[T]):
    """An agent; calling it, or `run`, gives a lazy Run of its answer.

    `model` is "provider/model", a Model, or a sequence of either (a fallback chain); None takes
    the settings' model. `tools` are functions, Tools or other Agents. `output` is the type of
    the answer (None: text). `memory` True remembers with defaults; `thread` names the
    conversation that runs belong to unless they name another, `resource` whom it belongs to: what
    belongs to another is not found, whatever is asked. `limits` are budgets of a run.
    `instructions`, `model`, `tools` and `active_tools` may be functions of the Context.

    `handoffs` are agents that may take over the conversation. `active_tools` names those of the
    tools that the model is told of; `tool_choice` ("auto", "none", "required" or a tool's name)
    holds for the first step. `stop_when` is one or several predicates over the finished steps.
    `structuring_model` makes the typed answer of one in words. `prepare_step`,
    `before_tool_call` and `after_tool_call` are those of `processors.Hooks`, and come after the
    processors. `require_tool_approval` is True, or a function of a tool's name and arguments.

    Raises ConfigError for a definition that cannot work.
    """

    kind: ClassVar[Literal["agent"]] = "agent"

    def __init__(
        self,
        *,
        name: str,
        instructions: str | Callable[[Context], Any] = "",
        model: ModelLike | Callable[[Context], Any] | None = None,
        tools: Sequence[Any] | Callable[[Context], Any] = (),
        output: type[T] | None = None,
        memory: Memory | bool | None = None,
        thread: str = "",
        resource: str = "",
        processors: Sequence[Processor] = (),
        limits: Limits | None = None,
        max_steps: int | None = None,
        settings: ModelSettings | None = None,
        tool_choice: str = "auto",
        description: str = "",
        services: Services | None = None,
        active_tools: Sequence[str] | Callable[[Context], Any] | None = None,
        tool_call_concurrency: int = 10,
        stop_when: StopWhen | Sequence[StopWhen] = (),
        structuring_model: ModelLike | None = None,
        handoffs: Sequence[Agent[Any]] = (),
        require_tool_approval: ToolApproval = False,
        prepare_step: Callable[..., Any] | None = None,
        before_tool_call: Callable[..., Any] | None = None,
        after_tool_call: Callable[..., Any] | None = None,
        max_processor_retries: int = PROCESSOR_RETRIES,
    ) -> None:
        if not name or "/" in name:
            raise ConfigError(f'"{name}" cannot name an agent', hint='use a short name without "/"')
        if isinstance(tools, str) or (callable(tools) and not _of_context(tools)):
            raise ConfigError(f'the tools of "{name}" must be a list', hint="tools=[get_weather]")
        for option, number in (
            ("tool_call_concurrency", tool_call_concurrency),
            ("max_steps", 1 if max_steps is None else max_steps),
        ):
            if number < 1:
                raise ConfigError(f"{option} is {number}", hint="1 or more")
        stop_when = (stop_when,) if callable(stop_when) else stop_when
        for option, fits, hint in (
            ("instructions", isinstance(instructions, str) or callable(instructions), "a text"),
            ("tools", callable(tools) or isinstance(tools, Iterable), "a list: [get_weather]"),
            ("active_tools", not isinstance(active_tools, str), 'a list: ["get_weather"]'),
            ("processors", _all(processors, Processor), "a list of Processors"),
            ("limits", isinstance(limits, Limits | None), "Limits(requests=5)"),
            ("settings", isinstance(settings, ModelSettings | None), "ModelSettings(seed=1)"),
            ("stop_when", _all(stop_when, Callable), "a function of the steps, or a list of them"),
            ("handoffs", _all(handoffs, Agent), "a list of Agents"),
        ):
            if not fits:
                raise ConfigError(f'the {option} of "{name}" cannot be used', hint=f"give {hint}")
        self.name = name
        self.instructions = instructions
        self.model = model
        # Now, while the types that its functions name can still be seen.
        self.tools: Any = (
            tools
            if callable(tools)
            else tuple(Tool(t) if isinstance(t, FunctionType) else t for t in tools)
        )
        self._has_sources = not callable(self.tools) and any(
            hasattr(t, "list_tools") for t in self.tools
        )
        self.output = output
        self.memory = _memory(name, memory)
        self.thread = thread
        self.resource = resource
        self.processors = tuple(processors)
        self.limits = limits
        self.max_steps = max_steps
        self.settings = settings
        self.tool_choice = tool_choice
        self.description = description
        self.services = services
        self.active_tools = active_tools
        self.tool_call_concurrency = tool_call_concurrency
        self.stop_when = tuple(stop_when)
        self.structuring_model = structuring_model
        self.handoffs = handoffs
        self.require_tool_approval = require_tool_approval
        self.prepare_step = prepare_step
        self.before_tool_call = before_tool_call
        self.after_tool_call = after_tool_call
        self.max_processor_retries = max_processor_retries
        self._toolset: dict[str, ToolLike] | None = None
        self._output: Output[T] | None = None
        self._resolved: tuple[ModelLike, Model] | None = None

    def __repr__(self) -> str:
        model = self.model if isinstance(self.model, str) else getattr(self.model, "name", None)
        model = "a function" if _is_dynamic(self.model) else model
        tools = f", tools={[*self.toolset]}" if self.toolset else ""
        return f"<Agent {self.name}: {model or 'default model'}{tools}>"

    @property
    def codec(self) -> TypedCodec:
        """How its answer is kept in a journal, and comes back as its type."""
        return _AnswerCodec(self)

    @property
    def output_type(self) -> Any:
        return str if self.output is None else self.output

    @property
    def services(self) -> Services | None:
        """Those of its application, which are its memory's too."""
        return self._bound

    @services.setter
    def services(self, services: Services | None) -> None:
        self._bound = services
        if self.memory is not None and services is not None:
            self.memory.bind(services)

    @property
    def toolset(self) -> dict[str, ToolLike]:
        """Its tools by name; those that a function gives are known in a run only. Raises
        ConfigError if two share one.
        """
        if self._toolset is None:
            self._toolset = {} if callable(self.tools) else toolset(self.tools)
        return self._toolset

    def run(
        self,
        prompt: Prompt,
        *,
        thread: str | None = None,
        resource: str | None = None,
        output: Any = ...,
        limits: Limits | None = None,
        deps: Any = None,
        key: str | None = None,
        request_context: Mapping[str, Any] | None = None,
        id: str = "",
    ) -> Run[T]:
        """A lazy run of one turn. `deps` is handed to tools as `ctx.deps`; `request_context`
        holds JSON values for `ctx.request_context`, and is kept with the run; `key` is an
        idempotency key: a store holds at most one run with it. `id` names it: that of another run
        raises Conflict when it begins.

        Inside another run it is a part of that one: it shares deps and budgets, which `limits`
        can only narrow, and remembers only in a thread that it names itself.
        """
        agent = self if output is ... else self.replace(output=output)
        services = agent._services()
        owner = self.resource if resource is None else resource
        if not (thread is None and resource is None and limits is None) and current() is not None:
            agent = agent.replace(
                thread=thread if thread is not None else self.thread,
                resource=owner,
                limits=limits or self.limits,
            )
        return Run(
            agent,
            prompt,
            codec=agent.codec,
            services=services,
            limits=limits or self.limits,
            deps=deps,
            thread=self._thread(services, owner) if thread is None else thread,
            resource=owner,
            key=key,
            request_context=request_context,
            new_id=id,
        )

    __call__ = run
    stream = run

    async def generate(self, prompt: Prompt, **options: Any) -> T:
        """The awaited run: its output."""
        return await self.run(prompt, **options)

    async def history(
        self, thread: str | None = None, *, last: int | None = None, resource: str | None = None
    ) -> list[Message]:
        """The messages of a thread (default: the agent's own), or the `last` n of them. Raises
        NotFound if it belongs to another resource.
        """
        services = self._services()
        owner = self.resource if resource is None else resource
        store, name = (services or ambient()).store, thread or self._thread(services, owner)
        if store is None:
            return []
        await owned(store, name, owner)
        return [m.message for m in await store.read_messages(name, last=last)]

    def chat(self, thread: str | None = None, resource: str | None = None, **options: Any) -> Any:
        """A widget to talk to it in a notebook, in a thread (default: the agent's own) that goes
        on anywhere else. `options` are those of `run`: limits, deps, request_context.
        """
        return plugins.widgets.load("chat")(self, thread=thread, resource=resource, **options)

    def load(self, id: str, prompt: Any, **options: Any) -> Run[T]:
        """The handle of a run that is in a store."""
        return Run(self, prompt, id=id, codec=self.codec, services=self._services(), **options)

    def replace(self, **changes: Any) -> Agent[Any]:
        """A copy with other options; they are those of Agent."""
        now = {name: getattr(self, name) for name in _OPTIONS}
        return Agent(**{**now, **changes})

    def as_tool(self) -> ToolLike:
        return _AgentTool(self)

    async def invoke(self, input: Any, ctx: Context, /) -> T:
        thread = ctx.thread if ctx.is_root else self.thread
        resource = ctx.resource if ctx.is_root else self.resource or ctx.resource
        plan = await self._plan(ctx, self.answer, thread, resource, remembers=True)
        turn = run_turn(plan, prompt_messages(input), ctx)
        return cast(T, await self._within_limits(turn, ctx))

    async def _within_limits(self, turn: Awaitable[Any], ctx: Context) -> Any:
        if self.limits is None or ctx.is_root:
            return await turn
        ctx.meter = Meter(self.limits, above=ctx.meter, path=ctx.path)
        ctx.meter.restore(ctx.run.past.used)
        worked = 0.0 if self.limits.seconds is None else ctx.run.past.worked_in(ctx.path)
        return await within(self.limits.seconds, turn, ctx.path, worked=worked)

    async def _plan(
        self,
        ctx: Context,
        output: Output[Any] | None,
        thread: str,
        resource: str,
        *,
        remembers: bool,
    ) -> Plan:
        settings = ctx.services.settings
        processors: tuple[Processor, ...] = self.processors
        memory = self.memory if remembers else None
        if memory is not None:
            processors = (*memory.stages, memory, *processors)
        if self.prepare_step or self.before_tool_call or self.after_tool_call:
            hooks = Hooks(
                prepare_step=self.prepare_step,
                before_tool_call=self.before_tool_call,
                after_tool_call=self.after_tool_call,
            )
            processors = (*processors, hooks)
        instructions, wanted = self.instructions, self.model
        if not isinstance(instructions, str):
            given = instructions
            made_now = await ctx.value("instructions", lambda: given(ctx))
            if not isinstance(made_now, str):
                raise ConfigError(
                    f'the instructions of "{self.name}" are no text but {type(made_now).__name__}',
                    hint="the function must return a text",
                )
            instructions = made_now
        if _is_dynamic(wanted):
            wanted = await made(cast(Callable[[Context], Any], wanted)(ctx))
        model = ready(self._model(cast(ModelLike, wanted), settings.model), ctx.services)
        tools = await self._tools(ctx)
        if memory is not None and (kept := memory.tools(ctx.services, thread, resource)):
            tools = toolset([*tools.values(), *kept])
        handoffs = {h.spec.name: h for h in map(_Handoff, self.handoffs)} if self.handoffs else {}
        if len({*tools, *handoffs}) < len(tools) + len(self.handoffs):
            raise ConfigError(
                f'two tools or hand-offs of "{self.name}" have one name',
                hint="the tool that hands over is named transfer_to_<agent>; rename the other",
            )
        if self.tool_choice not in _CHOICES:
            known = {*tools, *handoffs}
            if self.tool_choice not in known:
                raise ConfigError(
                    f'"{self.name}" is to call "{self.tool_choice}", which is none of its tools',
                    hint=close_matches(self.tool_choice, known),
                )
        structuring = None
        if output is not None:
            profile = model.profile
            alone = not tools and not handoffs
            if self.structuring_model is not None:
                structuring = ready(resolve(self.structuring_model), ctx.services)
            elif not alone and not (profile.json_schema and profile.json_with_tools):
                structuring = model
        return Plan(
            model=model,
            instructions=instructions,
            tools=tools,
            output=output,
            max_steps=self.max_steps or settings.max_steps,
            settings=self.settings or _NO_SETTINGS,
            tool_choice=self.tool_choice,
            processors=processors,
            thread=thread,
            resource=resource,
            concurrency=self.tool_call_concurrency,
            structuring=structuring,
            stop_when=self.stop_when,
            handoffs=handoffs,
            processor_retries=self.max_processor_retries,
        )

    async def _tools(self, ctx: Context) -> Mapping[str, ToolLike]:
        tools: Mapping[str, ToolLike]
        if callable(self.tools):
            found = await made(self.tools(ctx))
            if isinstance(found, str) or not isinstance(found, Iterable):
                raise ConfigError(
                    f'the tools of "{self.name}" must be a list', hint="tools=[get_weather]"
                )
            tools = await gathered(found)
        elif self._has_sources:
            tools = await gathered(self.tools)
        else:
            tools = self.toolset
        active = self.active_tools
        if active is not None:
            names = await made(active(ctx)) if callable(active) else active
            tools = chosen(tools, names)
        if self.require_tool_approval:
            decide = self.require_tool_approval
            tools = {name: with_approval(tool, decide) for name, tool in tools.items()}
        return tools

    @property
    def answer(self) -> Output[T] | None:
        """Its output type; None for text. Raises SchemaError if the type has no JSON schema."""
        if self._output is None and self.output is not None and self.output is not str:
            self._output = Output(Schema(self.output))
        return self._output

    def _model(self, wanted: ModelLike | None, default: str | None) -> Model:
        wanted = wanted if wanted is not None else default
        if wanted is None:
            raise ConfigError(
                f'agent "{self.name}" has no model',
                hint='Agent(model="openai/gpt-4o-mini"), or MASTRA_NB_MODEL; "local" needs no key',
            )
        if self._resolved is None or self._resolved[0] is not wanted:
            self._resolved = (wanted, resolve(wanted))
        return self._resolved[1]

    def _thread(self, services: Services | None, resource: str) -> str:
        """Its conversation: the one it names, or if it remembers one of the resource that ends
        with the session.
        """
        if self.thread or self.memory is None:
            return self.thread
        whose = f"{resource}:" if resource else ""
        return f"{whose}{self.name}@{(services or ambient()).session}"

    def _services(self) -> Services | None:
        """Its application's; else None (the run finds the ambient ones). Where there is no store
        at all, agents that remember, or ask or hand over to one that does, share one in memory.
        """
        services = self.services or ambient()
        if services.store is not None or not _remembers(self, set()):
            return self.services
        services = copy.copy(services)
        services.store = store_in_memory()
        return services


def _memory(agent: str, wanted: Memory | bool | None) -> Memory | None:
    if wanted is None or wanted is False:
        return None
    # An agent that forgets loads nothing of it.
    from mastra_nb.memory.memory import Memory

    if wanted is True:
        return Memory()
    if not isinstance(wanted, Memory):
        raise ConfigError(
            f'the memory of "{agent}" cannot be used', hint="give True, or Memory(...)"
        )
    return wanted


def _remembers(agent: Agent[Any], seen: set[Agent[Any]]) -> bool:
    if agent.memory is not None:
        return True
    seen.add(agent)
    tools = () if callable(agent.tools) else agent.tools
    others = [a for a in (*agent.handoffs, *tools) if isinstance(a, Agent) and a not in seen]
    return any(_remembers(a, seen) for a in others)


_NO_SETTINGS = ModelSettings()
_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
_CHOICES = ("auto", "none", "required")
_OPTIONS = (
    *("name", "instructions", "model", "tools", "output", "memory", "thread", "resource"),
    *("processors", "limits", "max_steps", "settings", "tool_choice", "description", "services"),
    *("active_tools", "tool_call_concurrency", "stop_when", "structuring_model", "handoffs"),
    *("require_tool_approval", "prepare_step", "before_tool_call", "after_tool_call"),
    "max_processor_retries",
)


class _AnswerCodec(TypedCodec):
    """Finds out about the output type only when it is asked."""

    def __init__(self, agent: Agent[Any]) -> None:
        self._agent = agent

    @property
    def output(self) -> Output[Any] | None:  # type: ignore[override]
        return self._agent.answer

    def show(self, input: Prompt) -> Any:
        """What guards want kept of a prompt is all that is stored with the run."""
        guards = self._agent.processors and with_stage(self._agent.processors, "at_rest")
        if not guards:
            return super().show(input)

        def change(text: str) -> str:
            for guard in guards:
                text = guard.at_rest(text)
            return text

        if isinstance(input, str):
            return change(clean(input))
        return to_json([changed(m, change) for m in prompt_messages(input)])


def _all(values: Any, kind: Any) -> bool:
    return isinstance(values, Iterable) and all(isinstance(v, kind) for v in values)


def _is_dynamic(value: Any) -> bool:
    return isinstance(value, FunctionType | MethodType)


def _of_context(fn: Any) -> bool:
    """True for a function of the context alone: a tool that was not put into a list is none."""
    if not _is_dynamic(fn):
        return False
    names = [*inspect.signature(fn).parameters.values()]
    if len(names) != 1 or names[0].kind in (names[0].VAR_POSITIONAL, names[0].VAR_KEYWORD):
        return False
    hint = names[0].annotation
    return hint in (inspect.Parameter.empty, Context) or str(hint).endswith("Context")


class _Handoff:
    """An agent that another one may hand the conversation over to."""

    def __init__(self, agent: Agent[Any]) -> None:
        self.agent = agent
        self.name = agent.name
        name = f"transfer_to_{_tool_name(agent.name)}"[:64]
        about = f"Hand the conversation over to {agent.name}. {_about(agent)}".strip()
        self.spec = ToolSpec(name=name, description=about, parameters=_NO_PARAMETERS)

    async def take_over(self, plan: Plan, turn: Turn, steps: int, ctx: Context) -> Any:
        """It sees the conversation so far, and answers with the type of who was asked first. It
        remembers for itself only in a thread that it names; the turn goes into the first's.
        """
        agent = self.agent
        resource, remembers = agent.resource or plan.resource, bool(agent.thread)
        own = await agent._plan(ctx, plan.output, agent.thread, resource, remembers=remembers)
        begun = plan.begun + plan.max_steps - steps
        own = msgspec.structs.replace(own, max_steps=min(steps, own.max_steps), begun=begun)
        turn.instructions, turn.thread = own.instructions, own.thread
        turn.resource, turn.model = own.resource, own.model
        return await agent._within_limits(run_turn(own, (), ctx, turn), ctx)


class _AgentTool:
    """An agent that another agent may ask; it shares the run, its log and its budgets."""

    kind: ClassVar[Literal["agent"]] = "agent"

    def __init__(self, agent: Agent[Any]) -> None:
        self.agent = agent
        self.name = _tool_name(agent.name)
        self.spec = ToolSpec(
            name=self.name,
            description=_about(agent),
            parameters=_PROMPT_SCHEMA,
        )

    async def invoke(self, input: Any, ctx: Context, /) -> Any:
        prompt = input.get("prompt") if isinstance(input, dict) else input
        if not isinstance(prompt, str):
            raise ToolArgsError(f'"{self.name}" needs an argument "prompt": the task, as text')
        return to_json(await self.agent.invoke(prompt, ctx))


def _tool_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:64]


def _about(agent: Agent[Any]) -> str:
    told = agent.instructions if isinstance(agent.instructions, str) else ""
    return agent.description or told.split("\n", 1)[0]
