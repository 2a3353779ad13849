"""docs/cli.md out of the commands' own help: `python -m tests.cli_docs` writes it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from mastra_nb.cli._group import COMMANDS, SECTIONS, cli

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
WIDTH = 88

INTRO = """\
# Command line

<!-- Written by `python -m tests.cli_docs` out of the commands' help: change it there. -->

`mastra-nb`, or `python -m mastra_nb`, does outside a notebook what its cells do inside: it runs,
serves and deploys the same agents and workflows, and reads the same store.

A command works on the project of the current folder (the nearest one above with `mastra.toml`,
`mastra.json` or `[tool.mastra]` in `pyproject.toml`); `mastra-nb --project FOLDER …` is about
another. Its application is `app.py` or a notebook: the setting `app` names it, else the only one
there is; `--app` names another, as a file, `file.py:variable` or `package.module:variable`.

Results go to standard output, everything about them to standard error, so that `--json` prints
nothing but JSON. A run is named by its id or the beginning of it.

| exit code | |
|---|---|
| 0 | done |
| 1 | failed |
| 2 | wrong usage: an unknown name, option or setting |
| 3 | waits for an answer: `mastra-nb resume` gives it |
| 4 | over budget |
| 130 | interrupted; what was said is kept |

An error is one line and, where there is something to do about it, a second one;
`mastra-nb --debug …` shows the traceback. `NO_COLOR=1` takes the colours away.

A distribution adds a command of its own with an entry point that names a `click.Command`:

```toml
[project.entry-points."mastra_nb.commands"]
hello = "my_package.commands:hello"
```
"""


def page() -> str:
    parts = [INTRO]
    for section in SECTIONS:
        named = [name for name, row in COMMANDS.items() if row.section == section]
        if named:
            parts.append(f"## {section}\n")
            parts += [_described(path, command) for path, command in commands(named)]
    return "\n".join(parts)


def commands(names: list[str]) -> Iterator[tuple[str, click.Command]]:
    with click.Context(cli, info_name="mastra-nb") as context:
        for name in names:
            command = cli.get_command(context, name)
            assert command is not None
            yield f"mastra-nb {name}", command
            if isinstance(command, click.Group):
                for sub, each in command.commands.items():
                    yield f"mastra-nb {name} {sub}", each


def _described(path: str, command: click.Command) -> str:
    context = click.Context(
        command, info_name=path, terminal_width=WIDTH, max_content_width=WIDTH,
        help_option_names=["-h", "--help"],
    )  # fmt: skip
    text = inspect.cleandoc(command.get_help(context))
    level = "####" if path.count(" ") > 1 else "###"
    return f"{level} `{path}`\n\n```text\n{text}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
