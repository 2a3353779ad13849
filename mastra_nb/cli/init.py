"""`mastra-nb init`: a new project that runs."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import click
import msgspec

from mastra_nb.cli._output import json_option, note, say, say_json
from mastra_nb.config import secret
from mastra_nb.errors import ConfigError, UsageError

_KEEP = re.compile(r"[^A-Za-z0-9._-]+")
_CELL = re.compile(r"^# %%(?P<kind> \[markdown\])?(?: tags=(?P<tags>[\w,-]+))?$", re.MULTILINE)


class Template(msgspec.Struct, frozen=True):
    """`try_it` is the command to try first, and what to know of it."""

    about: str
    notebook: str
    extras: str
    try_it: tuple[str, str]


TEMPLATES = {
    "agent": Template(
        "an agent with a tool",
        "support.ipynb",
        "server",
        ("mastra-nb chat support", "ask it: Where is my order 1001?"),
    ),
    "rag": Template(
        "an agent that answers out of documents",
        "answers.ipynb",
        "server",
        ("mastra-nb run refresh", "reads the documents; then: mastra-nb chat helper"),
    ),
    "workflow": Template(
        "a workflow with a person in the middle",
        "refunds.ipynb",
        "server",
        (
            """mastra-nb run refund '{"order": "1001", "reason": "It broke."}'""",
            "it waits for you",
        ),
    ),
    "batch": Template(
        "a notebook that runs for each row of a table",
        "report.ipynb",
        "batch,server",
        ("mastra-nb batch report.ipynb --params cities.csv", "a report for each city"),
    ),
}


@click.command("init")
@click.argument("name", required=False)
@click.option(
    "--template",
    "-t",
    type=click.Choice([*TEMPLATES]),
    help="What to begin with; agent by default.",
)
@click.option(
    "--model", "-m", help='Model of the agents, such as openai/gpt-4o-mini, or "local" (no key).'
)
@click.option(
    "--force/--no-force",
    default=None,
    help="Write over files that are there, or keep them as they are.",
)
@json_option("what was written")
def init_command(
    name: str | None, template: str | None, model: str | None, force: bool | None, as_json: bool
) -> None:
    """Make a project: an application, a notebook, settings, a test.

    NAME is the folder to make; "." is the current one. No file is written over without --force.

    \b
    Examples:
      mastra-nb init shop
      mastra-nb init refunds --template workflow --model anthropic/claude-haiku-4-5
      mastra-nb init . --no-force
    """
    asks = sys.stdin.isatty() and sys.stdout.isatty() and not as_json
    if name is None:
        if not asks:
            raise UsageError(
                "the project has no name", hint="mastra-nb init NAME, or . for the current folder"
            )
        name = click.prompt("Name of the project", default="my-agent")
    if template is None:
        template = "agent"
        if asks:
            for each, known in TEMPLATES.items():
                say(f"  {each:9} {known.about}")
            template = click.prompt("Template", default=template, type=click.Choice([*TEMPLATES]))
    if model is None:
        model = default_model()
        if asks:
            model = click.prompt("Model", default=model)
    folder = Path(name).expanduser().absolute()
    made = scaffold(folder, template, model=model)
    taken = [path for path, text in made.items() if _differs(folder / path, text)]
    if taken and force is None and asks:
        say(f"In {folder} these are there already: {', '.join(taken)}")
        force = click.confirm("Write over them?", default=False)
    elif taken and force is None:
        raise UsageError(
            f'"{folder}" has files that would be written over: {", ".join(taken)}',
            hint="--force writes over them, --no-force keeps them and writes the others",
        )
    written = _write(folder, {p: t for p, t in made.items() if force or p not in taken})
    kept = [path for path in taken if not force]
    if as_json:
        say_json({"project": str(folder), "template": template, "files": written, "kept": kept})
        return
    _tell(folder, name, TEMPLATES[template], model, len(written), kept)


def scaffold(folder: Path, template: str, *, model: str) -> dict[str, str]:
    """path -> text of every file of a project made from `template`.

    Raises ConfigError for a model that nobody provides.
    """
    # Says what is wrong with it before it is written down.
    from mastra_nb.models import resolve

    if model.partition("/")[0] != "local":
        resolve(model)
    chosen = TEMPLATES[template]
    key = _key_of(model)
    extras = chosen.extras + (",local" if model.partition("/")[0] == "local" else "")
    values = {
        "name": _KEEP.sub("-", folder.name).strip("-._").lower() or "my-agent",
        "model": model.replace("\\", "\\\\").replace('"', '\\"'),
        "extras": ",".join(sorted(extras.split(","))),
        "notebook": chosen.notebook,
        "keys": f"{key}=" if key else f"# The model {model} needs no key.",
        "keyline": f"and write your {key} into it" if key else "it needs no key",
    }
    home = files("mastra_nb.cli") / "templates"
    out: dict[str, str] = {}
    for source in (home / "common", home / template):
        for path, text in _texts(source):
            for placeholder, value in values.items():
                text = text.replace(f"@@{placeholder}@@", value)
            out[path] = _notebook(text) if path.endswith(".ipynb") else text
    out["README.md"] += out.pop("README.more.md")
    return dict(sorted(out.items()))


def _texts(folder: Traversable, above: str = "") -> list[tuple[str, str]]:
    out: list[tuple[str, str]] = []
    for each in folder.iterdir():
        if each.is_dir():
            out += _texts(each, f"{above}{each.name}/")
        elif each.name.endswith(".tmpl"):
            name = re.sub(r"^dot_", ".", each.name.removesuffix(".tmpl"))
            out.append((above + name, each.read_text(encoding="utf-8")))
    return out


def _notebook(text: str) -> str:
    """A notebook of cells between lines `# %%`; the text of Markdown cells is in comments."""
    cells: list[dict[str, Any]] = []
    marks = [*_CELL.finditer(text)]
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    for n, (mark, end) in enumerate(zip(marks, ends, strict=True), 1):
        source = text[mark.end() : end].strip("\n")
        markdown = mark["kind"] is not None
        if markdown:
            source = re.sub(r"^# ?", "", source, flags=re.MULTILINE)
        cell: dict[str, Any] = {
            "cell_type": "markdown" if markdown else "code",
            "id": f"cell-{n}",
            "metadata": {"tags": mark["tags"].split(",")} if mark["tags"] else {},
            "source": source.splitlines(keepends=True),
        }
        cells.append(cell if markdown else cell | {"execution_count": None, "outputs": []})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def default_model() -> str:
    """That of the first service with a key; else the local one if it is installed."""
    from mastra_nb.notebook import _config

    found = _config.default_model()
    if found == "local" and importlib.util.find_spec("xllamacpp") is None:
        return _config.DEFAULT_MODELS[0][1]
    return found


def _key_of(model: str) -> str:
    """The variable that holds the key of its provider, nothing if it needs none."""
    from mastra_nb.notebook import _config

    provider = model.partition("/")[0]
    if provider in ("local", "ollama"):
        return ""
    for names, known in _config.DEFAULT_MODELS:
        if known.partition("/")[0] == provider:
            return names[0]
    return f"{provider.upper().replace('-', '_')}_API_KEY"


def _differs(path: Path, text: str) -> bool:
    """Whether something else is there; a link is, wherever it leads."""
    if not os.path.lexists(path):
        return False
    return path.is_symlink() or not path.is_file() or path.read_bytes() != text.encode()


def _write(folder: Path, texts: dict[str, str]) -> list[str]:
    for name, text in texts.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_symlink():
                path.unlink()
            path.write_text(text, encoding="utf-8", newline="\n")
        except OSError as error:
            raise ConfigError(f'"{path}" cannot be written: {error.strerror}') from None
    return [*texts]


def _tell(
    folder: Path, name: str, template: Template, model: str, written: int, kept: list[str]
) -> None:
    say(f"{folder.name}: {template.about} · {written} files · model {model}")
    if kept:
        note(f"kept as they were: {', '.join(kept)}")
    key = _key_of(model)
    steps = [(f"cd {name}", "")] if folder != Path.cwd() else []
    if key and not secret(key):
        steps.append(("cp .env.example .env", f"and write your {key} into it"))
    else:
        steps.append(("python -m pytest", "its tests need no key and no network"))
    steps.append(template.try_it)
    if len(steps) < 3:
        steps.append(("mastra-nb dev", "serves it on http://127.0.0.1:4111"))
    width = max(len(command) for command, _ in steps)
    say("\nNext:")
    for command, why in steps:
        say(f"  {command:{width}}  {f'# {why}' if why else ''}".rstrip())
    say("\nREADME.md has the rest: the notebook, the tests, the server.")
