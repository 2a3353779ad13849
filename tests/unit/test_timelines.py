from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from mastra_nb import timelines
from mastra_nb.events import Resumed, Suspended, View
from tests.hostile import PAYLOADS
from tests.unit.test_graphs import Log, inert


def test_bars_are_in_order_of_start_below_their_caller() -> None:
    log = Log()
    log.start("W", "workflow")
    log.did("W/a", after=2.0)
    log.start("W/C", "workflow")
    log.start("W/nap", "timer")
    log.did("W/C/y", after=0.5)
    log.did("W/until:y", True, "value")
    log.end("W/C", error="boom", after=0.0)
    bars = timelines.timeline(log.view, "W")
    assert bars[0] == {
        "name": "a",
        "path": "W/a",
        "kind": "step",
        "start": 0.0,
        "end": 2.0,
        "status": "ok",
        "depth": 0,
    }
    shown = [(b["name"], b["start"], b["end"], b["status"], b["depth"]) for b in bars[1:]]
    assert shown == [
        ("C", 2.0, 3.5, "error", 0),
        ("y", 2.0, 2.5, "ok", 1),
        ("nap", 2.0, 3.5, "running", 0),
    ]
    assert timelines.timeline(View(), "W") == []


def test_many_items_are_one_bar_and_bars_are_bounded() -> None:
    log = Log()
    log.start("W", "workflow")
    for i in range(1000):
        log.start(f"W/x[{i}]")
        log.end(f"W/x[{i}]", after=0.1, error="no" if i == 7 else "")
    (bar,) = timelines.timeline(log.view, "W")
    assert (bar["name"], bar["count"], bar["failed"], bar["status"]) == ("x", 1000, 1, "error")
    assert bar["end"] == pytest.approx(100.0)
    log = Log()
    log.start("W", "workflow")
    for i in range(300):
        log.start(f"W/C{i}", "workflow")
        log.did(f"W/C{i}/y")
        log.end(f"W/C{i}")
    bars = timelines.timeline(log.view, "W")
    assert len(bars) <= timelines.MAX_BARS + 2
    assert (bars[-1]["name"], bars[-1]["count"]) == ("… more", 250)


def test_a_retry_is_counted_on_its_bar() -> None:
    log = Log()
    log.start("W", "workflow")
    log.start("W/a")
    log.end("W/a", error="no")
    log.start("W/a", attempt=2)
    log.end("W/a")
    (bar,) = timelines.timeline(log.view, "W")
    assert bar["attempt"] == 2
    assert "1.0 s · ×2" in timelines.svg([bar])


@pytest.mark.parametrize(
    ("seconds", "label"), [(0.004, "1 ms"), (7.0, "5 s"), (200.0, "1 min"), (20_000.0, "2 h")]
)
def test_the_axis_has_round_times(seconds: float, label: str) -> None:
    bar = {"name": "a", "path": "W/a", "start": 0.0, "end": seconds, "status": "ok", "depth": 0}
    shown = [e.text for e in ET.fromstring(timelines.svg([bar])).iter() if e.tag.endswith("text")]
    assert "0" in shown and label in shown
    assert len(shown) <= 12


def test_bars_lie_on_the_axis() -> None:
    log = Log()
    log.start("W", "workflow")
    for name in "abc":
        log.did(f"W/{name}", after=2.0)
    svg = ET.fromstring(timelines.svg(timelines.timeline(log.view, "W")))
    bars = [r for r in svg.iter("{http://www.w3.org/2000/svg}rect") if r.get("height") == "10"]
    lefts = [float(r.get("x", 0)) for r in bars]
    wide = float(svg.get("width", 0))
    assert lefts == sorted(lefts) and lefts[2] - lefts[1] == pytest.approx(
        lefts[1] - lefts[0], 0.01
    )
    assert all(x + float(r.get("width", 0)) <= wide for x, r in zip(lefts, bars, strict=True))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_name_becomes_active(payload: str) -> None:
    bar = {"name": payload, "path": "", "start": 0.0, "end": 1.0, "status": payload, "depth": 3}
    assert inert(timelines.svg([bar])) == []


def test_nothing_took_no_time() -> None:
    bar = {"name": "a", "path": "W/a", "start": 0.0, "end": 0.0, "status": "ok", "depth": 0}
    assert "nan" not in timelines.svg([bar]) and "nan" not in timelines.svg([])


def test_a_long_wait_is_cut_out_and_named() -> None:
    log = Log()
    log.start("W", "workflow")
    log.did("W/a", after=2.0)
    log.start("W/ask")
    log.emit("W/ask", Suspended(path="W/ask", reason="input"))
    log.now += 86_400
    log.emit("W/ask", Resumed(path="W/ask", value=1))
    log.start("W", "workflow", attempt=2)
    log.start("W/ask", attempt=2)
    log.end("W/ask", after=2.0)
    bars = timelines.timeline(log.view, "W")
    assert [(b["start"], b["end"]) for b in bars] == [(0.0, 2.0), (86_402.0, 86_404.0)]
    assert "attempt" not in bars[1]
    svg = timelines.svg(bars)
    assert "24 h 0 min" in svg
    first, second = (
        r for r in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}rect")
        if r.get("height") == "10"
    )  # fmt: skip
    assert float(first.get("width", 0)) == pytest.approx(float(second.get("width", 0)), 0.01) != 3
    assert float(second.get("x", 0)) > float(first.get("x", 0)) + float(first.get("width", 0))
