"""Prompt templates: `{{ expression }}` takes values of the notebook, every other brace is text.

Only what the user typed is a template: a value that is inserted is never looked at again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import islice
from typing import Any

import jinja2
import jinja2.exceptions
import jinja2.meta
import jinja2.sandbox

from mastra_nb.errors import NotFound, UsageError, close_matches

MAX_ROWS = 50
MAX_COLUMNS = 20
MAX_CELL = 200
MAX_REPR = 10_000

# Source of a cell cannot hold NUL, so blocks and comments cannot be written.
_NEVER = "\x00"
_BUILTINS: dict[str, Any] = {
    f.__name__: f
    for f in (abs, bool, dict, enumerate, float, int, len, list, max, min, range, repr, round,
              set, sorted, str, sum, tuple, type, zip)
}  # fmt: skip
_QUOTED = re.compile(r"'([^']+)'")


@lru_cache(maxsize=1)
def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        block_start_string=f"{_NEVER}%",
        block_end_string=f"%{_NEVER}",
        comment_start_string=f"{_NEVER}#",
        comment_end_string=f"#{_NEVER}",
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        autoescape=False,
    )
    env.globals.clear()
    env.globals.update(_BUILTINS)
    return env


@lru_cache(maxsize=32)
def _compiled(template: str) -> tuple[jinja2.Template, list[str]]:
    env = _environment()
    names = jinja2.meta.find_undeclared_variables(env.parse(template))
    return env.from_string(template), sorted(names)


def names_in(template: str) -> list[str]:
    """The variables that its expressions read; none of a template that cannot be read."""
    try:
        return _compiled(template)[1]
    except jinja2.TemplateSyntaxError:
        return []


def render(template: str, values: Mapping[str, Any]) -> str:
    """`template` with its expressions evaluated over `values`.

    Raises NotFound for a name that does not exist, UsageError for what cannot be evaluated.
    """
    if "{{" not in template:
        return template
    try:
        compiled, names = _compiled(template)
        for name in names:
            if name not in values and name not in _BUILTINS:
                raise _missing(name, values)
        return compiled.render({name: values[name] for name in names if name in values})
    except jinja2.TemplateSyntaxError as error:
        raise UsageError(
            f"line {error.lineno} of the prompt: a {{{{ }}}} cannot be read: {error.message}",
            hint="write {{ expression }}; for two literal braces write {{ '{{' }}",
            code="usage.template",
        ) from None
    except jinja2.exceptions.SecurityError as error:
        raise UsageError(
            f"a {{{{ }}}} in the prompt was refused: {error}",
            hint="compute the value in a cell before, and insert the variable",
            code="usage.template",
        ) from None
    except jinja2.UndefinedError as error:
        raise UsageError(
            f"a {{{{ }}}} in the prompt has no value: {error.message}",
            hint=_near_attribute(error.message or "", values),
            code="usage.template",
        ) from None
    except NotFound:
        raise
    except Exception as error:
        raise UsageError(
            f"a {{{{ }}}} in the prompt failed: {type(error).__name__}: {error}",
            hint="try the expression in a cell of its own",
            code="usage.template",
        ) from error


def variables(values: Mapping[str, Any]) -> list[str]:
    """Names of the user's own, as completion and error messages offer them."""
    return sorted(n for n in values if not n.startswith("_") and n not in _SHELL_NAMES)


_SHELL_NAMES = frozenset({"In", "Out", "exit", "quit", "get_ipython", "open"})


def _missing(name: str, values: Mapping[str, Any]) -> NotFound:
    return NotFound(
        f'{{{{ {name} }}}} in the prompt: there is no variable "{name}"',
        hint=close_matches(name, variables(values)) or "define it in a cell before this one",
        code="usage.template",
    )


def _near_attribute(message: str, values: Mapping[str, Any]) -> str:
    """`'dict object' has no attribute 'citty'`: what the values that are meant do have."""
    quoted = _QUOTED.findall(message)
    if len(quoted) < 2:
        return "try the expression in a cell of its own"
    kind, name = quoted[0].removesuffix(" object"), quoted[-1]
    known: set[str] = set()
    for key in variables(values):
        value = values[key]
        if kind in (type(value).__name__, f"{type(value).__module__}.{type(value).__name__}"):
            known.update(str(k) for k in value) if isinstance(value, dict) else known.update(
                a for a in dir(type(value)) if not a.startswith("_")
            )
    near = close_matches(name, known)
    return near if near.startswith("did you mean") else "try the expression in a cell of its own"


def _finalize(value: Any) -> Any:
    return value if isinstance(value, str | jinja2.Undefined) else text_of(value)


def text_of(value: Any) -> str:
    """A value as a model reads it: tables as Markdown, other things as text of bounded length."""
    if isinstance(value, str):
        return value
    if (answer := getattr(type(value), "_prompt_text_", None)) is not None:
        return str(answer(value))
    if (table := _table(value)) is not None:
        return table
    text = str(value)
    if len(text) > MAX_REPR:
        return f"{text[:MAX_REPR]}… (cut: {len(text):,} characters in all)"
    return text


def _table(value: Any) -> str | None:
    module = type(value).__module__.partition(".")[0]
    kind = type(value).__name__
    if module not in ("pandas", "polars") or kind not in ("DataFrame", "Series"):
        return None
    if module == "pandas":
        return _pandas(value.to_frame() if kind == "Series" else value)
    return _polars(value.to_frame() if kind == "Series" else value)


def _pandas(frame: Any) -> str:
    from_zero = type(frame.index).__name__ == "RangeIndex"
    part = frame.iloc[:MAX_ROWS, :MAX_COLUMNS]
    header = [_cell(c) for c in part.columns]
    rows = [[_cell(v) for v in row] for row in part.itertuples(index=False, name=None)]
    if not from_zero:
        header.insert(0, " / ".join(str(n) for n in frame.index.names if n is not None))
        for row, label in zip(rows, part.index, strict=True):
            row.insert(0, _cell(label))
    return _markdown(header, rows, len(frame), frame.shape[1])


def _polars(frame: Any) -> str:
    part = frame[:, :MAX_COLUMNS]
    rows = [[_cell(v) for v in row] for row in islice(part.iter_rows(), MAX_ROWS)]
    return _markdown([_cell(c) for c in part.columns], rows, frame.height, frame.width)


def _markdown(header: list[str], rows: list[list[str]], height: int, width: int) -> str:
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    cut = []
    if height > len(rows):
        cut.append(f"the first {len(rows)} of {height:,} rows")
    if width > MAX_COLUMNS:
        cut.append(f"the first {MAX_COLUMNS} of {width:,} columns")
    if cut:
        lines += ["", f"({' and '.join(cut)} are shown)"]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    text = " / ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= MAX_CELL else f"{text[:MAX_CELL]}…"
