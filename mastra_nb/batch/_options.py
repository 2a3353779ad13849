"""What `run_batch` is given, checked before anything runs."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal, get_args

from mastra_nb.errors import ConfigError, NotFound

Approvals = Literal["suspend", "deny"]


def code_of(notebook: Path) -> str:
    """A digest of its code: what it prints and shows may change. Raises NotFound, ConfigError."""
    if not notebook.is_file():
        raise NotFound(f'there is no notebook "{notebook}"', hint="a path that ends in .ipynb")
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        code = [c["source"] for c in cells if c["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f'"{notebook}" is no notebook', hint="a file in nbformat 4") from error
    text = json.dumps(["".join(source) for source in code])
    return hashlib.sha256(f"{notebook.name}\0{text}".encode()).hexdigest()


def check_count(what: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{what} is {value!r}", hint=f"a whole number from {least}")


def check_positive(**given: Any) -> None:
    for what, value in given.items():
        if value is not None and not (isinstance(value, int | float) and 0 < value < float("inf")):
            unit = "seconds" if what == "timeout" else "dollars"
            raise ConfigError(f"{what} is {value!r}", hint=f"a number of {unit} above 0")


def check_approvals(approvals: Any, approve: Any) -> None:
    if approvals not in get_args(Approvals):
        raise ConfigError(
            f"approvals is {approvals!r}",
            hint='"suspend" or "deny"; approve=["name of a tool"] approves the calls of that one',
        )
    if isinstance(approve, str) or not all(isinstance(each, str) and each for each in approve):
        raise ConfigError(f"approve is {approve!r}", hint='names of tools: approve=["send"]')


def check_name(name: Any) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]{0,80}", name):
        raise ConfigError(f"the name {name!r} will not do", hint="letters, digits, _ . and -")
