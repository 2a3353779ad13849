"""What a front end may do with a run: answer it, leave it for later, stop it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

from mastra_nb import portal
from mastra_nb.errors import NotFound, NotResumable, UsageError, close_matches
from mastra_nb.notebook._ask import Asked, show_run, watch
from mastra_nb.notebook._host import Host
from mastra_nb.notebook._resume import find_waiting

ACTIONS = ("answer", "later", "stop")


class Answers:
    def __init__(self, host: Host) -> None:
        self._host = host
        self._jobs: set[Future[Any]] = set()

    async def ask(self, name: str, args: Mapping[str, Any]) -> Any:
        """Raises UsageError for what is no action or lacks something."""
        if name not in ACTIONS:
            raise UsageError(f'there is no question "{name}"', hint=close_matches(name, ACTIONS))
        run = args.get("run")
        if not isinstance(run, str) or not run:
            raise UsageError(f'"{name}" says no run', hint='{"run": "r_…"}')
        if name == "answer":
            return await self.answer(run, args.get("path"), args.get("answer"))
        return self.later(run) if name == "later" else await self.stop(run)

    async def answer(self, run: str, path: Any, answer: Any) -> dict[str, str]:
        """To the cell that waits for it; without one the run goes on where its output is shown.

        Raises NotFound, SchemaError if the answer does not fit, NotResumable, Conflict.
        """
        host = self._host
        place = path if isinstance(path, str) and path else None
        if not host.people.answer(run, place, answer):
            self._spawn(await self._go_on(run, place, answer))
        return {"run": run, "status": "running"}

    def later(self, run: str) -> dict[str, str]:
        self._host.people.later(run)
        return {"run": run, "status": "suspended"}

    async def stop(self, run: str) -> dict[str, str]:
        """Raises NotFound, NotResumable for one that ended or that another process runs."""
        host = self._host
        if not host.people.stop(run):
            found = await host.load_run(run)
            if found.status != "suspended":
                raise NotResumable(
                    f'run "{run}" is not stopped from here: it is {found.status}',
                    hint="stop it where it runs",
                )
            found.cancel()
        return {"run": run, "status": "cancelled"}

    async def _go_on(self, id: str, path: str | None, answer: Any) -> Asked:
        host = self._host
        waiting = await find_waiting(host, id, answered=True)
        if waiting.run.id != id:
            raise NotFound(f'there is no run "{id}"', hint="%mastra waiting lists what waits")
        resumed = waiting.run.resume(answer, path=path)
        return Asked(
            run=resumed,
            bundle=partial(show_run, host, host.named_thread(resumed.thread), "md"),
            out=waiting.out,
            call=waiting.call,
            screen=waiting.screen,
            # Nobody waits for the value but the variable it was meant for.
            given=bool(waiting.out),
        )

    def _spawn(self, asked: Asked) -> None:
        """On the loop of the cells, as if one of them had gone on: tools run where they did."""
        loop = self._host.loop or portal.loop()
        job = asyncio.run_coroutine_threadsafe(self._follow(asked), loop)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _follow(self, asked: Asked) -> None:
        host = self._host
        error = await watch(host, asked)
        if error is None and asked.out:
            host.shell.user_ns[asked.out] = asked.run.output
