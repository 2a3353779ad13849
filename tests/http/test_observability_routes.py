"""Metrics and questions on traces: what is measured, hostile questions, other people's runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from mastra_nb import Agent, Mastra, Workflow, tool
from mastra_nb.server.application import create_app
from mastra_nb.server.metrics import NAMES, Measured, Window, aggregated, cost_of, percentile
from mastra_nb.server.options import ServerOptions
from mastra_nb.testing import ScriptedModel, calls

INPUT, OUTPUT = "mastra_model_total_input_tokens", "mastra_model_total_output_tokens"
ANN, BOB = {"authorization": "Bearer of-ann"}, {"authorization": "Bearer of-bob"}
DAY = 86_400.0


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    if city == "Atlantis":
        raise ValueError("it sank")
    return f"{city}: 21"


async def double(n: int) -> int:
    return n * 2


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    model = ScriptedModel(calls("weather", city="Oslo"), "It is 21.", repeat=True)
    lost = ScriptedModel(calls("weather", city="Atlantis"), "It sank.", repeat=True)
    app = Mastra(
        agents=[
            Agent(name="talker", model=model, tools=[weather], memory=True),
            Agent(name="diver", model=lost, tools=[weather]),
        ],
        workflows=[Workflow(name="math", input=int).then(double)],
        storage="memory://",
    )
    gate = create_app(app, options=ServerOptions(tokens={"of-ann": "ann", "of-bob": "bob"}))
    transport = httpx.ASGITransport(gate)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://localhost/api", headers=ANN
    ) as made:
        yield made


async def ask(http: httpx.AsyncClient, agent: str = "talker") -> Any:
    answer = await http.post(f"/agents/{agent}/generate", json={"messages": "Well?"})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def metric(http: httpx.AsyncClient, what: str, **body: Any) -> Any:
    answer = await http.post(f"/observability/metrics/{what}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


# Metrics


async def test_runs_and_tokens_are_counted(http: httpx.AsyncClient) -> None:
    said = [await ask(http), await ask(http)]
    runs = await metric(http, "aggregate", name=["mastra_agent_duration_ms"], aggregation="count")
    assert runs == {"value": 2, "estimatedCost": None, "costUnit": None}
    used = sum(s["usage"]["inputTokens"] for s in said)
    assert used > 0
    spent = await metric(http, "aggregate", name=[INPUT], aggregation="sum")
    assert spent["value"] == used
    both = await metric(http, "aggregate", name=[INPUT, OUTPUT], aggregation="sum")
    assert both["value"] == used + sum(s["usage"]["outputTokens"] for s in said)
    slowest = await metric(http, "aggregate", name=["mastra_tool_duration_ms"], aggregation="max")
    assert slowest["value"] >= 0


async def test_nothing_measured_is_null_and_not_zero(http: httpx.AsyncClient) -> None:
    for how, value in (("sum", None), ("avg", None), ("last", None), ("count", 0)):
        answer = await metric(http, "aggregate", name=[INPUT], aggregation=how)
        assert answer["value"] == value, how
    for what, key in (("breakdown", "groups"), ("timeseries", "series")):
        about = {"name": [INPUT], "aggregation": "sum", "groupBy": ["model"], "interval": "1h"}
        assert await metric(http, what, **about) == {key: []}


async def test_a_filter_on_what_nothing_has_lets_nothing_through(http: httpx.AsyncClient) -> None:
    said = await ask(http)

    async def count(**filters: Any) -> int:
        answer = await metric(
            http, "aggregate", name=["mastra_agent_duration_ms"], aggregation="count",
            filters=filters,
        )  # fmt: skip
        return int(answer["value"])

    assert await count() == 1
    assert await count(entityName="talker", rootEntityType="agent") == 1
    assert await count(traceIds=[said["traceId"]]) == 1
    assert await count(labels={"status": "ok"}) == 1
    for other in (
        {"experimentId": "x"}, {"entityName": "diver"}, {"status": "error"}, {"rowid": 1},
        {"traceIds": ["0"]}, {"environment": "prod"}, {"labels": {"status": "error"}},
        {"timestamp": {"end": "2001-01-01T00:00:00Z"}},
        {"timestamp": {"start": "2999-01-01T00:00:00Z"}},
    ):  # fmt: skip
        assert await count(**other) == 0, other


async def test_a_breakdown_tells_what_belongs_to_what(http: httpx.AsyncClient) -> None:
    await ask(http)
    await ask(http)
    await ask(http, "diver")
    about = {"name": ["mastra_agent_duration_ms"], "aggregation": "count"}
    found = await metric(http, "breakdown", **about, groupBy=["entityName"])
    assert [(g["dimensions"], g["value"]) for g in found["groups"]] == [
        ({"entityName": "talker"}, 2), ({"entityName": "diver"}, 1),
    ]  # fmt: skip
    one = await metric(
        http, "breakdown", **about, groupBy=["entityName"], orderDirection="ASC", limit=1
    )
    assert [g["dimensions"]["entityName"] for g in one["groups"]] == ["diver"]
    tools = {"name": ["mastra_tool_duration_ms"], "aggregation": "count"}
    found = await metric(http, "breakdown", **tools, groupBy=["entityName", "status"])
    assert {(g["dimensions"]["status"], g["value"]) for g in found["groups"]} == {
        ("ok", 2), ("error", 1),
    }  # fmt: skip
    tokens = {"name": [INPUT], "aggregation": "count", "groupBy": ["entityName", "entityType"]}
    found = await metric(http, "breakdown", **tokens)
    assert {g["dimensions"]["entityName"] for g in found["groups"]} == {"talker", "diver"}


async def test_metrics_over_time(http: httpx.AsyncClient) -> None:
    await ask(http)
    await ask(http, "diver")
    about = {"name": [INPUT, OUTPUT], "aggregation": "sum", "interval": "1d"}
    (series,) = (await metric(http, "timeseries", **about))["series"]
    assert series["name"] == f"{INPUT},{OUTPUT}"
    total = (await metric(http, "aggregate", name=[INPUT, OUTPUT], aggregation="sum"))["value"]
    assert sum(point["value"] for point in series["points"]) == total
    assert all(point["timestamp"].endswith("T00:00:00.000Z") for point in series["points"])
    grouped = await metric(http, "timeseries", **about, groupBy=["entityName", "status"])
    assert {s["name"] for s in grouped["series"]} == {"talker|ok", "diver|ok"}
    found = await metric(
        http, "percentiles", name="mastra_agent_duration_ms", percentiles=[0.5, 0.95],
        interval="1d",
    )  # fmt: skip
    assert [s["percentile"] for s in found["series"]] == [0.5, 0.95]
    middle, high = (s["points"][0]["value"] for s in found["series"])
    assert 0 <= middle <= high


async def test_a_period_is_compared_with_that_before(http: httpx.AsyncClient) -> None:
    await ask(http)
    about = {"name": ["mastra_agent_duration_ms"], "aggregation": "count"}
    span = {"timestamp": {"start": "2000-01-01T00:00:00Z", "end": "2999-01-01T00:00:00Z"}}
    found = await metric(http, "aggregate", **about, filters=span, comparePeriod="previous_period")
    assert (found["value"], found["previousValue"], found["changePercent"]) == (1, 0, None)
    forever = await metric(http, "aggregate", **about, comparePeriod="previous_period")
    assert "previousValue" not in forever


def test_windows_touch_but_do_not_overlap() -> None:
    now = Window(100.0, 200.0)
    before = now.before("previous_period")
    assert before is not None
    assert [0.0 in before, 100.0 in before, 100.0 in now, 200.0 in now] == [True, False, True, True]
    assert Window(DAY, 2 * DAY).before("previous_day") == Window(0.0, DAY)
    assert Window().before("previous_day") is None


def test_a_call_costs_what_it_costs_once() -> None:
    found = [
        Measured(INPUT, 1.0, 10, {"model": "m"}, "call 1", 0.5),
        Measured(OUTPUT, 1.0, 3, {"model": "m"}, "call 1", 0.5),
        Measured(INPUT, 2.0, 7, {"model": "n"}, "call 2", 0.25),
        Measured(INPUT, 3.0, 7, {"model": "n"}, "call 3", None),
    ]
    assert cost_of(found) == 0.75
    assert cost_of(found[3:]) is None
    assert aggregated("sum", found) == 27
    assert aggregated("count_distinct", found, "model") == 2
    assert aggregated("last", found) == 7


def test_percentiles_lie_between_what_was_measured() -> None:
    assert percentile([5.0], 0.95) == 5.0
    assert percentile([0.0, 10.0], 0.5) == 5.0
    assert percentile([1.0, 2.0, 3.0, 4.0], 1.0) == 4.0


async def test_names_of_metrics(http: httpx.AsyncClient) -> None:
    path = "/observability/discovery/metric-names"
    assert (await http.get(path)).json() == {"names": [*NAMES]}
    some = (await http.get(path, params={"prefix": "mastra_model_total", "limit": 1})).json()
    assert some == {"names": [INPUT]}


BAD: list[tuple[str, dict[str, Any]]] = [
    ("aggregate", {}),
    ("aggregate", {"name": [INPUT], "aggregation": "stdev"}),
    ("aggregate", {"name": INPUT, "aggregation": "sum"}),
    ("aggregate", {"name": [INPUT], "aggregation": "sum", "filters": []}),
    *(
        ("aggregate", {"name": [INPUT], "aggregation": "sum", "filters": {"timestamp": given}})
        for given in ("now", 5, {"start": 5}, {"start": "soon"})
    ),
    ("breakdown", {"name": [INPUT], "aggregation": "sum", "groupBy": []}),
    ("breakdown", {"name": [INPUT], "aggregation": "sum", "groupBy": ["model"], "limit": 0}),
    ("timeseries", {"name": [INPUT], "interval": "1y"}),
    ("percentiles", {"name": INPUT, "percentiles": [95], "interval": "1h"}),
]


@pytest.mark.parametrize(("what", "body"), BAD)
async def test_what_cannot_be_measured_is_refused(
    http: httpx.AsyncClient, what: str, body: dict[str, Any]
) -> None:
    answer = await http.post(f"/observability/metrics/{what}", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["issues"]


async def test_metrics_of_another_are_not_there(http: httpx.AsyncClient) -> None:
    said = await ask(http)
    body = {"name": ["mastra_agent_duration_ms"], "aggregation": "count"}
    for filters in ({}, {"resourceId": "ann"}, {"traceId": said["traceId"]}):
        answer = await http.post(
            "/observability/metrics/aggregate", json={**body, "filters": filters}, headers=BOB
        )
        assert answer.json()["value"] == 0, filters


# Questions on traces


async def query(http: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await http.post("/observability/traces/query", json=body)


async def test_traces_come_in_pages(http: httpx.AsyncClient) -> None:
    ids = [(await ask(http))["traceId"] for _ in range(3)]
    seen, after = [], None
    for _ in range(3):
        found = (await query(http, page={"limit": 1, "after": after})).json()
        seen += [t["traceId"] for t in found["traces"]]
        after = found["page"]["next"]
    assert (sorted(seen), after) == (sorted(ids), None)
    (trace,) = (await query(http, page={"limit": 1})).json()["traces"]
    assert {*trace} == {
        "traceId", "rootSpanId", "parentSpanId", "name", "entityId", "entityName", "entityType",
        "threadId", "resourceId", "startedAt", "endedAt", "createdAt", "status", "inputPreview",
        "environment", "metadata",
    }  # fmt: skip


@pytest.mark.parametrize(
    "where",
    [
        1, "x", [], [1], {"op": "and", "args": [1]}, {"op": "not", "arg": "x"},
        {"op": "eq", "left": {"path": ["status"]}, "right": {"literal": 1}},
        {"op": ["eq"], "left": {"path": "status"}}, {"op": "eq", "left": 1, "right": 2},
        {"op": "and"}, {"spans": {}},
    ],
)  # fmt: skip
async def test_a_condition_that_is_none_is_refused(http: httpx.AsyncClient, where: Any) -> None:
    await ask(http)
    answer = await query(http, where=where)
    assert answer.status_code in (400, 501), answer.text
    assert answer.json()["error"]


async def test_a_condition_has_an_end(http: httpx.AsyncClient) -> None:
    await ask(http)
    where: Any = {"op": "eq", "left": {"path": "status"}, "right": {"literal": "success"}}
    for _ in range(40):
        where = {"op": "not", "arg": where}
    assert (await query(http, where=where)).status_code == 400


async def test_what_orders_and_pages_is_only_a_hint(http: httpx.AsyncClient) -> None:
    await ask(http)
    for body in (
        {"orderBy": [{"direction": 5}]}, {"orderBy": []}, {"page": {"after": "²"}},
        {"page": {"after": "9" * 5000}}, {"page": {"limit": "x"}}, {"page": {"limit": -1}},
        {"timeRange": {"from": 5}},
    ):  # fmt: skip
        assert (await query(http, **body)).status_code == 200, body


async def test_fields_say_whether_their_values_can_be_asked_for(http: httpx.AsyncClient) -> None:
    await ask(http)
    await ask(http)
    await ask(http, "diver")
    fields = (await http.post("/observability/traces/query/fields", json={})).json()
    known = {f["path"]: f["valueSuggestions"] for f in fields["canonicalFields"]}
    assert (known["entityName"], known["traceId"]) == (True, False)
    assert (fields["observedFields"], fields["observedFieldsTruncated"]) == ([], False)

    async def values(**body: Any) -> httpx.Response:
        return await http.post("/observability/traces/query/values", json=body)

    assert (await values(path="entityName")).json() == {
        "values": [{"value": "talker", "count": 2}, {"value": "diver", "count": 1}],
        "valuesTruncated": False,
    }
    some = (await values(path="entityName", limit=1, search="T")).json()
    assert some == {"values": [{"value": "talker", "count": 2}], "valuesTruncated": False}
    for bad in ({"path": "rowid"}, {"path": "status", "limit": 0}, {}):
        assert (await values(**bad)).status_code == 400, bad
    mine = await http.post(
        "/observability/traces/query/values", json={"path": "entityName"}, headers=BOB
    )
    assert mine.json() == {"values": [], "valuesTruncated": False}
