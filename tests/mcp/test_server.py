"""Our server and our client with each other, over stdio and HTTP, at both revisions."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from mastra_nb import Agent, Context, Mastra, MCPClient, Media, Settings, Text, portal, tool
from mastra_nb.config import Secret
from mastra_nb.errors import ConfigError, MastraError, NotFound, ToolError, ToolFailed, ToolTimeout
from mastra_nb.events import Custom
from mastra_nb.mcp.client import Elicitation
from mastra_nb.mcp.servers import Http, Stdio
from mastra_nb.server.mcp import MCPServer, load
from mastra_nb.testing import ScriptedModel, calls
from mastra_nb.workflows import Workflow, step

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
REVISIONS = ["2025-11-25", "2026-07-28"]


@contextlib.asynccontextmanager
async def over_http(server: MCPServer, **options: Any) -> AsyncIterator[str]:
    """The URL of `server`, on the portal's loop: a server in the same process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = uvicorn.Config(
        server.http_app(**options), port=port, log_level="error", ws="none",
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    running = uvicorn.Server(config)
    task = asyncio.create_task(running.serve())
    while not running.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        running.should_exit = True
        await task


def stdio(**options: Any) -> Stdio:
    return Stdio(
        sys.executable,
        ["-m", "mastra_nb.server.mcp", "served:app"],
        env={"PYTHONPATH": str(ROOT)},
        cwd=HERE,
        **options,
    )


@pytest.fixture(params=[f"{how} {rev}" for how in ("stdio", "http") for rev in REVISIONS])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    how, revision = request.param.split()
    if how == "stdio":
        yield stdio(protocol=revision)
        return
    async with over_http(load_served()) as url:
        yield Http(url, protocol=revision)


def load_served() -> MCPServer:
    here = os.getcwd()
    os.chdir(HERE)
    try:
        sys.modules.pop("served", None)
        return load("served:app")
    finally:
        os.chdir(here)
        sys.path.remove(str(HERE))


async def test_all_that_a_client_can_do(served: Any) -> None:
    asked: list[Elicitation] = []

    def elicit(question: Elicitation) -> dict[str, Any] | None:
        asked.append(question)
        fields = question.schema["properties"]
        return {"approved": True} if "approved" in fields else {"name": "blue"}

    async with MCPClient({"s": served}, elicit=elicit, sample=lambda r: "borrowed words") as client:
        about = await client.info("s")
        assert about["protocol"] == served.protocol and about["instructions"] == "Be nice to it."
        assert {t.remote for t in await client.tools()} == {
            "add", "leak", "delete", "colour", "picture", "facts",
            "ask_poet", "ask_cleaner", "ask_borrower",
        }  # fmt: skip
        assert await client.call("s", "add", {"a": 2, "b": 3}) == "5"
        assert await client.call("s", "facts") == {"n": 3}
        (image,) = await client.call("s", "picture")
        assert image["mime"] == "image/png"
        assert await client.call("s", "ask_poet", {"prompt": "a poem"}) == (
            "Roses are red, and so on."
        )
        assert await client.call("s", "colour") == "blue"
        assert await client.call("s", "delete", {"path": "b.txt"}) == "deleted b.txt"
        assert await client.call("s", "ask_cleaner", {"prompt": "clean"}) == "cleaned"
        assert await client.call("s", "ask_borrower", {"prompt": "say"}) == "borrowed words"
        assert [a.message for a in asked] == [
            "Which colour?",
            'Allow "delete" with {"path":"b.txt"}?',
            'Allow "delete" with {"path":"a.txt"}?',
        ]
        assert [r["uri"] for r in await client.resources("s")] == ["note://hello", "note://pixels"]
        (template,) = await client.resource_templates("s")
        assert template["uriTemplate"] == "weather://{city}"
        assert await client.read_resource("s", "note://hello") == [Text(text="Hello!")]
        assert await client.read_resource("s", "note://pixels") == [
            Media(mime="image/png", data=b"\x00\x01")
        ]
        assert await client.read_resource("s", "weather://Oslo") == [Text(text="sunny in Oslo")]
        with pytest.raises(ToolError, match='no resource "note://none"'):
            await client.read_resource("s", "note://none")
        (prompt,) = await client.prompts("s")
        assert [a["name"] for a in prompt["arguments"] if a["required"]] == ["code"]
        (message,) = await client.prompt("s", "review", {"code": "x = 1"})
        assert (message.role, message.text) == ("user", "Review this, and be kind: x = 1")
        found = await client.complete("s", uri="weather://{city}", argument="city", value="Os")
        assert found == ["Oslo", "Osaka"]
        assert await client.complete("s", prompt="review", argument="tone", value="ha") == ["harsh"]


