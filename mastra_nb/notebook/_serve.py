"""%mastra serve: this notebook's agents, workflows and tools, as a server beside its cells."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from mastra_nb import portal
from mastra_nb.app import Mastra, parts_in
from mastra_nb.config import Secret, project_root, secret
from mastra_nb.errors import UsageError
from mastra_nb.notebook import _live
from mastra_nb.notebook._host import Host

if TYPE_CHECKING:
    from mastra_nb.server.run import Server

_USAGE = "%mastra serve [--port N], %mastra serve --stop"
_FILE = Path(".mastra") / "server.token"


async def serve(host: Host, *words: str) -> None:
    """Begin, or say where it is; what cells define later is served too. Raises UsageError,
    StorageError if the port is taken.
    """
    port, stop = _parsed(words)
    running: Server | None = host.server
    if stop:
        if running is None:
            _live.say("nothing is served")
            return
        host.server = None
        portal.run(running.stop())
        _live.say(f"stopped serving on {running.url}")
        return
    gather(host)
    if running is None:
        # A notebook that serves nothing loads no server.
        from mastra_nb.server.options import ServerOptions
        from mastra_nb.server.run import TOKEN, Server

        token = secret(TOKEN)
        where = f"that of {TOKEN}"
        if token is None:
            token, where = _made(project_root() / _FILE), f"in {_FILE}, which only you can read"
        running = Server(host.app, port=port, options=ServerOptions(token=token, drain=1))
        portal.run(running.start())
        host.server, host.server_token = running, where
    _live.say(f"{_parts(host.app)} on {running.url}/api · token: {host.server_token}")


def gather(host: Host) -> Mastra:
    """The application, with what cells have defined in plain Python."""
    found = parts_in(host.names(), "this notebook")
    for name, agent in found.agents.items():
        if host.app.agents.get(name) is not agent:
            host.app.add(agent)
    for name, workflow in found.workflows.items():
        if host.app.workflows.get(name) is not workflow:
            host.app.add(workflow)
    host.app.tools.update(found.tools)
    return host.app


def _parts(app: Mastra) -> str:
    kinds = {"agent": len(app.agents), "workflow": len(app.workflows), "tool": len(app.tools)}
    counts = [f"{n} {kind}{'' if n == 1 else 's'}" for kind, n in kinds.items() if n]
    return f"serving {', '.join(counts) or 'nothing yet'}"


def _parsed(words: tuple[str, ...]) -> tuple[int, bool]:
    port, stop, left = 4111, False, [*words]
    while left:
        word = left.pop(0)
        if word == "--stop":
            stop = True
        elif word == "--port" and left and left[0].isdigit():
            port = int(left.pop(0))
        else:
            raise UsageError(f'%mastra serve does not know "{word}"', hint=f"usage: {_USAGE}")
    return port, stop


def _made(path: Path) -> Secret:
    """A token in a file of the user's own: what a cell shows is saved with the notebook."""
    with contextlib.suppress(FileNotFoundError):
        if kept := path.read_text(encoding="utf-8").strip():
            return Secret(kept)
    made = secrets.token_urlsafe(24)
    path.parent.mkdir(exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
        file.write(made)
    return Secret(made)
