"""Steps: what a workflow is made of, and the nodes of its plan. Data; `engine` walks it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

import msgspec

from mastra_nb import _functions
from mastra_nb._fits import Fields
from mastra_nb._later import later
from mastra_nb.context import PLAIN, Codec, Context, Recorded, Runnable, error_info
from mastra_nb.errors import (
    Bail,
    ConfigError,
    LimitExceeded,
    MastraError,
    SchemaError,
    StepError,
    UsageError,
)
from mastra_nb.events import Custom, ErrorInfo
from mastra_nb.executor import Executor, apply, elsewhere, portable
from mastra_nb.past import BAIL
from mastra_nb.runs import Run
from mastra_nb.schema import exact, local_names, summary, to_json
from mastra_nb.shapes import (
    SKIPPED,
    Bailed,
    Shape,
    StepCodec,
)
from mastra_nb.shapes import Failure as Failure
from mastra_nb.tools import Tool, call

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = later("asyncio", globals())

O = TypeVar("O")  # noqa: E741
OnError = Literal["fail", "collect"] | Callable[..., Any]

_LONGEST_DELAY = 60.0


def _of_one(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A builtin or a class as a function of the input; anything else as it is."""
    if not (isinstance(fn, type) or inspect.isbuiltin(fn) or inspect.ismethoddescriptor(fn)):
        return fn

    def of_input(value: Any) -> Any:
        return fn(value)

    of_input.__name__ = of_input.__qualname__ = fn.__name__
    return of_input


