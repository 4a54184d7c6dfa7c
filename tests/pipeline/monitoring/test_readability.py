"""Lost values in `metrics`, and what training says of a baseline that would hide them."""

from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest

from pipeline.audits.unreadable import ColumnRead, audit_columns
from pipeline.config.sections import Threshold
from pipeline.monitoring.monitor import measure_columns
from pipeline.monitoring.readability import sum_columns_read
from pipeline.monitoring.thresholds import find_breach
from pipeline.training.records import find_blind_spots
from tests.support.company import Company
from tests.support.nights import record

DS = date(2026, 3, 2)
STARTED = datetime(2026, 3, 3, 1, tzinfo=UTC)
LOST = {"values_in": [("users.age", 10)], "unreadable": [("users.age", 4)], "unreadable_examples": [("users.age", "x")]}


def test_the_newest_ingest_of_each_day_counts(company: Company) -> None:
    record(company, DS - timedelta(days=1), "ingest", STARTED, values_in=[("users.age", 10)])
    record(company, DS, "ingest", STARTED, values_in=[("users.age", 99)])
    record(company, DS, "ingest", STARTED + timedelta(hours=1), **LOST)
    record(company, DS, "ingest", STARTED + timedelta(hours=2), status="failed", values_in=[("users.age", 1)])
    record(company, DS, "score", STARTED + timedelta(hours=3))
    runs = company.context().warehouse.arrow("runs", first=date.min, last=DS)
    read = sum_columns_read(runs)
    assert read == {"users.age": ColumnRead(values=20, unreadable=4, example="x")}
    (measured,) = measure_columns(read)
    assert (measured.name, measured.feature, measured.value) == ("unreadable_share", "users.age", 0.2)
    assert str(find_breach(measured, {"unreadable_share": Threshold(warn=0.1)})) == (
        "share of the values of users.age that could not be read 0.2 > 0.1 (4 of 20, such as 'x')"
    )


def test_a_run_of_an_older_version_knows_of_no_columns(company: Company) -> None:
    record(company, DS, "ingest", STARTED)
    assert sum_columns_read(company.context().warehouse.arrow("runs", first=DS, last=DS)) == {}


def test_training_tells_of_attributes_whose_drift_a_baseline_would_hide(company: Company) -> None:
    record(company, DS, "ingest", STARTED, **LOST)
    sample = pa.table({"city_tier": pa.nulls(3, pa.string()), "age": pa.array([30.0, None, None])})
    tier, age = (warning.line for warning in find_blind_spots(company.context(), DS, sample))
    assert tier.startswith("city_tier: none of the 3 users has a value")
    assert age.startswith("age: 4 of 10 values of the last 7 landing days could not be read, such as 'x'")
    sound = pa.table({"city_tier": ["1"], "age": [30.0]})
    assert find_blind_spots(company.context(), DS - timedelta(days=1), sound) == []


@pytest.mark.parametrize(
    ("column", "status"),
    [
        (ColumnRead(values=10, landed=10), "ok"),
        (ColumnRead(values=10, unreadable=1, landed=10, landed_unreadable=1, example="x"), "warning"),
        (ColumnRead(values=10, unreadable=6, landed=10, landed_unreadable=6, example="x"), "failed"),
        # Rejected rows are the quarantine's.
        (ColumnRead(values=10, unreadable=6, landed=4, landed_unreadable=0, example="x"), "warning"),
    ],
)
def test_a_column_warns_above_none_and_stops_above_its_share(column: ColumnRead, status: str) -> None:
    read = {DS: {"age": column}, DS - timedelta(days=1): {"age": ColumnRead(values=100, landed=100)}}
    (finding,) = audit_columns(
        read, audited="users", faults={"age": ("no number", "they count as missing")}, max_share=0.5
    )
    assert (finding.status, finding.columns) == (status, "age")
    if status != "ok":
        assert f"age: {column.unreadable} of 110 values are no number, such as 'x' on 1 of 2 days" in finding.line
    assert ("audit.max_unreadable_share = 0.5 on 2026-03-02" in finding.line) == (status == "failed")
