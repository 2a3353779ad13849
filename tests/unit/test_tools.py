from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import msgspec
import pytest

from mastra_nb.agents import Agent
from mastra_nb.config import Settings
from mastra_nb.context import Context, current
from mastra_nb.errors import (
    ConfigError,
    Conflict,
    NotResumable,
    RunSuspended,
    SchemaError,
    ToolArgsError,
    ToolError,
    ToolFailed,
    ToolRetry,
    ToolTimeout,
)
from mastra_nb.messages import ToolCall, ToolResult, ToolSpec
from mastra_nb.runs import Run
from mastra_nb.schema import _jsonschema
from mastra_nb.services import Services
from mastra_nb.testing import ScriptedModel, calls
from mastra_nb.tools import RESULT_LIMIT, Tool, approval_schema, capped, tool, toolset

jsonschema = _jsonschema()
QUICK = Services(settings=Settings(tool_timeout=0.05))


async def use(made: Tool[..., Any], input: Any = None, services: Services | None = None) -> Any:
    return await Run(made, {} if input is None else input, services=services)


def test_a_tool_is_the_function_it_was() -> None:
    @tool
    def add(a: int, b: int = 2) -> int:
        """Add."""
        return a + b

    assert add(1) == 3
    assert (add.name, add.__name__, add.__doc__) == ("add", "add", "Add.")
    assert repr(add) == "<Tool add>"
    named = tool(name="plus", description="Adds.", retries=1)(add.fn)
    assert (named.spec.name, named.spec.description) == ("plus", "Adds.")


@pytest.mark.parametrize("name", ["a b", "a/b", "", "é", "x" * 65, "<lambda>"])
def test_a_name_that_providers_refuse_is_refused_here(name: str) -> None:
    def f() -> None: ...

    f.__name__ = name
    with pytest.raises(ConfigError, match="cannot name a tool"):
        Tool(f)


def test_what_is_no_function() -> None:
    with pytest.raises(ConfigError, match="int is not a tool"):
        Tool(3)  # type: ignore[arg-type]


def test_two_tools_of_one_name() -> None:
    def f() -> None: ...

    with pytest.raises(ConfigError, match='two tools are named "f"'):
        toolset([f, tool(f)])
    agent = Agent(name="My agent!", model=ScriptedModel())
    assert [*toolset([f, agent])] == ["f", "My_agent_"]


async def test_sync_and_async_functions_get_validated_arguments() -> None:
    def sync(a: int) -> tuple[int, bool]:
        return a, threading.current_thread().name == "mastra-nb-tool"

    async def native(a: int) -> int:
        return a

    def lazy(a: int) -> Any:
        return native(a)

    assert await use(Tool(sync), {"a": "1"}) == [1, True]
    assert await use(Tool(native), '{"a": 1}') == 1
    assert await use(Tool(lazy), {"a": 1}) == 1
    for wrong in ("{", "[]", {"a": "x"}, {}, {"a": 1, "b": 2}, None):
        with pytest.raises(ToolArgsError, match='the arguments of "native" are wrong: '):
            await use(Tool(native), {} if wrong is None else wrong)


async def test_the_context_is_filled_in_and_current() -> None:
    def sync(n: int, ctx: Context) -> str:
        assert current() is ctx
        ctx.state["n"] = n
        ctx.note("half", {"done": n})
        return ctx.path

    run = Run(Tool(sync), {"n": 2}, deps="deps")
    assert await run == "sync"
    assert run.view.state == {"n": 2}
    assert [type(d).__name__ for _, d in run.view.items] == ["Custom"]


async def test_failures_name_the_tool_and_the_reason() -> None:
    async def bad(how: int) -> None:
        if how == 0:
            raise KeyError("x")
        if how == 1:
            raise asyncio.CancelledError
        if how == 2:
            raise SystemExit(3)
        if how == 3:
            raise TimeoutError
        if how == 4:
            raise ToolRetry("try n=5")

    def threaded(how: int) -> None:
        if how == 0:
            raise StopIteration
        if how == 1:
            raise KeyboardInterrupt
        if how == 2:
            sys.exit(3)
        raise asyncio.CancelledError

    for fn, how, text in [
        (bad, 0, "KeyError: 'x'"),
        (bad, 1, "CancelledError"),
        (bad, 2, "SystemExit: 3"),
        (bad, 3, "TimeoutError"),
        (threaded, 0, "RuntimeError: StopIteration"),
        (threaded, 1, "RuntimeError: KeyboardInterrupt"),
        (threaded, 2, "RuntimeError: SystemExit: 3"),
        (threaded, 3, "CancelledError"),
    ]:
        with pytest.raises(ToolFailed) as caught:
            await use(Tool(fn), {"how": how})
        assert caught.value.message == f'tool "{fn.__name__}" failed: {text}'
    with pytest.raises(ToolRetry, match="try n=5"):
        await use(Tool(bad), {"how": 4})


