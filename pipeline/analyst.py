"""The analysts' SQL: DuckDB over the tables' current snapshots, without Spark or a JVM."""

import re
import sys
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa
from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipeline.config import Settings
from pipeline.errors import FunnelError
from pipeline.progress import show
from pipeline.tables import TIMESTAMP
from pipeline.warehouse import Pinned, Warehouse

MAX_ROWS_SHOWN = 1000
_READING = ([duckdb.StatementType.SELECT], [duckdb.StatementType.EXPLAIN])
_PLAIN = {"boolean", "tinyint", "smallint", "integer", "bigint", "hugeint", "float", "double", "decimal", "varchar"}
"""DuckDB types that CSV shows as they are."""
_DUCKDB_TYPES = {
    pa.string(): "VARCHAR",
    pa.bool_(): "BOOLEAN",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
    pa.date32(): "DATE",
    TIMESTAMP: "TIMESTAMPTZ",
}


def connect(settings: Settings, query: str | None = None) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with a view of each table's current snapshot, in the funnel's time zone.

    Args:
        query: only the tables it names are opened; all of them without one.
    """
    warehouse = Warehouse.of(settings, read_only=True)
    connection = duckdb.connect()
    connection.execute(f"SET TimeZone = '{settings.funnel.timezone}'")
    # Making a view, planning and running a query each look into every file: 93 ms for 120 files, 55 when they remember.
    connection.execute("SET parquet_metadata_cache = true")
    for name in warehouse.tables:
        # DuckDB can name a query's tables only where it needs no columns of theirs; USING does.
        if query is None or re.search(rf"\b{name}\b", query, re.IGNORECASE):
            _create_view(connection, warehouse.pin(name))
    return connection


def query(
    settings: Settings,
    text: str,
    *,
    format: Literal["table", "csv", "parquet"] = "table",
    out: Path | None = None,
) -> None:
    """Run one query and print its result, or write it to a file.

    Raises:
        FunnelError: the SQL is wrong, or a Parquet result has no file to go to.
    """
    if format == "parquet" and out is None:
        raise FunnelError("a Parquet result needs a file: --out scores.parquet")
    try:
        connection = connect(settings, text)
        if [statement.type for statement in connection.extract_statements(text)] not in _READING:
            raise FunnelError("funnel sql takes one SELECT")
        result = connection.sql(text)
        if out is None and format == "table":
            _print_table(result)
        elif format == "parquet":
            result.write_parquet(str(out))
        else:
            _write_csv(result, out)
    except duckdb.Error as error:
        raise FunnelError(f"funnel sql: {str(error).strip().splitlines()[0]}") from None


def _write_csv(result: duckdb.DuckDBPyRelation, out: Path | None) -> None:
    import pyarrow.csv

    if out is not None:
        result.write_csv(str(out), header=True)
        return
    # Arrow's writer knows neither maps nor lists, and would print times in UTC.
    columns = (
        f'#{position}{"" if kind.id in _PLAIN else "::VARCHAR"} AS "{name.replace(chr(34), chr(34) * 2)}"'
        for position, (name, kind) in enumerate(zip(result.columns, result.types, strict=True), start=1)
    )
    rows = result.project(", ".join(columns)).to_arrow_reader()
    with pyarrow.csv.CSVWriter(sys.stdout.buffer, rows.schema) as writer:
        for batch in rows:
            writer.write_batch(batch)


def print_tables(settings: Settings) -> None:
    """Print every table that holds rows."""
    table = Table("table", "rows", "files", "partitions", "newest", "snapshot", "committed", box=SIMPLE_HEAD)
    for state in Warehouse.of(settings, read_only=True).states():
        table.add_row(
            state.name,
            f"{state.rows:,}",
            str(state.files),
            str(state.partitions),
            state.newest,
            str(state.snapshot_id),
            f"{state.committed_at:%Y-%m-%d %H:%M:%S}",
        )
    show(table)


def _create_view(connection: duckdb.DuckDBPyConnection, pinned: Pinned) -> None:
    # The configuration's columns: all there is of a table without files, and null where an older file lacks one.
    declared = ", ".join(f'"{field.name}" {_duckdb_type(field.type)}' for field in pinned.schema)
    if not pinned.files:
        connection.execute(f'CREATE TABLE "{pinned.table}" ({declared})')
        return
    connection.execute(f'CREATE TABLE "_{pinned.table}" ({declared})')
    columns = ", ".join(f'"{name}"' for name in pinned.schema.names)
    files = ", ".join("'" + path.removeprefix("file://").replace("'", "''") + "'" for path in pinned.files)
    # The folders are called `_partition=…`; the column itself is in the files.
    scan = f"read_parquet([{files}], union_by_name = true, hive_partitioning = false)"
    rows = f'(FROM "_{pinned.table}" UNION ALL BY NAME FROM {scan})'
    connection.execute(f'CREATE VIEW "{pinned.table}" AS SELECT {columns} FROM {rows}')


def _duckdb_type(kind: pa.DataType) -> str:
    # By name: an Arrow table that DuckDB scans, be it an empty one, makes it import PyArrow's data sets and pandas.
    if pa.types.is_map(kind):
        return f"MAP({_duckdb_type(kind.key_type)}, {_duckdb_type(kind.item_type)})"
    return _DUCKDB_TYPES[kind]


def _print_table(result: duckdb.DuckDBPyRelation) -> None:
    table = Table(*result.columns, box=SIMPLE_HEAD)
    rows = result.limit(MAX_ROWS_SHOWN + 1).fetchall()
    for row in rows[:MAX_ROWS_SHOWN]:
        table.add_row(*("" if value is None else str(value) for value in row))
    show(table)
    if len(rows) > MAX_ROWS_SHOWN:
        print(f"the first {MAX_ROWS_SHOWN:,} rows; --format csv prints them all")
