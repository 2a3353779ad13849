"""Runs, approvals and forms as the lab extension draws them."""

from __future__ import annotations

import shutil
from pathlib import Path

from playwright.sync_api import expect

from tests.browser.lab import THEMES, Lab, Notebook, Server, becomes
from tests.browser.test_hostile import ACTIVE

RECORDS = """\
import base64, struct, zlib
from IPython.display import display
from mastra_nb import views


def png(w=64, h=24):
    raw = b"".join(b"\\0" + bytes((x * 4 % 256, y * 10 % 256, 160) * 1)[:3] * 1 * w
                   if False else b"\\0" + b"".join(bytes((x * 4 % 256, y * 10 % 256, 160))
                   for x in range(w)) for y in range(h))
    def chunk(kind, data):
        return (struct.pack(">I", len(data)) + kind + data
                + struct.pack(">I", zlib.crc32(kind + data)))
    return base64.b64encode(b"\\x89PNG\\r\\n\\x1a\\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")).decode()


USAGE = {"input": 1840, "output": 212, "cached": 1024, "reasoning": 40, "cost": 0.00123}
DONE = {
    "version": 1, "agent": "weather", "status": "done", "model": "openai/gpt-4o-mini",
    "seconds": 4.21, "usage": USAGE, "thread": "oslo",
    "text": "Tomorrow it **rains** in Oslo.\\n\\n| city | sky | max |\\n|---|---|--:|\\n"
            "| Oslo | rain | 8 |\\n\\n- take an umbrella\\n\\n$x^2$ is a square.",
    "items": [
        {"type": "reasoning", "text": "A tool knows the *weather*.\\n\\nI shall ask it."},
        {"type": "text", "text": "Let me look."},
        {"type": "tool", "name": "get_weather", "status": "ok", "seconds": 0.82,
         "args": {"city": "Oslo", "days": 3},
         "result": {"city": "Oslo", "sky": "rain", "max_c": 8}},
        {"type": "tool", "name": "plot", "status": "ok", "seconds": 0.4, "attempt": 2,
         "args": {"series": [1, 2, 3, 4], "options": {"title": "Rain", "grid": True}},
         "result": {"rows": [{"day": d, "rain": {"mm": d * 2}} for d in range(4)]}},
        {"type": "display", "mime": "image/png", "data": png()},
        {"type": "tool", "name": "fail", "status": "error", "args": {"what": "x"}, "seconds": 0.1,
         "error": {"code": "tool.failed", "message": "RuntimeError: no such station",
                   "hint": "name a station of the list"}},
        {"type": "agent", "name": "researcher", "status": "ok", "seconds": 2.1,
         "args": {"task": "find fjords"}, "text": "There are **12** fjords.",
         "items": [{"type": "tool", "name": "search", "status": "ok", "args": {"q": "fjords"},
                    "result": "12 hits", "seconds": 1.2}]},
        {"type": "display", "mime": "application/json", "data": {"a": [1, {"b": 2}]}},
        {"type": "display", "mime": "text/markdown", "data": "A *table* of the tool."},
        {"type": "note", "level": "warning", "text": "the answer was cut"},
        {"type": "note", "level": "info", "text": "image/png of 3,000,000 bytes is too large"},
        {"type": "score", "name": "faithful", "value": 0.923, "text": "all of it is in the source"},
        {"type": "custom", "name": "progress", "value": {"done": 3, "of": 5}},
        {"type": "handoff", "name": "billing", "status": "ok", "seconds": 0.2},
        {"type": "more", "count": 1200},
    ],
}
TYPED = {
    "version": 1, "agent": "forecaster", "status": "done", "model": "local", "seconds": 1.2,
    "usage": USAGE | {"cost": None},
    "output": {"city": "Oslo", "sky": "rain", "max_c": 8.5, "warn": False, "tags": ["wet", "cold"]},
}
DEEP = TYPED | {"agent": "deep", "output": {"days": [{"d": 1, "t": {"min": 1, "max": 4}}]}}
FAILED = {
    "version": 1, "agent": "weather", "status": "failed", "seconds": 0.3, "text": "Half an ans",
    "partial": True,
    "error": {"code": "model.overloaded", "message": "the model is overloaded",
              "hint": "try again in a minute, or use another model with -m"},
}
CANCELLED = {"version": 1, "agent": "talker", "status": "cancelled", "text": "A very long",
             "usage": USAGE, "partial": True, "model": "local"}
NEW = {"version": 1, "agent": "weather", "status": "new"}
RUNNING = {
    "version": 1, "agent": "weather", "status": "running", "step": 2, "run": "r_live",
    "text": "It is",
    "items": [{"type": "tool", "name": "get_weather", "status": "running",
               "args": {"city": "Oslo"}},
              {"type": "tool", "name": "write", "status": "streaming", "args": "{\\"pa"}],
}
APPROVAL = {
    "version": 1, "agent": "payer", "status": "suspended", "run": "r_pay", "usage": USAGE,
    "items": [{"type": "tool", "name": "pay", "status": "suspended",
               "args": {"amount": 5.0, "to": "ACME"}}],
    "pending": [{"path": "payer/pay#1", "reason": "approval", "tool": "pay",
                 "args": {"amount": 5.0, "to": "ACME", "note": "First line.\\nSecond line.",
                          "lines": [{"what": "tea", "n": 2}]}}],
}
SCHEMA = {
    "type": "object", "required": ["approved", "amount", "kind"],
    "properties": {
        "approved": {"type": "boolean", "title": "Approved", "default": True},
        "amount": {"type": "number", "minimum": 1, "maximum": 100, "description": "In EUR."},
        "count": {"type": "integer", "default": 2},
        "kind": {"enum": ["tea", "coffee"], "title": "Kind"},
        "size": {"enum": ["xs", "s", "m", "l", "xl"]},
        "note": {"type": "string", "title": "Note"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "to": {"$ref": "#/$defs/Person"},
        "extra": {"type": "object", "description": "Anything else."},
    },
    "$defs": {"Person": {"type": "object", "title": "Person", "required": ["name"],
              "properties": {"name": {"type": "string", "maxLength": 40},
                             "mail": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}},
}
FORM = {
    "version": 1, "agent": "orders", "status": "suspended", "run": "r_form",
    "pending": [{"path": "orders/review", "reason": "review", "schema": SCHEMA,
                 "payload": {"order": 7, "total": 12.5}}],
}
GRAPH = {
    "name": "orders",
    "nodes": [
        {"type": "step", "id": "read", "about": "Reads the orders."},
        {"type": "branch", "id": "b", "exclusive": True, "arms": [
            {"when": "total > 100", "nodes": [{"type": "agent", "id": "judge"}]},
            {"when": "otherwise", "nodes": [{"type": "tool", "id": "book"}]}]},
        {"type": "parallel", "id": "p", "arms": [
            [{"type": "map", "id": "shape"}, {"type": "sleep", "id": "nap", "label": "5 s"}],
            [{"type": "event", "id": "paid"}]]},
        {"type": "foreach", "id": "f", "concurrency": 4, "nodes": [
            {"type": "step", "id": "ship", "label": "by boat"}]},
        {"type": "loop", "id": "l", "how": "until", "when": "stock is full", "nodes": [
            {"type": "step", "id": "refill"}]},
        {"type": "workflow", "id": "invoice", "nodes": [
            {"type": "step", "id": "draft"}, {"type": "ask", "id": "review"}]},
        {"type": "graph", "id": "g", "nodes": [
            {"type": "step", "id": "a"}, {"type": "step", "id": "c"}, {"type": "call", "id": "d"}],
         "edges": [["a", "c"], ["a", "d"], ["c", "d"]]},
    ],
}
STATES = {
    "read": {"status": "ok", "seconds": 1.2}, "judge": {"status": "skipped"},
    "book": {"status": "ok", "seconds": 0.02, "attempts": 3}, "shape": {"status": "ok"},
    "nap": {"status": "ok", "seconds": 5.0}, "paid": {"status": "cancelled"},
    "ship": {"status": "ok", "done": 17, "failed": 1, "total": 20, "seconds": 12},
    "refill": {"status": "error", "error": "no stock", "done": 2, "failed": 1, "total": 3},
    "invoice": {"status": "ok", "seconds": 3}, "invoice/draft": {"status": "ok", "seconds": 2.5},
    "invoice/review": {"status": "ok"}, "a": {"status": "ok"}, "c": {"status": "running"},
}
STEPS = [
    {"type": "step", "name": "read", "status": "ok", "seconds": 1.2, "result": [1, 2, 3]},
    {"type": "tool", "name": "book", "status": "ok", "attempt": 3, "seconds": 0.02,
     "args": {"id": 7}, "result": "booked"},
    *({"type": "step", "name": f"ship[{i}]", "status": "ok", "args": {"order": i},
       "seconds": 0.6, "result": {"ok": True}} for i in range(5)),
    {"type": "step", "name": "ship[9]", "status": "error", "args": {"order": 9}, "seconds": 0.1,
     "error": {"code": "step.failed", "message": "ValueError: no boat"}},
    {"type": "more", "count": 12, "name": "ship"},
    {"type": "workflow", "name": "invoice", "status": "ok", "seconds": 3.0,
     "items": [{"type": "step", "name": "draft", "status": "ok", "seconds": 2.5,
                "result": "Dear ACME"}]},
]
BARS = [
    {"name": "read", "path": "orders/read", "kind": "step", "start": 0, "end": 1.2,
     "status": "ok", "depth": 0},
    {"name": "ship", "path": "orders/ship[0]", "kind": "step", "start": 1.2, "end": 3.2,
     "status": "error", "depth": 0, "count": 20, "failed": 1},
    {"name": "invoice", "path": "orders/invoice", "kind": "workflow", "start": 3605, "end": 3608,
     "status": "ok", "depth": 0},
    {"name": "draft", "path": "orders/invoice/draft", "kind": "step", "start": 3605, "end": 3607.5,
     "status": "ok", "depth": 1, "attempt": 2},
]
WORKFLOW = {
    "version": 1, "agent": "orders", "status": "done", "seconds": 3608, "usage": USAGE,
    "graph": GRAPH | {"states": STATES}, "items": STEPS, "timeline": BARS,
    "output": {"shipped": 19},
}


def put(record, told=False):
    display(views.bundle(record, told=told), raw=True)
"""


