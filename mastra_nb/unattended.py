"""What a process is told by a batch, one row of which it runs: nobody sits in front of it."""

from __future__ import annotations

import functools
import os
from typing import Literal

import msgspec

from mastra_nb.errors import ConfigError

VARIABLE = "MASTRA_NB_ROW"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """`id` begins the ids of its runs, by which their costs are found. Calls that need approval are
    left to a person or denied; those of tools named in `approve` are approved.
    """

    id: str
    approvals: Literal["suspend", "deny"] = "suspend"
    approve: tuple[str, ...] = ()

    def decides(self, tool: str) -> bool | None:
        """None: a person does."""
        if tool in self.approve:
            return True
        return False if self.approvals == "deny" else None

    @property
    def run_prefix(self) -> str:
        return f"r_{self.id}"

    @property
    def environment(self) -> dict[str, str]:
        return {VARIABLE: msgspec.json.encode(self).decode()}


def row() -> Row | None:
    """Raises ConfigError for a variable that nobody of ours has set."""
    given = os.environ.get(VARIABLE)
    return _read(given) if given else None


@functools.lru_cache(maxsize=4)
def _read(given: str) -> Row:
    try:
        return msgspec.json.decode(given, type=Row)
    except msgspec.DecodeError as error:
        raise ConfigError(f'the variable "{VARIABLE}" holds no row', hint="unset it") from error
