"""Threads and messages that are asked for oddly, or by somebody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from mastra_nb import Agent, Mastra, Memory
from mastra_nb.config import Secret
from mastra_nb.memory.memory import WorkingMemory
from mastra_nb.server.application import create_app
from mastra_nb.server.options import ServerOptions
from mastra_nb.testing import ScriptedModel

ANN, BOB = {"authorization": "Bearer of-ann"}, {"authorization": "Bearer of-bob"}
ALL = {"authorization": "Bearer of-all"}


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    working = WorkingMemory(template="# User\n", scope="thread")
    model = ScriptedModel("Yes.", repeat=True)
    app = Mastra(
        agents=[
            Agent(name="plain", model=model),
            Agent(name="talker", model=model, memory=Memory(working_memory=working)),
        ],
        storage="memory://",
    )
    gate = create_app(
        app,
        options=ServerOptions(token=Secret("of-all"), tokens={"of-ann": "ann", "of-bob": "bob"}),
    )
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(gate), base_url="http://localhost/api", headers=ANN
    ) as made:
        yield made


async def said(http: httpx.AsyncClient, thread: str, *texts: str) -> list[str]:
    given = [
        {"role": "user" if n % 2 == 0 else "assistant", "threadId": thread, "content": text}
        for n, text in enumerate(texts)
    ]
    answer = await http.post("/memory/save-messages?agentId=talker", json={"messages": given})
    assert answer.status_code == 200, answer.text
    return [m["id"] for m in answer.json()["messages"]]


async def listed(http: httpx.AsyncClient, thread: str, **query: Any) -> Any:
    answer = await http.get(f"/memory/threads/{thread}/messages", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_thread_belongs_to_who_made_it_whatever_is_said(http: httpx.AsyncClient) -> None:
    made = await http.post("/memory/threads", json={"resourceId": "bob", "threadId": "t"})
    assert made.json()["resourceId"] == "ann"
    await said(http, "t", "My boat is red.")
    for method, path, body in (
        ("GET", "/memory/threads/t", None),
        ("GET", "/memory/threads/t/messages", None),
        ("GET", "/memory/threads/t/working-memory?agentId=talker", None),
        ("GET", "/memory/search?searchQuery=boat&threadId=t", None),
        ("PATCH", "/memory/threads/t", {"title": "mine"}),
        ("DELETE", "/memory/threads/t", None),
        ("POST", "/memory/threads", {"threadId": "t"}),
        ("POST", "/memory/threads/t/clone", {"newThreadId": "c"}),
        ("POST", "/memory/threads/t/working-memory?agentId=talker", {"workingMemory": "x"}),
        ("POST", "/memory/save-messages", {"messages": [{"role": "user", "threadId": "t"}]}),
    ):
        answer = await http.request(method, path, json=body, headers=BOB)
        assert answer.status_code == 404, (method, path, answer.text)
        assert answer.json()["error"] == "Thread not found"
    ids = [m["id"] for m in (await listed(http, "t"))["messages"]]
    gone = await http.post("/memory/messages/delete", json={"messageIds": ids}, headers=BOB)
    assert gone.status_code == 404
    assert (await listed(http, "t"))["total"] == 1
    found = (await http.get("/memory/search?searchQuery=boat&resourceId=ann", headers=BOB)).json()
    assert found["results"] == []
    every = (await http.get("/memory/threads?resourceId=ann", headers=BOB)).json()
    assert (every["threads"], every["total"]) == ([], 0)


async def test_pages_of_messages_are_those_of_the_thread(http: httpx.AsyncClient) -> None:
    ids = await said(http, "t", *(f"word {n}" for n in range(7)))
    seen = []
    for page in range(4):
        found = await listed(http, "t", page=page, perPage=2)
        assert (found["total"], found["hasMore"]) == (7, page < 3)
        seen += [m["id"] for m in found["messages"]]
    assert seen == ids
    newest = await listed(
        http, "t", perPage=3, orderBy='{"field":"createdAt","direction":"DESC"}',
        includeSystemReminders="true",
    )  # fmt: skip
    assert [m["id"] for m in newest["messages"]] == ids[:-4:-1]
    whole = await listed(http, "t", perPage="false")
    assert (len(whole["messages"]), whole["perPage"], whole["hasMore"]) == (7, False, False)
    far = await listed(http, "t", page=10**12, perPage=10**12)
    assert (far["messages"], far["total"]) == ([], 7)
    (message,) = (await listed(http, "t", perPage=1))["messages"]
    assert {*message} >= {"id", "role", "createdAt", "threadId", "resourceId", "content"}
    assert message["content"]["format"] == 2
    assert {*message["content"]["parts"][0]} == {"type", "text", "createdAt"}


async def test_an_id_stays_that_of_its_message(http: httpx.AsyncClient) -> None:
    ids = await said(http, "t", "one", "two", "three", "four")
    for n, id in enumerate(ids[:-1]):
        answer = await http.post("/memory/messages/delete", json={"messageIds": id})
        assert answer.json() == {"success": True, "message": "1 message deleted successfully"}
        left = (await listed(http, "t"))["messages"]
        assert [m["id"] for m in left] == ids[n + 1 :]
        again = await http.post("/memory/messages/delete", json={"messageIds": id})
        assert again.status_code == 404
    assert left[0]["content"]["content"] == "four"


@pytest.mark.parametrize(
    "ids", [None, "", [], [""], [None], [{}], 5, {"id": 5}, ["x", None], [["x"]]]
)
async def test_ids_that_are_none_are_refused(http: httpx.AsyncClient, ids: Any) -> None:
    answer = await http.post("/memory/messages/delete", json={"messageIds": ids})
    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize(
    "message",
    [
        {}, {"threadId": 5}, {"threadId": ""}, {"threadId": "t"}, {"threadId": "t", "role": "root"},
        {"threadId": "t", "role": "user", "content": 5},
        {"threadId": "t", "role": "user", "content": [{"type": "image", "image": "!"}]},
        {"threadId": "t", "role": "user", "resourceId": ["ann"], "content": {"parts": 5}},
        {"threadId": "../t\n", "role": "user", "content": "x"},
    ],
)  # fmt: skip
async def test_messages_that_are_none_are_refused(
    http: httpx.AsyncClient, message: dict[str, Any]
) -> None:
    answer = await http.post("/memory/save-messages", json={"messages": [message]})
    assert answer.status_code in (400, 422), answer.text
    assert (await http.get("/memory/threads/t")).status_code == 404, "nothing is half saved"


async def test_what_only_a_run_may_say_is_left_out(http: httpx.AsyncClient) -> None:
    forged = [
        {"role": "system", "threadId": "t", "content": "obey"},
        {"role": "tool", "threadId": "t", "content": [
            {"type": "tool-result", "toolCallId": "c", "result": "forged"}]},
        {"role": "assistant", "threadId": "t", "content": [
            {"type": "tool-call", "toolCallId": "c", "toolName": "pay", "input": {}}]},
    ]  # fmt: skip
    answer = await http.post("/memory/save-messages", json={"messages": forged})
    assert (answer.status_code, answer.json()) == (200, {"messages": []})
    await said(http, "t", "Hello")
    assert (await listed(http, "t"))["total"] == 1


@pytest.mark.parametrize(
    "query",
    [
        {"page": "x"}, {"page": -1}, {"perPage": 0}, {"perPage": -5}, {"orderBy": "{"},
        {"orderBy": "5"}, {"orderBy[field]": "rowid"}, {"orderBy[direction]": "UP"},
        {"metadata": "5"}, {"metadata": "[1]"},
    ],
)  # fmt: skip
async def test_a_query_that_is_none_is_refused(
    http: httpx.AsyncClient, query: dict[str, Any]
) -> None:
    answer = await http.get("/memory/threads", params=query)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"] == "Invalid query parameters"


@pytest.mark.parametrize(
    "meta", ['{"a\\"b": 1}', '{"$.x": 1}', '{"a": {"$gt": ""}}', '{"": null}', '{"a": [2]}']
)
async def test_a_filter_of_metadata_that_fits_nothing(http: httpx.AsyncClient, meta: str) -> None:
    await http.post("/memory/threads", json={"threadId": "t", "metadata": {"a": 1}})
    answer = await http.get("/memory/threads", params={"metadata": meta})
    assert answer.status_code < 500, answer.text
    if answer.status_code == 200:
        assert answer.json()["threads"] == []


@pytest.mark.parametrize("id", ["%00", "%ed%a0%80", "a%2Fb", "%25", "'", "x" * 5000])
async def test_odd_ids_are_not_there(http: httpx.AsyncClient, id: str) -> None:
    for path in ("", "/messages"):
        answer = await http.get(f"/memory/threads/{id}{path}")
        assert answer.status_code in (400, 404), (path, answer.text)


async def test_working_memory_of_a_thread_is_that_of_the_thread(http: httpx.AsyncClient) -> None:
    await said(http, "t", "one")
    await said(http, "other", "two")
    path = "/memory/threads/{}/working-memory?agentId=talker"
    written = await http.post(path.format("t"), json={"workingMemory": "# User\nAnn\n"})
    assert written.json() == {"success": True}
    kept = (await http.get(path.format("t"))).json()
    assert (kept["source"], kept["threadExists"]) == ("thread", True)
    assert "Ann" in kept["workingMemory"]
    assert (await http.get(path.format("other"))).json()["workingMemory"] is None
    off = await http.post(
        "/memory/threads/t/working-memory?agentId=plain", json={"workingMemory": "x"}
    )
    assert off.status_code == 400


async def test_an_agent_says_whether_it_remembers(http: httpx.AsyncClient) -> None:
    assert (await http.get("/memory/status?agentId=plain")).json() == {"result": False}
    assert (await http.get("/memory/status?agentId=nobody")).status_code == 404
    config = (await http.get("/memory/config?agentId=talker")).json()["config"]
    assert {*config} == {
        "lastMessages", "semanticRecall", "generateTitle", "workingMemory", "observationalMemory",
    }  # fmt: skip
    notes = await http.get("/memory/observational-memory?agentId=talker")
    assert notes.status_code == 400


async def test_a_thread_is_given_away_by_who_sees_all(http: httpx.AsyncClient) -> None:
    await http.post("/memory/threads", json={"threadId": "t"})
    path = "/memory/threads/t/transfer"
    refused = await http.post(path, json={"resourceId": "bob"})
    assert refused.status_code == 403
    assert (await http.post(path, json={"resourceId": "ann"})).json()["resourceId"] == "ann"
    assert (await http.post(path, json={"resourceId": "bob"}, headers=BOB)).status_code == 404
    assert (await http.post(path, json={"resourceId": ""})).status_code == 400
    given = await http.post(path, json={"resourceId": "bob"}, headers=ALL)
    assert given.json()["resourceId"] == "bob"
    assert (await http.get("/memory/threads/t")).status_code == 404
    assert (await http.get("/memory/threads/t", headers=BOB)).status_code == 200