def records(lab: Lab, server: Server, cells: list[str], name: str = "records"):
    (server.root / "records.py").write_text(RECORDS)
    return lab.open(server.write(f"{name}.ipynb", ["from records import *", *cells]))


GALLERY = [
    "put(DONE)",
    "put(TYPED); put(DEEP)",
    "put(FAILED); put(FAILED, told=True); put(CANCELLED); put(NEW)",
    "put(RUNNING)",
    "put(APPROVAL)",
    "put(FORM)",
    "put(WORKFLOW)",
    "display(views.outline_bundle(GRAPH), raw=True)",
]


def test_gallery(lab: Lab, server: Server) -> None:
    notebook = records(lab, server, GALLERY, "gallery")
    notebook.run_all()
    notebook.screenshot("runs-light")
    lab.theme("dark")
    lab.page.evaluate("document.querySelectorAll('.mnb-Run details').forEach(d => d.open = true)")
    lab.page.wait_for_timeout(500)
    notebook.screenshot("runs-dark-open")
    assert not lab.watch.errors


PAYER = '''\
import asyncio
from mastra_nb import Agent, Workflow, step, tool
from mastra_nb.testing import ScriptedModel, calls

PAID = []


@tool(needs_approval=True)
def pay(amount: float, to: str, note: str = "") -> str:
    """Pay somebody."""
    PAID.append((amount, to, note))
    return f"paid {amount} to {to}"


def payer(*more):
    model = ScriptedModel(calls("pay", amount=5.0, to="ACME", note="tea"), *more, "It is **done**.")
    return Agent(name="payer", model=model, tools=[pay])


one, two, three, four = payer(), payer(), payer(), payer()
talker = Agent(name="talker", model=ScriptedModel("A long story. " * 400, delay=0.05))
'''


