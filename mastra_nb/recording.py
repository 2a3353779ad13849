"""`record(name=value)`: what a notebook gives, read from its outputs by whoever ran it."""

from __future__ import annotations

import sys
from typing import Any

from mastra_nb.errors import SchemaError, UsageError
from mastra_nb.jsonable import exact

MIME = "application/vnd.mastra.value.v1+json"

_MOST = 1_000_000


def record(**values: Any) -> None:
    """Keep `values` as results of this notebook: a batch makes columns of them. The last of a name
    counts. Outside of a notebook they are printed.

    Raises SchemaError for what JSON cannot hold, UsageError for a value over 1 MB.
    """
    for name, value in values.items():
        try:
            plain = exact(value)
        except SchemaError as error:
            raise SchemaError(f'"{name}": {error.message}', hint=error.hint) from None
        shown = f"{name} = {plain!r}"
        if len(shown) > _MOST:
            raise UsageError(
                f'the value of "{name}" is {len(shown):,} characters long',
                hint="write it to a file, and record the path of that",
            )
        shell = _shell()
        if shell is None:
            sys.stdout.write(f"{shown}\n")
        else:
            bundle = {MIME: {"name": name, "value": plain}, "text/plain": shown}
            shell.display_pub.publish(data=bundle)


def _shell() -> Any:
    """Nobody is in a notebook whose process has not imported IPython."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()


def recorded(output: dict[str, Any]) -> tuple[str, Any] | None:
    """Name and value that an output of an executed notebook holds, if it holds one."""
    found = output.get("data", {}).get(MIME)
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return None
    return (found["name"], found["value"]) if "value" in found else None
