"""The one choke point: everything executable is called through `Context.call`.

A call opens a span, checks limits, gives back the journaled output if there is one, else runs
the target, maps what happened to the span's end and commits it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import msgspec

from mastra_nb.config import Settings
from mastra_nb.errors import LimitExceeded, MastraError, Stopped, Suspend
from mastra_nb.events import (
    Custom,
    ErrorInfo,
    Event,
    MessageAdded,
    Payload,
    Resumed,
    SpanEnded,
    SpanStarted,
    StateSet,
    Suspended,
    drop_below,
)
from mastra_nb.messages import Message, Usage
from mastra_nb.schema import to_json
from mastra_nb.storage import Store

if TYPE_CHECKING:
    from collections.abc import Sequence

I_contra = TypeVar("I_contra", contravariant=True)
O_co = TypeVar("O_co", covariant=True)
O = TypeVar("O")  # noqa: E741


class Runnable(Protocol[I_contra, O_co]):
    """Anything that can be called in a run: model, tool, agent, step, workflow."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    async def invoke(self, input: I_contra, ctx: Context, /) -> O_co: ...


class Recorded(msgspec.Struct, frozen=True):
    """What of an output goes into its SpanEnded."""

    value: Any
    usage: Usage | None = None


class Codec(Generic[O]):
    """How a call's input and output are kept in the journal; the default keeps JSON values."""

    def show(self, input: Any) -> Any:
        return to_json(input)

    def dump(self, output: O, ctx: Context) -> Recorded:
        return Recorded(to_json(output))

    def load(self, value: Any, ctx: Context) -> O:
        return value  # type: ignore[no-any-return]

    def salvage(self, ctx: Context) -> Usage | None:
        """Called when the call failed or was cancelled: keep what there is."""
        return None


