"""Ids that stand for many people: told with what they are, and left out where the configuration says so."""

from collections.abc import Callable
from datetime import date, timedelta

import pytest

from pipeline.dates import DateRange
from pipeline.ingest.ingest import ingest
from tests.support.company import Company
from tests.support.funnels import sms

D1, D2 = (date(2026, 3, 1) + timedelta(days=n) for n in range(2))
EVENTS = 'path = "source/events/{ds}"'

pytestmark = pytest.mark.usefixtures("spark")


@pytest.fixture
def with_limit(make_company: Callable[..., Company]) -> Callable[[str], Company]:
    """Two days. On the first, "0" has five events and ann has three; on the second, one of the five comes again."""

    def make(busy_users: str) -> Company:
        keys = f'{EVENTS}\nmax_events_per_user_day = 3\nbusy_users = "{busy_users}"'
        company = make_company(replace={EVENTS: keys})
        visits = [sms(f"0-{n}", "0", f"2026-03-01T{10 + n}:00:00+08:00") for n in range(5)]
        company.land(D1, [*visits, *(sms(f"a-{n}", "ann", f"2026-03-01T{10 + n}:00:00+08:00") for n in range(3))])
        company.land(D2, [visits[0], sms("0-9", "0", "2026-03-02T10:00:00+08:00")])
        return company

    return make


def test_a_user_of_too_many_events_is_told_and_kept(with_limit: Callable[[str], Company]) -> None:
    company = with_limit("keep")
    ingest(company.context(), DateRange(D1, D2))
    (line,) = [each for each in company.lines if "max_events_per_user_day" in each]
    for word in ("'0'", "5 events", "2026-03-01", "= 3", 'busy_users = "leave_out"'):
        assert word in line
    assert "ann" not in line
    assert len(company.rows("events")) == 9


def test_such_a_user_s_day_is_left_out_and_a_range_equals_its_nights(with_limit: Callable[[str], Company]) -> None:
    company, nightly = with_limit("leave_out"), with_limit("leave_out")
    ingest(company.context(), DateRange(D1, D2))
    for day in (D1, D2):
        ingest(nightly.context(), DateRange(day, day))
    # What was left out is no original of what lands the day after.
    assert [row["event_id"] for row in company.rows("events")] == ["0-0", "0-9", "a-0", "a-1", "a-2"]
    for name in ("events", "quarantine"):
        assert company.rows(name) == nightly.rows(name)
    assert {row["reason"] for row in company.rows("quarantine")} == {"too many events of one user"}
    assert len(company.rows("quarantine")) == 5
    assert any("'0'" in line and "left out" in line for line in company.lines)


def test_words_for_no_id_are_told(company: Company) -> None:
    words = ["NULL", "\\N", "None", "ann", "nana"]
    company.land(
        D1,
        [sms(word, word, "2026-03-01T10:00:00+08:00") for word in words],
        users=[{"uid": "ann", "sms_consent": True}, {"uid": "n/a", "sms_consent": True}],
    )
    ingest(company.context(), DateRange(D1, D1))
    told = [line for line in company.lines if "reads like none" in line]
    assert len(told) == 2
    assert "events: 3 rows" in told[0] and "nullif(uid, 'NULL')" in told[0]
    assert "users: 1 rows" in told[1] and "'n/a'" in told[1]
