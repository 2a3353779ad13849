"""What the loop shows in a live JupyterLab: hand-off, background tools, guardrails, models."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.lab import Lab, Server

MODELS = '''\
import time

from mastra_nb import Agent, tool
from mastra_nb.messages import ToolSpec
from mastra_nb.testing import ScriptedModel, calls


@tool(background=True)
def crawl(site: str) -> str:
    """Read a whole site; takes a while."""
    time.sleep(1)
    return f"{site} has 12 pages"


@tool(needs_approval=True)
def pay(amount: float, to: str) -> str:
    """Pay somebody."""
    return "paid"


billing = Agent(
    name="billing",
    model=ScriptedModel("Your last invoice is **5 EUR**, due on Friday.", name="openai/gpt-4o"),
)
desk_model = ScriptedModel(calls("transfer_to_billing"), name="openai/gpt-4o-mini")
crawl_model = ScriptedModel(
    calls("crawl", site="example.org"),
    "I have started to read it.",
    "It has 12 pages.",
    name="openai/gpt-4o-mini",
    delay=0.02,
)
leaky_model = ScriptedModel(
    "Write to jane.doe@example.org or call +49 30 1234567.", name="openai/gpt-4o-mini"
)
blocked_model = ScriptedModel("Her card is 4111 1111 1111 1111.", name="openai/gpt-4o-mini")
paying_model = ScriptedModel(calls("pay", amount=5.0, to="ACME"), "Paid.", name="openai/gpt-4o")
alone = ScriptedModel(calls("search", q="fjords of Norway"), name="openai/gpt-4o-mini")
search = ToolSpec(name="search", description="Search.", parameters={"type": "object"})
'''

CELLS = [
    "%load_ext mastra_nb",
    "from models import *\nimport mastra_nb",
    "%%agent desk\n---\nmodel: desk_model\nhandoffs: [billing]\nmax_steps: 4\n---\nSend people on.",
    "%ask desk What do I owe you?",
    "%%agent crawler -m crawl_model -t crawl\nYou read sites.",
    "%ask crawler How big is example.org?",
    "%%agent helper -m leaky_model\n---\nprocessors: [PIIDetector: {strategy: mask}]\n---\nHelp.",
    "%ask helper How do I reach Jane? I am bob@example.com",
    "%%agent strict -m blocked_model\n---\nprocessors: {PIIDetector: {strategy: block}}\n---\nHelp",
    "%ask strict What is her card?",
    "%%agent payer -m paying_model -t pay\n---\nlimits: {cost: 0.10}\n---\nPay.",
    "%ask payer Pay ACME 5",
    "%resume deny not this month",
    "mastra_nb.model(alone).run('Find fjords', tools=[search])",
    "await mastra_nb.model(alone, temperature=0).run('Find fjords', tools=[search])",
    "%mastra models",
]

APPROVAL = 11


@pytest.mark.slow
def test_what_the_loop_shows(lab: Lab, server: Server) -> None:
    (server.root / "models.py").write_text(MODELS)
    notebook = lab.open(server.write("loop.ipynb", CELLS))
    for index in range(len(CELLS)):
        notebook.start(index)
        if index == APPROVAL:
            notebook.output(index).get_by_role("button", name="Later").click()
        notebook.wait_done(index)

    handed = " ".join(notebook.text(3).split())
    assert "handed over to billing" in handed
    assert handed.count("5 EUR") == 1
    assert "openai/gpt-4o-mini, openai/gpt-4o" in handed
    expect(notebook.output(5)).to_contain_text("12 pages", use_inner_text=True)
    assert "jane.doe@" not in notebook.html(7)
    assert "4111" not in notebook.html(9)
    expect(notebook.output(9)).to_contain_text("PIIDetector found credit-card", use_inner_text=True)
    assert notebook.text(9).endswith("→ rephrase it, or change the guardrail that says so")
    assert "Traceback" not in notebook.text(9)
    expect(notebook.output(11)).to_contain_text('approval of "pay"', use_inner_text=True)
    assert "✗ denied" in notebook.text(12) and "not this month" in notebook.html(12)
    expect(notebook.output(13)).to_contain_text("not started", use_inner_text=True)
    models = notebook.text(15)
    assert "set OPENAI_API_KEY" in models and "local" in models
    notebook.screenshot("loop-light")
    lab.theme("dark")
    notebook.screenshot("loop-dark")
