"""A user's mistake is one line and what to do next, never a traceback; the cell fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.notebook.conftest import SCRIPTED, Kernel, Start

CASES = {
    "unknown agent": ("%%ask wether\nhi", 'NotFound: there is no agent "wether"', "weather"),
    "unknown agent on a line": ("%ask wether --thread x hi", 'no agent "wether"', "weather"),
    "wrong option": ("%%ask weather --shema F\nhi", 'no option "--shema"', "--schema"),
    "option without a value": ("%ask weather --thread -o x hi", '"--thread" needs a value', "T"),
    "wrong choice": ("%ask weather --as html hi", '"--as" is "html"', "md, code, json"),
    "wrong number": ("%ask weather --budget much hi", '"--budget" is "much"', "above 0"),
    "no question": ("%%ask weather\n  \n", "%%ask has no question", "usage"),
    "no variable": ("%ask weather -o 1x hi", '"1x" cannot be a variable', "letters"),
    "no type": ("%ask weather --schema Forcast hi", 'no type "Forcast"', "Forecast"),
    "code for a type": ("%ask weather --schema print() hi", '"print()" is not the name', "list["),
    "template: no variable": ("%ask weather {{ citty }}", 'no variable "citty"', "city"),
    "template: no attribute": (
        "%ask weather {{ city.uper() }}",
        "has no attribute 'uper'",
        "upper",
    ),
    "template: syntax": ("%ask weather {{ city", "cannot be read", "{{ expression }}"),
    "template: raises": ("%ask weather {{ 1 / 0 }}", "ZeroDivisionError", "cell of its own"),
    "template: unsafe": ("%ask weather {{ city.__class__ }}", "was refused", "variable"),
    "unknown tool": ("%%agent a -t get_wether\nx", 'no tool "get_wether"', "get_weather"),
    "unknown provider": ("%%agent a -m opnai/gpt\nx", 'no provider "opnai"', "openai"),
    "no provider": ("%%agent a -m gpt-4o\nx", '"gpt-4o" names no provider', "provider/model"),
    "no name": ("%%agent\nx", "%%agent needs a name", "usage"),
    "wrong front matter": ("%%agent a\n---\nmodle: x\n---\nx", 'no option "modle"', "model"),
    "broken front matter": ("%%agent a\n---\nmodel: [\n---\nx", "not valid YAML", "name: value"),
    "wrong limit": ("%%agent a\n---\nlimits: {costs: 1}\n---\nx", 'has no "costs"', "cost"),
    "no guardrail": ("%%agent a\n---\nprocessors: PIIDetectr\n---\nx", "PIIDetectr", "PIIDetector"),
    "no file": ("%agent a -f nowhere.md", '"nowhere.md" cannot be read', ""),
    "approval of nothing": ("%%agent a --approve send\nx", '"send" is to be approved', "--tools"),
    "no functions": ("%%tool\nx = 1", "found no function", "def"),
    "wrong sub-command": ("%mastra stauts", '%mastra has no "stauts"', "status"),
    "wrong mode": ("%mastra replay onyl", '"onyl"', "only"),
    "wrong default": ("%mastra default wether", 'no agent "wether"', "weather"),
    "no such run": ("%mastra run r_nope", 'no run "r_nope"', "%mastra runs"),
    "nothing waits": ("%resume approve", "no run waits", "%mastra runs"),
    "in Python": ("await Agent(name='a', model='gpt').run('x')", "names no provider", "local"),
    "in blocking Python": (
        "Agent(name='a', model='gpt').run('x').result()",
        "names no provider",
        "",
    ),
}


@pytest.fixture(scope="module")
def kernel(shared: Kernel) -> Kernel:
    shared.ok("city = 'Oslo'\nclass Forecast: pass\ndef get_weather(c: str): 'x'")
    shared.ok("%%agent weather -m vllm/x\nBe brief.")
    return shared


@pytest.mark.parametrize(("code", "said", "hint"), CASES.values(), ids=CASES)
def test_one_line_and_a_hint(kernel: Kernel, code: str, said: str, hint: str) -> None:
    out = kernel.run(code)
    assert said in out.head
    assert hint in out.error
    assert len(out.error.splitlines()) <= 2
    assert "Traceback" not in out.error
    assert not out.text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Mastra.frame_rate = 'fast'", "%config Mastra.frame_rate is 'fast'"),
        ("Mastra.replay = 'maybe'", "%config Mastra.replay is 'maybe'"),
        ("Mastra.max_steps = 0", "%config Mastra.max_steps is 0"),
        ("Mastra.show_reasoning = 'no'", "%config Mastra.show_reasoning is 'no'"),
    ],
)
def test_a_bad_config_value_is_told_when_it_is_used(kernel: Kernel, line: str, said: str) -> None:
    before = kernel.ok(f"%config {line.partition(' = ')[0]}").result
    try:
        kernel.run(f"%config {line}")
        out = kernel.run("%ask weather hi")
        assert out.head == f"ConfigError: {said}"
        assert "allowed: " in out.error
    finally:
        kernel.ok(f"%config {line.partition(' = ')[0]} = {before or None}")


def test_config_wins_over_the_environment_and_a_flag_over_config(start: Start) -> None:
    kernel = start(MASTRA_NB_MODEL="vllm/env")
    assert "model vllm/env" in kernel.ok("%load_ext mastra_nb").text
    kernel.ok("%config Mastra.model = 'vllm/config'")
    assert "vllm/config" in kernel.ok("%%agent a\nx").text
    assert "vllm/flag" in kernel.ok("%%agent a -m vllm/flag\n---\nmodel: vllm/front\n---\nx").text
    assert "vllm/front" in kernel.ok("%%agent a\n---\nmodel: vllm/front\n---\nx").text
    kernel.ok("%config Mastra.storage = 'sqlite:///other.db'")
    assert "other.db" in kernel.ok("%mastra").markdown
    assert (kernel.cwd / "other.db").exists()


def test_no_key(start: Start) -> None:
    kernel = start()
    kernel.ok("%load_ext mastra_nb")
    kernel.ok("%%agent a -m openai/gpt-4o-mini\nx")
    out = kernel.run("%ask a hi")
    assert "OPENAI_API_KEY" in out.error
    assert len(out.error.splitlines()) <= 2
    assert "OPENAI" not in out.shown[0]["text/markdown"], "it is said once"


def test_a_key_appears_nowhere(start: Start) -> None:
    canary = "sk-canary-abcdef0123456789"
    kernel = start(OPENAI_API_KEY=canary, OPENAI_BASE_URL="http://127.0.0.1:9/v1")
    texts = [
        repr(kernel.run(code))
        for code in (
            "%load_ext mastra_nb",
            "%%agent a -m openai/gpt-4o-mini\nx",
            "%mastra",
            "%mastra models",
            "a",
            "from mastra_nb.config import secret; secret('OPENAI_API_KEY')",
            f"%%ask a --thread {canary}\nhi {{{{ nothing }}}}",
        )
    ]
    kernel.close()
    assert not any(canary in text for text in texts[:-1])
    stored = b"".join(p.read_bytes() for p in kernel.cwd.iterdir() if p.is_file())
    assert canary.encode() not in stored


def _corrupt(path: Path) -> None:
    path.write_bytes(b"this is no database, but it is longer than a header of one" * 40)


def _newer(path: Path) -> None:
    import apsw

    from mastra_nb.app import open_store

    open_store(f"sqlite:///{path}")
    db = apsw.Connection(str(path))
    list(db.execute("PRAGMA user_version=9999"))
    db.close()


def _folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("spoil", [_corrupt, _newer, _folder])
def test_a_store_that_cannot_be_used_is_one_line(
    start: Start, tmp_path: Path, spoil: object
) -> None:
    spoil(tmp_path / "mastra.db")  # type: ignore[operator]
    kernel = start()
    out = kernel.ok("%load_ext mastra_nb")
    warning, greeting = out.text.splitlines()
    assert warning.endswith("this notebook's runs are kept in memory only")
    assert "store memory" in greeting
    kernel.ok(SCRIPTED + "a = Agent(name='a', model=ScriptedModel('hi'))")
    assert kernel.ok("%ask a x").answer == "hi"
    assert "in memory only" in kernel.ok("%mastra").markdown


def test_a_locked_store_is_one_line_too(start: Start, tmp_path: Path) -> None:
    import apsw

    from mastra_nb.app import open_store

    open_store(f"sqlite:///{tmp_path / 'mastra.db'}")
    db = apsw.Connection(str(tmp_path / "mastra.db"))
    db.execute("BEGIN IMMEDIATE")
    try:
        kernel = start()
        kernel.ok("from mastra_nb.stores import _sql\n_sql.BUSY_SECONDS = 1.0")
        warning = kernel.ok("%load_ext mastra_nb").text.splitlines()[0]
    finally:
        db.close()
    assert "mastra.db" in warning
    assert "locked" in warning
    assert warning.endswith("kept in memory only")


def test_an_old_ipython_is_one_line(start: Start) -> None:
    kernel = start()
    kernel.ok(
        "import importlib.metadata as im\n_version = im.version\n"
        "im.version = lambda n: '5.5.6' if n == 'ipykernel' else _version(n)"
    )
    out = kernel.run("%load_ext mastra_nb")
    assert out.head.startswith("UsageError: ipykernel 5.5.6 is too old")
    assert "restart the kernel" in out.error


def test_errors_of_your_own_code_keep_their_traceback(kernel: Kernel) -> None:
    out = kernel.run("def f():\n    return 1 / 0\nf()")
    assert "Traceback" in out.error
    assert "return 1 / 0" in out.error
    out = kernel.run('%%tool\ndef g():\n    "x"\n\nraise ValueError("mine")')
    assert 'raise ValueError("mine")' in out.error
    assert "line 5" in out.error
