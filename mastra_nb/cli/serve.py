"""serve and dev: an application as a web server; dev begins again when its files change."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mastra_nb.cli._output import note, say
from mastra_nb.config import Secret, project_root, secret
from mastra_nb.errors import UsageError

if TYPE_CHECKING:
    from mastra_nb.server.run import Server

_TOKEN = "MASTRA_NB_SERVER_TOKEN"  # noqa: S105 (the name of a variable)
_LOOK_SECONDS = 0.4
_PATTERNS = (".py", ".ipynb", ".toml", ".json", ".env", ".md")
_PASSED_BY = {"node_modules", "__pycache__", "out", "dist", "build", "tests"}


@click.command()
@click.argument("target", required=False)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to serve on.")
@click.option("--port", default=4111, show_default=True, help="The port; 0 takes a free one.")
@click.option("--no-token", is_flag=True, help="Ask for no token (on this machine only).")
@click.option(
    "--origin", "origins", multiple=True, metavar="URL",
    help="A web page that may call it, besides those of this machine.",
)  # fmt: skip
@click.option(
    "--name", "names", multiple=True, metavar="HOST", help="A name under which it is reached."
)
@click.option(
    "--trust-instructions", is_flag=True, help="Clients may send system messages, instructions."
)
@click.option(
    "--drain", default=10.0, show_default=True, help="Seconds that runs may go on at the end."
)
@click.option("--no-schedules", is_flag=True, help="Leave schedules to another process.")
def serve(
    target: str | None,
    host: str,
    port: int,
    no_token: bool,
    origins: Sequence[str],
    names: Sequence[str],
    trust_instructions: bool,
    drain: float,
    no_schedules: bool,
) -> None:
    """Serve the agents, workflows and tools of TARGET: app.py, analyst.ipynb, package.module:app.

    Clients of Mastra, its Studio and OpenAI's clients can use it; /docs lists the routes. It asks
    for the token in MASTRA_NB_SERVER_TOKEN (the environment or .env); without one it makes one up
    and shows it.

    \b
    Examples:
      mastra-nb serve app.py
      mastra-nb serve analyst.ipynb --port 8000
      MASTRA_NB_SERVER_TOKEN=… mastra-nb serve --host 0.0.0.0 --name agents.example.org
    """
    # An application is loaded before the server's modules: its own errors come first.
    from mastra_nb.cli._projects import load_app

    app = load_app(target)
    from mastra_nb.server.options import ServerOptions
    from mastra_nb.server.run import default_options, is_loopback
    from mastra_nb.server.run import serve as run

    known: dict[str, Any] = {
        "origins": origins, "hosts": names, "trust_instructions": trust_instructions,
        "drain": drain, "schedules": not no_schedules,
    }  # fmt: skip
    if no_token:
        if not is_loopback(host):
            raise UsageError(
                f'"{host}" can be reached by others: it needs a token', hint=f"set {_TOKEN}"
            )
        options = ServerOptions(**known)
    else:
        options = default_options(**known)
    made = None if no_token or secret(_TOKEN) else options.token

    def ready(server: Server) -> None:
        parts = [
            f"{len(found)} {what}{'' if len(found) == 1 else 's'}"
            for what, found in (("agent", app.agents), ("workflow", app.workflows))
            if found
        ]
        say(f"serving {', '.join(parts) or 'tools'} on {server.url}{options.prefix}")
        note(f"  routes  {server.url}/docs")
        note(f"  store   {app.store.url if app.store is not None else 'none: nothing is kept'}")
        _say_token(made, no_token)

    run(app, host=host, port=port, options=options, ready=ready)


def _say_token(made: Secret | None, no_token: bool) -> None:
    if no_token:
        note("  token   none is asked for: pages and programs of this machine may call it")
    elif made is not None:
        note(f"  token   {made.reveal()}   (for now; {_TOKEN} keeps one)")
    else:
        note(f"  token   that of {_TOKEN}")
    sys.stdout.flush()


@click.command()
@click.argument("target", required=False)
@click.option("--port", default=4111, show_default=True, help="The port.")
@click.option("--token", is_flag=True, help="Ask for the token, as serve does.")
def dev(target: str | None, port: int, token: bool) -> None:
    """Serve TARGET on this machine, and begin again when a file of the project changes.

    No token is asked for: whatever runs on this machine, and no page of another, may call it.
    Studio: mastra studio --server-port 4111

    \b
    Example:
      mastra-nb dev analyst.ipynb
    """
    command = [sys.executable, "-m", "mastra_nb", "serve", *([target] if target else [])]
    command += ["--port", str(port), "--drain", "1", *([] if token else ["--no-token"])]
    root = project_root()
    note(f"watching {root}; Ctrl-C ends")
    while True:
        seen = dict(_files(root))
        child = subprocess.Popen(command)  # noqa: S603 (our own command)
        try:
            changed = _wait(root, seen, child)
        except KeyboardInterrupt:
            _end(child)
            return
        _end(child)
        note(f"{changed} changed: starting again")


def _wait(root: Path, seen: dict[Path, float], child: subprocess.Popen[bytes]) -> str:
    """The name of a file that has changed. A server that broke off is waited on like one that
    runs: what broke it is about to be mended.
    """
    told = False
    while True:
        time.sleep(_LOOK_SECONDS)
        if child.poll() is not None and not told:
            told = True
            note("the server has ended; it starts again when a file changes")
        now = dict(_files(root))
        for path in sorted(now.keys() | seen.keys()):
            if now.get(path) != seen.get(path):
                return path.relative_to(root).as_posix()


def _files(root: Path) -> Iterator[tuple[Path, float]]:
    for folder, names, files in os.walk(root):
        names[:] = [
            n
            for n in names
            if not n.startswith(".")
            and n not in _PASSED_BY
            and not Path(folder, n, "pyvenv.cfg").exists()
        ]
        for name in files:
            if name.endswith(_PATTERNS) and not name.endswith(".checkpoint.ipynb"):
                path = Path(folder, name)
                try:
                    yield path, path.stat().st_mtime
                except OSError:
                    continue  # it was deleted meanwhile


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is not None:
        return
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(timeout=10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
