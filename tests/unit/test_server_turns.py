"""Messages between clients and threads."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mastra_nb.errors import SchemaError
from mastra_nb.messages import (
    Media,
    Message,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    assistant,
    user,
)
from mastra_nb.server._turns import asked, core_messages, grouped, iso, ui_message
from mastra_nb.storage import ThreadMessage

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
PART = st.dictionaries(
    st.sampled_from(["type", "text", "toolCallId", "state", "result", "image", "data", "url"]),
    st.sampled_from(["text", "tool-result", "image", "file", "a", "data:,x", 1]) | JSON,
)
MESSAGE = st.dictionaries(
    st.sampled_from(["role", "content", "parts", "tool_call_id", "id"]),
    st.sampled_from(["user", "assistant", "tool", "system"]) | st.lists(PART, max_size=3) | JSON,
)


@given(JSON | st.lists(MESSAGE, max_size=4))
def test_whatever_is_sent_is_read_or_refused(given_: Any) -> None:
    try:
        found = asked(given_)
    except SchemaError:
        return
    assert all(m.role in ("user", "assistant") for m in found.messages)
    for message in found.messages:
        assert not message.tool_calls, "a client makes no calls of tools"
        assert not any(isinstance(p, ToolResult) for p in message.parts)


@pytest.mark.parametrize(
    "content",
    [
        "Hi",
        [{"type": "text", "text": "Hi"}],
        [{"type": "input_text", "text": "Hi"}],
        {"format": 2, "parts": [{"type": "text", "text": "Hi"}]},
    ],
)
def test_all_ways_to_say_the_same(content: Any) -> None:
    assert asked([{"role": "user", "content": content}]).messages == [user("Hi")]
    assert asked("Hi").messages == [user("Hi")]


def test_instructions_of_a_client_count_where_they_are_trusted() -> None:
    given_ = [{"role": "system", "content": "Obey."}, {"role": "user", "content": "Hi"}]
    assert asked(given_).messages == [user("Hi")]
    assert [m.role for m in asked(given_, instructions=True).messages] == ["system", "user"]


def test_of_a_remembered_conversation_the_end_is_new() -> None:
    given_ = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    assert asked(given_, remembered=True).messages == [user("three")]
    assert asked(given_).messages == [user("one"), assistant("two"), user("three")]


def test_results_of_a_clients_tools_are_found_in_every_form() -> None:
    forms: list[Any] = [
        {"role": "tool", "content": [{"type": "tool-result", "toolCallId": "c", "result": 1}]},
        {"role": "tool", "tool_call_id": "c", "content": "1"},
        {
            "role": "tool",
            "content": [
                {"type": "tool-result", "toolCallId": "c", "output": {"type": "json", "value": 1}}
            ],
        },
        {
            "role": "assistant",
            "parts": [
                {"type": "tool-x", "toolCallId": "c", "state": "output-available", "output": 1}
            ],
        },
    ]
    for form in forms:
        assert asked([form]).results == {"c": 1}, form


def test_a_picture_is_data_or_an_address() -> None:
    png = "data:image/png;base64,iVBORw0KGgo="
    (message,) = asked([{"role": "user", "content": [{"type": "image", "image": png}]}]).messages
    (part,) = message.parts
    assert isinstance(part, Media)
    assert (part.mime, part.data) == ("image/png", b"\x89PNG\r\n\x1a\n")
    url = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    (message,) = asked([{"role": "user", "content": [url]}]).messages
    assert isinstance(message.parts[0], Media)
    assert message.parts[0].url == "https://example.org/a.png"
    with pytest.raises(SchemaError, match="no base64"):
        asked([{"role": "user", "content": [{"type": "image", "image": "file:///etc/passwd"}]}])


def place(pos: int, message: Message, run: str = "r") -> ThreadMessage:
    return ThreadMessage(pos=pos, run=run, seq=pos, message=message, at=1.0)


CALLING = Message(
    role="assistant",
    parts=(Reasoning(text="hm"), ToolCall(id="c", name="look", args='{"a": 1}')),
)
RESULT = Message(role="tool", parts=(ToolResult(id="c", name="look", output={"b": 2}),))


def test_a_turn_is_one_message_with_one_id() -> None:
    said = [user("Hi"), CALLING, RESULT, assistant("Done.")]
    groups = [*grouped(place(n, m) for n, m in enumerate(said, 1))]
    assert [(g.id, g.role, g.positions) for g in groups] == [
        ("r-u0", "user", [1]),
        ("r-a1", "assistant", [2, 3, 4]),
    ]
    parts = ui_message(groups[1])["parts"]
    assert [p["type"] for p in parts] == [
        "step-start", "reasoning", "tool-look", "step-start", "text",
    ]  # fmt: skip
    assert (parts[2]["state"], parts[2]["output"]) == ("output-available", {"b": 2})


def test_messages_of_one_moment_have_times_in_their_order() -> None:
    said = [user("a"), assistant("b"), user("c"), assistant("d")]
    ats = [1.0004, 1.0004, 1.0, 9.0]
    kept = [
        msgspec.structs.replace(place(n, m), at=at)
        for n, (m, at) in enumerate(zip(said, ats, strict=True), 1)
    ]
    times = [iso(g.at) for g in grouped(kept)]
    assert [t[-5:-1] for t in times] == [".000", ".001", ".002", ".000"]
    assert times == sorted(times)


def test_an_id_stays_when_another_message_is_deleted() -> None:
    kept = [place(2, assistant("Done.")), place(3, user("More?"))]
    groups = [*grouped(kept, {"r": [1, 3]})]
    assert [g.id for g in groups] == ["r-a1", "r-u1"]


def test_arguments_that_are_no_json_are_kept_as_text() -> None:
    broken = Message(role="assistant", parts=(ToolCall(id="c", name="look", args='{"a": '),))
    (message,) = core_messages(
        [
            broken,
        ]
    )
    assert message["content"][0]["input"] == {"input": '{"a": '}
    assert core_messages([user("Hi")])[0]["content"] == [{"type": "text", "text": "Hi"}]
    assert Text(text="Hi") in user("Hi").parts
