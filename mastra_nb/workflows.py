"""Workflows: steps in an order that is checked when it is written down, or a Python body."""

from __future__ import annotations

import hashlib
import inspect
import re
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import msgspec

from mastra_nb import _functions, sources
from mastra_nb._later import later
from mastra_nb.bodies import check_body, run_body
from mastra_nb.bodies import now as now
from mastra_nb.bodies import random as random
from mastra_nb.bodies import sleep as sleep
from mastra_nb.bodies import suspend as suspend
from mastra_nb.bodies import uuid as uuid
from mastra_nb.builders import Builder
from mastra_nb.context import Codec, Context, Recorded, current
from mastra_nb.engine import Walk
from mastra_nb.errors import ConfigError, SchemaError, StepError, UsageError
from mastra_nb.events import Custom, Noted, StateSet
from mastra_nb.limits import Limits
from mastra_nb.messages import ToolSpec
from mastra_nb.past import GRAPH
from mastra_nb.plans import (
    ForEach,
    Loop,
    Then,
)
from mastra_nb.plans import otherwise as otherwise
from mastra_nb.schema import exact, local_names, summary, to_json
from mastra_nb.services import Services
from mastra_nb.shapes import Shape, conform, restored, typed
from mastra_nb.steps import Failure as Failure
from mastra_nb.steps import Step as Step
from mastra_nb.steps import step as step
from mastra_nb.workflow_runs import WorkflowRun, changes

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = later("asyncio", globals())

O = TypeVar("O")  # noqa: E741


