"""`funnel sql "SELECT …"`: run one read-only query and print its result, or write it to a file."""

import re
from datetime import datetime
from pathlib import Path
from typing import Literal

import duckdb

from pipeline.analyst.connection import connect_pinned, describe_unknown_name
from pipeline.analyst.files import SCHEME
from pipeline.analyst.read_only import parse_select
from pipeline.config.settings import Settings
from pipeline.errors import FunnelError
from pipeline.terminal import TextTable

Format = Literal["table", "csv", "parquet"]
MAX_ROWS_SHOWN = 1000


def run_query(
    settings: Settings,
    text: str,
    *,
    format: Format = "table",
    out: Path | None = None,
    at: datetime | str | None = None,
) -> None:
    """Run one query and print its result, or write it to a file.

    It can open the tables' files and files in the current folder, no others.

    Raises:
        FunnelError: the SQL is wrong or writes, or a Parquet result has no file to go to.
    """
    if format == "parquet" and out is None:
        raise FunnelError("a Parquet result needs a file: --out scores.parquet")
    try:
        with connect_pinned(settings, text, at)[0] as connection:
            connection.execute("SET lock_configuration = true")
            result = connection.sql(parse_select(connection, text))
            if out is None and format == "table":
                _print_rows(result)
            elif out is not None and format == "parquet":
                # Imported late: a table needs none of what these import.
                from pipeline.analyst.parquet_output import write_parquet

                write_parquet(result, out)
            else:
                from pipeline.analyst.csv_output import write_csv

                write_csv(result, out)
    except duckdb.Error as error:
        raise FunnelError(f"funnel sql: {_explain(error, settings)}") from None


def _explain(error: duckdb.Error, settings: Settings) -> str:
    """DuckDB's message in one line, with the names that DuckDB or the warehouse suggests."""
    lines = str(error).strip().splitlines()
    unknown = re.search(r"Table with name (\S+) does not exist", lines[0])
    if unknown:
        return describe_unknown_name(unknown[1], settings)
    if "file system operations are disabled" in lines[0]:
        return (
            f"{lines[0].split(' - ')[0]}: it reads the warehouse and files in the current folder, FROM 'list.csv' or "
            f"read_csv('{SCHEME}list.csv')"
        )
    return " ".join([lines[0], *(line for line in lines[1:] if line.startswith(("Candidate", "Did you mean")))])


def _print_rows(result: duckdb.DuckDBPyRelation) -> None:
    table = TextTable(*result.columns)
    shown = result.limit(MAX_ROWS_SHOWN + 1)
    try:
        rows = shown.fetchall()
    except (OverflowError, ValueError):
        # DuckDB knows times that Python does not, such as one of the year 1 in a zone west of Greenwich.
        rows = shown.project("COLUMNS(*)::VARCHAR").fetchall()
    for row in rows[:MAX_ROWS_SHOWN]:
        table.add_row(*("(null)" if value is None else str(value) for value in row))
    table.print()
    if len(rows) > MAX_ROWS_SHOWN:
        print(f"the first {MAX_ROWS_SHOWN:,} rows; --format csv prints them all")
