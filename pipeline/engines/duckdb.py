"""Runs the files of `sql/spark` on DuckDB, for what runs without Spark.

sqlglot translates them, so that an exposure, a label and a known user are each defined once.
"""

from functools import cache
from typing import Any

import duckdb

from pipeline.engines.templates import render


def run_locally(connection: duckdb.DuckDBPyConnection, name: str, **parameters: Any) -> duckdb.DuckDBPyRelation:
    """Run `sql/spark/<name>.sql` lazily over the connection's tables and views, in its time zone.

    Args:
        connection: has the tables or views that the file reads.

    Raises:
        jinja2.UndefinedError: the file uses a parameter that is not given.
    """
    return connection.sql(_translate(render(f"spark/{name}", **parameters)))


@cache
def _translate(text: str) -> str:
    import sqlglot

    (translated,) = sqlglot.transpile(text, read="spark", write="duckdb")
    return str(translated)
