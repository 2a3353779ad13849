from __future__ import annotations

import socket
import subprocess
import sys
from typing import Any

import pytest

from mastra_nb import Agent
from mastra_nb.app import open_store
from mastra_nb.errors import RunSuspended
from mastra_nb.notebook._attach import CellCalls, begin, end, unfinished
from mastra_nb.services import Services
from mastra_nb.testing import ScriptedModel, calls
from mastra_nb.tools import tool


def test_equal_calls_of_a_cell_are_counted() -> None:
    cell = CellCalls()
    cell.begin("code")
    first = [cell.identify("n", "a", "x", "") for _ in range(2)]
    assert first[0] != first[1]
    cell.begin("code")
    assert [cell.identify("n", "a", "x", "") for _ in range(2)] == first
    others = [("m", "a", "x", ""), ("n", "b", "x", ""), ("n", "a", "y", ""), ("n", "a", "x", "-o")]
    assert first[0] not in [cell.identify(*other) for other in others]
    cell.begin("other code")
    assert cell.identify("n", "a", "x", "") not in first


@tool(needs_approval=True)
def send() -> str:
    """Send."""
    return "sent"


def agent(services: Services, *script: Any) -> Agent[Any]:
    return Agent(name="a", model=ScriptedModel(*script), tools=[send], services=services)


async def test_only_an_unfinished_run_is_taken_up() -> None:
    store = open_store("memory://")
    services = Services(store=store)
    assert await unfinished(store, "call") is None

    run = agent(services, calls("send"), "Done.").run("x")
    await begin(store, "call", run.id)
    assert await unfinished(store, "call") is None, "it was never started"
    with pytest.raises(RunSuspended):
        await run
    row = await unfinished(store, "call")
    assert row is not None
    assert row.id == run.id

    await run.resume({"approved": True})
    assert await unfinished(store, "call") is None
    ended = await unfinished(store, "call", ended=True)
    assert ended is not None and (ended.id, ended.status) == (run.id, "done")
    await end(store, "call")
    assert await unfinished(store, "call", ended=True) is None


async def test_a_run_of_a_living_process_is_left_alone_and_that_of_a_dead_one_is_not() -> None:
    store = open_store("memory://")
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    for owner, taken in (
        (f"{socket.gethostname()}:{dead.stdout.strip()}:0", True),
        ("elsewhere:1:0", False),
    ):
        from mastra_nb.storage import RunRow

        row = RunRow(id=f"r_{taken}", name="a", kind="agent", status="running")
        await store.create(row, owner=owner)
        await begin(store, "call", row.id)
        assert (await unfinished(store, "call") is not None) is taken
