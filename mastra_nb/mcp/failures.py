"""What went wrong with an MCP server, as errors that say what to do."""

from __future__ import annotations

import asyncio
import collections
import re
from pathlib import Path
from typing import Any

from mastra_nb.config import redact
from mastra_nb.errors import (
    ConfigError,
    MastraError,
    ToolArgsError,
    ToolError,
    ToolFailed,
    ToolTimeout,
)
from mastra_nb.mcp.servers import Server, Stdio

LINES = 20
INVALID_PARAMS, CLOSED = -32602, -32000


class Trouble:
    """What is known of a server's last life: the end of its stderr, what it wrote that was no
    message, the status of its last HTTP answer, and why it ended.
    """

    def __init__(self, name: str, server: Server) -> None:
        self.name = name
        self.server = server
        self.forget()

    def forget(self) -> None:
        self.stderr: collections.deque[str] = collections.deque(maxlen=LINES)
        self.garbage = ""
        self.status = 0
        self.why: BaseException | None = None

    def heard(self, error: Exception) -> None:
        found = re.search(r"input_value='(.*?)', input_type", str(error), re.DOTALL)
        self.garbage = (found[1] if found else str(error))[:200]

    def hint(self, first: str = "") -> str:
        parts = [first] if first else []
        if self.garbage:
            parts.append(f'on its stdout, where only messages may be: "{self.garbage}"')
        said = " | ".join([*self.stderr][-3:])
        if said:
            parts.append(f"its last words: {said}")
        parts.append(f"it is `{self.server.shown}`")
        return redact("; ".join(" ".join(p.split()) for p in parts))

    def details(self) -> dict[str, Any]:
        out: dict[str, Any] = {"server": self.name}
        if self.stderr:
            out["stderr"] = [redact(line) for line in self.stderr]
        if self.status >= 400:
            out["status"] = self.status
        return out

    def no_start(self, why: BaseException) -> MastraError:
        server = self.server
        if isinstance(why, MastraError):
            return why
        if isinstance(server, Stdio) and isinstance(why, (OSError, ValueError)):
            what = f'MCP server "{self.name}" cannot be started: '
            if isinstance(why, FileNotFoundError):
                missing = server.command
                if server.cwd is not None and not Path(server.cwd).is_dir():
                    missing = ""
                    what += f'there is no folder "{server.cwd}"'
                else:
                    what += f'there is no command "{redact(server.command)}"'
                hint = "install it, or give its full path" if missing else "make it, or change cwd"
                if missing and " " in missing:
                    hint = "the command is one word; the rest goes into args=[…]"
            else:
                what, hint = what + redact(str(why)), f"it is `{server.shown}`"
            return ConfigError(what, hint=hint, code="mcp.command")
        if self.status in (401, 403):
            return ToolError(
                f'MCP server "{self.name}" answered {self.status}: it does not let us in',
                hint='Http(url, headers={"Authorization": "Bearer …"}), or auth=…',
                code="mcp.unauthorized",
                details=self.details(),
            )
        return ToolError(
            f'MCP server "{self.name}" could not be reached: {self._reason(why)}',
            hint=self.hint(),
            code="mcp.connect",
            details=self.details(),
        )

    def _reason(self, why: BaseException) -> str:
        if self.status >= 400:
            return f"it answered HTTP {self.status}"
        if isinstance(why, asyncio.CancelledError):
            return "it was closed"
        if isinstance(self.server, Stdio) and getattr(why, "code", None) == CLOSED:
            return "it ended before it answered"
        text = redact(" ".join(str(why).split()))[:300]
        return text or type(why).__name__

    def late(self, what: str, timeout: float) -> ToolTimeout:
        return ToolTimeout(
            f'MCP server "{self.name}" did not answer "{what}" within {timeout:g} s',
            hint=self.hint("raise it with timeout=…"),
            details=self.details(),
        )

    def refused(self, what: str, code: int, error: Exception, *, lost: bool) -> ToolError:
        text = redact(str(error))
        if code == INVALID_PARAMS:
            return ToolArgsError(f'MCP server "{self.name}" refused "{what}": {text}')
        if lost:
            return ToolFailed(
                f'MCP server "{self.name}" was lost during "{what}"'
                + (f": {self._reason(self.why)}" if self.why is not None else ""),
                hint=self.hint("the next call starts it again"),
                code="mcp.lost",
                details=self.details(),
            )
        if self.status >= 400 and "error response" in text:
            text = f"HTTP {self.status}"
        return ToolFailed(
            f'MCP server "{self.name}" refused "{what}": {text}',
            hint="",
            details={"code": code, **self.details()},
        )

    def odd(self, what: str, error: Exception) -> ToolError:
        if isinstance(error, MastraError):
            assert isinstance(error, ToolError)
            return error
        about = redact(" ".join(str(innermost(error)).split()))[:300]
        return ToolFailed(
            f'MCP server "{self.name}" answered "{what}" with what is no valid answer: {about}',
            hint=self.hint(),
            details=self.details(),
        )


def innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