class Workflow(Builder, Generic[O]):
    """A workflow; calling it, or `run`, gives a lazy Run of its output.

    The verbs are Mastra's; each adds to it and returns it. `input`, `output` and `state` are types
    (None: what the first step takes, the last gives, any). `concurrency` is how many runs of it
    this process drives at once; the others wait. `limits` are budgets of a run.

    What is named in a verb may be a function, a Step, an agent, a tool or another workflow; an id
    is used once in a workflow. Raises ConfigError for what cannot work, when it is written down.
    """

    kind: ClassVar[Literal["workflow"]] = "workflow"

    def __init__(
        self,
        *,
        name: str,
        input: Any = None,
        output: Any = None,
        state: Any = None,
        description: str = "",
        steps: Sequence[Any] = (),
        concurrency: int | None = None,
        limits: Limits | None = None,
        services: Services | None = None,
        body: Callable[..., Any] | None = None,
    ) -> None:
        if not name or re.search(r"[/\[\]#~\0]", name):
            raise ConfigError(
                f'"{name}" cannot name a workflow', hint="a short name without / [ ] # or ~"
            )
        if concurrency is not None and concurrency < 1:
            raise ConfigError(f"concurrency is {concurrency}", hint="1 or more")
        self.name = name
        self.description = description
        self.concurrency = concurrency
        self.limits = limits
        self.services = services
        self._input = typed(input, f"the input of {name}") if input is not None else None
        promised = typed(output, f"the output of {name}") if output is not None else None
        self._state = typed(state, f"the state of {name}") if state is not None else None
        gives = Any if self._input is None else self._input.type
        super().__init__(gives=gives, output=promised, committed=body is not None)
        self._outline: dict[str, Any] | None = None
        # The outline whose hash it is beside it.
        self._hashed: tuple[Any, str] = None, ""
        self._slots: weakref.WeakKeyDictionary[Any, asyncio.Semaphore] = weakref.WeakKeyDictionary()
        self._body = body
        self._shape: Shape | None = None
        if body is not None:
            check_body(body)
            self._shape = Shape(body, local_names(body))
            self.description = description or summary(inspect.getdoc(body) or "")
        self.codec: Codec[O] = _WorkflowCodec(self)
        if steps:
            self.graph(steps)

    def __repr__(self) -> str:
        return f"<Workflow {self.name}: {', '.join(self._ids) if self._plan else 'a body'}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        from mastra_nb.views import outline_bundle

        shown: dict[str, Any] = outline_bundle(self.outline)
        return shown

    def _changed(self) -> None:
        self._outline = None

    # What it is

    @property
    def input_type(self) -> Any:
        if self._shape is not None:
            return self._shape.type
        if self._input is not None:
            return self._input.type
        first = next(iter(self._plan[0].steps), None) if self._plan else None
        if isinstance(self._plan[0], ForEach) if self._plan else False:
            return list
        return Any if first is None else first.input

    @property
    def output_type(self) -> Any:
        if self._output is not None:
            return self._output.type
        return self._gives if self._shape is None else self._shape.output

    @property
    def input_schema(self) -> dict[str, Any]:
        """The JSON schema of its input; {} takes anything."""
        if self._shape is not None:
            return self._shape.json
        if self._input is not None:
            return self._input.json
        node = self._plan[0] if self._plan else None
        if isinstance(node, Then | Loop) and node.step.shape is not None:
            return node.step.shape.json
        return {}

    @property
    def state_schema(self) -> dict[str, Any] | None:
        """The JSON schema of its state, if that has a type."""
        return None if self._state is None else self._state.json

    @property
    def steps(self) -> list[Step[Any]]:
        """In order; those of a body are not known before it runs."""
        return [each for node in self._plan for each in node.steps]

    @property
    def outline(self) -> dict[str, Any]:
        """Its nodes as JSON: what is drawn, and kept with each run."""
        if self._outline is None:
            if self._body is not None:
                # A body may call its own workflow.
                self._outline = {"name": self.name, "nodes": [], "dashed": True}
                self._outline = {**sources.outline(self._body), "name": self.name}
                self._outline["code"] = _functions.digest(self._body)
            else:
                self._outline = {"name": self.name, "nodes": [n.node for n in self._plan]}
        return self._outline

    @property
    def code(self) -> str:
        """A digest of its steps, for a workflow that it is a step of."""
        return self.graph_hash[:12]

    @property
    def graph_hash(self) -> str:
        outline = self.outline
        if self._hashed[0] is not outline:
            raw = msgspec.json.encode(outline, order="sorted")
            self._hashed = outline, hashlib.sha256(raw).hexdigest()
        return self._hashed[1]

    # Running it

    def run(
        self,
        input: Any = None,
        *,
        key: str | None = None,
        thread: str = "",
        resource: str = "",
        limits: Limits | None = None,
        deps: Any = None,
        state: Mapping[str, Any] | None = None,
        request_context: Mapping[str, Any] | None = None,
        id: str = "",
    ) -> WorkflowRun[O]:
        """A lazy run. `key` is an idempotency key: a run with the same key and input is that run,
        whatever it has come to. `id` names it: that of another run raises Conflict when it begins.
        `state` is what `ctx.state` begins with. Inside another run it is a part of that one.
        """
        self.commit()
        if state is not None and current() is not None:
            raise UsageError(
                f'"{self.name}" runs inside another run and shares its state',
                hint="leave state= out here, give it to the outer run",
            )
        begin = [("", e) for e in self._initial(state)]
        return WorkflowRun(
            self, input, codec=self.codec, services=self.services, limits=limits or self.limits,
            deps=deps, thread=thread, resource=resource, key=key, request_context=request_context,
            begin=begin, new_id=id,
        )  # fmt: skip

    stream = run

    def __call__(self, *args: Any, **kwargs: Any) -> WorkflowRun[O]:
        if self._shape is not None:
            return self.run(self._shape.bind(args, kwargs))
        return self.run(args[0] if args else kwargs or None)

    async def start(self, input: Any = None, **options: Any) -> O:
        """The awaited run: its output."""
        return await self.run(input, **options)

    def check_input(self, input: Any) -> Any:
        """`input` as a run takes it. Raises SchemaError if it does not fit."""
        if self._input is not None:
            return conform(self._input, input)
        if self._shape is not None:
            self._shape.arguments(input)
        return input

    def load(self, id: str, input: Any, **options: Any) -> WorkflowRun[O]:
        """The handle of a run that is in a store."""
        self.commit()
        return WorkflowRun(self, input, id=id, codec=self.codec, services=self.services, **options)

    def _initial(self, state: Mapping[str, Any] | None) -> Iterable[StateSet]:
        if self._state is not None and state is not None:
            try:
                self._state.convert(exact(dict(state)))
            except SchemaError as error:
                raise SchemaError(
                    f'the state of "{self.name}" does not fit: {error.message}'
                ) from None
        return [StateSet(key=k, value=exact(v)) for k, v in (state or {}).items()]

    async def invoke(self, input: Any, ctx: Context, /) -> O:
        past, outline = ctx.run.past, self.outline
        if not _is_part(ctx) and past.graphs.get(ctx.path) != outline:
            for change in changes(past, ctx.path, outline):
                if change.finished and change.what == "changed":
                    ctx.emit(Noted(level="warning", text=_kept(change.step)))
            ctx.emit(Custom(name=GRAPH, value=outline))
        if self.concurrency is None or not ctx.is_root:
            return await self._run(input, ctx)
        loop = asyncio.get_running_loop()
        async with self._slots.setdefault(loop, asyncio.Semaphore(self.concurrency)):
            return await self._run(input, ctx)

    async def _run(self, input: Any, ctx: Context) -> O:
        try:
            input = self.check_input(input)
        except SchemaError as error:
            raise StepError(
                f'the input of workflow "{self.name}" does not fit: {error.message}',
                code="step.input",
                hint=error.hint,
            ) from None
        if self._body is not None:
            assert self._shape is not None
            return await run_body(self._body, self._shape, input, ctx)  # type: ignore[no-any-return]
        output = await Walk(self._plan, input, ctx).run()
        if self._output is None:
            return output  # type: ignore[no-any-return]
        try:
            return conform(self._output, output)  # type: ignore[no-any-return]
        except SchemaError as error:
            raise StepError(
                f'workflow "{self.name}" does not give what it promises: {error.message}',
                code="step.output",
            ) from None

    def as_tool(self) -> _WorkflowTool:
        """What an agent, or a client of the MCP server, calls; its input are the arguments."""
        return _WorkflowTool(self.commit())


