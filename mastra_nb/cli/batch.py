"""`mastra-nb batch`: a notebook once for each row of a table."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

import click
import msgspec

from mastra_nb import portal
from mastra_nb.batch._rows import MARKS, BatchRow, money, rank
from mastra_nb.batch.batches import Batch
from mastra_nb.batch.report import BatchReport
from mastra_nb.cli._output import INTERRUPTED, note, one_line, say, say_json
from mastra_nb.cli.run import values

_MOST = 20


@click.command("batch")
@click.argument("notebook", type=click.Path(exists=True, dir_okay=False))
@click.option("--params", metavar="FILE", help="The rows: CSV, JSON, JSON lines or Parquet.")
@click.option(
    "-p", "--param", "constants", multiple=True, metavar="NAME=VALUE",
    help="A parameter that is the same in each row; VALUE is JSON or text.",
)  # fmt: skip
@click.option("-w", "--workers", default=1, show_default=True, help="Rows at work at once.")
@click.option("--budget", type=float, metavar="DOLLARS", help="What the batch may spend.")
@click.option("--row-budget", type=float, metavar="DOLLARS", help="What a row may spend.")
@click.option(
    "--retries", default=0, show_default=True, help="How often a failed row is tried anew."
)
@click.option("--timeout", type=float, metavar="SECONDS", help="How long a row may take.")
@click.option("--executor", default="local", show_default=True, help='Where rows run: or "dask".')
@click.option("--address", metavar="URL", help="Of a Dask scheduler; without one it is started.")
@click.option("--store", metavar="URL", help="The store, instead of the project's.")
@click.option(
    "-o",
    "--output-dir",
    metavar="FOLDER",
    help="For executed notebooks and the report; by default out/ beside the notebook.",
)
@click.option("--results", metavar="FILE", help="Write the table of results: .csv or .parquet.")
@click.option("--report", "page", metavar="FILE", help="Write the HTML report there too.")
@click.option(
    "--name", default="", help="Which calls are the same batch; by default the notebook's code."
)
@click.option("--again", is_flag=True, help="Run also the rows that are done.")
@click.option(
    "--approvals",
    type=click.Choice(["suspend", "deny"]),
    default="suspend",
    show_default=True,
    help="What becomes of calls that a person has to approve.",
)
@click.option("--approve", multiple=True, metavar="TOOL", help="Approve all calls of this tool.")
@click.option("--kernel", default="", help="The kernel, instead of the notebook's.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def batch_command(
    notebook: str,
    params: str | None,
    constants: tuple[str, ...],
    results: str | None,
    page: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Run NOTEBOOK once for each row of a table.

    Rows that are done are not run again; what was stopped goes on. Exit code 0: all done, 1: some
    failed, 3: some wait for an answer, 4: over budget, 130: interrupted.

    \b
    Examples:
      mastra-nb batch report.ipynb --params cities.csv --workers 2 --budget 5
      mastra-nb batch report.ipynb --params cities.csv -p model=openai/gpt-5 --results out.parquet
      mastra-nb batch report.ipynb -p city=Oslo --timeout 600 --retries 2 --json
    """
    shared = values(constants)
    batch = Batch(notebook, [shared] if params is None else params, on_row=_tell, **options)
    if params is not None and shared:
        batch.share(shared)
    report = _driven(batch)
    if results is not None:
        report.write_results(results)
    if page is not None:
        report.to_html(page)
    if as_json:
        say_json(_shown(report))
    else:
        _summarize(report)
    click.get_current_context().exit(report.exit_code)


def _driven(batch: Batch) -> BatchReport:
    """SIGTERM stops it in order, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        return portal.run(batch.run())
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return portal.run(batch.run())
    except KeyboardInterrupt:
        note(f"stopped: {batch.said}; the same command goes on from there")
        click.get_current_context().exit(INTERRUPTED)
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell(row: BatchRow) -> None:
    """In a log, where no line can be written over, each row has its own."""
    if not sys.stderr.isatty():
        note(_line(row))


def _line(row: BatchRow) -> str:
    given = " ".join(f"{name}={value}" for name, value in row.params.items())
    parts = [given, f"{row.seconds:.1f} s", money(row.cost), row.error]
    return one_line(f"{MARKS[row.status]} {row.index + 1} {' · '.join(filter(None, parts))}")


def _summarize(report: BatchReport) -> None:
    unfinished = [row for row in sorted(report, key=rank) if row.status != "done"]
    for row in unfinished[:_MOST]:
        say(_line(row))
        if row.hint:
            say(f"    → {row.hint}")
    if len(unfinished) > _MOST:
        say(f"… {len(unfinished) - _MOST:,} more")
    say(f"{report.summary}\n{report.folder}/report.html")


def _shown(report: BatchReport) -> dict[str, Any]:
    return {
        "batch": report.id,
        "counts": report.counts,
        "cost": report.cost,
        "seconds": report.seconds,
        "folder": report.folder,
        "rows": [msgspec.to_builtins(row) for row in report],
    }