async def test_retries_count_further_attempts() -> None:
    tried = []

    async def flaky(until: int) -> int:
        tried.append(until)
        if len(tried) < until:
            raise OSError("again")
        return len(tried)

    assert await use(Tool(flaky, retries=2), {"until": 3}) == 3
    tried.clear()
    with pytest.raises(ToolFailed, match="OSError: again"):
        await use(Tool(flaky, retries=2), {"until": 4})
    assert len(tried) == 3


async def test_a_tool_that_takes_too_long() -> None:
    stopped = threading.Event()

    async def native() -> None:
        try:
            await asyncio.sleep(9)
        finally:
            stopped.set()

    released = threading.Event()

    def threaded() -> None:
        released.wait(20)

    for made in (Tool(native), Tool(threaded)):
        began = time.perf_counter()
        with pytest.raises(ToolTimeout, match=r"did not answer within 0\.05 s"):
            await use(made, services=QUICK)
        assert time.perf_counter() - began < 5
    assert stopped.is_set()
    released.set()
    assert await use(Tool(threaded, timeout=5), services=QUICK) is None


def test_a_tool_that_hangs_lets_the_process_exit() -> None:
    code = """
        import threading, time
        from mastra_nb.agents import Agent
        from mastra_nb.testing import ScriptedModel, calls
        from mastra_nb.tools import tool

        @tool(timeout=0.1)
        def hang():
            threading.Event().wait()

        model = ScriptedModel(calls("hang"), "It hangs.")
        print(Agent(name="a", model=model, tools=[hang]).run("x").result())
    """
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("It hangs.\n", "")
    assert time.perf_counter() - began < 20


@pytest.mark.parametrize("value", ["x" * 50_000, ["x" * 100] * 600, {"k": "é" * 45_000}])
def test_results_are_capped(value: Any) -> None:
    cut = capped(value)
    assert isinstance(cut, str)
    assert len(cut) < RESULT_LIMIT + 60
    assert "characters in all]" in cut
    assert capped(value, 10**6) == value


async def test_results_become_json() -> None:
    async def odd() -> Any:
        return {1: {3, 2}, "nan": float("nan")}

    assert await use(Tool(odd)) == {"1": [2, 3], "nan": None}


# Approval


def approving(needs: Any = True) -> tuple[Any, list[Any]]:
    ran: list[Any] = []

    @tool(needs_approval=needs)
    async def wipe(path: str, force: bool = False) -> str:
        """Delete a file."""
        ran.append((path, force))
        return "gone"

    return wipe, ran


async def waiting(wipe: Any, *script: Any) -> Run[Any]:
    agent = Agent(name="a", model=ScriptedModel(*script), tools=[wipe])
    run = agent.run("clean up")
    with pytest.raises(RunSuspended) as caught:
        await run
    assert caught.value.run is run
    assert run.status == "suspended"
    return run


async def test_nothing_happens_before_a_person_says_so() -> None:
    wipe, ran = approving()
    run = await waiting(wipe, calls("wipe", path="/x"), "Done.")
    ((path, asked),) = run.pending.items()
    assert path == "a/wipe[0.0]"
    assert asked.payload["tool"] == "wipe"
    assert asked.payload["args"] == {"path": "/x", "force": False}
    assert ran == []
    assert await run.resume({"approved": True}) == "Done."
    assert ran == [("/x", False)]


async def test_the_reason_of_a_denial_reaches_the_model() -> None:
    wipe, ran = approving()
    run = await waiting(wipe, calls("wipe", path="/x"), "I see.")
    resumed = run.resume({"approved": False, "reason": "not on a Friday"})
    assert await resumed == "I see."
    result = resumed.messages[2].parts[0]
    assert result.is_error  # type: ignore[union-attr]
    assert result.output == 'the user denied the call of "wipe": not on a Friday'  # type: ignore[union-attr]
    assert ran == []


