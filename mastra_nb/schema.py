"""Python types -> JSON Schema -> validated values. msgspec does the work; pydantic models are
accepted as they are, and pydantic is imported only when somebody else has brought it.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, get_args, get_type_hints

import msgspec

from mastra_nb.errors import SchemaError

T = TypeVar("T")
_Field = tuple[str, Any] | tuple[str, Any, Any]


class Schema(Generic[T]):
    """A type, its JSON schema (references inlined) and the way from JSON to a value.

    Raises SchemaError if the type has no JSON schema.
    """

    def __init__(self, type_: Any, name: str = "") -> None:
        self.type = type_
        self.name = name or getattr(type_, "__name__", str(type_))
        self._pydantic = _pydantic_adapter(type_)
        self._json: dict[str, Any] | None = None

    @property
    def json(self) -> dict[str, Any]:
        if self._json is None:
            try:
                if self._pydantic is not None:
                    raw = self._pydantic.json_schema()
                else:
                    raw = msgspec.json.schema(self.type)
            except TypeError as error:
                raise SchemaError(
                    f'"{self.name}" has no JSON schema: {error}',
                    hint="use JSON types, dataclasses, TypedDicts, msgspec or pydantic models",
                ) from None
            self._json = inline_refs(raw)
        return self._json

    def convert(self, value: Any) -> T:
        """A JSON value as the type; "3" is taken for 3 where an int is asked for.

        Raises SchemaError that says where the value does not fit.
        """
        try:
            if self._pydantic is not None:
                return self._pydantic.validate_python(value)  # type: ignore[no-any-return]
            try:
                return msgspec.convert(value, self.type)  # type: ignore[no-any-return]
            except msgspec.ValidationError:
                return msgspec.convert(value, self.type, strict=False)  # type: ignore[no-any-return]
        except (msgspec.ValidationError, ValueError) as error:
            raise SchemaError(_reason(error)) from None

    def parse(self, text: str | bytes) -> T:
        """JSON text as the type. Raises SchemaError."""
        return self.convert(parse_json(text))


def parse_json(text: str | bytes) -> Any:
    """Raises SchemaError for text that is not JSON."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SchemaError(f"not valid JSON: {error}") from None


def partial_json(text: str) -> Any:
    """The value that an unfinished JSON text describes so far; None if there is none yet."""
    import jiter

    try:
        return jiter.from_json(text.encode(), partial_mode="trailing-strings")
    except ValueError:
        return None


_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)


def find_json(text: str) -> str:
    """The JSON in a model's answer: all of it, its one fenced block, or its outermost braces."""
    text = text.strip()
    if text[:1] in "{[":
        return text
    if fenced := _FENCED.search(text):
        return fenced[1].strip()
    for start, end in ("{}", "[]"):
        if 0 <= (i := text.find(start)) < (j := text.rfind(end)):
            return text[i : j + 1]
    return text


def validate(value: Any, schema: dict[str, Any]) -> None:
    """Check a JSON value against a JSON schema that is not ours. Raises SchemaError."""
    import jsonschema

    try:
        jsonschema.validate(value, schema)
    except jsonschema.ValidationError as error:
        where = "".join(f"[{p!r}]" for p in error.absolute_path)
        raise SchemaError(f"{error.message}{' at ' + where if where else ''}") from None
    except jsonschema.SchemaError as error:
        raise SchemaError(f"the schema itself is wrong: {error.message}") from None


def to_json(value: Any) -> Any:
    """`value` as JSON types: what goes into an event. Never fails and never calls back into
    user code beyond the usual conversions; what has no JSON form becomes its text.
    """
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, (int, float)):
        return _number(value)
    try:
        return _plain(msgspec.to_builtins(value, str_keys=True, enc_hook=_encode_other))
    except (TypeError, ValueError, RecursionError):
        return repr(value)


def _number(value: float) -> Any:
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**64 else str(value)
    return float(value) if value == value and abs(value) != float("inf") else None


def _plain(value: Any) -> Any:
    """What msgspec leaves as it is though JSON cannot say it."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _number(value)
    return value


def _encode_other(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "to_dict") and hasattr(value, "columns"):
        return {
            "columns": [str(c) for c in value.columns],
            "rows": len(value),
            "head": value.head(20).to_dict("records"),
        }
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    return repr(value)


def inline_refs(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` without `$ref`, which some engines cannot follow; recursive types keep theirs."""
    defs = schema.get("$defs", {})

    def walk(node: Any, seen: tuple[str, ...]) -> Any:
        if isinstance(node, list):
            return [walk(n, seen) for n in node]
        if not isinstance(node, dict):
            return node
        ref = node.get("$ref")
        if isinstance(ref, str) and ref.startswith("#/$defs/"):
            name = ref.removeprefix("#/$defs/")
            if name in seen:
                raise RecursionError
            rest = {k: v for k, v in node.items() if k not in ("$ref", "$defs")}
            return {**walk(defs[name], (*seen, name)), **rest}
        return {k: walk(v, seen) for k, v in node.items() if k != "$defs"}

    try:
        out = walk(schema, ())
    except RecursionError:
        return schema
    assert isinstance(out, dict)
    return out


