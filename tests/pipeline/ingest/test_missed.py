"""Nights that were missed are told: the source has days that never landed."""

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dates import DateRange
from pipeline.errors import AuditError, FunnelError, TransientError
from pipeline.ingest import ingest as module
from pipeline.ingest.ingest import ingest
from pipeline.nights import load_history
from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.funnels import WITHOUT_USERS, sms
from tests.support.nights import publish

D1, D2, D3, D4, D5, D6 = (date(2026, 3, 1) + timedelta(days=n) for n in range(6))

pytestmark = pytest.mark.usefixtures("spark")


def deliver(company: Company, *days: date, withdraws: str | None = None) -> None:
    """Each day a text to Ann, and her profile."""
    for day in days:
        users = [{"uid": "ann", "sms_consent": withdraws != "ann"}]
        company.land(day, [sms(f"{day}", "ann", f"{day}T10:00:00+08:00")], users)


def night(company: Company, day: date) -> list[str]:
    """Land a day; returns the warnings of its run."""
    ingest(company.context(), DateRange(day, day))
    runs = [row for row in company.rows("runs") if row["ds"] == day and row["stage"] == "ingest"]
    return str(max(runs, key=lambda run: run["started_at"])["warnings"]).splitlines()


def landed(company: Company) -> list[date]:
    return sorted({row["landed_on"] for row in company.rows("events")})


def test_a_night_after_missed_ones_stops_and_names_the_way_on(company: Company) -> None:
    deliver(company, D3, D4, D5, D6)
    assert night(company, D3) == []
    with pytest.raises(FunnelError) as stopped:
        night(company, D6)
    line = str(stopped.value)
    assert f"2 days from {D4} to {D5} never landed, though the source has them" in line
    assert f"funnel backfill --start {D4} --end {D5};" in line
    assert landed(company) == [D3]
    assert any(line in row["message"] or row["message"] in line for row in company.rows("runs") if row["ds"] == D6)
    load_history(company.context(), DateRange(D4, D5))
    assert night(company, D6) == []
    assert landed(company) == [D3, D4, D5, D6]


def test_a_day_that_the_source_has_not_is_not_missed(make_company: Callable[..., Company]) -> None:
    company = make_company()
    deliver(company, D1, D4)
    (company.folder / "source" / "events" / "2026-02-30").mkdir()
    (company.folder / "source" / "events" / D3.isoformat()).mkdir()
    assert night(company, D1) == []
    assert night(company, D4) == []


def test_a_day_that_landed_without_a_row_is_not_missed(company: Company) -> None:
    deliver(company, D1, D3)
    company.land(D2, [], [])
    night(company, D1)
    company.config.write_text(company.config.read_text() + '[audit]\nempty_day = "warning"\n')
    night(company, D2)
    assert night(company, D3) == []


def test_profiles_alone_make_a_day(company: Company) -> None:
    deliver(company, D1, D3)
    company.land(D2, [], [{"uid": "ann", "sms_consent": False}])
    (company.folder / "source" / "events" / D2.isoformat() / "part-0.parquet").unlink()
    night(company, D1)
    with pytest.raises(FunnelError, match=f"{D2} never landed, though the source has it"):
        night(company, D3)


def test_missed_nights_land_first_by_the_key(make_company: Callable[..., Company]) -> None:
    company = make_company('[audit]\nmissed_nights = "land"\n')
    deliver(company, D1, D2, D4, D5)
    night(company, D1)
    deliver(company, D2, withdraws="ann")
    night(company, D5)
    assert landed(company) == [D1, D2, D4, D5]
    assert {row["landed_on"] for row in company.rows("activity")} == {D2, D4}, "tonight's follow in its own stage"
    assert [line for line in company.lines if "which never landed" in line] == [
        f"ingest {D5}: landing {day} first, which never landed" for day in (D2, D4)
    ]


def test_missed_nights_are_a_warning_by_the_key(make_company: Callable[..., Company]) -> None:
    company = make_company('[audit]\nmissed_nights = "warn"\n')
    deliver(company, D1, D2, D3)
    night(company, D1)
    (line,) = night(company, D3)
    assert line.startswith(f"{D2} never landed, though the source has it")


def test_the_first_landing_tells_of_the_days_before_it(company: Company) -> None:
    deliver(company, D1, D2, D3)
    (line,) = night(company, D3)
    assert f"2 days from {D1} to {D2}" in line and f"funnel backfill --start {D1} --end {D3}" in line
    deliver(company, D4)
    assert night(company, D4) == [], "where the history begins was somebody's choice"


def test_a_day_that_lands_late_tells_of_the_days_after_it(company: Company) -> None:
    deliver(company, D1, D2, D3)
    night(company, D2)
    night(company, D3)
    (line,) = night(company, D1)
    assert f"2 days from {D2} to {D3} landed before {D1}" in line
    assert night(company, D1) == [], "it had landed"


def test_a_night_after_one_that_an_audit_stopped(company: Company) -> None:
    deliver(company, D1, D3)
    company.land(D2, [sms("x", None, None)])
    night(company, D1)
    with pytest.raises(AuditError):
        night(company, D2)
    with pytest.raises(FunnelError, match=f"{D2} never landed"):
        night(company, D3)


@pytest.mark.parametrize("has_column", [True, False], ids=["a column", "the time"])
def test_days_of_a_source_without_folders(make_company: Callable[..., Company], has_column: bool) -> None:
    column = ', landed_on = "day"' if has_column else ""
    company = make_company(
        replace=WITHOUT_USERS
        | {'"source/events/{ds}"': '"events.parquet"', 'campaign_id = "campaign"': 'campaign_id = "campaign"' + column}
    )
    rows = [sms(f"{day}", "ann", f"{day}T10:00:00+08:00") | {"day": f"{day}"} for day in (D1, D3, D5)]
    pq.write_table(pa.Table.from_pylist(rows), company.folder / "events.parquet")
    company.config.write_text(
        company.config.read_text() + '[audit]\nempty_day = "warning"\nmax_quarantine_share = 1.0\n'
    )
    assert f"the source also has {D1}" in night(company, D3)[0]
    night(company, D4)
    # Rows that do not say their day are of none.
    rows.append(sms("x", "ann", "never") | {"day": "never"})
    pq.write_table(pa.Table.from_pylist(rows), company.folder / "events.parquet")
    with pytest.raises(FunnelError, match=f"{D5} never landed"):
        night(company, D6)


def test_another_run_that_lands_an_earlier_day_meanwhile(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver(company, D1, D3)
    night(company, D1)
    real = module._audit

    def audit(*arguments: Any) -> None:
        real(*arguments)
        publish(company, "events", D2, [{"event_id": "1", "user_id": "ann", "event": "exposure"}])

    monkeypatch.setattr(module, "_audit", audit)
    with pytest.raises(TransientError, match="run it again"):
        night(company, D3)
    assert landed(company) == [D1, D2]


def test_the_command_line(company: Company, funnel: Callable[..., Ended]) -> None:
    deliver(company, D1, D2, D3)
    night(company, D1)
    complaint = funnel("nightly", "--ds", D3, "-c", company.config).complaint
    assert complaint.startswith(f"ingest {D3}: {D2} never landed")