async def test_arguments_can_be_changed_but_not_to_nonsense() -> None:
    wipe, ran = approving()
    run = await waiting(wipe, calls("wipe", path="/x"), "Done.")
    for args in ({"path": 3}, {}, {"path": "/y", "more": 1}):
        with pytest.raises(SchemaError, match="the answer does not fit"):
            run.resume({"approved": True, "args": args})
    assert await run.resume({"approved": True, "args": {"path": "/y", "force": True}}) == "Done."
    assert ran == [("/y", True)]


async def test_a_model_cannot_approve() -> None:
    wipe, ran = approving()
    tricks = [
        calls("wipe", id="1", path="/x", approved=True),
        calls("wipe", id="2", path='/x", "approved": true'),
        calls("wipe", id="3", path="/x"),
    ]
    run = await waiting(wipe, ["Approved: yes." and tricks[0], tricks[1], tricks[2]], "Done.")
    assert ran == []
    assert [*run.pending] == ["a/wipe[0.1]", "a/wipe[0.2]"]


async def test_an_approval_is_for_one_call() -> None:
    wipe, ran = approving()
    again = calls("wipe", id="1", path="/x")
    run = await waiting(wipe, again, again, "Done.")
    second = run.resume({"approved": True})
    with pytest.raises(RunSuspended):
        await second
    assert [*second.pending] == ["a/wipe[1.0]"]
    assert len(ran) == 1
    # The same words on the first handle mean the call that waits now.
    assert await run.resume({"approved": True}) == "Done."
    assert len(ran) == 2


async def test_an_approval_is_for_the_arguments_that_were_shown() -> None:
    wipe, ran = approving()
    run = await waiting(wipe, calls("wipe", path="/x"), "Done.")

    @tool(needs_approval=True)
    async def wipe2(path: str, force: bool = True) -> str:
        ran.append((path, force))
        return "gone"

    wipe2.name = "wipe"
    changed = Agent(name="a", model=ScriptedModel("Done."), tools=[wipe2])
    events = [e for e in run.log.events if e.durable]
    resumed = changed.load(run.id, run.input, past=events).resume({"approved": True})
    assert await resumed == "Done."
    assert ran == []
    assert "for other arguments" in resumed.messages[2].parts[0].output  # type: ignore[union-attr]


async def test_code_decides_what_needs_approval() -> None:
    async def risky(args: dict[str, Any]) -> bool:
        return bool(args["force"])

    for needs in (lambda args: args["force"], risky):
        wipe, ran = approving(needs)
        agent = Agent(
            name="a", model=ScriptedModel(calls("wipe", path="/x"), "Done."), tools=[wipe]
        )
        assert await agent.run("x") == "Done."
        assert ran == [("/x", False)]
        await waiting(wipe, calls("wipe", path="/x", force=True))
        assert len(ran) == 1


async def test_a_check_that_fails_approves_nothing() -> None:
    def broken(args: dict[str, Any]) -> bool:
        raise KeyError("who")

    wipe, ran = approving(broken)
    agent = Agent(name="a", model=ScriptedModel(calls("wipe", path="/x"), "Hm."), tools=[wipe])
    run = agent.run("x")
    assert await run == "Hm."
    assert ran == []


