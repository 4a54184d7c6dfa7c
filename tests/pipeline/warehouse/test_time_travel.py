"""Reading as of a time gives what a reader saw then, never a half-done swap, or one line with the oldest such time."""

import re
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from pyiceberg.table import Transaction

from pipeline.analyst.connection import connect
from pipeline.errors import FunnelError
from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.nights import publish, publish_scores, record

D1, D2 = date(2026, 3, 1), date(2026, 3, 2)


def fetch(company: Company, query: str, at: datetime | str | None = None) -> list[tuple[Any, ...]]:
    """The rows that an analyst's query returns as of a time."""
    with connect(company.settings, query, at=at) as connection:
        return connection.sql(query).fetchall()


def reasons(company: Company, at: datetime | str | None = None) -> list[str]:
    """The reasons of the rows in `quarantine`, sorted."""
    return [reason for (reason,) in fetch(company, "SELECT reason FROM quarantine ORDER BY ALL", at)]


def put(company: Company, day: date, *rows: str) -> datetime:
    """Publish these rows as a day of `quarantine`; a time at which readers see them, with a margin on both sides."""
    publish(company, "quarantine", day, [{"reason": reason} for reason in rows])
    return moment()


def moment() -> datetime:
    time.sleep(0.004)
    now = datetime.now(UTC)
    time.sleep(0.004)
    return now


def test_a_table_is_read_as_of_a_time(company: Company) -> None:
    first, second = put(company, D1, "a"), put(company, D2, "b")
    third = put(company, D1, "c", "d")
    assert [reasons(company, at) for at in (first, second, third, None)] == [
        ["a"],
        ["a", "b"],
        ["b", "c", "d"],
        ["b", "c", "d"],
    ]


def test_no_state_between_the_halves_of_a_swap(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    put(company, D1, "a")
    add_files, between = Transaction.add_files, []

    def add_later(transaction: Transaction, *args: object, **options: object) -> None:
        between.append(moment())
        add_files(transaction, *args, **options)

    monkeypatch.setattr(Transaction, "add_files", add_later)
    put(company, D1, "b")
    assert reasons(company, between[0]) == ["a"]
    assert reasons(company) == ["b"]


def test_a_rollback_takes_effect_when_it_is_made(company: Company) -> None:
    put(company, D1, "a")
    wrong = put(company, D1, "wrong")
    company.context().warehouse.rollback("quarantine")
    assert (reasons(company, wrong), reasons(company, moment())) == (["wrong"], ["a"])


def test_a_table_created_later_is_empty_and_a_time_before_all_commits_is_one_line(
    company: Company, funnel: Callable[..., Ended]
) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    early = put(company, D1, "a")
    publish_scores(company, D1, {"ann": 0.1})
    assert fetch(company, "FROM latest_scores", early) == []
    query = ("sql", "SELECT reason FROM quarantine", "--format", "csv", "-c", company.config)
    told = funnel(*query, "--at", before.isoformat()).complaint
    assert told.startswith("nothing had been committed by ")
    (oldest,) = re.findall(r"the oldest time that can be read is (.+)", told)
    assert funnel(*query, "--at", oldest).out.split() == ['"reason"', '"a"']


def test_a_date_means_its_end_and_a_time_is_in_the_funnels_zone(company: Company, funnel: Callable[..., Ended]) -> None:
    at = put(company, D1, "a").astimezone(company.settings.zone)
    put(company, D1, "b")
    query = ("sql", "SELECT reason FROM quarantine", "--format", "csv", "-c", company.config, "--at")
    for text in (f"{at:%Y-%m-%d %H:%M:%S.%f}", at.astimezone(UTC).isoformat()):
        assert funnel(*query, text).out.split() == ['"reason"', '"a"']
    assert funnel(*query, f"{at:%Y-%m-%d}").out.split() == ['"reason"', '"b"']
    assert reasons(company, f"{at:%Y-%m-%d}") == ["b"]


@pytest.mark.parametrize(
    ("at", "told"),
    [
        ("yesterday", "--at: got 'yesterday', takes a date or a time such as '2026-01-31 06:00'"),
        ("2199-01-01", "--at 2199-01-01 is in the future in Asia/Shanghai"),
        ("2999-01-01", "--at: got 2999-01-01, takes a date from 1900-01-01 to 2199-12-31"),
    ],
)
def test_an_invalid_time_is_one_line(company: Company, funnel: Callable[..., Ended], at: str, told: str) -> None:
    assert funnel("sql", "SELECT 1", "--at", at, "-c", company.config).complaint == told


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_after_any_operations_a_time_gives_what_was_seen_then_or_has_expired(company: Company, seed: int) -> None:
    """Publishes, rollbacks and compactions in random order, noting what readers see after each; then maintenance."""
    rng, warehouse = np.random.default_rng(seed), company.context().warehouse
    seen: list[tuple[datetime, list[str]]] = []
    for n in range(14):
        step = rng.choice(["publish", "empty", "append", "rollback", "compact"], p=[0.4, 0.1, 0.2, 0.2, 0.1])
        day = D1 if rng.random() < 0.6 else D2
        if step == "publish" or n == 0:
            put(company, day, f"{n}a", f"{n}b")
        elif step == "empty":
            warehouse.publish("quarantine", [], first=day, last=day, summary={})
        elif step == "append":
            warehouse.append("quarantine", [{"reason": f"{n}", "landed_on": day}])
        elif step == "compact":
            warehouse.compact("quarantine", more_than=1, dry_run=False)
        else:
            try:
                warehouse.rollback("quarantine")
            except FunnelError:
                continue
        seen.append((moment(), reasons(company)))
    assert [reasons(company, at) for at, _ in seen] == [rows for _, rows in seen]

    middle = seen[len(seen) // 2][0]
    cleaned = warehouse.clean("quarantine", since=middle, publishes=2, older_than=moment(), dry_run=False)
    assert cleaned.snapshots
    kept = 0
    for at, rows in seen:
        try:
            assert reasons(company, at) == rows
            kept += 1
        except FunnelError as error:
            told = re.fullmatch(
                r"table .quarantine. is no longer .* the oldest time that can be read is (.+)", str(error)
            )
            assert told and datetime.fromisoformat(told[1]) > at
            reasons(company, told[1])
    assert kept > 0
    assert reasons(company, seen[-1][0]) == reasons(company) == seen[-1][1]


def test_all_tables_are_read_as_of_the_same_time(company: Company) -> None:
    publish_scores(company, D1, {"ann": 0.1}, run_id="first")
    record(company, D1, "score", datetime(2026, 3, 1, 17, tzinfo=UTC), run_id="first")
    at = moment()
    publish_scores(company, D1, {"ann": 0.2}, run_id="second")
    record(company, D1, "score", datetime(2026, 3, 1, 18, tzinfo=UTC), run_id="second")
    both = "SELECT l.run_id, r.run_id, r.attempts FROM latest_scores AS l CROSS JOIN run_history AS r"
    assert fetch(company, both, at) == [("first", "first", 1)]
    assert fetch(company, both) == [("second", "second", 2)]
