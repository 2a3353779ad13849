"""The files of a project that are deployed, and those that must not be."""

from __future__ import annotations

import fnmatch
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from mastra_nb.config import dotenv
from mastra_nb.errors import ConfigError

# What nobody deploys: environments, caches, data of runs, and what a build makes.
_FOLDERS = frozenset({"__pycache__", "node_modules", "site-packages"})
_FOLDERS_OF_ROOT = frozenset({"build", "dist", "out"})
_FILES = (
    "*.pyc", "*.pyo", "*.db", "*.db-wal", "*.db-shm", "*.db.lock", "*.db-journal", "*.log", "*.whl",
    "*.egg-info", "~*", "*~", "*.swp", "Thumbs.db",
)  # fmt: skip
# Hidden files stay at home, but for these.
_KEPT_HIDDEN = frozenset({".dockerignore", ".python-version", ".streamlit"})
_KEY_FILES = (
    "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.gpg", "*.asc", "*.ppk",
    "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "credentials", "credentials.*",
    "*service-account*.json", "*service_account*.json", "client_secret*.json", "secrets.*",
    "kubeconfig", "*.env", "env.local", "htpasswd",
)  # fmt: skip
_KEY_TEXT = re.compile(
    rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----"
    rb"|\b(?:sk|rk|gsk|xai|pplx|csk)[-_](?=[\w-]*\d)(?=[\w-]*[A-Za-z0-9]{16})[\w-]{20,}"
    rb"|\bgh[pousr]_\w{30,}|\bgithub_pat_\w{30,}|\bhf_(?=\w*\d)\w{30,}"
    rb"|\bAIza[\w-]{30,}|\bAKIA[0-9A-Z]{16}\b|\bxox[abprs]-[\w-]{20,}"
    rb'|"private_key"\s*:\s*"-----BEGIN'
)
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:api_?key|key|token|secret|password|passwd|credentials?)$", re.IGNORECASE
)
_SHORTEST = 8


def collect(
    root: Path, out: Path, *, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> tuple[dict[str, bytes], list[str]]:
    """(path -> content of every file to deploy, databases that stay at home); a notebook is without
    its outputs. `include` are patterns of files to take along nevertheless.

    Raises ConfigError if one looks like a secret, or holds a value that the environment or `.env`
    keeps as one: it names the files, and never what is in them.
    """
    found: dict[str, bytes] = {}
    refused: list[str] = []
    at_home: list[str] = []
    values = [*_values(root)]
    for path in _walk(root, root, out):
        name = path.relative_to(root).as_posix()
        if _matches(path, name, exclude):
            continue
        if _matches(path, path.name, _FILES) and not _matches(path, name, include):
            if path.suffix == ".db" and path.name != "mastra.db":
                at_home.append(name)
            continue
        if path.is_dir():
            refused.append(f'"{name}" is a link to a folder')
            continue
        if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
            refused.append(f'"{name}" is a link that leads out of the project')
            continue
        try:
            data = path.read_bytes()
        except OSError as error:
            refused.append(f'"{name}" cannot be read: {error.strerror}')
            continue
        if path.suffix == ".ipynb":
            data = _without_outputs(data)
        why = _secret(path.name, data, values)
        if why:
            refused.append(f'"{name}" {why}')
        else:
            found[name] = data
    if refused:
        listed = "; ".join(refused[:5]) + (f"; and {len(refused) - 5} more" * (len(refused) > 5))
        raise ConfigError(
            f"nothing was built: {listed}",
            hint="keys belong in the environment; --exclude PATTERN leaves a file out",
        )
    return found, at_home


def _matches(path: Path, name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatch(name, p) or fnmatch.fnmatch(path.name, p) for p in patterns)


def _walk(folder: Path, root: Path, out: Path) -> Iterator[Path]:
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        path = Path(entry.path)
        if entry.name.startswith(".") and entry.name not in _KEPT_HIDDEN:
            continue
        if entry.is_dir(follow_symlinks=False):
            ours = path == out or _is_build(path)
            environment = (path / "pyvenv.cfg").exists()
            known = entry.name in _FOLDERS or (folder == root and entry.name in _FOLDERS_OF_ROOT)
            if not (known or ours or environment):
                yield from _walk(path, root, out)
        elif entry.is_file() or entry.is_symlink():
            yield path


def _is_build(folder: Path) -> bool:
    return (folder / "build.json").is_file() and (
        (folder / "requirements.lock").is_file() or any(folder.glob("*.whl"))
    )


def _values(root: Path) -> Iterable[bytes]:
    """What `.env` and the environment keep as keys: it may stand in any file, such as a cell."""
    for values in (os.environ, dotenv(root)):
        for name, value in values.items():
            # A URL of a database holds one in the middle.
            secret = value if _SECRET_NAME.search(name) else _password(value)
            if len(secret) >= _SHORTEST:
                yield secret.encode(errors="surrogateescape")


def _password(value: str) -> str:
    try:
        return urlsplit(value).password or "" if "://" in value else ""
    except ValueError:
        return ""


def _secret(name: str, data: bytes, values: Iterable[bytes]) -> str:
    """Why it is not copied, nothing if it may be."""
    if any(fnmatch.fnmatch(name.lower(), pattern) for pattern in _KEY_FILES):
        return "is named like a file of keys"
    if _KEY_TEXT.search(data):
        return "holds what looks like a key"
    if any(value in data for value in values):
        return "holds a key of the environment or of .env"
    return ""


def _without_outputs(data: bytes) -> bytes:
    """They are not needed to define anything, and hold what nobody looked through."""
    try:
        notebook = json.loads(data)
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell["outputs"], cell["execution_count"] = [], None
    except (ValueError, KeyError, TypeError):
        return data
    return (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()
