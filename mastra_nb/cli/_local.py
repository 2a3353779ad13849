"""A server of this machine that outlives the terminal: started, watched, drained.

`.mastra/deploy` in the project holds what it runs (one folder for each release), its log, and
server.json, which says which process it is.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from mastra_nb.cli._projects import Target
from mastra_nb.cli._targets import TOKEN
from mastra_nb.cli.build import build, python_environment, serve_command
from mastra_nb.config import default_storage, dotenv, load_settings
from mastra_nb.errors import ConfigError, MastraError, NotFound

_HOME = Path(".mastra") / "deploy"
_RELEASES_KEPT = 3
_LOG_LINES = 12
_MOST_LOG = 10_000_000


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """`born` tells its process from a later one with the same id."""

    pid: int
    born: str
    host: str
    port: int
    app: str
    release: str
    since: float

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def alive(self) -> bool:
        return _born(self.pid) == self.born


class Local:
    """The deployment of one project on this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / _HOME
        self.log = self.home / "server.log"
        self.token_file = self.home / "token"
        self._state = self.home / "server.json"

    # What is there

    def server(self) -> Server | None:
        """The one that was started last and still lives."""
        try:
            found = msgspec.json.decode(self._state.read_bytes(), type=Server)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return found if found.alive else None

    def tail(self, lines: int = _LOG_LINES) -> str:
        with contextlib.suppress(OSError):
            text = self.log.read_text(encoding="utf-8", errors="replace")
            return "\n".join(text.splitlines()[-lines:])
        return ""

    # What is done

    def deploy(self, target: Target, *, host: str, port: int, wait: float, drain: float) -> Server:
        """Build, let the old server's runs come to rest, start the new one and wait for its health.

        One that does not get healthy is stopped, and the old release started again. Raises
        ConfigError for what cannot be built, MastraError for what does not start.
        """
        with self._lock():
            scratch = self.home / "releases" / f".new-{os.getpid()}"
            try:
                made = build(target, scratch)
                release = made.digest
                final = self.home / "releases" / release
                if final.exists():
                    shutil.rmtree(scratch)
                else:
                    scratch.rename(final)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            old = self.server()
            if old is not None:
                self._drain(old, drain)
            _check_free(host, port)
            try:
                server = self._start(made.app, release, host=host, port=port, drain=drain)
                self._await_health(server, wait)
            except MastraError:
                if old is not None and (self.home / "releases" / old.release).is_dir():
                    again = self._start(
                        old.app, old.release, host=old.host, port=old.port, drain=drain
                    )
                    self._await_health(again, wait)
                raise
            self._forget_releases(keep={release, old.release if old else release})
            return server

    def stop(self, drain: float) -> Server:
        """SIGTERM, and wait for its runs to rest. Raises NotFound if there is none."""
        with self._lock():
            server = self.server()
            if server is None:
                raise NotFound(
                    f'nothing of "{self.root.name}" is deployed on this machine',
                    hint="mastra-nb deploy starts it",
                )
            self._drain(server, drain)
            self._state.unlink(missing_ok=True)
            return server

    def _start(self, app: str, release: str, *, host: str, port: int, drain: float) -> Server:
        folder = self.home / "releases" / release
        storage = default_storage(load_settings(self.root), self.root)
        # What the project's .env says, and its store: the release has neither.
        env = {**dotenv(self.root), **python_environment(), "MASTRA_NB_STORAGE": storage}
        env[TOKEN] = self._token(env.get(TOKEN, ""))
        command = [sys.executable, "-m", "mastra_nb"]
        # What does not rest in time is cut off, and taken up by the next server.
        command += serve_command(app, host=host, port=port, drain=max(1.0, drain - 10))[1:]
        self._turn_log()
        with self.log.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 (our own interpreter)
                command,
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        server = Server(
            pid=process.pid,
            born=_born(process.pid),
            host=host,
            port=port,
            app=app,
            release=release,
            since=time.time(),
        )
        _write_whole(self._state, msgspec.json.format(msgspec.json.encode(server)))
        # It is not ours to wait for: it goes on when this process has ended.
        process.returncode = 0
        return server

    def _await_health(self, server: Server, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not server.alive:
                break
            if is_healthy(server):
                return
            time.sleep(0.1)
        ended = not server.alive
        with contextlib.suppress(MastraError):
            self._drain(server, 2.0)
        self._state.unlink(missing_ok=True)
        what = "ended while it started" if ended else f"was not healthy within {seconds:.0f} s"
        said = self.tail()
        raise MastraError(
            f"the server {what}" + (f"; it said:\n{said}" if said else ""),
            hint=f"the whole log: {self.log}",
            code="deploy.unhealthy",
        )

    def _drain(self, server: Server, seconds: float) -> None:
        """Raises MastraError if it is there still; it is not killed, for it may be writing."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(server.pid, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while server.alive:
            if time.monotonic() > deadline:
                raise MastraError(
                    f"the server (process {server.pid}) did not end within {seconds:.0f} s",
                    hint=f"--drain-timeout gives it longer; kill -9 {server.pid} ends it at once, "
                    "and its runs go on when they are resumed",
                    code="deploy.drain",
                )
            time.sleep(0.05)

    def _token(self, given: str) -> str:
        """That of the environment or `.env`; else one that is made once and stays."""
        with contextlib.suppress(FileNotFoundError):
            given = given or self.token_file.read_text(encoding="utf-8").strip()
        given = given or secrets.token_urlsafe(24)
        _write_whole(self.token_file, given.encode(), mode=0o600)
        return given

    def _turn_log(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size > _MOST_LOG:
                self.log.replace(self.log.with_suffix(".log.1"))

    def _forget_releases(self, *, keep: set[str]) -> None:
        releases = sorted(
            (p for p in (self.home / "releases").iterdir() if p.name not in keep),
            key=lambda p: p.stat().st_mtime,
        )
        for old in releases[: max(0, len(releases) + len(keep) - _RELEASES_KEPT)]:
            shutil.rmtree(old, ignore_errors=True)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """One `deploy` of a project at a time; who died with it does not hold it."""
        import fcntl

        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigError(
                    "another process deploys this project", hint="wait until it is done"
                ) from None
            yield


def is_healthy(server: Server) -> bool:
    url = server.url.removeprefix("http://")
    connection = http.client.HTTPConnection(url, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _check_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"port {port} of {host} cannot be used: {error.strerror}",
                hint="--port NUMBER names another",
            ) from None


def _born(pid: int) -> str:
    """When the process began, as the system says it; nothing if it is no more."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        # The name in brackets may hold anything, so what follows is counted from its end.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return ""
        done = subprocess.run(  # noqa: S603
            ["/bin/ps", "-o", "lstart=", "-p", str(pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip()
    return "" if fields[0] in "ZX" else fields[19]


def _write_whole(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".new")
    scratch.unlink(missing_ok=True)
    with open(scratch, "wb", opener=lambda p, flags: os.open(p, flags | os.O_EXCL, mode)) as file:
        file.write(data)
    scratch.replace(path)
