"""Cells as the lab extension edits them, and what it does with the code and errors they show."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Locator, expect

from tests.browser.lab import Lab, Notebook, Server, Theme, becomes
from tests.hostile import PAYLOADS

CELLS = [
    "%load_ext mastra_nb",
    """%%agent weather -m local --memory on
---
tools: [get_weather]
max_steps: 5
---
# Who you are
You don't guess: you **ask** `get_weather`, and you answer for {{ city }} in @style. It's short,
even where a line of these instructions is so long that it would leave the cell if it did not wrap.

- one sentence
- no _jargon_, mail me@example.org
""",
    "%%ask weather -o answer --as md\nFor {{ row.city }} tomorrow, see @df and @out[3]: print(1)?",
    '%%tool --approve --timeout 5\ndef mail(to: str) -> str:\n    """Send."""\n    return "%ask"',
    "%%workflow digest(topic: str) -> str\npages = await search(topic)\nreturn f'{pages}'",
    "x = 5 % 3\n"
    'oslo = %ask weather --schema Forecast "Oslo", isn\'t it, in {{ days }} days with @df?\n'
    'if oslo:\n    %resume r_7f3 approve\ntext = """\n%ask in a text\n"""\n%mastra status',
    "",
]


# The second look is for `make soak`.
LIGHT_THEN_DARK = ["light", pytest.param("dark", marks=pytest.mark.slow)]


def _open(lab: Lab, server: Server, *, theme: Theme = "light") -> Notebook:
    return lab.open(server.write("cells.ipynb", CELLS), theme=theme)


def _marked(notebook: Notebook, index: int, mark: str) -> list[str]:
    return notebook.cell(index).locator(f".mnb-cm-{mark}").all_inner_texts()


def _source(notebook: Notebook, index: int) -> str:
    return str(
        notebook.page.evaluate(
            "i => window.notebook.content.widgets[i].model.sharedModel.source", index
        )
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_cells_look_like_what_they_hold(lab: Lab, server: Server, theme: Theme) -> None:
    notebook = _open(lab, server, theme=theme)
    notebook.cell(1).locator(".mnb-cm-prose").wait_for()
    # Markdown came: its heading is bold.
    notebook.page.wait_for_function(
        """() => [...document.querySelectorAll('[data-cell="1"] .cm-line span')].some(
            span => span.textContent.includes('Who') && getComputedStyle(span).fontWeight > 500)"""
    )
    notebook.screenshot(f"cells_{theme}")
    becomes(lambda: _marked(notebook, 1, "magic"), ["%%agent"])
    becomes(lambda: _marked(notebook, 1, "name"), ["weather"])
    becomes(lambda: _marked(notebook, 1, "flag"), ["-m", "--memory"])
    becomes(lambda: _marked(notebook, 1, "value"), ["{{ city }}"])
    becomes(lambda: _marked(notebook, 1, "context"), ["@style"])
    becomes(lambda: "".join(_marked(notebook, 2, "context")), "@df@out[3]")
    # Python's own pieces are around the marks.
    becomes(lambda: "".join(_marked(notebook, 3, "flag")), "--approve--timeout")
    becomes(lambda: "".join(_marked(notebook, 4, "name")), "digest")
    becomes(lambda: "".join(_marked(notebook, 5, "magic")), "%ask%resume%mastra")
    becomes(lambda: "".join(_marked(notebook, 5, "flag")), "--schema")
    becomes(lambda: "".join(_marked(notebook, 5, "value")), "{{ days }}")
    becomes(lambda: "".join(_marked(notebook, 5, "context")), "@df")
    prose = notebook.page.locator(".mnb-cm-prose")
    expect(prose).to_have_count(2)
    for one in prose.all():
        expect(one).to_have_attribute("spellcheck", "true")
        assert "cm-lineWrapping" in str(one.get_attribute("class"))
    for mark in ("magic", "name", "flag", "rest", "value", "context"):
        nodes = notebook.page.locator(f".mnb-cm-{mark}").all()
        becomes(lambda: _too_faint(nodes), [])  # noqa: B023 - called at once
    python = notebook.cell(3).locator(".cm-content")
    expect(python).to_have_attribute("spellcheck", "false")
    # The body of a tool is Python with Python's colours, the text of a question has none of them.
    becomes(lambda: _colour(notebook, 3, "return") != _colour(notebook, 3, "to"), True)
    becomes(lambda: _colour(notebook, 2, "For ") == _colour(notebook, 2, "print(1)"), True)


def test_a_cell_becomes_ours_while_it_is_typed(lab: Lab, server: Server) -> None:
    notebook = _open(lab, server)
    keyboard, cell = notebook.page.keyboard, notebook.cell(6)
    cell.locator(".cm-content").click()
    keyboard.type("x = 1")
    notebook.page.wait_for_timeout(700)  # another step of the undo stack
    keyboard.press("Home")
    keyboard.type("%%ask ")
    cell.locator(".mnb-cm-prose").wait_for()
    # The cursor stayed behind what was typed.
    keyboard.type("weather --as md")
    becomes(lambda: _source(notebook, 6), "%%ask weather --as mdx = 1")
    keyboard.press("Enter")
    keyboard.press("End")
    keyboard.press("Enter")
    keyboard.type("  if it's {{ city }}:")
    keyboard.press("Enter")
    keyboard.type("don't, it's '''so")
    typed = "%%ask weather --as md\nx = 1\n  if it's {{ city }}:\n  don't, it's '''so"
    becomes(lambda: _source(notebook, 6), typed)
    becomes(lambda: _marked(notebook, 6, "value"), ["{{ city }}"])
    for _ in range(20):
        if _source(notebook, 6) == "x = 1":
            break
        keyboard.press("Control+z")
    becomes(lambda: _source(notebook, 6), "x = 1")
    expect(cell.locator(".mnb-cm-prose")).to_have_count(0)
    while True:
        before = _source(notebook, 6)
        keyboard.press("Control+Shift+z")
        if _source(notebook, 6) == before:
            break
    assert before.endswith("don't, it's '''so")
    cell.locator(".mnb-cm-prose").wait_for()
    # One percent sign less, and it is Python with a line of ours in it.
    keyboard.press("Control+Home")
    keyboard.press("Delete")
    expect(cell.locator(".mnb-cm-prose")).to_have_count(0)
    becomes(lambda: "".join(_marked(notebook, 6, "magic")), "%ask")
    keyboard.type("%")
    cell.locator(".mnb-cm-prose").wait_for()
    keyboard.press("Control+Home")
    keyboard.press("Enter")
    becomes(lambda: _source(notebook, 6).startswith("\n%%ask"), True)
    expect(cell.locator(".mnb-cm-prose")).to_have_count(1)


def test_the_language_of_the_kernel_comes_second(lab: Lab, server: Server) -> None:
    notebook = _open(lab, server)
    set_type = """async type => {
        for (const cell of window.notebook.content.widgets) cell.model.mimeType = type;
        await new Promise(done => setTimeout(done, 300));
    }"""
    prose = notebook.page.locator(".mnb-cm-prose")
    prose.first.wait_for()
    notebook.page.evaluate(set_type, "text/x-rsrc")
    expect(prose).to_have_count(0)
    becomes(lambda: _marked(notebook, 3, "magic"), [])
    notebook.page.evaluate(set_type, "text/x-python")
    expect(prose).to_have_count(2)
    becomes(lambda: _colour(notebook, 2, "For ") == _colour(notebook, 2, "print(1)"), True)


def test_the_kernel_completes_in_our_cells(lab: Lab, server: Server) -> None:
    cells = ["%load_ext mastra_nb", "%%agent weather -m local\nYou know the weather.", ""]
    notebook = lab.open(server.write("complete.ipynb", cells))
    notebook.run(0)
    notebook.run(1)
    notebook.cell(2).locator(".cm-content").click()
    keyboard, completer = notebook.page.keyboard, notebook.page.locator(".jp-Completer")
    keyboard.type("%%ask wea")
    keyboard.press("Tab")
    completer.get_by_text("weather").wait_for()
    keyboard.press("Enter")
    becomes(lambda: _source(notebook, 2), "%%ask weather")
    keyboard.type(" --bud")
    keyboard.press("Tab")
    completer.get_by_text("--budget").wait_for()
    keyboard.press("Escape")
    notebook.cell(2).locator(".cm-content").click()
    keyboard.type("get 1\nmail me@example.org about {{ 1")
    notebook.page.wait_for_timeout(500)
    assert not completer.is_visible()  # nobody asked for hints while typing


@pytest.fixture
def wishes(server: Server) -> Iterator[None]:
    """A user who wants hints while typing, and brackets that close."""
    folder = server.home / "config/lab/user-settings/@jupyterlab"
    hints = folder / "completer-extension/manager.jupyterlab-settings"
    tracker = folder / "notebook-extension/tracker.jupyterlab-settings"
    before = tracker.read_text()
    hints.parent.mkdir()
    hints.write_text(json.dumps({"autoCompletion": True}))
    tracker.write_text(
        json.dumps(json.loads(before) | {"codeCellConfig": {"autoClosingBrackets": True}})
    )
    yield
    hints.unlink()
    hints.parent.rmdir()
    tracker.write_text(before)


@pytest.mark.slow
@pytest.mark.usefixtures("wishes")
def test_hints_come_to_who_wants_them(lab: Lab, server: Server) -> None:
    cells = ["%load_ext mastra_nb", "%%agent weather -m local\nYou know the weather.", "", ""]
    notebook = lab.open(server.write("hints.ipynb", cells))
    notebook.run(0)
    notebook.run(1)
    keyboard = lab.page.keyboard
    notebook.cell(2).locator(".cm-content").click()
    keyboard.type("x('")
    becomes(lambda: _source(notebook, 2), "x('')")
    notebook.cell(3).locator(".cm-content").click()
    # Quotes in a text are the words' own business; brackets close.
    keyboard.type("%%ask weather\nIt's 'so' \"it\" said (1) of [2], (")
    becomes(lambda: _source(notebook, 3), "%%ask weather\nIt's 'so' \"it\" said (1) of [2], ()")
    keyboard.type("{{ wea", delay=50)
    lab.page.locator(".jp-Completer").get_by_text("weather").first.wait_for()


def test_wrapping_and_spelling_are_settings(lab: Lab, server: Server) -> None:
    folder = server.home / "config/lab/user-settings/@mastra-nb/labextension"
    folder.mkdir(parents=True)
    path = folder / "language.jupyterlab-settings"
    path.write_text(json.dumps({"wrap": False, "spellcheck": False}))
    try:
        prose = _open(lab, server).cell(2).locator(".mnb-cm-prose[spellcheck='false']")
        prose.wait_for()
        assert "cm-lineWrapping" not in str(prose.get_attribute("class"))
    finally:
        path.unlink()
        folder.rmdir()


@pytest.mark.slow
def test_a_long_cell_is_cheap(lab: Lab, server: Server) -> None:
    text = "%%ask weather\n" + "Say **it** in {{ city }} about @df, again and again.\n" * 5000
    notebook = lab.open(server.write("long.ipynb", [text]))
    notebook.cell(0).locator(".mnb-cm-prose").wait_for()
    notebook.page.wait_for_timeout(1000)
    assert 0 < len(_marked(notebook, 0, "value")) < 500
    notebook.cell(0).locator(".cm-content").click(position={"x": 80, "y": 60})
    before = lab.metrics()["TaskDuration"]
    notebook.page.keyboard.type("twenty characters !!")
    busy = lab.metrics()["TaskDuration"] - before
    assert busy < 4, busy


_CONTRAST = """node => {
    const parse = text => (text.match(/[0-9.e-]+/g) ?? []).map(Number);
    // color-mix gives color(srgb …) in parts of one.
    const rgba = text => {
        const [r, g, b, a = 1] = parse(text.replace('color(srgb', ''));
        return text.startsWith('color(') ? [r * 255, g * 255, b * 255, a] : [r, g, b, a];
    };
    const over = ([r, g, b, a], [x, y, z]) =>
        [r * a + x * (1 - a), g * a + y * (1 - a), b * a + z * (1 - a), 1];
    const light = c => {
        const [r, g, b] = c.map(v => v / 255)
            .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const grounds = [];
    for (let at = node; at; at = at.parentElement)
        grounds.push(rgba(getComputedStyle(at).backgroundColor));
    const ground = grounds.reverse().reduce((below, above) => over(above, below), [255, 255, 255]);
    const text = over(rgba(getComputedStyle(node).color), ground);
    const [a, b] = [light(text), light(ground)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
}"""


def _contrast(node: Locator) -> float:
    """WCAG's contrast of a node's text, 1 to 21; 4.5 is what a text needs."""
    return float(node.evaluate(_CONTRAST))


def _too_faint(nodes: list[Locator]) -> list[str]:
    return [str(n.evaluate("n => n.outerHTML")) for n in nodes if _contrast(n) < 4.5]


def _assert_readable(box: Locator) -> None:
    leaves = box.locator(":not(:has(*))").filter(has_text=re.compile(r"\S")).all()
    assert leaves
    becomes(lambda: _too_faint(leaves), [])


def _colour(notebook: Notebook, index: int, text: str) -> str:
    """The colour of the innermost element that holds the text."""
    return str(
        notebook.page.evaluate(
            """([index, text]) => {
                const walk = document.createTreeWalker(
                    document.querySelector(`[data-cell="${index}"] .cm-content`), 4);
                while (walk.nextNode())
                    if (walk.currentNode.data.includes(text))
                        return getComputedStyle(walk.currentNode.parentElement).color;
                throw new Error(text);
            }""",
            [index, text],
        )
    )


PROPOSE = """\
from mastra_nb._escape import fence
from mastra_nb.views import bundle


def propose(code, cell=None, source=None):
    meant = {"language": "python", "cell": cell, "source": source}
    record = {
        "version": 1,
        "agent": "coder",
        "status": "done",
        "text": fence(code, "python"),
        "code": {name: value for name, value in meant.items() if value is not None},
    }
    display(bundle(record), raw=True)
"""

BEFORE = """\
import math


def area(r):
    return math.pi * r


def volume(r, h):
    # the same base everywhere
    base = area(r)
    return base * h


def label(r):
    return f"circle of {r}"


print(volume(2, 3))"""
AFTER = BEFORE.replace("math.pi * r\n", "math.pi * r**2\n").replace(
    "print(volume(2, 3))", 'print("volume", volume(2, 3))\nprint(label(2))'
)


def _with_ids(path: Path, ids: Mapping[int, str]) -> Path:
    notebook = nbformat.read(path, as_version=4)
    for index, id in ids.items():
        notebook.cells[index].id = id
    nbformat.write(notebook, path)
    return path


def _proposed(lab: Lab, server: Server, *, theme: Theme = "light") -> Notebook:
    cells = [PROPOSE, BEFORE, f"propose({AFTER!r}, 'the-cell', {BEFORE!r})", "1"]
    path = _with_ids(server.write("propose.ipynb", cells), {1: "the-cell"})
    notebook = lab.open(path, theme=theme)
    for index in range(3):
        notebook.run(index)
    return notebook


def _box(notebook: Notebook, index: int) -> Locator:
    return notebook.cell(index).locator(".mnb-Proposal")


def _lines(box: Locator, op: str) -> list[str]:
    return box.locator(f".mnb-Diff-line[data-op='{op}'] .mnb-Diff-text").all_inner_texts()


@pytest.mark.parametrize("theme", LIGHT_THEN_DARK)
def test_proposed_code_is_compared_applied_and_undone(
    lab: Lab, server: Server, theme: Theme
) -> None:
    notebook = _proposed(lab, server, theme=theme)
    box, keyboard = _box(notebook, 2), notebook.page.keyboard
    box.get_by_role("button", name="Apply", exact=True).wait_for()
    notebook.screenshot(f"proposal_{theme}")
    becomes(lambda: _lines(box, "remove"), ["    return math.pi * r", "print(volume(2, 3))"])
    added = ["    return math.pi * r**2", 'print("volume", volume(2, 3))', "print(label(2))"]
    becomes(lambda: _lines(box, "add"), added)
    becomes(lambda: box.locator(".mnb-Diff-words").all_inner_texts(), ["**2"])
    expect(box).to_contain_text("3 lines added, 2 lines removed", use_inner_text=True)
    expect(box).to_contain_text("cell [2]", use_inner_text=True)
    _assert_readable(box)
    fold = box.locator(".mnb-Diff-fold")
    expect(fold).to_have_count(1)
    shown = box.locator(".mnb-Diff-line").count()
    fold.click()
    expect(box.locator(".mnb-Diff-line")).to_have_count(shown + 6)

    # What was typed just before is another step of the cell's undo stack than the code.
    notebook.cell(1).locator(".cm-content").click()
    keyboard.press("Control+End")
    keyboard.insert_text("  # typed")  # at once: slow keys are steps of their own
    box.get_by_text("The cell was changed since the question").wait_for()
    apply = box.get_by_role("button", name="Apply", exact=True)
    apply.focus()
    keyboard.press("Enter")
    becomes(lambda: _source(notebook, 1), AFTER)
    box.get_by_text("Applied to").wait_for()
    notebook.screenshot(f"proposal_applied_{theme}")
    # The focus stays in the box.
    expect(box.locator("button:focus")).to_have_text("Undo")
    notebook.cell(1).locator(".cm-content").click()
    keyboard.press("Control+z")
    becomes(lambda: _source(notebook, 1), BEFORE + "  # typed")
    keyboard.press("Control+z")
    becomes(lambda: _source(notebook, 1), BEFORE)
    keyboard.press("Control+Shift+z")
    keyboard.press("Control+Shift+z")
    becomes(lambda: _source(notebook, 1), AFTER)


def test_undo_run_insert_and_copy(lab: Lab, server: Server) -> None:
    notebook = _proposed(lab, server)
    box = _box(notebook, 2)
    box.get_by_role("button", name="Apply", exact=True).click()
    box.get_by_role("button", name="Undo").click()
    becomes(lambda: _source(notebook, 1), BEFORE)
    box.get_by_role("button", name="Apply and run").click()
    notebook.wait_done(1)
    becomes(lambda: _source(notebook, 1), AFTER)
    expect(notebook.output(1)).to_contain_text("circle of 2", use_inner_text=True)
    # That it ran is no step to undo.
    box.get_by_role("button", name="Undo").click()
    becomes(lambda: _source(notebook, 1), BEFORE)
    box.get_by_role("button", name="Apply", exact=True).click()
    becomes(lambda: _source(notebook, 1), AFTER)
    notebook.lab.page.context.grant_permissions(["clipboard-read"])
    box.get_by_role("button", name="Copy").click()
    becomes(lambda: lab.page.evaluate("() => navigator.clipboard.readText()"), AFTER)
    box.get_by_role("button", name="Insert below").click()
    becomes(lambda: _source(notebook, 3), AFTER)
    becomes(lambda: lab.page.evaluate("() => window.notebook.content.activeCellIndex"), 3)
    # The cell is gone, and with it what could be changed.
    lab.page.evaluate("() => window.notebook.model.sharedModel.deleteCell(1)")
    box.get_by_text("not in this notebook any more").wait_for()
    becomes(lambda: box.get_by_role("button").all_inner_texts(), ["Insert below", "Copy"])


def test_a_saved_proposal_needs_no_kernel(lab: Lab, server: Server) -> None:
    notebook = _proposed(lab, server)
    _box(notebook, 2).get_by_role("button", name="Apply", exact=True).wait_for()
    notebook.save(forget_kernel=True)
    server.shutdown_kernels()
    reopened = lab.open(notebook.path, kernel=False)
    box = _box(reopened, 2)
    box.get_by_role("button", name="Apply", exact=True).click()
    becomes(lambda: _source(reopened, 1), AFTER)
    lab.page.evaluate(
        """() => {
            const cell = window.notebook.content.widgets[1].model;
            cell.sharedModel.setSource('x = 1');
            cell.setMetadata('editable', false);
        }"""
    )
    box.get_by_text("The cell is read-only").wait_for()
    becomes(lambda: box.get_by_role("button").all_inner_texts()[-2:], ["Insert below", "Copy"])


HOSTILE = "allowed = True  \u202e# } ti ton tub {\u2066\nx = '\u200b'\nprint('fine')"


def test_hostile_code_stays_text(lab: Lab, server: Server) -> None:
    # A notebook cannot hold half a character; JupyterLab folds what is beyond 50 outputs.
    codes = [payload.encode("utf-8", "replace").decode() for payload in PAYLOADS]
    codes.append("\n".join(codes))
    chunks = [codes[i : i + 40] for i in range(0, len(codes), 40)]
    cells = [
        PROPOSE,
        PAYLOADS[0] + "\n" + PAYLOADS[3],
        f"propose({HOSTILE!r}, 'the-cell')",
        *(
            f"for i, code in enumerate(__import__('json').loads({json.dumps(chunk)!r})):\n"
            "    propose(code, 'the-cell' if i % 2 else code, code)"
            for chunk in chunks
        ),
    ]
    notebook = lab.open(_with_ids(server.write("hostile_code.ipynb", cells), {1: "the-cell"}))
    for index in (0, *range(2, len(cells))):
        notebook.run(index)
    box = _box(notebook, 2)
    box.get_by_text("U+202E in line 1, U+2066 in line 1, U+200B in line 2").wait_for()
    hidden = box.locator(".mnb-Diff-hidden")
    becomes(hidden.all_inner_texts, ["U+202E", "U+2066", "U+200B"])
    box.scroll_into_view_if_needed()
    notebook.screenshot("proposal_hostile", whole=False)
    boxes = lab.page.locator(".mnb-Proposal")
    expect(boxes).to_have_count(len(codes) + 1)
    expect(
        boxes.locator(":is(img, script, iframe, svg, a, style, link, form, object)")
    ).to_have_count(0)
    for index, code in enumerate(codes[1:40:2]):
        added = _lines(_box(notebook, 3).nth(2 * index + 1), "add")
        assert added or code in cells[1]
    expect(lab.page.locator(".mnb-Explain")).to_have_count(0)
    lab.page.wait_for_timeout(300)
    lab.watch.assert_clean()


HELPER = """\
from mastra_nb import Agent
from mastra_nb.testing import ScriptedModel

says = "You divide by **zero**. Use another number than 0."
fixed = "Here it is:\\n```python\\nx = 1\\nx / 2\\n```"
helper = Agent(name="helper", model=ScriptedModel(says, says, fixed))"""
FAILING = ["%load_ext mastra_nb", HELPER, "%mastra default helper", "x = 1\nx / 0", "{}['a']"]


def _sources(lab: Lab) -> list[str]:
    return list(
        lab.page.evaluate(
            "() => window.notebook.content.widgets.map(cell => cell.model.sharedModel.source)"
        )
    )


@pytest.mark.parametrize("theme", LIGHT_THEN_DARK)
def test_an_error_is_explained_where_it_is(lab: Lab, server: Server, theme: Theme) -> None:
    notebook = lab.open(server.write("explain.ipynb", FAILING), theme=theme)
    for index in range(4):
        notebook.run(index)
    bar = notebook.output(3).locator(".mnb-Explain")
    bar.wait_for()
    becomes(lambda: bar.get_by_role("button").all_inner_texts(), ["Explain", "Fix"])
    expect(lab.page.locator(".mnb-Explain")).to_have_count(1)
    # The toolbar of the cell has them as well, and only of a cell that failed.
    items = "[data-jp-item-name^='mastra-'] > :not(.lm-mod-hidden)"
    notebook.cell(3).locator(".jp-InputPrompt").click()
    notebook.cell(3).locator(items).first.wait_for()
    notebook.screenshot(f"explain_bar_{theme}")
    _assert_readable(bar)
    notebook.cell(2).locator(".jp-InputPrompt").click()
    expect(notebook.cell(2).locator(items).filter(visible=True)).to_have_count(0)

    bar.get_by_role("button", name="Explain").focus()
    lab.page.keyboard.press("Enter")
    answers = lab.page.locator(".jp-OutputArea-output")
    answers.filter(has_text="Use another number than 0.").wait_for()
    ask = "%%ask\nExplain this error in two sentences and say what to change. @err"
    becomes(lambda: _sources(lab), [*FAILING[:4], ask, FAILING[4]])
    becomes(lambda: notebook.page.evaluate("() => window.notebook.content.activeCellIndex"), 4)
    notebook.wait_idle()
    # Again: in the same cell.
    bar.get_by_role("button", name="Explain").click()
    notebook.wait_idle()
    becomes(lambda: len(_sources(lab)), len(FAILING) + 1)

    # Another error came: the kernel knows only the last one.
    notebook.run(4)
    bar.get_by_role("button", name="Run again and fix").wait_for()
    notebook.screenshot(f"explain_{theme}")
    other = notebook.output(4).locator(".mnb-Explain")
    becomes(lambda: other.get_by_role("button").all_inner_texts(), ["Explain", "Fix"])
    bar.get_by_role("button", name="Run again and fix").click()
    # The answer is shown as what it would change of the cell.
    lab.page.locator(".mnb-Proposal", has_text="x / 2").wait_for()
    becomes(lambda: _sources(lab)[4], "%%ask --as code\nFix the cell that failed. @err")
    other.get_by_role("button", name="Run again and explain").wait_for()

    # It runs without an error: nothing is left to ask.
    lab.page.evaluate(
        "() => window.notebook.content.widgets[3].model.sharedModel.setSource('x / 1')"
    )
    notebook.run(3)
    bar.wait_for(state="detached")


def test_what_says_itself_what_to_do_has_no_button(lab: Lab, server: Server) -> None:
    cells = ["%load_ext mastra_nb", "%%ask nobody\nHello?", "raise KeyboardInterrupt", "1 / 0"]
    notebook = lab.open(server.write("own_errors.ipynb", cells))
    for index in range(4):
        notebook.run(index)
    notebook.output(3).locator(".mnb-Explain").wait_for()
    expect(lab.page.locator(".mnb-Explain")).to_have_count(1)
    # After a restart the kernel knows of no error.
    notebook.save()
    lab.page.evaluate("() => window.notebook.sessionContext.restartKernel()")
    notebook.wait_idle()
    lab.page.get_by_role("button", name="Run again and explain").wait_for()


def test_a_kernel_without_mastra_nb_gets_it(lab: Lab, server: Server) -> None:
    notebook = lab.open(server.write("unloaded.ipynb", ["1 / 0", "print(get_ipython().mastra)"]))
    notebook.run(0)
    notebook.output(0).get_by_role("button", name="Explain").click()
    lab.page.wait_for_function("() => window.notebook.content.widgets.length === 3")
    lab.page.wait_for_function(
        "() => window.notebook.content.widgets[1].model.outputs.length > 0", timeout=60_000
    )
    notebook.interrupt()
    # What is begun before it has ended ends with it, as below every cell that fails.
    notebook.wait_done(1)
    # What was stopped here is no error to ask about: the cell's own is the last one.
    notebook.output(0).get_by_role("button", name="Explain", exact=True).wait_for()
    notebook.start(1)
    notebook.output(1).get_by_text("mastra_nb.notebook.extension.Magics").wait_for()
    assert "UsageError" not in notebook.page.locator(".jp-Notebook").inner_text()