async def test_errors_hold_no_trace_and_no_secret(served: Any) -> None:
    async with MCPClient({"s": served}) as client:
        with pytest.raises(ToolFailed) as caught:
            await client.call("s", "leak")
        assert "Traceback" not in str(caught.value) and "canary" not in str(caught.value)
        with pytest.raises(ToolFailed, match="arguments"):
            await client.call("s", "add", {"a": "two"})
        with pytest.raises(MastraError, match='no tool "ad"; did you mean "add"'):
            await client.call("s", "ad")


async def test_what_needs_a_person_is_refused_without_one() -> None:
    """Over the official client, which says that it can ask nobody."""
    import mcp

    async with over_http(load_served()) as url:
        async with mcp.Client(url, mode="legacy") as client:
            result = await client.call_tool("delete", {"path": "x"})
            assert result.is_error
            assert 'the client has no "elicitation"' in result.content[0].text  # type: ignore[union-attr]
        async with mcp.Client(url, mode="2026-07-28") as client:
            with pytest.raises(mcp.MCPError, match='no "elicitation"') as caught:
                await client.call_tool("delete", {"path": "x"})
            assert caught.value.code == -32021


async def test_a_denied_approval_is_told() -> None:
    async with (
        over_http(load_served()) as url,
        MCPClient({"s": Http(url)}, elicit=lambda q: None) as client,
    ):
        with pytest.raises(ToolFailed, match="denied"):
            await client.call("s", "delete", {"path": "x"})
        with pytest.raises(ToolFailed, match="gave none"):
            await client.call("s", "colour")


async def test_the_text_of_an_agent_streams_as_progress(served: Any) -> None:
    model = ScriptedModel(calls("s_ask_poet", prompt="a poem"), "done")
    async with MCPClient({"s": served}) as client:
        run = Agent(name="a", model=model, tools=[client]).run("go")
        await run
    told = [e.data.value for e in run.log.events if isinstance(e.data, Custom)]
    assert "".join(t["message"] for t in told) == "Roses are red, and so on."


async def test_a_question_of_the_server_suspends_the_run_of_the_client(served: Any) -> None:
    from mastra_nb import RunSuspended

    model = ScriptedModel(calls("s_colour"), "done")
    async with MCPClient({"s": served}) as client:
        run = Agent(name="a", model=model, tools=[client]).run("go")
        with pytest.raises(RunSuspended):
            await run
        assert await run.resume({"action": "accept", "content": {"name": "green"}}) == "done"
    (result,) = model.requests[1].messages[-1].parts
    assert result.output == "green"  # type: ignore[union-attr]


async def test_only_what_is_named_is_served() -> None:
    app = load_served().app
    server = MCPServer(app, agents=["poet"], tools=[])
    assert set(server.tools()) == {"ask_poet"}
    with pytest.raises(NotFound):
        MCPServer(app, agents=["poe"]).tools()


# --- workflows ----------------------------------------------------------------------------------


