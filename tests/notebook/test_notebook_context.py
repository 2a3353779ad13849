"""`@name` and `--as code` in a real kernel."""

from __future__ import annotations

from tests.notebook.conftest import MIME, Kernel, Start

SAYS = """
seen = []

def say(request):
    seen.append(request.messages[-1])
    return "```python\\nprint(x + 1)\\n```"

coder = Agent(name="coder", model=ScriptedModel(say, repeat=True))
"""


def test_the_last_error_and_code_for_its_cell(shared: Kernel) -> None:
    shared.ok(SAYS)
    assert shared.run("x = 1\nprint(x + y)").ename == "NameError"
    shared.ok("'a cell between'")
    out = shared.ok("%%ask coder --as code -o code\nFix it. @err")
    asked = shared.ok("seen[-1].text").result
    assert "print(x + y)" in asked and "name 'y' is not defined" in asked
    assert "Answer with one fenced block of Python code" in asked
    record = out.shown[0][MIME]
    assert record["code"]["source"] == "x = 1\nprint(x + y)"
    assert record["code"]["language"] == "python"
    assert "-print(x + y)" in out.markdown and "+print(x + 1)" in out.markdown
    assert shared.ok("code").result == "'print(x + 1)'"


def test_an_error_from_before_we_were_loaded(start: Start) -> None:
    kernel = start()
    assert kernel.run("z = 5\nz / 0").ename == "ZeroDivisionError"
    kernel.ok("%load_ext mastra_nb")
    out = kernel.ok("%%ask --show-prompt\nWhy? @err")
    assert "z / 0" in out.text and "division by zero" in out.text


def test_the_cell_above_and_what_it_gave(shared: Kernel) -> None:
    shared.ok("6 * 7")
    out = shared.ok("%%ask --show-prompt\nIs that right? @above @out[-1]")
    assert "6 * 7" in out.text and "42" in out.text


def test_a_stopped_run_is_not_what_is_asked_about(shared: Kernel) -> None:
    assert shared.run("1 / 0").ename == "ZeroDivisionError"
    assert shared.run("%mastra nonsense").error
    assert "1 / 0" in shared.ok("%%ask --show-prompt\n@err").text


def test_an_image_is_shown_by_type_and_size(shared: Kernel) -> None:
    shared.ok("class P:\n    def _repr_png_(self): return b'\\x89PNG1234'\np = P()")
    assert "[image/png, 8 bytes]" in shared.ok("%%ask --show-prompt\n@p").text


def test_completion_after_an_at(shared: Kernel) -> None:
    shared.ok("customers = [1]")
    assert "customers" in shared.complete("%%ask\nWhat of @cust")
    assert "err" in shared.complete("%%ask\nWhy @er")
    assert "above" in shared.complete("%ask what is @ab")
