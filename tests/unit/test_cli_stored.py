from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mastra_nb import Agent, Mastra, Memory, step, workflow
from mastra_nb.cli._group import cli
from mastra_nb.testing import ScriptedModel

URL = "sqlite:///mastra.db"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mastra.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    return tmp_path


def invoke(*args: str, **options: Any) -> Any:
    sys.modules.pop("app", None)
    return CliRunner().invoke(cli, [*args], prog_name="mastra-nb", **options)


def result(*args: str, code: int = 0, **options: Any) -> Any:
    done = invoke(*args, "--json", **options)
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def talked(*questions: str, thread: str = "t1", resource: str = "ada") -> list[str]:
    """Ids of the runs."""

    async def talk() -> list[str]:
        model = ScriptedModel(lambda r: f"re: {r.messages[-1].text}", repeat=True)
        agent = Agent(name="echo", model=model, memory=Memory())
        out = []
        async with Mastra(agents=[agent], storage=URL):
            for each in questions:
                run = agent.run(each, thread=thread, resource=resource)
                await run
                out.append(run.id)
        return out

    return asyncio.run(talk())


class TestRuns:
    def test_an_empty_store_is_no_error_and_makes_no_file(self, project: Path) -> None:
        assert result("runs") == []
        assert invoke("runs").exit_code == 0
        assert not (project / "mastra.db").exists()

    def test_filters(self) -> None:
        first, second = talked("one", "two")
        talked("three", thread="t2", resource="bob")
        assert [r["input"] for r in result("runs")] == ["three", "two", "one"]
        assert [r["run"] for r in result("runs", "--thread", "t1")] == [second, first]
        assert len(result("runs", "--resource", "bob")) == 1
        assert len(result("runs", "--text", "TWO")) == 1
        assert len(result("runs", "--limit", "1")) == 1
        assert result("runs", "--status", "failed") == []
        assert len(result("runs", "--since", "1h")) == 3
        assert result("runs", "--since", "2100-01-01") == []
        assert invoke("runs", "--since", "yesterday").exit_code == 2
        assert invoke("runs", "--status", "odd").exit_code == 2

    def test_the_table_has_what_the_json_has(self) -> None:
        (run,) = talked("one")
        text = invoke("runs").stdout
        assert run in text
        assert "done" in text

    def test_what_a_question_says_does_not_reach_the_terminal_as_it_is(self) -> None:
        talked("\x1b[2J\x1b]0;owned\x07hello\u202e")
        for command in (["runs"], ["runs", "--json"], ["memory", "show", "t1"], ["trace"]):
            out = invoke(*command).stdout
            assert "\x1b" not in out, command
            assert "\x07" not in out, command
            assert "\u202e" not in out, command
        assert result("runs")[0]["input"].startswith("\x1b[2J")


class TestTrace:
    def test_it_is_a_tree_with_times(self) -> None:
        (run,) = talked("one")
        for name in (run, run[:6], "last"):
            found = result("trace", name)
            assert found["run"] == run
        assert [s["kind"] for s in found["spans"]][:2] == ["agent", "model"]
        assert found["spans"][1]["parent"] == found["spans"][0]["path"]
        text = invoke("trace", run).stdout
        assert "✓ echo" in text
        assert "tokens" in text

    def test_an_unknown_run(self) -> None:
        talked("one")
        done = invoke("trace", "r_nope")
        assert done.exit_code == 2
        assert "mastra-nb runs" in done.stderr


