"""`[retention]`: maintenance drops what is older than a table's days, and nothing else."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import pytest

from pipeline.config.settings import load
from pipeline.errors import ConfigError
from pipeline.maintenance import maintain
from tests.support.company import Company
from tests.support.nights import publish

NOW = datetime(2026, 3, 31, 20, tzinfo=UTC)
"""April 1 in Shanghai."""
TODAY = date(2026, 4, 1)


def days_of(company: Company, name: str) -> list[int]:
    """The ages in days of a table's partitions."""
    warehouse = company.context().warehouse
    return sorted((TODAY - day).days for day in warehouse.row_counts(name, first=date.min, last=date.max))


def test_older_days_go(make_company: Callable[..., Company]) -> None:
    company = make_company("[retention]\nquarantine = 10\nuser_scores = 42\n")
    for name in ("quarantine", "user_scores", "stopped_quarantine", "users"):
        for age in (9, 10, 11, 42, 43, 400):
            publish(company, name, TODAY - timedelta(days=age), [{}])
    every = [9, 10, 11, 42, 43, 400]

    maintain(company.context(), dry_run=True, now=NOW)
    assert company.lines == [
        "quarantine  4 rows of 4 days until 2026-03-21 would be dropped: retention.quarantine = 10",
        "user_scores 2 rows of 2 days until 2026-02-17 would be dropped: retention.user_scores = 42",
    ]
    assert days_of(company, "quarantine") == every
    maintain(company.context(), now=NOW)
    assert days_of(company, "quarantine") == [9, 10]
    assert days_of(company, "user_scores") == [9, 10, 11, 42]
    assert days_of(company, "users") == days_of(company, "stopped_quarantine") == every
    company.lines.clear()
    maintain(company.context(), now=NOW)
    assert not [line for line in company.lines if "retention" in line]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("users = 30", "users is kept: who has withdrawn consent"),
        ("known_users = 30", "known_users is kept"),
        ("events = 30", r"retention.events: got 30, takes \d+ or more: training.history_days"),
        ("user_scores = 41", "retention.user_scores: got 41, takes 42 or more"),
        ("targets = 14", "retention.targets: got 14, takes 15 or more"),
        ("quarantine = 0", "retention.quarantine: got 0"),
        ("event = 3000", "did you mean 'events'"),
    ],
)
def test_what_must_be_kept(make_company: Callable[..., Company], line: str, told: str) -> None:
    company = make_company(f"[retention]\n{line}\n")
    with pytest.raises(ConfigError, match=told):
        load(company.config)
