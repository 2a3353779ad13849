"""Keys in the keyring of the operating system, by the names of their variables.

A file of the user lists the names that were put there, never a key: who has put none pays for no
look-up, and `keyring` is imported only when a listed name is wanted.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

_SERVICE = "mastra_nb"

_log = logging.getLogger(__name__)
_found: dict[str, str] = {}


def path() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base, "mastra_nb", "keyring.json")


def names() -> list[str]:
    """Of the keys that were put into the keyring."""
    try:
        listed = json.loads(path().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        _log.warning('"%s" cannot be read: %s', path(), error)
        return []
    return [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []


def find(name: str) -> str | None:
    if (known := _found.get(name)) is not None:
        return known
    if name not in names() or importlib.util.find_spec("keyring") is None:
        return None
    import keyring

    try:
        value = keyring.get_password(_SERVICE, name)
    except Exception as error:  # backends raise what they like
        _log.warning('the keyring does not give "%s": %s', name, type(error).__name__)
        return None
    if value:
        _found[name] = value
    return value or None


def put(name: str, value: str) -> bool:
    """Keep it; False if there is no keyring here that keeps anything."""
    if importlib.util.find_spec("keyring") is None:
        return False
    import keyring

    try:
        keyring.set_password(_SERVICE, name, value)
        kept = bool(keyring.get_password(_SERVICE, name) == value)
    except Exception as error:
        _log.info('the keyring does not keep "%s": %s', name, type(error).__name__)
        return False
    if kept:
        _list({*names(), name})
        _found[name] = value
    return kept


def _list(listed: Iterable[str]) -> None:
    place = path()
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(sorted(listed)), encoding="utf-8")
