"""memory and index: conversations and documents of the store."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import click
import msgspec

from mastra_nb.app import Mastra
from mastra_nb.cli._output import (
    FAILED,
    json_option,
    json_text,
    note,
    one_line,
    say,
    say_json,
    say_table,
    wait,
    when,
)
from mastra_nb.cli._store import app_option, need, open_app, store_options
from mastra_nb.errors import MastraError, NotFound, SchemaError, UsageError, close_matches
from mastra_nb.memory.archive import FORMAT as MEMORY_FORMAT
from mastra_nb.memory.archive import all_threads, export_memory, import_memory
from mastra_nb.memory.forgetting import forget_threads
from mastra_nb.memory.memory import Memory
from mastra_nb.memory.threads import Conversation, import_thread
from mastra_nb.messages import Text, ToolCall, ToolResult
from mastra_nb.rag.index import Index
from mastra_nb.rag.stored import local_embedder, stored_index
from mastra_nb.schema import parse_json
from mastra_nb.storage import Store, Thread, ThreadMessage

_MANY = 100_000


# memory


@click.group()
def memory() -> None:
    """Conversations: list, read, search, export, import and delete them.

    \b
    Example:
      mastra-nb memory show sales
    """


@memory.command()
@store_options
@click.option("--resource", metavar="ID", help="Only those of this one.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@json_option("them")
def threads(
    target: str | None, url: str | None, resource: str | None, limit: int, as_json: bool
) -> None:
    """List the conversations, the last used first.

    \b
    Example:
      mastra-nb memory threads --resource ada
    """
    app = open_app(target, url)

    async def work() -> list[tuple[Thread, int]]:
        async with app:
            store = need(app)
            out: list[tuple[Thread, int]] = []
            for thread in await store.find_threads(resource=resource, limit=limit):
                newest = await store.read_messages(thread.id, last=1)
                out.append((thread, newest[0].pos if newest else 0))
            return out

    found = wait(work())
    if as_json:
        say_json([{**msgspec.to_builtins(t), "messages": n} for t, n in found])
        return
    say_table(
        ("thread", "resource", "messages", "title", "last used"),
        [(t.id, t.resource, f"{n:,}", t.title, when(t.updated)) for t, n in found],
        empty="no conversations yet",
    )


@memory.command()
@click.argument("thread")
@store_options
@click.option("--last", type=click.IntRange(1), metavar="N", help="Only the last N messages.")
@json_option("the messages")
def show(thread: str, target: str | None, url: str | None, last: int | None, as_json: bool) -> None:
    """Print the conversation THREAD, an id or the beginning of one.

    \b
    Example:
      mastra-nb memory show sales --last 10
    """
    app = open_app(target, url)

    async def work() -> tuple[Thread, list[ThreadMessage]]:
        async with app:
            found = await _thread(need(app), thread)
            return found, await need(app).read_messages(found.id, last=last)

    found, messages = wait(work())
    if as_json:
        say_json({
            "thread": msgspec.to_builtins(found),
            "messages": [msgspec.to_builtins(m) for m in messages],
        })  # fmt: skip
        return
    for each in messages:
        click.secho(f"{each.message.role} · {when(each.at)}", bold=True)
        for part in each.message.parts:
            if isinstance(part, Text):
                say(part.text)
            elif isinstance(part, ToolCall):
                say(f"→ {part.name}({one_line(part.args)})")
            elif isinstance(part, ToolResult):
                say(f"← {one_line(json_text(msgspec.to_builtins(part)))[:500]}")
            else:
                say(f"[{type(part).__name__.lower()}]")
        say()


@memory.command()
@click.argument("text")
@app_option
@click.option("--thread", metavar="ID", help="Only in this conversation.")
@click.option("--resource", metavar="ID", help="Only in this one's conversations.")
@click.option("--limit", type=click.IntRange(1), default=10, show_default=True)
@json_option("what was found")
def search(
    text: str,
    target: str | None,
    thread: str | None,
    resource: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Find what was said: by meaning where an agent's memory recalls, else by words.

    \b
    Example:
      mastra-nb memory search "delivery time" --resource ada
    """
    app = _with_parts(target)

    async def work() -> list[dict[str, Any]]:
        async with app:
            store = need(app)
            if thread is not None:
                found = [await _thread(store, thread)]
            else:
                found = await all_threads(store, resource)
                found.reverse()
            out: list[dict[str, Any]] = []
            for each in found:
                talk = Conversation(store, each.id, attached=_attached(app), services=app.services)
                out += [
                    {"thread": each.id, **msgspec.to_builtins(m)}
                    for m in await talk.search(text, top_k=limit)
                ]
                if len(out) >= limit:
                    break
            return out[:limit]

    found = wait(work())
    if as_json:
        say_json(found)
        return
    say_table(
        ("thread", "who", "said", "when"),
        [
            (f["thread"], f["message"]["role"], _said(f["message"]), when(f.get("at")))
            for f in found
        ],
        empty="nothing found",
    )


