"""run: an agent, a workflow or a notebook, once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from mastra_nb.agents import Agent
from mastra_nb.app import Mastra
from mastra_nb.cli._follow import present
from mastra_nb.cli._output import json_option, wait
from mastra_nb.cli._store import app_option, load
from mastra_nb.errors import NotFound, SchemaError, UsageError, close_matches
from mastra_nb.limits import Limits
from mastra_nb.memory.memory import Memory
from mastra_nb.runs import Run
from mastra_nb.schema import parse_json, validate
from mastra_nb.workflows import Workflow


@click.command()
@click.argument("name")
@click.argument("input", required=False)
@app_option
@json_option("what came of it")
@click.option(
    "--stream/--no-stream", default=None,
    help="Show the answer as it comes (in a terminal it does); with --json: an event a line.",
)  # fmt: skip
@click.option("--thread", metavar="ID", help="The conversation that it is a part of.")
@click.option("--resource", metavar="ID", help="Whom the conversation belongs to.")
@click.option("--budget", type=click.FloatRange(min=0), metavar="USD", help="What it may cost.")
@click.option("--model", metavar="MODEL", help='Another model for the agent: "provider/name".')
@click.option("--key", metavar="KEY", help="Idempotency: at most one run has it; it is that one.")
@click.option(
    "-p", "--param", "params", multiple=True, metavar="NAME=VALUE",
    help="A field of a workflow's input, a parameter of a notebook; VALUE is JSON or text.",
)  # fmt: skip
@click.option("-o", "--output", metavar="PATH", help="Where the notebook that was run goes.")
@click.pass_context
def run(
    ctx: click.Context,
    name: str,
    input: str | None,
    target: str | None,
    as_json: bool,
    stream: bool | None,
    thread: str | None,
    resource: str | None,
    budget: float | None,
    model: str | None,
    key: str | None,
    params: Sequence[str],
    output: str | None,
) -> None:
    """Run the agent or workflow NAME, or the notebook at the path NAME.

    INPUT is text or JSON, @FILE for what is in a file, - for standard input (which is read too if
    there is no INPUT and something is piped in).

    \b
    Examples:
      mastra-nb run analyst "Which month sold most?"
      mastra-nb run report -p city=Oslo -p days=3 --json
      git diff | mastra-nb run reviewer --budget 0.10
      mastra-nb run report.ipynb -p city=Oslo -o oslo.ipynb
    """
    debug = bool(ctx.find_root().params.get("debug"))
    if name.endswith(".ipynb"):
        from mastra_nb.cli._notebook import run_notebook

        for option, given in (
            ("INPUT", input), ("--thread", thread), ("--resource", resource),
            ("--model", model), ("--key", key), ("--app", target), ("--stream", stream),
        ):  # fmt: skip
            if given is not None:
                raise click.UsageError(f"a notebook takes no {option}; its parameters are -p")
        given_params = values(params)
        ctx.exit(run_notebook(Path(name), given_params, output, budget=budget, as_json=as_json))
    if output is not None:
        raise click.UsageError("-o is for a notebook")
    app = load(target)
    found = find(app, name)
    # With parameters nothing has to be piped in.
    text = None if input is None and params else read_input(input)
    made = _given(found, text, values(params))
    limits = None
    if budget is not None:
        limits = msgspec.structs.replace(found.limits or Limits(), cost=budget)
    started: Run[Any]
    if isinstance(found, Agent):
        if model is not None:
            found = found.replace(model=model)
        if (thread or resource) and found.memory is None:
            found = found.replace(memory=Memory())
        started = found.run(made, thread=thread, resource=resource, limits=limits, key=key)
    else:
        if model is not None:
            raise UsageError(f'"{name}" is a workflow', hint="--model is for an agent")
        started = found.run(
            made, thread=thread or "", resource=resource or "", limits=limits, key=key
        )

    async def work() -> int:
        async with app:
            return await present(
                started, target=target, as_json=as_json, stream=stream, debug=debug
            )

    ctx.exit(wait(work()))


def find(app: Mastra, name: str) -> Agent[Any] | Workflow[Any]:
    """Raises NotFound."""
    found: Agent[Any] | Workflow[Any] | None = app.agents.get(name) or app.workflows.get(name)
    if found is None:
        known = [*app.agents, *app.workflows]
        raise NotFound(
            f'there is no agent or workflow "{name}"',
            hint=close_matches(name, known) or "the application has none",
        )
    return found


def read_input(given: str | None) -> str | None:
    """The text: itself, that of a file, or what is piped in. Raises UsageError."""
    if given is None:
        # A terminal has nothing to say, nor has what a scheduler or a test gives: nothing.
        if sys.stdin is None or sys.stdin.isatty():
            return None
        return sys.stdin.read() or None
    if given == "-":
        return sys.stdin.read()
    if given.startswith("@@"):
        return given[1:]
    if not given.startswith("@") or given == "@":
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise UsageError(
            f'"{given[1:]}" cannot be read: {reason}', hint='"@@name" is the text "@name"'
        ) from None


def values(params: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE each. Raises UsageError."""
    out: dict[str, Any] = {}
    for each in params:
        name, equals, text = each.partition("=")
        if not equals or not name.strip():
            raise UsageError(f'"{each}" is no parameter', hint="-p NAME=VALUE")
        try:
            out[name.strip()] = parse_json(text)
        except SchemaError:
            out[name.strip()] = text
    return out


def _given(found: Agent[Any] | Workflow[Any], text: str | None, params: dict[str, Any]) -> Any:
    """The input as what runs takes it. Raises UsageError."""
    if isinstance(found, Agent):
        if params:
            raise UsageError(f'"{found.name}" is an agent', hint="-p is for workflows, notebooks")
        if text is None or not text.strip():
            raise UsageError(
                f'what is "{found.name}" asked?',
                hint=f'mastra-nb run {found.name} "your question", or pipe it in',
            )
        return text
    if text is None or not text.strip():
        return params or None
    value = _value(text, found.input_schema)
    if not params:
        return value
    if not isinstance(value, dict):
        raise UsageError("-p adds to an object", hint="give INPUT as a JSON object, or leave it")
    return {**value, **params}


def _value(text: str, schema: dict[str, Any]) -> Any:
    """JSON, or the text where that is what fits."""
    try:
        value = parse_json(text)
    except SchemaError:
        return text.rstrip("\n")
    if not isinstance(value, str) and schema:
        try:
            validate(value, schema)
        except SchemaError:
            try:
                validate(text, schema)
            except SchemaError:
                return value
            return text.rstrip("\n")
    return value
