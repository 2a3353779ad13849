"""Processors that come with the package: they clean, limit, redact, judge and block.

The prompt and what tools answer are looked at before they are recorded, the history before each
model call. What comes out is looked at in the stream and after each call.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from mastra_nb.context import Context
from mastra_nb.errors import Blocked, ConfigError
from mastra_nb.events import Noted
from mastra_nb.filters import (
    BLOCKED_HINT,
    PII,
    PII_LONGEST,
    Finder,
    Found,
    Held,
    Limited,
    Replacer,
    arguments,
    changed,
    changed_result,
    choice,
    newest,
    normalized,
    patterns,
    positive,
    read,
)
from mastra_nb.messages import Message, Reasoning, Text, ToolCall, ToolResult, Usage
from mastra_nb.models import Reply
from mastra_nb.processors import Processor, Step, TextFilter, Turn

Apply = Literal["input", "output", "both"]


def _note(ctx: Context, text: str) -> None:
    ctx.emit(Noted(level="warning", text=text))


def _spoken(messages: Sequence[Message], change: Callable[[str], str]) -> list[Message]:
    """With what users and tools say in them changed."""
    return [changed(m, change) if m.role in ("user", "tool") else m for m in messages]


class UnicodeNormalizer(Processor):
    """Unicode of what users and tools say in one normal form ("NFC" or "NFKC"), without control,
    zero-width and direction characters; with `collapse_whitespace` also without idle space.
    """

    def __init__(
        self, *, form: Literal["NFC", "NFKC"] = "NFKC", collapse_whitespace: bool = False
    ) -> None:
        self.form = choice("UnicodeNormalizer", "form", form, ("NFC", "NFKC"))
        self.collapse_whitespace = collapse_whitespace

    def __repr__(self) -> str:
        return f"UnicodeNormalizer({self.form})"

    def _text(self, text: str) -> str:
        return normalized(text, self.form, collapse=self.collapse_whitespace)

    async def process_input(self, turn: Turn, ctx: Context) -> None:
        turn.reword(lambda m: changed(m, self._text))

    async def process_input_step(self, step: Step, turn: Turn, ctx: Context) -> None:
        step.messages = _spoken(step.messages, self._text)

    async def after_tool_call(
        self, call: ToolCall, result: ToolResult, turn: Turn, ctx: Context
    ) -> ToolResult | None:
        return changed_result(result, self._text)


def estimate_tokens(text: str) -> int:
    """A token for each 4 bytes of UTF-8, rounded up: near for English, more than is needed for
    most other scripts.
    """
    return -(-len(text.encode()) // 4)


class TokenLimiter(Processor):
    """Drops the oldest messages until `limit` tokens hold what is sent, and cuts an answer at
    `output` tokens.

    The instructions and what follows the last answer (the prompt, or a tool call with its results)
    stay; messages go in whole exchanges that start with a user's, so that no tool call is parted
    from its result. Raises Blocked if what has to stay is too long. `count` counts the tokens of a
    text (default `estimate_tokens`); a message costs 4 more. The cut of an answer is at
    4 * `output` characters, whatever `count` says: the pieces of a stream have no tokens.
    """

    def __init__(
        self,
        limit: int | None = None,
        *,
        output: int | None = None,
        count: Callable[[str], int] = estimate_tokens,
    ) -> None:
        if limit is None and output is None:
            raise ConfigError("TokenLimiter() limits nothing", hint="TokenLimiter(8000)")
        for name, value in (("limit", limit), ("output", output)):
            if value is not None:
                positive("TokenLimiter", name, value)
        self.limit = limit
        self.output = output
        self.count = count

    def __repr__(self) -> str:
        return f"TokenLimiter({self.limit}, output={self.output})"

    def _size(self, message: Message) -> int:
        return 4 + self.count(msgspec.json.encode(message.parts).decode())

    async def process_input_step(self, step: Step, turn: Turn, ctx: Context) -> None:
        if self.limit is None:
            return
        sizes = [self._size(m) for m in step.messages]
        first = sum(1 for _ in step.messages[:1] if _.role == "system")
        users = [i for i, m in enumerate(step.messages) if m.role == "user" and i >= first]
        fixed, total = sum(sizes[:first]), sum(sizes)
        starts = users or [first]
        for at in starts:
            if fixed + sum(sizes[at:]) <= self.limit:
                break
        else:
            needed = fixed + sum(sizes[starts[-1] :])
            raise Blocked(
                f"the prompt alone has about {needed} tokens, {self.limit} are allowed",
                hint="shorten it, or raise TokenLimiter(...)",
                details={"processor": "TokenLimiter", "tokens": needed, "limit": self.limit},
            )
        if total > self.limit and at > first:
            step.messages = [*step.messages[:first], *step.messages[at:]]

    def process_output_stream(self, turn: Turn) -> TextFilter | None:
        return None if self.output is None else Limited(4 * self.output)


class ToolCallFilter(Processor):
    """Leaves tool calls of earlier turns and their results out of the history: of all tools, or
    of those in `exclude`.
    """

    def __init__(self, exclude: Sequence[str] | None = None) -> None:
        if isinstance(exclude, str):
            raise ConfigError("the tools to leave out must be a list", hint='exclude=["search"]')
        self.exclude = None if exclude is None else frozenset(exclude)

    def __repr__(self) -> str:
        return f"ToolCallFilter({sorted(self.exclude) if self.exclude is not None else ''})"

    async def process_input_step(self, step: Step, turn: Turn, ctx: Context) -> None:
        last = max((i for i, m in enumerate(step.messages) if m.role == "user"), default=0)
        kept: list[Message] = []
        for i, message in enumerate(step.messages):
            if i < last:
                parts = tuple(p for p in message.parts if not self._drops(p))
                if not parts:
                    continue
                if parts != message.parts:
                    message = msgspec.structs.replace(message, parts=parts)
            kept.append(message)
        step.messages = kept

    def _drops(self, part: Any) -> bool:
        name = getattr(part, "name", None)
        return name is not None and (self.exclude is None or name in self.exclude)


class RegexFilter(Processor):
    """Looks for `patterns` (name to regular expression) and blocks, redacts or warns.

    "redact" replaces a match by `[name]`, also one that is spread over a stream: up to twice
    `longest` characters are held back, and what matches for longer is swallowed up to the next
    white space. "block" shows nothing of an answer before it was looked at; with `stream` True it
    is shown as late as a redacted one, and the first match closes the stream. Arguments of tool
    calls are never redacted, that would be another call: a match there blocks, or is noted.
    `apply_to` is "input" (prompt, history, results of tools), "output" or "both". Notes and errors
    name the pattern, never what it matched.
    """

    _kind = "RegexFilter"

    def __init__(
        self,
        named: Mapping[str, str | re.Pattern[str]],
        *,
        strategy: Literal["block", "redact", "warn"] = "block",
        apply_to: Apply = "both",
        stream: bool = False,
        longest: int = 128,
    ) -> None:
        if not named:
            raise ConfigError(f"{self._kind} looks for nothing", hint='{"name": r"pattern"}')
        self.strategy: str = choice(self._kind, "strategy", strategy, self._strategies)
        self.apply_to = choice(self._kind, "apply_to", apply_to, ("input", "output", "both"))
        positive(self._kind, "longest", longest)
        self.stream = stream
        self.longest = longest
        self.named: dict[str, re.Pattern[str]] = {}
        for name, pattern in named.items():
            try:
                self.named[name] = re.compile(pattern)
            except re.error as error:
                raise ConfigError(f'the pattern "{name}" is not valid: {error}') from None

    _strategies: tuple[str, ...] = ("block", "redact", "warn")

    def __repr__(self) -> str:
        return f"{self._kind}({', '.join(self.named)}; {self.strategy} {self.apply_to})"

    @property
    def _find(self) -> Finder:
        return patterns(self.named)

    def _replace(self, kind: str, text: str) -> str:
        return f"[{kind}]"

    def _whole(self, text: str) -> str:
        filter = Replacer(self._find, self._replace, longest=max(self.longest, len(text)))
        return filter.feed(text) + filter.close()

    @property
    def _redacts(self) -> bool:
        return self.strategy not in ("block", "warn")

    def _judge(self, text: str, where: str, ctx: Context, *, redacted: bool = True) -> None:
        found = [*self._find(text, 0)]
        if not found:
            return
        kinds = sorted({f.kind for f in found})
        if self.strategy == "block":
            raise self._blocked(kinds, where)
        done = "; it was redacted" if redacted and self._redacts else ""
        often = f" {len(found)} times" if len(found) > 1 else ""
        _note(ctx, f"{self._found(kinds, where)}{often}{done}")

    def _found(self, kinds: Sequence[str], where: str) -> str:
        return f"{self._kind} found {', '.join(kinds)} in {where}"

    def _blocked(self, kinds: Sequence[str], where: str) -> Blocked:
        details = {"processor": self._kind, "found": [*kinds], "where": where}
        return Blocked(self._found(kinds, where), hint=BLOCKED_HINT, details=details)

    def at_rest(self, text: str) -> str:
        return text if self.apply_to == "output" or self.strategy == "warn" else self._whole(text)

    async def process_input(self, turn: Turn, ctx: Context) -> None:
        if self.apply_to == "output":
            return
        self._judge(read(turn.said()), "the prompt", ctx)
        if self._redacts:
            turn.reword(lambda m: changed(m, self._whole))

    async def process_input_step(self, step: Step, turn: Turn, ctx: Context) -> None:
        if self.apply_to == "output":
            return
        # What is new in later steps are results of tools: they were looked at as they came.
        if step.index == 0 or self.strategy == "block":
            looked_at = step.messages if step.index == 0 else newest(step.messages)
            spoken = [m for m in looked_at if m.role in ("user", "tool")]
            unseen = [m for m in spoken if m not in turn.screened]
            self._judge(read(unseen), "what is sent", ctx)
        if self._redacts:
            step.messages = _spoken(step.messages, self._whole)

    async def after_tool_call(
        self, call: ToolCall, result: ToolResult, turn: Turn, ctx: Context
    ) -> ToolResult | None:
        if self.apply_to == "output":
            return None
        told = Message(role="tool", parts=(result,))
        self._judge(read((told,)), f'the result of "{call.name}"', ctx)
        return changed_result(result, self._whole) if self._redacts else None

    def process_output_stream(self, turn: Turn) -> TextFilter | None:
        if self.apply_to == "input" or self.strategy == "warn":
            return None
        if self.strategy == "block" and not self.stream:
            return Held()
        return Replacer(self._find, self._in_stream, longest=self.longest)

    def _in_stream(self, kind: str, text: str) -> str:
        if self.strategy == "block":
            raise self._blocked([kind], "the answer")
        return self._replace(kind, text)

    async def process_output_step(self, reply: Reply, turn: Turn, ctx: Context) -> Reply:
        if self.apply_to == "input":
            return reply
        said = f"{reply.message.reasoning}\n{reply.message.text}"
        self._judge(said, "the answer", ctx)
        self._judge(arguments(reply.message), "arguments of a tool call", ctx, redacted=False)
        if not self._redacts:
            return reply
        message = changed(reply.message, self._whole)
        return msgspec.structs.replace(reply, message=message)


class PIIDetector(RegexFilter):
    """Personal data and secrets by their form: "email", "phone", "credit-card" (with a right
    check digit), "iban" (with right check digits), "ip-address", "ssn", "api-key". No model is
    asked, so names and addresses are not found.

    "mask" leaves the last four characters. For the rest see RegexFilter.
    """

    _kind = "PIIDetector"
    _strategies = ("block", "redact", "mask", "warn")

    def __init__(
        self,
        detect: Sequence[str] | None = None,
        *,
        strategy: Literal["block", "redact", "mask", "warn"] = "redact",
        apply_to: Apply = "both",
        stream: bool = False,
    ) -> None:
        wanted = [*PII] if detect is None else [*detect]
        if unknown := [n for n in wanted if n not in PII]:
            raise ConfigError(
                f'PIIDetector does not know "{unknown[0]}"', hint="it knows " + ", ".join(PII)
            )
        super().__init__(
            {n: PII[n] for n in wanted},
            strategy=strategy,  # type: ignore[arg-type]
            apply_to=apply_to,
            stream=stream,
            longest=PII_LONGEST,
        )

    def _replace(self, kind: str, text: str) -> str:
        return f"****{text[-4:]}" if self.strategy == "mask" else f"[{kind}]"


class SystemPromptScrubber(Processor):
    """The instructions, or `words` words of them in a row, never leave in an answer: the answer
    is blocked, or with `strategy` "redact" the piece is replaced by `[instructions]`. Case and
    punctuation do not matter. Nothing is shown before the whole answer was looked at; with
    `stream` True only the last text is held back, four times as much as the longest such piece of
    the instructions, and what is stretched to more than that is found when the answer is whole.
    Arguments of tool calls are looked at too: what is found there blocks, or is noted.
    """

    def __init__(
        self,
        *,
        words: int = 8,
        strategy: Literal["block", "redact"] = "block",
        stream: bool = False,
    ) -> None:
        positive("SystemPromptScrubber", "words", words)
        self.words = words
        self.stream = stream
        self.strategy = choice("SystemPromptScrubber", "strategy", strategy, ("block", "redact"))

    def __repr__(self) -> str:
        return f"SystemPromptScrubber(words={self.words}, {self.strategy})"

    def process_output_stream(self, turn: Turn) -> TextFilter | None:
        if not self.stream:
            return Held()
        find, longest = _repeats(turn.instructions, self.words)
        return Replacer(find, self._in_stream, longest=2 * longest) if longest else None

    def _in_stream(self, kind: str, text: str) -> str:
        if self.strategy == "block":
            raise self._blocked()
        return "[instructions]"

    def _blocked(self) -> Blocked:
        details = {"processor": "SystemPromptScrubber"}
        return Blocked("the answer repeats the instructions", hint=BLOCKED_HINT, details=details)

    async def process_output_step(self, reply: Reply, turn: Turn, ctx: Context) -> Reply:
        find, longest = _repeats(turn.instructions, self.words)
        if not longest:
            return reply
        parts = [*reply.message.parts]
        for i, part in enumerate(parts):
            if isinstance(part, Text | Reasoning) and [*find(part.text, 0)]:
                if self.strategy == "block":
                    raise self._blocked()
                whole = Replacer(find, self._in_stream, longest=len(part.text))
                text = whole.feed(part.text) + whole.close()
                parts[i] = msgspec.structs.replace(part, text=text, extra=None)
        if [*find(arguments(reply.message), 0)]:
            if self.strategy == "block":
                raise self._blocked()
            _note(ctx, "arguments of a tool call repeat the instructions")
        if parts == [*reply.message.parts]:
            return reply
        _note(ctx, "the answer repeated the instructions; that was redacted")
        message = msgspec.structs.replace(reply.message, parts=tuple(parts))
        return msgspec.structs.replace(reply, message=message)


def _repeats(instructions: str, words: int) -> tuple[Finder, int]:
    """Finds `words` words of the instructions in a row, or all if there are fewer, and says how
    many characters that is at most: 0 if there is nothing to find.
    """
    secret = [*_WORD.finditer(instructions)]
    n = min(words, len(secret))
    starts = range(len(secret) - n + 1) if n else range(0)
    grams = {tuple(m[0].lower() for m in secret[i : i + n]) for i in starts}
    longest = max((secret[i + n - 1].end() - secret[i].start() for i in starts), default=0)

    def find(text: str, start: int = 0) -> list[Found]:
        at = [*_WORD.finditer(text)]
        said = [m[0].lower() for m in at]
        found: list[Found] = []
        for i in range(len(at) - n + 1):
            begin, end = max(start, at[i].start()), at[i + n - 1].end()
            if end <= start or tuple(said[i : i + n]) not in grams:
                continue
            if found and at[i].start() <= found[-1].end:
                begin = found.pop().start
            found.append(Found(begin, end, "instructions"))
        return found

    return find, longest


_WORD = re.compile(r"\w+")


class CostGuard(Processor):
    """Money: before each model call, stops (or notes) when a `scope` has spent `dollars`.

    "run" is this run; "thread" and "day" (UTC) also count what is kept in the store of the runs
    of that thread or day that were made by agents with this guard. Another call under way is not
    seen: a limit that no crowd may cross is `Limits(cost=...)`. `unknown` says what a cost that
    nobody knows does: "block" or "warn".
    """

    def __init__(
        self,
        dollars: float,
        *,
        scope: Literal["run", "thread", "day"] = "run",
        strategy: Literal["block", "warn"] = "block",
        unknown: Literal["block", "warn"] = "block",
    ) -> None:
        positive("CostGuard", "dollars", dollars)
        self.dollars = dollars
        self.scope = choice("CostGuard", "scope", scope, ("run", "thread", "day"))
        self.strategy = choice("CostGuard", "strategy", strategy, ("block", "warn"))
        self.unknown = choice("CostGuard", "unknown", unknown, ("block", "warn"))

    def __repr__(self) -> str:
        return f"CostGuard({self.dollars:g} dollars per {self.scope}, {self.strategy})"

    async def process_input_step(self, step: Step, turn: Turn, ctx: Context) -> None:
        used = ctx.run.meter.usage
        spent, certain = used.cost or 0.0, not used.calls or used.cost is not None
        for cost in (await self._earlier(turn, ctx)).values():
            spent += cost or 0.0
            certain = certain and cost is not None
        if not certain:
            self._say(self.unknown, f"what this {self.scope} has cost is unknown", ctx, spent)
        if spent >= self.dollars:
            text = f"this {self.scope} has cost ${spent:.4f}, ${self.dollars:g} are allowed"
            self._say(self.strategy, text, ctx, spent)

    def _say(self, strategy: str, text: str, ctx: Context, spent: float) -> None:
        if strategy == "warn":
            _note(ctx, text)
            return
        raise Blocked(
            text,
            hint="raise CostGuard(...), or set a price with mastra_nb.prices.set_price",
            details={"processor": "CostGuard", "scope": self.scope, "spent": spent},
        )

    def _place(self, turn: Turn, ctx: Context) -> str | None:
        if self.scope == "run" or ctx.services.store is None:
            return None
        if self.scope == "thread":
            return f"thread/{turn.thread}/" if turn.thread else None
        day = dt.datetime.fromtimestamp(ctx.services.now(), dt.UTC).date()
        return f"day/{day.isoformat()}/"

    async def _earlier(self, turn: Turn, ctx: Context) -> dict[str, float | None]:
        store, place = ctx.services.store, self._place(turn, ctx)
        if store is None or place is None:
            return {}
        kept = await store.find("cost", prefix=place, limit=100_000)
        return {id: d["cost"] for id, d in kept if id != f"{place}{ctx.run.id}"}

    async def after(self, turn: Turn, ctx: Context) -> None:
        store, place = ctx.services.store, self._place(turn, ctx)
        used: Usage = ctx.run.meter.usage
        if store is not None and place is not None and used.calls:
            await store.put("cost", f"{place}{ctx.run.id}", {"cost": used.cost})
