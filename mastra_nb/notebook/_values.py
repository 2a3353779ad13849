"""Names in a magic's line -> objects of the notebook."""

from __future__ import annotations

import ast
import builtins
import copy
from collections.abc import Mapping, Sequence
from typing import Any

from mastra_nb import embedders, plugins
from mastra_nb.agents import Agent
from mastra_nb.embedders import Embedder
from mastra_nb.errors import ConfigError, NotFound, UsageError, close_matches
from mastra_nb.memory.memory import Memory
from mastra_nb.models import ModelLike, resolve
from mastra_nb.notebook._specs import MEMORY_PARTS
from mastra_nb.notebook._templates import variables
from mastra_nb.rag.index import Index
from mastra_nb.rag.stored import local_embedder
from mastra_nb.tools import Tool, ToolLike

Names = Mapping[str, Any]


def agents_of(names: Names, registered: Mapping[str, Agent[Any]]) -> dict[str, Agent[Any]]:
    """Agents by what a user calls them: a variable wins over a registered name."""
    found: dict[str, Agent[Any]] = dict(registered)
    for name in variables(names):
        if isinstance(names[name], Agent):
            found[name] = names[name]
    return found


def find_agent(name: str, names: Names, registered: Mapping[str, Agent[Any]]) -> Agent[Any]:
    """Raises NotFound with close matches."""
    found = agents_of(names, registered)
    if name in found:
        return found[name]
    hint = close_matches(name, found) or "define one with %%agent, or in Python: Agent(name=...)"
    if name in names:
        hint = f'"{name}" is a {type(names[name]).__name__}; ' + hint
    raise NotFound(f'there is no agent "{name}"', hint=hint)


