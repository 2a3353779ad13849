"""%mastra serve: a notebook answers while its cells go on."""

from __future__ import annotations

import json
import re
import socket

import httpx
import pytest

from tests.notebook.conftest import SCRIPTED, Kernel, Start

DEFINED = """
from mastra_nb import Agent, Workflow

async def double(n: int) -> int:
    return n * 2

talker = Agent(name="talker", model=ScriptedModel("Hello.", repeat=True))
flow = Workflow(name="flow", input=int).then(double)
"""


@pytest.fixture
def kernel(start: Start) -> Kernel:
    kernel = start()
    kernel.ok("%load_ext mastra_nb")
    kernel.ok(SCRIPTED + DEFINED)
    return kernel


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_what_is_defined_is_served_while_cells_run(kernel: Kernel) -> None:
    port = free_port()
    out = kernel.ok(f"%mastra serve --port {port}")
    assert re.search(rf"serving .*1 workflow.* on http://127\.0\.0\.1:{port}/api", out.text)
    path = kernel.cwd / ".mastra" / "server.token"
    token = path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    assert token not in out.text, "an output is saved with the notebook"
    url, headers = f"http://127.0.0.1:{port}/api", {"authorization": f"Bearer {token}"}
    id = kernel.start("import time; time.sleep(3)")
    with httpx.Client(base_url=url, headers=headers, timeout=2.5) as http:
        said = http.post("/agents/talker/generate", json={"messages": "Hi"}).json()
        assert said["text"] == "Hello."
        done = http.post("/workflows/flow/start-async", json={"inputData": 21}).json()
        assert done["result"] == 42
        assert http.get("/agents", headers={"authorization": "Bearer no"}).status_code == 401
    kernel.finish(id)
    shown = kernel.ok("%mastra runs all")
    assert "flow" in json.dumps(shown.__dict__, default=str)

    kernel.ok('later = Agent(name="later", model=ScriptedModel("Later.", repeat=True))')
    assert f"{port}/api" in kernel.ok("%mastra serve").text
    assert f"{port}/api" in kernel.ok("%mastra").markdown.replace("&#47;", "/")
    with httpx.Client(base_url=url, headers=headers) as http:
        assert "later" in http.get("/agents").json()
    assert kernel.ok("%mastra serve --stop").text.startswith("stopped serving")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/agents")
    assert "nothing is served" in kernel.ok("%mastra serve --stop").text


def test_a_port_that_is_taken_and_a_flag_that_is_none(kernel: Kernel) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        out = kernel.run(f"%mastra serve --port {taken.getsockname()[1]}")
        assert "nothing can be served" in out.error
    assert "does not know" in kernel.run("%mastra serve --prot 3").error
