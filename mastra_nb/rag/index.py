"""An index: documents in, passages out. What is unchanged is not read, cut or embedded again."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from mastra_nb import plugins, portal
from mastra_nb.embedders import Embedder, embed_many, resolve
from mastra_nb.errors import (
    ConfigError,
    Conflict,
    MastraError,
    MissingExtra,
    NotFound,
    SchemaError,
    UsageError,
)
from mastra_nb.executor import AHEAD, Executor, apply, elsewhere
from mastra_nb.messages import Usage
from mastra_nb.progress import Progress, Silent, new_progress
from mastra_nb.rag.chunking import Chunk, Chunking
from mastra_nb.rag.documents import Document
from mastra_nb.rag.extract import Extraction
from mastra_nb.rag.loading import MAX_BYTES, Failed, Item, items
from mastra_nb.rag.rerank import reranker
from mastra_nb.rag.results import (
    PART,
    SOURCE,
    DocumentInfo,
    Documents,
    Hits,
    Ingested,
    Overview,
    document_info,
    passage,
    stored,
)
from mastra_nb.rag.tool import Narrow, search_tool
from mastra_nb.schema import clean, to_json
from mastra_nb.services import ambient
from mastra_nb.storage import Store
from mastra_nb.tools import Tool, in_thread
from mastra_nb.vectors import Dtype, Filter, Fusion, IndexInfo, Metric

Mode = Literal["hybrid", "vector", "words"]
T = TypeVar("T")

MODES: tuple[str, ...] = Mode.__args__  # type: ignore[attr-defined]

TOP_K = 5
# Chunks that are embedded and written together.
_BATCH = 256
_AHEAD = 32
_PAGE = 1000
# How many more than asked for a reranker sees.
_CANDIDATES = 4
_KIND = "rag.index"


class _Ready(msgspec.Struct, frozen=True, kw_only=True):
    """A document that waits to be written."""

    document: Document
    digest: str
    chunks: tuple[Chunk, ...]
    known: bool


class _Config(msgspec.Struct, frozen=True, kw_only=True):
    """What the chunks of an index were made by, kept beside it."""

    chunking: str = ""
    extraction: str = ""


class Index:
    """Documents that can be searched, kept in a store under a name.

    `embedder` is one, its name, or None: then only words are searched. `store` is a Store, its URL,
    or None: the application's, else one in memory. `metadata_indexes` are keys of the metadata that
    filters use often. `allow_hosts` are hosts of your own network that may be fetched from.
    """

    def __init__(
        self,
        name: str,
        *,
        store: Store | str | None = None,
        embedder: str | Embedder | None = "local",
        chunking: Chunking | None = None,
        extract: Extraction | None = None,
        metric: Metric = "cosine",
        dtype: Dtype = "float32",
        metadata_indexes: Sequence[str] = (),
        allow_hosts: Iterable[str] = (),
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.name = name
        self.chunking = chunking or Chunking()
        if not isinstance(self.chunking, Chunking):
            raise ConfigError(
                f"chunking cannot be {type(chunking).__name__}", hint="Chunking(max_size=1200)"
            )
        self.extract = extract
        self.metric = metric
        self.dtype = dtype
        self.metadata_indexes = tuple(metadata_indexes)
        self.allow_hosts = tuple(allow_hosts)
        self.max_bytes = max_bytes
        self._store = store
        self._embedder = embedder

    def __repr__(self) -> str:
        named = self._embedder if isinstance(self._embedder, str) else self._named
        return f"<Index {self.name} embedder={named or 'none'}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        try:
            return portal.run(self.stats())._repr_mimebundle_()
        except NotFound:
            return {"text/plain": f"{self!r}: nothing is in it yet"}
        except MastraError as error:
            return {"text/plain": f"{self!r}: {error.message}"}

    @property
    def store(self) -> Store:
        """Raises NotFound, StorageError if a URL cannot be opened."""
        if self._store is None:
            self._store = ambient().store or "memory://"
        if isinstance(self._store, str):
            made: Store = plugins.open_store(self._store)
            self._store = made
        return self._store

    @property
    def embedder(self) -> Embedder | None:
        """Raises NotFound for an unknown provider, MissingExtra."""
        if self._embedder is not None:
            self._embedder = resolve(self._embedder)
        return self._embedder

    @property
    def _named(self) -> str:
        return "" if self._embedder is None else getattr(self._embedder, "name", "")

    # Writing

    async def ingest(
        self,
        *sources: Any,
        prune: bool = False,
        metadata: Mapping[str, Any] | None = None,
        root: str | Path | None = None,
        progress: Progress | None = None,
        executor: str | Executor | None = None,
    ) -> Ingested:
        """Read `sources` as `load` does and index what is new or has changed. `prune` removes the
        documents that were not among them; `metadata` is added to that of each. `progress` is
        advanced by documents that were found as they were or were written; None: the front end's.
        With an `executor` ("local", "dask", or one of yours) documents are read and cut there.

        Each document is written whole or not at all: stop it at any time, call it again, and it
        goes on with what was not done. What cannot be read is in the report. Raises NotFound for a
        path that is not there, Conflict if another embedder made the index, ModelError.
        """
        shown = progress or new_progress()
        shown.start(None, f'documents into "{self.name}"')
        try:
            where = None if executor is None else ambient().executor(executor)
            return await _Ingest(self, dict(metadata or {}), shown, where).run(
                items(*sources, root=root, max_bytes=self.max_bytes, allow_hosts=self.allow_hosts),
                prune=prune,
            )
        except BaseException as error:
            shown.failed(error)
            raise
        finally:
            if progress is None:
                shown.close()

    async def delete(self, *sources: str) -> int:
        """Remove documents by their source; returns how many chunks that were."""
        gone = 0
        for some in _slices(sources):
            gone += await self.store.vectors.delete(self.name, filter={SOURCE: {"$in": some}})
        return gone

    async def clear(self) -> bool:
        """Delete the index with all it holds; False if there is none."""
        await self.store.delete(_KIND, self.name)
        return await self.store.vectors.delete_index(self.name)

    async def _describe(self) -> IndexInfo | None:
        """None if it is not there. Raises Conflict if our embedder is not the one that made it."""
        try:
            info = await self.store.vectors.describe_index(self.name)
        except NotFound:
            return None
        if (embedder := self.embedder) is not None:
            if info.embedder not in ("", embedder.name) or not info.dimension:
                raise self._mismatch(info, embedder.name)
            if embedder.dimensions not in (None, info.dimension):
                raise self._mismatch(info, f"{embedder.dimensions} dimensions")
        return info

    def _mismatch(self, info: IndexInfo, other: str) -> Conflict:
        made = info.embedder or ("an unnamed embedder" if info.dimension else "no embedder")
        named = f'"{info.embedder}"' if info.embedder else "None"
        return Conflict(
            f'the index "{self.name}" was made by {made} '
            f"({info.dimension} dimensions), not {other}",
            code="rag.embedder",
            hint=f'Index("{self.name}", embedder={named}), or await index.clear() and ingest again',
        )

    async def create(self, dimension: int) -> IndexInfo:
        """The index, made if it is not there."""
        embedder = self.embedder
        if (info := await self._describe()) is not None:
            if info.dimension != dimension:
                raise self._mismatch(info, f"{dimension} dimensions" if dimension else "by words")
            return info
        return await self.store.vectors.create_index(
            self.name,
            dimension=dimension,
            metric=self.metric,
            dtype=self.dtype,
            embedder="" if embedder is None else embedder.name,
            metadata_indexes=(SOURCE, PART, *self.metadata_indexes),
        )

    # Reading

    async def query(
        self,
        text: str,
        *,
        top_k: int = TOP_K,
        filter: Filter | None = None,
        mode: Mode = "hybrid",
        rerank: Any = None,
        min_score: float | None = None,
        fusion: Fusion = "score",
    ) -> Hits:
        """The best passages for `text`. `filter` holds before the search. `rerank` is a Reranker,
        a model, another embedder or a function of Hits; `min_score` is a bound on the similarity,
        `fusion` how words and vectors come together (see `vectors.Hit`).

        Raises NotFound for an index nobody has made, ConfigError for a filter or a mode, UsageError
        for a question without words.
        """
        if not isinstance(text, str):
            raise ConfigError(f"a {type(text).__name__} is no question", hint="give a str")
        if not clean(text).strip():
            raise UsageError("the question is empty", hint="ask with words")
        if mode not in MODES:
            raise ConfigError(f'there is no mode "{mode}"', hint=f"one of {', '.join(MODES)}")
        info = await self._describe()
        if info is None:
            raise NotFound(
                f'there is no index "{self.name}" in {self.store.url}',
                hint='await index.ingest("docs/") makes it',
            )
        embedder, vector = self.embedder, None
        if embedder is None and mode == "vector":
            raise ConfigError(
                f'the index "{self.name}" has no embedder', hint='query(…, mode="words")'
            )
        if embedder is not None and mode != "words":
            vector = (await embed_many(embedder, [clean(text)], kind="query")).rows[0]
        found = await self.store.vectors.query(
            self.name,
            vector,
            text=None if mode == "vector" else clean(text),
            top_k=top_k * (1 if rerank is None else _CANDIDATES),
            filter=filter,
            min_score=min_score,
            fusion=fusion,
        )
        hits = Hits(query=text, passages=tuple(map(passage, found)))
        if rerank is not None:
            hits = await reranker(rerank)(hits)
        return msgspec.structs.replace(hits, passages=hits.passages[:top_k])

    async def documents(self, *, filter: Filter | None = None) -> Documents:
        """In order of first insertion."""
        only = {"$and": [{PART: 0}, dict(filter)]} if filter else {PART: 0}
        found: list[DocumentInfo] = []
        while True:
            try:
                rows = await self.store.vectors.find(
                    self.name, filter=only, limit=_PAGE, offset=len(found)
                )
            except NotFound:
                return Documents()
            found += [document_info(r.metadata) for r in rows]
            if len(rows) < _PAGE:
                return Documents(tuple(found))

    async def stats(self) -> Overview:
        """Raises NotFound for an index nobody has made."""
        stats = await self.store.vectors.stats(self.name)
        count = await self.store.vectors.count(self.name, filter={PART: 0})
        config = await self.config()
        return Overview(documents=count, chunking=config.chunking, vectors=stats)

    async def config(self) -> _Config:
        """What its chunks were made by."""
        return msgspec.convert(await self.store.get(_KIND, self.name) or {}, _Config)

    def as_tool(
        self,
        *,
        name: str = "",
        description: str = "",
        top_k: int = TOP_K,
        filter: Narrow = None,
        enable_filter: bool = False,
        **options: Any,
    ) -> Tool[..., Any]:
        """A tool that searches, for agents: `filter`, which may be a function of the context,
        always holds; with `enable_filter` the model may narrow it down. `options` are `query`'s.
        """
        return search_tool(
            self,
            name=name,
            description=description,
            top_k=top_k,
            filter=filter,
            enable_filter=enable_filter,
            **options,
        )


class _Ingest:
    """One ingest: reads ahead while the batch before is embedded and written."""

    def __init__(
        self,
        index: Index,
        metadata: dict[str, Any],
        progress: Progress,
        executor: Executor | None,
    ) -> None:
        self.progress = progress
        self.executor = executor
        try:
            to_json(metadata)
        except TypeError as error:
            raise SchemaError(f"the metadata is no JSON: {error}") from None
        own = [k for k in metadata if k.startswith("_")]
        if own:
            raise SchemaError(f'the metadata key "{own[0]}" begins with "_"')
        self.index, self.metadata = index, metadata
        self.config = _Config(
            chunking=index.chunking.about, extraction=index.extract.about if index.extract else ""
        )
        self.salt = msgspec.json.encode([self.config, metadata], order="sorted")
        self.known: dict[str, str] = {}
        self.seen: set[str] = set()
        self.failed: list[Failed] = []
        self.counts = dict.fromkeys(("added", "changed", "unchanged", "removed", "empty"), 0)
        self.chunks = self.embedded = self.told = 0
        self.usage = Usage()
        self.dimension = 0
        self.source = ""

    async def run(self, found: AsyncIterator[Item | Failed], *, prune: bool) -> Ingested:
        began, index = ambient().now(), self.index
        info = await index._describe()
        notes = await self._config_notes() if info is not None else []
        if info is not None:
            self.dimension = info.dimension
            self.known = {d.source: d.digest for d in await index.documents()}
        await index.store.put(_KIND, index.name, msgspec.to_builtins(self.config))
        queue: asyncio.Queue[_Ready | BaseException | None] = asyncio.Queue(_AHEAD)
        reading = asyncio.create_task(self._read(found, queue))
        try:
            await self._write_all(queue)
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
        if prune and (self.seen or self.failed or not self.known):
            await self._prune()
        elif prune:
            # An unmounted drive, a list that came out empty: rather too much than nothing left.
            notes.append("nothing was read, so nothing was removed: index.clear() empties it")
        return Ingested(
            index=index.name,
            failed=tuple(self.failed),
            chunks=self.chunks,
            embedded=self.embedded,
            usage=self.usage,
            seconds=ambient().now() - began,
            notes=tuple(notes),
            **self.counts,
        )

    async def _config_notes(self) -> list[str]:
        before = await self.index.config()
        return [
            f"the {name} changed from {was or 'none'} to {now or 'none'}: every document is "
            "indexed again"
            for name, was, now in (
                ("chunking", before.chunking, self.config.chunking),
                ("extraction", before.extraction, self.config.extraction),
            )
            if was != now and before != _Config()
        ]

    async def _read(
        self,
        found: AsyncIterator[Item | Failed],
        queue: asyncio.Queue[_Ready | BaseException | None],
    ) -> None:
        at_once = 1 if self.executor is None else self.executor.workers * AHEAD
        line: deque[tuple[str, asyncio.Task[_Ready | None]]] = deque()

        async def settle() -> None:
            source, task = line.popleft()
            if (ready := await task) is not None:
                await queue.put(ready)
            else:
                self._report(source)

        try:
            async for one in found:
                if isinstance(one, Item) and one.source not in self.seen:
                    self.seen.add(one.source)
                    line.append((one.source, asyncio.create_task(self._prepare(one))))
                    if len(line) >= at_once:
                        await settle()
                    continue
                if isinstance(one, Failed):
                    self.failed.append(one)
                self._report(one.source)
            while line:
                await settle()
            await queue.put(None)
        except Exception as error:
            await queue.put(error)
        finally:
            for _, task in line:
                task.cancel()

    async def _prepare(self, item: Item) -> _Ready | None:
        """None for what is unchanged, and for what cannot be read, which is noted."""
        seal = hashlib.sha256(item.digest.encode())
        seal.update(self.salt)
        digest = seal.hexdigest()[:32]
        before = self.known.get(item.source)
        if before == digest:
            self.counts["unchanged"] += 1
            return None
        try:
            document = await self._work(item.document)
        except (SchemaError, MissingExtra) as error:
            self.failed.append(Failed.of(item.source, error))
            return None
        if self.index.extract is not None:
            document = await self.index.extract(document, self.index.store)
        chunks = await self._work(partial(document.chunk, chunking=self.index.chunking))
        if not chunks:
            self.counts["empty"] += 1
            if before is not None:
                await self.index.delete(item.source)
            return None
        return _Ready(
            document=document, digest=digest, chunks=tuple(chunks), known=before is not None
        )

    async def _work(self, fn: Callable[[], T]) -> T:
        if self.executor is None:
            return await in_thread(fn)
        done: T = await elsewhere(self.executor, apply, fn, {})
        return done

    async def _write_all(self, queue: asyncio.Queue[_Ready | BaseException | None]) -> None:
        batch: list[_Ready] = []
        size = 0
        while True:
            ready = await queue.get()
            if isinstance(ready, BaseException):
                raise ready
            if ready is not None:
                batch.append(ready)
                size += len(ready.chunks)
            if batch and (ready is None or size >= _BATCH):
                await self._write(batch)
                self._report(batch[-1].document.source)
                batch, size = [], 0
            if ready is None:
                return

    async def _write(self, batch: list[_Ready]) -> None:
        index, embedder = self.index, self.index.embedder
        each = [(ready, no, chunk) for ready in batch for no, chunk in enumerate(ready.chunks)]
        rows: tuple[bytes, ...] | None = None
        if embedder is not None:
            texts = await in_thread(lambda: [chunk.in_context for _, _, chunk in each])
            reply = await embed_many(
                embedder,
                texts,
                cache=index.store.embeddings,
                dimension=self.dimension,
                progress=_Embedding(self),
            )
            if self.dimension and reply.dimensions != self.dimension:
                raise SchemaError(
                    f'"{embedder.name}" gave {reply.dimensions} numbers a text and '
                    f"{self.dimension} before",
                    hint="one that has changed needs an index of its own: index.clear()",
                    code="vectors.dimension",
                )
            rows = reply.rows
            self.usage += reply.usage
            self.embedded += reply.made
        self.dimension = len(rows[0]) // 4 if rows else 0
        await index.create(self.dimension)
        ids = [f"{_key(ready.document.source)}.{no}" for ready, no, _ in each]
        metadata = await in_thread(
            lambda: [
                stored(r.document, chunk, no, len(r.chunks), r.digest, self.metadata)
                for r, no, chunk in each
            ]
        )
        await index.store.vectors.upsert(
            index.name,
            rows,
            ids=ids,
            texts=[chunk.text for _, _, chunk in each],
            metadata=metadata,
            delete_filter={SOURCE: {"$in": [ready.document.source for ready in batch]}},
        )
        self.chunks += len(each)
        for ready in batch:
            self.counts["changed" if ready.known else "added"] += 1

    def _report(self, source: str) -> None:
        done = sum(self.counts.values()) + len(self.failed)
        self.source = source
        self.say()
        self.progress.advance(done - self.told)
        self.told = done

    def say(self, embedded: int = 0) -> None:
        self.progress.note(f"{self.chunks + embedded:,} chunks {self.source}".rstrip())

    async def _prune(self) -> None:
        lost = tuple(f.source for f in self.failed)
        under = tuple(f"{source}/" for source in lost)
        gone = [
            source
            for source in self.known
            if source not in self.seen and source not in lost and not source.startswith(under)
        ]
        if gone:
            await self.index.delete(*gone)
        self.counts["removed"] = len(gone)


class _Embedding(Silent):
    """A batch may take minutes in a model on this machine: its chunks are told as they are made."""

    def __init__(self, ingest: _Ingest) -> None:
        self._ingest, self._done = ingest, 0

    def advance(self, n: int = 1) -> None:
        self._done += n
        self._ingest.say(self._done)


def _key(source: str) -> str:
    return hashlib.sha256(source.encode("utf-8", "replace")).hexdigest()[:16]


def _slices(names: Sequence[str], most: int = 500) -> Iterable[list[str]]:
    return ([*names[at : at + most]] for at in range(0, len(names), most))
