"""What `mastra-nb build` puts into a folder, what it keeps out, and what `deploy` makes of it."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from mastra_nb.app import open_store
from mastra_nb.cli import _projects
from mastra_nb.cli._local import Local, Server
from mastra_nb.cli._lock import lock, project_requirements
from mastra_nb.cli._wheel import pack
from mastra_nb.cli.build import build_command, dockerfile
from mastra_nb.cli.deploy import deploy_command
from mastra_nb.errors import ConfigError, MastraError, NotFound, UsageError
from mastra_nb.portal import run as block

ROOT = Path(__file__).resolve().parents[2]
_CLEAN = re.compile(r"MASTRA|_API_KEY$|_TOKEN$|^(DATABASE_URL|OLLAMA_HOST|LOG_LEVEL)$")
CANARY = "canary-4f1c-do-not-copy"
# In pieces, so that this file holds none.
LIKE_A_KEY = "sk-" + "proj-a1b2c3d4e5f6a7b8c9d0e1f2"

APP = """
import asyncio
from mastra_nb import Agent, Workflow, step

WORD = "first"

@step
async def work(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return WORD

slow = Workflow(name="slow", input=float).then(work)
helper = Agent(name="helper", instructions=WORD)
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_process: None) -> Path:
    for name in [n for n in os.environ if _CLEAN.search(n)]:
        monkeypatch.delenv(name)
    root = tmp_path / "shop"
    root.mkdir()
    monkeypatch.chdir(root)
    (root / "mastra.toml").write_text('app = "app.py"\n')
    (root / "app.py").write_text(APP)
    return root


def call(command: Any, *args: object) -> Result:
    # As in the group: click makes a command's help option once.
    names = ["-h", "--help"]
    result = CliRunner().invoke(command, [*map(str, args)], help_option_names=names)
    if isinstance(result.exception, MastraError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def build(*args: object) -> dict[str, Any]:
    return dict(json.loads(call(build_command, *args, "--json").stdout))


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


# What is in it


def test_a_build_has_all_that_a_server_needs(project: Path) -> None:
    (project / "shop").mkdir()
    (project / "shop" / "data.json").write_text("{}")
    (project / "shop" / "__pycache__").mkdir()
    (project / "shop" / "__pycache__" / "x.pyc").write_text("x")
    (project / "venv").mkdir()
    (project / "venv" / "pyvenv.cfg").write_text("")
    (project / "venv" / "inside.py").write_text("")
    made = build()
    dist = project / "dist"
    ours = {n for n in names(dist) if not n.startswith("wheels/")}
    assert ours == {
        "app.py", "mastra.toml", "shop/data.json", "requirements.lock", "Dockerfile",
        ".dockerignore", "build.json",
    }  # fmt: skip
    assert made["agents"] == ["helper"] and made["workflows"] == ["slow"]
    assert made == json.loads((dist / "build.json").read_text())
    for name, digest in made["files"].items():
        assert hashlib.sha256((dist / name).read_bytes()).hexdigest() == digest
    assert {*made["files"]} == names(dist) - {"build.json"}
    assert {p.name for p in project.iterdir()} == {"app.py", "mastra.toml", "dist", "shop", "venv"}


def test_the_same_project_gives_the_same_build(project: Path) -> None:
    first = build()
    (project / "dist" / "stale.txt").write_text("stale")
    again = build()
    assert first == again and "stale.txt" not in names(project / "dist")
    (project / "app.py").write_text(APP.replace("first", "second"))
    assert build()["files"]["app.py"] != first["files"]["app.py"]


def test_the_locked_versions_are_those_of_here(project: Path) -> None:
    from importlib.metadata import version

    made = build()
    lines = (project / "dist" / "requirements.lock").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pinned == made["packages"]
    for name in ("starlette", "uvicorn", "msgspec", "httpx", "h11"):
        assert pinned[name] == version(name)
    assert not {"pytest", "mypy", "jupyterlab", "papermill"} & {*pinned}
    assert made["unlocked"] == []


def test_what_a_project_needs_is_locked_too(project: Path) -> None:
    (project / "pyproject.toml").write_text('[project]\nname = "shop"\ndependencies = ["pandas"]\n')
    (project / "requirements.txt").write_text("tqdm>=4  # progress\n\n")
    assert {"pandas", "python-dateutil", "tqdm"} <= {*build()["packages"]}
    (project / "requirements.txt").write_text("nobody-has-this>=1\n")
    with pytest.raises(ConfigError, match='needs "nobody-has-this>=1", which is not installed'):
        build()
    (project / "requirements.txt").write_text("click>=999\n")
    with pytest.raises(ConfigError, match='needs "click>=999", and .* is installed'):
        build()
    (project / "requirements.txt").write_text("-r other.txt\n")
    with pytest.raises(ConfigError, match="cannot be locked"):
        build()


def test_extras_and_markers_of_the_target_count() -> None:
    found = lock(["httpx[http2]; extra == 'never'", "mastra-nb[mcp]"])
    assert "mcp" in found.versions and "uvicorn" in found.versions
    assert "appnope" not in found.versions and "colorama" not in found.versions


def test_the_packed_wheel_is_one_that_pip_takes(tmp_path: Path) -> None:
    name = pack("mastra-nb", tmp_path / "wheels")
    again = pack("mastra-nb", tmp_path / "again")
    first, second = tmp_path / "wheels" / name, tmp_path / "again" / again
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as wheel:
        inside = wheel.namelist()
    assert "mastra_nb/cli/templates/agent/app.py.tmpl" in inside
    assert not [n for n in inside if "__pycache__" in n or "/labextension/" in n]
    to = tmp_path / "to"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "-t", to, first],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    code = "import mastra_nb as m; from importlib.metadata import version as v; "
    code += "print(m.__file__, v('mastra-nb'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(to)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == [str(to / "mastra_nb" / "__init__.py"), "0.1.0"], done.stderr


