"""`mastra-nb build`: a folder that holds all that a server needs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import click
import msgspec

import mastra_nb
from mastra_nb.cli._bundle import collect
from mastra_nb.cli._lock import Lock, lock, project_requirements, project_version
from mastra_nb.cli._output import json_option, note, say, say_json
from mastra_nb.cli._packaged import ENTRY, keeps_a_file
from mastra_nb.cli._projects import Target, find_target
from mastra_nb.cli._wheel import about_package, about_wheel, pack, write_wheel
from mastra_nb.config import project_root
from mastra_nb.errors import ConfigError, UsageError

PORT = 4111
# How long whoever sends SIGTERM waits for the server to end.
STOP_SECONDS = 30
MANIFEST = "build.json"
Kind = Literal["dir", "wheel"]
_CHECK_SECONDS = 60.0
_CHECK = """\
import json, sys
from mastra_nb.cli._projects import load_app
from mastra_nb.errors import MastraError
try:
    app = load_app(sys.argv[1])
except MastraError as error:
    print(json.dumps({"message": error.message, "hint": error.hint}))
else:
    parts = {"agents": app.agents, "workflows": app.workflows, "tools": app.tools}
    print(json.dumps({name: [*found] for name, found in parts.items()}))
"""


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """What is in build.json. `files` are SHA-256 by path; the same project gives the same."""

    name: str
    app: str
    mastra_nb: str
    python: str
    agents: list[str]
    workflows: list[str]
    tools: list[str]
    packages: dict[str, str]
    unlocked: list[str]
    files: dict[str, str]

    @property
    def has_wheels(self) -> bool:
        return any(path.startswith("wheels/") for path in self.files)

    @property
    def digest(self) -> str:
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:12]


@click.command("build")
@click.argument("app", required=False)
@click.option(
    "--target",
    "kind",
    type=click.Choice(["dir", "wheel"]),
    default="dir",
    show_default=True,
    help="A folder to run as it is, or a wheel to install.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="dist",
    show_default=True,
    help="The folder to make, relative to the project.",
)
@click.option(
    "--exclude", multiple=True, metavar="PATTERN", help="Leave files out, such as 'data/*.csv'."
)
@click.option(
    "--include", multiple=True, metavar="PATTERN", help="Take along what stays at home: '*.db'."
)
@json_option("the manifest")
def build_command(
    app: str | None,
    kind: Kind,
    out: Path,
    exclude: tuple[str, ...],
    include: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make one folder that holds all that a server needs.

    It has the project's files, the exact versions of what is installed here (requirements.lock), a
    Dockerfile with a health check, and build.json, which says what is in it. Keys, .env, databases
    and outputs of notebooks stay at home; a file that looks like a key stops the build.

    With --target wheel the folder has a wheel in place of the files: it needs the same exact
    versions, and brings a command named after the project that serves it.

    APP is what is served: app.py, app.py:name, analyst.ipynb; by default the project's.

    \b
    Examples:
      mastra-nb build
      mastra-nb build analyst.ipynb --out image --exclude 'data/*.csv'
    """
    target = find_target(app)
    folder = target.root / out
    made = build(target, folder, kind=kind, include=include, exclude=exclude)
    if as_json:
        say_json(msgspec.to_builtins(made))
        return
    parts = [f"{len(made.files)} files", f"{len(made.packages)} packages locked"]
    kinds = {"agents": made.agents, "workflows": made.workflows, "tools": made.tools}
    parts += [f"{kind} {', '.join(names)}" for kind, names in kinds.items() if names]
    say(f"{os.path.relpath(folder)}: {made.app} · {' · '.join(parts)}")
    for each in made.unlocked:
        note(f"not locked, for it is not installed here: {each}")
    if kind == "wheel":
        (wheel,) = folder.glob("*.whl")
        links = f"--find-links {os.path.relpath(folder / 'wheels')} " if made.has_wheels else ""
        say("\nNext, in an environment of its own:")
        say(f"  pip install {links}{os.path.relpath(wheel)}")
        say(f"  {made.name} --port {PORT}")
        return
    say("\nNext, one of:")
    say("  mastra-nb deploy                   # on this machine")
    say("  mastra-nb deploy --target docker   # an image; systemd, kubernetes, fly: their files")