def approving(lab: Lab, server: Server, cells: list[str], name: str) -> Notebook:
    (server.root / "payer.py").write_text(PAYER)
    notebook = lab.open(
        server.write(f"{name}.ipynb", ["%load_ext mastra_nb\nfrom payer import *", *cells])
    )
    notebook.run(0)
    return notebook


def test_approve_in_a_running_cell(lab: Lab, server: Server) -> None:
    notebook = approving(
        lab, server, ["%ask one Pay ACME", "PAID", "%ask two Pay ACME", "PAID[-1]"], "approve"
    )
    done = lab.page.evaluate_handle(
        "() => ({all: window.jupyterapp.commands.execute('notebook:run-all-cells')})"
    )
    box = notebook.output(1).get_by_role("alertdialog")
    box.wait_for()
    expect(box.get_by_text("Approve pay?")).to_be_visible()
    expect(box).to_contain_text("ACME", use_inner_text=True)
    notebook.screenshot("approval-light")
    lab.page.wait_for_function("() => document.activeElement.textContent === 'Approve'")
    lab.page.wait_for_timeout(700)
    lab.page.keyboard.press("Enter")
    box.wait_for(state="detached")
    second = notebook.output(3).get_by_role("alertdialog")
    second.wait_for()
    expect(notebook.output(1)).to_contain_text("done", use_inner_text=True)
    second.get_by_role("button", name="Edit arguments").click()
    second.get_by_label("amount").fill("7x")
    second.get_by_role("button", name="Approve with these").click()
    expect(second.get_by_role("alert").first).to_be_visible()
    second.get_by_label("amount").fill("7")
    second.get_by_label("note").fill("coffee\nand milk")
    lab.theme("dark")
    notebook.screenshot("approval-edit-dark")
    second.get_by_role("button", name="Approve with these").click()
    second.wait_for(state="detached")
    becomes(lambda: done.evaluate("async held => await held.all"), True)
    notebook.wait_idle()
    expect(notebook.output(2)).to_contain_text("[(5.0, 'ACME', 'tea')]")
    expect(notebook.output(4)).to_contain_text("(7.0, 'ACME', 'coffee")


