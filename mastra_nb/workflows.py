"""Workflows: steps in an order that is checked when it is written down, or a Python body."""

from __future__ import annotations

import datetime as dt
import hashlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import msgspec

from mastra_nb import _functions
from mastra_nb._fits import Fields, misfit, shown
from mastra_nb._later import later
from mastra_nb.bodies import check_body, run_body
from mastra_nb.bodies import now as now
from mastra_nb.bodies import random as random
from mastra_nb.bodies import sleep as sleep
from mastra_nb.bodies import suspend as suspend
from mastra_nb.bodies import uuid as uuid
from mastra_nb.context import Codec, Context, Recorded
from mastra_nb.engine import Walk
from mastra_nb.errors import ConfigError, SchemaError, StepError, close_matches
from mastra_nb.events import Custom, Noted
from mastra_nb.limits import Limits
from mastra_nb.messages import ToolSpec
from mastra_nb.past import GRAPH
from mastra_nb.plans import (
    Branch,
    ForEach,
    Graph,
    Loop,
    Node,
    Parallel,
    Sleep,
    Then,
    WaitForEvent,
)
from mastra_nb.plans import otherwise as otherwise
from mastra_nb.schema import exact, local_names, summary, to_json
from mastra_nb.services import Services
from mastra_nb.steps import Failure as Failure
from mastra_nb.steps import Shape, conform, typed
from mastra_nb.steps import Step as Step
from mastra_nb.steps import step as step
from mastra_nb.workflow_runs import WorkflowRun, changes

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = later("asyncio", globals())

O = TypeVar("O")  # noqa: E741