def build(
    target: Target,
    out: Path,
    *,
    kind: Kind = "dir",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Build:
    """Write the build of `target` into `out`, in place of an older build. Raises ConfigError."""
    out = Path(os.path.abspath(out))  # noqa: PTH100
    root = target.root
    if target.path is not None and not target.path.is_relative_to(root):
        raise UsageError(f'"{target}" is not in the project "{root}"')
    if root == out or root.is_relative_to(out):
        raise UsageError(f'"{out}" holds the project', hint="--out dist")
    if out.exists() and not _replaceable(out):
        raise ConfigError(
            f'"{out}" is no build of ours, and is not written over',
            hint="--out NAME, or move what is in it",
        )
    files, at_home = collect(root, out, include=include, exclude=exclude)
    if at_home:
        note(f"databases stay at home (--include takes them along): {', '.join(at_home)}")
    locked = lock(project_requirements(root))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        folder = Path(scratch) / "build"
        made = _write(target, folder, files, locked, kind)
        if out.exists():
            out.rename(Path(scratch) / "old")
        folder.rename(out)
    return made


def _replaceable(out: Path) -> bool:
    if not out.is_dir() or out.is_symlink():
        return False
    return not any(out.iterdir()) or (out / MANIFEST).is_file()


def _write(
    target: Target, folder: Path, files: dict[str, bytes], locked: Lock, kind: Kind
) -> Build:
    name = project_name(target.root)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    wheels = [pack(each, folder / "wheels") for each in locked.local]
    if kind == "wheel":
        with tempfile.TemporaryDirectory() as scratch:
            _put(Path(scratch), files)
            parts = check(target, Path(scratch))
        version = project_version(target.root)
        _wheel(target, folder, files, locked, name=name, version=version)
    else:
        about = f"What {name} was tried out with, for Python {python} on Linux."
        ours = {
            "requirements.lock": locked.text(about=about).encode(),
            ".dockerignore": _DOCKERIGNORE.encode(),
            "Dockerfile": dockerfile(target, python, wheels=bool(wheels)).encode(),
        }
        # A Dockerfile that was written by hand was so for a reason.
        _put(folder, {**ours, **files, "requirements.lock": ours["requirements.lock"]})
        parts = check(target, folder)
    digests = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    made = Build(
        name=name,
        app=str(target),
        mastra_nb=mastra_nb.__version__,
        python=python,
        agents=parts["agents"],
        workflows=parts["workflows"],
        tools=parts["tools"],
        packages=locked.versions,
        unlocked=sorted(locked.unpinned),
        files=digests,
    )
    text = msgspec.json.format(msgspec.json.encode(made), indent=2)
    (folder / MANIFEST).write_bytes(text + b"\n")
    return made


def _put(folder: Path, files: Mapping[str, bytes]) -> None:
    for path, data in files.items():
        to = folder / path
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(data)


def _wheel(
    target: Target,
    folder: Path,
    files: Mapping[str, bytes],
    locked: Lock,
    *,
    name: str,
    version: str,
) -> None:
    """A package that has the project inside, as files: its modules are nobody else's to import."""
    package = re.sub(r"\W", "_", name) + "_app"
    entry = ENTRY.format(name=name, target=str(target)).encode()
    inside = {f"{package}/project/{path}": data for path, data in files.items()}
    if project_root(target.root / "below") != target.root:
        # Without settings it would be a part of whatever project it is installed in.
        inside[f"{package}/project/mastra.toml"] = b""
    inside |= {f"{package}/__init__.py": b"", f"{package}/__main__.py": entry}
    requires = [*locked.pinned.values(), *locked.unpinned]
    python = f"=={sys.version_info.major}.{sys.version_info.minor}.*"
    about = {
        "METADATA": about_package(name, version, sorted(requires), python=python),
        "WHEEL": about_wheel(),
        "entry_points.txt": f"[console_scripts]\n{name} = {package}.__main__:main\n".encode(),
    }
    write_wheel(folder, name, version, inside, about)


def project_name(root: Path) -> str:
    return re.sub(r"[^a-z0-9.-]+", "-", root.name.lower()).strip("-.") or "app"


def check(target: Target, folder: Path) -> dict[str, list[str]]:
    """Load what was copied, in a process of its own: what is missing is found now.

    Raises ConfigError.
    """
    env = {**python_environment(), "DATABASE_URL": "memory://", "MASTRA_NB_STORAGE": "memory://"}
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    try:
        done = subprocess.run(  # noqa: S603 (our own interpreter)
            [sys.executable, "-c", _CHECK, str(target)],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=_CHECK_SECONDS,
        )
        told: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f'"{target}" was not loaded within {_CHECK_SECONDS:.0f} s',
            hint="what takes long belongs into a function, or below # mastra: stop",
        ) from None
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ConfigError(f'"{target}" cannot be loaded from the build: {last}') from None
    if "message" in told:
        raise ConfigError(f"the build does not work: {told['message']}", hint=told["hint"])
    return told


