"""How a server is set up, and who is asking."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from mastra_nb.config import Secret
from mastra_nb.errors import ConfigError


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks. With a `resource` nothing else is seen than what belongs to it; None sees all."""

    resource: str | None = None


Authenticate = Callable[[Any], "Identity | Awaitable[Identity | None] | None"]


class ServerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`token` opens everything, each of `tokens` (token -> resource) what belongs to one resource;
    `authenticate` decides itself, of a Starlette request. None of them: no token is asked for.

    `hosts` are names under which it may be reached besides those of this machine, "*" is any;
    `origins` are web pages that may call it besides those of this machine. `prefix` is Mastra's.
    `max_body` is in bytes. `slow` is how many seconds a client may take for the next piece of what
    it sends or reads. `trust_instructions` lets clients send system messages and instructions.
    `drain` is how long runs may go on when the server ends, in seconds. `schedules` keeps those of
    the application, and goes on with runs whose time to be answered is over.
    """

    token: Secret | None = None
    tokens: Mapping[str, str] = {}
    authenticate: Authenticate | None = None
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()
    prefix: str = "/api"
    max_body: int = 10_000_000
    slow: float = 60.0
    trust_instructions: bool = False
    drain: float = 10.0
    schedules: bool = True
    docs: bool = True
    mcp: bool = True

    def __post_init__(self) -> None:
        for option, fits, hint in (
            ("prefix", not self.prefix or self.prefix.startswith("/"), '"/api", or ""'),
            ("max_body", self.max_body > 0, "bytes"),
            ("slow", self.slow > 0, "seconds"),
            ("drain", self.drain >= 0, "seconds"),
            ("tokens", all(self.tokens) and "" not in self.tokens.values(), "token -> resource"),
        ):
            if not fits:
                raise ConfigError(f"the {option} of a server cannot be used", hint=f"give {hint}")

    def __repr__(self) -> str:
        return f"<ServerOptions prefix={self.prefix!r} protected={self.protected}>"

    @property
    def protected(self) -> bool:
        return bool(self.token or self.tokens or self.authenticate)

    def known(self, token: str) -> Identity | None:
        """Who has this token. All are compared, so that time tells nothing."""
        given, found = token.encode(), None
        if self.token is not None and hmac.compare_digest(self.token.reveal().encode(), given):
            found = Identity()
        for each, resource in self.tokens.items():
            if hmac.compare_digest(each.encode(), given):
                found = found or Identity(resource=resource)
        return found
