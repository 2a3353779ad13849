"""How MCP servers are named: a command to start or a URL, and what of theirs is offered."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from mastra_nb.config import Secret, redact
from mastra_nb.errors import ConfigError, close_matches

Approval = bool | Sequence[str] | Callable[[str, dict[str, Any]], bool | Awaitable[bool]]
Values = Mapping[str, str | Secret]

_SECRET_NAME = re.compile(r"key|token|secret|passw|auth|cookie|credential", re.IGNORECASE)
_VARIABLE = re.compile(r"\$\{(?:env:)?(\w+)(?::-([^}]*))?\}")


class _Server(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all servers have in common.

    `include` and `exclude` are names of tools or patterns ("read_*"). `prefix` is put before
    the names (None: the server's name and "_"). `require_approval` is for all tools, some (names
    or patterns), or a function (tool, arguments) -> bool. `timeout` is for one request (None:
    the settings'), `connect_timeout` for starting up, both in seconds. `protocol` "auto" takes
    the newest revision that both sides know.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    prefix: str | None = None
    require_approval: Any = False
    timeout: float | None = None
    connect_timeout: float = 60.0
    protocol: Literal["auto", "2025-11-25", "2026-07-28"] = "auto"

    def offers(self, tool: str) -> bool:
        return (not self.include or _matches(tool, self.include)) and not _matches(
            tool, self.exclude
        )


class Stdio(_Server, frozen=True):
    """A server that is a process of ours. It gets the environment named in `env` and, of ours,
    PATH, HOME and the like only.
    """

    command: str
    args: Sequence[str | Secret] = ()
    env: Values = {}
    cwd: str | Path | None = None

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "env", sealed(self.env))

    def __repr__(self) -> str:
        return f"<Stdio {self.shown}{_names('env', self.env)}>"

    @property
    def shown(self) -> str:
        """The command line as it may be printed."""
        return redact(" ".join([self.command, *map(str, self.args)]))


class Http(_Server, frozen=True):
    """A server behind a URL (streamable HTTP). `auth` is an httpx2.Auth, such as one of the MCP
    SDK's OAuth providers.
    """

    url: str
    headers: Values = {}
    auth: Any = None

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "headers", sealed(self.headers))

    def __repr__(self) -> str:
        return f"<Http {self.shown}{_names('headers', self.headers)}>"

    @property
    def shown(self) -> str:
        return re.sub(r"//[^/@]*@", "//", self.url.partition("?")[0])


Server = Stdio | Http


def sealed(values: Values) -> dict[str, str | Secret]:
    """Values whose names say that they are secret become so."""
    return {
        k: Secret(v) if isinstance(v, str) and v and _SECRET_NAME.search(k) else v
        for k, v in values.items()
    }


def revealed(values: Values) -> dict[str, str]:
    return {k: plain(v) for k, v in values.items()}


def plain(value: str | Secret) -> str:
    return value.reveal() if isinstance(value, Secret) else value


def parse(given: Mapping[str, Any]) -> dict[str, Server]:
    """Servers by name; a dict may be that of an mcp.json file. Raises ConfigError."""
    for key in ("mcpServers", "servers"):
        if isinstance(given.get(key), Mapping):
            given = given[key]
    return {
        name: made
        for name, one in given.items()
        if (made := one if isinstance(one, (Stdio, Http)) else _from_dict(name, one)) is not None
    }


_HTTP_TYPES = {"http", "streamable-http", "streamable_http", "streamableHttp"}


def _from_dict(name: str, given: Any) -> Server | None:
    if not isinstance(given, Mapping):
        raise ConfigError(
            f'the MCP server "{name}" is neither a command nor a URL',
            hint='Stdio("npx", ["-y", "a-server"]) or Http("https://…/mcp")',
        )
    options = {k: _filled(v, name) for k, v in given.items() if k not in ("type", "disabled")}
    if given.get("disabled"):
        return None
    kind = given.get("type", "stdio" if "command" in given else "http")
    if kind not in _HTTP_TYPES | {"stdio"}:
        raise ConfigError(
            f'the MCP server "{name}" has the type "{kind}", which is not supported',
            hint='"stdio" and "http" are; the old SSE transport is not',
        )
    cls: type[Stdio] | type[Http] = Stdio if kind == "stdio" else Http
    needed = "command" if cls is Stdio else "url"
    unknown = sorted(set(options) - set(cls.__struct_fields__))
    if unknown or needed not in options:
        what = f'does not know "{unknown[0]}"' if unknown else f'has no "{needed}"'
        hint = close_matches(unknown[0], cls.__struct_fields__) if unknown else ""
        raise ConfigError(f'the MCP server "{name}" {what}', hint=hint)
    return cls(**options)


def _filled(value: Any, server: str) -> Any:
    """With "${NAME}" and "${NAME:-default}" from the environment, as mcp.json files have it."""
    if isinstance(value, str):
        return _VARIABLE.sub(lambda m: _variable(m, server), value)
    if isinstance(value, Mapping):
        return {k: _filled(v, server) for k, v in value.items()}
    if isinstance(value, list):
        return [_filled(v, server) for v in value]
    return value


def _variable(match: re.Match[str], server: str) -> str:
    value = os.environ.get(match[1], match[2])
    if value is None:
        raise ConfigError(
            f'the MCP server "{server}" needs the environment variable "{match[1]}"',
            hint=f"set it, or put it into .env: {match[1]}=…",
        )
    return value


def _matches(name: str, patterns: Sequence[str]) -> bool:
    listed = [patterns] if isinstance(patterns, str) else patterns
    return any(fnmatch.fnmatchcase(name, p) for p in listed)


async def needs_approval(approval: Approval, tool: str, args: dict[str, Any]) -> bool:
    if isinstance(approval, bool):
        return approval
    if callable(approval):
        needs = approval(tool, args)
        return bool(needs if isinstance(needs, bool) else await needs)
    return _matches(tool, approval)


def _names(what: str, values: Values) -> str:
    return f" {what}={[*values]}" if values else ""
