"""`%%ask --each`: one question for each row of a table, some at a time, in one display.

A document names the runs of a cell that did not get through all of its rows: asked again, it
finds by their keys what has ended and what waits, and asks for the rest.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import ChainMap, Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Literal

import msgspec

from mastra_nb import portal, unattended, views
from mastra_nb._escape import escape
from mastra_nb.agents import Agent
from mastra_nb.context import current
from mastra_nb.errors import (
    ConfigError,
    LimitExceeded,
    MissingExtra,
    ModelHTTPError,
    NotFound,
    RunError,
    RunSuspended,
    SchemaError,
    Stopped,
    UsageError,
)
from mastra_nb.limits import Limits, Meter
from mastra_nb.messages import Message, Usage
from mastra_nb.notebook import _ask, _context, _live, _templates, _values
from mastra_nb.notebook._errors import one_line, plain
from mastra_nb.notebook._host import Host
from mastra_nb.notebook._rows import Rows, fields, find_data
from mastra_nb.progress import Line
from mastra_nb.runs import Run
from mastra_nb.services import is_dead
from mastra_nb.storage import RunRow, read_run

_KIND = "each"
# What is shared by all rows is told from a row's own limits by this path.
_ALL = "--each"
_BAR = 20
# Of the table so many rows are shown, and so many of those that went wrong.
_FIRST, _WRONG = 8, 5
_INPUTS, _ANSWERS, _WIDEST = 3, 6, 60
# What counting costs for each frame.
_SECONDS_PER_ROW = 2e-5
# Errors of a provider that every row would get.
_FOR_ALL = (401, 402, 403, 404)
_CANNOT = ("thread", "show-prompt")

Status = Literal["open", "running", "done", "failed", "waits", "budget", "left"]


class Outcome(msgspec.Struct, kw_only=True):
    """What has become of a row. `kept`: its answer is that of an earlier execution."""

    status: Status = "open"
    value: Any = None
    error: str | None = None
    cost: float | None = None
    run: str = ""
    kept: bool = False


class Batch:
    """The rows of one cell on their way. `usage` is what this execution has spent."""

    def __init__(
        self,
        host: Host,
        agent: Agent[Any],
        rows: Rows,
        prompts: Sequence[Any],
        *,
        call: str,
        out: str = "",
        background: bool = False,
        form: str = "md",
        budget: float | None = None,
        concurrency: int = 4,
        anew: bool = False,
    ) -> None:
        self.host, self.agent, self.rows, self.prompts = host, agent, rows, prompts
        self.budget, self.out, self.background = budget, out, background
        self.outcomes = [Outcome() for _ in prompts]
        self.fatal: Exception | None = None
        self._call, self._form, self._anew = call, form, anew
        self._concurrency = concurrency
        self._meter = Meter(Limits(cost=budget), path=_ALL)
        self._limits = agent.limits or Limits()
        if budget is not None:
            self._limits = msgspec.structs.replace(self._limits, cost=None)
        self._token, self._again = "", False
        self._names = _known_fields(agent)
        self._over = False
        self._spent_all = False
        self._began = 0.0
        self._seconds: float | None = None

    # What can be read of it

    @property
    def usage(self) -> Usage:
        return self._meter.usage

    def count(self, *statuses: Status) -> int:
        return sum(o.status in statuses for o in self.outcomes)

    @property
    def is_whole(self) -> bool:
        return all(o.status == "done" for o in self.outcomes)

    def table(self) -> Any:
        """The rows and their answers, as they are now."""
        parts = [self._parts(o) for o in self.outcomes]
        answers = list(dict.fromkeys(name for part in parts for name in part or ()))
        wanted = list(dict.fromkeys([*self._names, *answers])) or ["answer"]
        named = self.rows.names([*wanted, "error", "cost"])
        columns = [[(part or {}).get(name) for part in parts] for name in wanted]
        columns += [[o.error for o in self.outcomes], [o.cost for o in self.outcomes]]
        return self.rows.table(dict(zip(named, columns, strict=True)))

    def _parts(self, outcome: Outcome) -> dict[str, Any] | None:
        if outcome.status != "done":
            return None
        found = fields(outcome.value)
        if not found:
            return {"answer": outcome.value}
        return {str(name): value for name, value in found.items()}

    # How it runs

    async def frames(self, rate: float) -> AsyncIterator[None]:
        """Asks for all rows and yields whenever there is something new to show, at a bounded
        rate. If the reader is cancelled, so are the runs under way.
        """
        self._began = self.host.services.now()
        await self._remember()
        left: Iterator[int] = iter(range(len(self.prompts)))
        many = min(self._concurrency, len(self.prompts))
        pause = max(1.0 / rate, 0.1, len(self.prompts) * _SECONDS_PER_ROW)
        tasks = [asyncio.ensure_future(self._work(left)) for _ in range(many)]
        pending: set[asyncio.Future[None]] = set(tasks)
        seen: Any = None
        try:
            while pending:
                _, pending = await asyncio.wait(pending, timeout=pause)
                now = (self.count("done", "failed", "waits"), self.usage)
                if now != seen and pending:
                    seen = now
                    yield
        finally:
            for task in pending:
                task.cancel()
            if pending:
                await asyncio.wait(pending, timeout=_live.UNWIND_SECONDS)
            self._close()
        for task in tasks:
            task.result()
        await self._forget()

    def _close(self) -> None:
        self._over = True
        self._seconds = self.host.services.now() - self._began
        for outcome in self.outcomes:
            if outcome.status in ("open", "running"):
                spent = self._spent_all and outcome.status == "open"
                outcome.status = "budget" if spent else "left"
            if outcome.status == "budget":
                outcome.error = "not asked: budget"
            elif outcome.status == "left":
                outcome.error = "stopped" if outcome.run else "not asked"

    async def _work(self, left: Iterator[int]) -> None:
        for i in left:
            if self.fatal is not None or self._spent_all:
                return
            await self._ask(self.outcomes[i], i)

    async def _ask(self, outcome: Outcome, i: int) -> None:
        outcome.status = "running"
        run, outcome.kept = await self._run(i)
        outcome.run, before = run.id, run.usage.calls
        try:
            outcome.value = _ask.value_of(self._form, await run)
            outcome.status = "done"
        except RunSuspended as error:
            outcome.status, outcome.error = "waits", f"waits: %resume {run.id}"
            await _ask.settle(self.host, _ask.Asked(run=run, bundle=_live.run_bundle), error)
        except Exception as error:
            outcome.status, outcome.error = "failed", one_line(error)
            self._judge(error)
            if self._spent_all and run.usage.calls == before:
                outcome.status = "budget"
        finally:
            if run.usage.calls:
                outcome.cost = run.usage.cost

    def _judge(self, error: Exception) -> None:
        """Whether what befell one row would befall all of them."""
        if isinstance(error, LimitExceeded) and error.details.get("path") == _ALL:
            self._spent_all = True
            if "used" not in error.details:
                self.fatal = error
        elif isinstance(error, ConfigError | MissingExtra) or (
            isinstance(error, ModelHTTPError) and error.status in _FOR_ALL
        ):
            self.fatal = error

    async def _run(self, i: int) -> tuple[Run[Any], bool]:
        """The run of a row, and whether it was asked for before: as long as it failed, anew."""
        store, key = self.host.services.store, None
        found: RunRow | None = None
        if store is not None and self._token:
            for attempt in range(1, 1000):
                key = f"{self._keys[i]}.{attempt}"
                rows = await store.find_runs(key=key, limit=1) if self._again else []
                found = rows[0] if rows else None
                if found is None or _is_ours(found):
                    break
        run = self.agent.run(self.prompts[i], thread="", limits=self._limits, key=key)
        if found is not None and store is not None:
            run.adopt(found, await read_run(store, found))
        log = run.log
        log.meter = Meter(log.meter.limits, above=self._meter)
        log.meter.restore(log.past.used)
        return run, found is not None

    async def _remember(self) -> None:
        store = self.host.services.store
        if store is None:
            return
        kept = None if self._anew else await store.get(_KIND, self._call)
        token = kept.get("token") if isinstance(kept, dict) else None
        self._again = isinstance(token, str)
        self._token = token if isinstance(token, str) else secrets.token_hex(6)
        if not self._again:
            await store.put(_KIND, self._call, {"token": self._token})
        seen: Counter[str] = Counter()
        self._keys: list[str] = []
        for prompt in self.prompts:
            digest = _digest(str(prompt))
            seen[digest] += 1
            self._keys.append(f"each:{self._token}:{digest[:24]}:{seen[digest]}")

    async def _forget(self) -> None:
        store = self.host.services.store
        # A row of a batch goes on by running its cells again: they have their answers.
        if store is not None and self._token and self.is_whole and unattended.row() is None:
            await store.delete(_KIND, self._call)

    # How it looks

    def bundle(self) -> dict[str, Any]:
        header, lines = self._lines()
        head = [f"**{escape(self.agent.name)}**", *map(escape, self._head())]
        markdown = [" · ".join(head)]
        if lines:
            markdown += ["", f"| {' | '.join(map(escape, header))} |"]
            markdown += [f"|{' --- |' * len(header)}"]
            markdown += [f"| {' | '.join(map(escape, row))} |" for row in lines]
        markdown += [part for note in self._notes() for part in ("", f"<small>{note}</small>")]
        return {"text/markdown": "\n".join(markdown), "text/plain": self.text()}

    def text(self) -> str:
        """For a terminal."""
        header, lines = self._lines()
        out = [" · ".join([plain(self.agent.name), *self._head()])]
        if lines:
            rows = [header, *lines]
            widths = [max(len(row[c]) for row in rows) for c in range(len(header))]
            out += [
                "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
                for row in rows
            ]
        return "\n".join([*out, *self._notes()])

    def _head(self) -> list[str]:
        total, done = len(self.prompts), self.count("done")
        ended = self.count("done", "failed", "waits")
        parts = []
        if not self._over:
            full = round(_BAR * ended / max(1, total))
            parts = ["█" * full + "░" * (_BAR - full), f"{ended:,} / {total:,}"]
            parts += _some(self.count("running"), "running")
        else:
            parts = [f"{done:,} of {total:,} rows"]
        parts += _some(self.count("failed"), "failed")
        waiting = self.count("waits")
        parts += _some(waiting, "wait" if waiting > 1 else "waits")
        parts += _some(self.count("budget"), "not asked: budget")
        cut = sum(o.status == "left" and bool(o.run) for o in self.outcomes)
        parts += _some(cut, "stopped") + _some(self.count("left") - cut, "not asked")
        parts += _some(sum(o.kept and o.status == "done" for o in self.outcomes), "from before")
        if (mode := self.host.replay.mode) != "off":
            parts.append("replay" if mode == "only" else mode)
        used = self.usage
        if used.calls:
            parts.append(f"{used.input:,} in / {used.output:,} out tokens")
            if used.cost is None:
                parts.append("cost unknown")
            elif used.cost or self.budget is not None:
                of = "" if self.budget is None else f" of {views.dollars(self.budget)}"
                parts.append(views.dollars(used.cost) + of)
        if self._seconds is not None:
            parts.append(views.duration(self._seconds))
        elif left := self._left(ended):
            parts.append(left)
        return parts

    def _left(self, ended: int) -> str:
        asked = ended - sum(o.kept for o in self.outcomes)
        gone = self.host.services.now() - self._began
        if gone < 2 or asked < 1:
            return ""
        return f"{views.duration(gone / asked * (len(self.prompts) - ended))} left"

    def _lines(self) -> tuple[list[str], list[list[str]]]:
        """The first rows that have ended, and the first of those that went wrong."""
        ended = [i for i, o in enumerate(self.outcomes) if o.status not in ("open", "running")]
        wrong = [i for i in ended if self.outcomes[i].status in ("failed", "waits")][:_WRONG]
        shown = sorted({*ended[:_FIRST], *wrong})
        if not shown:
            return [], []
        parts = {i: self._parts(self.outcomes[i]) or {} for i in shown}
        answers = list(dict.fromkeys([*self._names, *(n for i in shown for n in parts[i])]))
        answers = answers[:_ANSWERS] or ["answer"]
        named = self.rows.names([*answers, "error"])
        inputs = self.rows.columns[:_INPUTS]
        errors = any(self.outcomes[i].error for i in shown)
        header = ["", *inputs, *(named if errors else named[:-1])]
        rows = []
        for i in shown:
            cells = self.rows.cells(i)
            row = [self.rows.labels[i], *(cells.get(name) for name in inputs)]
            row += [parts[i].get(name) for name in answers]
            rows.append([_cell(v) for v in row])
            if errors:
                rows[-1].append(_cell(self.outcomes[i].error, 160))
        return [_cell(name) for name in header], rows

    def _notes(self) -> list[str]:
        out = []
        shown = len(self._lines()[1])
        if self._over and 0 < shown < len(self.prompts):
            out.append(f"{shown} of {len(self.prompts):,} rows are shown")
        if self._over and not self.is_whole:
            out.append("run the cell again, and only the rows without an answer are asked")
        return out


class Answers:
    """What a bare `%ask --each` leaves in `_`: silent once, for it was shown. `output` is the
    table, `runs` are the ids of the rows' runs.
    """

    def __init__(self, batch: Batch, output: Any) -> None:
        self.output = output
        self.runs = [o.run for o in batch.outcomes]
        self.usage = batch.usage
        self._bundle = batch.bundle()
        self._name, self._in_kernel = batch.agent.name, batch.host.in_kernel
        self._done, self._total, self._quiet = batch.count("done"), len(batch.prompts), True

    def __repr__(self) -> str:
        return f'<Answers of "{self._name}": {self._done:,} of {self._total:,} rows>'

    def _ipython_display_(self) -> None:
        quiet, self._quiet = self._quiet, False
        if not self._in_kernel:
            _live.say(repr(self) if quiet else self._bundle["text/plain"])
        elif not quiet:
            _live.publish(self._bundle)


class _Terminal:
    """One line that is written over, and the table at the end."""

    def __init__(self) -> None:
        self._line, self._ended = Line(), 0

    def show(self, batch: Batch, *, last: bool) -> None:
        ended = batch.count("done", "failed", "waits")
        if not self._ended and not last:
            self._line.start(len(batch.prompts), batch.agent.name)
        self._line.advance(ended - self._ended)
        self._ended = ended
        if last:
            self._line.close()
            _live.say(batch.text())


# From the cell


def prepare(host: Host, line: str, body: str | None, names: _values.Names) -> Batch | None:
    """The rows of a question with --each, nothing asked yet; None for one without."""
    if _ALL not in line:
        return None
    parsed, name, template = _ask.read(host, line, body, names)
    if "each" not in parsed.values:
        return None
    for option in _CANNOT:
        if option in parsed.values:
            raise UsageError(
                f"--{option} does not go with --each",
                hint="each row is asked by itself; try one of them without --each",
            )
    if current() is not None:
        raise UsageError(
            "--each does not run inside a workflow or a tool",
            hint="there: await asyncio.gather(*[agent(row) for row in rows])",
        )
    host.refresh()
    agent = host.find_agent(name, names)
    if "schema" in parsed.values:
        agent = agent.replace(output=_values.find_type(parsed.values["schema"], names))
    if "resource" in parsed.values:
        agent = agent.replace(resource=parsed.values["resource"])
    if parsed.get("no-cache"):
        agent = _ask.anew(agent, host)
    if "out" in parsed.values:
        _values.check_variable(parsed.values["out"], "the name after -o")
    rows = Rows(find_data(parsed.values["each"], names), parsed.values["each"])
    if not len(rows):
        raise UsageError(f'"{parsed.values["each"]}" has no rows')
    form = parsed.get("as", "md")
    return Batch(
        host,
        agent,
        rows,
        _prompts(_context.attach(template, names, host.cells), rows, names, form),
        call=_identify(host, agent, template, parsed.values["each"], form),
        out=parsed.get("out", ""),
        background=parsed.get("bg", False),
        form=form,
        budget=parsed.get("budget"),
        concurrency=parsed.get("concurrency", host.options.concurrency),
        anew=parsed.get("no-cache", False),
    )


def _prompts(
    with_it: _context.Attached, rows: Rows, names: _values.Names, form: str
) -> list[str | Message]:
    """All of them before any is sent: a column that is not there costs nothing."""
    template, more = with_it.template, _ask.AS_CODE if form == "code" else ""
    if not {"row", "index"} & {*_templates.names_in(template)}:
        _templates.render(template, names)  # raises what is wrong with it
        column = f"row.{rows.columns[0]}" if rows.columns else "row"
        raise UsageError(
            "the question is the same for each row",
            hint=f"put the row in: {{{{ {column} }}}}, or all of it: {{{{ row }}}}",
        )
    out: list[str | Message] = []
    local: dict[str, Any] = {}
    values = ChainMap(local, dict(names))
    for i, (label, value) in enumerate(zip(rows.labels, rows.values, strict=True)):
        local.update(row=value, index=label)
        try:
            out.append(with_it.prompt(_templates.render(template, values), more))
        except (NotFound, UsageError) as error:
            where = "" if i == 0 else f" (row {label})"
            raise type(error)(f"{error.message}{where}", hint=error.hint, code=error.code) from None
    return out


async def arun(host: Host, batch: Batch, *, value: bool) -> Any:
    """Raises Stopped if the cell is interrupted, RunError if no row has an answer."""
    screen = _screen(host, batch)
    with _live.terminal_interrupt():
        try:
            screen.show(batch, last=False)
            async for _ in batch.frames(host.options.frame_rate):
                screen.show(batch, last=False)
        except asyncio.CancelledError:
            _live.uncancel()
            raise stopped(batch) from None
        finally:
            screen.show(batch, last=True)
            bind(host, batch)
    return _finish(host, batch, value=value)


def run(host: Host, batch: Batch, *, value: bool) -> Any:
    """The same for callers that cannot await: the runs are on the portal."""
    screen = _screen(host, batch)
    try:
        screen.show(batch, last=False)
        for _ in portal.iterate(batch.frames(host.options.frame_rate)):
            screen.show(batch, last=False)
    except KeyboardInterrupt:
        raise stopped(batch) from None
    finally:
        screen.show(batch, last=True)
        bind(host, batch)
    return _finish(host, batch, value=value)


def bind(host: Host, batch: Batch) -> None:
    if batch.out:
        host.shell.user_ns[batch.out] = batch.table()


def _screen(host: Host, batch: Batch) -> Any:
    if host.capturing:
        return _live.Final(Batch.bundle)
    return _live.Cell(Batch.bundle) if host.in_kernel else _Terminal()


def stopped(batch: Batch) -> Stopped:
    done, total = batch.count("done"), len(batch.prompts)
    return Stopped(f"stopped after {done:,} of {total:,}", hint="what was said is kept")


def outcome(batch: Batch) -> Any:
    """The table. Raises RunError if no row has an answer, or what would befall every row."""
    if batch.fatal is not None:
        raise batch.fatal
    if batch.count("failed") == len(batch.prompts):
        first = batch.outcomes[0].error
        raise RunError(
            f"none of the {len(batch.prompts):,} rows has an answer; the first: {first}",
            code="each.failed",
            hint="try one of them alone: %ask, with a row of your own",
        )
    return batch.table()


def _finish(host: Host, batch: Batch, *, value: bool) -> Any:
    output = outcome(batch)
    if value:
        return output
    return None if host.capturing else Answers(batch, output)


def _identify(host: Host, agent: Agent[Any], template: str, data: str, form: str) -> str:
    """What makes an answer of another execution the same: not the options that say how."""
    schema = agent.answer.json if agent.answer is not None else None
    parts = [
        host.notebook, agent.name, str(agent.instructions), _model_name(agent, host), template,
        data, form, agent.resource, ",".join(agent.toolset), msgspec.json.encode(schema).decode(),
    ]  # fmt: skip
    return _digest("\0".join(parts))


def _model_name(agent: Agent[Any], host: Host) -> str:
    model = agent.model or host.model
    return model if isinstance(model, str) else str(getattr(model, "name", type(model).__name__))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _is_ours(row: RunRow) -> bool:
    """Whether it has an answer, or may still get one here."""
    if row.status in ("done", "suspended"):
        return True
    alive = row.status == "running" and not is_dead(row.owner)
    return row.status in ("new", "running") and not alive


def _known_fields(agent: Agent[Any]) -> list[str]:
    try:
        answer = agent.answer
    except SchemaError:
        return []  # said by the first run
    if answer is None or answer.schema.json.get("type") != "object":
        return []
    known = answer.schema.json.get("properties", {})
    # As its author wrote them: a schema may sort them.
    written = getattr(agent.output, "__annotations__", {})
    return sorted(known, key=list(written).index) if {*known} <= {*written} else list(known)


def _some(n: int, what: str) -> list[str]:
    return [f"{n:,} {what}"] if n else []


def _cell(value: Any, widest: int = _WIDEST) -> str:
    text = "" if value is None else plain(" ".join(str(value)[: 4 * widest].split()))
    return text if len(text) <= widest else f"{text[: widest - 1]}…"
