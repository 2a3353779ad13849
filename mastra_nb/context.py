"""The one choke point: everything executable is called through `Context.call`.

A call opens a span, checks limits, gives back the journaled output if there is one, else runs
the target, maps what happened to the span's end and commits it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeVar

import msgspec

from mastra_nb._later import later
from mastra_nb.errors import (
    Bail,
    Blocked,
    MastraError,
    NotFound,
    ReplayMismatch,
    StepError,
    Stopped,
    Suspend,
    close_matches,
)
from mastra_nb.events import (
    Custom,
    ErrorInfo,
    MessageAdded,
    Payload,
    SpanEnded,
    SpanStarted,
    StateSet,
    Suspended,
)
from mastra_nb.limits import Limits, Meter, Need, Reserve, within
from mastra_nb.messages import Message, Usage
from mastra_nb.runlog import RunLog
from mastra_nb.schema import Schema, to_json
from mastra_nb.services import Services

if TYPE_CHECKING:
    import asyncio
    import hashlib
else:
    asyncio = later("asyncio", globals())
    hashlib = later("hashlib", globals())

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

    def foresee(self, target: Any, input: Any) -> Need:
        """What a model call may spend; asked if tokens or money of the run are limited."""
        return Need()

    def salvage(self, ctx: Context, error: BaseException, input: Any) -> Usage | None:
        """Called when the call failed or was cancelled: keep what there is."""
        return None

    def partial(self, value: Any) -> Any:
        """What a reader is shown of an output whose JSON is not finished; None for nothing yet."""
        return value


PLAIN: Codec[Any] = Codec()
# Kinds that do nothing themselves but call: they may be walked again where nothing may be done.
_WALKED = ("workflow", "agent")
_UNSEEN: Any = object()


_current: ContextVar[Context | None] = ContextVar("mastra_nb_context", default=None)


def current() -> Context | None:
    """The context of the call that this code runs in, if any."""
    return _current.get()


class Context:
    """A place in a run. Handed to every `invoke`, and to tools that ask for it by type."""

    # What most calls never change is kept in the class: there is one of these a call.

    # Runs that were started from here; they do not outlive the call.
    tasks: set[asyncio.Task[Any]] | None = None
    over = False
    # Of the body of a workflow: the runs made in it that have not ended, and the calls that
    # the journal had the output of.
    begun: set[Any] | None = None
    claimed: set[str] | None = None
    # Of a model call: what its meter holds for it, and what it said it has spent.
    _open: tuple[Meter, Reserve | None] | None = None
    _spent: Usage | None = None
    price: Callable[[Usage], Usage] | None = None
    _flow: Flow | None = None
    # Of a model call: True while it is open whether its answer may be seen.
    withheld = False
    # Set for a model call beside which others spend of the same budget.
    max_tokens: int | None = None
    retries = 0
    _ordinals: dict[str, int] | None = None
    _records = 0
    _suspends = 0

    def __init__(
        self, run: RunLog, path: str, parent: str | None, kind: str, meter: Meter | None = None
    ) -> None:
        self.run = run
        self.path = path
        self.parent = parent
        self.kind = kind
        self.meter = meter or run.meter

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
    def resource(self) -> str:
        """Whom the run's conversation belongs to; "" is nobody."""
        return self.run.resource

    @property
    def request_context(self) -> Mapping[str, Any]:
        """What the caller gave to the run, journaled with it; sub-agents see it too."""
        return self.run.request_context

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
        if self._flow is not None:
            return self._flow(self, data)
        return self.run.emit(self.path, self.parent, data)

    def spent(self, usage: Usage) -> None:
        """What this model call has spent, known before it ends: it counts at once, and also if
        the call then fails. Only the first word counts.
        """
        if self._open is None:
            return
        self._spent = self.counted(usage if self.price is None else self.price(usage))
        self._settle(self._spent)

    def _settle(self, usage: Usage | None) -> None:
        if self._open is not None:
            meter, reserved = self._open
            self._open = None
            meter.settle(usage, reserved)

    @property
    def has_spoken(self) -> bool:
        """True once this call has emitted a delta."""
        return bool(self.heard)

    @property
    def heard(self) -> Sequence[str]:
        """What this model call has said so far, shown or not."""
        if self._flow is not None:
            return self._flow.heard
        return [d.text for d in self.run.deltas(self.path)]

    @contextmanager
    def through(self, flow: Flow) -> Iterator[None]:
        """Inside, what this call emits goes to `flow` instead of into the log."""
        self._flow = flow
        try:
            yield
        finally:
            self._flow = None

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
        lazy: bool = False,
    ) -> O:
        """Run `target` as a child span and return its output.

        The call's identity is its path: the parent's path, the target's name, and `key`, or
        else the input's digest and an ordinal among equal calls. `segment` replaces all of the
        last part. A `lazy` call's end is stored with others that come within milliseconds. Raises
        what the target raises, LimitExceeded before it is called.
        """
        run = self.run
        if run.refusal is not None or self.over:
            raise run.refusal or Stopped(f'"{self.path}" has ended; nothing can be called in it')
        shown: Any = _UNSEEN
        if segment is None:
            shown = codec.show(input)
            segment = self.segment(target.name, shown, key)
        above = self.path
        parent = above or None
        path = f"{above}/{segment}" if above else segment
        kind, meter, past = target.kind, self.meter, run.past
        child = Context(run, path, parent, kind, meter)
        if path in past.done:
            if self.claimed is not None:
                self.claimed.add(path)
            return codec.load(past.done[path], child)
        if path in past.held:
            raise Suspend(path)
        if path in past.inputs:
            input = past.inputs[path]
        if run.frozen and not (target.kind in _WALKED and path in past.attempts):
            if (known := past.failed.get(path)) is not None:
                raise MastraError(known.message, hint=known.hint, code=known.code)
            raise ReplayMismatch(
                f'"{path}" of run "{run.id}" is not in its journal',
                hint="what runs now is not what ran then; run.fork(step) goes on from there",
            )
        if shown is _UNSEEN:
            shown = codec.show(input)
        reserved: Reserve | None = None
        if kind == "model":
            if meter.scarce:
                reserved = await meter.room(codec.foresee(target, input))
                child.max_tokens = reserved.max_tokens
            meter.admit_model(reserved, path)
        elif kind == "tool":
            meter.admit_tool()
        attempt = past.attempts.get(path, 0) + 1
        started = SpanStarted(kind=kind, name=target.name, input=shown, attempt=attempt)
        run.emit(path, parent, started)
        usage: Usage | None = None
        if kind == "model":
            child._open = meter, reserved
        token = _current.set(child)
        try:
            try:
                output = await target.invoke(input, child)
            except BaseExceptionGroup as group:
                # A TaskGroup wraps what its tasks raise; that one waits is more than that.
                if waiting := group.subgroup(Suspend):
                    raise _first(waiting) from None
                raise
            finally:
                child.over = True
                if child.tasks:
                    await child._reap()
            recorded = codec.dump(output, child)
            usage = child._spent or child.counted(recorded.usage)
        except Suspend:
            raise
        except Exception as error:
            usage = codec.salvage(child, error, input)
            usage = child._spent or child.counted(usage)
            child.emit(SpanEnded(status="error", usage=usage, error=error_info(error)))
            raise
        except BaseException as error:
            usage = codec.salvage(child, error, input)
            usage = child._spent or child.counted(usage)
            child.emit(SpanEnded(status="cancelled", usage=usage))
            raise
        finally:
            _current.reset(token)
            if child._open is not None:
                child._settle(usage)
        run.emit(path, parent, SpanEnded(status="ok", output=recorded.value, usage=usage))
        # The end of the run itself is stored with its status, behind a barrier.
        if run.fence and (above or kind == "value"):
            if lazy:
                run.commit_soon()
            else:
                await run.commit()
        return output

    def count_retry(self) -> None:
        """One more request of this call is about to be sent. Raises LimitExceeded."""
        self.meter.count_retry()
        self.retries += 1

    def counted(self, usage: Usage | None) -> Usage | None:
        """`usage` with the requests that were sent again: a resumed run has to know of them."""
        if not self.retries:
            return usage
        # A request that was refused costs nothing.
        usage = usage or Usage(calls=1, cost=0.0)
        return msgspec.structs.replace(usage, calls=max(1, usage.calls) + self.retries)

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
    def span(
        self, kind: str, name: str, input: Any = None, *, segment: str | None = None
    ) -> Iterator[Context]:
        """A span around code that is not a Runnable: the code runs on every drive."""
        path = f"{self.path}/{segment or self.segment(name, to_json(input), None)}"
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
        self,
        payload: Any = None,
        *,
        schema: dict[str, Any] | Any = None,
        reason: str = "input",
        timeout: float | None = None,
        default: Any = ...,
    ) -> Any:
        """Stop here until somebody answers; when the run is resumed this returns the answer.

        `schema` is the JSON schema the answer must fit, or a type: then the answer is given as
        that type. Who has not answered `timeout` seconds after the question has given `default`;
        without one it raises StepError ("step.expired"). Code before this line runs again on
        resume: keep effects in calls of their own.
        """
        form = typed = None
        if isinstance(schema, dict):
            form = schema
        elif schema is not None:
            typed = Schema[Any](schema)
            form = typed.json
        self._suspends += 1
        path = self.path if self._suspends == 1 else f"{self.path}~{self._suspends}"
        past = self.run.past
        if path in past.expired:
            if default is not ...:
                return default
            raise StepError(
                f'nobody answered "{path}" in time',
                code="step.expired",
                hint="suspend(..., timeout=...) says how long; default=... answers for them",
            )
        if path in past.answers:
            answer = past.answers[path]
            return answer if typed is None else typed.convert(answer)
        asked = past.asked.get(path)
        deadline = None if asked is None else asked.deadline
        if timeout is not None and deadline is None:
            deadline = self.services.now() + timeout
        self.emit(
            Suspended(
                path=path,
                reason=reason,
                payload=to_json(payload),
                schema=form,
                deadline=deadline,
            )
        )
        raise Suspend(path)

    def bail(self, result: Any = None) -> NoReturn:
        """End the workflow that this step is in: `result` is its output."""
        raise Bail(result)

    def get_init_data(self) -> Any:
        """What the workflow that this step is in was given. Raises NotFound outside of one."""
        return self._walk().input

    def get_step_result(self, step: str) -> Any:
        """What a step of the same workflow gave. Raises NotFound if it has not ended."""
        results = self._walk().results
        if step not in results:
            raise NotFound(f'no step "{step}" has ended here', hint=close_matches(step, results))
        return results[step]

    def _walk(self) -> Walked:
        found: Walked | None = self.run.walks.get(self.parent or "")
        if found is None:
            raise NotFound(f'"{self.path}" is no step of a workflow', hint="it was called alone")
        return found

    def segment(self, name: str, shown: Any, key: str | None) -> str:
        """The last part of a call's path; `shown` is the input as it is journaled."""
        name = name.replace("/", ":")
        if key is not None:
            return f"{name}[{key}]"
        raw = msgspec.json.encode(shown, order="sorted")
        base = f"{name}#{hashlib.sha256(raw).hexdigest()[:10]}"
        if self._ordinals is None:
            self._ordinals = {}
        n = self._ordinals.get(base, 0)
        self._ordinals[base] = n + 1
        return f"{base}.{n}"


