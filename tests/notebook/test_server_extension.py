"""The store of a Jupyter Server's folder, without a kernel, under Jupyter's authentication."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from mastra_nb import Agent, Mastra, tool
from mastra_nb.testing import ScriptedModel, calls

TOKEN = "a-token-of-jupyters"


@tool(needs_approval=True)
def pay(amount: int) -> int:
    """Pays."""
    return amount


class Jupyter(NamedTuple):
    url: str
    folder: Path


async def fill(folder: Path) -> None:
    payer = ScriptedModel("Hello there.", calls("pay", amount=3))
    agent = Agent(name="payer", model=payer, tools=[pay], memory=True)
    async with Mastra(agents=[agent], storage=f"sqlite:///{folder}/mastra.db"):
        await agent.run("Hi", thread="t1", resource="ann")
        async for _ in agent.run("Pay", thread="t1", resource="ann").events():
            pass


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    home = tmp_path_factory.mktemp("jupyter")
    folder = home / "work"
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
    }
    command = [sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1"]
    command += [f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={TOKEN}"]
    wanted = "{'mastra_nb.notebook.server_extension': True}"
    command.append(f"--ServerApp.jpserver_extensions={wanted}")
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                httpx.get(f"{url}/api")
                break
            except httpx.ConnectError:
                assert process.poll() is None, process.stderr and process.stderr.read()
                time.sleep(0.1)
        yield Jupyter(url, folder)
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture
def http(jupyter: Jupyter) -> Iterator[httpx.Client]:
    headers = {"authorization": f"token {TOKEN}"}
    with httpx.Client(base_url=f"{jupyter.url}/mastra", headers=headers, timeout=20) as made:
        yield made


def test_nothing_is_made_where_nothing_is_kept(jupyter: Jupyter, http: httpx.Client) -> None:
    told = http.post("/ask/runs", json={}).json()["error"]
    assert told["code"] == "not_found"
    assert "nothing is kept" in told["message"]
    assert not [*jupyter.folder.iterdir()]


def test_the_store_is_read_without_a_kernel(jupyter: Jupyter, http: httpx.Client) -> None:
    asyncio.run(fill(jupyter.folder))
    found = http.post("/ask/runs", json={"limit": 10}).json()["ok"]
    assert [row["name"] for row in found["runs"]] == ["payer", "payer"]
    waiting = http.post("/ask/waiting", json={}).json()["ok"]["waiting"]
    assert waiting[0]["tool"] == "pay"
    bundle = http.post("/ask/run", json={"id": found["runs"][1]["id"]}).json()["ok"]
    assert "Hello there." in bundle["text/markdown"]
    assert http.post("/ask/nothing", json={}).json()["error"]["code"] == "usage"
    assert http.post("/ask/runs", content=b"{").status_code == 400
    # And over REST.
    threads = http.get("/api/memory/threads").json()["threads"]
    assert [t["id"] for t in threads] == ["t1"]
    assert http.get("/api/memory/threads/t1/messages").json()["total"] >= 2
    assert http.get("/api/agents").json() == {}


def test_who_may_not_read_the_server_may_not_read_the_store(jupyter: Jupyter) -> None:
    with httpx.Client(base_url=f"{jupyter.url}/mastra") as stranger:
        for method, path in (("POST", "/ask/runs"), ("GET", "/api/memory/threads")):
            answer = stranger.request(method, path)
            assert answer.status_code in (302, 403, 404), path
            assert "payer" not in answer.text
        # A page of another cannot post with the cookie of whoever is logged in.
        headers = {"origin": "https://evil.example", "authorization": f"token {TOKEN}"}
        answer = stranger.post("/ask/runs", json={}, headers={**headers, "authorization": ""})
        assert answer.status_code in (302, 403, 404)