class Workflow(Generic[O]):
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
        self._output = typed(output, f"the output of {name}") if output is not None else None
        self._state = typed(state, f"the state of {name}") if state is not None else None
        self._plan: list[Node] = []
        self._ids: set[str] = set()
        # What the newest node gives, as a type.
        self._gives: Any = Any if self._input is None else self._input.type
        self._committed = False
        self._outline: dict[str, Any] | None = None
        self._slots: dict[Any, asyncio.Semaphore] = {}
        self._body = body
        self._shape: Shape | None = None
        self.source: Callable[[], dict[str, Any]] | None = None
        if body is not None:
            check_body(body)
            self._shape = Shape(body, local_names(body))
            self.description = description or summary(inspect.getdoc(body) or "")
            self._committed = True
        self.codec: Codec[O] = _WorkflowCodec(self)
        if steps:
            self.graph(steps)

    def __repr__(self) -> str:
        return f"<Workflow {self.name}: {', '.join(self._ids) if self._plan else 'a body'}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        from mastra_nb.views import outline_bundle

        shown: dict[str, Any] = outline_bundle(self.outline)
        return shown

    # The verbs

    def then(self, step: Any, *, when: Callable[..., Any] | None = None) -> Workflow[O]:
        """The output of what came before is its input. One that `when` leaves out gives that on."""
        made = self._step(step, when)
        self._takes(made, self._gives)
        gives = made.output
        self._add(Then(made), gives if made.when is None else _either(gives, self._gives))
        return self

    def parallel(self, steps: Iterable[Any]) -> Workflow[O]:
        """All of them at once with the same input; the output holds theirs by id."""
        arms = tuple(self._step(s) for s in steps)
        if not arms:
            raise self._wrong("parallel has no steps", "parallel([fetch, count])")
        for arm in arms:
            self._takes(arm, self._gives)
        self._add(Parallel(arms), Fields({a.name: _collected(a) for a in arms}))
        return self

    def branch(
        self, arms: Iterable[tuple[Callable[..., Any], Any]], *, exclusive: bool = False
    ) -> Workflow[O]:
        """Every step whose condition holds, at once; the output holds theirs by id. `exclusive`:
        only the first of them, whose output it is. The last condition may be `otherwise`.
        """
        made: list[tuple[Callable[..., Any], Step[Any]]] = []
        for arm in arms:
            if len(arm) != 2:
                raise self._wrong(
                    "an arm of branch is no (condition, step)",
                    "branch([(is_long, shorten), (otherwise, keep)])",
                )
            made.append((arm[0], self._step(arm[1])))
        if not made:
            raise self._wrong("branch has no arms", "branch([(is_long, shorten)])")
        seen: set[Any] = set()
        for rule, found in made:
            self._takes(found, self._gives)
            if otherwise in seen or (exclusive and rule in seen):
                raise self._wrong(
                    f'step "{found.name}" cannot be reached: another arm is always chosen before',
                    "otherwise comes last, and each condition once",
                )
            seen.add(rule)
        steps = [s for _, s in made]
        gives: Any = dict
        if exclusive:
            gives = steps[0].output
            for each in steps[1:]:
                gives = _either(gives, each.output)
        self._add(Branch(tuple(made), exclusive), gives)
        return self

    def do_while(self, step: Any, condition: Callable[..., Any]) -> Workflow[O]:
        """At least once, and again while `condition` of its output (and of how often it ran)
        holds; each output is the next input.
        """
        return self._loop(step, "while", condition)

    def do_until(self, step: Any, condition: Callable[..., Any]) -> Workflow[O]:
        """At least once, and again until `condition` of its output holds."""
        return self._loop(step, "until", condition)

    def _loop(
        self, step: Any, how: Literal["while", "until"], rule: Callable[..., Any]
    ) -> Workflow[O]:
        if not callable(rule):
            raise self._wrong(
                f"the condition of do_{how} is no function", "do_until(step, is_done)"
            )
        made = self._step(step)
        self._takes(made, self._gives)
        self._takes(made, made.output)
        self._add(Loop(made, how, rule), made.output)
        return self

    def foreach(self, step: Any, *, concurrency: int = 1) -> Workflow[O]:
        """Once for each item of a list, so many at once; the output is the list of theirs."""
        if concurrency < 1:
            raise self._wrong(f"concurrency of foreach is {concurrency}", "1 or more")
        made = self._step(step)
        if why := misfit(self._gives, list[Any]):
            raise self._wrong(
                f'foreach of "{made.name}" needs a list, but {why}', "map(...) before"
            )
        self._takes(made, _item(self._gives))
        self._add(ForEach(made, concurrency), list[_collected(made)])  # type: ignore[misc]
        return self

    def map(self, fn: Callable[..., Any], *, id: str = "") -> Workflow[O]:
        """A small function of the value, whose result is kept."""
        made: Step[Any] = Step(fn, id=id or self._number("map"), kind="map")
        return self.then(made)

    def sleep(self, length: float | dt.timedelta | Callable[..., Any]) -> Workflow[O]:
        """So many seconds, or what a function of the value says; the value goes through."""
        if isinstance(length, dt.timedelta):
            length = length.total_seconds()
        if not callable(length) and not length >= 0:
            raise self._wrong(f"sleep({length!r}) is no time", "give seconds")
        self._add(Sleep(self._number("sleep"), length), self._gives)
        return self

    def sleep_until(self, moment: dt.datetime | Callable[..., Any]) -> Workflow[O]:
        """Until then, or until what a function of the value says. Without a time zone in local
        time.
        """
        if not isinstance(moment, dt.datetime) and not callable(moment):
            raise self._wrong(f"sleep_until({moment!r}) is no time", "give a datetime")
        self._add(Sleep(self._number("sleep"), moment), self._gives)
        return self

    def wait_for_event(
        self, name: str, *, schema: Any = None, timeout: float | None = None, default: Any = ...
    ) -> Workflow[O]:
        """Until `run.send_event(name, value)`: the value, of type or JSON schema `schema`, is the
        output. After `timeout` seconds it is `default`, or the step fails.
        """
        if name in self._ids:
            raise self._twice(name)
        gives = schema if schema is not None and not isinstance(schema, dict) else Any
        self._add(WaitForEvent(name, schema, timeout, default), gives)
        self._ids.add(name)
        return self

    def graph(self, steps: Iterable[Any]) -> Workflow[O]:
        """Steps that begin as soon as those they `depends_on` have ended. One gets the output of
        the step it depends on, of several those by id, without any what came before the graph.
        The output is that of the step nothing depends on, of several those by id.
        """
        parts = tuple(self._step(s) for s in steps)
        if not parts:
            raise self._wrong("graph has no steps", "graph([fetch, count])")
        by_id = {part.name: part for part in parts}
        needs: dict[str, tuple[str, ...]] = {}
        for part in parts:
            names = [d if isinstance(d, str) else _name(d) for d in part.depends_on]
            for name in names:
                if name not in by_id:
                    raise self._wrong(
                        f'step "{part.name}" depends on "{name}", which is not in the graph: '
                        "it cannot be reached",
                        close_matches(name, by_id) or "add it to the list",
                    )
            needs[part.name] = tuple(dict.fromkeys(names))
        if circle := _circle(needs):
            raise self._wrong(
                f"steps depend on each other in a circle: {' → '.join(circle)}", "take one out"
            )
        for part in parts:
            given = needs[part.name]
            outputs = {n: by_id[n].output for n in given}
            what = outputs[given[0]] if len(given) == 1 else Fields(outputs)
            self._takes(part, what if given else self._gives)
        node = Graph(parts, needs)
        ends = {n: _collected(by_id[n]) for n in node.ends}
        self._add(node, next(iter(ends.values())) if len(ends) == 1 else Fields(ends))
        return self

    def commit(self) -> Workflow[O]:
        """It is whole: nothing can be added. The first run does it too."""
        if self._committed:
            return self
        if not self._plan:
            raise self._wrong("has no steps", "add one: .then(step)")
        if self._output is not None and (why := misfit(self._gives, self._output.type)):
            raise self._wrong(
                f"does not give what it promises: {why}", f"output={shown(self._gives)}, or map it"
            )
        self._committed = True
        return self

    # What the verbs share

    def _step(self, given: Any, when: Callable[..., Any] | None = None) -> Step[Any]:
        if given is self:
            raise self._wrong("is a step of itself", "name another workflow")
        try:
            made = step(given) if when is None else step(given, when=when)
        except (ConfigError, SchemaError) as error:
            error.message = f'workflow "{self.name}": {error.message}'
            error.args = (error.message,)
            raise
        if isinstance(made.fn, Workflow):
            made.fn.commit()
        return made

    def _takes(self, made: Step[Any], given: Any) -> None:
        wanted = made.input
        if made.kind == "agent" or made.kind == "tool":
            return
        if why := misfit(given, wanted):
            raise self._wrong(
                f'step "{made.name}" does not take what it is given: {why}',
                f"it takes {shown(wanted)}; map(...) before it makes that of {shown(given)}",
            )

    def _add(self, node: Node, gives: Any) -> None:
        if self._committed:
            raise self._wrong("is committed", "make a new one, and add to it before it runs")
        ids = [s.name for s in node.steps]
        for i, id in enumerate(ids):
            if id in self._ids or id in ids[:i]:
                raise self._twice(id)
        self._plan.append(node)
        self._ids.update(ids)
        self._gives = gives
        self._outline = None

    def _twice(self, id: str) -> ConfigError:
        return self._wrong(
            f'has two steps "{id}"', f'give one of them another id: step({id}, id="{id}-2")'
        )

    def _wrong(self, what: str, hint: str) -> ConfigError:
        return ConfigError(f'workflow "{self.name}": {what}', hint=hint)

    def _number(self, what: str) -> str:
        n = 1
        while f"{what}-{n}" in self._ids:
            n += 1
        if what == "sleep":
            self._ids.add(f"{what}-{n}")
        return f"{what}-{n}"

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
    def outline(self) -> dict[str, Any]:
        """Its nodes as JSON: what is drawn, and kept with each run."""
        if self._outline is None:
            if self._body is not None:
                found = self.source() if self.source is not None else {"nodes": []}
                self._outline = {**found, "name": self.name, "dashed": True}
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
        raw = msgspec.json.encode(self.outline, order="sorted")
        return hashlib.sha256(raw).hexdigest()

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
    ) -> WorkflowRun[O]:
        """A lazy run. `key` is an idempotency key: a run with the same key and input is that run,
        whatever it has come to. `state` is what `ctx.state` begins with. Inside another run it is
        a part of that one.
        """
        self.commit()
        begin = [("", e) for e in self._initial(state)]
        return WorkflowRun(
            self, input, codec=self.codec, services=self.services, limits=limits or self.limits,
            deps=deps, thread=thread, resource=resource, key=key, request_context=request_context,
            begin=begin,
        )  # fmt: skip

    stream = run

    def __call__(self, *args: Any, **kwargs: Any) -> WorkflowRun[O]:
        if self._shape is not None:
            return self.run(self._shape.bind(args, kwargs))
        return self.run(args[0] if args else kwargs or None)

    async def start(self, input: Any = None, **options: Any) -> O:
        """The awaited run: its output."""
        return await self.run(input, **options)

    def load(self, id: str, input: Any, **options: Any) -> WorkflowRun[O]:
        """The handle of a run that is in a store."""
        self.commit()
        return WorkflowRun(self, input, id=id, codec=self.codec, services=self.services, **options)

    def _initial(self, state: Mapping[str, Any] | None) -> Iterable[Any]:
        from mastra_nb.events import StateSet

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
        ended = past.bails.get(ctx.path)
        if ended is not None and ended in past.done:
            return past.done[ended]  # type: ignore[no-any-return]
        if not _is_part(ctx) and past.graphs.get(ctx.path) != outline:
            for change in changes(past, ctx.path, outline):
                if change.finished and change.what == "changed":
                    ctx.emit(Noted(level="warning", text=_kept(change.step)))
            ctx.emit(Custom(name=GRAPH, value=outline))
        if self.concurrency is None or not ctx.is_root:
            return await self._run(input, ctx)
        loop = asyncio.get_running_loop()
        slots = self._slots.setdefault(loop, asyncio.Semaphore(self.concurrency))
        async with slots:
            return await self._run(input, ctx)

    async def _run(self, input: Any, ctx: Context) -> O:
        try:
            if self._input is not None:
                input = conform(self._input, input)
            elif self._shape is not None:
                self._shape.arguments(input)
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
        if workflow._output is not None:
            return workflow._output.convert(value)
        return value if workflow._shape is None else workflow._shape.restored(value)


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
        given = input if self._whole or not isinstance(input, dict) else input.get("input")
        return to_json(await self.workflow.invoke(given, ctx))


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


def _name(given: Any) -> str:
    return str(getattr(given, "name", "") or getattr(given, "__name__", given))


def _collected(made: Step[Any]) -> Any:
    return _either(made.output, Failure) if made.on_error == "collect" else made.output


def _either(one: Any, other: Any) -> Any:
    if one is Any or other is Any or isinstance(one, Fields) or isinstance(other, Fields):
        return Any
    return one if one == other else one | other


def _item(type_: Any) -> Any:
    args = getattr(type_, "__args__", ())
    return args[0] if args and getattr(type_, "__origin__", None) in (list, Sequence) else Any


def _circle(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """A way through `needs` that comes back to where it began; [] if there is none."""
    clear: set[str] = set()

    def walk(id: str, way: list[str]) -> list[str]:
        if id in way:
            return [*way[way.index(id) :], id]
        if id in clear:
            return []
        for need in needs[id]:
            if found := walk(need, [*way, id]):
                return found
        clear.add(id)
        return []

    return next((found for id in needs if (found := walk(id, []))), [])