def shop() -> Mastra:
    @step
    def count(item: str, amount: int, ctx: Context) -> dict[str, Any]:
        return {"item": item, "amount": ctx.suspend({"message": "How many?"}, schema=int) * amount}

    @step
    def ship(order: dict[str, Any]) -> dict[str, Any]:
        """Send it."""
        return {"sent": order}

    order = Workflow(name="order", description="Order things.").then(count).then(ship)
    shout = Workflow(name="shout it").then(step(str.upper, id="upper"))
    broken = Workflow(name="broken").then(step(lambda n: 1 // 0, id="divide"))
    return Mastra(workflows=[order, shout, broken], settings=Settings())


@pytest.mark.parametrize("revision", REVISIONS)
async def test_workflows_are_tools_that_ask_and_report(revision: str) -> None:
    asked: list[str] = []

    def elicit(question: Elicitation) -> dict[str, Any]:
        asked.append(question.message)
        return {"value": 4}

    model = ScriptedModel(calls("s_run_order", item="pen", amount=2), "done")
    async with (
        over_http(MCPServer(shop())) as url,
        MCPClient({"s": Http(url, protocol=revision)}, elicit=elicit) as client,
    ):
        found = {t.remote: t.spec for t in await client.tools()}
        assert found.keys() == {"run_order", "run_shout_it", "run_broken"}
        assert found["run_order"].description.startswith("Order things.")
        assert found["run_order"].parameters["required"] == ["item", "amount"]
        assert await client.call("s", "run_order", {"item": "pen", "amount": 2}) == {
            "sent": {"item": "pen", "amount": 8}
        }
        assert asked == ["How many?"]
        assert await client.call("s", "run_shout_it", {"input": "hi"}) == "HI"
        with pytest.raises(ToolFailed, match="ZeroDivisionError"):
            await client.call("s", "run_broken", {"input": 1})
        run = Agent(name="a", model=model, tools=[client]).run("go")
        await run
    told = [e.data.value for e in run.log.events if isinstance(e.data, Custom)]
    assert [t["message"] for t in told] == ["count", "count", "ship"]
    # At the newer revision the answer comes with a call of its own.
    assert [t["progress"] for t in told] == ([1, 2, 3] if revision < "2026" else [1, 1, 2])


async def test_only_the_workflows_that_are_named_are_served() -> None:
    assert set(MCPServer(shop(), workflows=["order"]).tools()) == {"run_order"}
    with pytest.raises(NotFound, match="ordr"):
        MCPServer(shop(), workflows=["ordr"]).tools()


# --- HTTP ---------------------------------------------------------------------------------------


def small() -> MCPServer:
    @tool
    def ping() -> str:
        """Answer."""
        return "pong"

    return MCPServer(Mastra(tools=[ping], settings=Settings()))


BODY = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
TYPES = {"accept": "application/json, text/event-stream"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example.com"}, 421),
        ({"origin": "http://evil.example.com"}, 403),
        ({"host": "localhost.evil.example.com:80"}, 421),
    ],
)
async def test_dns_rebinding_is_refused(headers: dict[str, str], status: int) -> None:
    async with over_http(small()) as url, httpx.AsyncClient() as http:
        answer = await http.post(url, json=BODY, headers={**TYPES, **headers})
    assert answer.status_code == status


async def test_a_host_that_is_named_is_let_in() -> None:
    async with over_http(small(), hosts=["good.example.com"]) as url, httpx.AsyncClient() as http:
        headers = {**TYPES, "host": "good.example.com", "origin": "https://good.example.com"}
        answer = await http.post(url, json=BODY, headers=headers)
    assert answer.status_code not in (403, 421)


async def test_a_token_is_needed_where_there_is_one() -> None:
    token = Secret("canary-token-canary")
    async with over_http(small(), token=token) as url:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            async with MCPClient({"s": Http(url, headers)}) as client:
                with pytest.raises(ToolError) as caught:
                    await client.tools()
            assert caught.value.code == "mcp.unauthorized"
            assert caught.value.details["status"] == 401
        headers = {"Authorization": f"Bearer {token.reveal()}"}
        async with MCPClient({"s": Http(url, headers)}) as client:
            assert await client.call("s", "ping") == "pong"
            assert token.reveal() not in repr(client.servers)


async def test_a_session_that_is_gone_is_replaced() -> None:
    server = small()
    async with (
        over_http(server) as url,
        MCPClient({"s": Http(url, protocol="2025-11-25")}) as client,
    ):
        assert await client.call("s", "ping") == "pong"
        sessions = server._sdk.session_manager._server_instances
        (first,) = sessions
        await sessions[first].terminate()
        assert await client.call("s", "ping") == "pong"
        assert [s for s in sessions if s != first]


@pytest.mark.parametrize("protocol", REVISIONS)
async def test_a_call_that_is_given_up_is_stopped_at_the_server(protocol: Any) -> None:
    stopped: list[str] = []

    @tool
    async def wait() -> None:
        """Wait."""
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped.append("wait")
            raise

    server = MCPServer(Mastra(tools=[wait], settings=Settings()))
    async with over_http(server) as url:
        made = Http(url, protocol=protocol, timeout=0.5)
        async with MCPClient({"s": made}) as client:
            with pytest.raises(ToolTimeout):
                await client.call("s", "wait")
            for _ in range(100):
                if stopped:
                    break
                await asyncio.sleep(0.05)
    assert stopped == ["wait"]


async def test_keys_in_urls_reach_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with over_http(small()) as url:
        key = "sk-proj-canarycanarycanarycanary1234567890"
        async with MCPClient({"s": Http(f"{url}?api_key={key}")}) as client:
            assert await client.call("s", "ping") == "pong"
    ours = [r.getMessage() for r in caplog.records if r.name.startswith(("httpx2", "mcp.client"))]
    assert ours and not any(key in text for text in ours)


async def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/mcp"
    async with MCPClient({"s": Http(url)}) as client:
        with pytest.raises(ToolError, match="could not be reached") as caught:
            await client.tools()
    assert url in caught.value.hint


class Odd:
    """An HTTP server that answers everything the same way."""

    def __init__(self, answer: bytes, hold: bool = False) -> None:
        self.answer = answer
        self.hold = hold

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self.answer)
            await writer.drain()
            if self.hold:
                await reader.read()
        writer.close()


