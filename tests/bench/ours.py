"""The rows with mastra_nb.

    python -m tests.bench.ours plain|async|store ROW ORIGIN
    python -m tests.bench.ours objects ours|dataclass

`plain` has an ordinary function as its tool (it runs on a thread), `async` a coroutine function,
`store` is `plain` with every run kept in a SQLite file.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
import timeit
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mastra_nb import Agent, tool
from tests.bench.memory import peak_rss
from tests.bench.workload import Result, main


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"{city}: 21 degrees, sunny"


async def get_weather_async(city: str) -> str:
    """The weather in a city."""
    return get_weather(city)


class Ours:
    def __init__(self, agent: Agent[Any]) -> None:
        self.agent = agent

    async def run(self) -> str:
        answer: str = await self.agent.run("What is the weather in Oslo?")
        return answer

    async def stream(self) -> tuple[float, int]:
        start, first, parts = time.perf_counter(), 0.0, []
        async for text in self.agent.run("Tell me a story.").stream_text():
            first = first or time.perf_counter() - start
            parts.append(text)
        return first, len("".join(parts))

    async def close(self) -> None:
        pass


def make(weather: Any) -> Agent[Any]:
    return Agent(name="weather", model="openai/gpt-4o-mini", tools=[weather])


async def plain(base_url: str) -> Ours:
    os.environ["OPENAI_BASE_URL"] = base_url
    return Ours(make(tool(get_weather)))


async def with_async_tool(base_url: str) -> Ours:
    os.environ["OPENAI_BASE_URL"] = base_url
    return Ours(make(tool(name="get_weather")(get_weather_async)))


class Stored(Ours):
    def __init__(self, agent: Agent[Any]) -> None:
        from mastra_nb import Mastra

        super().__init__(agent)
        self._folder = tempfile.TemporaryDirectory()
        self._app = Mastra(
            agents=[agent], storage=f"sqlite:///{Path(self._folder.name, 'bench.db').as_posix()}"
        )

    async def close(self) -> None:
        await self._app.close()
        self._folder.cleanup()


async def with_store(base_url: str) -> Ours:
    os.environ["OPENAI_BASE_URL"] = base_url
    return Stored(make(tool(get_weather)))


@dataclass
class Plain:
    name: str
    instructions: str
    model: str
    tools: list[object]


def build_plain() -> Plain:
    return Plain(name="weather", instructions="Be brief.", model="openai/gpt-4o-mini", tools=[])


def build() -> Agent[Any]:
    return Agent(
        name="weather", instructions="Be brief.", model="openai/gpt-4o-mini", tools=[WEATHER]
    )


def ready() -> Agent[Any]:
    agent = make(tool(get_weather))
    for made in agent.toolset.values():
        _ = made.spec
    return agent


WEATHER = tool(get_weather)
OBJECTS: dict[str, dict[str, Callable[[], object]]] = {
    "ours": {"build": build, "ready": ready},
    "dataclass": {"build": build_plain},
}


def objects(who: str) -> Result:
    """P8: microseconds and bytes of one agent with one tool. `ready` makes the tool and its JSON
    schema as well; `dataclass` is an object of four fields.
    """
    result: Result = {}
    for name, make_one in OBJECTS[who].items():
        count = 200 if name == "ready" else 2_000
        times = timeit.repeat(make_one, number=count, repeat=7)
        result[name] = [t / count * 1e6 for t in times]
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        kept = [make_one() for _ in range(count)]
        result[f"{name}_bytes"] = (tracemalloc.get_traced_memory()[0] - before) / len(kept)
        tracemalloc.stop()
    return {**result, "rss": peak_rss()}


if __name__ == "__main__":
    if sys.argv[1] == "objects":
        print(json.dumps(objects(sys.argv[2])))
    else:
        which = {"plain": plain, "async": with_async_tool, "store": with_store}
        main(which[sys.argv[1]], sys.argv[2], sys.argv[3])
