"""R14: servers that crash, hang, start slowly or talk nonsense, over stdio; nothing is left."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mastra_nb import Agent, Mastra, MCPClient, Message, RunSuspended, portal
from mastra_nb.config import Secret
from mastra_nb.errors import (
    ConfigError,
    MastraError,
    ToolArgsError,
    ToolError,
    ToolFailed,
    ToolTimeout,
)
from mastra_nb.events import Custom, Noted
from mastra_nb.mcp import connection
from mastra_nb.mcp.client import Elicitation
from mastra_nb.mcp.servers import Http, Stdio
from mastra_nb.models import ModelRequest
from mastra_nb.testing import ScriptedModel, calls

HERE = Path(__file__).resolve().parent
SERVER = str(HERE / "misbehaving.py")


def children() -> set[int]:
    """Processes of ours that live; a zombie counts."""
    found = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True
    ).stdout
    return {int(line.split()[0]) for line in found.splitlines() if "ps -o" not in line}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def tasks() -> set[str]:
    async def named() -> set[str]:
        return {t.get_name() for t in asyncio.all_tasks() if "mastra_nb-mcp" in t.get_name()}

    return portal.run(named())


def eventually(true: Callable[[], bool], seconds: float = 8.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    portal.loop()
    before = children()
    yield
    gc.collect()
    eventually(lambda: children() <= before and not tasks())
    eventually(lambda: not any("mcp-stderr" in t.name for t in threading.enumerate()))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def server(log: Path, *mode: str, **options: Any) -> Stdio:
    env = {"MISBEHAVING_LOG": str(log), **options.pop("env", {})}
    return Stdio(sys.executable, [SERVER, *mode], env=env, **options)


def said(log: Path) -> list[str]:
    return log.read_text("utf-8").splitlines() if log.exists() else []


async def test_what_tools_give(log: Path) -> None:
    async with MCPClient({"m": server(log)}) as client:
        assert await client.call("m", "echo", {"text": "hi"}) == "hi"
        assert await client.call("m", "data") == {"n": 3}
        look, image, file, link = await client.call("m", "mixed")
        assert (look["text"], file["text"]) == ("look:", "the file")
        assert image == {"type": "media", "mime": "image/png", "data": "iVBORw0KGgo="}
        assert "file:///b.txt" in link["text"]
        with pytest.raises(ToolFailed, match="no such city"):
            await client.call("m", "fail")
        with pytest.raises(ToolArgsError, match="city is missing"):
            await client.call("m", "wrong")
        with pytest.raises(ToolFailed, match="no valid answer"):
            await client.call("m", "nonsense")
        assert (await client.info("m"))["protocol"] == "2025-11-25"


async def test_an_agent_has_the_tools(log: Path) -> None:
    model = ScriptedModel(calls("m_report"), "done")
    client = MCPClient({"m": server(log)})
    agent = Agent(name="a", model=model, tools=[client])
    assert "m" in repr(client) and said(log) == []
    run = agent.run("go")
    assert await run == "done"
    events = [e.data for e in run.log.events]
    (progress,) = [e.value for e in events if isinstance(e, Custom)]
    assert progress == {
        "server": "m", "tool": "report", "progress": 1.0, "total": 2.0, "message": "half",
    }  # fmt: skip
    (note,) = [e for e in events if isinstance(e, Noted)]
    assert (note.level, note.text) == ("warning", "m: it is late")
    assert {t.name for t in model.requests[0].tools} >= {"m_echo", "m_report"}
    await client.close()


async def test_a_failed_tool_is_told_to_the_model(log: Path) -> None:
    model = ScriptedModel(calls("m_fail"), "sorry")
    async with MCPClient({"m": server(log)}) as client:
        await Agent(name="a", model=model, tools=[client]).run("go")
    (result,) = model.requests[1].messages[-1].parts
    assert result.is_error and "no such city" in result.output  # type: ignore[union-attr]


async def test_a_crash_is_told_with_the_last_words_and_the_next_call_starts_again(
    log: Path,
) -> None:
    async with MCPClient({"m": server(log)}) as client:
        started = time.monotonic()
        with pytest.raises(ToolFailed) as caught:
            await client.call("m", "crash")
        assert time.monotonic() - started < 10
        assert caught.value.code == "mcp.lost"
        assert "out of cheese" in caught.value.hint and "misbehaving.py" in caught.value.hint
        assert caught.value.details["stderr"] == ["Traceback: out of cheese"]
        assert await client.call("m", "echo", {"text": "again"}) == "again"
    assert len([line for line in said(log) if line.startswith("started")]) == 2


async def test_a_server_that_ends_between_calls_is_started_again(log: Path) -> None:
    async with MCPClient({"m": server(log)}) as client:
        await client.call("m", "echo")
        (first,) = [line for line in said(log) if line.startswith("started")]
        os.kill(int(first.split()[1]), 9)
        await asyncio.sleep(0.3)
        assert await client.call("m", "echo", {"text": "back"}) == "back"


async def test_siblings_of_a_crash_fail_and_do_not_hang(log: Path) -> None:
    async with MCPClient({"m": server(log)}) as client:
        await client.tools()
        waits = [client.call("m", "hang") for _ in range(5)]
        found = await asyncio.wait_for(
            asyncio.gather(*waits, client.call("m", "crash"), return_exceptions=True), 10
        )
    assert all(isinstance(f, ToolFailed) for f in found)


async def test_a_hang_ends_and_the_server_is_told(log: Path) -> None:
    async with MCPClient({"m": server(log, timeout=0.3)}) as client:
        with pytest.raises(ToolTimeout, match="0.3 s"):
            await client.call("m", "hang")
        assert await client.call("m", "echo", {"text": "alive"}) == "alive"
    assert any(line.startswith("cancelled") for line in said(log))


async def test_a_cancelled_call_is_cancelled_at_the_server(log: Path) -> None:
    async with MCPClient({"m": server(log)}) as client:
        await client.tools()
        task = asyncio.create_task(client.call("m", "hang"))
        while "call hang" not in said(log):
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        eventually_said = time.monotonic() + 5
        while not any(line.startswith("cancelled") for line in said(log)):
            assert time.monotonic() < eventually_said
            await asyncio.sleep(0.02)
        assert await client.call("m", "echo", {"text": "alive"}) == "alive"


async def test_a_slow_start_is_waited_for_and_not_for_ever(log: Path) -> None:
    async with MCPClient({"m": server(log, "slow", "0.5")}) as client:
        assert await client.call("m", "echo", {"text": "late"}) == "late"
    async with MCPClient({"m": server(log, "mute", connect_timeout=0.5)}) as client:
        started = time.monotonic()
        with pytest.raises(ToolTimeout, match="did not start within 0.5 s"):
            await client.tools()
        assert time.monotonic() - started < 10


async def test_one_that_never_listens_is_given_up_and_ended() -> None:
    deaf = Stdio(sys.executable, ["-c", "import time; time.sleep(60)"], connect_timeout=1.5)
    async with MCPClient({"m": deaf}) as client:
        with pytest.raises(ToolTimeout, match="did not start"):
            await client.tools()
        started = time.monotonic()
    # Closed while it is already being stopped: the SDK waits 2 s before it kills.
    assert time.monotonic() - started < 10


async def test_garbage_on_stdout_is_skipped(log: Path) -> None:
    async with MCPClient({"m": server(log, "garbage")}) as client:
        assert await client.call("m", "echo", {"text": "through"}) == "through"


async def test_a_server_that_dies_at_once_says_why_and_is_tried_again_later(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "BACKOFF", 0.2)
    env = {"MISBEHAVING_STARTS": str(tmp_path / "starts")}
    async with MCPClient({"m": server(log, "dies-once", env=env)}) as client:
        with pytest.raises(ToolError) as caught:
            await client.tools()
        assert "no licence found" in caught.value.hint
        started = time.monotonic()
        assert await client.tools()
        assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize(
    ("bad", "message", "hint"),
    [
        (Stdio("no-such-command-x"), 'no command "no-such-command-x"', "full path"),
        (Stdio("python -m server"), 'no command "python -m server"', "args=[…]"),
        (Stdio("ls", cwd="/no/such/folder"), 'no folder "/no/such/folder"', "cwd"),
    ],
)
async def test_a_wrong_command_says_what_to_do(bad: Stdio, message: str, hint: str) -> None:
    agent = Agent(name="a", model=ScriptedModel("x"), tools=[MCPClient({"files": bad})])
    with pytest.raises(ConfigError) as caught:
        await agent.run("go")
    assert 'MCP server "files" cannot be started' in caught.value.message
    assert message in caught.value.message and hint in caught.value.hint


async def test_a_list_without_an_end_ends(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_PAGES", 5)
    async with MCPClient({"m": server(log, "endless")}) as client:
        assert len(await client.tools()) == 5


def test_opened_in_one_loop_used_in_another_closed_in_a_third(log: Path) -> None:
    client = MCPClient({"m": server(log)})
    assert asyncio.run(client.call("m", "echo", {"text": "1"})) == "1"
    assert asyncio.run(client.call("m", "echo", {"text": "2"})) == "2"
    assert client.toolset()["m_echo"].server == "m"
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(portal.run(client.call("m", "data"))))
    thread.start()
    thread.join(10)
    assert found == [{"n": 3}]
    asyncio.run(client.close())
    assert [line for line in said(log) if not line.startswith("call")][1:] == ["end of input"]
    assert asyncio.run(client.call("m", "echo", {"text": "3"})) == "3"
    client.close_sync()


def test_many_openings_leave_no_descriptor_open(log: Path) -> None:
    client = MCPClient({"m": server(log)})
    portal.run(client.tools())
    client.close_sync()
    before = descriptors()
    for _ in range(5):
        portal.run(client.tools())
        client.close_sync()
    eventually(lambda: descriptors() <= before)


def test_a_client_that_nobody_holds_is_closed(log: Path) -> None:
    client = MCPClient({"m": server(log)})
    portal.run(client.tools())
    assert tasks()
    del client
    gc.collect()
    eventually(lambda: "end of input" in said(log))


@pytest.mark.parametrize("mode", ["fine", pytest.param("stubborn", marks=pytest.mark.slow)])
def test_no_process_outlives_ours(log: Path, mode: str) -> None:
    """Not even one that ignores the end of its input and SIGTERM."""
    code = f"""
        import sys
        from mastra_nb import MCPClient, portal
        from mastra_nb.mcp.servers import Stdio
        env = {{"MISBEHAVING_LOG": {str(log)!r}}}
        client = MCPClient({{"m": Stdio(sys.executable, [{SERVER!r}, {mode!r}], env=env)}})
        print(len(portal.run(client.tools())))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    (started,) = [line for line in said(log) if line.startswith("started")]
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.split()[1]), 0)


