"""What --each takes for rows, and the table it gives back."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any, NamedTuple

import msgspec
import pandas as pd
import pydantic
import pytest

from mastra_nb.errors import NotFound, UsageError
from mastra_nb.notebook._rows import Row, Rows, fields, find_data
from mastra_nb.notebook._templates import render


@dataclasses.dataclass
class Data:
    city: str


class Struct(msgspec.Struct):
    city: str


class Model(pydantic.BaseModel):
    city: str


class Named(NamedTuple):
    city: str


def test_a_row_is_read_by_its_columns_whatever_they_are_called() -> None:
    row = Row({"items": 1, "max c": 2, "keys": [3], 5: "five"})
    text = render("{{ row.items }} {{ row['max c'] }} {{ row.keys[0] }} {{ row[5] }}", {"row": row})
    assert text == "1 2 3 five"
    assert render("{{ row }}", {"row": row}) == "items: 1\nmax c: 2\nkeys: [3]\n5: five"
    assert ("items" in row, len(row), list(row)) == (True, 4, ["items", "max c", "keys", 5])
    with pytest.raises(NotFound, match='no column "itms"') as error:
        render("{{ row.itms }}", {"row": row})
    assert error.value.hint == 'did you mean "items"?'


def test_a_frame_keeps_its_index_and_columns() -> None:
    frame = pd.DataFrame({"city": ["Oslo", "Rome"], "max c": [1, 2]}, index=["a", "a"])
    rows = Rows(frame, "frame")
    assert (list(rows.labels), rows.columns) == (["a", "a"], ["city", "max c"])
    made = rows.table({"answer": ["x", None], "tags": [["p", "q"], []]})
    assert list(made.columns) == ["city", "max c", "answer", "tags"]
    assert list(made.index) == ["a", "a"]
    assert made["tags"].tolist() == [["p", "q"], []]
    assert list(frame.columns) == ["city", "max c"], "what was given is as it was"


def test_a_series_is_one_column() -> None:
    named = Rows(pd.Series(["Oslo"], name="city", index=[7]), "s")
    assert named.values[0]["city"] == "Oslo"
    assert named.table({"answer": ["x"]}).to_dict("list") == {"city": ["Oslo"], "answer": ["x"]}
    assert Rows(pd.Series([1]), "s").columns == ["value"]


@pytest.mark.parametrize(
    ("data", "columns", "labels", "first"),
    [
        ([{"a": 1}, {"b": 2}], ["a", "b"], [0, 1], {"a": 1}),
        (["x", "y"], ["value"], [0, 1], {"value": "x"}),
        (range(2), ["value"], [0, 1], {"value": 0}),
        ({"p": {"a": 1}, "q": {"a": 2}}, ["a"], ["p", "q"], {"a": 1}),
        ({"p": "x"}, ["value"], ["p"], {"value": "x"}),
        ([Data("Oslo"), Data("Rome")], ["city"], [0, 1], {"city": "Oslo"}),
    ],
)
def test_lists_and_mappings(data: Any, columns: list[str], labels: list[Any], first: Any) -> None:
    rows = Rows(data, "data")
    assert (rows.columns, list(rows.labels), rows.cells(0)) == (columns, labels, first)
    made = rows.table({"answer": ["ok"] * len(rows)})
    assert [*made.columns] == [*columns, "answer"]
    assert [*made.index] == labels


def test_without_pandas_a_list_of_dicts_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert Rows(["x"], "d").table({"answer": ["ok"]}) == [{"value": "x", "answer": "ok"}]
    assert Rows({"p": {"a": 1}}, "d").table({"error": [None]}) == [
        {"index": "p", "a": 1, "error": None}
    ]


@pytest.mark.parametrize("data", ["text", b"x", 5, None, object(), iter([1])])
def test_what_has_no_rows(data: Any) -> None:
    with pytest.raises(UsageError, match='"data" is a .*: it has no rows'):
        Rows(data, "data")


def test_a_name_that_is_taken_gets_a_number() -> None:
    rows = Rows([{"city": 1, "cost": 2, "cost_2": 3}], "d")
    assert rows.names(["city", "city", "answer", "cost"]) == [
        "city_2",
        "city_3",
        "answer",
        "cost_3",
    ]


@pytest.mark.parametrize(
    "value", [Data("x"), Struct("x"), Model(city="x"), Named("x"), {"city": "x"}]
)
def test_fields_of_a_value(value: Any) -> None:
    assert fields(value) == {"city": "x"}


@pytest.mark.parametrize("value", [3, "x", None, [1], (1, 2), Data])
def test_values_without_fields(value: Any) -> None:
    assert fields(value) is None


def test_data_by_name() -> None:
    names = {"d": {"a": [1, 2, 3]}, "data": Data("x")}
    assert find_data("d", names) is names["d"]
    assert find_data("d['a'][:2]", names) == [1, 2]
    assert find_data("d['a'][-1]", names) == 3
    assert find_data("data.city", names) == "x"
    with pytest.raises(NotFound, match='no variable "dta"') as error:
        find_data("dta", names)
    assert error.value.hint.startswith("did you mean")
    for text in ("d.pop('a')", "[x for x in d]", "d +", "lambda: d", "f'{d}'"):
        with pytest.raises(UsageError, match="is not the name of data"):
            find_data(text, names)
    with pytest.raises(UsageError, match="KeyError"):
        find_data("d['b']", names)
