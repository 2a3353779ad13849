"""P9: a long stream into the cell of a real kernel, as a front end and the saved notebook see it.

    python -m tests.bench.cell ours|once|naive GAP ORIGIN

`naive` shows every piece as it comes, `once` shows the text when it is whole: what it costs to
do too much, and nothing. GAP is milliseconds between two pieces.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import v4

from tests.bench.server import words
from tests.bench.workload import CHUNKS, Result

START = """
import time
from tests.bench.memory import peak_rss
cpu = time.process_time()
"""
END = "print(time.process_time() - cpu, peak_rss())"
FLOOR = """
from IPython.display import Markdown, display
from tests.bench.floors import QUESTION, raw
floor, parts = await raw({url!r}), []
{before}
async for delta in floor.ask([QUESTION]):
    parts.append(delta.get("content") or "")
    {during}
{after}
"""
CELLS = {
    "once": ["pass", FLOOR.format(
        url="{url}", before="", during="", after="display(Markdown(''.join(parts)))"
    )],
    "naive": ["pass", FLOOR.format(
        url="{url}", before="shown = display(Markdown(''), display_id=True)",
        during="shown.update(Markdown(''.join(parts)))", after="",
    )],
    "ours": [
        "%load_ext mastra_nb\nfrom mastra_nb import Agent\n"
        "teller = Agent(name='teller', model='openai/gpt-4o-mini')",
        "%%ask teller\nTell me a story.",
    ],
}  # fmt: skip
SHOWN = frozenset({"display_data", "update_display_data", "stream", "clear_output"})
nb: Any = v4
write: Any = nbformat.writes


class Watch(NotebookClient):
    """Keeps when the cell under test published something, and how much."""

    watched: str = ""

    def begin(self, source: str) -> None:
        self.watched = source
        self.moments: list[float] = []
        self.sent = 0

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        if cell.source == self.watched and msg["msg_type"] in SHOWN:
            self.moments.append(time.perf_counter())
            self.sent += len(json.dumps(msg["content"]))
        return super().process_message(msg, cell, cell_index)


def busiest(moments: list[float]) -> int:
    """The most of them within any one second."""
    return max(
        (sum(start <= m < start + 1 for m in moments[i:]) for i, start in enumerate(moments)),
        default=0,
    )


def measure(who: str, gap: str, origin: str) -> Result:
    url = f"{origin}/text,chunks={CHUNKS},gap={gap}/v1"
    os.environ["OPENAI_BASE_URL"] = url
    setup, source = (cell.replace("{url}", url) for cell in CELLS[who])
    cells = [nb.new_code_cell(text) for text in (setup, START, source, END)]
    notebook = nb.new_notebook(cells=cells)
    with tempfile.TemporaryDirectory() as folder:
        client = Watch(
            notebook, timeout=120, kernel_name="python3", record_timing=False,
            resources={"metadata": {"path": folder}},
        )  # fmt: skip
        client.begin(source)
        client.execute()
    nbformat.validate(notebook)
    cpu, rss = cells[3].outputs[0].text.split()
    span = client.moments[-1] - client.moments[0]
    saved = write(notebook)
    answer = "".join(words(CHUNKS))
    shown = cells[2].outputs[0].data["text/markdown"]
    assert len(cells[2].outputs) == 1, cells[2].outputs
    assert answer[-200:].strip() in shown, shown[-500:]
    cells[2].outputs = [nb.new_output("display_data", {"text/markdown": answer})]
    return {
        "cpu": float(cpu) * 1000,
        "rss": float(rss),
        "updates": float(len(client.moments)),
        "rate": len(client.moments) / max(1.0, span),
        "busiest": float(busiest(client.moments)),
        "sent": client.sent / 1024,
        "saved": float(len(saved.encode()) - len(write(notebook).encode())),
    }


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    print(json.dumps(measure(*sys.argv[1:])))
