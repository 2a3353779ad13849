from __future__ import annotations

import datetime as dt
import enum
import functools
import json
import math
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Optional, TypedDict
from unittest.mock import MagicMock
from uuid import UUID

import msgspec
import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mastra_nb import schema as s
from mastra_nb.context import Context
from mastra_nb.errors import SchemaError
from mastra_nb.tools import Tool, tool

jsonschema = s._jsonschema()

if TYPE_CHECKING:
    from decimal import Decimal


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.StrEnum):
    SMALL = "small"


@dataclass
class Point:
    """A place."""

    x: float
    y: float = 0.0
    tags: list[str] = field(default_factory=list)


class Pet(TypedDict, total=False):
    name: str
    age: int


class City(msgspec.Struct):
    name: str
    country: str | None = None


class Person(pydantic.BaseModel):
    name: str
    age: int = pydantic.Field(ge=0, description="in years")


@dataclass
class Mixed:
    person: Person
    point: Point


class Pair(NamedTuple):
    left: int
    right: str


class Tree(msgspec.Struct):
    value: int
    children: list[Tree] = []


class Node(pydantic.BaseModel):
    value: int
    next: Optional[Node] = None  # noqa: UP045


CASES: list[tuple[Any, Any, Any]] = [
    (int, 3, 3),
    (int, "3", 3),
    (bool, "true", True),
    (str, "3", "3"),
    (float, 3, 3.0),
    (str | None, None, None),
    (list[int], ["1", 2], [1, 2]),
    (dict[str, int], {"a": 1}, {"a": 1}),
    (dict[str, Any], {"type": "text", "$ref": "#/x"}, {"type": "text", "$ref": "#/x"}),
    (Literal["a", "b"], "a", "a"),
    (Colour, "red", Colour.RED),
    (Size, "small", Size.SMALL),
    (Point, {"x": 1}, Point(1)),
    (Pet, {"name": "Rex"}, {"name": "Rex"}),
    (City, {"name": "Oslo"}, City("Oslo")),
    (Person, {"name": "Ann", "age": "3"}, Person(name="Ann", age=3)),
    (list[Person], [{"name": "Ann", "age": 3}], [Person(name="Ann", age=3)]),
    (Person | None, None, None),
    (Mixed, {"person": {"name": "A", "age": 1}, "point": {"x": 1}}, None),
    (Pair, [1, "x"], Pair(1, "x")),
    (tuple[int, str], [1, "x"], (1, "x")),
    (set[int], [1, 1], {1}),
    (dt.date, "2024-05-06", dt.date(2024, 5, 6)),
    (UUID, "12345678123456781234567812345678", UUID(int=0x12345678123456781234567812345678)),
    (Path, "/tmp/x", Path("/tmp/x")),
    (bytes, "aGk=", b"hi"),
    (Annotated[int, msgspec.Meta(ge=1)], 1, 1),
    (Annotated[int, pydantic.Field(ge=1)], 1, 1),
    (Tree, {"value": 1, "children": [{"value": 2}]}, Tree(1, [Tree(2)])),
    (Node, {"value": 1, "next": {"value": 2}}, Node(value=1, next=Node(value=2))),
    (Any, {"x": [1]}, {"x": [1]}),
]