def test_the_image_runs_as_nobody_and_hears_sigterm(project: Path) -> None:
    build()
    text = (project / "dist" / "Dockerfile").read_text()
    assert text.startswith(f"FROM python:{sys.version_info[0]}.{sys.version_info[1]}-slim\n")
    (command,) = re.findall(r"^CMD (.*)$", text, re.MULTILINE)
    assert json.loads(command)[:5] == ["mastra-nb", "serve", "app.py", "--host", "0.0.0.0"]
    (health,) = re.findall(r"^HEALTHCHECK .*\\\n +CMD (.*)$", text, re.MULTILINE)
    assert "/health" in json.loads(health)[2]
    compile(json.loads(health)[2], "health", "exec")
    assert text.index("\nUSER app\n") > text.index("RUN pip install")
    assert "\nENV DATABASE_URL=sqlite:////data/mastra.db\n" in text
    (project / "mastra.toml").write_text('app = "app.py"\nstorage = "postgresql://db/shop"\n')
    assert "\nENV DATABASE_URL" not in dockerfile(_projects.find_target(), "3.11", wheels=True)


def test_a_dockerfile_of_ones_own_stays(project: Path) -> None:
    (project / "Dockerfile").write_text("FROM mine\n")
    build()
    assert (project / "dist" / "Dockerfile").read_text() == "FROM mine\n"


