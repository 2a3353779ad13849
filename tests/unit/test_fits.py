from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mastra_nb._fits import Fields, misfit, shown
from mastra_nb.errors import SchemaError
from mastra_nb.schema import exact
from mastra_nb.shapes import conform, typed


class Typed(TypedDict):
    a: int
    b: NotRequired[str]


@dataclass
class Data:
    a: int
    b: str = ""


class Struct(msgspec.Struct):
    a: int
    b: str = ""


class Model(pydantic.BaseModel):
    a: int
    b: str = ""


OBJECTS = [Typed, Data, Struct, Model]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (int, int),
        (int, float),
        (str, dt.datetime),
        (int, Any),
        (Any, int),
        (int, int | str),
        (int | str, int),
        (list[int], list[int]),
        (list[int], list[Any]),
        (list[int], list),
        (list, list[int]),
        (tuple[int, ...], list[int]),
        (dict[str, int], Mapping[str, int]),
        (dict, Data),
        (Literal["a", "b"], str),
        (str, Literal["a", "b"]),
        (Literal["a"], Literal["a", "b"]),
        (None, type(None)),
        (Fields({"a": int}), dict),
        (Fields({"a": int, "c": str}), Fields({"a": int})),
        *((Fields({"a": int}), o) for o in OBJECTS),
        *((o, Fields({"a": int})) for o in OBJECTS),
        *((o, dict) for o in OBJECTS),
        *((a, b) for a in OBJECTS for b in OBJECTS),
    ],
)
def test_what_fits(given: Any, wanted: Any) -> None:
    assert misfit(given, wanted) == ""


@pytest.mark.parametrize(
    ("given", "wanted", "why"),
    [
        (str, int, "str is no int"),
        (float, int, "float is no int"),
        (bool, int, "bool is no int"),
        (int, str, "int is no str"),
        (list[str], list[int], "str is no int"),
        (list[int], int, "list[int] is no int"),
        (str, list[str], "str is no list[str]"),
        (int | str, list, "int | str is no list"),
        (float, int | str, "float is no int | str"),
        (type(None), int, "None is no int"),
        (Literal["c"], Literal["a", "b"], "Literal['c'] is no Literal['a', 'b']"),
        (Literal["c"], int, "Literal['c'] is no int"),
        (int, Literal["a"], "int is no Literal['a']"),
        (Fields({"b": str}), Fields({"a": int}), 'there is no "a" in {b: str}'),
        (Fields({"a": str}), Fields({"a": int}), '"a": str is no int'),
        (Fields({"a": int}), int, "{a: int} is no int"),
        (int, Fields({"a": int}), "int is no {a: int}"),
        *((Fields({"a": str}), o, '"a": str is no int') for o in OBJECTS),
        *((Fields({"b": str}), o, 'there is no "a" in {b: str}') for o in OBJECTS),
        *((int, o, f"int is no {o.__name__}") for o in OBJECTS),
        *((o, int, f"{o.__name__} is no int") for o in OBJECTS),
    ],
)
def test_what_does_not(given: Any, wanted: Any, why: str) -> None:
    assert misfit(given, wanted) == why


def test_a_field_that_may_be_left_out_is_not_missed() -> None:
    assert misfit(Fields({"a": int}), Typed) == ""
    assert misfit(Fields({"a": int, "b": int}), Typed) == '"b": int is no str'


def test_types_are_shown_as_they_are_written() -> None:
    assert shown(Fields({"a": list[int], "b": None})) == "{a: list[int], b: None}"
    assert shown(Data) == "Data"
    assert shown(dict[str, Any]) == "dict[str, Any]"


LEAVES: list[Any] = [int, float, str, bool, type(None), Literal["a", "b"], Data, Struct, Typed]


def types(deep: int = 2) -> st.SearchStrategy[Any]:
    leaf = st.sampled_from(LEAVES)
    if deep == 0:
        return leaf
    inner = types(deep - 1)
    return st.one_of(
        leaf,
        inner.map(lambda t: list[t]),  # type: ignore[valid-type]
        inner.map(lambda t: dict[str, t]),  # type: ignore[valid-type]
    )


def values(type_: Any) -> st.SearchStrategy[Any]:
    if type_ in (Data, Struct):
        return st.builds(type_, a=small, b=st.text(max_size=3))
    if type_ is Typed:
        return st.fixed_dictionaries({"a": small}, optional={"b": st.text(max_size=3)})
    if type_ is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    if type_ is int:
        return small
    if type_ == Literal["a", "b"]:
        return st.sampled_from(["a", "b"])
    args = getattr(type_, "__args__", ())
    if args and type_.__origin__ is list:
        return st.lists(values(args[0]), max_size=2)
    if args:
        return st.dictionaries(st.text(max_size=2), values(args[1]), max_size=2)
    return st.from_type(type_)


small = st.integers(-(2**53), 2**53)


@given(st.data())
def test_what_fits_converts_at_run_time(data: st.DataObject) -> None:
    """Of these types none is "left to the run": yes at build time is yes for each value."""
    given_, wanted = data.draw(types()), data.draw(types())
    value = data.draw(values(given_))
    if misfit(given_, wanted) or _left_to_the_run(given_, wanted):
        return
    schema = typed(wanted, "it")
    assert schema is not None
    conform(schema, value)


@given(st.data())
def test_a_value_fits_its_own_type(data: st.DataObject) -> None:
    type_ = data.draw(types())
    assert misfit(type_, type_) == ""
    schema = typed(type_, "it")
    assert schema is not None
    value = data.draw(values(type_))
    assert exact(schema.convert(exact(value))) == exact(value)


@given(st.data())
def test_what_does_not_fit_is_refused_at_run_time_too(data: st.DataObject) -> None:
    """Where no value of the one is one of the other; an empty list is of any."""
    given_, wanted = data.draw(st.sampled_from(LEAVES)), data.draw(st.sampled_from(LEAVES))
    if not misfit(given_, wanted):
        return
    schema = typed(wanted, "it")
    assert schema is not None
    value = data.draw(values(given_))
    if given_ is float and value.is_integer():
        return
    if given_ is int and wanted is bool and value in (0, 1):
        return  # a model may say so; a step that gives numbers does not mean it
    with pytest.raises(SchemaError):
        conform(schema, value)


def _left_to_the_run(given: Any, wanted: Any) -> bool:
    """A text may be one of those that are allowed, a mapping may have the fields."""
    pair = (getattr(given, "__args__", ()), getattr(wanted, "__args__", ()))
    if given == str and wanted == Literal["a", "b"]:  # noqa: E721
        return True
    if getattr(given, "__origin__", None) is dict and wanted in (Data, Struct, Typed):
        return True
    if given in (Data, Struct, Typed) and getattr(wanted, "__origin__", None) is dict:
        return True
    same = getattr(given, "__origin__", 1) is getattr(wanted, "__origin__", 2)
    return same and bool(pair[0]) and _left_to_the_run(pair[0][-1], pair[1][-1])