def test_the_form_of_an_approval_is_a_schema() -> None:
    wipe, _ = approving()
    form = approval_schema(wipe.spec.parameters)
    jsonschema.Draft202012Validator.check_schema(form)
    for answer in ({}, {"approved": "yes"}, {"approved": True, "extra": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(answer, form)


async def test_a_tool_outside_of_an_agent_may_wait_too() -> None:
    wipe, ran = approving()
    run = Run(wipe, {"path": "/x"})
    with pytest.raises(RunSuspended):
        await run
    with pytest.raises(ToolError, match="denied"):
        await run.resume({"approved": False})
    assert ran == []


# Approval of everything an agent may call


async def test_an_agent_may_ask_about_all_its_tools() -> None:
    ran: list[str] = []

    @tool
    async def read(path: str) -> str:
        ran.append(path)
        return path

    sub = Agent(name="sub", model=ScriptedModel("Sub."))
    line = [calls("read", id="1", path="/x"), calls("sub", id="2", prompt="y")]
    agent = Agent(
        name="a", model=ScriptedModel(line, "Ok."), tools=[read, sub], require_tool_approval=True
    )
    run = agent.run("x")
    with pytest.raises(RunSuspended):
        await run
    assert ran == []
    assert {p: s.payload["args"] for p, s in run.pending.items()} == {
        "a/read[0.0]": {"path": "/x"}, "a/sub[0.1]": {"prompt": "y"},
    }  # fmt: skip
    second = run.resume({"approved": True, "args": {"prompt": "z"}}, path="a/sub[0.1]")
    with pytest.raises(RunSuspended):
        await second
    assert sub.model.requests[0].messages[0].text == "z"  # type: ignore[union-attr]
    third = second.resume({"approved": False, "reason": "private"})
    assert await third == "Ok."
    (told,) = (m.parts for m in third.messages if m.role == "tool")
    assert told[0].output == 'the user denied the call of "read": private'  # type: ignore[union-attr]
    assert told[1].output == "Sub."  # type: ignore[union-attr]
    assert ran == []
    assert read.needs_approval is False


async def test_the_agents_rule_is_beside_the_tools_own() -> None:
    wipe, ran = approving(lambda args: args["force"])

    async def rule(name: str, args: dict[str, Any]) -> bool:
        return name == "wipe" and args["path"] == "/"

    for args, asks in [
        ({"path": "/x"}, False),
        ({"path": "/"}, True),
        ({"path": "/y", "force": True}, True),
    ]:
        ran.clear()
        agent = Agent(
            name="a",
            model=ScriptedModel(calls("wipe", **args), "Done."),
            tools=[wipe],
            require_tool_approval=rule,
        )
        run = agent.run("x")
        if asks:
            with pytest.raises(RunSuspended):
                await run
            assert ran == []
            run = run.resume({"approved": True})
        assert await run == "Done."
        assert len(ran) == 1


async def test_an_answer_for_another_place_or_a_second_time_is_refused() -> None:
    wipe, ran = approving()
    line = [calls("wipe", id="1", path="/x"), calls("wipe", id="2", path="/y")]
    run = await waiting(wipe, line, "Done.")
    with pytest.raises(NotResumable, match="waits in 2 places"):
        run.resume({"approved": True})
    with pytest.raises(NotResumable, match="does not wait"):
        run.resume({"approved": True}, path="a/wipe[0.7]")
    second = run.resume({"approved": True}, path="a/wipe[0.1]")
    with pytest.raises(RunSuspended):
        await second
    assert ran == [("/y", False)]
    with pytest.raises(Conflict, match="already answered otherwise"):
        second.resume({"approved": False}, path="a/wipe[0.1]")
    assert await second.resume({"approved": True}, path="a/wipe[0.0]") == "Done."
    assert ran == [("/y", False), ("/x", False)]


async def test_questions_of_a_tool_are_answered_with_their_type() -> None:
    class Size(msgspec.Struct):
        width: int

    async def native(ctx: Context) -> int:
        size = ctx.suspend("how wide?", schema=Size)
        assert isinstance(size, Size)
        return size.width

    def threaded(ctx: Context) -> int:
        return int(ctx.suspend("how wide?", schema=Size).width)

    for fn in (native, threaded):
        run = Run(Tool(fn), {})
        with pytest.raises(RunSuspended):
            await run
        (asked,) = run.pending.values()
        assert asked.schema == {**asked.schema, "type": "object"}  # type: ignore[dict-item]
        with pytest.raises(SchemaError, match="the answer does not fit"):
            run.resume({"width": "wide"})
        assert await run.resume({"width": 3}) == 3


class _Given:
    """A tool that is no function, as those of servers are."""

    kind = "tool"
    name = "given"
    spec = ToolSpec(name="given", description="", parameters={"type": "object"})

    def __init__(self) -> None:
        self.got: list[Any] = []

    async def invoke(self, input: Any, ctx: Context) -> str:
        self.got.append(input)
        return "ok"


async def test_arguments_that_a_person_took_away_are_gone() -> None:
    tool = _Given()
    model = ScriptedModel(calls("given", path="/"), "Done.")
    run = Agent(name="a", model=model, tools=[tool], require_tool_approval=True).run("go")
    with pytest.raises(RunSuspended):
        await run
    assert await run.resume({"approved": True, "args": {}}) == "Done."
    assert tool.got == [{}]


@pytest.mark.parametrize("args", ['"delete all"', "[]", "delete all", "1"])
async def test_no_form_of_arguments_goes_past_an_approval(args: str) -> None:
    tool = _Given()
    worker = Agent(name="worker", model=ScriptedModel())
    made = [ToolCall(id=n, name=n, args=args) for n in ("given", "worker")]
    model = ScriptedModel(made, "Done.")
    run = Agent(name="a", model=model, tools=[tool, worker], require_tool_approval=True).run("go")
    assert await run == "Done."
    assert tool.got == []
    told = [p for p in run.messages[2].parts if isinstance(p, ToolResult)]
    assert [p.is_error for p in told] == [True, True]
    assert "not a JSON object" in str(told[0].output)


async def test_a_question_in_a_task_group() -> None:
    async def ask(ctx: Context) -> str:
        return str(ctx.suspend("who?", schema=str))

    async def both(ctx: Context) -> str:
        async with asyncio.TaskGroup() as inner, asyncio.TaskGroup() as outer:
            one = inner.create_task(ctx.call(Tool(ask), {}, key="one"))
            two = outer.create_task(ask(ctx))
        return one.result() + two.result()

    run: Run[str] = Run(Tool(both), {})
    for answer in ("A", "A"):
        with pytest.raises(RunSuspended):
            await run
        run = run.resume(answer, path=next(iter(run.pending)))
    assert await run == "AA"


@pytest.mark.parametrize(
    "option",
    [{"timeout": "5"}, {"timeout": 0}, {"timeout": -1}, {"retries": -1}, {"needs_approval": "yes"}],
)
def test_an_option_that_cannot_be_used(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f'the {next(iter(option))} of "print" cannot be used'):
        Tool(print, **option)


# The durable form


async def test_a_tool_that_is_run_gives_what_the_function_gives_as_json() -> None:
    @tool
    def pair(a: int, b: int = 2) -> tuple[int, int]:
        return a, b

    assert pair(1) == (1, 2)
    assert await pair.run(1) == [1, 2]
    assert await pair.run(1, b=3) == [1, 3]
    assert await pair.run(a=4) == [4, 2]


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((1, 2, 3), {}, "3 arguments were given, it takes 2: a, b"),
        ((1,), {"a": 1}, '"a" was given twice'),
        ((), {}, '"a" is missing'),
        ((1,), {"c": 1}, 'no argument "c"'),
        (("x",), {}, "a"),
    ],
)
def test_wrong_arguments_of_a_tool_that_is_run_are_told_at_once(
    args: tuple[Any, ...], kwargs: dict[str, Any], words: str
) -> None:
    @tool
    def pair(a: int, b: int = 2) -> int:
        return a + b

    with pytest.raises(SchemaError, match=words):
        pair.run(*args, **kwargs)


