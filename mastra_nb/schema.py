"""Python types -> JSON Schema -> validated values. msgspec does the work; pydantic models are
accepted as they are, and pydantic is imported only when somebody else has brought it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Generic, Optional, TypeVar, get_args, get_type_hints

import msgspec

from mastra_nb import tables
from mastra_nb.errors import SchemaError
from mastra_nb.jsonable import clean as clean
from mastra_nb.jsonable import exact as exact
from mastra_nb.jsonable import to_json as to_json

if TYPE_CHECKING:
    from docstring_parser import Docstring

T = TypeVar("T")


class Schema(Generic[T]):
    """A type, its JSON schema (references inlined) and the way from JSON to a value. A JSON schema
    may stand for the type: its values are JSON.
    """

    def __init__(self, type_: Any, name: str = "") -> None:
        self.type = type_
        titled = type_.get("title", "answer") if isinstance(type_, dict) else ""
        self.name = name or titled or getattr(type_, "__name__", str(type_))
        self._pydantic: Any = None
        self._json: dict[str, Any] | None = None

    @property
    def json(self) -> dict[str, Any]:
        """Raises SchemaError if the type has no JSON schema."""
        if self._json is None:
            try:
                self._json = inline_refs(self._describe())
            except Exception as error:
                # pydantic and user code in types raise what they like.
                raise SchemaError(
                    f'"{self.name}" has no JSON schema: {error}',
                    hint="use JSON types, dataclasses, TypedDicts, msgspec or pydantic models",
                ) from None
        return self._json

    def _describe(self) -> dict[str, Any]:
        if isinstance(self.type, dict):
            return self.type
        if not _mentions_pydantic(self.type):
            try:
                return msgspec.json.schema(self.type, schema_hook=_hooked_schema)
            except Exception:
                # A dataclass may have a field that only pydantic understands.
                if "pydantic" not in sys.modules or (found := self._adapt()) is None:
                    raise
                return found
        found = self._adapt()
        if found is None:
            raise TypeError("pydantic cannot describe it")
        return found

    def _adapt(self) -> dict[str, Any] | None:
        import pydantic

        try:
            adapter: Any = pydantic.TypeAdapter(self.type)
            found: dict[str, Any] = adapter.json_schema()
        except pydantic.errors.PydanticUserError:
            return None
        self._pydantic = adapter
        return found

    def convert(self, value: Any) -> T:
        """A JSON value as the type; "3" is taken for 3 where an int is asked for.

        Raises SchemaError that says where the value does not fit.
        """
        if self._json is None:
            _ = self.json  # finds out who does the work
        if isinstance(self.type, dict):
            validate(value, self.type)
            return value  # type: ignore[no-any-return]
        try:
            if self._pydantic is not None:
                return self._pydantic.validate_python(value)  # type: ignore[no-any-return]
            try:
                return msgspec.convert(value, self.type, dec_hook=_hooked_value)  # type: ignore[no-any-return]
            except msgspec.ValidationError:
                return msgspec.convert(  # type: ignore[no-any-return]
                    value, self.type, strict=False, str_keys=True, dec_hook=_hooked_value
                )
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
    """Check a JSON value against a JSON schema that is not ours, which may refer to nothing outside
    itself: that would be fetched. Raises SchemaError.
    """
    jsonschema = _jsonschema()
    from jsonschema_specifications import REGISTRY
    from referencing.exceptions import Unresolvable

    try:
        jsonschema.validate(value, schema, registry=REGISTRY)
    except Unresolvable as error:
        raise SchemaError(f"the schema itself is wrong: {error} is not in it") from None
    except jsonschema.ValidationError as error:
        where = "".join(f"[{p!r}]" for p in error.absolute_path)
        raise SchemaError(f"{error.message}{' at ' + where if where else ''}") from None
    except jsonschema.SchemaError as error:
        raise SchemaError(f"the schema itself is wrong: {error.message}") from None


def _jsonschema() -> Any:
    # Where JupyterLab has brought rfc3987_syntax, importing jsonschema builds a grammar of IRIs
    # for seconds. It is for a format, and formats are not checked here.
    grammar = "rfc3987_syntax"
    if "jsonschema" in sys.modules or grammar in sys.modules:
        return importlib.import_module("jsonschema")
    sys.modules[grammar] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("jsonschema")
    finally:
        del sys.modules[grammar]


# Words of JSON schema whose value is data, and those whose value maps names to schemas.
_DATA = frozenset({"default", "const", "enum", "examples"})
_NAMED = frozenset({"properties", "patternProperties", "dependentSchemas"})
_INLINE_LIMIT = 20_000


def inline_refs(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` without `$ref`, which some engines cannot follow.

    Recursive types keep theirs, with `$defs` at the top; so does all of a schema that would
    grow out of bounds.
    """
    defs: dict[str, Any] = schema.get("$defs", {})
    recursive = _recursive(defs)
    nodes = 0

    def walk(node: Any) -> Any:
        nonlocal nodes
        nodes += 1
        if nodes > _INLINE_LIMIT:
            raise OverflowError
        if isinstance(node, list):
            return [walk(n) for n in node]
        if not isinstance(node, dict):
            return node
        out = {}
        for word, value in node.items():
            if word in _DATA:
                out[word] = value
            elif word in _NAMED:
                out[word] = {k: walk(v) for k, v in value.items()}
            elif word not in ("$ref", "$defs", "discriminator"):
                out[word] = walk(value)
        name = _ref(node)
        if name in defs and name not in recursive:
            return {**walk(defs[name]), **out}
        return {"$ref": node["$ref"], **out} if "$ref" in node else out

    try:
        top: dict[str, Any] = walk(schema)
        if (name := _ref(top)) in recursive:
            # Whoever asks for an object wants to see one at the top.
            top = {**walk(defs[name]), **{k: v for k, v in top.items() if k != "$ref"}}
        if recursive:
            top["$defs"] = {n: walk(defs[n]) for n in defs if n in recursive}
    except OverflowError:
        return schema
    return top


