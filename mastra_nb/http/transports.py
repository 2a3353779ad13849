"""How a request travels: by aiohttp where that can, by httpx where it cannot.

Both are spoken to below their conveniences: redirects, cookies and hooks would double the cost of
a call. aiohttp is not put behind httpx either: building httpx's requests and responses took a
fifth of the CPU of a run, and importing both 100 ms and 7 MB more at the first request.
"""

from __future__ import annotations

import functools
import ssl
import sys
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import aiohttp
    import httpx

CONNECTIONS = 1000
KEEPALIVE = 30.0


class Raw(Protocol):
    """A response that has started. `aiter_bytes` is iterated once; `aclose` before its end closes
    the connection.
    """

    @property
    def status_code(self) -> int: ...

    @property
    def reason_phrase(self) -> str: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def ended(self) -> bool:
        """All of it is here and was read."""

    def aiter_bytes(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


class Transport(Protocol):
    async def send(
        self, method: str, url: str, headers: dict[str, str], body: bytes, *, connect: float
    ) -> Raw:
        """`connect` is in seconds; nothing else is timed here. Raises `transport_errors()`."""

    async def aclose(self) -> None: ...


class _Response:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status_code = response.status
        self.reason_phrase = response.reason or ""
        self.headers: Mapping[str, str] = response.headers
        self._response = response

    @property
    def ended(self) -> bool:
        return self._response.content.at_eof()

    def aiter_bytes(self) -> AsyncIterator[bytes]:
        return self._response.content.iter_any()

    async def aclose(self) -> None:
        self._response.release()
        await self._response.wait_for_close()


class Aiohttp:
    """`environment`: whether proxies of the environment count. It knows HTTP proxies only."""

    def __init__(self, context: ssl.SSLContext, *, environment: bool) -> None:
        import aiohttp

        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=CONNECTIONS, ssl=context, keepalive_timeout=KEEPALIVE
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=environment,
        )

    async def send(
        self, method: str, url: str, headers: dict[str, str], body: bytes, *, connect: float
    ) -> Raw:
        response = await self._session.request(
            method,
            url,
            headers=headers,
            data=body or None,
            allow_redirects=False,
            timeout=_timeout(connect),
        )
        return _Response(response)

    async def aclose(self) -> None:
        await self._session.close()


@functools.lru_cache
def _timeout(connect: float) -> aiohttp.ClientTimeout:
    import aiohttp

    return aiohttp.ClientTimeout(sock_connect=connect)


class _HttpxResponse:
    def __init__(self, response: httpx.Response) -> None:
        self.status_code = response.status_code
        self.reason_phrase = response.reason_phrase
        self.headers: Mapping[str, str] = response.headers
        self.aiter_bytes = response.aiter_bytes
        self.aclose = response.aclose
        self.ended = False


class Httpx:
    """Without aiohttp, or with proxies that only httpx knows."""

    def __init__(self, context: ssl.SSLContext, *, environment: bool) -> None:
        import httpx

        limits = httpx.Limits(
            max_connections=CONNECTIONS,
            max_keepalive_connections=CONNECTIONS,
            keepalive_expiry=KEEPALIVE,
        )
        # Only the client knows which proxy of the environment is for which host.
        self._carrier: httpx.AsyncClient | httpx.AsyncHTTPTransport = (
            httpx.AsyncClient(verify=context, limits=limits)
            if environment
            else httpx.AsyncHTTPTransport(verify=context, limits=limits, trust_env=False)
        )

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
        if isinstance(self._carrier, httpx.AsyncClient):
            response = await self._carrier.send(request, stream=True, follow_redirects=False)
        else:
            response = await self._carrier.handle_async_request(request)
        return _HttpxResponse(response)

    async def aclose(self) -> None:
        await self._carrier.aclose()


def transport_errors() -> tuple[type[BaseException], ...]:
    """What a transport that is in use may raise."""
    found: list[type[BaseException]] = []
    if (aiohttp := sys.modules.get("aiohttp")) is not None:
        found.append(aiohttp.ClientError)
    if (httpx := sys.modules.get("httpx")) is not None:
        found.append(httpx.TransportError)
    return tuple(found)
