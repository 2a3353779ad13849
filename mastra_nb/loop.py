"""The agent's turn: ask the model, run the tools it calls, until it answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import msgspec

from mastra_nb._later import later
from mastra_nb.context import Context, error_info
from mastra_nb.errors import (
    Blocked,
    LimitExceeded,
    ModelOutputError,
    ModelRefused,
    SchemaError,
    Suspend,
    ToolArgsError,
    close_matches,
)
from mastra_nb.language import OUTPUT_RETRIES, Output, again, no_valid_answer, structured
from mastra_nb.messages import (
    Finish,
    Message,
    Reasoning,
    ToolCall,
    ToolResult,
    ToolSpec,
    system,
    user,
)
from mastra_nb.models import MODEL, Model, ModelRequest, ModelSettings, Reply, ready, resolve
from mastra_nb.processors import Filtered, Processor, Step, Turn, with_stage
from mastra_nb.schema import parse_json
from mastra_nb.tools import ToolLike

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = later("asyncio", globals())

BAD_CALL_STEPS = 3
BROKEN_RETRIES = 1
PROCESSOR_RETRIES = 2


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """One finished step: what the model said, and the results of the tools it called."""

    index: int
    message: Message
    results: tuple[ToolResult, ...] = ()
    finish: Finish = "stop"


StopWhen = Callable[[Sequence[StepResult]], bool | Awaitable[bool]]
"""Asked after each step that called tools, with all finished steps; True ends the turn."""


def step_count_is(n: int) -> StopWhen:
    return lambda steps: len(steps) >= n


def has_tool_call(name: str) -> StopWhen:
    return lambda steps: any(c.name == name for c in steps[-1].message.tool_calls)


class Handoff(Protocol):
    """An agent that may take over a conversation; `spec` is the tool that a model asks with."""

    @property
    def name(self) -> str: ...

    @property
    def spec(self) -> ToolSpec: ...

    async def take_over(self, plan: Plan, turn: Turn, steps: int, ctx: Context) -> Any:
        """Go on with `turn`, in at most `steps` model calls; what is said is added to it."""


class Plan(msgspec.Struct, kw_only=True, frozen=True):
    """Everything a turn needs to know. With `structuring` a typed answer is made of the raw one
    by that model, in a call of its own.
    """

    model: Model
    instructions: str
    tools: Mapping[str, ToolLike]
    output: Output[Any] | None
    max_steps: int
    settings: ModelSettings
    tool_choice: str
    processors: Sequence[Processor]
    thread: str = ""
    resource: str = ""
    concurrency: int = 10
    structuring: Model | None = None
    stop_when: Sequence[StopWhen] = ()
    handoffs: Mapping[str, Handoff] = {}
    processor_retries: int = PROCESSOR_RETRIES
    # Steps of the agents that had the turn before.
    begun: int = 0


async def run_turn(
    plan: Plan, prompt: Sequence[Message], ctx: Context, turn: Turn | None = None
) -> Any:
    """Returns the model's text, or the value of the output type.

    Raises ModelError, LimitExceeded, and what a processor raises. Whatever happens, what was
    said is in the log, no tool call is left without a result, and `after` was called; only a
    run that waits for an answer is left as it is.
    """
    turn = turn or Turn(
        plan.instructions, plan.thread, prompt, resource=plan.resource, model=plan.model
    )
    loop = _Loop(plan, turn, ctx)
    try:
        for processor in plan.processors:
            await processor.process_input(turn, ctx)
        if plan.processors:
            turn.screened = turn.said()
        for message in turn.prompt:
            turn.add(ctx.record(message))
        try:
            result = await loop.run()
        except Suspend:
            await loop.settle()
            raise
    except Suspend:
        raise
    except BaseException:
        await loop.stop()
        _close(turn, ctx)
        await _after(plan, turn, ctx)
        raise
    await _after(plan, turn, ctx)
    return result


async def _after(plan: Plan, turn: Turn, ctx: Context) -> None:
    for processor in reversed(plan.processors):
        await processor.after(turn, ctx)


class _Loop:
    def __init__(self, plan: Plan, turn: Turn, ctx: Context) -> None:
        self.plan = plan
        self.turn = turn
        self.ctx = ctx
        self.specs = tuple(t.spec for t in plan.tools.values())
        if plan.handoffs:
            self.specs += tuple(h.spec for h in plan.handoffs.values())
        several = plan.processors
        self.before_step = several and with_stage(several, "process_input_step")
        self.on_stream = several and with_stage(several, "process_output_stream")
        self.after_step = several and with_stage(several, "process_output_step")
        self.before_call = several and with_stage(several, "before_tool_call")
        self.after_call = several and with_stage(several, "after_tool_call")
        self.in_one = plan.output is not None and plan.structuring is None
        self.blocked = 0
        # Tools that run in the background, by their part of the path.
        self.tasks: dict[str, asyncio.Task[ToolResult | BaseException]] = {}

    async def run(self) -> Any:
        plan, turn = self.plan, self.turn
        wrong_outputs = bad_steps = broken = 0
        begun = ""  # of an answer that was paused
        steps: list[StepResult] = []
        for step in range(plan.max_steps):
            if self.tasks:
                await self._deliver(step)
            asked = await self._ask(step)
            if asked is None:
                continue
            reply, tools = asked
            if calls := reply.message.tool_calls:
                if step + 1 == plan.max_steps:
                    break
                begun = ""
                wrong = await self._run_tools(calls, tools, step)
                for call in calls if plan.handoffs else ():
                    if call.name in plan.handoffs:
                        return await self._hand_over(call.name, calls, step)
                bad_steps = bad_steps + 1 if wrong else 0
                if bad_steps == BAD_CALL_STEPS:
                    raise self._called_wrongly()
                if plan.stop_when:
                    steps.append(self._result(step, reply))
                    if await self._stops(steps):
                        return await self._stopped_answer(step)
                continue
            if reply.finish == "pause":
                begun += reply.message.text
                continue
            if self.tasks:
                await self.settle()
                continue
            text, begun = begun + reply.message.text, ""
            if not text and reply.finish == "error":
                broken += 1
                if broken > BROKEN_RETRIES:
                    raise ModelOutputError(
                        f'"{plan.model.name}" broke off without an answer {broken} times',
                        hint="simplify the tools' parameters or the question, or use another model",
                    )
                self._again_after_nothing()
                continue
            if not text and reply.finish == "content-filter":
                raise ModelRefused(
                    f'"{plan.model.name}" refused to answer', hint="rephrase the request"
                )
            if not self.in_one:
                return await self._typed(text)
            assert plan.output is not None
            try:
                return plan.output.parse(text)
            except SchemaError as error:
                wrong_outputs += 1
                if wrong_outputs > OUTPUT_RETRIES:
                    raise no_valid_answer(plan.model.name, plan.output, text, error) from None
                turn.drafts.add(turn.new[-1][0])
                self._draft(again(error))
        raise _out_of_steps(plan.begun + plan.max_steps, self.ctx)

    def _called_wrongly(self) -> ModelOutputError:
        told = [p for p in self.turn.new[-1][1].parts if isinstance(p, ToolResult) and p.is_error]
        last = f": {_json(told[0].output)}" if told else ""
        return ModelOutputError(
            f'"{self.plan.model.name}" called tools wrongly {BAD_CALL_STEPS} times in a row'
            f"{last[:400]}",
            hint="simplify the tools' parameters, describe them, or use a larger model",
        )

    def _again_after_nothing(self) -> None:
        """No provider takes an answer back that says nothing."""
        self.turn.new.pop()
        self._draft("Your last answer broke off: it could not be read. Answer again.")

    # The answer

    async def _typed(self, text: str) -> Any:
        plan = self.plan
        if plan.output is None:
            return text
        model = plan.structuring or plan.model
        return await structured(model, text, plan.output, plan.settings, self.ctx)

    def _result(self, step: int, reply: Reply) -> StepResult:
        told = self.turn.new[-1][1].parts
        results = tuple(p for p in told if isinstance(p, ToolResult))
        return StepResult(index=step, message=reply.message, results=results, finish=reply.finish)

    async def _stops(self, steps: Sequence[StepResult]) -> bool:
        for predicate in self.plan.stop_when:
            found = predicate(steps)
            if await found if isinstance(found, Awaitable) else found:
                return True
        return False

    async def _stopped_answer(self, step: int) -> Any:
        """The last text; a typed answer is made of that, or else of what the tools gave."""
        told = [p for p in self.turn.new[-1][1].parts if isinstance(p, ToolResult)]
        given = [f"{p.name}: {_json(p.output)}" for p in told]
        if self.tasks:
            await self.settle()
            await self._deliver(step + 1)
            given.append(self.turn.new[-1][1].text)
        said = [m.text for _, m in self.turn.new if m.role == "assistant" and m.text]
        if said or self.plan.output is None:
            return await self._typed(said[-1] if said else "")
        return await self._typed("\n".join(given))

    # Asking the model

    def _draft(self, text: str) -> None:
        self.turn.add(self.ctx.record(user(text)), draft=True)

    async def _ask(self, step: int) -> tuple[Reply, Mapping[str, ToolLike]] | None:
        """None if a processor had the answer thrown away; the model is told why."""
        plan, turn, ctx = self.plan, self.turn, self.ctx
        model, tools, specs, settings = plan.model, plan.tools, self.specs, plan.settings
        choice = plan.tool_choice if step == 0 or plan.tool_choice == "none" else "auto"
        first = (system(turn.instructions),) if turn.instructions else ()
        messages = first + turn.messages()
        output = plan.output.json if self.in_one and plan.output is not None else None
        if self.before_step:
            changed = Step(
                index=step,
                model=model,
                messages=[*messages],
                tools=tools,
                tool_choice=choice,
                settings=settings,
                output=output,
            )
            for processor in self.before_step:
                await processor.process_input_step(changed, turn, ctx)
            if changed.model is not model:
                model = ready(resolve(changed.model), ctx.services)
            if changed.tools is not tools:
                tools = changed.tools
                specs = tuple(t.spec for t in tools.values())
                specs += tuple(h.spec for h in plan.handoffs.values())
            messages, choice = tuple(changed.messages), changed.tool_choice
            settings, output = changed.settings, changed.output
        if output is not None and not model.profile.json_schema:
            messages, output = _told(messages, output), None
        request = ModelRequest(
            messages=messages, tools=specs, tool_choice=choice, output=output, settings=settings
        )
        if self.on_stream or self.after_step:
            model = Filtered(model, turn, stream=self.on_stream, output=self.after_step)
        path = f"{ctx.path}/model[{step}]"
        failed = ctx.run.past.failed.get(path)
        if failed is not None and failed.retry and self._may_ask_again(failed.message):
            return None
        try:
            reply = await ctx.call(model, request, segment=f"model[{step}]", codec=MODEL)
        except BaseException as error:
            if (
                isinstance(error, Blocked)
                and error.retry
                and ctx.run.refusal is None
                and self._may_ask_again(error.message)
            ):
                return None
            partial = ctx.run.said(path)
            if partial is not None and (partial[1].text or partial[1].tool_calls):
                turn.add(partial)
            raise
        self.blocked = 0
        said = ctx.run.said(path)
        assert said is not None
        turn.add(said)
        return reply, tools

    def _may_ask_again(self, reason: str) -> bool:
        if self.blocked >= self.plan.processor_retries:
            return False
        self.blocked += 1
        self._draft(f"Your last answer was thrown away: {reason}. Answer again.")
        return True

    # Running its tools

    async def _run_tools(
        self, calls: tuple[ToolCall, ...], tools: Mapping[str, ToolLike], step: int
    ) -> bool:
        """Returns True if no call could even be made: unknown tools or wrong arguments only."""
        turn, ctx = self.turn, self.ctx
        failed = ctx.run.past.failed
        segments = [f"{c.name.replace('/', ':')[:64]}[{step}.{i}]" for i, c in enumerate(calls)]
        if (told := ctx.recorded()) is not None:
            turn.add(ctx.record(told[1]))
            for call, segment, part in zip(calls, segments, told[1].parts, strict=False):
                if isinstance(part, ToolResult) and part.output == _started(segment):
                    await self._begin(call, segment, tools)
            codes = [f.code if (f := failed.get(f"{ctx.path}/{s}")) else "" for s in segments]
            return all(code == ToolArgsError.default_code for code in codes)
        turn.results = [_not_run(call) for call in calls]
        taken = next((c for c in calls if c.name in self.plan.handoffs), None)
        limit = asyncio.Semaphore(self.plan.concurrency) if len(calls) > 1 else None

        async def one(i: int, call: ToolCall) -> bool:
            if call.name in self.plan.handoffs:
                text = f'"{call.name}": done' if call is taken else "not made: another one was"
                turn.results[i] = ToolResult(id=call.id, name=call.name, output=text)
                return False
            if limit is None:
                turn.results[i], wrong = await self._call(call, segments[i], tools, i)
            else:
                async with limit:
                    turn.results[i], wrong = await self._call(call, segments[i], tools, i)
            return wrong

        outcomes: Sequence[bool | BaseException]
        if len(calls) == 1:
            outcomes = [await one(0, calls[0])]
        else:
            # Siblings of a call that suspends or fails run to their end: their results are kept.
            outcomes = await asyncio.gather(
                *(one(i, c) for i, c in enumerate(calls)), return_exceptions=True
            )
        errors = [o for o in outcomes if isinstance(o, BaseException)]
        if errors:
            raise min(errors, key=lambda e: not isinstance(e, Exception))
        turn.add(ctx.record(Message(role="tool", parts=tuple(turn.results))))
        turn.results = []
        return all(outcomes)

    async def _call(
        self, call: ToolCall, segment: str, tools: Mapping[str, ToolLike], i: int
    ) -> tuple[ToolResult, bool]:
        begun = await self._begin(call, segment, tools)
        if isinstance(begun, ToolResult):
            return begun, False
        made, target = begun
        self.turn.results[i] = _failed(call, "stopped before it was finished")
        try:
            return await self._outcome(call, made, target, segment)
        except Exception:
            self.turn.results[i] = _not_run(call)
            raise

    async def _begin(
        self, call: ToolCall, segment: str, tools: Mapping[str, ToolLike]
    ) -> ToolResult | tuple[ToolCall, ToolLike | _UnknownTool]:
        """What is to be called; or the result, if that is known or will follow."""
        made = call
        for processor in self.before_call:
            found = await processor.before_tool_call(made, self.turn, self.ctx)
            if isinstance(found, ToolResult):
                return msgspec.structs.replace(found, id=call.id, name=call.name)
            made = found or made
        target = tools.get(made.name) or _UnknownTool(made.name, tools)
        if not getattr(target, "background", False):
            return made, target

        async def work() -> ToolResult | BaseException:
            try:
                return (await self._outcome(call, made, target, segment))[0]
            except (Suspend, Exception) as error:
                return error

        self.tasks[segment] = asyncio.create_task(work())
        await asyncio.sleep(0)  # so that it has begun when the model is told so
        return ToolResult(id=call.id, name=call.name, output=_started(segment))

    async def _outcome(
        self, call: ToolCall, made: ToolCall, target: ToolLike | _UnknownTool, segment: str
    ) -> tuple[ToolResult, bool]:
        """Raises what ends the turn."""
        ctx = self.ctx
        known = ctx.run.past.failed.get(f"{ctx.path}/{segment}")
        wrong = False
        if known is not None and not known.code.startswith(_NOT_TOLD):
            result, wrong = _failed(call, known.message), known.code == ToolArgsError.default_code
        else:
            try:
                output = await ctx.call(target, _json_or_text(made.args), segment=segment)
                result = ToolResult(id=call.id, name=call.name, output=output)
            except Exception as error:
                if _ends_turn(error, ctx):
                    raise
                result, wrong = _failed(call, _reason(error)), isinstance(error, ToolArgsError)
        for processor in self.after_call:
            found = await processor.after_tool_call(made, result, self.turn, ctx)
            if found is not None:
                result = msgspec.structs.replace(found, id=call.id, name=call.name)
        return result, wrong

    # Tools in the background

    async def _deliver(self, step: int) -> None:
        """Tell the model of what has finished since. What that was is journaled."""
        ctx, name = self.ctx, f"background[{step}]"
        done = [segment for segment, task in self.tasks.items() if task.done()]
        if f"{ctx.path}/{name}" not in ctx.run.past.done:
            for segment in done:
                if isinstance(waits := self.tasks[segment].result(), Suspend):
                    raise waits
        parts = []
        for segment in await ctx.value(name, lambda: done):
            result = await self.tasks.pop(segment)
            if isinstance(result, BaseException):
                raise result
            how = "failed" if result.is_error else "has finished"
            parts.append(f'Task "{segment}" {how}: {_json(result.output)}')
        if parts:
            self.turn.add(ctx.record(user("\n\n".join(parts))))

    async def settle(self) -> None:
        """Let what runs in the background come to its end."""
        if self.tasks:
            await asyncio.wait(self.tasks.values())

    async def stop(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await self.settle()

    # Handing over

    async def _hand_over(self, name: str, calls: tuple[ToolCall, ...], step: int) -> Any:
        """The other agent goes on with the turn; it does not see how it came to it."""
        plan, turn, ctx = self.plan, self.turn, self.ctx
        await self.settle()
        if self.tasks:
            await self._deliver(step + 1)
        noise = {c.id for c in calls if c.name in plan.handoffs}
        known = {seq for seq, _ in turn.new}
        rest = Turn("", plan.thread, resource=plan.resource)
        rest.history = turn.history
        for seq, message in turn.kept:
            left = _without(message, noise)
            if left is message or left.parts:
                rest.new.append((seq, left))
            else:
                turn.drafts.add(seq)
        other = plan.handoffs[name]
        try:
            with ctx.span("handoff", other.name, segment=f"{other.name}[{step}]") as inner:
                return await other.take_over(plan, rest, plan.max_steps - step - 1, inner)
        finally:
            turn.new += [each for each in rest.new if each[0] not in known]
            turn.drafts |= rest.drafts


def _without(message: Message, ids: set[str]) -> Message:
    """The message without these tool calls and their results."""
    parts = tuple(
        p for p in message.parts if not (isinstance(p, ToolCall | ToolResult) and p.id in ids)
    )
    if len(parts) == len(message.parts):
        return message
    silent = all(isinstance(p, Reasoning) for p in parts)
    return msgspec.structs.replace(message, parts=() if silent else parts)


def _told(messages: tuple[Message, ...], output: dict[str, Any]) -> tuple[Message, ...]:
    """For a model that cannot be held to a schema."""
    shape = f"Answer with JSON that fits this schema: {_json(output)}"
    if messages and messages[0].role == "system":
        return (system(f"{messages[0].text}\n\n{shape}"), *messages[1:])
    return (system(shape), *messages)


def _out_of_steps(limit: int, ctx: Context) -> LimitExceeded:
    return LimitExceeded(
        f"no answer after {limit} steps",
        hint="raise max_steps=... or ask for less",
        details={"limit": "steps", "value": limit, "path": ctx.path},
    )


def _json(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _started(segment: str) -> str:
    return f'started as task "{segment}"; its result will follow'


# Codes of errors that are about the run, not about the tool: no answer for a model.
_NOT_TOLD = ("run.", "storage")


def _ends_turn(error: Exception, ctx: Context) -> bool:
    """True unless the model is told: a tool failed, or a part of the run used up its own limits."""
    if ctx.run.refusal is not None:
        return True
    if not isinstance(error, LimitExceeded):
        return False
    scope = error.details.get("path", "")
    return not scope or f"{ctx.path}/".startswith(f"{scope}/")


def _reason(error: Exception) -> str:
    return error_info(error).message


def _failed(call: ToolCall, text: str) -> ToolResult:
    return ToolResult(id=call.id, name=call.name, output=text, is_error=True)


def _not_run(call: ToolCall) -> ToolResult:
    return _failed(call, "not run: the turn was stopped")


def _close(turn: Turn, ctx: Context) -> None:
    """A tool call without a result makes every provider refuse the next turn."""
    calls = turn.new[-1][1].tool_calls if turn.new else ()
    if calls:
        results = turn.results or [_not_run(call) for call in calls]
        turn.add(ctx.record(Message(role="tool", parts=tuple(results))))


def _json_or_text(args: str) -> Any:
    """What a reader wants to see of the arguments; the tool says what is wrong with the text."""
    try:
        return parse_json(args or "{}")
    except SchemaError:
        return args


class _UnknownTool:
    kind: ClassVar[Literal["tool"]] = "tool"

    def __init__(self, name: str, known: Mapping[str, ToolLike]) -> None:
        self.name = name
        self._known = known

    async def invoke(self, input: Any, ctx: Context, /) -> Any:
        raise ToolArgsError(
            f'there is no tool "{self.name}"; {close_matches(self.name, self._known) or "no tools"}'
        )
