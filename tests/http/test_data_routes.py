"""Memory, vectors, traces, scores, logs and schedules, as Mastra's clients read them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from mastra_nb import Agent, Mastra, Memory, Workflow, step, tool
from mastra_nb.config import get_logger
from mastra_nb.context import Context
from mastra_nb.events import Scored
from mastra_nb.memory.memory import WorkingMemory
from mastra_nb.server.application import create_app
from mastra_nb.server.options import ServerOptions
from mastra_nb.server.run import Server
from mastra_nb.testing import ScriptedModel, calls


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"{city}: 21"


@step
def rated(n: int, ctx: Context) -> int:
    ctx.emit(Scored(scorer="size", value=0.5, reason="so so"))
    return n


@pytest.fixture
def app() -> Mastra:
    memory = Memory(working_memory=WorkingMemory(template="# User\n- **Name**:\n"))
    model = ScriptedModel(calls("weather", city="Oslo"), "It is 21.", repeat=True)
    agent = Agent(name="talker", model=model, tools=[weather], memory=memory)
    flow = Workflow(name="flow", input=int).then(rated)
    made = Mastra(agents=[agent], workflows=[flow], storage="memory://")
    made.schedule(flow, cron="0 6 * * *", input=3, name="nightly")
    return made


@pytest.fixture
async def http(app: Mastra) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(app, options=ServerOptions()))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost/api") as made:
        yield made


async def ask(http: httpx.AsyncClient, thread: str = "t1", text: str = "Oslo?") -> Any:
    body = {"messages": text, "memory": {"thread": thread, "resource": "ann"}}
    answer = await http.post("/agents/talker/generate", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


# Memory


async def test_a_thread_from_its_making_to_its_end(http: httpx.AsyncClient) -> None:
    made = await http.post(
        "/memory/threads?agentId=talker",
        json={"resourceId": "ann", "threadId": "t1", "title": "Trip", "metadata": {"k": 1}},
    )
    thread = made.json()
    assert {**thread, "createdAt": "", "updatedAt": ""} == {
        "id": "t1", "resourceId": "ann", "title": "Trip", "metadata": {"k": 1},
        "createdAt": "", "updatedAt": "",
    }  # fmt: skip
    changed = await http.patch("/memory/threads/t1?agentId=talker", json={"metadata": {"m": 2}})
    assert changed.json()["metadata"] == {"k": 1, "m": 2}
    assert (await http.get("/memory/threads/t1")).json()["title"] == "Trip"
    gone = await http.delete("/memory/threads/t1?agentId=talker")
    assert gone.json() == {"result": "Thread deleted"}
    missing = await http.get("/memory/threads/t1")
    assert (missing.status_code, missing.json()["error"]) == (404, "Thread not found")


async def test_threads_are_listed_in_pages(http: httpx.AsyncClient) -> None:
    for n in range(5):
        body = {"resourceId": "ann", "threadId": f"t{n}", "metadata": {"even": n % 2 == 0}}
        await http.post("/memory/threads", json=body)
    await http.post("/memory/threads", json={"resourceId": "bob", "threadId": "b"})

    async def listed(**query: Any) -> Any:
        return (await http.get("/memory/threads", params={"resourceId": "ann", **query})).json()

    first = await listed(perPage=2, page=0)
    assert [len(first["threads"]), first["total"], first["hasMore"]] == [2, 5, True]
    last = await listed(perPage=2, page=2)
    assert [len(last["threads"]), last["hasMore"]] == [1, False]
    every = await listed(perPage="false")
    assert [len(every["threads"]), every["perPage"]] == [5, False]
    for order in (
        {"orderBy[field]": "createdAt", "orderBy[direction]": "ASC"},
        {"orderBy": '{"field":"createdAt","direction":"ASC"}'},
    ):
        found = await listed(**order)
        assert [t["id"] for t in found["threads"]] == ["t0", "t1", "t2", "t3", "t4"]
    found = await listed(metadata='{"even": true}')
    assert {t["id"] for t in found["threads"]} == {"t0", "t2", "t4"}
    for bad in ({"page": -1}, {"orderBy[field]": "rowid"}, {"perPage": 0}):
        answer = await http.get("/memory/threads", params=bad)
        assert answer.status_code == 400, bad


async def test_an_answer_with_its_calls_is_one_message(http: httpx.AsyncClient) -> None:
    run = (await ask(http))["runId"]
    found = (await http.get("/memory/threads/t1/messages")).json()
    assert [m["id"] for m in found["messages"]] == [f"{run}-u0", f"{run}-a1"]
    assert [m["role"] for m in found["messages"]] == ["user", "assistant"]
    answer = found["messages"][1]["content"]
    assert [p["type"] for p in answer["parts"]] == [
        "step-start", "tool-invocation", "step-start", "text",
    ]  # fmt: skip
    call = answer["toolInvocations"][0]
    assert (call["state"], call["args"], call["result"]) == (
        "result", {"city": "Oslo"}, "Oslo: 21",
    )  # fmt: skip
    assert found["uiMessages"] is None
    order = {"orderBy": '{"field":"createdAt","direction":"DESC"}', "perPage": 1}
    newest = (await http.get("/memory/threads/t1/messages", params=order)).json()
    assert [m["id"] for m in newest["messages"]] == [f"{run}-a1"]
    assert newest["hasMore"] is True


async def test_messages_are_saved_and_deleted(http: httpx.AsyncClient) -> None:
    run = (await ask(http))["runId"]
    given = [
        {"role": "user", "threadId": "t1", "resourceId": "ann", "content": "And Rome?"},
        {
            "role": "assistant",
            "threadId": "t1",
            "resourceId": "ann",
            "content": {
                "format": 2,
                "parts": [
                    {"type": "text", "text": "Warmer."},
                    {"type": "tool-invocation", "toolInvocation": {"toolCallId": "forged"}},
                ],
            },
        },
    ]
    saved = (await http.post("/memory/save-messages", json={"messages": given})).json()["messages"]
    assert [m["content"]["content"] for m in saved] == ["And Rome?", "Warmer."]
    found = (await http.get("/memory/threads/t1/messages")).json()["messages"]
    assert [m["id"] for m in found][-2:] == [m["id"] for m in saved]
    assert "forged" not in str(found)

    ids = [{"id": saved[0]["id"]}, f"{run}-a1"]
    gone = await http.post("/memory/messages/delete?threadId=t1", json={"messageIds": ids})
    assert gone.json() == {"success": True, "message": "2 messages deleted successfully"}
    left = (await http.get("/memory/threads/t1/messages")).json()["messages"]
    assert [m["id"] for m in left] == [f"{run}-u0", saved[1]["id"]]


async def test_a_clone_goes_its_own_way(http: httpx.AsyncClient) -> None:
    await ask(http)
    made = (await http.post("/memory/threads/t1/clone", json={"newThreadId": "t2"})).json()
    assert made["thread"]["id"] == "t2"
    assert made["thread"]["metadata"]["clone"]["sourceThreadId"] == "t1"
    assert len(made["clonedMessages"]) == 2
    await ask(http, thread="t2")
    counts = [
        (await http.get(f"/memory/threads/{t}/messages")).json()["total"] for t in ("t1", "t2")
    ]
    assert counts == [2, 4]
    first = made["clonedMessages"][0]["id"]
    assert made["messageIdMap"][f"{first.partition('@')[0]}"] == first
    gone = await http.post("/memory/messages/delete", json={"messageIds": first})
    assert gone.json()["success"] is True
    counts = [
        (await http.get(f"/memory/threads/{t}/messages")).json()["total"] for t in ("t1", "t2")
    ]
    assert counts == [2, 3], "the original keeps its message"
    again = await http.post("/memory/threads/t1/clone", json={"newThreadId": "t2"})
    assert again.status_code == 409


async def test_a_clone_of_some_messages(http: httpx.AsyncClient) -> None:
    """As in Mastra: what the filter keeps, and of that the newest."""
    for _ in range(2):
        await ask(http)
    path = "/memory/threads/t1/messages"
    first, second, third, fourth = (await http.get(path)).json()["messages"]

    async def cloned(**options: Any) -> tuple[list[str], Any]:
        told = await http.post("/memory/threads/t1/clone", json={"options": options})
        made = told.json()
        there = await http.get(f"/memory/threads/{made['thread']['id']}/messages")
        assert there.json()["messages"] == made["clonedMessages"]
        return [*made["messageIdMap"]], made

    newest, made = await cloned(messageLimit=1)
    assert newest == [fourth["id"]]
    assert made["clonedMessages"][0]["content"]["content"] == fourth["content"]["content"]
    assert made["thread"]["metadata"]["clone"]["lastMessageId"] == made["messageIdMap"][newest[0]]
    assert (await cloned(messageLimit=0))[0] == []
    assert len((await cloned(messageLimit=9))[0]) == 4
    some = {"messageIds": [first["id"], third["id"]]}
    assert (await cloned(messageFilter=some))[0] == some["messageIds"]
    assert (await cloned(messageFilter=some, messageLimit=1))[0] == [third["id"]]
    between = {"startDate": second["createdAt"], "endDate": third["createdAt"]}
    assert {second["id"], third["id"]} <= {*(await cloned(messageFilter=between))[0]}
    assert (await cloned(messageFilter={"endDate": "2001-01-01T00:00:00Z"}))[0] == []
    for bad in ({"messageLimit": -1}, {"messageFilter": {"startDate": "soon"}}):
        told = await http.post("/memory/threads/t1/clone", json={"options": bad})
        assert told.status_code == 400
    left = (await http.get(path)).json()["messages"]
    assert [m["id"] for m in left] == [each["id"] for each in (first, second, third, fourth)]
    await ask(http, thread=made["thread"]["id"])
    grown = await http.get(f"/memory/threads/{made['thread']['id']}/messages")
    assert grown.json()["total"] == 3


async def test_messages_of_some_days(http: httpx.AsyncClient) -> None:
    await ask(http)
    path = "/memory/threads/t1/messages"
    first, second = (await http.get(path)).json()["messages"]

    async def between(**span: Any) -> list[str]:
        query = {"filter": json.dumps({"dateRange": span})}
        return [m["id"] for m in (await http.get(path, params=query)).json()["messages"]]

    assert second["id"] in await between(start=second["createdAt"])
    assert first["id"] not in await between(start=first["createdAt"], startExclusive=True)
    assert await between(end=first["createdAt"], endExclusive=True) == []
    assert await between(end="2001-01-02T00:00:00+02:00") == []
    bad = await http.get(path, params={"filter": '{"dateRange": {"start": "soon"}}'})
    assert bad.status_code == 400


async def test_working_memory_is_read_and_written(http: httpx.AsyncClient) -> None:
    path = "/memory/threads/t1/working-memory?agentId=talker&resourceId=ann"
    empty = (await http.get(path)).json()
    assert empty == {
        "workingMemory": None,
        "source": "resource",
        "workingMemoryTemplate": {"format": "markdown", "content": "# User\n- **Name**:\n"},
        "threadExists": False,
    }
    await ask(http)
    written = await http.post(path, json={"workingMemory": "# User\n- **Name**: Ann\n"})
    assert written.json() == {"success": True}
    assert "Ann" in (await http.get(path)).json()["workingMemory"]
    config = (await http.get("/memory/config?agentId=talker")).json()["config"]
    assert config["workingMemory"]["enabled"] is True
    assert (await http.get("/memory/status?agentId=talker")).json() == {
        "result": True, "memoryType": "local",
    }  # fmt: skip


async def test_what_was_said_is_found(http: httpx.AsyncClient) -> None:
    await ask(http, text="My boat is red.")
    query = {"searchQuery": "boat", "resourceId": "ann"}
    found = (await http.get("/memory/search", params=query)).json()
    assert (found["count"], found["query"], found["searchType"]) == (1, "boat", "text")
    assert found["results"][0]["content"] == "My boat is red."
    other = {"searchQuery": "boat", "resourceId": "bob"}
    assert (await http.get("/memory/search", params=other)).json()["count"] == 0


# Vectors


async def test_an_index_from_its_making_to_its_end(http: httpx.AsyncClient) -> None:
    made = {"indexName": "docs", "dimension": 2, "metric": "cosine"}
    assert (await http.post("/vector/default/create-index", json=made)).json() == {"success": True}
    assert (await http.get("/vectors")).json()["vectors"][0]["id"] == "default"
    entries = {
        "indexName": "docs",
        "vectors": [[1, 0], [0, 1]],
        "ids": ["a", "b"],
        "metadata": [{"n": 1}, {"n": 2}],
    }
    put = await http.post("/vector/default/upsert", json=entries)
    assert put.json() == {"ids": ["a", "b"]}
    asked = {"indexName": "docs", "queryVector": [1, 0.1], "topK": 5, "includeVector": True}
    hits = (await http.post("/vector/default/query", json=asked)).json()
    assert [h["id"] for h in hits] == ["a", "b"]
    assert hits[0]["vector"] == [1.0, 0.0]
    only = (await http.post("/vector/default/query", json={**asked, "filter": {"n": 2}})).json()
    assert [h["id"] for h in only] == ["b"]
    assert (await http.get("/vector/default/indexes")).json() == ["docs"]
    about = (await http.get("/vector/default/indexes/docs")).json()
    assert about == {"dimension": 2, "count": 2, "metric": "cosine"}
    gone = await http.delete("/vector/default/indexes/docs")
    assert gone.json() == {"success": True}
    for bad in ({**asked, "queryVector": [1]}, {**asked, "filter": {"n": {"$where": "1"}}}):
        answer = await http.post("/vector/default/query", json=bad)
        assert answer.status_code in (400, 404, 422), answer.text


# Traces, scores, logs


async def test_a_run_is_a_trace(http: httpx.AsyncClient) -> None:
    said = await ask(http)
    listed = (await http.get("/observability/traces")).json()
    assert listed["pagination"]["total"] == 1
    (root,) = listed["spans"]
    assert root["traceId"] == said["traceId"]
    assert (root["spanId"], root["spanType"], root["status"]) == (
        said["spanId"], "agent_run", "success",
    )  # fmt: skip
    trace = (await http.get(f"/observability/traces/{said['traceId']}")).json()
    kinds = [s["spanType"] for s in trace["spans"]]
    assert kinds == ["agent_run", "model_generation", "tool_call", "model_generation"]
    ids = {s["spanId"] for s in trace["spans"]}
    assert len(ids) == 4
    assert all(s["parentSpanId"] in ids for s in trace["spans"][1:])
    light = (await http.get("/observability/traces/light")).json()["spans"][0]
    assert light["inputPreview"]
    one = await http.get(
        f"/observability/traces/{said['traceId']}/spans/{trace['spans'][2]['spanId']}"
    )
    assert one.json()["span"]["output"] == "Oslo: 21"
    assert (await http.get("/observability/traces/none")).status_code == 404


async def test_traces_are_asked_for_by_a_condition(http: httpx.AsyncClient) -> None:
    await ask(http)
    await http.post("/workflows/flow/start-async", json={"inputData": 1})

    async def names(where: Any) -> list[str]:
        answer = await http.post("/observability/traces/query", json={"where": where})
        assert answer.status_code == 200, answer.text
        return sorted(t["entityName"] for t in answer.json()["traces"])

    agent = {"op": "eq", "left": {"path": "entityType"}, "right": {"literal": "agent"}}
    assert await names(None) == ["flow", "talker"]
    assert await names({"op": "and", "args": [agent]}) == ["talker"]
    assert await names({"op": "not", "arg": agent}) == ["flow"]
    unknown = {"op": "eq", "left": {"path": "rowid"}, "right": {"literal": 1}}
    answer = await http.post("/observability/traces/query", json={"where": unknown})
    assert answer.status_code == 501
    fields = (await http.post("/observability/traces/query/fields", json={})).json()
    assert {"entityName", "status"} <= {f["path"] for f in fields["canonicalFields"]}


async def test_scores_of_a_run(http: httpx.AsyncClient) -> None:
    run = (await http.post("/workflows/flow/start-async", json={"inputData": 1})).json()["runId"]
    for path in (f"/scores/run/{run}", "/scores/scorer/size", "/scores/entity/WORKFLOW/flow"):
        (score,) = (await http.get(path)).json()["scores"]
        assert (score["scorerId"], score["score"], score["reason"]) == ("size", 0.5, "so so")
    assert "size" in (await http.get("/scores/scorers")).json()
    assert (await http.get("/scores/scorers/none")).json() is None

    trace, span = score["traceId"], score["spanId"]
    path = f"/observability/traces/{trace}"
    assert (await http.get(f"{path}/{span}/scores")).json()["scores"] == [score]
    other = next(s for s in (await http.get(path)).json()["spans"] if s["spanId"] != span)
    assert (await http.get(f"{path}/{other['spanId']}/scores")).json()["scores"] == []

    (record,) = (await http.get("/observability/scores")).json()["scores"]
    assert (record["scoreId"], record["score"], record["spanId"]) == (score["id"], 0.5, span)
    assert (record["entityType"], record["entityName"]) == ("workflow_run", "flow")
    told = await http.get(f"/observability/scores/{score['id']}")
    assert told.json() == {"score": record}
    for absent in (f"{run}-s99", "none", "r_0-s1"):
        assert (await http.get(f"/observability/scores/{absent}")).status_code == 404
    for query, count in (
        ({"scorerId": "size", "traceId": trace, "spanId": span, "runId": run}, 1),
        ({"entityType": "workflow_run", "entityName": "flow"}, 1),
        ({"entityType": "agent"}, 0),
        ({"scorerId": "none"}, 0),
        ({"timestamp": '{"end": "2001-01-01T00:00:00Z"}'}, 0),
        ({"timestamp": '{"start": "2001-01-01T00:00:00Z"}'}, 1),
        ({"page": 1}, 0),
    ):
        found = (await http.get("/observability/scores", params=query)).json()
        assert len(found["scores"]) == count, query


async def test_a_branch_of_a_trace(http: httpx.AsyncClient) -> None:
    run = (await http.post("/workflows/flow/start-async", json={"inputData": 1})).json()["runId"]
    (score,) = (await http.get(f"/scores/run/{run}")).json()["scores"]
    path = f"/observability/traces/{score['traceId']}"
    spans = (await http.get(path)).json()["spans"]
    root = next(s["spanId"] for s in spans if s["parentSpanId"] is None)
    whole = (await http.get(f"{path}/branches/{root}")).json()
    assert whole == {"traceId": score["traceId"], "spans": spans}
    top = (await http.get(f"{path}/branches/{root}", params={"depth": 0})).json()["spans"]
    assert [s["spanId"] for s in top] == [root]
    below = (await http.get(f"{path}/branches/{score['spanId']}")).json()["spans"]
    assert [s["spanId"] for s in below] == [score["spanId"]] != [root]
    assert (await http.get(f"{path}/branches/none")).status_code == 404
    assert (await http.get(f"{path}/branches/{root}?depth=-1")).status_code == 400


async def test_the_log_is_kept_while_it_serves(app: Mastra) -> None:
    async with Server(app, port=0, options=ServerOptions(schedules=False)) as server:
        get_logger("test").warning("a word with key sk-abcdefghijklmnopqrstuvwxyz012345")
        async with httpx.AsyncClient(base_url=f"{server.url}/api") as http:
            lines = (await http.get("/logs", params={"logLevel": "warn"})).json()["logs"]
            assert "a word with key" in lines[0]["msg"]
            assert "abcdefgh" not in str(lines)
            observed = (await http.get("/observability/logs")).json()["logs"]
            assert observed[0]["message"] == lines[0]["msg"]


# Schedules


async def test_a_schedule_is_paused_resumed_and_run(http: httpx.AsyncClient) -> None:
    (found,) = (await http.get("/schedules?workflowId=flow")).json()["schedules"]
    assert (found["id"], found["cron"], found["status"]) == ("nightly", "0 6 * * *", "active")
    assert (await http.post("/schedules/nightly/pause")).json()["status"] == "paused"
    assert (await http.post("/schedules/nightly/resume")).json()["status"] == "active"
    fired = (await http.post("/schedules/nightly/run")).json()
    run = fired["claimId"]
    await http.post(f"/workflows/flow/observe?runId={run}")
    (trigger,) = (await http.get("/schedules/nightly/triggers")).json()["triggers"]
    assert (trigger["runId"], trigger["outcome"]) == (run, "succeeded")
    assert (await http.post("/schedules", json={})).status_code == 501
    assert (await http.get("/schedules/none")).status_code == 404


async def test_studio_finds_what_it_asks_for_first(http: httpx.AsyncClient) -> None:
    for path, answer in (
        ("/auth/capabilities", {"enabled": False, "login": None}),
        ("/workspaces", {"workspaces": []}),
        ("/experiments/review-summary", {"counts": []}),
        ("/editor/builder/settings", {"enabled": False, "modelPolicy": {"active": False}}),
        ("/processors?requestContext=e30%3D", {}),
    ):
        found = await http.get(path)
        assert (found.status_code, found.json()) == (200, answer), path
    assert (await http.get("http://localhost/")).status_code == 200
    packages = (await http.get("/system/packages")).json()
    assert packages["observabilityEnabled"] is True