def test_deny_with_a_reason_and_later(lab: Lab, server: Server) -> None:
    notebook = approving(lab, server, ["%ask one Pay ACME", "%ask two Pay ACME", "PAID"], "deny")
    notebook.start(1)
    box = notebook.output(1).get_by_role("alertdialog")
    box.wait_for()
    box.focus()
    lab.page.keyboard.press("Escape")
    reason = box.get_by_label("Reason")
    expect(reason).to_be_focused()
    lab.page.keyboard.type("not this month")
    notebook.screenshot("approval-deny-light")
    lab.page.keyboard.press("Enter")
    notebook.wait_done(1)
    expect(notebook.output(1)).to_contain_text("✗ denied")
    expect(notebook.output(1)).to_contain_text("not this month")

    notebook.start(2)
    box = notebook.output(2).get_by_role("alertdialog")
    box.wait_for()
    box.get_by_role("button", name="Later").click()
    notebook.wait_done(2)
    expect(notebook.output(2)).to_contain_text("%resume", use_inner_text=True)
    # It can still be answered where it is shown.
    notebook.output(2).get_by_role("button", name="Approve").click()
    notebook.output(2).get_by_text("It is").wait_for()
    notebook.run(3)
    expect(notebook.output(3)).to_contain_text("tea", use_inner_text=True)
    expect(notebook.output(2).get_by_role("alertdialog")).to_have_count(0)


def test_stop_this_run(lab: Lab, server: Server) -> None:
    notebook = approving(lab, server, ["%ask talker Tell me.", "6 * 7"], "stop")
    notebook.start(1)
    stop = notebook.output(1).get_by_role("button", name="Stop talker")
    stop.wait_for()
    notebook.output(1).get_by_text("A long story").first.wait_for()
    stop.click()
    notebook.output(1).get_by_text("■ stopped").first.wait_for(timeout=10_000)
    notebook.wait_done(1)
    becomes(lambda: notebook.text(1).count("■ stopped"), 1)
    notebook.screenshot("stopped-native-light")
    expect(stop).to_have_count(0)
    notebook.run(2)
    becomes(lambda: notebook.text(2).endswith("42"), True)


ORDERS = """\
from dataclasses import dataclass
from typing import Literal

from mastra_nb import Context, Workflow, step


@dataclass
class Verdict:
    approved: bool
    amount: float
    kind: Literal["tea", "coffee"] = "tea"
    note: str = ""


@step
def total(order: str) -> float:
    return 12.5


@step
def review(total: float, ctx: Context) -> str:
    said = ctx.suspend({"total": total}, schema=Verdict)
    return f"{said.amount} for {said.kind}"


orders = Workflow(name="orders", input=str).then(total).then(review)
"""