def python_environment() -> dict[str, str]:
    """This process' environment for a Python that finds this package, as in a checkout."""
    env = dict(os.environ)
    home = str(Path(mastra_nb.__file__).parents[1])
    if "site-packages" not in home:
        env["PYTHONPATH"] = os.pathsep.join(p for p in (home, env.get("PYTHONPATH", "")) if p)
    return env


def serve_command(
    target: str, *, host: str, port: int = PORT, drain: float = STOP_SECONDS - 10
) -> list[str]:
    """After `drain` seconds connections close, which takes some more."""
    options = ["--host", host, "--port", str(port), "--drain", f"{drain:g}"]
    return ["mastra-nb", "serve", target, *options]


_HEALTH = (
    f"from urllib.request import urlopen; urlopen('http://127.0.0.1:{PORT}/health', timeout=4)"
)

_DOCKERIGNORE = """\
.env
.env.*
.git
.mastra
*.db
*.db-*
__pycache__
"""

# The value of CMD is in exec form: SIGTERM reaches the server, which lets its runs come to rest.
_DOCKERFILE = """\
FROM python:{python}-slim

ENV PYTHONUNBUFFERED=1 \\
    PYTHONDONTWRITEBYTECODE=1 \\
    HOME=/home/app

RUN useradd --create-home --uid 10001 app \\
    && mkdir /data && chown app:app /data
WORKDIR /srv/app

COPY requirements.lock ./
{wheels}RUN pip install --no-cache-dir {find}-r requirements.lock

COPY . .

# Runs, conversations and indexes live here; -e DATABASE_URL=… names another store.
{storage}VOLUME /data

USER app
EXPOSE {port}
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \\
    CMD {health}
STOPSIGNAL SIGTERM
CMD {command}
"""


def dockerfile(target: Target, python: str, *, wheels: bool) -> str:
    # A file beside the application would be lost with the container.
    storage = "ENV DATABASE_URL=sqlite:////data/mastra.db\n" if keeps_a_file(target.root) else ""
    return _DOCKERFILE.format(
        python=python,
        wheels="COPY wheels wheels\n" if wheels else "",
        find="--find-links wheels " if wheels else "",
        storage=storage,
        port=PORT,
        health=json.dumps(["python", "-c", _HEALTH]),
        command=json.dumps(serve_command(str(target), host="0.0.0.0")),  # noqa: S104
    )
