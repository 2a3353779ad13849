"""Serving: one process, one loop, until it is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from mastra_nb.app import Mastra
from mastra_nb.config import Secret, get_logger, secret
from mastra_nb.errors import ConfigError, MissingExtra, StorageError
from mastra_nb.server.application import create_app
from mastra_nb.server.options import ServerOptions

try:
    import uvicorn
except ModuleNotFoundError as error:
    raise MissingExtra("a server needs uvicorn", hint='pip install "mastra-nb[server]"') from error

TOKEN = "MASTRA_NB_SERVER_TOKEN"  # noqa: S105 (the name of a variable)
PORT = 4111  # Mastra's
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_loopback(host: str) -> bool:
    return host in _LOOPBACK


def default_options(**changes: Any) -> ServerOptions:
    """With the token of the environment or `.env`, or else one made for now."""
    token = secret(TOKEN) or Secret(secrets.token_urlsafe(24))
    return ServerOptions(**{"token": token, **changes})


class Server:
    """An application at an address; `port` 0 takes a free one. `async with`, or `start` and `stop`.

    Raises ConfigError for an address beyond this machine without anything that asks who is there.
    """

    def __init__(
        self,
        app: Mastra,
        *,
        host: str = "127.0.0.1",
        port: int = PORT,
        options: ServerOptions | None = None,
    ) -> None:
        self.app = app
        self.host = host
        self.port = port
        self.options = options or default_options()
        if not is_loopback(host) and not self.options.protected:
            raise ConfigError(
                f'"{host}" can be reached by others, and no token is asked for',
                hint=f"set {TOKEN}, or serve on 127.0.0.1",
            )
        self._running: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{'localhost' if self.host in ('0.0.0.0', '::') else host}:{self.port}"  # noqa: S104

    def _made(self) -> _Uvicorn:
        gate = self._gate()
        return _Uvicorn(self._config(gate), gate.live.drain, self.options.drain)

    def _gate(self) -> Any:
        # Who binds to all addresses is reached by names that are not known here.
        hosts = [self.host] if is_loopback(self.host) else [self.host, *_names(self.options)]
        return create_app(self.app, options=self.options, hosts=hosts)

    def _config(self, app: Any) -> uvicorn.Config:
        return uvicorn.Config(
            app,
            host=self.host,
            port=self.port,
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            timeout_keep_alive=30,
            h11_max_incomplete_event_size=64_000,
            timeout_graceful_shutdown=round(self.options.drain) + 5,
        )

    async def start(self) -> Server:
        """Raises StorageError if the port is taken."""
        bound = self._bind()
        self._running = self._made()
        self._task = asyncio.create_task(self._running.serve(sockets=[bound]))
        await self._running.up.wait()
        if not self._running.started:
            await self._task
            raise ConfigError("the server did not start", hint="see the log")
        return self

    async def stop(self) -> None:
        """Take no more requests, let runs end for `options.drain` seconds, and leave the rest."""
        if self._running is None or self._task is None:
            return
        self._running.should_exit = True
        await self._task
        self._running = self._task = None

    async def __aenter__(self) -> Server:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((self.host, self.port))
        except OSError as error:
            bound.close()
            raise StorageError(
                f"nothing can be served on {self.host}:{self.port}: {error.strerror}",
                code="server.address",
                hint="another server has the port: stop it, or take another with --port",
            ) from None
        self.port = bound.getsockname()[1]
        return bound

    def run(self, *, ready: Callable[[Server], None] | None = None) -> None:
        """Serve until SIGTERM or an interrupt; `ready` is told when requests are taken."""

        async def serve() -> None:
            bound = self._bind()
            running = self._made()
            task = asyncio.create_task(running.serve(sockets=[bound]))
            with running.signals():
                await running.up.wait()
                if ready is not None and running.started:
                    ready(self)
                await task

        asyncio.run(serve())


class _Uvicorn(uvicorn.Server):
    """Signals are ours: in a kernel an interrupt is for the cell, not for the server in it. When it
    is told to end, runs are: their readers then have nothing to wait for.
    """

    def __init__(
        self, config: uvicorn.Config, drain: Callable[[float], Awaitable[int]], seconds: float
    ) -> None:
        super().__init__(config)
        self._drain = drain
        self._seconds = seconds
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        finally:
            self.up.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.gather(super().shutdown(sockets), self._drain(self._seconds))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        with super().capture_signals():
            try:
                yield
            finally:
                # Being told to end is how a server ends: it is not raised again.
                self._captured_signals.clear()


def _names(options: ServerOptions) -> list[str]:
    """A server for others names its hosts; one that names none, and asks for a token, takes any."""
    return [*options.hosts] or ["*"]


def serve(
    app: Mastra,
    *,
    host: str = "127.0.0.1",
    port: int = PORT,
    options: ServerOptions | None = None,
    ready: Callable[[Server], None] | None = None,
) -> None:
    """Serve `app` until SIGTERM or an interrupt. Blocks."""
    server = Server(app, host=host, port=port, options=options)
    try:
        server.run(ready=ready)
    finally:
        get_logger("mastra_nb.server").debug("the server has ended")