def find_model(text: str, names: Names) -> ModelLike:
    """A variable that holds a model, "provider/model", or several of these with commas between."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    models = [_one_model(part, names) for part in parts]
    if not models:
        raise ConfigError('the model is ""', hint='write "provider/model", or "local"')
    return models[0] if len(models) == 1 else models


def _one_model(text: str, names: Names) -> Any:
    value = names.get(text)
    if value is not None and (hasattr(value, "invoke") or isinstance(value, str | list | tuple)):
        if isinstance(value, Agent):
            raise ConfigError(f'"{text}" is an agent, not a model')
        return value
    provider, _, model_id = text.partition("/")
    if provider not in plugins.providers.names() or not (model_id or provider == "local"):
        try:
            resolve(text)
        except ConfigError as error:
            near = close_matches(text, [n for n in names if hasattr(names[n], "invoke")])
            if near.startswith("did you mean"):
                raise ConfigError(error.message, hint=near) from None
            raise
    return text


def find_tools(
    wanted: Sequence[str], names: Names, registered: Mapping[str, ToolLike]
) -> list[Any]:
    """Functions, tools and agents by name. Raises NotFound with close matches."""
    out: list[Any] = []
    for name in wanted:
        value = names.get(name, registered.get(name))
        if isinstance(value, Index):
            value = value.as_tool()
        usable = callable(value) or hasattr(value, "spec") or hasattr(value, "list_tools")
        if value is None or not usable:
            known = {*registered, *(n for n in variables(names) if _may_be_tool(names[n]))}
            hint = close_matches(name, known) or "define it in a cell before: @tool, or %%tool"
            raise NotFound(f'there is no tool "{name}"', hint=hint)
        out.append(value)
    return out


def _may_be_tool(value: Any) -> bool:
    return isinstance(value, Tool | Agent | Index) or (
        callable(value) and not isinstance(value, type) and hasattr(value, "__code__")
    )


def with_approval(tools: Sequence[Any], approve: Sequence[str]) -> list[Any]:
    """`tools`, where those named in `approve` wait for a person. Raises NotFound, ConfigError."""
    out = [
        item
        if isinstance(item, Tool | Agent) or hasattr(item, "spec") or hasattr(item, "list_tools")
        else Tool(item)
        for item in tools
    ]
    known = [getattr(item, "name", "") for item in out]
    for name in approve:
        if name not in known:
            raise NotFound(
                f'"{name}" is to be approved but is not one of the agent\'s tools',
                hint=close_matches(name, known) or "name its tools with --tools",
            )
        at = known.index(name)
        if not isinstance(out[at], Tool):
            raise ConfigError(
                f'"{name}" is an agent: it cannot wait for approval',
                hint="give approval to the tools that it calls",
            )
        out[at] = copy.copy(out[at])
        out[at].needs_approval = True
    return out


_TYPE_NODES = (
    ast.Expression, ast.Name, ast.Attribute, ast.Subscript, ast.Tuple, ast.BinOp, ast.BitOr,
    ast.Constant, ast.Load, ast.List,
)  # fmt: skip


def find_type(text: str, names: Names) -> Any:
    """A type by its expression: `Forecast`, `list[Forecast]`, `int | None`.

    Raises NotFound for an unknown name, UsageError for what is not the name of a type.
    """
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError:
        tree = None
    if tree is None or not all(isinstance(node, _TYPE_NODES) for node in ast.walk(tree)):
        raise UsageError(
            f'"{text}" is not the name of a type', hint="for example Forecast, or list[Forecast]"
        )
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id not in names and not hasattr(builtins, node.id):
            known = [n for n in variables(names) if isinstance(names[n], type)]
            raise NotFound(
                f'there is no type "{node.id}"',
                hint=close_matches(node.id, known) or "define it in a cell before this one",
            )
    scope = {
        node.id: names[node.id]
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id in names
    }
    try:
        # The user's own expression, held to names, attributes and brackets above.
        found = eval(compile(tree, "<type>", "eval"), scope)  # noqa: S307
    except Exception as error:
        raise UsageError(f'"{text}" is not a type: {error}') from None
    if isinstance(found, Agent) or not (isinstance(found, type) or hasattr(found, "__args__")):
        raise UsageError(
            f'"{text}" is a {type(found).__name__}, not a type', hint="pass a class, or list[…]"
        )
    return found


def memory_mode(text: str, names: Names, embedder: str = "") -> Memory | None:
    """`on`, `off`, how many messages, what more to keep ("recall,working,20"), or a variable.

    Raises UsageError, NotFound for an unknown embedder.
    """
    if text in ("on", "true", "yes"):
        return Memory()
    if text in ("off", "false", "no", "none"):
        return None
    if isinstance(named := names.get(text), Memory):
        return named
    words = [word.strip() for word in text.split(",") if word.strip()]
    numbers = [int(word) for word in words if word.isdecimal()]
    parts = [word for word in words if not word.isdecimal()]
    unknown = [word for word in parts if word not in MEMORY_PARTS]
    if not words or unknown or len(numbers) > 1 or 0 in numbers:
        what = f'"{unknown[0]}"' if unknown else f'"{text}"'
        raise UsageError(
            f"the memory mode cannot be {what}",
            hint=f"on, off, a number of messages, {', '.join(MEMORY_PARTS)}, "
            "or --memory=NAME of a Memory",
        )
    more: dict[str, Any] = {MEMORY_PARTS[word]: True for word in parts}
    if numbers:
        more["last_messages"] = numbers[0]
    if embedder or {"recall", "facts"} & {*parts}:
        more["embedder"] = find_embedder(embedder, names) if embedder else local_embedder()
    return Memory(**more)


def find_embedder(text: str, names: Names) -> Embedder:
    """A variable that holds one, or "provider/model". Raises NotFound, ConfigError."""
    found: Any = names.get(text)
    return embedders.resolve(found if hasattr(found, "embed") else text)


def check_variable(name: str, what: str) -> str:
    """A name that can be bound. Raises UsageError."""
    import keyword

    if not name.isidentifier() or keyword.iskeyword(name):
        raise UsageError(
            f'{what} "{name}" cannot be a variable', hint="use letters, digits and underscores"
        )
    return name
