"""One connection to an MCP server, owned by one task on the portal's loop.

The scopes inside the SDK must be entered and left in the same task; so that a connection can be
opened in one cell and closed in another, and used from several loops and threads, everything
that touches it runs on the portal's loop.
"""

from __future__ import annotations

import asyncio
import atexit
import collections
import contextlib
import functools
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mastra_nb import portal
from mastra_nb.config import get_logger, redact
from mastra_nb.context import Context
from mastra_nb.errors import (
    MissingExtra,
    Suspend,
    ToolError,
    ToolTimeout,
)
from mastra_nb.mcp.failures import CLOSED, Trouble, innermost
from mastra_nb.mcp.servers import Server, Stdio, plain, revealed
from mastra_nb.tools import in_thread

if TYPE_CHECKING:
    import mcp
    import mcp_types

T = TypeVar("T")

BACKOFF = 0.5
MOST_BACKOFF = 8.0
CLOSE_SECONDS = 15.0  # the SDK's own patience with a process that will not go is about 8
LAST_WORDS_SECONDS = 0.5
MAX_PAGES = 100


class _Redacted(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), None
        return True


# The SDK logs what a server does wrong with tracebacks; our errors say it. A handler of the
# user's still gets them, and the URLs that are asked, without the keys in them.
logging.getLogger("mcp").addHandler(logging.NullHandler())
logging.getLogger("client").addHandler(logging.NullHandler())
for _name in ("httpx2", "mcp.client.streamable_http"):
    logging.getLogger(_name).addFilter(_Redacted())


def need_sdk() -> None:
    """Raises MissingExtra."""
    if find_spec("mcp") is None:
        raise MissingExtra("MCP needs its SDK", hint='pip install "mastra-nb[mcp]"')


async def on_portal(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Await `work()` on the portal's loop; cancelling this cancels that."""
    loop = portal.loop()
    if asyncio.get_running_loop() is loop:
        return await work()
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work(), loop))


class Call:
    """A request on its way. `ctx` is that of the run it belongs to, if any."""

    def __init__(self, ctx: Context | None, tool: str = "") -> None:
        self.ctx = ctx
        self.tool = tool
        self.clock: asyncio.Timeout | None = None
        self.task: asyncio.Task[Any] | None = None
        self.suspend: Suspend | None = None

    async def wait(self, answer: Awaitable[T]) -> T:
        """What a person is asked may take as long as it takes."""
        clock, loop = self.clock, asyncio.get_running_loop()
        left = clock.when() if clock is not None else None
        left = left - loop.time() if left is not None else None
        if clock is not None and left is not None:
            clock.reschedule(None)
        try:
            return await answer
        finally:
            if clock is not None and left is not None:
                clock.reschedule(loop.time() + left)


class Handlers:
    """What a connection asks of the client that it belongs to."""

    elicit: Callable[[Connection, Call | None, Any], Awaitable[Any]] | None = None
    sample: Callable[[Any], Awaitable[Any]] | None = None
    roots: Callable[[], Any] | None = None


_current: ContextVar[Call | None] = ContextVar("mastra_nb_mcp_call", default=None)