@pytest.mark.parametrize(("kind", "value", "expected"), CASES)
def test_types_go_both_ways(kind: Any, value: Any, expected: Any) -> None:
    schema: s.Schema[Any] = s.Schema(kind)
    jsonschema.Draft202012Validator.check_schema(schema.json)
    made = schema.convert(value)
    if expected is not None:
        assert made == expected
        assert type(made) is type(expected)
    again = s.to_json(made)
    assert json.loads(json.dumps(again)) == again
    assert schema.convert(again) == made
    jsonschema.validate(again, schema.json)


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        (int, "x", "Expected `int`, got `str`"),
        (int, True, "Expected `int`, got `bool`"),
        (str, 3, "Expected `str`"),
        (Literal["a", "b"], "c", "Invalid enum value 'c'"),
        (Colour, "green", "Invalid enum value 'green'"),
        (Point, {"y": 1}, "missing required field `x`"),
        (Person, {"name": "Ann", "age": -1}, "age: Input should be greater than or equal to 0"),
        (Mixed, {"person": {"name": "A", "age": "x"}, "point": {"x": 1}}, "person.age: "),
        (Path, 3, "int is no"),
        (Annotated[int, pydantic.Field(ge=1)], 0, "greater than or equal to 1"),
    ],
)
def test_what_does_not_fit_is_said(kind: Any, value: Any, reason: str) -> None:
    with pytest.raises(SchemaError, match=re.escape(reason)):
        s.Schema(kind).convert(value)


@pytest.mark.parametrize("kind", [Callable, np.ndarray, list[Context], dict[str, type]])
def test_a_type_without_a_schema_says_so(kind: Any) -> None:
    with pytest.raises(SchemaError, match="has no JSON schema") as caught:
        _ = s.Schema(kind, "thing").json
    assert "dataclasses" in caught.value.hint


def test_references_are_inlined() -> None:
    assert "$ref" not in json.dumps(s.Schema(Mixed).json)
    assert "$ref" not in json.dumps(s.Schema(list[Point] | City).json)


