"""What became of a batch: a table of values, and a page for people."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mastra_nb._escape import escape
from mastra_nb.batch._html import page
from mastra_nb.batch._rows import (
    MARKS,
    WORST_FIRST,
    BatchRow,
    RowStatus,
    money,
    names_of,
    rank,
    short,
)
from mastra_nb.errors import MissingExtra

# After the parameters and the values; a column of these that is named alike keeps its name.
COLUMNS = ("status", "cost", "tokens", "seconds", "attempts", "runs", "error", "hint", "output")
_MOST = 50


class BatchReport(msgspec.Struct, frozen=True, kw_only=True):
    """The rows in the order of the table; `id` names the batch in the store. `cost` is of the whole
    batch, what earlier calls of it spent too; None if a price is unknown.
    """

    id: str
    notebook: str
    rows: tuple[BatchRow, ...]
    seconds: float = 0.0
    budget: float | None = None
    folder: str = ""

    def __iter__(self) -> Iterator[BatchRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> BatchRow:
        return self.rows[index]

    @property
    def cost(self) -> float | None:
        costs = [row.cost for row in self.rows]
        return None if None in costs else sum(c for c in costs if c is not None)

    @property
    def counts(self) -> dict[RowStatus, int]:
        found = Counter(row.status for row in self.rows)
        return {status: found[status] for status in WORST_FIRST if found[status]}

    @property
    def failed(self) -> tuple[BatchRow, ...]:
        return tuple(row for row in self.rows if row.status == "failed")

    @property
    def suspended(self) -> tuple[BatchRow, ...]:
        return tuple(row for row in self.rows if row.status == "suspended")

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some failed, 3 some wait for an answer, 4 over budget, 130 stopped."""
        counts = self.counts
        for status, code in (("stopped", 130), ("over_budget", 4), ("failed", 1), ("suspended", 3)):
            if status in counts:
                return code
        return 130 if "pending" in counts else 0

    def records(self) -> list[dict[str, Any]]:
        """A row each: parameters, values, then `COLUMNS`. A value of the same name as a parameter
        or one of these is "<name>_value".
        """
        params = names_of(row.params for row in self.rows)
        taken = {*params, *COLUMNS}
        values = {
            n: f"{n}_value" if n in taken else n for n in names_of(r.values for r in self.rows)
        }
        own = {n: f"batch_{n}" if n in params else n for n in COLUMNS}
        out = []
        for row in self.rows:
            one: dict[str, Any] = {name: row.params.get(name) for name in params}
            one |= {shown: row.values.get(name) for name, shown in values.items()}
            one |= {shown: getattr(row, name) for name, shown in own.items()}
            one[own["runs"]] = " ".join(row.runs)
            out.append(one)
        return out

    def to_frame(self) -> Any:
        """A pandas DataFrame of `records`. Raises MissingExtra without pandas."""
        try:
            import pandas as pd
        except ModuleNotFoundError:
            raise MissingExtra(
                "a DataFrame needs pandas", hint='pip install "mastra-nb[data]"'
            ) from None
        return pd.DataFrame(self.records())

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Lists and mappings are written as JSON."""
        records = self.records()
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, fieldnames=list(records[0]) if records else COLUMNS)
        writer.writeheader()
        writer.writerows({k: _cell(v) for k, v in record.items()} for record in records)
        return _write(path, out.getvalue().encode())

    def to_parquet(self, path: str | os.PathLike[str]) -> Path:
        """Raises MissingExtra without pandas or pyarrow."""
        frame = self.to_frame()
        for name in frame.columns:
            kinds = {type(v) for v in frame[name] if v is not None and v == v}
            if kinds & {dict, list} or len(kinds - {int, float}) > 1:
                # A column has one type: what differs from row to row is JSON.
                frame[name] = [None if v is None else json.dumps(v) for v in frame[name]]
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            frame.to_parquet(target, index=False)
        except ImportError:
            raise MissingExtra("Parquet needs pyarrow", hint="pip install pyarrow") from None
        return target

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """A page that needs nothing else, what failed first."""
        budget = "" if self.budget is None else f" · budget ${self.budget:g}"
        about = f"{self.summary}{budget} · batch {self.id}"
        text = page(Path(self.notebook).name, about, self.rows, Path(path).absolute().parent)
        return _write(path, text.encode())

    def write_results(self, path: str | os.PathLike[str]) -> Path:
        """Parquet or CSV, as the name ends."""
        return self.to_parquet(path) if Path(path).suffix == ".parquet" else self.to_csv(path)

    @property
    def summary(self) -> str:
        parts = [f"{n:,} {status.replace('_', ' ')}" for status, n in self.counts.items()]
        cost = money(self.cost)
        return " · ".join([*reversed(parts), *([cost] if cost else []), f"{self.seconds:.1f} s"])

    def __repr__(self) -> str:
        return f"<BatchReport {self.id}: {self.summary}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        records = self.records()
        shown = sorted(zip(self.rows, records, strict=True), key=lambda r: rank(r[0]))[:_MOST]
        drop = {"attempts", "output", "hint", "tokens", "runs"}
        names = [n for n in (records[0] if records else ()) if n not in drop]
        lines = [f"**{escape(Path(self.notebook).name)}** · {escape(self.summary)}", ""]
        lines += ["| | " + " | ".join(map(escape, names)) + " |", "|---|" + "---|" * len(names)]
        for row, record in shown:
            cells = [short(record[n]) for n in names]
            lines.append(f"| {MARKS[row.status]} | " + " | ".join(map(escape, cells)) + " |")
        if len(self.rows) > _MOST:
            lines += ["", f"… {len(self.rows) - _MOST:,} more"]
        lines += [f"- {escape(row.id)}: {escape(row.hint)}" for row, _ in shown if row.hint]
        return {"text/markdown": "\n".join(lines), "text/plain": repr(self)}


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


def _write(path: str | os.PathLike[str], data: bytes) -> Path:
    """Whole or not at all: somebody may be looking at the one before."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.part")
    beside.write_bytes(data)
    beside.replace(target)
    return target
