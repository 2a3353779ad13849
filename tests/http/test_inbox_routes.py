"""One list of what waits for a person."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from mastra_nb import Mastra
from mastra_nb.server.application import create_app
from mastra_nb.server.options import ServerOptions


@pytest.fixture
async def http(application: Mastra) -> AsyncIterator[httpx.AsyncClient]:
    options = ServerOptions(tokens={"of-ann": "ann", "of-bob": "bob"})
    transport = httpx.ASGITransport(create_app(application, options=options))
    async with httpx.AsyncClient(
        transport=transport,
        base_url="http://localhost/api",
        headers={"authorization": "Bearer of-ann"},
    ) as made:
        yield made


async def test_an_approval_and_a_question_are_answered_from_one_list(
    http: httpx.AsyncClient,
) -> None:
    await http.post("/agents/payer/generate", json={"messages": "Pay"})
    await http.post("/workflows/human/start-async", json={"inputData": 4})
    bobs = await http.get("/inbox", headers={"authorization": "Bearer of-bob"})
    assert bobs.json() == {"waiting": []}

    found = (await http.get("/inbox")).json()["waiting"]
    assert [(w["name"], w["reason"]) for w in found] == [("human", "input"), ("payer", "approval")]
    question, approval = found
    assert question["payload"] == {"n": 8}
    assert approval["payload"]["args"] == {"amount": 3}

    wrong = await http.post(f"/inbox/{question['runId']}", json={"answer": {"ok": "maybe"}})
    assert wrong.status_code == 400, "it still waits"
    other = await http.post(
        f"/inbox/{question['runId']}",
        json={"answer": {"ok": True}},
        headers={"authorization": "Bearer of-bob"},
    )
    assert other.status_code == 404
    for each, answer in ((question, {"ok": True}), (approval, {"approved": True})):
        body = {"answer": answer, "path": each["path"]}
        said = await http.post(f"/inbox/{each['runId']}", json=body)
        assert said.status_code == 200, said.text
    run = f"/workflows/human/runs/{question['runId']}"
    await http.post(f"/workflows/human/observe?runId={question['runId']}")
    assert (await http.get(run)).json()["result"] == 8
    observed = await http.post("/agents/payer/observe", json={"runId": approval["runId"]})
    assert "Paid." in observed.text
    assert (await http.get("/inbox")).json() == {"waiting": []}
