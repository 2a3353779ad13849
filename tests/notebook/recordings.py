"""What the local model says in the tutorials: recorded by `python -m tests.notebook.recordings`.

A file for each of them, next to this one, holds the documents of a store: replies by the digest of
their request.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from mastra_nb.app import open_store

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent / "recordings"
RECORDED = (
    "01_agents", "02_tools_and_approval", "03_structured_output", "07_dashboards",
)  # fmt: skip
_KINDS = ("recording", "replay")


def load(name: str, url: str) -> None:
    """Into a new store."""
    kept: dict[str, dict[str, Any]] = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))

    async def put() -> None:
        store = open_store(url)
        for kind, documents in kept.items():
            for id, data in documents.items():
                await store.put(kind, id, data)
        await store.close()

    asyncio.run(put())


def record(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "notebooks"
        shutil.copytree(ROOT / "notebooks", home)
        url = f"sqlite:///{home / 'mastra.db'}"
        os.environ |= {
            "MASTRA_NB_MODEL": "local",
            "MASTRA_NB_REPLAY": "record",
            "MASTRA_NB_STORAGE": url,
            "PYTHONPATH": str(ROOT),
        }
        notebook = nbformat.read(home / f"{name}.ipynb", as_version=4)
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(home)}}).execute()

        async def read() -> dict[str, dict[str, Any]]:
            store = open_store(url)
            found = {kind: dict(await store.find(kind)) for kind in _KINDS}
            await store.close()
            return found

        kept = asyncio.run(read())
    FOLDER.mkdir(exist_ok=True)
    text = json.dumps(kept, ensure_ascii=False, indent=1, sort_keys=True)
    (FOLDER / f"{name}.json").write_text(text + "\n", "utf-8")
    print(f"{name}: {len(kept['recording'])} replies")


if __name__ == "__main__":
    for each in sys.argv[1:] or RECORDED:
        record(each)