class Walked(Protocol):
    """A workflow under way: what it was given, and what its steps have given so far."""

    @property
    def input(self) -> Any: ...

    @property
    def results(self) -> Mapping[str, Any]: ...


class Flow(Protocol):
    """What stands between a call and the log; `heard` are the texts of the deltas given to it."""

    @property
    def heard(self) -> Sequence[str]: ...

    def __call__(self, ctx: Context, data: Payload, /) -> int: ...


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


class Timed(Generic[O]):
    """A target that is stopped after some seconds."""

    def __init__(self, target: Runnable[Any, O], seconds: float, worked: float) -> None:
        self.target = target
        self.name = target.name
        self.kind = target.kind
        self._seconds = seconds
        self._worked = worked

    async def invoke(self, input: Any, ctx: Context, /) -> O:
        return await within(self._seconds, self.target.invoke(input, ctx), worked=self._worked)


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def error_info(error: BaseException) -> ErrorInfo:
    if isinstance(error, MastraError):
        again = isinstance(error, Blocked) and error.retry
        return ErrorInfo(code=error.code, message=error.message, hint=error.hint, retry=again)
    # The type says as much as the text: "'city'" alone is no message.
    name = type(error).__name__
    return ErrorInfo(code=name, message=f"{name}: {error}" if str(error) else name)
