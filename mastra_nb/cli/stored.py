"""runs, trace, resume, cancel, migrate, prune: what the store holds, and going on with it."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
import time
from collections.abc import Sequence
from typing import Any, get_args

import click
import msgspec

from mastra_nb import plugins, traces
from mastra_nb.answers import go_on
from mastra_nb.cli._follow import COMMAND, present
from mastra_nb.cli._output import (
    FAILED,
    OK,
    dollars,
    json_option,
    json_text,
    note,
    say,
    say_json,
    say_table,
    wait,
    when,
)
from mastra_nb.cli._store import app_option, load, need, open_app, store_options
from mastra_nb.config import default_storage, load_settings, project_root, redact
from mastra_nb.errors import NotFound, NotResumable, Stopped, UsageError
from mastra_nb.events import RunStatus
from mastra_nb.messages import Usage
from mastra_nb.storage import Retention, RunRow, Spent, Store

_AGO = re.compile(r"(\d+)\s*(s|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_STATUSES = get_args(RunStatus)
_PAGE = 500


# runs


@click.command()
@store_options
@click.option("--status", type=click.Choice(_STATUSES), help="Only those.")
@click.option("--name", help="Only those of this agent or workflow.")
@click.option("--thread", help="Only those of this conversation.")
@click.option("--resource", help="Only those of this one's.")
@click.option("--text", help="Only those with this in their name or input.")
@click.option("--since", metavar="WHEN", help="Only newer ones: 2h, 3d, 2026-11-23.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@json_option("them")
def runs(
    target: str | None,
    url: str | None,
    status: str | None,
    name: str | None,
    thread: str | None,
    resource: str | None,
    text: str | None,
    since: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List the runs of the store, the newest first.

    \b
    Example:
      mastra-nb runs --status suspended
    """
    app, oldest = open_app(target, url), _moment(since)
    only: dict[str, Any] = {
        "status": status, "name": name, "thread": thread, "resource": resource, "text": text,
    }  # fmt: skip

    async def work() -> tuple[list[RunRow], dict[str, Usage]]:
        async with app:
            store = need(app)
            rows = [
                row for row in await store.find_runs(**only, limit=limit) if row.created >= oldest
            ]
            spent = await store.read_spent(runs=[row.id for row in rows]) if rows else []
            return rows, _sums(spent)

    rows, used = wait(work())
    if as_json:
        say_json([_row(row, used.get(row.id, Usage())) for row in rows])
        return
    say_table(
        ("run", "of", "status", "input", "tokens", "cost", "when"),
        [
            (
                row.id, row.name, row.status, _input(row.input), *_used(used.get(row.id)),
                when(row.created),
            )
            for row in rows
        ],
        empty="no runs" if any(only.values()) or since else "no runs yet",
    )  # fmt: skip


def _sums(spent: Sequence[Spent]) -> dict[str, Usage]:
    out: dict[str, Usage] = {}
    for each in spent:
        out[each.run] = out.get(each.run, Usage()) + each.usage
    return out


def _row(row: RunRow, used: Usage) -> dict[str, Any]:
    return {
        "run": row.id,
        "name": row.name,
        "kind": row.kind,
        "status": row.status,
        "input": row.input,
        "thread": row.thread,
        "resource": row.resource,
        "key": row.key,
        "parent": row.parent_run,
        "created": _iso(row.created),
        "updated": _iso(row.updated),
        "usage": {"input": used.input, "output": used.output, "cost": used.cost},
    }


def _iso(seconds: float) -> str:
    made = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return made.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _input(given: Any) -> str:
    return "" if given is None else given if isinstance(given, str) else json_text(given)


def _used(used: Usage | None) -> tuple[str, str]:
    if used is None or not used.calls:
        return "", ""
    return f"{used.input:,} / {used.output:,}", dollars(used.cost)


def _moment(text: str | None) -> float:
    """Seconds since the epoch. Raises UsageError."""
    if not text:
        return 0.0
    if match := _AGO.fullmatch(text.strip()):
        return time.time() - int(match[1]) * _SECONDS[match[2]]
    try:
        return dt.datetime.fromisoformat(text).astimezone().timestamp()
    except ValueError:
        raise UsageError(
            f'"{text}" is no moment', hint="2h or 3d ago, or 2026-11-23, 2026-11-23T14:00"
        ) from None


# trace


@click.command()
@click.argument("run", default="last")
@store_options
@json_option("its spans")
def trace(run: str, target: str | None, url: str | None, as_json: bool) -> None:
    """Show what happened in RUN as a tree, with times, tokens and costs.

    RUN is an id or the beginning of one, or "last".

    \b
    Example:
      mastra-nb trace r_4f2a
    """
    app = open_app(target, url)

    async def work() -> Any:
        async with app:
            return await app.get_run(await _id(app, run))

    found = wait(work())
    spans = traces.spans(found.view)
    if as_json:
        say_json({"run": found.id, "name": found.name, "status": found.status, "spans": spans})
        return
    say(f"{found.id} · {found.name} · {found.status}")
    say(traces.plain(spans))
    used = found.usage
    if used.calls:
        cost = dollars(used.cost) or "cost unknown"
        say(f"{used.input:,} in / {used.output:,} out tokens · {cost}")


async def _id(app: Any, run: str, status: RunStatus | None = None) -> str:
    """Of "last" the newest one's. Raises NotFound."""
    if run != "last":
        return run
    rows = await need(app).find_runs(status=status, limit=1)
    if not rows:
        raise NotFound("there is no run in the store yet", hint="mastra-nb run NAME makes one")
    return rows[0].id


# resume, cancel


