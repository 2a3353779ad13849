"""Options of magics: one table, from which parsing, help and completion are made.

Nothing here exits, prints or guesses: a wrong option is a UsageError with close matches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from mastra_nb.errors import UsageError, close_matches


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """`metavar` is empty for a switch. `complete` names what its value is completed from. An
    "expression" keeps the quotes inside it.

    With `implied` the value may be left out: the next word is one only if it fits `pattern`.
    """

    name: str
    help: str
    short: str = ""
    metavar: str = ""
    kind: Literal["text", "list", "number", "count", "choice", "expression"] = "text"
    choices: tuple[str, ...] = ()
    complete: Literal[
        "", "model", "tool", "type", "thread", "variable", "memory", "embedder", "place"
    ] = ""
    implied: str = ""
    pattern: str = ""

    @property
    def long(self) -> str:
        return f"--{self.name}"

    @property
    def usage(self) -> str:
        names = f"{self.short}, {self.long}" if self.short else self.long
        return f"{names} {self.metavar}" if self.metavar else names


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """A magic: what it is called, what it takes, and what its help says."""

    name: str
    summary: str
    usage: tuple[str, ...]
    options: tuple[Option, ...] = ()
    body: str = ""
    examples: str = ""

    def option(self, written: str) -> Option:
        for option in self.options:
            if written in (option.long, option.short):
                return option
        known = [o.long for o in self.options]
        hint = close_matches(written, known) if known else "it takes no options"
        raise UsageError(f'{self.title} has no option "{written}"', hint=hint)

    @property
    def title(self) -> str:
        return self.usage[0].split()[0]

    def help(self) -> str:
        """Plain text, for `%%name?`."""
        lines = [self.summary, "", *(f"    {u}" for u in self.usage)]
        if self.body:
            lines += ["", self.body]
        if self.options:
            width = max(len(o.usage) for o in self.options) + 2
            lines += ["", "Options:"]
            lines += [f"    {o.usage:<{width}}{o.help}" for o in self.options]
        if self.examples:
            lines += ["", "Examples:", *(f"    {e}" for e in self.examples.splitlines())]
        return "\n".join(lines)


class Parsed(msgspec.Struct, kw_only=True):
    """`rest` is the text after the options, exactly as it was typed."""

    values: dict[str, Any] = {}
    words: list[str] = []
    rest: str = ""

    def get(self, name: str, default: Any = None) -> Any:
        return self.values.get(name, default)


_FLAG = re.compile(r"-[A-Za-z]|--[A-Za-z][\w-]*")
_WORD = re.compile(r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|\\.|[^\s"'])+""")
_PIECE = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*)"|\\(.)|([^"'\\]+)""")


def parse_cell(spec: Spec, line: str, *, words: int) -> Parsed:
    """The first line of a cell magic: options anywhere, and up to `words` words."""
    out = Parsed()
    at = 0
    flags = True
    while (at := _skip(line, at)) < len(line):
        end = _word_end(line, at)
        raw = line[at:end]
        if flags and raw == "--":
            flags, at = False, end
        elif flags and is_flag(raw):
            at = _take(spec, line, at, end, out.values)
        else:
            out.words.append(_unquote(raw))
            at = end
    if len(out.words) > words:
        extra = out.words[words]
        hint = f"usage: {spec.usage[0]}" + ("; the text goes below the line" if spec.body else "")
        for option in spec.options:
            # A value it may have left out, and a word that it did not take for one.
            if option.implied and out.values.get(option.name) == option.implied:
                hint = f"{option.long} is {option.help}"
        raise UsageError(f'{spec.title} does not know what to do with "{extra}"', hint=hint)
    return out


def parse_line(spec: Spec, line: str, *, is_name: Callable[[str], bool]) -> Parsed:
    """A line of options and text: the first word is a name if `is_name` says so, and the text
    begins at the first word that is neither an option nor the name. `--` ends the options.
    """
    out = Parsed()
    at = 0
    while (at := _skip(line, at)) < len(line):
        end = _word_end(line, at)
        raw = line[at:end]
        if raw == "--":
            at = _skip(line, end)
            break
        if is_flag(raw):
            at = _take(spec, line, at, end, out.values)
        elif not out.words and is_name(_unquote(raw)):
            out.words.append(_unquote(raw))
            at = end
        else:
            break
    out.rest = line[at:].rstrip()
    return out