def test_a_wheel_has_the_project_and_a_command(project: Path, tmp_path: Path) -> None:
    (project / "words.py").write_text("WORD = 'from beside'\n")
    (project / "app.py").write_text("from words import WORD\n" + APP.replace('WORD = "first"', ""))
    (project / "pyproject.toml").write_text('[project]\nname = "shop"\nversion = "1.2"\n')
    out = call(build_command, "--target", "wheel").output
    assert "pip install --find-links dist/wheels dist/shop-1.2-py3-none-any.whl" in out
    assert names(project / "dist") >= {"shop-1.2-py3-none-any.whl", "build.json"}
    assert "app.py" not in names(project / "dist")
    first = json.loads((project / "dist" / "build.json").read_text())
    assert build("--target", "wheel") == first
    to = tmp_path / "to"
    wheel = project / "dist" / "shop-1.2-py3-none-any.whl"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "-t", to, wheel],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    requires = (to / "shop-1.2.dist-info" / "METADATA").read_text()
    assert "Requires-Dist: mastra-nb==0.1.0\n" in requires and "starlette==" in requires
    assert (to / "bin" / "shop").exists()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".env").write_text("MASTRA_NB_SERVER_TOKEN=token-of-the-test\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(to), str(ROOT)])}
    server = subprocess.Popen(
        [sys.executable, "-m", "shop_app", "--port", str(number)],
        cwd=elsewhere, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        agents = answer_of(server, number, "/api/agents", "token-of-the-test")
        assert agents["helper"]["instructions"] == "from beside"
    finally:
        server.terminate()
        said = server.communicate(timeout=30)[0]
    assert (elsewhere / "mastra.db").exists(), said
    assert not [*to.rglob("*.db")]


def test_a_wheel_of_a_project_without_settings_is_a_project(project: Path) -> None:
    def inside() -> set[str]:
        build("--target", "wheel")
        (wheel,) = (project / "dist").glob("*.whl")
        with zipfile.ZipFile(wheel) as file:
            return {n.partition("/project/")[2] for n in file.namelist()}

    (project / "mastra.toml").unlink()
    assert "mastra.toml" in inside()
    (project / "pyproject.toml").write_text("[tool.mastra]\n")
    assert "mastra.toml" not in inside()


def answer_of(server: subprocess.Popen[str], port: int, path: str, token: str = "") -> Any:
    """What a server that is starting says, once it does."""
    deadline = time.monotonic() + 30
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            assert answer.status == 200
            return json.loads(answer.read())
        except OSError:
            assert time.monotonic() < deadline and server.poll() is None
            time.sleep(0.1)
        finally:
            connection.close()


# What is kept out


def test_secrets_and_data_stay_at_home(project: Path) -> None:
    (project / ".env").write_text(f"OPENAI_API_KEY={CANARY}\nMODE=plain-value-of-no-secret\n")
    (project / ".env.local").write_text(f"X={CANARY}\n")
    (project / "mastra.db").write_text(CANARY)
    (project / "mastra.db-wal").write_text(CANARY)
    (project / ".mastra").mkdir()
    (project / ".mastra" / "token").write_text(CANARY)
    (project / "readme.md").write_text("plain-value-of-no-secret is no secret\n")
    notebook = {
        "cells": [
            {
                "cell_type": "code",
                "source": ["1"],
                "metadata": {},
                "execution_count": 7,
                "outputs": [{"output_type": "stream", "name": "stdout", "text": [CANARY]}],
            }
        ],
        "metadata": {},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    (project / "play.ipynb").write_text(json.dumps(notebook))
    build()
    every = b"".join(p.read_bytes() for p in (project / "dist").rglob("*") if p.is_file())
    assert CANARY.encode() not in every
    assert {"play.ipynb", "readme.md"} <= names(project / "dist")
    assert json.loads((project / "dist" / "play.ipynb").read_text())["cells"][0]["outputs"] == []


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("server.pem", "x", "is named like a file of keys"),
        ("deep/id_ed25519", "x", "is named like a file of keys"),
        ("credentials.json", "{}", "is named like a file of keys"),
        ("prod.env", "A=1", "is named like a file of keys"),
        ("notes.md", "-----BEGIN OPENSSH PRIVATE " + "KEY-----", "holds what looks like a key"),
        ("config.py", f'KEY = "{LIKE_A_KEY}"', "holds what looks like a key"),
        ("old.py", f'KEY = "{CANARY}"', "holds a key of the environment or of .env"),
        ("db.py", "login('shop', 'swordfish-77')", "holds a key of the environment or of .env"),
    ],
)
def test_a_file_that_looks_like_a_key_stops_the_build(
    project: Path, name: str, text: str, why: str
) -> None:
    (project / ".env").write_text(
        f"AWS_SECRET_ACCESS_KEY={CANARY}\nOTHER_DB=postgresql://shop:swordfish-77@db/shop\n"
    )
    path = project / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    with pytest.raises(ConfigError, match=f'"{name}" {why}') as caught:
        build()
    assert text not in str(caught.value) or text == "x"
    assert not (project / "dist").exists()
    assert name not in names(project / "dist") and build("--exclude", name)["files"]


def test_what_only_resembles_a_key_is_none(project: Path) -> None:
    text = "sk_logistic_regression_model_v2 = 'sk-learn-based-1-nearest-neighbour'\n"
    (project / "model.py").write_text(f"{text}# https://user@example.org/?token=short\n")
    (project / "key.py").write_text("KEY = 'primary'\n")
    assert {"model.py", "key.py"} <= {*build()["files"]}


def test_a_key_of_the_environment_is_looked_for(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_TOKEN", CANARY)
    (project / "app.py").write_text(APP + f"\n# {CANARY}\n")
    with pytest.raises(ConfigError, match=r'"app.py" holds a key of the environment') as caught:
        build()
    assert CANARY not in str(caught.value)


def test_links_do_not_lead_out(project: Path) -> None:
    outside = project.parent / "outside.txt"
    outside.write_text("outside")
    (project / "in.txt").write_text("in")
    (project / "near.txt").symlink_to(project / "in.txt")
    build()
    assert (project / "dist" / "near.txt").read_text() == "in"
    (project / "far.txt").symlink_to(outside)
    with pytest.raises(ConfigError, match='"far.txt" is a link that leads out'):
        build()
    (project / "far.txt").unlink()
    (project / "folder").symlink_to(project.parent)
    with pytest.raises(ConfigError, match='"folder" is a link to a folder'):
        build()


def test_databases_stay_unless_told(project: Path) -> None:
    (project / "catalog.db").write_text("x")
    result = call(build_command)
    assert "databases stay at home" in result.output and "catalog.db" in result.output
    assert "catalog.db" not in names(project / "dist")
    assert "catalog.db" in build("--include", "catalog.db")["files"]


def test_a_folder_that_is_no_build_is_not_written_over(project: Path) -> None:
    (project / "dist").mkdir()
    (project / "dist" / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="is no build of ours"):
        build()
    assert (project / "dist" / "thesis.tex").read_text() == "mine"
    with pytest.raises(UsageError, match="holds the project"):
        build("--out", "..")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("1 / 0", "the build does not work: .*ZeroDivisionError"),
        ("import os; os._exit(3)", "cannot be loaded from the build: it said nothing"),
        ("from pathlib import Path\nPath('.hidden').read_text()", "FileNotFoundError"),
    ],
)
def test_what_does_not_load_is_not_built(project: Path, source: str, message: str) -> None:
    (project / ".hidden").write_text("here")
    first = build()
    (project / "app.py").write_text(source)
    with pytest.raises(ConfigError, match=message):
        build()
    assert json.loads((project / "dist" / "build.json").read_text()) == first
    assert [p.name for p in project.iterdir() if p.name.startswith(".dist")] == []