@click.command()
@click.argument("run")
@click.argument("answer", nargs=-1)
@app_option
@click.option("--at", metavar="PLACE", default="", help="Which question, where there are several.")
@json_option("what came of it")
@click.option("--stream/--no-stream", default=None, help="As of run.")
@click.pass_context
def resume(
    ctx: click.Context,
    run: str,
    answer: Sequence[str],
    target: str | None,
    at: str,
    as_json: bool,
    stream: bool | None,
) -> None:
    """Answer what RUN waits for, and go on with it.

    ANSWER is approve, deny and why, a text where one is asked for, or JSON. Without one a run that
    failed, was stopped or cut off goes on where it was. RUN may be the beginning of an id.

    \b
    Examples:
      mastra-nb resume r_4f2a approve
      mastra-nb resume r_4f2a deny too dear
      mastra-nb resume r_4f2a --at ask '{"city": "Oslo"}'
    """
    debug, app = bool(ctx.find_root().params.get("debug")), load(target)

    async def work() -> int:
        async with app:
            found = await app.get_run(await _id(app, run, "suspended"))
            going = go_on(found, " ".join(answer), at=at, now=app.services.now(), command=COMMAND)
            return await present(going, target=target, as_json=as_json, stream=stream, debug=debug)

    ctx.exit(wait(work()))


@click.command()
@click.argument("run")
@store_options
@json_option("what came of it")
def cancel(run: str, target: str | None, url: str | None, as_json: bool) -> None:
    """Give up RUN, which waits for an answer or was cut off.

    One that another process runs is stopped there.

    \b
    Example:
      mastra-nb cancel r_4f2a
    """
    app = open_app(target, url)

    async def work() -> Any:
        async with app:
            found = await app.get_run(run)
            if found.view.status not in ("new", "running", "suspended"):
                raise NotResumable(
                    f'run "{found.id}" cannot be given up: it is {found.status}',
                    hint="mastra-nb runs --status suspended lists what waits",
                )
            found.cancel()
            with contextlib.suppress(Stopped):
                await found
            return found

    found = wait(work())
    if as_json:
        say_json({"run": found.id, "status": "cancelled"})
    else:
        say(f"■ {found.id} was given up")


# migrate, prune


@click.command()
@click.option("--store", "url", metavar="URL", help="A store by its URL, not the project's.")
@click.option("--check", is_flag=True, help="Change nothing; exit code 1 if it has to be upgraded.")
@json_option("the versions")
@click.pass_context
def migrate(ctx: click.Context, url: str | None, check: bool, as_json: bool) -> None:
    """Upgrade the store to the tables of this version; nothing is lost.

    Whatever opens a store does the same: this is for doing it at a time of your choice.

    \b
    Example:
      mastra-nb migrate --check
    """
    url = url or default_storage(load_settings(), project_root())
    scheme = url.partition("://")[0]
    if scheme not in plugins.store_versions.names():
        raise UsageError(f'"{url}" is no file: it has no tables', hint="migrate a sqlite:/// store")
    ask: plugins.Versions = plugins.store_versions.load(scheme)
    before, last = ask(url)
    if not check and before != last:

        async def work() -> None:
            store: Store = plugins.open_store(url)
            try:
                # Whatever reads it opens it, and that upgrades it.
                await store.count_runs()
            finally:
                await store.close()

        wait(work())
    after, _ = ask(url)
    behind = after < last
    shown = redact(url)
    if as_json:
        say_json({"store": shown, "before": before, "after": after, "newest": last})
    elif check:
        say(f"{shown}: version {before}, " + (f"to be upgraded to {last}" if behind else "newest"))
    elif before == after:
        say(f"{shown}: version {after}, nothing to do")
    else:
        say(f"{shown}: version {before} → {after}")
    if before > last:
        note(f"it is of a newer mastra_nb: this one knows version {last}")
    ctx.exit(FAILED if behind or before > last else OK)


_KINDS = ("runs", "threads", "suspended", "embeddings")


@click.command()
@store_options
@click.option("--runs", type=click.FloatRange(0), metavar="DAYS", help="Runs older than that.")
@click.option("--threads", type=click.FloatRange(0), metavar="DAYS", help="Conversations.")
@click.option("--suspended", type=click.FloatRange(0), metavar="DAYS", help="Runs that wait.")
@click.option("--embeddings", type=click.FloatRange(0), metavar="DAYS", help="Cached vectors.")
@click.option("--yes", is_flag=True, help="Delete; without it only what would go is shown.")
@json_option("what goes")
def prune(
    target: str | None,
    url: str | None,
    runs: float | None,
    threads: float | None,
    suspended: float | None,
    embeddings: float | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete what is older than so many days, by default as the setting "retention" says.

    \b
    Example:
      mastra-nb prune --runs 30 --embeddings 90 --yes
    """
    app = open_app(target, url)
    given = Retention(runs=runs, threads=threads, suspended=suspended, embeddings=embeddings)
    wanted = given if given != Retention() else app.settings.retention
    if wanted == Retention():
        raise UsageError(
            "nothing says what is old",
            hint="mastra-nb prune --runs 30, or in mastra.toml [retention] runs = 30",
        )

    async def work() -> Any:
        async with app:
            return await app.prune(wanted, dry_run=not yes)

    gone = wait(work())
    if as_json:
        say_json(msgspec.to_builtins(gone))
        return
    what = [
        f"{getattr(gone, name):,} {name}"
        for name in ("runs", "threads", "messages", "embeddings")
        if getattr(gone, name)
    ]
    if not what:
        say("nothing is that old")
    elif yes:
        say(f"deleted {', '.join(what)} · {gone.bytes / 1e6:,.1f} MB given back")
    else:
        say(f"would delete {', '.join(what)}")
        note("  → --yes deletes them")
