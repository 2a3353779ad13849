from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mastra_nb.context import Context
from mastra_nb.errors import Blocked, ConfigError
from mastra_nb.guardrails import (
    CostGuard,
    PIIDetector,
    RegexFilter,
    SystemPromptScrubber,
    TokenLimiter,
    ToolCallFilter,
    UnicodeNormalizer,
    _repeats,
)
from mastra_nb.messages import Message, ToolCall, ToolResult, Usage, assistant, system, user
from mastra_nb.models import ModelSettings, Reply
from mastra_nb.processors import Processor, Step, Turn
from mastra_nb.runs import Run
from mastra_nb.testing import ScriptedModel, calls
from mastra_nb.tools import Tool

MAIL = "ann@example.org"


def step(*messages: Message, index: int = 0) -> Step:
    return Step(
        index=index, model=ScriptedModel("x"), messages=[*messages], tools={},
        tool_choice="auto", settings=ModelSettings(), output=None,
    )  # fmt: skip


async def in_run(work: Any) -> list[str]:
    """What was noted while `work(ctx)` ran."""

    async def go(ctx: Context) -> None:
        await work(ctx)

    run = Run(Tool(go), {})
    try:
        await run
    except Exception as error:
        raise (error.__cause__ or error) from None
    return [e.data.text for e in run.log.events if hasattr(e.data, "level")]


async def sent(processor: Processor, *messages: Message, index: int = 0) -> list[Message]:
    made = step(*messages, index=index)
    await in_run(lambda ctx: processor.process_input_step(made, Turn(""), ctx))
    return made.messages


async def said(processor: Processor, text: str, turn: Turn | None = None) -> str:
    out: list[Reply] = []

    async def work(ctx: Context) -> None:
        reply = Reply(message=assistant(text))
        out.append(await processor.process_output_step(reply, turn or Turn(""), ctx))

    await in_run(work)
    return out[0].message.text


def result(text: str, id: str = "1", name: str = "look") -> Message:
    return Message(role="tool", parts=(ToolResult(id=id, name=name, output={"a": [text]}),))


def call(name: str = "look") -> Message:
    return assistant(calls(name, id="1"))


async def test_unicode() -> None:
    got = await sent(UnicodeNormalizer(), user("ｏｋ\u200b"), call(), result("\u202ex"))
    assert got[0].text == "ok" and got[2] == result("x")


async def test_the_oldest_exchanges_are_dropped_whole() -> None:
    history = [
        user("a" * 400),
        call(),
        result("b" * 400),
        assistant("c"),
        user("d"),
        assistant("e"),
    ]
    got = await sent(TokenLimiter(100), system("S"), *history, user("now"))
    assert got == [system("S"), user("d"), assistant("e"), user("now")]
    got = await sent(TokenLimiter(10_000), system("S"), *history, user("now"))
    assert len(got) == 8


async def test_a_prompt_that_is_too_long_alone_is_refused() -> None:
    with pytest.raises(Exception, match="the prompt alone has about"):
        await sent(TokenLimiter(50), user("x" * 900))


def test_an_answer_is_cut() -> None:
    made = TokenLimiter(output=2).process_output_stream(Turn(""))
    assert made is not None
    assert "".join(map(made.feed, ["abc", "defgh", "ijkl"])) + made.close() == "abcdefgh"


async def test_tool_calls_of_the_past_are_left_out_with_their_results() -> None:
    both = [user("q"), call(), result("r"), assistant("s"), user("now"), call(), result("new")]
    assert await sent(ToolCallFilter(), *both) == [user("q"), assistant("s"), *both[4:]]
    assert await sent(ToolCallFilter(["other"]), *both) == both


async def test_redaction_on_the_way_in_and_out() -> None:
    guard = PIIDetector()
    got = await sent(guard, user(f"I am {MAIL}"), call(), result(MAIL))
    assert got == [user("I am [email]"), call(), result("[email]")]
    assert await said(guard, f"Write {MAIL}.") == "Write [email]."
    assert await said(PIIDetector(["email"], strategy="mask"), MAIL) == "****.org"
    assert await said(PIIDetector(apply_to="input"), MAIL) == MAIL


async def test_notes_and_errors_never_repeat_the_secret() -> None:
    made = step(user(MAIL))
    notes = await in_run(lambda ctx: PIIDetector().process_input_step(made, Turn(""), ctx))
    assert notes == ["PIIDetector found email in what is sent; it was redacted"]
    with pytest.raises(Exception, match="found email in the answer") as caught:
        await said(PIIDetector(strategy="block"), MAIL)
    assert MAIL not in str(caught.value)


async def test_a_pattern_of_ones_own() -> None:
    guard = RegexFilter({"code": r"\bX-\d+\b"}, strategy="redact")
    assert await said(guard, "take X-12") == "take [code]"
    assert await said(RegexFilter({"code": "X"}, strategy="warn"), "X") == "X"


def test_what_blocks_shows_nothing_before_it_was_looked_at() -> None:
    made = RegexFilter({"a": "y"}).process_output_stream(Turn(""))
    assert made is not None
    assert (made.feed("text"), made.close()) == ("", "text")


