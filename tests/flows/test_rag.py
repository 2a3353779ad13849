"""Documents to answers: ingest, change, stop, go on, ask, cite."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from mastra_nb import Agent, Mastra
from mastra_nb.app import open_store
from mastra_nb.embedders import EmbedReply
from mastra_nb.errors import ConfigError, Conflict, ModelError, NotFound, SchemaError, UsageError
from mastra_nb.messages import ToolResult
from mastra_nb.models import ModelRequest
from mastra_nb.progress import set_progress
from mastra_nb.rag.chunking import Chunking
from mastra_nb.rag.documents import Document
from mastra_nb.rag.extract import Extraction
from mastra_nb.rag.index import Index
from mastra_nb.rag.rerank import Reranker, Weights, rerank
from mastra_nb.rag.tool import citations
from mastra_nb.storage import Store
from mastra_nb.testing import FakeEmbedder, ScriptedModel, calls
from mastra_nb.views import record
from tests.hostile import PAYLOADS, active

ROOT = Path(__file__).resolve().parents[2]
BIRDS = "# Birds\n\n## Owls\n\nOwls hunt mice at night.\n\n## Ducks\n\nDucks swim on ponds.\n"
_html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
TREES = "# Trees\n\nOaks drop acorns in autumn.\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "notes"
    home.mkdir()
    (home / "birds.md").write_text(BIRDS)
    (home / "trees.md").write_text(TREES)
    return home


@pytest.fixture
def store() -> Store:
    return open_store("memory://")


def index(store: Store, embedder: Any = None, **options: Any) -> Index:
    options.setdefault("chunking", Chunking(max_size=60))
    return Index("notes", store=store, embedder=embedder or FakeEmbedder(), **options)


def embedded(embedder: FakeEmbedder) -> list[str]:
    return [text for call in embedder.calls for text in call]


async def test_a_folder_is_searched_and_a_hit_points_into_its_source(
    folder: Path, store: Store
) -> None:
    notes = index(store)
    report = await notes.ingest(folder)
    assert (report.added, report.failed) == (2, ())
    hit = (await notes.query("what do owls hunt at night", top_k=1))[0]
    assert hit.source == f"{folder.as_posix()}/birds.md"
    assert (folder / "birds.md").read_text()[hit.start : hit.end] == hit.text
    assert "Owls hunt mice" in hit.text and hit.headings == ("Birds", "Owls")
    assert hit.citation.startswith(f"{hit.source}:") and hit.line <= 5 <= hit.last_line


@pytest.mark.parametrize("mode", ["hybrid", "vector", "words"])
async def test_every_mode_finds_it(folder: Path, store: Store, mode: Any) -> None:
    notes = index(store)
    await notes.ingest(folder)
    hits = await notes.query("acorns in autumn", mode=mode, top_k=2)
    assert "acorns" in hits[0].text and len(hits) <= 2


async def test_only_what_changed_is_embedded(folder: Path, store: Store) -> None:
    embedder = FakeEmbedder()
    notes = index(store, embedder)
    await notes.ingest(folder)
    embedder.calls.clear()
    again = await notes.ingest(folder)
    assert (again.unchanged, again.added, again.changed) == (2, 0, 0) and embedder.calls == []
    (folder / "birds.md").write_text(BIRDS.replace("ponds", "lakes"))
    changed = await notes.ingest(folder)
    assert (changed.unchanged, changed.changed) == (1, 1)
    assert len(embedded(embedder)) == 1 and "lakes" in embedded(embedder)[0]
    assert not [h for h in await notes.query("ponds", mode="words") if "ponds" in h.text]


async def test_text_that_moved_is_not_embedded_again(folder: Path, store: Store) -> None:
    embedder = FakeEmbedder()
    notes = index(store, embedder)
    await notes.ingest(folder)
    embedder.calls.clear()
    (folder / "birds.md").rename(folder / "moved.md")
    report = await notes.ingest(folder, prune=True)
    assert (report.added, report.removed, report.embedded) == (1, 1, 0) and embedder.calls == []
    assert {Path(d.source).name for d in await notes.documents()} == {"moved.md", "trees.md"}


async def test_a_shorter_document_leaves_no_chunk_behind(folder: Path, store: Store) -> None:
    notes = index(store)
    await notes.ingest(folder)
    (folder / "birds.md").write_text("# Birds\n")
    await notes.ingest(folder)
    assert not [h for h in await notes.query("owls ducks", top_k=9) if "Owls" in h.text]
    (folder / "birds.md").write_text("\n")
    report = await notes.ingest(folder)
    assert report.empty == 1
    assert [Path(d.source).name for d in await notes.documents()] == ["trees.md"]


async def test_prune_keeps_what_could_not_be_read_this_time(folder: Path, store: Store) -> None:
    notes = index(store)
    await notes.ingest(folder)
    report = await notes.ingest(folder, Document("x", source="x"), prune=True)
    assert report.removed == 0
    huge = Index("notes", store=store, embedder=FakeEmbedder(), chunking=Chunking(max_size=60),
                 max_bytes=40)  # fmt: skip
    report = await huge.ingest(folder, prune=True)
    assert [Path(f.source).name for f in report.failed] == ["birds.md"]
    assert {Path(d.source).name for d in await notes.documents()} == {"birds.md", "trees.md"}
    assert report.removed == 1


async def test_a_failing_embedder_loses_nothing_that_is_done(store: Store) -> None:
    embedder = FakeEmbedder()
    embedder.fail[2] = ModelError("quota")
    texts = [Document(f"text number {i} " * 4, source=f"{i}") for i in range(600)]
    notes = index(store, embedder)
    with pytest.raises(ModelError, match="quota"):
        await notes.ingest(texts)
    done = await notes.documents()
    report = await notes.ingest(texts)
    assert len(done) + report.added == 600
    assert len(await notes.documents()) == 600


async def test_a_cancelled_ingest_goes_on_where_it_was(store: Store) -> None:
    texts = [Document(f"word{i} word{i + 1}", source=f"{i}") for i in range(600)]
    reached = asyncio.Event()

    class Slow(FakeEmbedder):
        async def embed(self, texts: Any, **kind: Any) -> Any:
            if len(embedded(self)) >= 256:
                reached.set()
                await asyncio.sleep(60)
            return await super().embed(texts)

    slow = Slow()
    task = asyncio.create_task(index(store, slow).ingest(texts))
    await asyncio.wait_for(reached.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    first = embedded(slow)
    embedder = FakeEmbedder()
    report = await index(store, embedder).ingest(texts)
    assert report.unchanged + report.added == 600 and report.unchanged >= 256
    assert not {*first} & {*embedded(embedder)}


KILLED = """
import asyncio, os, signal, sys
from mastra_nb.app import open_store
from mastra_nb.embedders import EmbedReply
from mastra_nb.rag.documents import Document
from mastra_nb.rag.index import Index
from mastra_nb.testing import FakeEmbedder

