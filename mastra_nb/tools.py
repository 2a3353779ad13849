"""Tools: functions a model may call."""

from __future__ import annotations

import contextlib
import contextvars
import copy
import functools
import inspect
import os
import queue
import re
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypeVar,
    overload,
)

import msgspec

from mastra_nb import unattended
from mastra_nb._later import later
from mastra_nb.context import Context
from mastra_nb.errors import (
    ConfigError,
    LimitExceeded,
    SchemaError,
    ToolArgsError,
    ToolError,
    ToolFailed,
    ToolRetry,
    ToolTimeout,
)
from mastra_nb.events import Noted
from mastra_nb.messages import ToolSpec
from mastra_nb.runs import Run
from mastra_nb.schema import Signature, local_names, parse_json, summary, to_json

if TYPE_CHECKING:
    import asyncio
    import hashlib
else:
    asyncio = later("asyncio", globals())
    hashlib = later("hashlib", globals())

P = ParamSpec("P")
R = TypeVar("R")
Approval = bool | Callable[[dict[str, Any]], bool | Awaitable[bool]]

# What every provider takes.
TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

# What fits into a model's context beside everything else, in characters of JSON.
RESULT_LIMIT = 40_000


class ToolLike(Protocol):
    """What the loop needs of a tool."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def spec(self) -> ToolSpec: ...

    async def invoke(self, input: Any, ctx: Context, /) -> Any: ...


class Tool(Generic[P, R]):
    """A function with a name, a description and a JSON schema; calling it calls the function.

    `needs_approval` may be a function of the arguments; then the run waits for a person before
    the function is called. `timeout` is in seconds (None: the settings'). `retries` counts
    further attempts after an exception. In the `background` it runs while the model goes on, and
    is told of the result later. A parameter annotated `Context` gets the run's context and is not
    shown to the model.
    """

    kind: ClassVar[Literal["tool"]] = "tool"

    def __init__(
        self,
        fn: Callable[P, R],
        *,
        name: str = "",
        description: str = "",
        needs_approval: Approval = False,
        timeout: float | None = None,
        retries: int = 0,
        background: bool = False,
    ) -> None:
        if not callable(fn):
            raise ConfigError(
                f"{type(fn).__name__} is not a tool", hint="pass a function, a Tool or an Agent"
            )
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.name = name or getattr(fn, "__name__", type(fn).__name__)
        if not TOOL_NAME.fullmatch(self.name):
            raise ConfigError(
                f'"{self.name}" cannot name a tool',
                hint='1 to 64 letters, digits, "_" or "-": @tool(name="...")',
            )
        # From front matter and from people who do not check types.
        seconds: Any = timeout
        more: Any = retries
        for option, fits, hint in (
            ("needs_approval", isinstance(needs_approval, bool) or callable(needs_approval),
             "give True, or a function of the arguments"),
            ("timeout", seconds is None or (isinstance(seconds, int | float) and seconds > 0),
             "give seconds, or None for that of the settings"),
            ("retries", isinstance(more, int) and more >= 0, "give 0 or more"),
        ):  # fmt: skip
            if not fits:
                raise ConfigError(f'the {option} of "{self.name}" cannot be used', hint=hint)
        self.needs_approval = needs_approval
        self.timeout = timeout
        self.retries = retries
        self.background = background
        self._description = description
        self._locals = local_names(fn)
        self._signature: Signature | None = None
        self._spec: ToolSpec | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.fn(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Tool {self.name}>"

    def run(self, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """The call as a lazy run: with its approval, timeout and retries, kept as JSON. In the
        body of a workflow, or in a tool, it is a part of that run and made once. Raises UsageError
        for arguments that the function does not take.
        """
        return Run(self.durable, self.signature.bind(args, kwargs))

    @property
    def durable(self) -> DurableTool:
        """The tool as a part of a workflow."""
        return DurableTool(self)

    @property
    def signature(self) -> Signature:
        if self._signature is None:
            self._signature = Signature(self.fn, inject=Context, local=self._locals)
        return self._signature

    @property
    def spec(self) -> ToolSpec:
        """Raises SchemaError if a parameter's type has no JSON schema."""
        if self._spec is None:
            about = self._description or summary(inspect.getdoc(self.fn) or "")
            self._spec = ToolSpec(name=self.name, description=about, parameters=self.signature.json)
        return self._spec

    async def invoke(self, input: Any, ctx: Context, /) -> Any:
        """`input` is a JSON object, or the JSON text of one. Returns a JSON value, cut to what a
        model can read.

        Raises ToolArgsError, ToolTimeout, ToolFailed, ToolRetry; ToolError if it was denied.
        """
        return capped(await self.perform(input, ctx))

    async def perform(self, input: Any, ctx: Context, /) -> Any:
        """`invoke`, whose result is whole."""
        args = self._arguments(input)
        if self.needs_approval and await _decides(self.needs_approval, args):
            other = ask_approval(self.name, to_json(args), self.signature.json, ctx)
            args = args if other is None else self._arguments(other)
        if self.signature.injected:
            args[self.signature.injected] = ctx
        timeout = self.timeout or ctx.services.settings.tool_timeout
        attempt = 0
        while True:
            attempt += 1
            try:
                async with asyncio.timeout(timeout) as clock:
                    return to_json(await call(self.fn, args))
            except (ToolRetry, LimitExceeded):
                raise
            except Exception as error:
                if ctx.run.refusal is not None:
                    raise
                if attempt > self.retries:
                    raise self._failure(error, timeout if clock.expired() else None) from error
            except (asyncio.CancelledError, SystemExit) as error:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                # It was not we who are stopped: something in the tool was.
                if attempt > self.retries:
                    raise self._failure(error, None) from error

    def _failure(self, error: BaseException, timeout: float | None) -> ToolError:
        if timeout is not None:
            return ToolTimeout(
                f'tool "{self.name}" did not answer within {timeout:g} s',
                hint="raise it with @tool(timeout=...)",
            )
        about = f": {error}" if str(error) else ""
        return ToolFailed(f'tool "{self.name}" failed: {type(error).__name__}{about}')

    def _arguments(self, input: Any) -> dict[str, Any]:
        try:
            value = parse_json(input or "{}") if isinstance(input, str) else input
            return self.signature.convert(value)
        except SchemaError as error:
            raise ToolArgsError(
                f'the arguments of "{self.name}" are wrong: {error.message}'
            ) from None


class DurableTool:
    """A tool whose result is read by code, not by a model: all of it."""

    kind: ClassVar[Literal["tool"]] = "tool"

    def __init__(self, tool: Tool[Any, Any]) -> None:
        self.tool = tool
        self.name = tool.name
        self.invoke = tool.perform


def ask_approval(
    name: str, args: dict[str, Any], parameters: dict[str, Any], ctx: Context
) -> dict[str, Any] | None:
    """Waits for a person; an approval counts for these arguments (JSON) and this call only.

    Returns the arguments to use instead, if the person gave some that fit the JSON schema
    `parameters`. Raises ToolError if it was denied.
    """
    digest = approval_digest(name, args)
    asked = ctx.run.past.asked.get(ctx.path)
    row = unattended.row() if asked is None else None
    decided = None if row is None else row.decides(name)
    if decided is not None:
        said = "approved" if decided else "denied"
        ctx.emit(Noted(level="info", text=f'the batch {said} the call of "{name}"'))
        if decided:
            return None
        raise ToolError(f'the batch denied the call of "{name}"', code="tool.denied")
    answer = ctx.suspend(
        {"tool": name, "args": args, "digest": digest},
        schema=approval_schema(parameters),
        reason="approval",
    )
    if asked is None or asked.payload.get("digest") != digest:
        raise ToolError(f'the approval of "{name}" was for other arguments', code="tool.denied")
    if not answer["approved"]:
        why = answer.get("reason") or "no reason given"
        raise ToolError(f'the user denied the call of "{name}": {why}', code="tool.denied")
    other: dict[str, Any] | None = answer.get("args")
    return other


ToolApproval = bool | Callable[[str, dict[str, Any]], bool | Awaitable[bool]]


def with_approval(tool: ToolLike, decide: ToolApproval) -> ToolLike:
    """The tool, asking a person also where `decide` says so: True, or a function of the tool's
    name and the arguments.
    """
    if not isinstance(tool, Tool):
        return _Approved(tool, decide)
    own, name = tool.needs_approval, tool.name

    async def either(args: dict[str, Any]) -> bool:
        return await _decides(own, args) or await _decides(decide, name, args)

    made = copy.copy(tool)
    made.needs_approval = either
    return made


async def _decides(rule: Any, *args: Any) -> bool:
    if isinstance(rule, bool):
        return rule
    found = rule(*args)
    return bool(await found if inspect.isawaitable(found) else found)


class _Approved:
    """A tool of another kind (an agent, a tool of a server) that a person is asked about."""

    def __init__(self, inner: ToolLike, decide: ToolApproval) -> None:
        self._inner = inner
        self._decide = decide
        self.name = inner.name
        self.kind = inner.kind
        self.spec = inner.spec
        self.background = getattr(inner, "background", False)

    async def invoke(self, input: Any, ctx: Context, /) -> Any:
        if not isinstance(input, dict):
            raise ToolArgsError(f'the arguments of "{self.name}" are wrong: not a JSON object')
        if await _decides(self._decide, self.name, input):
            other = ask_approval(self.name, input, self.spec.parameters, ctx)
            input = input if other is None else other
        return await self._inner.invoke(input, ctx)


def approval_schema(parameters: dict[str, Any]) -> dict[str, Any]:
    """Of the answer to a call that waits: arguments that do not fit are refused right there."""
    defs = {"$defs": parameters["$defs"]} if "$defs" in parameters else {}
    args = {k: v for k, v in parameters.items() if k != "$defs"}
    return {
        "type": "object",
        "properties": {
            "approved": {"type": "boolean"},
            "reason": {"type": "string", "description": "told to the model when denied"},
            "args": {**args, "additionalProperties": False, "description": "to use instead"},
        },
        "required": ["approved"],
        "additionalProperties": False,
        **defs,
    }


def approval_digest(tool: str, args: Any) -> str:
    raw = msgspec.json.encode([tool, args], order="sorted")
    return hashlib.sha256(raw).hexdigest()


@overload
def tool(fn: Callable[P, R], /) -> Tool[P, R]: ...


@overload
def tool(
    *,
    name: str = "",
    description: str = "",
    needs_approval: Approval = False,
    timeout: float | None = None,
    retries: int = 0,
    background: bool = False,
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...


def tool(fn: Callable[P, R] | None = None, /, **options: Any) -> Any:
    """Make a function a tool; it stays callable as it was. Options are those of Tool."""
    if fn is not None:
        return Tool(fn)
    return lambda fn: Tool(fn, **options)


class ToolSource(Protocol):
    """What knows its tools only when asked, such as the client of a server."""

    async def list_tools(self) -> Sequence[ToolLike]: ...


async def gathered(tools: Iterable[Any]) -> dict[str, ToolLike]:
    """`toolset`, with the tools of every source among them."""
    found: list[Any] = []
    for item in tools:
        found += await item.list_tools() if hasattr(item, "list_tools") else [item]
    return toolset(found)


def toolset(tools: Iterable[Any]) -> dict[str, ToolLike]:
    """Tools by name, without those of sources; plain functions become tools.

    Raises ConfigError for a name used twice.
    """
    out: dict[str, ToolLike] = {}
    for item in tools:
        if hasattr(item, "list_tools"):
            continue
        made: ToolLike
        if isinstance(item, Tool):
            made = item
        elif hasattr(item, "as_tool"):
            made = item.as_tool()
        elif hasattr(item, "spec") and hasattr(item, "invoke"):
            made = item
        else:
            made = Tool(item)
        if made.name in out:
            raise ConfigError(
                f'two tools are named "{made.name}"', hint='rename one: @tool(name="...")'
            )
        out[made.name] = made
    return out


def capped(value: Any, limit: int = RESULT_LIMIT) -> Any:
    """A JSON value whose JSON is not longer than `limit` characters."""
    if isinstance(value, (int, float, bool)) or value is None:
        return value
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    if len(text) <= limit:
        return value
    return f"{text[:limit]}… [cut: {len(text):,} characters in all]"


async def call(fn: Callable[..., Any], args: dict[str, Any]) -> Any:
    """Call `fn` off the loop if it is a plain function; await what it gives if it is not."""
    if inspect.iscoroutinefunction(fn):
        return await fn(**args)
    result = await in_thread(functools.partial(fn, **args))
    return await result if inspect.isawaitable(result) else result


async def in_thread(fn: Callable[[], R]) -> R:
    """Like asyncio.to_thread, on a daemon thread: a tool that never returns must not keep the
    process from exiting. It keeps its thread for good; a thread whose tool is done is used again.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[R] = loop.create_future()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            result = context.run(fn)
        except BaseException as error:
            deliver(future.set_exception, _transportable(error))
        else:
            deliver(future.set_result, result)

    def deliver(how: Callable[[Any], None], what: Any) -> None:
        def set_unless_gone() -> None:
            if not future.done():
                how(what)

        # Nobody waits any more where the loop is closed.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(set_unless_gone)

    try:
        jobs = _idle.pop()
    except IndexError:
        jobs = queue.SimpleQueue()
        threading.Thread(target=_work, args=(jobs,), name="mastra-nb-tool", daemon=True).start()
    jobs.put(work)
    return await future


# Starting a thread for each call was measured at 7 to 12 % of the CPU of a whole run.
_idle: list[queue.SimpleQueue[Callable[[], None]]] = []
_MAX_IDLE = 32


def _work(jobs: queue.SimpleQueue[Callable[[], None]]) -> None:
    while True:
        jobs.get()()
        if len(_idle) >= _MAX_IDLE:
            return
        _idle.append(jobs)


if hasattr(os, "register_at_fork"):
    # Threads do not come along into a child.
    os.register_at_fork(after_in_child=_idle.clear)


def _transportable(error: BaseException) -> BaseException:
    # A future refuses StopIteration, and a SystemExit would end the loop instead of the tool.
    if isinstance(error, (StopIteration, SystemExit, KeyboardInterrupt)):
        about = f": {error}" if str(error) else ""
        return RuntimeError(f"{type(error).__name__}{about}")
    return error