class Step(Generic[O]):
    """A step of a workflow: a function, or an agent, a tool or a workflow with options.

    Of a function with one parameter that is the whole input; several are filled from a mapping by
    name. What it returns must have a JSON form: it is kept. `retries` counts further attempts
    after an exception, the first `retry_delay` seconds later and each then after twice the time
    (at most 60 s). `timeout` is in seconds of one attempt. `when` is a predicate of the input: a
    step that it leaves out gives its input. `on_error` is what comes of the last failure: "fail",
    "collect" (a `Failure` is the output), or a function of the error and the input whose result is
    the output. `depends_on` are steps of a `graph`. Of an agent `prompt` makes the prompt of the
    input. `executor`, an Executor or the name of one ("local", "dask"), is where a function of a
    module runs: in another process, without the context.

    Calling it gives a lazy Run; in the body of a workflow it is a step of that one.
    Raises ConfigError or SchemaError for what cannot work.
    """

    def __init__(
        self,
        target: Any,
        *,
        id: str = "",
        description: str = "",
        retries: int = 0,
        retry_delay: float = 0.5,
        timeout: float | None = None,
        when: Callable[..., Any] | None = None,
        on_error: OnError = "fail",
        depends_on: Sequence[Any] = (),
        prompt: Callable[..., Any] | None = None,
        executor: str | Executor | None = None,
        kind: str = "",
    ) -> None:
        self.shape: Shape | None = None
        self.target: Runnable[Any, Any]
        self.codec: Codec[Any]
        name: str = id or getattr(target, "name", "") or getattr(target, "__name__", "")
        self.name = name
        if isinstance(target, Step):
            raise ConfigError(f'"{target.name}" is a step already', hint="step.replace(id=...)")
        self.fn: Any = target
        if hasattr(target, "invoke") and hasattr(target, "kind"):
            self.kind = kind or str(target.kind)
            self.target = target
            self.codec = getattr(target, "codec", PLAIN)
            self.output: Any = getattr(target, "output_type", Any)
            self.input: Any = getattr(target, "input_type", Any)
            about = getattr(target, "description", "")
            if isinstance(target, Tool):
                self.target, about = target.durable, target.spec.description
                self.input, self.output = Fields(target.signature.needed), Any
            elif target.kind == "agent":
                self.target, self.codec = _Prompted(target, prompt), _PromptedCodec(self.codec)
        elif callable(target):
            self.kind = kind or "step"
            if isinstance(target, type) or not hasattr(target, "__code__"):
                target = _of_one(target)
            self.shape = Shape(target, local_names(target))
            self.input, self.output = self.shape.type, self.shape.output
            self.codec = StepCodec(self.shape)
            self.target = _Called(target, self.shape, self.kind, executor)
            about = summary(inspect.getdoc(target) or "") if inspect.isroutine(target) else ""
        else:
            raise ConfigError(
                f"{type(target).__name__} is no step",
                hint="give a function, an agent, a tool or a workflow",
            )
        if not name or name == "<lambda>":
            raise ConfigError("a step needs an id", hint='step(fn, id="fetch"), or .map(fn)')
        if any(c in name for c in "/[]#~\0"):
            raise ConfigError(f'"{name}" cannot name a step', hint="no / [ ] # or ~ in it")
        self.description = description or about
        for option, fits, hint in (
            ("retries", retries >= 0, "give 0 or more"),
            ("retry_delay", retry_delay >= 0, "give seconds"),
            ("timeout", timeout is None or timeout > 0, "give seconds, or None"),
            ("when", when is None or callable(when), "give a function of the input"),
            ("on_error", on_error in ("fail", "collect") or callable(on_error),
             'give "fail", "collect", or a function of the error and the input'),
            ("prompt", prompt is None or self.kind == "agent",
             "a function of the input, for a step that is an agent"),
            ("executor", executor is None or (self.shape is not None and not self.shape.injected),
             "only a function that takes no Context can run in another process"),
        ):  # fmt: skip
            if not fits:
                raise ConfigError(f'the {option} of step "{name}" cannot be used', hint=hint)
        if timeout is not None:
            self.target = _Timed(self.target, name, timeout)
        if self.target.name != name:
            self.target = _Renamed(self.target, name)
        self.retries = retries
        self.retry_delay = retry_delay
        self.timeout = timeout
        self.when = when
        self.on_error = on_error
        self.prompt = prompt
        self.executor = executor
        self.depends_on = tuple(depends_on)
        # Nothing stands between such a step and its call.
        self.plain = when is None and not retries and on_error == "fail"

    def __repr__(self) -> str:
        return f"<Step {self.name}>"

    def replace(self, **changes: Any) -> Step[Any]:
        """A copy with other options; `id` names one that is used twice in a workflow."""
        now = {
            "id": self.name, "description": self.description, "retries": self.retries,
            "retry_delay": self.retry_delay, "timeout": self.timeout, "when": self.when,
            "on_error": self.on_error, "depends_on": self.depends_on, "prompt": self.prompt,
            "executor": self.executor, "kind": self.kind,
        }  # fmt: skip
        return Step(self.fn, **{**now, **changes})

    @property
    def node(self) -> dict[str, Any]:
        """Its node of an outline."""
        out: dict[str, Any] = {"type": self.kind, "id": self.name}
        if self.description:
            out["about"] = self.description.split("\n", 1)[0][:200]
        if self.when is not None:
            out["when"] = _functions.label(self.when)
        if inner := getattr(self.fn, "outline", None):
            out["nodes"] = inner["nodes"]
            if inner.get("dashed"):
                out["dashed"] = True
        if code := self.code:
            out["code"] = code
        return out

    @functools.cached_property
    def code(self) -> str:
        """A digest of what it does; "" if that cannot be known."""
        made = getattr(self.fn, "code", None)
        return made if isinstance(made, str) else _functions.digest(self.fn)

    # Alone, or in the body of a workflow

    def run(self, input: Any = None, *, key: str | None = None, **options: Any) -> Run[O]:
        """A lazy run of this step alone, or a part of the run it is made in."""
        return Run(_Alone(self), input, codec=self.codec, key=key, **options)

    def __call__(self, *args: Any, **kwargs: Any) -> Run[O]:
        if self.shape is not None:
            return self.run(self.shape.bind(args, kwargs))
        return self.run(args[0] if args else kwargs or None)

    async def called(self, ctx: Context, value: Any, segment: str, *, lazy: bool = False) -> Any:
        """Its output; SKIPPED, a Failure, or Bailed where it came to that."""
        if self.when is not None and not await decide(ctx, f"when:{segment}", self.when, value):
            return SKIPPED
        past, path = ctx.run.past, f"{ctx.path}/{segment}" if ctx.path else segment
        failed = past.failures.get(path, 0)
        error: Exception
        if failed > self.retries and path not in past.done and self.on_error != "fail":
            error = known_error(past.failed[path])
        else:
            while True:
                began = len(ctx.run.events)
                try:
                    return await ctx.call(
                        self.target, value, segment=segment, codec=self.codec, lazy=lazy
                    )
                except Exception as raised:
                    error = raised
                failed += 1
                if failed > self.retries or not _may_help(error, ctx):
                    break
                delay = min(self.retry_delay * 2.0 ** (failed - 1), _LONGEST_DELAY)
                await asyncio.sleep(delay)
                past.take_in(path, ctx.run.events[began:])
                past.failures.pop(path, None)
                past.forget_failures(path)
        if self.on_error == "fail" or ctx.run.refusal is not None:
            raise error
        info = error_info(error)
        if self.on_error == "collect":
            return Failure(step=self.name, code=info.code, message=info.message)
        handler = self.on_error
        return await ctx.value(f"on_error:{segment}", lambda: asked(handler, ctx, error, value))


