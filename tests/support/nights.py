"""Nights put into a warehouse by hand: what reads them needs no Spark, nor do its tests."""

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.warehouse.warehouse import Warehouse
from tests.support.company import Company

STAGES = ("click", "register", "complete")


def put_file(warehouse: Warehouse, table: str, rows: pa.Table) -> str:
    """Write rows as one file where Spark would have put it; its address."""
    path = f"{warehouse.staging(table)}/{uuid.uuid4().hex}.parquet"
    found = warehouse._load(table)
    assert found is not None
    with found.io.new_output(path).create() as stream:
        pq.write_table(rows, stream)
    return path


def publish(
    company: Company,
    table: str,
    day: date,
    rows: Iterable[Mapping[str, Any]],
    summary: Mapping[str, str] | None = None,
) -> None:
    """Make these rows a table's partition; columns they do not name are null."""
    publish_with(company.context().warehouse, table, day, rows, summary)


def publish_with(
    warehouse: Warehouse,
    table: str,
    day: date,
    rows: Iterable[Mapping[str, Any]],
    summary: Mapping[str, str] | None = None,
) -> None:
    """`publish` by a warehouse that the test has opened itself."""
    column, schema = warehouse.tables[table].partition, warehouse.tables[table].schema
    file = put_file(warehouse, table, pa.Table.from_pylist([{**row, column: day} for row in rows], schema=schema))
    warehouse.publish(table, [file], first=day, last=day, summary=summary or {})


def publish_scores(
    company: Company,
    ds: date,
    scores: Mapping[str, float],
    *,
    run_id: str = "night",
    model: str = "model-1",
    scored_at: datetime = datetime(2026, 3, 2, 1, 30, tzinfo=UTC),
) -> None:
    """A night's scores: of each user the first stage's, each later stage's half of the one before it."""
    order = sorted(scores, key=lambda user: scores[user])
    rows = [
        {
            "user_id": user,
            "model_version": model,
            "run_id": run_id,
            "scored_at": scored_at,
            **{f"p_{stage}": p / 2**position for position, stage in enumerate(STAGES)},
            **{f"band_{stage}": 1 + 10 * order.index(user) // len(order) for stage in STAGES},
        }
        for user, p in scores.items()
    ]
    publish(company, "user_scores", ds, rows)


def record(company: Company, ds: date, stage: str, started_at: datetime, **changes: Any) -> None:
    """A row of `runs`: a stage that went well, but for the changes."""
    row = {
        "ds": ds,
        "run_id": "night",
        "stage": stage,
        "status": "ok",
        "rows_in": 0,
        "rows_out": 0,
        "duplicates": 0,
        "quarantined": 0,
        "seconds": 1.0,
        "started_at": started_at,
        "inputs": [],
        "warnings": "",
        "message": "",
    }
    company.context().warehouse.append("runs", [row | changes])


def publish_activity(company: Company, day: date, counts: Sequence[int]) -> None:
    """A day's messages and the events of each stage, all of one user."""
    rows = [
        {"user_id": "ann", "event": event, "event_date": day, "n": n}
        for event, n in zip(("exposure", *STAGES), counts, strict=True)
    ]
    publish(company, "activity", day, rows)


def call_before_connecting(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Act once, just before the next connection of DuckDB to a warehouse opens: another run is faster."""
    real = duckdb.connect

    def connect(*arguments: Any, **options: Any) -> duckdb.DuckDBPyConnection:
        monkeypatch.setattr("pipeline.analyst.connection.duckdb.connect", real)
        act()
        return real(*arguments, **options)

    monkeypatch.setattr("pipeline.analyst.connection.duckdb.connect", connect)
