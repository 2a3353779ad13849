"""Every error text of docs/troubleshooting.md is provoked and compared: the page cannot go stale.

A section's label, `(no-key)=`, names the function here that provokes its first ```text block;
"…" in the block stands for what differs from machine to machine.
"""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mastra_nb import (
    Agent,
    Context,
    Limits,
    Mastra,
    MCPClient,
    RunSuspended,
    Workflow,
    open_store,
    plugins,
    step,
    suspend,
    tool,
    workflow,
)
from mastra_nb.errors import MastraError
from mastra_nb.guardrails import PIIDetector
from mastra_nb.http.client import Retry, Timeouts
from mastra_nb.messages import Usage, assistant
from mastra_nb.models import Reply
from mastra_nb.notebook._options import parse_cell
from mastra_nb.notebook._specs import ASK
from mastra_nb.providers.openai import OpenAIModel
from mastra_nb.services import Services, set_ambient
from mastra_nb.testing import ScriptedModel, calls
from tests.http.server import Answer, Script, chunk, refused, serve, sse

PAGE = (Path(__file__).parents[1] / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
SECTIONS = dict(
    re.findall(
        r"^\(([a-z-]+)\)=\n###? [^\n]+\n+```text\n(.*?)\n```", PAGE, re.MULTILINE | re.DOTALL
    )
)
Provoke = Callable[[Path], Awaitable[Any]]
_provokers: dict[str, Provoke] = {}


def provokes(fn: Provoke) -> Provoke:
    _provokers[fn.__name__.replace("_", "-")] = fn
    return fn


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "MASTRA_NB_MODEL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    set_ambient(Services())
    yield
    plugins.providers._registered.pop("mine", None)
    set_ambient(None)


@pytest.mark.parametrize("name", SECTIONS)
async def test_the_page_shows_what_is_really_said(name: str, tmp_path: Path) -> None:
    with pytest.raises(MastraError) as caught:
        await _provokers[name](tmp_path)
    said = str(caught.value)
    pattern = ".+?".join(map(re.escape, SECTIONS[name].split("…")))
    assert re.fullmatch(pattern, said, re.DOTALL), said


def test_every_provoked_error_is_on_the_page() -> None:
    assert set(SECTIONS) == set(_provokers)
    assert len(PAGE.split("```text")) - 1 == len(SECTIONS)


# --- before anything is sent -------------------------------------------------------------------


@provokes
async def no_key(_: Path) -> None:
    await Agent(name="a", model="openai/gpt-4o-mini").run("Hello")


@provokes
async def no_model(_: Path) -> None:
    await Agent(name="a").run("Hello")


@provokes
async def no_provider(_: Path) -> None:
    await Agent(name="a", model="gpt-4o-mini").run("Hello")


@provokes
async def unknown_provider(_: Path) -> None:
    await Agent(name="a", model="opnai/gpt-4o-mini").run("Hello")


@provokes
async def missing_extra(tmp_path: Path) -> None:
    (tmp_path / "my_plugin.py").write_text("import xllamacpp_is_not_here\n")
    sys.path.insert(0, str(tmp_path))
    try:
        plugins.providers.register("mine", "my_plugin:provider[local]")
        await Agent(name="a", model="mine/x").run("Hello")
    finally:
        sys.path.remove(str(tmp_path))


@provokes
async def unknown_option(_: Path) -> None:
    parse_cell(ASK, "--thred poems", words=1)


# --- the service -------------------------------------------------------------------------------


async def _ask(script: Script, **options: Any) -> None:
    async def at_once(seconds: float) -> None: ...

    async with serve(script) as server:
        os.environ["OPENAI_BASE_URL"] = options.pop("base_url", server.url)
        os.environ["OPENAI_API_KEY"] = "sk-wrong"
        model = OpenAIModel("gpt-x", retry=Retry(sleep=at_once), **options)
        await Agent(name="a", model=model).run("Hello")


@provokes
async def wrong_key(_: Path) -> None:
    await _ask([refused(401, "Incorrect API key provided")])


@provokes
async def wrong_model(_: Path) -> None:
    await _ask([refused(404, "The model `gpt-x` does not exist")])


@provokes
async def unreachable(_: Path) -> None:
    await _ask([], base_url="http://127.0.0.1:9/v1")


@provokes
async def rate_limited(_: Path) -> None:
    await _ask([refused(429, "Rate limit reached")])


@provokes
async def no_credit(_: Path) -> None:
    body = (
        b'{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}'
    )
    await _ask([Answer(429, {"content-type": "application/json"}, [body])])


@provokes
async def service_down(_: Path) -> None:
    await _ask([refused(503, "The engine is overloaded")])


@provokes
async def context_length(_: Path) -> None:
    await _ask([refused(400, "This model's maximum context length is 8192 tokens")])


@provokes
async def web_page(_: Path) -> None:
    await _ask([Answer(200, {"content-type": "text/html"}, [b"<html>Welcome</html>"])])


_STREAM = {"content-type": "text/event-stream"}


@provokes
async def broken_off(_: Path) -> None:
    pieces = sse(chunk("Once upon"), done=False)
    await _ask([Answer(headers=_STREAM, pieces=pieces, end="cut")])


@provokes
async def stalled(_: Path) -> None:
    pieces = sse(chunk("Once upon"), done=False)
    answer = Answer(headers=_STREAM, pieces=pieces, end="stall")
    await _ask([answer], timeouts=Timeouts(idle=0.2))


# --- the model ---------------------------------------------------------------------------------


@dataclass
class City:
    name: str
    people: int


@provokes
async def wrong_output(_: Path) -> None:
    model = ScriptedModel("Oslo is nice.", repeat=True, name="local/small")
    await Agent(name="a", model=model, output=City).run("The capital of Norway?")


@provokes
async def wrong_calls(_: Path) -> None:
    model = ScriptedModel(calls("get_wether", city="Oslo"), repeat=True, name="local/small")
    await Agent(name="a", model=model, tools=[get_weather]).run("Oslo?")


# --- the run -----------------------------------------------------------------------------------


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return "fine"


@tool(needs_approval=True)
def pay(amount: float) -> str:
    """Pay somebody."""
    return "paid"


@provokes
async def too_many_steps(_: Path) -> None:
    model = ScriptedModel(calls("get_weather", city="Oslo"), repeat=True)
    await Agent(name="a", model=model, tools=[get_weather], max_steps=5).run("Oslo?")


@provokes
async def over_budget(_: Path) -> None:
    model = ScriptedModel(calls("get_weather", city="Oslo"), repeat=True)
    agent = Agent(name="a", model=model, tools=[get_weather], limits=Limits(requests=2))
    await agent.run("Oslo?")


@provokes
async def unknown_price(_: Path) -> None:
    line = Reply(
        message=assistant(calls("get_weather", city="Oslo")), usage=Usage(input=9, calls=1)
    )
    model = ScriptedModel(line, "x", name="vendor/new")
    await Agent(name="a", model=model, tools=[get_weather], limits=Limits(cost=0.1)).run("Oslo?")


@provokes
async def blocked(_: Path) -> None:
    model = ScriptedModel("Her card is 4111 1111 1111 1111.")
    await Agent(name="a", model=model, processors=[PIIDetector(strategy="block")]).run("Card?")


@provokes
async def waits_for_you(_: Path) -> None:
    model = ScriptedModel(calls("pay", amount=5.0), "Paid.")
    await Agent(name="a", model=model, tools=[pay]).run("Pay 5")


@provokes
async def held_elsewhere(tmp_path: Path) -> None:
    apps = [Mastra(storage=f"sqlite:///{tmp_path}/mastra.db") for _ in range(2)]
    model = ScriptedModel("one, two, three", delay=0.5, piece=1)
    agents = [app.add(Agent(name="a", model=model)) for app in apps]
    run = agents[0].run("Count.")
    events = aiter(run)
    try:
        await anext(events)
        await anext(events)
        await (await apps[1].get_run(run.id)).resume()
    finally:
        run.cancel()
        for app in apps:
            await app.close()


@provokes
async def no_mcp_command(_: Path) -> None:
    client = MCPClient({"files": {"command": "npxx", "args": ["server-filesystem", "."]}})
    await Agent(name="a", model=ScriptedModel("Hi"), tools=[client]).run("Hello")


# --- workflows ---------------------------------------------------------------------------------


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


HURRY = 2.0


@step
def approve(amount: float, ctx: Context) -> bool:
    seconds = 0.001 if amount == HURRY else None
    answer: bool = ctx.suspend({"pay": amount}, schema=bool, timeout=seconds)
    return answer


@provokes
async def step_does_not_fit(_: Path) -> None:
    Workflow(name="report", input=str).then(mean)


@provokes
async def step_twice(_: Path) -> None:
    Workflow(name="report").then(mean).map(lambda m: [m]).then(mean)


@provokes
async def cannot_be_kept(_: Path) -> None:
    def fetch(url: str) -> Any:
        return re.compile(url)

    await Workflow(name="report").then(fetch).run("a+")


@provokes
async def step_too_slow(_: Path) -> None:
    async def fetch(url: str) -> None:
        await asyncio.sleep(5)

    await Workflow(name="report").then(step(fetch, timeout=0.01)).run("https://example.org")


async def _suspended(wf: Workflow[Any], input: float = 1) -> Any:
    run = wf.run(input)
    with pytest.raises(RunSuspended):
        await run
    return run


@provokes
async def wrong_answer(_: Path) -> None:
    (await _suspended(Workflow(name="pay").then(approve))).resume("yes")


@provokes
async def nobody_answered(_: Path) -> None:
    run = await _suspended(Workflow(name="pay").then(approve), HURRY)
    await asyncio.sleep(0.01)
    await run.expire()


@provokes
async def no_such_event(_: Path) -> None:
    run = await _suspended(Workflow(name="ship").wait_for_event("paid"))
    run.send_event("payed", 9.5)


@provokes
async def not_awaited(_: Path) -> None:
    @workflow
    async def report(values: list[float]) -> None:
        step(mean)(values)

    await report.run([1.0])


@provokes
async def body_changed(_: Path) -> None:
    turn = [1.0, 2.0]

    @workflow
    async def report() -> Any:
        await step(mean)([turn.pop()])
        return await suspend("Well?")

    run = report.run()
    with pytest.raises(RunSuspended):
        await run
    await run.resume("fine")


# --- the store ---------------------------------------------------------------------------------


@provokes
async def not_a_store(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_bytes(b"these are my notes, and not a database at all" * 20)
    await open_store(f"sqlite:///{tmp_path}/notes.db").find_threads()


@provokes
async def newer_store(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/mastra.db")
    await store.find_threads()
    await store.close()
    with sqlite3.connect(tmp_path / "mastra.db") as db:
        db.execute("PRAGMA user_version = 9999")
    db.close()
    await open_store(f"sqlite:///{tmp_path}/mastra.db").find_threads()


async def _handbook() -> Mastra:
    app = Mastra(storage="memory://")
    await app.vectors.create_index("handbook", dimension=64, embedder="fake/words")
    return app


@provokes
async def other_embedder(_: Path) -> None:
    await (await _handbook()).vectors.query("handbook", [0.1, 0.2, 0.3])


@provokes
async def no_index(_: Path) -> None:
    await (await _handbook()).vectors.query("handbok", [0.1] * 64)


@provokes
async def no_thread(_: Path) -> None:
    friend = Agent(name="friend", model=ScriptedModel("Hi", repeat=True), memory=True)
    Mastra(agents=[friend], storage="memory://")
    await friend.run("I am Ada.", thread="trip", resource="ada")
    await friend.run("Who am I?", thread="trip", resource="bob")
