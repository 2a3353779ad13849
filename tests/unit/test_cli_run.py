from __future__ import annotations

import asyncio
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mastra_nb import open_store
from mastra_nb.cli._follow import summary
from mastra_nb.cli._group import cli
from mastra_nb.cli.run import values
from mastra_nb.errors import UsageError

APP = """
from mastra_nb import Agent, Limits, Mastra, Memory, step, suspend, tool, workflow
from mastra_nb.testing import ScriptedModel, calls

@tool(needs_approval=True)
def pay(amount: int) -> str:
    return f"paid {amount}"

@tool
def look() -> str:
    return "nothing"

def told(request):
    return request.messages[-1].text.upper()

def pays(request):
    return calls("pay", amount=3) if request.messages[-1].role == "user" else "Done."

def fails(request):
    raise ValueError("no such luck")

echo = Agent(name="echo", model=ScriptedModel(told, repeat=True), memory=Memory())
payer = Agent(name="payer", model=ScriptedModel(pays, repeat=True), tools=[pay])
broken = Agent(name="broken", model=ScriptedModel(fails, repeat=True))
dear = Agent(
    name="dear", model=ScriptedModel(calls("look")), tools=[look], limits=Limits(requests=1)
)

@step
def double(n: int) -> int:
    return n * 2

@workflow
async def sums(a: int, b: int = 1) -> dict:
    return {"sum": await double(a) + await double(b)}

@workflow
async def asks(city: str) -> str:
    return f"{city}: {await suspend({'which': city}, schema=str)}"

@workflow
async def asks_twice(city: str) -> str:
    first = await suspend({"which": city}, schema=dict[str, int])
    return f"{city}: {first['n']}"

app = Mastra(
    agents=[echo, payer, broken, dear],
    workflows=[sums, asks, asks_twice],
    storage="sqlite:///mastra.db",
)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_process: None) -> Path:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "mastra.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    return tmp_path


def invoke(*args: str, **options: Any) -> Any:
    # As in a process of its own.
    sys.modules.pop("app", None)
    return CliRunner().invoke(cli, [*args], prog_name="mastra-nb", **options)


def result(*args: str, code: int = 0, **options: Any) -> Any:
    done = invoke(*args, "--json", **options)
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


@pytest.mark.usefixtures("project")
class TestRun:
    def test_text_goes_in_and_text_comes_out(self) -> None:
        done = invoke("run", "echo", "hello")
        assert (done.exit_code, done.stdout, done.stderr) == (0, "HELLO\n", "")

    def test_what_is_piped_in_is_the_input(self) -> None:
        assert invoke("run", "echo", input="hello").stdout == "HELLO\n"
        assert invoke("run", "echo", "-", input="hello").stdout == "HELLO\n"

    def test_a_file_is_the_input(self, project: Path) -> None:
        (project / "q.txt").write_text("from a file")
        assert invoke("run", "echo", "@q.txt").stdout == "FROM A FILE\n"
        assert invoke("run", "echo", "@@q.txt").stdout == "@Q.TXT\n"
        missing = invoke("run", "echo", "@none.txt")
        assert missing.exit_code == 2
        assert '"none.txt" cannot be read' in missing.stderr

    def test_one_json_object_says_what_came_of_it(self) -> None:
        found = result("run", "echo", "hello")
        assert found["status"] == "done"
        assert found["output"] == "HELLO"
        assert found["run"].startswith("r_")
        assert found["usage"]["input"] > 0

    def test_a_stream_is_an_event_a_line_and_the_result_last(self) -> None:
        lines = [
            json.loads(line)
            for line in invoke(
                "run", "echo", "hello there", "--json", "--stream"
            ).stdout.splitlines()
        ]
        *events, last = lines
        text = "".join(e["data"]["text"] for e in events if e["data"]["type"] == "text-delta")
        assert text == "HELLO THERE"
        assert last["type"] == "result"
        assert last["output"] == "HELLO THERE"
        assert {e["run"] for e in events} == {last["run"]}

    def test_a_stream_to_a_pipe_is_the_text(self) -> None:
        assert invoke("run", "echo", "hello", "--stream").stdout == "HELLO\n"

    def test_a_workflow_takes_json_and_parameters(self) -> None:
        assert result("run", "sums", '{"a": 3}')["output"] == {"sum": 8}
        assert result("run", "sums", "-p", "a=3", "-p", "b=2")["output"] == {"sum": 10}
        assert result("run", "sums", '{"a": 3}', "-p", "b=2")["output"] == {"sum": 10}
        assert json.loads(invoke("run", "sums", "-p", "a=3").stdout) == {"sum": 8}

    def test_an_input_that_does_not_fit_is_a_failed_run(self) -> None:
        assert result("run", "sums", '{"a": "x"}', code=1)["status"] == "failed"

    def test_who_is_not_there_is_wrong_usage(self) -> None:
        done = invoke("run", "ecco", "hello")
        assert done.exit_code == 2
        assert 'did you mean "echo"?' in done.stderr

    def test_an_agent_wants_a_question_and_no_parameters(self) -> None:
        assert invoke("run", "echo", input="").exit_code == 2
        assert invoke("run", "echo", "x", "-p", "a=1").exit_code == 2
        assert invoke("run", "sums", "-p", "a=3", "--model", "x/y").exit_code == 2

    def test_a_failure_is_an_exit_code_and_a_reason(self) -> None:
        done = invoke("run", "broken", "x")
        assert (done.exit_code, done.stdout) == (1, "")
        assert "no such luck" in done.stderr
        assert "Traceback" not in done.stderr
        found = result("run", "broken", "x", code=1)
        assert found["status"] == "failed"
        assert "no such luck" in found["error"]["message"]

    def test_over_budget_has_a_code_of_its_own(self) -> None:
        assert result("run", "dear", "x", code=4)["error"]["code"].startswith("run.limit")

    def test_a_key_makes_it_one_run(self) -> None:
        first = result("run", "echo", "hello", "--key", "k1")
        assert result("run", "echo", "hello", "--key", "k1")["run"] == first["run"]

    def test_a_thread_goes_on(self) -> None:
        for text in ("one", "two"):
            assert result("run", "echo", text, "--thread", "t1")["thread"] == "t1"

        async def messages() -> list[str]:
            store = open_store("sqlite:///mastra.db")
            try:
                return [m.message.text for m in await store.read_messages("t1")]
            finally:
                await store.close()

        assert asyncio.run(messages()) == ["one", "ONE", "two", "TWO"]

    def test_what_waits_says_how_to_answer_it(self) -> None:
        done = invoke("run", "payer", "pay 3")
        run = result("runs")[0]["run"]
        assert done.exit_code == 3
        assert done.stdout == ""
        assert "pay(amount=3) needs approval" in done.stderr
        assert f"mastra-nb resume {run} approve" in done.stderr
        (asked,) = result("run", "payer", "pay 3", code=3)["pending"]
        assert asked["reason"] == "approval"
        assert asked["resume"].endswith(" approve")
        (asked,) = result("run", "payer", "pay 3", "--app", "app.py", code=3)["pending"]
        command, *words = shlex.split(asked["resume"])
        assert command == "mastra-nb"
        assert invoke(*words).stdout == "Done.\n"

    def test_what_the_application_prints_is_no_result(self, project: Path) -> None:
        noisy = APP.replace(
            "def told(request):", "print('loaded')\n\ndef told(request):\n    print('asked')"
        )
        (project / "app.py").write_text(noisy)
        done = invoke("run", "echo", "hello")
        assert done.stdout == "HELLO\n"
        assert done.stderr == "loaded\nasked\n"
        assert invoke("run", "echo", "hello", "--stream").stdout == "HELLO\n"
        assert result("run", "echo", "hello")["output"] == "HELLO"
        lines = invoke("run", "echo", "hello", "--json", "--stream").stdout.splitlines()
        assert all(json.loads(line) for line in lines)

    def test_json_holds_nothing_that_a_terminal_obeys(self) -> None:
        for more in ([], ["--stream"]):
            done = invoke("run", "echo", "a\x1b[2J\x9b\u202eb", "--json", *more)
            assert not {"\x1b", "\x9b", "\u202e"} & {*done.stdout}
            last = json.loads(done.stdout.splitlines()[-1])
            assert last["output"] == "A\x1b[2J\x9b\u202eB"
        assert invoke("run", "echo", "a\x1b[2J\u202eb").stdout == "A[2JB\n"

    def test_an_application_that_keeps_nothing_says_so(self, project: Path) -> None:
        (project / "app.py").write_text(APP.replace('storage="sqlite:///mastra.db",', ""))
        done = invoke("run", "payer", "x")
        assert done.exit_code == 3
        assert "nothing keeps this run" in done.stderr


@pytest.mark.usefixtures("project")
class TestResume:
    def test_approve_and_deny(self) -> None:
        run = result("run", "payer", "x", code=3)["run"]
        assert invoke("resume", run[:8], "approve").stdout == "Done.\n"
        denied = result("run", "payer", "x", code=3)["run"]
        assert result("resume", denied, "deny", "too", "dear")["output"] == "Done."
        spans = result("trace", denied)["spans"]
        assert any("too dear" in s.get("error", {}).get("message", "") for s in spans)

    def test_text_and_json(self) -> None:
        run = result("run", "asks", "Oslo", code=3)["run"]
        assert invoke("resume", run, "the", "first").stdout == "Oslo: the first\n"
        run = result("run", "asks_twice", "Oslo", code=3)["run"]
        wrong = invoke("resume", run, '{"n": "x"}')
        assert wrong.exit_code == 2
        assert result("resume", run, '{"n": 3}')["output"] == "Oslo: 3"

    def test_what_was_answered_is_not_answered_twice(self) -> None:
        run = result("run", "asks", "Oslo", code=3)["run"]
        assert invoke("resume", run, "a").exit_code == 0
        again = invoke("resume", run, "b")
        assert again.exit_code == 1
        assert again.stdout == ""

    def test_no_answer_at_all_names_the_command(self) -> None:
        run = result("run", "payer", "x", code=3)["run"]
        done = invoke("resume", run, "perhaps")
        assert done.exit_code == 2
        assert "mastra-nb resume" in done.stderr
        assert "%resume" not in done.stderr

    def test_an_unknown_run(self) -> None:
        done = invoke("resume", "r_none", "approve")
        assert done.exit_code == 2
        assert "%mastra" not in done.stderr


def test_parameters_are_json_or_text() -> None:
    given = ["a=1", "b=x=y", 'c={"d": null}', "e=", "f=1.5", "g=true"]
    assert values(given) == {"a": 1, "b": "x=y", "c": {"d": None}, "e": "", "f": 1.5, "g": True}
    with pytest.raises(UsageError):
        values(["nothing"])


async def test_a_summary_keeps_what_was_said_before_the_stop() -> None:
    from mastra_nb import Agent
    from mastra_nb.cli._follow import follow
    from mastra_nb.errors import Stopped
    from mastra_nb.services import Services
    from mastra_nb.testing import ScriptedModel

    run = Agent(name="a", model=ScriptedModel("word " * 50, delay=0.01), services=Services()).run(
        "x"
    )
    task = asyncio.ensure_future(follow(run))
    while not run.text and not task.done():
        await asyncio.sleep(0.01)
    task.cancel()
    error = await task
    assert isinstance(error, Stopped)
    made = summary(run, error)
    assert made["status"] == "cancelled"
    assert made["output"] is None
    assert made["text"].startswith("word ")
