"""What a workflow is built with: Mastra's verbs, and what they refuse."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Self

from mastra_nb._fits import Fields, misfit, shown
from mastra_nb.errors import ConfigError, SchemaError, close_matches
from mastra_nb.executor import Executor
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
    otherwise,
)
from mastra_nb.schema import Schema
from mastra_nb.shapes import Failure
from mastra_nb.steps import Step, step


class Builder:
    """A plan that grows. What is named in a verb may be a function, a Step, an agent, a tool or
    another workflow; an id is used once. Raises ConfigError for what cannot work, at once.
    """

    name: str

    def __init__(self, *, gives: Any, output: Schema[Any] | None, committed: bool) -> None:
        self._plan: list[Node] = []
        self._ids: set[str] = set()
        # What the newest node gives, as a type.
        self._gives = gives
        self._output = output
        self._committed = committed

    def _changed(self) -> None:
        """A node was added."""

    # The verbs

    def then(self, step: Any, *, when: Callable[..., Any] | None = None) -> Self:
        """The output of what came before is its input. One that `when` leaves out gives that on."""
        made = self._step(step, when)
        self._takes(made, self._gives)
        gives = made.output
        self._add(Then(made), gives if made.when is None else _either(gives, self._gives))
        return self

    def parallel(self, steps: Iterable[Any], *, wait: int | None = None) -> Self:
        """All of them at once with the same input; the output holds theirs by id. `wait`: only of
        the first so many that end; the others are stopped, and what they wait for is withdrawn.
        """
        arms = tuple(self._step(s) for s in steps)
        if not arms:
            raise self._wrong("parallel has no steps", "parallel([fetch, count])")
        if wait is not None and not 0 < wait <= len(arms):
            raise self._wrong(
                f"parallel waits for {wait} of {len(arms)} steps", f"give 1 to {len(arms)}"
            )
        for arm in arms:
            self._takes(arm, self._gives)
        gives = dict if wait else Fields({a.name: _collected(a) for a in arms})
        self._add(Parallel(arms, wait or 0), gives)
        return self

    def branch(
        self, arms: Iterable[tuple[Callable[..., Any], Any]], *, exclusive: bool = False
    ) -> Self:
        """Every step whose condition holds, at once; the output holds theirs by id. `exclusive`:
        only the first of them, whose output it is. The last condition may be `otherwise`.
        """
        made: list[tuple[Callable[..., Any], Step[Any]]] = []
        arm: Any
        for arm in arms:
            if not isinstance(arm, tuple | list) or len(arm) != 2 or not callable(arm[0]):
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

    def do_while(self, step: Any, condition: Callable[..., Any]) -> Self:
        """At least once, and again while `condition` of its output (and of how often it ran)
        holds; each output is the next input.
        """
        return self._loop(step, "while", condition)

    def do_until(self, step: Any, condition: Callable[..., Any]) -> Self:
        """At least once, and again until `condition` of its output holds."""
        return self._loop(step, "until", condition)

    def _loop(self, step: Any, how: Literal["while", "until"], rule: Callable[..., Any]) -> Self:
        if not callable(rule):
            raise self._wrong(
                f"the condition of do_{how} is no function", "do_until(step, is_done)"
            )
        made = self._step(step)
        self._takes(made, self._gives)
        self._takes(made, made.output)
        self._add(Loop(made, how, rule), made.output)
        return self

    def foreach(
        self, step: Any, *, concurrency: int = 1, executor: str | Executor | None = None
    ) -> Self:
        """Once for each item of a list, so many at once; the output is the list of theirs. With an
        `executor` ("local", "dask", or one of yours) the step, a function of a module, runs there.
        """
        if concurrency < 1:
            raise self._wrong(f"concurrency of foreach is {concurrency}", "1 or more")
        made = self._step(step)
        if executor is not None:
            made = made.replace(executor=executor)
        if why := misfit(self._gives, list[Any]):
            raise self._wrong(
                f'foreach of "{made.name}" needs a list, but {why}', "map(...) before"
            )
        self._takes(made, _item(self._gives))
        self._add(ForEach(made, concurrency), list[_collected(made)])  # type: ignore[misc]
        return self

    def map(self, fn: Callable[..., Any], *, id: str = "") -> Self:
        """A small function of the value, whose result is kept."""
        made: Step[Any] = Step(fn, id=id or self._number("map"), kind="map")
        return self.then(made)

    def sleep(self, length: float | dt.timedelta | Callable[..., Any]) -> Self:
        """So many seconds, or what a function of the value says; the value goes through."""
        if isinstance(length, dt.timedelta):
            length = length.total_seconds()
        given: Any = length
        if not callable(given) and not (isinstance(given, int | float) and given >= 0):
            raise self._wrong(f"sleep({length!r}) is no time", "give seconds")
        self._add(Sleep(self._number("sleep"), length), self._gives)
        return self

    def sleep_until(self, moment: dt.datetime | Callable[..., Any]) -> Self:
        """Until then, or until what a function of the value says. Without a time zone in local
        time.
        """
        if not isinstance(moment, dt.datetime) and not callable(moment):
            raise self._wrong(f"sleep_until({moment!r}) is no time", "give a datetime")
        self._add(Sleep(self._number("sleep"), moment), self._gives)
        return self

    def wait_for_event(
        self, name: str, *, schema: Any = None, timeout: float | None = None, default: Any = ...
    ) -> Self:
        """Until `run.send_event(name, value)`: the value, of type or JSON schema `schema`, is the
        output. After `timeout` seconds it is `default`, or the step fails.
        """
        if not name or set(name) & set("/[]#~\0"):
            raise self._wrong(f'waits for "{name}", which is no name', "no / [ ] # or ~ in it")
        if name in self._ids:
            raise self._twice(name)
        gives = schema if schema is not None and not isinstance(schema, dict) else Any
        self._add(WaitForEvent(name, schema, timeout, default), gives)
        self._ids.add(name)
        return self

    def graph(self, steps: Iterable[Any]) -> Self:
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
                        close_matches(name, by_id),
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

    def commit(self) -> Self:
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
        self._is_open()
        if given is self or getattr(given, "fn", None) is self:
            raise self._wrong("is a step of itself", "name another workflow")
        try:
            made = step(given) if when is None else step(given, when=when)
        except (ConfigError, SchemaError) as error:
            error.message = f'workflow "{self.name}": {error.message}'
            error.args = (error.message,)
            raise
        if made.name in self._ids:
            raise self._twice(made.name)
        if isinstance(made.fn, Builder):
            made.fn.commit()
        return made

    def _takes(self, made: Step[Any], given: Any) -> None:
        wanted = made.input
        if why := misfit(given, wanted):
            raise self._wrong(
                f'step "{made.name}" does not take what it is given: {why}',
                f"it takes {shown(wanted)}; map(...) before it makes that of {shown(given)}",
            )

    def _is_open(self) -> None:
        if self._committed:
            raise self._wrong("is committed", "make a new one, and add to it before it runs")

    def _add(self, node: Node, gives: Any) -> None:
        self._is_open()
        ids = [s.name for s in node.steps]
        for i, id in enumerate(ids):
            if id in self._ids or id in ids[:i]:
                raise self._twice(id)
        self._plan.append(node)
        self._ids.update(ids)
        self._gives = gives
        self._changed()

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


def _name(given: Any) -> str:
    return str(getattr(given, "name", "") or getattr(given, "__name__", given))


def _collected(made: Step[Any]) -> Any:
    if made.on_error != "collect":
        return made.output
    return _either(object if made.output is Any else made.output, Failure)


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
