"""The command in a process and a terminal of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pexpect = pytest.importorskip("pexpect", reason="there are no such terminals on Windows")

ROOT = Path(__file__).parents[2]
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r")

APP = '''
import asyncio
from mastra_nb import Agent, Mastra, Memory, tool
from mastra_nb.testing import ScriptedModel, calls

@tool
async def get_weather(city: str) -> dict:
    await asyncio.sleep(0.05)
    return {"sky": "sunny"}

@tool(needs_approval=True)
def pay(amount: int) -> str:
    return f"paid {amount}"

LONG = """# Weather

It is **sunny** in Oslo, see [the map](https://maps.example/oslo).

- one
- two

The end \\x1b]0;owned\\x07of it."""

def asks(request):
    if request.messages[-1].role == "user":
        return calls("get_weather", city="Oslo")
    return LONG

def pays(request):
    last = request.messages[-1]
    return calls("pay", amount=3) if last.role == "user" else f"Well, {last.parts[0].output}."

def told(request):
    users = [m.text for m in request.messages if m.role == "user"]
    return f"{len(users)} asked, the last: {users[-1]!r}"

def words(request):
    return "word " * 400

memory = Memory()
app = Mastra(
    agents=[
        Agent(name="weather", model=ScriptedModel(asks, repeat=True), tools=[get_weather]),
        Agent(name="payer", model=ScriptedModel(pays, repeat=True), tools=[pay], memory=memory),
        Agent(name="echo", model=ScriptedModel(told, repeat=True), memory=memory),
        Agent(name="slow", model=ScriptedModel(words, delay=0.1, repeat=True), memory=memory),
    ],
    storage="sqlite:///mastra.db",
)
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "mastra.toml").write_text("")
    return tmp_path


def environment(project: Path) -> dict[str, str]:
    known = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "NO_COLOR")}
    return {
        **known,
        "PYTHONPATH": str(ROOT),
        "XDG_STATE_HOME": str(project / "state"),
        "TERM": "xterm-256color",
        "PROMPT_TOOLKIT_NO_CPR": "1",
    }


@pytest.fixture
def terminal(project: Path) -> Iterator[Callable[..., Any]]:
    opened = []

    def start(*args: str) -> Any:
        made = pexpect.spawn(
            sys.executable,
            ["-m", "mastra_nb", *args],
            cwd=str(project),
            env=environment(project),
            encoding="utf-8",
            dimensions=(40, 100),
            timeout=30,
        )
        opened.append(made)
        return made

    yield start
    for each in opened:
        each.close(force=True)


def rest(child: Any) -> str:
    """What it says until it ends."""
    text = ANSI.sub("", child.read())
    child.close()
    return text


def ready(child: Any) -> None:
    child.expect("›")
    # The prompt reads keys a moment after it is drawn.
    time.sleep(0.3)


def command(project: Path, *args: str, input: str | None = None) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "mastra_nb", *args],
        cwd=project,
        env=environment(project),
        input=input,
        stdin=subprocess.DEVNULL if input is None else None,
        capture_output=True,
        text=True,
        timeout=60,
    )


class TestRun:
    def test_an_answer_is_markdown_and_a_tool_a_line(self, terminal: Any) -> None:
        child = terminal("run", "weather", "hello")
        raw = child.read()
        child.close()
        text = ANSI.sub("", raw)
        assert child.exitstatus == 0
        assert '✓ get_weather(city="Oslo") → {"sky":"sunny"}' in text
        assert "It is sunny in Oslo" in text
        assert "**" not in text
        # Where a link leads is seen, and what a model writes is not obeyed.
        assert "https://maps.example/oslo" in text
        assert "\x1b]" not in raw
        assert text.index("Weather") < text.index("• one") < text.index("The end")

    def test_ctrl_c_keeps_what_was_said(self, project: Path, terminal: Any) -> None:
        child = terminal("run", "slow", "go")
        child.expect("word word word")
        child.sendintr()
        text = rest(child)
        assert child.exitstatus == 130
        assert "■ stopped" in text
        (row,) = json.loads(command(project, "runs", "--json").stdout)
        assert row["status"] == "cancelled"

    def test_json_is_told_of_a_stop_too(self, project: Path) -> None:
        child = subprocess.Popen(
            [sys.executable, "-m", "mastra_nb", "run", "slow", "go", "--json", "--stream"],
            cwd=project,
            env=environment(project),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        for line in child.stdout:
            if json.loads(line)["data"]["type"] == "text-delta":
                break
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=30)
        last = json.loads(out.splitlines()[-1])
        assert child.returncode == 130
        assert (last["type"], last["status"], last["output"]) == ("result", "cancelled", None)
        assert last["text"].startswith("word")
        assert "Traceback" not in err

    def test_a_reader_that_goes_away_is_no_traceback(self, project: Path) -> None:
        line = f"{sys.executable} -m mastra_nb run slow go --json --stream | head -1"
        done = subprocess.run(
            line, shell=True, cwd=project, env=environment(project), capture_output=True,
            text=True, stdin=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip
        assert json.loads(done.stdout)["run"].startswith("r_")
        assert "Traceback" not in done.stderr


class TestChat:
    def test_questions_of_many_lines_and_commands(self, project: Path, terminal: Any) -> None:
        child = terminal("chat", "echo")
        ready(child)
        child.send("first\x1b\rsecond\r")
        child.expect(re.escape("1 asked, the last: 'first\\nsecond'"))
        ready(child)
        # As a terminal hands over what was pasted.
        child.send("\x1b[200~pasted\nlines\x1b[201~\r")
        child.expect(re.escape("2 asked, the last: 'pasted\\nlines'"))
        ready(child)
        child.send("/usage\r")
        child.expect("tokens")
        ready(child)
        child.send("/save talk.md\r")
        child.expect("4 messages in talk.md")
        ready(child)
        child.send("/nonsense\r")
        child.expect('there is no "/nonsense"')
        ready(child)
        child.send("/new\r")
        child.expect("thread chat_")
        ready(child)
        child.send("third\r")
        child.expect("1 asked, the last: 'third'")
        ready(child)
        child.send("\x04")
        assert "--thread chat_" in rest(child)
        assert child.exitstatus == 0
        assert "## You\n\npasted\nlines" in (project / "talk.md").read_text()

    def test_a_conversation_goes_on(self, terminal: Any) -> None:
        for n in (1, 2):
            child = terminal("chat", "echo", "--thread", "t1")
            ready(child)
            child.send("hello\r")
            child.expect(f"{n} asked")
            ready(child)
            child.send("\x04")
            rest(child)

    def test_questions_are_remembered_for_the_arrow_keys(
        self, project: Path, terminal: Any
    ) -> None:
        child = terminal("chat", "echo")
        ready(child)
        child.send("something to remember\r")
        child.expect("1 asked")
        ready(child)
        child.send("\x04")
        rest(child)
        child = terminal("chat", "echo")
        ready(child)
        child.send("\x1b[A")
        child.expect("something to remember")
        child.send("\r")
        child.expect("1 asked, the last: 'something to remember'")
        ready(child)
        child.send("/exit\r")
        rest(child)
        (file,) = (project / "state").rglob("*.history")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

    def test_ctrl_c_stops_an_answer_as_often_as_it_is_pressed(
        self, project: Path, terminal: Any
    ) -> None:
        child = terminal("chat", "slow", "--thread", "t1")
        for _ in range(3):
            ready(child)
            child.send("go\r")
            child.expect("word word")
            child.sendintr()
            child.expect("■ stopped")
        ready(child)
        child.sendintr()
        ready(child)
        child.send("\x04")
        rest(child)
        assert child.exitstatus == 0
        rows = json.loads(command(project, "runs", "--json").stdout)
        assert [r["status"] for r in rows] == ["cancelled"] * 3
        said = json.loads(command(project, "memory", "show", "t1", "--json").stdout)["messages"]
        assert [m["message"]["role"] for m in said] == ["user", "assistant"] * 3
        assert said[1]["message"]["parts"][0]["text"].startswith("word")

    def test_what_needs_approval_is_asked(self, project: Path, terminal: Any) -> None:
        child = terminal("chat", "payer")
        ready(child)
        child.send("pay\r")
        child.expect(re.escape("pay(amount=3) needs approval"))
        child.expect("ater")
        time.sleep(0.3)
        child.send("y\r")
        child.expect("Well, paid 3.")
        ready(child)
        child.send("pay\r")
        child.expect("ater")
        time.sleep(0.3)
        child.send("e\r")
        child.expect("with")
        time.sleep(0.3)
        child.send("\x7f\x7f50}\r")
        child.expect("Well, paid 50.")
        ready(child)
        child.send("pay\r")
        child.expect("ater")
        time.sleep(0.3)
        child.send("n\r")
        child.expect("why not")
        time.sleep(0.3)
        child.send("too dear\r")
        child.expect("too dear")
        child.expect("Well,")
        ready(child)
        child.send("pay\r")
        child.expect("ater")
        time.sleep(0.3)
        child.sendintr()
        child.expect("mastra-nb resume r_")
        ready(child)
        child.send("\x04")
        rest(child)
        assert child.exitstatus == 3
        (waiting,) = json.loads(command(project, "runs", "--status", "suspended", "--json").stdout)
        done = command(project, "resume", waiting["run"], "approve")
        assert (done.returncode, done.stdout) == (0, "Well, paid 3.\n")

    def test_without_a_terminal_each_line_is_a_question(self, project: Path) -> None:
        done = command(project, "chat", "echo", input="one\n\n/thread\ntwo\n")
        assert done.returncode == 0
        first, thread, *_, last = done.stdout.splitlines()
        assert first == "1 asked, the last: 'one'"
        assert re.fullmatch(r"thread chat_\w+, 2 messages", thread)
        assert last == "2 asked, the last: 'two'"
        waits = command(project, "chat", "payer", input="pay\nmore\n")
        assert waits.returncode == 3
        assert "mastra-nb resume" in waits.stderr
        nobody = command(project, "chat", input="hello\n")
        assert nobody.returncode == 2
        assert '"echo"' in nobody.stderr


def test_distributions_add_commands_and_a_broken_one_breaks_only_itself(project: Path) -> None:
    site = project / "site"
    about = site / "greeting-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[mastra_nb.commands]\nhello = greeting:hello\nbroken = greeting:nothing\n"
        "run = greeting:hello\n"
    )
    (site / "greeting.py").write_text(
        "import click\n@click.command()\n@click.argument('name')\ndef hello(name):\n"
        "    'Greet NAME.'\n    click.echo(f'Hello {name}')\n"
    )

    def invoke(*args: str) -> Any:
        env = {**environment(project), "PYTHONPATH": f"{ROOT}{os.pathsep}{site}"}
        return subprocess.run(
            [sys.executable, "-m", "mastra_nb", *args],
            cwd=project,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert invoke("hello", "Ada").stdout == "Hello Ada\n"
    assert "Hello" not in invoke("run", "Ada").stdout
    broken = invoke("broken")
    assert broken.returncode == 1
    assert "the other plugins are not affected" in broken.stderr
    text = " ".join(invoke("--help").stdout.split())
    assert "hello Greet NAME." in text
    assert "broken ✗" in text
    assert invoke("version").returncode == 0
