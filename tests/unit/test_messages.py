from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mastra_nb.messages import (
    Media,
    Message,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    Usage,
    assistant,
    system,
    user,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
extras = st.none() | st.dictionaries(st.text(), json_values, max_size=2)
parts = st.one_of(
    st.builds(Text, text=st.text(), extra=extras),
    st.builds(Reasoning, text=st.text(), extra=extras),
    st.builds(ToolCall, id=st.text(), name=st.text(), args=st.text(), extra=extras),
    st.builds(
        ToolResult,
        id=st.text(),
        name=st.text(),
        output=json_values,
        is_error=st.booleans(),
        extra=extras,
    ),
    st.builds(
        Media,
        mime=st.text(),
        data=st.none() | st.binary(),
        url=st.none() | st.text(),
        extra=extras,
    ),
)
messages = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    parts=st.lists(parts, max_size=4).map(tuple),
    partial=st.booleans(),
)
counts = st.integers(0, 10**6)
# Dyadic prices add without rounding, so that the laws hold exactly.
prices = st.none() | st.integers(0, 2**20).map(lambda n: n / 1024)
spent = st.builds(
    Usage, input=counts, output=counts, cached=counts, reasoning=counts, cost=prices,
    calls=st.integers(1, 9),
)  # fmt: skip
usages = st.just(Usage()) | spent


@given(messages)
def test_a_message_survives_json(message: Message) -> None:
    assert msgspec.json.decode(msgspec.json.encode(message), type=Message) == message


@given(st.lists(parts, max_size=5))
def test_views_pick_their_parts_in_order(given_parts: list[Part]) -> None:
    message = Message(role="assistant", parts=tuple(given_parts))
    assert message.text == "".join(p.text for p in given_parts if isinstance(p, Text))
    assert message.reasoning == "".join(p.text for p in given_parts if isinstance(p, Reasoning))
    assert list(message.tool_calls) == [p for p in given_parts if isinstance(p, ToolCall)]


def test_short_forms() -> None:
    picture = Media(mime="image/png", data=b"\x89")
    assert system("be brief") == Message(role="system", parts=(Text(text="be brief"),))
    assert user("look:", picture).parts == (Text(text="look:"), picture)
    assert assistant("yes") == Message(role="assistant", parts=(Text(text="yes"),))


def test_what_is_default_is_not_written() -> None:
    written = msgspec.json.decode(msgspec.json.encode(user("hi")))
    assert written == {"role": "user", "parts": [{"type": "text", "text": "hi"}]}


def test_values_are_frozen() -> None:
    with pytest.raises(AttributeError):
        user("hi").role = "system"  # type: ignore[misc]


@given(usages, usages, usages)
def test_usage_is_a_monoid(a: Usage, b: Usage, c: Usage) -> None:
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a
    assert a + Usage() == a == Usage() + a


@given(spent, spent)
def test_an_unknown_price_makes_the_sum_unknown(a: Usage, b: Usage) -> None:
    total = a + b
    assert (total.cost is None) == (a.cost is None or b.cost is None)
    assert total.total == a.total + b.total
    assert total.calls == a.calls + b.calls


def test_they_show_what_they_hold_and_nothing_else() -> None:
    call = ToolCall(id="c1", name="search", args='{"q":"x"}')
    message = Message(role="assistant", parts=(Text(text="Hi"), call))
    assert repr(message) == (
        "Message(role='assistant', parts=(Text(text='Hi'), "
        "ToolCall(id='c1', name='search', args='{\"q\":\"x\"}')))"
    )
    assert repr(Usage(input=3, calls=1)) == "Usage(input=3, calls=1)"