def _said(message: dict[str, Any]) -> str:
    return " ".join(p.get("text", "") for p in message.get("parts", ()) if p.get("text"))


@memory.command()
@click.argument("thread", required=False)
@app_option
@click.option("--resource", metavar="ID", help="All of this one's, instead of one conversation.")
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="A file, not the output.")
def export(
    thread: str | None, target: str | None, resource: str | None, output: str | None
) -> None:
    """Write a conversation, or all that is remembered of a resource, as JSON.

    \b
    Example:
      mastra-nb memory export --resource ada -o ada.json
    """
    if (thread is None) == (resource is None):
        raise click.UsageError("name a conversation, or whose it is with --resource")
    app = _with_parts(target)

    async def work() -> Any:
        async with app:
            given: dict[str, Any] = {"attached": _attached(app), "services": app.services}
            if resource is not None:
                return await export_memory(need(app), resource, **given)
            found = await _thread(need(app), thread or "")
            return await Conversation(need(app), found.id, **given).export()

    made = wait(work())
    if output is None:
        say_json(made)
        return
    path = Path(output)
    try:
        path.write_text(json_text(made, indent=True) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f'"{path}" cannot be written: {error.strerror}') from None
    note(f"written to {path}")


@memory.command("import")
@click.argument("file", type=click.Path(allow_dash=True, dir_okay=False))
@app_option
@click.option("--resource", metavar="ID", help="Whose it is from now on.")
@click.option(
    "--on-conflict", type=click.Choice(["error", "skip", "copy"]), default="error",
    show_default=True, help="Where there is a conversation of that id.",
)  # fmt: skip
@json_option("the conversations")
def import_(
    file: str,
    target: str | None,
    resource: str | None,
    on_conflict: Literal["error", "skip", "copy"],
    as_json: bool,
) -> None:
    """Read what export has written, - for standard input.

    \b
    Example:
      mastra-nb memory import ada.json --on-conflict copy
    """
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise UsageError(f'"{file}" cannot be read: {reason}') from None
    data = parse_json(text)
    if not isinstance(data, dict):
        raise SchemaError(f'"{file}" is no export', hint="mastra-nb memory export writes one")
    app = _with_parts(target, make=True)

    async def work() -> list[str]:
        async with app:
            given: dict[str, Any] = {
                "attached": _attached(app), "services": app.services,
                "resource": resource, "on_conflict": on_conflict,
            }  # fmt: skip
            if data.get("format") == MEMORY_FORMAT:
                return [t.id for t in await import_memory(need(app), data, **given)]
            return [(await import_thread(need(app), data, **given)).id]

    made = wait(work())
    if as_json:
        say_json(made)
    else:
        say("\n".join(made))


