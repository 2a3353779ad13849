"""The embedded model: a small instruct model in this process, with no key and no service.

Such a model does not call tools the way vendors' models do. A step is therefore one constrained
choice (a tool and its arguments, or "answer") and, for an answer, one plain generation in which
the tools are not mentioned.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib.util
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import msgspec

from mastra_nb.context import Context
from mastra_nb.errors import (
    ConfigError,
    MastraError,
    ModelError,
    NotFound,
    close_matches,
)
from mastra_nb.events import ArgsDelta, Noted, TextDelta
from mastra_nb.messages import (
    Finish,
    Media,
    Message,
    Usage,
    assistant,
)
from mastra_nb.models import Availability, ModelRequest, Profile, Reply
from mastra_nb.providers import _weights
from mastra_nb.providers._llama import (
    Engine,
    Halted,
    Job,
    Outcome,
    context_size,
    shared_engine,
)
from mastra_nb.providers._local_prompt import (
    answer_prompt,
    decide_bias,
    decide_prompt,
    decide_schema,
    read_decision,
)

_log = logging.getLogger("mastra_nb.local")
_T = TypeVar("_T")

_DECIDE, _SPEAK = 0, 1
_MAX_TOKENS = 1024
_SEED = 1


def provider(provider_name: str, model_id: str) -> LocalModel:
    """`model_id` is "small" (also ""), "large" or the path of a ".gguf" file; raises NotFound."""
    return LocalModel(model_id or "small")


class LocalModel:
    """An embedded model. Weights and engine are brought up by the first call, not here."""

    kind: ClassVar[Literal["model"]] = "model"

    def __init__(self, model_id: str = "small", *, engine: Engine | None = None) -> None:
        if model_id not in _weights.MODELS and not model_id.endswith(".gguf"):
            raise NotFound(
                f'there is no embedded model "{model_id}"',
                hint=close_matches(model_id, _weights.MODELS)
                + '; a path that ends in ".gguf" works too',
            )
        self.name = f"local/{model_id}"
        self.profile = Profile(parallel_tools=False, context=context_size())
        self._id = model_id
        self._engine = engine
        self._title = Path(model_id).stem

    def __repr__(self) -> str:
        return f'LocalModel("{self._id}")'

    async def invoke(self, request: ModelRequest, ctx: Context) -> Reply:
        """Raises ConfigError, MissingExtra, ModelError, ModelOutputError."""
        _check(request)
        engine = await self._ready(ctx)
        usage = Usage(cost=0.0, calls=1)
        if request.tools and request.tool_choice != "none":
            outcome = await self._decide(engine, request)
            usage = _plus(usage, outcome)
            call, why = read_decision(outcome.text, request)
            if call is not None:
                ctx.emit(ArgsDelta(id=call.id, name=call.name, text=call.args))
                message = Message(role="assistant", parts=(call,))
                return self._reply(message, why, usage, outcome)
        outcome = await self._speak(engine, request, ctx)
        finish: Finish = "length" if outcome.finish == "length" else "stop"
        return self._reply(assistant(outcome.text), finish, _plus(usage, outcome), outcome)

    async def available(self, *, ask: bool = False) -> Availability:
        """Whether it could answer, and whether its weights have to be fetched first."""
        if importlib.util.find_spec("xllamacpp") is None:
            return Availability(ready=False, why='pip install "mastra-nb[local]"')
        names = tuple(_weights.MODELS)
        if self._id not in names:
            return Availability(ready=True, why=f'the file "{self._id}"', models=names)
        try:
            found = await asyncio.to_thread(_weights.locate, self._id)
        except ConfigError as error:
            return Availability(ready=False, why=error.message)
        size = _weights.human(_weights.model(self._id).bytes)
        why = "in this process, needs no key" if found else f"fetches {size} at its first use"
        return Availability(ready=True, why=why, models=names)

    def _reply(self, message: Message, finish: Finish, usage: Usage, outcome: Outcome) -> Reply:
        return Reply(
            message=message, finish=finish, usage=usage, model=self._title, raw=outcome.raw
        )

    async def _decide(self, engine: Engine, request: ModelRequest) -> Outcome:
        # A calendar date and not a moment: the prompt stays the same all day.
        messages, cuts = decide_prompt(request, dt.date.today().isoformat())  # noqa: DTZ011
        options = {
            "temperature": 0,
            "seed": _SEED,
            "max_tokens": request.settings.max_tokens or _MAX_TOKENS,
            "response_format": _format("step", decide_schema(request)),
            "logit_bias": decide_bias(request),
        }
        return await _generate(engine, messages, options, cuts, _DECIDE, _ignore)

    async def _speak(self, engine: Engine, request: ModelRequest, ctx: Context) -> Outcome:
        messages, cuts = answer_prompt(request)
        s = request.settings
        options: dict[str, Any] = {
            "temperature": 0 if s.temperature is None else s.temperature,
            "seed": _SEED if s.seed is None else s.seed,
            "max_tokens": s.max_tokens or _MAX_TOKENS,
        }
        if s.top_p is not None:
            options["top_p"] = s.top_p
        if s.stop:
            options["stop"] = list(s.stop)
        if request.output is not None:
            options["response_format"] = _format("answer", request.output)
        options.update(s.extra)
        return await _generate(
            engine, messages, options, cuts, _SPEAK, lambda text: ctx.emit(TextDelta(text=text))
        )

    async def _ready(self, ctx: Context) -> Engine:
        if self._engine is None:
            path = await self._path(ctx)
            self._title = path.stem
            self._engine = shared_engine(path, context_size())
        if not self._engine.loaded:
            # Loading cannot be stopped: a cancelled caller leaves it to the next one.
            await asyncio.shield(asyncio.wrap_future(self._engine.start()))
        return self._engine

    async def _path(self, ctx: Context) -> Path:
        if self._id.endswith(".gguf"):
            return await asyncio.to_thread(_weights.check_gguf, Path(self._id))
        found = await asyncio.to_thread(_weights.locate, self._id)
        if found is not None:
            return found
        weights = _weights.model(self._id)
        text = (
            f"fetching the embedded model once: {weights.title}, {_weights.human(weights.bytes)}, "
            f"licence {_weights.LICENCE}, to {_weights.cache_dir()}"
        )
        ctx.emit(Noted(level="info", text=text))
        _log.info("%s", text)
        stopped = threading.Event()
        try:
            return await asyncio.to_thread(
                _weights.fetch, self._id, progress=_Logged(weights.title, stopped)
            )
        except asyncio.CancelledError:
            stopped.set()
            raise


class _Logged:
    """Progress as a log line for every tenth; raises Halted once `stopped` is set."""

    def __init__(self, title: str, stopped: threading.Event) -> None:
        self._title, self._stopped, self._tenth = title, stopped, 0

    def __call__(self, done: int, total: int, note: str) -> None:
        if self._stopped.is_set():
            raise Halted
        if done * 10 // total > self._tenth:
            self._tenth = done * 10 // total
            _log.info("%s: %d %% (%s)", self._title, self._tenth * 10, note)


def _ignore(text: str) -> None:
    return None


async def _generate(
    engine: Engine,
    messages: list[dict[str, str]],
    options: dict[str, Any],
    cuts: tuple[int, ...],
    slot: int,
    on_text: Callable[[str], object],
) -> Outcome:
    """Run a job, hand its text on in this loop; when cancelled, return once the engine stopped."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[str | None] = asyncio.Queue()
    stop = threading.Event()

    def push(piece: str | None) -> None:
        try:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)
        except RuntimeError:  # the loop was closed: nobody reads any more
            stop.set()

    job = Job(messages=messages, options=options, cuts=cuts, slot=slot, on_text=push, stop=stop)
    future = engine.submit(job)
    future.add_done_callback(lambda _: push(None))
    try:
        while (piece := await pieces.get()) is not None:
            on_text(piece)
        return future.result()
    except BaseException:
        stop.set()
        if not future.cancel():
            await _settled(future, pieces)
        raise


