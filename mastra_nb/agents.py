"""Agents: a model with instructions, tools and memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Generic, Literal, TypeVar, cast

import msgspec

from mastra_nb import plugins
from mastra_nb.context import Codec, Context
from mastra_nb.errors import ConfigError, SchemaError
from mastra_nb.limits import Limits
from mastra_nb.loop import Output, Plan, run_turn
from mastra_nb.memory import Memory
from mastra_nb.messages import Message, ToolSpec, user
from mastra_nb.models import Model, ModelLike, ModelSettings, ready, resolve
from mastra_nb.processors import Processor
from mastra_nb.runs import Run
from mastra_nb.schema import Schema
from mastra_nb.services import Services, ambient
from mastra_nb.tools import ToolLike, toolset

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
        self.tools = tuple(tools)
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
        """
        agent = self if output is ... else self.replace(output=output)
        return Run(
            agent,
            prompt,
            codec=_AnswerCodec(agent),
            services=agent._services(),
            limits=limits or self.limits,
            deps=deps,
            thread=self.thread if thread is None else thread,
            key=key,
        )

    __call__ = run
    stream = run

    async def generate(self, prompt: Prompt, **options: Any) -> T:
        """The awaited run: its output."""
        return await self.run(prompt, **options)

    async def history(self, thread: str | None = None, *, last: int | None = None) -> list[Message]:
        """The messages of a thread (default: the agent's own), or the `last` n of them."""
        store = (self._services() or ambient()).store
        found = await store.read_messages(thread or self.thread, last=last) if store else []
        return [m.message for m in found]

    def load(self, id: str, prompt: Any, **options: Any) -> Run[T]:
        """The handle of a run that is in a store."""
        return Run(
            self, prompt, id=id, codec=_AnswerCodec(self), services=self._services(), **options
        )

    def replace(self, **changes: Any) -> Agent[Any]:
        """A copy with other options; they are those of Agent."""
        now = {
            k: getattr(self, k)
            for k in [
                "name",
                "instructions",
                "model",
                "tools",
                "output",
                "memory",
                "thread",
                "processors",
                "limits",
                "max_steps",
                "settings",
                "tool_choice",
                "description",
                "services",
            ]
        }
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
            tools=self.toolset,
            output=self.answer,
            max_steps=self.max_steps or settings.max_steps,
            settings=self.settings or ModelSettings(),
            tool_choice=self.tool_choice,
            processors=processors,
        )
        return cast(T, await run_turn(plan, prompt_messages(input), ctx))

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
                hint='Agent(model="openai/gpt-4o-mini"), or set MASTRA_NB_MODEL; "local" needs no key',
            )
        if self._resolved is None or self._resolved[0] is not wanted:
            self._resolved = (wanted, resolve(wanted))
        return self._resolved[1]

    def _services(self) -> Services | None:
        """Its application's; else None (the run finds the ambient ones). Where there is no store
        at all, agents that remember share one in memory.
        """
        global _in_memory
        if self.memory is None or (self.services or ambient()).store is not None:
            return self.services
        if _in_memory is None:
            store = plugins.stores.load("memory")("memory://")
            _in_memory = Services(store=store, settings=ambient().settings)
        return _in_memory


_in_memory: Services | None = None


class _AnswerCodec(Codec[T]):
    def __init__(self, agent: Agent[T]) -> None:
        self._agent = agent

    def load(self, value: Any, ctx: Context) -> T:
        answer = self._agent.answer
        return answer.schema.convert(value) if answer is not None else cast(T, value)


class _AgentTool:
    """An agent that another agent may ask; it shares the run, its log and its budgets."""

    kind: ClassVar[Literal["step"]] = "step"

    def __init__(self, agent: Agent[Any]) -> None:
        self.agent = agent
        self.name = agent.name
        self.spec = ToolSpec(
            name=agent.name,
            description=agent.description or agent.instructions.split("\n", 1)[0],
            parameters=_PROMPT_SCHEMA,
        )

    async def invoke(self, input: Any, ctx: Context, /) -> Any:
        prompt = input.get("prompt") if isinstance(input, dict) else input
        codec: Codec[Any] = _AnswerCodec(self.agent)
        output = await ctx.call(self.agent, str(prompt), segment=self.name, codec=codec)
        return codec.dump(output, ctx).value


def prompt_messages(prompt: Any) -> list[Message]:
    """Raises SchemaError for what is neither text nor messages."""
    if isinstance(prompt, str):
        return [user(prompt)]
    if isinstance(prompt, Message):
        return [prompt]
    try:
        return msgspec.convert(prompt, list[Message])
    except msgspec.ValidationError as error:
        raise SchemaError(
            f"a prompt is text or a list of messages: {error}", hint='agent.run("your question")'
        ) from None
