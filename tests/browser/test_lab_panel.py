"""Panel, status bar, commands and launcher, over saved outputs and with a kernel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from playwright.sync_api import BrowserContext, Locator, expect

from mastra_nb import views
from tests.browser.lab import Lab, Server, Watch, becomes
from tests.hostile import PAYLOADS, active

USAGE = {"input": 1840, "output": 160, "cached": 0, "reasoning": 0, "cost": 0.0123}
DONE: dict[str, Any] = {
    "version": 1, "agent": "weather", "status": "done", "model": "gpt-4o-mini", "seconds": 4.2,
    "usage": USAGE, "text": "It **rains** in Oslo.\n\nTake an umbrella.",
    "items": [
        {"type": "tool", "name": "get_weather", "status": "ok", "seconds": 0.8,
         "args": {"city": "Oslo"}, "result": {"sky": "rain"}},
        {"type": "agent", "name": "researcher", "status": "ok", "seconds": 2.1, "text": "12.",
         "items": [{"type": "tool", "name": "search", "status": "ok", "seconds": 1.2,
                    "args": {"q": "fjords"}, "result": "12 hits"}]},
    ],
}  # fmt: skip
FAILED: dict[str, Any] = {
    "version": 1, "agent": "analyst", "status": "failed", "seconds": 0.3,
    "error": {"code": "model.overloaded", "message": "the model is overloaded",
              "hint": "try again in a minute"},
}  # fmt: skip
REPLAYED = DONE | {
    "agent": "poet", "model": "gpt-4o (replay)", "text": "Roses.", "usage": USAGE | {"cost": 0.5}
}  # fmt: skip
WORKFLOW: dict[str, Any] = {
    "version": 1, "agent": "orders", "status": "done", "seconds": 3.0,
    "graph": {"name": "orders", "nodes": [{"type": "step", "id": "read"},
                                          {"type": "agent", "id": "judge"}],
              "states": {"read": {"status": "ok", "seconds": 1.2}, "judge": {"status": "ok"}}},
    "items": [{"type": "step", "name": "read", "status": "ok", "seconds": 1.2, "result": [1]},
              {"type": "agent", "name": "judge", "status": "ok", "seconds": 1.8, "text": "Fine."}],
    "timeline": [{"name": "read", "start": 0, "end": 1.2, "status": "ok", "depth": 0},
                 {"name": "judge", "start": 1.2, "end": 3, "status": "ok", "depth": 0}],
    "output": {"ok": True},
}  # fmt: skip
PAYING: dict[str, Any] = {
    "version": 1, "agent": "payer", "status": "suspended", "run": "r_pay",
    "pending": [{"path": "payer/pay#1", "reason": "approval", "tool": "pay",
                 "args": {"amount": 5.0, "to": "ACME"}}],
}  # fmt: skip


def saved(server: Server, name: str, cells: list[tuple[str, list[dict[str, Any]]]]) -> Path:
    """A notebook with these runs as outputs, which asks for its kernel."""
    notebook = new_notebook()
    for source, records in cells:
        outputs = [new_output("display_data", data=views.bundle(each)) for each in records]
        notebook.cells.append(new_code_cell(source, outputs=outputs))
    path = server.root / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


def several(server: Server, name: str) -> Path:
    cells = [
        ("%%ask weather\nWill it rain in Oslo?", [DONE]),
        ("x = 1\n" * 40, []),
        ("%ask analyst Why?", [FAILED]),
        ("%%ask poet\nRoses?", [REPLAYED]),
        ("await orders()", [WORKFLOW]),
        ("%ask payer Pay ACME", [PAYING]),
    ]
    return saved(server, name, cells)


def opened(lab: Lab, section: str = "Runs") -> Locator:
    lab.command("mastra:open-panel", {"section": section})
    panel = lab.page.locator("#mastra-panel")
    panel.get_by_role("tabpanel", name=section).wait_for()
    return panel


def test_runs_of_a_saved_notebook(lab: Lab, server: Server) -> None:
    notebook = lab.open(several(server, "saved"), kernel=False)
    panel = opened(lab)
    rows = panel.locator(".mnb-Listed")
    rows.nth(4).wait_for()
    expect(rows).to_have_count(5)
    first = rows.nth(0).inner_text()
    for said in ("weather", "cell 1", "Will it rain in Oslo?", "rains", "2,000 tokens", "$0.0123"):
        assert said in first
    expect(rows.nth(2)).to_contain_text("replay", use_inner_text=True)
    expect(panel).to_contain_text("5 runs · 4,000 tokens", use_inner_text=True)
    rows.nth(3).click()
    lab.page.wait_for_function(
        """() => window.notebook.content.activeCellIndex === 4
            && window.notebook.content.activeCell.node.classList.contains('mnb-mod-flash')"""
    )
    detail = panel.locator(".mnb-Detail")
    detail.locator(".mnb-Graph svg").wait_for()
    expect(detail.locator("details.mnb-Timeline")).to_be_visible()
    rows.nth(0).click()
    detail.get_by_text("Take an umbrella").wait_for()
    expect(detail.locator("summary", has_text="get_weather")).to_be_visible()
    notebook.screenshot("panel-runs-light", whole=False)
    assert lab.judge(".mnb-Panel") == []
    lab.theme("dark")
    notebook.screenshot("panel-runs-dark", whole=False)
    assert lab.judge(".mnb-Panel") == []
    panel.get_by_role("button", name="trace").click()
    traced = panel.get_by_role("tabpanel", name="Trace")
    traced.get_by_role("list", name="timeline").wait_for()
    expect(traced.locator(".mnb-Timeline-bar")).to_have_count(3)
    notebook.screenshot("panel-trace-dark", whole=False)
    assert lab.judge(".mnb-Panel") == []
    assert not lab.watch.errors


def test_what_a_saved_notebook_cost_and_waits_for(lab: Lab, server: Server) -> None:
    notebook = lab.open(several(server, "cost"), kernel=False)
    panel = opened(lab, "Cost")
    table = panel.get_by_role("table", name="What the runs of this notebook used")
    table.wait_for()
    expect(table.locator("tbody tr")).to_have_count(5)
    total = table.locator("tfoot")
    becomes(lambda: total.inner_text().split(), ["All", "5", "4,000", "$0.5123"])
    assert table.evaluate(
        "n => n.closest('.mnb-View').scrollWidth <= n.closest('.mnb-View').clientWidth"
    )
    notebook.screenshot("panel-cost-light", whole=False)
    assert lab.judge(".mnb-Panel") == []
    opened(lab, "Waiting")
    expect(panel.get_by_role("tab", name="Waiting (1)")).to_be_visible()
    waiting = panel.get_by_role("tabpanel")
    expect(waiting).to_contain_text("Approve pay?", use_inner_text=True)
    expect(waiting).to_contain_text("%resume r_pay approve", use_inner_text=True)
    waiting.get_by_role("button", name="Go to the cell of payer").click()
    lab.page.wait_for_function("() => window.notebook.content.activeCellIndex === 5")
    opened(lab, "Threads")
    expect(panel.get_by_role("tabpanel")).to_contain_text(
        "%load_ext mastra_nb", use_inner_text=True
    )
    status = lab.page.locator(".mnb-StatusItem")
    becomes(lambda: status.inner_text().split("\n")[0], "1 waiting")
    expect(status).to_contain_text("$0.5123")
    expect(status).to_contain_text("replay")
    status.get_by_role("button").click()
    expect(panel.get_by_role("tab", name="Waiting")).to_have_attribute("aria-selected", "true")


def test_keyboard_path(lab: Lab, server: Server) -> None:
    lab.open(several(server, "keys"), kernel=False)
    panel = opened(lab)
    panel.locator(".mnb-Listed").nth(4).wait_for()
    panel.get_by_role("tab", name="Runs").focus()
    press = lab.page.keyboard.press
    press("ArrowRight")
    expect(panel.get_by_role("tab", name="Waiting")).to_be_focused()
    press("End")
    expect(panel.get_by_role("tab", name="Cost")).to_have_attribute("aria-selected", "true")
    press("ArrowRight")
    panel.get_by_role("listbox").focus()
    press("ArrowDown")
    press("ArrowDown")
    panel.locator(".mnb-Detail", has_text="overloaded").wait_for()
    chosen = panel.locator(".mnb-Listed[aria-selected=true]")
    expect(chosen).to_contain_text("analyst", use_inner_text=True)
    listbox = panel.get_by_role("listbox")
    expect(listbox).to_have_attribute("aria-activedescendant", str(chosen.get_attribute("id")))
    expect(listbox).to_be_focused()


def test_follows_outputs_and_notebooks(lab: Lab, server: Server) -> None:
    source = f"from IPython.display import display\nimport json\nd = json.loads({json.dumps(json.dumps(views.bundle(DONE)))})\ndisplay(d, raw=True)"  # noqa: E501
    notebook = lab.open(server.write("follows.ipynb", [source]))
    panel = opened(lab)
    panel.get_by_text("No runs yet").wait_for()
    notebook.run(0)
    panel.locator(".mnb-Listed").wait_for()
    lab.command("notebook:clear-all-cell-outputs")
    panel.get_by_text("No runs yet").wait_for()


@pytest.mark.slow
def test_ten_thousand_runs(lab: Lab, server: Server) -> None:
    short = {key: DONE[key] for key in ("version", "agent", "status", "usage", "text")}
    records = [short | {"text": f"Answer {n}."} for n in range(100)]
    # Folded away: what JupyterLab draws of 10,000 outputs is not what is measured here.
    path = saved(server, "many", [(f"%ask weather {n}", records) for n in range(100)])
    content = nbformat.read(path, as_version=4)
    for cell in content.cells:
        cell.metadata["jupyter"] = {"outputs_hidden": True}
    nbformat.write(content, path)
    lab.open(path, kernel=False)
    panel = opened(lab)
    panel.get_by_text("10,000 runs").wait_for()
    expect(panel.locator(".mnb-Listed")).to_have_count(50)
    took = lab.page.evaluate(
        """async () => {
            const panel = document.querySelector('#mastra-panel');
            const seen = () => panel.querySelector('.mnb-Pager').textContent;
            const began = performance.now(), before = seen();
            panel.querySelector('[aria-label="Next page of runs"]').click();
            while (seen() === before) await new Promise(requestAnimationFrame);
            return performance.now() - began;
        }"""
    )
    print(f"next page of 10,000 runs: {took:.0f} ms")
    assert took < 300
    expect(panel).to_contain_text("51–100 of 10,000", use_inner_text=True)


def test_hostile_payloads(lab: Lab, server: Server) -> None:
    records = []
    for payload in PAYLOADS:
        text = payload.encode("utf-16", "replace").decode("utf-16")
        records.append(
            DONE | {"agent": text, "model": text, "thread": text, "text": text, "items": [
                {"type": "tool", "name": text, "status": "ok", "args": {text: text},
                 "result": text, "seconds": 0.1},
                {"type": "tool", "name": "b", "status": "error", "seconds": 0.2,
                 "error": {"code": text, "message": text, "hint": text}}]}
        )  # fmt: skip
    path = saved(server, "hostile-panel", [("%ask x", [each]) for each in records])
    lab.open(path, kernel=False)
    panel = opened(lab)
    panel.locator(".mnb-Listed").nth(20).wait_for()
    panel.get_by_role("listbox").focus()
    for _ in range(12):
        lab.page.keyboard.press("ArrowDown")
        lab.page.wait_for_timeout(60)
    tags = "n => [...n.querySelectorAll('*')].map(e => e.tagName.toLowerCase())"
    rows = panel.get_by_role("listbox").evaluate(tags)
    assert set(rows) <= {"div", "span", "strong", "svg", "path"}
    detail = panel.locator(".mnb-Detail .mnb-Text")
    for each in detail.all():
        assert not active(each.inner_html().replace(' data-mime-type="text/markdown"', ""))
    opened(lab, "Cost")
    table = panel.get_by_role("table", name="What the runs of this notebook used")
    # Text of a cell is text: TeX in it is not typeset, tags in it are none.
    assert set(table.evaluate(tags)) <= {"thead", "tbody", "tfoot", "tr", "th", "td"}
    expect(table.locator("mjx-container")).to_have_count(0)
    opened(lab, "Trace")
    assert not lab.watch.errors


NAMES = ("runs", "language", "proposals", "explain", "panel", "status", "commands", "launcher")


@pytest.mark.slow
def test_each_plugin_can_be_disabled(
    context: BrowserContext, tmp_path: Path, pytestconfig: pytest.Config, shots: Path
) -> None:
    """Read from the page's config, as `jupyter labextension disable` writes it."""
    for name in NAMES:
        plugin = f"@mastra-nb/labextension:{name}"
        with Server(tmp_path / name, pytestconfig.rootpath, [plugin]) as server:
            page = context.new_page()
            watch = Watch(page, server.url)
            Lab(page, server, watch, shots).open(several(server, "disabled"), kernel=False)
            plugins = page.evaluate(
                """() => NAMES.filter(n => window.jupyterapp.isPluginActivated(
                    '@mastra-nb/labextension:' + n))""".replace("NAMES", json.dumps(NAMES))
            )
            assert plugins == [each for each in NAMES if each != name]
            assert not watch.errors
            page.close()


