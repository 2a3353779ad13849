"""Embedders: texts to vectors. The protocol, what it answers, and the one named by a string."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias

import msgspec

from mastra_nb import plugins
from mastra_nb._later import later
from mastra_nb.context import Codec, Context, Recorded, current
from mastra_nb.errors import ConfigError, ModelError, ModelHTTPError, ModelOutputError, UsageError
from mastra_nb.messages import Usage
from mastra_nb.prices import cost
from mastra_nb.progress import Progress, new_progress
from mastra_nb.services import ambient
from mastra_nb.storage import Docs, EmbeddingCache

if TYPE_CHECKING:
    import asyncio
    import hashlib

    import numpy as np
else:
    asyncio = later("asyncio", globals())
    hashlib = later("hashlib", globals())

_BATCH = 64
_BATCH_BYTES = 48_000


class EmbedReply(msgspec.Struct, frozen=True, kw_only=True):
    """`rows` are the vectors in the order of the texts, each little-endian float32 in bytes:
    what a store keeps, and what becomes an array without a copy.
    """

    rows: tuple[bytes, ...]
    usage: Usage = Usage()
    model: str = ""

    @property
    def dimensions(self) -> int:
        return len(self.rows[0]) // 4 if self.rows else 0

    @property
    def vectors(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The rows as one array of shape (texts, dimensions)."""
        import numpy as np

        flat = np.frombuffer(b"".join(self.rows), dtype="<f4")
        return flat.reshape(len(self.rows), self.dimensions)


Kind: TypeAlias = Literal["passage", "query"]


class Embedded(EmbedReply, frozen=True, kw_only=True):
    """`made` of the texts were embedded now, the others were in the cache."""

    made: int = 0


class Embedder(Protocol):
    """`dimensions` is the length of its vectors, None if it is the model's own and unknown.

    Some models tell what is searched ("passage") from what is asked ("query"); the others ignore
    `kind`. `embed` raises what a model raises: ModelError and its kinds, ConfigError without a key.
    An attribute `batch_bytes` says how much text one request may hold, if it is not 48 kB.
    """

    name: str
    dimensions: int | None

    async def embed(self, texts: Sequence[str], *, kind: Kind = "passage") -> EmbedReply: ...


def _is_finite(row: bytes) -> bool:
    return math.isfinite(sum(struct.unpack(f"<{len(row) // 4}f", row)))


async def embedded(embedder: Embedder, texts: Sequence[str], kind: Kind = "passage") -> EmbedReply:
    """What the embedder gives in one request: a row of finite numbers for each text, all of one
    length.

    Raises what the embedder raises, ModelOutputError for another answer.
    """
    ctx = current()
    wrap = (ambient() if ctx is None else ctx.services).wrap_embedder
    return await _reply(embedder if wrap is None else wrap(embedder), texts, kind)


