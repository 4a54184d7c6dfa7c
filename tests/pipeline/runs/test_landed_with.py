"""What a landing may not change: the names of the stages, and the time zone of the dates."""

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest

from pipeline.dates import DateRange
from pipeline.errors import FunnelError
from pipeline.features.examples import build_examples
from pipeline.ingest.ingest import ingest
from pipeline.nights import load_history
from pipeline.runs import landed_with
from tests.support.company import Company
from tests.support.funnels import WITHOUT_USERS, sms

D1, D2 = (date(2026, 3, 1) + timedelta(days=n) for n in range(2))
CLICK = 'name = "click",    event = "sms_click"'
ZONE = 'timezone = "Asia/Shanghai"'


@pytest.fixture
def landed(spark: None, make_company: Callable[..., Company]) -> Company:
    """A company whose first day has landed, with a click, and whose second has been delivered."""
    company = make_company("[audit]\nmax_quarantine_share = 1.0\n", replace=WITHOUT_USERS)
    for day in (D1, D2):
        clicks = [sms(f"c{day}", "ann", f"{day}T11:00:00+08:00", type="sms_click")]
        company.land(day, [sms(f"{day}", "ann", f"{day}T10:00:00+08:00"), *clicks])
    load_history(company.context(), DateRange(D1, D1))
    return company


def change(company: Company, old: str, new: str) -> None:
    text = company.config.read_text(encoding="utf-8")
    assert old in text
    company.config.write_text(text.replace(old, new), encoding="utf-8")


def test_a_renamed_stage_is_refused_before_anything_lands(landed: Company) -> None:
    before = landed.rows("events")
    change(landed, CLICK, CLICK.replace('"click"', '"tap"'))
    with pytest.raises(
        FunnelError, match=rf"no longer has click and now has tap, but {D1} landed.*--start {D1} --end {D2}"
    ):
        ingest(landed.context(), DateRange(D2, D2))
    assert landed.rows("events") == before
    # The way that the message names: all days at once.
    load_history(landed.context(), DateRange(D1, D2))
    assert {row["event"] for row in landed.rows("events")} == {"exposure", "tap"}
    assert {row["event"] for row in landed.rows("activity")} == {"exposure", "tap"}
    ingest(landed.context(), DateRange(D2, D2))


def test_a_removed_stage_is_refused_even_where_no_landing_kept_its_names(
    landed: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = landed.config.read_text(encoding="utf-8")
    landed.config.write_text("\n".join(line for line in text.splitlines() if CLICK not in line), encoding="utf-8")
    monkeypatch.setattr(landed_with, "KEY", "of a version that kept nothing")
    with pytest.raises(FunnelError, match=r"funnel.stages no longer has click, but"):
        ingest(landed.context(), DateRange(D2, D2))


def test_a_stage_without_events_can_go_and_a_new_one_can_come(landed: Company) -> None:
    change(landed, 'name = "register", event = "register"', 'name = "signed_up", event = "signed_up"')
    ingest(landed.context(), DateRange(D2, D2))
    assert len({row["landed_on"] for row in landed.rows("events")}) == 2


def test_another_time_zone_is_refused_until_all_days_have_it(landed: Company) -> None:
    change(landed, ZONE, 'timezone = "Europe/London"')
    changed = "funnel.timezone is 'Europe/London', but days have landed with 'Asia/Shanghai'"
    for stage in (
        lambda: ingest(landed.context(), DateRange(D2, D2)),
        lambda: build_examples(landed.context(), D1),
    ):
        with pytest.raises(FunnelError, match=changed):
            stage()
    load_history(landed.context(), DateRange(D1, D2))
    ingest(landed.context(), DateRange(D2, D2))


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (CLICK, CLICK.replace("sms_click", "tap"), "the source's event of click is 'tap' from this landing on"),
        ("[spark]", "[spark]", ""),
        (
            "[source.events]",
            '[source.events]\ntime_zone = "UTC"',
            f"the source.events.time_zone is 'UTC' from this landing on, {D1} landed with 'Asia/Shanghai'",
        ),
    ],
)
def test_lesser_changes_are_told(landed: Company, old: str, new: str, line: str) -> None:
    change(landed, old, new)
    ingest(landed.context(), DateRange(D2, D2))
    runs: list[dict[str, Any]] = [row for row in landed.rows("runs") if row["ds"] == D2]
    assert [line in row["warnings"] and bool(row["warnings"]) == bool(line) for row in runs] == [True]
