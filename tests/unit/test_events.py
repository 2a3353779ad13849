from __future__ import annotations

import json
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mastra_nb import events as e
from mastra_nb.messages import Media, Message, Reasoning, Text, ToolCall, ToolResult, Usage, user

text = st.text(st.characters(codec="utf-8"), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | text
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
extra = st.none() | st.dictionaries(text, values, max_size=2)
parts = st.one_of(
    st.builds(Text, text=text, extra=extra),
    st.builds(Reasoning, text=text, extra=extra),
    st.builds(ToolCall, id=text, name=text, args=text, extra=extra),
    st.builds(ToolResult, id=text, name=text, output=values, is_error=st.booleans(), extra=extra),
    st.builds(Media, mime=text, data=st.none() | st.binary(max_size=9), url=st.none() | text),
)
messages = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    parts=st.lists(parts, max_size=3).map(tuple),
    partial=st.booleans(),
)
count = st.integers(0, 10**9)
usages = st.builds(
    Usage, input=count, output=count, cached=count, calls=count,
    cost=st.none() | st.floats(0, 99),
)  # fmt: skip
errors = st.builds(e.ErrorInfo, code=text, message=text, hint=text)
objects = st.dictionaries(text, values, max_size=3)
payloads: st.SearchStrategy[Any] = st.one_of(
    st.builds(e.SpanStarted, kind=text, name=text, input=values, attempt=count),
    st.builds(
        e.SpanEnded, status=st.sampled_from(["ok", "error", "cancelled"]), output=values,
        usage=st.none() | usages, error=st.none() | errors,
    ),
    st.builds(e.TextDelta, text=text),
    st.builds(e.ReasoningDelta, text=text),
    st.builds(e.ArgsDelta, id=text, text=text, name=text),
    st.builds(e.MessageAdded, message=messages, finish=st.sampled_from([None, "stop", "other"])),
    st.builds(e.Suspended, path=text, reason=text, payload=values, schema=st.none() | objects),
    st.builds(e.Resumed, path=text, value=values),
    st.builds(e.StateSet, key=text, value=values),
    st.builds(e.Displayed, bundle=objects),
    st.builds(e.Scored, scorer=text, value=st.floats(-9, 9), reason=text),
    st.builds(e.Noted, level=st.sampled_from(["debug", "info", "warning", "error"]), text=text),
    st.builds(e.Custom, name=text, value=values),
)  # fmt: skip
stamped = st.builds(
    e.Event, run=text, seq=count, span=text, data=payloads, at=st.floats(0, 9e9),
    parent=st.none() | text, n=count, v=count,
)  # fmt: skip


@given(stamped)
def test_what_is_encoded_is_decoded(event: e.Event) -> None:
    assert e.decode(e.encode(event)) == event
    assert e.decode_payload(e.encode_payload(event.data)) == event.data


@given(st.lists(stamped, max_size=30))
def test_a_view_takes_any_log(log: list[e.Event]) -> None:
    e.fold(log)


def test_every_payload_is_tried() -> None:
    tried = set(str(payloads))
    assert tried
    for kind in get_args(e.Payload):
        assert f"builds({kind.__name__}" in str(payloads), kind


@given(objects, st.text(st.characters(codec="ascii"), min_size=1))
def test_a_payload_of_a_newer_version_is_kept(value: dict[str, Any], tag: str) -> None:
    value.pop("type", None)
    raw = json.dumps({"type": f"new-{tag}", **value})
    assert e.decode_payload(raw) == e.Custom(name=f"new-{tag}", value=value)
    assert e.decode_payload(e.encode_payload(e.decode_payload(raw))) == e.decode_payload(raw)