def _ref(node: dict[str, Any]) -> str:
    ref = node.get("$ref")
    return ref.removeprefix("#/$defs/") if isinstance(ref, str) else ""


def _recursive(defs: dict[str, Any]) -> set[str]:
    """Names of the definitions that lead back to themselves."""

    def refs(node: Any) -> set[str]:
        if isinstance(node, list):
            return set().union(*map(refs, node))
        if not isinstance(node, dict):
            return set()
        below = set().union(*(refs(v) for k, v in node.items() if k not in _DATA))
        return below | ({_ref(node)} & defs.keys())

    direct = {name: refs(node) for name, node in defs.items()}
    found = set()
    for name in defs:
        seen, todo = set(), set(direct[name])
        while todo:
            seen.add(at := todo.pop())
            todo |= direct[at] - seen
        if name in seen:
            found.add(name)
    return found


class _Parameter(msgspec.Struct, frozen=True):
    schema: Schema[Any]
    default: Any


_REQUIRED = inspect.Parameter.empty
_PLAIN = (type(None), bool, int, float, str, list, dict, tuple)


class Signature:
    """The parameters of a function as one JSON object.

    `injected` names the parameter (if any) whose annotation is `inject`: it is left out of the
    schema and filled by the caller. `local` are names that annotations may use beside globals.
    Raises SchemaError.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        inject: type | None = None,
        local: dict[str, Any] | None = None,
    ) -> None:
        self.injected = ""
        self._parameters: dict[str, _Parameter] = {}
        properties: dict[str, Any] = {}
        defs: dict[str, Any] = {}
        called = getattr(fn, "__name__", type(fn).__name__)
        hints = hints_of(fn, called, inject, local)
        about = param_docs(inspect.getdoc(fn) or "")
        for name, param in inspect.signature(fn).parameters.items():
            if param.kind in (param.VAR_POSITIONAL, param.VAR_KEYWORD, param.POSITIONAL_ONLY):
                raise SchemaError(
                    f'parameter "{name}" of "{called}" has no name to call it by',
                    hint="give each parameter of a tool a name; no *args, **kwargs or /",
                )
            if name == "self" and name not in hints:
                raise SchemaError(
                    f'"{called}" is a method without its object',
                    hint=f"pass the method of an object: tools=[thing.{called}]",
                )
            hint = hints.get(name, Any)
            if inject is not None and (hint is inject or inject in get_args(hint)):
                self.injected = name
                continue
            if param.default is None and hint is not Any:
                hint = Optional[hint]  # noqa: UP045 - the hint may be a string or Annotated
            schema: Schema[Any] = Schema(hint, f"{called}.{name}")
            described = dict(schema.json)
            defs.update(described.pop("$defs", {}))
            if name in about:
                described.setdefault("description", about[name])
            if type(param.default) in _PLAIN:
                described["default"] = to_json(param.default)
            properties[name] = described
            self._parameters[name] = _Parameter(schema, param.default)
        self.json: dict[str, Any] = {"type": "object", "properties": properties}
        if required := [n for n, p in self._parameters.items() if p.default is _REQUIRED]:
            self.json["required"] = required
        if defs:
            self.json["$defs"] = defs

    @property
    def needed(self) -> dict[str, Any]:
        """The types of the parameters that have no default."""
        found = self._parameters.items()
        return {name: p.schema.type for name, p in found if p.default is _REQUIRED}

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object that a call with these arguments has. Raises SchemaError."""
        names = [*self._parameters]
        if len(args) > len(names):
            raise SchemaError(
                f"{len(args)} arguments were given, it takes {len(names)}: {', '.join(names)}"
            )
        given = dict(zip(names, args, strict=False))
        if twice := [name for name in kwargs if name in given]:
            raise SchemaError(f'the argument "{twice[0]}" was given twice')
        given |= kwargs
        self.convert(made := {name: to_json(value) for name, value in given.items()})
        return made

    def convert(self, args: Any) -> dict[str, Any]:
        """Keyword arguments from a JSON object, defaults included. Raises SchemaError."""
        if not isinstance(args, dict):
            raise SchemaError(f"the arguments must be a JSON object, not {type(args).__name__}")
        for name in args:
            if name not in self._parameters:
                known = ", ".join(self._parameters) or "none"
                raise SchemaError(f'there is no argument "{name}"; there are: {known}')
        out = {}
        for name, param in self._parameters.items():
            if name in args:
                out[name] = self._convert(name, param, args[name])
            elif param.default is _REQUIRED:
                raise SchemaError(f'the argument "{name}" is missing')
            else:
                out[name] = param.default
        return out

    def _convert(self, name: str, param: _Parameter, value: Any) -> Any:
        try:
            return param.schema.convert(value)
        except SchemaError as error:
            if isinstance(value, str):
                # Small models write an object or a list as a string of JSON.
                with contextlib.suppress(SchemaError):
                    return param.schema.parse(value)
            raise SchemaError(f'the argument "{name}" does not fit: {error.message}') from None


