"""pandas DataFrames as JSON, and back as they were.

A table is `{"columns": [{"name", "dtype", "values"}, …]}`, with an "index" of the same form unless
it only counts the rows. Of a categorical column there are "categories" and "ordered" beside the
values. What is missing is null.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mastra_nb.errors import SchemaError

if TYPE_CHECKING:
    import pandas as pd

Exact = Callable[[Any], Any]


def is_table(value: Any) -> bool:
    return is_type(type(value))


def is_type(type_: Any) -> bool:
    """Whether it is DataFrame; nobody has one who has not imported pandas."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and type_ is getattr(pandas, "DataFrame", None)


def dump(frame: pd.DataFrame, exact: Exact) -> dict[str, Any]:
    """`exact` makes JSON of what a column of objects holds. Raises SchemaError."""
    import pandas as pd

    names = [*frame.columns]
    if not all(isinstance(n, str) for n in names) or len(set(names)) < len(names):
        raise SchemaError(
            "the columns of the table have no names, or the same ones",
            hint="frame.columns = [...] gives them texts as names, each once",
        )
    if isinstance(frame.index, pd.MultiIndex):
        raise SchemaError("the table has an index of several levels", hint="frame.reset_index()")
    out: dict[str, Any] = {"columns": [_dump(n, frame[n], exact) for n in names]}
    if not frame.index.equals(pd.RangeIndex(len(frame))) or frame.index.name is not None:
        out["index"] = _dump(frame.index.name, frame.index.to_series(), exact)
    return out


def _dump(name: Any, column: pd.Series[Any], exact: Exact) -> dict[str, Any]:
    import pandas as pd

    out: dict[str, Any] = {"name": name, "dtype": str(column.dtype)}
    if isinstance(column.dtype, pd.CategoricalDtype):
        out["categories"] = [exact(c) for c in column.cat.categories.tolist()]
        out["ordered"] = bool(column.cat.ordered)
    missing = column.isna().tolist()
    out["values"] = [
        None if gone else _plain(value, exact)
        for value, gone in zip(column.tolist(), missing, strict=True)
    ]
    return out


def _plain(value: Any, exact: Exact) -> Any:
    # Of moments and durations pandas knows more than Python does: nanoseconds.
    return value.isoformat() if hasattr(value, "isoformat") else exact(value)


def load(value: Any) -> pd.DataFrame:
    """Raises SchemaError for what is no table."""
    import pandas as pd

    try:
        columns = {c["name"]: _load(c) for c in value["columns"]}
        if "index" not in value:
            return pd.DataFrame(columns)
        index = value["index"]
        made = pd.Index(_load(index), name=index["name"])
        data = {name: column.set_axis(made) for name, column in columns.items()}
        return pd.DataFrame(data, index=made)
    except (KeyError, TypeError, ValueError) as error:
        raise SchemaError(f"this is no table: {error}") from None


def _load(column: dict[str, Any]) -> pd.Series[Any]:
    import pandas as pd

    values, dtype = column["values"], column["dtype"]
    if "categories" in column:
        kind = pd.CategoricalDtype(column["categories"], ordered=column["ordered"])
        return pd.Series(values, dtype=kind)
    if dtype.startswith("datetime64"):
        zone = dtype.partition(",")[2].strip(" ]")
        made: pd.Series[Any] = pd.Series(pd.to_datetime(values, utc=bool(zone), format="ISO8601"))
        moved: pd.Series[Any] = made.dt.tz_convert(zone) if zone else made
        return moved.astype(dtype)
    if dtype.startswith("timedelta64"):
        passed: pd.Series[Any] = pd.Series(pd.to_timedelta(values))
        return passed.astype(dtype)
    plain: pd.Series[Any] = pd.Series(values, dtype=dtype)
    return plain
