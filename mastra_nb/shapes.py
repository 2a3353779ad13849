"""What a step takes and gives: the types of a function's parameters and of its result."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args, get_origin

import msgspec

from mastra_nb import tables
from mastra_nb._fits import Fields
from mastra_nb.context import Codec, Context, Recorded
from mastra_nb.errors import SchemaError, StepError, UsageError
from mastra_nb.schema import Schema, exact, hints_of

_REQUIRED = inspect.Parameter.empty


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """What stands for the output of a step that failed, where failures are collected."""

    step: str
    code: str
    message: str


_FAILURE = {"step", "code", "message"}


class Skipped:
    """What a step that its `when` left out gave."""


SKIPPED = Skipped()


class Bailed(msgspec.Struct, frozen=True):
    """What a step gave that has ended its workflow."""

    value: Any


class Shape:
    """What a function takes of one input: all of it as its one parameter, or of a mapping the
    values by name. A parameter annotated `Context` gets the context.
    """

    def __init__(self, fn: Callable[..., Any], local: dict[str, Any] | None = None) -> None:
        called = getattr(fn, "__name__", type(fn).__name__)
        hints = hints_of(fn, called, Context, local)
        self.injected = ""
        self.called = called
        self.parameters: dict[str, tuple[Schema[Any] | None, Any]] = {}
        for name, param in inspect.signature(fn).parameters.items():
            if param.kind in (param.VAR_POSITIONAL, param.VAR_KEYWORD, param.POSITIONAL_ONLY):
                raise SchemaError(
                    f'parameter "{name}" of "{called}" has no name to call it by',
                    hint="give each parameter of a step a name; no *args, **kwargs or /",
                )
            hint = hints.get(name, Any)
            if hint is Context:
                self.injected = name
                continue
            default = param.default
            self.parameters[name] = (typed(hint, f"{called}.{name}"), default)
        self.output: Any = hints.get("return", Any)
        self._schema = typed(self.output, f"what {called} returns")

    @property
    def takes(self) -> Any:
        """The type of the only parameter; None if it has none, or there are more."""
        schema = self.parameters[self.one][0] if self.one else None
        return None if schema is None else schema.type

    @property
    def gives(self) -> Any:
        """The type of what it returns; None if that may be any."""
        return None if self._schema is None else self._schema.type

    @property
    def one(self) -> str:
        """The name of the only parameter, if there is only one."""
        return next(iter(self.parameters)) if len(self.parameters) == 1 else ""

    @property
    def type(self) -> Any:
        """What it takes, as a type."""
        types = {n: Any if s is None else s.type for n, (s, _) in self.parameters.items()}
        if self.one:
            return types[self.one]
        needed = [n for n, (_, default) in self.parameters.items() if default is _REQUIRED]
        return Fields({n: types[n] for n in needed}) if types else Any

    @property
    def json(self) -> dict[str, Any]:
        """The JSON schema of the input."""
        if self.one:
            schema = self.parameters[self.one][0]
            return {} if schema is None else schema.json
        found = {n: {} if s is None else s.json for n, (s, _) in self.parameters.items()}
        needed = [n for n, (_, default) in self.parameters.items() if default is _REQUIRED]
        return {"type": "object", "properties": found} | ({"required": needed} if needed else {})

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The one input that a call with these arguments has. Raises UsageError."""
        names = [*self.parameters]
        given = dict(zip(names, args, strict=False))
        wrong = [n for n in kwargs if n not in self.parameters or n in given]
        if len(args) > len(names) or wrong:
            what = f'"{wrong[0]}"' if wrong else f"{len(args)} arguments"
            raise UsageError(
                f'"{self.called}" does not take {what}',
                hint=f"it takes: {', '.join(names) or 'nothing'}",
            )
        given |= kwargs
        if missing := [n for n, (_, d) in self.parameters.items() if d is _REQUIRED]:
            missing = [n for n in missing if n not in given]
        if missing:
            raise UsageError(f'"{self.called}" needs "{missing[0]}"', hint="give it by name")
        if self.one:
            return given.get(self.one, self.parameters[self.one][1])
        return given if self.parameters else None

    def arguments(self, input: Any) -> dict[str, Any]:
        """Raises SchemaError for an input that does not fit."""
        parameters = self.parameters
        if len(parameters) == 1:
            ((name, (schema, _)),) = parameters.items()
            return {name: input if schema is None else conform(schema, input)}
        if not parameters:
            return {}
        if not isinstance(input, Mapping):
            input = exact(input)
        if not isinstance(input, Mapping):
            raise SchemaError(
                f"{type(input).__name__} is no mapping of {', '.join(parameters)}",
                hint="several parameters are filled by name",
            )
        out = {}
        for name, (schema, default) in parameters.items():
            if name in input:
                value = input[name]
                try:
                    out[name] = value if schema is None else conform(schema, value)
                except SchemaError as error:
                    raise SchemaError(f'"{name}": {error.message}') from None
            elif default is _REQUIRED:
                raise SchemaError(f'there is no "{name}" in it', hint=f"it has: {', '.join(input)}")
        return out

    def given(self, output: Any) -> Any:
        """What the function gave, as the next step and a resumed run will see it."""
        if self._schema is not None:
            return conform(self._schema, output)
        if tables.is_table(output):
            raise SchemaError(
                f'"{self.called}" does not say that it gives a table',
                hint="annotate it, so that it comes back as one: -> pd.DataFrame",
            )
        return exact(output)

    def restored(self, value: Any) -> Any:
        return value if self._schema is None else self._schema.convert(value)


def typed(hint: Any, name: str) -> Schema[Any] | None:
    """None where any JSON value will do. Raises SchemaError for a type that has no JSON form."""
    if hint is Any or hint is object or isinstance(hint, TypeVar):
        return None
    schema = Schema[Any](hint, name)
    _ = schema.json
    return schema


def restored(type_: Any, value: Any) -> Any:
    """What was kept of a value of this type, as it was."""
    if isinstance(type_, Fields):
        known = type_.types if isinstance(value, dict) else {}
        return {n: restored(known.get(n, Any), v) for n, v in value.items()} if known else value
    options = get_args(type_)
    if Failure in options:
        if isinstance(value, dict) and value.keys() == _FAILURE:
            return Failure(**value)
        return restored(
            functools.reduce(operator.or_, [o for o in options if o is not Failure]), value
        )
    if get_origin(type_) is list and options and isinstance(value, list):
        return [restored(options[0], each) for each in value]
    schema = typed(type_, "the output")
    return value if schema is None else schema.convert(value)


def conform(schema: Schema[Any], value: Any) -> Any:
    if type(value) is schema.type:
        return value
    try:
        return schema.convert(value)
    except SchemaError:
        return schema.convert(exact(value))


class StepCodec(Codec[Any]):
    def __init__(self, shape: Shape) -> None:
        self._shape = shape

    def dump(self, output: Any, ctx: Context) -> Recorded:
        return Recorded(exact(output.value if isinstance(output, Bailed) else output))

    def load(self, value: Any, ctx: Context) -> Any:
        if ctx.path in ctx.run.past.bails:
            return Bailed(value)
        try:
            return self._shape.restored(value)
        except SchemaError as error:
            raise StepError(
                f'what "{ctx.path}" gave does not fit its type any more: {error.message}',
                code="step.output",
                hint="its type has changed since; run.fork(step) runs it anew",
            ) from None