AGENTS = '''\
from mastra_nb import Agent, tool
from mastra_nb.testing import ScriptedModel, calls


@tool(needs_approval=True)
def pay(amount: float) -> str:
    """Pay."""
    return f"paid {amount}"


model = ScriptedModel(calls("pay", amount=5.0), "It is **done**.")
payer = Agent(name="payer", model=model, tools=[pay])
'''


def test_with_a_kernel(lab: Lab, server: Server) -> None:
    (server.root / "panel_agents.py").write_text(AGENTS)
    cells = ["%load_ext mastra_nb\nfrom panel_agents import *", "%ask payer Pay 5", "6 * 7"]
    notebook = lab.open(server.write("kernel.ipynb", cells))
    panel = opened(lab, "Waiting")
    notebook.run(0)
    notebook.start(1)
    waiting = panel.get_by_role("tabpanel", name="Waiting")
    waiting.get_by_role("button", name="Approve", exact=True).wait_for()
    expect(lab.page.locator(".mnb-StatusItem").get_by_text("1 waiting")).to_be_visible()
    notebook.screenshot("panel-waiting-light", whole=False)
    assert lab.judge(".mnb-Panel") == []
    waiting.get_by_role("button", name="Approve", exact=True).click()
    notebook.wait_done(1)
    expect(notebook.output(1)).to_contain_text("done", use_inner_text=True)
    waiting.get_by_text("Nothing waits").wait_for()
    opened(lab)
    panel.get_by_label("Which runs").select_option("stored")
    panel.locator(".mnb-Listed", has_text="payer").first.click()
    panel.locator(".mnb-Detail").get_by_text("pay").first.wait_for()
    panel.get_by_role("button", name="trace").click()
    panel.get_by_role("list", name="timeline").wait_for()
    notebook.screenshot("panel-trace-light", whole=False)
    opened(lab, "Cost")
    panel.get_by_label("Grouped").wait_for()
    notebook.screenshot("panel-cost-kernel-light", whole=False)
    for section in ("Threads", "Memory"):
        opened(lab, section)
        lab.page.wait_for_timeout(500)
        expect(panel.locator(".mnb-mod-error")).to_have_count(0)
    assert not lab.watch.errors


