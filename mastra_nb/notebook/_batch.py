"""%mastra batch: another notebook, once for each row of a table of this one."""

from __future__ import annotations

import asyncio
import shlex
from typing import Any

from mastra_nb.batch.batches import Batch
from mastra_nb.errors import NotFound, Stopped, UsageError
from mastra_nb.notebook import _live, _values
from mastra_nb.notebook._host import Host
from mastra_nb.notebook._options import Option, Spec, parse_cell
from mastra_nb.notebook._tables import show
from mastra_nb.notebook._templates import variables

SPEC = Spec(
    name="batch",
    summary="Run a notebook once for each row of a table.",
    usage=("%mastra batch NOTEBOOK --params ROWS [options]",),
    options=(
        Option(
            name="params", metavar="ROWS", complete="variable",
            help="a variable (DataFrame, list of dicts) or a file (CSV, JSON, Parquet)",
        ),
        Option(name="workers", short="-w", metavar="N", kind="count", help="rows at work at once"),
        Option(name="budget", metavar="DOLLARS", kind="number", help="what the batch may spend"),
        Option(name="row-budget", metavar="DOLLARS", kind="number", help="what a row may spend"),
        Option(name="retries", metavar="N", kind="count", help="how often a failed row is retried"),
        Option(name="timeout", metavar="SECONDS", kind="number", help="how long a row may take"),
        Option(name="executor", metavar="NAME", help="where rows run: local or dask"),
        Option(name="address", metavar="URL", help="of a Dask scheduler"),
        Option(name="name", metavar="NAME", help="which calls are the same batch"),
        Option(name="again", help="run also the rows that are done"),
        Option(
            name="approvals", metavar="WHAT", kind="choice", choices=("suspend", "deny"),
            help="what becomes of calls that a person has to approve",
        ),
        Option(name="approve", metavar="TOOLS", kind="list", help="approve calls of these tools"),
        Option(name="out", short="-o", metavar="NAME", help="put the report into this variable"),
    ),
)  # fmt: skip


async def batch(host: Host, *words: str) -> None:
    """Raises UsageError, Stopped if the cell is interrupted."""
    if not words:
        raise UsageError("which notebook?", hint=f"usage: {SPEC.usage[0]}")
    parsed = parse_cell(SPEC, shlex.join(words), words=1)
    values = dict(parsed.values)
    out = values.pop("out", "")
    if out:
        _values.check_variable(out, "the name after -o")
    rows = _rows(host, values.pop("params", None))
    if not parsed.words:
        raise UsageError("which notebook?", hint=f"usage: {SPEC.usage[0]}")
    options: dict[str, Any] = {name.replace("-", "_"): value for name, value in values.items()}
    made = Batch(parsed.words[0], rows, store=host.store, **options)
    try:
        report = await made.run()
    except asyncio.CancelledError:
        _live.uncancel()
        raise Stopped(f"stopped: {made.said}; run it again to go on") from None
    if out:
        host.shell.user_ns[out] = report
    show(host, report._repr_mimebundle_())


def _rows(host: Host, given: str | None) -> Any:
    if given is None:
        raise UsageError("which rows?", hint="--params takes a variable or a file")
    if not given.isidentifier():
        return given
    names = host.names()
    if given not in names:
        known = ", ".join(sorted(variables(names))[:8])
        raise NotFound(f'there is no variable "{given}"', hint=f"known: {known}" if known else "")
    return names[given]
