"""doctor, version, completion: about the installation and the project."""

from __future__ import annotations

import importlib.util
import platform
import sys
from functools import partial
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Any

import click

from mastra_nb import __version__
from mastra_nb.cli._output import FAILED, OK, json_option, say, say_json, say_table, wait

_PACKAGES = (
    "apsw", "sqlite-vec", "httpx", "msgspec", "numpy", "click", "ipython", "ipykernel",
    "jupyterlab", "anywidget", "papermill", "starlette", "uvicorn", "mcp", "xllamacpp", "dask",
)  # fmt: skip


@click.command()
@json_option("them")
def version(as_json: bool) -> None:
    """Show the versions of mastra_nb, Python and what they build upon.

    \b
    Example:
      mastra-nb version --json
    """
    found: dict[str, str | None] = {
        "mastra-nb": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: _version(name) for name in _PACKAGES},
    }
    if as_json:
        say_json(found)
        return
    rows: list[tuple[str, Any]] = [(name, value or "-") for name, value in found.items()]
    say_table(("", "version"), [*rows, ("prefix", sys.prefix)], empty="")


def _version(name: str) -> str | None:
    try:
        return version_of(name)
    except PackageNotFoundError:
        return None


# doctor

_EXTRAS = (
    ("server", "uvicorn", "serve, dev"),
    ("batch", "papermill", "batch, run of a notebook"),
    ("mcp", "mcp", "tools of MCP servers"),
    ("rag", "markitdown", "documents of PDF and Office"),
)


@click.command()
@click.argument("target", required=False)
@click.option("--offline", is_flag=True, help="Ask no model's server.")
@json_option("what was found")
@click.pass_context
def doctor(ctx: click.Context, target: str | None, offline: bool, as_json: bool) -> None:
    """Check the installation and the project: model, store, extras; say what to do.

    TARGET is the application, by default the project's. Keys are never shown, only whether there
    is one. The exit code is 1 if something does not work.

    \b
    Example:
      mastra-nb doctor --offline
    """
    from mastra_nb import checks

    every, close = _checks(target, offline)

    async def work() -> list[checks.Check]:
        try:
            return await checks.made(every)
        finally:
            await close()

    found = wait(work())
    wrong = any(c.state == "wrong" for c in found)
    if as_json:
        say_json([
            {"name": c.name, "state": c.state, "found": c.found, "do": c.do} for c in found
        ])  # fmt: skip
    else:
        width = max(len(c.name) for c in found)
        for each in found:
            say(f"{checks.MARKS[each.state]} {each.name:<{width}}  {each.found}")
            if each.do:
                say(f"  {'':<{width}}  → {each.do}")
        say(checks.summary(found))
    ctx.exit(FAILED if wrong else OK)


def _checks(target: str | None, offline: bool) -> tuple[list[Any], Any]:
    """What is looked at, and what closes the store afterwards."""
    from mastra_nb import checks
    from mastra_nb.agents import Agent
    from mastra_nb.cli._projects import find_target
    from mastra_nb.cli._store import file_of, load
    from mastra_nb.config import default_storage, load_settings, project_root, redact
    from mastra_nb.errors import MastraError, NotFound

    settings, root = load_settings(), project_root()
    app, problem = None, None
    try:
        app = load(target)
        where = str(find_target(target))
    except NotFound as error:
        problem = checks.Check(
            name="application", state="wrong" if target else "note", found=error.message,
            do=error.hint,
        )  # fmt: skip
    except MastraError as error:
        problem = checks.Check(
            name="application", state="wrong", found=error.message, do=error.hint
        )
    if app is not None:
        parts = [f"{len(p):,} {n}" for n, p in (
            ("agents", app.agents), ("workflows", app.workflows), ("tools", app.tools),
        ) if p]  # fmt: skip
        problem = checks.ok("application", f"{where}: {', '.join(parts) or 'nothing in it'}")
    url = default_storage(settings, root)
    store = app.store if app is not None else None
    every: list[Any] = [
        ("Python", checks.python),
        ("mastra_nb", lambda: checks.ok("mastra_nb", __version__)),
        ("project", lambda: checks.ok("project", str(root))),
        ("application", lambda: problem),
    ]
    agents: list[Agent[Any]] = [*app.agents.values()] if app is not None else []
    named = [a.model for a in agents if isinstance(a.model, str)]
    if settings.model and (not agents or any(a.model is None for a in agents)):
        named.append(settings.model)
    for model in dict.fromkeys(named):
        provider = model.partition("/")[0]
        every += [
            ("model", partial(
                checks.model, model, offline=offline, do=f"set the key of {provider} in .env",
                listed="give one that it has", name=f"model {model}",
            )),
            ("price", partial(checks.price, model, settings.prices, name=f"price {model}")),
        ]  # fmt: skip
    path = file_of(url)
    if store is None and path is not None and not path.exists():
        every.append(("store", lambda: checks.ok("store", f"{path}: none yet")))
    elif store is None:
        every.append(("store", lambda: checks.ok("store", redact(url))))
    else:
        every += [
            ("store", lambda: checks.store(store, redact(store.url))),
            ("vectors", lambda: checks.vectors(store)),
        ]
    every += [
        ("embedder", checks.embedder),
        *((extra, partial(_extra, extra, module, use)) for extra, module, use in _EXTRAS),
        ("disk", lambda: checks.disk(store.url if store is not None else url)),
    ]
    if importlib.util.find_spec("jupyter_core") is not None:
        from mastra_nb.notebook._doctor import extension

        every.append(("lab extension", extension))

    async def close() -> None:
        if app is not None:
            await app.close()

    return every, close


def _extra(extra: str, module: str, use: str) -> Any:
    from mastra_nb import checks

    if importlib.util.find_spec(module) is not None:
        return checks.ok(extra, f"{module} {checks.version_of(module)}")
    return checks.Check(
        name=extra, state="note", found=f"not installed: {use}",
        do=f'pip install "mastra-nb[{extra}]"',
    )  # fmt: skip


# completion


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes the shell complete mastra-nb's commands and options.

    \b
    Examples:
      mastra-nb completion bash >> ~/.bashrc
      mastra-nb completion fish > ~/.config/fish/completions/mastra-nb.fish
    """
    from click.shell_completion import get_completion_class

    from mastra_nb.cli._group import cli

    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(cli, {}, "mastra-nb", "_MASTRA_NB_COMPLETE").source())
