"""The analysts' SQL: DuckDB over the tables as they are, or as they stood, and the views; without Spark or a JVM."""

import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa
from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipeline.analyst.read_only import lock, one_select
from pipeline.config.settings import Settings, load
from pipeline.dates import parse_time
from pipeline.engines.views import all_views, needed
from pipeline.errors import FunnelError
from pipeline.terminal import print_table
from pipeline.warehouse.schema import TIMESTAMP
from pipeline.warehouse.tables import all_tables
from pipeline.warehouse.warehouse import Pinned, Warehouse

Format = Literal["table", "csv", "parquet"]
MAX_ROWS_SHOWN = 1000
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


def connect(
    funnel: Settings | Path | str, query: str | None = None, *, at: datetime | str | None = None
) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with the warehouse's tables and views by their names, in the funnel's time zone.

    Each table is one snapshot, the current one: what is published later does not show.

    Args:
        funnel: the configuration, or its file.
        query: only what it names, directly or through views, is opened; everything if it names nothing.
        at: the tables as they stood then; a text may be a date, its end, or a time in the funnel's zone.

    Raises:
        FunnelError: nothing had been committed by then, or it is not kept any more.
    """
    settings = funnel if isinstance(funnel, Settings) else load(Path(funnel))
    return _open(settings, query, at)[0]


def query(
    settings: Settings,
    text: str,
    *,
    format: Format = "table",
    out: Path | None = None,
    at: datetime | str | None = None,
) -> None:
    """Run one query and print its result, or write it to a file.

    It can open the tables' files and those in the current folder, no others.

    Raises:
        FunnelError: the SQL is wrong or writes, or a Parquet result has no file to go to.
    """
    if format == "parquet" and out is None:
        raise FunnelError("a Parquet result needs a file: --out scores.parquet")
    try:
        connection, pins = _open(settings, text, at)
        select = one_select(connection, text)
        files = [path for pinned in pins for path in _paths(pinned)]
        lock(connection, files=files, folders=[str(Path.cwd()), *([str(out.resolve().parent)] if out else [])])
        result = connection.sql(select)
        if out is None and format == "table":
            _print_table(result)
        elif format == "parquet":
            result.write_parquet(str(out))
        else:
            _write_csv(result, out)
    except duckdb.Error as error:
        raise FunnelError(f"funnel sql: {_explained(error, settings)}") from None


def names(settings: Settings) -> tuple[list[str], list[str]]:
    """The tables and the views that a query can name."""
    return list(all_tables(settings)), list(all_views(settings))


def no_such_name(name: str, settings: Settings) -> str:
    """What to say of a table or view that there is not: the nearest, and which there are."""
    tables, views = names(settings)
    close = difflib.get_close_matches(name, [*tables, *views], n=2)
    hint = f"; did you mean {' or '.join(close)}?" if close else "."
    return f"no table or view {name!r}{hint} Tables: {', '.join(tables)}. Views: {', '.join(views)}"


def _open(
    settings: Settings, query: str | None, at: datetime | str | None
) -> tuple[duckdb.DuckDBPyConnection, list[Pinned]]:
    if isinstance(at, str):
        at = parse_time(at, settings.zone, name="at")
    warehouse, views = Warehouse.of(settings, read_only=True), all_views(settings)
    connection = duckdb.connect()
    connection.execute(f"SET TimeZone = '{settings.funnel.timezone}'")
    # Making a view, planning and running a query each look into every file: 93 ms for 120 files, 55 when they remember.
    connection.execute("SET parquet_metadata_cache = true")
    connection.execute("CREATE SCHEMA declared")
    pins = []
    for name in needed(_named(query, [*warehouse.tables, *views]), views):
        if name in views:
            connection.execute(f'CREATE VIEW "{name}" AS {views[name].sql}')
        elif name in warehouse.tables:
            pins.append(warehouse.pin(name, at=at))
            _create_table(connection, pins[-1])
    if at is not None and pins and not any(pinned.snapshot_id for pinned in pins):
        _require_commits(warehouse, at)
    return connection, pins


def _named(query: str | None, known: Sequence[str]) -> Sequence[str]:
    # DuckDB can name a query's tables only where it needs no columns of theirs; USING does.
    found = [name for name in known if query and re.search(rf"\b{name}\b", query, re.IGNORECASE)]
    # One that names none may ask which there are: SHOW TABLES.
    return found or known


def _require_commits(warehouse: Warehouse, at: datetime) -> None:
    oldest = warehouse.oldest_commit()
    if oldest is not None and at < oldest:
        told = oldest.astimezone(at.tzinfo).isoformat(" ", "milliseconds")
        raise FunnelError(
            f"nothing had been committed by {at.isoformat(' ', 'seconds')}: the oldest time that can be read is {told}"
        )


def _explained(error: duckdb.Error, settings: Settings) -> str:
    """DuckDB's message in one line, with the names that it or the warehouse suggests."""
    lines = str(error).strip().splitlines()
    unknown = re.search(r"Table with name (\S+) does not exist", lines[0])
    if unknown:
        return no_such_name(unknown[1], settings)
    if "file system operations are disabled" in lines[0]:
        return f"{lines[0].split(' - ')[0]}: it reads the warehouse and files in the current folder"
    return " ".join([lines[0], *(line for line in lines[1:] if line.startswith(("Candidate", "Did you mean")))])


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