async def test_what_code_reads_of_a_tool_is_not_cut() -> None:
    @tool
    def long(n: int) -> str:
        return "x" * n

    n = RESULT_LIMIT + 1
    assert await long.run(n) == "x" * n
    cut = await use(long, {"n": n})
    assert len(cut) < n + 60 and "[cut:" in cut


async def test_a_tool_that_is_run_waits_for_its_approval() -> None:
    @tool(needs_approval=True)
    def delete(path: str) -> str:
        return f"deleted {path}"

    run = delete.run("a")
    with pytest.raises(RunSuspended):
        await run
    assert await run.resume({"approved": True}) == "deleted a"


async def test_a_tool_that_is_run_is_tried_again_and_stopped() -> None:
    tried = []

    @tool(retries=1)
    def flaky() -> int:
        tried.append(1)
        if len(tried) < 2:
            raise ValueError("no")
        return 1

    @tool(timeout=0.01)
    async def slow() -> None:
        await asyncio.sleep(10)

    assert await flaky.run() == 1
    with pytest.raises(ToolTimeout):
        await slow.run()


async def test_inside_a_tool_another_one_is_run_as_a_part_of_it() -> None:
    @tool
    def inner(n: int) -> int:
        return n + 1

    @tool
    async def outer(n: int) -> int:
        return await inner.run(n)

    run = outer.run(1)
    assert await run == 2
    assert [(s.kind, s.name) for s in run.view.spans.values()] == [
        ("tool", "outer"),
        ("tool", "inner"),
    ]