@memory.command("delete")
@click.argument("thread", required=False)
@store_options
@click.option("--resource", metavar="ID", help="All of this one's conversations.")
@click.option("--yes", is_flag=True, help="Delete; without it only what would go is shown.")
@json_option("what goes")
def delete_memory(
    thread: str | None,
    target: str | None,
    url: str | None,
    resource: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete a conversation with all that memory keeps of it.

    \b
    Example:
      mastra-nb memory delete sales --yes
    """
    if (thread is None) == (resource is None):
        raise click.UsageError("name a conversation, or whose they are with --resource")
    app = open_app(target, url)

    async def work() -> list[Thread]:
        async with app:
            store = need(app)
            if resource is not None:
                found = await all_threads(store, resource)
            else:
                found = [await _thread(store, thread or "")]
            if yes and found:
                await forget_threads(store, found)
                for each in found:
                    await store.delete_thread(each.id)
            return found

    gone = wait(work())
    if as_json:
        say_json({"deleted": yes, "threads": [t.id for t in gone]})
        return
    say_table(
        ("thread", "title", "last used"), [(t.id, t.title, when(t.updated)) for t in gone],
        empty="nothing to delete",
    )  # fmt: skip
    if gone:
        note("deleted" if yes else "would be deleted\n  → --yes deletes them")


async def _thread(store: Store, id: str) -> Thread:
    """By its id, or the beginning of one. Raises NotFound."""
    found = await store.get_thread(id)
    if found is not None:
        return found
    known = {t.id: t for t in await store.find_threads(limit=_MANY)}
    near = [t for name, t in known.items() if name.startswith(id)]
    if len(near) == 1:
        return near[0]
    raise NotFound(
        f'"{id}" is the beginning of several threads' if near else f'there is no thread "{id}"',
        hint=close_matches(id, known) or "mastra-nb memory threads lists them",
    )


def _with_parts(target: str | None, *, make: bool = False) -> Mastra:
    """The application, whose agents know what is kept beside a conversation; a project without
    one has its store.
    """
    from mastra_nb.cli._projects import find_target

    if target is None:
        try:
            target = str(find_target(None))
        except MastraError as error:
            note(f"without an application only what was said is seen: {error.message}")
    return open_app(target, None, make=make)


def _attached(app: Mastra) -> Sequence[Any]:
    return next(
        (a.memory.attached for a in app.agents.values() if isinstance(a.memory, Memory)), ()
    )


# index


@click.group()
def index() -> None:
    """Indexes of documents: list, fill, search and delete them.

    \b
    Example:
      mastra-nb index add handbook docs/
    """


@index.command("list")
@store_options
@json_option("them")
def list_indexes(target: str | None, url: str | None, as_json: bool) -> None:
    """List the indexes of the store.

    \b
    Example:
      mastra-nb index list
    """
    app = open_app(target, url)

    async def work() -> list[Any]:
        async with app:
            vectors = need(app).vectors
            return [await vectors.stats(name) for name in await vectors.list_indexes()]

    found = wait(work())
    if as_json:
        say_json([
            {
                "index": s.info.name, "entries": s.info.count, "dimension": s.info.dimension,
                "embedder": s.info.embedder, "engine": s.engine, "bytes": s.disk,
            }
            for s in found
        ])  # fmt: skip
        return
    say_table(
        ("index", "entries", "dimension", "embedder", "engine", "on disk"),
        [
            (
                s.info.name, f"{s.info.count:,}", s.info.dimension or "words", s.info.embedder,
                s.engine, f"{s.disk / 1e6:,.1f} MB",
            )
            for s in found
        ],
        empty="no indexes yet; mastra-nb index add NAME PATH… makes one",
    )  # fmt: skip


@index.command()
@click.argument("name")
@click.argument("paths", nargs=-1, required=True)
@store_options
@click.option("--prune", is_flag=True, help="Remove the documents that are not among PATHS.")
@click.option(
    "--embedder", metavar="NAME", help='Of a new index: "provider/name", "words" for none.'
)
@json_option("what was done")
@click.pass_context
def add(
    ctx: click.Context,
    name: str,
    paths: Sequence[str],
    target: str | None,
    url: str | None,
    prune: bool,
    embedder: str | None,
    as_json: bool,
) -> None:
    """Read PATHS (files, folders, globs, URLs) into the index NAME: what is new or has changed.

    Stopped at any time, it goes on where it was. The exit code is 1 if something could not be read.

    \b
    Example:
      mastra-nb index add handbook docs/ "notes/*.md"
    """
    app = open_app(target, url, make=True)

    async def work() -> Any:
        async with app:
            found = await _open_or_new(need(app), name, embedder)
            return await found.ingest(*paths, prune=prune)

    made = wait(work())
    if as_json:
        say_json(msgspec.to_builtins(made))
    else:
        say(made._repr_mimebundle_()["text/plain"])
        for each in made.notes:
            note(each)
        for failed in made.failed:
            note(f"✗ {failed.source}: {failed.why}")
    ctx.exit(FAILED if made.failed else 0)


async def _open_or_new(store: Store, name: str, embedder: str | None) -> Index:
    if name not in await store.vectors.list_indexes():
        if embedder is not None:
            return Index(name, store=store, embedder=None if embedder == "words" else embedder)
        found = local_embedder()
        if found is None:
            note('by words only → pip install "mastra-nb[local]" for an embedder')
        return Index(name, store=store, embedder=found)
    if embedder is not None and embedder != "words":
        return Index(name, store=store, embedder=embedder)
    return await _open(store, name)


async def _open(store: Store, name: str) -> Index:
    found, why = await stored_index(store, name, hint=f"mastra-nb index add {name} PATH… makes it")
    if why:
        note(f"by words only: {why}")
    return found


@index.command("search")
@click.argument("name")
@click.argument("text")
@store_options
@click.option("--limit", type=click.IntRange(1), default=5, show_default=True)
@json_option("the passages")
def search_index(
    name: str, text: str, target: str | None, url: str | None, limit: int, as_json: bool
) -> None:
    """Find the passages of the index NAME that answer TEXT.

    \b
    Example:
      mastra-nb index search handbook "how long is the notice?"
    """
    app = open_app(target, url)

    async def work() -> Any:
        async with app:
            found = await _open(need(app), name)
            mode: Any = "words" if found.embedder is None else "hybrid"
            return await found.query(text, top_k=limit, mode=mode)

    hits = wait(work())
    if as_json:
        say_json([{**msgspec.to_builtins(p), "citation": p.citation} for p in hits])
        return
    for each in hits.notes:
        note(each)
    if not len(hits):
        note("nothing found")
    for hit in hits:
        click.secho(one_line(f"{hit.score:.3g}  {hit.citation}"), bold=True)
        say(hit.text.strip())
        say()


@index.command("delete")
@click.argument("name")
@click.argument("sources", nargs=-1)
@store_options
@click.option("--yes", is_flag=True, help="Delete; without it only what would go is shown.")
@json_option("what goes")
def delete_index(
    name: str, sources: Sequence[str], target: str | None, url: str | None, yes: bool, as_json: bool
) -> None:
    """Delete the index NAME, or only the documents SOURCES of it.

    \b
    Example:
      mastra-nb index delete handbook docs/old.md --yes
    """
    app = open_app(target, url)

    async def work() -> list[str]:
        async with app:
            found = await _open(need(app), name)
            there = [d.source for d in await found.documents()]
            if missing := [s for s in sources if s not in there]:
                raise NotFound(
                    f'"{name}" has no document "{missing[0]}"',
                    hint=close_matches(missing[0], there),
                )
            if yes and sources:
                await found.delete(*sources)
            elif yes:
                await found.clear()
            return [*sources] or there

    gone = wait(work())
    if as_json:
        say_json({"deleted": yes, "index": name, "whole": not sources, "documents": gone})
        return
    what = f"{len(gone):,} documents of {name}" if sources else f"{name}, {len(gone):,} documents"
    say(f"deleted {what}" if yes else f"would delete {what}")
    if not yes:
        note("  → --yes deletes")