def print_columns(settings: Settings, name: str) -> None:
    """Print the columns of a table or view and their types.

    Raises:
        FunnelError: there is none of the name.
    """
    if name not in [each for kind in names(settings) for each in kind]:
        raise FunnelError(no_such_name(name, settings))
    query(settings, f'SELECT column_name AS "column", column_type AS "type" FROM (DESCRIBE "{name}")')


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
    print_table(table)


def _create_table(connection: duckdb.DuckDBPyConnection, pinned: Pinned) -> None:
    # The configuration's columns: all there is of a table without files, and null where an older file lacks one.
    declared = ", ".join(f'"{field.name}" {_duckdb_type(field.type)}' for field in pinned.schema)
    if not pinned.files:
        connection.execute(f'CREATE TABLE "{pinned.table}" ({declared})')
        return
    connection.execute(f'CREATE TABLE declared."{pinned.table}" ({declared})')
    columns = ", ".join(f'"{name}"' for name in pinned.schema.names)
    files = ", ".join("'" + path.replace("'", "''") + "'" for path in _paths(pinned))
    # The folders are called `_partition=…`; the column itself is in the files.
    scan = f"read_parquet([{files}], union_by_name = true, hive_partitioning = false)"
    rows = f'(FROM declared."{pinned.table}" UNION ALL BY NAME FROM {scan})'
    connection.execute(f'CREATE VIEW "{pinned.table}" AS SELECT {columns} FROM {rows}')


def _paths(pinned: Pinned) -> Iterable[str]:
    return (path.removeprefix("file://") for path in pinned.files)


def _duckdb_type(kind: pa.DataType) -> str:
    # By name: an Arrow table that DuckDB scans, be it an empty one, makes it import PyArrow's data sets and pandas.
    if pa.types.is_map(kind):
        return f"MAP({_duckdb_type(kind.key_type)}, {_duckdb_type(kind.item_type)})"
    return _DUCKDB_TYPES[kind]


def print_views(settings: Settings) -> None:
    """Print every view and what one row of it is."""
    table = Table("view", "one row is", box=SIMPLE_HEAD)
    for view in all_views(settings).values():
        table.add_row(view.name, view.about)
    print_table(table)


def _print_table(result: duckdb.DuckDBPyRelation) -> None:
    table = Table(*result.columns, box=SIMPLE_HEAD)
    rows = result.limit(MAX_ROWS_SHOWN + 1).fetchall()
    for row in rows[:MAX_ROWS_SHOWN]:
        table.add_row(*("" if value is None else str(value) for value in row))
    print_table(table)
    if len(rows) > MAX_ROWS_SHOWN:
        print(f"the first {MAX_ROWS_SHOWN:,} rows; --format csv prints them all")
