"""Dates as plain values: parsing, ranges of nights, and where a day ends in the funnel's time zone."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from pipeline.errors import FunnelError

FIRST_DAY, LAST_DAY = date(1900, 1, 1), date(2199, 12, 31)
"""No night lies outside, nor a time that a command takes; in between, no look-back or window leaves the calendar."""


@dataclass(frozen=True)
class DateRange:
    """A range of dates, both ends included.

    >>> [day.isoformat() for day in DateRange(date(2026, 2, 27), date(2026, 3, 1))]
    ['2026-02-27', '2026-02-28', '2026-03-01']
    """

    first: date
    last: date

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise FunnelError(f"the range {self.first} to {self.last} ends before it starts")

    def __iter__(self) -> Iterator[date]:
        for offset in range(len(self)):
            yield self.first + timedelta(days=offset)

    def __len__(self) -> int:
        return (self.last - self.first).days + 1

    def __str__(self) -> str:
        return self.first.isoformat() if self.first == self.last else f"{self.first} to {self.last}"


def parse_date(text: str, *, name: str) -> date:
    """Parse an ISO date; `name` is what the error calls it.

    Raises:
        FunnelError: not an ISO date, or not in the years 1900 to 2199.
    """
    try:
        return _require_in_calendar(date.fromisoformat(text), name)
    except ValueError:
        raise FunnelError(f"{name}: got {text!r}, takes a date such as 2026-01-31") from None


def check_ended(day: date, zone: ZoneInfo, *, name: str, now: datetime | None = None) -> date:
    """Return the day if it has ended in the funnel's time zone: only then can its night run.

    Raises:
        FunnelError: the day has not ended; the message names the newest one that has.
    """
    today = (now or datetime.now(zone)).astimezone(zone).date()
    if day >= today:
        raise FunnelError(
            f"{name} {day} is not over yet in {zone.key}; the newest night is {today - timedelta(days=1)}"
        )
    return day


def parse_night(text: str, zone: ZoneInfo, *, name: str) -> date:
    """Parse the ISO date of a night whose day has ended.

    Raises:
        FunnelError: not an ISO date, or the day has not ended.
    """
    return check_ended(parse_date(text, name=name), zone, name=name)


def end_of_day(day: date, zone: ZoneInfo) -> datetime:
    """Return the first instant after a day in a time zone.

    >>> end_of_day(date(2026, 1, 31), ZoneInfo("Asia/Shanghai")).isoformat()
    '2026-02-01T00:00:00+08:00'
    """
    return datetime.combine(day + timedelta(days=1), time(), zone)


def epoch_micros(instant: datetime) -> int:
    """Count the microseconds since 1970-01-01 UTC, exactly.

    >>> epoch_micros(datetime(1970, 1, 1, 8, 0, 1, tzinfo=ZoneInfo("Asia/Shanghai")))
    1000000
    >>> epoch_micros(datetime(1970, 7, 1, 2, tzinfo=ZoneInfo("Europe/Paris"))) // 3_600_000_000 % 24
    1
    """
    # Subtract in UTC: within one zone Python subtracts wall-clock times, an hour off across a clock change.
    return (instant.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def parse_time(text: str, zone: ZoneInfo, *, name: str) -> datetime:
    """Parse an ISO time, in `zone` unless the text has an offset; a bare date means the last instant of that day.

    Args:
        name: what the error calls it.

    Raises:
        FunnelError: not an ISO time, not in the years 1900 to 2199, or on a day in the future.

    >>> parse_time("2026-01-31 06:00", ZoneInfo("Asia/Shanghai"), name="--at").isoformat()
    '2026-01-31T06:00:00+08:00'
    >>> parse_time("2026-01-31", ZoneInfo("Asia/Shanghai"), name="--at").isoformat()
    '2026-01-31T23:59:59.999999+08:00'
    """
    try:
        at = end_of_day(_require_in_calendar(date.fromisoformat(text), name), zone) - timedelta(microseconds=1)
    except ValueError:
        try:
            at = datetime.fromisoformat(text)
            _require_in_calendar(at.date(), name)
        except ValueError:
            raise FunnelError(f"{name}: got {text!r}, takes a date or a time such as '2026-01-31 06:00'") from None
    if at.tzinfo is None:
        at = at.replace(tzinfo=zone)
    if at.astimezone(zone).date() > datetime.now(zone).date():
        raise FunnelError(f"{name} {text} is in the future in {zone.key}")
    return at


def _require_in_calendar(day: date, name: str) -> date:
    if not FIRST_DAY <= day <= LAST_DAY:
        raise FunnelError(f"{name}: got {day}, takes a date from {FIRST_DAY} to {LAST_DAY}")
    return day
