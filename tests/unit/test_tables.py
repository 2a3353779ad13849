from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mastra_nb import tables
from mastra_nb.errors import SchemaError, StepError
from mastra_nb.jsonable import exact
from mastra_nb.steps import step
from mastra_nb.workflows import Workflow


def back(frame: pd.DataFrame) -> pd.DataFrame:
    return tables.load(json.loads(json.dumps(tables.dump(frame, exact))))


FRAMES: dict[str, pd.DataFrame] = {
    "plain": pd.DataFrame({"n": [1, 2], "x": [0.1, float("nan")], "s": ["a", None]}),
    "flags": pd.DataFrame({"b": [True, False]}),
    "empty": pd.DataFrame({"n": pd.Series([], dtype="int64"), "s": pd.Series([], dtype="str")}),
    "no columns": pd.DataFrame(),
    "times": pd.DataFrame({
        "t": pd.to_datetime(["2026-01-02 03:04:05.000000006", None]),
        "z": pd.to_datetime(["2026-06-01", "2026-12-01"]).tz_localize("Europe/Berlin"),
        "d": pd.to_timedelta(["1 days", "2 min"]),
    }),
    "kinds": pd.DataFrame({
        "i": pd.array([1, None], dtype="Int64"), "f": pd.array([1.5, 2.5], dtype="float32"),
        "c": pd.Categorical(["lo", "hi"], categories=["lo", "mid", "hi"], ordered=True),
        "o": pd.Series([{"a": [1]}, [2]], dtype=object),
    }),
    "index": pd.DataFrame({"n": [1, 2, 3]}, index=pd.Index(["a", "b", "c"], name="key")),
    "filtered": pd.DataFrame({"n": range(6)}).query("n % 2 == 0"),
    "dates": pd.DataFrame({"n": [1, 2]}, index=pd.date_range("2026-01-01", periods=2, freq="D")),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMES)
def test_a_table_comes_back_as_it_was(name: str) -> None:
    frame = FRAMES[name]
    pd.testing.assert_frame_equal(back(frame), frame, check_freq=False, check_column_type=False)


cells = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_infinity=False), st.text())


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.text(min_size=1), unique=True, max_size=4).flatmap(
        lambda names: st.tuples(
            *[st.lists(cells, min_size=3, max_size=3).map(lambda c, n=n: (n, c)) for n in names]
        )
    )
)
def test_whatever_is_in_it(columns: tuple[tuple[str, list[Any]], ...]) -> None:
    kinds = {int: "int64", float: "float64"}
    made = {}
    for name, values in columns:
        types = {type(v) for v in values}
        text = [v if isinstance(v, str) else str(v) for v in values]
        values = values if len(types) == 1 and types <= {int, float} else text
        made[name] = pd.Series(values, dtype=kinds.get(type(values[0]), "str"))
    frame = pd.DataFrame(made)
    pd.testing.assert_frame_equal(back(frame), frame, check_column_type=False)


@pytest.mark.parametrize(
    ("frame", "hint"),
    [
        (pd.DataFrame([[1, 2]]), "as names"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "each once"),
        (pd.DataFrame({"a": [1]}, index=pd.MultiIndex.from_tuples([(1, 2)])), "reset_index"),
    ],
)
def test_a_table_that_cannot_be_kept_says_why(frame: pd.DataFrame, hint: str) -> None:
    with pytest.raises(SchemaError) as caught:
        tables.dump(frame, exact)
    assert hint in caught.value.hint


def test_what_is_no_table_is_refused() -> None:
    for wrong in (
        3,
        {},
        {"columns": [{"name": "a"}]},
        {"columns": [{"name": "a", "dtype": "x", "values": []}]},
    ):
        with pytest.raises(SchemaError, match="no table"):
            tables.load(wrong)


def load(rows: int) -> pd.DataFrame:
    return pd.DataFrame({"day": pd.date_range("2026-01-01", periods=rows), "n": range(rows)})


def late(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["day"] > pd.Timestamp(dt.datetime(2026, 1, 2))]  # noqa: DTZ001


async def test_steps_pass_tables_on_also_when_the_run_is_taken_up() -> None:
    workflow = Workflow(name="w").then(step(load)).then(step(late)).map(len)
    run = workflow.run(5)
    assert await run == 3
    path = next(e.seq for e in run.log.events if e.span == "w/late")
    cut = workflow.load(run.id, 5, past=[e for e in run.log.events if e.seq <= path])
    assert await cut.resume() == 3


async def test_a_table_that_nobody_annotated_is_refused() -> None:
    with pytest.raises(StepError) as caught:
        await Workflow(name="w").then(step(lambda n: load(n), id="load")).run(2)  # noqa: PLW0108
    assert "-> pd.DataFrame" in caught.value.hint
