"""Agents: a model with instructions, tools and memory."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Sequence
from types import FunctionType
from typing import Any, ClassVar, Generic, Literal, TypeVar, cast

import msgspec

from mastra_nb import plugins
from mastra_nb.context import Codec, Context, current
from mastra_nb.errors import ConfigError, SchemaError, ToolArgsError
from mastra_nb.limits import Limits, Meter, within
from mastra_nb.loop import Output, Plan, run_turn
from mastra_nb.memory import Memory
from mastra_nb.messages import Message, ToolSpec, user
from mastra_nb.models import Model, ModelLike, ModelSettings, ready, resolve
from mastra_nb.processors import Processor
from mastra_nb.runs import Run
from mastra_nb.schema import Schema, clean, to_json
from mastra_nb.services import Services, ambient
from mastra_nb.storage import Store
from mastra_nb.tools import Tool, ToolLike, gathered, toolset

T = TypeVar("T")
Prompt = str | Message | Sequence[Message]

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
    conversation that runs belong to unless they name another. `limits` are budgets of a run.

    Raises ConfigError for a definition that cannot work.
    """

    kind: ClassVar[Literal["agent"]] = "agent"

    def __init__(
        self,
        *,
        name: str,
        instructions: str = "",
        model: ModelLike | None = None,
        tools: Sequence[Any] = (),
        output: type[T] | None = None,
        memory: Memory | bool | None = None,
        thread: str = "",
        processors: Sequence[Processor] = (),
        limits: Limits | None = None,
        max_steps: int | None = None,
        settings: ModelSettings | None = None,
        tool_choice: str = "auto",
        description: str = "",
        services: Services | None = None,
    ) -> None:
        if not name or "/" in name:
            raise ConfigError(f'"{name}" cannot name an agent', hint='use a short name without "/"')
        if isinstance(tools, str) or callable(tools):
            raise ConfigError(f'the tools of "{name}" must be a list', hint="tools=[get_weather]")
        self.name = name
        self.instructions = instructions
        self.model = model
        # Now, while the types that its functions name can still be seen.
        self.tools = tuple(Tool(t) if isinstance(t, FunctionType) else t for t in tools)
        self._has_sources = any(hasattr(t, "list_tools") for t in self.tools)
        self.output = output
        self.memory = Memory() if memory is True else memory or None
        self.thread = thread
        self.processors = tuple(processors)
        self.limits = limits
        self.max_steps = max_steps
        self.settings = settings
        self.tool_choice = tool_choice
        self.description = description
        self.services = services
        self._toolset: dict[str, ToolLike] | None = None
        self._output: Output[T] | None = None
        self._resolved: tuple[ModelLike, Model] | None = None

    def __repr__(self) -> str:
        model = self.model if isinstance(self.model, str) else getattr(self.model, "name", None)
        tools = f", tools={[*self.toolset]}" if self.tools else ""
        return f"<Agent {self.name}: {model or 'default model'}{tools}>"

    @property
    def toolset(self) -> dict[str, ToolLike]:
        """Its tools by name. Raises ConfigError if two share one."""
        if self._toolset is None:
            self._toolset = toolset(self.tools)
        return self._toolset

    def run(
        self,
        prompt: Prompt,
        *,
        thread: str | None = None,
        output: Any = ...,
        limits: Limits | None = None,
        deps: Any = None,
        key: str | None = None,
    ) -> Run[T]:
        """A lazy run of one turn. `deps` is handed to tools as `ctx.deps`; `key` is an
        idempotency key: a store holds at most one run with it.

        Inside another run it is a part of that one: it shares deps and budgets, which `limits`
        can only narrow, and remembers only in a thread that it names itself.
        """
        agent = self if output is ... else self.replace(output=output)
        services = agent._services()
        if (thread is not None or limits is not None) and current() is not None:
            agent = agent.replace(
                thread=self.thread if thread is None else thread, limits=limits or self.limits
            )
        return Run(
            agent,
            prompt,
            codec=_AnswerCodec(agent),
            services=services,
            limits=limits or self.limits,
            deps=deps,
            thread=self._thread(services) if thread is None else thread,
            key=key,
        )

    __call__ = run
    stream = run

    async def generate(self, prompt: Prompt, **options: Any) -> T:
        """The awaited run: its output."""
        return await self.run(prompt, **options)

    async def history(self, thread: str | None = None, *, last: int | None = None) -> list[Message]:
        """The messages of a thread (default: the agent's own), or the `last` n of them."""
        services = self._services()
        store, name = (services or ambient()).store, thread or self._thread(services)
        found = await store.read_messages(name, last=last) if store else []
        return [m.message for m in found]

    def load(self, id: str, prompt: Any, **options: Any) -> Run[T]:
        """The handle of a run that is in a store."""
        return Run(
            self, prompt, id=id, codec=_AnswerCodec(self), services=self._services(), **options
        )

    def replace(self, **changes: Any) -> Agent[Any]:
        """A copy with other options; they are those of Agent."""
        now = {name: getattr(self, name) for name in _OPTIONS}
        return Agent(**{**now, **changes})

    def as_tool(self) -> ToolLike:
        return _AgentTool(self)

    async def invoke(self, input: Any, ctx: Context, /) -> T:
        settings = ctx.services.settings
        processors: tuple[Processor, ...] = self.processors
        if self.memory is not None:
            processors = (self.memory, *processors)
        plan = Plan(
            model=ready(self._model(settings.model), ctx.services),
            instructions=self.instructions,
            tools=await gathered(self.tools) if self._has_sources else self.toolset,
            output=self.answer,
            max_steps=self.max_steps or settings.max_steps,
            settings=self.settings or ModelSettings(),
            tool_choice=self.tool_choice,
            processors=processors,
            thread=ctx.thread if ctx.is_root else self.thread,
        )
        seconds = None
        if self.limits is not None and not ctx.is_root:
            ctx.meter = Meter(self.limits, above=ctx.meter, path=ctx.path)
            ctx.meter.restore(ctx.run.past.used)
            seconds = self.limits.seconds
        turn = run_turn(plan, prompt_messages(input), ctx)
        return cast(T, await within(seconds, turn, ctx.path))

    @property
    def answer(self) -> Output[T] | None:
        """Its output type; None for text. Raises SchemaError if the type has no JSON schema."""
        if self._output is None and self.output is not None and self.output is not str:
            self._output = Output(Schema(self.output))
        return self._output

    def _model(self, default: str | None) -> Model:
        wanted = self.model if self.model is not None else default
        if wanted is None:
            raise ConfigError(
                f'agent "{self.name}" has no model',
                hint='Agent(model="openai/gpt-4o-mini"), or MASTRA_NB_MODEL; "local" needs no key',
            )
        if self._resolved is None or self._resolved[0] is not wanted:
            self._resolved = (wanted, resolve(wanted))
        return self._resolved[1]

    def _thread(self, services: Services | None) -> str:
        """Its conversation: the one it names, or if it remembers one that ends with the session."""
        if self.thread or self.memory is None:
            return self.thread
        return f"{self.name}@{(services or ambient()).session}"

    def _services(self) -> Services | None:
        """Its application's; else None (the run finds the ambient ones). Where there is no store
        at all, agents that remember share one in memory.
        """
        services = self.services or ambient()
        if self.memory is None or services.store is not None:
            return self.services
        services = copy.copy(services)
        services.store = _store_in_memory()
        return services