class Dies(FakeEmbedder):
    async def embed(self, texts, *, kind="passage"):
        if sum(map(len, self.calls)) >= 256:
            os.kill(os.getpid(), signal.SIGKILL)
        return await super().embed(texts)

texts = [Document(f"word{i} word{i + 1}", source=f"{i}") for i in range(600)]
asyncio.run(Index("notes", store=sys.argv[1], embedder=Dies()).ingest(texts))
"""


async def test_a_killed_ingest_goes_on_where_it_was(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/notes.db"
    died = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), url],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    store = open_store(url)
    try:
        embedder = FakeEmbedder()
        texts = [Document(f"word{i} word{i + 1}", source=f"{i}") for i in range(600)]
        report = await Index("notes", store=store, embedder=embedder).ingest(texts)
        assert report.added + report.unchanged == 600
        assert len(embedded(embedder)) == 600 - 256
        assert len(await Index("notes", store=store, embedder=embedder).documents()) == 600
    finally:
        await store.close()


async def test_another_embedder_is_refused_with_the_way_out(folder: Path, store: Store) -> None:
    await index(store).ingest(folder)
    other = index(store, FakeEmbedder(32, name="fake/other"))
    for use in (other.ingest(folder), other.query("owls")):
        with pytest.raises(Conflict, match="made by fake/words") as caught:
            await use
        assert "clear()" in caught.value.hint and caught.value.code == "rag.embedder"
    resized = index(store, FakeEmbedder(32))
    with pytest.raises(Conflict, match="64 dimensions"):
        await resized.query("owls")
    await other.clear()
    assert (await other.ingest(folder)).added == 2


async def test_another_chunking_is_named_and_everything_is_cut_again(
    folder: Path, store: Store
) -> None:
    await index(store).ingest(folder)
    coarse = index(store, chunking=Chunking(max_size=500))
    report = await coarse.ingest(folder)
    assert report.changed == 2
    assert "chunking changed from auto 60/0" in report.notes[0]
    assert (await coarse.ingest(folder)).notes == ()


async def test_words_only_needs_no_embedder(folder: Path, store: Store) -> None:
    words = Index("words", store=store, embedder=None)
    await words.ingest(folder)
    assert "Oaks" in (await words.query("acorns"))[0].text
    with pytest.raises(ConfigError, match="no embedder"):
        await words.query("acorns", mode="vector")
    with pytest.raises(Conflict, match="made by no embedder") as caught:
        await Index("words", store=store, embedder=FakeEmbedder()).query("acorns")
    assert "embedder=None" in caught.value.hint
    await index(store).ingest(folder)
    with pytest.raises(Conflict, match="not by words"):
        await Index("notes", store=store, embedder=None).ingest(Document("x"))


class Told:
    def __init__(self) -> None:
        self.done, self.notes, self.steps = 0, [""], [0]

    def start(self, total: int | None, what: str) -> None:
        self.what = what

    def advance(self, n: int = 1) -> None:
        self.done += n
        self.steps.append(n)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def close(self) -> None:
        self.notes.append("closed")


async def test_progress_is_told_and_ends_at_all_of_it(folder: Path, store: Store) -> None:
    (folder / "empty.md").touch()
    told, shown = Told(), Told()
    report = await index(store).ingest(folder, progress=told)
    assert told.done == 3 and min(told.steps) == 0 and '"notes"' in told.what
    assert f"{report.chunks} chunks" in told.notes[-1]
    set_progress(lambda: shown)
    try:
        await index(store).ingest(folder)
    finally:
        set_progress(None)
    assert shown.done == 3 and shown.notes[-1] == "closed"


async def test_a_long_batch_is_told_as_it_is_made(store: Store) -> None:
    told = Told()
    texts = [Document(f"word{i} word{i + 1}", source=f"{i}") for i in range(200)]
    await index(store).ingest(texts, progress=told)
    assert [n.split()[0] for n in told.notes if n.endswith("chunks")] == [
        "0",
        "64",
        "128",
        "192",
        "200",
    ]


async def test_what_is_asked_wrongly_says_so(folder: Path, store: Store) -> None:
    notes = index(store)
    with pytest.raises(NotFound, match='no index "notes"'):
        await notes.query("x")
    with pytest.raises(NotFound, match="nowhere"):
        await notes.ingest(folder / "nowhere")
    await notes.ingest(folder)
    with pytest.raises(UsageError, match="question is empty"):
        await notes.query(" \n")
    with pytest.raises(ConfigError, match="no mode"):
        await notes.query("x", mode="magic")  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        await notes.query("x", filter={"a": {"$where": "1"}})
    with pytest.raises(SchemaError, match="begins with"):
        await notes.ingest(folder, metadata={"_source": "x"})


async def test_filters_and_metadata(store: Store) -> None:
    notes = index(store)
    await notes.ingest(Document("owls at night", source="a", metadata={"year": 2019}))
    await notes.ingest(Document("owls at dawn", source="b", metadata={"year": 2022}),
                       metadata={"team": "x"})  # fmt: skip
    hits = await notes.query("owls", filter={"year": {"$gte": 2020}})
    assert [(h.source, h.metadata["team"]) for h in hits] == [("b", "x")]
    assert not any(k.startswith("_") for k in hits[0].metadata)
    assert [d.source for d in await notes.documents(filter={"year": 2019})] == ["a"]
    assert await notes.delete("a") == 1
    assert (await notes.stats()).documents == 1


async def test_a_judge_reorders_and_a_failing_one_changes_nothing(store: Store) -> None:
    notes = index(store)
    await notes.ingest([Document(f"owls {w}", source=w) for w in ("sleep", "hunt", "fly")])
    judge = ScriptedModel(
        '{"value": [{"passage": 1, "relevance": 0}, {"passage": 2, "relevance": 0},'
        ' {"passage": 3, "relevance": 1}]}'
    )
    before = await notes.query("owls", top_k=3)
    after = await notes.query("owls", top_k=3, rerank=judge)
    assert after[0].id == before[2].id and len(judge.requests) == 1
    failed = await notes.query("owls", top_k=3, rerank=ScriptedModel(ModelError("down")))
    assert [h.id for h in failed] == [h.id for h in before]
    assert "not reranked" in failed.notes[0]


async def test_an_embedder_and_weights_rerank(store: Store) -> None:
    notes = index(store, FakeEmbedder(8))
    await notes.ingest([Document(f"owls {w}", source=w) for w in ("sleep", "hunt", "fly")])
    hits = await notes.query("owls fly", top_k=3)
    best = await rerank(hits, embedder=FakeEmbedder(512), top_k=1)
    assert [h.source for h in best] == ["fly"]
    only = Reranker(weights=Weights(semantic=0.0, vector=0.0, position=1.0))
    assert [h.id for h in await only(hits)] == [h.id for h in hits]
    with pytest.raises(ConfigError, match="cannot be used"):
        Weights(semantic=1.0)


def results(request: ModelRequest) -> list[Any]:
    parts = [p for m in request.messages for p in m.parts if isinstance(p, ToolResult)]
    return [p.output for p in parts]


async def test_an_agent_cites_and_the_record_says_what(folder: Path, store: Store) -> None:
    notes = index(store)
    await notes.ingest(folder)

    def answer(request: ModelRequest) -> str:
        (first, second) = results(request)
        assert first["passages"][0]["citation"] == "[1]"
        # The same passage keeps its number in a second search.
        assert "[1]" in [p["citation"] for p in second["passages"]]
        return "Mice [1]."

    model = ScriptedModel(
        calls("search_notes", query="what do owls hunt", id="1"),
        calls("search_notes", query="owls at night", id="2"),
        answer,
    )
    agent = Agent(name="guide", model=model, tools=[notes])
    run = agent.run("What do owls eat?")
    assert await run == "Mice [1]."
    (cited,) = citations(run)
    text = (folder / "birds.md").read_text()
    assert "Owls hunt mice" in text[cited.start : cited.end]
    assert cited.source.endswith("birds.md") and len(citations(run, all=True)) > 1
    shown, _ = [i for i in record(run.view)["items"] if i["type"] == "display"]
    assert shown["mime"] == "text/markdown" and "**1**" in shown["data"]
    assert "Owls hunt mice" in shown["data"]


async def test_a_filter_of_the_model_is_checked_and_cannot_widen(store: Store) -> None:
    notes = index(store)
    await notes.ingest([
        Document("owls at night", source="a", metadata={"team": "x", "year": 1}),
        Document("owls at dawn", source="b", metadata={"team": "y", "year": 2}),
    ])  # fmt: skip

    def last(request: ModelRequest) -> str:
        wrong, narrowed, widened = results(request)
        assert "$magic" in json.dumps(wrong)
        assert [p["text"] for p in narrowed["passages"]] == ["owls at night"]
        assert widened["passages"] == []
        return "done"

    tool = notes.as_tool(
        name="find", filter=lambda ctx: {"team": ctx.deps}, enable_filter=True, top_k=9
    )
    model = ScriptedModel(
        calls("find", query="owls", filter={"year": {"$magic": 1}}, id="1"),
        calls("find", query="owls", filter={"year": 1}, id="2"),
        calls("find", query="owls", filter={"team": "y"}, id="3"),
        last,
    )
    assert await Agent(name="a", model=model, tools=[tool]).run("go", deps="x") == "done"


async def test_a_judge_inside_a_run_is_part_of_it(store: Store) -> None:
    notes = index(store)
    await notes.ingest([Document(f"owls {w}", source=w) for w in ("sleep", "hunt")])
    judge = ScriptedModel('{"value": [{"passage": 2, "relevance": 1}]}', name="judge/model")
    model = ScriptedModel(calls("search", query="owls"), "ok")
    tool = notes.as_tool(name="search", rerank=judge)
    run = Agent(name="a", model=model, tools=[tool]).run("go")
    await run
    assert any(s.name == "judge/model" for s in run.view.spans.values())
    # Two turns, the judge, and the question as a vector.
    assert run.view.usage.calls == 4


async def test_a_model_describes_documents_once(store: Store) -> None:
    model = ScriptedModel('{"title": "Owls", "keywords": ["night"]}')
    extract = Extraction(model=model, title=True, keywords=True)
    text = Document("Owls hunt at night.", source="a")
    report = await index(store, extract=extract).ingest(text)
    assert report.added == 1
    hit = (await index(store).query("owls"))[0]
    assert hit.metadata["keywords"] == ["night"] and hit.title == "Owls"
    await index(store, extract=extract).clear()
    await index(store, extract=extract).ingest(text)
    assert len(model.requests) == 1


async def test_an_app_gives_its_store_to_its_indexes(folder: Path) -> None:
    app = Mastra(storage="memory://")
    await app.index("notes", embedder=FakeEmbedder()).ingest(folder)
    assert len(await app.index("notes", embedder=FakeEmbedder()).documents()) == 2


@pytest.mark.parametrize("payload", PAYLOADS)
async def test_nothing_hostile_is_active_where_it_is_shown(payload: str, store: Store) -> None:
    notes = index(store, chunking=Chunking(max_size=2000))
    facts = {"title": payload}
    name = payload.replace("\0", "")
    report = await notes.ingest(Document(f"{payload} owl", source=name, metadata=facts))
    hits = await notes.query(f"owl {payload}"[:300])
    model = ScriptedModel(calls("search_notes", query="owl"), "See [1].")
    run = Agent(name="a", model=model, tools=[notes]).run("go")
    await run
    for shown in (report, hits, await notes.documents(), await notes.stats(), run):
        page = str(_html.render(shown._repr_mimebundle_()["text/markdown"]))
        assert active(page) == []
    assert len(citations(run)) == 1


async def test_an_ingest_that_read_nothing_removes_nothing(folder: Path, store: Store) -> None:
    notes = index(store)
    await notes.ingest(folder)
    empty = folder.parent / "empty"
    empty.mkdir()
    for sources in ((), ([],), (empty,)):
        report = await notes.ingest(*sources, prune=True)
        assert report.removed == 0
        assert any("clear()" in note for note in report.notes)
    assert len(await notes.documents()) == 2


async def test_vectors_that_are_no_use_are_not_kept_for_the_next_time(
    folder: Path, store: Store
) -> None:
    class Once(FakeEmbedder):
        async def embed(self, texts: Any, **kind: Any) -> Any:
            reply = await super().embed(texts)
            row = bad if len(self.calls) == 2 else None
            return reply if row is None else EmbedReply(rows=tuple(row for _ in texts))

    for bad in (b"\0\0\xc0\x7f" * 64, b"\0" * 16):
        notes = Index(f"x{len(bad)}", store=store, embedder=Once(name=f"fake/{len(bad)}"))
        await notes.ingest(Document("first", source="1"))
        with pytest.raises((SchemaError, ModelError)):
            await notes.ingest(Document("owls", source="2"))
        await notes.ingest(Document("owls", source="2"))
        assert (await notes.query("owls", top_k=1))[0].text == "owls"


@pytest.mark.parametrize("options", [{"embedder": 5}, {"chunking": 500}, {"store": "my.db"}])
async def test_what_is_no_index_says_what_would_be_one(options: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        await Index("x", **{"store": "memory://", "embedder": None, **options}).ingest(
            Document("a")
        )
    assert caught.value.hint


@pytest.mark.parametrize("question", [None, 5])
async def test_a_question_is_a_text(store: Store, question: Any) -> None:
    with pytest.raises(ConfigError, match="no question"):
        await index(store).query(question)
