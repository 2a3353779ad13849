"""The times that a cron expression names."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from mastra_nb.errors import ConfigError, close_matches

_FIELDS = 'five fields: minute hour day month weekday, as in "0 9 * * MON-FRI"'


class Cron:
    """The times (in UTC) that an expression names in a time zone, as Debian's cron has them: what
    falls into the gap of a change to summer time comes at its end, what the change back repeats
    comes once; only where the minute or the hour begins with "*" the real time counts.

    Raises ConfigError for an expression or a time zone that is none, and if it never fires.
    """

    def __init__(self, expression: str, timezone: str) -> None:
        self.expression = " ".join(expression.split())
        self.timezone = timezone
        self.zone = _zone(timezone)
        self.after(datetime(2024, 1, 1, tzinfo=UTC))

    def after(self, at: datetime) -> datetime:
        """The first time later than `at`."""
        return next(self.times(at))

    def times(self, at: datetime) -> Iterator[datetime]:
        """All later than `at`, in order."""
        newest = at.astimezone(UTC)
        for found in self._walk(at, backwards=False):
            # Where an hour comes twice the local time goes back behind the time it began with.
            if found > newest:
                newest = found
                yield found

    def newest(self, at: datetime) -> datetime:
        """The last time that is not later than `at`."""
        # Walking back overlooks what lies in an hour that comes twice: it says where to begin only.
        found = next(self._walk(at + timedelta(seconds=1), backwards=True))
        for later in self.times(found - timedelta(seconds=1)):
            if later > at:
                break
            found = later
        return found

    def _walk(self, at: datetime, *, backwards: bool) -> Iterator[datetime]:
        try:
            times = CronSim(self.expression, at.astimezone(self.zone), reverse=backwards)
        except CronSimError as error:
            why = str(error)[:1].lower() + str(error)[1:]
            raise ConfigError(
                f'"{self.expression}" is no cron expression: {why}', hint=_FIELDS
            ) from None
        for found in times:
            # Two of one zone are compared by what their clocks show.
            yield found.astimezone(UTC)
        raise ConfigError(f'"{self.expression}" never fires', hint="no such day is in 50 years")


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ConfigError(
            f'there is no time zone "{name}"', hint=close_matches(name, available_timezones())
        ) from None
