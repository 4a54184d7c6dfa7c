"""Whether a log knows instants or only dates, and what the night says about it."""

from collections.abc import Callable
from datetime import date, timedelta

import pytest

from pipeline.config.settings import Settings
from pipeline.dates import DateRange
from pipeline.features.examples import cached_exposures
from pipeline.features.precision import Midnights, describe_precision, knows_only_dates
from pipeline.nights import load_history
from pipeline.runs.record import StageRun
from tests.support.company import Company
from tests.support.funnels import sms

LOCAL = [Midnights("exposure", 900, 0, 900), Midnights("click", 100, 0, 100)]
UTC = [Midnights("exposure", 900, 900, 0), Midnights("click", 100, 100, 0)]
TIMES = [Midnights("exposure", 900, 899, 900), Midnights("click", 100, 100, 100)]
DATED_CLICKS = [Midnights("exposure", 900, 900, 900), Midnights("click", 100, 0, 100)]


@pytest.fixture
def with_precision(make_company: Callable[..., Company]) -> Callable[[str], Settings]:
    def make(value: str) -> Settings:
        mapped = 'path = "source/events/{ds}"'
        return make_company(replace={mapped: f'{mapped}\ntime_precision = "{value}"'}).settings

    return make


def test_a_log_that_lies_at_midnight_is_one_of_dates(company: Company, with_precision: Callable) -> None:
    assert [knows_only_dates(company.settings, log) for log in (LOCAL, UTC, TIMES, DATED_CLICKS, [])] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert knows_only_dates(with_precision("day"), TIMES)
    assert not knows_only_dates(with_precision("instant"), LOCAL)


def test_what_was_found_is_told_and_what_was_configured_is_not(company: Company, with_precision: Callable) -> None:
    def lines(settings: Settings, log: list[Midnights]) -> list[str]:
        return [warning.line for warning in describe_precision(settings, log)]

    dates, hour = lines(company.settings, LOCAL)
    for word in ("1,000 events", "local midnight", 'source.events.time_precision = "day"', "own day"):
        assert word in dates
    assert "hour" in hour and "null" in hour
    assert "midnight UTC" in lines(company.settings, UTC)[0] and "Asia/Shanghai" in lines(company.settings, UTC)[0]
    (clicks,) = lines(company.settings, DATED_CLICKS)
    assert "100 events of click" in clicks and "time_precision" in clicks
    assert lines(company.settings, TIMES) == lines(with_precision("instant"), LOCAL) == []
    assert lines(with_precision("day"), TIMES) == [hour]


@pytest.mark.usefixtures("spark")
def test_an_outcome_of_the_exposure_s_own_date_is_a_label(make_company: Callable[..., Company]) -> None:
    """Dates as a source writes them, across the night on which clocks change; windows are calendar days."""
    company = make_company(timezone="Europe/Amsterdam")
    sent, last = date(2026, 3, 28), date(2026, 4, 1)
    events = [
        sms("1", "ann", "2026-03-28"),
        sms("2", "ann", "2026-03-28", type="sms_click"),
        sms("3", "bob", "2026-03-28"),
        sms("4", "bob", "2026-03-31", type="sms_click"),
        sms("5", "cyd", "2026-03-28"),
        sms("6", "cyd", "2026-04-01", type="sms_click"),
    ]
    for day in DateRange(sent, last):
        company.land(day, [each for each in events if each["ts"] == day.isoformat()])
    load_history(company.context(), DateRange(sent, last))
    run = StageRun(company.context(), "examples", DateRange(last, last))
    with cached_exposures(run, last) as exposed:
        rows = {row["user_id"]: row for row in exposed.collect()}
    assert {user: row["label_click"] for user, row in rows.items()} == {"ann": 1, "bob": 1, "cyd": 0}
    assert {row["context_hour"] for row in rows.values()} == {None}
    assert {row["feature_as_of"] for row in rows.values()} == {sent - timedelta(days=1)}
    assert "all 6 events lie at local midnight" in run.warnings[0].line