class Connection:
    """Opened by the first use, opened again by the use after it was lost."""

    def __init__(self, name: str, server: Server, handlers: Handlers) -> None:
        self.name = name
        self.server = server
        self.calls: set[Call] = set()
        self._handlers = handlers
        self._trouble = Trouble(name, server)
        self._forget()

    def _forget(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._owner: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[mcp.Client] | None = None
        self._end: asyncio.Event | None = None
        self._tools: list[mcp_types.Tool] | None = None
        self._stopped = False
        self._listener: threading.Thread | None = None
        self._failures = 0
        self._trouble.forget()

    @property
    def is_open(self) -> bool:
        return self._owner is not None and not self._owner.done()

    # --- used from anywhere -----------------------------------------------------------------

    async def tools(self) -> list[mcp_types.Tool]:
        async def listed(client: mcp.Client) -> list[mcp_types.Tool]:
            if self._tools is None or client.protocol_version >= "2026":
                # The newer revision says how long a list holds, and the SDK keeps it that long.
                self._tools = await pages(client.list_tools, "tools")
            return self._tools

        return await self.request("tools/list", listed)

    async def request(
        self,
        what: str,
        send: Callable[[mcp.Client], Awaitable[T]],
        *,
        call: Call | None = None,
        timeout: float | None = None,
    ) -> T:
        """Raises ToolTimeout, ToolArgsError, ToolFailed, ToolError; Suspend where a person has
        to be asked first.
        """
        call = call or Call(None)
        work = functools.partial(self._request, what, send, call, timeout)
        found = await on_portal(work)
        if call.suspend is not None:
            raise call.suspend
        assert found is not None
        return found[0]

    async def close(self) -> None:
        await on_portal(self._close)

    def close_soon(self) -> None:
        """Without waiting, from any thread; a garbage collector may call it."""
        loop, end = self._loop, self._end
        if loop is not None and end is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(end.set)

    # --- on the portal's loop ---------------------------------------------------------------

    async def _request(
        self,
        what: str,
        send: Callable[[mcp.Client], Awaitable[T]],
        call: Call,
        timeout: float | None,
    ) -> tuple[T] | None:
        for again in (True, False):
            client = await self._open()
            if call.ctx is not None:
                timeout = timeout or call.ctx.services.settings.tool_timeout
            call.task = asyncio.current_task()
            self.calls.add(call)
            token = _current.set(call)
            try:
                async with asyncio.timeout(timeout or 60.0) as call.clock:
                    return (await send(client),)
            except TimeoutError as error:
                raise self._trouble.late(what, timeout or 60.0) from error
            except asyncio.CancelledError:
                if call.suspend is None:
                    raise
                return None
            except Exception as error:
                code = getattr(getattr(error, "error", None), "code", None)
                if code is None:
                    raise self._trouble.odd(what, error) from error
                if self._trouble.status == 404 and again and not _is_modern(self._ready):
                    # The server forgot the session and did nothing: a new one is safe.
                    await self._close()
                    continue
                lost = code == CLOSED or (self._end is not None and self._end.is_set())
                if lost and self._owner is not None:
                    await asyncio.wait([self._owner], timeout=5.0)
                    await self._last_words()
                raise self._trouble.refused(what, code, error, lost=lost) from None
            finally:
                _current.reset(token)
                self.calls.discard(call)
        raise AssertionError

    async def _open(self) -> mcp.Client:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # A forked child: the connection is its parent's.
            self._forget()
            self._loop = loop
        if self._end is not None and self._end.is_set() and self._owner is not None:
            await asyncio.wait([self._owner], timeout=CLOSE_SECONDS)
        if not self.is_open:
            self._start(loop)
        assert self._ready is not None
        wait = asyncio.shield(self._ready)
        try:
            async with asyncio.timeout(self.server.connect_timeout):
                return await wait
        except TimeoutError:
            self._stop()
            self._failures += 1
            raise ToolTimeout(
                f'MCP server "{self.name}" did not start within {self.server.connect_timeout:g} s',
                hint=self._trouble.hint("raise connect_timeout=…, or look what it waits for"),
                code="mcp.connect_timeout",
            ) from None

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._ready = loop.create_future()
        # Somebody may have given up waiting for it.
        self._ready.add_done_callback(lambda f: f.cancelled() or f.exception())
        self._end = asyncio.Event()
        self._stopped = False
        self._listener = None
        self._tools = None
        self._trouble.forget()
        delay = min(BACKOFF * 2 ** (self._failures - 1), MOST_BACKOFF) if self._failures else 0.0
        self._owner = loop.create_task(
            self._own(self._ready, self._end, delay), name=f"mastra_nb-mcp-{self.name}"
        )
        _open_connections.add(self)

    async def _own(
        self, ready: asyncio.Future[mcp.Client], end: asyncio.Event, delay: float
    ) -> None:
        try:
            await asyncio.sleep(delay)
            await in_thread(_import_sdk)
            async with contextlib.AsyncExitStack() as stack:
                client = await stack.enter_async_context(await self._client(stack, end))
                self._check(client.protocol_version)
                self._failures = 0
                if not ready.done():
                    ready.set_result(client)
                await end.wait()
        except BaseException as error:
            self._trouble.why = innermost(error)
            await self._last_words()
            if not ready.done():
                self._failures += 1
                ready.set_exception(self._trouble.no_start(self._trouble.why))
        finally:
            end.set()
            _open_connections.discard(self)

    async def _last_words(self) -> None:
        """They come through another pipe than the end of the messages."""
        until = time.monotonic() + LAST_WORDS_SECONDS
        while self._listener is not None and self._listener.is_alive():
            if time.monotonic() > until:
                return  # a child of the server holds the pipe open
            await asyncio.sleep(0.005)

    def _check(self, protocol: str) -> None:
        wanted = self.server.protocol
        if wanted == "2026-07-28" and protocol != wanted:
            raise ToolError(
                f'MCP server "{self.name}" speaks the protocol of {protocol}, not of {wanted}',
                hint="leave protocol= out",
                code="mcp.protocol",
            )

    async def _client(self, stack: contextlib.AsyncExitStack, end: asyncio.Event) -> mcp.Client:
        import mcp
        from mcp_types import Implementation

        handlers, server = self._handlers, self.server
        transport = self._stdio(stack) if isinstance(server, Stdio) else await self._http(stack)
        return mcp.Client(
            _watched(transport, end, lambda: _is_modern(self._ready)),
            mode="legacy" if server.protocol == "2025-11-25" else "auto",
            client_info=Implementation(name="mastra_nb", version=_version()),
            elicitation_callback=self._elicit if handlers.elicit else None,
            sampling_callback=self._sample if handlers.sample else None,
            list_roots_callback=self._roots if handlers.roots else None,
            logging_callback=self._log,
            log_level="info",
            message_handler=self._heard,
        )

    def _stdio(self, stack: contextlib.AsyncExitStack) -> Any:
        from mcp.client.stdio import StdioServerParameters, stdio_client

        server = self.server
        assert isinstance(server, Stdio)
        if shutil.which(server.command) is None and not Path(server.command).exists():
            raise FileNotFoundError(server.command)
        reading, writing = os.pipe()
        errlog = stack.enter_context(os.fdopen(writing, "w"))
        self._listener = threading.Thread(
            target=_drain,
            args=(reading, self._trouble.stderr),
            name="mastra-nb-mcp-stderr",
            daemon=True,
        )
        self._listener.start()
        return stdio_client(
            StdioServerParameters(
                command=server.command,
                args=[plain(a) for a in server.args],
                env=revealed(server.env),
                cwd=server.cwd,
                encoding_error_handler="replace",
            ),
            errlog,
        )

    async def _http(self, stack: contextlib.AsyncExitStack) -> Any:
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        server = self.server
        assert not isinstance(server, Stdio)

        async def note(response: Any) -> None:
            self._trouble.status = response.status_code

        http = httpx2.AsyncClient(
            headers=revealed(server.headers),
            timeout=httpx2.Timeout(30.0, read=None),
            auth=server.auth,
            event_hooks={"response": [note]},
        )
        return streamable_http_client(server.url, http_client=await stack.enter_async_context(http))

    async def _close(self) -> None:
        if self._loop is not asyncio.get_running_loop() or self._owner is None:
            return
        assert self._end is not None
        self._end.set()
        if self._ready is not None and not self._ready.done():
            self._stop()
        _, pending = await asyncio.wait([self._owner], timeout=CLOSE_SECONDS)
        if pending:
            get_logger("mastra_nb.mcp").warning(
                'MCP server "%s" does not end; it was given up', self.name
            )

    def _stop(self) -> None:
        # Once: a second cancellation would cut off the SDK's own shutdown, and leave a process
        # that nobody ends and a reader that waits for it.
        if self._owner is not None and not self._stopped:
            self._stopped = True
            self._owner.cancel()

    # --- what the server says ---------------------------------------------------------------

    def asking(self) -> Call | None:
        """The call that a request of the server belongs to: the protocol before 2026 does not
        say, so it is known where there is one only.
        """
        call = _current.get()
        if call is None and len(self.calls) == 1:
            (call,) = self.calls
        return call

    async def _elicit(self, context: Any, params: Any) -> Any:
        assert self._handlers.elicit is not None
        return await self._handlers.elicit(self, self.asking(), params)

    async def _sample(self, context: Any, params: Any) -> Any:
        assert self._handlers.sample is not None
        return await self._handlers.sample(params)

    async def _roots(self, context: Any) -> Any:
        assert self._handlers.roots is not None
        return self._handlers.roots()

    async def _log(self, params: Any) -> None:
        from mastra_nb.events import Noted

        text = params.data if isinstance(params.data, str) else repr(params.data)
        text = f"{self.name}: {redact(text)}"
        level = _LEVELS.get(params.level, "error")
        runs = {id(c.ctx.run): c.ctx for c in self.calls if c.ctx is not None}
        if len(runs) == 1 and len(self.calls) == 1:
            (ctx,) = runs.values()
            ctx.emit(Noted(level=level, text=text))  # type: ignore[arg-type]
        else:
            get_logger("mastra_nb.mcp").log(getattr(logging, level.upper()), "%s", text)

    async def _heard(self, message: Any) -> None:
        if isinstance(message, Exception):
            self._trouble.heard(message)
        elif getattr(message, "method", "") == "notifications/tools/list_changed":
            self._tools = None


_LEVELS = {"debug": "debug", "info": "info", "notice": "info", "warning": "warning"}


async def pages(list_: Callable[..., Awaitable[Any]], field: str) -> list[Any]:
    """All items of a paginated list; a server that pages for ever is cut off."""
    out: list[Any] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await list_(cursor=cursor)
        out += getattr(page, field)
        cursor = page.next_cursor
        if not cursor:
            break
    return out


@contextlib.asynccontextmanager
async def _watched(
    transport: Any, lost: asyncio.Event, modern: Callable[[], bool]
) -> AsyncIterator[Any]:
    async with transport as (read, write):
        yield _Watched(read, lost, modern), write


def _is_modern(ready: asyncio.Future[mcp.Client] | None) -> bool:
    return ready is not None and ready.done() and ready.result().protocol_version >= "2026"


class _Watched:
    """A stream of messages that says when it ended, and in which a result without a type is a
    complete one, as the protocol has it: the SDK does neither.
    """

    def __init__(self, stream: Any, lost: asyncio.Event, modern: Callable[[], bool]) -> None:
        self._stream = stream
        self._lost = lost
        self._modern = modern

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __aiter__(self) -> _Watched:
        return self

    async def __anext__(self) -> Any:
        try:
            item = await self._stream.__anext__()
        except StopAsyncIteration:
            self._lost.set()
            raise
        result = getattr(getattr(item, "message", None), "result", None)
        if isinstance(result, dict) and "resultType" not in result and self._modern():
            result["resultType"] = "complete"
        return item

    async def receive(self) -> Any:
        return await self._stream.receive()

    async def __aenter__(self) -> _Watched:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        return await self._stream.__aexit__(*error)


def _drain(reading: int, lines: collections.deque[str]) -> None:
    with os.fdopen(reading, "rb") as pipe:
        for line in iter(lambda: pipe.readline(4096), b""):
            if text := line.decode(errors="replace").strip():
                lines.append(text)


def _version() -> str:
    # The package itself is above all rows.
    return str(getattr(sys.modules["mastra_nb"], "__version__", ""))


def _import_sdk() -> None:
    import mcp.client.stdio
    import mcp.client.streamable_http  # noqa: F401


# At exit the portal would stop under them: processes are ended first, hung ones by force.
_open_connections: set[Connection] = set()
_EXIT_SECONDS = 8.0


def _at_exit() -> None:
    if not _open_connections:
        return

    async def close_all() -> None:
        left = [c for c in _open_connections if c._loop is asyncio.get_running_loop()]
        await asyncio.wait_for(
            asyncio.gather(*(c._close() for c in left), return_exceptions=True), _EXIT_SECONDS
        )

    with contextlib.suppress(Exception):
        portal.run(close_all())


# Registered after the portal's own, so called before it.
atexit.register(_at_exit)
