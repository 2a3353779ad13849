"""Connections and gates, shared by all requests of one event loop."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import ssl
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TYPE_CHECKING

from mastra_nb.config import RateLimit
from mastra_nb.http.gate import Gate, Rate
from mastra_nb.http.transports import Httpx, Transport

if TYPE_CHECKING:
    import httpx

_PROXY_NAMES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


class _Loop:
    """What the requests of one event loop share."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.transports: dict[object, Transport] = {}
        self.gates: dict[tuple[str, ...], Gate] = {}
        self._guard = self._watch(loop)
        with contextlib.suppress(StopIteration):
            # Its first step waits for nothing and registers it with the loop, which closes all
            # asynchronous generators before it ends: the one moment to close sockets in peace.
            self._guard.__anext__().send(None)

    async def _watch(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            _loops.pop(loop, None)
            await self.close()

    def find(self, key: object, make: Callable[[], Transport]) -> Transport:
        found = self.transports.get(key)
        if found is None:
            found = self.transports[key] = make()
        return found

    async def close(self) -> None:
        while self.transports:
            _, transport = self.transports.popitem()
            await transport.aclose()


_loops: dict[asyncio.AbstractEventLoop, _Loop] = {}
_inherited: list[_Loop] = []


def _after_fork() -> None:
    """Keep the parent's transports: closing their sockets would say goodbye in its name."""
    global _lock
    _lock = threading.Lock()
    _inherited.extend(_loops.values())
    _loops.clear()


def _bury(loop: asyncio.AbstractEventLoop) -> None:
    """Close the transports of a loop that does not run any more."""
    closing = _loops.pop(loop).close()
    if not loop.is_closed():
        loop.run_until_complete(closing)
        return
    # On a closed loop there is no socket left to wait for: one step does it, and httpx's own
    # transport complains that it cannot say goodbye.
    with contextlib.suppress(StopIteration, RuntimeError):
        closing.send(None)


def _at_exit() -> None:
    for loop in [loop for loop in _loops if not loop.is_running()]:
        _bury(loop)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)


def _state() -> _Loop:
    loop = asyncio.get_running_loop()
    state = _loops.get(loop)
    if state is None:
        for old in [old for old in _loops if old.is_closed()]:
            _bury(old)
        state = _loops[loop] = _Loop(loop)
    return state


def gate(*key: str) -> Gate:
    """The gate that requests of this loop with the same key share."""
    gates = _state().gates
    found = gates.get(key)
    if found is None:
        found = gates[key] = Gate()
    return found


_rates: dict[tuple[str, ...], Rate] = {}


def rate(name: str, base_url: str, limits: Mapping[str, RateLimit]) -> Rate | None:
    """What is configured for the model "provider/name", or for its provider, at that address."""
    if not limits:
        return None
    key = next((k for k in (name, name.partition("/")[0]) if k in limits), None)
    if key is None:
        return None
    with _lock:
        found = _rates.get((key, base_url))
        if found is None or found.limit != limits[key]:
            found = _rates[(key, base_url)] = Rate(limits[key])
        return found


_theirs: httpx.AsyncBaseTransport | None = None


def use_transport(transport: httpx.AsyncBaseTransport | None) -> None:
    """Send all requests to models by a transport of httpx's, such as one with a client
    certificate, or `httpx.MockTransport`; None: by ours again. Who made it closes it.
    """
    global _theirs
    _theirs = transport


def transport(url: str) -> Transport:
    """How to send to `url`: by the user's transport, by a proxy, or directly."""
    state, theirs, get = _state(), _theirs, os.environ.get
    if theirs is not None:
        return state.find(("theirs", id(theirs)), lambda: Httpx(tls_context, transport=theirs))
    # A proxy set in a later cell counts from then on.
    proxies = tuple(filter(None, map(get, _PROXY_NAMES)))
    if proxies and not _bypassed(url):
        key = (*proxies, get("NO_PROXY"), get("no_proxy"))
        return state.find(key, lambda: Httpx(tls_context))
    return state.find("direct", _direct)


def _bypassed(url: str) -> bool:
    import urllib.request

    host = urllib.parse.urlsplit(url).hostname or ""
    return bool(urllib.request.proxy_bypass(host))


def _direct() -> Transport:
    try:
        from mastra_nb.http.direct import Direct
    except ImportError:
        return Httpx(tls_context, environment=False)
    return Direct(tls_context)


_lock = threading.Lock()
_context: ssl.SSLContext | None = None


def tls_context() -> ssl.SSLContext:
    """Reading the certificates takes 20 ms: once for a process, by whichever thread is first."""
    global _context
    with _lock:
        if _context is None:
            import certifi

            cafile, capath = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
            _context = ssl.create_default_context(
                cafile=cafile or (None if capath else certifi.where()), capath=capath
            )
        return _context