def test_a_form_answers_a_workflow(lab: Lab, server: Server) -> None:
    (server.root / "orders.py").write_text(ORDERS)
    cells = ["%load_ext mastra_nb\nfrom orders import *", 'await orders.run("a")']
    notebook = lab.open(server.write("form.ipynb", cells))
    notebook.run(0)
    notebook.run(1)
    box = notebook.output(1).get_by_role("alertdialog")
    box.wait_for()
    expect(box).to_contain_text("12.5", use_inner_text=True)
    box.get_by_role("button", name="Send answer").click()
    expect(box.get_by_text("This is needed.")).to_be_visible()
    box.get_by_label("amount").fill("7.5")
    box.get_by_label("coffee").check()
    notebook.screenshot("form-light")
    lab.theme("dark")
    notebook.screenshot("form-dark")
    notebook.save(forget_kernel=True)
    kept = shutil.copy(notebook.path, server.root / "form_kept.ipynb")
    box.get_by_role("button", name="Send answer").click()
    box.wait_for(state="detached")
    expect(notebook.output(1)).to_contain_text("7.5 for coffee")

    # As it was saved, nobody listens: what was asked is there, and how to answer.
    notebook.save()
    server.shutdown_kernels()
    saved = lab.open(Path(kept), kernel=False)
    expect(saved.output(1).get_by_role("alertdialog")).to_have_count(0)
    asked = saved.output(1).locator(".mnb-Ask")
    expect(asked).to_contain_text("12.5")
    expect(asked).to_contain_text("%resume")
    expect(asked.get_by_role("button")).to_have_count(0)
    assert lab.watch.errors == []
    saved.screenshot("form-saved-light")


def test_what_is_drawn_is_accessible(lab: Lab, server: Server) -> None:
    notebook = records(lab, server, ["%load_ext mastra_nb", *GALLERY], "accessible")
    notebook.run_all()
    notebook.output(6).get_by_role("alertdialog").wait_for()
    notebook.output(6).get_by_role("button", name="Edit arguments").click()
    lab.page.evaluate("document.querySelectorAll('.mnb-Run details').forEach(d => d.open = true)")
    for theme in THEMES:
        lab.theme(theme)
        assert lab.judge(".mnb-Run") == []


def test_a_node_leads_to_its_calls(lab: Lab, server: Server) -> None:
    notebook = records(lab, server, ["put(WORKFLOW)"], "links")
    notebook.run_all()
    output = notebook.output(1)
    steps = output.locator(".mnb-Steps")
    becomes(lambda: steps.evaluate("node => node.open"), False)
    node = output.get_by_role("link", name="step draft")
    node.focus()
    lab.page.keyboard.press("Enter")
    focused = "() => document.activeElement.querySelector('code')?.textContent"
    becomes(lambda: lab.page.evaluate(focused), "draft")
    expect(output.get_by_text("Dear ACME").last).to_be_visible()
    output.get_by_role("link", name="step ship").click()
    becomes(lambda: lab.page.evaluate(focused), "ship[0]")
    expect(output.get_by_role("link", name="judge")).to_have_count(0)
    output.locator(".mnb-Timeline > summary").click()
    output.get_by_role("button", name="read, ok, 1.2 s").click()
    becomes(lambda: lab.page.evaluate(focused), "read")
    notebook.screenshot("workflow-native-light")


STREAM = """\
import time

handle = None
for n in range(30):
    record = RUNNING | {"text": "It **is** so. " * n, "items": [
        {"type": "reasoning", "text": "I think. " * n},
        {"type": "tool", "name": "look", "status": "ok", "args": {"q": 1}, "result": "seen"},
        {"type": "tool", "name": "count", "status": "running", "args": {"n": n}}]}
    display(views.bundle(record), raw=True, display_id="one", update=n > 0)
    time.sleep(0.1)
display(views.bundle(record | {"status": "done"}), raw=True, display_id="one", update=True)"""


