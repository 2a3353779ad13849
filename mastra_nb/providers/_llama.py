"""One llama.cpp engine per GGUF file and process, shared by every agent and event loop.

Work is done by one thread, in the order it was asked for; the engine releases the GIL. Greedy
output is a function of the prompt alone: floating point sums depend on how a prompt is split into
batches, so what is kept of an earlier prompt is always cut at boundaries that the caller names
(`Job.cuts`) and that were evaluated from the same state before.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import msgspec

from mastra_nb.errors import ConfigError, MissingExtra, ModelError, ModelOutputError

SLOTS = 2
# A stop is seen between two batches of a prompt; larger ones are not faster on a CPU.
_BATCH = 16
_CONTEXT = 4096


class Server(Protocol):
    """What we use of `xllamacpp.Server`; the callback returns True to stop."""

    def handle_chat_completions(
        self, request: dict[str, Any], callback: Callable[[dict[str, Any]], bool], /
    ) -> Any: ...


class Job(msgspec.Struct, kw_only=True):
    """One generation. `cuts` are numbers of leading messages whose evaluation is worth keeping."""

    messages: list[dict[str, str]]
    options: dict[str, Any]
    cuts: tuple[int, ...]
    slot: int
    on_text: Callable[[str], None]
    stop: threading.Event


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """`cached` of the `prompt` tokens were not computed again."""

    text: str
    finish: str
    prompt: int
    cached: int
    completion: int
    raw: dict[str, Any]


class Halted(Exception):
    """The job was stopped before its end."""


def context_size() -> int:
    """`MASTRA_NB_LOCAL_CTX` in tokens, 4096 by default. Raises ConfigError."""
    text = os.environ.get("MASTRA_NB_LOCAL_CTX", "").strip()
    if not text:
        return _CONTEXT
    if not text.isdecimal() or not 512 <= int(text) <= 1_000_000:
        raise ConfigError(
            f'MASTRA_NB_LOCAL_CTX is "{text}", which is not a number of tokens from 512 up',
            hint="Unset it, or set it to a number such as 8192.",
        )
    return int(text)


def load_server(path: Path, n_ctx: int) -> Server:
    """Raises MissingExtra and ModelError; takes seconds."""
    # Read by OpenMP when it is loaded: spinning threads starve a kernel on the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        import xllamacpp
    except ImportError as e:
        raise MissingExtra(
            'the model "local" needs "xllamacpp", which is not installed',
            hint='pip install "mastra-nb[local]"',
        ) from e
    threads = max(1, min(4, os.cpu_count() or 1))
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = SLOTS
    params.n_ctx = n_ctx * SLOTS
    params.kv_unified = False
    params.n_batch = params.n_ubatch = _BATCH
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cache_ram_mib = 0
    params.prefill_assistant = False
    params.warmup = False
    params.offline = True
    params.verbosity = -1
    # The engine cannot be had without its HTTP server: nobody but us may speak to it.
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [secrets.token_urlsafe(32)]
    params.cors_origins = "http://127.0.0.1"
    try:
        server: Server = xllamacpp.Server(params)
    except (RuntimeError, ValueError) as e:
        raise ModelError(
            f'the model file "{path.name}" could not be loaded: {e}',
            hint="Is it a complete GGUF file of a chat model, and is enough memory free?",
            code="model.local",
        ) from e
    return server


class Engine:
    def __init__(self, load: Callable[[], Server]) -> None:
        self._load = load
        self._server: Server | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mastra-nb-local")
        # By slot: digests of the message prefixes that it holds, in the order of evaluation.
        self._held: list[list[bytes]] = [[] for _ in range(SLOTS)]

    @property
    def loaded(self) -> bool:
        return self._server is not None

    def start(self) -> Future[Server]:
        """Loads the model if it is not loaded; fails as `load` does, and can be tried again."""
        return self._thread.submit(self._start)

    def submit(self, job: Job) -> Future[Outcome]:
        """Raises Halted, ModelError, ModelOutputError in the future."""
        return self._thread.submit(self._run, job)

    def _start(self) -> Server:
        if self._server is None:
            self._server = self._load()
        return self._server

    def _run(self, job: Job) -> Outcome:
        server = self._start()
        cached = self._prepare(server, job)
        if cached is None:
            self._held[job.slot].clear()
        body = {
            **job.options,
            "messages": job.messages,
            "cache_prompt": cached is not None,
            "id_slot": job.slot,
        }
        text, finish, last = _generate(server, body, job.stop, job.on_text)
        usage = last.get("usage") or {}
        prompt = int(usage.get("prompt_tokens", 0))
        return Outcome(
            text=text,
            finish=finish,
            prompt=prompt,
            cached=min(prompt, cached or 0),
            completion=int(usage.get("completion_tokens", 0)),
            raw=last,
        )

    def _prepare(self, server: Server, job: Job) -> int | None:
        """Bring the slot to the last cut; the tokens that it did not have to compute.

        None if nothing can be kept: no cuts, or a chat template that cannot show a part of a
        conversation.
        """
        if not job.cuts:
            return None
        held = self._held[job.slot]
        keys = [_digest(job.messages[:cut]) for cut in job.cuts]
        known = 0
        while known < min(len(keys), len(held)) and held[known] == keys[known]:
            known += 1
        del held[known:]
        cached = 0
        try:
            for n in range(known, len(keys)):
                if n:
                    count = self._evaluate(server, job, job.cuts[n - 1], keep=True)
                    cached = count if n == known else cached
                self._evaluate(server, job, job.cuts[n], keep=n > 0)
                held.append(keys[n])
            # Cuts the slot back to exactly this prefix: its last token is computed alone.
            count = self._evaluate(server, job, job.cuts[-1], keep=True)
        except _Refused:
            return None
        return count if known == len(keys) else cached

    def _evaluate(self, server: Server, job: Job, cut: int, *, keep: bool) -> int:
        body = {
            "messages": job.messages[:cut],
            "max_tokens": 0,
            "n_predict": 0,
            "temperature": 0,
            "add_generation_prompt": False,
            "cache_prompt": keep,
            "id_slot": job.slot,
        }
        _, _, last = _generate(server, body, job.stop, None)
        usage = last.get("usage") or {}
        return int((usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0))


class _Refused(ModelError):
    """The engine does not take this request."""


def _generate(
    server: Server,
    body: dict[str, Any],
    stop: threading.Event,
    on_text: Callable[[str], None] | None,
) -> tuple[str, str, dict[str, Any]]:
    """Text, finish reason and the last chunk that has a usage."""
    pieces: list[str] = []
    problem: list[dict[str, Any]] = []
    finish, last = "", {}
    halted = False

    def on_chunk(chunk: dict[str, Any]) -> bool:
        nonlocal finish, last, halted
        # Once the main thread is gone the interpreter waits for us and nobody for the answer.
        if stop.is_set() or not threading.main_thread().is_alive():
            halted = True
            return True
        if "error" in chunk:
            problem.append(chunk["error"])
            return False
        if chunk.get("usage"):
            last = chunk
        for choice in chunk.get("choices") or ():
            finish = choice.get("finish_reason") or finish
            piece = (choice.get("delta") or {}).get("content")
            if piece:
                pieces.append(piece)
                if on_text is not None:
                    on_text(piece)
        return False

    if stop.is_set():
        raise Halted
    request = {
        **body,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,
    }
    try:
        answer = server.handle_chat_completions(request, on_chunk)
    except (ValueError, RuntimeError) as e:
        raise _Refused(
            f"the embedded engine refused the request: {e}",
            hint="Is a JSON schema in it that this engine does not know? Try a simpler one.",
            code="model.local",
        ) from e
    if isinstance(answer, dict) and "error" in answer:
        problem.append(answer["error"])
    if problem:
        raise _error(problem[0])
    if halted or stop.is_set():
        raise Halted
    if not finish:
        raise ModelOutputError(
            "the embedded engine ended without an answer",
            hint="Run the cell again; if it stays so, restart the kernel.",
        )
    return "".join(pieces), finish, last


def _error(problem: dict[str, Any]) -> ModelError:
    if problem.get("type") == "exceed_context_size_error":
        return ModelError(
            f"the prompt has {problem.get('n_prompt_tokens', 'too many')} tokens, "
            f"the embedded model takes {problem.get('n_ctx', 'fewer')}",
            hint="Ask for less, start a new thread, or set MASTRA_NB_LOCAL_CTX to a larger number.",
            code="model.context_length",
        )
    return _Refused(
        f"the embedded engine failed: {problem.get('message', problem)}",
        hint="Run the cell again; if it stays so, restart the kernel.",
        code="model.local",
    )


def _digest(messages: Sequence[dict[str, str]]) -> bytes:
    return hashlib.sha256(msgspec.json.encode(messages)).digest()


_engines: dict[tuple[int, Path, int], Engine] = {}
_guard = threading.Lock()


def shared_engine(path: Path, n_ctx: int) -> Engine:
    """The engine of this file in this process: after a fork the parent's threads are gone."""
    key = (os.getpid(), path, n_ctx)
    with _guard:
        if key not in _engines:
            _engines[key] = Engine(lambda: load_server(path, n_ctx))
        return _engines[key]
