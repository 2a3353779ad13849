from __future__ import annotations

from typing import Any

from mastra_nb.events import (
    Custom,
    ErrorInfo,
    Event,
    Payload,
    Resumed,
    SpanEnded,
    SpanStarted,
    StateSet,
    Suspended,
)
from mastra_nb.past import BAIL, FORK, GRAPH, REQUEST_CONTEXT, Past


def past(*written: tuple[str, Payload]) -> Past:
    return Past(
        [
            Event(run="r", seq=n, at=float(n), span=span, parent=None, data=data)
            for n, (span, data) in enumerate(written, 1)
        ]
    )


def began(path: str, kind: str = "step", attempt: int = 1) -> tuple[str, Payload]:
    return path, SpanStarted(kind=kind, name=path, input=None, attempt=attempt)


def ended(path: str, output: Any = None) -> tuple[str, Payload]:
    return path, SpanEnded(status="ok", output=output)


def failed(path: str) -> tuple[str, Payload]:
    return path, SpanEnded(status="error", error=ErrorInfo(code="x", message=path))


def asked(path: str) -> tuple[str, Payload]:
    return path, Suspended(path=path, reason="input", payload=None, schema=None)


def answered(path: str, value: Any = 1) -> tuple[str, Payload]:
    return path, Resumed(path=path, value=value)


def sets(path: str, value: Any) -> tuple[str, Payload]:
    return path, StateSet(key="k", value=value)


def test_what_ended_and_what_failed() -> None:
    found = past(began("w", "workflow"), began("w/a"), ended("w/a", 5), began("w/b"), failed("w/b"))
    assert found.done == {"w/a": 5}
    assert found.failed["w/b"].message == "w/b"
    assert found.failures == {"w/b": 1} and found.seq == 5


def test_failures_are_counted_until_what_they_are_in_begins_anew() -> None:
    tries = [e for n in (1, 2) for e in (began("w/c/b", attempt=n), failed("w/c/b"))]
    found = past(began("w/c", "workflow"), *tries)
    assert found.failures == {"w/c/b": 2} and found.attempts["w/c/b"] == 2
    found = past(began("w/c", "workflow"), *tries, failed("w/c"))
    assert found.failures == {"w/c": 1}


def test_a_step_that_fails_keeps_what_failed_in_it() -> None:
    found = past(began("w/a"), began("w/a/t", "tool"), failed("w/a/t"), failed("w/a"))
    assert found.failures == {"w/a/t": 1, "w/a": 1}


def test_what_waits() -> None:
    found = past(began("w/a"), asked("w/a"), began("w/b"), asked("w/b"), answered("w/a", 7))
    assert [*found.waiting] == ["w/b"] and found.answers == {"w/a": 7}
    found.hold()
    assert found.held == {"w/b"}


def test_a_second_question_of_a_call_holds_the_call() -> None:
    found = past(
        began("w/a"), asked("w/a"), answered("w/a"), began("w/a", attempt=2), asked("w/a~2")
    )
    found.hold()
    assert found.held == {"w/a"}


def test_what_ends_waits_no_more() -> None:
    assert past(began("w/a"), asked("w/a"), failed("w")).waiting == {}


def test_of_a_step_that_was_cut_off_nothing_is_set() -> None:
    assert past(began("w/a"), sets("w/a", 1)).state == {}
    assert past(began("w/a"), sets("w/a", 1), ended("w/a")).state == {"k": 1}
    assert past(began("w/a"), sets("w/a", 1), asked("w/a")).state == {}
    again = (began("w/a", attempt=2), sets("w/a", 2), ended("w/a"))
    assert past(began("w/a"), sets("w/a", 1), *again).state == {"k": 2}


def test_what_a_body_or_an_agent_has_set_stays() -> None:
    assert past(began("w", "workflow"), sets("w", 1)).state == {"k": 1}
    assert past(("", StateSet(key="k", value=3))).state == {"k": 3}


def test_notes_that_are_read_again() -> None:
    found = past(
        ("w", Custom(name=GRAPH, value={"nodes": []})),
        ("w", Custom(name=BAIL, value="w/a")),
        ("", Custom(name=REQUEST_CONTEXT, value={"user": 1})),
        ("", Custom(name=FORK, value={"inputs": {"w/b": 2}, "outputs": {"w/c": 3}})),
    )
    assert found.graphs == {"w": {"nodes": []}}
    assert found.bails == {"w/a"}
    assert found.request_context == {"user": 1}
    assert (found.inputs, found.done) == ({"w/b": 2}, {"w/c": 3})


def test_a_note_of_a_user_is_no_note_of_ours() -> None:
    found = past(("w/a", Custom(name=FORK, value={"outputs": {"w/c": 3}})))
    assert found.done == {}


def test_time_in_which_a_run_only_waited_does_not_count() -> None:
    events = [began("w"), asked("w"), answered("w"), began("w", attempt=2), ended("w")]
    made = [
        Event(run="r", seq=n, at=at, span=path, parent=None, data=data)
        for n, (at, (path, data)) in enumerate(zip((0, 1, 100, 100, 103), events, strict=True), 1)
    ]
    found = Past(made)
    assert found.worked == 4.0
    assert found.worked_in("w") == 0.0
    found.answered = True
    assert found.worked_in("w") == 4.0