def test_what_a_reader_opened_stays_open_while_it_streams(lab: Lab, server: Server) -> None:
    notebook = records(lab, server, [STREAM], "stream")
    notebook.run(0)
    notebook.start(1)
    tool = notebook.output(1).locator("details", has_text="look")
    tool.wait_for()
    tool.evaluate("node => node.marked = true")
    tool.locator("summary").focus()
    lab.page.keyboard.press("Enter")
    notebook.wait_done(1)
    becomes(lambda: tool.evaluate("node => node.open && node.marked"), True)
    expect(tool.locator("summary")).to_be_focused()
    expect(tool.get_by_text("seen")).to_be_visible()
    count = notebook.output(1).locator("details", has_text="count")
    expect(count.get_by_text("(n=29)").first).to_be_attached()


HOSTILE = """\
from tests import hostile

def everywhere(p):
    p = p.replace("\\ud800", "")
    fields = {"type": "object", "title": p, "description": p, "required": [p],
              "properties": {p: {"type": "string", "title": p, "description": p, "default": p},
                             "one": {"enum": [p, "b"]}, "many": {"enum": [p, *"abcdef"]},
                             "list": {"type": "array", "items": {"type": "string", "title": p}},
                             "free": {"default": p, "$ref": p}}}
    error = {"code": p, "message": p, "hint": p}
    node = {"type": "step", "id": p, "label": p, "about": p, "when": p}
    items = [
        {"type": "tool", "name": p, "status": "error", "args": {p: p, "x": [p, {p: p}]},
         "result": p, "error": error, "seconds": 1.0,
         "items": [{"type": "agent", "name": p, "status": "ok", "text": p, "output": {p: p}}]},
        {"type": p, "name": p, "status": p, "args": p, "result": {p: [p]}},
        {"type": "reasoning", "text": p}, {"type": "text", "text": p},
        {"type": "note", "level": "info", "text": p}, {"type": "custom", "name": p, "value": p},
        {"type": "score", "name": p, "value": 1.0, "text": p},
        {"type": "more", "count": 2, "name": p},
        {"type": "display", "mime": "text/plain", "data": p},
        {"type": "display", "mime": "text/markdown", "data": p},
        {"type": "display", "mime": "application/json", "data": {p: p}}]
    graph = {"name": p, "nodes": [
        node, {"type": "branch", "id": p, "arms": [{"when": p, "nodes": [node]}]},
        {"type": "loop", "id": p, "how": p, "when": p, "nodes": [node]},
        {"type": "workflow", "id": p, "nodes": [node]}, {"type": p, "id": p}],
        "states": {p: {"status": "error", "error": p, "seconds": 1.0}, "b": {"status": p}}}
    bars = [{"name": p, "path": p, "kind": p, "start": 0, "end": 1, "status": p, "depth": 0}] * 2
    base = {"version": 1, "agent": p, "thread": p, "model": p, "run": p, "items": items,
            "pending": [{"path": p, "reason": "approval", "tool": p, "args": {p: p}},
                        {"path": p + "2", "reason": p, "payload": {p: p}, "schema": fields}]}
    return [base | {"status": "suspended", "text": p},
            base | {"status": "suspended", "graph": graph, "timeline": bars, "output": {p: p}},
            base | {"status": "failed", "error": error, "pending": []}]

def forged(record):
    # A bundle that no Python of ours made: its texts are in the JSON itself.
    display({views.MIME: record, "text/markdown": "", "text/plain": ""}, raw=True)

def show(payloads):
    for p in payloads:
        for record in everywhere(p):
            forged(record)
            put(record)"""


def test_hostile_text_in_every_field_stays_text(lab: Lab, server: Server) -> None:
    cells = ["%load_ext mastra_nb", HOSTILE]
    # JupyterLab folds what a cell shows beyond 50 outputs.
    cells += [f"show(hostile.PAYLOADS[{n}::8][:8])" for n in range(0, 8, 2)]
    notebook = records(lab, server, cells, "hostile_fields")
    for index in range(len(cells) + 1):
        notebook.run(index)
    page = lab.page
    expect(page.locator(".jp-OutputArea .mnb-Run")).to_have_count(4 * 8 * 3 * 2)
    page.evaluate(
        """async () => {
            for (const label of ['Edit arguments', 'Deny…', 'Add'])
                for (const button of document.querySelectorAll('.mnb-Button'))
                    if (button.textContent === label) button.click();
            for (let n = 0; n < 4; n++) {
                for (const node of document.querySelectorAll('.mnb-Run details')) node.open = true;
                await new Promise(done => setTimeout(done, 100));
            }
        }"""
    )
    page.wait_for_timeout(1000)
    for output in page.locator(".jp-OutputArea").all():
        assert output.evaluate(ACTIVE) == []
    lab.watch.assert_clean()
    notebook.screenshot("hostile-native", whole=False)


