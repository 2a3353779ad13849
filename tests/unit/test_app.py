from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from mastra_nb.agents import Agent
from mastra_nb.app import Mastra, open_store
from mastra_nb.config import Settings, load_settings
from mastra_nb.errors import ConfigError, LimitExceeded, NotFound, NotResumable, RunSuspended
from mastra_nb.limits import Limits
from mastra_nb.services import ambient, set_ambient
from mastra_nb.storage import Pruned, Retention
from mastra_nb.testing import ScriptedModel, calls
from mastra_nb.tools import Tool


def agent(*script: Any, name: str = "a", **options: Any) -> Agent[Any]:
    return Agent(name=name, model=ScriptedModel(*script), **options)


def test_parts_have_names() -> None:
    one, two = agent(name="one"), agent(name="two")
    app = Mastra(agents=[one], tools=[Tool(print, name="say")], storage="memory://")
    assert app.add(two) is app.get_agent("two") is two
    assert one.services is app.services
    assert app.get_tool("say").name == "say"
    assert [*Mastra(agents={"x": one}).agents] == ["one"]
    with pytest.raises(NotFound, match='no agent "on"') as caught:
        app.get_agent("on")
    assert caught.value.hint == 'did you mean "one"?'
    with pytest.raises(NotFound, match='no tool "x"'):
        app.get_tool("x")
    assert repr(app) == "<Mastra agents=['one', 'two'] storage=memory://>"
    assert isinstance(app.get_logger(), logging.Logger)


async def test_what_is_closed_serves_no_other_run() -> None:
    """An application may have been the one whose store everything else uses."""
    app, other = Mastra(storage="memory://"), Mastra(storage="memory://")
    set_ambient(app.services)
    await other.close()
    assert ambient() is app.services
    await app.close()
    assert ambient() is not app.services
    assert await agent("fine").run("?")


def test_stores_by_url(tmp_path: Path) -> None:
    assert open_store("memory://").url == "memory://"
    with pytest.raises(NotFound):
        open_store("nope://x")


async def test_runs_are_found_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'app.db'}"
    act = Tool(lambda: "acted", name="act", needs_approval=True)
    async with Mastra(agents=[agent("One.", calls("act"), tools=[act])], storage=url) as app:
        first, second = app.get_agent("a").run("x"), app.get_agent("a").run("y", thread="t")
        assert await first == "One."
        with pytest.raises(RunSuspended):
            await second
    async with Mastra(agents=[agent("Done.", tools=[act])], storage=url) as app:
        rows = await app.find_runs()
        assert [r.id for r in rows] == [second.id, first.id]
        assert [r.id for r in await app.find_runs(status="suspended")] == [second.id]
        done = await app.get_run(first.id)
        assert (done.status, await done) == ("done", "One.")
        waits = await app.get_run(second.id[:8])
        assert (waits.status, waits.thread, waits.input) == ("suspended", "t", "y")
        assert await waits.resume({"approved": True}) == "Done."
        assert (await app.get_run(second.id)).status == "done"
        for unknown in ("r_nothing", ""):
            with pytest.raises(NotFound, match="there is no run"):
                await app.get_run(unknown)
        with pytest.raises(NotFound, match="the beginning of several runs"):
            await app.get_run("r_")


async def test_a_run_keeps_its_limits_unless_told_otherwise(tmp_path: Path) -> None:
    act = Tool(lambda: "acted", name="act", needs_approval=True)
    app = Mastra(agents=[agent(calls("act"), "Done.", "Done.", tools=[act])], storage="memory://")
    run = app.get_agent("a").run("x", limits=Limits(requests=1, cost=2.5))
    with pytest.raises(RunSuspended):
        await run
    loaded = await app.get_run(run.id)
    assert loaded.log.meter.limits == Limits(requests=1, cost=2.5)
    limited = loaded.resume({"approved": True})
    with pytest.raises(LimitExceeded, match="1 requests"):
        await limited
    more = await app.get_run(run.id, limits=Limits(requests=2))
    assert await more.resume() == "Done."
    assert (await app.get_run(run.id)).log.meter.limits == Limits(requests=2)


async def test_a_run_that_was_cut_off_before_its_first_commit() -> None:
    app = Mastra(agents=[agent("Hi.")], storage="memory://")
    from mastra_nb.storage import RunRow

    assert app.store is not None
    await app.store.create(
        RunRow(id="r_1", name="a", kind="agent", input="x"), owner="gone", lease=0
    )
    run = await app.get_run("r_1")
    with pytest.raises(NotResumable, match="cut off"):
        await run
    assert await run.resume() == "Hi."


async def test_deps_are_given_anew() -> None:
    from mastra_nb.context import Context

    async def act(ctx: Context) -> str:
        return str(ctx.deps)

    made = Tool(act, needs_approval=True)
    app = Mastra(agents=[agent(calls("act"), "Done.", tools=[made])], storage="memory://")
    run = app.get_agent("a").run("x")
    with pytest.raises(RunSuspended):
        await run
    resumed = (await app.get_run(run.id, deps="db")).resume({"approved": True})
    await resumed
    assert resumed.messages[2].parts[0].output == "db"  # type: ignore[union-attr]


async def test_an_app_without_a_store_says_so() -> None:
    app = Mastra(agents=[agent("Hi.")])
    assert app.store is None
    for use in (
        app.get_run("x"),
        app.find_runs(),
        app.find_threads(),
        app.prune(Retention(runs=1)),
        app.vacuum(),
        app.backup("x.db"),
    ):
        with pytest.raises(NotFound, match="it has no store"):
            await use
    await app.close()


async def test_threads_are_found() -> None:
    app = Mastra(agents=[agent("Hi.", memory=True)], storage="memory://")
    await app.get_agent("a").run("x", thread="t")
    assert [t.id for t in await app.find_threads()] == ["t"]


async def test_an_app_prunes_by_its_settings(tmp_path: Path) -> None:
    (tmp_path / "mastra.toml").write_text("[retention]\nruns = 30\nthreads = 0\n")
    settings = load_settings(tmp_path)
    assert settings.retention == Retention(runs=30, threads=0)
    url = f"sqlite:///{tmp_path / 'store.db'}"
    async with Mastra(agents=[agent("Hi.", memory=True)], storage=url, settings=settings) as app:
        await app.get_agent("a").run("x", thread="t")
        assert (await app.prune(Retention(runs=1))) == Pruned()
        dry = await app.prune(dry_run=True)
        assert (dry.threads, dry.messages, dry.dry_run) == (1, 2, True)
        copy = await app.backup(tmp_path / "copy.db")
        assert (await app.prune()).threads == 1
        assert await app.find_threads() == []
        assert await app.vacuum() == 0
    async with Mastra(storage=f"sqlite:///{copy}") as old:
        assert [t.id for t in await old.find_threads()] == ["t"]


async def test_pruning_needs_to_know_what_is_old() -> None:
    app = Mastra(storage="memory://", settings=Settings())
    with pytest.raises(ConfigError, match="nothing says what is old"):
        await app.prune()
    with pytest.raises(NotFound, match="is no file"):
        await app.backup("x.db")
