"""Plans as JSON, so that another process can build the same workflow of one, and what their steps
do: as little as possible, and always the same.
"""

from __future__ import annotations

import asyncio
import json
import random as chance
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from hypothesis import strategies as st

from mastra_nb.agents import Agent
from mastra_nb.context import Context
from mastra_nb.errors import MastraError, RunSuspended
from mastra_nb.events import Event, SpanEnded, SpanStarted
from mastra_nb.messages import Message, Text, ToolCall
from mastra_nb.models import ModelRequest
from mastra_nb.runs import Run
from mastra_nb.schema import to_json
from mastra_nb.steps import Step
from mastra_nb.testing import ScriptedModel
from mastra_nb.tools import Tool
from mastra_nb.workflows import Workflow, now, otherwise, random, suspend

# {"t": what it is, "id": its id, ...}; a plan is {"nodes": [...], "input": int}.
Node = dict[str, Any]
Plan = dict[str, Any]

INTEGER = {"type": "integer"}


def mix(*values: Any) -> int:
    return zlib.crc32(json.dumps(to_json(values), sort_keys=True).encode()) % 1000


def answer_to(path: str) -> int:
    return mix("answer", path)


# Generating them


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    ids = iter(range(1000))
    nodes = draw(_nodes(ids, depth=2, least=1))
    return {"nodes": nodes, "input": draw(st.integers(0, 9))}


@st.composite
def _nodes(draw: st.DrawFn, ids: Any, depth: int, least: int = 1) -> list[Node]:
    out: list[Node] = []
    for _ in range(draw(st.integers(least, 4 if depth == 2 else 2))):
        what = draw(st.sampled_from(_KINDS))
        if what == "then":
            out.append(draw(_part(ids, depth, bails=True)))
        elif what == "parallel":
            arms = draw(st.integers(1, 3))
            out.append(
                {
                    "t": "parallel",
                    "arms": [draw(_part(ids, depth, bails=True)) for _ in range(arms)],
                }
            )
        elif what == "branch":
            arms = [draw(_part(ids, depth)) for _ in range(draw(st.integers(1, 3)))]
            rules = [draw(st.integers(0, 2)) for _ in arms]
            exclusive = draw(st.booleans())
            out.append({"t": "branch", "arms": arms, "rules": rules, "exclusive": exclusive})
        elif what == "loop":
            how = draw(st.sampled_from(["while", "until"]))
            rounds = draw(st.integers(1, 3))
            out.append({"t": "loop", "how": how, "rounds": rounds, "step": draw(_part(ids, depth))})
        elif what == "foreach":
            out.append(
                {
                    "t": "foreach",
                    "id": f"list{next(ids)}",
                    "items": draw(st.integers(0, 5)),
                    "concurrency": draw(st.integers(1, 4)),
                    "step": draw(_part(ids, depth)),
                }
            )
        elif what == "graph":
            parts = [draw(_part(ids, depth)) for _ in range(draw(st.integers(1, 4)))]
            needs = [
                sorted(draw(st.sets(st.integers(0, i - 1), max_size=2))) if i else []
                for i in range(len(parts))
            ]
            out.append({"t": "graph", "parts": parts, "needs": needs})
        elif what == "sleep":
            out.append({"t": "sleep", "ms": draw(st.integers(0, 3))})
        else:
            out.append({"t": what, "id": f"{what}{next(ids)}"})
    return out


_KINDS = (
    "then", "then", "then", "parallel", "parallel", "branch", "loop", "foreach", "foreach",
    "graph", "sleep", "event", "map",
)  # fmt: skip


@st.composite
def _part(draw: st.DrawFn, ids: Any, depth: int, bails: bool = False) -> Node:
    """What is usable where a step is."""
    kinds = ["step"] * 6 + ["tool", "agent"] + (["workflow", "body"] if depth else [])
    kind = draw(st.sampled_from(kinds))
    node: Node = {"t": kind, "id": f"{kind}{next(ids)}"}
    if kind == "workflow":
        node["nodes"] = draw(_nodes(ids, depth - 1))
    elif kind == "body":
        node["ops"] = draw(st.lists(_op(ids), min_size=1, max_size=4))
    elif kind == "agent":
        node["asks"] = draw(st.sampled_from([0, 0, 1]))
    elif kind == "step":
        node |= draw(_step(bails=bails))
    if draw(st.integers(0, 7)) == 0:
        node["when"] = draw(st.integers(0, 1))
    return node


@st.composite
def _step(draw: st.DrawFn, bails: bool = False, breaks: bool = True) -> Node:
    out: Node = {"async": draw(st.integers(0, 3)) > 0}
    if draw(st.integers(0, 3)) == 0:
        out["asks"] = draw(st.integers(1, 2))
    fails = draw(st.sampled_from([0, 0, 0, 0, 1, 2, -1 if breaks else 0]))
    if fails:
        out["fails"] = fails
        out["retries"] = max(fails, 0) + draw(st.integers(0, 1))
        if fails < 0:
            out["on_error"] = draw(st.sampled_from(["fail", "collect", "handler", "handler"]))
    if draw(st.integers(0, 2)) == 0:
        out["state"] = True
    if bails and draw(st.integers(0, 15)) == 0:
        out["bail"] = True
    if draw(st.integers(0, 2)) == 0:
        out["ms"] = draw(st.integers(0, 2))
    return out


