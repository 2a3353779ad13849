"""The group of all commands: each is imported when it is run, none to list them.

A distribution adds a command by an entry point of the group `mastra_nb.commands` that names a
`click.Command`. Ours win over one of the same name.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from mastra_nb.errors import MastraError, NotFound, PluginError, close_matches
from mastra_nb.plugins import Registry


class Row(NamedTuple):
    """Where a command is ("module:attr"), what it does in a few words, the heading it is under."""

    target: str
    help: str
    section: str


_START = "Start"
_STORE = "What was run and kept"
_ABOUT = "About"
SECTIONS = (_START, _STORE, _ABOUT)

COMMANDS: dict[str, Row] = {
    "init": Row("mastra_nb.cli.init:init_command", "make a project that runs", _START),
    "run": Row("mastra_nb.cli.run:run", "run an agent, a workflow or a notebook", _START),
    "chat": Row("mastra_nb.cli.chat:chat", "talk to an agent in the terminal", _START),
    "batch": Row(
        "mastra_nb.cli.batch:batch_command", "run a notebook for each row of a table", _START
    ),
    "dev": Row("mastra_nb.cli.serve:dev", "serve it here, and again when a file changes", _START),
    "serve": Row("mastra_nb.cli.serve:serve", "serve it to clients of Mastra and OpenAI", _START),
    "build": Row("mastra_nb.cli.build:build_command", "make one folder to deploy", _START),
    "deploy": Row(
        "mastra_nb.cli.deploy:deploy_command", "run it here, or files for elsewhere", _START
    ),
    "runs": Row("mastra_nb.cli.stored:runs", "list the runs", _STORE),
    "trace": Row("mastra_nb.cli.stored:trace", "show what happened in a run", _STORE),
    "resume": Row("mastra_nb.cli.stored:resume", "answer what a run waits for", _STORE),
    "cancel": Row("mastra_nb.cli.stored:cancel", "give up a run", _STORE),
    "memory": Row("mastra_nb.cli.kept:memory", "conversations: read, search, move them", _STORE),
    "index": Row("mastra_nb.cli.kept:index", "documents: index and search them", _STORE),
    "migrate": Row("mastra_nb.cli.stored:migrate", "upgrade the store", _STORE),
    "prune": Row("mastra_nb.cli.stored:prune", "delete what is old", _STORE),
    "doctor": Row("mastra_nb.cli.about:doctor", "check what is installed and set up", _ABOUT),
    "completion": Row("mastra_nb.cli.about:completion", "make the shell complete it", _ABOUT),
    "version": Row("mastra_nb.cli.about:version", "versions of what matters here", _ABOUT),
}

plugins = Registry("mastra_nb.commands", {name: row.target for name, row in COMMANDS.items()})


class Group(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *(name for name in plugins.names() if name not in COMMANDS)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """None for an unknown one. Raises PluginError."""
        try:
            found = plugins.load(name)
        except NotFound:
            return None
        if not isinstance(found, click.Command):
            raise PluginError(
                f'the plugin "{name}" is no command: it is a {type(found).__name__}',
                hint="its entry point names a click.Command",
            )
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            near = close_matches(name, self.list_commands(ctx))
            ctx.fail(f'there is no command "{name}"\n  → {near}')
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """As click's, but no command is imported for its help."""
        own = [
            CompletionItem(name, help=COMMANDS[name].help if name in COMMANDS else "plugin")
            for name in self.list_commands(ctx)
            if name.startswith(incomplete)
        ]
        return own + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {name: [] for name in SECTIONS}
        for name, row in COMMANDS.items():
            sections[row.section].append((name, row.help))
        sections["Plugins"] = [
            (name, self._plugin_help(ctx, name))
            for name in self.list_commands(ctx)
            if name not in COMMANDS
        ]
        for title, rows in sections.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def _plugin_help(self, ctx: click.Context, name: str) -> str:
        try:
            command = self.get_command(ctx, name)
        except MastraError as error:
            return f"✗ {error.message}"
        return command.get_short_help_str(120) if command is not None else ""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            from mastra_nb.cli._output import INTERRUPTED, note

            note("interrupted")
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise
        except Exception as error:
            from mastra_nb.cli._output import code_of, explain

            if ctx.params.get("debug"):
                traceback.print_exc()
            explain(error, debug=bool(ctx.params.get("debug")))
            ctx.exit(code_of(error))

    def main(self, *args: Any, **kwargs: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            # A pipe on Windows, or LC_ALL=C: what the encoding lacks is better replaced than fatal.
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")
        return super().main(*args, **kwargs)


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from mastra_nb import __version__

        click.echo(__version__)
        ctx.exit()


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 waits for an answer, 4 over budget, "
    "130 interrupted. `mastra-nb COMMAND --help` explains one of them.",
)
@click.option(
    "--debug", is_flag=True, envvar="MASTRA_NB_DEBUG", help="Show the traceback of an error."
)
@click.option(
    "--project",
    type=click.Path(exists=True, file_okay=False),
    help="Folder of the project, instead of the current one.",
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version,
    help="Show the version.",
)  # fmt: skip
def cli(debug: bool, project: str | None) -> None:
    """Agents, workflows and memory of a project, outside a notebook."""
    if project is not None:
        os.chdir(project)
