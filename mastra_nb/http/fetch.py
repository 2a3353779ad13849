"""A page by its address, where somebody else may have chosen the address.

Requests to models go where the user configured; what is fetched is named by a document, a model or
a redirect. So only public addresses are reached: the name is resolved here, every answer of the
resolver is checked, and the connection goes to an address that was checked. Proxies of the
environment are not used, because then another machine would resolve the name.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import urllib.parse
from collections.abc import Iterable, Sequence

import msgspec

from mastra_nb.errors import ConfigError, MissingExtra, ToolError
from mastra_nb.http.pool import tls_context
from mastra_nb.http.transports import Raw, transport_errors

MAX_BYTES = 20_000_000
_REDIRECTS = 5
_REDIRECT = frozenset({301, 302, 303, 307, 308})
_CHARSET = re.compile(r"charset=[\"']?([A-Za-z0-9_.:-]{1,40})", re.IGNORECASE)

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# What Python calls global and still leads inside: IPv4 in other clothes (6to4, Teredo, NAT64 and
# its local prefix, IPv4-compatible, -mapped and -translated), site-local, and the addresses at
# which clouds hand out their keys.
_NEVER = tuple(
    map(
        ipaddress.ip_network,
        (
            "2002::/16", "2001::/32", "64:ff9b::/96", "64:ff9b:1::/48", "::/96", "::ffff:0:0/96",
            "::ffff:0:0:0/96", "fec0::/10", "fc00::/7", "fe80::/10", "ff00::/8", "100::/64",
            "2001:db8::/32", "3fff::/20", "5f00::/16",
            "0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15",
            "224.0.0.0/3", "168.63.129.16/32",
        ),
    )
)  # fmt: skip


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """`url` is where the redirects led; `charset` is what the server says, "" if nothing."""

    url: str
    media_type: str
    charset: str
    body: bytes


async def fetch(
    url: str,
    *,
    max_bytes: int = MAX_BYTES,
    seconds: float = 30.0,
    allow_hosts: Iterable[str] = (),
    media_types: Sequence[str] = (),
) -> Page:
    """GET `url`. `seconds` and `max_bytes` (unpacked) are for all of it; `allow_hosts` are names
    or addresses that may be private; `media_types` are beginnings of those that are wanted.

    Raises ToolError (code "fetch.blocked", "fetch.too_large", "fetch.timeout", "fetch.type",
    "fetch.status", "fetch.failed"), ConfigError for what is no address.
    """
    allowed = frozenset(h.strip("[]").lower().rstrip(".") for h in allow_hosts)
    shown = _shown(url)
    try:
        async with asyncio.timeout(seconds) as watch:
            for _ in range(_REDIRECTS + 1):
                found = await _get(url, allowed, max_bytes, media_types)
                if isinstance(found, Page):
                    return found
                if url.lower().startswith("https:") and not found.lower().startswith("https:"):
                    raise ToolError(
                        f'"{shown}" redirects from https to another scheme', code="fetch.blocked"
                    )
                url = found
    except TimeoutError:
        if not watch.expired():
            raise
        raise ToolError(
            f'"{shown}" was not there within {seconds:g} s', code="fetch.timeout"
        ) from None
    raise ToolError(f'"{shown}" redirects more than {_REDIRECTS} times', code="fetch.failed")


async def _get(
    url: str, allowed: frozenset[str], most: int, media_types: Sequence[str]
) -> Page | str:
    """The page, or where it redirects to."""
    try:
        from mastra_nb.http.direct import Direct
    except ImportError:
        raise MissingExtra("fetching needs httptools", hint="pip install httptools") from None

    async def public(host: str, port: int) -> str:
        return await _public_address(host, port, allowed)

    _check(url)
    shown = _shown(url)
    direct = Direct(tls_context, resolve=public)
    headers = {
        "user-agent": "mastra-nb",
        "accept": "text/html, text/*;q=0.9, */*;q=0.5",
        "accept-encoding": "gzip, deflate",
        "connection": "close",
    }
    try:
        raw = await direct.send("GET", url, headers, b"", connect=10.0)
        status = raw.status_code
        if status in _REDIRECT and (to := raw.headers.get("location")):
            return urllib.parse.urljoin(url, to)
        if not 200 <= status < 300:
            raise ToolError(f'"{shown}" answered {status}', code="fetch.status")
        said = raw.headers.get("content-type", "")
        kind = said.partition(";")[0].strip().lower() or "application/octet-stream"
        if media_types and not kind.startswith(tuple(media_types)):
            raise ToolError(f'"{shown}" is {kind[:100]}, which is not read', code="fetch.type")
        body = await _body(raw, most, shown)
    except transport_errors() as error:
        why = str(error)[:300] or type(error).__name__
        raise ToolError(f'"{shown}" cannot be fetched: {why}', code="fetch.failed") from None
    finally:
        await direct.aclose()
    charset = _CHARSET.search(said)
    return Page(url=url, media_type=kind, charset=charset[1] if charset else "", body=body)


async def _body(raw: Raw, most: int, shown: str) -> bytes:
    length = raw.headers.get("content-length", "")
    size = int(length) if length.isdecimal() and len(length) < 20 else 0
    pieces: list[bytes] = []
    if size <= most:
        size = 0
        while size <= most and (piece := await raw.read()):
            size += len(piece)
            pieces.append(piece)
    if size > most:
        raise ToolError(f'"{shown}" is longer than {most:,} bytes', code="fetch.too_large")
    return b"".join(pieces)


def _check(url: str) -> None:
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError as error:
        raise ConfigError(f'"{_shown(url)}" is not an address: {error}') from None
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise ToolError(
            f'"{_shown(url)}" is not fetched',
            code="fetch.blocked",
            hint="an address starts with https:// or http://",
        )
    if parts.username is not None or parts.password is not None:
        raise ToolError(
            f'the address at "{parts.hostname}" holds a login, which is not sent',
            code="fetch.blocked",
            hint="download the file and name its path",
        )


async def _public_address(host: str, port: int, allowed: frozenset[str]) -> str:
    """Raises ToolError if any address of the host is not public."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "no such name"
        raise ToolError(f'"{host}" is not known: {why}', code="fetch.failed") from None
    addresses = [str(entry[4][0]) for entry in found]
    if host.lower().rstrip(".") not in allowed:
        for address in addresses:
            if not is_public(address):
                raise ToolError(
                    f'"{host}" leads to {address}, which is not a public address',
                    code="fetch.blocked",
                    hint=f'allow_hosts=["{host}"] allows it, if you know why',
                )
    # IPv4 first: where IPv6 is broken there is nobody to notice and try the other.
    return min(addresses, key=lambda a: ":" in a)


def is_public(address: str) -> bool:
    """False for private, local, reserved and metadata addresses, and IPv6 that stands for IPv4."""
    try:
        ip: _Address = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and (
        ip.scope_id or (int(ip) >> 32) & 0xFDFFFFFF == 0x5EFE
    ):
        # A zone is of this machine; the other is ISATAP, an IPv4 address in the last four bytes.
        return False
    return ip.is_global and not any(ip.version == n.version and ip in n for n in _NEVER)


def _shown(url: str) -> str:
    """Without a login and what follows "?": addresses are shown, logged and kept."""
    rest = url.partition("#")[0].partition("?")[0]
    scheme, mark, tail = rest.partition("://")
    return f"{scheme}{mark}{tail.rpartition('@')[2]}"[:300] if mark else rest[:300]
