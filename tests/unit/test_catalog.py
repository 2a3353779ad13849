from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from mastra_nb import plugins
from mastra_nb.catalog import catalog
from mastra_nb.errors import NotFound
from mastra_nb.models import Availability
from mastra_nb.testing import ScriptedModel
from tests.http.server import Answer, refused, serve


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = dict(plugins.providers._registered), dict(plugins.providers._loaded)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield
    plugins.providers._registered, plugins.providers._loaded = before


async def state(name: str, *, ask: bool = False) -> Availability:
    (entry,) = await catalog([name], ask=ask)
    assert entry.provider == name
    return entry.state


async def test_a_key_that_is_missing_and_one_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await state("openai") == Availability(ready=False, why="set OPENAI_API_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    found = await state("openai")
    assert found == Availability(ready=True, why="key in OPENAI_API_KEY")
    assert "sk-secret" not in repr(found)


@pytest.mark.parametrize(
    "body",
    [
        {"object": "list", "data": [{"id": "b"}, {"id": "a"}]},
        {"models": [{"name": "models/b"}, {"name": "models/a"}]},
        [{"id": "a"}, {"id": "b"}],
    ],
)
async def test_a_service_is_asked_what_it_has(
    body: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = Answer(200, {"content-type": "application/json"}, [json.dumps(body).encode()])
    async with serve([answer]) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
        assert not (await state("openai")).models
        assert server.requests == []
        found = await state("openai", ask=True)
        assert found == Availability(ready=True, why=f"answers at {server.url}", models=("a", "b"))
        assert server.requests[0][0]["authorization"] == "Bearer sk-secret"


async def test_a_server_without_a_key_is_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve([refused(404)]) as server:
        monkeypatch.setenv("VLLM_BASE_URL", server.url)
        assert await state("vllm") == Availability(ready=True, why=f"answers at {server.url}")
    assert await state("vllm") == Availability(
        ready=False, why=f"nothing answers at {server.url}: start it with `vllm serve <model>`"
    )


async def test_a_wrong_key_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve([refused(401, "Incorrect API key")]) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
        found = await state("openai", ask=True)
    why = '"openai" answered 401: Incorrect API key: check the key in OPENAI_API_KEY'
    assert found == Availability(ready=False, why=why)
    assert len(server.requests) == 1


async def test_plugins_that_say_nothing_and_that_are_broken() -> None:
    plugins.providers.register("mine", lambda name, id: ScriptedModel())
    plugins.providers.register("broken", "no_such_module:provider")
    assert (await state("mine")).ready
    broken = await state("broken")
    assert not broken.ready
    assert "no_such_module" in broken.why


async def test_every_provider_is_listed_and_an_unknown_one_is_an_error() -> None:
    assert [e.provider for e in await catalog()] == list(plugins.providers.names())
    with pytest.raises(NotFound, match='no provider "opnai"'):
        await catalog(["opnai"])
