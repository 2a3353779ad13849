"""The panel without a kernel: what is kept is read by Jupyter's server."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Locator, expect

from mastra_nb import Agent, Mastra, portal, tool
from mastra_nb.testing import ScriptedModel, calls
from tests.browser.lab import Lab, Server


@tool(needs_approval=True)
def pay(amount: int) -> int:
    """Pays."""
    return amount


async def fill(folder: Path) -> None:
    payer = ScriptedModel("Hello **there**.", calls("pay", amount=3))
    agent = Agent(name="payer", model=payer, tools=[pay], memory=True)
    async with Mastra(agents=[agent], storage=f"sqlite:///{folder}/mastra.db"):
        await agent.run("Good morning", thread="morning", resource="ann")
        async for _ in agent.run("Pay three", thread="morning", resource="ann").events():
            pass


def turned(lab: Lab, section: str) -> Locator:
    lab.command("mastra:open-panel", {"section": section})
    panel = lab.page.locator("#mastra-panel").get_by_role("tabpanel", name=section)
    panel.wait_for()
    return panel


def test_what_is_kept_is_read_without_a_kernel(lab: Lab, server: Server) -> None:
    folder = server.root / "kept"
    folder.mkdir()
    portal.run(fill(folder))
    path = server.write("kept/empty.ipynb", ["1 + 1"], kernel=False)
    notebook = lab.open(path, kernel=False)
    threads = turned(lab, "Threads")
    threads.get_by_text("morning").first.wait_for()
    threads.get_by_text("morning").first.click()
    threads.get_by_text("Good morning").first.wait_for()
    notebook.screenshot("store-threads", whole=False)
    waiting = turned(lab, "Waiting")
    waiting.get_by_text("pay").first.wait_for()
    expect(waiting).to_contain_text("3", use_inner_text=True)
    notebook.screenshot("store-waiting", whole=False)
    assert not lab.watch.errors
    assert lab.judge(".mnb-Panel") == []


def test_a_folder_without_a_store_says_what_to_do(lab: Lab, server: Server) -> None:
    (server.root / "bare").mkdir()
    lab.open(server.write("bare/other.ipynb", ["1"], kernel=False), kernel=False)
    turned(lab, "Threads").get_by_text("%load_ext mastra_nb").wait_for()
