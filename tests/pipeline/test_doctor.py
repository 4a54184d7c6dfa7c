"""`funnel doctor`: each thing that a night depends on, before one does."""

from collections.abc import Callable
from datetime import date, datetime, timedelta

import pytest

from tests.support.commands import Ended
from tests.support.company import Company

DAY = date(2026, 3, 1)


def line_of(said: Ended, check: str) -> str:
    (line,) = [line for line in said.out.splitlines() if line.split()[1] == check]
    return line


def test_a_company_that_is_ready(company: Company, funnel: Callable[..., Ended]) -> None:
    today = datetime.now(company.settings.zone).date()
    for day in (DAY, DAY + timedelta(days=2), today):
        company.land(day)
    said = funnel("doctor", "-c", company.config)
    assert said.code == 0, said.out
    assert {line.split()[0] for line in said.out.splitlines()} == {"ok"}
    assert line_of(said, "source").endswith("source/events/{ds}: 2 days, 2026-03-01 to 2026-03-03"), "today is not over"
    assert line_of(said, "champion").endswith("funnel train --as-of")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("source/events/{ds}", "source.events.path: no past day has files at {folder}/source/events/{{ds}}"),
        ("events.parquet", "source.events.path: nothing at {folder}/events.parquet"),
    ],
)
def test_a_source_that_is_not_there(
    make_company: Callable[..., Company], funnel: Callable[..., Ended], path: str, line: str
) -> None:
    company = make_company(replace={"source/events/{ds}": path})
    said = funnel("doctor", "-c", company.config)
    assert said.complaint == "1 of 5 checks failed"
    assert line_of(said, "source") == f"failed  source         {line.format(folder=company.folder)}"


def test_a_registry_that_is_damaged(company: Company, funnel: Callable[..., Ended]) -> None:
    company.land(DAY)
    (company.folder / "models").mkdir()
    (company.folder / "models" / "mlflow.db").write_text("no database", encoding="utf-8")
    said = funnel("doctor", "-c", company.config)
    assert said.code == 1
    assert line_of(said, "champion").startswith("failed  champion       the model registry at ")
