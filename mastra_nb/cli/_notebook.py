"""A notebook that is run once: a batch of one row."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from mastra_nb import portal
from mastra_nb.batch._rows import BatchRow
from mastra_nb.batch.batches import Batch
from mastra_nb.batch.report import BatchReport
from mastra_nb.cli._output import INTERRUPTED, json_text, note, say, say_json
from mastra_nb.errors import NotFound, UsageError, close_matches


def run_notebook(
    path: Path, params: dict[str, Any], output: str | None, *, budget: float | None, as_json: bool
) -> int:
    """The exit code. What the notebook recorded is the output; the executed notebook goes to
    `output`, by default into out/ beside it. Raises NotFound, UsageError, MissingExtra.
    """
    path = path.absolute()
    if not path.is_file():
        near = close_matches(path.name, [p.name for p in path.parent.glob("*.ipynb")])
        raise NotFound(f'there is no notebook "{path}"', hint=near)
    if output is None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        target = path.parent / "out" / f"{path.stem}-{stamp}.ipynb"
    else:
        target = Path(output)
        if target.suffix != ".ipynb":
            raise UsageError(f'"{output}" is no notebook', hint="-o another-name.ipynb")
    with tempfile.TemporaryDirectory(prefix="mastra-nb-") as folder:
        try:
            report = portal.run(_once(path, params, budget, folder))
        except KeyboardInterrupt:
            note("■ stopped; the same command goes on where a run waits or was cut off")
            return INTERRUPTED
        row = report.rows[0]
        kept = _moved(row, target)
    if as_json:
        say_json(_summary(row, path, kept))
    elif row.values:
        say(json_text(row.values, indent=True))
    if row.error:
        click.secho("error: ", fg="red", nl=False, err=True)
        note(row.error)
    if row.hint:
        note(f"  → {_hint(row, path)}")
    if kept is not None:
        note(f"executed notebook: {kept}")
    return report.exit_code


async def _once(
    path: Path, params: dict[str, Any], budget: float | None, folder: str
) -> BatchReport:
    """Where a run in it waited and has its answer, the notebook goes on; else it is run anew."""
    what = msgspec.json.encode([str(path), params], order="sorted")
    name = f"run-{path.stem}-{hashlib.sha256(what).hexdigest()[:12]}"
    given: dict[str, Any] = {"budget": budget, "output_dir": folder, "name": name}
    report = await Batch(path, [params], **given).run()
    if report.rows[0].reused and report.rows[0].status == "done":
        report = await Batch(path, [params], again=True, **given).run()
    return report


def _moved(row: BatchRow, target: Path) -> Path | None:
    made = Path(row.output) if row.output else None
    if made is None or not made.is_file():
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(made, target)
    return target


def _hint(row: BatchRow, path: Path) -> str:
    """Of one notebook, not of a batch; who answers needs its application."""
    app = f" --app {shlex.quote(os.path.relpath(path))}"
    return re.sub(r"(mastra-nb resume \w+)", rf"\1{app}", row.hint).replace("the batch", "it")


def _summary(row: BatchRow, path: Path, kept: Path | None) -> dict[str, Any]:
    out: dict[str, Any] = {
        "run": row.runs[-1] if row.runs else None,
        "status": row.status,
        "output": row.values,
        "usage": {"tokens": row.tokens, "cost": row.cost},
        "notebook": None if kept is None else str(kept),
    }
    if row.error:
        out["error"] = {"message": row.error, "hint": _hint(row, path)}
    return out