def analyst(project: Path) -> None:
    (project / "mastra.toml").write_text('app = "analyst.ipynb"\n')
    cell = {
        "cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None,
        "source": "%%agent analyst\nBe brief.",
    }  # fmt: skip
    asks = {**cell, "source": "%%ask analyst\nNobody hears this."}
    book = {"cells": [cell, asks], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (project / "analyst.ipynb").write_text(json.dumps(book))


def test_a_notebook_is_built_too(project: Path) -> None:
    analyst(project)
    assert build()["agents"] == ["analyst"]
    assert '"serve", "analyst.ipynb"' in (project / "dist" / "Dockerfile").read_text()


def test_requirements_are_those_of_the_server_at_least(project: Path) -> None:
    assert project_requirements(project) == ["mastra-nb[server]"]


# Elsewhere


def test_a_unit_that_systemd_takes(project: Path) -> None:
    result = call(deploy_command, "--target", "systemd")
    unit = (project / "dist" / "shop.service").read_text()
    if shutil.which("systemd-analyze"):
        assert "has nothing to say against the unit" in result.output
    for line in ("KillSignal=SIGTERM", "TimeoutStopSec=30", "DynamicUser=yes", "ProtectHome=yes"):
        assert f"\n{line}\n" in unit
    assert "ExecStart=/opt/shop/venv/bin/mastra-nb serve app.py" in unit
    assert "systemctl enable" in result.output


def test_manifests_that_kubernetes_reads(project: Path) -> None:
    told = json.loads(call(deploy_command, "--target", "kubernetes", "--json").stdout)
    text = (project / "dist" / "kubernetes.yaml").read_text()
    claim, deployment, service = yaml.safe_load_all(text)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert deployment["spec"]["strategy"]["type"] == "Recreate"
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert claim["metadata"]["name"] == "shop" and any("kubectl" in c for c in told["commands"])


def test_fly_and_docker_say_what_is_left(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tomllib

    call(deploy_command, "--target", "fly")
    fly = tomllib.loads((project / "dist" / "fly.toml").read_text())
    assert fly["kill_signal"] == "SIGTERM" and fly["http_service"]["internal_port"] == 4111
    monkeypatch.setenv("PATH", str(project / "nothing"))
    out = call(deploy_command, "--target", "docker").output
    assert "docker is not installed here" in out and "docker build -t shop:" in out
    with pytest.raises(UsageError, match="are of the target local"):
        call(deploy_command, "--target", "fly", "--stop")


# Here


@pytest.fixture
def port(project: Path) -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = int(free.getsockname()[1])
    yield number
    local = Local(project)
    if local.server() is not None:
        local.stop(20)


def request(server: Server, path: str, method: str = "GET", body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    token = (Path.cwd() / ".mastra" / "deploy" / "token").read_text()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection.request(method, path, body=json.dumps(body) if body else None, headers=headers)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, json.loads(data)


def deploy(port: int, *args: object) -> Server:
    call(deploy_command, "--port", port, *args)
    found = Local(Path.cwd()).server()
    assert found is not None
    return found


def test_a_server_here_is_started_replaced_and_stopped(project: Path, port: int) -> None:
    (project / ".env").write_text("SHOP_MODE=kept-in-env\n")
    reads = "import os\nSAID = os.environ.get('SHOP_MODE', 'none')\n"
    (project / "app.py").write_text(reads + APP.replace('WORD = "first"', "WORD = SAID"))
    first = deploy(port)
    status, agents = request(first, "/api/agents")
    assert status == 200 and agents["helper"]["instructions"] == "kept-in-env"
    token = project / ".mastra" / "deploy" / "token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert "mastra.db" in {p.name for p in project.iterdir()}
    told = json.loads(call(deploy_command, "--status", "--json").stdout)
    assert told["state"] == "healthy" and told["pid"] == first.pid and told["url"] == first.url

    kept = token.read_text()
    (project / "app.py").write_text(APP.replace("first", "second"))
    second = deploy(port)
    assert second.pid != first.pid and not first.alive and second.release != first.release
    assert request(second, "/api/agents")[1]["helper"]["instructions"] == "second"
    assert token.read_text() == kept

    assert "stopped" in call(deploy_command, "--stop").output
    assert not second.alive
    result = call(deploy_command, "--status")
    assert result.exit_code == 1 and "down" in result.output
    with pytest.raises(NotFound, match="nothing of"):
        call(deploy_command, "--stop")


def test_a_notebook_is_served(project: Path, port: int) -> None:
    analyst(project)
    server = deploy(port)
    assert request(server, "/api/agents")[1]["analyst"]["instructions"] == "Be brief."
    assert server.app == "analyst.ipynb"
    (project / "app.py").write_text(APP)
    assert {*request(deploy(port, "app.py"), "/api/agents")[1]} == {"helper"}


def test_nobody_without_the_token_gets_more_than_its_health(project: Path, port: int) -> None:
    deploy(port)
    for path, expected in (("/health", 200), ("/api/agents", 401)):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", path)
        assert connection.getresponse().status == expected
        connection.close()


@pytest.mark.parametrize(("drain", "seconds"), [(30, 6.0), (11, 12.0)], ids=["rests", "cut off"])
def test_runs_come_to_rest_or_are_taken_up(
    project: Path, port: int, drain: int, seconds: float
) -> None:
    """A run that takes longer than the old server has is cut off, and ended by the new one."""
    server = deploy(port, "--drain-timeout", drain)
    answers: list[tuple[int, Any]] = []

    def start() -> None:
        body = {"inputData": seconds}
        answers.append(request(server, "/api/workflows/slow/start-async", "POST", body))

    client = threading.Thread(target=start)
    client.start()
    store = open_store(f"sqlite:///{project}/mastra.db")

    def runs() -> list[str]:
        return [row.status for row in block(store.find_runs(name="slow"))]

    def wait_for(status: str) -> None:
        deadline = time.monotonic() + 40
        while runs() != [status]:
            assert time.monotonic() < deadline, runs()
            time.sleep(0.05)

    wait_for("running")
    deploy(port, "--drain-timeout", drain)
    client.join(20)
    assert runs() == ["done" if drain > seconds else "running"]
    if drain > seconds:
        assert answers[0][0] == 200
    wait_for("done")
    block(store.close())


def test_one_that_does_not_start_leaves_the_old_one(project: Path, port: int) -> None:
    first = deploy(port)
    # It loads where it is tried out, and not where it is served.
    broken = "import sys\nif 'serve' in sys.argv: raise RuntimeError('no such luck')\n"
    (project / "app.py").write_text(broken + APP)
    with pytest.raises(MastraError, match="ended while it started") as caught:
        deploy(port)
    assert "no such luck" in caught.value.message
    back = Local(project).server()
    assert back is not None and back.release == first.release and back.pid != first.pid
    assert request(back, "/api/agents")[0] == 200
    (project / "app.py").write_text("1 / 0")
    with pytest.raises(ConfigError, match="does not work"):
        deploy(port)
    assert Local(project).server() == back


def test_a_port_that_is_taken_is_said(project: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"port \d+ of 127.0.0.1 cannot be used"):
            call(deploy_command, "--port", taken.getsockname()[1])


def test_another_process_with_the_same_id_is_left_alone(project: Path) -> None:
    state = project / ".mastra" / "deploy" / "server.json"
    state.parent.mkdir(parents=True)
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        about = {"pid": other.pid, "born": "1", "host": "127.0.0.1", "port": 1, "app": "app.py"}
        state.write_text(json.dumps({**about, "release": "x", "since": 0.0}))
        assert Local(project).server() is None
        with pytest.raises(NotFound):
            call(deploy_command, "--stop")
        assert other.poll() is None
    finally:
        other.communicate(b"\n")


@pytest.mark.slow
def test_the_build_runs_in_an_environment_of_its_own(project: Path, tmp_path: Path) -> None:
    """As the Dockerfile does it: a fresh environment, and nothing but the folder."""
    build()
    dist = tmp_path / "srv"
    shutil.copytree(project / "dist", dist)
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    install = [python, "-m", "pip", "install", "-q", "--find-links", "wheels"]
    done = subprocess.run(
        [*install, "-r", "requirements.lock"], cwd=dist, env=clean, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    command = [python.with_name("mastra-nb"), "serve", "--no-token", "--port", str(number)]
    env = {**clean, "DATABASE_URL": f"sqlite:///{tmp_path}/data.db"}
    server = subprocess.Popen(command, cwd=dist, env=env, stderr=subprocess.PIPE, text=True)
    try:
        assert "helper" in answer_of(server, number, "/api/agents")
    finally:
        server.terminate()
        said = server.communicate(timeout=30)[1]
    assert server.returncode in (0, -15), said
    assert names(dist) >= {"app.py"} and not (dist / "mastra.db").exists()
