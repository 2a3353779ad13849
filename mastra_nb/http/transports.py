"""How a request travels, in the terms of httpx wherever a user has a say.

The plain case, a server that is reached without a proxy, has nothing to configure and goes by
`direct`. A proxy of the environment, or a transport of the user's own, is httpx's business.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import ssl

    import httpx

CONNECTIONS = 1000
KEEPALIVE = 30.0  # seconds
MAX_ANSWER = 100_000_000  # bytes


class TransportError(Exception):
    """The server was not reached, or the connection broke."""


class StaleConnection(TransportError):
    """A connection that was used before was closed without a byte of an answer: most likely the
    server had given it up as idle, but it may have read the request.
    """


class Raw(Protocol):
    """A response that has started; `aclose` before its end closes the connection."""

    @property
    def status_code(self) -> int: ...

    @property
    def reason_phrase(self) -> str: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """By names in lower case."""

    @property
    def ended(self) -> bool:
        """All of it is here."""

    async def read(self) -> bytes:
        """The next bytes of the body, b"" after the last."""

    async def aclose(self) -> None: ...


class Transport(Protocol):
    async def send(
        self, method: str, url: str, headers: dict[str, str], body: bytes, *, connect: float
    ) -> Raw:
        """`connect` is in seconds; nothing else is timed here. Raises `transport_errors()`."""

    async def aclose(self) -> None: ...


class _HttpxResponse:
    def __init__(self, response: httpx.Response) -> None:
        self.status_code = response.status_code
        self.reason_phrase = response.reason_phrase
        self.headers: Mapping[str, str] = response.headers
        self.ended = False
        self._pieces: AsyncIterator[bytes] = response.aiter_bytes()
        self.aclose = response.aclose

    async def read(self) -> bytes:
        async for piece in self._pieces:
            if piece:
                return piece
        self.ended = True
        return b""


class Httpx:
    """For a proxy, for a transport of the user's own, and where httptools is not installed."""

    def __init__(
        self,
        tls: Callable[[], ssl.SSLContext],
        *,
        environment: bool = True,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        import httpx

        self._theirs = transport
        self._client: httpx.AsyncClient | None = None
        if transport is None:
            limits = httpx.Limits(
                max_connections=CONNECTIONS,
                max_keepalive_connections=CONNECTIONS,
                keepalive_expiry=KEEPALIVE,
            )
            # Only the client knows which proxy of the environment is for which host.
            self._client = httpx.AsyncClient(verify=tls(), limits=limits, trust_env=environment)

    async def send(
        self, method: str, url: str, headers: dict[str, str], body: bytes, *, connect: float
    ) -> Raw:
        import httpx

        request = httpx.Request(
            method,
            url,
            headers=headers,
            content=body,
            extensions={"timeout": {"connect": connect}},
        )
        if self._client is not None:
            response = await self._client.send(request, stream=True, follow_redirects=False)
        else:
            assert self._theirs is not None
            response = await self._theirs.handle_async_request(request)
            response.request = request
        return _HttpxResponse(response)

    async def aclose(self) -> None:
        """The user's own transport is the user's to close."""
        if self._client is not None:
            await self._client.aclose()


def transport_errors() -> tuple[type[BaseException], ...]:
    """What a transport that is in use may raise."""
    if (httpx := sys.modules.get("httpx")) is not None:
        return (TransportError, httpx.TransportError, httpx.DecodingError)
    return (TransportError,)