def page(status: str, kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (Odd(page("200 OK", "text/html", b"<h1>Hello</h1>")), "could not be reached"),
        (Odd(page("500 No", "text/plain", b"secret trace")), "HTTP 500"),
        (Odd(page("200 OK", "application/json", b"{broken")), "could not be reached"),
        (Odd(SSE + b"data: {broken\n\n"), "could not be reached"),
        (Odd(SSE), "could not be reached"),
        (Odd(b"\x00\x01garbage"), "could not be reached"),
        (Odd(b"", hold=True), "did not start within 1 s"),
        (Odd(SSE, hold=True), "did not start within 1 s"),
    ],
    ids=["page", "500", "broken", "broken-event", "empty", "garbage", "silent", "silent-stream"],
)
@pytest.mark.parametrize("protocol", ["auto", "2025-11-25"])
async def test_odd_http_servers_end_in_an_error(odd: Odd, message: str, protocol: Any) -> None:
    listening = await asyncio.start_server(odd, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    made = Http(f"http://127.0.0.1:{port}/mcp", protocol=protocol, connect_timeout=1)
    client = MCPClient({"odd": made})
    with pytest.raises(ToolError, match=message) as caught:
        await asyncio.wait_for(client.tools(), 10)
    assert "secret trace" not in str(caught.value)
    await client.close()
    listening.close()


# --- python -m ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("no_such_module:app", 'no module "no_such_module"'),
        ("served:ap", 'has no application "ap"'),
    ],
)
def test_a_wrong_name_says_what_there_is(
    where: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(HERE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(NotFound, match=message):
        load(where)


def test_a_template_needs_a_function() -> None:
    with pytest.raises(ConfigError, match="names to fill in"):
        small().add_resource("x://{id}", "text")


def test_the_portal_is_where_connections_live() -> None:
    async def used() -> str:
        async with over_http(small()) as url, MCPClient({"s": Http(url)}) as client:
            return str(await client.call("s", "ping"))

    assert portal.run(used()) == "pong"
    assert asyncio.run(used()) == "pong"
