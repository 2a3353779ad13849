"""`@name` in a question: an object of the notebook that goes along as context.

Only what the user typed is looked at, and only what resolves is context: `@df`, `@df.columns`,
`@rows[0]`, `@err` (the last error), `@out[3]`, `@in[-1]`, `@above` (the cell run before), `@nb`
(the cells of this session). Everything else stays the text that it is.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import types
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from mastra_nb._escape import fence
from mastra_nb.config import Secret, redact
from mastra_nb.errors import UsageError
from mastra_nb.messages import Media, Message, user
from mastra_nb.notebook import _templates
from mastra_nb.notebook._cells import Cells, Executed

SPECIALS = ("err", "above", "nb", "out", "in")
_MOST_TEXT, _MOST_NB, _MOST_COLUMNS = 4_000, 20_000, 40
_MOST_IMAGE = 5_000_000
_WORD = re.compile(
    r"""(?<![\w@.`/\\])@(?P<name>[^\W\d]\w*)
        (?P<rest>(?:\.[^\W\d]\w*|\[(?:-?\d{1,9}|'[^'\n]{0,200}'|"[^"\n]{0,200}")\])*)""",
    re.VERBOSE,
)
_STEP = re.compile(r"""\.([^\W\d]\w*)|\[([^\]]*|'[^'\n]*'|"[^"\n]*")\]""")
_EXPRESSION = re.compile(r"\{\{.*?\}\}", re.DOTALL)
_MISSING: Any = object()


class Attached(msgspec.Struct, kw_only=True):
    """A question's template, what goes with it, and the cell that it is about, if it is of one."""

    template: str
    blocks: list[str] = []
    images: list[Media] = []
    target: Executed | None = None

    def prompt(self, text: str, more: str = "") -> str | Message:
        """The rendered template, and `more` to say, with its context after it."""
        said = "\n\n".join(filter(None, (text, more)))
        if self.blocks:
            said += "\n\n---\nContext:\n\n" + "\n\n".join(self.blocks)
        return user(said, *self.images) if self.images else said


def attach(template: str, names: Mapping[str, Any], cells: Cells) -> Attached:
    """Raises UsageError for an image that is too large."""
    out = Attached(template=template)
    if "@" not in template:
        return out
    seen: set[str] = set()
    code = [match.span() for match in _EXPRESSION.finditer(template)]

    def take(match: re.Match[str]) -> str:
        if any(a <= match.start() < b for a, b in code):
            return match[0]
        found = _resolve(match["name"], match["rest"], names, cells)
        if found is None:
            return match[0]
        word, value, left = found
        if word not in seen:
            seen.add(word)
            _add(out, word, value)
        return f"`{word}`{left}"

    out.template = _WORD.sub(take, template)
    return out


def _resolve(
    name: str, rest: str, names: Mapping[str, Any], cells: Cells
) -> tuple[str, Any, str] | None:
    """(what was meant, its value, what is left as text); None if nothing is."""
    steps = [match[0] for match in _STEP.finditer(rest)]
    if name in SPECIALS:
        value, used = _special(name, steps, names, cells)
    else:
        value, used = names.get(name, _MISSING) if name[:1] != "_" else _MISSING, 0
    if value is _MISSING:
        return None
    for step in steps[used:]:
        following = _follow(value, step)
        if following is _MISSING:
            break
        value, used = following, used + 1
    word = name + "".join(steps[:used])
    return word, value, rest[len(word) - len(name) :]


def _follow(value: Any, step: str) -> Any:
    """Plain attributes and items: nothing of the user's is called but what these are made of."""
    try:
        if step.startswith("."):
            name = step[1:]
            return _MISSING if name.startswith("_") else getattr(value, name)
        return value[ast.literal_eval(step[1:-1])]
    except Exception:
        return _MISSING  # it is no such thing: then it is text


def _special(
    name: str, steps: list[str], names: Mapping[str, Any], cells: Cells
) -> tuple[Any, int]:
    if name in ("err", "above", "nb"):
        found: Any = {"err": cells.failed, "above": cells.last, "nb": cells.all}[name]()
        return (found or _MISSING), 0
    number = _index(steps[0]) if steps else -1
    if number is None:
        return _MISSING, 0
    if name == "in":
        cell = cells.nth(number)
        return (_MISSING if cell is None else cell), min(1, len(steps))
    out = names.get("Out", {})
    if not isinstance(out, Mapping) or not out:
        return _MISSING, 0
    keys = sorted(out)
    key = number if number > 0 else keys[number] if -len(keys) <= number < 0 else None
    return out.get(key, _MISSING), min(1, len(steps))


def _index(step: str) -> int | None:
    try:
        return int(step[1:-1]) if step.startswith("[") else -1
    except ValueError:
        return None


# What a model reads of it


def _add(out: Attached, word: str, value: Any) -> None:
    if isinstance(value, Executed):
        alone = out.target is None
        out.target = value if alone or word == "err" else out.target
        out.blocks.append(_cell_block(word, value))
    elif isinstance(value, list) and value and isinstance(value[0], Executed):
        out.blocks.append(_session(value))
    elif (image := _image(value)) is not None:
        if len(image) > _MOST_IMAGE:
            raise UsageError(
                f'the image "@{word}" has {len(image):,} bytes',
                hint=f"at most {_MOST_IMAGE:,}: make it smaller",
            )
        out.images.append(Media(mime="image/png", data=image))
        out.blocks.append(f"`{word}`: the attached image {len(out.images)}")
    else:
        about, text, language = _describe(value)
        out.blocks.append(_block(f"`{word}`: {about}", text, language))


def _block(head: str, text: str, language: str = "") -> str:
    text = redact(text)
    if len(text) > _MOST_TEXT:
        text = f"{text[:_MOST_TEXT]}\n… (cut: {len(text):,} characters in all)"
    return f"{head}\n\n{fence(text, language)}" if text else head


def _cell_block(word: str, cell: Executed) -> str:
    what = "the cell that failed" if word == "err" else f"cell [{cell.count}]"
    parts = [_block(f"`{word}`: {what}", cell.source, "python")]
    if cell.error:
        parts.append(_block("It failed with", cell.error))
    elif cell.result:
        parts.append(_block("It gave", cell.result))
    return "\n\n".join(parts)


def _session(cells: list[Executed]) -> str:
    """The newest, as far as there is room."""
    kept: list[str] = []
    size = 0
    for cell in reversed(cells):
        block = _cell_block(f"[{cell.count}]", cell)
        size += len(block)
        if size > _MOST_NB:
            break
        kept.append(block)
    left = len(cells) - len(kept)
    head = "`nb`: the cells that were run" + (f", without the first {left}" if left else "")
    return "\n\n".join([head, *reversed(kept)])


def _describe(value: Any) -> tuple[str, str, str]:
    """(what it is, its text, the language of that)."""
    if isinstance(value, Secret):
        return "a secret, which is not sent", "", ""
    for kind, describe in _KINDS:
        if kind(value):
            return describe(value)
    name = type(value).__name__
    return f"{_article(name)} {name}", _templates.text_of(value), ""


def _article(name: str) -> str:
    return "an" if name[:1].lower() in "aeiou" else "a"


def _is_frame(value: Any) -> bool:
    kind = type(value)
    return kind.__module__.partition(".")[0] in ("pandas", "polars") and kind.__name__ in (
        "DataFrame",
        "Series",
    )


def _frame(value: Any) -> tuple[str, str, str]:
    library = type(value).__module__.partition(".")[0]
    frame = value.to_frame() if type(value).__name__ == "Series" else value
    rows, columns = frame.shape
    lines = []
    for name in list(frame.columns)[:_MOST_COLUMNS]:
        column = frame[name]
        missing = int(column.isna().sum() if library == "pandas" else column.null_count())
        lines.append(
            f"{name}: {column.dtype}{_range(column)}"
            + (f", {missing:,} missing" if missing else "")
        )
    if columns > _MOST_COLUMNS:
        lines.append(f"… {columns - _MOST_COLUMNS:,} more columns")
    head = _templates.text_of(frame.head(5))
    about = f"a {library} {type(value).__name__}, {rows:,} rows × {columns:,} columns"
    return about, "\n".join([*lines, "", f"the first {min(5, rows)} rows:", head]), ""


def _range(column: Any) -> str:
    try:
        low, high = column.min(), column.max()
    except Exception:
        return ""  # values that cannot be ordered have no range
    numeric = hasattr(low, "__float__") and not isinstance(low, str)
    return f", {low} to {high}" if numeric and low is not None else ""


def _code(value: Any) -> tuple[str, str, str]:
    kind = "class" if isinstance(value, type) else "function"
    inner = getattr(value, "fn", value)  # a tool is a function of the user's
    try:
        return f"a {kind}", inspect.getsource(inner), "python"
    except (OSError, TypeError):
        pass  # of C, or typed where no source is kept
    try:
        signature = f"{value.__name__}{inspect.signature(inner)}"
    except (TypeError, ValueError):
        signature = str(getattr(value, "__name__", value))
    return f"a {kind}", "\n\n".join(filter(None, (signature, inspect.getdoc(value)))), ""


def _is_code(value: Any) -> bool:
    return isinstance(value, type) or (
        callable(getattr(value, "fn", value)) and hasattr(getattr(value, "fn", value), "__code__")
    )


def _module(value: types.ModuleType) -> tuple[str, str, str]:
    public = [n for n in dir(value) if not n.startswith("_")]
    doc = (inspect.getdoc(value) or "").split("\n\n")[0]
    return f"the module {value.__name__}", f"{doc}\n\n{', '.join(public)}".strip(), ""


_Describe = Callable[[Any], tuple[str, str, str]]
_KINDS: tuple[tuple[Callable[[Any], bool], _Describe], ...] = (
    (_is_frame, _frame),
    (lambda value: isinstance(value, types.ModuleType), _module),
    (_is_code, _code),
)


def _image(value: Any) -> bytes | None:
    """A figure, a picture, or whatever can draw itself, as PNG."""
    if isinstance(value, type | types.ModuleType):
        return None
    module = type(value).__module__.partition(".")[0]
    if module == "matplotlib":
        figure = value if hasattr(value, "savefig") else getattr(value, "figure", None)
        if figure is not None and hasattr(figure, "savefig"):
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", bbox_inches="tight")
            return buffer.getvalue()
    if module == "PIL" and hasattr(value, "save"):
        buffer = io.BytesIO()
        value.save(buffer, format="PNG")
        return buffer.getvalue()
    draw = getattr(value, "_repr_png_", None)
    made = draw() if callable(draw) and not _is_frame(value) else None
    return made if isinstance(made, bytes) else None
