"""`run_batch`: a notebook once for each row of a table, in processes of their own.

What is done is in the store before the next row begins: a batch that was stopped, however hard,
goes on when it is run again.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import shlex
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mastra_nb import plugins, portal
from mastra_nb.batch import _row
from mastra_nb.batch._ledger import Ledger, Record
from mastra_nb.batch._options import (
    Approvals,
    check_approvals,
    check_count,
    check_name,
    check_positive,
    code_of,
)
from mastra_nb.batch._params import load_params, row_ids
from mastra_nb.batch._rows import BatchRow, RowStatus, money
from mastra_nb.batch.report import BatchReport
from mastra_nb.config import Settings, default_storage, load_settings, project_root
from mastra_nb.errors import (
    ConfigError,
    LimitExceeded,
    MastraError,
    Stopped,
    WorkerDied,
)
from mastra_nb.events import fold
from mastra_nb.executor import MOST_DEATHS, Executor
from mastra_nb.messages import Usage
from mastra_nb.progress import new_progress
from mastra_nb.services import is_dead
from mastra_nb.storage import LEASE_SECONDS, RunRow, Store, read_run
from mastra_nb.unattended import Row

# How often what rows spend is read while a budget is held, and for the eye alone.
_WATCH_SECONDS, _LOOK_SECONDS = 0.25, 1.0
# A worker ends its row itself when its time is over; one that does not is stopped after this.
_GRACE_SECONDS = 20.0


def run_batch(
    notebook: str | os.PathLike[str],
    params: Any,
    *,
    workers: int = 1,
    budget: float | None = None,
    row_budget: float | None = None,
    retries: int = 0,
    timeout: float | None = None,
    executor: str | Executor = "local",
    address: str | None = None,
    store: str | Store | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    name: str = "",
    again: bool = False,
    approvals: Approvals = "suspend",
    approve: Sequence[str] = (),
    kernel: str = "",
    on_row: Callable[[BatchRow], Any] | None = None,
) -> BatchReport:
    """Run `notebook` with each row of `params` and return what became of them. Blocks; in async
    code `await Batch(...).run()` does not.

    `params` is a DataFrame, a list of mappings, or the path of a CSV, JSON, JSON lines or Parquet
    file. Rows that an earlier call has finished are not run again, unless `again`; `name` says
    which call is the same batch, by default the notebook's code does. `budget` and `row_budget`
    are dollars, `timeout` is seconds for a row, `retries` how often a failed one is tried again.
    Calls that need approval leave their row suspended, or are denied; those of the tools named in
    `approve` are approved. `on_row` is told of each row that has ended.

    Raises UsageError for what cannot be run, LeaseHeld while another process runs the batch.
    """
    return portal.run(
        Batch(
            notebook,
            params,
            workers=workers,
            budget=budget,
            row_budget=row_budget,
            retries=retries,
            timeout=timeout,
            executor=executor,
            address=address,
            store=store,
            output_dir=output_dir,
            name=name,
            again=again,
            approvals=approvals,
            approve=approve,
            kernel=kernel,
            on_row=on_row,
        ).run()
    )


class _Active(msgspec.Struct):
    """A row under way. `why` says what stops it."""

    record: Record
    future: Any = None
    why: MastraError | None = None


class Batch:
    """A call of `run_batch`, which says what its arguments are."""

    def __init__(
        self,
        notebook: str | os.PathLike[str],
        params: Any,
        *,
        workers: int = 1,
        budget: float | None = None,
        row_budget: float | None = None,
        retries: int = 0,
        timeout: float | None = None,
        executor: str | Executor = "local",
        address: str | None = None,
        store: str | Store | None = None,
        output_dir: str | os.PathLike[str] | None = None,
        name: str = "",
        again: bool = False,
        approvals: Approvals = "suspend",
        approve: Sequence[str] = (),
        kernel: str = "",
        on_row: Callable[[BatchRow], Any] | None = None,
    ) -> None:
        self.notebook = Path(notebook).absolute()
        code = code_of(self.notebook)
        check_count("workers", workers, 1)
        check_count("retries", retries, 0)
        check_positive(budget=budget, row_budget=row_budget, timeout=timeout)
        check_approvals(approvals, approve)
        check_name(name)
        self.id = name or f"{self.notebook.stem}-{code[:8]}"
        self.params = load_params(params)
        self.row_ids = row_ids(self.id, self.params)
        folder = self.notebook.parent / "out" / self.id
        self.folder = folder if output_dir is None else Path(output_dir).absolute()
        self.workers = workers
        self.budget, self.row_budget = budget, row_budget
        self.retries, self.timeout = retries, timeout
        self.again = again
        self._executor, self._address = executor, address
        self._store = store
        self._approvals, self._approve = approvals, tuple(approve)
        self._kernel = kernel
        self._on_row = on_row
        self._active: dict[str, _Active] = {}
        self._records: dict[str, Record] = {}
        self._reused: set[str] = set()
        self._stop: MastraError | None = None
        self._url = ""

    def share(self, params: dict[str, Any]) -> None:
        """Give each row these too, where it has no such column."""
        self.params = load_params([{**params, **row} for row in self.params])
        self.row_ids = row_ids(self.id, self.params)

    async def run(self) -> BatchReport:
        began = time.monotonic()
        async with contextlib.AsyncExitStack() as stack:
            store = await stack.enter_async_context(self._opened())
            executor = self._open_executor()
            if executor is not self._executor:
                stack.push_async_callback(executor.close)
            ledger = Ledger(store, self.id)
            await ledger.claim(
                {"notebook": str(self.notebook), "rows": len(self.params), "at": time.time()}
            )
            stack.push_async_callback(ledger.release)
            try:
                await self._run(store, ledger, executor)
            finally:
                report = self._report(time.monotonic() - began)
                report.to_html(self.folder / "report.html")
                report.to_csv(self.folder / "results.csv")
        return report

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncIterator[Store]:
        given = self._store
        if given is None:
            root = project_root(self.notebook)
            given = default_storage(load_settings(root), root)
        url = given if isinstance(given, str) else given.url
        if url.startswith("memory:") or ":memory:" in url:
            raise ConfigError(
                "a batch needs a store that its kernels can open: this one is in memory",
                hint='store="sqlite:///mastra.db"',
            )
        # The kernels are started in the notebook's folder.
        self._url = default_storage(Settings(storage=url), Path.cwd())
        store: Store = plugins.open_store(self._url) if isinstance(given, str) else given
        try:
            yield store
        finally:
            if isinstance(given, str):
                await store.close()

    async def _run(self, store: Store, ledger: Ledger, executor: Executor) -> None:
        self._records = await ledger.read()
        todo = [i for i, id in enumerate(self.row_ids) if await self._is_to_run(store, id)]
        self._reused = {*self.row_ids} - {self.row_ids[i] for i in todo}
        for id, record in self._records.items():
            if record.status == "running":
                await self._orphans_gone(store, id)
        progress = new_progress()
        progress.start(len(todo), self.notebook.name)
        progress.note(self.said)
        rows = iter(todo)
        lanes = [
            asyncio.ensure_future(self._lane(rows, executor, store, ledger, progress))
            for _ in range(min(self.workers, len(todo)))
        ]
        watch = asyncio.ensure_future(self._watch(executor, store, ledger, progress))
        try:
            while at_work := [lane for lane in lanes if not lane.done()]:
                done, _ = await asyncio.wait({*at_work, watch}, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            for lane in lanes:
                lane.result()
        except BaseException as error:
            progress.failed(error)
            raise
        finally:
            for task in (*lanes, watch):
                task.cancel()
            # What is at work is stopped before it is written down as stopped.
            if executor is not self._executor:
                await executor.close()
            for active in self._active.values():
                if active.future is not None:
                    executor.cancel(active.future)
            await asyncio.gather(*lanes, watch, return_exceptions=True)
            for id, active in [*self._active.items()]:
                await self._ended(store, ledger, id, active.record, "stopped")
            progress.close()

    async def _orphans_gone(self, store: Store, id: str) -> None:
        """The kernel of a driver that was killed may live a moment longer: what it was busy with
        is taken up, not begun beside it.
        """
        deadline = time.monotonic() + LEASE_SECONDS
        while time.monotonic() < deadline:
            rows = [r for r in await self._runs(store, id) if r.status == "running"]
            if not any(r.lease_until > time.time() and not is_dead(r.owner) for r in rows):
                return
            await asyncio.sleep(_WATCH_SECONDS)

    def _open_executor(self) -> Executor:
        if not isinstance(self._executor, str):
            return self._executor
        made: Executor = plugins.executors.load(self._executor)(self.workers, self._address)
        return made

    async def _is_to_run(self, store: Store, id: str) -> bool:
        record = self._records.get(id)
        if record is None or self.again:
            return True
        if record.status != "suspended":
            return record.status != "done"
        waiting = _waiting(await self._runs(store, id), id, record.epoch)
        return not waiting or await self._decides(store, waiting)

    async def _decides(self, store: Store, waiting: Sequence[RunRow]) -> bool:
        """Whether what an earlier call left to a person is decided by this one."""
        row = self._as_row("")
        pending = [fold(await read_run(store, each)).pending.values() for each in waiting]
        return any(
            asked.reason == "approval"
            and row.decides(str((asked.payload or {}).get("tool"))) is not None
            for each in pending
            for asked in each
        )

    def _as_row(self, id: str) -> Row:
        return Row(id=id, approvals=self._approvals, approve=self._approve)

    async def _lane(
        self, rows: Iterator[int], executor: Executor, store: Store, ledger: Ledger, progress: Any
    ) -> None:
        for i in rows:
            if self._stop is not None or self._is_spent():
                return
            await self._one(i, executor, store, ledger)
            progress.advance()
            progress.note(self.said)
            if self._on_row is not None:
                given = self._on_row(self._row(i))
                if inspect.isawaitable(given):
                    await given

    async def _one(self, i: int, executor: Executor, store: Store, ledger: Ledger) -> None:
        id, params = self.row_ids[i], self.params[i]
        before = self._records.get(id)
        attempts, epoch = (before.attempts, before.epoch) if before is not None else (0, 0)
        # What has failed or is to be done again begins anew; what was stopped or waits goes on.
        epoch += before is not None and (self.again or before.status == "failed")
        tries = deaths = 0
        while True:
            attempts += 1
            record = Record(
                status="running",
                params=params,
                attempts=attempts,
                epoch=epoch,
                cost=before.cost if before is not None else 0.0,
                output=str(self.folder / f"{i + 1:04}-{id[:6]}.ipynb"),
                started=time.time(),
            )
            active = self._active[id] = _Active(record)
            await ledger.put(id, record)
            active.future = executor.submit(_row.run, self._task(id, record))
            try:
                ran = await self._wait(active, executor)
            except WorkerDied as error:
                deaths += 1
                if deaths < MOST_DEATHS:
                    continue
                ran = _row.Ran(
                    status="failed", kind="WorkerDied", error=f"{error.message}, {deaths} times"
                )
            except LimitExceeded as error:
                record.error, record.kind = error.message, "LimitExceeded"
                await self._ended(store, ledger, id, record, "over_budget")
                return
            record.values, record.seconds = ran.values, ran.seconds
            record.error, record.kind = ran.error, ran.kind
            # A run may wait beside cells that went on.
            waits = ran.status == "done" and _waiting(await self._runs(store, id), id, epoch)
            if waits or ran.status == "suspended":
                await self._ended(store, ledger, id, record, "suspended")
                return
            tries += ran.status == "failed"
            if ran.status == "done" or tries > self.retries or self._stop is not None:
                await self._ended(store, ledger, id, record, ran.status)
                return
            epoch += 1

    async def _wait(self, active: _Active, executor: Executor) -> _row.Ran:
        """Raises WorkerDied, and what stopped it."""
        most = None if self.timeout is None else self.timeout + _GRACE_SECONDS
        waiting = asyncio.wrap_future(active.future)
        try:
            done, _ = await asyncio.wait({waiting}, timeout=most)
        except asyncio.CancelledError:
            waiting.cancel()
            raise
        if not done:
            assert self.timeout is not None
            executor.cancel(active.future)
            await asyncio.wait({waiting})
        try:
            ran: _row.Ran = waiting.result()
        except Stopped:
            if active.why is not None:
                raise active.why from None
            said = f"it took longer than {self.timeout:g} s and was stopped"
            return _row.Ran(status="failed", kind="RowTimeout", error=said)
        return ran

    def _task(self, id: str, record: Record) -> _row.Task:
        row = self._as_row(_of_epoch(id, record.epoch))
        return _row.Task(
            notebook=str(self.notebook),
            output=record.output,
            params=record.params,
            row=row,
            environment={
                **row.environment,
                "MASTRA_NB_STORAGE": self._url,
                # Cells take up what they began by the notebook's name: each row is one.
                "JPY_SESSION_NAME": f"{self.notebook.name}#{id}.{record.epoch}",
            },
            kernel=self._kernel,
            timeout=self.timeout,
        )

    async def _ended(
        self, store: Store, ledger: Ledger, id: str, record: Record, status: Any
    ) -> None:
        usage, runs = await self._spent(store, id)
        record.status, record.ended = status, time.time()
        record.cost = usage.cost if usage.calls else 0.0
        record.tokens, record.runs = usage.total, [row.id for row in runs]
        record.waiting = [row.id for row in _waiting(runs, id, record.epoch)]
        if status in ("over_budget", "stopped"):
            record.values = _row.values_of(record.output)
            record.seconds = record.ended - record.started
        await ledger.put(id, record)
        self._records[id] = record
        self._active.pop(id, None)

    # What is spent

    async def _runs(self, store: Store, id: str) -> list[RunRow]:
        """Of a row, all of its attempts; the oldest first."""
        found = await store.find_runs(prefix=Row(id=id).run_prefix, limit=10_000)
        return found[::-1]

    async def _spent(self, store: Store, id: str) -> tuple[Usage, list[RunRow]]:
        runs = await self._runs(store, id)
        usage = Usage()
        for spent in await store.read_spent(runs=[row.id for row in runs]) if runs else ():
            usage = usage + spent.usage
        return usage, runs

    async def _watch(self, executor: Executor, store: Store, ledger: Ledger, progress: Any) -> None:
        """Holds the budgets and the lease of the batch."""
        held = self.budget is not None or self.row_budget is not None
        renewed = time.monotonic()
        while True:
            await asyncio.sleep(_WATCH_SECONDS if held else _LOOK_SECONDS)
            for id, active in [*self._active.items()]:
                usage, _ = await self._spent(store, id)
                active.record.cost = usage.cost if usage.calls else 0.0
                if self.row_budget is not None and (over := _over(usage, self.row_budget, "row")):
                    self._cancel(active, executor, over)
            if self._is_spent():
                for active in [*self._active.values()]:
                    assert self._stop is not None
                    self._cancel(active, executor, self._stop)
            progress.note(self.said)
            if time.monotonic() - renewed > LEASE_SECONDS / 3:
                await ledger.renew()
                renewed = time.monotonic()

    def _cancel(self, active: _Active, executor: Executor, why: MastraError) -> None:
        if active.why is None and active.future is not None:
            active.why = why
            executor.cancel(active.future)

    @property
    def cost(self) -> float | None:
        """Of all rows, those under way too; None if a price is unknown."""
        now = {id: active.record.cost for id, active in self._active.items()}
        ids = {*self.row_ids}
        done = {id: r.cost for id, r in self._records.items() if id in ids}
        costs = [*{**done, **now}.values()]
        return None if None in costs else sum(c for c in costs if c is not None)

    def _is_spent(self) -> bool:
        if self.budget is not None and self._stop is None:
            self._stop = _over(Usage(calls=1, cost=self.cost), self.budget, "batch")
        return self._stop is not None

    @property
    def said(self) -> str:
        """How far it is, in a few words."""
        done = sum(
            id in self._records and self._records[id].status == "done" for id in self.row_ids
        )
        failed = sum(r.status == "failed" for r in self._records.values())
        waits = sum(r.status == "suspended" for r in self._records.values())
        told = [f"{failed} failed" if failed else "", f"{waits} wait" if waits else ""]
        of = f"{done} of {len(self.params)} done"
        return " · ".join(filter(None, [of, *told, money(self.cost)]))

    # What comes of it

    def _report(self, seconds: float) -> BatchReport:
        return BatchReport(
            id=self.id,
            notebook=str(self.notebook),
            rows=tuple(self._row(i) for i in range(len(self.params))),
            seconds=seconds,
            budget=self.budget,
            folder=str(self.folder),
        )

    def _row(self, i: int) -> BatchRow:
        id = self.row_ids[i]
        record = self._records.get(id)
        if record is None:
            status: RowStatus = "over_budget" if self._stop is not None else "pending"
            error = self._stop.message if self._stop is not None else ""
            return BatchRow(index=i, id=id, params=self.params[i], status=status, error=error)
        kind = f"{record.kind}: " if record.kind and record.status == "failed" else ""
        return BatchRow(
            index=i,
            id=id,
            params=self.params[i],
            status="stopped" if record.status == "running" else record.status,
            values=record.values,
            cost=record.cost,
            tokens=record.tokens,
            seconds=record.seconds,
            attempts=record.attempts,
            runs=tuple(record.runs),
            error=f"{kind}{record.error}" if record.error else "",
            hint=self._hint(record),
            output=record.output,
            reused=id in self._reused,
        )

    def _hint(self, record: Record) -> str:
        if record.status != "suspended":
            return ""
        name = shlex.quote(os.path.relpath(self.notebook))
        runs = ", ".join(f"mastra-nb resume {run} approve --app {name}" for run in record.waiting)
        return f"answer it ({runs}) or approve its tool, then run the batch again"


def _of_epoch(id: str, epoch: int) -> str:
    return f"{id}{epoch:02x}"


def _waiting(runs: Sequence[RunRow], id: str, epoch: int) -> list[RunRow]:
    """Those that a person is to answer; what an epoch before has asked nobody wants to know."""
    prefix = Row(id=_of_epoch(id, epoch)).run_prefix
    return [row for row in runs if row.status == "suspended" and row.id.startswith(prefix)]


def _over(usage: Usage, budget: float, whose: str) -> MastraError | None:
    if usage.calls and usage.cost is None:
        return LimitExceeded(
            "a budget in dollars is set, but the price of a model used here is unknown",
            hint="mastra_nb.prices.set_price(...) sets it, or the setting prices",
        )
    if (usage.cost or 0.0) >= budget:
        return LimitExceeded(f"the budget of ${budget:g} for the {whose} is used up")
    return None
