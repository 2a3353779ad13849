"""Wheels without a build: of what is installed here, and of a project."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path, PurePosixPath

import mastra_nb
from mastra_nb.cli._lock import OURS, distribution
from mastra_nb.errors import ConfigError

PURE = "py3-none-any"
# The time stamp of every file, so that the same files give the same wheel.
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_wheel(
    folder: Path, name: str, version: str, files: Mapping[str, bytes], about: Mapping[str, bytes]
) -> Path:
    """`about` are the files of its .dist-info, METADATA and WHEEL among them."""
    stem = f"{re.sub(r'[^A-Za-z0-9.]+', '_', name)}-{version}"
    tags = re.findall(r"^Tag: (\S+)$", about["WHEEL"].decode(), re.MULTILINE)
    every = {**files, **{f"{stem}.dist-info/{key}": data for key, data in about.items()}}
    record = "".join(
        f"{path},sha256={_digest(data)},{len(data)}\n" for path, data in sorted(every.items())
    )
    itself = f"{stem}.dist-info/RECORD"
    every[itself] = f"{record}{itself},,\n".encode()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{stem}-{tags[0]}.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, data in sorted(every.items()):
            entry = zipfile.ZipInfo(path, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            wheel.writestr(entry, data)
    return target


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def about_wheel(tag: str = PURE) -> bytes:
    text = f"Wheel-Version: 1.0\nGenerator: mastra-nb\nRoot-Is-Purelib: true\nTag: {tag}\n"
    return text.encode()


def about_package(name: str, version: str, requires: Iterable[str], *, python: str = "") -> bytes:
    """METADATA."""
    requires = [*requires]
    extras = sorted(set(re.findall(r"extra == [\"']([\w-]+)[\"']", "\n".join(requires))))
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Python: {python}"] if python else []
    lines += [f"Provides-Extra: {extra}" for extra in extras]
    lines += [f"Requires-Dist: {text}" for text in requires]
    return ("\n".join(lines) + "\n").encode()


def pack(name: str, folder: Path) -> str:
    """Write the installed distribution `name` as a wheel into `folder`; returns the file's name.

    Raises ConfigError for one whose files are elsewhere (installed with -e).
    """
    found = distribution(name)
    assert found is not None
    files, about = _own_files() if name == OURS else _installed_files(name)
    return write_wheel(folder, name, found.version, files, about).name


def _own_files() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Without what only JupyterLab needs."""
    package = Path(mastra_nb.__file__).parent
    files = {
        f"mastra_nb/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in package.rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and path.relative_to(package).parts[0] != "labextension"
    }
    found = distribution(OURS)
    assert found is not None
    return files, {
        "METADATA": about_package(OURS, found.version, found.requires),
        "WHEEL": about_wheel(),
        "entry_points.txt": b"[console_scripts]\nmastra-nb = mastra_nb.cli:main\n",
    }


def _installed_files(name: str) -> tuple[dict[str, bytes], dict[str, bytes]]:
    known = metadata.distribution(name)
    files: dict[str, bytes] = {}
    about: dict[str, bytes] = {}
    if json.loads(known.read_text("direct_url.json") or "{}").get("dir_info", {}).get("editable"):
        raise ConfigError(
            f'"{name}" is installed with pip install -e, so it cannot be packed',
            hint="pip install it without -e, then build again",
        )
    for each in known.files or []:
        path = PurePosixPath(each.as_posix())
        if ".." in path.parts or path.suffix == ".pyc":
            continue  # scripts are made anew where it is installed
        data = Path(str(each.locate())).read_bytes()
        if not path.parts[0].endswith(".dist-info"):
            files[str(path)] = data
        elif path.name not in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json"):
            about["/".join(path.parts[1:])] = data
    return files, about
