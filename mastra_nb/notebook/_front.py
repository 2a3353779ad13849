"""What an agent's front matter may hold beyond the options of the line: the rest of `Agent`'s.

A value is YAML where YAML can say it, and the name of something in the notebook where it cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from mastra_nb.agents import Agent
from mastra_nb.errors import NotFound, UsageError, close_matches
from mastra_nb.limits import Limits
from mastra_nb.models import ModelSettings
from mastra_nb.notebook._templates import variables
from mastra_nb.notebook._values import Names, find_agent, find_model
from mastra_nb.processors import Processor

Convert = Callable[[str, Any, Names], Any]


def convert(table: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """Keyword arguments of Agent. Raises UsageError and NotFound that name the option."""
    return {name: OPTIONS[name](name, value, names) for name, value in table.items()}


def _as(kind: Any, example: str) -> Convert:
    fields = getattr(kind, "__struct_fields__", None)

    def read(option: str, value: Any, names: Names) -> Any:
        unknown = (
            [k for k in value if k not in fields] if fields and isinstance(value, dict) else []
        )
        if unknown:
            raise UsageError(
                f'"{option}" in the front matter has no "{unknown[0]}"',
                hint=close_matches(str(unknown[0]), fields or ()),
            )
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            raise UsageError(
                f'"{option}" in the front matter: {error}', hint=f"for example {example}"
            ) from None

    return read


def _function(option: str, value: Any, names: Names) -> Any:
    found = _named(option, value, names)
    if not callable(found):
        raise UsageError(f'"{option}" in the front matter: "{value}" is not a function')
    return found


def _functions(option: str, value: Any, names: Names) -> Any:
    return [_function(option, item, names) for item in _list(value)]


def _flag_or_function(option: str, value: Any, names: Names) -> Any:
    return value if isinstance(value, bool) else _function(option, value, names)


def _model(option: str, value: Any, names: Names) -> Any:
    return find_model(str(value), names)


def _agents(option: str, value: Any, names: Names) -> list[Agent[Any]]:
    return [find_agent(str(item), names, {}) for item in _list(value)]


def _processors(option: str, value: Any, names: Names) -> list[Processor]:
    """Variables of the notebook, or our guardrails: `PIIDetector`, `PIIDetector: {…}`."""
    return [_processor(option, item, names) for item in _list(value)]


def _processor(option: str, item: Any, names: Names) -> Processor:
    name: Any = item
    settings: dict[str, Any] | None = None
    if isinstance(item, dict) and len(item) == 1:
        ((name, settings),) = item.items()
    ours = _guardrails()
    found = names.get(name, ours.get(name))
    if found is None:
        known = [n for n in variables(names) if isinstance(names[n], Processor)]
        raise NotFound(
            f'there is no processor "{name}"', hint=close_matches(str(name), [*known, *ours])
        )
    if isinstance(found, type):
        try:
            found = found(**(settings or {}))
        except TypeError as error:
            raise UsageError(f'"{name}" in the front matter: {error}') from None
    if not isinstance(found, Processor):
        raise UsageError(f'"{name}" is a {type(found).__name__}, not a processor')
    return found


def _guardrails() -> dict[str, type[Processor]]:
    from mastra_nb import guardrails, judges

    found = (*vars(guardrails).values(), *vars(judges).values())
    kinds = [k for k in found if isinstance(k, type) and issubclass(k, Processor)]
    return {k.__name__: k for k in kinds if k is not Processor and k.__name__[0] != "_"}


def _named(option: str, value: Any, names: Names) -> Any:
    if not isinstance(value, str) or value not in names:
        known = [n for n in variables(names) if callable(names[n])]
        raise NotFound(
            f'"{option}" in the front matter: there is no "{value}" in the notebook',
            hint=close_matches(str(value), known) or "define it in a cell before this one",
        )
    return names[value]


def _list(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    return value if isinstance(value, list) else [value]


OPTIONS: dict[str, Convert] = {
    "max_steps": _as(int, "max_steps: 5"),
    "max_processor_retries": _as(int, "max_processor_retries: 1"),
    "limits": _as(Limits, "limits: {cost: 0.05, requests: 10}"),
    "settings": _as(ModelSettings, "settings: {temperature: 0, reasoning: low}"),
    "tool_choice": _as(str, "tool_choice: required"),
    "active_tools": _as(list[str], "active_tools: [search]"),
    "tool_call_concurrency": _as(int, "tool_call_concurrency: 1"),
    "require_tool_approval": _flag_or_function,
    "handoffs": _agents,
    "processors": _processors,
    "structuring_model": _model,
    "prepare_step": _function,
    "stop_when": _functions,
    "before_tool_call": _function,
    "after_tool_call": _function,
    "description": _as(str, "description: answers questions about the weather"),
}
