"""Hostile text wherever a model, a tool or a document can put it stays text.

In the live page, in the saved notebook opened again without a kernel, in nbconvert's page.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from playwright.sync_api import BrowserContext, Page

from tests.browser.lab import Lab, Notebook, Server, Watch

SETUP = """\
import json

from IPython import get_ipython
from IPython.display import display

from mastra_nb import Agent, tool
from mastra_nb.errors import ModelError
from mastra_nb.messages import Message, Reasoning, ToolCall
from mastra_nb.testing import ScriptedModel
from tests import hostile

# Half a surrogate pair is no character of any JSON that a provider sends.
PAYLOADS = [payload.replace("\\ud800", "") for payload in hostile.PAYLOADS]


@tool
def look(what: str) -> str:
    return what


@tool
def fail(what: str) -> str:
    raise RuntimeError(what)


def agent(payload, *script):
    # An agent's name takes every character but the one that separates spans.
    name = payload.replace("/", "\\N{DIVISION SLASH}")
    return Agent(
        name=name,
        model=ScriptedModel(*script),
        tools=[look, fail],
        memory=True,
        thread=payload,
    )


def everywhere(payload):
    \"\"\"A run with the payload as every text that it can show.\"\"\"
    tools = [
        ToolCall(id=name, name=name, args=json.dumps({key: payload}))
        for name, key in ((payload, payload), ("look", "what"), ("fail", "what"))
    ]
    return agent(
        payload,
        Message(role="assistant", parts=(Reasoning(text=payload), *tools)),
        f"The answer begins.\\n\\n{payload}",
    ).run("q")


async def show(payloads):
    for payload in payloads:
        run = everywhere(payload)
        await run
        display(run)


async def show_errors(payloads):
    for payload in payloads:
        try:
            await agent(payload, ModelError(payload, hint=payload)).run("q")
        except ModelError:
            get_ipython().showtraceback()
