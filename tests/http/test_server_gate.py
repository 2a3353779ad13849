"""Who may ask, from where, how much and how slowly."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from mastra_nb import Agent, Mastra, tool
from mastra_nb.config import Secret
from mastra_nb.errors import ConfigError
from mastra_nb.server.application import create_app
from mastra_nb.server.options import Identity, ServerOptions
from mastra_nb.server.run import Server
from mastra_nb.testing import ScriptedModel

CANARY = "canary-token-0123456789"


@tool
def broken(n: int) -> int:
    """Fails."""
    raise RuntimeError(f"at {CANARY}")


@contextlib.asynccontextmanager
async def client(options: ServerOptions, **more: Any) -> AsyncIterator[httpx.AsyncClient]:
    agent = Agent(name="plain", model=ScriptedModel("Hi.", repeat=True), tools=[broken])
    async with Mastra(agents=[agent], tools=[broken], storage="memory://") as app:
        transport = httpx.ASGITransport(create_app(app, options=options), **more)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            yield http


async def test_a_token_is_needed_where_there_is_one() -> None:
    options = ServerOptions(token=Secret(CANARY), tokens={"of-u1": "u1"})
    async with client(options) as http:
        for headers in ({}, {"authorization": "Bearer other"}, {"authorization": CANARY}):
            answer = await http.get("/api/agents", headers=headers)
            assert answer.status_code == 401, headers
            assert answer.headers["www-authenticate"] == "Bearer"
            assert CANARY not in answer.text
        for token in (CANARY, "of-u1"):
            answer = await http.get("/api/agents", headers={"authorization": f"bearer {token}"})
            assert answer.status_code == 200
    assert CANARY not in repr(options)


async def test_an_application_may_decide_who_asks() -> None:
    async def who(request: Any) -> Identity | None:
        user = request.headers.get("x-user")
        return Identity(resource=user) if user else None

    async with client(ServerOptions(authenticate=who)) as http:
        assert (await http.get("/api/agents")).status_code == 401
        asked = {"messages": "Hi", "memory": {"thread": "t", "resource": "somebody-else"}}
        answer = await http.post(
            "/api/agents/plain/generate", json=asked, headers={"x-user": "ann"}
        )
        assert answer.status_code == 200
        listed = await http.get("/api/agents/plain/suspended-runs", headers={"x-user": "ann"})
        assert listed.json() == {"runs": [], "total": 0}


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "", "[::2]"]
)
async def test_a_name_that_was_made_to_point_here_is_refused(host: str) -> None:
    async with client(ServerOptions()) as http:
        assert (await http.get("/api/agents", headers={"host": host})).status_code == 421


async def test_a_cluster_asks_by_address_whether_it_lives() -> None:
    async with client(ServerOptions(token=Secret(CANARY), hosts=["agents.example"])) as http:
        for path, status in (("/health", 200), ("/api/agents", 421)):
            answer = await http.get(path, headers={"host": "10.1.2.3:4111"})
            assert answer.status_code == status


@pytest.mark.parametrize("host", ["localhost:4111", "127.0.0.1:1", "[::1]:4111", "LOCALHOST"])
async def test_names_of_this_machine_are_served(host: str) -> None:
    async with client(ServerOptions()) as http:
        assert (await http.get("/api/agents", headers={"host": host})).status_code == 200


async def test_a_page_of_another_may_not_ask() -> None:
    async with client(ServerOptions(origins=["https://app.example"])) as http:
        for origin in ("https://evil.example", "null", "http://localhost.evil.example", "http://["):
            answer = await http.post(
                "/api/agents/plain/generate", json={"messages": "Hi"}, headers={"origin": origin}
            )
            assert answer.status_code == 403, origin
            assert "access-control-allow-origin" not in answer.headers
        for origin in ("https://app.example", "http://localhost:3000", "http://127.0.0.1:5173"):
            answer = await http.get("/api/agents", headers={"origin": origin})
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == origin
            before = await http.options(
                "/api/agents",
                headers={"origin": origin, "access-control-request-method": "POST"},
            )
            assert before.status_code == 204
            allowed = before.headers["access-control-allow-headers"]
            for name in ("Authorization", "x-mastra-client-type", "x-mastra-dev-playground"):
                assert name in allowed


async def test_a_preflight_needs_no_token_and_an_error_is_readable_by_its_page() -> None:
    async with client(ServerOptions(token=Secret(CANARY))) as http:
        headers = {"origin": "http://localhost:3000", "access-control-request-method": "GET"}
        assert (await http.options("/api/agents", headers=headers)).status_code == 204
        answer = await http.get("/api/agents", headers={"origin": "http://localhost:3000"})
        assert answer.status_code == 401
        assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"


async def test_a_large_body_is_refused_with_and_without_its_length() -> None:
    async with client(ServerOptions(max_body=1000)) as http:
        answer = await http.post("/api/agents/plain/generate", json={"messages": "x" * 2000})
        assert (answer.status_code, answer.json()) == (413, {"error": "Request body too large"})

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b"x" * 100

        answer = await http.post("/api/agents/plain/generate", content=pieces())
        assert answer.status_code == 413


@pytest.mark.parametrize(
    "body", [b"{", b"\xff\xfe", b'{"messages": "\\ud800"', b"[" * 100_000, b"null", b"[]", b""]
)
async def test_a_body_that_cannot_be_read_is_said_to_be(body: bytes) -> None:
    async with client(ServerOptions()) as http:
        answer = await http.post("/api/agents/plain/generate", content=body)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("Invalid")


async def test_half_a_surrogate_pair_does_no_harm() -> None:
    async with client(ServerOptions()) as http:
        answer = await http.post("/api/agents/plain/generate", content=b'{"messages": "a\\ud800b"}')
        assert answer.status_code in (200, 400)


async def test_a_failure_shows_no_stack_and_no_secret() -> None:
    async with client(ServerOptions(), raise_app_exceptions=False) as http:
        answer = await http.post("/api/tools/broken/execute", json={"data": {"n": 1}})
        assert answer.status_code == 424
        assert "Traceback" not in answer.text
        assert ".py" not in answer.text


async def test_what_is_not_there_is_json_too() -> None:
    async with client(ServerOptions()) as http:
        for method, path, status in (
            ("GET", "/api/nothing", 404),
            ("DELETE", "/api/agents", 405),
            ("GET", "/api/agents/", 404),
            ("GET", "/api/agents/%2e%2e%2f%2e%2e%2fetc", 404),
        ):
            answer = await http.request(method, path)
            assert answer.status_code == status, path
            assert set(answer.json()) >= {"error"}


def test_no_address_beyond_this_machine_without_a_token() -> None:
    app = Mastra()
    with pytest.raises(ConfigError, match="no token is asked for"):
        Server(app, host="0.0.0.0", options=ServerOptions())
    assert Server(app, options=None).options.protected, "a token is made where there is none"


async def raw(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        return await asyncio.wait_for(reader.read(65536), 10)
    finally:
        writer.close()


async def test_slow_and_half_open_clients_are_given_up() -> None:
    head = (
        b"POST /api/agents/plain/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n"
    )
    agent = Agent(name="plain", model=ScriptedModel("Hi.", repeat=True))
    app = Mastra(agents=[agent], storage="memory://")
    async with app, Server(app, port=0, options=ServerOptions(slow=0.3)) as server:
        began = asyncio.get_running_loop().time()
        assert b"200" not in await raw(server.port, head + b'{"mess')
        assert asyncio.get_running_loop().time() - began < 8
        # Others are served all the while.
        stuck = [asyncio.create_task(raw(server.port, head)) for _ in range(50)]
        async with httpx.AsyncClient(base_url=server.url) as http:
            answer = await http.post("/api/agents/plain/generate", json={"messages": "Hi"})
            assert answer.json()["text"] == "Hi."
        await asyncio.gather(*stuck)
