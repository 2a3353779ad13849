"""Walks a plan through `ctx.call` and the journal; nothing else.

What has ended is taken from the journal, what waits goes on waiting, the rest is called. Siblings
of a step that fails or waits run to their end: what they give is kept.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mastra_nb._later import later
from mastra_nb.context import Context
from mastra_nb.errors import Bail, StepError, Suspend
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
from mastra_nb.schema import to_json
from mastra_nb.shapes import SKIPPED, Bailed
from mastra_nb.steps import Step, asked, decide
from mastra_nb.timers import until, wait_until

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = later("asyncio", globals())


class Walk:
    """One passage of a plan. `results` are what its steps have given, by id."""

    def __init__(self, plan: Sequence[Node], input: Any, ctx: Context) -> None:
        self.plan = plan
        self.input = input
        self.ctx = ctx
        self.results: dict[str, Any] = {}

    async def run(self) -> Any:
        ctx, value = self.ctx, self.input
        ctx.run.walks[ctx.path] = self
        try:
            for node in self.plan:
                value = await _WALKS[type(node)](self, node, value)
        except Bail as bail:
            return bail.value
        finally:
            del ctx.run.walks[ctx.path]
        return value

    async def _then(self, node: Then, value: Any) -> Any:
        given = await self._step(node.step, value)
        return value if given is SKIPPED else given

    async def _parallel(self, node: Parallel, value: Any) -> Any:
        if node.wait:
            return await self._first(node, value)
        return await self._together(node.arms, value)

    async def _sleep(self, node: Sleep, value: Any) -> Any:
        await self.ctx.call(_Timer(node, value), None, segment=node.id)
        return value

    async def _wait(self, node: WaitForEvent, value: Any) -> Any:
        self.results[node.id] = given = await self.ctx.call(_Event(node), None, segment=node.id)
        return given

    async def _step(
        self, step: Step[Any], value: Any, segment: str = "", *, lazy: bool = False
    ) -> Any:
        """What the step gave; raises Bail where it has ended the workflow."""
        at = segment or step.name
        if step.plain:
            given = await self.ctx.call(step.target, value, segment=at, codec=step.codec, lazy=lazy)
        else:
            given = await step.called(self.ctx, value, at, lazy=lazy)
        if type(given) is Bailed:
            raise Bail(given.value)
        if not segment:
            self.results[at] = value if given is SKIPPED else given
        return given

    async def _together(self, steps: Sequence[Step[Any]], value: Any) -> dict[str, Any]:
        given = await together([self._step(step, value) for step in steps])
        pairs = zip(steps, given, strict=True)
        return {step.name: each for step, each in pairs if each is not SKIPPED}

    async def _first(self, node: Parallel, value: Any) -> dict[str, Any]:
        """What the first so many arms gave; which they are is kept, and the others are stopped."""
        run, base = self.ctx.run, self.ctx.path
        arms = {f"{base}/{arm.name}": arm for arm in node.arms}
        # Those that had ended when a drive was cut off have ended before the others.
        won = [path for path in run.past.done if path in arms]
        if f"{base}/{node.id}" not in run.past.done and len(won) < node.wait:
            won = await self._race(arms, node.wait, won, value)
        names = await self.ctx.value(
            node.id, lambda: [arms[path].name for path in won[: node.wait]]
        )
        kept = [path for name in names if (path := f"{base}/{name}") in arms]
        run.end_below([path for path in arms if path not in kept])
        for path in kept:
            if arms[path].name not in self.results:
                await self._step(arms[path], value)
        return {arms[path].name: self.results[arms[path].name] for path in kept}

    async def _race(
        self, arms: Mapping[str, Step[Any]], wait: int, ended: Sequence[str], value: Any
    ) -> list[str]:
        """The arms that ended first, in that order. The others are stopped."""
        order = [*ended, *(path for path in arms if path not in ended)]
        tasks = {asyncio.ensure_future(self._step(arms[p], value)): p for p in order}
        won, errors = list[str](), list[BaseException]()
        left = set(tasks)
        try:
            while left and len(won) < wait and not any(isinstance(e, Bail) for e in errors):
                done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                for task in (t for t in tasks if t in done):
                    if (error := _raised(task)) is not None:
                        errors.append(error)
                    elif task.result() is not SKIPPED:
                        won.append(tasks[task])
        finally:
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left)
        # One that has ended the workflow in the meantime has ended it, for the journal too.
        errors += [e for task in left if isinstance(e := _raised(task), Bail)]
        waiting = sum(isinstance(_raised(task), Suspend) for task in tasks)
        able = len(won) + waiting >= wait
        if len(won) < wait:
            errors = [e for e in errors if not (able and isinstance(e, Exception))]
        else:
            errors = [e for e in errors if not isinstance(e, Exception | Suspend)]
        if errors:
            raise _worst(errors)
        return won

    async def _branch(self, node: Branch, value: Any) -> Any:
        async def chosen() -> list[int]:
            out: list[int] = []
            for i, (rule, _) in enumerate(node.arms):
                if out and (node.exclusive or rule is otherwise):
                    break
                if await asked(rule, self.ctx, value):
                    out.append(i)
            return out

        taken = [node.arms[i][1] for i in await self.ctx.value(node.id, chosen)]
        if not node.exclusive:
            return await self._together(taken, value)
        if not taken:
            raise StepError(
                f'no arm of the branch "{node.id}" was chosen',
                code="step.branch",
                hint="add an arm with the condition otherwise",
            )
        given = await self._step(taken[0], value)
        return value if given is SKIPPED else given

    async def _loop(self, node: Loop, value: Any) -> Any:
        i = 0
        while True:
            at = f"{node.step.name}[{i}]"
            given = await self._step(node.step, value, at)
            value = value if given is SKIPPED else given
            i += 1
            goes_on = await decide(self.ctx, f"{node.how}:{at}", node.rule, value, i)
            if goes_on is (node.how == "until"):
                self.results[node.step.name] = value
                return value

    async def _foreach(self, node: ForEach, value: Any) -> list[Any]:
        if not isinstance(value, list | tuple):
            value = to_json(value)
        if not isinstance(value, list | tuple):
            raise StepError(
                f'foreach of "{node.step.name}" was given a {type(value).__name__}, no list',
                code="step.input",
                hint="map(...) before it makes one",
            )
        step, out, errors = node.step, [None] * len(value), list[BaseException]()
        todo: Iterator[int] = iter(range(len(value)))
        lazy = node.concurrency > 1

        async def work() -> None:
            for i in todo:
                try:
                    given = await self._step(step, value[i], f"{step.name}[{i}]", lazy=lazy)
                except Suspend as error:
                    errors.append(error)
                except (Exception, Bail) as error:
                    errors.append(error)
                    for _ in todo:
                        pass
                else:
                    out[i] = value[i] if given is SKIPPED else given

        workers = min(node.concurrency, len(value))
        if workers > 1:
            await together([work() for _ in range(workers)])
        else:
            await work()
        if errors:
            raise _worst(errors)
        self.results[step.name] = out
        return out

    async def _graph(self, node: Graph, value: Any) -> Any:
        """A step gets what it depends on: the output of one, of several those by id."""
        tasks: dict[str, asyncio.Task[Any]] = {}
        unmet = object()

        async def one(step: Step[Any], needs: tuple[str, ...]) -> Any:
            given = {}
            for need in needs:
                try:
                    found = await asyncio.shield(tasks[need])
                except (Exception, Suspend, Bail):
                    return unmet
                if found is unmet:
                    return unmet
                given[need] = None if found is SKIPPED else found
            input = value if not needs else given[needs[0]] if len(needs) == 1 else given
            return await self._step(step, input)

        coroutines = []
        for step in node.parts:
            made = one(step, node.needs[step.name])
            coroutines.append(made)

        def began(created: list[asyncio.Task[Any]]) -> None:
            tasks.update(zip([s.name for s in node.parts], created, strict=True))

        given = await together(coroutines, began)
        ends = {
            step.name: None if each is SKIPPED else each
            for step, each in zip(node.parts, given, strict=True)
            if step.name in node.ends
        }
        return next(iter(ends.values())) if len(ends) == 1 else ends


_WALKS: dict[type, Callable[[Walk, Any, Any], Coroutine[Any, Any, Any]]] = {
    Then: Walk._then,
    Parallel: Walk._parallel,
    Branch: Walk._branch,
    Loop: Walk._loop,
    ForEach: Walk._foreach,
    Graph: Walk._graph,
    Sleep: Walk._sleep,
    WaitForEvent: Walk._wait,
}


async def together(work: Sequence[Coroutine[Any, Any, Any]], began: Any = None) -> list[Any]:
    """What each gave. All of them come to rest before the worst of what they raised is raised."""
    if len(work) == 1 and began is None:
        return [await work[0]]
    tasks = [asyncio.ensure_future(each) for each in work]
    if began is not None:
        began(tasks)
    found = await asyncio.gather(*tasks, return_exceptions=True)
    errors = [each for each in found if isinstance(each, BaseException)]
    if errors:
        raise _worst(errors)
    return found


def _raised(task: asyncio.Task[Any]) -> BaseException | None:
    return asyncio.CancelledError() if task.cancelled() else task.exception()


def _worst(errors: Sequence[BaseException]) -> BaseException:
    """What ends the process or the run, then what ends the workflow, then errors, then waiting."""

    def rank(error: BaseException) -> int:
        if isinstance(error, Suspend):
            return 3
        return 2 if isinstance(error, Exception) else int(isinstance(error, Bail))

    return min(errors, key=rank)


class _Timer:
    kind = "timer"

    def __init__(self, node: Sleep, value: Any) -> None:
        self.name = node.id
        self._length = node.length
        self._value = value

    async def invoke(self, input: Any, ctx: Context, /) -> None:
        """Until the same moment, however often it is begun."""

        async def moment() -> float:
            length: Any = self._length
            if callable(length):
                length = await asked(length, ctx, self._value)
            return until(length, ctx.services.now())

        await wait_until(await ctx.value("until", moment), ctx)


class _Event:
    kind = "event"

    def __init__(self, node: WaitForEvent) -> None:
        self.name = node.id
        self._node = node

    async def invoke(self, input: Any, ctx: Context, /) -> Any:
        node = self._node
        given = ctx.suspend(
            {"event": node.id},
            schema=node.schema,
            reason="event",
            timeout=node.timeout,
            default=node.default,
        )
        return await given if isinstance(given, Awaitable) else given
