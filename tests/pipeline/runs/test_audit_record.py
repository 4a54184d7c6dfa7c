"""Findings are written to `audits` however the run ends, and `data_quality` counts them."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from pipeline.analyst.connection import connect
from pipeline.audits.findings import Finding
from pipeline.dates import DateRange
from pipeline.errors import AuditError
from pipeline.runs.record import recorded
from tests.support.company import Company
from tests.support.nights import record

DAY = date(2026, 3, 1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def finding(name: str, arguments: str, columns: str, *outcome: Any) -> Finding:
    return Finding("people", name, f"{name}({arguments})", columns, *outcome)


WARNS = finding("expect_column_max_to_be_between", "min_value=1", "age", "warning", "warning", "observed 0")
HOLDS = finding("expect_table_row_count_to_equal", "value=3", "", "critical", "ok")
STOPS = finding("expect_column_values_to_be_unique", "", "user_id", "critical", "failed", "observed 2 of 3")


class TestFindings:
    """One row a finding, besides the run's own."""

    def test_of_a_successful_run_are_written(self, company: Company) -> None:
        with recorded(company.context(run_id="night"), "score", DateRange(DAY - timedelta(days=2), DAY)) as run:
            run.record_findings([WARNS, HOLDS])
        rows = company.rows("audits", without=["checked_at"])
        assert [(row["ds"], row["run_id"]) for row in rows] == [(DAY, "night")] * 2
        assert {(row["columns"], row["severity"], row["status"], row["observed"]) for row in rows} == {
            ("age", "warning", "warning", "observed 0"),
            ("", "critical", "ok", None),
        }
        assert {row["warnings"] for row in company.rows("runs")} == {f"audit of people: {WARNS.line}"}
        topics = {row["warning_topics"] for row in company.rows("runs")}
        assert topics == {"people expect_column_max_to_be_between age"}

    def test_of_a_stopped_run_are_written(self, company: Company) -> None:
        told = r"^score 2026-03-01: audit of people failed: .*: observed 2 of 3; nothing was published$"
        with (
            pytest.raises(AuditError, match=told),
            recorded(company.context(), "score", DateRange(DAY, DAY)) as run,
        ):
            run.record_findings([HOLDS, STOPS, WARNS])
        assert sorted(row["status"] for row in company.rows("audits")) == ["failed", "ok", "warning"]
        assert [row["status"] for row in company.rows("runs")] == ["failed"]

    def test_that_cannot_be_written_hide_no_failure(self, company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
        context = company.context()
        written: list[str] = []

        def append(table: str, rows: Sequence[dict[str, Any]]) -> None:
            if table == "audits":
                raise OSError("the disk is full")
            written.append(table)

        monkeypatch.setattr(context.warehouse, "append", append)
        with (
            pytest.raises(AuditError, match="audit of people failed"),
            recorded(context, "score", DateRange(DAY, DAY)) as run,
        ):
            run.record_findings([STOPS])
        assert written == ["runs"]


def test_data_quality_counts_the_latest_of_everything(company: Company) -> None:
    record(company, DAY, "ingest", NOON, rows_in=999, status="failed", warnings="of a run that is not the latest")
    record(company, DAY, "ingest", NOON + timedelta(hours=1), rows_in=200, rows_out=150, duplicates=10, quarantined=40)
    record(company, DAY, "ingest", NOON + timedelta(hours=2), status="failed", message="no source")
    record(company, DAY, "score", NOON, warnings="first\nsecond")
    record(company, DAY + timedelta(days=1), "ingest", NOON, status="failed", warnings="third")
    row = {"ds": DAY, "run_id": "night", "columns": "", "expectation": "e", "severity": "critical"}
    states = [
        *(("events", 0, status) for status in ("failed", "failed", "ok")),
        *(("events", 1, status) for status in ("ok", "ok", "warning")),
        *(("user_scores", 0, status) for status in ("ok", "failed")),
    ]
    company.context().warehouse.append(
        "audits",
        [
            row | {"audited": audited, "checked_at": NOON + timedelta(hours=hours), "status": status}
            for audited, hours, status in states
        ],
    )
    with connect(company.settings, "data_quality") as connection:
        found = connection.sql("FROM data_quality ORDER BY ds")
        columns, rows = found.columns, found.fetchall()
    assert columns[:6] == ["ds", "rows_in", "rows_out", "duplicates", "quarantined", "quarantined_share"]
    assert columns[6:] == ["checks", "checks_warned", "checks_failed", "warnings"]
    assert rows == [
        (DAY, 200, 150, 10, 40, 0.2, 5, 1, 1, 2),
        (DAY + timedelta(days=1), None, None, None, None, None, 0, 0, 0, 1),
    ]
