"""Which store a command is about: an application's, one by its URL, else the project's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from mastra_nb.app import Mastra
from mastra_nb.cli._output import aside, note
from mastra_nb.config import default_storage, load_settings, project_root
from mastra_nb.errors import NotFound, UsageError
from mastra_nb.storage import Store

F = TypeVar("F", bound=Callable[..., Any])


def store_options(command: F) -> F:
    app = click.option(
        "--app", "target", metavar="TARGET",
        help="app.py, package.module:name or analyst.ipynb, instead of the project's store.",
    )  # fmt: skip
    store = click.option(
        "--store", "url", metavar="URL", help="A store by its URL, such as sqlite:///mastra.db."
    )
    return app(store(command))


def app_option(command: F) -> F:
    return click.option(
        "--app", "target", metavar="TARGET",
        help="app.py, package.module:name or analyst.ipynb; by default the project's application.",
    )(command)  # fmt: skip


def load(target: str | None) -> Mastra:
    """As `load_app`; what its code prints goes to standard error."""
    from mastra_nb.cli._projects import load_app

    with aside():
        return load_app(target)


def open_app(target: str | None, url: str | None, *, make: bool = False) -> Mastra:
    """An application to read the store with, its parts if `target` names one. Where there is no
    file yet it is empty, unless `make`. Raises UsageError, ConfigError, StorageError.
    """
    if target and url:
        raise UsageError("--app and --store both name a store", hint="give one of them")
    if target:
        app = load(target)
        if app.store is None:
            raise NotFound(
                f'"{target}" has no store', hint='Mastra(storage="sqlite:///mastra.db") keeps runs'
            )
        return app
    settings = load_settings()
    url = url or default_storage(settings, project_root())
    path = file_of(url)
    if path is not None and not make and not path.exists():
        note(f'there is no store at "{path}" yet')
        url = "memory://"
    return Mastra(storage=url, settings=settings)


def file_of(url: str) -> Path | None:
    """The file of a SQLite store."""
    if not url.startswith("sqlite:///"):
        return None
    name = url.removeprefix("sqlite:///").partition("?")[0]
    return None if name.startswith(":memory:") else Path(name).expanduser()


def need(app: Mastra) -> Store:
    assert app.store is not None
    return app.store