def local_names(fn: Callable[..., Any]) -> dict[str, Any] | None:
    """What the annotations of `fn` name in the function that it is being defined in."""
    where = getattr(fn, "__qualname__", "").rpartition(".<locals>")[0]
    if not where:
        return None
    hints = [h for h in getattr(fn, "__annotations__", {}).values() if isinstance(h, str)]
    if not hints:
        return None
    frame = sys._getframe(1)
    while frame.f_code.co_qualname != where:
        if frame.f_back is None:
            return None
        frame = frame.f_back
    names = set(re.findall(r"[^\W\d]\w*", " ".join(hints)))
    return {n: v for n, v in frame.f_locals.items() if n in names}


def hints_of(
    fn: Callable[..., Any], called: str, inject: type | None, local: dict[str, Any] | None
) -> dict[str, Any]:
    plain: Any = fn
    while isinstance(plain, functools.partial):
        plain = plain.func
    if not inspect.isroutine(plain) and not inspect.isclass(plain):
        plain = type(plain).__call__
    try:
        try:
            return get_type_hints(plain, localns=local, include_extras=True)
        except NameError:
            # Linters move the import of an injected type under TYPE_CHECKING.
            extra = {} if inject is None else {inject.__name__: inject}
            return get_type_hints(plain, localns={**extra, **(local or {})}, include_extras=True)
    except (NameError, TypeError) as error:
        raise SchemaError(
            f'a type hint of "{called}" cannot be resolved: {error}',
            hint="define the type before the tool, at the top level of the notebook or module",
        ) from None


def _mentions_pydantic(hint: Any) -> bool:
    if hasattr(hint, "model_json_schema") or type(hint).__module__.startswith("pydantic"):
        return True
    return any(_mentions_pydantic(a) for a in get_args(hint))


def _hooked_schema(type_: Any) -> dict[str, Any]:
    if tables.is_type(type_):
        return {"type": "object", "title": "table"}
    if isinstance(type_, type) and issubclass(type_, PurePath):
        return {"type": "string", "format": "path"}
    raise TypeError(f"JSON has no form of {type_!r}")


def _hooked_value(type_: type, value: Any) -> Any:
    if tables.is_type(type_):
        return tables.load(value)
    if issubclass(type_, PurePath) and isinstance(value, str):
        return type_(value)
    raise ValueError(f"{type(value).__name__} is no {type_.__name__}")


def param_docs(doc: str) -> dict[str, str]:
    """Parameter descriptions of a Google, NumPy or reST docstring."""
    parsed = _parsed(doc)
    params = parsed.params if parsed is not None else ()
    return {p.arg_name: p.description.strip() for p in params if p.description}


def summary(doc: str) -> str:
    """A docstring without its parameter section."""
    parsed = _parsed(doc)
    if parsed is None:
        return doc.strip()
    parts = (parsed.short_description, parsed.long_description)
    return "\n\n".join(p for p in parts if p).strip() or doc.strip()


def _parsed(doc: str) -> Docstring | None:
    if "\n" not in doc:
        return None
    import docstring_parser

    try:
        return docstring_parser.parse(doc)
    except docstring_parser.ParseError:
        return None


def _reason(error: Exception) -> str:
    text = str(error)
    if hasattr(error, "errors"):
        items = error.errors()
        text = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'value'}: {e['msg']}" for e in items[:5]
        )
    return text
