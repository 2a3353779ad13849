"""What belongs to one resource is not there for another, on any route, whatever is asked."""

from __future__ import annotations

import typing
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mastra_nb import Mastra, portal
from mastra_nb.server._routes import Empty, Route
from mastra_nb.server.application import all_routes, create_app
from mastra_nb.server.options import ServerOptions

CANARY = "what-only-ann-may-see"
ROUTES = [r for r in all_routes() if not r.path.endswith("/threads/subscribe")]
ANN, BOB = {"authorization": "Bearer of-ann"}, {"authorization": "Bearer of-bob"}
JUNK: list[Any] = [None, "", "nobody", 0, True, [], {}, {"$gt": ""}]


class World:
    """An application in which ann has said and done things, and bob nothing."""

    def __init__(self, app: Mastra) -> None:
        self.app = app
        gate = create_app(app, options=ServerOptions(tokens={"of-ann": "ann", "of-bob": "bob"}))
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(gate, raise_app_exceptions=False),
            base_url="http://localhost",
        )
        self.ids: dict[str, list[str]] = {}

    async def fill(self) -> None:
        async def post(path: str, body: Any) -> Any:
            answer = await self.http.post(f"/api{path}", json=body, headers=ANN)
            assert answer.status_code == 200, answer.text
            return answer.json()

        memory = {"thread": "of-anns", "resource": "ann"}
        said = await post("/agents/plain/generate", {"messages": CANARY, "memory": memory})
        asked = await post("/agents/payer/generate", {"messages": CANARY, "memory": memory})
        assert asked["finishReason"] == "suspended"
        done = await post("/workflows/math/start-async", {"inputData": 21})
        waits = await post(
            "/workflows/human/start-async",
            {"inputData": 4, "initialState": {"note": CANARY}, "requestContext": {"n": CANARY}},
        )
        assert waits["status"] == "suspended"
        runs = [said["runId"], asked["runId"], done["runId"], waits["runId"]]
        store = self.app.store
        assert store is not None
        assert {row.resource for row in await store.find_runs()} == {"ann"}
        thread = await store.get_thread("of-anns")
        assert thread is not None
        await store.put_thread(msgspec.structs.replace(thread, title=CANARY, meta={"k": CANARY}))
        call = asked["suspendPayload"]["toolCallId"]
        messages = [f"{run}-{n}" for run in runs[:2] for n in ("u0", "a1")]
        self.ids = {
            "agentId": ["plain", "payer"],
            "workflowId": ["math", "human"],
            "toolId": ["weather", "pay"],
            "runId": runs,
            "threadId": ["of-anns"],
            "thread": ["of-anns"],
            "conversationId": ["of-anns"],
            "conversation_id": ["of-anns"],
            "conversation": ["of-anns"],
            "responseId": runs,
            "previous_response_id": runs,
            "toolCallId": [call],
            "resourceId": ["ann", "bob"],
            "resource": ["ann", "bob"],
            "newResourceId": ["bob"],
            "messageIds": messages,
            "traceId": [said["traceId"], waits["traceId"]],
            "searchQuery": [CANARY],
            "step": ["double", "ask"],
            "entityId": ["plain"],
        }

    async def everything(self) -> Any:
        """All that ann has, as the store has it."""
        store = self.app.store
        assert store is not None
        runs = await store.find_runs(resource="ann")
        threads = await store.find_threads(resource="ann")
        return (
            [msgspec.structs.astuple(r) for r in runs],
            {r.id: len(await store.read_events(r.id)) for r in runs},
            [(msgspec.structs.astuple(t), await store.read_messages(t.id)) for t in threads],
        )


@pytest.fixture
def world(application: Mastra) -> World:
    made = World(application)
    portal.run(made.fill())
    return made


def guesses(world: World, name: str, kind: Any) -> list[Any]:
    known: list[Any] = [*world.ids.get(name, ())]
    if name in ("memory", "memoryConfig"):
        known = [{"thread": "of-anns", "resource": "ann"}, {"thread": {"id": "of-anns"}}]
    elif name == "messages":
        known = ["Hi", [{"role": "user", "content": "Hi", "threadId": "of-anns"}]]
        known[1][0]["resourceId"] = "ann"
    elif name in ("resumeData", "approved"):
        known = [{"ok": True}, {"approved": True}, True]
    elif name in ("inputData", "message"):
        known = [3, "Hi"]
    elif name in ("page", "offset"):
        known = [0]
    elif name in ("perPage", "limit"):
        known = [100]
    elif typing.get_origin(kind) is list or kind == list[str]:
        known = [*known, known]
    return known


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: f"{r.method} {r.path}")
def test_nothing_of_another_is_seen_or_changed(world: World, route: Route) -> None:
    before = portal.run(world.everything())
    names = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]

    def fields(kind: Any) -> st.SearchStrategy[dict[str, Any]]:
        if kind in (None, Empty) or not hasattr(kind, "__struct_fields__"):
            return st.just({})
        made = {}
        for field in msgspec.structs.fields(kind):
            likely = guesses(world, field.encode_name, field.type)
            made[field.encode_name] = st.sampled_from(likely * 3 + JUNK)
        return st.fixed_dictionaries({}, optional=made)

    @given(
        path=st.fixed_dictionaries({n: st.sampled_from(world.ids.get(n, ["docs"])) for n in names}),
        body=fields(route.body),
        query=fields(route.query),
    )
    @settings(
        max_examples=15, deadline=None, derandomize=True, database=None,
        suppress_health_check=[*HealthCheck],
    )  # fmt: skip
    def holds(path: dict[str, str], body: dict[str, Any], query: dict[str, Any]) -> None:
        prefix = "/api" if route.prefixed else ""
        given = {k: v for k, v in query.items() if isinstance(v, str | int)}
        answer = portal.run(
            world.http.request(
                route.method,
                prefix + route.path.format(**path),
                headers=BOB,
                params=given,
                json=body if route.body is not None else None,
                timeout=20,
            )
        )
        assert answer.status_code < 500 or answer.status_code == 501, answer.text
        echoed = str(body) + str(query)
        if CANARY not in echoed:
            assert CANARY not in answer.text, (path, body, query)
        if answer.status_code == 200:
            for run in world.ids["runId"]:
                assert f'"{run}"' not in answer.text, (path, body, query)

    holds()
    assert portal.run(world.everything()) == before


def test_who_it_belongs_to_finds_it(world: World) -> None:
    run = world.ids["runId"][3]
    path = f"/api/workflows/human/runs/{run}"
    assert portal.run(world.http.get(path, headers=ANN)).status_code == 200
    assert portal.run(world.http.get(path, headers=BOB)).status_code == 404