def _may_help(error: Exception, ctx: Context) -> bool:
    """Whether another attempt may end otherwise."""
    return ctx.run.refusal is None and not isinstance(error, LimitExceeded | UsageError)


def known_error(info: ErrorInfo) -> MastraError:
    return StepError(info.message, hint=info.hint, code=info.code)


async def decide(ctx: Context, segment: str, rule: Callable[..., Any], *args: Any) -> bool:
    """What `rule` said the first time the run came here."""

    async def said() -> bool:
        return bool(await asked(rule, ctx, *args))

    return bool(await ctx.value(segment, said))


async def asked(fn: Callable[..., Any], ctx: Context, *args: Any) -> Any:
    """`fn` of as many of `args` as it takes, and of the context if it names one. On the loop: it
    is short, and waits for nothing that it does not await.
    """
    try:
        parameters = [*inspect.signature(fn).parameters.values()]
    except ValueError:
        return fn(*args[:1])  # bool and other builtins do not say what they take
    hints = [p for p in parameters if p.annotation is Context or p.annotation == "Context"]
    plain = [
        p
        for p in parameters
        if p not in hints and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    takes_all = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    given = args if takes_all else args[: len(plain)]
    found = fn(*given, **{p.name: ctx for p in hints})
    return await found if isinstance(found, Awaitable) else found


class _Called:
    """A function, called with what it takes of the input."""

    def __init__(
        self, fn: Callable[..., Any], shape: Shape, kind: str, executor: str | Executor | None
    ) -> None:
        self._fn = fn
        self._executor = executor
        self._shape = shape
        self._async = inspect.iscoroutinefunction(fn)
        # What is of these types fits as it is.
        self._one, self._takes, self._gives = shape.one or None, shape.takes, shape.gives
        self.kind = kind
        self.name = getattr(fn, "__name__", "")

    async def invoke(self, input: Any, ctx: Context, /) -> Any:
        shape = self._shape
        if self._one is not None and type(input) is self._takes:
            arguments = {self._one: input}
        else:
            try:
                arguments = shape.arguments(input)
            except SchemaError as error:
                raise StepError(
                    f'the input of "{ctx.path}" does not fit: {error.message}',
                    code="step.input",
                    hint=error.hint,
                ) from None
        if shape.injected:
            arguments[shape.injected] = ctx
        try:
            if self._executor is not None:
                where = ctx.services.executor(self._executor)
                made = await elsewhere(where, apply, portable(self._fn), arguments)
            else:
                made = await (self._fn(**arguments) if self._async else call(self._fn, arguments))
        except Bail as bail:
            ctx.run.emit(ctx.parent or "", None, Custom(name=BAIL, value=ctx.path))
            return Bailed(_kept(exact, bail.value, ctx))
        return made if type(made) is self._gives else _kept(shape.given, made, ctx)


def _kept(how: Callable[[Any], Any], value: Any, ctx: Context) -> Any:
    try:
        return how(value)
    except SchemaError as error:
        raise StepError(
            f'what "{ctx.path}" gave cannot be kept: {error.message}',
            code="step.output",
            hint=error.hint,
        ) from None


class _Alone:
    """A step as the target of a run: its retries and what it does on errors go with it."""

    def __init__(self, step: Step[Any]) -> None:
        self.name = step.name
        self.kind = step.kind
        self.invoke = step.target.invoke
        self._step = step

    async def called(self, ctx: Context, input: Any, segment: str) -> Any:
        given = await self._step.called(ctx, input, segment)
        if type(given) is Bailed:
            if not ctx.path:
                return given.value
            raise Bail(given.value)
        return input if given is SKIPPED else given


class _Prompted:
    """An agent whose prompt is made of the input."""

    kind = "agent"

    def __init__(self, agent: Any, prompt: Callable[..., Any] | None) -> None:
        self._agent = agent
        self._prompt = prompt
        self.name = str(agent.name)

    async def invoke(self, input: Any, ctx: Context, /) -> Any:
        if self._prompt is not None:
            input = await asked(self._prompt, ctx, input)
        return await self._agent.invoke(as_prompt(input), ctx)


class _PromptedCodec(Codec[Any]):
    """An agent's own; of the input the text is kept, as its guards leave it."""

    def __init__(self, inner: Codec[Any]) -> None:
        self._inner = inner

    def show(self, input: Any) -> Any:
        return self._inner.show(as_prompt(input))

    def dump(self, output: Any, ctx: Context) -> Recorded:
        return self._inner.dump(output, ctx)

    def load(self, value: Any, ctx: Context) -> Any:
        return self._inner.load(value, ctx)

    def partial(self, value: Any) -> Any:
        return self._inner.partial(value)


def as_prompt(input: Any) -> str:
    """A text as it is, of {"prompt": text} that, anything else as JSON."""
    if isinstance(input, Mapping) and [*input] == ["prompt"]:
        input = input["prompt"]
    if isinstance(input, str):
        return input
    return msgspec.json.format(msgspec.json.encode(to_json(input)), indent=2).decode()


class _Renamed:
    def __init__(self, inner: Runnable[Any, Any], name: str) -> None:
        self.name = name
        self.kind = inner.kind
        self.invoke = inner.invoke


class _Timed:
    def __init__(self, inner: Runnable[Any, Any], name: str, seconds: float) -> None:
        self._inner = inner
        self._seconds = seconds
        self.name = name
        self.kind = inner.kind

    async def invoke(self, input: Any, ctx: Context, /) -> Any:
        try:
            async with asyncio.timeout(self._seconds) as clock:
                return await self._inner.invoke(input, ctx)
        except TimeoutError:
            if not clock.expired():
                raise
            raise StepError(
                f'step "{self.name}" did not end within {self._seconds:g} s',
                code="step.timeout",
                hint="raise it with step(..., timeout=...)",
            ) from None


@overload
def step(target: Callable[..., Awaitable[O]], /, **options: Any) -> Step[O]: ...


@overload
def step(target: Any, /, **options: Any) -> Step[Any]: ...


@overload
def step(**options: Any) -> Callable[[Any], Step[Any]]: ...


def step(target: Any = None, /, **options: Any) -> Any:
    """Make a function, an agent, a tool or a workflow a step. Options are those of Step."""
    if target is None:
        return lambda fn: step(fn, **options)
    if isinstance(target, Step):
        return target.replace(**options) if options else target
    return Step(target, **options)
