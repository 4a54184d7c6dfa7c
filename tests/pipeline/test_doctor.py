"""`funnel doctor` checks everything a night depends on."""

from collections.abc import Callable
from datetime import date, datetime, timedelta

import pytest

from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.nights import publish

DAY = date(2026, 3, 1)


def line_of(ended: Ended, check: str) -> str:
    (line,) = [line for line in ended.out.splitlines() if line.split()[1] == check]
    return line


def test_a_company_that_is_ready(company: Company, funnel: Callable[..., Ended]) -> None:
    today = datetime.now(company.settings.zone).date()
    for day in (DAY, DAY + timedelta(days=2), today):
        company.land(day)
    ended = funnel("doctor", "-c", company.config)
    assert ended.code == 0, ended.out
    assert {line.split()[0] for line in ended.out.splitlines()} == {"ok"}
    assert line_of(ended, "source").endswith("source/events/{ds}: 2 days, 2026-03-01 to 2026-03-03"), (
        "today is not over"
    )
    assert line_of(ended, "champion").endswith("funnel train --as-of")


@pytest.mark.parametrize("path", ["source/events/{ds}", "events.parquet"])
def test_a_missing_source(make_company: Callable[..., Company], funnel: Callable[..., Ended], path: str) -> None:
    company = make_company(replace={"source/events/{ds}": path})
    ended = funnel("doctor", "-c", company.config)
    assert "1 of 6" in ended.complaint
    line = line_of(ended, "source")
    assert line.startswith("failed  source ")
    assert "source.events.path" in line and f"{company.folder}/{path}" in line


@pytest.mark.parametrize(
    ("known", "word"), [(range(6), "ok"), (range(5, 11), "ok"), (range(20, 26), "failed"), (range(0), "ok")]
)
def test_events_and_profiles_that_share_no_user(
    company: Company, funnel: Callable[..., Ended], known: range, word: str
) -> None:
    company.land(DAY)
    publish(company, "events", DAY, [{"event_id": str(n), "user_id": f"{n}", "event": "exposure"} for n in range(6)])
    publish(company, "users", DAY, [{"user_id": f"{n}"} for n in known])
    ended = funnel("doctor", "-c", company.config)
    line = line_of(ended, "user_ids")
    assert line.startswith(word)
    facts = {
        0: "6 of 6",
        5: "few: 1 of 6",
        20: "0 of 6 users with events have a profile, such as '0' in events and '20'",
    }
    assert (facts[known.start] if known else "nothing to compare") in line
    assert ended.code == (word == "failed")


def test_a_damaged_registry(company: Company, funnel: Callable[..., Ended]) -> None:
    company.land(DAY)
    (company.folder / "models").mkdir()
    (company.folder / "models" / "mlflow.db").write_text("no database", encoding="utf-8")
    ended = funnel("doctor", "-c", company.config)
    assert ended.code == 1
    line = line_of(ended, "champion")
    assert line.startswith("failed  champion ")
    assert f"{company.folder}/models" in line
