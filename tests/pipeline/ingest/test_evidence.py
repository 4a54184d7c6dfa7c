"""A stopped night shows its evidence: unknown names of events, and its rejected rows, though nothing is published."""

import json
from collections.abc import Callable
from datetime import date

import pytest

from pipeline.dates import DateRange
from pipeline.errors import AuditError
from pipeline.ingest.evidence import describe_unknown_events, warn_of_misspelt_events
from pipeline.ingest.ingest import ingest
from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.funnels import WITHOUT_USERS, sms

D = date(2026, 3, 1)
NIGHT = DateRange(D, D)
KNOWN = ["sms_sent", "sms_click"]


def test_unknown_names_by_their_counts_with_the_name_that_is_meant() -> None:
    counts = {"SMS click": 7, "sms_Sent\u00a0": 30, "open": 7, "a": 1, "b": 1, "c": 1}
    assert describe_unknown_events(counts, KNOWN) == (
        "'sms_Sent\\xa0' 30 (is it 'sms_sent'?), 'SMS click' 7 (is it 'sms_click'?), 'open' 7, 'a' 1, 'b' 1, "
        "1 other names 1"
    )


def test_only_names_that_nearly_are_known_are_a_warning() -> None:
    by_day = {D: {"SMS_SENT": 2, "open": 90}, date(2026, 3, 2): {"SMS_SENT": 1}}
    (warning,) = warn_of_misspelt_events(by_day, KNOWN)
    assert warning.line.startswith("3 events are in quarantine") and "'SMS_SENT' 3 (is it 'sms_sent'?)" in warning.line
    assert warn_of_misspelt_events({D: {"open": 90}}, KNOWN) == []


@pytest.mark.usefixtures("spark")
def test_a_stopped_night_can_be_looked_into_until_it_is_published(
    make_company: Callable[..., Company], funnel: Callable[..., Ended]
) -> None:
    company = make_company(replace=WITHOUT_USERS)
    at = f"{D}T10:00:00+08:00"
    good = [sms(str(n), "ann", at) for n in range(20)]
    company.land(D, [*good[:5], *(sms(f"x{n}", "bob", at, type="SMS_Sent") for n in range(3)), sms("y", "bob", "noon")])
    ended = funnel("ingest", "--ds", D, "-c", company.config)
    assert "unknown event: 3 ('SMS_Sent' 3 (is it 'sms_sent'?)), unparsable time: 1" in ended.complaint
    assert 'rejected on 2026-03-01: 3 unknown event, such as {"id":"x0","uid":"bob","type":"SMS_Sent"' in ended.out
    assert "SELECT * FROM stopped_quarantine WHERE landed_on = '2026-03-01'" in ended.out
    assert not company.rows("events") and not company.rows("quarantine")
    kept = company.rows("stopped_quarantine")
    assert sorted((json.loads(row["raw"])["id"], row["reason"]) for row in kept) == [
        *((f"x{n}", "unknown event") for n in range(3)),
        ("y", "unparsable time"),
    ]
    (run,) = company.rows("runs")
    assert (run["status"], run["rows_in"], run["quarantined"]) == ("failed", 9, 4)
    assert {row["run_id"] for row in kept} == {run["run_id"]}
    # The source is mended, but for one name.
    company.land(D, [*good, sms("x0", "bob", at, type="SMS_Sent")])
    ingest(company.context(), NIGHT)
    assert not company.rows("stopped_quarantine")
    assert [row["reason"] for row in company.rows("quarantine")] == ["unknown event"]
    assert any("warning: ingest 2026-03-01: 1 events are in quarantine" in line for line in company.lines)


@pytest.mark.usefixtures("spark")
def test_evidence_that_cannot_be_kept_is_told_and_the_cause_stays(
    make_company: Callable[..., Company], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("pipeline.ingest.evidence.stage", fail)
    company = make_company(replace=WITHOUT_USERS)
    company.land(D, [sms("x", "bob", f"{D}T10:00:00+08:00", type="open")])
    with pytest.raises(AuditError, match="unknown event: 1"):
        ingest(company.context(), NIGHT)
    assert any("could not be kept in stopped_quarantine: disk full" in line for line in company.lines)
