"""Text filters and what they look for, without a model: patterns, personal data, secrets; and
how the text of messages is reached."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from mastra_nb.errors import ConfigError
from mastra_nb.messages import Message, Part, Text, ToolResult

S = TypeVar("S", bound=str)

BLOCKED_HINT = "rephrase it, or change the guardrail that says so"


class Found(msgspec.Struct, frozen=True):
    """A place in a text; `kind` says of what, never the text itself."""

    start: int
    end: int
    kind: str


Finder = Callable[[str, int], Iterable[Found]]


class Replacer:
    """Replaces what `find(text, from)` finds, up to `longest` characters long, in a text that
    streams; what is longer is swallowed up to the next white space. Of the newest text up to
    2 * `longest` characters are held back.
    """

    def __init__(self, find: Finder, replace: Callable[[str, str], str], *, longest: int) -> None:
        self._find = find
        self._replace = replace
        self._longest = longest
        self._text = ""
        self._from = 0  # before it is what was let out: patterns look back at it
        self._swallow = False

    def feed(self, text: str) -> str:
        self._text += text
        out = []
        # Where the windows begin and end depends on the text alone, never on how it was cut.
        while self._ready():
            out.append(self._step())
        return "".join(out)

    def close(self) -> str:
        out = []
        while self._ready():
            out.append(self._step())
        out.append(self._write(len(self._text), list(self._find(self._text, self._from))))
        return "".join(out)

    def _ready(self) -> bool:
        if self._swallow:
            rest = self._text[self._from :]
            kept = _NOT_SPACE.sub("", rest, count=1)
            self._text = self._text[: self._from] + kept
            self._swallow = not kept
        return len(self._text) - self._from >= 2 * self._longest

    def _step(self) -> str:
        start, end = self._from, self._from + 2 * self._longest
        window, cut = self._text[:end], self._from + self._longest
        found = list(self._find(window, start))
        for each in found:
            if each.start < cut < each.end:
                cut = each.end if each.end < end else each.start
                if cut == start:
                    cut, self._swallow = end, True
        out = self._write(cut, found)
        keep = max(0, cut - self._longest)
        self._text, self._from = self._text[keep:], cut - keep
        return out

    def _write(self, upto: int, found: Sequence[Found]) -> str:
        out, at = [], self._from
        for each in found:
            if each.end <= upto and each.start >= at:
                out += [
                    self._text[at : each.start],
                    self._replace(each.kind, self._text[each.start : each.end]),
                ]
                at = each.end
        return "".join([*out, self._text[at:upto]])


_NOT_SPACE = re.compile(r"\A\S+")


class Held:
    """Lets nothing out before the end."""

    def __init__(self) -> None:
        self._text: list[str] = []

    def feed(self, text: str) -> str:
        self._text.append(text)
        return ""

    def close(self) -> str:
        text = "".join(self._text)
        self._text.clear()
        return text


class Limited:
    """Cuts the text off after `most` characters."""

    def __init__(self, most: int) -> None:
        self._left = most

    def feed(self, text: str) -> str:
        text = text[: self._left]
        self._left -= len(text)
        return text

    def close(self) -> str:
        return ""


def patterns(named: dict[str, re.Pattern[str]]) -> Finder:
    """Where any of the patterns matches; of overlapping places the first, then the longest."""

    def find(text: str, start: int = 0) -> list[Found]:
        found = [
            Found(m.start(), m.end(), kind)
            for kind, pattern in named.items()
            for m in pattern.finditer(text, start)
            if m.end() > m.start() and _VALID.get(kind, _any)(m[0])
        ]
        found.sort(key=lambda f: (f.start, -f.end))
        kept: list[Found] = []
        for each in found:
            if not kept or each.start >= kept[-1].end:
                kept.append(each)
        return kept

    return find


def _any(_: str) -> bool:
    return True


def luhn(text: str) -> bool:
    """True if the digits of `text` are those of a card: 13 to 19 with a right check digit."""
    digits = [int(c) for c in text if c.isdecimal()]
    doubled = [sum(divmod(2 * d, 10)) for d in digits[-2::-2]]
    valid = (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0
    return 13 <= len(digits) <= 19 and valid and len(set(digits)) > 1


def iban(text: str) -> bool:
    """True if the check digits of an IBAN are right (ISO 13616)."""
    plain = re.sub(r"\s", "", text).upper()
    if not 15 <= len(plain) <= 34:
        return False
    return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def _ipv4(text: str) -> bool:
    return all(int(part) <= 255 for part in text.split("."))


def _ssn(text: str) -> bool:
    area, group, serial = text[:3], text[4:6], text[7:]
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def _phone(text: str) -> bool:
    return 9 <= sum(c.isdecimal() for c in text) <= 15


_VALID: dict[str, Callable[[str], bool]] = {
    "credit-card": luhn,
    "iban": iban,
    "ip-address": lambda t: ":" in t or _ipv4(t),
    "ssn": _ssn,
    "phone": _phone,
}

PII: dict[str, re.Pattern[str]] = {
    "email": re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,4}[^\W\d_]{2,24}\b"),
    "credit-card": re.compile(r"(?<![\w.])\d(?:[ -]?\d){12,18}(?!\w)"),
    "iban": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b"),
    "ssn": re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])"),
    "phone": re.compile(
        r"(?<![\w.])(?<!\d[ -])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?"
        r"|\(\d{2,4}\)[ .-]?|0(?=[1-9]\d))"
        r"\d{1,4}(?:[ .-]?\d{2,4}){2,4}(?!\w)"
        r"|(?<![\w.])\d{3}[ .-]\d{3}[ .-]\d{4}(?![\w.-])"
    ),
    "ip-address": re.compile(
        r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)"
        r"|(?<![\w:])(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}(?![\w:])"
        r"|(?<![\w:])(?:[0-9A-Fa-f]{1,4}:){1,6}(?::[0-9A-Fa-f]{1,4}){1,6}(?![\w:])"
    ),
    "api-key": re.compile(
        r"\b(?:sk|rk|pk|gsk|xai|pplx|csk)[-_][\w-]{16,}"
        r"|\b(?:gh[pousr]|github_pat|hf|tgp|glpat|xox[abprs])[-_][\w-]{16,}"
        r"|\bAIza[\w-]{30,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
        r"|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}"
    ),
}
PII_LONGEST = 160

_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_ZERO = (
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180e\u200b\u2060-\u2064\u206a-\u206f\ufeff\ufff9-\ufffb"
)
_TAGS = "\U000e0000-\U000e007f"
_CONTROL = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
_UNSEEN = re.compile(f"[{_BIDI}{_ZERO}{_TAGS}{_CONTROL}]")
_SPACES = re.compile(r"[^\S\n]+")
_BREAKS = re.compile(r" ?\n(?: ?\n)+ ?")


def normalized(text: str, form: Literal["NFC", "NFKC"] = "NFKC", *, collapse: bool = False) -> str:
    """`text` in a Unicode normal form, without what nobody can see; joiners of emoji and of
    scripts that need them stay.
    """
    text = unicodedata.normalize(form, _UNSEEN.sub("", text.replace("\r\n", "\n")))
    if collapse:
        text = _BREAKS.sub("\n\n", _SPACES.sub(" ", text)).strip()
    return text


def choice(owner: str, name: str, value: S, allowed: Sequence[str]) -> S:
    if value not in allowed:
        raise ConfigError(
            f'{owner}({name}="{value}") is not possible',
            hint="allowed: " + ", ".join(f'"{a}"' for a in allowed),
        )
    return value


def positive(owner: str, name: str, value: float) -> None:
    if not value > 0:
        raise ConfigError(f"{owner}({name}={value}) is not possible", hint="it must be above 0")


def strings(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with its strings changed, names too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        out: dict[str, Any] = {}
        for key, inner in value.items():
            name = change(key)
            out[f"{name} {len(out) + 1}" if name in out else name] = strings(inner, change)
        return out
    if isinstance(value, list | tuple):
        return [strings(v, change) for v in value]
    return value


def changed(message: Message, change: Callable[[str], str]) -> Message:
    """`message` with its texts and tool results changed."""
    parts = tuple(_part(p, change) for p in message.parts)
    return message if parts == message.parts else msgspec.structs.replace(message, parts=parts)


def changed_result(result: ToolResult, change: Callable[[str], str]) -> ToolResult | None:
    """None if nothing of it is changed."""
    output = strings(result.output, change)
    return None if output == result.output else msgspec.structs.replace(result, output=output)


def _part(part: Part, change: Callable[[str], str]) -> Part:
    if isinstance(part, ToolResult):
        return changed_result(part, change) or part
    if not isinstance(part, Text):
        return part
    text = change(part.text)
    # What a provider wants back (citations, signatures) quotes the text as it was.
    return part if text == part.text else msgspec.structs.replace(part, text=text, extra=None)


def read(messages: Iterable[Message]) -> str:
    """What a user or a tool says in them."""
    said: list[str] = []

    def keep(text: str) -> str:
        said.append(text)
        return text

    for message in messages:
        changed(message, keep)
    return "\n".join(said)


def arguments(message: Message) -> str:
    """What the tool calls in it say: their strings, or what is no JSON as it is."""
    said: list[str] = []

    def keep(text: str) -> str:
        said.append(text)
        return text

    for call in message.tool_calls:
        try:
            strings(msgspec.json.decode(call.args), keep)
        except msgspec.DecodeError:
            said.append(call.args)
    return "\n".join(said)


def newest(messages: Sequence[Message]) -> list[Message]:
    """What the model has not answered yet: the prompt, or what the tools have said."""
    at = len(messages)
    while at and messages[at - 1].role in ("user", "tool"):
        at -= 1
    return [*messages[at:]]
