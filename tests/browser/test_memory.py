"""What memory and retrieval show in a live JupyterLab, and saved without a kernel."""

from __future__ import annotations

import pytest

from tests.browser.lab import Lab, Server

KNOWN = """\
from dataclasses import dataclass

from mastra_nb import Agent, Memory
from mastra_nb.memory.memory import WorkingMemory
from mastra_nb.rag.index import Index
from mastra_nb.testing import FakeEmbedder, ScriptedModel, calls


@dataclass
class Person:
    name: str = ""
    likes: str = ""


memory = Memory(
    semantic_recall=True,
    working_memory=WorkingMemory(schema=Person),
    facts=True,
    embedder=FakeEmbedder(),
)
docs = Index("docs", embedder=FakeEmbedder())
model = ScriptedModel(
    calls("update_working_memory", memory={"name": "Ada", "likes": "boats"}),
    "Nice to meet you, **Ada**. <img src=x onerror=canary(1)> I will remember the boats.",
    calls("search_docs", query="What do owls hunt at night?"),
    "Owls hunt mice at night [1] and sleep by day [2].",
    name="openai/gpt-4o-mini",
)
"""
NOTES = {
    "owls.md": "# Owls\n\n## Food\n\nOwls hunt mice and voles at night.\n\n## Sleep\n\nOwls "
    "sleep by day in hollow trees, and in barns where people leave a window open.\n",
    "lakes.md": "# Lakes\n\nThe deepest lake is Baikal. " + "It is very old and very cold. " * 40,
    "<img src=x onerror=canary(2)>.md": "# <script>canary(3)</script>\n\nMice fear <b>owls</b>.\n",
    "broken.pdf": "no PDF at all",
}
CELLS = [
    "%load_ext mastra_nb",
    "from known import *",
    "helper = Agent(name='helper', model=model, memory=memory, tools=[docs.as_tool()])\n"
    "await docs.ingest('notes')",
    "await helper.run('I am Ada and I like boats.', thread='harbour', resource='ada')",
    "run = helper.run('What do owls hunt at night?', thread='birds', resource='ada')\n"
    "await run\nrun",
    "await docs.query('owls hunt mice', top_k=3)",
    "await docs.documents()",
    "docs",
    "memory.thread('harbour', resource='ada')",
    "await memory.threads(resource='ada')",
    "await memory.remember('Ada sails every summer.', resource='ada', pinned=True)\n"
    "await memory.remember('Ada had tea today.', resource='ada', importance=0.1)\n"
    "await memory.facts(resource='ada')",
    "await memory.working_history(resource='ada')",
    "memory",
    "await memory.recall('boats', resource='ada')",
    "await docs.query('owls', filter={'year': {'$sort': 1}})",
]
SHOWN = {
    2: ["4 added", "6 chunks"],
    4: ["Owls hunt mice at night", "search_docs"],
    5: ["Owls hunt mice and voles", "owls.md:1-9", "Owls › Food"],
    6: ["<img src=x onerror=canary(2)>.md", "<script>canary(3)</script>", "Lakes"],
    7: ["exact: fewer than 4,096 entries", "fake/words"],
    8: ["harbour · ada · 4 messages", "Nice to meet you, Ada. <img src=x onerror=canary(1)>"],
    9: ["2 threads", "birds"],
    10: ["2 facts", "📌 Ada sails every summer."],
    11: ["1 version", '"likes":"boats"'],
    12: ["last said", "harbour"],
    13: ["harbour#1", "I am Ada and I like boats."],
    14: ["There is no operator '$sort'."],
}


@pytest.mark.slow
def test_what_memory_and_retrieval_show(lab: Lab, server: Server) -> None:
    (server.root / "known.py").write_text(KNOWN)
    folder = server.root / "notes"
    folder.mkdir()
    for name, text in NOTES.items():
        (folder / name).write_text(text)
    path = server.write("memory.ipynb", CELLS)
    notebook = lab.open(path)
    for index in range(len(CELLS)):
        notebook.run(index)
    live = {index: notebook.text(index) for index in SHOWN}
    for index, texts in SHOWN.items():
        assert not [text for text in texts if text not in live[index]], live[index]
    notebook.screenshot("memory-light")
    notebook.save(forget_kernel=True)
    server.shutdown_kernels()
    saved = lab.open(path, kernel=False, theme="dark")
    assert {index: saved.text(index) for index in SHOWN} == live
    saved.screenshot("memory-dark")