def convert(option: Option, value: Any, where: str) -> Any:
    """A value as its option wants it; from YAML it may come as a list or a number."""
    if option.kind == "list":
        items = value if isinstance(value, list) else str(value).split(",")
        return [str(item).strip() for item in items if str(item).strip()]
    if option.kind == "count":
        if not re.fullmatch(r"[1-9]\d{0,5}", str(value)):
            raise UsageError(f'{where} is "{value}"', hint="a whole number from 1 is expected")
        return int(value)
    if option.kind == "number":
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = -1.0
        if not 0 < number < float("inf"):
            raise UsageError(f'{where} is "{value}"', hint="a number above 0 is expected")
        return number
    if not option.metavar:
        if not isinstance(value, bool):
            raise UsageError(f'{where} is "{value}"', hint="true or false is expected")
        return value
    if isinstance(value, bool):
        value = "on" if value else "off"
    if value is None or isinstance(value, list | dict):
        raise UsageError(f"{where} is {value!r}", hint="a text is expected")
    text = str(value)
    if option.kind == "choice" and text not in option.choices:
        choices = ", ".join(option.choices)
        raise UsageError(f'{where} is "{text}"', hint=f"one of: {choices}")
    return text


def from_mapping(
    spec: Spec, table: dict[Any, Any], *, where: str, extra: Sequence[str] = ()
) -> dict[str, Any]:
    """The same options as a mapping (YAML front matter). Raises UsageError for unknown names."""
    known = {o.name: o for o in spec.options if o.name not in _LINE_ONLY}
    out: dict[str, Any] = {}
    for key, value in table.items():
        name = str(key)
        if name in extra:
            out[name] = value
            continue
        if name not in known:
            raise UsageError(
                f'{where} has no option "{name}"', hint=close_matches(name, [*known, *extra])
            )
        out[name] = convert(known[name], value, f'"{name}" in {where}')
    return out


_LINE_ONLY = frozenset({"file", "save"})


def words_of(line: str) -> list[str]:
    """The words of a line, without their quotes."""
    out: list[str] = []
    at = 0
    while (at := _skip(line, at)) < len(line):
        end = _word_end(line, at)
        out.append(_unquote(line[at:end]))
        at = end
    return out


def _skip(line: str, at: int) -> int:
    while at < len(line) and line[at].isspace():
        at += 1
    return at


def _value(option: Option, raw: str) -> str:
    if option.kind == "expression" and not re.fullmatch(r"\"[^\"]*\"|'[^']*'", raw):
        return raw
    return _unquote(raw)


def _word_end(line: str, at: int) -> int:
    match = _WORD.match(line, at)
    if match is not None:
        return match.end()
    # An apostrophe that is never closed is an apostrophe.
    while at < len(line) and not line[at].isspace():
        at += 1
    return at


def _unquote(raw: str) -> str:
    out: list[str] = []
    at = 0
    while at < len(raw):
        match = _PIECE.match(raw, at)
        if match is None:
            out.append(raw[at])
            at += 1
            continue
        single, double, escaped, plain = match.groups()
        if double is not None:
            out.append(re.sub(r'\\(["\\])', r"\1", double))
        else:
            out.append(next(p for p in (single, escaped, plain) if p is not None))
        at = match.end()
    return "".join(out)


def is_flag(raw: str) -> bool:
    return _FLAG.fullmatch(raw.partition("=")[0]) is not None


def _take(spec: Spec, line: str, at: int, end: int, values: dict[str, Any]) -> int:
    """Put the option at `at` into `values`; returns where the next word begins."""
    raw = line[at:end]
    written, equals, attached = raw.partition("=")
    option = spec.option(written)
    if not option.metavar:
        if equals:
            raise UsageError(f'"{written}" takes no value', hint=f"write {written}")
        values[option.name] = True
        return end
    if equals:
        value = _value(option, attached)
    else:
        at = _skip(line, end)
        after, end = end, _word_end(line, at)
        value = _value(option, line[at:end])
        if option.implied and not re.fullmatch(option.pattern, value):
            values[option.name] = option.implied
            return after
        if at >= len(line) or line[at:end] == "--" or is_flag(line[at:end]):
            raise UsageError(f'"{written}" needs a value', hint=f"usage: {option.usage}")
    values[option.name] = convert(option, value, f'"{written}"')
    return end
