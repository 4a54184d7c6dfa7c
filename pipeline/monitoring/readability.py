"""How much of the source's columns could be read, from the record of the ingests."""

from datetime import date
from typing import Any

import pyarrow as pa

from pipeline.audits.unreadable import ColumnRead

RECENT_DAYS = 7
"""The landing days up to its date that a model's baseline answers for."""


def sum_columns_read(runs: pa.Table) -> dict[str, ColumnRead]:
    """What the latest ingest of each landing day read of each column, added up over the days; by "users.age".

    Args:
        runs: rows of `runs`. Those of older versions know nothing of columns, and add nothing.
    """
    newest: dict[date, dict[str, Any]] = {}
    columns = ["ds", "stage", "status", "values_in", "unreadable", "unreadable_examples", "started_at"]
    for row in sorted(runs.select(columns).to_pylist(), key=lambda row: row["started_at"]):
        if row["stage"] == "ingest" and row["status"] == "ok":
            newest[row["ds"]] = row
    total: dict[str, ColumnRead] = {}
    for row in newest.values():
        values, lost, examples = (dict(row[name] or ()) for name in columns[3:6])
        for name, there in values.items():
            total[name] = total.get(name, ColumnRead()) + ColumnRead(
                values=there, unreadable=lost.get(name, 0), example=examples.get(name)
            )
    return total