def test_commands(lab: Lab, server: Server) -> None:
    notebook = lab.open(several(server, "commands"), kernel=False)
    lab.page.wait_for_function("() => window.jupyterapp.commands.isEnabled('mastra:next-error')")
    lab.command("mastra:next-error")
    lab.page.wait_for_function("() => window.notebook.content.activeCellIndex === 2")
    enabled = "id => window.jupyterapp.commands.isEnabled('mastra:' + id)"
    becomes(lambda: lab.page.evaluate(enabled, "stop-run"), False)
    becomes(lambda: lab.page.evaluate(enabled, "approve-first"), False)
    becomes(lambda: lab.page.evaluate(enabled, "copy-answer"), True)
    lab.command("mastra:insert-ask")
    source = "() => window.notebook.content.activeCell.model.sharedModel.getSource()"
    becomes(lambda: lab.page.evaluate(source), "%%ask\n")
    becomes(lambda: notebook.page.evaluate("() => window.notebook.content.activeCellIndex"), 3)


def test_launcher_card(lab: Lab, server: Server) -> None:
    lab.open(several(server, "launch"), kernel=False)
    lab.command("launcher:create")
    card = lab.page.locator(".jp-LauncherCard", has_text="Agent notebook")
    card.wait_for()
    lab.page.screenshot(path=lab.shots / "launcher-light.png")
    card.click()
    lab.page.wait_for_function(
        """() => window.jupyterapp.shell.currentWidget?.content?.model?.sharedModel?.cells
            ?.some(cell => cell.getSource().startsWith('%%agent'))"""
    )
    lab.page.wait_for_timeout(1500)
    lab.page.screenshot(path=lab.shots / "agent-notebook-light.png")
    assert not lab.watch.errors
