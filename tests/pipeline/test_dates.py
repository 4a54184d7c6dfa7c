"""Dates: ranges with both ends, when a night may run, and where a day ends across clock changes."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dates import DateRange, check_ended, end_of_day, epoch_micros, parse_date, parse_time
from pipeline.errors import FunnelError

ZONES = [ZoneInfo(name) for name in ("Asia/Shanghai", "America/New_York", "Europe/Amsterdam", "Pacific/Apia", "UTC")]
DAYS = st.dates(date(2000, 1, 1), date(2040, 1, 1))


@given(DAYS, st.integers(0, 400))
def test_a_range_holds_both_ends_and_every_day_between(first: date, more: int) -> None:
    dates = DateRange(first, first + timedelta(days=more))
    days = list(dates)
    assert days[0] == first and days[-1] == dates.last
    assert len(days) == len(dates) == more + 1
    assert all(after - before == timedelta(days=1) for before, after in pairwise(days))


def test_a_range_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(FunnelError, match="the range 2026-03-02 to 2026-03-01 ends before it starts"):
        DateRange(date(2026, 3, 2), date(2026, 3, 1))


@pytest.mark.parametrize("text", ["2026-02-30", "yesterday", "", "01/02/2026", "2026-02-01T00:00"])
def test_a_wrong_date_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(FunnelError) as raised:
        parse_date(text, name="--ds")
    line = str(raised.value)
    assert line.startswith("--ds: ") and repr(text) in line and "2026-01-31" in line


@pytest.mark.parametrize("day", ["0001-01-01", "1899-12-31", "2200-01-01", "9999-12-31"])
@pytest.mark.parametrize("zone", ZONES)
def test_a_date_beyond_the_calendar_is_refused_where_it_is_given(day: str, zone: ZoneInfo) -> None:
    for text, parse in (
        (day, lambda text: parse_date(text, name="--ds")),
        (day, lambda text: parse_time(text, zone, name="--ds")),
        (f"{day} 06:00", lambda text: parse_time(text, zone, name="--ds")),
    ):
        with pytest.raises(FunnelError, match=f"--ds: got {day}, takes a date from 1900-01-01 to 2199-12-31"):
            parse(text)


def test_a_night_can_run_once_its_day_is_over_in_the_funnel_s_zone() -> None:
    zone = ZoneInfo("Asia/Shanghai")
    # 16:00 UTC is midnight in Shanghai: the day turns there while it is still March 1 in UTC.
    before, after = datetime(2026, 3, 1, 15, 59, 59, tzinfo=UTC), datetime(2026, 3, 1, 16, tzinfo=UTC)
    assert check_ended(date(2026, 3, 1), zone, name="--ds", now=after) == date(2026, 3, 1)
    with pytest.raises(FunnelError, match=r"--ds 2026-03-01 is not over yet in Asia/Shanghai; the newest.*2026-02-28"):
        check_ended(date(2026, 3, 1), zone, name="--ds", now=before)


@given(DAYS, st.sampled_from(ZONES))
def test_the_end_of_a_day_is_the_next_one_s_first_instant(day: date, zone: ZoneInfo) -> None:
    end = end_of_day(day, zone).astimezone(UTC)
    assert end.astimezone(zone).date() == day + timedelta(days=1)
    # One second earlier is still the day, except where midnight itself falls into a gap of the clock.
    assert (end - timedelta(hours=2)).astimezone(zone).date() <= day


def test_days_are_23_and_25_hours_where_clocks_change() -> None:
    zone = ZoneInfo("Europe/Amsterdam")
    hours = [
        (epoch_micros(end_of_day(day, zone)) - epoch_micros(end_of_day(day - timedelta(days=1), zone))) / 3.6e9
        for day in (date(2026, 3, 28), date(2026, 3, 29), date(2026, 10, 25))
    ]
    assert hours == [24, 23, 25]


@given(st.integers(-(10**15), 4 * 10**15), st.sampled_from(ZONES))
def test_microseconds_are_exact(micros: int, zone: ZoneInfo) -> None:
    instant = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)).astimezone(zone)
    assert epoch_micros(instant) == micros