@pytest.mark.parametrize("raw", ["{}", "[]", '{"type": 3}', '{"type": "text-delta", "text": 1}'])
def test_a_broken_payload_is_an_error(raw: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        e.decode_payload(raw)


def test_a_field_of_a_newer_version_is_ignored() -> None:
    assert e.decode_payload('{"type":"noted","level":"info","text":"x","new":1}') == e.Noted(
        level="info", text="x"
    )


def test_half_a_surrogate_pair_does_not_break_a_run() -> None:
    event = log(("a", None, e.Custom(name="x", value={"k\ud800": ["\udc00", 1]})))[0]
    assert e.decode(e.encode(event)).data == e.Custom(name="x", value={"k?": ["?", 1]})
    message = Message(role="user", parts=(Text(text="\ud83d"),))
    assert e.decode_payload(e.encode_payload(e.MessageAdded(message=message))) == e.MessageAdded(
        message=user("?")
    )


def log(*entries: tuple[str, str | None, Any]) -> list[e.Event]:
    seq = n = 0
    out = []
    for span, parent, data in entries:
        seq, n = (seq, n + 1) if isinstance(data, e.DELTAS) else (seq + 1, 0)
        out.append(e.Event(run="r", seq=seq, n=n, span=span, parent=parent, data=data, at=seq))
    return out


def start(kind: str, attempt: int = 1) -> e.SpanStarted:
    return e.SpanStarted(kind=kind, name=kind, attempt=attempt)


OK = e.SpanEnded(status="ok")


def said(text: str) -> e.MessageAdded:
    return e.MessageAdded(message=Message(role="assistant", parts=(Text(text=text),)))


def test_the_first_span_is_the_root_wherever_it_is_in_its_run() -> None:
    view = e.fold(log(("a/t/b", "a/t", start("agent")), ("a/t/b", "a/t", OK)))
    assert (view.root, view.status) == ("a/t/b", "done")


def test_text_is_the_root_s_newest_draft_or_message() -> None:
    entries = [
        ("a", None, start("agent")),
        ("a/m0", "a", start("model")),
        ("a/m0", "a", e.TextDelta(text="Hel")),
        ("a/m0", "a", e.TextDelta(text="lo")),
    ]
    assert e.fold(log(*entries)).text == "Hello"
    entries += [("a/m0", "a", said("Hello.")), ("a/m0", "a", OK)]
    assert e.fold(log(*entries)).text == "Hello."
    entries += [("a/t", "a", start("step")), ("a/t/b", "a/t", start("agent"))]
    entries += [("a/t/b/m", "a/t/b", start("model")), ("a/t/b/m", "a/t/b", e.TextDelta(text="x"))]
    assert e.fold(log(*entries)).text == "Hello."


def test_a_call_that_waits_marks_those_above_it() -> None:
    waits = e.Suspended(path="a/t~2", reason="input")
    entries = [("a", None, start("agent")), ("a/t", "a", start("tool")), ("a/t", "a", waits)]
    view = e.fold(log(*entries))
    assert view.status == "suspended"
    assert {s.status for s in view.spans.values()} == {"suspended"}
    assert view.pending == {"a/t~2": waits}


def test_drafts_of_what_waits_or_has_ended_are_gone() -> None:
    entries = [
        ("a", None, start("agent")),
        ("a/t", "a", start("tool")),
        ("a/t", "a", e.TextDelta(text="thinking")),
        ("a/t", "a", e.Suspended(path="a/t", reason="input")),
        ("a/t", "a", e.TextDelta(text="too late")),
    ]
    events = log(*entries)
    assert e.fold(events).drafts == {}
    assert e.fold(events) == e.fold([x for x in events if x.durable])


def test_who_has_ended_waits_no_more() -> None:
    entries = [
        ("a", None, start("agent")),
        ("a/s", "a", start("step")),
        ("a/s/t", "a/s", start("tool")),
        ("a/s/t", "a/s", e.Suspended(path="a/s/t", reason="approval")),
        ("a/s2", "a", start("tool")),
        ("a/s2", "a", e.Suspended(path="a/s2", reason="approval")),
        ("a/s", "a", e.SpanEnded(status="error")),
    ]
    assert [*e.fold(log(*entries)).pending] == ["a/s2"]
    entries.append(("a", None, e.SpanEnded(status="error")))
    view = e.fold(log(*entries))
    assert (view.pending, view.status) == ({}, "failed")


def test_what_a_cut_off_call_had_said_is_said_once() -> None:
    entries = [
        ("a", None, start("agent")),
        ("a", None, e.MessageAdded(message=user("hi"))),
        ("a/m", "a", start("model")),
        ("a/m", "a", said("Hello")),
        ("a", None, start("agent", 2)),
        ("a/m", "a", start("model", 2)),
        ("a/m", "a", said("Hello!")),
        ("a/m", "a", OK),
    ]
    view = e.fold(log(*entries))
    assert [m.text for _, _, m in view.messages] == ["hi", "Hello!"]
    assert view.spans["a"].children == ["a/m"]


def test_state_is_what_was_set_last() -> None:
    entries = [("a", None, e.StateSet(key=k, value=v)) for k, v in [("x", 1), ("y", 2), ("x", 3)]]
    assert e.fold(log(*entries)).state == {"x": 3, "y": 2}
    entries.append(("a", None, e.StateSet(key="x")))
    assert e.fold(log(*entries)).state == {"y": 2}


def test_usage_adds_up_and_seconds_are_known() -> None:
    usage = Usage(input=3, output=2, calls=1, cost=0.5)
    ended = e.SpanEnded(status="ok", usage=usage)
    view = e.fold(log(("a", None, start("model")), ("a", None, ended), ("b", None, ended)))
    assert view.usage == usage + usage
    assert view.spans["a"].seconds == 1


def test_pieces_of_arguments_come_together() -> None:
    view = e.fold(
        log(
            ("m", None, start("model")),
            ("m", None, e.ArgsDelta(id="1", name="add", text="{")),
            ("m", None, e.ArgsDelta(id="1", text="}")),
            ("m", None, e.ReasoningDelta(text="Hm")),
        )
    )
    assert view.drafts["m"].calls == {"1": ("add", ["{", "}"])}
    assert view.drafts["m"].reasoning == "Hm"
