"""`mastra-nb deploy`: here, or the files for elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import click

from mastra_nb.cli._local import Local, Server, is_healthy
from mastra_nb.cli._output import FAILED, json_option, note, say, say_json
from mastra_nb.cli._projects import find_target
from mastra_nb.cli._targets import TARGETS
from mastra_nb.cli.build import PORT, Build, build
from mastra_nb.errors import ConfigError, MastraError, UsageError

_DOCKER_SECONDS = 5.0


@click.command("deploy")
@click.argument("app", required=False)
@click.option(
    "--target",
    "where",
    type=click.Choice(["local", *TARGETS]),
    default="local",
    show_default=True,
    help="This machine, or where files are made for.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="local: the address.")
@click.option(
    "--port",
    default=PORT,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="local: the port.",
)
@click.option("--status", is_flag=True, help="local: say what runs, and change nothing.")
@click.option("--stop", is_flag=True, help="local: let runs come to rest, and end it.")
@click.option(
    "--wait",
    default=60.0,
    show_default=True,
    type=click.FloatRange(0.1),
    help="local: seconds until it must be healthy.",
)
@click.option(
    "--drain-timeout",
    default=30.0,
    show_default=True,
    type=click.FloatRange(0.1),
    help="local: seconds that the old one has to end.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), default="dist", help="The folder of the build."
)
@json_option("what was done")
def deploy_command(
    app: str | None,
    where: str,
    host: str,
    port: int,
    status: bool,
    stop: bool,
    wait: float,
    drain_timeout: float,
    out: Path,
    as_json: bool,
) -> None:
    """Build the project, and run it on this machine or make the files for another place.

    local runs it here, in the background, with a log and a health check; deploying again lets the
    runs of the old server come to rest first. docker builds an image if Docker is there. systemd,
    kubernetes and fly write their files into the build and say which commands are left; nothing is
    sent anywhere.

    \b
    Examples:
      mastra-nb deploy --port 4111
      mastra-nb deploy --status
      mastra-nb deploy --stop
      mastra-nb deploy --target docker
    """
    if where != "local" and (status or stop):
        raise UsageError(f"--status and --stop are of the target local, not of {where}")
    if where == "local":
        if status and stop:
            raise UsageError("--status and --stop exclude each other")
        _local(app, host, port, status, stop, wait, drain_timeout, as_json)
        return
    target = find_target(app)
    folder = target.root / out
    made = build(target, folder)
    plan = TARGETS[where](made, folder)
    for name, text in plan.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    written = [os.path.relpath(folder / name) for name in plan.files]
    ran, why = "", ""
    commands = plan.commands
    if where == "docker":
        ran, why = _build_image(made, folder)
        commands = commands[1:] if ran else commands
    elif where == "systemd":
        why = _verify_unit(plan.files[f"{made.name}.service"])
    if as_json:
        say_json(
            {"target": where, "build": str(folder), "files": written, "image": ran,
             "note": why, "commands": commands}
        )  # fmt: skip
        return
    say(f"{os.path.relpath(folder)}: {made.app} · {len(made.files)} files")
    if written:
        say(f"wrote {', '.join(written)}")
    if ran:
        say(f"built the image {ran}")
    if why:
        note(why)
    say("\nLeft to do, from the project's folder:" if commands else "")
    for command in commands:
        say(f"  {command}")


# local


def _local(
    app: str | None,
    host: str,
    port: int,
    status: bool,
    stop: bool,
    wait: float,
    drain: float,
    as_json: bool,
) -> None:
    if status or stop:
        # A project whose code is broken just now can be looked at and stopped.
        from mastra_nb.config import project_root

        local = Local(project_root())
        server = local.stop(drain) if stop else local.server()
        state = "stopped" if stop else "down" if server is None else _state(server)
        _tell(server, state, local, as_json)
        if status and state != "healthy":
            raise click.exceptions.Exit(FAILED)
        return
    target = find_target(app)
    local = Local(target.root)
    server = local.deploy(target, host=host, port=port, wait=wait, drain=drain)
    _tell(server, "healthy", local, as_json)


def _state(server: Server) -> str:
    return "healthy" if is_healthy(server) else "not healthy"


def _tell(server: Server | None, state: str, local: Local, as_json: bool) -> None:
    if as_json:
        about = {} if server is None else {
            "url": server.url, "pid": server.pid, "app": server.app, "release": server.release,
            "since": server.since, "log": str(local.log), "token": str(local.token_file),
        }  # fmt: skip
        say_json({"state": state, **about})
        return
    if server is None:
        say(f"{local.root.name}: down")
        return
    say(f"{local.root.name}: {state} · {server.app} on {server.url} · process {server.pid}")
    if state == "stopped":
        return
    up = int(time.time() - server.since)
    note(f"  release  {server.release}, up for {up // 3600}h {up // 60 % 60}m {up % 60}s")
    note(f"  log      {os.path.relpath(local.log)}")
    note(f"  token    in {os.path.relpath(local.token_file)}, for Authorization: Bearer …")


# docker and systemd


def _build_image(made: Build, folder: Path) -> tuple[str, str]:
    """(image, why not)."""
    docker = shutil.which("docker")
    if docker is None:
        return "", "docker is not installed here: the files are ready, the image is not built"
    try:
        there = subprocess.run(  # noqa: S603
            [docker, "version", "--format", "{{.Server.Version}}"],
            capture_output=True,
            check=False,
            timeout=_DOCKER_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return "", "docker does not answer: the files are ready, the image is not built"
    if there.returncode != 0:
        return "", "docker does not run here: the files are ready, the image is not built"
    image = f"{made.name}:{made.digest}"
    done = subprocess.run(  # noqa: S603
        [docker, "build", "-t", image, str(folder)], check=False, stdout=2
    )
    if done.returncode != 0:
        raise MastraError(
            f"docker build failed with code {done.returncode}", hint="it said why above"
        )
    return image, ""


def _verify_unit(text: str) -> str:
    """What systemd says of the unit; nothing if it is content. Raises ConfigError."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return "systemd is not here, so the unit was not verified"
    # The program is where it will be and not here: any other stands in for it.
    text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE)
    with tempfile.TemporaryDirectory() as folder:
        unit = Path(folder) / "app.service"
        unit.write_text(text, encoding="utf-8")
        done = subprocess.run(  # noqa: S603
            [analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
        )
    said = [line for line in done.stderr.splitlines() if str(unit.name) in line]
    if done.returncode != 0 or said:
        raise ConfigError(f"systemd does not take the unit: {'; '.join(said) or done.stderr}")
    return "systemd-analyze verify has nothing to say against the unit"
