"""A call that waits for approval: the button, the keyboard, later, nobody."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.notebook.conftest import SCRIPTED, FrontEnd, Kernel, Output, Start

AGENT = (
    SCRIPTED
    + '''
sent = []

@tool(needs_approval=True)
def send(to: str, text: str = "hi") -> str:
    """Send a text."""
    sent.append((to, text))
    return f"sent {text} to {to}"

def agent(*script):
    return Agent(name="a", model=ScriptedModel(*script), tools=[send])

a = agent(calls("send", to="bob"), "done")
'''
)
PATH = "a/send[0.0]"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    kernel = Kernel(tmp_path_factory.mktemp("people"), {})
    kernel.ok("%load_ext mastra_nb")
    yield kernel
    kernel.close()


@pytest.fixture
def front(kernel: Kernel) -> Iterator[FrontEnd]:
    kernel.ok(AGENT)
    front = FrontEnd(kernel)
    yield front
    front.close()


def on_waiting(front: FrontEnd, *clicks: tuple[str, dict[str, Any]], after: float = 0.0) -> None:
    """Does these one after the other, whenever a run waits: at once, before it is drawn, or later
    as a reader does.
    """
    left = list(clicks)

    def react(told: dict[str, Any]) -> None:
        if told["status"] == "suspended" and left:
            time.sleep(after)
            name, args = left.pop(0)
            front.say(name, run=told["run"], **args)

    front.react = react


def typed(kernel: Kernel, code: str, replies: Sequence[str]) -> tuple[Output, list[str]]:
    """Runs a cell and types the replies; (what it sent, what was asked)."""
    asked: list[str] = []
    id = kernel.start(code, stdin=True)

    for reply in replies:
        asked.append(kernel.client.get_stdin_msg(timeout=10)["content"]["prompt"])
        kernel.client.input(reply)
    return kernel.finish(id), asked


def value(kernel: Kernel, code: str) -> str:
    return kernel.ok(code).result


# A button


@pytest.mark.parametrize("after", [0.0, 0.3])
def test_a_click_lets_the_running_cell_go_on(front: FrontEnd, after: float) -> None:
    yes = {"path": PATH, "answer": {"approved": True}}
    on_waiting(front, ("answer", yes), after=after)
    out = front.run("answer = %ask a write to bob")
    assert not out.error
    assert len(out.displays) == 1
    assert value(front.kernel, "answer, sent") == "('done', [('bob', 'hi')])"
    assert [told["status"] for told in front.told][-1] == "done"
    for waits in [r for r in front.drawn if r["status"] == "suspended"]:
        assert waits["pending"][0]["tool"] == "send"
        assert waits["run"] == front.told[0]["run"]


def test_the_record_has_its_id_only_while_somebody_needs_it(front: FrontEnd) -> None:
    on_waiting(front, ("answer", {"path": PATH, "answer": {"approved": True}}))
    front.run("%ask a write to bob")
    assert "run" not in front.drawn[-1]
    assert all("run" in r for r in front.drawn if r["status"] in ("running", "suspended"))


def test_while_it_waits_the_output_says_what_is_asked(front: FrontEnd) -> None:
    shown: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        front.hear(message)
        if "display" in message["msg_type"]:
            shown.append(message["content"]["data"]["text/markdown"])

    yes = {"path": PATH, "answer": {"approved": True}}
    on_waiting(front, ("answer", yes), after=0.3)
    front.kernel.finish(front.kernel.start("%ask a write", stdin=True), hear=hear)
    assert any("waits for approval" in text for text in shown)
    assert "waits for approval" not in shown[-1]


def test_arguments_are_edited_before_they_are_approved(front: FrontEnd) -> None:
    answer = {"approved": True, "args": {"to": "eve", "text": "hello"}}
    on_waiting(front, ("answer", {"path": PATH, "answer": answer}))
    assert not front.run("%ask a write to bob").error
    assert value(front.kernel, "sent") == "[('eve', 'hello')]"
    assert front.drawn[-1]["items"][0]["args"] == {"to": "eve", "text": "hello"}


def test_what_does_not_fit_is_refused_and_the_cell_waits_on(front: FrontEnd) -> None:
    wrong = {"approved": True, "args": {"to": 5}}

    def react(told: dict[str, Any]) -> None:
        if told["status"] == "suspended":
            front.say("answer", run=told["run"], path=PATH, answer=wrong)
            front.say("answer", run=told["run"], path=PATH, answer={"approved": True})

    front.react = react
    assert not front.run("%ask a write").error
    assert front.answers[0]["error"]["code"] == "schema"
    assert "does not fit" in front.answers[0]["error"]["message"]
    assert "ok" in front.answers[1]
    assert value(front.kernel, "sent") == "[('bob', 'hi')]"


def test_a_denial_tells_the_model_why(front: FrontEnd) -> None:
    front.kernel.ok("seen = []; b = a.replace(model=ScriptedModel(calls('send', to='x'), "
                    "lambda r: seen.append(r.messages[-1].parts[0].output) or 'ok'))")  # fmt: skip
    on_waiting(
        front, ("answer", {"path": PATH, "answer": {"approved": False, "reason": "not today"}})
    )
    assert not front.run("%ask b write").error
    assert "not today" in value(front.kernel, "str(seen), sent")
    assert value(front.kernel, "sent") == "[]"


def test_two_calls_are_answered_at_once(front: FrontEnd) -> None:
    front.kernel.ok("a = agent([calls('send', 'c1', to='x'), calls('send', 'c2', to='y')], 'both')")

    def react(told: dict[str, Any]) -> None:
        if told["status"] == "suspended" and len(front.told) < 4:
            front.react = bool
            for i in (1, 0):
                path = f"a/send[0.{i}]"
                front.say("answer", run=told["run"], path=path, answer={"approved": True})

    front.react = react
    assert not front.run("%ask a write").error
    assert value(front.kernel, "sorted(sent)") == "[('x', 'hi'), ('y', 'hi')]"


def test_later_leaves_it_suspended_and_an_answer_goes_on_in_its_output(front: FrontEnd) -> None:
    on_waiting(front, ("later", {}), after=0.3)
    out = front.run("%ask a -o answer write")
    assert out.ename == "RunSuspended"
    assert "%resume" in out.error
    (shown,) = out.displays
    run = front.told[0]["run"]
    front.react = bool
    front.drawn.clear()
    answer = {"approved": True, "args": {"to": "sue"}}
    said = front.ask("answer", run=run, path=PATH, answer=answer)
    assert said["ok"] == {"run": run, "status": "running"}
    front.listen(lambda: front.drawn and front.drawn[-1]["status"] == "done")
    assert front.drawn_in == {shown}
    assert value(front.kernel, "answer, sent") == "('done', [('sue', 'hi')])"


def test_a_click_works_while_a_blocking_cell_runs(kernel: Kernel, front: FrontEnd) -> None:
    """Without a subshell the kernel cannot hear it: the keyboard is asked."""
    front.close()
    out, asked = typed(kernel, "%time x = %ask a write", ["y"])
    assert not out.error
    assert asked and value(kernel, "sent") == "[('bob', 'hi')]"


def test_this_run_is_stopped_without_an_interrupt(front: FrontEnd) -> None:
    front.kernel.ok(
        "a = agent('word ' * 4000).replace(model=ScriptedModel('word ' * 4000, delay=0.02))"
    )

    def react(told: dict[str, Any]) -> None:
        if told["status"] == "running":
            time.sleep(0.3)
            front.say("stop", run=told["run"])

    front.react = react
    started = time.monotonic()
    out = front.run("%ask a tell me")
    assert time.monotonic() - started < 20
    assert out.ename == "Stopped"
    assert out.head.startswith("■ stopped")
    assert front.drawn[-1]["status"] == "cancelled"
    assert not front.kernel.run("1 + 1").error


def test_a_run_in_the_background_is_stopped(front: FrontEnd) -> None:
    front.kernel.ok("slow = ScriptedModel('word ' * 400, delay=0.02)")
    front.kernel.ok("a = Agent(name='a', model=slow)")
    assert not front.run("%%ask a --bg -o job\ntell me").error
    run = front.listen(lambda: front.told)[0]["run"]
    assert front.ask("stop", run=run)["ok"]["status"] == "cancelled"
    front.listen(lambda: front.told[-1]["status"] == "cancelled")
    assert "Stopped" in front.kernel.run("await job").ename


def test_a_run_that_waits_is_stopped(front: FrontEnd) -> None:
    on_waiting(front, ("stop", {}), after=0.3)
    out = front.run("%ask a write")
    assert out.ename == "Stopped"
    assert value(front.kernel, "sent") == "[]"
    run = front.told[0]["run"]
    said = front.ask("answer", run=run, path=PATH, answer={"approved": True})
    assert said["error"]["code"] == "run.not_resumable"


@pytest.mark.parametrize(
    ("name", "args", "code"),
    [
        ("answer", {"run": "r_nothing", "answer": True}, "not_found"),
        ("answer", {}, "usage"),
        ("later", {"run": "r_nothing"}, "not_found"),
        ("stop", {"run": "r_nothing"}, "not_found"),
        ("<script>", {"run": "x"}, "usage"),
    ],
)
def test_what_is_wrong_is_said(front: FrontEnd, name: str, args: Any, code: str) -> None:
    error = front.ask(name, **args)["error"]
    assert error["code"].startswith(code)
    assert error["message"]


@pytest.mark.parametrize(
    "data", [None, [], "x", 5, {"id": 1}, {"ask": 5}, {"ask": "stop", "args": 3}]
)
def test_a_message_of_another_shape_is_answered_too(front: FrontEnd, data: Any) -> None:
    front._send("comm_msg", {"comm_id": front.id, "data": data})
    (answer,) = front.listen(lambda: front.answers)
    assert answer["error"]["message"]


def test_the_kernel_says_that_we_are_here(kernel: Kernel) -> None:
    client = kernel.client
    client.shell_channel.send(client.session.msg("comm_info_request", {"target_name": "mastra_nb"}))
    assert client.get_shell_msg(timeout=10)["content"]["comms"]


# The keyboard


@pytest.fixture(scope="module")
def hurried(kernel: Kernel) -> Kernel:
    """Nobody waits long for a front end that is not there."""
    kernel.ok("import mastra_nb.notebook._people as p; p.FRONT_END_SECONDS = 0.1")
    return kernel


@pytest.mark.parametrize(
    ("replies", "sent"),
    [
        (["y"], "[('bob', 'hi')]"),
        (["what?", "yes"], "[('bob', 'hi')]"),
        (["n too late"], "[]"),
        (["e", '{"to": "eve"}'], "[('eve', 'hi')]"),
        (["e", "no json", "y"], "[('bob', 'hi')]"),
        (['e {"to": 5}', 'e {"to": "sue", "text": "x"}'], "[('sue', 'x')]"),
    ],
)
def test_without_a_front_end_the_keyboard_is_asked(
    hurried: Kernel, replies: list[str], sent: str
) -> None:
    hurried.ok(AGENT)
    out, asked = typed(hurried, "%ask a write", replies)
    assert not out.error
    assert len(asked) == len(replies)
    assert asked[0].startswith('approve send {"to":"bob","text":"hi"}?')
    assert value(hurried, "sent") == sent


def test_later_on_the_keyboard(hurried: Kernel) -> None:
    hurried.ok(AGENT)
    out, _ = typed(hurried, "%ask a write", ["l"])
    assert out.ename == "RunSuspended"
    assert not hurried.run("%resume approve").error
    assert value(hurried, "sent") == "[('bob', 'hi')]"


def test_an_interrupt_of_a_cell_that_waits_leaves_the_run_waiting(
    kernel: Kernel, front: FrontEnd
) -> None:
    def react(told: dict[str, Any]) -> None:
        if told["status"] == "suspended":
            time.sleep(0.2)
            kernel.manager.interrupt_kernel()

    front.react = react
    out = front.run("%ask a write")
    assert out.ename == "RunSuspended"
    assert not kernel.run("%resume approve").error
    assert value(kernel, "sent") == "[('bob', 'hi')]"


def test_an_interrupt_at_the_keyboard_leaves_the_run_waiting(hurried: Kernel) -> None:
    hurried.ok(AGENT)
    id = hurried.start("%ask a write", stdin=True)
    hurried.client.get_stdin_msg(timeout=20)
    hurried.manager.interrupt_kernel()
    assert hurried.finish(id).ename == "RunSuspended"
    assert not hurried.run("1 + 1").error


# Nobody


def test_where_nobody_can_be_asked_the_run_is_left_suspended(kernel: Kernel) -> None:
    kernel.ok(AGENT)
    started = time.monotonic()
    out = kernel.run("%ask a write")
    assert out.ename == "RunSuspended"
    assert time.monotonic() - started < 10
    assert value(kernel, "sent") == "[]"


def test_a_workflow_whose_tool_waits_is_answered_in_its_cell(front: FrontEnd) -> None:
    front.kernel.ok("%%workflow letters(to)\nreturn await send.run(to=to)")
    on_waiting(front, ("answer", {"path": None, "answer": {"approved": True}}))
    out = front.run("got = await letters('ann')\ngot")
    assert not out.error, out.error
    assert out.result == "'sent hi to ann'"


def test_a_question_of_a_workflow_ends_its_cell_and_its_form_is_answered(front: FrontEnd) -> None:
    front.kernel.ok("from mastra_nb.workflows import suspend\nimport mastra_nb")
    front.kernel.ok(
        "%%workflow review(topic)\nreturn await suspend({'topic': topic}, schema=int) + 1"
    )
    out = front.run("await review('x')")
    assert out.ename == "RunSuspended"
    run = front.told[0]["run"]
    assert front.ask("answer", run=run, path=None, answer="no number")["error"]
    assert front.ask("answer", run=run, path=None, answer=4)["ok"]["status"] == "running"
    front.listen(lambda: front.drawn[-1]["status"] == "done")
    assert front.drawn[-1]["output"] == 5


def test_a_fresh_kernel_answers_what_an_older_one_left(start: Start, tmp_path: Path) -> None:
    first = start()
    first.ok("%load_ext mastra_nb")
    first.ok(AGENT)
    assert first.run("%ask a write").ename == "RunSuspended"
    first.restart()
    first.ok("%load_ext mastra_nb")
    front = FrontEnd(first)
    run = value(first, "get_ipython().mastra.host.services.store and "
                "[r.id for r in __import__('mastra_nb').portal.run("
                "get_ipython().mastra.host.store.find_runs())][0]").strip("'")  # fmt: skip
    said = front.ask("answer", run=run, path=PATH, answer={"approved": True})
    assert said["error"]["hint"]
    first.ok(AGENT + "a = agent('done')")
    assert "ok" in front.ask("answer", run=run, path=PATH, answer={"approved": True})
    front.listen(lambda: front.told and front.told[-1]["status"] == "done")
    assert value(first, "sent") == "[('bob', 'hi')]"


def test_unloading_closes_the_line(start: Start) -> None:
    kernel = start()
    kernel.ok("%load_ext mastra_nb")
    FrontEnd(kernel)
    closed: list[str] = []
    kernel.finish(
        kernel.start("%unload_ext mastra_nb"), hear=lambda m: closed.append(m["msg_type"])
    )
    assert "comm_close" in closed
