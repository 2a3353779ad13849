"""`python -m mastra_nb.notebook.demo NOTEBOOK OUT [-p NAME VALUE]…`

Executes a notebook with papermill and writes to the terminal what happens, cell by cell: the first
line of the source, text as it is said, a line for each tool call, errors. Exit code 1 on failure.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from mastra_nb import views
from mastra_nb.errors import MissingExtra
from mastra_nb.notebook._errors import plain

_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_ENGINE = "mastra-nb-demo"


class Narrator:
    """Turns what a kernel publishes into lines of a terminal.

    A run's output is replaced as it grows: only what is new of its text is written.
    """

    def __init__(self, write: Callable[[str], Any]) -> None:
        self._write = write
        self._said: dict[str, str] = {}
        self._tools: dict[str, int] = {}
        self._fresh = True
        self._cells = 0

    def cell(self, source: str) -> None:
        self._cells += 1
        first = next((line for line in source.splitlines() if line.strip()), "")
        self._line(f"\n[{self._cells}] {first}")

    def message(self, kind: str, content: dict[str, Any]) -> None:
        if kind == "stream":
            self._put(_COLOR.sub("", content["text"]))
        elif kind in ("display_data", "update_display_data", "execute_result"):
            id = content.get("transient", {}).get("display_id", "")
            self._bundle(id, content["data"], replaces=kind == "update_display_data")
        elif kind == "error":
            text = "\n".join(content["traceback"]) or f"{content['ename']}: {content['evalue']}"
            self._line(_COLOR.sub("", text))

    def end(self) -> None:
        self._line("")

    def _bundle(self, id: str, data: dict[str, Any], *, replaces: bool) -> None:
        run = data.get(views.MIME)
        if not isinstance(run, dict):
            if not replaces:
                self._line(str(data.get("text/plain", "")))
            return
        self._run(id, run, str(data.get("text/markdown", "")))

    def _run(self, id: str, run: dict[str, Any], markdown: str) -> None:
        done = [i for i in run.get("items", ()) if i.get("status") in ("ok", "error")]
        for item in done[self._tools.get(id, 0) :]:
            seconds = f" · {item['seconds']:.1f} s" if "seconds" in item else ""
            failed = " · failed" if item["status"] == "error" else ""
            self._line(f"  · {item.get('name', item['type'])}{seconds}{failed}")
        self._tools[id] = max(self._tools.get(id, 0), len(done))
        running = run.get("status") == "running"
        text = _answer(run, markdown)
        if running:
            text = _settled(text)
        said = self._said.get(id, "")
        if text.startswith(said):
            self._put(text[len(said) :])
            self._said[id] = text
        elif not running:
            self._line("")
            self._put(text)
        if not running:
            self._line("")

    def _put(self, text: str) -> None:
        text = plain(text)
        if text:
            self._write(text)
            self._fresh = text.endswith("\n")

    def _line(self, text: str) -> None:
        if not self._fresh:
            self._write("\n")
        self._write(f"{plain(text)}\n" if text else "")
        self._fresh = True


def _answer(run: dict[str, Any], markdown: str) -> str:
    """The text of a record, which is kept in the Markdown: `at` counts UTF-16 units of it."""
    if "output" in run:
        return json.dumps(run["output"], ensure_ascii=False)
    if "at" not in run:
        return str(run.get("text", ""))
    start, end = run["at"]
    units = markdown.encode("utf-16-le")[2 * start : 2 * end]
    return html.unescape(units.decode("utf-16-le", "replace"))


_MARKUP = re.compile(r"[*_`~\[<&\\$|]")


def _settled(text: str) -> str:
    """What more text will not change: markup in the last line may yet close."""
    line = text.rfind("\n") + 1
    mark = _MARKUP.search(text, line)
    return text if mark is None else text[: mark.start()]


def execute(
    notebook: Path, out: Path, parameters: dict[str, Any], write: Callable[[str], Any]
) -> bool:
    """Returns whether every cell succeeded; the executed notebook is at `out` either way."""
    try:
        import papermill
        from papermill.clientwrap import PapermillNotebookClient
        from papermill.engines import NBClientEngine, papermill_engines
        from papermill.exceptions import PapermillExecutionError
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f'running a notebook needs "{error.name}"', hint='pip install "mastra-nb[batch]"'
        ) from None

    narrator = Narrator(write)

    class Client(PapermillNotebookClient):  # type: ignore[misc]
        def execute_cell(self, cell: Any, cell_index: int, **options: Any) -> Any:
            if cell.cell_type == "code" and cell.source.strip():
                narrator.cell(cell.source)
            return super().execute_cell(cell, cell_index, **options)

        def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
            narrator.message(msg["msg_type"], msg["content"])
            return super().process_message(msg, cell, cell_index)

    class Engine(NBClientEngine):  # type: ignore[misc]
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **_: Any) -> Any:
            # The kernel's own log lines would stand between ours.
            quiet = ["--IPKernelApp.log_level=ERROR"]
            return Client(nb_man, kernel_name=kernel_name, extra_arguments=quiet).execute()

    papermill_engines.register(_ENGINE, Engine)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            str(notebook), str(out), parameters=parameters, engine_name=_ENGINE,
            kernel_name="python3", cwd=str(notebook.parent), progress_bar=False,
        )  # fmt: skip
    except PapermillExecutionError:
        return False
    finally:
        narrator.end()
    return True


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mastra_nb.notebook.demo",
        description="Run a notebook and tell what happens.",
    )
    parser.add_argument("notebook", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter"
    )
    args = parser.parse_args(argv)
    if not args.notebook.is_file():
        print(f'there is no notebook "{args.notebook}"', file=sys.stderr)
        return 1

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    ok = execute(
        args.notebook, args.out, {name: yaml.safe_load(value) for name, value in args.p}, write
    )
    said = "The executed notebook is" if ok else "A cell failed; the notebook up to it is"
    print(f'\n{said} "{args.out}".')
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