class Signature:
    """The parameters of a function as one JSON object.

    `injected` names the parameter (if any) whose annotation is `inject`: it is left out of the
    schema and filled by the caller.
    """

    def __init__(self, fn: Callable[..., Any], inject: type | None = None) -> None:
        self.injected = ""
        fields: list[_Field] = []
        hints = _hints(fn)
        about = param_docs(inspect.getdoc(fn) or "")
        for name, param in inspect.signature(fn).parameters.items():
            if param.kind in (param.VAR_POSITIONAL, param.VAR_KEYWORD, param.POSITIONAL_ONLY):
                raise SchemaError(
                    f'parameter "{name}" of "{fn.__name__}" has no name to call it by',
                    hint="give each parameter of a tool a name; no *args, **kwargs or /",
                )
            hint = hints.get(name, Any)
            if inject is not None and hint is inject:
                self.injected = name
                continue
            if name in about:
                hint = _described(hint, about[name])
            fields.append(
                (name, hint) if param.default is param.empty else (name, hint, param.default)
            )
        self.schema: Schema[Any] = Schema(_arguments_type(fn.__name__, fields), fn.__name__)
        self.names = [f[0] for f in fields]
        self.json = {k: v for k, v in self.schema.json.items() if k != "title"}
        self.json.setdefault("properties", {})

    def convert(self, args: Any) -> dict[str, Any]:
        """Keyword arguments from a JSON object. Raises SchemaError."""
        if not isinstance(args, dict):
            raise SchemaError(f"the arguments must be a JSON object, not {type(args).__name__}")
        unknown = [k for k in args if k not in self.names]
        if unknown:
            raise SchemaError(
                f"unknown argument {unknown[0]!r}; there are: {', '.join(self.names)}"
            )
        value = self.schema.convert(args)
        return {name: getattr(value, name) for name in self.names}


def _hints(fn: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(fn, include_extras=True)
    except NameError as error:
        raise SchemaError(
            f'a type hint of "{fn.__name__}" cannot be resolved: {error}',
            hint="define the type before the tool, at the top level of the notebook or module",
        ) from None


def _described(hint: Any, text: str) -> Any:
    from typing import Annotated

    return Annotated[hint, msgspec.Meta(description=text)]


def _arguments_type(name: str, fields: list[_Field]) -> Any:
    if any(_mentions_pydantic(f[1]) for f in fields):
        import pydantic

        make: Any = pydantic.create_model
        return make(name, **{f[0]: (f[1], f[2]) if len(f) == 3 else (f[1], ...) for f in fields})
    return msgspec.defstruct(name, [_safe_default(f) for f in fields], kw_only=True)


def _safe_default(field: _Field) -> _Field:
    """A list as a default is shared by all calls of a function; here each gets its own."""
    if len(field) == 3 and isinstance(field[2], (list, dict, set)):
        value = field[2]
        default = msgspec.field(default_factory=type(value) if not value else value.copy)
        return (field[0], field[1], default)
    return field


def _mentions_pydantic(hint: Any) -> bool:
    if hasattr(hint, "model_json_schema"):
        return True
    return any(_mentions_pydantic(a) for a in get_args(hint))


def _pydantic_adapter(type_: Any) -> Any:
    pydantic = sys.modules.get("pydantic")
    if pydantic is None or not _mentions_pydantic(type_):
        return None
    return pydantic.TypeAdapter(type_)


def param_docs(doc: str) -> dict[str, str]:
    """Parameter descriptions of a Google, NumPy or reST docstring."""
    if "\n" not in doc:
        return {}
    import docstring_parser

    parsed = docstring_parser.parse(doc)
    return {p.arg_name: p.description.strip() for p in parsed.params if p.description}


def summary(doc: str) -> str:
    """A docstring without its parameter section."""
    if "\n" not in doc:
        return doc.strip()
    import docstring_parser

    parsed = docstring_parser.parse(doc)
    parts = (parsed.short_description, parsed.long_description)
    return "\n\n".join(p for p in parts if p).strip() or doc.strip()


def _reason(error: Exception) -> str:
    text = str(error)
    if hasattr(error, "errors"):
        items = error.errors()
        text = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'value'}: {e['msg']}" for e in items[:5]
        )
    return text