async def test_a_server_sees_only_the_environment_that_is_named(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-canary-canary")
    async with MCPClient({"m": server(log, env={"CITY": "Oslo"})}) as client:
        names = (await client.call("m", "env")).split()
    assert "CITY" in names and "PATH" in names and "OPENAI_API_KEY" not in names


async def test_secrets_are_not_shown(log: Path) -> None:
    key = "canary-7f3a9c-canary"
    made = server(log, env={"API_KEY": key})
    async with MCPClient({"m": made, "h": Http(f"https://u:{key}@x.test/mcp?key={key}")}) as client:
        with pytest.raises(ToolError) as caught:
            await client.call("m", "secret")
    shown = [repr(made), repr(client), str(caught.value), repr(caught.value.details)]
    assert all(key not in text for text in shown), shown
    assert key not in repr(Stdio("x", ["--token", Secret(key)]))


# --- what servers ask -------------------------------------------------------------------------


async def test_a_question_goes_to_the_callback(log: Path) -> None:
    asked: list[Elicitation] = []

    def elicit(question: Elicitation) -> dict[str, Any] | None:
        asked.append(question)
        return {"colour": "red"} if len(asked) == 1 else None

    async with MCPClient({"m": server(log)}, elicit=elicit) as client:
        answer = '{"action": "accept", "content": {"colour": "red", "size": 4}}'
        assert await client.call("m", "ask") == answer
        assert await client.call("m", "ask") == '{"action": "decline"}'
    assert (asked[0].server, asked[0].tool, asked[0].message) == ("m", "ask", "Which colour?")


async def test_a_person_may_take_longer_than_the_timeout(log: Path) -> None:
    async def elicit(question: Elicitation) -> dict[str, Any]:
        await asyncio.sleep(0.6)
        return {"colour": "blue"}

    async with MCPClient({"m": server(log, timeout=0.3)}, elicit=elicit) as client:
        assert "blue" in await client.call("m", "ask")


async def test_a_question_suspends_the_run_of_an_agent(log: Path) -> None:
    model = ScriptedModel(calls("m_ask"), "thanks")
    async with MCPClient({"m": server(log)}) as client:
        run = Agent(name="a", model=model, tools=[client]).run("go")
        with pytest.raises(RunSuspended):
            await run
        (waits,) = run.pending.values()
        assert (waits.reason, waits.payload["message"]) == ("elicitation", "Which colour?")
        with pytest.raises(MastraError):
            run.resume({"action": "accept", "content": {"colour": "green"}})
        go_on = run.resume({"action": "accept", "content": {"colour": "blue"}})
        assert await go_on == "thanks"
    (result,) = model.requests[1].messages[-1].parts
    assert '"colour": "blue"' in result.output  # type: ignore[union-attr]


async def test_a_question_that_nobody_can_answer_is_cancelled(log: Path) -> None:
    async with MCPClient({"m": server(log)}) as client:
        assert await client.call("m", "ask") == '{"action": "cancel"}'
        assert "not supported" in await client.call("m", "think")


async def test_a_model_and_roots_are_lent(log: Path, tmp_path: Path) -> None:
    asked: list[ModelRequest] = []

    async def sample(request: ModelRequest) -> str:
        asked.append(request)
        return "4"

    async with MCPClient({"m": server(log)}, sample=sample, roots=[tmp_path]) as client:
        assert '"text": "4"' in await client.call("m", "think")
        assert tmp_path.as_uri() in await client.call("m", "folders")
    assert [m.text for m in asked[0].messages] == ["Be brief.", "2 + 2?"]


# --- approval and changed descriptions ----------------------------------------------------------


async def test_an_approval_is_asked_for_once_for_each_call(log: Path) -> None:
    model = ScriptedModel(calls("m_echo", text="x"), "done")
    async with MCPClient({"m": server(log, require_approval=["ec*"])}) as client:
        run = Agent(name="a", model=model, tools=[client]).run("go")
        with pytest.raises(RunSuspended):
            await run
        assert "call echo" not in said(log)
        (waits,) = run.pending.values()
        assert waits.payload["tool"] == "m_echo" and waits.payload["args"] == {"text": "x"}
        assert await run.resume({"approved": True}) == "done"
    assert said(log).count("call echo") == 1


async def test_approval_by_the_arguments(log: Path) -> None:
    def rule(tool: str, args: dict[str, Any]) -> bool:
        return tool == "echo" and args["text"] == "danger"

    model = ScriptedModel(calls("m_echo", text="safe"), calls("m_echo", text="danger"), "no")
    async with MCPClient({"m": server(log, require_approval=rule)}) as client:
        run = Agent(name="a", model=model, tools=[client]).run("go")
        with pytest.raises(RunSuspended):
            await run
        assert said(log).count("call echo") == 1
        assert await run.resume({"approved": False, "reason": "too risky"}) == "no"
    assert said(log).count("call echo") == 1
    (result,) = model.requests[2].messages[-1].parts
    assert "too risky" in result.output  # type: ignore[union-attr]


async def test_a_changed_description_is_flagged_in_another_process_too(log: Path) -> None:
    """The digest is in the store: S12."""

    async def notes(mode: str, app: Mastra) -> list[str]:
        async with MCPClient({"m": server(log, mode)}) as client:
            model = ScriptedModel(calls("m_echo", text="x"), "done")
            run = app.add(Agent(name="a", model=model, tools=[client])).run("go")
            await run
            return [e.data.text for e in run.log.events if isinstance(e.data, Noted)]

    async with Mastra(storage="memory://") as app:
        assert await notes("fine", app) == []
        assert await notes("fine", app) == []
        (flag,) = await notes("changed", app)
        assert "m/echo" in flag and "accept" in flag


async def test_an_approval_does_not_outlive_the_description_it_was_given_for(log: Path) -> None:
    model = ScriptedModel(calls("m_echo", text="x"), "done")
    script = log.with_name("server.py")
    script.write_text(Path(SERVER).read_text("utf-8"), "utf-8")
    made = Stdio(
        sys.executable,
        [str(script)],
        env={"MISBEHAVING_LOG": str(log)},
        require_approval=True,
    )
    async with MCPClient({"m": made}) as client:
        run = Agent(name="a", model=model, tools=[client]).run("go")
        with pytest.raises(RunSuspended):
            await run
        text = script.read_text("utf-8").replace("Say it again.", "Say it to everyone.")
        script.write_text(text, "utf-8")
        await client.close()
        run = run.resume({"approved": True})
        with pytest.raises(RunSuspended):
            await run
        (waits,) = run.pending.values()
        assert waits.payload["description"] == "Say it to everyone."
        assert "call echo" not in said(log)
        assert await run.resume({"approved": True}, path=waits.path) == "done"
    assert said(log).count("call echo") == 1


async def test_a_list_of_tools_that_changed_is_read_again(log: Path) -> None:
    async with MCPClient({"m": server(log)}) as client:
        first = [t.remote for t in await client.tools()]
        await client.call("m", "grow")
        assert [t.remote for t in await client.tools()] == [*first, "more"]


async def test_a_question_during_two_calls_is_nobodys(log: Path) -> None:
    """The older protocol does not say which call it belongs to: no run is suspended for another."""
    model = ScriptedModel([calls("m_ask", id="1"), calls("m_hang", id="2")], "done")
    async with MCPClient({"m": server(log, timeout=1)}) as client:
        await client.tools()
        waiting = asyncio.create_task(_quietly(client.call("m", "hang")))
        while "call hang" not in said(log):
            await asyncio.sleep(0.02)
        run = Agent(name="a", model=model, tools=[client]).run("go")
        assert await run == "done"
        await waiting
    asked = model.requests[1].messages[-1].parts[0]
    assert '"action": "cancel"' in asked.output  # type: ignore[union-attr]


async def _quietly(what: Any) -> None:
    with pytest.raises(ToolTimeout):
        await what


async def test_filters_and_prefixes(log: Path) -> None:
    made = server(log, include=["e*", "fail"], exclude=["env"], prefix="x.")
    async with MCPClient({"m": made}) as client:
        names = [t.name for t in await client.tools()]
    assert len(names) == 2 and all(n.startswith(("x_echo_", "x_fail_")) for n in names)


async def test_messages_of_a_prompt_are_messages() -> None:
    from mastra_nb.mcp import content

    class Block:
        type = "text"
        text = "hello"

    assert content.message("assistant", [Block()]) == Message(
        role="assistant", parts=(content.part(Block()),)
    )