@st.composite
def _op(draw: st.DrawFn, ids: Any) -> Node:
    what = draw(st.sampled_from(["step", "gather", "loop", "if", "ask", "now", "random", "tool"]))
    out: Node = {"op": what, "id": f"{what}{next(ids)}"}
    if what in ("step", "loop", "if"):
        out["step"] = {"t": "step", "id": f"s{next(ids)}", **draw(_step())}
        out["step"].pop("bail", None)
        out["times"] = draw(st.integers(1, 3))
    elif what == "gather":
        out["parts"] = [
            {"t": "step", "id": f"s{next(ids)}", **draw(_step(breaks=False))}
            for _ in range(draw(st.integers(1, 3)))
        ]
    return out


# Building and running them


class World:
    """What the steps of a plan share. `ended` are paths whose end is known; a step that begins all
    the same is in `again`. `failed` counts how often the step at a path has failed.
    """

    def __init__(self, plan: Plan, note: Callable[[str, str], None] | None = None) -> None:
        self.plan = plan
        self.note = note
        self.ran: list[tuple[str, str]] = []
        self.ended: set[str] = set()
        self.again: list[str] = []
        self.failed: Counter[str] = Counter()
        self.workflow = self._workflow("W", plan["nodes"])

    def trace(self, path: str, what: str) -> None:
        self.ran.append((path, what))
        if what == "start" and path in self.ended:
            self.again.append(path)
            what = "again"
        if what == "fail":
            self.failed[path] += 1
        if self.note is not None:
            self.note(path, what)

    def know(self, events: Iterable[Event]) -> None:
        """What these events say has ended, and how often what failed."""
        self.failed.clear()
        self.ended = ended(events)
        for event in events:
            if isinstance(event.data, SpanEnded) and event.data.status == "error":
                self.failed[event.span] += 1

    def see(self, event: Event) -> None:
        if isinstance(event.data, SpanEnded) and event.data.status == "ok":
            self.ended.add(event.span)

    def _workflow(self, name: str, nodes: list[Node]) -> Workflow[Any]:
        out: Workflow[Any] = Workflow(name=name)
        for node in nodes:
            self._add(out, node)
        return out.commit()

    def _add(self, to: Workflow[Any], node: Node) -> None:
        what = node["t"]
        if what == "parallel":
            to.parallel([self._part(arm) for arm in node["arms"]])
        elif what == "branch":
            arms: list[Any] = [
                (_rule(k, node["arms"][i]["id"]), self._part(node["arms"][i]))
                for i, k in enumerate(node["rules"])
            ]
            arms[-1] = (otherwise, arms[-1][1])
            to.branch(arms, exclusive=node["exclusive"])
        elif what == "loop":
            rounds, step = node["rounds"], self._part(node["step"])
            if node["how"] == "while":
                to.do_while(step, lambda value, n: n < rounds)
            else:
                to.do_until(step, lambda value, n: n >= rounds)
        elif what == "foreach":
            items = node["items"]
            to.map(lambda value: [mix(value, i) for i in range(items)], id=node["id"])
            to.foreach(self._part(node["step"]), concurrency=node["concurrency"])
        elif what == "graph":
            parts = node["parts"]
            to.graph(
                [
                    self._part(part, depends_on=[parts[n]["id"] for n in needs])
                    for part, needs in zip(parts, node["needs"], strict=True)
                ]
            )
        elif what == "sleep":
            to.sleep(node["ms"] / 1000)
        elif what == "event":
            to.wait_for_event(node["id"], schema=INTEGER)
        elif what == "map":
            to.map(lambda value: mix(node["id"], value), id=node["id"])
        else:
            to.then(self._part(node))

    def _part(self, node: Node, **options: Any) -> Step[Any]:
        kind, id = node["t"], node["id"]
        if "when" in node:
            options["when"] = lambda value: mix(id, value) % 2 == node["when"]
        if kind == "workflow":
            return Step(self._workflow(id, node["nodes"]), **options)
        if kind == "body":
            return Step(self._body(node), **options)
        if kind == "tool":
            # It takes its arguments by name.
            inner = Workflow[Any](name=id).map(lambda value: {"value": value})
            return Step(inner.then(self._tool("use")), **options)
        if kind == "agent":
            return Step(self._agent(node), **options)
        if "retries" in node:
            options |= {"retries": node["retries"], "retry_delay": 0}
        if how := node.get("on_error"):
            options["on_error"] = (lambda error, v: mix(id, v)) if how == "handler" else how
        return Step(self._function(node), id=id, **options)

    def _function(self, node: Node) -> Callable[..., Any]:
        def begin(value: Any, ctx: Context) -> Any:
            self.trace(ctx.path, "start")
            if node.get("state"):
                ctx.state[ctx.path] = ctx.state.get(ctx.path, 0) + 1

        def rest(value: Any, ctx: Context) -> Any:
            given = [
                ctx.suspend({"nth": n, "of": node["id"]}, schema=INTEGER)
                for n in range(node.get("asks", 0))
            ]
            fails = node.get("fails", 0)
            if fails < 0 or self.failed[ctx.path] < fails:
                self.trace(ctx.path, "fail")
                raise ValueError("it is broken")
            self.trace(ctx.path, "end")
            if node.get("bail"):
                ctx.bail(mix(node["id"], value, given))
            return mix(node["id"], value, given)

        if node.get("async"):

            async def work(value: Any, ctx: Context) -> Any:
                begin(value, ctx)
                if "ms" in node:
                    await asyncio.sleep(node["ms"] / 1000)
                return rest(value, ctx)

            return work

        def work_in_a_thread(value: Any, ctx: Context) -> Any:
            begin(value, ctx)
            return rest(value, ctx)

        return work_in_a_thread

    def _tool(self, id: str, asks: int = 0) -> Tool:
        async def use(value: Any, ctx: Context) -> int:
            self.trace(ctx.path, "start")
            given = [ctx.suspend({"tool": id}, schema=INTEGER) for _ in range(asks)]
            self.trace(ctx.path, "end")
            return mix(id, value, given)

        return Tool(use, name=id)

    def _agent(self, node: Node) -> Agent[Any]:
        def say(request: ModelRequest) -> Message:
            last = request.messages[-1]
            if last.role == "user":
                call = ToolCall(id="c1", name="look", args=json.dumps({"value": mix(last.text)}))
                return Message(role="assistant", parts=(call,))
            given = [p.output for p in last.parts]  # type: ignore[union-attr]
            return Message(role="assistant", parts=(Text(text=f"It is {mix(given)}."),))

        model = ScriptedModel(say, repeat=True)
        return Agent(name=node["id"], model=model, tools=[self._tool("look", node["asks"])])

    def _body(self, node: Node) -> Workflow[Any]:
        async def body(value: Any) -> Any:
            for op in node["ops"]:
                value = await self._do(op, value)
            return value

        return Workflow(name=node["id"], body=body)

    async def _do(self, op: Node, value: Any) -> Any:
        what, id = op["op"], op["id"]
        if what == "ask":
            return mix(value, await suspend({"ask": id}, schema=INTEGER, name=id))
        if what == "tool":
            return await self._tool(id).run({"value": value})
        if what == "gather":
            steps = [self._part(part) for part in op["parts"]]
            return await asyncio.gather(*(step.run(value) for step in steps))
        if what in ("now", "random"):
            # It is another one in another run; in this one the step is known by it.
            made = (await now()).timestamp() if what == "now" else await random()
            await self._part({"t": "step", "id": id}).run(made)
            return value
        step = self._part(op["step"])
        if what == "loop":
            for n in range(op["times"]):
                value = await step.run([value, n])
            return value
        if what == "if" and mix(id, value) % 2:
            return value
        try:
            return await step.run(value)
        except MastraError as error:
            return mix(value, error.code)
        except ValueError as error:
            return mix(value, str(error))


