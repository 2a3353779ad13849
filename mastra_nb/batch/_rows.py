"""A row of a report, and how it is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

RowStatus = Literal["done", "failed", "suspended", "over_budget", "stopped", "pending"]

# The order of the page, and of what people want to see first.
WORST_FIRST: tuple[RowStatus, ...] = (
    "failed", "over_budget", "suspended", "stopped", "pending", "done",
)  # fmt: skip
MARKS = {
    "done": "✓", "failed": "✗", "suspended": "⏸", "over_budget": "$", "stopped": "■", "pending": "·"
}  # fmt: skip


class BatchRow(msgspec.Struct, frozen=True, kw_only=True):
    """A run of the notebook with one row of parameters. `index` counts rows from 0, `seconds` are
    of its last attempt, `cost` in dollars of all, None where a price is unknown. `output` is the
    executed notebook. `reused`: an earlier call of the same batch has done it.
    """

    index: int
    id: str
    params: dict[str, Any]
    status: RowStatus
    values: dict[str, Any] = {}
    cost: float | None = 0.0
    tokens: int = 0
    seconds: float = 0.0
    attempts: int = 0
    runs: tuple[str, ...] = ()
    error: str = ""
    hint: str = ""
    output: str = ""
    reused: bool = False


def rank(row: BatchRow) -> int:
    return WORST_FIRST.index(row.status)


def money(cost: float | None) -> str:
    if cost is None:
        return "cost unknown"
    return "" if not cost else f"${cost:.2f}" if cost >= 0.995 else f"${cost:.4f}"


def names_of(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for each in mappings for name in each))


def short(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:119]}…"