"""

# JupyterLab folds what a cell shows beyond 50 outputs.
CHUNK = 40
CHUNKS = 3
CELLS = [
    "%load_ext mastra_nb",
    SETUP,
    *(f"await show(PAYLOADS[{i * CHUNK}:{(i + 1) * CHUNK}])" for i in range(CHUNKS)),
    *(f"await show_errors(PAYLOADS[{i * CHUNK}:{(i + 1) * CHUNK}])" for i in range(CHUNKS)),
    'stream = agent("stream", "\\n\\n---\\n\\n".join(PAYLOADS))\n'
    "stream.model.piece, stream.model.delay = 5, 0.002",
    "%%ask stream\nSay it all.",
    """for i, payload in enumerate(p for p in PAYLOADS[::3] if "{" not in p):
    globals()[f"agent{i}"] = agent(payload, "Fine.")
    get_ipython().run_cell_magic("ask", f"agent{i}", payload)""",
    "%mastra agents",
    "%mastra runs",
    "%mastra threads",
    "%mastra cost",
    "%%ask agent1 --show-prompt\n<img src=x onerror=alert(1)>",
    '%%ask "<img src=x onerror=alert(1)>"\nWho is there?',
    '%%ask stream --<script>alert(1)</script> -o "<img src=x onerror=alert(1)>"\nx',
]
RUNS = range(2, 2 + CHUNKS)

# What a page runs or loads by itself, or runs when a reader touches it. JupyterLab itself links an
# address that it finds in plain text, such as an error: such a link shows where it leads.
ACTIVE = """root => {
    const found = [];
    for (const node of root.querySelectorAll('*')) {
        const tag = node.tagName.toLowerCase();
        if (/^(script|iframe|frame|object|embed|form|style|link|meta|base|video|audio|portal)$/
            .test(tag)) found.push(node.outerHTML.slice(0, 300));
        for (const {name, value} of node.attributes) {
            const bare = value.replace(/[\\x00-\\x20]/g, '').toLowerCase();
            const url = /^(href|src)$/.test(name) && URL.canParse(value, document.baseURI)
                && new URL(value, document.baseURI);
            const linked = tag === 'a' && node.closest('.jp-RenderedText');
            // JupyterLab draws a mermaid block as a picture, sooner or later: an SVG in an img
            // runs and loads nothing, whatever is in it.
            if (tag === 'img' && name === 'src' && node.closest('.jp-RenderedMermaid')
                && bare.startsWith('data:image/svg+xml,')) continue;
            if (name.startsWith('on')
                || (/^(href|xlink:href|src|srcset|action|formaction|data|poster)$/.test(name)
                    && (linked ? /^(javascript|vbscript|blob):/
                        : /^(javascript|vbscript|data|file|blob):/).test(bare))
                || (name === 'style' && /url\\(|@import/.test(bare))
                || (url && /evil/.test(url.host) && !linked))
                found.push(node.outerHTML.slice(0, 300));
        }
    }
    return found;
}"""


def test_hostile_text_stays_text(
    lab: Lab, server: Server, context: BrowserContext, tmp_path: Path
) -> None:
    notebook = lab.open(server.write("hostile.ipynb", CELLS))
    for index in range(len(CELLS)):
        notebook.run(index)
    payloads = _payloads()
    assert CHUNK * (CHUNKS - 1) < len(payloads) <= CHUNK * CHUNKS

    _assert_inert(lab.page, lab.watch)
    _assert_complete(notebook)
    notebook.screenshot("hostile", whole=False)
    saved = notebook.save(forget_kernel=True)
    nbformat.validate(saved)

    server.shutdown_kernels()
    reopened = lab.open(notebook.path, kernel=False)
    assert server.api("GET", "kernels") == []
    _assert_inert(lab.page, lab.watch)
    _assert_complete(reopened)

    page = tmp_path / "hostile.html"
    exporter = HTMLExporter()
    page.write_text(exporter.from_notebook_node(saved)[0], encoding="utf-8")
    tab = context.new_page()
    watch = Watch(tab, page.as_uri())
    # nbconvert's own template loads these; nothing else may be asked for.
    watch.allowed |= {exporter.require_js_url, exporter.mathjax_url, exporter.mermaid_js_url}
    tab.goto(page.as_uri(), wait_until="domcontentloaded")
    _assert_inert(tab, watch)
    tab.close()


def _payloads() -> tuple[str, ...]:
    from tests.hostile import PAYLOADS

    return PAYLOADS


def _assert_inert(page: Page, watch: Watch) -> None:
    outputs = page.locator(".jp-OutputArea").all()
    assert len(outputs) >= CHUNKS
    for output in outputs:
        output.scroll_into_view_if_needed()
        assert output.evaluate(ACTIVE) == []
    # A reader unfolds everything and moves over it.
    page.evaluate(
        """() => {
            for (const node of document.querySelectorAll('details')) node.open = true;
            for (const node of document.querySelectorAll('.jp-OutputArea-output *'))
                for (const kind of ['mouseover', 'focus', 'toggle', 'click'])
                    if (kind !== 'click' || !node.closest('a, button'))
                        node.dispatchEvent(new Event(kind, {bubbles: false}));
        }"""
    )
    page.wait_for_timeout(1000)
    watch.assert_clean()


def _assert_complete(notebook: Notebook) -> None:
    """No payload swallowed what follows it: each run shows its answer and its footer."""
    runs = 0
    for index in RUNS:
        notebook.cell(index).scroll_into_view_if_needed()
        shown = notebook.output(index).evaluate(
            """area => [...area.querySelectorAll('.jp-OutputArea-child')].map(output => {
                const seen = node => node?.checkVisibility() ?? false;
                const begin = [...output.querySelectorAll('p')].filter(
                    node => node.textContent.trim() === 'The answer begins.');
                return begin.length === 1 && seen(begin[0])
                    && seen([...output.querySelectorAll('small')].at(-1));
            })"""
        )
        assert all(shown), f"cell {index}: runs {[i for i, ok in enumerate(shown) if not ok]}"
        runs += len(shown)
    assert runs == len(_payloads())
