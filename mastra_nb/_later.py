"""Modules of the standard library that the first run needs and an import does not.

asyncio brings TLS, sockets and subprocesses along: a quarter of the time of a cold start.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class _Later:
    def __init__(self, name: str, names: dict[str, Any]) -> None:
        self._name = name
        self._names = names

    def __getattr__(self, attribute: str) -> Any:
        module = import_module(self._name)
        self._names[self._name] = module
        return getattr(module, attribute)


def later(name: str, names: dict[str, Any]) -> Any:
    """Stands for the module `name` in `names`, the globals of another, until it is looked into."""
    return _Later(name, names)