class TestCancel:
    def test_one_that_waits(self) -> None:
        async def suspended() -> str:
            from mastra_nb import suspend

            @workflow
            async def asks(city: str) -> str:
                return str(await suspend({"which": city}, schema=str))

            async with Mastra(workflows=[asks], storage=URL):
                run = asks.run("Oslo")
                async for _ in run.events():
                    pass
                return run.id

        run = asyncio.run(suspended())
        assert result("runs")[0]["status"] == "suspended"
        # The workflow is not here: whoever gives it up needs nothing of it.
        assert result("cancel", run[:8]) == {"run": run, "status": "cancelled"}
        assert result("runs")[0]["status"] == "cancelled"
        again = invoke("cancel", run)
        assert again.exit_code == 1
        assert "it is cancelled" in again.stderr

    def test_one_that_was_cut_off(self, project: Path) -> None:
        code = (
            "import asyncio, os\n"
            "from mastra_nb import Mastra, step, workflow\n"
            "@step\n"
            "def dies(n: int) -> int:\n"
            "    os._exit(9)\n"
            "@workflow\n"
            "async def w(n: int) -> int:\n"
            "    return await dies(n)\n"
            f"Mastra(workflows=[w], storage={URL!r})\n"
            "asyncio.run(w.start(1))\n"
        )
        import subprocess

        done = subprocess.run(
            [sys.executable, "-c", code],
            timeout=60,
            env={**__import__("os").environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert done.returncode == 9
        (row,) = result("runs")
        assert row["status"] == "running"
        assert result("cancel", row["run"])["status"] == "cancelled"
        assert result("runs")[0]["status"] == "cancelled"

    def test_one_that_another_process_runs_is_left_alone(self) -> None:
        async def held() -> tuple[str, Any, str]:
            @step
            async def waits(n: int) -> int:
                await asyncio.sleep(60)
                return n

            @workflow
            async def w(n: int) -> int:
                return await waits(n)

            async with Mastra(workflows=[w], storage=URL) as app:
                run = w.run(1)
                reading = asyncio.ensure_future(_drain(run))
                assert app.store is not None
                while not [r for r in await app.find_runs() if r.id == run.id]:
                    await asyncio.sleep(0.01)
                done = await asyncio.to_thread(invoke, "cancel", run.id)
                status = (await app.find_runs())[0].status
                run.cancel()
                await reading
                return run.id, done, status

        _, done, status = asyncio.run(held())
        assert done.exit_code == 1
        assert status == "running"


async def _drain(run: Any) -> None:
    async for _ in run.events():
        pass


class TestMigrate:
    def test_a_new_store_has_nothing_to_do(self) -> None:
        talked("one")
        found = result("migrate", "--check")
        assert found["before"] == found["after"] == found["newest"] >= 3
        assert "nothing to do" in invoke("migrate").stdout

    def test_an_older_one_is_upgraded_and_nothing_is_lost(self, project: Path) -> None:
        import apsw

        from mastra_nb.stores._schema import APPLICATION_ID, MIGRATIONS

        db = apsw.Connection(str(project / "mastra.db"))
        db.execute(MIGRATIONS[0]).fetchall()
        db.execute("PRAGMA user_version = 1").fetchall()
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}").fetchall()
        db.execute(
            "INSERT INTO run VALUES (1, 'r_old', 'echo', 'agent', '\"hi\"', 'done', '', 1, 0, NULL,"
            " NULL, '', '', NULL, NULL, 1.0, 1.0)"
        ).fetchall()
        db.close()
        check = result("migrate", "--check", code=1)
        assert (check["before"], check["after"]) == (1, 1)
        done = result("migrate")
        assert (done["before"], done["after"]) == (1, done["newest"])
        assert [r["run"] for r in result("runs")] == ["r_old"]

    def test_what_is_no_store(self, project: Path) -> None:
        assert invoke("migrate").exit_code == 2
        assert invoke("migrate", "--store", "memory://").exit_code == 2
        (project / "mastra.db").write_bytes(b"no database at all, " * 100)
        assert invoke("migrate", "--check").exit_code == 1


class TestPrune:
    def test_it_shows_first_and_deletes_then(self) -> None:
        asyncio.run(_alone())
        assert invoke("prune").exit_code == 2
        dry = result("prune", "--runs", "0")
        assert (dry["runs"], dry["dry_run"]) == (1, True)
        assert len(result("runs")) == 1
        assert "would delete" in invoke("prune", "--runs", "0").stdout
        assert result("prune", "--runs", "0", "--yes")["runs"] == 1
        assert result("runs") == []


async def _alone() -> None:
    agent = Agent(name="echo", model=ScriptedModel("hi"))
    async with Mastra(agents=[agent], storage=URL):
        await agent.run("x", thread="")


class TestMemory:
    def test_threads_and_what_was_said(self) -> None:
        talked("one", "two")
        (thread,) = result("memory", "threads")
        assert (thread["id"], thread["resource"], thread["messages"]) == ("t1", "ada", 4)
        shown = result("memory", "show", "t")
        texts = [m["message"]["parts"][0]["text"] for m in shown["messages"]]
        assert texts == ["one", "re: one", "two", "re: two"]
        assert "re: two" in invoke("memory", "show", "t1", "--last", "1").stdout
        assert invoke("memory", "show", "nobody").exit_code == 2

    def test_search_by_words(self) -> None:
        talked("the red house", "the blue one")
        talked("a red car", thread="t2", resource="bob")
        assert {f["thread"] for f in result("memory", "search", "red")} == {"t1", "t2"}
        assert {f["thread"] for f in result("memory", "search", "red", "--resource", "bob")} == {
            "t2"
        }
        assert result("memory", "search", "green") == []

    def test_out_and_in_again(self, project: Path) -> None:
        talked("one")
        assert invoke("memory", "export", "t1", "-o", "t1.json").exit_code == 0
        assert invoke("memory", "import", "t1.json").exit_code == 1
        (copy,) = result("memory", "import", "t1.json", "--on-conflict", "copy")
        assert copy.startswith("t1-")
        whole = invoke("memory", "export", "--resource", "ada").stdout
        assert invoke("memory", "delete", "--resource", "ada", "--yes").exit_code == 0
        assert result("memory", "threads") == []
        assert {*result("memory", "import", "-", input=whole)} == {"t1", copy}
        assert len(result("memory", "show", "t1")["messages"]) == 2
        (project / "odd.json").write_text("[1]")
        assert invoke("memory", "import", "odd.json").exit_code == 2
        assert invoke("memory", "export").exit_code == 2

    def test_what_is_kept_beside_a_conversation_goes_with_it(self, project: Path) -> None:
        (project / "app.py").write_text(
            "from mastra_nb import Agent, Mastra, Memory\n"
            "from mastra_nb.testing import ScriptedModel\n"
            "memory = Memory(working_memory=True)\n"
            "model = ScriptedModel('hi', repeat=True)\n"
            f"app = Mastra(agents=[Agent(name='a', model=model, memory=memory)], storage={URL!r})\n"
        )
        for resource in ("ada", "bob"):
            args = ("run", "a", "hello", "--thread", f"of-{resource}", "--resource", resource)
            assert invoke(*args).exit_code == 0

        async def know() -> None:
            async with Mastra(storage=URL) as app:
                memory = Memory(working_memory=True)
                memory.bind(app.services)
                await memory.set_working("likes tea", resource="ada")

        asyncio.run(know())
        whole = json.loads(invoke("memory", "export", "--resource", "ada").stdout)
        assert "likes tea" in json.dumps(whole["attached"])
        assert [t["thread"]["id"] for t in whole["threads"]] == ["of-ada"]

    def test_delete_shows_first(self) -> None:
        talked("one")
        assert result("memory", "delete", "t1") == {"deleted": False, "threads": ["t1"]}
        assert len(result("memory", "threads")) == 1
        assert result("memory", "delete", "t1", "--yes")["deleted"] is True
        assert result("memory", "threads") == []


class TestIndex:
    def test_add_search_delete(self, project: Path) -> None:
        docs = project / "docs"
        docs.mkdir()
        (docs / "a.md").write_text("# Notice\n\nThe notice is three months.\n")
        (docs / "b.md").write_text("# Lunch\n\nLunch is at noon.\n")
        add = ("index", "add", "handbook", "docs", "--embedder", "words")
        assert result(*add)["added"] == 2
        assert result(*add)["unchanged"] == 2
        (listed,) = result("index", "list")
        assert listed["index"] == "handbook"
        assert listed["entries"] == 2
        found = result("index", "search", "handbook", "notice")
        assert found[0]["source"].endswith("a.md")
        assert "three months" in invoke("index", "search", "handbook", "notice").stdout
        source = found[0]["source"]
        assert result("index", "delete", "handbook", source)["deleted"] is False
        assert result("index", "delete", "handbook", source, "--yes")["deleted"] is True
        assert result("index", "search", "handbook", "notice") == []
        assert invoke("index", "delete", "handbook", "nope").exit_code == 2
        assert result("index", "delete", "handbook", "--yes")["whole"] is True
        assert result("index", "list") == []

    def test_an_unknown_one(self) -> None:
        talked("one")
        done = invoke("index", "search", "handbook", "notice")
        assert done.exit_code == 2
        assert "mastra-nb index add handbook" in done.stderr


def test_two_stores_are_one_too_many() -> None:
    assert invoke("runs", "--app", "app.py", "--store", URL).exit_code == 2
