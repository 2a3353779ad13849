from __future__ import annotations

import io
import sys

import pytest

from mastra_nb.progress import Line, Silent, new_progress, seconds_left, set_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    job = new_progress()
    job.start(10, "embedding")
    job.note("a long name")
    job.advance(4)
    job.note("b")
    job.close()
    job.close()
    assert shown.getvalue().count("\n") == 1
    assert shown.getvalue().splitlines()[-1].rstrip() == "embedding 4/10 b"
    # What is shorter than the line before wipes out its end.
    before, last = shown.getvalue().removesuffix("\n").split("\r")[-2:]
    assert len(last) == len(before)


def test_elsewhere_nothing_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(new_progress(), Silent)
    monkeypatch.setattr(sys, "stderr", None)
    assert isinstance(new_progress(), Silent)


def test_a_front_end_brings_its_own() -> None:
    own = Line()
    set_progress(lambda: own)
    try:
        assert new_progress() is own
    finally:
        set_progress(None)
    assert new_progress() is not own


def test_what_is_left_is_said_once_it_can_be_known() -> None:
    assert seconds_left(5, 10, 20.0) == "20 s left"
    assert seconds_left(1, 100, 10.0) == "16 min left"
    for done, total, gone in ((0, 10, 20.0), (5, 10, 1.0), (10, 10, 20.0), (5, None, 20.0)):
        assert seconds_left(done, total, gone) == ""
