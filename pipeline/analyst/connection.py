"""A DuckDB connection over the warehouse: tables and views as they are, or as they stood; without Spark or a JVM."""

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from pathlib import Path

import duckdb
import pyarrow as pa
from pyiceberg.io import InputFile

from pipeline.analyst.files import SCHEME, ReadOnlyFiles, lock, named_lists
from pipeline.config.settings import Settings, load
from pipeline.dates import parse_time
from pipeline.engines.views import all_views, with_dependencies
from pipeline.errors import FunnelError
from pipeline.stores import explain_store_error
from pipeline.warehouse.places import as_path
from pipeline.warehouse.schema import TIMESTAMP
from pipeline.warehouse.tables import all_tables
from pipeline.warehouse.warehouse import Pinned, Warehouse

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
    """A DuckDB connection with the warehouse's tables and views by name, in the funnel's time zone; it writes no file.

    Each table is pinned to one snapshot: later publishes do not show. Of other files, it can read those of the current
    folder: `FROM 'funnelcast://my list.csv'`. The caller closes the connection, for instance by `with connect(...) as
    connection`.

    Args:
        funnel: the configuration, or its file.
        query: open only what this text names, directly or through views; everything if it names nothing.
        at: read the tables as of this time; a text may be a date (its end) or a time in the funnel's zone.

    Raises:
        FunnelError: nothing had been committed by then, or it is no longer kept.
    """
    settings = funnel if isinstance(funnel, Settings) else load(Path(funnel))
    return connect_pinned(settings, query, at)[0]


def connect_pinned(
    settings: Settings, query: str | None, at: datetime | str | None
) -> tuple[duckdb.DuckDBPyConnection, list[Pinned]]:
    """The connection of `connect`, and the snapshots of the tables it opened."""
    if isinstance(at, str):
        at = parse_time(at, settings.zone, name="at")
    warehouse, views = Warehouse.of(settings, read_only=True), all_views(settings)
    with ExitStack() as on_error:
        connection = on_error.enter_context(duckdb.connect())
        connection.execute(f"SET TimeZone = '{settings.funnel.timezone}'")
        # Creating a view, planning and running a query each read every file's footer, unless footers are cached.
        connection.execute("SET parquet_metadata_cache = true")
        connection.execute("CREATE SCHEMA declared")
        names = list(with_dependencies(_names_in(query, [*warehouse.tables, *views]), views))
        pins = {name: warehouse.pin(name, at=at) for name in names if name in warehouse.tables}
        files = ReadOnlyFiles(dict(opened for pinned in pins.values() for opened in _openers(pinned)), Path.cwd())
        connection.register_filesystem(files)
        for name in names:
            if name in views:
                connection.execute(f'CREATE VIEW "{name}" AS {views[name].sql}')
            elif name in pins:
                _create_table(connection, pins[name])
        for name in named_lists(query, files):
            connection.execute(f"CREATE VIEW {_quote(name)} AS FROM {_literal(SCHEME + name)}")
        lock(connection)
        if at is not None and pins and not any(pinned.snapshot_id for pinned in pins.values()):
            _require_commits(warehouse, at)
        on_error.pop_all()
    return connection, list(pins.values())


def _openers(pinned: Pinned) -> Iterator[tuple[str, Callable[[], pa.NativeFile] | None]]:
    """A snapshot's files as DuckDB names them, and of those on another file system, what opens each."""
    for location in pinned.files:
        if path := as_path(location):
            yield str(path), None
        else:
            assert pinned.io is not None
            yield location, partial(_open_remote, pinned.io.new_input(location))


def _open_remote(file: InputFile) -> pa.NativeFile:
    try:
        return file.open()
    except OSError as error:
        raise explain_store_error(error) or error from None


def table_and_view_names(settings: Settings) -> tuple[list[str], list[str]]:
    """The tables and the views that a query can name."""
    return list(all_tables(settings)), list(all_views(settings))


def describe_unknown_name(name: str, settings: Settings) -> str:
    """The message for a table or view that does not exist: the closest names, then all of them."""
    tables, views = table_and_view_names(settings)
    close = difflib.get_close_matches(name, [*tables, *views], n=2)
    hint = f"; did you mean {' or '.join(close)}?" if close else "."
    return f"no table or view {name!r}{hint} Tables: {', '.join(tables)}. Views: {', '.join(views)}"


def _names_in(query: str | None, known: Sequence[str]) -> Sequence[str]:
    # DuckDB's own parser would need the columns first: USING asks for them.
    found = [name for name in known if query and re.search(rf"\b{name}\b", query, re.IGNORECASE)]
    # A query that names none may list them: SHOW TABLES.
    return found or known


def _require_commits(warehouse: Warehouse, at: datetime) -> None:
    oldest = warehouse.oldest_commit()
    if oldest is not None and at < oldest:
        readable = oldest.astimezone(at.tzinfo).isoformat(" ", "milliseconds")
        raise FunnelError(
            f"nothing had been committed by {at.isoformat(' ', 'seconds')}: the oldest time that can be read is "
            f"{readable}"
        )


def _create_table(connection: duckdb.DuckDBPyConnection, pinned: Pinned) -> None:
    # The configuration's columns: an empty table has them all, an older file that lacks one reads as null.
    declared = ", ".join(f'"{field.name}" {_duckdb_type(field.type)}' for field in pinned.schema)
    if not pinned.files:
        connection.execute(f'CREATE TABLE "{pinned.table}" ({declared})')
        return
    connection.execute(f'CREATE TABLE declared."{pinned.table}" ({declared})')
    columns = ", ".join(f'"{name}"' for name in pinned.schema.names)
    files = ", ".join(_literal(SCHEME + path) for path, _ in _openers(pinned))
    # The folders are called `_partition=…`; the column itself is in the files.
    scan = f"read_parquet([{files}], union_by_name = true, hive_partitioning = false)"
    rows = f'(FROM declared."{pinned.table}" UNION ALL BY NAME FROM {scan})'
    connection.execute(f'CREATE VIEW "{pinned.table}" AS SELECT {columns} FROM {rows}')


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _duckdb_type(kind: pa.DataType) -> str:
    # Spelt out: to scan even an empty Arrow table, DuckDB would import PyArrow's data sets and pandas.
    if pa.types.is_map(kind):
        return f"MAP({_duckdb_type(kind.key_type)}, {_duckdb_type(kind.item_type)})"
    return _DUCKDB_TYPES[kind]
