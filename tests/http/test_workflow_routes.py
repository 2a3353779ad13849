"""Workflows over REST: their chunks, those who leave, answers that race, runs that are stored."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mastra_nb import Agent, Context, Mastra, Workflow
from mastra_nb.testing import ScriptedModel
from tests.http.asking import Asking, joined, types

DONE: list[Any] = []


async def double(n: int) -> int:
    DONE.append(n)
    return n * 2


async def inc(n: int) -> int:
    return n + 1


async def slowly(n: int) -> int:
    await asyncio.sleep(0.05)
    return n


async def for_long(n: int) -> int:
    await asyncio.sleep(30)
    return n


async def boom(n: int) -> int:
    raise ValueError("cold")


async def human(n: int, ctx: Context) -> int:
    schema = {"type": "object", "properties": {"by": {"type": "integer"}}, "required": ["by"]}
    return n * int(ctx.suspend({"n": n}, schema=schema)["by"])


def flows(store: str) -> Mastra:
    math = Workflow(name="math", input=int).then(double).then(inc)
    talker = Agent(name="talker", model=ScriptedModel("Hello there.", piece=3, repeat=True))
    return Mastra(
        workflows=[
            math,
            Workflow(name="slow", input=int).then(double).then(slowly).then(inc),
            Workflow(name="hitl", input=int).then(double).then(human),
            Workflow(name="nested", input=int).then(Workflow(name="asking", input=int).then(human)),
            Workflow(name="fails", input=int).then(double).then(boom),
            Workflow(name="each", input=list[int]).foreach(double, concurrency=2),
            Workflow(name="each-asks", input=list[int]).foreach(human),
            Workflow(name="talks", input=str).then(talker),
            Workflow(name="both", input=int).parallel([double, inc]),
            Workflow(name="long", input=int).then(for_long),
            Workflow(name="rests", input=int).then(double).sleep(0.01).then(inc),
        ],
        storage=store,
    )


@pytest.fixture(autouse=True)
def nothing_is_done() -> None:
    DONE.clear()


@pytest.fixture
def asking() -> Asking:
    return Asking(flows("memory://"))


def path(workflow: str, verb: str, run: str, more: str = "") -> str:
    return f"/workflows/{workflow}/{verb}?runId={run}{more}"


async def test_the_order_of_a_run_and_its_framing(asking: Asking) -> None:
    answer = await asking.http.post("/api/workflows/math/stream?runId=a", json={"inputData": 3})
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.content.endswith(b"\x1e")
    assert types(await asking.chunks(path("math", "observe", "a"))) == [
        "workflow-start",
        "workflow-step-start",
        "workflow-step-result",
        "workflow-step-start",
        "workflow-step-result",
        "workflow-finish",
    ]


async def test_who_leaves_finds_the_rest_and_all_of_it(asking: Asking) -> None:
    body = {"inputData": 3}
    seen = await asking.leaving(path("slow", "stream", "left"), body, lambda c: len(c) >= 3)
    assert types(seen)[-1] != "workflow-finish"
    on = f"&offset={len(seen)}"
    rest = await asking.chunks(path("slow", "observe", "left", on))
    assert types(rest)[-1] == "workflow-finish"
    everything = await asking.chunks(path("slow", "observe", "left"))
    assert [*seen, *rest] == everything
    assert DONE == [3]


async def test_a_run_is_started_once_whoever_asks(asking: Asking) -> None:
    body = {"inputData": 3}
    answers = await asyncio.gather(
        *(asking.post(path("slow", "start-async", "once"), body) for _ in range(3)),
        asking.post(path("slow", "execute", "once"), body),
    )
    assert all(a == answers[0] for a in answers)
    assert answers[0]["result"] == 7
    await asking.post(path("slow", "start", "once"), body)
    assert (await asking.chunks(path("slow", "stream", "once"), body))[0]["runId"] == "once"
    assert DONE == [3]


async def test_a_run_that_was_created_begins_later(asking: Asking) -> None:
    made = await asking.post("/workflows/math/create-run", {"resourceId": "ann"})
    again = await asking.post(path("math", "create-run", made["runId"]))
    assert again == made
    await asking.get(f"/workflows/math/runs/{made['runId']}", status=404)
    done = await asking.post(path("math", "start-async", made["runId"]), {"inputData": 3})
    assert done["result"] == 7
    run = await asking.get(f"/workflows/math/runs/{made['runId']}")
    assert run["resourceId"] == "ann"


@pytest.mark.parametrize(
    ("workflow", "input"),
    [
        ("math", 3),
        ("fails", 3),
        ("each", [1, 2, 3]),
        ("talks", "Hi"),
        ("both", 3),
        ("rests", 3),
        ("hitl", 3),
        ("nested", 3),
        ("each-asks", [1, 2]),
    ],
)
async def test_a_run_that_was_stored_says_what_it_said_live(
    tmp_path: Any, workflow: str, input: Any
) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    before = Asking(flows(url))
    live = await before.chunks(path(workflow, "stream", "kept"), {"inputData": input})
    result = await before.post(path(workflow, "start-async", "kept"), {"inputData": input})
    run = await before.get(f"/workflows/{workflow}/runs/kept")
    later = Asking(flows(url))
    stored = await later.chunks(path(workflow, "observe", "kept"))
    assert merged(stored) == merged(live)
    again = await later.post(path(workflow, "start-async", "kept"), {"inputData": input})
    assert again == result
    assert await later.get(f"/workflows/{workflow}/runs/kept") == run


def merged(chunks: list[Any]) -> list[Any]:
    """What agents in it said as chunks of its own, each text in one piece."""
    flat = [c["payload"]["output"] if "output" in c["type"] else c for c in chunks]
    return joined(flat)


async def test_an_answer_counts_once(asking: Asking) -> None:
    asks = await asking.post(path("hitl", "start-async", "asks"), {"inputData": 3})
    assert asks["suspended"] == [["human"]]
    answers = [
        await asking.http.post(
            f"/api{path('hitl', 'resume-async', 'asks')}",
            json={"step": "human", "resumeData": {"by": by}},
        )
        for by in (5, 5, 7)
    ]
    assert [a.status_code for a in answers] == [200, 200, 409]
    assert answers[0].json() == answers[1].json()
    assert answers[0].json()["result"] == 30


async def test_answers_that_race(asking: Asking) -> None:
    await asking.post(path("hitl", "start-async", "asks"), {"inputData": 3})
    answers = await asyncio.gather(
        *(
            asking.http.post(
                f"/api{path('hitl', 'resume-async', 'asks')}",
                json={"step": "human", "resumeData": {"by": by}},
            )
            for by in (5, 7)
        )
    )
    assert sorted(a.status_code for a in answers) == [200, 409]


async def test_an_answer_names_its_step_and_fits(asking: Asking) -> None:
    asks = await asking.post(path("nested", "start-async", "asks"), {"inputData": 3})
    assert asks["suspended"] == [["asking", "human"]]
    for step in ("double", ["asking", "double"]):
        wrong = {"step": step, "resumeData": {"by": 2}}
        error = await asking.post(path("nested", "resume-async", "asks"), wrong, status=400)
        assert "asking.human" in error["error"]
    bad = {"step": ["asking", "human"], "resumeData": {"by": "many"}}
    await asking.post(path("nested", "resume-async", "asks"), bad, status=400)
    good = {"step": ["asking", "human"], "resumeData": {"by": 2}}
    went = await asking.chunks(path("nested", "resume-stream", "asks"), good)
    assert went[-1]["payload"]["finalWorkflowResult"] == 6
    # What went on is told after what was; an open step is not begun twice for a reader of all.
    everything = await asking.chunks(path("nested", "observe", "asks"))
    assert types(everything)[-1] == "workflow-finish"
    assert types(everything).count("workflow-step-suspended") == 1


async def test_items_of_a_foreach_are_answered_by_their_index(asking: Asking) -> None:
    await asking.post(path("each-asks", "start-async", "asks"), {"inputData": [1, 2, 3]})
    for index, by in ((2, 10), (0, 20), (1, 30)):
        body = {"step": "human", "resumeData": {"by": by}, "forEachIndex": index}
        last = await asking.post(path("each-asks", "resume-async", "asks"), body)
    assert last["result"] == [20, 60, 30]


async def test_a_run_is_cancelled_and_stays_so(asking: Asking) -> None:
    await asking.post(path("long", "start", "stop"), {"inputData": 3})
    follows = asyncio.create_task(asking.chunks(path("long", "observe", "stop")))
    await asyncio.sleep(0.05)
    told = await asking.post("/workflows/long/runs/stop/cancel")
    assert told == {"message": "Workflow run cancelled"}
    assert types(await follows)[-2:] == ["workflow-canceled", "workflow-finish"]
    assert (await asking.get("/workflows/long/runs/stop"))["status"] == "canceled"
    again = await asking.post("/workflows/long/runs/stop/cancel")
    assert again == {"message": "Workflow run cancelled"}
    body = {"step": "for_long", "resumeData": 1}
    await asking.post(path("long", "resume-async", "stop"), body, status=409)


async def test_a_run_that_waits_is_cancelled_when_it_says_so(tmp_path: Any) -> None:
    asking = Asking(flows(f"sqlite:///{tmp_path / 'runs.db'}"))
    for n in range(10):
        await asking.post(path("hitl", "start-async", f"w{n}"), {"inputData": 3})
        await asking.post(f"/workflows/hitl/runs/w{n}/cancel")
        assert (await asking.get(f"/workflows/hitl/runs/w{n}"))["status"] == "canceled"
    found = await asking.get("/workflows/hitl/runs?status=suspended")
    assert found == {"runs": [], "total": 0}
    done = await asking.post(path("math", "start-async", "done"), {"inputData": 3})
    await asking.post("/workflows/math/runs/done/cancel")  # nothing is left to stop
    assert (await asking.get("/workflows/math/runs/done"))["status"] == done["status"]


async def test_a_run_that_is_on_its_way_is_not_deleted(asking: Asking) -> None:
    await asking.leaving(path("long", "stream", "on"), {"inputData": 3}, lambda c: len(c) > 1)
    answer = await asking.http.delete("/api/workflows/long/runs/on")
    assert answer.status_code == 409
    await asking.post("/workflows/long/runs/on/cancel")
    answer = await asking.http.delete("/api/workflows/long/runs/on")
    assert answer.json() == {"message": "Workflow run deleted"}
    await asking.get("/workflows/long/runs/on", status=404)


async def test_travelling_leaves_the_old_run_as_it_is(asking: Asking) -> None:
    await asking.post(path("math", "start-async", "old"), {"inputData": 3})
    body = {"step": "inc", "inputData": 40}
    made = await asking.post(path("math", "time-travel-async", "old"), body)
    assert (made["result"], DONE) == (41, [3])
    assert made["runId"] != "old"
    assert (await asking.get("/workflows/math/runs/old"))["result"] == 7


async def test_input_that_does_not_fit_begins_nothing(asking: Asking) -> None:
    for way in ("start", "start-async", "stream", "execute"):
        error = await asking.post(path("math", way, "bad"), {"inputData": "x"}, status=400)
        assert error["error"].startswith("Invalid input data: \n- ")
    await asking.get("/workflows/math/runs/bad", status=404)
    assert DONE == []


async def test_what_a_run_asks_is_part_of_its_workflow(asking: Asking) -> None:
    def schemas(workflow: Any) -> Any:
        return {
            id: s["resumeSchema"] for id, s in workflow["allSteps"].items() if "resumeSchema" in s
        }

    assert schemas(await asking.get("/workflows/nested")) == {}
    await asking.post(path("nested", "start-async", "asks"), {"inputData": 3})
    found = schemas(await asking.get("/workflows/nested"))
    assert list(found) == ["asking.human"]
    assert '"by":{"type":"integer"}' in found["asking.human"]