@pytest.mark.parametrize("kind", [Tree, Node])
def test_recursive_types_keep_theirs_and_are_objects_at_the_top(kind: type) -> None:
    found = s.Schema(kind).json
    assert found["type"] == "object"
    assert [*found["$defs"]] == [kind.__name__]
    deep = {"value": 1, "children": [{"value": "x"}], "next": {"value": "x"}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(deep, found)


def test_data_that_looks_like_a_reference_stays() -> None:
    schema = {
        "type": "object",
        "properties": {
            "$ref": {"type": "string"},
            "$defs": {"const": {"$ref": "#/$defs/A"}},
            "a": {"$ref": "#/$defs/A", "default": {"$ref": "#/$defs/A"}},
        },
        "$defs": {"A": {"type": "integer"}},
    }
    assert s.inline_refs(schema) == {
        "type": "object",
        "properties": {
            "$ref": {"type": "string"},
            "$defs": {"const": {"$ref": "#/$defs/A"}},
            "a": {"type": "integer", "default": {"$ref": "#/$defs/A"}},
        },
    }


def test_a_schema_that_would_explode_is_left_as_it_is() -> None:
    defs: dict[str, Any] = {"T0": {"type": "integer"}}
    for i in range(1, 30):
        ref = {"$ref": f"#/$defs/T{i - 1}"}
        defs[f"T{i}"] = {"type": "object", "properties": {"a": ref, "b": ref}}
    schema = {"$ref": "#/$defs/T29", "$defs": defs}
    assert s.inline_refs(schema) is schema


# Signatures


def parameters(fn: Callable[..., Any]) -> dict[str, Any]:
    spec = Tool(fn, name="f").spec
    jsonschema.Draft202012Validator.check_schema(spec.parameters)
    return spec.parameters


def test_a_signature_is_one_object() -> None:
    def f(a: int, b: str = "x", *, c: Colour = Colour.RED, d: Optional[float] = None) -> None: ...  # noqa: UP045

    assert parameters(f) == {
        "type": "object",
        "properties": {
            "a": {"type": "integer"},
            "b": {"type": "string", "default": "x"},
            "c": {"title": "Colour", "enum": ["blue", "red"]},
            "d": {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None},
        },
        "required": ["a"],
    }


def test_no_parameters() -> None:
    assert parameters(lambda: 1) == {"type": "object", "properties": {}}


GOOGLE = """Do it.

    More about it.

    Args:
        a: the first
            of all
        b (str): the second

    Returns:
        nothing
    """
NUMPY = """Do it.

    More about it.

    Parameters
    ----------
    a : int
        the first
        of all
    b : str
        the second
    """
REST = """Do it.

    More about it.

    :param a: the first
        of all
    :param b: the second
    :returns: nothing
    """


@pytest.mark.parametrize("doc", [GOOGLE, NUMPY, REST])
def test_docstrings_describe_parameters(doc: str) -> None:
    def f(a: int, b: str) -> None: ...

    f.__doc__ = doc
    made = Tool(f)
    properties = made.spec.parameters["properties"]
    assert properties["a"]["description"].split() == ["the", "first", "of", "all"]
    assert properties["b"]["description"] == "the second"
    assert made.spec.description == "Do it.\n\nMore about it."


@pytest.mark.parametrize(
    "doc", ["", "One line.", ":param", "Args:\n  :\n x", ":param x\n:type", "\n\n", "a\n---\nb"]
)
def test_odd_docstrings_are_no_error(doc: str) -> None:
    def f(a: int) -> None: ...

    f.__doc__ = doc
    assert Tool(f).spec.parameters["properties"]["a"]["type"] == "integer"


def test_a_description_of_the_type_wins() -> None:
    def f(a: Annotated[int, msgspec.Meta(description="mine")]) -> None:
        """Do it.

        Args:
            a: theirs
        """

    assert parameters(f)["properties"]["a"]["description"] == "mine"


def test_the_context_is_not_shown() -> None:
    def plain(a: int, ctx: Context) -> None: ...

    def optional(a: int, ctx: Context | None = None) -> None: ...

    for fn in (plain, optional):
        made = Tool(fn)
        assert [*made.spec.parameters["properties"]] == ["a"]
        assert made.signature.injected == "ctx"


def test_local_types_are_found_behind_text_annotations() -> None:
    @dataclass
    class Local:
        n: int

    @tool
    def f(a: Local, b: list[Local] | None = None) -> int:
        return a.n

    made = f.signature.convert({"a": {"n": 1}, "b": [{"n": "2"}]})
    assert made == {"a": Local(1), "b": [Local(2)]}


def test_a_type_that_cannot_be_found_says_what_to_do() -> None:
    @tool
    def f(a: Decimal) -> None: ...

    with pytest.raises(SchemaError, match='type hint of "f" cannot be resolved') as caught:
        _ = f.spec
    assert "top level" in caught.value.hint


def test_a_context_imported_for_type_checkers_only_is_found() -> None:
    namespace: dict[str, Any] = {}
    exec("def f(a: int, ctx: 'Context'): ...", namespace)
    assert Tool(namespace["f"]).signature.injected == "ctx"


def test_what_has_no_name_to_call_it_by_is_refused() -> None:
    def args(*values: int) -> None: ...

    def kwargs(**values: int) -> None: ...

    def positional(a: int, /) -> None: ...

    for fn in (args, kwargs, positional):
        with pytest.raises(SchemaError, match="has no name to call it by"):
            _ = Tool(fn).spec


class Counter:
    def add(self, n: int) -> int:
        return n + 1

    async def __call__(self, n: int) -> int:
        return n + 2


def test_methods_partials_and_callable_objects() -> None:
    assert [*parameters(Counter().add)["properties"]] == ["n"]
    assert [*parameters(Counter())["properties"]] == ["n"]
    assert parameters(functools.partial(Counter().add, n=3))["properties"]["n"]["default"] == 3
    with pytest.raises(SchemaError, match="a method without its object"):
        parameters(Counter.add)


def test_defaults_need_not_be_json() -> None:
    marker = object()

    def f(a: float = math.inf, b: Any = marker, c: list[int] = [1], d: int = None) -> None: ...  # type: ignore[assignment]  # noqa: B006, RUF013

    assert "default" not in parameters(f)["properties"]["b"]
    signature = Tool(f).signature
    assert signature.convert({}) == {"a": math.inf, "b": marker, "c": [1], "d": None}
    assert signature.convert({"d": None})["d"] is None


def test_arguments() -> None:
    def f(a: int, b: Point, c: str = "x") -> None: ...

    convert = Tool(f).signature.convert
    assert convert({"a": "1", "b": {"x": 1}}) == {"a": 1, "b": Point(1), "c": "x"}
    assert convert({"a": 1, "b": '{"x": 2}'})["b"] == Point(2)
    for args, reason in [
        ([], "must be a JSON object, not list"),
        ({"a": 1, "b": {"x": 1}, "e": 1}, 'no argument "e"; there are: a, b, c'),
        ({"a": 1}, 'the argument "b" is missing'),
        ({"a": "x", "b": {}}, 'the argument "a" does not fit: Expected `int`'),
        ({"a": 1, "b": {"x": "?"}}, "at `$.x`"),
    ]:
        with pytest.raises(SchemaError, match=re.escape(reason)):
            convert(args)


def test_pydantic_and_ours_in_one_function() -> None:
    def f(who: Person, where: Point, other: list[Mixed] | None = None) -> None: ...

    made = Tool(f).signature.convert({"who": {"name": "A", "age": 1}, "where": {"x": 1}})
    assert made == {"who": Person(name="A", age=1), "where": Point(1), "other": None}


def test_a_parameter_may_be_recursive() -> None:
    def f(tree: Tree, node: Node) -> None: ...

    found = parameters(f)
    assert sorted(found["$defs"]) == ["Node", "Tree"]
    jsonschema.validate({"tree": {"value": 1, "children": []}, "node": {"value": 1}}, found)


# to_json


class Odd:
    def __init__(self, repr_: Any) -> None:
        self.repr_ = repr_

    def __repr__(self) -> str:
        return self.repr_()


def fails() -> str:
    raise RuntimeError("no")


class Proxy:
    """Answers to every name, and must not be asked."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"asked for {name}")

    def __repr__(self) -> str:
        return "<proxy>"


class Broken(pydantic.BaseModel):
    def model_dump(self, **_: Any) -> dict[str, Any]:
        raise KeyError("x")


class Text(str):
    __slots__ = ()


LOOP: list[Any] = []
LOOP.append(LOOP)
DEEP: list[Any] = []
for _ in range(5000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (2**70, str(2**70)),
        (-(2**63), -(2**63)),
        (math.nan, None),
        ({"x": [math.inf]}, {"x": [None]}),
        (Text("a"), "a"),
        ([Text("a"), np.str_("b")], ["a", "b"]),
        (Size.SMALL, "small"),
        (Colour.RED, "red"),
        ({1: 2, None: 3, (1, 2): 4, Colour.RED: 5}, {"1": 2, "None": 3, "(1, 2)": 4, "red": 5}),
        ((1, (2, 3)), [1, [2, 3]]),
        ({"b", "a", "c"}, ["a", "b", "c"]),
        (np.float64(1.5), 1.5),
        (np.float32("nan"), None),
        (np.int64(3), 3),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        ([np.array([1.0, math.nan])], [[1.0, None]]),
        (pd.Series([1, 2]), [1, 2]),
        (pd.DataFrame({"a": [1], 2: ["x"]}),
         {"columns": ["a", "2"], "rows": 1, "head": [{"a": 1, "2": "x"}]}),
        (Point(1.0, math.nan, ["t"]), {"x": 1.0, "y": None, "tags": ["t"]}),
        (Mixed(Person(name="A", age=1), Point(1)),
         {"person": {"name": "A", "age": 1}, "point": {"x": 1.0, "y": 0.0, "tags": []}}),
        (dt.datetime(2024, 1, 2, 3, tzinfo=dt.UTC), "2024-01-02T03:00:00Z"),
        (dt.timedelta(seconds=90), "PT90S"),
        (b"hi", "aGk="),
        (Path("/tmp/x"), "/tmp/x"),
        ("\ud800x", "?x"),
        ({"k\ud800": 1}, {"k?": 1}),
        (Odd(lambda: "odd"), "odd"),
        (Odd(fails), "<Odd>"),
        ({"x": Odd(fails)}, {"x": "<Odd>"}),
        (LOOP, "[[...]]"),
        (Person, repr(Person)),
        (Point, repr(Point)),
        ({"type": "text-delta", "$ref": "x"}, {"type": "text-delta", "$ref": "x"}),
    ],
)  # fmt: skip
def test_to_json(value: Any, expected: Any) -> None:
    found = s.to_json(value)
    assert found == expected
    assert json.loads(msgspec.json.encode(found)) == found


def test_to_json_asks_an_object_nothing_that_its_class_does_not_offer() -> None:
    assert s.to_json(Proxy()) == "<proxy>"
    assert s.to_json({"x": [Proxy()]}) == {"x": ["<proxy>"]}


@pytest.mark.parametrize("value", [DEEP, Broken.model_construct(), MagicMock(), iter([1]), fails])
def test_to_json_never_fails(value: Any) -> None:
    assert isinstance(s.to_json(value), str)


@given(st.text())
def test_text_can_always_be_encoded(value: str) -> None:
    assert s.to_json(value).encode().decode() == s.clean(value)
    assert s.clean(value) == value or max(value) > "\ud7ff"


# Text that holds JSON


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ("  [1] ", "[1]"),
        ('Here:\n```json\n{"a": 1}\n```\nDone.', '{"a": 1}'),
        ('It is {"a": {"b": 1}}, I think', '{"a": {"b": 1}}'),
        ("The list: [1, 2].", "[1, 2]"),
        ("42", "42"),
        ("", ""),
        ("no", "no"),
    ],
)
def test_find_json(text: str, found: str) -> None:
    assert s.find_json(text) == found


@pytest.mark.parametrize("text", ["", "{", "nope", b"\xff"])
def test_parse_json_says_what_is_no_json(text: str | bytes) -> None:
    with pytest.raises(SchemaError, match="not valid JSON"):
        s.parse_json(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("x", None),
        ('{"a": "he', {"a": "he"}),
        ('{"a": [1, 2', {"a": [1, 2]}),
        ("\ud800", None),
    ],
)
def test_partial_json(text: str, value: Any) -> None:
    assert s.partial_json(text) == value


def test_validate_against_a_foreign_schema() -> None:
    s.validate({"a": [1]}, {"type": "object"})
    items = {"type": "array", "items": {"type": "integer"}}
    with pytest.raises(SchemaError, match=re.escape("is not of type 'integer' at ['a'][0]")):
        s.validate({"a": ["x"]}, {"properties": {"a": items}})
    with pytest.raises(SchemaError, match="the schema itself is wrong"):
        s.validate(1, {"type": "nothing"})


def test_the_first_answer_does_not_wait_for_a_grammar() -> None:
    code = """
        import sys
        from mastra_nb.schema import validate, validate
        assert "jsonschema" not in sys.modules
        validate(1, {"type": "integer"})
        assert "lark" not in sys.modules
        assert "rfc3987_syntax" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


@pytest.mark.parametrize(
    "ref", ["http://127.0.0.1:9/x", "file:///etc/passwd", "#/nowhere", "other"]
)
def test_a_schema_refers_to_nothing_outside_itself(ref: str) -> None:
    with pytest.raises(SchemaError, match="is not in it"):
        s.validate({"a": 1}, {"properties": {"a": {"$ref": ref}}})


def test_a_json_schema_stands_for_a_type() -> None:
    json = {"title": "place", "type": "object", "properties": {"n": {"type": "integer"}}}
    place = s.Schema[Any](json)
    assert (place.name, place.json) == ("place", json)
    assert place.parse('{"n": 3}') == {"n": 3}
    with pytest.raises(SchemaError, match="not of type"):
        place.convert({"n": "three"})