PLAIN: Codec[Any] = Codec()


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Budgets of a run, sub-agents and retries included; None is no limit. `cost` is in dollars."""

    tool_calls: int | None = None
    requests: int | None = None
    tokens: int | None = None
    cost: float | None = None
    seconds: float | None = None


class Meter:
    """Counts what a run uses and refuses the call that would cross a limit.

    What a model call will spend is unknown until it ends. While tokens or money are limited,
    a call is let in beside others only if all of them could be as large as the largest one so
    far and still fit: so calls at the edge go one by one, and at most one crosses the line.

    A part of a run at `path` may have limits of its own: its meter counts into those `above` too.
    """

    def __init__(self, limits: Limits, *, above: Meter | None = None, path: str = "") -> None:
        self.limits = limits
        self.path = path
        self.usage = Usage()
        self.requests = 0
        self.tool_calls = 0
        self.chain: tuple[Meter, ...] = (self, *above.chain) if above is not None else (self,)
        self.scarce = any(
            m.limits.tokens is not None or m.limits.cost is not None for m in self.chain
        )
        self._in_flight = 0
        self._largest: Usage | None = None
        self._waiting: list[asyncio.Future[None]] = []

    def restore(self, past: Past) -> None:
        """Count what earlier drives of the run have used."""
        below = f"{self.path}/" if self.path else ""
        for path, kind, usage in past.used:
            if path.startswith(below):
                self.tool_calls += kind == "tool"
                self.requests += kind == "model"
                if usage is not None:
                    self.requests += max(0, usage.calls - 1)
                    self.usage = self.usage + usage

    async def room(self) -> None:
        """Wait until there is tokens and money for a model call. Raises LimitExceeded."""
        waiting = self.chain[-1]._waiting
        while True:
            for meter in self.chain:
                meter._check_spent()
            if all(m._in_flight == 0 or m._all_fit() for m in self.chain):
                return
            future = asyncio.get_running_loop().create_future()
            waiting.append(future)
            await future

    def admit_model(self) -> None:
        """Raises LimitExceeded; the call it was asked for must then not be made."""
        self.count_retry()
        for meter in self.chain:
            meter._in_flight += 1

    def admit_tool(self) -> None:
        """Raises LimitExceeded; the call it was asked for must then not be made."""
        for meter in self.chain:
            limit = meter.limits.tool_calls
            if limit is not None and meter.tool_calls >= limit:
                raise meter._exceeded("tool calls", limit)
        for meter in self.chain:
            meter.tool_calls += 1

    def count_retry(self) -> None:
        """One more request of a call that was let in; raises LimitExceeded."""
        for meter in self.chain:
            limit = meter.limits.requests
            if limit is not None and meter.requests >= limit:
                raise meter._exceeded("requests", limit)
        for meter in self.chain:
            meter.requests += 1

    def settle(self, usage: Usage | None) -> None:
        """A model call that was let in has ended."""
        for meter in self.chain:
            meter._in_flight -= 1
            if usage is not None:
                meter._add(usage)
        waiting = self.chain[-1]._waiting
        for future in waiting:
            if not future.done():
                future.set_result(None)
        waiting.clear()

    def _add(self, usage: Usage) -> None:
        self.usage = self.usage + usage
        if self.scarce:
            old = self._largest or Usage()
            self._largest = Usage(
                input=max(old.input, usage.input),
                output=max(old.output, usage.output),
                cost=max(old.cost or 0.0, usage.cost or 0.0),
            )

    def _check_spent(self) -> None:
        tokens, cost = self.limits.tokens, self.limits.cost
        if tokens is not None and self.usage.total >= tokens:
            raise self._exceeded("tokens", tokens)
        if cost is not None:
            if self.usage.calls and self.usage.cost is None:
                raise LimitExceeded(
                    "a budget in dollars is set, but the price of a model used here is unknown",
                    hint="mastra_nb.models.set_price(...) sets it; or limit tokens instead",
                    details={"limit": "dollars", "value": cost, "path": self.path},
                )
            if (self.usage.cost or 0.0) >= cost:
                raise self._exceeded("dollars", cost)

    def _all_fit(self) -> bool:
        if self._largest is None:
            return False
        calls = self._in_flight + 1
        tokens, cost = self.limits.tokens, self.limits.cost
        if tokens is not None and self.usage.total + calls * self._largest.total > tokens:
            return False
        spent = (self.usage.cost or 0.0) + calls * (self._largest.cost or 0.0)
        return cost is None or spent <= cost

    def _exceeded(self, what: str, limit: float) -> LimitExceeded:
        return LimitExceeded(
            f"the budget of {limit:g} {what} is used up; the next call was not sent",
            hint="raise it with limits=Limits(...) or ask for less",
            details={"limit": what, "value": limit, "path": self.path},
        )


async def within(seconds: float | None, work: Awaitable[O], path: str = "") -> O:
    """`work`, stopped after `seconds`. Raises LimitExceeded."""
    if seconds is None:
        return await work
    try:
        async with asyncio.timeout(seconds) as clock:
            return await work
    except TimeoutError:
        if not clock.expired():
            raise
        raise LimitExceeded(
            f"it took longer than {seconds:g} s and was stopped",
            hint="raise it with limits=Limits(seconds=...)",
            details={"limit": "seconds", "value": seconds, "path": path},
        ) from None


class Services:
    """What runs of one application share: a store, settings, ids, readers of their events.

    `wrap_model` puts record/replay or a cache around a model; `now` is the clock of events.
    `sinks` see every event of every run, where it happens (a sync tool's thread too), and must
    not block; one that raises is taken out.
    """

    def __init__(
        self,
        *,
        store: Store | None = None,
        settings: Settings | None = None,
        wrap_model: Callable[[Any], Any] | None = None,
        new_id: Callable[[], str] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.settings = settings or Settings()
        self.wrap_model = wrap_model
        self.new_id = new_id or random_id
        self.now = now
        self.sinks: list[Callable[[Event], None]] = []
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def is_dead(owner: str) -> bool:
    """True if the owner of a lease was a process of this machine that is no more."""
    host, _, rest = owner.rpartition(":")[0].rpartition(":")
    if host != socket.gethostname() or not rest.isdecimal() or os.name != "posix":
        return False
    try:
        os.kill(int(rest), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def random_id() -> str:
    return f"r_{secrets.token_hex(6)}"


_ambient: Services | None = None


def ambient() -> Services:
    """The services of runs that belong to no application; a notebook sets its own."""
    global _ambient
    if _ambient is None:
        _ambient = Services()
    return _ambient


def set_ambient(services: Services | None) -> None:
    global _ambient
    _ambient = services


_current: ContextVar[Context | None] = ContextVar("mastra_nb_context", default=None)


def current() -> Context | None:
    """The context of the call that this code runs in, if any."""
    return _current.get()


class Log(Protocol):
    """What a context needs of its run.

    `refusal` is why nothing may be called in it any more, if so.
    """

    refusal: MastraError | None

    @property
    def id(self) -> str: ...

    @property
    def services(self) -> Services: ...

    @property
    def meter(self) -> Meter: ...

    @property
    def deps(self) -> Any: ...

    @property
    def thread(self) -> str: ...

    @property
    def past(self) -> Past: ...

    @property
    def events(self) -> Sequence[Event]: ...

    def emit(self, span: str, parent: str | None, data: Payload) -> int: ...

    def deltas(self, span: str) -> Sequence[Payload]: ...

    def message(self, seq: int) -> MessageAdded: ...

    def said(self, span: str) -> tuple[int, Message] | None: ...

    async def commit(self, *, barrier: bool = False) -> None: ...


class Past:
    """What earlier drives of the same run left in the journal, by path.

    `failed` holds the newest attempts that ended with an error; `used` what was called and what
    it spent; `seq` is the last event's.
    """

    def __init__(self, events: Sequence[Event] = ()) -> None:
        self.seq = 0
        self.done: dict[str, Any] = {}
        self.failed: dict[str, ErrorInfo] = {}
        self.attempts: dict[str, int] = {}
        self.messages: dict[str, list[int]] = {}
        self.waiting: dict[str, Suspended] = {}
        self.asked: dict[str, Suspended] = {}
        self.answers: dict[str, Any] = {}
        self.state: dict[str, Any] = {}
        self.used: list[tuple[str, str, Usage | None]] = []
        self.limits: Limits | None = None
        for event in events:
            self._apply(event)

    def _apply(self, event: Event) -> None:
        data, path = event.data, event.span
        self.seq = event.seq
        if isinstance(data, SpanStarted):
            self.attempts[path] = data.attempt
            self.failed.pop(path, None)
            self.used.append((path, data.kind, None))
        elif isinstance(data, SpanEnded):
            if data.status == "ok":
                self.done[path] = data.output
            elif data.error is not None:
                self.failed[path] = data.error
            if data.usage is not None:
                self.used.append((path, "", data.usage))
            if self.waiting:
                drop_below(path, self.waiting)
        elif isinstance(data, MessageAdded):
            self.messages.setdefault(path, []).append(event.seq)
        elif isinstance(data, Suspended):
            self.waiting[data.path] = self.asked[data.path] = data
        elif isinstance(data, Resumed):
            self.waiting.pop(data.path, None)
            self.answers[data.path] = data.value
        elif isinstance(data, StateSet):
            self.state[data.key] = data.value
        elif isinstance(data, Custom) and not path and data.name == LIMITS:
            self.limits = msgspec.convert(data.value, Limits)


# The name of the event in which a run's own limits are kept, for whoever takes it up.
LIMITS = "limits"


class Context:
    """A place in a run. Handed to every `invoke`, and to tools that ask for it by type."""

    __slots__ = (
        "_ordinals",
        "_records",
        "_suspends",
        "kind",
        "meter",
        "over",
        "parent",
        "path",
        "run",
        "tasks",
    )

    def __init__(
        self, run: Log, path: str, parent: str | None, kind: str, meter: Meter | None = None
    ) -> None:
        self.run = run
        self.path = path
        self.parent = parent
        self.kind = kind
        self.meter = meter or run.meter
        # Runs that were started from here; they do not outlive the call.
        self.tasks: set[asyncio.Task[Any]] | None = None
        self.over = False
        self._ordinals: dict[str, int] | None = None
        self._records = 0
        self._suspends = 0

    @property
    def services(self) -> Services:
        return self.run.services

    @property
    def deps(self) -> Any:
        return self.run.deps

    @property
    def thread(self) -> str:
        return self.run.thread

    @property
    def limits(self) -> Limits:
        return self.meter.limits

    @property
    def is_root(self) -> bool:
        """True in the target of the run itself."""
        return self.parent is None

    @property
    def state(self) -> MutableMapping[str, Any]:
        """Values of the run, journaled as they are set; JSON values, and None is no value."""
        return State(self)

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this call: hand it to services that accept one."""
        return hashlib.sha256(f"{self.run.id}\0{self.path}".encode()).hexdigest()[:32]

    def emit(self, data: Payload) -> int:
        """Append to the run's log; returns the seq of the last durable event."""
        return self.run.emit(self.path, self.parent, data)

    def note(self, name: str, value: Any = None) -> None:
        """Report something of your own: progress, a chart's data."""
        self.emit(Custom(name=name, value=to_json(value)))

    def record(self, message: Message) -> tuple[int, Message]:
        """Put a message into the log once, however often this code runs again.

        Returns its seq and the message that is in the log.
        """
        old = self.recorded()
        self._records += 1
        return old or (self.emit(MessageAdded(message=message)), message)

    def recorded(self) -> tuple[int, Message] | None:
        """What the next `record` will find in the log, if this code ran this far before."""
        logged = self.run.past.messages.get(self.path, ())
        if self._records >= len(logged):
            return None
        seq = logged[self._records]
        return seq, self.run.message(seq).message

    async def call(
        self,
        target: Runnable[Any, O],
        input: Any,
        *,
        key: str | None = None,
        segment: str | None = None,
        codec: Codec[O] = PLAIN,
    ) -> O:
        """Run `target` as a child span and return its output.

        The call's identity is its path: the parent's path, the target's name, and `key`, or
        else the input's digest and an ordinal among equal calls. `segment` replaces all of the
        last part. Raises what the target raises, LimitExceeded before it is called.
        """
        run = self.run
        if run.refusal is not None or self.over:
            raise run.refusal or Stopped(f'"{self.path}" has ended; nothing can be called in it')
        if segment is None:
            segment = self.segment(target.name, input, key, codec)
        path = f"{self.path}/{segment}" if self.path else segment
        kind, meter, past = target.kind, self.meter, run.past
        child = Context(run, path, self.path or None, kind, meter)
        if path in past.done:
            return codec.load(past.done[path], child)
        shown = codec.show(input)
        if kind == "model":
            if meter.scarce:
                await meter.room()
            meter.admit_model()
        elif kind == "tool":
            meter.admit_tool()
        attempt = past.attempts.get(path, 0) + 1
        child.emit(SpanStarted(kind=kind, name=target.name, input=shown, attempt=attempt))
        usage: Usage | None = None
        token = _current.set(child)
        try:
            try:
                output = await target.invoke(input, child)
            finally:
                if child.tasks:
                    await child._reap()
            recorded = codec.dump(output, child)
            usage = recorded.usage
        except Suspend:
            raise
        except Exception as error:
            usage = codec.salvage(child)
            child.emit(SpanEnded(status="error", usage=usage, error=error_info(error)))
            raise
        except BaseException:
            usage = codec.salvage(child)
            child.emit(SpanEnded(status="cancelled", usage=usage))
            raise
        finally:
            child.over = True
            _current.reset(token)
            if kind == "model":
                meter.settle(usage)
        child.emit(SpanEnded(status="ok", output=recorded.value, usage=usage))
        await run.commit()
        return output

    async def _reap(self) -> None:
        """Stop the runs that were started from here and that nobody waited for."""
        left = [task for task in self.tasks or () if not task.done()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)

    async def value(self, name: str, make: Callable[[], Awaitable[Any] | Any]) -> Any:
        """The JSON value that `make` gave the first time this run came here."""
        return await self.call(_Value(name, make), None, segment=name)

    @contextmanager
    def span(self, kind: str, name: str, input: Any = None) -> Iterator[Context]:
        """A span around code that is not a Runnable: the code runs on every drive."""
        path = f"{self.path}/{self.segment(name, input, None, PLAIN)}"
        child = Context(self.run, path, self.path or None, kind, self.meter)
        if path in self.run.past.done:
            yield child
            return
        attempt = self.run.past.attempts.get(path, 0) + 1
        child.emit(SpanStarted(kind=kind, name=name, input=to_json(input), attempt=attempt))
        token = _current.set(child)
        try:
            yield child
        except Suspend:
            raise
        except Exception as error:
            child.emit(SpanEnded(status="error", error=error_info(error)))
            raise
        except BaseException:
            child.emit(SpanEnded(status="cancelled"))
            raise
        else:
            child.emit(SpanEnded(status="ok"))
        finally:
            _current.reset(token)

    def suspend(
        self, payload: Any = None, *, schema: dict[str, Any] | None = None, reason: str = "input"
    ) -> Any:
        """Stop here until somebody answers; when the run is resumed this returns the answer.

        `schema` is the JSON schema the answer must fit. Code before this line runs again on
        resume: keep effects in calls of their own.
        """
        self._suspends += 1
        path = self.path if self._suspends == 1 else f"{self.path}~{self._suspends}"
        past = self.run.past
        if path in past.answers:
            return past.answers[path]
        self.emit(Suspended(path=path, reason=reason, payload=to_json(payload), schema=schema))
        raise Suspend(path)

    def segment(self, name: str, input: Any, key: str | None, codec: Codec[Any]) -> str:
        name = name.replace("/", ":")
        if key is not None:
            return f"{name}[{key}]"
        raw = msgspec.json.encode(codec.show(input), order="sorted")
        base = f"{name}#{hashlib.sha256(raw).hexdigest()[:10]}"
        if self._ordinals is None:
            self._ordinals = {}
        n = self._ordinals.get(base, 0)
        self._ordinals[base] = n + 1
        return f"{base}.{n}"


class State(MutableMapping[str, Any]):
    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._values = ctx.run.past.state

    def __getitem__(self, key: str) -> Any:
        value = self._values.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        self._values[key] = value = to_json(value)
        self._ctx.emit(StateSet(key=key, value=value))

    def __delitem__(self, key: str) -> None:
        del self._values[key]
        self._ctx.emit(StateSet(key=key))

    def __iter__(self) -> Iterator[str]:
        return iter([k for k, v in self._values.items() if v is not None])

    def __len__(self) -> int:
        return sum(v is not None for v in self._values.values())


class _Value:
    kind = "value"

    def __init__(self, name: str, make: Callable[[], Awaitable[Any] | Any]) -> None:
        self.name = name
        self._make = make

    async def invoke(self, _: None, ctx: Context) -> Any:
        made = self._make()
        return to_json(await made if isinstance(made, Awaitable) else made)


def error_info(error: BaseException) -> ErrorInfo:
    if isinstance(error, MastraError):
        return ErrorInfo(code=error.code, message=error.message, hint=error.hint)
    return ErrorInfo(code=type(error).__name__, message=str(error) or type(error).__name__)