def _rule(k: int, id: str) -> Callable[[Any], bool]:
    return lambda value: mix("rule", id, value) % 3 <= k


def ended(events: Iterable[Event]) -> set[str]:
    return {e.span for e in events if isinstance(e.data, SpanEnded) and e.data.status == "ok"}


def started(events: Iterable[Event]) -> set[str]:
    return {e.span for e in events if isinstance(e.data, SpanStarted)}


def place(waiting: str) -> str:
    """The span that the suspension is in."""
    return waiting.partition("~")[0]


def outcome(run: Run[Any]) -> dict[str, Any]:
    """What has to be the same, however often the run was cut off."""
    view = run.view
    error = view.spans[view.root].error
    return {
        "status": run.status,
        "output": to_json(run.output) if run.status == "done" else None,
        "error": None if error is None else [error.code, error.message],
        "state": dict(view.state) if run.status == "done" else None,
    }


async def to_the_end(
    run: Run[Any], order: chance.Random, answered: set[str] | None = None
) -> Run[Any]:
    """Answers what it waits for in any order; what was answered is not asked for again, and what
    waits beside it does not begin again.
    """
    answered = set() if answered is None else answered
    beside: set[str] = set()
    before = len(run.log.events)
    for _ in range(500):
        try:
            await run
        except RunSuspended:
            waits = sorted(run.pending)
        except (MastraError, ValueError):
            assert run.status == "failed"
            waits = []
        else:
            waits = []
        again = started(run.log.events[before:]) & beside
        assert not again, f"they waited, and began again: {again}"
        if run.status != "suspended":
            return run
        assert waits, "it waits for nothing"
        assert not answered & set(waits), f"asked again: {answered & set(waits)}"
        path = order.choice(waits)
        answered.add(path)
        beside = {place(p) for p in waits if p != path}
        before = sum(e.durable for e in run.log.events)
        run = run.resume(answer_to(path), path=path)
    raise AssertionError("it never ends")
