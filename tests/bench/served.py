"""The server under many streams at once, and for long: python -m tests.bench.served [--minutes N].

Prints, for a server process with a model that is a script: streams in a second, the time to the
first chunk of an answer (ms: median, 95th percentile), CPU per stream, resident memory before and
after. With --minutes it goes on so long and prints the memory each half minute: it should be flat.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PIECES, GAP = 50, 0.02
SERVED = f"""
from collections import deque

from mastra_nb import Agent, Mastra
from mastra_nb.server.options import ServerOptions
from mastra_nb.server.run import serve
from mastra_nb.testing import ScriptedModel

text = "word " * {PIECES}
model = ScriptedModel(text, repeat=True, delay={GAP}, piece=5)
model.requests = deque(maxlen=10)  # it would keep each that it was asked
app = Mastra(agents=[Agent(name="talker", model=model)], storage="sqlite:///served.db")
serve(
    app, port=0, options=ServerOptions(),
    ready=lambda server: print(server.port, flush=True),
)
"""
ASKED = b'{"messages":"Tell me."}'
HEAD = (
    b"POST /api/agents/talker/stream HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: " + str(len(ASKED)).encode() + b"\r\n\r\n"
)


async def ask(port: int) -> tuple[float, float]:
    """Seconds to the first text, and to the end. Raises if the answer is not whole."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HEAD + ASKED)
    await writer.drain()
    first, said = 0.0, b""
    while data := await reader.read(65536):
        if not first and b"text-delta" in data:
            first = time.perf_counter() - began
        said += data
    writer.close()
    if said.count(b'"type":"text-delta"') != PIECES or b"[DONE]" not in said:
        raise AssertionError(f"{said.count(b'text-delta')} pieces: {said[:300]!r}")
    return first, time.perf_counter() - began


async def wave(port: int, many: int) -> list[tuple[float, float]]:
    return await asyncio.gather(*(ask(port) for _ in range(many)))


def rss(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--streams", type=int, default=200)
    options.add_argument("--minutes", type=float, default=0)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "served.py").write_text(SERVED)
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        server = subprocess.Popen(
            [sys.executable, "served.py"], cwd=folder, env=env, stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            measure(server.pid, port, given.streams, given.minutes)
        finally:
            server.terminate()
            server.wait(timeout=30)


def measure(pid: int, port: int, streams: int, minutes: float) -> None:
    asyncio.run(wave(port, 5))
    before, used, began = rss(pid), cpu(pid), time.perf_counter()
    found = asyncio.run(wave(port, streams))
    wall, used = time.perf_counter() - began, cpu(pid) - used
    firsts = sorted(first * 1000 for first, _ in found)
    print(
        f"{streams} streams of {PIECES} pieces, {GAP * 1000:.0f} ms apart: {wall:.2f} s wall"
        f" (alone {PIECES * GAP:.2f}), first {statistics.median(firsts):.0f} ms,"
        f" 95 % {firsts[int(len(firsts) * 0.95)]:.0f} ms,"
        f" CPU {used / streams * 1000:.1f} ms a stream,"
        f" RSS {before:.1f} -> {rss(pid):.1f} MB"
    )
    end, done, told = time.monotonic() + minutes * 60, 0, time.monotonic()
    while time.monotonic() < end:
        asyncio.run(wave(port, streams))
        done += streams
        if time.monotonic() - told >= 30:
            told = time.monotonic()
            print(f"  {(end - told) / 60:5.1f} min left, {done:6d} streams, RSS {rss(pid):.1f} MB")
    if minutes:
        print(f"after {done} streams: RSS {rss(pid):.1f} MB")


if __name__ == "__main__":
    main()