async def _reply(embedder: Embedder, texts: Sequence[str], kind: Kind) -> EmbedReply:
    # It may be anybody's.
    reply: Any = await embedder.embed(texts, kind=kind)
    rows = reply.rows if isinstance(reply, EmbedReply) else ()
    lengths = {*map(len, rows)}
    if not isinstance(reply, EmbedReply):
        found = f"a {type(reply).__name__}"
    elif len(rows) != len(texts):
        found = f"{len(rows)} vectors for {len(texts)} texts"
    elif any(not length or length % 4 for length in lengths):
        found = f"vectors of {min(lengths)} bytes"
    elif len(lengths) > 1 or (embedder.dimensions and {4 * embedder.dimensions} != lengths):
        sizes = sorted({n // 4 for n in lengths} | {embedder.dimensions or max(lengths) // 4})
        found = f"vectors of {' and '.join(map(str, sizes))} dimensions"
    elif not all(map(_is_finite, rows)):
        found = "a number that is not finite"
    else:
        return reply
    raise ModelOutputError(
        f'the embedder "{embedder.name}" gave {found}',
        hint="embed(texts) gives an EmbedReply with a row for each text: float32 as bytes",
    )


class RecordedEmbedder:
    """Keeps each vector by its text, in a store, and gives it back: what `models.Recorder` is for
    models. `record` asks the embedder and keeps what it says, `auto` asks for what was not kept,
    `only` asks for nothing.
    """

    def __init__(self, inner: Embedder, docs: Docs, mode: str) -> None:
        self.name = inner.name
        self.dimensions = inner.dimensions
        self._inner, self._docs, self._mode = inner, docs, mode

    async def embed(self, texts: Sequence[str], *, kind: Kind = "passage") -> EmbedReply:
        """Raises ModelError for a text without a recording in the mode `only`."""
        ids = [self._id(text, kind) for text in texts]
        kept: dict[str, dict[str, Any]] = {}
        if self._mode != "record":
            for id in ids:
                if (data := await self._docs.get("recording", id)) is not None:
                    kept[id] = data
        missing = {id: text for id, text in zip(ids, texts, strict=True) if id not in kept}
        if missing and self._mode == "only":
            raise ModelError(
                f'no recording of a text for "{self.name}": "{next(iter(missing.values()))[:60]}"',
                code="model.not_recorded",
                hint="record it with %mastra replay record, or use %mastra replay auto",
            )
        if missing:
            reply = await _reply(self._inner, [*missing.values()], kind)
            share, rest = divmod(reply.usage.input, len(missing))
            for n, (id, vector) in enumerate(zip(missing, reply.rows, strict=True)):
                kept[id] = {
                    "row": base64.b64encode(vector).decode(),
                    # Its part of the request, so that a replay comes to the same sum.
                    "input": share + (rest if not n else 0),
                    "model": reply.model,
                }
                await self._docs.put("recording", id, kept[id])
        found = [kept[id] for id in ids]
        return EmbedReply(
            rows=tuple(base64.b64decode(each["row"]) for each in found),
            usage=Usage(input=sum(kept[id]["input"] for id in {*ids}), calls=1),
            model=found[-1]["model"] if found else "",
        )

    def _id(self, text: str, kind: Kind) -> str:
        about = f"{self.name}@{self.dimensions}\0{kind}\0{text}"
        return f"embed.{hashlib.sha256(about.encode(errors='surrogatepass')).hexdigest()}"


def resolve(embedder: str | Embedder, *, dimensions: int | None = None) -> Embedder:
    """An embedder by its string "provider/model" ("local" alone is enough), or as it is.
    `dimensions` asks for shorter vectors, where a model can do that.

    Raises NotFound for an unknown provider, ConfigError for a string without one.
    """
    if not isinstance(embedder, str):
        if not hasattr(embedder, "embed") or not hasattr(embedder, "name"):
            raise ConfigError(
                f"a {type(embedder).__name__} is no embedder",
                hint='name one, "provider/model", or give an object with name and embed(texts)',
            )
        return embedder
    provider, _, model_id = embedder.partition("/")
    if not model_id and provider != "local":
        raise ConfigError(
            f'"{embedder}" names no provider',
            hint='write "provider/model", for example "openai/text-embedding-3-small", or "local"',
        )
    options = {} if dimensions is None else {"dimensions": dimensions}
    made: Embedder = plugins.embedders.load(provider)(provider, model_id, **options)
    return made


def batches(texts: Iterable[str], most: int, most_bytes: int) -> Iterator[list[str]]:
    """Runs of at most `most` texts and `most_bytes` bytes: no token is shorter than a byte."""
    batch: list[str] = []
    size = 0
    for text in texts:
        length = len(text.encode(errors="replace"))
        if batch and (size + length > most_bytes or len(batch) == most):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += length
    if batch:
        yield batch


async def embed_many(
    embedder: Embedder,
    texts: Sequence[str],
    *,
    kind: Kind = "passage",
    cache: EmbeddingCache | None = None,
    batch_size: int | None = None,
    concurrency: int = 4,
    progress: Progress | None = None,
    dimension: int = 0,
) -> Embedded:
    """The vectors of many texts, in their order; equal texts are sent once.

    What is in `cache` is not sent at all, and each batch is there as soon as it is done: a job that
    was interrupted goes on where it was. `progress` is advanced by texts; without it a job of more
    than one batch shows its own. In a run the requests are a span, and count for its budgets.

    `dimension`, if it is given, is that of the vectors that may come out of the cache.

    Raises what the embedder raises (a text that is too long is named by its index), UsageError for
    an empty text, ModelOutputError for vectors that do not fit the texts or each other.
    """
    for index, text in enumerate(texts):
        if not text.strip():
            raise UsageError(f"text {index} is empty", hint="leave out texts without words")
    if concurrency < 1 or (batch_size is not None and batch_size < 1):
        raise UsageError("batch_size and concurrency must be 1 or more", hint="leave them out")
    job = _Job(embedder, texts, kind, cache)
    await job.look_up(dimension)
    missing = job.missing()
    todo = list(
        batches(missing, batch_size or _BATCH, getattr(embedder, "batch_bytes", _BATCH_BYTES))
    )
    shown = progress or (new_progress() if len(todo) > 1 else None)
    if shown is not None and progress is None:
        shown.start(len(texts), f"embedding with {embedder.name}")
    if shown is not None:
        shown.advance(len(texts) - sum(map(job.times, missing)))
    try:
        if todo:
            work = _Work(job, todo, concurrency, shown)
            ctx = current()
            if ctx is None or ctx.over:
                await work.run(None)
            else:
                await ctx.call(work, work.input(), codec=work)
                if job.missing():
                    # The run has been here before, but the vectors are not kept.
                    await work.run(None)
    except BaseException as error:
        if shown is not None and progress is None:
            shown.failed(error)
        raise
    finally:
        if shown is not None and progress is None:
            shown.close()
    return Embedded(
        rows=tuple(job.rows[text] for text in texts),
        usage=job.usage,
        model=job.model,
        made=len(missing),
    )


class _Job:
    """The texts of one call and what is known of them. `rows` is by text."""

    def __init__(
        self, embedder: Embedder, texts: Sequence[str], kind: Kind, cache: EmbeddingCache | None
    ) -> None:
        self.embedder = embedder
        self.kind = kind
        self.rows: dict[str, bytes] = {}
        self.usage = Usage()
        self.model = ""
        self._cache = cache
        self._first: dict[str, int] = {}
        self._times: dict[str, int] = {}
        for index, text in enumerate(texts):
            self._first.setdefault(text, index)
            self._times[text] = self._times.get(text, 0) + 1
        start = kind.encode() + b"\0"
        self.digests = {
            text: hashlib.sha256(start + text.encode(errors="surrogatepass")).digest()
            for text in self._first
        }
        self._key = embedder.name
        if embedder.dimensions is not None:
            self._key += f"@{embedder.dimensions}"

    def missing(self) -> list[str]:
        return [text for text in self._first if text not in self.rows]

    def times(self, text: str) -> int:
        return self._times[text]

    async def look_up(self, dimension: int) -> None:
        if self._cache is not None and self.digests:
            found = await self._cache.get(self._key, [*self.digests.values()])
            self.rows = {
                t: found[d]
                for t, d in self.digests.items()
                if d in found and (not dimension or len(found[d]) == 4 * dimension)
            }

    async def embed(self, batch: list[str], ctx: Context | None) -> None:
        try:
            reply = await embedded(self.embedder, batch, self.kind)
        except ModelHTTPError as error:
            if error.code != "model.context_length":
                raise
            if len(batch) == 1:
                error.message = f"text {self._first[batch[0]]} is too long: {error.message}"
                error.hint = "cut it into smaller chunks"
                raise
            # One of them is too long, or all of them together.
            half = len(batch) // 2
            await self.embed(batch[:half], ctx)
            await self.embed(batch[half:], ctx)
            return
        prices = None if ctx is None else ctx.services.settings.prices
        usage = msgspec.structs.replace(reply.usage, calls=max(1, reply.usage.calls))
        usage = msgspec.structs.replace(usage, cost=cost(self.embedder.name, usage, prices))
        self.usage += usage
        if ctx is not None:
            ctx.meter.add(usage)
        self.model = reply.model
        made = self._checked(batch, reply.rows)
        self.rows |= made
        if self._cache is not None:
            await self._cache.put(self._key, {self.digests[t]: row for t, row in made.items()})

    def _checked(self, batch: list[str], rows: Sequence[bytes]) -> dict[str, bytes]:
        sizes = {len(row) // 4 for row in [*rows[:1], *[*self.rows.values()][:1]]}
        if len(sizes) > 1:
            said = " and ".join(str(size) for size in sorted(sizes))
            raise ModelOutputError(
                f'vectors of "{self.embedder.name}" have {said} dimensions',
                hint="name the dimensions: resolve(name, dimensions=...); or empty the cache",
            )
        return dict(zip(batch, rows, strict=True))


class _Work(Codec[None]):
    """The requests of a job as a call of the run; the journal keeps a digest and a count."""

    kind: ClassVar[str] = "embedding"

    def __init__(
        self, job: _Job, todo: list[list[str]], concurrency: int, progress: Progress | None
    ) -> None:
        self.name = job.embedder.name
        self._job = job
        self._todo = todo
        self._concurrency = concurrency
        self._progress = progress

    def input(self) -> dict[str, Any]:
        job = self._job
        all = hashlib.sha256(b"".join(job.digests[t] for batch in self._todo for t in batch))
        count = sum(map(len, self._todo))
        return {"texts": count, "kind": job.kind, "digest": all.hexdigest()[:16]}

    async def invoke(self, input: Any, ctx: Context) -> None:
        await self.run(ctx)

    async def run(self, ctx: Context | None) -> None:
        left = iter(self._todo)

        async def work() -> None:
            for batch in left:
                await self._job.embed(batch, ctx)
                if self._progress is not None:
                    self._progress.advance(sum(map(self._job.times, batch)))

        if len(self._todo) == 1:
            await work()
            return
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._concurrency, len(self._todo))):
                    group.create_task(work())
        except BaseExceptionGroup as failed:
            error = failed.exceptions[0]
            raise error from error.__cause__

    def dump(self, output: None, ctx: Context) -> Recorded:
        return Recorded(None, self._job.usage)

    def salvage(self, ctx: Context, error: BaseException, input: Any) -> Usage | None:
        return self._job.usage if self._job.usage.calls else None
