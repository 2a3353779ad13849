"""A server from its start to its end: what is on its way, what is left, what is mounted."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import httpx
import pytest

from mastra_nb import Mastra, MCPClient
from mastra_nb.config import Secret
from mastra_nb.errors import StorageError
from mastra_nb.mcp.servers import Http
from mastra_nb.server.options import ServerOptions
from mastra_nb.server.run import Server

APP = """
    import asyncio, pathlib, sys
    from mastra_nb import Agent, Mastra, Workflow
    from mastra_nb.server.options import ServerOptions
    from mastra_nb.server.run import serve
    from mastra_nb.testing import ScriptedModel

    def note(what):
        with open("trace.txt", "a") as file:
            file.write(f"{what}\\n")

    async def first(n: int) -> int:
        note("first")
        return n + 1

    async def slow(n: int) -> int:
        note("slow")
        await asyncio.sleep(float(pathlib.Path("seconds.txt").read_text()))
        note("slow is done")
        return n + 1

    app = Mastra(
        workflows=[Workflow(name="two", input=int).then(first).then(slow)],
        storage="sqlite:///served.db",
    )
    serve(
        app, port=0, options=ServerOptions(drain=float(sys.argv[1])),
        ready=lambda server: print(server.url, flush=True),
    )
    print("ended", flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "served.py").write_text(textwrap.dedent(APP))
    (tmp_path / "seconds.txt").write_text("30")
    return tmp_path


def start(folder: Path, drain: float) -> tuple[subprocess.Popen[str], str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "served.py", str(drain)],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert url.startswith("http://"), url + process.stdout.read()
    return process, url


def wait_for(folder: Path, line: str) -> None:
    for _ in range(400):
        trace = folder / "trace.txt"
        if trace.exists() and line in trace.read_text().splitlines():
            return
        time.sleep(0.05)
    raise AssertionError(f"{line!r} never came")


def test_a_run_that_does_not_end_in_time_is_taken_up_by_the_next_server(folder: Path) -> None:
    process, url = start(folder, drain=0.3)
    with httpx.Client(base_url=url, timeout=30) as http:
        id = http.post("/api/workflows/two/start", json={"inputData": 1}).json()["runId"]
        wait_for(folder, "slow")
        with http.stream("POST", f"/api/workflows/two/observe?runId={id}") as stream:
            process.send_signal(signal.SIGTERM)
            said = "".join(stream.iter_text())
    assert process.communicate(timeout=20)[0] == "ended\n"
    assert process.returncode == 0
    assert '"server.ended"' in said.split("\x1e")[-2]

    (folder / "seconds.txt").write_text("0")
    process, url = start(folder, drain=5)
    try:
        with httpx.Client(base_url=url, timeout=30) as http:
            for _ in range(200):
                found = http.get(f"/api/workflows/two/runs/{id}").json()
                if found["status"] == "success":
                    break
                time.sleep(0.05)
            assert found["result"] == 3
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    trace = (folder / "trace.txt").read_text().split("\n")
    assert trace.count("first") == 1, "a finished step runs once"
    assert trace.count("slow is done") == 1


def test_a_run_that_ends_in_time_is_let_end(folder: Path) -> None:
    (folder / "seconds.txt").write_text("1")
    process, url = start(folder, drain=20)
    with httpx.Client(base_url=url, timeout=30) as http:
        request = http.build_request("POST", "/api/workflows/two/stream", json={"inputData": 1})
        answer = http.send(request, stream=True)
        wait_for(folder, "slow")
        process.send_signal(signal.SIGTERM)
        said = "".join(answer.iter_text())
    assert '"finalWorkflowResult":3' in said
    assert process.communicate(timeout=20)[0] == "ended\n"


async def test_a_port_that_is_taken_is_said_to_be(application: Mastra) -> None:
    async with Server(application, port=0, options=ServerOptions()) as server:
        with pytest.raises(StorageError, match="nothing can be served"):
            await Server(application, port=server.port, options=ServerOptions()).start()


async def test_the_same_application_is_an_mcp_server(application: Mastra) -> None:
    token = "a-token-of-the-test"
    options = ServerOptions(token=Secret(token), tokens={"of-ann": "ann"})
    async with application, Server(application, port=0, options=options) as server:
        url = f"{server.url}/api/mcp/mastra/mcp"
        headers = {"Authorization": f"Bearer {token}"}
        async with MCPClient({"s": Http(url, headers=headers)}) as client:
            names = {tool.name for tool in await client.list_tools()}
            assert {n.removeprefix("s_") for n in names} >= {"weather", "ask_plain", "run_math"}
            assert "Oslo: 21" in str(await client.call("s", "weather", {"city": "Oslo"}))
        async with httpx.AsyncClient() as http:
            assert (await http.post(url, json={})).status_code == 401
            ann = await http.post(url, json={}, headers={"authorization": "Bearer of-ann"})
            assert ann.status_code == 404


async def test_a_server_that_was_stopped_can_be_started_again(application: Mastra) -> None:
    server = Server(application, port=0, options=ServerOptions())
    for _ in range(2):
        await server.start()
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"{server.url}/api/agents")).status_code == 200
        await server.stop()
    await asyncio.sleep(0)