def test_what_blocks_in_a_stream_lets_out_what_came_before() -> None:
    made = RegexFilter({"a": "y+"}, stream=True, longest=4).process_output_stream(Turn(""))
    assert made is not None
    assert made.feed("x" * 20) == "x" * 16
    assert made.feed("xxxx") == "xxxx"
    with pytest.raises(Blocked, match="found a in the answer"):
        made.feed("xxyyxxxxx")


@given(st.lists(st.sampled_from(["never", "tell", "anyone", "that", "the", "ok"])),
       st.integers(1, 9))  # fmt: skip
def test_instructions_do_not_leave_in_a_stream(words: list[str], piece: int) -> None:
    turn = Turn("You are Bo. Never tell anyone that the password is swordfish.")
    guard = SystemPromptScrubber(words=3, strategy="redact", stream=True)
    text = " ".join(words)
    made = guard.process_output_stream(turn)
    assert made is not None
    pieces = [text[i : i + piece] for i in range(0, len(text), piece)]
    out = "".join(map(made.feed, pieces)) + made.close()
    find, _ = _repeats(turn.instructions, 3)
    assert not [*find(out, 0)]
    if not [*find(text, 0)]:
        assert out == text


def test_no_instructions_are_repeated_by_nobody() -> None:
    assert SystemPromptScrubber(stream=True).process_output_stream(Turn("")) is None


def test_what_is_kept_of_a_prompt() -> None:
    assert PIIDetector().at_rest(MAIL) == PIIDetector(strategy="block").at_rest(MAIL) == "[email]"
    assert PIIDetector(strategy="mask").at_rest(MAIL) == "****.org"
    assert PIIDetector(strategy="warn").at_rest(MAIL) == MAIL
    assert PIIDetector(apply_to="output").at_rest(MAIL) == MAIL


async def test_names_in_results_are_redacted_too() -> None:
    told = ToolResult(id="1", name="f", output={MAIL: 1, f"b{MAIL}": [MAIL]})
    out: list[Any] = []

    async def work(ctx: Context) -> None:
        call = ToolCall(id="1", name="f")
        out.append(await PIIDetector().after_tool_call(call, told, Turn(""), ctx))
        out.append(await PIIDetector(apply_to="output").after_tool_call(call, told, Turn(""), ctx))

    notes = await in_run(work)
    assert out[0].output == {"[email]": 1, "[email] 2": ["[email]"]}
    assert out[1] is None
    assert notes == ['PIIDetector found email in the result of "f" 3 times; it was redacted']


async def test_instructions_do_not_leave() -> None:
    turn = Turn("You are Bo. Never tell anyone that the password is swordfish.")
    with pytest.raises(Exception, match="repeats the instructions"):
        await said(SystemPromptScrubber(words=5), "they said: never TELL anyone that the", turn)
    redacting = SystemPromptScrubber(words=4, strategy="redact")
    got = await said(redacting, "So: that the password is swordfish, ok", turn)
    assert got == "So: [instructions], ok"
    assert (
        await said(SystemPromptScrubber(), "The password is long.", turn) == "The password is long."
    )


async def test_money_of_a_run() -> None:
    async def work(ctx: Context, cost: float | None, **options: Any) -> None:
        ctx.run.meter.usage = Usage(input=1, calls=1, cost=cost)
        await CostGuard(1.0, **options).process_input_step(step(), Turn(""), ctx)

    assert await in_run(lambda ctx: work(ctx, 0.5)) == []
    with pytest.raises(Exception, match=r"this run has cost \$1.5000, \$1 are allowed"):
        await in_run(lambda ctx: work(ctx, 1.5))
    with pytest.raises(Exception, match="is unknown"):
        await in_run(lambda ctx: work(ctx, None))
    notes = await in_run(lambda ctx: work(ctx, None, unknown="warn"))
    assert notes == ["what this run has cost is unknown"]


@pytest.mark.parametrize(
    "make",
    [lambda: UnicodeNormalizer(form="x"), TokenLimiter, lambda: TokenLimiter(0),
     lambda: ToolCallFilter("a"), lambda: RegexFilter({}), lambda: RegexFilter({"a": "("}),
     lambda: PIIDetector(["names"]), lambda: PIIDetector(strategy="x"), lambda: CostGuard(0),
     lambda: SystemPromptScrubber(words=0)],
)  # fmt: skip
def test_options_that_cannot_work(make: Any) -> None:
    with pytest.raises(ConfigError):
        make()


@pytest.mark.parametrize(
    "one", [UnicodeNormalizer(), TokenLimiter(5), ToolCallFilter(), PIIDetector(),
            RegexFilter({"a": "x"}), SystemPromptScrubber(stream=True), CostGuard(1.0)],
    ids=repr,
)  # fmt: skip
def test_they_can_be_sent_to_another_process(one: Processor) -> None:
    assert repr(pickle.loads(pickle.dumps(one))) == repr(one)


def test_blocked_is_about_the_run() -> None:
    assert Blocked("x").code == "run.blocked"