async def _settled(future: Future[Outcome], pieces: asyncio.Queue[str | None]) -> None:
    """Wait until the engine is free, however often we are cancelled: it takes one batch."""
    while not future.done():
        try:
            await asyncio.wait_for(pieces.get(), 0.05)
        except (TimeoutError, asyncio.CancelledError):
            continue


def _plus(usage: Usage, outcome: Outcome) -> Usage:
    return msgspec.structs.replace(
        usage,
        input=usage.input + outcome.prompt,
        output=usage.output + outcome.completion,
        cached=usage.cached + outcome.cached,
    )


def _format(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}


def _check(request: ModelRequest) -> None:
    if any(isinstance(p, Media) for m in request.messages for p in m.parts):
        raise ModelError(
            "the embedded model reads text only, and the prompt has a picture or file in it",
            hint="Leave it out, or choose a model that reads it.",
            code="model.media",
        )
    choice, names = request.tool_choice, [t.name for t in request.tools]
    if request.tools and choice not in {"auto", "required", "none", *names}:
        raise ConfigError(
            f'tool_choice is "{choice}", which is no tool of this request',
            hint=close_matches(choice, names),
        )


# --- python -m mastra_nb.providers.local ----------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m mastra_nb.providers.local", description="The weights of the local model."
    )
    parser.add_argument(
        "command", choices=["pull", "path"], help="fetch them, or say where they are"
    )
    parser.add_argument("--large", action="store_true", help="the 1.5B model instead of the 0.5B")
    options = parser.parse_args(argv)
    size = "large" if options.large else "small"
    try:
        found = _weights.locate(size)
        if found is None and options.command == "path":
            hint = "run: python -m mastra_nb.providers.local pull" + " --large" * options.large
            raise NotFound(f'the "{size}" embedded model is not on this machine', hint=hint)
        print(found or _pull(size))
    except MastraError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what is done is kept, the same command goes on from there", file=sys.stderr)
        return 130
    return 0


def _pull(size: str) -> Path:
    weights = _weights.model(size)
    print(f"{weights.title}: {_weights.human(weights.bytes)}, licence {_weights.LICENCE}")
    started = time.monotonic()
    line = _Line(sys.stdout, size)
    try:
        path = _weights.fetch(size, progress=line)
    finally:
        line.end()
    print(f"done in {time.monotonic() - started:.0f} s, sha256 as pinned")
    return path


class _Line:
    """Progress on a text stream: one rewritten line on a terminal, else one for every tenth."""

    def __init__(self, stream: Any, title: str) -> None:
        self._stream, self._title = stream, title
        self._tty = bool(stream.isatty())
        self._last: tuple[int, str] | None = None
        self._width = 0

    def __call__(self, done: int, total: int, note: str) -> None:
        percent = done * 100 // total
        state = (percent, note) if self._tty else (percent // 10, "")
        if state == self._last:
            return
        self._last = state
        human = _weights.human
        line = f"{self._title}: {percent:3d} %  {human(done)} of {human(total)}  {note}"
        if self._tty:
            self._stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def end(self) -> None:
        if self._tty and self._last is not None:
            self._stream.write("\n")
            self._stream.flush()


if __name__ == "__main__":
    sys.exit(main())
