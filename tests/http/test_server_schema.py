"""The server as its own OpenAPI document describes it: nothing that is asked makes it fail."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from mastra_nb import Mastra, portal
from mastra_nb.server.application import all_routes
from mastra_nb.server.openapi import described, document, operation_id
from mastra_nb.server.options import ServerOptions
from mastra_nb.server.run import Server


def does_not_fail(ctx: Any, response: Any, case: Any) -> bool | None:
    """What the server says that it does not offer (501) is no failure of it."""
    return None if response.status_code == 501 else not_a_server_error(ctx, response, case)


CHECKS = (does_not_fail, status_code_conformance, content_type_conformance)
# Streams that end when their client does.
ENDLESS = ("/threads/subscribe",)
ROUTES = [*all_routes(), *described(all_routes(), "/api")]
# What is there, so that not everything is answered with 404.
THERE = {
    "agentId": ["plain", "payer", "nobody"],
    "workflowId": ["math", "human", "nothing"],
    "toolId": ["weather", "pay"],
    "runId": ["r1", "r2"],
    "threadId": ["t1", "t2"],
    "conversationId": ["t1", "t2"],
    "responseId": ["r1", "r2"],
    "indexName": ["docs"],
}


def with_names(found: dict[str, Any]) -> dict[str, Any]:
    for path in found["paths"].values():
        for operation in path.values():
            for parameter in operation["parameters"]:
                if parameter["name"] in THERE:
                    parameter["schema"] = {"enum": THERE[parameter["name"]]}
    return found


SCHEMA = schemathesis.openapi.from_dict(with_names(document(ROUTES, "/api")))
OPERATIONS = {
    found.ok().label: found.ok()
    for found in SCHEMA.get_all_operations()
    if not found.ok().path.endswith(ENDLESS)
}


@pytest.fixture
def url(application: Mastra) -> Iterator[str]:
    server = Server(application, port=0, options=ServerOptions(schedules=False, drain=1))
    portal.run(server.start())
    yield server.url
    portal.run(server.stop())


@pytest.mark.parametrize("label", OPERATIONS)
def test_nothing_that_is_asked_makes_it_fail(url: str, label: str) -> None:
    @given(case=OPERATIONS[label].as_strategy())
    @settings(
        max_examples=int(os.environ.get("MASTRA_NB_EXAMPLES", "12")),
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],
    )
    def holds(case: schemathesis.Case) -> None:
        case.call_and_validate(base_url=url, checks=CHECKS, timeout=20)

    holds()


def test_every_route_says_what_it_does() -> None:
    for route in ROUTES:
        assert route.summary, route.path
    known = [(r.method, r.path, r.prefixed) for r in ROUTES]
    assert len({*known}) == len(known)
    names = [operation_id(r) for r in ROUTES]
    assert len({*names}) == len(names), "ids of operations"
