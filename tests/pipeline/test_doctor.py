"""`funnel doctor` checks everything a night depends on."""

from collections.abc import Callable
from datetime import date, datetime, timedelta

import pytest

from tests.support.commands import Ended
from tests.support.company import Company

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
    assert "1 of 5" in ended.complaint
    line = line_of(ended, "source")
    assert line.startswith("failed  source ")
    assert "source.events.path" in line and f"{company.folder}/{path}" in line


def test_a_damaged_registry(company: Company, funnel: Callable[..., Ended]) -> None:
    company.land(DAY)
    (company.folder / "models").mkdir()
    (company.folder / "models" / "mlflow.db").write_text("no database", encoding="utf-8")
    ended = funnel("doctor", "-c", company.config)
    assert ended.code == 1
    line = line_of(ended, "champion")
    assert line.startswith("failed  champion ")
    assert f"{company.folder}/models" in line