def test_somebody_who_is_elsewhere_is_called(lab: Lab, server: Server) -> None:
    notebook = approving(
        lab, server, ["import asyncio; await asyncio.sleep(2)", "%ask one Pay ACME"], "away"
    )
    other = server.write("other.ipynb", ["1"])
    page = lab.page
    page.evaluate("() => void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    path = str(other.relative_to(server.served))
    page.evaluate("path => window.jupyterapp.commands.execute('docmanager:open', {path})", path)
    page.wait_for_function("() => document.title.startsWith('(1) ')")
    tab = page.locator(".lm-DockPanel-tabBar .lm-TabBar-tab", has_text="away.ipynb")
    marked = page.locator(".lm-TabBar-tab[data-mnb-waiting='1']", has_text="away.ipynb")
    marked.wait_for()
    badge = "node => getComputedStyle(node, '::before').content"
    becomes(lambda: "1" in tab.evaluate(badge), True)
    box = notebook.output(2).get_by_role("alertdialog")
    expect(box).not_to_be_visible()
    page.locator(".jp-Notification-Status, .jp-Notification-Toast").first.click()
    show = page.get_by_role("button", name="Show").first
    show.wait_for()
    page.screenshot(path=lab.shots / "notified-light.png")
    show.click()
    box.wait_for()
    box.get_by_role("button", name="Approve").click()
    box.wait_for(state="detached")
    becomes(lambda: page.title().startswith("("), False)
    marked.wait_for(state="detached")
    becomes(lambda: "1" not in tab.evaluate(badge), True)
    assert notebook.path.exists()


def test_without_the_renderer_markdown_is_shown(lab: Lab, server: Server) -> None:
    with server.disabled("@mastra-nb/labextension:runs"):
        notebook = records(lab, server, ["put(DONE)", "put(WORKFLOW)"], "fallback")
        notebook.run_all()
    expect(lab.page.locator(".jp-OutputArea .mnb-Run")).to_have_count(0)
    expect(notebook.output(1)).to_contain_text("Tomorrow it rains", use_inner_text=True)
    expect(notebook.output(1).locator("details", has_text="get_weather")).to_have_count(1)
    expect(notebook.output(2).locator("img")).to_have_count(2)


SEVERAL = """\
from mastra_nb.messages import Message
both = Message(role="assistant", parts=(calls("pay", amount=1.0, to="Ada"),
                                        calls("pay", amount=2.0, to="Bob")))
several = Agent(name="several", model=ScriptedModel(both, "Both."), tools=[pay])"""


def test_several_approvals_and_an_answer_that_does_not_fit(lab: Lab, server: Server) -> None:
    notebook = approving(lab, server, [SEVERAL, "%ask several Pay both", "PAID"], "several")
    notebook.run(1)
    notebook.start(2)
    boxes = notebook.output(2).get_by_role("alertdialog")
    ada, bob = boxes.filter(has_text="Ada"), boxes.filter(has_text="Bob")
    ada.wait_for()
    bob.wait_for()
    # Somebody who types elsewhere goes on typing.
    notebook.cell(3).locator(".cm-content").click()
    lab.page.keyboard.type("#")
    lab.page.wait_for_timeout(1500)
    assert notebook.cell(3).evaluate("node => node.contains(document.activeElement)")
    ada.get_by_role("button", name="Edit arguments").click()
    ada.get_by_label("amount").fill('"much"')
    ada.get_by_role("button", name="Approve with these").click()
    ada.locator(".mnb-Ask-error").wait_for()
    expect(ada.locator(".mnb-Ask-error")).to_contain_text("amount", use_inner_text=True)
    notebook.screenshot("approval-error-light")
    bob.get_by_role("button", name="Approve").click()
    ada.get_by_label("amount").fill("3")
    ada.get_by_role("button", name="Approve with these").click()
    notebook.wait_done(2)
    expect(notebook.output(2)).to_contain_text("Both.", use_inner_text=True)
    expect(boxes).to_have_count(0)
