"""P9: what a long stream costs the page and the saved notebook."""

from __future__ import annotations

import json
import time

import pytest

from tests.browser.lab import Lab, Server

CHUNKS = 2_000
PER_SECOND = 200

STREAMER = f"""\
from mastra_nb import Agent
from mastra_nb.testing import ScriptedModel

SENTENCE = "The **rain** in `Oslo` falls, says [the log](#log), on plain and hill alike.\\n"
PARAGRAPH = SENTENCE * 4 + "\\n- first\\n- second\\n\\n| a | b |\\n|---|---|\\n| 1 | 2 |\\n\\n"
PIECE = 5
TEXT = (PARAGRAPH * 40)[: {CHUNKS} * PIECE].rstrip()
streamer = Agent(
    name="streamer", model=ScriptedModel(TEXT, piece=PIECE, delay=1 / {PER_SECOND})
)"""


def test_a_long_stream_is_cheap(
    lab: Lab, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    (server.root / "streamer.py").write_text(STREAMER)
    path = server.write(
        "stream.ipynb",
        ["%load_ext mastra_nb", "from streamer import streamer", "%%ask streamer\nTell me."],
    )
    notebook = lab.open(path)
    notebook.run(0)
    notebook.run(1)

    sent = lab.traffic.bytes
    before = lab.metrics()
    started = time.monotonic()
    notebook.run(2)
    took = time.monotonic() - started
    after = lab.metrics()
    updates = lab.traffic.counts["update_display_data"]
    cell = notebook.save().cells[2]
    (output,) = cell.outputs
    beyond = len(json.dumps(output, indent=1)) - len(json.dumps(output.data["text/markdown"]))

    busy = {
        name: after[name] - before[name]
        for name in ("TaskDuration", "ScriptDuration", "LayoutDuration", "RecalcStyleDuration")
    }
    with capsys.disabled():
        print(
            f"\nP9  {CHUNKS} chunks at {PER_SECOND}/s in {took:.1f} s: {updates} updates, "
            f"{updates / took:.1f} a second; "
            f"browser busy {busy['TaskDuration']:.1f} s (script {busy['ScriptDuration']:.1f}, "
            f"layout {busy['LayoutDuration']:.1f}, style {busy['RecalcStyleDuration']:.1f}); "
            f"{(lab.traffic.bytes - sent) / 1e6:.2f} MB received; "
            f"{beyond} bytes of .ipynb beyond the Markdown"
        )
    assert 10 < updates <= 20 * took + 2
    assert lab.traffic.counts["display_data"] == 1
    assert beyond <= 2_048
