"""A run records the snapshot of each table that it reads, and reads that very snapshot."""

from datetime import date, timedelta
from pathlib import Path

import pytest

from pipeline.dates import DateRange
from pipeline.errors import FunnelError
from pipeline.runs.record import StageRun, recorded
from tests.support.company import Company
from tests.support.nights import publish

DAY = date(2026, 3, 1)
NEXT = DAY + timedelta(days=1)


def publish_reasons(company: Company, day: date, *reasons: str) -> int | None:
    """Publish a partition of `quarantine`; returns the snapshot that readers then see."""
    publish(company, "quarantine", day, [{"reason": reason, "raw": "{}"} for reason in reasons])
    return company.context().warehouse.pin("quarantine").snapshot_id


def test_a_pinned_snapshot_is_written_to_runs(company: Company) -> None:
    publish_reasons(company, DAY, "null user")
    snapshot = publish_reasons(company, NEXT, "null event")
    context = company.context()
    with recorded(context, "monitor", DateRange(DAY, DAY)) as run:
        pinned = run.pin("quarantine", first=DAY, last=DAY)
        run.pin("events")
        publish_reasons(company, DAY, "null user", "future time")
    assert context.warehouse.read_pinned(pinned)["reason"].to_pylist() == ["null user"]
    (row,) = company.rows("runs")
    assert row["inputs"] == [("quarantine", snapshot)], "a table that does not exist yet is no input"


def test_a_table_pinned_earlier_is_recorded_without_being_pinned_again(company: Company) -> None:
    snapshot = publish_reasons(company, DAY, "null user")
    context = company.context()
    earlier = context.warehouse.pin("quarantine")
    assert publish_reasons(company, DAY, "null event") != snapshot
    run = StageRun(context, "targets", DateRange(DAY, DAY))
    assert run.record_input(earlier) is earlier
    assert run.inputs == {"quarantine": snapshot}


def test_rows_of_a_snapshot_have_the_columns_that_the_table_has_now(company: Company) -> None:
    publish(company, "users", DAY, [{"user_id": "ann", "age": 30.0}])
    pinned = company.context().warehouse.pin("users")
    config = company.config.read_text(encoding="utf-8")
    company.config.write_text(config.replace('numeric = ["age"]', 'numeric = ["age", "income"]'), encoding="utf-8")
    publish(company, "users", NEXT, [{"user_id": "bob", "age": 40.0, "income": 9.0}])
    (row,) = company.context().warehouse.read_pinned(pinned).to_pylist()
    assert (row["user_id"], row["age"], row["income"]) == ("ann", 30.0, None)


@pytest.mark.usefixtures("spark")
def test_spark_reads_the_snapshot_that_is_recorded(company: Company) -> None:
    first = publish_reasons(company, DAY, "null user")
    context = company.context()
    run = StageRun(context, "activity", DateRange(DAY, DAY))
    frame = run.read("quarantine", first=DAY, last=DAY)
    second = publish_reasons(company, DAY, "null event")
    assert [row.reason for row in frame.collect()] == ["null user"]
    assert run.inputs == {"quarantine": first}
    assert [row.reason for row in run.read("quarantine").collect()] == ["null event"]
    assert run.inputs == {"quarantine": second}


def test_an_input_that_cannot_be_read_is_named_with_its_night(company: Company) -> None:
    publish_reasons(company, DAY, "null user")
    context = company.context()
    (file,) = context.warehouse.pin("quarantine").files
    damaged = Path(file.removeprefix("file://"))
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    with (
        pytest.raises(FunnelError, match=f"monitor {DAY}: table 'quarantine' is damaged: data file {damaged} with 1 "),
        recorded(context, "monitor", DateRange(DAY, DAY)) as run,
    ):
        context.warehouse.read_pinned(run.pin("quarantine"))
    (row,) = company.rows("runs")
    assert str(damaged) in row["message"]