@functools.cache
def _store_in_memory() -> Store:
    store: Store = plugins.stores.load("memory")("memory://")
    return store


_OPTIONS = (
    *("name", "instructions", "model", "tools", "output", "memory", "thread", "processors"),
    *("limits", "max_steps", "settings", "tool_choice", "description", "services"),
)


class _AnswerCodec(Codec[T]):
    def __init__(self, agent: Agent[T]) -> None:
        self._agent = agent

    def load(self, value: Any, ctx: Context) -> T:
        answer = self._agent.answer
        return answer.schema.convert(value) if answer is not None else cast(T, value)


class _AgentTool:
    """An agent that another agent may ask; it shares the run, its log and its budgets."""

    kind: ClassVar[Literal["agent"]] = "agent"

    def __init__(self, agent: Agent[Any]) -> None:
        self.agent = agent
        self.name = re.sub(r"[^A-Za-z0-9_-]+", "_", agent.name)[:64]
        self.spec = ToolSpec(
            name=self.name,
            description=agent.description or agent.instructions.split("\n", 1)[0],
            parameters=_PROMPT_SCHEMA,
        )

    async def invoke(self, input: Any, ctx: Context, /) -> Any:
        prompt = input.get("prompt") if isinstance(input, dict) else input
        if not isinstance(prompt, str):
            raise ToolArgsError(f'"{self.name}" needs an argument "prompt": the task, as text')
        return to_json(await self.agent.invoke(prompt, ctx))


def prompt_messages(prompt: Any) -> list[Message]:
    """Raises SchemaError for what is neither text nor messages."""
    if isinstance(prompt, str):
        return [user(clean(prompt))]
    if isinstance(prompt, Message):
        return [prompt]
    try:
        if isinstance(prompt, dict):
            return [msgspec.convert(prompt, Message)]
        return msgspec.convert(prompt, list[Message])
    except msgspec.ValidationError as error:
        raise SchemaError(
            f"a prompt is text or a list of messages: {error}", hint='agent.run("your question")'
        ) from None
