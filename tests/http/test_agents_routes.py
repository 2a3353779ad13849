"""Agents over REST: what is said in which order, to whom, and what happens when they leave."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mastra_nb import Agent, Mastra, tool
from mastra_nb.messages import ToolCall
from mastra_nb.testing import ScriptedModel, calls
from tests.http.asking import Asking, joined, parsed, text, types

WORDS = "one two three four five six seven eight"
PAID: list[int] = []


@tool(needs_approval=True)
def pay(amount: int) -> dict[str, int]:
    """Pay."""
    PAID.append(amount)
    return {"paid": amount}


@tool
def weather(city: str) -> str:
    """The weather."""
    return f"{city}: 21"


def said(request: Any) -> str:
    return f"{len(request.messages)} messages"


def agents(store: str) -> Mastra:
    two = (calls("pay", id="a", amount=1), calls("pay", id="b", amount=2))
    mine = (calls("clock", id="c1"), calls("place", id="c2"))

    def model(*lines: Any, delay: float = 0.0) -> ScriptedModel:
        return ScriptedModel(*lines, piece=5, delay=delay, repeat=True)

    return Mastra(
        agents=[
            Agent(name="plain", model=model(WORDS)),
            Agent(name="slow", model=model(WORDS, delay=0.02)),
            Agent(
                name="weather",
                model=model(calls("weather", id="w", city="Oslo"), "It is 21."),
                tools=[weather],
            ),
            Agent(name="payer", model=model(calls("pay", id="p", amount=3), "Paid."), tools=[pay]),
            Agent(name="payer-of-two", model=model(two, "Paid both."), tools=[pay]),
            Agent(name="client", model=model(mine, "Both told.")),
            Agent(name="counts", model=model(said), memory=True),
            Agent(name="wrong", model=model(TypeError("of somebody's own code"))),
        ],
        storage=store,
    )


@pytest.fixture(autouse=True)
def nothing_is_paid() -> None:
    PAID.clear()


@pytest.fixture
def asking() -> Asking:
    return Asking(agents("memory://"))


async def rested(asking: Asking, id: str) -> None:
    store = asking.app.store
    assert store is not None
    async with asyncio.timeout(10):
        while True:
            row = await store.get_run(id)
            if row is not None and row.status not in ("new", "running"):
                return
            await asyncio.sleep(0.01)


async def test_the_order_of_a_turn_with_a_tool(asking: Asking) -> None:
    chunks = await asking.chunks("/agents/weather/stream", {"messages": "Hi"})
    assert types(joined(chunks)) == [
        "start",
        "step-start",
        "tool-call-input-streaming-start",
        "tool-call-delta",
        "tool-call-input-streaming-end",
        "tool-call",
        "tool-result",
        "step-finish",
        "step-start",
        "text-start",
        "text-delta",
        "text-end",
        "step-finish",
        "finish",
    ]


async def test_frames_are_data_alone_and_the_last_is_done(asking: Asking) -> None:
    answer = await asking.http.post("/api/agents/plain/stream", json={"messages": "Hi"})
    frames = answer.content.split(b"\n\n")
    assert frames[-1] == b""
    assert frames[-2] == b"data: [DONE]"
    assert all(f.startswith(b'data: {"type":') and b"\n" not in f for f in frames[:-2])
    assert b"\r" not in answer.content
    assert answer.headers["content-type"].startswith("text/event-stream")


async def test_who_leaves_finds_the_rest_and_all_of_it(asking: Asking) -> None:
    body = {"messages": "Hi", "runId": "left"}
    seen = await asking.leaving("/agents/slow/stream", body, lambda c: len(text(c)) > 12)
    assert 0 < len(text(seen)) < len(WORDS)
    on = {"runId": "left", "offset": len(seen)}
    rest = await asking.chunks("/agents/slow/observe", on)  # while it is on its way
    assert text(seen) + text(rest) == WORDS
    everything = await asking.chunks("/agents/slow/observe", {"runId": "left"})
    assert [*seen, *rest] == everything
    assert await asking.chunks("/agents/slow/observe", on) == rest  # and when it is over


async def test_who_comes_back_to_a_stored_run_loses_nothing(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    before = Asking(agents(url))
    live = await before.chunks("/agents/plain/stream", {"messages": "Hi", "runId": "kept"})
    later = Asking(agents(url))  # another process: what is there is what was stored
    stored = await later.chunks("/agents/plain/observe", {"runId": "kept"})
    assert stored == joined(live)
    for offset in range(len(live) + 1):
        on = {"runId": "kept", "offset": offset}
        rest = await later.chunks("/agents/plain/observe", on)
        # Its first chunks are counted; of a text that came in pieces it gets all.
        assert rest == stored[min(offset, types(stored).index("text-delta")) :]


async def test_a_run_that_was_stored_says_what_it_said_live(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    before = Asking(agents(url))
    for agent in ("weather", "payer"):
        body = {"messages": "Hi", "runId": f"of-{agent}"}
        live = await before.chunks(f"/agents/{agent}/stream", body)
        later = Asking(agents(url))
        on = {"runId": f"of-{agent}"}
        assert await later.chunks(f"/agents/{agent}/observe", on) == joined(live)
        again = await before.post(f"/agents/{agent}/generate", body)
        assert await later.post(f"/agents/{agent}/generate", body) == again


async def test_the_same_run_id_again_is_one_run(asking: Asking) -> None:
    body = {"messages": "Hi", "runId": "once"}
    streams = await asyncio.gather(
        *(asking.chunks("/agents/slow/stream", body) for _ in range(3)),
        asking.post("/agents/slow/generate", body),
    )
    assert joined(streams[0]) == joined(streams[1]) == joined(streams[2])
    assert streams[3]["text"] == text(streams[0]) == WORDS
    (model,) = [asking.app.agents["slow"].model]
    assert isinstance(model, ScriptedModel)
    assert len(model.requests) == 1


async def test_a_run_id_of_another_agent_is_not_found(asking: Asking) -> None:
    await asking.post("/agents/plain/generate", {"messages": "Hi", "runId": "mine"})
    body = {"messages": "Hi", "runId": "mine"}
    await asking.post("/agents/weather/generate", body, status=404)
    answer = await asking.http.post("/api/agents/weather/observe", json={"runId": "mine"})
    assert answer.status_code == 404


async def test_two_answers_to_one_question_of_which_one_counts(asking: Asking) -> None:
    asks = await asking.post("/agents/payer/generate", {"messages": "Hi", "runId": "asks"})
    assert asks["finishReason"] == "suspended"
    which = {"runId": "asks", "toolCallId": "p"}
    answers = await asyncio.gather(
        asking.http.post("/api/agents/payer/approve-tool-call-generate", json=which),
        asking.http.post("/api/agents/payer/decline-tool-call-generate", json=which),
    )
    assert sorted(a.status_code for a in answers) == [200, 409]
    assert len(PAID) <= 1


async def test_the_same_answer_again_is_the_same_run(asking: Asking) -> None:
    await asking.post("/agents/payer/generate", {"messages": "Hi", "runId": "asks"})
    which = {"runId": "asks", "toolCallId": "p"}
    first = await asking.chunks("/agents/payer/approve-tool-call", which)
    again = await asking.chunks("/agents/payer/approve-tool-call", which)
    assert types(first)[0] == "tool-result"
    assert joined(first) == joined(again)
    assert PAID == [3]


async def test_calls_of_one_step_are_approved_one_by_one(asking: Asking) -> None:
    agent = "/agents/payer-of-two"
    asks = await asking.chunks(f"{agent}/stream", {"messages": "Hi", "runId": "two"})
    assert types(asks)[-2:] == ["tool-call-approval"] * 2
    one = await asking.http.post(
        f"/api{agent}/approve-tool-call-generate", json={"runId": "two", "toolCallId": "b"}
    )
    assert one.json()["finishReason"] == "suspended"
    assert one.json()["suspendPayload"]["toolCallId"] == "a"
    done = await asking.post(
        f"{agent}/decline-tool-call-generate", {"runId": "two", "toolCallId": "a"}
    )
    assert done["text"] == "Paid both."
    assert PAID == [2]


async def test_an_approval_of_nothing_is_not_found(asking: Asking) -> None:
    await asking.post("/agents/payer/generate", {"messages": "Hi", "runId": "asks"})
    which = {"runId": "asks", "toolCallId": "another"}
    await asking.post("/agents/payer/approve-tool-call-generate", which, status=404)
    await asking.post("/agents/payer/approve-tool-call-generate", {"runId": "no"}, status=404)
    assert PAID == []


TOOLS = {name: {"id": name, "inputSchema": {"type": "object"}} for name in ("clock", "place")}


def given(*results: ToolCall) -> list[Any]:
    parts = [
        {"type": "tool-result", "toolCallId": r.id, "toolName": r.name, "result": r.name.upper()}
        for r in results
    ]
    return [{"role": "user", "content": "Hi"}, {"role": "tool", "content": parts}]


async def test_who_answers_its_own_tools_reads_on_from_there(asking: Asking) -> None:
    body = {"messages": "Hi", "clientTools": TOOLS}
    asks = await asking.chunks("/agents/client/stream", body)
    assert types(asks)[-2:] == ["step-finish", "finish"]
    assert asks[-1]["payload"]["stepResult"]["reason"] == "tool-calls"
    both = given(calls("clock", id="c1"), calls("place", id="c2"))
    went = await asking.chunks("/agents/client/stream", {**body, "messages": both})
    assert types(joined(went)) == [
        "start",
        "step-start",
        "text-start",
        "text-delta",
        "text-end",
        "step-finish",
        "finish",
    ]
    assert went[-1]["payload"]["stepResult"]["reason"] == "stop"
    everything = await asking.chunks("/agents/client/observe", {"runId": asks[0]["runId"]})
    assert types(everything).count("tool-result") == 2
    assert types(everything).count("start") == 1


async def test_tools_of_the_client_answered_one_by_one(asking: Asking) -> None:
    body = {"messages": "Hi", "clientTools": TOOLS}
    asks = await asking.post("/agents/client/generate", body)
    assert asks["finishReason"] == "tool-calls"
    assert {c["payload"]["toolName"] for c in asks["toolCalls"]} == {"clock", "place"}
    half = {**body, "messages": given(calls("clock", id="c1"))}
    half_done = await asking.post("/agents/client/generate", half)
    assert half_done["finishReason"] == "tool-calls"
    assert [c["payload"]["toolName"] for c in half_done["toolCalls"]] == ["place"]
    rest = {**body, "messages": given(calls("place", id="c2"))}
    assert (await asking.post("/agents/client/generate", rest))["text"] == "Both told."


async def test_without_a_thread_nothing_is_remembered(asking: Asking) -> None:
    async def texts(**more: Any) -> list[str]:
        body = {"messages": "Hi", **more}
        return [(await asking.post("/agents/counts/generate", body))["text"] for _ in range(2)]

    assert await texts() == ["1 messages", "1 messages"]
    thread = {"thread": "t", "resource": "ann"}
    assert await texts(memory=thread) == ["1 messages", "3 messages"]


async def test_a_client_limits_the_steps_and_gets_what_there_is(asking: Asking) -> None:
    body = {"messages": "Hi", "maxSteps": 1}
    result = await asking.post("/agents/weather/generate", body)
    assert (result["finishReason"], len(result["steps"]), result["text"]) == ("tool-calls", 1, "")
    chunks = await Asking(agents("memory://")).chunks("/agents/weather/stream", body)
    assert types(chunks)[-2:] == ["step-finish", "finish"]
    assert chunks[-1]["payload"]["stepResult"]["reason"] == "tool-calls"


async def test_a_failure_of_somebodys_code_is_the_runs_not_the_servers(asking: Asking) -> None:
    # A client of Mastra sends again what answers 5xx.
    error = await asking.post("/agents/wrong/generate", {"messages": "Hi"}, status=424)
    assert error["code"] == "run.failed"
    assert "somebody" not in str(error)
    chunks = await asking.chunks("/agents/wrong/stream", {"messages": "Hi"})
    assert types(chunks)[-3:] == ["error", "step-finish", "finish"]


async def test_until_idle_is_the_same_stream(asking: Asking) -> None:
    for way in ("stream", "stream-until-idle"):
        assert text(await asking.chunks(f"/agents/plain/{way}", {"messages": "Hi"})) == WORDS


def test_parsing_is_strict() -> None:
    assert parsed(b'data: {"type":"a"}\n\n: ping\n\ndata: [DONE]\n\n') == [{"type": "a"}]


async def test_a_run_that_was_cut_off_is_taken_up(asking: Asking) -> None:
    run = asking.app.get_agent("slow").run("Hi")
    async for event in run:
        if type(event.data).__name__ == "TextDelta":
            break
    run.release()
    await asyncio.wait([asyncio.ensure_future(run.rested())], timeout=10)
    chunks = await asking.chunks("/agents/slow/recover", {"runId": run.id})
    assert text(chunks) == WORDS
    assert types(chunks)[-1] == "finish"
    await rested(asking, run.id)
    for path, status in (("/agents/slow/recover", 409), ("/agents/plain/recover", 404)):
        await asking.post(path, {"runId": run.id}, status=status)
