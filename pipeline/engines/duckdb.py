"""The transformations in `sql/spark` on DuckDB, for what runs without Spark: the same text, in the other dialect.

sqlglot translates, so that what an exposure, a label or a known user is stays defined once.
"""

from functools import cache
from typing import Any

import duckdb

from pipeline.engines.templates import render


def run_locally(connection: duckdb.DuckDBPyConnection, name: str, **parameters: Any) -> duckdb.DuckDBPyRelation:
    """Run `sql/spark/<name>.sql` over the connection's tables and views, in its time zone; lazily, once read.

    Args:
        connection: has tables or views of the names that the file reads.

    Raises:
        jinja2.UndefinedError: the file uses a parameter that was not given.
    """
    return connection.sql(_for_duckdb(render(f"spark/{name}", **parameters)))


@cache
def _for_duckdb(text: str) -> str:
    import sqlglot

    (translated,) = sqlglot.transpile(text, read="spark", write="duckdb")
    return str(translated)
