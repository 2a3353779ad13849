"""The agent's turn: ask the model, run the tools it calls, until it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, Literal, TypeVar

import msgspec

from mastra_nb.context import Context
from mastra_nb.errors import (
    LimitExceeded,
    MastraError,
    ModelOutputError,
    ModelRefused,
    SchemaError,
    Suspend,
    ToolArgsError,
    close_matches,
)
from mastra_nb.messages import Message, ToolCall, ToolResult, system, user
from mastra_nb.models import MODEL, Model, ModelRequest, ModelSettings, Reply
from mastra_nb.processors import Processor, Turn
from mastra_nb.schema import Schema, find_json, parse_json
from mastra_nb.tools import ToolLike

T = TypeVar("T")

OUTPUT_RETRIES = 2
BAD_CALL_STEPS = 3


class Output(Generic[T]):
    """An output type as a model is asked for it. Providers want an object at the top, so
    anything else travels in its one field "value".
    """

    def __init__(self, schema: Schema[T]) -> None:
        self.schema = schema
        self._boxed = schema.json.get("type") != "object"
        self.json: dict[str, Any] = (
            {
                "type": "object",
                "properties": {"value": schema.json},
                "required": ["value"],
                "additionalProperties": False,
            }
            if self._boxed
            else schema.json
        )

    def parse(self, text: str) -> T:
        """Raises SchemaError."""
        value = parse_json(find_json(text))
        if self._boxed and isinstance(value, dict) and set(value) == {"value"}:
            value = value["value"]
        return self.schema.convert(value)


class Plan(msgspec.Struct, kw_only=True, frozen=True):
    """Everything a turn needs to know."""

    model: Model
    instructions: str
    tools: Mapping[str, ToolLike]
    output: Output[Any] | None
    max_steps: int
    settings: ModelSettings
    tool_choice: str
    processors: Sequence[Processor]
    thread: str = ""
    concurrency: int = 10


async def run_turn(plan: Plan, prompt: Sequence[Message], ctx: Context) -> Any:
    """Returns the model's text, or the value of the output type.

    Raises ModelError, LimitExceeded, and what a processor raises. Whatever happens, what was
    said is in the log, no tool call is left without a result, and `after` was called; only a
    run that waits for an answer is left as it is.
    """
    turn = Turn(plan.instructions, plan.thread)
    try:
        for processor in plan.processors:
            await processor.before(turn, ctx)
        for message in prompt:
            turn.add(ctx.record(message))
        result = await _steps(plan, turn, ctx)
    except Suspend:
        raise
    except BaseException:
        _close(turn, ctx)
        await _after(plan, turn, ctx)
        raise
    await _after(plan, turn, ctx)
    return result


async def _after(plan: Plan, turn: Turn, ctx: Context) -> None:
    for processor in reversed(plan.processors):
        await processor.after(turn, ctx)


async def _steps(plan: Plan, turn: Turn, ctx: Context) -> Any:
    specs = tuple(t.spec for t in plan.tools.values())
    wrong_outputs = bad_steps = 0
    for step in range(plan.max_steps):
        reply = await _ask(plan, turn, specs, step, ctx)
        calls = reply.message.tool_calls
        if calls:
            if step + 1 == plan.max_steps:
                break
            bad_steps = bad_steps + 1 if await _run_tools(plan, turn, calls, step, ctx) else 0
            if bad_steps == BAD_CALL_STEPS:
                raise ModelOutputError(
                    f'"{plan.model.name}" called tools wrongly {BAD_CALL_STEPS} times in a row',
                    hint="simplify the tools' parameters, describe them, or use a larger model",
                )
            continue
        text = reply.message.text
        if plan.output is None:
            if not text and reply.finish == "content-filter":
                raise ModelRefused(
                    f'"{plan.model.name}" refused to answer', hint="rephrase the request"
                )
            return text
        try:
            return plan.output.parse(text)
        except SchemaError as error:
            wrong_outputs += 1
            if wrong_outputs > OUTPUT_RETRIES:
                raise ModelOutputError(
                    f'"{plan.model.name}" gave no valid {plan.output.schema.name} in '
                    f"{wrong_outputs} tries: {error.message}",
                    hint="simplify the output type or use a larger model; run.text has the answer",
                    details={"text": text[:2000]},
                ) from None
            turn.drafts.add(turn.new[-1][0])
            again = (
                f"That answer is not valid: {error.message}. "
                "Answer again, with JSON that fits the schema and nothing else."
            )
            turn.add(ctx.record(user(again)), draft=True)
    raise LimitExceeded(
        f"no answer after {plan.max_steps} steps",
        hint="raise max_steps=... or ask for less",
        details={"limit": "steps", "value": plan.max_steps, "path": ctx.path},
    )


async def _ask(plan: Plan, turn: Turn, specs: tuple[Any, ...], step: int, ctx: Context) -> Reply:
    instructions = turn.instructions
    output = plan.output
    if output is not None and not plan.model.profile.json_schema:
        shape = msgspec.json.encode(output.json).decode()
        instructions = f"{instructions}\n\nAnswer with JSON that fits this schema: {shape}".strip()
    request = ModelRequest(
        messages=((system(instructions),) if instructions else ()) + turn.messages(),
        tools=specs,
        tool_choice=plan.tool_choice if step == 0 or plan.tool_choice == "none" else "auto",
        output=output.json if output is not None and plan.model.profile.json_schema else None,
        settings=plan.settings,
    )
    path = f"{ctx.path}/model[{step}]"
    try:
        reply = await ctx.call(plan.model, request, segment=f"model[{step}]", codec=MODEL)
    except BaseException:
        partial = ctx.run.said(path)
        if partial is not None and (partial[1].text or partial[1].tool_calls):
            turn.add(partial)
        raise
    said = ctx.run.said(path)
    assert said is not None
    turn.add(said)
    return reply


async def _run_tools(
    plan: Plan, turn: Turn, calls: tuple[ToolCall, ...], step: int, ctx: Context
) -> bool:
    """Returns True if no call could even be made: unknown tools or wrong arguments only."""
    past = ctx.run.past
    segments = [f"{c.name.replace('/', ':')[:64]}[{step}.{i}]" for i, c in enumerate(calls)]
    failures = [past.failed.get(f"{ctx.path}/{segment}") for segment in segments]
    if (told := ctx.recorded()) is not None:
        turn.add(ctx.record(told[1]))
        return all(f is not None and f.code == ToolArgsError.default_code for f in failures)
    turn.results = [_not_run(call) for call in calls]
    limit = asyncio.Semaphore(plan.concurrency)

    async def one(i: int, call: ToolCall) -> bool:
        known = failures[i]
        if known is not None and not known.code.startswith(_NOT_TOLD):
            turn.results[i] = _failed(call, known.message)
            return known.code == ToolArgsError.default_code
        target = plan.tools.get(call.name) or _UnknownTool(call.name, plan.tools)
        async with limit:
            turn.results[i] = _failed(call, "stopped before it was finished")
            try:
                output = await ctx.call(target, _json_or_text(call.args), segment=segments[i])
            except Exception as error:
                if _ends_turn(error, ctx):
                    turn.results[i] = _not_run(call)
                    raise
                turn.results[i] = _failed(call, _told(error))
                return isinstance(error, ToolArgsError)
        turn.results[i] = ToolResult(id=call.id, name=call.name, output=output)
        return False

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


def _told(error: Exception) -> str:
    return error.message if isinstance(error, MastraError) else f"{type(error).__name__}: {error}"


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
