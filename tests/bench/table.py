"""Figures beside floors, goals and what was published."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

import msgspec

Figures = dict[str, dict[str, dict[str, float]]]


class Line(msgspec.Struct, frozen=True):
    """What a row shows: the `figure` of `who` beside that of the floors, the lowest first.

    `mastra` is what was published for the TypeScript framework, `goal` a ratio to that; `limit` is
    a goal that stands alone.
    """

    row: str
    what: str
    who: str
    floors: tuple[str, ...] = ()
    goal: float | None = None
    mastra: float | None = None
    figure: str = "cpu"
    unit: str = "ms"
    limit: float | None = None


HTTP = ("raw", "aiohttp", "httpx")
LINES = (
    Line("P1", "cold start: import, an agent with a tool, exit", "ours", ("bare", "asyncio+json"),
         0.20, 606),
    Line("P1", "peak memory of it", "ours", ("bare", "asyncio+json"), 0.25, 178, "rss", "MB"),
    Line("P2", "a run: 2 model calls around 1 tool call", "plain", HTTP, 0.15, 9.6),
    Line("P2", "its tool a coroutine function", "async", ("raw",), 0.15, 9.6),
    Line("P2", "every run kept in SQLite", "store", ("raw",)),
    Line("P3", "200 runs at once, 50 ms a call: CPU", "plain", HTTP, 0.15, 1690),
    Line("P3", "wall", "plain", HTTP, 0.25, 1270, "wall"),
    Line("P3", "its tool a coroutine function", "async", ("raw",), 0.15, 1690),
    Line("P3", "the first 200, which connect: CPU", "plain", HTTP, None, None,
         "first_cpu"),
    Line("P4", "2,000 chunks as fast as they come: CPU", "plain", HTTP, 0.25, 120),
    Line("P4", "wall", "plain", HTTP, 0.25, 85, "wall"),
    Line("P4", "until the first chunk", "plain", HTTP, 0.20, 11, "first"),
    Line("P4paced", "2,000 chunks, 1 ms apart: CPU", "plain", HTTP),
    Line("P5", "10 steps in a row, a step: CPU", "ours", ("floor",), 0.30, 34, unit="us"),
    Line("P5", "its steps plain functions, in threads", "sync", (), unit="us"),
    Line("P5db", "10 steps in a row in SQLite, a step: CPU", "ours", ("floor",), 0.10, 394,
         unit="us"),
    Line("P5db", "waiting for the disk at its end", "full", (), None, 394, unit="us"),
    Line("P5each", "foreach of 100 items, an item: CPU", "ours", ("floor",), 0.30, 28, unit="us"),
    Line("P5each", "its steps plain functions, in threads", "sync", (), unit="us"),
    Line("P5each.db", "foreach of 100 items in SQLite, an item: CPU", "ours", ("floor",), 0.15,
         248, unit="us"),
    Line("P5each.db", "four at once", "four", (), None, 248, unit="us"),
    Line("P5each.db", "waiting for the disk at its end", "full", (), None, 248, unit="us"),
    Line("P5many", "foreach of 10,000 items: memory an item", "memory", (), None, None, "bytes",
         "B"),
    Line("P5many", "in SQLite", "durable", (), None, None, "bytes", "B"),
    Line("P6", "append a message durably: CPU", "ours", ("sqlite3",), 0.25, 0.20, "append"),
    Line("P6", "append, and link it in a call of its own", "linked", (), None, 0.20, "append"),
    Line("P6", "read the last 20: CPU", "ours", ("sqlite3",), 0.05, 0.73, "read"),
    Line("P6sem", "append a message and index it, of 10,000: CPU", "ours", ("floor",), 0.01, 25.8,
         "append"),
    Line("P6sem", "wall", "ours", ("floor",), 0.01, 25.8, "append_wall"),
    Line("P6sem", "the best 5 of a resource, by vector and words: CPU", "ours", ("floor",), 0.05,
         12.3, "recall"),
    Line("P6sem", "wall", "ours", ("floor",), 0.05, 12.3, "recall_wall"),
    Line("P6sem", "of which by the vector alone: CPU", "ours", ("floor",), 0.05, 12.3, "near"),
    Line("P6sem", "the best 5 of one thread of 50: CPU", "ours", (), 0.05, 12.3, "thread"),
    Line("P6sem", "the first recall of a process: wall", "ours", (), None, None, "first_wall"),
    Line("P6sem", "file with 10,500 messages", "ours", ("floor",), None, 96, "closed", "MB"),
    Line("P8", "build one agent", "ours", ("dataclass",), 18.5 / 281, 281, "build", "us"),
    Line("P8", "its memory", "ours", ("dataclass",), 5.2 / 97, 97_000, "build_bytes", "B"),
    Line("P8", "and its tool with JSON schema", "ours", (), None, None, "ready", "us"),
    Line("P8", "its memory", "ours", (), None, None, "ready_bytes", "B"),
    Line("P9", "updates in the busiest second of a cell", "ours", ("once", "naive"), None, None,
         "busiest", "", 20),
    Line("P9", "saved beyond the answer's Markdown", "ours", ("once", "naive"), None, None,
         "saved", " B", 2048),
    Line("P9", "sent to the front end", "ours", ("once", "naive"), None, None, "sent", "kB"),
    Line("P9", "CPU of the kernel", "ours", ("once", "naive")),
    Line("P10", "1,000 items in 2 processes, an item: CPU of the driver", "ours", ("pool",),
         unit="us"),
    Line("P10", "wall", "ours", ("pool",), None, None, "wall", "us"),
    Line("P10", "the same on Dask: CPU of the driver", "dask", ("pool",), unit="us"),
    Line("P10", "memory that the second 500 add", "ours", (), None, None, "grown", "MB"),
    Line("P10foreach", "foreach of them, kept in SQLite, an item: CPU", "ours", ("pool",),
         unit="us"),
    Line("P10nb", "100 notebooks, one after another, each: wall", "ours", ("papermill",), None,
         None, "wall"),
    Line("P10nb", "CPU of the driver", "ours", (), None, None, "cpu"),
    Line("P10nb", "two at once, each: wall", "two", ("papermill",), None, None, "wall"),
    Line("P10nb", "memory that the second 50 add", "ours", (), None, None, "grown", "MB"),
    Line("P2", "peak memory of P2", "plain", HTTP, 0.20, 289, "rss", "MB"),
    Line("P3", "peak memory of P3", "plain", HTTP, 0.20, 354, "rss", "MB"),
    Line("P4", "peak memory of P4", "plain", HTTP, 0.20, 300, "rss", "MB"),
)  # fmt: skip
HEAD = (
    "row", "what", "ours", "", "wall", "floor", "", "x floor", "goal", "Mastra TS", "x Mastra"
)  # fmt: skip
LEFT = {0, 1, 3, 5}


def _rows(line: Line, figures: Figures) -> Iterator[tuple[str, ...]]:
    people = figures.get(line.row, {})
    ours = people.get(line.who, {}).get(line.figure)
    if ours is None:
        return
    wall = _number(people[line.who].get("wall")) if line.figure == "cpu" else ""
    start = (line.row, line.what, _number(ours), line.unit, wall)
    goal = f"<= {_number(line.limit)}{line.unit}" if line.limit is not None else ""
    end = (
        goal if line.goal is None else f"<= {line.goal:.2g} x",
        _number(line.mastra),
        "" if not line.mastra else f"{ours / line.mastra:.2f}",
    )
    floors = [f for f in line.floors if f in people] or [""]
    for i, floor in enumerate(floors):
        least = people.get(floor, {}).get(line.figure)
        ratio = "" if not least else f"{ours / least:.1f}"
        head, tail = (start, end) if i == 0 else (("",) * len(start), ("",) * len(end))
        yield (*head, floor, _number(least), ratio, *tail)


# What stands in a row of vectors: a head, the name of a figure, and its unit.
WAYS = ("exact", "default", "1 %", "50 %")
BIG = ("first", "calibrated", "loaded_rss", "rss", "memory")


def vector_table(people: dict[str, dict[str, float]]) -> str:
    """A line for each that was asked and each way it was asked, its recall beside its speed."""
    head = ("rows", "data", "who", "way", "wall", "CPU ms", "recall", "1st ms", "upsert/s",
            "file MB", "note")  # fmt: skip
    cells = [head]
    for key, found in people.items():
        rows, data, who = key.split()
        for way in WAYS:
            if f"{way} cpu" not in found:
                continue
            engine, note = way, ""
            if who == "ours" and way == "default":
                engine = "sketch" if found["sketch"] else "exact (no sketch)"
                if found["sketch"]:
                    note = f"{found['bits']:.0f} bits x{found['oversample']:.0f}, "
                note += ", ".join(f"{name} {found[name]:,.0f}" for name in BIG)
            elif who != "ours":
                engine = {"numpy": "brute force", "scan": "sqlite-vec scan"}.get(who, "HNSW")
            elif "%" in way:
                engine = f"filter {way}"
            wall = found.get("upsert_wall", found["upsert_cpu"])
            is_first = way in ("exact", "default")
            cells.append((
                f"{int(rows):,}", data, who, engine, _number(found[f"{way} wall"]),
                _number(found[f"{way} cpu"]), f"{found[f'{way} recall']:.4f}",
                _number(found.get(f"{way} first")),
                _number(1e6 / wall) if is_first else "",
                _number(found.get("disk") or None) if is_first else "", note,
            ))  # fmt: skip
    return drawn(cells, {1, 2, 3, 10})


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(figures: Figures) -> str:
    return drawn([HEAD, *(row for line in LINES for row in _rows(line, figures))], LEFT)


def drawn(cells: Sequence[tuple[str, ...]], left: Container[int]) -> str:
    """Columns as wide as they must be, those in `left` to the left, a rule under the first line."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]

    def draw(row: tuple[str, ...]) -> str:
        padded = (
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    lines = [draw(row) for row in cells]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
