"""%%agent and %%tool: what a cell defines."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from mastra_nb import views
from mastra_nb.agents import Agent
from mastra_nb.errors import UsageError
from mastra_nb.notebook import _front, _kept, _live, _values, _workflows
from mastra_nb.notebook._host import Host
from mastra_nb.notebook._options import Parsed, from_mapping, parse_cell
from mastra_nb.notebook._rewrite import signature
from mastra_nb.notebook._specs import AGENT, TOOL, WORKFLOW
from mastra_nb.tools import Tool
from mastra_nb.workflows import Workflow, workflow


def agent(host: Host, line: str, body: str | None, names: _values.Names) -> str:
    """Bind the agent that a cell describes; returns the line that says so."""
    parsed = parse_cell(AGENT, line, words=1)
    if not parsed.words:
        raise UsageError("%%agent needs a name", hint=f"usage: {AGENT.usage[0]}")
    name = _values.check_variable(parsed.words[0], "the agent's name")
    text = _source(parsed, body)
    front, instructions = split_front_matter(text)
    table = from_mapping(AGENT, front, where="the front matter", extra=tuple(_front.OPTIONS))
    values = {**table, **parsed.values}
    made = _make(host, name, instructions, values, names)
    host.app.add(made)
    host.shell.user_ns[name] = made
    if "save" in parsed.values:
        kept = {k: v for k, v in values.items() if k not in ("file", "save")}
        _save(parsed.values["save"], kept, instructions)
    return _describe(host, made, values)


def _source(parsed: Parsed, body: str | None) -> str:
    path = parsed.get("file")
    if path is None:
        if body is None:
            raise UsageError(
                "%agent on one line needs a file",
                hint="%agent NAME -f FILE, or %%agent with a body",
            )
        return body
    if body and body.strip():
        raise UsageError(
            "the instructions are in the cell and in a file", hint="leave one of them out"
        )
    try:
        return Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f'"{path}" cannot be read: {why}') from None


def split_front_matter(text: str) -> tuple[dict[str, Any], str]:
    """(options, instructions). Raises UsageError for YAML that cannot be read."""
    lines = text.lstrip("\n").split("\n")
    if lines[0].rstrip() != "---":
        return {}, text.strip()
    end = next((i for i, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), None)
    if end is None:
        return {}, text.strip()
    try:
        table = yaml.safe_load("\n".join(lines[1:end]))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 2} of the front matter" if mark else "the front matter"
        raise UsageError(
            f"{where} is not valid YAML", hint='one "name: value" a line between two lines of ---'
        ) from None
    if table is not None and not isinstance(table, dict):
        raise UsageError(
            "the front matter is not a table",
            hint='one "name: value" a line between two lines of ---',
        )
    return table or {}, "\n".join(lines[end + 1 :]).strip()


def _make(
    host: Host, name: str, instructions: str, values: dict[str, Any], names: _values.Names
) -> Agent[Any]:
    wanted = values.get("tools", ())
    known = {**_kept.tools(host, wanted), **host.app.tools}
    tools = _values.find_tools(wanted, names, known)
    thread, resource = values.get("thread", ""), values.get("resource", "")
    mode = values.get("memory", "on" if thread or resource else "off")
    memory = _values.memory_mode(mode, names, values.get("embedder", ""))
    if thread and memory is None:
        raise UsageError(
            f'the agent "{name}" has a thread but no memory', hint="leave --memory off out"
        )
    if memory is not None and not thread:
        thread = host.kernel_thread(name, resource)
    made: Agent[Any] = Agent(
        name=name,
        instructions=instructions,
        model=_values.find_model(values["model"], names) if "model" in values else None,
        tools=_values.with_approval(tools, values.get("approve", ())),
        output=_values.find_type(values["output"], names) if "output" in values else None,
        memory=memory,
        thread=thread,
        resource=resource,
        **_front.convert({k: v for k, v in values.items() if k in _front.OPTIONS}, names),
    )
    # What is wrong with a schema is said where it is written, not in the first question.
    _specs = [tool.spec for tool in made.toolset.values()]
    _schema = made.answer.json if made.answer is not None else None
    return made


def _describe(host: Host, made: Agent[Any], values: dict[str, Any]) -> str:
    parts = [made.name, values.get("model") or host.model]
    if made.tools:
        waits = set(values.get("approve", ()))
        shown = [f"{n} (asks you)" if n in waits else n for n in made.toolset]
        shown += [f"those of {source!r}" for source in made.tools if hasattr(source, "list_tools")]
        parts.append(f"tools {', '.join(shown)}")
    if made.output is not None:
        parts.append(f"answers {values['output']}")
    if made.memory is not None:
        kept = [part.strip() for part in values.get("memory", "on").split(",")]
        parts.append("memory" if kept == ["on"] else f"memory {', '.join(kept)}")
        if made.memory.embedder is not None:
            parts[-1] += f" by {made.memory.embedder.name}"
        elif {"recall", "facts"} & {*kept}:
            parts[-1] += " by words"
        parts += [f"{name} {values[name]}" for name in ("thread", "resource") if values.get(name)]
    return " · ".join(parts)


def _save(path: str, values: dict[str, Any], instructions: str) -> None:
    front = yaml.safe_dump(values, sort_keys=True, allow_unicode=True) if values else ""
    text = f"---\n{front}---\n{instructions}\n" if front else f"{instructions}\n"
    try:
        Path(path).expanduser().write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f'"{path}" cannot be written: {error.strerror}') from None


def tools_begin(line: str) -> dict[str, Any]:
    """Options of %%tool. Raises UsageError before the cell's code runs."""
    return parse_cell(TOOL, line, words=0).values


def tools_end(host: Host, line: str, functions: list[str]) -> str:
    """Make the functions that the cell has defined tools; returns the line that says so."""
    options = tools_begin(line)
    user = host.shell.user_ns
    if not functions:
        raise UsageError(
            "%%tool found no function in its cell", hint="write def name(...): with a docstring"
        )
    made: list[Tool[..., Any]] = []
    for name in functions:
        found = user.get(name)
        if not isinstance(found, Tool):
            if not callable(found):
                continue
            found = Tool(found)
        if "approve" in options:
            found.needs_approval = True
        if "timeout" in options:
            found.timeout = options["timeout"]
        made.append(found)
    _specs = [item.spec for item in made]
    for name, item in zip(functions, made, strict=False):
        user[name] = item
        host.app.tools[item.name] = item
    return "tools: " + ", ".join(
        f"{t.name} (asks you)" if t.needs_approval else t.name for t in made
    )


def workflow_begin(line: str, body: str) -> None:
    """Raises UsageError for a cell that defines no workflow."""
    if signature(line) is None:
        raise UsageError(
            f'"{line}" is no signature' if line.strip() else "%%workflow needs a name",
            hint=f"usage: {WORKFLOW.usage[0]}",
        )
    raise UsageError("the workflow has no body", hint="write what it does below %%workflow")


def workflow_end(host: Host, fn: Callable[..., Any]) -> Workflow[Any]:
    """The workflow whose body is `fn`; the cell shows its outline."""
    made: Workflow[Any] = host.app.add(workflow(fn))
    calls = _workflows.steps_of(made.outline["nodes"])
    about = ", ".join(calls) or "no durable call in its source"
    _live.say(f"{made.name}{inspect.signature(fn)} · {about}")
    if calls and host.in_kernel:
        _live.publish(views.outline_bundle(made.outline))
    return made
