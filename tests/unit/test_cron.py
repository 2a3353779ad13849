"""The times of cron expressions, where clocks are changed above all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mastra_nb.cron import Cron


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


NEW_YORK = "America/New_York"


def fires(expression: str, zone: str, first: str, last: str) -> list[str]:
    found = []
    for time in Cron(expression, zone).times(at(first)):
        if time >= at(last):
            break
        found.append(time.strftime("%d %H:%M"))
    return found


@pytest.mark.parametrize(
    ("expression", "zone", "first", "last", "expected"),
    [
        # Berlin 2026: forward on 29 March at 01:00 UTC, back on 25 October at 01:00 UTC.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28", "2026-03-31", "28 01:30 29 01:00 30 00:30"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-24", "2026-10-27", "24 00:30 25 00:30 26 01:30"),
        ("30 * * * *", "Europe/Berlin", "2026-10-25", "2026-10-25 02:00", "25 00:30 25 01:30"),
        ("0 9 * * *", "Europe/Berlin", "2026-03-28", "2026-03-30", "28 08:00 29 07:00"),
        # New York 2026: forward on 8 March at 07:00 UTC, back on 1 November at 06:00 UTC.
        ("30 2 * * *", NEW_YORK, "2026-03-07", "2026-03-10", "07 07:30 08 07:00 09 06:30"),
        ("30 1 * * *", NEW_YORK, "2026-10-31", "2026-11-03", "31 05:30 01 05:30 02 06:30"),
        ("0 9 * * MON-FRI", "UTC", "2026-03-06 10:00", "2026-03-10", "09 09:00"),
    ],
)
def test_times_where_the_clock_is_changed(
    expression: str, zone: str, first: str, last: str, expected: str
) -> None:
    assert " ".join(fires(expression, zone, first, last)) == expected


def test_a_day_that_was_skipped_fires_once_at_the_end_of_the_gap() -> None:
    assert fires("0,15,30 2 * * *", "Europe/Berlin", "2026-03-29", "2026-03-30") == ["29 01:00"]


EXPRESSIONS = [
    "30 2 * * *", "0 3 * * *", "30 * * * *", "*/20 * * * *", "*/20 2 * * *", "15 */2 * * *",
    "0,30 1,2,3 * * *", "0 0 L * *", "0 12 * * SUN", "0 */10 * * * *",
]  # fmt: skip
CHANGES = [
    ("Europe/Berlin", "2026-03-29 01:00"), ("Europe/Berlin", "2026-10-25 01:00"),
    ("America/New_York", "2026-03-08 07:00"), ("America/New_York", "2026-11-01 06:00"),
    ("America/Santiago", "2026-04-05 03:00"), ("America/Santiago", "2026-09-06 04:00"),
]  # fmt: skip


@given(
    expression=st.sampled_from(EXPRESSIONS),
    change=st.sampled_from(CHANGES),
    one=st.integers(-6 * 3600, 6 * 3600),
    two=st.integers(0, 6 * 3600),
)
@settings(max_examples=150, deadline=None)
def test_processes_that_start_at_any_time_agree_on_the_fires(
    expression: str, change: tuple[str, str], one: int, two: int
) -> None:
    """Else a fire would have another key, or none, in a process that began later."""
    zone, moment = change
    cron = Cron(expression, zone)
    early = at(moment) + timedelta(seconds=one)
    late = early + timedelta(seconds=two)
    end = at(moment) + timedelta(hours=36)

    def of(start: datetime) -> list[datetime]:
        found = []
        for time in cron.times(start):
            if time > end:
                return found
            found.append(time)
        raise AssertionError

    known = of(early)
    assert of(late) == [time for time in known if time > late]
    before = [time for time in known if time <= late]
    if before:
        assert cron.newest(late) == before[-1]
    assert cron.newest(late) <= late
    assert known == sorted(set(known))