class _WorkflowCodec(Codec[Any]):
    def __init__(self, workflow: Workflow[Any]) -> None:
        self._workflow = workflow

    def show(self, input: Any) -> Any:
        return exact(input)

    def dump(self, output: Any, ctx: Context) -> Recorded:
        return Recorded(exact(output))

    def load(self, value: Any, ctx: Context) -> Any:
        workflow = self._workflow
        if workflow._shape is not None:
            return workflow._shape.restored(value)
        if workflow._output is None and ctx.path in map(_above, ctx.run.past.bails):
            return value  # of a step that has ended it
        return restored(workflow.output_type, value)


def _above(path: str) -> str:
    return path.rpartition("/")[0]


class _WorkflowTool:
    """A workflow as a tool; it shares the run, its log and its budgets, and may suspend it."""

    kind: ClassVar[Literal["workflow"]] = "workflow"

    def __init__(self, workflow: Workflow[Any]) -> None:
        self.workflow = workflow
        self.name = re.sub(r"[^A-Za-z0-9_-]+", "_", workflow.name)[:64]
        schema = workflow.input_schema
        self._whole = schema.get("type") == "object"
        if not self._whole:
            schema = {
                "type": "object",
                "properties": {"input": schema},
                **({"required": ["input"]} if schema else {}),
            }
        about = workflow.description or f"Run the workflow {workflow.name}."
        self.spec = ToolSpec(name=self.name, description=about, parameters=schema)

    async def invoke(self, input: Any, ctx: Context, /) -> Any:
        return to_json(await self.workflow.invoke(self.input_of(input), ctx))

    def input_of(self, args: Any) -> Any:
        """What the workflow is given for these arguments."""
        return args if self._whole or not isinstance(args, dict) else args.get("input")


def workflow(fn: Callable[..., Any] | None = None, /, *, name: str = "", **options: Any) -> Any:
    """Make an async function a workflow: its calls of steps, agents, tools (`tool.run`) and
    workflows are journaled, the Python between them runs again on each drive. Options are those
    of Workflow.
    """
    if fn is None:
        return lambda fn: workflow(fn, name=name, **options)
    return Workflow(name=name or fn.__name__, body=fn, **options)


def _kept(step: str) -> str:
    return (
        f'step "{step}" has changed since it ended: its result is kept; '
        f'run.fork("{step}") runs it anew'
    )


def _is_part(ctx: Context) -> bool:
    """Whether the outline of the workflow around it holds this one's."""
    return (ctx.parent or "") in ctx.run.walks
